/* Channels: sockets, connecting, and the calls that plain and TLS share.
 *
 * States: LOOKUP (a worker asks the resolver) -> CONNECT (each address in turn)
 * -> HANDSHAKE (TLS only) -> OPEN; from each to BROKEN.  One deadline covers
 * all before OPEN.  The owner hears of nothing while a call of its own is on
 * the stack (a failure is deferred), and may close the channel in any event.
 */
#include "io/chan.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <linux/sockios.h>

#include "common/tls.h"
#include "io/chan_impl.h"

enum {
    UNIX_BUFFER = 4 * 1024 * 1024, /* datapath.md 6.1: larger is up to 12x */
    KEEPALIVE_IDLE_S = 5,
    KEEPALIVE_STEP_S = 5,
    KEEPALIVE_STEPS = 2, /* dead after 15 s */
    DEAD_MS = 15000,
};
#define UNIX_RETRY_NS (5 * NSEC_PER_MSEC)

struct chan_lookup {
    struct io_work work;
    struct io_chan *ch; /* NULL: closed meanwhile */
    char host[256], port[8];
    struct addrinfo *res;
    int rc, sys_errno;
};

static void connect_next(struct io_chan *ch);

/* --- telling the owner ------------------------------------------------------ */

static void
chan_destroy(struct io_chan *ch)
{
    if (ch->addrs)
        freeaddrinfo(ch->addrs);
    if (ch->tls_ctx)
        tls_ctx_free(ch->tls_ctx);
    free(ch);
}

bool
io_chan_emit(struct io_chan *ch, unsigned events)
{
    if (!ch->owner.event)
        return true;
    ch->in_event++;
    ch->owner.event(ch->owner.arg, ch, events);
    ch->in_event--;
    if (!ch->closed)
        return true;
    if (ch->in_event == 0)
        chan_destroy(ch);
    return false;
}

static void
break_now(struct io_chan *ch)
{
    ch->state = IO_CHAN_ST_BROKEN;
    io_timer_stop(&ch->deadline);
    io_timer_stop(&ch->retry);
    io_task_cancel(&ch->again);
    if (ch->fd >= 0)
        io_watch_remove(ch->loop, &ch->watch);
    (void)io_chan_emit(ch, IO_CHAN_BROKEN);
}

static void error_set(struct io_chan *ch, int num, enum err_code code,
                      const char *fmt, va_list ap) PRINTF_LIKE(4, 0);

static void
error_set(struct io_chan *ch, int num, enum err_code code, const char *fmt,
          va_list ap)
{
    char text[ERR_MSG_MAX];

    (void)vsnprintf(text, sizeof text, fmt, ap);
    err_set(&ch->error, num, code, "%s: %s", ch->peer, text);
}

void
io_chan_break(struct io_chan *ch, int num, enum err_code code, const char *fmt,
              ...)
{
    va_list ap;

    va_start(ap, fmt);
    error_set(ch, num, code, fmt, ap);
    va_end(ap);
    break_now(ch);
}

void
io_chan_fail_later(struct io_chan *ch, int num, enum err_code code,
                   const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    error_set(ch, num, code, fmt, ap);
    va_end(ap);
    ch->state = IO_CHAN_ST_BROKEN;
    io_defer(ch->loop, &ch->again);
}

int
io_chan_lost(struct io_chan *ch, int num)
{
    if (ch->error.num == 0)
        err_set(&ch->error, num, ERR_IO_0014, "%s: connection lost: %s",
                ch->peer, err_errno(num));
    return num;
}

void
io_chan_opened(struct io_chan *ch)
{
    ch->state = IO_CHAN_ST_OPEN;
    io_timer_stop(&ch->deadline);
    ch->ops->want(ch);
    (void)io_chan_emit(ch, IO_CHAN_OPEN);
}

static void
again_run(struct io_task *t)
{
    struct io_chan *ch = container_of(t, struct io_chan, again);

    if (ch->state == IO_CHAN_ST_BROKEN)
        break_now(ch);
    else if (ch->state == IO_CHAN_ST_OPEN && ch->tls)
        io_chan_tls_again(ch);
}

