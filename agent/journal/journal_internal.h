/* The inside of a journal, shared by journal.c (life, tail, questions),
 * commit.c (append, group commit, segments), care.c, recover.c, retention.c
 * and space.c.
 * Loop's thread, except where a job says otherwise. */
#ifndef HOLDFAST_JOURNAL_JOURNAL_INTERNAL_H
#define HOLDFAST_JOURNAL_JOURNAL_INTERNAL_H

#include "journal/damage.h"
#include "journal/jindex.h"
#include "journal/manifest.h"
#include "journal/points.h"
#include "journal/reserve.h"
#include "journal/segment.h"

enum {
    JOURNAL_IOV = 64,
    JOURNAL_DIGESTS = 1024, /* of the newest batches, to know duplicates */
    JOURNAL_FREE_FILES = 2, /* kept for the next segments */
    JOURNAL_VIEWS_MAX = 1024,
    JOURNAL_RECYCLE = 64, /* segments in one go */
    JOURNAL_SYNCS = 8,    /* in flight on one disk */
    JOURNAL_HOLES = 16,
};
#define JOURNAL_CREDIT  (8 * MIB)
#define JOURNAL_TICK_NS (NSEC_PER_SEC)

struct jbatch {
    struct list link;
    uint8_t *bytes; /* owned; mem_size */
    size_t mem_size, disk_size;
    struct batch_view v;
    uint8_t digest[16];
    uint64_t off, room; /* room: see jsegment */
};

/* A segment that takes, or took, batches. */
struct jsegment {
    struct list link; /* journal.sealing */
    struct seg_header header;
    struct io_file *file;      /* the store's */
    struct seg_tables *tables; /* the store's */
    uint64_t end;              /* planned, as are the counts */
    uint32_t batches, entries, chunks, cuts;
    uint64_t born_ns;
    uint64_t room; /* what promoting its batches may allocate in the replica */
    /* sealing: */
    bool hurt; /* damage lies behind its batches: the file stays as it is */
    bool no_footer; /* it refuses to be written */
    bool footer_done;
    uint64_t footer_off;
    uint32_t offer;
    uint64_t last_batch, last_seq;
};

struct jwaiter {
    struct list link;
    uint64_t upto; /* records of the manifest */
    int res;       /* to answer with, once durable */
    void (*done)(void *arg, int res);
    void *arg;
};

struct jopening { /* making the next segment; a worker job */
    bool active;
    struct io_work work;
    struct seg_header header;
    uint32_t recycle_no;
    bool recycle, drop; /* drop: too small, its file goes */
    uint64_t reserve;
    struct io_file *file;
    int res;
    struct err err;
    struct journal *j;
    struct jsegment *made;
    unsigned failures;
};

struct jcare { /* footers and the points file; one job at a time */
    bool active;
    struct io_work work;
    struct journal *j;
    struct jsegment *seal; /* may be NULL */
    bool rewrite, sync;
    struct points_header head;
    struct point_rec *recs; /* to append, or all (rewrite) */
    size_t n_recs, n_live;
    uint64_t at; /* record number of the first */
    uint32_t gen;
    int seal_res, points_res;
    bool given; /* of the reserve: try at once */
    struct err err;
};

/* What a check of one segment found. */
struct jhurts {
    struct seg_hurt h[512]; /* then all of the rest */
    size_t n;
};

struct jdamage {
    struct damage_map *map; /* the walk's, while walking */
    struct damage_span *spans;
    size_t n_spans;
    bool dirty; /* walk again from the beginning */
    uint64_t promoted, at_ns;
    size_t n_bad;
    bool walking;
    struct io_work work;
    struct seg_store *store;
    uint32_t *segs;
    size_t n_segs, next_seg;
    uint64_t to;
    int res;
};

struct jgrow { /* of the reserve; one job at a time */
    bool active, must;
    struct journal *j;
    struct io_work work;
    uint64_t want, less;
    int res;
    struct err err;
    uint64_t failed_ns; /* 0: the last one did not */
    bool other, told;   /* it failed, but not for space */
};

struct jretain {
    bool active;
    bool pressed; /* by size or space, not by age */
    uint64_t to_seq;
    struct man_floor floor;
    bool set_floor;
    uint64_t failed_at_ns; /* try again later */
    bool full;             /* that was for want of space */
    unsigned failures;
};

