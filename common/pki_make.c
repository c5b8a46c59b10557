/* Making certificates, requests and revocation lists. */
#include "common/pki.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <openssl/err.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>

#include "common/bytes.h"
#include "common/pki_internal.h"
#include "common/text.h"

/* ---- Making certificates ------------------------------------------------- */

/* What all three kinds have in common. */
struct draft {
    const struct tls_identity *who;
    const char *name, *unit;
    uint64_t not_before_s, not_after_s;
    X509 *issuer; /* NULL: itself */
    EVP_PKEY *issuer_key, *key;
};

static int
add_ext(X509 *x, X509V3_CTX *ctx, int nid, const char *value)
{
    X509_EXTENSION *e = X509V3_EXT_conf_nid(NULL, ctx, nid, value);
    int ok = e && X509_add_ext(x, e, -1) == 1;

    X509_EXTENSION_free(e);
    return ok ? 0 : -EIO;
}

static int
add_role(X509 *x, enum tls_role role)
{
    uint8_t der[PKI_ROLE_DER_MAX];
    size_t n = pki_role_der(role, der);
    ASN1_OBJECT *oid = OBJ_txt2obj(PKI_ROLE_OID, 1);
    ASN1_OCTET_STRING *v = ASN1_OCTET_STRING_new();
    X509_EXTENSION *e = NULL;
    int rc = -EIO;

    if (oid && v && ASN1_OCTET_STRING_set(v, der, (int)n) == 1)
        e = X509_EXTENSION_create_by_OBJ(NULL, oid, 0, v);
    if (e && X509_add_ext(x, e, -1) == 1)
        rc = 0;
    X509_EXTENSION_free(e);
    ASN1_OCTET_STRING_free(v);
    ASN1_OBJECT_free(oid);
    return rc;
}

static int
set_names(X509_NAME *n, const char *unit, const char *name)
{
    const struct {
        const char *key, *value;
    } parts[] = { { "O", "Holdfast" }, { "OU", unit }, { "CN", name } };

    for (size_t i = 0; i < ARRAY_SIZE(parts); i++) {
        if (X509_NAME_add_entry_by_txt(n, parts[i].key, MBSTRING_UTF8,
                                       (const uint8_t *)parts[i].value, -1, -1,
                                       0) != 1)
            return -EIO;
    }
    return 0;
}

/* 128 random bits, positive. */
static int
set_serial(X509 *x)
{
    uint8_t b[16];
    BIGNUM *bn;
    int ok;

    if (RAND_bytes(b, sizeof b) != 1)
        return -EIO;
    b[0] = (uint8_t)((b[0] & 0x7f) | 0x40);
    bn = BN_bin2bn(b, sizeof b, NULL);
    ok = bn && BN_to_ASN1_INTEGER(bn, X509_get_serialNumber(x)) != NULL;
    BN_free(bn);
    return ok ? 0 : -EIO;
}

static int
fill_draft(X509 *x, const struct draft *d)
{
    X509_NAME *subject = X509_get_subject_name(x);
    X509 *issuer = d->issuer ? d->issuer : x;

    if (X509_set_version(x, X509_VERSION_3) != 1 || set_serial(x) < 0 ||
        set_names(subject, d->unit, d->name) < 0 ||
        X509_set_issuer_name(x, X509_get_subject_name(issuer)) != 1 ||
        !ASN1_TIME_set(X509_getm_notBefore(x), (time_t)d->not_before_s) ||
        !ASN1_TIME_set(X509_getm_notAfter(x), (time_t)d->not_after_s) ||
        X509_set_pubkey(x, d->key) != 1)
        return -EIO;
    return 0;
}

/* "URI:...,DNS:...,IP:..." */
static int
san_value(const struct pki_leaf *leaf, const struct tls_identity *who,
          struct buf *out)
{
    char uri[TLS_URI_SIZE];
    uint8_t addr[16];

