/* room: journal lane io common */
/* The whole index over a log in memory: random histories with runs, merges,
 * promotions, conversions, restarts and several views at once, each compared
 * with an image replayed entry by entry (I15); damage; straight writes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/crc32c.h"
#include "journal/view.h"
#include "tests/unit/helper_index.h"
#include "tests/unit/helper_io.h"

enum {
    VIEWS_MAX = 6,
    WAIT_MS = 20000,
    IO_MAX = 256 * 1024,
};

struct model_view {
    struct journal_view *v;
    struct view_id id;
    uint64_t seq;
    uint8_t *image[FAKE_VOLS];   /* what it must read */
    uint8_t *flushed[FAKE_VOLS]; /* the same at the last flush */
};

/* What the manifest would hold. */
struct durable {
    struct run_info runs[4096];
    size_t n_runs;
    struct view_record views[16];
    size_t n_views;
    uint64_t promoted;
};

static struct {
    struct io_loop *loop;
    char *dir;
    struct fake_log log;
    struct durable disk;
    struct jindex *ix;
    uint32_t first_seg; /* oldest that is left */
    struct model_view views[VIEWS_MAX];
    unsigned alerts, view_breaks;
    struct err last_alert;
    bool fail_records, started;
    uint8_t *buf;
    struct vpg_id vpg;
} t;

/* --- the manifest's stand-in ---------------------------------------------------- */

struct recording {
    struct io_task task;
    void (*done)(void *arg, int res);
    void *arg;
    int res;
};

static void
recorded(struct io_task *task)
{
    struct recording *r = container_of(task, struct recording, task);

    r->done(r->arg, r->res);
    free(r);
}

static struct view_record *
disk_view(const struct view_id *id)
{
    for (size_t i = 0; i < t.disk.n_views; i++)
        if (uuid_equal(&t.disk.views[i].cfg.id.u, &id->u))
            return &t.disk.views[i];
    return NULL;
}

static void
record(void *arg, const struct jindex_record *r,
       void (*done)(void *done_arg, int res), void *done_arg)
{
    struct recording *rec = calloc(1, sizeof *rec);
    struct durable *d = &t.disk;

    rec->done = done;
    rec->arg = done_arg;
    rec->res = t.fail_records ? -EIO : 0;
    if (!t.fail_records) {
        switch (r->kind) {
        case JINDEX_RUN_ADD: d->runs[d->n_runs++] = r->u.run; break;
        case JINDEX_PIN_ADD: d->views[d->n_views++] = *r->u.view; break;
        case JINDEX_PIN_DEL:
            *disk_view(&r->u.view->cfg.id) = d->views[d->n_views - 1];
            d->n_views--;
            break;
        case JINDEX_VIEW_BASE:
            disk_view(&r->u.view->cfg.id)->base_seq = r->u.view->base_seq;
            break;
        case JINDEX_BAD: break;
        }
    }
    io_task_init(&rec->task, recorded);
    io_defer(t.loop, &rec->task);
}

static void
alerted(void *arg, const struct err *err)
{
    t.alerts++;
    t.view_breaks += err->code == ERR_JNL_0056;
    t.last_alert = *err;
}

static void
released(void *arg)
{
}

/* --- waiting -------------------------------------------------------------------- */

struct waiter {
    bool done;
    int res;
    struct journal_view *v;
    struct err err;
};

static void
wait_for(struct waiter *w)
{
    assert_true(helper_turn_until(t.loop, &w->done, WAIT_MS));
}

static void
done_res(void *arg, int res)
{
    struct waiter *w = arg;

    w->res = res;
    w->done = true;
}

static void
done_bytes(void *arg, int res, uint64_t bytes)
{
    done_res(arg, res);
}

static void
done_void(void *arg)
{
    done_res(arg, 0);
}

static void
done_view(void *arg, struct journal_view *v, int res, const struct err *err)
{
    struct waiter *w = arg;

    w->v = v;
    if (res < 0)
        w->err = *err;
    done_res(arg, res);
}

static void
until_idle(void)
{
    struct jindex_stats st = { .idle = false };

    for (unsigned i = 0; i < 200000 && !st.idle; i++) {
        io_loop_turn(t.loop, NSEC_PER_MSEC / 10);
        jindex_stats(t.ix, &st);
    }
    assert_true(st.idle);
}

/* --- life ------------------------------------------------------------------------- */

