/* A disk in memory for tests: sparse in pieces of 64 KiB, byte-granular.  A
 * piece that is not there is a hole.  Everything completes at once. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "io/blkdev.h"

enum {
    PIECE = 64 * 1024,
    MEM_MAX_PAYLOAD = 32 * 1024 * 1024
};

struct memdev {
    struct blkdev dev;
    uint8_t **pieces;
    size_t n;
};

static struct memdev *
memdev_of(struct blkdev *d)
{
    return container_of(d, struct memdev, dev);
}

static size_t
piece_part(const struct blkdev_req *rq, uint64_t at)
{
    return (size_t)MIN((uint64_t)(PIECE - at % PIECE), rq->off + rq->len - at);
}

static int
mem_read(struct memdev *m, const struct blkdev_req *rq)
{
    uint8_t *to = rq->buf;

    for (uint64_t at = rq->off; at < rq->off + rq->len;) {
        const uint8_t *p = m->pieces[at / PIECE];
        size_t n = piece_part(rq, at);

        if (p)
            memcpy(to, p + at % PIECE, n);
        else
            memset(to, 0, n);
        to += n;
        at += n;
    }
    return 0;
}

/* from NULL: zeros. */
static int
mem_store(struct memdev *m, const struct blkdev_req *rq, const uint8_t *from,
          bool keep)
{
    for (uint64_t at = rq->off; at < rq->off + rq->len;) {
        uint8_t **p = &m->pieces[at / PIECE];
        size_t n = piece_part(rq, at);

        if (!from && !keep && n == PIECE) {
            free(*p);
            *p = NULL;
        }
        if (!*p && (from || keep)) {
            *p = calloc(1, PIECE);
            if (!*p)
                return -ENOSPC;
        }
        if (*p && from)
            memcpy(*p + at % PIECE, from, n);
        else if (*p)
            memset(*p + at % PIECE, 0, n);
        if (from)
            from += n;
        at += n;
    }
    return 0;
}

static int
mem_extents(const struct memdev *m, struct blkdev_req *rq)
{
    size_t max = rq->flags & BLKDEV_EXT_ONE ? 1 : rq->ext_max;

    rq->ext_n = 0;
    for (uint64_t at = rq->off; at < rq->off + rq->len;) {
        bool hole = !m->pieces[at / PIECE];
        size_t n = piece_part(rq, at);

        if (rq->ext_n && rq->ext[rq->ext_n - 1].hole == hole) {
            rq->ext[rq->ext_n - 1].len += n;
        } else {
            if (rq->ext_n == max)
                break;
            rq->ext[rq->ext_n++] =
                (struct blkdev_extent){ .len = n, .hole = hole, .zero = hole };
        }
        at += n;
    }
    return 0;
}

static int
mem_execute(struct memdev *m, struct blkdev_req *rq)
{
    switch (rq->op) {
    case BLKDEV_READ: return mem_read(m, rq);
    case BLKDEV_WRITE: return mem_store(m, rq, rq->buf, true);
    case BLKDEV_TRIM: return mem_store(m, rq, NULL, false);
    case BLKDEV_ZERO:
        return mem_store(m, rq, NULL, (rq->flags & BLKDEV_NO_HOLE) != 0);
    case BLKDEV_EXTENTS: return mem_extents(m, rq);
    case BLKDEV_FLUSH:
    case BLKDEV_CACHE: return 0;
    }
    return -EINVAL;
}

static void
mem_submit(struct blkdev *d, struct blkdev_req *rq)
{
    rq->done(rq, mem_execute(memdev_of(d), rq));
}

static void
mem_close(struct blkdev *d)
{
    struct memdev *m = memdev_of(d);

    for (size_t i = 0; m->pieces && i < m->n; i++)
        free(m->pieces[i]);
    free(m->pieces);
    free(m);
}

static const struct blkdev_ops memdev_ops = {
    .kind = "memory",
    .submit = mem_submit,
    .close = mem_close,
};

int
memdev_new(struct io_loop *loop, uint64_t size, struct blkdev **out)
{
    struct memdev *m;

    if (size == 0 || size % 512 != 0)
        return -EINVAL;
    m = calloc(1, sizeof *m);
    if (!m)
        return -ENOMEM;
    m->dev.ops = &memdev_ops;
    m->dev.loop = loop;
    m->dev.info = (struct blkdev_info){
        .size = size,
        .min_block = 1,
        .pref_block = 4096,
        .max_payload = MEM_MAX_PAYLOAD,
        .features = BLKDEV_CAN_TRIM | BLKDEV_CAN_FAST_ZERO | BLKDEV_CAN_EXTENTS,
    };
    m->n = (size_t)(size / PIECE + (size % PIECE != 0));
    m->pieces = calloc(m->n, sizeof(uint8_t *));
    if (!m->pieces) {
        mem_close(&m->dev);
        return -ENOMEM;
    }
    *out = &m->dev;
    return 0;
}
