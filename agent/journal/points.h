/* The table of checkpoints: those that were offered and lie at or above FLOOR.
 *
 * docs/formats/points.md has the byte tables: a header and fixed 64-byte
 * records, appended without a sync and synced before the segment that holds
 * their cuts is sealed; what a crash loses is made again from the unsealed
 * segments.  Tags are in the manifest.  Age counts in time that this site was
 * up, so neither a clock step nor a stop empties the history.
 *
 * In memory an array by cut number; the wall clock is a label that may step
 * back, so a search by time is binary only while it did not.
 */
#ifndef HOLDFAST_JOURNAL_POINTS_H
#define HOLDFAST_JOURNAL_POINTS_H

#include "io/file.h"
#include "journal/journal.h"

enum {
    POINTS_VERSION = 1,
    POINTS_HEADER = 64,
    POINTS_REC = 64,
    POINTS_MAX = 1 << 26,
};
#define POINTS_MAGIC 0x74706648u /* "Hfpt" */

enum point_flags {
    POINT_TAGGED = 1 << 0
};

struct point_rec {
    uint64_t cut_no, seq, wall_ns;
    uint64_t up_ns; /* time of being up when it became durable here */
    uint8_t kind, consistency;
    uint16_t flags;
};
struct points_header {
    struct vpg_id vpg;
    uint32_t lane;
    uint32_t gen;    /* of the file, +1 at each rewrite */
    uint64_t synced; /* records that were synced when it was made */
};

void points_header_encode(const struct points_header *h, uint8_t *out);
int
points_header_decode(const uint8_t *p, size_t len, struct points_header *out);
/* gen ties a record to its file. */
void point_rec_encode(const struct point_rec *r, uint32_t gen, uint8_t *out);
int point_rec_decode(const uint8_t *p, size_t len, uint32_t gen,
                     struct point_rec *out);

struct points {
    struct point_rec *recs; /* live ones: from `first` on */
    size_t first, n, cap;
    bool wall_rises;
    uint32_t gen;
    uint64_t in_file; /* records written or being written */
    size_t unwritten; /* of recs + n, not yet handed to a write */
};

void points_release(struct points *p);
/* -EEXIST: not above the newest number or position; -ENOMEM. */
int points_add(struct points *p, const struct point_rec *r);
/* Forget those before seq. */
void points_drop_before(struct points *p, uint64_t seq);
void points_drop_after(struct points *p, uint64_t seq);
/* Those behind from and before until; how many. */
size_t points_drop_between(struct points *p, uint64_t from, uint64_t until);
size_t points_count(const struct points *p);
const struct point_rec *points_at(const struct points *p, size_t i);
const struct point_rec *points_find(const struct points *p, uint64_t cut_no);
/* The newest not after; NULL. */
const struct point_rec *points_by_wall(const struct points *p, uint64_t wall);
/* First index with wall_ns >= wall when walls rise, else 0. */
size_t points_lower(const struct points *p, uint64_t wall);
/* The oldest with seq >= seq; the newest with up_ns <= up; NULL. */
const struct point_rec *points_by_seq(const struct points *p, uint64_t seq);
const struct point_rec *points_by_age(const struct points *p, uint64_t up_ns);

/* Blocking.  synced, gen: what the last SEG_SEAL said; damage below it is
 * -EBADMSG, above it the table just ends.  A missing file is empty. */
int points_load(struct io_loop *loop, const char *dir,
                const struct points_header *id, uint32_t gen, uint64_t synced,
                struct points *out, struct err *err);
/* A fresh file with all that is live: tmp, sync, rename. */
int points_rewrite(struct io_loop *loop, const char *dir,
                   const struct points_header *h, const struct point_rec *recs,
                   size_t n, struct err *err);
int points_verify(struct io_loop *loop, const char *dir, uint32_t gen,
                  uint64_t synced, uint64_t *out_n, struct err *err);

#endif