/* See degraded.c. */
struct jhole {
    uint64_t from, until; /* entries between are lost, or built on lost ones */
};
struct jlost { /* a sealed segment of which only the beginning is there */
    uint32_t seg;
    uint64_t last_seq; /* of that */
    bool nothing;
};
struct jdegraded {
    bool on;
    bool open;  /* the last hole has no end yet */
    bool begun; /* RESYNC_BEGIN lies behind it */
    struct jhole holes[JOURNAL_HOLES];
    size_t n_holes;
    uint32_t offer_before; /* of the open one */
    struct jlost *lost;
    size_t n_lost;
    size_t lost_points;
    struct err why; /* of the first */
};

/* Lanes that share a disk take turns, so that syncs in flight, and the kernel's
 * threads for them, stay bounded (datapath.md 3.3). */
struct jturns {
    struct list link;
    struct io_loop *loop;
    unsigned disk, refs;
    unsigned active, peak;
    unsigned giving;     /* lanes that promote on a full disk */
    struct list waiting; /* journal.turn_link */
};

struct journal {
    struct journal_config cfg;
    struct journal_events ev;
    struct io_loop *loop;
    char *dir;
    struct list registry; /* of all journals of the process */
    uint64_t up_base, up_mono;

    struct manifest man;
    bool man_loaded, man_busy, man_rewrite, man_given;
    unsigned man_failures;
    struct manifest_job man_job;
    struct io_work man_work;
    int man_res;
    struct err man_err;
    struct list man_waiters;

    struct seg_store *segs;
    struct points points;
    struct io_file *points_file; /* the care job's */
    struct jindex *ix;

    /* Received: where the next batch must continue. */
    uint64_t rx_batch, rx_seq;
    uint8_t rx_digest[16];
    /* Durable: what journal_tail() tells. */
    uint64_t d_batch, d_seq;
    uint8_t d_digest[16];
    uint32_t offer;
    struct {
        uint64_t no;
        uint8_t digest[16];
    } digests[JOURNAL_DIGESTS];

    struct list queue, inflight; /* struct jbatch */
    uint64_t unacked;            /* bytes in both */
    bool writing;
    unsigned write_failures;
    struct io_req req;
    struct iovec iov[JOURNAL_IOV];
    struct jsegment *open;
    struct jopening opening;
    struct list sealing; /* struct jsegment, oldest first */
    struct jcare care;
    uint64_t seg_size; /* of the next one */
    uint32_t free_files[JOURNAL_FREE_FILES];
    uint64_t free_sizes[JOURNAL_FREE_FILES];
    unsigned n_free;
    uint64_t used; /* bytes of segments */

    /* A new incarnation waits for the queue to drain. */
    bool inc_pending;
    struct incarnation_id inc_next;
    void (*inc_done)(void *arg, int res);
    void *inc_arg;

    struct reserve *reserve;
    struct jgrow grow;
    uint64_t replica_lacks;        /* bytes that are not allocated in it */
    _Atomic uint64_t reserve_keep; /* what promotion leaves of it */
    bool giving;                   /* counted in turns->giving */

    struct jdegraded deg;
    uint64_t recover_bytes; /* read from segments at the start */
    struct jretain retain;
    struct list withdrawals; /* struct withdrawal, in retention.c */
    struct scrub *scrub;     /* the running one */
    struct jturns *turns;
    struct list turn_link;
    struct io_timer tick;
    bool recycling;
    bool told_zero; /* credit() has said 0 */
    bool stopped, no_space, at_limit, warned, short_told;
    bool full_told; /* JNL-0009, until the disk gives a segment again */
    enum journal_held held;
    bool given_up; /* points were withdrawn to make room; until the next one */
    struct err stop_err;
    struct io_task plant; /* JOURNAL_PLANT_ACK_BEFORE_SYNC */
    struct io_timer plant_hold;
    uint64_t planted_told;

    unsigned jobs; /* that must end before close */
    bool closing, close_logged, ix_closing;
    void (*closed)(void *arg);
    void *closed_arg;

    void (*opened)(void *arg, struct journal *j, int res, const struct err *err);
    void *opened_arg;
    struct io_work open_work;
    int open_res;
    struct err open_err;
    struct scrub *check; /* of something suspect */
    struct jdamage damage;
    bool recovering, ready, runs_suspect, man_afresh;
    struct err found;  /* for an alert once it is open */
    uint64_t short_ns; /* when history was cut short last */

    struct journal_stats st;
};

