/* room: tui common */
/* Times, points, options and site definitions. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/files.h"
#include "tui/cli/app.h"
#include "tui/client/known.h"
#include "tui/client/when.h"

#define NOW INT64_C(1773492060000) /* 2026-03-14T12:41:00Z */

static void
times(void **state)
{
    static const struct {
        const char *text, *iso;
    } t[] = {
        { "11:30", "2026-03-14T11:30:00.000Z" },
        { "11:30:05", "2026-03-14T11:30:05.000Z" },
        { "12:41", "2026-03-14T12:41:00.000Z" },
        { "12:42", "2026-03-13T12:42:00.000Z" }, /* not yet: yesterday */
        { "23:59", "2026-03-13T23:59:00.000Z" },
        { "03-14 11:30", "2026-03-14T11:30:00.000Z" },
        { "03-15 11:30", "2025-03-15T11:30:00.000Z" }, /* last year's */
        { "02-29 10:00", "2024-02-29T10:00:00.000Z" },
        { "03-13", "2026-03-13T00:00:00.000Z" },
        { "2026-03-14", "2026-03-14T00:00:00.000Z" },
        { "2026-03-14 11:30", "2026-03-14T11:30:00.000Z" },
        { "2026-03-14T11:30:05Z", "2026-03-14T11:30:05.000Z" },
        { "2026-03-14T11:30:05.25Z", "2026-03-14T11:30:05.250Z" },
        { "2026-03-14T11:30:05.123456789Z", "2026-03-14T11:30:05.123Z" },
        { "2026-03-14T13:30:05+02:00", "2026-03-14T11:30:05.000Z" },
        { "2026-03-14T06:00:05-0530", "2026-03-14T11:30:05.000Z" },
        { "2027-01-01", "2027-01-01T00:00:00.000Z" },
        { "now", "2026-03-14T12:41:00.000Z" },
        { "-90s", "2026-03-14T12:39:30.000Z" },
        { "-2h", "2026-03-14T10:41:00.000Z" },
    };
    static const char *const bad[] = {
        "",
        "11",
        "24:00",
        "11:60",
        "1:30",
        "13-01 10:00",
        "02-30 10:00",
        "2026-02-29",
        "11:30x",
        "2026-3-14",
        "2026-03-14T11",
        "2026-03-14T11:30:05+99:00",
        "-5",
        "latest",
        "11:30:",
        "1969-12-31",
        "2026-03-14T",
    };
    struct err e = ERR_INIT;
    char iso[WHEN_SIZE];
    int64_t ms;

    for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
        if (when_parse(t[i].text, NOW, &ms, &e) < 0)
            fail_msg("%s: %s", t[i].text, e.msg);
        if (strcmp(when_iso(ms, iso), t[i].iso) != 0)
            fail_msg("%s: %s instead of %s", t[i].text, iso, t[i].iso);
    }
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        if (when_parse(bad[i], NOW, &ms, &e) != -EINVAL)
            fail_msg("\"%s\" was taken", bad[i]);
        assert_string_equal(err_code_text(e.code), "CLI-0009");
    }
}

/* A second that is written, as listings show it, is all of it. */
static void
whole_seconds(void **state)
{
    static const struct {
        const char *text, *first, *last;
    } t[] = {
        { "02:25:26", "2026-03-14T02:25:26.000Z", "2026-03-14T02:25:26.999Z" },
        { "2026-03-14T02:25:26Z", "2026-03-14T02:25:26.000Z",
          "2026-03-14T02:25:26.999Z" },
        { "02:25:26.841", "2026-03-14T02:25:26.841Z",
          "2026-03-14T02:25:26.841Z" },
        { "02:25:26.0", "2026-03-14T02:25:26.000Z", "2026-03-14T02:25:26.000Z" },
        { "02:25", "2026-03-14T02:25:00.000Z", "2026-03-14T02:25:00.999Z" },
        { "2026-03-14", "2026-03-14T00:00:00.000Z", "2026-03-14T00:00:00.999Z" },
        { "now", "2026-03-14T12:41:00.000Z", "2026-03-14T12:41:00.000Z" },
        { "-90s", "2026-03-14T12:39:30.000Z", "2026-03-14T12:39:30.000Z" },
    };
    struct err e = ERR_INIT;
    char iso[WHEN_SIZE];
    struct point_spec s;
    int64_t first, last;

    for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
        assert_int_equal(when_parse_span(t[i].text, NOW, &first, &last, &e), 0);
        assert_string_equal(when_iso(first, iso), t[i].first);
        assert_string_equal(when_iso(last, iso), t[i].last);
        assert_int_equal(point_parse(t[i].text, NOW, &s, &e), 0);
        assert_int_equal(s.kind, POINT_TIME);
        assert_string_equal(when_iso(s.ms, iso), t[i].first); /* not after it */
    }
}

