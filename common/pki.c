/* Certificates: making, reading and judging them.
 *
 * OpenSSL builds the chain and checks signatures, times, CA flags and purpose;
 * what this product adds is checked here: the identity URI and its role
 * extension agree, each certificate belongs to the deployment and site of its
 * issuer, and the serial is not on the newest list of its site.  Lists are
 * looked up by hand, because X.509's own check would refuse everybody once a
 * list has passed its next-update time, and a manager may be away for weeks. */
#include "common/pki.h"

#include <arpa/inet.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>

#include "common/bytes.h"
#include "common/files.h"
#include "common/secret.h"
#include "common/text.h"

#define URI_PREFIX "urn:holdfast:"
/* Arc 2.25 takes a UUID as one number without registration (X.667).  This one is
 * 00000000-0000-0000-1404-90641c627275: GnuTLS, and with it QEMU and libnbd,
 * refuse certificates whose numbers do not fit 64 bits. */
#define ROLE_OID "2.25.1442436540312744565"

enum {
    FILE_MAX = 256 * 1024,
    CHAIN_MAX = 8,
    TRUST_MAX = 64
};

static const char *const role_names[] = {
    [TLS_ROLE_ROOT] = "root",
    [TLS_ROLE_SITE_CA] = "site-ca",
    [TLS_ROLE_MANAGER] = "manager",
    [TLS_ROLE_REPLICATOR] = "replicator",
};

/* The library's newest reason as a sentence, after "what". */
static int
fail_ssl(struct err *err, int num, enum err_code code, const char *what)
{
    unsigned long e = ERR_peek_last_error();
    const char *why = e ? ERR_reason_error_string(e) : NULL;

    ERR_clear_error();
    return err_set(err, num, code, "%s: %s", what,
                   why ? why : "refused by the crypto library");
}

/* ---- Identities ---------------------------------------------------------- */

const char *
tls_role_name(enum tls_role role)
{
    return (size_t)role < ARRAY_SIZE(role_names) ? role_names[role] : "unknown";
}

int
tls_role_parse(const char *name, enum tls_role *out_role)
{
    for (size_t i = 0; i < ARRAY_SIZE(role_names); i++) {
        if (strcmp(name, role_names[i]) == 0) {
            *out_role = (enum tls_role)i;
            return 0;
        }
    }
    return -EINVAL;
}

void
tls_identity_format(const struct tls_identity *who, char out[TLS_URI_SIZE])
{
    char d[UUID_TEXT_SIZE], s[UUID_TEXT_SIZE], i[UUID_TEXT_SIZE];

    uuid_format(&who->deployment, d);
    uuid_format(&who->site, s);
    uuid_format(&who->id, i);
    (void)snprintf(out, TLS_URI_SIZE, URI_PREFIX "%s:%s:%s:%s", d, s,
                   tls_role_name(who->role), i);
}

int
tls_identity_parse(const char *uri, struct tls_identity *out_who)
{
    struct tls_identity who;
    char copy[TLS_URI_SIZE], *part[4];

    if (strncmp(uri, URI_PREFIX, strlen(URI_PREFIX)) != 0 ||
        strlen(uri) >= sizeof copy)
        return -EINVAL;
    (void)snprintf(copy, sizeof copy, "%s", uri + strlen(URI_PREFIX));
    if (text_split(copy, ':', part, ARRAY_SIZE(part)) != 4 ||
        uuid_parse(part[0], &who.deployment) < 0 ||
        uuid_parse(part[1], &who.site) < 0 ||
        tls_role_parse(part[2], &who.role) < 0 ||
        uuid_parse(part[3], &who.id) < 0)
        return -EINVAL;
    *out_who = who;
    return 0;
}

int
pki_uuid(struct uuid *out, struct err *err)
{
    uint8_t b[16];

    if (RAND_bytes(b, sizeof b) != 1)
        return fail_ssl(err, -EIO, ERR_GEN_0001, "random identifier");
    *out = uuid_from_random(b);
    return 0;
}

/* ---- Keys ---------------------------------------------------------------- */

int
pki_key_new(enum pki_curve curve, EVP_PKEY **out_key, struct err *err)
{
    EVP_PKEY *key = EVP_EC_gen(curve == PKI_P384 ? "P-384" : "P-256");

    if (!key)
        return fail_ssl(err, -EIO, ERR_GEN_0001, "make a key");
    *out_key = key;
    return 0;
}

/* Append what a memory BIO holds. */
static int
take_bio(BIO *bio, struct buf *out, struct err *err)
{
    char *p = NULL;
    long n = BIO_get_mem_data(bio, &p);

    if (n < 0 || buf_add(out, p, (size_t)n) < 0)
        return err_set(err, -ENOMEM, ERR_GEN_0002, "PEM text: out of memory");
    return 0;
}

int
pki_key_pem(const EVP_PKEY *key, struct buf *out, struct err *err)
{
    BIO *bio = BIO_new(BIO_s_secmem());
    int rc;

    if (!bio ||
        PEM_write_bio_PKCS8PrivateKey(bio, key, NULL, NULL, 0, NULL, NULL) != 1)
        rc = fail_ssl(err, -EIO, ERR_GEN_0001, "write a key");
    else
        rc = take_bio(bio, out, err);
    BIO_free(bio);
    return rc;
}

