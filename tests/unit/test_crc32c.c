/* room: common */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/bytes.h"
#include "common/crc32c.h"

/* RFC 3720, B.4. */
static void
known_answers(void **state)
{
    uint8_t zero[32] = { 0 }, ones[32], up[32], down[32];
    static const uint8_t read10[48] = {
        0x01, 0xc0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,    0, 0, 0, 0,
        0x14, 0,    0, 0, 0, 0, 4, 0, 0, 0, 0, 0x14, 0, 0, 0, 0x18,
        0x28, 0,    0, 0, 0, 0, 0, 0, 2, 0, 0, 0,    0, 0, 0, 0,
    };
    const struct {
        const void *p;
        size_t n;
        uint32_t crc;
    } t[] = {
        { zero, 32, 0x8a9136aa },
        { ones, 32, 0x62a8ab43 },
        { up, 32, 0x46dd794e },
        { down, 32, 0x113fdb5c },
        { read10, 48, 0xd9963a56 },
        { "123456789", 9, 0xe3069283 },
        { "", 0, 0 },
    };

    (void)state;
    memset(ones, 0xff, sizeof ones);
    for (uint8_t i = 0; i < 32; i++) {
        up[i] = i;
        down[i] = (uint8_t)(31 - i);
    }
    for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
        assert_int_equal(crc32c(0, t[i].p, t[i].n), t[i].crc);
        assert_int_equal(crc32c_sw(0, t[i].p, t[i].n), t[i].crc);
    }
}

static uint8_t *
noise(size_t n)
{
    uint8_t *p = malloc(n);
    uint32_t x = 12345;

    assert_non_null(p);
    for (size_t i = 0; i < n; i++) {
        x = x * 1664525 + 1013904223;
        p[i] = (uint8_t)(x >> 24);
    }
    return p;
}

static void
hardware_equals_tables(void **state)
{
    uint8_t *p = noise(70000);

    (void)state;
    for (size_t n = 0; n < 2500; n++)
        assert_int_equal(crc32c(7, p + n % 9, n), crc32c_sw(7, p + n % 9, n));
    for (size_t n = 2500; n < 69000; n += 509)
        assert_int_equal(crc32c(7, p + n % 9, n), crc32c_sw(7, p + n % 9, n));
    free(p);
}

static void
continues_and_combines(void **state)
{
    static const uint64_t far[] = { 1ULL << 20, (1ULL << 33) + 5,
                                    (1ULL << 61) + 3, UINT64_MAX };
    enum {
        SIZE = 140000
    };
    uint8_t *p = noise(SIZE);
    uint32_t whole;

    (void)state;
    for (size_t cut = 0; cut <= SIZE; cut += cut < 5000 ? 61 : 512 * 3) {
        for (int aligned = 0; aligned < 2; aligned++) {
            size_t b = aligned ? cut / 512 * 512 : cut;
            uint32_t ca = crc32c(0, p, SIZE - b);
            uint32_t cb = crc32c(0, p + SIZE - b, b);

            whole = crc32c(0, p, SIZE);
            assert_int_equal(crc32c(ca, p + SIZE - b, b), whole);
            assert_int_equal(crc32c_combine(ca, cb, b), whole);
        }
    }
    for (uint64_t n = 512; n <= 64 * KIB; n += 512) {
        whole = crc32c(0, p, 100 + n);
        assert_int_equal(crc32c_combine(crc32c(0, p, 100),
                                        crc32c(0, p + 100, n), n),
                         whole);
    }
    /* Lengths that nobody can read: (a ++ n1 ++ n2) both ways. */
    for (size_t i = 0; i + 1 < ARRAY_SIZE(far); i++) {
        uint32_t one = crc32c_combine(crc32c_combine(0xdeadbeef, 5, far[i]), 9,
                                      UINT64_MAX - far[i]);
        uint32_t two = crc32c_combine(0xdeadbeef,
                                      crc32c_combine(5, 9, UINT64_MAX - far[i]),
                                      UINT64_MAX);

        assert_int_equal(one, two);
    }
    assert_int_equal(crc32c_combine(0x1234, 0, 0), 0x1234);
    free(p);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_answers),
        cmocka_unit_test(hardware_equals_tables),
        cmocka_unit_test(continues_and_combines),
    };

    return cmocka_run_group_tests_name("crc32c", tests, NULL, NULL);
}
