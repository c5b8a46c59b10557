/* room: journal lane io common
 * Damage in a running journal: which checkpoints need it, against the truth:
 * every sector of every checkpoint is read, and a checkpoint is called damaged
 * exactly when some sector of it cannot be had.  Found by the scrub and by a
 * read, kept over a restart, and over when the bytes are back.  What can be
 * made anew is. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "io/file.h"
#include "journal/journal_internal.h"
#include "tests/unit/helper_io.h"
#include "tests/unit/helper_lane.h"

enum {
    BATCHES = 60,
    CUTS = BATCHES / 2
};

static bool truth[CUTS + 1]; /* by number of the cut */

static void
on_scrub(void *arg, int res, const struct journal_scrub_result *r)
{
    (void)arg;
    (void)r;
    t.res = res;
    t.flag = true;
}

static void
scrub(void)
{
    journal_scrub(t.j, on_scrub, NULL);
    wait_flag();
    assert_int_equal(t.res, 0);
}

static void
on_read(struct blkdev_req *rq, int res)
{
    (void)rq;
    t.res = res;
    t.flag = true;
}

/* Sectors that cannot be read; all others must be right. */
static unsigned
lost_sectors(const struct gen_cut *k)
{
    uint8_t *buf = io_mem_alloc(4096);
    unsigned lost = 0;

    open_view(k->cut_no, 1);
    assert_int_equal(t.res, 0);
    for (uint16_t vol = 0; vol < GEN_VOLS; vol++) {
        for (uint64_t off = 0; off < GEN_VOL_SIZE; off += 512) {
            struct blkdev_req rq = { .op = BLKDEV_READ,
                                     .off = off,
                                     .len = 512,
                                     .buf = buf,
                                     .done = on_read };

            blkdev_submit(journal_view_dev(t.view, vol), &rq);
            wait_flag();
            if (t.res == 0)
                assert_memory_equal(buf, k->image[vol] + off, 512);
            lost += t.res < 0;
        }
    }
    discard_view(t.view);
    io_mem_free(buf, 4096);
    return lost;
}

/* How many points there are that need damaged data. */
static unsigned
learn_truth(void)
{
    unsigned n = 0;

    for (size_t i = 0; i < t.g.n_cuts; i++) {
        truth[i] = lost_sectors(&t.g.cuts[i]) > 0;
        n += truth[i];
    }
    return n;
}

static bool
told_right(void)
{
    for (size_t i = 0; i < t.g.n_cuts; i++) {
        struct journal_point p;

        assert_int_equal(journal_point_find(t.j, t.g.cuts[i].cut_no, &p), 0);
        if (p.damaged != truth[i])
            return false;
    }
    return true;
}

static void
until_told(void)
{
    for (unsigned n = 0; !told_right(); n++) {
        assert_true(n < 2000);
        assert_int_equal(io_loop_turn(t.loop, 10 * NSEC_PER_MSEC), 0);
    }
}

static void
fill(uint64_t seed)
{
    setup_dir(seed, "/dev/shm");
    assert_int_equal(jopen(), 0);
    begin();
    for (unsigned i = 0; i < BATCHES; i++) {
        send_batch(gen_make(&t.g, 6, i % 2 ? GEN_CUT : 0, NULL));
        wait_durable(t.g.batch_no);
    }
    assert_int_equal(t.g.n_cuts, CUTS);
}

/* Flip a byte of segment no, at an offset. */
static void
flip(uint32_t no, uint64_t at)
{
    char path[512];
    struct io_file *f;
    uint8_t b;

    (void)snprintf(path, sizeof path, "%s/seg.%08x", t.dir, no);
    assert_int_equal(io_file_open(t.loop, path, IO_OPEN_WRITE, &f, NULL), 0);
    assert_int_equal(io_file_pread_sync(f, &b, 1, at), 1);
    b ^= 0x40;
    assert_int_equal(io_file_pwrite_sync(f, &b, 1, at), 0);
    io_file_close(f);
}

static const struct man_seg *
some_segment(unsigned skip)
{
    const struct man_state *s = &t.j->man.state;

    assert_true(s->n_segs > skip + 1 && s->segs[skip].sealed);
    return &s->segs[skip];
}

/* A place in the payload of a batch in the middle of the segment. */
static uint64_t
payload_of(const struct man_seg *m)
{
    return m->end / 2 / 4096 * 4096 - 700;
}

static void
points_are_told(void **state)
{
    unsigned seen = 0;

    (void)state;
    for (uint64_t seed = 1; seed <= 6; seed++) {
        const struct man_seg *m;
        struct journal_damage d;
        struct journal_point p;
        struct err e = ERR_INIT;
        uint32_t no;
        uint64_t at;
        unsigned n;

        fill(seed);
        assert_false(journal_damage(t.j, &d));
        m = some_segment(seed % 2);
        no = m->no;
        at = payload_of(m);
        flip(no, at);
        scrub();
        n = learn_truth();
        seen += n;
        until_told();
        assert_int_equal(journal_damage(t.j, &d), n > 0);
        assert_int_equal(d.points, n);
        for (size_t i = 0; i < t.g.n_cuts; i++) {
            assert_int_equal(journal_point_find(t.j, t.g.cuts[i].cut_no, &p), 0);
            assert_int_equal(journal_point_whole(t.j, &p, &e),
                             truth[i] ? -EUCLEAN : 0);
            if (truth[i]) {
                assert_int_equal(e.code, ERR_JNL_0015);
                assert_non_null(strstr(e.msg, "bytes at offset"));
            }
        }
        /* Also after a restart, and never too little before that is done. */
        jclose();
        assert_int_equal(jopen(), 0);
        for (size_t i = 0; i < t.g.n_cuts; i++) {
            assert_int_equal(journal_point_find(t.j, t.g.cuts[i].cut_no, &p), 0);
            assert_true(p.damaged || !truth[i]);
        }
        until_told();
        /* The bytes are back: nothing is damaged any more. */
        flip(no, at);
        scrub();
        assert_int_equal(learn_truth(), 0);
        until_told();
        assert_false(journal_damage(t.j, &d));
        teardown_dir();
    }
    assert_true(seen > 0);
}

