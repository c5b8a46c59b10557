/* Batches: made from settled entries when the sender asks, kept until DURABLE.
 *
 * A chunk is a stretch of one ring block, and its body is sent from there; its
 * checksum is combined from those of the entries.  Compressed, it is put back
 * into its own stretch, which nobody else reads.  A batch is one allocation
 * (head, chunk list, iovec); where that fails the batch is made later, so a
 * write never depends on it. */
#include <stdlib.h>
#include <string.h>

#include "capture/capture_impl.h"
#include "common/crc32c.h"

#define RETRY_NS (10 * NSEC_PER_MSEC) /* after an allocation failed */

/* What a batch will hold; the arrays are the pool's scratch. */
struct plan {
    uint32_t n_entries, n_chunks;
    uint32_t raw_len;
    uint64_t first_seq, last_seq;
    uint64_t birth_ns, last_birth_ns;
    uint64_t resync_bytes;
    uint64_t closers;
    uint64_t cut_no, cut_ns;
    uint16_t flags;
    bool in_resync; /* behind its last entry */
};

static bool
is_cut(const struct centry *e)
{
    return e->type == ENTRY_CUT_COMMIT || e->type == ENTRY_CUT_MARK;
}

/* The most chunks that this payload can add. */
static uint32_t
chunks_bound(const struct centry *e)
{
    uint32_t bytes = e->len512 << SECTOR_SHIFT;

    return e->payload ? bytes / RING_BLOCK_SIZE + 2 : 0;
}

static bool
fits(const struct plan *pl, const struct centry *e)
{
    uint32_t bytes = e->payload ? e->len512 << SECTOR_SHIFT : 0;

    if (pl->n_entries == 0)
        return true;
    return e->type != ENTRY_GAP && pl->n_entries < PACK_ENTRIES_MAX &&
           pl->raw_len + bytes <= BATCH_RAW_MAX &&
           pl->n_chunks + chunks_bound(e) <= BATCH_CHUNKS_MAX;
}

static bool
full(const struct plan *pl, const struct centry *last)
{
    return pl->raw_len >= BATCH_RAW_TARGET || last->type == ENTRY_GAP ||
           is_cut(last);
}

/* n bytes at off of a block, with checksum crc: to the last chunk where they
 * follow on it, else to a new one. */
static void
plan_span(struct ringpool *p, struct plan *pl, uint32_t block, uint32_t off,
          uint32_t n, uint32_t crc)
{
    uint32_t last = pl->n_chunks - 1;

    if (pl->n_chunks > 0 && p->spans[last].block == block &&
        p->spans[last].off + p->chunks[last].raw_len == off) {
        struct lane_chunk *ch = &p->chunks[last];

        ch->crc_raw = crc32c_combine(ch->crc_raw, crc, n);
        ch->raw_len += n;
        return;
    }
    p->spans[pl->n_chunks].block = block;
    p->spans[pl->n_chunks].off = off;
    p->chunks[pl->n_chunks++] =
        (struct lane_chunk){ .raw_len = n, .crc_raw = crc };
}

static void
plan_payload(struct ringpool *p, struct plan *pl, const struct centry *e,
             struct lane_entry *out)
{
    uint32_t bytes = e->len512 << SECTOR_SHIFT, left = bytes;
    uint32_t block = e->block, off = e->block_off;

    while (left > 0) {
        const struct ring_block *b = &p->blocks[block];
        uint32_t n = MIN(left, RING_BLOCK_SIZE - off);
        uint32_t crc = left < bytes ? b->in_crc
                       : n == bytes ? e->crc
                                    : b->out_crc;

        plan_span(p, pl, block, off, n, crc);
        if (left == bytes) {
            uint32_t ch = pl->n_chunks - 1;

            out->chunk = ch;
            out->chunk_off512 =
                (uint16_t)((off - p->spans[ch].off) >> SECTOR_SHIFT);
        }
        left -= n;
        block = b->next;
        off = 0;
    }
    pl->raw_len += bytes;
}

static void
plan_entry(struct ringpool *p, struct plan *pl, const struct centry *e)
{
    struct lane_entry *out = &p->entries[pl->n_entries];
    uint64_t dt;

    if (pl->n_entries++ == 0) {
        pl->birth_ns = e->birth_ns;
        pl->first_seq = e->type == ENTRY_GAP ? e->extra : e->seq;
    }
    pl->last_seq = e->seq;
    pl->last_birth_ns = e->birth_ns;
    dt = (e->birth_ns - pl->birth_ns) / NSEC_PER_MSEC;
    *out = (struct lane_entry){ .off512 = e->off512,
                                .len512 = e->len512,
                                .chunk = BATCH_NO_CHUNK,
                                .vol = e->vol,
                                .type = e->type,
                                .flags = e->flags,
                                .dt_ms = (uint16_t)MIN(dt, UINT16_MAX),
                                .crc = e->crc,
                                .aux = e->aux };
    if (e->payload)
        plan_payload(p, pl, e, out);
    if (e->type == ENTRY_RESYNC_WRITE)
        pl->resync_bytes += (uint64_t)e->len512 << SECTOR_SHIFT;
    if (e->type == ENTRY_RESYNC_BEGIN)
        pl->in_resync = true;
    if (pl->in_resync)
        pl->flags |= BATCH_RESYNC;
    if (e->type == ENTRY_RESYNC_END)
        pl->in_resync = false;
    if (is_cut(e)) {
        pl->flags |= BATCH_CUT_INSIDE;
        pl->cut_no = e->extra;
        pl->cut_ns = e->birth_ns;
    }
    pl->closers += e->type == ENTRY_CUT_COMMIT || e->type == ENTRY_GAP;
}

