/* room: common */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/bytes.h"
#include "common/id.h"

static void
format_and_parse(void **state)
{
    uint8_t random[16];
    char text[UUID_TEXT_SIZE];
    struct uuid u, v = { .b = { 0 } };

    (void)state;
    memset(random, 0xff, sizeof random);
    u = uuid_from_random(random);
    uuid_format(&u, text);
    assert_string_equal(text, "ffffffff-ffff-4fff-bfff-ffffffffffff");
    assert_int_equal(uuid_parse("FFFFFFFF-ffff-4FFF-bfff-ffffffffffff", &v), 0);
    assert_true(uuid_equal(&u, &v));
    assert_false(uuid_is_nil(&v));
    memset(random, 0, sizeof random);
    u = uuid_from_random(random);
    uuid_format(&u, text);
    assert_string_equal(text, "00000000-0000-4000-8000-000000000000");
    assert_false(uuid_equal(&u, &v));
    assert_int_equal(uuid_parse("00010203-0405-0607-0809-0a0b0c0d0e0f", &v), 0);
    for (uint8_t i = 0; i < 16; i++)
        assert_int_equal(v.b[i], i);
    v = (struct uuid){ .b = { 0 } };
    assert_true(uuid_is_nil(&v));
}

static void
refuses(void **state)
{
    static const char *const bad[] = {
        "",
        "00010203-0405-0607-0809-0a0b0c0d0e0",
        "00010203-0405-0607-0809-0a0b0c0d0e0f0",
        "00010203-0405-0607-0809-0a0b0c0d0e0g",
        "000102030405-0607-0809-0a0b0c0d0e0f0",
        "00010203-0405-0607-08090-a0b0c0d0e0f",
        "{0010203-0405-0607-0809-0a0b0c0d0e0f",
        "00010203 0405-0607-0809-0a0b0c0d0e0f",
    };
    struct uuid u = { .b = { 5 } };

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        assert_int_equal(uuid_parse(bad[i], &u), -EINVAL);
        assert_int_equal(u.b[0], 5);
    }
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(format_and_parse),
        cmocka_unit_test(refuses),
    };

    return cmocka_run_group_tests_name("id", tests, NULL, NULL);
}
