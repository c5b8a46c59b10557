/* room: stream journal capture lane io common */
/* limit: 120 */
/* The stream between two ends in one loop, a proxy between them, and a real
 * journal: at every checkpoint that the journal offers, its view equals what
 * the source held when it was made.  Links are cut at random bytes, either side
 * restarts, the ring overflows, lanes are stopped in the middle of frames. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "helper_io.h"
#include "helper_stream.h"
#include "io/file.h"
#include "stream/link.h"

enum {
    VOL = 1024 * 1024
};

static struct {
    struct io_loop *loop;
    char *dir;
    struct end a, b;
    struct proxy proxy;
    struct io_addr via; /* the proxy, in front of b */
    struct lab l;
} t;

static void
setup_dead(uint64_t dead_ns)
{
    memset(&t, 0, sizeof t);
    labs_reset();
    t.loop = helper_loop(IO_BACKEND_EPOLL, 2);
    commits_gate(t.loop);
    t.dir = helper_tmpdir(NULL);
    end_open(&t.a, t.loop, 0xaa, t.dir, NULL, NULL, dead_ns);
    end_open(&t.b, t.loop, 0xbb, t.dir, NULL, NULL, dead_ns);
    t.via.is_unix = true;
    snprintf(t.via.host, sizeof t.via.host, "%.80s/proxy", t.dir);
    proxy_start(&t.proxy, t.loop, &t.via, &t.b.addr);
}

static void
setup(uint64_t seed)
{
    setup_dead(0);
    lab_init(&t.l, &t.a, &t.b, t.dir, 0x11, VOL, seed);
    t.l.dial_a = &t.via;
}

static void
teardown_all(void)
{
    if (t.l.sender)
        lab_source_stop(&t.l);
    if (t.l.journal)
        lab_target_stop(&t.l);
    lab_release(&t.l);
    proxy_stop(&t.proxy);
    stream_free(t.a.stream);
    stream_free(t.b.stream);
    io_loop_free(t.loop);
    helper_rmdir(t.dir);
}

static void
both_start(void)
{
    lab_target_start(&t.l);
    lab_source_start(&t.l);
}

/* --- the straight road -------------------------------------------------- */

static void
initial_sync_under_load(void **state)
{
    setup(1);
    lab_write(&t.l, 50, 64 * 1024); /* used before it is protected */
    both_start();
    for (unsigned i = 0; i < 40; i++) {
        lab_write(&t.l, 5, 32 * 1024);
        lab_turn(&t.l);
    }
    LAB_UNTIL(&t.l, lab_state(&t.l) == SENDER_STREAMING);
    for (unsigned i = 0; i < 10; i++) {
        lab_write(&t.l, 20, 32 * 1024);
        lab_cut_now(&t.l);
        lab_turn(&t.l);
    }
    lab_settle(&t.l);
    assert_true(lab_verify(&t.l) >= 10);
    teardown_all();
}

/* Old points stay while the ring overflows and the volumes are synced again. */
static void
collapse_and_resync(void **state)
{
    struct sender_status st;
    unsigned before;

    setup(2);
    t.l.ring_bytes = 4 * MIB;
    both_start();
    lab_write(&t.l, 20, 32 * 1024);
    lab_settle(&t.l);
    for (unsigned i = 0; i < 5; i++) {
        lab_write(&t.l, 10, 32 * 1024);
        lab_cut_now(&t.l);
    }
    lab_settle(&t.l);
    before = lab_verify(&t.l);
    assert_true(before >= 5);
    for (unsigned round = 0; round < 3; round++) {
        t.proxy.stalled = true;
        lab_write(&t.l, 400, 64 * 1024);
        LAB_UNTIL(&t.l, lab_state(&t.l) == SENDER_COLLAPSED ||
                            lab_state(&t.l) == SENDER_RESYNC);
        assert_int_equal(sender_cut(t.l.sender, CUT_USER, 0, NULL, NULL, NULL,
                                    NULL),
                         -EAGAIN);
        t.proxy.stalled = false;
        proxy_push(&t.proxy);
        LAB_UNTIL(&t.l, lab_state(&t.l) == SENDER_RESYNC);
        sender_status(t.l.sender, &st);
        assert_int_equal(st.sync_reason, RESYNC_OVERFLOW);
        while (lab_state(&t.l) == SENDER_RESYNC) { /* while it is written */
            lab_write(&t.l, 1, 4096);
            lab_turn(&t.l);
        }
        lab_settle(&t.l);
        assert_true(lab_verify(&t.l) > before + round);
    }
    sender_status(t.l.sender, &st);
    assert_true(st.capture.collapses >= 3);
    teardown_all();
}

