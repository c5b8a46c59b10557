/* Promotion: the folded records of a read set (PROMOTED, K] written to the
 * replica, in bounded steps.
 *
 * Records are taken in key order, PROMOTE_RECORDS at a time; those are sorted
 * by their place in the log, chunks are read and verified once each, in log
 * order, into a buffer of PROMOTE_BUFFER bytes, and the buffer is written out
 * in offset order, neighbours joined.  Zeros are punched.  Doing it again is
 * harmless.  Blocking; one step a worker job.
 */
#ifndef HOLDFAST_JOURNAL_PROMOTE_H
#define HOLDFAST_JOURNAL_PROMOTE_H

#include "journal/fetch.h"

enum {
    PROMOTE_BUFFER = 4 * 1024 * 1024,
    PROMOTE_FETCH = 3 * 1024 * 1024,
    PROMOTE_RECORDS = 128 * 1024, /* 24 bytes each */
    PROMOTE_WRITES = 64,          /* in flight */
    PROMOTE_IO = 2,
    PROMOTE_WRITE = 1024 * 1024, /* of one write to the replica */
};

struct promotion;

/* Takes a reference on set.  room (any thread; may be NULL) is asked when the
 * disk is full: true, there may be space for so many bytes now. */
int
promotion_new(struct read_set *set, const struct segment_ops *seg,
              struct replica *replica, bool (*room)(void *arg, uint64_t bytes),
              void *room_arg, struct promotion **out);
/* 1: more to do; PROMOTE_IO: promotion_io() comes first; 0: everything is written and synced; negative errno. */
int promotion_step(struct promotion *p, struct err *err);
/* On the loop's thread; done() later, then the next step. */
void promotion_io(struct promotion *p, void (*done)(void *arg), void *arg);
/* Ranges that became unknown (DIRTY): to be recorded before PROMOTED. */
const struct ext_rec *promotion_bad(const struct promotion *p, size_t *out_n);
uint64_t promotion_bytes(const struct promotion *p);
void promotion_free(struct promotion *p);

#endif
