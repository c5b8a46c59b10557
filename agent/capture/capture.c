/* The lane's source: sequence, entries in memory, states.
 *
 *                ring full                 ring below half of what was held
 *      EXACT ──────────────▶ COLLAPSED ─────────────────────┐
 *        │ ▲                                                ▼
 *        │ └──────── capture_resync_begin() ───────────── BROKEN
 *        └── failed write or sync, unclean start ───────────▲
 *
 * Only in EXACT are writes kept.  In COLLAPSED and in BROKEN each takes its
 * number and nothing else: after either, the whole volume is read again, so
 * keeping them would fill ring and link with what nobody can use (no cut is
 * possible before that resync has ended).  capture_resync_begin() closes the
 * gap: it appends GAP(first number not kept .. last number given), alone in its
 * batch, then RESYNC_BEGIN, and from there on every write is in the lane again.
 *
 * Nothing falls between: a write that took its number in the gap and is still
 * with the backing device holds its range, and a resync read of that range
 * waits for it.  If such a write fails later, the lane is BROKEN anew.
 *
 * What is in the ring when it overflows stays there and is delivered exactly,
 * in front of the gap.  COLLAPSED ends when the lane holds at most half the
 * blocks it held at the overflow, so that a resync does not run into the same
 * wall at once. */
#include <stdlib.h>
#include <string.h>

#include "capture/capture_impl.h"
#include "common/crc32c.h"

enum {
    COPY_STEP = 4096
}; /* copied and summed while it is in the L1 cache */

/* --- entries ------------------------------------------------------------ */

struct centry *
fifo_at(const struct capture *c, struct fifo_pos *pos)
{
    if (pos->i == FIFO_PER_BLOCK)
        *pos = (struct fifo_pos){ .block = c->pool->blocks[pos->block].next };
    return (struct centry *)(void *)(ring_data(c->pool, pos->block) +
                                     (size_t)pos->i * 64);
}

static void
fifo_reset(struct capture *c)
{
    c->head = c->tail = c->ready_end = (struct fifo_pos){ .block = RING_NONE };
}

/* Room for one more; capture_room() has said yes. */
static struct centry *
fifo_push(struct capture *c)
{
    struct ringpool *p = c->pool;

    if (c->tail.block == RING_NONE) {
        c->tail = (struct fifo_pos){ .block = ring_take(p, &c->lane) };
        c->head = c->ready_end = c->tail;
    } else if (c->tail.i == FIFO_PER_BLOCK) {
        uint32_t b = ring_take(p, &c->lane);

        p->blocks[c->tail.block].next = b;
        c->tail = (struct fifo_pos){ .block = b };
    }
    c->n_entries++;
    c->tail.i++;
    return (struct centry *)(void *)(ring_data(p, c->tail.block) +
                                     (size_t)(c->tail.i - 1) * 64);
}

void
fifo_pop(struct capture *c)
{
    struct ringpool *p = c->pool;
    uint32_t b;

    (void)fifo_at(c, &c->head);
    b = c->head.block;
    c->n_entries--;
    c->head.i++;
    if (c->n_entries == 0) {
        ring_give(p, &c->lane, b);
        fifo_reset(c);
    } else if (c->head.i == FIFO_PER_BLOCK) {
        c->head = (struct fifo_pos){ .block = p->blocks[b].next };
        /* the end of the ready ones may stand behind the last of this block */
        if (c->ready_end.block == b)
            c->ready_end = c->head;
        ring_give(p, &c->lane, b);
    }
}

void
block_unref(struct capture *c, uint32_t block)
{
    struct ring_block *b = &c->pool->blocks[block];

    b->refs--;
    if (b->refs == 1 && block == c->fill) { /* nothing in it any more */
        b->refs = 0;
        c->fill = RING_NONE;
    }
    if (b->refs == 0)
        ring_give(c->pool, &c->lane, block);
}

void
entry_drop_payload(struct capture *c, const struct centry *e)
{
    uint32_t left = e->len512 << SECTOR_SHIFT;
    uint32_t block = e->block, off = e->block_off;

    if (!e->payload)
        return;
    while (left > 0) {
        uint32_t n = MIN(left, RING_BLOCK_SIZE - off);
        uint32_t next = c->pool->blocks[block].next;

        block_unref(c, block);
        left -= n;
        block = next;
        off = 0;
    }
}

