/* Reading many places together: see fetch.h. */
#include "journal/fetch.h"

#include <assert.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "common/crc32c.h"

enum {
    PIECES_MAX = 16384,
    JOIN_GAP = 8 * 1024,       /* not wanted, and cheaper read than left out */
    JOIN_REPLICA = 128 * 1024, /* the same, of the replica */
    JOIN_MAX = 256 * 1024,
    SMALL_BYTES = 32 * 1024,
    IN_FLIGHT = 128,
};

/* --- inflated chunks ----------------------------------------------------- */

struct cached_chunk {
    bool used;
    uint32_t seg, chunk, len;
    uint64_t stamp; /* the lowest goes first */
    uint8_t *buf;
};

struct chunk_cache {
    pthread_mutex_t lock; /* guards all; a leaf */
    uint64_t stamp;
    size_t n;
    struct cached_chunk slot[];
};

struct chunk_cache *
chunk_cache_new(size_t chunks)
{
    struct chunk_cache *c = calloc(1, sizeof *c + chunks * sizeof c->slot[0]);

    if (!c)
        return NULL;
    pthread_mutex_init(&c->lock, NULL);
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
    pthread_mutex_destroy(&c->lock);
    free(c);
}

static bool
cache_get(struct chunk_cache *c, const struct ext_rec *r, void *dst)
{
    uint32_t off = r->chunk_off512 * 512, len = r->len512 * 512;
    bool found = false;

    if (!c)
        return false;
    pthread_mutex_lock(&c->lock);
    for (size_t i = 0; i < c->n && !found; i++) {
        struct cached_chunk *s = &c->slot[i];

        if (!s->used || s->seg != r->seg || s->chunk != r->chunk ||
            !range_ok(off, len, s->len))
            continue;
        memcpy(dst, s->buf + off, len);
        s->stamp = ++c->stamp;
        found = true;
    }
    pthread_mutex_unlock(&c->lock);
    return found;
}

/* Keep a copy; without memory it is only slower the next time. */
static void
cache_put(struct chunk_cache *c, uint32_t seg, uint32_t chunk,
          const uint8_t *raw, uint32_t len)
{
    struct cached_chunk *best;

    if (!c || c->n == 0)
        return;
    best = &c->slot[0];
    pthread_mutex_lock(&c->lock);
    for (size_t i = 0; i < c->n; i++) {
        struct cached_chunk *s = &c->slot[i];

        if (!s->used || (best->used && s->stamp < best->stamp))
            best = s;
        if (!s->used || (s->seg == seg && s->chunk == chunk)) {
            best = s;
            break;
        }
    }
    if (!best->buf)
        best->buf = io_mem_alloc(BATCH_CHUNK_RAW_MAX);
    best->used = best->buf != NULL;
    if (best->used) {
        memcpy(best->buf, raw, len);
        best->seg = seg;
        best->chunk = chunk;
        best->len = len;
        best->stamp = ++c->stamp;
    }
    pthread_mutex_unlock(&c->lock);
}

/* --- the fetch ----------------------------------------------------------- */

struct piece { /* of the log */
    struct seg_slice s;
    uint32_t seg, chunk;
    uint32_t off, len; /* wanted, bytes of the chunk */
    uint8_t *dst;
    size_t rd; /* the read that brings it */
};

struct rd {
    struct io_req rq;
    struct fetch *f;
    struct io_file *file;
    uint64_t off;
    size_t len;
    uint8_t *buf; /* in f->mem, or the place itself (replica) */
    size_t at;    /* in f->mem, until that is there */
    bool replica;
    uint16_t vol;
    int64_t res;
};

struct fetch {
    const struct segment_ops *seg;
    struct replica *replica;
    struct chunk_cache *cache;
    size_t max_bytes, keep_bytes, bytes; /* bytes: of the slices added */
    struct piece *pieces;
    size_t n_pieces, cap_pieces;
    struct rd *rds;
    size_t n_rds, cap_rds;
    bool joinable; /* the last read is of the replica and may grow */
    bool waits, heavy;
    uint8_t *mem;
    size_t mem_len, mem_cap;
    uint8_t *scratch; /* a chunk */
    size_t next, in_flight;
    void (*done)(void *arg);
    void *arg;
};

struct fetch *
fetch_new(const struct segment_ops *seg, struct replica *replica,
          struct chunk_cache *cache, size_t max_bytes, size_t keep_bytes)
{
    struct fetch *f = calloc(1, sizeof *f);

    if (!f)
        return NULL;
    f->seg = seg;
    f->replica = replica;
    f->cache = cache;
    f->max_bytes = max_bytes;
    f->keep_bytes = keep_bytes;
    return f;
}

