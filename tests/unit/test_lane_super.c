/* room: capture lane io common */
/* lane.super: the four decoder tests, and the file with its two slots. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "capture/lane_super.h"
#include "common/crc32c.h"

/* Written by another program from docs/formats/lane-super.md. */
static const char golden_hex[] =
    "48464c53010003000900000000000000000102030405060708090a0b0c0d0e0f"
    "0500000006000000101112131415161718191a1b1c1d1e1f2021222324252627"
    "28292a2b2c2d2e2f4d00000000000000303132333435363738393a3b3c3d3e3f"
    "0400000000080000000000000200000000000000000000000000004000000000"
    "0b0000000000000000000040000000001817161514131211ff00000000000000"
    "0000100000000000000000000000000000000000000000000000000000000000";
#define GOLDEN_CRC 0xb9518ea8u

static struct lane_super
sample(void)
{
    struct lane_super s = { .lane = 5,
                            .seq_epoch = 6,
                            .prev_last_batch = 77,
                            .fencing_epoch = 4,
                            .next_cut_no = 2048,
                            .clean = true,
                            .synced = true,
                            .n_volumes = 2 };

    for (uint8_t i = 0; i < 16; i++) {
        s.vpg.u.b[i] = i;
        s.incarnation.u.b[i] = (uint8_t)(16 + i);
        s.prev_incarnation.u.b[i] = (uint8_t)(32 + i);
        s.generation.u.b[i] = (uint8_t)(48 + i);
    }
    s.volumes[0] =
        (struct lane_super_volume){ 0, GIB, 11, GIB, 0x1112131415161718 };
    s.volumes[1] = (struct lane_super_volume){ 255, MIB, 0, 0, 0 };
    return s;
}

static void
golden_slot(uint8_t out[LANE_SUPER_SLOT])
{
    memset(out, 0, LANE_SUPER_SLOT);
    assert_int_equal(hex_decode(golden_hex, out, (sizeof golden_hex - 1) / 2),
                     0);
    put_le32(out + 4092, GOLDEN_CRC);
}

static void
round_trip_and_golden(void **state)
{
    uint8_t out[LANE_SUPER_SLOT], want[LANE_SUPER_SLOT];
    struct lane_super s = sample(), got;
    uint64_t gen = 0;

    (void)state;
    golden_slot(want);
    lane_super_encode(&s, 9, out);
    assert_memory_equal(out, want, sizeof out);
    assert_int_equal(lane_super_decode(want, sizeof want, &got, &gen, NULL), 0);
    assert_int_equal(gen, 9);
    assert_true(got.clean && got.synced);
    assert_int_equal(got.volumes[0].fp_mtime_ns, 0x1112131415161718);
    assert_int_equal(got.volumes[1].vol, 255);
    lane_super_encode(&got, gen, out);
    assert_memory_equal(out, want, sizeof out);

    s.clean = s.synced = false;
    s.n_volumes = ARRAY_SIZE(s.volumes);
    lane_super_encode(&s, 1, out);
    assert_int_equal(lane_super_decode(out, sizeof out, &got, &gen, NULL), 0);
    assert_false(got.clean || got.synced);
    assert_int_equal(got.n_volumes, 80);
}

static void
cut_at_every_length(void **state)
{
    uint8_t slot[LANE_SUPER_SLOT];
    struct lane_super got;
    uint64_t gen;

    (void)state;
    golden_slot(slot);
    for (size_t n = 0; n < LANE_SUPER_SLOT; n++) {
        uint8_t *copy = malloc(n ? n : 1);

        assert_non_null(copy);
        memcpy(copy, slot, n);
        assert_int_equal(lane_super_decode(copy, n, &got, &gen, NULL), -ENODATA);
        free(copy);
    }
}

