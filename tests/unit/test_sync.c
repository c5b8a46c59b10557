/* room: stream journal capture lane io common */
/* The walk of a sync over a volume: every byte once, holes as holes, bad sectors
 * given up one by one, pieces read again after SYNC_AGAIN or a new opening, and
 * late confirmations that must count for nothing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "helper_io.h"
#include "io/file.h"
#include "stream/link.h"

enum {
    VOL = 8 * 1024 * 1024
};

static struct {
    struct io_loop *loop;
    struct blkdev *fault, *dev;
    struct ringpool *pool;
    struct capture *capture;
    struct sync y;
    uint16_t vol;
    uint64_t size;
    unsigned wakes;
    bool attached;
    /* what was sent: bytes of the volume that are confirmed */
    uint8_t *image, *times;
    struct {
        uint64_t id, off, len;
        bool zero;
        uint8_t *data;
    } sent[4096];
    unsigned n_sent;
} t;

static void
woken(void *arg)
{
    t.wakes++;
    sync_run(&t.y);
}

static void
attached(void *arg)
{
    t.attached = true;
}

static void
turns(unsigned n)
{
    while (n-- > 0)
        assert_int_equal(io_loop_turn(t.loop, 0), 0);
}

static void
setup(uint64_t size)
{
    struct capture_config cc = { .lane = 1, .seq_epoch = 1, .wake = woken };
    struct lane_incarnation li = { .exact = 1 };
    struct resync_begin rb = { .scope_bytes = size };
    struct blkdev *mem;
    struct err e = ERR_INIT;

    memset(&t, 0, sizeof t);
    t.size = size;
    t.vol = 3;
    t.loop = helper_loop(IO_BACKEND_EPOLL, 0);
    assert_int_equal(memdev_new(t.loop, size, &mem), 0);
    assert_int_equal(faultdev_new(mem, &t.fault), 0);
    assert_int_equal(splitter_open(t.fault, &t.dev, &e), 0);
    assert_int_equal(ringpool_new(t.loop, 64 * MIB, &t.pool, &e), 0);
    cc.loop = t.loop;
    cc.pool = t.pool;
    assert_int_equal(capture_new(&cc, &t.capture, &e), 0);
    assert_int_equal(capture_incarnation(t.capture, &li), 0);
    assert_int_equal(capture_attach(t.capture, t.vol, t.dev, attached, NULL, &e),
                     0);
    while (!t.attached)
        turns(1);
    assert_int_equal(capture_resync_begin(t.capture, &rb), 0);
    sync_init(&t.y, t.loop, t.capture, woken, NULL);
    if (size <= VOL) {
        t.image = calloc(1, size);
        t.times = calloc(1, size / 512);
    }
}

static void
teardown_all(void)
{
    sync_release(&t.y);
    capture_detach(t.capture, t.vol);
    capture_free(t.capture);
    ringpool_free(t.pool);
    blkdev_close(t.dev);
    for (unsigned i = 0; i < t.n_sent; i++)
        free(t.sent[i].data);
    free(t.image);
    free(t.times);
    io_loop_free(t.loop);
}

static unsigned writes_done;

static void
write_done(struct blkdev_req *rq, int res)
{
    assert_int_equal(res, 0);
    writes_done++;
}

static void
write_at(uint64_t off, uint64_t len, uint8_t byte)
{
    struct blkdev_req rq = {
        .op = BLKDEV_WRITE, .off = off, .len = len, .done = write_done
    };
    unsigned before = writes_done;

    rq.buf = io_mem_alloc(len);
    memset(rq.buf, byte, len);
    blkdev_submit(t.dev, &rq);
    assert_int_equal(writes_done, before + 1); /* in memory: at once */
    io_mem_free(rq.buf, len);
}

static void
begin(bool straight)
{
    sync_begin(&t.y, straight, &t.vol, &t.size, 1);
    sync_run(&t.y);
}

