/* Overlays of views: see overlay.h and docs/formats/view.md. */
#include "journal/overlay.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/crc32c.h"

enum {
    HEADER_LEN = 84,
    HEADER_SLOTS = 2,
    MAP_BYTES = OVERLAY_PAGE_BITS / 8,
    PAGE_BITS_AT = 24,
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

/* --- codec --------------------------------------------------------------- */

void
overlay_header_encode(const struct overlay_header *h, uint8_t *out)
{
    memset(out, 0, OVERLAY_PAGE);
    put_le32(out, OVERLAY_MAGIC);
    put_le32(out + 4, OVERLAY_VERSION);
    put_le32(out + 8, HEADER_LEN);
    /* 12: flags: may ignore, read only without, refuse without (u32 each) */
    memcpy(out + 24, h->view.u.b, 16);
    put_le32(out + 40, h->vol);
    put_le64(out + 44, h->size);
    put_le64(out + 52, h->flush_no);
    put_le64(out + 60, h->pages_sum);
    put_le32(out + 68, OVERLAY_BLOCK);
    /* 72: reserved, 8 bytes */
    put_le32(out + 80, crc32c(0, out, 80));
}

int
overlay_header_decode(const uint8_t *p, size_t len, struct overlay_header *out)
{
    struct overlay_header h = { .vol = 0 };

    if (len < OVERLAY_PAGE)
        return -ENODATA;
    if (get_le32(p) != OVERLAY_MAGIC ||
        !crc_ok(crc32c(0, p, 80), get_le32(p + 80)))
        return -EBADMSG;
    if (get_le32(p + 4) != OVERLAY_VERSION || get_le32(p + 20) != 0)
        return -EPROTONOSUPPORT;
    if (get_le32(p + 8) != HEADER_LEN || get_le32(p + 40) > UINT16_MAX ||
        get_le32(p + 68) != OVERLAY_BLOCK || get_le64(p + 72) != 0 ||
        !bytes_all_zero(p + HEADER_LEN, OVERLAY_PAGE - HEADER_LEN))
        return -EBADMSG;
    memcpy(h.view.u.b, p + 24, 16);
    h.vol = (uint16_t)get_le32(p + 40);
    h.size = get_le64(p + 44);
    h.flush_no = get_le64(p + 52);
    h.pages_sum = get_le64(p + 60);
    if (h.size % 512 != 0 ||
        h.size / OVERLAY_BLOCK / OVERLAY_PAGE_BITS >= OVERLAY_PAGES_MAX)
        return -EBADMSG;
    *out = h;
    return 0;
}

uint32_t
overlay_tag(const struct overlay_header *h)
{
    uint8_t b[26];

    memcpy(b, h->view.u.b, 16);
    put_le16(b + 16, h->vol);
    put_le64(b + 18, h->size);
    return crc32c(0, b, sizeof b);
}

uint64_t
overlay_page_mix(uint32_t page_no, uint64_t gen)
{
    /* Finaliser of SplitMix64 (Steele, Lea, Flood 2014). */
    uint64_t z = gen * UINT64_C(0x9E3779B97F4A7C15) + page_no;

    z = (z ^ z >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ z >> 27) * UINT64_C(0x94D049BB133111EB);
    return z ^ z >> 31;
}

void
overlay_page_encode(const struct overlay_page *pg, uint32_t tag, uint8_t *out)
{
    put_le32(out, OVERLAY_PAGE_MAGIC);
    put_le32(out + 4, tag);
    put_le32(out + 8, pg->page_no);
    put_le32(out + 12, 0);
    put_le64(out + 16, pg->gen);
    memcpy(out + PAGE_BITS_AT, pg->bits, MAP_BYTES);
    put_le32(out + OVERLAY_PAGE - 8, 0);
    put_le32(out + OVERLAY_PAGE - 4, crc32c(0, out, OVERLAY_PAGE - 4));
}

int
overlay_page_decode(const uint8_t *p, size_t len, uint32_t tag,
                    struct overlay_page *out)
{
    if (len < OVERLAY_PAGE)
        return -ENODATA;
    if (bytes_all_zero(p, OVERLAY_PAGE))
        return 1;
    if (get_le32(p) != OVERLAY_PAGE_MAGIC ||
        !crc_ok(crc32c(0, p, OVERLAY_PAGE - 4), get_le32(p + OVERLAY_PAGE - 4)) ||
        get_le32(p + 4) != tag || get_le32(p + 12) != 0 ||
        get_le64(p + 16) == 0 || get_le32(p + OVERLAY_PAGE - 8) != 0 ||
        get_le32(p + 8) >= OVERLAY_PAGES_MAX)
        return -EBADMSG;
    out->page_no = get_le32(p + 8);
    out->gen = get_le64(p + 16);
    memcpy(out->bits, p + PAGE_BITS_AT, MAP_BYTES);
    return 0;
}

/* --- the map in memory ------------------------------------------------------ */

struct map_page {
    uint64_t gen;  /* on disk; 0: not there yet */
    unsigned slot; /* that holds gen */
    bool dirty;
    uint8_t has[MAP_BYTES];
    uint8_t data[MAP_BYTES]; /* of those: takes space; in memory only */
};

struct overlay {
    struct io_file *data, *map;
    struct overlay_header head;
    unsigned head_slot; /* that holds head */
    uint32_t tag;
    uint64_t blocks;
    uint32_t n_pages;
    struct map_page **pages;
    uint64_t n_data;
    bool failed; /* a flush failed: nothing more is promised */
};

static bool
bit_get(const uint8_t *bits, uint64_t i)
{
    return bits[i / 8] >> i % 8 & 1;
}

static const struct map_page *
page_of(const struct overlay *o, uint64_t block)
{
    return o->pages[block / OVERLAY_PAGE_BITS];
}

bool
overlay_has(const struct overlay *o, uint64_t block)
{
    const struct map_page *p = page_of(o, block);

    return p && bit_get(p->has, block % OVERLAY_PAGE_BITS);
}

uint64_t
overlay_cost(const struct overlay *o, uint64_t first, uint64_t n)
{
    uint64_t cost = 0;

    for (uint64_t b = first; b < first + n; b++) {
        const struct map_page *p = page_of(o, b);

        cost += !p || !bit_get(p->data, b % OVERLAY_PAGE_BITS);
    }
    return cost;
}

uint64_t
overlay_stretch(const struct overlay *o, uint64_t first, uint64_t end,
                bool *out_has)
{
    bool has = overlay_has(o, first);
    uint64_t b = first + 1;

    while (b < end) {
        if (!page_of(o, b)) {
            if (has)
                break;
            b = MIN(end, (b / OVERLAY_PAGE_BITS + 1) * OVERLAY_PAGE_BITS);
            continue;
        }
        if (overlay_has(o, b) != has)
            break;
        b++;
    }
    *out_has = has;
    return b;
}

int
overlay_prepare(struct overlay *o, uint64_t first, uint64_t n)
{
    for (uint64_t p = first / OVERLAY_PAGE_BITS;
         n > 0 && p <= (first + n - 1) / OVERLAY_PAGE_BITS; p++) {
        if (o->pages[p])
            continue;
        o->pages[p] = calloc(1, sizeof *o->pages[p]);
        if (!o->pages[p])
            return -ENOMEM;
    }
    return 0;
}

static void
mark_one(struct overlay *o, uint64_t block, bool data)
{
    struct map_page *p = o->pages[block / OVERLAY_PAGE_BITS];
    uint64_t i = block % OVERLAY_PAGE_BITS;
    uint8_t mask = (uint8_t)(1u << i % 8);

    if (!(p->has[i / 8] & mask)) {
        p->has[i / 8] |= mask;
        p->dirty = true;
    }
    if (data && !(p->data[i / 8] & mask)) {
        p->data[i / 8] |= mask;
        o->n_data++;
    } else if (!data && p->data[i / 8] & mask) {
        p->data[i / 8] &= (uint8_t)~mask;
        o->n_data--;
    }
}

void
overlay_mark(struct overlay *o, uint64_t first, uint64_t n, bool data)
{
    for (uint64_t b = first; b < first + n; b++)
        mark_one(o, b, data);
}

uint64_t
overlay_data_blocks(const struct overlay *o)
{
    return o->n_data;
}

bool
overlay_can_punch(struct overlay *o)
{
    return io_file_can_punch(o->data);
}

/* --- open and close ----------------------------------------------------------- */

enum {
    PATH_SIZE = 512
};

static int
file_path(const char *dir, const struct overlay_header *h, const char *kind,
          char out[PATH_SIZE])
{
    char id[UUID_TEXT_SIZE];

    uuid_format(&h->view.u, id);
    return snprintf(out, PATH_SIZE, "%s/view.%s.%03u.%s", dir, id, h->vol,
                    kind) < PATH_SIZE
               ? 0
               : -ENAMETOOLONG;
}

static uint64_t
page_off(uint32_t page_no, unsigned slot)
{
    return (HEADER_SLOTS + (uint64_t)page_no * 2 + slot) * OVERLAY_PAGE;
}

static int
map_damaged(const struct overlay *o, uint64_t off, const char *what,
            struct err *err)
{
    return err_set(err, -EBADMSG, ERR_JNL_0054,
                   "overlay %s: %s at offset %" PRIu64, io_file_path(o->map),
                   what, off);
}

static int
map_error(const struct overlay *o, int rc, const char *what, struct err *err)
{
    return err_set(err, rc, ERR_JNL_0054, "overlay %s cannot be %s: %s",
                   io_file_path(o->map), what, err_errno(rc));
}

static int
write_header(struct overlay *o, const struct overlay_header *h, unsigned slot)
{
    uint8_t *p = io_mem_alloc(OVERLAY_PAGE);
    int rc = -ENOMEM;

    if (p) {
        overlay_header_encode(h, p);
        rc = io_file_pwrite_sync(o->map, p, OVERLAY_PAGE,
                                 (uint64_t)slot * OVERLAY_PAGE);
        io_mem_free(p, OVERLAY_PAGE);
    }
    return rc;
}

static int
create_files(struct io_loop *loop, const char *dir, struct overlay *o,
             struct err *err)
{
    int rc = io_file_truncate_sync(o->data, o->head.size);

