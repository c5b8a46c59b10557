/* The check of a whole segment, for the scrubber. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "common/crc32c.h"
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

/* Does the payload of e lie in a bad chunk of batch r? */
static bool
entry_hurt(const struct seg_tables *t, const struct seg_batch *r,
           const struct lane_entry *e, const bool *bad)
{
    uint64_t left = e->len512, skip = e->chunk_off512;

    if (!bad)
        return true;
    for (uint32_t k = e->chunk; left > 0 && k < r->n_chunks; k++, skip = 0) {
        struct lane_chunk c;

        if (bad[k])
            return true;
        lane_chunk_decode(t->chunks +
                              (size_t)(r->first_chunk + k) * BATCH_CHUNK_SIZE,
                          &c);
        left -= MIN(left, c.raw_len / 512 - MIN(skip, c.raw_len / 512));
    }
    return left > 0;
}

/* bad: of its chunks; NULL: all of it.  Zeros need no payload. */
static void
tell_hurt(struct seg_verify *v, const struct seg_tables *t,
          const struct seg_batch *r, const bool *bad)
{
    for (uint32_t i = 0; v->hurt && i < r->n_entries; i++) {
        struct lane_entry e;

        lane_entry_decode(t->entries +
                              (size_t)(r->first_entry + i) * BATCH_ENTRY_SIZE,
                          &e);
        if (entry_is_write(&e) && e.chunk < r->n_chunks &&
            entry_hurt(t, r, &e, bad))
            v->hurt(v->arg,
                    &(struct seg_hurt){ .seq = seg_entry_seq(r, i),
                                        .vol = e.vol,
                                        .off = e.off512 * 512,
                                        .len = (uint64_t)e.len512 * 512 });
    }
}

static bool
chunk_bad(const struct batch_view *b, uint32_t i)
{
#ifdef HOLDFAST_FUZZING
    UNUSED(b);
    UNUSED(i);
    return false;
#else
    struct lane_chunk c;

    batch_chunk(b, i, &c);
    return crc32c(0, b->bodies + c.body_off, c.stored_len) != c.crc_stored;
#endif
}

static int
verify_batch(struct io_file *f, const struct seg_tables *t,
             const struct seg_batch *r, struct seg_verify *v)
{
    bool bad[BATCH_CHUNKS_MAX], *which = NULL;
    struct err e = ERR_INIT;
    struct batch_view b;
    uint8_t *buf = NULL;
    size_t cap = 0;
    int rc = r->n_chunks > BATCH_CHUNKS_MAX
                 ? -EBADMSG
                 : segment_read_batch(f, r, &buf, &cap, &e);

    if (rc == 0)
        rc = batch_decode(buf, r->size, &b, &e);
    if (rc == 0 && b.hdr.n_chunks == r->n_chunks)
        which = bad;
    if (rc == 0)
        rc = batch_verify_bodies(&b, &e);
    for (uint32_t i = 0; rc < 0 && which && i < r->n_chunks; i++)
        bad[i] = chunk_bad(&b, i);
    if (buf)
        io_mem_free(buf, cap);
    if (rc == 0)
        return 0;
    tell(v, "%s: offset %" PRIu32 ": %s", io_file_path(f), r->off, e.msg);
    tell_hurt(v, t, r, which);
    return 1;
}

static int
verify_bodies(struct io_file *f, const struct seg_tables *t,
              struct seg_verify *v)
{
    int bad = 0;

    for (uint32_t i = 0; i < atomic_load(&t->n_batches); i++) {
        const struct seg_batch *r = &t->batches[i];

        v->batches++;
        v->chunks += r->n_chunks;
        v->bytes += r->size;
        bad += verify_batch(f, t, r, v);
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

/* The batches are sound and complete: their footer is made from them. */
static int
mend_footer(struct io_loop *loop, const char *path, const struct seg_place *p,
            const struct seg_tables *t, struct err *err)
{
    struct seg_tables *again = NULL;
    struct io_file *f = NULL;
    uint64_t off = 0;
    int rc = io_file_open(loop, path, IO_OPEN_WRITE | IO_OPEN_DIRECT, &f, err);

    if (rc == 0)
        rc = segment_seal(f, &p->header, t, &off, err);
    if (rc == 0 && off != p->footer_off)
        rc = err_set(err, -EBADMSG, ERR_JNL_0003,
                     "%s: its footer was at %" PRIu64, path, p->footer_off);
    if (rc == 0)
        rc = segment_load_tables(f, p, &again, err);
    seg_tables_free(again);
    if (f)
        io_file_close(f);
    return rc;
}

/* Nothing can be read by way of a bad footer: all from seq on is lost. */
static void
tell_rest(struct seg_verify *v, uint64_t seq)
{
    if (v->hurt)
        v->hurt(v->arg, &(struct seg_hurt){ .seq = seq, .all = true });
}

static int
verify_footer(struct io_loop *loop, const char *path, const struct seg_place *p,
              const struct seg_scan *sc, bool sound, struct seg_tables *foot,
              struct err *why, struct seg_verify *v)
{
    struct err e = ERR_INIT;

    if (foot && (sc->end != p->end || tables_equal(foot, sc->tables)))
        return 0;
    if (foot)
        tell(v,
             "%s: offset %" PRIu64
             ": the footer does not agree with the batches",
             path, p->footer_off);
    else
        tell(v, "%s", why->msg);
    if (v->mend && sound && mend_footer(loop, path, p, sc->tables, &e) == 0)
        return 1;
    tell_rest(v, p->header.first_seq);
    return 1;
}

int
segment_verify(struct io_loop *loop, const char *dir, const struct seg_place *p,
               struct seg_verify *v)
{
    char path[4096], name[SEG_NAME_MAX];
    struct seg_scan sc = { .tables = seg_tables_new() };
    struct seg_tables *foot = NULL;
    struct io_file *f = NULL;
    struct err e = ERR_INIT, foot_err = ERR_INIT;
    bool cut;
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
        if (rc != -ENOMEM)
            tell_rest(v, p->header.first_seq);
        bad = 1;
        goto out;
    }
    v->bytes += sc.bytes_read;
    if (p->footer_off)
        (void)segment_load_tables(f, p, &foot, &foot_err);
    /* The footer knows also the batches behind a damaged one. */
    bad = verify_bodies(f, foot ? foot : sc.tables, v);
    cut = p->end && sc.end != p->end;
    if (cut && (bad == 0 || !foot)) {
        tell(v, "%s: offset %" PRIu64 ": batch damaged: %s", path, sc.end,
             sc.why.msg);
        tell_rest(v, MAX(sc.last_seq + 1, p->header.first_seq));
        bad++;
    }
    if (p->footer_off)
        bad += verify_footer(loop, path, p, &sc, bad == 0, foot, &foot_err, v);
out:
    seg_tables_free(foot);
    seg_tables_free(sc.tables);
    if (f)
        io_file_close(f);
    return bad;
}
