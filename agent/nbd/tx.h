/* The state of the transmission phase, shared by transmission.c (requests) and
 * reply.c (replies) alone. */
#ifndef HOLDFAST_NBD_TX_H
#define HOLDFAST_NBD_TX_H

#include "nbd/conn.h"

enum {
    NBD_BATCH = 128
}; /* replies a writev */

struct nbd_req {
    struct blkdev_req dev;
    struct list link; /* free, done or sending */
    struct nbd_conn *conn;
    struct nbd_request rq;
    void *buf; /* from the pool, buf_size bytes; NULL: none */
    size_t buf_size;
    enum nbd_error error;
    bool hole;           /* READ: nothing but zeros was read */
    uint32_t payload;    /* bytes of data in the reply */
    const uint8_t *data; /* those bytes */
    uint8_t extent[NBD_EXTENT_SIZE];
};

struct nbd_tx {
    struct nbd_terms terms;
    /* requests */
    struct list free, done, sending;
    struct nbd_req **chunks;
    unsigned n_chunks, max_chunks;
    unsigned made, max_reqs;
    size_t held; /* bytes of the pool */
    /* in */
    uint8_t *in;
    size_t in_at, in_len, ahead;
    struct nbd_req *direct; /* its payload is being received */
    size_t direct_got;
    struct nbd_req *drained; /* a refused write, drain bytes still to come */
    uint64_t drain;
    size_t need; /* waits for a pool buffer of that size */
    bool blocked, disc, parsing;
    unsigned turn_requests; /* left in this turn */
    uint64_t turn_bytes;
    uint64_t moved_ns; /* when the last byte moved, either way */
    bool out_full;     /* the channel took no more */
    /* out */
    size_t out_bytes;
    unsigned n_done;
    unsigned iov_n, iov_i;
    struct iovec iov[2 * NBD_BATCH];
    uint8_t head[NBD_BATCH * NBD_REPLY_HEADER_MAX];
};

/* transmission.c */
void nbd_req_put(struct nbd_req *r); /* back to the free ones, buffer too */
void nbd_req_drop_buf(struct nbd_req *r);

/* reply.c */
void nbd_tx_reply(struct nbd_req *r); /* r->error and what goes with it is set */
/* Send what is done; stops when the channel is full or closed. */
void nbd_tx_flush(struct nbd_conn *c);

#endif
