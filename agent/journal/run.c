/* Run files: opening, seeking and reading them.  docs/formats/run.md.
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
#include "journal/run_filter.h"
#include "journal/run_internal.h"

enum {
    SCAN_PAGES = 16, /* read at a time */
    TAIL_READ = 64 * 1024,
};

struct run {
    atomic_int refs;
    struct io_file *file;
    uint64_t id; /* in the page cache */
    struct run_info info;
    struct run_footer foot;
    uint64_t *fences;
    uint8_t *filter_bytes;
    struct run_filter filter;
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

    if (!run_crc_ok(crc32c(0, p, f->fence_len), f->fence_crc))
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

    if (!run_crc_ok(crc32c(0, p, f->filter_len), f->filter_crc))
        return damaged(r, f->filter_off, "damaged filter", err);
    r->filter_bytes = malloc((size_t)f->filter_len + 1);
    if (!r->filter_bytes)
        return err_set(err, -ENOMEM, ERR_GEN_0002, "no memory for a filter");
    memcpy(r->filter_bytes, p, f->filter_len);
    r->filter.shift = f->region_shift;
    if (run_filter_decode(r->filter_bytes, f->filter_len, &r->filter) < 0)
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
    if (rc < 0 || !run_crc_ok(get_le32(page + 72), r->foot.header_crc)) {
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

    if (!want || run_header_crc(want) != r->foot.header_crc)
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
    struct io_file_info fi = { .size = 0 };
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
    if (rc == 0 && (fi.size < (uint64_t)2 * RUN_PAGE || fi.size % RUN_PAGE != 0))
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
           run_filter_test(&r->filter, from, to);
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
    it->n = get_le16(it->data + RUN_PAGE_TRAILER);
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
    if (rc < 0)
        return rc;
    rc = run_scan(r, &it, err);
    if (rc < 0)
        return rc;
    while ((rc = it.it.next(&it.it, &rec, err)) > 0) {
        if (rec.key < after ||
            !run_filter_test(&r->filter, rec.key, ext_end(&rec))) {
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
