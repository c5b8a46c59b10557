/* The life of a journal: open, close, the manifest's commits, and the questions
 * that the data path and the manager ask.  Appending is in commit.c, recovery
 * in recover.c, space and age in retention.c; the index in jindex.c.
 */
#include "journal/journal.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "journal/journal_internal.h"

/* All journals of the process, so that none is opened twice. */
static pthread_mutex_t registry_lock = PTHREAD_MUTEX_INITIALIZER;
static struct list registry = { &registry, &registry };

uint64_t
journal_up_ns(const struct journal *j)
{
    if (j->recovering) /* on a worker, the loop's clock is not ours */
        return j->up_base;
    return j->up_base + (io_mono_ns(j->loop) - j->up_mono);
}

void
journal_alert(struct journal *j, const struct err *err)
{
    if (err->num == -EBADMSG &&
        (err->code == ERR_JNL_0051 || err->code == ERR_JNL_0059))
        j->runs_suspect = true;
    if (j->ev.alert)
        j->ev.alert(j->ev.arg, err);
}

void
journal_settled(struct journal *j, enum err_code code)
{
    if (j->ev.settled)
        j->ev.settled(j->ev.arg, code);
}

void
journal_stop(struct journal *j, const struct err *why)
{
    if (j->stopped)
        return;
    j->stopped = true;
    j->stop_err = *why;
    journal_alert(j, why);
    journal_credit_changed(j);
    journal_withdraw_go(j);
}

/* --- the manifest's group commit ------------------------------------------ */

enum {
    MANIFEST_GROW = 4096, /* of it in an append that failed, at most */
};

static void man_kick(struct journal *j);

void
journal_log(struct journal *j, const struct man_rec *r)
{
    struct err e = ERR_INIT;
    int rc = manifest_add(&j->man, r);

    if (rc == 0)
        return;
    (void)err_set(&e, rc, ERR_JNL_0001,
                  "journal %s: cannot add a record of type %d to the manifest: "
                  "%s",
                  j->dir, r->type, err_errno(rc));
    journal_stop(j, &e);
}

static void
fire_waiters(struct journal *j, uint64_t upto, int res)
{
    struct list ready;
    struct list *l;

    list_init(&ready);
    while (!list_empty(&j->man_waiters)) {
        struct jwaiter *w =
            list_entry(j->man_waiters.next, struct jwaiter, link);

        if (w->upto > upto)
            break;
        list_del(&w->link);
        list_push_back(&ready, &w->link);
    }
    while ((l = list_pop_front(&ready)) != NULL) {
        struct jwaiter *w = list_entry(l, struct jwaiter, link);

        if (w->done)
            w->done(w->arg, res ? res : w->res);
        free(w);
    }
}

static void
man_run(struct io_work *w)
{
    struct journal *j = container_of(w, struct journal, man_work);

    j->man_res = manifest_write(&j->man_job, &j->man_err);
    j->man_given =
        journal_no_space_error(j->man_res) &&
        reserve_give(j->reserve, j->man_job.bytes.len + MANIFEST_GROW, 0);
}

static void
man_done(struct io_work *w)
{
    struct journal *j = container_of(w, struct journal, man_work);
    uint64_t upto = j->man_job.upto;
    int res = j->man_res; /* a waiter may start the next job */

    manifest_job_release(&j->man_job);
    j->man_busy = false;
    if (res == 0) {
        if (j->man_failures)
            journal_settled(j, j->man_err.code);
        j->man_failures = 0;
        j->man_rewrite = false;
        j->man.durable = upto;
        fire_waiters(j, upto, 0);
    } else if (j->man_given) {
        j->man_rewrite = true; /* at once, with a piece of the reserve */
    } else {
        /* A file that failed is not appended to again: a fresh one holds all.
         * For space we wait; a disk that fails twice stops the journal. */
        j->man_rewrite = true;
        if (j->man_failures++ == 0)
            journal_alert(j, &j->man_err);
        if (!journal_no_space_error(res) && j->man_failures >= 2) {
            journal_stop(j, &j->man_err);
            fire_waiters(j, UINT64_MAX, res);
        } else if (j->closing && j->man_failures >= 2) {
            fire_waiters(j, UINT64_MAX, res);
        }
    }
    if (res == 0 || j->man_given ||
        (!journal_no_space_error(res) && !j->stopped) ||
        (j->closing && j->man_failures < 2))
        man_kick(j);
    journal_job_done(j);
}