    for (unsigned slot = 0; rc == 0 && slot < HEADER_SLOTS; slot++)
        rc = write_header(o, &o->head, slot);
    if (rc == 0)
        rc = io_file_fdatasync_sync(o->data);
    if (rc == 0)
        rc = io_file_fdatasync_sync(o->map);
    if (rc < 0)
        return map_error(o, rc, "created", err);
    return io_sync_dir(loop, dir, err);
}

/* Both slots must be sound: a header is written as one sector, so no crash
 * leaves half of one. */
static int
load_header(struct overlay *o, const struct overlay_header *want,
            const uint8_t *buf, size_t len, struct err *err)
{
    struct overlay_header h[HEADER_SLOTS];

    for (unsigned i = 0; i < HEADER_SLOTS; i++) {
        const uint8_t *p = buf + (size_t)i * OVERLAY_PAGE;
        int rc = len < (size_t)HEADER_SLOTS * OVERLAY_PAGE
                     ? -ENODATA
                     : overlay_header_decode(p, OVERLAY_PAGE, &h[i]);

        if (rc == -EPROTONOSUPPORT)
            return err_set(err, rc, ERR_JNL_0052,
                           "overlay %s is of version %u, this release knows up "
                           "to %d",
                           io_file_path(o->map), get_le32(p + 4),
                           OVERLAY_VERSION);
        if (rc < 0)
            return map_damaged(o, (uint64_t)i * OVERLAY_PAGE, "damaged header",
                               err);
        if (!uuid_equal(&h[i].view.u, &want->view.u) || h[i].vol != want->vol ||
            h[i].size != want->size)
            return map_damaged(o, (uint64_t)i * OVERLAY_PAGE,
                               "the header of another view", err);
    }
    o->head_slot = h[1].flush_no > h[0].flush_no;
    o->head = h[o->head_slot];
    return 0;
}

static int
take_page(struct overlay *o, uint32_t no, unsigned slot,
          const struct overlay_page *pg, struct err *err)
{
    uint64_t first = (uint64_t)no * OVERLAY_PAGE_BITS;
    struct map_page *p;

    if (pg->gen > o->head.flush_no) {
        /* Of a flush that never ended.  The next one writes this slot again, or
         * the page would count then by accident. */
        if (overlay_prepare(o, first, 1) < 0)
            return map_error(o, -ENOMEM, "read", err);
        o->pages[no]->dirty = true;
        return 0;
    }
    if (o->pages[no] && o->pages[no]->gen >= pg->gen)
        return 0; /* older */
    for (uint64_t i = o->blocks > first ? o->blocks - first : 0;
         i < OVERLAY_PAGE_BITS; i++)
        if (bit_get(pg->bits, i))
            return map_damaged(o, page_off(no, slot),
                               "a block beyond the volume", err);
    if (overlay_prepare(o, first, 1) < 0)
        return map_error(o, -ENOMEM, "read", err);
    p = o->pages[no];
    p->gen = pg->gen;
    p->slot = slot;
    memcpy(p->has, pg->bits, MAP_BYTES);
    return 0;
}

/* A slot that cannot be read may be a page that a crash tore, which does not
 * count, or one that counted; the header's sum tells. */
static int
load_pages(struct overlay *o, const uint8_t *buf, size_t len, struct err *err)
{
    struct overlay_page *pg = malloc(sizeof *pg);
    uint64_t sum = 0;
    int rc = pg ? 0 : map_error(o, -ENOMEM, "read", err);

    for (uint32_t no = 0; rc == 0 && no < o->n_pages; no++) {
        for (unsigned slot = 0; rc == 0 && slot < 2; slot++) {
            uint64_t off = page_off(no, slot);

            if (off + OVERLAY_PAGE > len ||
                overlay_page_decode(buf + off, OVERLAY_PAGE, o->tag, pg) != 0 ||
                pg->page_no != no)
                continue;
            rc = take_page(o, no, slot, pg, err);
        }
        if (o->pages[no] && o->pages[no]->gen)
            sum += overlay_page_mix(no, o->pages[no]->gen);
    }
    free(pg);
    if (rc == 0 && sum != o->head.pages_sum)
        rc = map_damaged(o, page_off(0, 0), "a page that counts is missing",
                         err);
    return rc;
}

/* Which blocks take space, from the data file's holes. */
static int
load_data_bits(struct overlay *o, struct err *err)
{
    struct io_extent ext[64];
    uint64_t off = 0;

    while (off < o->head.size) {
        int n = io_file_extents_sync(o->data, off, o->head.size - off, ext,
                                     ARRAY_SIZE(ext));

        if (n <= 0)
            return map_error(o, n < 0 ? n : -EIO, "read", err);
        for (int i = 0; i < n; i++) {
            uint64_t b = ext[i].off / OVERLAY_BLOCK,
                     end = ext[i].off + ext[i].len;

            for (; !ext[i].hole && b * OVERLAY_BLOCK < end; b++)
                if (overlay_has(o, b))
                    mark_one(o, b, true);
            off = end;
        }
    }
    return 0;
}

static int
load_files(struct overlay *o, const struct overlay_header *want, struct err *err)
{
    struct io_file_info fi;
    uint8_t *buf;
    int64_t n;
    int rc = io_file_info(o->map, &fi, err);

    if (rc < 0)
        return rc;
    if (fi.size > page_off(o->n_pages, 0))
        return map_damaged(o, fi.size, "bytes beyond the last page", err);
    buf = io_mem_alloc((size_t)fi.size + OVERLAY_PAGE);
    if (!buf)
        return map_error(o, -ENOMEM, "read", err);
    n = io_file_pread_sync(o->map, buf, (size_t)fi.size, 0);
    if (n < 0)
        rc = map_error(o, (int)n, "read", err);
    if (rc == 0)
        rc = load_header(o, want, buf, (size_t)n, err);
    if (rc == 0)
        rc = load_pages(o, buf, (size_t)n, err);
    io_mem_free(buf, (size_t)fi.size + OVERLAY_PAGE);
    if (rc == 0)
        rc = io_file_info(o->data, &fi, err);
    if (rc == 0 && fi.size != want->size)
        rc = err_set(err, -EBADMSG, ERR_JNL_0054,
                     "overlay %s has %" PRIu64 " bytes, the volume has %" PRIu64,
                     io_file_path(o->data), fi.size, want->size);
    return rc < 0 ? rc : load_data_bits(o, err);
}

int
overlay_open(struct io_loop *loop, const char *dir,
             const struct overlay_header *h, bool create, struct overlay **out,
             struct err *err)
{
    unsigned flags = IO_OPEN_WRITE;
    char path[PATH_SIZE];
    struct overlay *o = calloc(1, sizeof *o);
    int rc;

