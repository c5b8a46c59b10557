/* TLS 1.3 on a channel: OpenSSL between two buffers of ours.
 *
 *   owner --writev--> stage (small pieces into one record) --SSL_write-->
 *     out buffer --send--> socket
 *   socket --recv--> in buffer --SSL_read--> owner
 *
 * The buffers take many records with one system call each way (a BIO on the
 * descriptor makes one or two for each record), and no SIGPIPE can come.  A
 * record is only begun when the out buffer has room for it whole, so SSL_write
 * never stops half-way and what writev reports as taken is taken.
 *
 * Level-triggered reading: while decrypted or undecrypted bytes lie in memory,
 * where epoll cannot see them, READABLE is repeated through a task.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <linux/sockios.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/ssl.h>

#include "common/tls.h"
#include "io/chan_impl.h"

enum {
    RECORD = 16 * 1024,         /* RFC 8446, 5.1 */
    RECORD_ROOM = RECORD + 512, /* header, tag, and a key update beside it */
    IN_SIZE = 128 * 1024,
    OUT_SIZE = 128 * 1024,
};

struct chan_tls {
    SSL *ssl;
    int fd;
    size_t in_at, in_n;   /* in[in_at, in_n) is unread */
    size_t out_at, out_n; /* out[out_at, out_n) is unsent */
    bool in_eof;
    bool starved; /* the last SSL_read found no whole record */
    int sock_err; /* negative errno of recv or send */
    char protocol[TLS_ALPN_MAX + 1];
    uint8_t in[IN_SIZE], out[OUT_SIZE], stage[RECORD];
};

/* --- the BIO --------------------------------------------------------------------- */

/* Bytes now in the buffer, 0 at the end of the stream, or negative errno. */
static int64_t
in_fill(struct chan_tls *t)
{
    ssize_t n;

    if (t->in_at == t->in_n)
        t->in_at = t->in_n = 0;
    do
        n = recv(t->fd, t->in + t->in_n, IN_SIZE - t->in_n, MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    if (n < 0 && errno != EAGAIN)
        t->sock_err = -errno;
    if (n == 0)
        t->in_eof = true;
    if (n > 0)
        t->in_n += (size_t)n;
    return n < 0 ? -errno : n;
}

static int
bio_read(BIO *b, char *buf, size_t len, size_t *out_n)
{
    struct chan_tls *t = BIO_get_data(b);
    size_t n;

    BIO_clear_retry_flags(b);
    if (t->in_at == t->in_n && in_fill(t) <= 0) {
        if (!t->in_eof && !t->sock_err)
            BIO_set_retry_read(b);
        *out_n = 0;
        return 0;
    }
    n = MIN(len, t->in_n - t->in_at);
    memcpy(buf, t->in + t->in_at, n);
    t->in_at += n;
    *out_n = n;
    return 1;
}

static int
bio_write(BIO *b, const char *buf, size_t len, size_t *out_n)
{
    struct chan_tls *t = BIO_get_data(b);
    size_t n;

    BIO_clear_retry_flags(b);
    if (t->out_at && OUT_SIZE - t->out_n < len) {
        memmove(t->out, t->out + t->out_at, t->out_n - t->out_at);
        t->out_n -= t->out_at;
        t->out_at = 0;
    }
    n = MIN(len, OUT_SIZE - t->out_n);
    if (n == 0) {
        BIO_set_retry_write(b);
        *out_n = 0;
        return 0;
    }
    memcpy(t->out + t->out_n, buf, n);
    t->out_n += n;
    *out_n = n;
    return 1;
}

static long
bio_ctrl(BIO *b, int cmd, long num, void *ptr)
{
    const struct chan_tls *t = BIO_get_data(b);

    UNUSED(num);
    UNUSED(ptr);
    switch (cmd) {
    case BIO_CTRL_FLUSH: return 1; /* out_flush() sends */
    case BIO_CTRL_EOF: return t->in_eof && t->in_at == t->in_n;
    default: return 0;
    }
}

static BIO_METHOD *bio_method; /* made once, kept */
static pthread_once_t bio_once = PTHREAD_ONCE_INIT;

static void
bio_method_make(void)
{
    BIO_METHOD *m =
        BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "channel");

    if (m && (!BIO_meth_set_read_ex(m, bio_read) ||
              !BIO_meth_set_write_ex(m, bio_write) ||
              !BIO_meth_set_ctrl(m, bio_ctrl))) {
        BIO_meth_free(m);
        m = NULL;
    }
    bio_method = m;
}

