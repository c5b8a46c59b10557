/* room: capture lane io common */
/* limit: 120 */
/* Capture under random load: overlapping writes that the device below holds,
 * reorders, fails or half executes; a receiver that is slow, loses the link and
 * starts again; cancelled requests; rings that overflow; resyncs in-band and
 * straight while all this goes on.
 *
 * The oracle is prefix consistency (I1-I4, I6).  Each sector carries the number
 * of the write that put it there.  Overlapping writes run in the order in which
 * they were submitted, so of two versions of a sector the one with the higher
 * number is newer, and:
 *
 * - at each entry of an exact lane: every write that had been acknowledged
 *   before this one was submitted has been applied already;
 * - at each cut: no sector is older than the newest write of it that had been
 *   acknowledged when the cut was taken, and none is newer than the cut;
 * - nothing is sent before it has settled; what failed is not sent as data, and
 *   a request that ended with -ECANCELED is nowhere;
 * - at the end, the receiver's volumes equal the backing devices byte for byte,
 *   and no memory of the ring is left in use.
 *
 * The same oracle must find the planted bug. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "helper_capture.h"

enum {
    VOLS = 2,
    SIZE = 2 * 1024 * 1024, /* bytes of a volume */
    SECTORS = SIZE / 512,
    OPS_MAX = 2500,
    STEPS = 9000,
    OPEN_MAX = 48, /* client requests at once */
    HELD_MAX = 64,
    CUTS_MAX = 1024,
    CLIENTS = 3,
    READS = 6,
    EPOCH = 2,
    RUN_MS = 3000,
};

static struct rnd rnd;

/* What the oracle found, when a bug is planted; otherwise the test fails. */
static bool expect_violation, violated;

static void
violation(const char *what, uint64_t a, uint64_t b)
{
    violated = true;
    if (!expect_violation)
        fail_msg("%s: %llu, %llu", what, (unsigned long long)a,
                 (unsigned long long)b);
}

/* --- a device that reorders and fails ----------------------------------- */

struct chaos {
    struct blkdev dev;
    struct blkdev *lower; /* completes at once */
    struct blkdev_req *held[HELD_MAX];
    unsigned n;
    uint32_t fail_in_1000;
};

static void
nothing_done(struct blkdev_req *rq, int res)
{
    assert_int_equal(res, 0);
}

/* Something of it may have reached the device. */
static void
chaos_fail(struct chaos *d, struct blkdev_req *rq)
{
    if (rq->op == BLKDEV_ZERO && rq->flags & BLKDEV_FAST_ZERO &&
        rnd_chance(&rnd, 800)) {
        rq->done(rq, -EOPNOTSUPP); /* but then nothing has */
        return;
    }
    if (rq->op != BLKDEV_FLUSH && rnd_chance(&rnd, 600)) {
        struct blkdev_req part = *rq;

        part.len =
            512 * (1 + (uint64_t)rnd_below(&rnd, (uint32_t)(rq->len / 512)));
        part.done = nothing_done;
        blkdev_submit(d->lower, &part);
    }
    rq->done(rq, -EIO);
}

static void
chaos_execute(struct chaos *d, unsigned i)
{
    struct blkdev_req *rq = d->held[i];

    d->held[i] = d->held[--d->n];
    if (rq->op != BLKDEV_READ && rq->op != BLKDEV_EXTENTS &&
        rnd_chance(&rnd, d->fail_in_1000))
        chaos_fail(d, rq);
    else
        blkdev_submit(d->lower, rq);
}

static void
chaos_submit(struct blkdev *bd, struct blkdev_req *rq)
{
    struct chaos *d = container_of(bd, struct chaos, dev);

    assert_true(d->n < HELD_MAX);
    d->held[d->n++] = rq;
    if (rnd_chance(&rnd, 200))
        chaos_execute(d, d->n - 1); /* at once, before submit returns */
}

static void
chaos_close(struct blkdev *bd)
{
    struct chaos *d = container_of(bd, struct chaos, dev);

    assert_int_equal(d->n, 0);
    blkdev_close(d->lower);
    free(d);
}

static const struct blkdev_ops chaos_ops = {
    .kind = "chaos",
    .submit = chaos_submit,
    .close = chaos_close,
};

static struct chaos *
chaos_new(struct io_loop *loop)
{
    struct chaos *d = calloc(1, sizeof *d);

    assert_non_null(d);
    assert_int_equal(memdev_new(loop, SIZE, &d->lower), 0);
    d->dev.ops = &chaos_ops;
    d->dev.loop = loop;
    d->dev.info = d->lower->info;
    return d;
}

