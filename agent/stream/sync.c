/* A sync: read a set of volumes once, while they are in use, and get what was
 * read to the other site, either as entries of the lane (in-band) or straight
 * into the replicas (datapath.md 5.2).
 *
 * The walk follows the backing device's extents: data in pieces, holes in
 * ranges of up to 64 MiB.  Each range is read by capture_read() under the range
 * lock, which decides again whether it is a hole.  In-band a range is done when
 * its entry is in the lane.  Straight, it is read, sent, and kept as a record
 * (no data) until the target says it is durable; after a link cut or a
 * SYNC_AGAIN it is simply read again.  Nothing is remembered across restarts:
 * an unclean start syncs whole.
 *
 * Straight writes go below everything that the journal holds, so they are right
 * only while the lane has lost nothing since the journal was empty; after a
 * loss an entry of before it would hide newer straight data for ever.  The
 * sender decides; after any loss a sync is in-band.
 *
 * Ids of straight writes go on over all syncs of one opening of the lane, so
 * that a late SYNC_DONE for a sync that was given up confirms nothing of the
 * next one.
 */
#include <stdlib.h>
#include <string.h>

#include "io/file.h"
#include "stream/link.h"

enum {
    SYNC_BUFFERS = 16, /* straight ranges that hold a buffer */
    SYNC_RETRY_S = 5,  /* after an error that is not the range's own */
    SYNC_ROOM_MS = 10, /* after a read that found no room when it was done */
    SYNC_PIECE_MIN = 4096,
    SYNC_PIECE_SHRINK = 8, /* an unreadable piece is tried in parts */
    SYNC_TURN = 64,        /* reads begun before the loop does other work */
};
#define SYNC_EXTENT_WINDOW (4 * GIB)

static void sync_read_done(struct capture_read *rq, int res);
static void sync_extents_done(struct blkdev_req *rq, int res);

static void
sync_kick(struct sync *y)
{
    io_defer(y->loop, &y->kick);
}

static void
sync_kicked(struct io_task *t)
{
    struct sync *y = container_of(t, struct sync, kick);

    y->wake(y->arg);
}

static void
sync_retry(struct io_timer *t)
{
    sync_kick(container_of(t, struct sync, retry));
}

void
sync_init(struct sync *y, struct io_loop *loop, struct capture *capture,
          void (*wake)(void *arg), void *arg)
{
    *y = (struct sync){
        .loop = loop,
        .capture = capture,
        .wake = wake,
        .arg = arg,
        .next_id = 1,
    };
    for (unsigned i = 0; i < SYNC_RANGES; i++) {
        y->range[i].sync = y;
        y->range[i].rq.done = sync_read_done;
    }
    io_timer_init(&y->retry, loop, sync_retry);
    io_task_init(&y->kick, sync_kicked);
}

void
sync_begin(struct sync *y, bool straight, const uint16_t *vols,
           const uint64_t *sizes, unsigned n)
{
    y->active = true;
    y->straight = straight;
    y->n_volumes = n;
    y->vi = 0;
    y->cursor = 0;
    y->ext_n = y->ext_i = 0;
    y->total = y->done = 0;
    for (unsigned i = 0; i < n; i++) {
        y->vols[i] = vols[i];
        y->sizes[i] = sizes[i];
        y->total += sizes[i];
        capture_resync_at(y->capture, vols[i], 0);
    }
}

static void
range_free_buf(struct sync_range *r)
{
    io_mem_free(r->buf, SYNC_PIECE);
    r->buf = NULL;
}

/* The counts of states are kept here and nowhere else. */
static void
range_set(struct sync_range *r, enum range_state state)
{
    struct sync *y = r->sync;

    y->reading -= r->state == RANGE_READING;
    y->ready -= r->state == RANGE_READY;
    y->busy -= r->state != RANGE_FREE;
    r->state = state;
    y->reading += state == RANGE_READING;
    y->ready += state == RANGE_READY;
    y->busy += state != RANGE_FREE;
    if (state != RANGE_READING && state != RANGE_READY)
        range_free_buf(r);
}

/* The current piece of r has arrived where it belongs. */
static void
range_piece_done(struct sync_range *r)
{
    r->sync->done += r->rq.len;
    r->off += r->rq.len;
    r->len -= r->rq.len;
    range_set(r, r->len == 0 ? RANGE_FREE : RANGE_TODO);
}

