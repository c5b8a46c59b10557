/* room: common */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/log.h"
#include "common/text.h"

static char dir[] = "/tmp/holdfast-log-XXXXXX";
static char path[64];

static int
setup(void **state)
{
    (void)state;
    if (!mkdtemp(dir))
        return -1;
    (void)snprintf(path, sizeof path, "%s/log", dir);
    return 0;
}

static int
teardown(void **state)
{
    char old[80];

    (void)state;
    (void)snprintf(old, sizeof old, "%s.1", path);
    (void)unlink(path);
    (void)unlink(old);
    return rmdir(dir);
}

static char *
slurp(const char *name)
{
    static char text[400000];
    FILE *f = fopen(name, "r");
    size_t n;

    assert_non_null(f);
    n = fread(text, 1, sizeof text - 1, f);
    text[n] = '\0';
    (void)fclose(f);
    return text;
}

static void
one_line_a_record(void **state)
{
    struct err e = ERR_INIT;
    const char *t;
    unsigned y, mo, d, h, mi, s, ms;
    int used = 0;

    (void)state;
    assert_int_equal(log_open(path, NULL), 0);
    log_set_level(LOG_INFO);
    log_line(LOG_INFO, "journal", "vpg=1 lane=2", "segment %d sealed", 12);
    log_line(LOG_DEBUG, "journal", "", "not seen");
    log_line(LOG_WARN, "nbd", "", "evil %s", "a\n2026 error x\x1b]0;t\a\xff");
    err_set(&e, -EIO, ERR_GEN_0003, "file x: no");
    log_err(LOG_ERROR, "io", "", "reading", &e);
    log_close();
    t = slurp(path);
    assert_int_equal(sscanf(t, "%4u-%2u-%2uT%2u:%2u:%2u.%3uZ%n", &y, &mo, &d,
                            &h, &mi, &s, &ms, &used),
                     7);
    assert_int_equal(used, 24);
    assert_memory_equal(t + 24,
                        " info journal vpg=1 lane=2 segment 12 sealed\n", 45);
    assert_non_null(strstr(t, " warn nbd evil a 2026 error x?]0;t??\n"));
    assert_non_null(strstr(t, " error io reading: file x: no (GEN-0003; next: "));
    assert_null(strstr(t, "not seen"));
    assert_true(text_utf8_ok(t, strlen(t)));
    (void)unlink(path);
}

static void
long_lines_are_cut(void **state)
{
    char text[5000];
    const char *t;

    (void)state;
    memset(text, 'x', sizeof text);
    text[sizeof text - 1] = '\0';
    assert_int_equal(log_open(path, NULL), 0);
    log_line(LOG_INFO, "nbd", "", "%s", text);
    log_line(LOG_INFO, "nbd", text, "%s", text);
    log_close();
    t = slurp(path);
    assert_true(strlen(t) <= 2 * 2048);
    assert_int_equal(t[strlen(t) - 1], '\n');
    (void)unlink(path);
}

static void
reopens(void **state)
{
    char old[80];

    (void)state;
    (void)snprintf(old, sizeof old, "%s.1", path);
    assert_int_equal(log_open(path, NULL), 0);
    log_line(LOG_INFO, "main", "", "first");
    assert_int_equal(rename(path, old), 0);
    log_line(LOG_INFO, "main", "", "second");
    log_reopen();
    log_line(LOG_INFO, "main", "", "third");
    log_close();
    assert_non_null(strstr(slurp(old), "second"));
    assert_null(strstr(slurp(old), "third"));
    assert_non_null(strstr(slurp(path), "third"));
    (void)unlink(path);
}

static void *
chatter(void *arg)
{
    for (int i = 0; i < 500; i++)
        log_line(LOG_INFO, "main", "", "thread %d line %d end", *(int *)arg, i);
    return NULL;
}

static void
threads_do_not_mix(void **state)
{
    pthread_t t[4];
    int n[4], lines = 0;
    char *save = NULL, *line;

    (void)state;
    assert_int_equal(log_open(path, NULL), 0);
    for (int i = 0; i < 4; i++) {
        n[i] = i;
        assert_int_equal(pthread_create(&t[i], NULL, chatter, &n[i]), 0);
    }
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_join(t[i], NULL), 0);
    log_close();
    for (line = strtok_r(slurp(path), "\n", &save); line;
         line = strtok_r(NULL, "\n", &save)) {
        int th, nr;

        assert_int_equal(sscanf(line + 24, " info main thread %d line %d", &th,
                                &nr),
                         2);
        assert_string_equal(line + strlen(line) - 4, " end");
        lines++;
    }
    assert_int_equal(lines, 2000);
    (void)unlink(path);
}

static void
journal_prefix(void **state)
{
    char value[64];
    struct stat st;
    FILE *f = fopen(path, "w");
    int saved = dup(STDERR_FILENO);

    (void)state;
    assert_non_null(f);
    assert_true(saved >= 0);
    assert_true(dup2(fileno(f), STDERR_FILENO) >= 0);
    assert_int_equal(fstat(STDERR_FILENO, &st), 0);
    (void)snprintf(value, sizeof value, "%llu:%llu",
                   (unsigned long long)st.st_dev, (unsigned long long)st.st_ino);
    assert_int_equal(setenv("JOURNAL_STREAM", value, 1), 0);
    assert_int_equal(log_open(NULL, NULL), 0);
    log_line(LOG_WARN, "main", "", "with");
    assert_int_equal(setenv("JOURNAL_STREAM", "1:2", 1), 0);
    assert_int_equal(log_open(NULL, NULL), 0);
    log_line(LOG_WARN, "main", "", "without");
    log_close();
    (void)unsetenv("JOURNAL_STREAM");
    assert_true(dup2(saved, STDERR_FILENO) >= 0);
    (void)close(saved);
    (void)fclose(f);
    assert_memory_equal(slurp(path), "<4>2", 4);
    assert_non_null(strstr(slurp(path), "with\n2"));
    (void)unlink(path);
}

static void
refuses_bad_path_and_level(void **state)
{
    struct err e = ERR_INIT;
    enum log_level level = LOG_WARN;

    (void)state;
    assert_int_equal(log_open("/nonexistent/x/log", &e), -ENOENT);
    assert_int_equal(e.code, ERR_GEN_0003);
    assert_non_null(strstr(e.msg, "/nonexistent/x/log"));
    assert_int_equal(log_level_parse("loud", &level), -EINVAL);
    assert_int_equal(level, LOG_WARN);
    assert_int_equal(log_level_parse("debug", &level), 0);
    assert_int_equal(level, LOG_DEBUG);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_line_a_record),
        cmocka_unit_test(long_lines_are_cut),
        cmocka_unit_test(reopens),
        cmocka_unit_test(threads_do_not_mix),
        cmocka_unit_test(journal_prefix),
        cmocka_unit_test(refuses_bad_path_and_level),
    };

    return cmocka_run_group_tests_name("log", tests, setup, teardown);
}
