/* room: capture lane io common */
/* The capture room, one situation at a time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/crc32c.h"
#include "helper_capture.h"

enum {
    VOLUME = 8 * 1024 * 1024,
    EPOCH = 3,
    REQS = 600
};

/* A request that remembers how it ended. */
struct op {
    struct blkdev_req rq;
    int res, order; /* order 0: not done */
};

struct rig {
    struct io_loop *loop;
    struct ringpool *pool;
    struct blkdev *inner, *fault, *split; /* inner lies below fault */
    struct capture *c;
    struct rx rx;
    struct op op[REQS];
    int done_n;
    int wakes, attached;
};

static struct rig g;
static _Alignas(4096) uint8_t data[32 * 1024 * 1024];

static void
op_done(struct blkdev_req *rq, int res)
{
    struct op *op = container_of(rq, struct op, rq);

    assert_int_equal(op->order, 0);
    op->res = res;
    op->order = ++g.done_n;
}

static struct op *
submit(int i, enum blkdev_op kind, uint64_t off, uint64_t len, unsigned flags)
{
    struct op *op = &g.op[i];

    *op = (struct op){ .rq = { .op = kind,
                               .flags = flags,
                               .off = off,
                               .len = len,
                               .buf = data + off % 4096,
                               .origin = &g,
                               .done = op_done } };
    blkdev_submit(g.split, &op->rq);
    return op;
}

static void
woken(void *arg)
{
    g.wakes++;
}

static void
attached(void *arg)
{
    g.attached++;
}

static struct capture *
new_capture(uint32_t epoch, uint64_t floor)
{
    struct capture_config cfg = { .loop = g.loop,
                                  .pool = g.pool,
                                  .lane = 1,
                                  .seq_epoch = epoch,
                                  .pool_floor = floor,
                                  .wake = woken };
    struct capture *c = NULL;

    memset(cfg.vpg.u.b, 7, 16);
    memset(cfg.incarnation.u.b, 9, 16);
    assert_int_equal(capture_new(&cfg, &c, NULL), 0);
    return c;
}

static void
setup_with(uint64_t ring, uint64_t size, unsigned drop_features)
{
    struct blkdev *mem = NULL;

    memset(&g, 0, sizeof g);
    for (size_t i = 0; i < sizeof data; i += 8)
        put_le64(data + i, i * 0x9e3779b97f4a7c15u);
    g.loop = sim_loop_new();
    assert_int_equal(ringpool_new(g.loop, ring, &g.pool, NULL), 0);
    assert_int_equal(memdev_new(g.loop, size, &mem), 0);
    mem->info.features &= ~drop_features;
    assert_int_equal(faultdev_new(mem, &g.inner), 0);
    assert_int_equal(faultdev_new(g.inner, &g.fault), 0);
    assert_int_equal(splitter_open(g.fault, &g.split, NULL), 0);
    g.c = new_capture(EPOCH, 0);
    rx_init(&g.rx, g.c, lane_seq(EPOCH, 1));
    rx_volume(&g.rx, 2, size);
    assert_int_equal(capture_attach(g.c, 2, g.split, attached, NULL, NULL), 0);
    sim_turn(g.loop);
    assert_int_equal(g.attached, 1);
}

static void
setup(void)
{
    setup_with(16 * MIB, VOLUME, 0);
}

static void
teardown(void)
{
    capture_free(g.c);
    assert_int_equal(ringpool_used(g.pool), 0);
    blkdev_close(g.split);
    ringpool_free(g.pool);
    rx_release(&g.rx);
    sim_loop_free(g.loop);
}

static void
hold(enum blkdev_op kind, unsigned times)
{
    const struct faultdev_rule rule = { .op = kind, .times = times };

    faultdev_set(g.fault, &rule, 1);
}

static void
fail_next(enum blkdev_op kind, int error, unsigned times)
{
    const struct faultdev_rule rule = { .op = kind,
                                        .times = times,
                                        .error = error };

    faultdev_set(g.fault, &rule, 1);
}

static void
cut(uint64_t no)
{
    struct cut_commit cc = { .cut_no = no };
    uint64_t seq = 0;

    assert_int_equal(capture_cut(g.c, &cc, &seq), 0);
    assert_int_equal(seq, capture_seq(g.c));
}

static struct capture_stats
stats(void)
{
    struct capture_stats st;

    capture_stats(g.c, &st);
    return st;
}

/* The whole backing against the receiver's image. */
static void
assert_same(void)
{
    static uint8_t buf[MIB];
    struct op op = { .order = 0 };

    for (uint64_t at = 0; at < g.rx.vol[2].size; at += sizeof buf) {
        op = (struct op){ .rq = { .op = BLKDEV_READ,
                                  .off = at,
                                  .len = sizeof buf,
                                  .buf = buf,
                                  .done = op_done } };
        blkdev_submit(g.split, &op.rq);
        assert_true(op.order > 0 && op.res == 0);
        assert_memory_equal(buf, g.rx.vol[2].data + at, sizeof buf);
    }
}

/* --- order -------------------------------------------------------------- */