static void
open_index(void)
{
    struct journal_volume vols[FAKE_VOLS];
    struct jindex_config cfg = {
        .loop = t.loop,
        .dir = t.dir,
        .vpg = t.vpg,
        .lane = 3,
        .volumes = vols,
        .n_volumes = FAKE_VOLS,
        .merge_fan = 4,
        .seg = fake_ops(&t.log),
        .ops = { .record = record, .alert = alerted, .released = released }
    };
    struct waiter w = { .done = false };
    struct err err = ERR_INIT;

    for (uint16_t i = 0; i < FAKE_VOLS; i++)
        vols[i] = (struct journal_volume){ i, t.log.sizes[i] };
    if (jindex_new(&cfg, &t.ix, &err) < 0)
        fail_msg("%s", err.msg);
    for (uint32_t i = t.first_seg; i < t.log.n_segs; i++) {
        struct seg_info s = { .no = i,
                              .first_seq = t.log.segs[i].first_seq,
                              .last_seq = t.log.segs[i].last_seq,
                              .sealed = t.log.segs[i].sealed };

        assert_int_equal(jindex_load_segment(t.ix, &s), 0);
    }
    for (size_t i = 0; i < t.disk.n_runs; i++)
        assert_int_equal(jindex_load_run(t.ix, &t.disk.runs[i]), 0);
    for (size_t i = 0; i < t.disk.n_views; i++)
        assert_int_equal(jindex_load_view(t.ix, &t.disk.views[i]), 0);
    jindex_load_promoted(t.ix, t.disk.promoted);
    jindex_start(t.ix, done_res, &w);
    wait_for(&w);
    assert_int_equal(w.res, 0);
}

static void
close_index(void)
{
    struct waiter w = { .done = false };

    jindex_close(t.ix, done_void, &w);
    wait_for(&w);
    t.ix = NULL;
}

static void
begin(uint64_t seed, unsigned workers, uint64_t size0, uint64_t size1)
{
    uint64_t sizes[FAKE_VOLS] = { size0, size1 };

    memset(&t, 0, sizeof t);
    t.loop = helper_loop(IO_BACKEND_EPOLL, workers);
    t.dir = helper_tmpdir("/dev/shm");
    t.buf = io_mem_alloc(IO_MAX);
    assert_true(t.loop && t.dir && t.buf);
    fake_init(&t.log, seed, sizes);
    for (unsigned i = 0; i < 16; i++)
        t.vpg.u.b[i] = (uint8_t)(0x50 + i);
    fake_open_segment(&t.log);
    open_index();
}

static void
forget_model(struct model_view *m)
{
    for (unsigned i = 0; i < FAKE_VOLS; i++) {
        free(m->image[i]);
        free(m->flushed[i]);
    }
    *m = (struct model_view){ .v = NULL };
}

static void
end(void)
{
    close_index();
    for (unsigned i = 0; i < VIEWS_MAX; i++)
        forget_model(&t.views[i]);
    assert_int_equal(t.log.reads_of_gone, 0);
    fake_release(&t.log);
    io_mem_free(t.buf, IO_MAX);
    io_loop_free(t.loop);
    helper_rmdir(t.dir);
}

/* --- steps -------------------------------------------------------------------------- */

static void
append(unsigned n)
{
    while (n-- > 0) {
        fake_append(&t.log);
        if (fake_below(&t.log, 25) == 0) {
            const struct fake_seg *s = &t.log.segs[t.log.n_segs - 1];
            uint32_t no = t.log.n_segs - 1;

            fake_seal(&t.log);
            jindex_segment_sealed(t.ix, no, s->first_seq, s->last_seq);
            fake_open_segment(&t.log);
            assert_int_equal(jindex_segment_opened(t.ix, t.log.n_segs - 1,
                                                   t.log.seq + 1),
                             0);
        }
    }
}

static struct waiter
open_view(uint64_t seq, uint64_t limit)
{
    struct journal_view_config cfg = { .cut_no = seq, .overlay_limit = limit };
    struct journal_point point = { .cut_no = seq, .seq = seq };
    struct waiter w = { .done = false };

    for (unsigned i = 0; i < 16; i++)
        cfg.id.u.b[i] = (uint8_t)fake_rand(&t.log);
    jindex_view_open(t.ix, &cfg, &point, done_view, &w);
    wait_for(&w);
    return w;
}

static struct model_view *
open_model(uint64_t seq, uint64_t limit)
{
    struct model_view *m = NULL;
    struct waiter w;

    for (unsigned i = 0; i < VIEWS_MAX && !m; i++)
        if (!t.views[i].v)
            m = &t.views[i];
    if (!m)
        return NULL;
    w = open_view(seq, limit);
    if (w.res < 0)
        fail_msg("view at %llu: %s", (unsigned long long)seq, w.err.msg);
    m->v = w.v;
    m->seq = seq;
    m->id = journal_view_config(w.v)->id;
    for (uint16_t i = 0; i < FAKE_VOLS; i++) {
        m->image[i] = calloc(1, t.log.sizes[i]);
        m->flushed[i] = malloc(t.log.sizes[i]);
        fake_replay(&t.log, i, 0, seq, m->image[i]);
        memcpy(m->flushed[i], m->image[i], t.log.sizes[i]);
    }
    return m;
}

struct request {
    struct blkdev_req rq;
    struct waiter w;
};

static void
request_done(struct blkdev_req *rq, int res)
{
    done_res(&container_of(rq, struct request, rq)->w, res);
}

