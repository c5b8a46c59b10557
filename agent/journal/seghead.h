/* Where each payload of a batch lies, and its checksum: what a batch's tables
 * say, in a form small enough to keep for many batches.
 *
 * A chunk that is stored raw need not be read whole: a payload that lies in it
 * as a whole has a checksum of its own, made at the source when the write was
 * received (I11).  So a random 4 KiB read costs 4 KiB and not 64.
 */
#ifndef HOLDFAST_JOURNAL_SEGHEAD_H
#define HOLDFAST_JOURNAL_SEGHEAD_H

#include "common/list.h"
#include "lane/batch.h"

struct seg_head {
    struct list lru; /* the owner's */
    void *owner;
    uint32_t batch, n_chunks, n_slices;
    size_t bytes;     /* of memory */
    uint8_t *chunks;  /* BATCH_CHUNK_SIZE each, body_off as given */
    uint32_t *first;  /* n_chunks + 1: slices of chunk i */
    uint32_t *crc;    /* of each slice */
    uint8_t *start;   /* in blocks of 512 inside its chunk */
    uint8_t *len_min; /* length - 1 */
};

/* From the tables of a checked batch; rebase is added to every body_off.  NULL:
 * no memory. */
struct seg_head *
seg_head_new(const uint8_t *entries, uint32_t n_entries, const uint8_t *chunks,
             uint32_t n_chunks, uint32_t rebase);
void seg_head_free(struct seg_head *h);
/* The part of a chunk to read for [off, off + len) of it, bytes: the payload
 * that holds it, or (compressed, or parts of several) the whole chunk. */
struct seg_part {
    struct lane_chunk chunk;
    bool whole;
    uint32_t off, len; /* of the raw chunk; whole: all of it */
    uint32_t crc;      /* of those bytes; whole: see chunk */
};
void seg_head_find(const struct seg_head *h, uint32_t chunk, uint32_t off,
                   uint32_t len, struct seg_part *out);

#endif
