/* The manager role: one struct with all its parts, owned by the loop's thread.
 *
 *   loop's thread     every structure below; HTTP; SQLite
 *   workers           blocking HTTPS calls (rpc.h), through the queue only
 *   hasher            one thread, one password hash at a time (accounts.h)
 *
 * Shutdown: listeners close, workers end, the loop frees what came back, then
 * fleet, peers, operations, catalog.  An operation that was under way is in
 * the catalog with its step and goes on after the next start. */
#ifndef HOLDFAST_MANAGER_MANAGER_H
#define HOLDFAST_MANAGER_MANAGER_H

#include <stdbool.h>

#include "common/id.h"
#include "common/identity.h"
#include "common/json.h"
#include "common/list.h"
#include "common/tls.h"
#include "http/http_server.h"
#include "manager/catalog.h"
#include "manager/rpc.h"
#include "manager/vpg.h"
#include "manager/workers.h"

struct accounts;
struct sessions;
struct site_keys;

enum {
    NAME_SIZE = 81,
    ADDRESS_SIZE = 300,
    TIME_SIZE = 32,
    TASK_ID_SIZE = 80,
    /* silence after which what a replicator or a site said is old */
    STALE_MS = 5000,
};

struct manager_config {
    const char *catalog_path;   /* the SQLite file */
    const char *bootstrap_path; /* the first administrator, from init */
    const char *unix_path;      /* local socket */
    const char *key_path, *chain_path, *root_path; /* our own identity */
    const char *ca_key_path, *ca_path;             /* the site's issuing CA */
    const char *root_key_path;                     /* may be kept elsewhere */
    const char *site_name, *location;
    const char *api_host, *peer_host;
    uint16_t api_port, peer_port;
    /* Where the other site's manager reaches us, "" to let it take the address
     * we come from. */
    const char *advertise_host;
    uint64_t session_idle_ms, session_max_ms;
};

/* A certificate that a replicator of ours got and that has not expired. */
struct issued {
    char serial[PKI_SERIAL_SIZE];
    char key[PKI_FINGERPRINT_TEXT];     /* pki_key_text(); "": not known */
    uint64_t not_before_s, not_after_s; /* 0: not known */
};
enum {
    ISSUED_MAX = 64,
    CA_WARN_DAYS = 60
};

/* A replicator of ours, or of another site as its manager describes it. */
struct replicator {
    struct list link;
    struct uuid id, site;
    char name[NAME_SIZE], address[ADDRESS_SIZE];
    bool revoked;
    uint64_t joined_ms;
    cJSON *status;     /* the last one heard, NULL: none yet */
    uint64_t heard_ms; /* monotonic; 0: never */
    char error[ERR_MSG_MAX];
    /* ours only */
    uint64_t asked_ms;     /* monotonic: when what it said last was asked for */
    struct issued *issued; /* oldest first */
    unsigned n_issued;
    struct dest *dest;
    bool busy;
    uint64_t next_ms;
    cJSON *pushed_peers; /* site: what it was told */
    uint64_t pushed_crl;
    char *started_at;
};

struct peer {
    struct list link;
    struct uuid site, deployment;
    char name[NAME_SIZE], location[NAME_SIZE], version[32];
    char host[ADDRESS_SIZE];
    uint16_t port;
    char *root_pem, *crl_pem;
    struct dest *dest;
    bool busy;
    uint64_t heard_ms, rtt_ms;
    int64_t skew_ms;
    uint64_t last_contact_ms; /* wall clock */
    char error[ERR_MSG_MAX];
    struct list replicators; /* struct replicator */
    cJSON *tasks;            /* rendered, of VPGs that we share */
};

struct manager {
    struct manager_config cfg;
    struct http_loop *loop;
    struct workers *workers;
    struct catalog *catalog;
    struct accounts *accounts;
    struct sessions *sessions;
    struct site_keys *keys;
    struct tls_ctx *client_tls, *api_tls, *peer_tls;
    struct http_server *api, *peer_server, *local;
    uint16_t api_port, peer_port;
    struct uuid site, self;
    char site_name[NAME_SIZE], advertise[256];
    struct list replicators, peers, vpgs, ops, drafts;
    uint64_t vpg_removed_ms; /* http_loop_now_ms() of the last that went */
    struct event *tick;
    uint64_t started_ms;
    unsigned n_event;
    uint64_t renew_at_s; /* wall clock; 0: not planned yet */
    struct list alerts;  /* what is on: struct standing, alerts.c */
};

