#include "helper_stream.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "io/file.h"
#include "io/loop_backend.h"
#include "stream/link.h"

/* --- the proxy ---------------------------------------------------------- */

enum {
    PIPE_SIZE = 256 * 1024
};

struct pipe_end;
struct pipe_end {
    struct pair *pair;
    struct io_chan *ch;
    bool open, eof;
    size_t n; /* bytes read here, not yet written at the other end */
    uint8_t buf[PIPE_SIZE];
};
struct pair {
    struct list link;
    struct proxy *p;
    struct pipe_end end[2]; /* 0: the dialler's side */
    struct io_task run;
};

static void
pair_free(struct pair *r)
{
    list_del(&r->link);
    io_task_cancel(&r->run);
    for (unsigned i = 0; i < 2; i++)
        io_chan_close(r->end[i].ch);
    free(r);
}

void
proxy_cut(struct proxy *p)
{
    while (!list_empty(&p->pairs))
        pair_free(list_entry(p->pairs.next, struct pair, link));
    p->cuts++;
}

static bool
may_pass(const struct proxy *p, unsigned from)
{
    return !p->stalled && !(p->stall_up && from == 0) &&
           !(p->rate && p->tokens == 0);
}

/* What flows in at end `from`; false: the pair is gone. */
static bool
pair_flow(struct pair *r, unsigned from)
{
    struct pipe_end *e = &r->end[from], *o = &r->end[!from];
    struct proxy *p = r->p;

    if (!e->open || !o->open || !may_pass(p, from))
        return true;
    while (!p->rate || p->tokens > 0) {
        struct iovec iov;
        int64_t n;

        if (e->n == 0) {
            uint64_t want = PIPE_SIZE;

            if (p->rate)
                want = MIN(want, p->tokens);

            if (p->cut_at > p->passed)
                want = MIN(want, p->cut_at - p->passed);
            n = io_chan_read(e->ch, e->buf, want);
            if (n == -EAGAIN)
                return true;
            if (n <= 0) {
                pair_free(r);
                return false;
            }
            e->n = (size_t)n;
            if (p->flip_at > p->passed && p->flip_at <= p->passed + e->n) {
                e->buf[p->flip_at - p->passed - 1] ^= 0x10;
                p->flip_at = 0;
            }
            p->passed += e->n;
            p->tokens -= MIN(p->tokens, e->n);
        }
        iov = (struct iovec){ e->buf, e->n };
        n = io_chan_writev(o->ch, &iov, 1);
        if (n == -EAGAIN)
            return true;
        if (n < 0) {
            pair_free(r);
            return false;
        }
        memmove(e->buf, e->buf + n, e->n - (size_t)n);
        e->n -= (size_t)n;
        if (p->cut_at && p->passed >= p->cut_at && e->n == 0) {
            p->cut_at = 0;
            proxy_cut(p);
            return false;
        }
    }
    return true;
}

static void
pair_run(struct io_task *t)
{
    struct pair *r = container_of(t, struct pair, run);

    if (!pair_flow(r, 0) || !pair_flow(r, 1))
        return;
    for (unsigned i = 0; i < 2; i++) {
        unsigned want = 0;

        if (r->end[i].n == 0 && may_pass(r->p, i))
            want |= IO_CHAN_READABLE;
        if (r->end[!i].n > 0 && may_pass(r->p, !i))
            want |= IO_CHAN_WRITABLE;
        if (r->end[i].open)
            io_chan_want(r->end[i].ch, want);
    }
}

static void
pair_event(void *arg, struct io_chan *ch, unsigned events)
{
    struct pipe_end *e = arg;
    struct pair *r = e->pair;

    (void)ch;
    if (events & IO_CHAN_BROKEN) {
        pair_free(r);
        return;
    }
    if (events & IO_CHAN_OPEN)
        e->open = true;
    io_defer(r->p->loop, &r->run);
}

