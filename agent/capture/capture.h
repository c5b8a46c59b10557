/* Capture: the inline splitter and the source side of a lane.
 *
 *   NBD ── struct splitter (a blkdev) ──▶ backing blkdev
 *               │ attached: sequence, ring entry
 *               ▼
 *          struct capture: the lane's sequence, entries in memory, batches
 *               ▼
 *          stream/sender takes batches, reports DURABLE
 *
 * Every export runs through a splitter for ever; protection attaches it to a
 * capture and detaches it while it is in use.  Rules (datapath.md 1.3, 9):
 *
 * - Overlapping writes never run together on the backing device; they execute
 *   in the order of their sequence numbers (I1, I2).
 * - A write takes its number at submission and is sendable once its backing
 *   write has succeeded; batches stop at the first unsettled entry (I3).
 * - Nothing but client requests is ever written to the backing device (I4b);
 *   it alone always holds every acknowledged write (I4).
 * - A reply never waits for the other site (I24): when the ring is full, writes
 *   go on *collapsed*: they take a number but no memory.  The lane then has a
 *   gap, and its volumes must be resynced whole, in-band.
 *
 * All on the loop's thread.  The write path allocates nothing.
 */
#ifndef HOLDFAST_CAPTURE_CAPTURE_H
#define HOLDFAST_CAPTURE_CAPTURE_H

#include "io/blkdev.h"
#include "lane/batch.h"

/* --- the agent's memory ring -------------------------------------------- */

struct ringpool; /* blocks of 64 KiB = batch chunks, shared by all lanes */

int ringpool_new(struct io_loop *loop, uint64_t bytes, struct ringpool **out,
                 struct err *err);
void ringpool_free(struct ringpool *p);
uint64_t ringpool_used(const struct ringpool *p);
uint64_t ringpool_size(const struct ringpool *p);

/* --- the splitter ------------------------------------------------------- */

/* Takes over backing: closing the splitter closes it (never from a done()).
 * Reads, and flushes while detached, pass straight through.  Requests of up to
 * 32 MiB are cut into entries of BATCH_WRITE_MAX (writes, settled together) and
 * pieces of BATCH_ZERO_MAX, one reply after the last. */
int splitter_open(struct blkdev *backing, struct blkdev **out, struct err *err);

struct splitter_stats {
    uint64_t writes, write_bytes, reads, read_bytes;
    unsigned in_flight, waiting;  /* requests; waiting for a range */
    uint64_t oldest_in_flight_ns; /* age of the oldest unsettled write */
};
void splitter_stats(const struct blkdev *splitter, struct splitter_stats *out);

/* --- the lane's source -------------------------------------------------- */

struct capture;

enum capture_state {
    CAPTURE_EXACT,     /* every write since the last resync is in the lane */
    CAPTURE_COLLAPSED, /* the ring overflowed: writes are not being kept */
    CAPTURE_BROKEN,    /* there is room again, but a resync is needed (after a
                        * collapse, a failed write or sync, an unclean start).
                        * Writes take a number and no memory until
                        * capture_resync_begin(): nobody could use them. */
};

struct capture_config {
    struct io_loop *loop;
    struct ringpool *pool;
    struct vpg_id vpg;
    uint32_t lane;
    struct incarnation_id incarnation; /* a new one at every start */
    uint32_t seq_epoch;  /* above that of every earlier incarnation */
    uint64_t pool_floor; /* bytes no other lane can take; 0: 8 MiB.  Less when
                          * all floors would be more than half the ring. */
    /* There may be a new sendable batch, a state change, or room again. */
    void (*wake)(void *arg);
    void *arg;
};

int capture_new(const struct capture_config *cfg, struct capture **out,
                struct err *err);
/* Detaches all volumes, frees.  Batches in the sender's hands become invalid. */
void capture_free(struct capture *c);

/* From here on writes of the splitter are in the lane as volume vol.  done(arg)
 * when every write that began before has settled, so that what is read
 * afterwards under the range lock is covered. */
int capture_attach(struct capture *c, uint16_t vol, struct blkdev *splitter,
                   void (*done)(void *arg), void *arg, struct err *err);
void capture_detach(struct capture *c, uint16_t vol);

enum capture_state capture_state(const struct capture *c);
uint64_t capture_seq(const struct capture *c); /* the last one given */
/* Leave BROKEN for EXACT, or begin a resync in EXACT (first sync, forced):
 * appends GAP, when numbers were given to writes that were not kept, and
 * RESYNC_BEGIN; all volumes are to be read from here on.  May be called again
 * inside a window, and must be when the lane broke in it.  -EAGAIN while
 * COLLAPSED, or without room: wake(). */
int capture_resync_begin(struct capture *c, const struct resync_begin *rb);
/* Ends the window; -EAGAIN when another collapse or failure came in between. */
int capture_resync_end(struct capture *c);
bool capture_in_resync(const struct capture *c);
/* Where the resync that has begun stands in a volume: it has yet to begin to
 * read what lies at from and beyond.  A write that lies wholly there is not
 * kept: its range lock makes the read wait for it, so the read brings it.  So a
 * busy volume does not fill the ring with what is read a moment later.  from
 * rises as reads begin, before each.  Forgotten by the next begin and by the
 * end, which keep everything. */
void capture_resync_at(struct capture *c, uint16_t vol, uint64_t from);

