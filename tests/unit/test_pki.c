/* room: common
 * Certificates, requests, revocation lists, join tokens; the judgement over
 * wrong, expired, foreign and revoked ones. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <openssl/pem.h>

#include "common/bytes.h"
#include "common/crc32c.h"
#include "common/files.h"
#include "common/jointoken.h"
#include "common/text.h"
#include "pki_fixture.h"

static struct site london, paris;
static uint64_t now;

static int
setup(void **state)
{
    (void)state;
    now = (uint64_t)time(NULL);
    site_make(&london, "london");
    site_make(&paris, "paris");
    return 0;
}

static int
teardown(void **state)
{
    (void)state;
    site_release(&london);
    site_release(&paris);
    return 0;
}

static struct pki_trust *
trust_in(const struct site *s)
{
    struct pki_trust *t = NULL;
    struct err e = ERR_INIT;

    must(pki_trust_new(&t, &e), &e);
    must(pki_trust_add_root(t, s->root, &e), &e);
    return t;
}

static void
identities(void **state)
{
    static const char *const bad[] = {
        "",
        "urn:holdfast:",
        "urn:other:00000000-0000-0000-0000-000000000001:00000000-0000-0000-0000-000000000001:manager:00000000-0000-0000-0000-000000000001",
        "urn:holdfast:00000000-0000-0000-0000-000000000001:00000000-0000-0000-0000-000000000001:king:00000000-0000-0000-0000-000000000001",
        "urn:holdfast:00000000-0000-0000-0000-000000000001:00000000-0000-0000-0000-000000000001:manager",
        "urn:holdfast:00000000-0000-0000-0000-000000000001:00000000-0000-0000-0000-000000000001:manager:00000000-0000-0000-0000-000000000001:x",
    };
    struct tls_identity a = { .role = TLS_ROLE_REPLICATOR }, b;
    char uri[TLS_URI_SIZE];
    enum tls_role role;

    (void)state;
    a.deployment.b[0] = 1;
    a.site.b[0] = 2;
    a.id.b[15] = 3;
    tls_identity_format(&a, uri);
    assert_string_equal(uri, "urn:holdfast:01000000-0000-0000-0000-000000000000:"
                             "02000000-0000-0000-0000-000000000000:replicator:"
                             "00000000-0000-0000-0000-000000000003");
    assert_int_equal(tls_identity_parse(uri, &b), 0);
    assert_memory_equal(&a, &b, sizeof a);
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        assert_int_equal(tls_identity_parse(bad[i], &b), -EINVAL);
    assert_int_equal(tls_role_parse("manager", &role), 0);
    assert_int_equal(role, TLS_ROLE_MANAGER);
    assert_int_equal(tls_role_parse("", &role), -EINVAL);
    assert_string_equal(tls_role_name((enum tls_role)77), "unknown");
}

static void
good_leaf(void **state)
{
    struct pki_trust *t = trust_in(&london);
    struct tls_identity who;
    struct err e = ERR_INIT;
    struct leaf l;

    (void)state;
    leaf_make(&l, &london, TLS_ROLE_MANAGER, 0, 0, 0);
    must(pki_verify(t, l.cert, l.chain, PKI_CLIENT, now, &who, &e), &e);
    must(pki_verify(t, l.cert, l.chain, PKI_SERVER, now, &who, &e), &e);
    assert_memory_equal(&who, &l.who, sizeof who);
    assert_true(pki_not_after(l.cert) >= now + PKI_LEAF_S);
    assert_true(pki_not_before(l.cert) <= now - PKI_BACKDATE_S + 2);
    /* leaf 30 days, so day 31 is over, and so is a day before it began */
    assert_int_equal(pki_verify(t, l.cert, l.chain, PKI_CLIENT,
                                now + 31 * 86400, &who, &e),
                     -EKEYEXPIRED);
    assert_int_equal(e.code, ERR_TLS_0002);
    assert_int_equal(pki_verify(t, l.cert, l.chain, PKI_CLIENT, now - 86400,
                                &who, &e),
                     -EKEYREJECTED);
    assert_int_equal(e.code, ERR_TLS_0003);
    assert_non_null(strstr(e.msg, "not valid before 20"));
    leaf_release(&l);
    pki_trust_free(t);
}

