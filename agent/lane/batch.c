/* The batch codec: header, entry and chunk records, and the checks that make
 * the bytes of a peer or a disk safe to use.  Byte tables and rules are in
 * docs/formats/batch.md; no other file knows the offsets.
 *
 * A batch has exactly one form: the payloads of its entries, in order, are the
 * raw contents of its chunks, in order, without gap or overlap, and the bodies
 * lie the same way.  So a hostile table can neither point two entries at one
 * payload, nor make a reader inflate more than raw_len in all.
 *
 * Built with HOLDFAST_FUZZING the decoders do not compare checksums. */
#include "lane/batch.h"

#include <inttypes.h>
#include <string.h>

#include <xxhash.h>

#include "common/crc32c.h"

/* Offsets of the header, docs/formats/batch.md. */
enum {
    H_MAGIC = 0,
    H_VERSION = 4,
    H_FLAGS = 6,
    H_VPG_TAG = 8,
    H_LANE = 16,
    H_INCARNATION = 20,
    H_BATCH_NO = 36,
    H_FIRST_SEQ = 44,
    H_LAST_SEQ = 52,
    H_N_ENTRIES = 60,
    H_N_CHUNKS = 64,
    H_DURABLE_SEEN = 68,
    H_T_FIRST = 76,
    H_T_LAST = 84,
    H_TABLE_LEN = 92,
    H_BODY_LEN = 96,
    H_RAW_LEN = 100,
    H_PREV_DIGEST = 104,
    H_TABLE_CRC = 120,
    H_CRC = 124,
};

enum {
    FLAGS_KNOWN = BATCH_FOLDED | BATCH_RESYNC | BATCH_CUT_INSIDE,
    ENTRY_FLAGS_KNOWN = ENTRY_MAY_PUNCH | ENTRY_CRITICAL | ENTRY_RESYNC,
    SECTOR = 512,
    SECTOR_SHIFT = 9,
};
/* Index keys have 48 bits for the sector (datapath.md 3.4). */
#define OFF512_LIMIT ((uint64_t)1 << 48)

static bool
crc_differs(uint32_t have, uint32_t want)
{
#ifdef HOLDFAST_FUZZING
    UNUSED(have);
    UNUSED(want);
    return false;
#else
    return have != want;
#endif
}

/* --- records ------------------------------------------------------------ */

void
lane_entry_encode(const struct lane_entry *e, uint8_t *out)
{
    put_le64(out, e->off512);
    put_le32(out + 8, e->len512);
    put_le32(out + 12, e->chunk);
    put_le16(out + 16, e->chunk_off512);
    put_le16(out + 18, e->vol);
    out[20] = e->type;
    out[21] = e->flags;
    put_le16(out + 22, e->dt_ms);
    put_le32(out + 24, e->crc);
    put_le32(out + 28, e->aux);
}

void
lane_entry_decode(const uint8_t *p, struct lane_entry *out)
{
    *out = (struct lane_entry){
        .off512 = get_le64(p),
        .len512 = get_le32(p + 8),
        .chunk = get_le32(p + 12),
        .chunk_off512 = get_le16(p + 16),
        .vol = get_le16(p + 18),
        .type = p[20],
        .flags = p[21],
        .dt_ms = get_le16(p + 22),
        .crc = get_le32(p + 24),
        .aux = get_le32(p + 28),
    };
}

void
lane_chunk_encode(const struct lane_chunk *c, uint8_t *out)
{
    put_le32(out, c->body_off);
    put_le32(out + 4, c->stored_len);
    put_le32(out + 8, c->raw_len);
    put_le32(out + 12, c->crc_raw);
    put_le32(out + 16, c->crc_stored);
    out[20] = c->codec;
    out[21] = c->class_;
    put_le16(out + 22, 0);
}

void
lane_chunk_decode(const uint8_t *p, struct lane_chunk *out)
{
    *out = (struct lane_chunk){
        .body_off = get_le32(p),
        .stored_len = get_le32(p + 4),
        .raw_len = get_le32(p + 8),
        .crc_raw = get_le32(p + 12),
        .crc_stored = get_le32(p + 16),
        .codec = p[20],
        .class_ = p[21],
    };
}

/* --- writing ------------------------------------------------------------ */

size_t
batch_head_size(uint32_t n_entries, uint32_t n_chunks)
{
    return BATCH_HDR_SIZE + (size_t)n_entries * BATCH_ENTRY_SIZE +
           (size_t)n_chunks * BATCH_CHUNK_SIZE;
}