/* The ring overflows in the middle of the initial sync: ids of straight writes
 * go on, and what was confirmed before counts for nothing. */
static void
collapse_in_initial_sync(void **state)
{
    setup(3);
    t.l.ring_bytes = 4 * MIB;
    lab_write(&t.l, 60, 64 * 1024);
    t.proxy.rate = 1000;
    both_start();
    for (unsigned i = 0; i < 200; i++) {
        proxy_push(&t.proxy);
        lab_turn(&t.l);
        if (lab_state(&t.l) == SENDER_INITIAL)
            lab_write(&t.l, 8, 64 * 1024);
    }
    t.proxy.rate = 0;
    proxy_push(&t.proxy);
    lab_settle(&t.l);
    lab_write(&t.l, 8, 64 * 1024);
    lab_cut_now(&t.l);
    lab_settle(&t.l);
    assert_true(lab_verify(&t.l) >= 1);
    teardown_all();
}

static void
sync_and_first_cut(void)
{
    struct sender_status st;

    t.l.obeys_restarts = true;
    lab_write(&t.l, 60, 64 * 1024);
    both_start();
    commits_hold();
    do {
        lab_turn(&t.l);
        sender_status(t.l.sender, &st);
    } while (st.newest_cut == 0);
}

/* The target loses its power when the initial sync is complete and its first
 * checkpoint made, but nothing of the lane is durable yet.  It asks for everything
 * again: straight writes of later content must not get below a checkpoint that
 * still waits in the ring. */
static void
power_lost_before_durable(void **state)
{
    struct err err = ERR_INIT;

    setup(60);
    sync_and_first_cut();
    proxy_cut(&t.proxy);
    t.proxy.stalled = true;
    lab_write(&t.l, 60, 64 * 1024);
    commits_release(t.loop); /* unheard by the source, and taken back: */
    lab_target_stop(&t.l);
    assert_int_equal(journal_destroy(t.loop, t.l.jdir, false, &err), 0);
    assert_int_equal(io_mkdir(t.loop, t.l.jdir, &err), 0);
    t.proxy.stalled = false;
    lab_target_start(&t.l);
    proxy_push(&t.proxy);
    LAB_UNTIL(&t.l, t.l.restarts > 0);
    assert_int_equal(t.l.restart_why, ERR_STR_0020);
    lab_settle(&t.l);
    lab_cut_now(&t.l);
    lab_settle(&t.l);
    assert_true(lab_verify(&t.l) >= 1);
    teardown_all();
}

/* The same moment, but the target goes on, and its disk is slow: what it has
 * taken becomes durable, and its checkpoint is offered, after the source has
 * opened the lane again (round 0) or a new incarnation of it (round 1).  Nothing
 * may be written straight then, and nobody gets stuck over it. */
static void
commit_ends_after_reopening(void **state)
{
    for (unsigned round = 0; round < 2; round++) {
        struct sender_status st;
        struct journal_tail tail;

        setup(64 + round);
        sync_and_first_cut();
        sender_status(t.l.sender, &st);
        do {
            lab_turn(&t.l);
            journal_tail(t.l.journal, &tail);
        } while (tail.taken_seq < st.capture.seq);
        assert_int_equal(tail.durable_seq, 0);
        if (round == 0) {
            proxy_cut(&t.proxy);
            LAB_UNTIL(&t.l, lab_state(&t.l) == SENDER_CONNECTING);
        } else {
            lab_source_stop(&t.l);
            lab_source_start(&t.l);
        }
        lab_write(&t.l, 60, 64 * 1024);
        if (round == 0)
            LAB_UNTIL(&t.l,
                      lab_state(&t.l) != SENDER_CONNECTING || t.l.restarts > 0);
        for (unsigned i = 0; i < 20; i++)
            lab_turn(&t.l);
        commits_release(t.loop);
        lab_settle(&t.l);
        lab_cut_now(&t.l);
        lab_settle(&t.l);
        assert_int_equal(t.l.restarts, 0);
        assert_true(lab_verify(&t.l) >= 2);
        teardown_all();
    }
}

/* The source dies in its initial sync and the volumes change while it is away:
 * what the journal has of before must not hide what is newer. */