int
pki_key_parse(const char *pem, size_t n, EVP_PKEY **out_key, struct err *err)
{
    BIO *bio = n <= INT_MAX ? BIO_new_mem_buf(pem, (int)n) : NULL;
    /* The empty passphrase keeps OpenSSL from asking the terminal. */
    EVP_PKEY *key =
        bio ? PEM_read_bio_PrivateKey(bio, NULL, NULL, (void *)(uintptr_t) "")
            : NULL;

    BIO_free(bio);
    if (!key)
        return fail_ssl(err, -EBADMSG, ERR_TLS_0008, "read a private key");
    *out_key = key;
    return 0;
}

int
pki_key_load(const char *path, EVP_PKEY **out_key, struct err *err)
{
    struct buf b;
    int rc;

    buf_init(&b, FILE_MAX + 1);
    rc = file_read_secret(path, FILE_MAX, &b, err);
    if (rc == 0) {
        rc = pki_key_parse((const char *)b.data, b.len, out_key, err);
        if (rc < 0)
            err_prefix(err, "%s", path);
    }
    secret_buf_release(&b);
    return rc;
}

/* ---- Reading certificates ------------------------------------------------ */

void
pki_certs_free(struct stack_st_X509 *certs)
{
    sk_X509_pop_free(certs, X509_free);
}

static int
push_cert(struct stack_st_X509 *certs, X509 *cert, struct err *err)
{
    if (sk_X509_num(certs) >= TRUST_MAX)
        return err_set(err, -E2BIG, ERR_TLS_0008,
                       "more than %d certificates in one file", TRUST_MAX);
    if (sk_X509_push(certs, cert) <= 0)
        return err_set(err, -ENOMEM, ERR_GEN_0002, "out of memory");
    return 0;
}

int
pki_certs_parse(const char *pem, size_t n, struct stack_st_X509 **out_certs,
                struct err *err)
{
    struct stack_st_X509 *certs = sk_X509_new_null();
    BIO *bio = n <= INT_MAX ? BIO_new_mem_buf(pem, (int)n) : NULL;
    int rc = 0;

    if (!certs || !bio)
        rc = err_set(err, -ENOMEM, ERR_GEN_0002, "certificates: no memory");
    while (rc == 0) {
        X509 *x = PEM_read_bio_X509(bio, NULL, NULL, NULL);

        if (!x)
            break;
        rc = push_cert(certs, x, err);
        if (rc < 0)
            X509_free(x);
    }
    if (rc == 0) {
        unsigned long e = ERR_peek_last_error();

        if (sk_X509_num(certs) == 0 || ERR_GET_REASON(e) != PEM_R_NO_START_LINE)
            rc = fail_ssl(err, -EBADMSG, ERR_TLS_0008, "read certificates");
        ERR_clear_error();
    }
    BIO_free(bio);
    if (rc < 0)
        pki_certs_free(certs);
    else
        *out_certs = certs;
    return rc;
}

int
pki_certs_load(const char *path, struct stack_st_X509 **out_certs,
               struct err *err)
{
    struct buf b;
    int rc;

    buf_init(&b, FILE_MAX + 1);
    rc = file_read(path, FILE_MAX, &b, err);
    if (rc == 0) {
        rc = pki_certs_parse((const char *)b.data, b.len, out_certs, err);
        if (rc < 0)
            err_prefix(err, "%s", path);
    }
    buf_release(&b);
    return rc;
}

int
pki_cert_pem(const X509 *cert, struct buf *out, struct err *err)
{
    BIO *bio = BIO_new(BIO_s_mem());
    int rc;

    if (!bio || PEM_write_bio_X509(bio, cert) != 1)
        rc = fail_ssl(err, -EIO, ERR_GEN_0001, "write a certificate");
    else
        rc = take_bio(bio, out, err);
    BIO_free(bio);
    return rc;
}

void
pki_fingerprint(const X509 *cert, uint8_t out[PKI_FINGERPRINT_SIZE])
{
    unsigned n = 0;

    if (X509_digest(cert, EVP_sha256(), out, &n) != 1)
        memset(out, 0, PKI_FINGERPRINT_SIZE); /* equals no real one */
}

static void
serial_text(const ASN1_INTEGER *serial, char out[PKI_SERIAL_SIZE])
{
    int n = ASN1_STRING_length(serial);

    out[0] = '\0';
    if (n > 0 && n <= (PKI_SERIAL_SIZE - 1) / 2)
        hex_encode(ASN1_STRING_get0_data(serial), (size_t)n, out);
}

void
pki_serial(const X509 *cert, char out[PKI_SERIAL_SIZE])
{
    serial_text(X509_get0_serialNumber(cert), out);
}

static uint64_t
unix_time(const ASN1_TIME *t)
{
    struct tm tm;
    time_t s;

    if (!t || ASN1_TIME_to_tm(t, &tm) != 1)
        return 0;
    s = timegm(&tm);
    return s > 0 ? (uint64_t)s : 0;
}

