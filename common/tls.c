/* TLS contexts.  The library's own chain check is replaced by pki_verify()
 * (SSL_CTX_set_cert_verify_callback): it needs our trust as of now, and keeps
 * the sentence and the identity beside the connection.
 *
 * A connection's own data (struct conn) hangs in an ex_data slot of its SSL;
 * what an SSL_CTX made by libcurl needs hangs in a slot of the SSL_CTX, and is
 * copied to the connection when the check first sees it. */
#include "common/tls.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <openssl/err.h>
#include <openssl/x509v3.h>

#include "common/bytes.h"
#include "common/files.h"
#include "common/text.h"

/* A tls_expect with copies of all that it points to. */
struct expectation {
    unsigned roles;
    bool has_deployment, has_site, has_id;
    struct uuid deployment, site, id;
    char host[TEXT_HOST_SIZE];
    struct err *out_refusal;
};

struct conn {
    struct tls_ctx *ctx; /* a reference */
    struct expectation expect;
    bool has_peer;
    struct tls_identity peer;
    struct err refused; /* why the check failed; num 0: it did not */
};

struct tls_ctx {
    _Atomic unsigned refs;
    struct tls_settings settings; /* alpn points to nothing: see below */
    uint8_t alpn[TLS_ALPN_MAX];   /* wire form: length, name, length, ... */
    unsigned alpn_len;
    _Atomic uint64_t generation;
    pthread_mutex_t lock; /* guards the four below */
    SSL_CTX *native;      /* replaced when the certificate changes */
    struct pki_trust *trust;
    struct stack_st_X509 *chain;
    EVP_PKEY *key;
};

static pthread_once_t once = PTHREAD_ONCE_INIT;
static int ssl_slot = -1, native_slot = -1;

static void
conn_free(struct conn *c)
{
    if (!c)
        return;
    tls_ctx_free(c->ctx);
    free(c);
}

static void
on_slot_free(void *parent, void *ptr, CRYPTO_EX_DATA *ad, int idx, long argl,
             void *argp)
{
    UNUSED(parent);
    UNUSED(ad);
    UNUSED(idx);
    UNUSED(argl);
    UNUSED(argp);
    conn_free(ptr);
}

static void
make_slots(void)
{
    ssl_slot = SSL_get_ex_new_index(0, NULL, NULL, NULL, on_slot_free);
    native_slot = SSL_CTX_get_ex_new_index(0, NULL, NULL, NULL, on_slot_free);
}

static int
fail_ssl(struct err *err, int num, enum err_code code, const char *what)
{
    unsigned long e = ERR_peek_last_error();
    const char *why = e ? ERR_reason_error_string(e) : NULL;

    ERR_clear_error();
    return err_set(err, num, code, "%s: %s", what,
                   why ? why : "refused by the crypto library");
}

static int
copy_expect(struct expectation *to, const struct tls_expect *from,
            struct err *err)
{
    *to = (struct expectation){ .roles = 0 };
    if (!from)
        return 0;
    to->roles = from->roles;
    to->out_refusal = from->out_refusal;
    if (from->host && strlen(from->host) >= sizeof to->host)
        return err_set(err, -EINVAL, ERR_TLS_0007, "host name of %zu bytes",
                       strlen(from->host));
    if (from->host)
        memcpy(to->host, from->host, strlen(from->host) + 1);
    to->has_deployment = from->deployment != NULL;
    to->has_site = from->site != NULL;
    to->has_id = from->id != NULL;
    if (from->deployment)
        to->deployment = *from->deployment;
    if (from->site)
        to->site = *from->site;
    if (from->id)
        to->id = *from->id;
    return 0;
}

static struct conn *
conn_new(struct tls_ctx *ctx, const struct expectation *expect)
{
    struct conn *c = calloc(1, sizeof *c);

    if (!c)
        return NULL;
    c->ctx = tls_ctx_ref(ctx);
    c->expect = *expect;
    return c;
}

/* ---- The check ----------------------------------------------------------- */

static int
unexpected(struct err *err, const char *what, const char *got,
           const char *wanted)
{
    return err_set(err, -EKEYREJECTED, ERR_TLS_0007,
                   "the other side is %s %s, not %s", what, got, wanted);
}

