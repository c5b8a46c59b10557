/* room: journal lane io common */
/* The journal as a whole: append, checkpoints, views, retention and promotion,
 * restarts, crashes at random moments with torn tails, damage, full disks; each
 * view compared with the image that its checkpoint had at the source. */
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "io/file.h"
#include "journal/journal_internal.h"
#include "tests/unit/helper_io.h"
#include "tests/unit/helper_lane.h"

static void
random_history(uint64_t seed, unsigned rounds)
{
    struct journal_view *kept[4];
    struct journal_stats st;
    struct journal_point p;
    uint64_t kept_cut = 0;

    setup_dir(seed, NULL);
    t.cfg.hard_limit_bytes = 2 * MIB;
    assert_int_equal(jopen(), 0);
    begin();
    for (unsigned r = 0; r < rounds; r++) {
        unsigned n = 1 + (unsigned)gen_below(&t.g, 6);

        for (unsigned i = 0; i < n; i++) {
            unsigned extra = gen_below(&t.g, 3) == 0 ? GEN_CUT : 0;
            char tag[16];

            (void)snprintf(tag, sizeof tag, "tag %u", r);
            if (gen_below(&t.g, 40) == 0)
                extra |= GEN_DIRTY;
            else if (t.g.withheld && gen_below(&t.g, 4) == 0)
                extra |= GEN_RESYNC_END;
            else if (gen_below(&t.g, 50) == 0)
                extra |= GEN_RESYNC_BEGIN;
            send_batch(gen_make(&t.g, (unsigned)gen_below(&t.g, 8), extra,
                                gen_below(&t.g, 5) == 0 ? tag : NULL));
        }
        wait_durable(t.g.batch_no);
        if (gen_below(&t.g, 4) == 0)
            check_points();
        if (gen_below(&t.g, 4) == 0 && journal_points_count(t.j)) {
            size_t at = gen_below(&t.g, journal_points_count(t.j));

            assert_int_equal(journal_points(t.j, 0, UINT64_MAX, at, &p, 1), 1);
            check_cut(p.cut_no);
        }
        /* One that stays open while promotion passes it, and over restarts. */
        if (!kept_cut && journal_point_oldest(t.j, &p) == 0) {
            kept_cut = p.cut_no;
            open_view(kept_cut, 0xEE);
            if (t.res == -ENOENT) /* it was just leaving */
                kept_cut = 0;
            else
                assert_int_equal(t.res, 0);
        } else if (kept_cut && gen_below(&t.g, 6) == 0) {
            assert_int_equal(journal_views(t.j, kept, 4), 1);
            compare_view(kept[0], gen_find(&t.g, kept_cut));
            if (gen_below(&t.g, 6) == 0) {
                discard_view(kept[0]);
                kept_cut = 0;
            }
        }
        if (gen_below(&t.g, 15) == 0) {
            jclose();
            assert_int_equal(jopen(), 0);
            resume();
            check_points();
        }
        if (gen_below(&t.g, 40) == 0) {
            gen_new_incarnation(&t.g);
            begin();
        }
    }
    journal_stats(t.j, &st);
    assert_true(st.promoted_seq > 0);
    assert_int_equal(t.alert.code, ERR_JNL_0010);
    assert_true(st.used_bytes <= t.cfg.hard_limit_bytes + MIB);
    teardown_dir();
}

static void
random_histories(void **state)
{
    for (uint64_t s = 1; s <= 6; s++)
        random_history(s, 120);
}

/* --- crashes ------------------------------------------------------------------ */

enum {
    CRASH_BATCHES = 400
};

static void
crash_batches(struct gen *g)
{
    for (unsigned i = 0; i < CRASH_BATCHES; i++)
        (void)gen_make(g, (unsigned)gen_below(g, 10), i % 3 ? 0 : GEN_CUT,
                       i % 9 ? NULL : "tagged");
}

/* The life of a process that is killed: it tells each durable number. */
static void
crash_child(int fd)
{
    t.loop = helper_loop(IO_BACKEND_EPOLL, 2);
    t.cfg.loop = t.loop;
    assert_int_equal(jopen(), 0);
    begin();
    t.tell_fd = fd;
    for (size_t i = 0; i < t.g.n_batches; i++) {
        while (t.j->unacked > JOURNAL_CREDIT / 2)
            (void)io_loop_turn(t.loop, 20 * NSEC_PER_MSEC);
        send_batch(i);
        if (i % 7 == 0)
            wait_durable(t.g.batches[i].no);
    }
    for (;;)
        (void)io_loop_turn(t.loop, 100 * NSEC_PER_MSEC);
}