    tls_identity_format(who, uri);
    (void)buf_addf(out, "URI:%s", uri);
    for (size_t i = 0; leaf && i < leaf->n_hosts; i++) {
        const char *h = leaf->hosts[i];
        bool v4 = inet_pton(AF_INET, h, addr) == 1;
        bool v6 = inet_pton(AF_INET6, h, addr) == 1;

        if (!v4 && !v6 && !text_name_ok(h, 253))
            return -EINVAL;
        (void)buf_addf(out, ",%s:%s", v4 || v6 ? "IP" : "DNS", h);
    }
    return out->failed;
}

static int
add_extensions(X509 *x, const struct draft *d, const struct pki_leaf *leaf)
{
    X509V3_CTX ctx;
    struct buf san;
    bool ca = d->who->role == TLS_ROLE_ROOT || d->who->role == TLS_ROLE_SITE_CA;
    unsigned usage = leaf && leaf->usage ? leaf->usage : PKI_CLIENT | PKI_SERVER;
    int rc;

    X509V3_set_ctx(&ctx, d->issuer ? d->issuer : x, x, NULL, NULL, 0);
    buf_init(&san, 16384);
    rc = san_value(leaf, d->who, &san);
    if (rc == 0)
        rc = add_ext(x, &ctx, NID_subject_alt_name, (const char *)san.data);
    if (rc == 0)
        rc = add_ext(x, &ctx, NID_basic_constraints,
                     d->who->role == TLS_ROLE_ROOT ? "critical,CA:TRUE,pathlen:1"
                     : ca ? "critical,CA:TRUE,pathlen:0"
                          : "critical,CA:FALSE");
    if (rc == 0)
        rc = add_ext(x, &ctx, NID_key_usage,
                     ca ? "critical,keyCertSign,cRLSign"
                        : "critical,digitalSignature");
    if (rc == 0 && !ca)
        rc = add_ext(x, &ctx, NID_ext_key_usage,
                     usage == PKI_CLIENT   ? "clientAuth"
                     : usage == PKI_SERVER ? "serverAuth"
                                           : "clientAuth,serverAuth");
    if (rc == 0)
        rc = add_ext(x, &ctx, NID_subject_key_identifier, "hash");
    if (rc == 0)
        rc = add_ext(x, &ctx, NID_authority_key_identifier, "keyid:always");
    if (rc == 0)
        rc = add_role(x, d->who->role);
    buf_release(&san);
    return rc;
}

static int
make_cert(const struct draft *d, const struct pki_leaf *leaf, X509 **out_cert,
          struct err *err)
{
    X509 *x;
    int rc;

    if (strlen(d->name) == 0 || strlen(d->name) > PKI_NAME_MAX)
        return err_set(err, -EINVAL, ERR_TLS_0006,
                       "certificate name of %zu bytes, not 1 to %d",
                       strlen(d->name), PKI_NAME_MAX);
    x = X509_new();
    rc = x ? fill_draft(x, d) : -ENOMEM;
    if (rc == 0)
        rc = add_extensions(x, d, leaf);
    if (rc == 0 &&
        X509_sign(x, d->issuer_key,
                  EVP_PKEY_get_bits(d->issuer_key) > 256 ? EVP_sha384()
                                                         : EVP_sha256()) == 0)
        rc = -EIO;
    if (rc < 0) {
        X509_free(x);
        if (rc == -EINVAL)
            return err_set(err, rc, ERR_TLS_0006,
                           "certificate \"%s\": a host is neither a DNS name "
                           "nor an address",
                           d->name);
        return pki_fail_ssl(err, rc, ERR_GEN_0001, "make a certificate");
    }
    *out_cert = x;
    return 0;
}

int
pki_make_root(const struct uuid *deployment, const char *name, EVP_PKEY *key,
              uint64_t now_s, X509 **out_cert, struct err *err)
{
    struct tls_identity who = { .deployment = *deployment,
                                .role = TLS_ROLE_ROOT,
                                .id = *deployment };
    struct draft d = {
        .who = &who,
        .name = name,
        .unit = "root",
        .not_before_s = now_s - PKI_BACKDATE_S,
        .not_after_s = now_s + PKI_ROOT_S,
        .issuer_key = key,
        .key = key,
    };

    return make_cert(&d, NULL, out_cert, err);
}