int manager_new(const struct manager_config *cfg, struct http_loop *loop,
                struct manager **out_manager, struct err *err);
void manager_free(struct manager *m);
/* Read the own certificate again and apply the times in cfg, which the caller
 * may have changed. */
int manager_reload(struct manager *m, struct err *err);
/* The router tables of the three listeners, for docs and tests. */
extern const struct http_router manager_api_router, manager_peer_router,
    manager_local_router;
/* docs/api.md's table, one row a route. */
int manager_print_routes(struct buf *out);

/* --- wall clock ------------------------------------------------------------- */

uint64_t wall_ms(void);
/* "2026-11-22T03:32:48.123Z" */
char *time_text(uint64_t ms, char out[TIME_SIZE]);
/* ISO 8601 in its usual shapes, or epoch milliseconds; -EINVAL. */
int time_parse(const char *text, uint64_t *out_ms);

/* --- fleet.c ------------------------------------------------------------------ */

int fleet_load(struct manager *m, struct err *err);
void fleet_free(struct manager *m);
void fleet_tick(struct manager *m);
/* Of our own site, or of any. */
struct replicator *fleet_find(struct manager *m, const struct uuid *id);
struct replicator *any_replicator(struct manager *m, const struct uuid *id);
void replicator_free(struct replicator *r);
bool replicator_fresh(const struct replicator *r);
/* Durable; replaces one by the same identifier. */
int fleet_add(struct manager *m, const struct uuid *id, const char *name,
              const struct identity *cert, struct err *err);
/* Has it had a certificate for this key? */
bool fleet_knows_key(const struct replicator *r, EVP_PKEY *key);
/* Is there room for one more certificate?  -EBUSY with MGR-0016. */
int
fleet_may_renew(struct manager *m, const struct replicator *r, struct err *err);
/* Durable: it has one more, and keeps those before until they expire. */
int fleet_renewed(struct manager *m, struct replicator *r,
                  const struct identity *cert, struct err *err);
int fleet_set_address(struct manager *m, struct replicator *r,
                      const char *address, struct err *err);
int fleet_revoke(struct manager *m, struct replicator *r, struct err *err);
/* Durable: it is not known any more; frees it.  After fleet_revoke(). */
int fleet_forget(struct manager *m, struct replicator *r, struct err *err);
/* A control call to one of ours. */
int fleet_call(struct manager *m, struct replicator *r, const char *method,
               const char *path, const struct buf *body,
               void (*done)(struct rpc *r), void *arg, struct err *err);
const cJSON *replicator_source(const struct replicator *r, const struct vpg *v);
const cJSON *replicator_target(const struct replicator *r, const struct vpg *v);
/* What it last said of a volume; NULL: nothing. */
const cJSON *
replicator_volume(const struct replicator *r, const struct uuid *volume);
const char *replicator_data_address(const struct replicator *r);

/* --- vpgs.c: the VPGs of this manager ------------------------------------------- */

int vpgs_load(struct manager *m, struct err *err);
void vpgs_free(struct manager *m);
struct vpg *vpgs_find(struct manager *m, const struct uuid *id);
struct vpg *vpgs_by_name(struct manager *m, const char *name);
/* Durable; takes v over, replacing one by the same identifier. */
int vpgs_put(struct manager *m, struct vpg *v, struct err *err);
/* Raises the version and saves. */
int vpgs_changed(struct manager *m, struct vpg *v, struct err *err);
/* Forgets it and remembers that it is gone, and whether its replicas are to be
 * kept, so that the other site or a replicator that was away learns. */
int vpgs_remove(struct manager *m, struct vpg *v, bool keep_replicas,
                struct err *err);