/* --- the world ---------------------------------------------------------- */

struct op {
    struct blkdev_req rq;
    uint16_t vol;
    uint64_t submit_t, ack_t; /* 0: not yet */
    int res;
    uint64_t applied; /* bytes seen in the lane */
};

struct cut {
    uint64_t t;
    /* of each sector, when it was taken */
    uint32_t acked[VOLS][SECTORS], zeroed[VOLS][SECTORS];
};

struct resync_slot {
    struct capture_read r;
    bool busy;
    void *buf;
};

static struct {
    struct io_loop *loop;
    struct ringpool *pool;
    struct chaos *chaos[VOLS];
    struct blkdev *split[VOLS];
    struct capture *c;
    struct rx rx;
    uint64_t t; /* events */

    struct op op[OPS_MAX];
    size_t ops_n, open_n;
    uint32_t ack_list[OPS_MAX]; /* writes and zeros that must stay, by time */
    size_t acks_n, acks_checked;
    /* Of each sector, the highest number (index + 1) of a write that ... */
    uint32_t acked[VOLS][SECTORS];  /* ... was acknowledged */
    uint32_t zeroed[VOLS][SECTORS]; /* ... was submitted and makes zeros */

    struct cut *cut[CUTS_MAX];
    size_t cuts_n;

    bool exact, resynced; /* the receiver: of what it has applied */
    bool dirty;           /* a DIRTY was the last reason not to be exact */
    bool straight, windowed;
    uint64_t straight_t; /* cuts before it are overwritten, as for a first sync */
    uint64_t sync_at;    /* both volumes, one after the other */
    struct resync_slot rs[READS];
    bool stalled; /* the receiver takes nothing */
    char clients[CLIENTS];
    /* over all seeds */
    uint64_t n_cuts, n_gaps, n_resyncs, n_cancels, n_fails, n_drops;
} w;

static void
sector_fill(uint8_t *p, uint32_t id, uint16_t vol, uint64_t s)
{
    for (uint32_t i = 0; i < 128; i += 4) {
        put_le32(p + 4 * i, id);
        put_le32(p + 4 * i + 4, (uint32_t)s);
        put_le32(p + 4 * i + 8, vol);
        put_le32(p + 4 * i + 12, id * 2654435761u + i);
    }
}

/* The write that this sector is of; 0: zeros. */
static uint32_t
sector_id(const uint8_t *p, uint16_t vol, uint64_t s)
{
    uint8_t want[512];
    uint32_t id = get_le32(p);

    if (bytes_all_zero(p, 512))
        return 0;
    sector_fill(want, id, vol, s);
    if (id == 0 || id > w.ops_n || memcmp(p, want, 512) != 0) {
        violation("a sector that nobody wrote", vol, s);
        return 0;
    }
    return id;
}

static bool
makes_zeros(const struct op *op)
{
    return op->rq.op == BLKDEV_ZERO || op->rq.op == BLKDEV_TRIM;
}

/* --- the client --------------------------------------------------------- */

static void
op_done(struct blkdev_req *rq, int res)
{
    struct op *op = container_of(rq, struct op, rq);
    uint32_t id = (uint32_t)(op - w.op) + 1;

    assert_int_equal(op->ack_t, 0);
    op->ack_t = ++w.t;
    op->res = res;
    w.open_n--;
    free(op->rq.buf);
    w.n_cancels += res == -ECANCELED;
    w.n_fails += res == -EIO;
    if (res == -EIO && rq->op == BLKDEV_WRITE &&
        capture_state(w.c) == CAPTURE_EXACT)
        violation("a failed write left the lane exact", id, 0);
    /* a TRIM may have done nothing */
    if (res != 0 || (rq->op != BLKDEV_WRITE && rq->op != BLKDEV_ZERO))
        return;
    for (uint64_t s = rq->off / 512; s < (rq->off + rq->len) / 512; s++)
        w.acked[op->vol][s] = MAX(w.acked[op->vol][s], id);
    w.ack_list[w.acks_n++] = id - 1;
}

static void
op_range(struct op *op)
{
    uint32_t most = rnd_chance(&rnd, 10) ? SECTORS : 48;
    uint64_t len = 1 + rnd_below(&rnd, 1 + rnd_below(&rnd, most));
    uint64_t at = rnd_below(&rnd, SECTORS);

    if (rnd_chance(&rnd, 400))
        at %= 64; /* a hot place */
    op->rq.off = MIN(at, SECTORS - len) * 512;
    op->rq.len = len * 512;
}

