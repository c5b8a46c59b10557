/* What leaves the journal: by age, by size, by the disk's reserve.
 *
 * One promotion at a time: choose the cut K, make the views behind it
 * independent, FLOOR durable (no earlier point is offered from here on), the
 * replica changed and synced, PROMOTED durable, and then the segments and runs
 * that nobody reads go.  Never beyond the newest offered cut (I13).
 *
 * When that leaves nothing to promote and there is no room for what would bring
 * the next checkpoint, the lane stands, and a person is asked (docs/architecture.md,
 * section 5, "When there is no room").
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "journal/journal_internal.h"

#define RETRY_NS     (5 * NSEC_PER_SEC)
#define RETRY_MAX_NS (300 * NSEC_PER_SEC)
/* How long history must not have been cut for the alert to go. */
#define SHORT_HOLD_NS (600 * NSEC_PER_SEC)

/* --- choosing ---------------------------------------------------------------- */

static uint64_t
used_bytes(const struct journal *j)
{
    struct jindex_stats s;

    jindex_stats(j->ix, &s);
    return j->used + s.run_bytes;
}

/* The end of the last sealed segment that lies wholly at or before seq. */
static uint64_t
sealed_upto(const struct journal *j, uint64_t seq)
{
    const struct man_state *s = &j->man.state;
    uint64_t best = 0;

    for (size_t i = 0; i < s->n_segs; i++) {
        if (!s->segs[i].sealed || s->segs[i].last_seq > seq)
            break;
        /* The replica never ends inside a hole that points lie before. */
        if (points_count(&j->points) && journal_in_hole(j, s->segs[i].last_seq))
            continue;
        best = s->segs[i].last_seq;
    }
    return best;
}

/* The end of the segments that must go for `bytes` to be free. */
static uint64_t
seq_for_bytes(const struct journal *j, uint64_t bytes)
{
    const struct man_state *s = &j->man.state;
    uint64_t sum = 0, seq = 0;

    for (size_t i = 0; i < s->n_segs && sum < bytes; i++) {
        if (!s->segs[i].sealed)
            break;
        if (s->segs[i].last_seq <= s->promoted)
            continue;
        sum += s->segs[i].size;
        seq = s->segs[i].last_seq;
    }
    return seq;
}

static void
tell_short(struct journal *j, const struct point_rec *k)
{
    struct err e = ERR_INIT;
    uint64_t age = journal_up_ns(j) - MIN(k->up_ns, journal_up_ns(j));

    if (age >= j->cfg.history_ns)
        return;
    j->short_ns = io_mono_ns(j->loop);
    if (j->short_told)
        return;
    j->short_told = true;
    (void)err_set(&e, -ENOSPC, ERR_JNL_0010,
                  "journal %s: %" PRIu64 " MiB used of %s%" PRIu64
                  " MiB: history is cut to %" PRIu64 " s of %" PRIu64 " s",
                  j->dir, used_bytes(j) / MIB,
                  j->no_space ? "a store that is full, limit " : "",
                  j->cfg.hard_limit_bytes / MIB, age / NSEC_PER_SEC,
                  j->cfg.history_ns / NSEC_PER_SEC);
    journal_alert(j, &e);
}

/* On a full disk no further than the reserve pays for, but at least a segment. */
static uint64_t
affordable(const struct journal *j, uint64_t to_seq)
{
    const struct man_state *s = &j->man.state;
    uint64_t left = journal_reserve_left(j), sum = 0, seq = 0;

    if (!j->no_space)
        return to_seq;
    for (size_t i = 0; i < s->n_segs; i++) {
        if (s->segs[i].last_seq <= s->promoted)
            continue;
        if (!s->segs[i].sealed || s->segs[i].last_seq > to_seq)
            break;
        sum += MIN(s->segs[i].room, s->segs[i].size);
        if (seq && MIN(sum, j->replica_lacks) > left)
            break;
        seq = s->segs[i].last_seq;
    }
    return seq ? seq : to_seq;
}

