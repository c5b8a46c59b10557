/* Segment files: codecs, scan, seal and the check of the scrubber.
 * docs/formats/journal.md.  Readers of many segments: segstore.c.
 *
 * All offsets and lengths that reach the file are multiples of SEG_ALIGN, so
 * that it is written and read with direct I/O.
 */
#include "journal/segment.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/crc32c.h"

enum {
    HEADER_LEN = 112, /* bytes of the header block in use, its CRC last */
    FOOTER_LEN = 136,
    HEAD_READ = 32 * 1024,
    HEAD_MAX = 288 * 1024,
    SCAN_MEM = 512 * 1024,
    FIND_READ = 1536 * 1024,
    BATCHES_READ = 8 * 1024, /* the usual batch table, in one go */
    FIND_STEP = 1024 * 1024, /* the rest holds the largest head */
    /* A sender has at most the journal's credit and one commit in flight, so a
     * batch that proves an acknowledgement is never farther away. */
    FIND_WINDOW = 32 * 1024 * 1024,
};

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

/* --- names and header ---------------------------------------------------- */

void
seg_name(uint32_t no, char out[SEG_NAME_MAX])
{
    (void)snprintf(out, SEG_NAME_MAX, "seg.%08" PRIu32, no);
}

int
seg_name_parse(const char *name, uint32_t *out_no)
{
    uint64_t no = 0;
    size_t n;

    if (strncmp(name, "seg.", 4) != 0)
        return -EINVAL;
    n = strlen(name + 4);
    if (n < 8 || n > 10)
        return -EINVAL;
    for (const char *p = name + 4; *p; p++) {
        if (*p < '0' || *p > '9')
            return -EINVAL;
        no = no * 10 + (uint64_t)(*p - '0');
    }
    if (no > UINT32_MAX)
        return -EINVAL;
    *out_no = (uint32_t)no;
    return 0;
}

void
seg_header_encode(const struct seg_header *h, uint8_t *out)
{
    memset(out, 0, SEG_HEADER_SIZE);
    put_le32(out, SEG_MAGIC);
    put_le16(out + 4, SEG_VERSION);
    put_le16(out + 6, HEADER_LEN);
    memcpy(out + 16, h->vpg.u.b, 16);
    put_le32(out + 32, h->lane);
    put_le32(out + 36, h->no);
    put_le64(out + 40, h->size);
    memcpy(out + 48, h->incarnation.u.b, 16);
    put_le64(out + 64, h->first_batch);
    put_le64(out + 72, h->first_seq);
    memcpy(out + 80, h->prev_digest, 16);
    put_le32(out + HEADER_LEN - 4, crc32c(0, out, HEADER_LEN - 4));
}

uint32_t
seg_header_crc(const uint8_t *header)
{
    return get_le32(header + HEADER_LEN - 4);
}

int
seg_header_decode(const uint8_t *p, size_t len, struct seg_header *out)
{
    struct seg_header h;

    if (len < SEG_HEADER_SIZE)
        return -ENODATA;
    if (get_le32(p) != SEG_MAGIC || get_le16(p + 6) != HEADER_LEN ||
        !crc_ok(crc32c(0, p, HEADER_LEN - 4), get_le32(p + HEADER_LEN - 4)))
        return -EBADMSG;
    /* 8..15: features; none is known, so none may be set. */
    if (get_le16(p + 4) != SEG_VERSION || get_le64(p + 8) != 0)
        return -EPROTONOSUPPORT;
    h = (struct seg_header){
        .lane = get_le32(p + 32),
        .no = get_le32(p + 36),
        .size = get_le64(p + 40),
        .first_batch = get_le64(p + 64),
        .first_seq = get_le64(p + 72),
    };
    memcpy(h.vpg.u.b, p + 16, 16);
    memcpy(h.incarnation.u.b, p + 48, 16);
    memcpy(h.prev_digest, p + 80, 16);
    if (h.size < SEG_SIZE_LEAST || h.size > SEG_SIZE_MOST ||
        h.size % SEG_ALIGN != 0 || h.first_batch == 0 || h.first_seq == 0 ||
        !bytes_all_zero(p + 96, HEADER_LEN - 4 - 96) ||
        !bytes_all_zero(p + HEADER_LEN, SEG_HEADER_SIZE - HEADER_LEN))
        return -EBADMSG;
    *out = h;
    return 0;
}

/* --- tables -------------------------------------------------------------- */

static struct seg_tables *
tables_alloc(uint32_t batches, uint32_t entries, uint32_t chunks, uint32_t cuts)
{
    struct seg_tables *t = calloc(1, sizeof *t);

    if (!t)
        return NULL;
    t->cap_batches = batches;
    t->cap_entries = entries;
    t->cap_chunks = chunks;
    t->cap_cuts = cuts;
    /* Large and untouched until used: the pages of an idle lane cost nothing.
     * Not from the heap, which clears what it gives out a second time. */
    t->batches = io_mem_alloc(MAX(batches, 1U) * sizeof *t->batches);
    t->entries = io_mem_alloc((size_t)MAX(entries, 1U) * BATCH_ENTRY_SIZE);
    t->chunks = io_mem_alloc((size_t)MAX(chunks, 1U) * BATCH_CHUNK_SIZE);
    t->cuts = io_mem_alloc(MAX(cuts, 1U) * sizeof *t->cuts);
    if (!t->batches || !t->entries || !t->chunks || !t->cuts) {
        seg_tables_free(t);
        return NULL;
    }
    return t;
}

