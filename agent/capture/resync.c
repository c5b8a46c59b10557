/* Reads for a resync, under the range lock: a write of the range that began
 * before has settled, and none begins until the data has its position in the
 * lane.  So in-band data needs no other ordering against live writes than its
 * sequence number, which is taken when the data is there: an entry of a resync
 * never stands unsettled before the sender (datapath.md 5.2). */
#include <string.h>

#include "capture/capture_impl.h"
#include "common/crc32c.h"

enum phase {
    READ_WAITING,
    READ_RUNNING
};

struct resync_read { /* capture_read.priv */
    struct range_node node;
    struct splitter *splitter;
    struct ringpool *pool;
    void *bounce;
    struct blkdev_extent ext;
    uint32_t reserved; /* bytes of the resync quarter */
    uint8_t tries, phase;
};
_Static_assert(sizeof(struct resync_read) <=
                   sizeof(((struct capture_read *)0)->priv),
               "a read fits its caller's place");

static struct resync_read *
priv(struct capture_read *rq)
{
    return (struct resync_read *)(void *)rq->priv;
}

static struct capture_read *
read_of(struct range_node *n)
{
    struct resync_read *r = container_of(n, struct resync_read, node);

    return container_of((uint64_t *)(void *)r, struct capture_read, priv[0]);
}

static void
unreserve(struct capture *c, struct resync_read *r)
{
    c->resync_bytes -= r->reserved;
    ring_resync_give(r->pool, r->reserved);
    r->reserved = 0;
}

/* Everything is given back; then the caller hears. */
static void
read_finish(struct capture_read *rq, int res)
{
    struct resync_read *r = priv(rq);
    struct splitter *sp = r->splitter;
    bool room = r->reserved > 0 || r->bounce;

    if (rq->capture) {
        list_del(&rq->link);
        unreserve(rq->capture, r);
    }
    if (r->bounce)
        ring_bounce_give(r->pool, r->bounce);
    rangelock_release(&sp->lock, &r->node);
    if (room)
        ring_room(r->pool);
    rq->done(rq, res);
    splitter_run(sp);
}

static bool
is_large(const struct capture_read *rq)
{
    return rq->len > BATCH_WRITE_MAX;
}

static void *
buffer(struct capture_read *rq)
{
    return rq->buf ? rq->buf : priv(rq)->bounce;
}

static int
no_room(struct capture *c)
{
    c->lane.want_room = true;
    return -EAGAIN;
}

/* The range is a hole, or its data is in the buffer. */
static int
append_content(struct capture *c, struct capture_read *rq)
{
    struct resync_read *r = priv(rq);
    uint64_t bytes = rq->zero ? 0 : rq->len;
    uint32_t len512 = (uint32_t)(rq->len >> SECTOR_SHIFT);
    uint64_t off512 = rq->off >> SECTOR_SHIFT;
    struct centry *e;

    if (c->state != CAPTURE_EXACT || !capture_room(c, 1, bytes))
        return no_room(c);
    if (rq->zero) {
        e = capture_append(c, ENTRY_ZERO, rq->vol, off512, len512);
        e->flags = ENTRY_RESYNC | ENTRY_MAY_PUNCH;
    } else {
        e = capture_append(c, ENTRY_RESYNC_WRITE, rq->vol, off512, len512);
        capture_payload(c, e, buffer(rq));
        r->reserved = 0; /* the entry has it now, until DURABLE */
    }
    e->state = CE_SETTLED;
    rq->after_seq = e->seq;
    capture_advance(c);
    return 0;
}

static void
read_content(struct capture_read *rq)
{
    struct capture *c = rq->capture;
    int rc = 0;

    rq->after_seq = c->seq;
    if (rq->in_band)
        rc = append_content(c, rq);
    else if (!is_large(rq))
        rq->crc = crc32c(0, rq->buf, rq->len);
    read_finish(rq, rc);
}

/* The source cannot read it.  A small range is given up: DIRTY, and the resync
 * can end.  Of a larger one the caller asks for the parts. */
static void
read_failed(struct capture_read *rq, int res)
{
    struct capture *c = rq->capture;

    if (rq->len <= READ_DIRTY_MAX) {
        if (c->state != CAPTURE_EXACT || !capture_room(c, 1, 0)) {
            res = no_room(c);
        } else {
            capture_append(c, ENTRY_DIRTY, rq->vol, rq->off >> SECTOR_SHIFT,
                           (uint32_t)(rq->len >> SECTOR_SHIFT))
                ->state = CE_SETTLED;
            rq->after_seq = c->seq;
            capture_advance(c);
        }
    }
    read_finish(rq, res);
}

