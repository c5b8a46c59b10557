/* room: journal lane io common */
/* Run files: the codecs' four tests, building, looking up and merging against a
 * map in memory, damage at every byte, the page cache's bounds. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/crc32c.h"
#include "journal/run.h"
#include "journal/runset.h"
#include "tests/unit/helper_index.h"
#include "tests/unit/helper_io.h"

static uint64_t rng;

static uint64_t
rnd(uint64_t n)
{
    rng = rng * 6364136223846793005u + 1442695040888963407u;
    return (rng >> 33) % n;
}

static struct run_header
a_header(void)
{
    struct run_header h = { .lane = 7,
                            .info = { .level = 1,
                                      .first_seg = 8,
                                      .last_seg = 15,
                                      .first_seq = 1000,
                                      .last_seq = 0x20000000123 } };

    for (unsigned i = 0; i < 16; i++)
        h.vpg.u.b[i] = (uint8_t)(i * 3 + 1);
    return h;
}

static struct run_footer
a_footer(void)
{
    return (struct run_footer){ .header_crc = 0x01020304,
                                .records = 200,
                                .pages = 2,
                                .fence_off = 3 * RUN_PAGE,
                                .filter_off = 4 * RUN_PAGE,
                                .fence_len = 16,
                                .filter_len = 40,
                                .fence_crc = 5,
                                .filter_crc = 6,
                                .region_shift = RUN_REGION_SHIFT,
                                .first_key = ext_key(1, 8),
                                .last_key = ext_key(2, 4096) };
}

static unsigned
a_page(uint8_t *out)
{
    struct ext_rec r[3] = {
        { .key = ext_key(1, 8), .len512 = 8, .seg = 3, .chunk = 9 },
        { .key = ext_key(1, 16), .len512 = 4096, .chunk = EXT_CHUNK_ZERO },
        { .key = ext_key(2, 0),
          .len512 = 1,
          .seg = 4,
          .chunk = 1,
          .chunk_off512 = 127 },
    };

    run_page_encode(r, 3, 1, 0x01020304, out);
    return 3;
}

static void
codec_round_trip(void **state)
{
    static uint8_t p[RUN_PAGE];
    struct run_header h = a_header(), h2;
    struct run_footer f = a_footer(), f2;
    struct ext_rec r;
    unsigned n;

    run_header_encode(&h, p);
    assert_int_equal(run_header_decode(p, RUN_PAGE, &h2), 0);
    assert_memory_equal(&h.vpg, &h2.vpg, sizeof h.vpg);
    assert_true(h2.lane == 7 && h2.info.level == 1 && h2.info.first_seg == 8 &&
                h2.info.last_seg == 15 && h2.info.first_seq == 1000 &&
                h2.info.last_seq == 0x20000000123);
    run_footer_encode(&f, p);
    assert_int_equal(run_footer_decode(p, RUN_PAGE, &f2), 0);
    assert_true(f2.records == 200 && f2.pages == 2 && f2.fence_crc == 5 &&
                f2.filter_crc == 6 && f2.first_key == f.first_key &&
                f2.last_key == f.last_key);
    (void)a_page(p);
    assert_int_equal(run_page_check(p, RUN_PAGE, 1, 0x01020304, &n), 0);
    assert_int_equal(n, 3);
    run_rec_decode(p + 2 * RUN_REC_SIZE, &r);
    assert_true(r.key == ext_key(2, 0) && r.chunk_off512 == 127 && r.seg == 4);
}

/* The first bytes and the checksum of each block: docs/formats/run.md,
 * version 1.  These never change. */
