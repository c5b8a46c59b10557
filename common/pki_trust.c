/* Judging certificates: the roots, pins and revocation lists to believe, and
 * whether a peer's leaf stands on them.
 *
 * OpenSSL builds the chain and checks signatures, times, CA flags and purpose;
 * what this product adds is checked here: the identity URI and its role
 * extension agree, each certificate belongs to the deployment and site of its
 * issuer, and the serial is not on the newest list of its site.  Lists are
 * looked up by hand, because X.509's own check would refuse everybody once a
 * list has passed its next-update time, and a manager may be away for weeks. */
#include "common/pki.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <openssl/err.h>
#include <openssl/x509v3.h>

#include "common/bytes.h"
#include "common/pki_internal.h"

/* ---- Revocation lists ---------------------------------------------------- */

static int
crl_decode(const uint8_t *der, size_t n, X509_CRL **out_crl,
           uint64_t *out_number, struct err *err)
{
    const uint8_t *p = der;
    X509_CRL *crl =
        n <= (size_t)16 * MIB ? d2i_X509_CRL(NULL, &p, (long)n) : NULL;
    ASN1_INTEGER *num = NULL;
    int ok;

    if (crl && p == der + n)
        num = X509_CRL_get_ext_d2i(crl, NID_crl_number, NULL, NULL);
    ok = num && ASN1_INTEGER_get_uint64(out_number, num) == 1;
    ASN1_INTEGER_free(num);
    if (!ok) {
        X509_CRL_free(crl);
        ERR_clear_error();
        return err_set(err, -EBADMSG, ERR_TLS_0009,
                       "revocation list of %zu bytes is malformed or has no "
                       "number",
                       n);
    }
    *out_crl = crl;
    return 0;
}

int
pki_crl_check(const uint8_t *der, size_t n, X509 *ca, uint64_t *out_number,
              uint64_t *out_issued_s, struct err *err)
{
    X509_CRL *crl = NULL;
    uint64_t number = 0;
    int rc = crl_decode(der, n, &crl, &number, err);

    if (rc < 0)
        return rc;
    if (X509_CRL_verify(crl, X509_get0_pubkey(ca)) != 1) {
        ERR_clear_error();
        rc = err_set(err, -EKEYREJECTED, ERR_TLS_0009,
                     "revocation list %llu is not signed by this site's CA",
                     (unsigned long long)number);
    } else {
        *out_number = number;
        *out_issued_s = pki_unix_time(X509_CRL_get0_lastUpdate(crl));
    }
    X509_CRL_free(crl);
    return rc;
}

/* ---- Trust --------------------------------------------------------------- */

struct trusted_crl {
    X509_CRL *crl;
    uint64_t number;
};

struct pki_trust {
    _Atomic unsigned refs;
    struct stack_st_X509 *roots;
    uint8_t pins[4][PKI_FINGERPRINT_SIZE];
    size_t n_pins;
    struct trusted_crl crls[PKI_TRUST_MAX];
    size_t n_crls;
};

int
pki_trust_new(struct pki_trust **out_trust, struct err *err)
{
    struct pki_trust *t = calloc(1, sizeof *t);

    if (t)
        t->roots = sk_X509_new_null();
    if (!t || !t->roots) {
        free(t);
        return err_set(err, -ENOMEM, ERR_GEN_0002, "trust: out of memory");
    }
    atomic_init(&t->refs, 1);
    *out_trust = t;
    return 0;
}

struct pki_trust *
pki_trust_ref(struct pki_trust *trust)
{
    if (trust)
        atomic_fetch_add(&trust->refs, 1);
    return trust;
}

void
pki_trust_free(struct pki_trust *trust)
{
    if (!trust || atomic_fetch_sub(&trust->refs, 1) != 1)
        return;
    for (size_t i = 0; i < trust->n_crls; i++)
        X509_CRL_free(trust->crls[i].crl);
    pki_certs_free(trust->roots);
    free(trust);
}