static int
request(struct journal_view *v, uint16_t vol, enum blkdev_op op, unsigned flags,
        uint64_t off, uint64_t len, void *buf)
{
    struct request r = { .rq = { .op = op,
                                 .flags = flags,
                                 .off = off,
                                 .len = len,
                                 .buf = buf,
                                 .done = request_done } };
    struct blkdev *d = journal_view_dev(v, vol);

    assert_int_equal(blkdev_check(d, &r.rq), 0);
    blkdev_submit(d, &r.rq);
    wait_for(&r.w);
    return r.w.res;
}

static void
compare_view(struct model_view *m, unsigned max_io)
{
    for (uint16_t vol = 0; vol < FAKE_VOLS; vol++) {
        uint64_t size = t.log.sizes[vol];

        for (uint64_t off = 0, n; off < size; off += n) {
            const char *diff;

            n = 512 * (1 + fake_below(&t.log, max_io / 512));
            n = MIN(n, size - off);
            assert_int_equal(request(m->v, vol, BLKDEV_READ, 0, off, n, t.buf),
                             0);
            diff = fake_differ(t.buf, m->image[vol] + off, n);
            if (diff)
                fail_msg("view at %llu, volume %u, %llu + %llu: %s",
                         (unsigned long long)m->seq, vol,
                         (unsigned long long)off, (unsigned long long)n, diff);
        }
    }
}

static void
write_view(struct model_view *m)
{
    uint16_t vol = (uint16_t)fake_below(&t.log, FAKE_VOLS);
    uint64_t blocks = t.log.sizes[vol] / 512,
             n = 1 + fake_below(&t.log, MIN(blocks, 60)),
             off = fake_below(&t.log, blocks - n + 1) * 512, len = n * 512;
    unsigned flags = fake_below(&t.log, 10) == 0 ? BLKDEV_FUA : 0;

    if (fake_below(&t.log, 3) == 0) {
        enum blkdev_op op = fake_below(&t.log, 2) ? BLKDEV_ZERO : BLKDEV_TRIM;

        if (op == BLKDEV_ZERO && fake_below(&t.log, 2))
            flags |= BLKDEV_NO_HOLE;
        assert_int_equal(request(m->v, vol, op, flags, off, len, NULL), 0);
        memset(m->image[vol] + off, 0, len);
    } else {
        for (uint64_t i = 0; i < len; i++)
            t.buf[i] = (uint8_t)fake_rand(&t.log);
        assert_int_equal(request(m->v, vol, BLKDEV_WRITE, flags, off, len, t.buf),
                         0);
        memcpy(m->image[vol] + off, t.buf, len);
    }
}

static void
flush_view(struct model_view *m)
{
    for (uint16_t vol = 0; vol < FAKE_VOLS; vol++) {
        assert_int_equal(request(m->v, vol, BLKDEV_FLUSH, 0, 0, 0, NULL), 0);
        memcpy(m->flushed[vol], m->image[vol], t.log.sizes[vol]);
    }
}

static void
discard_view(struct model_view *m)
{
    struct waiter w = { .done = false };

    jindex_view_discard(t.ix, m->v, done_void, &w);
    wait_for(&w);
    forget_model(m);
}

/* What retention does once PROMOTED is durable. */
static void
recycle(void)
{
    struct run_info dead[64];
    size_t n = jindex_dead_runs(t.ix, dead, ARRAY_SIZE(dead));

    for (size_t i = 0; i < n; i++) {
        for (size_t k = 0; k < t.disk.n_runs; k++)
            if (t.disk.runs[k].level == dead[i].level &&
                t.disk.runs[k].first_seg == dead[i].first_seg)
                t.disk.runs[k--] = t.disk.runs[--t.disk.n_runs];
        jindex_delete_run(t.ix, &dead[i]);
    }
    while (t.first_seg + 1 < t.log.n_segs &&
           jindex_segment_free(t.ix, t.first_seg)) {
        jindex_drop_segment(t.ix, t.first_seg);
        pthread_mutex_lock(&t.log.lock);
        t.log.segs[t.first_seg++].gone = true;
        pthread_mutex_unlock(&t.log.lock);
    }
}

static int
promote(uint64_t to)
{
    struct waiter w = { .done = false };

    jindex_convert(t.ix, to, done_res, &w);
    wait_for(&w);
    if (w.res < 0)
        return w.res;
    w.done = false;
    jindex_promote(t.ix, to, done_bytes, &w);
    wait_for(&w);
    if (w.res < 0)
        return w.res;
    t.disk.promoted = to;
    jindex_promoted(t.ix, to);
    recycle();
    return 0;
}

