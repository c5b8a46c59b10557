/* The check of a whole segment, for the scrubber. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "journal/segment.h"

static void PRINTF_LIKE(2, 3) tell(struct seg_verify *v, const char *fmt, ...)
{
    char text[512];
    va_list ap;

    va_start(ap, fmt);
    if (vsnprintf(text, sizeof text, fmt, ap) < 0)
        text[0] = '\0';
    va_end(ap);
    v->bad(v->arg, text);
}

static int
verify_bodies(struct io_file *f, const struct seg_tables *t,
              struct seg_verify *v)
{
    int bad = 0;

    for (uint32_t i = 0; i < atomic_load(&t->n_batches); i++) {
        const struct seg_batch *r = &t->batches[i];
        struct err e = ERR_INIT;
        struct batch_view b;
        uint8_t *buf;
        size_t cap;
        int rc = segment_read_batch(f, r, &buf, &cap, &e);

        if (rc == 0) {
            rc = batch_decode(buf, r->size, &b, &e);
            if (rc == 0)
                rc = batch_verify_bodies(&b, &e);
            io_mem_free(buf, cap);
        }
        v->batches++;
        v->chunks += r->n_chunks;
        v->bytes += r->size;
        if (rc < 0) {
            tell(v, "%s: offset %" PRIu32 ": %s", io_file_path(f), r->off,
                 e.msg);
            bad++;
        }
    }
    return bad;
}

static bool
tables_equal(const struct seg_tables *a, const struct seg_tables *b)
{
    uint32_t n = atomic_load(&a->n_batches);

    if (n != atomic_load(&b->n_batches) || a->n_cuts != b->n_cuts ||
        memcmp(a->digest, b->digest, 16) != 0)
        return false;
    for (uint32_t i = 0; i < n; i++)
        if (a->batches[i].off != b->batches[i].off ||
            a->batches[i].batch_no != b->batches[i].batch_no ||
            a->batches[i].last_seq != b->batches[i].last_seq)
            return false;
    return memcmp(a->entries, b->entries,
                  (size_t)seg_tables_entries(a) * BATCH_ENTRY_SIZE) == 0 &&
           memcmp(a->chunks, b->chunks,
                  (size_t)seg_tables_chunks(a) * BATCH_CHUNK_SIZE) == 0;
}

int
segment_verify(struct io_loop *loop, const char *dir, const struct seg_place *p,
               struct seg_verify *v)
{
    char path[4096], name[SEG_NAME_MAX];
    struct seg_scan sc = { .tables = seg_tables_new() };
    struct seg_tables *foot = NULL;
    struct io_file *f = NULL;
    struct err e = ERR_INIT;
    bool mismatch = false;
    int bad = 0, rc;

    seg_name(p->no, name);
    (void)snprintf(path, sizeof path, "%s/%s", dir, name);
    rc = sc.tables
             ? io_file_open(loop, path, IO_OPEN_READ | IO_OPEN_DIRECT, &f, &e)
             : err_set(&e, -ENOMEM, ERR_GEN_0002, "no memory");
    if (rc == 0)
        rc = segment_scan(f, p->end ? p->end : 0, &sc, &e);
    if (rc < 0) {
        tell(v, "%s", e.msg);
        bad = 1;
        goto out;
    }
    v->bytes += sc.bytes_read;
    if (p->end && sc.end != p->end) {
        tell(v, "%s: offset %" PRIu64 ": batch damaged: %s", path, sc.end,
             sc.why.msg);
        bad++;
    }
    bad += verify_bodies(f, sc.tables, v);
    if (p->footer_off) {
        rc = segment_load_tables(f, p, &foot, &e);
        if (rc < 0)
            tell(v, "%s", e.msg);
        else if (sc.end == p->end && !tables_equal(foot, sc.tables))
            mismatch = true;
        if (mismatch)
            tell(v,
                 "%s: offset %" PRIu64
                 ": the footer does not agree with the batches",
                 path, p->footer_off);
        bad += rc < 0 || mismatch;
    }
out:
    seg_tables_free(foot);
    seg_tables_free(sc.tables);
    if (f)
        io_file_close(f);
    return bad;
}
