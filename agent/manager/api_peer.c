/* What managers of paired sites ask of each other, on a port of its own with
 * certificates on both sides: docs/formats/peer-api.md. */
#include <stdlib.h>
#include <string.h>

#include <openssl/crypto.h>

#include "common/bytes.h"
#include "common/log.h"
#include "common/secret.h"
#include "common/text.h"
#include "manager/manager.h"
#include "manager/pairtoken.h"

static struct peer *
caller(struct http_req *rq, struct manager *m)
{
    return peers_find(m, &http_req_peer(rq)->site); /* the gate has looked */
}

/* --- pairing --------------------------------------------------------------------------- */

struct kept_token {
    uint8_t secret[PAIRTOKEN_SECRET_SIZE];
    uint64_t expiry_s;
    bool used;
    int rc;
};

static int
read_token(void *arg, const char *id, const char *json)
{
    struct kept_token *t = arg;
    const char *secret;
    cJSON *tree = NULL;

    UNUSED(id);
    t->rc = json_parse(json, strlen(json), 4096, &tree, NULL);
    if (t->rc == 0 &&
        (json_str(tree, "Secret", JSON_REQUIRED, &secret, NULL) < 0 ||
         hex_decode(secret, t->secret, sizeof t->secret) < 0 ||
         json_u64(tree, "ExpirySeconds", JSON_REQUIRED, 0, JSON_INT_MAX,
                  &t->expiry_s, NULL) < 0 ||
         json_bool(tree, "Used", JSON_REQUIRED, &t->used, NULL) < 0))
        t->rc = -EIO;
    cJSON_Delete(tree);
    return t->rc;
}

struct pair_request {
    const char *token, *proof, *name, *location, *host, *root_pem;
    struct uuid token_id, site, deployment;
    uint64_t port;
};

static int
read_request(const cJSON *body, struct pair_request *q, struct err *err)
{
    q->location = q->host = "";
    if (json_uuid(body, "TokenIdentifier", JSON_REQUIRED, &q->token_id, err) < 0 ||
        json_str(body, "TokenIdentifier", JSON_REQUIRED, &q->token, err) < 0 ||
        json_str(body, "Proof", JSON_REQUIRED, &q->proof, err) < 0 ||
        json_uuid(body, "SiteIdentifier", JSON_REQUIRED, &q->site, err) < 0 ||
        json_uuid(body, "Deployment", JSON_REQUIRED, &q->deployment, err) < 0 ||
        json_str(body, "SiteName", JSON_REQUIRED, &q->name, err) < 0 ||
        json_str(body, "Location", JSON_OPTIONAL, &q->location, err) < 0 ||
        json_str(body, "HostName", JSON_OPTIONAL, &q->host, err) < 0 ||
        json_u64(body, "Port", JSON_REQUIRED, 1, 65535, &q->port, err) < 0 ||
        json_str(body, "RootPem", JSON_REQUIRED, &q->root_pem, err) < 0)
        return -EINVAL;
    if (strlen(q->host) >= 256 || strpbrk(q->host, "/@?# \t"))
        return err_set(err, -EINVAL, ERR_API_0014,
                       "HostName is no host name or address");
    return 0;
}

/* The asking site's root: what the proof covers, and of the said deployment. */
static int
read_root(const struct pair_request *q, uint8_t fp[PKI_FINGERPRINT_SIZE],
          struct err *err)
{
    STACK_OF(X509) *certs = NULL;
    struct tls_identity who;
    int rc = pki_certs_parse(q->root_pem, strlen(q->root_pem), &certs, err);

    if (rc == 0)
        rc = pki_cert_identity(sk_X509_value(certs, 0), &who, err);
    if (rc == 0 && (who.role != TLS_ROLE_ROOT ||
                    !uuid_equal(&who.deployment, &q->deployment)))
        rc = err_set(err, -EINVAL, ERR_MGR_0006,
                     "the root sent is not that of the deployment named");
    if (rc == 0)
        pki_fingerprint(sk_X509_value(certs, 0), fp);
    pki_certs_free(certs);
    return rc;
}

