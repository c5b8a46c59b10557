/* room: stream lane common */
/* Frames and messages: round trip, golden bytes, cut at every length, one
 * flipped bit at every position of what a checksum covers, limits. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/crc32c.h"
#include "stream/frame.h"

static struct frame
sample_frame(void)
{
    return (struct frame){ .type = FRAME_BATCH,
                           .flags = FRAME_TO_SOURCE,
                           .lane = 0x01020304,
                           .body_len = 4096,
                           .id = 0x1122334455667788,
                           .term = 0x99aabbccddeeff00,
                           .epoch = 7 };
}

static void
frame_golden(void **state)
{
    static const char golden[] = "4846737401050100040302010010000088776655443322"
                                 "1100ffeeddccbbaa9907000000";
    struct frame f = sample_frame(), g;
    uint8_t b[FRAME_HDR_SIZE], version = 0;
    char hex[2 * FRAME_HDR_SIZE + 1];

    (void)state;
    frame_encode(&f, b);
    hex_encode(b, 36, hex);
    assert_string_equal(hex, golden);
    assert_int_equal(get_le32(b + 36), crc32c(0, b, 36));
    assert_int_equal(frame_decode(b, sizeof b, &g, &version), 0);
    assert_int_equal(version, STREAM_VERSION);
    assert_int_equal(g.type, f.type);
    assert_int_equal(g.flags, f.flags);
    assert_int_equal(g.lane, f.lane);
    assert_int_equal(g.body_len, f.body_len);
    assert_int_equal(g.id, f.id);
    assert_int_equal(g.term, f.term);
    assert_int_equal(g.epoch, f.epoch);
}

static void
frame_cut_and_flipped(void **state)
{
    struct frame f = sample_frame(), g;
    uint8_t b[FRAME_HDR_SIZE];

    (void)state;
    frame_encode(&f, b);
    for (size_t n = 0; n < sizeof b; n++)
        assert_int_equal(frame_decode(b, n, &g, NULL), -ENODATA);
    for (unsigned bit = 0; bit < 8 * sizeof b; bit++) {
        b[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_int_equal(frame_decode(b, sizeof b, &g, NULL), -EBADMSG);
        b[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
}

static void
frame_refused(void **state)
{
    struct frame f = sample_frame(), g;
    uint8_t b[FRAME_HDR_SIZE], version = 0;

    (void)state;
    frame_encode(&f, b);
    b[4] = STREAM_VERSION + 1; /* a whole frame of a later release */
    put_le32(b + 36, crc32c(0, b, 36));
    assert_int_equal(frame_decode(b, sizeof b, &g, &version), -EPROTONOSUPPORT);
    assert_int_equal(version, STREAM_VERSION + 1);
    f.body_len = FRAME_BODY_MAX + 1;
    frame_encode(&f, b);
    assert_int_equal(frame_decode(b, sizeof b, &g, NULL), -EMSGSIZE);
}

/* Each body: encode, decode, encode again to the same bytes; every shorter and
 * every longer length is refused. */
