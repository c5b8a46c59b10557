/* The segments that exist, for readers of any thread.
 *
 * To find a payload takes the segment's batch table (from its footer) and the
 * head of one batch (a few KiB at the batch itself).  Files, tables and heads
 * are taken in when first needed and let go of, the least recently used first,
 * when there are too many: a cold read of a history too large for the cache
 * costs one head and one payload, however much there is. */
#include "journal/segment.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/list.h"

struct slot {
    bool suspect; /* what was read of it was damaged */
    struct seg_place place;
    /* store->lock: */
    unsigned refs;
    struct list lru; /* in store->lru when refs is 0 and there is something to
                      * let go of */
    bool in_lru;
    struct slot_batch *batches; /* sealed; NULL: not loaded */
    uint32_t n_batches;
    struct seg_head **heads; /* by batch; NULL where not loaded */
    uint32_t n_heads;
    /* Taken before the store's lock. */
    pthread_mutex_t load; /* guards file, tables and loading */
    struct io_file *file;
    uint32_t align;            /* of reads */
    bool waits;                /* for a disk */
    struct seg_tables *tables; /* open segment only */
};

struct slot_batch { /* a batch of a sealed segment, as far as needed */
    uint32_t off, first_chunk, n_entries, n_chunks;
    uint64_t batch_no;
};

struct seg_store {
    unsigned n_suspects;
    struct io_loop *loop;
    char *dir;
    struct vpg_id vpg;
    uint32_t lane;
    bool planted_order;
    pthread_mutex_t lock; /* guards all below and slots' refs and lru */
    struct slot **slots;  /* by number */
    size_t n, cap;
    struct list lru;   /* of slots, least recent first */
    struct list heads; /* of seg_head.lru, the same */
    size_t files, table_bytes, head_bytes;
};

int
seg_store_new(struct io_loop *loop, const char *dir, struct vpg_id vpg,
              uint32_t lane, bool planted_order, struct seg_store **out)
{
    struct seg_store *s = calloc(1, sizeof *s);

    if (!s)
        return -ENOMEM;
    s->dir = strdup(dir);
    if (!s->dir) {
        free(s);
        return -ENOMEM;
    }
    s->loop = loop;
    s->vpg = vpg;
    s->lane = lane;
    s->planted_order = planted_order;
    pthread_mutex_init(&s->lock, NULL);
    list_init(&s->lru);
    list_init(&s->heads);
    *out = s;
    return 0;
}

static void
slot_free(struct slot *t)
{
    if (t->file)
        io_file_close(t->file);
    seg_tables_free(t->tables);
    for (uint32_t i = 0; i < t->n_heads; i++)
        seg_head_free(t->heads[i]);
    free(t->heads);
    free(t->batches);
    pthread_mutex_destroy(&t->load);
    free(t);
}

