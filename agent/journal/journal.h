/* The journal of one lane at the recovery site: the durable log of its batches,
 * the index over it, the checkpoints, the replica, and views of any moment.
 *
 * docs/formats/{journal,run,manifest,points}.md have the byte tables; section 3
 * of docs/architecture.md the life of a segment.  Invariants I8 to I16.
 *
 * Directory of a journal:
 *   manifest, manifest.old     what exists (append-only records)
 *   points                     the checkpoints, fixed records
 *   seg.NNNNNNNN               segments of batches, recycled
 *   run.L.NNNNNNNN             index runs of level L
 *   replica.VVV                one image a volume, sparse, as of PROMOTED
 *   view.<id>.*                overlay and record of an open view
 *
 * Everything here is on the loop's thread; what blocks runs in worker jobs.
 * Completions come later, never inside the call.
 */
#ifndef HOLDFAST_JOURNAL_JOURNAL_H
#define HOLDFAST_JOURNAL_JOURNAL_H

#include "io/blkdev.h"
#include "lane/batch.h"

struct journal;
struct journal_view;

struct journal_volume {
    uint16_t vol;
    uint64_t size; /* bytes, multiple of 512 */
};

struct journal_config {
    struct io_loop *loop;
    const char *dir;
    struct vpg_id vpg;
    uint32_t lane;
    struct journal_volume volumes[LANE_VOLUMES_MAX];
    unsigned n_volumes;
    uint64_t history_ns;       /* retention by age */
    uint64_t hard_limit_bytes; /* segments and runs; 0: none.  At the limit
                                * history is cut short (promotion), and views
                                * that pin it are converted or broken */
    uint64_t warn_bytes;
    /* When the limit is too small to reach the next checkpoint: give up the
     * points without asking (datapath.md 5.2, resync_full). */
    bool overwrite_full;
    uint64_t disk_reserve_bytes; /* keep this much free on the disk; 0: 256 MiB
                                  * or 1 % of it, the smaller */
    uint64_t segment_min, segment_max; /* 0: 4 MiB and 64 MiB */
    unsigned merge_fan;                /* 0: 8 */
    /* A segment takes batches for this long at most, so that retention by age
     * (whole segments) works for a lane that hardly writes.  0: a 16th of the
     * history, 1 minute to 1 hour. */
    uint64_t seal_age_ns;
    uint64_t manifest_rewrite; /* bytes; 0: 4 MiB */
    /* Lanes of one loop with the same number share a disk: at most 8 syncs are
     * in flight on it, and they take turns. */
    unsigned disk;
    /* Tests of the tests: plant a bug.  0 in the product. */
    unsigned planted;
};
enum journal_planted {
    JOURNAL_PLANT_ACK_BEFORE_SYNC = 1 << 0,
    JOURNAL_PLANT_ARRIVAL_ORDER = 1 << 1,
};

struct journal_events {
    /* Batches up to batch_no are on stable storage (I9): send DURABLE. */
    void (*durable)(void *arg, uint64_t batch_no);
    /* More credit than told last. */
    void (*credit)(void *arg);
    /* Something a person should know: history cut short, a view broken, damage,
     * a stop.  err carries code and sentence. */
    void (*alert)(void *arg, const struct err *err);
    /* What an alert with this code told is over.  May be NULL. */
    void (*settled)(void *arg, enum err_code code);
    void *arg;
};

/* Open or create.  Recovery scans the tail on a worker; opened() follows on the
 * loop's thread with 0 and the journal, or an error: -EPROTONOSUPPORT (newer
 * version, untouched), -EBADMSG (damage that must not be guessed at, I16),
 * -EBUSY, -EINVAL (volumes differ from those recorded).
 * Damaged or missing segments do not keep it closed: what lies before them is
 * offered, the rest is not and stays as it is; an alert (JNL-0020) tells, and
 * journal_stats().degraded until the source goes on. */
void journal_open(const struct journal_config *cfg,
                  const struct journal_events *events,
                  void (*opened)(void *arg, struct journal *j, int res,
                                 const struct err *err),
                  void *arg);
/* Stops taking batches, finishes what is in flight, closes; closed(arg). Open
 * views must have been closed. */
void journal_close(struct journal *j, void (*closed)(void *arg), void *arg);
/* Remove everything, or (keep_replicas) all but the replica images and what is
 * called kept*.  They are as of PROMOTED: journal_withdraw_points() first makes
 * that the newest.  After journal_close(); blocking, for a worker. */
int journal_destroy(struct io_loop *loop, const char *dir, bool keep_replicas,
                    struct err *err);