static void
points(void **state)
{
    static const struct {
        const char *text;
        enum point_kind kind;
        const char *rest;
    } t[] = {
        { "latest", POINT_LATEST, "latest" },
        { "LATEST", POINT_LATEST, "LATEST" },
        { "oldest", POINT_OLDEST, "oldest" },
        { "4310", POINT_NUMBER, "4310" },
        { "11:30", POINT_TIME, "11:30" },
        { "03-14 11:30", POINT_TIME, "03-14 11:30" },
        { "2026-03-14T11:30:00Z", POINT_TIME, "2026-03-14T11:30:00Z" },
        { "before patch", POINT_NAME, "before patch" },
        { "\"before patch\"", POINT_NAME, "before patch" },
        { "\"4310\"", POINT_NAME, "4310" },
        { "'latest'", POINT_NAME, "latest" },
        { "'11:30'", POINT_NAME, "11:30" },
        { "123456789012345678901", POINT_NAME, "123456789012345678901" },
    };
    char longer[400];
    struct err e = ERR_INIT;
    struct point_spec s;

    for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
        assert_int_equal(point_parse(t[i].text, NOW, &s, &e), 0);
        if (s.kind != t[i].kind || strcmp(s.text, t[i].rest) != 0)
            fail_msg("%s: kind %d, \"%s\"", t[i].text, (int)s.kind, s.text);
    }
    assert_int_equal(point_parse("", NOW, &s, &e), -EINVAL);
    assert_int_equal(point_parse("\"\"", NOW, &s, &e), -EINVAL);
    memset(longer, 'x', sizeof longer);
    longer[sizeof longer - 1] = '\0';
    assert_int_equal(point_parse(longer, NOW, &s, &e), -EINVAL);
}

static int
parse(struct options *o, struct err *e, const char *a, const char *b,
      const char *c, const char *d)
{
    const char *argv[] = { "holdfast", a, b, c, d };
    char *copy[5];
    int argc = 1;

    while (argc < 5 && argv[argc])
        argc++;
    for (int i = 0; i < argc; i++)
        copy[i] = strdup(argv[i]);
    int rc = options_parse(argc, copy, o, e);
    /* the words stay borrowed; the tests below look at them at once */
    static char *kept[5];
    for (int i = 0; i < 5; i++) {
        free(kept[i]);
        kept[i] = i < argc ? copy[i] : NULL;
    }
    return rc;
}

static void
option_reader(void **state)
{
    struct err e = ERR_INIT;
    struct options o;

    assert_int_equal(parse(&o, &e, "vpgs", "--sort", "-rpo", "--wide"), 0);
    assert_string_equal(o.sort, "-rpo");
    assert_true(o.wide);
    assert_int_equal(o.n_words, 1);
    assert_int_equal(parse(&o, &e, "--output=json", "vpg", "--", "--odd"), 0);
    assert_int_equal(o.out, OUT_JSON);
    assert_string_equal(o.words[1], "--odd");
    assert_int_equal(parse(&o, &e, "test", "v", "--timeout", "30s"), 0);
    assert_int_equal(o.timeout_ms, 30000);
    assert_int_equal(options_check(&o, "vpgs", G_LIST, &e), -EINVAL);
    assert_int_equal(options_check(&o, "test", G_ACT, &e), 0);
    assert_int_equal(parse(&o, &e, "--nosuch", NULL, NULL, NULL), -EINVAL);
    assert_string_equal(err_code_text(e.code), "CLI-0014");
    assert_int_equal(parse(&o, &e, "--sort", NULL, NULL, NULL), -EINVAL);
    assert_int_equal(parse(&o, &e, "--wide=1", NULL, NULL, NULL), -EINVAL);
    assert_int_equal(parse(&o, &e, "-x", NULL, NULL, NULL), -EINVAL);
    assert_int_equal(parse(&o, &e, "--output", "xml", NULL, NULL), -EINVAL);
    assert_int_equal(parse(&o, &e, "--limit", "-3", NULL, NULL), -EINVAL);
    assert_int_equal(parse(&o, &e, "--wait", "--no-wait", NULL, NULL), -EINVAL);
}

static void
exits(void **state)
{
    static const struct {
        enum err_code code;
        enum cli_exit exit;
    } t[] = {
        { ERR_CLI_0007, EXIT_FAILED },
        { ERR_CLI_0014, EXIT_USAGE },
        { ERR_GEN_0007, EXIT_NO_CONTACT },
        { ERR_TLS_0004, EXIT_NO_CONTACT },
        { ERR_CLI_0012, EXIT_STALE },
        { ERR_CLI_0019, EXIT_NO_PRIVILEGE },
        { ERR_CLI_0013, EXIT_NOT_CONFIRMED },
        { ERR_CFG_0002, EXIT_USAGE },
        { ERR_GEN_0006, EXIT_FAILED },
        { ERR_CLI_0020, EXIT_NO_CONTACT },
        { ERR_CLI_0006, EXIT_FAILED },
    };

    for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
        struct err e = ERR_INIT;

        err_set(&e, -EINVAL, t[i].code, "x");
        assert_int_equal(app_exit_of(&e), t[i].exit);
    }
}

