/* The NBD protocol's messages: every constant, one encoder or decoder each, and
 * the rules that decide whether a request is allowed.  Pure: no I/O, no
 * allocation.  Source: NBD project, doc/proto.md; what of it we serve is in
 * docs/formats/nbd.md.  All numbers on the wire are big-endian.
 */
#ifndef HOLDFAST_NBD_PROTO_H
#define HOLDFAST_NBD_PROTO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NBD_MAGIC_INIT       0x4e42444d41474943ULL /* "NBDMAGIC" */
#define NBD_MAGIC_OPTION     0x49484156454f5054ULL /* "IHAVEOPT" */
#define NBD_MAGIC_OPT_REPLY  0x0003e889045565a9ULL
#define NBD_MAGIC_REQUEST    0x25609513U
#define NBD_MAGIC_SIMPLE     0x67446698U
#define NBD_MAGIC_STRUCTURED 0x668e33efU

enum nbd_handshake_flags {
    NBD_FLAG_FIXED_NEWSTYLE = 1 << 0,
    NBD_FLAG_NO_ZEROES = 1 << 1,
};

enum nbd_opt {
    NBD_OPT_EXPORT_NAME = 1,
    NBD_OPT_ABORT = 2,
    NBD_OPT_LIST = 3,
    NBD_OPT_STARTTLS = 5,
    NBD_OPT_INFO = 6,
    NBD_OPT_GO = 7,
    NBD_OPT_STRUCTURED_REPLY = 8,
    NBD_OPT_LIST_META_CONTEXT = 9,
    NBD_OPT_SET_META_CONTEXT = 10,
};

#define NBD_REP_ACK          1U
#define NBD_REP_SERVER       2U
#define NBD_REP_INFO         3U
#define NBD_REP_META_CONTEXT 4U
#define NBD_REP_ERR_UNSUP    0x80000001U
#define NBD_REP_ERR_POLICY   0x80000002U
#define NBD_REP_ERR_INVALID  0x80000003U
#define NBD_REP_ERR_TLS_REQD 0x80000005U
#define NBD_REP_ERR_UNKNOWN  0x80000006U
#define NBD_REP_ERR_TOO_BIG  0x80000009U

enum nbd_info {
    NBD_INFO_EXPORT = 0,
    NBD_INFO_NAME = 1,
    NBD_INFO_DESCRIPTION = 2,
    NBD_INFO_BLOCK_SIZE = 3,
};

enum nbd_tx_flags { /* "transmission flags" */
    NBD_TX_HAS_FLAGS = 1 << 0,
    NBD_TX_READ_ONLY = 1 << 1,
    NBD_TX_SEND_FLUSH = 1 << 2,
    NBD_TX_SEND_FUA = 1 << 3,
    NBD_TX_ROTATIONAL = 1 << 4,
    NBD_TX_SEND_TRIM = 1 << 5,
    NBD_TX_SEND_WRITE_ZEROES = 1 << 6,
    NBD_TX_SEND_DF = 1 << 7,
    NBD_TX_CAN_MULTI_CONN = 1 << 8,
    NBD_TX_SEND_CACHE = 1 << 10,
    NBD_TX_SEND_FAST_ZERO = 1 << 11,
};

enum nbd_cmd {
    NBD_CMD_READ = 0,
    NBD_CMD_WRITE = 1,
    NBD_CMD_DISC = 2,
    NBD_CMD_FLUSH = 3,
    NBD_CMD_TRIM = 4,
    NBD_CMD_CACHE = 5,
    NBD_CMD_WRITE_ZEROES = 6,
    NBD_CMD_BLOCK_STATUS = 7,
};

enum nbd_cmd_flags {
    NBD_CMD_FLAG_FUA = 1 << 0,
    NBD_CMD_FLAG_NO_HOLE = 1 << 1,
    NBD_CMD_FLAG_DF = 1 << 2,
    NBD_CMD_FLAG_REQ_ONE = 1 << 3,
    NBD_CMD_FLAG_FAST_ZERO = 1 << 4,
};

enum nbd_reply_type {
    NBD_REPLY_NONE = 0,
    NBD_REPLY_OFFSET_DATA = 1,
    NBD_REPLY_OFFSET_HOLE = 2,
    NBD_REPLY_BLOCK_STATUS = 5,
    NBD_REPLY_ERROR = 0x8001,
};
enum {
    NBD_REPLY_FLAG_DONE = 1 << 0
};

enum nbd_error {
    NBD_SUCCESS = 0,
    NBD_EPERM = 1,
    NBD_EIO = 5,
    NBD_ENOMEM = 12,
    NBD_EINVAL = 22,
    NBD_ENOSPC = 28,
    NBD_EOVERFLOW = 75,
    NBD_ENOTSUP = 95,
    NBD_ESHUTDOWN = 108,
};

enum nbd_state {
    NBD_STATE_HOLE = 1 << 0,
    NBD_STATE_ZERO = 1 << 1
};

