/* The inside of views, shared by view.c (life, writes, the device), view_read.c
 * and view_convert.c.  See view.h. */
#ifndef HOLDFAST_JOURNAL_VIEW_INTERNAL_H
#define HOLDFAST_JOURNAL_VIEW_INTERNAL_H

#include "journal/view.h"

enum {
    COPY_BLOCKS = 256, /* a conversion's window: 1 MiB */
    COPY_WORDS = COPY_BLOCKS / 64,
    COPY_MEM = COPY_BLOCKS * OVERLAY_BLOCK,
    VIEW_IDLE_FETCHES = 8,
};

enum vreq_kind {
    VREQ_READ,
    VREQ_EXTENTS,
    VREQ_WRITE,
    VREQ_ZERO,
    VREQ_COPY
};

struct view_vol {
    struct blkdev dev; /* first */
    struct journal_view *v;
    uint16_t vol;
    struct overlay *ov;
    struct list running, waiting;      /* vreq.lock_link: writers, in order */
    struct list flush_wait, flush_now; /* blkdev_req.link */
    struct io_work flush_work;
    struct overlay_flush *flush; /* NULL: none under way */
    int flush_res;
    struct err flush_err;
};

struct stretch {
    uint64_t end; /* block */
    bool has;
};

struct vreq {
    struct io_work work;
    struct list link;      /* view.active, in order of id */
    struct list lock_link; /* writers */
    uint64_t id;
    enum vreq_kind kind;
    struct view_vol *vv;
    struct blkdev_req *rq; /* NULL: a copy */
    struct read_set *set;
    uint64_t off, len;      /* bytes */
    uint64_t first, blocks; /* touched */
    uint64_t cost;          /* blocks reserved against the limit */
    bool head_up, tail_up;  /* copy the partial first, last block up */
    /* A read goes in parts, some of them at once: */
    struct list read_link; /* view.readers, while parts are to begin */
    uint64_t next;         /* where the next part begins */
    unsigned parts;        /* under way */
    struct stretch *st;
    size_t n_st;
    uint64_t want[COPY_WORDS], data[COPY_WORDS];
    struct convert *cv;
    int res;
    struct err err;
};

struct journal_view {
    const struct view_env *env;
    struct view_record rec;
    struct list link;
    struct read_set *set;
    struct chunk_cache *cache;
    bool broken, full_told;
    struct err why;
    char last_alert[ERR_MSG_MAX];
    struct list readers; /* vreq.read_link */
    uint64_t reading;    /* bytes that parts under way may take in memory */
    struct fetch *idle[VIEW_IDLE_FETCHES];
    unsigned n_idle;
    uint64_t next_id, reserved;
    struct list active;
    struct io_task drain_task;
    uint64_t drain_id;
    bool drain_flushes;
    void (*drained)(void *arg);
    void *drain_arg;
    unsigned n;
    struct view_vol vv[];
};

void view_alert(struct journal_view *v, const struct err *err);
uint64_t view_vol_blocks(const struct view_vol *vv);
/* Bytes up to the end of a block: the last one of a volume may be short. */
uint64_t view_block_end(const struct view_vol *vv, uint64_t block);

struct vreq *vreq_new(struct view_vol *vv, struct blkdev_req *rq,
                      enum vreq_kind kind, uint64_t off, uint64_t len);
void vreq_free(struct vreq *q);
/* A request begins, with the read set of this moment; vreq_start() also sends
 * it to a worker. */
void vreq_begin(struct vreq *q);
void vreq_start(struct vreq *q);
void vreq_ended(struct vreq *q);
/* A device error to a client is EIO, whatever it was here. */
int view_client_errno(int res);
int view_overlay_error(struct vreq *q, int rc, const char *what, uint64_t off);
/* Blocking: a stretch that the overlay has, or has not. */
int view_read_part(struct vreq *q, bool has, uint8_t *buf, uint64_t len,
                   uint64_t off);
/* Any thread. */
struct fetch *view_fetch_new(struct journal_view *v);
void view_submit_read(struct view_vol *vv, struct blkdev_req *rq);

/* Writers of a volume, in order: a request waits for those that overlap it. */
void view_lock_and_start(struct vreq *q);
void view_unlock(struct vreq *q);
void view_flush_kick(struct view_vol *vv);
void view_copy_done(struct vreq *q);

#endif