/* The replica files are the image as of PROMOTED. */
static void
compare_replica(void)
{
    for (uint16_t vol = 0; vol < FAKE_VOLS; vol++) {
        uint8_t *want = calloc(1, t.log.sizes[vol]), *have;
        char path[512];
        size_t len;
        const char *diff;

        fake_replay(&t.log, vol, 0, t.disk.promoted, want);
        (void)snprintf(path, sizeof path, "%s/replica.%03u", t.dir, vol);
        assert_int_equal(io_read_whole(t.loop, path, 64 * MIB, &have, &len, NULL),
                         0);
        assert_int_equal(len, t.log.sizes[vol]);
        diff = fake_differ(have, want, len);
        if (diff)
            fail_msg("replica %u at %llu: %s", vol,
                     (unsigned long long)t.disk.promoted, diff);
        free(have);
        free(want);
    }
}

static void
restart(void)
{
    struct journal_view *open[16];
    size_t n;

    for (unsigned i = 0; i < VIEWS_MAX; i++)
        if (t.views[i].v)
            flush_view(&t.views[i]);
    close_index();
    open_index();
    n = jindex_views(t.ix, open, ARRAY_SIZE(open));
    for (unsigned i = 0; i < VIEWS_MAX; i++) {
        struct model_view *m = &t.views[i];

        if (!m->v)
            continue;
        m->v = NULL;
        for (size_t k = 0; k < n; k++)
            if (uuid_equal(&journal_view_config(open[k])->id.u, &m->id.u))
                m->v = open[k];
        assert_non_null(m->v);
        assert_false(journal_view_broken(m->v, NULL));
    }
}

static struct model_view *
some_view(void)
{
    struct model_view *m = &t.views[fake_below(&t.log, VIEWS_MAX)];

    return m->v ? m : NULL;
}

static void
random_step(void)
{
    struct model_view *m = some_view();
    uint64_t lowest = t.disk.promoted, span = t.log.seq - lowest;

    switch (fake_below(&t.log, 10)) {
    case 0:
    case 1:
    case 2: append((unsigned)fake_below(&t.log, 80)); break;
    case 3:
        m = open_model(lowest + fake_below(&t.log, span + 1), 0);
        if (m)
            compare_view(m, IO_MAX);
        break;
    case 4:
    case 5:
        for (unsigned i = 0; m && i < 12; i++)
            write_view(m);
        break;
    case 6:
        if (m)
            compare_view(m, fake_below(&t.log, 2) ? IO_MAX : 8192);
        break;
    case 7:
        if (span > 40) {
            assert_int_equal(promote(lowest + fake_below(&t.log, span / 2)), 0);
            compare_replica();
        }
        break;
    case 8:
        if (m && fake_below(&t.log, 3) == 0)
            discard_view(m);
        break;
    case 9:
        if (fake_below(&t.log, 3) == 0)
            restart();
        break;
    }
}

static void
histories(void **state)
{
    for (uint64_t seed = 1; seed <= 12; seed++) {
        begin(seed, seed % 3, 1536 * 1024 + 512 * seed, 700 * 1024);
        append(100);
        for (unsigned i = 0; i < 60; i++)
            random_step();
        for (unsigned i = 0; i < VIEWS_MAX; i++)
            if (t.views[i].v)
                compare_view(&t.views[i], IO_MAX);
        until_idle();
        recycle();
        for (unsigned i = 0; i < VIEWS_MAX; i++)
            if (t.views[i].v) {
                compare_view(&t.views[i], IO_MAX);
                discard_view(&t.views[i]);
            }
        assert_int_equal(t.alerts, 0);
        end();
    }
}

/* --- requests in flight while promotion and conversion go on ------------------- */

enum {
    FLIGHT = 24
};

struct flight {
    struct blkdev_req rq;
    struct model_view *m;
    uint16_t vol;
    uint8_t *buf;
    bool busy;
    unsigned *errors;
};

static void
flight_done(struct blkdev_req *rq, int res)
{
    struct flight *f = container_of(rq, struct flight, rq);

    f->busy = false;
    if (res < 0 || (rq->op == BLKDEV_READ &&
                    fake_differ(f->buf, f->m->image[f->vol] + rq->off, rq->len)))
        ++*f->errors;
}

/* Writers and readers keep to halves of their own, so that what a read must
 * give is known: writes go to even, reads to odd stretches of 16 KiB. */
static void
flight_start(struct flight *f)
{
    uint64_t n, slot;

    f->vol = (uint16_t)fake_below(&t.log, FAKE_VOLS);
    n = t.log.sizes[f->vol] / 32768;
    slot = fake_below(&t.log, n);
    f->rq = (struct blkdev_req){ .op = fake_below(&t.log, 2) ? BLKDEV_READ
                                                             : BLKDEV_WRITE,
                                 .len = 512 * (1 + fake_below(&t.log, 16)),
                                 .buf = f->buf,
                                 .done = flight_done };
    f->rq.off = slot * 32768 + fake_below(&t.log, 8) * 1024;
    if (f->rq.op == BLKDEV_READ) {
        f->rq.off += 16384;
    } else {
        memset(f->buf, (int)fake_below(&t.log, 256), f->rq.len);
        /* Two writes of one place may end either way: the second one's model
         * holds because they run in order. */
        memcpy(f->m->image[f->vol] + f->rq.off, f->buf, f->rq.len);
    }
    f->busy = true;
    blkdev_submit(journal_view_dev(f->m->v, f->vol), &f->rq);
}

