/* What the manager holds of the site's public key infrastructure: its own
 * certificate, the issuing CA's key, the revocation list, and the set of roots
 * it believes (its own and the paired sites').  A change of any of these gives
 * all three TLS contexts new trust, and cuts connections that have lost it. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <openssl/bio.h>
#include <openssl/pem.h>

#include "common/bytes.h"
#include "common/files.h"
#include "common/log.h"
#include "manager/manager.h"

enum {
    REVOKED_MAX = 10000,
    LIST_JSON_MAX = 2 * 1024 * 1024
};

struct site_keys {
    X509 *root, *ca;
    EVP_PKEY *ca_key;
    struct identity own;
    struct tls_identity self; /* own.who */
    struct buf root_pem, ca_pem, crl_pem, crl_der;
    uint64_t number; /* of the list */
    struct pki_revoked *revoked;
    size_t n_revoked;
    struct pki_trust *trust;
};

static int
load_one(const char *path, X509 **out, struct buf *pem, struct err *err)
{
    STACK_OF(X509) *certs = NULL;
    int rc = pki_certs_load(path, &certs, err);

    if (rc < 0)
        return rc;
    *out = X509_dup(sk_X509_value(certs, 0));
    pki_certs_free(certs);
    if (!*out)
        return err_set(err, -ENOMEM, ERR_GEN_0002, "%s: out of memory", path);
    return pki_cert_pem(*out, pem, err);
}

static int
load_self(struct manager *m, struct err *err)
{
    struct site_keys *k = m->keys;
    STACK_OF(X509) *chain = NULL;
    struct tls_ctx *const all[] = { m->client_tls, m->api_tls, m->peer_tls };
    int rc = pki_certs_load(m->cfg.chain_path, &chain, err);

    if (rc < 0)
        return rc;
    rc = identity_of(sk_X509_value(chain, 0), &k->own, err);
    k->self = k->own.who;
    pki_certs_free(chain);
    for (size_t i = 0; i < ARRAY_SIZE(all) && rc == 0; i++)
        rc = tls_ctx_load_own(all[i], m->cfg.chain_path, m->cfg.key_path, err);
    if (rc == 0) {
        m->site = k->self.site;
        m->self = k->self.id;
    }
    return rc;
}

static int
make_contexts(struct manager *m, struct err *err)
{
    struct tls_settings client = { .side = TLS_CLIENT };
    struct tls_settings server = { .side = TLS_SERVER,
                                   .client_cert = TLS_CLIENT_CERT_OPTIONAL };
    int rc = tls_ctx_new(&client, &m->client_tls, err);

    if (rc == 0)
        rc = tls_ctx_new(&server, &m->api_tls, err);
    if (rc == 0)
        rc = tls_ctx_new(&server, &m->peer_tls, err);
    return rc;
}

/* --- the revocation list --------------------------------------------------------- */

static int
crl_to_pem(struct site_keys *k, struct err *err)
{
    const uint8_t *p = k->crl_der.data;
    X509_CRL *crl = d2i_X509_CRL(NULL, &p, (long)k->crl_der.len);
    BIO *bio = BIO_new(BIO_s_mem());
    char *text = NULL;
    long n = 0;
    int rc = -ENOMEM;

    if (crl && bio && PEM_write_bio_X509_CRL(bio, crl) == 1)
        n = BIO_get_mem_data(bio, &text);
    buf_clear(&k->crl_pem);
    if (n > 0)
        rc = buf_add(&k->crl_pem, text, (size_t)n);
    BIO_free(bio);
    X509_CRL_free(crl);
    return rc < 0
               ? err_set(err, rc, ERR_GEN_0002, "revocation list: out of memory")
               : 0;
}

static int
make_crl(struct manager *m, struct err *err)
{
    struct site_keys *k = m->keys;
    int rc;

    buf_clear(&k->crl_der);
    rc = pki_crl_make(k->ca, k->ca_key, k->number, k->revoked, k->n_revoked,
                      wall_ms() / 1000, &k->crl_der, err);
    return rc < 0 ? rc : crl_to_pem(k, err);
}

