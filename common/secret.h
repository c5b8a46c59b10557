/* Secrets in memory: own type, wiped when done, compared in constant time,
 * never printed.  Any thread. */
#ifndef HOLDFAST_COMMON_SECRET_H
#define HOLDFAST_COMMON_SECRET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/err.h"

enum {
    SECRET_MAX = 256
};

struct secret {
    size_t len;
    uint8_t b[SECRET_MAX + 1]; /* always with a NUL behind len */
};

/* -EMSGSIZE when n is above SECRET_MAX; *s is then empty. */
int secret_set(struct secret *s, const void *p, size_t n);
/* n random bytes from the kernel; -EIO when it gives none. */
int secret_random(struct secret *s, size_t n, struct err *err);
/* The first line of a file with mode 0600, without its line end.  -EPERM for a
 * loose mode, -EINVAL when it is empty. */
int secret_from_file(struct secret *s, const char *path, struct err *err);
/* Takes the time of the longer one whatever they hold. */
bool secret_equal(const struct secret *a, const struct secret *b);
void secret_wipe(struct secret *s);
/* Wipe and release a buffer that held one. */
void secret_buf_release(struct buf *b);

#endif