    if (!o)
        return err_set(err, -ENOMEM, ERR_GEN_0002, "no memory for an overlay");
    if (create)
        flags |= IO_OPEN_CREATE | IO_OPEN_TRUNCATE;
    o->head = *h;
    o->head.flush_no = o->head.pages_sum = 0;
    o->tag = overlay_tag(h);
    o->blocks = (h->size + OVERLAY_BLOCK - 1) / OVERLAY_BLOCK;
    o->n_pages =
        (uint32_t)((o->blocks + OVERLAY_PAGE_BITS - 1) / OVERLAY_PAGE_BITS);
    o->pages = calloc((size_t)o->n_pages + 1, sizeof(struct map_page *));
    rc = o->pages ? file_path(dir, h, "data", path) : -ENOMEM;
    if (rc < 0)
        err_set(err, rc, ERR_JNL_0054, "overlay of volume %u in %s: %s", h->vol,
                dir, err_errno(rc));
    if (rc == 0)
        rc = io_file_open(loop, path, flags, &o->data, err);
    if (rc == 0)
        rc = file_path(dir, h, "map", path);
    if (rc == 0)
        rc = io_file_open(loop, path, flags, &o->map, err);
    if (rc == 0)
        rc = create ? create_files(loop, dir, o, err) : load_files(o, h, err);
    if (rc < 0) {
        overlay_close(o);
        return rc;
    }
    *out = o;
    return 0;
}

void
overlay_close(struct overlay *o)
{
    if (!o)
        return;
    for (uint32_t i = 0; o->pages && i < o->n_pages; i++)
        free(o->pages[i]);
    free(o->pages);
    if (o->data)
        io_file_close(o->data);
    if (o->map)
        io_file_close(o->map);
    free(o);
}

void
overlay_remove(struct io_loop *loop, const char *dir,
               const struct overlay_header *h)
{
    char path[PATH_SIZE];

    if (file_path(dir, h, "map", path) == 0)
        (void)io_unlink(loop, path); /* what stays is removed at next start */
    if (file_path(dir, h, "data", path) == 0)
        (void)io_unlink(loop, path);
}

/* --- data ----------------------------------------------------------------------- */

int
overlay_read(struct overlay *o, void *buf, uint64_t len, uint64_t off)
{
    int64_t n = io_file_pread_sync(o->data, buf, len, off);

    if (n < 0)
        return (int)n;
    return (uint64_t)n == len ? 0 : -EIO;
}

int
overlay_write(struct overlay *o, const void *buf, uint64_t len, uint64_t off)
{
    return io_file_pwrite_sync(o->data, buf, len, off);
}

int
overlay_zero(struct overlay *o, uint64_t len, uint64_t off, bool keep)
{
    return io_file_zero_sync(o->data, keep ? IO_ZERO_KEEP : IO_ZERO_PUNCH, off,
                             len);
}

int
overlay_extents(struct overlay *o, uint64_t off, uint64_t len,
                struct io_extent *out, size_t max)
{
    return io_file_extents_sync(o->data, off, len, out, max);
}

/* --- flush ------------------------------------------------------------------------ */

struct overlay_flush {
    struct overlay *o;
    struct overlay_header head;
    unsigned head_slot;
    size_t n;
    uint64_t *off;
    uint8_t *buf; /* n encoded pages */
};

static void
flush_free(struct overlay_flush *f)
{
    if (f->buf)
        io_mem_free(f->buf, f->n * OVERLAY_PAGE);
    free(f->off);
    free(f);
}

static void
encode_dirty(struct overlay *o, struct overlay_flush *f, struct overlay_page *pg)
{
    size_t k = 0;

    for (uint32_t no = 0; no < o->n_pages && k < f->n; no++) {
        struct map_page *p = o->pages[no];

        if (!p || !p->dirty)
            continue;
        if (p->gen)
            f->head.pages_sum -= overlay_page_mix(no, p->gen);
        p->slot = p->gen ? 1 - p->slot : 0;
        p->gen = f->head.flush_no;
        p->dirty = false;
        f->head.pages_sum += overlay_page_mix(no, p->gen);
        pg->page_no = no;
        pg->gen = p->gen;
        memcpy(pg->bits, p->has, MAP_BYTES);
        overlay_page_encode(pg, o->tag, f->buf + k * OVERLAY_PAGE);
        f->off[k++] = page_off(no, p->slot);
    }
    o->head = f->head;
    o->head_slot = f->head_slot = 1 - o->head_slot;
}

int
overlay_flush_begin(struct overlay *o, struct overlay_flush **out)
{
    struct overlay_flush *f = calloc(1, sizeof *f);
    struct overlay_page *pg;

    if (!f)
        return -ENOMEM;
    if (o->failed) {
        free(f);
        return -EIO;
    }
    f->o = o;
    f->head = o->head;
    for (uint32_t no = 0; no < o->n_pages; no++)
        f->n += o->pages[no] && o->pages[no]->dirty;
    if (f->n > 0) {
        f->head.flush_no++;
        f->buf = io_mem_alloc(f->n * OVERLAY_PAGE);
        f->off = calloc(f->n, sizeof *f->off);
        pg = malloc(sizeof *pg);
        if (!f->buf || !f->off || !pg) {
            free(pg);
            flush_free(f);
            return -ENOMEM;
        }
        encode_dirty(o, f, pg);
        free(pg);
    }
    *out = f;
    return 0;
}

/* Data, then pages, then the header that makes them count: a crash before the
 * last step leaves the map of the flush before. */
int
overlay_flush_run(struct overlay_flush *f, struct err *err)
{
    struct overlay *o = f->o;
    int rc = io_file_fdatasync_sync(o->data);

    if (rc == 0 && f->n > 0) {
        for (size_t i = 0; rc == 0 && i < f->n; i++)
            rc = io_file_pwrite_sync(o->map, f->buf + i * OVERLAY_PAGE,
                                     OVERLAY_PAGE, f->off[i]);
        if (rc == 0)
            rc = io_file_fdatasync_sync(o->map);
        if (rc == 0)
            rc = write_header(o, &f->head, f->head_slot);
        if (rc == 0)
            rc = io_file_fdatasync_sync(o->map);
    }
    return rc < 0 ? map_error(o, rc, "flushed", err) : 0;
}

void
overlay_flush_end(struct overlay_flush *f, int res)
{
    if (res < 0)
        f->o->failed = true;
    flush_free(f);
}