static bool
is_self_signed(X509 *x)
{
    bool ok = X509_self_signed(x, 1) == 1;

    ERR_clear_error();
    return ok;
}

int
pki_trust_add_root(struct pki_trust *trust, X509 *root, struct err *err)
{
    struct tls_identity who = { .role = TLS_ROLE_MANAGER };
    char name[80];
    int rc = pki_cert_identity(root, &who, err);

    if (rc < 0)
        return rc;
    if (who.role != TLS_ROLE_ROOT || !is_self_signed(root))
        return err_set(err, -EKEYREJECTED, ERR_TLS_0006,
                       "certificate \"%s\" is not a root",
                       pki_cert_name(root, name));
    if (sk_X509_num(trust->roots) >= PKI_TRUST_MAX)
        return err_set(err, -E2BIG, ERR_TLS_0008, "more than %d roots",
                       PKI_TRUST_MAX);
    if (X509_up_ref(root) != 1 || sk_X509_push(trust->roots, root) <= 0)
        return err_set(err, -ENOMEM, ERR_GEN_0002, "trust: out of memory");
    return 0;
}

int
pki_trust_load(struct pki_trust *trust, const char *path, struct err *err)
{
    struct stack_st_X509 *certs = NULL;
    int found = 0, rc = pki_certs_load(path, &certs, err);

    if (rc < 0)
        return rc;
    for (int i = 0; i < sk_X509_num(certs) && rc == 0; i++) {
        X509 *x = sk_X509_value(certs, i);

        if (!is_self_signed(x))
            continue;
        found++;
        rc = pki_trust_add_root(trust, x, err);
    }
    pki_certs_free(certs);
    if (rc == 0 && found == 0)
        rc = err_set(err, -EKEYREJECTED, ERR_TLS_0008,
                     "no root certificate in the file");
    if (rc < 0)
        err_prefix(err, "%s", path);
    return rc;
}

int
pki_trust_add_pin(struct pki_trust *trust,
                  const uint8_t fingerprint[PKI_FINGERPRINT_SIZE],
                  struct err *err)
{
    if (trust->n_pins == ARRAY_SIZE(trust->pins))
        return err_set(err, -E2BIG, ERR_TLS_0008, "more than %zu fingerprints",
                       ARRAY_SIZE(trust->pins));
    memcpy(trust->pins[trust->n_pins++], fingerprint, PKI_FINGERPRINT_SIZE);
    return 0;
}

int
pki_trust_add_crl(struct pki_trust *trust, const uint8_t *der, size_t n,
                  struct err *err)
{
    X509_CRL *crl = NULL;
    uint64_t number = 0;
    int rc = crl_decode(der, n, &crl, &number, err);

    if (rc < 0)
        return rc;
    /* Names are no proof of the issuer, so all lists are kept, and the check
     * takes the highest number among those that the CA's key has signed. */
    for (size_t i = 0; i < trust->n_crls; i++) {
        const struct trusted_crl *old = &trust->crls[i];

        if (X509_CRL_match(old->crl, crl) == 0 && old->number == number) {
            X509_CRL_free(crl); /* the same one again */
            return 0;
        }
        if (X509_NAME_cmp(X509_CRL_get_issuer(old->crl),
                          X509_CRL_get_issuer(crl)) == 0 &&
            old->number > number) {
            X509_CRL_free(crl);
            return err_set(err, -ESTALE, ERR_TLS_0009,
                           "revocation list %llu is older than number %llu in "
                           "use",
                           (unsigned long long)number,
                           (unsigned long long)old->number);
        }
    }
    if (trust->n_crls == ARRAY_SIZE(trust->crls)) {
        X509_CRL_free(crl);
        return err_set(err, -E2BIG, ERR_TLS_0009,
                       "more than %zu revocation lists",
                       ARRAY_SIZE(trust->crls));
    }
    trust->crls[trust->n_crls++] = (struct trusted_crl){ crl, number };
    return 0;
}

/* ---- The judgement ------------------------------------------------------- */

