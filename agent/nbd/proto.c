/* Encoders, decoders and the request rules of the NBD protocol.  Nothing else
 * in the tree knows an offset inside an NBD message. */
#include "nbd/proto.h"

#include <errno.h>
#include <string.h>

#include "common/bytes.h"

/* --- negotiation -------------------------------------------------------- */

void
nbd_greeting_encode(uint8_t out[NBD_GREETING_SIZE], unsigned flags)
{
    put_be64(out, NBD_MAGIC_INIT);
    put_be64(out + 8, NBD_MAGIC_OPTION);
    put_be16(out + 16, (uint16_t)flags);
}

int
nbd_client_flags_decode(const uint8_t p[NBD_CLIENT_FLAGS_SIZE],
                        unsigned offered, unsigned *out_flags)
{
    uint32_t flags = get_be32(p);

    if (flags & ~offered)
        return -EPROTO;
    *out_flags = flags;
    return 0;
}

int
nbd_option_decode(const uint8_t p[NBD_OPTION_SIZE], struct nbd_option *out)
{
    if (get_be64(p) != NBD_MAGIC_OPTION)
        return -EPROTO;
    *out =
        (struct nbd_option){ .type = get_be32(p + 8), .len = get_be32(p + 12) };
    return 0;
}

void
nbd_opt_reply_encode(uint8_t out[NBD_OPT_REPLY_SIZE], uint32_t option,
                     uint32_t type, uint32_t len)
{
    put_be64(out, NBD_MAGIC_OPT_REPLY);
    put_be32(out + 8, option);
    put_be32(out + 12, type);
    put_be32(out + 16, len);
}

void
nbd_info_export_encode(uint8_t out[NBD_INFO_EXPORT_SIZE], uint64_t size,
                       uint16_t tx_flags)
{
    put_be16(out, NBD_INFO_EXPORT);
    put_be64(out + 2, size);
    put_be16(out + 10, tx_flags);
}

void
nbd_info_block_size_encode(uint8_t out[NBD_INFO_BLOCK_SIZE_SIZE],
                           const struct nbd_block_size *bs)
{
    put_be16(out, NBD_INFO_BLOCK_SIZE);
    put_be32(out + 2, bs->min);
    put_be32(out + 6, bs->pref);
    put_be32(out + 10, bs->max_payload);
}

void
nbd_export_name_reply_encode(uint8_t out[NBD_EXPORT_NAME_REPLY_SIZE],
                             uint64_t size, uint16_t tx_flags)
{
    put_be64(out, size);
    put_be16(out + 8, tx_flags);
}

/* A 32-bit length and so many bytes, at *p, which has *len bytes. */
static int
take_string(const uint8_t **p, size_t *len, const char **out_s, size_t *out_len)
{
    uint32_t n;

    if (*len < 4)
        return -EINVAL;
    n = get_be32(*p);
    if (n > NBD_STRING_MAX || n > *len - 4)
        return -EINVAL;
    *out_s = (const char *)*p + 4;
    *out_len = n;
    *p += 4 + (size_t)n;
    *len -= 4 + (size_t)n;
    return 0;
}

int
nbd_opt_go_decode(const uint8_t *p, size_t len, struct nbd_opt_go *out)
{
    struct nbd_opt_go go = { .name_len = 0 };
    size_t n, i;

    if (take_string(&p, &len, &go.name, &go.name_len) < 0)
        return -EINVAL;
    if (len < 2)
        return -EINVAL;
    n = get_be16(p);
    if (len - 2 != 2 * n)
        return -EINVAL;
    for (i = 0; i < n; i++) {
        switch (get_be16(p + 2 + 2 * i)) {
        case NBD_INFO_NAME: go.want_name = true; break;
        case NBD_INFO_DESCRIPTION: go.want_description = true; break;
        case NBD_INFO_BLOCK_SIZE: go.want_block_size = true; break;
        default: break; /* "MUST ignore any … it does not understand" */
        }
    }
    *out = go;
    return 0;
}

static bool
text_is(const char *s, size_t n, const char *want)
{
    return n == strlen(want) && !memcmp(s, want, n);
}

int
nbd_opt_meta_decode(const uint8_t *p, size_t len, struct nbd_opt_meta *out)
{
    struct nbd_opt_meta m = { .name_len = 0 };
    const char *query;
    size_t query_len;
    uint32_t i;

    if (take_string(&p, &len, &m.name, &m.name_len) < 0)
        return -EINVAL;
    if (len < 4)
        return -EINVAL;
    m.queries = get_be32(p);
    p += 4;
    len -= 4;
    if (m.queries > len / 4)
        return -EINVAL;
    for (i = 0; i < m.queries; i++) {
        if (take_string(&p, &len, &query, &query_len) < 0)
            return -EINVAL;
        if (text_is(query, query_len, "base:"))
            m.base = true;
        else if (text_is(query, query_len, NBD_CONTEXT_ALLOCATION))
            m.allocation = true;
    }
    if (len)
        return -EINVAL;
    *out = m;
    return 0;
}