static void
plain_write(void **state)
{
    struct capture_stats st;

    (void)state;
    setup();
    assert_int_equal(submit(0, BLKDEV_WRITE, 4096, 8192, 0)->res, 0);
    assert_int_equal(capture_seq(g.c), lane_seq(EPOCH, 1));
    sim_turn(g.loop);
    assert_true(g.wakes > 0);
    assert_int_equal(rx_pull(&g.rx), 0); /* not due for 20 ms */
    assert_true(g.rx.due_ns > 0);
    sim_advance(BATCH_LINGER_NS);
    assert_int_equal(rx_pull(&g.rx), 1);
    st = stats();
    assert_int_equal(st.last_batch, 1);
    assert_int_equal(st.lag_bytes, 8192);
    assert_true(st.oldest_ns > 0 && st.ring_bytes > 0);
    rx_durable(&g.rx, 1);
    st = stats();
    assert_int_equal(st.durable_seq, lane_seq(EPOCH, 1));
    assert_int_equal(st.lag_bytes, 0);
    assert_int_equal(st.oldest_ns, 0);
    assert_int_equal(st.ring_bytes, 0); /* an idle lane holds nothing */
    assert_same();
    teardown();
}

/* I3: the first unsettled entry stops everything behind it. */
static void
pending_stops(void **state)
{
    struct splitter_stats ss;

    (void)state;
    setup();
    hold(BLKDEV_WRITE, 1);
    submit(0, BLKDEV_WRITE, 0, 4096, 0);
    submit(1, BLKDEV_WRITE, 8192, 4096, 0);
    assert_int_equal(g.op[0].order, 0);
    assert_int_equal(g.op[1].order, 1);
    cut(1);
    sim_advance(BATCH_LINGER_NS);
    assert_int_equal(rx_pull(&g.rx), 0);
    assert_int_equal(g.rx.due_ns, 0);
    splitter_stats(g.split, &ss);
    assert_int_equal(ss.in_flight, 1);
    assert_int_equal(ss.oldest_in_flight_ns, BATCH_LINGER_NS);
    assert_int_equal(ss.writes, 2);
    assert_int_equal(ss.write_bytes, 8192);
    g.wakes = 0;
    faultdev_release(g.fault);
    sim_turn(g.loop);
    assert_true(g.wakes > 0);
    assert_int_equal(rx_pull(&g.rx), 1);
    rx_durable(&g.rx, 1);
    assert_int_equal(g.rx.entries[ENTRY_WRITE], 2);
    assert_int_equal(g.rx.entries[ENTRY_CUT_COMMIT], 1);
    assert_same();
    teardown();
}

/* I2: the second of two overlapping writes is not submitted before the first
 * has come back, attached or not. */
static void
overlap_waits(void **state)
{
    (void)state;
    setup();
    for (int detached = 0; detached < 2; detached++) {
        struct splitter_stats ss;

        hold(BLKDEV_WRITE, 1);
        submit(0, BLKDEV_WRITE, 0, 8192, 0);
        submit(1, BLKDEV_WRITE, 4096, 8192, 0);
        submit(2, BLKDEV_ZERO, 8192, 512, 0);
        submit(3, BLKDEV_WRITE, 65536, 512, 0);
        assert_true(g.op[3].order > 0);
        assert_true(g.op[0].order + g.op[1].order + g.op[2].order == 0);
        assert_int_equal(faultdev_held(g.fault), 1);
        splitter_stats(g.split, &ss);
        assert_int_equal(ss.waiting, 2);
        faultdev_release(g.fault);
        assert_true(g.op[0].order < g.op[1].order &&
                    g.op[1].order < g.op[2].order);
        rx_drain(&g.rx, g.loop);
        if (!detached)
            assert_same();
        capture_detach(g.c, 2);
    }
    assert_int_equal(capture_seq(g.c), lane_seq(EPOCH, 4));
    teardown();
}

/* The planted bug: what the oracle must find. */
static void
planted_bug(void **state)
{
    (void)state;
    setup();
    capture_planted = CAPTURE_PLANT_NO_RANGE_LOCK;
    hold(BLKDEV_WRITE, 1);
    submit(0, BLKDEV_WRITE, 0, 4096, 0);
    submit(1, BLKDEV_ZERO, 0, 4096, 0);
    assert_int_equal(g.op[1].order, 1); /* overtook it */
    faultdev_release(g.fault);
    capture_planted = 0;
    assert_int_equal(g.op[0].order, 2);
    teardown();
}

/* --- requests ----------------------------------------------------------- */

static void
large_write(void **state)
{
    (void)state;
    setup();
    hold(BLKDEV_WRITE, 1);
    submit(0, BLKDEV_WRITE, 512, 3 * MIB + 1024, BLKDEV_FUA);
    submit(1, BLKDEV_WRITE, 7 * MIB, 512, 0);
    assert_int_equal(capture_seq(g.c), lane_seq(EPOCH, 5));
    sim_advance(BATCH_LINGER_NS);
    assert_int_equal(rx_pull(&g.rx), 0); /* settled together */
    faultdev_release(g.fault);
    rx_drain(&g.rx, g.loop);
    assert_int_equal(g.rx.entries[ENTRY_WRITE], 5);
    assert_same();

    fail_next(BLKDEV_WRITE, -EIO, 1);
    assert_int_equal(submit(2, BLKDEV_WRITE, 0, 2 * MIB, 0)->res, -EIO);
    rx_drain(&g.rx, g.loop);
    assert_int_equal(g.rx.entries[ENTRY_DIRTY], 2);
    assert_int_equal(capture_state(g.c), CAPTURE_BROKEN);
    teardown();
}

