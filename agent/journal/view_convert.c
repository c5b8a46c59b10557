/* Conversion of a view, before promotion changes what it reads (datapath.md
 * 3.6): see view.h. */
#include "journal/view_internal.h"

#include <stdlib.h>
#include <string.h>

enum {
    CONVERT_WINDOWS = 64
};

struct copy_window {
    struct view_vol *vv;
    uint64_t first; /* a multiple of COPY_BLOCKS */
    uint64_t want[COPY_WORDS];
};

struct convert {
    struct journal_view *v;
    struct read_set *group;
    struct set_scan *scan;
    struct io_work work;
    struct ext_rec held; /* what the last window did not take */
    struct copy_window w[CONVERT_WINDOWS];
    size_t n, i;
    bool scanned;
    unsigned flushed;
    struct blkdev_req flush;
    int res;
    struct err err;
    void (*done)(void *arg, int res, const struct err *err);
    void *arg;
};

static void convert_go(struct convert *cv);

static struct view_vol *
vol_of(struct journal_view *v, uint16_t vol)
{
    for (unsigned i = 0; i < v->n; i++)
        if (v->vv[i].vol == vol)
            return &v->vv[i];
    return NULL;
}

/* Put the front of cv->held into a window; false: no window is free. */
static bool
window_take(struct convert *cv)
{
    struct ext_rec *r = &cv->held;
    struct view_vol *vv = vol_of(cv->v, (uint16_t)(r->key >> EXT_VOL_SHIFT));
    uint64_t off = (r->key & EXT_OFF_MASK) * 512, b = off / OVERLAY_BLOCK,
             end = off + (uint64_t)r->len512 * 512, first, stop;
    struct copy_window *w = cv->n ? &cv->w[cv->n - 1] : NULL;

    if (!vv || off >= vv->dev.info.size) {
        r->len512 = 0;
        return true;
    }
    first = round_down(b, COPY_BLOCKS);
    if (!w || w->vv != vv || w->first != first) {
        if (cv->n == CONVERT_WINDOWS)
            return false;
        w = &cv->w[cv->n++];
        *w = (struct copy_window){ .vv = vv, .first = first };
    }
    stop = MIN(end, (first + COPY_BLOCKS) * OVERLAY_BLOCK);
    for (; b * OVERLAY_BLOCK < stop && b < view_vol_blocks(vv); b++)
        w->want[(b - first) / 64] |= UINT64_C(1) << (b - first) % 64;
    if (stop == end)
        r->len512 = 0;
    else
        *r = ext_clip(r, r->key + (stop - off) / 512, ext_end(r));
    return true;
}

static void
run_scan_group(struct io_work *w)
{
    struct convert *cv = container_of(w, struct convert, work);
    struct rec_iter *it;

    cv->n = cv->i = 0;
    if (!cv->scan)
        cv->res = set_scan_new(cv->group, &cv->scan, &cv->err);
    if (cv->res < 0)
        return;
    it = set_scan_records(cv->scan);
    for (;;) {
        int rc;

        while (cv->held.len512 > 0)
            if (!window_take(cv))
                return;
        rc = it->next(it, &cv->held, &cv->err);
        if (rc <= 0) {
            cv->held.len512 = 0;
            cv->res = rc;
            cv->scanned = true;
            return;
        }
    }
}

static void
scan_group_done(struct io_work *w)
{
    convert_go(container_of(w, struct convert, work));
}

/* Copy the stretch of wanted blocks [b, e) of a window through the view. */
static int
copy_stretch(struct vreq *q, uint8_t *buf, uint64_t b, uint64_t e)
{
    uint64_t off = (q->first + b) * OVERLAY_BLOCK,
             len = view_block_end(q->vv, q->first + e - 1) - off;
    int rc = view_read_part(q, false, buf, len, off);

    if (rc < 0)
        return rc;
    if (bytes_all_zero(buf, len))
        return view_overlay_error(q, overlay_zero(q->vv->ov, len, off, false),
                                  "written", off);
    for (; b < e; b++)
        q->data[b / 64] |= UINT64_C(1) << b % 64;
    return view_overlay_error(q, overlay_write(q->vv->ov, buf, len, off),
                              "written", off);
}

static bool
wanted(const struct vreq *q, uint64_t b)
{
    return q->want[b / 64] >> b % 64 & 1;
}

