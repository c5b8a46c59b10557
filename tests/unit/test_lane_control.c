/* room: lane common */
/* Control payloads: round trip, golden bytes, cut at every length; a flipped
 * bit gives another value or is refused (the batch's checksum covers them). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "lane/batch.h"

/* One shape for all four, so that the four tests are written once. */
union value {
    struct cut_commit cut;
    struct lane_gap gap;
    struct resync_begin begin;
    struct lane_incarnation incarnation;
};

static size_t
cut_enc(const union value *v, uint8_t *out)
{
    return cut_commit_encode(&v->cut, out);
}
static int
cut_dec(const uint8_t *p, size_t n, union value *out)
{
    return cut_commit_decode(p, n, &out->cut);
}
static size_t
gap_enc(const union value *v, uint8_t *out)
{
    return lane_gap_encode(&v->gap, out);
}
static int
gap_dec(const uint8_t *p, size_t n, union value *out)
{
    return lane_gap_decode(p, n, &out->gap);
}
static size_t
begin_enc(const union value *v, uint8_t *out)
{
    return resync_begin_encode(&v->begin, out);
}
static int
begin_dec(const uint8_t *p, size_t n, union value *out)
{
    return resync_begin_decode(p, n, &out->begin);
}
static size_t
inc_enc(const union value *v, uint8_t *out)
{
    return lane_incarnation_encode(&v->incarnation, out);
}
static int
inc_dec(const uint8_t *p, size_t n, union value *out)
{
    return lane_incarnation_decode(p, n, &out->incarnation);
}

#define ID16                                           \
 {                                                     \
  0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 \
 }

static const struct {
    const char *name;
    size_t (*encode)(const union value *v, uint8_t *out);
    int (*decode)(const uint8_t *p, size_t n, union value *out);
    union value v;
    const char *hex; /* golden: made by hand from docs/formats/batch.md */
} kinds[] = {
    { "cut",
      cut_enc,
      cut_dec,
      { .cut = { .cut_no = 0x0102030405060708,
                 .wall_ns = 0x1112131415161718,
                 .term = 3,
                 .membership_epoch = 4,
                 .kind = CUT_APPLICATION,
                 .consistency = 1,
                 .tag_len = 3,
                 .tag = "abc" } },
      "0807060504030201"
      "1817161514131211"
      "0300000000000000"
      "04000000"
      "0201"
      "0000"
      "0300"
      "616263" },
    { "gap",
      gap_enc,
      gap_dec,
      { .gap = { 0x0000010000000005, 0x0000010000000009 } },
      "0500000000010000"
      "0900000000010000" },
    { "begin",
      begin_enc,
      begin_dec,
      { .begin = { .scope_bytes = 0x40000000,
                   .salt = ID16,
                   .reason = RESYNC_UNCLEAN } },
      "0000004000000000"
      "000102030405060708090a0b0c0d0e0f"
      "02"
      "00000000000000" },
    { "incarnation",
      inc_enc,
      inc_dec,
      { .incarnation = { .prev = { { ID16 } },
                         .prev_last_batch = 77,
                         .exact = 1 } },
      "000102030405060708090a0b0c0d0e0f"
      "4d00000000000000"
      "01"
      "00000000000000" },
};

static int
decode_copy(size_t k, const uint8_t *p, size_t n, union value *out)
{
    uint8_t *copy = malloc(n ? n : 1);
    int rc;

    assert_non_null(copy);
    memcpy(copy, p, n);
    rc = kinds[k].decode(copy, n, out);
    free(copy);
    return rc;
}

static void
round_trip_and_golden(void **state)
{
    (void)state;
    for (size_t k = 0; k < ARRAY_SIZE(kinds); k++) {
        uint8_t out[CONTROL_PAYLOAD_MAX], again[CONTROL_PAYLOAD_MAX];
        char hex[2 * CONTROL_PAYLOAD_MAX + 1];
        size_t n = kinds[k].encode(&kinds[k].v, out);
        union value v;

        hex_encode(out, n, hex);
        assert_string_equal(hex, kinds[k].hex);
        memset(&v, 0xee, sizeof v);
        assert_int_equal(decode_copy(k, out, n, &v), 0);
        assert_int_equal(kinds[k].encode(&v, again), n);
        assert_memory_equal(out, again, n);
    }
}