static int
add_revoked(struct site_keys *k, const char *serial, uint64_t when_s)
{
    struct pki_revoked *more;

    if (k->n_revoked == REVOKED_MAX)
        return -ENOSPC;
    more = reallocarray(k->revoked, k->n_revoked + 1, sizeof *more);
    if (!more)
        return -ENOMEM;
    k->revoked = more;
    more += k->n_revoked++;
    (void)snprintf(more->serial, sizeof more->serial, "%s", serial);
    more->when_s = when_s;
    return 0;
}

static int
load_list(void *arg, const char *id, const char *json)
{
    struct site_keys *k = arg;
    cJSON *tree = NULL;
    const cJSON *list = NULL, *item;
    int rc = json_parse(json, strlen(json), LIST_JSON_MAX, &tree, NULL);

    UNUSED(id);
    if (rc == 0 && (json_u64(tree, "Number", JSON_REQUIRED, 1, JSON_INT_MAX,
                             &k->number, NULL) < 0 ||
                    json_array(tree, "Revoked", JSON_REQUIRED, &list, NULL) < 0))
        rc = -EIO;
    cJSON_ArrayForEach (item, list) {
        const char *serial;
        uint64_t when;

        if (rc == 0 &&
            json_str(item, "Serial", JSON_REQUIRED, &serial, NULL) == 1 &&
            json_u64(item, "WhenSeconds", JSON_REQUIRED, 0, JSON_INT_MAX, &when,
                     NULL) == 1)
            rc = add_revoked(k, serial, when);
    }
    cJSON_Delete(tree);
    return rc;
}

static int
save_list(struct manager *m, struct err *err)
{
    struct site_keys *k = m->keys;
    struct json_writer w;
    struct buf out;
    int rc;

    buf_init(&out, LIST_JSON_MAX);
    json_begin(&w, &out);
    json_open_obj(&w, NULL);
    json_put_u64(&w, "Number", k->number);
    json_open_array(&w, "Revoked");
    for (size_t i = 0; i < k->n_revoked; i++) {
        json_open_obj(&w, NULL);
        json_put_str(&w, "Serial", k->revoked[i].serial);
        json_put_u64(&w, "WhenSeconds", k->revoked[i].when_s);
        json_close_obj(&w);
    }
    json_close_array(&w);
    json_close_obj(&w);
    rc = out.failed ? err_set(err, out.failed, ERR_GEN_0002,
                              "revocation list: too long")
                    : catalog_put(m->catalog, "revocation", "list",
                                  (char *)out.data, err);
    buf_release(&out);
    return rc;
}

int
keys_revoke(struct manager *m, const char *serial, struct err *err)
{
    struct site_keys *k = m->keys;
    int rc = add_revoked(k, serial, wall_ms() / 1000);

    if (rc < 0)
        return err_set(err, rc, ERR_GEN_0002,
                       "revocation list: no room for one more");
    k->number++;
    rc = save_list(m, err);
    if (rc < 0) {
        k->number--;
        k->n_revoked--;
        return rc;
    }
    rc = make_crl(m, err);
    return rc < 0 ? rc : keys_rebuild(m, err);
}

/* --- trust ------------------------------------------------------------------------- */

static void
add_peer_crl(struct pki_trust *trust, const struct peer *p)
{
    BIO *bio = BIO_new_mem_buf(p->crl_pem, -1);
    X509_CRL *crl = bio ? PEM_read_bio_X509_CRL(bio, NULL, NULL, NULL) : NULL;
    uint8_t *der = NULL;
    int n = crl ? i2d_X509_CRL(crl, &der) : -1;
    struct err err = ERR_INIT;

    if (n < 0 || pki_trust_add_crl(trust, der, (size_t)n, &err) < 0)
        log_line(LOG_WARN, "manager", "",
                 "revocation list of site %s is not used: %s", p->name,
                 n < 0 ? "it is none" : err.msg);
    OPENSSL_free(der);
    X509_CRL_free(crl);
    BIO_free(bio);
}

static int
add_peer_root(struct pki_trust *trust, const struct peer *p, struct err *err)
{
    STACK_OF(X509) *certs = NULL;
    int rc = pki_certs_parse(p->root_pem, strlen(p->root_pem), &certs, err);

    if (rc == 0)
        rc = pki_trust_add_root(trust, sk_X509_value(certs, 0), err);
    pki_certs_free(certs);
    return rc < 0 ? err_prefix(err, "root of site %s", p->name) : 0;
}