static void
flush_and_fua(void **state)
{
    (void)state;
    setup();
    submit(0, BLKDEV_WRITE, 0, 512, BLKDEV_FUA);
    hold(BLKDEV_FLUSH, 1);
    submit(1, BLKDEV_FLUSH, 0, 0, 0);
    assert_int_equal(capture_seq(g.c), lane_seq(EPOCH, 1)); /* no number yet */
    submit(2, BLKDEV_WRITE, 512, 512, 0);
    faultdev_release(g.fault);
    assert_int_equal(g.op[1].res, 0);
    assert_int_equal(capture_seq(g.c), lane_seq(EPOCH, 3));
    rx_drain(&g.rx, g.loop);
    assert_int_equal(g.rx.entries[ENTRY_FLUSH], 1);
    /* a failed sync: what the backing lost is unknown */
    fail_next(BLKDEV_FLUSH, -EIO, 1);
    assert_int_equal(submit(3, BLKDEV_FLUSH, 0, 0, 0)->res, -EIO);
    assert_int_equal(capture_state(g.c), CAPTURE_BROKEN);
    teardown();
}

static void
zero_and_trim(void **state)
{
    (void)state;
    setup();
    submit(0, BLKDEV_WRITE, 0, 64 * KIB, 0);
    assert_int_equal(submit(1, BLKDEV_TRIM, 0, 4096, 0)->res, 0);
    assert_int_equal(submit(2, BLKDEV_ZERO, 8192, 4096, BLKDEV_NO_HOLE)->res, 0);
    rx_drain(&g.rx, g.loop);
    assert_int_equal(g.rx.entries[ENTRY_ZERO], 2);
    assert_same();

    /* refused: nothing was done, and the number says so */
    fail_next(BLKDEV_ZERO, -EOPNOTSUPP, 2);
    assert_int_equal(submit(3, BLKDEV_TRIM, 16384, 4096, 0)->res, 0);
    assert_int_equal(submit(4, BLKDEV_ZERO, 16384, 4096, BLKDEV_FAST_ZERO)->res,
                     -EOPNOTSUPP);
    rx_drain(&g.rx, g.loop);
    assert_int_equal(g.rx.entries[ENTRY_NOP], 2);
    assert_int_equal(capture_state(g.c), CAPTURE_EXACT);
    assert_same();

    fail_next(BLKDEV_ZERO, -EIO, 1);
    assert_int_equal(submit(5, BLKDEV_TRIM, 16384, 4096, 0)->res, -EIO);
    rx_drain(&g.rx, g.loop);
    assert_int_equal(g.rx.entries[ENTRY_DIRTY], 1);
    assert_int_equal(capture_state(g.c), CAPTURE_BROKEN);
    teardown();

    setup_with(16 * MIB, VOLUME, BLKDEV_CAN_TRIM);
    submit(0, BLKDEV_WRITE, 0, 4096, 0);
    assert_int_equal(submit(1, BLKDEV_TRIM, 0, 4096, 0)->res, 0);
    assert_int_equal(capture_seq(g.c), lane_seq(EPOCH, 1));
    rx_drain(&g.rx, g.loop);
    assert_int_equal(g.rx.entries[ENTRY_ZERO], 0);
    assert_same();
    teardown();
}

static void
zero_in_pieces(void **state)
{
    (void)state;
    setup_with(16 * MIB, 200 * MIB, 0);
    assert_int_equal(submit(0, BLKDEV_ZERO, 512, 199 * MIB, 0)->res, 0);
    assert_int_equal(capture_seq(g.c), lane_seq(EPOCH, 4));
    rx_drain(&g.rx, g.loop);
    assert_int_equal(g.rx.entries[ENTRY_ZERO], 4);
    /* a client that dies in the middle: the piece that runs completes, the
     * others never run (I6) */
    hold(BLKDEV_ZERO, 1);
    submit(1, BLKDEV_ZERO, 0, 200 * MIB, 0);
    blkdev_cancel(g.split, &g);
    assert_int_equal(g.op[1].order, 0);
    faultdev_release(g.fault);
    assert_int_equal(g.op[1].res, -ECANCELED);
    assert_int_equal(capture_seq(g.c), lane_seq(EPOCH, 5));
    teardown();
}

/* I6, and the duplicate of a request runs strictly after the original. */
static void
cancel(void **state)
{
    struct splitter_stats ss;
    int other;

    (void)state;
    setup();
    hold(BLKDEV_WRITE, 1);
    submit(0, BLKDEV_WRITE, 0, 4096, 0);
    submit(1, BLKDEV_WRITE, 0, 4096, 0);
    submit(2, BLKDEV_WRITE, 2048, 4096, 0);
    g.op[3] = g.op[0];
    g.op[3].rq.origin = &other; /* the same client, connected anew */
    blkdev_submit(g.split, &g.op[3].rq);
    blkdev_cancel(g.split, &g);
    assert_int_equal(g.op[1].res, -ECANCELED);
    assert_int_equal(g.op[2].res, -ECANCELED);
    assert_int_equal(g.op[0].order, 0); /* submitted: runs on */
    assert_int_equal(g.op[3].order, 0);
    assert_int_equal(faultdev_held(g.fault), 1);
    splitter_stats(g.split, &ss);
    assert_int_equal(ss.waiting, 1);
    faultdev_release(g.fault);
    assert_true(g.op[0].order < g.op[3].order && g.op[3].res == 0);
    assert_int_equal(capture_seq(g.c), lane_seq(EPOCH, 2));
    rx_drain(&g.rx, g.loop);
    assert_same();
    teardown();
}

