/* See http_server.h.  Connections: accept, handshake, then for each request
 *
 *   HEAD -> (gate) -> BODY -> BUSY (the handler's) -> WRITE -> HEAD or LINGER
 *
 * with one timer that holds the state's deadline.  LINGER reads and drops what
 * a refused client is still sending, so that the kernel does not answer it
 * with a reset that would eat our refusal. */
#include "http/http_server.h"

#include <arpa/inet.h>
#include <inttypes.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/bufferevent_ssl.h>
#include <event2/event.h>
#include <openssl/rand.h>

#include "common/bytes.h"
#include "common/list.h"
#include "common/log.h"
#include "common/text.h"
#include "http/http_request.h"

enum {
    READ_AT_ONCE = 64 * 1024, /* of unparsed input held per connection */
    DRAIN_MAX = 64 * 1024,    /* of a refused body, to keep the connection */
    LINGER_MS = 2000,
    LISTEN_QUEUE = 256,
    SOURCE_SIZE = INET6_ADDRSTRLEN,
};

struct listener {
    struct list link;
    struct http_server *server;
    struct event *ev;
    int fd;
    struct tls_ctx *tls; /* NULL: Unix socket */
    char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
};

enum conn_state {
    CONN_HANDSHAKE,
    CONN_HEAD,
    CONN_BODY,
    CONN_BUSY,
    CONN_WRITE,
    CONN_LINGER
};

struct conn {
    struct list link; /* of the server; least recently used first */
    struct http_server *server;
    struct bufferevent *bev;
    struct event *timer;
    SSL *ssl; /* the bufferevent's; NULL on a Unix socket */
    enum conn_state state;
    bool has_peer, close_after, idle;
    struct tls_identity peer;
    size_t scanned; /* of the head that is arriving */
    struct http_req *rq;
    char source[SOURCE_SIZE];
};

struct http_server {
    struct http_loop *loop;
    struct http_settings set;
    struct list listeners, conns;
    unsigned n_conns;
};

/* --- connections ------------------------------------------------------------ */

static void process_input(struct conn *c);

static void
set_deadline(struct conn *c, uint32_t ms)
{
    struct timeval tv = { .tv_sec = ms / 1000,
                          .tv_usec = (suseconds_t)(ms % 1000) * 1000 };

    (void)evtimer_add(c->timer, &tv);
}

static void
conn_free(struct conn *c)
{
    if (c->rq) {
        c->rq->conn = NULL;
        if (c->state != CONN_BUSY || c->rq->replied)
            http_req_free(c->rq);
    }
    list_del(&c->link);
    c->server->n_conns--;
    if (c->timer)
        event_free(c->timer);
    if (c->bev)
        bufferevent_free(c->bev);
    free(c);
}

/* Nothing more will be answered here; let the client finish talking. */
static void
conn_linger(struct conn *c)
{
    int fd = (int)bufferevent_getfd(c->bev);

    c->state = CONN_LINGER;
    if (c->ssl)
        (void)SSL_shutdown(c->ssl);
    (void)shutdown(fd, SHUT_WR);
    evbuffer_drain(bufferevent_get_input(c->bev), SIZE_MAX);
    set_deadline(c, LINGER_MS);
    bufferevent_enable(c->bev, EV_READ);
}

static void
conn_next(struct conn *c)
{
    if (c->close_after) {
        conn_linger(c);
        return;
    }
    list_del(&c->link);
    list_push_back(&c->server->conns, &c->link);
    c->state = CONN_HEAD;
    c->idle = true;
    c->scanned = 0;
    set_deadline(c, c->server->set.idle_timeout_ms);
    bufferevent_enable(c->bev, EV_READ);
    process_input(c);
}

/* The answer is complete and the body read: send it. */
static void
conn_send(struct conn *c)
{
    struct http_req *rq = c->rq;

    if (!rq->head.keep_alive || !rq->body_done)
        c->close_after = true;
    c->state = CONN_WRITE;
    bufferevent_disable(c->bev, EV_READ);
    set_deadline(c, c->server->set.write_timeout_ms);
    http_req_render(rq, c->close_after, bufferevent_get_output(c->bev));
    log_line(LOG_DEBUG, c->server->set.room, "",
             "%s %s from %s: %d (request %s)",
             rq->head.method ? rq->head.method : "-",
             rq->head.target ? rq->head.target : "-", c->source, rq->status,
             rq->id);
    c->rq = NULL;
    http_req_free(rq);
}

