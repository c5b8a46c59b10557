/* room: common
 * The HTTPS client against a small server in a thread of this program. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <openssl/err.h>

#include "common/bytes.h"
#include "common/httpc.h"
#include "pki_fixture.h"

static struct site london, paris;
static struct leaf manager, replicator, foreign;
static struct pki_trust *trust;

/* One connection at a time; each request is answered by its path. */
struct server {
    pthread_t thread;
    int fd;
    bool greets;         /* in plain text, at once */
    struct tls_ctx *ctx; /* NULL: bare bytes */
    char url[64], path[108];
    int n_connections; /* read after the thread has ended */
    char last[8192];
    uint8_t exported[32];
};

static int
setup(void **state)
{
    struct err e = ERR_INIT;

    (void)state;
    site_make(&london, "london");
    site_make(&paris, "paris");
    leaf_make(&manager, &london, TLS_ROLE_MANAGER, 0, 0, 0);
    leaf_make(&replicator, &london, TLS_ROLE_REPLICATOR, 0, 0, 0);
    leaf_make(&foreign, &paris, TLS_ROLE_REPLICATOR, 0, 0, 0);
    must(pki_trust_new(&trust, &e), &e);
    must(pki_trust_add_root(trust, london.root, &e), &e);
    return 0;
}

static int
teardown(void **state)
{
    (void)state;
    leaf_release(&manager);
    leaf_release(&replicator);
    leaf_release(&foreign);
    pki_trust_free(trust);
    site_release(&london);
    site_release(&paris);
    return 0;
}

static int
srv_read(SSL *ssl, int fd, char *p, int n)
{
    return ssl ? SSL_read(ssl, p, n) : (int)read(fd, p, (size_t)n);
}

static void
srv_write(SSL *ssl, int fd, const char *p, size_t n)
{
    while (n > 0) {
        size_t k = MIN(n, (size_t)65536);
        ssize_t w = ssl ? SSL_write(ssl, p, (int)k) : write(fd, p, k);

        if (w <= 0)
            return;
        p += w;
        n -= (size_t)w;
    }
}