uint64_t journal_up_ns(const struct journal *j);
void journal_alert(struct journal *j, const struct err *err);
void journal_settled(struct journal *j, enum err_code code);
void journal_stop(struct journal *j, const struct err *why);
void journal_job_done(struct journal *j); /* may continue a close */

/* Add a record to the manifest; a failure stops the journal. */
void journal_log(struct journal *j, const struct man_rec *r);
/* All that was added so far is durable: done(arg, 0).  done may be NULL. */
void
journal_log_sync(struct journal *j, void (*done)(void *arg, int res), void *arg);

/* Take back the BAD records of what has been written since. */
void journal_log_good(struct journal *j);

/* commit.c */
void journal_commit_kick(struct journal *j);
void journal_credit_changed(struct journal *j);
bool journal_commit_idle(const struct journal *j);
/* Close a segment that has been open for long, so that what is in it can age
 * out. */
void journal_seal_aged(struct journal *j);
int journal_turns_join(struct journal *j);
void journal_turns_leave(struct journal *j);
/* What a durable batch means for the tail and the checkpoints; at recovery
 * too, there without the loop. */
int journal_note_batch(struct journal *j, const struct batch_view *v,
                       const uint8_t digest[16], struct err *err);

/* care.c */
void journal_care_kick(struct journal *j);
void journal_seal_later(struct journal *j, struct jsegment *s);

/* scrub.c: one segment, or (NULL) all runs. */
void journal_check(struct journal *j, const uint32_t *seg);

/* care_damage.c */
void journal_damage_load(struct journal *j);
void journal_damage_release(struct journal *j);
void journal_damage_tick(struct journal *j);
bool journal_seq_damaged(const struct journal *j, uint64_t seq);
void journal_damage_hurt(void *hurts, const struct seg_hurt *h);
/* A segment was verified: that is bad of it, and no more. */
void
journal_damage_found(struct journal *j, uint32_t no, const struct jhurts *v);
bool journal_drop_run(struct journal *j, const struct run_info *info);
void journal_write_afresh(struct journal *j, bool points);

/* degraded.c */
void journal_hole_open(struct journal *j, uint64_t from, const struct err *why);
void journal_hole_entry(struct journal *j, enum entry_type type, uint64_t seq);
bool journal_in_hole(const struct journal *j, uint64_t seq);
bool journal_sync_wanted(const struct journal *j);
int journal_lost_add(struct journal *j, const struct jlost *l);
const struct jlost *journal_lost(const struct journal *j, uint32_t seg);
void journal_degraded_judge(struct journal *j);
void journal_degraded_release(struct journal *j);
void journal_go_on(struct journal *j, bool resent);

/* recover.c, on a worker. */
int journal_recover(struct journal *j, struct err *err);

/* retention.c */
void journal_retain(struct journal *j);
void journal_recycle(struct journal *j);
void journal_withdraw_go(struct journal *j);
void journal_tell_given_up(struct journal *j);

/* space.c */
static inline bool
journal_no_space_error(int rc)
{
    return rc == -ENOSPC || rc == -EDQUOT;
}
uint64_t journal_hard_limit(const struct journal *j); /* in force; 0: none */
enum journal_held journal_stands(const struct journal *j);
void journal_held_set(struct journal *j, enum journal_held held);
uint64_t journal_batch_room(const struct batch_view *v);
uint64_t journal_tables_room(const struct seg_tables *t);
uint64_t journal_reserve_want(const struct journal *j);
uint64_t journal_reserve_left(const struct journal *j);
/* Does the reserve hold what s (NULL: a new segment) and `room` more may need? */
bool
journal_covers(const struct journal *j, const struct jsegment *s, uint64_t room);
enum journal_cover {
    COVER_YES,
    COVER_LATER, /* journal_commit_kick() comes */
    COVER_NO,    /* journal_no_space() has been called */
};
/* The same, and makes it grow. */
enum journal_cover
journal_cover(struct journal *j, const struct jsegment *s, uint64_t room);
void journal_replica_changed(struct journal *j);
void journal_grow_again(struct journal *j); /* space may have become free */
/* A piece of the reserve for promotion; any thread. */
bool journal_give(void *arg, uint64_t bytes);
void journal_give_begin(struct journal *j);
void journal_give_end(struct journal *j);
void journal_space_tick(struct journal *j);
void journal_no_space(struct journal *j, struct err *why);
void journal_space_found(struct journal *j, bool from_disk);

#endif
