/* room: journal lane io common */
/* When there is no room: a hard limit that is too small to reach the next
 * checkpoint, and what a person or the policy does about it; a disk that
 * somebody else has filled to the last byte. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

#include <cmocka.h>

#include "io/file.h"
#include "journal/journal_internal.h"
#include "tests/unit/helper_io.h"
#include "tests/unit/helper_lane.h"

static void
turn_for(uint64_t ns)
{
    uint64_t start = io_mono_fresh(t.loop);

    while (io_mono_fresh(t.loop) - start < ns)
        assert_int_equal(io_loop_turn(t.loop, 10 * NSEC_PER_MSEC), 0);
}

static struct journal_stats
stats(void)
{
    struct journal_stats st;

    journal_stats(t.j, &st);
    return st;
}

static void
turn_until_held(enum journal_held held)
{
    for (unsigned i = 0; stats().held != held; i++) {
        assert_true(i < 1000);
        assert_int_equal(io_loop_turn(t.loop, 10 * NSEC_PER_MSEC), 0);
    }
}

static void
send(unsigned n, unsigned extra)
{
    send_batch(gen_make(&t.g, n, extra, NULL));
    wait_durable(t.g.batch_no);
}

/* Without a checkpoint, until the lane stands. */
static void
send_until_held(enum journal_held held)
{
    for (unsigned i = 0; stats().held != held; i++) {
        assert_true(i < 4000);
        if (journal_credit(t.j) > 0 && t.durable == t.g.batch_no)
            send_batch(gen_make(&t.g, 10, 0, NULL));
        assert_int_equal(io_loop_turn(t.loop, 10 * NSEC_PER_MSEC), 0);
    }
}

/* The same, and nothing more comes free for a while: merged runs do. */
static void
send_until_it_stands(void)
{
    uint64_t was;

    do {
        was = t.durable;
        send_until_held(JOURNAL_HELD_BY_STORE);
        turn_for(2500 * NSEC_PER_MSEC);
    } while (t.durable != was || stats().held != JOURNAL_HELD_BY_STORE);
}

/* A lane that stands at its limit behind a checkpoint, the last good one, which
 * is in *out_cut. */
static void
stand_at_limit(uint64_t seed, uint64_t *out_cut)
{
    setup_dir(seed, NULL);
    t.cfg.hard_limit_bytes = MIB;
    assert_int_equal(jopen(), 0);
    begin();
    for (unsigned i = 0; i < 40; i++)
        send(8, i % 4 == 0 ? GEN_CUT : 0);
    send(8, GEN_CUT);
    *out_cut = t.g.cut_no;
    assert_int_equal(journal_overwrite(t.j, &t.open_err), -EBUSY);
    assert_int_equal(t.open_err.code, ERR_JNL_0019);
    send_until_held(JOURNAL_HELD_BY_LIMIT);
}

static void
limit_asks(void **state)
{
    struct journal_point p;
    uint64_t cut, stood;
    unsigned alerts;

    (void)state;
    stand_at_limit(11, &cut);
    assert_int_equal(t.alert.code, ERR_JNL_0017);
    assert_non_null(strstr(t.alert.msg, t.dir));
    assert_non_null(strstr(t.alert.msg, "of its hard limit of 1 MiB"));
    assert_non_null(strstr(err_code_next(ERR_JNL_0017), "holdfast overwrite"));
    alerts = t.alerts;
    stood = t.durable;
    turn_for(2500 * NSEC_PER_MSEC);
    assert_int_equal(stats().held, JOURNAL_HELD_BY_LIMIT);
    assert_int_equal(t.alerts, alerts); /* asked once */
    assert_int_equal(t.durable, stood);
    assert_true(stats().used_bytes <= 3 * MIB / 2);
    check_points();
    assert_int_equal(journal_point_newest(t.j, &p), 0);
    assert_int_equal(p.cut_no, cut);
    check_cut(cut); /* it can be opened all the time */
    /* Over a restart: what was durable is, and the question comes again. */
    jclose();
    assert_int_equal(jopen(), 0);
    t.durable = t.g.durable = stood;
    check_points();
    check_cut(cut);
    for (size_t i = 0; i < t.g.n_batches; i++)
        if (t.g.batches[i].no > stood)
            send_batch(i);
    turn_until_held(JOURNAL_HELD_BY_LIMIT);
    assert_int_equal(t.alert.code, ERR_JNL_0017);
    /* The first way out, live. */
    journal_set_limits(t.j, t.cfg.history_ns, 8 * MIB, 0);
    wait_durable(t.g.batch_no);
    assert_int_equal(stats().held, JOURNAL_NOT_HELD);
    assert_int_equal(t.settled, ERR_JNL_0017);
    check_cut(cut);
    send(8, GEN_CUT);
    check_points();
    check_cut(t.g.cut_no);
    teardown_dir();
}