/* Fill j->retain with the next promotion; false: nothing can or need be done. */
static bool
choose(struct journal *j)
{
    struct jretain *r = &j->retain;
    struct points *p = &j->points;
    uint64_t used = used_bytes(j), limit = journal_hard_limit(j);
    uint64_t up = journal_up_ns(j);
    const struct point_rec *k = NULL;

    *r = (struct jretain){ .failures = r->failures,
                           .full = r->full,
                           .failed_at_ns = r->failed_at_ns };
    r->pressed =
        j->no_space || j->at_limit || (limit && used + j->seg_size > limit);
    if (points_count(p) == 0) { /* nothing to keep; datapath.md 5.2 */
        uint64_t all = sealed_upto(j, UINT64_MAX);

        if (!r->pressed && seq_for_bytes(j, UINT64_MAX) == all &&
            j->man.state.n_segs < 8)
            return false;
        r->to_seq = affordable(j, all);
        return all > j->man.state.promoted;
    }
    if (up > j->cfg.history_ns)
        k = points_by_age(p, up - j->cfg.history_ns);
    if (k && jindex_lowest_pin(j->ix) < k->seq) {
        uint64_t pin = jindex_lowest_pin(j->ix);

        /* The newest point at or before the pin. */
        k = points_by_seq(p, pin);
        if (k && k->seq > pin)
            k = k > points_at(p, 0) ? k - 1 : NULL;
    }
    if (r->pressed) {
        uint64_t want =
            limit && used > limit - limit / 8 ? used - (limit - limit / 8) : 1;
        uint64_t seq = seq_for_bytes(j, MAX(want, j->seg_size));
        const struct point_rec *s = points_by_seq(p, seq);

        if (!s)
            s = points_at(p, points_count(p) - 1);
        if (!k || s->seq > k->seq) {
            k = s;
            if (sealed_upto(j, k->seq) > j->man.state.promoted)
                tell_short(j, k);
        }
    }
    if (!k)
        return false;
    r->to_seq = affordable(j, sealed_upto(j, k->seq));
    r->floor = (struct man_floor){ .cut_no = k->cut_no, .seq = k->seq };
    r->set_floor = true;
    return r->to_seq > j->man.state.promoted;
}

/* --- the steps --------------------------------------------------------------- */

static void
ended(struct journal *j, int res)
{
    struct jretain *r = &j->retain;

    r->active = false;
    journal_give_end(j);
    journal_replica_changed(j);
    if (res < 0) {
        r->failures++;
        r->failed_at_ns = io_mono_ns(j->loop);
        r->full = journal_no_space_error(res);
    } else {
        if (r->failures)
            journal_settled(j, ERR_JNL_0059);
        r->failures = 0;
    }
    journal_withdraw_go(j);
    journal_recycle(j);
    journal_commit_kick(j);
    journal_job_done(j);
}

static void
promoted_logged(void *arg, int res)
{
    struct journal *j = arg;

    if (res == 0)
        jindex_promoted(j->ix, j->retain.to_seq);
    ended(j, res);
}

static void
promoted(void *arg, int res, uint64_t bytes)
{
    struct journal *j = arg;
    struct man_rec r = { .type = MAN_PROMOTED, .u.seq = j->retain.to_seq };

    UNUSED(bytes);
    if (res < 0) { /* the index has told why */
        ended(j, res);
        return;
    }
    journal_log_good(j);
    journal_log(j, &r);
    journal_log_sync(j, promoted_logged, j);
}

static void
floor_logged(void *arg, int res)
{
    struct journal *j = arg;

    if (res < 0) {
        ended(j, res);
        return;
    }
    /* FLOOR is on disk before the first byte of the replica changes (I13);
     * otherwise a crash here would offer points the replica has passed. */
    jindex_promote(j->ix, j->retain.to_seq, promoted, j);
}

static void
converted(void *arg, int res)
{
    struct journal *j = arg;
    struct jretain *r = &j->retain;
    struct man_rec m = { .type = MAN_FLOOR, .u.floor = r->floor };

    if (res < 0) {
        ended(j, res);
        return;
    }
    if (!r->set_floor) {
        floor_logged(j, 0);
        return;
    }
    if (j->man.state.any_floor && r->floor.seq < j->man.state.floor.seq) {
        ended(j, 0); /* points were withdrawn meanwhile */
        return;
    }
    journal_log(j, &m);
    points_drop_before(&j->points, r->floor.seq);
    journal_log_sync(j, floor_logged, j);
}

