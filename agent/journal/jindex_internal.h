/* The inside of the index half, shared by jindex.c (runs, promotion, straight
 * writes, start and close) and jindex_views.c.  Loop's thread, but for the jobs. */
#ifndef HOLDFAST_JOURNAL_JINDEX_INTERNAL_H
#define HOLDFAST_JOURNAL_JINDEX_INTERNAL_H

#include "journal/jindex.h"
#include "journal/promote.h"
#include "journal/view.h"

enum {
    JINDEX_HOLES = 16
};

struct builder {
    bool running, paused;
    struct io_work work;
    struct build_plan plan;
    struct run_info built;
    int res;
    struct err err;
    struct io_timer retry;
};

struct promoting {
    bool active, started;
    uint64_t to;
    struct io_work work;
    struct table_plan *plan;
    size_t n_plan;
    uint32_t hold;
    struct read_set *set;
    struct promotion *p;
    uint64_t bytes; /* written so far, as of the last step */
    size_t bad_next;
    int res;
    struct err err;
    void (*done)(void *arg, int res, uint64_t bytes);
    void *arg;
};

struct converting {
    bool active;
    uint64_t to;
    struct io_work work;
    struct table_plan *plan;
    size_t n_plan;
    uint32_t hold;
    struct read_set *set;
    struct journal_view *v; /* the one being converted */
    struct view_record rec; /* as it is to be recorded */
    int res;
    struct err err;
    void (*done)(void *arg, int res);
    void *arg;
};

struct flushing {
    bool running;
    struct io_work work;
    struct list now, waiting; /* struct sync_waiter */
    int res;
    struct err err;
};

struct switching {          /* of a view to a shorter read set */
    struct journal_view *v; /* NULL: none */
    struct io_work work;
    struct table_plan *plan;
    size_t n_plan;
    uint32_t hold;
    uint64_t after, upto;
    struct read_set *set;
    int res;
    struct err err;
};

struct view_open {
    struct list link; /* jindex.opening */
    struct jindex *ix;
    bool loaded; /* of before the restart */
    struct view_record rec;
    struct io_work work;
    struct table_plan *plan;
    size_t n_plan;
    uint32_t hold;
    uint64_t after;
    struct read_set *set;
    struct journal_view *v;
    int res;
    struct err err;
    void (*opened)(void *arg, struct journal_view *v, int res,
                   const struct err *err);
    void *arg;
};

struct view_discard {
    struct list link; /* jindex.discarding, until nothing else uses the view */
    struct jindex *ix;
    struct journal_view *v;
    struct view_record rec;
    struct io_work work;
    void (*closed)(void *arg);
    void *arg;
};

struct starting {
    struct io_work work;
    struct err err;
    void (*done)(void *arg, int res);
    void *arg;
};

/* In journal_sync_write.priv. */
struct sync_job {
    struct io_work work;
    struct jindex *ix;
    struct err *err;
    int res;
};

struct jindex {
    struct jindex_config cfg;
    char *dir;
    struct journal_volume vols[LANE_VOLUMES_MAX];
    struct runset *rs;
    struct replica *replica;
    struct view_env env;
    struct list views;
    struct list opening;    /* struct view_open.link */
    struct list syncs;      /* journal_sync_write.link, being written */
    struct list sync_wait;  /* the same: overlap one being written */
    struct list discarding; /* struct view_discard.link */
    struct switching sw;
    uint64_t promoted, fence;
    uint64_t view_fence; /* views below it have been converted */
    bool started, closing;
    unsigned busy;
    struct builder build;
    struct promoting prom;
    struct converting conv;
    struct flushing flush;
    uint64_t promotions, promoted_bytes;
    int promote_told;   /* the error of the last promotion; 0: it went well */
    struct list loaded; /* struct loaded_view, until start */
    struct {
        uint64_t from, until;
    } holes[JINDEX_HOLES];
    size_t n_holes;
    struct starting start;
    struct io_task tick;
    void (*closed)(void *arg);
    void *closed_arg;
};

struct loaded_view {
    struct list link;
    struct view_record rec;
};

void jindex_alert(struct jindex *ix, const struct err *err);
/* Call done(arg, res) from a task: completions never happen inside a call. */
void jindex_later(struct jindex *ix, void (*done)(void *arg, int res),
                  void *arg, int res);
void jindex_busy_end(struct jindex *ix);
/* Plan (after, upto] and keep its segments (*out_hold) for a job. */
int jindex_plan_set(struct jindex *ix, uint64_t after, uint64_t upto,
                    struct table_plan **out, size_t *out_n, uint32_t *out_hold);
/* Views whose set begins below PROMOTED get a shorter one, one by one. */
void jindex_switch_views(struct jindex *ix);
/* Begin to open vo, which is given away: its opened() and arg are set. */
void jindex_open_begin(struct jindex *ix, struct view_open *vo);

#endif
