/* The managers of other sites.  About once a second each of two paired managers
 * posts to the other what it knows of itself and of the VPGs they share, and
 * gets the same back in the answer; so one of the two being able to dial is
 * enough for both to see.  What differs in the VPGs' definitions is then
 * exchanged: the higher version rules, and a VPG that was deleted here is
 * deleted there.  docs/formats/peer-api.md lists the calls. */
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/log.h"
#include "common/text.h"
#include "manager/manager.h"

enum {
    RECORD_MAX = 4 * 1024 * 1024,
    STATE_MAX = 8 * 1024 * 1024,
    TASKS_TOLD = 50,
};

struct peer *
peer_new(void)
{
    struct peer *p = calloc(1, sizeof *p);

    if (p) {
        list_init(&p->link);
        list_init(&p->replicators);
    }
    return p;
}

static void
free_replicators(struct peer *p)
{
    struct list *pos, *tmp;

    list_for_each_safe (pos, tmp, &p->replicators)
        replicator_free(list_entry(pos, struct replicator, link));
}

void
peer_free(struct peer *p)
{
    if (!p)
        return;
    list_del(&p->link);
    free_replicators(p);
    dest_free(p->dest);
    cJSON_Delete(p->tasks);
    free(p->root_pem);
    free(p->crl_pem);
    free(p);
}

struct peer *
peers_find(struct manager *m, const struct uuid *site)
{
    struct list *pos;

    list_for_each (pos, &m->peers) {
        struct peer *p = list_entry(pos, struct peer, link);

        if (uuid_equal(&p->site, site))
            return p;
    }
    return NULL;
}

bool
peer_fresh(const struct peer *p)
{
    return p->heard_ms && http_loop_now_ms() - p->heard_ms < STALE_MS;
}

const char *
site_name(struct manager *m, const struct uuid *site)
{
    const struct peer *p;

    if (uuid_equal(site, &m->site))
        return m->site_name;
    p = peers_find(m, site);
    return p ? p->name : "";
}

/* --- records ------------------------------------------------------------------------- */

static void
put_known(struct json_writer *w, struct peer *p)
{
    struct list *pos;

    json_open_array(w, "Replicators");
    list_for_each (pos, &p->replicators) {
        const struct replicator *r = list_entry(pos, struct replicator, link);
        const char *address = replicator_data_address(r);

        json_open_obj(w, NULL);
        json_put_uuid(w, "Identifier", &r->id);
        json_put_str(w, "Name", r->name);
        json_put_bool(w, "Revoked", r->revoked);
        json_open_obj(w, "Status");
        json_open_obj(w, "Replicator");
        if (address)
            json_put_str(w, "DataAddress", address);
        json_close_obj(w);
        json_close_obj(w);
        json_close_obj(w);
    }
    json_close_array(w);
}

int
peers_save(struct manager *m, struct peer *p, struct err *err)
{
    struct json_writer w;
    char id[UUID_TEXT_SIZE];
    struct buf out;
    int rc;

    buf_init(&out, RECORD_MAX);
    json_begin(&w, &out);
    json_open_obj(&w, NULL);
    json_put_uuid(&w, "Deployment", &p->deployment);
    json_put_str(&w, "Name", p->name);
    json_put_str(&w, "Location", p->location);
    json_put_str(&w, "Host", p->host);
    json_put_u64(&w, "Port", p->port);
    json_put_str(&w, "RootPem", p->root_pem);
    if (p->crl_pem)
        json_put_str(&w, "CrlPem", p->crl_pem);
    put_known(&w, p);
    json_close_obj(&w);
    uuid_format(&p->site, id);
    rc = out.failed ? err_set(err, out.failed, ERR_GEN_0002,
                              "site %s: too large", p->name)
                    : catalog_put(m->catalog, "peer", id, (char *)out.data, err);
    buf_release(&out);
    return rc;
}