static void
proxy_accepted(void *arg, struct io_chan *ch)
{
    struct proxy *p = arg;
    struct pair *r = calloc(1, sizeof *r);
    struct io_chan_owner owner = { pair_event, &r->end[1] };
    struct err err = ERR_INIT;

    r->p = p;
    io_task_init(&r->run, pair_run);
    list_push_back(&p->pairs, &r->link);
    p->accepted++;
    r->end[0].pair = r->end[1].pair = r;
    r->end[0].ch = ch;
    r->end[0].open = true;
    io_chan_set_owner(ch, &(struct io_chan_owner){ pair_event, &r->end[0] });
    if (io_chan_connect(p->loop, &p->to, NULL, NSEC_PER_SEC, &owner,
                        &r->end[1].ch, &err) < 0)
        pair_free(r);
}

static void
proxy_tick(struct io_timer *t)
{
    struct proxy *p = container_of(t, struct proxy, tick);
    uint64_t now = io_mono_fresh(p->loop);

    io_timer_set(t, NSEC_PER_MSEC);
    p->tokens += (now - p->filled_ns) * p->rate / NSEC_PER_MSEC;
    p->tokens = MIN(p->tokens, 20 * p->rate);
    p->filled_ns = now;
    proxy_push(p);
}

void
proxy_start(struct proxy *p, struct io_loop *loop, const struct io_addr *listen,
            const struct io_addr *to)
{
    struct io_listen_config cfg = { .addr = *listen };
    struct err err = ERR_INIT;

    *p = (struct proxy){ .loop = loop, .to = *to };
    list_init(&p->pairs);
    io_timer_init(&p->tick, loop, proxy_tick);
    io_timer_set(&p->tick, 0);
    assert_int_equal(io_listen(loop, &cfg, proxy_accepted, p, &p->listener, &err),
                     0);
}

void
proxy_stop(struct proxy *p)
{
    io_listener_close(p->listener);
    io_timer_stop(&p->tick);
    proxy_cut(p);
}

void
proxy_push(struct proxy *p)
{
    struct list *l;

    list_for_each (l, &p->pairs)
        io_defer(p->loop, &list_entry(l, struct pair, link)->run);
}

/* --- the disk ----------------------------------------------------------- */

static struct {
    const struct io_backend_ops *real;
    struct io_backend_ops gated;
    bool holding;
    struct list held; /* io_req.link */
} disk;

static void
gate(struct io_loop *loop, struct io_req *rq)
{
    if (disk.holding && rq->op == IO_OP_SYNC)
        list_push_back(&disk.held, &rq->link);
    else
        disk.real->file_start(loop, rq);
}

void
commits_gate(struct io_loop *loop)
{
    list_init(&disk.held);
    disk.holding = false;
    disk.real = loop->be;
    disk.gated = *loop->be;
    disk.gated.file_start = gate;
    loop->be = &disk.gated;
}

void
commits_hold(void)
{
    disk.holding = true;
}

void
commits_release(struct io_loop *loop)
{
    struct list *l;

    disk.holding = false;
    while ((l = list_pop_front(&disk.held)))
        disk.real->file_start(loop, list_entry(l, struct io_req, link));
}

/* --- a site ------------------------------------------------------------- */

void
end_open(struct end *e, struct io_loop *loop, uint8_t id, const char *dir,
         struct tls_ctx *client, struct tls_ctx *server, uint64_t dead_ns)
{
    struct stream_config cfg = {
        .loop = loop,
        .client_tls = client,
        .server_tls = server,
        .dead_ns = dead_ns,
        .redial_max_ns = 200 * NSEC_PER_MSEC,
        .rx_turn = e->rx_turn,
    };
    struct io_addr at = { .is_unix = true };
    struct err err = ERR_INIT;

    e->loop = loop;
    if (uuid_is_nil(&e->id.u))
        memset(e->id.u.b, id, 16);
    cfg.self = e->id;
    snprintf(at.host, sizeof at.host, "%.80s/end%u", dir, id);
    assert_int_equal(stream_new(&cfg, &e->stream, &err), 0);
    assert_int_equal(stream_listen(e->stream, &at, &e->addr, &err), 0);
}

/* --- the source --------------------------------------------------------- */

uint64_t
lab_below(struct lab *l, uint64_t n)
{
    l->rng ^= l->rng << 13;
    l->rng ^= l->rng >> 7;
    l->rng ^= l->rng << 17;
    return l->rng % n;
}

