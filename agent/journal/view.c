/* The devices of a view: see view.h.  Reads are in view_read.c, conversion in
 * view_convert.c.
 *
 * Life of a write: it waits until no earlier write overlaps its blocks, the
 * limit is checked and the map's memory made, a worker copies up partial blocks
 * and writes, then the blocks are marked on the loop's thread and waiting
 * writes start.  A read takes the state of the map when it begins; what it races
 * with is a write that has not been answered.
 */
#include "journal/view_internal.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static void start_waiting(struct view_vol *vv);

/* --- small things ---------------------------------------------------------- */

struct view_record *
view_record(struct journal_view *v)
{
    return &v->rec;
}

struct list *
view_link(struct journal_view *v)
{
    return &v->link;
}

struct journal_view *
view_of_link(struct list *l)
{
    return list_entry(l, struct journal_view, link);
}

bool
view_is_broken(const struct journal_view *v)
{
    return v->broken;
}

const struct read_set *
view_set(const struct journal_view *v)
{
    return v->set;
}

void
view_alert(struct journal_view *v, const struct err *err)
{
    /* A client that retries would repeat itself without end. */
    if (strcmp(v->last_alert, err->msg) == 0)
        return;
    memcpy(v->last_alert, err->msg, sizeof v->last_alert);
    v->env->ops.alert(v->env->ops.arg, err);
}

void
view_break(struct journal_view *v, const struct err *why)
{
    char id[UUID_TEXT_SIZE];

    if (v->broken)
        return;
    v->broken = true;
    uuid_format(&v->rec.cfg.id.u, id);
    err_set(&v->why, -EIO, ERR_JNL_0056, "view %s is broken: %s", id, why->msg);
    view_alert(v, &v->why);
}

uint64_t
view_overlay_bytes(const struct journal_view *v)
{
    uint64_t n = 0;

    for (unsigned i = 0; i < v->n; i++)
        if (v->vv[i].ov)
            n += overlay_data_blocks(v->vv[i].ov) * OVERLAY_BLOCK;
    return n;
}

uint64_t
view_vol_blocks(const struct view_vol *vv)
{
    return (vv->dev.info.size + OVERLAY_BLOCK - 1) / OVERLAY_BLOCK;
}

/* Bytes of a block: the last one of a volume may be short. */
uint64_t
view_block_end(const struct view_vol *vv, uint64_t block)
{
    return MIN((block + 1) * OVERLAY_BLOCK, vv->dev.info.size);
}

/* --- draining ----------------------------------------------------------------- */

static void
drain_check(struct io_task *t)
{
    struct journal_view *v = container_of(t, struct journal_view, drain_task);
    void (*done)(void *arg) = v->drained;

    if (!done)
        return;
    if (!list_empty(&v->active) &&
        list_entry(v->active.next, struct vreq, link)->id < v->drain_id)
        return;
    for (unsigned i = 0; v->drain_flushes && i < v->n; i++)
        if (v->vv[i].flush)
            return;
    v->drained = NULL;
    done(v->drain_arg);
}

void
view_drain(struct journal_view *v, bool flushes, void (*done)(void *arg),
           void *arg)
{
    v->drain_flushes = flushes;
    v->drained = done;
    v->drain_arg = arg;
    v->drain_id = v->next_id;
    io_defer(v->env->loop, &v->drain_task);
}

void
view_switch(struct journal_view *v, struct read_set *set)
{
    read_set_unref(v->set);
    v->set = set;
}

/* --- requests --------------------------------------------------------------------- */

struct vreq *
vreq_new(struct view_vol *vv, struct blkdev_req *rq, enum vreq_kind kind,
         uint64_t off, uint64_t len)
{
    struct vreq *q = calloc(1, sizeof *q);

    if (!q)
        return NULL;
    *q = (struct vreq){ .vv = vv,
                        .rq = rq,
                        .kind = kind,
                        .off = off,
                        .len = len,
                        .first = off / OVERLAY_BLOCK };
    q->blocks = (off + len + OVERLAY_BLOCK - 1) / OVERLAY_BLOCK - q->first;
    q->err = (struct err)ERR_INIT;
    list_init(&q->link);
    list_init(&q->lock_link);
    list_init(&q->read_link);
    return q;
}

void
vreq_free(struct vreq *q)
{
    free(q->st);
    free(q);
}

void
vreq_begin(struct vreq *q)
{
    struct journal_view *v = q->vv->v;

    q->id = v->next_id++;
    list_push_back(&v->active, &q->link);
    q->set = v->set ? read_set_ref(v->set) : NULL;
}

