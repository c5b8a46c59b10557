/* The index half of a journal, as the storage half sees it: runs built in the
 * background, the replica, promotion into it, and views.
 *
 * The storage half owns segments, manifest, points and retention; the index
 * asks it through struct jindex_ops and owns no policy.  All calls on the
 * loop's thread; done() functions are called later, never inside the call.
 *
 * Life of a promotion to K (datapath.md 3.6):
 *   jindex_convert(K)   views that K would leave behind are made independent,
 *                       or broken; from here no view opens below K
 *   FLOOR durable       (storage)
 *   jindex_promote(K)   replica changed and synced
 *   PROMOTED durable    (storage)
 *   jindex_promoted(K)  reads switch to the shorter sets
 *   jindex_dead_runs() -> RUN_DEL durable -> jindex_delete_run()
 *   jindex_segment_free() -> recycled -> jindex_drop_segment()
 */
#ifndef HOLDFAST_JOURNAL_JINDEX_H
#define HOLDFAST_JOURNAL_JINDEX_H

#include "journal/journal.h"
#include "journal/runset.h"

struct jindex;

/* What a view's manifest record holds (PIN_ADD; VIEW_BASE changes base_seq). */
struct view_record {
    struct journal_view_config cfg; /* n_vols > 0 */
    struct journal_point point;
    uint64_t base_seq; /* 0: reads runs; else overlay, then replica only */
};

enum jindex_record_kind {
    JINDEX_RUN_ADD,   /* u.run */
    JINDEX_PIN_ADD,   /* u.view */
    JINDEX_PIN_DEL,   /* u.view: cfg.id */
    JINDEX_VIEW_BASE, /* u.view: cfg.id, base_seq */
    JINDEX_BAD,       /* u.bad: unreadable in the replica from now on */
};

struct jindex_record {
    enum jindex_record_kind kind;
    union {
        struct run_info run;
        const struct view_record *view; /* valid until done */
        struct {
            uint16_t vol;
            uint64_t off, len; /* bytes */
        } bad;
    } u;
};

struct jindex_ops {
    /* Make a record durable in the manifest, then done(). */
    void (*record)(void *arg, const struct jindex_record *r,
                   void (*done)(void *done_arg, int res), void *done_arg);
    void (*alert)(void *arg, const struct err *err);
    /* Segments may have become free: ask jindex_segment_free() again. */
    void (*released)(void *arg);
    /* Promotion, or the opening of a view, finds the disk full: make room for
     * about so many bytes, any thread; false: there is none.  May be NULL. */
    bool (*room)(void *arg, uint64_t bytes);
    void *arg;
};

struct jindex_config {
    struct io_loop *loop;
    const char *dir;
    struct vpg_id vpg;
    uint32_t lane;
    const struct journal_volume *volumes;
    unsigned n_volumes;
    unsigned merge_fan;     /* 0: 8 */
    struct segment_ops seg; /* any thread */
    struct jindex_ops ops;
};

/* Opens or creates the replica files (which exist, with the right sizes, or
 * -EINVAL): blocking, for the opening worker. */
int jindex_new(const struct jindex_config *cfg, struct jindex **out,
               struct err *err);
/* What the manifest told, in any order, before jindex_start(). */
int jindex_load_segment(struct jindex *ix, const struct seg_info *s);
int jindex_load_run(struct jindex *ix, const struct run_info *info);
int jindex_load_view(struct jindex *ix, const struct view_record *v);
int jindex_load_bad(struct jindex *ix, uint16_t vol, uint64_t off, uint64_t len);
/* Which parts of a range are unknown in the replica now. */
size_t jindex_bad_parts(struct jindex *ix, uint16_t vol, uint64_t off,
                        uint64_t len, struct io_extent *out, size_t max);
void jindex_load_promoted(struct jindex *ix, uint64_t seq);
/* No view opens between: part of the log is damaged there. */
void jindex_load_hole(struct jindex *ix, uint64_t from, uint64_t until);
/* Open the recorded views again and begin to build runs; done(arg, 0).  A view
 * that cannot be opened comes back broken, with an alert. */