/* More requests than slots: the rest waits in order, and can be cancelled. */
static void
many_requests(void **state)
{
    struct splitter_stats ss;

    (void)state;
    setup();
    hold(BLKDEV_WRITE, 0);
    for (int i = 0; i < 500; i++)
        submit(i, BLKDEV_WRITE, (uint64_t)i * 4096, 4096, 0);
    splitter_stats(g.split, &ss);
    assert_int_equal(ss.in_flight + ss.waiting, 500);
    assert_true(ss.in_flight >= 64 && ss.waiting > 0);
    faultdev_set(g.fault, NULL, 0);
    faultdev_release(g.fault);
    for (int i = 0; i < 500; i++)
        assert_true(g.op[i].order > 0 && g.op[i].res == 0);
    rx_drain(&g.rx, g.loop);
    assert_int_equal(g.rx.entries[ENTRY_WRITE], 500);
    assert_same();

    hold(BLKDEV_WRITE, 0);
    for (int i = 0; i < 500; i++)
        submit(i, BLKDEV_WRITE, (uint64_t)i * 4096, 4096, 0);
    blkdev_cancel(g.split, &g);
    splitter_stats(g.split, &ss);
    assert_int_equal(ss.waiting, 0);
    assert_int_equal(g.op[499].res, -ECANCELED);
    faultdev_set(g.fault, NULL, 0);
    faultdev_release(g.fault);
    assert_int_equal(g.op[0].res, 0);
    teardown();
}

/* Thousands that wait for one range: no deep stack, right order. */
static void
one_hot_block(void **state)
{
    (void)state;
    setup();
    for (int round = 0; round < 20; round++) {
        g.done_n = 0;
        hold(BLKDEV_WRITE, 1);
        for (int i = 0; i < REQS; i++)
            submit(i, BLKDEV_WRITE, 0, 512 + (uint64_t)(i % 8) * 512, 0);
        faultdev_release(g.fault);
        for (int i = 0; i < REQS; i++)
            assert_int_equal(g.op[i].order, i + 1);
    }
    rx_drain(&g.rx, g.loop);
    assert_same();
    teardown();
}

/* --- life --------------------------------------------------------------- */

static void
attach_detach(void **state)
{
    struct err err = ERR_INIT;
    struct blkdev *mem = NULL;

    (void)state;
    setup();
    assert_int_equal(capture_attach(g.c, 3, g.split, NULL, NULL, &err), -EBUSY);
    assert_string_equal(err_code_text(err.code), "CAP-0002");
    assert_int_equal(capture_attach(g.c, 3, g.fault, NULL, NULL, &err), -EINVAL);
    assert_string_equal(err_code_text(err.code), "CAP-0002");
    capture_detach(g.c, 2);
    capture_detach(g.c, 2); /* nothing more to do */

    /* done() waits for what began before, not for what began after */
    hold(BLKDEV_WRITE, 2);
    submit(0, BLKDEV_WRITE, 0, 4096, 0);
    assert_int_equal(capture_seq(g.c), lane_seq(EPOCH, 0));
    assert_int_equal(capture_attach(g.c, 2, g.split, attached, NULL, NULL), 0);
    submit(1, BLKDEV_WRITE, 8192, 4096, 0);
    submit(2, BLKDEV_WRITE, 16384, 4096, 0);
    sim_turn(g.loop);
    assert_int_equal(g.attached, 1);
    faultdev_release(g.fault);
    sim_turn(g.loop);
    assert_int_equal(g.attached, 2);
    assert_int_equal(capture_seq(g.c), lane_seq(EPOCH, 2));

    /* detached with a write in flight: its entry still settles */
    hold(BLKDEV_WRITE, 1);
    submit(3, BLKDEV_WRITE, 0, 4096, 0);
    capture_detach(g.c, 2);
    faultdev_release(g.fault);
    rx_drain(&g.rx, g.loop);
    assert_int_equal(g.rx.entries[ENTRY_WRITE], 3);

    /* the lane ends with a write in flight */
    assert_int_equal(capture_attach(g.c, 2, g.split, attached, NULL, NULL), 0);
    hold(BLKDEV_WRITE, 1);
    submit(4, BLKDEV_WRITE, 0, 4096, 0);
    capture_free(g.c);
    g.c = NULL;
    faultdev_release(g.fault);
    assert_int_equal(g.op[4].res, 0);

    /* a splitter that closes leaves its lane */
    g.c = new_capture(EPOCH + 1, 0);
    assert_int_equal(capture_attach(g.c, 2, g.split, NULL, NULL, NULL), 0);
    blkdev_close(g.split);
    assert_int_equal(memdev_new(g.loop, VOLUME, &mem), 0);
    assert_int_equal(splitter_open(mem, &g.split, NULL), 0);
    assert_int_equal(capture_attach(g.c, 2, g.split, NULL, NULL, NULL), 0);
    teardown();
}

static void
refusals(void **state)
{
    struct err err = ERR_INIT;
    struct ringpool *pool = NULL;
    struct blkdev *mem = NULL, *split = NULL;

    (void)state;
    setup();
    assert_int_equal(ringpool_new(g.loop, 65536, &pool, &err), -EINVAL);
    assert_string_equal(err_code_text(err.code), "CAP-0001");
    assert_int_equal(memdev_new(g.loop, MIB, &mem), 0);
    mem->info.min_block = 128 * 1024;
    assert_int_equal(splitter_open(mem, &split, &err), -EINVAL);
    assert_string_equal(err_code_text(err.code), "CAP-0005");
    blkdev_close(mem);
    assert_int_equal(g.split->info.min_block, 512);
    assert_int_equal(ringpool_size(g.pool), 16 * MIB);
    teardown();
}

