/* Listeners: accept, and for TLS hold the channel until its handshake is done.
 *
 * Pending handshakes are bounded in number and time, so that silent clients
 * cannot use up memory; the oldest goes first.  Out of descriptors, the
 * listener rests for a moment: the kernel keeps the queue meanwhile.
 */
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/log.h"
#include "common/tls.h"
#include "io/chan_impl.h"

enum {
    BACKLOG = 128,
    ACCEPT_BATCH = 32,
    PENDING_DEFAULT = 64
};
#define HANDSHAKE_DEFAULT_NS (10 * NSEC_PER_SEC)
#define REST_NS              (100 * NSEC_PER_MSEC)

struct io_listener {
    struct io_loop *loop;
    int fd;
    struct io_watch watch;
    struct io_timer rest;
    struct io_addr addr; /* as bound */
    struct tls_ctx *tls;
    uint64_t handshake_ns;
    unsigned max_pending, pending_n;
    struct list pending; /* io_chan.link, oldest first */
    io_accept_fn accepted;
    void *arg;
    dev_t sock_dev; /* which file is ours to remove */
    ino_t sock_ino;
    unsigned busy; /* owner calls on the stack */
    bool closed;
};

static void
listener_destroy(struct io_listener *l)
{
    if (l->tls)
        tls_ctx_free(l->tls);
    free(l);
}

static void
busy_end(struct io_listener *l)
{
    if (--l->busy == 0 && l->closed)
        listener_destroy(l);
}

static void
pending_remove(struct io_listener *l, struct io_chan *ch)
{
    list_del(&ch->link);
    l->pending_n--;
}

static void
handshake_event(void *arg, struct io_chan *ch, unsigned events)
{
    struct io_listener *l = arg;
    struct err e = ERR_INIT;

    pending_remove(l, ch);
    if (events & IO_CHAN_OPEN) {
        io_chan_set_owner(ch, &(struct io_chan_owner){ .event = NULL });
        l->busy++;
        l->accepted(l->arg, ch);
        busy_end(l);
        return;
    }
    (void)io_chan_error(ch, &e);
    log_err(LOG_INFO, "io", "", "accepting", &e);
    io_chan_close(ch);
}

static void
pending_add(struct io_listener *l, struct io_chan *ch)
{
    struct err e = ERR_INIT;
    int rc;

    if (l->pending_n >= l->max_pending) {
        struct io_chan *old = list_entry(l->pending.next, struct io_chan, link);

        log_line(LOG_INFO, "io", "",
                 "%s: handshake given up, more than %u are pending", old->peer,
                 l->max_pending);
        pending_remove(l, old);
        io_chan_close(old);
    }
    io_chan_set_owner(ch, &(struct io_chan_owner){ .event = handshake_event,
                                                   .arg = l });
    list_push_back(&l->pending, &ch->link);
    l->pending_n++;
    rc = io_chan_start_tls_server(ch, l->tls, l->handshake_ns, &e);
    if (rc < 0) {
        log_err(LOG_WARN, "io", "", "accepting", &e);
        pending_remove(l, ch);
        io_chan_close(ch);
    }
}

/* False: no more for now. */
static bool
accept_one(struct io_listener *l)
{
    int fd = accept4(l->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    struct io_chan *ch;

    if (fd < 0) {
        if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS ||
            errno == ENOMEM) {
            log_line(LOG_WARN, "io", "", "accepting: %s", err_errno(errno));
            io_watch_set(l->loop, &l->watch, 0);
            io_timer_set(&l->rest, REST_NS);
            return false;
        }
        return errno != EAGAIN; /* others are of that one connection */
    }
    ch = io_chan_adopt(l->loop, fd, l->addr.is_unix);
    if (!ch) {
        (void)close(fd); /* nothing was written */
        return false;
    }
    if (l->tls)
        pending_add(l, ch);
    else
        l->accepted(l->arg, ch);
    return true;
}

static void
listener_ready(struct io_watch *w, uint32_t events)
{
    struct io_listener *l = container_of(w, struct io_listener, watch);

    UNUSED(events);
    l->busy++;
    for (unsigned i = 0; i < ACCEPT_BATCH && !l->closed; i++)
        if (!accept_one(l))
            break;
    busy_end(l);
}

static void
rest_fire(struct io_timer *t)
{
    struct io_listener *l = container_of(t, struct io_listener, rest);

    io_watch_set(l->loop, &l->watch, EPOLLIN);
}

