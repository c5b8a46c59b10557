/* The room that a lane has: its hard limit, and the disk of its store.
 *
 * At the hard limit: when retention can pass nothing more, the lane stands, and
 * a person is asked (JNL-0017).  On a full disk promotion, which frees segments,
 * may have to allocate in the replica first; therefore a batch is written only
 * when the reserve holds what its segment may come to need there, and a lane
 * whose reserve cannot grow takes no more batches (JNL-0009), but promotes.
 * docs/architecture.md, section 5, "When there is no room", has the states.
 */
#include <inttypes.h>
#include <stdlib.h>

#include "journal/journal_internal.h"

#define GROW_LEAST \
 (128 * KIB) /* room of a segment, doubled with what it takes */
#define BASE          (128 * KIB)
#define POINTS_MOST   MIB
#define GROW_RETRY_NS (NSEC_PER_SEC)
#define GROW_OTHER_NS (60 * NSEC_PER_SEC) /* after an error that is not space */
#define SHRINK_SLACK  (4 * MIB)
#define STEP          (64 * KIB) /* of the size that it should have */

/* --- the hard limit --------------------------------------------------------- */

uint64_t
journal_hard_limit(const struct journal *j)
{
    uint64_t limit = j->cfg.hard_limit_bytes;

    return limit ? MAX(limit, 2 * j->cfg.segment_min) : 0;
}

/* More than this no sync of everything takes, in a lane that stands now. */
static uint64_t
needed_bytes(const struct journal *j)
{
    uint64_t sum = 0;

    for (unsigned i = 0; i < j->cfg.n_volumes; i++)
        sum += j->cfg.volumes[i].size;
    return j->used + sum + sum / 16 + 2 * j->cfg.segment_max;
}

static void
ask(struct journal *j)
{
    const struct point_rec *p =
        points_at(&j->points, points_count(&j->points) - 1);
    uint64_t need = needed_bytes(j);
    struct err e = ERR_INIT;

    (void)err_set(&e, -ENOSPC, ERR_JNL_0017,
                  "journal %s: %" PRIu64 " MiB of its hard limit of %" PRIu64
                  " MiB are used and all of it is needed to keep checkpoint "
                  "%" PRIu64 ", the last good one: replication stands.  A limit "
                  "of %" PRIu64 " MiB is enough for a sync of everything",
                  j->dir, j->used / MIB, journal_hard_limit(j) / MIB, p->cut_no,
                  (need + MIB - 1) / MIB);
    journal_alert(j, &e);
}

void
journal_held_set(struct journal *j, enum journal_held held)
{
    enum journal_held was = j->held;

    j->held = held;
    if (was == held)
        return;
    if (was == JOURNAL_HELD_BY_LIMIT)
        journal_settled(j, ERR_JNL_0017);
    if (held == JOURNAL_HELD_BY_LIMIT)
        ask(j);
}

/* choose() found nothing.  Is that for want of room?  While something is still
 * on its way out the answer is the one of before. */
enum journal_held
journal_stands(const struct journal *j)
{
    const struct man_state *s = &j->man.state;

    if ((!j->at_limit && !j->no_space) || points_count(&j->points) == 0)
        return JOURNAL_NOT_HELD;
    if (j->recycling || !list_empty(&j->sealing) ||
        (s->n_segs > 1 && s->segs[0].last_seq <= s->promoted))
        return j->held;
    return j->at_limit ? JOURNAL_HELD_BY_LIMIT : JOURNAL_HELD_BY_STORE;
}

/* --- the reserve ------------------------------------------------------------ */

/* What the entries of a batch may allocate in the replica: whole blocks, each
 * as often as it is written. */
uint64_t
journal_batch_room(const struct batch_view *v)
{
    uint64_t sum = 0;

    for (uint32_t i = 0; i < v->hdr.n_entries; i++) {
        struct lane_entry e;
        uint64_t end;

        batch_entry(v, i, &e);
        if (e.type != ENTRY_WRITE && e.type != ENTRY_RESYNC_WRITE)
            continue;
        end = round_up((e.off512 + e.len512) * 512, SEG_ALIGN);
        sum += end - round_down(e.off512 * 512, (uint64_t)SEG_ALIGN);
    }
    return sum;
}