bool
capture_room(const struct capture *c, uint64_t n, uint64_t bytes)
{
    uint64_t need = 0, left = 0;

    if (c->fill != RING_NONE)
        left = RING_BLOCK_SIZE - c->pool->blocks[c->fill].used;
    if (bytes > left)
        need = (bytes - left + RING_BLOCK_SIZE - 1) / RING_BLOCK_SIZE;
    left = c->tail.block == RING_NONE ? 0 : FIFO_PER_BLOCK - c->tail.i;
    if (n > left)
        need += (n - left + FIFO_PER_BLOCK - 1) / FIFO_PER_BLOCK;
    return need == 0 || ring_can_take(c->pool, &c->lane, need);
}

struct centry *
capture_append(struct capture *c, uint8_t type, uint16_t vol, uint64_t off512,
               uint32_t len512)
{
    struct centry *e = fifo_push(c);

    *e = (struct centry){ .seq = ++c->seq,
                          .off512 = off512,
                          .birth_ns = io_mono_ns(c->loop),
                          .len512 = len512,
                          .vol = vol,
                          .type = type,
                          .state = CE_PENDING };
    c->entries_total++;
    return e;
}

/* Copy and sum in one pass over the cache.  The sum is of the source, so that
 * what goes wrong in the copy is found at the other side. */
static uint32_t
copy_crc(uint8_t *dst, const uint8_t *src, uint32_t n)
{
    uint32_t crc = 0;

    for (uint32_t at = 0; at < n; at += COPY_STEP) {
        uint32_t step = MIN(n - at, (uint32_t)COPY_STEP);

        memcpy(dst + at, src + at, step);
        crc = crc32c(crc, src + at, step);
    }
    return crc;
}

static void
fill_next(struct capture *c)
{
    uint32_t old = c->fill;
    uint32_t b = ring_take(c->pool, &c->lane);

    c->fill = b; /* its reference is from ring_take() */
    if (old == RING_NONE)
        return;
    c->pool->blocks[old].next = b;
    block_unref(c, old);
}

void
capture_payload(struct capture *c, struct centry *e, const void *src)
{
    const uint8_t *from = src;
    uint32_t left = e->len512 << SECTOR_SHIFT;
    struct ringpool *p = c->pool;

    if (c->fill == RING_NONE || p->blocks[c->fill].used == RING_BLOCK_SIZE)
        fill_next(c);
    e->block = c->fill;
    e->block_off = p->blocks[c->fill].used;
    e->payload = true;
    c->lag_bytes += left;
    c->raw_total += left;
    for (;;) {
        struct ring_block *b = &p->blocks[c->fill];
        uint32_t n = MIN(left, RING_BLOCK_SIZE - b->used);
        uint32_t crc = copy_crc(ring_data(p, c->fill) + b->used, from, n);

        if (b->used == 0)
            b->in_crc = crc;
        b->out_crc = crc;
        b->used += n;
        b->refs++;
        e->crc = from == src ? crc : crc32c_combine(e->crc, crc, n);
        from += n;
        left -= n;
        if (left == 0)
            return;
        fill_next(c);
    }
}

/* --- state -------------------------------------------------------------- */

void
capture_wake(struct capture *c)
{
    io_defer(c->loop, &c->wake_task);
}

static void
wake_run(struct io_task *t)
{
    struct capture *c = container_of(t, struct capture, wake_task);

    if (c->cfg.wake)
        c->cfg.wake(c->cfg.arg);
}

static void
lane_room(struct ring_lane *l)
{
    capture_wake(container_of(l, struct capture, lane));
}

/* A number without an entry. */
static void
gap_extend(struct capture *c, uint64_t n, uint64_t bytes)
{
    if (c->gap_first == 0) {
        c->gap_first = c->seq + 1;
        c->gap_birth_ns = io_mono_ns(c->loop);
    }
    c->seq += n;
    c->collapsed_bytes += bytes;
}

void
capture_check_room(struct capture *c)
{
    if (c->state != CAPTURE_COLLAPSED || c->lane.used > c->collapse_used / 2)
        return;
    c->state = CAPTURE_BROKEN;
    capture_wake(c);
}

static void
capture_collapse(struct capture *c)
{
    c->state = CAPTURE_COLLAPSED;
    c->collapse_used = c->lane.used;
    c->collapses++;
    capture_wake(c);
    capture_check_room(c);
}

