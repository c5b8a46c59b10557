/* room: io common */
/* Channels and listeners: plain and TLS, Unix and TCP, on loopback. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "helper_io.h"
#include "io/chan.h"
#include "io/file.h"
#include "pki_fixture.h"

#define SEC NSEC_PER_SEC

static struct site london, paris;
static struct leaf server_leaf, client_leaf, foreign_leaf;
static struct pki_trust *trust;
static struct tls_ctx *server_ctx, *client_ctx, *foreign_ctx;
static struct io_loop *loop;
static char *dir;

static struct tls_ctx *
context(enum tls_side side, const struct leaf *own)
{
    static const char *const alpn[] = { "holdfast-data/1" };
    struct tls_settings s = { .side = side, .alpn = alpn, .n_alpn = 1 };
    struct tls_ctx *ctx = NULL;
    struct err e = ERR_INIT;

    must(tls_ctx_new(&s, &ctx, &e), &e);
    must(tls_ctx_set_own(ctx, own->chain, own->key, &e), &e);
    tls_ctx_set_trust(ctx, trust);
    return ctx;
}

static int
setup(void **state)
{
    struct err e = ERR_INIT;

    site_make(&london, "london");
    site_make(&paris, "paris");
    leaf_make(&server_leaf, &london, TLS_ROLE_REPLICATOR, 0, 0, 0);
    leaf_make(&client_leaf, &london, TLS_ROLE_REPLICATOR, 0, 0, 0);
    leaf_make(&foreign_leaf, &paris, TLS_ROLE_REPLICATOR, 0, 0, 0);
    must(pki_trust_new(&trust, &e), &e);
    must(pki_trust_add_root(trust, london.root, &e), &e);
    server_ctx = context(TLS_SERVER, &server_leaf);
    client_ctx = context(TLS_CLIENT, &client_leaf);
    foreign_ctx = context(TLS_SERVER, &foreign_leaf);
    loop = helper_loop(IO_BACKEND_AUTO, 1);
    dir = helper_tmpdir(NULL);
    return loop && dir ? 0 : -1;
}

static int
teardown(void **state)
{
    io_loop_free(loop);
    helper_rmdir(dir);
    tls_ctx_free(server_ctx);
    tls_ctx_free(client_ctx);
    tls_ctx_free(foreign_ctx);
    leaf_release(&server_leaf);
    leaf_release(&client_leaf);
    leaf_release(&foreign_leaf);
    pki_trust_free(trust);
    site_release(&london);
    site_release(&paris);
    return 0;
}

/* --- an end that sends and checks a pattern ------------------------------------ */

struct end {
    struct io_chan *ch;
    uint64_t to_send, sent, to_get, got;
    size_t read_max; /* bytes an event */
    unsigned rnd;
    unsigned opens, breaks;
    bool done, wrong, eof, close_on_open;
    int64_t lost; /* the errno that reading or writing met */
    struct err err;
};

static uint8_t
pattern(uint64_t at)
{
    return (uint8_t)(at * 7 + (at >> 8) * 13 + (at >> 16));
}

static unsigned
rnd(struct end *e)
{
    e->rnd = e->rnd * 1103515245u + 12345u;
    return e->rnd >> 8;
}

static void
end_send(struct end *e)
{
    static uint8_t buf[256 * 1024];

    while (e->sent < e->to_send) {
        struct iovec iov[8];
        uint64_t left = e->to_send - e->sent;
        size_t n = 0, total = 0;
        int64_t k;

        for (; n < 8 && total < left && total < sizeof buf; n++) {
            size_t len = n % 2 ? rnd(e) % 40000 : rnd(e) % 40;

            len = MIN(len, MIN((size_t)left, sizeof buf) - total);
            iov[n] = (struct iovec){ .iov_base = buf + total, .iov_len = len };
            total += len;
        }
        for (size_t i = 0; i < total; i++)
            buf[i] = pattern(e->sent + i);
        k = io_chan_writev(e->ch, iov, (unsigned)n);
        if (k == -EAGAIN)
            break;
        if (k < 0) {
            e->lost = k;
            return;
        }
        e->sent += (uint64_t)k;
    }
}