static void
man_kick(struct journal *j)
{
    struct err e = ERR_INIT;
    int rc;

    if (j->man_busy || (j->man.added == j->man.durable && !j->man_rewrite)) {
        if (!j->man_busy)
            fire_waiters(j, j->man.durable, 0);
        return;
    }
    rc = manifest_take(&j->man, j->man_rewrite, &j->man_job);
    if (rc < 0) {
        manifest_job_release(&j->man_job);
        (void)err_set(&e, rc, ERR_GEN_0002, "no memory for the manifest");
        journal_stop(j, &e);
        fire_waiters(j, UINT64_MAX, rc);
        return;
    }
    j->man_busy = true;
    j->man_work = (struct io_work){ .run = man_run, .done = man_done };
    j->jobs++;
    io_work_submit(j->loop, &j->man_work);
}

static void
answer(struct journal *j, int res, void (*done)(void *arg, int res), void *arg)
{
    struct jwaiter *w = calloc(1, sizeof *w);
    struct err e = ERR_INIT;

    if (!w) {
        (void)err_set(&e, -ENOMEM, ERR_GEN_0002, "no memory for the manifest");
        journal_stop(j, &e);
        if (done)
            done(arg, -ENOMEM);
        return;
    }
    *w = (struct jwaiter){
        .upto = j->man.added, .res = res, .done = done, .arg = arg
    };
    list_push_back(&j->man_waiters, &w->link);
    /* Nothing to write: still answered later, never inside the call. */
    if (j->man.added == j->man.durable && !j->man_busy) {
        struct man_rec r = { .type = MAN_UPTIME,
                             .u.uptime = { journal_up_ns(j),
                                           j->man.state.next_seg } };

        journal_log(j, &r);
        w->upto = j->man.added;
    }
    man_kick(j);
}

void
journal_log_sync(struct journal *j, void (*done)(void *arg, int res), void *arg)
{
    answer(j, 0, done, arg);
}

/* --- what the index asks --------------------------------------------------- */

static void
ix_record(void *arg, const struct jindex_record *r,
          void (*done)(void *done_arg, int res), void *done_arg)
{
    struct journal *j = arg;
    struct man_rec m = { .type = MAN_RUN_ADD };

    switch (r->kind) {
    case JINDEX_RUN_ADD: m.u.run = r->u.run; break;
    case JINDEX_PIN_ADD:
        m.type = MAN_PIN_ADD;
        m.u.view = *r->u.view;
        break;
    case JINDEX_PIN_DEL:
        m.type = MAN_PIN_DEL;
        m.u.base.id = r->u.view->cfg.id;
        m.u.base.base_seq = 0;
        break;
    case JINDEX_VIEW_BASE:
        m.type = MAN_VIEW_BASE;
        m.u.base.id = r->u.view->cfg.id;
        m.u.base.base_seq = r->u.view->base_seq;
        break;
    case JINDEX_BAD:
        m.type = MAN_BAD;
        m.u.bad = (struct man_bad){ r->u.bad.vol, r->u.bad.off, r->u.bad.len };
        break;
    }
    journal_log(j, &m);
    journal_log_sync(j, done, done_arg);
}

static void
ix_alert(void *arg, const struct err *err)
{
    journal_alert(arg, err);
}

static void
ix_released(void *arg)
{
    journal_recycle(arg);
}

/* --- open ------------------------------------------------------------------ */