#define BODY_TEST(name)                                                         \
 static void name##_body(const struct msg_##name *m, uint8_t *b, size_t *out_n) \
 {                                                                              \
  static struct msg_##name got;                                                 \
  uint8_t again[MSG_BODY_MAX + SYNC_DATA_HDR_SIZE] = { 0 };                     \
  size_t n = msg_##name##_encode(m, b);                                         \
                                                                                \
  assert_int_equal(msg_##name##_decode(b, n, &got), 0);                         \
  assert_int_equal(msg_##name##_encode(&got, again), n);                        \
  assert_memory_equal(b, again, n);                                             \
  for (size_t cut = 0; cut < n; cut++)                                          \
   assert_int_equal(msg_##name##_decode(b, cut, &got), -EBADMSG);               \
  assert_int_equal(msg_##name##_decode(b, n + 1, &got), -EBADMSG);              \
  *out_n = n;                                                                   \
 }
BODY_TEST(hello)
BODY_TEST(lane_open)
BODY_TEST(lane_state)
BODY_TEST(lane_status)
BODY_TEST(error)

static void
bodies(void **state)
{
    static uint8_t b[MSG_BODY_MAX + 1];
    static struct msg_lane_open open;
    struct msg_hello hello = { .version_min = 1,
                               .version_max = 3,
                               .kind = LINK_DATA,
                               .features = 5,
                               .session = 77,
                               .wall_ns = 88,
                               .ok = 1,
                               .text = "why not" };
    struct msg_lane_state st = { .verdict = VERDICT_FENCED,
                                 .durable_batch = 9,
                                 .membership_epoch = 1,
                                 .fencing_epoch = 2,
                                 .credit = 3,
                                 .code = "STR-0006",
                                 .text = "another epoch" };
    struct msg_lane_status status = { .state = 2,
                                      .progress = 50,
                                      .lag_bytes = 1,
                                      .lag_ns = 2,
                                      .sync_total = 3,
                                      .sync_done = 4 };
    struct msg_error e = { .code = "JNL-0001", .text = "it stopped" };
    struct msg_hello bad_hello;
    size_t n;

    (void)state;
    memset(b, 0, sizeof b);
    hello_body(&hello, b, &n);
    b[n - 2] = 0; /* a NUL inside the text */
    assert_int_equal(msg_hello_decode(b, n, &bad_hello), -EBADMSG);
    hello.kind = 2;
    n = msg_hello_encode(&hello, b);
    assert_int_equal(msg_hello_decode(b, n, &bad_hello), -EBADMSG);
    open.lane = 1;
    open.n_volumes = LANE_VOLUMES_MAX;
    for (unsigned i = 0; i < LANE_VOLUMES_MAX; i++)
        open.volumes[i] = (struct msg_volume){ (uint16_t)i, i * 512ull };
    lane_open_body(&open, b, &n);
    assert_true(n <= MSG_BODY_MAX);
    lane_state_body(&st, b, &n);
    lane_status_body(&status, b, &n);
    error_body(&e, b, &n);
}

static void
lane_state_limits(void **state)
{
    struct msg_lane_state m = { .verdict = VERDICT_RESUME }, got;
    uint8_t b[MSG_BODY_MAX];
    size_t n;

    (void)state;
    n = msg_lane_state_encode(&m, b);
    b[0] = 0;
    assert_int_equal(msg_lane_state_decode(b, n, &got), -EBADMSG);
    b[0] = VERDICT_REFUSED + 1;
    assert_int_equal(msg_lane_state_decode(b, n, &got), -EBADMSG);
    b[0] = VERDICT_RESUME;
    b[2] = 1;
    assert_int_equal(msg_lane_state_decode(b, n, &got), -EBADMSG);
}

static void
sync_data_limits(void **state)
{
    static const struct msg_sync_data good = { .vol = 3,
                                               .off = 4096,
                                               .len = 8192,
                                               .after_seq = 12,
                                               .crc = 13,
                                               .stored_len = 8192 };
    static const struct {
        const char *what;
        struct msg_sync_data m;
        size_t body;
        int rc;
    } cases[] = {
        { "data", { .off = 0, .len = 512, .stored_len = 512 }, 512, 0 },
        { "zeros", { .len = BATCH_ZERO_MAX, .zero = 1 }, 0, 0 },
        { "no length", { .len = 0 }, 0, -EBADMSG },
        { "odd length", { .len = 100, .stored_len = 100 }, 100, -EBADMSG },
        { "odd offset",
          { .off = 1, .len = 512, .stored_len = 512 },
          512,
          -EBADMSG },
        { "too long",
          { .len = SYNC_DATA_MAX + 512, .stored_len = SYNC_DATA_MAX + 512 },
          SYNC_DATA_MAX + 512,
          -EBADMSG },
        { "zeros too long",
          { .len = BATCH_ZERO_MAX + 512, .zero = 1 },
          0,
          -EBADMSG },
        { "zeros with data",
          { .len = 512, .zero = 1, .stored_len = 512 },
          512,
          -EBADMSG },
        { "wraps",
          { .off = UINT64_MAX - 511, .len = 1024, .stored_len = 1024 },
          1024,
          -EBADMSG },
        { "codec", { .len = 512, .codec = 9, .stored_len = 512 }, 512, -EBADMSG },
        { "compressed, too long raw",
          { .len = BATCH_CHUNK_RAW_MAX + 512,
            .codec = CHUNK_LZ4,
            .stored_len = 10 },
          10,
          -EBADMSG },
        { "compressed",
          { .len = 65536, .codec = CHUNK_LZ4, .stored_len = 10 },
          10,
          0 },
        { "stored grows",
          { .len = 512, .codec = CHUNK_LZ4, .stored_len = 513 },
          513,
          -EBADMSG },
        { "body shorter than said",
          { .len = 512, .stored_len = 512 },
          511,
          -EBADMSG },
    };
    struct msg_sync_data got;
    uint8_t b[SYNC_DATA_HDR_SIZE];

    (void)state;
    assert_int_equal(msg_sync_data_encode(&good, b), SYNC_DATA_HDR_SIZE);
    assert_int_equal(msg_sync_data_decode(b, SYNC_DATA_HDR_SIZE + 8192, &got),
                     0);
    assert_int_equal(got.vol, 3);
    assert_int_equal(got.off, 4096);
    assert_int_equal(got.len, 8192);
    assert_int_equal(got.after_seq, 12);
    assert_int_equal(got.crc, 13);
    b[40] = 1; /* reserved */
    assert_int_equal(msg_sync_data_decode(b, SYNC_DATA_HDR_SIZE + 8192, &got),
                     -EBADMSG);
    for (size_t n = 0; n < SYNC_DATA_HDR_SIZE; n++)
        assert_int_equal(msg_sync_data_decode(b, n, &got), -EBADMSG);
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        msg_sync_data_encode(&cases[i].m, b);
        if (msg_sync_data_decode(b, SYNC_DATA_HDR_SIZE + cases[i].body, &got) !=
            cases[i].rc)
            fail_msg("case \"%s\"", cases[i].what);
    }
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frame_golden),
        cmocka_unit_test(frame_cut_and_flipped),
        cmocka_unit_test(frame_refused),
        cmocka_unit_test(bodies),
        cmocka_unit_test(lane_state_limits),
        cmocka_unit_test(sync_data_limits),
    };

    return cmocka_run_group_tests_name("frame", tests, NULL, NULL);
}