static void
source_dies_in_initial_sync(void **state)
{
    struct journal_point newest;

    setup(4);
    lab_write(&t.l, 60, 64 * 1024);
    t.proxy.rate = 500;
    both_start();
    for (unsigned i = 0; i < 3; i++) {
        for (unsigned k = 0; k < 60; k++) {
            lab_write(&t.l, 1, 16 * 1024);
            lab_turn(&t.l);
        }
        if (i == 0)
            assert_int_equal(lab_state(&t.l), SENDER_INITIAL);
        lab_source_stop(&t.l);
        lab_write(&t.l, 30, 16 * 1024);
        lab_source_start(&t.l);
    }
    t.proxy.rate = 0;
    lab_settle(&t.l);
    lab_cut_now(&t.l);
    lab_settle(&t.l);
    /* How far each source came before it died is a matter of time; the one that
     * ends the last sync and the last checkpoint must be offered in any case. */
    assert_true(lab_verify(&t.l) >= 2);
    assert_true(t.l.n_cuts > 0);
    assert_int_equal(journal_point_newest(t.l.journal, &newest), 0);
    assert_int_equal(newest.cut_no, t.l.cuts[t.l.n_cuts - 1].cut_no);
    teardown_all();
}

/* The link breaks at any byte; nothing is lost, nothing comes twice. */
static void
cut_anywhere(void **state)
{
    for (uint64_t seed = 1; seed <= 4; seed++) {
        struct receiver_status rs;
        struct sender_status st;

        setup(seed);
        t.l.compression = seed % 2 ? COMPRESS_LZ4 : COMPRESS_OFF;
        t.l.compressible = true;
        lab_write(&t.l, 40, 64 * 1024);
        both_start();
        if (seed > 2)
            lab_settle(&t.l);
        for (unsigned i = 0; t.proxy.cuts < 8; i++) {
            if (t.proxy.cut_at == 0)
                t.proxy.cut_at =
                    t.proxy.passed + 1 +
                    lab_below(&t.l, lab_below(&t.l, 2) ? 1500 : 200000);
            if (i % 4 == 0)
                lab_write(&t.l, 1 + (unsigned)lab_below(&t.l, 4), 32 * 1024);
            if (i % 40 == 0)
                lab_cut_now(&t.l);
            lab_turn(&t.l);
            assert_true(i < 4000);
        }
        t.proxy.cut_at = 0;
        lab_settle(&t.l);
        lab_write(&t.l, 4, 4096);
        lab_cut_now(&t.l);
        lab_settle(&t.l);
        receiver_status(t.l.receiver, &rs);
        sender_status(t.l.sender, &st);
        assert_int_equal(st.capture.collapses, 0);
        assert_true(rs.batches >= st.capture.last_batch);
        assert_int_equal(rs.err.num, 0);
        assert_true(lab_verify(&t.l) >= (seed > 2 ? 4 : 1));
        teardown_all();
    }
}

/* A bit flips on a plain link: checksums find it, the lane or link starts again,
 * and nothing false is stored. */
static void
flipped_bits(void **state)
{
    setup(5);
    lab_write(&t.l, 30, 64 * 1024);
    both_start();
    for (unsigned i = 0; i < 60; i++) {
        if (i % 6 == 0)
            t.proxy.flip_at = t.proxy.passed + 1 + lab_below(&t.l, 100000);
        lab_write(&t.l, 4, 32 * 1024);
        if (i % 10 == 0)
            lab_cut_now(&t.l);
        lab_turn(&t.l);
    }
    t.proxy.flip_at = 0;
    lab_settle(&t.l);
    lab_cut_now(&t.l);
    lab_settle(&t.l);
    assert_true(lab_verify(&t.l) >= 1);
    teardown_all();
}

static enum err_code
sender_err(void)
{
    struct sender_status st;

    sender_status(t.l.sender, &st);
    return st.err.code;
}

static enum err_code
receiver_err(void)
{
    struct receiver_status st;

    receiver_status(t.l.receiver, &st);
    return st.err.code;
}

/* The body of a batch is damaged: the journal takes nothing of it, the target
 * stops the lane (STR-0009), the source says so (STR-0015) and sends it again. */
static void
damaged_batch(void **state)
{
    setup(6);
    both_start();
    lab_settle(&t.l);
    t.proxy.flip_at = t.proxy.passed + 30000;
    lab_write(&t.l, 1, 512);
    for (unsigned i = 0; i < 8; i++) {
        lab_write(&t.l, 3, 64 * 1024);
    }
    LAB_UNTIL(&t.l, sender_err() == ERR_STR_0015);
    assert_int_equal(receiver_err(), ERR_STR_0009);
    lab_settle(&t.l);
    assert_int_equal(sender_err(), 0);
    assert_int_equal(receiver_err(), 0);
    lab_cut_now(&t.l);
    lab_settle(&t.l);
    assert_true(lab_verify(&t.l) >= 1);
    teardown_all();
}