static int
make_dest(struct manager *m, struct peer *p, struct err *err)
{
    struct tls_expect expect = { .roles = 1u << TLS_ROLE_MANAGER,
                                 .deployment = &p->deployment,
                                 .site = &p->site };
    char address[ADDRESS_SIZE + 16];
    bool v6 = strchr(p->host, ':') != NULL;

    dest_free(p->dest);
    p->dest = NULL;
    (void)snprintf(address, sizeof address, v6 ? "[%s]:%u" : "%s:%u", p->host,
                   p->port);
    return dest_new(address, m->client_tls, &expect, &p->dest, err);
}

static void read_replicators(struct peer *p, const cJSON *list, bool heard);

static int
load_peer(void *arg, const char *id, const char *json)
{
    struct manager *m = arg;
    struct peer *p = peer_new();
    const char *name, *location, *host, *root, *crl = NULL;
    uint64_t port;
    cJSON *tree = NULL;
    int rc = -EIO;

    if (p && uuid_parse(id, &p->site) == 0 &&
        json_parse(json, strlen(json), RECORD_MAX, &tree, NULL) == 0 &&
        json_uuid(tree, "Deployment", JSON_REQUIRED, &p->deployment, NULL) == 1 &&
        json_str(tree, "Name", JSON_REQUIRED, &name, NULL) == 1 &&
        json_str(tree, "Location", JSON_REQUIRED, &location, NULL) == 1 &&
        json_str(tree, "Host", JSON_REQUIRED, &host, NULL) == 1 &&
        json_str(tree, "RootPem", JSON_REQUIRED, &root, NULL) == 1 &&
        json_str(tree, "CrlPem", JSON_OPTIONAL, &crl, NULL) >= 0 &&
        json_u64(tree, "Port", JSON_REQUIRED, 1, 65535, &port, NULL) == 1) {
        (void)snprintf(p->name, sizeof p->name, "%s", name);
        (void)snprintf(p->location, sizeof p->location, "%s", location);
        (void)snprintf(p->host, sizeof p->host, "%s", host);
        p->port = (uint16_t)port;
        p->root_pem = strdup(root);
        p->crl_pem = crl ? strdup(crl) : NULL;
        read_replicators(p, json_get(tree, "Replicators"), false);
        rc = p->root_pem ? make_dest(m, p, NULL) : -ENOMEM;
    }
    cJSON_Delete(tree);
    if (rc == 0)
        list_push_back(&m->peers, &p->link);
    else
        peer_free(p);
    return rc;
}

int
peers_load(struct manager *m, struct err *err)
{
    return catalog_each(m->catalog, "peer", load_peer, m, err);
}

void
peers_free(struct manager *m)
{
    struct list *pos, *tmp;

    list_for_each_safe (pos, tmp, &m->peers)
        peer_free(list_entry(pos, struct peer, link));
}

int
peers_put(struct manager *m, struct peer *p, struct err *err)
{
    struct peer *old = peers_find(m, &p->site);
    int rc = make_dest(m, p, err);

    if (rc == 0)
        rc = peers_save(m, p, err);
    if (rc < 0)
        return rc;
    if (old)
        peer_free(old);
    list_push_back(&m->peers, &p->link);
    return keys_rebuild(m, err);
}

int
peers_remove(struct manager *m, struct peer *p, struct err *err)
{
    char id[UUID_TEXT_SIZE];
    int rc;

    uuid_format(&p->site, id);
    rc = catalog_delete(m->catalog, "peer", id, err);
    if (rc < 0)
        return rc;
    peer_free(p);
    return keys_rebuild(m, err);
}

int
peers_call(struct manager *m, struct peer *p, const char *method,
           const char *path, const struct buf *body,
           void (*done)(struct rpc *r), void *arg, struct err *err)
{
    if (!p->dest)
        return err_set(err, -ENOTCONN, ERR_MGR_0012,
                       "site %s: its address is not known", p->name);
    return rpc_start(m->workers, p->dest, method, path, body, done, arg, NULL,
                     err);
}

/* --- what is told ------------------------------------------------------------------------ */

