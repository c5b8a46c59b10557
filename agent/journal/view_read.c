/* Reads and extents of a view: see view.h. */
#include "journal/view_internal.h"

#include <inttypes.h>
#include <stdlib.h>

enum {
    EXTENTS_STEP = 64 * 1024 * 1024, /* resolved at a time */
    EXTENTS_STEPS = 16,              /* then a prefix is answer enough */
};

static int
snapshot(struct vreq *q)
{
    uint64_t b, end = q->first + q->blocks;
    size_t n = 0;
    bool has;

    for (b = q->first; b < end; n++)
        b = overlay_stretch(q->vv->ov, b, end, &has);
    q->st = calloc(n, sizeof *q->st);
    if (!q->st)
        return -ENOMEM;
    for (b = q->first; q->n_st < n; q->n_st++) {
        b = overlay_stretch(q->vv->ov, b, end, &has);
        q->st[q->n_st] = (struct stretch){ .end = b, .has = has };
    }
    return 0;
}

int
view_read_part(struct vreq *q, bool has, uint8_t *buf, uint64_t len,
               uint64_t off)
{
    struct journal_view *v = q->vv->v;

    if (has)
        return view_overlay_error(q, overlay_read(q->vv->ov, buf, len, off),
                                  "read", off);
    return set_read(q->set, v->cache, v->env->replica, q->vv->vol, buf, len,
                    off, &q->err);
}

static void
run_read(struct io_work *w)
{
    struct vreq *q = container_of(w, struct vreq, work);
    uint8_t *buf = q->rq->buf;
    uint64_t off = q->off, end = q->off + q->len;

    for (size_t i = 0; q->res == 0 && i < q->n_st; i++) {
        uint64_t n = MIN(q->st[i].end * OVERLAY_BLOCK, end) - off;

        q->res = view_read_part(q, q->st[i].has, buf, n, off);
        buf += n;
        off += n;
    }
}

static bool
add_extent(struct blkdev_req *rq, uint64_t len, bool hole)
{
    struct blkdev_extent *last = rq->ext_n ? &rq->ext[rq->ext_n - 1] : NULL;

    if (last && last->zero == hole) {
        last->len += len;
        return true;
    }
    if (rq->ext_n == rq->ext_max ||
        (rq->ext_n == 1 && rq->flags & BLKDEV_EXT_ONE))
        return false;
    rq->ext[rq->ext_n++] =
        (struct blkdev_extent){ .len = len, .hole = hole, .zero = hole };
    return true;
}

/* Extents of [off, end), all on one side of the overlay; false: enough. */
static bool
extents_part(struct vreq *q, bool has, uint64_t off, uint64_t end)
{
    struct io_extent e[64];

    while (off < end) {
        uint64_t len = MIN(end - off, (uint64_t)EXTENTS_STEP);
        int n = has ? overlay_extents(q->vv->ov, off, len, e, ARRAY_SIZE(e))
                    : set_extents(q->set, q->vv->v->env->replica, q->vv->vol,
                                  off, len, e, ARRAY_SIZE(e));

        if (n <= 0) {
            q->res = n < 0 ? n : -EIO;
            return false;
        }
        for (int i = 0; i < n; i++) {
            if (!add_extent(q->rq, e[i].len, e[i].hole))
                return false;
            off += e[i].len;
        }
    }
    return true;
}

static void
run_extents(struct io_work *w)
{
    struct vreq *q = container_of(w, struct vreq, work);
    uint64_t off = q->off, end = q->off + q->len;

    for (size_t i = 0; q->res == 0 && i < q->n_st; i++) {
        uint64_t to = MIN(q->st[i].end * OVERLAY_BLOCK, end);

        if (!extents_part(q, q->st[i].has, off, to))
            break;
        off = to;
    }
    if (q->rq->ext_n > 0)
        q->res = 0; /* a prefix is an answer */
}

static void
read_done(struct io_work *w)
{
    struct vreq *q = container_of(w, struct vreq, work);
    struct blkdev_req *rq = q->rq;
    int res = q->vv->v->broken ? -EIO : view_client_errno(q->res);

    vreq_ended(q);
    vreq_free(q);
    rq->done(rq, res);
}

void
view_submit_read(struct view_vol *vv, struct blkdev_req *rq)
{
    bool extents = rq->op == BLKDEV_EXTENTS;
    struct vreq *q;

    rq->ext_n = extents ? 0 : rq->ext_n;
    q = vreq_new(vv, rq, extents ? VREQ_EXTENTS : VREQ_READ, rq->off,
                 extents ? MIN(rq->len, (uint64_t)EXTENTS_STEP * EXTENTS_STEPS)
                         : rq->len);
    if (!q || snapshot(q) < 0) {
        if (q)
            vreq_free(q);
        rq->done(rq, -ENOMEM);
        return;
    }
    q->work.run = extents ? run_extents : run_read;
    q->work.done = read_done;
    vreq_start(q);
}
