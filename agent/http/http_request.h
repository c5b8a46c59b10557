/* A request between http_server.c, which carries its bytes, and
 * http_request.c, which answers questions about it.  Of no interest outside
 * this room. */
#ifndef HOLDFAST_HTTP_HTTP_REQUEST_H
#define HOLDFAST_HTTP_HTTP_REQUEST_H

#include "http/http_server.h"

struct conn;
struct evbuffer;

enum {
    REQUEST_ID_SIZE = 17,
    REPLY_HEADERS_MAX = 8,
    REPLY_MAX = 64 * 1024 * 1024,
};

struct http_req {
    struct http_loop *loop;
    const struct http_router *router;
    struct conn *conn; /* NULL: the client has gone */
    bool held;         /* an answer is not sent off yet */
    bool head_ok;      /* head is filled in */
    bool body_done, drop_body;
    bool replied, is_unix;
    SSL *ssl; /* valid while conn is */
    char *head_text;
    struct http_head head;
    struct http_target target;
    struct http_match match;
    struct http_chunked chunked;
    uint64_t body_left;
    struct buf body;
    cJSON *json;
    struct tls_identity peer_copy;
    const struct tls_identity *peer;
    char id[REQUEST_ID_SIZE];
    char source[64];
    char user[128];
    /* the answer */
    int status;
    struct buf extra; /* header lines */
    char *reply;
    size_t reply_len;
    bool no_body;
    /* http_call_local(): where the answer goes instead */
    void (*local_done)(void *arg, int status, const char *text, size_t n);
    void *local_arg;
};

struct http_req *
http_req_new(struct http_loop *loop, const struct http_router *router);
void http_req_free(struct http_req *rq);
/* Write status line, headers and body to out; the body is given away. */
void http_req_render(struct http_req *rq, bool close, struct evbuffer *out);

/* http_server.c: the answer is there. */
void http_req_answered(struct http_req *rq);

#endif