void
http_req_answered(struct http_req *rq)
{
    struct conn *c = rq->conn;

    if (!c) {
        http_req_free(rq);
        return;
    }
    if (rq->held)
        return; /* whoever holds it goes on */
    conn_send(c);
}

/* --- requests ---------------------------------------------------------------- */

/* Answered before its body was read: take a small body off the wire to keep
 * the connection, else answer now and close. */
static void
conn_refused(struct conn *c)
{
    struct http_req *rq = c->rq;

    rq->held = false;
    if (!rq->head_ok) {
        rq->head.keep_alive = false;
        conn_send(c);
        return;
    }
    if (rq->head.expect_continue || rq->head.chunked ||
        rq->head.length > DRAIN_MAX) {
        if (rq->head.length || rq->head.chunked)
            rq->head.keep_alive = false;
        else
            rq->body_done = true;
        conn_send(c);
        return;
    }
    rq->drop_body = true;
    rq->body_left = rq->head.length;
    c->state = CONN_BODY;
    set_deadline(c, c->server->set.body_timeout_ms);
}

static int
find_route(struct http_req *rq)
{
    struct err err = ERR_INIT;
    char allow[64] = "";
    int rc;

    if (http_target_parse(rq->head.target, &rq->target, &err) < 0) {
        http_reply_err(rq, 400, &err);
        return -1;
    }
    rc = http_route_match(rq->router, rq->head.method, &rq->target, &rq->match,
                          allow, sizeof allow);
    if (rc == -ENOENT) {
        http_reply_fail(rq, 404, ERR_API_0004, "there is no %s",
                        rq->head.target);
        return -1;
    }
    if (rc < 0) {
        http_reply_header(rq, "Allow", allow);
        http_reply_fail(rq, 405, ERR_API_0005, "%s takes %s, not %s",
                        rq->head.target, allow, rq->head.method);
        return -1;
    }
    return 0;
}

/* The head is here: may it go on?  Returns 0, or -1 when it is answered. */
static int
judge_head(struct conn *c, char *text, size_t n)
{
    struct http_req *rq = c->rq;
    const struct http_settings *set = &c->server->set;
    struct err err = ERR_INIT;
    uint64_t body_max;
    int status = http_head_parse(text, n, &rq->head, &err);

    if (status) {
        http_reply_err(rq, status, &err);
        return -1;
    }
    rq->head_ok = true;
    if (find_route(rq) < 0)
        return -1;
    if (set->gate && set->gate(rq, rq->match.route, set->ctx))
        return -1;
    body_max = rq->match.route->body_max ? rq->match.route->body_max
                                         : HTTP_BODY_MAX_DEFAULT;
    buf_init(&rq->body, (size_t)body_max);
    if (!rq->head.chunked && rq->head.length > body_max) {
        http_reply_fail(rq, 413, ERR_API_0002,
                        "the body has %" PRIu64 " bytes, %" PRIu64
                        " are taken here",
                        rq->head.length, body_max);
        return -1;
    }
    return 0;
}

static void
body_failed(struct conn *c, int num)
{
    struct http_req *rq = c->rq;

    rq->held = true;
    rq->head.keep_alive = false;
    if (num == -EMSGSIZE)
        http_reply_fail(rq, 413, ERR_API_0002,
                        "the body is longer than the %zu bytes taken here",
                        rq->body.max);
    else
        http_reply_fail(rq, 400, ERR_API_0001,
                        "request refused: the chunked body is malformed");
    rq->held = false;
    conn_send(c);
}

/* Move what has arrived into the body.  Returns whether it is complete. */
static bool
take_body(struct conn *c)
{
    struct evbuffer *in = bufferevent_get_input(c->bev);
    struct http_req *rq = c->rq;

    while (!rq->body_done) {
        struct evbuffer_iovec v;
        size_t n;
        int rc;

        if (!rq->head.chunked && rq->body_left == 0) {
            rq->body_done = true;
            break;
        }
        if (evbuffer_peek(in, -1, NULL, &v, 1) < 1 || v.iov_len == 0)
            return false;
        if (rq->head.chunked) {
            rc = http_chunked_feed(&rq->chunked, v.iov_base, v.iov_len,
                                   &rq->body);
            rq->body_done = rq->chunked.state == CHUNK_DONE;
        } else {
            n = (size_t)MIN(rq->body_left, (uint64_t)v.iov_len);
            rc = rq->drop_body ? 0 : buf_add(&rq->body, v.iov_base, n);
            rc = rc < 0 ? rc : (int)n;
            rq->body_left -= n;
        }
        if (rc < 0) {
            body_failed(c, rc);
            return false;
        }
        evbuffer_drain(in, (size_t)rc);
    }
    return true;
}

