/* room: http common */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/bytes.h"
#include "http/http_route.h"
#include "http/http_server.h"

static int
parse(const char *text, struct http_head *h, struct err *err)
{
    static char copy[HTTP_HEAD_MAX + 1];
    size_t n = strlen(text), scanned = 0;
    int end;

    memcpy(copy, text, n + 1);
    end = http_head_find(copy, n, &scanned);
    if (end < 0)
        return end;
    assert_int_equal(end, n);
    return http_head_parse(copy, n, h, err);
}

static void
good_heads(void **state)
{
    struct http_head h;

    (void)state;
    assert_int_equal(parse("POST /v1/vpgs?name=a%20b HTTP/1.1\r\nHost: x:9669\r\n"
                           "content-length:  12 \r\nX-Zerto-Session: abc\r\n\r\n",
                           &h, NULL),
                     0);
    assert_string_equal(h.method, "POST");
    assert_string_equal(h.target, "/v1/vpgs?name=a%20b");
    assert_string_equal(h.host, "x:9669");
    assert_int_equal(h.length, 12);
    assert_true(h.keep_alive);
    assert_false(h.chunked);
    assert_string_equal(http_head_get(&h, "x-zerto-session"), "abc");
    assert_null(http_head_get(&h, "accept"));
    assert_int_equal(parse("GET / HTTP/1.0\r\n\r\n", &h, NULL), 0);
    assert_false(h.keep_alive);
    assert_int_equal(parse("GET / HTTP/1.0\r\nConnection: foo, Keep-Alive\r\n\r\n",
                           &h, NULL),
                     0);
    assert_true(h.keep_alive);
    assert_int_equal(parse("PUT / HTTP/1.1\r\nHost:\r\nTransfer-Encoding: Chunked\r\n"
                           "Expect: 100-continue\r\nConnection: close\r\n\r\n",
                           &h, NULL),
                     0);
    assert_true(h.chunked && h.expect_continue && !h.keep_alive);
    assert_string_equal(h.host, "");
}

#define GET11 "GET / HTTP/1.1\r\nHost: x\r\n"

