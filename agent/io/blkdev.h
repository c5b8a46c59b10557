/* The block device: the one interface of the data path.
 *
 * A backing file, the splitter over it, a view of a past moment, a scratch
 * overlay, and the in-memory and failing doubles of the tests are all block
 * devices.  The NBD server serves any of them and knows none of them.
 *
 * Every operation is a struct blkdev_req with a completion.  Requests of one
 * device may complete in any order.  A device is driven by one thread, its
 * loop's; done() is called on that thread, possibly before blkdev_submit()
 * returns.  Whoever submits has checked the request with blkdev_check().
 */
#ifndef HOLDFAST_IO_BLKDEV_H
#define HOLDFAST_IO_BLKDEV_H

#include "io/loop.h"

struct blkdev;

enum blkdev_op {
    BLKDEV_READ,
    BLKDEV_WRITE,
    BLKDEV_FLUSH,
    BLKDEV_TRIM, /* afterwards the range reads as zeros, or nothing was done
                    * (I23); see BLKDEV_CAN_TRIM */
    BLKDEV_ZERO, /* afterwards the range reads as zeros */
    BLKDEV_EXTENTS,
    BLKDEV_CACHE, /* a hint to read ahead */
};

enum blkdev_req_flags {
    BLKDEV_FUA = 1 << 0,       /* on stable storage before done() */
    BLKDEV_NO_HOLE = 1 << 1,   /* ZERO: keep the space allocated */
    BLKDEV_FAST_ZERO = 1 << 2, /* ZERO: -EOPNOTSUPP rather than slow */
    BLKDEV_EXT_ONE = 1 << 3,   /* EXTENTS: the first one only */
};

struct blkdev_extent {
    uint64_t len;
    bool hole; /* not allocated */
    bool zero; /* reads as zeros */
};

enum {
    BLKDEV_PRIV_WORDS = 12
};

struct blkdev_req {
    enum blkdev_op op;
    unsigned flags;
    uint64_t off; /* bytes; multiples of 512 unless info.min_block is 1 */
    uint64_t len; /* bytes; at most info.max_payload for READ and WRITE */
    void *buf;    /* READ, WRITE: len bytes, page-aligned, the submitter's,
                   * constant until done() */
    struct blkdev_extent *ext; /* EXTENTS: filled in order from off */
    size_t ext_max, ext_n;
    const void *origin; /* whose request, for blkdev_cancel(); may be NULL */
    /* res: 0, or negative errno (-EIO, -ENOSPC, -EPERM, -ECANCELED...) */
    void (*done)(struct blkdev_req *rq, int res);

    /* For the device that holds the request now; no meaning to others. */
    struct list link;
    uint64_t priv[BLKDEV_PRIV_WORDS];
};

enum blkdev_features {
    BLKDEV_READ_ONLY = 1 << 0,
    BLKDEV_CAN_TRIM = 1 << 1,      /* TRIM does something */
    BLKDEV_CAN_FAST_ZERO = 1 << 2, /* FAST_ZERO is understood */
    BLKDEV_CAN_EXTENTS = 1 << 3,   /* tells holes from data */
    BLKDEV_ROTATIONAL = 1 << 4,
};

struct blkdev_info {
    uint64_t size;                               /* bytes, a multiple of 512 */
    uint32_t min_block, pref_block, max_payload; /* bytes */
    unsigned features;
};

struct blkdev_ops {
    const char *kind; /* "file", "splitter", "view", ... */
    void (*submit)(struct blkdev *d, struct blkdev_req *rq);
    /* Complete with -ECANCELED all requests of origin that have not begun to
     * execute; what has begun completes by itself (I6).  May be NULL. */
    void (*cancel)(struct blkdev *d, const void *origin);
    void (*close)(struct blkdev *d); /* frees d; no request is in flight */
};

/* Embedded first in each device's struct. */
struct blkdev {
    const struct blkdev_ops *ops;
    struct io_loop *loop;
    struct blkdev_info info; /* constant while open */
};

/* 0, or the errno that NBD names for it: -EINVAL (range, alignment, length),
 * -EPERM (read-only), -ENOSPC (write past the end), -EOVERFLOW (payload). */
int blkdev_check(const struct blkdev *d, const struct blkdev_req *rq);

static inline void
blkdev_submit(struct blkdev *d, struct blkdev_req *rq)
{
    d->ops->submit(d, rq);
}

static inline void
blkdev_cancel(struct blkdev *d, const void *origin)
{
    if (d->ops->cancel)
        d->ops->cancel(d, origin);
}

void blkdev_close(struct blkdev *d); /* NULL is allowed */

/* --- devices of this room ---------------------------------------------- */

enum filedev_cache {
    FILEDEV_WRITEBACK, /* through the page cache; FLUSH is fdatasync */
    FILEDEV_NONE,      /* O_DIRECT */
};

struct filedev_config {
    const char *path; /* regular file or block device, nothing else */
    enum filedev_cache cache;
    bool read_only;
};

/* -ENOTBLK: neither file nor device.  -EINVAL: size no multiple of 512, or 0.
 * -EBUSY: another process of ours has it (advisory lock; block devices also
 * O_EXCL, which refuses a mounted one). */
int filedev_open(struct io_loop *loop, const struct filedev_config *cfg,
                 struct blkdev **out, struct err *err);
struct io_file *filedev_file(struct blkdev *d); /* for the fingerprint */

/* In memory, for tests; sparse in 64 KiB pieces. */
int memdev_new(struct io_loop *loop, uint64_t size, struct blkdev **out);

/* Faults for tests, over any device: fail or hold the n-th request of a kind.
 * A held request runs when released.  Closing closes the lower one. */
struct faultdev_rule {
    enum blkdev_op op;
    uint64_t off, len; /* requests that touch this range; len 0: all */
    unsigned skip;     /* let this many pass first */
    unsigned times;    /* then apply to this many; 0: for ever */
    int error;         /* negative errno to complete with; 0: hold */
};
int faultdev_new(struct blkdev *lower, struct blkdev **out);
void faultdev_set(struct blkdev *d, const struct faultdev_rule *rules,
                  size_t n); /* at most 16; copied */
unsigned faultdev_held(const struct blkdev *d);
void faultdev_release(struct blkdev *d); /* run all held, oldest first */

#endif
