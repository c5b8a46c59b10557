/* Reading through a read set: see view.h. */
#include <stdlib.h>
#include <string.h>

#include "journal/view.h"

/* --- resolving ------------------------------------------------------------- */

/* What a range consists of, in key order: records, and gaps (EXT_CHUNK_GAP),
 * which the replica fills. */
struct resolver {
    struct read_set *set;
    int (*emit)(void *arg, const struct ext_rec *r, struct err *err);
    void *arg;
};

static int
emit_gap(struct resolver *rv, uint64_t from, uint64_t to, struct err *err)
{
    while (from < to) {
        struct ext_rec gap = { .key = from,
                               .len512 = (uint32_t)MIN(to - from,
                                                       (uint64_t)EXT_LEN_MAX),
                               .chunk = EXT_CHUNK_GAP };
        int rc = rv->emit(rv->arg, &gap, err);

        if (rc < 0)
            return rc;
        from += gap.len512;
    }
    return 0;
}

static int resolve(struct resolver *rv, size_t table, uint64_t from,
                   uint64_t to, struct err *err);

/* Records of one table, and what lies between them from the older ones. */
static int
resolve_with(struct resolver *rv, size_t table, struct rec_iter *it,
             uint64_t from, uint64_t to, struct err *err)
{
    struct ext_rec r;
    int rc;

    while ((rc = it->next(it, &r, err)) > 0) {
        if (r.key > from) {
            rc = resolve(rv, table + 1, from, r.key, err);
            if (rc < 0)
                return rc;
        }
        rc = rv->emit(rv->arg, &r, err);
        if (rc < 0)
            return rc;
        from = ext_end(&r);
    }
    if (rc == 0 && from < to)
        rc = resolve(rv, table + 1, from, to, err);
    return rc;
}

static int
resolve(struct resolver *rv, size_t table, uint64_t from, uint64_t to,
        struct err *err)
{
    struct read_table *t = NULL;
    struct extmap_iter mi;
    struct run_iter ri;
    int rc;

    for (; rv->set && table < rv->set->n_tables; table++) {
        t = &rv->set->tables[table];
        if (!t->run || run_may_overlap(t->run, from, to))
            break;
        t = NULL;
    }
    if (!t)
        return emit_gap(rv, from, to, err);
    if (t->map) {
        extmap_iterate(t->map, from, to, &mi);
        return resolve_with(rv, table, &mi.it, from, to, err);
    }
    rc = run_iterate(t->run, from, to, &ri, err);
    if (rc == 0)
        rc = resolve_with(rv, table, &ri.it, from, to, err);
    run_iter_release(&ri);
    return rc;
}

struct set_reader {
    struct fetch *f;
    uint16_t vol;
    uint64_t start; /* key of buf[0] */
    uint8_t *buf;
    uint64_t pos; /* key: what lies before has been added */
};

static int
add_piece(void *arg, const struct ext_rec *r, struct err *err)
{
    struct set_reader *sr = arg;
    uint8_t *to = sr->buf + (r->key - sr->start) * 512;
    uint64_t off = (r->key & EXT_OFF_MASK) * 512,
             len = (uint64_t)r->len512 * 512;
    int rc = 0;

    switch (r->chunk) {
    case EXT_CHUNK_GAP:
        rc = fetch_add_replica(sr->f, sr->vol, to, len, off, err);
        break;
    case EXT_CHUNK_ZERO:
        fetch_barrier(sr->f);
        memset(to, 0, len);
        break;
    case EXT_CHUNK_UNKNOWN:
        return err_set(err, -EIO, ERR_JNL_0058,
                       "volume %u: the content at offset %llu is not known: "
                       "the source failed to write or read it",
                       sr->vol, (unsigned long long)off);
    default: rc = fetch_add(sr->f, r, to, err); break;
    }
    if (rc == 0)
        sr->pos = ext_end(r);
    return rc;
}

