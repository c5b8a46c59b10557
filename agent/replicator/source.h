/* Sources: what source.c (the life of one) and source_calls.c (what the manager
 * asks of it) share, and what the rest of the role may call. */
#ifndef HOLDFAST_REPLICATOR_SOURCE_H
#define HOLDFAST_REPLICATOR_SOURCE_H

#include "replicator/replicator.h"

enum {
    SOURCE_FILE_MAX = 64,
};

struct source {
    struct list link;
    struct replicator *rep;
    struct vpg_id vpg;
    char name[256];
    cJSON *body; /* the PUT that made it, plus "Paused" */
    uint32_t fencing_epoch;
    struct generation_id generation;
    uint64_t interval_ns;
    enum sender_compression compression;
    struct uuid peer_agent, peer_site;
    bool dial;
    struct io_addr peer_addr;
    struct {
        struct rep_volume *volume;
        uint16_t vol;
    } volumes[REP_LANE_VOLUMES_MAX];
    unsigned n_volumes, attaching;
    bool paused, running, deleting, exact, starting;
    bool stopping; /* the sender is on its way out */
    bool fresh;    /* not saved yet: a failed save forgets it */
    struct stream_peer *peer;
    struct capture *capture;
    struct sender *sender;
    struct lane_super super;
    char super_path[REP_PATH_MAX + 128];
    struct io_work job;
    int job_res; /* the worker's, as is job_err; err is the loop's */
    struct err job_err;
    struct err err;
    void (*then)(struct source *s); /* after a stop */
    struct ctl_call *call;          /* answered by then() */
    struct io_timer retry;
};

/* --- source.c ----------------------------------------------------------- */

void source_load(struct replicator *rep, const cJSON *body);
struct source *source_by_vpg(struct replicator *rep, const struct uuid *vpg);
/* In the list, with its volumes; NULL: err says why. */
struct source *
source_new(struct replicator *rep, const cJSON *body, struct err *err);
void source_free(struct source *s); /* out of the list already */
void source_start(struct source *s);
/* Detach, then then(), at once if nothing runs. */
void source_stop(struct source *s, void (*then)(struct source *s));
/* "sources/<vpg><suffix>", below the state directory. */
void
source_file(const struct source *s, char *out, size_t size, const char *suffix);
/* Drain, detach, remember; done() when all have gone. */
void sources_stop(struct replicator *rep, void (*done)(struct replicator *rep));
void source_status_json(struct source *s, struct json_writer *w);

/* --- source_calls.c ----------------------------------------------------- */

int source_parse(struct source *s, const cJSON *body, struct err *err);
void source_put(struct ctl_call *c);
void source_delete(struct ctl_call *c);
void source_pause(struct ctl_call *c);
void source_resume(struct ctl_call *c);
void source_forcesync(struct ctl_call *c);
void source_checkpoint(struct ctl_call *c);

#endif