static int
check_proof(struct http_req *rq, const struct pair_request *q,
            struct pairtoken *t, const uint8_t fp[],
            uint8_t out_answer[PAIRTOKEN_PROOF_SIZE], struct err *err)
{
    uint8_t exported[PAIRTOKEN_EXPORT_SIZE], want[PAIRTOKEN_PROOF_SIZE],
        got[PAIRTOKEN_PROOF_SIZE];
    int rc = http_req_exporter(rq, PAIRTOKEN_EXPORT_LABEL, exported,
                               sizeof exported, err);

    t->id = q->token_id;
    if (rc == 0)
        rc = pairtoken_proof(t, PAIRTOKEN_REQUEST, fp, exported, want, err);
    if (rc == 0 && (hex_decode(q->proof, got, sizeof got) < 0 ||
                    CRYPTO_memcmp(got, want, sizeof want) != 0))
        rc = err_set(err, -EACCES, ERR_MGR_0006,
                     "the proof does not fit token, root and connection");
    if (rc == 0)
        rc = pairtoken_proof(t, PAIRTOKEN_ANSWER, fp, exported, out_answer, err);
    return rc;
}

static struct peer *
make_peer(struct http_req *rq, const struct pair_request *q)
{
    struct peer *p = peer_new();

    if (!p)
        return NULL;
    p->site = q->site;
    p->deployment = q->deployment;
    p->port = (uint16_t)q->port;
    p->root_pem = strdup(q->root_pem);
    (void)text_safe(p->name, sizeof p->name, q->name, strlen(q->name));
    (void)text_safe(p->location, sizeof p->location, q->location,
                    strlen(q->location));
    (void)snprintf(p->host, sizeof p->host, "%s",
                   *q->host ? q->host : http_req_source(rq));
    return p;
}

/* Burn the token before anything is gained by it. */
static int
burn(struct manager *m, const struct pair_request *q, struct err *err)
{
    return catalog_put(m->catalog, "pairtoken", q->token,
                       "{\"Secret\":\"0000000000000000000000000000000000000000000000000000000000000000\","
                       "\"ExpirySeconds\":0,\"Used\":true}",
                       err);
}

static int
accept_pairing(struct http_req *rq, struct manager *m,
               const struct pair_request *q,
               uint8_t answer[PAIRTOKEN_PROOF_SIZE], struct err *err)
{
    struct kept_token kept = { .rc = -ENOENT };
    struct pairtoken t = { .expiry_s = 0 };
    uint8_t fp[PKI_FINGERPRINT_SIZE];
    struct peer *p;
    int rc =
        catalog_get(m->catalog, "pairtoken", q->token, read_token, &kept, NULL);

    if (rc < 0 || kept.used || kept.expiry_s < wall_ms() / 1000)
        return err_set(err, -EACCES, ERR_MGR_0005,
                       "the pairing token is unknown, used or expired");
    memcpy(t.secret, kept.secret, sizeof t.secret);
    rc = read_root(q, fp, err);
    if (rc == 0)
        rc = check_proof(rq, q, &t, fp, answer, err);
    OPENSSL_cleanse(&t, sizeof t);
    OPENSSL_cleanse(&kept, sizeof kept);
    if (rc == 0 && uuid_equal(&q->site, &m->site))
        rc = err_set(err, -EINVAL, ERR_MGR_0006,
                     "a site cannot be paired with itself");
    if (rc == 0)
        rc = burn(m, q, err);
    if (rc < 0)
        return rc;
    p = make_peer(rq, q);
    rc = p && p->root_pem
             ? peers_put(m, p, err)
             : err_set(err, -ENOMEM, ERR_GEN_0002, "pairing: out of memory");
    if (rc < 0)
        peer_free(p);
    return rc;
}

