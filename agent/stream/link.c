/* Links: dialling, HELLO, frames in and out, silence, back-off.
 *
 * Everything a peer sends is checked here against one table (which type, on
 * which connection, how long, in which direction) before a sender or receiver
 * sees it.  A peer that breaks the protocol loses the link, with a sentence
 * that says what it did; the lanes resume from what is durable.
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
    MEM_STEP = 128 * 1024, /* sizes of what frames are received in */
    REDIAL_MIN_MS = 100,
    STABLE_S = 5, /* a link that held this long is dialled at once again */
};

static void conn_event(void *arg, struct io_chan *ch, unsigned events);
static void conn_receive(struct conn *c);

static void
peer_ids(const struct stream_peer *p, char out[64])
{
    char id[UUID_TEXT_SIZE];

    uuid_format(&p->cfg.agent.u, id);
    snprintf(out, 64, "peer=%s", id);
}

/* --- connections -------------------------------------------------------- */

static void
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

/* Write what is queued; 0, -EAGAIN (WRITABLE wanted), or broken. */
static int
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

static void
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

static int
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

static void
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

/* --- receiving ---------------------------------------------------------- */

enum to {
    TO_LINK,
    TO_SOURCE,
    TO_TARGET,
    TO_EITHER /* the link, or with the flag a source */
};

/* What may come: on which connection, to which end, how long. */
static const struct message_rule {
    uint8_t type, kind;
    enum to to;
    uint32_t body_min, body_max;
    uint32_t small; /* bytes of the body parsed from small; the rest in mem */
} rules[] = {
    { FRAME_LANE_OPEN, LINK_CONTROL, TO_LINK, 1, MSG_BODY_MAX, MSG_BODY_MAX },
    { FRAME_LANE_STATE, LINK_CONTROL, TO_SOURCE, 1, MSG_BODY_MAX, MSG_BODY_MAX },
    { FRAME_BATCH, LINK_DATA, TO_TARGET, BATCH_HDR_SIZE, BATCH_SIZE_MAX, 0 },
    { FRAME_DURABLE, LINK_CONTROL, TO_SOURCE, 0, 0, 0 },
    { FRAME_CREDIT, LINK_CONTROL, TO_SOURCE, 0, 0, 0 },
    { FRAME_SYNC_DATA, LINK_DATA, TO_TARGET, SYNC_DATA_HDR_SIZE,
      SYNC_DATA_HDR_SIZE + SYNC_DATA_MAX, SYNC_DATA_HDR_SIZE },
    { FRAME_SYNC_DONE, LINK_CONTROL, TO_SOURCE, 0, 0, 0 },
    { FRAME_SYNC_AGAIN, LINK_CONTROL, TO_SOURCE, 0, 0, 0 },
    { FRAME_PING, LINK_CONTROL, TO_LINK, 0, 0, 0 },
    { FRAME_PONG, LINK_CONTROL, TO_LINK, 0, 0, 0 },
    { FRAME_ERROR, LINK_CONTROL, TO_EITHER, 1, MSG_BODY_MAX, MSG_BODY_MAX },
    { FRAME_BYE, LINK_CONTROL, TO_LINK, 1, MSG_BODY_MAX, MSG_BODY_MAX },
    { FRAME_LANE_STATUS, LINK_CONTROL, TO_TARGET, 1, MSG_BODY_MAX, MSG_BODY_MAX },
    { FRAME_LANE_CLOSE, LINK_CONTROL, TO_TARGET, 0, 0, 0 },
    { FRAME_CUT_AGE, LINK_DATA, TO_TARGET, 0, 0, 0 },
};

static const struct message_rule *
rule_of(uint8_t type)
{
    for (size_t i = 0; i < ARRAY_SIZE(rules); i++) {
        if (rules[i].type == type)
            return &rules[i];
    }
    return NULL;
}

/* A frame without an addressee is dropped: its lane may just have been closed
 * on this side. */
