/* The batch: the one format of writes on the wire, in the journal and (later)
 * in the spill.  Made once at the source, carried and stored verbatim, so that
 * the checksum made on receipt of a write is the one verified at receipt, at
 * every read, at promotion and by the scrubber (I11).
 *
 * docs/formats/batch.md has the byte tables.  Pure: values in, values out.
 *
 *   header 128 B | entry 32 B x n | chunk 24 B x m | bodies
 *
 * An entry is one write (or zero, flush, mark...) of a volume of the lane.
 * Chunks hold the payloads, at most 64 KiB raw each, compressed one by one; a
 * payload that does not fit its first chunk goes on in the following chunks
 * from their offset 0.  Order inside a lane is the sequence number:
 * epoch << 40 | n, so a position is one u64 across incarnations.
 */
#ifndef HOLDFAST_LANE_BATCH_H
#define HOLDFAST_LANE_BATCH_H

#include <sys/uio.h>

#include "common/bytes.h"
#include "common/err.h"
#include "common/id.h"

enum {
    BATCH_VERSION = 1,
    BATCH_HDR_SIZE = 128,
    BATCH_ENTRY_SIZE = 32,
    BATCH_CHUNK_SIZE = 24,
    BATCH_CHUNK_RAW_MAX = 64 * 1024,
    BATCH_RAW_TARGET = 1024 * 1024,  /* a batch closes at this much payload */
    BATCH_RAW_MAX = 2 * 1024 * 1024, /* and never holds more */
    BATCH_ENTRIES_MAX = 8192,
    BATCH_CHUNKS_MAX = 512,
    BATCH_SIZE_MAX = 4 * 1024 * 1024, /* encoded; the frame body's limit */
    BATCH_DISK_ALIGN = 4096,
    BATCH_WRITE_MAX = 1024 * 1024, /* payload of one entry */
    BATCH_TAG_MAX = 255,           /* bytes of a checkpoint's name */
    LANE_VOLUMES_MAX = 256,
};
#define BATCH_MAGIC    0x42644648u                  /* "HFdB" in the file */
#define BATCH_ZERO_MAX ((uint64_t)64 * 1024 * 1024) /* bytes of one ZERO */
#define BATCH_NO_CHUNK UINT32_MAX

#define LANE_SEQ_EPOCH_SHIFT 40
static inline uint64_t
lane_seq(uint32_t epoch, uint64_t n)
{
    return (uint64_t)epoch << LANE_SEQ_EPOCH_SHIFT | n;
}

enum batch_flags {
    BATCH_FOLDED = 1 << 0,     /* history inside was folded: no PIT within */
    BATCH_RESYNC = 1 << 1,     /* lies in a resync window */
    BATCH_CUT_INSIDE = 1 << 2, /* holds a CUT_MARK or CUT_COMMIT */
};

/* Numbers are never reused. */
enum entry_type {
    ENTRY_WRITE = 1,
    ENTRY_ZERO = 2, /* no payload; flags may say ENTRY_MAY_PUNCH */
    ENTRY_FLUSH = 3,
    ENTRY_CUT_MARK = 4,
    ENTRY_CUT_COMMIT = 5, /* payload: struct cut_commit */
    ENTRY_TAG = 6,
    ENTRY_GAP = 7,   /* payload: first and last collapsed seq */
    ENTRY_DIRTY = 8, /* content of the range is unknown from here on */
    ENTRY_HASH = 9,
    ENTRY_RESYNC_WRITE = 10,
    ENTRY_RESYNC_BEGIN = 11, /* payload: struct resync_begin */
    ENTRY_RESYNC_END = 12,
    ENTRY_INCARNATION = 13, /* payload: struct lane_incarnation */
    ENTRY_GEOMETRY = 14,
    ENTRY_VOL_LEAVE = 15,
    ENTRY_VOL_JOIN = 16,
    ENTRY_NOP = 17, /* a number whose request changed nothing (a FAST_ZERO that
                     * the backing refused) */
};