int
keys_rebuild(struct manager *m, struct err *err)
{
    struct site_keys *k = m->keys;
    struct pki_trust *t = NULL;
    struct list *pos;
    int rc = pki_trust_new(&t, err);

    if (rc == 0)
        rc = pki_trust_add_root(t, k->root, err);
    if (rc == 0)
        rc = pki_trust_add_crl(t, k->crl_der.data, k->crl_der.len, err);
    list_for_each (pos, &m->peers) {
        struct peer *p = list_entry(pos, struct peer, link);

        if (rc == 0)
            rc = add_peer_root(t, p, err);
        if (rc == 0 && p->crl_pem)
            add_peer_crl(t, p);
    }
    if (rc < 0) {
        pki_trust_free(t);
        return rc;
    }
    tls_ctx_set_trust(m->client_tls, t);
    tls_ctx_set_trust(m->api_tls, t);
    tls_ctx_set_trust(m->peer_tls, t);
    pki_trust_free(k->trust);
    k->trust = t;
    if (m->api)
        (void)http_server_recheck(m->api);
    if (m->peer_server)
        (void)http_server_recheck(m->peer_server);
    return 0;
}

static int
load_ca_key(struct manager *m, struct err *err)
{
    int rc = pki_key_load(m->cfg.ca_key_path, &m->keys->ca_key, err);

    if (rc != -ENOENT)
        return rc;
    return err_set(err, rc, ERR_MGR_0019,
                   "%s, the key of the site's CA, is missing",
                   m->cfg.ca_key_path);
}

int
keys_load(struct manager *m, struct err *err)
{
    struct site_keys *k = calloc(1, sizeof *k);
    int rc;

    if (!k)
        return err_set(err, -ENOMEM, ERR_GEN_0002, "keys: out of memory");
    m->keys = k;
    k->number = 1;
    buf_init(&k->root_pem, 64 * KIB);
    buf_init(&k->ca_pem, 64 * KIB);
    buf_init(&k->crl_pem, 4 * MIB);
    buf_init(&k->crl_der, 2 * MIB);
    rc = make_contexts(m, err);
    if (rc == 0)
        rc = identity_recover(m->cfg.key_path, m->cfg.chain_path, err);
    if (rc == 0)
        rc = load_self(m, err);
    if (rc == 0)
        rc = load_one(m->cfg.root_path, &k->root, &k->root_pem, err);
    if (rc == 0)
        rc = load_one(m->cfg.ca_path, &k->ca, &k->ca_pem, err);
    if (rc == 0)
        rc = load_ca_key(m, err);
    if (rc == 0) {
        rc = catalog_get(m->catalog, "revocation", "list", load_list, k, err);
        rc = rc == -ENOENT ? 0 : rc;
    }
    if (rc == 0)
        rc = make_crl(m, err);
    return rc;
}

void
keys_free(struct manager *m)
{
    struct site_keys *k = m->keys;

    tls_ctx_free(m->client_tls);
    tls_ctx_free(m->api_tls);
    tls_ctx_free(m->peer_tls);
    if (!k)
        return;
    X509_free(k->root);
    X509_free(k->ca);
    EVP_PKEY_free(k->ca_key);
    pki_trust_free(k->trust);
    buf_release(&k->root_pem);
    buf_release(&k->ca_pem);
    buf_release(&k->crl_pem);
    buf_release(&k->crl_der);
    free(k->revoked);
    free(k);
    m->keys = NULL;
}

int
keys_reload_own(struct manager *m, struct err *err)
{
    return load_self(m, err);
}

/* --- our own certificate --------------------------------------------------------------- */

const struct identity *
keys_own(struct manager *m)
{
    return &m->keys->own;
}

void
keys_ca_times(struct manager *m, uint64_t *out_not_before_s,
              uint64_t *out_not_after_s)
{
    *out_not_before_s = pki_not_before(m->keys->ca);
    *out_not_after_s = pki_not_after(m->keys->ca);
}

static int
make_ca(struct manager *m, EVP_PKEY *root_key, X509 **out_ca, struct err *err)
{
    struct site_keys *k = m->keys;
    struct identity ca;
    int rc = identity_of(k->ca, &ca, err);

    return rc < 0 ? rc
                  : pki_make_site_ca(k->root, root_key, &m->site, ca.name,
                                     k->ca_key, wall_ms() / 1000, out_ca, err);
}