static int
dispatch_source(struct conn *c)
{
    struct frame *f = &c->frame;
    struct sender *s = sender_by_handle(c->peer, f->lane);
    struct msg_lane_state m;

    if (!s)
        return 0;
    switch (f->type) {
    case FRAME_LANE_STATE:
        if (msg_lane_state_decode(c->small, c->small_have, &m) < 0)
            return -EBADMSG;
        sender_on_lane_state(s, f, &m);
        return 0;
    case FRAME_DURABLE: sender_on_durable(s, f); return 0;
    case FRAME_CREDIT: sender_on_credit(s, f); return 0;
    case FRAME_SYNC_DONE: sender_on_sync_done(s, f); return 0;
    case FRAME_SYNC_AGAIN: sender_on_sync_again(s, f); return 0;
    default: return -EBADMSG;
    }
}

static int
dispatch_target(struct conn *c)
{
    struct frame *f = &c->frame;
    struct receiver *r = receiver_by_handle(c->peer, f->lane);
    struct msg_lane_status st;
    struct msg_sync_data sd;
    void *mem = c->mem;
    size_t mem_size = c->mem_size;

    if (f->type == FRAME_LANE_STATUS &&
        msg_lane_status_decode(c->small, c->small_have, &st) < 0)
        return -EBADMSG;
    /* The decoder counts the bytes that lie in mem. */
    if (f->type == FRAME_SYNC_DATA &&
        msg_sync_data_decode(c->small, f->body_len, &sd) < 0)
        return -EBADMSG;
    if (f->type == FRAME_LANE_CLOSE)
        receivers_on_lane_close(c->peer, f->lane);
    if (!r || f->type == FRAME_LANE_CLOSE)
        return 0;
    switch (f->type) {
    case FRAME_BATCH:
        c->mem = NULL;
        c->mem_size = 0;
        receiver_on_batch(r, f, mem, c->mem_len, mem_size);
        return 0;
    case FRAME_SYNC_DATA:
        c->mem = NULL;
        c->mem_size = 0;
        receiver_on_sync_data(r, f, &sd, mem, mem_size);
        return 0;
    case FRAME_LANE_STATUS: receiver_on_lane_status(r, &st); return 0;
    case FRAME_CUT_AGE: receiver_on_cut_age(r, f); return 0;
    default: return -EBADMSG;
    }
}

static int
dispatch_link(struct conn *c)
{
    struct stream_peer *p = c->peer;
    struct frame *f = &c->frame, pong = { .type = FRAME_PONG, .id = f->id };
    struct msg_lane_open *open;
    struct msg_error e;
    struct sender *s;
    int rc;

    switch (f->type) {
    case FRAME_PING: link_control(p, &pong, NULL); return 0;
    case FRAME_PONG: p->rtt_ns = io_mono_ns(p->stream->loop) - f->id; return 0;
    case FRAME_LANE_OPEN:
        open = malloc(sizeof *open);
        if (!open)
            return -ENOMEM;
        rc = msg_lane_open_decode(c->small, c->small_have, open);
        if (rc == 0)
            rc = receiver_on_lane_open(p, f, open);
        free(open);
        return rc;
    case FRAME_ERROR:
    case FRAME_BYE:
        if (msg_error_decode(c->small, c->small_have, &e) < 0)
            return -EBADMSG;
        s = sender_by_handle(p, f->lane);
        if (s && (f->flags & FRAME_TO_SOURCE))
            sender_on_error(s, &e);
        else if (!(f->flags & FRAME_TO_SOURCE))
            link_break(p, "peer says: %s%s%s", e.code, e.code[0] ? " " : "",
                       e.text);
        return 0;
    default: return -EBADMSG;
    }
}

/* Say why to an accepted connection, and drop it.  A dialler comes again for
 * ever: the same reason is logged once. */
static void
conn_refuse(struct conn *c, const struct err *err)
{
    struct stream *s = c->stream;
    char text[sizeof s->refused];

    snprintf(text, sizeof text, "%.199s", err->msg);
    if (strcmp(s->refused, text) != 0)
        log_err(LOG_WARN, ROOM, "", io_chan_peer_name(c->ch), err);
    memcpy(s->refused, text, sizeof text);
    snprintf(text, sizeof text, "%s %.180s", err_code_text(err->code), err->msg);
    (void)conn_send_hello(c, FRAME_HELLO_ACK, false, text);
    conn_free(c);
}

