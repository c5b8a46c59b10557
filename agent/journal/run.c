/* Run files: codec, builder and reader.  docs/formats/run.md.
 *
 * All offsets into the file are multiples of 4096, so that it is written and
 * read with direct I/O.  Only the codecs know the byte tables.
 */
#include "journal/run.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/crc32c.h"

enum {
    PAGE_TRAILER = RUN_PAGE_RECS * RUN_REC_SIZE, /* 4080 */
    HEADER_LEN = 76,
    FOOTER_LEN = 84,
    BUILD_PAGES = 64, /* written at a time */
    SCAN_PAGES = 16,  /* read at a time */
    TAIL_READ = 64 * 1024,
    FILTER_VOL_SIZE = 8,
    FILTER_VOLS_MAX = LANE_VOLUMES_MAX,
};

#ifdef HOLDFAST_FUZZING
static bool
crc_ok(uint32_t have, uint32_t want)
{
    UNUSED(have);
    UNUSED(want);
    return true;
}
#else
static bool
crc_ok(uint32_t have, uint32_t want)
{
    return have == want;
}
#endif

/* --- codecs ------------------------------------------------------------- */

void
run_name(const struct run_info *info, char out[RUN_NAME_MAX])
{
    (void)snprintf(out, RUN_NAME_MAX, "run.%u.%08" PRIu32, info->level,
                   info->first_seg);
}

int
run_name_parse(const char *name, uint8_t *out_level, uint32_t *out_seg)
{
    uint64_t seg = 0;

    if (strncmp(name, "run.", 4) != 0 || name[4] < '0' ||
        name[4] > '0' + RUN_LEVEL_MAX || name[5] != '.')
        return -EINVAL;
    if (strlen(name + 6) < 8 || strlen(name + 6) > 10)
        return -EINVAL;
    for (const char *p = name + 6; *p; p++) {
        if (*p < '0' || *p > '9')
            return -EINVAL;
        seg = seg * 10 + (uint64_t)(*p - '0');
    }
    if (seg > UINT32_MAX)
        return -EINVAL;
    *out_level = (uint8_t)(name[4] - '0');
    *out_seg = (uint32_t)seg;
    return 0;
}

static void
header_bytes(const struct run_header *h, uint8_t out[HEADER_LEN])
{
    memset(out, 0, HEADER_LEN);
    put_le32(out, RUN_MAGIC);
    put_le32(out + 4, RUN_VERSION);
    put_le32(out + 8, HEADER_LEN);
    /* 12: flags: may ignore, read only without, refuse without (u32 each) */
    memcpy(out + 24, h->vpg.u.b, 16);
    put_le32(out + 40, h->lane);
    put_le32(out + 44, h->info.level);
    put_le32(out + 48, h->info.first_seg);
    put_le32(out + 52, h->info.last_seg);
    put_le64(out + 56, h->info.first_seq);
    put_le64(out + 64, h->info.last_seq);
    put_le32(out + 72, crc32c(0, out, 72));
}

static uint32_t
header_crc(const struct run_header *h)
{
    uint8_t b[HEADER_LEN];

    header_bytes(h, b);
    return get_le32(b + 72);
}

void
run_header_encode(const struct run_header *h, uint8_t *out)
{
    memset(out + HEADER_LEN, 0, RUN_PAGE - HEADER_LEN);
    header_bytes(h, out);
}

int
run_header_decode(const uint8_t *p, size_t len, struct run_header *out)
{
    struct run_header h = { .lane = 0 };

    if (len < RUN_PAGE)
        return -ENODATA;
    if (get_le32(p) != RUN_MAGIC || !crc_ok(crc32c(0, p, 72), get_le32(p + 72)))
        return -EBADMSG;
    if (get_le32(p + 4) != RUN_VERSION || get_le32(p + 20) != 0)
        return -EPROTONOSUPPORT;
    if (get_le32(p + 8) != HEADER_LEN || get_le32(p + 44) > RUN_LEVEL_MAX ||
        !bytes_all_zero(p + HEADER_LEN, RUN_PAGE - HEADER_LEN))
        return -EBADMSG;
    memcpy(h.vpg.u.b, p + 24, 16);
    h.lane = get_le32(p + 40);
    h.info.level = (uint8_t)get_le32(p + 44);
    h.info.first_seg = get_le32(p + 48);
    h.info.last_seg = get_le32(p + 52);
    h.info.first_seq = get_le64(p + 56);
    h.info.last_seq = get_le64(p + 64);
    if (h.info.first_seg > h.info.last_seg)
        return -EBADMSG;
    *out = h;
    return 0;
}

