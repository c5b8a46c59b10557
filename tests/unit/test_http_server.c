/* room: http common */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/bytes.h"
#include "common/log.h"
#include "http/http_server.h"

/* A server on a thread of its own, as the replicator runs it. */
static struct http_loop *loop;
static struct http_server *server, *patient; /* short and long time limits */
static struct tls_ctx *server_tls, *client_tls;
static struct pki_trust *trust;
static pthread_t thread;
static uint16_t port, patient_port;
static char dir[] = "/tmp/hf-http.XXXXXX", path[64];

static void
handle_echo(struct http_req *rq, void *ctx)
{
    const struct buf *b = http_req_body(rq);

    http_reply(rq, 200, (const char *)b->data, b->len);
}

static void
handle_json(struct http_req *rq, void *ctx)
{
    const cJSON *tree;
    const char *name = "none";

    if (http_req_json(rq, &tree) < 0)
        return;
    (void)json_str(tree, "Name", JSON_OPTIONAL, &name, NULL);
    http_reply_text(rq, 200, name);
}

static void
handle_who(struct http_req *rq, void *ctx)
{
    uint8_t key[8];
    char hex[17];
    struct err err = ERR_INIT;

    if (http_req_exporter(rq, "EXPORTER-test", key, sizeof key, &err) < 0) {
        http_reply_err(rq, http_status_of(err.num), &err);
        return;
    }
    hex_encode(key, sizeof key, hex);
    http_reply_header(rq, "x-exported", hex);
    http_reply_text(rq, 200,
                    http_req_peer(rq) ? tls_role_name(http_req_peer(rq)->role)
                                      : "nobody");
}

/* The server belongs to its loop's thread: it is asked there. */
static void
handle_count(struct http_req *rq, void *ctx)
{
    char text[24];

    (void)snprintf(text, sizeof text, "%u", http_server_connections(server));
    http_reply_text(rq, 200, text);
}

static void *
answer_later(void *arg)
{
    struct http_req *rq = arg;

    http_reply_post(rq, 200, "\"later\"", 7);
    return NULL;
}

static void
handle_later(struct http_req *rq, void *ctx)
{
    pthread_t t;

    assert_int_equal(pthread_create(&t, NULL, answer_later, rq), 0);
    assert_int_equal(pthread_detach(t), 0);
}

static void
handle_huge(struct http_req *rq, void *ctx)
{
    struct buf b;

    buf_init(&b, 100);
    (void)buf_addf(&b, "%0200d", 1);
    http_reply_buf(rq, 200, &b);
}

static int
gate(struct http_req *rq, const struct http_route *route, void *ctx)
{
    if (!route->privilege || http_req_header(rq, "x-key"))
        return 0;
    http_reply_fail(rq, 401, ERR_API_0006, "log in first");
    return -1;
}

static const struct http_route table[] = {
    { "POST", "/echo", 0, 70000, handle_echo, "" },
    { "POST", "/small", 0, 16, handle_echo, "" },
    { "POST", "/json", 0, 0, handle_json, "" },
    { "POST", "/locked", 1, 0, handle_echo, "" },
    { "GET", "/who", 0, 0, handle_who, "" },
    { "GET", "/count", 0, 0, handle_count, "" },
    { "GET", "/later", 0, 0, handle_later, "" },
    { "GET", "/huge", 0, 0, handle_huge, "" },
    { NULL, NULL, 0, 0, NULL, NULL },
};
static const struct http_route *const tables[] = { table };
static const struct http_router router = { tables, 1 };

static void *
run(void *arg)
{
    assert_int_equal(http_loop_run(loop, NULL), 0);
    return NULL;
}

/* --- certificates ------------------------------------------------------------- */

static X509 *root, *ca;
static EVP_PKEY *root_key, *ca_key;
static struct uuid deployment, site;