bool vpgs_is_removed(struct manager *m, const struct uuid *id);
bool vpgs_keeps_replicas(struct manager *m, const struct uuid *id);
struct vpg_facts vpgs_facts(struct manager *m, struct vpg *v);
struct vpg_verdict vpgs_verdict(struct manager *m, struct vpg *v);
const cJSON *vpgs_source(struct manager *m, const struct vpg *v);
const cJSON *vpgs_target(struct manager *m, const struct vpg *v);
/* What the recovery side said last, however long ago. */
const cJSON *vpgs_last_target(struct manager *m, const struct vpg *v);
/* From the oldest point until now, by the clock on the wall as points show it; 0
 * when there is none. */
uint64_t vpgs_history_s(struct manager *m, const struct vpg *v);
/* -1 when there is no point. */
int64_t vpgs_rpo_ms(struct manager *m, const struct vpg *v);
void vpgs_sample(struct manager *m);
void vpgs_source_body(struct manager *m, const struct vpg *v, struct buf *out);
void vpgs_target_body(struct manager *m, const struct vpg *v, struct buf *out);

/* Which side of a VPG something has to be done at. */
enum side {
    SIDE_PROTECTED,
    SIDE_RECOVERY
};
const struct uuid *vpgs_site(const struct vpg *v, enum side side);

/* --- peers.c -------------------------------------------------------------------- */

int peers_load(struct manager *m, struct err *err);
void peers_free(struct manager *m);
void peers_tick(struct manager *m);
struct peer *peers_find(struct manager *m, const struct uuid *site);
bool peer_fresh(const struct peer *p);
int peers_call(struct manager *m, struct peer *p, const char *method,
               const char *path, const struct buf *body,
               void (*done)(struct rpc *r), void *arg, struct err *err);
/* Durable: a pairing record. */
int peers_put(struct manager *m, struct peer *p, struct err *err);
int peers_remove(struct manager *m, struct peer *p, struct err *err);
struct peer *peer_new(void);
void peer_free(struct peer *p);
int peers_save(struct manager *m, struct peer *p, struct err *err);
/* What one manager tells the other, and what it makes of it. */
void peers_state(struct manager *m, const struct peer *p, struct buf *out);
void peers_heard(struct manager *m, struct peer *p, const cJSON *state);
/* Name of a site, ours or another's; "" when unknown. */
const char *site_name(struct manager *m, const struct uuid *site);

/* --- keys.c: keys, certificates, whom to believe ------------------------------------ */

int keys_load(struct manager *m, struct err *err);
void keys_free(struct manager *m);
/* After peers or revocations have changed. */
int keys_rebuild(struct manager *m, struct err *err);
int keys_reload_own(struct manager *m, struct err *err);
/* A new key and certificate of our own, in use when it returns. */
int keys_renew_own(struct manager *m, struct err *err);
const struct identity *keys_own(struct manager *m);
/* A new certificate for the site's CA, for the same key: 1 made, 0 it is not near
 * its end or the root's key is not here. */
int keys_renew_ca(struct manager *m, struct err *err);
/* Of the site's CA. */
void keys_ca_times(struct manager *m, uint64_t *out_not_before_s,
                   uint64_t *out_not_after_s);
/* Sign a replicator's request. */
int keys_sign(struct manager *m, EVP_PKEY *key, const char *name,
              const struct uuid *id, X509 **out_cert, struct err *err);
/* Append a serial to the list, durably, and publish it. */
int keys_revoke(struct manager *m, const char *serial, struct err *err);
const char *keys_root_pem(struct manager *m);
const char *keys_crl_pem(struct manager *m);
const char *keys_ca_pem(struct manager *m);
uint64_t keys_crl_number(struct manager *m);
void keys_fingerprint(struct manager *m, uint8_t out[PKI_FINGERPRINT_SIZE]);
const struct tls_identity *keys_identity(struct manager *m);

/* --- alerts.c: what is wrong at this moment ------------------------------------------ */

/* Once a second, so that each knows since when it has been. */
void alerts_tick(struct manager *m);
void alerts_free(struct manager *m);

/* --- renew.c: certificates, before they expire --------------------------------------- */

/* Once a second: renews the manager's own when it is time, or was asked for. */
void renew_tick(struct manager *m);
/* Somebody may have asked for it. */
void renew_look(struct manager *m);

/* --- ops.c: operations, which clients see as tasks ------------------------------------ */