/* Nothing is changed yet. */
static void
plan_make(const struct capture *c, struct plan *pl)
{
    struct fifo_pos pos = c->head;

    *pl = (struct plan){ .in_resync = c->pack_in_resync };
    for (uint64_t i = 0; i < c->n_ready; i++, pos.i++) {
        const struct centry *e = fifo_at(c, &pos);

        if (!fits(pl, e))
            return;
        plan_entry(c->pool, pl, e);
        if (full(pl, e))
            return;
    }
}

static struct cbatch *
batch_alloc(const struct plan *pl)
{
    size_t head = batch_head_size(pl->n_entries, pl->n_chunks);
    size_t iov = ((size_t)pl->n_chunks + 1) * sizeof(struct iovec);
    size_t blocks = (size_t)pl->n_chunks * sizeof(uint32_t);
    struct cbatch *b = calloc(1, sizeof *b + iov + blocks + head);

    if (!b)
        return NULL;
    b->pub.iov = (struct iovec *)(void *)(b + 1);
    b->blocks = (uint32_t *)(void *)((uint8_t *)(b + 1) + iov);
    b->head = (uint8_t *)b->blocks + blocks;
    b->head_len = head;
    b->n_chunks = pl->n_chunks;
    b->raw_len = pl->raw_len;
    b->resync_bytes = pl->resync_bytes;
    b->birth_ns = pl->birth_ns;
    return b;
}

/* The bodies: compressed in place where it pays, and into the iovec. */
static void
batch_bodies(struct ringpool *p, struct cbatch *b, enum chunk_codec codec)
{
    uint32_t body = 0;

    for (uint32_t i = 0; i < b->n_chunks; i++) {
        struct lane_chunk *ch = &p->chunks[i];
        uint8_t *data = ring_data(p, p->spans[i].block) + p->spans[i].off;
        size_t n = chunk_deflate(codec, data, ch->raw_len, p->deflated,
                                 sizeof p->deflated);

        ch->body_off = body;
        if (n > 0) {
            memcpy(data, p->deflated, n);
            ch->codec = (uint8_t)codec;
            ch->stored_len = (uint32_t)n;
            ch->crc_stored = crc32c(0, p->deflated, n);
        } else {
            ch->codec = CHUNK_STORED;
            ch->stored_len = ch->raw_len;
            ch->crc_stored = ch->crc_raw;
        }
        body += ch->stored_len;
        b->pub.iov[1 + i] = (struct iovec){ data, ch->stored_len };
        b->blocks[i] = p->spans[i].block;
        p->blocks[b->blocks[i]].refs++;
    }
    b->pub.size = b->head_len + body;
}

static uint64_t
vpg_tag(const struct vpg_id *vpg)
{
    return get_le64(vpg->u.b);
}

static void
batch_head(struct capture *c, const struct plan *pl, struct cbatch *b,
           uint64_t durable_seen)
{
    uint64_t mono = io_mono_ns(c->loop), wall = io_wall_ns(c->loop);
    struct batch_hdr h = {
        .flags = pl->flags,
        .vpg_tag = vpg_tag(&c->cfg.vpg),
        .lane = c->cfg.lane,
        .incarnation = c->cfg.incarnation,
        .batch_no = ++c->last_batch,
        .first_seq = pl->first_seq,
        .last_seq = pl->last_seq,
        .n_entries = pl->n_entries,
        .n_chunks = pl->n_chunks,
        /* Entries carry monotonic times; the wall clock is read here, once. */
        .t_first_ns = wall - (mono - pl->birth_ns),
        .t_last_ns = wall - (mono - pl->last_birth_ns),
    };

    h.durable_seen = MIN(durable_seen, h.batch_no - 1);
    memcpy(h.prev_digest, c->digest, sizeof h.prev_digest);
    batch_head_encode(&h, c->pool->entries, c->pool->chunks, b->head);
    batch_digest(b->head, b->head_len, b->digest);
    memcpy(c->digest, b->digest, sizeof c->digest);
    b->pub.iov[0] = (struct iovec){ b->head, b->head_len };
    b->pub.iov_n = pl->n_chunks + 1;
    b->pub.batch_no = h.batch_no;
    b->pub.first_seq = h.first_seq;
    b->pub.last_seq = h.last_seq;
    b->pub.closed_ns = mono;
    b->pub.newest_cut_no = pl->cut_no;
    b->pub.newest_cut_ns = pl->cut_ns;
}