static struct list all_labs = { &all_labs, &all_labs };

void
labs_reset(void)
{
    list_init(&all_labs);
}

void
lab_init(struct lab *l, struct end *a, struct end *b, const char *dir,
         uint8_t id, uint64_t size, uint64_t seed)
{
    struct err err = ERR_INIT;

    *l = (struct lab){
        .a = a,
        .b = b,
        .size = size,
        .rng = seed * 2654435761u + 88172645463325252u,
        .ring_bytes = 32 * MIB,
        .cut_ns = 3600 * NSEC_PER_SEC,
        .epoch = 1,
        .history_ns = 3600 * NSEC_PER_SEC,
        .compression = COMPRESS_OFF,
        .fresh = true,
    };
    list_push_back(&all_labs, &l->link);
    memset(l->vpg.u.b, id, 16);
    memset(l->generation.u.b, 0x77, 16);
    snprintf(l->dir, sizeof l->dir, "%s", dir);
    snprintf(l->super_path, sizeof l->super_path, "%s/super.%u", dir, id);
    snprintf(l->jdir, sizeof l->jdir, "%s/journal.%u", dir, id);
    assert_int_equal(io_mkdir(b->loop, l->jdir, &err), 0);
    for (unsigned i = 0; i < LAB_VOLS; i++) {
        struct blkdev *mem;

        assert_int_equal(memdev_new(a->loop, size, &mem), 0);
        assert_int_equal(faultdev_new(mem, &l->fault[i]), 0);
        assert_int_equal(splitter_open(l->fault[i], &l->dev[i], &err), 0);
        l->image[i] = calloc(1, size);
    }
}

void
lab_release(struct lab *l)
{
    list_del(&l->link);
    for (unsigned i = 0; i < LAB_VOLS; i++) {
        blkdev_close(l->dev[i]);
        free(l->image[i]);
    }
    for (unsigned k = 0; k < l->n_cuts; k++)
        for (unsigned i = 0; i < LAB_VOLS; i++)
            free(l->cuts[k].image[i]);
    stream_peer_put(l->peer_a);
    stream_peer_put(l->peer_b);
}

static void
attached(void *arg)
{
    ((struct lab *)arg)->attached++;
}

static void
wake(void *arg)
{
    struct lab *l = arg;

    if (l->sender)
        sender_wake(l->sender);
}

static void
restart(void *arg)
{
    struct lab *l = arg;

    struct sender_status st;

    sender_status(l->sender, &st);
    l->restart_why = st.err.code;
    l->restarts++;
    l->restart_due = true;
}

static void
peer_of(struct end *e, struct end *other, struct io_addr *dial,
        struct stream_peer **out)
{
    struct stream_peer_config pc = { .agent = other->id, .dial = dial != NULL };
    struct err err = ERR_INIT;

    if (*out)
        return;
    if (dial)
        pc.addr = *dial;
    assert_int_equal(stream_peer_get(e->stream, &pc, out, &err), 0);
}