/* "2026-11-22T03:32:48Z" */
static char *
time_text(const ASN1_TIME *t, char out[32])
{
    struct tm tm;

    if (ASN1_TIME_to_tm(t, &tm) != 1 ||
        strftime(out, 32, "%Y-%m-%dT%H:%M:%SZ", &tm) == 0)
        (void)snprintf(out, 32, "an unreadable time");
    return out;
}

/* Turn the library's verdict on one certificate of the chain into ours. */
static int
explain(X509_STORE_CTX *sc, X509 *leaf, enum pki_usage used_as, struct err *err)
{
    int e = X509_STORE_CTX_get_error(sc);
    X509 *at = X509_STORE_CTX_get_current_cert(sc);
    char name[80], when[32];

    if (!at)
        at = leaf;
    (void)pki_cert_name(at, name);
    switch (e) {
    case X509_V_ERR_CERT_HAS_EXPIRED:
        return err_set(err, -EKEYEXPIRED, ERR_TLS_0002,
                       "certificate \"%s\" expired at %s", name,
                       time_text(X509_get0_notAfter(at), when));
    case X509_V_ERR_CERT_NOT_YET_VALID:
        return err_set(err, -EKEYREJECTED, ERR_TLS_0003,
                       "certificate \"%s\" is not valid before %s", name,
                       time_text(X509_get0_notBefore(at), when));
    case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
    case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT:
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
    case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
        (void)pki_cert_name(leaf, name);
        return err_set(err, -EKEYREJECTED, ERR_TLS_0004,
                       "certificate \"%s\" does not come from a root that is "
                       "trusted here",
                       name);
    case X509_V_ERR_INVALID_PURPOSE:
        return err_set(err, -EKEYREJECTED, ERR_TLS_0006,
                       "certificate \"%s\" may not be used as a %s", name,
                       used_as == PKI_CLIENT ? "client" : "server");
    default:
        return err_set(err, -EKEYREJECTED, ERR_TLS_0006,
                       "certificate \"%s\": %s", name,
                       X509_verify_cert_error_string(e));
    }
}

static bool
is_pinned(const struct pki_trust *trust, X509 *x)
{
    uint8_t fp[PKI_FINGERPRINT_SIZE];

    pki_fingerprint(x, fp);
    for (size_t i = 0; i < trust->n_pins; i++) {
        if (memcmp(trust->pins[i], fp, sizeof fp) == 0)
            return true;
    }
    return false;
}

/* The roots, and what the peer sent of the pinned ones. */
static int
fill_store(X509_STORE *store, const struct pki_trust *trust,
           struct stack_st_X509 *untrusted)
{
    for (int i = 0; i < sk_X509_num(trust->roots); i++) {
        if (X509_STORE_add_cert(store, sk_X509_value(trust->roots, i)) != 1)
            return -ENOMEM;
    }
    for (int i = 0; trust->n_pins && i < sk_X509_num(untrusted); i++) {
        X509 *x = sk_X509_value(untrusted, i);

        if (is_pinned(trust, x) && X509_STORE_add_cert(store, x) != 1)
            return -ENOMEM;
    }
    return 0;
}

/* root, site CA and leaf each say who they are, and fit each other. */
static int
check_chain_identities(struct stack_st_X509 *chain,
                       struct tls_identity *out_who, struct err *err)
{
    struct tls_identity who[3] = { { .role = TLS_ROLE_ROOT } };
    char name[80];
    int rc;

