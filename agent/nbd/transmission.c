/* The transmission phase of one connection: requests in, replies out.
 *
 * In: one read a turn into the stream buffer, then every request in it is
 * parsed and submitted.  Small payloads are copied from the stream buffer into
 * a pool buffer; one of which more than DIRECT_MIN bytes are still to come is
 * received straight into its pool buffer, and the same call reads on into the
 * stream buffer.
 *
 * Out: requests come back from the device in any order and are queued; see
 * reply.c.
 *
 * Bounds: a connection has at most max_in_flight requests, OUT_HIGH bytes of
 * unsent replies (and one reply more), and its share of the pool.  At any of
 * these it stops reading; the client's socket then fills, and nothing of ours
 * grows.  A turn handles at most TURN_REQUESTS or TURN_BYTES of one connection.
 *
 * Request objects come in chunks, made when first needed and kept: nothing is
 * allocated per request.
 */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "io/file.h"
#include "nbd/tx.h"

enum {
    IN_SIZE = 256 << 10,
    DIRECT_MIN = 32 << 10,
    AHEAD_BULK = 4 << 10, /* read-ahead behind a large payload */
    COMPACT_MAX = 8 << 10,
    OUT_HIGH = 4 << 20,
    FLUSH_AT = 256 << 10,
    FLUSH_REPLIES = 16, /* so that the client goes on while we do */
    TURN_REQUESTS = 256,
    TURN_BYTES = 8 << 20,
    READS_PER_TURN = 4,
    EXTENTS_SIZE = 64 << 10,
    CHUNK = 32,
};

/* --- request objects and their memory ----------------------------------- */

static int
grow(struct nbd_conn *c)
{
    struct nbd_tx *tx = c->tx;
    struct nbd_req *chunk;
    unsigned i, n = MIN((unsigned)CHUNK, tx->max_reqs - tx->made);

    if (n == 0)
        return -EAGAIN;
    chunk = calloc(n, sizeof *chunk);
    if (!chunk)
        return -ENOMEM;
    tx->chunks[tx->n_chunks++] = chunk;
    tx->made += n;
    for (i = 0; i < n; i++) {
        chunk[i].conn = c;
        list_init(&chunk[i].dev.link);
        list_push_back(&tx->free, &chunk[i].link);
    }
    return 0;
}

static struct nbd_req *
req_get(struct nbd_conn *c, const struct nbd_request *rq)
{
    struct list *p = list_pop_front(&c->tx->free);
    struct nbd_req *r;

    if (!p && grow(c) == 0)
        p = list_pop_front(&c->tx->free);
    if (!p)
        return NULL;
    r = list_entry(p, struct nbd_req, link);
    r->rq = *rq;
    r->error = NBD_SUCCESS;
    r->hole = false;
    r->payload = 0;
    return r;
}

void
nbd_req_drop_buf(struct nbd_req *r)
{
    struct nbd_conn *c = r->conn;

    if (!r->buf)
        return;
    c->tx->held -= r->buf_size;
    nbd_pool_put(&c->srv->pool, r->buf, r->buf_size);
    r->buf = NULL;
    nbd_server_pool_freed(c->srv);
}

void
nbd_req_put(struct nbd_req *r)
{
    nbd_req_drop_buf(r);
    list_push_front(&r->conn->tx->free, &r->link);
}

/* Does this connection's share allow a buffer of len bytes? */
static bool
share_allows(const struct nbd_conn *c, size_t len)
{
    const struct nbd_tx *tx = c->tx;

    return tx->held == 0 ||
           tx->held + nbd_pool_size(len) <= c->srv->conn_pool_max;
}

static int
buf_get(struct nbd_req *r, size_t len)
{
    struct nbd_conn *c = r->conn;

    if (!share_allows(c, len))
        return -EAGAIN; /* its own requests will give some back */
    r->buf = nbd_pool_get(&c->srv->pool, len, &r->buf_size);
    if (!r->buf) {
        c->tx->need = len;
        nbd_server_wait(c->srv, c);
        return -EAGAIN;
    }
    c->tx->held += r->buf_size;
    return 0;
}

bool
nbd_tx_fits(const struct nbd_conn *c)
{
    const struct nbd_pool *p = &c->srv->pool;

    return !c->tx || p->max - p->used >= nbd_pool_size(c->tx->need);
}

bool
nbd_tx_stalls(const struct nbd_conn *c, uint64_t since_ns)
{
    const struct nbd_tx *tx = c->tx;

    return tx && tx->held && (tx->direct || tx->out_full) &&
           tx->moved_ns < since_ns;
}

/* --- completions -------------------------------------------------------- */