static void
answer(struct server *s, SSL *ssl, int fd, const char *request)
{
    static char big[3 * 1024 * 1024 + 200];
    int n;

    if (strstr(request, " /big "))
        n = snprintf(big, sizeof big,
                     "HTTP/1.1 200 OK\r\nContent-Length: 3145728\r\n\r\n");
    else if (strstr(request, " /headers "))
        n = snprintf(big, sizeof big,
                     "HTTP/1.1 200 OK\r\nX-A: %s%40000s\r\n"
                     "Content-Length: 0\r\n\r\n",
                     "", "x");
    else if (strstr(request, " /garbage "))
        n = snprintf(big, sizeof big, "NBDMAGIC nothing like HTTP\r\n\r\n");
    else if (strstr(request, " /missing "))
        n = snprintf(big, sizeof big,
                     "HTTP/1.1 404 Not Found\r\nX-Empty:\r\n"
                     "X-Note:  a\x1b[1mb\r\nContent-Length: 2\r\n\r\nno");
    else
        n = snprintf(big, sizeof big,
                     "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                     "Content-Length: 11\r\n\r\n{\"ok\":true}");
    if (strstr(request, " /big ")) {
        memset(big + n, 'z', 3145728);
        n += 3145728;
    }
    (void)s;
    srv_write(ssl, fd, big, (size_t)n);
}

/* Read one request with its body; 0 at the end of the connection. */
static int
read_request(struct server *s, SSL *ssl, int fd)
{
    size_t n = 0, body = 0;
    const char *end, *cl;

    for (;;) {
        int k = srv_read(ssl, fd, s->last + n, (int)(sizeof s->last - 1 - n));

        if (k <= 0)
            return 0;
        n += (size_t)k;
        s->last[n] = '\0';
        end = strstr(s->last, "\r\n\r\n");
        if (!end)
            continue;
        cl = strstr(s->last, "Content-Length: ");
        body = cl ? (size_t)atoi(cl + 16) : 0;
        if (n >= (size_t)(end + 4 - s->last) + body)
            return 1;
    }
}

static void
serve_one(struct server *s, int fd)
{
    SSL *ssl = NULL;
    struct err e = ERR_INIT;

    if (s->greets) {
        char c;

        srv_write(NULL, fd, "HTTP/1.1 400 Bad Request\r\n\r\n", 28);
        while (read(fd, &c, 1) == 1)
            continue;
        goto out;
    }
    if (s->ctx) {
        must(tls_ssl_new(s->ctx, NULL, &ssl, &e), &e);
        SSL_set_fd(ssl, fd);
        if (SSL_accept(ssl) != 1) {
            /* What the client has sent meanwhile must be read, or the reset
             * that follows destroys the alert that says why. */
            char c;

            (void)shutdown(fd, SHUT_WR);
            while (read(fd, &c, 1) == 1)
                continue;
            goto out;
        }
        (void)tls_exporter(ssl, "EXPORTER-holdfast-test", s->exported, 32, &e);
    }
    while (read_request(s, ssl, fd)) {
        if (strstr(s->last, " /hang ")) {
            char c;

            (void)srv_read(ssl, fd, &c, 1); /* until the client gives up */
            break;
        }
        if (strstr(s->last, " /drop "))
            break;
        answer(s, ssl, fd, s->last);
    }
out:
    ERR_clear_error();
    SSL_free(ssl);
    (void)close(fd);
}

static void *
serve(void *arg)
{
    struct server *s = arg;

    for (;;) {
        int fd = accept(s->fd, NULL, NULL);

        if (fd < 0)
            return NULL;
        s->n_connections++;
        serve_one(s, fd);
    }
}

static void
server_start(struct server *s, const struct leaf *own,
             enum tls_client_cert mode, const char *unix_path)
{
    struct tls_settings ts = { .side = TLS_SERVER, .client_cert = mode };
    struct sockaddr_in in = { .sin_family = AF_INET };
    struct sockaddr_un un = { .sun_family = AF_UNIX };
    socklen_t len = sizeof in;
    struct err e = ERR_INIT;

    *s = (struct server){ .fd = -1, .greets = !own && !unix_path };
    in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (unix_path) {
        (void)snprintf(un.sun_path, sizeof un.sun_path, "%s", unix_path);
        s->fd = socket(AF_UNIX, SOCK_STREAM, 0);
        assert_int_equal(bind(s->fd, (struct sockaddr *)&un, sizeof un), 0);
        (void)snprintf(s->url, sizeof s->url, "http://local");
    } else {
        s->fd = socket(AF_INET, SOCK_STREAM, 0);
        assert_int_equal(bind(s->fd, (struct sockaddr *)&in, sizeof in), 0);
        assert_int_equal(getsockname(s->fd, (struct sockaddr *)&in, &len), 0);
        (void)snprintf(s->url, sizeof s->url, "https://127.0.0.1:%u",
                       ntohs(in.sin_port));
    }
    if (own) {
        must(tls_ctx_new(&ts, &s->ctx, &e), &e);
        must(tls_ctx_set_own(s->ctx, own->chain, own->key, &e), &e);
        tls_ctx_set_trust(s->ctx, trust);
    }
    assert_int_equal(listen(s->fd, 8), 0);
    assert_int_equal(pthread_create(&s->thread, NULL, serve, s), 0);
}

static void
server_stop(struct server *s)
{
    (void)shutdown(s->fd, SHUT_RDWR); /* ends accept() */
    assert_int_equal(pthread_join(s->thread, NULL), 0);
    (void)close(s->fd);
    tls_ctx_free(s->ctx);
}

static struct tls_ctx *
client_ctx(const struct leaf *own)
{
    struct tls_settings ts = { .side = TLS_CLIENT };
    struct tls_ctx *ctx = NULL;
    struct err e = ERR_INIT;

    must(tls_ctx_new(&ts, &ctx, &e), &e);
    if (own)
        must(tls_ctx_set_own(ctx, own->chain, own->key, &e), &e);
    tls_ctx_set_trust(ctx, trust);
    return ctx;
}

static struct httpc *
client(const char *url, struct tls_ctx *ctx, const struct tls_expect *x)
{
    struct httpc_settings hs = { .base_url = url, .tls = ctx, .expect = x };
    struct httpc *c = NULL;
    struct err e = ERR_INIT;

    must(httpc_new(&hs, &c, &e), &e);
    return c;
}

static void
calls_and_reuses(void **state)
{
    const struct tls_expect x = { .roles = 1U << TLS_ROLE_MANAGER,
                                  .site = &london.id,
                                  .host = "127.0.0.1" };
    const struct httpc_header h[] = { { "x-holdfast-session", "abc" },
                                      { "x-empty", "" } };
    struct httpc_request rq = { .method = "GET", .path = "/v1/x?y=1" };
    struct tls_ctx *ctx = client_ctx(&replicator);
    struct httpc_response rs;
    struct err e = ERR_INIT;
    struct server s;
    struct httpc *c;
    char v[32];

    (void)state;
    server_start(&s, &manager, TLS_CLIENT_CERT_REQUIRED, NULL);
    c = client(s.url, ctx, &x);
    must(httpc_call(c, &rq, &rs, &e), &e);
    assert_int_equal(rs.status, 200);
    assert_string_equal((char *)rs.body.data, "{\"ok\":true}");
    assert_true(rs.has_peer);
    assert_memory_equal(&rs.peer, &manager.who, sizeof rs.peer);
    httpc_response_release(&rs);
    rq = (struct httpc_request){ .method = "POST",
                                 .path = "/v1/y",
                                 .headers = h,
                                 .n_headers = 2,
                                 .body = "{}",
                                 .body_len = 2 };
    must(httpc_call(c, &rq, &rs, &e), &e);
    assert_true(rs.has_peer);
    httpc_response_release(&rs);
    assert_memory_equal(s.last, "POST /v1/y HTTP/1.1\r\n", 21);
    assert_non_null(strstr(s.last, "\r\nx-holdfast-session: abc\r\n"));
    assert_non_null(strstr(s.last, "\r\nx-empty:\r\n"));
    assert_non_null(strstr(s.last, "\r\nContent-Type: application/json\r\n"));
    assert_non_null(strstr(s.last, "\r\n\r\n{}"));
    rq = (struct httpc_request){ .method = "DELETE", .path = "/missing" };
    must(httpc_call(c, &rq, &rs, &e), &e);
    assert_int_equal(rs.status, 404);
    assert_int_equal(httpc_header(&rs, "x-NOTE", v, sizeof v), 0);
    assert_string_equal(v, "a?[1mb");
    assert_int_equal(httpc_header(&rs, "x-empty", v, sizeof v), 0);
    assert_string_equal(v, "");
    assert_int_equal(httpc_header(&rs, "x-none", v, sizeof v), -ENOENT);
    httpc_response_release(&rs);
    assert_memory_equal(s.last, "DELETE /missing HTTP/1.1\r\n", 26);
    httpc_free(c);
    server_stop(&s);
    assert_int_equal(s.n_connections, 1);
    tls_ctx_free(ctx);
}

static int
count(void *arg, const void *p, size_t n)
{
    (void)p;
    *(size_t *)arg += n;
    return *(size_t *)arg > 2 * 1024 * 1024 ? -ECANCELED : 0;
}

static void
bounds(void **state)
{
    static const struct {
        const char *path;
        int rc;
        enum err_code code;
    } t[] = {
        { "/big", -EMSGSIZE, ERR_GEN_0009 },
        { "/headers", -EMSGSIZE, ERR_GEN_0009 },
        { "/garbage", -EPROTO, ERR_GEN_0009 },
        { "/drop", -ECONNRESET, ERR_GEN_0007 },
        { "/hang", -ETIMEDOUT, ERR_GEN_0008 },
        { "/a b", -EINVAL, ERR_GEN_0001 },
        { "/a\r\nX: y", -EINVAL, ERR_GEN_0001 },
        { "http://x/", -EINVAL, ERR_GEN_0001 },
    };
    struct httpc_header evil = { "x", "a\r\nb: c" };
    struct tls_ctx *ctx = client_ctx(&replicator);
    struct httpc_request rq = { .method = "GET" };
    struct httpc_response rs;
    struct err e = ERR_INIT;
    size_t seen = 0;
    struct server s;
    struct httpc *c;

    (void)state;
    server_start(&s, &manager, TLS_CLIENT_CERT_OPTIONAL, NULL);
    c = client(s.url, ctx, NULL);
    for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
        int rc;

        rq.path = t[i].path;
        rq.timeout_ms = strcmp(t[i].path, "/hang") == 0 ? 200 : 10000;
        rc = httpc_call(c, &rq, &rs, &e);
        if (rc != t[i].rc || e.code != t[i].code)
            fail_msg("%s: %d %s", t[i].path, rc, e.msg);
        httpc_response_release(&rs);
    }
    rq.path = "/ok";
    rq.headers = &evil;
    rq.n_headers = 1;
    assert_int_equal(httpc_call(c, &rq, &rs, &e), -EINVAL);
    httpc_response_release(&rs);
    rq = (struct httpc_request){
        .method = "GET", .path = "/big", .on_data = count, .on_data_arg = &seen
    };
    assert_int_equal(httpc_call(c, &rq, &rs, &e), -ECANCELED);
    assert_true(seen > 2 * 1024 * 1024);
    httpc_response_release(&rs);
    httpc_free(c);
    server_stop(&s);
    tls_ctx_free(ctx);
}