void
fetch_drop(struct fetch *f)
{
    assert(f->in_flight == 0);
    for (size_t i = 0; i < f->n_pieces; i++)
        f->seg->put(f->seg->arg, &f->pieces[i].s);
    if (f->mem_cap > f->keep_bytes) {
        io_mem_free(f->mem, f->mem_cap);
        f->mem = NULL;
        f->mem_cap = 0;
    }
    f->mem_len = f->bytes = f->n_pieces = f->n_rds = f->next = 0;
    f->joinable = f->waits = f->heavy = false;
}

void
fetch_free(struct fetch *f)
{
    if (!f)
        return;
    fetch_drop(f);
    free(f->pieces);
    free(f->rds);
    if (f->mem)
        io_mem_free(f->mem, f->mem_cap);
    if (f->scratch)
        io_mem_free(f->scratch, BATCH_CHUNK_RAW_MAX);
    free(f);
}

static int
no_memory(struct err *err)
{
    return err_set(err, -ENOMEM, ERR_GEN_0002, "no memory to read a journal");
}

static int
need_scratch(struct fetch *f, struct err *err)
{
    if (!f->scratch)
        f->scratch = io_mem_alloc(BATCH_CHUNK_RAW_MAX);
    return f->scratch ? 0 : no_memory(err);
}

static int
suspect(const struct fetch *f, uint32_t seg, int rc)
{
    if (rc == -EBADMSG && f->seg->suspect)
        f->seg->suspect(f->seg->arg, seg);
    return rc;
}

/* Segments that cannot be read piecewise. */
static int
add_whole(struct fetch *f, const struct ext_rec *r, void *dst, struct err *err)
{
    uint32_t off = r->chunk_off512 * 512, want = r->len512 * 512, len = 0;
    int rc = need_scratch(f, err);

    if (rc == 0)
        rc = suspect(f, r->seg,
                     f->seg->read_chunk(f->seg->arg, r->seg, r->chunk,
                                        f->scratch, &len, err));
    if (rc < 0)
        return rc;
    if (!range_ok(off, want, len))
        return err_set(err, -EBADMSG, ERR_JNL_0051,
                       "segment %" PRIu32 ": chunk %" PRIu32 " of %" PRIu32
                       " bytes, the index wants %" PRIu32 " at %" PRIu32,
                       r->seg, r->chunk, len, want, off);
    cache_put(f->cache, r->seg, r->chunk, f->scratch, len);
    memcpy(dst, f->scratch + off, want);
    return 0;
}

static int
grow(void **v, size_t *cap, size_t n, size_t size, size_t max)
{
    size_t more = *cap ? *cap * 2 : 16;
    void *p;

    if (n < *cap)
        return 0;
    if (n >= max)
        return -ENOBUFS;
    p = reallocarray(*v, MIN(more, max), size);
    if (!p)
        return -ENOMEM;
    *v = p;
    *cap = MIN(more, max);
    return 0;
}

/* Does p lie in what the last piece reads anyhow? */
static bool
shares_read(const struct fetch *f, const struct piece *p)
{
    const struct piece *last;

    if (f->n_pieces == 0)
        return false;
    last = &f->pieces[f->n_pieces - 1];
    return last->seg == p->seg && last->s.file_off == p->s.file_off;
}

int
fetch_add(struct fetch *f, const struct ext_rec *r, void *dst, struct err *err)
{
    struct piece p = { .seg = r->seg,
                       .chunk = r->chunk,
                       .off = r->chunk_off512 * 512,
                       .len = r->len512 * 512,
                       .dst = dst };
    size_t cost;
    int rc;

    if (cache_get(f->cache, r, dst)) {
        fetch_barrier(f);
        return 0;
    }
    if (!f->seg->locate) {
        fetch_barrier(f);
        return add_whole(f, r, dst, err);
    }
    rc = grow((void **)&f->pieces, &f->cap_pieces, f->n_pieces, sizeof p,
              PIECES_MAX);
    if (rc < 0)
        return rc == -ENOMEM ? no_memory(err) : rc;
    rc = suspect(f, r->seg,
                 f->seg->locate(f->seg->arg, r->seg, r->chunk, p.off, p.len,
                                &p.s, err));
    if (rc < 0)
        return rc;
    /* What shares its read with the one before costs nothing. */
    cost = shares_read(f, &p) ? 0 : p.s.stored_len + 2 * (size_t)p.s.align;
    if (f->n_pieces > 0 && cost > f->max_bytes - MIN(f->bytes, f->max_bytes)) {
        f->seg->put(f->seg->arg, &p.s);
        return -ENOBUFS;
    }
    f->bytes += cost;
    f->waits |= p.s.waits;
    f->heavy |= p.s.part.whole;
    f->pieces[f->n_pieces++] = p;
    return 0;
}