/* The same of a segment's tables: what recovery found. */
uint64_t
journal_tables_room(const struct seg_tables *t)
{
    uint32_t n = seg_tables_entries(t);
    uint64_t sum = 0;

    for (uint32_t i = 0; i < n; i++) {
        struct lane_entry e;
        uint64_t end;

        lane_entry_decode(t->entries + (size_t)i * BATCH_ENTRY_SIZE, &e);
        if (e.type != ENTRY_WRITE && e.type != ENTRY_RESYNC_WRITE)
            continue;
        end = round_up((e.off512 + e.len512) * 512, SEG_ALIGN);
        sum += end - round_down(e.off512 * 512, (uint64_t)SEG_ALIGN);
    }
    return sum;
}

/* Not for the replica: the manifest and the checkpoints, written afresh. */
static uint64_t
base(const struct journal *j)
{
    const struct man_state *s = &j->man.state;
    uint64_t sum = BASE;

    sum += s->n_segs * 256 + s->n_runs * 96 + s->n_bad * 64;
    sum += s->n_views * 1024 + s->n_tags * sizeof(struct man_tag);
    sum += MIN(points_count(&j->points) * POINTS_REC, (size_t)POINTS_MOST);
    return round_up(sum, STEP);
}

/* A segment cannot pay for more than it gives back, and the replica not take more
 * than it lacks. */
static uint64_t
capped(const struct journal *j, uint64_t room, uint64_t size)
{
    return MIN(MIN(room, size), j->replica_lacks);
}

/* Only promotion and straight writes change it. */
void
journal_replica_changed(struct journal *j)
{
    struct jindex_stats st;
    uint64_t sum = 0;

    jindex_stats(j->ix, &st);
    for (unsigned i = 0; i < j->cfg.n_volumes; i++)
        sum += j->cfg.volumes[i].size;
    j->replica_lacks = sum > st.replica_bytes ? sum - st.replica_bytes : 0;
}

static uint64_t
largest_room(const struct journal *j)
{
    const struct man_state *s = &j->man.state;
    uint64_t most = 0;

    for (size_t i = 0; i < s->n_segs; i++)
        if (!s->segs[i].sealed || s->segs[i].last_seq > s->promoted)
            most = MAX(most, capped(j, s->segs[i].room, s->segs[i].size));
    return most;
}

/* Once is enough to promote any one segment; twice is aimed at, since others may
 * take what is given up. */
static uint64_t
least(const struct journal *j, uint64_t room)
{
    return base(j) + MAX(largest_room(j), room);
}

static uint64_t
wanted(const struct journal *j, uint64_t room)
{
    return base(j) + round_up(2 * MAX(largest_room(j), room), STEP);
}

uint64_t
journal_reserve_want(const struct journal *j)
{
    uint64_t room = j->open ? j->open->room : 0;
    uint64_t size = j->open ? j->open->header.size : j->seg_size;

    return wanted(j, capped(j, MAX(room, (uint64_t)GROW_LEAST), size));
}

/* What is left of it above `base` for one promotion. */
uint64_t
journal_reserve_left(const struct journal *j)
{
    uint64_t have = reserve_size(j->reserve), keep = base(j);

    return have > keep ? have - keep : 0;
}

static void
grow_run(struct io_work *w)
{
    struct jgrow *g = container_of(w, struct jgrow, work);

    g->err = (struct err)ERR_INIT;
    g->res = reserve_set(g->j->reserve, g->want, &g->err);
    if (journal_no_space_error(g->res) && g->less < g->want)
        g->res = reserve_set(g->j->reserve, g->less, &g->err);
}

static void
grow_done(struct io_work *w)
{
    struct jgrow *g = container_of(w, struct jgrow, work);
    struct journal *j = g->j;

    g->active = false;
    g->failed_ns = g->res < 0 ? io_mono_ns(j->loop) : 0;
    g->other = g->res < 0 && !journal_no_space_error(g->res);
    if (g->other && !g->told)
        journal_alert(j, &g->err);
    g->told = g->other;
    if (g->res == 0 || g->other || g->must)
        journal_commit_kick(j);
    journal_job_done(j);
}

/* less: when want is too much.  must: a batch waits for it. */
static void
grow(struct journal *j, uint64_t want, uint64_t less, bool must)
{
    struct jgrow *g = &j->grow;

    g->must = g->must || must;
    if (g->active || (j->closing && !must))
        return;
    /* Blocks that another lane has given up for its promotion are that one's. */
    if (j->turns->giving > (j->giving ? 1U : 0U)) {
        j->stopped = j->stopped || j->closing; /* nothing comes to try again */
        return;
    }
    g->active = true;
    g->j = j;
    g->must = must;
    g->want = want;
    g->less = less;
    g->work = (struct io_work){ .run = grow_run, .done = grow_done };
    j->jobs++;
    io_work_submit(j->loop, &g->work);
}