struct op;
enum op_verdict {
    OP_NEXT,
    OP_WAIT,
    OP_FAILED
};
struct op_step {
    const char *name;
    /* Called at first, when a call it made has come back (op->reply), and
     * every 250 ms while it waits.  Steps may run again after a restart. */
    enum op_verdict (*run)(struct op *op);
};
struct op_type {
    const char *task;              /* "FailOverTest" */
    int event;                     /* event type when it has ended */
    const struct op_step *steps;   /* ends with name NULL */
    void (*failed)(struct op *op); /* clean up; may be NULL */
};
enum op_state {
    OP_IN_PROGRESS = 1,
    OP_STATE_FAILED = 4,
    OP_COMPLETED = 6
};
struct op {
    struct list link;
    struct manager *m;
    struct uuid id;
    const struct op_type *type;
    struct uuid vpg; /* nil: none */
    char vpg_name[VPG_NAME_SIZE], user[128];
    cJSON *params;     /* what it was started with and has found out */
    char *secret;      /* not in the catalog; wiped at the end */
    uint8_t bound[32]; /* of the connection it is for */
    unsigned step;
    enum op_state state;
    int progress;
    uint64_t started_ms, completed_ms, step_ms; /* step: monotonic */
    char reason[ERR_MSG_MAX];
    struct err err;
    struct rpc *reply; /* during run() only */
    bool calling;
    unsigned tries;
    struct event *timer;
    bool in_run;
};

int ops_load(struct manager *m, struct err *err);
void ops_free(struct manager *m);
/* params: taken over, may be NULL.  Durable before it returns. */
int
op_start(struct manager *m, const struct op_type *type, const struct vpg *v,
         const char *user, cJSON *params, struct op **out_op, struct err *err);
struct op *ops_find(struct manager *m, const struct uuid *id);
/* The running one of a VPG that changes it, NULL when there is none. */
struct op *ops_running(struct manager *m, const struct uuid *vpg);
void op_task_id(const struct op *op, char out[TASK_ID_SIZE]);
void op_put_task(struct json_writer *w, const struct op *op);
/* For steps: fail with op->err set. */
enum op_verdict op_fail(struct op *op, int num, enum err_code code,
                        const char *fmt, ...) PRINTF_LIKE(4, 5);
/* A call whose answer comes as op->reply. */
enum op_verdict op_call_replicator(struct op *op, const struct uuid *replicator,
                                   const char *method, const char *path,
                                   const struct buf *body);
enum op_verdict
op_call_peer(struct op *op, const struct uuid *site, const char *method,
             const char *path, const struct buf *body);
/* The same with a call of the step's own making (done and arg are set). */
enum op_verdict op_submit(struct op *op, struct rpc *r);
/* Wait up to ms since the step began; then fail with what. */
enum op_verdict op_wait(struct op *op, uint64_t ms, const char *what);
/* op->reply failed: give up, or, if it is a fault of the way there, try again
 * until ms have passed. */
enum op_verdict op_retry(struct op *op, uint64_t ms);
extern const struct op_type *const op_types[]; /* ends with NULL */

/* Types, in op_vpg.c and op_site.c. */
extern const struct op_type op_create_vpg, op_update_vpg, op_delete_vpg, op_tag,
    op_test, op_test_stop, op_pause, op_resume, op_force_sync, op_overwrite,
    op_open_view, op_close_view, op_pair, op_unpair, op_uninstall_vra, op_scrub;
/* May it run beside any other of the same VPG?  It changes nothing of it. */
bool op_beside(const struct op_type *type);

/* --- events.c ------------------------------------------------------------------------- */

void events_record(struct manager *m, int type, const struct uuid *vpg,
                   const char *vpg_name, bool ok, const char *user,
                   const char *description);
const char *event_type_name(unsigned type);
unsigned event_type_count(void);

/* --- settings.c ------------------------------------------------------------------------ */

/* A new tree with every default in it. */
cJSON *settings_new(void);
/* Copy from into what into has, names in any case; unknown names are ignored.
 * -EINVAL with the name of the part that does not fit. */