struct seg_tables *
seg_tables_new(void)
{
    return tables_alloc(SEG_BATCHES_MAX, SEG_ENTRIES_MAX, SEG_CHUNKS_MAX,
                        SEG_ENTRIES_MAX);
}

void
seg_tables_free(struct seg_tables *t)
{
    if (!t)
        return;
    if (t->batches)
        io_mem_free(t->batches, MAX(t->cap_batches, 1U) * sizeof *t->batches);
    if (t->entries)
        io_mem_free(t->entries,
                    (size_t)MAX(t->cap_entries, 1U) * BATCH_ENTRY_SIZE);
    if (t->chunks)
        io_mem_free(t->chunks,
                    (size_t)MAX(t->cap_chunks, 1U) * BATCH_CHUNK_SIZE);
    if (t->cuts)
        io_mem_free(t->cuts, MAX(t->cap_cuts, 1U) * sizeof *t->cuts);
    free(t);
}

static const struct seg_batch *
last_batch(const struct seg_tables *t)
{
    uint32_t n = atomic_load_explicit(&t->n_batches, memory_order_acquire);

    return n ? &t->batches[n - 1] : NULL;
}

uint32_t
seg_tables_entries(const struct seg_tables *t)
{
    const struct seg_batch *b = last_batch(t);

    return b ? b->first_entry + b->n_entries : 0;
}

uint32_t
seg_tables_chunks(const struct seg_tables *t)
{
    const struct seg_batch *b = last_batch(t);

    return b ? b->first_chunk + b->n_chunks : 0;
}

uint64_t
seg_tables_end(const struct seg_tables *t)
{
    const struct seg_batch *b = last_batch(t);

    return b ? round_up((uint64_t)b->off + b->size, SEG_ALIGN) : SEG_HEADER_SIZE;
}

uint64_t
seg_entry_seq(const struct seg_batch *b, uint32_t i)
{
    return b->flags & SEG_BATCH_ATOMIC ? b->last_seq : b->first_seq + i;
}

static bool
batch_is_atomic(const struct batch_view *b)
{
    struct lane_entry e;

    if (b->hdr.flags & BATCH_FOLDED)
        return true;
    batch_entry(b, 0, &e);
    return b->hdr.n_entries == 1 && e.type == ENTRY_GAP;
}

int
seg_tables_add(struct seg_tables *t, const struct batch_view *b, uint32_t off)
{
    uint32_t n = atomic_load_explicit(&t->n_batches, memory_order_relaxed);
    uint32_t first_entry = seg_tables_entries(t);
    uint32_t first_chunk = seg_tables_chunks(t);
    struct seg_batch *r;

    if (n == t->cap_batches || b->hdr.n_entries > t->cap_entries - first_entry ||
        b->hdr.n_chunks > t->cap_chunks - first_chunk)
        return -EOVERFLOW;
    r = &t->batches[n];
    *r = (struct seg_batch){
        .off = off,
        .size = (uint32_t)b->size,
        .first_entry = first_entry,
        .n_entries = b->hdr.n_entries,
        .first_chunk = first_chunk,
        .n_chunks = b->hdr.n_chunks,
        .batch_no = b->hdr.batch_no,
        .first_seq = b->hdr.first_seq,
        .last_seq = b->hdr.last_seq,
        .flags = batch_is_atomic(b) ? SEG_BATCH_ATOMIC : 0,
    };
    memcpy(t->entries + (size_t)first_entry * BATCH_ENTRY_SIZE, b->entries,
           (size_t)b->hdr.n_entries * BATCH_ENTRY_SIZE);
    for (uint32_t i = 0; i < b->hdr.n_chunks; i++) {
        struct lane_chunk c;

        batch_chunk(b, i, &c);
        c.body_off += off + (uint32_t)b->head_len;
        lane_chunk_encode(&c, t->chunks +
                                  (size_t)(first_chunk + i) * BATCH_CHUNK_SIZE);
    }
    for (uint32_t i = 0; i < b->hdr.n_entries; i++) {
        struct lane_entry e;

        batch_entry(b, i, &e);
        if (e.type == ENTRY_CUT_COMMIT && t->n_cuts < t->cap_cuts)
            t->cuts[t->n_cuts++] = (struct seg_cut){ .seq = seg_entry_seq(r, i),
                                                     .batch = n,
                                                     .entry = i };
    }
    batch_digest(b->entries - BATCH_HDR_SIZE, b->head_len, t->digest);
    atomic_store_explicit(&t->n_batches, n + 1, memory_order_release);
    return 0;
}

/* Take the batches from n on out again; nobody else knows t yet. */
static void
tables_cut(struct seg_tables *t, uint32_t n, const uint8_t digest[16])
{
    while (t->n_cuts > 0 && t->cuts[t->n_cuts - 1].batch >= n)
        t->n_cuts--;
    memcpy(t->digest, digest, 16);
    atomic_store_explicit(&t->n_batches, n, memory_order_relaxed);
}

/* --- footer -------------------------------------------------------------- */