/* --- binding ----------------------------------------------------------------- */

static int
bind_err(const struct io_addr *a, int num, const char *what, struct err *err)
{
    char text[IO_ADDR_TEXT_MAX];

    io_addr_format(a, text);
    return err_set(err, num, ERR_IO_0010, "listening on %s: %s: %s", text, what,
                   err_errno(num));
}

static int
socket_new(int family)
{
    int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    return fd < 0 ? -errno : fd;
}

/* Whether somebody still listens behind a socket file. */
static bool
unix_alive(const struct sockaddr_un *sa)
{
    int fd = socket_new(AF_UNIX);
    bool alive;

    if (fd < 0)
        return true; /* not known: leave it alone */
    alive = connect(fd, (const struct sockaddr *)sa, sizeof *sa) == 0 ||
            errno != ECONNREFUSED;
    (void)close(fd); /* nothing was written */
    return alive;
}

static int
unix_clear(const struct io_listen_config *cfg, const struct sockaddr_un *sa,
           struct err *err)
{
    struct stat st;

    if (lstat(sa->sun_path, &st) < 0)
        return errno == ENOENT ? 0 : bind_err(&cfg->addr, -errno, "stat", err);
    if (!S_ISSOCK(st.st_mode))
        return bind_err(&cfg->addr, -EADDRINUSE, "the path is no socket", err);
    if (unix_alive(sa))
        return bind_err(&cfg->addr, -EADDRINUSE, "another process listens", err);
    if (unlink(sa->sun_path) < 0 && errno != ENOENT)
        return bind_err(&cfg->addr, -errno, "removing a stale socket", err);
    return 0;
}

static int
bind_unix(struct io_listener *l, const struct io_listen_config *cfg,
          struct err *err)
{
    struct sockaddr_un sa = { .sun_family = AF_UNIX };
    struct stat st;
    int rc;

    /* Cut off, it would be another socket. */
    if (strlen(cfg->addr.host) >= sizeof sa.sun_path)
        return bind_err(&cfg->addr, -ENAMETOOLONG,
                        "a socket's path has at most 107 bytes", err);
    memcpy(sa.sun_path, cfg->addr.host, strlen(cfg->addr.host));
    rc = unix_clear(cfg, &sa, err);
    if (rc < 0)
        return rc;
    l->fd = socket_new(AF_UNIX);
    if (l->fd < 0)
        return bind_err(&cfg->addr, l->fd, "socket", err);
    /* The mode of the unbound socket becomes that of the file: it is never
     * there with a wider one. */
    if (fchmod(l->fd, cfg->unix_mode ? cfg->unix_mode : 0600) < 0)
        return bind_err(&cfg->addr, -errno, "mode", err);
    if (bind(l->fd, (struct sockaddr *)&sa, sizeof sa) < 0)
        return bind_err(&cfg->addr, -errno, "bind", err);
    if (stat(sa.sun_path, &st) == 0) {
        l->sock_dev = st.st_dev;
        l->sock_ino = st.st_ino;
    }
    return 0;
}