/* The second way out.  A view of the last good point stays as it was. */
static void
limit_overwritten(void **state)
{
    struct journal_view *v, *have[2];
    struct err why = ERR_INIT;
    struct journal_tail tail;
    uint64_t cut;

    (void)state;
    stand_at_limit(21, &cut);
    open_view(cut, 1);
    assert_int_equal(t.res, 0);
    v = t.view;
    assert_int_equal(journal_overwrite(t.j, NULL), 0);
    assert_int_equal(journal_overwrite(t.j, &t.open_err), -EBUSY);
    wait_durable(t.g.batch_no);
    assert_int_equal(stats().held, JOURNAL_NOT_HELD);
    assert_int_equal(t.alert.code, ERR_JNL_0018);
    assert_int_equal(journal_points_count(t.j), 0);
    journal_tail(t.j, &tail);
    assert_false(tail.offered_any);
    open_view(cut, 9);
    assert_int_equal(t.res, -ENOENT);
    assert_false(journal_view_broken(v, &why));
    compare_view(v, gen_find(&t.g, cut));
    /* Any length of resync goes through. */
    send(8, GEN_RESYNC_BEGIN);
    for (unsigned i = 0; i < 300; i++)
        send(8, 0);
    assert_true(stats().used_bytes <= 2 * MIB);
    assert_int_equal(journal_points_count(t.j), 0);
    jclose();
    t.alert.code = ERR_GEN_0001;
    assert_int_equal(jopen(), 0);
    assert_int_equal(t.alert.code, ERR_JNL_0018); /* said again */
    resume();
    assert_int_equal(journal_views(t.j, have, 2), 1);
    compare_view(have[0], gen_find(&t.g, cut));
    send(8, GEN_RESYNC_END | GEN_CUT);
    assert_int_equal(t.settled, ERR_JNL_0018);
    assert_int_equal(journal_points_count(t.j), 1);
    check_cut(t.g.cut_no);
    compare_view(have[0], gen_find(&t.g, cut));
    discard_view(have[0]);
    teardown_dir();
}

/* By the policy nobody is asked. */
static void
limit_proceeds(void **state)
{
    uint64_t cut;

    (void)state;
    setup_dir(31, NULL);
    t.cfg.hard_limit_bytes = MIB;
    t.cfg.overwrite_full = true;
    assert_int_equal(jopen(), 0);
    begin();
    send(8, GEN_CUT);
    cut = t.g.cut_no;
    send(8, GEN_RESYNC_BEGIN);
    for (unsigned i = 0; i < 300; i++)
        send(8, 0);
    assert_int_equal(journal_point_find(t.j, cut, &(struct journal_point){ 0 }),
                     -ENOENT);
    send(8, GEN_RESYNC_END | GEN_CUT);
    check_cut(t.g.cut_no);
    assert_int_equal(journal_points_count(t.j), 1);
    teardown_dir();
    /* Switched on while the question stands. */
    stand_at_limit(32, &cut);
    journal_set_overwrite(t.j, true);
    wait_durable(t.g.batch_no);
    assert_int_equal(journal_points_count(t.j), 0);
    teardown_dir();
}

/* All that was appended is withdrawn, also what waits for room. */
static void
withdrawn_at_limit(void **state)
{
    uint64_t cut;

    (void)state;
    stand_at_limit(41, &cut);
    assert_true(t.durable < t.g.batch_no);
    journal_withdraw_points(t.j, on_res, NULL);
    wait_flag();
    assert_int_equal(t.res, 0);
    assert_int_equal(t.durable, t.g.batch_no);
    assert_int_equal(stats().promoted_seq, t.g.seq);
    send(8, GEN_CUT);
    check_cut(t.g.cut_no);
    teardown_dir();
}

/* Only the newest segment is left and it fills the limit alone: there is room
 * for one behind it. */
