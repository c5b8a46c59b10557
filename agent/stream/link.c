/* Links: dialling, frames out, silence, back-off; the stream and its peers.
 * What comes in is in link_receive.c.
 */
#include "stream/link.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "common/tls.h"
#include "io/file.h"

#define ROOM "stream"

enum {
    HELLO_DEADLINE_S = 10,
    REDIAL_MIN_MS = 100,
    STABLE_S = 5, /* a link that held this long is dialled at once again */
};

static void
peer_ids(const struct stream_peer *p, char out[64])
{
    char id[UUID_TEXT_SIZE];

    uuid_format(&p->cfg.agent.u, id);
    snprintf(out, 64, "peer=%s", id);
}

/* --- connections -------------------------------------------------------- */

void
conn_free(struct conn *c)
{
    if (!c)
        return;
    if (!c->peer && !list_empty(&c->link)) {
        list_del(&c->link);
        c->stream->n_half_open--;
    }
    if (c->stream->receiving == c)
        c->stream->receiving = NULL;
    io_timer_stop(&c->deadline);
    io_task_cancel(&c->resume);
    if (c->ch)
        io_chan_close(c->ch);
    io_mem_free(c->mem, c->mem_size);
    buf_release(&c->out);
    if (c->tx)
        io_mem_free(c->tx->buf, c->tx->buf_size);
    free(c->tx);
    free(c);
}

static void
conn_deadline(struct io_timer *t)
{
    struct conn *c = container_of(t, struct conn, deadline);

    if (c->peer)
        link_break(c->peer, "the link was not up within %d s", HELLO_DEADLINE_S);
    else
        conn_free(c);
}

static void
conn_resume(struct io_task *t)
{
    conn_receive(container_of(t, struct conn, resume));
}

static struct conn *
conn_new(struct stream *s, enum link_kind kind)
{
    struct conn *c = calloc(1, sizeof *c);

    if (!c)
        return NULL;
    list_init(&c->link);
    c->stream = s;
    c->kind = kind;
    buf_init(&c->out, LINK_CONTROL_QUEUE_MAX);
    io_task_init(&c->resume, conn_resume);
    io_timer_init(&c->deadline, s->loop, conn_deadline);
    io_timer_set(&c->deadline, HELLO_DEADLINE_S * NSEC_PER_SEC);
    return c;
}

int
conn_flush_queue(struct conn *c)
{
    while (c->out.len > 0) {
        struct iovec iov = { .iov_base = c->out.data, .iov_len = c->out.len };
        int64_t n = io_chan_writev(c->ch, &iov, 1);

        if (n < 0)
            return (int)n;
        buf_consume(&c->out, (size_t)n);
    }
    return 0;
}

static int
conn_put(struct conn *c, const struct frame *f, const uint8_t *body)
{
    uint8_t hdr[FRAME_HDR_SIZE];
    int rc;

    frame_encode(f, hdr);
    rc = buf_add(&c->out, hdr, sizeof hdr);
    if (rc == 0 && f->body_len > 0)
        rc = buf_add(&c->out, body, f->body_len);
    return rc;
}

void
conn_want(struct conn *c, bool write)
{
    io_chan_want(c->ch, (c->parked ? 0u : (unsigned)IO_CHAN_READABLE) |
                            (write ? (unsigned)IO_CHAN_WRITABLE : 0u));
}

/* The data connection's transport is full, or takes bytes again. */
static void
conn_blocked(struct conn *c, bool blocked)
{
    uint64_t now = io_mono_ns(c->stream->loop);

    if (blocked && c->blocked_since == 0)
        c->blocked_since = now;
    if (!blocked && c->blocked_since != 0) {
        c->peer->blocked_ns += now - c->blocked_since;
        c->blocked_since = 0;
    }
}

uint64_t
link_blocked_ns(const struct stream_peer *p)
{
    const struct conn *c = p->up ? p->conn[LINK_DATA] : NULL;
    uint64_t now = io_mono_ns(p->stream->loop);

    return p->blocked_ns +
           (c && c->blocked_since != 0 ? now - c->blocked_since : 0);
}

uint64_t
link_unsent(const struct stream_peer *p)
{
    return p->up ? io_chan_unsent(p->conn[LINK_DATA]->ch) : 0;
}

uint32_t
link_handle(struct stream_peer *p)
{
    uint32_t h = p->next_handle++;

    if (p->next_handle == 0)
        p->next_handle = 1;
    return h;
}

