/* room: journal lane io common */
/* Which part of a chunk must be read and verified for a range of it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "journal/seghead.h"

enum {
    K64 = 64 * 1024
};

static void
parts(void **state)
{
    static const struct lane_entry e[] = {
        { .type = ENTRY_WRITE, .len512 = 8, .chunk = 0, .crc = 10 },
        { .type = ENTRY_ZERO, .len512 = 99, .chunk = BATCH_NO_CHUNK },
        { .type = ENTRY_WRITE,
          .len512 = 24,
          .chunk = 0,
          .chunk_off512 = 8,
          .crc = 11 },
        { .type = ENTRY_WRITE, .len512 = 8, .chunk = 1, .crc = 12 },
        /* 96 KiB: from the middle of chunk 2 to the end of chunk 3. */
        { .type = ENTRY_WRITE,
          .len512 = 64,
          .chunk = 2,
          .chunk_off512 = 0,
          .crc = 13 },
        { .type = ENTRY_WRITE,
          .len512 = 192,
          .chunk = 2,
          .chunk_off512 = 64,
          .crc = 14 },
        { .type = ENTRY_WRITE, .len512 = 128, .chunk = 4, .crc = 15 },
    };
    static const struct lane_chunk c[] = {
        { .body_off = 0, .stored_len = 16384, .raw_len = 16384 },
        { .body_off = 16384,
          .stored_len = 100,
          .raw_len = 4096,
          .codec = CHUNK_LZ4 },
        { .body_off = 16484, .stored_len = K64, .raw_len = K64 },
        { .body_off = 16484 + K64, .stored_len = K64, .raw_len = K64 },
        { .body_off = 16484 + 2 * K64, .stored_len = K64, .raw_len = K64 },
    };
    static const struct {
        uint32_t chunk, off, len;
        bool whole;
        uint32_t part_off, part_len, crc;
    } want[] = {
        { 0, 0, 4096, false, 0, 4096, 10 },
        { 0, 512, 512, false, 0, 4096, 10 },
        { 0, 4096, 12288, false, 4096, 12288, 11 },
        { 0, 8192, 4096, false, 4096, 12288, 11 },
        { 0, 0, 8192, true, 0, 16384, 0 },     /* of two payloads */
        { 0, 15872, 1024, true, 0, 16384, 0 }, /* beyond the chunk */
        { 1, 0, 4096, true, 0, 4096, 0 },      /* compressed */
        { 2, 0, 32768, false, 0, 32768, 13 },
        { 2, 32768, 32768, true, 0, K64, 0 }, /* goes on in chunk 3 */
        { 3, 0, K64, true, 0, K64, 0 },
        { 4, 0, K64, false, 0, K64, 15 },
        { 4, K64 - 512, 512, false, 0, K64, 15 },
    };
    uint8_t eb[ARRAY_SIZE(e) * BATCH_ENTRY_SIZE],
        cb[ARRAY_SIZE(c) * BATCH_CHUNK_SIZE];
    struct seg_head *h;

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(e); i++)
        lane_entry_encode(&e[i], eb + i * BATCH_ENTRY_SIZE);
    for (size_t i = 0; i < ARRAY_SIZE(c); i++)
        lane_chunk_encode(&c[i], cb + i * BATCH_CHUNK_SIZE);
    h = seg_head_new(eb, ARRAY_SIZE(e), cb, ARRAY_SIZE(c), 1000);
    assert_non_null(h);
    for (size_t i = 0; i < ARRAY_SIZE(want); i++) {
        struct seg_part p;

        seg_head_find(h, want[i].chunk, want[i].off, want[i].len, &p);
        assert_int_equal(p.whole, want[i].whole);
        assert_int_equal(p.off, want[i].part_off);
        assert_int_equal(p.len, want[i].part_len);
        assert_int_equal(p.crc, want[i].crc);
        assert_int_equal(p.chunk.body_off, c[want[i].chunk].body_off + 1000);
    }
    seg_head_free(h);
    h = seg_head_new(NULL, 0, cb, ARRAY_SIZE(c), 0);
    assert_non_null(h);
    seg_head_free(h);
    seg_head_free(NULL);
    assert_null(seg_head_new(NULL, 0, NULL, BATCH_CHUNKS_MAX + 1, 0));
}

int
main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(parts) };

    return cmocka_run_group_tests_name("seghead", tests, NULL, NULL);
}
