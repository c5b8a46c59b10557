/* room: journal lane io common */
/* The overlay's files: the codecs' four tests, reopening, crashes that tear map
 * pages, damage that must be noticed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/crc32c.h"
#include "journal/overlay.h"
#include "tests/unit/helper_io.h"

static struct io_loop *loop;
static char *dir;

static struct overlay_header
a_header(uint64_t size)
{
    struct overlay_header h = { .vol = 3, .size = size };

    for (unsigned i = 0; i < 16; i++)
        h.view.u.b[i] = (uint8_t)(0xa0 + i);
    return h;
}

static struct overlay_page
a_page(void)
{
    struct overlay_page pg = { .page_no = 2, .gen = 9 };

    pg.bits[0] = 0x81;
    pg.bits[sizeof pg.bits - 1] = 0x80;
    return pg;
}

static void
codec_round_trip_and_golden(void **state)
{
    static const uint8_t head[84] = {
        0x48, 0x66, 0x6f, 0x6c, 0x01, 0x00, 0x00, 0x00, 0x54, 0x00, 0x00, 0x00,
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
        0xa0, 0xa1, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7, 0xa8, 0xa9, 0xaa, 0xab,
        0xac, 0xad, 0xae, 0xaf, 0x03, 0x00, 0x00, 0x00, 0x00, 0x02, 0x00, 0x40,
        0x00, 0x00, 0x00, 0x00, 0x05, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
        0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 0x00, 0x10, 0x00, 0x00,
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x28, 0xda, 0x89, 0xae
    };
    static const uint8_t page[25] = { 0x48, 0x66, 0x6f, 0x70, 0xe3, 0x7f, 0x81,
                                      0x56, 0x02, 0x00, 0x00, 0x00, 0x00, 0x00,
                                      0x00, 0x00, 0x09, 0x00, 0x00, 0x00, 0x00,
                                      0x00, 0x00, 0x00, 0x81 };
    static const uint8_t page_end[9] = { 0x80, 0,    0,    0,   0,
                                         0x49, 0x18, 0x91, 0x52 };
    static uint8_t p[OVERLAY_PAGE];
    struct overlay_header h = a_header(0x40000200), h2;
    struct overlay_page pg = a_page(), pg2;

    h.flush_no = 5;
    h.pages_sum = 0x1122334455667788;
    overlay_header_encode(&h, p);
    assert_memory_equal(p, head, sizeof head);
    assert_int_equal(overlay_header_decode(p, OVERLAY_PAGE, &h2), 0);
    assert_memory_equal(&h2.view, &h.view, sizeof h.view);
    assert_true(h2.vol == 3 && h2.size == h.size && h2.flush_no == 5 &&
                h2.pages_sum == h.pages_sum);
    overlay_page_encode(&pg, overlay_tag(&h), p);
    assert_memory_equal(p, page, sizeof page);
    assert_memory_equal(p + OVERLAY_PAGE - 9, page_end, sizeof page_end);
    assert_int_equal(overlay_page_decode(p, OVERLAY_PAGE, overlay_tag(&h), &pg2),
                     0);
    assert_true(pg2.page_no == 2 && pg2.gen == 9);
    assert_memory_equal(pg2.bits, pg.bits, sizeof pg.bits);
    assert_int_equal(overlay_page_decode(p, OVERLAY_PAGE, overlay_tag(&h) + 1,
                                         &pg2),
                     -EBADMSG);
    memset(p, 0, sizeof p);
    assert_int_equal(overlay_page_decode(p, OVERLAY_PAGE, 1, &pg2), 1);
}

static void
codec_cut_and_flip(void **state)
{
    static uint8_t p[2][OVERLAY_PAGE];
    struct overlay_header h = a_header(1 << 20);
    struct overlay_page pg = a_page();

    overlay_header_encode(&h, p[0]);
    overlay_page_encode(&pg, 77, p[1]);
    for (size_t len = 0; len < OVERLAY_PAGE; len++) {
        assert_int_equal(overlay_header_decode(p[0], len, &h), -ENODATA);
        assert_int_equal(overlay_page_decode(p[1], len, 77, &pg), -ENODATA);
    }
    for (unsigned bit = 0; bit < OVERLAY_PAGE * 8; bit++) {
        for (unsigned k = 0; k < 2; k++)
            p[k][bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_int_equal(overlay_header_decode(p[0], OVERLAY_PAGE, &h),
                         -EBADMSG);
        assert_int_equal(overlay_page_decode(p[1], OVERLAY_PAGE, 77, &pg),
                         -EBADMSG);
        for (unsigned k = 0; k < 2; k++)
            p[k][bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    put_le32(p[0] + 4, 2);
    put_le32(p[0] + 80, crc32c(0, p[0], 80));
    assert_int_equal(overlay_header_decode(p[0], OVERLAY_PAGE, &h),
                     -EPROTONOSUPPORT);
}

/* --- files --------------------------------------------------------------------- */

