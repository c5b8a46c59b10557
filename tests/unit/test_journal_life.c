/* room: journal lane io common */
/* What happens to a journal over time: withdrawn checkpoints, retention by age
 * and by size with views in the way, unknown ranges over restarts, turns of
 * lanes that share a disk, the manifest written afresh. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "common/crc32c.h"
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

static void
send(unsigned n, unsigned extra)
{
    send_batch(gen_make(&t.g, n, extra, NULL));
    wait_durable(t.g.batch_no);
}

static void
on_straight(struct journal_sync_write *w, int res)
{
    (void)w;
    t.res = res;
    t.flag = true;
}

static int
straight(uint16_t vol, const void *buf, uint64_t len, uint64_t after_seq)
{
    struct journal_sync_write w = { .vol = vol,
                                    .len = len,
                                    .buf = buf,
                                    .after_seq = after_seq,
                                    .crc = crc32c(0, buf, len),
                                    .done = on_straight };

    journal_sync_data(t.j, &w);
    wait_flag();
    return t.res;
}

static void
flush(void)
{
    journal_sync_flush(t.j, on_res, NULL);
    wait_flag();
    assert_int_equal(t.res, 0);
}

/* An entry of before must not win over a straight write of after: the log that
 * held it may have lost what was written in between. */
static void
withdrawn_log_hides_nothing(void **state)
{
    uint8_t *p = io_mem_alloc(GEN_VOL_SIZE);
    struct journal_stats st;

    (void)state;
    setup_dir(21, NULL);
    assert_int_equal(jopen(), 0);
    begin();
    for (unsigned i = 0; i < 40; i++)
        send(8, i % 4 == 0 ? GEN_CUT : 0);
    open_view(t.g.cuts[2].cut_no, 1);
    assert_int_equal(t.res, 0);
    send_batch(gen_make(&t.g, 8, 0, NULL)); /* not durable at the call */
    journal_withdraw_points(t.j, on_res, NULL);
    wait_flag();
    assert_int_equal(t.res, 0);
    journal_stats(t.j, &st);
    assert_int_equal(st.durable_seq, t.g.seq);
    assert_int_equal(st.promoted_seq, t.g.seq);
    compare_view(t.view, &t.g.cuts[2]); /* converted */
    for (uint16_t v = 0; v < GEN_VOLS; v++) {
        memset(p, 0x5A + v, GEN_VOL_SIZE);
        memset(t.g.image[v], 0x5A + v, GEN_VOL_SIZE);
        assert_int_equal(straight(v, p, GEN_VOL_SIZE, t.g.seq - 1), -EAGAIN);
        assert_int_equal(straight(v, p, GEN_VOL_SIZE, t.g.seq), 0);
    }
    flush();
    send(3, GEN_RESYNC_BEGIN | GEN_RESYNC_END | GEN_CUT);
    check_cut(t.g.cut_no);
    jclose();
    assert_int_equal(jopen(), 0);
    check_cut(t.g.cut_no);
    io_mem_free(p, GEN_VOL_SIZE);
    teardown_dir();
}

/* While a promotion is under way, and twice. */
static void
withdrawn_during_retention(void **state)
{
    struct journal_stats st;

    (void)state;
    for (uint64_t seed = 1; seed <= 6; seed++) {
        setup_dir(30 + seed, NULL);
        assert_int_equal(jopen(), 0);
        begin();
        for (unsigned i = 0; i < 30; i++)
            send(8, GEN_CUT);
        journal_set_limits(t.j, 1, 0, 0); /* all that is old goes */
        for (uint64_t i = 0; i < seed; i++)
            assert_int_equal(io_loop_turn(t.loop, 0), 0);
        journal_withdraw_points(t.j, on_res, NULL);
        wait_flag();
        assert_int_equal(t.res, 0);
        journal_withdraw_points(t.j, on_res, NULL);
        wait_flag();
        assert_int_equal(t.res, 0);
        journal_stats(t.j, &st);
        assert_int_equal(st.promoted_seq, t.g.seq);
        assert_int_equal(journal_points_count(t.j), 0);
        teardown_dir();
    }
}

/* A lane that hardly writes: its segment would never fill. */
static void
idle_lane_ages(void **state)
{
    struct journal_point p;
    uint64_t first;

    (void)state;
    setup_dir(41, NULL);
    t.cfg.seal_age_ns = 200 * NSEC_PER_MSEC;
    t.cfg.history_ns = 1500 * NSEC_PER_MSEC;
    assert_int_equal(jopen(), 0);
    begin();
    for (unsigned i = 0; i < 12; i++) {
        send(1, GEN_CUT);
        turn_for(500 * NSEC_PER_MSEC);
        assert_int_equal(journal_point_oldest(t.j, &p), 0);
        /* Age, the age of a segment, and two ticks of the journal's clock. */
        assert_true(p.age_ns < 4200 * NSEC_PER_MSEC);
    }
    first = p.cut_no;
    assert_true(first > 1);
    jclose();
    assert_int_equal(jopen(), 0);
    assert_int_equal(journal_point_oldest(t.j, &p), 0);
    assert_true(p.cut_no >= first);
    check_points();
    check_cut(p.cut_no);
    assert_int_equal(journal_point_newest(t.j, &p), 0);
    check_cut(p.cut_no);
    teardown_dir();
}