bool
journal_covers(const struct journal *j, const struct jsegment *s, uint64_t room)
{
    uint64_t sum = (s ? s->room : 0) + room;

    sum = capped(j, sum, s ? s->header.size : UINT64_MAX);
    return j->grow.other || reserve_size(j->reserve) >= least(j, sum);
}

enum journal_cover
journal_cover(struct journal *j, const struct jsegment *s, uint64_t room)
{
    uint64_t size = s ? s->header.size : MAX(j->seg_size, room);
    uint64_t sum = (s ? s->room : 0) + room;
    uint64_t less = least(j, capped(j, sum, size));
    uint64_t want =
        wanted(j, capped(j, MAX(2 * sum, (uint64_t)GROW_LEAST), size));
    uint64_t since = io_mono_ns(j->loop) - j->grow.failed_ns;
    bool lately = j->grow.failed_ns && since < GROW_RETRY_NS;
    struct err e = ERR_INIT;

    if (journal_covers(j, s, room)) {
        /* Ahead of the need, so that no batch waits for it. */
        if (!lately && !j->grow.other && reserve_size(j->reserve) < want)
            grow(j, want, want, false);
        return COVER_YES;
    }
    if (!lately || j->grow.active) {
        grow(j, want, less, true);
        return COVER_LATER;
    }
    (void)err_set(&e, -ENOSPC, ERR_JNL_0009,
                  "journal %s: the reserve of %" PRIu64
                  " KiB, without which a full store would stop promotion, "
                  "cannot grow to %" PRIu64 " KiB",
                  j->dir, reserve_size(j->reserve) / KIB, less / KIB);
    journal_no_space(j, &e);
    return COVER_NO;
}

void
journal_grow_again(struct journal *j)
{
    if (!j->grow.other)
        j->grow.failed_ns = 0;
}

bool
journal_give(void *arg, uint64_t bytes)
{
    struct journal *j = arg;

    return reserve_give(j->reserve, bytes, j->reserve_keep);
}

void
journal_give_begin(struct journal *j)
{
    j->reserve_keep = base(j);
    if (j->no_space && !j->giving) {
        j->giving = true;
        j->turns->giving++;
    }
}

void
journal_give_end(struct journal *j)
{
    if (j->giving)
        j->turns->giving--;
    j->giving = false;
}

/* Made whole after promotion took from it; given back when the lane has become
 * idle. */
void
journal_space_tick(struct journal *j)
{
    uint64_t pause = j->grow.other ? GROW_OTHER_NS : GROW_RETRY_NS;
    uint64_t have, want;

    journal_replica_changed(j);
    have = reserve_size(j->reserve);
    want = journal_reserve_want(j);
    j->reserve_keep = base(j);
    if (j->grow.active || j->retain.active ||
        (j->grow.failed_ns && io_mono_ns(j->loop) - j->grow.failed_ns < pause))
        return;
    if (have < want || have > 2 * want + SHRINK_SLACK)
        grow(j, want, want, false);
}

/* --- full, and not any more ------------------------------------------------- */

void
journal_no_space(struct journal *j, struct err *why)
{
    if (!j->full_told) {
        (void)err_prefix(why, "the store is full");
        why->code = ERR_JNL_0009;
        journal_alert(j, why);
    }
    j->full_told = true;
    j->no_space = true;
    if (j->closing)
        j->stopped = true; /* what waits for space stays with the source */
    /* Runs would eat what promotion needs; it does without them. */
    jindex_pause_builds(j->ix, true);
    journal_credit_changed(j);
    journal_retain(j);
}

/* from_disk: not only one's own old segment, or the reserve. */
void
journal_space_found(struct journal *j, bool from_disk)
{
    if (j->full_told && from_disk) {
        j->full_told = false;
        journal_settled(j, ERR_JNL_0009);
    }
    if (!j->no_space)
        return;
    j->no_space = false;
    journal_held_set(j, JOURNAL_NOT_HELD);
    jindex_pause_builds(j->ix, false);
    journal_credit_changed(j);
}