static void
keep_flying(struct flight *f, const bool *until)
{
    for (unsigned turn = 0; turn < 200000 && !*until; turn++) {
        for (unsigned i = 0; i < FLIGHT; i++)
            if (!f[i].busy)
                flight_start(&f[i]);
        io_loop_turn(t.loop, NSEC_PER_MSEC);
    }
    assert_true(*until);
}

static void
in_flight(void **state)
{
    for (uint64_t seed = 50; seed < 54; seed++) {
        struct flight f[FLIGHT] = { { .busy = false } };
        struct model_view *m;
        unsigned errors = 0;
        bool landed = false;

        begin(seed, 2, 2048 * 1024, 1024 * 1024);
        append(300);
        m = open_model(t.log.seq / 3, 0);
        for (unsigned i = 0; i < FLIGHT; i++) {
            f[i].m = m;
            f[i].buf = io_mem_alloc(65536);
            f[i].errors = &errors;
        }
        /* Three groups: below, across and far above the view's moment. */
        for (unsigned k = 0; k < 3; k++) {
            uint64_t to = t.log.seq * (k + 1) / 4;
            struct waiter w = { .done = false };

            jindex_convert(t.ix, to, done_res, &w);
            keep_flying(f, &w.done);
            assert_int_equal(w.res, 0);
            w.done = false;
            jindex_promote(t.ix, to, done_bytes, &w);
            keep_flying(f, &w.done);
            assert_int_equal(w.res, 0);
            t.disk.promoted = to;
            jindex_promoted(t.ix, to);
            recycle();
        }
        while (!landed) {
            landed = true;
            io_loop_turn(t.loop, NSEC_PER_MSEC);
            for (unsigned i = 0; i < FLIGHT; i++)
                landed = landed && !f[i].busy;
        }
        assert_int_equal(errors, 0);
        assert_false(journal_view_broken(m->v, NULL));
        compare_view(m, IO_MAX);
        compare_replica();
        for (unsigned i = 0; i < FLIGHT; i++)
            io_mem_free(f[i].buf, 65536);
        end();
    }
}

/* --- damage ------------------------------------------------------------------------ */

static void
damaged_chunk(void **state)
{
    struct waiter w = { .done = false };
    struct model_view *m;

    begin(7, 1, 4 * MIB, 64 * 1024);
    fake_append_range(&t.log, ENTRY_WRITE, 0, 0, 65536);
    fake_append_range(&t.log, ENTRY_WRITE, 0, 1 * MIB, 4096);
    fake_append_range(&t.log, ENTRY_WRITE, 0, 2 * MIB, 4096);
    m = open_model(t.log.seq, 0);
    fake_damage(&t.log, 0, t.log.segs[0].entries[1].e.chunk);
    assert_int_equal(request(m->v, 0, BLKDEV_READ, 0, 1 * MIB, 4096, t.buf),
                     -EIO);
    assert_int_equal(t.alerts, 1);
    assert_non_null(strstr(t.last_alert.msg, "chunk"));
    /* The same again says nothing new; what is sound is still read. */
    assert_int_equal(request(m->v, 0, BLKDEV_READ, 0, 1 * MIB, 4096, t.buf),
                     -EIO);
    assert_int_equal(t.alerts, 1);
    assert_int_equal(request(m->v, 0, BLKDEV_READ, 0, 2 * MIB, 4096, t.buf), 0);
    assert_memory_equal(t.buf, m->image[0] + 2 * MIB, 4096);
    /* A write into part of the block cannot copy the rest up. */
    assert_int_equal(request(m->v, 0, BLKDEV_WRITE, 0, 1 * MIB, 512, t.buf),
                     -EIO);
    assert_int_equal(request(m->v, 0, BLKDEV_WRITE, 0, 1 * MIB, 4096, t.buf), 0);
    /* Promotion stops before it and says so. */
    jindex_promote(t.ix, t.log.seq, done_bytes, &w);
    wait_for(&w);
    assert_int_equal(w.res, -EBADMSG);
    assert_int_equal(t.last_alert.code, ERR_JNL_0059);
    end();
}

