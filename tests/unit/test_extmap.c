/* room: journal lane io common */
/* The extent map and the merge of sources against arrays with one slot a
 * block. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "journal/extmap.h"
#include "journal/merge.h"

enum {
    SPACE = 4096, /* blocks of the model, on two volumes */
};

struct slot {
    bool has;
    uint32_t seg, chunk, off;
};

static uint64_t rng;

static uint64_t
rnd(uint64_t n)
{
    rng = rng * 6364136223846793005u + 1442695040888963407u;
    return (rng >> 33) % n;
}

/* The second half of the model is volume 7. */
static uint64_t
key_of(uint64_t i)
{
    return i < SPACE / 2 ? ext_key(0, i) : ext_key(7, i - SPACE / 2);
}

static uint64_t
index_of(uint64_t key)
{
    return key >> EXT_VOL_SHIFT ? (key & EXT_OFF_MASK) + SPACE / 2 : key;
}

static void
model_put(struct slot *model, const struct ext_rec *r)
{
    for (uint32_t i = 0; i < r->len512; i++)
        model[index_of(r->key) + i] =
            (struct slot){ true, r->seg, r->chunk,
                           ext_has_data(r) ? r->chunk_off512 + i : 0 };
}

static struct ext_rec
random_rec(unsigned max)
{
    uint64_t half = SPACE / 2, len = 1 + rnd(max), off = rnd(half - len + 1);
    struct ext_rec r = { .key = key_of(rnd(2) * half + off),
                         .len512 = (uint32_t)len,
                         .seg = (uint32_t)rnd(5),
                         .chunk = (uint32_t)rnd(100),
                         .chunk_off512 = (uint32_t)rnd(128) };

    if (rnd(10) == 0) {
        r.chunk = rnd(3) ? EXT_CHUNK_ZERO : EXT_CHUNK_UNKNOWN;
        r.seg = r.chunk_off512 = 0;
    }
    return r;
}

static void
check(struct rec_iter *it, const struct slot *model, uint64_t from, uint64_t to)
{
    struct ext_rec r;
    uint64_t at = from;
    int rc;

    while ((rc = it->next(it, &r, NULL)) > 0) {
        uint64_t i = index_of(r.key);

        assert_true(r.len512 > 0);
        for (; at < i; at++)
            assert_false(model[at].has);
        assert_true(at == i && i + r.len512 <= to);
        for (uint32_t k = 0; k < r.len512; k++, at++) {
            assert_true(model[at].has);
            assert_int_equal(model[at].seg, r.seg);
            assert_int_equal(model[at].chunk, r.chunk);
            assert_int_equal(model[at].off,
                             ext_has_data(&r) ? r.chunk_off512 + k : 0);
        }
    }
    assert_int_equal(rc, 0);
    for (; at < to; at++)
        assert_false(model[at].has);
}

static void
check_map(const struct extmap *m, const struct slot *model)
{
    struct extmap_iter it;
    uint64_t from = rnd(SPACE / 2), to = from + rnd(SPACE / 2 - from + 1);

    extmap_iterate(m, 0, UINT64_MAX, &it);
    check(&it.it, model, 0, SPACE);
    extmap_iterate(m, from, to, &it);
    check(&it.it, model, from, to);
}

static void
map_like_model(void **state)
{
    static struct slot model[SPACE];

    for (unsigned seed = 1; seed <= 60; seed++) {
        struct extmap *m = extmap_new();

        rng = seed;
        memset(model, 0, sizeof model);
        for (unsigned i = 0; i < 1500; i++) {
            struct ext_rec r = random_rec(seed % 3 ? 8 : 300);

            if (rnd(20) == 0) {
                uint64_t at = index_of(r.key);

                assert_int_equal(extmap_cut(m, r.key, ext_end(&r)), 0);
                memset(&model[at], 0, r.len512 * sizeof *model);
            } else {
                assert_int_equal(extmap_put(m, &r), 0);
                model_put(model, &r);
            }
            if (i % 100 == 0)
                check_map(m, model);
        }
        check_map(m, model);
        assert_true(extmap_memory(m) < 1024 * 1024);
        extmap_free(m);
    }
}