static void
op_submit(void)
{
    struct op *op = &w.op[w.ops_n++];
    uint32_t id = (uint32_t)w.ops_n, kind = rnd_below(&rnd, 100);

    *op = (struct op){ .vol = (uint16_t)rnd_below(&rnd, VOLS),
                       .submit_t = ++w.t,
                       .rq = { .op = BLKDEV_WRITE, .done = op_done } };
    op->rq.origin = &w.clients[rnd_below(&rnd, CLIENTS)];
    if (kind < 5) {
        op->rq.op = BLKDEV_FLUSH;
    } else {
        op_range(op);
        if (kind < 12)
            op->rq.op = kind < 8 ? BLKDEV_TRIM : BLKDEV_ZERO;
        if (kind == 8 || kind == 9)
            op->rq.flags = BLKDEV_FAST_ZERO;
        if (kind > 95)
            op->rq.flags = BLKDEV_FUA;
    }
    for (uint64_t s = op->rq.off / 512;
         makes_zeros(op) && s < (op->rq.off + op->rq.len) / 512; s++)
        w.zeroed[op->vol][s] = id;
    if (op->rq.op == BLKDEV_WRITE) {
        uint8_t *buf = aligned_alloc(4096, round_up(op->rq.len, 4096));

        assert_non_null(buf);
        for (uint64_t i = 0; i < op->rq.len / 512; i++)
            sector_fill(buf + i * 512, id, op->vol, op->rq.off / 512 + i);
        op->rq.buf = buf;
    }
    w.open_n++;
    blkdev_submit(w.split[op->vol], &op->rq);
}

/* --- the receiver's oracle ---------------------------------------------- */

/* All that had been acknowledged before op was submitted has been applied. */
static void
closure_check(const struct op *op)
{
    for (; w.acks_checked < w.acks_n; w.acks_checked++) {
        const struct op *a = &w.op[w.ack_list[w.acks_checked]];

        if (a->ack_t >= op->submit_t)
            return;
        if (w.exact && a->applied < a->rq.len)
            violation("applied before one that it may depend on",
                      (uint64_t)(op - w.op), (uint64_t)(a - w.op));
    }
}

static void
write_entry(const struct lane_entry *e, const uint8_t *payload)
{
    uint32_t id = sector_id(payload, e->vol, e->off512);
    struct op *op;

    if (id == 0)
        return;
    op = &w.op[id - 1];
    if (op->ack_t == 0)
        violation("sent before it had settled", id, 0); /* I3 */
    if (op->res != 0)
        violation("failed or cancelled, and in the lane as data", id, 0);
    for (uint64_t i = 0; i < e->len512; i++) {
        if (sector_id(payload + i * 512, e->vol, e->off512 + i) != id)
            violation("a payload of two writes", id, i);
    }
    closure_check(op);
    op->applied += (uint64_t)e->len512 * 512;
}

/* Zeros carry no number: it may be any request of this range. */
static void
zero_entry(const struct lane_entry *e)
{
    bool found = false, checked = false;

    for (size_t i = 0; i < w.ops_n; i++) {
        struct op *op = &w.op[i];

        if (!makes_zeros(op) || op->vol != e->vol ||
            op->rq.off != e->off512 * 512 ||
            op->rq.len != (uint64_t)e->len512 * 512)
            continue;
        found = true;
        if (op->applied)
            continue;
        if (!checked)
            closure_check(op);
        checked = true;
        op->applied = op->rq.len;
    }
    if (!found)
        violation("zeros that nobody asked for", e->off512, e->len512);
}

static void
sector_check(const struct cut *cut, uint16_t v, uint64_t s)
{
    uint32_t id = sector_id(w.rx.vol[v].data + s * 512, v, s);
    uint32_t least = cut->acked[v][s];
    const struct op *op;

    if (id == 0) {
        if (least != 0 && cut->zeroed[v][s] < least)
            violation("an acknowledged write is missing at a cut", least, s);
        return;
    }
    op = &w.op[id - 1];
    if (id < least)
        violation("a cut holds an older version", id, least);
    if (op->submit_t > cut->t)
        violation("a cut holds a write from after it", id, s);
    if (op->res == -ECANCELED && op->ack_t)
        violation("a cancelled request is in a cut", id, s);
}

