/* How replicators come in: join tokens, the request that uses one, and the
 * address that a replicator which has joined tells.  A token is burned durably
 * before the certificate is signed, so that two hosts with one token are one
 * host with a certificate. */
#include <stdlib.h>
#include <string.h>

#include <openssl/crypto.h>
#include <openssl/rand.h>

#include "common/bytes.h"
#include "common/jointoken.h"
#include "common/log.h"
#include "common/secret.h"
#include "common/text.h"
#include "manager/manager.h"

/* --- tokens ---------------------------------------------------------------------------- */

static int
keep_token(struct manager *m, const struct jointoken *t, struct err *err)
{
    char id[UUID_TEXT_SIZE], secret[2 * JOINTOKEN_SECRET_SIZE + 1];
    struct json_writer w;
    struct buf out;
    int rc;

    buf_init(&out, 4096);
    hex_encode(t->secret, sizeof t->secret, secret);
    json_begin(&w, &out);
    json_open_obj(&w, NULL);
    json_put_str(&w, "Name", t->name);
    json_put_str(&w, "Secret", secret);
    json_put_u64(&w, "ExpirySeconds", t->expiry_s);
    json_put_bool(&w, "Used", false);
    json_close_obj(&w);
    uuid_format(&t->id, id);
    rc = out.failed
             ? err_set(err, out.failed, ERR_GEN_0002, "token: out of memory")
             : catalog_put(m->catalog, "jointoken", id, (char *)out.data, err);
    OPENSSL_cleanse(secret, sizeof secret);
    secret_buf_release(&out);
    return rc;
}

static int
read_wishes(const cJSON *body, struct jointoken *t, struct err *err)
{
    const char *name, *role = "replicator";
    uint64_t valid_s = JOINTOKEN_VALID_MAX_S;

    if (json_str(body, "Name", JSON_REQUIRED, &name, err) < 0 ||
        json_str(body, "Role", JSON_OPTIONAL, &role, err) < 0 ||
        json_u64(body, "ValidSeconds", JSON_OPTIONAL, 1, JOINTOKEN_VALID_MAX_S,
                 &valid_s, err) < 0)
        return -EINVAL;
    if (!text_name_ok(name, PKI_NAME_MAX))
        return err_set(err, -EINVAL, ERR_API_0014,
                       "Name is no name of 1 to %d letters, digits, '.', '_', '-'",
                       PKI_NAME_MAX);
    if (text_icmp(role, "replicator") != 0)
        return err_set(err, -EINVAL, ERR_API_0014,
                       "Role is %s; the only role that joins is replicator",
                       role);
    (void)snprintf(t->name, sizeof t->name, "%s", name);
    t->role = TLS_ROLE_REPLICATOR;
    t->expiry_s = wall_ms() / 1000 + valid_s;
    return 0;
}

static void
tokens_post(struct http_req *rq, void *ctx)
{
    struct manager *m = ctx;
    struct jointoken t = { .site = m->site,
                           .deployment = keys_identity(m)->deployment };
    char text[JOINTOKEN_TEXT_SIZE];
    struct err err = ERR_INIT;
    struct json_writer w;
    struct buf out;
    const cJSON *body;
    int rc;

    if (http_req_json(rq, &body) < 0)
        return;
    rc = read_wishes(body, &t, &err);
    if (rc == 0)
        rc = pki_uuid(&t.id, &err);
    if (rc == 0 && RAND_priv_bytes(t.secret, sizeof t.secret) != 1)
        rc = err_set(&err, -EIO, ERR_GEN_0002, "token: no random bytes");
    keys_fingerprint(m, t.root);
    if (rc == 0)
        rc = keep_token(m, &t, &err);
    if (rc < 0) {
        http_reply_err(rq, http_status_of(rc), &err);
        return;
    }
    (void)jointoken_encode(&t, text);
    buf_init(&out, 4096);
    json_begin(&w, &out);
    json_open_obj(&w, NULL);
    json_put_str(&w, "Token", text);
    json_put_uuid(&w, "TokenIdentifier", &t.id);
    put_time(&w, "ValidUntil", t.expiry_s * 1000);
    json_close_obj(&w);
    OPENSSL_cleanse(&t, sizeof t);
    OPENSSL_cleanse(text, sizeof text);
    http_reply_buf(rq, 200, &out);
}

