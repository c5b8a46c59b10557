/* Secrets: a fixed block, so that no copy is left behind by a reallocation. */
#include "common/secret.h"

#include <string.h>

#include <openssl/crypto.h>
#include <openssl/rand.h>

#include "common/files.h"

int
secret_set(struct secret *s, const void *p, size_t n)
{
    secret_wipe(s);
    if (n > SECRET_MAX)
        return -EMSGSIZE;
    memcpy(s->b, p, n);
    s->len = n;
    return 0;
}

int
secret_random(struct secret *s, size_t n, struct err *err)
{
    secret_wipe(s);
    if (n > SECRET_MAX || RAND_priv_bytes(s->b, (int)n) != 1)
        return err_set(err, -EIO, ERR_GEN_0001,
                       "no %zu random bytes from the system", n);
    s->len = n;
    return 0;
}

int
secret_from_file(struct secret *s, const char *path, struct err *err)
{
    struct buf b;
    int rc;
    size_t n;

    secret_wipe(s);
    buf_init(&b, 4096 + 1);
    rc = file_read_secret(path, 4096, &b, err);
    if (rc < 0)
        goto out;
    n = b.len ? strcspn((const char *)b.data, "\r\n") : 0;
    if (n == 0)
        rc = err_set(err, -EINVAL, ERR_GEN_0010, "%s: its first line is empty",
                     path);
    else if (secret_set(s, b.data, n) < 0)
        rc = err_set(err, -EMSGSIZE, ERR_GEN_0004,
                     "%s: first line is longer than %d bytes", path, SECRET_MAX);
out:
    secret_buf_release(&b);
    return rc;
}

bool
secret_equal(const struct secret *a, const struct secret *b)
{
    /* Both blocks are whole and zero behind their length. */
    return CRYPTO_memcmp(a->b, b->b, sizeof a->b) == 0 && a->len == b->len;
}

void
secret_wipe(struct secret *s)
{
    OPENSSL_cleanse(s->b, sizeof s->b);
    s->len = 0;
}

void
secret_buf_release(struct buf *b)
{
    if (b->data)
        OPENSSL_cleanse(b->data, b->cap);
    buf_release(b);
}
