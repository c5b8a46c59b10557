/* Inside the stream room: what link.c, link_receive.c, sender.c, sync.c and
 * receiver.c share.
 *
 * Life of a link (struct stream_peer):
 *
 *   DOWN ── dial, or be dialled ──▶ two connections, HELLO on each
 *    ▲                                   │ both answered
 *    │ either breaks, silence, bad frame ▼
 *    └────────────────────────────────── UP: senders open their lanes
 *
 * Frames of the data connection are pulled from the senders one at a time, in
 * turn, so that no lane starves another; control frames are small and queued.
 */
#ifndef HOLDFAST_STREAM_LINK_H
#define HOLDFAST_STREAM_LINK_H

#include "common/buf.h"
#include "stream/frame.h"
#include "stream/stream.h"

enum {
    LINK_RX_TURN = 4 * 1024 * 1024,       /* bytes read in one event */
    LINK_TX_TURN = 4 * 1024 * 1024,       /* bytes written in one event */
    LINK_CONTROL_QUEUE_MAX = 1024 * 1024, /* beyond it the link is broken */
    LINK_HALF_OPEN_MAX = 64,              /* accepted, not yet part of a link */
    LINK_SAID_MAX = 16,                   /* refusals logged once each */
    SYNC_WINDOW = 256, /* straight writes beyond the last SYNC_DONE */
};

/* One frame on its way out on the data connection. */
struct tx_frame {
    uint8_t head[2 * FRAME_HDR_SIZE + SYNC_DATA_HDR_SIZE];
    struct iovec iov[CAPTURE_BATCH_IOV_MAX + 2];
    unsigned n, pos;
    struct sender *owner; /* whose memory it borrows */
    /* All bytes are with the transport; may be NULL. */
    void (*sent)(struct sender *owner);
    void *buf; /* of io_mem_alloc(), the frame's own; may be NULL */
    size_t buf_size;
};

enum conn_state {
    CONN_OPENING,
    CONN_HELLO,
    CONN_UP
};

struct conn {
    struct list link; /* stream.half_open while peer is NULL */
    struct stream *stream;
    struct stream_peer *peer;
    struct io_chan *ch;
    enum conn_state state;
    enum link_kind kind;
    bool dialled;
    struct io_timer deadline; /* until the link is up */
    /* A frame came before the other connection was up: it waits for that. */
    bool parked;
    struct io_task resume;
    /* receiving */
    uint8_t hdr[FRAME_HDR_SIZE];
    size_t hdr_have;
    struct frame frame;
    bool in_body;
    uint8_t small[MSG_BODY_MAX + SYNC_DATA_HDR_SIZE];
    size_t small_len, small_have; /* the part of the body kept in small */
    uint8_t *mem;                 /* the rest, page-aligned */
    size_t mem_len, mem_have, mem_size;
    /* sending: queued bytes, then (data) the current frame */
    struct buf out;
    struct tx_frame *tx; /* data connection only */
    bool tx_busy;
    uint64_t blocked_since; /* the transport is full; 0: it is not */
};

struct stream_peer {
    struct list link; /* stream.peers */
    struct stream *stream;
    struct stream_peer_config cfg;
    unsigned refs;
    bool up;
    struct conn *conn[2]; /* by enum link_kind */
    uint64_t session;
    uint64_t last_rx_ns, rtt_ns, up_since_ns;
    uint64_t blocked_ns; /* sum of ended waits for the transport */
    uint64_t tx_bytes;
    struct io_timer redial, ping;
    struct io_task pump;
    uint64_t backoff_ns;
    char error[300];
    struct list senders, receivers; /* sender.link, receiver.link */
    uint32_t next_handle;
    /* VPGs of this link whose refusal has been logged. */
    struct vpg_id said[LINK_SAID_MAX];
    unsigned said_n;
};

struct stream {
    struct stream_config cfg;
    struct io_loop *loop;
    struct io_listener *listener;
    struct list peers, half_open;
    unsigned n_half_open;
    struct conn *receiving; /* whose frame is being handled; NULL once freed */
    char refused[200];      /* the last refusal that was logged */
};

/* Queue a control frame with its body; nothing happens when the link is down
 * (its end tells everyone anyway). */
