/* The splitter: a block device over another one, through which every export
 * runs for ever.  Reads pass straight to the backing device.  What changes the
 * volume takes its range first, attached or not, so that two overlapping writes
 * are never in flight together (I2); then, when attached, its number and its
 * place in the lane; then it goes to the backing device unchanged (I4b).
 *
 *   FREE -> WAITING (for the range) -> RUNNING (with the backing) -> FREE
 *                ^                         |
 *                +---- AGAIN (next piece) -+
 *
 * ZERO and TRIM of more than 64 MiB run piece by piece, each with a range and a
 * number of its own; one reply after the last.
 *
 * A device may complete before its submit returns.  So whatever becomes
 * runnable is put on a list and run by splitter_run(), which is never on the
 * stack twice: the depth of the stack does not grow with the queue. */
#include <stdlib.h>

#include "capture/capture_impl.h"

unsigned capture_planted;

static struct splitter *
self(struct blkdev *d)
{
    return container_of(d, struct splitter, dev);
}

static void piece_begin(struct slot *s);
static void slot_done(struct blkdev_req *low, int res);

/* TRIM is done by a call that guarantees zeros or refuses (I23). */
static bool
can_punch(const struct splitter *sp)
{
    const unsigned both = BLKDEV_CAN_TRIM | BLKDEV_CAN_FAST_ZERO;

    return (sp->backing->info.features & both) == both;
}

/* --- one piece ---------------------------------------------------------- */

static void
slot_submit(struct slot *s)
{
    struct splitter *sp = s->splitter;
    const struct blkdev_req *up = s->up;

    s->low.op = up->op;
    s->low.flags = up->flags;
    s->low.off = s->off;
    s->low.len = s->len;
    s->low.buf = up->buf;
    s->low.origin = NULL; /* submitted: it completes by itself (I6) */
    s->low.done = slot_done;
    if (up->op == BLKDEV_TRIM) {
        s->low.op = BLKDEV_ZERO;
        s->low.flags = (up->flags & BLKDEV_FUA) | BLKDEV_FAST_ZERO;
    }
    blkdev_submit(sp->backing, &s->low);
}

/* The range is held. */
static void
slot_run(struct slot *s)
{
    struct splitter *sp = s->splitter;

    if (s->state == SLOT_WAITING) {
        list_del(&s->link);
        sp->waiting_n--;
    }
    s->state = SLOT_RUNNING;
    s->born_ns = io_mono_ns(sp->dev.loop);
    s->attach_gen = sp->attach_gen;
    list_push_back(&sp->in_flight, &s->link);
    sp->in_flight_n++;
    s->capture = NULL;
    s->entries_n = 0;
    if (sp->capture) {
        s->vol = sp->vol;
        capture_begin_write(sp->capture, s);
    }
    slot_submit(s);
}

static void
slot_granted(struct range_node *n)
{
    slot_run(container_of(n, struct slot, node));
}

/* Take the range of the next piece. */
static void
piece_begin(struct slot *s)
{
    struct splitter *sp = s->splitter;
    uint64_t end = s->up->off + s->up->len;

    s->len = end - s->off;
    if (s->up->op != BLKDEV_WRITE)
        s->len = MIN(s->len, BATCH_ZERO_MAX);
    s->locked = !(capture_planted & CAPTURE_PLANT_NO_RANGE_LOCK);
    if (s->locked && !rangelock_take(&sp->lock, &s->node, s->off, s->len)) {
        s->state = SLOT_WAITING;
        list_push_back(&sp->waiting, &s->link);
        sp->waiting_n++;
        return;
    }
    slot_run(s);
}

static void
slot_unlock(struct slot *s)
{
    if (s->locked)
        rangelock_release(&s->splitter->lock, &s->node);
    s->locked = false;
}

static void
slot_free(struct slot *s)
{
    s->state = SLOT_FREE;
    s->up = NULL;
    list_push_front(&s->splitter->free, &s->link);
}

/* One less of those that ran when the volume was attached. */
static void
attach_progress(struct slot *s)
{
    struct splitter *sp = s->splitter;

    if (s->attach_gen != sp->attach_gen && sp->before_attach > 0 &&
        --sp->before_attach == 0 && sp->attached)
        io_defer(sp->dev.loop, &sp->attached_task);
}

static enum write_outcome
outcome_of(const struct slot *s, int res)
{
    if (res >= 0)
        return WRITE_DONE;
    if (res == -EOPNOTSUPP && s->low.op == BLKDEV_ZERO &&
        (s->low.flags & BLKDEV_FAST_ZERO))
        return WRITE_NOTHING;
    return WRITE_FAILED;
}