/* Send whatever has been read. */
static void
pull(void)
{
    struct sync_range *r;
    void *buf = NULL;

    turns(3);
    while ((r = sync_next(&t.y, &buf)) != NULL) {
        unsigned i = t.n_sent++;

        assert_true(i < ARRAY_SIZE(t.sent));
        t.sent[i].id = r->id;
        t.sent[i].off = r->rq.off;
        t.sent[i].len = r->rq.len;
        t.sent[i].zero = r->rq.zero;
        assert_int_equal(buf == NULL, r->rq.zero);
        if (buf) {
            t.sent[i].data = malloc(r->rq.len);
            memcpy(t.sent[i].data, buf, r->rq.len);
            io_mem_free(buf, SYNC_PIECE);
        }
        sync_run(&t.y);
    }
}

/* The target has written sent[i]. */
static void
apply(unsigned i)
{
    if (t.sent[i].zero)
        memset(t.image + t.sent[i].off, 0, t.sent[i].len);
    else
        memcpy(t.image + t.sent[i].off, t.sent[i].data, t.sent[i].len);
    for (uint64_t k = 0; k < t.sent[i].len / 512; k++)
        t.times[t.sent[i].off / 512 + k]++;
}

static void
run_straight(void)
{
    unsigned applied = t.n_sent;

    for (unsigned k = 0; !sync_finished(&t.y); k++) {
        assert_true(k < 10000);
        pull();
        while (applied < t.n_sent)
            apply(applied++);
        if (t.n_sent > 0)
            sync_confirmed(&t.y, t.sent[t.n_sent - 1].id);
        sync_run(&t.y);
    }
    assert_int_equal(t.y.done, t.size);
}

static void
check_once(void)
{
    for (uint64_t k = 0; k < t.size / 512; k++)
        assert_int_equal(t.times[k], 1);
}

/* Holes of all sizes, also between a piece and the largest read with data. */
static void
straight_walk(void **state)
{
    static const uint64_t at[] = {
        0,          320 * KIB,  832 * KIB,     1984 * KIB,
        3200 * KIB, 3264 * KIB, VOL - 64 * KIB
    };

    setup(VOL);
    for (unsigned i = 0; i < ARRAY_SIZE(at); i++)
        write_at(at[i], 64 * KIB, (uint8_t)(i + 1));
    begin(true);
    run_straight();
    check_once();
    for (unsigned i = 0; i < ARRAY_SIZE(at); i++)
        for (uint64_t k = 0; k < 64 * KIB; k++)
            assert_int_equal(t.image[at[i] + k], i + 1);
    teardown_all();
}

/* What was a hole when the extents were read has data when it is read. */
static void
hole_no_more(void **state)
{
    for (unsigned straight = 0; straight < 2; straight++) {
        setup(VOL);
        begin(straight != 0);
        assert_true(t.y.ext_n > 0 || t.y.ext_pending);
        write_at(3 * MIB, 128 * KIB, 7); /* before the walk goes on */
        if (straight) {
            run_straight();
            check_once();
            assert_int_equal(t.image[3 * MIB + 5], 7);
        } else {
            struct capture_stats st;

            for (unsigned k = 0; !sync_finished(&t.y); k++) {
                assert_true(k < 1000);
                turns(1);
            }
            assert_int_equal(t.y.done, t.size);
            capture_stats(t.capture, &st);
            /* by the sync, and the write itself if that came after the read */
            assert_true(st.raw_bytes >= 128 * KIB);
            assert_true(st.raw_bytes < MIB);
        }
        teardown_all();
    }
}

static void
write_failed(struct blkdev_req *rq, int res)
{
    assert_int_equal(res, -EIO);
    writes_done++;
}

/* What is written ahead of the sync is not kept, the sync brings it; what is
 * written behind it is. */