void
capture_break(struct capture *c)
{
    if (c->state != CAPTURE_EXACT)
        return; /* COLLAPSED becomes BROKEN in its own time */
    c->state = CAPTURE_BROKEN;
    capture_wake(c);
}

/* --- writes ------------------------------------------------------------- */

static void
slot_entries(struct capture *c, struct slot *s)
{
    const struct blkdev_req *up = s->up;
    const uint8_t *from = up->buf;
    uint64_t off = s->off, left = s->len;

    while (left > 0) {
        uint64_t n = left;
        struct centry *e;

        if (up->op == BLKDEV_WRITE)
            n = MIN(left, (uint64_t)BATCH_WRITE_MAX);
        e = capture_append(c, up->op == BLKDEV_WRITE ? ENTRY_WRITE : ENTRY_ZERO,
                           s->vol, off >> SECTOR_SHIFT,
                           (uint32_t)(n >> SECTOR_SHIFT));
        if (s->entries_n++ == 0) {
            s->entry = c->tail;
            s->entry.i--;
        }
        if (up->op == BLKDEV_WRITE) {
            capture_payload(c, e, from);
            from += n;
        } else if (!(up->flags & BLKDEV_NO_HOLE)) {
            e->flags = ENTRY_MAY_PUNCH;
        }
        off += n;
        left -= n;
    }
}

void
capture_begin_write(struct capture *c, struct slot *s)
{
    uint64_t bytes = s->up->op == BLKDEV_WRITE ? s->len : 0;
    uint64_t n = 1;

    if (bytes > 0)
        n = (bytes + BATCH_WRITE_MAX - 1) / BATCH_WRITE_MAX;
    s->entries_n = 0;
    if (c->state == CAPTURE_EXACT && s->off >= c->resync_at[s->vol])
        return; /* also when it fails: the read will tell what is there */
    s->capture = c;
    list_push_back(&c->slots, &s->capture_link);
    if (c->state == CAPTURE_EXACT && !capture_room(c, n, bytes))
        capture_collapse(c);
    if (c->state == CAPTURE_EXACT)
        slot_entries(c, s);
    else
        gap_extend(c, n, s->len);
}

static void
entry_settle(struct capture *c, struct centry *e, enum write_outcome outcome)
{
    e->state = CE_SETTLED;
    if (outcome == WRITE_DONE)
        return;
    if (e->payload) {
        entry_drop_payload(c, e);
        c->lag_bytes -= (uint64_t)e->len512 << SECTOR_SHIFT;
    }
    e->payload = false;
    e->crc = 0;
    e->flags = 0;
    if (outcome == WRITE_FAILED) {
        e->type = ENTRY_DIRTY;
    } else {
        e->type = ENTRY_NOP;
        e->off512 = 0;
        e->len512 = 0;
    }
}

void
capture_settle(struct slot *s, enum write_outcome outcome)
{
    struct capture *c = s->capture;

    list_del(&s->capture_link);
    s->capture = NULL;
    for (uint32_t i = 0; i < s->entries_n; i++) {
        entry_settle(c, fifo_at(c, &s->entry), outcome);
        s->entry.i++;
    }
    s->entries_n = 0;
    if (outcome == WRITE_FAILED)
        capture_break(c);
    capture_check_room(c); /* a dropped payload gave blocks back */
    capture_advance(c);
}

/* A flush-aligned position.  Only a hint, so a full ring just leaves it out. */
void
capture_flushed(struct capture *c, uint16_t vol)
{
    if (c->state != CAPTURE_EXACT || !capture_room(c, 1, 0))
        return;
    capture_append(c, ENTRY_FLUSH, vol, 0, 0)->state = CE_SETTLED;
    capture_advance(c);
}

static bool
ends_batch(const struct centry *e)
{
    return e->type == ENTRY_CUT_COMMIT || e->type == ENTRY_GAP;
}

void
capture_advance(struct capture *c)
{
    uint64_t before = c->n_ready;

    while (c->n_ready < c->n_entries) {
        const struct centry *e = fifo_at(c, &c->ready_end);

        if (e->state != CE_SETTLED)
            break;
        if (e->payload)
            c->ready_raw += (uint64_t)e->len512 << SECTOR_SHIFT;
        c->ready_closers += ends_batch(e);
        c->ready_end.i++;
        c->n_ready++;
    }
    if (c->n_ready > before && (c->told_idle || pack_due(c)))
        capture_wake(c);
}

