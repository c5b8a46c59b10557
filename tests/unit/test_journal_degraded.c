/* room: journal lane io common */
/* A journal with a part that is damaged or missing: every segment removed, cut
 * and flipped at every kind of place.  Exactly the checkpoints whose data is
 * there are offered, each shows the image it had at the source (I15), nothing is
 * cut off (I16), and the lane goes on: by the same batches again, by a sync of
 * the incarnation that runs, or of a new one. */
#include <dirent.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "io/file.h"
#include "journal/journal_internal.h"
#include "tests/unit/helper_io.h"
#include "tests/unit/helper_lane.h"

enum {
    FILES = 128,
    SEGS = 64,
    PLACES = 12,
};

/* The directory as it was, in memory. */
static struct {
    struct {
        char name[64];
        uint8_t *bytes;
        size_t len;
    } f[FILES];
    size_t n;
} kept;

/* The segments, and what they hold. */
static struct seg {
    struct man_seg m;
    size_t first, n; /* of t.g.batches */
    uint64_t off[512];
} segs[SEGS];
static size_t n_segs;

static void
path_of(const char *name, char out[512])
{
    (void)snprintf(out, 512, "%s/%s", t.dir, name);
}

static void
keep_dir(void)
{
    DIR *d = opendir(t.dir);
    struct dirent *e;
    struct stat st;
    char path[512];
    int fd;

    kept.n = 0;
    while ((e = readdir(d))) {
        if (e->d_name[0] == '.')
            continue;
        path_of(e->d_name, path);
        fd = open(path, O_RDONLY);
        assert_true(fd >= 0 && fstat(fd, &st) == 0 && kept.n < FILES);
        (void)snprintf(kept.f[kept.n].name, 64, "%.60s", e->d_name);
        kept.f[kept.n].len = (size_t)st.st_size;
        kept.f[kept.n].bytes = malloc((size_t)st.st_size + 1);
        assert_int_equal(read(fd, kept.f[kept.n].bytes, (size_t)st.st_size),
                         st.st_size);
        kept.n++;
        close(fd);
    }
    closedir(d);
}

static void
put_back(void)
{
    DIR *d = opendir(t.dir);
    struct dirent *e;
    char path[512];
    int fd;

    while ((e = readdir(d))) {
        path_of(e->d_name, path);
        if (e->d_name[0] != '.')
            assert_int_equal(unlink(path), 0);
    }
    closedir(d);
    for (size_t i = 0; i < kept.n; i++) {
        path_of(kept.f[i].name, path);
        fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
        assert_true(fd >= 0);
        assert_int_equal(write(fd, kept.f[i].bytes, kept.f[i].len),
                         kept.f[i].len);
        close(fd);
    }
}

static void
forget_dir(void)
{
    for (size_t i = 0; i < kept.n; i++)
        free(kept.f[i].bytes);
    kept.n = 0;
}

static uint8_t *
kept_file(const char *name, size_t *out_len)
{
    for (size_t i = 0; i < kept.n; i++)
        if (strcmp(kept.f[i].name, name) == 0) {
            *out_len = kept.f[i].len;
            return kept.f[i].bytes;
        }
    return NULL;
}

static void
learn_layout(void)
{
    const struct man_state *s = &t.j->man.state;
    size_t at = 0;

    assert_true(s->n_segs < SEGS);
    n_segs = s->n_segs;
    for (size_t i = 0; i < n_segs; i++) {
        struct seg *g = &segs[i];
        uint64_t off = SEG_HEADER_SIZE;

        *g = (struct seg){ .m = s->segs[i], .first = at };
        while (at < t.g.n_batches &&
               (i + 1 == n_segs ||
                t.g.batches[at].no < s->segs[i + 1].first_batch)) {
            g->off[g->n++] = off;
            off += round_up(t.g.batches[at++].size, SEG_ALIGN);
        }
        if (g->m.sealed)
            assert_int_equal(off, g->m.end);
    }
    assert_int_equal(at, t.g.n_batches);
}

enum {
    SYNC_NEVER = 0
};

static uint64_t seg_bytes = 64 * KIB;

/* Batches, each with a checkpoint, over several segments; one of them a sync of
 * everything.  Closed at the end. */