static void
refuses_wrong_peers(void **state)
{
    const struct tls_expect role = { .roles = 1U << TLS_ROLE_REPLICATOR };
    const struct tls_expect host = { .host = "other.example.org" };
    const struct {
        const struct leaf *server, *client;
        const struct tls_expect *expect;
        enum tls_client_cert mode;
        int rc;
        enum err_code code;
    } t[] = {
        { &foreign, &replicator, NULL, TLS_CLIENT_CERT_NONE, -EKEYREJECTED,
          ERR_TLS_0004 },
        { &manager, &replicator, &role, TLS_CLIENT_CERT_NONE, -EKEYREJECTED,
          ERR_TLS_0007 },
        { &manager, &replicator, &host, TLS_CLIENT_CERT_NONE, -EKEYREJECTED,
          ERR_TLS_0007 },
        { &manager, &foreign, NULL, TLS_CLIENT_CERT_REQUIRED, -EKEYREJECTED,
          ERR_TLS_0004 },
        { &manager, NULL, NULL, TLS_CLIENT_CERT_REQUIRED, -EKEYREJECTED,
          ERR_TLS_0010 },
        /* a server that speaks in plain text */
        { NULL, NULL, NULL, TLS_CLIENT_CERT_NONE, -EPROTO, ERR_TLS_0013 },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
        struct httpc_request rq = { .method = "GET", .path = "/garbage" };
        struct tls_ctx *ctx = client_ctx(t[i].client);
        struct httpc_response rs;
        struct err e = ERR_INIT;
        struct server s;
        struct httpc *c;
        int rc;

        server_start(&s, t[i].server, t[i].mode, NULL);
        c = client(s.url, ctx, t[i].expect);
        rc = httpc_call(c, &rq, &rs, &e);
        if (rc != t[i].rc || e.code != t[i].code)
            fail_msg("row %zu: %d %s %s", i, rc, err_code_text(e.code), e.msg);
        httpc_response_release(&rs);
        httpc_free(c);
        server_stop(&s);
        tls_ctx_free(ctx);
    }
}