/* Extents of the device, at most as long as the request, as descriptors in the
 * same memory: what is written stays behind what is read. */
static void
extents_done(struct nbd_req *r)
{
    const struct blkdev_extent *ext = r->dev.ext;
    bool one = r->dev.flags & BLKDEV_EXT_ONE;
    uint64_t left = r->rq.len, len = 0;
    uint32_t state = 0, next;
    uint8_t *out = r->buf;
    size_t n = 0, i;

    static_assert(sizeof *ext >= NBD_EXTENT_SIZE, "in place");
    for (i = 0; i < r->dev.ext_n && left; i++) {
        struct blkdev_extent e = ext[i];

        if (e.len == 0)
            continue;
        next = (e.hole ? NBD_STATE_HOLE : 0U) | (e.zero ? NBD_STATE_ZERO : 0U);
        if (len && next != state) {
            if (one)
                break;
            nbd_extent_encode(out + n * NBD_EXTENT_SIZE, (uint32_t)len, state);
            n++;
            len = 0;
        }
        state = next;
        e.len = MIN(e.len, left);
        len += e.len;
        left -= e.len;
    }
    if (len == 0) {
        len = r->rq.len; /* the device could not tell: data */
        state = 0;
    }
    nbd_extent_encode(out + n * NBD_EXTENT_SIZE, (uint32_t)len, state);
    n++;
    r->data = out;
    r->payload = (uint32_t)(n * NBD_EXTENT_SIZE);
}

static void
read_done(struct nbd_req *r)
{
    r->data = r->buf;
    r->payload = r->rq.len;
    /* A chunk that says "zeros" saves the copy and the bytes; looking costs
     * nothing when the data begins with anything else. */
    if (r->conn->tx->terms.structured && !(r->rq.flags & NBD_CMD_FLAG_DF) &&
        bytes_all_zero(r->buf, r->rq.len)) {
        r->hole = true;
        r->payload = 0;
    }
}

static void
req_done(struct blkdev_req *d, int res)
{
    struct nbd_req *r = container_of(d, struct nbd_req, dev);
    struct nbd_conn *c = r->conn;

    nbd_conn_hold(c);
    assert(c->in_dev > 0);
    c->in_dev--;
    c->exp->stats.in_flight--;
    if (!c->ch) {
        nbd_req_put(r);
    } else {
        r->error = nbd_error_of(res, &r->rq);
        if (r->error == NBD_SUCCESS && d->op == BLKDEV_READ)
            read_done(r);
        else if (r->error == NBD_SUCCESS && d->op == BLKDEV_EXTENTS)
            extents_done(r);
        nbd_tx_reply(r);
        if (!c->tx->parsing)
            io_defer(c->srv->loop, &c->task);
    }
    nbd_conn_unhold(c);
}

/* --- requests ----------------------------------------------------------- */

static const enum blkdev_op ops[] = {
    [NBD_CMD_READ] = BLKDEV_READ,
    [NBD_CMD_WRITE] = BLKDEV_WRITE,
    [NBD_CMD_FLUSH] = BLKDEV_FLUSH,
    [NBD_CMD_TRIM] = BLKDEV_TRIM,
    [NBD_CMD_CACHE] = BLKDEV_CACHE,
    [NBD_CMD_WRITE_ZEROES] = BLKDEV_ZERO,
    [NBD_CMD_BLOCK_STATUS] = BLKDEV_EXTENTS,
};

static unsigned
dev_flags(const struct nbd_request *rq)
{
    bool changes = rq->type == NBD_CMD_WRITE || rq->type == NBD_CMD_TRIM ||
                   rq->type == NBD_CMD_WRITE_ZEROES;

    return (changes && rq->flags & NBD_CMD_FLAG_FUA ? BLKDEV_FUA : 0U) |
           (rq->flags & NBD_CMD_FLAG_NO_HOLE ? BLKDEV_NO_HOLE : 0U) |
           (rq->flags & NBD_CMD_FLAG_FAST_ZERO ? BLKDEV_FAST_ZERO : 0U) |
           (rq->flags & NBD_CMD_FLAG_REQ_ONE ? BLKDEV_EXT_ONE : 0U);
}

static void
count(struct nbd_export_stats *s, const struct nbd_request *rq)
{
    switch (rq->type) {
    case NBD_CMD_READ:
        s->reads++;
        s->read_bytes += rq->len;
        break;
    case NBD_CMD_WRITE:
        s->writes++;
        s->write_bytes += rq->len;
        break;
    case NBD_CMD_FLUSH: s->flushes++; break;
    case NBD_CMD_TRIM:
    case NBD_CMD_WRITE_ZEROES: s->trims++; break;
    default: break;
    }
}