uint64_t
seg_footer_size(uint32_t n_batches, uint32_t n_entries, uint32_t n_chunks,
                uint32_t n_cuts)
{
    return round_up(SEG_FOOTER_HEAD + (uint64_t)n_batches * SEG_BATCH_REC +
                        (uint64_t)n_entries * BATCH_ENTRY_SIZE +
                        (uint64_t)n_chunks * BATCH_CHUNK_SIZE +
                        (uint64_t)n_cuts * SEG_CUT_REC,
                    SEG_ALIGN);
}

static void
seg_batch_encode(const struct seg_batch *b, uint8_t *out)
{
    memset(out, 0, SEG_BATCH_REC);
    put_le32(out, b->off);
    put_le32(out + 4, b->size);
    put_le32(out + 8, b->first_entry);
    put_le32(out + 12, b->n_entries);
    put_le32(out + 16, b->first_chunk);
    put_le32(out + 20, b->n_chunks);
    put_le64(out + 24, b->batch_no);
    put_le64(out + 32, b->first_seq);
    put_le64(out + 40, b->last_seq);
    put_le16(out + 48, b->flags);
}

static int
seg_batch_decode(const uint8_t *p, struct seg_batch *out)
{
    *out = (struct seg_batch){
        .off = get_le32(p),
        .size = get_le32(p + 4),
        .first_entry = get_le32(p + 8),
        .n_entries = get_le32(p + 12),
        .first_chunk = get_le32(p + 16),
        .n_chunks = get_le32(p + 20),
        .batch_no = get_le64(p + 24),
        .first_seq = get_le64(p + 32),
        .last_seq = get_le64(p + 40),
        .flags = get_le16(p + 48),
    };
    if (out->flags & ~SEG_BATCH_ATOMIC || !bytes_all_zero(p + 50, 14))
        return -EBADMSG;
    return 0;
}

uint8_t *
seg_footer_encode(const struct seg_tables *t, uint32_t header_crc,
                  size_t *out_len)
{
    uint32_t nb = atomic_load_explicit(&t->n_batches, memory_order_acquire);
    uint32_t ne = seg_tables_entries(t), nc = seg_tables_chunks(t);
    size_t len = (size_t)seg_footer_size(nb, ne, nc, t->n_cuts);
    size_t el = (size_t)ne * BATCH_ENTRY_SIZE,
           cl = (size_t)nc * BATCH_CHUNK_SIZE;
    uint8_t *out = io_mem_alloc(len), *p;

    if (!out)
        return NULL;
    memset(out, 0, len);
    put_le32(out, SEG_FOOTER_MAGIC);
    put_le16(out + 4, SEG_VERSION);
    put_le16(out + 6, FOOTER_LEN);
    put_le32(out + 8, header_crc);
    put_le32(out + 12, (uint32_t)len);
    put_le32(out + 16, nb);
    put_le32(out + 20, ne);
    put_le32(out + 24, nc);
    put_le32(out + 28, t->n_cuts);
    put_le64(out + 32, nb ? t->batches[0].batch_no : 0);
    put_le64(out + 40, nb ? t->batches[nb - 1].batch_no : 0);
    put_le64(out + 48, nb ? t->batches[0].first_seq : 0);
    put_le64(out + 56, nb ? t->batches[nb - 1].last_seq : 0);
    put_le64(out + 64, seg_tables_end(t));
    memcpy(out + 72, t->digest, 16);
    p = out + SEG_FOOTER_HEAD;
    for (uint32_t i = 0; i < nb; i++)
        seg_batch_encode(&t->batches[i], p + (size_t)i * SEG_BATCH_REC);
    put_le32(out + 88, crc32c(0, p, (size_t)nb * SEG_BATCH_REC));
    p += (size_t)nb * SEG_BATCH_REC;
    memcpy(p, t->entries, el);
    put_le32(out + 92, crc32c(0, p, el));
    p += el;
    memcpy(p, t->chunks, cl);
    put_le32(out + 96, crc32c(0, p, cl));
    p += cl;
    for (uint32_t i = 0; i < t->n_cuts; i++) {
        put_le64(p + (size_t)i * SEG_CUT_REC, t->cuts[i].seq);
        put_le32(p + (size_t)i * SEG_CUT_REC + 8, t->cuts[i].batch);
        put_le32(p + (size_t)i * SEG_CUT_REC + 12, t->cuts[i].entry);
    }
    put_le32(out + 100, crc32c(0, p, (size_t)t->n_cuts * SEG_CUT_REC));
    put_le32(out + FOOTER_LEN - 4, crc32c(0, out, FOOTER_LEN - 4));
    *out_len = len;
    return out;
}