static void
run_copy(struct io_work *w)
{
    struct vreq *q = container_of(w, struct vreq, work);
    uint8_t *buf = io_mem_alloc(COPY_MEM);

    if (!buf) {
        q->res = err_set(&q->err, -ENOMEM, ERR_GEN_0002,
                         "no memory to convert a view");
        return;
    }
    for (uint64_t b = 0, e; q->res == 0 && b < q->blocks; b = e) {
        e = b + 1;
        if (!wanted(q, b))
            continue;
        while (e < q->blocks && wanted(q, e))
            e++;
        q->res = copy_stretch(q, buf, b, e);
    }
    io_mem_free(buf, COPY_MEM);
}

void
view_copy_done(struct vreq *q)
{
    struct convert *cv = q->cv;

    if (q->res < 0) {
        cv->res = q->res;
        if (q->err.num < 0)
            cv->err = q->err;
        else
            err_set(&cv->err, q->res, ERR_JNL_0055,
                    "its overlay cannot take what promotion is to change: %s",
                    err_errno(q->res));
    } else {
        for (uint64_t b = 0; b < q->blocks; b++)
            if (wanted(q, b))
                overlay_mark(q->vv->ov, q->first + b, 1,
                             q->data[b / 64] >> b % 64 & 1);
    }
    view_unlock(q);
    vreq_free(q);
    convert_go(cv);
}

static void
copy_work_done(struct io_work *w)
{
    struct vreq *q = container_of(w, struct vreq, work);

    vreq_ended(q);
    view_copy_done(q);
}

static void
copy_window(struct convert *cv, const struct copy_window *w)
{
    uint64_t blocks =
        MIN(view_vol_blocks(w->vv) - w->first, (uint64_t)COPY_BLOCKS);
    struct vreq *q = vreq_new(w->vv, NULL, VREQ_COPY, w->first * OVERLAY_BLOCK,
                              blocks * OVERLAY_BLOCK);

    if (!q) {
        cv->res = err_set(&cv->err, -ENOMEM, ERR_GEN_0002,
                          "no memory to convert a view");
        convert_go(cv);
        return;
    }
    q->cv = cv;
    memcpy(q->want, w->want, sizeof q->want);
    q->work.run = run_copy;
    q->work.done = copy_work_done;
    view_lock_and_start(q);
}

static void
convert_flushed(struct blkdev_req *rq, int res)
{
    struct convert *cv = container_of(rq, struct convert, flush);

    if (res < 0)
        cv->res = err_set(&cv->err, res, ERR_JNL_0054,
                          "its overlay cannot be flushed: %s", err_errno(res));
    cv->flushed++;
    convert_go(cv);
}

/* The next step, whatever it is. */
static void
convert_go(struct convert *cv)
{
    struct journal_view *v = cv->v;

    if (cv->res == 0 && v->broken)
        cv->res = err_set(&cv->err, -EIO, ERR_JNL_0056, "%s", v->why.msg);
    if (cv->res == 0 && cv->i < cv->n) {
        copy_window(cv, &cv->w[cv->i++]);
        return;
    }
    if (cv->res == 0 && !cv->scanned) {
        io_work_submit(v->env->loop, &cv->work);
        return;
    }
    if (cv->res == 0 && cv->flushed < v->n) {
        struct view_vol *vv = &v->vv[cv->flushed];

        cv->flush.done = convert_flushed;
        list_push_back(&vv->flush_wait, &cv->flush.link);
        view_flush_kick(vv);
        return;
    }
    set_scan_free(cv->scan);
    read_set_unref(cv->group);
    cv->done(cv->arg, cv->res, &cv->err);
    free(cv);
}

void
view_convert(struct journal_view *v, struct read_set *group,
             void (*done)(void *arg, int res, const struct err *err), void *arg)
{
    struct convert *cv = calloc(1, sizeof *cv);
    struct err err = ERR_INIT;

    if (!cv) {
        err_set(&err, -ENOMEM, ERR_GEN_0002, "no memory to convert a view");
        done(arg, -ENOMEM, &err);
        return;
    }
    cv->v = v;
    cv->group = read_set_ref(group);
    cv->work.run = run_scan_group;
    cv->work.done = scan_group_done;
    cv->done = done;
    cv->arg = arg;
    convert_go(cv);
}