int
pki_make_site_ca(X509 *root, EVP_PKEY *root_key, const struct uuid *site,
                 const char *name, EVP_PKEY *ca_key, uint64_t now_s,
                 X509 **out_cert, struct err *err)
{
    struct tls_identity who, parent;
    struct draft d = {
        .who = &who,
        .name = name,
        .unit = "site",
        .not_before_s = now_s - PKI_BACKDATE_S,
        .not_after_s = now_s + PKI_SITE_CA_S,
        .issuer = root,
        .issuer_key = root_key,
        .key = ca_key,
    };
    int rc = pki_cert_identity(root, &parent, err);

    if (rc < 0)
        return rc;
    who = (struct tls_identity){ .deployment = parent.deployment,
                                 .site = *site,
                                 .role = TLS_ROLE_SITE_CA,
                                 .id = *site };
    return make_cert(&d, NULL, out_cert, err);
}

int
pki_sign_leaf(X509 *ca, EVP_PKEY *ca_key, EVP_PKEY *leaf_key,
              const struct pki_leaf *leaf, uint64_t now_s, X509 **out_cert,
              struct err *err)
{
    struct draft d = {
        .who = &leaf->who,
        .name = leaf->name,
        .unit = tls_role_name(leaf->who.role),
        .not_before_s =
            leaf->not_before_s ? leaf->not_before_s : now_s - PKI_BACKDATE_S,
        .not_after_s =
            leaf->not_after_s ? leaf->not_after_s : now_s + PKI_LEAF_S,
        .issuer = ca,
        .issuer_key = ca_key,
        .key = leaf_key,
    };
    struct tls_identity parent;
    int rc = pki_cert_identity(ca, &parent, err);

    if (rc < 0)
        return rc;
    if (leaf->who.role == TLS_ROLE_ROOT || leaf->who.role == TLS_ROLE_SITE_CA ||
        !uuid_equal(&leaf->who.deployment, &parent.deployment) ||
        !uuid_equal(&leaf->who.site, &parent.site))
        return err_set(err, -EINVAL, ERR_TLS_0006,
                       "certificate \"%s\": not a leaf of this CA's site",
                       leaf->name);
    return make_cert(&d, leaf, out_cert, err);
}

enum {
    HOSTS_MAX = 64,
    HOST_TEXT_MAX = 256
};

/* DNS names and addresses as text; how many, or a negative errno. */
static int
leaf_hosts(const X509 *cert, char (*out)[HOST_TEXT_MAX])
{
    GENERAL_NAMES *names =
        X509_get_ext_d2i(cert, NID_subject_alt_name, NULL, NULL);
    int n = 0;

    for (int i = 0; i < sk_GENERAL_NAME_num(names) && n < HOSTS_MAX; i++) {
        const GENERAL_NAME *g = sk_GENERAL_NAME_value(names, i);
        const unsigned char *p;
        int len;

        if (g->type == GEN_DNS) {
            p = ASN1_STRING_get0_data(g->d.dNSName);
            len = ASN1_STRING_length(g->d.dNSName);
            if (len > 0 && len < HOST_TEXT_MAX)
                (void)snprintf(out[n++], HOST_TEXT_MAX, "%.*s", len,
                               (const char *)p);
        } else if (g->type == GEN_IPADD) {
            p = ASN1_STRING_get0_data(g->d.iPAddress);
            len = ASN1_STRING_length(g->d.iPAddress);
            if ((len == 4 || len == 16) &&
                inet_ntop(len == 4 ? AF_INET : AF_INET6, p, out[n],
                          HOST_TEXT_MAX))
                n++;
        }
    }
    GENERAL_NAMES_free(names);
    return n;
}

