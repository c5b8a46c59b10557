/* One connection from accept to its last byte: drives the negotiation machine,
 * starts TLS and the transmission phase, and ends in every way a connection can
 * end. */
#include <assert.h>
#include <limits.h>
#include <stdlib.h>

#include "nbd/conn.h"

enum {
    HS_STEPS = 64
}; /* of one event, so that others get their turn */

/* --- life --------------------------------------------------------------- */

static void
conn_free(struct nbd_conn *c)
{
    struct nbd_export *e = c->exp;
    struct nbd_server *s = c->srv;

    list_del(&c->link);
    s->n_conns--;
    nbd_tx_free(c);
    free(c);
    if (e)
        nbd_export_conn_gone(e);
}

void
nbd_conn_hold(struct nbd_conn *c)
{
    assert(c->busy < UINT_MAX);
    c->busy++;
}

void
nbd_conn_unhold(struct nbd_conn *c)
{
    assert(c->busy > 0);
    if (--c->busy == 0 && !c->ch && c->in_dev == 0)
        conn_free(c);
}

void
nbd_conn_want(struct nbd_conn *c, unsigned events)
{
    if (c->wanted == events)
        return;
    c->wanted = events;
    io_chan_want(c->ch, events);
}

static void
hs_drop(struct nbd_conn *c)
{
    if (c->hs)
        nbd_hs_release(c->hs);
    free(c->hs);
    c->hs = NULL;
    c->lis = NULL;
}

void
nbd_conn_close(struct nbd_conn *c)
{
    if (!c->ch)
        return;
    nbd_conn_hold(c);
    io_chan_close(c->ch);
    c->ch = NULL;
    io_timer_stop(&c->deadline);
    io_task_cancel(&c->task);
    list_del(&c->wait_link);
    hs_drop(c);
    if (c->tx)
        nbd_tx_stop(c);
    if (c->in_dev)
        blkdev_cancel(c->exp->dev, c); /* I6 */
    nbd_conn_unhold(c);
}

void
nbd_conn_fail(struct nbd_conn *c, int num, enum err_code code, const char *why)
{
    if (!c->ch)
        return;
    nbd_server_log(c->srv, io_chan_peer_name(c->ch), num, code, why);
    nbd_conn_close(c);
}

static void
conn_broken(struct nbd_conn *c)
{
    struct err err = ERR_INIT;

    /* A peer that goes away is an everyday end; a TLS handshake that fails is
     * worth a line, since the client sees no reason for it. */
    if (c->tls_starting) {
        (void)io_chan_error(c->ch, &err);
        nbd_server_log(c->srv, io_chan_peer_name(c->ch), -EPROTO, ERR_NBD_0004,
                       err.msg[0] ? err.msg : "failed the TLS handshake");
    }
    nbd_conn_close(c);
}

/* --- negotiation -------------------------------------------------------- */

static void
export_view(struct nbd_export *e, struct nbd_hs_export *out)
{
    *out = (struct nbd_hs_export){
        .ref = e,
        .name = e->name,
        .description = e->description,
        .size = e->dev->info.size,
        .tx_flags = e->tx_flags,
        .block = e->block,
    };
}

static bool
host_find(void *arg, const char *name, size_t len, struct nbd_hs_export *out)
{
    struct nbd_conn *c = arg;
    struct nbd_export *e = nbd_server_find(c->srv, c->lis, name, len);

    if (e)
        export_view(e, out);
    return e;
}

static bool
host_list(void *arg, size_t i, struct nbd_hs_export *out)
{
    struct nbd_conn *c = arg;
    struct list *p;

    if (c->lis->tied) {
        if (i > 0 || !c->lis->only)
            return false;
        export_view(c->lis->only, out);
        return true;
    }
    list_for_each (p, &c->srv->exports) {
        if (i-- == 0) {
            export_view(list_entry(p, struct nbd_export, link), out);
            return true;
        }
    }
    return false;
}

/* Send what the machine has said; 0 when all of it went out. */
static int
hs_send(struct nbd_conn *c)
{
    struct buf *out = &c->hs->out;

    while (out->len) {
        struct iovec v = { .iov_base = out->data, .iov_len = out->len };
        int64_t n = io_chan_writev(c->ch, &v, 1);

        if (n == -EAGAIN) {
            nbd_conn_want(c, IO_CHAN_WRITABLE);
            return -EAGAIN;
        }
        if (n < 0) {
            nbd_conn_close(c);
            return -EPIPE;
        }
        buf_consume(out, (size_t)n);
    }
    return 0;
}

static int
hs_receive(struct nbd_conn *c)
{
    uint8_t *to;
    size_t want = nbd_hs_want(c->hs, &to);
    int64_t n = io_chan_read(c->ch, to, want);

    if (n == -EAGAIN) {
        nbd_conn_want(c, IO_CHAN_READABLE);
        return -EAGAIN;
    }
    if (n <= 0) {
        nbd_conn_close(c);
        return -EPIPE;
    }
    c->hs_next = nbd_hs_got(c->hs, (size_t)n);
    return 0;
}