    (void)pki_cert_name(sk_X509_value(chain, 0), name);
    if (sk_X509_num(chain) != 3)
        return err_set(err, -EKEYREJECTED, ERR_TLS_0006,
                       "certificate \"%s\": chain of %d certificates, not "
                       "leaf, site and root",
                       name, sk_X509_num(chain));
    for (int i = 0; i < 3; i++) {
        rc = pki_cert_identity(sk_X509_value(chain, i), &who[i], err);
        if (rc < 0)
            return rc;
    }
    if (who[2].role != TLS_ROLE_ROOT || who[1].role != TLS_ROLE_SITE_CA ||
        who[0].role == TLS_ROLE_ROOT || who[0].role == TLS_ROLE_SITE_CA)
        return err_set(err, -EKEYREJECTED, ERR_TLS_0006,
                       "certificate \"%s\": roles in its chain are %s, %s, %s",
                       name, tls_role_name(who[0].role),
                       tls_role_name(who[1].role), tls_role_name(who[2].role));
    if (!uuid_equal(&who[0].deployment, &who[1].deployment) ||
        !uuid_equal(&who[1].deployment, &who[2].deployment) ||
        !uuid_equal(&who[0].site, &who[1].site))
        return err_set(err, -EKEYREJECTED, ERR_TLS_0006,
                       "certificate \"%s\" names a site or deployment that "
                       "its issuer does not speak for",
                       name);
    *out_who = who[0];
    return 0;
}

static int
check_revoked(const struct pki_trust *trust, X509 *leaf, X509 *ca,
              struct err *err)
{
    const struct trusted_crl *best = NULL;
    X509_REVOKED *entry = NULL;
    char name[80], when[32], serial[PKI_SERIAL_SIZE];

    for (size_t i = 0; i < trust->n_crls; i++) {
        const struct trusted_crl *c = &trust->crls[i];

        if ((best && best->number > c->number) ||
            X509_NAME_cmp(X509_CRL_get_issuer(c->crl),
                          X509_get_subject_name(ca)) != 0)
            continue;
        if (X509_CRL_verify(c->crl, X509_get0_pubkey(ca)) == 1)
            best = c;
        ERR_clear_error();
    }
    if (!best || X509_CRL_get0_by_cert(best->crl, &entry, leaf) != 1)
        return 0;
    pki_serial(leaf, serial);
    return err_set(err, -EKEYREVOKED, ERR_TLS_0005,
                   "certificate \"%s\", serial %s, was revoked at %s (list "
                   "%llu)",
                   pki_cert_name(leaf, name), serial,
                   time_text(X509_REVOKED_get0_revocationDate(entry), when),
                   (unsigned long long)best->number);
}

int
pki_verify(const struct pki_trust *trust, X509 *leaf,
           struct stack_st_X509 *untrusted, enum pki_usage used_as,
           uint64_t now_s, struct tls_identity *out_who, struct err *err)
{
    X509_STORE *store = X509_STORE_new();
    X509_STORE_CTX *sc = X509_STORE_CTX_new();
    struct tls_identity who;
    X509_VERIFY_PARAM *param;
    int rc = 0;

    if (!store || !sc || fill_store(store, trust, untrusted) < 0 ||
        X509_STORE_CTX_init(sc, store, leaf, untrusted) != 1) {
        rc = pki_fail_ssl(err, -ENOMEM, ERR_GEN_0002, "check a certificate");
        goto out;
    }
    param = X509_STORE_CTX_get0_param(sc);
    X509_VERIFY_PARAM_set_time(param, (time_t)now_s);
    /* Certificates behind the leaf; three in all is checked below. */
    X509_VERIFY_PARAM_set_depth(param, 2);
    X509_VERIFY_PARAM_set_flags(param, X509_V_FLAG_X509_STRICT);
    X509_VERIFY_PARAM_set_auth_level(param, 2); /* 112 bits */
    X509_VERIFY_PARAM_set_purpose(param, used_as == PKI_CLIENT
                                             ? X509_PURPOSE_SSL_CLIENT
                                             : X509_PURPOSE_SSL_SERVER);
    if (X509_verify_cert(sc) != 1) {
        rc = explain(sc, leaf, used_as, err);
        goto out;
    }
    rc = check_chain_identities(X509_STORE_CTX_get0_chain(sc), &who, err);
    if (rc < 0)
        goto out;
    rc = check_revoked(trust, leaf,
                       sk_X509_value(X509_STORE_CTX_get0_chain(sc), 1), err);
    if (rc == 0)
        *out_who = who;
out:
    ERR_clear_error();
    X509_STORE_CTX_free(sc);
    X509_STORE_free(store);
    return rc;
}
