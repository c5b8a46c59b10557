/* The stream: links to other replicators, and the lanes that cross them.
 *
 * A link is two connections to one peer, control and data, both dialled by the
 * same side; which side dials is configured per pair, so one open port at one
 * site is enough.  A link is up when both have exchanged HELLO; when either
 * breaks, both are closed and dialled again with back-off.  Control messages
 * never queue behind bulk.
 *
 * sender    the source end of a lane: takes batches from its capture, keeps to
 *           the credit, reports DURABLE back, makes the cuts, and runs syncs:
 *           straight (initial) or in-band (after a collapse or unclean stop)
 * receiver  the target end: hands batches to its journal, answers DURABLE and
 *           CREDIT, applies straight writes
 *
 * Both may live on either side of a link at once.  Loop's thread only.
 */
#ifndef HOLDFAST_STREAM_STREAM_H
#define HOLDFAST_STREAM_STREAM_H

#include "capture/capture.h"
#include "capture/lane_super.h"
#include "io/chan.h"
#include "journal/journal.h"
#include "stream/frame.h"

struct stream;
struct stream_peer;
struct sender;
struct receiver;

struct stream_config {
    struct io_loop *loop;
    struct agent_id self;
    struct tls_ctx *client_tls, *server_tls; /* NULL: plain, tests only */
    uint64_t dead_ns;       /* silence after which a link is dead; 0: 15 s */
    uint64_t redial_max_ns; /* back-off's ceiling; 0: 10 s */
    uint64_t rx_turn;       /* bytes of one connection in a turn; 0: 4 MiB */
};

int stream_new(const struct stream_config *cfg, struct stream **out,
               struct err *err);
void stream_free(struct stream *s); /* senders, receivers, peers are gone */
int stream_listen(struct stream *s, const struct io_addr *addr,
                  struct io_addr *out_bound, struct err *err);
void
stream_set_tls(struct stream *s, struct tls_ctx *client, struct tls_ctx *server);

/* Trust has changed: cut every link whose certificate no longer passes. */
void stream_recheck(struct stream *s);

struct stream_peer_config {
    struct agent_id agent; /* must be the certified identity, too */
    bool dial;
    struct io_addr addr; /* when dial */
};

/* A peer is shared by all lanes to it; the same agent again returns the known
 * one with its address updated.  Reference-counted. */
int stream_peer_get(struct stream *s, const struct stream_peer_config *cfg,
                    struct stream_peer **out, struct err *err);
void stream_peer_put(struct stream_peer *p);
/* Cut the link now (trust was withdrawn); it is dialled again. */
void stream_peer_cut(struct stream_peer *p, const char *why);

enum stream_peer_state {
    PEER_LISTENING, /* waiting to be dialled */
    PEER_CONNECTING,
    PEER_UP,
};
struct stream_peer_status {
    enum stream_peer_state state;
    uint64_t rtt_ns; /* 0: not measured */
    char error[300]; /* why the last try failed, "" when up */
};
void
stream_peer_status(const struct stream_peer *p, struct stream_peer_status *out);

/* --- the source end ----------------------------------------------------- */

enum sender_state {
    SENDER_CONNECTING = 0, /* no link, or LANE_OPEN not answered */
    SENDER_INITIAL = 1,    /* straight writes */
    SENDER_STREAMING = 2,
    SENDER_RESYNC = 3,    /* in-band */
    SENDER_COLLAPSED = 4, /* ring full: a resync will follow */
    SENDER_PAUSED = 5,
    SENDER_REFUSED = 6, /* fenced, split brain, other sizes...: see err */
};

enum sender_compression {
    COMPRESS_AUTO, /* only while the link is the bottleneck */
    COMPRESS_OFF,
    COMPRESS_LZ4,
    COMPRESS_ZSTD,
};