static void
history(uint64_t seed, unsigned batches, unsigned sync_at)
{
    setup_dir(seed, access("/dev/shm", W_OK) == 0 ? "/dev/shm" : NULL);
    t.cfg.segment_min = t.cfg.segment_max = seg_bytes;
    assert_int_equal(jopen(), 0);
    begin();
    for (unsigned i = 1; i <= batches; i++) {
        if (sync_at && i == sync_at) {
            send_batch(gen_make(&t.g, 2, GEN_RESYNC_BEGIN | GEN_CUT, NULL));
            wait_durable(t.g.batch_no);
            send_batch(gen_make(&t.g, 2, GEN_RESYNC_ALL | GEN_RESYNC_END, NULL));
            wait_durable(t.g.batch_no);
        }
        send_batch(gen_make(&t.g, 3, GEN_CUT, i % 5 ? NULL : "t"));
        wait_durable(t.g.batch_no);
    }
    for (unsigned i = 0; i < 200; i++) { /* runs are built */
        struct jindex_stats st;

        jindex_stats(t.j->ix, &st);
        if (st.idle && list_empty(&t.j->sealing))
            break;
        (void)io_loop_turn(t.loop, 10 * NSEC_PER_MSEC);
    }
    learn_layout();
    jclose();
    keep_dir();
}

/* --- what must be offered -------------------------------------------------------- */

static bool
expected(const struct gen_cut *c, uint64_t from, uint64_t until)
{
    return c->offered && (c->seq <= from || c->seq >= until);
}

/* Exactly these, and a few of them byte by byte. */
static size_t
check_offered(uint64_t from, uint64_t until)
{
    static struct journal_point p[GEN_CUTS];
    size_t n = journal_points(t.j, 0, UINT64_MAX, 0, p, GEN_CUTS), i = 0;
    size_t before = 0;

    for (size_t k = 0; k < t.g.n_cuts; k++) {
        const struct gen_cut *c = &t.g.cuts[k];

        if (!expected(c, from, until)) {
            struct journal_point q;

            assert_int_equal(journal_point_find(t.j, c->cut_no, &q), -ENOENT);
            continue;
        }
        if (i == n)
            fail_msg("cut %u is missing", (unsigned)c->cut_no);
        assert_int_equal(p[i].cut_no, c->cut_no);
        assert_int_equal(p[i].seq, c->seq);
        before += c->seq <= from;
        i++;
    }
    assert_int_equal(i, n);
    if (n) {
        check_cut(p[0].cut_no);
        check_cut(p[n - 1].cut_no);
        check_cut(p[gen_below(&t.g, n)].cut_no);
    }
    if (before)
        check_cut(p[before - 1].cut_no);
    if (before < n)
        check_cut(p[before].cut_no);
    return n;
}

/* The RESYNC_END whose window lies behind seq: the cut that follows it is the
 * first that is offered again. */
static uint64_t
sync_behind(uint64_t seq)
{
    bool begun = false;

    for (size_t k = 0; k < t.g.n_cuts; k++) {
        const struct gen_cut *c = &t.g.cuts[k];

        if (!c->offered && c->seq > seq)
            begun = true;
        else if (begun)
            return c->seq;
    }
    return UINT64_MAX;
}

static uint64_t
seq_before(const struct seg *g, size_t n)
{
    size_t at = g->first + n;

    return at ? t.g.batches[at - 1].last_seq : 0;
}

/* --- the ways out ------------------------------------------------------------------- */

static bool
degraded(void)
{
    struct journal_stats st;

    journal_stats(t.j, &st);
    return st.degraded;
}

static void
turns(unsigned n)
{
    while (n--)
        (void)io_loop_turn(t.loop, 5 * NSEC_PER_MSEC);
}

/* A sync, then a checkpoint; all is told to be well. */
static void
sync_all(uint64_t from)
{
    size_t n = journal_points_count(t.j);

    send_batch(gen_make(&t.g, 2, GEN_RESYNC_BEGIN | GEN_CUT, NULL));
    wait_durable(t.g.batch_no);
    assert_false(degraded());
    assert_int_equal(journal_points_count(t.j), n);
    send_batch(gen_make(&t.g, 2, GEN_RESYNC_ALL | GEN_RESYNC_END, NULL));
    send_batch(gen_make(&t.g, 2, GEN_CUT, "whole"));
    wait_durable(t.g.batch_no);
    assert_int_equal(t.settled, ERR_JNL_0020);
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(journal_points_count(t.j), n + 1);
        (void)check_offered(from, t.g.cuts[t.g.n_cuts - 1].seq);
        turns(2);
        jclose();
        t.settled = (enum err_code)0;
        assert_int_equal(jopen(), 0);
        assert_false(degraded());
        {
            struct journal_tail tail;

            journal_tail(t.j, &tail);
            t.durable = t.g.durable = tail.durable_batch;
            assert_int_equal(tail.durable_batch, t.g.batch_no);
            assert_false(tail.sync_wanted);
        }
    }
}

