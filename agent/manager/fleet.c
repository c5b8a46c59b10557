/* The replicators of this site: who has joined, what each says of itself once
 * a second, and what each must be told.  The manager's word is repeated until
 * it is what the replicator last took: trust in other sites, revocations, and
 * for each VPG its source or target.  Calls to one replicator follow one
 * another, so that an older word never overtakes a newer one. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/log.h"
#include "manager/manager.h"

enum {
    POLL_MS = 1000,
    RETRY_MS = 3000,
    RECORD_MAX = 64 * 1024,
    PUSH_MAX = 4 * 1024 * 1024,
};

void
replicator_free(struct replicator *r)
{
    if (!r)
        return;
    list_del(&r->link);
    cJSON_Delete(r->status);
    dest_free(r->dest);
    cJSON_Delete(r->pushed_peers);
    free(r->started_at);
    free(r->issued);
    free(r);
}

bool
replicator_fresh(const struct replicator *r)
{
    return r->heard_ms && http_loop_now_ms() - r->heard_ms < STALE_MS;
}

static struct replicator *
find_in(struct list *head, const struct uuid *id)
{
    struct list *pos;

    list_for_each (pos, head) {
        struct replicator *r = list_entry(pos, struct replicator, link);

        if (uuid_equal(&r->id, id))
            return r;
    }
    return NULL;
}

struct replicator *
fleet_find(struct manager *m, const struct uuid *id)
{
    return find_in(&m->replicators, id);
}

struct replicator *
any_replicator(struct manager *m, const struct uuid *id)
{
    struct replicator *r = fleet_find(m, id);
    struct list *pos;

    list_for_each (pos, &m->peers) {
        if (!r)
            r = find_in(&list_entry(pos, struct peer, link)->replicators, id);
    }
    return r;
}

static const cJSON *
find_lane(const struct replicator *r, const char *array, const struct vpg *v)
{
    const cJSON *item;
    struct uuid id;

    if (!r || !r->status)
        return NULL;
    cJSON_ArrayForEach (item, json_get(r->status, array)) {
        if (json_uuid(item, "VpgIdentifier", JSON_REQUIRED, &id, NULL) == 1 &&
            uuid_equal(&id, &v->id.u))
            return item;
    }
    return NULL;
}

const cJSON *
replicator_source(const struct replicator *r, const struct vpg *v)
{
    return find_lane(r, "Sources", v);
}

const cJSON *
replicator_target(const struct replicator *r, const struct vpg *v)
{
    return find_lane(r, "Targets", v);
}

const char *
replicator_data_address(const struct replicator *r)
{
    const char *address = NULL;

    if (r->status)
        (void)json_str(json_get(r->status, "Replicator"), "DataAddress",
                       JSON_OPTIONAL, &address, NULL);
    return address;
}

const cJSON *
replicator_volume(const struct replicator *r, const struct uuid *volume)
{
    const cJSON *vm, *vol;
    struct uuid id;

    cJSON_ArrayForEach (vm, json_get(r ? r->status : NULL, "Vms")) {
        cJSON_ArrayForEach (vol, json_get(vm, "Volumes")) {
            if (json_uuid(vol, "VolumeIdentifier", JSON_REQUIRED, &id, NULL) ==
                    1 &&
                uuid_equal(&id, volume))
                return vol;
        }
    }
    return NULL;
}

/* --- records ------------------------------------------------------------------------ */

static void
put_issued(struct json_writer *w, const struct replicator *r)
{
    json_open_array(w, "Certificates");
    for (unsigned i = 0; i < r->n_issued; i++) {
        json_open_obj(w, NULL);
        json_put_str(w, "Serial", r->issued[i].serial);
        json_put_str(w, "Key", r->issued[i].key);
        json_put_u64(w, "NotBeforeSeconds", r->issued[i].not_before_s);
        json_put_u64(w, "NotAfterSeconds", r->issued[i].not_after_s);
        json_close_obj(w);
    }
    json_close_array(w);
}

