/* room: io common */
/* The least NBD server on this room's loop, channels and devices, to be set
 * beside the limit of the machine (docs: lab, "The limit"): requests parsed in
 * batches from one stream buffer, payload copied to an aligned buffer of its
 * request, replies joined into one writev a turn.
 *
 *   build/tests/bench/io_nbd SOCKET FILE auto|io_uring|epoll writeback|none
 */
#include <endian.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/blkdev.h"
#include "io/chan.h"
#include "io/file.h"

enum {
    INBUF = 4 << 20,
    SLOT_BUF = 1 << 20,
    SLOTS = 256,
    IOV = 256
};

struct conn;

struct slot {
    struct blkdev_req rq;
    struct list link; /* free, or ready to be sent */
    struct conn *c;
    uint8_t hdr[16], *buf;
    size_t len; /* header and data */
};

struct conn {
    struct io_chan *ch;
    struct io_task reply;
    struct list ready;
    size_t sent; /* of the first ready one */
    size_t have;
    unsigned busy;
    bool in_transmission, gone;
    uint8_t in[INBUF];
};

static struct io_loop *loop;
static struct blkdev *dev;
static struct list free_slots;

static void
put16(uint8_t *p, uint16_t v)
{
    v = htobe16(v);
    memcpy(p, &v, 2);
}

static void
put32(uint8_t *p, uint32_t v)
{
    v = htobe32(v);
    memcpy(p, &v, 4);
}

static void
put64(uint8_t *p, uint64_t v)
{
    v = htobe64(v);
    memcpy(p, &v, 8);
}

static uint64_t
get(const uint8_t *p, size_t n)
{
    uint64_t v = 0;

    while (n--)
        v = v << 8 | *p++;
    return v;
}

static void
conn_drop(struct conn *c)
{
    struct list *l;

    if (c->ch)
        io_chan_close(c->ch);
    c->ch = NULL;
    c->gone = true;
    io_task_cancel(&c->reply);
    while ((l = list_pop_front(&c->ready)))
        list_push_front(&free_slots, l);
    if (c->busy == 0)
        free(c);
}

static void
send_raw(struct conn *c, const void *p, size_t n)
{
    struct iovec iov = { .iov_base = (void *)(uintptr_t)p, .iov_len = n };

    (void)io_chan_writev(c->ch, &iov, 1); /* small, on an empty socket */
}

static void
opt_reply(struct conn *c, uint32_t opt, uint32_t type, const void *d, uint32_t n)
{
    uint8_t b[64];

    put64(b, 0x3e889045565a9);
    put32(b + 8, opt);
    put32(b + 12, type);
    put32(b + 16, n);
    if (n)
        memcpy(b + 20, d, n);
    send_raw(c, b, 20 + n);
}

/* Bytes used of p, 0: more needed. */
static size_t
handshake(struct conn *c, const uint8_t *p, size_t n)
{
    static const uint8_t magic[8] = "IHAVEOPT";
    uint32_t opt, len;
    uint8_t e[12];

    if (n >= 4 && memcmp(p, magic, 4) != 0)
        return 4; /* the client's flags */
    if (n < 16 || n < 16 + get(p + 12, 4))
        return 0;
    opt = (uint32_t)get(p + 8, 4);
    len = (uint32_t)get(p + 12, 4);
    if (opt == 6 || opt == 7) {
        put16(e, 0);
        put64(e + 2, dev->info.size);
        put16(e + 10, 1 | 4 | 256);
        opt_reply(c, opt, 3, e, 12);
        opt_reply(c, opt, 1, NULL, 0);
        c->in_transmission = opt == 7;
    } else {
        opt_reply(c, opt, 0x80000001u, NULL, 0);
    }
    return 16 + len;
}

static void
reply_run(struct io_task *t)
{
    struct conn *c = container_of(t, struct conn, reply);

    while (!list_empty(&c->ready)) {
        struct iovec iov[IOV];
        unsigned n = 0;
        size_t skip = c->sent;
        struct list *l;
        int64_t k;

        list_for_each (l, &c->ready) {
            struct slot *s = list_entry(l, struct slot, link);

            if (n + 2 > IOV)
                break;
            if (skip < 16) {
                iov[n].iov_base = s->hdr + skip;
                iov[n++].iov_len = 16 - skip;
                skip = 16;
            }
            if (s->len > skip) {
                iov[n].iov_base = s->buf + (skip - 16);
                iov[n++].iov_len = s->len - skip;
            }
            skip = 0;
        }
        k = io_chan_writev(c->ch, iov, n);
        if (k == -EAGAIN) {
            io_chan_want(c->ch, IO_CHAN_READABLE | IO_CHAN_WRITABLE);
            return;
        }
        if (k < 0) {
            conn_drop(c);
            return;
        }
        c->sent += (size_t)k;
        while (!list_empty(&c->ready)) {
            struct slot *s = list_entry(c->ready.next, struct slot, link);

            if (c->sent < s->len)
                break;
            c->sent -= s->len;
            list_del(&s->link);
            list_push_front(&free_slots, &s->link);
        }
    }
    io_chan_want(c->ch, IO_CHAN_READABLE);
}

