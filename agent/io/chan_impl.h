/* The inside of a channel, for chan.c, chan_tls.c, listen.c and simulations. */
#ifndef HOLDFAST_IO_CHAN_IMPL_H
#define HOLDFAST_IO_CHAN_IMPL_H

#include "io/chan.h"
#include "io/loop_backend.h"

enum io_chan_state {
    IO_CHAN_ST_LOOKUP,
    IO_CHAN_ST_CONNECT,
    IO_CHAN_ST_HANDSHAKE,
    IO_CHAN_ST_OPEN,
    IO_CHAN_ST_BROKEN,
};

/* What differs between plain, TLS and simulated. */
struct io_chan_ops {
    int64_t (*readv)(struct io_chan *ch, const struct iovec *iov, unsigned n);
    int64_t (*writev)(struct io_chan *ch, const struct iovec *iov, unsigned n);
    void (*want)(struct io_chan *ch); /* ch->want has changed */
    void (*ready)(struct io_chan *ch, uint32_t events); /* EPOLL*; state OPEN */
    uint64_t (*unsent)(struct io_chan *ch);
    void (*close)(struct io_chan *ch); /* its part only; may be NULL */
};

struct chan_tls;
struct chan_lookup;
struct addrinfo;

struct io_chan {
    const struct io_chan_ops *ops;
    struct io_loop *loop;
    struct io_chan_owner owner;
    enum io_chan_state state;
    unsigned want; /* READABLE | WRITABLE */
    int fd;
    struct io_watch watch;
    struct io_timer deadline;
    struct io_timer retry; /* Unix: the listener's queue is full */
    struct io_task again;  /* deferred news: a failure, or buffered bytes */
    unsigned in_event;     /* owner calls on the stack */
    bool closed, is_unix, is_server;
    struct tls_ctx *tls_ctx; /* a reference, or NULL */
    struct chan_tls *tls;    /* NULL: plain */
    struct chan_lookup *lookup;
    struct addrinfo *addrs, *addr_next;
    struct io_addr target;
    char peer[IO_ADDR_TEXT_MAX];
    struct err error;
    struct list link; /* a listener's pending ones */
};

/* A channel over a connected socket fd, state OPEN, no owner.  NULL: no
 * memory; fd is then the caller's. */
struct io_chan *io_chan_adopt(struct io_loop *loop, int fd, bool is_unix);
void io_chan_sock_prepare(int fd, bool is_unix); /* buffers, delay, keepalive */
/* Tell the owner.  False: the channel is gone. */
bool io_chan_emit(struct io_chan *ch, unsigned events);
void io_chan_opened(struct io_chan *ch); /* state OPEN, and tell */
/* State BROKEN and tell; num and text go to ch->error. */
void io_chan_break(struct io_chan *ch, int num, enum err_code code,
                   const char *fmt, ...) PRINTF_LIKE(4, 5);
/* The same at the next opportunity, for calls that must not call back. */
void io_chan_fail_later(struct io_chan *ch, int num, enum err_code code,
                        const char *fmt, ...) PRINTF_LIKE(4, 5);
/* Remember why reading or writing failed; returns num. */
int io_chan_lost(struct io_chan *ch, int num);

/* chan_tls.c.  Begin a handshake on a connected channel; ch->tls_ctx is set.
 * progress: on readiness in state HANDSHAKE. */
int io_chan_tls_begin(struct io_chan *ch, struct err *err);
void io_chan_tls_progress(struct io_chan *ch);
void io_chan_tls_again(struct io_chan *ch); /* from the task: buffered bytes */

#endif
