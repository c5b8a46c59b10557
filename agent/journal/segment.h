/* Segments: the files in which the batches of a lane lie, in order.
 *
 * docs/formats/journal.md has the byte tables.  A segment is a header block,
 * batches at 4 KiB alignment, and, once sealed, a footer with all entry tables,
 * the chunk directory and the cut positions, so that an index is built from one
 * read.  Its file is preallocated and, when it has been promoted, given another
 * name and written again; stale bytes are harmless, since a batch counts only
 * with the right incarnation, number and chain digest.
 *
 *   struct seg_tables   what a footer holds; of the open segment it is in memory
 *                       and grows by whole batches, published when durable
 *   struct seg_store    the segments that exist, for readers in any thread
 *   segment_create, segment_scan, segment_seal: blocking, for workers
 */
#ifndef HOLDFAST_JOURNAL_SEGMENT_H
#define HOLDFAST_JOURNAL_SEGMENT_H

#include <stdatomic.h>

#include "io/file.h"
#include "journal/runset.h"

enum {
    SEG_VERSION = 1,
    SEG_ALIGN = BATCH_DISK_ALIGN,
    SEG_HEADER_SIZE = SEG_ALIGN,
    SEG_FOOTER_HEAD = 192,
    SEG_BATCH_REC = 64,
    SEG_CUT_REC = 16,
    SEG_ENTRIES_MAX = 65536,
    SEG_CHUNKS_MAX = 65536,
    SEG_BATCHES_MAX = 16384,
    SEG_NAME_MAX = 16,
};
#define SEG_MAGIC        0x73646648u /* "Hfds" in the file */
#define SEG_FOOTER_MAGIC 0x66736648u /* "Hfsf" */
#define SEG_SIZE_LEAST   (64 * KIB)
#define SEG_SIZE_MOST    (256 * MIB)

struct seg_header {
    struct vpg_id vpg;
    uint32_t lane;
    uint32_t no;
    uint64_t size; /* of the file */
    struct incarnation_id incarnation;
    uint64_t first_batch, first_seq;
    uint8_t prev_digest[16];
};

/* Encodes SEG_HEADER_SIZE bytes.  Decoding: -ENODATA cut, -EBADMSG damaged or
 * no segment, -EPROTONOSUPPORT newer. */
void seg_header_encode(const struct seg_header *h, uint8_t *out);
int seg_header_decode(const uint8_t *p, size_t len, struct seg_header *out);

enum seg_batch_flags {
    SEG_BATCH_ATOMIC = 1 << 0, /* folded, or a GAP: all of it is at last_seq */
};

struct seg_batch {
    uint32_t off, size; /* in the file; size without padding */
    uint32_t first_entry, n_entries;
    uint32_t first_chunk, n_chunks; /* in the segment's directory */
    uint64_t batch_no, first_seq, last_seq;
    uint16_t flags;
};

struct seg_cut {
    uint64_t seq;
    uint32_t batch, entry; /* indexes in the tables */
};

struct seg_tables {
    /* Guarded by publication: the writer (one thread) fills slots beyond
     * n_batches and then stores it; readers load it first. */
    atomic_uint n_batches;
    uint32_t cap_batches, cap_entries, cap_chunks, cap_cuts;
    uint32_t n_cuts; /* writer's thread, or sealed */
    struct seg_batch *batches;
    uint8_t *entries; /* BATCH_ENTRY_SIZE each, as in the batch */
    uint8_t *chunks;  /* BATCH_CHUNK_SIZE each; body_off is the file offset */
    struct seg_cut *cuts;
    uint8_t digest[16]; /* of the last batch; writer's thread, or sealed */
};

struct seg_tables *seg_tables_new(void); /* for the open segment; NULL */
void seg_tables_free(struct seg_tables *t);
/* Add a batch that lies at off.  -EOVERFLOW: beyond the limits above. */
int
seg_tables_add(struct seg_tables *t, const struct batch_view *b, uint32_t off);
uint32_t seg_tables_entries(const struct seg_tables *t); /* published */
uint32_t seg_tables_chunks(const struct seg_tables *t);
uint64_t seg_tables_end(const struct seg_tables *t); /* aligned end of batches */
uint64_t seg_entry_seq(const struct seg_batch *b, uint32_t i);

/* Bytes of a footer, aligned. */
uint64_t seg_footer_size(uint32_t n_batches, uint32_t n_entries,
                         uint32_t n_chunks, uint32_t n_cuts);
/* The encoded footer from io_mem_alloc(*out_len); NULL: no memory.  header_crc
 * ties it to its header block (seg_header_crc()). */
uint8_t *seg_footer_encode(const struct seg_tables *t, uint32_t header_crc,
                           size_t *out_len);
uint32_t seg_header_crc(const uint8_t *header);
/* -ENODATA, -EBADMSG (err says which table), -EPROTONOSUPPORT. */
int seg_footer_decode(const uint8_t *p, size_t len, uint32_t header_crc,
                      struct seg_tables **out, struct err *err);

void seg_name(uint32_t no, char out[SEG_NAME_MAX]); /* "seg.NNNNNNNN" */
int seg_name_parse(const char *name, uint32_t *out_no);

/* --- the life of a file -------------------------------------------------- */

/* Make segment h->no: from the file of a recycled one (recycle, may be NULL:
 * its number) or a new one, h->size bytes preallocated; header durable and name
 * durable on return.  h->size is changed to the size of the recycled file. */
int
segment_create(struct io_loop *loop, const char *dir, struct seg_header *h,
               const uint32_t *recycle, struct io_file **out, struct err *err);