/* Sizes and limits. */
enum {
    NBD_GREETING_SIZE = 18,
    NBD_CLIENT_FLAGS_SIZE = 4,
    NBD_OPTION_SIZE = 16,
    NBD_OPT_REPLY_SIZE = 20,
    NBD_INFO_EXPORT_SIZE = 12,
    NBD_INFO_BLOCK_SIZE_SIZE = 14,
    NBD_EXPORT_NAME_REPLY_SIZE = 10,
    NBD_EXPORT_NAME_ZEROES = 124,
    NBD_REQUEST_SIZE = 28,
    NBD_SIMPLE_REPLY_SIZE = 16,
    NBD_CHUNK_SIZE = 20,
    NBD_EXTENT_SIZE = 8,
    NBD_STRING_MAX = 4096, /* of any string, doc/proto.md "Conventions" */
    NBD_PAYLOAD_MAX = 32 << 20,
    NBD_DRAIN_MAX = 64 << 20, /* a refused write's payload up to this is read
                               * and thrown away; a longer one closes */
    NBD_MIN_BLOCK_MAX = 64 << 10,
    NBD_REPLY_MESSAGE_MAX = 63,
    /* The longest header of a reply, everything but data: an error chunk. */
    NBD_REPLY_HEADER_MAX = NBD_CHUNK_SIZE + 6 + NBD_REPLY_MESSAGE_MAX,
};

/* --- negotiation -------------------------------------------------------- */

struct nbd_option {
    uint32_t type, len;
};

struct nbd_block_size {
    uint32_t min, pref, max_payload;
};

void nbd_greeting_encode(uint8_t out[NBD_GREETING_SIZE], unsigned flags);
/* -EPROTO for a bit that the greeting did not offer. */
int nbd_client_flags_decode(const uint8_t p[NBD_CLIENT_FLAGS_SIZE],
                            unsigned offered, unsigned *out_flags);
/* -EPROTO: wrong magic; there is no way to find the next option. */
int nbd_option_decode(const uint8_t p[NBD_OPTION_SIZE], struct nbd_option *out);
void nbd_opt_reply_encode(uint8_t out[NBD_OPT_REPLY_SIZE], uint32_t option,
                          uint32_t type, uint32_t len);
void nbd_info_export_encode(uint8_t out[NBD_INFO_EXPORT_SIZE], uint64_t size,
                            uint16_t tx_flags);
void nbd_info_block_size_encode(uint8_t out[NBD_INFO_BLOCK_SIZE_SIZE],
                                const struct nbd_block_size *bs);
void nbd_export_name_reply_encode(uint8_t out[NBD_EXPORT_NAME_REPLY_SIZE],
                                  uint64_t size, uint16_t tx_flags);

/* The data of INFO and GO; name is borrowed from p. */
struct nbd_opt_go {
    const char *name;
    size_t name_len;
    bool want_name, want_description, want_block_size;
};
/* 0, or -EINVAL for anything that does not add up. */
int nbd_opt_go_decode(const uint8_t *p, size_t len, struct nbd_opt_go *out);

/* The data of LIST_META_CONTEXT and SET_META_CONTEXT. */
struct nbd_opt_meta {
    const char *name;
    size_t name_len;
    uint32_t queries;
    bool base;       /* some query is "base:" */
    bool allocation; /* some query is "base:allocation" */
};
int nbd_opt_meta_decode(const uint8_t *p, size_t len, struct nbd_opt_meta *out);
#define NBD_CONTEXT_ALLOCATION "base:allocation"
enum {
    NBD_CONTEXT_ALLOCATION_ID = 1
};

/* --- transmission ------------------------------------------------------- */

struct nbd_request {
    uint16_t flags, type;
    uint64_t cookie, off;
    uint32_t len;
};

/* -EPROTO: wrong magic. */
int
nbd_request_decode(const uint8_t p[NBD_REQUEST_SIZE], struct nbd_request *out);

/* What was agreed with the client, and the export's shape. */
struct nbd_terms {
    uint64_t size;
    struct nbd_block_size block;
    uint16_t tx_flags;
    bool structured, allocation;
};

/* May this request run?  NBD_SUCCESS, or the error to answer with.  A length
 * of 0 is allowed where it can mean "nothing to do". */
enum nbd_error
nbd_request_check(const struct nbd_request *rq, const struct nbd_terms *t);

/* A device's negative errno as the protocol names it. */
enum nbd_error nbd_error_of(int num, const struct nbd_request *rq);
/* A sentence for the client's user; at most NBD_REPLY_MESSAGE_MAX bytes. */
const char *nbd_error_text(enum nbd_error e);

size_t
nbd_simple_reply_encode(uint8_t *out, uint64_t cookie, enum nbd_error error);
/* A chunk header, DONE set; len: bytes of payload that follow it. */
size_t nbd_chunk_encode(uint8_t *out, enum nbd_reply_type type, uint64_t cookie,
                        uint32_t len);
/* Header and offset; data_len bytes of data follow. */
size_t nbd_data_chunk_encode(uint8_t *out, uint64_t cookie, uint64_t off,
                             uint32_t data_len);
size_t nbd_hole_chunk_encode(uint8_t *out, uint64_t cookie, uint64_t off,
                             uint32_t hole_len);
/* Header and context id; n extents follow. */
size_t nbd_status_chunk_encode(uint8_t *out, uint64_t cookie, uint32_t context,
                               uint32_t n);
void
nbd_extent_encode(uint8_t out[NBD_EXTENT_SIZE], uint32_t len, uint32_t state);
size_t
nbd_error_chunk_encode(uint8_t *out, uint64_t cookie, enum nbd_error error);

#endif
