/* Reading through a read set, with a cache of inflated chunks for each view:
 * see view.h. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "journal/view.h"

enum chunk_state {
    CHUNK_EMPTY,
    CHUNK_LOADING,
    CHUNK_READY
};

struct chunk_slot {
    enum chunk_state state;
    uint32_t seg, chunk, len;
    unsigned pins;
    uint64_t used; /* stamp; the lowest goes first */
    uint8_t *buf;
};

struct chunk_cache {
    pthread_mutex_t lock; /* guards all; loads run without it */
    pthread_cond_t loaded;
    const struct segment_ops *seg;
    uint64_t stamp;
    size_t n;
    struct chunk_slot slot[];
};

struct chunk_cache *
chunk_cache_new(size_t chunks, const struct segment_ops *seg)
{
    struct chunk_cache *c = calloc(1, sizeof *c + chunks * sizeof c->slot[0]);

    if (!c)
        return NULL;
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->loaded, NULL);
    c->seg = seg;
    c->n = chunks;
    return c;
}

void
chunk_cache_free(struct chunk_cache *c)
{
    if (!c)
        return;
    for (size_t i = 0; i < c->n; i++)
        if (c->slot[i].buf)
            io_mem_free(c->slot[i].buf, BATCH_CHUNK_RAW_MAX);
    pthread_cond_destroy(&c->loaded);
    pthread_mutex_destroy(&c->lock);
    free(c);
}

static struct chunk_slot *
find_locked(struct chunk_cache *c, uint32_t seg, uint32_t chunk)
{
    for (size_t i = 0; i < c->n; i++)
        if (c->slot[i].state != CHUNK_EMPTY && c->slot[i].seg == seg &&
            c->slot[i].chunk == chunk)
            return &c->slot[i];
    return NULL;
}

/* A slot that nobody uses; NULL only with more readers than slots. */
static struct chunk_slot *
victim_locked(struct chunk_cache *c)
{
    struct chunk_slot *best = NULL;

    for (size_t i = 0; i < c->n; i++) {
        struct chunk_slot *s = &c->slot[i];

        if (s->pins > 0)
            continue;
        if (s->state == CHUNK_EMPTY)
            return s;
        if (!best || s->used < best->used)
            best = s;
    }
    return best;
}

static int
load_locked(struct chunk_cache *c, struct chunk_slot *s, uint32_t seg,
            uint32_t chunk, struct err *err)
{
    int rc = 0;

    s->state = CHUNK_LOADING;
    s->seg = seg;
    s->chunk = chunk;
    s->pins = 1;
    pthread_mutex_unlock(&c->lock);
    if (!s->buf)
        s->buf = io_mem_alloc(BATCH_CHUNK_RAW_MAX);
    if (!s->buf)
        rc = err_set(err, -ENOMEM, ERR_GEN_0002, "no memory for a chunk");
    else
        rc = c->seg->read_chunk(c->seg->arg, seg, chunk, s->buf, &s->len, err);
    pthread_mutex_lock(&c->lock);
    s->state = rc < 0 ? CHUNK_EMPTY : CHUNK_READY;
    if (rc < 0)
        s->pins = 0;
    pthread_cond_broadcast(&c->loaded);
    return rc;
}

/* A pinned slot that holds the chunk. */
static int
pin_locked(struct chunk_cache *c, uint32_t seg, uint32_t chunk,
           struct chunk_slot **out, struct err *err)
{
    for (;;) {
        struct chunk_slot *s = find_locked(c, seg, chunk);

        if (s && s->state == CHUNK_READY) {
            s->pins++;
            *out = s;
            return 0;
        }
        if (!s) {
            s = victim_locked(c);
            if (s) {
                *out = s;
                return load_locked(c, s, seg, chunk, err);
            }
        }
        pthread_cond_wait(&c->loaded, &c->lock);
    }
}

int
chunk_cache_read(struct chunk_cache *c, uint32_t seg, uint32_t chunk,
                 uint32_t off, uint32_t len, void *buf, struct err *err)
{
    struct chunk_slot *s;
    int rc;

    pthread_mutex_lock(&c->lock);
    rc = pin_locked(c, seg, chunk, &s, err);
    pthread_mutex_unlock(&c->lock);
    if (rc < 0)
        return rc;
    if (range_ok(off, len, s->len))
        memcpy(buf, s->buf + off, len);
    else
        rc = err_set(err, -EBADMSG, ERR_JNL_0051,
                     "segment %u: chunk %u of %u bytes, the index wants %u at "
                     "%u",
                     seg, chunk, s->len, len, off);
    pthread_mutex_lock(&c->lock);
    s->used = ++c->stamp;
    if (--s->pins == 0)
        pthread_cond_broadcast(&c->loaded);
    pthread_mutex_unlock(&c->lock);
    return rc;
}

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
    struct chunk_cache *cache;
    struct replica *replica;
    uint16_t vol;
    uint64_t start; /* key of buf[0] */
    uint8_t *buf;
};

static int
read_piece(void *arg, const struct ext_rec *r, struct err *err)
{
    struct set_reader *sr = arg;
    uint8_t *to = sr->buf + (r->key - sr->start) * 512;
    uint64_t off = (r->key & EXT_OFF_MASK) * 512,
             len = (uint64_t)r->len512 * 512;

    switch (r->chunk) {
    case EXT_CHUNK_GAP:
        return replica_read(sr->replica, sr->vol, to, len, off, err);
    case EXT_CHUNK_ZERO: memset(to, 0, len); return 0;
    case EXT_CHUNK_UNKNOWN:
        return err_set(err, -EIO, ERR_JNL_0058,
                       "volume %u: the content at offset %llu is not known: "
                       "the source failed to write or read it",
                       sr->vol, (unsigned long long)off);
    default:
        return chunk_cache_read(sr->cache, r->seg, r->chunk,
                                r->chunk_off512 * 512, (uint32_t)len, to, err);
    }
}

int
set_read(struct read_set *set, struct chunk_cache *cache, struct replica *r,
         uint16_t vol, void *buf, uint64_t len, uint64_t off, struct err *err)
{
    struct set_reader sr = { .cache = cache,
                             .replica = r,
                             .vol = vol,
                             .start = ext_key(vol, off / 512),
                             .buf = buf };
    struct resolver rv = { .set = set, .emit = read_piece, .arg = &sr };

    return resolve(&rv, 0, sr.start, sr.start + len / 512, err);
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
    struct io_extent *last = l->n ? &l->out[l->n - 1] : NULL;

    if (last && last->hole == hole) {
        last->len += len;
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