static void
journal_free(struct journal *j)
{
    struct list *l;

    io_timer_stop(&j->tick);
    io_timer_stop(&j->plant_hold);
    io_task_cancel(&j->plant);
    while ((l = list_pop_front(&j->queue)) != NULL ||
           (l = list_pop_front(&j->inflight)) != NULL) {
        struct jbatch *b = list_entry(l, struct jbatch, link);

        io_mem_free(b->bytes, b->mem_size);
        free(b);
    }
    while ((l = list_pop_front(&j->sealing)) != NULL)
        free(list_entry(l, struct jsegment, link));
    free(j->open);
    journal_turns_leave(j);
    journal_damage_release(j);
    journal_degraded_release(j);
    seg_store_free(j->segs);
    reserve_free(j->reserve);
    if (j->man_loaded)
        manifest_release(&j->man);
    points_release(&j->points);
    if (j->points_file)
        io_file_close(j->points_file);
    pthread_mutex_lock(&registry_lock);
    list_del(&j->registry);
    pthread_mutex_unlock(&registry_lock);
    free(j->dir);
    free(j);
}

static void
on_tick(struct io_timer *t)
{
    struct journal *j = container_of(t, struct journal, tick);

    if (j->closing)
        return;
    io_timer_set(&j->tick, JOURNAL_TICK_NS);
    man_kick(j);
    journal_damage_tick(j);
    journal_space_tick(j);
    journal_seal_aged(j);
    journal_care_kick(j);
    journal_commit_kick(j);
    journal_retain(j);
}

static void
on_plant(struct io_task *t)
{
    struct journal *j = container_of(t, struct journal, plant);

    j->planted_told = j->rx_batch;
    j->ev.durable(j->ev.arg, j->rx_batch);
}

static void
on_plant_hold(struct io_timer *t)
{
    journal_commit_kick(container_of(t, struct journal, plant_hold));
}

static void
open_failed_freed(void *arg)
{
    struct journal *j = arg;
    void (*opened)(void *a, struct journal *jj, int res, const struct err *e) =
        j->opened;
    void *a = j->opened_arg;
    struct err e = j->open_err;
    int res = j->open_res;

    j->ix = NULL;
    journal_free(j);
    opened(a, NULL, res, &e);
}

static void
index_started(void *arg, int res)
{
    struct journal *j = arg;

    if (res < 0) {
        j->open_res = err_set(&j->open_err, res, ERR_JNL_0001,
                              "journal %s: the index cannot start: %s", j->dir,
                              err_errno(res));
        jindex_close(j->ix, open_failed_freed, j);
        return;
    }
    j->ready = true;
    journal_damage_load(j);
    j->open_res = journal_turns_join(j);
    if (j->open_res < 0) {
        (void)err_set(&j->open_err, j->open_res, ERR_GEN_0002,
                      "no memory for a journal");
        jindex_close(j->ix, open_failed_freed, j);
        return;
    }
    io_timer_set(&j->tick, JOURNAL_TICK_NS);
    journal_replica_changed(j);
    journal_care_kick(j);
    journal_recycle(j);
    if (j->found.num)
        journal_alert(j, &j->found);
    if (j->man.state.any_floor && j->man.state.floor.none &&
        points_count(&j->points) == 0)
        journal_tell_given_up(j); /* as before the restart */
    j->opened(j->opened_arg, j, 0, NULL);
}

static void
open_run(struct io_work *w)
{
    struct journal *j = container_of(w, struct journal, open_work);
    struct jindex_config ic;

    j->open_res = journal_recover(j, &j->open_err);
    if (j->open_res < 0)
        return;
    ic = (struct jindex_config){
        .loop = j->loop,
        .dir = j->dir,
        .vpg = j->cfg.vpg,
        .lane = j->cfg.lane,
        .volumes = j->cfg.volumes,
        .n_volumes = j->cfg.n_volumes,
        .merge_fan = j->cfg.merge_fan,
        .seg = { .walk = seg_store_walk,
                 .read_chunk = seg_store_read_chunk,
                 .locate = seg_store_locate,
                 .put = seg_store_put,
                 .suspect = seg_store_suspect,
                 .arg = j->segs },
        .ops = { ix_record, ix_alert, ix_released, journal_give, j },
    };
    j->open_res = jindex_new(&ic, &j->ix, &j->open_err);
}