static void
hdr_encode(const struct batch_hdr *h, uint8_t *out)
{
    put_le32(out + H_MAGIC, BATCH_MAGIC);
    put_le16(out + H_VERSION, BATCH_VERSION);
    put_le16(out + H_FLAGS, h->flags);
    put_le64(out + H_VPG_TAG, h->vpg_tag);
    put_le32(out + H_LANE, h->lane);
    memcpy(out + H_INCARNATION, h->incarnation.u.b, 16);
    put_le64(out + H_BATCH_NO, h->batch_no);
    put_le64(out + H_FIRST_SEQ, h->first_seq);
    put_le64(out + H_LAST_SEQ, h->last_seq);
    put_le32(out + H_N_ENTRIES, h->n_entries);
    put_le32(out + H_N_CHUNKS, h->n_chunks);
    put_le64(out + H_DURABLE_SEEN, h->durable_seen);
    put_le64(out + H_T_FIRST, h->t_first_ns);
    put_le64(out + H_T_LAST, h->t_last_ns);
    put_le32(out + H_TABLE_LEN, h->table_len);
    put_le32(out + H_BODY_LEN, h->body_len);
    put_le32(out + H_RAW_LEN, h->raw_len);
    memcpy(out + H_PREV_DIGEST, h->prev_digest, 16);
    put_le32(out + H_TABLE_CRC, h->table_crc);
    put_le32(out + H_CRC, crc32c(0, out, H_CRC));
}

void
batch_head_encode(struct batch_hdr *h, const struct lane_entry *entries,
                  const struct lane_chunk *chunks, uint8_t *out)
{
    uint8_t *p = out + BATCH_HDR_SIZE;

    h->body_len = h->raw_len = 0;
    for (uint32_t i = 0; i < h->n_entries; i++, p += BATCH_ENTRY_SIZE)
        lane_entry_encode(&entries[i], p);
    for (uint32_t i = 0; i < h->n_chunks; i++, p += BATCH_CHUNK_SIZE) {
        lane_chunk_encode(&chunks[i], p);
        h->body_len += chunks[i].stored_len;
        h->raw_len += chunks[i].raw_len;
    }
    h->table_len = (uint32_t)(p - out) - BATCH_HDR_SIZE;
    h->table_crc = crc32c(0, out + BATCH_HDR_SIZE, h->table_len);
    hdr_encode(h, out);
}

void
batch_digest(const uint8_t *head, size_t len, uint8_t out[16])
{
    XXH128_canonical_t c;

    XXH128_canonicalFromHash(&c, XXH3_128bits(head, len));
    memcpy(out, c.digest, 16);
}

/* --- reading ------------------------------------------------------------ */

static void
hdr_fields(const uint8_t *p, struct batch_hdr *h)
{
    h->flags = get_le16(p + H_FLAGS);
    h->vpg_tag = get_le64(p + H_VPG_TAG);
    h->lane = get_le32(p + H_LANE);
    memcpy(h->incarnation.u.b, p + H_INCARNATION, 16);
    h->batch_no = get_le64(p + H_BATCH_NO);
    h->first_seq = get_le64(p + H_FIRST_SEQ);
    h->last_seq = get_le64(p + H_LAST_SEQ);
    h->n_entries = get_le32(p + H_N_ENTRIES);
    h->n_chunks = get_le32(p + H_N_CHUNKS);
    h->durable_seen = get_le64(p + H_DURABLE_SEEN);
    h->t_first_ns = get_le64(p + H_T_FIRST);
    h->t_last_ns = get_le64(p + H_T_LAST);
    h->table_len = get_le32(p + H_TABLE_LEN);
    h->body_len = get_le32(p + H_BODY_LEN);
    h->raw_len = get_le32(p + H_RAW_LEN);
    memcpy(h->prev_digest, p + H_PREV_DIGEST, 16);
    h->table_crc = get_le32(p + H_TABLE_CRC);
}