/* The journal cannot go on (its directory is gone): the lane is held, the reason
 * is told, and the source keeps what it has. */
static void
journal_stops(void **state)
{
    struct sender_status st;
    struct err e = ERR_INIT;

    setup(62);
    both_start();
    lab_settle(&t.l);
    assert_int_equal(io_rmdir_tree(t.loop, t.l.jdir, &e), 0);
    for (unsigned i = 0; receiver_err() != ERR_STR_0008; i++) {
        sender_status(t.l.sender, &st);
        if (st.lag_bytes < 2 * MIB)
            lab_write(&t.l, 2, 64 * 1024);
        lab_turn(&t.l);
        assert_true(i < 4000);
    }
    LAB_UNTIL(&t.l, sender_err() == ERR_STR_0004);
    sender_status(t.l.sender, &st);
    assert_true(st.lag_bytes > 0 && st.capture.collapses == 0);
    assert_non_null(strstr(st.err.msg, "STR-0008"));
    teardown_all();
}

/* The same in a straight write: STR-0010, and it is read again. */
static void
damaged_straight_write(void **state)
{
    setup(7);
    lab_write(&t.l, 60, 64 * 1024);
    t.proxy.flip_at = 300000;
    both_start();
    LAB_UNTIL(&t.l, sender_err() == ERR_STR_0015);
    assert_int_equal(receiver_err(), ERR_STR_0010);
    lab_settle(&t.l);
    assert_true(lab_verify(&t.l) >= 1);
    teardown_all();
}

/* --- restarts ----------------------------------------------------------- */

static void
source_restarts(void **state)
{
    struct sender_status st;

    setup(8);
    both_start();
    lab_write(&t.l, 30, 32 * 1024);
    lab_settle(&t.l);
    lab_cut_now(&t.l);
    lab_write(&t.l, 30, 32 * 1024);
    assert_true(lab_source_drain(&t.l));
    /* clean: goes on without a sync, also when written before the link is up */
    t.proxy.stalled = true;
    lab_source_start(&t.l);
    assert_true(t.l.exact);
    lab_write(&t.l, 10, 32 * 1024);
    {
        struct err e = ERR_INIT;

        /* what the target holds is not known yet */
        assert_int_equal(sender_cut(t.l.sender, CUT_USER, 0, NULL, NULL, NULL,
                                    &e),
                         -EAGAIN);
        assert_true(e.code == ERR_STR_0016 || e.code == ERR_STR_0017);
    }
    t.proxy.stalled = false;
    proxy_push(&t.proxy);
    LAB_UNTIL(&t.l, lab_state(&t.l) != SENDER_CONNECTING);
    assert_int_equal(lab_state(&t.l), SENDER_STREAMING);
    lab_settle(&t.l);
    lab_cut_now(&t.l);
    /* killed: a sync in-band, and the points of before stay */
    lab_write(&t.l, 10, 32 * 1024);
    lab_source_stop(&t.l);
    lab_write(&t.l, 10, 32 * 1024); /* while nobody looked */
    lab_source_start(&t.l);
    assert_false(t.l.exact);
    lab_settle(&t.l);
    sender_status(t.l.sender, &st);
    assert_int_equal(st.sync_reason, RESYNC_UNCLEAN);
    lab_write(&t.l, 10, 32 * 1024);
    lab_cut_now(&t.l);
    lab_settle(&t.l);
    assert_true(lab_verify(&t.l) >= 4);
    teardown_all();
}

/* Cleanly stopped, but the target is not where it was left: an exact start must
 * not be believed, and no point may lie before the sync. */
static void
exact_against_another_tail(void **state)
{
    setup(9);
    both_start();
    lab_write(&t.l, 30, 32 * 1024);
    lab_settle(&t.l);
    lab_cut_now(&t.l);
    assert_true(lab_source_drain(&t.l));
    t.l.super.prev_last_batch++; /* as if it had acknowledged one more */
    {
        struct err err = ERR_INIT;

        assert_int_equal(lane_super_store(t.loop, t.l.super_path, &t.l.super,
                                          &err),
                         0);
    }
    /* the first LANE_STATE is lost again and again */
    for (unsigned i = 0; i < 4; i++) {
        t.proxy.cut_at = t.proxy.passed + 700 + 100 * i;
        if (i == 0) {
            lab_source_start(&t.l);
            assert_true(t.l.exact);
        }
        LAB_UNTIL(&t.l, t.proxy.cut_at == 0);
    }
    LAB_UNTIL(&t.l, lab_state(&t.l) == SENDER_RESYNC ||
                        lab_state(&t.l) == SENDER_STREAMING);
    {
        struct sender_status st;

        sender_status(t.l.sender, &st);
        assert_int_equal(st.sync_reason, RESYNC_UNCLEAN);
    }
    lab_write(&t.l, 30, 32 * 1024);
    lab_settle(&t.l);
    lab_cut_now(&t.l);
    lab_settle(&t.l);
    assert_true(lab_verify(&t.l) >= 2);
    teardown_all();
}