static void
judges(void **state)
{
    struct pki_trust *t = trust_in(&london);
    struct pki_trust *none = NULL;
    struct tls_identity who;
    struct err e = ERR_INIT;
    struct leaf expired, foreign, client, l;

    (void)state;
    must(pki_trust_new(&none, &e), &e);
    leaf_make(&expired, &london, TLS_ROLE_REPLICATOR, 0, -7200, -3600);
    assert_int_equal(pki_verify(t, expired.cert, expired.chain, PKI_SERVER, now,
                                &who, &e),
                     -EKEYEXPIRED);
    assert_non_null(strstr(e.msg, "\"node-1\" expired at 20"));
    leaf_make(&foreign, &paris, TLS_ROLE_REPLICATOR, 0, 0, 0);
    assert_int_equal(pki_verify(t, foreign.cert, foreign.chain, PKI_SERVER, now,
                                &who, &e),
                     -EKEYREJECTED);
    assert_int_equal(e.code, ERR_TLS_0004);
    assert_int_equal(pki_verify(t, foreign.cert, NULL, PKI_SERVER, now, &who, &e),
                     -EKEYREJECTED);
    assert_int_equal(e.code, ERR_TLS_0004);
    leaf_make(&client, &london, TLS_ROLE_REPLICATOR, PKI_CLIENT, 0, 0);
    must(pki_verify(t, client.cert, client.chain, PKI_CLIENT, now, &who, &e),
         &e);
    assert_int_equal(pki_verify(t, client.cert, client.chain, PKI_SERVER, now,
                                &who, &e),
                     -EKEYREJECTED);
    assert_int_equal(e.code, ERR_TLS_0006);
    assert_non_null(strstr(e.msg, "may not be used as a server"));
    leaf_make(&l, &london, TLS_ROLE_MANAGER, 0, 0, 0);
    assert_int_equal(pki_verify(none, l.cert, l.chain, PKI_CLIENT, now, &who, &e),
                     -EKEYREJECTED);
    assert_int_equal(e.code, ERR_TLS_0004);
    /* A CA is no peer. */
    assert_true(pki_verify(t, london.ca, l.chain, PKI_CLIENT, now, &who, &e) < 0);
    leaf_release(&expired);
    leaf_release(&foreign);
    leaf_release(&client);
    leaf_release(&l);
    pki_trust_free(t);
    pki_trust_free(none);
}

/* A CA of one site signs a leaf that names another: our own verifier must see
 * it, as the signature is good. */
static void
site_speaks_only_for_itself(void **state)
{
    struct pki_trust *t = trust_in(&london);
    struct site second = london;
    struct tls_identity who;
    struct err e = ERR_INIT;
    struct leaf l;
    struct pki_leaf p = { .name = "x" };
    X509 *cert = NULL;

    (void)state;
    must(pki_uuid(&second.id, &e), &e);
    second.ca = NULL;
    must(pki_make_site_ca(london.root, london.root_key, &second.id, "lyon",
                          london.ca_key, now, &second.ca, &e),
         &e);
    leaf_make(&l, &second, TLS_ROLE_MANAGER, 0, 0, 0);
    must(pki_verify(t, l.cert, l.chain, PKI_CLIENT, now, &who, &e), &e);
    /* the making side refuses */
    p.who = l.who;
    assert_int_equal(pki_sign_leaf(london.ca, london.ca_key, l.key, &p, now,
                                   &cert, &e),
                     -EINVAL);
    p.who.site = london.id;
    p.who.role = TLS_ROLE_SITE_CA;
    assert_int_equal(pki_sign_leaf(london.ca, london.ca_key, l.key, &p, now,
                                   &cert, &e),
                     -EINVAL);
    /* and so does the checking side, when the names are swapped afterwards:
     * lyon's leaf, its issuer's name and signature rewritten to london's */
    {
        X509 *forged = X509_dup(l.cert);

        assert_non_null(forged);
        X509_set_issuer_name(forged, X509_get_subject_name(london.ca));
        X509_sign(forged, london.ca_key, EVP_sha256());
        X509_free(sk_X509_value(l.chain, 1));
        sk_X509_set(l.chain, 1, london.ca);
        X509_up_ref(london.ca);
        assert_int_equal(pki_verify(t, forged, l.chain, PKI_CLIENT, now, &who,
                                    &e),
                         -EKEYREJECTED);
        assert_int_equal(e.code, ERR_TLS_0006);
        assert_non_null(strstr(e.msg, "does not speak for"));
        X509_free(forged);
    }
    X509_free(second.ca);
    leaf_release(&l);
    pki_trust_free(t);
}