static void
cut_entry(const uint8_t *payload, const struct lane_entry *e)
{
    struct cut_commit cc;
    struct cut *cut;

    assert_int_equal(cut_commit_decode(payload, e->aux, &cc), 0);
    assert_true(cc.cut_no > 0 && cc.cut_no <= w.cuts_n);
    cut = w.cut[cc.cut_no - 1];
    assert_non_null(cut); /* never twice */
    if (!w.exact && !w.resynced) {
        /* It was taken while a write before it was in flight, which then
         * failed: the receiver does not offer it (I19). */
        if (!w.dirty)
            violation("a cut inside a gap or a window", cc.cut_no, 0);
        w.cut[cc.cut_no - 1] = NULL;
        free(cut);
        return;
    }
    for (uint16_t v = 0; v < VOLS && cut->t > w.straight_t; v++) {
        for (uint64_t s = 0; s < SECTORS; s++)
            sector_check(cut, v, s);
    }
    if (!w.exact) { /* what the resync brought */
        for (size_t i = 0; i < w.ops_n; i++) {
            if (w.op[i].ack_t && w.op[i].ack_t < cut->t)
                w.op[i].applied = w.op[i].rq.len;
        }
    }
    w.exact = true;
    w.n_cuts++;
    w.cut[cc.cut_no - 1] = NULL;
    free(cut);
}

static void
rx_entry(void *arg, const struct lane_entry *e, uint64_t seq,
         const uint8_t *payload, uint16_t batch_flags)
{
    switch (e->type) {
    case ENTRY_WRITE: write_entry(e, payload); break;
    case ENTRY_ZERO:
        if (!(e->flags & ENTRY_RESYNC))
            zero_entry(e);
        break;
    case ENTRY_GAP:
        w.n_gaps++;
        w.exact = w.resynced = w.dirty = false;
        break;
    case ENTRY_DIRTY:
        w.exact = w.resynced = false;
        w.dirty = true;
        break;
    case ENTRY_RESYNC_BEGIN:
        w.exact = w.resynced = w.dirty = false;
        assert_true(batch_flags & BATCH_RESYNC);
        break;
    case ENTRY_RESYNC_WRITE: assert_true(batch_flags & BATCH_RESYNC); break;
    case ENTRY_RESYNC_END:
        w.resynced = true;
        w.n_resyncs++;
        assert_true(batch_flags & BATCH_RESYNC);
        break;
    case ENTRY_CUT_COMMIT: cut_entry(payload, e); break;
    default: assert_true(e->type == ENTRY_FLUSH || e->type == ENTRY_NOP);
    }
}

/* --- resync ------------------------------------------------------------- */

static void
resync_read_done(struct capture_read *r, int res)
{
    struct resync_slot *rs = container_of(r, struct resync_slot, r);

    rs->busy = false;
    if (res == 0 && !r->in_band)
        rx_straight(&w.rx, r->vol, r->off, r->len, r->zero ? NULL : r->buf,
                    r->after_seq);
    if (res == 0)
        return;
    /* not now: the range is asked for again */
    assert_int_equal(res, -EAGAIN);
    w.sync_at = MIN(w.sync_at, r->vol * (uint64_t)SIZE + r->off);
}

static void
resync_more(struct resync_slot *rs)
{
    uint64_t len = 512 * (uint64_t)(1 + rnd_below(&rnd, 128));
    uint64_t at = w.sync_at;

    if (at >= (uint64_t)VOLS * SIZE || rs->busy)
        return;
    len = MIN(len, SIZE - at % SIZE);
    rs->r = (struct capture_read){ .vol = (uint16_t)(at / SIZE),
                                   .in_band = !w.straight,
                                   .off = at % SIZE,
                                   .len = len,
                                   .buf = w.straight ? rs->buf : NULL,
                                   .done = resync_read_done };
    rs->busy = true;
    w.sync_at += len;
    if (capture_read(w.c, &rs->r) != 0) { /* -EAGAIN */
        rs->busy = false;
        w.sync_at = MIN(w.sync_at, at);
    }
}

static bool
reads_busy(void)
{
    for (size_t i = 0; i < READS; i++) {
        if (w.rs[i].busy)
            return true;
    }
    return false;
}

