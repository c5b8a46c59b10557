/* The index half of a journal: see jindex.h.
 *
 * Everything here is on the loop's thread and hands work to the pool.  One run
 * is built at a time, one promotion and one conversion go on at a time; views
 * open and switch as they come.  ix->busy counts what must end before close.
 */
#include "journal/jindex_internal.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/crc32c.h"

enum {
    MERGE_FAN = 8,
    FILES_MAX = 1 << 20,
};
#define BUILD_RETRY_NS (5 * NSEC_PER_SEC)

/* A call of a completion that must not happen inside the request. */
struct later {
    struct io_task task;
    void (*done)(void *arg, int res);
    void *arg;
    int res;
};

static void build_kick(struct jindex *ix);
static void promote_go(struct jindex *ix);
static void view_next_start(struct jindex *ix);

static void
run_later(struct io_task *t)
{
    struct later *l = container_of(t, struct later, task);

    l->done(l->arg, l->res);
    free(l);
}

void
jindex_later(struct jindex *ix, void (*done)(void *arg, int res), void *arg,
             int res)
{
    struct later *l = calloc(1, sizeof *l);

    if (!l) {
        done(arg, res);
        return;
    }
    io_task_init(&l->task, run_later);
    l->done = done;
    l->arg = arg;
    l->res = res;
    io_defer(ix->cfg.loop, &l->task);
}

void
jindex_alert(struct jindex *ix, const struct err *err)
{
    ix->cfg.ops.alert(ix->cfg.ops.arg, err);
}

void
jindex_busy_end(struct jindex *ix)
{
    ix->busy--;
    io_defer(ix->cfg.loop, &ix->tick);
}

/* --- life -------------------------------------------------------------------- */

static void
finish_close(struct jindex *ix)
{
    void (*closed)(void *arg) = ix->closed;
    void *arg = ix->closed_arg;
    struct list *l;

    while ((l = list_pop_front(&ix->loaded)))
        free(list_entry(l, struct loaded_view, link));
    io_task_cancel(&ix->tick);
    io_timer_stop(&ix->build.retry);
    replica_close(ix->replica);
    runset_free(ix->rs);
    free(ix->dir);
    free(ix);
    closed(arg);
}

/* Something ended: is there more to do, or nothing left? */
static void
tick(struct io_task *t)
{
    struct jindex *ix = container_of(t, struct jindex, tick);
    struct list *l;

    if (!ix->closing) {
        build_kick(ix);
        return;
    }
    if (ix->busy > 0 || !list_empty(&ix->syncs))
        return;
    while ((l = list_pop_front(&ix->views)))
        view_free(view_of_link(l));
    if (!runset_idle(ix->rs))
        return; /* the last read set's end comes back here */
    finish_close(ix);
}

static void
set_released(void *arg)
{
    struct jindex *ix = arg;

    if (ix->closing)
        io_defer(ix->cfg.loop, &ix->tick);
    else
        ix->cfg.ops.released(ix->cfg.ops.arg);
}

static void
build_retry(struct io_timer *t)
{
    build_kick(container_of(t, struct jindex, build.retry));
}