/* Both sides dial at once: one of the two must give way, and both must agree
 * which.  Ours goes on when our id is the greater, but only once it has reached
 * the peer: where only one side can be reached, that dial must win.  A link just
 * made may still meet the HELLO that the peer has given up for it. */
static bool
dial_wins(const struct stream_peer *p)
{
    uint64_t now = io_mono_ns(p->stream->loop);
    bool reached = false;

    for (unsigned k = 0; k < 2; k++)
        reached |= p->conn[k] && p->conn[k]->dialled &&
                   p->conn[k]->state != CONN_OPENING;
    return reached && (!p->up || now - p->up_since_ns < NSEC_PER_SEC) &&
           memcmp(p->stream->cfg.self.u.b, p->cfg.agent.u.b, 16) > 0;
}

static int
conn_hello_incoming(struct conn *c, const struct msg_hello *m, struct err *err)
{
    struct stream *s = c->stream;
    struct stream_peer *p = NULL;
    struct tls_identity who;
    struct list *l;

    if (m->version_min > STREAM_VERSION || m->version_max < STREAM_VERSION)
        return err_set(err, -EPROTONOSUPPORT, ERR_STR_0001,
                       "peer speaks stream versions %u to %u, this release "
                       "speaks %d",
                       m->version_min, m->version_max, STREAM_VERSION);
    if ((m->features & 0xffff0000u) != 0)
        return err_set(err, -EPROTONOSUPPORT, ERR_STR_0001,
                       "peer needs features 0x%x that this release lacks",
                       m->features & 0xffff0000u);
    if (!uuid_equal(&m->peer.u, &s->cfg.self.u))
        return err_set(err, -EACCES, ERR_STR_0002,
                       "peer looks for another replicator at this address");
    if (io_chan_is_tls(c->ch)) {
        int rc = io_chan_peer_identity(c->ch, &who);

        if (rc < 0 || who.role != TLS_ROLE_REPLICATOR ||
            !uuid_equal(&who.id, &m->agent.u))
            return err_set(err, -EACCES, ERR_STR_0002,
                           "peer's certificate is not that of the replicator "
                           "it says it is");
    }
    list_for_each (l, &s->peers) {
        struct stream_peer *q = list_entry(l, struct stream_peer, link);

        if (uuid_equal(&q->cfg.agent.u, &m->agent.u))
            p = q;
    }
    if (!p)
        return err_set(err, -EACCES, ERR_STR_0003,
                       "replicator is not a peer here: no VPG uses it");
    if (dial_wins(p))
        return err_set(err, -EBUSY, ERR_STR_0019,
                       "this side is dialling, too, and goes first");
    /* A new session replaces the old one: the dialler has given that up. */
    if (p->session != m->session || p->conn[m->kind]) {
        if (p->up || p->conn[LINK_CONTROL] || p->conn[LINK_DATA])
            link_break(p, "peer dialled again");
        p->session = m->session;
    }
    list_del(&c->link);
    s->n_half_open--;
    c->peer = p;
    c->kind = m->kind;
    p->conn[c->kind] = c;
    return 0;
}

static int
conn_became_up(struct conn *c)
{
    struct stream_peer *p = c->peer;

    c->state = CONN_UP;
    if (c->kind == LINK_DATA) {
        c->tx = calloc(1, sizeof *c->tx);
        if (!c->tx)
            return -ENOMEM;
    }
    conn_want(c, c->out.len > 0);
    if (p->conn[0] && p->conn[1] && p->conn[0]->state == CONN_UP &&
        p->conn[1]->state == CONN_UP)
        link_up(p);
    return 0;
}