static void
body_arrived(struct conn *c)
{
    struct http_req *rq = c->rq;

    if (!take_body(c))
        return;
    if (rq->replied) {
        conn_send(c);
        return;
    }
    c->state = CONN_BUSY;
    evtimer_del(c->timer);
    bufferevent_disable(c->bev, EV_READ);
    rq->match.route->handle(rq, c->server->set.ctx);
}

static void
start_body(struct conn *c)
{
    static const char go_on[] = "HTTP/1.1 100 Continue\r\n\r\n";

    c->state = CONN_BODY;
    c->rq->body_left = c->rq->head.length;
    set_deadline(c, c->server->set.body_timeout_ms);
    if (c->rq->head.expect_continue &&
        (c->rq->head.length || c->rq->head.chunked))
        evbuffer_add(bufferevent_get_output(c->bev), go_on, sizeof go_on - 1);
}

static struct http_req *
conn_request(struct conn *c)
{
    struct http_req *rq = http_req_new(c->server->loop, c->server->set.router);

    if (!rq)
        return NULL;
    rq->conn = c;
    rq->held = true;
    rq->is_unix = !c->ssl;
    rq->ssl = c->ssl;
    rq->peer = c->has_peer ? &rq->peer_copy : NULL;
    rq->peer_copy = c->peer;
    (void)text_safe(rq->source, sizeof rq->source, c->source, strlen(c->source));
    c->rq = rq;
    return rq;
}

static void
refuse_head(struct conn *c, int status, enum err_code code, const char *why)
{
    if (!conn_request(c)) {
        conn_free(c);
        return;
    }
    http_reply_fail(c->rq, status, code, "request refused: %s", why);
    conn_refused(c);
}

static void
head_arrived(struct conn *c, size_t n)
{
    struct evbuffer *in = bufferevent_get_input(c->bev);
    struct http_req *rq = conn_request(c);
    char *text = rq ? malloc(n + 1) : NULL;

    if (!text) { /* no memory even to refuse: drop it on the next turn */
        c->state = CONN_LINGER;
        set_deadline(c, 1);
        return;
    }
    rq->head_text = text;
    (void)evbuffer_remove(in, text, n);
    if (judge_head(c, text, n) < 0) {
        conn_refused(c);
    } else {
        rq->held = false;
        start_body(c);
    }
}

/* Look for a head in what has arrived; whether there was one. */
static bool
take_head(struct conn *c)
{
    struct evbuffer *in = bufferevent_get_input(c->bev);
    size_t have = MIN(evbuffer_get_length(in), (size_t)HTTP_HEAD_MAX);
    const char *text;
    int n;

    if (have == 0)
        return false;
    if (c->idle) {
        c->idle = false;
        set_deadline(c, c->server->set.head_timeout_ms);
    }
    text = (const char *)evbuffer_pullup(in, (ev_ssize_t)have);
    n = text ? http_head_find(text, have, &c->scanned) : -ENOMEM;
    if (n == 0)
        return false;
    if (n == -EMSGSIZE)
        refuse_head(c, 431, ERR_API_0002, "the head is longer than 16 KiB");
    else if (n < 0)
        refuse_head(c, 400, ERR_API_0001, "a line does not end in CR LF");
    else
        head_arrived(c, (size_t)n);
    return n > 0;
}

static void
process_input(struct conn *c)
{
    if (c->state == CONN_HEAD && !take_head(c))
        return;
    if (c->state == CONN_BODY)
        body_arrived(c);
}

/* --- libevent's callbacks ----------------------------------------------------- */

static void
on_read(struct bufferevent *bev, void *arg)
{
    struct conn *c = arg;

    if (c->state == CONN_LINGER)
        evbuffer_drain(bufferevent_get_input(bev), SIZE_MAX);
    else
        process_input(c);
}

