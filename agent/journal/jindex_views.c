/* Views in the index half: opened, switched to shorter read sets, converted when
 * promotion is to pass them (datapath.md 3.6), discarded.  See jindex.h. */
#include "journal/jindex_internal.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>

#define VIEW_ROOM \
 (32 * KIB) /* of the files of a volume, before it is written */

static void convert_go(struct jindex *ix);
static void discard_go(struct jindex *ix);

/* --- conversion of views ------------------------------------------------------------- */

uint64_t
jindex_lowest_pin(const struct jindex *ix)
{
    uint64_t low = UINT64_MAX;
    struct list *l;

    list_for_each (l, &ix->views) {
        struct journal_view *v = view_of_link(l);
        const struct view_record *rec = view_record(v);

        if (!view_is_broken(v) && rec->base_seq == 0)
            low = MIN(low, rec->point.seq);
    }
    list_for_each (l, &ix->opening) {
        const struct view_open *vo = list_entry(l, struct view_open, link);

        if (vo->rec.base_seq == 0)
            low = MIN(low, vo->rec.point.seq);
    }
    return low;
}

static bool
being_discarded(const struct jindex *ix, const struct journal_view *v)
{
    struct list *l;

    list_for_each (l, &ix->discarding)
        if (list_entry(l, struct view_discard, link)->v == v)
            return true;
    return false;
}

static struct journal_view *
next_to_convert(const struct jindex *ix)
{
    struct list *l;

    list_for_each (l, &ix->views) {
        struct journal_view *v = view_of_link(l);
        const struct view_record *rec = view_record(v);

        if (!view_is_broken(v) && rec->point.seq < ix->conv.to &&
            rec->base_seq < ix->conv.to && !being_discarded(ix, v))
            return v;
    }
    return NULL;
}

static void
convert_end(struct jindex *ix, int res)
{
    struct converting *cv = &ix->conv;

    if (res < 0 && cv->err.num < 0)
        jindex_alert(ix, &cv->err);
    /* From now on no view opens below; one that began to open while others
     * were converted was converted with them. */
    if (res == 0)
        ix->view_fence = MAX(ix->view_fence, cv->to);
    read_set_unref(cv->set);
    cv->set = NULL;
    cv->active = false;
    jindex_busy_end(ix);
    cv->done(cv->arg, res);
}

static void
convert_break(struct jindex *ix, const struct err *why)
{
    struct journal_view *v = ix->conv.v;

    view_break(v, why);
    view_switch(v, NULL);
    ix->conv.v = NULL;
    discard_go(ix);
    convert_go(ix);
}

static void
convert_drained(void *arg)
{
    struct jindex *ix = arg;

    ix->conv.v = NULL;
    discard_go(ix);
    convert_go(ix);
}

static void
base_recorded(void *arg, int res)
{
    struct jindex *ix = arg;
    struct converting *cv = &ix->conv;

    if (res < 0) {
        struct err e;

        err_set(&e, res, ERR_JNL_0056, "its conversion cannot be recorded: %s",
                err_errno(res));
        convert_break(ix, &e);
        return;
    }
    view_record(cv->v)->base_seq = cv->to;
    view_switch(cv->v, NULL);
    /* What was begun on the old set may still read the replica below runs that
     * do not cover what is about to change. */
    view_drain(cv->v, false, convert_drained, ix);
}

static void
view_converted(void *arg, int res, const struct err *err)
{
    struct jindex *ix = arg;
    struct converting *cv = &ix->conv;
    struct jindex_record r = { .kind = JINDEX_VIEW_BASE, .u.view = &cv->rec };

    if (res < 0) {
        convert_break(ix, err);
        return;
    }
    cv->rec = *view_record(cv->v);
    cv->rec.base_seq = cv->to;
    ix->cfg.ops.record(ix->cfg.ops.arg, &r, base_recorded, ix);
}

static void
convert_set_job(struct io_work *w)
{
    struct jindex *ix = container_of(w, struct jindex, conv.work);
    struct converting *cv = &ix->conv;

    cv->res = read_set_build(runset_config(ix->rs), ix->promoted, cv->to,
                             cv->plan, cv->n_plan, &cv->set, &cv->err);
}

static void
convert_set_done(struct io_work *w)
{
    struct jindex *ix = container_of(w, struct jindex, conv.work);
    struct converting *cv = &ix->conv;

    runset_unhold(ix->rs, cv->hold);
    table_plans_free(cv->plan, cv->n_plan);
    cv->plan = NULL;
    if (cv->res == 0)
        read_set_register(cv->set, ix->rs);
    if (cv->res < 0)
        convert_end(ix, cv->res);
    else
        convert_go(ix);
}