static void
trust_change_ends_old_connections(void **state)
{
    struct httpc_request rq = { .method = "GET", .path = "/ok" };
    struct tls_ctx *ctx = client_ctx(NULL);
    struct pki_trust *none = NULL;
    struct httpc_response rs;
    struct err e = ERR_INIT;
    struct server s;
    struct httpc *c;

    (void)state;
    server_start(&s, &manager, TLS_CLIENT_CERT_NONE, NULL);
    c = client(s.url, ctx, NULL);
    must(httpc_call(c, &rq, &rs, &e), &e);
    httpc_response_release(&rs);
    must(pki_trust_new(&none, &e), &e);
    tls_ctx_set_trust(ctx, none);
    assert_int_equal(httpc_call(c, &rq, &rs, &e), -EKEYREJECTED);
    assert_int_equal(e.code, ERR_TLS_0004);
    httpc_response_release(&rs);
    httpc_free(c);
    server_stop(&s);
    pki_trust_free(none);
    tls_ctx_free(ctx);
}

static int
bound(void *arg, SSL *ssl, const void **out_body, struct err *err)
{
    *out_body = arg;
    return tls_exporter(ssl, "EXPORTER-holdfast-test", arg, 32, err);
}

static int
refuse(void *arg, SSL *ssl, const void **out_body, struct err *err)
{
    (void)arg;
    (void)ssl;
    (void)out_body;
    return err_set(err, -EPERM, ERR_GEN_0001, "no body today");
}

