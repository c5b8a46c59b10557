/* Run files: the byte tables.  docs/formats/run.md. */
#include "journal/run.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/crc32c.h"
#include "journal/run_internal.h"

enum {
    HEADER_LEN = 76,
    FOOTER_LEN = 84,
};

#ifdef HOLDFAST_FUZZING
bool
run_crc_ok(uint32_t have, uint32_t want)
{
    UNUSED(have);
    UNUSED(want);
    return true;
}
#else
bool
run_crc_ok(uint32_t have, uint32_t want)
{
    return have == want;
}
#endif

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

uint32_t
run_header_crc(const struct run_header *h)
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
    if (get_le32(p) != RUN_MAGIC ||
        !run_crc_ok(crc32c(0, p, 72), get_le32(p + 72)))
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
        !run_crc_ok(crc32c(0, p, 80), get_le32(p + 80)))
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
    put_le16(out + RUN_PAGE_TRAILER, (uint16_t)n);
    put_le32(out + RUN_PAGE_TRAILER + 4, page_no);
    put_le32(out + RUN_PAGE_TRAILER + 8, header_crc);
    put_le32(out + RUN_PAGE_TRAILER + 12, crc32c(0, out, RUN_PAGE_TRAILER + 12));
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
    if (!run_crc_ok(crc32c(0, p, RUN_PAGE_TRAILER + 12),
                    get_le32(p + RUN_PAGE_TRAILER + 12)))
        return -EBADMSG;
    n = get_le16(p + RUN_PAGE_TRAILER);
    if (n == 0 || n > RUN_PAGE_RECS || get_le16(p + RUN_PAGE_TRAILER + 2) != 0 ||
        get_le32(p + RUN_PAGE_TRAILER + 4) != page_no ||
        get_le32(p + RUN_PAGE_TRAILER + 8) != header_crc)
        return -EBADMSG;
    for (unsigned i = 0; i < n; i++) {
        struct ext_rec r;

        run_rec_decode(p + (size_t)i * RUN_REC_SIZE, &r);
        if (!rec_valid(&r) || (i > 0 && r.key < after))
            return -EBADMSG;
        after = ext_end(&r);
    }
    if (!bytes_all_zero(p + (size_t)n * RUN_REC_SIZE,
                        RUN_PAGE_TRAILER - (size_t)n * RUN_REC_SIZE))
        return -EBADMSG;
    *out_n = n;
    return 0;
}