/* Nobody scrubs: whoever reads the place has the segment looked at. */
static void
reads_find_it(void **state)
{
    const struct man_seg *m;

    (void)state;
    fill(11);
    m = some_segment(0);
    flip(m->no, payload_of(m));
    assert_true(learn_truth() > 0);
    until_told();
    teardown_dir();
}

/* What is overwritten is whole again, for points from then on. */
static void
overwriting_ends_it(void **state)
{
    struct journal_damage d;
    const struct man_seg *m;
    struct journal_point p;
    uint64_t last;

    (void)state;
    fill(12);
    m = some_segment(1);
    last = m->last_seq;
    flip(m->no, payload_of(m));
    scrub();
    assert_true(learn_truth() > 0);
    until_told();
    for (unsigned i = 0; i < 300; i++) {
        send_batch(gen_make(&t.g, 12, 0, NULL));
        wait_durable(t.g.batch_no);
    }
    send_batch(gen_make(&t.g, 1, GEN_CUT, NULL));
    wait_durable(t.g.batch_no);
    for (unsigned n = 0;; n++) {
        assert_int_equal(journal_point_newest(t.j, &p), 0);
        if (!p.damaged)
            break;
        assert_true(n < 2000);
        assert_int_equal(io_loop_turn(t.loop, 10 * NSEC_PER_MSEC), 0);
    }
    assert_int_equal(lost_sectors(gen_find(&t.g, p.cut_no)), 0);
    assert_true(journal_damage(t.j, &d));
    assert_false(d.newest);
    /* Promotion, which would stop at the damage, passes it folded. */
    journal_set_limits(t.j, NSEC_PER_SEC, 0, 0);
    for (unsigned n = 0; t.j->man.state.promoted < last; n++) {
        assert_true(n < 3000);
        assert_int_equal(io_loop_turn(t.loop, 10 * NSEC_PER_MSEC), 0);
    }
    assert_int_equal(journal_point_newest(t.j, &p), 0);
    assert_int_equal(lost_sectors(gen_find(&t.g, p.cut_no)), 0);
    for (unsigned n = 0; journal_damage(t.j, &d); n++) {
        assert_true(n < 1000);
        assert_int_equal(io_loop_turn(t.loop, 10 * NSEC_PER_MSEC), 0);
    }
    teardown_dir();
}

/* A range that is unknown in the replica (BAD) is missing to the points before
 * the log writes it. */
static void
unknown_in_the_replica(void **state)
{
    struct man_rec r = { .type = MAN_BAD, .u.bad = { 1, 512, 8192 } };
    unsigned n;

    (void)state;
    fill(14);
    journal_log(t.j, &r);
    journal_log_sync(t.j, on_res, NULL);
    wait_flag();
    assert_int_equal(jindex_load_bad(t.j->ix, 1, 512, 8192), 0);
    n = learn_truth();
    assert_true(n > 0 && truth[0]);
    until_told();
    jclose();
    assert_int_equal(jopen(), 0);
    until_told();
    teardown_dir();
}

static void
change(const char *name, size_t at)
{
    char path[512];
    uint8_t *bytes;
    size_t len;

    (void)snprintf(path, sizeof path, "%s/%s", t.dir, name);
    assert_int_equal(io_read_whole(t.loop, path, 1 << 24, &bytes, &len, NULL),
                     0);
    bytes[at] ^= 1;
    assert_int_equal(io_replace_whole(t.loop, path, bytes, len, NULL), 0);
    free(bytes);
}

/* A footer, a run, the table of checkpoints and the manifest are made anew. */
static void
derived_is_made_anew(void **state)
{
    static const struct {
        const char *name;
        size_t at;
    } files[] = { { "points", 70 },
                  { "manifest", 70 },
                  { "run.0.00000000", 4096 + 8 } };
    struct journal_stats st = { .runs = 0 };
    struct journal_scrub_result r;
    struct journal_damage d;

    (void)state;
    fill(13);
    for (unsigned n = 0; st.runs == 0; n++) {
        assert_true(n < 1000);
        assert_int_equal(io_loop_turn(t.loop, 10 * NSEC_PER_MSEC), 0);
        journal_stats(t.j, &st);
    }
    flip(some_segment(0)->no, some_segment(0)->footer_off + 100);
    for (unsigned i = 0; i < ARRAY_SIZE(files); i++)
        change(files[i].name, files[i].at);
    scrub();
    for (unsigned n = 0; n < 300; n++) /* ticks */
        assert_int_equal(io_loop_turn(t.loop, 10 * NSEC_PER_MSEC), 0);
    assert_false(journal_damage(t.j, &d));
    assert_int_equal(learn_truth(), 0);
    jclose();
    assert_int_equal(journal_scrub_dir(t.loop, t.dir, &r, NULL), 0);
    if (r.bad > 0)
        fail_msg("%s", r.first_bad);
    assert_int_equal(jopen(), 0);
    assert_int_equal(learn_truth(), 0);
    teardown_dir();
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(points_are_told),
        cmocka_unit_test(reads_find_it),
        cmocka_unit_test(overwriting_ends_it),
        cmocka_unit_test(unknown_in_the_replica),
        cmocka_unit_test(derived_is_made_anew),
    };

    return cmocka_run_group_tests_name("damage", tests, NULL, NULL);
}
