/* Targets: what target.c (the life of one), target_calls.c (PUT and DELETE),
 * target_views.c, target_status.c and target_scrub.c share, and what the rest of the role may
 * call. */
#ifndef HOLDFAST_REPLICATOR_TARGET_H
#define HOLDFAST_REPLICATOR_TARGET_H

#include "replicator/replicator.h"

enum {
    TARGET_RETRY_S = 5,
    TARGET_FILE_MAX = 64,
};

struct target_view {
    struct list link;
    struct target *target;
    struct journal_view *view;
    struct view_id id;
    struct {
        uint16_t vol;
        struct nbd_export *export;
        struct nbd_listener *listener;
        char uri[REP_URI_MAX];
    } volumes[REP_LANE_VOLUMES_MAX];
    unsigned n_volumes, removing;
    bool closing;
    struct ctl_call *call;
    void (*then)(struct target *t); /* instead of an answer */
};

struct target_alert {
    struct err err;
    uint64_t since_wall_ns, told_ns; /* told: the last time, monotonic */
};

/* The last scrub, or the one that runs. */
struct target_scrub {
    struct uuid id;
    enum {
        SCRUB_NONE,
        SCRUB_RUNNING,
        SCRUB_DONE,
        SCRUB_FAILED
    } state;
    struct journal_scrub_result result;
    struct err err;
};

/* A deletion that keeps the images: target_delete.c. */
struct target_keep {
    enum {
        KEEP_NOT,
        KEEP_VIEWS,    /* are being discarded */
        KEEP_RECEIVER, /* is being stopped */
        KEEP_DURABLE,  /* what was received is on its way into the journal */
        KEEP_PROMOTE,
        KEEP_FILES,
        KEEP_DONE /* until that is asked for */
    } phase;
    struct io_timer timer;
    uint64_t since_ns;         /* DURABLE, or the error */
    uint64_t before, expected; /* bytes that were, that may be promoted */
    struct journal_point newest;
    bool any, whole; /* is there such a point; no sync was going on */
    struct err err;  /* of the last attempt, for the next call */
};

struct target {
    struct list link;
    struct replicator *rep;
    struct vpg_id vpg;
    char name[256];
    cJSON *body;
    uint32_t fencing_epoch;
    struct generation_id generation;
    struct rep_store *store;
    char dir[REP_PATH_MAX + 64];
    uint64_t history_ns, hard_limit, warn, scratch_limit;
    bool overwrite_full; /* ResyncFull is Proceed */
    struct uuid peer_agent, peer_site;
    bool dial;
    struct io_addr peer_addr;
    struct {
        uint16_t vol;
        struct uuid id;
        uint64_t size;
        char vm[REP_NAME_MAX + 1], name[REP_FULL_NAME_MAX + 1];
    } volumes[REP_LANE_VOLUMES_MAX];
    unsigned n_volumes;
    bool opening, deleting, keep_replicas;
    bool fresh; /* as a source's */
    struct stream_peer *peer;
    struct journal *journal;
    struct receiver *receiver;
    struct list views; /* target_view.link */
    unsigned views_opening;
    void (*views_gone)(struct target *t); /* all are being closed */
    struct err err;
    struct target_alert alerts[REP_ALERTS_MAX];
    unsigned n_alerts;
    struct target_scrub scrub;
    struct target_keep keep;
    struct io_timer retry;
    struct io_work job;
    int job_res; /* the worker's, as is job_err; err is the loop's */
    struct err job_err;
    struct ctl_call *call;
    void (*then)(struct target *t);
};

/* --- target.c ----------------------------------------------------------- */

void target_load(struct replicator *rep, const cJSON *body);
struct target *target_by_vpg(struct replicator *rep, const struct uuid *vpg);
/* The one a call names, its journal open; NULL: the call is answered. */
struct target *target_of_call(struct ctl_call *c);
/* Index of volume vol in t->volumes; 0 if there is none. */
unsigned target_volume_index(const struct target *t, uint16_t vol);
/* In the list; NULL: err says why. */
struct target *
target_new(struct replicator *rep, const cJSON *body, struct err *err);
void target_free(struct target *t); /* out of the list already */
/* What an alert with this code told is over: it goes. */
void target_settled(void *arg, enum err_code code);
void target_open(struct target *t);
/* Receiver and journal, then then(), at once if neither is open.  While they are
 * closing already: then() instead of what was to follow. */
void target_close(struct target *t, void (*then)(struct target *t));
/* Start receiving; the journal is open. */
int target_receive(struct target *t, struct err *err);
void targets_stop(struct replicator *rep, void (*done)(struct replicator *rep));
/* For one whose receiver was being stopped when the role began to stop. */
void target_stop_go(struct target *t);

/* --- target_calls.c ----------------------------------------------------- */

int target_parse(struct target *t, const cJSON *body, struct err *err);
void target_put(struct ctl_call *c);
void target_overwrite(struct ctl_call *c);
/* Its file in the state directory. */
void target_file(const struct target *t, char *out, size_t size);

/* --- target_delete.c ---------------------------------------------------- */

void target_delete(struct ctl_call *c);
void target_keep_init(struct target *t);
/* Does dir hold images that are only to be put in place?  Any thread. */
bool target_keep_begun(struct io_loop *loop, const char *dir);

/* --- target_views.c ----------------------------------------------------- */

/* Take a view of the journal into the books and serve it. */
struct target_view *
target_view_adopt(struct target *t, struct journal_view *view, struct err *err);
/* Leave the view in the journal (the role stops): only its exports go. */
void target_view_release(struct target_view *tv);
void target_view_json(struct json_writer *w, struct target_view *tv);
void target_view_open(struct ctl_call *c);
void target_view_close(struct ctl_call *c);
/* Discard all of them, also those that are being opened, and then call then(),
 * perhaps at once. */
void target_views_discard(struct target *t, void (*then)(struct target *t));

/* --- target_status.c ---------------------------------------------------- */

/* A checkpoint's number as the API writes it. */
int target_parse_cut(const char *text, uint64_t *out);
void target_checkpoints(struct ctl_call *c);
void target_checkpoint(struct ctl_call *c);
void target_status_json(struct target *t, struct json_writer *w);

/* --- target_scrub.c ----------------------------------------------------- */

void target_scrub(struct ctl_call *c);

#endif