void
sync_abort(struct sync *y)
{
    y->active = false;
    io_timer_stop(&y->retry);
    for (unsigned i = 0; i < SYNC_RANGES; i++) {
        struct sync_range *r = &y->range[i];

        if (r->state == RANGE_READING)
            r->drop = true;
        else if (r->state != RANGE_FREE)
            range_set(r, RANGE_FREE);
    }
    if (y->ext_pending)
        y->ext_abandoned = true;
}

bool
sync_idle(const struct sync *y)
{
    return y->reading == 0 && !y->ext_pending;
}

void
sync_release(struct sync *y)
{
    sync_abort(y);
    io_task_cancel(&y->kick);
}

bool
sync_finished(const struct sync *y)
{
    return y->active && y->vi == y->n_volumes && y->busy == 0;
}

void
sync_reopen(struct sync *y)
{
    y->next_id = 1;
    y->confirmed = 0;
    for (unsigned i = 0; i < SYNC_RANGES; i++) {
        struct sync_range *r = &y->range[i];

        if (r->state == RANGE_READY || r->state == RANGE_SENT)
            range_set(r, RANGE_TODO);
    }
}

static void
sync_pause(struct sync *y)
{
    io_timer_set(&y->retry, SYNC_RETRY_S * NSEC_PER_SEC);
}

/* A read did not give the data.  -EAGAIN: wake() comes when it may work. */
static void
range_read_failed(struct sync_range *r, int res)
{
    struct sync *y = r->sync;

    range_set(r, RANGE_TODO);
    if (res == -E2BIG && r->hole) {
        r->hole = false; /* no longer one: in pieces */
    } else if (res == -ECANCELED || res == -ENOENT || res == -ENOMEM ||
               res == -EINVAL || res == -E2BIG) {
        sync_pause(y);
    } else if (res != -EAGAIN && r->rq.len > SYNC_PIECE_MIN) {
        r->piece = MAX(round_down(r->rq.len / SYNC_PIECE_SHRINK,
                                  (uint64_t)SYNC_PIECE_MIN),
                       (uint64_t)SYNC_PIECE_MIN);
        r->hole = false;
    } else if (res != -EAGAIN) {
        range_piece_done(r); /* a DIRTY in the lane stands for it */
    }
}

static void
sync_read_done(struct capture_read *rq, int res)
{
    struct sync_range *r = container_of(rq, struct sync_range, rq);
    struct sync *y = r->sync;

    if (r->drop) {
        r->drop = false;
        range_set(r, RANGE_FREE);
    } else if (res < 0) {
        range_read_failed(r, res);
        if (res == -EAGAIN)
            io_timer_set(&y->retry, SYNC_ROOM_MS * NSEC_PER_MSEC);
    } else if (y->straight) {
        range_set(r, RANGE_READY);
        if (rq->zero)
            range_free_buf(r);
    } else {
        range_piece_done(r);
    }
    sync_kick(y);
}

/* Start reading the next piece of r; false when it has to wait. */
static bool
range_read(struct sync_range *r)
{
    struct sync *y = r->sync;
    int rc;

    /* A large hole needs no buffer; capture_read says -E2BIG if it is none. */
    r->hole = r->hole && r->len > BATCH_WRITE_MAX;
    r->rq.vol = r->vol;
    r->rq.in_band = !y->straight;
    r->rq.off = r->off;
    r->rq.len = r->hole ? r->len : MIN(r->len, r->piece);
    r->rq.buf = NULL;
    range_set(r, RANGE_READING);
    if (y->straight && !r->hole) {
        r->buf = r->rq.buf = io_mem_alloc_uncleared(SYNC_PIECE);
        if (!r->buf) {
            range_read_failed(r, -ENOMEM);
            return false;
        }
    }
    rc = capture_read(y->capture, &r->rq);
    if (rc == 0)
        return true;
    range_read_failed(r, rc);
    return rc == -E2BIG && !io_timer_armed(&y->retry);
}

static void
sync_extents_done(struct blkdev_req *rq, int res)
{
    struct sync *y = container_of(rq, struct sync, ext_rq);

    y->ext_pending = false;
    y->ext_i = 0;
    y->ext_off = rq->off;
    y->ext_n = res == 0 && !y->ext_abandoned ? rq->ext_n : 0;
    if (y->ext_n == 0 || y->ext[0].len == 0) { /* unknown: all of it is data */
        y->ext[0] = (struct blkdev_extent){ .len = rq->len };
        y->ext_n = 1;
    }
    if (y->ext_abandoned)
        y->ext_n = 0;
    y->ext_abandoned = false;
    sync_kick(y);
}