int
conn_send_hello(struct conn *c, enum frame_type type, bool ok, const char *text)
{
    struct msg_hello m = {
        .version_min = STREAM_VERSION,
        .version_max = STREAM_VERSION,
        .kind = (uint8_t)c->kind,
        .agent = c->stream->cfg.self,
        .session = c->peer ? c->peer->session : 0,
        .wall_ns = io_wall_ns(c->stream->loop),
        .ok = ok,
    };
    uint8_t body[MSG_BODY_MAX];
    struct frame f = { .type = (uint8_t)type };

    if (c->peer)
        m.peer = c->peer->cfg.agent;
    snprintf(m.text, sizeof m.text, "%s", text);
    f.body_len = (uint32_t)msg_hello_encode(&m, body);
    if (conn_put(c, &f, body) < 0)
        return -ENOMEM;
    return conn_flush_queue(c);
}

/* --- the link as a whole ------------------------------------------------ */

static void
link_down(struct stream_peer *p)
{
    uint64_t now = io_mono_ns(p->stream->loop);
    bool was_up = p->up;
    struct list *l, *tmp;

    if (was_up && now - p->up_since_ns > STABLE_S * NSEC_PER_SEC)
        p->backoff_ns = REDIAL_MIN_MS * NSEC_PER_MSEC;
    p->up = false;
    p->said_n = 0;
    io_timer_stop(&p->ping);
    io_task_cancel(&p->pump);
    for (unsigned k = 0; k < 2; k++) {
        struct conn *c = p->conn[k];

        if (c)
            conn_blocked(c, false);
        p->conn[k] = NULL;
        conn_free(c);
    }
    if (was_up) {
        list_for_each_safe (l, tmp, &p->senders)
            sender_link_down(sender_of_link(l));
        list_for_each_safe (l, tmp, &p->receivers)
            receiver_link_down(receiver_of_link(l));
    }
    if (p->cfg.dial && !io_timer_armed(&p->redial)) {
        uint8_t r;

        io_random(p->stream->loop, &r, 1);
        /* Jitter of up to a quarter keeps many agents from dialling in step. */
        io_timer_set(&p->redial,
                     p->backoff_ns + p->backoff_ns / 4 * r / UINT8_MAX);
        p->backoff_ns = MIN(p->backoff_ns * 2, p->stream->cfg.redial_max_ns);
    }
}

void
link_break(struct stream_peer *p, const char *fmt, ...)
{
    char why[sizeof p->error], ids[64];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(why, sizeof why, fmt, ap);
    va_end(ap);
    peer_ids(p, ids);
    /* Say a repeated reason once: a peer that is away for hours would fill the
     * log otherwise. */
    if (p->up || strcmp(why, p->error) != 0)
        log_line(p->up ? LOG_WARN : LOG_INFO, ROOM, ids, "link down: %s", why);
    memcpy(p->error, why, sizeof p->error);
    link_down(p);
}

void
link_up(struct stream_peer *p)
{
    char ids[64];
    struct list *l, *tmp;

    p->up = true;
    p->error[0] = 0;
    p->last_rx_ns = p->up_since_ns = io_mono_ns(p->stream->loop);
    for (unsigned k = 0; k < 2; k++) {
        struct conn *c = p->conn[k];

        io_timer_stop(&c->deadline);
        if (!c->parked)
            continue;
        c->parked = false;
        conn_want(c, c->out.len > 0);
        io_defer(p->stream->loop, &c->resume);
    }
    io_timer_stop(&p->redial);
    io_timer_set(&p->ping, NSEC_PER_MSEC * 50);
    peer_ids(p, ids);
    log_line(LOG_INFO, ROOM, ids, "link up with %s",
             io_chan_peer_name(p->conn[LINK_DATA]->ch));
    list_for_each_safe (l, tmp, &p->receivers)
        receiver_link_up(receiver_of_link(l));
    list_for_each_safe (l, tmp, &p->senders)
        sender_link_up(sender_of_link(l));
}

void
link_control(struct stream_peer *p, const struct frame *f, const uint8_t *body)
{
    struct conn *c = p->conn[LINK_CONTROL];
    int rc;

    if (!p->up)
        return;
    rc = conn_put(c, f, body);
    if (rc < 0) {
        link_break(p, "control queue full: peer takes no messages");
        return;
    }
    /* Written at the end of the turn, many at once. */
    io_defer(p->stream->loop, &p->pump);
}

void
link_kick(struct stream_peer *p)
{
    if (p->up)
        io_defer(p->stream->loop, &p->pump);
}

/* Write data frames until the transport is full, nobody has one, or the turn's
 * share is used up. */
