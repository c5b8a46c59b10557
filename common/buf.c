/* Growing buffer: doubles up to its maximum, keeps one byte for the NUL. */
#include "common/buf.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"

enum {
    FIRST_CAP = 256
};

void
buf_init(struct buf *b, size_t max)
{
    *b = (struct buf){ .max = MIN(max, SIZE_MAX / 2) };
}

void
buf_release(struct buf *b)
{
    free(b->data);
    *b = (struct buf){ .max = b->max };
}

void
buf_clear(struct buf *b)
{
    b->len = 0;
    b->failed = 0;
    if (b->data)
        b->data[0] = '\0';
}

void *
buf_reserve(struct buf *b, size_t n)
{
    size_t need, cap;
    uint8_t *p;

    if (b->failed)
        return NULL;
    if (n > b->max - b->len) {
        b->failed = -EMSGSIZE;
        return NULL;
    }
    need = b->len + n + 1;
    if (need <= b->cap)
        return b->data + b->len;
    cap = MAX(MAX(need, (size_t)FIRST_CAP), 2 * b->cap);
    cap = MIN(cap, b->max + 1);
    p = realloc(b->data, cap);
    if (!p) {
        b->failed = -ENOMEM;
        return NULL;
    }
    b->data = p;
    b->cap = cap;
    return b->data + b->len;
}

void
buf_added(struct buf *b, size_t n)
{
    b->len += n;
    b->data[b->len] = '\0';
}

int
buf_add(struct buf *b, const void *p, size_t n)
{
    void *to = buf_reserve(b, n);

    if (!to)
        return b->failed;
    if (n)
        memcpy(to, p, n);
    buf_added(b, n);
    return 0;
}

int
buf_addf(struct buf *b, const char *fmt, ...)
{
    va_list ap;
    char *to;
    int n;

    va_start(ap, fmt);
    n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (n < 0) {
        b->failed = b->failed ? b->failed : -EMSGSIZE;
        return b->failed;
    }
    to = buf_reserve(b, (size_t)n);
    if (!to)
        return b->failed;
    va_start(ap, fmt);
    (void)vsnprintf(to, (size_t)n + 1, fmt, ap);
    va_end(ap);
    buf_added(b, (size_t)n);
    return 0;
}

void
buf_consume(struct buf *b, size_t n)
{
    n = MIN(n, b->len);
    if (n == 0)
        return;
    memmove(b->data, b->data + n, b->len - n);
    b->len -= n;
    b->data[b->len] = '\0';
}