/* Everything told durable is there after kill -9, with the right digest, and
 * any checkpoint shows what it had; false: something is missing. */
static bool
crash_once(uint64_t seed, unsigned planted, unsigned upto)
{
    struct journal_tail tail;
    struct journal_point p;
    uint64_t no = 0, n;
    uint8_t digest[16];
    bool ok = true;
    int fds[2], status;
    pid_t pid;

    setup_dir(seed, NULL);
    io_loop_free(t.loop);
    t.fixed_seen = true;
    t.cfg.planted = planted;
    crash_batches(&t.g);
    assert_int_equal(pipe(fds), 0);
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        close(fds[0]);
        crash_child(fds[1]);
        _exit(0);
    }
    close(fds[1]);
    while (no < upto && read(fds[0], &no, sizeof no) == sizeof no)
        ;
    kill(pid, SIGKILL);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    while (read(fds[0], &n, sizeof n) == sizeof n)
        no = n;
    close(fds[0]);
    t.loop = helper_loop(IO_BACKEND_EPOLL, 2);
    t.cfg.loop = t.loop;
    t.cfg.planted = 0;
    assert_int_equal(jopen(), 0);
    journal_tail(t.j, &tail);
    ok = tail.any && tail.durable_batch >= no;
    if (ok && tail.durable_batch) {
        const struct gen_batch *b = &t.g.batches[tail.durable_batch - 1];
        struct batch_view v;

        assert_int_equal(batch_decode(b->bytes, b->size, &v, NULL), 0);
        batch_digest(b->bytes, v.head_len, digest);
        assert_memory_equal(digest, tail.digest, 16);
        assert_int_equal(tail.durable_seq, b->last_seq);
        check_points();
        for (size_t i = 0; i < journal_points_count(t.j);
             i += 1 + gen_below(&t.g, 20)) {
            assert_int_equal(journal_points(t.j, 0, UINT64_MAX, i, &p, 1), 1);
            check_cut(p.cut_no);
        }
        /* The source goes on where the tail ends. */
        resume();
        check_points();
    }
    teardown_dir();
    return ok;
}

static void
killed(void **state)
{
    for (uint64_t s = 1; s <= 12; s++)
        assert_true(crash_once(100 + s, 0, (unsigned)(s * 25)));
}

/* The same test must see the planted bug. */
static void
killed_with_early_ack(void **state)
{
    unsigned seen = 0;

    for (uint64_t s = 1; s <= 4; s++)
        seen += !crash_once(200 + s, JOURNAL_PLANT_ACK_BEFORE_SYNC, 60);
    assert_true(seen > 0);
}

/* Fill a journal that stays in one segment and close it.  Returns the path of a
 * file of it. */
static void
some_journal(unsigned batches)
{
    setup_dir(7, NULL);
    t.cfg.segment_min = t.cfg.segment_max = 8 * MIB;
    assert_int_equal(jopen(), 0);
    begin();
    for (unsigned i = 0; i < batches; i++) {
        send_batch(gen_make(&t.g, 3, i % 4 ? 0 : GEN_CUT, "t"));
        wait_durable(t.g.batch_no);
    }
    jclose();
}

static void
change(const char *name, off_t at, uint8_t mask)
{
    char path[512];
    uint8_t b;
    int fd;

    (void)snprintf(path, sizeof path, "%s/%s", t.dir, name);
    fd = open(path, O_RDWR);
    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &b, 1, at), 1);
    b ^= mask;
    assert_int_equal(pwrite(fd, &b, 1, at), 1);
    close(fd);
}

/* A torn tail: the last batch, or what lies behind, is garbled: found or cut,
 * never an error, and the earlier ones stay (I16). */