static void
make_own(struct tls_ctx *ctx, enum tls_role role)
{
    struct pki_leaf leaf = { .who = { deployment, site, role, { { 0 } } },
                             .name = "x" };
    STACK_OF(X509) *chain = sk_X509_new_null();
    EVP_PKEY *key;
    X509 *cert;

    assert_int_equal(pki_uuid(&leaf.who.id, NULL), 0);
    assert_int_equal(pki_key_new(PKI_P256, &key, NULL), 0);
    assert_int_equal(pki_sign_leaf(ca, ca_key, key, &leaf, (uint64_t)time(NULL),
                                   &cert, NULL),
                     0);
    sk_X509_push(chain, cert);
    sk_X509_push(chain, ca);
    sk_X509_push(chain, root);
    assert_int_equal(tls_ctx_set_own(ctx, chain, key, NULL), 0);
    sk_X509_free(chain);
    X509_free(cert);
    EVP_PKEY_free(key);
}

static void
make_trust(void)
{
    uint64_t now = (uint64_t)time(NULL);
    struct tls_settings s = { .side = TLS_SERVER,
                              .client_cert = TLS_CLIENT_CERT_OPTIONAL };
    struct tls_settings c = { .side = TLS_CLIENT };

    assert_int_equal(pki_uuid(&deployment, NULL), 0);
    assert_int_equal(pki_uuid(&site, NULL), 0);
    assert_int_equal(pki_key_new(PKI_P384, &root_key, NULL), 0);
    assert_int_equal(pki_key_new(PKI_P256, &ca_key, NULL), 0);
    assert_int_equal(pki_make_root(&deployment, "r", root_key, now, &root, NULL),
                     0);
    assert_int_equal(pki_make_site_ca(root, root_key, &site, "s", ca_key, now,
                                      &ca, NULL),
                     0);
    assert_int_equal(pki_trust_new(&trust, NULL), 0);
    assert_int_equal(pki_trust_add_root(trust, root, NULL), 0);
    assert_int_equal(tls_ctx_new(&s, &server_tls, NULL), 0);
    assert_int_equal(tls_ctx_new(&c, &client_tls, NULL), 0);
    make_own(server_tls, TLS_ROLE_MANAGER);
    make_own(client_tls, TLS_ROLE_REPLICATOR);
    tls_ctx_set_trust(server_tls, trust);
    tls_ctx_set_trust(client_tls, trust);
}

static int
setup(void **state)
{
    struct http_settings set = { .router = &router,
                                 .gate = gate,
                                 .head_timeout_ms = 400,
                                 .body_timeout_ms = 400,
                                 .idle_timeout_ms = 400,
                                 .max_connections = 20 };
    struct http_settings longer = { .router = &router, .gate = gate };
    struct err err = ERR_INIT;

    assert_non_null(mkdtemp(dir));
    (void)snprintf(path, sizeof path, "%s/s.sock", dir);
    log_set_level(LOG_ERROR);
    make_trust();
    assert_int_equal(http_loop_new(&loop, NULL), 0);
    assert_int_equal(http_server_new(loop, &set, &server, NULL), 0);
    assert_int_equal(http_server_listen_unix(server, path, NULL), 0);
    assert_int_equal(http_server_listen_tls(server, "127.0.0.1", 0, server_tls,
                                            &port, &err),
                     0);
    /* taken, or impossible: the address is named */
    assert_true(http_server_listen_tls(server, "127.0.0.1", port, server_tls,
                                       NULL, &err) < 0);
    assert_true(err.code == ERR_API_0017);
    assert_int_equal(http_server_listen_unix(server, path, &err), -EADDRINUSE);
    assert_int_equal(http_server_new(loop, &longer, &patient, NULL), 0);
    assert_int_equal(http_server_listen_tls(patient, "127.0.0.1", 0, server_tls,
                                            &patient_port, &err),
                     0);
    assert_int_equal(pthread_create(&thread, NULL, run, NULL), 0);
    return 0;
}

static int
teardown(void **state)
{
    http_loop_stop(loop);
    assert_int_equal(pthread_join(thread, NULL), 0);
    http_server_free(server);
    http_server_free(patient);
    http_loop_free(loop);
    tls_ctx_free(server_tls);
    tls_ctx_free(client_tls);
    pki_trust_free(trust);
    X509_free(root);
    X509_free(ca);
    EVP_PKEY_free(root_key);
    EVP_PKEY_free(ca_key);
    assert_int_equal(access(path, F_OK), -1);
    assert_int_equal(rmdir(dir), 0);
    return 0;
}