/* The batches must tile entries, chunks and the file; else the reason. */
static const char *
tables_wrong(const struct seg_tables *t, uint32_t nb, uint32_t ne, uint32_t nc)
{
    uint64_t off = SEG_HEADER_SIZE;
    uint32_t e = 0, c = 0;

    for (uint32_t i = 0; i < nb; i++) {
        const struct seg_batch *b = &t->batches[i];

        if (b->off != off || b->size < BATCH_HDR_SIZE ||
            b->size > BATCH_SIZE_MAX)
            return "a batch is not where the one before ends";
        if (b->first_entry != e || b->n_entries == 0 || b->n_entries > ne - e)
            return "the entries do not fit the batches";
        if (b->first_chunk != c || b->n_chunks > nc - c ||
            b->n_chunks > BATCH_CHUNKS_MAX || b->n_entries > BATCH_ENTRIES_MAX)
            return "the chunks do not fit the batches";
        if (b->first_seq == 0 || b->first_seq > b->last_seq ||
            (i && (b->first_seq <= b[-1].last_seq ||
                   b->batch_no != b[-1].batch_no + 1)))
            return "the batches are out of order";
        for (uint32_t k = 0; k < b->n_chunks; k++) {
            struct lane_chunk lc;

            lane_chunk_decode(t->chunks + (size_t)(c + k) * BATCH_CHUNK_SIZE,
                              &lc);
            if (lc.stored_len == 0 || lc.stored_len > lc.raw_len ||
                lc.raw_len > BATCH_CHUNK_RAW_MAX || lc.body_off < b->off ||
                lc.body_off - b->off > b->size ||
                lc.stored_len > b->size - (lc.body_off - b->off))
                return "a chunk lies outside its batch";
        }
        e += b->n_entries;
        c += b->n_chunks;
        off = round_up(off + b->size, SEG_ALIGN);
    }
    if (e != ne || c != nc)
        return "entries or chunks are left over";
    for (uint32_t i = 0; i < t->n_cuts; i++)
        if (t->cuts[i].batch >= nb ||
            t->cuts[i].entry >= t->batches[t->cuts[i].batch].n_entries)
            return "a cut lies outside the batches";
    return NULL;
}

static int
footer_damaged(struct err *err, const char *why)
{
    return err_set(err, -EBADMSG, ERR_JNL_0003, "footer damaged: %s", why);
}

/* Sections in order, each with its CRC in the head. */
static int
footer_sections(const uint8_t *p, const uint32_t n[4], struct err *err)
{
    static const struct {
        uint16_t crc_at, rec;
        const char *name;
    } sec[4] = {
        { 88, SEG_BATCH_REC, "batch table" },
        { 92, BATCH_ENTRY_SIZE, "entry table" },
        { 96, BATCH_CHUNK_SIZE, "chunk directory" },
        { 100, SEG_CUT_REC, "cut positions" },
    };
    const uint8_t *q = p + SEG_FOOTER_HEAD;

    for (unsigned i = 0; i < ARRAY_SIZE(sec); i++) {
        size_t len = (size_t)n[i] * sec[i].rec;

        if (!crc_ok(crc32c(0, q, len), get_le32(p + sec[i].crc_at)))
            return footer_damaged(err, sec[i].name);
        q += len;
    }
    return 0;
}

/* Head of the footer: tied to its segment, counts within limits. */
static int
footer_head_check(const uint8_t *p, uint32_t header_crc, struct err *err)
{
    if (get_le32(p) != SEG_FOOTER_MAGIC || get_le16(p + 6) != FOOTER_LEN ||
        !crc_ok(crc32c(0, p, FOOTER_LEN - 4), get_le32(p + FOOTER_LEN - 4)))
        return footer_damaged(err, "its head does not match its checksum");
    if (get_le16(p + 4) != SEG_VERSION)
        return err_set(err, -EPROTONOSUPPORT, ERR_JNL_0052,
                       "footer has version %u, this release reads %d",
                       get_le16(p + 4), SEG_VERSION);
    if (get_le32(p + 8) != header_crc)
        return footer_damaged(err, "it belongs to another segment");
    return 0;
}

int
seg_footer_decode(const uint8_t *p, size_t len, uint32_t header_crc,
                  struct seg_tables **out, struct err *err)
{
    struct seg_tables *t;
    const uint8_t *q;
    uint32_t n[4];
    uint64_t used;
    const char *why;
    int rc;

    if (len < SEG_FOOTER_HEAD)
        return err_set(err, -ENODATA, ERR_JNL_0003, "footer cut short");
    rc = footer_head_check(p, header_crc, err);
    if (rc < 0)
        return rc;
    for (unsigned i = 0; i < 4; i++)
        n[i] = get_le32(p + 16 + (size_t)4 * i);
    if (n[0] > SEG_BATCHES_MAX || n[1] > SEG_ENTRIES_MAX ||
        n[2] > SEG_CHUNKS_MAX || n[3] > n[1])
        return footer_damaged(err, "a count is out of range");
    if (get_le32(p + 12) != seg_footer_size(n[0], n[1], n[2], n[3]))
        return footer_damaged(err, "its length does not fit its counts");
    if (len < get_le32(p + 12))
        return err_set(err, -ENODATA, ERR_JNL_0003,
                       "footer cut short: %zu of %" PRIu32 " bytes", len,
                       get_le32(p + 12));
    if (len != get_le32(p + 12))
        return footer_damaged(err, "bytes are left over");
    rc = footer_sections(p, n, err);
    if (rc < 0)
        return rc;
    t = tables_alloc(n[0], n[1], n[2], n[3]);
    if (!t)
        return err_set(err, -ENOMEM, ERR_GEN_0002, "no memory for a footer");
    q = p + SEG_FOOTER_HEAD;
    rc = 0;
    for (uint32_t i = 0; i < n[0] && rc == 0; i++, q += SEG_BATCH_REC)
        rc = seg_batch_decode(q, &t->batches[i]);
    if (rc < 0) {
        seg_tables_free(t);
        return footer_damaged(err, "reserved bytes of a batch are set");
    }
    memcpy(t->entries, q, (size_t)n[1] * BATCH_ENTRY_SIZE);
    q += (size_t)n[1] * BATCH_ENTRY_SIZE;
    memcpy(t->chunks, q, (size_t)n[2] * BATCH_CHUNK_SIZE);
    q += (size_t)n[2] * BATCH_CHUNK_SIZE;
    for (uint32_t i = 0; i < n[3]; i++, q += SEG_CUT_REC)
        t->cuts[i] =
            (struct seg_cut){ get_le64(q), get_le32(q + 8), get_le32(q + 12) };
    t->n_cuts = n[3];
    memcpy(t->digest, p + 72, 16);
    atomic_store_explicit(&t->n_batches, n[0], memory_order_relaxed);
    why = tables_wrong(t, n[0], n[1], n[2]);
    used = (uint64_t)(q - p);
    if (!why && (get_le64(p + 64) != seg_tables_end(t) ||
                 get_le64(p + 32) != (n[0] ? t->batches[0].batch_no : 0) ||
                 get_le64(p + 40) != (n[0] ? t->batches[n[0] - 1].batch_no : 0) ||
                 get_le64(p + 48) != (n[0] ? t->batches[0].first_seq : 0) ||
                 get_le64(p + 56) != (n[0] ? t->batches[n[0] - 1].last_seq : 0)))
        why = "its head does not fit its tables";
    if (!why && (!bytes_all_zero(p + 104, FOOTER_LEN - 4 - 104) ||
                 !bytes_all_zero(p + FOOTER_LEN, SEG_FOOTER_HEAD - FOOTER_LEN) ||
                 !bytes_all_zero(p + used, len - (size_t)used)))
        why = "reserved bytes are set";
    if (why) {
        seg_tables_free(t);
        return footer_damaged(err, why);
    }
    *out = t;
    return 0;
}