static void
end_get(struct end *e)
{
    static uint8_t buf[65536];
    size_t budget = e->read_max ? e->read_max : SIZE_MAX;

    while (budget) {
        size_t a = rnd(e) % 1000 + 1, b = MIN(sizeof buf - 1000, budget);
        struct iovec iov[2] = { { .iov_base = buf, .iov_len = MIN(a, budget) },
                                { .iov_base = buf + a, .iov_len = b } };
        int64_t k = e->read_max ? io_chan_read(e->ch, buf, MIN(a, budget))
                                : io_chan_readv(e->ch, iov, 2);

        if (k == -EAGAIN)
            return;
        if (k <= 0) {
            e->eof = k == 0;
            e->lost = k;
            io_chan_want(e->ch, 0);
            return;
        }
        for (int64_t i = 0; i < k; i++) {
            size_t at = (size_t)i;

            /* iov[1] begins where iov[0] ends: buf is one piece */
            if (buf[at] != pattern(e->got + at))
                e->wrong = true;
        }
        e->got += (uint64_t)k;
        budget -= MIN(budget, (size_t)k);
    }
}

static void
end_event(void *arg, struct io_chan *ch, unsigned events)
{
    struct end *e = arg;

    e->ch = ch;
    if (events & IO_CHAN_BROKEN) {
        e->breaks++;
        io_chan_error(ch, &e->err);
        io_chan_close(ch);
        e->ch = NULL;
        e->done = true;
        return;
    }
    if (events & IO_CHAN_OPEN) {
        e->opens++;
        if (e->close_on_open) {
            io_chan_close(ch);
            e->ch = NULL;
            e->done = true;
            return;
        }
    }
    if (events & IO_CHAN_READABLE)
        end_get(e);
    end_send(e);
    if (!e->eof && !e->lost)
        io_chan_want(ch, IO_CHAN_READABLE |
                             (e->sent < e->to_send ? IO_CHAN_WRITABLE : 0u));
    else if (e->sent < e->to_send && e->eof)
        io_chan_want(ch, IO_CHAN_WRITABLE);
    e->done =
        e->lost || e->eof || (e->got >= e->to_get && e->sent == e->to_send);
}

static void
end_accept(void *arg, struct io_chan *ch)
{
    struct end *e = arg;
    struct io_chan_owner o = { .event = end_event, .arg = e };

    assert_null(e->ch);
    e->ch = ch;
    io_chan_set_owner(ch, &o);
    e->opens++;
    io_chan_want(ch, IO_CHAN_READABLE | (e->to_send ? IO_CHAN_WRITABLE : 0u));
}

static void
end_close(struct end *e)
{
    io_chan_close(e->ch);
    e->ch = NULL;
}

static struct io_listener *
listen_on(const char *text, struct tls_ctx *tls, struct end *e,
          struct io_addr *out)
{
    struct io_listen_config cfg = { .tls = tls };
    struct io_listener *l = NULL;
    struct err err = ERR_INIT;

    assert_int_equal(io_addr_parse(text, &cfg.addr, &err), 0);
    if (io_listen(loop, &cfg, end_accept, e, &l, &err) < 0)
        fail_msg("%s", err.msg);
    io_listener_addr(l, out);
    return l;
}

static void
connect_to(const struct io_addr *a, struct tls_ctx *tls, uint64_t deadline_ns,
           struct end *e)
{
    struct io_chan_owner o = { .event = end_event, .arg = e };
    struct err err = ERR_INIT;

    if (io_chan_connect(loop, a, tls, deadline_ns, &o, &e->ch, &err) < 0)
        fail_msg("%s", err.msg);
}