/* --- requests ----------------------------------------------------------- */

int
nbd_request_decode(const uint8_t p[NBD_REQUEST_SIZE], struct nbd_request *out)
{
    if (get_be32(p) != NBD_MAGIC_REQUEST)
        return -EPROTO;
    *out = (struct nbd_request){
        .flags = get_be16(p + 4),
        .type = get_be16(p + 6),
        .cookie = get_be64(p + 8),
        .off = get_be64(p + 16),
        .len = get_be32(p + 24),
    };
    return 0;
}

/* What each command is.  FUA is allowed on all of them: clients are known to
 * set it everywhere once it was offered. */
static const struct {
    unsigned flags;      /* allowed besides FUA */
    unsigned needs;      /* transmission flag that offers the command */
    bool changes;        /* refused on a read-only export */
    bool payload;        /* length is bounded by max_payload */
    bool no_range;       /* offset and length must be 0 */
    enum nbd_error past; /* the answer to a range beyond the end */
} commands[] = {
    [NBD_CMD_READ] = { .flags = NBD_CMD_FLAG_DF,
                       .payload = true,
                       .past = NBD_EINVAL },
    [NBD_CMD_WRITE] = { .changes = true, .payload = true, .past = NBD_ENOSPC },
    [NBD_CMD_DISC] = { .no_range = true, .past = NBD_EINVAL },
    [NBD_CMD_FLUSH] = { .needs = NBD_TX_SEND_FLUSH,
                        .no_range = true,
                        .past = NBD_EINVAL },
    [NBD_CMD_TRIM] = { .needs = NBD_TX_SEND_TRIM,
                       .changes = true,
                       .past = NBD_EINVAL },
    [NBD_CMD_CACHE] = { .needs = NBD_TX_SEND_CACHE, .past = NBD_EINVAL },
    [NBD_CMD_WRITE_ZEROES] = { .flags = NBD_CMD_FLAG_NO_HOLE |
                                        NBD_CMD_FLAG_FAST_ZERO,
                               .needs = NBD_TX_SEND_WRITE_ZEROES,
                               .changes = true,
                               .past = NBD_ENOSPC },
    [NBD_CMD_BLOCK_STATUS] = { .flags = NBD_CMD_FLAG_REQ_ONE,
                               .past = NBD_EINVAL },
};

static enum nbd_error
check_flags(const struct nbd_request *rq, const struct nbd_terms *t)
{
    unsigned ok = NBD_CMD_FLAG_FUA | commands[rq->type].flags;

    if (!(t->tx_flags & NBD_TX_SEND_FUA))
        ok &= ~(unsigned)NBD_CMD_FLAG_FUA;
    if (!(t->tx_flags & NBD_TX_SEND_DF))
        ok &= ~(unsigned)NBD_CMD_FLAG_DF;
    if (!(t->tx_flags & NBD_TX_SEND_FAST_ZERO))
        ok &= ~(unsigned)NBD_CMD_FLAG_FAST_ZERO;
    return rq->flags & ~ok ? NBD_EINVAL : NBD_SUCCESS;
}

enum nbd_error
nbd_request_check(const struct nbd_request *rq, const struct nbd_terms *t)
{
    unsigned needs;

    if (rq->type >= ARRAY_SIZE(commands))
        return NBD_EINVAL;
    if (commands[rq->type].changes && t->tx_flags & NBD_TX_READ_ONLY)
        return NBD_EPERM;
    needs = commands[rq->type].needs;
    if (needs && !(t->tx_flags & needs))
        return NBD_EINVAL;
    if (check_flags(rq, t) != NBD_SUCCESS)
        return NBD_EINVAL;
    if (commands[rq->type].no_range)
        return rq->off || rq->len ? NBD_EINVAL : NBD_SUCCESS;
    if (rq->type == NBD_CMD_BLOCK_STATUS && (!t->allocation || rq->len == 0))
        return NBD_EINVAL; /* no context chosen; or no extent could be named */
    if (!range_ok(rq->off, rq->len, t->size))
        return commands[rq->type].past;
    if ((rq->off | rq->len) & (t->block.min - 1))
        return NBD_EINVAL;
    if (commands[rq->type].payload && rq->len > t->block.max_payload)
        return rq->type == NBD_CMD_READ && t->structured ? NBD_EOVERFLOW
                                                         : NBD_EINVAL;
    return NBD_SUCCESS;
}