/* The request is complete and checked; its payload or its buffer is there. */
static void
submit(struct nbd_req *r)
{
    struct nbd_conn *c = r->conn;
    struct blkdev_req *d = &r->dev;
    int rc;

    d->op = ops[r->rq.type];
    d->flags = dev_flags(&r->rq);
    d->off = r->rq.off;
    d->len = r->rq.len;
    d->buf = r->buf;
    d->ext = NULL;
    d->ext_max = d->ext_n = 0;
    d->origin = c;
    d->done = req_done;
    if (d->op == BLKDEV_EXTENTS) {
        d->buf = NULL;
        d->ext = r->buf;
        d->ext_max =
            d->flags & BLKDEV_EXT_ONE ? 1 : r->buf_size / sizeof *d->ext;
    }
    count(&c->exp->stats, &r->rq);
    c->in_dev++;
    c->exp->stats.in_flight++;
    rc = blkdev_check(c->exp->dev, d);
    if (rc < 0)
        req_done(d, rc);
    else
        blkdev_submit(c->exp->dev, d);
}

/* Bytes of pool memory that the request needs before it can be submitted. */
static size_t
buf_needed(const struct nbd_conn *c, const struct nbd_request *rq)
{
    if (rq->type == NBD_CMD_READ || rq->type == NBD_CMD_WRITE)
        return rq->len;
    if (rq->type != NBD_CMD_BLOCK_STATUS ||
        !(c->exp->dev->info.features & BLKDEV_CAN_EXTENTS))
        return 0;
    return rq->flags & NBD_CMD_FLAG_REQ_ONE ? NBD_POOL_MIN : EXTENTS_SIZE;
}

/* Answer without the device, where that is possible. */
static bool
answer_at_once(struct nbd_req *r)
{
    if (r->rq.type == NBD_CMD_BLOCK_STATUS &&
        !(r->conn->exp->dev->info.features & BLKDEV_CAN_EXTENTS)) {
        nbd_extent_encode(r->extent, r->rq.len, 0);
        r->data = r->extent;
        r->payload = NBD_EXTENT_SIZE;
        nbd_tx_reply(r);
        return true;
    }
    if (r->rq.len == 0 && r->rq.type != NBD_CMD_FLUSH) {
        nbd_tx_reply(r);
        return true;
    }
    return false;
}

static void
reply_error(struct nbd_req *r, enum nbd_error error)
{
    r->error = error;
    nbd_tx_reply(r);
}

enum taken {
    TAKEN,
    NOT_ALL_HERE,
    BLOCKED
};

/* The write's payload is not all in the stream buffer: receive the rest of a
 * large one straight into its place, wait for a small one. */
static enum taken
take_later(struct nbd_conn *c, struct nbd_req *r, size_t have)
{
    struct nbd_tx *tx = c->tx;

    if (r->rq.len - have <= DIRECT_MIN &&
        NBD_REQUEST_SIZE + (size_t)r->rq.len <= IN_SIZE) {
        nbd_req_put(r);
        return NOT_ALL_HERE;
    }
    if (buf_get(r, r->rq.len) < 0) {
        nbd_req_put(r);
        return BLOCKED;
    }
    memcpy(r->buf, tx->in + tx->in_at + NBD_REQUEST_SIZE, have);
    tx->in_at = tx->in_len = 0;
    tx->direct = r;
    tx->direct_got = have;
    tx->ahead = AHEAD_BULK;
    return TAKEN;
}

static enum taken
take_refused(struct nbd_conn *c, struct nbd_req *r, enum nbd_error error)
{
    struct nbd_tx *tx = c->tx;

    tx->in_at += NBD_REQUEST_SIZE;
    if (r->rq.type != NBD_CMD_WRITE || r->rq.len == 0) {
        reply_error(r, error);
        return TAKEN;
    }
    if (r->rq.len > NBD_DRAIN_MAX) {
        nbd_req_put(r);
        nbd_conn_fail(c, -EMSGSIZE, ERR_NBD_0005,
                      "sent a write of more than 64 MiB");
        return BLOCKED;
    }
    r->error = error;
    tx->drained = r;
    tx->drain = r->rq.len;
    return TAKEN;
}

