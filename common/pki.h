/* Keys, certificates and trust, as pure functions over values: time comes in
 * as an argument, nothing here touches the network.
 *
 *   root (P-384, 10 years) -> site CA (P-256, 2 years) -> leaf (P-256, 30 days)
 *
 * Every certificate carries who it is as a URI in its subject alternative
 * names, urn:holdfast:<deployment>:<site>:<role>:<id>, and the role once more
 * in a private extension; both must agree.  A leaf is accepted when its chain
 * ends at a trusted root of the same deployment through a CA of the same site,
 * it is valid now, not on its site's revocation list, and may be used for what
 * it is used for. */
#ifndef HOLDFAST_COMMON_PKI_H
#define HOLDFAST_COMMON_PKI_H

#include <stddef.h>
#include <stdint.h>

#include <openssl/evp.h>
#include <openssl/x509.h>

#include "common/buf.h"
#include "common/err.h"
#include "common/id.h"

enum tls_role {
    TLS_ROLE_ROOT,
    TLS_ROLE_SITE_CA,
    TLS_ROLE_MANAGER,
    TLS_ROLE_REPLICATOR,
};

/* Who a certificate speaks for.  site is nil for a root. */
struct tls_identity {
    struct uuid deployment, site;
    enum tls_role role;
    struct uuid id;
};

enum {
    TLS_URI_SIZE = 160,
    PKI_FINGERPRINT_SIZE = 32,
    PKI_FINGERPRINT_TEXT = 65, /* lower-case hexadecimal and the NUL */
    PKI_SERIAL_SIZE = 43,      /* hexadecimal of up to 21 bytes and the NUL */
    PKI_NAME_MAX = 63,
    PKI_BACKDATE_S = 300,
    PKI_LEAF_S = 30 * 86400,
    PKI_SITE_CA_S = 2 * 365 * 86400,
    PKI_ROOT_S = 10 * 365 * 86400,
};

const char *tls_role_name(enum tls_role role); /* "manager" */
int tls_role_parse(const char *name, enum tls_role *out_role);
void tls_identity_format(const struct tls_identity *who, char out[TLS_URI_SIZE]);
int tls_identity_parse(const char *uri, struct tls_identity *out_who);

/* A new version 4 identifier from the system's random source. */
int pki_uuid(struct uuid *out, struct err *err);

/* Keys.  Caller frees with EVP_PKEY_free(). */
enum pki_curve {
    PKI_P256,
    PKI_P384
};
int pki_key_new(enum pki_curve curve, EVP_PKEY **out_key, struct err *err);
/* PKCS #8 PEM without passphrase, for a file of mode 0600; wipe the buffer. */
int pki_key_pem(const EVP_PKEY *key, struct buf *out, struct err *err);
int
pki_key_parse(const char *pem, size_t n, EVP_PKEY **out_key, struct err *err);
/* Refuses a file that others can read (GEN-0006). */
int pki_key_load(const char *path, EVP_PKEY **out_key, struct err *err);

/* Certificates.  Caller frees with X509_free() or pki_certs_free(). */
int pki_certs_parse(const char *pem, size_t n, struct stack_st_X509 **out_certs,
                    struct err *err);
int pki_certs_load(const char *path, struct stack_st_X509 **out_certs,
                   struct err *err);
void pki_certs_free(struct stack_st_X509 *certs);
int pki_cert_pem(const X509 *cert, struct buf *out, struct err *err);
int pki_cert_identity(const X509 *cert, struct tls_identity *out_who,
                      struct err *err);
/* SHA-256 over the DER form. */
void pki_fingerprint(const X509 *cert, uint8_t out[PKI_FINGERPRINT_SIZE]);
/* SHA-256 over the DER form of a public key, lower-case hexadecimal: says which
 * key it is. */
void pki_key_text(EVP_PKEY *key, char out[PKI_FINGERPRINT_TEXT]);
void pki_serial(const X509 *cert, char out[PKI_SERIAL_SIZE]);
/* Unix seconds; 0 when the certificate's time cannot be read. */
uint64_t pki_not_before(const X509 *cert);
uint64_t pki_not_after(const X509 *cert);