void
run_footer_encode(const struct run_footer *f, uint8_t *out)
{
    memset(out, 0, RUN_PAGE);
    put_le32(out, RUN_FOOTER_MAGIC);
    put_le32(out + 4, f->header_crc);
    put_le64(out + 8, f->records);
    put_le64(out + 16, f->pages);
    put_le64(out + 24, f->fence_off);
    put_le64(out + 32, f->filter_off);
    put_le32(out + 40, f->fence_len);
    put_le32(out + 44, f->filter_len);
    put_le32(out + 48, f->fence_crc);
    put_le32(out + 52, f->filter_crc);
    put_le32(out + 56, f->region_shift);
    put_le64(out + 60, f->first_key);
    put_le64(out + 68, f->last_key);
    put_le32(out + 76, 0);
    put_le32(out + 80, crc32c(0, out, 80));
}

int
run_footer_decode(const uint8_t *p, size_t len, struct run_footer *out)
{
    struct run_footer f;

    if (len < RUN_PAGE)
        return -ENODATA;
    if (get_le32(p) != RUN_FOOTER_MAGIC ||
        !crc_ok(crc32c(0, p, 80), get_le32(p + 80)))
        return -EBADMSG;
    f = (struct run_footer){
        .header_crc = get_le32(p + 4),
        .records = get_le64(p + 8),
        .pages = get_le64(p + 16),
        .fence_off = get_le64(p + 24),
        .filter_off = get_le64(p + 32),
        .fence_len = get_le32(p + 40),
        .filter_len = get_le32(p + 44),
        .fence_crc = get_le32(p + 48),
        .filter_crc = get_le32(p + 52),
        .region_shift = get_le32(p + 56),
        .first_key = get_le64(p + 60),
        .last_key = get_le64(p + 68),
    };
    if (get_le32(p + 76) != 0 ||
        !bytes_all_zero(p + FOOTER_LEN, RUN_PAGE - FOOTER_LEN))
        return -EBADMSG;
    /* One layout only: each number follows from the number of pages. */
    if (f.pages > RUN_PAGES_MAX || f.records > f.pages * RUN_PAGE_RECS ||
        f.records < f.pages || f.fence_off != RUN_PAGE + f.pages * RUN_PAGE ||
        f.fence_len != f.pages * 8 ||
        f.filter_off != f.fence_off + round_up(f.fence_len, RUN_PAGE) ||
        f.filter_len > RUN_FILTER_MAX || f.region_shift < RUN_REGION_SHIFT ||
        f.region_shift > EXT_VOL_SHIFT || f.first_key > f.last_key)
        return -EBADMSG;
    *out = f;
    return 0;
}

static void
rec_encode(const struct ext_rec *r, uint8_t *p)
{
    put_le64(p, r->key);
    put_le32(p + 8, r->len512);
    put_le32(p + 12, r->seg);
    put_le32(p + 16, r->chunk);
    put_le32(p + 20, r->chunk_off512);
}

void
run_rec_decode(const uint8_t *p, struct ext_rec *out)
{
    *out = (struct ext_rec){ .key = get_le64(p),
                             .len512 = get_le32(p + 8),
                             .seg = get_le32(p + 12),
                             .chunk = get_le32(p + 16),
                             .chunk_off512 = get_le32(p + 20) };
}

void
run_page_encode(const struct ext_rec *recs, unsigned n, uint32_t page_no,
                uint32_t header_crc, uint8_t *out)
{
    memset(out, 0, RUN_PAGE);
    for (unsigned i = 0; i < n; i++)
        rec_encode(&recs[i], out + (size_t)i * RUN_REC_SIZE);
    put_le16(out + PAGE_TRAILER, (uint16_t)n);
    put_le32(out + PAGE_TRAILER + 4, page_no);
    put_le32(out + PAGE_TRAILER + 8, header_crc);
    put_le32(out + PAGE_TRAILER + 12, crc32c(0, out, PAGE_TRAILER + 12));
}

static bool
rec_valid(const struct ext_rec *r)
{
    if (r->len512 == 0 || r->len512 > EXT_LEN_MAX ||
        r->len512 > EXT_OFF_MASK + 1 - (r->key & EXT_OFF_MASK))
        return false;
    if (!ext_has_data(r))
        return r->chunk_off512 == 0;
    return r->chunk < EXT_CHUNK_MAX &&
           range_ok(r->chunk_off512, r->len512, BATCH_CHUNK_RAW_MAX / 512);
}