/* Counts and lengths against their limits; the reason, or NULL. */
static const char *
hdr_wrong(const struct batch_hdr *h)
{
    if (h->n_entries == 0 || h->n_entries > BATCH_ENTRIES_MAX)
        return "the number of entries is out of range";
    if (h->n_chunks > BATCH_CHUNKS_MAX)
        return "the number of chunks is out of range";
    if (h->table_len !=
        batch_head_size(h->n_entries, h->n_chunks) - BATCH_HDR_SIZE)
        return "the table's length does not fit its counts";
    if (h->raw_len > BATCH_RAW_MAX || h->body_len > h->raw_len)
        return "the payload's length is out of range";
    if ((h->n_chunks == 0) != (h->raw_len == 0))
        return "the payload's length does not fit the number of chunks";
    if (h->durable_seen >= h->batch_no)
        return "it was durable before it was made";
    if (h->first_seq == 0 || h->first_seq > h->last_seq ||
        h->first_seq >> LANE_SEQ_EPOCH_SHIFT !=
            h->last_seq >> LANE_SEQ_EPOCH_SHIFT)
        return "the sequence numbers are out of order";
    return NULL;
}

static int
hdr_decode(const uint8_t *p, size_t len, struct batch_hdr *out, struct err *err)
{
    const char *why;

    if (len < BATCH_HDR_SIZE)
        return err_set(err, -ENODATA, ERR_LAN_0001,
                       "batch header cut short: %zu of %d bytes", len,
                       BATCH_HDR_SIZE);
    if (get_le32(p + H_MAGIC) != BATCH_MAGIC)
        return err_set(err, -EBADMSG, ERR_LAN_0001,
                       "no batch: magic is %08" PRIx32, get_le32(p + H_MAGIC));
    /* Every version has its header checksum here and its number there, so a
     * newer one is told from a damaged one. */
    if (crc_differs(crc32c(0, p, H_CRC), get_le32(p + H_CRC)))
        return err_set(err, -EBADMSG, ERR_LAN_0001,
                       "batch header damaged: checksum does not match");
    if (get_le16(p + H_VERSION) != BATCH_VERSION)
        return err_set(err, -EPROTONOSUPPORT, ERR_LAN_0002,
                       "batch has format version %u, this release reads %d",
                       get_le16(p + H_VERSION), BATCH_VERSION);
    hdr_fields(p, out);
    if (out->flags & ~FLAGS_KNOWN)
        return err_set(err, -EPROTONOSUPPORT, ERR_LAN_0002,
                       "batch %" PRIu64 " has unknown flags 0x%x",
                       out->batch_no, out->flags);
    why = hdr_wrong(out);
    if (why)
        return err_set(err, -EBADMSG, ERR_LAN_0001,
                       "batch %" PRIu64 " header damaged: %s", out->batch_no,
                       why);
    return 0;
}

int
batch_peek(const uint8_t *p, size_t len, size_t *out_size)
{
    struct batch_hdr h = { .flags = 0 };
    int rc = hdr_decode(p, len, &h, NULL);

    if (rc < 0)
        return rc;
    *out_size = (size_t)BATCH_HDR_SIZE + h.table_len + h.body_len;
    return 0;
}

void
batch_entry(const struct batch_view *b, uint32_t i, struct lane_entry *out)
{
    lane_entry_decode(b->entries + (size_t)i * BATCH_ENTRY_SIZE, out);
}

void
batch_chunk(const struct batch_view *b, uint32_t i, struct lane_chunk *out)
{
    lane_chunk_decode(b->chunks + (size_t)i * BATCH_CHUNK_SIZE, out);
}

bool
entry_is_write(const struct lane_entry *e)
{
    return e->type == ENTRY_WRITE || e->type == ENTRY_RESYNC_WRITE;
}

bool
entry_is_zero(const struct lane_entry *e)
{
    return e->type == ENTRY_ZERO;
}

uint64_t
batch_entry_seq(const struct batch_view *b, uint32_t i)
{
    struct lane_entry e;

    /* A folded batch has no inside: all of it happened at its last number. */
    if (b->hdr.flags & BATCH_FOLDED)
        return b->hdr.last_seq;
    if (b->hdr.n_entries == 1) { /* perhaps a GAP, which is always alone */
        batch_entry(b, 0, &e);
        return e.type == ENTRY_GAP ? b->hdr.last_seq : b->hdr.first_seq;
    }
    return b->hdr.first_seq + i;
}

/* Where the payloads have got to while the entries are walked. */
struct cursor {
    uint32_t chunk, off; /* off: bytes into the chunk */
};

static const char *
chunk_wrong(const struct lane_chunk *c, uint32_t body_off)
{
    if (c->raw_len == 0 || c->raw_len > BATCH_CHUNK_RAW_MAX ||
        c->raw_len % SECTOR != 0)
        return "its raw length is out of range";
    if (c->body_off != body_off)
        return "its body is not where the one before ends";
    if (c->stored_len == 0 || c->stored_len > c->raw_len)
        return "its stored length is out of range";
    if ((c->codec == CHUNK_STORED) != (c->stored_len == c->raw_len))
        return "its stored length does not fit its codec";
    if (c->codec == CHUNK_STORED && crc_differs(c->crc_raw, c->crc_stored))
        return "it is stored raw with two checksums";
    return NULL;
}

