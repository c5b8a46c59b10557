/* A growing byte buffer with a hard maximum given at birth, so that no peer
 * can make us grow without bound.  An append that would pass the maximum, or
 * that finds no memory, sets the sticky flag and leaves the content alone. */
#ifndef HOLDFAST_COMMON_BUF_H
#define HOLDFAST_COMMON_BUF_H

#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

struct buf {
    uint8_t *data; /* owned; NUL-terminated after any append */
    size_t len, cap, max;
    int failed; /* 0, -ENOMEM or -EMSGSIZE; later appends return it */
};

void buf_init(struct buf *b, size_t max);
void buf_release(struct buf *b); /* usable again after buf_init */
void buf_clear(struct buf *b);   /* keeps memory and maximum */
int buf_add(struct buf *b, const void *p, size_t n);
int buf_addf(struct buf *b, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* Room for n more bytes at data + len, to be counted with buf_added(). */
void *buf_reserve(struct buf *b, size_t n);
void buf_added(struct buf *b, size_t n);
void buf_consume(struct buf *b, size_t n); /* drop n bytes at the front */

#endif