static void
codec_golden(void **state)
{
    static const uint8_t head[76] = {
        0x48, 0x66, 0x75, 0x6e, 0x01, 0x00, 0x00, 0x00, 0x4c, 0x00, 0x00,
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
        0x00, 0x00, 0x01, 0x04, 0x07, 0x0a, 0x0d, 0x10, 0x13, 0x16, 0x19,
        0x1c, 0x1f, 0x22, 0x25, 0x28, 0x2b, 0x2e, 0x07, 0x00, 0x00, 0x00,
        0x01, 0x00, 0x00, 0x00, 0x08, 0x00, 0x00, 0x00, 0x0f, 0x00, 0x00,
        0x00, 0xe8, 0x03, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x23, 0x01,
        0x00, 0x00, 0x00, 0x02, 0x00, 0x00, 0x8a, 0xa7, 0xc7, 0x47
    };
    static const uint8_t rec[24] = { 0x08, 0x00, 0x00, 0x00, 0x00, 0x00,
                                     0x01, 0x00, 0x08, 0x00, 0x00, 0x00,
                                     0x03, 0x00, 0x00, 0x00, 0x09, 0x00,
                                     0x00, 0x00, 0x00, 0x00, 0x00, 0x00 };
    static const uint8_t trailer[16] = { 0x03, 0x00, 0x00, 0x00, 0x01, 0x00,
                                         0x00, 0x00, 0x04, 0x03, 0x02, 0x01,
                                         0xb0, 0x7c, 0x95, 0x13 };
    static const uint8_t foot[84] = {
        0x48, 0x66, 0x75, 0x66, 0x04, 0x03, 0x02, 0x01, 0xc8, 0x00, 0x00, 0x00,
        0x00, 0x00, 0x00, 0x00, 0x02, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
        0x00, 0x30, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x40, 0x00, 0x00,
        0x00, 0x00, 0x00, 0x00, 0x10, 0x00, 0x00, 0x00, 0x28, 0x00, 0x00, 0x00,
        0x05, 0x00, 0x00, 0x00, 0x06, 0x00, 0x00, 0x00, 0x0b, 0x00, 0x00, 0x00,
        0x08, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01, 0x00, 0x00, 0x10, 0x00, 0x00,
        0x00, 0x00, 0x02, 0x00, 0x00, 0x00, 0x00, 0x00, 0xff, 0x2b, 0x70, 0xca
    };
    static uint8_t p[RUN_PAGE];
    struct run_header h = a_header();
    struct run_footer f = a_footer();

    run_header_encode(&h, p);
    assert_memory_equal(p, head, sizeof head);
    assert_true(bytes_all_zero(p + sizeof head, RUN_PAGE - sizeof head));
    (void)a_page(p);
    assert_memory_equal(p, rec, sizeof rec);
    assert_memory_equal(p + 4080, trailer, sizeof trailer);
    run_footer_encode(&f, p);
    assert_memory_equal(p, foot, sizeof foot);
}