/* New limits while in use. */
void journal_set_limits(struct journal *j, uint64_t history_ns,
                        uint64_t hard_limit_bytes, uint64_t warn_bytes);
void journal_set_overwrite(struct journal *j, bool overwrite_full);

/* --- the lane's tail ---------------------------------------------------- */

struct journal_tail {
    bool any; /* an incarnation is known */
    struct incarnation_id incarnation;
    uint64_t durable_batch; /* of that incarnation */
    uint8_t digest[16];     /* chain digest at it */
    uint64_t durable_seq;
    /* The same of all that has been taken: it becomes durable, or the journal
     * stops. */
    uint64_t taken_batch, taken_seq;
    uint32_t fencing_epoch; /* highest met, durable */
    struct generation_id generation;
    bool in_resync;   /* behind the tail lies an open resync window */
    bool lost;        /* the log has a hole: nothing can be an exact restart */
    bool sync_wanted; /* and only a sync that is to begin yet ends it */
    bool offered_any; /* FLOOR is not "nothing offered" */
};
void journal_tail(const struct journal *j, struct journal_tail *out);

/* Durable before done(arg, res): a new incarnation (a new segment follows), a
 * higher fencing epoch, a generation. */
void
journal_begin_incarnation(struct journal *j, const struct incarnation_id *id,
                          void (*done)(void *arg, int res), void *arg);
void journal_set_fencing_epoch(struct journal *j, uint32_t epoch,
                               void (*done)(void *arg, int res), void *arg);

/* Append a batch: its bytes verbatim in memory from io_mem_alloc() of at least
 * round_up(size, 4096) bytes; taken over and freed by the journal.  The caller
 * has not verified anything: number, chain digest, CRCs are checked here (I8,
 * I11).
 * 0: taken.  -ESTALE: a duplicate whose digest matches (dropped).
 * -EBADMSG: damaged or of another history: the lane must stop.
 * -EAGAIN: beyond the credit.  -EROFS: the journal has stopped; err says why. */
int journal_append(struct journal *j, void *bytes, size_t size, size_t mem_size,
                   struct err *err);
/* Bytes of batches that may be sent beyond the last DURABLE (absolute). */
uint64_t journal_credit(const struct journal *j);

/* A straight write of an initial sync (datapath.md 5.2): not journalled, to the
 * replica.  buf: page-aligned, borrowed until done; NULL: zeros.
 * res -EAGAIN: PROMOTED is above after_seq, read it again (SYNC_AGAIN). */
struct journal_sync_write {
    uint16_t vol;
    uint64_t off, len;
    const void *buf;
    uint64_t after_seq;
    uint32_t crc; /* of buf, checked before writing */
    void (*done)(struct journal_sync_write *w, int res);
    /* private */
    struct list link;
    struct journal *journal;
    uint64_t priv[24];
};
void journal_sync_data(struct journal *j, struct journal_sync_write *w);
/* All straight writes completed so far are on stable storage: done(arg, 0). */
void journal_sync_flush(struct journal *j, void (*done)(void *arg, int res),
                        void *arg);
/* Before an initial sync over a journal that offers points: "nothing offered"
 * becomes durable, views are converted or broken, and all that was appended
 * before the call is promoted: reads consult the log first, so an entry of
 * before a GAP would hide straight writes of after it for ever. */
void journal_withdraw_points(struct journal *j,
                             void (*done)(void *arg, int res), void *arg);
/* The operator's answer to the question of a lane that stands (see enum
 * journal_held): its points are given up, and the journal is emptied into the
 * replica until the next checkpoint is offered.  -EBUSY (JNL-0019): it does not
 * stand.  The lane goes on by itself. */
int journal_overwrite(struct journal *j, struct err *err);

/* --- checkpoints -------------------------------------------------------- */

struct journal_point {
    uint64_t cut_no, seq, wall_ns;
    uint64_t age_ns; /* on this site's monotonic clock, downtime not counted */
    uint8_t kind, consistency; /* enum cut_kind */
    bool damaged;              /* data that it needs is known to be lost */
    char tag[BATCH_TAG_MAX + 1];
};

/* Offered points with from_ns <= wall_ns <= to_ns, oldest first: at most max
 * into out, skipping `skip`; returns the number written. */
size_t journal_points(const struct journal *j, uint64_t from_ns, uint64_t to_ns,
                      size_t skip, struct journal_point *out, size_t max);
size_t journal_points_count(const struct journal *j);
int journal_point_find(const struct journal *j, uint64_t cut_no,
                       struct journal_point *out); /* -ENOENT */
/* The newest offered point not after wall_ns; -ENOENT: none that old. */
int journal_point_at(const struct journal *j, uint64_t wall_ns,
                     struct journal_point *out);
