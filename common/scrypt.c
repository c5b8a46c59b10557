/* scrypt through OpenSSL. */
#include "common/scrypt.h"

#include <string.h>

#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/rand.h>

#include "common/bytes.h"

static int
derive(const struct secret *password, const struct scrypt_hash *h,
       uint8_t out[SCRYPT_HASH_SIZE], struct err *err)
{
    uint64_t memory;

    if (h->n < 2 || h->n > SCRYPT_N_MAX || (h->n & (h->n - 1)) || h->r == 0 ||
        h->r > SCRYPT_R_MAX || h->p == 0 || h->p > SCRYPT_P_MAX)
        return err_set(err, -ERANGE, ERR_GEN_0001,
                       "scrypt parameters %llu, %llu, %llu",
                       (unsigned long long)h->n, (unsigned long long)h->r,
                       (unsigned long long)h->p);
    memory = 128 * h->r * (h->n + h->p + 2) + MIB;
    if (EVP_PBE_scrypt((const char *)password->b, password->len, h->salt,
                       sizeof h->salt, h->n, h->r, h->p, memory, out,
                       SCRYPT_HASH_SIZE) != 1) {
        ERR_clear_error();
        return err_set(err, -ENOMEM, ERR_GEN_0002,
                       "scrypt with %llu bytes of memory",
                       (unsigned long long)memory);
    }
    return 0;
}

int
scrypt_make(const struct secret *password, struct scrypt_hash *out_hash,
            struct err *err)
{
    struct scrypt_hash h = { .n = SCRYPT_N, .r = SCRYPT_R, .p = SCRYPT_P };
    int rc;

    if (RAND_bytes(h.salt, sizeof h.salt) != 1)
        return err_set(err, -EIO, ERR_GEN_0001, "no random bytes");
    rc = derive(password, &h, h.hash, err);
    if (rc == 0)
        *out_hash = h;
    return rc;
}

int
scrypt_check(const struct secret *password, const struct scrypt_hash *hash,
             struct err *err)
{
    uint8_t got[SCRYPT_HASH_SIZE];
    int rc = derive(password, hash, got, err);

    if (rc == 0 && CRYPTO_memcmp(got, hash->hash, sizeof got) != 0)
        rc = -EACCES;
    OPENSSL_cleanse(got, sizeof got);
    return rc;
}

int
scrypt_new_password(struct secret *out_password, struct err *err)
{
    static const char letters[] = "abcdefghijkmnpqrstuvwxyz23456789";
    enum {
        GROUPS = 3,
        GROUP = 9
    };
    struct secret random = { .len = 0 };
    char text[GROUPS * (GROUP + 1)];
    size_t n = 0;
    int rc = secret_random(&random, (size_t)GROUPS * GROUP, err);

    _Static_assert(sizeof letters == 33, "five bits a letter");
    if (rc < 0)
        return rc;
    for (size_t i = 0; i < random.len; i++) {
        if (i > 0 && i % GROUP == 0)
            text[n++] = '-';
        text[n++] = letters[random.b[i] & 31];
    }
    rc = secret_set(out_password, text, n);
    OPENSSL_cleanse(text, sizeof text);
    secret_wipe(&random);
    return rc;
}