static void
pair(struct http_req *rq, void *ctx)
{
    struct manager *m = ctx;
    struct pair_request q;
    uint8_t answer[PAIRTOKEN_PROOF_SIZE];
    char hex[2 * PAIRTOKEN_PROOF_SIZE + 1];
    struct err err = ERR_INIT;
    struct json_writer w;
    struct buf out;
    const cJSON *body;

    if (http_req_json(rq, &body) < 0)
        return;
    if (read_request(body, &q, &err) < 0 ||
        accept_pairing(rq, m, &q, answer, &err) < 0) {
        log_line(LOG_WARN, "manager", "",
                 "pairing asked from %s was refused: %s", http_req_source(rq),
                 err.msg);
        http_reply_err(rq, http_status_of(err.num), &err);
        return;
    }
    events_record(m, 23, NULL, "", true, "",
                  "paired with another site, which had our token");
    hex_encode(answer, sizeof answer, hex);
    buf_init(&out, 64 * KIB);
    json_begin(&w, &out);
    json_open_obj(&w, NULL);
    json_put_uuid(&w, "SiteIdentifier", &m->site);
    json_put_str(&w, "SiteName", m->site_name);
    json_put_str(&w, "Location", m->cfg.location);
    json_put_str(&w, "RootPem", keys_root_pem(m));
    json_put_str(&w, "Proof", hex);
    json_close_obj(&w);
    http_reply_buf(rq, 200, &out);
}

static void
unpair(struct http_req *rq, void *ctx)
{
    struct manager *m = ctx;
    struct peer *p = caller(rq, m);
    struct err err = ERR_INIT;
    struct list *pos;
    char text[200];

    list_for_each (pos, &m->vpgs) {
        const struct vpg *v = list_entry(pos, struct vpg, link);

        if (uuid_equal(&v->protected_site, &p->site) ||
            uuid_equal(&v->recovery_site, &p->site)) {
            http_reply_fail(rq, 409, ERR_MGR_0011,
                            "the sites still share VPG %s", v->name);
            return;
        }
    }
    (void)snprintf(text, sizeof text, "site %s has ended the pairing", p->name);
    /* Answer first: the connection ends with the trust. */
    http_reply_empty(rq, 200);
    if (peers_remove(m, p, &err) < 0)
        log_err(LOG_ERROR, "manager", "", "unpair", &err);
    events_record(m, 24, NULL, "", true, "", text);
}

/* --- heartbeat ----------------------------------------------------------------------------- */

static void
heartbeat(struct http_req *rq, void *ctx)
{
    struct manager *m = ctx;
    struct peer *p = caller(rq, m);
    uint64_t protocol = 0;
    struct err err = ERR_INIT;
    const cJSON *body;
    struct buf out;

    if (http_req_json(rq, &body) < 0)
        return;
    if (json_u64(body, "Protocol", JSON_REQUIRED, 1, 1, &protocol, &err) < 0) {
        http_reply_err(rq, 400, &err);
        return;
    }
    peers_heard(m, p, body);
    buf_init(&out, API_JSON_MAX);
    peers_state(m, p, &out);
    http_reply_buf(rq, 200, &out);
}

/* --- definitions ----------------------------------------------------------------------------- */

struct lane_call {
    struct manager *m;
    struct http_req *rq;
    struct uuid vpg;
    bool remove, keep;
};

static void
lane_done(struct rpc *r)
{
    struct lane_call *c = r->arg;
    struct err err = ERR_INIT;
    const char *state = "";
    struct json_writer w;
    struct buf out;
    struct vpg *v;

    if (r->rc < 0 && !(c->remove && r->rc == -ENOENT)) {
        http_reply_err(c->rq, r->status ? r->status : http_status_of(r->rc),
                       &r->err);
        free(c);
        return;
    }
    (void)json_str(r->json, "State", JSON_OPTIONAL, &state, NULL);
    v = c->remove && strcmp(state, "Keeping") != 0 &&
                !workers_ending(r->job.workers)
            ? vpgs_find(c->m, &c->vpg)
            : NULL;
    if (v && vpgs_remove(c->m, v, c->keep, &err) < 0) {
        http_reply_err(c->rq, http_status_of(err.num), &err);
    } else if (*state) { /* the images are kept: the same call tells how far */
        buf_init(&out, 64 * KIB);
        json_begin(&w, &out);
        json_put_tree(&w, NULL, r->json);
        http_reply_buf(c->rq, 200, &out);
    } else {
        http_reply_empty(c->rq, 200);
    }
    free(c);
}

