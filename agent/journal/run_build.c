/* Run files: building one, page by page, in one pass over sorted records. */
#include "journal/run.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/crc32c.h"
#include "journal/run_filter.h"
#include "journal/run_internal.h"

enum {
    BUILD_PAGES = 64, /* written at a time */
};

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
    struct run_filter filter;
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
    rc = run_filter_add(&b->filter, r);
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
    f->filter_len = (uint32_t)run_filter_size(&b->filter);
    f->region_shift = b->filter.shift;
    fences = malloc(f->fence_len + 1);
    filter = malloc(f->filter_len);
    if (!fences || !filter) {
        write_error(b, rc, err);
        goto out;
    }
    for (uint64_t i = 0; i < f->pages; i++)
        put_le64(fences + i * 8, b->fences[i]);
    run_filter_encode(&b->filter, filter);
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
    b->header_crc = run_header_crc(b->h);
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
    run_filter_release(&b->filter);
    free(b->fences);
    free(b);
    return rc;
}