int journal_point_oldest(const struct journal *j, struct journal_point *out);
int journal_point_newest(const struct journal *j, struct journal_point *out);
/* 0; -EUCLEAN: it needs damaged data, err names the range and a whole point.
 * Such a point can be opened; reads of the range fail. */
int journal_point_whole(const struct journal *j, const struct journal_point *p,
                        struct err *err);
/* Of all offered points; false: none is damaged. */
struct journal_damage {
    uint64_t points, first_cut, last_cut, first_wall_ns, last_wall_ns;
    bool newest;    /* the newest point is one of them */
    char what[160]; /* a range, in words */
};
bool journal_damage(const struct journal *j, struct journal_damage *out);

/* --- views -------------------------------------------------------------- */

/* Open the volumes of the lane as of a checkpoint, each with an overlay for
 * writes.  The view is recorded durably (PIN_ADD) and comes back after a
 * restart with what was flushed into its overlay; see journal_views().
 * opened: on the loop's thread; res -ENOENT (no such point), -ENOSPC. */
struct journal_view_config {
    struct view_id id;
    uint64_t cut_no;
    uint16_t vols[LANE_VOLUMES_MAX];
    unsigned n_vols;        /* 0: all */
    uint64_t overlay_limit; /* bytes; 0: none */
    uint8_t mode;           /* the manager's: Test, Mount; kept in the record */
};
void journal_view_open(struct journal *j, const struct journal_view_config *cfg,
                       void (*opened)(void *arg, struct journal_view *v,
                                      int res, const struct err *err),
                       void *arg);
/* The block device of a volume; borrowed until the view is closed. */
struct blkdev *journal_view_dev(struct journal_view *v, uint16_t vol);
const struct journal_view_config *
journal_view_config(const struct journal_view *v);
void journal_view_point(const struct journal_view *v, struct journal_point *out);
bool journal_view_broken(const struct journal_view *v, struct err *why);
/* Discard: devices must be unused (exports removed). closed(arg) afterwards;
 * nothing of it is left. */
void journal_view_discard(struct journal_view *v, void (*closed)(void *arg),
                          void *arg);
/* The views open now (after journal_open: those of before the restart). */
size_t journal_views(struct journal *j, struct journal_view **out, size_t max);

/* --- care --------------------------------------------------------------- */

/* Why a lane stands: what the journal holds lies behind the newest offered
 * checkpoint, so promotion would destroy it (I13, I21), and there is no room
 * for the entries that would bring the next one.  Until a person decides, or
 * there is room, the credit is 0 and that checkpoint stays offered. */
enum journal_held {
    JOURNAL_NOT_HELD,
    JOURNAL_HELD_BY_LIMIT, /* the hard limit */
    JOURNAL_HELD_BY_STORE, /* the store's disk */
};

struct journal_stats {
    uint64_t used_bytes, limit_bytes, replica_bytes, overlay_bytes;
    uint64_t batches, raw_bytes, stored_bytes; /* since open */
    uint64_t segments, runs, recycled, promotions, promoted_bytes;
    uint64_t syncs;
    uint64_t received_seq, durable_seq, promoted_seq, floor_cut;
    uint64_t history_ns; /* age of the oldest offered point */
    bool stopped;        /* takes no batches; the alert says why */
    bool full;           /* the store has no room for the next segment */
    enum journal_held held;
    uint64_t reserve_bytes; /* of the store, kept for promotion */
    bool degraded;          /* part of it is damaged: waits for its source */
};
void journal_stats(const struct journal *j, struct journal_stats *out);

struct journal_scrub_result {
    uint64_t segments, batches, chunks, runs, replicas, bytes, bad;
    unsigned percent;    /* of what there is to read */
    char first_bad[256]; /* file, offset, what */
};
/* Read everything and verify what has a checksum (replicas have none: they are
 * only read), at low priority; what is bad is told as alerts.  done() with the
 * result; -EBUSY, in the call: one is running. */
void journal_scrub(struct journal *j,
                   void (*done)(void *arg, int res,
                                const struct journal_scrub_result *r),
                   void *arg);
/* How far the running one is; false: none runs. */
bool journal_scrub_progress(const struct journal *j,
                            struct journal_scrub_result *out);
/* The same without a running journal, read-only; blocking. */
int journal_scrub_dir(struct io_loop *loop, const char *dir,
                      struct journal_scrub_result *out, struct err *err);
/* And each damage to tell() in words. */
int journal_scrub_files(struct io_loop *loop, const char *dir,
                        void (*tell)(void *arg, const char *what), void *arg,
                        struct journal_scrub_result *out, struct err *err);

#endif