int
jindex_new(const struct jindex_config *cfg, struct jindex **out, struct err *err)
{
    struct jindex *ix = calloc(1, sizeof *ix);
    struct runset_config rc = { .loop = cfg->loop,
                                .dir = cfg->dir,
                                .vpg = cfg->vpg,
                                .lane = cfg->lane,
                                .fan =
                                    cfg->merge_fan ? cfg->merge_fan : MERGE_FAN,
                                .seg = cfg->seg,
                                .released = set_released,
                                .arg = ix };
    int res;

    if (ix)
        ix->dir = strdup(cfg->dir);
    if (!ix || !ix->dir || runset_new(&rc, &ix->rs) < 0) {
        if (ix)
            free(ix->dir);
        free(ix);
        return err_set(err, -ENOMEM, ERR_GEN_0002, "no memory for an index");
    }
    ix->cfg = *cfg;
    ix->cfg.dir = ix->dir;
    for (unsigned i = 0; i < cfg->n_volumes; i++)
        ix->vols[i] = cfg->volumes[i];
    ix->cfg.volumes = ix->vols;
    list_init(&ix->views);
    list_init(&ix->opening);
    list_init(&ix->syncs);
    list_init(&ix->sync_wait);
    list_init(&ix->discarding);
    list_init(&ix->loaded);
    list_init(&ix->flush.now);
    list_init(&ix->flush.waiting);
    io_task_init(&ix->tick, tick);
    io_timer_init(&ix->build.retry, cfg->loop, build_retry);
    res = replica_open(cfg->loop, ix->dir, ix->vols, cfg->n_volumes,
                       &ix->replica, err);
    if (res < 0) {
        runset_free(ix->rs);
        free(ix->dir);
        free(ix);
        return res;
    }
    ix->env = (struct view_env){ .loop = cfg->loop,
                                 .dir = ix->dir,
                                 .replica = ix->replica,
                                 .seg = cfg->seg,
                                 .ops = cfg->ops };
    *out = ix;
    return 0;
}

int
jindex_load_segment(struct jindex *ix, const struct seg_info *s)
{
    return runset_add_segment(ix->rs, s);
}

int
jindex_load_run(struct jindex *ix, const struct run_info *info)
{
    return runset_add_run(ix->rs, info);
}

int
jindex_load_view(struct jindex *ix, const struct view_record *v)
{
    struct loaded_view *lv = calloc(1, sizeof *lv);

    if (!lv)
        return -ENOMEM;
    lv->rec = *v;
    list_push_back(&ix->loaded, &lv->link);
    return 0;
}

size_t
jindex_bad_parts(struct jindex *ix, uint16_t vol, uint64_t off, uint64_t len,
                 struct io_extent *out, size_t max)
{
    return replica_bad_parts(ix->replica, vol, off, len, out, max);
}

int
jindex_load_bad(struct jindex *ix, uint16_t vol, uint64_t off, uint64_t len)
{
    return replica_mark_bad(ix->replica, vol, off, len);
}

void
jindex_load_hole(struct jindex *ix, uint64_t from, uint64_t until)
{
    if (ix->n_holes == JINDEX_HOLES) {
        ix->holes[JINDEX_HOLES - 1].until = until;
        return;
    }
    ix->holes[ix->n_holes].from = from;
    ix->holes[ix->n_holes++].until = until;
}

void
jindex_load_promoted(struct jindex *ix, uint64_t seq)
{
    ix->promoted = ix->fence = seq;
    runset_set_promoted(ix->rs, seq);
}

void
jindex_close(struct jindex *ix, void (*done)(void *arg), void *arg)
{
    ix->closing = true;
    ix->closed = done;
    ix->closed_arg = arg;
    io_timer_stop(&ix->build.retry);
    io_defer(ix->cfg.loop, &ix->tick);
}

/* --- building runs --------------------------------------------------------------- */

static void
build_ended(struct jindex *ix)
{
    runset_unhold(ix->rs, ix->build.plan.header.info.first_seg);
    build_plan_release(&ix->build.plan);
    ix->build.running = false;
    if (ix->build.res < 0 && !ix->closing)
        io_timer_set(&ix->build.retry, BUILD_RETRY_NS);
    jindex_busy_end(ix);
    if (!ix->closing)
        ix->cfg.ops.released(ix->cfg.ops.arg);
}

static void
run_recorded(void *arg, int res)
{
    struct jindex *ix = arg;

    if (res == 0)
        res = runset_add_run(ix->rs, &ix->build.built);
    ix->build.res = res;
    build_ended(ix);
}

static void
build_done(struct io_work *w)
{
    struct jindex *ix = container_of(w, struct jindex, build.work);
    struct jindex_record r = { .kind = JINDEX_RUN_ADD,
                               .u.run = ix->build.built };

    if (ix->build.res < 0 || ix->closing) {
        if (ix->build.res < 0)
            jindex_alert(ix, &ix->build.err);
        build_ended(ix);
        return;
    }
    ix->cfg.ops.record(ix->cfg.ops.arg, &r, run_recorded, ix);
}