static void
flip_every_bit(void **state)
{
    uint8_t slot[LANE_SUPER_SLOT];
    struct err err = ERR_INIT;
    struct lane_super got;
    uint64_t gen;

    (void)state;
    golden_slot(slot);
    for (size_t bit = 0; bit < sizeof slot * 8; bit++) {
        slot[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_int_equal(lane_super_decode(slot, sizeof slot, &got, &gen, &err),
                         -EBADMSG);
        slot[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    assert_string_equal(err_code_text(err.code), "CAP-0003");
}

/* Each rule broken once, under a right checksum. */
static void
rules(void **state)
{
    static const struct {
        size_t at;
        uint8_t value;
        int rc;
    } t[] = {
        { 4, 2, -EPROTONOSUPPORT }, /* version */
        { 6, 0x80, -EBADMSG },      /* flags */
        { 108, 81, -EBADMSG },      /* count */
        { 108, 1, -EBADMSG },       /* a volume that is not counted */
        { 112 + 1, 1, -EBADMSG },   /* number 256 */
        { 112 + 2, 1, -EBADMSG },   /* reserved */
        { 4091, 1, -EBADMSG },      /* reserved */
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
        uint8_t slot[LANE_SUPER_SLOT];
        struct err err = ERR_INIT;
        struct lane_super got;
        uint64_t gen;

        golden_slot(slot);
        slot[t[i].at] = t[i].value;
        put_le32(slot + 4092, crc32c(0, slot, 4092));
        assert_int_equal(lane_super_decode(slot, sizeof slot, &got, &gen, &err),
                         t[i].rc);
        assert_string_equal(err_code_text(err.code),
                            t[i].rc == -EBADMSG ? "CAP-0003" : "CAP-0004");
    }
}

/* --- the file ----------------------------------------------------------- */

static struct io_loop *loop;
static char dir[64], path[96];

static int
setup(void **state)
{
    const struct io_loop_config cfg = { .backend = IO_BACKEND_EPOLL };

    (void)state;
    (void)snprintf(dir, sizeof dir, "/tmp/hf-super.XXXXXX");
    assert_non_null(mkdtemp(dir));
    (void)snprintf(path, sizeof path, "%s/lane.super", dir);
    return io_loop_new(&cfg, &loop, NULL);
}

static int
teardown(void **state)
{
    (void)state;
    (void)io_rmdir_tree(loop, dir, NULL);
    io_loop_free(loop);
    return 0;
}

static void
slurp(uint8_t out[2 * LANE_SUPER_SLOT])
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    assert_true(fd >= 0);
    assert_int_equal(read(fd, out, 2 * LANE_SUPER_SLOT), 2 * LANE_SUPER_SLOT);
    (void)close(fd);
}

static void
spill(const uint8_t *p, size_t n)
{
    int fd = open(path, O_WRONLY | O_TRUNC | O_CLOEXEC);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, p, n), (ssize_t)n);
    (void)close(fd);
}

static void
store_and_load(void **state)
{
    static uint8_t before[2 * LANE_SUPER_SLOT], after[2 * LANE_SUPER_SLOT];
    struct lane_super s = sample(), got;
    struct err err = ERR_INIT;

    (void)state;
    assert_int_equal(lane_super_load(loop, path, &got, &err), -ENOENT);
    for (uint32_t i = 0; i < 5; i++) {
        int changed;

        if (i > 0)
            slurp(before);
        s.fencing_epoch = i;
        assert_int_equal(lane_super_store(loop, path, &s, &err), 0);
        assert_int_equal(lane_super_load(loop, path, &got, &err), 0);
        assert_int_equal(got.fencing_epoch, i);
        slurp(after);
        if (i == 0)
            continue;
        /* the truth of before is still there */
        changed = i % 2;
        assert_memory_equal(before + (changed ? 0 : LANE_SUPER_SLOT),
                            after + (changed ? 0 : LANE_SUPER_SLOT),
                            LANE_SUPER_SLOT);
        assert_memory_not_equal(before + (changed ? LANE_SUPER_SLOT : 0),
                                after + (changed ? LANE_SUPER_SLOT : 0),
                                LANE_SUPER_SLOT);
    }
    s.n_volumes = 81;
    assert_int_equal(lane_super_store(loop, path, &s, &err), -EINVAL);
}