void
lab_source_start(struct lab *l)
{
    struct lane_super *su = &l->super;
    struct lane_incarnation li = { .exact = 0 };
    struct sender_config sc = {
        .stream = l->a->stream,
        .super_path = l->super_path,
        .cut_interval_ns = l->cut_ns,
        .compression = l->compression,
        .restart = restart,
        .arg = l,
    };
    struct capture_config cc = {
        .loop = l->a->loop, .vpg = l->vpg, .lane = 1, .wake = wake, .arg = l
    };
    struct err err = ERR_INIT;

    if (!l->fresh)
        assert_int_equal(lane_super_load(l->a->loop, l->super_path, su, &err),
                         0);
    l->exact = !l->fresh && su->clean;
    l->fresh = false;
    su->vpg = l->vpg;
    su->lane = 1;
    su->prev_incarnation = su->incarnation;
    if (!su->clean)
        su->prev_last_batch = 0;
    io_random(l->a->loop, su->incarnation.u.b, 16);
    su->seq_epoch++;
    su->generation = l->generation;
    su->fencing_epoch = l->epoch;
    su->clean = false;
    su->n_volumes = LAB_VOLS;
    for (unsigned i = 0; i < LAB_VOLS; i++) {
        su->volumes[i] =
            (struct lane_super_volume){ .vol = (uint16_t)i, .size = l->size };
        sc.volume_sizes[i] = l->size;
    }
    assert_int_equal(lane_super_store(l->a->loop, l->super_path, su, &err), 0);
    assert_int_equal(ringpool_new(l->a->loop, l->ring_bytes, &l->pool, &err), 0);
    cc.pool = l->pool;
    cc.incarnation = su->incarnation;
    cc.seq_epoch = su->seq_epoch;
    assert_int_equal(capture_new(&cc, &l->capture, &err), 0);
    li.prev = su->prev_incarnation;
    li.prev_last_batch = su->prev_last_batch;
    li.exact = l->exact;
    assert_int_equal(capture_incarnation(l->capture, &li), 0);
    l->attached = 0;
    for (unsigned i = 0; i < LAB_VOLS; i++)
        assert_int_equal(capture_attach(l->capture, (uint16_t)i, l->dev[i],
                                        attached, l, &err),
                         0);
    LAB_UNTIL(l, l->attached == LAB_VOLS);
    peer_of(l->a, l->b, l->dial_a, &l->peer_a);
    sc.peer = l->peer_a;
    sc.capture = l->capture;
    sc.super = *su;
    sc.exact = l->exact;
    assert_int_equal(sender_start(&sc, &l->sender, &err), 0);
}

static void
source_stopped(void *arg)
{
    struct lab *l = arg;

    l->stopped_a++;
    l->sender = NULL;
    for (unsigned i = 0; i < LAB_VOLS; i++)
        capture_detach(l->capture, (uint16_t)i);
    capture_free(l->capture);
    l->capture = NULL;
    ringpool_free(l->pool);
    l->pool = NULL;
}

void
lab_source_stop(struct lab *l)
{
    sender_stop(l->sender, source_stopped, l);
    LAB_UNTIL(l, l->sender == NULL);
}

static void
source_drained(void *arg, bool drained)
{
    struct lab *l = arg;

    l->drained = drained;
    l->drain_done = true;
}

bool
lab_source_drain(struct lab *l)
{
    struct err err = ERR_INIT;

    l->drain_done = false;
    sender_drain(l->sender, 20 * NSEC_PER_SEC, source_drained, l);
    LAB_UNTIL(l, l->drain_done);
    l->super = *sender_super(l->sender);
    lab_source_stop(l);
    l->super.clean = l->drained;
    assert_int_equal(lane_super_store(l->a->loop, l->super_path, &l->super, &err),
                     0);
    return l->drained;
}

/* --- the target --------------------------------------------------------- */

static void
durable(void *arg, uint64_t batch_no)
{
    struct lab *l = arg;

    if (l->receiver)
        receiver_durable(l->receiver, batch_no);
}

static void
credit(void *arg)
{
    struct lab *l = arg;

    if (l->receiver)
        receiver_credit(l->receiver);
}

static void
alert(void *arg, const struct err *err)
{
    struct lab *l = arg;

    if (getenv("SHOW"))
        fprintf(stderr, "alert %s %s\n", err_code_text(err->code), err->msg);
    l->alerts++;
}

static void
journal_opened(void *arg, struct journal *j, int res, const struct err *err)
{
    struct lab *l = arg;

    if (res < 0)
        fail_msg("journal: %s", err->msg);
    l->journal = j;
}

void
lab_receiver_start(struct lab *l)
{
    struct receiver_config rc = {
        .stream = l->b->stream,
        .journal = l->journal,
        .vpg = l->vpg,
        .lane = 1,
        .fencing_epoch = l->epoch,
        .generation = l->generation,
        .n_volumes = LAB_VOLS,
    };
    struct err err = ERR_INIT;

    for (unsigned i = 0; i < LAB_VOLS; i++)
        rc.volumes[i] = (struct msg_volume){ (uint16_t)i, l->size };
    peer_of(l->b, l->a, l->dial_b, &l->peer_b);
    rc.peer = l->peer_b;
    assert_int_equal(receiver_start(&rc, &l->receiver, &err), 0);
}

