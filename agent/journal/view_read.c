/* Reads and extents of a view: see view.h. */
#include "journal/view_internal.h"

#include <inttypes.h>
#include <stdlib.h>

enum {
    EXTENTS_STEP = 64 * 1024 * 1024, /* resolved at a time */
    EXTENTS_STEPS = 16,              /* then a prefix is answer enough */
    PART_BYTES = 256 * 1024,         /* of one read, resolved together */
    PART_COST = 16 * 1024,
    READING_MAX = 4 * 1024 * 1024, /* of memory a view */
};

static int
snapshot(struct vreq *q)
{
    uint64_t b, end = q->first + q->blocks;
    size_t n = 0;
    bool has;

    for (b = q->first; b < end; n++)
        b = overlay_stretch(q->vv->ov, b, end, &has);
    q->st = calloc(MAX(n, (size_t)1), sizeof *q->st);
    if (!q->st)
        return -ENOMEM;
    for (b = q->first; q->n_st < n; q->n_st++) {
        b = overlay_stretch(q->vv->ov, b, end, &has);
        q->st[q->n_st] = (struct stretch){ .end = b, .has = has };
    }
    return 0;
}

struct fetch *
view_fetch_new(struct journal_view *v)
{
    return fetch_new(&v->env->seg, v->env->replica, v->cache, VIEW_FETCH,
                     VIEW_FETCH / 2);
}

int
view_read_part(struct vreq *q, bool has, uint8_t *buf, uint64_t len,
               uint64_t off)
{
    struct fetch *f;
    int rc;

    if (has)
        return view_overlay_error(q, overlay_read(q->vv->ov, buf, len, off),
                                  "read", off);
    f = view_fetch_new(q->vv->v);
    if (!f)
        return err_set(&q->err, -ENOMEM, ERR_GEN_0002,
                       "no memory to read a view");
    rc = set_read(q->set, f, q->vv->vol, buf, len, off, &q->err);
    fetch_free(f);
    return rc;
}

/* --- reads ----------------------------------------------------------------
 *
 * A read is cut into parts; those of all reads of a view share a limit of
 * memory.  A part is resolved on a worker, its reads go out together from the
 * loop, and a worker (the loop itself, when there is next to nothing to do)
 * verifies them; when a part does not fit its fetch this goes round. */

struct part {
    struct io_work work;
    struct vreq *q;
    struct fetch *f;
    uint64_t pos, end; /* bytes of the volume */
    uint64_t cost;
    bool alone;    /* nobody to make room for: one read may block the worker */
    bool fetching; /* the fetch is planned and has reads to run */
    int res;
    struct err err;
};

static void readers_go(struct journal_view *v);

/* Add to the fetch from pos on, until it is full. */
static int
part_fill(struct part *p)
{
    struct vreq *q = p->q;
    size_t i = 0;

    while (q->st[i].end * OVERLAY_BLOCK <= p->pos)
        i++;
    for (; p->pos < p->end; i++) {
        uint64_t n = MIN(q->st[i].end * OVERLAY_BLOCK, p->end) - p->pos, did = n;
        uint8_t *buf = (uint8_t *)q->rq->buf + (p->pos - q->off);
        int rc;

        if (q->st[i].has) {
            rc = overlay_read(q->vv->ov, buf, n, p->pos);
            if (rc < 0)
                return err_set(&p->err, rc, ERR_JNL_0054,
                               "view of volume %u: the overlay cannot be read "
                               "at offset %" PRIu64 ": %s",
                               q->vv->vol, p->pos, err_errno(rc));
        } else {
            rc = set_fetch(q->set, p->f, q->vv->vol, buf, n, p->pos, &did,
                           &p->err);
            if (rc < 0)
                return rc;
        }
        p->pos += did;
        if (did < n)
            break;
    }
    return 0;
}

static void
part_run(struct io_work *w)
{
    struct part *p = container_of(w, struct part, work);

    if (p->fetching)
        p->res = fetch_finish(p->f, &p->err);
    p->fetching = false;
    while (p->res == 0 && p->pos < p->end) {
        p->res = part_fill(p);
        if (p->res == 0)
            p->res = fetch_plan(p->f, &p->err);
        if (p->res < 0)
            break;
        if (fetch_waits(p->f) && !(p->alone && fetch_reads(p->f) == 1)) {
            p->fetching = true;
            return;
        }
        fetch_read(p->f);
        p->res = fetch_finish(p->f, &p->err);
    }
}

