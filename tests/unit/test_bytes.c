/* room: common
 * Byte order, ranges, hexadecimal and the intrusive list. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/bytes.h"
#include "common/list.h"

static void
byte_order(void **state)
{
    static const uint8_t b[8] = { 1, 2, 3, 4, 5, 6, 7, 0xf8 };
    uint8_t out[8];

    (void)state;
    assert_int_equal(get_le16(b), 0x0201);
    assert_int_equal(get_le32(b + 4), 0xf8070605);
    assert_true(get_le64(b) == 0xf807060504030201);
    assert_int_equal(get_be16(b), 0x0102);
    assert_int_equal(get_be32(b + 4), 0x050607f8);
    assert_true(get_be64(b) == 0x01020304050607f8);
    put_le16(out, 0x0201);
    assert_memory_equal(out, b, 2);
    put_le32(out, 0x04030201);
    assert_memory_equal(out, b, 4);
    put_le64(out, 0xf807060504030201);
    assert_memory_equal(out, b, 8);
    put_be16(out, 0x0102);
    assert_memory_equal(out, b, 2);
    put_be32(out, 0x01020304);
    assert_memory_equal(out, b, 4);
    put_be64(out, 0x01020304050607f8);
    assert_memory_equal(out, b, 8);
}

static void
arithmetic(void **state)
{
    uint64_t v = 7;
    size_t s = 7;

    (void)state;
    assert_false(u64_add(UINT64_MAX, 1, &v));
    assert_int_equal(v, 7);
    assert_true(u64_add(UINT64_MAX - 1, 1, &v));
    assert_true(v == UINT64_MAX);
    assert_false(size_mul(SIZE_MAX / 2, 3, &s));
    assert_int_equal(s, 7);
    assert_true(size_mul(6, 7, &s));
    assert_int_equal(s, 42);
    assert_true(range_ok(0, 0, 0));
    assert_true(range_ok(4, 4, 8));
    assert_false(range_ok(4, 5, 8));
    assert_false(range_ok(9, 0, 8));
    assert_false(range_ok(8, UINT64_MAX, 8));
    assert_int_equal(round_up(4097, 4096), 8192);
    assert_int_equal(round_up(4096, 4096), 4096);
    assert_int_equal(round_down(8191, 4096), 4096);
}

static void
zeroes(void **state)
{
    uint8_t b[200] = { 0 };

    (void)state;
    for (size_t n = 0; n <= sizeof b; n++) {
        assert_true(bytes_all_zero(b, n));
        for (size_t i = 0; i < n; i++) {
            b[i] = 0x80;
            assert_false(bytes_all_zero(b, n));
            b[i] = 0;
        }
    }
    b[199] = 1;
    assert_true(bytes_all_zero(b, 199));
}

static void
hexadecimal(void **state)
{
    static const uint8_t b[4] = { 0x00, 0x1f, 0xa0, 0xff };
    static const char *const bad[] = { "",         "001fa0f",  "001fa0fff",
                                       "001fa0fg", " 01fa0ff", "0x1fa0ff" };
    uint8_t out[4] = { 9, 9, 9, 9 };
    char text[9];

    (void)state;
    hex_encode(b, 4, text);
    assert_string_equal(text, "001fa0ff");
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        assert_int_equal(hex_decode(bad[i], out, 4), -EINVAL);
        assert_int_equal(out[0], 9);
    }
    assert_int_equal(hex_decode("001FA0ff", out, 4), 0);
    assert_memory_equal(out, b, 4);
}

struct item {
    int n;
    struct list link;
};

static void
lists(void **state)
{
    struct item items[4] = { { .n = 0 }, { .n = 1 }, { .n = 2 }, { .n = 3 } };
    struct list a, b, *pos, *tmp;
    int want = 0;

    (void)state;
    list_init(&a);
    list_init(&b);
    assert_true(list_empty(&a));
    assert_null(list_pop_front(&a));
    list_push_back(&a, &items[1].link);
    list_push_front(&a, &items[0].link);
    list_push_back(&b, &items[2].link);
    list_push_back(&b, &items[3].link);
    list_splice_back(&a, &b);
    assert_true(list_empty(&b));
    list_splice_back(&a, &b);
    list_for_each (pos, &a) {
        assert_int_equal(list_entry(pos, struct item, link)->n, want++);
    }
    assert_int_equal(want, 4);
    list_for_each_safe (pos, tmp, &a) {
        if (list_entry(pos, struct item, link)->n % 2 == 0)
            list_del(pos);
    }
    list_del(&items[0].link); /* twice is harmless */
    assert_ptr_equal(list_pop_front(&a), &items[1].link);
    assert_ptr_equal(list_pop_front(&a), &items[3].link);
    assert_true(list_empty(&a));
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(byte_order), cmocka_unit_test(arithmetic),
        cmocka_unit_test(zeroes),     cmocka_unit_test(hexadecimal),
        cmocka_unit_test(lists),
    };

    return cmocka_run_group_tests_name("bytes", tests, NULL, NULL);
}