enum entry_flags {
    ENTRY_MAY_PUNCH = 1 << 0,
    ENTRY_CRITICAL = 1 << 1, /* a reader that does not know the type stops */
    ENTRY_RESYNC = 1 << 2,   /* ZERO written by a resync */
};

struct batch_hdr {
    uint16_t flags;
    uint64_t vpg_tag; /* first 8 bytes of the VPG's id, little-endian */
    uint32_t lane;
    struct incarnation_id incarnation;
    uint64_t batch_no; /* from 1, +1 each within an incarnation */
    uint64_t first_seq, last_seq;
    uint32_t n_entries, n_chunks;
    uint64_t durable_seen; /* highest DURABLE known when it was numbered */
    uint64_t t_first_ns, t_last_ns; /* source's wall clock, UTC */
    uint32_t table_len, body_len, raw_len;
    uint8_t prev_digest[16]; /* batch_digest() of the batch before; zeros for
                              * the first of an incarnation */
    uint32_t table_crc;
};

struct lane_entry {
    uint64_t off512;
    uint32_t len512;
    uint32_t chunk; /* index in the batch, or BATCH_NO_CHUNK */
    uint16_t chunk_off512;
    uint16_t vol; /* volume number in the lane */
    uint8_t type, flags;
    uint16_t dt_ms; /* since t_first, saturates */
    uint32_t crc;   /* CRC32C of the raw payload */
    uint32_t aux;   /* control payloads: their length in bytes (zero-padded to
                     * len512 * 512) */
};

enum chunk_codec {
    CHUNK_STORED = 0,
    CHUNK_LZ4 = 1,
    CHUNK_ZSTD = 2
};

struct lane_chunk {
    uint32_t body_off; /* from the start of the bodies */
    uint32_t stored_len, raw_len;
    uint32_t crc_raw, crc_stored;
    uint8_t codec, class_;
};

/* --- writing ------------------------------------------------------------ */

/* Encode header and tables into out (batch_table_size() + BATCH_HDR_SIZE
 * bytes): fills table_len, body_len, raw_len, table_crc from the arrays.  The
 * bodies follow on the wire in chunk order. */
size_t batch_head_size(uint32_t n_entries, uint32_t n_chunks);
void batch_head_encode(struct batch_hdr *h, const struct lane_entry *entries,
                       const struct lane_chunk *chunks, uint8_t *out);

/* Digest of header and tables (XXH3-128 of the encoded bytes): the chain. */
void batch_digest(const uint8_t *head, size_t len, uint8_t out[16]);

/* --- reading ------------------------------------------------------------ */

/* A decoded batch: borrows the bytes. */
struct batch_view {
    struct batch_hdr hdr;
    const uint8_t *entries, *chunks, *bodies;
    size_t head_len, size; /* size: head and bodies, unaligned */
};

/* How long the batch that starts at p is, from its header alone: 0 and
 * *out_size; -ENODATA when len < BATCH_HDR_SIZE; -EBADMSG when these bytes are
 * no valid header; -EPROTONOSUPPORT when a newer release wrote them. */
int batch_peek(const uint8_t *p, size_t len, size_t *out_size);

/* Check everything but the bodies' checksums: header and table CRC, counts,
 * every entry and chunk against its limits, order of sequence numbers.
 * -ENODATA: cut short; -EBADMSG: damaged, err says where; -EPROTONOSUPPORT: a
 * newer version or an unknown critical entry. */
int batch_decode(const uint8_t *p, size_t len, struct batch_view *out,
                 struct err *err);
/* As batch_decode, with the head only in memory (scans, footers). */
int batch_decode_head(const uint8_t *p, size_t len, struct batch_view *out,
                      struct err *err);
/* crc_stored of every body; -EBADMSG names the chunk. */
int batch_verify_bodies(const struct batch_view *b, struct err *err);

