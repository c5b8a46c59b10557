/* Frames and messages of the stream between replicators.
 * docs/formats/stream.md has the byte tables.  Pure: values in, values out.
 *
 * A frame is a 40-byte header and a body of at most 4 MiB.  The lane field is
 * the handle that the lane's source chose in LANE_OPEN; it is meaningful only
 * within one link and direction.  Every frame of a lane carries the VPG's
 * fencing epoch.
 */
#ifndef HOLDFAST_STREAM_FRAME_H
#define HOLDFAST_STREAM_FRAME_H

#include "lane/batch.h"

enum {
    FRAME_HDR_SIZE = 40,
    FRAME_BODY_MAX = BATCH_SIZE_MAX,
    FRAME_CONTROL_BODY_MAX = 64 * 1024, /* on the control connection */
    STREAM_VERSION = 1,
};
#define FRAME_MAGIC 0x74734648u /* "HFst" on the wire */

/* Numbers are never reused; those without a struct below are kept for the
 * releases that bring them and refused until then. */
enum frame_type {
    FRAME_HELLO = 1,
    FRAME_HELLO_ACK = 2,
    FRAME_LANE_OPEN = 3,
    FRAME_LANE_STATE = 4,
    FRAME_BATCH = 5,   /* body: the batch verbatim; id: its number */
    FRAME_DURABLE = 6, /* no body; id: batch_no, cumulative */
    FRAME_CREDIT = 7,  /* no body; id: bytes beyond the last DURABLE */
    FRAME_SYNC_DATA = 8,
    FRAME_SYNC_DONE = 9, /* no body; id: every sync id up to here is durable */
    FRAME_SYNC_AGAIN = 10, /* no body; id: read this one again */
    FRAME_CUT_PREPARE = 11,
    FRAME_CUT_READY = 12,
    FRAME_CUT_RELEASE = 13,
    FRAME_CUT_DONE = 14,
    FRAME_CUT_ABORT = 15,
    FRAME_CUT_COMMIT = 16,
    FRAME_CUT_STATE = 17,
    FRAME_NEED = 18,
    FRAME_RANGES_REQ = 19,
    FRAME_RANGES = 20,
    FRAME_INCARNATION = 21,
    FRAME_GEOMETRY = 22,
    FRAME_TAG = 23,
    FRAME_LEASE = 24,
    FRAME_FENCE = 25,
    FRAME_PING = 26, /* no body; id comes back in PONG */
    FRAME_ERROR = 27,
    FRAME_BYE = 28,
    FRAME_PONG = 29,
    FRAME_LANE_STATUS = 30,
    FRAME_LANE_CLOSE = 31, /* no body: the source leaves; the target may go */
    FRAME_CUT_AGE = 32, /* no body; id: cut number, term: its age in ns now */
};

enum frame_flags {
    FRAME_TO_SOURCE = 1 << 0, /* lane names a lane whose source is the reader */
};

struct frame {
    uint8_t type;
    uint16_t flags;
    uint32_t lane;
    uint32_t body_len;
    uint64_t id;
    uint64_t term;  /* data frames: first 8 bytes of the incarnation */
    uint32_t epoch; /* fencing epoch of the VPG; 0 on frames of no VPG */
};

void frame_encode(const struct frame *f, uint8_t out[FRAME_HDR_SIZE]);
/* -ENODATA, -EBADMSG, -EPROTONOSUPPORT (another version: *out_version says
 * which, may be NULL), -EMSGSIZE. */
int frame_decode(const uint8_t *p, size_t len, struct frame *out,
                 uint8_t *out_version);

/* --- bodies ------------------------------------------------------------- */

enum link_kind {
    LINK_CONTROL = 0,
    LINK_DATA = 1
};

struct msg_hello {                    /* HELLO and HELLO_ACK */
    uint8_t version_min, version_max; /* spoken by the sender */
    uint8_t kind;                     /* enum link_kind */
    uint32_t features;                /* bits 0..15 may be ignored by a peer
                                       * that does not know them, 16..31 not */
    struct agent_id agent, peer;      /* who speaks, whom it expects */
    uint64_t session; /* joins the two connections of one link */
    uint64_t wall_ns;
    uint8_t ok; /* HELLO_ACK: 1, or 0 with text */
    char text[200];
};