static void
body_bound_to_channel(void **state)
{
    uint8_t body[32] = { 0 };
    struct httpc_request rq = { .method = "POST",
                                .path = "/join",
                                .body_len = sizeof body,
                                .make_body = bound,
                                .make_body_arg = body };
    struct tls_ctx *ctx = client_ctx(NULL);
    struct httpc_response rs;
    struct err e = ERR_INIT;
    struct server s;
    struct httpc *c;

    (void)state;
    server_start(&s, &manager, TLS_CLIENT_CERT_NONE, NULL);
    c = client(s.url, ctx, NULL);
    must(httpc_call(c, &rq, &rs, &e), &e);
    assert_int_equal(rs.status, 200);
    httpc_response_release(&rs);
    assert_memory_equal(body, s.exported, sizeof body);
    assert_non_null(strstr(s.last, "Content-Length: 32\r\n"));
    rq.make_body = refuse;
    assert_int_equal(httpc_call(c, &rq, &rs, &e), -EPERM);
    assert_non_null(strstr(e.msg, "no body today"));
    httpc_response_release(&rs);
    httpc_free(c);
    server_stop(&s);
    tls_ctx_free(ctx);
}

static void
unix_socket(void **state)
{
    char dir[] = "/tmp/holdfast-http-XXXXXX", path[64];
    struct httpc_settings hs = { .base_url = "http://local" };
    struct httpc_request rq = { .method = "GET", .path = "/ok" };
    struct httpc_response rs;
    struct err e = ERR_INIT;
    struct server s;
    struct httpc *c = NULL;

    (void)state;
    assert_non_null(mkdtemp(dir));
    (void)snprintf(path, sizeof path, "%s/sock", dir);
    hs.unix_path = path;
    must(httpc_new(&hs, &c, &e), &e);
    assert_int_equal(httpc_call(c, &rq, &rs, &e), -ENOENT);
    assert_int_equal(e.code, ERR_GEN_0007);
    httpc_response_release(&rs);
    server_start(&s, NULL, TLS_CLIENT_CERT_NONE, path);
    must(httpc_call(c, &rq, &rs, &e), &e);
    assert_int_equal(rs.status, 200);
    assert_false(rs.has_peer);
    httpc_response_release(&rs);
    httpc_free(c);
    server_stop(&s);
    (void)unlink(path);
    (void)rmdir(dir);
}

static void
bad_addresses(void **state)
{
    struct httpc_settings hs = { .base_url = "http://127.0.0.1:1" };
    struct tls_ctx *ctx = client_ctx(NULL);
    struct httpc_request rq = { .method = "GET", .path = "/" };
    struct httpc_response rs;
    struct httpc *c = NULL;
    struct err e = ERR_INIT;

    (void)state;
    hs.tls = ctx;
    assert_int_equal(httpc_new(&hs, &c, &e), -EINVAL); /* no plain HTTP */
    assert_int_equal(e.code, ERR_GEN_0007);
    hs.base_url = "https://127.0.0.1:1";
    hs.tls = NULL;
    assert_int_equal(httpc_new(&hs, &c, &e), -EINVAL); /* no trust */
    c = client("https://127.0.0.1:1", ctx, NULL);
    assert_int_equal(httpc_call(c, &rq, &rs, &e), -ECONNREFUSED);
    assert_int_equal(e.code, ERR_GEN_0007);
    assert_non_null(strstr(e.msg, "https://127.0.0.1:1: "));
    httpc_response_release(&rs);
    httpc_free(c);
    tls_ctx_free(ctx);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(calls_and_reuses),
        cmocka_unit_test(bounds),
        cmocka_unit_test(refuses_wrong_peers),
        cmocka_unit_test(trust_change_ends_old_connections),
        cmocka_unit_test(body_bound_to_channel),
        cmocka_unit_test(unix_socket),
        cmocka_unit_test(bad_addresses),
    };

    (void)signal(SIGPIPE, SIG_IGN); /* as every program of ours does */
    return cmocka_run_group_tests_name("httpc", tests, setup, teardown);
}