/* Forget what was made since the history ended. */
struct mark {
    struct gen g;
    uint8_t *image[GEN_VOLS];
};

static void
mark_take(struct mark *m)
{
    m->g = t.g;
    for (unsigned v = 0; v < GEN_VOLS; v++) {
        m->image[v] = malloc(GEN_VOL_SIZE);
        memcpy(m->image[v], t.g.image[v], GEN_VOL_SIZE);
    }
}

static void
mark_back(struct mark *m)
{
    for (size_t i = m->g.n_batches; i < t.g.n_batches; i++)
        free(t.g.batches[i].bytes);
    for (size_t i = m->g.n_cuts; i < t.g.n_cuts; i++)
        for (unsigned v = 0; v < GEN_VOLS; v++)
            free(t.g.cuts[i].image[v]);
    t.g = m->g;
    for (unsigned v = 0; v < GEN_VOLS; v++) {
        memcpy(t.g.image[v], m->image[v], GEN_VOL_SIZE);
        free(m->image[v]);
    }
}

static uint64_t
batch_end(const struct seg *g, size_t i)
{
    return g->off[i] + t.g.batches[g->first + i].size;
}

/* --- one case -------------------------------------------------------------------------- */

enum kind {
    REMOVE,
    CUT,
    FLIP
};

static void
harm(const struct seg *g, enum kind kind, uint64_t pos)
{
    char name[SEG_NAME_MAX], path[512];
    uint8_t b;
    int fd;

    seg_name(g->m.no, name);
    path_of(name, path);
    if (kind == REMOVE) {
        assert_int_equal(unlink(path), 0);
        return;
    }
    if (kind == CUT) {
        assert_int_equal(truncate(path, (off_t)pos), 0);
        return;
    }
    fd = open(path, O_RDWR);
    assert_int_equal(pread(fd, &b, 1, (off_t)pos), 1);
    b ^= 0x20;
    assert_int_equal(pwrite(fd, &b, 1, (off_t)pos), 1);
    close(fd);
}

/* What was there of the file behind `from` is there still, under its name or
 * the one it was put aside under. */
static void
check_untouched(const struct seg *g, enum kind kind, uint64_t pos, uint64_t from)
{
    char name[SEG_NAME_MAX], path[512];
    uint8_t *now, *was;
    size_t len = 0, n;
    int fd;

    if (kind == REMOVE)
        return;
    seg_name(g->m.no, name);
    path_of(name, path);
    fd = open(path, O_RDONLY);
    if (fd < 0) {
        (void)strcat(path, ".damaged");
        fd = open(path, O_RDONLY);
    }
    assert_true(fd >= 0);
    was = kept_file(name, &len);
    if (kind == CUT)
        len = MIN(len, pos);
    now = malloc(len + 1);
    n = (size_t)pread(fd, now, len, 0);
    assert_int_equal(n, len);
    if (kind == FLIP)
        now[pos] ^= 0x20;
    if (from < len)
        assert_memory_equal(now + from, was + from, len - from);
    free(now);
    close(fd);
}