static struct rd *
rd_add(struct fetch *f, struct err *err, int *rc)
{
    struct rd *rd;

    *rc = grow((void **)&f->rds, &f->cap_rds, f->n_rds, sizeof *rd,
               (size_t)2 * PIECES_MAX);
    if (*rc < 0) {
        if (*rc == -ENOMEM)
            no_memory(err);
        return NULL;
    }
    rd = &f->rds[f->n_rds++];
    *rd = (struct rd){ .f = f };
    return rd;
}

void
fetch_barrier(struct fetch *f)
{
    f->joinable = false;
}

int
fetch_add_replica(struct fetch *f, uint16_t vol, void *dst, uint64_t len,
                  uint64_t off, struct err *err)
{
    struct io_file *file = replica_direct(f->replica, vol, dst, len, off, false);
    struct rd *last = f->n_rds ? &f->rds[f->n_rds - 1] : NULL;
    int rc;

    if (!file) {
        fetch_barrier(f);
        return replica_read(f->replica, vol, dst, len, off, err);
    }
    rc = replica_check(f->replica, vol, len, off, err);
    if (rc < 0)
        return rc;
    if (last && f->joinable && last->vol == vol && off >= last->off + last->len &&
        off - (last->off + last->len) <= JOIN_REPLICA &&
        (uint8_t *)dst - last->buf == (ptrdiff_t)(off - last->off)) {
        last->len = (size_t)(off + len - last->off);
        return 0;
    }
    last = rd_add(f, err, &rc);
    if (!last)
        return rc;
    last->file = file;
    last->vol = vol;
    last->off = off;
    last->len = (size_t)len;
    last->buf = dst;
    last->replica = true;
    f->joinable = true;
    f->waits = true;
    return 0;
}

/* --- the plan ------------------------------------------------------------ */

static int
by_place(const void *pa, const void *pb)
{
    const struct piece *a = pa, *b = pb;

    if (a->seg != b->seg)
        return a->seg < b->seg ? -1 : 1;
    return a->s.file_off < b->s.file_off   ? -1
           : a->s.file_off > b->s.file_off ? 1
                                           : 0;
}

int
fetch_plan(struct fetch *f, struct err *err)
{
    struct rd *rd = NULL;
    size_t first = f->n_rds;
    uint32_t seg = 0;
    int rc = 0;

    fetch_barrier(f);
    if (f->n_pieces > 1)
        qsort(f->pieces, f->n_pieces, sizeof *f->pieces, by_place);
    for (size_t i = 0; i < f->n_pieces; i++) {
        struct piece *p = &f->pieces[i];
        uint64_t from = p->s.file_off / p->s.align * p->s.align,
                 end = (p->s.file_off + p->s.stored_len + p->s.align - 1) /
                       p->s.align * p->s.align;

        if (rd && seg == p->seg && from <= rd->off + rd->len + JOIN_GAP &&
            (end <= rd->off + rd->len || end - rd->off <= JOIN_MAX)) {
            rd->len = MAX(rd->len, (size_t)(end - rd->off));
        } else {
            rd = rd_add(f, err, &rc);
            if (!rd)
                return rc;
            seg = p->seg;
            rd->file = p->s.file;
            rd->off = from;
            rd->len = (size_t)(end - from);
        }
        p->rd = f->n_rds - 1;
    }
    for (size_t i = first; i < f->n_rds; i++) {
        f->rds[i].at = f->mem_len;
        f->mem_len += (size_t)round_up(f->rds[i].len, 4096);
    }
    if (f->mem_len > f->mem_cap) {
        if (f->mem)
            io_mem_free(f->mem, f->mem_cap);
        f->mem = io_mem_alloc(f->mem_len);
        f->mem_cap = f->mem ? f->mem_len : 0;
        if (!f->mem)
            return no_memory(err);
    }
    for (size_t i = first; i < f->n_rds; i++)
        f->rds[i].buf = f->mem + f->rds[i].at;
    return 0;
}

size_t
fetch_reads(const struct fetch *f)
{
    return f->n_rds;
}

bool
fetch_waits(const struct fetch *f)
{
    return f->waits;
}

bool
fetch_small(const struct fetch *f)
{
    return !f->heavy && f->bytes <= SMALL_BYTES;
}

void
fetch_read(struct fetch *f)
{
    for (size_t i = 0; i < f->n_rds; i++) {
        struct rd *rd = &f->rds[i];

        rd->res = io_file_pread_sync(rd->file, rd->buf, rd->len, rd->off);
    }
}