static void
ahead_of_the_sync(void **state)
{
    struct faultdev_rule hold = { .op = BLKDEV_READ, .off = 2 * MIB, .len = VOL };
    struct faultdev_rule broken[2] = {
        hold,
        { .op = BLKDEV_WRITE, .off = 7 * MIB + 8192, .len = 512, .error = -EIO },
    };
    struct blkdev_req bad = { .op = BLKDEV_WRITE,
                              .off = 7 * MIB + 8192,
                              .len = 4096,
                              .done = write_failed };
    struct capture_stats st;
    uint64_t entries, raw;

    setup(VOL);
    write_at(0, VOL, 1);
    capture_stats(t.capture, &st);
    raw = st.raw_bytes;
    faultdev_set(t.fault, broken, 2);
    begin(false);
    for (unsigned k = 0; faultdev_held(t.fault) < 8; k++) { /* SYNC_READS */
        assert_true(k < 1000);
        turns(1);
    }
    capture_stats(t.capture, &st);
    entries = st.entries;
    assert_int_equal(st.raw_bytes, raw + 2 * MIB);
    write_at(7 * MIB, 4096, 2); /* reads stand at 6 MiB */
    bad.buf = io_mem_alloc(4096);
    blkdev_submit(t.dev, &bad);
    io_mem_free(bad.buf, 4096);
    capture_stats(t.capture, &st);
    assert_int_equal(st.entries, entries);
    assert_int_equal(capture_state(t.capture), CAPTURE_EXACT);
    write_at(MIB, 4096, 3);
    capture_stats(t.capture, &st);
    assert_int_equal(st.entries, entries + 1);
    faultdev_set(t.fault, NULL, 0);
    faultdev_release(t.fault);
    for (unsigned k = 0; !sync_finished(&t.y); k++) {
        assert_true(k < 1000);
        turns(1);
    }
    capture_stats(t.capture, &st);
    assert_int_equal(st.raw_bytes, raw + VOL + 4096);
    assert_int_equal(capture_resync_end(t.capture), 0);
    write_at(VOL - 4096, 4096, 4); /* and now everything is */
    capture_stats(t.capture, &st);
    assert_int_equal(st.raw_bytes, raw + VOL + 2 * 4096);
    teardown_all();
}

/* A bad sector costs 4 KiB (a DIRTY in the lane), not the sync. */
static void
bad_sector(void **state)
{
    struct faultdev_rule rule = {
        .op = BLKDEV_READ, .off = 5 * MIB + 8192, .len = 512, .error = -EIO
    };

    for (unsigned straight = 0; straight < 2; straight++) {
        struct capture_stats before, after;

        setup(VOL);
        write_at(4 * MIB, 2 * MIB, 9);
        capture_stats(t.capture, &before);
        faultdev_set(t.fault, &rule, 1);
        begin(straight != 0);
        if (straight) {
            run_straight();
            for (uint64_t k = 0; k < t.size / 512; k++) {
                uint64_t off = k * 512;
                bool bad = off >= rule.off && off < rule.off + 4096;

                assert_int_equal(t.times[k], bad ? 0 : 1);
            }
            capture_stats(t.capture, &after);
            assert_int_equal(after.entries, before.entries + 1);
        } else {
            for (unsigned k = 0; !sync_finished(&t.y); k++) {
                assert_true(k < 1000);
                turns(1);
            }
            assert_int_equal(t.y.done, t.size);
        }
        assert_int_equal(capture_state(t.capture), CAPTURE_EXACT);
        assert_int_equal(capture_resync_end(t.capture), 0);
        teardown_all();
    }
}