static void
incarnation(void **state)
{
    struct lane_incarnation li = { .prev_last_batch = 5 };

    (void)state;
    setup();
    assert_int_equal(capture_incarnation(g.c, &li), 0);
    assert_int_equal(capture_state(g.c), CAPTURE_BROKEN); /* verify */
    assert_int_equal(capture_incarnation(g.c, &li), -EINVAL);
    rx_drain(&g.rx, g.loop);
    assert_int_equal(g.rx.entries[ENTRY_INCARNATION], 1);
    capture_free(g.c);
    g.c = new_capture(EPOCH + 1, 0);
    li.exact = 1;
    assert_int_equal(capture_incarnation(g.c, &li), 0);
    assert_int_equal(capture_state(g.c), CAPTURE_EXACT);
    teardown();
}

static void
rewind_and_durable(void **state)
{
    uint8_t zeros[16] = { 0 }, first[16];

    (void)state;
    setup();
    assert_int_equal(capture_rewind(g.c, 0, zeros), 0);
    assert_int_equal(capture_durable(g.c, 1), -EINVAL);
    for (uint64_t i = 1; i <= 5; i++) {
        submit(0, BLKDEV_WRITE, i * 4096, 4096, 0);
        cut(i);
        assert_int_equal(rx_pull(&g.rx), 1);
        if (i == 1)
            memcpy(first, g.rx.digest, 16);
    }
    assert_int_equal(capture_durable(g.c, 6), -EINVAL);
    assert_int_equal(capture_rewind(g.c, 6, zeros), -EBADMSG);
    assert_int_equal(capture_rewind(g.c, 1, zeros), -EBADMSG);
    rx_durable(&g.rx, 2);
    assert_int_equal(capture_rewind(g.c, 1, first), -ESTALE);
    rx_drop(&g.rx);
    assert_int_equal(rx_pull(&g.rx), 3); /* 3, 4, 5 again, the same bytes */
    rx_drop(&g.rx);
    assert_int_equal(rx_pull(&g.rx), 3);
    /* DURABLE of what is about to be handed out again */
    assert_int_equal(capture_rewind(g.c, 2, g.rx.durable_digest), 0);
    rx_durable(&g.rx, 2);
    rx_drop(&g.rx);
    assert_int_equal(rx_pull(&g.rx), 1);
    rx_durable(&g.rx, 1);
    assert_same();
    teardown();
}

static void
batch_limits(void **state)
{
    uint64_t due = 0;
    const struct capture_batch *b;

    (void)state;
    setup();
    /* a batch closes at 1 MiB */
    for (int i = 0; i < 257; i++)
        submit(0, BLKDEV_WRITE, (uint64_t)i * 4096, 4096, 0);
    b = capture_next(g.c, CHUNK_STORED, 0, &due);
    assert_non_null(b);
    assert_int_equal(b->last_seq, lane_seq(EPOCH, 256));
    assert_int_equal(b->iov_n, 17);
    b = capture_next(g.c, CHUNK_STORED, 0, &due);
    assert_null(b);
    assert_true(due > 0);
    /* and at a cut, which is its newest */
    cut(77);
    b = capture_next(g.c, CHUNK_STORED, 0, &due);
    assert_int_equal(b->newest_cut_no, 77);
    assert_true(b->newest_cut_ns > 0);
    assert_int_equal(b->last_seq, lane_seq(EPOCH, 258));
    assert_int_equal(capture_durable(g.c, 2), 0);
    /* entries without payload are bounded too */
    for (int i = 0; i < 5000; i++)
        submit(0, BLKDEV_FLUSH, 0, 0, 0);
    for (int n = 0; n < 2; n++) {
        b = capture_next(g.c, CHUNK_STORED, 0, &due);
        assert_int_equal(b->last_seq - b->first_seq + 1, 2048);
        assert_int_equal(b->newest_cut_no, 0);
    }
    assert_null(capture_next(g.c, CHUNK_STORED, 0, &due));
    teardown();
}

static void
compression(void **state)
{
    (void)state;
    for (int codec = CHUNK_STORED; codec <= CHUNK_ZSTD; codec++) {
        uint64_t stored;

        setup();
        g.rx.codec = (enum chunk_codec)codec;
        memset(data, 'x', MIB);
        submit(0, BLKDEV_WRITE, 0, 300 * KIB + 512, 0);
        submit(1, BLKDEV_WRITE, MIB, 512, 0);
        submit(2, BLKDEV_WRITE, 2 * MIB, 512 * KIB, 0);
        rx_pull(&g.rx);
        rx_drop(&g.rx); /* compressed once, sent twice */
        rx_drain(&g.rx, g.loop);
        stored = stats().sent_bytes;
        if (codec == CHUNK_STORED)
            assert_true(stored > 800 * KIB);
        else
            assert_true(stored < 64 * KIB);
        assert_same();
        teardown();
    }
}

/* --- memory ------------------------------------------------------------- */

static void
begin_resync(void)
{
    struct resync_begin rb = { .reason = RESYNC_OVERFLOW };

    assert_int_equal(capture_resync_begin(g.c, &rb), 0);
    assert_int_equal(capture_state(g.c), CAPTURE_EXACT);
    assert_true(capture_in_resync(g.c));
}

struct rd {
    struct capture_read r;
    int res, n;
};

static void
rd_done(struct capture_read *r, int res)
{
    struct rd *rd = container_of(r, struct rd, r);

    rd->res = res;
    rd->n++;
}

/* Everything in-band, in pieces of a MiB. */
static void
read_all(void)
{
    for (uint64_t at = 0; at < VOLUME;) {
        struct rd rd = { .r = { .vol = 2,
                                .in_band = true,
                                .off = at,
                                .len = MIB,
                                .done = rd_done } };
        int rc = capture_read(g.c, &rd.r);

        if (rc == -EAGAIN) {
            rx_drain(&g.rx, g.loop);
            continue;
        }
        assert_int_equal(rc, 0);
        assert_int_equal(rd.n, 1);
        if (rd.res == -EAGAIN) {
            rx_drain(&g.rx, g.loop);
            continue;
        }
        assert_int_equal(rd.res, 0);
        at += MIB;
    }
}