static void
torn_tails(void **state)
{
    for (unsigned round = 0; round < 8; round++) {
        struct journal_tail before, after;
        char path[512], junk[5000];
        int fd;

        some_journal(20);
        assert_int_equal(jopen(), 0);
        journal_tail(t.j, &before);
        jclose();
        memset(junk, round ? 0xA5 : 0, sizeof junk);
        /* Half of a batch that was being written. */
        (void)gen_make(&t.g, 6, 0, NULL);
        (void)snprintf(path, sizeof path, "%s/seg.00000000", t.dir);
        fd = open(path, O_RDWR);
        assert_true(fd >= 0);
        {
            const struct gen_batch *b = &t.g.batches[t.g.n_batches - 1];
            off_t end = 4096;

            for (size_t i = 0; i + 1 < t.g.n_batches; i++)
                end += (off_t)round_up(t.g.batches[i].size, 4096);
            assert_true(pwrite(fd, b->bytes, b->size * round / 8, end) >= 0);
        }
        close(fd);
        (void)snprintf(path, sizeof path, "%s/manifest", t.dir);
        fd = open(path, O_WRONLY | O_APPEND);
        assert_true(write(fd, junk, 100 * round) >= 0);
        close(fd);
        (void)snprintf(path, sizeof path, "%s/points", t.dir);
        fd = open(path, O_WRONLY | O_APPEND);
        assert_true(write(fd, junk, 30 * round) >= 0);
        close(fd);
        assert_int_equal(jopen(), 0);
        journal_tail(t.j, &after);
        assert_int_equal(after.durable_batch, before.durable_batch);
        assert_int_equal(after.durable_seq, before.durable_seq);
        assert_memory_equal(after.digest, before.digest, 16);
        assert_memory_equal(after.incarnation.u.b, before.incarnation.u.b, 16);
        check_points();
        resume();
        teardown_dir();
    }
}

/* --- damage and mistakes --------------------------------------------------------- */

/* Nothing was cut off: with the byte as it was all is there. */
static void
expect_mended(const char *name, off_t at)
{
    change(name, at, 0x10);
    assert_int_equal(jopen(), 0);
    assert_int_equal(journal_points_count(t.j), 5);
    check_cut(3);
    teardown_dir();
}

static void
expect_damage(const char *name, off_t at, int res, enum err_code code)
{
    some_journal(20);
    change(name, at, 0x10);
    assert_int_equal(jopen(), res);
    assert_int_equal(t.open_err.code, code);
    assert_null(t.j);
    expect_mended(name, at);
}

/* It opens with what lies before, here nothing; see test_journal_degraded.c. */
static void
expect_degraded(off_t at)
{
    struct journal_stats st;

    some_journal(20);
    change("seg.00000000", at, 0x10);
    assert_int_equal(jopen(), 0);
    journal_stats(t.j, &st);
    assert_true(st.degraded);
    assert_int_equal(t.alert.code, ERR_JNL_0020);
    assert_int_equal(journal_points_count(t.j), 0);
    jclose();
    expect_mended("seg.00000000", at);
}

static void
damage(void **state)
{
    /* The manifest holds all that the header does. */
    some_journal(20);
    change("seg.00000000", 20, 0x10);
    assert_int_equal(jopen(), 0);
    assert_int_equal(t.alert.code, ERR_JNL_0003);
    assert_int_equal(journal_points_count(t.j), 5);
    jclose();
    expect_mended("seg.00000000", 20);
    expect_degraded(4096 + 50);
    expect_degraded(4096 + 300);
    expect_damage("manifest", 10, -EBADMSG, ERR_JNL_0004);
    expect_damage("manifest", 64 + 20, -EBADMSG, ERR_JNL_0004);
    expect_damage("points", 3, -EBADMSG, ERR_JNL_0011);
}