static void
foreign_forms(void **state)
{
    struct err e = ERR_INIT;
    struct tls_identity who;
    X509 *x = X509_new(), *out = NULL;
    struct pki_trust *t = trust_in(&london);
    static const char *const bad_host[] = { "a b" };
    struct pki_leaf p = { .name = "x", .hosts = bad_host, .n_hosts = 1 };

    (void)state;
    assert_int_equal(pki_cert_identity(x, &who, &e), -EKEYREJECTED);
    assert_int_equal(e.code, ERR_TLS_0006);
    assert_int_equal(pki_trust_add_root(t, x, &e), -EKEYREJECTED);
    assert_int_equal(pki_trust_add_root(t, london.ca, &e), -EKEYREJECTED);
    p.who.deployment = london.deployment;
    p.who.site = london.id;
    p.who.role = TLS_ROLE_MANAGER;
    assert_int_equal(pki_sign_leaf(london.ca, london.ca_key, london.ca_key, &p,
                                   now, &out, &e),
                     -EINVAL);
    p.n_hosts = 0;
    p.name = "";
    assert_int_equal(pki_sign_leaf(london.ca, london.ca_key, london.ca_key, &p,
                                   now, &out, &e),
                     -EINVAL);
    X509_free(x);
    pki_trust_free(t);
}

static void
revocation(void **state)
{
    struct pki_trust *t = trust_in(&london);
    struct tls_identity who;
    struct err e = ERR_INIT;
    struct leaf bad, good;
    struct pki_revoked r = { .when_s = now - 60 };
    struct buf one, two, forged;
    uint64_t number = 0, issued = 0;

    (void)state;
    buf_init(&one, 65536);
    buf_init(&two, 65536);
    buf_init(&forged, 65536);
    leaf_make(&bad, &london, TLS_ROLE_REPLICATOR, 0, 0, 0);
    leaf_make(&good, &london, TLS_ROLE_REPLICATOR, 0, 0, 0);
    pki_serial(bad.cert, r.serial);
    must(pki_crl_make(london.ca, london.ca_key, 7, &r, 1, now, &one, &e), &e);
    must(pki_crl_make(london.ca, london.ca_key, 8, NULL, 0, now, &two, &e), &e);
    must(pki_crl_check(one.data, one.len, london.ca, &number, &issued, &e), &e);
    assert_int_equal(number, 7);
    assert_true(issued == now);
    assert_int_equal(pki_crl_check(one.data, one.len, paris.ca, &number,
                                   &issued, &e),
                     -EKEYREJECTED);
    assert_int_equal(e.code, ERR_TLS_0009);
    assert_int_equal(pki_crl_check(one.data, one.len - 1, london.ca, &number,
                                   &issued, &e),
                     -EBADMSG);

    must(pki_trust_add_crl(t, one.data, one.len, &e), &e);
    must(pki_trust_add_crl(t, one.data, one.len, &e), &e); /* again: no harm */
    assert_int_equal(pki_verify(t, bad.cert, bad.chain, PKI_CLIENT, now, &who,
                                &e),
                     -EKEYREVOKED);
    assert_int_equal(e.code, ERR_TLS_0005);
    assert_non_null(strstr(e.msg, r.serial));
    must(pki_verify(t, good.cert, good.chain, PKI_CLIENT, now, &who, &e), &e);
    /* a list of the same name with a higher number, signed by another key,
     * does not undo it */
    must(pki_crl_make(london.ca, paris.ca_key, 99, NULL, 0, now, &forged, &e),
         &e);
    must(pki_trust_add_crl(t, forged.data, forged.len, &e), &e);
    assert_int_equal(pki_verify(t, bad.cert, bad.chain, PKI_CLIENT, now, &who,
                                &e),
                     -EKEYREVOKED);
    pki_trust_free(t);

    /* the highest number rules, a lower one is refused */
    t = trust_in(&london);
    must(pki_trust_add_crl(t, two.data, two.len, &e), &e);
    assert_int_equal(pki_trust_add_crl(t, one.data, one.len, &e), -ESTALE);
    assert_non_null(strstr(e.msg, "7 is older than number 8"));
    assert_int_equal(pki_trust_add_crl(t, (const uint8_t *)"x", 1, &e),
                     -EBADMSG);
    pki_trust_free(t);
    buf_release(&one);
    buf_release(&two);
    buf_release(&forged);
    leaf_release(&bad);
    leaf_release(&good);
}