static int
data_pump(struct stream_peer *p, struct conn *c)
{
    uint64_t moved = 0;
    int rc = conn_flush_queue(c);

    if (rc < 0)
        return rc;
    for (;;) {
        struct tx_frame *tx = c->tx;
        int64_t n;

        if (!c->tx_busy) {
            struct list *l, *tmp;

            if (moved >= LINK_TX_TURN)
                return -EINPROGRESS;
            list_for_each_safe (l, tmp, &p->senders) {
                if (sender_fill(sender_of_link(l), tx)) {
                    c->tx_busy = true;
                    list_del(l);
                    list_push_back(&p->senders, l);
                    break;
                }
            }
            if (!c->tx_busy)
                return 0;
        }
        n = io_chan_writev(c->ch, tx->iov + tx->pos, tx->n - tx->pos);
        if (n < 0)
            return (int)n;
        moved += (uint64_t)n;
        p->tx_bytes += (uint64_t)n;
        while (tx->pos < tx->n && (size_t)n >= tx->iov[tx->pos].iov_len) {
            n -= (int64_t)tx->iov[tx->pos].iov_len;
            tx->pos++;
        }
        if (tx->pos == tx->n) {
            c->tx_busy = false;
            io_mem_free(tx->buf, tx->buf_size);
            tx->buf = NULL;
            if (tx->sent)
                tx->sent(tx->owner);
        } else {
            tx->iov[tx->pos].iov_base = (uint8_t *)tx->iov[tx->pos].iov_base + n;
            tx->iov[tx->pos].iov_len -= (size_t)n;
        }
    }
}

static void
link_pump(struct io_task *t)
{
    struct stream_peer *p = container_of(t, struct stream_peer, pump);
    struct conn *c;
    int rc;

    if (!p->up)
        return;
    c = p->conn[LINK_CONTROL];
    rc = conn_flush_queue(c);
    if (rc < 0 && rc != -EAGAIN) {
        link_break(p, "control connection: %s", err_errno(rc));
        return;
    }
    conn_want(c, rc == -EAGAIN);
    c = p->conn[LINK_DATA];
    rc = data_pump(p, c);
    if (!p->up)
        return;
    if (rc < 0 && rc != -EAGAIN && rc != -EINPROGRESS) {
        link_break(p, "data connection: %s", err_errno(rc));
        return;
    }
    conn_blocked(c, rc == -EAGAIN);
    conn_want(c, rc == -EAGAIN || rc == -EINPROGRESS);
}

static void
link_ping(struct io_timer *t)
{
    struct stream_peer *p = container_of(t, struct stream_peer, ping);
    uint64_t now = io_mono_ns(p->stream->loop);
    struct frame f = { .type = FRAME_PING, .id = now };

    if (now - p->last_rx_ns > p->stream->cfg.dead_ns) {
        link_break(p, "nothing heard for %llu ms",
                   (unsigned long long)((now - p->last_rx_ns) / NSEC_PER_MSEC));
        return;
    }
    io_timer_set(t, MIN(p->stream->cfg.dead_ns / 4, 2 * NSEC_PER_SEC));
    link_control(p, &f, NULL);
}

/* --- dialling and accepting --------------------------------------------- */

static void
peer_dial(struct stream_peer *p)
{
    struct stream *s = p->stream;
    struct err err = ERR_INIT;

    if (p->up || p->conn[0] || p->conn[1])
        return;
    io_random(s->loop, &p->session, sizeof p->session);
    for (unsigned k = 0; k < 2; k++) {
        struct conn *c = conn_new(s, (enum link_kind)k);
        struct io_chan_owner owner = { .event = conn_event, .arg = c };
        int rc = -ENOMEM;

        if (c) {
            c->dialled = true;
            c->peer = p;
            p->conn[k] = c;
            rc = io_chan_connect(s->loop, &p->cfg.addr, s->cfg.client_tls,
                                 HELLO_DEADLINE_S * NSEC_PER_SEC, &owner,
                                 &c->ch, &err);
        }
        if (rc < 0) {
            link_break(p, "%s", err.num ? err.msg : err_errno(rc));
            return;
        }
    }
}

static void
peer_redial(struct io_timer *t)
{
    peer_dial(container_of(t, struct stream_peer, redial));
}

static void
stream_accepted(void *arg, struct io_chan *ch)
{
    struct stream *s = arg;
    struct conn *c = NULL;

    if (s->n_half_open < LINK_HALF_OPEN_MAX)
        c = conn_new(s, LINK_CONTROL);
    if (!c) {
        io_chan_close(ch);
        return;
    }
    c->ch = ch;
    c->state = CONN_HELLO;
    list_push_back(&s->half_open, &c->link);
    s->n_half_open++;
    io_chan_set_owner(ch, &(struct io_chan_owner){ conn_event, c });
    conn_want(c, false);
}

/* --- the stream and its peers ------------------------------------------- */