int
pki_renew_leaf(X509 *ca, EVP_PKEY *ca_key, const X509 *old, EVP_PKEY *key,
               uint64_t now_s, X509 **out_cert, struct err *err)
{
    char(*hosts)[HOST_TEXT_MAX] = calloc(HOSTS_MAX, sizeof *hosts);
    const char *list[HOSTS_MAX];
    char name[PKI_NAME_MAX + 1] = "";
    struct pki_leaf leaf = { .name = name, .hosts = list };
    int n, rc = pki_cert_identity(old, &leaf.who, err);

    if (!hosts)
        rc = err_set(err, -ENOMEM, ERR_GEN_0002, "certificate: out of memory");
    if (rc < 0) {
        free(hosts);
        return rc;
    }
    (void)X509_NAME_get_text_by_NID(X509_get_subject_name(old), NID_commonName,
                                    name, sizeof name);
    n = leaf_hosts(old, hosts);
    for (int i = 0; i < n; i++)
        list[i] = hosts[i];
    leaf.n_hosts = (size_t)n;
    rc = pki_sign_leaf(ca, ca_key, key, &leaf, now_s, out_cert, err);
    free(hosts);
    return rc;
}

/* ---- Requests ------------------------------------------------------------ */

int
pki_csr_make(EVP_PKEY *key, const char *name, struct buf *out_der,
             struct err *err)
{
    X509_REQ *req = X509_REQ_new();
    uint8_t *der = NULL;
    int n = -1, rc = 0;

    if (req && X509_REQ_set_version(req, X509_REQ_VERSION_1) == 1 &&
        set_names(X509_REQ_get_subject_name(req), "join", name) == 0 &&
        X509_REQ_set_pubkey(req, key) == 1 &&
        X509_REQ_sign(req, key, EVP_sha256()) > 0)
        n = i2d_X509_REQ(req, &der);
    if (n < 0)
        rc = pki_fail_ssl(err, -EIO, ERR_GEN_0001, "make a certificate request");
    else if (buf_add(out_der, der, (size_t)n) < 0)
        rc = err_set(err, -ENOMEM, ERR_GEN_0002, "request: out of memory");
    OPENSSL_free(der);
    X509_REQ_free(req);
    return rc;
}

static bool
is_p256(const EVP_PKEY *key)
{
    char group[32] = "";
    size_t n = 0;

    return EVP_PKEY_is_a(key, "EC") == 1 &&
           EVP_PKEY_get_group_name(key, group, sizeof group, &n) == 1 &&
           (strcmp(group, "prime256v1") == 0 || strcmp(group, "P-256") == 0);
}

static int
bad_request(struct err *err, const char *why)
{
    ERR_clear_error();
    return err_set(err, -EBADMSG, ERR_TLS_0011, "certificate request %s", why);
}

int
pki_csr_parse(const uint8_t *der, size_t n, EVP_PKEY **out_key,
              char out_name[PKI_NAME_MAX + 1], struct err *err)
{
    const uint8_t *p = der;
    X509_REQ *req = n <= 65536 ? d2i_X509_REQ(NULL, &p, (long)n) : NULL;
    EVP_PKEY *key = NULL;
    char name[PKI_NAME_MAX + 2];
    int rc = 0, len;

    if (!req || p != der + n) {
        X509_REQ_free(req);
        return bad_request(err, "is malformed");
    }
    key = X509_REQ_get_pubkey(req);
    len = X509_NAME_get_text_by_NID(X509_REQ_get_subject_name(req),
                                    NID_commonName, name, sizeof name);
    if (!key || !is_p256(key))
        rc = bad_request(err, "is not for a P-256 key");
    else if (X509_REQ_verify(req, key) != 1)
        rc = bad_request(err, "is not signed by its own key");
    else if (len < 0 || strlen(name) != (size_t)len ||
             !text_name_ok(name, PKI_NAME_MAX))
        rc = bad_request(err, "has no usable name");
    X509_REQ_free(req);
    if (rc < 0) {
        EVP_PKEY_free(key);
        return rc;
    }
    memcpy(out_name, name, strlen(name) + 1);
    *out_key = key;
    return 0;
}