static void
open_done(struct io_work *w)
{
    struct journal *j = container_of(w, struct journal, open_work);
    const struct man_state *s = &j->man.state;
    const struct jlost *lost;
    int rc = j->open_res;

    if (rc < 0 && !j->open_err.num)
        (void)err_set(&j->open_err, rc, ERR_JNL_0001, "journal %s: %s", j->dir,
                      err_errno(rc));
    for (size_t i = 0; i < s->n_segs && rc == 0; i++) {
        struct seg_info si = {
            .no = s->segs[i].no,
            .first_seq = s->segs[i].first_seq,
            .last_seq = s->segs[i].sealed ? s->segs[i].last_seq : UINT64_MAX,
            .sealed = s->segs[i].sealed,
        };

        lost = journal_lost(j, si.no);
        if (lost) /* nothing at all: like one that never took a batch */
            si.last_seq = lost->nothing ? si.first_seq - 1 : lost->last_seq;
        rc = jindex_load_segment(j->ix, &si);
    }
    for (size_t i = 0; i < j->deg.n_holes && rc == 0; i++)
        jindex_load_hole(j->ix, j->deg.holes[i].from, j->deg.holes[i].until);
    for (size_t i = 0; i < s->n_runs && rc == 0; i++)
        rc = jindex_load_run(j->ix, &s->runs[i]);
    for (size_t i = 0; i < s->n_views && rc == 0; i++)
        rc = jindex_load_view(j->ix, &s->views[i]);
    for (size_t i = 0; i < s->n_bad && rc == 0; i++)
        rc = jindex_load_bad(j->ix, s->bad[i].vol, s->bad[i].off, s->bad[i].len);
    if (rc == 0) {
        jindex_load_promoted(j->ix, s->promoted);
        jindex_start(j->ix, index_started, j);
        return;
    }
    if (!j->open_err.num)
        (void)err_set(&j->open_err, rc, ERR_JNL_0004,
                      "journal %s: the manifest cannot be followed: %s", j->dir,
                      err_errno(rc));
    j->open_res = rc;
    if (j->ix)
        jindex_close(j->ix, open_failed_freed, j);
    else
        open_failed_freed(j);
}

static int
check_config(const struct journal_config *c, struct err *err)
{
    if (c->n_volumes == 0 || c->n_volumes > LANE_VOLUMES_MAX)
        return err_set(err, -EINVAL, ERR_JNL_0005,
                       "journal %s: %u volumes, 1 to %d are possible", c->dir,
                       c->n_volumes, LANE_VOLUMES_MAX);
    for (unsigned i = 0; i < c->n_volumes; i++)
        if (c->volumes[i].size == 0 || c->volumes[i].size % 512)
            return err_set(err, -EINVAL, ERR_JNL_0005,
                           "journal %s: volume %u has %" PRIu64
                           " bytes, not a multiple of 512",
                           c->dir, c->volumes[i].vol, c->volumes[i].size);
    return 0;
}

static int
registry_add(struct journal *j, struct err *err)
{
    struct list *l;
    int rc = 0;

    pthread_mutex_lock(&registry_lock);
    list_for_each (l, &registry)
        if (strcmp(list_entry(l, struct journal, registry)->dir, j->dir) == 0)
            rc = -EBUSY;
    if (rc == 0)
        list_push_back(&registry, &j->registry);
    pthread_mutex_unlock(&registry_lock);
    if (rc < 0)
        (void)err_set(err, rc, ERR_JNL_0006, "journal %s is open already",
                      j->dir);
    return rc;
}

/* Failures before the worker are answered later, too. */
static void
open_refused_run(struct io_work *w)
{
    UNUSED(w);
}

static void
open_refused(struct io_work *w)
{
    open_failed_freed(container_of(w, struct journal, open_work));
}

