/* What server.c, conn.c and transmission.c share; nobody outside the room
 * includes it.
 *
 * A connection lives in one of three phases: negotiating (hs), serving (tx) and
 * closed (ch is NULL, waiting for its last requests to come back from the
 * device).  Its memory is freed when it is closed, no request of it is in the
 * device, and no function of ours stands on it (busy).
 */
#ifndef HOLDFAST_NBD_CONN_H
#define HOLDFAST_NBD_CONN_H

#include "nbd/handshake.h"
#include "nbd/nbd_server.h"
#include "nbd/pool.h"

struct nbd_server {
    struct io_loop *loop;
    struct nbd_server_config cfg;
    struct nbd_pool pool;
    uint64_t conn_pool_max; /* what one connection may hold of it */
    struct list exports;    /* nbd_export.link, in the order of LIST */
    struct list leaving;    /* nbd_export.link, being removed */
    struct list listeners;
    struct list conns;
    unsigned n_conns;
    /* Connections that wait for payload memory, first come first served. */
    struct list waiting; /* nbd_conn.wait_link */
    struct io_task wake;
    struct io_timer starve; /* armed while somebody waits */
    /* Log lines about clients: at most some a period. */
    uint64_t log_since_ns;
    unsigned log_lines, log_dropped;
};

struct nbd_export {
    struct list link;
    struct nbd_server *srv;
    char *name, *description; /* owned; description may be NULL */
    struct blkdev *dev;       /* borrowed */
    struct nbd_block_size block;
    uint16_t tx_flags;
    bool is_default, leaving;
    struct nbd_export_stats stats;
    void (*gone)(void *arg);
    void *gone_arg;
    struct io_task gone_task;
};

struct nbd_listener {
    struct list link;
    struct nbd_server *srv;
    struct io_listener *io;
    struct nbd_export *only; /* NULL again when that one was removed */
    bool tied;               /* offers that one or nothing */
    struct tls_ctx *tls;
    bool forced_tls;
};

struct nbd_tx;

struct nbd_conn {
    struct list link;      /* server.conns */
    struct list wait_link; /* server.waiting, or alone */
    struct nbd_server *srv;
    struct io_chan *ch;       /* NULL: closed */
    struct nbd_listener *lis; /* while negotiating */
    struct nbd_export *exp;   /* from GO to the end */
    struct nbd_hs *hs;        /* while negotiating */
    struct nbd_hs_host hs_host;
    enum nbd_hs_next hs_next; /* what to do when hs->out is sent */
    bool tls_starting;
    struct nbd_tx *tx; /* from GO to the end */
    struct io_timer deadline;
    struct io_task task;
    unsigned wanted; /* events asked of the channel */
    unsigned busy, in_dev;
};

/* conn.c */
void nbd_conn_accept(void *listener, struct io_chan *ch);
/* Close the channel, drop what was not submitted, cancel what has not begun
 * (I6).  The connection may be freed inside unless the caller holds it. */
void nbd_conn_close(struct nbd_conn *c);
/* The same after a breach: also log why. */
void
nbd_conn_fail(struct nbd_conn *c, int num, enum err_code code, const char *why);
void nbd_conn_hold(struct nbd_conn *c);
void nbd_conn_unhold(struct nbd_conn *c); /* c may be gone afterwards */
void nbd_conn_want(struct nbd_conn *c, unsigned events);

/* transmission.c */
int nbd_tx_start(struct nbd_conn *c, const struct nbd_terms *terms);
void nbd_tx_event(struct nbd_conn *c, unsigned events);
void nbd_tx_run(struct nbd_conn *c);  /* replies and held-back requests */
void nbd_tx_stop(struct nbd_conn *c); /* closed: give up what is not in the
                                       * device */
void nbd_tx_free(struct nbd_conn *c);
/* Does the peer, by not reading or not sending on, hold payload memory since
 * before that time? */
bool nbd_tx_stalls(const struct nbd_conn *c, uint64_t since_ns);
/* Would its next request fit into the pool now? */
bool nbd_tx_fits(const struct nbd_conn *c);

/* server.c */
struct nbd_export *
nbd_server_find(struct nbd_server *s, const struct nbd_listener *l,
                const char *name, size_t len);
void nbd_export_conn_gone(struct nbd_export *e);
void nbd_server_wait(struct nbd_server *s, struct nbd_conn *c);
void nbd_server_pool_freed(struct nbd_server *s);
void nbd_server_log(struct nbd_server *s, const char *peer, int num,
                    enum err_code code, const char *why);

#endif