static void
pinned_root(void **state)
{
    struct pki_trust *t = NULL;
    uint8_t fp[PKI_FINGERPRINT_SIZE];
    struct tls_identity who;
    struct err e = ERR_INIT;
    struct leaf l, other;

    (void)state;
    must(pki_trust_new(&t, &e), &e);
    pki_fingerprint(london.root, fp);
    must(pki_trust_add_pin(t, fp, &e), &e);
    leaf_make(&l, &london, TLS_ROLE_MANAGER, 0, 0, 0);
    leaf_make(&other, &paris, TLS_ROLE_MANAGER, 0, 0, 0);
    must(pki_verify(t, l.cert, l.chain, PKI_SERVER, now, &who, &e), &e);
    assert_int_equal(pki_verify(t, other.cert, other.chain, PKI_SERVER, now,
                                &who, &e),
                     -EKEYREJECTED);
    assert_int_equal(e.code, ERR_TLS_0004);
    leaf_release(&l);
    leaf_release(&other);
    pki_trust_free(t);
}

static void
requests(void **state)
{
    struct err e = ERR_INIT;
    struct buf der;
    EVP_PKEY *key = NULL, *p384 = NULL, *got = NULL;
    char name[PKI_NAME_MAX + 1];

    (void)state;
    buf_init(&der, 65536);
    must(pki_key_new(PKI_P256, &key, &e), &e);
    must(pki_key_new(PKI_P384, &p384, &e), &e);
    must(pki_csr_make(key, "host-1", &der, &e), &e);
    must(pki_csr_parse(der.data, der.len, &got, name, &e), &e);
    assert_string_equal(name, "host-1");
    assert_int_equal(EVP_PKEY_eq(got, key), 1);
    EVP_PKEY_free(got);
    for (size_t n = 0; n < der.len; n++)
        assert_int_equal(pki_csr_parse(der.data, n, &got, name, &e), -EBADMSG);
    /* any changed bit: malformed, or not signed */
    for (size_t i = 0; i < der.len; i++) {
        der.data[i] ^= 0x10;
        assert_int_equal(pki_csr_parse(der.data, der.len, &got, name, &e),
                         -EBADMSG);
        assert_int_equal(e.code, ERR_TLS_0011);
        der.data[i] ^= 0x10;
    }
    buf_add(&der, "x", 1);
    assert_int_equal(pki_csr_parse(der.data, der.len, &got, name, &e), -EBADMSG);
    buf_clear(&der);
    must(pki_csr_make(p384, "host-1", &der, &e), &e);
    assert_int_equal(pki_csr_parse(der.data, der.len, &got, name, &e), -EBADMSG);
    assert_non_null(strstr(e.msg, "P-256"));
    buf_clear(&der);
    must(pki_csr_make(key, "host 1/..", &der, &e), &e);
    assert_int_equal(pki_csr_parse(der.data, der.len, &got, name, &e), -EBADMSG);
    EVP_PKEY_free(key);
    EVP_PKEY_free(p384);
    buf_release(&der);
}

static void
files(void **state)
{
    char dir[] = "/tmp/holdfast-pki-XXXXXX", key[64], cert[64];
    struct stack_st_X509 *certs = NULL;
    struct pki_trust *t = NULL;
    EVP_PKEY *got = NULL;
    struct err e = ERR_INIT;
    struct buf pem;

    (void)state;
    assert_non_null(mkdtemp(dir));
    (void)snprintf(key, sizeof key, "%s/key.pem", dir);
    (void)snprintf(cert, sizeof cert, "%s/cert.pem", dir);
    buf_init(&pem, 65536);
    must(pki_key_pem(london.ca_key, &pem, &e), &e);
    must(file_replace(key, 0600, pem.data, pem.len, &e), &e);
    must(pki_key_load(key, &got, &e), &e);
    assert_int_equal(EVP_PKEY_eq(got, london.ca_key), 1);
    EVP_PKEY_free(got);
    assert_int_equal(chmod(key, 0644), 0);
    assert_int_equal(pki_key_load(key, &got, &e), -EPERM);
    assert_int_equal(e.code, ERR_GEN_0006);
    buf_clear(&pem);
    must(pki_cert_pem(london.ca, &pem, &e), &e);
    must(file_replace(cert, 0644, pem.data, pem.len, &e), &e);
    must(pki_trust_new(&t, &e), &e);
    assert_int_equal(pki_trust_load(t, cert, &e), -EKEYREJECTED);
    assert_int_equal(e.code, ERR_TLS_0008);
    must(pki_cert_pem(london.root, &pem, &e), &e);
    must(file_replace(cert, 0644, pem.data, pem.len, &e), &e);
    must(pki_trust_load(t, cert, &e), &e);
    must(pki_certs_load(cert, &certs, &e), &e);
    assert_int_equal(sk_X509_num(certs), 2);
    pki_certs_free(certs);
    must(file_replace(cert, 0600, pem.data, pem.len / 2 + 100, &e), &e);
    assert_int_equal(pki_certs_load(cert, &certs, &e), -EBADMSG);
    assert_int_equal(e.code, ERR_TLS_0008);
    assert_int_equal(pki_key_load(cert, &got, &e), -EBADMSG);
    assert_int_equal(e.code, ERR_TLS_0008);
    (void)unlink(key);
    (void)unlink(cert);
    (void)rmdir(dir);
    buf_release(&pem);
    pki_trust_free(t);
}