int
segment_read_batches(struct io_file *f, const struct seg_header *h,
                     uint64_t footer_off, struct seg_batch **out,
                     uint32_t *out_n, struct err *err)
{
    uint8_t head[SEG_HEADER_SIZE], *buf = io_mem_alloc(BATCHES_READ);
    struct seg_batch *v = NULL;
    size_t cap = BATCHES_READ, need = 0;
    uint32_t n = 0;
    int64_t got;
    int rc = 0;

    if (!buf)
        return err_set(err, -ENOMEM, ERR_GEN_0002, "no memory for a footer");
    seg_header_encode(h, head);
    got = io_file_pread_sync(f, buf, cap, footer_off);
    if (got >= SEG_FOOTER_HEAD) {
        rc = footer_head_check(buf, seg_header_crc(head), err);
        n = get_le32(buf + 16);
        if (rc == 0 && n > SEG_BATCHES_MAX)
            rc = footer_damaged(err, "a count is out of range");
        need = SEG_FOOTER_HEAD + (size_t)n * SEG_BATCH_REC;
    }
    if (rc == 0 && got == (int64_t)cap && need > cap) {
        io_mem_free(buf, cap);
        cap = (size_t)round_up(need, SEG_ALIGN);
        buf = io_mem_alloc(cap);
        if (!buf)
            return err_set(err, -ENOMEM, ERR_GEN_0002, "no memory for a footer");
        got = io_file_pread_sync(f, buf, cap, footer_off);
    }
    if (rc == 0 && got < 0)
        rc = err_set(err, (int)got, ERR_JNL_0001, "cannot read the footer: %s",
                     err_errno((int)got));
    else if (rc == 0 && (got < SEG_FOOTER_HEAD || (size_t)got < need))
        rc = footer_damaged(err, "the file ends inside it");
    else if (rc == 0 &&
             !crc_ok(crc32c(0, buf + SEG_FOOTER_HEAD, need - SEG_FOOTER_HEAD),
                     get_le32(buf + 88)))
        rc = footer_damaged(err, "batch table");
    if (rc == 0) {
        v = calloc(MAX(n, 1U), sizeof *v);
        if (!v)
            rc = err_set(err, -ENOMEM, ERR_GEN_0002, "no memory for a footer");
    }
    for (uint32_t i = 0; i < n && rc == 0; i++)
        if (seg_batch_decode(buf + SEG_FOOTER_HEAD + (size_t)i * SEG_BATCH_REC,
                             &v[i]) < 0)
            rc = footer_damaged(err, "reserved bytes of a batch are set");
    if (rc < 0) {
        err_prefix(err, "%s: offset %" PRIu64, io_file_path(f), footer_off);
        free(v);
    } else {
        *out = v;
        *out_n = n;
    }
    io_mem_free(buf, cap);
    return rc;
}

/* --- files --------------------------------------------------------------- */

static int
path_of(char *out, size_t size, const char *dir, uint32_t no)
{
    char name[SEG_NAME_MAX];
    int n;

    seg_name(no, name);
    n = snprintf(out, size, "%s/%s", dir, name);
    return n > 0 && (size_t)n < size ? 0 : -ENAMETOOLONG;
}

