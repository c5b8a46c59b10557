/* The local site, paired sites, pairing. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <openssl/crypto.h>
#include <openssl/rand.h>

#include "common/bytes.h"
#include "common/secret.h"
#include "common/text.h"
#include "manager/manager.h"
#include "manager/pairtoken.h"

static const char *const pairing_names[] = { "Paired", "Pairing", "Unpaired" };

static void
localsite_get(struct http_req *rq, void *ctx)
{
    struct manager *m = ctx;
    struct json_writer w;
    struct buf out;

    buf_init(&out, API_JSON_MAX);
    json_begin(&w, &out);
    json_open_obj(&w, NULL);
    json_put_uuid(&w, "SiteIdentifier", &m->site);
    json_put_str(&w, "SiteName", m->site_name);
    json_put_str(&w, "Location", m->cfg.location);
    json_put_str(&w, "Version", HOLDFAST_VERSION);
    json_put_str(&w, "DisplayVersion", HOLDFAST_VERSION);
    json_put_str(&w, "ZvmApiVersion", HOLDFAST_VERSION);
    json_put_str(&w, "SiteType", "VCenter");
    json_put_str(&w, "SiteTypeVersion", HOLDFAST_VERSION);
    json_put_str(&w, "IpAddress", m->cfg.advertise_host);
    json_put_str(&w, "ContactName", "");
    json_put_str(&w, "ContactEmail", "");
    json_put_str(&w, "ContactPhone", "");
    json_put_bool(&w, "IsReplicationToSelfEnabled", false);
    json_put_i64(&w, "UtcOffsetInMinutes", 0);
    json_put_i64(&w, "BandwidthThrottlingInMBs", -1);
    json_put_bool(&w, "IsLoginBannerEnabled", false);
    json_put_null(&w, "LoginBanner");
    json_put_null(&w, "PlatformInformation");
    put_site_link(&w, "Link", m, &m->site);
    json_close_obj(&w);
    http_reply_buf(rq, 200, &out);
}

static void
pairing_statuses(struct http_req *rq, void *ctx)
{
    UNUSED(ctx);
    api_names(rq, pairing_names, ARRAY_SIZE(pairing_names));
}

static unsigned
connected_vras(struct peer *p, unsigned *out_total)
{
    struct list *pos;
    unsigned n = 0;

    *out_total = 0;
    list_for_each (pos, &p->replicators) {
        (*out_total)++;
        n += replicator_fresh(list_entry(pos, struct replicator, link));
    }
    return n;
}

static void
put_peer(struct json_writer *w, struct manager *m, struct peer *p)
{
    unsigned total, connected = connected_vras(p, &total);

    json_open_obj(w, NULL);
    json_put_uuid(w, "SiteIdentifier", &p->site);
    json_put_str(w, "PeerSiteName", p->name);
    json_put_u64(w, "PairingStatus", 0);
    json_put_str(w, "Location", p->location);
    json_put_str(w, "HostName", p->host);
    json_put_u64(w, "Port", p->port);
    json_put_u64(w, "ProvisionedStorage", 0);
    json_put_u64(w, "UsedStorage", 0);
    json_put_u64(w, "IncomingThroughputInMb", 0);
    json_put_u64(w, "OutgoingBandWidth", 0);
    json_put_str(w, "Version", p->version);
    json_put_str(w, "SiteType", "VCenter");
    json_put_null(w, "RegionName");
    json_put_str(w, "LinkState", peer_fresh(p) ? "Connected" : "Disconnected");
    if (!peer_fresh(p) && *p->error)
        json_put_str(w, "LinkError", p->error);
    else
        json_put_null(w, "LinkError");
    json_put_u64(w, "RttInMs", p->rtt_ms);
    json_put_i64(w, "ClockSkewInMs", p->skew_ms);
    json_put_u64(w, "QueueInBytes", 0);
    json_open_obj(w, "Vras");
    json_put_u64(w, "Connected", connected);
    json_put_u64(w, "Total", total);
    json_close_obj(w);
    put_time(w, "LastContact", p->last_contact_ms);
    put_site_link(w, "Link", m, &p->site);
    json_close_obj(w);
}

static void
peersites_list(struct http_req *rq, void *ctx)
{
    struct manager *m = ctx;
    struct json_writer w;
    struct list *pos;
    struct buf out;
    const char *status = http_req_query(rq, "pairingStatus");

    if (!status)
        status =
            http_req_query(rq, "paringStatus"); /* as one client spells it */
    buf_init(&out, API_JSON_MAX);
    json_begin(&w, &out);
    json_open_array(&w, NULL);
    list_for_each (pos, &m->peers) {
        struct peer *p = list_entry(pos, struct peer, link);
        const char *name = http_req_query(rq, "peerName");
        char port[8];

        (void)snprintf(port, sizeof port, "%u", p->port);
        if ((!name || !*name || strcmp(name, p->name) == 0) &&
            api_filter(rq, "location", p->location) &&
            api_filter(rq, "hostName", p->host) && api_filter(rq, "port", port) &&
            (!status || !*status || strcmp(status, "0") == 0 ||
             text_icmp(status, "Paired") == 0))
            put_peer(&w, m, p);
    }
    json_close_array(&w);
    http_reply_buf(rq, 200, &out);
}