static void
build_run_job(struct io_work *w)
{
    struct jindex *ix = container_of(w, struct jindex, build.work);
    struct builder *b = &ix->build;

    b->err = (struct err)ERR_INIT;
    b->res = build_run(ix->cfg.loop, ix->dir, &ix->cfg.seg, &b->plan, &b->built,
                       &b->err);
}

static void
build_kick(struct jindex *ix)
{
    struct builder *b = &ix->build;

    if (!ix->started || ix->closing || b->running || b->paused ||
        io_timer_armed(&b->retry))
        return;
    if (runset_plan_build(ix->rs, &b->plan) <= 0)
        return;
    if (runset_hold(ix->rs, b->plan.header.info.first_seg) < 0) {
        build_plan_release(&b->plan);
        return;
    }
    b->running = true;
    b->work.run = build_run_job;
    b->work.done = build_done;
    ix->busy++;
    io_work_submit(ix->cfg.loop, &b->work);
}

int
jindex_segment_opened(struct jindex *ix, uint32_t no, uint64_t first_seq)
{
    struct seg_info s = { .no = no,
                          .first_seq = first_seq,
                          .last_seq = UINT64_MAX };

    return runset_add_segment(ix->rs, &s);
}

void
jindex_segment_sealed(struct jindex *ix, uint32_t no, uint64_t first_seq,
                      uint64_t last_seq)
{
    (void)runset_seal_segment(ix->rs, no, first_seq, last_seq);
    io_defer(ix->cfg.loop, &ix->tick);
}

bool
jindex_segment_free(const struct jindex *ix, uint32_t no)
{
    const struct seg_info *s = runset_segment(ix->rs, no);

    return s && s->sealed &&
           (s->first_seq > s->last_seq || s->last_seq <= ix->promoted) &&
           !runset_segment_used(ix->rs, no);
}

void
jindex_drop_segment(struct jindex *ix, uint32_t no)
{
    runset_drop_segment(ix->rs, no);
    io_defer(ix->cfg.loop, &ix->tick); /* what is left may be ready to merge */
}

size_t
jindex_dead_runs(const struct jindex *ix, struct run_info *out, size_t max)
{
    const struct run_info *r;
    size_t n = 0;

    for (size_t i = 0; n < max && (r = runset_run(ix->rs, i)); i++)
        if (r->last_seq <= ix->promoted &&
            !runset_segment_used(ix->rs, r->first_seg))
            out[n++] = *r;
    return n;
}

void
jindex_delete_run(struct jindex *ix, const struct run_info *info)
{
    char name[RUN_NAME_MAX], path[ERR_MSG_MAX / 2];

    runset_drop_run(ix->rs, info);
    run_name(info, name);
    if (snprintf(path, sizeof path, "%s/%s", ix->dir, name) < (int)sizeof path)
        (void)io_unlink(ix->cfg.loop, path); /* else removed at next start */
}

void
jindex_forget_run(struct jindex *ix, const struct run_info *info)
{
    runset_drop_run(ix->rs, info);
    io_defer(ix->cfg.loop, &ix->tick);
}

int
jindex_hold(struct jindex *ix, uint32_t no)
{
    return runset_segment(ix->rs, no) ? runset_hold(ix->rs, no) : -ENOENT;
}

void
jindex_unhold(struct jindex *ix, uint32_t no)
{
    runset_unhold(ix->rs, no);
    set_released(ix);
}

void
jindex_pause_builds(struct jindex *ix, bool paused)
{
    ix->build.paused = paused;
    if (!paused && !ix->closing)
        io_defer(ix->cfg.loop, &ix->tick);
}

bool
jindex_has_run(const struct jindex *ix, const struct run_info *info)
{
    const struct run_info *r;

    for (size_t i = 0; (r = runset_run(ix->rs, i)); i++)
        if (r->level == info->level && r->first_seg == info->first_seg &&
            r->last_seq == info->last_seq)
            return true;
    return false;
}

/* --- read sets for jobs -------------------------------------------------------------- */

