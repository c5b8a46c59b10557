/* A role's own certificate on disk, key.pem and chain.pem beside each other,
 * and its exchange for a new pair without a moment at which a crash leaves a
 * key and a certificate that do not belong together.
 *
 *   write key.pem.new        whole and durable
 *   write chain.pem.new      whole and durable; from here on the new pair rules
 *   rename key.pem.new   ->  key.pem, durable
 *   rename chain.pem.new ->  chain.pem, durable
 *
 * identity_recover() at the start of a role ends what a crash has left: with
 * chain.pem.new there, forward; without it, back.  Blocking. */
#ifndef HOLDFAST_COMMON_IDENTITY_H
#define HOLDFAST_COMMON_IDENTITY_H

#include <stdbool.h>

#include "common/pki.h"

/* What the leaf in a chain says. */
struct identity {
    struct tls_identity who;
    char name[PKI_NAME_MAX + 1];
    char serial[PKI_SERIAL_SIZE];
    char key[PKI_FINGERPRINT_TEXT];     /* pki_key_text() */
    uint64_t not_before_s, not_after_s; /* Unix seconds */
};

int identity_of(const X509 *leaf, struct identity *out, struct err *err);
int identity_read(const char *chain_path, struct identity *out, struct err *err);

/* Put a new pair in place.  chain_pem begins with the leaf, which must be for
 * the key.  On failure the old pair is there, or the new one, never a mix that
 * identity_recover() could not undo. */
int identity_replace(const char *key_path, const char *chain_path, EVP_PKEY *key,
                     const struct buf *chain_pem, struct err *err);
int
identity_recover(const char *key_path, const char *chain_path, struct err *err);

/* When to renew (security.md 6.3): after a third of its life and up to a
 * thirtieth more, which jitter chooses, so that hosts that joined together do
 * not come together. */
uint64_t identity_renew_at(const struct identity *id, uint32_t jitter);
/* How much of its life is left: 0 (none) to 1000. */
unsigned
identity_life_left(uint64_t not_before_s, uint64_t not_after_s, uint64_t now_s);

/* A request to renew now: a file beside the pair, made by holdfastd renew and
 * taken away by the role, which SIGHUP tells to look.  A role that is not
 * running finds it when it starts. */
int identity_ask(const char *chain_path, struct err *err);
bool identity_asked(const char *chain_path);

#endif