static void
on_write(struct bufferevent *bev, void *arg)
{
    struct conn *c = arg;

    /* The 100 Continue drains, too, in another state. */
    if (c->state == CONN_WRITE &&
        evbuffer_get_length(bufferevent_get_output(bev)) == 0)
        conn_next(c);
}

static void
handshake_done(struct conn *c)
{
    c->has_peer = tls_peer(c->ssl, &c->peer) == 0;
    c->state = CONN_HEAD; /* the handshake's deadline goes on */
    process_input(c);
}

static void
on_event(struct bufferevent *bev, short what, void *arg)
{
    struct conn *c = arg;

    UNUSED(bev);
    if (what & BEV_EVENT_CONNECTED) {
        handshake_done(c);
        return;
    }
    if (c->state == CONN_HANDSHAKE && (what & BEV_EVENT_ERROR)) {
        struct err err = ERR_INIT;
        unsigned long why = bufferevent_get_openssl_error(bev);
        char what_failed[96];

        /* libevent has emptied OpenSSL's queue into its own by now. */
        (void)tls_failure(c->ssl, -1, &err);
        if (err.code == ERR_TLS_0001 && why)
            (void)tls_explain(why, &err);
        (void)snprintf(what_failed, sizeof what_failed,
                       "connection from %.60s refused", c->source);
        log_err(LOG_INFO, c->server->set.room, "", what_failed, &err);
    }
    conn_free(c);
}

static void
on_timer(evutil_socket_t fd, short what, void *arg)
{
    struct conn *c = arg;

    UNUSED(fd);
    UNUSED(what);
    if (c->state == CONN_HEAD && !c->idle && c->scanned) {
        refuse_head(c, 408, ERR_API_0011, "its head did not arrive in time");
    } else if (c->state == CONN_BODY && !c->rq->replied) {
        c->rq->held = true;
        c->rq->head.keep_alive = false;
        http_reply_fail(c->rq, 408, ERR_API_0011,
                        "request refused: its body did not arrive in time");
        c->rq->held = false;
        conn_send(c);
    } else {
        conn_free(c);
    }
}

/* --- accepting ------------------------------------------------------------------ */

/* All places are taken: the one without a request for longest must go. */
static bool
make_room(struct http_server *s)
{
    struct list *pos;

    if (s->n_conns < s->set.max_connections)
        return true;
    list_for_each (pos, &s->conns) {
        struct conn *c = list_entry(pos, struct conn, link);

        if (c->state <= CONN_HEAD || c->state == CONN_LINGER) {
            conn_free(c);
            return true;
        }
    }
    return false;
}

static void
name_source(const struct sockaddr_storage *addr, char out[SOURCE_SIZE])
{
    const void *ip = NULL;

    if (addr->ss_family == AF_INET)
        ip = &((const struct sockaddr_in *)(const void *)addr)->sin_addr;
    else if (addr->ss_family == AF_INET6)
        ip = &((const struct sockaddr_in6 *)(const void *)addr)->sin6_addr;
    if (!ip || !inet_ntop(addr->ss_family, ip, out, SOURCE_SIZE))
        (void)snprintf(out, SOURCE_SIZE, "unix");
}

static struct bufferevent *
new_bufferevent(struct listener *l, int fd, SSL **out_ssl)
{
    struct event_base *base = http_loop_base(l->server->loop);
    int opts = BEV_OPT_CLOSE_ON_FREE | BEV_OPT_DEFER_CALLBACKS;
    struct bufferevent *bev;
    struct err err = ERR_INIT;

    if (!l->tls)
        return bufferevent_socket_new(base, fd, opts);
    if (tls_ssl_new(l->tls, NULL, out_ssl, &err) < 0) {
        log_err(LOG_WARN, l->server->set.room, "", "accept", &err);
        return NULL;
    }
    bev = bufferevent_openssl_socket_new(base, fd, *out_ssl,
                                         BUFFEREVENT_SSL_ACCEPTING, opts);
    if (!bev)
        SSL_free(*out_ssl);
    else
        bufferevent_openssl_set_allow_dirty_shutdown(bev, 1);
    return bev;
}

