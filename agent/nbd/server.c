/* The NBD server: exports, listeners, and what connections share (payload
 * memory and who waits for it, log lines).  See nbd_server.h. */
#include "nbd/nbd_server.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/log.h"
#include "common/text.h"
#include "nbd/conn.h"

enum {
    DEFAULT_CONNECTIONS = 1024,
    DEFAULT_IN_FLIGHT = 256,
    MAX_IN_FLIGHT = 4096,
    NAME_MAX_BYTES = 255,
    LOG_LINES = 20, /* a LOG_PERIOD */
};
#define DEFAULT_PAYLOAD      (128 * MIB)
#define MIN_PAYLOAD          (33 * MIB)
#define DEFAULT_HANDSHAKE_NS (10 * NSEC_PER_SEC)
#define LOG_PERIOD_NS        (10 * NSEC_PER_SEC)
#define STARVE_TICK_NS       (1 * NSEC_PER_SEC)
#define STALL_NS             (10 * NSEC_PER_SEC)

/* --- payload memory ----------------------------------------------------- */

/* Somebody waits for payload memory.  Memory is held for requests in devices,
 * which come back by themselves, or for a peer that has stopped reading or
 * sending; such a peer must not starve the others for ever. */
static void
starve_tick(struct io_timer *t)
{
    struct nbd_server *s = container_of(t, struct nbd_server, starve);
    uint64_t now = io_mono_ns(s->loop);
    struct list *p, *tmp;

    if (list_empty(&s->waiting))
        return;
    list_for_each_safe (p, tmp, &s->conns) {
        struct nbd_conn *c = list_entry(p, struct nbd_conn, link);

        if (now > STALL_NS && nbd_tx_stalls(c, now - STALL_NS))
            nbd_conn_fail(c, -ETIMEDOUT, ERR_NBD_0008,
                          "holds payload memory that others wait for, and "
                          "has not moved a byte for 10 s");
    }
    io_defer(s->loop, &s->wake);
    io_timer_set(&s->starve, STARVE_TICK_NS);
}

static void
wake_run(struct io_task *t)
{
    struct nbd_server *s = container_of(t, struct nbd_server, wake);
    struct list *p;
    unsigned n = 0;

    list_for_each (p, &s->waiting)
        n++;
    while (n-- > 0 && !list_empty(&s->waiting)) {
        struct nbd_conn *c =
            list_entry(s->waiting.next, struct nbd_conn, wait_link);

        if (!nbd_tx_fits(c))
            return; /* the first in line goes first */
        list_del(&c->wait_link);
        nbd_tx_run(c);
    }
}

void
nbd_server_wait(struct nbd_server *s, struct nbd_conn *c)
{
    if (list_empty(&c->wait_link))
        list_push_back(&s->waiting, &c->wait_link);
    if (!io_timer_armed(&s->starve))
        io_timer_set(&s->starve, STARVE_TICK_NS);
}

void
nbd_server_pool_freed(struct nbd_server *s)
{
    if (!list_empty(&s->waiting))
        io_defer(s->loop, &s->wake);
}

/* --- the server --------------------------------------------------------- */

void
nbd_server_log(struct nbd_server *s, const char *peer, int num,
               enum err_code code, const char *why)
{
    uint64_t now = io_mono_ns(s->loop);
    char ids[IO_ADDR_TEXT_MAX + 8];
    struct err err = ERR_INIT;

    if (now - s->log_since_ns >= LOG_PERIOD_NS) {
        if (s->log_dropped)
            log_line(LOG_WARN, "nbd", "",
                     "%u more lines about clients were left out",
                     s->log_dropped);
        s->log_since_ns = now;
        s->log_lines = s->log_dropped = 0;
    }
    if (s->log_lines >= LOG_LINES) {
        s->log_dropped++;
        return;
    }
    s->log_lines++;
    (void)snprintf(ids, sizeof ids, "peer=%s", peer);
    err_set(&err, num, code, "the client %s", why);
    log_err(LOG_WARN, "nbd", ids, "serving a client", &err);
}