/* Take the request at the front of the stream buffer. */
static enum taken
take(struct nbd_conn *c, const struct nbd_request *rq)
{
    struct nbd_tx *tx = c->tx;
    size_t here = tx->in_len - tx->in_at - NBD_REQUEST_SIZE;
    size_t payload = rq->type == NBD_CMD_WRITE ? rq->len : 0;
    struct nbd_req *r = req_get(c, rq);
    enum nbd_error error;
    size_t need;

    if (!r)
        return BLOCKED;
    error = nbd_request_check(rq, &tx->terms);
    if (error != NBD_SUCCESS)
        return take_refused(c, r, error);
    if (here < payload)
        return take_later(c, r, here);
    need = buf_needed(c, rq);
    if (need && buf_get(r, need) < 0) {
        nbd_req_put(r);
        return BLOCKED;
    }
    if (payload) {
        memcpy(r->buf, tx->in + tx->in_at + NBD_REQUEST_SIZE, payload);
        tx->ahead = IN_SIZE;
    }
    tx->in_at += NBD_REQUEST_SIZE + payload;
    tx->turn_bytes -= MIN(tx->turn_bytes, (uint64_t)need);
    if (!answer_at_once(r))
        submit(r);
    return TAKEN;
}

/* Throw away what is here of a refused write's payload. */
static void
drain(struct nbd_tx *tx)
{
    size_t n = (size_t)MIN((uint64_t)(tx->in_len - tx->in_at), tx->drain);

    tx->in_at += n;
    tx->drain -= n;
    if (tx->drain == 0) {
        nbd_tx_reply(tx->drained);
        tx->drained = NULL;
    }
}

/* May another request be taken now? */
static bool
parse_may_go_on(struct nbd_conn *c)
{
    struct nbd_tx *tx = c->tx;

    if (tx->turn_requests == 0 || tx->turn_bytes == 0) {
        io_defer(c->srv->loop, &c->task); /* the others' turn */
        return false;
    }
    if ((tx->out_bytes >= FLUSH_AT || tx->n_done >= FLUSH_REPLIES) &&
        !tx->out_full)
        nbd_tx_flush(c);
    return c->ch && tx->out_bytes < OUT_HIGH;
}

static void
parse(struct nbd_conn *c)
{
    struct nbd_tx *tx = c->tx;
    struct nbd_request rq;
    enum taken taken = TAKEN;

    tx->blocked = false;
    tx->parsing = true;
    while (c->ch && !tx->disc && !tx->direct && taken == TAKEN) {
        if (tx->drained) {
            drain(tx);
            if (tx->drained)
                break;
        }
        if (tx->in_len - tx->in_at < NBD_REQUEST_SIZE)
            break;
        if (!parse_may_go_on(c)) {
            tx->blocked = true;
            break;
        }
        if (nbd_request_decode(tx->in + tx->in_at, &rq) < 0) {
            nbd_conn_fail(c, -EPROTO, ERR_NBD_0005,
                          "sent a wrong request magic");
            break;
        }
        if (rq.type == NBD_CMD_DISC) {
            tx->disc = true;
            break;
        }
        tx->turn_requests--;
        taken = take(c, &rq);
        tx->blocked = taken == BLOCKED;
    }
    tx->parsing = false;
}

/* --- receiving ---------------------------------------------------------- */

static void
compact(struct nbd_tx *tx)
{
    size_t left = tx->in_len - tx->in_at;

    if (tx->in_at == 0)
        return;
    if (left <= COMPACT_MAX || IN_SIZE - tx->in_len < DIRECT_MIN) {
        memmove(tx->in, tx->in + tx->in_at, left);
        tx->in_at = 0;
        tx->in_len = left;
    }
}

/* One read; what was asked for in *out_asked. */
static int64_t
read_some(struct nbd_conn *c, size_t *out_asked)
{
    struct nbd_tx *tx = c->tx;
    struct iovec v[2];
    size_t missing, ahead;
    int64_t n;

    if (!tx->direct) {
        compact(tx);
        ahead = MIN(IN_SIZE - tx->in_len, tx->ahead);
        *out_asked = ahead;
        n = io_chan_read(c->ch, tx->in + tx->in_len, ahead);
        if (n > 0)
            tx->in_len += (size_t)n;
        if (n == (int64_t)ahead)
            tx->ahead = IN_SIZE;
        return n;
    }
    missing = tx->direct->rq.len - tx->direct_got;
    *out_asked = missing + AHEAD_BULK;
    v[0].iov_base = (uint8_t *)tx->direct->buf + tx->direct_got;
    v[0].iov_len = missing;
    v[1].iov_base = tx->in;
    v[1].iov_len = AHEAD_BULK;
    n = io_chan_readv(c->ch, v, 2);
    if (n <= 0)
        return n;
    tx->direct_got += MIN((size_t)n, missing);
    tx->in_len = (size_t)n - MIN((size_t)n, missing);
    if (tx->direct_got == tx->direct->rq.len) {
        struct nbd_req *r = tx->direct;

        tx->direct = NULL;
        tx->turn_bytes -= MIN(tx->turn_bytes, (uint64_t)r->rq.len);
        tx->parsing = true; /* replies wait for the end of this turn */
        submit(r);
        tx->parsing = false;
    }
    return n;
}