static void
smuggling_set(void **state)
{
    static const struct {
        const char *text;
        int status; /* of the parser, or a negative errno of the finder */
    } table[] = {
        { GET11 "Content-Length: 3\r\nContent-Length: 4\r\n\r\n", 400 },
        { GET11 "Content-Length: 3\r\nContent-Length: 3\r\n\r\n", 400 },
        { GET11 "Content-Length: 3, 3\r\n\r\n", 400 },
        { GET11 "Content-Length: +3\r\n\r\n", 400 },
        { GET11 "Content-Length: 0x3\r\n\r\n", 400 },
        { GET11 "Content-Length: -1\r\n\r\n", 400 },
        { GET11 "Content-Length:\r\n\r\n", 400 },
        { GET11 "Content-Length: 99999999999999999999\r\n\r\n", 400 },
        { GET11 "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", 400 },
        { GET11
          "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
          400 },
        { GET11 "Transfer-Encoding: xchunked\r\n\r\n", 501 },
        { GET11 "Transfer-Encoding: gzip, chunked\r\n\r\n", 501 },
        { GET11 "Transfer-Encoding:\r\n\r\n", 501 },
        { GET11 "Transfer-Encoding : chunked\r\n\r\n", 400 },
        { "GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400 },
        { GET11 "X-A: 1\r\n folded\r\n\r\n", 400 },
        { GET11 "X-A: 1\r\n\tfolded\r\n\r\n", 400 },
        { "GET / HTTP/1.1\r\n Host: x\r\n\r\n", 400 },
        { GET11 "Host: y\r\n\r\n", 400 },
        { "GET / HTTP/1.1\r\n\r\n", 400 },
        { GET11 "no colon\r\n\r\n", 400 },
        { GET11 ": empty\r\n\r\n", 400 },
        { GET11 "a b: c\r\n\r\n", 400 },
        { GET11 "X-A: \x01\r\n\r\n", 400 },
        { GET11 "X-A: \x7f\r\n\r\n", 400 },
        { GET11 "Expect: 200-ok\r\n\r\n", 417 },
        { "GET /\r\nHost: x\r\n\r\n", 400 },
        { "GET  / HTTP/1.1\r\nHost: x\r\n\r\n", 400 },
        { "GET / HTTP/1.1 \r\nHost: x\r\n\r\n", 505 },
        { "GET / HTTP/2.0\r\nHost: x\r\n\r\n", 505 },
        { "GET / http/1.1\r\nHost: x\r\n\r\n", 400 },
        { "G(T / HTTP/1.1\r\nHost: x\r\n\r\n", 400 },
        { "ABCDEFGHIJKLMNOPQ / HTTP/1.1\r\nHost: x\r\n\r\n", 400 },
        { " GET / HTTP/1.1\r\nHost: x\r\n\r\n", 400 },
        { "GET /\xc3\xa4 HTTP/1.1\r\nHost: x\r\n\r\n", 400 },
        { "GET / HTTP/1.1\nHost: x\r\n\r\n", -EBADMSG },
        { "GET / HTTP/1.1\r\nHost: x\n\r\n", -EBADMSG },
        { "GET / HTTP/1.1\r\nHost: x\r\r\n\r\n", -EBADMSG },
        { "GET / HTTP/1.1\r\nA: b\rHost: x\r\n\r\n", -EBADMSG },
        { "\nGET", -EBADMSG },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
        struct http_head h = { .method = "untouched" };
        struct err err = ERR_INIT;
        int rc = parse(table[i].text, &h, &err);

        if (rc != table[i].status)
            fail_msg("%s: %d, not %d", table[i].text, rc, table[i].status);
        if (rc > 0)
            assert_true(err.code == ERR_API_0001);
        assert_string_equal(h.method, "untouched");
    }
}

static void
sizes(void **state)
{
    static char text[HTTP_HEAD_MAX * 2];
    struct http_head h;
    struct err err = ERR_INIT;
    size_t scanned = 0, n;

    (void)state;
    memset(text, 'a', sizeof text);
    assert_int_equal(http_head_find(text, 100, &scanned), 0);
    assert_int_equal(scanned, 100);
    assert_int_equal(http_head_find(text, HTTP_HEAD_MAX, &scanned), -EMSGSIZE);
    n = (size_t)sprintf(text, GET11);
    for (int i = 0; i < HTTP_HEADERS_MAX; i++)
        n += (size_t)sprintf(text + n, "a: b\r\n");
    strcpy(text + n, "\r\n");
    assert_int_equal(parse(text, &h, &err), 431);
    assert_true(err.code == ERR_API_0002);
    /* every beginning of a good head is "not yet" */
    strcpy(text, GET11 "\r\n");
    for (n = 0; n < strlen(text); n++) {
        scanned = 0;
        assert_int_equal(http_head_find(text, n, &scanned), 0);
    }
}

static void
chunked(void **state)
{
    static const struct {
        const char *text;
        int rc;
        const char *body;
    } table[] = {
        { "3\r\nabc\r\n0\r\n\r\n", 13, "abc" },
        { "1\r\na\r\n00A\r\n0123456789\r\n0\r\n\r\nNEXT", 28, "a0123456789" },
        { "0\r\n\r\n", 5, "" },
        { "3;x=y\r\nabc\r\n0\r\n\r\n", -EBADMSG, NULL },
        { "\r\n", -EBADMSG, NULL },
        { "-1\r\n", -EBADMSG, NULL },
        { "3 \r\nabc", -EBADMSG, NULL },
        { "3\nabc", -EBADMSG, NULL },
        { "3\r\nabcd\r\n", -EBADMSG, NULL },
        { "0\r\nTrailer: x\r\n\r\n", -EBADMSG, NULL },
        { "123456789\r\n", -EBADMSG, NULL },
        { "FF\r\n0123456789012345678901234567890123456789", -EMSGSIZE, NULL },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
        for (int bytewise = 0; bytewise < 2; bytewise++) {
            struct http_chunked c = { .state = CHUNK_SIZE };
            const char *p = table[i].text;
            size_t n = strlen(p), used = 0;
            struct buf body;
            int rc = 0;

            buf_init(&body, 32);
            while (used < n && rc >= 0 && c.state != CHUNK_DONE) {
                rc = http_chunked_feed(&c, p + used, bytewise ? 1 : n - used,
                                       &body);
                used += rc > 0 ? (size_t)rc : 0;
            }
            if (table[i].rc < 0) {
                assert_int_equal(rc, table[i].rc);
            } else {
                assert_int_equal(used, table[i].rc);
                assert_int_equal(c.state, CHUNK_DONE);
                assert_int_equal(body.len, strlen(table[i].body));
                assert_memory_equal(body.data ? body.data : (const uint8_t *)"",
                                    table[i].body, body.len);
            }
            buf_release(&body);
        }
    }
}

static void
targets(void **state)
{
    static const char *const bad[] = {
        "v1",      "*",        "/a%",
        "/a%2",    "/a%zz",    "/a%00",
        "/%0a",    "/a/../b",  "/%2e%2e",
        "/./a",    "/%ff",     "/a#b",
        "/?a=%ff", "/a?b=%0d", "/1/2/3/4/5/6/7/8/9/10/11/12/13",
    };
    struct http_target t;
    struct err err = ERR_INIT;

    (void)state;
    assert_int_equal(
        http_target_parse("//v1//vms/a%2Fb%20c/?Name=x+y&EMPTY=&flag&u=%C3%A4",
                          &t, NULL),
        0);
    assert_int_equal(t.n_segments, 3);
    assert_string_equal(t.segments[2], "a/b c");
    assert_string_equal(http_target_param(&t, "name"), "x y");
    assert_string_equal(http_target_param(&t, "empty"), "");
    assert_string_equal(http_target_param(&t, "Flag"), "");
    assert_string_equal(http_target_param(&t, "u"), "\xc3\xa4");
    assert_null(http_target_param(&t, "none"));
    http_target_release(&t);
    assert_int_equal(http_target_parse("https://host:1/v1/x?a=1", &t, NULL), 0);
    assert_int_equal(t.n_segments, 2);
    http_target_release(&t);
    assert_int_equal(http_target_parse("http://host", &t, NULL), 0);
    assert_int_equal(t.n_segments, 0);
    http_target_release(&t);
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        if (http_target_parse(bad[i], &t, &err) != -EINVAL)
            fail_msg("%s was accepted", bad[i]);
        assert_true(err.code == ERR_API_0003);
    }
}

