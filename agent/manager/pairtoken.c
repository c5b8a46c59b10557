/* See pairtoken.h. */
#include "manager/pairtoken.h"

#include <stdio.h>
#include <string.h>

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/sha.h>

#include "common/bytes.h"
#include "common/text.h"

enum {
    AT_ID = 1,
    AT_SITE = 17,
    AT_EXPIRY = 33,
    AT_ROOT = 41,
    AT_SECRET = 73,
    AT_CHECK = 105
};

static void
check_bytes(const uint8_t *raw, uint8_t out[4])
{
    uint8_t digest[SHA256_DIGEST_LENGTH];

    SHA256(raw, AT_CHECK, digest);
    memcpy(out, digest, 4);
}

void
pairtoken_encode(const struct pairtoken *t, char out[PAIRTOKEN_TEXT_SIZE])
{
    uint8_t raw[PAIRTOKEN_RAW_SIZE];

    raw[0] = 1;
    memcpy(raw + AT_ID, t->id.b, 16);
    memcpy(raw + AT_SITE, t->site.b, 16);
    put_le64(raw + AT_EXPIRY, t->expiry_s);
    memcpy(raw + AT_ROOT, t->root, sizeof t->root);
    memcpy(raw + AT_SECRET, t->secret, sizeof t->secret);
    check_bytes(raw, raw + AT_CHECK);
    (void)text_b64_encode(TEXT_B64_URL, raw, sizeof raw, out);
    OPENSSL_cleanse(raw, sizeof raw);
}

int
pairtoken_decode(const char *text, struct pairtoken *out_token, struct err *err)
{
    uint8_t raw[PAIRTOKEN_RAW_SIZE], check[4] = { 0 };
    char copy[PAIRTOKEN_TEXT_SIZE * 2];
    int n = -1;

    if (strlen(text) < sizeof copy) {
        (void)snprintf(copy, sizeof copy, "%s", text);
        n = text_b64_decode(TEXT_B64_URL, text_trim(copy), raw, sizeof raw);
        OPENSSL_cleanse(copy, sizeof copy);
    }
    if (n == (int)sizeof raw)
        check_bytes(raw, check);
    if (n != (int)sizeof raw || memcmp(check, raw + AT_CHECK, 4) != 0 ||
        raw[0] != 1) {
        OPENSSL_cleanse(raw, sizeof raw);
        return err_set(err, -EBADMSG, ERR_MGR_0005,
                       "this is no complete pairing token of this version");
    }
    memcpy(out_token->id.b, raw + AT_ID, 16);
    memcpy(out_token->site.b, raw + AT_SITE, 16);
    out_token->expiry_s = get_le64(raw + AT_EXPIRY);
    memcpy(out_token->root, raw + AT_ROOT, sizeof out_token->root);
    memcpy(out_token->secret, raw + AT_SECRET, sizeof out_token->secret);
    OPENSSL_cleanse(raw, sizeof raw);
    return 0;
}

int
pairtoken_proof(const struct pairtoken *t, enum pairtoken_side side,
                const uint8_t asking_root[PKI_FINGERPRINT_SIZE],
                const uint8_t exported[PAIRTOKEN_EXPORT_SIZE],
                uint8_t out_proof[PAIRTOKEN_PROOF_SIZE], struct err *err)
{
    const char *label = side == PAIRTOKEN_REQUEST ? "holdfast-pair-request"
                                                  : "holdfast-pair-answer";
    uint8_t text[32 + 16 + PKI_FINGERPRINT_SIZE + PAIRTOKEN_EXPORT_SIZE];
    size_t n = strlen(label);
    unsigned len = 0;

    /* No text, but bytes for the HMAC.
     * NOLINTNEXTLINE(bugprone-not-null-terminated-result) */
    memcpy(text, label, n);
    memcpy(text + n, t->id.b, 16);
    n += 16;
    memcpy(text + n, asking_root, PKI_FINGERPRINT_SIZE);
    n += PKI_FINGERPRINT_SIZE;
    memcpy(text + n, exported, PAIRTOKEN_EXPORT_SIZE);
    n += PAIRTOKEN_EXPORT_SIZE;
    if (!HMAC(EVP_sha256(), t->secret, sizeof t->secret, text, n, out_proof,
              &len) ||
        len != PAIRTOKEN_PROOF_SIZE)
        return err_set(err, -EIO, ERR_GEN_0001,
                       "pairing: the proof cannot be computed");
    return 0;
}