static bool
both_done(struct end *a, struct end *b, unsigned ms)
{
    uint64_t until = io_mono_fresh(loop) + HELPER_SLOW * ms * NSEC_PER_MSEC;

    while (!(a->done && b->done) && io_mono_fresh(loop) < until)
        assert_int_equal(io_loop_turn(loop, 20 * NSEC_PER_MSEC), 0);
    return a->done && b->done;
}

static void
idle(unsigned turns)
{
    while (turns--)
        assert_int_equal(io_loop_turn(loop, NSEC_PER_MSEC), 0);
}

static char *
unix_text(const char *name)
{
    char *t = NULL;

    assert_true(asprintf(&t, "unix:%s/%s", dir, name) > 0);
    return t;
}

/* --- transfers ------------------------------------------------------------------- */

struct transfer {
    bool is_unix, tls;
    size_t read_max;
    uint64_t bytes;
};

static void
transfer(const struct transfer *t)
{
    struct end c = { .to_send = t->bytes, .to_get = t->bytes, .rnd = 1 };
    struct end s = { .to_send = t->bytes, .to_get = t->bytes, .rnd = 2 };
    char *text = t->is_unix ? unix_text("x.sock") : strdup("127.0.0.1:0");
    struct io_addr a;
    struct io_listener *l = listen_on(text, t->tls ? server_ctx : NULL, &s, &a);
    struct tls_identity who;

    c.read_max = s.read_max = t->read_max;
    connect_to(&a, t->tls ? client_ctx : NULL, 5 * SEC, &c);
    assert_int_equal(io_chan_read(c.ch, &who, 1), -EAGAIN); /* not open yet */
    assert_true(both_done(&c, &s, 30000));
    assert_int_equal(c.opens, 1);
    assert_int_equal(s.opens, 1);
    assert_true(c.got == t->bytes && s.got == t->bytes);
    assert_false(c.wrong || s.wrong);
    assert_int_equal(io_chan_is_tls(c.ch), t->tls);
    assert_int_equal(io_chan_is_unix(s.ch), t->is_unix);
    if (t->is_unix)
        assert_string_equal(io_chan_peer_name(s.ch), "unix");
    else
        assert_int_equal(strncmp(io_chan_peer_name(s.ch), "127.0.0.1:", 10), 0);
    assert_string_equal(io_chan_protocol(s.ch), t->tls ? "holdfast-data/1" : "");
    if (t->tls) {
        assert_int_equal(io_chan_peer_identity(s.ch, &who), 0);
        assert_true(uuid_equal(&who.id, &client_leaf.who.id));
        assert_int_equal(io_chan_peer_identity(c.ch, &who), 0);
        assert_true(uuid_equal(&who.id, &server_leaf.who.id));
    } else {
        assert_int_equal(io_chan_peer_identity(s.ch, &who), -ENOENT);
    }
    /* An orderly end is read as the end, not as an error. */
    end_close(&c);
    s.done = false;
    io_chan_want(s.ch, IO_CHAN_READABLE);
    assert_true(helper_turn_until(loop, &s.done, 5000));
    assert_true(s.eof);
    end_close(&s);
    io_listener_close(l);
    free(text);
}

static void
test_transfers(void **state)
{
    static const struct transfer table[] = {
        { .is_unix = true, .bytes = 24 * MIB },
        { .is_unix = false, .bytes = 24 * MIB },
        { .is_unix = true, .tls = true, .bytes = 8 * MIB },
        { .is_unix = false, .tls = true, .bytes = 8 * MIB },
        /* few bytes an event: level-triggered, TLS's own buffers too */
        { .is_unix = true, .read_max = 700, .bytes = 300000 },
        { .is_unix = false, .tls = true, .read_max = 700, .bytes = 300000 },
        { .is_unix = false, .tls = true, .bytes = 1 },
    };

    for (size_t i = 0; i < ARRAY_SIZE(table); i++)
        transfer(&table[i]);
}