static int
config_fill(struct nbd_server_config *to, const struct nbd_server_config *cfg,
            struct err *err)
{
    *to = cfg ? *cfg : (struct nbd_server_config){ .payload_max = 0 };
    if (!to->payload_max)
        to->payload_max = DEFAULT_PAYLOAD;
    if (!to->max_connections)
        to->max_connections = DEFAULT_CONNECTIONS;
    if (!to->handshake_ns)
        to->handshake_ns = DEFAULT_HANDSHAKE_NS;
    if (!to->max_in_flight)
        to->max_in_flight = DEFAULT_IN_FLIGHT;
    if (to->payload_max < MIN_PAYLOAD)
        return err_set(err, -EINVAL, ERR_NBD_0009,
                       "payload memory of %llu bytes is below %llu",
                       (unsigned long long)to->payload_max,
                       (unsigned long long)MIN_PAYLOAD);
    if (to->max_in_flight > MAX_IN_FLIGHT)
        return err_set(err, -EINVAL, ERR_NBD_0009,
                       "%u requests in flight a connection exceed %d",
                       to->max_in_flight, MAX_IN_FLIGHT);
    return 0;
}

int
nbd_server_new(struct io_loop *loop, const struct nbd_server_config *cfg,
               struct nbd_server **out, struct err *err)
{
    struct nbd_server_config full;
    struct nbd_server *s;
    int rc = config_fill(&full, cfg, err);

    if (rc < 0)
        return rc;
    s = calloc(1, sizeof *s);
    if (!s)
        return err_set(err, -ENOMEM, ERR_GEN_0002, "no memory for a server");
    s->loop = loop;
    s->cfg = full;
    s->conn_pool_max = MAX(full.payload_max / 2, MIN_PAYLOAD);
    nbd_pool_init(&s->pool, full.payload_max);
    list_init(&s->exports);
    list_init(&s->leaving);
    list_init(&s->listeners);
    list_init(&s->conns);
    list_init(&s->waiting);
    io_task_init(&s->wake, wake_run);
    io_timer_init(&s->starve, loop, starve_tick);
    *out = s;
    return 0;
}

static void
export_free(struct nbd_export *e)
{
    io_task_cancel(&e->gone_task);
    list_del(&e->link);
    free(e->name);
    free(e->description);
    free(e);
}

static void
export_tell_gone(struct nbd_export *e)
{
    void (*gone)(void *arg) = e->gone;
    void *arg = e->gone_arg;

    export_free(e);
    if (gone)
        gone(arg); /* may free the server */
}

void
nbd_server_free(struct nbd_server *s)
{
    struct list *p, *tmp;

    if (!s)
        return;
    list_for_each_safe (p, tmp, &s->listeners)
        nbd_listener_close(list_entry(p, struct nbd_listener, link));
    list_for_each_safe (p, tmp, &s->conns)
        nbd_conn_close(list_entry(p, struct nbd_conn, link));
    assert(list_empty(&s->conns)); /* no request is left in a device */
    list_for_each_safe (p, tmp, &s->leaving)
        export_tell_gone(list_entry(p, struct nbd_export, link));
    list_for_each_safe (p, tmp, &s->exports)
        export_free(list_entry(p, struct nbd_export, link));
    io_task_cancel(&s->wake);
    io_timer_stop(&s->starve);
    nbd_pool_release(&s->pool);
    free(s);
}

/* --- exports ------------------------------------------------------------ */

static bool
name_is(const struct nbd_export *e, const char *name, size_t len)
{
    return strlen(e->name) == len && !memcmp(e->name, name, len);
}

struct nbd_export *
nbd_server_find(struct nbd_server *s, const struct nbd_listener *l,
                const char *name, size_t len)
{
    struct list *p;

    if (l && l->tied)
        return l->only && (len == 0 || name_is(l->only, name, len)) ? l->only
                                                                    : NULL;
    list_for_each (p, &s->exports) {
        struct nbd_export *e = list_entry(p, struct nbd_export, link);

        if (len == 0 ? e->is_default : name_is(e, name, len))
            return e;
    }
    return NULL;
}

static int
name_check(struct nbd_server *s, const struct nbd_export_config *cfg,
           struct err *err)
{
    size_t len = cfg->name ? strlen(cfg->name) : 0;
    size_t at, n;
    uint32_t cp;

    if (len == 0 || len > NAME_MAX_BYTES)
        return err_set(err, -EINVAL, ERR_NBD_0001,
                       "an export name of %zu bytes is not within 1..%d", len,
                       NAME_MAX_BYTES);
    for (at = 0; at < len; at += n) {
        n = text_utf8_next(cfg->name + at, len - at, &cp);
        if (n == 0 || !text_printable(cp))
            return err_set(err, -EINVAL, ERR_NBD_0001,
                           "export name '%s': byte %zu is no printable UTF-8",
                           cfg->name, at);
    }
    if (cfg->description && strlen(cfg->description) >= NBD_STRING_MAX)
        return err_set(err, -EINVAL, ERR_NBD_0001,
                       "export '%s': the description exceeds %d bytes",
                       cfg->name, NBD_STRING_MAX - 1);
    if (nbd_server_find(s, NULL, cfg->name, len))
        return err_set(err, -EEXIST, ERR_NBD_0001, "export '%s' exists already",
                       cfg->name);
    if (cfg->is_default && nbd_server_find(s, NULL, "", 0))
        return err_set(err, -EEXIST, ERR_NBD_0001,
                       "export '%s': there is a default export already",
                       cfg->name);
    return 0;
}

