/* room: nbd io common */
/* A stream of requests on arbitrary bytes: decoding, the rules, and the answer
 * that each gets.  The first two bytes choose what was negotiated. */
#include <assert.h>
#include <errno.h>
#include <stdint.h>

#include "common/bytes.h"
#include "nbd/proto.h"

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

static void
answer(const struct nbd_request *rq, const struct nbd_terms *t, enum nbd_error e)
{
    uint8_t out[NBD_REPLY_HEADER_MAX];
    size_t len;

    if (e != NBD_SUCCESS)
        len = nbd_error_chunk_encode(out, rq->cookie, e);
    else if (rq->type == NBD_CMD_READ && t->structured)
        len = nbd_data_chunk_encode(out, rq->cookie, rq->off, rq->len);
    else if (rq->type == NBD_CMD_BLOCK_STATUS)
        len = nbd_status_chunk_encode(out, rq->cookie, 1, 1);
    else
        len = nbd_simple_reply_encode(out, rq->cookie, e);
    assert(len <= sizeof out);
    assert(get_be64(out + 8) == rq->cookie);
}

int
LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    struct nbd_terms t = { .size = 1 << 20 };
    struct nbd_request rq;
    enum nbd_error e;

    if (n < 2)
        return 0;
    t.tx_flags = (uint16_t)(get_be16(p) & 0x0fff);
    t.structured = t.tx_flags & NBD_TX_SEND_DF;
    t.allocation = t.structured && p[1] & 0x10;
    t.block = (struct nbd_block_size){ p[0] & 0x80 ? 512 : 1, 4096, 512 << 10 };
    for (p += 2, n -= 2; n >= NBD_REQUEST_SIZE;
         p += NBD_REQUEST_SIZE, n -= NBD_REQUEST_SIZE) {
        if (nbd_request_decode(p, &rq) < 0)
            return 0;
        e = nbd_request_check(&rq, &t);
        if (e == NBD_SUCCESS && rq.type != NBD_CMD_FLUSH) {
            assert(range_ok(rq.off, rq.len, t.size));
            assert((rq.off | rq.len) % t.block.min == 0);
        }
        if (e == NBD_SUCCESS &&
            (rq.type == NBD_CMD_WRITE || rq.type == NBD_CMD_READ))
            assert(rq.len <= t.block.max_payload);
        if (e == NBD_SUCCESS && t.tx_flags & NBD_TX_READ_ONLY)
            assert(rq.type != NBD_CMD_WRITE && rq.type != NBD_CMD_TRIM &&
                   rq.type != NBD_CMD_WRITE_ZEROES);
        answer(&rq, &t, e);
        assert(nbd_error_of(-EIO, &rq) == NBD_EIO);
    }
    return 0;
}
