/* room: journal lane io common */
/* The scrub: a sound journal has nothing bad, running or not; a byte changed in
 * any kind of file is found and named, and nothing is modified. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "io/file.h"
#include "journal/journal.h"
#include "tests/unit/helper_io.h"
#include "tests/unit/helper_journal.h"

enum {
    WAIT_MS = 20000
};

static struct {
    struct io_loop *loop;
    char *dir;
    struct gen g;
    struct journal *j;
    struct journal_config cfg;
    struct journal_scrub_result r;
    unsigned scrub_alerts;
    uint64_t durable;
    bool flag;
    int res;
} t;

static void
on_durable(void *arg, uint64_t no)
{
    t.durable = t.g.durable = no;
}

static void
on_credit(void *arg)
{
}

static void
on_alert(void *arg, const struct err *err)
{
    t.scrub_alerts += err->code == ERR_JNL_0061;
}

static void
on_opened(void *arg, struct journal *j, int res, const struct err *err)
{
    t.j = j;
    t.res = res;
    t.flag = true;
}

static void
on_void(void *arg)
{
    t.flag = true;
}

static void
on_res(void *arg, int res)
{
    t.res = res;
    t.flag = true;
}

static void
on_scrubbed(void *arg, int res, const struct journal_scrub_result *r)
{
    t.r = *r;
    on_res(arg, res);
}

static void
wait_flag(void)
{
    assert_true(helper_turn_until(t.loop, &t.flag, WAIT_MS));
    t.flag = false;
}

static void
open_journal(void)
{
    static const struct journal_events ev = { .durable = on_durable,
                                              .credit = on_credit,
                                              .alert = on_alert,
                                              .arg = NULL };

    journal_open(&t.cfg, &ev, on_opened, NULL);
    wait_flag();
    assert_int_equal(t.res, 0);
}

static void
close_journal(void)
{
    journal_close(t.j, on_void, NULL);
    wait_flag();
    t.j = NULL;
}

static void
until_runs(uint64_t n)
{
    struct journal_stats st = { .runs = 0 };

    for (unsigned i = 0; i < 20000 && st.runs < n; i++) {
        io_loop_turn(t.loop, NSEC_PER_MSEC);
        journal_stats(t.j, &st);
    }
    assert_true(st.runs >= n);
}

static int
set_up(void **state)
{
    memset(&t, 0, sizeof t);
    t.loop = helper_loop(IO_BACKEND_EPOLL, 2);
    t.dir = helper_tmpdir("/dev/shm");
    gen_init(&t.g, 5);
    t.cfg = (struct journal_config){
        .loop = t.loop,
        .dir = t.dir,
        .vpg = t.g.vpg,
        .lane = 1,
        .volumes = { { 0, GEN_VOL_SIZE }, { 1, GEN_VOL_SIZE } },
        .n_volumes = 2,
        .history_ns = 3600 * NSEC_PER_SEC,
        .disk_reserve_bytes = MIB,
        .segment_min = 128 * KIB,
        .segment_max = 256 * KIB,
        .merge_fan = 3,
    };
    open_journal();
    journal_begin_incarnation(t.j, &t.g.inc, on_res, NULL);
    wait_flag();
    for (unsigned i = 0; i < 120; i++) {
        size_t at = gen_make(&t.g, 12, i % 5 == 0 ? GEN_CUT : 0, NULL), mem;
        void *p = gen_copy(&t.g.batches[at], &mem);

        if (journal_append(t.j, p, t.g.batches[at].size, mem, NULL) != 0)
            return -1;
        while (t.durable < t.g.batches[at].no)
            io_loop_turn(t.loop, NSEC_PER_MSEC);
    }
    until_runs(4);
    return 0;
}

static int
tear_down(void **state)
{
    if (t.j)
        close_journal();
    helper_rmdir(t.dir);
    gen_release(&t.g);
    io_loop_free(t.loop);
    return 0;
}

static void
sound(void **state)
{
    struct journal_scrub_result r;
    struct err err = ERR_INIT;

    assert_false(journal_scrub_progress(t.j, &r));
    journal_scrub(t.j, on_scrubbed, NULL);
    assert_true(journal_scrub_progress(t.j, &r));
    assert_int_equal(r.percent, 0);
    while (!t.flag) { /* it rises, and one at a time */
        unsigned before = r.percent;

        io_loop_turn(t.loop, NSEC_PER_MSEC);
        if (journal_scrub_progress(t.j, &r) && r.segments == 2 &&
            t.res != -EBUSY) {
            journal_scrub(t.j, on_scrubbed, NULL);
            assert_int_equal(t.res, -EBUSY);
            t.flag = false;
        }
        assert_true(r.percent >= before && r.percent < 100);
    }
    assert_int_equal(t.res, 0);
    assert_int_equal(t.r.percent, 100);
    assert_int_equal(t.r.replicas, 2);
    wait_flag();
    if (t.r.bad > 0)
        fail_msg("%s", t.r.first_bad);
    assert_true(t.r.segments >= 3 && t.r.runs >= 4 && t.r.batches > 50 &&
                t.r.chunks > 50 && t.r.bytes > 100000);
    assert_int_equal(t.scrub_alerts, 0);
    close_journal();
    assert_int_equal(journal_scrub_dir(t.loop, t.dir, &r, &err), 0);
    if (r.bad > 0)
        fail_msg("%s", r.first_bad);
    assert_true(r.segments > t.r.segments); /* the open one too */
    assert_int_equal(journal_scrub_dir(t.loop, "/nonexistent", &r, &err),
                     -ENOENT);
    open_journal();
}