/* A slow reader makes the writer stop and hear of room later. */
static void
test_backpressure(void **state)
{
    for (int tls = 0; tls < 2; tls++) {
        struct end c = { .to_send = 64 * MIB, .rnd = 5 }, s = { .rnd = 6 };
        struct io_addr a;
        struct io_listener *l =
            listen_on("127.0.0.1:0", tls ? server_ctx : NULL, &s, &a);

        connect_to(&a, tls ? client_ctx : NULL, 5 * SEC, &c);
        while (!s.opens)
            idle(1);
        io_chan_want(s.ch, 0);
        idle(100);
        assert_true(c.sent > 0 && c.sent < 64 * MIB);
        assert_true(io_chan_unsent(c.ch) > 0);
        s.to_get = 64 * MIB;
        s.done = c.done = false;
        io_chan_want(s.ch, IO_CHAN_READABLE);
        assert_true(both_done(&c, &s, 30000));
        assert_true(s.got == 64 * MIB && !s.wrong);
        end_close(&c);
        end_close(&s);
        io_listener_close(l);
    }
}

/* --- raw peers ------------------------------------------------------------------- */

static int
raw_connect(const struct io_addr *a)
{
    struct sockaddr_in sa = { .sin_family = AF_INET,
                              .sin_port = htons(a->port),
                              .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    struct timeval tv = { .tv_sec = 5 };
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    assert_true(fd >= 0);
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv), 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&sa, sizeof sa), 0);
    return fd;
}

/* The peer has sent all it will, and still reads. */
static void
test_half_closed(void **state)
{
    struct end s = { .rnd = 1, .to_get = 100 };
    struct io_addr a;
    struct io_listener *l = listen_on("127.0.0.1:0", NULL, &s, &a);
    int fd = raw_connect(&a);
    uint8_t b[1000];

    for (unsigned i = 0; i < 100; i++)
        b[i] = pattern(i);
    assert_int_equal(write(fd, b, 100), 100);
    assert_int_equal(shutdown(fd, SHUT_WR), 0);
    assert_true(helper_turn_until(loop, &s.eof, 5000));
    assert_int_equal(s.got, 100);
    s.to_send = 1000;
    end_send(&s);
    assert_int_equal(s.sent, 1000);
    assert_int_equal(recv(fd, b, sizeof b, MSG_WAITALL), 1000);
    for (unsigned i = 0; i < 1000; i++)
        assert_int_equal(b[i], pattern(i));
    close(fd);
    end_close(&s);
    io_listener_close(l);
}

static void
test_reset(void **state)
{
    struct end s = { .rnd = 1 };
    struct io_addr a;
    struct io_listener *l = listen_on("127.0.0.1:0", NULL, &s, &a);
    int fd = raw_connect(&a);
    struct linger li = { .l_onoff = 1 };
    struct err e = ERR_INIT;

    while (!s.opens)
        idle(1);
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_LINGER, &li, sizeof li), 0);
    close(fd);
    s.to_get = 1;
    s.done = false;
    assert_true(helper_turn_until(loop, &s.done, 5000));
    assert_int_equal(s.lost, -ECONNRESET);
    assert_int_equal(io_chan_error(s.ch, &e), -ECONNRESET);
    assert_string_equal(err_code_text(e.code), "IO-0014");
    /* Writing to a peer that is gone is an error, never a signal. */
    s.lost = 0;
    s.to_send = 10;
    end_send(&s);
    assert_true(s.lost == -EPIPE || s.lost == -ECONNRESET);
    end_close(&s);
    io_listener_close(l);
}