/* At the hard limit history is cut short under a view, which stays readable. */
static void
limit_converts_views(void **state)
{
    struct journal_view *v[3];
    uint64_t cut[3];
    struct journal_stats st;
    struct err why = ERR_INIT;

    (void)state;
    setup_dir(51, NULL);
    t.cfg.hard_limit_bytes = 2 * MIB;
    assert_int_equal(jopen(), 0);
    begin();
    for (unsigned i = 0; i < 3; i++) {
        send(8, GEN_CUT);
        cut[i] = t.g.cut_no;
        open_view(cut[i], (uint8_t)(i + 1));
        assert_int_equal(t.res, 0);
        v[i] = t.view;
    }
    for (unsigned i = 0; i < 400; i++) {
        send(8, i % 5 == 0 ? GEN_CUT : 0);
        journal_stats(t.j, &st);
        assert_true(st.used_bytes <= 3 * MIB);
    }
    journal_stats(t.j, &st);
    assert_true(st.promotions > 0);
    assert_int_equal(journal_point_find(t.j, cut[2],
                                        &(struct journal_point){ 0 }),
                     -ENOENT);
    open_view(cut[2], 9);
    assert_int_equal(t.res, -ENOENT);
    assert_non_null(strstr(t.open_err.msg, "has left the history"));
    for (unsigned i = 0; i < 3; i++) {
        assert_false(journal_view_broken(v[i], &why));
        compare_view(v[i], gen_find(&t.g, cut[i]));
    }
    jclose();
    assert_int_equal(jopen(), 0);
    assert_int_equal(journal_views(t.j, v, 3), 3);
    for (unsigned i = 0; i < 3; i++) {
        compare_view(v[i], gen_find(&t.g, journal_view_config(v[i])->cut_no));
        discard_view(v[i]);
    }
    teardown_dir();
}

/* What the list says can be opened, at every turn of a promotion. */
static void
listed_points_open(void **state)
{
    struct journal_point p;
    unsigned opened = 0;

    (void)state;
    setup_dir(61, NULL);
    t.cfg.hard_limit_bytes = MIB;
    assert_int_equal(jopen(), 0);
    begin();
    for (unsigned i = 0; i < 300; i++) {
        send_batch(gen_make(&t.g, 8, GEN_CUT, NULL));
        while (t.durable < t.g.batch_no) {
            assert_int_equal(io_loop_turn(t.loop, NSEC_PER_MSEC), 0);
            if (journal_point_oldest(t.j, &p) < 0)
                continue;
            open_view(p.cut_no, 7);
            assert_int_equal(t.res, 0);
            opened++;
            compare_view(t.view, gen_find(&t.g, p.cut_no));
            discard_view(t.view);
        }
    }
    assert_true(opened > 100);
    teardown_dir();
}

static size_t
unknown(void)
{
    struct io_extent e[4];

    return jindex_bad_parts(t.j->ix, 0, 0, GEN_VOL_SIZE, e, 4);
}

static void
unknown_ranges_stay(void **state)
{
    uint8_t *p = io_mem_alloc(4096);

    (void)state;
    setup_dir(71, NULL);
    assert_int_equal(jopen(), 0);
    begin();
    send(4, GEN_CUT);
    send(0, GEN_DIRTY);
    journal_withdraw_points(t.j, on_res, NULL);
    wait_flag();
    assert_int_equal(t.res, 0);
    assert_int_equal(unknown(), 1);
    jclose();
    assert_int_equal(jopen(), 0);
    assert_int_equal(unknown(), 1);
    assert_int_equal(t.j->man.state.n_bad, 1);
    /* Known again by a straight write, once it is flushed. */
    memcpy(p, t.g.image[0], 4096);
    assert_int_equal(straight(0, p, 4096, t.g.seq), 0);
    assert_int_equal(unknown(), 0);
    flush();
    assert_int_equal(t.j->man.state.n_bad, 0);
    jclose();
    assert_int_equal(jopen(), 0);
    assert_int_equal(unknown(), 0);
    resume();
    /* And by a promotion. */
    send(0, GEN_DIRTY);
    journal_withdraw_points(t.j, on_res, NULL);
    wait_flag();
    assert_int_equal(unknown(), 1);
    send(0, GEN_RESYNC_BEGIN | GEN_RESYNC_END | GEN_CUT);
    check_cut(t.g.cut_no);
    journal_withdraw_points(t.j, on_res, NULL);
    wait_flag();
    assert_int_equal(unknown(), 0);
    jclose();
    assert_int_equal(jopen(), 0);
    assert_int_equal(t.j->man.state.n_bad, 0);
    io_mem_free(p, 4096);
    teardown_dir();
}