void
seg_store_free(struct seg_store *s)
{
    if (!s)
        return;
    for (size_t i = 0; i < s->n; i++)
        slot_free(s->slots[i]);
    free(s->slots);
    free(s->dir);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

/* Index of the first slot with number >= no. */
static size_t
slot_index(const struct seg_store *s, uint32_t no)
{
    size_t lo = 0, hi = s->n;

    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;

        if (s->slots[mid]->place.no < no)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

int
seg_store_add(struct seg_store *s, const struct seg_place *p,
              struct io_file *file, struct seg_tables *tables)
{
    struct slot *t = calloc(1, sizeof *t);
    struct io_file_info fi = { .align = 0 };
    size_t i;
    int rc = -ENOMEM;

    if (!t)
        return -ENOMEM;
    t->place = *p;
    list_init(&t->lru);
    pthread_mutex_init(&t->load, NULL);
    /* Only how to read it best; without an answer, as any disk allows. */
    if (file && io_file_info(file, &fi, NULL) < 0)
        fi = (struct io_file_info){ .align = SEG_ALIGN };
    t->align = MAX(fi.align, 1U);
    t->waits = !fi.ram_backed;
    pthread_mutex_lock(&s->lock);
    if (s->n == s->cap) {
        size_t cap = s->cap ? 2 * s->cap : 16;
        struct slot **v = reallocarray(s->slots, cap, sizeof(struct slot *));

        if (!v)
            goto out;
        s->slots = v;
        s->cap = cap;
    }
    i = slot_index(s, p->no);
    rc = -EEXIST;
    if (i < s->n && s->slots[i]->place.no == p->no)
        goto out;
    memmove(&s->slots[i + 1], &s->slots[i], (s->n - i) * sizeof(struct slot *));
    s->slots[i] = t;
    s->n++;
    t->file = file;
    t->tables = tables;
    if (file) {
        s->files++;
        t->refs = tables ? 1 : 0; /* the open one stays */
    }
    if (file && !tables) {
        list_push_back(&s->lru, &t->lru);
        t->in_lru = true;
    }
    rc = 0;
out:
    pthread_mutex_unlock(&s->lock);
    if (rc < 0)
        slot_free(t);
    return rc;
}

static void
head_drop_locked(struct seg_store *s, struct seg_head *h)
{
    struct slot *t = h->owner;

    list_del(&h->lru);
    s->head_bytes -= h->bytes;
    t->heads[h->batch] = NULL;
    seg_head_free(h);
}

/* Let go of what nobody uses until the limits hold. */
static void
shrink_locked(struct seg_store *s)
{
    struct list *l, *tmp;

    list_for_each_safe (l, tmp, &s->lru) {
        struct slot *t = list_entry(l, struct slot, lru);
        bool files = s->files > SEG_STORE_FILES,
             tables = s->table_bytes > SEG_STORE_TABLE_BYTES;

        if (!files && !tables)
            return;
        if (files && t->file) {
            io_file_close(t->file);
            t->file = NULL;
            s->files--;
        }
        if (tables && t->batches) {
            s->table_bytes -= t->n_batches * sizeof *t->batches;
            free(t->batches);
            t->batches = NULL;
        }
        if (!t->file && !t->batches) {
            list_del(l);
            t->in_lru = false;
        }
    }
}

static void
unref_locked(struct seg_store *s, struct slot *t)
{
    if (--t->refs > 0)
        return;
    if (t->place.end && t->tables) { /* sealed meanwhile */
        seg_tables_free(t->tables);
        t->tables = NULL;
    }
    if ((t->file || t->batches) && !t->in_lru) {
        list_push_back(&s->lru, &t->lru);
        t->in_lru = true;
    }
    shrink_locked(s);
}

void
seg_store_drop(struct seg_store *s, uint32_t no)
{
    struct slot *t = NULL;
    size_t i;

    pthread_mutex_lock(&s->lock);
    i = slot_index(s, no);
    if (i < s->n && s->slots[i]->place.no == no) {
        t = s->slots[i];
        memmove(&s->slots[i], &s->slots[i + 1],
                (s->n - i - 1) * sizeof(struct slot *));
        s->n--;
        if (t->in_lru)
            list_del(&t->lru);
        if (t->file)
            s->files--;
        if (t->batches)
            s->table_bytes -= t->n_batches * sizeof *t->batches;
        for (uint32_t k = 0; k < t->n_heads; k++)
            if (t->heads[k])
                head_drop_locked(s, t->heads[k]);
    }
    pthread_mutex_unlock(&s->lock);
    if (t)
        slot_free(t);
}

static int
slot_get(struct seg_store *s, uint32_t no, struct slot **out, struct err *err)
{
    struct slot *t = NULL;
    size_t i;

    pthread_mutex_lock(&s->lock);
    i = slot_index(s, no);
    if (i < s->n && s->slots[i]->place.no == no) {
        t = s->slots[i];
        t->refs++;
        if (t->in_lru) {
            list_del(&t->lru);
            t->in_lru = false;
        }
    }
    pthread_mutex_unlock(&s->lock);
    if (!t)
        return err_set(err, -ENOENT, ERR_JNL_0003,
                       "journal %s: segment %" PRIu32 " does not exist", s->dir,
                       no);
    *out = t;
    return 0;
}

static void
slot_put(struct seg_store *s, struct slot *t)
{
    pthread_mutex_lock(&s->lock);
    unref_locked(s, t);
    pthread_mutex_unlock(&s->lock);
}

void
seg_store_sealed(struct seg_store *s, const struct seg_place *p)
{
    struct slot *t;
    bool was_open;

    if (slot_get(s, p->no, &t, NULL) < 0)
        return;
    pthread_mutex_lock(&t->load);
    was_open = t->place.end == 0;
    t->place = *p;
    pthread_mutex_unlock(&t->load);
    pthread_mutex_lock(&s->lock);
    if (was_open && t->refs > 1)
        t->refs--; /* the one that kept the open segment */
    unref_locked(s, t);
    pthread_mutex_unlock(&s->lock);
}

static int
need_file_locked(struct seg_store *s, struct slot *t, struct err *err)
{
    char path[4096], name[SEG_NAME_MAX];
    struct io_file_info fi;
    struct io_file *f;
    int rc;

    if (t->file)
        return 0;
    seg_name(t->place.no, name);
    if ((size_t)snprintf(path, sizeof path, "%s/%s", s->dir, name) >= sizeof path)
        return err_set(err, -ENAMETOOLONG, ERR_JNL_0001, "path too long");
    rc = io_file_open(s->loop, path, IO_OPEN_READ | IO_OPEN_DIRECT, &f, err);
    if (rc < 0)
        return rc;
    rc = io_file_info(f, &fi, err);
    if (rc < 0) {
        io_file_close(f);
        return rc;
    }
    pthread_mutex_lock(&s->lock);
    t->file = f;
    t->align = MAX(fi.align, 1U);
    t->waits = !fi.ram_backed;
    s->files++;
    pthread_mutex_unlock(&s->lock);
    return 0;
}

int
segment_load_tables(struct io_file *f, const struct seg_place *p,
                    struct seg_tables **out, struct err *err)
{
    uint8_t *head = NULL, *buf = NULL;
    uint64_t len = 0;
    uint32_t crc;
    int64_t n;
    int rc;

    if (!p->footer_off) {
        struct seg_scan sc = { .tables = seg_tables_new() };

        if (!sc.tables)
            return err_set(err, -ENOMEM, ERR_GEN_0002, "no memory");
        rc = segment_scan_as(f, &p->header, p->end, &sc, err);
        if (rc == 0 && sc.end != p->end)
            rc = err_set(err, -EBADMSG, ERR_JNL_0003,
                         "%s: batch behind offset %" PRIu64 " is damaged: %s",
                         io_file_path(f), sc.end, sc.why.msg);
        if (rc < 0)
            seg_tables_free(sc.tables);
        else
            *out = sc.tables;
        return rc;
    }
    head = io_mem_alloc(SEG_HEADER_SIZE);
    if (!head)
        return err_set(err, -ENOMEM, ERR_GEN_0002, "no memory for a footer");
    seg_header_encode(&p->header, head);
    crc = seg_header_crc(head);
    n = io_file_pread_sync(f, head, SEG_HEADER_SIZE, p->footer_off);
    /* How long it is, from its counts; all is checked once it is read. */
    if (n == SEG_HEADER_SIZE)
        len = seg_footer_size(get_le32(head + 16), get_le32(head + 20),
                              get_le32(head + 24), get_le32(head + 28));
    if (n == SEG_HEADER_SIZE && len <= p->header.size - p->footer_off)
        buf = io_mem_alloc((size_t)len);
    if (buf)
        n = io_file_pread_sync(f, buf, (size_t)len, p->footer_off);
    if (n < 0)
        rc = err_set(err, (int)n, ERR_JNL_0001, "%s: cannot read the footer: %s",
                     io_file_path(f), err_errno((int)n));
    else if (!buf)
        rc = err_set(err, -EBADMSG, ERR_JNL_0003, "footer damaged: its counts");
    else
        rc = seg_footer_decode(buf, (size_t)n, crc, out, err);
    if (rc < 0)
        err_prefix(err, "%s: offset %" PRIu64, io_file_path(f), p->footer_off);
    if (buf)
        io_mem_free(buf, (size_t)len);
    io_mem_free(head, SEG_HEADER_SIZE);
    return rc == -ENODATA ? -EBADMSG : rc;
}

/* --- walking ------------------------------------------------------------- */

struct walk {
    const struct seg_tables *t;
    uint64_t after, upto;
    bool reversed;
    int (*fn)(void *arg, const struct seg_entry *se);
    void *arg;
};

static int
walk_batch(const struct walk *w, const struct seg_batch *b)
{
    uint32_t raw[BATCH_CHUNKS_MAX];

    if (b->n_chunks > BATCH_CHUNKS_MAX)
        return -EBADMSG;
    for (uint32_t k = 0; k < b->n_chunks; k++) {
        struct lane_chunk c;

        lane_chunk_decode(w->t->chunks +
                              (size_t)(b->first_chunk + k) * BATCH_CHUNK_SIZE,
                          &c);
        raw[k] = c.raw_len;
    }
    for (uint32_t k = 0; k < b->n_entries; k++) {
        uint32_t i = w->reversed ? b->n_entries - 1 - k : k;
        struct seg_entry se = { .seq = seg_entry_seq(b, i),
                                .chunk_base = b->first_chunk };
        int rc;

        if (se.seq <= w->after || se.seq > w->upto)
            continue;
        lane_entry_decode(w->t->entries +
                              (size_t)(b->first_entry + i) * BATCH_ENTRY_SIZE,
                          &se.e);
        if (se.e.chunk != BATCH_NO_CHUNK) {
            if (se.e.chunk >= b->n_chunks)
                return -EBADMSG;
            se.raw_len = &raw[se.e.chunk];
            se.n_raw = b->n_chunks - se.e.chunk;
        }
        rc = w->fn(w->arg, &se);
        if (rc < 0)
            return rc;
    }
    return 0;
}

int
seg_store_walk(void *arg, uint32_t seg, uint64_t after_seq, uint64_t upto_seq,
               int (*fn)(void *fn_arg, const struct seg_entry *se),
               void *fn_arg, struct err *err)
{
    struct seg_store *s = arg;
    struct walk w = { .after = after_seq,
                      .upto = upto_seq,
                      .fn = fn,
                      .arg = fn_arg,
                      .reversed = s->planted_order };
    struct seg_tables *own = NULL;
    struct slot *t;
    uint32_t n;
    int rc = slot_get(s, seg, &t, err);

    if (rc < 0)
        return rc;
    pthread_mutex_lock(&t->load);
    if (t->tables) {
        w.t = t->tables; /* stays while we hold a reference */
    } else {
        rc = need_file_locked(s, t, err);
        if (rc == 0)
            rc = segment_load_tables(t->file, &t->place, &own, err);
        w.t = own;
    }
    pthread_mutex_unlock(&t->load);
    n = rc < 0 ? 0 : atomic_load_explicit(&w.t->n_batches, memory_order_acquire);
    for (uint32_t i = 0; i < n && rc == 0; i++) {
        const struct seg_batch *b = &w.t->batches[i];

        if (b->first_seq > upto_seq)
            break;
        if (b->last_seq > after_seq)
            rc = walk_batch(&w, b);
    }
    seg_tables_free(own);
    slot_put(s, t);
    return rc;
}

/* --- payloads ------------------------------------------------------------ */

/* Chunks up to and with batch i. */
static uint32_t
chunks_upto(const struct slot *t, uint32_t i)
{
    return t->tables ? t->tables->batches[i].first_chunk +
                           t->tables->batches[i].n_chunks
                     : t->batches[i].first_chunk + t->batches[i].n_chunks;
}

/* The batch that holds a chunk; *out_n (how many there are): none. */
static uint32_t
batch_of_chunk(const struct slot *t, uint32_t chunk, uint32_t *out_n)
{
    uint32_t lo = 0, hi;

    if (t->tables)
        hi = atomic_load_explicit(&t->tables->n_batches, memory_order_acquire);
    else
        hi = t->batches ? t->n_batches : 0;
    *out_n = hi;
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;

        if (chunks_upto(t, mid) <= chunk)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

static int
need_batches_locked(struct seg_store *s, struct slot *t, struct err *err)
{
    struct seg_tables *tables = NULL;
    struct seg_batch *v = NULL;
    const struct seg_batch *from;
    struct slot_batch *b;
    uint32_t n = 0;
    int rc;

    if (t->tables || t->batches)
        return 0;
    if (t->place.footer_off) {
        rc = segment_read_batches(t->file, &t->place.header,
                                  t->place.footer_off, &v, &n, err);
    } else { /* none could be written */
        rc = segment_load_tables(t->file, &t->place, &tables, err);
        if (rc == 0)
            n = atomic_load(&tables->n_batches);
    }
    if (rc < 0)
        return rc;
    from = tables ? tables->batches : v; /* NULL: none */
    b = calloc(MAX(n, 1U), sizeof *b);
    for (uint32_t i = 0; b && from && i < n; i++)
        b[i] = (struct slot_batch){ .off = from[i].off,
                                    .first_chunk = from[i].first_chunk,
                                    .n_entries = from[i].n_entries,
                                    .n_chunks = from[i].n_chunks,
                                    .batch_no = from[i].batch_no };
    seg_tables_free(tables);
    free(v);
    if (!b)
        return err_set(err, -ENOMEM, ERR_GEN_0002, "no memory for a segment");
    pthread_mutex_lock(&s->lock);
    t->n_batches = n;
    t->batches = b;
    s->table_bytes += n * sizeof *b;
    pthread_mutex_unlock(&s->lock);
    return 0;
}

/* From the tables of the open segment, or read at the batch. */
static int
head_make(struct slot *t, uint32_t i, struct seg_head **out, struct err *err)
{
    struct batch_view v;
    uint8_t *buf;
    size_t cap;
    int rc;

    if (t->tables) {
        const struct seg_batch *b = &t->tables->batches[i];

        *out = seg_head_new(t->tables->entries +
                                (size_t)b->first_entry * BATCH_ENTRY_SIZE,
                            b->n_entries,
                            t->tables->chunks +
                                (size_t)b->first_chunk * BATCH_CHUNK_SIZE,
                            b->n_chunks, 0);
    } else {
        const struct slot_batch *b = &t->batches[i];
        struct seg_batch r = { .off = b->off,
                               .n_entries = b->n_entries,
                               .n_chunks = b->n_chunks,
                               .batch_no = b->batch_no };

        if (b->n_entries > BATCH_ENTRIES_MAX || b->n_chunks > BATCH_CHUNKS_MAX)
            return err_set(err, -EBADMSG, ERR_JNL_0003,
                           "%s: batch table: a count is out of range",
                           io_file_path(t->file));
        rc = segment_read_head(t->file, &r, &v, &buf, &cap, err);
        if (rc < 0)
            return rc;
        *out = seg_head_new(v.entries, b->n_entries, v.chunks, b->n_chunks,
                            b->off + (uint32_t)v.head_len);
        io_mem_free(buf, cap);
    }
    return *out ? 0
                : err_set(err, -ENOMEM, ERR_GEN_0002, "no memory for a batch");
}

static int
head_keep(struct seg_store *s, struct slot *t, uint32_t i, struct seg_head *h)
{
    int rc = 0;

    h->owner = t;
    h->batch = i;
    pthread_mutex_lock(&s->lock);
    if (i >= t->n_heads) {
        uint32_t n = MAX((uint32_t)round_up(i + 1, 64), t->n_batches);
        struct seg_head **v =
            reallocarray(t->heads, n, sizeof(struct seg_head *));

        if (v) {
            memset(v + t->n_heads, 0,
                   (n - t->n_heads) * sizeof(struct seg_head *));
            t->heads = v;
            t->n_heads = n;
        } else {
            rc = -ENOMEM;
        }
    }
    if (rc == 0) {
        t->heads[i] = h;
        list_push_back(&s->heads, &h->lru);
        s->head_bytes += h->bytes;
        while (s->head_bytes > SEG_STORE_HEAD_BYTES && s->heads.next != &h->lru)
            head_drop_locked(s, list_entry(s->heads.next, struct seg_head, lru));
    }
    pthread_mutex_unlock(&s->lock);
    return rc;
}

/* The slice from what is in memory; false: the head must be loaded. */
static bool
slice_known(struct seg_store *s, struct slot *t, uint32_t chunk, uint32_t off,
            uint32_t len, struct seg_slice *out)
{
    struct seg_head *h = NULL;
    uint32_t i, n, first;

    pthread_mutex_lock(&s->lock);
    i = batch_of_chunk(t, chunk, &n);
    if (i < n && i < t->n_heads && t->file)
        h = t->heads[i];
    if (h) {
        first = t->tables ? t->tables->batches[i].first_chunk
                          : t->batches[i].first_chunk;
        seg_head_find(h, chunk - first, off, len, &out->part);
        out->file = t->file;
        out->align = t->align;
        out->waits = t->waits;
        list_del(&h->lru);
        list_push_back(&s->heads, &h->lru);
    }
    pthread_mutex_unlock(&s->lock);
    return h != NULL;
}

static int
head_load(struct seg_store *s, struct slot *t, uint32_t chunk, struct err *err)
{
    struct seg_head *h = NULL;
    bool known;
    uint32_t i = 0, n = 0;
    int rc;

    pthread_mutex_lock(&t->load);
    rc = need_file_locked(s, t, err);
    if (rc == 0)
        rc = need_batches_locked(s, t, err);
    if (rc == 0) {
        i = batch_of_chunk(t, chunk, &n);
        if (i == n)
            rc = err_set(err, -EBADMSG, ERR_JNL_0003,
                         "%s: there is no chunk %" PRIu32,
                         io_file_path(t->file), chunk);
    }
    if (rc == 0) {
        pthread_mutex_lock(&s->lock);
        known = i < t->n_heads && t->heads[i];
        pthread_mutex_unlock(&s->lock);
        if (!known) {
            rc = head_make(t, i, &h, err);
            if (rc == 0 && head_keep(s, t, i, h) < 0) {
                seg_head_free(h);
                rc = err_set(err, -ENOMEM, ERR_GEN_0002,
                             "no memory for a batch");
            }
        }
    }
    pthread_mutex_unlock(&t->load);
    return rc;
}

int
seg_store_locate(void *arg, uint32_t seg, uint32_t chunk, uint32_t off,
                 uint32_t len, struct seg_slice *out, struct err *err)
{
    struct seg_store *s = arg;
    struct slot *t;
    int rc = slot_get(s, seg, &t, err);

    if (rc < 0)
        return rc;
    while (rc == 0 && !slice_known(s, t, chunk, off, len, out))
        rc = head_load(s, t, chunk, err);
    if (rc == 0 && !range_ok(off, len, out->part.chunk.raw_len))
        rc = err_set(err, -EBADMSG, ERR_JNL_0051,
                     "%s: chunk %" PRIu32 " of %" PRIu32
                     " bytes, the index wants %" PRIu32 " at %" PRIu32,
                     io_file_path(t->file), chunk, out->part.chunk.raw_len, len,
                     off);
    if (rc != 0) {
        slot_put(s, t);
        return rc;
    }
    out->hold = t;
    out->file_off = out->part.chunk.body_off + (uint64_t)out->part.off;
    out->stored_len =
        out->part.whole ? out->part.chunk.stored_len : out->part.len;
    return 0;
}

void
seg_store_put(void *arg, struct seg_slice *s)
{
    slot_put(arg, s->hold);
    s->hold = NULL;
}

void
seg_store_suspect(void *arg, uint32_t seg)
{
    struct seg_store *s = arg;
    size_t i;

    pthread_mutex_lock(&s->lock);
    i = slot_index(s, seg);
    if (i < s->n && s->slots[i]->place.no == seg && !s->slots[i]->suspect) {
        s->slots[i]->suspect = true;
        s->n_suspects++;
    }
    pthread_mutex_unlock(&s->lock);
}

bool
seg_store_suspected(struct seg_store *s, uint32_t *out_no)
{
    bool found = false;

    pthread_mutex_lock(&s->lock);
    for (size_t i = 0; s->n_suspects > 0 && i < s->n && !found; i++) {
        found = s->slots[i]->suspect;
        if (found)
            *out_no = s->slots[i]->place.no;
        s->slots[i]->suspect = false;
    }
    if (found)
        s->n_suspects--;
    else
        s->n_suspects = 0; /* the others were dropped */
    pthread_mutex_unlock(&s->lock);
    return found;
}

static int
chunk_load(const struct seg_slice *s, uint8_t *out, struct err *err)
{
    const struct lane_chunk *c = &s->part.chunk;
    uint64_t from = round_down(c->body_off, SEG_ALIGN);
    size_t len =
        (size_t)(round_up((uint64_t)c->body_off + c->stored_len, SEG_ALIGN) -
                 from);
    uint8_t *buf = io_mem_alloc(len);
    int64_t n;
    int rc;

    if (!buf)
        return err_set(err, -ENOMEM, ERR_GEN_0002, "no memory for a chunk");
    n = io_file_pread_sync(s->file, buf, len, from);
    if (n < 0)
        rc = err_set(err, (int)n, ERR_JNL_0001, "%s: cannot read: %s",
                     io_file_path(s->file), err_errno((int)n));
    else if ((size_t)n < c->body_off - from + c->stored_len)
        rc = err_set(err, -EBADMSG, ERR_JNL_0003, "the file ends inside it");
    else
        rc = chunk_inflate(c, buf + (c->body_off - from), out,
                           BATCH_CHUNK_RAW_MAX, err);
    io_mem_free(buf, len);
    if (rc < 0)
        err_prefix(err, "%s: chunk at offset %" PRIu32, io_file_path(s->file),
                   c->body_off);
    return rc;
}

int
seg_store_read_chunk(void *arg, uint32_t seg, uint32_t chunk, uint8_t *out,
                     uint32_t *out_len, struct err *err)
{
    struct seg_slice s;
    int rc = seg_store_locate(arg, seg, chunk, 0, 0, &s, err);

    if (rc != 0)
        return rc;
    rc = chunk_load(&s, out, err);
    if (rc == 0)
        *out_len = s.part.chunk.raw_len;
    seg_store_put(arg, &s);
    return rc;
}
