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
 */
#include <stdlib.h>
#include <string.h>

#include "io/file.h"
#include "stream/link.h"

enum {
    SYNC_BUFFERS = 16, /* straight ranges that hold a buffer */
    SYNC_RETRY_S = 5,  /* after a read error of the backing device */
};
#define SYNC_EXTENT_WINDOW (4 * GIB)

static void sync_read_done(struct capture_read *rq, int res);
static void sync_extents_done(struct blkdev_req *rq, int res);

static void
sync_retry(struct io_timer *t)
{
    struct sync *y = container_of(t, struct sync, retry);

    y->wake(y->arg);
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
}

void
sync_begin(struct sync *y, bool straight, const uint16_t *vols,
           const uint64_t *sizes, unsigned n)
{
    y->active = true;
    y->straight = straight;
    y->waiting = false;
    y->n_volumes = n;
    y->vi = 0;
    y->cursor = 0;
    y->ext_n = y->ext_i = 0;
    y->total = y->done = 0;
    y->error = 0;
    y->next_id = 1;
    for (unsigned i = 0; i < n; i++) {
        y->vols[i] = vols[i];
        y->sizes[i] = sizes[i];
        y->total += sizes[i];
    }
}

static void
range_free_buf(struct sync_range *r)
{
    if (r->buf)
        io_mem_free(r->buf, SYNC_PIECE);
    r->buf = NULL;
}

static void
range_release(struct sync_range *r)
{
    range_free_buf(r);
    r->state = RANGE_FREE;
    r->drop = false;
    r->sync->busy--;
}

/* The current piece of r has arrived where it belongs. */
static void
range_piece_done(struct sync_range *r)
{
    r->sync->done += r->rq.len;
    r->off += r->rq.len;
    r->len -= r->rq.len;
    if (r->len == 0)
        range_release(r);
    else
        r->state = RANGE_TODO;
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
            range_release(r);
    }
    if (y->ext_pending)
        y->ext_abandoned = true;
}

bool
sync_idle(const struct sync *y)
{
    return y->reading == 0 && !y->ext_pending;
}

bool
sync_finished(const struct sync *y)
{
    return y->active && y->vi == y->n_volumes && y->busy == 0;
}

void
sync_link_down(struct sync *y)
{
    if (!y->active || !y->straight)
        return;
    for (unsigned i = 0; i < SYNC_RANGES; i++) {
        struct sync_range *r = &y->range[i];

        if (r->state == RANGE_READY || r->state == RANGE_SENT) {
            range_free_buf(r);
            r->state = RANGE_TODO;
        }
    }
    y->next_id = 1;
}

static void
sync_read_done(struct capture_read *rq, int res)
{
    struct sync_range *r = container_of(rq, struct sync_range, rq);
    struct sync *y = r->sync;

    y->reading--;
    if (r->drop) {
        range_release(r);
    } else if (res == 0 && y->straight) {
        r->state = RANGE_READY;
        if (rq->zero)
            range_free_buf(r);
    } else if (res == 0) {
        range_piece_done(r);
    } else {
        range_free_buf(r);
        r->state = RANGE_TODO;
        if (res == -E2BIG) { /* no longer a hole: in pieces */
            r->rq.len = 0;
        } else if (res == -EAGAIN) {
            y->waiting = true;
        } else {
            y->error = res;
            io_timer_set(&y->retry, SYNC_RETRY_S * NSEC_PER_SEC);
        }
    }
    y->wake(y->arg);
}

/* Start reading the next piece of r; false when it has to wait. */
static bool
range_read(struct sync_range *r, bool whole)
{
    struct sync *y = r->sync;
    uint64_t piece = y->straight ? SYNC_PIECE : SYNC_INBAND_PIECE;
    int rc;

    r->rq.vol = r->vol;
    r->rq.in_band = !y->straight;
    r->rq.off = r->off;
    r->rq.len = whole ? r->len : MIN(r->len, piece);
    r->rq.buf = NULL;
    /* A hole needs no buffer; capture_read says -E2BIG if it is none. */
    if (y->straight && r->rq.len <= SYNC_PIECE) {
        r->buf = io_mem_alloc(SYNC_PIECE);
        if (!r->buf) {
            io_timer_set(&y->retry, NSEC_PER_SEC);
            return false;
        }
        r->rq.buf = r->buf;
    }
    r->state = RANGE_READING;
    y->reading++;
    rc = capture_read(y->capture, &r->rq);
    if (rc == 0)
        return true;
    y->reading--;
    range_free_buf(r);
    r->state = RANGE_TODO;
    if (rc == -E2BIG) {
        r->rq.len = 0;
        return range_read(r, false);
    }
    if (rc == -EAGAIN) {
        y->waiting = true;
    } else {
        y->error = rc;
        io_timer_set(&y->retry, SYNC_RETRY_S * NSEC_PER_SEC);
    }
    return false;
}