/* The extent at the cursor: true and its end and kind, or a request for it. */
static bool
sync_extent(struct sync *y, uint64_t *out_end, bool *out_hole)
{
    while (y->ext_i < y->ext_n) {
        const struct blkdev_extent *e = &y->ext[y->ext_i];

        if (y->cursor >= y->ext_off && y->cursor - y->ext_off < e->len) {
            *out_end = MIN(y->ext_off + e->len, y->sizes[y->vi]);
            *out_hole = e->hole || e->zero;
            return true;
        }
        y->ext_off += e->len;
        y->ext_i++;
    }
    y->ext_pending = true;
    y->ext_rq = (struct blkdev_req){
        .op = BLKDEV_EXTENTS,
        .off = y->cursor,
        .len = MIN(y->sizes[y->vi] - y->cursor, SYNC_EXTENT_WINDOW),
        .ext = y->ext,
        .ext_max = SYNC_EXTENTS,
        .done = sync_extents_done,
    };
    capture_extents(y->capture, y->vols[y->vi], &y->ext_rq);
    return false;
}

static struct sync_range *
sync_range_in(struct sync *y, enum range_state state)
{
    for (unsigned i = 0; i < SYNC_RANGES; i++) {
        if (y->range[i].state == state)
            return &y->range[i];
    }
    return NULL;
}

/* The next range of the walk, still to be done; NULL: at its end, or extents are asked
 * for. */
static struct sync_range *
sync_walk(struct sync *y)
{
    struct sync_range *r;
    uint64_t end;
    bool hole;

    while (y->vi < y->n_volumes && y->cursor >= y->sizes[y->vi]) {
        y->vi++;
        y->cursor = 0;
        y->ext_n = y->ext_i = 0;
    }
    if (y->vi == y->n_volumes || y->ext_pending)
        return NULL;
    r = sync_range_in(y, RANGE_FREE);
    if (!r || !sync_extent(y, &end, &hole))
        return NULL;
    r->vol = y->vols[y->vi];
    r->off = y->cursor;
    r->piece = y->straight ? SYNC_PIECE : SYNC_INBAND_PIECE;
    r->hole = hole;
    r->len = MIN(end - y->cursor, hole ? BATCH_ZERO_MAX : r->piece);
    y->cursor += r->len;
    capture_resync_at(y->capture, r->vol, y->cursor);
    range_set(r, RANGE_TODO);
    return r;
}

static bool
sync_may_read(const struct sync *y)
{
    return y->reading < SYNC_READS && y->reading + y->ready < SYNC_BUFFERS &&
           !io_timer_armed(&y->retry);
}

void
sync_run(struct sync *y)
{
    unsigned max = y->straight ? SYNC_RANGES : SYNC_READS;

    if (!y->active)
        return;
    for (unsigned turn = 0; sync_may_read(y); turn++) {
        struct sync_range *r = sync_range_in(y, RANGE_TODO);

        if (turn == SYNC_TURN) { /* reads may complete at once, one by one */
            sync_kick(y);
            return;
        }
        if (!r && y->busy < max)
            r = sync_walk(y);
        if (!r || !range_read(r))
            return;
    }
}

struct sync_range *
sync_next(struct sync *y, void **out_buf)
{
    struct sync_range *r;

    if (!y->active || !y->straight || y->ready == 0 ||
        y->next_id - y->confirmed > SYNC_WINDOW)
        return NULL;
    r = sync_range_in(y, RANGE_READY);
    r->id = y->next_id++;
    *out_buf = r->buf;
    r->buf = NULL;
    range_set(r, RANGE_SENT);
    return r;
}

void
sync_confirmed(struct sync *y, uint64_t id)
{
    y->confirmed = MAX(y->confirmed, MIN(id, y->next_id - 1));
    for (unsigned i = 0; i < SYNC_RANGES; i++) {
        struct sync_range *r = &y->range[i];

        if (r->state == RANGE_SENT && r->id <= id)
            range_piece_done(r);
    }
}

void
sync_again(struct sync *y, uint64_t id)
{
    for (unsigned i = 0; i < SYNC_RANGES; i++) {
        struct sync_range *r = &y->range[i];

        if (r->state == RANGE_SENT && r->id == id)
            range_set(r, RANGE_TODO);
    }
}
