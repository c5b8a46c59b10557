/* Promotion into the replica: see promote.h. */
#include "journal/promote.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum {
    BAD_MAX = 4096
};

struct piece { /* a record's payload in the sort buffer */
    uint64_t key;
    uint32_t len; /* bytes */
    uint32_t at;
};

struct promotion {
    struct read_set *set;
    const struct segment_ops *seg;
    struct replica *replica;
    struct set_scan *scan;
    bool scanned;         /* the scan has ended */
    struct ext_rec *recs; /* a key window, sorted by place in the log */
    size_t n_recs, next;
    uint8_t *buf, *join, *chunk;
    struct piece *pieces;
    struct ext_rec *bad;
    size_t n_bad;
    uint64_t bytes;
};

enum {
    PIECES_MAX = PROMOTE_BUFFER / 512
};

int
promotion_new(struct read_set *set, const struct segment_ops *seg,
              struct replica *replica, struct promotion **out)
{
    struct promotion *p = calloc(1, sizeof *p);

    if (!p)
        return -ENOMEM;
    p->set = read_set_ref(set);
    p->seg = seg;
    p->replica = replica;
    p->recs = calloc(PROMOTE_RECORDS, sizeof *p->recs);
    p->pieces = calloc(PIECES_MAX, sizeof *p->pieces);
    p->buf = io_mem_alloc(PROMOTE_BUFFER);
    p->join = io_mem_alloc(PROMOTE_WRITE);
    p->chunk = io_mem_alloc(BATCH_CHUNK_RAW_MAX);
    if (!p->recs || !p->pieces || !p->buf || !p->join || !p->chunk) {
        promotion_free(p);
        return -ENOMEM;
    }
    *out = p;
    return 0;
}

void
promotion_free(struct promotion *p)
{
    if (!p)
        return;
    set_scan_free(p->scan);
    read_set_unref(p->set);
    if (p->buf)
        io_mem_free(p->buf, PROMOTE_BUFFER);
    if (p->join)
        io_mem_free(p->join, PROMOTE_WRITE);
    if (p->chunk)
        io_mem_free(p->chunk, BATCH_CHUNK_RAW_MAX);
    free(p->recs);
    free(p->pieces);
    free(p->bad);
    free(p);
}

const struct ext_rec *
promotion_bad(const struct promotion *p, size_t *out_n)
{
    *out_n = p->n_bad;
    return p->bad;
}

uint64_t
promotion_bytes(const struct promotion *p)
{
    return p->bytes;
}

static int
add_bad(struct promotion *p, const struct ext_rec *r, struct err *err)
{
    struct ext_rec *last = p->n_bad ? &p->bad[p->n_bad - 1] : NULL;

    if (last && ext_continues(last, r)) {
        last->len512 += r->len512;
        return 0;
    }
    if (!p->bad)
        p->bad = calloc(BAD_MAX, sizeof *p->bad);
    if (!p->bad || p->n_bad == BAD_MAX)
        return err_set(err, p->bad ? -E2BIG : -ENOMEM, ERR_JNL_0059,
                       "promotion to %" PRIu64
                       ": more than %d ranges of unknown content",
                       p->set->upto_seq, BAD_MAX);
    p->bad[p->n_bad++] = *r;
    return 0;
}

static int
by_place(const void *pa, const void *pb)
{
    const struct ext_rec *a = pa, *b = pb;

    if (a->seg != b->seg)
        return a->seg < b->seg ? -1 : 1;
    if (a->chunk != b->chunk)
        return a->chunk < b->chunk ? -1 : 1;
    return a->chunk_off512 < b->chunk_off512   ? -1
           : a->chunk_off512 > b->chunk_off512 ? 1
                                               : 0;
}

static int
by_key(const void *pa, const void *pb)
{
    const struct piece *a = pa, *b = pb;

    return a->key < b->key ? -1 : a->key > b->key;
}