int
keys_renew_ca(struct manager *m, struct err *err)
{
    struct site_keys *k = m->keys;
    uint64_t warn_s = (uint64_t)CA_WARN_DAYS * 86400;
    EVP_PKEY *root_key = NULL;
    X509 *ca = NULL;
    struct buf pem;
    int rc;

    if (pki_not_after(k->ca) > wall_ms() / 1000 + warn_s ||
        access(m->cfg.root_key_path, F_OK) < 0)
        return 0;
    buf_init(&pem, 64 * KIB);
    rc = pki_key_load(m->cfg.root_key_path, &root_key, err);
    if (rc == 0)
        rc = make_ca(m, root_key, &ca, err);
    if (rc == 0)
        rc = pki_cert_pem(ca, &pem, err);
    if (rc == 0)
        rc = file_replace(m->cfg.ca_path, 0644, pem.data, pem.len, err);
    if (rc == 0) {
        X509_free(k->ca);
        k->ca = ca;
        ca = NULL;
        buf_release(&k->ca_pem);
        k->ca_pem = pem;
        buf_init(&pem, 0);
    }
    buf_release(&pem);
    EVP_PKEY_free(root_key);
    X509_free(ca);
    return rc < 0 ? rc : 1;
}

static int
write_own(struct manager *m, X509 *leaf, EVP_PKEY *key, struct err *err)
{
    struct site_keys *k = m->keys;
    struct buf pem;
    int rc;

    buf_init(&pem, 64 * KIB);
    rc = pki_cert_pem(leaf, &pem, err);
    if (rc == 0)
        rc = pki_cert_pem(k->ca, &pem, err);
    if (rc == 0)
        rc = pki_cert_pem(k->root, &pem, err);
    if (rc == 0)
        rc = identity_replace(m->cfg.key_path, m->cfg.chain_path, key, &pem,
                              err);
    buf_release(&pem);
    return rc;
}

int
keys_renew_own(struct manager *m, struct err *err)
{
    struct site_keys *k = m->keys;
    STACK_OF(X509) *chain = NULL;
    EVP_PKEY *key = NULL;
    X509 *leaf = NULL;
    int rc = pki_certs_load(m->cfg.chain_path, &chain, err);

    if (rc == 0)
        rc = pki_key_new(PKI_P256, &key, err);
    if (rc == 0)
        rc = pki_renew_leaf(k->ca, k->ca_key, sk_X509_value(chain, 0), key,
                            wall_ms() / 1000, &leaf, err);
    if (rc == 0)
        rc = write_own(m, leaf, key, err);
    if (rc == 0)
        rc = load_self(m, err);
    pki_certs_free(chain);
    X509_free(leaf);
    EVP_PKEY_free(key);
    return rc;
}

int
keys_sign(struct manager *m, EVP_PKEY *key, const char *name,
          const struct uuid *id, X509 **out_cert, struct err *err)
{
    static const char host_chars[] = "abcdefghijklmnopqrstuvwxyz"
                                     "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-.";
    struct site_keys *k = m->keys;
    struct pki_leaf leaf = { .who = { k->self.deployment, k->self.site,
                                      TLS_ROLE_REPLICATOR, *id },
                             .name = name };

    /* Foreign NBD clients check a host name: QEMU's tls-hostname is the
     * replicator's name then.  Our own programs look at the identity. */
    if (name[strspn(name, host_chars)] == '\0') {
        leaf.hosts = &name;
        leaf.n_hosts = 1;
    }
    return pki_sign_leaf(k->ca, k->ca_key, key, &leaf, wall_ms() / 1000,
                         out_cert, err);
}

const char *
keys_root_pem(struct manager *m)
{
    return (const char *)m->keys->root_pem.data;
}

const char *
keys_ca_pem(struct manager *m)
{
    return (const char *)m->keys->ca_pem.data;
}

const char *
keys_crl_pem(struct manager *m)
{
    return (const char *)m->keys->crl_pem.data;
}

uint64_t
keys_crl_number(struct manager *m)
{
    return m->keys->number;
}

void
keys_fingerprint(struct manager *m, uint8_t out[PKI_FINGERPRINT_SIZE])
{
    pki_fingerprint(m->keys->root, out);
}

const struct tls_identity *
keys_identity(struct manager *m)
{
    return &m->keys->self;
}
