/* The replies of one connection: queued as requests come back, encoded into a
 * batch, sent with one writev.  A batch is encoded once and then only advanced,
 * because a TLS channel may have taken a part of it. */
#include "nbd/tx.h"

enum {
    BATCH_BYTES = 1 << 20
}; /* of payload, with one reply more */

void
nbd_tx_reply(struct nbd_req *r)
{
    struct nbd_conn *c = r->conn;

    if (r->error != NBD_SUCCESS) {
        c->exp->stats.errors++;
        r->payload = 0;
    }
    if (r->payload == 0)
        nbd_req_drop_buf(r);
    c->tx->out_bytes += r->payload + NBD_REPLY_HEADER_MAX;
    list_push_back(&c->tx->done, &r->link);
    c->tx->n_done++;
}

static size_t
encode(const struct nbd_tx *tx, const struct nbd_req *r, uint8_t *out)
{
    const struct nbd_request *rq = &r->rq;

    if (!tx->terms.structured)
        return nbd_simple_reply_encode(out, rq->cookie, r->error);
    if (r->error != NBD_SUCCESS)
        return nbd_error_chunk_encode(out, rq->cookie, r->error);
    if (r->hole)
        return nbd_hole_chunk_encode(out, rq->cookie, rq->off, rq->len);
    if (rq->type == NBD_CMD_READ && r->payload)
        return nbd_data_chunk_encode(out, rq->cookie, rq->off, r->payload);
    if (rq->type == NBD_CMD_READ)
        return nbd_chunk_encode(out, NBD_REPLY_NONE, rq->cookie, 0);
    if (rq->type == NBD_CMD_BLOCK_STATUS)
        return nbd_status_chunk_encode(out, rq->cookie,
                                       NBD_CONTEXT_ALLOCATION_ID,
                                       r->payload / NBD_EXTENT_SIZE);
    return nbd_simple_reply_encode(out, rq->cookie, r->error);
}

/* Queue n bytes at p behind the batch; headers that follow each other in memory
 * become one piece. */
static void
piece(struct nbd_tx *tx, const void *p, size_t n)
{
    struct iovec *last = tx->iov_n ? &tx->iov[tx->iov_n - 1] : NULL;

    if (last && (const uint8_t *)last->iov_base + last->iov_len == p) {
        last->iov_len += n;
        return;
    }
    tx->iov[tx->iov_n++] = (struct iovec){
        .iov_base = (void *)(uintptr_t)p, /* iovec has no const */
        .iov_len = n,
    };
}

static void
batch_build(struct nbd_tx *tx)
{
    uint8_t *head = tx->head;
    size_t bytes = 0;
    unsigned n;

    tx->iov_n = tx->iov_i = 0;
    for (n = 0; n < NBD_BATCH && bytes < BATCH_BYTES; n++) {
        struct list *p = list_pop_front(&tx->done);
        struct nbd_req *r;
        size_t len;

        if (!p)
            break;
        tx->n_done--;
        r = list_entry(p, struct nbd_req, link);
        len = encode(tx, r, head);
        piece(tx, head, len);
        head += len;
        if (r->payload)
            piece(tx, r->data, r->payload);
        bytes += r->payload;
        list_push_back(&tx->sending, &r->link);
    }
}

/* n bytes of the batch have left; true: that was all of it. */
static bool
batch_advance(struct nbd_tx *tx, size_t n)
{
    while (tx->iov_i < tx->iov_n) {
        struct iovec *v = &tx->iov[tx->iov_i];

        if (n < v->iov_len) {
            v->iov_base = (uint8_t *)v->iov_base + n;
            v->iov_len -= n;
            return false;
        }
        n -= v->iov_len;
        tx->iov_i++;
    }
    return true;
}

static void
batch_release(struct nbd_tx *tx)
{
    struct list *p;

    tx->iov_n = tx->iov_i = 0;
    while ((p = list_pop_front(&tx->sending))) {
        struct nbd_req *r = list_entry(p, struct nbd_req, link);

        tx->out_bytes -= r->payload + NBD_REPLY_HEADER_MAX;
        nbd_req_put(r);
    }
}

/* Send what is done; stops when the channel is full or closed. */
void
nbd_tx_flush(struct nbd_conn *c)
{
    struct nbd_tx *tx = c->tx;

    tx->out_full = false;
    while (c->ch) {
        int64_t n;

        if (tx->iov_n == 0) {
            if (list_empty(&tx->done))
                break;
            batch_build(tx);
        }
        n = io_chan_writev(c->ch, tx->iov + tx->iov_i, tx->iov_n - tx->iov_i);
        if (n == -EAGAIN) {
            tx->out_full = true;
            return;
        }
        if (n < 0) {
            nbd_conn_close(c);
            return;
        }
        tx->moved_ns = io_mono_ns(c->srv->loop);
        if (batch_advance(tx, (size_t)n))
            batch_release(tx);
    }
    if (c->ch && tx->disc && c->in_dev == 0)
        nbd_conn_close(c); /* all that was asked before DISC is answered */
}