static int
chunks_check(const struct batch_view *b, struct err *err)
{
    uint32_t body = 0, raw = 0;

    for (uint32_t i = 0; i < b->hdr.n_chunks; i++) {
        const uint8_t *p = b->chunks + (size_t)i * BATCH_CHUNK_SIZE;
        struct lane_chunk c;
        const char *why;

        batch_chunk(b, i, &c);
        why = chunk_wrong(&c, body);
        if (!why && get_le16(p + 22) != 0)
            why = "its reserved bytes are not zero";
        if (why)
            return err_set(err, -EBADMSG, ERR_LAN_0001,
                           "batch %" PRIu64 " chunk %" PRIu32 ": %s",
                           b->hdr.batch_no, i, why);
        if (c.codec > CHUNK_ZSTD)
            return err_set(err, -EPROTONOSUPPORT, ERR_LAN_0002,
                           "batch %" PRIu64 " chunk %" PRIu32
                           " has unknown codec %u",
                           b->hdr.batch_no, i, c.codec);
        /* At most 512 x 64 KiB: no overflow. */
        body += c.stored_len;
        raw += c.raw_len;
    }
    if (body != b->hdr.body_len || raw != b->hdr.raw_len)
        return err_set(err, -EBADMSG, ERR_LAN_0001,
                       "batch %" PRIu64 ": chunks add up to %" PRIu32
                       " bytes stored and "
                       "%" PRIu32 " raw, the header says %" PRIu32
                       " and %" PRIu32,
                       b->hdr.batch_no, body, raw, b->hdr.body_len,
                       b->hdr.raw_len);
    return 0;
}

enum shape {
    SHAPE_DATA,    /* range and payload */
    SHAPE_RANGE,   /* range, no payload */
    SHAPE_EMPTY,   /* neither */
    SHAPE_CONTROL, /* a control payload */
    SHAPE_ANY,     /* a control payload or nothing; also unknown types */
};

static enum shape
entry_shape(uint8_t type)
{
    switch (type) {
    case ENTRY_WRITE:
    case ENTRY_RESYNC_WRITE: return SHAPE_DATA;
    case ENTRY_ZERO:
    case ENTRY_DIRTY: return SHAPE_RANGE;
    case ENTRY_FLUSH:
    case ENTRY_RESYNC_END:
    case ENTRY_NOP: return SHAPE_EMPTY;
    case ENTRY_CUT_COMMIT:
    case ENTRY_GAP:
    case ENTRY_RESYNC_BEGIN:
    case ENTRY_INCARNATION: return SHAPE_CONTROL;
    default: return SHAPE_ANY;
    }
}

static bool
type_known(uint8_t type)
{
    return type >= ENTRY_WRITE && type <= ENTRY_NOP;
}

static const char *
range_wrong(const struct lane_entry *e, uint64_t max_bytes)
{
    if (e->len512 == 0 || e->len512 > max_bytes >> SECTOR_SHIFT)
        return "its length is out of range";
    if (e->off512 >= OFF512_LIMIT || e->len512 > OFF512_LIMIT - e->off512)
        return "its offset is out of range";
    return NULL;
}

/* An entry without payload names none. */
static const char *
no_payload_wrong(const struct lane_entry *e)
{
    if (e->chunk != BATCH_NO_CHUNK || e->chunk_off512 != 0 || e->crc != 0 ||
        e->aux != 0)
        return "it names a payload that its type does not have";
    return NULL;
}

static const char *
empty_wrong(const struct lane_entry *e)
{
    if (e->off512 != 0 || e->len512 != 0)
        return "it names a range that its type does not have";
    return no_payload_wrong(e);
}

/* The payload begins where the one before ended, and is all there; moves the
 * cursor behind it. */
static const char *
payload_wrong(const struct batch_view *b, const struct lane_entry *e,
              struct cursor *at)
{
    uint32_t left = e->len512 << SECTOR_SHIFT;

