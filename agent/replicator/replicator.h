/* Inside the replicator role: what its files share.
 *
 * Two threads.  The data loop owns everything here: exports, sources, targets,
 * views.  The control server (libevent) runs on a thread of its own, turns each
 * request into a struct ctl_call, posts it to the data loop and sends the text
 * that comes back; it touches nothing else.
 *
 *   start:  volumes and splitters -> targets (journals open in the background)
 *           -> sources (lane.super says clean=0, durable, then attach) -> NBD
 *           exports -> stream listener -> control server
 *   stop:   control server -> exports -> sources drain (bounded), detach, clean=1
 *           -> targets -> stream -> loop
 *
 * Nothing here asks the manager for anything: what it said is in the state
 * directory, and the role goes on alone.
 */
#ifndef HOLDFAST_REPLICATOR_REPLICATOR_H
#define HOLDFAST_REPLICATOR_REPLICATOR_H

#include "common/buf.h"
#include "common/json.h"
#include "common/pki.h"
#include "common/tls.h"
#include "nbd/nbd_server.h"
#include "stream/stream.h"

enum {
    REP_NAME_MAX = 63,
    REP_FULL_NAME_MAX = 2 * REP_NAME_MAX + 1, /* "<vm>/<volume>" */
    REP_PATH_MAX = 1024,
    REP_URI_MAX = 1024,
    REP_VOLUMES_MAX = 1024,
    REP_LANE_VOLUMES_MAX = 80, /* what lane.super holds */
    REP_STORES_MAX = 64,
    REP_VIEWS_MAX = 64, /* a target's */
    REP_ALERTS_MAX = 8, /* a target's, newest kept */
    REP_CONFIG_MAX = 1024 * 1024,
    REP_FORMAT = 1, /* of the JSON files in the state directory */
};

struct replicator;
struct source;
struct target;

/* --- configuration, as role.c has read it ------------------------------- */

struct rep_volume_config {
    char vm[REP_NAME_MAX + 1], name[REP_NAME_MAX + 1];
    char path[REP_PATH_MAX];
    struct uuid vm_id, id;
    bool direct, read_only;
};

struct rep_store {
    char name[REP_NAME_MAX + 1], path[REP_PATH_MAX];
    struct uuid id;
    struct err err; /* num 0: usable */
    /* Images that deletions left here, counted by a worker now and then. */
    uint64_t kept_bytes, kept;
};

/* How the last deletion that kept the images ended, for the call that asks. */
struct rep_last_kept {
    struct uuid vpg;
    char text[ERR_MSG_MAX];
};

struct rep_config {
    struct uuid deployment, site, id;
    char name[REP_NAME_MAX + 1];
    char state_dir[REP_PATH_MAX];           /* the role's own, .../replicator */
    char run_dir[REP_PATH_MAX];             /* NBD sockets */
    char control_address[IO_ADDR_TEXT_MAX]; /* as told to others */
    char data_address[IO_ADDR_TEXT_MAX];
    uint64_t ring_size;
    enum sender_compression compression; /* where a VPG says Auto */
    unsigned planted;                    /* tests only: enum journal_planted */
};

/* --- exports ------------------------------------------------------------ */

struct rep_volume {
    struct rep_volume_config cfg;
    char full_name[REP_FULL_NAME_MAX + 1];
    struct blkdev *dev;     /* the splitter; NULL: err says why */
    struct blkdev *backing; /* below it, borrowed */
    struct nbd_export *export;
    struct nbd_listener *listener;
    char uri[REP_URI_MAX];
    struct err err;
    uint64_t errors_told;
    struct source *source; /* whose lane it is in; NULL: unprotected */
};

int exports_open(struct replicator *rep); /* devices, not yet served */
void exports_serve(struct replicator *rep);
void exports_close(struct replicator *rep, void (*done)(struct replicator *rep));
struct rep_volume *volume_by_id(struct replicator *rep, const struct uuid *id);
/* What proves that a backing was not written behind our back (lane.super). */
int volume_fingerprint(struct rep_volume *v, struct lane_super_volume *out);

/* --- calls from the control server -------------------------------------- */

struct http_req;

