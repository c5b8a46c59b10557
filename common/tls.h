/* TLS 1.3 between our programs: nothing older, no tickets, no session cache,
 * certificates checked by common/pki.h on both sides.
 *
 * A tls_ctx is shared by any number of connections and threads; certificate
 * and trust can be exchanged while it is in use, connections already made keep
 * what they had until tls_peer_recheck() says otherwise. */
#ifndef HOLDFAST_COMMON_TLS_H
#define HOLDFAST_COMMON_TLS_H

#include <stddef.h>
#include <stdint.h>

#include <openssl/ssl.h>

#include "common/err.h"
#include "common/pki.h"

enum tls_side {
    TLS_SERVER,
    TLS_CLIENT
};

/* What a server asks of its clients.  An optional certificate must still be a
 * good one when it is shown. */
enum tls_client_cert {
    TLS_CLIENT_CERT_REQUIRED,
    TLS_CLIENT_CERT_OPTIONAL,
    TLS_CLIENT_CERT_NONE
};

enum {
    TLS_ALPN_MAX = 64
};

struct tls_settings {
    enum tls_side side;
    enum tls_client_cert client_cert; /* servers */
    /* Protocols in order of preference, e.g. { "holdfast-data/1" }; a server
     * refuses a client that offers only others, and serves one that offers
     * none.  May be NULL. */
    const char *const *alpn;
    size_t n_alpn;
};

/* Whom a connection must lead to; all that is set is compared. */
struct tls_expect {
    unsigned roles; /* bits 1 << enum tls_role; 0: any leaf role */
    const struct uuid *deployment, *site, *id; /* NULL: any */
    const char *host; /* DNS name or address that the certificate carries */
    /* Gets the reason when the check refuses the other side, for callers that
     * never see the SSL; must outlive the connection's handshake. */
    struct err *out_refusal;
};

struct tls_ctx;
int tls_ctx_new(const struct tls_settings *settings, struct tls_ctx **out_ctx,
                struct err *err);
struct tls_ctx *tls_ctx_ref(struct tls_ctx *ctx);
void tls_ctx_free(struct tls_ctx *ctx); /* drops one reference */

/* Our own certificate, then the rest of its chain with the root (so that a
 * peer which knows only the root's fingerprint can check it), and the key.
 * Refused when key and certificate do not belong together. */
int tls_ctx_set_own(struct tls_ctx *ctx, struct stack_st_X509 *chain,
                    EVP_PKEY *key, struct err *err);
int tls_ctx_load_own(struct tls_ctx *ctx, const char *chain_path,
                     const char *key_path, struct err *err);
/* Takes a reference.  Without trust every peer certificate is refused. */
void tls_ctx_set_trust(struct tls_ctx *ctx, struct pki_trust *trust);
/* Rises with each change of certificate or trust. */
uint64_t tls_ctx_generation(struct tls_ctx *ctx);

/* A new connection, in accept or connect state; free with SSL_free().  expect
 * may be NULL; its pointers are copied. */
int tls_ssl_new(struct tls_ctx *ctx, const struct tls_expect *expect,
                SSL **out_ssl, struct err *err);

/* Put certificate, trust, expectation and all settings into an SSL_CTX that a
 * library made (libcurl's CURLOPT_SSL_CTX_FUNCTION).  Connections of it answer
 * tls_peer() and the rest as ours do. */
int tls_ctx_apply(struct tls_ctx *ctx, const struct tls_expect *expect,
                  SSL_CTX *native, struct err *err);

/* The checked identity of the other side: 0, or -ENOENT when it showed no
 * certificate.  Valid after the handshake, untouched otherwise. */
int tls_peer(const SSL *ssl, struct tls_identity *out_who);

/* Is the other side's certificate still good (time, trust, revocation)?  Call
 * for open connections after tls_ctx_set_trust().  0, or as pki_verify(). */
int tls_peer_recheck(SSL *ssl, struct err *err);

/* Why did SSL_do_handshake, SSL_read or SSL_write with result ret fail?  Fills
 * the sentence from our own checks, the peer's alert or the library's error
 * queue (which is emptied) and returns the negative errno. */
int tls_failure(SSL *ssl, int ret, struct err *err);

/* The same from one number of the library's error queue, e.g. out of a
 * sentence of libcurl. */
int tls_explain(unsigned long library_error, struct err *err);

/* n bytes bound to this connection and label (RFC 8446, 7.5, no context). */
int tls_exporter(SSL *ssl, const char *label, uint8_t *out, size_t n,
                 struct err *err);

#endif
