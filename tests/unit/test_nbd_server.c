/* room: nbd io common */
/* What the server refuses to be told, the URIs it gives out, and the way
 * requests of a connection that has gone are treated (I6).  The client is a
 * second channel on the same loop. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/bytes.h"
#include "nbd/nbd_server.h"
#include "nbd/proto.h"

/* A device that keeps what it is given until told otherwise. */
struct slowdev {
    struct blkdev base;
    struct blkdev_req *rq[8];
    unsigned n, cancelled;
    const void *origin;
};

static void
slow_submit(struct blkdev *d, struct blkdev_req *rq)
{
    struct slowdev *s = container_of(d, struct slowdev, base);

    assert_true(s->n < ARRAY_SIZE(s->rq));
    s->origin = rq->origin;
    s->rq[s->n++] = rq;
}

/* The first one has begun; the others have not. */
static void
slow_cancel(struct blkdev *d, const void *origin)
{
    struct slowdev *s = container_of(d, struct slowdev, base);

    assert_true(origin == s->origin);
    while (s->n > 1) {
        struct blkdev_req *rq = s->rq[--s->n];

        s->cancelled++;
        rq->done(rq, -ECANCELED);
    }
}

static const struct blkdev_ops slow_ops = { .kind = "slow",
                                            .submit = slow_submit,
                                            .cancel = slow_cancel };

struct world {
    struct io_loop *loop;
    struct nbd_server *srv;
    struct slowdev dev;
    struct nbd_export *exp;
    char path[64];
    /* the client */
    struct io_chan *ch;
    unsigned gone;
};

static void
open_world(struct world *w)
{
    struct io_loop_config lc = { .backend = IO_BACKEND_EPOLL };

    memset(w, 0, sizeof *w);
    assert_int_equal(io_loop_new(&lc, &w->loop, NULL), 0);
    assert_int_equal(nbd_server_new(w->loop, NULL, &w->srv, NULL), 0);
    w->dev.base.ops = &slow_ops;
    w->dev.base.loop = w->loop;
    w->dev.base.info = (struct blkdev_info){ .size = 1 << 20,
                                             .min_block = 512,
                                             .pref_block = 4096,
                                             .max_payload = 1 << 20 };
    (void)snprintf(w->path, sizeof w->path, "/tmp/test_nbd_server.%ld",
                   (long)getpid());
}

static void
close_world(struct world *w)
{
    nbd_server_free(w->srv);
    io_loop_free(w->loop);
}

static int
add(struct world *w, const char *name, struct err *err)
{
    struct nbd_export_config c = { .name = name, .dev = &w->dev.base };

    return nbd_export_add(w->srv, &c, &w->exp, err);
}

static void
test_refusals(void **state)
{
    struct nbd_server_config small = { .payload_max = 1 << 20 };
    struct nbd_listen_config tcp = { .addr = { .host = "127.0.0.1" } };
    struct nbd_listener *l;
    struct nbd_server *s;
    struct err err = ERR_INIT;
    struct world w;

    open_world(&w);
    assert_int_equal(nbd_server_new(w.loop, &small, &s, &err), -EINVAL);
    assert_int_equal(err.code, ERR_NBD_0009);
    assert_int_equal(add(&w, "", &err), -EINVAL);
    assert_int_equal(err.code, ERR_NBD_0001);
    assert_int_equal(add(&w, "bad\x1b[2J", &err), -EINVAL);
    assert_int_equal(add(&w, "caf\xe9", &err), -EINVAL);
    assert_int_equal(add(&w, "caf\xc3\xa9", &err), 0);
    assert_int_equal(add(&w, "caf\xc3\xa9", &err), -EEXIST);
    w.dev.base.info.min_block = 128 << 10;
    assert_int_equal(add(&w, "x", &err), -EINVAL);
    assert_int_equal(err.code, ERR_NBD_0002);
    w.dev.base.info.min_block = 4096;
    w.dev.base.info.size = 4096 + 512;
    assert_int_equal(add(&w, "x", &err), -EINVAL);
    assert_int_equal(err.code, ERR_NBD_0002);
    assert_int_equal(nbd_listen(w.srv, &tcp, &l, &err), -EPERM);
    assert_int_equal(err.code, ERR_NBD_0003);
    close_world(&w);
}

static void
test_uri(void **state)
{
    struct io_addr u = { .is_unix = true, .host = "/run/a b/s&1" };
    struct io_addr t = { .host = "10.0.0.1", .port = 10809 };
    struct io_addr six = { .host = "::1", .port = 1 };
    char out[128];

    assert_int_equal(nbd_uri(&u, false, "db/1 \xc3\xa9", out, sizeof out), 0);
    assert_string_equal(out,
                        "nbd+unix:///db%2F1%20%C3%A9?socket=/run/a%20b/s%261");
    assert_int_equal(nbd_uri(&t, true, "e", out, sizeof out), 0);
    assert_string_equal(out, "nbds://10.0.0.1:10809/e");
    assert_int_equal(nbd_uri(&six, false, "", out, sizeof out), 0);
    assert_string_equal(out, "nbd://[::1]:1/");
    assert_int_equal(nbd_uri(&t, true, "e", out, 23), -EMSGSIZE);
    assert_int_equal(nbd_uri(&t, true, "e", out, 24), 0);
    assert_int_equal(nbd_uri(&t, true, "e", out, 0), -EMSGSIZE);
}

