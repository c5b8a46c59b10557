/* The NBD server: exports block devices to any NBD client, over Unix sockets
 * and TCP.  Protocol: the NBD project's doc/proto.md (fixed newstyle), see
 * docs/formats/nbd.md for what is implemented.  It serves any struct blkdev and
 * knows none of them.
 *
 * One server has a set of exports and a set of listeners; a listener may be
 * tied to one export (its only and default one).  Loop's thread only.
 *
 * Memory: payloads come from one pool of page-aligned buffers a server, capped
 * by payload_max.  When it is empty, sockets are not read until requests
 * complete; those wait only for block devices, so it drains.  A connection that
 * has not finished its handshake within the deadline, or that breaks the
 * protocol, is closed.
 */
#ifndef HOLDFAST_NBD_NBD_SERVER_H
#define HOLDFAST_NBD_NBD_SERVER_H

#include "io/blkdev.h"
#include "io/chan.h"

struct nbd_server;
struct nbd_export;

struct nbd_server_config {
    uint64_t payload_max;     /* bytes; 0: 128 MiB (at least 33 MiB) */
    unsigned max_connections; /* 0: 1024; the next one is closed */
    uint64_t handshake_ns;    /* 0: 10 s over the whole negotiation */
    unsigned max_in_flight;   /* requests a connection; 0: 256; beyond it the
                               * socket is not read */
};

int nbd_server_new(struct io_loop *loop, const struct nbd_server_config *cfg,
                   struct nbd_server **out, struct err *err);
/* Closes listeners and connections; requests in flight must have been drained
 * with nbd_export_remove() first, or the devices outlive the server. */
void nbd_server_free(struct nbd_server *s);

struct nbd_export_config {
    const char *name;        /* UTF-8, 1..255 bytes */
    const char *description; /* for LIST, may be NULL */
    struct blkdev *dev;      /* borrowed until removed */
    bool read_only;
    bool is_default; /* also found under the empty name */
    bool multi_conn; /* one backing object serves all connections, so
                              * that FLUSH and FUA hold across them */
};

int nbd_export_add(struct nbd_server *s, const struct nbd_export_config *cfg,
                   struct nbd_export **out, struct err *err);
/* Take it off the list, close its connections, cancel what has not begun
 * (blkdev_cancel), wait for the rest; then gone(arg) is called and dev is no
 * longer used.  gone is called from the loop, never inside this call (or from
 * nbd_server_free(), when the loop did not come to it); it may be NULL. */
void nbd_export_remove(struct nbd_export *e, void (*gone)(void *arg), void *arg);

struct nbd_export_stats {
    unsigned connections, in_flight;
    uint64_t reads, writes, read_bytes, write_bytes, flushes, trims, errors;
};
void nbd_export_stats(const struct nbd_export *e, struct nbd_export_stats *out);

struct nbd_listen_config {
    struct io_addr addr;
    struct nbd_export *only;  /* NULL: all exports of the server */
    struct tls_ctx *tls;      /* for STARTTLS; required on TCP unless
                                 * plain_tcp_for_tests.  Borrowed until
                                 * nbd_listener_close() */
    bool plain_tcp_for_tests; /* tests and benchmarks on loopback only */
};

struct nbd_listener;
/* A TCP listener with tls is FORCEDTLS: everything but STARTTLS and ABORT is
 * answered with TLS_REQD until TLS is on. */
int nbd_listen(struct nbd_server *s, const struct nbd_listen_config *cfg,
               struct nbd_listener **out, struct err *err);
void nbd_listener_addr(const struct nbd_listener *l, struct io_addr *out);
void nbd_listener_close(struct nbd_listener *l);

/* "nbd+unix:///NAME?socket=PATH", percent-encoded; or nbds://HOST:PORT/NAME. */
int nbd_uri(const struct io_addr *addr, bool tls, const char *name, char *out,
            size_t out_size);

#endif