/* --- clients -------------------------------------------------------------------- */

static int
dial_unix(void)
{
    struct sockaddr_un a = { .sun_family = AF_UNIX };
    struct timeval tv = { .tv_sec = 10 };
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    (void)snprintf(a.sun_path, sizeof a.sun_path, "%s", path);
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv);
    return fd;
}

static int
dial_tcp(uint16_t to)
{
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(to) };
    struct timeval tv = { .tv_sec = 10 };
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv);
    return fd;
}

static void
put(int fd, const char *text)
{
    assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), strlen(text));
}

/* Read until the other side closes. */
static const char *
get_all(int fd)
{
    static char text[256 * 1024];
    size_t n = 0;
    ssize_t r;

    while ((r = recv(fd, text + n, sizeof text - 1 - n, 0)) > 0)
        n += (size_t)r;
    assert_int_equal(r, 0); /* not a reset, not a time-out */
    text[n] = '\0';
    close(fd);
    return text;
}

static const char *
ask(const char *request)
{
    int fd = dial_unix();

    put(fd, request);
    assert_int_equal(shutdown(fd, SHUT_WR), 0);
    return get_all(fd);
}

#define HOST "Host: x\r\n"
#define END  "Connection: close\r\n\r\n"

static void
assert_answer(const char *got, const char *status, const char *part)
{
    char line[64];

    (void)snprintf(line, sizeof line, "HTTP/1.1 %s ", status);
    if (strncmp(got, line, strlen(line)) != 0 || (part && !strstr(got, part)))
        fail_msg("wanted %s and %s in: %s", line, part ? part : "-", got);
    assert_non_null(strstr(got, "\r\nx-holdfast-request: "));
}

static int
open_and_send(const char *text)
{
    int fd = dial_unix();

    put(fd, text);
    return fd;
}

static void
answers(void **state)
{
    const char *a;

    (void)state;
    a = get_all(open_and_send("POST /echo HTTP/1.1\r\n" HOST
                              "Content-Length: 3\r\n" END "\"a\""));
    assert_answer(a, "200", "\r\n\r\n\"a\"");
    assert_non_null(strstr(a, "Content-Type: application/json\r\n"));
    assert_non_null(strstr(a, "Cache-Control: no-store\r\n"));
    a = get_all(open_and_send("POST /echo HTTP/1.1\r\n" HOST END));
    assert_answer(a, "200", "Content-Length: 0\r\n");
    assert_null(strstr(a, "\r\nContent-Type"));
    a = get_all(open_and_send("POST /echo HTTP/1.1\r\n" HOST
                              "Transfer-Encoding: chunked\r\n" END
                              "1\r\n1\r\n2\r\n23\r\n0\r\n\r\n"));
    assert_answer(a, "200", "\r\n\r\n123");
    a = get_all(open_and_send("GET /later HTTP/1.0\r\n\r\n"));
    assert_answer(a, "200", "\r\n\r\n\"later\"");
    assert_answer(get_all(open_and_send("GET /huge HTTP/1.0\r\n\r\n")), "500",
                  "API-0016");
    /* three at once on one connection, a blank target prefix, then the end */
    a = get_all(open_and_send(
        "POST /echo HTTP/1.1\r\n" HOST "Content-Length: 1\r\n\r\n1"
        "POST //ECHO/ HTTP/1.1\r\n" HOST "Content-Length: 1\r\n\r\n2"
        "POST /echo HTTP/1.1\r\n" HOST "Content-Length: 1\r\n" END "3"));
    assert_non_null(strstr(a, "\r\n\r\n1HTTP/1.1 200 "));
    assert_non_null(strstr(a, "\r\n\r\n2HTTP/1.1 200 "));
    assert_non_null(strstr(a, "\r\n\r\n3"));
    /* a body that waits for leave */
    {
        int fd =
            open_and_send("POST /echo HTTP/1.1\r\n" HOST
                          "Expect: 100-continue\r\nContent-Length: 1\r\n" END);
        char go_on[26] = "";

        assert_int_equal(recv(fd, go_on, 25, MSG_WAITALL), 25);
        assert_string_equal(go_on, "HTTP/1.1 100 Continue\r\n\r\n");
        put(fd, "7");
        assert_answer(get_all(fd), "200", "\r\n\r\n7");
    }
}