static int
save(struct manager *m, const struct replicator *r, struct err *err)
{
    struct json_writer w;
    char id[UUID_TEXT_SIZE];
    struct buf out;
    int rc;

    buf_init(&out, RECORD_MAX);
    json_begin(&w, &out);
    json_open_obj(&w, NULL);
    json_put_str(&w, "Name", r->name);
    json_put_str(&w, "Address", r->address);
    put_issued(&w, r);
    json_put_bool(&w, "Revoked", r->revoked);
    json_put_u64(&w, "JoinedMs", r->joined_ms);
    json_close_obj(&w);
    uuid_format(&r->id, id);
    rc = out.failed
             ? err_set(err, out.failed, ERR_GEN_0002, "replicator: too large")
             : catalog_put(m->catalog, "replicator", id, (char *)out.data, err);
    buf_release(&out);
    return rc;
}

static int
make_dest(struct manager *m, struct replicator *r, struct err *err)
{
    struct tls_expect expect = { .roles = 1u << TLS_ROLE_REPLICATOR,
                                 .site = &m->site,
                                 .id = &r->id };

    dest_free(r->dest);
    r->dest = NULL;
    return *r->address
               ? dest_new(r->address, m->client_tls, &expect, &r->dest, err)
               : 0;
}

static struct replicator *
replicator_new(struct manager *m, const struct uuid *id)
{
    struct replicator *r = calloc(1, sizeof *r);

    if (!r)
        return NULL;
    list_init(&r->link);
    r->id = *id;
    r->site = m->site;
    return r;
}

static int
add_issued(struct replicator *r, const char *serial, const char *key,
           uint64_t from_s, uint64_t to_s)
{
    struct issued *more = reallocarray(r->issued, r->n_issued + 1, sizeof *more);

    if (!more)
        return -ENOMEM;
    r->issued = more;
    more += r->n_issued++;
    *more = (struct issued){ .not_before_s = from_s, .not_after_s = to_s };
    (void)snprintf(more->serial, sizeof more->serial, "%s", serial);
    (void)snprintf(more->key, sizeof more->key, "%s", key);
    return 0;
}

/* "Certificates", or "Serial" as records of the first releases have it. */
static int
load_issued(struct replicator *r, const cJSON *tree)
{
    const char *serial = NULL, *key;
    const cJSON *list = NULL, *item;
    uint64_t from, to;

    if (json_str(tree, "Serial", JSON_OPTIONAL, &serial, NULL) == 1 &&
        add_issued(r, serial, "", 0, 0) < 0)
        return -ENOMEM;
    (void)json_array(tree, "Certificates", JSON_OPTIONAL, &list, NULL);
    cJSON_ArrayForEach (item, list) {
        key = "";
        (void)json_str(item, "Key", JSON_OPTIONAL, &key, NULL);
        if (json_str(item, "Serial", JSON_REQUIRED, &serial, NULL) < 0 ||
            json_u64(item, "NotBeforeSeconds", JSON_REQUIRED, 0, JSON_INT_MAX,
                     &from, NULL) < 0 ||
            json_u64(item, "NotAfterSeconds", JSON_REQUIRED, 0, JSON_INT_MAX,
                     &to, NULL) < 0)
            return -EIO;
        if (add_issued(r, serial, key, from, to) < 0)
            return -ENOMEM;
    }
    return r->n_issued ? 0 : -EIO;
}

/* Those that nobody accepts any more need not be remembered. */
static void
prune_issued(struct replicator *r)
{
    uint64_t now_s = wall_ms() / 1000;
    unsigned n = 0;

    for (unsigned i = 0; i < r->n_issued; i++) {
        /* a day for clocks that are behind */
        if (!r->issued[i].not_after_s ||
            r->issued[i].not_after_s + 86400 > now_s)
            r->issued[n++] = r->issued[i];
    }
    r->n_issued = n;
}

static int
load_replicator(void *arg, const char *id_text, const char *json)
{
    struct manager *m = arg;
    struct replicator *r;
    struct uuid id;
    const char *name, *address;
    cJSON *tree = NULL;
    int rc = -EIO;

    if (uuid_parse(id_text, &id) < 0 || !(r = replicator_new(m, &id)))
        return -EIO;
    if (json_parse(json, strlen(json), RECORD_MAX, &tree, NULL) == 0 &&
        json_str(tree, "Name", JSON_REQUIRED, &name, NULL) == 1 &&
        json_str(tree, "Address", JSON_REQUIRED, &address, NULL) == 1 &&
        load_issued(r, tree) == 0 &&
        json_bool(tree, "Revoked", JSON_REQUIRED, &r->revoked, NULL) == 1 &&
        json_u64(tree, "JoinedMs", JSON_REQUIRED, 0, JSON_INT_MAX,
                 &r->joined_ms, NULL) == 1) {
        (void)snprintf(r->name, sizeof r->name, "%s", name);
        (void)snprintf(r->address, sizeof r->address, "%s", address);
        list_push_back(&m->replicators, &r->link);
        rc = make_dest(m, r, NULL);
    } else {
        free(r->issued);
        free(r);
    }
    cJSON_Delete(tree);
    return rc;
}