void
vreq_start(struct vreq *q)
{
    vreq_begin(q);
    io_work_submit(q->vv->v->env->loop, &q->work);
}

void
vreq_ended(struct vreq *q)
{
    struct journal_view *v = q->vv->v;

    read_set_unref(q->set);
    q->set = NULL;
    list_del(&q->link);
    if (v->drained)
        io_defer(v->env->loop, &v->drain_task);
    if (q->res < 0 && q->err.num < 0)
        view_alert(v, &q->err);
}

/* A device error to a client is EIO, whatever it was here. */
int
view_client_errno(int res)
{
    return res == 0 || res == -ENOSPC || res == -ENOMEM || res == -ECANCELED
               ? res
               : -EIO;
}

int
view_overlay_error(struct vreq *q, int rc, const char *what, uint64_t off)
{
    if (rc < 0)
        err_set(&q->err, rc, ERR_JNL_0054,
                "view of volume %u: the overlay cannot be %s at offset %" PRIu64
                ": %s",
                q->vv->vol, what, off, err_errno(rc));
    return rc;
}

/* --- writes ---------------------------------------------------------------------------- */

static bool
overlaps(const struct vreq *a, const struct vreq *b)
{
    /* clang does not see that a request which is freed was taken off its list.
     * NOLINTNEXTLINE(clang-analyzer-unix.Malloc) */
    return a->first < b->first + b->blocks && b->first < a->first + a->blocks;
}

static bool
blocked_by(const struct vreq *q, struct list *head, const struct list *until)
{
    struct list *l;

    for (l = head->next; l != head && l != until; l = l->next)
        if (overlaps(q, list_entry(l, struct vreq, lock_link)))
            return true;
    return false;
}

/* Write [off, off + len), inside one block; src NULL: zeros. */
static int
write_partial(struct vreq *q, bool copy_up, const uint8_t *src, uint64_t len,
              uint64_t off)
{
    static const uint8_t zeros[OVERLAY_BLOCK];
    uint64_t start = round_down(off, OVERLAY_BLOCK),
             end = view_block_end(q->vv, off / OVERLAY_BLOCK);
    uint8_t *b;
    int rc;

    if (!src)
        src = zeros;
    if (!copy_up)
        return view_overlay_error(q, overlay_write(q->vv->ov, src, len, off),
                                  "written", off);
    b = io_mem_alloc(OVERLAY_BLOCK);
    if (!b)
        return -ENOMEM;
    rc = view_read_part(q, false, b, end - start, start);
    if (rc == 0) {
        memcpy(b + (off - start), src, len);
        rc = view_overlay_error(q,
                                overlay_write(q->vv->ov, b, end - start, start),
                                "written", start);
    }
    io_mem_free(b, OVERLAY_BLOCK);
    return rc;
}

static bool
whole_first(const struct vreq *q)
{
    return q->off % OVERLAY_BLOCK == 0 &&
           q->off + q->len >= view_block_end(q->vv, q->first);
}

static bool
whole_last(const struct vreq *q)
{
    return q->blocks == 1 ? whole_first(q)
                          : q->off + q->len ==
                                view_block_end(q->vv, q->first + q->blocks - 1);
}

static int
write_middle(struct vreq *q, const uint8_t *src, uint64_t len, uint64_t off)
{
    bool keep = q->rq->flags & BLKDEV_NO_HOLE;
    int rc = src ? overlay_write(q->vv->ov, src, len, off)
                 : overlay_zero(q->vv->ov, len, off, keep);

    return view_overlay_error(q, rc, "written", off);
}

static void
run_write(struct io_work *w)
{
    struct vreq *q = container_of(w, struct vreq, work);
    const uint8_t *src = q->kind == VREQ_WRITE ? q->rq->buf : NULL;
    uint64_t off = q->off, end = q->off + q->len;

    if (!whole_first(q)) {
        uint64_t n = MIN(end, view_block_end(q->vv, q->first)) - off;

        q->res = write_partial(q, q->head_up, src, n, off);
        src = src ? src + n : NULL;
        off += n;
    }
    if (q->res == 0 && off < end) {
        uint64_t to = whole_last(q) ? end : round_down(end, OVERLAY_BLOCK);

        if (off < to)
            q->res = write_middle(q, src, to - off, off);
        src = src ? src + (to - off) : NULL;
        off = to;
    }
    if (q->res == 0 && off < end)
        q->res = write_partial(q, q->tail_up, src, end - off, off);
}