int
set_fetch(struct read_set *set, struct fetch *f, uint16_t vol, void *buf,
          uint64_t len, uint64_t off, uint64_t *out_len, struct err *err)
{
    struct set_reader sr = {
        .f = f, .vol = vol, .start = ext_key(vol, off / 512), .buf = buf
    };
    struct resolver rv = { .set = set, .emit = add_piece, .arg = &sr };
    int rc;

    sr.pos = sr.start;
    fetch_barrier(f);
    rc = resolve(&rv, 0, sr.start, sr.start + len / 512, err);
    if (rc < 0 && rc != -ENOBUFS)
        return rc;
    *out_len = (sr.pos - sr.start) * 512;
    return 0;
}

int
set_read(struct read_set *set, struct fetch *f, uint16_t vol, void *buf,
         uint64_t len, uint64_t off, struct err *err)
{
    uint8_t *to = buf;
    uint64_t part;
    int rc = 0;

    for (; rc == 0 && len > 0; to += part, off += part, len -= part) {
        int end;

        part = 0;
        rc = set_fetch(set, f, vol, to, len, off, &part, err);
        if (rc == 0)
            rc = fetch_plan(f, err);
        if (rc == 0)
            fetch_read(f);
        end = rc == 0 ? fetch_finish(f, err) : 0;
        rc = rc < 0 ? rc : end;
    }
    if (rc < 0)
        fetch_drop(f);
    return rc;
}

/* --- extents ----------------------------------------------------------------- */

struct extent_list {
    struct replica *replica;
    uint16_t vol;
    struct io_extent *out;
    size_t n, max;
    uint64_t end;               /* of the range that is asked for */
    struct io_extent below[16]; /* the replica's, at some place in it */
    int below_n;
};

static int
extent_add(struct extent_list *l, uint64_t off, uint64_t len, bool hole)
{
    if (l->n > 0 && l->out[l->n - 1].hole == hole) {
        l->out[l->n - 1].len += len;
        return 0;
    }
    if (l->n == l->max)
        return -ENOBUFS;
    l->out[l->n++] = (struct io_extent){ .off = off, .len = len, .hole = hole };
    return 0;
}

/* What the replica has at off.  It is asked for all the rest of the range at
 * once: where a file holds data without a hole, finding that out may cost a walk
 * to its end, and gaps between recent writes are small and many. */
static const struct io_extent *
extent_below(struct extent_list *l, uint64_t off, int *out_rc)
{
    for (int i = 0; i < l->below_n; i++) {
        const struct io_extent *e = &l->below[i];

        if (off >= e->off && off - e->off < e->len)
            return e;
    }
    l->below_n = replica_extents(l->replica, l->vol, off, l->end - off,
                                 l->below, ARRAY_SIZE(l->below));
    if (l->below_n > 0)
        return l->below;
    *out_rc = l->below_n < 0 ? l->below_n : -EIO;
    l->below_n = 0;
    return NULL;
}

static int
extent_gap(struct extent_list *l, uint64_t off, uint64_t len)
{
    int rc = 0;

    while (rc == 0 && len > 0) {
        const struct io_extent *e = extent_below(l, off, &rc);
        uint64_t n = e ? MIN(len, e->len - (off - e->off)) : 0;

        if (e)
            rc = extent_add(l, off, n, e->hole);
        off += n;
        len -= n;
    }
    return rc;
}

static int
extent_piece(void *arg, const struct ext_rec *r, struct err *err)
{
    struct extent_list *l = arg;
    uint64_t off = (r->key & EXT_OFF_MASK) * 512,
             len = (uint64_t)r->len512 * 512;

    UNUSED(err);
    if (r->chunk == EXT_CHUNK_GAP)
        return extent_gap(l, off, len);
    return extent_add(l, off, len, r->chunk == EXT_CHUNK_ZERO);
}

int
set_extents(struct read_set *set, struct replica *r, uint16_t vol, uint64_t off,
            uint64_t len, struct io_extent *out, size_t max)
{
    struct extent_list l = {
        .replica = r, .vol = vol, .out = out, .max = max, .end = off + len
    };
    struct resolver rv = { .set = set, .emit = extent_piece, .arg = &l };
    uint64_t from = ext_key(vol, off / 512);
    int rc = resolve(&rv, 0, from, from + len / 512, NULL);

    if (rc < 0 && rc != -ENOBUFS)
        return rc;
    return (int)l.n;
}