/* ---- Revocation lists ---------------------------------------------------- */

static int
crl_add(X509_CRL *crl, const struct pki_revoked *r)
{
    X509_REVOKED *entry = X509_REVOKED_new();
    BIGNUM *bn = NULL;
    ASN1_INTEGER *serial = NULL;
    ASN1_TIME *when = ASN1_TIME_set(NULL, (time_t)r->when_s);
    int rc = -EIO;

    if (strlen(r->serial) == 0 ||
        BN_hex2bn(&bn, r->serial) != (int)strlen(r->serial))
        goto out;
    serial = BN_to_ASN1_INTEGER(bn, NULL);
    if (!entry || !serial || !when ||
        X509_REVOKED_set_serialNumber(entry, serial) != 1 ||
        X509_REVOKED_set_revocationDate(entry, when) != 1 ||
        X509_CRL_add0_revoked(crl, entry) != 1)
        goto out;
    entry = NULL; /* the list's now */
    rc = 0;
out:
    X509_REVOKED_free(entry);
    ASN1_INTEGER_free(serial);
    ASN1_TIME_free(when);
    BN_free(bn);
    return rc;
}

static int
crl_fill(X509_CRL *crl, X509 *ca, uint64_t number, uint64_t now_s)
{
    ASN1_INTEGER *num = ASN1_INTEGER_new();
    ASN1_TIME *last = ASN1_TIME_set(NULL, (time_t)now_s);
    ASN1_TIME *next = ASN1_TIME_set(NULL, (time_t)(now_s + 86400));
    int rc = -EIO;
    X509V3_CTX ctx;
    X509_EXTENSION *aki = NULL;

    X509V3_set_ctx(&ctx, ca, NULL, NULL, crl, 0);
    aki = X509V3_EXT_conf_nid(NULL, &ctx, NID_authority_key_identifier,
                              "keyid:always");
    if (num && last && next && aki && ASN1_INTEGER_set_uint64(num, number) &&
        X509_CRL_set_version(crl, X509_CRL_VERSION_2) == 1 &&
        X509_CRL_set_issuer_name(crl, X509_get_subject_name(ca)) == 1 &&
        X509_CRL_set1_lastUpdate(crl, last) == 1 &&
        X509_CRL_set1_nextUpdate(crl, next) == 1 &&
        X509_CRL_add1_ext_i2d(crl, NID_crl_number, num, 0, 0) == 1 &&
        X509_CRL_add_ext(crl, aki, -1) == 1)
        rc = 0;
    X509_EXTENSION_free(aki);
    ASN1_INTEGER_free(num);
    ASN1_TIME_free(last);
    ASN1_TIME_free(next);
    return rc;
}

int
pki_crl_make(X509 *ca, EVP_PKEY *ca_key, uint64_t number,
             const struct pki_revoked *list, size_t n_list, uint64_t now_s,
             struct buf *out_der, struct err *err)
{
    X509_CRL *crl = X509_CRL_new();
    uint8_t *der = NULL;
    int n = -1, rc = crl ? crl_fill(crl, ca, number, now_s) : -ENOMEM;

    for (size_t i = 0; rc == 0 && i < n_list; i++)
        rc = crl_add(crl, &list[i]);
    if (rc == 0 && X509_CRL_sort(crl) == 1 &&
        X509_CRL_sign(crl, ca_key, EVP_sha256()) > 0)
        n = i2d_X509_CRL(crl, &der);
    if (n < 0)
        rc = pki_fail_ssl(err, -EIO, ERR_TLS_0009, "make a revocation list");
    else if (buf_add(out_der, der, (size_t)n) < 0)
        rc = err_set(err, -ENOMEM, ERR_GEN_0002,
                     "revocation list: out of memory");
    OPENSSL_free(der);
    X509_CRL_free(crl);
    return rc;
}