static void
request_done(struct blkdev_req *rq, int res)
{
    struct slot *s = container_of(rq, struct slot, rq);
    struct conn *c = s->c;

    c->busy--;
    if (c->gone) {
        list_push_front(&free_slots, &s->link);
        if (c->busy == 0)
            free(c);
        return;
    }
    put32(s->hdr, 0x67446698);
    put32(s->hdr + 4, res ? 5 : 0);
    s->len = 16 + (rq->op == BLKDEV_READ && !res ? (size_t)rq->len : 0);
    list_push_back(&c->ready, &s->link);
    io_defer(loop, &c->reply);
}

/* Bytes used, 0: more needed, SIZE_MAX: the end. */
static size_t
request(struct conn *c, const uint8_t *p, size_t n)
{
    struct list *l;
    struct slot *s;
    size_t len;
    unsigned type;

    if (n < 28)
        return 0;
    type = (unsigned)get(p + 6, 2);
    len = get(p + 24, 4);
    if (type == 2 || len > SLOT_BUF)
        return SIZE_MAX;
    if (type == 1 && n < 28 + len)
        return 0;
    l = list_pop_front(&free_slots);
    if (!l)
        return SIZE_MAX; /* more in flight than a benchmark sends */
    s = list_entry(l, struct slot, link);
    s->c = c;
    s->rq = (struct blkdev_req){ .op = type == 0   ? BLKDEV_READ
                                       : type == 1 ? BLKDEV_WRITE
                                                   : BLKDEV_FLUSH,
                                 .off = get(p + 16, 8),
                                 .len = len,
                                 .buf = s->buf,
                                 .done = request_done };
    memcpy(s->hdr + 8, p + 8, 8);
    if (type == 1)
        memcpy(s->buf, p + 28, len);
    c->busy++;
    blkdev_submit(dev, &s->rq);
    return 28 + (type == 1 ? len : 0);
}

static void
conn_event(void *arg, struct io_chan *ch, unsigned events)
{
    struct conn *c = arg;
    size_t at = 0;
    int64_t k;

    if (events & IO_CHAN_WRITABLE)
        io_defer(loop, &c->reply);
    if (!(events & IO_CHAN_READABLE))
        return;
    k = io_chan_read(ch, c->in + c->have, INBUF - c->have);
    if (k == -EAGAIN)
        return;
    if (k <= 0) {
        conn_drop(c);
        return;
    }
    c->have += (size_t)k;
    for (;;) {
        size_t n = c->in_transmission ? request(c, c->in + at, c->have - at)
                                      : handshake(c, c->in + at, c->have - at);

        if (n == SIZE_MAX) {
            conn_drop(c);
            return;
        }
        if (n == 0)
            break;
        at += n;
    }
    memmove(c->in, c->in + at, c->have - at);
    c->have -= at;
}

static void
accepted(void *arg, struct io_chan *ch)
{
    struct conn *c = calloc(1, sizeof *c);
    struct io_chan_owner o = { .event = conn_event, .arg = c };
    uint8_t hello[18];

    if (!c)
        abort();
    c->ch = ch;
    list_init(&c->ready);
    io_task_init(&c->reply, reply_run);
    io_chan_set_owner(ch, &o);
    put64(hello, 0x4e42444d41474943);
    put64(hello + 8, 0x49484156454F5054);
    put16(hello + 16, 3);
    send_raw(c, hello, sizeof hello);
    io_chan_want(ch, IO_CHAN_READABLE);
}

static void
stop(void *arg, int sig)
{
    io_loop_stop(loop);
}

int
main(int argc, char **argv)
{
    static const int sigs[] = { SIGTERM, SIGINT };
    struct io_loop_config lc = { .workers = 1 };
    struct io_listen_config cfg = { .addr.is_unix = true };
    struct filedev_config fc = { .cache = FILEDEV_WRITEBACK };
    struct io_listener *l;
    struct slot *slots = calloc(SLOTS, sizeof *slots);
    struct err e = ERR_INIT;

    if (argc != 5 || !slots || strlen(argv[1]) >= sizeof cfg.addr.host) {
        fputs("io_nbd SOCKET FILE auto|io_uring|epoll writeback|none\n", stderr);
        return 2;
    }
    strcpy(cfg.addr.host, argv[1]);
    lc.backend = strcmp(argv[3], "epoll") == 0      ? IO_BACKEND_EPOLL
                 : strcmp(argv[3], "io_uring") == 0 ? IO_BACKEND_URING
                                                    : IO_BACKEND_AUTO;
    fc.path = argv[2];
    if (strcmp(argv[4], "none") == 0)
        fc.cache = FILEDEV_NONE;
    list_init(&free_slots);
    for (int i = 0; i < SLOTS; i++) {
        slots[i].buf = io_mem_alloc(SLOT_BUF);
        list_init(&slots[i].link);
        list_push_back(&free_slots, &slots[i].link);
    }
    if (io_loop_new(&lc, &loop, &e) < 0 ||
        filedev_open(loop, &fc, &dev, &e) < 0 ||
        io_listen(loop, &cfg, accepted, NULL, &l, &e) < 0 ||
        io_signals_watch(loop, sigs, 2, stop, NULL, &e) < 0) {
        fprintf(stderr, "%s\n", e.msg);
        return 1;
    }
    return io_loop_run(loop) < 0;
}