static void
end_resync(uint64_t cut_no)
{
    struct cut_commit cc = { .cut_no = cut_no };

    assert_int_equal(capture_cut(g.c, &cc, NULL), -EAGAIN);
    assert_int_equal(capture_resync_end(g.c), 0);
    assert_false(capture_in_resync(g.c));
    assert_int_equal(capture_resync_end(g.c), -EINVAL);
    cut(cut_no);
    rx_drain(&g.rx, g.loop);
    assert_same();
}

static void
overflow(void **state)
{
    struct cut_commit cc = { .cut_no = 1 };
    struct resync_begin rb = { .reason = RESYNC_OVERFLOW };
    struct capture_stats st;
    uint64_t at_collapse;
    int i = 0;

    (void)state;
    setup_with(4 * MIB, VOLUME, 0);
    /* nobody receives: production goes on all the same (I24) */
    while (capture_state(g.c) == CAPTURE_EXACT) {
        assert_int_equal(submit(0, BLKDEV_WRITE, (uint64_t)(i++ % 100) * 65536,
                                65536, 0)
                             ->res,
                         0);
        assert_true(i < 100);
    }
    assert_int_equal(capture_state(g.c), CAPTURE_COLLAPSED);
    at_collapse = capture_seq(g.c);
    for (int k = 0; k < 50; k++)
        assert_int_equal(submit(1, BLKDEV_WRITE, (uint64_t)k * 4096, 4096, 0)->res,
                         0);
    assert_int_equal(submit(2, BLKDEV_FLUSH, 0, 0, 0)->res, 0);
    assert_int_equal(capture_seq(g.c), at_collapse + 50);
    assert_int_equal(capture_cut(g.c, &cc, NULL), -EAGAIN);
    assert_int_equal(capture_resync_begin(g.c, &rb), -EAGAIN);
    st = stats();
    assert_int_equal(st.collapses, 1);
    assert_int_equal(st.collapsed_bytes, 65536 + 50 * 4096);
    assert_true(st.ring_bytes <= 4 * MIB);
    /* what was in the ring is delivered exactly */
    rx_drain(&g.rx, g.loop);
    assert_int_equal(g.rx.entries[ENTRY_WRITE], i - 1);
    assert_int_equal(g.rx.entries[ENTRY_GAP], 0);
    assert_int_equal(capture_state(g.c), CAPTURE_BROKEN);
    assert_true(stats().oldest_ns > 0); /* the gap is what is missing there */
    assert_int_equal(stats().ring_bytes, 0);
    assert_int_equal(capture_cut(g.c, &cc, NULL), -EAGAIN);
    /* still nothing is kept */
    submit(3, BLKDEV_WRITE, 0, 65536, 0);
    assert_int_equal(stats().ring_bytes, 0);
    /* a write of the gap is in flight across RESYNC_BEGIN */
    hold(BLKDEV_WRITE, 1);
    submit(4, BLKDEV_WRITE, 5 * MIB, 4096, 0);
    assert_int_equal(g.op[4].order, 0);
    begin_resync();
    {
        struct rd rd = { .r = { .vol = 2,
                                .in_band = true,
                                .off = 5 * MIB,
                                .len = 65536,
                                .done = rd_done } };

        assert_int_equal(capture_read(g.c, &rd.r), 0);
        assert_int_equal(rd.n, 0); /* it waits for that write */
        faultdev_release(g.fault);
        assert_true(rd.n == 1 && rd.res == 0 && !rd.r.zero);
    }
    submit(5, BLKDEV_WRITE, 3 * MIB, 4096, 0);
    read_all();
    end_resync(2);
    assert_int_equal(g.rx.entries[ENTRY_GAP], 1);
    assert_int_equal(g.rx.entries[ENTRY_RESYNC_BEGIN], 1);
    assert_int_equal(g.rx.entries[ENTRY_RESYNC_END], 1);
    assert_true(g.rx.entries[ENTRY_RESYNC_WRITE] > 0);
    assert_true(g.rx.entries[ENTRY_ZERO] > 0); /* the untouched end */
    teardown();
}

/* A failure, then a second one inside the resync window. */
static void
failure_and_again(void **state)
{
    (void)state;
    setup();
    submit(0, BLKDEV_WRITE, 0, 65536, 0);
    fail_next(BLKDEV_WRITE, -EIO, 1);
    assert_int_equal(submit(1, BLKDEV_WRITE, 4096, 4096, 0)->res, -EIO);
    assert_int_equal(capture_state(g.c), CAPTURE_BROKEN);
    assert_int_equal(submit(2, BLKDEV_WRITE, 0, 512, 0)->res, 0);
    rx_drain(&g.rx, g.loop);
    assert_int_equal(g.rx.entries[ENTRY_DIRTY], 1);
    assert_int_equal(g.rx.vol[2].data[4096], 0xdd);
    begin_resync();
    read_all();
    fail_next(BLKDEV_WRITE, -EIO, 1);
    assert_int_equal(submit(3, BLKDEV_WRITE, 8192, 4096, 0)->res, -EIO);
    assert_int_equal(capture_resync_end(g.c), -EAGAIN);
    assert_int_equal(capture_state(g.c), CAPTURE_BROKEN);
    begin_resync();
    read_all();
    end_resync(1);
    assert_int_equal(g.rx.entries[ENTRY_GAP], 1); /* the write number 2 */
    teardown();
}