static void
limit_below_a_segment(void **state)
{
    (void)state;
    setup_dir(51, NULL);
    t.cfg.segment_min = t.cfg.segment_max = 256 * KIB;
    assert_int_equal(jopen(), 0);
    begin();
    send(8, GEN_CUT);
    journal_set_limits(t.j, t.cfg.history_ns, 100 * KIB, 0);
    for (unsigned i = 0; i < 100; i++)
        send(8, i % 3 == 0 ? GEN_CUT : 0);
    assert_true(stats().promotions > 0);
    check_points();
    check_cut(t.g.cut_no);
    teardown_dir();
}

/* --- the disk ----------------------------------------------------------------- */

static int filler = -1;
static char filler_path[512];

/* Somebody else takes all that is left, to the last block. */
static void
fill_disk(void)
{
    static uint8_t block[4096];

    (void)snprintf(filler_path, sizeof filler_path, "%s/other", t.dir);
    if (filler < 0)
        filler = open(filler_path, O_CREAT | O_RDWR | O_APPEND, 0600);
    assert_true(filler >= 0);
    while (write(filler, block, sizeof block) == sizeof block)
        ;
    assert_int_equal(errno, ENOSPC);
}

static void
free_disk(void)
{
    (void)close(filler);
    filler = -1;
    (void)unlink(filler_path);
}

/* A disk of its own, or false. */
static bool
setup_disk(uint64_t seed, const char *size)
{
    setup_dir(seed, NULL);
    if (geteuid() != 0 || mount("none", t.dir, "tmpfs", 0, size) < 0) {
        teardown_dir();
        return false;
    }
    t.cfg.segment_min = t.cfg.segment_max = 512 * KIB;
    t.cfg.disk_reserve_bytes = 256 * KIB;
    assert_int_equal(jopen(), 0);
    begin();
    return true;
}

static void
teardown_disk(void)
{
    if (filler >= 0)
        free_disk();
    jclose();
    (void)umount2(t.dir, MNT_DETACH);
    teardown_dir();
}

/* The disk is full to the last byte, the replica has no block yet: promotion has
 * to allocate, and can. */
static void
full_disk_promotes(void **state)
{
    (void)state;
    if (!setup_disk(61, "size=20m"))
        skip();
    for (unsigned i = 0; i < 60; i++)
        send(16, i % 3 == 0 ? GEN_CUT : 0);
    assert_int_equal(stats().promotions, 0);
    assert_int_equal(stats().replica_bytes, 0);
    assert_true(stats().reserve_bytes >= 2 * t.j->replica_lacks);
    fill_disk();
    /* Each turn somebody takes what has become free. */
    for (unsigned i = 0; i < 150; i++) {
        send_batch(gen_make(&t.g, 16, i % 3 == 0 ? GEN_CUT : 0, NULL));
        wait_durable(t.g.batch_no);
        if (i % 10 == 0)
            fill_disk();
    }
    assert_true(stats().promotions > 0);
    assert_true(stats().replica_bytes > 0);
    assert_false(stats().stopped);
    assert_int_not_equal(t.alert.code, ERR_JNL_0059);
    check_points();
    check_cut(t.g.cut_no);
    jclose();
    fill_disk();
    assert_int_equal(jopen(), 0);
    resume();
    check_points();
    check_cut(t.g.cut_no);
    free_disk();
    turn_for(1500 * NSEC_PER_MSEC);
    assert_true(stats().reserve_bytes >= journal_reserve_want(t.j)); /* good */
    send(16, GEN_CUT);
    check_cut(t.g.cut_no);
    teardown_disk();
}

/* Nothing can go, since no later checkpoint is there: the lane stands with all
 * of it intact, its last point opens, and it goes on when there is room. */
static void
full_disk_stands(void **state)
{
    uint64_t cut, stood;

    (void)state;
    if (!setup_disk(71, "size=12m"))
        skip();
    for (unsigned i = 0; i < 12; i++)
        send(16, i % 3 == 0 ? GEN_CUT : 0);
    send(16, GEN_CUT);
    cut = t.g.cut_no;
    fill_disk();
    send_until_it_stands();
    assert_true(stats().full);
    stood = t.durable;
    check_points();
    check_cut(cut);
    jclose();
    assert_int_equal(jopen(), 0);
    t.durable = t.g.durable = stood;
    check_cut(cut);
    for (size_t i = 0; i < t.g.n_batches; i++)
        if (t.g.batches[i].no > stood)
            send_batch(i);
    turn_until_held(JOURNAL_HELD_BY_STORE);
    free_disk();
    wait_durable(t.g.batch_no);
    assert_int_equal(stats().held, JOURNAL_NOT_HELD);
    assert_int_equal(t.settled, ERR_JNL_0009);
    send(16, GEN_CUT);
    check_points();
    check_cut(cut);
    check_cut(t.g.cut_no);
    teardown_disk();
}

