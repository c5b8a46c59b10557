/* room: common
 * Both ends of a handshake in one thread, over memory: the matrix of
 * certificates, old protocols and plain text. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <openssl/err.h>

#include "common/bytes.h"
#include "pki_fixture.h"

static struct site london, paris;
static struct leaf manager, replicator, expired, foreign, client_only, later;
static struct pki_trust *trust_london, *trust_both, *trust_revoked;

static int
setup(void **state)
{
    struct err e = ERR_INIT;
    struct pki_revoked r = { .when_s = 1700000000 };
    struct buf crl;

    (void)state;
    site_make(&london, "london");
    site_make(&paris, "paris");
    leaf_make(&manager, &london, TLS_ROLE_MANAGER, 0, 0, 0);
    leaf_make(&replicator, &london, TLS_ROLE_REPLICATOR, 0, 0, 0);
    leaf_make(&expired, &london, TLS_ROLE_REPLICATOR, 0, -7200, -60);
    leaf_make(&later, &london, TLS_ROLE_REPLICATOR, 0, 3600, 7200);
    leaf_make(&foreign, &paris, TLS_ROLE_REPLICATOR, 0, 0, 0);
    leaf_make(&client_only, &london, TLS_ROLE_REPLICATOR, PKI_CLIENT, 0, 0);
    must(pki_trust_new(&trust_london, &e), &e);
    must(pki_trust_add_root(trust_london, london.root, &e), &e);
    must(pki_trust_new(&trust_both, &e), &e);
    must(pki_trust_add_root(trust_both, london.root, &e), &e);
    must(pki_trust_add_root(trust_both, paris.root, &e), &e);
    must(pki_trust_new(&trust_revoked, &e), &e);
    must(pki_trust_add_root(trust_revoked, london.root, &e), &e);
    buf_init(&crl, 65536);
    pki_serial(replicator.cert, r.serial);
    must(pki_crl_make(london.ca, london.ca_key, 1, &r, 1, (uint64_t)time(NULL),
                      &crl, &e),
         &e);
    must(pki_trust_add_crl(trust_revoked, crl.data, crl.len, &e), &e);
    buf_release(&crl);
    return 0;
}

static int
teardown(void **state)
{
    (void)state;
    leaf_release(&manager);
    leaf_release(&replicator);
    leaf_release(&expired);
    leaf_release(&later);
    leaf_release(&foreign);
    leaf_release(&client_only);
    pki_trust_free(trust_london);
    pki_trust_free(trust_both);
    pki_trust_free(trust_revoked);
    site_release(&london);
    site_release(&paris);
    return 0;
}

static struct tls_ctx *
context(const struct tls_settings *s, const struct leaf *own,
        struct pki_trust *trust)
{
    struct tls_ctx *ctx = NULL;
    struct err e = ERR_INIT;

    must(tls_ctx_new(s, &ctx, &e), &e);
    if (own)
        must(tls_ctx_set_own(ctx, own->chain, own->key, &e), &e);
    if (trust)
        tls_ctx_set_trust(ctx, trust);
    return ctx;
}

static void
join_ends(SSL *a, SSL *b)
{
    BIO *x = NULL, *y = NULL;

    assert_int_equal(BIO_new_bio_pair(&x, 65536, &y, 65536), 1);
    SSL_set_bio(a, x, x);
    SSL_set_bio(b, y, y);
}

/* Step one side; 1 done, 0 wants more, else the failure. */
static int
step(SSL *ssl, struct err *err)
{
    char c;
    int ret, kind;

    if (!SSL_is_init_finished(ssl)) {
        ret = SSL_do_handshake(ssl);
    } else {
        ret = SSL_read(ssl, &c, 1); /* a client hears of refusals here */
    }
    kind = SSL_get_error(ssl, ret);
    if (ret > 0)
        return 1;
    if (kind == SSL_ERROR_WANT_READ || kind == SSL_ERROR_WANT_WRITE)
        return SSL_is_init_finished(ssl);
    return tls_failure(ssl, ret, err);
}

struct outcome {
    int server, client; /* 0 or negative errno */
    struct err server_err, client_err;
};

