/* The replica: one sparse image a volume, as of PROMOTED.
 *
 * Written by promotion and by straight writes of an initial sync (datapath.md
 * 5.2), read by views below their runs.  Direct I/O where the file system has
 * it.  Ranges whose content is unknown (DIRTY entries that were promoted) are
 * kept in a map and read as EIO until something is written there.
 *
 * The blocking calls are for workers and may run together, but two writers of
 * one range exclude each other by the rules in jindex.c.
 */
#ifndef HOLDFAST_JOURNAL_REPLICA_H
#define HOLDFAST_JOURNAL_REPLICA_H

#include "io/file.h"
#include "journal/journal.h"

struct replica;

int replica_open(struct io_loop *loop, const char *dir,
                 const struct journal_volume *vols, unsigned n,
                 struct replica **out, struct err *err);
void replica_close(struct replica *r);
uint64_t
replica_volume_size(const struct replica *r, uint16_t vol); /* 0: none */
uint64_t replica_bytes(struct replica *r); /* allocated on disk */

/* off, len: multiples of 512 inside the volume. */
int replica_read(struct replica *r, uint16_t vol, void *buf, uint64_t len,
                 uint64_t off, struct err *err);
/* buf: page-aligned; NULL: zeros, by punching. */
int replica_write(struct replica *r, uint16_t vol, const void *buf,
                  uint64_t len, uint64_t off, struct err *err);
int replica_sync(struct replica *r, struct err *err); /* all volumes */
/* For callers that read or write many places at once by requests of their own:
 * the file, when a transfer suits it as it is and would wait for a disk; NULL:
 * replica_read(), replica_write() do better.  Before reading by request ask
 * replica_check(); after writing by request tell replica_written(). */
struct io_file *replica_direct(struct replica *r, uint16_t vol, const void *buf,
                               uint64_t len, uint64_t off, bool write);
int replica_check(struct replica *r, uint16_t vol, uint64_t len, uint64_t off,
                  struct err *err);
int replica_written(struct replica *r, uint16_t vol, uint64_t len, uint64_t off,
                    struct err *err);
int replica_error(struct replica *r, uint16_t vol, int rc, const char *what,
                  uint64_t off, struct err *err);
/* Extents as of the replica alone. */
int replica_extents(struct replica *r, uint16_t vol, uint64_t off, uint64_t len,
                    struct io_extent *out, size_t max);
/* From now on unknown. */
int
replica_mark_bad(struct replica *r, uint16_t vol, uint64_t off, uint64_t len);
/* The unknown parts of a range, at most max; returns how many there are. */
size_t replica_bad_parts(struct replica *r, uint16_t vol, uint64_t off,
                         uint64_t len, struct io_extent *out, size_t max);

#endif
