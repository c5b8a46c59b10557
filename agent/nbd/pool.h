/* Payload memory of one server: page-aligned buffers in sizes of powers of two
 * from 4 KiB to 32 MiB, with one hard maximum over all of them.
 *
 * Buffers given back are kept for the next request of that size, the last one
 * first because the caches still hold it; what is kept is bounded, and is
 * given up when another size needs the room.  Loop's thread only.
 */
#ifndef HOLDFAST_NBD_POOL_H
#define HOLDFAST_NBD_POOL_H

#include <stddef.h>
#include <stdint.h>

enum {
    NBD_POOL_CLASSES = 14,
    NBD_POOL_MIN = 4096
};

struct nbd_pool {
    uint64_t max;      /* used + kept never passes this */
    uint64_t keep_max; /* kept never passes this */
    uint64_t used, kept;
    struct nbd_pool_free *free[NBD_POOL_CLASSES];
};

void nbd_pool_init(struct nbd_pool *p, uint64_t max);
void nbd_pool_release(struct nbd_pool *p); /* all buffers are back */

/* The size that a request for len bytes takes from the pool; 0 when len is 0
 * or above 32 MiB. */
size_t nbd_pool_size(size_t len);
/* A buffer of nbd_pool_size(len) bytes, or NULL: at the maximum (or no memory).
 * *out_size is what nbd_pool_put() wants to hear. */
void *nbd_pool_get(struct nbd_pool *p, size_t len, size_t *out_size);
void nbd_pool_put(struct nbd_pool *p, void *buf, size_t size);

#endif