static void
warn(struct journal *j)
{
    struct err e = ERR_INIT;
    uint64_t used;

    if (!j->cfg.warn_bytes)
        return;
    used = used_bytes(j);
    if (j->warned && used < j->cfg.warn_bytes - j->cfg.warn_bytes / 8) {
        j->warned = false;
        journal_settled(j, ERR_JNL_0012);
    }
    if (j->warned || used < j->cfg.warn_bytes)
        return;
    j->warned = true;
    (void)err_set(&e, -ENOSPC, ERR_JNL_0012,
                  "journal %s: %" PRIu64 " MiB used, warning at %" PRIu64 " MiB",
                  j->dir, used / MIB, j->cfg.warn_bytes / MIB);
    journal_alert(j, &e);
}

/* A lane at its limit is cut again and again: it is over when that has not been
 * for a while. */
static void
short_over(struct journal *j)
{
    if (!j->short_told || io_mono_ns(j->loop) - j->short_ns < SHORT_HOLD_NS)
        return;
    j->short_told = false;
    journal_settled(j, ERR_JNL_0010);
}

void
journal_retain(struct journal *j)
{
    struct jretain *r = &j->retain;
    /* Space may be made at any moment. */
    uint64_t pause =
        r->full ? RETRY_NS : MIN(RETRY_NS << MIN(r->failures, 6U), RETRY_MAX_NS);

    if (r->active || j->closing || !j->ix || j->deg.on ||
        !list_empty(&j->withdrawals))
        return;
    warn(j);
    short_over(j);
    if (r->failures && io_mono_ns(j->loop) - r->failed_at_ns < pause)
        return;
    if (!choose(j)) {
        journal_held_set(j, journal_stands(j));
        if (j->held == JOURNAL_HELD_BY_LIMIT && j->cfg.overwrite_full)
            (void)journal_overwrite(j, NULL);
        return;
    }
    r->active = true;
    j->jobs++;
    journal_give_begin(j);
    /* Also with nothing offered: views of before read the replica. */
    jindex_convert(j->ix, r->set_floor ? r->floor.seq : r->to_seq + 1,
                   converted, j);
}

/* --- nothing is offered any more ----------------------------------------------- */

struct withdrawal {
    struct list link; /* journal.withdrawals */
    struct journal *j;
    uint64_t upto; /* what had been appended */
    uint64_t to;   /* PROMOTED becomes */
    void (*done)(void *arg, int res);
    void *arg;
};

static void
withdraw_end(struct withdrawal *w, int res)
{
    struct journal *j = w->j;

    j->retain.active = false;
    journal_give_end(j);
    journal_replica_changed(j);
    if (res == 0 && j->d_seq < w->upto) {
        /* There was no room for the rest.  Now there is: another round. */
        journal_recycle(j);
        journal_commit_kick(j);
        return;
    }
    list_del(&w->link);
    if (w->done)
        w->done(w->arg, res);
    free(w);
    journal_withdraw_go(j);
    journal_recycle(j);
    journal_commit_kick(j);
    journal_job_done(j);
}

static void
withdraw_logged(void *arg, int res)
{
    struct withdrawal *w = arg;

    if (res == 0)
        jindex_promoted(w->j->ix, w->to);
    withdraw_end(w, res);
}

static void
withdraw_promoted(void *arg, int res, uint64_t bytes)
{
    struct withdrawal *w = arg;
    struct man_rec r = { .type = MAN_PROMOTED, .u.seq = w->to };

    UNUSED(bytes);
    if (res < 0) {
        withdraw_end(w, res);
        return;
    }
    journal_log_good(w->j);
    journal_log(w->j, &r);
    journal_log_sync(w->j, withdraw_logged, w);
}

static void
withdraw_floored(void *arg, int res)
{
    struct withdrawal *w = arg;

    if (res < 0 || w->to <= w->j->man.state.promoted)
        withdraw_end(w, res);
    else
        jindex_promote(w->j->ix, w->to, withdraw_promoted, w);
}