static void
receive(struct nbd_conn *c)
{
    struct nbd_tx *tx = c->tx;
    unsigned i;

    for (i = 0; i < READS_PER_TURN; i++) {
        size_t asked;
        int64_t n = read_some(c, &asked);

        if (n == -EAGAIN)
            return;
        if (n <= 0) {
            nbd_conn_close(c); /* gone without DISC; I6 */
            return;
        }
        tx->moved_ns = io_mono_ns(c->srv->loop);
        parse(c);
        if (!c->ch || tx->blocked || tx->disc || (size_t)n < asked)
            return;
    }
}

/* Send what is ready and say what to wait for. */
static void
settle(struct nbd_conn *c)
{
    struct nbd_tx *tx = c->tx;
    unsigned want = 0;

    if (c->ch && !tx->out_full)
        nbd_tx_flush(c);
    if (!c->ch)
        return;
    /* Blocked on itself only: a flush that freed something lets it go on. */
    if (tx->blocked && !tx->out_full && list_empty(&c->wait_link) &&
        c->in_dev == 0)
        io_defer(c->srv->loop, &c->task);
    if (!tx->blocked && !tx->disc)
        want |= IO_CHAN_READABLE;
    if (tx->out_full)
        want |= IO_CHAN_WRITABLE;
    nbd_conn_want(c, want);
}

static void
new_turn(struct nbd_tx *tx)
{
    tx->turn_requests = TURN_REQUESTS;
    tx->turn_bytes = TURN_BYTES;
}

void
nbd_tx_run(struct nbd_conn *c)
{
    nbd_conn_hold(c);
    new_turn(c->tx);
    if (c->ch && !c->tx->out_full)
        nbd_tx_flush(c);
    if (c->ch && c->tx->blocked)
        parse(c);
    settle(c);
    nbd_conn_unhold(c);
}

void
nbd_tx_event(struct nbd_conn *c, unsigned events)
{
    struct nbd_tx *tx = c->tx;

    new_turn(tx);
    if (events & IO_CHAN_WRITABLE) {
        tx->out_full = false;
        nbd_tx_flush(c);
        if (c->ch && tx->blocked)
            parse(c);
    }
    if (c->ch && events & IO_CHAN_READABLE && !tx->blocked && !tx->disc)
        receive(c);
    settle(c);
}

/* --- life --------------------------------------------------------------- */

int
nbd_tx_start(struct nbd_conn *c, const struct nbd_terms *terms)
{
    struct nbd_tx *tx = calloc(1, sizeof *tx);

    if (!tx)
        return -ENOMEM;
    c->tx = tx;
    tx->terms = *terms;
    list_init(&tx->free);
    list_init(&tx->done);
    list_init(&tx->sending);
    tx->max_reqs = c->srv->cfg.max_in_flight;
    tx->max_chunks = (tx->max_reqs + CHUNK - 1) / CHUNK;
    tx->ahead = IN_SIZE;
    tx->moved_ns = io_mono_ns(c->srv->loop);
    tx->in = io_mem_alloc(IN_SIZE);
    tx->chunks = calloc(tx->max_chunks, sizeof(struct nbd_req *));
    if (!tx->in || !tx->chunks)
        return -ENOMEM;
    return grow(c);
}

static void
put_all(struct list *l)
{
    struct list *p;

    while ((p = list_pop_front(l)))
        nbd_req_put(list_entry(p, struct nbd_req, link));
}

void
nbd_tx_stop(struct nbd_conn *c)
{
    struct nbd_tx *tx = c->tx;

    put_all(&tx->done);
    put_all(&tx->sending);
    tx->n_done = 0;
    tx->iov_n = tx->iov_i = 0;
    if (tx->direct)
        nbd_req_put(tx->direct);
    if (tx->drained)
        nbd_req_put(tx->drained);
    tx->direct = tx->drained = NULL;
    tx->blocked = false;
}

void
nbd_tx_free(struct nbd_conn *c)
{
    struct nbd_tx *tx = c->tx;
    unsigned i;

    if (!tx)
        return;
    assert(tx->held == 0);
    for (i = 0; i < tx->n_chunks; i++)
        free(tx->chunks[i]);
    free(tx->chunks);
    if (tx->in)
        io_mem_free(tx->in, IN_SIZE);
    free(tx);
    c->tx = NULL;
}