static void
mark_written(struct vreq *q)
{
    bool data = q->kind == VREQ_WRITE || q->rq->flags & BLKDEV_NO_HOLE;
    uint64_t first = q->first, n = q->blocks;

    if (!whole_first(q)) {
        overlay_mark(q->vv->ov, first++, 1, true);
        n--;
    }
    if (n > 0 && !whole_last(q))
        overlay_mark(q->vv->ov, first + --n, 1, true);
    overlay_mark(q->vv->ov, first, n, data);
}

void
view_unlock(struct vreq *q)
{
    q->vv->v->reserved -= q->cost;
    list_del(&q->lock_link);
    start_waiting(q->vv);
}

static void
write_done(struct io_work *w)
{
    struct vreq *q = container_of(w, struct vreq, work);
    struct view_vol *vv = q->vv;
    struct blkdev_req *rq = q->rq;
    int res = vv->v->broken ? -EIO : view_client_errno(q->res);

    if (q->res == 0)
        mark_written(q);
    vreq_ended(q);
    view_unlock(q);
    vreq_free(q);
    if (res == 0 && rq->flags & BLKDEV_FUA) {
        list_push_back(&vv->flush_wait, &rq->link);
        view_flush_kick(vv);
        return;
    }
    rq->done(rq, res);
}

/* Blocks of data that the request may add. */
static uint64_t
write_cost(const struct vreq *q)
{
    const struct overlay *ov = q->vv->ov;
    uint64_t cost = 0;

    if (q->kind == VREQ_WRITE || q->rq->flags & BLKDEV_NO_HOLE)
        return overlay_cost(ov, q->first, q->blocks);
    if (!whole_first(q))
        cost += overlay_cost(ov, q->first, 1);
    if (q->blocks > 1 && !whole_last(q))
        cost += overlay_cost(ov, q->first + q->blocks - 1, 1);
    return cost;
}

static int
reserve(struct vreq *q, uint64_t cost)
{
    struct journal_view *v = q->vv->v;
    uint64_t limit = v->rec.cfg.overlay_limit;
    struct err err;

    if (limit > 0 && cost > 0 &&
        view_overlay_bytes(v) + (v->reserved + cost) * OVERLAY_BLOCK > limit) {
        char id[UUID_TEXT_SIZE];

        uuid_format(&v->rec.cfg.id.u, id);
        err_set(&err, -ENOSPC, ERR_JNL_0055,
                "view %s: its overlay has reached the limit of %" PRIu64
                " bytes",
                id, limit);
        if (!v->full_told)
            view_alert(v, &err);
        v->full_told = true;
        return -ENOSPC;
    }
    if (overlay_prepare(q->vv->ov, q->first, q->blocks) < 0)
        return -ENOMEM;
    v->reserved += cost;
    q->cost = cost;
    return 0;
}

/* Its blocks are free: go on, or fail. */
static void
start_writer(struct vreq *q)
{
    struct view_vol *vv = q->vv;
    uint64_t last = q->first + q->blocks - 1;

    list_push_back(&vv->running, &q->lock_link);
    if (q->kind == VREQ_COPY) {
        uint64_t cost = 0;

        for (uint64_t i = 0; i < q->blocks; i++)
            if (q->want[i / 64] >> i % 64 & 1) {
                if (overlay_has(vv->ov, q->first + i))
                    q->want[i / 64] &= ~(UINT64_C(1) << i % 64);
                else
                    cost++;
            }
        q->res = vv->v->broken ? -EIO : reserve(q, cost);
    } else {
        q->head_up = !overlay_has(vv->ov, q->first);
        q->tail_up = !overlay_has(vv->ov, last);
        q->res = vv->v->broken ? -EIO : reserve(q, write_cost(q));
    }
    if (q->res == 0) {
        vreq_start(q);
        return;
    }
    if (q->kind == VREQ_COPY) {
        view_copy_done(q);
    } else {
        struct blkdev_req *rq = q->rq;
        int res = q->res;

        view_unlock(q);
        vreq_free(q);
        rq->done(rq, res);
    }
}

/* The first waiting writer that nothing before it blocks. */
static struct vreq *
next_waiting(struct view_vol *vv)
{
    struct list *l;

    list_for_each (l, &vv->waiting) {
        struct vreq *q = list_entry(l, struct vreq, lock_link);

        if (!blocked_by(q, &vv->running, NULL) && !blocked_by(q, &vv->waiting, l))
            return q;
    }
    return NULL;
}

static void
start_waiting(struct view_vol *vv)
{
    struct vreq *q;

    /* Starting one may end it at once and come back here. */
    while ((q = next_waiting(vv))) {
        list_del(&q->lock_link);
        start_writer(q);
    }
}