/* A number given in the gap fails after the gap was closed: not known again. */
static void
late_failure(void **state)
{
    const struct faultdev_rule rule = { .op = BLKDEV_WRITE,
                                        .times = 1,
                                        .error = -EIO };

    (void)state;
    setup();
    fail_next(BLKDEV_FLUSH, -EIO, 1);
    submit(0, BLKDEV_FLUSH, 0, 0, 0);
    assert_int_equal(capture_state(g.c), CAPTURE_BROKEN);
    hold(BLKDEV_WRITE, 1);
    submit(1, BLKDEV_WRITE, 0, 4096, 0);
    begin_resync();
    faultdev_set(g.inner, &rule, 1);
    faultdev_release(g.fault);
    assert_int_equal(g.op[1].res, -EIO);
    assert_int_equal(capture_state(g.c), CAPTURE_BROKEN);
    assert_int_equal(capture_resync_end(g.c), -EAGAIN);
    begin_resync();
    read_all();
    end_resync(1);
    teardown();
}

static void
floors(void **state)
{
    struct blkdev *mem = NULL, *split2 = NULL;
    struct capture *c2;
    struct op op2;

    (void)state;
    setup_with(4 * MIB, VOLUME, 0);
    capture_free(g.c);
    g.c = new_capture(EPOCH + 1, MIB);
    c2 = new_capture(EPOCH, MIB);
    assert_int_equal(memdev_new(g.loop, VOLUME, &mem), 0);
    assert_int_equal(splitter_open(mem, &split2, NULL), 0);
    assert_int_equal(capture_attach(g.c, 2, g.split, NULL, NULL, NULL), 0);
    assert_int_equal(capture_attach(c2, 0, split2, NULL, NULL, NULL), 0);
    for (int i = 0; i < 100; i++)
        submit(0, BLKDEV_WRITE, (uint64_t)i * 65536, 65536, 0);
    assert_int_equal(capture_state(g.c), CAPTURE_COLLAPSED);
    assert_true(stats().ring_bytes <= 3 * MIB);
    /* the other's floor is untouched: 15 blocks of data and one of entries */
    for (int i = 0; i < 16; i++) {
        op2 = (struct op){ .rq = { .op = BLKDEV_WRITE,
                                   .off = (uint64_t)i * 65536,
                                   .len = 65536,
                                   .buf = data,
                                   .done = op_done } };
        blkdev_submit(split2, &op2.rq);
        assert_int_equal(op2.res, 0);
        assert_int_equal(capture_state(c2),
                         i < 15 ? CAPTURE_EXACT : CAPTURE_COLLAPSED);
    }
    capture_free(c2);
    blkdev_close(split2);
    teardown();
}

/* Forty idle lanes do not take the ring from a busy one. */
static void
many_lanes(void **state)
{
    struct capture *idle[40];

    (void)state;
    setup_with(4 * MIB, VOLUME, 0);
    for (size_t i = 0; i < ARRAY_SIZE(idle); i++)
        idle[i] = new_capture(EPOCH, 0);
    for (int i = 0; i < 31; i++)
        submit(0, BLKDEV_WRITE, (uint64_t)i * 65536, 65536, 0);
    assert_int_equal(capture_state(g.c), CAPTURE_EXACT);
    for (size_t i = 0; i < ARRAY_SIZE(idle); i++)
        capture_free(idle[i]);
    teardown();
}

/* --- resync reads ------------------------------------------------------- */

static struct rd
read_one(bool in_band, uint64_t off, uint64_t len, void *buf, int want_rc)
{
    struct rd rd = { .r = { .vol = 2,
                            .in_band = in_band,
                            .off = off,
                            .len = len,
                            .buf = buf,
                            .done = rd_done } };

    assert_int_equal(capture_read(g.c, &rd.r), want_rc);
    if (want_rc == 0)
        assert_int_equal(rd.n, 1);
    rd.r.done = NULL;
    return rd;
}

static void
straight_reads(void **state)
{
    static _Alignas(4096) uint8_t buf[MIB];
    struct rd rd;

    (void)state;
    setup_with(16 * MIB, 200 * MIB, 0);
    submit(0, BLKDEV_WRITE, 0, MIB, 0);
    rd = read_one(false, 0, MIB, buf, 0);
    assert_int_equal(rd.res, 0);
    assert_false(rd.r.zero);
    assert_int_equal(rd.r.after_seq, lane_seq(EPOCH, 1));
    assert_int_equal(rd.r.crc, crc32c(0, data, MIB));
    assert_memory_equal(buf, data, MIB);
    rd = read_one(false, 64 * MIB, 4096, buf, 0);
    assert_true(rd.r.zero && rd.res == 0);
    /* holes of up to 64 MiB need no buffer; data among them is too big */
    rd = read_one(false, 64 * MIB, 64 * MIB, NULL, 0);
    assert_true(rd.r.zero && rd.res == 0);
    rd = read_one(false, 0, 64 * MIB, NULL, 0);
    assert_int_equal(rd.res, -E2BIG);
    (void)read_one(false, 0, 65 * MIB, NULL, -E2BIG);
    (void)read_one(false, 0, 4096, NULL, -EINVAL);
    (void)read_one(false, 200 * MIB, 4096, buf, -EINVAL);
    (void)read_one(false, 1, 4096, buf, -EINVAL);
    rd.r.vol = 9;
    assert_int_equal(capture_read(g.c, &rd.r), -ENOENT);
    /* nothing of it is in the lane, in-band reads are */
    assert_int_equal(capture_seq(g.c), lane_seq(EPOCH, 1));
    rd = read_one(true, 64 * MIB, 64 * MIB, NULL, 0);
    assert_int_equal(capture_seq(g.c), lane_seq(EPOCH, 2));
    rd = read_one(true, 0, 4096, NULL, 0);
    assert_int_equal(rd.r.after_seq, lane_seq(EPOCH, 3));
    rx_drain(&g.rx, g.loop);
    assert_int_equal(g.rx.entries[ENTRY_ZERO], 1);
    assert_int_equal(g.rx.entries[ENTRY_RESYNC_WRITE], 1);
    teardown();
}