static int
compare_id(bool wanted, const struct uuid *want, const struct uuid *got,
           const char *what, struct err *err)
{
    char g[UUID_TEXT_SIZE], w[UUID_TEXT_SIZE];

    if (!wanted || uuid_equal(want, got))
        return 0;
    uuid_format(got, g);
    uuid_format(want, w);
    return unexpected(err, what, g, w);
}

static int
check_host(const char *host, X509 *leaf, struct err *err)
{
    if (!host[0] || X509_check_ip_asc(leaf, host, 0) == 1 ||
        X509_check_host(leaf, host, 0, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS,
                        NULL) == 1)
        return 0;
    ERR_clear_error();
    return err_set(err, -EKEYREJECTED, ERR_TLS_0007,
                   "the other side's certificate does not carry the name %s",
                   host);
}

static int
check_expected(const struct expectation *e, const struct tls_identity *who,
               X509 *leaf, struct err *err)
{
    int rc;

    if (e->roles && !(e->roles & 1U << who->role))
        return unexpected(err, "of role", tls_role_name(who->role),
                          "of the expected one");
    rc = compare_id(e->has_deployment, &e->deployment, &who->deployment,
                    "of deployment", err);
    if (rc == 0)
        rc = compare_id(e->has_site, &e->site, &who->site, "of site", err);
    if (rc == 0)
        rc = compare_id(e->has_id, &e->id, &who->id, tls_role_name(who->role),
                        err);
    if (rc == 0)
        rc = check_host(e->host, leaf, err);
    return rc;
}

static int
check_peer(struct conn *c, bool peer_is_client, X509 *leaf,
           struct stack_st_X509 *untrusted, struct tls_identity *out_who,
           struct err *err)
{
    struct pki_trust *trust;
    struct tls_identity who;
    int rc;

    pthread_mutex_lock(&c->ctx->lock);
    trust = pki_trust_ref(c->ctx->trust);
    pthread_mutex_unlock(&c->ctx->lock);
    if (!trust)
        return err_set(err, -EKEYREJECTED, ERR_TLS_0004,
                       "no root is trusted here");
    rc = pki_verify(trust, leaf, untrusted,
                    peer_is_client ? PKI_CLIENT : PKI_SERVER,
                    (uint64_t)time(NULL), &who, err);
    pki_trust_free(trust);
    if (rc == 0)
        rc = check_expected(&c->expect, &who, leaf, err);
    if (rc == 0)
        *out_who = who;
    return rc;
}

/* The alert that fits, so that the other side can say why, too. */
static int
verify_code(const struct err *e)
{
    if (e->num == -EKEYEXPIRED)
        return X509_V_ERR_CERT_HAS_EXPIRED;
    if (e->num == -EKEYREVOKED)
        return X509_V_ERR_CERT_REVOKED;
    if (e->code == ERR_TLS_0004)
        return X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY;
    if (e->code == ERR_TLS_0003)
        return X509_V_ERR_CERT_NOT_YET_VALID;
    return X509_V_ERR_APPLICATION_VERIFICATION;
}

/* The connection's data, made from its SSL_CTX's on first sight when the
 * connection is a library's. */
static struct conn *
conn_of(SSL *ssl)
{
    struct conn *c = SSL_get_ex_data(ssl, ssl_slot);
    const struct conn *model;

    if (c)
        return c;
    model = SSL_CTX_get_ex_data(SSL_get_SSL_CTX(ssl), native_slot);
    if (!model)
        return NULL;
    c = conn_new(model->ctx, &model->expect);
    if (c && SSL_set_ex_data(ssl, ssl_slot, c) != 1) {
        conn_free(c);
        return NULL;
    }
    return c;
}

static int
on_verify(X509_STORE_CTX *sc, void *arg)
{
    SSL *ssl =
        X509_STORE_CTX_get_ex_data(sc, SSL_get_ex_data_X509_STORE_CTX_idx());
    struct conn *c = conn_of(ssl);

    UNUSED(arg);
    if (!c) {
        X509_STORE_CTX_set_error(sc, X509_V_ERR_OUT_OF_MEM);
        return 0;
    }
    c->refused.num = 0;
    if (check_peer(c, SSL_is_server(ssl), X509_STORE_CTX_get0_cert(sc),
                   X509_STORE_CTX_get0_untrusted(sc), &c->peer,
                   &c->refused) < 0) {
        X509_STORE_CTX_set_error(sc, verify_code(&c->refused));
        if (c->expect.out_refusal)
            *c->expect.out_refusal = c->refused;
        return 0;
    }
    c->has_peer = true;
    X509_STORE_CTX_set_error(sc, X509_V_OK);
    return 1;
}