/* A TLS stream that ends without close_notify was cut. */
static void
test_tls_cut(void **state)
{
    struct end c = { .rnd = 1 }, s = { .rnd = 1 };
    struct io_addr a;
    struct io_listener *l = listen_on("127.0.0.1:0", NULL, &s, &a);
    struct end up = { .rnd = 3 };
    struct io_addr ta;
    struct io_listener *tl = listen_on("127.0.0.1:0", server_ctx, &up, &ta);
    int fd;
    static uint8_t buf[65536];
    ssize_t n;

    /* A relay that hands on the handshake both ways and then falls silent. */
    connect_to(&a, client_ctx, 5 * SEC, &c);
    while (!s.opens)
        idle(1);
    io_chan_want(s.ch, 0);
    fd = raw_connect(&ta);
    for (int i = 0; i < 300 && !(c.opens && up.opens); i++) {
        int64_t k = io_chan_read(s.ch, buf, sizeof buf);

        if (k > 0)
            assert_int_equal(write(fd, buf, (size_t)k), k);
        n = recv(fd, buf, sizeof buf, MSG_DONTWAIT);
        if (n > 0) {
            struct iovec iov = { .iov_base = buf, .iov_len = (size_t)n };

            assert_int_equal(io_chan_writev(s.ch, &iov, 1), n);
        }
        idle(1);
    }
    assert_int_equal(c.opens, 1);
    assert_int_equal(up.opens, 1);
    up.done = false;
    up.to_get = 1;
    close(fd);
    assert_true(helper_turn_until(loop, &up.done, 5000));
    assert_false(up.eof);
    assert_int_equal(up.lost, -ECONNRESET);
    end_close(&up);
    end_close(&c);
    end_close(&s);
    io_listener_close(l);
    io_listener_close(tl);
}

static void
never_accepted(void *arg, struct io_chan *ch)
{
    ++*(unsigned *)arg;
    io_chan_close(ch);
}

/* Silent clients of a TLS listener are dropped: by time, and by number. */
static void
test_handshake_bounds(void **state)
{
    struct io_listen_config cfg = { .tls = server_ctx,
                                    .handshake_ns = 300 * NSEC_PER_MSEC,
                                    .max_pending = 2 };
    struct io_listener *l = NULL;
    struct io_addr a;
    unsigned accepted = 0;
    int fd[3];
    uint64_t began;
    char b;

    assert_int_equal(io_addr_parse("127.0.0.1:0", &cfg.addr, NULL), 0);
    assert_int_equal(io_listen(loop, &cfg, never_accepted, &accepted, &l, NULL),
                     0);
    io_listener_addr(l, &a);
    began = io_mono_fresh(loop);
    for (int i = 0; i < 3; i++) {
        fd[i] = raw_connect(&a);
        idle(3);
    }
    /* The third has pushed out the first, at once. */
    assert_int_equal(recv(fd[0], &b, 1, MSG_DONTWAIT), 0);
    assert_true(recv(fd[1], &b, 1, MSG_DONTWAIT) < 0);
    while (recv(fd[1], &b, 1, MSG_DONTWAIT) < 0 ||
           recv(fd[2], &b, 1, MSG_DONTWAIT) < 0) {
        assert_true(io_mono_fresh(loop) - began < 5 * SEC);
        idle(1);
    }
    assert_true(io_mono_fresh(loop) - began >= 300 * NSEC_PER_MSEC);
    /* Plain text on a TLS port. */
    close(fd[0]);
    fd[0] = raw_connect(&a);
    assert_int_equal(write(fd[0], "GET / HTTP/1.1\r\n\r\n", 18), 18);
    idle(20);
    assert_int_equal(accepted, 0);
    for (int i = 0; i < 3; i++)
        close(fd[i]);
    io_listener_close(l);
}

/* --- failures of connecting -------------------------------------------------------- */

static void
expect_broken(const struct io_addr *a, struct tls_ctx *tls,
              uint64_t deadline_ns, const char *code)
{
    struct end c = { .rnd = 1 };

    connect_to(a, tls, deadline_ns, &c);
    assert_int_equal(c.breaks, 0); /* never inside the call */
    assert_true(helper_turn_until(loop, &c.done, 10000));
    assert_int_equal(c.breaks, 1);
    assert_int_equal(c.opens, 0);
    assert_true(c.err.num < 0);
    assert_string_equal(err_code_text(c.err.code), code);
    end_close(&c);
}

