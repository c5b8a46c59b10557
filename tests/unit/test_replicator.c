/* Parts of the replicator role that need no other process. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/buf.h"
#include "common/json.h"
#include "replicator/replicator.h"
#include "replicator/source.h"
#include "replicator/target.h"

/* --- times -------------------------------------------------------------- */

static int
parse(const char *text, uint64_t *out)
{
    cJSON *body = cJSON_CreateObject();
    int rc;

    assert_non_null(body);
    assert_non_null(cJSON_AddStringToObject(body, "At", text));
    rc = json_time(body, "At", out, NULL);
    cJSON_Delete(body);
    return rc;
}

static void
times_round_trip(void **state)
{
    static const char *const texts[] = {
        "1970-01-01T00:00:00.000Z", "1999-12-31T23:59:59.999Z",
        "2000-02-29T12:00:00.001Z", "2026-11-22T03:32:48.123Z",
        "2100-03-01T00:00:00.000Z",
    };

    for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
        struct json_writer w;
        struct buf out;
        uint64_t ns = 1;
        char want[64];

        assert_int_equal(parse(texts[i], &ns), 1);
        buf_init(&out, 4096);
        json_begin(&w, &out);
        json_put_time(&w, NULL, ns);
        snprintf(want, sizeof want, "\"%s\"", texts[i]);
        assert_int_equal(out.len, strlen(want));
        assert_memory_equal(out.data, want, out.len);
        buf_release(&out);
    }
}

static void
times_refused(void **state)
{
    static const char *const bad[] = {
        "",
        "2026-11-22",
        "2026-11-22T03:32:48",
        "2026-11-22T03:32Z",
        "2026-11-22T03:32:48.1X",
        "2026-11-22T03:32:48ZZ",
        "1969-12-31T23:59:59Z",
        "2026-13-01T00:00:00Z",
        "2026-00-01T00:00:00Z",
        "2026-11-32T00:00:00Z",
        "2026-11-22T24:00:00Z",
        "2026-11-22T03:60:00Z",
        "2026-+1-22T03:32:48Z",
        "2026- 1-22T03:32:48Z",
        " 2026-1-22T03:32:48Z",
        "2026-1-22T003:32:48Z",
    };

    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        uint64_t ns = 7;

        if (parse(bad[i], &ns) != -EINVAL || ns != 7)
            fail_msg("\"%s\" was taken for a time", bad[i]);
    }
}

/* A moment so late that nanoseconds since 1970 do not reach it must not turn
 * into an early one: the newest checkpoint is meant, not the oldest. */
static void
times_far_ahead(void **state)
{
    uint64_t before = 0, ns = 0;

    assert_int_equal(parse("2553-01-01T00:00:00Z", &before), 1);
    assert_int_equal(parse("2555-01-01T00:00:00Z", &ns), 1);
    assert_true(ns > before);
    assert_int_equal(parse("9999-12-31T23:59:60.999Z", &ns), 1);
    assert_true(ns > before && ns < UINT64_MAX - NSEC_PER_MSEC);
}

/* --- out of memory ------------------------------------------------------- */

static void *
no_malloc(size_t n)
{
    return NULL;
}

/* The body could not be copied: an error with a number, or the call that brought
 * it would go on with a source or target that is not there. */
static void
no_memory_is_told(void **state)
{
    static struct replicator rep;
    cJSON *body = cJSON_Parse("{\"VpgName\":\"x\"}");
    cJSON_Hooks none = { no_malloc, free };
    struct err se = ERR_INIT, te = ERR_INIT;
    struct source *s;
    struct target *t;

    assert_non_null(body);
    list_init(&rep.sources);
    list_init(&rep.targets);
    cJSON_InitHooks(&none);
    s = source_new(&rep, body, &se);
    t = target_new(&rep, body, &te);
    cJSON_InitHooks(NULL);
    cJSON_Delete(body);
    assert_null(s);
    assert_null(t);
    assert_int_equal(se.num, -ENOMEM);
    assert_int_equal(te.num, -ENOMEM);
    assert_true(list_empty(&rep.sources) && list_empty(&rep.targets));
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(times_round_trip),
        cmocka_unit_test(times_refused),
        cmocka_unit_test(times_far_ahead),
        cmocka_unit_test(no_memory_is_told),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