static void
slot_done(struct blkdev_req *low, int res)
{
    struct slot *s = container_of(low, struct slot, low);
    struct splitter *sp = s->splitter;
    struct blkdev_req *up = s->up;
    enum write_outcome outcome = outcome_of(s, res);

    list_del(&s->link);
    sp->in_flight_n--;
    attach_progress(s);
    if (s->capture)
        capture_settle(s, outcome);
    slot_unlock(s);
    if (outcome == WRITE_NOTHING && up->op == BLKDEV_TRIM)
        res = 0;
    if (res >= 0 && s->off + s->len < up->off + up->len) {
        if (!s->cancelled) {
            s->off += s->len;
            s->state = SLOT_AGAIN;
            list_push_back(&sp->again, &s->link);
            splitter_run(sp);
            return;
        }
        res = -ECANCELED; /* a dead client's later pieces never run (I6) */
    }
    slot_free(s);
    up->done(up, MIN(res, 0));
    splitter_run(sp);
}

static void
flush_done(struct blkdev_req *low, int res)
{
    struct slot *s = container_of(low, struct slot, low);
    struct splitter *sp = s->splitter;
    struct blkdev_req *up = s->up;

    list_del(&s->link);
    sp->flushing_n--;
    /* Attached meanwhile or no longer: the entry is a hint. */
    if (sp->capture && sp->attach_gen == s->attach_gen) {
        if (res >= 0)
            capture_flushed(sp->capture, sp->vol);
        else /* what the backing lost is not known */
            capture_break(sp->capture);
    }
    slot_free(s);
    up->done(up, MIN(res, 0));
    splitter_run(sp);
}

static void
flush_begin(struct slot *s)
{
    struct splitter *sp = s->splitter;

    s->state = SLOT_RUNNING;
    s->attach_gen = sp->attach_gen;
    list_push_back(&sp->flushing, &s->link);
    sp->flushing_n++;
    s->low.op = BLKDEV_FLUSH;
    s->low.flags = s->up->flags;
    s->low.off = s->low.len = 0;
    s->low.buf = NULL;
    s->low.origin = NULL;
    s->low.done = flush_done;
    blkdev_submit(sp->backing, &s->low);
}

/* --- requests ----------------------------------------------------------- */

/* A slot is free. */
static void
request_begin(struct splitter *sp, struct blkdev_req *up)
{
    struct slot *s = list_entry(list_pop_front(&sp->free), struct slot, link);

    s->up = up;
    s->off = up->off;
    s->cancelled = false;
    s->locked = false;
    if (up->op == BLKDEV_FLUSH)
        flush_begin(s);
    else
        piece_begin(s);
}

void
splitter_run(struct splitter *sp)
{
    if (sp->running)
        return;
    sp->running = true;
    for (;;) {
        struct range_node *n = rangelock_pop(&sp->lock);
        struct list *l;

        if (n) {
            n->granted(n);
        } else if ((l = list_pop_front(&sp->again))) {
            piece_begin(list_entry(l, struct slot, link));
        } else if (!list_empty(&sp->free) && (l = list_pop_front(&sp->queued))) {
            sp->waiting_n--;
            request_begin(sp, list_entry(l, struct blkdev_req, link));
        } else {
            break;
        }
    }
    sp->running = false;
}

static void
request_take(struct splitter *sp, struct blkdev_req *up)
{
    if (!list_empty(&sp->free) && list_empty(&sp->queued)) {
        request_begin(sp, up);
        return;
    }
    list_init(&up->link);
    list_push_back(&sp->queued, &up->link);
    sp->waiting_n++;
}

static void
splitter_submit(struct blkdev *d, struct blkdev_req *up)
{
    struct splitter *sp = self(d);

    switch (up->op) {
    case BLKDEV_READ:
        sp->reads++;
        sp->read_bytes += up->len;
        blkdev_submit(sp->backing, up);
        return;
    case BLKDEV_EXTENTS:
    case BLKDEV_CACHE: blkdev_submit(sp->backing, up); return;
    case BLKDEV_FLUSH:
        if (!sp->capture) {
            blkdev_submit(sp->backing, up);
            return;
        }
        break;
    case BLKDEV_TRIM:
        if (!can_punch(sp)) { /* nothing was done, so nothing is logged */
            up->done(up, 0);
            return;
        }
        sp->writes++;
        break;
    case BLKDEV_ZERO: sp->writes++; break;
    case BLKDEV_WRITE:
        sp->writes++;
        sp->write_bytes += up->len;
        break;
    }
    request_take(sp, up);
}

static void
cancel_slots(struct splitter *sp, struct list *from, const void *origin,
             struct list *gone)
{
    struct list *l, *tmp;

    list_for_each_safe (l, tmp, from) {
        struct slot *s = list_entry(l, struct slot, link);

        if (s->up->origin != origin)
            continue;
        list_del(l);
        if (s->state == SLOT_WAITING)
            sp->waiting_n--;
        slot_unlock(s);
        list_push_back(gone, &s->up->link);
        slot_free(s);
    }
}