void
view_lock_and_start(struct vreq *q)
{
    struct view_vol *vv = q->vv;

    list_push_back(&vv->waiting, &q->lock_link);
    if (blocked_by(q, &vv->running, NULL) ||
        blocked_by(q, &vv->waiting, &q->lock_link))
        return;
    list_del(&q->lock_link);
    start_writer(q);
}

static void
submit_write(struct view_vol *vv, struct blkdev_req *rq)
{
    struct vreq *q =
        vreq_new(vv, rq, rq->op == BLKDEV_WRITE ? VREQ_WRITE : VREQ_ZERO,
                 rq->off, rq->len);

    if (!q) {
        rq->done(rq, -ENOMEM);
        return;
    }
    q->work.run = run_write;
    q->work.done = write_done;
    view_lock_and_start(q);
}

/* --- flush --------------------------------------------------------------------------- */

static void
run_flush(struct io_work *w)
{
    struct view_vol *vv = container_of(w, struct view_vol, flush_work);

    vv->flush_err = (struct err)ERR_INIT;
    vv->flush_res = overlay_flush_run(vv->flush, &vv->flush_err);
}

static void
flush_reply(struct view_vol *vv, int res)
{
    struct list now, *l;

    list_init(&now);
    list_splice_back(&now, &vv->flush_now);
    while ((l = list_pop_front(&now))) {
        struct blkdev_req *rq = list_entry(l, struct blkdev_req, link);

        rq->done(rq, res);
    }
}

static void
flush_done(struct io_work *w)
{
    struct view_vol *vv = container_of(w, struct view_vol, flush_work);
    int res = vv->flush_res;

    overlay_flush_end(vv->flush, res);
    vv->flush = NULL;
    if (res < 0)
        view_break(vv->v, &vv->flush_err);
    if (vv->v->drained)
        io_defer(vv->v->env->loop, &vv->v->drain_task);
    flush_reply(vv, res < 0 ? -EIO : 0);
    view_flush_kick(vv);
}

/* One flush at a time; those that come meanwhile share the next. */
void
view_flush_kick(struct view_vol *vv)
{
    int rc;

    if (vv->flush || list_empty(&vv->flush_wait))
        return;
    list_splice_back(&vv->flush_now, &vv->flush_wait);
    rc = overlay_flush_begin(vv->ov, &vv->flush);
    if (rc < 0) {
        vv->flush = NULL;
        flush_reply(vv, rc);
        return;
    }
    vv->flush_work.run = run_flush;
    vv->flush_work.done = flush_done;
    io_work_submit(vv->v->env->loop, &vv->flush_work);
}

/* --- the block device ------------------------------------------------------------------ */

static void
vol_submit(struct blkdev *d, struct blkdev_req *rq)
{
    struct view_vol *vv = container_of(d, struct view_vol, dev);

    if (vv->v->broken) {
        rq->done(rq, -EIO);
        return;
    }
    if (rq->len == 0 && rq->op != BLKDEV_FLUSH) {
        rq->ext_n = 0;
        rq->done(rq, 0);
        return;
    }
    switch (rq->op) {
    case BLKDEV_READ:
    case BLKDEV_EXTENTS: view_submit_read(vv, rq); return;
    case BLKDEV_ZERO:
        if (rq->flags & BLKDEV_FAST_ZERO && !overlay_can_punch(vv->ov)) {
            rq->done(rq, -EOPNOTSUPP);
            return;
        }
        submit_write(vv, rq);
        return;
    case BLKDEV_WRITE:
    case BLKDEV_TRIM: submit_write(vv, rq); return;
    case BLKDEV_FLUSH:
        list_push_back(&vv->flush_wait, &rq->link);
        view_flush_kick(vv);
        return;
    case BLKDEV_CACHE: rq->done(rq, 0); return;
    }
}

static void
vol_cancel(struct blkdev *d, const void *origin)
{
    struct view_vol *vv = container_of(d, struct view_vol, dev);
    struct list *l, *tmp, gone;

    list_init(&gone);
    list_for_each_safe (l, tmp, &vv->waiting) {
        struct vreq *q = list_entry(l, struct vreq, lock_link);

        if (!q->rq || q->rq->origin != origin)
            continue;
        list_del(l);
        list_push_back(&gone, l);
    }
    while ((l = list_pop_front(&gone))) {
        struct vreq *q = list_entry(l, struct vreq, lock_link);
        struct blkdev_req *rq = q->rq;

        vreq_free(q);
        rq->done(rq, -ECANCELED);
    }
    start_waiting(vv);
}