/* 0: nothing left; -EAGAIN: the socket is full; or another errno. */
static int
out_flush(struct chan_tls *t)
{
    while (t->out_at < t->out_n) {
        ssize_t n = send(t->fd, t->out + t->out_at, t->out_n - t->out_at,
                         MSG_NOSIGNAL | MSG_DONTWAIT);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            if (errno != EAGAIN)
                t->sock_err = -errno;
            return -errno;
        }
        t->out_at += (size_t)n;
    }
    t->out_at = t->out_n = 0;
    return 0;
}

static bool
out_has_room(const struct chan_tls *t)
{
    return OUT_SIZE - (t->out_n - t->out_at) >= RECORD_ROOM;
}

/* --- reading and writing ------------------------------------------------------------ */

/* Why SSL_read or SSL_write did not move: -EAGAIN, 0 for the end, or what is
 * final.  An end without close_notify is a cut, not an end. */
static int64_t
ssl_outcome(struct io_chan *ch, int ret)
{
    struct chan_tls *t = ch->tls;
    struct err e = ERR_INIT;
    int num;

    switch (SSL_get_error(t->ssl, ret)) {
    case SSL_ERROR_WANT_READ:
    case SSL_ERROR_WANT_WRITE: t->starved = true; return -EAGAIN;
    case SSL_ERROR_ZERO_RETURN: return 0;
    default: break;
    }
    if (t->sock_err) {
        ERR_clear_error();
        return io_chan_lost(ch, t->sock_err);
    }
    if (t->in_eof) {
        ERR_clear_error();
        return io_chan_lost(ch, -ECONNRESET);
    }
    num = tls_failure(t->ssl, ret, &e);
    if (ch->error.num == 0)
        err_set(&ch->error, num, ERR_IO_0014, "%s: %s", ch->peer, e.msg);
    return num;
}

static int64_t
tls_readv(struct io_chan *ch, const struct iovec *iov, unsigned n)
{
    struct chan_tls *t = ch->tls;
    int64_t total = 0;

    t->starved = false;
    for (unsigned i = 0; i < n; i++) {
        size_t at = 0;

        while (at < iov[i].iov_len) {
            size_t got;

            ERR_clear_error();
            if (SSL_read_ex(t->ssl, (char *)iov[i].iov_base + at,
                            iov[i].iov_len - at, &got) != 1) {
                /* With bytes in hand an error waits for the next call. */
                if (total == 0)
                    return ssl_outcome(ch, 0);
                t->starved = SSL_want_read(t->ssl);
                return total;
            }
            at += got;
            total += (int64_t)got;
        }
    }
    return total;
}

/* Up to one record from position (i, at) of the vector, which moves on. */
static size_t
gather(struct chan_tls *t, const struct iovec *iov, unsigned n, unsigned *i,
       size_t *at, const void **out)
{
    size_t len = 0;

    while (*i < n && *at == iov[*i].iov_len) {
        ++*i;
        *at = 0;
    }
    if (*i < n && iov[*i].iov_len - *at >= RECORD) { /* without a copy */
        *out = (const char *)iov[*i].iov_base + *at;
        *at += RECORD;
        return RECORD;
    }
    while (*i < n && len < RECORD) {
        size_t k = MIN(iov[*i].iov_len - *at, RECORD - len);

        memcpy(t->stage + len, (const char *)iov[*i].iov_base + *at, k);
        len += k;
        *at += k;
        if (*at == iov[*i].iov_len) {
            ++*i;
            *at = 0;
        }
    }
    *out = t->stage;
    return len;
}

