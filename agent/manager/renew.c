/* Certificates live for thirty days and are renewed from the tenth on: the
 * manager's own from the site's CA, which it holds, and those of replicators
 * when they ask with the certificate they have.  What a certificate says comes
 * from the one shown (identity) and from our own record (name), and nothing but
 * the key from the request.  The certificates before stay good until they
 * expire, so that open connections go on; revoking a replicator revokes all.
 *
 * A certificate that has expired or was revoked does not get past the TLS
 * handshake: its host joins again. */
#include <stdlib.h>
#include <string.h>

#include <openssl/rand.h>

#include "common/bytes.h"
#include "common/log.h"
#include "common/text.h"
#include "manager/manager.h"

enum {
    RETRY_S = 60,
    CSR_MAX = 4096,
};

/* --- our own ------------------------------------------------------------------------------ */

static void
plan(struct manager *m)
{
    uint32_t jitter = 0;

    if (RAND_bytes((unsigned char *)&jitter, sizeof jitter) != 1)
        jitter = 0;
    m->renew_at_s = identity_renew_at(keys_own(m), jitter);
}

static void
renew_own(struct manager *m, uint64_t now_s)
{
    struct err err = ERR_INIT;
    char until[TIME_SIZE];

    if (keys_renew_own(m, &err) < 0) {
        log_err(LOG_ERROR, "manager", "", "renewing our own certificate", &err);
        m->renew_at_s = now_s + RETRY_S;
        return;
    }
    plan(m);
    log_line(LOG_INFO, "manager", "",
             "our own certificate was renewed: serial %s, good until %s",
             keys_own(m)->serial,
             time_text(keys_own(m)->not_after_s * 1000, until));
}

void
renew_tick(struct manager *m)
{
    uint64_t now_s = wall_ms() / 1000;

    if (!m->renew_at_s) {
        plan(m);
        renew_look(m);
    }
    if (now_s >= m->renew_at_s)
        renew_own(m, now_s);
}

/* The CA first: the new certificate is to come with it. */
static void
renew_ca(struct manager *m)
{
    struct err err = ERR_INIT;
    int rc = keys_renew_ca(m, &err);

    if (rc < 0)
        log_err(LOG_ERROR, "manager", "", "renewing the certificate of the CA",
                &err);
    else if (rc > 0)
        log_line(LOG_INFO, "manager", "",
                 "the certificate of the site's CA was renewed");
}

void
renew_look(struct manager *m)
{
    if (!identity_asked(m->cfg.chain_path))
        return;
    renew_ca(m);
    renew_own(m, wall_ms() / 1000);
}

/* --- a replicator's -------------------------------------------------------------------------- */

static struct replicator *
asking(struct http_req *rq, struct manager *m, struct err *err)
{
    const struct tls_identity *who = http_req_peer(rq);
    struct replicator *r = NULL;

    if (who && who->role == TLS_ROLE_REPLICATOR &&
        uuid_equal(&who->site, &m->site) &&
        uuid_equal(&who->deployment, &keys_identity(m)->deployment))
        r = fleet_find(m, &who->id);
    if (!r)
        (void)err_set(
            err, -EACCES, ERR_MGR_0016,
            who ? "the certificate shown is not that of a replicator of this site"
                : "only the certificate that is shown is renewed, and none was");
    else if (r->revoked)
        (void)err_set(err, -EACCES, ERR_MGR_0016,
                      "replicator %s: its certificate is revoked", r->name);
    if (!r || r->revoked)
        return NULL;
    return fleet_may_renew(m, r, err) < 0 ? NULL : r;
}

static int
read_request(const cJSON *body, EVP_PKEY **out_key, struct err *err)
{
    char name[PKI_NAME_MAX + 1];
    uint8_t der[CSR_MAX];
    const char *text;
    int n;

    if (json_str(body, "Csr", JSON_REQUIRED, &text, err) < 0)
        return -EINVAL;
    n = text_b64_decode(TEXT_B64_STD, text, der, sizeof der);
    if (n <= 0)
        return err_set(err, -EINVAL, ERR_API_0014,
                       "Csr is no base64 of up to %d bytes", CSR_MAX);
    return pki_csr_parse(der, (size_t)n, out_key, name, err);
}

static void
reply_renewed(struct http_req *rq, struct manager *m, const X509 *cert)
{
    struct json_writer w;
    struct buf out, pem;

    buf_init(&pem, 64 * KIB);
    buf_init(&out, 256 * KIB);
    if (pki_cert_pem(cert, &pem, NULL) < 0) {
        buf_release(&pem);
        http_reply_fail(rq, 503, ERR_GEN_0002, "certificate: out of memory");
        return;
    }
    json_begin(&w, &out);
    json_open_obj(&w, NULL);
    json_put_str(&w, "Certificate", (char *)pem.data);
    json_put_str(&w, "Chain", keys_ca_pem(m));
    json_put_str(&w, "Root", keys_root_pem(m));
    json_close_obj(&w);
    buf_release(&pem);
    http_reply_buf(rq, 200, &out);
}

static void
renew(struct http_req *rq, void *ctx)
{
    struct manager *m = ctx;
    struct err err = ERR_INIT;
    struct replicator *r = asking(rq, m, &err);
    struct identity made;
    EVP_PKEY *key = NULL;
    X509 *cert = NULL;
    const cJSON *body;
    int rc;

    if (!r) {
        log_line(LOG_WARN, "manager", "", "renewal for %s was refused: %s",
                 http_req_source(rq), err.msg);
        http_reply_err(rq, http_status_of(err.num), &err);
        return;
    }
    if (http_req_json(rq, &body) < 0)
        return;
    rc = read_request(body, &key, &err);
    if (rc == 0)
        rc = keys_sign(m, key, r->name, &r->id, &cert, &err);
    if (rc == 0)
        rc = identity_of(cert, &made, &err);
    /* Durable before the replicator has it, so that it can be revoked. */
    if (rc == 0)
        rc = fleet_renewed(m, r, &made, &err);
    if (rc < 0) {
        http_reply_err(rq, http_status_of(rc), &err);
    } else {
        log_line(LOG_INFO, "manager", "",
                 "replicator %s has a new certificate, serial %s", r->name,
                 made.serial);
        reply_renewed(rq, m, cert);
    }
    EVP_PKEY_free(key);
    X509_free(cert);
}

const struct http_route api_renew_routes[] = {
    { "POST", "/v1/renew", PRIV_NONE, 64 * 1024, renew,
      "For replicators, by their certificate: {Csr} for a new key; answers {Certificate, Chain, Root}." },
    { NULL, NULL, 0, 0, NULL, NULL },
};