void
journal_open(const struct journal_config *cfg,
             const struct journal_events *events,
             void (*opened)(void *arg, struct journal *j, int res,
                            const struct err *err),
             void *arg)
{
    struct journal *j = calloc(1, sizeof *j);
    struct err e = ERR_INIT;
    int rc;

    if (j)
        j->dir = strdup(cfg->dir);
    if (!j || !j->dir) {
        free(j);
        (void)err_set(&e, -ENOMEM, ERR_GEN_0002, "no memory for a journal");
        opened(arg, NULL, -ENOMEM, &e); /* nothing could carry it later */
        return;
    }
    j->cfg = *cfg;
    j->cfg.dir = j->dir;
    j->ev = *events;
    j->loop = cfg->loop;
    j->cfg.segment_min =
        MAX(round_up(cfg->segment_min ? cfg->segment_min : 4 * MIB, SEG_ALIGN),
            SEG_SIZE_LEAST);
    j->cfg.segment_max = MIN(MAX(cfg->segment_max ? cfg->segment_max : 64 * MIB,
                                 j->cfg.segment_min),
                             SEG_SIZE_MOST);
    j->cfg.merge_fan = cfg->merge_fan ? cfg->merge_fan : 8;
    j->seg_size = j->cfg.segment_min;
    list_init(&j->registry);
    list_init(&j->man_waiters);
    list_init(&j->queue);
    list_init(&j->inflight);
    list_init(&j->sealing);
    list_init(&j->withdrawals);
    list_init(&j->turn_link);
    io_timer_init(&j->tick, j->loop, on_tick);
    io_timer_init(&j->plant_hold, j->loop, on_plant_hold);
    io_task_init(&j->plant, on_plant);
    j->opened = opened;
    j->opened_arg = arg;
    j->up_mono = io_mono_ns(j->loop);
    rc = check_config(cfg, &j->open_err);
    if (rc == 0)
        rc = registry_add(j, &j->open_err);
    j->open_res = rc;
    j->open_work =
        rc < 0
            ? (struct io_work){ .run = open_refused_run, .done = open_refused }
            : (struct io_work){ .run = open_run, .done = open_done };
    io_work_submit(j->loop, &j->open_work);
}

/* --- close ----------------------------------------------------------------- */

static void
index_closed(void *arg)
{
    struct journal *j = arg;
    void (*closed)(void *a) = j->closed;
    void *a = j->closed_arg;

    fire_waiters(j, UINT64_MAX, -ECANCELED);
    j->ix = NULL;
    journal_free(j);
    closed(a);
}

static void
close_logged(void *arg, int res)
{
    struct journal *j = arg;

    UNUSED(res); /* a clean close is a courtesy: recovery needs none */
    journal_job_done(j);
}

/* Steps on until nothing is in flight: batches, seals and points, the manifest,
 * the index. */
static void
close_step(struct journal *j)
{
    struct man_rec r = { .type = MAN_UPTIME };

    if (!journal_commit_idle(j) || j->retain.active || j->recycling)
        return;
    journal_care_kick(j);
    if (j->care.active || j->jobs)
        return;
    if (!j->close_logged) {
        j->close_logged = true;
        r.u.uptime.up_ns = journal_up_ns(j);
        r.u.uptime.next_seg = j->man.state.next_seg;
        j->jobs++;
        journal_log(j, &r);
        journal_log_sync(j, close_logged, j);
        return;
    }
    if (j->ix_closing)
        return;
    j->ix_closing = true;
    jindex_close(j->ix, index_closed, j);
}

void
journal_job_done(struct journal *j)
{
    j->jobs--;
    if (j->closing && j->jobs == 0)
        close_step(j);
}

void
journal_close(struct journal *j, void (*closed)(void *arg), void *arg)
{
    j->closing = true;
    j->closed = closed;
    j->closed_arg = arg;
    io_timer_stop(&j->tick);
    io_timer_stop(&j->plant_hold);
    if (j->no_space || j->at_limit)
        j->stopped = true; /* what waits for space stays with the source */
    journal_commit_kick(j);
    journal_withdraw_go(j);
    j->jobs++;
    /* Through the manifest, so that closed() is never called in here. */
    journal_log_sync(j, close_logged, j);
}

int
journal_destroy(struct io_loop *loop, const char *dir, bool keep_replicas,
                struct err *err)
{
    char **names = NULL;
    size_t n = 0;
    int rc;