/* --- joining ------------------------------------------------------------------------------ */

struct kept_token {
    char name[PKI_NAME_MAX + 1];
    uint8_t secret[JOINTOKEN_SECRET_SIZE];
    uint64_t expiry_s;
    bool used;
};

static int
read_token(void *arg, const char *id, const char *json)
{
    struct kept_token *t = arg;
    const char *name, *secret;
    cJSON *tree = NULL;
    int rc = json_parse(json, strlen(json), 4096, &tree, NULL);

    UNUSED(id);
    if (rc == 0 && (json_str(tree, "Name", JSON_REQUIRED, &name, NULL) < 0 ||
                    json_str(tree, "Secret", JSON_REQUIRED, &secret, NULL) < 0 ||
                    hex_decode(secret, t->secret, sizeof t->secret) < 0 ||
                    json_u64(tree, "ExpirySeconds", JSON_REQUIRED, 0,
                             JSON_INT_MAX, &t->expiry_s, NULL) < 0 ||
                    json_bool(tree, "Used", JSON_REQUIRED, &t->used, NULL) < 0))
        rc = -EIO;
    if (rc == 0)
        (void)snprintf(t->name, sizeof t->name, "%s", name);
    cJSON_Delete(tree);
    return rc;
}

struct join {
    const char *token_text;
    struct uuid token, id; /* id: asked for, or nil; then given */
    bool again;            /* a replicator that we know comes back */
    uint8_t csr[4096];
    size_t csr_len;
    uint8_t proof[JOINTOKEN_PROOF_SIZE];
    struct kept_token kept;
    EVP_PKEY *key;
    X509 *cert;
};

static int
read_join(const cJSON *body, struct join *j, struct err *err)
{
    const char *csr, *proof;
    int n;

    if (json_uuid(body, "TokenIdentifier", JSON_REQUIRED, &j->token, err) < 0 ||
        json_str(body, "TokenIdentifier", JSON_REQUIRED, &j->token_text, err) <
            0 ||
        json_str(body, "Csr", JSON_REQUIRED, &csr, err) < 0 ||
        json_str(body, "Proof", JSON_REQUIRED, &proof, err) < 0 ||
        json_uuid(body, "Identifier", JSON_OPTIONAL, &j->id, err) < 0)
        return -EINVAL;
    n = text_b64_decode(TEXT_B64_STD, csr, j->csr, sizeof j->csr);
    if (n <= 0 || text_b64_decode(TEXT_B64_STD, proof, j->proof,
                                  sizeof j->proof) != JOINTOKEN_PROOF_SIZE)
        return err_set(err, -EINVAL, ERR_MGR_0008,
                       "Csr or Proof is no base64 of the expected length");
    j->csr_len = (size_t)n;
    return 0;
}

/* One that joins with its old key keeps its identity, and with it its VPGs:
 * the key proves who it is, the token that an administrator wants it. */
static int
check_again(struct manager *m, struct join *j, struct err *err)
{
    const struct replicator *r = fleet_find(m, &j->id);

    if (!r)
        return err_set(err, -EACCES, ERR_MGR_0018,
                       "site %s does not know the replicator that wants to "
                       "join again as %s: it was taken out",
                       m->site_name, j->kept.name);
    if (r->revoked)
        return err_set(err, -EACCES, ERR_MGR_0018,
                       "replicator %s was revoked: its key is not taken again",
                       r->name);
    if (strcmp(r->name, j->kept.name) != 0 || !fleet_knows_key(r, j->key))
        return err_set(err, -EACCES, ERR_MGR_0018,
                       "replicator %s wants to join again as %s with a key "
                       "that it never had a certificate for",
                       r->name, j->kept.name);
    j->again = true;
    return fleet_may_renew(m, r, err);
}