int
stream_new(const struct stream_config *cfg, struct stream **out, struct err *err)
{
    struct stream *s = calloc(1, sizeof *s);

    if (!s)
        return err_set(err, -ENOMEM, ERR_GEN_0002, "stream: out of memory");
    s->cfg = *cfg;
    s->loop = cfg->loop;
    if (s->cfg.dead_ns == 0)
        s->cfg.dead_ns = 15 * NSEC_PER_SEC;
    if (s->cfg.rx_turn == 0)
        s->cfg.rx_turn = LINK_RX_TURN;
    if (s->cfg.redial_max_ns == 0)
        s->cfg.redial_max_ns = 10 * NSEC_PER_SEC;
    if (s->cfg.client_tls)
        tls_ctx_ref(s->cfg.client_tls);
    if (s->cfg.server_tls)
        tls_ctx_ref(s->cfg.server_tls);
    list_init(&s->peers);
    list_init(&s->half_open);
    *out = s;
    return 0;
}

void
stream_free(struct stream *s)
{
    struct list *l;

    if (!s)
        return;
    if (s->listener)
        io_listener_close(s->listener);
    while (!list_empty(&s->half_open)) {
        l = s->half_open.next;
        conn_free(list_entry(l, struct conn, link));
    }
    tls_ctx_free(s->cfg.client_tls);
    tls_ctx_free(s->cfg.server_tls);
    free(s);
}

int
stream_listen(struct stream *s, const struct io_addr *addr,
              struct io_addr *out_bound, struct err *err)
{
    struct io_listen_config cfg = {
        .addr = *addr,
        .tls = s->cfg.server_tls,
    };
    int rc = io_listen(s->loop, &cfg, stream_accepted, s, &s->listener, err);

    if (rc == 0)
        io_listener_addr(s->listener, out_bound);
    return rc;
}

void
stream_set_tls(struct stream *s, struct tls_ctx *client, struct tls_ctx *server)
{
    tls_ctx_ref(client);
    tls_ctx_ref(server);
    tls_ctx_free(s->cfg.client_tls);
    tls_ctx_free(s->cfg.server_tls);
    s->cfg.client_tls = client;
    s->cfg.server_tls = server;
    if (s->listener)
        io_listener_set_tls(s->listener, server);
}

void
stream_recheck(struct stream *s)
{
    struct list *l, *tmp;

    list_for_each_safe (l, tmp, &s->peers) {
        struct stream_peer *p = list_entry(l, struct stream_peer, link);
        struct err err = ERR_INIT;

        if (p->up && (io_chan_recheck(p->conn[LINK_CONTROL]->ch, &err) < 0 ||
                      io_chan_recheck(p->conn[LINK_DATA]->ch, &err) < 0))
            link_break(p, "%s", err.msg);
    }
}

int
stream_peer_get(struct stream *s, const struct stream_peer_config *cfg,
                struct stream_peer **out, struct err *err)
{
    struct stream_peer *p;
    struct list *l;

    list_for_each (l, &s->peers) {
        p = list_entry(l, struct stream_peer, link);
        if (!uuid_equal(&p->cfg.agent.u, &cfg->agent.u))
            continue;
        p->refs++;
        if (cfg->dial) { /* a lane that waits to be dialled changes nothing */
            bool moved = !p->cfg.dial || p->cfg.addr.port != cfg->addr.port ||
                         p->cfg.addr.is_unix != cfg->addr.is_unix ||
                         strcmp(p->cfg.addr.host, cfg->addr.host) != 0;

            p->cfg.dial = true;
            p->cfg.addr = cfg->addr;
            if (moved && !p->up)
                io_timer_set(&p->redial, 0);
        }
        *out = p;
        return 0;
    }
    p = calloc(1, sizeof *p);
    if (!p)
        return err_set(err, -ENOMEM, ERR_GEN_0002, "peer: out of memory");
    p->stream = s;
    p->cfg = *cfg;
    p->refs = 1;
    p->backoff_ns = REDIAL_MIN_MS * NSEC_PER_MSEC;
    p->next_handle = 1;
    list_init(&p->senders);
    list_init(&p->receivers);
    io_timer_init(&p->redial, s->loop, peer_redial);
    io_timer_init(&p->ping, s->loop, link_ping);
    io_task_init(&p->pump, link_pump);
    list_push_back(&s->peers, &p->link);
    if (cfg->dial)
        io_timer_set(&p->redial, 0);
    *out = p;
    return 0;
}

void
stream_peer_put(struct stream_peer *p)
{
    if (!p || --p->refs > 0)
        return;
    p->cfg.dial = false;
    link_down(p);
    io_timer_stop(&p->redial);
    list_del(&p->link);
    free(p);
}

void
stream_peer_cut(struct stream_peer *p, const char *why)
{
    link_break(p, "%s", why);
}

void
stream_peer_status(const struct stream_peer *p, struct stream_peer_status *out)
{
    *out = (struct stream_peer_status){
        .state = p->up         ? PEER_UP
                 : p->cfg.dial ? PEER_CONNECTING
                               : PEER_LISTENING,
        .rtt_ns = p->rtt_ns,
    };
    snprintf(out->error, sizeof out->error, "%s", p->error);
}