static void
convert_go(struct jindex *ix)
{
    struct converting *cv = &ix->conv;
    int rc;

    if (!cv->active || cv->v || cv->plan || !list_empty(&ix->opening))
        return;
    cv->v = next_to_convert(ix);
    if (!cv->v || ix->closing) {
        cv->v = NULL;
        convert_end(ix, ix->closing ? -ECANCELED : 0);
        return;
    }
    if (cv->set) {
        view_convert(cv->v, cv->set, view_converted, ix);
        return;
    }
    cv->v = NULL;
    rc = jindex_plan_set(ix, ix->promoted, cv->to, &cv->plan, &cv->n_plan,
                         &cv->hold);
    if (rc < 0) {
        convert_end(ix, rc);
        return;
    }
    cv->work.run = convert_set_job;
    cv->work.done = convert_set_done;
    io_work_submit(ix->cfg.loop, &cv->work);
}

static void
convert_start(void *arg, int res)
{
    UNUSED(res);
    convert_go(arg);
}

void
jindex_convert(struct jindex *ix, uint64_t to_seq,
               void (*done)(void *arg, int res), void *arg)
{
    assert(!ix->conv.active && !ix->closing);
    ix->conv = (struct converting){
        .active = true, .to = to_seq, .done = done, .arg = arg
    };
    ix->conv.err = (struct err)ERR_INIT;
    ix->busy++;
    jindex_later(ix, convert_start, ix, 0);
}

/* --- views move to shorter sets --------------------------------------------------------- */

static struct journal_view *
next_to_switch(const struct jindex *ix)
{
    struct list *l;

    list_for_each (l, &ix->views) {
        struct journal_view *v = view_of_link(l);
        const struct read_set *set = view_set(v);

        if (set && set->after_seq < ix->promoted &&
            set->upto_seq >= ix->promoted && !being_discarded(ix, v))
            return v;
    }
    return NULL;
}

static void
switch_job(struct io_work *w)
{
    struct jindex *ix = container_of(w, struct jindex, sw.work);
    struct switching *sw = &ix->sw;

    sw->res = read_set_build(runset_config(ix->rs), sw->after, sw->upto,
                             sw->plan, sw->n_plan, &sw->set, &sw->err);
}

static void
switch_done(struct io_work *w)
{
    struct jindex *ix = container_of(w, struct jindex, sw.work);
    struct switching *sw = &ix->sw;
    struct journal_view *v = sw->v;

    runset_unhold(ix->rs, sw->hold);
    table_plans_free(sw->plan, sw->n_plan);
    sw->v = NULL;
    if (sw->res < 0) {
        /* The old set stays in use and keeps its segments. */
        jindex_alert(ix, &sw->err);
    } else {
        read_set_register(sw->set, ix->rs);
        if (view_set(v))
            view_switch(v, sw->set);
        else
            read_set_unref(sw->set); /* based meanwhile */
        jindex_switch_views(ix);
    }
    discard_go(ix);
    jindex_busy_end(ix);
}

void
jindex_switch_views(struct jindex *ix)
{
    struct switching *sw = &ix->sw;

    if (sw->v || ix->closing)
        return;
    sw->v = next_to_switch(ix);
    if (!sw->v)
        return;
    sw->after = ix->promoted;
    sw->upto = view_set(sw->v)->upto_seq;
    sw->set = NULL;
    sw->err = (struct err)ERR_INIT;
    if (jindex_plan_set(ix, sw->after, sw->upto, &sw->plan, &sw->n_plan,
                        &sw->hold) < 0) {
        sw->v = NULL; /* tried again after the next promotion */
        return;
    }
    sw->work.run = switch_job;
    sw->work.done = switch_done;
    ix->busy++;
    io_work_submit(ix->cfg.loop, &sw->work);
}

/* --- views open ----------------------------------------------------------------------------- */

static void
open_end(struct view_open *vo)
{
    struct jindex *ix = vo->ix;

    list_del(&vo->link);
    if (vo->v)
        list_push_back(&ix->views, view_link(vo->v));
    jindex_switch_views(ix);
    convert_go(ix);
    jindex_busy_end(ix);
    vo->opened(vo->arg, vo->v, vo->res, &vo->err);
    free(vo);
}

static void
pin_recorded(void *arg, int res)
{
    struct view_open *vo = arg;

    if (res < 0) {
        vo->res = err_set(&vo->err, res, ERR_JNL_0060,
                          "the view cannot be recorded: %s", err_errno(res));
        view_free(vo->v);
        vo->v = NULL;
        view_remove_files(&vo->ix->env, &vo->rec);
    }
    open_end(vo);
}

