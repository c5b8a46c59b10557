/* room: journal lane io common */
/* The formats of the journal's storage: round trip, golden bytes, cut at every
 * length, one bit flipped at every position (STYLE.md 7). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "journal/manifest.h"
#include "journal/points.h"
#include "journal/segment.h"
#include "tests/unit/helper_journal.h"

typedef int (*decode_fn)(const uint8_t *p, size_t len);

/* Cut at every length and flipped at every bit: never accepted. */
static void
cut_and_flip(const uint8_t *good, size_t len, decode_fn decode)
{
    uint8_t *p = malloc(len);

    assert_int_equal(decode(good, len), 0);
    for (size_t n = 0; n < len; n++) {
        uint8_t *part = malloc(n ? n : 1); /* so that ASan sees an overread */

        memcpy(part, good, n);
        assert_true(decode(part, n) < 0);
        free(part);
    }
    memcpy(p, good, len);
    for (size_t bit = 0; bit < len * 8; bit++) {
        p[bit / 8] ^= (uint8_t)(1u << bit % 8);
        if (decode(p, len) == 0)
            fail_msg("bit %zu of byte %zu may be flipped", bit % 8, bit / 8);
        p[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    free(p);
}

static struct seg_header
some_header(void)
{
    struct seg_header h = { .lane = 3,
                            .no = 17,
                            .size = 4 * MIB,
                            .first_batch = 99,
                            .first_seq = lane_seq(2, 1000) };

    memset(h.vpg.u.b, 0x11, 16);
    memset(h.incarnation.u.b, 0x22, 16);
    memset(h.prev_digest, 0x33, 16);
    return h;
}

static int
decode_header(const uint8_t *p, size_t len)
{
    struct seg_header h;

    return seg_header_decode(p, len, &h);
}

static const char golden_seg_header[] =
    "4866647301007000000000000000000011111111111111111111111111111111"
    "0300000011000000000040000000000022222222222222222222222222222222"
    "6300000000000000e8030000000200003333333333333333333333333333333300"
    "0000000000000000000000";

static void
seg_header_format(void **state)
{
    struct seg_header h = some_header(), back;
    uint8_t b[SEG_HEADER_SIZE];
    char hex[2 * 108 + 1];

    seg_header_encode(&h, b);
    assert_int_equal(seg_header_decode(b, sizeof b, &back), 0);
    assert_memory_equal(&back, &h, sizeof h);
    hex_encode(b, 108, hex);
    assert_string_equal(hex, golden_seg_header);
    cut_and_flip(b, sizeof b, decode_header);
    put_le16(b + 4, 2); /* the version is looked at after the checksum */
    assert_int_equal(decode_header(b, sizeof b), -EBADMSG);
}

static int
decode_footer(const uint8_t *p, size_t len)
{
    struct seg_tables *t = NULL;
    int rc = seg_footer_decode(p, len, 0xABCD, &t, NULL);

    seg_tables_free(t);
    return rc;
}

static void
seg_footer_format(void **state)
{
    struct seg_tables *t = seg_tables_new(), *back = NULL;
    struct gen g;
    uint32_t off = SEG_HEADER_SIZE;
    struct err e = ERR_INIT;
    uint8_t *foot;
    size_t len;

    gen_init(&g, 5);
    for (unsigned i = 0; i < 3; i++) {
        const struct gen_batch *b =
            &g.batches[gen_make(&g, 3, i == 1 ? GEN_CUT : 0, "x")];
        struct batch_view v;

        assert_int_equal(batch_decode(b->bytes, b->size, &v, NULL), 0);
        assert_int_equal(seg_tables_add(t, &v, off), 0);
        off += (uint32_t)round_up(b->size, SEG_ALIGN);
    }
    assert_int_equal(seg_tables_end(t), off);
    foot = seg_footer_encode(t, 0xABCD, &len);
    assert_int_equal(seg_footer_decode(foot, len, 0xABCD, &back, &e), 0);
    assert_int_equal(atomic_load(&back->n_batches), 3);
    assert_int_equal(back->n_cuts, 1);
    assert_int_equal(back->cuts[0].seq, g.cuts[0].seq);
    for (unsigned i = 0; i < 3; i++) {
        const struct seg_batch *a = &t->batches[i], *c = &back->batches[i];

        assert_int_equal(a->off, c->off);
        assert_int_equal(a->size, c->size);
        assert_int_equal(a->first_entry, c->first_entry);
        assert_int_equal(a->n_entries, c->n_entries);
        assert_int_equal(a->first_chunk, c->first_chunk);
        assert_int_equal(a->n_chunks, c->n_chunks);
        assert_int_equal(a->batch_no, c->batch_no);
        assert_int_equal(a->first_seq, c->first_seq);
        assert_int_equal(a->last_seq, c->last_seq);
        assert_int_equal(a->flags, c->flags);
    }
    assert_memory_equal(back->entries, t->entries,
                        seg_tables_entries(t) * BATCH_ENTRY_SIZE);
    assert_memory_equal(back->chunks, t->chunks,
                        seg_tables_chunks(t) * BATCH_CHUNK_SIZE);
    assert_memory_equal(back->digest, t->digest, 16);
    seg_tables_free(back);
    assert_int_equal(seg_footer_decode(foot, len, 1, &back, &e), -EBADMSG);
    assert_int_equal(e.code, ERR_JNL_0003);
    assert_memory_equal(foot, "Hfsf\1\0\x88\0\xcd\xab\0\0", 12);
    cut_and_flip(foot, len, decode_footer);
    io_mem_free(foot, len);
    seg_tables_free(t);
    gen_release(&g);
}

static int
decode_points_header(const uint8_t *p, size_t len)
{
    struct points_header h;

    return points_header_decode(p, len, &h);
}

static int
decode_point(const uint8_t *p, size_t len)
{
    struct point_rec r;

    return point_rec_decode(p, len, 9, &r);
}

static void
points_format(void **state)
{
    struct points_header h = { .lane = 4, .gen = 9, .synced = 77 }, hb;
    struct point_rec r = { .cut_no = 5,
                           .seq = lane_seq(1, 6),
                           .wall_ns = 7,
                           .up_ns = 8,
                           .kind = 1,
                           .consistency = 1,
                           .flags = POINT_TAGGED },
                     rb;
    uint8_t b[POINTS_HEADER];
    char hex[2 * 40 + 1];

    memset(h.vpg.u.b, 0x44, 16);
    points_header_encode(&h, b);
    assert_int_equal(points_header_decode(b, sizeof b, &hb), 0);
    assert_memory_equal(&hb, &h, sizeof h);
    cut_and_flip(b, sizeof b, decode_points_header);
    point_rec_encode(&r, 9, b);
    assert_int_equal(point_rec_decode(b, sizeof b, 9, &rb), 0);
    assert_int_equal(rb.cut_no, r.cut_no);
    assert_int_equal(rb.seq, r.seq);
    assert_int_equal(rb.wall_ns, r.wall_ns);
    assert_int_equal(rb.up_ns, r.up_ns);
    assert_int_equal(rb.kind, r.kind);
    assert_int_equal(rb.consistency, r.consistency);
    assert_int_equal(rb.flags, r.flags);
    hex_encode(b, 40, hex);
    assert_string_equal(hex, "0500000000000000"
                             "0600000000010000"
                             "0700000000000000"
                             "0800000000000000"
                             "0101010009000000");
    cut_and_flip(b, sizeof b, decode_point);
    assert_int_equal(point_rec_decode(b, sizeof b, 8, &rb), -EBADMSG);
}

static int
decode_man_header(const uint8_t *p, size_t len)
{
    struct man_header h;

    return man_header_decode(p, len, &h);
}

static int
decode_man_rec(const uint8_t *p, size_t len)
{
    struct man_rec r;
    size_t n;
    int rc = man_rec_decode(p, len, 42, 0x1234, &r, &n);

    return rc == 0 && n != len ? -EBADMSG : rc;
}

static void
manifest_format(void **state)
{
    struct man_header h = { .lane = 4, .first_number = 42, .prev_crc = 6 }, hb;
    static struct man_rec all[MAN_MENDED + 1];
    size_t n = 0, len, used;
    uint8_t b[4096];
    char hex[2 * 24 + 1];

    memset(h.vpg.u.b, 0x55, 16);
    man_header_encode(&h, b);
    assert_int_equal(man_header_decode(b, MANIFEST_HEADER, &hb), 0);
    assert_memory_equal(hb.vpg.u.b, h.vpg.u.b, 16);
    assert_int_equal(hb.lane, h.lane);
    assert_int_equal(hb.first_number, h.first_number);
    assert_int_equal(hb.prev_crc, h.prev_crc);
    cut_and_flip(b, MANIFEST_HEADER, decode_man_header);

    memset(all, 0, sizeof all);
    for (unsigned type = MAN_GEOMETRY; type <= MAN_MENDED; type++)
        all[n++].type = (enum man_type)type;
    all[MAN_GEOMETRY - 1].u.volume = (struct journal_volume){ 3, GIB };
    all[MAN_SEG_NEW - 1].u.seg = (struct man_seg){ .no = 5, .size = MIB };
    all[MAN_SEG_SEAL - 1].u.seg =
        (struct man_seg){ .no = 5, .end = 8192, .last_seq = 77, .up_ns = 3 };
    all[MAN_PIN_ADD - 1].u.view.cfg.n_vols = 2;
    all[MAN_PIN_ADD - 1].u.view.cfg.vols[1] = 1;
    (void)snprintf(all[MAN_PIN_ADD - 1].u.view.point.tag, 20, "a tag");
    (void)snprintf(all[MAN_TAG - 1].u.tag.text, 20, "another");
    for (size_t i = 0; i < n; i++) {
        struct man_rec *r = calloc(1, sizeof *r);

        len = man_rec_encode(&all[i], 42, 0x1234, b, sizeof b);
        assert_true(len > MANIFEST_REC_HEADER);
        assert_int_equal(man_rec_decode(b, len, 42, 0x1234, r, &used), 0);
        assert_int_equal(used, len);
        assert_int_equal(r->type, all[i].type);
        /* Encoding what was decoded gives the same bytes. */
        {
            uint8_t again[4096];

            assert_int_equal(man_rec_encode(r, 42, 0x1234, again, sizeof again),
                             len);
            assert_memory_equal(again, b, len);
        }
        free(r);
        cut_and_flip(b, len, decode_man_rec);
    }
    len = man_rec_encode(&all[0], 42, 0x1234, b, sizeof b);
    hex_encode(b, 24, hex);
    assert_string_equal(hex, "48666d72010000000a000000341200002a00000000000000");
    hex_encode(b + MANIFEST_REC_HEADER, 10, hex);
    assert_string_equal(hex, "03000000004000000000");
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(seg_header_format),
        cmocka_unit_test(seg_footer_format),
        cmocka_unit_test(points_format),
        cmocka_unit_test(manifest_format),
    };

    return cmocka_run_group_tests_name("journal formats", tests, NULL, NULL);
}