    if (e->chunk != at->chunk ||
        (uint32_t)e->chunk_off512 << SECTOR_SHIFT != at->off)
        return "its payload is not where the one before ends";
    while (left > 0) {
        struct lane_chunk c;
        uint32_t n;

        if (at->chunk >= b->hdr.n_chunks)
            return "its payload is longer than the chunks";
        batch_chunk(b, at->chunk, &c);
        n = MIN(left, c.raw_len - at->off);
        left -= n;
        at->off += n;
        if (at->off == c.raw_len)
            *at = (struct cursor){ .chunk = at->chunk + 1 };
    }
    return NULL;
}

static const char *
control_wrong(const struct batch_view *b, const struct lane_entry *e,
              struct cursor *at)
{
    if (e->aux == 0 || e->aux > CONTROL_PAYLOAD_MAX ||
        e->len512 != (e->aux + SECTOR - 1) / SECTOR)
        return "its control payload's length is out of range";
    return payload_wrong(b, e, at);
}

static const char *
entry_wrong(const struct batch_view *b, const struct lane_entry *e,
            struct cursor *at)
{
    const char *why;

    if (e->vol >= LANE_VOLUMES_MAX)
        return "its volume number is out of range";
    if (e->flags & ~ENTRY_FLAGS_KNOWN)
        return "its reserved flags are not zero";
    switch (entry_shape(e->type)) {
    case SHAPE_DATA:
        why = range_wrong(e, BATCH_WRITE_MAX);
        if (!why && e->aux != 0)
            why = "its reserved bytes are not zero";
        return why ? why : payload_wrong(b, e, at);
    case SHAPE_RANGE:
        why = range_wrong(e, BATCH_ZERO_MAX);
        return why ? why : no_payload_wrong(e);
    case SHAPE_EMPTY: return empty_wrong(e);
    case SHAPE_CONTROL:
        return e->off512 != 0 ? "it names a range that its type does not have"
                              : control_wrong(b, e, at);
    case SHAPE_ANY:
        if (e->chunk == BATCH_NO_CHUNK)
            return no_payload_wrong(e);
        return control_wrong(b, e, at);
    }
    return NULL;
}

static int
entries_check(const struct batch_view *b, struct err *err)
{
    const struct batch_hdr *h = &b->hdr;
    struct cursor at = { .chunk = 0 };
    bool gap = false;

    for (uint32_t i = 0; i < h->n_entries; i++) {
        struct lane_entry e;
        const char *why;

        batch_entry(b, i, &e);
        if (e.type == 0)
            why = "it has no type";
        else if (e.type == ENTRY_GAP && h->n_entries != 1)
            why = "a GAP is not alone in its batch";
        else
            why = entry_wrong(b, &e, &at);
        if (why)
            return err_set(err, -EBADMSG, ERR_LAN_0001,
                           "batch %" PRIu64 " entry %" PRIu32 " type %u: %s",
                           h->batch_no, i, e.type, why);
        if (!type_known(e.type) && e.flags & ENTRY_CRITICAL)
            return err_set(err, -EPROTONOSUPPORT, ERR_LAN_0002,
                           "batch %" PRIu64 " entry %" PRIu32
                           " has type %u, which this release does not know "
                           "and must not skip",
                           h->batch_no, i, e.type);
        gap = e.type == ENTRY_GAP;
    }
    if (at.chunk != h->n_chunks)
        return err_set(err, -EBADMSG, ERR_LAN_0001,
                       "batch %" PRIu64 ": %" PRIu32 " of %" PRIu32
                       " chunks belong to no entry",
                       h->batch_no, h->n_chunks - at.chunk, h->n_chunks);
    if (!gap && !(h->flags & BATCH_FOLDED) &&
        h->last_seq - h->first_seq != h->n_entries - 1)
        return err_set(err, -EBADMSG, ERR_LAN_0001,
                       "batch %" PRIu64 ": %" PRIu32
                       " entries for the numbers %" PRIu64 " to %" PRIu64,
                       h->batch_no, h->n_entries, h->first_seq, h->last_seq);
    return 0;
}

/* need_bodies: the bodies have to be there too, though they are not read. */
static int
view_decode(const uint8_t *p, size_t len, bool need_bodies,
            struct batch_view *out, struct err *err)
{
    struct batch_view b = { .head_len = 0 };
    size_t need;
    int rc = hdr_decode(p, len, &b.hdr, err);