static int
check_join(struct http_req *rq, struct manager *m, struct join *j,
           struct err *err)
{
    uint8_t exported[JOINTOKEN_EXPORT_SIZE], want[JOINTOKEN_PROOF_SIZE];
    char name[PKI_NAME_MAX + 1];
    struct list *pos;
    int rc = catalog_get(m->catalog, "jointoken", j->token_text, read_token,
                         &j->kept, NULL);

    if (rc < 0 || j->kept.used || j->kept.expiry_s < wall_ms() / 1000)
        return err_set(err, -EACCES, ERR_MGR_0007,
                       "the join token is unknown, used or expired");
    rc = http_req_exporter(rq, JOINTOKEN_EXPORT_LABEL, exported,
                           sizeof exported, err);
    if (rc == 0)
        rc = jointoken_proof(j->kept.secret, j->csr, j->csr_len, exported, want,
                             err);
    if (rc == 0 && CRYPTO_memcmp(want, j->proof, sizeof want) != 0)
        rc = err_set(err, -EACCES, ERR_MGR_0008,
                     "the proof does not fit token, request and connection");
    if (rc == 0)
        rc = pki_csr_parse(j->csr, j->csr_len, &j->key, name, err);
    if (rc < 0)
        return rc;
    if (strcmp(name, j->kept.name) != 0)
        return err_set(err, -EACCES, ERR_MGR_0008,
                       "the request is for the name %s, the token for %s", name,
                       j->kept.name);
    if (!uuid_is_nil(&j->id))
        return check_again(m, j, err);
    list_for_each (pos, &m->replicators) {
        const struct replicator *r = list_entry(pos, struct replicator, link);

        if (!r->revoked && strcmp(r->name, name) == 0)
            return err_set(err, -EEXIST, ERR_MGR_0008,
                           "there is a replicator named %s already: the same host joins again with the state "
                           "directory that it has; for another one take it out first",
                           name);
    }
    return 0;
}

static int
burn_and_sign(struct manager *m, struct join *j, struct err *err)
{
    struct identity cert;
    int rc =
        catalog_put(m->catalog, "jointoken", j->token_text,
                    "{\"Name\":\"\",\"Secret\":\"0000000000000000000000000000000000000000000000000000000000000000\","
                    "\"ExpirySeconds\":0,\"Used\":true}",
                    err);

    if (rc == 0 && !j->again)
        rc = pki_uuid(&j->id, err);
    if (rc == 0)
        rc = keys_sign(m, j->key, j->kept.name, &j->id, &j->cert, err);
    if (rc == 0)
        rc = identity_of(j->cert, &cert, err);
    return rc < 0 ? rc : fleet_add(m, &j->id, j->kept.name, &cert, err);
}

static void
reply_join(struct http_req *rq, struct manager *m, const struct join *j)
{
    struct json_writer w;
    struct buf out, pem;

    buf_init(&pem, 64 * KIB);
    buf_init(&out, 256 * KIB);
    (void)pki_cert_pem(j->cert, &pem, NULL);
    json_begin(&w, &out);
    json_open_obj(&w, NULL);
    json_put_str(&w, "Certificate", pem.data ? (char *)pem.data : "");
    json_put_str(&w, "Chain", keys_ca_pem(m));
    json_put_str(&w, "Root", keys_root_pem(m));
    json_put_uuid(&w, "Identifier", &j->id);
    json_put_uuid(&w, "SiteIdentifier", &m->site);
    json_put_str(&w, "SiteName", m->site_name);
    json_close_obj(&w);
    buf_release(&pem);
    http_reply_buf(rq, 200, &out);
}