static void
tokens(void **state)
{
    struct jointoken t = { .role = TLS_ROLE_REPLICATOR,
                           .name = "host-1",
                           .expiry_s = 1700000000 },
                     u;
    char text[JOINTOKEN_TEXT_SIZE], other[JOINTOKEN_TEXT_SIZE + 2];
    uint8_t exported[32] = { 1 }, a[32], b[32];
    struct err e = ERR_INIT;
    size_t n;

    (void)state;
    memset(t.id.b, 1, 16);
    memset(t.deployment.b, 2, 16);
    memset(t.site.b, 3, 16);
    memset(t.root, 4, 32);
    memset(t.secret, 5, 32);
    n = jointoken_encode(&t, text);
    assert_int_equal(strlen(text), n);
    /* golden text of format version 1 */
    assert_string_equal(
        text,
        "hfjoin1.AQMGaG9zdC0xAQEBAQEBAQEBAQEBAQEBAQICAgICAgICAgICAgICAgIDAwMD"
        "AwMDAwMDAwMDAwMDAPFTZQAAAAAEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE"
        "BAUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFim0AhQ");
    must(jointoken_decode(text, &u, &e), &e);
    assert_memory_equal(&t, &u, sizeof t);
    (void)snprintf(other, sizeof other, " %s\n", text);
    must(jointoken_decode(other, &u, &e), &e);
    for (size_t k = 0; k < n; k++) {
        memcpy(other, text, k);
        other[k] = '\0';
        assert_int_equal(jointoken_decode(other, &u, &e), -EBADMSG);
        memcpy(other, text, n + 1);
        other[k] = other[k] == 'B' ? 'C' : 'B';
        assert_int_equal(jointoken_decode(other, &u, &e), -EBADMSG);
    }
    assert_int_equal(e.code, ERR_TLS_0012);
    t.role = TLS_ROLE_MANAGER;
    (void)jointoken_encode(&t, text);
    assert_int_equal(jointoken_decode(text, &u, &e), -EBADMSG);
    memset(t.name, 'x', PKI_NAME_MAX);
    t.role = TLS_ROLE_REPLICATOR;
    (void)jointoken_encode(&t, text);
    must(jointoken_decode(text, &u, &e), &e);

    must(jointoken_proof(t.secret, (const uint8_t *)"csr", 3, exported, a, &e),
         &e);
    exported[0] = 2;
    must(jointoken_proof(t.secret, (const uint8_t *)"csr", 3, exported, b, &e),
         &e);
    assert_memory_not_equal(a, b, 32);
    exported[0] = 1;
    must(jointoken_proof(t.secret, (const uint8_t *)"csR", 3, exported, b, &e),
         &e);
    assert_memory_not_equal(a, b, 32);
    t.secret[0] ^= 1;
    must(jointoken_proof(t.secret, (const uint8_t *)"csr", 3, exported, b, &e),
         &e);
    assert_memory_not_equal(a, b, 32);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(identities),
        cmocka_unit_test(good_leaf),
        cmocka_unit_test(judges),
        cmocka_unit_test(site_speaks_only_for_itself),
        cmocka_unit_test(foreign_forms),
        cmocka_unit_test(revocation),
        cmocka_unit_test(pinned_root),
        cmocka_unit_test(requests),
        cmocka_unit_test(files),
        cmocka_unit_test(tokens),
    };

    return cmocka_run_group_tests_name("pki", tests, setup, teardown);
}