static int
on_alpn(SSL *ssl, const unsigned char **out, unsigned char *out_len,
        const unsigned char *in, unsigned in_len, void *arg)
{
    struct conn *c = SSL_get_ex_data(ssl, ssl_slot);
    unsigned char *picked = NULL;

    UNUSED(arg);
    if (!c ||
        SSL_select_next_proto(&picked, out_len, c->ctx->alpn, c->ctx->alpn_len,
                              in, in_len) != OPENSSL_NPN_NEGOTIATED)
        return SSL_TLSEXT_ERR_ALERT_FATAL;
    *out = picked;
    return SSL_TLSEXT_ERR_OK;
}

/* ---- Contexts ------------------------------------------------------------ */

static int
set_alpn(struct tls_ctx *ctx, const struct tls_settings *s, struct err *err)
{
    for (size_t i = 0; i < s->n_alpn; i++) {
        size_t n = strlen(s->alpn[i]);

        if (n == 0 || ctx->alpn_len + 1 + n > sizeof ctx->alpn)
            return err_set(err, -EINVAL, ERR_GEN_0001,
                           "protocol names exceed %d bytes", TLS_ALPN_MAX);
        ctx->alpn[ctx->alpn_len] = (uint8_t)n;
        memcpy(ctx->alpn + ctx->alpn_len + 1, s->alpn[i], n);
        ctx->alpn_len += (unsigned)(n + 1);
    }
    return 0;
}

static int
verify_mode(const struct tls_settings *s)
{
    if (s->side == TLS_CLIENT)
        return SSL_VERIFY_PEER;
    switch (s->client_cert) {
    case TLS_CLIENT_CERT_REQUIRED:
        return SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT;
    case TLS_CLIENT_CERT_OPTIONAL: return SSL_VERIFY_PEER;
    case TLS_CLIENT_CERT_NONE: return SSL_VERIFY_NONE;
    }
    return SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT;
}

static int
set_certificate(SSL_CTX *native, struct stack_st_X509 *chain, EVP_PKEY *key)
{
    if (!chain)
        return 1;
    if (SSL_CTX_use_certificate(native, sk_X509_value(chain, 0)) != 1 ||
        SSL_CTX_use_PrivateKey(native, key) != 1 ||
        SSL_CTX_check_private_key(native) != 1)
        return 0;
    SSL_CTX_clear_chain_certs(native);
    for (int i = 1; i < sk_X509_num(chain); i++) {
        if (SSL_CTX_add1_chain_cert(native, sk_X509_value(chain, i)) != 1)
            return 0;
    }
    return 1;
}

/* Everything but ex_data; the lock is held or ctx is not shared yet. */
static int
configure_locked(struct tls_ctx *ctx, SSL_CTX *native, struct err *err)
{
    char groups[] = "X25519:P-256:P-384"; /* the macro casts const away */

    (void)SSL_CTX_set_session_cache_mode(native, SSL_SESS_CACHE_OFF);
    (void)SSL_CTX_set_options(native, SSL_OP_NO_TICKET |
                                          SSL_OP_CIPHER_SERVER_PREFERENCE |
                                          SSL_OP_NO_RENEGOTIATION |
                                          SSL_OP_NO_COMPRESSION);
    (void)SSL_CTX_set_mode(native, SSL_MODE_ENABLE_PARTIAL_WRITE |
                                       SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                                       SSL_MODE_RELEASE_BUFFERS |
                                       SSL_MODE_NO_AUTO_CHAIN);
    SSL_CTX_set_verify(native, verify_mode(&ctx->settings), NULL);
    SSL_CTX_set_cert_verify_callback(native, on_verify, NULL);
    if (SSL_CTX_set_min_proto_version(native, TLS1_3_VERSION) != 1 ||
        SSL_CTX_set_max_proto_version(native, TLS1_3_VERSION) != 1 ||
        SSL_CTX_set_num_tickets(native, 0) != 1 ||
        SSL_CTX_set_ciphersuites(native, "TLS_AES_128_GCM_SHA256:"
                                         "TLS_CHACHA20_POLY1305_SHA256:"
                                         "TLS_AES_256_GCM_SHA384") != 1 ||
        SSL_CTX_set1_groups_list(native, groups) != 1)
        return fail_ssl(err, -EIO, ERR_GEN_0001, "set up TLS 1.3");
    if (ctx->alpn_len && ctx->settings.side == TLS_CLIENT &&
        SSL_CTX_set_alpn_protos(native, ctx->alpn, ctx->alpn_len) != 0)
        return fail_ssl(err, -EIO, ERR_GEN_0001, "set up ALPN");
    if (ctx->alpn_len && ctx->settings.side == TLS_SERVER)
        SSL_CTX_set_alpn_select_cb(native, on_alpn, NULL);
    if (!set_certificate(native, ctx->chain, ctx->key))
        return fail_ssl(err, -EINVAL, ERR_TLS_0008, "use our certificate");
    return 0;
}

