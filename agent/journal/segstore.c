/* The segments that exist, for readers of any thread: files are opened and chunk
 * directories loaded when first needed, and let go of, the least recently used
 * first, when there are too many. */
#include "journal/segment.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/list.h"

struct slot {
    struct seg_place place;
    /* store->lock: */
    unsigned refs;
    struct list lru; /* in store->lru when it holds a file and refs is 0 */
    bool in_lru;
    /* Taken before the store's lock. */
    pthread_mutex_t load; /* guards file, tables, dir */
    struct io_file *file;
    struct seg_tables *tables; /* open segment only */
    uint8_t *dir;              /* chunk directory */
    uint32_t n_dir;
};

struct seg_store {
    struct io_loop *loop;
    char *dir;
    struct vpg_id vpg;
    uint32_t lane;
    bool planted_order;
    pthread_mutex_t lock; /* guards all below and slots' refs and lru */
    struct slot **slots;  /* by number */
    size_t n, cap;
    struct list lru; /* least recent first */
    size_t files, dir_bytes;
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
    *out = s;
    return 0;
}

static void
slot_free(struct slot *t)
{
    if (t->file)
        io_file_close(t->file);
    seg_tables_free(t->tables);
    free(t->dir);
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
    size_t i;
    int rc = -ENOMEM;

    if (!t)
        return -ENOMEM;
    t->place = *p;
    list_init(&t->lru);
    pthread_mutex_init(&t->load, NULL);
    pthread_mutex_lock(&s->lock);
    if (s->n == s->cap) {
        size_t cap = s->cap ? 2 * s->cap : 16;
        struct slot **v = reallocarray(s->slots, cap, sizeof *v);

        if (!v)
            goto out;
        s->slots = v;
        s->cap = cap;
    }
    i = slot_index(s, p->no);
    rc = -EEXIST;
    if (i < s->n && s->slots[i]->place.no == p->no)
        goto out;
    memmove(&s->slots[i + 1], &s->slots[i], (s->n - i) * sizeof *s->slots);
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

/* Let go of what nobody uses until the limits hold. */
static void
shrink_locked(struct seg_store *s)
{
    while ((s->files > SEG_STORE_FILES || s->dir_bytes > SEG_STORE_DIR_BYTES) &&
           !list_empty(&s->lru)) {
        struct slot *t = list_entry(s->lru.next, struct slot, lru);

        list_del(&t->lru);
        t->in_lru = false;
        s->dir_bytes -= (size_t)t->n_dir * BATCH_CHUNK_SIZE;
        free(t->dir);
        t->dir = NULL;
        t->n_dir = 0;
        if (t->file) {
            io_file_close(t->file);
            t->file = NULL;
            s->files--;
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
    if (t->file && !t->in_lru) {
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
                (s->n - i - 1) * sizeof *s->slots);
        s->n--;
        if (t->in_lru)
            list_del(&t->lru);
        if (t->file)
            s->files--;
        s->dir_bytes -= (size_t)t->n_dir * BATCH_CHUNK_SIZE;
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
    int rc;

    if (t->file)
        return 0;
    seg_name(t->place.no, name);
    if ((size_t)snprintf(path, sizeof path, "%s/%s", s->dir, name) >= sizeof path)
        return err_set(err, -ENAMETOOLONG, ERR_JNL_0001, "path too long");
    rc = io_file_open(s->loop, path, IO_OPEN_READ | IO_OPEN_DIRECT, &t->file,
                      err);
    if (rc < 0)
        return rc;
    pthread_mutex_lock(&s->lock);
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
        rc = segment_scan(f, p->end, &sc, err);
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

static int
need_dir_locked(struct seg_store *s, struct slot *t, struct err *err)
{
    struct seg_tables *tables;
    int rc;

    if (t->dir)
        return 0;
    rc = segment_load_tables(t->file, &t->place, &tables, err);
    if (rc < 0)
        return rc;
    t->dir = tables->chunks;
    t->n_dir = seg_tables_chunks(tables);
    tables->chunks = NULL;
    seg_tables_free(tables);
    pthread_mutex_lock(&s->lock);
    s->dir_bytes += (size_t)t->n_dir * BATCH_CHUNK_SIZE;
    pthread_mutex_unlock(&s->lock);
    return 0;
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

/* --- chunks -------------------------------------------------------------- */

static int
chunk_place(struct seg_store *s, struct slot *t, uint32_t chunk,
            struct lane_chunk *out, struct io_file **out_file, struct err *err)
{
    const uint8_t *dir;
    uint32_t n;
    int rc = need_file_locked(s, t, err);

    if (rc < 0)
        return rc;
    if (!t->tables) {
        rc = need_dir_locked(s, t, err);
        if (rc < 0)
            return rc;
    }
    dir = t->tables ? t->tables->chunks : t->dir;
    n = t->tables ? seg_tables_chunks(t->tables) : t->n_dir;
    if (chunk >= n)
        return err_set(err, -EBADMSG, ERR_JNL_0003,
                       "%s: chunk %" PRIu32 " of %" PRIu32,
                       io_file_path(t->file), chunk, n);
    lane_chunk_decode(dir + (size_t)chunk * BATCH_CHUNK_SIZE, out);
    *out_file = t->file;
    return 0;
}

static int
chunk_load(struct io_file *f, const struct lane_chunk *c, uint8_t *out,
           struct err *err)
{
    uint64_t from = round_down(c->body_off, SEG_ALIGN);
    size_t len =
        (size_t)(round_up((uint64_t)c->body_off + c->stored_len, SEG_ALIGN) -
                 from);
    uint8_t *buf = io_mem_alloc(len);
    int64_t n;
    int rc;

    if (!buf)
        return err_set(err, -ENOMEM, ERR_GEN_0002, "no memory for a chunk");
    n = io_file_pread_sync(f, buf, len, from);
    if (n < 0)
        rc = err_set(err, (int)n, ERR_JNL_0001, "%s: cannot read: %s",
                     io_file_path(f), err_errno((int)n));
    else if ((size_t)n < c->body_off - from + c->stored_len)
        rc = err_set(err, -EBADMSG, ERR_JNL_0003, "the file ends inside it");
    else
        rc = chunk_inflate(c, buf + (c->body_off - from), out,
                           BATCH_CHUNK_RAW_MAX, err);
    io_mem_free(buf, len);
    if (rc < 0)
        err_prefix(err, "%s: chunk at offset %" PRIu32, io_file_path(f),
                   c->body_off);
    return rc;
}

int
seg_store_read_chunk(void *arg, uint32_t seg, uint32_t chunk, uint8_t *out,
                     uint32_t *out_len, struct err *err)
{
    struct seg_store *s = arg;
    struct io_file *f = NULL;
    struct lane_chunk c;
    struct slot *t;
    int rc = slot_get(s, seg, &t, err);

    if (rc < 0)
        return rc;
    pthread_mutex_lock(&t->load);
    rc = chunk_place(s, t, chunk, &c, &f, err);
    pthread_mutex_unlock(&t->load);
    /* The file stays open: it is let go of only without references. */
    if (rc == 0)
        rc = chunk_load(f, &c, out, err);
    if (rc == 0)
        *out_len = c.raw_len;
    slot_put(s, t);
    return rc;
}