static void
damaged_run(void **state)
{
    char path[512], name[RUN_NAME_MAX];
    struct model_view *m;
    struct waiter w;
    uint8_t *file;
    size_t len;

    begin(9, 1, 4 * MIB, 64 * 1024);
    for (unsigned i = 0; i < 400; i++)
        fake_append_range(&t.log, ENTRY_WRITE, 0, (i * 37 % 400) * 8192, 4096);
    fake_seal(&t.log);
    jindex_segment_sealed(t.ix, 0, 1, t.log.seq);
    fake_open_segment(&t.log);
    assert_int_equal(jindex_segment_opened(t.ix, 1, t.log.seq + 1), 0);
    until_idle();
    assert_int_equal(t.disk.n_runs, 1);
    run_name(&t.disk.runs[0], name);
    (void)snprintf(path, sizeof path, "%s/%s", t.dir, name);
    assert_int_equal(io_read_whole(t.loop, path, 1 << 20, &file, &len, NULL), 0);
    file[RUN_PAGE + 100] ^= 1; /* in the first page of records */
    assert_int_equal(io_replace_whole(t.loop, path, file, len, NULL), 0);
    m = open_model(t.log.seq, 0);
    assert_int_equal(request(m->v, 0, BLKDEV_READ, 0, 0, 4096, t.buf), -EIO);
    assert_int_equal(t.last_alert.code, ERR_JNL_0051);
    assert_non_null(strstr(t.last_alert.msg, name));
    /* Other pages are sound. */
    assert_int_equal(request(m->v, 0, BLKDEV_READ, 0, 350 * 8192, 4096, t.buf),
                     0);
    assert_memory_equal(t.buf, m->image[0] + 350 * 8192, 4096);
    discard_view(m);
    /* Damage in the footer: the view does not open. */
    file[len - 4096 + 20] ^= 1;
    assert_int_equal(io_replace_whole(t.loop, path, file, len, NULL), 0);
    w = open_view(t.log.seq, 0);
    assert_int_equal(w.res, -EBADMSG);
    assert_null(w.v);
    assert_int_equal(w.err.code, ERR_JNL_0051);
    free(file);
    end();
}

/* --- what is not known ------------------------------------------------------------- */

static void
unknown_content(void **state)
{
    struct model_view *m;

    begin(11, 1, 4 * MIB, 64 * 1024);
    fake_append_range(&t.log, ENTRY_WRITE, 0, 0, 65536);
    fake_append_range(&t.log, ENTRY_DIRTY, 0, 8192, 4096);
    m = open_model(t.log.seq, 0);
    assert_int_equal(request(m->v, 0, BLKDEV_READ, 0, 8192, 4096, t.buf), -EIO);
    assert_int_equal(t.last_alert.code, ERR_JNL_0058);
    assert_int_equal(request(m->v, 0, BLKDEV_READ, 0, 4096, 4096, t.buf), 0);
    /* It stays unknown in the replica, until a write covers it. */
    assert_int_equal(promote(t.log.seq), 0);
    discard_view(m);
    m = open_model(t.log.seq, 0);
    t.last_alert = (struct err)ERR_INIT;
    assert_int_equal(request(m->v, 0, BLKDEV_READ, 0, 8192, 512, t.buf), -EIO);
    assert_int_equal(t.last_alert.code, ERR_JNL_0058);
    assert_int_equal(request(m->v, 0, BLKDEV_READ, 0, 12288, 512, t.buf), 0);
    discard_view(m);
    fake_append_range(&t.log, ENTRY_WRITE, 0, 8192, 4096);
    assert_int_equal(promote(t.log.seq), 0);
    m = open_model(t.log.seq, 0);
    compare_view(m, IO_MAX);
    end();
}

/* --- limits ---------------------------------------------------------------------------- */

static void
overlay_limit(void **state)
{
    struct model_view *m, *n;
    struct err why = ERR_INIT;

    begin(13, 1, 4 * MIB, 64 * 1024);
    for (unsigned i = 0; i < 64; i++)
        fake_append_range(&t.log, ENTRY_WRITE, 0, i * 65536, 4096);
    m = open_model(10, 16 * 4096);
    n = open_model(10, 0);
    /* Zeros cost nothing, rewriting neither, the seventeenth block is refused. */
    assert_int_equal(request(m->v, 0, BLKDEV_TRIM, 0, 0, 4 * MIB, NULL), 0);
    assert_int_equal(request(m->v, 0, BLKDEV_WRITE, 0, 0, 65536, t.buf), 0);
    assert_int_equal(request(m->v, 0, BLKDEV_WRITE, 0, 0, 65536, t.buf), 0);
    assert_int_equal(request(m->v, 0, BLKDEV_WRITE, 0, MIB, 4096, t.buf),
                     -ENOSPC);
    assert_int_equal(t.last_alert.code, ERR_JNL_0055);
    assert_int_equal(request(m->v, 0, BLKDEV_ZERO, 0, 0, 4096, NULL), 0);
    assert_int_equal(request(m->v, 0, BLKDEV_WRITE, 0, MIB, 4096, t.buf), 0);
    assert_int_equal(request(m->v, 0, BLKDEV_FLUSH, 0, 0, 0, NULL), 0);
    memset(m->image[0], 0, 4 * MIB);
    memcpy(m->image[0] + 4096, t.buf + 4096, 65536 - 4096);
    memcpy(m->image[0] + MIB, t.buf, 4096);
    assert_int_equal(request(m->v, 0, BLKDEV_READ, 0, 3 * MIB, 65536, t.buf), 0);
    assert_true(bytes_all_zero(t.buf, 65536));
    discard_view(m);
    /* Promotion past a view whose overlay cannot take the copies breaks the
     * view, and nothing else. */
    m = open_model(10, 16 * 4096);
    assert_int_equal(promote(60), 0);
    assert_true(journal_view_broken(m->v, &why));
    assert_int_equal(why.code, ERR_JNL_0056);
    assert_int_equal(t.view_breaks, 1);
    assert_int_equal(request(m->v, 0, BLKDEV_READ, 0, 0, 4096, t.buf), -EIO);
    assert_false(journal_view_broken(n->v, NULL));
    compare_view(n, IO_MAX);
    compare_replica();
    end();
}