/* HELLO from a dialler, or HELLO_ACK to one.  May free c: -ECANCELED then. */
static int
conn_hello(struct conn *c)
{
    struct stream_peer *p = c->peer;
    struct msg_hello m;
    struct err err = ERR_INIT;
    struct tls_identity who;
    int rc;

    if (c->frame.type != (c->dialled ? FRAME_HELLO_ACK : FRAME_HELLO) ||
        msg_hello_decode(c->small, c->small_have, &m) < 0)
        return -EBADMSG;
    if (!c->dialled) {
        rc = conn_hello_incoming(c, &m, &err);
        if (rc < 0) {
            conn_refuse(c, &err);
            return -ECANCELED;
        }
        rc = conn_send_hello(c, FRAME_HELLO_ACK, true, "");
        if (rc < 0 && rc != -EAGAIN)
            return rc;
        return conn_became_up(c);
    }
    if (!m.ok) {
        link_break(p, "refused by peer: %s", m.text);
        return -ECANCELED;
    }
    if (m.version_max < STREAM_VERSION || m.version_min > STREAM_VERSION) {
        link_break(p, "peer speaks stream versions %u to %u, this release %d",
                   m.version_min, m.version_max, STREAM_VERSION);
        return -ECANCELED;
    }
    if (!uuid_equal(&m.agent.u, &p->cfg.agent.u) ||
        (io_chan_is_tls(c->ch) && (io_chan_peer_identity(c->ch, &who) < 0 ||
                                   who.role != TLS_ROLE_REPLICATOR ||
                                   !uuid_equal(&who.id, &p->cfg.agent.u)))) {
        link_break(p, "another replicator answers at this address");
        return -ECANCELED;
    }
    return conn_became_up(c);
}

/* A frame is complete. */
static int
conn_frame(struct conn *c)
{
    const struct message_rule *rule;
    int rc = -EBADMSG;

    if (c->state != CONN_UP)
        return conn_hello(c);
    rule = rule_of(c->frame.type);
    switch (rule->to) {
    case TO_SOURCE: rc = dispatch_source(c); break;
    case TO_TARGET: rc = dispatch_target(c); break;
    case TO_LINK:
    case TO_EITHER: rc = dispatch_link(c); break;
    }
    return rc;
}

static bool
flags_fit(const struct message_rule *rule, uint16_t flags)
{
    switch (rule->to) {
    case TO_SOURCE: return flags == FRAME_TO_SOURCE;
    case TO_EITHER: return (flags & ~FRAME_TO_SOURCE) == 0;
    case TO_LINK:
    case TO_TARGET: break;
    }
    return flags == 0;
}

/* The header is complete: may it come now, and where does its body go? */
static int
conn_header(struct conn *c)
{
    const struct message_rule *rule;
    uint8_t version = 0;
    uint32_t small;
    int rc = frame_decode(c->hdr, sizeof c->hdr, &c->frame, &version);

    if (rc == -EPROTONOSUPPORT && c->peer) {
        link_break(c->peer, "peer sends frames of version %u, this release %d",
                   version, STREAM_VERSION);
        return -ECANCELED;
    }
    if (rc == -EPROTONOSUPPORT) {
        struct err err = ERR_INIT;

        err_set(&err, rc, ERR_STR_0001,
                "peer sends frames of version %u, this release %d", version,
                STREAM_VERSION);
        conn_refuse(c, &err);
        return -ECANCELED;
    }
    if (rc < 0)
        return rc;
    if (c->state != CONN_UP) {
        if (c->frame.body_len > MSG_BODY_MAX || c->frame.flags != 0)
            return -EBADMSG;
        small = c->frame.body_len;
    } else {
        rule = rule_of(c->frame.type);
        if (!rule || rule->kind != c->kind || !flags_fit(rule, c->frame.flags) ||
            c->frame.body_len < rule->body_min ||
            c->frame.body_len > rule->body_max)
            return -EBADMSG;
        small = MIN(rule->small, c->frame.body_len);
    }
    c->small_len = small;
    c->small_have = 0;
    c->mem_len = c->frame.body_len - small;
    c->mem_have = 0;
    if (c->mem_len > 0) {
        size_t size = round_up(c->mem_len, BATCH_DISK_ALIGN);

        if (!c->mem || c->mem_size < size) {
            io_mem_free(c->mem, c->mem_size);
            /* few lengths, so that memory is used again */
            c->mem_size = round_up(size, MEM_STEP);
            c->mem = io_mem_alloc_uncleared(c->mem_size);
            if (!c->mem)
                return -ENOMEM;
        }
        /* what is written to disk behind the frame is not left over data */
        memset(c->mem + c->mem_len, 0, size - c->mem_len);
    }
    c->in_body = true;
    return 0;
}