static void
vol_close(struct blkdev *d)
{
    UNUSED(d); /* the view closes its devices */
}

static const struct blkdev_ops vol_ops = {
    .kind = "view",
    .submit = vol_submit,
    .cancel = vol_cancel,
    .close = vol_close,
};

static void
vol_init(struct journal_view *v, unsigned i)
{
    struct view_vol *vv = &v->vv[i];
    uint16_t vol = v->rec.cfg.vols[i];

    vv->v = v;
    vv->vol = vol;
    vv->dev = (struct blkdev){
        .ops = &vol_ops,
        .loop = v->env->loop,
        .info = { .size = replica_volume_size(v->env->replica, vol),
                  .min_block = 512,
                  .pref_block = OVERLAY_BLOCK,
                  .max_payload = 32 * 1024 * 1024,
                  .features = BLKDEV_CAN_TRIM | BLKDEV_CAN_FAST_ZERO |
                              BLKDEV_CAN_EXTENTS }
    };
    list_init(&vv->running);
    list_init(&vv->waiting);
    list_init(&vv->flush_wait);
    list_init(&vv->flush_now);
}

static struct journal_view *
view_alloc(const struct view_env *env, const struct view_record *rec)
{
    struct journal_view *v =
        calloc(1, sizeof *v + rec->cfg.n_vols * sizeof v->vv[0]);

    if (!v)
        return NULL;
    v->env = env;
    v->rec = *rec;
    v->n = rec->cfg.n_vols;
    list_init(&v->link);
    list_init(&v->active);
    list_init(&v->readers);
    io_task_init(&v->drain_task, drain_check);
    for (unsigned i = 0; i < v->n; i++)
        vol_init(v, i);
    return v;
}

static struct overlay_header
header_of(const struct view_env *env, const struct view_record *rec, unsigned i)
{
    return (struct overlay_header){
        .view = rec->cfg.id,
        .vol = rec->cfg.vols[i],
        .size = replica_volume_size(env->replica, rec->cfg.vols[i])
    };
}

int
view_prepare(const struct view_env *env, const struct view_record *rec,
             bool create, struct read_set *set, struct journal_view **out,
             struct err *err)
{
    struct journal_view *v = view_alloc(env, rec);
    int rc = 0;

    if (!v) {
        read_set_unref(set);
        return err_set(err, -ENOMEM, ERR_GEN_0002, "no memory for a view");
    }
    v->set = set;
    v->cache = chunk_cache_new(VIEW_CACHE_CHUNKS);
    if (!v->cache)
        rc = err_set(err, -ENOMEM, ERR_GEN_0002, "no memory for a view");
    for (unsigned i = 0; rc == 0 && i < v->n; i++) {
        struct overlay_header h = header_of(env, rec, i);

        rc = overlay_open(env->loop, env->dir, &h, create, &v->vv[i].ov, err);
    }
    if (rc < 0) {
        view_free(v);
        if (create)
            view_remove_files(env, rec);
        return rc;
    }
    *out = v;
    return 0;
}

struct journal_view *
view_new_broken(const struct view_env *env, const struct view_record *rec,
                const struct err *why)
{
    struct journal_view *v = view_alloc(env, rec);

    if (v)
        view_break(v, why);
    return v;
}

void
view_free(struct journal_view *v)
{
    if (!v)
        return;
    io_task_cancel(&v->drain_task);
    for (unsigned i = 0; i < v->n; i++)
        overlay_close(v->vv[i].ov);
    while (v->n_idle > 0)
        fetch_free(v->idle[--v->n_idle]);
    read_set_unref(v->set);
    chunk_cache_free(v->cache);
    free(v);
}

void
view_remove_files(const struct view_env *env, const struct view_record *rec)
{
    for (unsigned i = 0; i < rec->cfg.n_vols; i++) {
        struct overlay_header h = header_of(env, rec, i);

        overlay_remove(env->loop, env->dir, &h);
    }
}

/* --- what the room offers to all -------------------------------------------------------- */

struct blkdev *
journal_view_dev(struct journal_view *v, uint16_t vol)
{
    for (unsigned i = 0; i < v->n; i++)
        if (v->vv[i].vol == vol)
            return &v->vv[i].dev;
    return NULL;
}

const struct journal_view_config *
journal_view_config(const struct journal_view *v)
{
    return &v->rec.cfg;
}

void
journal_view_point(const struct journal_view *v, struct journal_point *out)
{
    *out = v->rec.point;
}

bool
journal_view_broken(const struct journal_view *v, struct err *why)
{
    if (v->broken && why)
        *why = v->why;
    return v->broken;
}