enum {
    BLOCKS = OVERLAY_PAGE_BITS * 3 + 1000
};
#define SIZE ((uint64_t)BLOCKS * OVERLAY_BLOCK - 512)

static void
file_name(const char *kind, char out[512])
{
    struct overlay_header h = a_header(SIZE);
    char id[UUID_TEXT_SIZE];

    uuid_format(&h.view.u, id);
    (void)snprintf(out, 512, "%s/view.%s.003.%s", dir, id, kind);
}

static struct overlay *
reopen(bool create)
{
    struct overlay_header h = a_header(SIZE);
    struct overlay *o = NULL;
    struct err err = ERR_INIT;

    if (overlay_open(loop, dir, &h, create, &o, &err) < 0)
        fail_msg("%s", err.msg);
    return o;
}

static int
flush(struct overlay *o)
{
    struct overlay_flush *f;
    int rc = overlay_flush_begin(o, &f);

    if (rc == 0) {
        rc = overlay_flush_run(f, NULL);
        overlay_flush_end(f, rc);
    }
    return rc;
}

static void
mark(struct overlay *o, uint8_t *model, uint64_t first, uint64_t n)
{
    assert_int_equal(overlay_prepare(o, first, n), 0);
    overlay_mark(o, first, n, true);
    memset(model + first, 1, n);
}

static void
check(const struct overlay *o, const uint8_t *model)
{
    for (uint64_t b = 0, end; b < BLOCKS; b = end) {
        bool has;

        end = overlay_stretch(o, b, BLOCKS, &has);
        assert_true(end > b);
        for (; b < end; b++)
            assert_int_equal(model[b], has);
    }
}

static uint8_t *
slurp(size_t *len)
{
    char path[512];
    uint8_t *p;

    file_name("map", path);
    assert_int_equal(io_read_whole(loop, path, 1 << 24, &p, len, NULL), 0);
    return p;
}

static void
spit(const uint8_t *p, size_t len)
{
    char path[512];

    file_name("map", path);
    assert_int_equal(io_replace_whole(loop, path, p, len, NULL), 0);
}

static uint64_t rng = 1;

static uint64_t
rnd(uint64_t n)
{
    rng = rng * 6364136223846793005u + 1442695040888963407u;
    return (rng >> 33) % n;
}

static void
data_and_reopen(void **state)
{
    static uint8_t model[BLOCKS], buf[OVERLAY_BLOCK], got[OVERLAY_BLOCK];
    struct overlay *o = reopen(true);

    memset(model, 0, sizeof model);
    assert_int_equal(overlay_cost(o, 0, BLOCKS), BLOCKS);
    for (unsigned i = 0; i < 40; i++) {
        uint64_t b = rnd(BLOCKS - 1);

        memset(buf, (int)i + 1, sizeof buf);
        assert_int_equal(overlay_write(o, buf, sizeof buf, b * OVERLAY_BLOCK),
                         0);
        mark(o, model, b, 1);
        if (i % 8 == 0)
            assert_int_equal(flush(o), 0);
    }
    memset(buf, 0x77, sizeof buf);
    assert_int_equal(overlay_write(o, buf, sizeof buf, 0), 0);
    mark(o, model, 0, 1);
    assert_int_equal(overlay_prepare(o, 50, 100), 0);
    assert_int_equal(overlay_zero(o, 100 * OVERLAY_BLOCK, 50 * OVERLAY_BLOCK,
                                  false),
                     0);
    overlay_mark(o, 50, 100, false);
    memset(model + 50, 1, 100);
    assert_int_equal(flush(o), 0);
    check(o, model);
    overlay_close(o);
    o = reopen(false);
    check(o, model);
    assert_int_equal(overlay_read(o, got, sizeof got, 0), 0);
    assert_memory_equal(got, buf, sizeof buf);
    /* Zeros take no space, also after a restart. */
    assert_true(overlay_data_blocks(o) <= 41 + 16);
    assert_true(overlay_cost(o, 50, 100) >= 84);
    overlay_close(o);
}