static void
test_connect_failures(void **state)
{
    struct end s = { .rnd = 1 };
    struct io_addr a, gone;
    struct io_listener *l = listen_on("127.0.0.1:0", NULL, &s, &gone);
    char *text = unix_text("nobody");
    struct err e = ERR_INIT;
    struct io_chan *ch = NULL;
    struct io_chan_owner o = { .event = end_event, .arg = &s };
    int quiet;

    io_listener_close(l); /* its port is now refused */
    expect_broken(&gone, NULL, 5 * SEC, "IO-0008");
    assert_int_equal(io_addr_parse(text, &a, NULL), 0);
    expect_broken(&a, NULL, 5 * SEC, "IO-0008");
    free(text);
    assert_int_equal(io_addr_parse(":80", &a, NULL), 0);
    assert_int_equal(io_chan_connect(loop, &a, NULL, SEC, &o, &ch, &e), -EINVAL);
    assert_string_equal(err_code_text(e.code), "IO-0007");

    /* A server that accepts and says nothing. */
    quiet = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in sa = { .sin_family = AF_INET,
                              .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t len = sizeof sa;
    assert_int_equal(bind(quiet, (struct sockaddr *)&sa, len), 0);
    assert_int_equal(listen(quiet, 5), 0);
    assert_int_equal(getsockname(quiet, (struct sockaddr *)&sa, &len), 0);
    assert_int_equal(io_addr_parse("127.0.0.1:1", &a, NULL), 0);
    a.port = ntohs(sa.sin_port);
    expect_broken(&a, client_ctx, 200 * NSEC_PER_MSEC, "IO-0013");
    close(quiet);

    /* Certificates of another deployment. */
    l = listen_on("127.0.0.1:0", foreign_ctx, &s, &a);
    expect_broken(&a, client_ctx, 5 * SEC, "IO-0009");
    io_listener_close(l);
    /* A plain server: what it sends is no TLS. */
    s = (struct end){ .rnd = 1, .to_send = 1000 };
    l = listen_on("127.0.0.1:0", NULL, &s, &a);
    expect_broken(&a, client_ctx, 5 * SEC, "IO-0009");
    end_close(&s);
    io_listener_close(l);
}

static void
test_names(void **state)
{
    struct end c = { .rnd = 1, .to_send = 10 }, s = { .rnd = 1, .to_get = 10 };
    struct io_addr a;
    struct io_listener *l = listen_on(":0", NULL, &s, &a);

    assert_true(a.port > 0);
    strcpy(a.host, "localhost"); /* asks the resolver, in a worker */
    connect_to(&a, NULL, 5 * SEC, &c);
    assert_true(both_done(&c, &s, 8000));
    end_close(&c);
    end_close(&s);
    /* Closed while the look-up is under way: nothing is called any more. */
    c = (struct end){ .rnd = 1 };
    connect_to(&a, NULL, 5 * SEC, &c);
    end_close(&c);
    idle(20);
    assert_int_equal(c.opens + c.breaks, 0);
    io_listener_close(l);
    strcpy(a.host, "bad..name");
    expect_broken(&a, NULL, 8 * SEC, "IO-0008");
}

static void
test_close_inside_event(void **state)
{
    for (int tls = 0; tls < 2; tls++) {
        struct end c = { .rnd = 1, .close_on_open = true };
        struct end s = { .rnd = 1, .to_get = 1 };
        struct io_addr a;
        struct io_listener *l =
            listen_on("127.0.0.1:0", tls ? server_ctx : NULL, &s, &a);

        connect_to(&a, tls ? client_ctx : NULL, 5 * SEC, &c);
        assert_true(both_done(&c, &s, 5000));
        assert_true(s.eof);
        end_close(&s);
        io_listener_close(l);
        io_chan_close(NULL);
        io_listener_close(NULL);
    }
}

/* --- STARTTLS ------------------------------------------------------------------------ */

struct upgrade {
    struct io_chan *ch;
    unsigned opens;
    bool got, done, bad;
};

static void
upgrade_event(void *arg, struct io_chan *ch, unsigned events)
{
    struct upgrade *u = arg;
    char b[16];

    if (events & IO_CHAN_BROKEN) {
        u->bad = u->done = true;
        return;
    }
    if (events & IO_CHAN_OPEN)
        u->opens++;
    if (!(events & IO_CHAN_READABLE))
        return;
    if (!u->got) { /* the request, in the clear: exactly its bytes */
        u->bad = io_chan_read(ch, b, 5) != 5 || memcmp(b, "start", 5) != 0;
        u->got = true;
        if (io_chan_start_tls_server(ch, server_ctx, 5 * SEC, NULL) < 0)
            u->bad = true;
        return;
    }
    if (io_chan_read(ch, b, 16) == 6 && memcmp(b, "secret", 6) == 0)
        u->done = true;
}

static void
upgrade_accept(void *arg, struct io_chan *ch)
{
    struct upgrade *u = arg;
    struct io_chan_owner o = { .event = upgrade_event, .arg = u };

    u->ch = ch;
    io_chan_set_owner(ch, &o);
    io_chan_want(ch, IO_CHAN_READABLE);
}

struct raw_client {
    struct io_addr a;
    bool ok;
};

static void *
upgrade_client(void *arg)
{
    struct raw_client *rc = arg;
    int fd = raw_connect(&rc->a);
    SSL *ssl = NULL;

    if (tls_ssl_new(client_ctx, NULL, &ssl, NULL) < 0)
        return NULL;
    SSL_set_fd(ssl, fd);
    rc->ok = write(fd, "start", 5) == 5 && SSL_do_handshake(ssl) == 1 &&
             SSL_write(ssl, "secret", 6) == 6;
    (void)SSL_shutdown(ssl);
    SSL_free(ssl);
    close(fd);
    return NULL;
}

static void
test_start_tls(void **state)
{
    struct io_listen_config cfg = { .tls = NULL };
    struct upgrade u = { .ch = NULL };
    struct io_listener *l = NULL;
    struct raw_client rc = { .ok = false };
    pthread_t th;

    assert_int_equal(io_addr_parse("127.0.0.1:0", &cfg.addr, NULL), 0);
    assert_int_equal(io_listen(loop, &cfg, upgrade_accept, &u, &l, NULL), 0);
    io_listener_addr(l, &rc.a);
    assert_int_equal(pthread_create(&th, NULL, upgrade_client, &rc), 0);
    assert_true(helper_turn_until(loop, &u.done, 10000));
    pthread_join(th, NULL);
    assert_true(rc.ok);
    assert_false(u.bad);
    assert_int_equal(u.opens, 1);
    assert_true(io_chan_is_tls(u.ch));
    assert_int_equal(io_chan_start_tls_server(u.ch, server_ctx, SEC, NULL),
                     -EINVAL);
    io_chan_close(u.ch);
    io_listener_close(l);
}

/* --- listeners and addresses ---------------------------------------------------------- */

static void
test_unix_socket_file(void **state)
{
    struct end s = { .rnd = 1 };
    char *text = unix_text("l.sock");
    const char *path = text + 5;
    struct io_addr a;
    struct io_listener *l = listen_on(text, NULL, &s, &a), *m = NULL;
    struct io_listen_config cfg = { .addr = a, .unix_mode = 0660 };
    struct err e = ERR_INIT;
    struct stat st;
    int fd;
    struct sockaddr_un sa = { .sun_family = AF_UNIX };
    FILE *fp;

    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_int_equal(io_listen(loop, &cfg, end_accept, &s, &m, &e), -EADDRINUSE);
    assert_string_equal(err_code_text(e.code), "IO-0010");
    io_listener_close(l);
    assert_int_equal(access(path, F_OK), -1);
    /* Left behind by a process that died. */
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    strcpy(sa.sun_path, path);
    assert_int_equal(bind(fd, (struct sockaddr *)&sa, sizeof sa), 0);
    close(fd);
    assert_int_equal(access(path, F_OK), 0);
    umask(0);
    assert_int_equal(io_listen(loop, &cfg, end_accept, &s, &m, &e), 0);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0660);
    io_listener_close(m);
    /* A path that would be cut off is refused: it would name another socket. */
    memset(a.host, 'x', sizeof sa.sun_path);
    a.host[0] = '/';
    a.host[sizeof sa.sun_path] = '\0';
    cfg.addr = a;
    assert_int_equal(io_listen(loop, &cfg, end_accept, &s, &m, &e),
                     -ENAMETOOLONG);
    assert_string_equal(err_code_text(e.code), "IO-0010");
    assert_non_null(strstr(e.msg, "107"));
    assert_int_equal(io_addr_parse(text, &cfg.addr, &e), 0);
    /* Somebody's file is not ours to remove. */
    fp = fopen(path, "we");
    assert_non_null(fp);
    fclose(fp);
    assert_int_equal(io_listen(loop, &cfg, end_accept, &s, &m, &e), -EADDRINUSE);
    assert_int_equal(access(path, F_OK), 0);
    free(text);
}