void
lab_target_start(struct lab *l)
{
    struct journal_events ev = {
        .durable = durable, .credit = credit, .alert = alert, .arg = l
    };
    struct journal_config *jc = calloc(1, sizeof *jc);

    *jc = (struct journal_config){
        .loop = l->b->loop,
        .dir = l->jdir,
        .vpg = l->vpg,
        .lane = 1,
        .n_volumes = LAB_VOLS,
        .history_ns = l->history_ns,
        .disk_reserve_bytes = MIB,
        .segment_min = MIB,
        .segment_max = 4 * MIB,
    };
    for (unsigned i = 0; i < LAB_VOLS; i++)
        jc->volumes[i] = (struct journal_volume){ (uint16_t)i, l->size };
    journal_open(jc, &ev, journal_opened, l);
    free(jc);
    LAB_UNTIL(l, l->journal);
    lab_receiver_start(l);
}

static void
target_stopped(void *arg)
{
    struct lab *l = arg;

    l->stopped_b++;
    l->receiver = NULL;
}

static void
journal_closed(void *arg)
{
    ((struct lab *)arg)->journal = NULL;
}

void
lab_receiver_stop(struct lab *l)
{
    struct receiver *r = l->receiver;

    receiver_stop(r, target_stopped, l);
    LAB_UNTIL(l, l->receiver == NULL);
}

void
lab_target_stop(struct lab *l)
{
    if (l->receiver)
        lab_receiver_stop(l);
    journal_close(l->journal, journal_closed, l);
    LAB_UNTIL(l, l->journal == NULL);
}

/* --- load --------------------------------------------------------------- */

struct wr {
    struct blkdev_req rq;
    size_t size;
};

static void
wr_done(struct blkdev_req *rq, int res)
{
    struct wr *w = container_of(rq, struct wr, rq);

    assert_int_equal(res, 0);
    io_mem_free(w->rq.buf, w->size);
    free(w);
}

static void
write_one(struct lab *l, uint32_t max)
{
    unsigned v = (unsigned)lab_below(l, LAB_VOLS);
    uint64_t len = (1 + lab_below(l, max / 512)) * 512;
    uint64_t off = lab_below(l, (l->size - len) / 512 + 1) * 512;
    unsigned kind = (unsigned)lab_below(l, 16);
    struct wr *w = calloc(1, sizeof *w);
    uint64_t word = 0;

    w->rq = (struct blkdev_req){ .op = kind == 0   ? BLKDEV_ZERO
                                       : kind == 1 ? BLKDEV_TRIM
                                       : kind == 2 ? BLKDEV_FLUSH
                                                   : BLKDEV_WRITE,
                                 .off = off,
                                 .len = len,
                                 .done = wr_done };
    w->size = len;
    if (w->rq.op == BLKDEV_FLUSH) {
        w->rq.off = w->rq.len = 0;
    } else if (w->rq.op != BLKDEV_WRITE) {
        memset(l->image[v] + off, 0, len);
    } else {
        uint8_t *p = w->rq.buf = io_mem_alloc(len);

        for (uint64_t i = 0; i < len; i += 8) {
            if (!l->compressible || i % 64 == 0)
                word = lab_below(l, UINT64_MAX);
            memcpy(p + i, &word, 8);
        }
        memcpy(l->image[v] + off, p, len);
    }
    blkdev_submit(l->dev[v], &w->rq);
}

void
lab_write(struct lab *l, unsigned n, uint32_t max)
{
    while (n-- > 0)
        write_one(l, max);
}

/* --- checkpoints -------------------------------------------------------- */

static void
see_cuts(struct lab *l)
{
    struct sender_status st;
    struct lab_cut *c;

    if (!l->sender)
        return;
    sender_status(l->sender, &st);
    if (st.newest_cut == 0 ||
        (l->n_cuts && l->cuts[l->n_cuts - 1].cut_no >= st.newest_cut))
        return;
    assert_true(l->n_cuts < LAB_CUTS);
    c = &l->cuts[l->n_cuts++];
    c->cut_no = st.newest_cut;
    for (unsigned i = 0; i < LAB_VOLS; i++) {
        c->image[i] = malloc(l->size);
        memcpy(c->image[i], l->image[i], l->size);
    }
}