static void
target_restarts(void **state)
{
    setup(10);
    lab_write(&t.l, 60, 64 * 1024);
    t.proxy.rate = 8000;
    both_start();
    for (unsigned i = 0; i < 5; i++) { /* in the initial sync, too */
        for (unsigned k = 0; k < 20; k++) {
            proxy_push(&t.proxy);
            lab_turn(&t.l);
        }
        lab_target_stop(&t.l);
        lab_write(&t.l, 4, 32 * 1024);
        lab_turn(&t.l);
        lab_target_start(&t.l);
        if (i == 2)
            t.proxy.rate = 0;
        if (i >= 2) {
            proxy_push(&t.proxy);
            lab_settle(&t.l);
            lab_cut_now(&t.l);
            lab_write(&t.l, 10, 32 * 1024);
        }
    }
    lab_settle(&t.l);
    lab_cut_now(&t.l);
    lab_settle(&t.l);
    assert_true(lab_verify(&t.l) >= 3);
    teardown_all();
}

/* The target comes back without what it had acknowledged. */
static void
target_lost_its_data(void **state)
{
    struct err err = ERR_INIT;

    setup(11);
    both_start();
    lab_write(&t.l, 30, 32 * 1024);
    lab_settle(&t.l);
    lab_target_stop(&t.l);
    assert_int_equal(journal_destroy(t.loop, t.l.jdir, false, &err), 0);
    assert_int_equal(io_mkdir(t.loop, t.l.jdir, &err), 0);
    lab_target_start(&t.l);
    LAB_UNTIL(&t.l, t.l.restarts > 0);
    assert_int_equal(sender_err(), ERR_STR_0013);
    lab_source_stop(&t.l);
    lab_source_start(&t.l);
    LAB_UNTIL(&t.l, lab_state(&t.l) != SENDER_CONNECTING);
    lab_write(&t.l, 30, 32 * 1024);
    lab_settle(&t.l);
    lab_cut_now(&t.l);
    lab_settle(&t.l);
    assert_true(lab_verify(&t.l) >= 1);
    teardown_all();
}

static void
forced_syncs(void **state)
{
    struct sender_status st;

    setup(12);
    both_start();
    lab_write(&t.l, 30, 64 * 1024);
    lab_settle(&t.l);
    lab_cut_now(&t.l);
    lab_settle(&t.l);
    sender_force_sync(t.l.sender, false);
    assert_int_equal(lab_state(&t.l), SENDER_RESYNC);
    lab_settle(&t.l);
    assert_true(lab_verify(&t.l) >= 2);
    sender_force_sync(t.l.sender, true);
    assert_int_equal(lab_state(&t.l), SENDER_CONNECTING); /* opened anew */
    sender_status(t.l.sender, &st);
    assert_int_equal(st.sync_reason, RESYNC_FORCED);
    lab_settle(&t.l);
    lab_write(&t.l, 30, 64 * 1024);
    lab_settle(&t.l);
    lab_cut_now(&t.l);
    lab_settle(&t.l);
    assert_in_range(lab_verify(&t.l), 1, 2);
    teardown_all();
}

/* --- stopping in the middle --------------------------------------------- */

static void
stop_in_a_frame(void **state)
{
    struct receiver_status rs;

    for (unsigned i = 0; i < 6; i++) {
        setup(20 + i);
        lab_write(&t.l, 60, 64 * 1024);
        both_start();
        if (i >= 3)
            lab_settle(&t.l);
        t.proxy.rate = 1000;
        for (unsigned k = 0; k < 10 + i; k++) {
            lab_write(&t.l, 10, 64 * 1024);
            proxy_push(&t.proxy);
            lab_turn(&t.l);
        }
        if (i % 3 == 0) {
            lab_source_stop(&t.l);
        } else if (i % 3 == 1) {
            lab_receiver_stop(&t.l); /* straight writes may be under way */
        } else {
            lab_receiver_stop(&t.l);
            lab_source_stop(&t.l);
        }
        t.proxy.rate = 0;
        proxy_push(&t.proxy);
        if (!t.l.receiver)
            lab_receiver_start(&t.l);
        if (!t.l.sender)
            lab_source_start(&t.l);
        lab_settle(&t.l);
        lab_cut_now(&t.l);
        lab_settle(&t.l);
        assert_true(lab_verify(&t.l) >= 1);
        receiver_status(t.l.receiver, &rs);
        assert_true(rs.open && rs.link_up && rs.has_rpo);
        teardown_all();
    }
}