enum nbd_error
nbd_error_of(int num, const struct nbd_request *rq)
{
    switch (num < 0 ? -num : num) {
    case 0: return NBD_SUCCESS;
    case EPERM:
    case EACCES:
    case EROFS: return NBD_EPERM;
    case ENOMEM: return NBD_ENOMEM;
    case EINVAL: return NBD_EINVAL;
    case ENOSPC:
    case EDQUOT:
    case EFBIG: return NBD_ENOSPC;
    case EOVERFLOW: return NBD_EOVERFLOW;
    case EOPNOTSUPP: /* the protocol keeps this word for fast zeroing */
        return rq->flags & NBD_CMD_FLAG_FAST_ZERO ? NBD_ENOTSUP : NBD_EINVAL;
    case ECANCELED:
    case ESHUTDOWN: return NBD_ESHUTDOWN;
    default: return NBD_EIO;
    }
}

const char *
nbd_error_text(enum nbd_error e)
{
    switch (e) {
    case NBD_SUCCESS: break;
    case NBD_EPERM: return "the export is read-only";
    case NBD_EIO: return "the device failed";
    case NBD_ENOMEM: return "the server is out of memory";
    case NBD_EINVAL: return "bad command, flag, range or alignment";
    case NBD_ENOSPC: return "no space, or past the end of the export";
    case NBD_EOVERFLOW: return "longer than the maximum payload";
    case NBD_ENOTSUP: return "zeroing would not be fast";
    case NBD_ESHUTDOWN: return "the export is being closed";
    }
    return "";
}

/* --- replies ------------------------------------------------------------ */

size_t
nbd_simple_reply_encode(uint8_t *out, uint64_t cookie, enum nbd_error error)
{
    put_be32(out, NBD_MAGIC_SIMPLE);
    put_be32(out + 4, (uint32_t)error);
    put_be64(out + 8, cookie);
    return NBD_SIMPLE_REPLY_SIZE;
}

size_t
nbd_chunk_encode(uint8_t *out, enum nbd_reply_type type, uint64_t cookie,
                 uint32_t len)
{
    put_be32(out, NBD_MAGIC_STRUCTURED);
    put_be16(out + 4, NBD_REPLY_FLAG_DONE);
    put_be16(out + 6, (uint16_t)type);
    put_be64(out + 8, cookie);
    put_be32(out + 16, len);
    return NBD_CHUNK_SIZE;
}

size_t
nbd_data_chunk_encode(uint8_t *out, uint64_t cookie, uint64_t off,
                      uint32_t data_len)
{
    nbd_chunk_encode(out, NBD_REPLY_OFFSET_DATA, cookie, 8 + data_len);
    put_be64(out + NBD_CHUNK_SIZE, off);
    return NBD_CHUNK_SIZE + 8;
}

size_t
nbd_hole_chunk_encode(uint8_t *out, uint64_t cookie, uint64_t off,
                      uint32_t hole_len)
{
    nbd_chunk_encode(out, NBD_REPLY_OFFSET_HOLE, cookie, 12);
    put_be64(out + NBD_CHUNK_SIZE, off);
    put_be32(out + NBD_CHUNK_SIZE + 8, hole_len);
    return NBD_CHUNK_SIZE + 12;
}

size_t
nbd_status_chunk_encode(uint8_t *out, uint64_t cookie, uint32_t context,
                        uint32_t n)
{
    nbd_chunk_encode(out, NBD_REPLY_BLOCK_STATUS, cookie,
                     4 + n * NBD_EXTENT_SIZE);
    put_be32(out + NBD_CHUNK_SIZE, context);
    return NBD_CHUNK_SIZE + 4;
}

void
nbd_extent_encode(uint8_t out[NBD_EXTENT_SIZE], uint32_t len, uint32_t state)
{
    put_be32(out, len);
    put_be32(out + 4, state);
}

size_t
nbd_error_chunk_encode(uint8_t *out, uint64_t cookie, enum nbd_error error)
{
    const char *text = nbd_error_text(error);
    size_t n = MIN(strlen(text), (size_t)NBD_REPLY_MESSAGE_MAX);

    nbd_chunk_encode(out, NBD_REPLY_ERROR, cookie, (uint32_t)(6 + n));
    put_be32(out + NBD_CHUNK_SIZE, (uint32_t)error);
    put_be16(out + NBD_CHUNK_SIZE + 4, (uint16_t)n);
    /* NOLINTNEXTLINE(bugprone-not-null-terminated-result): no NUL is sent */
    memcpy(out + NBD_CHUNK_SIZE + 6, text, n);
    return NBD_CHUNK_SIZE + 6 + n;
}
