/* The inside of the capture room: what ringpool.c, capture.c, pack.c, resync.c
 * and splitter.c share.  Nobody else includes this.
 *
 * Memory of a lane is blocks of the ring, taken and given back one by one:
 *
 *   fifo:    [entry entry ... 1024] -> [entry ...]     64 B an entry
 *   payload: [A A B|B B B C C|      ]                  packed, one after the other
 *
 * An entry holds one reference on each block its payload touches; a batch made
 * of it takes these over, one per chunk, and DURABLE drops them.  The block
 * being filled has one more.  So blocks come back in about the order in which
 * they were taken, and an idle lane holds none. */
#ifndef HOLDFAST_CAPTURE_CAPTURE_IMPL_H
#define HOLDFAST_CAPTURE_CAPTURE_IMPL_H

#include "capture/capture.h"
#include "capture/rangelock.h"

enum {
    RING_BLOCK_SIZE = BATCH_CHUNK_RAW_MAX,
    RING_FLOOR_DEFAULT = 8 * 1024 * 1024,
    PACK_ENTRIES_MAX = 2048, /* of a batch; bounds the scratch below */
    /* Heads of batches not yet durable; beyond it no new batch is made.  A head
     * is 1 to 6 % of its payload, so the receiver's credit ends first. */
    PACK_HEADS_MAX = 4 * 1024 * 1024,
    BOUNCE_SIZE = BATCH_WRITE_MAX, /* resync reads without a buffer */
    BOUNCE_MAX = 8,                /* for all lanes */
    READ_TRIES = 3,
    READ_DIRTY_MAX = 4096, /* an unreadable range this small is given up */
    SECTOR = 512,
    SECTOR_SHIFT = 9,
};
#define RING_NONE UINT32_MAX

/* --- ringpool.c --------------------------------------------------------- */

struct ring_block {
    uint32_t next; /* free list; fifo; block where a payload goes on */
    uint32_t refs;
    uint32_t used; /* bytes, payload blocks */
    /* A payload may continue from the block before, and one may leave for the
     * block behind: checksums of their parts in this block, so that a chunk's
     * checksum can be combined without reading. */
    uint32_t in_crc, out_crc;
};

struct ring_lane { /* a lane's account with the pool */
    struct list link;
    uint32_t floor_wish, floor; /* blocks nobody else can take */
    uint32_t used;
    bool want_room;
    void (*room)(struct ring_lane *l);
};

struct ringpool {
    struct io_loop *loop;
    uint8_t *base;
    struct ring_block *blocks;
    uint32_t n, n_free, free_head;
    uint64_t reserved; /* sum of what lanes lack to their floors */
    struct list lanes;
    uint32_t n_lanes;
    uint64_t resync_bytes; /* payload of resyncs: at most a quarter */
    void *bounce[BOUNCE_MAX];
    unsigned bounce_n, bounce_made; /* free ones; made so far */
    /* For making one batch at a time. */
    struct lane_entry entries[PACK_ENTRIES_MAX];
    struct lane_chunk chunks[BATCH_CHUNKS_MAX];
    struct {
        uint32_t block, off;
    } spans[BATCH_CHUNKS_MAX];
    uint8_t deflated[BATCH_CHUNK_RAW_MAX];
};

void ring_lane_add(struct ringpool *p, struct ring_lane *l, uint64_t floor);
void ring_lane_remove(struct ringpool *p, struct ring_lane *l);
bool
ring_can_take(const struct ringpool *p, const struct ring_lane *l, uint64_t n);
/* ring_can_take() has said yes. */
uint32_t ring_take(struct ringpool *p, struct ring_lane *l);
void ring_give(struct ringpool *p, struct ring_lane *l, uint32_t block);
uint8_t *ring_data(const struct ringpool *p, uint32_t block);
/* Tell the lanes that want room. */
void ring_room(struct ringpool *p);
bool ring_resync_take(struct ringpool *p, uint64_t bytes);
void ring_resync_give(struct ringpool *p, uint64_t bytes);
void *ring_bounce_take(struct ringpool *p); /* NULL: all in use */
void ring_bounce_give(struct ringpool *p, void *buf);

/* --- capture.c ---------------------------------------------------------- */

enum entry_state {
    CE_PENDING,
    CE_SETTLED
};

struct centry {
    uint64_t seq, off512, birth_ns;
    uint64_t extra; /* CUT_COMMIT: its number; GAP: the first number */
    uint32_t block, block_off; /* where the payload begins */
    uint32_t len512, crc, aux;
    uint16_t vol;
    uint8_t type, flags, state;
    bool payload;
};

enum {
    FIFO_PER_BLOCK = RING_BLOCK_SIZE / 64
};
_Static_assert(sizeof(struct centry) <= 64, "an entry fits its place");

struct fifo_pos {
    uint32_t block, i;
};

struct splitter;

struct cbatch {
    struct list link; /* capture.batches */
    struct capture_batch pub;
    uint8_t digest[16];
    uint64_t birth_ns, raw_len, resync_bytes;
    size_t head_len;
    uint32_t n_chunks;
    uint32_t *blocks; /* one reference each */
    uint8_t *head;
};