static struct cbatch *
batch_make(struct capture *c, enum chunk_codec codec, uint64_t durable_seen)
{
    struct plan pl;
    struct cbatch *b;

    plan_make(c, &pl);
    b = batch_alloc(&pl);
    if (!b)
        return NULL;
    batch_bodies(c->pool, b, codec);
    batch_head(c, &pl, b, durable_seen);
    for (uint32_t i = 0; i < pl.n_entries; i++) {
        entry_drop_payload(c, fifo_at(c, &c->head));
        fifo_pop(c);
    }
    c->n_ready -= pl.n_entries;
    c->ready_raw -= pl.raw_len;
    c->ready_closers -= pl.closers;
    c->pack_in_resync = pl.in_resync;
    c->heads_bytes += b->head_len;
    list_push_back(&c->batches, &b->link);
    return b;
}

bool
pack_due(const struct capture *c)
{
    return c->n_ready > 0 &&
           (c->ready_raw >= BATCH_RAW_TARGET || c->ready_closers > 0 ||
            c->n_ready >= PACK_ENTRIES_MAX);
}

/* When the batch of the ready entries is due; 0: at wake(). */
static uint64_t
due_ns(const struct capture *c)
{
    struct fifo_pos head = c->head;

    if (c->n_ready == 0 || c->heads_bytes >= PACK_HEADS_MAX)
        return 0;
    return fifo_at(c, &head)->birth_ns + BATCH_LINGER_NS;
}

static struct cbatch *
next_of(const struct capture *c, const struct cbatch *b)
{
    return b->link.next == &c->batches
               ? NULL
               : list_entry(b->link.next, struct cbatch, link);
}

const struct capture_batch *
capture_next(struct capture *c, enum chunk_codec codec, uint64_t durable_seen,
             uint64_t *out_due_ns)
{
    uint64_t now = io_mono_ns(c->loop), due;
    struct cbatch *b;

    *out_due_ns = 0;
    c->told_idle = false;
    if (c->again) {
        b = c->again;
        c->again = next_of(c, b);
        c->sent_total += b->pub.size;
        return &b->pub;
    }
    due = due_ns(c);
    if (due == 0) {
        c->told_idle = true;
        return NULL;
    }
    if (!pack_due(c) && due > now) {
        *out_due_ns = due;
        return NULL;
    }
    b = batch_make(c, codec, durable_seen);
    if (!b) {
        *out_due_ns = now + RETRY_NS;
        return NULL;
    }
    c->sent_total += b->pub.size;
    /* Packing drops entries; with control entries alone that frees blocks. */
    capture_check_room(c);
    return &b->pub;
}

/* b is on no list any more. */
static void
batch_free(struct capture *c, struct cbatch *b)
{
    for (uint32_t i = 0; i < b->n_chunks; i++)
        block_unref(c, b->blocks[i]);
    c->heads_bytes -= b->head_len;
    c->lag_bytes -= b->raw_len;
    c->resync_bytes -= b->resync_bytes;
    ring_resync_give(c->pool, b->resync_bytes);
    free(b);
}

int
capture_durable(struct capture *c, uint64_t batch_no)
{
    bool freed = false, resync = false;

    if (batch_no > c->last_batch)
        return -EINVAL;
    while (!list_empty(&c->batches)) {
        struct cbatch *b = list_entry(c->batches.next, struct cbatch, link);

        if (b->pub.batch_no > batch_no)
            break;
        if (c->again == b)
            c->again = next_of(c, b);
        c->durable_batch = b->pub.batch_no;
        c->durable_seq = b->pub.last_seq;
        memcpy(c->durable_digest, b->digest, sizeof b->digest);
        resync |= b->resync_bytes > 0;
        list_del(&b->link);
        batch_free(c, b);
        freed = true;
    }
    if (!freed)
        return 0;
    capture_check_room(c);
    if (c->told_idle && c->n_ready > 0)
        capture_wake(c); /* the heads had reached their limit */
    if (resync) {
        ring_room(c->pool);
    } else if (c->lane.want_room) {
        c->lane.want_room = false;
        capture_wake(c);
    }
    return 0;
}

int
capture_rewind(struct capture *c, uint64_t batch_no, const uint8_t digest[16])
{
    const uint8_t *ours = c->durable_digest;
    struct cbatch *next = NULL;
    struct list *l;

    if (batch_no > c->last_batch)
        return -EBADMSG; /* never made by us */
    if (batch_no < c->durable_batch)
        return -ESTALE;
    list_for_each (l, &c->batches) {
        struct cbatch *b = list_entry(l, struct cbatch, link);

        if (b->pub.batch_no == batch_no)
            ours = b->digest;
        if (b->pub.batch_no == batch_no + 1)
            next = b;
    }
    if (memcmp(ours, digest, 16) != 0)
        return -EBADMSG;
    c->again = next;
    if (next)
        capture_wake(c);
    return 0;
}

void
pack_release(struct capture *c)
{
    struct list *l, *tmp;

    list_for_each_safe (l, tmp, &c->batches)
        batch_free(c, list_entry(l, struct cbatch, link));
    list_init(&c->batches);
    c->again = NULL;
}