static void
file_path(const char *name, char out[512])
{
    (void)snprintf(out, 512, "%s/%s", t.dir, name);
}

/* Change a byte, scrub, and put it back: how many bad were found. */
static uint64_t
scrub_with(const char *name, uint64_t at, uint8_t *file, size_t len)
{
    struct journal_scrub_result r;
    char path[512];
    uint8_t *now;
    size_t now_len;

    file_path(name, path);
    file[at] ^= 0x20;
    assert_int_equal(io_replace_whole(t.loop, path, file, len, NULL), 0);
    assert_int_equal(journal_scrub_dir(t.loop, t.dir, &r, NULL), 0);
    assert_int_equal(io_read_whole(t.loop, path, 1 << 24, &now, &now_len, NULL),
                     0);
    assert_true(now_len == len && memcmp(now, file, len) == 0);
    free(now);
    file[at] ^= 0x20;
    assert_int_equal(io_replace_whole(t.loop, path, file, len, NULL), 0);
    if (r.bad > 0 && !strstr(r.first_bad, name))
        fail_msg("%s is damaged, found: %s", name, r.first_bad);
    return r.bad;
}

static void
damage_is_found(void **state)
{
    static const struct {
        const char *prefix;
        uint64_t first; /* where damage must be found, and on how far */
        uint64_t span;
    } kinds[] = {
        { "manifest", 0, 300 },    { "run.", 0, 70 },
        { "run.", 4096, 24 * 20 }, { "seg.", 0, 60 },
        { "seg.", 4096, 6000 },
    };
    char **names, path[512];
    size_t n, len;
    uint8_t *file;

    close_journal();
    assert_int_equal(io_list_dir(t.loop, t.dir, 1000, &names, &n, NULL), 0);
    for (size_t k = 0; k < ARRAY_SIZE(kinds); k++) {
        const char *name = NULL;

        for (size_t i = 0; i < n && !name; i++)
            if (strncmp(names[i], kinds[k].prefix, strlen(kinds[k].prefix)) == 0)
                name = names[i];
        assert_non_null(name);
        file_path(name, path);
        assert_int_equal(io_read_whole(t.loop, path, 1 << 24, &file, &len, NULL),
                         0);
        for (uint64_t at = kinds[k].first; at < kinds[k].first + kinds[k].span;
             at += 1 + kinds[k].span / 40)
            if (scrub_with(name, at, file, len) == 0)
                fail_msg("%s: a change at %llu is not found", name,
                         (unsigned long long)at);
        free(file);
    }
    io_list_free(names, n);
    open_journal();
}

/* A replica cannot be verified, but it is missed, and one that is too short is
 * read as far as it goes. */
static void
replica_is_read(void **state)
{
    struct journal_scrub_result r;
    char path[512], away[512];

    close_journal();
    file_path("replica.001", path);
    file_path("away", away);
    assert_int_equal(io_rename(t.loop, path, away, NULL), 0);
    assert_int_equal(journal_scrub_dir(t.loop, t.dir, &r, NULL), 0);
    assert_int_equal(r.bad, 1);
    assert_non_null(strstr(r.first_bad, "replica.001"));
    assert_int_equal(io_rename(t.loop, away, path, NULL), 0);
    assert_int_equal(journal_scrub_dir(t.loop, t.dir, &r, NULL), 0);
    assert_int_equal(r.bad, 0);
    open_journal();
}

/* In a running journal: the alert names what is bad. */
static void
damage_while_running(void **state)
{
    char **names, path[512];
    size_t n, len;
    uint8_t *file;

    assert_int_equal(io_list_dir(t.loop, t.dir, 1000, &names, &n, NULL), 0);
    for (size_t i = 0; i < n; i++) {
        if (strncmp(names[i], "run.", 4) != 0)
            continue;
        file_path(names[i], path);
        assert_int_equal(io_read_whole(t.loop, path, 1 << 24, &file, &len, NULL),
                         0);
        file[4096 + 8] ^= 1;
        assert_int_equal(io_replace_whole(t.loop, path, file, len, NULL), 0);
        free(file);
        break;
    }
    io_list_free(names, n);
    journal_scrub(t.j, on_scrubbed, NULL);
    wait_flag();
    assert_int_equal(t.res, 0);
    assert_int_equal(t.r.bad, 1);
    assert_int_equal(t.scrub_alerts, 1);
    assert_non_null(strstr(t.r.first_bad, path));
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sound),
        cmocka_unit_test(damage_is_found),
        cmocka_unit_test(replica_is_read),
        cmocka_unit_test(damage_while_running),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