static void
unreadable(void **state)
{
    static _Alignas(4096) uint8_t buf[65536];
    struct rd rd;

    (void)state;
    setup();
    fail_next(BLKDEV_READ, -EIO, 2); /* the third try succeeds */
    rd = read_one(true, 0, 65536, NULL, 0);
    assert_int_equal(rd.res, 0);
    fail_next(BLKDEV_READ, -EIO, 3);
    rd = read_one(true, 0, 65536, NULL, 0);
    assert_int_equal(rd.res, -EIO); /* ask for its parts */
    rx_drain(&g.rx, g.loop);
    assert_int_equal(g.rx.entries[ENTRY_DIRTY], 0);
    fail_next(BLKDEV_READ, -EIO, 3);
    rd = read_one(true, 4096, 4096, NULL, 0);
    assert_int_equal(rd.res, -EIO);
    fail_next(BLKDEV_READ, -EIO, 3);
    rd = read_one(false, 8192, 4096, buf, 0);
    assert_int_equal(rd.res, -EIO);
    rx_drain(&g.rx, g.loop);
    assert_int_equal(g.rx.entries[ENTRY_DIRTY], 2);
    assert_int_equal(capture_state(g.c), CAPTURE_EXACT); /* the window closes */
    teardown();
}

static void
quarter_of_the_ring(void **state)
{
    int n = 0;
    struct rd rd;

    (void)state;
    setup_with(4 * MIB, VOLUME, 0);
    submit(0, BLKDEV_WRITE, 0, 3 * MIB, 0);
    rx_drain(&g.rx, g.loop);
    begin_resync();
    for (;; n++) {
        rd = (struct rd){ .r = { .vol = 2,
                                 .in_band = true,
                                 .off = (uint64_t)n * 65536,
                                 .len = 65536,
                                 .done = rd_done } };
        if (capture_read(g.c, &rd.r) != 0)
            break;
        assert_int_equal(rd.res, 0);
    }
    assert_int_equal(n, 16); /* a quarter of 4 MiB */
    sim_turn(g.loop);
    g.wakes = 0;
    rx_pull(&g.rx);
    sim_advance(BATCH_LINGER_NS);
    rx_pull(&g.rx);
    rx_durable(&g.rx, g.rx.pending_n);
    sim_turn(g.loop);
    assert_true(g.wakes > 0); /* there is room again */
    assert_int_equal(capture_read(g.c, &rd.r), 0);
    (void)read_one(true, 0, 2 * MIB - 512, NULL, 0); /* extents: not a hole */
    teardown();
}

static void
reads_end_with_the_lane(void **state)
{
    static _Alignas(4096) uint8_t buf[4096];
    struct rd rd[3];

    (void)state;
    for (int by_detach = 0; by_detach < 2; by_detach++) {
        setup();
        hold(BLKDEV_READ, 1);
        for (int i = 0; i < 3; i++) {
            rd[i] = (struct rd){ .r = { .vol = 2,
                                        .in_band = i < 2,
                                        .len = 4096,
                                        .buf = i == 2 ? buf : NULL,
                                        .done = rd_done } };
            assert_int_equal(capture_read(g.c, &rd[i].r), 0);
        }
        submit(0, BLKDEV_WRITE, 0, 4096, 0);
        assert_int_equal(rd[0].n + rd[1].n + rd[2].n, 0);
        if (by_detach) {
            capture_detach(g.c, 2);
        } else {
            capture_free(g.c);
            g.c = NULL;
        }
        assert_true(rd[0].n == 0 && rd[1].n == 1 && rd[2].n == 1);
        assert_true(rd[1].res == -ECANCELED && rd[2].res == -ECANCELED);
        assert_int_equal(g.op[0].order, 0); /* its range is still read */
        faultdev_release(g.fault);
        assert_true(rd[0].n == 1 && rd[0].res == -ECANCELED);
        assert_int_equal(g.op[0].res, 0);
        teardown();
    }
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plain_write),
        cmocka_unit_test(pending_stops),
        cmocka_unit_test(overlap_waits),
        cmocka_unit_test(planted_bug),
        cmocka_unit_test(large_write),
        cmocka_unit_test(flush_and_fua),
        cmocka_unit_test(zero_and_trim),
        cmocka_unit_test(zero_in_pieces),
        cmocka_unit_test(cancel),
        cmocka_unit_test(many_requests),
        cmocka_unit_test(one_hot_block),
        cmocka_unit_test(attach_detach),
        cmocka_unit_test(refusals),
        cmocka_unit_test(incarnation),
        cmocka_unit_test(rewind_and_durable),
        cmocka_unit_test(batch_limits),
        cmocka_unit_test(compression),
        cmocka_unit_test(overflow),
        cmocka_unit_test(failure_and_again),
        cmocka_unit_test(late_failure),
        cmocka_unit_test(floors),
        cmocka_unit_test(many_lanes),
        cmocka_unit_test(straight_reads),
        cmocka_unit_test(unreadable),
        cmocka_unit_test(quarter_of_the_ring),
        cmocka_unit_test(reads_end_with_the_lane),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
