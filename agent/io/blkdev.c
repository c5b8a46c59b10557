/* What all block devices share: the check of a request, and closing. */
#include "io/blkdev.h"

enum {
    SECTOR = 512
};

static int
check_range(const struct blkdev *d, const struct blkdev_req *rq)
{
    uint32_t unit = d->info.min_block == 1 ? 1 : SECTOR;

    if (rq->len == 0 || rq->off % unit != 0 || rq->len % unit != 0)
        return -EINVAL;
    if (rq->off <= d->info.size && rq->len <= d->info.size - rq->off)
        return 0;
    /* NBD: beyond the end there is no space for data, and nothing to read. */
    return rq->op == BLKDEV_WRITE || rq->op == BLKDEV_ZERO ? -ENOSPC : -EINVAL;
}

static bool
changes(enum blkdev_op op)
{
    switch (op) {
    case BLKDEV_WRITE:
    case BLKDEV_TRIM:
    case BLKDEV_ZERO: return true;
    case BLKDEV_READ:
    case BLKDEV_FLUSH:
    case BLKDEV_EXTENTS:
    case BLKDEV_CACHE: return false;
    }
    return false;
}

int
blkdev_check(const struct blkdev *d, const struct blkdev_req *rq)
{
    if ((d->info.features & BLKDEV_READ_ONLY) && changes(rq->op))
        return -EPERM;
    if (rq->op == BLKDEV_FLUSH)
        return rq->off == 0 && rq->len == 0 ? 0 : -EINVAL;
    if ((rq->op == BLKDEV_READ || rq->op == BLKDEV_WRITE) &&
        rq->len > d->info.max_payload)
        return -EOVERFLOW;
    if (rq->op == BLKDEV_EXTENTS && rq->ext_max == 0)
        return -EINVAL;
    return check_range(d, rq);
}

void
blkdev_close(struct blkdev *d)
{
    if (d)
        d->ops->close(d);
}