static int
open_prepare(struct view_open *vo)
{
    return view_prepare(&vo->ix->env, &vo->rec, !vo->loaded,
                        vo->set ? read_set_ref(vo->set) : NULL, &vo->v,
                        &vo->err);
}

static void
open_job(struct io_work *w)
{
    struct view_open *vo = container_of(w, struct view_open, work);
    const struct jindex_ops *ops = &vo->ix->cfg.ops;
    const struct runset_config *rc = runset_config(vo->ix->rs);

    if (vo->rec.base_seq == 0)
        vo->res = read_set_build(rc, vo->after, vo->rec.point.seq, vo->plan,
                                 vo->n_plan, &vo->set, &vo->err);
    if (vo->res == 0)
        vo->res = open_prepare(vo);
    /* When the store is full is not the moment to have no view of the last good
     * point: what its files take at first is little. */
    if ((vo->res == -ENOSPC || vo->res == -EDQUOT) && !vo->loaded &&
        ops->room && ops->room(ops->arg, vo->rec.cfg.n_vols * VIEW_ROOM))
        vo->res = open_prepare(vo);
}

static void
open_done(struct io_work *w)
{
    struct view_open *vo = container_of(w, struct view_open, work);
    struct jindex *ix = vo->ix;
    struct jindex_record r = { .kind = JINDEX_PIN_ADD, .u.view = &vo->rec };

    runset_unhold(ix->rs, vo->hold);
    table_plans_free(vo->plan, vo->n_plan);
    if (vo->set) {
        read_set_register(vo->set, ix->rs);
        read_set_unref(vo->set);
    }
    if (vo->res < 0 && vo->loaded)
        vo->v = view_new_broken(&ix->env, &vo->rec, &vo->err);
    if (vo->res < 0 || vo->loaded)
        open_end(vo);
    else
        ix->cfg.ops.record(ix->cfg.ops.arg, &r, pin_recorded, vo);
}

static void
open_refused(void *arg, int res)
{
    struct view_open *vo = arg;

    UNUSED(res);
    if (vo->loaded)
        vo->v = view_new_broken(&vo->ix->env, &vo->rec, &vo->err);
    open_end(vo);
}

static bool
view_known(const struct jindex *ix, const struct view_id *id)
{
    struct list *l;

    list_for_each (l, &ix->views)
        if (uuid_equal(&view_record(view_of_link(l))->cfg.id.u, &id->u))
            return true;
    list_for_each (l, &ix->opening)
        if (uuid_equal(&list_entry(l, struct view_open, link)->rec.cfg.id.u,
                       &id->u))
            return true;
    return false;
}

static int
open_check(struct jindex *ix, struct view_open *vo)
{
    struct journal_view_config *c = &vo->rec.cfg;
    uint64_t seq = vo->rec.point.seq;
    char id[UUID_TEXT_SIZE];

    uuid_format(&c->id.u, id);
    if (ix->closing)
        return err_set(&vo->err, -ECANCELED, ERR_JNL_0060,
                       "view %s: the journal is closing", id);
    if (view_known(ix, &c->id))
        return err_set(&vo->err, -EEXIST, ERR_JNL_0060,
                       "view %s is open already", id);
    if (vo->rec.base_seq
            ? vo->rec.base_seq < ix->promoted
            : seq < (vo->loaded ? ix->promoted : MAX(ix->fence, ix->view_fence)))
        return err_set(&vo->err, -ENOENT, ERR_JNL_0060,
                       "view %s: position %" PRIu64 " has just left the history",
                       id, seq);
    /* One of before the restart; points in a hole are not offered. */
    for (size_t i = 0; i < ix->n_holes && vo->loaded && !vo->rec.base_seq; i++)
        if (seq > ix->holes[i].from && seq < ix->holes[i].until)
            return err_set(&vo->err, -EBADMSG, ERR_JNL_0020,
                           "view %s: position %" PRIu64
                           " lies behind damage of the journal",
                           id, seq);
    if (c->n_vols == 0)
        for (unsigned i = 0; i < ix->cfg.n_volumes; i++)
            c->vols[c->n_vols++] = ix->vols[i].vol;
    for (unsigned i = 0; i < c->n_vols; i++)
        if (c->n_vols > LANE_VOLUMES_MAX ||
            replica_volume_size(ix->replica, c->vols[i]) == 0)
            return err_set(&vo->err, -EINVAL, ERR_JNL_0060,
                           "view %s: there is no volume %u", id, c->vols[i]);
    return 0;
}