static void
deadline_fire(struct io_timer *t)
{
    static const char *const doing[] = {
        [IO_CHAN_ST_LOOKUP] = "looking up the name",
        [IO_CHAN_ST_CONNECT] = "connecting",
        [IO_CHAN_ST_HANDSHAKE] = "the TLS handshake",
    };
    struct io_chan *ch = container_of(t, struct io_chan, deadline);

    if (ch->state > IO_CHAN_ST_HANDSHAKE)
        return;
    io_chan_break(ch, -ETIMEDOUT, ERR_IO_0013, "%s was not done in time",
                  doing[ch->state]);
}

/* --- plain sockets ------------------------------------------------------------ */

static int64_t
plain_readv(struct io_chan *ch, const struct iovec *iov, unsigned n)
{
    ssize_t k;

    do
        k = n == 1 ? recv(ch->fd, iov->iov_base, iov->iov_len, MSG_DONTWAIT)
                   : readv(ch->fd, iov, (int)n);
    while (k < 0 && errno == EINTR);
    if (k >= 0)
        return k;
    return errno == EAGAIN ? -EAGAIN : io_chan_lost(ch, -errno);
}

static int64_t
plain_writev(struct io_chan *ch, const struct iovec *iov, unsigned n)
{
    struct msghdr mh = { .msg_iov = (struct iovec *)(uintptr_t)iov,
                         .msg_iovlen = n };
    ssize_t k;

    do
        k = n == 1 ? send(ch->fd, iov->iov_base, iov->iov_len,
                          MSG_NOSIGNAL | MSG_DONTWAIT)
                   : sendmsg(ch->fd, &mh, MSG_NOSIGNAL | MSG_DONTWAIT);
    while (k < 0 && errno == EINTR);
    if (k >= 0)
        return k;
    return errno == EAGAIN ? -EAGAIN : io_chan_lost(ch, -errno);
}

static void
plain_want(struct io_chan *ch)
{
    io_watch_set(ch->loop, &ch->watch,
                 (ch->want & IO_CHAN_READABLE ? (uint32_t)EPOLLIN : 0) |
                     (ch->want & IO_CHAN_WRITABLE ? (uint32_t)EPOLLOUT : 0));
}

/* A hang-up or an error wakes whoever waits; the next call tells what it is. */
static void
plain_ready(struct io_chan *ch, uint32_t events)
{
    unsigned ev = 0;

    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR))
        ev |= IO_CHAN_READABLE;
    if (events & (EPOLLOUT | EPOLLHUP | EPOLLERR))
        ev |= IO_CHAN_WRITABLE;
    ev &= ch->want;
    if (ev)
        (void)io_chan_emit(ch, ev);
}

static uint64_t
plain_unsent(struct io_chan *ch)
{
    int n = 0;

    if (ioctl(ch->fd, ch->is_unix ? SIOCOUTQ : SIOCOUTQNSD, &n) < 0 || n < 0)
        return 0;
    return (uint64_t)n;
}

static const struct io_chan_ops plain_ops = {
    .readv = plain_readv,
    .writev = plain_writev,
    .want = plain_want,
    .ready = plain_ready,
    .unsent = plain_unsent,
};

/* --- making ------------------------------------------------------------------- */

static void
set_int(int fd, int level, int name, int value)
{
    /* A refusal costs speed or comfort, not correctness. */
    (void)setsockopt(fd, level, name, &value, sizeof value);
}

