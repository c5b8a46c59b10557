#include "journal/run_filter.h"

#include <stdlib.h>
#include <string.h>

enum {
    FILTER_VOL_SIZE = 8,
};

void
run_filter_release(struct run_filter *f)
{
    for (unsigned i = 0; i < f->n; i++)
        free(f->v[i].bits);
    f->n = 0;
}

size_t
run_filter_size(const struct run_filter *f)
{
    size_t size = 4 + (size_t)f->n * FILTER_VOL_SIZE;

    for (unsigned i = 0; i < f->n; i++)
        size += (f->v[i].n_regions + 7) / 8;
    return size;
}

static bool
bit_get(const uint8_t *bits, uint32_t i)
{
    return bits[i / 8] >> i % 8 & 1;
}

static void
bit_put(uint8_t *bits, uint32_t i, bool on)
{
    uint8_t mask = (uint8_t)(1u << i % 8);

    bits[i / 8] = (uint8_t)(on ? bits[i / 8] | mask : bits[i / 8] & ~mask);
}

/* Regions of twice the size: each bit is the union of two. */
static void
filter_fold(struct run_filter *f)
{
    for (unsigned i = 0; i < f->n; i++) {
        struct run_filter_vol *v = &f->v[i];
        uint32_t old = v->n_regions;

        v->n_regions = (old + 1) / 2;
        for (uint32_t b = 0; b < v->n_regions; b++)
            bit_put(v->bits, b,
                    bit_get(v->bits, 2 * b) ||
                        (2 * b + 1 < old && bit_get(v->bits, 2 * b + 1)));
        for (uint32_t b = v->n_regions; b < old; b++)
            bit_put(v->bits, b, false);
    }
    f->shift++;
}

static int
filter_room(struct run_filter_vol *v, uint32_t n_regions)
{
    uint32_t need = (n_regions + 7) / 8, cap;
    uint8_t *p;

    if (v->bits && need <= v->cap)
        return 0;
    cap = MAX(MAX(need, v->cap * 2), 16U);
    p = realloc(v->bits, cap);
    if (!p)
        return -ENOMEM;
    memset(p + v->cap, 0, cap - v->cap);
    v->bits = p;
    v->cap = cap;
    return 0;
}

int
run_filter_add(struct run_filter *f, const struct ext_rec *r)
{
    uint16_t vol = (uint16_t)(r->key >> EXT_VOL_SHIFT);
    uint64_t off = r->key & EXT_OFF_MASK, last = off + r->len512 - 1;
    struct run_filter_vol *v;
    int rc;

    if (f->n == 0 || f->v[f->n - 1].vol != vol) {
        if (f->n == RUN_FILTER_VOLS_MAX)
            return -E2BIG;
        f->v[f->n++] = (struct run_filter_vol){ .vol = vol };
    }
    v = &f->v[f->n - 1];
    while (run_filter_size(f) - (v->n_regions + 7) / 8 +
               (last >> f->shift) / 8 + 1 >
           RUN_FILTER_MAX)
        filter_fold(f);
    rc = filter_room(v, (uint32_t)(last >> f->shift) + 1);
    if (rc < 0)
        return rc;
    v->n_regions = MAX(v->n_regions, (uint32_t)(last >> f->shift) + 1);
    for (uint64_t b = off >> f->shift; b <= last >> f->shift; b++)
        bit_put(v->bits, (uint32_t)b, true);
    return 0;
}

void
run_filter_encode(const struct run_filter *f, uint8_t *out)
{
    uint8_t *p = out + 4;

    put_le32(out, f->n);
    for (unsigned i = 0; i < f->n; i++, p += FILTER_VOL_SIZE) {
        put_le16(p, f->v[i].vol);
        put_le16(p + 2, 0);
        put_le32(p + 4, f->v[i].n_regions);
    }
    for (unsigned i = 0; i < f->n; i++) {
        size_t n = (f->v[i].n_regions + 7) / 8;

        memcpy(p, f->v[i].bits, n);
        p += n;
    }
}

int
run_filter_decode(const uint8_t *p, size_t len, struct run_filter *f)
{
    size_t pos;

    if (len < 4 || get_le32(p) > RUN_FILTER_VOLS_MAX)
        return -EBADMSG;
    f->n = get_le32(p);
    pos = 4 + (size_t)f->n * FILTER_VOL_SIZE;
    if (pos > len)
        return -EBADMSG;
    for (unsigned i = 0; i < f->n; i++) {
        const uint8_t *d = p + 4 + (size_t)i * FILTER_VOL_SIZE;
        struct run_filter_vol *v = &f->v[i];
        size_t n;

        *v = (struct run_filter_vol){ .vol = get_le16(d),
                                      .n_regions = get_le32(d + 4) };
        n = ((size_t)v->n_regions + 7) / 8;
        if (get_le16(d + 2) != 0 || n > len - pos ||
            (i > 0 && v->vol <= f->v[i - 1].vol))
            return -EBADMSG;
        v->bits = (uint8_t *)(uintptr_t)(p + pos); /* read only from here on */
        pos += n;
    }
    return pos == len ? 0 : -EBADMSG;
}

bool
run_filter_test(const struct run_filter *f, uint64_t from, uint64_t to)
{
    uint16_t vol = (uint16_t)(from >> EXT_VOL_SHIFT);
    uint64_t first = (from & EXT_OFF_MASK) >> f->shift,
             last = ((from & EXT_OFF_MASK) + (to - from) - 1) >> f->shift;

    for (unsigned i = 0; i < f->n; i++) {
        const struct run_filter_vol *v = &f->v[i];

        if (v->vol != vol)
            continue;
        for (uint64_t b = first; b <= last && b < v->n_regions; b++)
            if (bit_get(v->bits, (uint32_t)b))
                return true;
        return false;
    }
    return false;
}