static void
codec_cut_and_flip(void **state)
{
    static uint8_t p[3][RUN_PAGE];
    struct run_header h = a_header();
    struct run_footer f = a_footer();
    unsigned n;

    run_header_encode(&h, p[0]);
    run_footer_encode(&f, p[1]);
    (void)a_page(p[2]);
    for (size_t len = 0; len < RUN_PAGE; len++) {
        assert_int_equal(run_header_decode(p[0], len, &h), -ENODATA);
        assert_int_equal(run_footer_decode(p[1], len, &f), -ENODATA);
        assert_int_equal(run_page_check(p[2], len, 1, 0x01020304, &n), -ENODATA);
    }
    for (unsigned bit = 0; bit < RUN_PAGE * 8; bit++) {
        for (unsigned k = 0; k < 3; k++)
            p[k][bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_int_equal(run_header_decode(p[0], RUN_PAGE, &h), -EBADMSG);
        assert_int_equal(run_footer_decode(p[1], RUN_PAGE, &f), -EBADMSG);
        assert_int_equal(run_page_check(p[2], RUN_PAGE, 1, 0x01020304, &n),
                         -EBADMSG);
        for (unsigned k = 0; k < 3; k++)
            p[k][bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    /* A page in another place or of another run. */
    assert_int_equal(run_page_check(p[2], RUN_PAGE, 2, 0x01020304, &n),
                     -EBADMSG);
    assert_int_equal(run_page_check(p[2], RUN_PAGE, 1, 0x01020305, &n),
                     -EBADMSG);
    /* A newer version, and one with a flag that must be understood. */
    put_le32(p[0] + 4, 2);
    put_le32(p[0] + 72, crc32c(0, p[0], 72));
    assert_int_equal(run_header_decode(p[0], RUN_PAGE, &h), -EPROTONOSUPPORT);
    put_le32(p[0] + 4, 1);
    put_le32(p[0] + 20, 1);
    put_le32(p[0] + 72, crc32c(0, p[0], 72));
    assert_int_equal(run_header_decode(p[0], RUN_PAGE, &h), -EPROTONOSUPPORT);
}

static void
names(void **state)
{
    struct run_info i = { .level = 2, .first_seg = 64 };
    char name[RUN_NAME_MAX];
    uint8_t level;
    uint32_t seg;

    run_name(&i, name);
    assert_string_equal(name, "run.2.00000064");
    assert_int_equal(run_name_parse(name, &level, &seg), 0);
    assert_true(level == 2 && seg == 64);
    assert_int_equal(run_name_parse("run.2.00000064.tmp", &level, &seg),
                     -EINVAL);
    assert_int_equal(run_name_parse("run.9.00000064", &level, &seg), -EINVAL);
    assert_int_equal(run_name_parse("run.1.4294967296", &level, &seg), -EINVAL);
    assert_int_equal(run_name_parse("seg.00000001", &level, &seg), -EINVAL);
}

/* --- files ------------------------------------------------------------------- */

static struct io_loop *loop;
static char *dir;

static struct extmap *
random_map(unsigned n, uint64_t spread)
{
    struct extmap *m = extmap_new();

    for (unsigned i = 0; i < n; i++) {
        struct ext_rec r = {
            .key = ext_key((uint16_t)(rnd(3) * 5), rnd(spread)),
            .len512 = (uint32_t)(1 + rnd(32)),
            .seg = 8 + (uint32_t)rnd(8),
            .chunk = (uint32_t)rnd(1000),
            .chunk_off512 = (uint32_t)rnd(96),
        };

        if (rnd(8) == 0) {
            r.chunk = EXT_CHUNK_ZERO;
            r.seg = r.chunk_off512 = 0;
            r.len512 = (uint32_t)(1 + rnd(100000));
        }
        assert_int_equal(extmap_put(m, &r), 0);
    }
    return m;
}

static struct run *
build(const struct extmap *m, struct run_info *info)
{
    struct run_header h = a_header();
    struct extmap_iter it;
    struct run *r = NULL;
    struct err err = ERR_INIT;
    char name[RUN_NAME_MAX];

    extmap_iterate(m, 0, UINT64_MAX, &it);
    if (run_build(loop, dir, &h, &it.it, info, &err) < 0)
        fail_msg("%s", err.msg);
    run_name(&h.info, name);
    if (run_open(loop, dir, name, &h, &r, &err) < 0)
        fail_msg("%s", err.msg);
    assert_int_equal(info->bytes, run_info(r)->bytes);
    assert_int_equal(info->records, run_info(r)->records);
    return r;
}

/* Both give the same blocks, however the records are cut. */
static void
same(struct rec_iter *a, struct rec_iter *b)
{
    struct ext_rec ra = { .len512 = 0 }, rb = { .len512 = 0 };

    for (;;) {
        if (ra.len512 == 0 && a->next(a, &ra, NULL) <= 0)
            break;
        if (rb.len512 == 0)
            assert_int_equal(b->next(b, &rb, NULL), 1);
        assert_true(ra.key == rb.key && ra.chunk == rb.chunk &&
                    ra.chunk_off512 == rb.chunk_off512 && ra.seg == rb.seg);
        uint32_t n = MIN(ra.len512, rb.len512);

        if (n < ra.len512)
            ra = ext_clip(&ra, ra.key + n, ext_end(&ra));
        else
            ra.len512 = 0;
        if (n < rb.len512)
            rb = ext_clip(&rb, rb.key + n, ext_end(&rb));
        else
            rb.len512 = 0;
    }
    assert_int_equal(rb.len512, 0);
    assert_true(b->next(b, &rb, NULL) <= 0);
}

static void
lookups(void **state)
{
    static const unsigned sizes[] = { 0, 1, 169, 170, 171, 3000, 20000 };
    struct err err = ERR_INIT;

    for (unsigned s = 0; s < ARRAY_SIZE(sizes); s++) {
        struct extmap *m;
        struct run_info info;
        struct run_iter ri;
        struct extmap_iter mi;
        struct run *r;
        uint64_t bytes;

        rng = s + 1;
        m = random_map(sizes[s], s % 2 ? 1 << 20 : (uint64_t)1 << 33);
        r = build(m, &info);
        assert_int_equal(run_verify(r, &bytes, &err), 0);
        assert_int_equal(bytes, info.bytes);
        assert_true(run_memory(r) < 200 * 1024);
        assert_int_equal(run_scan(r, &ri, &err), 0);
        extmap_iterate(m, 0, UINT64_MAX, &mi);
        same(&mi.it, &ri.it);
        run_iter_release(&ri);
        for (unsigned i = 0; i < 300; i++) {
            uint64_t from = ext_key((uint16_t)(rnd(4) * 5),
                                    rnd(s % 2 ? 1 << 20 : (uint64_t)1 << 33)),
                     to = from + 1 + rnd(3000);
            struct extmap_iter probe;
            struct ext_rec rec;
            bool any;

            extmap_iterate(m, from, to, &probe);
            any = probe.it.next(&probe.it, &rec, NULL) > 0;
            assert_true(!any || run_may_overlap(r, from, to));
            extmap_iterate(m, from, to, &mi);
            assert_int_equal(run_iterate(r, from, to, &ri, &err), 0);
            same(&mi.it, &ri.it);
            run_iter_release(&ri);
        }
        run_unref(r);
        extmap_free(m);
    }
}

static void
filter_is_of_use(void **state)
{
    struct extmap *m = extmap_new();
    struct run_info info;
    struct run *r;

    /* One block in each hundredth MiB of 100 GiB: a filter of 1 MiB regions. */
    for (uint64_t i = 0; i < 1024; i++) {
        struct ext_rec rec = { .key = ext_key(0, i * 100 * 2048),
                               .len512 = 8,
                               .seg = 8 };

        assert_int_equal(extmap_put(m, &rec), 0);
    }
    r = build(m, &info);
    assert_true(run_may_overlap(r, 204800, 204801));
    assert_false(run_may_overlap(r, 204800 + 2048, 204800 + 4096));
    assert_true(run_may_overlap(r, 204800 - 1, 204800 + 1));
    run_unref(r);
    /* A volume of 128 TiB: regions grow, the filter stays bounded. */
    assert_int_equal(extmap_put(m,
                                &(struct ext_rec){
                                    .key = ext_key(0, (uint64_t)1 << 38),
                                    .len512 = 8,
                                    .seg = 8 }),
                     0);
    r = build(m, &info);
    assert_true(run_memory(r) < 80 * 1024);
    assert_true(run_may_overlap(r, (uint64_t)1 << 38, ((uint64_t)1 << 38) + 1));
    assert_true(run_may_overlap(r, 204800, 204801));
    assert_false(run_may_overlap(r, (uint64_t)1 << 36, ((uint64_t)1 << 36) + 1));
    run_unref(r);
    extmap_free(m);
}

/* Any flipped byte is an error or, in padding that nobody reads, no change. */
static void
damage(void **state)
{
    struct extmap *m;
    struct run_info info;
    struct run_header h = a_header();
    struct extmap_iter mi;
    struct run_iter ri;
    struct err err;
    char name[RUN_NAME_MAX], path[512];
    uint8_t *file;
    size_t len;
    unsigned refused = 0;

    rng = 42;
    m = random_map(400, 1 << 16);
    run_unref(build(m, &info));
    run_name(&h.info, name);
    (void)snprintf(path, sizeof path, "%s/%s", dir, name);
    assert_int_equal(io_read_whole(loop, path, 1 << 20, &file, &len, &err), 0);
    for (size_t at = 0; at < len; at += at % RUN_PAGE < 100 ? 1 : 97) {
        struct run *r = NULL;
        uint64_t bytes;
        int rc;

        file[at] ^= 0x40;
        assert_int_equal(io_replace_whole(loop, path, file, len, NULL), 0);
        file[at] ^= 0x40;
        err = (struct err)ERR_INIT;
        rc = run_open(loop, dir, name, &h, &r, &err);
        if (rc == 0)
            rc = run_verify(r, &bytes, &err);
        if (rc < 0) {
            assert_true(rc == -EBADMSG || rc == -EPROTONOSUPPORT);
            assert_int_equal(err.code, ERR_JNL_0051);
            assert_non_null(strstr(err.msg, name));
            refused++;
        } else {
            assert_int_equal(run_scan(r, &ri, NULL), 0);
            extmap_iterate(m, 0, UINT64_MAX, &mi);
            same(&mi.it, &ri.it);
            run_iter_release(&ri);
        }
        run_unref(r);
    }
    assert_true(refused > 200);
    for (size_t cut = 0; cut < len; cut += RUN_PAGE / 2) {
        struct run *r = NULL;

        assert_int_equal(io_replace_whole(loop, path, file, cut, NULL), 0);
        assert_int_equal(run_open(loop, dir, name, &h, &r, &err), -EBADMSG);
    }
    /* The name of one run, the content of another. */
    assert_int_equal(io_replace_whole(loop, path, file, len, NULL), 0);
    h.info.last_seq++;
    {
        struct run *r = NULL;

        assert_int_equal(run_open(loop, dir, name, &h, &r, &err), -EBADMSG);
    }
    /* A newer release's. */
    put_le32(file + 4, 2);
    put_le32(file + 72, crc32c(0, file, 72));
    put_le32(file + len - RUN_PAGE + 4, get_le32(file + 72));
    put_le32(file + len - RUN_PAGE + 80, crc32c(0, file + len - RUN_PAGE, 80));
    assert_int_equal(io_replace_whole(loop, path, file, len, NULL), 0);
    {
        struct run *r = NULL;

        assert_int_equal(run_open(loop, dir, name, NULL, &r, &err),
                         -EPROTONOSUPPORT);
        assert_int_equal(err.code, ERR_JNL_0052);
    }
    free(file);
    extmap_free(m);
}

static void
cannot_be_written(void **state)
{
    struct run_header h = a_header();
    struct extmap *m = extmap_new();
    struct extmap_iter it;
    struct run_info info;
    struct err err = ERR_INIT;
    char far[700];

    memset(far, 'x', sizeof far);
    far[sizeof far - 1] = '\0';
    extmap_iterate(m, 0, UINT64_MAX, &it);
    assert_int_equal(run_build(loop, far, &h, &it.it, &info, &err),
                     -ENAMETOOLONG);
    assert_int_equal(err.code, ERR_JNL_0053);
    extmap_free(m);
}

static int
load_ok(void *arg, uint64_t no, uint8_t *buf, struct err *err)
{
    unsigned *loads = arg;

    (*loads)++;
    memset(buf, (int)no & 0xff, PAGECACHE_PAGE);
    return 0;
}

static int
load_bad(void *arg, uint64_t no, uint8_t *buf, struct err *err)
{
    return err_set(err, -EIO, ERR_JNL_0051, "page %u", (unsigned)no);
}

static void
cache_is_bounded(void **state)
{
    struct cached_page *pinned[8], *p;
    struct pagecache_stats st;
    uint64_t id = pagecache_file_id();
    unsigned loads = 0;
    struct err err = ERR_INIT;

    pagecache_set_limit(4);
    for (unsigned i = 0; i < 8; i++)
        assert_int_equal(pagecache_get(id, i, load_ok, &loads, &pinned[i], &err),
                         0);
    for (unsigned i = 0; i < 8; i++)
        assert_int_equal(pagecache_data(pinned[i])[77], i);
    pagecache_stats(&st);
    assert_true(st.pages >= 8); /* all lent */
    for (unsigned i = 0; i < 8; i++)
        pagecache_put(pinned[i]);
    pagecache_stats(&st);
    assert_int_equal(st.pages, 4);
    assert_int_equal(loads, 8);
    /* The last ones used are still there, the first is not. */
    assert_int_equal(pagecache_get(id, 7, load_ok, &loads, &p, &err), 0);
    pagecache_put(p);
    assert_int_equal(loads, 8);
    assert_int_equal(pagecache_get(id, 0, load_ok, &loads, &p, &err), 0);
    pagecache_put(p);
    assert_int_equal(loads, 9);
    assert_int_equal(pagecache_get(id, 99, load_bad, NULL, &p, &err), -EIO);
    pagecache_forget(id);
    pagecache_stats(&st);
    assert_int_equal(st.pages, 0);
    pagecache_set_limit(PAGECACHE_DEFAULT);
}

static int
set_up(void **state)
{
    loop = helper_loop(IO_BACKEND_EPOLL, 1);
    dir = helper_tmpdir(NULL);
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
        cmocka_unit_test(codec_round_trip),
        cmocka_unit_test(codec_golden),
        cmocka_unit_test(codec_cut_and_flip),
        cmocka_unit_test(names),
        cmocka_unit_test(lookups),
        cmocka_unit_test(filter_is_of_use),
        cmocka_unit_test(damage),
        cmocka_unit_test(cannot_be_written),
        cmocka_unit_test(cache_is_bounded),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