static void
put(const char *path, mode_t mode, const char *text)
{
    FILE *f = fopen(path, "w");

    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
    assert_int_equal(chmod(path, mode), 0);
}

static void
site_files(void **state)
{
    static const struct {
        const char *text, *code;
    } bad[] = {
        { "sites = ( { name = \"a\"; } );", "CFG-0005" },
        { "sites = ( { name = \"a\"; url = \"http://x:1\"; } );", "CFG-0003" },
        { "sites = ( { name = \"a\"; url = \"https://x:1/v1\"; } );",
          "CFG-0003" },
        { "sites = ( { name = \"a\"; url = \"https://x:1\"; odd = 1; } );",
          "CFG-0002" },
        { "sites = ( { name = \"a\"; url = \"https://x:1\"; fingerprint = \"12\"; } );",
          "CFG-0003" },
    };
    char dir[] = "/tmp/hf-sites-XXXXXX", a[64], b[64];
    const char *files[2] = { a, b };
    struct err e = ERR_INIT;
    struct sites s;

    assert_non_null(mkdtemp(dir));
    (void)snprintf(a, sizeof a, "%s/a.conf", dir);
    (void)snprintf(b, sizeof b, "%s/b.conf", dir);
    put(a, 0644,
        "sites = ( { name = \"london\"; url = \"https://127.0.0.1:1\"; },\n"
        "          { name = \"paris\"; url = \"https://[::1]:2\"; } );\n");
    put(b, 0644,
        "sites = ( { name = \"london\"; url = \"https://127.0.0.1:9\"; user = \"x\"; } );");
    assert_int_equal(sites_load(&s, files, 2, &e), 0);
    assert_int_equal(s.n, 2);
    assert_string_equal(sites_find(&s, NULL, &e)->url, "https://127.0.0.1:9");
    assert_string_equal(sites_find(&s, "paris", &e)->user, "admin");
    assert_null(sites_find(&s, "rome", &e));
    assert_string_equal(err_code_text(e.code), "CLI-0002");
    sites_release(&s);
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        put(a, 0644, bad[i].text);
        if (sites_load(&s, files, 1, &e) == 0)
            fail_msg("%s was taken", bad[i].text);
        assert_string_equal(err_code_text(e.code), bad[i].code);
        sites_release(&s);
    }
    s = (struct sites){ .n = 0 };
    assert_null(sites_find(&s, NULL, &e));
    assert_string_equal(err_code_text(e.code), "CLI-0001");
    (void)unlink(a);
    (void)unlink(b);
    (void)rmdir(dir);
}

static void
known_sites(void **state)
{
    char dir[] = "/tmp/hf-known-XXXXXX", path[64];
    uint8_t one[32], two[32], got[32];
    struct err e = ERR_INIT;

    assert_non_null(mkdtemp(dir));
    (void)snprintf(path, sizeof path, "%s/deeper/known_sites", dir);
    memset(one, 1, sizeof one);
    memset(two, 2, sizeof two);
    assert_int_equal(known_find(path, "https://a:1", got, &e), 0);
    assert_int_equal(known_add(path, "https://a:1", one, &e), 0);
    assert_int_equal(known_add(path, "https://b:1", two, &e), 0);
    assert_int_equal(known_find(path, "https://b:1", got, &e), 1);
    assert_memory_equal(got, two, sizeof got);
    assert_int_equal(known_find(path, "https://a:1", got, &e), 1);
    assert_memory_equal(got, one, sizeof got);
    assert_int_equal(known_find(path, "https://a:11", got, &e), 0);
    assert_int_equal(chmod(path, 0644), 0);
    assert_int_equal(known_find(path, "https://a:1", got, &e), -EPERM);
    put(path, 0600, "https://a:1 nonsense\n");
    assert_int_equal(known_find(path, "https://a:1", got, &e), -EBADMSG);
    assert_string_equal(err_code_text(e.code), "CLI-0004");
    (void)unlink(path);
    *strrchr(path, '/') = '\0';
    (void)rmdir(path);
    (void)rmdir(dir);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(times),       cmocka_unit_test(whole_seconds),
        cmocka_unit_test(points),      cmocka_unit_test(option_reader),
        cmocka_unit_test(exits),       cmocka_unit_test(site_files),
        cmocka_unit_test(known_sites),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