static void
splitter_cancel(struct blkdev *d, const void *origin)
{
    struct splitter *sp = self(d);
    struct list gone, *l, *tmp;

    list_init(&gone);
    cancel_slots(sp, &sp->waiting, origin, &gone);
    cancel_slots(sp, &sp->again, origin, &gone);
    list_for_each_safe (l, tmp, &sp->queued) {
        if (list_entry(l, struct blkdev_req, link)->origin != origin)
            continue;
        list_del(l);
        sp->waiting_n--;
        list_push_back(&gone, l);
    }
    list_for_each (l, &sp->in_flight) {
        struct slot *s = list_entry(l, struct slot, link);

        if (s->up->origin == origin)
            s->cancelled = true;
    }
    while ((l = list_pop_front(&gone))) {
        struct blkdev_req *up = list_entry(l, struct blkdev_req, link);

        up->done(up, -ECANCELED);
    }
    blkdev_cancel(sp->backing, origin); /* reads that passed through */
    splitter_run(sp);
}

static void
splitter_close(struct blkdev *d)
{
    struct splitter *sp = self(d);

    if (sp->capture)
        capture_detach(sp->capture, sp->vol);
    io_task_cancel(&sp->attached_task);
    blkdev_close(sp->backing);
    free(sp);
}

static const struct blkdev_ops splitter_ops = {
    .kind = "splitter",
    .submit = splitter_submit,
    .cancel = splitter_cancel,
    .close = splitter_close,
};

static void
attached_fire(struct io_task *t)
{
    struct splitter *sp = container_of(t, struct splitter, attached_task);
    void (*done)(void *arg) = sp->attached;

    sp->attached = NULL;
    if (done)
        done(sp->attached_arg);
}

int
splitter_open(struct blkdev *backing, struct blkdev **out, struct err *err)
{
    struct splitter *sp;

    if (backing->info.min_block > RING_BLOCK_SIZE ||
        backing->info.size % SECTOR != 0)
        return err_set(err, -EINVAL, ERR_CAP_0005,
                       "volume of %llu bytes in blocks of %u: blocks must be "
                       "at most %d bytes, and the size whole sectors",
                       (unsigned long long)backing->info.size,
                       backing->info.min_block, RING_BLOCK_SIZE);
    sp = calloc(1, sizeof *sp);
    if (!sp)
        return err_set(err, -ENOMEM, ERR_GEN_0002, "splitter: out of memory");
    sp->dev.ops = &splitter_ops;
    sp->dev.loop = backing->loop;
    sp->dev.info = backing->info;
    /* Entries count in sectors. */
    sp->dev.info.min_block = MAX(backing->info.min_block, (uint32_t)SECTOR);
    sp->dev.info.pref_block =
        MAX(backing->info.pref_block, sp->dev.info.min_block);
    sp->backing = backing;
    rangelock_init(&sp->lock);
    list_init(&sp->free);
    list_init(&sp->waiting);
    list_init(&sp->in_flight);
    list_init(&sp->flushing);
    list_init(&sp->again);
    list_init(&sp->queued);
    io_task_init(&sp->attached_task, attached_fire);
    for (size_t i = 0; i < SPLITTER_SLOTS; i++) {
        struct slot *s = &sp->slots[i];

        s->splitter = sp;
        s->node.granted = slot_granted;
        list_init(&s->capture_link);
        list_push_back(&sp->free, &s->link);
    }
    *out = &sp->dev;
    return 0;
}

void
splitter_stats(const struct blkdev *splitter, struct splitter_stats *out)
{
    /* dev is its first member */
    const struct splitter *sp = (const struct splitter *)(const void *)splitter;
    uint64_t oldest = 0;

    if (!list_empty(&sp->in_flight))
        oldest = io_mono_ns(sp->dev.loop) -
                 list_entry(sp->in_flight.next, struct slot, link)->born_ns;
    *out = (struct splitter_stats){
        .writes = sp->writes,
        .write_bytes = sp->write_bytes,
        .reads = sp->reads,
        .read_bytes = sp->read_bytes,
        .in_flight = sp->in_flight_n + sp->flushing_n,
        .waiting = sp->waiting_n,
        .oldest_in_flight_ns = oldest,
    };
}

/* --- for capture.c ------------------------------------------------------ */

struct splitter *
splitter_of(struct blkdev *d)
{
    return d->ops == &splitter_ops ? self(d) : NULL;
}

void
splitter_attach(struct splitter *sp, struct capture *c, uint16_t vol,
                void (*done)(void *arg), void *arg)
{
    sp->capture = c;
    sp->vol = vol;
    sp->attach_gen++;
    sp->before_attach = sp->in_flight_n;
    sp->attached = done;
    sp->attached_arg = arg;
    if (sp->before_attach == 0 && done)
        io_defer(sp->dev.loop, &sp->attached_task);
}

void
splitter_detach(struct splitter *sp)
{
    sp->capture = NULL;
    sp->attached = NULL;
    io_task_cancel(&sp->attached_task);
}