static void
json_bodies(void **state)
{
    static const struct {
        const char *body, *status, *part;
    } set[] = {
        { "{\"name\":\"x\"}", "200", "\"x\"" },
        { "", "200", "\"none\"" },
        { " \r\n", "200", "\"none\"" },
        { "null", "200", "\"none\"" },
        { "\"\"", "200", "\"none\"" },
        { "{}", "200", "\"none\"" },
        { "[]", "400", "API-0010" },
        { "1", "400", "API-0010" },
        { "\"x\"", "400", "API-0010" },
        { "{", "400", "JSN-0001" },
        { "{\"a\":1,\"A\":2}", "400", "JSN-0003" },
        { "{\"a\":\"\\u0000\"}", "400", "JSN-0001" },
        { "\xff", "400", "JSN-0001" },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(set); i++) {
        char text[400];

        (void)snprintf(text, sizeof text,
                       "POST /json HTTP/1.1\r\n" HOST
                       "Content-Length: %zu\r\n" END "%s",
                       strlen(set[i].body), set[i].body);
        assert_answer(get_all(open_and_send(text)), set[i].status, set[i].part);
    }
}

static void
refusals(void **state)
{
    static const struct {
        const char *text, *status, *code;
    } set[] = {
        { "GET /none HTTP/1.1\r\n" HOST END, "404", "API-0004" },
        { "GET /echo HTTP/1.1\r\n" HOST END, "405", "Allow: POST\r\n" },
        { "GET /echo HTTP/1.1\r\n" HOST END, "405", "API-0005" },
        { "GET /%00 HTTP/1.1\r\n" HOST END, "400", "API-0003" },
        { "GET / HTTP/1.1\r\n" HOST HOST END, "400", "API-0001" },
        { "GET / HTTP/1.1\r\n" HOST "A: b\r\n c\r\n" END, "400", "API-0001" },
        { "POST /echo HTTP/1.1\r\n" HOST
          "Content-Length: 1\r\nContent-Length: 2\r\n" END "ab",
          "400", "API-0001" },
        { "POST /echo HTTP/1.1\r\n" HOST
          "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n" END "0\r\n\r\n",
          "400", "API-0001" },
        { "POST /small HTTP/1.1\r\n" HOST "Content-Length: 17\r\n" END
          "12345678901234567",
          "413", "API-0002" },
        { "POST /small HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n" END
          "11\r\n12345678901234567\r\n0\r\n\r\n",
          "413", "API-0002" },
        { "POST /echo HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n" END
          "zz\r\n",
          "400", "API-0001" },
        { "POST /locked HTTP/1.1\r\n" HOST "Content-Length: 3\r\n" END "abc",
          "401", "API-0006" },
        { "POST /locked HTTP/1.1\r\n" HOST "Content-Length: 9999999\r\n" END
          "abc",
          "401", "API-0006" },
        { "GET / HTTP/3.0\r\n" HOST END, "505", "API-0001" },
        { "BREW / HTTP/1.1\r\n" HOST END, "404", NULL },
        { "\x16\x03\x01", "400", NULL },
        { "SSH-2.0-x\n", "400", NULL },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(set); i++) {
        if (strncmp(set[i].text, "\x16\x03", 2) == 0)
            continue;
        assert_answer(get_all(open_and_send(set[i].text)), set[i].status,
                      set[i].code);
    }
    /* refused before its small body was read, the connection goes on */
    {
        const char *a = get_all(open_and_send(
            "POST /locked HTTP/1.1\r\n" HOST "Content-Length: 3\r\n\r\nabc"
            "POST /echo HTTP/1.1\r\n" HOST "Content-Length: 1\r\n" END "5"));

        assert_answer(a, "401", NULL);
        assert_non_null(strstr(a, "\r\n\r\n5"));
    }
}

static uint64_t
elapsed_since(uint64_t start)
{
    return http_loop_now_ms() - start;
}