void
io_chan_sock_prepare(int fd, bool is_unix)
{
    if (is_unix) {
        /* The plain option first: where root may not force, it still helps. */
        set_int(fd, SOL_SOCKET, SO_SNDBUF, UNIX_BUFFER);
        set_int(fd, SOL_SOCKET, SO_RCVBUF, UNIX_BUFFER);
        set_int(fd, SOL_SOCKET, SO_SNDBUFFORCE, UNIX_BUFFER);
        set_int(fd, SOL_SOCKET, SO_RCVBUFFORCE, UNIX_BUFFER);
        return;
    }
    set_int(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    set_int(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
    set_int(fd, IPPROTO_TCP, TCP_KEEPIDLE, KEEPALIVE_IDLE_S);
    set_int(fd, IPPROTO_TCP, TCP_KEEPINTVL, KEEPALIVE_STEP_S);
    set_int(fd, IPPROTO_TCP, TCP_KEEPCNT, KEEPALIVE_STEPS);
    set_int(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, DEAD_MS);
}

static void
peer_name_set(struct io_chan *ch, const struct sockaddr *sa, socklen_t len)
{
    struct io_addr a = { .is_unix = false };
    char port[8];

    if (getnameinfo(sa, len, a.host, sizeof a.host, port, sizeof port,
                    NI_NUMERICHOST | NI_NUMERICSERV) != 0)
        return;
    a.port = (uint16_t)strtoul(port, NULL, 10);
    io_addr_format(&a, ch->peer);
}

static void connect_done(struct io_chan *ch);

static void
chan_ready(struct io_watch *w, uint32_t events)
{
    struct io_chan *ch = container_of(w, struct io_chan, watch);

    switch (ch->state) {
    case IO_CHAN_ST_CONNECT: connect_done(ch); break;
    case IO_CHAN_ST_HANDSHAKE: io_chan_tls_progress(ch); break;
    case IO_CHAN_ST_OPEN: ch->ops->ready(ch, events); break;
    case IO_CHAN_ST_LOOKUP:
    case IO_CHAN_ST_BROKEN: break;
    }
}

static void
retry_fire(struct io_timer *t)
{
    connect_next(container_of(t, struct io_chan, retry));
}

static struct io_chan *
chan_new(struct io_loop *loop, bool is_unix)
{
    struct io_chan *ch = calloc(1, sizeof *ch);

    if (!ch)
        return NULL;
    ch->ops = &plain_ops;
    ch->loop = loop;
    ch->fd = -1;
    ch->is_unix = is_unix;
    io_watch_init(&ch->watch, -1, chan_ready);
    io_timer_init(&ch->deadline, loop, deadline_fire);
    io_timer_init(&ch->retry, loop, retry_fire);
    io_task_init(&ch->again, again_run);
    list_init(&ch->link);
    (void)snprintf(ch->peer, sizeof ch->peer, "unix");
    return ch;
}

struct io_chan *
io_chan_adopt(struct io_loop *loop, int fd, bool is_unix)
{
    struct io_chan *ch = chan_new(loop, is_unix);
    struct sockaddr_storage sa;
    socklen_t len = sizeof sa;

    if (!ch)
        return NULL;
    ch->fd = ch->watch.fd = fd;
    ch->is_server = true;
    ch->state = IO_CHAN_ST_OPEN;
    io_chan_sock_prepare(fd, is_unix);
    if (!is_unix) {
        (void)snprintf(ch->peer, sizeof ch->peer, "unknown address");
        if (getpeername(fd, (struct sockaddr *)&sa, &len) == 0)
            peer_name_set(ch, (struct sockaddr *)&sa, len);
    }
    return ch;
}

/* --- connecting ----------------------------------------------------------------- */

static void
fd_drop(struct io_chan *ch)
{
    if (ch->fd < 0)
        return;
    io_watch_remove(ch->loop, &ch->watch);
    (void)close(ch->fd); /* nothing was written */
    ch->fd = -1;
}

/* A socket for family, connecting to sa.  0, or negative errno. */
static int
connect_to(struct io_chan *ch, const struct sockaddr *sa, socklen_t len)
{
    fd_drop(ch);
    ch->fd =
        socket(sa->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (ch->fd < 0)
        return -errno;
    io_watch_init(&ch->watch, ch->fd, chan_ready);
    io_chan_sock_prepare(ch->fd, ch->is_unix);
    if (connect(ch->fd, sa, len) < 0 && errno != EINPROGRESS && errno != EINTR)
        return -errno;
    /* Done or not: writability tells, so that OPEN never comes inside a call
     * of the owner. */
    io_watch_set(ch->loop, &ch->watch, EPOLLOUT);
    return 0;
}

static void
connect_unix(struct io_chan *ch)
{
    struct sockaddr_un sa = { .sun_family = AF_UNIX };
    int rc;

    rc = -ENAMETOOLONG; /* cut off, it would be another socket */
    if (strlen(ch->target.host) < sizeof sa.sun_path) {
        memcpy(sa.sun_path, ch->target.host, strlen(ch->target.host));
        rc = connect_to(ch, (struct sockaddr *)&sa, sizeof sa);
    }
    if (rc == -EAGAIN)
        io_timer_set(&ch->retry, UNIX_RETRY_NS);
    else if (rc < 0)
        io_chan_fail_later(ch, rc, ERR_IO_0008, "connecting to %s: %s",
                           ch->target.host, err_errno(rc));
}

static void
connect_next(struct io_chan *ch)
{
    int rc = ch->error.num ? ch->error.num : -EADDRNOTAVAIL;

    ch->state = IO_CHAN_ST_CONNECT;
    if (ch->is_unix) {
        connect_unix(ch);
        return;
    }
    while (ch->addr_next) {
        struct addrinfo *ai = ch->addr_next;

        ch->addr_next = ai->ai_next;
        peer_name_set(ch, ai->ai_addr, ai->ai_addrlen);
        rc = connect_to(ch, ai->ai_addr, ai->ai_addrlen);
        if (rc == 0)
            return;
    }
    io_chan_fail_later(ch, rc, ERR_IO_0008, "connecting to %s: %s",
                       ch->target.host, err_errno(rc));
}

static void
connect_done(struct io_chan *ch)
{
    struct err e = ERR_INIT;
    int so = 0, rc;
    socklen_t len = sizeof so;

    if (getsockopt(ch->fd, SOL_SOCKET, SO_ERROR, &so, &len) < 0)
        so = errno;
    if (so && ch->is_unix) {
        io_chan_break(ch, -so, ERR_IO_0008, "connecting to %s: %s",
                      ch->target.host, err_errno(so));
        return;
    }
    if (so) {
        ch->error.num = -so; /* kept for the last address's sentence */
        connect_next(ch);
        return;
    }
    ch->error = (struct err)ERR_INIT;
    if (!ch->tls_ctx) {
        io_chan_opened(ch);
        return;
    }
    rc = io_chan_tls_begin(ch, &e);
    if (rc < 0)
        io_chan_break(ch, rc, e.code, "%s", e.msg);
}

static void
lookup_free(struct chan_lookup *lk)
{
    if (lk->res)
        freeaddrinfo(lk->res);
    free(lk);
}

static int
lookup_call(const char *host, const char *port, int flags, struct addrinfo **out)
{
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM,
                              .ai_flags = AI_NUMERICSERV | flags };

    return getaddrinfo(host, port, &hints, out);
}

static void
lookup_run(struct io_work *w)
{
    struct chan_lookup *lk = container_of(w, struct chan_lookup, work);

    lk->rc = lookup_call(lk->host, lk->port, AI_ADDRCONFIG, &lk->res);
    lk->sys_errno = errno;
}

static void
lookup_done(struct io_work *w)
{
    struct chan_lookup *lk = container_of(w, struct chan_lookup, work);
    struct io_chan *ch = lk->ch;

    if (ch && lk->rc == 0) {
        ch->lookup = NULL;
        ch->addrs = ch->addr_next = lk->res;
        lk->res = NULL;
        connect_next(ch);
    } else if (ch) {
        ch->lookup = NULL;
        io_chan_break(ch, -EHOSTUNREACH, ERR_IO_0008, "looking up the name: %s",
                      lk->rc == EAI_SYSTEM ? err_errno(lk->sys_errno)
                                           : gai_strerror(lk->rc));
    }
    lookup_free(lk);
}

static int
lookup_start(struct io_chan *ch)
{
    struct chan_lookup *lk = calloc(1, sizeof *lk);

    if (!lk)
        return -ENOMEM;
    lk->ch = ch;
    lk->work.run = lookup_run;
    lk->work.done = lookup_done;
    memcpy(lk->host, ch->target.host, sizeof lk->host);
    (void)snprintf(lk->port, sizeof lk->port, "%u", ch->target.port);
    if (lookup_call(lk->host, lk->port, AI_NUMERICHOST, &lk->res) == 0) {
        ch->addrs = ch->addr_next = lk->res;
        lk->res = NULL;
        lookup_free(lk);
        connect_next(ch);
        return 0;
    }
    ch->state = IO_CHAN_ST_LOOKUP;
    ch->lookup = lk;
    io_work_submit(ch->loop, &lk->work);
    return 0;
}

int
io_chan_connect(struct io_loop *loop, const struct io_addr *addr,
                struct tls_ctx *tls, uint64_t deadline_ns,
                const struct io_chan_owner *owner, struct io_chan **out,
                struct err *err)
{
    struct io_chan *ch;

    if (loop->net)
        return loop->net->connect(loop, addr, tls, deadline_ns, owner, out, err);
    if (!addr->host[0])
        return err_set(err, -EINVAL, ERR_IO_0007,
                       "address :%u names no host to connect to", addr->port);
    ch = chan_new(loop, addr->is_unix);
    if (!ch)
        return err_set(err, -ENOMEM, ERR_GEN_0002, "no memory for a channel");
    ch->owner = *owner;
    ch->target = *addr;
    if (!addr->is_unix)
        io_addr_format(addr, ch->peer);
    if (tls)
        ch->tls_ctx = tls_ctx_ref(tls);
    io_timer_set(&ch->deadline, deadline_ns);
    if (addr->is_unix) {
        connect_next(ch);
    } else if (lookup_start(ch) < 0) {
        io_chan_close(ch);
        return err_set(err, -ENOMEM, ERR_GEN_0002, "no memory for a channel");
    }
    *out = ch;
    return 0;
}

/* --- the owner's calls ------------------------------------------------------------ */

void
io_chan_set_owner(struct io_chan *ch, const struct io_chan_owner *owner)
{
    ch->owner = *owner;
}

int64_t
io_chan_readv(struct io_chan *ch, const struct iovec *iov, unsigned n)
{
    if (ch->state == IO_CHAN_ST_OPEN)
        return ch->ops->readv(ch, iov, n);
    return ch->state == IO_CHAN_ST_BROKEN ? ch->error.num : -EAGAIN;
}

int64_t
io_chan_read(struct io_chan *ch, void *buf, size_t len)
{
    struct iovec iov = { .iov_base = buf, .iov_len = len };

    return io_chan_readv(ch, &iov, 1);
}

int64_t
io_chan_writev(struct io_chan *ch, const struct iovec *iov, unsigned n)
{
    if (ch->state == IO_CHAN_ST_OPEN)
        return ch->ops->writev(ch, iov, n);
    return ch->state == IO_CHAN_ST_BROKEN ? ch->error.num : -EAGAIN;
}

void
io_chan_want(struct io_chan *ch, unsigned events)
{
    ch->want = events & (IO_CHAN_READABLE | IO_CHAN_WRITABLE);
    if (ch->state == IO_CHAN_ST_OPEN)
        ch->ops->want(ch);
}

int
io_chan_start_tls_server(struct io_chan *ch, struct tls_ctx *tls,
                         uint64_t deadline_ns, struct err *err)
{
    int rc;

    if (ch->state != IO_CHAN_ST_OPEN || ch->tls)
        return err_set(err, -EINVAL, ERR_IO_0009,
                       "%s: TLS cannot start on this channel", ch->peer);
    ch->tls_ctx = tls_ctx_ref(tls);
    ch->is_server = true;
    rc = io_chan_tls_begin(ch, err);
    if (rc < 0)
        return rc;
    io_timer_set(&ch->deadline, deadline_ns);
    return 0;
}

bool
io_chan_is_tls(const struct io_chan *ch)
{
    return ch->tls != NULL;
}

bool
io_chan_is_unix(const struct io_chan *ch)
{
    return ch->is_unix;
}

const char *
io_chan_peer_name(const struct io_chan *ch)
{
    return ch->peer;
}

int
io_chan_error(const struct io_chan *ch, struct err *out)
{
    if (out)
        *out = ch->error;
    return ch->error.num;
}

uint64_t
io_chan_unsent(struct io_chan *ch)
{
    return ch->state == IO_CHAN_ST_OPEN ? ch->ops->unsent(ch) : 0;
}

void
io_chan_close(struct io_chan *ch)
{
    if (!ch || ch->closed)
        return;
    if (ch->ops->close)
        ch->ops->close(ch);
    io_timer_stop(&ch->deadline);
    io_timer_stop(&ch->retry);
    io_task_cancel(&ch->again);
    list_del(&ch->link);
    if (ch->lookup) {
        ch->lookup->ch = NULL; /* the job frees itself */
        ch->lookup = NULL;
    }
    fd_drop(ch);
    ch->closed = true;
    if (ch->in_event == 0)
        chan_destroy(ch);
}