static bool
power_of_2(uint32_t v)
{
    return v && !(v & (v - 1));
}

/* What the protocol lets us say about the device's blocks. */
static int
block_size_of(const struct nbd_export_config *cfg, struct nbd_block_size *out,
              struct err *err)
{
    const struct blkdev_info *info = &cfg->dev->info;
    struct nbd_block_size bs = {
        .min = info->min_block,
        .pref = MAX(MAX(info->pref_block, info->min_block), 512U),
        .max_payload = MIN(info->max_payload, (uint32_t)NBD_PAYLOAD_MAX),
    };

    if (!power_of_2(bs.min) || bs.min > NBD_MIN_BLOCK_MAX ||
        !power_of_2(bs.pref) || bs.max_payload < bs.pref)
        return err_set(err, -EINVAL, ERR_NBD_0002,
                       "export '%s': block sizes %u (minimum), %u "
                       "(preferred) and %u (payload) cannot be offered",
                       cfg->name, bs.min, bs.pref, bs.max_payload);
    if (info->size % bs.min)
        return err_set(err, -EINVAL, ERR_NBD_0002,
                       "export '%s': size %llu is no multiple of its minimum "
                       "block %u",
                       cfg->name, (unsigned long long)info->size, bs.min);
    *out = bs;
    return 0;
}

static uint16_t
tx_flags_of(const struct nbd_export_config *cfg)
{
    unsigned has = cfg->dev->info.features;
    unsigned f = NBD_TX_HAS_FLAGS | NBD_TX_SEND_FLUSH | NBD_TX_SEND_FUA |
                 NBD_TX_SEND_CACHE;

    if (has & BLKDEV_ROTATIONAL)
        f |= NBD_TX_ROTATIONAL;
    if (cfg->multi_conn)
        f |= NBD_TX_CAN_MULTI_CONN;
    if (cfg->read_only || has & BLKDEV_READ_ONLY)
        return (uint16_t)(f | NBD_TX_READ_ONLY);
    f |= NBD_TX_SEND_WRITE_ZEROES;
    if (has & BLKDEV_CAN_TRIM)
        f |= NBD_TX_SEND_TRIM;
    if (has & BLKDEV_CAN_FAST_ZERO)
        f |= NBD_TX_SEND_FAST_ZERO;
    return (uint16_t)f;
}

static void
gone_run(struct io_task *t)
{
    export_tell_gone(container_of(t, struct nbd_export, gone_task));
}

int
nbd_export_add(struct nbd_server *s, const struct nbd_export_config *cfg,
               struct nbd_export **out, struct err *err)
{
    struct nbd_block_size bs = { .min = 0 };
    struct nbd_export *e;
    int rc = name_check(s, cfg, err);

    if (rc == 0)
        rc = block_size_of(cfg, &bs, err);
    if (rc < 0)
        return rc;
    e = calloc(1, sizeof *e);
    if (!e)
        goto no_memory;
    list_init(&e->link);
    io_task_init(&e->gone_task, gone_run);
    e->srv = s;
    e->dev = cfg->dev;
    e->block = bs;
    e->tx_flags = tx_flags_of(cfg);
    e->is_default = cfg->is_default;
    e->name = strdup(cfg->name);
    if (cfg->description)
        e->description = strdup(cfg->description);
    if (!e->name || (cfg->description && !e->description))
        goto no_memory;
    list_push_back(&s->exports, &e->link);
    *out = e;
    return 0;
no_memory:
    if (e)
        export_free(e);
    return err_set(err, -ENOMEM, ERR_GEN_0002, "no memory for export '%s'",
                   cfg->name);
}

void
nbd_export_conn_gone(struct nbd_export *e)
{
    assert(e->stats.connections > 0);
    e->stats.connections--;
    if (e->leaving && e->stats.connections == 0)
        io_defer(e->srv->loop, &e->gone_task);
}