static void
handshake(SSL *server, SSL *client, struct outcome *o)
{
    int s = 0, c = 0;

    *o = (struct outcome){ .server = 0 };
    for (int i = 0; i < 20; i++) {
        if (c >= 0)
            c = step(client, &o->client_err);
        if (s >= 0)
            s = step(server, &o->server_err);
    }
    if (s == 0 || c == 0)
        fail_msg("handshake stuck: server %d client %d", s, c);
    o->server = s < 0 ? s : 0;
    o->client = c < 0 ? c : 0;
}

struct row {
    const char *name;
    const struct leaf *server, *client; /* NULL: no certificate */
    struct pki_trust **server_trust, **client_trust;
    enum tls_client_cert mode;
    unsigned roles;
    const struct uuid *site, *id;
    const char *host;
    int server_rc, client_rc;
    enum err_code server_code, client_code; /* looked at when rc is not 0 */
};

static void
matrix(void **state)
{
    const struct row rows[] = {
        { "mutual", &manager, &replicator, &trust_london, &trust_london,
          TLS_CLIENT_CERT_REQUIRED, 1U << TLS_ROLE_MANAGER, &london.id,
          &manager.who.id, "127.0.0.1", 0, 0, ERR_GEN_0001, ERR_GEN_0001 },
        { "dns name", &manager, &replicator, &trust_london, &trust_london,
          TLS_CLIENT_CERT_REQUIRED, 0, NULL, NULL, "node.example.org", 0, 0,
          ERR_GEN_0001, ERR_GEN_0001 },
        { "peer site", &manager, &foreign, &trust_both, &trust_london,
          TLS_CLIENT_CERT_REQUIRED, 0, NULL, NULL, NULL, 0, 0, ERR_GEN_0001,
          ERR_GEN_0001 },
        { "optional, none shown", &manager, NULL, &trust_london, &trust_london,
          TLS_CLIENT_CERT_OPTIONAL, 0, NULL, NULL, NULL, 0, 0, ERR_GEN_0001,
          ERR_GEN_0001 },
        { "optional, shown", &manager, &replicator, &trust_london,
          &trust_london, TLS_CLIENT_CERT_OPTIONAL, 0, NULL, NULL, NULL, 0, 0,
          ERR_GEN_0001, ERR_GEN_0001 },
        { "optional, bad shown", &manager, &foreign, &trust_london,
          &trust_london, TLS_CLIENT_CERT_OPTIONAL, 0, NULL, NULL, NULL,
          -EKEYREJECTED, -EKEYREJECTED, ERR_TLS_0004, ERR_TLS_0004 },
        { "none asked", &manager, NULL, NULL, &trust_london, TLS_CLIENT_CERT_NONE,
          0, NULL, NULL, NULL, 0, 0, ERR_GEN_0001, ERR_GEN_0001 },
        { "none shown", &manager, NULL, &trust_london, &trust_london,
          TLS_CLIENT_CERT_REQUIRED, 0, NULL, NULL, NULL, -EKEYREJECTED,
          -EKEYREJECTED, ERR_TLS_0010, ERR_TLS_0010 },
        { "client expired", &manager, &expired, &trust_london, &trust_london,
          TLS_CLIENT_CERT_REQUIRED, 0, NULL, NULL, NULL, -EKEYEXPIRED,
          -EKEYEXPIRED, ERR_TLS_0002, ERR_TLS_0002 },
        { "client not yet", &manager, &later, &trust_london, &trust_london,
          TLS_CLIENT_CERT_REQUIRED, 0, NULL, NULL, NULL, -EKEYREJECTED,
          -EKEYREJECTED, ERR_TLS_0003, ERR_TLS_0006 },
        { "client foreign", &manager, &foreign, &trust_london, &trust_london,
          TLS_CLIENT_CERT_REQUIRED, 0, NULL, NULL, NULL, -EKEYREJECTED,
          -EKEYREJECTED, ERR_TLS_0004, ERR_TLS_0004 },
        { "client revoked", &manager, &replicator, &trust_revoked,
          &trust_london, TLS_CLIENT_CERT_REQUIRED, 0, NULL, NULL, NULL,
          -EKEYREVOKED, -EKEYREVOKED, ERR_TLS_0005, ERR_TLS_0005 },
        { "server expired", &expired, &replicator, &trust_london, &trust_london,
          TLS_CLIENT_CERT_REQUIRED, 0, NULL, NULL, NULL, -EKEYEXPIRED,
          -EKEYEXPIRED, ERR_TLS_0002, ERR_TLS_0002 },
        { "server foreign", &foreign, &replicator, &trust_london, &trust_london,
          TLS_CLIENT_CERT_REQUIRED, 0, NULL, NULL, NULL, -EKEYREJECTED,
          -EKEYREJECTED, ERR_TLS_0004, ERR_TLS_0004 },
        { "server revoked", &replicator, &manager, &trust_london,
          &trust_revoked, TLS_CLIENT_CERT_REQUIRED, 0, NULL, NULL, NULL,
          -EKEYREVOKED, -EKEYREVOKED, ERR_TLS_0005, ERR_TLS_0005 },
        { "server with a client's use", &client_only, &replicator,
          &trust_london, &trust_london, TLS_CLIENT_CERT_REQUIRED, 0, NULL, NULL,
          NULL, -EPROTO, -EKEYREJECTED, ERR_TLS_0001, ERR_TLS_0006 },
        { "wrong role", &manager, &replicator, &trust_london, &trust_london,
          TLS_CLIENT_CERT_REQUIRED, 1U << TLS_ROLE_REPLICATOR, NULL, NULL, NULL,
          -EPROTO, -EKEYREJECTED, ERR_TLS_0001, ERR_TLS_0007 },
        { "wrong site", &foreign, &replicator, &trust_both, &trust_both,
          TLS_CLIENT_CERT_REQUIRED, 0, &london.id, NULL, NULL, -EPROTO,
          -EKEYREJECTED, ERR_TLS_0001, ERR_TLS_0007 },
        { "wrong id", &manager, &replicator, &trust_london, &trust_london,
          TLS_CLIENT_CERT_REQUIRED, 0, NULL, &replicator.who.id, NULL, -EPROTO,
          -EKEYREJECTED, ERR_TLS_0001, ERR_TLS_0007 },
        { "wrong host", &manager, &replicator, &trust_london, &trust_london,
          TLS_CLIENT_CERT_REQUIRED, 0, NULL, NULL, "other.example.org", -EPROTO,
          -EKEYREJECTED, ERR_TLS_0001, ERR_TLS_0007 },
        { "no trust", &manager, &replicator, &trust_london, NULL,
          TLS_CLIENT_CERT_REQUIRED, 0, NULL, NULL, NULL, -EKEYREJECTED,
          -EKEYREJECTED, ERR_TLS_0004, ERR_TLS_0004 },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        const struct row *r = &rows[i];
        struct tls_settings ss = { .side = TLS_SERVER, .client_cert = r->mode };
        struct tls_settings cs = { .side = TLS_CLIENT };
        struct tls_ctx *sc =
            context(&ss, r->server, r->server_trust ? *r->server_trust : NULL);
        struct tls_ctx *cc =
            context(&cs, r->client, r->client_trust ? *r->client_trust : NULL);
        struct tls_expect x = {
            .roles = r->roles, .site = r->site, .id = r->id, .host = r->host
        };
        struct tls_identity who;
        struct err e = ERR_INIT;
        struct outcome o;
        SSL *s = NULL, *c = NULL;

        must(tls_ssl_new(sc, NULL, &s, &e), &e);
        must(tls_ssl_new(cc, &x, &c, &e), &e);
        join_ends(s, c);
        handshake(s, c, &o);
        if (o.server != r->server_rc || o.client != r->client_rc ||
            (o.server && o.server_err.code != r->server_code) ||
            (o.client && o.client_err.code != r->client_code))
            fail_msg("%s: server %d %s (%s), client %d %s (%s)", r->name,
                     o.server, err_code_text(o.server_err.code),
                     o.server_err.msg, o.client,
                     err_code_text(o.client_err.code), o.client_err.msg);
        if (!o.server && !o.client) {
            assert_int_equal(tls_peer(c, &who), 0);
            assert_memory_equal(&who, &r->server->who, sizeof who);
            assert_int_equal(tls_peer(s, &who), r->client ? 0 : -ENOENT);
            if (r->client)
                assert_memory_equal(&who, &r->client->who, sizeof who);
            assert_string_equal(SSL_get_version(s), "TLSv1.3");
            assert_string_equal(SSL_get_cipher_name(s),
                                "TLS_AES_128_GCM_SHA256");
            assert_int_equal(SSL_session_reused(s), 0);
        }
        SSL_free(s);
        SSL_free(c);
        tls_ctx_free(sc);
        tls_ctx_free(cc);
    }
}