static struct peer *
find_peer(struct http_req *rq, struct manager *m)
{
    struct uuid id;
    struct peer *p;

    if (api_uuid(rq, "site", &id) < 0)
        return NULL;
    p = peers_find(m, &id);
    if (!p)
        http_reply_fail(rq, 404, ERR_API_0013,
                        "no site %s is paired with this one",
                        http_req_path(rq, "site"));
    return p;
}

static void
peersite_get(struct http_req *rq, void *ctx)
{
    struct manager *m = ctx;
    struct peer *p = find_peer(rq, m);
    struct json_writer w;
    struct buf out;

    if (!p)
        return;
    buf_init(&out, API_JSON_MAX);
    json_begin(&w, &out);
    put_peer(&w, m, p);
    http_reply_buf(rq, 200, &out);
}

/* A durable record of the token; its secret is needed to check the proof. */
static int
keep_token(struct manager *m, const struct pairtoken *t, struct err *err)
{
    char id[UUID_TEXT_SIZE], secret[2 * PAIRTOKEN_SECRET_SIZE + 1];
    struct json_writer w;
    struct buf out;
    int rc;

    buf_init(&out, 4096);
    hex_encode(t->secret, sizeof t->secret, secret);
    json_begin(&w, &out);
    json_open_obj(&w, NULL);
    json_put_str(&w, "Secret", secret);
    json_put_u64(&w, "ExpirySeconds", t->expiry_s);
    json_put_bool(&w, "Used", false);
    json_close_obj(&w);
    uuid_format(&t->id, id);
    rc = out.failed
             ? err_set(err, out.failed, ERR_GEN_0002, "token: out of memory")
             : catalog_put(m->catalog, "pairtoken", id, (char *)out.data, err);
    OPENSSL_cleanse(secret, sizeof secret);
    secret_buf_release(&out);
    return rc;
}

static void
expiry_text(uint64_t s, char out[32])
{
    time_t t = (time_t)s;
    struct tm tm;

    gmtime_r(&t, &tm);
    (void)strftime(out, 32, "%m/%d/%Y %I:%M %p", &tm);
}

static void
generate_token(struct http_req *rq, void *ctx)
{
    struct manager *m = ctx;
    struct pairtoken t = { .site = m->site };
    uint64_t valid_s = PAIRTOKEN_VALID_S;
    char text[PAIRTOKEN_TEXT_SIZE], when[32];
    struct err err = ERR_INIT;
    struct json_writer w;
    struct buf out;
    const cJSON *body;
    int rc;

    if (http_req_json(rq, &body) < 0)
        return;
    if (json_u64(body, "ValidSeconds", JSON_OPTIONAL, 1, PAIRTOKEN_VALID_S,
                 &valid_s, &err) < 0) {
        http_reply_err(rq, 400, &err);
        return;
    }
    t.expiry_s = wall_ms() / 1000 + valid_s;
    rc = pki_uuid(&t.id, &err);
    keys_fingerprint(m, t.root);
    if (rc == 0 && RAND_priv_bytes(t.secret, sizeof t.secret) != 1)
        rc = err_set(&err, -EIO, ERR_GEN_0002, "token: no random bytes");
    if (rc == 0)
        rc = keep_token(m, &t, &err);
    if (rc < 0) {
        http_reply_err(rq, http_status_of(rc), &err);
        return;
    }
    pairtoken_encode(&t, text);
    expiry_text(t.expiry_s, when);
    buf_init(&out, 4096);
    json_begin(&w, &out);
    json_open_obj(&w, NULL);
    json_put_str(&w, "Token", text);
    json_put_str(&w, "UtcExpirationDate", when);
    put_time(&w, "ValidUntil", t.expiry_s * 1000);
    json_close_obj(&w);
    OPENSSL_cleanse(&t, sizeof t);
    OPENSSL_cleanse(text, sizeof text);
    http_reply_buf(rq, 200, &out);
}

