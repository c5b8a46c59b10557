/* Pairing and unpairing of sites, and taking a replicator out.  Pairing: see
 * pairtoken.h for what is proved to whom. */
#include <stdlib.h>
#include <string.h>

#include <openssl/crypto.h>

#include "common/bytes.h"
#include "common/text.h"
#include "manager/manager.h"
#include "manager/pairtoken.h"

enum {
    REACH_MS = 10000
};

/* Behind this the proof's 64 digits stand in the request. */
static const char proof_mark[] = "\"Proof\":\"";

static int
bind_proof(struct rpc *r, SSL *ssl, struct err *err)
{
    struct op *op = r->arg;
    uint8_t root[PKI_FINGERPRINT_SIZE], proof[PAIRTOKEN_PROOF_SIZE];
    char hex[2 * PAIRTOKEN_PROOF_SIZE + 1];
    struct pairtoken t;
    char *at = strstr((char *)r->body.data, proof_mark);
    int rc = pairtoken_decode(op->secret, &t, err);

    if (rc == 0)
        rc = tls_exporter(ssl, PAIRTOKEN_EXPORT_LABEL, op->bound,
                          sizeof op->bound, err);
    keys_fingerprint(op->m, root);
    if (rc == 0)
        rc = pairtoken_proof(&t, PAIRTOKEN_REQUEST, root, op->bound, proof, err);
    if (rc == 0 && at) {
        hex_encode(proof, sizeof proof, hex);
        memcpy(at + sizeof proof_mark - 1, hex, sizeof hex - 1);
    }
    OPENSSL_cleanse(&t, sizeof t);
    return rc;
}

static void
put_request(struct manager *m, const struct pairtoken *t, struct buf *out)
{
    static const char zeros[] =
        "0000000000000000000000000000000000000000000000000000000000000000";
    struct json_writer w;

    json_begin(&w, out);
    json_open_obj(&w, NULL);
    json_put_u64(&w, "Protocol", 1);
    json_put_uuid(&w, "TokenIdentifier", &t->id);
    json_put_str(&w, "Proof", zeros);
    json_put_uuid(&w, "SiteIdentifier", &m->site);
    json_put_uuid(&w, "Deployment", &keys_identity(m)->deployment);
    json_put_str(&w, "SiteName", m->site_name);
    json_put_str(&w, "Location", m->cfg.location);
    json_put_str(&w, "HostName", m->cfg.advertise_host);
    json_put_u64(&w, "Port", m->peer_port);
    json_put_str(&w, "RootPem", keys_root_pem(m));
    json_close_obj(&w);
}

/* A channel to whoever has the root that the token names. */
static int
pinned_dest(const struct pairtoken *t, const char *host, unsigned port,
            struct dest **out, struct err *err)
{
    struct tls_settings set = { .side = TLS_CLIENT };
    struct tls_expect expect = { .roles = 1u << TLS_ROLE_MANAGER,
                                 .site = &t->site };
    struct pki_trust *trust = NULL;
    struct tls_ctx *tls = NULL;
    char address[ADDRESS_SIZE + 16];
    int rc = pki_trust_new(&trust, err);

    (void)snprintf(address, sizeof address,
                   strchr(host, ':') ? "[%s]:%u" : "%s:%u", host, port);
    if (rc == 0)
        rc = pki_trust_add_pin(trust, t->root, err);
    if (rc == 0)
        rc = tls_ctx_new(&set, &tls, err);
    if (rc == 0) {
        tls_ctx_set_trust(tls, trust);
        rc = dest_new(address, tls, &expect, out, err);
    }
    tls_ctx_free(tls);
    pki_trust_free(trust);
    return rc;
}

/* The other side's answer: its root must be the token's, its proof right. */
static int
judge_answer(struct op *op, const struct pairtoken *t, struct peer *p)
{
    const cJSON *a = op->reply->json;
    const char *name, *location = "", *root_pem, *proof_text;
    uint8_t root[PKI_FINGERPRINT_SIZE], want[PAIRTOKEN_PROOF_SIZE],
        got[PAIRTOKEN_PROOF_SIZE];
    STACK_OF(X509) *certs = NULL;
    struct tls_identity who;
    int rc;

    if (json_str(a, "SiteName", JSON_REQUIRED, &name, &op->err) < 0 ||
        json_str(a, "Location", JSON_OPTIONAL, &location, &op->err) < 0 ||
        json_str(a, "RootPem", JSON_REQUIRED, &root_pem, &op->err) < 0 ||
        json_str(a, "Proof", JSON_REQUIRED, &proof_text, &op->err) < 0 ||
        pki_certs_parse(root_pem, strlen(root_pem), &certs, &op->err) < 0)
        return -EINVAL;
    rc = pki_cert_identity(sk_X509_value(certs, 0), &who, &op->err);
    pki_fingerprint(sk_X509_value(certs, 0), root);
    pki_certs_free(certs);
    if (rc < 0)
        return rc;
    keys_fingerprint(op->m, got);
    rc = pairtoken_proof(t, PAIRTOKEN_ANSWER, got, op->bound, want, &op->err);
    if (rc < 0)
        return rc;
    if (memcmp(root, t->root, sizeof root) != 0 ||
        hex_decode(proof_text, got, sizeof got) < 0 ||
        CRYPTO_memcmp(got, want, sizeof want) != 0)
        return err_set(&op->err, -EACCES, ERR_MGR_0006,
                       "the other manager's root or proof does not fit the token");
    p->site = t->site;
    p->deployment = who.deployment;
    p->root_pem = strdup(root_pem);
    (void)text_safe(p->name, sizeof p->name, name, strlen(name));
    (void)text_safe(p->location, sizeof p->location, location, strlen(location));
    return p->root_pem ? 0
                       : err_set(&op->err, -ENOMEM, ERR_GEN_0002,
                                 "pairing: out of memory");
}