/* n_sound batches of segment g are there after it was harmed. */
static void
one_case(const struct seg *g, enum kind kind, uint64_t pos, size_t n_sound,
         unsigned way)
{
    bool last = g == &segs[n_segs - 1];
    /* What a cut of the newest one may have taken only its source knows. */
    bool whole = n_sound == g->n && !(last && kind == CUT);
    uint64_t from = whole ? UINT64_MAX : seq_before(g, n_sound);
    uint64_t until = whole ? UINT64_MAX : sync_behind(seq_before(g, g->n));
    struct journal_tail tail;
    struct mark m;
    size_t n;

    put_back();
    mark_take(&m);
    harm(g, kind, pos);
    t.settled = (enum err_code)0;
    assert_int_equal(jopen(), 0);
    n = check_offered(from, until);
    journal_tail(t.j, &tail);
    assert_int_equal(degraded(), !whole && until == UINT64_MAX);
    if (whole || until != UINT64_MAX) {
        /* Nothing to mend: it takes the next batch. */
        assert_false(tail.sync_wanted);
        resume();
        (void)gen_make(&t.g, 2, GEN_CUT, "on");
        send_batch(t.g.n_batches - 1);
        wait_durable(t.g.batch_no);
        assert_int_equal(journal_points_count(t.j), n + 1);
        check_cut(t.g.cuts[t.g.n_cuts - 1].cut_no);
    } else {
        assert_int_equal(t.alert.code, ERR_JNL_0020);
        assert_int_equal(tail.sync_wanted, !last);
        assert_true(tail.lost);
        if (last)
            assert_int_equal(tail.durable_seq, from);
        /* It stays like that, and the file may be put back. */
        jclose();
        check_untouched(g, kind, pos, 0);
        assert_int_equal(jopen(), 0);
        assert_int_equal(check_offered(from, until), n);
        journal_tail(t.j, &tail);
        t.durable = t.g.durable = tail.durable_batch;
        if (last && way == 0) {
            resume(); /* the source has it still */
            (void)check_offered(UINT64_MAX, UINT64_MAX);
            assert_int_equal(t.settled, ERR_JNL_0020);
            check_untouched(g, kind, pos,
                            n_sound
                                ? round_up(batch_end(g, n_sound - 1), SEG_ALIGN)
                                : SEG_HEADER_SIZE);
        } else {
            if (last || way == 1) {
                gen_new_incarnation(&t.g);
                begin();
            }
            sync_all(from);
        }
    }
    jclose();
    mark_back(&m);
}

/* How many batches a file of this length holds. */
static size_t
sound_of_cut(const struct seg *g, uint64_t len)
{
    size_t n = 0;

    while (n < g->n && batch_end(g, n) <= len)
        n++;
    return n;
}

static void
cut_and_remove(unsigned batches, unsigned sync_at)
{
    unsigned way = 0;

    history(31 + sync_at, batches, sync_at);
    assert_true(n_segs >= 5);
    for (size_t i = 0; i < n_segs; i++) {
        const struct seg *g = &segs[i];
        uint64_t mid = g->off[g->n / 2];
        uint64_t at[PLACES] = { 0,
                                100,
                                SEG_HEADER_SIZE,
                                SEG_HEADER_SIZE + 40,
                                mid,
                                mid + 4096,
                                batch_end(g, g->n / 2) - 1,
                                batch_end(g, g->n / 2),
                                batch_end(g, g->n - 1) - 1,
                                batch_end(g, g->n - 1),
                                g->m.sealed ? g->m.end : 0,
                                g->m.sealed ? g->m.end + 10 : 0 };

        one_case(g, REMOVE, 0, 0, way++ % 3);
        for (unsigned k = 0; k < PLACES; k++)
            if (k == 0 || at[k])
                one_case(g, CUT, at[k], sound_of_cut(g, at[k]), way++ % 3);
    }
    forget_dir();
    teardown_dir();
}

static void
cut_anywhere(void **state)
{
    cut_and_remove(24, SYNC_NEVER);
}

static void
cut_before_a_sync(void **state)
{
    cut_and_remove(24, 13);
}

/* A batch of the newest segment is not what it was: in its head, its tables,
 * its body. */
static void
flipped_tail(void **state)
{
    const struct seg *g;
    unsigned way = 0;

    seg_bytes = 4 * MIB;
    history(77, 14, SYNC_NEVER);
    seg_bytes = 64 * KIB;
    g = &segs[n_segs - 1];
    assert_true(g->n >= 3);
    one_case(g, FLIP, 20, g->n, 0); /* its header: the manifest knows it */
    for (size_t i = 0; i < g->n; i++) {
        one_case(g, FLIP, g->off[i] + 8, i, way++ % 2);
        one_case(g, FLIP, g->off[i] + 140, i, way++ % 2);
        if (i + 1 == g->n)
            one_case(g, FLIP, batch_end(g, i) - 1, i, way++ % 2);
    }
    forget_dir();
    teardown_dir();
}