static int
create_file(struct io_loop *loop, const char *dir, struct seg_header *h,
            const uint32_t *recycle, struct io_file **out, struct err *err)
{
    char path[4096], old[4096];
    unsigned flags = IO_OPEN_WRITE | IO_OPEN_DIRECT;
    struct io_file_info info;
    int rc;

    if (path_of(path, sizeof path, dir, h->no) < 0 ||
        (recycle && path_of(old, sizeof old, dir, *recycle) < 0))
        return err_set(err, -ENAMETOOLONG, ERR_JNL_0001,
                       "journal %s: path too long", dir);
    if (recycle) {
        rc = io_rename(loop, old, path, err);
        if (rc < 0)
            return rc;
    } else {
        flags |= IO_OPEN_CREATE | IO_OPEN_TRUNCATE;
    }
    rc = io_file_open(loop, path, flags, out, err);
    if (rc < 0)
        return rc;
    rc = io_file_info(*out, &info, err);
    if (rc == 0 && recycle)
        h->size = round_down(info.size, SEG_ALIGN);
    if (rc == 0 && !recycle) {
        rc = io_file_preallocate_sync(*out, h->size);
        if (rc < 0)
            (void)err_set(err, rc, ERR_JNL_0001,
                          "%s: cannot allocate %" PRIu64 " bytes: %s", path,
                          h->size, err_errno(rc));
    }
    if (rc < 0) {
        io_file_close(*out);
        *out = NULL;
        (void)io_unlink(loop, path);
    }
    return rc;
}

int
segment_create(struct io_loop *loop, const char *dir, struct seg_header *h,
               const uint32_t *recycle, struct io_file **out, struct err *err)
{
    struct io_file *f = NULL;
    uint8_t *block = io_mem_alloc(SEG_HEADER_SIZE);
    int rc;

    if (!block)
        return err_set(err, -ENOMEM, ERR_GEN_0002, "no memory for a segment");
    rc = create_file(loop, dir, h, recycle, &f, err);
    if (rc < 0)
        goto out;
    seg_header_encode(h, block);
    rc = io_file_pwrite_sync(f, block, SEG_HEADER_SIZE, 0);
    if (rc == 0)
        rc = io_file_fdatasync_sync(f);
    if (rc < 0)
        (void)err_set(err, rc, ERR_JNL_0001, "%s: cannot write the header: %s",
                      io_file_path(f), err_errno(rc));
    /* Name and header are on disk before SEG_NEW; otherwise a crash would leave
     * a manifest that names a file which is not there. */
    if (rc == 0)
        rc = io_sync_dir(loop, dir, err);
    if (rc < 0)
        io_file_close(f);
    else
        *out = f;
out:
    io_mem_free(block, SEG_HEADER_SIZE);
    return rc;
}

int
segment_seal(struct io_file *f, const struct seg_header *h,
             const struct seg_tables *t, uint64_t *out_off, struct err *err)
{
    uint8_t *head = io_mem_alloc(SEG_HEADER_SIZE), *foot = NULL;
    uint64_t off = seg_tables_end(t);
    size_t len = 0;
    int rc;

    if (head) {
        seg_header_encode(h, head);
        foot = seg_footer_encode(t, seg_header_crc(head), &len);
    }
    if (!foot) {
        io_mem_free(head, SEG_HEADER_SIZE);
        return err_set(err, -ENOMEM, ERR_GEN_0002, "no memory for a footer");
    }
    if (off > h->size || len > h->size - off)
        rc = -EOVERFLOW; /* room for it was kept; our own mistake */
    else
        rc = io_file_pwrite_sync(f, foot, len, off);
    if (rc == 0)
        rc = io_file_fdatasync_sync(f);
    if (rc < 0)
        (void)err_set(err, rc, ERR_JNL_0002,
                      "%s: cannot write the footer at %" PRIu64 ": %s",
                      io_file_path(f), off, err_errno(rc));
    else
        *out_off = off;
    io_mem_free(foot, len);
    io_mem_free(head, SEG_HEADER_SIZE);
    return rc;
}

/* --- scan ---------------------------------------------------------------- */

/* Read the head of the batch at off into buf (BATCH_SIZE_MAX bytes) as far as
 * needed; *out_got bytes are there.  -ENODATA: it runs past `end`. */
static int
read_head(struct io_file *f, uint64_t off, uint64_t end, uint8_t *buf,
          uint64_t *out_got, struct batch_view *b, struct err *why)
{
    static const uint64_t step[] = { SEG_ALIGN, HEAD_READ, HEAD_MAX };
    uint64_t got = 0;
    int rc = -ENODATA;

    for (unsigned i = 0; i < ARRAY_SIZE(step) && rc == -ENODATA; i++) {
        uint64_t want = MIN(step[i], end - off);
        int64_t n;

        if (want <= got)
            break;
        n = io_file_pread_sync(f, buf + got, (size_t)(want - got), off + got);
        if (n < 0)
            return (int)n;
        if ((uint64_t)n < want - got)
            end = off + got + (uint64_t)n;
        got += (uint64_t)n;
        *out_got = got;
        rc = batch_decode_head(buf, (size_t)got, b, why);
    }
    if (rc == 0 && b->size > end - off)
        return -ENODATA;
    /* Errors of reading are told apart by their place: these are content. */
    return rc == 0 ? 0 : rc == -EPROTONOSUPPORT ? rc : -EBADMSG;
}

static const char *
does_not_follow(const struct seg_scan *s, const struct batch_hdr *h,
                const uint8_t digest[16])
{
    if (memcmp(h->incarnation.u.b, s->incarnation.u.b, 16) != 0)
        return "another incarnation";
    if (h->batch_no != s->last_batch + 1)
        return "another number";
    if (memcmp(h->prev_digest, digest, 16) != 0)
        return "the chain digest does not match";
    if (h->first_seq <= s->last_seq)
        return "its sequence numbers go back";
    return NULL;
}