/* The descriptor is the connection's, or closed. */
static void
conn_start(struct listener *l, int fd, const struct sockaddr_storage *addr)
{
    struct http_server *s = l->server;
    struct conn *c = calloc(1, sizeof *c);

    if (!c) {
        (void)close(fd);
        return;
    }
    c->server = s;
    list_push_back(&s->conns, &c->link);
    s->n_conns++;
    c->bev = new_bufferevent(l, fd, &c->ssl);
    if (!c->bev)
        (void)close(fd);
    c->timer = evtimer_new(http_loop_base(s->loop), on_timer, c);
    if (!c->bev || !c->timer) {
        conn_free(c);
        return;
    }
    name_source(addr, c->source);
    c->state = l->tls ? CONN_HANDSHAKE : CONN_HEAD;
    bufferevent_setcb(c->bev, on_read, on_write, on_event, c);
    bufferevent_setwatermark(c->bev, EV_READ, 0, READ_AT_ONCE);
    set_deadline(c, s->set.head_timeout_ms);
    bufferevent_enable(c->bev, EV_READ | EV_WRITE);
}

static bool
unix_peer_ok(int fd)
{
    struct ucred cred;
    socklen_t n = sizeof cred;

    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &n) == 0 &&
           (cred.uid == 0 || cred.uid == geteuid());
}

static void
on_accept(evutil_socket_t listen_fd, short what, void *arg)
{
    struct listener *l = arg;

    UNUSED(what);
    for (int i = 0; i < 64; i++) {
        struct sockaddr_storage addr = { .ss_family = 0 };
        socklen_t len = sizeof addr;
        int one = 1, fd;

        fd = accept4(listen_fd, (struct sockaddr *)&addr, &len,
                     SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0)
            return; /* none left, or out of descriptors: the next turn */
        if (l->tls)
            (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        if ((!l->tls && !unix_peer_ok(fd)) || !make_room(l->server))
            (void)close(fd);
        else
            conn_start(l, fd, &addr);
    }
}

/* --- listeners --------------------------------------------------------------------- */

static void
listener_free(struct listener *l)
{
    list_del(&l->link);
    if (l->ev)
        event_free(l->ev);
    if (l->fd >= 0)
        (void)close(l->fd);
    if (l->path[0])
        (void)unlink(l->path);
    tls_ctx_free(l->tls);
    free(l);
}

static int
listener_add(struct http_server *s, int fd, struct tls_ctx *tls,
             const char *path, struct err *err)
{
    struct listener *l = calloc(1, sizeof *l);

    if (!l) {
        (void)close(fd);
        return err_set(err, -ENOMEM, ERR_GEN_0002, "listener: out of memory");
    }
    l->server = s;
    l->fd = fd;
    list_push_back(&s->listeners, &l->link);
    if (tls)
        l->tls = tls_ctx_ref(tls);
    if (path)
        (void)snprintf(l->path, sizeof l->path, "%s", path);
    l->ev = event_new(http_loop_base(s->loop), fd, EV_READ | EV_PERSIST,
                      on_accept, l);
    if (!l->ev || event_add(l->ev, NULL)) {
        listener_free(l);
        return err_set(err, -ENOMEM, ERR_GEN_0002, "listener: out of memory");
    }
    return 0;
}

static int
bind_tcp(const struct addrinfo *ai)
{
    int one = 1, zero = 0;
    int fd =
        socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    if (fd < 0)
        return -errno;
    (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (ai->ai_family == AF_INET6)
        (void)setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof zero);
    if (bind(fd, ai->ai_addr, ai->ai_addrlen) < 0 ||
        listen(fd, LISTEN_QUEUE) < 0) {
        int num = -errno;

        (void)close(fd);
        return num;
    }
    return fd;
}

static uint16_t
bound_port(int fd)
{
    union {
        struct sockaddr any;
        struct sockaddr_in in;
        struct sockaddr_in6 in6;
    } a = { .in6 = { .sin6_family = AF_UNSPEC } };
    socklen_t n = sizeof a;

    if (getsockname(fd, &a.any, &n) < 0)
        return 0;
    return ntohs(a.any.sa_family == AF_INET6 ? a.in6.sin6_port : a.in.sin_port);
}

int
http_server_listen_tls(struct http_server *s, const char *host, uint16_t port,
                       struct tls_ctx *tls, uint16_t *out_port, struct err *err)
{
    struct addrinfo hints = { .ai_flags = AI_PASSIVE | AI_NUMERICSERV,
                              .ai_family = *host ? AF_UNSPEC : AF_INET6,
                              .ai_socktype = SOCK_STREAM };
    struct addrinfo *list = NULL;
    char text[8];
    int fd = -EADDRNOTAVAIL, rc;

    (void)snprintf(text, sizeof text, "%u", port);
    rc = getaddrinfo(*host ? host : NULL, text, &hints, &list);
    if (rc)
        return err_set(err, -EADDRNOTAVAIL, ERR_API_0017,
                       "listen on %s port %u: %s", host, port, gai_strerror(rc));
    for (const struct addrinfo *ai = list; ai && fd < 0; ai = ai->ai_next)
        fd = bind_tcp(ai);
    freeaddrinfo(list);
    if (fd == -EAFNOSUPPORT && !*host)
        return http_server_listen_tls(s, "0.0.0.0", port, tls, out_port, err);
    if (fd < 0)
        return err_set(err, fd, ERR_API_0017, "listen on %s port %u: %s",
                       *host ? host : "all addresses", port, err_errno(fd));
    if (out_port)
        *out_port = bound_port(fd);
    return listener_add(s, fd, tls, NULL, err);
}

int
http_server_listen_unix(struct http_server *s, const char *path, struct err *err)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    int fd, num;

    if (strlen(path) >= sizeof addr.sun_path)
        return err_set(err, -ENAMETOOLONG, ERR_API_0017,
                       "listen on %s: a Unix socket's path has at most %zu bytes",
                       path, sizeof addr.sun_path - 1);
    (void)snprintf(addr.sun_path, sizeof addr.sun_path, "%s", path);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return err_set(err, -errno, ERR_API_0017, "listen on %s: %s", path,
                       err_errno(errno));
    /* A socket left by a process that died refuses connections. */
    if (connect(fd, (struct sockaddr *)&addr, sizeof addr) == 0) {
        (void)close(fd);
        return err_set(err, -EADDRINUSE, ERR_API_0017,
                       "listen on %s: another process listens there", path);
    }
    (void)unlink(path);
    if (bind(fd, (struct sockaddr *)&addr, sizeof addr) < 0 ||
        chmod(path, 0600) < 0 || listen(fd, LISTEN_QUEUE) < 0) {
        num = -errno;
        (void)close(fd);
        return err_set(err, num, ERR_API_0017, "listen on %s: %s", path,
                       err_errno(num));
    }
    return listener_add(s, fd, NULL, path, err);
}