static int64_t
tls_writev(struct io_chan *ch, const struct iovec *iov, unsigned n)
{
    struct chan_tls *t = ch->tls;
    int64_t total = 0;
    unsigned i = 0;
    size_t at = 0;
    int rc = 0;

    for (;;) {
        const void *data;
        size_t len, put;

        if (!out_has_room(t)) {
            rc = out_flush(t);
            if (rc < 0 && !out_has_room(t))
                break;
        }
        len = gather(t, iov, n, &i, &at, &data);
        if (len == 0)
            break;
        ERR_clear_error();
        if (SSL_write_ex(t->ssl, data, len, &put) != 1)
            return total ? total : MIN(ssl_outcome(ch, 0), (int64_t)-EAGAIN);
        total += (int64_t)put;
    }
    rc = out_flush(t);
    if (rc < 0 && rc != -EAGAIN)
        return io_chan_lost(ch, rc);
    if (rc == -EAGAIN)
        ch->ops->want(ch); /* the rest goes when the socket is writable */
    return total || i == n ? total : -EAGAIN;
}

static bool
more_in_memory(const struct chan_tls *t)
{
    return !t->starved &&
           (t->in_at < t->in_n || SSL_has_pending(t->ssl) || t->in_eof);
}

static void
tls_want(struct io_chan *ch)
{
    struct chan_tls *t = ch->tls;
    uint32_t ev = 0;

    if (ch->want & IO_CHAN_READABLE)
        ev |= EPOLLIN;
    if ((ch->want & IO_CHAN_WRITABLE) || t->out_at < t->out_n)
        ev |= EPOLLOUT;
    io_watch_set(ch->loop, &ch->watch, ev);
    if ((ch->want & IO_CHAN_READABLE) && more_in_memory(t))
        io_defer(ch->loop, &ch->again);
    else
        io_task_cancel(&ch->again);
}

static void
tls_ready(struct io_chan *ch, uint32_t events)
{
    struct chan_tls *t = ch->tls;
    unsigned ev = 0;

    if (events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) {
        int rc = out_flush(t);

        /* An error shows at the owner's next call. */
        if (rc != -EAGAIN)
            ev |= IO_CHAN_WRITABLE;
    }
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
        t->starved = false;
        ev |= IO_CHAN_READABLE;
    }
    ev &= ch->want;
    if (ev && !io_chan_emit(ch, ev))
        return;
    if (ch->state == IO_CHAN_ST_OPEN)
        tls_want(ch);
}

void
io_chan_tls_again(struct io_chan *ch)
{
    if (!(ch->want & IO_CHAN_READABLE) || !more_in_memory(ch->tls))
        return;
    if (io_chan_emit(ch, IO_CHAN_READABLE) && ch->state == IO_CHAN_ST_OPEN)
        tls_want(ch);
}

static uint64_t
tls_unsent(struct io_chan *ch)
{
    const struct chan_tls *t = ch->tls;
    int n = 0;

    if (ioctl(t->fd, ch->is_unix ? SIOCOUTQ : SIOCOUTQNSD, &n) < 0 || n < 0)
        n = 0;
    return (uint64_t)n + (t->out_n - t->out_at);
}

static void
tls_close(struct io_chan *ch)
{
    struct chan_tls *t = ch->tls;

    if (ch->state == IO_CHAN_ST_OPEN && !t->sock_err) {
        ERR_clear_error();
        (void)SSL_shutdown(t->ssl); /* one attempt to say good-bye */
        (void)out_flush(t);
    }
    ERR_clear_error();
    SSL_free(t->ssl); /* and the BIO */
    free(t);
    ch->tls = NULL;
}

static const struct io_chan_ops tls_ops = {
    .readv = tls_readv,
    .writev = tls_writev,
    .want = tls_want,
    .ready = tls_ready,
    .unsent = tls_unsent,
    .close = tls_close,
};

/* --- the handshake -------------------------------------------------------------------- */