void
journal_tell_given_up(struct journal *j)
{
    struct err e = ERR_INIT;

    j->given_up = true;
    (void)err_set(&e, -ENODATA, ERR_JNL_0018,
                  "journal %s: the checkpoints up to %" PRIu64
                  " are given up to overwrite the replica: nothing is offered "
                  "until the next one",
                  j->dir, j->man.state.floor.cut_no);
    journal_alert(j, &e);
}

static void
withdraw_converted(void *arg, int res)
{
    struct withdrawal *w = arg;
    struct journal *j = w->j;
    struct man_rec r = { .type = MAN_FLOOR };
    size_t n = points_count(&j->points);

    if (res < 0) {
        withdraw_end(w, res);
        return;
    }
    r.u.floor = (struct man_floor){
        .cut_no = n ? points_at(&j->points, n - 1)->cut_no
                    : j->man.state.floor.cut_no,
        .seq = MAX(w->to, j->man.state.floor.seq),
        .none = true,
    };
    journal_log(j, &r);
    if (n)
        journal_tell_given_up(j);
    points_drop_before(&j->points, r.u.floor.seq + 1);
    journal_log_sync(j, withdraw_floored, w);
}

/* The first one goes on when what came before it is durable and no promotion
 * is under way.  Where there is no room to make it durable, what is goes first. */
void
journal_withdraw_go(struct journal *j)
{
    const struct man_state *s = &j->man.state;
    struct withdrawal *w;
    bool done_all = s->any_floor && s->floor.none && s->floor.seq >= j->d_seq &&
                    s->promoted >= j->d_seq;

    if (list_empty(&j->withdrawals) || j->retain.active)
        return;
    w = list_entry(j->withdrawals.next, struct withdrawal, link);
    if (j->closing || j->stopped) {
        j->retain.active = true;
        withdraw_end(w, j->closing ? -ECANCELED : -EROFS);
        return;
    }
    if (j->d_seq < w->upto && ((!j->at_limit && !j->no_space) || done_all))
        return;
    journal_held_set(j, JOURNAL_NOT_HELD);
    j->retain = (struct jretain){ .active = true };
    journal_give_begin(j);
    w->to = MAX(j->d_seq, j->man.state.promoted);
    jindex_convert(j->ix, w->to + 1, withdraw_converted, w);
}

static void
withdraw_begin(void *arg, int res)
{
    struct journal *j = arg;

    UNUSED(res);
    journal_withdraw_go(j);
    journal_job_done(j);
}

static int
withdraw(struct journal *j, uint64_t upto, void (*done)(void *arg, int res),
         void *arg)
{
    struct withdrawal *w = calloc(1, sizeof *w);

    if (!w)
        return -ENOMEM;
    w->j = j;
    w->upto = upto;
    w->done = done;
    w->arg = arg;
    j->jobs += 2;
    list_push_back(&j->withdrawals, &w->link);
    journal_log_sync(j, withdraw_begin, j); /* never inside the call */
    return 0;
}

void
journal_withdraw_points(struct journal *j, void (*done)(void *arg, int res),
                        void *arg)
{
    if (withdraw(j, j->rx_seq, done, arg) < 0)
        done(arg, -ENOMEM);
}

/* What is durable goes; a checkpoint among the batches that wait for room is
 * the next one that is offered. */
int
journal_overwrite(struct journal *j, struct err *err)
{
    if (j->held == JOURNAL_NOT_HELD || !list_empty(&j->withdrawals) ||
        j->stopped || j->closing)
        return err_set(err, -EBUSY, ERR_JNL_0019,
                       "journal %s does not stand for want of room: its points "
                       "stay",
                       j->dir);
    if (withdraw(j, j->d_seq, NULL, NULL) < 0)
        return err_set(err, -ENOMEM, ERR_GEN_0002, "no memory for a journal");
    return 0;
}

/* --- giving back --------------------------------------------------------------- */

struct recycling {
    struct journal *j;
    uint32_t segs[JOURNAL_RECYCLE];
    uint64_t sizes[JOURNAL_RECYCLE];
    size_t n_segs;
    struct run_info runs[JOURNAL_RECYCLE];
    size_t n_runs;
    uint32_t gone[JOURNAL_RECYCLE]; /* to unlink */
    size_t n_gone, n_reserve; /* so many of them go to the reserve instead */
    struct io_work work;
};