static int64_t
conn_fill(struct conn *c, uint8_t *p, size_t len, size_t *have)
{
    int64_t n = io_chan_read(c->ch, p + *have, len - *have);

    if (n == 0)
        return -ECONNRESET;
    if (n > 0)
        *have += (size_t)n;
    return n;
}

/* One step of receiving; bytes read, 0 for a step without any, or an error;
 * -ECANCELED: c is gone. */
static int64_t
conn_step(struct conn *c)
{
    struct stream *s = c->stream;
    int64_t n;
    int rc;

    if (!c->in_body) {
        n = 0;
        if (c->hdr_have < sizeof c->hdr)
            n = conn_fill(c, c->hdr, sizeof c->hdr, &c->hdr_have);
        if (n < 0 || c->hdr_have < sizeof c->hdr)
            return n;
        /* The peer's link is up when it has both our HELLOs; its first frames
         * may overtake its answer on the other connection. */
        if (c->state == CONN_UP && !c->peer->up) {
            c->parked = true;
            return -EBUSY;
        }
        c->hdr_have = 0;
        rc = conn_header(c);
        return rc < 0 ? rc : n;
    }
    if (c->small_have < c->small_len)
        return conn_fill(c, c->small, c->small_len, &c->small_have);
    if (c->mem_have < c->mem_len)
        return conn_fill(c, c->mem, c->mem_len, &c->mem_have);
    c->in_body = false;
    /* Whatever the frame leads to may break the link and free c. */
    s->receiving = c;
    rc = conn_frame(c);
    if (s->receiving != c)
        return -ECANCELED;
    s->receiving = NULL;
    return rc;
}

static bool
conn_has_frame(const struct conn *c)
{
    return c->in_body && c->small_have == c->small_len &&
           c->mem_have == c->mem_len;
}

static void
conn_receive(struct conn *c)
{
    struct stream *s = c->stream;
    uint64_t moved = 0;
    int64_t n = 0;

    /* A whole frame is handled in the turn that its last byte came in: nothing
     * would call again for it when no more bytes follow. */
    while (moved < LINK_RX_TURN || conn_has_frame(c)) {
        n = conn_step(c);
        if (n < 0)
            break;
        moved += (uint64_t)n;
    }
    if (n == -ECANCELED)
        return;
    if (n == -EBUSY) { /* link_up() goes on */
        conn_want(c, c->out.len > 0);
        return;
    }
    if (c->peer && moved > 0)
        c->peer->last_rx_ns = io_mono_ns(s->loop);
    if (n >= 0 || n == -EAGAIN)
        return;
    if (!c->peer) {
        conn_free(c);
        return;
    }
    if (n == -ECONNRESET)
        link_break(c->peer, "peer closed the connection");
    else if (n == -EBADMSG || n == -EMSGSIZE)
        link_break(c->peer, "peer broke the protocol: frame type %u of %u bytes",
                   c->frame.type, c->frame.body_len);
    else
        link_break(c->peer, "receiving: %s", err_errno((int)n));
}

static void
conn_event(void *arg, struct io_chan *ch, unsigned events)
{
    struct conn *c = arg;
    struct err err = ERR_INIT;
    int rc;

    if (events & IO_CHAN_BROKEN) {
        io_chan_error(ch, &err);
        if (c->peer)
            link_break(c->peer, "%s", err.msg);
        else
            conn_free(c);
        return;
    }
    if (events & IO_CHAN_OPEN) {
        c->state = CONN_HELLO;
        rc = c->dialled ? conn_send_hello(c, FRAME_HELLO, true, "") : 0;
        if (rc < 0 && rc != -EAGAIN) {
            link_break(c->peer, "saying HELLO: %s", err_errno(rc));
            return;
        }
        conn_want(c, rc == -EAGAIN);
    }
    if (events & IO_CHAN_WRITABLE) {
        if (c->state == CONN_UP && c->peer->up) {
            io_defer(c->stream->loop, &c->peer->pump);
        } else {
            /* Another error shows at the next read. */
            rc = conn_flush_queue(c);
            conn_want(c, rc == -EAGAIN);
        }
    }
    if (events & IO_CHAN_READABLE)
        conn_receive(c);
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