int
fleet_load(struct manager *m, struct err *err)
{
    return catalog_each(m->catalog, "replicator", load_replicator, m, err);
}

void
fleet_free(struct manager *m)
{
    struct list *pos, *tmp;

    list_for_each_safe (pos, tmp, &m->replicators)
        replicator_free(list_entry(pos, struct replicator, link));
}

int
fleet_add(struct manager *m, const struct uuid *id, const char *name,
          const struct identity *cert, struct err *err)
{
    struct replicator *r = fleet_find(m, id);
    bool is_new = !r;
    int rc;

    if (is_new)
        r = replicator_new(m, id);
    else
        prune_issued(r);
    if (!r || add_issued(r, cert->serial, cert->key, cert->not_before_s,
                         cert->not_after_s) < 0) {
        if (is_new)
            replicator_free(r);
        return err_set(err, -ENOMEM, ERR_GEN_0002, "replicator: out of memory");
    }
    (void)snprintf(r->name, sizeof r->name, "%s", name);
    r->revoked = false;
    r->joined_ms = wall_ms();
    rc = save(m, r, err);
    if (is_new && rc == 0)
        list_push_back(&m->replicators, &r->link);
    else if (is_new)
        replicator_free(r);
    return rc;
}

bool
fleet_knows_key(const struct replicator *r, EVP_PKEY *key)
{
    char text[PKI_FINGERPRINT_TEXT];

    pki_key_text(key, text);
    for (unsigned i = 0; i < r->n_issued; i++)
        if (*text && strcmp(r->issued[i].key, text) == 0)
            return true;
    return false;
}

int
fleet_may_renew(struct manager *m, const struct replicator *r, struct err *err)
{
    uint64_t now_s = wall_ms() / 1000;
    unsigned n = 0;

    UNUSED(m);
    for (unsigned i = 0; i < r->n_issued; i++)
        n += !r->issued[i].not_after_s || r->issued[i].not_after_s > now_s;
    if (n < ISSUED_MAX)
        return 0;
    return err_set(err, -EBUSY, ERR_MGR_0016,
                   "replicator %s has %u certificates that have not expired, no more than %d are given",
                   r->name, n, ISSUED_MAX);
}

int
fleet_renewed(struct manager *m, struct replicator *r,
              const struct identity *cert, struct err *err)
{
    int rc;

    prune_issued(r);
    if (add_issued(r, cert->serial, cert->key, cert->not_before_s,
                   cert->not_after_s) < 0)
        return err_set(err, -ENOMEM, ERR_GEN_0002, "replicator: out of memory");
    rc = save(m, r, err);
    if (rc < 0)
        r->n_issued--;
    return rc;
}

int
fleet_set_address(struct manager *m, struct replicator *r, const char *address,
                  struct err *err)
{
    char old[ADDRESS_SIZE];
    int rc;

    if (strcmp(r->address, address) == 0)
        return 0;
    memcpy(old, r->address, sizeof old);
    (void)snprintf(r->address, sizeof r->address, "%s", address);
    rc = save(m, r, err);
    if (rc < 0) {
        memcpy(r->address, old, sizeof old);
        return rc;
    }
    r->next_ms = 0;
    return make_dest(m, r, err);
}

int
fleet_revoke(struct manager *m, struct replicator *r, struct err *err)
{
    int rc = 0;

    if (r->revoked)
        return 0;
    /* Also those before the last: they have been replaced, not forgotten. */
    for (unsigned i = 0; i < r->n_issued; i++) {
        rc = keys_revoke(m, r->issued[i].serial, err);
        if (rc < 0)
            return rc;
    }
    r->revoked = true;
    r->heard_ms = 0;
    (void)snprintf(r->error, sizeof r->error, "its certificate is revoked");
    return save(m, r, err);
}

