/* Who a certificate speaks for, keys, and reading certificates.  pki_make.c
 * makes them, pki_trust.c judges them. */
#include "common/pki.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>

#include "common/bytes.h"
#include "common/files.h"
#include "common/pki_internal.h"
#include "common/secret.h"
#include "common/text.h"

#define URI_PREFIX "urn:holdfast:"

enum {
    FILE_MAX = 256 * 1024,
};

static const char *const role_names[] = {
    [TLS_ROLE_ROOT] = "root",
    [TLS_ROLE_SITE_CA] = "site-ca",
    [TLS_ROLE_MANAGER] = "manager",
    [TLS_ROLE_REPLICATOR] = "replicator",
};

int
pki_fail_ssl(struct err *err, int num, enum err_code code, const char *what)
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
        return pki_fail_ssl(err, -EIO, ERR_GEN_0001, "random identifier");
    *out = uuid_from_random(b);
    return 0;
}

/* ---- Keys ---------------------------------------------------------------- */

int
pki_key_new(enum pki_curve curve, EVP_PKEY **out_key, struct err *err)
{
    EVP_PKEY *key = EVP_EC_gen(curve == PKI_P384 ? "P-384" : "P-256");

    if (!key)
        return pki_fail_ssl(err, -EIO, ERR_GEN_0001, "make a key");
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
        rc = pki_fail_ssl(err, -EIO, ERR_GEN_0001, "write a key");
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
        return pki_fail_ssl(err, -EBADMSG, ERR_TLS_0008, "read a private key");
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
    if (sk_X509_num(certs) >= PKI_TRUST_MAX)
        return err_set(err, -E2BIG, ERR_TLS_0008,
                       "more than %d certificates in one file", PKI_TRUST_MAX);
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
            rc = pki_fail_ssl(err, -EBADMSG, ERR_TLS_0008, "read certificates");
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
        rc = pki_fail_ssl(err, -EIO, ERR_GEN_0001, "write a certificate");
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

void
pki_key_text(EVP_PKEY *key, char out[PKI_FINGERPRINT_TEXT])
{
    uint8_t digest[PKI_FINGERPRINT_SIZE];
    unsigned char *der = NULL;
    unsigned n = 0;
    int len = key ? i2d_PUBKEY(key, &der) : -1;

    out[0] = '\0'; /* no key's text */
    if (len > 0 &&
        EVP_Digest(der, (size_t)len, digest, &n, EVP_sha256(), NULL) == 1)
        hex_encode(digest, sizeof digest, out);
    OPENSSL_free(der);
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

uint64_t
pki_unix_time(const ASN1_TIME *t)
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
    return pki_unix_time(X509_get0_notBefore(cert));
}

uint64_t
pki_not_after(const X509 *cert)
{
    return pki_unix_time(X509_get0_notAfter(cert));
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

size_t
pki_role_der(enum tls_role role, uint8_t out[PKI_ROLE_DER_MAX])
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
    ASN1_OBJECT *oid = OBJ_txt2obj(PKI_ROLE_OID, 1);
    int at = oid ? X509_get_ext_by_OBJ(cert, oid, -1) : -1;
    const ASN1_OCTET_STRING *v;
    uint8_t want[PKI_ROLE_DER_MAX];
    size_t n = pki_role_der(role, want);

    ASN1_OBJECT_free(oid);
    if (at < 0)
        return false;
    v = X509_EXTENSION_get_data(X509_get_ext(cert, at));
    return ASN1_STRING_length(v) == (int)n &&
           memcmp(ASN1_STRING_get0_data(v), want, n) == 0;
}

char *
pki_cert_name(const X509 *cert, char out[80])
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
                       pki_cert_name(cert, name));
    if (!role_extension_is(cert, who.role))
        return err_set(err, -EKEYREJECTED, ERR_TLS_0006,
                       "certificate \"%s\": role extension does not say %s",
                       pki_cert_name(cert, name), tls_role_name(who.role));
    *out_who = who;
    return 0;
}