/* Append a checkpoint.  The cut lies behind every write that has been replied
 * to.  A write before it that is in flight may still fail: then a DIRTY lies in
 * front of it, and the receiver does not offer it (I19).  -EAGAIN while COLLAPSED, BROKEN or in a resync window.  cc->cut_no and
 * times are the caller's. */
int
capture_cut(struct capture *c, const struct cut_commit *cc, uint64_t *out_seq);
/* INCARNATION, the first entry of an incarnation (-EINVAL when a number has
 * been given already): before the first attach.  BROKEN unless li->exact. */
int capture_incarnation(struct capture *c, const struct lane_incarnation *li);

/* Read a range for a resync, under the range lock.
 *
 * in_band: the data becomes a RESYNC_WRITE (or, where it reads as zeros, ZERO)
 * entry of the lane; buf may be NULL.  Otherwise (straight writes) the data is
 * left in rq->buf and rq->after_seq tells the position it is valid at.
 * Zero detection: rq->zero is set when the range is a hole or reads as zeros.
 * Ranges of up to BATCH_WRITE_MAX, or BATCH_ZERO_MAX where the whole range is a
 * hole (-E2BIG otherwise: ask again in smaller pieces).  In-band reads hold at
 * most a quarter of the ring: -EAGAIN, wake() when there is room.
 *
 * Returns 0, and done() is called once, possibly before this returns; or a
 * negative errno and no done().  Both may say -E2BIG or -EAGAIN (in-band reads
 * also when the lane is not EXACT any more).  done() further says -EIO after
 * three tries: of more than 4096 bytes ask for the parts; a smaller range has
 * become a DIRTY entry and counts as answered.  -ECANCELED: volume detached or
 * capture freed.  The splitter stays open until done(). */
struct capture_read {
    uint16_t vol;
    bool in_band;
    uint64_t off, len;
    void *buf; /* page-aligned, len bytes, when !in_band */
    void (*done)(struct capture_read *rq, int res);
    uint64_t after_seq; /* result */
    bool zero;          /* result */
    uint32_t crc;       /* result, !in_band: CRC32C of the data */
    /* private */
    struct blkdev_req req;
    struct capture *capture;
    struct list link;
    uint64_t priv[16];
};
int capture_read(struct capture *c, struct capture_read *rq);
/* Writes wait in the ring that are a quarter of it: a resync stands back, so
 * that it never causes the next overflow.  It goes on at DURABLE. */
bool capture_crowded(const struct capture *c);
/* Extents of a volume, from the backing device (holes are hints: capture_read
 * decides again under the lock). */
void capture_extents(struct capture *c, uint16_t vol, struct blkdev_req *rq);

/* --- batches ------------------------------------------------------------ */

enum {
    CAPTURE_BATCH_IOV_MAX = BATCH_CHUNKS_MAX + 1
};

struct capture_batch {
    uint64_t batch_no, first_seq, last_seq;
    size_t size;       /* head and bodies */
    struct iovec *iov; /* head first, then bodies; the capture's, constant
                         * until DURABLE or capture_free() */
    unsigned iov_n;
    uint64_t closed_ns;                    /* monotonic, when it was made */
    uint64_t newest_cut_no, newest_cut_ns; /* a cut inside, 0: none; when it was
                                            * taken, monotonic */
};

/* The batch to send next: the first not yet handed out since the start or the
 * last rewind.  Makes one from settled entries when it is due (BATCH_RAW_TARGET,
 * BATCH_LINGER_NS after its first entry, or a cut), numbers and chains it.
 * NULL: nothing due; *out_due_ns (monotonic) when to ask again, 0: at wake(). */
#define BATCH_LINGER_NS (20 * NSEC_PER_MSEC)
const struct capture_batch *
capture_next(struct capture *c, enum chunk_codec codec, uint64_t durable_seen,
             uint64_t *out_due_ns);
/* The receiver has batches up to batch_no on stable storage: free them (I7).
 * -EINVAL: a number never handed out. */
int capture_durable(struct capture *c, uint64_t batch_no);
/* After a reconnect: hand out again from batch_no + 1.  digest: the receiver's
 * chain digest at batch_no, compared where we still know ours.  -ESTALE: we no
 * longer hold batch_no + 1 (the receiver lost what it had acknowledged);
 * -EBADMSG: another history. */
int
capture_rewind(struct capture *c, uint64_t batch_no, const uint8_t digest[16]);

struct capture_stats {
    uint64_t seq, durable_seq;
    uint64_t last_batch, durable_batch;
    uint64_t ring_bytes; /* held by this lane */
    uint64_t lag_bytes;  /* payload not yet durable */
    uint64_t oldest_ns;  /* monotonic birth of the oldest entry not durable;
                             * 0: none */
    uint64_t collapses, collapsed_bytes;
    uint64_t entries, raw_bytes, sent_bytes; /* running totals; sent: after
                                              * compression */
};
void capture_stats(const struct capture *c, struct capture_stats *out);

/* --- for the oracle ----------------------------------------------------- */

/* Bugs that a test plants to see that the oracle finds them; set before the
 * first request.  Never set in production. */
enum capture_plant {
    CAPTURE_PLANT_NO_RANGE_LOCK = 1 << 0, /* writes do not wait for a range */
};
extern unsigned capture_planted;

#endif