struct sender_config {
    struct stream *stream;
    struct stream_peer *peer; /* a reference is taken */
    struct capture *capture;  /* attached; the sender's until it is stopped */
    const char *super_path;   /* lane.super, stored by the sender */
    struct lane_super super;  /* as loaded or made; clean is false by now */
    bool exact;               /* the start was clean and nothing changed */
    uint64_t cut_interval_ns;
    enum sender_compression compression;
    uint64_t volume_sizes[80]; /* by position in super.volumes */
    /* The target has lost what it had acknowledged: the lane must be started
     * anew, with a new incarnation and a new capture.  Called from a timer; the
     * sender may be stopped inside. */
    void (*restart)(void *arg);
    void *arg;
};

/* The capture's first entry is the INCARNATION already, its volumes are
 * attached. */
int sender_start(const struct sender_config *cfg, struct sender **out,
                 struct err *err);
/* Stop and forget.  stopped(arg), perhaps before the call returns: no read of a
 * sync is under way, and the capture may be freed. */
void sender_stop(struct sender *s, void (*stopped)(void *arg), void *arg);
/* The capture's wake() must come here. */
void sender_wake(struct sender *s);
/* Orderly: no further cut; wait (at most deadline_ns) until everything in the
 * ring is durable, then done(arg, drained).  The caller then detaches, and if
 * drained stores lane.super with clean set, from sender_super(). */
void sender_drain(struct sender *s, uint64_t deadline_ns,
                  void (*done)(void *arg, bool drained), void *arg);
const struct lane_super *sender_super(const struct sender *s);
void sender_set_interval(struct sender *s, uint64_t cut_interval_ns);
void sender_set_compression(struct sender *s, enum sender_compression c);
/* Resync everything in-band; with overwrite the points at the other site are
 * given up first, so that the journal can be emptied while it runs. */
void sender_force_sync(struct sender *s, bool overwrite);

/* A checkpoint now.  -EAGAIN during a sync (err tells the progress). */
int sender_cut(struct sender *s, enum cut_kind kind, uint8_t consistency,
               const char *tag, uint64_t *out_cut_no, uint64_t *out_wall_ns,
               struct err *err);

struct sender_status {
    enum sender_state state;
    bool link_up;
    struct err err; /* REFUSED, or what the last try said */
    bool syncing;
    uint8_t sync_reason;            /* enum resync_reason, while syncing */
    uint64_t sync_total, sync_done; /* bytes */
    uint64_t lag_bytes, lag_ns;
    uint64_t newest_cut, newest_cut_wall_ns;
    uint64_t durable_cut, durable_cut_wall_ns;
    struct capture_stats capture;
};
void sender_status(const struct sender *s, struct sender_status *out);

/* --- the target end ----------------------------------------------------- */

struct receiver_config {
    struct stream *stream;
    struct stream_peer *peer; /* the only one that may open the lane */
    struct journal *journal;  /* open; its events must be passed on by
                               * receiver_durable() and receiver_credit() */
    struct vpg_id vpg;
    uint32_t lane;
    uint32_t fencing_epoch; /* lowest accepted; the journal may know higher */
    struct generation_id generation; /* nil: take the source's */
    struct msg_volume volumes[LANE_VOLUMES_MAX];
    unsigned n_volumes;
};

int receiver_start(const struct receiver_config *cfg, struct receiver **out,
                   struct err *err);
/* stopped(arg): straight writes in flight have ended; the journal may close. */
void receiver_stop(struct receiver *r, void (*stopped)(void *arg), void *arg);
/* From the journal's events. */
void receiver_durable(struct receiver *r, uint64_t batch_no);
void receiver_credit(struct receiver *r);

struct receiver_status {
    bool open, link_up;   /* open: a source has been admitted */
    uint8_t source_state; /* enum sender_state, as it last said */
    uint8_t progress;     /* percent, 255: none */
    uint64_t sync_total, sync_done;
    bool has_rpo;
    uint64_t rpo_ns; /* age of the newest durable checkpoint */
    uint64_t received_bytes, batches, sync_bytes;
    struct err err; /* why the last source was refused or cut */
};
void receiver_status(const struct receiver *r, struct receiver_status *out);

#endif