static void
mistakes(void **state)
{
    struct io_file *f = NULL;
    struct seg_header h = {
        .no = 1, .size = SEG_SIZE_LEAST, .first_batch = 1, .first_seq = 1
    };
    struct seg_tables *tables = seg_tables_new();
    char *long_dir = malloc(5000), path[512];
    struct err e = ERR_INIT;
    struct journal *j;
    uint64_t off;
    size_t i, mem;
    void *p;
    int rc = 0;

    some_journal(9);
    t.cfg.lane = 2;
    assert_int_equal(jopen(), -EINVAL);
    assert_int_equal(t.open_err.code, ERR_JNL_0005);
    t.cfg.lane = 1;
    t.cfg.volumes[1].size *= 2;
    assert_int_equal(jopen(), -EINVAL);
    assert_int_equal(t.open_err.code, ERR_JNL_0005);
    t.cfg.volumes[1].size /= 2;
    assert_int_equal(jopen(), 0);
    j = t.j;
    assert_int_equal(jopen(), -EBUSY);
    assert_int_equal(t.open_err.code, ERR_JNL_0006);
    t.j = j;
    resume();
    /* A duplicate is dropped; a gap and a changed one are refused (I8). */
    p = gen_copy(&t.g.batches[8], &mem);
    assert_int_equal(journal_append(t.j, p, t.g.batches[8].size, mem, &e),
                     -ESTALE);
    (void)gen_make(&t.g, 2, 0, NULL);
    i = gen_make(&t.g, 2, 0, NULL);
    p = gen_copy(&t.g.batches[i], &mem);
    assert_int_equal(journal_append(t.j, p, t.g.batches[i].size, mem, &e),
                     -EBADMSG);
    assert_int_equal(e.code, ERR_JNL_0007);
    p = gen_copy(&t.g.batches[i - 1], &mem);
    ((uint8_t *)p)[t.g.batches[i - 1].size - 1] ^= 1;
    rc = journal_append(t.j, p, t.g.batches[i - 1].size, mem, &e);
    assert_int_equal(rc, -EBADMSG);
    /* Beyond the credit. */
    send_batch(i - 1);
    send_batch(i);
    for (rc = 0; rc == 0;) {
        i = gen_make(&t.g, 40, 0, NULL);
        p = gen_copy(&t.g.batches[i], &mem);
        rc = journal_append(t.j, p, t.g.batches[i].size, mem, &e);
    }
    assert_int_equal(rc, -EAGAIN);
    assert_int_equal(e.code, ERR_JNL_0013);
    open_view(99999, 1);
    assert_int_equal(t.res, -ENOENT);
    assert_int_equal(t.open_err.code, ERR_JNL_0014);
    /* Stopped: nothing is taken. */
    (void)err_set(&e, -EIO, ERR_JNL_0002, "a test");
    journal_stop(t.j, &e);
    assert_int_equal(journal_credit(t.j), 0);
    p = gen_copy(&t.g.batches[i], &mem);
    assert_int_equal(journal_append(t.j, p, t.g.batches[i].size, mem, &e),
                     -EROFS);
    assert_int_equal(e.code, ERR_JNL_0008);
    /* Below: segments on their own. */
    memset(long_dir, 'x', 4999);
    long_dir[4999] = '\0';
    assert_int_equal(segment_create(t.loop, long_dir, &h, NULL, &f, &e),
                     -ENAMETOOLONG);
    assert_int_equal(e.code, ERR_JNL_0001);
    (void)snprintf(path, sizeof path, "%s/x", t.dir);
    assert_int_equal(io_mkdir(t.loop, path, &e), 0);
    assert_int_equal(segment_create(t.loop, path, &h, NULL, &f, &e), 0);
    h.size = SEG_ALIGN;
    assert_int_equal(segment_seal(f, &h, tables, &off, &e), -EOVERFLOW);
    assert_int_equal(e.code, ERR_JNL_0002);
    io_file_close(f);
    seg_tables_free(tables);
    free(long_dir);
    teardown_dir();
}

/* A full store: credit goes to 0, nothing is lost, and it goes on when there is
 * space again (datapath.md 10). */
static void
full_store(void **state)
{
    char file[512];
    size_t i = 0;
    int fd;

    setup_dir(11, NULL);
    if (geteuid() != 0 || mount("none", t.dir, "tmpfs", 0, "size=10m") < 0) {
        teardown_dir();
        skip();
    }
    t.cfg.segment_min = t.cfg.segment_max = MIB;
    t.cfg.disk_reserve_bytes = 2 * MIB;
    assert_int_equal(jopen(), 0);
    begin();
    (void)snprintf(file, sizeof file, "%s/other", t.dir);
    fd = open(file, O_CREAT | O_RDWR, 0600);
    assert_int_equal(posix_fallocate(fd, 0, 5 * MIB), 0);
    while (journal_credit(t.j) > 0 && i < 2000) {
        i = gen_make(&t.g, 10, 0, NULL); /* no cut: nothing can be promoted */
        send_batch(i);
        for (unsigned k = 0;
             k < 20 && t.durable < t.g.batch_no && journal_credit(t.j); k++)
            (void)io_loop_turn(t.loop, 20 * NSEC_PER_MSEC);
    }
    assert_int_equal(t.alert.code, ERR_JNL_0009);
    assert_int_equal(journal_credit(t.j), 0);
    close(fd);
    unlink(file);
    wait_durable(t.g.batch_no);
    assert_int_equal(t.settled, ERR_JNL_0009);
    assert_true(t.credits > 0);
    assert_true(journal_credit(t.j) > 0);
    jclose();
    assert_int_equal(jopen(), 0);
    resume();
    assert_int_equal(t.durable, t.g.batch_no);
    jclose();
    umount2(t.dir, MNT_DETACH);
    teardown_dir();
}