static void
sync_extents_done(struct blkdev_req *rq, int res)
{
    struct sync *y = container_of(rq, struct sync, ext_rq);

    y->ext_pending = false;
    if (y->ext_abandoned) {
        y->ext_abandoned = false;
        y->ext_n = 0;
    } else {
        y->ext_n = res == 0 ? rq->ext_n : 0;
        y->ext_i = 0;
        y->ext_off = rq->off;
        if (y->ext_n == 0) { /* cannot tell: all of it is data */
            y->ext[0] = (struct blkdev_extent){ .len = rq->len };
            y->ext_n = 1;
        }
    }
    y->wake(y->arg);
}

/* The extent at the cursor: true and its end and kind, or a request for it. */
static bool
sync_extent(struct sync *y, uint64_t *out_end, bool *out_hole)
{
    while (y->ext_i < y->ext_n) {
        const struct blkdev_extent *e = &y->ext[y->ext_i];

        if (y->cursor >= y->ext_off && y->cursor < y->ext_off + e->len) {
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
sync_free_range(struct sync *y)
{
    for (unsigned i = 0; i < SYNC_RANGES; i++) {
        if (y->range[i].state == RANGE_FREE)
            return &y->range[i];
    }
    return NULL;
}

static unsigned
sync_buffers(const struct sync *y)
{
    unsigned n = 0;

    for (unsigned i = 0; i < SYNC_RANGES; i++)
        n += y->range[i].state == RANGE_READING ||
             y->range[i].state == RANGE_READY;
    return n;
}

void
sync_run(struct sync *y)
{
    unsigned max = y->straight ? SYNC_RANGES : SYNC_READS;

    if (!y->active || io_timer_armed(&y->retry))
        return;
    y->waiting = false;
    for (unsigned i = 0; i < SYNC_RANGES && y->busy > 0; i++) {
        struct sync_range *r = &y->range[i];

        if (r->state != RANGE_TODO)
            continue;
        if (y->reading >= SYNC_READS || sync_buffers(y) >= SYNC_BUFFERS ||
            !range_read(r, r->rq.len > SYNC_INBAND_PIECE))
            return;
    }
    while (y->vi < y->n_volumes && !y->ext_pending && y->busy < max &&
           y->reading < SYNC_READS && sync_buffers(y) < SYNC_BUFFERS) {
        struct sync_range *r;
        uint64_t end;
        bool hole;

        if (y->cursor >= y->sizes[y->vi]) {
            y->vi++;
            y->cursor = 0;
            y->ext_n = y->ext_i = 0;
            continue;
        }
        if (!sync_extent(y, &end, &hole))
            return;
        r = sync_free_range(y);
        if (!r)
            return;
        r->vol = y->vols[y->vi];
        r->off = y->cursor;
        r->len =
            MIN(end - y->cursor,
                hole ? BATCH_ZERO_MAX
                     : (uint64_t)(y->straight ? SYNC_PIECE : SYNC_INBAND_PIECE));
        y->cursor += r->len;
        y->busy++;
        r->state = RANGE_TODO;
        if (!range_read(r, true))
            return;
    }
}

struct sync_range *
sync_next(struct sync *y)
{
    if (!y->active || !y->straight)
        return NULL;
    for (unsigned i = 0; i < SYNC_RANGES; i++) {
        struct sync_range *r = &y->range[i];

        if (r->state == RANGE_READY) {
            r->state = RANGE_SENT;
            r->id = y->next_id++;
            return r;
        }
    }
    return NULL;
}

static struct sync_range *
range_by_id(struct sync *y, uint64_t id)
{
    for (unsigned i = 0; i < SYNC_RANGES; i++) {
        if (y->range[i].state == RANGE_SENT && y->range[i].id == id)
            return &y->range[i];
    }
    return NULL;
}

void
sync_sent(struct sync *y, uint64_t id)
{
    struct sync_range *r = range_by_id(y, id);

    if (r)
        range_free_buf(r);
}

void
sync_confirmed(struct sync *y, uint64_t id)
{
    if (!y->active)
        return;
    for (unsigned i = 0; i < SYNC_RANGES; i++) {
        struct sync_range *r = &y->range[i];

        if (r->state == RANGE_SENT && r->id <= id && !r->buf)
            range_piece_done(r);
    }
}

void
sync_again(struct sync *y, uint64_t id)
{
    struct sync_range *r = range_by_id(y, id);

    if (r && !r->buf)
        r->state = RANGE_TODO;
}