static void
test_addresses(void **state)
{
    static const struct {
        const char *text, *host;
        unsigned port;
        bool is_unix, ok;
    } t[] = {
        { "unix:/run/x.sock", "/run/x.sock", 0, true, true },
        { "host.example.org:4008", "host.example.org", 4008, false, true },
        { "10.0.0.1:0", "10.0.0.1", 0, false, true },
        { "[fe80::1]:65535", "fe80::1", 65535, false, true },
        { ":9081", "", 9081, false, true },
        { "unix:", NULL, 0, false, false },
        { "host", NULL, 0, false, false },
        { "host:", NULL, 0, false, false },
        { "host:65536", NULL, 0, false, false },
        { "host:1x", NULL, 0, false, false },
        { "host:-1", NULL, 0, false, false },
        { "fe80::1:80", NULL, 0, false, false },
        { "[fe80::1]80", NULL, 0, false, false },
        { "[]:80", NULL, 0, false, false },
        { "[a]b]:80", NULL, 0, false, false },
        { "a b:80", NULL, 0, false, false },
        { "", NULL, 0, false, false },
    };
    struct io_addr a;
    struct err e = ERR_INIT;
    char text[IO_ADDR_TEXT_MAX], longer[600];

    for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
        int rc = io_addr_parse(t[i].text, &a, &e);

        if (!t[i].ok) {
            assert_int_equal(rc, -EINVAL);
            assert_string_equal(err_code_text(e.code), "IO-0007");
            continue;
        }
        assert_int_equal(rc, 0);
        assert_string_equal(a.host, t[i].host);
        assert_int_equal(a.port, t[i].port);
        assert_int_equal(a.is_unix, t[i].is_unix);
        io_addr_format(&a, text);
        assert_string_equal(text, t[i].text);
    }
    memset(longer, 'a', sizeof longer);
    strcpy(longer + sizeof longer - 4, ":80");
    assert_int_equal(io_addr_parse(longer, &a, NULL), -EINVAL);
    memcpy(longer, "unix:", 5);
    assert_int_equal(io_addr_parse(longer, &a, NULL), -EINVAL);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_transfers),
        cmocka_unit_test(test_backpressure),
        cmocka_unit_test(test_half_closed),
        cmocka_unit_test(test_reset),
        cmocka_unit_test(test_tls_cut),
        cmocka_unit_test(test_handshake_bounds),
        cmocka_unit_test(test_connect_failures),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_close_inside_event),
        cmocka_unit_test(test_start_tls),
        cmocka_unit_test(test_unix_socket_file),
        cmocka_unit_test(test_addresses),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