static int
new_native_locked(struct tls_ctx *ctx, SSL_CTX **out_native, struct err *err)
{
    SSL_CTX *native =
        SSL_CTX_new(ctx->settings.side == TLS_SERVER ? TLS_server_method()
                                                     : TLS_client_method());
    int rc;

    if (!native)
        return fail_ssl(err, -ENOMEM, ERR_GEN_0002, "make a TLS context");
    rc = configure_locked(ctx, native, err);
    if (rc < 0) {
        SSL_CTX_free(native);
        return rc;
    }
    *out_native = native;
    return 0;
}

int
tls_ctx_new(const struct tls_settings *settings, struct tls_ctx **out_ctx,
            struct err *err)
{
    struct tls_ctx *ctx = calloc(1, sizeof *ctx);
    int rc;

    if (!ctx)
        return err_set(err, -ENOMEM, ERR_GEN_0002, "TLS: out of memory");
    (void)pthread_once(&once, make_slots);
    atomic_init(&ctx->refs, 1);
    (void)pthread_mutex_init(&ctx->lock, NULL);
    ctx->settings = *settings;
    ctx->settings.alpn = NULL;
    rc = set_alpn(ctx, settings, err);
    if (rc == 0)
        rc = new_native_locked(ctx, &ctx->native, err);
    if (rc < 0) {
        tls_ctx_free(ctx);
        return rc;
    }
    *out_ctx = ctx;
    return 0;
}

struct tls_ctx *
tls_ctx_ref(struct tls_ctx *ctx)
{
    if (ctx)
        atomic_fetch_add(&ctx->refs, 1);
    return ctx;
}

void
tls_ctx_free(struct tls_ctx *ctx)
{
    if (!ctx || atomic_fetch_sub(&ctx->refs, 1) != 1)
        return;
    SSL_CTX_free(ctx->native);
    pki_trust_free(ctx->trust);
    pki_certs_free(ctx->chain);
    EVP_PKEY_free(ctx->key);
    (void)pthread_mutex_destroy(&ctx->lock);
    free(ctx);
}

int
tls_ctx_set_own(struct tls_ctx *ctx, struct stack_st_X509 *chain, EVP_PKEY *key,
                struct err *err)
{
    struct stack_st_X509 *copy = X509_chain_up_ref(chain), *old_chain;
    SSL_CTX *native = NULL, *old_native;
    EVP_PKEY *old_key;
    int rc;

    if (!copy || EVP_PKEY_up_ref(key) != 1) {
        pki_certs_free(copy);
        return err_set(err, -ENOMEM, ERR_GEN_0002, "TLS: out of memory");
    }
    pthread_mutex_lock(&ctx->lock);
    old_chain = ctx->chain;
    old_key = ctx->key;
    old_native = ctx->native;
    ctx->chain = copy;
    ctx->key = key;
    rc = new_native_locked(ctx, &native, err);
    if (rc < 0) { /* stay with what works */
        ctx->chain = old_chain;
        ctx->key = old_key;
        old_chain = copy;
        old_key = key;
        old_native = NULL;
    } else {
        ctx->native = native;
        atomic_fetch_add(&ctx->generation, 1);
    }
    pthread_mutex_unlock(&ctx->lock);
    SSL_CTX_free(old_native);
    pki_certs_free(old_chain);
    EVP_PKEY_free(old_key);
    return rc;
}