static void
refused_views(void **state)
{
    struct journal_view_config cfg = { .cut_no = 5 };
    struct journal_point point = { .seq = 5 };
    struct waiter w = { .done = false };

    begin(15, 1, MIB, 64 * 1024);
    append(20);
    w = open_view(15, 0);
    assert_int_equal(w.res, 0);
    cfg.id = journal_view_config(w.v)->id;
    w.done = false;
    jindex_view_open(t.ix, &cfg, &point, done_view, &w);
    wait_for(&w);
    assert_int_equal(w.res, -EEXIST);
    assert_int_equal(w.err.code, ERR_JNL_0060);
    cfg.id.u.b[0] ^= 1;
    cfg.vols[0] = 9;
    cfg.n_vols = 1;
    w.done = false;
    jindex_view_open(t.ix, &cfg, &point, done_view, &w);
    wait_for(&w);
    assert_int_equal(w.res, -EINVAL);
    /* A record that cannot be made durable: no view, no files. */
    t.fail_records = true;
    cfg.n_vols = 0;
    w.done = false;
    jindex_view_open(t.ix, &cfg, &point, done_view, &w);
    wait_for(&w);
    assert_int_equal(w.res, -EIO);
    t.fail_records = false;
    assert_int_equal(promote(10), 0);
    w = open_view(5, 0);
    assert_int_equal(w.res, -ENOENT);
    assert_true(jindex_lowest_pin(t.ix) == 15);
    end();
}

/* --- extents -------------------------------------------------------------------------------- */

static void
extents_tell_zeros(void **state)
{
    struct blkdev_extent ext[512];
    struct model_view *m;

    begin(17, 1, 4 * MIB, 256 * 1024);
    t.log.poor = false;
    append(60);
    m = open_model(t.log.seq, 0);
    for (unsigned i = 0; i < 20; i++)
        write_view(m);
    for (unsigned i = 0; i < 40; i++) {
        uint16_t vol = (uint16_t)fake_below(&t.log, FAKE_VOLS);
        struct request r = { .rq = { .op = BLKDEV_EXTENTS,
                                     .ext = ext,
                                     .ext_max = ARRAY_SIZE(ext),
                                     .done = request_done } };
        uint64_t off;

        r.rq.off = fake_below(&t.log, t.log.sizes[vol] / 512) * 512;
        r.rq.len = t.log.sizes[vol] - r.rq.off;
        if (i % 4 == 0)
            r.rq.flags = BLKDEV_EXT_ONE;
        blkdev_submit(journal_view_dev(m->v, vol), &r.rq);
        wait_for(&r.w);
        assert_int_equal(r.w.res, 0);
        assert_true(r.rq.ext_n > 0);
        assert_true(i % 4 != 0 || r.rq.ext_n == 1);
        off = r.rq.off;
        for (size_t k = 0; k < r.rq.ext_n; k++) {
            assert_true(ext[k].len > 0);
            assert_true(!ext[k].zero ||
                        bytes_all_zero(m->image[vol] + off, ext[k].len));
            off += ext[k].len;
        }
        assert_true(i % 4 == 0 || r.rq.ext_n == ARRAY_SIZE(ext) ||
                    off == t.log.sizes[vol]);
    }
    end();
}

/* --- straight writes --------------------------------------------------------------------------- */

static void
sync_done(struct journal_sync_write *w, int res)
{
    done_res(w->priv[23] ? (void *)(uintptr_t)w->priv[23] : NULL, res);
}

static int
straight(uint64_t off, uint64_t len, void *buf, uint64_t after, uint32_t crc)
{
    struct waiter w = { .done = false };
    struct journal_sync_write sw = { .vol = 0,
                                     .off = off,
                                     .len = len,
                                     .buf = buf,
                                     .after_seq = after,
                                     .crc = crc,
                                     .done = sync_done };

    sw.priv[23] = (uint64_t)(uintptr_t)&w;
    jindex_sync_write(t.ix, &sw);
    wait_for(&w);
    return w.res;
}