    if (rc < 0)
        return rc;
    b.head_len = (size_t)BATCH_HDR_SIZE + b.hdr.table_len;
    b.size = b.head_len + b.hdr.body_len;
    need = need_bodies ? b.size : b.head_len;
    if (len < need)
        return err_set(err, -ENODATA, ERR_LAN_0001,
                       "batch %" PRIu64 " cut short: %zu of %zu bytes",
                       b.hdr.batch_no, len, need);
    if (crc_differs(crc32c(0, p + BATCH_HDR_SIZE, b.hdr.table_len),
                    b.hdr.table_crc))
        return err_set(err, -EBADMSG, ERR_LAN_0001,
                       "batch %" PRIu64
                       " tables damaged: checksum does not match",
                       b.hdr.batch_no);
    b.entries = p + BATCH_HDR_SIZE;
    b.chunks = b.entries + (size_t)b.hdr.n_entries * BATCH_ENTRY_SIZE;
    b.bodies = need_bodies ? p + b.head_len : NULL;
    rc = chunks_check(&b, err);
    if (rc == 0)
        rc = entries_check(&b, err);
    if (rc == 0)
        *out = b;
    return rc;
}

int
batch_decode(const uint8_t *p, size_t len, struct batch_view *out,
             struct err *err)
{
    return view_decode(p, len, true, out, err);
}

int
batch_decode_head(const uint8_t *p, size_t len, struct batch_view *out,
                  struct err *err)
{
    return view_decode(p, len, false, out, err);
}

int
batch_verify_bodies(const struct batch_view *b, struct err *err)
{
    for (uint32_t i = 0; i < b->hdr.n_chunks; i++) {
        struct lane_chunk c;

        batch_chunk(b, i, &c);
        if (crc_differs(crc32c(0, b->bodies + c.body_off, c.stored_len),
                        c.crc_stored))
            return err_set(err, -EBADMSG, ERR_LAN_0003,
                           "batch %" PRIu64 " chunk %" PRIu32
                           " damaged: checksum of %" PRIu32
                           " stored bytes does not match",
                           b->hdr.batch_no, i, c.stored_len);
    }
    return 0;
}

/* Bytes [off, off + n) of a chunk's raw content to out. */
static int
chunk_part(const struct batch_view *b, const struct lane_chunk *c, uint32_t off,
           uint32_t n, uint8_t *out, struct err *err)
{
    /* Per thread, so that no reader has 64 KiB on its stack. */
    static _Thread_local uint8_t raw[BATCH_CHUNK_RAW_MAX];
    const uint8_t *stored = b->bodies + c->body_off;
    int rc;

    if (c->codec == CHUNK_STORED) { /* the entry's checksum covers the copy */
        memcpy(out, stored + off, n);
        return 0;
    }
    if (n == c->raw_len)
        return chunk_inflate(c, stored, out, n, err);
    rc = chunk_inflate(c, stored, raw, sizeof raw, err);
    if (rc == 0)
        memcpy(out, raw + off, n);
    return rc;
}

int
batch_entry_payload(const struct batch_view *b, uint32_t i, uint8_t *out,
                    size_t out_size, struct err *err)
{
    struct lane_entry e;
    uint32_t left, chunk, off;
    size_t at = 0;

    batch_entry(b, i, &e);
    if (e.chunk == BATCH_NO_CHUNK)
        return err_set(err, -ENODATA, ERR_LAN_0003,
                       "batch %" PRIu64 " entry %" PRIu32 " has no payload",
                       b->hdr.batch_no, i);
    left = e.len512 << SECTOR_SHIFT;
    if (out_size < left)
        return err_set(err, -EMSGSIZE, ERR_LAN_0003,
                       "batch %" PRIu64 " entry %" PRIu32
                       ": payload of %" PRIu32 " bytes for a buffer of %zu",
                       b->hdr.batch_no, i, left, out_size);
    chunk = e.chunk;
    off = (uint32_t)e.chunk_off512 << SECTOR_SHIFT;
    for (; left > 0; chunk++, off = 0) {
        struct lane_chunk c;
        uint32_t n;
        int rc;

        batch_chunk(b, chunk, &c);
        n = MIN(left, c.raw_len - off);
        rc = chunk_part(b, &c, off, n, out + at, err);
        if (rc < 0) {
            (void)err_prefix(err, "batch %" PRIu64 " chunk %" PRIu32,
                             b->hdr.batch_no, chunk);
            return rc;
        }
        at += n;
        left -= n;
    }
    if (crc_differs(crc32c(0, out, at), e.crc))
        return err_set(err, -EBADMSG, ERR_LAN_0003,
                       "batch %" PRIu64 " entry %" PRIu32
                       " damaged: checksum of %zu payload bytes does not match",
                       b->hdr.batch_no, i, at);
    return 0;
}