void
jindex_start(struct jindex *ix, void (*done)(void *arg, int res), void *arg);
/* Ends what is in flight and frees.  Views are closed, not discarded. */
void jindex_close(struct jindex *ix, void (*done)(void *arg), void *arg);

/* --- segments and runs --------------------------------------------------- */

int jindex_segment_opened(struct jindex *ix, uint32_t no, uint64_t first_seq);
/* Footer and SEG_SEAL are durable: its run will be built. */
void jindex_segment_sealed(struct jindex *ix, uint32_t no, uint64_t first_seq,
                           uint64_t last_seq);
/* Nothing reads it any more and all of it is promoted. */
bool jindex_segment_free(const struct jindex *ix, uint32_t no);
void jindex_drop_segment(struct jindex *ix, uint32_t no);
/* Runs that hold nothing above PROMOTED and that no view reads. */
size_t
jindex_dead_runs(const struct jindex *ix, struct run_info *out, size_t max);
/* After RUN_DEL is durable. */
void jindex_delete_run(struct jindex *ix, const struct run_info *info);

/* A damaged run: not read from now on, and built again when it can be. */
void jindex_forget_run(struct jindex *ix, const struct run_info *info);

/* Keep segment no and all younger ones, and the runs over them, until unhold.
 * -ENOENT: it is gone; -EBUSY: too many holds. */
int jindex_hold(struct jindex *ix, uint32_t no);
void jindex_unhold(struct jindex *ix, uint32_t no);
/* No runs are built while it holds. */
void jindex_pause_builds(struct jindex *ix, bool paused);
bool jindex_has_run(const struct jindex *ix, const struct run_info *info);

/* --- promotion ----------------------------------------------------------- */

/* Below it nothing may be promoted without converting views; UINT64_MAX: no
 * view pins. */
uint64_t jindex_lowest_pin(const struct jindex *ix);
/* res 0 also when views broke (alerts say which).  Until done() views may still
 * open below to_seq and are converted too; from then on none opens there. */
void jindex_convert(struct jindex *ix, uint64_t to_seq,
                    void (*done)(void *arg, int res), void *arg);
/* to_seq <= what is durable.  Waits for straight writes below it.  On an error
 * (alert sent; -EBADMSG: damage in the log, -EIO, -ENOSPC) the replica may hold
 * part of it, which is harmless: the same promotion may be tried again.
 * bytes: written to the replica. */
void jindex_promote(struct jindex *ix, uint64_t to_seq,
                    void (*done)(void *arg, int res, uint64_t bytes), void *arg);
/* PROMOTED(seq) is durable.  Reads move to shorter sets in the background. */
void jindex_promoted(struct jindex *ix, uint64_t seq);

/* --- straight writes ------------------------------------------------------ */

void jindex_sync_write(struct jindex *ix, struct journal_sync_write *w);
void jindex_sync_flush(struct jindex *ix, void (*done)(void *arg, int res),
                       void *arg);

/* --- views ---------------------------------------------------------------- */

/* As journal_view_open(), the point found. */
void jindex_view_open(struct jindex *ix, const struct journal_view_config *cfg,
                      const struct journal_point *point,
                      void (*opened)(void *arg, struct journal_view *v, int res,
                                     const struct err *err),
                      void *arg);
void jindex_view_discard(struct jindex *ix, struct journal_view *v,
                         void (*closed)(void *arg), void *arg);
size_t jindex_views(struct jindex *ix, struct journal_view **out, size_t max);

/* --- care ------------------------------------------------------------------ */

struct jindex_stats {
    uint64_t runs, run_bytes, replica_bytes, overlay_bytes;
    uint64_t promotions, promoted_bytes;
    bool idle; /* no run to build now */
};
void jindex_stats(const struct jindex *ix, struct jindex_stats *out);

#endif
