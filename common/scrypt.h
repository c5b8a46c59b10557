/* Password hashes: scrypt (RFC 7914) with its parameters beside it, so that
 * they can be raised later.  Takes tens of milliseconds and 64 MiB: call it from
 * a worker thread, and bound how many run at once. */
#ifndef HOLDFAST_COMMON_SCRYPT_H
#define HOLDFAST_COMMON_SCRYPT_H

#include <stdbool.h>
#include <stdint.h>

#include "common/err.h"
#include "common/secret.h"

enum {
    SCRYPT_SALT_SIZE = 16,
    SCRYPT_HASH_SIZE = 32,
    SCRYPT_N = 1 << 16,
    SCRYPT_R = 8,
    SCRYPT_P = 2,
    SCRYPT_N_MAX = 1 << 20, /* what a stored hash may ask for */
    SCRYPT_R_MAX = 16,
    SCRYPT_P_MAX = 16,
};

struct scrypt_hash {
    uint64_t n, r, p;
    uint8_t salt[SCRYPT_SALT_SIZE];
    uint8_t hash[SCRYPT_HASH_SIZE];
};

/* With a new random salt and today's parameters. */
int scrypt_make(const struct secret *password, struct scrypt_hash *out_hash,
                struct err *err);
/* 0: it is that password; -EACCES: it is not; others: could not tell. */
int scrypt_check(const struct secret *password, const struct scrypt_hash *hash,
                 struct err *err);

/* A random password of 27 letters and digits (135 bits), in groups of nine,
 * without those that look alike. */
int scrypt_new_password(struct secret *out_password, struct err *err);

#endif