uint64_t
pki_not_before(const X509 *cert)
{
    return unix_time(X509_get0_notBefore(cert));
}

uint64_t
pki_not_after(const X509 *cert)
{
    return unix_time(X509_get0_notAfter(cert));
}

/* The one URI of ours among the alternative names. */
static int
identity_from_san(const X509 *cert, struct tls_identity *out_who)
{
    GENERAL_NAMES *names =
        X509_get_ext_d2i(cert, NID_subject_alt_name, NULL, NULL);
    int found = 0, rc = -EINVAL;

    for (int i = 0; i < sk_GENERAL_NAME_num(names); i++) {
        const GENERAL_NAME *g = sk_GENERAL_NAME_value(names, i);
        const char *uri;
        int n;

        if (g->type != GEN_URI)
            continue;
        uri =
            (const char *)ASN1_STRING_get0_data(g->d.uniformResourceIdentifier);
        n = ASN1_STRING_length(g->d.uniformResourceIdentifier);
        if (n < 0 || strnlen(uri, (size_t)n) != (size_t)n) {
            rc = -EINVAL; /* a NUL inside */
            found = 2;
            break;
        }
        found++;
        rc = tls_identity_parse(uri, out_who);
        if (rc < 0)
            break;
    }
    GENERAL_NAMES_free(names);
    return found == 1 ? rc : -EINVAL;
}

/* DER of the role extension's value: a UTF8String. */
static size_t
role_der(enum tls_role role, uint8_t out[32])
{
    const char *name = tls_role_name(role);
    size_t n = strlen(name);

    out[0] = V_ASN1_UTF8STRING;
    out[1] = (uint8_t)n;
    /* DER counts, so there is no NUL.  NOLINTNEXTLINE(bugprone-not-null-terminated-result) */
    memcpy(out + 2, name, n);
    return n + 2;
}

static bool
role_extension_is(const X509 *cert, enum tls_role role)
{
    ASN1_OBJECT *oid = OBJ_txt2obj(ROLE_OID, 1);
    int at = oid ? X509_get_ext_by_OBJ(cert, oid, -1) : -1;
    const ASN1_OCTET_STRING *v;
    uint8_t want[32];
    size_t n = role_der(role, want);

    ASN1_OBJECT_free(oid);
    if (at < 0)
        return false;
    v = X509_EXTENSION_get_data(X509_get_ext(cert, at));
    return ASN1_STRING_length(v) == (int)n &&
           memcmp(ASN1_STRING_get0_data(v), want, n) == 0;
}

/* "CN" for sentences. */
static char *
cert_name(const X509 *cert, char out[80])
{
    char raw[72] = "without a name";

    if (X509_NAME_get_text_by_NID(X509_get_subject_name(cert), NID_commonName,
                                  raw, sizeof raw) < 0)
        (void)snprintf(raw, sizeof raw, "without a name");
    return text_safe(out, 80, raw, strlen(raw));
}

int
pki_cert_identity(const X509 *cert, struct tls_identity *out_who,
                  struct err *err)
{
    struct tls_identity who = { .role = TLS_ROLE_ROOT };
    char name[80];

    if (identity_from_san(cert, &who) < 0)
        return err_set(err, -EKEYREJECTED, ERR_TLS_0006,
                       "certificate \"%s\" names no single Holdfast identity",
                       cert_name(cert, name));
    if (!role_extension_is(cert, who.role))
        return err_set(err, -EKEYREJECTED, ERR_TLS_0006,
                       "certificate \"%s\": role extension does not say %s",
                       cert_name(cert, name), tls_role_name(who.role));
    *out_who = who;
    return 0;
}

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
    uint8_t der[32];
    size_t n = role_der(role, der);
    ASN1_OBJECT *oid = OBJ_txt2obj(ROLE_OID, 1);
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
        return fail_ssl(err, rc, ERR_GEN_0001, "make a certificate");
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
        rc = fail_ssl(err, -EIO, ERR_GEN_0001, "make a certificate request");
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
        rc = fail_ssl(err, -EIO, ERR_TLS_0009, "make a revocation list");
    else if (buf_add(out_der, der, (size_t)n) < 0)
        rc = err_set(err, -ENOMEM, ERR_GEN_0002,
                     "revocation list: out of memory");
    OPENSSL_free(der);
    X509_CRL_free(crl);
    return rc;
}

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
        *out_issued_s = unix_time(X509_CRL_get0_lastUpdate(crl));
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
    struct trusted_crl crls[TRUST_MAX];
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
                       cert_name(root, name));
    if (sk_X509_num(trust->roots) >= TRUST_MAX)
        return err_set(err, -E2BIG, ERR_TLS_0008, "more than %d roots",
                       TRUST_MAX);
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
    (void)cert_name(at, name);
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
        (void)cert_name(leaf, name);
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

    (void)cert_name(sk_X509_value(chain, 0), name);
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
                   cert_name(leaf, name), serial,
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
        rc = fail_ssl(err, -ENOMEM, ERR_GEN_0002, "check a certificate");
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