/* Making them.  name: what people call it, up to PKI_NAME_MAX bytes. */
int pki_make_root(const struct uuid *deployment, const char *name, EVP_PKEY *key,
                  uint64_t now_s, X509 **out_cert, struct err *err);
int pki_make_site_ca(X509 *root, EVP_PKEY *root_key, const struct uuid *site,
                     const char *name, EVP_PKEY *ca_key, uint64_t now_s,
                     X509 **out_cert, struct err *err);

enum pki_usage {
    PKI_CLIENT = 1,
    PKI_SERVER = 2
};

struct pki_leaf {
    struct tls_identity who; /* deployment and site equal to the CA's */
    const char *name;
    const char *const *hosts; /* DNS names and addresses; may be NULL */
    size_t n_hosts;
    unsigned usage;                     /* of enum pki_usage; 0: both */
    uint64_t not_before_s, not_after_s; /* 0: see PKI_BACKDATE_S, PKI_LEAF_S */
};

int pki_sign_leaf(X509 *ca, EVP_PKEY *ca_key, EVP_PKEY *leaf_key,
                  const struct pki_leaf *leaf, uint64_t now_s, X509 **out_cert,
                  struct err *err);

/* The same leaf again for another key: identity, name and hosts are those of
 * old, the times are new (PKI_LEAF_S from now on). */
int pki_renew_leaf(X509 *ca, EVP_PKEY *ca_key, const X509 *old, EVP_PKEY *key,
                   uint64_t now_s, X509 **out_cert, struct err *err);

/* Requests, in DER.  The only things taken from one are the key, which must be
 * P-256 and have signed it, and the name (checked with text_name_ok()). */
int pki_csr_make(EVP_PKEY *key, const char *name, struct buf *out_der,
                 struct err *err);
int pki_csr_parse(const uint8_t *der, size_t n, EVP_PKEY **out_key,
                  char out_name[PKI_NAME_MAX + 1], struct err *err);

/* Revocation lists: X.509 CRLs (RFC 5280) with a CRL number, signed by the
 * site's CA, in DER. */
struct pki_revoked {
    char serial[PKI_SERIAL_SIZE];
    uint64_t when_s;
};
int pki_crl_make(X509 *ca, EVP_PKEY *ca_key, uint64_t number,
                 const struct pki_revoked *list, size_t n_list, uint64_t now_s,
                 struct buf *out_der, struct err *err);
/* Number and time of issue, after checking the CA's signature. */
int pki_crl_check(const uint8_t *der, size_t n, X509 *ca, uint64_t *out_number,
                  uint64_t *out_issued_s, struct err *err);

/* Whom to believe.  Build it, then share it read-only between threads; to
 * change trust, build another. */
struct pki_trust;
int pki_trust_new(struct pki_trust **out_trust, struct err *err);
struct pki_trust *pki_trust_ref(struct pki_trust *trust);
void pki_trust_free(struct pki_trust *trust); /* drops one reference */
/* Takes a reference to the certificate, which must be a root of ours. */
int pki_trust_add_root(struct pki_trust *trust, X509 *root, struct err *err);
/* All certificates of a PEM file that sign themselves. */
int pki_trust_load(struct pki_trust *trust, const char *path, struct err *err);
/* Accept the root with this fingerprint when a peer sends it (joining). */
int pki_trust_add_pin(struct pki_trust *trust,
                      const uint8_t fingerprint[PKI_FINGERPRINT_SIZE],
                      struct err *err);
/* A list takes effect for certificates of the CA that signed it; of several
 * lists of one CA the highest number rules, and adding an older one is
 * -ESTALE. */
int pki_trust_add_crl(struct pki_trust *trust, const uint8_t *der, size_t n,
                      struct err *err);

/* Check a leaf that the peer uses as client or as server.  untrusted: what
 * else the peer sent, may be NULL.  Returns 0 and *out_who; -EKEYEXPIRED,
 * -EKEYREVOKED, -EKEYREJECTED (foreign, malformed, wrong use) with the
 * sentence. */
int pki_verify(const struct pki_trust *trust, X509 *leaf,
               struct stack_st_X509 *untrusted, enum pki_usage used_as,
               uint64_t now_s, struct tls_identity *out_who, struct err *err);

#endif