void
jindex_open_begin(struct jindex *ix, struct view_open *vo)
{
    ix->busy++;
    vo->ix = ix;
    vo->hold = UINT32_MAX;
    vo->after = ix->promoted;
    vo->res = open_check(ix, vo);
    list_push_back(&ix->opening, &vo->link);
    if (vo->res == 0) {
        vo->res =
            jindex_plan_set(ix, vo->after,
                            vo->rec.base_seq ? vo->after : vo->rec.point.seq,
                            &vo->plan, &vo->n_plan, &vo->hold);
        if (vo->res < 0)
            err_set(&vo->err, vo->res, ERR_JNL_0060,
                    "the view cannot be planned: %s", err_errno(vo->res));
    }
    if (vo->res < 0) {
        jindex_later(ix, open_refused, vo, vo->res);
        return;
    }
    vo->work.run = open_job;
    vo->work.done = open_done;
    io_work_submit(ix->cfg.loop, &vo->work);
}

void
jindex_view_open(struct jindex *ix, const struct journal_view_config *cfg,
                 const struct journal_point *point,
                 void (*opened)(void *arg, struct journal_view *v, int res,
                                const struct err *err),
                 void *arg)
{
    struct view_open *vo = calloc(1, sizeof *vo);

    if (!vo) {
        struct err err = ERR_INIT;

        err_set(&err, -ENOMEM, ERR_GEN_0002, "no memory for a view");
        opened(arg, NULL, -ENOMEM, &err);
        return;
    }
    vo->rec.cfg = *cfg;
    vo->rec.point = *point;
    vo->opened = opened;
    vo->arg = arg;
    jindex_open_begin(ix, vo);
}

size_t
jindex_views(struct jindex *ix, struct journal_view **out, size_t max)
{
    struct list *l;
    size_t n = 0;

    list_for_each (l, &ix->views) {
        if (n == max)
            break;
        out[n++] = view_of_link(l);
    }
    return n;
}

/* --- and go ------------------------------------------------------------------------------------ */

static void
remove_files_job(struct io_work *w)
{
    struct view_discard *vd = container_of(w, struct view_discard, work);

    view_remove_files(&vd->ix->env, &vd->rec);
}

static void
remove_files_done(struct io_work *w)
{
    struct view_discard *vd = container_of(w, struct view_discard, work);

    jindex_busy_end(vd->ix);
    vd->closed(vd->arg);
    free(vd);
}

static void
pin_removed(void *arg, int res)
{
    struct view_discard *vd = arg;

    /* Not recorded: it comes back after a restart and can be discarded then. */
    if (res < 0) {
        struct err e;

        err_set(&e, res, ERR_JNL_0060,
                "the end of a view cannot be recorded: %s", err_errno(res));
        jindex_alert(vd->ix, &e);
    }
    view_free(vd->v);
    vd->work.run = remove_files_job;
    vd->work.done = remove_files_done;
    io_work_submit(vd->ix->cfg.loop, &vd->work);
}

static void
discard_drained(void *arg)
{
    struct view_discard *vd = arg;
    struct jindex_record r = { .kind = JINDEX_PIN_DEL, .u.view = &vd->rec };

    vd->ix->cfg.ops.record(vd->ix->cfg.ops.arg, &r, pin_removed, vd);
}

/* Those that neither a conversion nor a switch is at work on. */
static void
discard_go(struct jindex *ix)
{
    struct list *l, *tmp;

    list_for_each_safe (l, tmp, &ix->discarding) {
        struct view_discard *vd = list_entry(l, struct view_discard, link);

        if (vd->v == ix->conv.v || vd->v == ix->sw.v)
            continue;
        list_del(l);
        list_del(view_link(vd->v));
        view_drain(vd->v, true, discard_drained, vd);
    }
}

void
jindex_view_discard(struct jindex *ix, struct journal_view *v,
                    void (*closed)(void *arg), void *arg)
{
    struct view_discard *vd = calloc(1, sizeof *vd);

    if (!vd) {
        struct err e;

        err_set(&e, -ENOMEM, ERR_GEN_0002, "no memory to discard a view");
        jindex_alert(ix, &e);
        closed(arg);
        return;
    }
    *vd = (struct view_discard){
        .ix = ix, .v = v, .rec = *view_record(v), .closed = closed, .arg = arg
    };
    ix->busy++;
    list_push_back(&ix->discarding, &vd->link);
    discard_go(ix);
}