/* Plan (after, upto] and keep its segments for a job. */
int
jindex_plan_set(struct jindex *ix, uint64_t after, uint64_t upto,
                struct table_plan **out, size_t *out_n, uint32_t *out_hold)
{
    int rc = runset_cover(ix->rs, after, upto, out, out_n);

    if (rc < 0)
        return rc;
    *out_hold = UINT32_MAX;
    for (size_t i = 0; i < *out_n; i++)
        *out_hold = MIN(*out_hold, (*out)[i].seg);
    rc = runset_hold(ix->rs, *out_hold);
    if (rc < 0) {
        table_plans_free(*out, *out_n);
        *out = NULL;
    }
    return rc;
}

/* --- promotion --------------------------------------------------------------------- */

static void
promote_end(struct jindex *ix, int res)
{
    struct promoting *pr = &ix->prom;
    uint64_t bytes = pr->p ? promotion_bytes(pr->p) : 0;

    promotion_free(pr->p);
    read_set_unref(pr->set);
    pr->p = NULL;
    pr->set = NULL;
    pr->active = pr->started = false;
    if (res == 0) {
        ix->promotions++;
        ix->promoted_bytes += bytes;
        ix->promote_told = 0;
    } else if (pr->err.num < 0 && res != ix->promote_told) {
        struct err e;

        err_set(&e, res, ERR_JNL_0059, "promotion to %" PRIu64 " stopped: %s",
                pr->to, pr->err.msg);
        jindex_alert(ix, &e);
        ix->promote_told = res; /* it is tried again and again */
    }
    jindex_busy_end(ix);
    pr->done(pr->arg, res, bytes);
}

static void
bad_recorded(void *arg, int res)
{
    struct jindex *ix = arg;
    struct promoting *pr = &ix->prom;
    struct jindex_record r = { .kind = JINDEX_BAD };
    const struct ext_rec *bad;
    size_t n;

    bad = promotion_bad(pr->p, &n);
    if (res < 0 || pr->bad_next == n) {
        promote_end(ix, res);
        return;
    }
    bad += pr->bad_next++;
    r.u.bad.vol = (uint16_t)(bad->key >> EXT_VOL_SHIFT);
    r.u.bad.off = (bad->key & EXT_OFF_MASK) * 512;
    r.u.bad.len = (uint64_t)bad->len512 * 512;
    res = replica_mark_bad(ix->replica, r.u.bad.vol, r.u.bad.off, r.u.bad.len);
    if (res < 0)
        promote_end(ix, res);
    else
        ix->cfg.ops.record(ix->cfg.ops.arg, &r, bad_recorded, ix);
}

static void
promote_step_job(struct io_work *w)
{
    struct jindex *ix = container_of(w, struct jindex, prom.work);
    struct promoting *pr = &ix->prom;

    pr->res = 0;
    if (!pr->p) {
        struct read_set *set = NULL;

        pr->res = read_set_build(runset_config(ix->rs), ix->promoted, pr->to,
                                 pr->plan, pr->n_plan, &set, &pr->err);
        if (pr->res == 0) {
            pr->set = set;
            pr->res = promotion_new(set, &ix->cfg.seg, ix->replica,
                                    ix->cfg.ops.room, ix->cfg.ops.arg, &pr->p);
        }
        if (pr->res == 0)
            pr->res = 1;
        return;
    }
    pr->res = promotion_step(pr->p, &pr->err);
}

static void
promote_io_done(void *arg)
{
    struct jindex *ix = arg;

    io_work_submit(ix->cfg.loop, &ix->prom.work);
}

static void
promote_step_done(struct io_work *w)
{
    struct jindex *ix = container_of(w, struct jindex, prom.work);
    struct promoting *pr = &ix->prom;

    if (!pr->started) {
        pr->started = true;
        if (pr->set)
            read_set_register(pr->set, ix->rs);
        runset_unhold(ix->rs, pr->hold);
        table_plans_free(pr->plan, pr->n_plan);
        pr->plan = NULL;
    }
    if (pr->p)
        pr->bytes = promotion_bytes(pr->p);
    if (pr->res > 0 && ix->closing)
        pr->res = -ECANCELED;
    if (pr->res == PROMOTE_IO)
        promotion_io(pr->p, promote_io_done, ix);
    else if (pr->res > 0)
        io_work_submit(ix->cfg.loop, &pr->work);
    else if (pr->res < 0)
        promote_end(ix, pr->res);
    else
        bad_recorded(ix, 0);
}

