/* Views: the volumes of a lane as of a moment, each a block device with an
 * overlay for writes (datapath.md 3.4, 3.6).
 *
 * A read takes the overlay's blocks first, then the tables of its read set,
 * newest first, then the replica.  Reads and writes are worker jobs; the loop's
 * thread decides what overlaps (writes of one range run one after the other,
 * and copying a partial block up is part of the write), which read set a
 * request uses, and which blocks the overlay holds.
 */
#ifndef HOLDFAST_JOURNAL_VIEW_H
#define HOLDFAST_JOURNAL_VIEW_H

#include "journal/fetch.h"
#include "journal/jindex.h"
#include "journal/overlay.h"
#include "journal/replica.h"

enum {
    VIEW_CACHE_CHUNKS = 64, /* of 64 KiB, inflated: 4 MiB a view */
    VIEW_FETCH = 1024 * 1024,
};

/* What a volume held as of a read set: the tables, then the replica.  set NULL:
 * the replica alone.
 *
 * set_fetch: add a front part of the range to a fetch; *out_len: how much,
 * less than len when it became full.  set_read: the whole range, blocking.  Any
 * thread, one fetch each. */
int set_fetch(struct read_set *set, struct fetch *f, uint16_t vol, void *buf,
              uint64_t len, uint64_t off, uint64_t *out_len, struct err *err);
int set_read(struct read_set *set, struct fetch *f, uint16_t vol, void *buf,
             uint64_t len, uint64_t off, struct err *err);
/* Extents of the same: data unless known to be zeros. */
int set_extents(struct read_set *set, struct replica *r, uint16_t vol,
                uint64_t off, uint64_t len, struct io_extent *out, size_t max);

struct view_env { /* what views share; owned by jindex.c */
    struct io_loop *loop;
    const char *dir;
    struct replica *replica;
    struct segment_ops seg;
    struct jindex_ops ops;
};

/* Blocking part, on a worker: overlays are created or opened, set is taken over
 * (NULL: a based view), also on failure. */
int view_prepare(const struct view_env *env, const struct view_record *rec,
                 bool create, struct read_set *set, struct journal_view **out,
                 struct err *err);
/* A view that could not be opened again: every request fails. */
struct journal_view *
view_new_broken(const struct view_env *env, const struct view_record *rec,
                const struct err *why);
void view_free(struct journal_view *v); /* idle; keeps the files */
void view_remove_files(const struct view_env *env,
                       const struct view_record *rec); /* worker */

/* Loop's thread. */
struct view_record *view_record(struct journal_view *v);
struct list *view_link(struct journal_view *v);
struct journal_view *view_of_link(struct list *l);
bool view_is_broken(const struct journal_view *v);
/* New requests use the other set from now on (the reference is taken over);
 * NULL: overlay and replica only. */
void view_switch(struct journal_view *v, struct read_set *set);
const struct read_set *view_set(const struct journal_view *v);
/* Requests fail with EIO from now on; the first reason stays. */
void view_break(struct journal_view *v, const struct err *why);
uint64_t view_overlay_bytes(const struct journal_view *v);
/* done(), later, when every request begun before this call has ended; flushes:
 * and no flush is under way.  One at a time. */
void view_drain(struct journal_view *v, bool flushes, void (*done)(void *arg),
                void *arg);

/* Copy what a group will change into the overlays where they hold nothing yet,
 * and flush them.  group: the records of the promotion (a reference is taken).
 * done(res): -ENOSPC, -EIO...: the view must break. */
void view_convert(struct journal_view *v, struct read_set *group,
                  void (*done)(void *arg, int res, const struct err *err),
                  void *arg);

#endif