static void
exporter_and_recheck(void **state)
{
    struct tls_settings ss = { .side = TLS_SERVER }, cs = { .side = TLS_CLIENT };
    struct tls_ctx *sc = context(&ss, &manager, trust_london);
    struct tls_ctx *cc = context(&cs, &replicator, trust_london);
    struct err e = ERR_INIT;
    struct outcome o;
    SSL *s = NULL, *c = NULL;
    uint8_t a[32], b[32];
    uint64_t g;

    (void)state;
    must(tls_ssl_new(sc, NULL, &s, &e), &e);
    must(tls_ssl_new(cc, NULL, &c, &e), &e);
    join_ends(s, c);
    handshake(s, c, &o);
    assert_int_equal(o.server, 0);
    must(tls_exporter(s, "EXPORTER-holdfast-test", a, sizeof a, &e), &e);
    must(tls_exporter(c, "EXPORTER-holdfast-test", b, sizeof b, &e), &e);
    assert_memory_equal(a, b, sizeof a);
    must(tls_exporter(c, "EXPORTER-other", b, sizeof b, &e), &e);
    assert_memory_not_equal(a, b, sizeof a);
    must(tls_peer_recheck(s, &e), &e);
    must(tls_peer_recheck(c, &e), &e);
    /* the replicator is revoked while it is connected */
    g = tls_ctx_generation(sc);
    tls_ctx_set_trust(sc, trust_revoked);
    assert_true(tls_ctx_generation(sc) > g);
    assert_int_equal(tls_peer_recheck(s, &e), -EKEYREVOKED);
    assert_int_equal(e.code, ERR_TLS_0005);
    tls_ctx_set_trust(sc, NULL);
    assert_int_equal(tls_peer_recheck(s, &e), -EKEYREJECTED);
    SSL_free(s);
    SSL_free(c);
    tls_ctx_free(sc);
    tls_ctx_free(cc);
}