static void
cut_at_every_length(void **state)
{
    (void)state;
    for (size_t k = 0; k < ARRAY_SIZE(kinds); k++) {
        uint8_t out[CONTROL_PAYLOAD_MAX] = { 0 };
        size_t n = kinds[k].encode(&kinds[k].v, out);
        union value v;

        for (size_t i = 0; i < n; i++)
            assert_int_equal(decode_copy(k, out, i, &v), -ENODATA);
        assert_int_equal(decode_copy(k, out, n + 1, &v), -EBADMSG);
    }
}

static void
flip_every_bit(void **state)
{
    (void)state;
    for (size_t k = 0; k < ARRAY_SIZE(kinds); k++) {
        uint8_t out[CONTROL_PAYLOAD_MAX], again[CONTROL_PAYLOAD_MAX];
        size_t n = kinds[k].encode(&kinds[k].v, out);

        for (size_t bit = 0; bit < n * 8; bit++) {
            union value v;
            int rc;

            out[bit / 8] ^= (uint8_t)(1 << bit % 8);
            rc = decode_copy(k, out, n, &v);
            if (rc == 0) { /* every bit is part of the value */
                assert_int_equal(kinds[k].encode(&v, again), n);
                assert_memory_equal(out, again, n);
            }
            out[bit / 8] ^= (uint8_t)(1 << bit % 8);
        }
    }
}

static void
limits(void **state)
{
    struct cut_commit cut = { .cut_no = 1 }, got_cut;
    struct lane_gap gap = { lane_seq(1, 5), lane_seq(1, 4) }, got_gap;
    struct resync_begin begin = { .reason = RESYNC_IO_ERROR + 1 }, got_begin;
    struct lane_incarnation inc = { .exact = 2 }, got_inc;
    uint8_t out[CONTROL_PAYLOAD_MAX];

    (void)state;
    assert_int_equal(lane_gap_decode(out, lane_gap_encode(&gap, out), &got_gap),
                     -EBADMSG);
    gap.last_seq = lane_seq(2, 6);
    assert_int_equal(lane_gap_decode(out, lane_gap_encode(&gap, out), &got_gap),
                     -EBADMSG);
    assert_int_equal(resync_begin_decode(out, resync_begin_encode(&begin, out),
                                         &got_begin),
                     -EBADMSG);
    assert_int_equal(lane_incarnation_decode(out,
                                             lane_incarnation_encode(&inc, out),
                                             &got_inc),
                     -EBADMSG);
    cut.tag_len = BATCH_TAG_MAX;
    memset(cut.tag, 'x', BATCH_TAG_MAX);
    assert_int_equal(cut_commit_decode(out, cut_commit_encode(&cut, out),
                                       &got_cut),
                     0);
    assert_int_equal(got_cut.tag_len, BATCH_TAG_MAX);
    assert_int_equal(strlen(got_cut.tag), BATCH_TAG_MAX);
    cut.tag[5] = '\0';
    assert_int_equal(cut_commit_decode(out, cut_commit_encode(&cut, out),
                                       &got_cut),
                     -EBADMSG);
    cut.tag_len = 0;
    cut.kind = CUT_APPLICATION + 1;
    assert_int_equal(cut_commit_decode(out, cut_commit_encode(&cut, out),
                                       &got_cut),
                     -EBADMSG);
    cut.kind = CUT_AUTO;
    cut.n_positions = 1;
    assert_int_equal(cut_commit_decode(out, cut_commit_encode(&cut, out),
                                       &got_cut),
                     -EPROTONOSUPPORT);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trip_and_golden),
        cmocka_unit_test(cut_at_every_length),
        cmocka_unit_test(flip_every_bit),
        cmocka_unit_test(limits),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