    if (!keep_replicas)
        return io_rmdir_tree(loop, dir, err);
    rc = io_list_dir(loop, dir, 1 << 20, &names, &n, err);
    for (size_t i = 0; i < n && rc == 0; i++) {
        char path[4096];

        if (strncmp(names[i], "replica.", 8) == 0 ||
            strncmp(names[i], "kept", 4) == 0)
            continue;
        (void)snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        rc = io_unlink(loop, path);
        if (rc < 0)
            (void)err_set(err, rc, ERR_JNL_0001, "cannot remove %s: %s", path,
                          err_errno(rc));
    }
    io_list_free(names, n);
    if (rc == 0)
        rc = io_sync_dir(loop, dir, err);
    return rc == -ENOENT ? 0 : rc;
}

void
journal_set_limits(struct journal *j, uint64_t history_ns,
                   uint64_t hard_limit_bytes, uint64_t warn_bytes)
{
    struct man_rec r = { .type = MAN_QUOTA,
                         .u.quota = { history_ns, hard_limit_bytes,
                                      warn_bytes } };

    j->cfg.history_ns = history_ns;
    j->cfg.hard_limit_bytes = hard_limit_bytes;
    j->cfg.warn_bytes = warn_bytes;
    j->warned = false;
    journal_log(j, &r);
    journal_log_sync(j, NULL, NULL);
    journal_commit_kick(j);
    journal_retain(j);
}

void
journal_set_overwrite(struct journal *j, bool overwrite_full)
{
    j->cfg.overwrite_full = overwrite_full;
    journal_retain(j);
}

/* --- the lane's tail ------------------------------------------------------- */

void
journal_tail(const struct journal *j, struct journal_tail *out)
{
    const struct man_state *s = &j->man.state;

    *out = (struct journal_tail){
        .any = s->any_incarnation,
        .incarnation = s->incarnation,
        .durable_batch = j->d_batch,
        .durable_seq = j->d_seq,
        .taken_batch = j->rx_batch,
        .taken_seq = j->rx_seq,
        .fencing_epoch = s->epoch,
        .generation = s->generation,
        .in_resync = (j->offer & OFFER_IN_RESYNC) != 0,
        .lost = j->deg.open,
        .sync_wanted = journal_sync_wanted(j),
        .offered_any = points_count(&j->points) > 0,
    };
    memcpy(out->digest, j->d_digest, 16);
}

void
journal_begin_incarnation(struct journal *j, const struct incarnation_id *id,
                          void (*done)(void *arg, int res), void *arg)
{
    if (j->man.state.any_incarnation && !j->inc_pending &&
        uuid_equal(&j->man.state.incarnation.u, &id->u)) {
        journal_log_sync(j, done, arg);
        return;
    }
    if (j->inc_pending || j->inc_done) {
        answer(j, -EBUSY, done, arg); /* one at a time */
        return;
    }
    j->inc_pending = true;
    j->inc_next = *id;
    j->inc_done = done;
    j->inc_arg = arg;
    journal_commit_kick(j);
}

void
journal_set_fencing_epoch(struct journal *j, uint32_t epoch,
                          void (*done)(void *arg, int res), void *arg)
{
    struct man_rec r = { .type = MAN_FENCING, .u.epoch = epoch };

    if (epoch > j->man.state.epoch)
        journal_log(j, &r);
    journal_log_sync(j, done, arg);
}

void
journal_sync_data(struct journal *j, struct journal_sync_write *w)
{
    jindex_sync_write(j->ix, w);
}

void
journal_log_good(struct journal *j)
{
    struct man_state *s = &j->man.state;
    struct io_extent part[32];

    for (size_t i = s->n_bad; i-- > 0;) {
        struct man_bad b = s->bad[i];
        size_t n = jindex_bad_parts(j->ix, b.vol, b.off, b.len, part,
                                    ARRAY_SIZE(part));
        struct man_rec r = { .type = MAN_BAD };

        if (n > ARRAY_SIZE(part) ||
            (n == 1 && part[0].off == b.off && part[0].len == b.len))
            continue;
        /* First what stays, then the whole is taken back: a torn append
         * leaves too much unknown, never too little. */
        for (size_t k = 0; k < n; k++) {
            r.u.bad = (struct man_bad){ b.vol, part[k].off, part[k].len };
            journal_log(j, &r);
        }
        r.type = MAN_GOOD;
        r.u.bad = b;
        journal_log(j, &r);
    }
}

