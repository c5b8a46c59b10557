/* room: common */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/buf.h"

static void
grows_and_consumes(void **state)
{
    struct buf b;
    uint8_t *p;

    (void)state;
    buf_init(&b, 100000);
    assert_int_equal(buf_add(&b, "abc", 3), 0);
    assert_int_equal(buf_addf(&b, "%d-%s", 42, "x"), 0);
    assert_string_equal((char *)b.data, "abc42-x");
    buf_consume(&b, 3);
    assert_string_equal((char *)b.data, "42-x");
    buf_consume(&b, 1000);
    assert_int_equal(b.len, 0);
    for (int i = 0; i < 5000; i++)
        assert_int_equal(buf_add(&b, "0123456789", 10), 0);
    assert_int_equal(b.len, 50000);
    assert_int_equal(b.data[49999], '9');
    p = buf_reserve(&b, 50000);
    assert_non_null(p);
    memset(p, 'z', 50000);
    buf_added(&b, 50000);
    assert_int_equal(b.data[100000], 0);
    buf_clear(&b);
    assert_int_equal(b.len, 0);
    assert_int_equal(buf_add(&b, NULL, 0), 0);
    buf_release(&b);
    assert_null(b.data);
    buf_release(&b);
}

static void
keeps_its_maximum(void **state)
{
    struct buf b;

    (void)state;
    buf_init(&b, 8);
    assert_int_equal(buf_add(&b, "12345678", 8), 0);
    assert_int_equal(buf_add(&b, "9", 1), -EMSGSIZE);
    assert_int_equal(b.failed, -EMSGSIZE);
    assert_string_equal((char *)b.data, "12345678");
    buf_consume(&b, 8);
    assert_int_equal(buf_add(&b, "a", 1), -EMSGSIZE); /* sticky */
    assert_int_equal(buf_addf(&b, "a"), -EMSGSIZE);
    assert_null(buf_reserve(&b, 1));
    buf_clear(&b);
    assert_int_equal(buf_addf(&b, "%s", "123456789"), -EMSGSIZE);
    buf_clear(&b);
    assert_int_equal(buf_addf(&b, "%s", "12345678"), 0);
    buf_release(&b);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(grows_and_consumes),
        cmocka_unit_test(keeps_its_maximum),
    };

    return cmocka_run_group_tests_name("buf", tests, NULL, NULL);
}