static void
nothing(struct http_req *rq, void *ctx)
{
}

static const struct http_route table1[] = {
    { "GET", "/v1/vpgs", 0, 0, nothing, "a" },
    { "GET", "/v1/vpgs/{vpg}", 0, 0, nothing, "b" },
    { "DELETE", "/v1/vpgs/{vpg}", 0, 0, nothing, "c" },
    { "GET", "/v1/vpgs/statuses", 0, 0, nothing, "d" },
    { NULL, NULL, 0, 0, NULL, NULL },
};
static const struct http_route table2[] = {
    { "POST", "/v1/vpgs/{vpg}/views/{view}", 0, 0, nothing, "e" },
    { NULL, NULL, 0, 0, NULL, NULL },
};

static void
routes(void **state)
{
    static const struct http_route *const tables[] = { table1, table2 };
    static const struct http_router router = { tables, 2 };
    static const struct {
        const char *method, *target;
        int rc;
        const char *doc, *param, *allow;
    } table[] = {
        { "GET", "/v1/vpgs", 0, "a", NULL, NULL },
        { "GET", "//V1//VPGS/", 0, "a", NULL, NULL },
        { "GET", "/v1/vpgs/Statuses", 0, "d", NULL, NULL },
        { "GET", "/v1/vpgs/x", 0, "b", "x", NULL },
        { "DELETE", "/v1/vpgs/x", 0, "c", "x", NULL },
        { "DELETE", "/v1/vpgs/statuses", -EPERM, NULL, NULL, "GET" },
        { "PUT", "/v1/vpgs/x", -EPERM, NULL, NULL, "GET, DELETE" },
        { "get", "/v1/vpgs", -EPERM, NULL, NULL, "GET" },
        { "POST", "/v1/vpgs/p/views/q", 0, "e", "p", NULL },
        { "GET", "/v1/vpg", -ENOENT, NULL, NULL, NULL },
        { "GET", "/v1/vpgs/p/views", -ENOENT, NULL, NULL, NULL },
        { "GET", "/", -ENOENT, NULL, NULL, NULL },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
        struct http_target t;
        struct http_match m = { .route = NULL };
        char allow[64] = "";

        assert_int_equal(http_target_parse(table[i].target, &t, NULL), 0);
        assert_int_equal(http_route_match(&router, table[i].method, &t, &m,
                                          allow, sizeof allow),
                         table[i].rc);
        if (table[i].rc == 0)
            assert_string_equal(m.route->doc, table[i].doc);
        if (table[i].param)
            assert_string_equal(m.params[0].value, table[i].param);
        if (table[i].allow)
            assert_string_equal(allow, table[i].allow);
        http_target_release(&t);
    }
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(good_heads), cmocka_unit_test(smuggling_set),
        cmocka_unit_test(sizes),      cmocka_unit_test(chunked),
        cmocka_unit_test(targets),    cmocka_unit_test(routes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