static void
join(struct http_req *rq, void *ctx)
{
    struct manager *m = ctx;
    struct join *j = calloc(1, sizeof *j);
    struct err err = ERR_INIT;
    char text[300];
    const cJSON *body;
    int rc;

    if (!j) {
        http_reply_fail(rq, 503, ERR_GEN_0002, "join: out of memory");
        return;
    }
    if (http_req_json(rq, &body) < 0) {
        free(j);
        return;
    }
    rc = read_join(body, j, &err);
    if (rc == 0)
        rc = check_join(rq, m, j, &err);
    if (rc == 0)
        rc = burn_and_sign(m, j, &err);
    if (rc < 0) {
        log_line(LOG_WARN, "manager", "", "join from %s was refused: %s",
                 http_req_source(rq), err.msg);
        http_reply_err(rq, http_status_of(rc), &err);
    } else {
        (void)snprintf(text, sizeof text, "replicator %s has joined %sfrom %s",
                       j->kept.name, j->again ? "again " : "",
                       http_req_source(rq));
        events_record(m, 9, NULL, "", true, "", text);
        reply_join(rq, m, j);
    }
    EVP_PKEY_free(j->key);
    X509_free(j->cert);
    OPENSSL_cleanse(j, sizeof *j);
    free(j);
}

/* A replicator that has joined says where its control port is. */
static void
announce(struct http_req *rq, void *ctx)
{
    struct manager *m = ctx;
    const struct tls_identity *who = http_req_peer(rq);
    struct replicator *r = NULL;
    char host[TEXT_HOST_SIZE], whole[ADDRESS_SIZE];
    const char *address;
    struct err err = ERR_INIT;
    const cJSON *body;
    uint16_t port;

    if (who && who->role == TLS_ROLE_REPLICATOR &&
        uuid_equal(&who->site, &m->site))
        r = fleet_find(m, &who->id);
    if (!r || r->revoked) {
        http_reply_fail(rq, 403, ERR_API_0009,
                        "only a replicator that has joined this site may call this");
        return;
    }
    if (http_req_json(rq, &body) < 0)
        return;
    if (json_str(body, "ControlAddress", JSON_REQUIRED, &address, &err) < 0) {
        http_reply_err(rq, 400, &err);
        return;
    }
    if (text_parse_hostport(address, host, &port) < 0 || !port) {
        http_reply_fail(rq, 400, ERR_API_0014, "ControlAddress is no host:port");
        return;
    }
    if (!*host) /* ":4006": the address it comes from */
        (void)snprintf(host, sizeof host, "%s", http_req_source(rq));
    (void)snprintf(whole, sizeof whole, strchr(host, ':') ? "[%s]:%u" : "%s:%u",
                   host, port);
    if (fleet_set_address(m, r, whole, &err) < 0)
        http_reply_err(rq, http_status_of(err.num), &err);
    else
        http_reply_empty(rq, 200);
}

const struct http_route api_join_routes[] = {
    { "POST", "/v1/jointokens", PRIV_MANAGE_VRA, 0, tokens_post,
      "A join token: {Name, Role, ValidSeconds}; answers {Token, TokenIdentifier, ValidUntil}." },
    { "POST", "/v1/join", PRIV_NONE, 64 * 1024, join,
      "For holdfastd join: {Csr, TokenIdentifier, Proof}, the proof bound to the TLS connection; with {Identifier} and its old key a replicator keeps its identity." },
    { "POST", "/v1/announce", PRIV_NONE, 4096, announce,
      "For replicators, by their certificate: {ControlAddress}." },
    { NULL, NULL, 0, 0, NULL, NULL },
};

/* On the Unix socket: whoever may open it is this host's administrator. */
const struct http_route api_local_routes[] = {
    { "POST", "/local/v1/jointokens", PRIV_NONE, 4096, tokens_post,
      "The same, for holdfastd token." },
    { NULL, NULL, 0, 0, NULL, NULL },
};