static void
map_rejects(void **state)
{
    struct extmap *m = extmap_new();
    struct ext_rec r = { .key = ext_key(1, EXT_OFF_MASK), .len512 = 2 };

    assert_int_equal(extmap_put(m, &r), -EINVAL);
    r.len512 = 0;
    assert_int_equal(extmap_put(m, &r), -EINVAL);
    r.len512 = 1; /* the last block of a volume */
    assert_int_equal(extmap_put(m, &r), 0);
    assert_int_equal(extmap_count(m), 1);
    extmap_free(m);
    extmap_free(NULL);
}

static void
merge_like_model(void **state)
{
    enum {
        SOURCES = 9
    };
    static struct slot model[SPACE];

    for (unsigned seed = 1; seed <= 80; seed++) {
        struct extmap *maps[SOURCES];
        struct extmap_iter it[SOURCES];
        struct rec_iter *src[SOURCES];
        struct merge_iter *mi;

        rng = seed;
        memset(model, 0, sizeof model);
        /* Oldest first into the model, newest first to the merge. */
        for (int s = SOURCES - 1; s >= 0; s--) {
            maps[s] = extmap_new();
            for (unsigned i = 0; i < 1 + rnd(60); i++) {
                struct ext_rec r = random_rec(rnd(2) ? 6 : 200);

                assert_int_equal(extmap_put(maps[s], &r), 0);
            }
        }
        for (int s = SOURCES - 1; s >= 0; s--) {
            struct extmap_iter all;
            struct ext_rec r;

            extmap_iterate(maps[s], 0, UINT64_MAX, &all);
            while (all.it.next(&all.it, &r, NULL) > 0)
                model_put(model, &r);
            extmap_iterate(maps[s], 0, UINT64_MAX, &it[s]);
            src[s] = &it[s].it;
        }
        assert_int_equal(merge_new(src, SOURCES, &mi), 0);
        check(merge_iter(mi), model, 0, SPACE);
        merge_free(mi);
        for (int s = 0; s < SOURCES; s++)
            extmap_free(maps[s]);
    }
}

static void
entries(void **state)
{
    static const uint32_t raw[] = { 1024, 65536, 512 };
    struct seg_entry se = { .e = { .type = ENTRY_WRITE,
                                   .vol = 3,
                                   .off512 = 10,
                                   .len512 = 130,
                                   .chunk = 4,
                                   .chunk_off512 = 1 },
                            .seq = 77,
                            .chunk_base = 100,
                            .raw_len = raw,
                            .n_raw = 3 };
    struct extmap *m = extmap_new();
    struct extmap_iter it;
    struct ext_rec r;
    struct err err = ERR_INIT;

    assert_int_equal(extmap_put_entry(m, 9, &se, &err), 0);
    extmap_iterate(m, 0, UINT64_MAX, &it);
    assert_int_equal(it.it.next(&it.it, &r, NULL), 1);
    assert_true(r.key == ext_key(3, 10) && r.len512 == 1 && r.chunk == 104 &&
                r.chunk_off512 == 1 && r.seg == 9);
    assert_int_equal(it.it.next(&it.it, &r, NULL), 1);
    assert_true(r.key == ext_key(3, 11) && r.len512 == 128 && r.chunk == 105 &&
                r.chunk_off512 == 0);
    assert_int_equal(it.it.next(&it.it, &r, NULL), 1);
    assert_true(r.key == ext_key(3, 139) && r.len512 == 1 && r.chunk == 106);
    assert_int_equal(it.it.next(&it.it, &r, NULL), 0);
    se.e.len512 = 131; /* more than the chunks hold */
    assert_int_equal(extmap_put_entry(m, 9, &se, &err), -EBADMSG);
    assert_int_equal(err.code, ERR_JNL_0050);
    se.e = (struct lane_entry){
        .type = ENTRY_DIRTY, .vol = 3, .off512 = 11, .len512 = 1
    };
    assert_int_equal(extmap_put_entry(m, 9, &se, &err), 0);
    se.e.type = ENTRY_FLUSH;
    assert_int_equal(extmap_put_entry(m, 9, &se, &err), 0);
    extmap_iterate(m, ext_key(3, 11), ext_key(3, 12), &it);
    assert_int_equal(it.it.next(&it.it, &r, NULL), 1);
    assert_int_equal(r.chunk, EXT_CHUNK_UNKNOWN);
    extmap_free(m);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(map_like_model),
        cmocka_unit_test(map_rejects),
        cmocka_unit_test(merge_like_model),
        cmocka_unit_test(entries),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
