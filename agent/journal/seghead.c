/* Payloads of a batch: see seghead.h. */
#include "journal/seghead.h"

#include <stdlib.h>
#include <string.h>

enum {
    SECTOR = 512
};

static struct seg_head *
head_alloc(uint32_t n_chunks, uint32_t n_slices)
{
    size_t bytes = sizeof(struct seg_head) +
                   (size_t)n_chunks * (BATCH_CHUNK_SIZE + sizeof(uint32_t)) +
                   sizeof(uint32_t) + (size_t)n_slices * (sizeof(uint32_t) + 2);
    struct seg_head *h = calloc(1, bytes);
    uint8_t *p;

    if (!h)
        return NULL;
    list_init(&h->lru);
    h->bytes = bytes;
    h->n_chunks = n_chunks;
    h->n_slices = n_slices;
    /* The words first: they are aligned behind the struct. */
    h->first = (uint32_t *)(void *)(h + 1);
    h->crc = h->first + n_chunks + 1;
    p = (uint8_t *)(h->crc + n_slices);
    h->chunks = p;
    h->start = p + (size_t)n_chunks * BATCH_CHUNK_SIZE;
    h->len_min = h->start + n_slices;
    return h;
}

/* Does the payload lie in one chunk of the batch? */
static bool
is_slice(const struct lane_entry *e, const uint8_t *chunks, uint32_t n_chunks)
{
    struct lane_chunk c;

    if (e->chunk >= n_chunks || e->len512 == 0)
        return false;
    lane_chunk_decode(chunks + (size_t)e->chunk * BATCH_CHUNK_SIZE, &c);
    return c.raw_len <= BATCH_CHUNK_RAW_MAX &&
           range_ok((uint64_t)e->chunk_off512 * SECTOR,
                    (uint64_t)e->len512 * SECTOR, c.raw_len);
}

struct seg_head *
seg_head_new(const uint8_t *entries, uint32_t n_entries, const uint8_t *chunks,
             uint32_t n_chunks, uint32_t rebase)
{
    uint32_t at[BATCH_CHUNKS_MAX] = { 0 }, n = 0;
    struct lane_entry e;
    struct seg_head *h;

    if (n_chunks > BATCH_CHUNKS_MAX)
        return NULL;
    for (uint32_t i = 0; i < n_entries; i++) {
        lane_entry_decode(entries + (size_t)i * BATCH_ENTRY_SIZE, &e);
        if (is_slice(&e, chunks, n_chunks)) {
            at[e.chunk]++;
            n++;
        }
    }
    h = head_alloc(n_chunks, n);
    if (!h)
        return NULL;
    for (uint32_t i = 0; i < n_chunks; i++) {
        struct lane_chunk c;

        lane_chunk_decode(chunks + (size_t)i * BATCH_CHUNK_SIZE, &c);
        c.body_off += rebase;
        lane_chunk_encode(&c, h->chunks + (size_t)i * BATCH_CHUNK_SIZE);
        h->first[i + 1] = h->first[i] + at[i];
        at[i] = h->first[i];
    }
    for (uint32_t i = 0; i < n_entries; i++) {
        uint32_t k;

        lane_entry_decode(entries + (size_t)i * BATCH_ENTRY_SIZE, &e);
        if (!is_slice(&e, chunks, n_chunks))
            continue;
        k = at[e.chunk]++;
        h->crc[k] = e.crc;
        h->start[k] = (uint8_t)e.chunk_off512;
        h->len_min[k] = (uint8_t)(e.len512 - 1);
    }
    return h;
}

void
seg_head_free(struct seg_head *h)
{
    free(h);
}

void
seg_head_find(const struct seg_head *h, uint32_t chunk, uint32_t off,
              uint32_t len, struct seg_part *out)
{
    *out = (struct seg_part){ .whole = true };
    lane_chunk_decode(h->chunks + (size_t)chunk * BATCH_CHUNK_SIZE, &out->chunk);
    out->len = out->chunk.raw_len;
    if (out->chunk.codec != CHUNK_STORED)
        return;
    for (uint32_t i = h->first[chunk]; i < h->first[chunk + 1]; i++) {
        uint32_t start = (uint32_t)h->start[i] * SECTOR,
                 size = ((uint32_t)h->len_min[i] + 1) * SECTOR;

        if (off < start || !range_ok(off - start, len, size))
            continue;
        out->whole = false;
        out->off = start;
        out->len = size;
        out->crc = h->crc[i];
        return;
    }
}