/* A write fails: the segment is left as it is, and what was not acknowledged is
 * written to a fresh one (I9); views read both. */
static void
failing_write(void **state)
{
    struct rlimit was, low;
    struct journal_stats st;

    setup_dir(17, NULL);
    t.cfg.segment_min = t.cfg.segment_max = MIB;
    assert_int_equal(jopen(), 0);
    begin();
    for (unsigned i = 0; i < 12; i++) {
        send_batch(gen_make(&t.g, 20, i % 3 ? 0 : GEN_CUT, NULL));
        wait_durable(t.g.batch_no);
    }
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &was), 0);
    low = was;
    low.rlim_cur = 64 * KIB;
    (void)signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &low), 0);
    t.unlimit = &was;
    for (unsigned i = 0; i < 12; i++)
        send_batch(gen_make(&t.g, 20, i % 3 ? 0 : GEN_CUT, "late"));
    wait_durable(t.g.batch_no);
    assert_null(t.unlimit);
    assert_int_equal(t.alert.code, ERR_JNL_0002);
    journal_stats(t.j, &st);
    assert_true(st.segments >= 2);
    assert_false(st.stopped);
    for (unsigned i = 0; i < 2; i++) {
        check_points();
        check_cut(2);
        check_cut(7);
        jclose();
        assert_int_equal(jopen(), 0);
        resume();
    }
    teardown_dir();
}

static void
resync_offers_nothing(void **state)
{
    setup_dir(13, NULL);
    t.cfg.warn_bytes = 64 * KIB;
    assert_int_equal(jopen(), 0);
    begin();
    send_batch(gen_make(&t.g, 4, GEN_CUT, "before"));
    send_batch(gen_make(&t.g, 4, GEN_RESYNC_BEGIN | GEN_CUT, NULL));
    wait_durable(t.g.batch_no);
    assert_int_equal(journal_points_count(t.j), 1);
    jclose();
    assert_int_equal(jopen(), 0);
    resume();
    send_batch(gen_make(&t.g, 4, GEN_DIRTY | GEN_CUT, NULL));
    wait_durable(t.g.batch_no);
    assert_int_equal(journal_points_count(t.j), 1);
    send_batch(gen_make(&t.g, 4, GEN_RESYNC_END | GEN_CUT, "after"));
    wait_durable(t.g.batch_no);
    assert_int_equal(journal_points_count(t.j), 2);
    check_cut(1);
    check_cut(4);
    journal_withdraw_points(t.j, on_res, NULL);
    wait_flag();
    assert_int_equal(t.res, 0);
    assert_int_equal(journal_points_count(t.j), 0);
    journal_set_limits(t.j, NSEC_PER_SEC, 0, 1);
    assert_int_equal(t.alert.code, ERR_JNL_0012);
    journal_set_fencing_epoch(t.j, 7, on_res, NULL);
    wait_flag();
    jclose();
    assert_int_equal(jopen(), 0);
    {
        struct journal_tail tail;

        journal_tail(t.j, &tail);
        assert_int_equal(tail.fencing_epoch, 7);
        assert_false(tail.offered_any);
    }
    teardown_dir();
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_histories),
        cmocka_unit_test(killed),
        cmocka_unit_test(killed_with_early_ack),
        cmocka_unit_test(torn_tails),
        cmocka_unit_test(damage),
        cmocka_unit_test(mistakes),
        cmocka_unit_test(full_store),
        cmocka_unit_test(failing_write),
        cmocka_unit_test(resync_offers_nothing),
    };

    return cmocka_run_group_tests_name("journal", tests, NULL, NULL);
}