static void
resync_step(void)
{
    struct resync_begin rb = { .reason = RESYNC_FORCED };

    if (capture_state(w.c) == CAPTURE_BROKEN && !reads_busy() &&
        capture_resync_begin(w.c, &rb) == 0) {
        w.straight = rnd_chance(&rnd, 500);
        if (w.straight)
            w.straight_t = ++w.t;
        w.windowed = true;
        w.sync_at = 0;
    }
    if (!w.windowed || capture_state(w.c) != CAPTURE_EXACT)
        return;
    resync_more(&w.rs[rnd_below(&rnd, READS)]);
    if (w.sync_at >= (uint64_t)VOLS * SIZE && !reads_busy() &&
        capture_resync_end(w.c) == 0)
        w.windowed = false;
}

/* --- one run ------------------------------------------------------------ */

static void
cut_take(void)
{
    struct cut_commit cc = { .cut_no = w.cuts_n + 1 };
    struct cut *cut;

    if (w.cuts_n == CUTS_MAX || capture_cut(w.c, &cc, NULL) != 0)
        return;
    cut = malloc(sizeof *cut);
    assert_non_null(cut);
    cut->t = ++w.t;
    memcpy(cut->acked, w.acked, sizeof cut->acked);
    memcpy(cut->zeroed, w.zeroed, sizeof cut->zeroed);
    w.cut[w.cuts_n++] = cut;
}

static void
chaos_step(void)
{
    struct chaos *d = w.chaos[rnd_below(&rnd, VOLS)];

    if (d->n > 0)
        chaos_execute(d, rnd_below(&rnd, d->n));
}

static void
receiver_step(uint32_t kind)
{
    if (rnd_chance(&rnd, 5))
        w.stalled = !w.stalled && rnd_chance(&rnd, 500);
    if (w.stalled)
        return;
    if (kind < 500 && w.rx.pending_n < 200)
        rx_pull(&w.rx);
    else if (kind < 990)
        rx_durable(&w.rx, rnd_below(&rnd, 8));
    else {
        rx_drop(&w.rx);
        w.n_drops++;
    }
}

static void
world_step(void)
{
    uint32_t kind = rnd_below(&rnd, 1000);

    if (kind < 330) {
        if (w.open_n < OPEN_MAX && w.ops_n < OPS_MAX)
            op_submit();
    } else if (kind < 700) {
        chaos_step();
    } else if (kind < 850) {
        receiver_step(rnd_below(&rnd, 1000));
    } else if (kind < 870) {
        cut_take();
    } else if (kind < 873) {
        const void *who = &w.clients[rnd_below(&rnd, CLIENTS)];

        for (int v = 0; v < VOLS; v++)
            blkdev_cancel(w.split[v], who);
    } else if (kind < 880) {
        sim_advance(rnd_below(&rnd, 4) * NSEC_PER_MSEC);
        sim_turn(w.loop);
    }
    resync_step();
}

static void
world_begin(uint64_t seed)
{
    struct capture_config cfg = { .lane = 5, .seq_epoch = EPOCH };
    uint64_t n[6] = { w.n_cuts,    w.n_gaps,  w.n_resyncs,
                      w.n_cancels, w.n_fails, w.n_drops };

    memset(&w, 0, sizeof w);
    w.n_cuts = n[0];
    w.n_gaps = n[1];
    w.n_resyncs = n[2];
    w.n_cancels = n[3];
    w.n_fails = n[4];
    w.n_drops = n[5];
    rnd.s = seed * 0x9e3779b97f4a7c15u;
    for (int i = 0; i < 8; i++)
        (void)rnd_next(&rnd);
    w.loop = sim_loop_new();
    assert_int_equal(ringpool_new(w.loop,
                                  (1 + (uint64_t)rnd_below(&rnd, 6)) * MIB,
                                  &w.pool, NULL),
                     0);
    cfg.loop = w.loop;
    cfg.pool = w.pool;
    assert_int_equal(capture_new(&cfg, &w.c, NULL), 0);
    rx_init(&w.rx, w.c, lane_seq(EPOCH, 1));
    w.rx.codec = (enum chunk_codec)rnd_below(&rnd, 3);
    w.rx.entry = rx_entry;
    w.exact = true;
    for (uint16_t v = 0; v < VOLS; v++) {
        w.chaos[v] = chaos_new(w.loop);
        assert_int_equal(splitter_open(&w.chaos[v]->dev, &w.split[v], NULL), 0);
        assert_int_equal(capture_attach(w.c, v, w.split[v], NULL, NULL, NULL),
                         0);
        rx_volume(&w.rx, v, SIZE);
        w.chaos[v]->fail_in_1000 =
            rnd_chance(&rnd, 500) ? 1 + rnd_below(&rnd, 4) : 0;
    }
    for (size_t i = 0; i < READS; i++) {
        w.rs[i].buf = aligned_alloc(4096, 65536);
        assert_non_null(w.rs[i].buf);
    }
}