/* --- control entries ---------------------------------------------------- */

/* n bytes, padded to sectors; capture_room() has said yes. */
static struct centry *
control_append(struct capture *c, uint8_t type, const uint8_t *p, size_t n)
{
    uint8_t padded[CONTROL_PAYLOAD_MAX] = { 0 };
    struct centry *e;

    memcpy(padded, p, n);
    e = capture_append(c, type, 0, 0, (uint32_t)((n + SECTOR - 1) / SECTOR));
    e->aux = (uint32_t)n;
    capture_payload(c, e, padded);
    e->state = CE_SETTLED;
    return e;
}

static bool
control_room(struct capture *c, uint64_t n, uint64_t bytes)
{
    if (capture_room(c, n, bytes))
        return true;
    c->lane.want_room = true;
    return false;
}

bool
capture_crowded(const struct capture *c)
{
    uint64_t held = (uint64_t)c->lane.used * RING_BLOCK_SIZE;

    return held > c->resync_bytes + ringpool_size(c->pool) / 4;
}

static void
keep_everything(struct capture *c)
{
    for (unsigned v = 0; v < LANE_VOLUMES_MAX; v++)
        c->resync_at[v] = UINT64_MAX;
}

void
capture_resync_at(struct capture *c, uint16_t vol, uint64_t from)
{
    c->resync_at[vol] = from;
}

int
capture_resync_begin(struct capture *c, const struct resync_begin *rb)
{
    uint8_t out[CONTROL_PAYLOAD_MAX];
    size_t n;

    if (c->state == CAPTURE_COLLAPSED ||
        !control_room(c, 2, (uint64_t)2 * SECTOR))
        return -EAGAIN;
    if (c->gap_first != 0) {
        struct lane_gap g = { c->gap_first, c->seq };
        struct centry *e;

        c->seq--; /* the GAP has the last number that it tells of */
        n = lane_gap_encode(&g, out);
        e = control_append(c, ENTRY_GAP, out, n);
        e->extra = g.first_seq;
        c->gap_first = 0;
    }
    n = resync_begin_encode(rb, out);
    (void)control_append(c, ENTRY_RESYNC_BEGIN, out, n);
    c->state = CAPTURE_EXACT;
    c->in_resync = true;
    keep_everything(c);
    capture_advance(c);
    return 0;
}

int
capture_resync_end(struct capture *c)
{
    if (!c->in_resync)
        return -EINVAL;
    if (c->state != CAPTURE_EXACT || !control_room(c, 1, 0))
        return -EAGAIN;
    capture_append(c, ENTRY_RESYNC_END, 0, 0, 0)->state = CE_SETTLED;
    c->in_resync = false;
    keep_everything(c);
    capture_advance(c);
    return 0;
}

bool
capture_in_resync(const struct capture *c)
{
    return c->in_resync;
}

int
capture_cut(struct capture *c, const struct cut_commit *cc, uint64_t *out_seq)
{
    uint8_t out[CONTROL_PAYLOAD_MAX];
    size_t n;

    if (cc->tag_len > BATCH_TAG_MAX || cc->n_positions != 0)
        return -EINVAL;
    n = cut_commit_encode(cc, out);
    if (c->state != CAPTURE_EXACT || c->in_resync ||
        !control_room(c, 1, round_up(n, SECTOR)))
        return -EAGAIN;
    control_append(c, ENTRY_CUT_COMMIT, out, n)->extra = cc->cut_no;
    if (out_seq)
        *out_seq = c->seq;
    capture_advance(c);
    return 0;
}

int
capture_incarnation(struct capture *c, const struct lane_incarnation *li)
{
    uint8_t out[CONTROL_PAYLOAD_MAX];
    size_t n;

    if (c->seq != lane_seq(c->cfg.seq_epoch, 0))
        return -EINVAL;
    if (!control_room(c, 1, SECTOR))
        return -EAGAIN;
    n = lane_incarnation_encode(li, out);
    (void)control_append(c, ENTRY_INCARNATION, out, n);
    if (!li->exact)
        capture_break(c);
    capture_advance(c);
    return 0;
}

/* --- life --------------------------------------------------------------- */

