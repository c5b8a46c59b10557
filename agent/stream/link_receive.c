/* What comes in on a link: HELLO, then frames.
 *
 * Everything a peer sends is checked here against one table (which type, on
 * which connection, how long, in which direction) before a sender or receiver
 * sees it.  A peer that breaks the protocol loses the link, with a sentence
 * that says what it did; the lanes resume from what is durable.
 */
#include "stream/link.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "common/tls.h"

#define ROOM "stream"

enum {
    MEM_STEP = 128 * 1024, /* sizes of what frames are received in */
};

/* --- who gets a frame --------------------------------------------------- */

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

/* --- HELLO -------------------------------------------------------------- */

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

/* --- frames ------------------------------------------------------------- */

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

void
conn_receive(struct conn *c)
{
    struct stream *s = c->stream;
    uint64_t moved = 0;
    int64_t n = 0;

    /* A whole frame is handled in the turn that its last byte came in: nothing
     * would call again for it when no more bytes follow. */
    while (moved < s->cfg.rx_turn || conn_has_frame(c)) {
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

void
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