/* The link is up before the target knows the VPG: the source is held, and let in
 * within a second or so afterwards. */
static void
target_comes_later(void **state)
{
    setup(31);
    lab_target_start(&t.l);
    lab_receiver_stop(&t.l);
    lab_write(&t.l, 20, 32 * 1024);
    lab_source_start(&t.l);
    LAB_UNTIL(&t.l, sender_err() == ERR_STR_0004);
    assert_int_equal(lab_state(&t.l), SENDER_CONNECTING);
    lab_write(&t.l, 20, 32 * 1024);
    lab_receiver_start(&t.l);
    lab_settle(&t.l);
    assert_int_equal(sender_err(), 0);
    lab_cut_now(&t.l);
    lab_settle(&t.l);
    assert_true(lab_verify(&t.l) >= 1);
    teardown_all();
}

/* Stop a receiver at each turn of an admission. */
static void
stop_during_admission(void **state)
{
    setup(30);
    lab_target_start(&t.l);
    lab_source_start(&t.l);
    for (unsigned i = 0; i < 12; i++) {
        for (unsigned k = 0; k < i; k++)
            lab_turn(&t.l);
        lab_receiver_stop(&t.l);
        lab_source_stop(&t.l);
        lab_receiver_start(&t.l);
        lab_source_start(&t.l);
    }
    lab_write(&t.l, 20, 32 * 1024);
    lab_settle(&t.l);
    lab_cut_now(&t.l);
    lab_settle(&t.l);
    assert_true(lab_verify(&t.l) >= 1);
    teardown_all();
}

/* --- links -------------------------------------------------------------- */

static bool
link_is_up(struct stream_peer *p)
{
    struct stream_peer_status st;

    stream_peer_status(p, &st);
    return st.state == PEER_UP;
}

/* Both dial, again and again after cuts: a link stands soon, and stays. */
static void
both_dial(void **state)
{
    struct proxy back;
    struct io_addr via_a = { .is_unix = true };

    setup(40);
    snprintf(via_a.host, sizeof via_a.host, "%.80s/back", t.dir);
    proxy_start(&back, t.loop, &via_a, &t.a.addr);
    t.l.dial_b = &via_a;
    both_start();
    for (unsigned i = 0; i < 12; i++) {
        unsigned n;

        LAB_UNTIL(&t.l, link_is_up(t.l.peer_a) && link_is_up(t.l.peer_b));
        lab_write(&t.l, 5, 32 * 1024);
        lab_settle(&t.l);
        n = t.proxy.accepted + back.accepted;
        for (unsigned k = 0; k < 30; k++)
            lab_turn(&t.l);
        assert_int_equal(t.proxy.accepted + back.accepted, n);
        if (i % 3 != 1)
            proxy_cut(&t.proxy);
        if (i % 3 != 0)
            proxy_cut(&back);
    }
    /* only the lesser one (a) can reach the other */
    proxy_stop(&back);
    LAB_UNTIL(&t.l, link_is_up(t.l.peer_a) && link_is_up(t.l.peer_b));
    lab_write(&t.l, 5, 32 * 1024);
    lab_settle(&t.l);
    teardown_all();
}

/* Nothing is heard for dead_ns: both ends notice. */
static void
silence(void **state)
{
    struct stream_peer_status st;

    setup_dead(600 * NSEC_PER_MSEC);
    lab_init(&t.l, &t.a, &t.b, t.dir, 0x11, VOL, 41);
    t.l.dial_a = &t.via;
    both_start();
    lab_settle(&t.l);
    for (unsigned k = 0; k < 100; k++) /* idle, but not silent */
        lab_turn(&t.l);
    assert_true(link_is_up(t.l.peer_a));
    stream_peer_status(t.l.peer_a, &st);
    assert_true(st.rtt_ns > 0);
    t.proxy.stalled = true;
    lab_write(&t.l, 5, 4096);
    LAB_UNTIL(&t.l, !link_is_up(t.l.peer_a) && !link_is_up(t.l.peer_b));
    stream_peer_status(t.l.peer_b, &st);
    assert_non_null(strstr(st.error, "nothing heard for"));
    proxy_cut(&t.proxy);
    t.proxy.stalled = false;
    lab_settle(&t.l);
    teardown_all();
}