static enum op_verdict
pair_record(struct op *op, const struct pairtoken *t)
{
    struct peer *p = peer_new();
    const char *host = "";
    uint64_t port = 0;
    int rc =
        p ? judge_answer(op, t, p)
          : err_set(&op->err, -ENOMEM, ERR_GEN_0002, "pairing: out of memory");

    if (rc == 0) {
        (void)json_str(op->params, "HostName", JSON_REQUIRED, &host, NULL);
        (void)json_u64(op->params, "Port", JSON_REQUIRED, 1, 65535, &port, NULL);
        (void)snprintf(p->host, sizeof p->host, "%s", host);
        p->port = (uint16_t)port;
        rc = peers_put(op->m, p, &op->err);
    }
    if (rc < 0)
        peer_free(p);
    return rc < 0 ? OP_FAILED : OP_NEXT;
}

static enum op_verdict
pair_ask(struct op *op, const struct pairtoken *t)
{
    const char *host = "";
    uint64_t port = 0;
    struct dest *dest = NULL;
    struct rpc *r = NULL;
    struct buf body;
    enum op_verdict verdict;

    (void)json_str(op->params, "HostName", JSON_REQUIRED, &host, NULL);
    (void)json_u64(op->params, "Port", JSON_REQUIRED, 1, 65535, &port, NULL);
    if (pinned_dest(t, host, (unsigned)port, &dest, &op->err) < 0)
        return OP_FAILED;
    buf_init(&body, 64 * KIB);
    put_request(op->m, t, &body);
    if (!body.failed)
        r = rpc_new(dest, "POST", "/peer/v1/pair", &body, NULL, NULL);
    if (r)
        r->bind_body = bind_proof;
    verdict = op_submit(op, r);
    buf_release(&body);
    dest_free(dest);
    return verdict;
}

static enum op_verdict
pair_exchange(struct op *op)
{
    struct pairtoken t;
    enum op_verdict verdict;

    if (!op->secret)
        return op_fail(
            op, -ECANCELED, ERR_MGR_0005,
            "the manager was restarted while it was pairing: make a new token");
    if (pairtoken_decode(op->secret, &t, &op->err) < 0)
        return OP_FAILED;
    if (op->reply && op->reply->rc == 0)
        verdict = pair_record(op, &t);
    else if (op->reply)
        verdict = op_retry(op, REACH_MS);
    else
        verdict = pair_ask(op, &t);
    OPENSSL_cleanse(&t, sizeof t);
    return verdict;
}

static const struct op_step pair_steps[] = { { "Exchange", pair_exchange },
                                             { NULL, NULL } };
const struct op_type op_pair = { "Pair", 23, pair_steps, NULL };

/* --- unpair ------------------------------------------------------------------------------ */

static struct peer *
peer_of(struct op *op)
{
    struct uuid site;

    if (json_uuid(op->params, "SiteIdentifier", JSON_REQUIRED, &site, NULL) < 0)
        return NULL;
    return peers_find(op->m, &site);
}

/* The other side is told; when it cannot be, it will find itself refused. */
static enum op_verdict
unpair_tell(struct op *op)
{
    struct peer *p = peer_of(op);

    if (!p || op->reply)
        return OP_NEXT;
    return op_call_peer(op, &p->site, "DELETE", "/peer/v1/pairing", NULL) ==
                   OP_WAIT
               ? OP_WAIT
               : OP_NEXT;
}

static enum op_verdict
unpair_forget(struct op *op)
{
    struct peer *p = peer_of(op);

    return p && peers_remove(op->m, p, &op->err) < 0 ? OP_FAILED : OP_NEXT;
}

static const struct op_step unpair_steps[] = {
    { "Tell", unpair_tell },
    { "Forget", unpair_forget },
    { NULL, NULL },
};
const struct op_type op_unpair = { "Unpair", 24, unpair_steps, NULL };

/* --- a replicator leaves ------------------------------------------------------------------- */

static struct replicator *
replicator_of(struct op *op)
{
    struct uuid id;

    if (json_uuid(op->params, "ReplicatorIdentifier", JSON_REQUIRED, &id,
                  NULL) < 0)
        return NULL;
    return fleet_find(op->m, &id);
}

static enum op_verdict
revoke(struct op *op)
{
    struct replicator *r = replicator_of(op);

    return r && fleet_revoke(op->m, r, &op->err) < 0 ? OP_FAILED : OP_NEXT;
}

/* The list of revoked certificates stays; nothing else of it is needed, and its
 * VMs and stores must not stand beside those of the one that takes its place. */
static enum op_verdict
forget(struct op *op)
{
    struct replicator *r = replicator_of(op);

    return r && fleet_forget(op->m, r, &op->err) < 0 ? OP_FAILED : OP_NEXT;
}

static const struct op_step uninstall_steps[] = {
    { "Revoke", revoke },
    { "Forget", forget },
    { NULL, NULL },
};
const struct op_type op_uninstall_vra = { "UninstallVra", 10, uninstall_steps,
                                          NULL };