static void
slow_and_huge(void **state)
{
    uint64_t start = http_loop_now_ms();
    static char big[HTTP_HEAD_MAX + 100];
    int fd;

    (void)state;
    assert_answer(get_all(open_and_send("GET / HTTP/1.1\r\nHost")), "408",
                  "API-0011");
    assert_true(elapsed_since(start) >= 350 && elapsed_since(start) < 5000);
    /* a byte at a time does not push the deadline away */
    start = http_loop_now_ms();
    fd = dial_unix();
    for (int i = 0; i < 100; i++) {
        struct pollfd p = { .fd = fd, .events = POLLIN };

        if (send(fd, "G", 1, MSG_NOSIGNAL) != 1 || poll(&p, 1, 20) == 1)
            break;
    }
    assert_true(elapsed_since(start) < 1500);
    close(fd);
    assert_answer(get_all(open_and_send("POST /echo HTTP/1.1\r\n" HOST
                                        "Content-Length: 5\r\n\r\nab")),
                  "408", "API-0011");
    /* nothing sent at all: closed without a word */
    assert_string_equal(get_all(dial_unix()), "");
    memset(big, 'a', sizeof big - 1);
    assert_answer(get_all(open_and_send(big)), "431", "API-0002");
    /* the client leaves while its request is being handled */
    fd = open_and_send("GET /later HTTP/1.1\r\n" HOST "\r\n");
    close(fd);
    assert_answer(ask("POST /echo HTTP/1.1\r\n" HOST END), "200", NULL);
}

static void
too_many(void **state)
{
    int fds[60];
    const char *count;

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
        fds[i] = dial_unix();
    /* a good client is served: an idle one had to go */
    assert_answer(ask("POST /echo HTTP/1.1\r\n" HOST END), "200", NULL);
    count = strstr(ask("GET /count HTTP/1.1\r\n" HOST END), "\r\n\r\n\"");
    assert_non_null(count);
    assert_in_range(strtoul(count + 5, NULL, 10), 1, 20);
    for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
        close(fds[i]);
}

/* --- TLS ---------------------------------------------------------------------------- */

static const char *
ask_tls(struct tls_ctx *ctx, const char *request, char *exported, int *out_rc)
{
    static char text[8192];
    struct err err = ERR_INIT;
    int fd = dial_tcp(patient_port), n = 0, r;
    SSL *ssl;

    assert_int_equal(tls_ssl_new(ctx, NULL, &ssl, NULL), 0);
    assert_int_equal(SSL_set_fd(ssl, fd), 1);
    *out_rc = SSL_connect(ssl);
    text[0] = '\0';
    if (*out_rc == 1) {
        if (exported) {
            uint8_t key[8];

            assert_int_equal(tls_exporter(ssl, "EXPORTER-test", key, sizeof key,
                                          &err),
                             0);
            hex_encode(key, sizeof key, exported);
        }
        (void)SSL_write(ssl, request, (int)strlen(request));
        while ((r = SSL_read(ssl, text + n, (int)sizeof text - 1 - n)) > 0)
            n += r;
        text[n] = '\0';
    }
    SSL_free(ssl);
    close(fd);
    return text;
}

static void
over_tls(void **state)
{
    struct tls_settings cs = { .side = TLS_CLIENT };
    struct tls_ctx *bare;
    char exported[17], line[64];
    const char *a;
    int rc;

    (void)state;
    a = ask_tls(client_tls, "GET /who HTTP/1.1\r\n" HOST END, exported, &rc);
    assert_int_equal(rc, 1);
    (void)snprintf(line, sizeof line, "x-exported: %s\r\n", exported);
    assert_answer(a, "200", line);
    assert_answer(a, "200", "\"replicator\"");
    assert_int_equal(tls_ctx_new(&cs, &bare, NULL), 0);
    tls_ctx_set_trust(bare, trust);
    assert_answer(ask_tls(bare, "GET /who HTTP/1.1\r\n" HOST END, NULL, &rc),
                  "200", "\"nobody\"");
    tls_ctx_free(bare);
    /* without TLS there is nothing to export */
    assert_answer(ask("GET /who HTTP/1.1\r\n" HOST END), "400", "API-0001");
}