static bool
shares(const struct vpg *v, const struct uuid *site)
{
    return uuid_equal(&v->protected_site, site) ||
           uuid_equal(&v->recovery_site, site);
}

static void
put_replicators(struct manager *m, struct json_writer *w)
{
    struct list *pos;

    json_open_array(w, "Replicators");
    list_for_each (pos, &m->replicators) {
        const struct replicator *r = list_entry(pos, struct replicator, link);

        json_open_obj(w, NULL);
        json_put_uuid(w, "Identifier", &r->id);
        json_put_str(w, "Name", r->name);
        json_put_bool(w, "Revoked", r->revoked);
        if (r->heard_ms)
            json_put_u64(w, "AgeInMs", http_loop_now_ms() - r->heard_ms);
        if (r->status)
            json_put_tree(w, "Status", r->status);
        json_close_obj(w);
    }
    json_close_array(w);
}

static void
put_vpgs(struct manager *m, struct json_writer *w, const struct uuid *site)
{
    struct list *pos;

    json_open_array(w, "Vpgs");
    list_for_each (pos, &m->vpgs) {
        const struct vpg *v = list_entry(pos, struct vpg, link);

        if (!shares(v, site))
            continue;
        json_open_obj(w, NULL);
        json_put_uuid(w, "VpgIdentifier", &v->id.u);
        json_put_u64(w, "Version", v->version);
        json_close_obj(w);
    }
    json_close_array(w);
}

static void
put_tasks(struct manager *m, struct json_writer *w, const struct uuid *site)
{
    unsigned left = TASKS_TOLD;

    json_open_array(w, "Tasks");
    for (struct list *pos = m->ops.prev; pos != &m->ops && left;
         pos = pos->prev) {
        const struct op *op = list_entry(pos, struct op, link);
        const struct vpg *v = vpgs_find(m, &op->vpg);

        if (!v || !shares(v, site))
            continue;
        op_put_task(w, op);
        left--;
    }
    json_close_array(w);
}

void
peers_state(struct manager *m, const struct peer *p, struct buf *out)
{
    struct json_writer w;

    json_begin(&w, out);
    json_open_obj(&w, NULL);
    json_put_u64(&w, "Protocol", 1);
    json_put_uuid(&w, "SiteIdentifier", &m->site);
    json_put_str(&w, "SiteName", m->site_name);
    json_put_str(&w, "Location", m->cfg.location);
    json_put_str(&w, "Version", HOLDFAST_VERSION);
    json_put_u64(&w, "TimeMs", wall_ms());
    json_put_str(&w, "RevocationListPem", keys_crl_pem(m));
    put_replicators(m, &w);
    put_vpgs(m, &w, &p->site);
    put_tasks(m, &w, &p->site);
    json_close_obj(&w);
}

/* --- what is heard -------------------------------------------------------------------------- */

static void
read_replicator(struct peer *p, const cJSON *item, bool heard)
{
    struct replicator *r = calloc(1, sizeof *r);
    const char *name = "";
    uint64_t age = STALE_MS;
    const cJSON *status = NULL;

    if (!r)
        return;
    list_init(&r->link);
    r->site = p->site;
    if (json_uuid(item, "Identifier", JSON_REQUIRED, &r->id, NULL) < 0 ||
        json_str(item, "Name", JSON_REQUIRED, &name, NULL) < 0) {
        replicator_free(r);
        return;
    }
    (void)text_safe(r->name, sizeof r->name, name, strlen(name));
    (void)json_bool(item, "Revoked", JSON_OPTIONAL, &r->revoked, NULL);
    (void)json_u64(item, "AgeInMs", JSON_OPTIONAL, 0, JSON_INT_MAX, &age, NULL);
    (void)json_obj(item, "Status", JSON_OPTIONAL, &status, NULL);
    if (status)
        r->status = cJSON_Duplicate(status, true);
    if (heard && status && age < http_loop_now_ms())
        r->heard_ms = http_loop_now_ms() - age;
    list_push_back(&p->replicators, &r->link);
}