/* Write the footer behind the batches and sync.  *out_off: where. */
int segment_seal(struct io_file *f, const struct seg_header *h,
                 const struct seg_tables *t, uint64_t *out_off, struct err *err);

/* What the scan of a segment without a footer found. */
struct seg_scan {
    struct seg_header header;
    struct seg_tables *tables; /* the caller's */
    uint64_t end;              /* aligned end of the last good batch */
    uint64_t durable_seen;     /* highest met */
    uint64_t bytes_read;
    struct incarnation_id incarnation;
    uint64_t last_batch, last_seq; /* last_batch: first_batch - 1 if none */
    bool unreadable;               /* it ended where the disk gave an error */
    struct err why;                /* why it ended, a sentence */
};
int
segment_read_header(struct io_file *f, struct seg_header *out, struct err *err);
/* Walk batches from the header on; stop before the first that does not follow.
 * Bodies of batches above durable_seen are checked.  The end alone does not say
 * whether it is a torn tail: see segment_find_later().  limit: end of batches
 * when the manifest knows it, else 0.  Negative errno: reading failed. */
int segment_scan(struct io_file *f, uint64_t limit, struct seg_scan *out,
                 struct err *err);
/* The same with a header that is known: the manifest holds all of it. */
int segment_scan_as(struct io_file *f, const struct seg_header *h,
                    uint64_t limit, struct seg_scan *out, struct err *err);
/* A valid batch of the incarnation behind `from` with durable_seen >= batch_no
 * proves that batch_no had been acknowledged: 1; 0: none. */
int segment_find_later(struct io_file *f, const struct incarnation_id *inc,
                       uint64_t from, uint64_t batch_no, struct err *err);
/* The batch table of a sealed segment's footer, and nothing more of it. */
int segment_read_batches(struct io_file *f, const struct seg_header *h,
                         uint64_t footer_off, struct seg_batch **out,
                         uint32_t *out_n, struct err *err);
/* Header and tables of the batch at b, checked; *out borrows *out_buf, from
 * io_mem_alloc(*out_cap). */
int segment_read_head(struct io_file *f, const struct seg_batch *b,
                      struct batch_view *out, uint8_t **out_buf,
                      size_t *out_cap, struct err *err);
/* The whole batch at b, read and checked but for bodies unless asked; *out_buf
 * from io_mem_alloc(*out_cap). */
int segment_read_batch(struct io_file *f, const struct seg_batch *b,
                       uint8_t **out_buf, size_t *out_cap, struct err *err);

/* --- the store ----------------------------------------------------------- */

struct seg_store;

enum {
    SEG_STORE_FILES = 64,
    SEG_STORE_HEAD_BYTES = 4 * 1024 * 1024,  /* about 2 GiB of 4 KiB writes */
    SEG_STORE_TABLE_BYTES = 1 * 1024 * 1024, /* about 400 segments */
};

int seg_store_new(struct io_loop *loop, const char *dir, struct vpg_id vpg,
                  uint32_t lane, bool planted_order, struct seg_store **out);
void seg_store_free(struct seg_store *s); /* nobody reads */

struct seg_place {
    uint32_t no;
    struct seg_header header;
    uint64_t footer_off; /* 0: none; the batches are walked then */
    uint64_t end;        /* of the batches; 0: open */
    uint64_t last_seq;   /* sealed */
};
/* Any thread.  file and tables are given away with it (may be NULL: opened
 * when needed).  Tables of the open segment stay the writer's to fill. */
int seg_store_add(struct seg_store *s, const struct seg_place *p,
                  struct io_file *file, struct seg_tables *tables);
void seg_store_sealed(struct seg_store *s, const struct seg_place *p);
/* Forget it, close its file: no reader is inside. */
void seg_store_drop(struct seg_store *s, uint32_t no);

/* The tables of a sealed segment, from its footer or, when none could be
 * written, from its batches.  The caller frees them. */
int segment_load_tables(struct io_file *f, const struct seg_place *p,
                        struct seg_tables **out, struct err *err);

/* segment_ops of runset.h: arg is the struct seg_store. */
int
seg_store_walk(void *arg, uint32_t seg, uint64_t after_seq, uint64_t upto_seq,
               int (*fn)(void *fn_arg, const struct seg_entry *se),
               void *fn_arg, struct err *err);
int seg_store_read_chunk(void *arg, uint32_t seg, uint32_t chunk, uint8_t *out,
                         uint32_t *out_len, struct err *err);
int seg_store_locate(void *arg, uint32_t seg, uint32_t chunk, uint32_t off,
                     uint32_t len, struct seg_slice *out, struct err *err);
void seg_store_put(void *arg, struct seg_slice *s);
void seg_store_suspect(void *arg, uint32_t seg);
/* One that was suspected and is not any more: its number; false: none. */
bool seg_store_suspected(struct seg_store *s, uint32_t *out_no);

/* Read and check a whole segment as a scrub does: header, every batch with its
 * bodies and chain, footer against the batches.  bad(arg, sentence) for each
 * damage; returns how many, or negative errno when it cannot be read at all. */
struct seg_hurt { /* what entry seq wrote there is damaged */
    uint64_t seq;
    uint16_t vol;
    uint64_t off, len; /* bytes */
    bool all;          /* not known what, nor of those behind it */
};
struct seg_verify {
    uint64_t batches, chunks, bytes;
    void (*bad)(void *arg, const char *what);
    void (*hurt)(void *arg, const struct seg_hurt *h); /* may be NULL */
    void *arg;
    bool mend; /* write a damaged footer anew when all batches are sound */
};
int segment_verify(struct io_loop *loop, const char *dir,
                   const struct seg_place *p, struct seg_verify *v);

#endif