struct flushing {
    struct journal *j;
    void (*done)(void *arg, int res);
    void *arg;
};

static void
flushed(void *arg, int res)
{
    struct flushing *f = arg;
    struct journal *j = f->j;

    if (res == 0)
        journal_log_good(j);
    if (res == 0 && j->man.added != j->man.durable)
        journal_log_sync(j, f->done, f->arg);
    else
        f->done(f->arg, res);
    free(f);
    journal_job_done(j);
}

void
journal_sync_flush(struct journal *j, void (*done)(void *arg, int res),
                   void *arg)
{
    struct flushing *f = malloc(sizeof *f);

    if (!f) {
        answer(j, -ENOMEM, done, arg);
        return;
    }
    *f = (struct flushing){ j, done, arg };
    j->jobs++;
    jindex_sync_flush(j->ix, flushed, f);
}

/* --- checkpoints ------------------------------------------------------------ */

static void
tell_point(const struct journal *j, const struct point_rec *p,
           struct journal_point *out)
{
    const struct man_state *s = &j->man.state;
    uint64_t up = journal_up_ns(j);
    size_t lo = 0, hi = s->n_tags;

    *out = (struct journal_point){
        .cut_no = p->cut_no,
        .seq = p->seq,
        .wall_ns = p->wall_ns,
        .age_ns = up > p->up_ns ? up - p->up_ns : 0,
        .kind = p->kind,
        .consistency = p->consistency,
        .damaged = journal_seq_damaged(j, p->seq),
    };
    if (!(p->flags & POINT_TAGGED))
        return;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;

        if (s->tags[mid]->cut_no < p->cut_no)
            lo = mid + 1;
        else
            hi = mid;
    }
    if (lo < s->n_tags && s->tags[lo]->cut_no == p->cut_no)
        memcpy(out->tag, s->tags[lo]->text, sizeof out->tag);
}

size_t
journal_points(const struct journal *j, uint64_t from_ns, uint64_t to_ns,
               size_t skip, struct journal_point *out, size_t max)
{
    size_t n = 0;

    for (size_t i = points_lower(&j->points, from_ns);
         i < points_count(&j->points) && n < max; i++) {
        const struct point_rec *p = points_at(&j->points, i);

        if (p->wall_ns < from_ns || p->wall_ns > to_ns) {
            if (j->points.wall_rises && p->wall_ns > to_ns)
                break;
            continue;
        }
        if (skip > 0)
            skip--;
        else
            tell_point(j, p, &out[n++]);
    }
    return n;
}

size_t
journal_points_count(const struct journal *j)
{
    return points_count(&j->points);
}

static int
tell_or_none(const struct journal *j, const struct point_rec *p,
             struct journal_point *out)
{
    if (!p)
        return -ENOENT;
    tell_point(j, p, out);
    return 0;
}

int
journal_point_find(const struct journal *j, uint64_t cut_no,
                   struct journal_point *out)
{
    return tell_or_none(j, points_find(&j->points, cut_no), out);
}

int
journal_point_at(const struct journal *j, uint64_t wall_ns,
                 struct journal_point *out)
{
    return tell_or_none(j, points_by_wall(&j->points, wall_ns), out);
}

int
journal_point_oldest(const struct journal *j, struct journal_point *out)
{
    return tell_or_none(j,
                        points_count(&j->points) ? points_at(&j->points, 0)
                                                 : NULL,
                        out);
}

int
journal_point_newest(const struct journal *j, struct journal_point *out)
{
    size_t n = points_count(&j->points);

    return tell_or_none(j, n ? points_at(&j->points, n - 1) : NULL, out);
}

/* --- views ------------------------------------------------------------------ */

/* A point that is not there is answered later, as all is. */
struct no_view {
    struct io_work work;
    struct journal *j;
    uint64_t cut_no;
    void (*opened)(void *arg, struct journal_view *v, int res,
                   const struct err *err);
    void *arg;
};