int
run_page_check(const uint8_t *p, size_t len, uint32_t page_no,
               uint32_t header_crc, unsigned *out_n)
{
    uint64_t after = 0;
    unsigned n;

    if (len < RUN_PAGE)
        return -ENODATA;
    if (!crc_ok(crc32c(0, p, PAGE_TRAILER + 12), get_le32(p + PAGE_TRAILER + 12)))
        return -EBADMSG;
    n = get_le16(p + PAGE_TRAILER);
    if (n == 0 || n > RUN_PAGE_RECS || get_le16(p + PAGE_TRAILER + 2) != 0 ||
        get_le32(p + PAGE_TRAILER + 4) != page_no ||
        get_le32(p + PAGE_TRAILER + 8) != header_crc)
        return -EBADMSG;
    for (unsigned i = 0; i < n; i++) {
        struct ext_rec r;

        run_rec_decode(p + (size_t)i * RUN_REC_SIZE, &r);
        if (!rec_valid(&r) || (i > 0 && r.key < after))
            return -EBADMSG;
        after = ext_end(&r);
    }
    if (!bytes_all_zero(p + (size_t)n * RUN_REC_SIZE,
                        PAGE_TRAILER - (size_t)n * RUN_REC_SIZE))
        return -EBADMSG;
    *out_n = n;
    return 0;
}

/* --- region filter ------------------------------------------------------- */

struct filter_vol {
    uint16_t vol;
    uint32_t n_regions;
    uint32_t cap; /* bytes; builder only */
    uint8_t *bits;
};

struct filter {
    uint32_t shift; /* of blocks of 512 */
    unsigned n;
    struct filter_vol v[FILTER_VOLS_MAX];
};

static void
filter_release(struct filter *f)
{
    for (unsigned i = 0; i < f->n; i++)
        free(f->v[i].bits);
    f->n = 0;
}