static void read_submit(struct capture_read *rq);

static void
read_done(struct blkdev_req *low, int res)
{
    struct capture_read *rq = container_of(low, struct capture_read, req);
    struct resync_read *r = priv(rq);

    if (!rq->capture) { /* detached or freed meanwhile */
        read_finish(rq, -ECANCELED);
    } else if (res < 0 && ++r->tries < READ_TRIES) {
        read_submit(rq);
    } else if (res < 0) {
        read_failed(rq, res);
    } else if (is_large(rq)) {
        rq->zero = low->ext_n > 0 && r->ext.zero && r->ext.len >= rq->len;
        if (rq->zero)
            read_content(rq);
        else
            read_finish(rq, -E2BIG);
    } else {
        rq->zero = bytes_all_zero(buffer(rq), rq->len);
        read_content(rq);
    }
}

static void
read_submit(struct capture_read *rq)
{
    struct resync_read *r = priv(rq);

    rq->req = (struct blkdev_req){ .op = BLKDEV_READ,
                                   .off = rq->off,
                                   .len = rq->len,
                                   .buf = buffer(rq),
                                   .done = read_done };
    if (is_large(rq)) {
        rq->req.op = BLKDEV_EXTENTS;
        rq->req.flags = BLKDEV_EXT_ONE;
        rq->req.buf = NULL;
        rq->req.ext = &r->ext;
        rq->req.ext_max = 1;
    }
    blkdev_submit(r->splitter->backing, &rq->req);
}

static void
read_granted(struct range_node *n)
{
    struct capture_read *rq = read_of(n);

    priv(rq)->phase = READ_RUNNING;
    read_submit(rq);
}

/* What an in-band read with data will hold of the ring, and a buffer. */
static int
read_reserve(struct capture *c, struct capture_read *rq)
{
    struct resync_read *r = priv(rq);

    if (!rq->in_band || is_large(rq))
        return 0;
    if (c->state != CAPTURE_EXACT || capture_crowded(c))
        return no_room(c);
    if (rq->len > ringpool_size(c->pool) / 4)
        return -E2BIG;
    if (!ring_resync_take(c->pool, rq->len))
        return no_room(c);
    c->resync_bytes += rq->len;
    r->reserved = (uint32_t)rq->len;
    if (rq->buf)
        return 0;
    r->bounce = ring_bounce_take(c->pool);
    if (r->bounce)
        return 0;
    unreserve(c, r);
    return no_room(c);
}

int
capture_read(struct capture *c, struct capture_read *rq)
{
    struct splitter *sp = rq->vol < LANE_VOLUMES_MAX ? c->vols[rq->vol] : NULL;
    struct resync_read *r = priv(rq);
    int rc;

    if (!sp)
        return -ENOENT;
    if (rq->len == 0 || rq->off % SECTOR != 0 || rq->len % SECTOR != 0 ||
        !range_ok(rq->off, rq->len, sp->dev.info.size) ||
        (!rq->in_band && !rq->buf && !is_large(rq)))
        return -EINVAL;
    if (rq->len > BATCH_ZERO_MAX ||
        (is_large(rq) && !(sp->backing->info.features & BLKDEV_CAN_EXTENTS)))
        return -E2BIG;
    memset(rq->priv, 0, sizeof rq->priv);
    rq->zero = false;
    rq->after_seq = 0;
    rq->crc = 0;
    r->splitter = sp;
    r->pool = c->pool;
    rc = read_reserve(c, rq);
    if (rc < 0)
        return rc;
    rq->capture = c;
    list_push_back(&c->reads, &rq->link);
    r->node.granted = read_granted;
    if (rangelock_take(&sp->lock, &r->node, rq->off, rq->len))
        read_granted(&r->node);
    return 0;
}

void
resync_cancel(struct capture *c, const struct splitter *s)
{
    struct list gone, *l, *tmp;

    list_init(&gone);
    list_for_each_safe (l, tmp, &c->reads) {
        struct capture_read *rq = list_entry(l, struct capture_read, link);
        struct resync_read *r = priv(rq);

        if (s && r->splitter != s)
            continue;
        list_del(&rq->link);
        unreserve(c, r);
        rq->capture = NULL;
        if (r->phase == READ_WAITING)
            list_push_back(&gone, &rq->link);
    }
    /* Those that run end by themselves, and then say the same. */
    while ((l = list_pop_front(&gone)))
        read_finish(list_entry(l, struct capture_read, link), -ECANCELED);
}