/* Straight writes below the target end first (datapath.md 5.2). */
static void
promote_go(struct jindex *ix)
{
    struct promoting *pr = &ix->prom;
    struct list *l;
    int rc;

    if (!pr->active || pr->plan || pr->started)
        return;
    list_for_each (l, &ix->syncs)
        if (list_entry(l, struct journal_sync_write, link)->after_seq < pr->to)
            return;
    rc = jindex_plan_set(ix, ix->promoted, pr->to, &pr->plan, &pr->n_plan,
                         &pr->hold);
    if (rc < 0) {
        promote_end(ix, rc);
        return;
    }
    pr->work.run = promote_step_job;
    pr->work.done = promote_step_done;
    io_work_submit(ix->cfg.loop, &pr->work);
}

static void
promote_start(void *arg, int res)
{
    UNUSED(res);
    promote_go(arg);
}

void
jindex_promote(struct jindex *ix, uint64_t to_seq,
               void (*done)(void *arg, int res, uint64_t bytes), void *arg)
{
    struct promoting *pr = &ix->prom;

    assert(!pr->active && !ix->closing);
    *pr = (struct promoting){
        .active = true, .to = to_seq, .done = done, .arg = arg
    };
    pr->err = (struct err)ERR_INIT;
    /* From here on older straight writes are refused, also when this fails: the
     * replica may hold some of it. */
    ix->fence = MAX(ix->fence, to_seq);
    ix->busy++;
    jindex_later(ix, promote_start, ix, 0);
}

void
jindex_promoted(struct jindex *ix, uint64_t seq)
{
    ix->promoted = MAX(ix->promoted, seq);
    ix->fence = MAX(ix->fence, seq);
    runset_set_promoted(ix->rs, ix->promoted);
    jindex_switch_views(ix);
}

/* --- straight writes --------------------------------------------------------------------- */

static struct sync_job *
sync_job(struct journal_sync_write *w)
{
    _Static_assert(sizeof(struct sync_job) <= sizeof w->priv, "priv");
    return (struct sync_job *)(void *)w->priv;
}

static struct journal_sync_write *
sync_of_work(struct io_work *work)
{
    struct sync_job *sj = container_of(work, struct sync_job, work);

    return container_of((void *)sj, struct journal_sync_write, priv);
}

static void
sync_run(struct io_work *work)
{
    struct journal_sync_write *w = sync_of_work(work);
    struct sync_job *sj = sync_job(w);
    struct err err = ERR_INIT;

    if (w->buf && crc32c(0, w->buf, w->len) != w->crc) {
        sj->res =
            err_set(&err, -EBADMSG, ERR_JNL_0057,
                    "volume %u: a straight write of %" PRIu64
                    " bytes at offset %" PRIu64 " does not match its checksum",
                    w->vol, w->len, w->off);
    } else {
        sj->res = replica_write(sj->ix->replica, w->vol, w->buf, w->len, w->off,
                                &err);
    }
    if (sj->res < 0) {
        sj->err = malloc(sizeof err);
        if (sj->err)
            *sj->err = err;
    }
}

static void sync_start(struct jindex *ix, struct journal_sync_write *w);

static bool
sync_overlaps(const struct jindex *ix, const struct journal_sync_write *w)
{
    struct list *l;

    list_for_each (l, &ix->syncs) {
        const struct journal_sync_write *o =
            list_entry(l, struct journal_sync_write, link);

        if (o->vol == w->vol && o->off < w->off + w->len &&
            w->off < o->off + o->len)
            return true;
    }
    return false;
}

