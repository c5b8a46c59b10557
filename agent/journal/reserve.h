/* The reserve: blocks of the store that belong to the journal and hold nothing,
 * so that a store which somebody else has filled does not keep promotion from
 * freeing segments (datapath.md 3.3).
 *
 * A few preallocated files, `reserve.N` in the journal's directory.  They grow
 * with the lane: what the replica may have to allocate for the largest segment
 * that is not promoted, twice, and what the manifest and the table of
 * checkpoints take when they are written afresh.  They are given up from their
 * ends, piece by piece, by whoever was told that there is no space.  Promoted
 * segments are renamed to make it whole again: blocks that went back to the
 * file system first could be taken by others.  The sizes of the files are all
 * that is known: a crash at any moment leaves a reserve, only perhaps a smaller
 * one.
 */
#ifndef HOLDFAST_JOURNAL_RESERVE_H
#define HOLDFAST_JOURNAL_RESERVE_H

#include "io/file.h"

struct reserve;

enum {
    RESERVE_FILES = 16,
    RESERVE_ALIGN = 4096, /* of what is given up: what nobody uses others take */
};

/* As it was left; blocking. */
int reserve_new(struct io_loop *loop, const char *dir, struct reserve **out,
                struct err *err);
void reserve_free(struct reserve *r);
uint64_t reserve_size(struct reserve *r); /* any thread */
/* Any thread, blocking: at least `bytes` go back to the file system, as far as
 * `keep` stays.  False: nothing was left above `keep`. */
bool reserve_give(struct reserve *r, uint64_t bytes, uint64_t keep);
/* Make it `size` bytes; blocking.  -ENOSPC leaves it as it was. */
int reserve_set(struct reserve *r, uint64_t size, struct err *err);
/* The file at path becomes a part of it; blocking.  False: it stays. */
bool reserve_take(struct reserve *r, const char *path);

#endif