/* The last good point may be given up there, too. */
static void
full_disk_overwritten(void **state)
{
    uint64_t cut;

    (void)state;
    if (!setup_disk(81, "size=12m"))
        skip();
    for (unsigned i = 0; i < 12; i++)
        send(16, i % 3 == 0 ? GEN_CUT : 0);
    cut = t.g.cut_no;
    open_view(cut, 1);
    assert_int_equal(t.res, 0);
    fill_disk();
    send_until_held(JOURNAL_HELD_BY_STORE);
    compare_view(t.view, gen_find(&t.g, cut));
    fill_disk();
    send_until_held(JOURNAL_HELD_BY_STORE);
    assert_int_equal(journal_overwrite(t.j, NULL), 0);
    wait_durable(t.g.batch_no);
    send(16, GEN_CUT);
    check_cut(t.g.cut_no);
    teardown_disk();
}

/* The manifest and the checkpoints, too, grow on a full disk. */
static void
full_disk_writes_its_books(void **state)
{
    (void)state;
    if (!setup_disk(91, "size=20m"))
        skip();
    t.j->man.rewrite_at = 8 * KIB; /* written afresh again and again */
    for (unsigned i = 0; i < 60; i++)
        send(16, i % 3 == 0 ? GEN_CUT : 0);
    fill_disk();
    for (unsigned i = 0; i < 200; i++) {
        send_batch(gen_make(&t.g, 12, GEN_CUT, "a name that takes its room"));
        wait_durable(t.g.batch_no);
        if (i % 40 != 39)
            continue;
        /* Whoever takes each block in the moment it is free can exhaust the
         * reserve (docs/architecture.md): it gets the time to be made whole. */
        turn_for(1500 * NSEC_PER_MSEC);
        fill_disk();
    }
    assert_false(stats().stopped);
    check_points();
    jclose();
    assert_int_equal(jopen(), 0);
    resume();
    check_points();
    check_cut(t.g.cut_no);
    teardown_disk();
}

/* An idle lane costs little, a busy one as much as its segments. */
static void
reserve_grows_with_the_lane(void **state)
{
    (void)state;
    setup_dir(95, NULL);
    t.cfg.segment_min = t.cfg.segment_max = 4 * MIB;
    assert_int_equal(jopen(), 0);
    begin();
    for (unsigned i = 0; i < 20; i++)
        send(0, GEN_CUT);
    turn_for(1500 * NSEC_PER_MSEC);
    assert_true(stats().reserve_bytes >= 128 * KIB);
    assert_true(stats().reserve_bytes <= 448 * KIB);
    for (unsigned i = 0; i < 60; i++)
        send(16, i % 3 == 0 ? GEN_CUT : 0);
    /* All that the replica lacks, twice: it is smaller than the segment. */
    assert_true(t.j->open->room > t.j->replica_lacks);
    assert_true(stats().reserve_bytes >= 4 * GEN_VOL_SIZE);
    jclose();
    assert_int_equal(jopen(), 0); /* its size is remembered by its blocks */
    assert_true(stats().reserve_bytes >= 4 * GEN_VOL_SIZE);
    teardown_dir();
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(limit_asks),
        cmocka_unit_test(limit_overwritten),
        cmocka_unit_test(limit_proceeds),
        cmocka_unit_test(withdrawn_at_limit),
        cmocka_unit_test(limit_below_a_segment),
        cmocka_unit_test(full_disk_promotes),
        cmocka_unit_test(full_disk_stands),
        cmocka_unit_test(full_disk_overwritten),
        cmocka_unit_test(full_disk_writes_its_books),
        cmocka_unit_test(reserve_grows_with_the_lane),
    };

    return cmocka_run_group_tests_name("journal space", tests, NULL, NULL);
}