int
fleet_forget(struct manager *m, struct replicator *r, struct err *err)
{
    char id[UUID_TEXT_SIZE];
    int rc;

    uuid_format(&r->id, id);
    rc = catalog_delete(m->catalog, "replicator", id, err);
    if (rc == 0)
        replicator_free(r);
    return rc;
}

/* --- calls ------------------------------------------------------------------------------- */

int
fleet_call(struct manager *m, struct replicator *r, const char *method,
           const char *path, const struct buf *body,
           void (*done)(struct rpc *r), void *arg, struct err *err)
{
    if (r->revoked)
        return err_set(err, -EACCES, ERR_MGR_0015,
                       "replicator %s: its certificate is revoked", r->name);
    if (!r->dest)
        return err_set(err, -ENOTCONN, ERR_MGR_0015,
                       "replicator %s has joined, but its address is not known yet",
                       r->name);
    return rpc_start(m->workers, r->dest, method, path, body, done, arg, NULL,
                     err);
}

/* What a poll or a push was for: the replicator may be gone when it ends. */
struct errand {
    struct manager *m;
    struct uuid replicator;
    enum {
        POLL,
        PUSH_PEER,
        PUSH_NO_PEER,
        PUSH_CRL,
        PUSH_SOURCE,
        PUSH_TARGET,
        DROP_LANE
    } what;
    struct uuid subject;
    uint64_t number;
    char *body; /* what was sent */
    uint64_t sent_ms;
};

static void
run_errands(struct manager *m, struct replicator *r, bool poll_is_new);

static void
remember(char **slot, char **body)
{
    free(*slot);
    *slot = *body;
    *body = NULL;
}

static void
pushed(struct manager *m, struct replicator *r, struct errand *e)
{
    struct vpg *v = vpgs_find(m, &e->subject);
    char site[UUID_TEXT_SIZE];

    switch (e->what) {
    case PUSH_PEER:
        uuid_format(&e->subject, site);
        cJSON_DeleteItemFromObject(r->pushed_peers, site);
        (void)cJSON_AddStringToObject(r->pushed_peers, site, e->body);
        break;
    case PUSH_NO_PEER:
        uuid_format(&e->subject, site);
        cJSON_DeleteItemFromObject(r->pushed_peers, site);
        break;
    case PUSH_CRL: r->pushed_crl = e->number; break;
    case PUSH_SOURCE:
        if (v)
            remember(&v->pushed_source, &e->body);
        break;
    case PUSH_TARGET:
        if (v)
            remember(&v->pushed_target, &e->body);
        break;
    case DROP_LANE:
    case POLL: break;
    }
}

static void
forget_pushed(struct manager *m, struct replicator *r)
{
    struct list *pos;

    cJSON_Delete(r->pushed_peers);
    r->pushed_peers = cJSON_CreateObject();
    r->pushed_crl = 0;
    list_for_each (pos, &m->vpgs) {
        struct vpg *v = list_entry(pos, struct vpg, link);

        if (uuid_equal(&v->source, &r->id)) {
            free(v->pushed_source);
            v->pushed_source = NULL;
        }
        if (uuid_equal(&v->target, &r->id)) {
            free(v->pushed_target);
            v->pushed_target = NULL;
        }
    }
}

static void
polled(struct manager *m, struct replicator *r, struct rpc *rpc,
       uint64_t asked_ms)
{
    const char *started = "";

    if (!r->heard_ms || *r->error)
        log_line(LOG_INFO, "manager", "", "replicator %s answers at %s",
                 r->name, r->address);
    cJSON_Delete(r->status);
    r->status = rpc->json;
    rpc->json = NULL;
    r->heard_ms = http_loop_now_ms();
    r->asked_ms = asked_ms;
    r->error[0] = '\0';
    (void)json_str(json_get(r->status, "Replicator"), "StartedAt",
                   JSON_OPTIONAL, &started, NULL);
    if (!r->started_at || strcmp(r->started_at, started) != 0) {
        free(r->started_at);
        r->started_at = strdup(started);
        forget_pushed(m, r); /* another life: say everything again */
    }
    vpgs_sample(m);
}