static void
start_tls(struct nbd_conn *c)
{
    struct err err = ERR_INIT;

    c->tls_starting = true;
    c->hs_next = NBD_HS_MORE;
    if (io_chan_start_tls_server(c->ch, c->lis->tls, c->srv->cfg.handshake_ns,
                                 &err) < 0)
        nbd_conn_fail(c, err.num ? err.num : -EPROTO, ERR_NBD_0004,
                      "asked for TLS, which could not be started");
}

static void
start_transmission(struct nbd_conn *c)
{
    struct nbd_terms terms = c->hs->terms;

    c->exp = c->hs->chosen;
    c->exp->stats.connections++;
    io_timer_stop(&c->deadline);
    hs_drop(c);
    if (nbd_tx_start(c, &terms) < 0) {
        nbd_conn_fail(c, -ENOMEM, ERR_GEN_0002, "came when memory was short");
        return;
    }
    nbd_conn_want(c, IO_CHAN_READABLE);
}

static void
hs_drive(struct nbd_conn *c)
{
    unsigned steps;

    for (steps = 0; steps < HS_STEPS; steps++) {
        if (c->hs_next == NBD_HS_BROKEN) {
            nbd_conn_fail(c, -EPROTO, ERR_NBD_0004, c->hs->why);
            return;
        }
        if (hs_send(c) < 0)
            return;
        switch (c->hs_next) {
        case NBD_HS_MORE: break;
        case NBD_HS_START_TLS: start_tls(c); return;
        case NBD_HS_GO: start_transmission(c); return;
        case NBD_HS_BYE:
        case NBD_HS_BROKEN: nbd_conn_close(c); return;
        }
        if (hs_receive(c) < 0)
            return;
    }
    /* More may be waiting: the channel reports it again. */
    nbd_conn_want(c, IO_CHAN_READABLE);
    io_defer(c->srv->loop, &c->task);
}

static void
deadline_fire(struct io_timer *t)
{
    struct nbd_conn *c = container_of(t, struct nbd_conn, deadline);

    nbd_conn_fail(c, -ETIMEDOUT, ERR_NBD_0006,
                  "took too long over the negotiation");
}

static void
task_run(struct io_task *t)
{
    struct nbd_conn *c = container_of(t, struct nbd_conn, task);

    nbd_conn_hold(c);
    if (c->tx)
        nbd_tx_run(c);
    else if (c->hs && !c->tls_starting)
        hs_drive(c);
    nbd_conn_unhold(c);
}

static void
conn_event(void *arg, struct io_chan *ch, unsigned events)
{
    struct nbd_conn *c = arg;

    UNUSED(ch);
    nbd_conn_hold(c);
    if (events & IO_CHAN_BROKEN) {
        conn_broken(c);
    } else if (c->tx) {
        nbd_tx_event(c, events);
    } else if (c->tls_starting) {
        if (events & IO_CHAN_OPEN) {
            c->tls_starting = false;
            nbd_hs_tls_on(c->hs);
            c->wanted = 0;
            hs_drive(c);
        }
    } else {
        hs_drive(c);
    }
    nbd_conn_unhold(c); /* NOLINT(clang-analyzer-unix.Malloc): it is held */
}

void
nbd_conn_accept(void *listener, struct io_chan *ch)
{
    struct nbd_listener *l = listener;
    struct nbd_server *s = l->srv;
    struct io_chan_owner owner = { .event = conn_event };
    struct nbd_conn *c;

    if (s->n_conns >= s->cfg.max_connections) {
        nbd_server_log(s, io_chan_peer_name(ch), -EMFILE, ERR_NBD_0007,
                       "is one too many");
        io_chan_close(ch);
        return;
    }
    c = calloc(1, sizeof *c);
    if (c)
        c->hs = calloc(1, sizeof *c->hs);
    if (!c || !c->hs) {
        free(c);
        io_chan_close(ch);
        return;
    }
    c->srv = s;
    c->ch = ch;
    c->lis = l;
    c->hs_host = (struct nbd_hs_host){
        .find = host_find,
        .list = host_list,
        .arg = c,
        .tls_offered = l->tls,
        .tls_forced = l->forced_tls,
    };
    list_init(&c->wait_link);
    list_push_back(&s->conns, &c->link);
    s->n_conns++;
    io_timer_init(&c->deadline, s->loop, deadline_fire);
    io_task_init(&c->task, task_run);
    owner.arg = c;
    io_chan_set_owner(ch, &owner);
    nbd_conn_hold(c);
    if (nbd_hs_init(c->hs, &c->hs_host) < 0) {
        nbd_conn_close(c);
    } else {
        io_timer_set(&c->deadline, s->cfg.handshake_ns);
        hs_drive(c);
    }
    nbd_conn_unhold(c); /* NOLINT(clang-analyzer-unix.Malloc): it is held */
}