/* Take the next key window; zeros are punched and unknowns noted on the way. */
static int
fill_window(struct promotion *p, struct err *err)
{
    struct rec_iter *it = set_scan_records(p->scan);
    struct ext_rec r;
    int rc = 0;

    p->n_recs = p->next = 0;
    while (p->n_recs < PROMOTE_RECORDS) {
        rc = it->next(it, &r, err);
        if (rc <= 0)
            break;
        if (ext_has_data(&r)) {
            p->recs[p->n_recs++] = r;
            continue;
        }
        if (r.chunk == EXT_CHUNK_UNKNOWN) {
            rc = add_bad(p, &r, err);
        } else {
            rc = replica_write(p->replica, (uint16_t)(r.key >> EXT_VOL_SHIFT),
                               NULL, (uint64_t)r.len512 * 512,
                               (r.key & EXT_OFF_MASK) * 512, err);
        }
        if (rc < 0)
            return rc;
    }
    if (rc < 0)
        return rc;
    p->scanned = p->n_recs < PROMOTE_RECORDS;
    qsort(p->recs, p->n_recs, sizeof *p->recs, by_place);
    return 0;
}

/* Read chunks in log order until the buffer is full or the window ends. */
static int
gather(struct promotion *p, size_t *out_n, struct err *err)
{
    uint32_t seg = 0, chunk = EXT_CHUNK_ZERO, chunk_len = 0;
    size_t n = 0, used = 0;

    for (; p->next < p->n_recs; p->next++) {
        const struct ext_rec *r = &p->recs[p->next];
        uint32_t len = r->len512 * 512, off = r->chunk_off512 * 512;

        if (len > PROMOTE_BUFFER - used || n == PIECES_MAX)
            break;
        if (r->seg != seg || r->chunk != chunk) {
            int rc = p->seg->read_chunk(p->seg->arg, r->seg, r->chunk, p->chunk,
                                        &chunk_len, err);

            if (rc < 0)
                return rc;
            seg = r->seg;
            chunk = r->chunk;
        }
        if (!range_ok(off, len, chunk_len))
            return err_set(err, -EBADMSG, ERR_JNL_0051,
                           "segment %" PRIu32 ": chunk %" PRIu32 " of %" PRIu32
                           " bytes, the index wants %" PRIu32 " at %" PRIu32,
                           seg, chunk, chunk_len, len, off);
        memcpy(p->buf + used, p->chunk + off, len);
        p->pieces[n++] =
            (struct piece){ .key = r->key, .len = len, .at = (uint32_t)used };
        used += len;
    }
    *out_n = n;
    return 0;
}

static int
write_run(struct promotion *p, const struct piece *pc, size_t n, uint32_t len,
          struct err *err)
{
    const uint8_t *buf = p->join;
    uint32_t at = 0;

    if (n == 1) {
        buf = p->buf + pc[0].at;
    } else {
        for (size_t i = 0; i < n; i++) {
            memcpy(p->join + at, p->buf + pc[i].at, pc[i].len);
            at += pc[i].len;
        }
    }
    p->bytes += len;
    return replica_write(p->replica, (uint16_t)(pc[0].key >> EXT_VOL_SHIFT),
                         buf, len, (pc[0].key & EXT_OFF_MASK) * 512, err);
}

/* Write what was gathered in offset order, neighbours together. */
static int
scatter(struct promotion *p, size_t n, struct err *err)
{
    qsort(p->pieces, n, sizeof *p->pieces, by_key);
    for (size_t i = 0; i < n;) {
        const struct piece *first = &p->pieces[i];
        uint32_t len = first->len;
        size_t k = 1;
        int rc;

        while (i + k < n && first[k].key == first->key + len / 512 &&
               first[k].key >> EXT_VOL_SHIFT == first->key >> EXT_VOL_SHIFT &&
               first[k].len <= PROMOTE_WRITE - MIN(len, (uint32_t)PROMOTE_WRITE))
            len += first[k++].len;
        rc = write_run(p, first, k, len, err);
        if (rc < 0)
            return rc;
        i += k;
    }
    return 0;
}

int
promotion_step(struct promotion *p, struct err *err)
{
    size_t n = 0;
    int rc = 0;

    if (!p->scan)
        rc = set_scan_new(p->set, &p->scan, err);
    if (rc == 0 && p->next == p->n_recs && !p->scanned)
        rc = fill_window(p, err);
    if (rc < 0)
        return rc;
    if (p->next < p->n_recs) {
        rc = gather(p, &n, err);
        return rc < 0 ? rc : (rc = scatter(p, n, err)) < 0 ? rc : 1;
    }
    if (!p->scanned)
        return 1;
    return replica_sync(p->replica, err);
}