/* Our side's replicator takes or drops its part; then the caller hears. */
static void
call_lane(struct http_req *rq, struct manager *m, const struct vpg *v,
          bool remove)
{
    bool source = uuid_equal(&v->protected_site, &m->site);
    struct replicator *r = fleet_find(m, source ? &v->source : &v->target);
    struct lane_call *c = calloc(1, sizeof *c);
    const char *want = http_req_query(rq, "keepReplicas");
    const char *force = http_req_query(rq, "force");
    bool keep = want && strcmp(want, "true") == 0;
    char id[UUID_TEXT_SIZE], path[160];
    struct err err = ERR_INIT;
    struct buf body;

    uuid_format(&v->id.u, id);
    (void)snprintf(path, sizeof path, "/control/v1/%s/%s%s%s%s",
                   source ? "sources" : "targets", id,
                   remove && !source ? "?keepReplicas=" : "",
                   remove && !source ? (keep ? "true" : "false") : "",
                   remove && !source && force && strcmp(force, "true") == 0
                       ? "&force=true"
                       : "");
    buf_init(&body, VPG_DEFINITION_MAX);
    if (!remove && source)
        vpgs_source_body(m, v, &body);
    else if (!remove)
        vpgs_target_body(m, v, &body);
    if (!r || !c || (!remove && !body.len)) {
        http_reply_fail(rq, r ? 503 : 404, r ? ERR_MGR_0015 : ERR_API_0013,
                        r ? "the address of the other site's replicator is not known here yet"
                          : "the replicator named is not one of this site");
        free(c);
    } else {
        *c = (struct lane_call){ m, rq, v->id.u, remove, keep };
        if (fleet_call(m, r, remove ? "DELETE" : "PUT", path,
                       remove ? NULL : &body, lane_done, c, &err) < 0) {
            http_reply_err(rq, 503, &err);
            free(c);
        }
    }
    buf_release(&body);
}

static int
check_sites(struct manager *m, const struct peer *p, const struct vpg *v,
            struct err *err)
{
    bool ours_protects = uuid_equal(&v->protected_site, &m->site) &&
                         uuid_equal(&v->recovery_site, &p->site);
    bool ours_recovers = uuid_equal(&v->recovery_site, &m->site) &&
                         uuid_equal(&v->protected_site, &p->site);
    const struct vpg *same = vpgs_by_name(m, v->name);

    if (!ours_protects && !ours_recovers)
        return err_set(err, -EACCES, ERR_API_0009,
                       "VPG %s is not one between the two sites", v->name);
    if (same && !uuid_equal(&same->id.u, &v->id.u))
        return err_set(err, -EINVAL, ERR_MGR_0009,
                       "there is a VPG named %s already at site %s", v->name,
                       m->site_name);
    return 0;
}

static void
vpg_put(struct http_req *rq, void *ctx)
{
    struct manager *m = ctx;
    const struct peer *p = caller(rq, m);
    struct vpg *v = NULL, *old;
    struct err err = ERR_INIT;
    const cJSON *body;

    if (http_req_json(rq, &body) < 0)
        return;
    if (vpg_decode(body, &v, &err) < 0 || check_sites(m, p, v, &err) < 0) {
        vpg_free(v);
        http_reply_err(rq, http_status_of(err.num), &err);
        return;
    }
    old = vpgs_find(m, &v->id.u);
    if (vpgs_is_removed(m, &v->id.u)) {
        http_reply_fail(rq, 409, ERR_MGR_0011, "VPG %s was deleted at site %s",
                        v->name, m->site_name);
        vpg_free(v);
        return;
    }
    if (old && (old->version > v->version ||
                (old->version == v->version &&
                 uuid_equal(&v->protected_site, &m->site)))) {
        vpg_free(v); /* what we have rules, and goes there by itself */
        v = old;
    } else if (vpgs_put(m, v, &err) < 0) {
        vpg_free(v);
        http_reply_err(rq, http_status_of(err.num), &err);
        return;
    }
    if (http_req_query(rq, "apply"))
        call_lane(rq, m, v, false);
    else
        http_reply_empty(rq, 200);
}