static void
own_certificate_can_change(void **state)
{
    struct tls_settings ss = { .side = TLS_SERVER,
                               .client_cert = TLS_CLIENT_CERT_NONE };
    struct tls_ctx *sc = context(&ss, &expired, NULL);
    struct err e = ERR_INIT;
    uint64_t g = tls_ctx_generation(sc);

    (void)state;
    assert_int_equal(tls_ctx_set_own(sc, manager.chain, replicator.key, &e),
                     -EINVAL);
    assert_int_equal(e.code, ERR_TLS_0008);
    assert_true(tls_ctx_generation(sc) == g);
    must(tls_ctx_set_own(sc, manager.chain, manager.key, &e), &e);
    assert_true(tls_ctx_generation(sc) == g + 1);
    assert_int_equal(tls_ctx_load_own(sc, "/nonexistent", "/nonexistent", &e),
                     -ENOENT);
    tls_ctx_free(sc);
}

static void
alpn(void **state)
{
    static const char *const both[] = { "holdfast-data/1", "holdfast-ctl/1" };
    static const char *const ctl[] = { "holdfast-ctl/1" };
    static const char *const other[] = { "http/1.1" };
    static const char *const big[] = {
        "0123456789012345678901234567890123456789012345678901234567890123"
    };
    struct tls_settings ss = { .side = TLS_SERVER,
                               .client_cert = TLS_CLIENT_CERT_NONE,
                               .alpn = both,
                               .n_alpn = 2 };
    struct tls_settings cs = { .side = TLS_CLIENT };
    struct err e = ERR_INIT;
    struct tls_ctx *none = NULL;

    (void)state;
    for (int i = 0; i < 3; i++) {
        struct tls_ctx *sc = context(&ss, &manager, NULL), *cc;
        SSL *s = NULL, *c = NULL;
        const unsigned char *p = NULL;
        unsigned n = 0;
        struct outcome o;

        cs.alpn = i == 0 ? ctl : other;
        cs.n_alpn = i == 2 ? 0 : 1;
        cc = context(&cs, NULL, trust_london);
        must(tls_ssl_new(sc, NULL, &s, &e), &e);
        must(tls_ssl_new(cc, NULL, &c, &e), &e);
        join_ends(s, c);
        handshake(s, c, &o);
        SSL_get0_alpn_selected(s, &p, &n);
        if (i == 0) {
            assert_int_equal(o.server, 0);
            assert_int_equal(n, strlen(ctl[0]));
            assert_memory_equal(p, ctl[0], n);
        } else if (i == 1) {
            assert_int_equal(o.server, -EPROTO);
            assert_int_equal(o.client, -EPROTO);
            assert_int_equal(o.client_err.code, ERR_TLS_0001);
        } else {
            assert_int_equal(o.server, 0);
            assert_int_equal(n, 0);
        }
        SSL_free(s);
        SSL_free(c);
        tls_ctx_free(sc);
        tls_ctx_free(cc);
    }
    ss.alpn = big;
    ss.n_alpn = 1;
    assert_int_equal(tls_ctx_new(&ss, &none, &e), -EINVAL);
    assert_int_equal(e.code, ERR_GEN_0001);
}