static void
read_replicators(struct peer *p, const cJSON *list, bool heard)
{
    const cJSON *item;

    free_replicators(p);
    cJSON_ArrayForEach (item, list)
        read_replicator(p, item, heard);
}

/* Who is there and where, for noticing that it must be saved. */
static void
digest(struct peer *p, struct buf *out)
{
    struct json_writer w;

    json_begin(&w, out);
    json_open_obj(&w, NULL);
    json_put_str(&w, "Name", p->name);
    put_known(&w, p);
    json_close_obj(&w);
}

struct exchange {
    struct manager *m;
    struct uuid site;
    bool beat;
    uint64_t sent_ms;
};

static void exchange_done(struct rpc *r);

static void
call_about_vpg(struct manager *m, struct peer *p, const char *method,
               const struct uuid *vpg, const struct buf *body)
{
    struct exchange *x = calloc(1, sizeof *x);
    char id[UUID_TEXT_SIZE], path[120];

    if (!x)
        return;
    x->m = m;
    x->site = p->site;
    uuid_format(vpg, id);
    /* What is deleted here ends there whatever is open: nobody could close it. */
    (void)snprintf(path, sizeof path, "/peer/v1/vpgs/%s?quiet=1%s%s", id,
                   body ? "" : "&force=true",
                   !body && vpgs_keeps_replicas(m, vpg) ? "&keepReplicas=true"
                                                        : "");
    if (peers_call(m, p, method, path, body, exchange_done, x, NULL) < 0)
        free(x);
}

static void
send_definition(struct manager *m, struct peer *p, const struct vpg *v)
{
    struct buf body;

    buf_init(&body, VPG_DEFINITION_MAX);
    if (vpg_encode(v, &body) == 0)
        call_about_vpg(m, p, "PUT", &v->id.u, &body);
    buf_release(&body);
}

/* Version the other side has of a VPG, 0: none. */
static uint64_t
version_there(const cJSON *list, const struct uuid *id)
{
    const cJSON *item;
    struct uuid u;
    uint64_t version;

    cJSON_ArrayForEach (item, list) {
        if (json_uuid(item, "VpgIdentifier", JSON_REQUIRED, &u, NULL) == 1 &&
            uuid_equal(&u, id) &&
            json_u64(item, "Version", JSON_REQUIRED, 1, JSON_INT_MAX, &version,
                     NULL) == 1)
            return version;
    }
    return 0;
}

/* A task is about to tell the other site itself, and wants to hear what it says. */
static bool
being_defined(struct manager *m, const struct uuid *vpg)
{
    struct list *pos;

    list_for_each (pos, &m->ops) {
        const struct op *op = list_entry(pos, struct op, link);

        if (op->state == OP_IN_PROGRESS && uuid_equal(&op->vpg, vpg) &&
            (op->type == &op_create_vpg || op->type == &op_update_vpg))
            return true;
    }
    return false;
}

/* Ours that are newer go there; theirs that are gone here are taken away. */
static void
compare_vpgs(struct manager *m, struct peer *p, const cJSON *list)
{
    struct list *pos;
    const cJSON *item;
    struct uuid id;

    if (!p->dest)
        return;
    list_for_each (pos, &m->vpgs) {
        const struct vpg *v = list_entry(pos, struct vpg, link);

        if (shares(v, &p->site) && v->state == VPG_ACTIVE &&
            !being_defined(m, &v->id.u) &&
            version_there(list, &v->id.u) < v->version)
            send_definition(m, p, v);
    }
    cJSON_ArrayForEach (item, list) {
        if (json_uuid(item, "VpgIdentifier", JSON_REQUIRED, &id, NULL) == 1 &&
            !vpgs_find(m, &id) && vpgs_is_removed(m, &id))
            call_about_vpg(m, p, "DELETE", &id, NULL);
    }
}