static void
errand_done(struct rpc *rpc)
{
    struct errand *e = rpc->arg;
    struct manager *m = e->m;
    struct replicator *r;

    if (workers_ending(rpc->job.workers)) {
        free(e->body);
        free(e);
        return;
    }
    r = fleet_find(m, &e->replicator);
    if (r) {
        r->busy = false;
        r->next_ms = http_loop_now_ms() + POLL_MS;
    }
    if (r && rpc->rc < 0) {
        if (strcmp(r->error, rpc->err.msg) != 0)
            log_err(LOG_WARN, "manager", "",
                    e->what == POLL ? "poll replicator" : "configure replicator",
                    &rpc->err);
        (void)snprintf(r->error, sizeof r->error, "%s", rpc->err.msg);
        r->next_ms += RETRY_MS - POLL_MS;
    } else if (r && e->what == POLL) {
        polled(m, r, rpc, e->number);
    } else if (r) {
        pushed(m, r, e);
    }
    /* What was asked before the last deletion may still show what that took
     * away itself. */
    if (r && rpc->rc == 0)
        run_errands(m, r, e->what == POLL && e->sent_ms > m->vpg_removed_ms);
    free(e->body);
    free(e);
}

static int
send_errand(struct manager *m, struct replicator *r, const char *method,
            const char *path, const struct buf *body, const struct errand *like)
{
    struct errand *e = malloc(sizeof *e);
    struct err err = ERR_INIT;

    if (!e)
        return -ENOMEM;
    *e = *like;
    e->m = m;
    e->replicator = r->id;
    e->body = body ? strdup((const char *)body->data) : NULL;
    e->sent_ms = http_loop_now_ms();
    if (fleet_call(m, r, method, path, body, errand_done, e, &err) < 0) {
        free(e->body);
        free(e);
        return -EAGAIN;
    }
    /* e is errand_done()'s now.  NOLINTNEXTLINE(clang-analyzer-unix.Malloc) */
    r->busy = true;
    return 0;
}

/* --- what must be told ----------------------------------------------------------------------- */

static void
put_peer_body(struct peer *p, struct buf *out)
{
    struct json_writer w;
    struct list *pos;

    json_begin(&w, out);
    json_open_obj(&w, NULL);
    json_put_str(&w, "SiteName", p->name);
    json_put_str(&w, "RootPem", p->root_pem);
    json_open_array(&w, "Replicators");
    list_for_each (pos, &p->replicators) {
        const struct replicator *r = list_entry(pos, struct replicator, link);

        if (!r->revoked)
            json_put_uuid(&w, NULL, &r->id);
    }
    json_close_array(&w);
    if (p->crl_pem)
        json_put_str(&w, "RevocationListPem", p->crl_pem);
    else
        json_put_null(&w, "RevocationListPem");
    json_close_obj(&w);
}

static bool
push_peer(struct manager *m, struct replicator *r, struct peer *p)
{
    struct errand e = { .what = PUSH_PEER, .subject = p->site };
    char id[UUID_TEXT_SIZE], path[96];
    const cJSON *known;
    struct buf body;
    bool sent = false;

    uuid_format(&p->site, id);
    known = cJSON_GetObjectItem(r->pushed_peers, id);
    (void)snprintf(path, sizeof path, "/control/v1/peers/%s", id);
    buf_init(&body, PUSH_MAX);
    put_peer_body(p, &body);
    if (!body.failed &&
        !(known && strcmp(known->valuestring, (char *)body.data) == 0))
        sent = send_errand(m, r, "PUT", path, &body, &e) == 0;
    buf_release(&body);
    return sent;
}

static bool
push_peers(struct manager *m, struct replicator *r)
{
    struct list *pos;
    const cJSON *known;

    list_for_each (pos, &m->peers) {
        if (push_peer(m, r, list_entry(pos, struct peer, link)))
            return true;
    }
    cJSON_ArrayForEach (known, r->pushed_peers) {
        struct errand e = { .what = PUSH_NO_PEER };
        char path[96];

        if (uuid_parse(known->string, &e.subject) < 0 ||
            peers_find(m, &e.subject))
            continue;
        (void)snprintf(path, sizeof path, "/control/v1/peers/%s", known->string);
        return send_errand(m, r, "DELETE", path, NULL, &e) == 0;
    }
    return false;
}