static void
unlink_run(struct io_work *w)
{
    struct recycling *c = container_of(w, struct recycling, work);

    for (size_t i = 0; i < c->n_gone; i++) {
        char path[4096], name[SEG_NAME_MAX];

        seg_name(c->gone[i], name);
        (void)snprintf(path, sizeof path, "%s/%s", c->j->dir, name);
        if (i < c->n_reserve && reserve_take(c->j->reserve, path))
            continue;
        /* A file that stays is not named any more; recovery removes it. */
        (void)io_unlink(c->j->loop, path);
    }
}

static void
recycled(struct io_work *w)
{
    struct recycling *c = container_of(w, struct recycling, work);
    struct journal *j = c->j;
    bool more = c->n_segs == JOURNAL_RECYCLE || c->n_runs == JOURNAL_RECYCLE;

    free(c);
    j->recycling = false;
    journal_grow_again(j);
    if (more)
        journal_recycle(j);
    /* First who waits for what is free now; then, does it suffice? */
    journal_commit_kick(j);
    journal_retain(j);
    journal_job_done(j);
}

static void
recycle_logged(void *arg, int res)
{
    struct recycling *c = arg;
    struct journal *j = c->j;
    uint64_t have = reserve_size(j->reserve), want = journal_reserve_want(j);

    for (size_t i = 0; i < c->n_runs && res == 0; i++)
        jindex_delete_run(j->ix, &c->runs[i]);
    for (size_t i = 0; i < c->n_segs && res == 0; i++) {
        jindex_drop_segment(j->ix, c->segs[i]);
        seg_store_drop(j->segs, c->segs[i]);
        j->used -= MIN(j->used, c->sizes[i]);
        j->st.recycled++;
        /* On a full disk one's own old segments are the only new ones; first
         * they make good what promotion took. */
        if (journal_lost(j, c->segs[i])) {
            c->gone[c->n_gone++] = c->segs[i]; /* no file to use again */
        } else if (j->full_told && have < want && c->n_gone == c->n_reserve) {
            have += c->sizes[i];
            c->gone[c->n_gone++] = c->segs[i];
            c->n_reserve = c->n_gone;
        } else if (j->n_free < JOURNAL_FREE_FILES && c->sizes[i] >= j->seg_size &&
                   have >= want && !j->at_limit && !j->closing) {
            j->free_sizes[j->n_free] = c->sizes[i];
            j->free_files[j->n_free++] = c->segs[i];
        } else {
            c->gone[c->n_gone++] = c->segs[i];
        }
    }
    c->work = (struct io_work){ .run = unlink_run, .done = recycled };
    io_work_submit(j->loop, &c->work);
}

void
journal_recycle(struct journal *j)
{
    struct man_state *s = &j->man.state;
    struct man_rec r = { .type = MAN_SEG_DEL };
    struct recycling *c;

    if (j->recycling || j->closing || j->stopped || j->deg.on || !j->ix)
        return;
    c = calloc(1, sizeof *c);
    if (!c)
        return; /* later */
    c->j = j;
    /* The newest segment stays: it holds the lane's tail. */
    for (size_t i = 0; i + 1 < s->n_segs && c->n_segs < JOURNAL_RECYCLE; i++) {
        if (!s->segs[i].sealed || s->segs[i].last_seq > s->promoted)
            break;
        if (!jindex_segment_free(j->ix, s->segs[i].no))
            continue;
        c->segs[c->n_segs] = s->segs[i].no;
        c->sizes[c->n_segs++] = s->segs[i].size;
    }
    c->n_runs = jindex_dead_runs(j->ix, c->runs, JOURNAL_RECYCLE);
    if (c->n_segs + c->n_runs == 0) {
        free(c);
        return;
    }
    for (size_t i = 0; i < c->n_segs; i++) {
        r.u.seg.no = c->segs[i];
        journal_log(j, &r);
    }
    r.type = MAN_RUN_DEL;
    for (size_t i = 0; i < c->n_runs; i++) {
        r.u.run = c->runs[i];
        journal_log(j, &r);
    }
    j->recycling = true;
    j->jobs++;
    journal_log_sync(j, recycle_logged, c);
}
