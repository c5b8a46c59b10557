/* Join tokens: docs/formats/jointoken.md.  The checksum finds typing errors;
 * that a token is genuine shows in the proof alone. */
#include "common/jointoken.h"

#include <string.h>

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

#include "common/bytes.h"
#include "common/crc32c.h"
#include "common/text.h"

#define TEXT_PREFIX "hfjoin1."

enum {
    FORMAT_VERSION = 1,
    /* version, role, length of name */
    HEAD_SIZE = 3,
    /* id, deployment, site, expiry, root, secret */
    FIXED_SIZE = 16 * 3 + 8 + PKI_FINGERPRINT_SIZE + JOINTOKEN_SECRET_SIZE,
    CRC_SIZE = 4,
    RAW_MAX = HEAD_SIZE + PKI_NAME_MAX + FIXED_SIZE + CRC_SIZE,
};

_Static_assert(TEXT_B64_SIZE(RAW_MAX) + 8 <= JOINTOKEN_TEXT_SIZE,
               "the longest token fits");

static size_t
put(uint8_t *raw, size_t at, const void *p, size_t n)
{
    memcpy(raw + at, p, n);
    return at + n;
}

size_t
jointoken_encode(const struct jointoken *t, char out[JOINTOKEN_TEXT_SIZE])
{
    uint8_t raw[RAW_MAX], expiry[8];
    size_t n_name = strnlen(t->name, PKI_NAME_MAX), n = HEAD_SIZE;
    size_t prefix = strlen(TEXT_PREFIX);

    raw[0] = FORMAT_VERSION;
    raw[1] = (uint8_t)t->role;
    raw[2] = (uint8_t)n_name;
    put_le64(expiry, t->expiry_s);
    n = put(raw, n, t->name, n_name);
    n = put(raw, n, t->id.b, 16);
    n = put(raw, n, t->deployment.b, 16);
    n = put(raw, n, t->site.b, 16);
    n = put(raw, n, expiry, sizeof expiry);
    n = put(raw, n, t->root, sizeof t->root);
    n = put(raw, n, t->secret, sizeof t->secret);
    put_le32(raw + n, crc32c(0, raw, n));
    memcpy(out, TEXT_PREFIX, prefix + 1);
    n = text_b64_encode(TEXT_B64_URL, raw, n + CRC_SIZE, out + prefix);
    OPENSSL_cleanse(raw, sizeof raw);
    return prefix + n;
}

static int
decode_raw(const uint8_t *raw, size_t len, struct jointoken *out)
{
    struct jointoken t = { .expiry_s = 0 };
    size_t n_name;
    const uint8_t *p;

    if (len < HEAD_SIZE + FIXED_SIZE + CRC_SIZE || raw[0] != FORMAT_VERSION)
        return -EBADMSG;
    n_name = raw[2];
    if (n_name > PKI_NAME_MAX ||
        len != HEAD_SIZE + n_name + FIXED_SIZE + CRC_SIZE ||
        crc32c(0, raw, len - CRC_SIZE) != get_le32(raw + len - CRC_SIZE))
        return -EBADMSG;
    if (raw[1] != TLS_ROLE_REPLICATOR)
        return -EBADMSG;
    t.role = TLS_ROLE_REPLICATOR;
    memcpy(t.name, raw + HEAD_SIZE, n_name);
    if (strlen(t.name) != n_name || !text_name_ok(t.name, PKI_NAME_MAX))
        return -EBADMSG;
    p = raw + HEAD_SIZE + n_name;
    memcpy(t.id.b, p, 16);
    memcpy(t.deployment.b, p + 16, 16);
    memcpy(t.site.b, p + 32, 16);
    t.expiry_s = get_le64(p + 48);
    memcpy(t.root, p + 56, sizeof t.root);
    memcpy(t.secret, p + 56 + sizeof t.root, sizeof t.secret);
    *out = t;
    OPENSSL_cleanse(&t, sizeof t);
    return 0;
}

int
jointoken_decode(const char *text, struct jointoken *out_token, struct err *err)
{
    char copy[JOINTOKEN_TEXT_SIZE + 8], *s;
    uint8_t raw[RAW_MAX];
    int n = -1, rc = -EBADMSG;

    if (strlen(text) < sizeof copy) {
        memcpy(copy, text, strlen(text) + 1);
        s = text_trim(copy);
        if (strncmp(s, TEXT_PREFIX, strlen(TEXT_PREFIX)) == 0)
            n = text_b64_decode(TEXT_B64_URL, s + strlen(TEXT_PREFIX), raw,
                                sizeof raw);
        if (n > 0)
            rc = decode_raw(raw, (size_t)n, out_token);
    }
    OPENSSL_cleanse(copy, sizeof copy);
    OPENSSL_cleanse(raw, sizeof raw);
    if (rc < 0)
        return err_set(err, -EBADMSG, ERR_TLS_0012,
                       "join token of %zu characters is malformed or cut",
                       strlen(text));
    return 0;
}

int
jointoken_proof(const uint8_t secret[JOINTOKEN_SECRET_SIZE],
                const uint8_t *csr_der, size_t csr_len,
                const uint8_t exported[JOINTOKEN_EXPORT_SIZE],
                uint8_t out_proof[JOINTOKEN_PROOF_SIZE], struct err *err)
{
    uint8_t msg[32 + JOINTOKEN_EXPORT_SIZE];
    unsigned n = 0;

    memcpy(msg + 32, exported, JOINTOKEN_EXPORT_SIZE);
    if (EVP_Digest(csr_der, csr_len, msg, NULL, EVP_sha256(), NULL) != 1 ||
        !HMAC(EVP_sha256(), secret, JOINTOKEN_SECRET_SIZE, msg, sizeof msg,
              out_proof, &n) ||
        n != JOINTOKEN_PROOF_SIZE)
        return err_set(err, -EIO, ERR_GEN_0001, "HMAC was refused");
    return 0;
}