int settings_merge(cJSON *into, const cJSON *from, struct err *err);
cJSON *settings_vm_new(void);
struct draft {
    struct list link;
    struct uuid id, session;
    uint64_t used_ms;
    cJSON *tree;
    bool editing; /* an existing VPG */
};
/* Turn settings into a definition: everything that can be checked here is. */
int settings_to_vpg(struct manager *m, const cJSON *tree, struct vpg **out_vpg,
                    struct err *err);
int settings_apply(struct manager *m, const cJSON *tree, struct vpg *v,
                   struct err *err);
/* Do they name the sites, store and replicator that the VPG has, or none? */
int
settings_same_places(const cJSON *tree, const struct vpg *v, struct err *err);

/* --- space.c ---------------------------------------------------------------------------- */

/* -ENOSPC with MGR-0017: the store has no room for what the volumes use now.
 * 0, with a sentence in out_warning: only if they do not grow. */
int space_check(struct manager *m, const struct vpg *v, char *out_warning,
                size_t size, struct err *err);

/* --- api.c: what the routes share -------------------------------------------------------- */

/* Privileges of section 6.5 of the security reference, as far as routes use
 * them; PRIV_NONE needs no session, PRIV_SESSION any. */
enum privilege {
    PRIV_NONE,
    PRIV_SESSION,
    PRIV_VIEWER,
    PRIV_TEST_FAILOVER,
    PRIV_MANAGE_VPG,
    PRIV_MANAGE_VRA,
    PRIV_MANAGE_SITES,
    PRIV_COUNT
};
const char *privilege_name(unsigned privilege);
/* May the session's user do this?  The one place that decides. */
bool api_may(struct manager *m, const char *user, enum privilege privilege);
int api_gate(struct http_req *rq, const struct http_route *route, void *ctx);
int
api_peer_gate(struct http_req *rq, const struct http_route *route, void *ctx);

/* These answer 400 or 404 themselves and return NULL or a negative errno. */
struct vpg *api_vpg(struct http_req *rq, struct manager *m);
int api_uuid(struct http_req *rq, const char *param, struct uuid *out);
/* Is it neither being created nor deleted?  Answers 400 when it is. */
bool api_active(struct http_req *rq, const struct vpg *v);
/* Pass the request on when the VPG's side is at the other site; whether it has
 * been. */
bool api_forwarded(struct http_req *rq, struct manager *m, const struct vpg *v,
                   enum side side);
/* Answers a call that could not be passed on: the error of the way there, under
 * the code for a site that cannot be reached. */
void api_not_forwarded(struct http_req *rq, const struct rpc *r);
/* Start and answer with the task's identifier. */
void api_start(struct http_req *rq, struct manager *m,
               const struct op_type *type, const struct vpg *v, cJSON *params);
/* Answers a list of names. */
void api_names(struct http_req *rq, const char *const *names, unsigned n);
/* Is value the same as a filter in the query (or is there none)? */
bool api_filter(struct http_req *rq, const char *param, const char *value);
/* The same for an enumeration: its number, or its name in any case. */
bool api_filter_enum(struct http_req *rq, const char *param, unsigned value,
                     const char *const *names, unsigned n_names);
int api_time_range(struct http_req *rq, uint64_t *out_from, uint64_t *out_to);
int api_window(struct http_req *rq, uint64_t *out_offset, uint64_t *out_limit);
void put_link(struct json_writer *w, const char *name, struct manager *m,
              const char *kind, const char *id, const char *type);
void put_site_link(struct json_writer *w, const char *name, struct manager *m,
                   const struct uuid *site);
/* One of the control API's, or null. */
void put_checkpoint(struct json_writer *w, const char *name, struct manager *m,
                    const struct uuid *vpg, const cJSON *c);
void put_time(struct json_writer *w, const char *name, uint64_t ms);
#define API_JSON_MAX (32 * MIB)

/* Tables of routes; each ends with method NULL. */
extern const struct http_route api_session_routes[], api_site_routes[],
    api_inventory_routes[], api_settings_routes[], api_vpg_routes[],
    api_point_routes[], api_task_routes[], api_misc_routes[], api_join_routes[],
    api_peer_routes[], api_local_routes[], api_volume_routes[],
    api_renew_routes[], api_alert_routes[], api_password_routes[],
    api_local_password_routes[];

#endif