static void
manifest_written_afresh(void **state)
{
    char path[512];
    struct stat sb;
    unsigned seen = 0;
    off_t last = 0;

    (void)state;
    setup_dir(81, NULL);
    t.cfg.manifest_rewrite = 16 * KIB;
    t.cfg.hard_limit_bytes = MIB;
    assert_int_equal(jopen(), 0);
    begin();
    (void)snprintf(path, sizeof path, "%s/manifest", t.dir);
    for (unsigned i = 0; i < 600; i++) {
        send(8, i % 3 == 0 ? GEN_CUT : 0);
        if (stat(path, &sb) < 0)
            continue; /* it is being renamed */
        assert_true(sb.st_size <= (off_t)(20 * KIB));
        seen += sb.st_size < last;
        last = sb.st_size;
        if (i % 97 == 96) {
            jclose();
            assert_int_equal(jopen(), 0);
            resume();
            check_points();
        }
    }
    assert_true(seen >= 2);
    (void)snprintf(path, sizeof path, "%s/manifest.old", t.dir);
    assert_int_equal(stat(path, &sb), 0);
    check_cut(t.g.cuts[t.g.n_cuts - 1].cut_no);
    teardown_dir();
}

/* --- turns ----------------------------------------------------------------- */

enum {
    LANES = 20
};

static struct turn_lane {
    struct gen g;
    char dir[256];
    struct journal *j;
    uint64_t durable;
} lanes[LANES];
static unsigned open_lanes;

static void
lane_durable(void *arg, uint64_t no)
{
    ((struct turn_lane *)arg)->durable = no;
}
static void
lane_credit(void *arg)
{
    (void)arg;
}
static void
lane_alert(void *arg, const struct err *e)
{
    (void)arg;
    fail_msg("%s", e->msg);
}
static void
lane_opened(void *arg, struct journal *j, int res, const struct err *e)
{
    (void)e;
    assert_int_equal(res, 0);
    ((struct turn_lane *)arg)->j = j;
    open_lanes++;
}
static void
lane_closed(void *arg)
{
    (void)arg;
    open_lanes--;
}

static void
turn_until_lanes(unsigned n)
{
    for (unsigned i = 0; open_lanes != n; i++) {
        assert_true(i < 3000);
        assert_int_equal(io_loop_turn(t.loop, 10 * NSEC_PER_MSEC), 0);
    }
}

static void
all_durable(void)
{
    unsigned behind = LANES;

    for (unsigned n = 0; behind > 0; n++) {
        assert_true(n < 3000);
        assert_int_equal(io_loop_turn(t.loop, 10 * NSEC_PER_MSEC), 0);
        behind = 0;
        for (unsigned i = 0; i < LANES; i++)
            behind += lanes[i].durable < lanes[i].g.batch_no;
    }
}

static void
lanes_take_turns(void **state)
{
    (void)state;
    setup_dir(91, NULL);
    for (unsigned i = 0; i < LANES; i++) {
        struct turn_lane *l = &lanes[i];
        struct journal_events ev = { .durable = lane_durable,
                                     .credit = lane_credit,
                                     .alert = lane_alert,
                                     .arg = l };
        struct journal_config c = t.cfg;

        (void)snprintf(l->dir, sizeof l->dir, "%s/%u", t.dir, i);
        gen_init(&l->g, 100 + i);
        c.dir = l->dir;
        c.vpg = l->g.vpg;
        journal_open(&c, &ev, lane_opened, l);
    }
    turn_until_lanes(LANES);
    for (unsigned i = 0; i < LANES; i++) {
        journal_begin_incarnation(lanes[i].j, &lanes[i].g.inc, on_res, NULL);
        wait_flag();
    }
    for (unsigned r = 0; r < 31; r++) {
        /* Each has a segment and its reserve before they compete. */
        if (r == 1)
            all_durable();
        for (unsigned i = 0; i < LANES; i++) {
            struct turn_lane *l = &lanes[i];
            size_t k = gen_make(&l->g, 4, 0, NULL), mem;
            void *p = gen_copy(&l->g.batches[k], &mem);

            assert_int_equal(journal_append(l->j, p, l->g.batches[k].size, mem,
                                            NULL),
                             0);
        }
        assert_int_equal(io_loop_turn(t.loop, 0), 0);
    }
    all_durable();
    assert_int_equal(lanes[0].j->turns->refs, LANES);
    assert_int_equal(lanes[0].j->turns->peak, JOURNAL_SYNCS);
    assert_int_equal(lanes[0].j->turns->active, 0);
    for (unsigned i = 0; i < LANES; i++)
        journal_close(lanes[i].j, lane_closed, NULL);
    turn_until_lanes(0);
    for (unsigned i = 0; i < LANES; i++)
        gen_release(&lanes[i].g);
    teardown_dir();
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(withdrawn_log_hides_nothing),
        cmocka_unit_test(withdrawn_during_retention),
        cmocka_unit_test(idle_lane_ages),
        cmocka_unit_test(limit_converts_views),
        cmocka_unit_test(listed_points_open),
        cmocka_unit_test(unknown_ranges_stay),
        cmocka_unit_test(manifest_written_afresh),
        cmocka_unit_test(lanes_take_turns),
    };

    return cmocka_run_group_tests_name("journal life", tests, NULL, NULL);
}