/* --- the server ------------------------------------------------------------------------ */

int
http_server_new(struct http_loop *loop, const struct http_settings *set,
                struct http_server **out_server, struct err *err)
{
    struct http_server *s = calloc(1, sizeof *s);

    if (!s)
        return err_set(err, -ENOMEM, ERR_GEN_0002, "server: out of memory");
    (void)signal(SIGPIPE, SIG_IGN);
    s->loop = loop;
    s->set = *set;
    list_init(&s->listeners);
    list_init(&s->conns);
    if (!s->set.room)
        s->set.room = "http";
    if (!s->set.head_timeout_ms)
        s->set.head_timeout_ms = 10000;
    if (!s->set.body_timeout_ms)
        s->set.body_timeout_ms = 30000;
    if (!s->set.idle_timeout_ms)
        s->set.idle_timeout_ms = 60000;
    if (!s->set.write_timeout_ms)
        s->set.write_timeout_ms = 60000;
    if (!s->set.max_connections)
        s->set.max_connections = 512;
    *out_server = s;
    return 0;
}

void
http_server_free(struct http_server *s)
{
    struct list *pos, *tmp;

    if (!s)
        return;
    list_for_each_safe (pos, tmp, &s->listeners)
        listener_free(list_entry(pos, struct listener, link));
    list_for_each_safe (pos, tmp, &s->conns)
        conn_free(list_entry(pos, struct conn, link));
    free(s);
}

unsigned
http_server_recheck(struct http_server *s)
{
    struct list *pos, *tmp;
    unsigned closed = 0;

    list_for_each_safe (pos, tmp, &s->conns) {
        struct conn *c = list_entry(pos, struct conn, link);
        struct err err = ERR_INIT;

        if (!c->has_peer || tls_peer_recheck(c->ssl, &err) == 0)
            continue;
        log_line(LOG_WARN, s->set.room, "", "connection from %s is cut: %s",
                 c->source, err.msg);
        conn_free(c);
        closed++;
    }
    return closed;
}

unsigned
http_server_connections(const struct http_server *s)
{
    return s->n_conns;
}