static size_t
filter_size(const struct filter *f)
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
filter_fold(struct filter *f)
{
    for (unsigned i = 0; i < f->n; i++) {
        struct filter_vol *v = &f->v[i];
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
filter_room(struct filter_vol *v, uint32_t n_regions)
{
    uint32_t need = (n_regions + 7) / 8, cap;
    uint8_t *p;

    if (need <= v->cap)
        return 0;
    cap = MAX(need, v->cap * 2);
    p = realloc(v->bits, cap);
    if (!p)
        return -ENOMEM;
    memset(p + v->cap, 0, cap - v->cap);
    v->bits = p;
    v->cap = cap;
    return 0;
}

/* Records come in key order. */
static int
filter_add(struct filter *f, const struct ext_rec *r)
{
    uint16_t vol = (uint16_t)(r->key >> EXT_VOL_SHIFT);
    uint64_t off = r->key & EXT_OFF_MASK, last = off + r->len512 - 1;
    struct filter_vol *v;
    int rc;

    if (f->n == 0 || f->v[f->n - 1].vol != vol) {
        if (f->n == FILTER_VOLS_MAX)
            return -E2BIG;
        f->v[f->n++] = (struct filter_vol){ .vol = vol };
    }
    v = &f->v[f->n - 1];
    while (filter_size(f) - (v->n_regions + 7) / 8 + (last >> f->shift) / 8 + 1 >
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

static void
filter_encode(const struct filter *f, uint8_t *out)
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

/* f->shift is set; bits are borrowed from p. */
static int
filter_decode(const uint8_t *p, size_t len, struct filter *f)
{
    size_t pos;

    if (len < 4 || get_le32(p) > FILTER_VOLS_MAX)
        return -EBADMSG;
    f->n = get_le32(p);
    pos = 4 + (size_t)f->n * FILTER_VOL_SIZE;
    if (pos > len)
        return -EBADMSG;
    for (unsigned i = 0; i < f->n; i++) {
        const uint8_t *d = p + 4 + (size_t)i * FILTER_VOL_SIZE;
        struct filter_vol *v = &f->v[i];
        size_t n;

        *v = (struct filter_vol){ .vol = get_le16(d),
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

static bool
filter_test(const struct filter *f, uint64_t from, uint64_t to)
{
    uint16_t vol = (uint16_t)(from >> EXT_VOL_SHIFT);
    uint64_t first = (from & EXT_OFF_MASK) >> f->shift,
             last = ((from & EXT_OFF_MASK) + (to - from) - 1) >> f->shift;

    for (unsigned i = 0; i < f->n; i++) {
        const struct filter_vol *v = &f->v[i];

        if (v->vol != vol)
            continue;
        for (uint64_t b = first; b <= last && b < v->n_regions; b++)
            if (bit_get(v->bits, (uint32_t)b))
                return true;
        return false;
    }
    return false;
}

/* --- building ------------------------------------------------------------- */

struct builder {
    const struct run_header *h;
    uint32_t header_crc;
    struct io_file *file;
    char tmp[ERR_MSG_MAX / 2], path[ERR_MSG_MAX / 2];
    uint8_t *buf; /* BUILD_PAGES pages */
    unsigned buf_pages;
    uint64_t off; /* where buf goes */
    struct ext_rec recs[RUN_PAGE_RECS];
    unsigned n_recs;
    uint64_t *fences;
    size_t fence_cap;
    struct filter filter;
    struct run_footer foot;
};

static int
write_error(const struct builder *b, int rc, struct err *err)
{
    return err_set(err, rc, ERR_JNL_0053,
                   "run %s cannot be written at %" PRIu64 ": %s", b->tmp,
                   b->off, err_errno(rc));
}

static int
flush_buf(struct builder *b, struct err *err)
{
    size_t len = (size_t)b->buf_pages * RUN_PAGE;
    int rc;

    if (len == 0)
        return 0;
    rc = io_file_pwrite_sync(b->file, b->buf, len, b->off);
    if (rc < 0)
        return write_error(b, rc, err);
    b->off += len;
    b->buf_pages = 0;
    return 0;
}

/* The next page of the file, zeroed. */
static int
next_page(struct builder *b, uint8_t **out, struct err *err)
{
    if (b->buf_pages == BUILD_PAGES) {
        int rc = flush_buf(b, err);

        if (rc < 0)
            return rc;
    }
    *out = b->buf + (size_t)b->buf_pages++ * RUN_PAGE;
    memset(*out, 0, RUN_PAGE);
    return 0;
}

static int
add_fence(struct builder *b, uint64_t key)
{
    if (b->foot.pages == RUN_PAGES_MAX)
        return -EFBIG;
    if (b->foot.pages == b->fence_cap) {
        size_t cap = b->fence_cap ? b->fence_cap * 2 : 512;
        uint64_t *p = reallocarray(b->fences, cap, sizeof *p);

        if (!p)
            return -ENOMEM;
        b->fences = p;
        b->fence_cap = cap;
    }
    b->fences[b->foot.pages++] = key;
    return 0;
}

static int
emit_page(struct builder *b, struct err *err)
{
    uint8_t *page;
    int rc;

    if (b->n_recs == 0)
        return 0;
    rc = next_page(b, &page, err);
    if (rc < 0)
        return rc;
    run_page_encode(b->recs, b->n_recs, (uint32_t)b->foot.pages, b->header_crc,
                    page);
    rc = add_fence(b, b->recs[0].key);
    if (rc < 0)
        return write_error(b, rc, err);
    b->n_recs = 0;
    return 0;
}

static int
add_record(struct builder *b, const struct ext_rec *r, struct err *err)
{
    int rc;

    if (b->n_recs == RUN_PAGE_RECS) {
        rc = emit_page(b, err);
        if (rc < 0)
            return rc;
    }
    rc = filter_add(&b->filter, r);
    if (rc < 0)
        return write_error(b, rc, err);
    b->recs[b->n_recs++] = *r;
    if (b->foot.records++ == 0)
        b->foot.first_key = r->key;
    b->foot.last_key = r->key;
    return 0;
}

static int
add_all(struct builder *b, struct rec_iter *src, struct err *err)
{
    struct ext_rec r, held = { .len512 = 0 };
    int rc;

    while ((rc = src->next(src, &r, err)) > 0) {
        if (held.len512 > 0 && ext_continues(&held, &r)) {
            held.len512 += r.len512;
            continue;
        }
        if (held.len512 > 0) {
            rc = add_record(b, &held, err);
            if (rc < 0)
                return rc;
        }
        held = r;
    }
    if (rc == 0 && held.len512 > 0)
        rc = add_record(b, &held, err);
    return rc < 0 ? rc : emit_page(b, err);
}

/* Put len bytes as pages. */
static int
add_bytes(struct builder *b, const uint8_t *p, size_t len, struct err *err)
{
    while (len > 0) {
        size_t n = MIN(len, (size_t)RUN_PAGE);
        uint8_t *page;
        int rc = next_page(b, &page, err);

        if (rc < 0)
            return rc;
        memcpy(page, p, n);
        p += n;
        len -= n;
    }
    return 0;
}

static int
add_tail(struct builder *b, struct err *err)
{
    struct run_footer *f = &b->foot;
    uint8_t *fences, *filter, *page = NULL;
    int rc = -ENOMEM;

    f->header_crc = b->header_crc;
    f->fence_off = RUN_PAGE + f->pages * RUN_PAGE;
    f->fence_len = (uint32_t)f->pages * 8;
    f->filter_off = f->fence_off + round_up(f->fence_len, RUN_PAGE);
    f->filter_len = (uint32_t)filter_size(&b->filter);
    f->region_shift = b->filter.shift;
    fences = malloc(f->fence_len + 1);
    filter = malloc(f->filter_len);
    if (!fences || !filter) {
        write_error(b, rc, err);
        goto out;
    }
    for (uint64_t i = 0; i < f->pages; i++)
        put_le64(fences + i * 8, b->fences[i]);
    filter_encode(&b->filter, filter);
    f->fence_crc = crc32c(0, fences, f->fence_len);
    f->filter_crc = crc32c(0, filter, f->filter_len);
    rc = add_bytes(b, fences, f->fence_len, err);
    if (rc == 0)
        rc = add_bytes(b, filter, f->filter_len, err);
    if (rc == 0)
        rc = next_page(b, &page, err);
    if (rc == 0) {
        run_footer_encode(f, page);
        rc = flush_buf(b, err);
    }
out:
    free(fences);
    free(filter);
    return rc;
}

/* The content is on disk before the name, the name before the manifest says
 * that it exists: a crash leaves a temporary file or an unnamed run. */
static int
commit(struct io_loop *loop, const char *dir, struct builder *b, struct err *err)
{
    int rc = io_file_fdatasync_sync(b->file);

    if (rc < 0)
        return write_error(b, rc, err);
    io_file_close(b->file);
    b->file = NULL;
    rc = io_rename(loop, b->tmp, b->path, err);
    return rc < 0 ? rc : io_sync_dir(loop, dir, err);
}

static int
build_init(struct io_loop *loop, const char *dir, struct builder *b,
           struct err *err)
{
    char name[RUN_NAME_MAX];
    uint8_t *page;
    int rc;

    run_name(&b->h->info, name);
    if (snprintf(b->path, sizeof b->path, "%s/%s", dir, name) >=
            (int)sizeof b->path ||
        snprintf(b->tmp, sizeof b->tmp, "%s.tmp", b->path) >= (int)sizeof b->tmp)
        return err_set(err, -ENAMETOOLONG, ERR_JNL_0053,
                       "run %s: the directory's name is too long", name);
    b->filter.shift = RUN_REGION_SHIFT;
    b->buf = io_mem_alloc((size_t)BUILD_PAGES * RUN_PAGE);
    if (!b->buf)
        return write_error(b, -ENOMEM, err);
    rc = io_file_open(loop, b->tmp,
                      IO_OPEN_WRITE | IO_OPEN_CREATE | IO_OPEN_TRUNCATE |
                          IO_OPEN_DIRECT,
                      &b->file, err);
    if (rc < 0)
        return rc;
    rc = next_page(b, &page, err);
    if (rc < 0)
        return rc;
    run_header_encode(b->h, page);
    b->header_crc = header_crc(b->h);
    return 0;
}

int
run_build(struct io_loop *loop, const char *dir, const struct run_header *h,
          struct rec_iter *src, struct run_info *out_info, struct err *err)
{
    struct builder *b = calloc(1, sizeof *b);
    int rc;

    if (!b)
        return err_set(err, -ENOMEM, ERR_GEN_0002, "no memory to build a run");
    b->h = h;
    rc = build_init(loop, dir, b, err);
    if (rc == 0)
        rc = add_all(b, src, err);
    if (rc == 0)
        rc = add_tail(b, err);
    if (rc == 0)
        rc = commit(loop, dir, b, err);
    if (rc == 0) {
        *out_info = h->info;
        out_info->records = b->foot.records;
        out_info->bytes = b->off;
    }
    if (b->file) {
        io_file_close(b->file);
        (void)io_unlink(loop, b->tmp); /* recovery removes it otherwise */
    }
    if (b->buf)
        io_mem_free(b->buf, (size_t)BUILD_PAGES * RUN_PAGE);
    filter_release(&b->filter);
    free(b->fences);
    free(b);
    return rc;
}

/* --- reading --------------------------------------------------------------- */

struct run {
    atomic_int refs;
    struct io_file *file;
    uint64_t id; /* in the page cache */
    struct run_info info;
    struct run_footer foot;
    uint64_t *fences;
    uint8_t *filter_bytes;
    struct filter filter;
};

static int
damaged(const struct run *r, uint64_t off, const char *what, struct err *err)
{
    return err_set(err, -EBADMSG, ERR_JNL_0051, "run %s: %s at offset %" PRIu64,
                   io_file_path(r->file), what, off);
}

static int
read_at(struct run *r, void *buf, size_t len, uint64_t off, struct err *err)
{
    int64_t n = io_file_pread_sync(r->file, buf, len, off);

    if (n < 0)
        return err_set(err, (int)n, ERR_JNL_0051,
                       "run %s cannot be read at offset %" PRIu64 ": %s",
                       io_file_path(r->file), off, err_errno((int)n));
    if ((size_t)n != len)
        return damaged(r, off, "the file ends early", err);
    return 0;
}

static int
load_fences(struct run *r, const uint8_t *p, struct err *err)
{
    const struct run_footer *f = &r->foot;

    if (!crc_ok(crc32c(0, p, f->fence_len), f->fence_crc))
        return damaged(r, f->fence_off, "damaged fences", err);
    r->fences = malloc(f->fence_len + 1);
    if (!r->fences)
        return err_set(err, -ENOMEM, ERR_GEN_0002,
                       "no memory for %" PRIu64 " fences", f->pages);
    for (uint64_t i = 0; i < f->pages; i++) {
        r->fences[i] = get_le64(p + i * 8);
        if (i > 0 && r->fences[i] <= r->fences[i - 1])
            return damaged(r, f->fence_off, "fences out of order", err);
    }
    if (f->pages > 0 && r->fences[0] != f->first_key)
        return damaged(r, f->fence_off, "fences of another run", err);
    return 0;
}

static int
load_filter(struct run *r, const uint8_t *p, struct err *err)
{
    const struct run_footer *f = &r->foot;

    if (!crc_ok(crc32c(0, p, f->filter_len), f->filter_crc))
        return damaged(r, f->filter_off, "damaged filter", err);
    r->filter_bytes = malloc((size_t)f->filter_len + 1);
    if (!r->filter_bytes)
        return err_set(err, -ENOMEM, ERR_GEN_0002, "no memory for a filter");
    memcpy(r->filter_bytes, p, f->filter_len);
    r->filter.shift = f->region_shift;
    if (filter_decode(r->filter_bytes, f->filter_len, &r->filter) < 0)
        return damaged(r, f->filter_off, "damaged filter", err);
    return 0;
}

/* Read the header and check it, against what it should be unless want is
 * NULL. */
static int
check_header(struct run *r, const struct run_header *want, struct run_info *out,
             struct err *err)
{
    uint8_t *page = io_mem_alloc(RUN_PAGE);
    struct run_header h;
    int rc;

    if (!page)
        return err_set(err, -ENOMEM, ERR_GEN_0002, "no memory for a page");
    rc = read_at(r, page, RUN_PAGE, 0, err);
    if (rc < 0)
        goto out;
    rc = run_header_decode(page, RUN_PAGE, &h);
    if (rc == -EPROTONOSUPPORT) {
        err_set(err, rc, ERR_JNL_0052,
                "run %s is of version %u, this release knows up to %d",
                io_file_path(r->file), get_le32(page + 4), RUN_VERSION);
        goto out;
    }
    if (rc < 0 || !crc_ok(get_le32(page + 72), r->foot.header_crc)) {
        rc = damaged(r, 0, "damaged header", err);
        goto out;
    }
    if (want && (!uuid_equal(&want->vpg.u, &h.vpg.u) || want->lane != h.lane ||
                 want->info.level != h.info.level ||
                 want->info.first_seg != h.info.first_seg ||
                 want->info.last_seg != h.info.last_seg ||
                 want->info.first_seq != h.info.first_seq ||
                 want->info.last_seq != h.info.last_seq)) {
        rc = damaged(r, 0, "the header of another run", err);
        goto out;
    }
    *out = h.info;
out:
    io_mem_free(page, RUN_PAGE);
    return rc;
}

/* A footer that names the CRC of the very header that is wanted proves what the
 * header says, without another read of the disk. */
static int
identify(struct run *r, const struct run_header *want, struct err *err)
{
    static const struct run_info none;
    struct run_info info = want ? want->info : none;
    int rc = 0;

    if (!want || header_crc(want) != r->foot.header_crc)
        rc = check_header(r, want, &info, err);
    if (rc == 0) {
        r->info = info;
        r->info.records = r->foot.records;
    }
    return rc;
}

/* Fences, filter and footer lie together at the end; mostly one read gets them
 * all. */
static int
load_tail(struct run *r, uint64_t size, struct err *err)
{
    size_t len = (size_t)MIN(size - RUN_PAGE, (uint64_t)TAIL_READ);
    uint64_t off = size - len;
    uint8_t *p = io_mem_alloc(len);
    int rc;

    if (!p)
        return err_set(err, -ENOMEM, ERR_GEN_0002, "no memory for a footer");
    rc = read_at(r, p, len, off, err);
    if (rc < 0)
        goto out;
    rc = run_footer_decode(p + len - RUN_PAGE, RUN_PAGE, &r->foot);
    if (rc < 0 || r->foot.filter_off + round_up(r->foot.filter_len, RUN_PAGE) +
                          RUN_PAGE !=
                      size) {
        rc = damaged(r, size - RUN_PAGE, "damaged footer", err);
        goto out;
    }
    if (r->foot.fence_off < off) {
        io_mem_free(p, len);
        off = r->foot.fence_off;
        len = (size_t)(size - off);
        p = io_mem_alloc(len);
        rc = p ? read_at(r, p, len, off, err)
               : err_set(err, -ENOMEM, ERR_GEN_0002, "no memory for fences");
        if (rc < 0)
            goto out;
    }
    rc = load_fences(r, p + (r->foot.fence_off - off), err);
    if (rc == 0)
        rc = load_filter(r, p + (r->foot.filter_off - off), err);
out:
    if (p)
        io_mem_free(p, len);
    return rc;
}

int
run_open(struct io_loop *loop, const char *dir, const char *name,
         const struct run_header *want, struct run **out, struct err *err)
{
    char path[ERR_MSG_MAX / 2];
    struct io_file_info fi;
    struct run *r;
    int rc;

    if (snprintf(path, sizeof path, "%s/%s", dir, name) >= (int)sizeof path)
        return err_set(err, -ENAMETOOLONG, ERR_JNL_0051,
                       "run %s: the directory's name is too long", name);
    r = calloc(1, sizeof *r);
    if (!r)
        return err_set(err, -ENOMEM, ERR_GEN_0002, "no memory for a run");
    atomic_init(&r->refs, 1);
    r->id = pagecache_file_id();
    rc = io_file_open(loop, path, IO_OPEN_READ | IO_OPEN_DIRECT, &r->file, err);
    if (rc == 0)
        rc = io_file_info(r->file, &fi, err);
    if (rc == 0 && (fi.size < 2 * RUN_PAGE || fi.size % RUN_PAGE != 0))
        rc = damaged(r, fi.size, "the file is cut", err);
    if (rc == 0)
        rc = load_tail(r, fi.size, err);
    if (rc == 0)
        rc = identify(r, want, err);
    if (rc < 0) {
        run_unref(r);
        return rc;
    }
    r->info.bytes = fi.size;
    *out = r;
    return 0;
}

struct run *
run_ref(struct run *r)
{
    atomic_fetch_add_explicit(&r->refs, 1, memory_order_relaxed);
    return r;
}

void
run_unref(struct run *r)
{
    if (!r || atomic_fetch_sub_explicit(&r->refs, 1, memory_order_acq_rel) != 1)
        return;
    pagecache_forget(r->id);
    if (r->file)
        io_file_close(r->file);
    free(r->fences);
    free(r->filter_bytes);
    free(r);
}

const struct run_info *
run_info(const struct run *r)
{
    return &r->info;
}

size_t
run_memory(const struct run *r)
{
    return sizeof *r + r->foot.fence_len + r->foot.filter_len;
}

bool
run_may_overlap(const struct run *r, uint64_t from, uint64_t to)
{
    return r->foot.pages > 0 && to > r->foot.first_key &&
           filter_test(&r->filter, from, to);
}

static int
check_page(struct run *r, uint64_t no, const uint8_t *p, struct err *err)
{
    unsigned n;

    if (run_page_check(p, RUN_PAGE, (uint32_t)no, r->foot.header_crc, &n) < 0 ||
        get_le64(p) != r->fences[no])
        return damaged(r, RUN_PAGE * (no + 1), "damaged page", err);
    return 0;
}

static int
load_page(void *arg, uint64_t no, uint8_t *buf, struct err *err)
{
    struct run *r = arg;
    int rc = read_at(r, buf, RUN_PAGE, RUN_PAGE * (no + 1), err);

    return rc < 0 ? rc : check_page(r, no, buf, err);
}

static int
scan_page(struct run_iter *it, struct err *err)
{
    struct run *r = it->run;
    int rc;

    if (it->page < it->buf_page || it->page - it->buf_page >= it->buf_n) {
        uint64_t n = MIN(r->foot.pages - it->page, (uint64_t)SCAN_PAGES);

        it->buf_n = 0;
        rc = read_at(r, it->buf, (size_t)n * RUN_PAGE,
                     RUN_PAGE * (it->page + 1), err);
        if (rc < 0)
            return rc;
        it->buf_page = it->page;
        it->buf_n = n;
    }
    it->data = it->buf + (it->page - it->buf_page) * RUN_PAGE;
    return check_page(r, it->page, it->data, err);
}

/* Make it->page the page at hand. */
static int
enter_page(struct run_iter *it, struct err *err)
{
    int rc;

    it->pos = it->n = 0;
    if (it->page >= it->run->foot.pages)
        return 0;
    if (it->buf) {
        rc = scan_page(it, err);
    } else {
        pagecache_put(it->cp);
        it->cp = NULL;
        rc = pagecache_get(it->run->id, it->page, load_page, it->run, &it->cp,
                           err);
        if (rc == 0)
            it->data = pagecache_data(it->cp);
    }
    if (rc < 0)
        return rc;
    it->n = get_le16(it->data + PAGE_TRAILER);
    return 0;
}

static int
run_next(struct rec_iter *rit, struct ext_rec *out, struct err *err)
{
    struct run_iter *it = container_of(rit, struct run_iter, it);
    struct ext_rec r;

    for (;;) {
        if (it->pos == it->n) {
            int rc;

            if (it->n == 0 || it->page + 1 >= it->run->foot.pages ||
                it->run->fences[it->page + 1] >= it->to)
                return 0;
            it->page++;
            rc = enter_page(it, err);
            if (rc < 0) {
                it->n = it->pos = 0;
                return rc;
            }
            continue;
        }
        run_rec_decode(it->data + (size_t)it->pos++ * RUN_REC_SIZE, &r);
        if (ext_end(&r) <= it->from)
            continue;
        if (r.key >= it->to) {
            it->pos = it->n = 0;
            return 0;
        }
        *out = ext_clip(&r, MAX(r.key, it->from), it->to);
        return 1;
    }
}

/* The last page that begins at or below key, else the first. */
static uint64_t
find_page(const struct run *r, uint64_t key)
{
    uint64_t lo = 0, hi = r->foot.pages;

    while (lo < hi) {
        uint64_t mid = lo + (hi - lo) / 2;

        if (r->fences[mid] <= key)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo > 0 ? lo - 1 : 0;
}

/* Move to the first record of the page that ends above from. */
static void
seek_in_page(struct run_iter *it)
{
    unsigned lo = 0, hi = it->n;

    while (lo < hi) {
        unsigned mid = lo + (hi - lo) / 2;
        struct ext_rec r;

        run_rec_decode(it->data + (size_t)mid * RUN_REC_SIZE, &r);
        if (ext_end(&r) <= it->from)
            lo = mid + 1;
        else
            hi = mid;
    }
    it->pos = lo;
}

int
run_iterate(struct run *r, uint64_t from, uint64_t to, struct run_iter *out,
            struct err *err)
{
    int rc;

    *out = (struct run_iter){
        .it.next = run_next, .run = r, .from = from, .to = to
    };
    if (r->foot.pages == 0 || from >= to)
        return 0;
    out->page = find_page(r, from);
    rc = enter_page(out, err);
    if (rc < 0) {
        run_iter_release(out);
        return rc;
    }
    seek_in_page(out);
    return 0;
}

int
run_scan(struct run *r, struct run_iter *out, struct err *err)
{
    int rc;

    *out = (struct run_iter){ .it.next = run_next, .run = r, .to = UINT64_MAX };
    out->buf = io_mem_alloc((size_t)SCAN_PAGES * RUN_PAGE);
    if (!out->buf)
        return err_set(err, -ENOMEM, ERR_GEN_0002, "no memory to scan a run");
    rc = enter_page(out, err);
    if (rc < 0)
        run_iter_release(out);
    return rc;
}

void
run_iter_release(struct run_iter *it)
{
    pagecache_put(it->cp);
    it->cp = NULL;
    if (it->buf)
        io_mem_free(it->buf, (size_t)SCAN_PAGES * RUN_PAGE);
    it->buf = NULL;
    it->n = it->pos = 0;
}

int
run_verify(struct run *r, uint64_t *out_bytes, struct err *err)
{
    struct run_iter it;
    struct ext_rec rec;
    struct run_info info;
    uint64_t n = 0, after = 0, last = 0;
    int rc;

    rc = check_header(r, NULL, &info, err);
    if (rc == 0)
        rc = run_scan(r, &it, err);
    if (rc < 0)
        return rc;
    while ((rc = it.it.next(&it.it, &rec, err)) > 0) {
        if (rec.key < after || !filter_test(&r->filter, rec.key, ext_end(&rec))) {
            rc = damaged(r, RUN_PAGE * (it.page + 1),
                         "a record that fences or filter deny", err);
            break;
        }
        after = ext_end(&rec);
        last = rec.key;
        n++;
    }
    run_iter_release(&it);
    if (rc < 0)
        return rc;
    if (n != r->foot.records || last != r->foot.last_key)
        return damaged(r, r->info.bytes - RUN_PAGE, "a footer that miscounts",
                       err);
    *out_bytes = r->info.bytes;
    return 0;
}