void
link_control(struct stream_peer *p, const struct frame *f, const uint8_t *body);
/* A sender may have a frame: look soon. */
void link_kick(struct stream_peer *p);
/* How long the data connection has kept us waiting, in all. */
uint64_t link_blocked_ns(const struct stream_peer *p);
/* Bytes that the transport of the data connection has not sent yet. */
uint64_t link_unsent(const struct stream_peer *p);
/* A handle that no frame under way carries. */
uint32_t link_handle(struct stream_peer *p);
void link_break(struct stream_peer *p, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* Between link.c and link_receive.c. */
void conn_free(struct conn *c);
/* Write what is queued; 0, -EAGAIN (WRITABLE wanted), or broken. */
int conn_flush_queue(struct conn *c);
int
conn_send_hello(struct conn *c, enum frame_type type, bool ok, const char *text);
void conn_want(struct conn *c, bool write); /* wake for reading, or both */
void link_up(struct stream_peer *p);        /* both connections are */
void conn_event(void *arg, struct io_chan *ch, unsigned events);
void conn_receive(struct conn *c);

/* sender.c, called by link.c */
void sender_link_up(struct sender *s);
void sender_link_down(struct sender *s);
bool sender_fill(struct sender *s, struct tx_frame *tx); /* false: nothing now */
struct sender *sender_by_handle(struct stream_peer *p, uint32_t handle);
void sender_on_lane_state(struct sender *s, const struct frame *f,
                          const struct msg_lane_state *m);
void sender_on_durable(struct sender *s, const struct frame *f);
void sender_on_credit(struct sender *s, const struct frame *f);
void sender_on_sync_done(struct sender *s, const struct frame *f);
void sender_on_sync_again(struct sender *s, const struct frame *f);
void sender_on_error(struct sender *s, const struct msg_error *m);
struct sender *sender_of_link(struct list *l);

/* receiver.c, called by link.c */
void receiver_link_up(struct receiver *r);
void receiver_link_down(struct receiver *r);
struct receiver *receiver_by_handle(struct stream_peer *p, uint32_t handle);
/* Admit or refuse a source; answers LANE_STATE itself.  -EBADMSG: the handle
 * is that of another open lane. */
int receiver_on_lane_open(struct stream_peer *p, const struct frame *f,
                          const struct msg_lane_open *m);
/* mem is taken over. */
void receiver_on_batch(struct receiver *r, const struct frame *f, void *mem,
                       size_t size, size_t mem_size);
void receiver_on_sync_data(struct receiver *r, const struct frame *f,
                           const struct msg_sync_data *m, void *mem,
                           size_t mem_size);
void
receiver_on_lane_status(struct receiver *r, const struct msg_lane_status *m);
void receiver_on_cut_age(struct receiver *r, const struct frame *f);
/* Also in the middle of its admission. */
void receivers_on_lane_close(struct stream_peer *p, uint32_t handle);
struct receiver *receiver_of_link(struct list *l);

/* --- a running sync (sync.c), owned by a sender ------------------------- */

enum {
    SYNC_PIECE = 256 * 1024, /* straight data ranges */
    SYNC_INBAND_PIECE = 512 * 1024,
    SYNC_RANGES = 64, /* unconfirmed straight ranges */
    SYNC_READS = 8,   /* reads under way */
    SYNC_EXTENTS = 64,
};

enum range_state {
    RANGE_FREE,
    RANGE_TODO,
    RANGE_READING,
    RANGE_READY,
    RANGE_SENT
};

struct sync_range {
    struct sync *sync;
    enum range_state state;
    bool drop; /* the sync ended while it was being read */
    bool hole; /* read it whole, as zeros, while it is one */
    uint16_t vol;
    uint64_t off, len;
    uint64_t piece; /* read at most so much at once; smaller after an error */
    uint64_t id;    /* of the last send */
    struct capture_read rq;
    void *buf; /* SYNC_PIECE bytes while READING or READY */
};

struct sync {
    struct io_loop *loop;
    struct capture *capture;
    bool active, straight;
    unsigned n_volumes, vi;
    uint16_t vols[80];
    uint64_t sizes[80];
    uint64_t cursor; /* in volume vi: everything below is a range or done */
    struct blkdev_req ext_rq;
    struct blkdev_extent ext[SYNC_EXTENTS];
    uint64_t ext_off; /* where ext[ext_i] begins */
    size_t ext_n, ext_i;
    bool ext_pending, ext_abandoned;
    struct sync_range range[SYNC_RANGES];
    unsigned reading, ready, busy; /* ranges: being read; read; not FREE */
    uint64_t next_id, confirmed;   /* of the lane's opening, over all syncs */
    uint64_t total, done;
    struct io_timer retry;
    struct io_task kick;
    /* There may be a range to send, or the sync has finished, or no read is
     * under way any more.  From a task, so never inside a call. */
    void (*wake)(void *arg);
    void *arg;
};

void sync_init(struct sync *y, struct io_loop *loop, struct capture *capture,
               void (*wake)(void *arg), void *arg);
void sync_begin(struct sync *y, bool straight, const uint16_t *vols,
                const uint64_t *sizes, unsigned n);
/* Make progress: start reads.  Cheap; call at every wake. */
void sync_run(struct sync *y);
/* Everything is in the lane (in-band) or confirmed (straight). */
bool sync_finished(const struct sync *y);
void sync_abort(struct sync *y);
/* No read is under way, so the struct may go after sync_release(). */
bool sync_idle(const struct sync *y);
void sync_release(struct sync *y);
/* straight: a range that has been read, to be sent now; NULL: none.  Its buffer
 * (SYNC_PIECE bytes; NULL: zeros) is the caller's from here on. */
struct sync_range *sync_next(struct sync *y, void **out_buf);
void sync_confirmed(struct sync *y, uint64_t id); /* all up to id */
void sync_again(struct sync *y, uint64_t id);
/* The lane is opened anew: unconfirmed ranges once more, ids from 1. */
void sync_reopen(struct sync *y);

#endif
