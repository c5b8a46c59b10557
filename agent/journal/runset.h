/* Which tables cover which stretch of the log, and who still reads them.
 *
 * The run set knows the segments and the runs that the manifest names.  It
 * plans the next run to build (level 0 of a sealed segment, level k + 1 of an
 * aligned group of fan runs), and finds the fewest tables that cover
 * (after, upto]: whole runs of the highest levels that fit, and a map made of
 * the entry tables of a segment in which one of the two ends lies.
 *
 * A read set is what one read uses from start to end: an immutable list of
 * tables, newest first, counted.  While it lives the segments it may point into
 * are not recycled (I14).
 *
 * struct runset belongs to the loop's thread; read sets may be read by any.
 */
#ifndef HOLDFAST_JOURNAL_RUNSET_H
#define HOLDFAST_JOURNAL_RUNSET_H

#include <stdatomic.h>

#include "io/loop.h"
#include "journal/run.h"
#include "journal/seghead.h"

struct seg_info {
    uint32_t no;
    uint64_t first_seq; /* of its first entry */
    uint64_t last_seq;  /* of its last; the open one: UINT64_MAX */
    bool sealed;
};

/* What to read of a segment, and how to check it. */
struct seg_slice {
    struct io_file *file; /* stays open until put */
    uint64_t file_off;    /* of the stored bytes */
    uint32_t stored_len;
    uint32_t align; /* of direct reads; 1: any */
    bool waits;     /* for a disk: many reads at once are worth it */
    struct seg_part part;
    void *hold;
};

/* What the index asks of the segments.  Any thread. */
struct segment_ops {
    /* Entries of a segment (the open one too) with after < seq <= upto, in log
     * order; a negative result of fn ends the walk and is returned. */
    int (*walk)(void *arg, uint32_t seg, uint64_t after_seq, uint64_t upto_seq,
                int (*fn)(void *fn_arg, const struct seg_entry *se),
                void *fn_arg, struct err *err);
    /* Read, verify and inflate a chunk into out (BATCH_CHUNK_RAW_MAX bytes).
     * -EBADMSG names file and offset; nothing unverified is given out. */
    int (*read_chunk)(void *arg, uint32_t seg, uint32_t chunk, uint8_t *out,
                      uint32_t *out_len, struct err *err);
    /* Where [off, off + len) of a chunk is to be read, for callers that read
     * many at once.  put() when the file is not needed any more.  NULL: only
     * read_chunk(). */
    int (*locate)(void *arg, uint32_t seg, uint32_t chunk, uint32_t off,
                  uint32_t len, struct seg_slice *out, struct err *err);
    void (*put)(void *arg, struct seg_slice *s);
    /* What was read of a segment is damaged: have a look at it.  May be NULL. */
    void (*suspect)(void *arg, uint32_t seg);
    void *arg;
};

/* A list of tables to open: a plan becomes a read set in a worker job. */
struct table_plan {
    bool is_run;
    struct run_info info; /* a run */
    struct run *run;      /* already open: counted */
    uint32_t seg;         /* a map of this segment's entries */
    uint64_t after_seq, upto_seq;
};

struct read_table {
    struct run *run;    /* or */
    struct extmap *map; /* owned by the set */
};

struct runset;

struct read_set {
    atomic_int refs;
    struct runset *owner; /* told by post when the last reference goes */
    uint64_t after_seq, upto_seq;
    uint32_t first_seg;        /* of what it points into; UINT32_MAX: nothing */
    struct read_table *tables; /* newest first */
    size_t n_tables;
    struct list link; /* runset's list of living sets */
    struct io_post post;
};

struct runset_config {
    struct io_loop *loop;
    const char *dir;
    struct vpg_id vpg;
    uint32_t lane;
    unsigned fan; /* runs a merge joins; 2..64 */
    struct segment_ops seg;
    /* On the loop's thread: a read set ended, segments may be free now. */
    void (*released)(void *arg);
    void *arg;
};

int runset_new(const struct runset_config *cfg, struct runset **out);
void runset_free(struct runset *rs); /* no read set lives */
const struct runset_config *runset_config(const struct runset *rs);

/* Segments in rising order; the last one may be open. */
int runset_add_segment(struct runset *rs, const struct seg_info *s);
int runset_seal_segment(struct runset *rs, uint32_t no, uint64_t first_seq,
                        uint64_t last_seq);
/* No runs are built any more of what is promoted. */
void runset_set_promoted(struct runset *rs, uint64_t seq);
void runset_drop_segment(struct runset *rs, uint32_t no);
const struct seg_info *runset_segment(const struct runset *rs, uint32_t no);
int runset_add_run(struct runset *rs, const struct run_info *info);
void runset_drop_run(struct runset *rs, const struct run_info *info);
size_t runset_runs(const struct runset *rs, uint64_t *out_bytes);
const struct run_info *runset_run(const struct runset *rs, size_t i);

/* The next run to build: 1 and the plan (level 0: one segment; above: the runs
 * to merge, oldest first); 0: nothing to do. */
struct build_plan {
    struct run_header header;
    struct run_info *from; /* n of them; NULL for level 0 */
    size_t n;
};
int runset_plan_build(struct runset *rs, struct build_plan *out);
bool runset_build_due(struct runset *rs);
void build_plan_release(struct build_plan *p);
/* Execute on a worker. */
int
build_run(struct io_loop *loop, const char *dir, const struct segment_ops *seg,
          const struct build_plan *p, struct run_info *out, struct err *err);

/* The entries of a segment with after < seq <= upto as a map; on a worker. */
int segment_map(const struct segment_ops *seg, uint32_t no, uint64_t after_seq,
                uint64_t upto_seq, struct extmap **out, struct err *err);

/* Tables that cover (after, upto], newest first; the caller frees *out with
 * table_plans_free(). */
int runset_cover(struct runset *rs, uint64_t after_seq, uint64_t upto_seq,
                 struct table_plan **out, size_t *out_n);
void table_plans_free(struct table_plan *p, size_t n);

/* Open what a plan names; on a worker.  The set has one reference and is not
 * registered: read_set_register() on the loop's thread makes it count. */
int read_set_build(const struct runset_config *cfg, uint64_t after_seq,
                   uint64_t upto_seq, const struct table_plan *plan, size_t n,
                   struct read_set **out, struct err *err);
/* While a job is to read them: keeps segments from first_seg on.  -EBUSY: too
 * many jobs at once, try again. */
int runset_hold(struct runset *rs, uint32_t first_seg);
void runset_unhold(struct runset *rs, uint32_t first_seg);
void read_set_register(struct read_set *set, struct runset *rs);
struct read_set *read_set_ref(struct read_set *set);
void read_set_unref(struct read_set *set); /* any thread */

/* Nothing lives and nothing is held. */
bool runset_idle(const struct runset *rs);
/* Does anything living read segment no or an older one? */
bool runset_segment_used(const struct runset *rs, uint32_t no);

/* All records of a set, folded: the newest wins.  Reads past the page cache. */
struct set_scan;
int set_scan_new(struct read_set *set, struct set_scan **out, struct err *err);
struct rec_iter *set_scan_records(struct set_scan *s);
void set_scan_free(struct set_scan *s);

#endif
