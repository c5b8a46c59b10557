/* Many places of the log and of the replica, read together.
 *
 * A fetch is filled with what is wanted (on a worker), its reads run, many at
 * once, from the loop, or one after the other where waiting is not worth it,
 * and then everything is verified and put in its place (on a worker again).
 * Neighbours in a segment are read in one go; of chunks stored raw only the
 * payloads that are wanted, each with its own checksum (seghead.h).  Nothing
 * that was not verified reaches its place (I11).
 *
 *   fetch_add(), fetch_add_replica() ... until full or done
 *   fetch_plan()
 *   fetch_read() blocking, or fetch_start() on the loop's thread and its done()
 *   fetch_finish()
 */
#ifndef HOLDFAST_JOURNAL_FETCH_H
#define HOLDFAST_JOURNAL_FETCH_H

#include "journal/replica.h"
#include "journal/runset.h"

/* Chunks inflated, bounded, any thread. */
struct chunk_cache;
struct chunk_cache *chunk_cache_new(size_t chunks);
void chunk_cache_free(struct chunk_cache *c);

struct fetch;

/* max_bytes: of what the reads bring in; keep_bytes: of memory that stays while
 * it is empty.  cache may be NULL.  NULL: no
 * memory. */
struct fetch *
fetch_new(const struct segment_ops *seg, struct replica *replica,
          struct chunk_cache *cache, size_t max_bytes, size_t keep_bytes);
void fetch_free(struct fetch *f); /* no read is in flight */

/* The content of a record with data, to dst.  -ENOBUFS: full, and nothing was
 * added: run it first.  It is never full when it is empty. */
int
fetch_add(struct fetch *f, const struct ext_rec *r, void *dst, struct err *err);
/* A stretch of the replica.  Stretches of one volume that follow each other may
 * be read in one go, over what lies between them in memory, up to the next
 * fetch_barrier(): what fetch_add() puts there comes later and wins. */
int fetch_add_replica(struct fetch *f, uint16_t vol, void *dst, uint64_t len,
                      uint64_t off, struct err *err);
void fetch_barrier(struct fetch *f);

int fetch_plan(struct fetch *f, struct err *err);
size_t fetch_reads(const struct fetch *f); /* how many there are to run */
bool fetch_waits(const struct fetch *f);   /* some would wait for a disk */
bool fetch_small(const struct fetch *f);   /* finishing it takes no time */
void fetch_read(struct fetch *f);
void fetch_start(struct fetch *f, void (*done)(void *arg), void *arg);
/* Verify, place, and empty it for the next round, also on failure. */
int fetch_finish(struct fetch *f, struct err *err);
/* Empty it without that. */
void fetch_drop(struct fetch *f);

#endif