static bool
push_crl(struct manager *m, struct replicator *r)
{
    struct errand e = { .what = PUSH_CRL, .number = keys_crl_number(m) };
    struct json_writer w;
    struct buf body;
    bool sent;

    if (r->pushed_crl == e.number)
        return false;
    buf_init(&body, PUSH_MAX);
    json_begin(&w, &body);
    json_open_obj(&w, NULL);
    json_put_str(&w, "RevocationListPem", keys_crl_pem(m));
    json_close_obj(&w);
    sent = !body.failed &&
           send_errand(m, r, "PUT", "/control/v1/revocations", &body, &e) == 0;
    buf_release(&body);
    return sent;
}

static bool
push_lane(struct manager *m, struct replicator *r, struct vpg *v, bool source)
{
    struct errand e = { .what = source ? PUSH_SOURCE : PUSH_TARGET,
                        .subject = v->id.u };
    const char *known = source ? v->pushed_source : v->pushed_target;
    bool there = source ? replicator_source(r, v) != NULL
                        : replicator_target(r, v) != NULL;
    char id[UUID_TEXT_SIZE], path[96];
    struct buf body;
    bool sent = false;

    buf_init(&body, VPG_DEFINITION_MAX);
    if (source)
        vpgs_source_body(m, v, &body);
    else
        vpgs_target_body(m, v, &body);
    if (body.len && !body.failed &&
        !(there && known && strcmp(known, (char *)body.data) == 0)) {
        uuid_format(&v->id.u, id);
        (void)snprintf(path, sizeof path, "/control/v1/%s/%s",
                       source ? "sources" : "targets", id);
        sent = send_errand(m, r, "PUT", path, &body, &e) == 0;
    }
    buf_release(&body);
    return sent;
}

static bool
push_lanes(struct manager *m, struct replicator *r)
{
    struct list *pos;

    list_for_each (pos, &m->vpgs) {
        struct vpg *v = list_entry(pos, struct vpg, link);

        if (v->state != VPG_ACTIVE || ops_running(m, &v->id.u))
            continue;
        if (uuid_equal(&v->source, &r->id) && push_lane(m, r, v, true))
            return true;
        if (uuid_equal(&v->target, &r->id) && push_lane(m, r, v, false))
            return true;
    }
    return false;
}

/* A lane of a VPG that was deleted while the replicator was away.  Nobody can
 * close its views any more: they go with it. */
static bool
drop_lane(struct manager *m, struct replicator *r, bool source)
{
    const cJSON *item;

    cJSON_ArrayForEach (item,
                        json_get(r->status, source ? "Sources" : "Targets")) {
        struct errand e = { .what = POLL };
        char id[UUID_TEXT_SIZE], path[120];

        if (json_uuid(item, "VpgIdentifier", JSON_REQUIRED, &e.subject, NULL) <
                0 ||
            vpgs_find(m, &e.subject) || !vpgs_is_removed(m, &e.subject))
            continue;
        e.what = DROP_LANE;
        uuid_format(&e.subject, id);
        (void)snprintf(path, sizeof path, "/control/v1/%s/%s%s",
                       source ? "sources" : "targets", id,
                       source ? ""
                       : vpgs_keeps_replicas(m, &e.subject)
                           ? "?keepReplicas=true&force=true"
                           : "?keepReplicas=false&force=true");
        return send_errand(m, r, "DELETE", path, NULL, &e) == 0;
    }
    return false;
}

/* One thing after the other, each when the one before is done. */
static void
run_errands(struct manager *m, struct replicator *r, bool poll_is_new)
{
    if (r->busy || r->revoked || !r->dest || !r->status)
        return;
    if (push_crl(m, r) || push_peers(m, r) || push_lanes(m, r))
        return;
    if (poll_is_new && !drop_lane(m, r, true))
        (void)drop_lane(m, r, false);
}

void
fleet_tick(struct manager *m)
{
    uint64_t now = http_loop_now_ms();
    struct list *pos;

    list_for_each (pos, &m->replicators) {
        struct replicator *r = list_entry(pos, struct replicator, link);
        struct errand e = { .what = POLL, .number = now };

        if (!r->busy && !r->revoked && r->dest && now >= r->next_ms)
            (void)send_errand(m, r, "GET", "/control/v1/status", NULL, &e);
    }
}
