/* room: common */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/bytes.h"
#include "common/err.h"
#include "common/text.h"

static void
set_and_prefix(void **state)
{
    struct err e = ERR_INIT;

    (void)state;
    assert_int_equal(err_prefix(&e, "nothing"), 0);
    assert_int_equal(err_set(NULL, -EIO, ERR_GEN_0001, "x"), -EIO);
    assert_int_equal(err_prefix(NULL, "x"), 0);
    assert_int_equal(err_set(&e, -EIO, ERR_GEN_0003, "file %s: %s", "a\x1b[2Jb",
                             "c\nd"),
                     -EIO);
    assert_string_equal(e.msg, "file a?[2Jb: c d");
    assert_int_equal(err_prefix(&e, "volume %s", "db1"), -EIO);
    assert_string_equal(e.msg, "volume db1: file a?[2Jb: c d");
    assert_int_equal(e.num, -EIO);
    assert_string_equal(err_code_text(e.code), "GEN-0003");
    assert_true(strlen(err_code_cause(e.code)) > 5);
    assert_true(strlen(err_code_next(e.code)) > 5);
}

static void
cuts_long_text(void **state)
{
    struct err e = ERR_INIT;
    char text[2000];

    (void)state;
    for (size_t i = 0; i + 1 < sizeof text; i += 2)
        memcpy(text + i, "\xc3\xa9", 2); /* e acute */
    text[1998] = '\0';
    for (int pad = 0; pad < 3; pad++) {
        err_set(&e, -EIO, ERR_GEN_0001, "%.*s%s", pad, "xyz", text);
        assert_true(text_utf8_ok(e.msg, strlen(e.msg)));
        assert_null(strchr(e.msg, '?'));
        assert_true(strlen(e.msg) >= ERR_MSG_MAX - 2);
        err_prefix(&e, "p");
        assert_true(text_utf8_ok(e.msg, strlen(e.msg)));
        err_prefix(&e, "%s", text);
        assert_true(strlen(e.msg) < ERR_MSG_MAX);
    }
}

static void
table_is_sound(void **state)
{
    (void)state;
    for (int i = 0; i < (int)ERR_CODE_MAX; i++) {
        const char *t = err_code_text((enum err_code)i);

        assert_non_null(strchr(t, '-')); /* "IO-0001", "NBD-0003" */
        assert_int_equal(strlen(strchr(t, '-')), 5);
        for (int k = 0; k < i; k++)
            assert_string_not_equal(t, err_code_text((enum err_code)k));
        assert_true(text_utf8_ok(err_code_cause((enum err_code)i), 3));
        assert_non_null(err_code_next((enum err_code)i));
    }
    assert_string_equal(err_code_text(ERR_CODE_MAX), "GEN-0001");
    assert_string_equal(err_code_cause(ERR_CODE_MAX), "");
    assert_string_equal(err_code_next(ERR_CODE_MAX), "");
}

static void
errno_text(void **state)
{
    (void)state;
    assert_string_equal(err_errno(-ENOENT), "No such file or directory");
    assert_string_equal(err_errno(ENOENT), err_errno(-ENOENT));
    assert_string_equal(err_errno(-99999), "unknown error");
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(set_and_prefix),
        cmocka_unit_test(cuts_long_text),
        cmocka_unit_test(table_is_sound),
        cmocka_unit_test(errno_text),
    };

    return cmocka_run_group_tests_name("err", tests, NULL, NULL);
}
