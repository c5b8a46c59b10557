/* See pool.h.  A free buffer holds the link to the next one in its first
 * bytes. */
#include "nbd/pool.h"

#include <assert.h>

#include "common/bytes.h"
#include "io/file.h"

struct nbd_pool_free {
    struct nbd_pool_free *next;
};

void
nbd_pool_init(struct nbd_pool *p, uint64_t max)
{
    *p = (struct nbd_pool){ .max = max, .keep_max = max / 4 };
}

static size_t
class_size(unsigned c)
{
    return (size_t)NBD_POOL_MIN << c;
}

static unsigned
class_of(size_t len)
{
    if (len <= NBD_POOL_MIN)
        return 0;
    /* 4097..8192 -> 1, and so on */
    return (unsigned)(64 - __builtin_clzll((unsigned long long)len - 1)) - 12;
}

size_t
nbd_pool_size(size_t len)
{
    if (len == 0 || len > class_size(NBD_POOL_CLASSES - 1))
        return 0;
    return class_size(class_of(len));
}

static struct nbd_pool_free *
pop(struct nbd_pool *p, unsigned c)
{
    struct nbd_pool_free *b = p->free[c];

    if (b) {
        p->free[c] = b->next;
        p->kept -= class_size(c);
    }
    return b;
}

/* Free kept buffers, the largest first, until size more bytes fit. */
static void
make_room(struct nbd_pool *p, size_t size)
{
    struct nbd_pool_free *b;
    unsigned c;

    for (c = NBD_POOL_CLASSES; c-- > 0;) {
        while (p->used + p->kept + size > p->max && (b = pop(p, c)))
            io_mem_free(b, class_size(c));
    }
}

void *
nbd_pool_get(struct nbd_pool *p, size_t len, size_t *out_size)
{
    size_t size = nbd_pool_size(len);
    void *b;

    if (!size || size > p->max || p->used > p->max - size)
        return NULL;
    b = pop(p, class_of(len));
    if (!b) {
        make_room(p, size);
        b = io_mem_alloc(size);
        if (!b)
            return NULL;
    }
    p->used += size;
    *out_size = size;
    return b;
}

void
nbd_pool_put(struct nbd_pool *p, void *buf, size_t size)
{
    unsigned c = class_of(size);
    struct nbd_pool_free *b = buf;

    assert(p->used >= size);
    p->used -= size;
    if (p->kept + size > p->keep_max) {
        io_mem_free(buf, size);
        return;
    }
    b->next = p->free[c];
    p->free[c] = b;
    p->kept += size;
}

void
nbd_pool_release(struct nbd_pool *p)
{
    struct nbd_pool_free *b;
    unsigned c;

    assert(p->used == 0);
    for (c = 0; c < NBD_POOL_CLASSES; c++) {
        while ((b = pop(p, c)))
            io_mem_free(b, class_size(c));
    }
}