struct capture {
    struct capture_config cfg;
    struct io_loop *loop;
    struct ringpool *pool;
    struct ring_lane lane;
    struct splitter *vols[LANE_VOLUMES_MAX];
    struct list slots; /* slot.capture_link: writes in flight with a number */
    struct list reads; /* capture_read.link */
    struct io_task wake_task;

    enum capture_state state;
    bool in_resync;
    /* Of each volume: a running resync begins to read here later. */
    uint64_t resync_at[LANE_VOLUMES_MAX];
    uint64_t seq;
    uint64_t gap_first, gap_birth_ns; /* first number without an entry, or 0 */
    uint32_t collapse_used;           /* blocks held at the overflow */

    /* Entries, oldest first: ready ones (settled, nothing unsettled before
     * them), then the rest. */
    struct fifo_pos head, ready_end, tail;
    uint64_t n_entries, n_ready;
    uint64_t ready_raw;
    uint64_t ready_closers; /* ready entries that end a batch */
    uint32_t fill;          /* block being filled, or RING_NONE */

    struct list batches;  /* cbatch.link: made, not durable */
    struct cbatch *again; /* after a rewind: the next to hand out, or NULL */
    uint64_t last_batch, durable_batch, durable_seq;
    uint8_t digest[16], durable_digest[16];
    size_t heads_bytes;
    bool pack_in_resync;
    bool told_idle; /* the sender was told to wait for wake() */

    uint64_t lag_bytes, resync_bytes;
    uint64_t collapses, collapsed_bytes, entries_total, raw_total, sent_total;
};

struct slot;

/* A write begins: number, entries, payload into the ring.  Sets slot.capture,
 * entry, entries_n. */
void capture_begin_write(struct capture *c, struct slot *s);
enum write_outcome {
    WRITE_DONE,
    WRITE_NOTHING,
    WRITE_FAILED
};
void capture_settle(struct slot *s, enum write_outcome outcome);
void capture_flushed(struct capture *c, uint16_t vol);
/* Content is no longer known: only a resync helps. */
void capture_break(struct capture *c);
void capture_wake(struct capture *c);

/* Is there memory for n entries with bytes of payload in all? */
bool capture_room(const struct capture *c, uint64_t n, uint64_t bytes);
/* capture_room() has said yes.  Unsettled. */
struct centry *capture_append(struct capture *c, uint8_t type, uint16_t vol,
                              uint64_t off512, uint32_t len512);
void capture_payload(struct capture *c, struct centry *e, const void *src);
/* Settled entries move on to be sent. */
void capture_advance(struct capture *c);
struct centry *fifo_at(const struct capture *c, struct fifo_pos *pos);
void fifo_pop(struct capture *c);
void entry_drop_payload(struct capture *c, const struct centry *e);
void block_unref(struct capture *c, uint32_t block);
void capture_check_room(struct capture *c);

/* --- pack.c ------------------------------------------------------------- */

bool pack_due(const struct capture *c);
void pack_release(struct capture *c); /* all batches */

/* --- resync.c ----------------------------------------------------------- */

/* Reads of volume vol (NULL: of all) end with -ECANCELED. */
void resync_cancel(struct capture *c, const struct splitter *s);

/* --- splitter.c --------------------------------------------------------- */

enum slot_state {
    SLOT_FREE,
    SLOT_WAITING,
    SLOT_RUNNING,
    SLOT_AGAIN
};

struct slot { /* a request that changes the volume, or a flush of it */
    struct list link;
    struct list capture_link;
    struct range_node node;
    struct splitter *splitter;
    struct blkdev_req *up;
    struct blkdev_req low;
    struct capture *capture; /* has its number from here */
    struct fifo_pos entry;   /* its first entry */
    uint32_t entries_n;      /* 0: collapsed, or not captured */
    uint16_t vol;
    bool locked, cancelled;
    enum slot_state state;
    uint64_t off, len; /* the piece at work */
    uint64_t attach_gen;
    uint64_t born_ns;
};

enum {
    SPLITTER_SLOTS = 256
};

struct splitter {
    struct blkdev dev;
    struct blkdev *backing;
    struct rangelock lock;
    struct capture *capture;
    uint16_t vol;
    bool running; /* splitter_run() is on the stack */

    struct list free, waiting, in_flight, flushing, again; /* slot.link */
    struct list queued; /* blkdev_req.link: no slot is free */
    unsigned in_flight_n, waiting_n, flushing_n;

    uint64_t attach_gen;
    unsigned before_attach; /* in flight since before the last attach */
    void (*attached)(void *arg);
    void *attached_arg;
    struct io_task attached_task;

    uint64_t writes, write_bytes, reads, read_bytes;
    struct slot slots[SPLITTER_SLOTS];
};

struct splitter *splitter_of(struct blkdev *d); /* NULL: another kind */
void splitter_attach(struct splitter *s, struct capture *c, uint16_t vol,
                     void (*done)(void *arg), void *arg);
void splitter_detach(struct splitter *s);
/* Let those run whose range has become free. */
void splitter_run(struct splitter *s);

#endif