int
tls_ctx_load_own(struct tls_ctx *ctx, const char *chain_path,
                 const char *key_path, struct err *err)
{
    struct stack_st_X509 *chain = NULL;
    EVP_PKEY *key = NULL;
    int rc = pki_certs_load(chain_path, &chain, err);

    if (rc == 0)
        rc = pki_key_load(key_path, &key, err);
    if (rc == 0) {
        rc = tls_ctx_set_own(ctx, chain, key, err);
        if (rc < 0)
            err_prefix(err, "%s and %s", chain_path, key_path);
    }
    pki_certs_free(chain);
    EVP_PKEY_free(key);
    return rc;
}

void
tls_ctx_set_trust(struct tls_ctx *ctx, struct pki_trust *trust)
{
    struct pki_trust *old;

    pthread_mutex_lock(&ctx->lock);
    old = ctx->trust;
    ctx->trust = pki_trust_ref(trust);
    atomic_fetch_add(&ctx->generation, 1);
    pthread_mutex_unlock(&ctx->lock);
    pki_trust_free(old);
}

uint64_t
tls_ctx_generation(struct tls_ctx *ctx)
{
    return atomic_load(&ctx->generation);
}

/* ---- Connections --------------------------------------------------------- */

int
tls_ssl_new(struct tls_ctx *ctx, const struct tls_expect *expect, SSL **out_ssl,
            struct err *err)
{
    struct expectation e;
    struct conn *c;
    SSL *ssl;
    int rc = copy_expect(&e, expect, err);

    if (rc < 0)
        return rc;
    c = conn_new(ctx, &e);
    pthread_mutex_lock(&ctx->lock);
    ssl = c ? SSL_new(ctx->native) : NULL;
    pthread_mutex_unlock(&ctx->lock);
    if (!ssl || SSL_set_ex_data(ssl, ssl_slot, c) != 1) {
        conn_free(c);
        SSL_free(ssl);
        return fail_ssl(err, -ENOMEM, ERR_GEN_0002, "make a connection");
    }
    if (ctx->settings.side == TLS_SERVER)
        SSL_set_accept_state(ssl);
    else
        SSL_set_connect_state(ssl);
    *out_ssl = ssl;
    return 0;
}

int
tls_ctx_apply(struct tls_ctx *ctx, const struct tls_expect *expect,
              SSL_CTX *native, struct err *err)
{
    struct expectation e;
    struct conn *c;
    int rc = copy_expect(&e, expect, err);

    if (rc < 0)
        return rc;
    c = conn_new(ctx, &e);
    if (!c)
        return err_set(err, -ENOMEM, ERR_GEN_0002, "TLS: out of memory");
    conn_free(SSL_CTX_get_ex_data(native, native_slot));
    if (SSL_CTX_set_ex_data(native, native_slot, c) != 1) {
        conn_free(c);
        return fail_ssl(err, -ENOMEM, ERR_GEN_0002, "TLS");
    }
    pthread_mutex_lock(&ctx->lock);
    rc = configure_locked(ctx, native, err);
    pthread_mutex_unlock(&ctx->lock);
    return rc;
}

int
tls_peer(const SSL *ssl, struct tls_identity *out_who)
{
    const struct conn *c = SSL_get_ex_data(ssl, ssl_slot);

    if (!c || !c->has_peer)
        return -ENOENT;
    *out_who = c->peer;
    return 0;
}

int
tls_peer_recheck(SSL *ssl, struct err *err)
{
    struct conn *c = conn_of(ssl);
    X509 *leaf = SSL_get0_peer_certificate(ssl);
    struct tls_identity who;

    if (!c || !leaf)
        return err_set(err, -ENOENT, ERR_TLS_0010,
                       "the other side showed no certificate");
    return check_peer(c, SSL_is_server(ssl), leaf, SSL_get_peer_cert_chain(ssl),
                      &who, err);
}

/* ---- Failures ------------------------------------------------------------ */