static void fetch_go(struct fetch *f);

static void
rd_done(struct io_req *rq, int64_t res)
{
    struct rd *rd = container_of(rq, struct rd, rq);
    struct fetch *f = rd->f;

    rd->res = res;
    f->in_flight--;
    if (f->next < f->n_rds)
        fetch_go(f);
    else if (f->in_flight == 0)
        f->done(f->arg);
}

static void
fetch_go(struct fetch *f)
{
    while (f->next < f->n_rds && f->in_flight < IN_FLIGHT) {
        struct rd *rd = &f->rds[f->next++];

        f->in_flight++;
        rd->rq.done = rd_done;
        io_file_pread(rd->file, &rd->rq, rd->buf, rd->len, rd->off, 0);
    }
}

void
fetch_start(struct fetch *f, void (*done)(void *arg), void *arg)
{
    assert(f->n_rds > 0);
    f->done = done;
    f->arg = arg;
    f->next = 0;
    fetch_go(f);
}

/* --- verification -------------------------------------------------------- */

static int
rd_check(const struct fetch *f, const struct rd *rd, struct err *err)
{
    if (rd->replica && rd->res >= 0) { /* an image ends with its volume */
        if ((uint64_t)rd->res < rd->len)
            memset(rd->buf + rd->res, 0, rd->len - (size_t)rd->res);
        return 0;
    }
    if (rd->replica)
        return replica_error(f->replica, rd->vol, (int)rd->res, "read", rd->off,
                             err);
    if (rd->res < 0)
        return err_set(err, (int)rd->res, ERR_JNL_0001,
                       "%s: cannot read %zu bytes at offset %" PRIu64 ": %s",
                       io_file_path(rd->file), rd->len, rd->off,
                       err_errno((int)rd->res));
    return 0;
}

static int
damaged(const struct piece *p, const char *what, struct err *err)
{
    return err_set(err, -EBADMSG, ERR_JNL_0003,
                   "%s: offset %" PRIu64 ": %" PRIu32 " bytes of chunk %" PRIu32
                   ": %s",
                   io_file_path(p->s.file), p->s.file_off, p->s.stored_len,
                   p->chunk, what);
}

static bool
crc_ok(uint32_t have, uint32_t want)
{
#ifdef HOLDFAST_FUZZING
    UNUSED(have);
    UNUSED(want);
    return true;
#else
    return have == want;
#endif
}

/* p's bytes are at hand; same: the piece before was of the same slice, which is
 * verified and, when compressed, still inflated in the scratch buffer. */
static int
place(struct fetch *f, const struct piece *p, bool same, struct err *err)
{
    const struct rd *rd = &f->rds[p->rd];
    const struct seg_part *part = &p->s.part;
    size_t at = (size_t)(p->s.file_off - rd->off);
    const uint8_t *raw = rd->buf + at;
    int rc;

    if ((uint64_t)rd->res < at + p->s.stored_len)
        return damaged(p, "the file ends inside it", err);
    if (part->whole && part->chunk.codec != CHUNK_STORED) {
        rc = same ? 0 : need_scratch(f, err);
        if (rc == 0 && !same)
            rc = chunk_inflate(&part->chunk, raw, f->scratch,
                               BATCH_CHUNK_RAW_MAX, err);
        if (rc < 0) {
            err_prefix(err, "%s: chunk at offset %" PRIu64,
                       io_file_path(p->s.file), p->s.file_off);
            return rc;
        }
        if (!same)
            cache_put(f->cache, p->seg, p->chunk, f->scratch,
                      part->chunk.raw_len);
        raw = f->scratch;
    } else if (!same &&
               !crc_ok(crc32c(0, raw, p->s.stored_len),
                       part->whole ? part->chunk.crc_stored : part->crc)) {
        return damaged(p, "the checksum does not match", err);
    }
    if (p->off < part->off || !range_ok(p->off - part->off, p->len, part->len))
        return damaged(p, "the index wants more than there is", err);
    memcpy(p->dst, raw + (p->off - part->off), p->len);
    return 0;
}

int
fetch_finish(struct fetch *f, struct err *err)
{
    int rc = 0;

    for (size_t i = 0; i < f->n_rds && rc == 0; i++)
        rc = rd_check(f, &f->rds[i], err);
    for (size_t i = 0; i < f->n_pieces && rc == 0; i++) {
        const struct piece *p = &f->pieces[i];
        bool same = i > 0 && p->seg == p[-1].seg &&
                    p->s.file_off == p[-1].s.file_off &&
                    p->s.stored_len == p[-1].s.stored_len;

        rc = suspect(f, p->seg, place(f, p, same, err));
    }
    fetch_drop(f);
    return rc;
}