static void
read_end(struct vreq *q)
{
    struct blkdev_req *rq = q->rq;
    int res = q->vv->v->broken ? -EIO : view_client_errno(q->res);

    vreq_ended(q);
    vreq_free(q);
    rq->done(rq, res);
}

static void
part_end(struct part *p)
{
    struct vreq *q = p->q;
    struct journal_view *v = q->vv->v;
    bool last;

    if (p->res < 0 && q->res == 0) {
        q->res = p->res;
        q->err = p->err;
        list_del(&q->read_link); /* no more parts */
    }
    last = --q->parts == 0 && (q->res < 0 || q->next == q->off + q->len);
    v->reading -= p->cost;
    fetch_drop(p->f);
    if (v->n_idle < VIEW_IDLE_FETCHES)
        v->idle[v->n_idle++] = p->f;
    else
        fetch_free(p->f);
    free(p);
    readers_go(v);
    if (last)
        read_end(q); /* what is called may close the view */
}

static void
part_fetched(void *arg)
{
    struct part *p = arg;

    if (p->pos == p->end && fetch_small(p->f)) {
        p->res = fetch_finish(p->f, &p->err);
        part_end(p);
        return;
    }
    io_work_submit(p->q->vv->v->env->loop, &p->work);
}

static void
part_done(struct io_work *w)
{
    struct part *p = container_of(w, struct part, work);

    if (p->res == 0 && p->fetching)
        fetch_start(p->f, part_fetched, p);
    else
        part_end(p);
}

static int
part_start(struct vreq *q, uint64_t len, uint64_t cost)
{
    struct journal_view *v = q->vv->v;
    struct part *p = calloc(1, sizeof *p);

    if (!p)
        return -ENOMEM;
    *p = (struct part){ .q = q,
                        .pos = q->next,
                        .end = q->next + len,
                        .cost = cost,
                        .alone = v->reading == 0 && len == q->len };
    p->err = (struct err)ERR_INIT;
    p->work.run = part_run;
    p->work.done = part_done;
    p->f = v->n_idle > 0 ? v->idle[--v->n_idle] : view_fetch_new(v);
    if (!p->f) {
        free(p);
        return -ENOMEM;
    }
    q->next += len;
    q->parts++;
    v->reading += cost;
    io_work_submit(v->env->loop, &p->work);
    return 0;
}

/* Begin as many parts as there is room for, in the order of the requests. */
static void
readers_go(struct journal_view *v)
{
    while (!list_empty(&v->readers)) {
        struct vreq *q = list_entry(v->readers.next, struct vreq, read_link);
        uint64_t len = MIN(q->off + q->len - q->next, (uint64_t)PART_BYTES),
                 cost = 2 * len + PART_COST;

        if (v->reading > 0 && v->reading + cost > READING_MAX)
            return;
        if (part_start(q, len, cost) < 0) {
            if (v->reading > 0)
                return; /* when a part has ended */
            q->res = -ENOMEM;
        }
        if (q->res < 0 || q->next == q->off + q->len) {
            list_del(&q->read_link);
        }
        if (q->res < 0 && q->parts == 0)
            read_end(q);
    }
}

/* --- extents -------------------------------------------------------------- */

static bool
add_extent(struct blkdev_req *rq, uint64_t len, bool hole)
{
    if (rq->ext_n > 0 && rq->ext[rq->ext_n - 1].zero == hole) {
        rq->ext[rq->ext_n - 1].len += len;
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
extents_done(struct io_work *w)
{
    read_end(container_of(w, struct vreq, work));
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
    if (extents) {
        q->work.run = run_extents;
        q->work.done = extents_done;
        vreq_start(q);
        return;
    }
    q->next = q->off;
    vreq_begin(q);
    list_push_back(&vv->v->readers, &q->read_link);
    readers_go(vv->v);
}
