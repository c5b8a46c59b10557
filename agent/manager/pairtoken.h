/* Pairing tokens: what an operator carries from one site's console to the
 * other's, and the proofs by which both managers show that they know it.
 *
 *   token    base64url of  version 1 | id 16 | site 16 | expiry 8 (Unix s) |
 *            fingerprint of the site's root 32 | secret 32 | check 4 (the
 *            first bytes of SHA-256 over what is before)
 *   request  HMAC-SHA256(secret, "holdfast-pair-request" || id ||
 *            fingerprint of the asking site's root || exporter 32)
 *   answer   HMAC-SHA256(secret, "holdfast-pair-answer" || ... the same)
 *
 * The asking side checks the server's root against the token before it sends
 * anything, and both proofs hold the exporter of the very connection: someone
 * in between can neither pass the request on nor put his own root into it.
 * Pure. */
#ifndef HOLDFAST_MANAGER_PAIRTOKEN_H
#define HOLDFAST_MANAGER_PAIRTOKEN_H

#include "common/err.h"
#include "common/id.h"
#include "common/pki.h"

enum {
    PAIRTOKEN_SECRET_SIZE = 32,
    PAIRTOKEN_EXPORT_SIZE = 32,
    PAIRTOKEN_PROOF_SIZE = 32,
    PAIRTOKEN_RAW_SIZE = 1 + 16 + 16 + 8 + 32 + 32 + 4,
    PAIRTOKEN_TEXT_SIZE = 160,
    PAIRTOKEN_VALID_S = 3600,
};

#define PAIRTOKEN_EXPORT_LABEL "EXPORTER-holdfast-pair"

struct pairtoken {
    struct uuid id, site;
    uint64_t expiry_s;
    uint8_t root[PKI_FINGERPRINT_SIZE];
    uint8_t secret[PAIRTOKEN_SECRET_SIZE]; /* wipe with OPENSSL_cleanse */
};

void pairtoken_encode(const struct pairtoken *t, char out[PAIRTOKEN_TEXT_SIZE]);
/* Blanks around the text are ignored.  -EBADMSG with MGR-0005. */
int
pairtoken_decode(const char *text, struct pairtoken *out_token, struct err *err);

enum pairtoken_side {
    PAIRTOKEN_REQUEST,
    PAIRTOKEN_ANSWER
};
/* asking_root: fingerprint of the root of the site that dials. */
int pairtoken_proof(const struct pairtoken *t, enum pairtoken_side side,
                    const uint8_t asking_root[PKI_FINGERPRINT_SIZE],
                    const uint8_t exported[PAIRTOKEN_EXPORT_SIZE],
                    uint8_t out_proof[PAIRTOKEN_PROOF_SIZE], struct err *err);

#endif