static void
sync_done(struct io_work *work)
{
    struct journal_sync_write *w = sync_of_work(work), *o;
    struct sync_job *sj = sync_job(w);
    struct jindex *ix = sj->ix;
    struct list *l, again;
    int res = sj->res;

    if (sj->err)
        jindex_alert(ix, sj->err);
    free(sj->err);
    list_del(&w->link);
    list_init(&again);
    list_splice_back(&again, &ix->sync_wait);
    while ((l = list_pop_front(&again))) {
        o = list_entry(l, struct journal_sync_write, link);
        sync_start(ix, o);
    }
    promote_go(ix);
    if (ix->closing)
        io_defer(ix->cfg.loop, &ix->tick);
    w->done(w, res);
}

static void
sync_start(struct jindex *ix, struct journal_sync_write *w)
{
    struct sync_job *sj = sync_job(w);

    if (ix->fence > w->after_seq) {
        w->done(w, -EAGAIN);
        return;
    }
    if (sync_overlaps(ix, w)) {
        list_push_back(&ix->sync_wait, &w->link);
        return;
    }
    list_push_back(&ix->syncs, &w->link);
    sj->work.run = sync_run;
    sj->work.done = sync_done;
    io_work_submit(ix->cfg.loop, &sj->work);
}

static void
sync_begin(void *arg, int res)
{
    struct journal_sync_write *w = arg;
    struct jindex *ix = sync_job(w)->ix;

    if (res < 0) {
        w->done(w, res);
    } else {
        sync_start(ix, w);
    }
    jindex_busy_end(ix);
}

void
jindex_sync_write(struct jindex *ix, struct journal_sync_write *w)
{
    struct sync_job *sj = sync_job(w);
    uint64_t size = replica_volume_size(ix->replica, w->vol);
    int res = 0;

    *sj = (struct sync_job){ .ix = ix };
    list_init(&w->link);
    if (w->len == 0 || w->len % 512 != 0 || w->off % 512 != 0 ||
        !range_ok(w->off, w->len, size))
        res = -EINVAL;
    else if (ix->fence > w->after_seq)
        res = -EAGAIN;
    if (res == 0 && !sync_overlaps(ix, w) && list_empty(&ix->sync_wait)) {
        sync_start(ix, w);
        return;
    }
    ix->busy++;
    jindex_later(ix, sync_begin, w, res);
}

struct sync_waiter {
    struct list link;
    void (*done)(void *arg, int res);
    void *arg;
};

static void
replica_sync_job(struct io_work *w)
{
    struct jindex *ix = container_of(w, struct jindex, flush.work);

    ix->flush.err = (struct err)ERR_INIT;
    ix->flush.res = replica_sync(ix->replica, &ix->flush.err);
}

static void sync_flush_go(struct jindex *ix);

static void
replica_sync_done(struct io_work *w)
{
    struct jindex *ix = container_of(w, struct jindex, flush.work);
    int res = ix->flush.res;
    struct list now, *l;

    ix->flush.running = false;
    if (res < 0)
        jindex_alert(ix, &ix->flush.err);
    list_init(&now);
    list_splice_back(&now, &ix->flush.now);
    sync_flush_go(ix);
    while ((l = list_pop_front(&now))) {
        struct sync_waiter *sw = list_entry(l, struct sync_waiter, link);

        sw->done(sw->arg, res);
        free(sw);
    }
    jindex_busy_end(ix);
}

static void
sync_flush_go(struct jindex *ix)
{
    if (ix->flush.running || list_empty(&ix->flush.waiting))
        return;
    list_splice_back(&ix->flush.now, &ix->flush.waiting);
    ix->flush.running = true;
    ix->flush.work.run = replica_sync_job;
    ix->flush.work.done = replica_sync_done;
    ix->busy++;
    io_work_submit(ix->cfg.loop, &ix->flush.work);
}

void
jindex_sync_flush(struct jindex *ix, void (*done)(void *arg, int res), void *arg)
{
    struct sync_waiter *sw = calloc(1, sizeof *sw);

    if (!sw) {
        jindex_later(ix, done, arg, -ENOMEM);
        return;
    }
    sw->done = done;
    sw->arg = arg;
    list_push_back(&ix->flush.waiting, &sw->link);
    sync_flush_go(ix);
}