static void
straight_writes(void **state)
{
    struct waiter w = { .done = false };
    struct model_view *m;
    uint32_t crc;

    begin(19, 2, 4 * MIB, 64 * 1024);
    memset(t.buf, 0x5a, IO_MAX);
    crc = crc32c(0, t.buf, 65536);
    /* Older than PROMOTED will be, in the segment in which that will lie. */
    fake_append_range(&t.log, ENTRY_WRITE, 0, MIB, 65536);
    for (unsigned i = 0; i < 19; i++)
        fake_append(&t.log); /* no seal between */
    assert_int_equal(straight(MIB, 65536, t.buf, 20, crc), 0);
    assert_int_equal(straight(MIB, 65536, t.buf, 20, crc + 1), -EBADMSG);
    assert_int_equal(t.last_alert.code, ERR_JNL_0057);
    assert_int_equal(straight(4 * MIB, 65536, t.buf, 20, crc), -EINVAL);
    assert_int_equal(straight(MIB + 512, 1024, NULL, 20, 0), 0);
    jindex_sync_flush(t.ix, done_res, &w);
    wait_for(&w);
    assert_int_equal(w.res, 0);
    assert_int_equal(promote(10), 0);
    assert_int_equal(straight(MIB, 65536, t.buf, 9, crc), -EAGAIN);
    assert_int_equal(straight(MIB, 65536, t.buf, 10, crc), 0);
    /* What is in the journal above is consulted first. */
    m = open_model(t.log.seq, 0);
    memset(m->image[0] + MIB, 0x5a, 65536);
    fake_replay(&t.log, 0, 10, t.log.seq, m->image[0]);
    compare_view(m, IO_MAX);
    end();
}

/* --- who waits for whom ------------------------------------------------------- */

/* A read begun before a conversion may still go to the replica; the replica must
 * not change before it has ended. */
static void
conversion_waits_for_reads(void **state)
{
    struct waiter w = { .done = false };
    struct request r = {
        .rq = { .op = BLKDEV_READ, .len = 4096, .done = request_done }
    };
    struct model_view *m;

    begin(23, 2, MIB, 64 * 1024);
    for (unsigned i = 0; i < 10; i++)
        fake_append_range(&t.log, ENTRY_WRITE, 0, i * 8192, 4096);
    m = open_model(5, 0);
    fake_gate(&t.log, true, 0, t.log.segs[0].entries[0].e.chunk);
    r.rq.buf = t.buf;
    blkdev_submit(journal_view_dev(m->v, 0), &r.rq);
    while (!fake_at_gate(&t.log))
        io_loop_turn(t.loop, NSEC_PER_MSEC);
    /* Once written, the block has no copy to wait for. */
    assert_int_equal(request(m->v, 0, BLKDEV_WRITE, 0, 0, 4096, t.buf + 8192),
                     0);
    jindex_convert(t.ix, 8, done_res, &w);
    for (unsigned i = 0; i < 100; i++)
        io_loop_turn(t.loop, NSEC_PER_MSEC);
    assert_true(disk_view(&m->id)->base_seq == 8); /* all but the waiting */
    assert_false(w.done);
    fake_gate(&t.log, false, 0, 0);
    wait_for(&w);
    wait_for(&r.w);
    assert_int_equal(r.w.res, 0);
    assert_memory_equal(t.buf, m->image[0], 4096);
    end();
}

/* An open view lets go of what promotion has passed. */
static void
views_let_go(void **state)
{
    struct model_view *m;

    begin(25, 1, MIB, 64 * 1024);
    append(400);
    until_idle();
    m = open_model(t.log.seq, 0);
    assert_int_equal(promote(t.log.segs[t.log.n_segs - 3].last_seq), 0);
    until_idle();
    for (unsigned i = 0; i < 2000 && !jindex_segment_free(t.ix, 0); i++)
        io_loop_turn(t.loop, NSEC_PER_MSEC);
    recycle();
    assert_int_equal(t.first_seg, t.log.n_segs - 2);
    compare_view(m, IO_MAX);
    end();
}

static void
wrong_replica(void **state)
{
    struct journal_volume vols[1] = { { 0, 2 * MIB } };
    struct jindex_config cfg;
    struct jindex *ix;
    struct err err = ERR_INIT;

    begin(21, 1, MIB, 64 * 1024);
    cfg = (struct jindex_config){
        .loop = t.loop, .dir = t.dir, .volumes = vols, .n_volumes = 1
    };
    assert_int_equal(jindex_new(&cfg, &ix, &err), -EINVAL);
    assert_int_equal(err.code, ERR_JNL_0057);
    end();
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(histories),
        cmocka_unit_test(in_flight),
        cmocka_unit_test(damaged_chunk),
        cmocka_unit_test(damaged_run),
        cmocka_unit_test(unknown_content),
        cmocka_unit_test(overlay_limit),
        cmocka_unit_test(refused_views),
        cmocka_unit_test(extents_tell_zeros),
        cmocka_unit_test(straight_writes),
        cmocka_unit_test(conversion_waits_for_reads),
        cmocka_unit_test(views_let_go),
        cmocka_unit_test(wrong_replica),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