static int
bind_one(struct io_listener *l, const struct addrinfo *ai)
{
    int one = 1, zero = 0, rc;

    l->fd = socket_new(ai->ai_family);
    if (l->fd < 0)
        return l->fd;
    (void)setsockopt(l->fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (ai->ai_family == AF_INET6) /* the any address means both families */
        (void)setsockopt(l->fd, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof zero);
    if (bind(l->fd, ai->ai_addr, ai->ai_addrlen) == 0)
        return 0;
    rc = -errno;
    (void)close(l->fd); /* nothing was written */
    l->fd = -1;
    return rc;
}

static int
bound_addr(struct io_listener *l)
{
    struct sockaddr_storage sa;
    socklen_t len = sizeof sa;
    char port[8];

    if (getsockname(l->fd, (struct sockaddr *)&sa, &len) < 0)
        return -errno;
    if (getnameinfo((struct sockaddr *)&sa, len, l->addr.host,
                    sizeof l->addr.host, port, sizeof port,
                    NI_NUMERICHOST | NI_NUMERICSERV) != 0)
        return -EINVAL;
    l->addr.port = (uint16_t)strtoul(port, NULL, 10);
    return 0;
}

/* Resolving may block; listening starts with the process. */
static int
bind_inet(struct io_listener *l, const struct io_listen_config *cfg,
          struct err *err)
{
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM,
                              .ai_flags = AI_PASSIVE | AI_NUMERICSERV };
    struct addrinfo *res = NULL;
    char port[8];
    int rc = -EADDRNOTAVAIL, gai;

    (void)snprintf(port, sizeof port, "%u", cfg->addr.port);
    /* Any address: IPv6 first, which takes both families. */
    hints.ai_family = cfg->addr.host[0] ? AF_UNSPEC : AF_INET6;
    gai = getaddrinfo(cfg->addr.host[0] ? cfg->addr.host : NULL, port, &hints,
                      &res);
    if (gai == 0) {
        for (struct addrinfo *ai = res; ai && rc < 0; ai = ai->ai_next)
            rc = bind_one(l, ai);
        freeaddrinfo(res);
    }
    if (rc < 0 && rc != -EADDRINUSE && !cfg->addr.host[0]) {
        hints.ai_family = AF_INET; /* a host without IPv6 */
        gai = getaddrinfo(NULL, port, &hints, &res);
        if (gai == 0) {
            rc = bind_one(l, res);
            freeaddrinfo(res);
        }
    }
    if (gai)
        return bind_err(&cfg->addr, rc, gai_strerror(gai), err);
    if (rc == 0)
        rc = bound_addr(l);
    return rc < 0 ? bind_err(&cfg->addr, rc, "bind", err) : 0;
}

int
io_listen(struct io_loop *loop, const struct io_listen_config *cfg,
          io_accept_fn accepted, void *arg, struct io_listener **out,
          struct err *err)
{
    struct io_listener *l;
    int rc;

    if (loop->net)
        return loop->net->listen(loop, cfg, accepted, arg, out, err);
    l = calloc(1, sizeof *l);
    if (!l)
        return err_set(err, -ENOMEM, ERR_GEN_0002, "no memory for a listener");
    l->loop = loop;
    l->fd = -1;
    l->addr = cfg->addr;
    l->handshake_ns =
        cfg->handshake_ns ? cfg->handshake_ns : HANDSHAKE_DEFAULT_NS;
    l->max_pending =
        cfg->max_pending ? cfg->max_pending : (unsigned)PENDING_DEFAULT;
    l->accepted = accepted;
    l->arg = arg;
    list_init(&l->pending);
    io_timer_init(&l->rest, loop, rest_fire);
    io_watch_init(&l->watch, -1, listener_ready);
    rc = cfg->addr.is_unix ? bind_unix(l, cfg, err) : bind_inet(l, cfg, err);
    if (rc == 0 && listen(l->fd, BACKLOG) < 0)
        rc = bind_err(&cfg->addr, -errno, "listen", err);
    if (rc < 0) {
        io_listener_close(l);
        return rc;
    }
    io_watch_init(&l->watch, l->fd, listener_ready);
    io_watch_set(loop, &l->watch, EPOLLIN);
    if (cfg->tls)
        l->tls = tls_ctx_ref(cfg->tls);
    *out = l;
    return 0;
}

void
io_listener_addr(const struct io_listener *l, struct io_addr *out)
{
    *out = l->addr;
}

/* For connections accepted from now on. */
void
io_listener_set_tls(struct io_listener *l, struct tls_ctx *tls)
{
    struct tls_ctx *old = l->tls;

    l->tls = tls ? tls_ctx_ref(tls) : NULL;
    if (old)
        tls_ctx_free(old);
}

static void
socket_file_remove(const struct io_listener *l)
{
    struct stat st;

    /* A later process may have put its own in place. */
    if (l->sock_ino && lstat(l->addr.host, &st) == 0 &&
        st.st_dev == l->sock_dev && st.st_ino == l->sock_ino)
        (void)unlink(l->addr.host); /* left over: stale, and replaced later */
}

void
io_listener_close(struct io_listener *l)
{
    struct list *p;

    if (!l || l->closed)
        return;
    l->closed = true;
    io_timer_stop(&l->rest);
    while ((p = list_pop_front(&l->pending)))
        io_chan_close(list_entry(p, struct io_chan, link));
    if (l->fd >= 0) {
        io_watch_remove(l->loop, &l->watch);
        socket_file_remove(l);
        (void)close(l->fd); /* nothing was written */
        l->fd = -1;
    }
    if (l->busy == 0)
        listener_destroy(l);
}