void
lab_turn(struct lab *l)
{
    struct list *at;

    assert_int_equal(io_loop_turn(l->a->loop, 5 * NSEC_PER_MSEC), 0);
    list_for_each (at, &all_labs) {
        struct lab *o = list_entry(at, struct lab, link);

        see_cuts(o);
        if (!o->restart_due || !o->obeys_restarts)
            continue;
        o->restart_due = false;
        lab_source_stop(o);
        lab_source_start(o);
    }
}

void
lab_cut_now(struct lab *l)
{
    uint64_t no;

    if (sender_cut(l->sender, CUT_USER, 0, "now", &no, NULL, NULL) == 0)
        see_cuts(l);
}

enum sender_state
lab_state(struct lab *l)
{
    struct sender_status st;

    sender_status(l->sender, &st);
    return st.state;
}

bool
lab_settled(struct lab *l)
{
    struct sender_status st;

    sender_status(l->sender, &st);
    return st.state == SENDER_STREAMING &&
           st.capture.durable_seq == st.capture.seq;
}

void
lab_settle(struct lab *l)
{
    LAB_UNTIL(l, lab_settled(l));
}

static void
view_opened(void *arg, struct journal_view *v, int res, const struct err *err)
{
    struct lab *l = arg;

    if (res < 0)
        fail_msg("view: %s", err ? err->msg : "?");
    l->view = v;
    l->done = true;
}

static void
view_gone(void *arg)
{
    ((struct lab *)arg)->done = true;
}

struct rd {
    struct blkdev_req rq;
    struct lab *l;
};

static void
rd_done(struct blkdev_req *rq, int res)
{
    struct rd *r = container_of(rq, struct rd, rq);

    r->l->res = res;
    r->l->done = true;
}

static void
verify_volume(struct lab *l, const struct lab_cut *c, unsigned v)
{
    struct rd r = { .l = l };
    uint64_t step = MIN(l->size, MIB);
    uint8_t *buf = io_mem_alloc(step);

    for (uint64_t off = 0; off < l->size; off += step) {
        r.rq = (struct blkdev_req){ .op = BLKDEV_READ,
                                    .off = off,
                                    .len = MIN(step, l->size - off),
                                    .buf = buf,
                                    .done = rd_done };
        l->done = false;
        blkdev_submit(journal_view_dev(l->view, (uint16_t)v), &r.rq);
        LAB_UNTIL(l, l->done);
        assert_int_equal(l->res, 0);
        for (uint64_t i = 0; i < r.rq.len; i += 512)
            if (memcmp(buf + i, c->image[v] + off + i, 512) != 0)
                fail_msg("checkpoint %llu: volume %u differs at %llu",
                         (unsigned long long)c->cut_no, v,
                         (unsigned long long)(off + i));
    }
    io_mem_free(buf, step);
}

unsigned
lab_verify(struct lab *l)
{
    struct journal_point *pts = calloc(LAB_CUTS, sizeof *pts);
    size_t n = journal_points(l->journal, 0, UINT64_MAX, 0, pts, LAB_CUTS);

    for (size_t i = 0; i < n; i++) {
        struct journal_view_config *vc = calloc(1, sizeof *vc);
        const struct lab_cut *c = NULL;

        for (unsigned k = 0; k < l->n_cuts; k++)
            if (l->cuts[k].cut_no == pts[i].cut_no)
                c = &l->cuts[k];
        assert_non_null(c);
        vc->cut_no = pts[i].cut_no;
        memset(vc->id.u.b, 0x42, 16);
        l->done = false;
        journal_view_open(l->journal, vc, view_opened, l);
        free(vc);
        LAB_UNTIL(l, l->done);
        for (unsigned v = 0; v < LAB_VOLS; v++)
            verify_volume(l, c, v);
        l->done = false;
        journal_view_discard(l->view, view_gone, l);
        LAB_UNTIL(l, l->done);
    }
    free(pts);
    return (unsigned)n;
}