/* Sectors of what was not synced arrive or do not. */
static void
torn_flush(void **state)
{
    static uint8_t before[BLOCKS], after[BLOCKS];

    for (unsigned round = 0; round < 60; round++) {
        struct overlay *o = reopen(true);
        size_t old_len, new_len;
        uint8_t *old, *new, *mix;

        memset(before, 0, sizeof before);
        for (unsigned k = 0; k < round % 4; k++) {
            for (unsigned i = 0; i < 5; i++)
                mark(o, before, rnd(BLOCKS - 40), 1 + rnd(40));
            assert_int_equal(flush(o), 0);
        }
        old = slurp(&old_len);
        memcpy(after, before, sizeof after);
        for (unsigned i = 0; i < 5; i++)
            mark(o, after, rnd(BLOCKS - 40), 1 + rnd(40));
        assert_int_equal(flush(o), 0);
        overlay_close(o);
        new = slurp(&new_len);
        /* The header did not arrive, pages in any mixture. */
        mix = calloc(1, new_len);
        for (size_t at = 0; at < new_len; at += 512) {
            bool pages = at >= 2 * OVERLAY_PAGE;

            if (pages && rnd(2))
                memcpy(mix + at, new + at, 512);
            else if (at < old_len)
                memcpy(mix + at, old + at, 512);
        }
        spit(mix, new_len);
        o = reopen(false);
        check(o, before);
        /* And goes on from there. */
        mark(o, before, 7, 1);
        assert_int_equal(flush(o), 0);
        overlay_close(o);
        o = reopen(false);
        check(o, before);
        overlay_close(o);
        spit(new, new_len);
        o = reopen(false);
        check(o, after);
        overlay_close(o);
        free(old);
        free(new);
        free(mix);
    }
}

/* A byte changed anywhere: refused, or the same map as before. */
static void
damage_is_noticed(void **state)
{
    static uint8_t model[BLOCKS];
    struct overlay *o = reopen(true);
    struct overlay_header h = a_header(SIZE);
    struct err err = ERR_INIT;
    unsigned refused = 0;
    size_t len;
    uint8_t *p;

    memset(model, 0, sizeof model);
    for (unsigned k = 0; k < 3; k++) {
        for (unsigned i = 0; i < 6; i++)
            mark(o, model, rnd(BLOCKS - 40), 1 + rnd(40));
        assert_int_equal(flush(o), 0);
    }
    overlay_close(o);
    p = slurp(&len);
    for (size_t at = 0; at < len; at += at < 2 * OVERLAY_PAGE ? 5 : 211) {
        p[at] ^= 0x04;
        spit(p, len);
        p[at] ^= 0x04;
        o = NULL;
        if (overlay_open(loop, dir, &h, false, &o, &err) == 0) {
            check(o, model);
            overlay_close(o);
        } else {
            assert_int_equal(err.code, ERR_JNL_0054);
            refused++;
        }
    }
    assert_true(refused > 1640);
    /* Cut, or of another view, or newer. */
    spit(p, OVERLAY_PAGE);
    assert_int_equal(overlay_open(loop, dir, &h, false, &o, &err), -EBADMSG);
    put_le32(p + 4, 2);
    put_le32(p + 80, crc32c(0, p, 80));
    spit(p, len);
    assert_int_equal(overlay_open(loop, dir, &h, false, &o, &err),
                     -EPROTONOSUPPORT);
    assert_int_equal(err.code, ERR_JNL_0052);
    free(p);
    overlay_remove(loop, dir, &h);
    assert_int_equal(overlay_open(loop, dir, &h, false, &o, &err), -ENOENT);
}

static int
set_up(void **state)
{
    loop = helper_loop(IO_BACKEND_EPOLL, 1);
    dir = helper_tmpdir("/dev/shm");
    return loop && dir ? 0 : -1;
}

static int
tear_down(void **state)
{
    helper_rmdir(dir);
    io_loop_free(loop);
    return 0;
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(codec_round_trip_and_golden),
        cmocka_unit_test(codec_cut_and_flip),
        cmocka_unit_test(data_and_reopen),
        cmocka_unit_test(torn_flush),
        cmocka_unit_test(damage_is_noticed),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