void batch_entry(const struct batch_view *b, uint32_t i, struct lane_entry *out);
void batch_chunk(const struct batch_view *b, uint32_t i, struct lane_chunk *out);
void lane_entry_encode(const struct lane_entry *e, uint8_t *out);
void lane_entry_decode(const uint8_t *p, struct lane_entry *out);
void lane_chunk_encode(const struct lane_chunk *c, uint8_t *out);
void lane_chunk_decode(const uint8_t *p, struct lane_chunk *out);

/* Does this entry change the content of its volume, by payload or zeros? */
bool entry_is_write(const struct lane_entry *e); /* WRITE, RESYNC_WRITE */
bool entry_is_zero(const struct lane_entry *e);
/* Sequence number of entry i: first_seq + i; of a GAP, and of all entries of a
 * FOLDED batch, last_seq. */
uint64_t batch_entry_seq(const struct batch_view *b, uint32_t i);
/* The payload of entry i, gathered over its chunks into out (len512 * 512
 * bytes), with crc checked.  Needs the bodies. */
int batch_entry_payload(const struct batch_view *b, uint32_t i, uint8_t *out,
                        size_t out_size, struct err *err);

/* --- chunks ------------------------------------------------------------- */

/* Compress raw (1..64 KiB) into out (at least raw_len bytes): returns the
 * stored length, or 0 when less than 5 % would be saved: keep it raw. */
size_t chunk_deflate(enum chunk_codec codec, const uint8_t *raw, size_t raw_len,
                     uint8_t *out, size_t out_size);
/* Verify crc_stored, decompress, verify crc_raw.  out: raw_len bytes. */
int chunk_inflate(const struct lane_chunk *c, const uint8_t *stored,
                  uint8_t *out, size_t out_size, struct err *err);

/* --- control payloads (docs/formats/batch.md) --------------------------- */

enum cut_kind {
    CUT_AUTO = 0,
    CUT_USER = 1,
    CUT_APPLICATION = 2
};

struct cut_commit {
    uint64_t cut_no; /* the checkpoint's number in its VPG, rising */
    uint64_t wall_ns;
    uint64_t term;
    uint32_t membership_epoch;
    uint8_t kind, consistency; /* consistency: 0 crash, 1 application */
    uint16_t n_positions;      /* 0: this lane's own position, this entry */
    uint16_t tag_len;
    char tag[BATCH_TAG_MAX + 1];
};

struct lane_gap {
    uint64_t first_seq, last_seq;
};

struct resync_begin {
    uint64_t scope_bytes;
    uint8_t salt[16]; /* for HASH entries of later releases */
    uint8_t reason;   /* enum resync_reason */
};
enum resync_reason {
    RESYNC_INITIAL = 0,
    RESYNC_OVERFLOW = 1,
    RESYNC_UNCLEAN = 2,
    RESYNC_FORCED = 3,
    RESYNC_BACKING_CHANGED = 4,
    RESYNC_IO_ERROR = 5,
};

struct lane_incarnation {
    struct incarnation_id prev;
    uint64_t prev_last_batch;
    uint8_t exact; /* 1: drained; 0: continuity=verify */
};

enum {
    CONTROL_PAYLOAD_MAX = 1024
};
/* Each returns the payload's length (at most CONTROL_PAYLOAD_MAX). */
size_t cut_commit_encode(const struct cut_commit *c, uint8_t *out);
int cut_commit_decode(const uint8_t *p, size_t len, struct cut_commit *out);
size_t lane_gap_encode(const struct lane_gap *g, uint8_t *out);
int lane_gap_decode(const uint8_t *p, size_t len, struct lane_gap *out);
size_t resync_begin_encode(const struct resync_begin *r, uint8_t *out);
int resync_begin_decode(const uint8_t *p, size_t len, struct resync_begin *out);
size_t lane_incarnation_encode(const struct lane_incarnation *i, uint8_t *out);
int lane_incarnation_decode(const uint8_t *p, size_t len,
                            struct lane_incarnation *out);

#endif