static cJSON *
pair_params(const char *host, uint64_t port)
{
    cJSON *params = cJSON_CreateObject();

    (void)cJSON_AddStringToObject(params, "HostName", host);
    (void)cJSON_AddNumberToObject(params, "Port", (double)port);
    return params;
}

static void
peersites_post(struct http_req *rq, void *ctx)
{
    struct manager *m = ctx;
    const char *host, *token;
    uint64_t port = 9081;
    struct pairtoken t;
    struct err err = ERR_INIT;
    const cJSON *body;
    struct op *op = NULL;
    char id[TASK_ID_SIZE];

    if (http_req_json(rq, &body) < 0)
        return;
    if (json_str(body, "HostName", JSON_REQUIRED, &host, &err) < 0 ||
        json_str(body, "Token", JSON_REQUIRED, &token, &err) < 0 ||
        json_u64(body, "Port", JSON_OPTIONAL, 1, 65535, &port, &err) < 0 ||
        pairtoken_decode(token, &t, &err) < 0) {
        http_reply_err(rq, 400, &err);
        return;
    }
    OPENSSL_cleanse(t.secret, sizeof t.secret);
    if (!*host || strlen(host) >= 256 || strpbrk(host, "/@?# \t"))
        http_reply_fail(rq, 400, ERR_API_0014,
                        "HostName is no host name or address");
    else if (uuid_equal(&t.site, &m->site))
        http_reply_fail(rq, 400, ERR_MGR_0005,
                        "this token was made at this site: make it at the other one");
    else if (t.expiry_s < wall_ms() / 1000)
        http_reply_fail(rq, 400, ERR_MGR_0005, "the token has expired");
    else if (op_start(m, &op_pair, NULL, http_req_user(rq),
                      pair_params(host, port), &op, &err) < 0)
        http_reply_err(rq, http_status_of(err.num), &err);
    else {
        op->secret = strdup(token); /* the first step runs on a later turn */
        op_task_id(op, id);
        http_reply_text(rq, 200, id);
    }
}

static void
peersite_delete(struct http_req *rq, void *ctx)
{
    struct manager *m = ctx;
    struct peer *p = find_peer(rq, m);
    char id[UUID_TEXT_SIZE];
    struct list *pos;
    cJSON *params;

    if (!p)
        return;
    list_for_each (pos, &m->vpgs) {
        const struct vpg *v = list_entry(pos, struct vpg, link);

        if (uuid_equal(&v->protected_site, &p->site) ||
            uuid_equal(&v->recovery_site, &p->site)) {
            http_reply_fail(rq, 400, ERR_MGR_0011,
                            "site %s still takes part in VPG %s: delete the VPG first",
                            p->name, v->name);
            return;
        }
    }
    uuid_format(&p->site, id);
    params = cJSON_CreateObject();
    (void)cJSON_AddStringToObject(params, "SiteIdentifier", id);
    api_start(rq, m, &op_unpair, NULL, params);
}

const struct http_route api_site_routes[] = {
    { "GET", "/v1/localsite", PRIV_VIEWER, 0, localsite_get, "This site." },
    { "GET", "/v1/localsite/pairingstatuses", PRIV_VIEWER, 0, pairing_statuses,
      "Names of pairing statuses." },
    { "GET", "/v1/peersites", PRIV_VIEWER, 0, peersites_list,
      "Paired sites; filters peerName, pairingStatus, location, hostName, port." },
    { "POST", "/v1/peersites", PRIV_MANAGE_SITES, 0, peersites_post,
      "Pair: {HostName, Port, Token}, the token from the other site; answers a task." },
    { "GET", "/v1/peersites/pairingstatuses", PRIV_VIEWER, 0, pairing_statuses,
      "Names of pairing statuses." },
    { "POST", "/v1/peersites/generatetoken", PRIV_MANAGE_SITES, 0, generate_token,
      "A pairing token, good once and for an hour or {ValidSeconds}: {Token, UtcExpirationDate, ValidUntil}." },
    { "GET", "/v1/peersites/{site}", PRIV_VIEWER, 0, peersite_get,
      "One paired site." },
    { "DELETE", "/v1/peersites/{site}", PRIV_MANAGE_SITES, 0, peersite_delete,
      "Unpair; answers a task." },
    { NULL, NULL, 0, 0, NULL, NULL },
};