/* What the disk does not give is not known to be a torn tail. */
static void
scan_unreadable(const struct io_file *f, struct seg_scan *s, uint64_t off)
{
    s->unreadable = true;
    (void)err_set(&s->why, -EIO, ERR_JNL_0003,
                  "%s: offset %" PRIu64 ": cannot be read: %s", io_file_path(f),
                  off, err_errno(-EIO));
}

static int
scan_heads(struct io_file *f, uint64_t size, uint64_t end, struct seg_scan *s,
           uint8_t *buf)
{
    uint8_t digest[16];

    memcpy(digest, s->header.prev_digest, 16);
    s->end = SEG_HEADER_SIZE;
    while (s->end < end) {
        struct batch_view b;
        uint64_t got = 0;
        const char *no;
        int rc;

        rc = read_head(f, s->end, end, buf, &got, &b, &s->why);
        s->bytes_read += got;
        if (rc == -EIO) {
            scan_unreadable(f, s, s->end);
            break;
        }
        if (rc < 0 && rc != -EBADMSG && rc != -ENODATA)
            return rc;
        if (rc < 0)
            break;
        no = does_not_follow(s, &b.hdr, digest);
        if (!no && b.size > size - MIN(size, s->end))
            no = "the file ends inside it";
        if (!no && seg_tables_add(s->tables, &b, (uint32_t)s->end) < 0)
            no = "the segment's tables are full";
        if (no) {
            (void)err_set(&s->why, -EBADMSG, ERR_JNL_0003,
                          "batch %" PRIu64 " at offset %" PRIu64 ": %s",
                          b.hdr.batch_no, s->end, no);
            break;
        }
        memcpy(digest, s->tables->digest, 16);
        s->durable_seen = MAX(s->durable_seen, b.hdr.durable_seen);
        s->last_batch = b.hdr.batch_no;
        s->last_seq = b.hdr.last_seq;
        s->end = round_up(s->end + b.size, SEG_ALIGN);
    }
    return 0;
}

int
segment_read_batch(struct io_file *f, const struct seg_batch *b,
                   uint8_t **out_buf, size_t *out_cap, struct err *err)
{
    size_t cap = (size_t)round_up(b->size, SEG_ALIGN);
    uint8_t *buf = io_mem_alloc(cap);
    struct batch_view v;
    int64_t n;
    int rc;

    if (!buf)
        return err_set(err, -ENOMEM, ERR_GEN_0002, "no memory for a batch");
    n = io_file_pread_sync(f, buf, cap, b->off);
    if (n < 0)
        rc = err_set(err, (int)n, ERR_JNL_0001, "%s: cannot read at %u: %s",
                     io_file_path(f), b->off, err_errno((int)n));
    else
        rc = batch_decode(buf, MIN((size_t)n, b->size), &v, err);
    if (rc < 0) {
        io_mem_free(buf, cap);
        return rc == -ENODATA ? -EBADMSG : rc;
    }
    *out_buf = buf;
    *out_cap = cap;
    return 0;
}

int
segment_read_head(struct io_file *f, const struct seg_batch *b,
                  struct batch_view *out, uint8_t **out_buf, size_t *out_cap,
                  struct err *err)
{
    size_t cap =
        (size_t)round_up(batch_head_size(b->n_entries, b->n_chunks), SEG_ALIGN);
    uint8_t *buf = io_mem_alloc(cap);
    int64_t n;
    int rc;

    if (!buf)
        return err_set(err, -ENOMEM, ERR_GEN_0002, "no memory for a batch");
    n = io_file_pread_sync(f, buf, cap, b->off);
    if (n < 0) {
        rc = err_set(err, (int)n, ERR_JNL_0001, "%s: cannot read at %u: %s",
                     io_file_path(f), b->off, err_errno((int)n));
    } else {
        rc = batch_decode_head(buf, (size_t)n, out, err);
        if (rc == 0 && (out->hdr.batch_no != b->batch_no ||
                        out->hdr.n_entries != b->n_entries ||
                        out->hdr.n_chunks != b->n_chunks))
            rc = err_set(err, -EBADMSG, ERR_JNL_0003,
                         "it is not batch %" PRIu64, b->batch_no);
        if (rc < 0)
            err_prefix(err, "%s: batch at offset %" PRIu32, io_file_path(f),
                       b->off);
    }
    if (rc < 0) {
        io_mem_free(buf, cap);
        return rc == -ENODATA ? -EBADMSG : rc;
    }
    *out_buf = buf;
    *out_cap = cap;
    return 0;
}

/* The digest of the batch before batch i. */
static int
digest_before(struct io_file *f, const struct seg_scan *s, uint32_t i,
              uint8_t digest[16])
{
    struct batch_view b;
    uint8_t *buf;
    size_t cap;
    int rc;

    memcpy(digest, s->header.prev_digest, 16);
    if (i == 0)
        return 0;
    rc = segment_read_head(f, &s->tables->batches[i - 1], &b, &buf, &cap, NULL);
    if (rc == 0) {
        batch_digest(buf, b.head_len, digest);
        io_mem_free(buf, cap);
    }
    return rc;
}