/* What the other side's alerts mean for us (RFC 8446, 6.2). */
static const struct alert {
    int reason;
    int num;
    enum err_code code;
    const char *text;
} alerts[] = {
    { SSL_R_SSLV3_ALERT_CERTIFICATE_EXPIRED, -EKEYEXPIRED, ERR_TLS_0002,
      "the other side refused our certificate as expired" },
    { SSL_R_SSLV3_ALERT_CERTIFICATE_REVOKED, -EKEYREVOKED, ERR_TLS_0005,
      "the other side refused our certificate as revoked" },
    { SSL_R_TLSV1_ALERT_UNKNOWN_CA, -EKEYREJECTED, ERR_TLS_0004,
      "the other side does not trust the root of our certificate" },
    { SSL_R_SSLV3_ALERT_BAD_CERTIFICATE, -EKEYREJECTED, ERR_TLS_0006,
      "the other side refused our certificate" },
    { SSL_R_SSLV3_ALERT_CERTIFICATE_UNKNOWN, -EKEYREJECTED, ERR_TLS_0006,
      "the other side refused our certificate" },
    { SSL_R_SSLV3_ALERT_HANDSHAKE_FAILURE, -EPROTO, ERR_TLS_0001,
      "the other side refused the handshake" },
    { SSL_R_TLSV13_ALERT_CERTIFICATE_REQUIRED, -EKEYREJECTED, ERR_TLS_0010,
      "the other side asks for a certificate and we have none" },
    { SSL_R_TLSV1_ALERT_PROTOCOL_VERSION, -EPROTO, ERR_TLS_0013,
      "the other side does not speak TLS 1.3" },
    { SSL_R_TLSV1_ALERT_NO_APPLICATION_PROTOCOL, -EPROTO, ERR_TLS_0001,
      "the other side does not offer this service" },
    { SSL_R_NO_APPLICATION_PROTOCOL, -EPROTO, ERR_TLS_0001,
      "the other side asked for a service that is not offered here" },
    { SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE, -EKEYREJECTED, ERR_TLS_0010,
      "the other side showed no certificate" },
    { SSL_R_UNSUPPORTED_PROTOCOL, -EPROTO, ERR_TLS_0013,
      "the other side does not speak TLS 1.3" },
    { SSL_R_WRONG_VERSION_NUMBER, -EPROTO, ERR_TLS_0013,
      "the other side does not speak TLS" },
    { SSL_R_HTTP_REQUEST, -EPROTO, ERR_TLS_0013,
      "the other side speaks plain HTTP" },
    { SSL_R_HTTPS_PROXY_REQUEST, -EPROTO, ERR_TLS_0013,
      "the other side speaks plain HTTP" },
};

int
tls_explain(unsigned long library_error, struct err *err)
{
    unsigned long e = library_error;
    const char *why = ERR_reason_error_string(e);

    for (size_t i = 0; i < ARRAY_SIZE(alerts); i++) {
        if (ERR_GET_LIB(e) == ERR_LIB_SSL &&
            ERR_GET_REASON(e) == alerts[i].reason)
            return err_set(err, alerts[i].num, alerts[i].code, "%s",
                           alerts[i].text);
    }
    return err_set(err, -EPROTO, ERR_TLS_0001, "TLS: %s",
                   why ? why : "broken by the other side");
}

int
tls_failure(SSL *ssl, int ret, struct err *err)
{
    const struct conn *c = SSL_get_ex_data(ssl, ssl_slot);
    int saved = errno, kind = SSL_get_error(ssl, ret);
    unsigned long e = ERR_peek_error();

    if (c && c->refused.num) {
        ERR_clear_error();
        if (err)
            *err = c->refused;
        return c->refused.num;
    }
    if (kind == SSL_ERROR_SSL && e) {
        ERR_clear_error();
        return tls_explain(e, err);
    }
    ERR_clear_error();
    if (kind == SSL_ERROR_SYSCALL && saved)
        return err_set(err, -saved, ERR_TLS_0001, "TLS: %s", err_errno(saved));
    return err_set(err, -ECONNRESET, ERR_TLS_0001,
                   "TLS: the other side closed the connection");
}

int
tls_exporter(SSL *ssl, const char *label, uint8_t *out, size_t n,
             struct err *err)
{
    if (SSL_export_keying_material(ssl, out, n, label, strlen(label), NULL, 0,
                                   0) != 1)
        return fail_ssl(err, -EIO, ERR_TLS_0001, "TLS exporter");
    return 0;
}