/* Plain HTTP to the TLS port: closed, and not a word of HTTP comes back. */
static void
plaintext_to_tls(void **state)
{
    static const char *const set[] = { "GET /who HTTP/1.1\r\n" HOST END,
                                       "\r\n\r\n", "SSH-2.0-x\r\n",
                                       "\x16\x03\x01\x00\x05hello" };

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(set); i++) {
        int fd = dial_tcp(port);
        char text[512];
        ssize_t n;

        put(fd, set[i]);
        n = recv(fd, text, sizeof text - 1, 0);
        text[n > 0 ? n : 0] = '\0';
        assert_null(strstr(text, "HTTP"));
        close(fd);
    }
    assert_string_equal(get_all(dial_tcp(port)), ""); /* no handshake at all */
}

/* A certificate revoked while its connection is open. */
struct recheck {
    struct http_post post;
    unsigned closed;
    bool done;
};

static void
recheck_now(void *arg)
{
    struct recheck *r = arg;

    r->closed = http_server_recheck(patient);
    __atomic_store_n(&r->done, true, __ATOMIC_RELEASE);
}

static void
trust_withdrawn(void **state)
{
    struct recheck r = { .post = { .fn = recheck_now, .arg = &r } };
    struct pki_trust *none;
    struct timespec ms = { .tv_nsec = 1000000 };
    int fd = dial_tcp(patient_port);
    char c;
    SSL *ssl;

    (void)state;
    assert_int_equal(tls_ssl_new(client_tls, NULL, &ssl, NULL), 0);
    SSL_set_fd(ssl, fd);
    assert_int_equal(SSL_connect(ssl), 1);
    assert_true(SSL_write(ssl, "GET /who HTTP/1.1\r\n" HOST "\r\n", 31) > 0);
    assert_int_equal(SSL_read(ssl, &c, 1), 1);
    assert_int_equal(pki_trust_new(&none, NULL), 0);
    tls_ctx_set_trust(server_tls, none);
    http_loop_post(loop, &r.post);
    while (!__atomic_load_n(&r.done, __ATOMIC_ACQUIRE))
        nanosleep(&ms, NULL);
    assert_int_equal(r.closed, 1);
    while (SSL_read(ssl, &c, 1) == 1)
        ; /* the rest of the answer, then the end */
    SSL_free(ssl);
    close(fd);
    tls_ctx_set_trust(server_tls, trust);
    pki_trust_free(none);
}

/* The loop ends in the very turn in which libevent has put off a connection's
 * bytes: the connection ends with its server all the same. */
static void
ends_with_bytes_read(void **state)
{
    struct http_settings set = { .router = &router };
    struct sockaddr_un a = { .sun_family = AF_UNIX };
    struct timeval tv = { .tv_sec = 5 };
    struct http_loop *own;
    struct http_server *s;
    char c;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    (void)state;
    (void)snprintf(a.sun_path, sizeof a.sun_path, "%s/own.sock", dir);
    assert_int_equal(http_loop_new(&own, NULL), 0);
    assert_int_equal(http_server_new(own, &set, &s, NULL), 0);
    assert_int_equal(http_server_listen_unix(s, a.sun_path, NULL), 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv);
    assert_int_equal(event_base_loop(http_loop_base(own), EVLOOP_NONBLOCK), 0);
    assert_int_equal(http_server_connections(s), 1);
    put(fd, "GET /who HTTP/1.1\r\n" HOST END); /* ready first, */
    http_loop_stop(own);                       /* then this */
    assert_int_equal(http_loop_run(own, NULL), 0);
    http_server_free(s);
    http_loop_free(own);
    assert_int_equal(recv(fd, &c, 1, 0), 0);
    close(fd);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers),
        cmocka_unit_test(json_bodies),
        cmocka_unit_test(refusals),
        cmocka_unit_test(slow_and_huge),
        cmocka_unit_test(too_many),
        cmocka_unit_test(over_tls),
        cmocka_unit_test(plaintext_to_tls),
        cmocka_unit_test(trust_withdrawn),
        cmocka_unit_test(ends_with_bytes_read),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