static void
client_event(void *arg, struct io_chan *ch, unsigned events)
{
    (void)arg;
    (void)ch;
    (void)events;
}

static void
turns(struct world *w)
{
    int i;

    for (i = 0; i < 20; i++)
        assert_int_equal(io_loop_turn(w->loop, NSEC_PER_MSEC), 0);
}

/* Client flags, GO for the default export, then n writes of one block. */
static void
client_begin(struct world *w, unsigned n)
{
    struct io_addr a = { .is_unix = true };
    struct io_chan_owner owner = { .event = client_event, .arg = w };
    uint8_t b[8192] = { 0 };
    struct iovec v = { .iov_base = b };
    size_t at = 4;
    unsigned i;

    memcpy(a.host, w->path, sizeof w->path);
    assert_int_equal(io_chan_connect(w->loop, &a, NULL, NSEC_PER_SEC, &owner,
                                     &w->ch, NULL),
                     0);
    turns(w);
    put_be32(b, 3);
    put_be64(b + at, NBD_MAGIC_OPTION);
    put_be32(b + at + 8, NBD_OPT_GO);
    put_be32(b + at + 12, 6);
    at += 16 + 6;
    for (i = 0; i < n; i++) {
        put_be32(b + at, NBD_MAGIC_REQUEST);
        put_be16(b + at + 6, NBD_CMD_WRITE);
        put_be32(b + at + 24, 512);
        at += NBD_REQUEST_SIZE + 512;
    }
    v.iov_len = at;
    assert_int_equal(io_chan_writev(w->ch, &v, 1), (int64_t)at);
    turns(w);
}

static void
count_gone(void *arg)
{
    struct world *w = arg;

    w->gone++;
}

static struct nbd_listener *
serve_slowly(struct world *w)
{
    struct nbd_export_config c = { .name = "slow",
                                   .dev = &w->dev.base,
                                   .is_default = true };
    struct nbd_listen_config lc = { .addr = { .is_unix = true } };
    struct nbd_listener *l;

    assert_int_equal(nbd_export_add(w->srv, &c, &w->exp, NULL), 0);
    lc.only = w->exp;
    memcpy(lc.addr.host, w->path, sizeof w->path);
    assert_int_equal(nbd_listen(w->srv, &lc, &l, NULL), 0);
    return l;
}

/* I6: what has not begun when the connection dies never runs. */
static void
test_dead_connection(void **state)
{
    struct nbd_export_stats st;
    struct nbd_listener *l;
    struct world w;

    open_world(&w);
    l = serve_slowly(&w);
    client_begin(&w, 4);
    assert_int_equal(w.dev.n, 4);
    nbd_export_stats(w.exp, &st);
    assert_int_equal(st.connections, 1);
    assert_int_equal(st.in_flight, 4);
    assert_int_equal(st.writes, 4);
    io_chan_close(w.ch);
    turns(&w);
    assert_int_equal(w.dev.cancelled, 3);
    nbd_export_stats(w.exp, &st);
    assert_int_equal(st.connections, 1); /* until the last one is back */
    assert_int_equal(st.in_flight, 1);
    w.dev.rq[0]->done(w.dev.rq[0], 0);
    nbd_export_stats(w.exp, &st);
    assert_int_equal(st.connections, 0);
    assert_int_equal(st.in_flight, 0);
    nbd_listener_close(l);
    close_world(&w);
}

/* gone() comes when the device has given back everything, and only then. */
static void
test_remove_waits(void **state)
{
    struct nbd_listener *l;
    struct world w;

    open_world(&w);
    l = serve_slowly(&w);
    client_begin(&w, 3);
    nbd_export_remove(w.exp, count_gone, &w);
    turns(&w);
    assert_int_equal(w.dev.cancelled, 2);
    assert_int_equal(w.gone, 0);
    w.dev.rq[0]->done(w.dev.rq[0], -EIO);
    turns(&w);
    assert_int_equal(w.gone, 1);
    io_chan_close(w.ch);
    client_begin(&w, 1); /* the listener is tied to what is no more */
    assert_int_equal(w.dev.n, 1);
    io_chan_close(w.ch);
    turns(&w);
    nbd_listener_close(l);
    close_world(&w);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_uri),
        cmocka_unit_test(test_dead_connection),
        cmocka_unit_test(test_remove_waits),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