struct msg_volume {
    uint16_t vol;
    uint64_t size;
};

enum lane_open_flags {
    LANE_OPEN_EXACT = 1 << 0, /* prev_last_batch was durable: nothing missing */
    LANE_OPEN_SYNCED = 1 << 1,    /* an initial sync has once been completed */
    LANE_OPEN_OVERWRITE = 1 << 2, /* the operator gave up the points offered */
};

struct msg_lane_open {
    struct vpg_id vpg;
    uint32_t lane;
    struct incarnation_id incarnation, prev_incarnation;
    uint64_t prev_last_batch;
    struct generation_id generation;
    uint64_t oldest_batch, last_batch, durable_seen;
    uint32_t flags;
    uint16_t n_volumes;
    struct msg_volume volumes[LANE_VOLUMES_MAX];
};

enum lane_verdict {
    VERDICT_RESUME = 1, /* send from durable_batch + 1 */
    VERDICT_VERIFY = 2, /* as RESUME, then resync everything in-band */
    VERDICT_DELTA = 3,
    VERDICT_FULL = 4, /* nothing here: initial sync */
    VERDICT_HOLD = 5, /* not now; text says why; ask again */
    VERDICT_SPLIT_BRAIN = 6,
    VERDICT_FENCED = 7,  /* a higher epoch is known */
    VERDICT_REFUSED = 8, /* text says why: unknown VPG, other sizes... */
};

struct msg_lane_state {
    uint8_t verdict;
    struct incarnation_id incarnation; /* known */
    uint64_t durable_batch;
    uint8_t digest[16];
    struct generation_id generation;
    uint32_t membership_epoch, fencing_epoch;
    uint64_t credit;
    char code[12]; /* stable error code, or "" */
    char text[400];
};

enum {
    SYNC_DATA_HDR_SIZE = 48,
    SYNC_DATA_MAX = 1024 * 1024
};

struct msg_sync_data { /* frame.id: sync id, rising by 1 from 1 in a link */
    uint16_t vol;
    uint8_t zero;  /* 1: no data, the range reads as zeros */
    uint8_t codec; /* enum chunk_codec; other than STORED: raw <= 64 KiB */
    uint64_t off, len;
    uint64_t after_seq;
    uint32_t crc;        /* of the raw data */
    uint32_t stored_len; /* bytes that follow */
};

struct msg_lane_status { /* source to target, about once a second */
    uint8_t state;       /* enum sender_state */
    uint8_t progress;    /* percent, 255: none */
    uint64_t lag_bytes, lag_ns;
    uint64_t sync_total, sync_done;
};

struct msg_error { /* ERROR, BYE */
    char code[12];
    char text[400];
};

size_t msg_hello_encode(const struct msg_hello *m, uint8_t *out);
int msg_hello_decode(const uint8_t *p, size_t len, struct msg_hello *out);
size_t msg_lane_open_encode(const struct msg_lane_open *m, uint8_t *out);
int
msg_lane_open_decode(const uint8_t *p, size_t len, struct msg_lane_open *out);
size_t msg_lane_state_encode(const struct msg_lane_state *m, uint8_t *out);
int
msg_lane_state_decode(const uint8_t *p, size_t len, struct msg_lane_state *out);
size_t msg_sync_data_encode(const struct msg_sync_data *m, uint8_t *out);
int
msg_sync_data_decode(const uint8_t *p, size_t len, struct msg_sync_data *out);
size_t msg_lane_status_encode(const struct msg_lane_status *m, uint8_t *out);
int msg_lane_status_decode(const uint8_t *p, size_t len,
                           struct msg_lane_status *out);
size_t msg_error_encode(const struct msg_error *m, uint8_t *out);
int msg_error_decode(const uint8_t *p, size_t len, struct msg_error *out);

/* Room that the largest encoded control body needs. */
enum {
    MSG_BODY_MAX = 256 + LANE_VOLUMES_MAX * 10 + 512
};

#endif