static void
handshake_failed(struct io_chan *ch, int ret)
{
    struct chan_tls *t = ch->tls;
    struct err e = ERR_INIT;

    if (t->sock_err || t->in_eof) {
        int num = t->sock_err ? t->sock_err : -ECONNRESET;

        ERR_clear_error();
        io_chan_break(ch, num, ERR_IO_0009,
                      "the peer left during the TLS handshake: %s",
                      err_errno(num));
        return;
    }
    (void)tls_failure(t->ssl, ret, &e);
    (void)out_flush(t); /* the alert that tells the peer why */
    io_chan_break(ch, e.num ? e.num : -EPROTO, ERR_IO_0009, "%s: %s",
                  err_code_text(e.code), e.msg);
}

/* OpenSSL's text has no NUL. */
static void
protocol_keep(struct chan_tls *t)
{
    const unsigned char *p = NULL;
    unsigned n = 0;

    SSL_get0_alpn_selected(t->ssl, &p, &n);
    n = MIN(n, (unsigned)TLS_ALPN_MAX);
    if (n)
        memcpy(t->protocol, p, n);
    t->protocol[n] = '\0';
}

void
io_chan_tls_progress(struct io_chan *ch)
{
    struct chan_tls *t = ch->tls;
    int ret, rc, why;

    ERR_clear_error();
    ret = SSL_do_handshake(t->ssl);
    why = ret == 1 ? SSL_ERROR_NONE : SSL_get_error(t->ssl, ret);
    if (why != SSL_ERROR_NONE && why != SSL_ERROR_WANT_READ &&
        why != SSL_ERROR_WANT_WRITE) {
        handshake_failed(ch, ret);
        return;
    }
    rc = out_flush(t);
    if (rc < 0 && rc != -EAGAIN) {
        handshake_failed(ch, ret);
        return;
    }
    if (why == SSL_ERROR_NONE) {
        protocol_keep(t);
        io_chan_opened(ch);
        return;
    }
    io_watch_set(ch->loop, &ch->watch,
                 (uint32_t)EPOLLIN | (rc < 0 ? (uint32_t)EPOLLOUT : 0));
}

int
io_chan_tls_begin(struct io_chan *ch, struct err *err)
{
    struct chan_tls *t;
    BIO *bio = NULL;
    int rc = -ENOMEM;

    (void)pthread_once(&bio_once, bio_method_make);
    t = calloc(1, sizeof *t); /* large: pages come as they are touched */
    if (!t || !bio_method)
        goto nomem;
    rc = tls_ssl_new(ch->tls_ctx, NULL, &t->ssl, err);
    if (rc < 0) {
        free(t);
        return rc;
    }
    rc = -ENOMEM;
    bio = BIO_new(bio_method);
    if (!bio)
        goto nomem;
    BIO_set_data(bio, t);
    BIO_set_init(bio, 1);
    SSL_set_bio(t->ssl, bio, bio); /* takes it, once */
    t->fd = ch->fd;
    ch->tls = t;
    ch->ops = &tls_ops;
    ch->state = IO_CHAN_ST_HANDSHAKE;
    /* Writable at once: the first step runs from the loop. */
    io_watch_set(ch->loop, &ch->watch, EPOLLIN | EPOLLOUT);
    return 0;

nomem:
    if (t)
        SSL_free(t->ssl);
    free(t);
    return err_set(err, rc, ERR_GEN_0002, "no memory for a TLS connection");
}

int
io_chan_peer_identity(const struct io_chan *ch, struct tls_identity *out)
{
    if (!ch->tls || ch->state != IO_CHAN_ST_OPEN)
        return -ENOENT;
    return tls_peer(ch->tls->ssl, out);
}

int
io_chan_recheck(struct io_chan *ch, struct err *err)
{
    if (!ch->tls || ch->state != IO_CHAN_ST_OPEN)
        return 0;
    return tls_peer_recheck(ch->tls->ssl, err);
}

const char *
io_chan_protocol(const struct io_chan *ch)
{
    return ch->tls ? ch->tls->protocol : "";
}
