/* A channel: an ordered stream of bytes to a peer, plain or TLS 1.3, over a
 * Unix or TCP socket; and listeners that make them.
 *
 * Readiness, not completion: the owner is told that reading or writing may make
 * progress, then reads until -EAGAIN.  TLS hides behind the same calls, its
 * handshake included; the data path never sees an SSL object, and a simulation
 * uses the plain channel.  Loop's thread only.
 */
#ifndef HOLDFAST_IO_CHAN_H
#define HOLDFAST_IO_CHAN_H

#include <sys/uio.h>

#include "io/loop.h"

struct tls_ctx; /* common/tls.h; reference-counted */
struct tls_identity;
struct io_chan;

enum {
    IO_ADDR_TEXT_MAX = 280
};

struct io_addr {
    bool is_unix;
    char host[256]; /* name or numeric address; Unix: the path (<= 107) */
    uint16_t port;
};

/* "unix:/path", "host:port", "[v6]:port", ":port" (any address). */
int io_addr_parse(const char *text, struct io_addr *out, struct err *err);
void io_addr_format(const struct io_addr *a, char out[IO_ADDR_TEXT_MAX]);

enum io_chan_event {
    IO_CHAN_OPEN = 1 << 0, /* connected, and the handshake is complete */
    IO_CHAN_READABLE = 1 << 1,
    IO_CHAN_WRITABLE = 1 << 2,
    IO_CHAN_BROKEN = 1 << 3, /* connect, handshake or transport failed; see
                                * io_chan_error().  Close it. */
};

struct io_chan_owner {
    /* events: a set of io_chan_event.  The channel may be closed inside. */
    void (*event)(void *arg, struct io_chan *ch, unsigned events);
    void *arg;
};

/* Connect in the background; IO_CHAN_OPEN or IO_CHAN_BROKEN follows.  tls: NULL
 * for a plain channel; a reference is taken.  Deadline over name look-up,
 * connect and handshake. */
int io_chan_connect(struct io_loop *loop, const struct io_addr *addr,
                    struct tls_ctx *tls, uint64_t deadline_ns,
                    const struct io_chan_owner *owner, struct io_chan **out,
                    struct err *err);
void io_chan_set_owner(struct io_chan *ch, const struct io_chan_owner *owner);

/* Bytes read, 0 at the end of the stream, -EAGAIN, or another negative errno
 * after which the channel is only good for closing.  readv fills in order. */
int64_t io_chan_read(struct io_chan *ch, void *buf, size_t len);
int64_t io_chan_readv(struct io_chan *ch, const struct iovec *iov, unsigned n);
/* Bytes taken (perhaps not all), or -EAGAIN; then wait for WRITABLE. */
int64_t io_chan_writev(struct io_chan *ch, const struct iovec *iov, unsigned n);
/* Which of READABLE and WRITABLE the owner wants to hear.  READABLE may come
 * again and again while unread bytes remain (level-triggered, TLS too). */
void io_chan_want(struct io_chan *ch, unsigned events);

/* Upgrade an open plain channel as server (NBD STARTTLS).  No unread bytes may
 * have been taken past the request.  IO_CHAN_OPEN or IO_CHAN_BROKEN follows. */
int io_chan_start_tls_server(struct io_chan *ch, struct tls_ctx *tls,
                             uint64_t deadline_ns, struct err *err);

bool io_chan_is_tls(const struct io_chan *ch);
bool io_chan_is_unix(const struct io_chan *ch);
/* The peer's certified identity; -ENOENT on a plain channel. */
int io_chan_peer_identity(const struct io_chan *ch, struct tls_identity *out);
/* Is the peer's certificate still good, after a change of trust?  0 on a plain
 * channel; else as tls_peer_recheck(). */
int io_chan_recheck(struct io_chan *ch, struct err *err);
/* ALPN protocol chosen, or "". */
const char *io_chan_protocol(const struct io_chan *ch);
/* "unix" or "address:port", for logs. */
const char *io_chan_peer_name(const struct io_chan *ch);
int io_chan_error(const struct io_chan *ch, struct err *out); /* why BROKEN */
/* Bytes the kernel has not sent yet, for the link's queue age. */
uint64_t io_chan_unsent(struct io_chan *ch);
/* Close at once; a TLS close_notify is tried without waiting. */
void io_chan_close(struct io_chan *ch);

struct io_listener;

/* Called with each accepted channel after IO_CHAN_OPEN's work is done (TLS
 * handshake with its deadline runs before); the callee owns it and must set an
 * owner.  Pending handshakes are bounded; beyond it the oldest are closed. */
typedef void (*io_accept_fn)(void *arg, struct io_chan *ch);

struct io_listen_config {
    struct io_addr addr;   /* port 0: any free one */
    struct tls_ctx *tls;   /* NULL: plain */
    uint64_t handshake_ns; /* 0: 10 s */
    unsigned max_pending;  /* 0: 64 */
    unsigned unix_mode;    /* 0: 0600; a stale socket file is replaced,
                                 * a live one is -EADDRINUSE */
};

int io_listen(struct io_loop *loop, const struct io_listen_config *cfg,
              io_accept_fn accepted, void *arg, struct io_listener **out,
              struct err *err);
/* The address really bound. */
void io_listener_addr(const struct io_listener *l, struct io_addr *out);
void io_listener_set_tls(struct io_listener *l, struct tls_ctx *tls);
void io_listener_close(struct io_listener *l); /* removes a Unix socket file */

#endif