static void
no_view_run(struct io_work *w)
{
    UNUSED(w);
}

static void
no_view_done(struct io_work *w)
{
    struct no_view *n = container_of(w, struct no_view, work);
    struct journal *j = n->j;
    struct err e = ERR_INIT;

    (void)err_set(&e, -ENOENT, ERR_JNL_0014,
                  "journal %s: checkpoint %" PRIu64 " %s", j->dir, n->cut_no,
                  j->man.state.any_floor && n->cut_no < j->man.state.floor.cut_no
                      ? "has left the history"
                      : "is not offered");
    n->opened(n->arg, NULL, -ENOENT, &e);
    free(n);
    journal_job_done(j);
}

void
journal_view_open(struct journal *j, const struct journal_view_config *cfg,
                  void (*opened)(void *arg, struct journal_view *v, int res,
                                 const struct err *err),
                  void *arg)
{
    struct journal_point p;
    struct no_view *n;

    if (journal_point_find(j, cfg->cut_no, &p) == 0) {
        jindex_view_open(j->ix, cfg, &p, opened, arg);
        return;
    }
    n = calloc(1, sizeof *n);
    if (!n) {
        opened(arg, NULL, -ENOMEM, NULL);
        return;
    }
    *n = (struct no_view){
        .j = j, .cut_no = cfg->cut_no, .opened = opened, .arg = arg
    };
    n->work = (struct io_work){ .run = no_view_run, .done = no_view_done };
    j->jobs++;
    io_work_submit(j->loop, &n->work);
}

/* A view knows its loop, but not its journal. */
static struct journal *
journal_of_view(struct journal_view *v)
{
    struct blkdev *d = journal_view_dev(v, journal_view_config(v)->vols[0]);
    struct journal_view *have[JOURNAL_VIEWS_MAX];
    struct journal *found = NULL;
    struct list *l;

    pthread_mutex_lock(&registry_lock);
    list_for_each (l, &registry) {
        struct journal *j = list_entry(l, struct journal, registry);
        size_t n;

        /* One of another loop is another thread's, and never this one. */
        if (found || !d || j->loop != d->loop || !j->ready)
            continue;
        n = jindex_views(j->ix, have, JOURNAL_VIEWS_MAX);
        for (size_t i = 0; i < n; i++)
            if (have[i] == v)
                found = j;
    }
    pthread_mutex_unlock(&registry_lock);
    return found;
}

void
journal_view_discard(struct journal_view *v, void (*closed)(void *arg),
                     void *arg)
{
    jindex_view_discard(journal_of_view(v)->ix, v, closed, arg);
}

size_t
journal_views(struct journal *j, struct journal_view **out, size_t max)
{
    return jindex_views(j->ix, out, max);
}

/* --- care ------------------------------------------------------------------- */

void
journal_stats(const struct journal *j, struct journal_stats *out)
{
    struct jindex_stats ix;
    size_t n = points_count(&j->points);

    jindex_stats(j->ix, &ix);
    *out = j->st;
    out->used_bytes = j->used + ix.run_bytes;
    out->limit_bytes = j->cfg.hard_limit_bytes;
    out->replica_bytes = ix.replica_bytes;
    out->overlay_bytes = ix.overlay_bytes;
    out->segments = j->man.state.n_segs;
    out->runs = ix.runs;
    out->promotions = ix.promotions;
    out->promoted_bytes = ix.promoted_bytes;
    out->received_seq = j->rx_seq;
    out->durable_seq = j->d_seq;
    out->promoted_seq = j->man.state.promoted;
    out->floor_cut = j->man.state.any_floor ? j->man.state.floor.cut_no : 0;
    out->stopped = j->stopped;
    out->full = j->no_space;
    out->held = j->held;
    out->reserve_bytes = reserve_size(j->reserve);
    out->degraded = j->deg.on;
    if (n) {
        uint64_t up = journal_up_ns(j), was = points_at(&j->points, 0)->up_ns;

        out->history_ns = up > was ? up - was : 0;
    }
}