static void
old_and_plain_are_refused(void **state)
{
    static const char *const plain[] = { "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
                                         "NBDMAGICIHAVEOPT some more bytes" };
    struct tls_settings ss = { .side = TLS_SERVER,
                               .client_cert = TLS_CLIENT_CERT_NONE };
    struct tls_ctx *sc = context(&ss, &manager, NULL);
    SSL_CTX *old = SSL_CTX_new(TLS_client_method());
    struct err e = ERR_INIT;
    SSL *s = NULL, *c = SSL_new(old);
    int rc = 0;

    (void)state;
    SSL_set_max_proto_version(c, TLS1_2_VERSION);
    SSL_set_connect_state(c);
    must(tls_ssl_new(sc, NULL, &s, &e), &e);
    join_ends(s, c);
    (void)SSL_do_handshake(c);
    rc = step(s, &e);
    assert_int_equal(rc, -EPROTO);
    assert_int_equal(e.code, ERR_TLS_0013);
    rc = SSL_do_handshake(c);
    assert_true(rc <= 0);
    ERR_clear_error();
    SSL_free(s);
    SSL_free(c);
    SSL_CTX_free(old);
    for (size_t i = 0; i < ARRAY_SIZE(plain); i++) {
        BIO *x = NULL, *y = NULL;

        must(tls_ssl_new(sc, NULL, &s, &e), &e);
        assert_int_equal(BIO_new_bio_pair(&x, 0, &y, 0), 1);
        SSL_set_bio(s, x, x);
        BIO_write(y, plain[i], (int)strlen(plain[i]));
        assert_int_equal(step(s, &e), -EPROTO);
        assert_int_equal(e.code, ERR_TLS_0013);
        SSL_free(s);
        BIO_free(y);
    }
    /* cut off in the middle */
    {
        BIO *x = NULL, *y = NULL;

        must(tls_ssl_new(sc, NULL, &s, &e), &e);
        assert_int_equal(BIO_new_bio_pair(&x, 0, &y, 0), 1);
        SSL_set_bio(s, x, x);
        BIO_write(y, "\x16\x03", 2);
        BIO_shutdown_wr(y);
        assert_true(step(s, &e) < 0);
        assert_int_equal(e.code, ERR_TLS_0001);
        SSL_free(s);
        BIO_free(y);
    }
    tls_ctx_free(sc);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(matrix),
        cmocka_unit_test(exporter_and_recheck),
        cmocka_unit_test(own_certificate_can_change),
        cmocka_unit_test(alpn),
        cmocka_unit_test(old_and_plain_are_refused),
    };

    return cmocka_run_group_tests_name("tls", tests, setup, teardown);
}