/* --- start --------------------------------------------------------------------------------------- */

static bool
name_known(const struct jindex *ix, const char *name)
{
    struct run_info want = { .level = 0 };
    const struct run_info *r;
    struct list *l;
    char id[UUID_TEXT_SIZE];

    if (strncmp(name, "run.", 4) == 0) {
        if (run_name_parse(name, &want.level, &want.first_seg) < 0)
            return false;
        for (size_t i = 0; (r = runset_run(ix->rs, i)); i++)
            if (r->level == want.level && r->first_seg == want.first_seg)
                return true;
        return false;
    }
    if (strncmp(name, "view.", 5) != 0)
        return true; /* none of ours */
    list_for_each (l, &ix->loaded) {
        uuid_format(&list_entry(l, struct loaded_view, link)->rec.cfg.id.u, id);
        if (strncmp(name + 5, id, strlen(id)) == 0)
            return true;
    }
    return false;
}

/* What a crash left between the making of a file and its record. */
static void
clean_job(struct io_work *w)
{
    struct jindex *ix = container_of(w, struct jindex, start.work);
    char path[ERR_MSG_MAX / 2], **names;
    size_t n;

    if (io_list_dir(ix->cfg.loop, ix->dir, FILES_MAX, &names, &n,
                    &ix->start.err) < 0)
        return;
    for (size_t i = 0; i < n; i++)
        if (!name_known(ix, names[i]) &&
            snprintf(path, sizeof path, "%s/%s", ix->dir, names[i]) <
                (int)sizeof path)
            (void)io_unlink(ix->cfg.loop, path); /* tried again next time */
    io_list_free(names, n);
}

static void
loaded_opened(void *arg, struct journal_view *v, int res, const struct err *err)
{
    UNUSED(v);
    UNUSED(res);
    UNUSED(err);
    view_next_start(arg);
}

static void
view_next_start(struct jindex *ix)
{
    struct list *l = list_pop_front(&ix->loaded);
    struct view_open *vo;

    if (!l) {
        ix->started = true;
        build_kick(ix);
        ix->start.done(ix->start.arg, 0);
        jindex_busy_end(ix);
        return;
    }
    vo = calloc(1, sizeof *vo);
    if (!vo) {
        free(list_entry(l, struct loaded_view, link));
        ix->start.done(ix->start.arg, -ENOMEM);
        jindex_busy_end(ix);
        return;
    }
    vo->loaded = true;
    vo->rec = list_entry(l, struct loaded_view, link)->rec;
    free(list_entry(l, struct loaded_view, link));
    vo->opened = loaded_opened;
    vo->arg = ix;
    jindex_open_begin(ix, vo);
}

static void
clean_done(struct io_work *w)
{
    struct jindex *ix = container_of(w, struct jindex, start.work);

    if (ix->start.err.num < 0)
        jindex_alert(ix, &ix->start.err);
    view_next_start(ix);
}

void
jindex_start(struct jindex *ix, void (*done)(void *arg, int res), void *arg)
{
    ix->start.done = done;
    ix->start.arg = arg;
    ix->start.err = (struct err)ERR_INIT;
    ix->start.work.run = clean_job;
    ix->start.work.done = clean_done;
    ix->busy++;
    io_work_submit(ix->cfg.loop, &ix->start.work);
}

void
jindex_stats(const struct jindex *ix, struct jindex_stats *out)
{
    struct jindex_stats st = { .promotions = ix->promotions,
                               .promoted_bytes =
                                   ix->promoted_bytes +
                                   (ix->prom.active ? ix->prom.bytes : 0) };
    struct list *l;

    st.runs = runset_runs(ix->rs, &st.run_bytes);
    st.replica_bytes = replica_bytes(ix->replica);
    list_for_each (l, &ix->views)
        st.overlay_bytes += view_overlay_bytes(view_of_link(l));
    st.idle = ix->started && !ix->build.running && !runset_build_due(ix->rs) &&
              ix->busy == 0;
    *out = st;
}