/* Two lanes from a to b and one from b to a, all on one link; the busy one does
 * not starve the others. */
static void
lanes_share_a_link(void **state)
{
    struct lab *m = calloc(2, sizeof *m);
    struct sender_status st;

    setup(42);
    lab_init(&m[0], &t.a, &t.b, t.dir, 0x22, VOL, 43);
    lab_init(&m[1], &t.b, &t.a, t.dir, 0x33, VOL, 44);
    t.l.obeys_restarts = m[0].obeys_restarts = m[1].obeys_restarts = true;
    m[0].dial_a = m[1].dial_b = &t.via;
    both_start();
    for (unsigned i = 0; i < 2; i++) {
        lab_target_start(&m[i]);
        lab_source_start(&m[i]);
    }
    for (unsigned i = 0; i < 40; i++) {
        lab_write(&t.l, 20, 64 * 1024);
        lab_write(&m[0], 1, 4096);
        lab_write(&m[1], 1, 4096);
        if (i % 8 == 0)
            proxy_cut(&t.proxy);
        if (i % 5 == 0) {
            lab_cut_now(&t.l);
            lab_cut_now(&m[0]);
            lab_cut_now(&m[1]);
        }
        lab_turn(&t.l);
        lab_turn(&m[0]);
        lab_turn(&m[1]);
    }
    lab_settle(&m[0]);
    lab_settle(&m[1]);
    lab_settle(&t.l);
    /* a slow link with a deep queue of the first lane */
    t.proxy.rate = 10000;
    lab_write(&t.l, 700, 64 * 1024);
    lab_write(&m[0], 2, 4096);
    lab_settle(&m[0]);
    sender_status(t.l.sender, &st);
    assert_true(st.lag_bytes > 0);
    t.proxy.rate = 0;
    proxy_push(&t.proxy);
    lab_settle(&t.l);
    for (unsigned i = 0; i < 2; i++) {
        lab_cut_now(&m[i]);
        lab_settle(&m[i]);
        assert_true(lab_verify(&m[i]) >= 1);
        lab_source_stop(&m[i]);
        lab_target_stop(&m[i]);
        lab_release(&m[i]);
    }
    free(m);
    assert_true(lab_verify(&t.l) >= 1);
    teardown_all();
}

/* --- compression -------------------------------------------------------- */

static void
compressed(void **state)
{
    static const enum sender_compression how[] = { COMPRESS_LZ4, COMPRESS_ZSTD };

    for (unsigned i = 0; i < ARRAY_SIZE(how); i++) {
        struct sender_status st;

        setup(50 + i);
        t.l.compression = how[i];
        t.l.compressible = true;
        both_start();
        lab_settle(&t.l);
        lab_write(&t.l, 60, 64 * 1024);
        lab_cut_now(&t.l);
        lab_settle(&t.l);
        sender_status(t.l.sender, &st);
        assert_true(st.capture.sent_bytes < st.capture.raw_bytes / 2);
        assert_true(lab_verify(&t.l) >= 2);
        teardown_all();
    }
}

/* AUTO compresses while the link is the bottleneck, and not otherwise. */
static void
compressed_when_slow(void **state)
{
    struct sender_status a, b;

    setup(52);
    t.l.compression = COMPRESS_AUTO;
    t.l.compressible = true;
    both_start();
    lab_settle(&t.l);
    lab_write(&t.l, 60, 64 * 1024);
    lab_settle(&t.l);
    sender_status(t.l.sender, &a);
    assert_true(a.capture.sent_bytes >= a.capture.raw_bytes);
    t.proxy.rate = 4000;
    {
        uint64_t until = io_mono_fresh(t.loop) + 4 * NSEC_PER_SEC;

        while (io_mono_fresh(t.loop) < until) {
            lab_turn(&t.l);
            sender_status(t.l.sender, &b);
            if (b.lag_bytes < 12 * MIB)
                lab_write(&t.l, 10, 64 * 1024);
        }
    }
    t.proxy.rate = 0;
    proxy_push(&t.proxy);
    lab_settle(&t.l);
    sender_status(t.l.sender, &b);
    assert_true(b.capture.sent_bytes - a.capture.sent_bytes <
                (b.capture.raw_bytes - a.capture.raw_bytes) * 9 / 10);
    teardown_all();
}

