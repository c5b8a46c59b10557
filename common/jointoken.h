/* Join tokens: what an operator carries from the manager to a new host, and
 * the proof by which the host shows that it has one without sending it.
 * Format: docs/formats/jointoken.md.  Pure. */
#ifndef HOLDFAST_COMMON_JOINTOKEN_H
#define HOLDFAST_COMMON_JOINTOKEN_H

#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "common/id.h"
#include "common/pki.h"
#include "common/secret.h"

enum {
    JOINTOKEN_SECRET_SIZE = 32,
    JOINTOKEN_PROOF_SIZE = 32,
    JOINTOKEN_EXPORT_SIZE = 32,
    JOINTOKEN_TEXT_SIZE = 320, /* the longest text and its NUL */
    JOINTOKEN_VALID_MAX_S = 900,
};

/* The TLS exporter's label that binds a proof to its connection. */
#define JOINTOKEN_EXPORT_LABEL "EXPORTER-holdfast-join"

struct jointoken {
    struct uuid id, deployment, site;
    enum tls_role role;          /* TLS_ROLE_REPLICATOR */
    char name[PKI_NAME_MAX + 1]; /* the only one it may join under */
    uint64_t expiry_s;           /* Unix seconds */
    uint8_t root[PKI_FINGERPRINT_SIZE];
    uint8_t secret[JOINTOKEN_SECRET_SIZE]; /* wipe with OPENSSL_cleanse */
};

/* Returns the length of the text. */
size_t
jointoken_encode(const struct jointoken *t, char out[JOINTOKEN_TEXT_SIZE]);
/* Blanks and line ends around the text are ignored.  -EBADMSG with TLS-0012. */
int
jointoken_decode(const char *text, struct jointoken *out_token, struct err *err);

/* HMAC-SHA256(secret, SHA-256(request in DER) || exported 32 bytes). */
int jointoken_proof(const uint8_t secret[JOINTOKEN_SECRET_SIZE],
                    const uint8_t *csr_der, size_t csr_len,
                    const uint8_t exported[JOINTOKEN_EXPORT_SIZE],
                    uint8_t out_proof[JOINTOKEN_PROOF_SIZE], struct err *err);

#endif