static void
vpg_delete(struct http_req *rq, void *ctx)
{
    struct manager *m = ctx;
    const struct peer *p = caller(rq, m);
    struct err err = ERR_INIT;
    struct uuid id;
    struct vpg *v;

    if (api_uuid(rq, "vpg", &id) < 0)
        return;
    v = vpgs_find(m, &id);
    if (!v) {
        http_reply_empty(rq, 200);
        return;
    }
    if (!uuid_equal(&v->protected_site, &p->site) &&
        !uuid_equal(&v->recovery_site, &p->site)) {
        (void)err_set(&err, -EACCES, ERR_API_0009,
                      "VPG %s is not one between the two sites", v->name);
        http_reply_err(rq, 403, &err);
        return;
    }
    call_lane(rq, m, v, true);
}

/* --- a user's call at the other site, to be done here ------------------------------------------- */

static bool
may_forward(const struct http_route *route)
{
    return strncmp(route->path, "/v1/vpgs/{", 10) == 0 ||
           strncmp(route->path, "/v1/tasks/{", 11) == 0;
}

static void
forwarded(void *arg, int status, const char *text, size_t n)
{
    http_reply(arg, status, text, n);
}

static void
forward(struct http_req *rq, void *ctx)
{
    struct manager *m = ctx;
    struct http_local call = { .allowed = may_forward,
                               .done = forwarded,
                               .arg = rq };
    const char *user, *text;
    char name[128];
    struct err err = ERR_INIT;
    const cJSON *body;
    int rc;

    if (http_req_json(rq, &body) < 0)
        return;
    if (json_str(body, "Method", JSON_REQUIRED, &call.method, &err) < 0 ||
        json_str(body, "Target", JSON_REQUIRED, &call.target, &err) < 0 ||
        json_str(body, "User", JSON_REQUIRED, &user, &err) < 0 ||
        json_str(body, "Body", JSON_REQUIRED, &text, &err) < 0) {
        http_reply_err(rq, 400, &err);
        return;
    }
    (void)snprintf(name, sizeof name, "%.60s@%.60s", user, caller(rq, m)->name);
    call.user = name;
    call.body = text;
    call.body_len = strlen(text);
    rc = http_call_local(m->loop, &manager_api_router, &call, m);
    if (rc < 0)
        http_reply_fail(rq, rc == -EPERM ? 403 : 404, ERR_API_0009,
                        "%s %s cannot be asked by another site", call.method,
                        call.target);
}

const struct http_route api_peer_routes[] = {
    { "POST", "/peer/v1/pair", PRIV_NONE, 64 * 1024, pair, "Pair with a token." },
    { "DELETE", "/peer/v1/pairing", PRIV_SESSION, 4096, unpair,
      "End the pairing." },
    { "POST", "/peer/v1/heartbeat", PRIV_SESSION, 8 * 1024 * 1024, heartbeat,
      "State for state." },
    { "PUT", "/peer/v1/vpgs/{vpg}", PRIV_SESSION, VPG_DEFINITION_MAX, vpg_put,
      "Take a definition." },
    { "DELETE", "/peer/v1/vpgs/{vpg}", PRIV_SESSION, 4096, vpg_delete,
      "Drop a VPG." },
    { "POST", "/peer/v1/forward", PRIV_SESSION, 2 * 1024 * 1024, forward,
      "Do what a user of the other site asks." },
    { NULL, NULL, 0, 0, NULL, NULL },
};