/* Runs are made again from their segments. */
static void
lost_runs(void **state)
{
    unsigned runs = 0;

    history(78, 40, SYNC_NEVER);
    for (size_t i = 0; i < kept.n; i++) {
        char path[512];

        if (strncmp(kept.f[i].name, "run.", 4) != 0)
            continue;
        runs++;
        put_back();
        path_of(kept.f[i].name, path);
        if (runs % 2)
            assert_int_equal(unlink(path), 0);
        else
            assert_int_equal(truncate(path, 5000), 0);
        assert_int_equal(jopen(), 0);
        assert_false(degraded());
        (void)check_offered(UINT64_MAX, UINT64_MAX);
        for (unsigned k = 0; k < 400 && access(path, F_OK) != 0; k++)
            turns(1);
        assert_int_equal(access(path, F_OK), 0);
        jclose();
    }
    assert_true(runs > 2);
    forget_dir();
    teardown_dir();
}

/* A view of before the restart whose moment is not offered any more is broken,
 * one of before the damage goes on. */
static void
views_and_retention(void **state)
{
    struct journal_view *v[4];
    struct journal_stats st;
    struct err why = ERR_INIT;
    uint64_t cut, floor;

    history(79, 40, SYNC_NEVER);
    forget_dir();
    assert_int_equal(jopen(), 0);
    cut = t.g.cuts[2].cut_no;
    open_view(cut, 0xA1);
    assert_int_equal(t.res, 0);
    open_view(t.g.cuts[t.g.n_cuts - 1].cut_no, 0xA2);
    assert_int_equal(t.res, 0);
    jclose();
    harm(&segs[3], REMOVE, 0);
    assert_int_equal(jopen(), 0);
    assert_true(degraded());
    assert_int_equal(journal_views(t.j, v, 4), 2);
    for (unsigned i = 0; i < 2; i++) {
        bool old = journal_view_config(v[i])->id.u.b[0] == 0xA1;

        assert_int_equal(journal_view_broken(v[i], &why), !old);
        if (old)
            compare_view(v[i], gen_find(&t.g, cut));
        else
            assert_non_null(strstr(why.msg, "behind damage"));
    }
    /* All is old and too much, and still nothing leaves. */
    journal_stats(t.j, &st);
    floor = st.floor_cut;
    journal_set_limits(t.j, 1, 64 * KIB, 0);
    turns(300);
    journal_stats(t.j, &st);
    assert_int_equal(st.floor_cut, floor);
    assert_int_equal(st.promoted_seq, 0);
    check_cut(cut);
    teardown_dir();
}

/* After the sync promotion passes the hole, and what it leaves is exact. */
static void
promoted_over_it(void **state)
{
    struct journal_stats st;
    uint64_t newest;

    history(80, 40, 22);
    forget_dir();
    harm(&segs[1], REMOVE, 0);
    harm(&segs[2], CUT, segs[2].off[1] + 100);
    assert_int_equal(jopen(), 0);
    assert_false(degraded());
    assert_int_equal(t.alert.code, ERR_JNL_0020);
    newest = t.g.cuts[t.g.n_cuts - 1].cut_no;
    journal_set_limits(t.j, 1, 0, 0);
    for (unsigned i = 0; i < 400; i++) {
        turns(1);
        journal_recycle(t.j); /* as each segment that is sealed does */
        journal_stats(t.j, &st);
        if (st.promoted_seq >= segs[n_segs - 2].m.last_seq && st.segments == 1)
            break;
    }
    assert_true(st.promoted_seq >= segs[n_segs - 2].m.last_seq);
    assert_int_equal(st.segments, 1);
    check_cut(newest);
    resume();
    send_batch(gen_make(&t.g, 3, GEN_CUT, "after"));
    wait_durable(t.g.batch_no);
    check_cut(t.g.cuts[t.g.n_cuts - 1].cut_no);
    teardown_dir();
}

/* test_journal_degraded [TEST]: only this one. */
int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cut_anywhere),
        cmocka_unit_test(cut_before_a_sync),
        cmocka_unit_test(flipped_tail),
        cmocka_unit_test(lost_runs),
        cmocka_unit_test(views_and_retention),
        cmocka_unit_test(promoted_over_it),
    };

    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests_name("journal degraded", tests, NULL, NULL);
}