/* Everything settles, the last resync ends, the last cut arrives. */
static void
world_settle(void)
{
    w.stalled = false;
    for (int i = 0; i < 100000; i++) {
        for (int v = 0; v < VOLS; v++) {
            w.chaos[v]->fail_in_1000 = 0;
            while (w.chaos[v]->n > 0)
                chaos_step();
        }
        rx_drain(&w.rx, w.loop);
        resync_step();
        if (w.open_n == 0 && !w.windowed && !reads_busy() &&
            capture_state(w.c) == CAPTURE_EXACT)
            break;
    }
    assert_int_equal(w.open_n, 0);
    assert_int_equal(capture_state(w.c), CAPTURE_EXACT);
    assert_false(capture_in_resync(w.c));
    w.cuts_n = MIN(w.cuts_n, (size_t)CUTS_MAX - 1);
    cut_take();
    rx_drain(&w.rx, w.loop);
    assert_true(w.exact);
    assert_int_equal(w.rx.durable_seq, capture_seq(w.c));
}

static void
world_compare(void)
{
    static _Alignas(4096) uint8_t buf[SIZE];

    for (uint16_t v = 0; v < VOLS; v++) {
        struct blkdev_req rq = {
            .op = BLKDEV_READ, .len = SIZE, .buf = buf, .done = nothing_done
        };

        blkdev_submit(w.chaos[v]->lower, &rq);
        if (memcmp(buf, w.rx.vol[v].data, SIZE) != 0)
            violation("the image differs from the backing device", v, 0);
    }
}

static void
world_end(void)
{
    capture_free(w.c);
    assert_int_equal(ringpool_used(w.pool), 0);
    for (int v = 0; v < VOLS; v++)
        blkdev_close(w.split[v]);
    for (size_t i = 0; i < READS; i++)
        free(w.rs[i].buf);
    for (size_t i = 0; i < w.cuts_n; i++)
        free(w.cut[i]);
    ringpool_free(w.pool);
    rx_release(&w.rx);
    sim_loop_free(w.loop);
}

static void
run(uint64_t seed)
{
    world_begin(seed);
    for (int i = 0; i < STEPS; i++)
        world_step();
    world_settle();
    world_compare();
    world_end();
}

/* The planted bug must be seen, else the oracle is blind. */
static void
finds_the_planted_bug(void **state)
{
    uint64_t seed = 1;

    (void)state;
    expect_violation = true;
    violated = false;
    capture_planted = CAPTURE_PLANT_NO_RANGE_LOCK;
    for (; !violated && seed <= 5; seed++)
        run(seed);
    capture_planted = 0;
    expect_violation = false;
    assert_true(violated);
}

static uint64_t
real_ms(void)
{
    struct timespec ts;

    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

/* HOLDFAST_SEED=n runs that one; otherwise from 1, as far as time allows. */
static void
prefix_consistency(void **state)
{
    const char *only = getenv("HOLDFAST_SEED");
    uint64_t began = real_ms(), seed = only ? strtoull(only, NULL, 10) : 1;
    const char *ms = getenv("HOLDFAST_RUN_MS");
    uint64_t limit = ms ? strtoull(ms, NULL, 10) : RUN_MS;

    (void)state;
    memset(&w, 0, sizeof w);
    do {
        print_message("seed %llu\n", (unsigned long long)seed);
        run(seed++);
    } while (!only && (real_ms() - began < limit || seed <= 4));
    print_message("%llu seeds: %llu cuts, %llu gaps, %llu resyncs, "
                  "%llu cancelled, %llu failed, %llu link losses\n",
                  (unsigned long long)seed - 1, (unsigned long long)w.n_cuts,
                  (unsigned long long)w.n_gaps, (unsigned long long)w.n_resyncs,
                  (unsigned long long)w.n_cancels,
                  (unsigned long long)w.n_fails, (unsigned long long)w.n_drops);
    if (!only)
        assert_true(w.n_cuts && w.n_cancels && w.n_drops && w.n_resyncs);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(finds_the_planted_bug),
        cmocka_unit_test(prefix_consistency),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