/* A store torn at every length: the state before it is what is loaded. */
static void
torn_store(void **state)
{
    static uint8_t before[2 * LANE_SUPER_SLOT], after[2 * LANE_SUPER_SLOT];
    struct lane_super s = sample(), got;

    (void)state;
    s.fencing_epoch = 1;
    assert_int_equal(lane_super_store(loop, path, &s, NULL), 0);
    s.fencing_epoch = 2;
    assert_int_equal(lane_super_store(loop, path, &s, NULL), 0);
    slurp(before);
    s.fencing_epoch = 3; /* goes to the first slot */
    assert_int_equal(lane_super_store(loop, path, &s, NULL), 0);
    slurp(after);
    for (size_t n = 1; n < LANE_SUPER_SLOT; n += 37) {
        static uint8_t torn[2 * LANE_SUPER_SLOT];

        memcpy(torn, before, sizeof torn);
        memcpy(torn, after, n);
        spill(torn, sizeof torn);
        assert_int_equal(lane_super_load(loop, path, &got, NULL), 0);
        assert_true(got.fencing_epoch == 2 ||
                    memcmp(torn, after, sizeof torn) == 0);
        /* and the next store heals it */
        s.fencing_epoch = 4;
        assert_int_equal(lane_super_store(loop, path, &s, NULL), 0);
        assert_int_equal(lane_super_load(loop, path, &got, NULL), 0);
        assert_int_equal(got.fencing_epoch, 4);
    }
}

static void
damaged_and_newer(void **state)
{
    static uint8_t good[2 * LANE_SUPER_SLOT], bytes[2 * LANE_SUPER_SLOT],
        now[2 * LANE_SUPER_SLOT];
    struct lane_super s = sample(), got;
    struct err err = ERR_INIT;

    (void)state;
    assert_int_equal(lane_super_store(loop, path, &s, NULL), 0);
    assert_int_equal(lane_super_store(loop, path, &s, NULL), 0);
    slurp(good);

    memcpy(bytes, good, sizeof bytes);
    bytes[100] ^= 1;
    bytes[LANE_SUPER_SLOT + 100] ^= 1;
    spill(bytes, sizeof bytes);
    assert_int_equal(lane_super_load(loop, path, &got, &err), -EBADMSG);
    assert_string_equal(err_code_text(err.code), "CAP-0003");
    assert_non_null(strstr(err.msg, path));
    assert_int_equal(lane_super_store(loop, path, &s, &err), -EBADMSG);
    slurp(now);
    assert_memory_equal(now, bytes, sizeof now);

    spill(good, LANE_SUPER_SLOT / 2); /* cut short */
    assert_int_equal(lane_super_load(loop, path, &got, &err), -EBADMSG);
    spill(good, LANE_SUPER_SLOT); /* one slot is enough to read */
    assert_int_equal(lane_super_load(loop, path, &got, &err), 0);

    for (size_t slot = 0; slot < 2; slot++) {
        uint8_t *p = bytes + slot * LANE_SUPER_SLOT;

        memcpy(bytes, good, sizeof bytes);
        put_le16(p + 4, 2);
        put_le32(p + 4092, crc32c(0, p, 4092));
        spill(bytes, sizeof bytes);
        assert_int_equal(lane_super_load(loop, path, &got, &err),
                         -EPROTONOSUPPORT);
        assert_string_equal(err_code_text(err.code), "CAP-0004");
        assert_int_equal(lane_super_store(loop, path, &s, &err),
                         -EPROTONOSUPPORT);
        slurp(now);
        assert_memory_equal(now, bytes, sizeof now); /* untouched */
    }
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trip_and_golden),
        cmocka_unit_test(cut_at_every_length),
        cmocka_unit_test(flip_every_bit),
        cmocka_unit_test(rules),
        cmocka_unit_test_setup_teardown(store_and_load, setup, teardown),
        cmocka_unit_test_setup_teardown(torn_store, setup, teardown),
        cmocka_unit_test_setup_teardown(damaged_and_newer, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