int
capture_new(const struct capture_config *cfg, struct capture **out,
            struct err *err)
{
    struct capture *c = calloc(1, sizeof *c);

    if (!c)
        return err_set(err, -ENOMEM, ERR_GEN_0002, "capture: out of memory");
    c->cfg = *cfg;
    c->loop = cfg->loop;
    c->pool = cfg->pool;
    c->lane.room = lane_room;
    ring_lane_add(c->pool, &c->lane,
                  cfg->pool_floor ? cfg->pool_floor : RING_FLOOR_DEFAULT);
    list_init(&c->slots);
    list_init(&c->reads);
    list_init(&c->batches);
    io_task_init(&c->wake_task, wake_run);
    c->seq = c->durable_seq = lane_seq(cfg->seq_epoch, 0);
    c->fill = RING_NONE;
    c->told_idle = true;
    keep_everything(c);
    fifo_reset(c);
    *out = c;
    return 0;
}

void
capture_free(struct capture *c)
{
    struct list *l;

    if (!c)
        return;
    for (unsigned v = 0; v < LANE_VOLUMES_MAX; v++) {
        if (c->vols[v])
            capture_detach(c, (uint16_t)v);
    }
    resync_cancel(c, NULL);
    while ((l = list_pop_front(&c->slots))) {
        struct slot *s = list_entry(l, struct slot, capture_link);

        s->capture = NULL;
        s->entries_n = 0;
    }
    while (c->n_entries > 0) {
        entry_drop_payload(c, fifo_at(c, &c->head));
        fifo_pop(c);
    }
    pack_release(c);
    ring_resync_give(c->pool, c->resync_bytes);
    ring_lane_remove(c->pool, &c->lane);
    io_task_cancel(&c->wake_task);
    ring_room(c->pool);
    free(c);
}

int
capture_attach(struct capture *c, uint16_t vol, struct blkdev *splitter,
               void (*done)(void *arg), void *arg, struct err *err)
{
    struct splitter *s = splitter_of(splitter);

    if (!s || vol >= LANE_VOLUMES_MAX)
        return err_set(err, -EINVAL, ERR_CAP_0002,
                       "volume %u: it is no splitter, or the number is not "
                       "below %d",
                       vol, LANE_VOLUMES_MAX);
    if (c->vols[vol] || s->capture)
        return err_set(err, -EBUSY, ERR_CAP_0002, "volume %u: %s", vol,
                       c->vols[vol] ? "the lane has a volume of this number"
                                    : "it is attached to a lane already");
    c->vols[vol] = s;
    splitter_attach(s, c, vol, done, arg);
    return 0;
}

void
capture_detach(struct capture *c, uint16_t vol)
{
    struct splitter *s = c->vols[vol];

    if (!s)
        return;
    c->vols[vol] = NULL;
    splitter_detach(s);
    resync_cancel(c, s);
}

enum capture_state
capture_state(const struct capture *c)
{
    return c->state;
}

uint64_t
capture_seq(const struct capture *c)
{
    return c->seq;
}

void
capture_extents(struct capture *c, uint16_t vol, struct blkdev_req *rq)
{
    struct splitter *s = vol < LANE_VOLUMES_MAX ? c->vols[vol] : NULL;

    if (s)
        blkdev_submit(s->backing, rq);
    else
        rq->done(rq, -ENOENT);
}

static uint64_t
oldest_birth(const struct capture *c)
{
    struct fifo_pos head = c->head;

    if (!list_empty(&c->batches))
        return list_entry(c->batches.next, struct cbatch, link)->birth_ns;
    if (c->n_entries > 0)
        return fifo_at(c, &head)->birth_ns;
    return c->gap_first ? c->gap_birth_ns : 0;
}

void
capture_stats(const struct capture *c, struct capture_stats *out)
{
    *out = (struct capture_stats){
        .seq = c->seq,
        .durable_seq = c->durable_seq,
        .last_batch = c->last_batch,
        .durable_batch = c->durable_batch,
        .ring_bytes = (uint64_t)c->lane.used * RING_BLOCK_SIZE,
        .lag_bytes = c->lag_bytes,
        .oldest_ns = oldest_birth(c),
        .collapses = c->collapses,
        .collapsed_bytes = c->collapsed_bytes,
        .entries = c->entries_total,
        .raw_bytes = c->raw_total,
        .sent_bytes = c->sent_total,
    };
}