static void
heard_crl(struct manager *m, struct peer *p, const char *pem)
{
    struct err err = ERR_INIT;
    char *old = p->crl_pem;

    if (!pem || (old && strcmp(old, pem) == 0))
        return;
    p->crl_pem = strdup(pem);
    if (!p->crl_pem || keys_rebuild(m, &err) < 0) {
        free(p->crl_pem);
        p->crl_pem = old;
        if (err.num)
            log_err(LOG_WARN, "manager", "", "revocation list", &err);
        return;
    }
    free(old);
    (void)peers_save(m, p, NULL);
}

void
peers_heard(struct manager *m, struct peer *p, const cJSON *state)
{
    const char *name = NULL, *location = NULL, *version = NULL, *crl = NULL;
    uint64_t time_ms = 0;
    const cJSON *tasks = NULL;
    struct buf before, after;

    buf_init(&before, RECORD_MAX);
    buf_init(&after, RECORD_MAX);
    digest(p, &before);
    (void)json_str(state, "SiteName", JSON_OPTIONAL, &name, NULL);
    (void)json_str(state, "Location", JSON_OPTIONAL, &location, NULL);
    (void)json_str(state, "Version", JSON_OPTIONAL, &version, NULL);
    (void)json_str(state, "RevocationListPem", JSON_OPTIONAL, &crl, NULL);
    (void)json_u64(state, "TimeMs", JSON_OPTIONAL, 0, JSON_INT_MAX, &time_ms,
                   NULL);
    if (name)
        (void)text_safe(p->name, sizeof p->name, name, strlen(name));
    if (location)
        (void)text_safe(p->location, sizeof p->location, location,
                        strlen(location));
    if (version)
        (void)text_safe(p->version, sizeof p->version, version, strlen(version));
    p->skew_ms = time_ms ? (int64_t)time_ms - (int64_t)wall_ms() : 0;
    if (!peer_fresh(p))
        log_line(LOG_INFO, "manager", "", "site %s is connected", p->name);
    p->heard_ms = http_loop_now_ms();
    p->last_contact_ms = wall_ms();
    p->error[0] = '\0';
    read_replicators(p, json_get(state, "Replicators"), true);
    (void)json_array(state, "Tasks", JSON_OPTIONAL, &tasks, NULL);
    cJSON_Delete(p->tasks);
    p->tasks = tasks ? cJSON_Duplicate(tasks, true) : NULL;
    digest(p, &after);
    if (before.len != after.len ||
        memcmp(before.data, after.data, before.len) != 0)
        (void)peers_save(m, p, NULL);
    heard_crl(m, p, crl);
    compare_vpgs(m, p, json_get(state, "Vpgs"));
    buf_release(&before);
    buf_release(&after);
}

static void
exchange_done(struct rpc *r)
{
    struct exchange *x = r->arg;
    struct peer *p =
        workers_ending(r->job.workers) ? NULL : peers_find(x->m, &x->site);

    if (p && x->beat)
        p->busy = false;
    if (p && r->rc < 0) {
        if (strcmp(p->error, r->err.msg) != 0)
            log_err(LOG_WARN, "manager", "",
                    x->beat ? "site's heartbeat" : "site's VPG", &r->err);
        (void)snprintf(p->error, sizeof p->error, "%s", r->err.msg);
    } else if (p && x->beat) {
        p->rtt_ms = http_loop_now_ms() - x->sent_ms;
        peers_heard(x->m, p, r->json);
    }
    free(x);
}

void
peers_tick(struct manager *m)
{
    struct list *pos;

    list_for_each (pos, &m->peers) {
        struct peer *p = list_entry(pos, struct peer, link);
        struct exchange *x;
        struct buf body;

        if (p->busy || !p->dest || !(x = calloc(1, sizeof *x)))
            continue;
        x->m = m;
        x->site = p->site;
        x->beat = true;
        x->sent_ms = http_loop_now_ms();
        buf_init(&body, STATE_MAX);
        peers_state(m, p, &body);
        if (!body.failed && peers_call(m, p, "POST", "/peer/v1/heartbeat",
                                       &body, exchange_done, x, NULL) == 0)
            p->busy = true;
        else
            free(x);
        buf_release(&body);
    }
}