/* --- checkpoints -------------------------------------------------------- */

static void
checkpoints_refused(void **state)
{
    char name[BATCH_TAG_MAX + 2];
    struct err e = ERR_INIT;
    uint64_t first, second;

    setup(60);
    memset(name, 'n', sizeof name - 1);
    name[sizeof name - 1] = 0;
    both_start();
    assert_int_equal(sender_cut(t.l.sender, CUT_USER, 0, NULL, NULL, NULL, &e),
                     -EAGAIN);
    assert_int_equal(e.code, ERR_STR_0016);
    lab_settle(&t.l);
    assert_int_equal(sender_cut(t.l.sender, CUT_USER, 0, name, NULL, NULL, &e),
                     -EINVAL);
    assert_int_equal(e.code, ERR_STR_0018);
    assert_int_equal(sender_cut(t.l.sender, CUT_USER, 0, name + 1, &first, NULL,
                                NULL),
                     0);
    lab_turn(&t.l);
    assert_true(lab_source_drain(&t.l));
    /* numbers are not given twice, and none before they are reserved */
    lab_source_start(&t.l);
    while (sender_cut(t.l.sender, CUT_USER, 0, NULL, &second, NULL, &e) < 0) {
        assert_true(e.code == ERR_STR_0017 || e.code == ERR_STR_0016);
        lab_turn(&t.l);
    }
    assert_true(second > first);
    lab_turn(&t.l);
    lab_settle(&t.l);
    assert_true(lab_verify(&t.l) >= 2);
    teardown_all();
}

/* lane.super cannot be stored for a while: no number is used that is not
 * reserved, and it goes on by itself afterwards. */
static void
numbers_not_reserved(void **state)
{
    struct sender_status st;
    struct err e = ERR_INIT;
    char keep[sizeof t.l.super_path + 8];

    setup(61);
    lab_target_start(&t.l);
    lab_source_start(&t.l);
    lab_settle(&t.l);
    /* its place is taken by a directory */
    snprintf(keep, sizeof keep, "%s.k", t.l.super_path);
    assert_int_equal(rename(t.l.super_path, keep), 0);
    assert_int_equal(io_mkdir(t.loop, t.l.super_path, &e), 0);
    for (unsigned i = 0; i < 3000; i++) {
        if (sender_cut(t.l.sender, CUT_USER, 0, NULL, NULL, NULL, &e) < 0)
            break;
        assert_int_equal(io_loop_turn(t.loop, 0), 0);
    }
    assert_int_equal(e.code, ERR_STR_0017);
    assert_int_equal(remove(t.l.super_path), 0);
    assert_int_equal(rename(keep, t.l.super_path), 0);
    for (unsigned i = 0; i < 1000; i++) {
        if (sender_cut(t.l.sender, CUT_USER, 0, NULL, NULL, NULL, NULL) == 0)
            break;
        assert_int_equal(io_loop_turn(t.loop, NSEC_PER_MSEC), 0);
        assert_true(i < 999);
    }
    sender_status(t.l.sender, &st);
    assert_true(st.newest_cut > 1024);
    teardown_all();
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(initial_sync_under_load),
    cmocka_unit_test(collapse_and_resync),
    cmocka_unit_test(collapse_in_initial_sync),
    cmocka_unit_test(power_lost_before_durable),
    cmocka_unit_test(commit_ends_after_reopening),
    cmocka_unit_test(source_dies_in_initial_sync),
    cmocka_unit_test(cut_anywhere),
    cmocka_unit_test(flipped_bits),
    cmocka_unit_test(damaged_batch),
    cmocka_unit_test(journal_stops),
    cmocka_unit_test(damaged_straight_write),
    cmocka_unit_test(source_restarts),
    cmocka_unit_test(exact_against_another_tail),
    cmocka_unit_test(target_restarts),
    cmocka_unit_test(target_lost_its_data),
    cmocka_unit_test(forced_syncs),
    cmocka_unit_test(stop_in_a_frame),
    cmocka_unit_test(target_comes_later),
    cmocka_unit_test(stop_during_admission),
    cmocka_unit_test(both_dial),
    cmocka_unit_test(silence),
    cmocka_unit_test(lanes_share_a_link),
    cmocka_unit_test(compressed),
    cmocka_unit_test(compressed_when_slow),
    cmocka_unit_test(checkpoints_refused),
    cmocka_unit_test(numbers_not_reserved),
};

int
main(int argc, char **argv)
{
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