static int
check_body(struct io_file *f, const struct seg_batch *r, struct seg_scan *s)
{
    struct batch_view b;
    uint8_t *buf;
    size_t cap;
    int rc = segment_read_batch(f, r, &buf, &cap, &s->why);

    if (rc < 0)
        return rc;
    s->bytes_read += r->size;
    rc = batch_decode(buf, r->size, &b, &s->why);
    if (rc == 0)
        rc = batch_verify_bodies(&b, &s->why);
    io_mem_free(buf, cap);
    return rc;
}

/* The bodies of what nobody had heard to be durable. */
static int
scan_bodies(struct io_file *f, struct seg_scan *s)
{
    struct seg_tables *t = s->tables;
    uint32_t n = atomic_load_explicit(&t->n_batches, memory_order_relaxed);
    uint32_t i = 0;
    uint8_t digest[16];
    int rc = 0;

    while (i < n && t->batches[i].batch_no <= s->durable_seen)
        i++;
    for (; i < n && rc == 0; i++) {
        const struct seg_batch *r = &t->batches[i];

        rc = check_body(f, r, s);
        if (rc == -EIO)
            scan_unreadable(f, s, r->off);
        else if (rc < 0 && rc != -EBADMSG)
            return rc;
        if (rc < 0) {
            rc = digest_before(f, s, i, digest);
            if (rc <
                0) /* it was good a moment ago: the disk does not keep still */
                return rc;
            s->end = r->off;
            s->last_batch = r->batch_no - 1;
            s->last_seq = i ? r[-1].last_seq : s->header.first_seq - 1;
            tables_cut(t, i, digest);
            return 0;
        }
    }
    return 0;
}

int
segment_scan_as(struct io_file *f, const struct seg_header *h, uint64_t limit,
                struct seg_scan *out, struct err *err)
{
    uint8_t *buf = io_mem_alloc(SCAN_MEM);
    uint64_t end = limit ? MIN(limit, h->size) : h->size;
    struct io_file_info fi;
    int rc;

    if (!buf)
        return err_set(err, -ENOMEM, ERR_GEN_0002, "no memory for a scan");
    out->header = *h;
    out->incarnation = h->incarnation;
    out->last_batch = h->first_batch - 1;
    out->last_seq = h->first_seq - 1;
    memcpy(out->tables->digest, h->prev_digest, 16);
    rc = io_file_info(f, &fi, NULL);
    if (rc == 0)
        rc = scan_heads(f, fi.size, end, out, buf);
    if (rc == 0 && !limit)
        rc = scan_bodies(f, out);
    if (rc < 0)
        (void)err_set(err, rc, ERR_JNL_0003,
                      "%s: cannot read the batch behind offset %" PRIu64 ": %s",
                      io_file_path(f), out->end,
                      out->why.num ? out->why.msg : err_errno(rc));
    io_mem_free(buf, SCAN_MEM);
    return rc;
}

int
segment_read_header(struct io_file *f, struct seg_header *out, struct err *err)
{
    uint8_t *buf = io_mem_alloc(SEG_HEADER_SIZE);
    int64_t n;
    int rc;

    if (!buf)
        return err_set(err, -ENOMEM, ERR_GEN_0002, "no memory for a header");
    n = io_file_pread_sync(f, buf, SEG_HEADER_SIZE, 0);
    rc = n < 0 ? (int)n : seg_header_decode(buf, (size_t)n, out);
    if (rc == -ENODATA)
        rc = -EBADMSG;
    if (rc < 0)
        (void)err_set(err, rc,
                      rc == -EPROTONOSUPPORT ? ERR_JNL_0052 : ERR_JNL_0003,
                      "%s: the header at offset 0 is no valid one: %s",
                      io_file_path(f), err_errno(rc));
    io_mem_free(buf, SEG_HEADER_SIZE);
    return rc;
}

int
segment_scan(struct io_file *f, uint64_t limit, struct seg_scan *out,
             struct err *err)
{
    struct seg_header h;
    int rc = segment_read_header(f, &h, err);

    return rc < 0 ? rc : segment_scan_as(f, &h, limit, out, err);
}

int
segment_find_later(struct io_file *f, const struct incarnation_id *inc,
                   uint64_t from, uint64_t batch_no, struct err *err)
{
    uint8_t *buf = io_mem_alloc(FIND_READ);
    int found = 0;

    if (!buf)
        return err_set(err, -ENOMEM, ERR_GEN_0002, "no memory for a scan");
    for (uint64_t off = from; off - from < FIND_WINDOW && !found;
         off += FIND_STEP) {
        int64_t n = io_file_pread_sync(f, buf, FIND_READ, off);

        if (n < 0) {
            io_mem_free(buf, FIND_READ);
            return err_set(err, (int)n, ERR_JNL_0001, "%s: cannot read: %s",
                           io_file_path(f), err_errno((int)n));
        }
        for (int64_t p = 0; p < MIN(n, FIND_STEP) && !found; p += SEG_ALIGN) {
            struct batch_view b;

            if (batch_decode_head(buf + p, (size_t)(n - p), &b, NULL) == 0 &&
                memcmp(b.hdr.incarnation.u.b, inc->u.b, 16) == 0 &&
                b.hdr.batch_no > batch_no && b.hdr.durable_seen >= batch_no)
                found = 1;
        }
        if (n < FIND_READ)
            break;
    }
    io_mem_free(buf, FIND_READ);
    return found;
}