void
nbd_export_remove(struct nbd_export *e, void (*gone)(void *arg), void *arg)
{
    struct nbd_server *s = e->srv;
    struct list *p, *tmp;

    assert(!e->leaving);
    e->leaving = true;
    e->gone = gone;
    e->gone_arg = arg;
    list_del(&e->link);
    list_push_back(&s->leaving, &e->link);
    list_for_each (p, &s->listeners) {
        struct nbd_listener *l = list_entry(p, struct nbd_listener, link);

        if (l->only == e)
            l->only = NULL; /* tied to nothing: it offers no export now */
    }
    list_for_each_safe (p, tmp, &s->conns) {
        struct nbd_conn *c = list_entry(p, struct nbd_conn, link);

        /* A negotiation that has named the export holds on to it. */
        if (c->exp == e ||
            (c->hs && (c->hs->context_of == e || c->hs->chosen == e)))
            nbd_conn_close(c);
    }
    if (e->stats.connections == 0)
        io_defer(s->loop, &e->gone_task);
}

void
nbd_export_stats(const struct nbd_export *e, struct nbd_export_stats *out)
{
    *out = e->stats;
}

/* --- listeners ---------------------------------------------------------- */

int
nbd_listen(struct nbd_server *s, const struct nbd_listen_config *cfg,
           struct nbd_listener **out, struct err *err)
{
    struct io_listen_config lc = { .addr = cfg->addr };
    char text[IO_ADDR_TEXT_MAX];
    struct nbd_listener *l;
    int rc;

    if (!cfg->addr.is_unix && !cfg->tls && !cfg->plain_tcp_for_tests) {
        io_addr_format(&cfg->addr, text);
        return err_set(err, -EPERM, ERR_NBD_0003,
                       "NBD on %s: TCP needs a certificate", text);
    }
    l = calloc(1, sizeof *l);
    if (!l)
        return err_set(err, -ENOMEM, ERR_GEN_0002, "no memory for a listener");
    l->srv = s;
    l->only = cfg->only;
    l->tied = cfg->only;
    l->tls = cfg->tls;
    l->forced_tls = cfg->tls && !cfg->addr.is_unix;
    rc = io_listen(s->loop, &lc, nbd_conn_accept, l, &l->io, err);
    if (rc < 0) {
        free(l);
        return rc;
    }
    list_push_back(&s->listeners, &l->link);
    *out = l;
    return 0;
}

void
nbd_listener_addr(const struct nbd_listener *l, struct io_addr *out)
{
    io_listener_addr(l->io, out);
}

void
nbd_listener_close(struct nbd_listener *l)
{
    struct list *p, *tmp;

    if (!l)
        return;
    list_for_each_safe (p, tmp, &l->srv->conns) {
        struct nbd_conn *c = list_entry(p, struct nbd_conn, link);

        if (c->lis == l) /* it still negotiates by this listener's terms */
            nbd_conn_close(c);
    }
    io_listener_close(l->io);
    list_del(&l->link);
    free(l);
}

/* --- URIs --------------------------------------------------------------- */

/* NBD project, doc/uri.md; percent-encoding of RFC 3986 section 2.1. */
static void
uri_escape(struct buf *b, const char *text, const char *also)
{
    static const char plain[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                "abcdefghijklmnopqrstuvwxyz0123456789-._~";

    for (; *text; text++) {
        if (strchr(plain, *text) || strchr(also, *text))
            (void)buf_add(b, text, 1);
        else
            (void)buf_addf(b, "%%%02X", (unsigned)(unsigned char)*text);
    }
}

int
nbd_uri(const struct io_addr *addr, bool tls, const char *name, char *out,
        size_t out_size)
{
    bool v6 = !addr->is_unix && strchr(addr->host, ':');
    struct buf b;
    int rc;

    if (out_size == 0)
        return -EMSGSIZE;
    buf_init(&b, out_size - 1);
    (void)buf_addf(&b, "%s%s://", tls ? "nbds" : "nbd",
                   addr->is_unix ? "+unix" : "");
    if (!addr->is_unix)
        (void)buf_addf(&b, "%s%s%s:%u", v6 ? "[" : "", addr->host,
                       v6 ? "]" : "", (unsigned)addr->port);
    (void)buf_add(&b, "/", 1);
    uri_escape(&b, name, "");
    if (addr->is_unix) {
        (void)buf_addf(&b, "?socket=");
        uri_escape(&b, addr->host, "/");
    }
    rc = b.failed;
    if (rc == 0)
        memcpy(out, b.data, b.len + 1);
    buf_release(&b);
    return rc;
}