struct ctl_call {
    struct io_post post;
    struct replicator *rep;
    struct http_req *rq;
    void (*handle)(struct ctl_call *c);
    struct uuid vpg, object; /* from the path */
    char point[24];          /* checkpoint in the path */
    struct {
        uint64_t from, to, skip, limit;
        bool keep_replicas, overwrite, force;
        struct uuid incarnation; /* nil: not said */
    } query;
    cJSON *body; /* NULL: none */
    void *work;  /* the handler's own */
};

/* Each gives the call away. */
void ctl_reply(struct ctl_call *c, int status, struct buf *json);
void ctl_reply_ok(struct ctl_call *c); /* {} */
void ctl_reply_err(struct ctl_call *c, const struct err *err);

/* --- the role ----------------------------------------------------------- */

struct rep_peer_site {
    struct list link; /* replicator.sites */
    struct uuid site;
    struct uuid replicators[64];
    unsigned n_replicators;
    cJSON *body; /* as it was told */
};

struct replicator {
    struct rep_config cfg;
    struct io_loop *loop;
    uint64_t started_wall_ns;
    struct ringpool *ring;
    struct nbd_server *nbd;
    struct stream *stream;
    struct tls_ctx *client_tls, *server_tls, *control_tls;
    struct tls_ctx *nbd_tls; /* trusts this site alone, not the paired ones */
    struct rep_volume *volumes;
    unsigned n_volumes;
    struct rep_store stores[REP_STORES_MAX];
    unsigned n_stores;
    struct list sources, targets, sites;
    struct kept *kept; /* kept.c */
    struct rep_last_kept last_kept;
    struct io_timer watch; /* of the exports' errors */
    unsigned starting;     /* sources whose volumes are not attached yet */
    bool stopping;
    void (*trust_changed)(struct replicator *rep); /* control server's */
    void (*stopped)(struct replicator *rep);
    struct pki_trust *trust; /* role.c builds it from the files and sites */
};

/* Order of life; role.c drives it. */
int replicator_open(struct replicator *rep, struct err *err);
void
replicator_stop(struct replicator *rep, void (*stopped)(struct replicator *));
struct rep_store *store_by_id(struct replicator *rep, const struct uuid *id);

/* A kept object's text with its format; to be freed with cJSON_free(). */
char *rep_body_text(cJSON *body);
/* Write text to <state_dir>/name durably on a worker; done(arg, res). */
void rep_save(struct replicator *rep, const char *name, const char *text,
              void (*done)(void *arg, int res), void *arg);
/* Parse every *.json below <state_dir>/dir. */
int rep_load_dir(struct replicator *rep, const char *dir,
                 void (*each)(struct replicator *rep, const cJSON *body),
                 struct err *err);

/* --- kept.c ------------------------------------------------------------- */

#define KEPT_NOTE "kept.json" /* beside images that a deletion left */

/* Count now and then what deletions have left in the stores. */
int kept_start(struct replicator *rep, struct err *err);
void kept_look(struct replicator *rep); /* soon */
void kept_stop(struct replicator *rep);

/* --- trust.c ------------------------------------------------------------ */

int trust_load(struct replicator *rep, struct err *err);
bool trust_allows(struct replicator *rep, const struct uuid *site,
                  const struct uuid *agent);
void trust_put_site(struct ctl_call *c);
void trust_delete_site(struct ctl_call *c);
void trust_put_revocations(struct ctl_call *c);

/* --- status.c ----------------------------------------------------------- */

void status_get(struct ctl_call *c);
/* "2026-11-22T03:32:48.123Z" */
void json_put_time(struct json_writer *w, const char *name, uint64_t wall_ns);
void
json_put_err(struct json_writer *w, const char *name, const struct err *err);
/* ISO 8601 UTC as above, fraction optional: 1 found, 0 absent, -EINVAL. */
int json_time(const cJSON *body, const char *name, uint64_t *out_wall_ns,
              struct err *err);
/* Peer object of a PUT: agent, site, address. */
int peer_parse(const cJSON *body, struct uuid *out_agent, struct uuid *out_site,
               bool *out_dial, struct io_addr *out_addr, struct err *err);

#endif
