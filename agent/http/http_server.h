/* The HTTPS server of managers and replicators: TLS 1.3 by common/tls.h on
 * libevent's sockets, a strict reader (http_parse.h), a router table, bounded
 * everything.
 *
 *   handshake and head together    head_timeout_ms      (10 s)
 *   the whole body                 body_timeout_ms      (30 s)
 *   idle between requests          idle_timeout_ms      (60 s)
 *   writing the whole answer       write_timeout_ms     (60 s)
 *   connections                    max_connections      (512); when they are
 *        all taken, the one that has been without a request for longest goes
 *
 * A listener for TCP always speaks TLS; plain HTTP is spoken on Unix sockets
 * only, to processes of user 0 or of our own user.  libevent's evhttp is not
 * used: it joins folded headers and passes two Host headers and two
 * Content-Length headers before anyone can look.
 *
 * A handler gets a struct http_req that lives until the answer is given, also
 * when the client has gone meanwhile; it must answer exactly once, at once or
 * later.  Everything is for the loop's thread, but for http_reply_post(). */
#ifndef HOLDFAST_HTTP_HTTP_SERVER_H
#define HOLDFAST_HTTP_HTTP_SERVER_H

#include <stdbool.h>

#include <cjson/cJSON.h>

#include "common/buf.h"
#include "common/err.h"
#include "common/json.h"
#include "common/tls.h"
#include "http/http_loop.h"
#include "http/http_route.h"

struct http_server;

struct http_settings {
    const struct http_router *router; /* borrowed for the server's life */
    void *ctx;                        /* handed to gate and handlers */
    /* Asked when the head is there and before the body is read.  0: go on;
     * otherwise it has answered.  NULL: all may. */
    int (*gate)(struct http_req *rq, const struct http_route *route, void *ctx);
    const char *room; /* in log lines, "manager" */
    uint32_t head_timeout_ms, body_timeout_ms, idle_timeout_ms,
        write_timeout_ms; /* 0: see above */
    uint32_t max_connections;
};

int http_server_new(struct http_loop *loop, const struct http_settings *s,
                    struct http_server **out_server, struct err *err);
/* Closes listeners and connections.  Requests not answered yet stay until
 * their handlers answer them (into nothing). */
void http_server_free(struct http_server *s);

/* host: "" for all addresses; port 0: any free one.  The context is
 * referenced. */
int http_server_listen_tls(struct http_server *s, const char *host,
                           uint16_t port, struct tls_ctx *tls,
                           uint16_t *out_port, struct err *err);
/* Replaces a socket that nobody listens on; mode 0600. */
int http_server_listen_unix(struct http_server *s, const char *path,
                            struct err *err);
/* Check every open connection's certificate again and close those whose trust
 * has gone; call after tls_ctx_set_trust().  Returns how many it closed. */
unsigned http_server_recheck(struct http_server *s);
unsigned http_server_connections(const struct http_server *s);

/* --- a request ------------------------------------------------------------ */

const struct http_route *http_req_route(const struct http_req *rq);
const char *http_req_method(const struct http_req *rq);
/* The target as it was sent. */
const char *http_req_target(const struct http_req *rq);
/* The value of {name} in the route's path; never NULL for one that is there. */
const char *http_req_path(const struct http_req *rq, const char *name);
/* Of the query, in any case; NULL when absent. */
const char *http_req_query(const struct http_req *rq, const char *name);
const char *http_req_header(const struct http_req *rq, const char *name);
/* 16 hexadecimal digits, also sent as x-holdfast-request. */
const char *http_req_id(const struct http_req *rq);
/* Numeric address of the client, "unix" on a Unix socket. */
const char *http_req_source(const struct http_req *rq);
bool http_req_is_unix(const struct http_req *rq);
/* The client's certified identity, NULL when it showed none. */
const struct tls_identity *http_req_peer(const struct http_req *rq);
int http_req_exporter(struct http_req *rq, const char *label, uint8_t *out,
                      size_t n, struct err *err);
const struct buf *http_req_body(const struct http_req *rq);
/* The body as a JSON object.  NULL for none, for white space, for null and for
 * an empty string (old clients send these with actions), in *out_tree; the
 * tree lives as long as the request.  When the body is anything else that is
 * no object, 400 has been answered and -EINVAL comes back. */
int http_req_json(struct http_req *rq, const cJSON **out_tree);

/* A word of the gate's own about who is calling; freed with the request. */
void http_req_set_user(struct http_req *rq, const char *name);
const char *http_req_user(const struct http_req *rq); /* "" when not set */

/* --- the answer ----------------------------------------------------------- */

/* Before answering: one more header; value is cleaned. */
void http_reply_header(struct http_req *rq, const char *name, const char *value);
/* n bytes of application/json, copied. */
void http_reply(struct http_req *rq, int status, const char *text, size_t n);
/* What json holds (released and usable after buf_init()); 500 when it has
 * failed. */
void http_reply_buf(struct http_req *rq, int status, struct buf *json);
void http_reply_text(struct http_req *rq, int status, const char *json_string);
void http_reply_empty(struct http_req *rq, int status); /* no body at all */
/* {"Message", "Code", "NextStep"}. */
void http_reply_err(struct http_req *rq, int status, const struct err *err);
void http_reply_fail(struct http_req *rq, int status, enum err_code code,
                     const char *fmt, ...) PRINTF_LIKE(4, 5);
/* The status that fits a negative errno of a handler: 400, 404, 409, ... */
int http_status_of(int num);

/* A call without a connection: another manager asks us to do what one of its
 * users wants.  done is called when the handler answers, which may be at once;
 * text is borrowed for the call.  Nothing asks the gate: allowed (may be NULL)
 * says which routes may be called so.  0, or a negative errno and no answer:
 * -ENOENT, -EPERM (wrong method, or not allowed), -EINVAL. */
struct http_local {
    const char *method, *target, *user;
    const void *body;
    size_t body_len;
    bool (*allowed)(const struct http_route *route);
    void (*done)(void *arg, int status, const char *text, size_t n);
    void *arg;
};
int http_call_local(struct http_loop *loop, const struct http_router *router,
                    const struct http_local *call, void *ctx);
bool http_req_is_local(const struct http_req *rq);

/* From another thread: the same as http_reply(), later, on the loop's. */
void
http_reply_post(struct http_req *rq, int status, const char *text, size_t n);

#endif