/* SYNC_AGAIN: read anew, under a new id; the window keeps ids together. */
static void
again_and_window(void **state)
{
    unsigned k = 0;

    setup(VOL);
    write_at(0, VOL, 1);
    begin(true);
    pull();
    assert_true(t.n_sent >= 4);
    write_at(t.sent[1].off, 4096, 2);
    sync_again(&t.y, t.sent[1].id);
    sync_run(&t.y);
    pull();
    /* the first one is never confirmed, the others come too late for ever */
    for (k = 0; k < 600; k++) {
        unsigned n = t.n_sent;

        sync_again(&t.y, t.sent[n - 1].id);
        sync_run(&t.y);
        pull();
        if (t.n_sent == n)
            break;
    }
    assert_int_equal(t.sent[t.n_sent - 1].id, SYNC_WINDOW);
    for (unsigned i = 0; i < t.n_sent; i++)
        assert_int_equal(t.sent[i].id, i + 1);
    /* now all of them are answered: it goes on */
    for (unsigned i = 0; i < t.n_sent; i++)
        apply(i);
    sync_confirmed(&t.y, SYNC_WINDOW);
    sync_run(&t.y);
    run_straight();
    assert_int_equal(t.image[t.sent[1].off], 2);
    for (uint64_t i = 0; i < VOL / 512; i++)
        assert_true(t.times[i] >= 1);
    teardown_all();
}

/* A sync is given up and another begins in the same opening: what the target
 * says of the old one confirms nothing of the new one. */
static void
late_confirmation(void **state)
{
    uint64_t old;

    setup(VOL);
    write_at(0, VOL, 1);
    begin(true);
    pull();
    old = t.sent[t.n_sent - 1].id;
    sync_abort(&t.y);
    turns(2);
    assert_true(sync_idle(&t.y));
    begin(true);
    pull();
    assert_int_equal(t.y.done, 0);
    sync_confirmed(&t.y, old);
    assert_int_equal(t.y.done, 0);
    /* a new opening: from 1, and everything unconfirmed once more */
    sync_reopen(&t.y);
    for (unsigned i = 0; i < t.n_sent; i++)
        free(t.sent[i].data);
    t.n_sent = 0;
    sync_run(&t.y);
    pull();
    assert_int_equal(t.sent[0].id, 1);
    for (unsigned i = 0; i < t.n_sent; i++)
        apply(i);
    run_straight();
    check_once();
    teardown_all();
}

/* Given up while reads are under way: idle only when they have ended, and then
 * wake() comes. */
static void
abort_while_reading(void **state)
{
    struct faultdev_rule rule = { .op = BLKDEV_READ };
    unsigned before;

    for (unsigned straight = 0; straight < 2; straight++) {
        setup(VOL);
        write_at(0, VOL, 1);
        faultdev_set(t.fault, &rule, 1);
        begin(straight != 0);
        turns(5);
        assert_true(faultdev_held(t.fault) > 0);
        sync_abort(&t.y);
        turns(5);
        assert_false(sync_idle(&t.y));
        before = t.wakes;
        faultdev_set(t.fault, NULL, 0);
        faultdev_release(t.fault);
        turns(3);
        assert_true(sync_idle(&t.y));
        assert_true(t.wakes > before);
        assert_int_equal(t.y.busy, 0);
        begin(straight != 0); /* and another one works */
        if (straight)
            run_straight();
        for (unsigned k = 0; !sync_finished(&t.y); k++) {
            assert_true(k < 1000);
            turns(1);
        }
        teardown_all();
    }
}

/* A device that completes at once, and hundreds of ranges: the stack stays
 * flat, and other work gets its turns. */
static void
large_and_empty(void **state)
{
    setup(64 * GIB);
    begin(false);
    for (unsigned k = 0; !sync_finished(&t.y); k++) {
        assert_true(k < 10000);
        turns(1);
    }
    assert_int_equal(t.y.done, t.size);
    assert_true(t.wakes > 5);
    teardown_all();
}

int
main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(straight_walk),
        cmocka_unit_test(hole_no_more),
        cmocka_unit_test(ahead_of_the_sync),
        cmocka_unit_test(bad_sector),
        cmocka_unit_test(again_and_window),
        cmocka_unit_test(late_confirmation),
        cmocka_unit_test(abort_while_reading),
        cmocka_unit_test(large_and_empty),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
