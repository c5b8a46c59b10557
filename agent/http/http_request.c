/* See http_server.h. */
#include "http/http_request.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <event2/buffer.h>
#include <openssl/rand.h>

#include "common/bytes.h"
#include "common/secret.h"
#include "common/text.h"

enum {
    TEXT_REPLY_MAX = 64 * 1024,
    ERR_REPLY_MAX = 16 * 1024,
};

int
http_call_local(struct http_loop *loop, const struct http_router *router,
                const struct http_local *call, void *ctx)
{
    struct http_req *rq = http_req_new(loop, router);
    size_t n = strlen(call->method) + 1, m = strlen(call->target) + 1;
    struct err err = ERR_INIT;
    char allow[64] = "";
    int rc = -ENOMEM;

    if (rq)
        rq->head_text = malloc(n + m);
    if (!rq || !rq->head_text)
        goto fail;
    memcpy(rq->head_text, call->method, n);
    memcpy(rq->head_text + n, call->target, m);
    rq->head.method = rq->head_text;
    rq->head.target = rq->head_text + n;
    buf_init(&rq->body, HTTP_BODY_MAX_DEFAULT);
    rc = buf_add(&rq->body, call->body, call->body_len);
    if (rc == 0)
        rc = http_target_parse(call->target, &rq->target, &err);
    if (rc == 0)
        rc = http_route_match(router, call->method, &rq->target, &rq->match,
                              allow, sizeof allow);
    if (rc == 0 && call->allowed && !call->allowed(rq->match.route))
        rc = -EPERM;
    if (rc < 0)
        goto fail;
    http_req_set_user(rq, call->user);
    (void)snprintf(rq->source, sizeof rq->source, "peer");
    rq->local_done = call->done;
    rq->local_arg = call->arg;
    rq->match.route->handle(rq, ctx);
    return 0;
fail:
    http_req_free(rq);
    return rc;
}

struct http_req *
http_req_new(struct http_loop *loop, const struct http_router *router)
{
    struct http_req *rq = calloc(1, sizeof *rq);
    uint8_t random[8];

    if (!rq)
        return NULL;
    if (RAND_bytes(random, sizeof random) != 1)
        memset(random, 0, sizeof random); /* a name for logs, no secret */
    hex_encode(random, sizeof random, rq->id);
    rq->loop = loop;
    rq->router = router;
    buf_init(&rq->extra, 4096);
    buf_init(&rq->body, 0);
    return rq;
}

void
http_req_free(struct http_req *rq)
{
    if (!rq)
        return;
    /* Bodies and heads may hold passwords. */
    if (rq->head_text)
        OPENSSL_cleanse(rq->head_text, strlen(rq->head_text));
    free(rq->head_text);
    http_target_release(&rq->target);
    secret_buf_release(&rq->body);
    buf_release(&rq->extra);
    cJSON_Delete(rq->json);
    free(rq->reply);
    free(rq);
}

const struct http_route *
http_req_route(const struct http_req *rq)
{
    return rq->match.route;
}

const char *
http_req_method(const struct http_req *rq)
{
    return rq->head.method;
}

const char *
http_req_target(const struct http_req *rq)
{
    return rq->head.target;
}

const char *
http_req_path(const struct http_req *rq, const char *name)
{
    size_t n = strlen(name);

    for (size_t i = 0; i < rq->match.n_params; i++)
        if (strncmp(rq->match.params[i].name, name, n) == 0 &&
            rq->match.params[i].name[n] == '}')
            return rq->match.params[i].value;
    return NULL;
}

const char *
http_req_query(const struct http_req *rq, const char *name)
{
    return http_target_param(&rq->target, name);
}

const char *
http_req_header(const struct http_req *rq, const char *name)
{
    return http_head_get(&rq->head, name);
}

const char *
http_req_id(const struct http_req *rq)
{
    return rq->id;
}

const char *
http_req_source(const struct http_req *rq)
{
    return rq->source;
}

bool
http_req_is_local(const struct http_req *rq)
{
    return rq->local_done != NULL;
}

bool
http_req_is_unix(const struct http_req *rq)
{
    return rq->is_unix;
}

const struct tls_identity *
http_req_peer(const struct http_req *rq)
{
    return rq->peer;
}

int
http_req_exporter(struct http_req *rq, const char *label, uint8_t *out,
                  size_t n, struct err *err)
{
    if (!rq->conn || !rq->ssl)
        return err_set(
            err, -EINVAL, ERR_API_0001,
            "the request did not come over a TLS connection that still stands");
    return tls_exporter(rq->ssl, label, out, n, err);
}

const struct buf *
http_req_body(const struct http_req *rq)
{
    return &rq->body;
}

void
http_req_set_user(struct http_req *rq, const char *name)
{
    (void)text_safe(rq->user, sizeof rq->user, name, strlen(name));
}

const char *
http_req_user(const struct http_req *rq)
{
    return rq->user;
}

static bool
all_blank(const struct buf *b)
{
    for (size_t i = 0; i < b->len; i++)
        if (!strchr(" \t\r\n", b->data[i]) || !b->data[i])
            return false;
    return true;
}

int
http_req_json(struct http_req *rq, const cJSON **out_tree)
{
    struct err err = ERR_INIT;

    if (!rq->json && !all_blank(&rq->body)) {
        if (json_parse((const char *)rq->body.data, rq->body.len, rq->body.max,
                       &rq->json, &err) < 0) {
            http_reply_err(rq, 400, &err);
            return -EINVAL;
        }
    }
    if (!rq->json || cJSON_IsNull(rq->json) ||
        (cJSON_IsString(rq->json) && !*rq->json->valuestring)) {
        *out_tree = NULL;
        return 0;
    }
    if (!cJSON_IsObject(rq->json)) {
        http_reply_fail(rq, 400, ERR_API_0010,
                        "the body is JSON, but no object");
        return -EINVAL;
    }
    *out_tree = rq->json;
    return 0;
}

/* --- answers -------------------------------------------------------------------- */

static const char *
reason_of(int status)
{
    static const struct {
        int status;
        const char *text;
    } table[] = {
        { 200, "OK" },
        { 400, "Bad Request" },
        { 401, "Unauthorized" },
        { 403, "Forbidden" },
        { 404, "Not Found" },
        { 405, "Method Not Allowed" },
        { 408, "Request Timeout" },
        { 409, "Conflict" },
        { 413, "Content Too Large" },
        { 417, "Expectation Failed" },
        { 429, "Too Many Requests" },
        { 431, "Request Header Fields Too Large" },
        { 500, "Internal Server Error" },
        { 501, "Not Implemented" },
        { 502, "Bad Gateway" },
        { 503, "Service Unavailable" },
        { 504, "Gateway Timeout" },
        { 505, "HTTP Version Not Supported" },
        { 507, "Insufficient Storage" },
    };

    for (size_t i = 0; i < ARRAY_SIZE(table); i++)
        if (table[i].status == status)
            return table[i].text;
    return "Status";
}

static void
free_text(const void *data, size_t n, void *arg)
{
    UNUSED(data);
    UNUSED(n);
    free(arg);
}

void
http_req_render(struct http_req *rq, bool close, struct evbuffer *out)
{
    evbuffer_add_printf(out,
                        "HTTP/1.1 %d %s\r\n"
                        "%s"
                        "Content-Length: %zu\r\n"
                        "Cache-Control: no-store\r\n"
                        "X-Content-Type-Options: nosniff\r\n"
                        "x-holdfast-request: %s\r\n"
                        "%s%s\r\n",
                        rq->status, reason_of(rq->status),
                        rq->no_body ? "" : "Content-Type: application/json\r\n",
                        rq->reply_len, rq->id,
                        close             ? "Connection: close\r\n"
                        : rq->head.http10 ? "Connection: keep-alive\r\n"
                                          : "",
                        rq->extra.len ? (const char *)rq->extra.data : "");
    if (rq->reply_len && evbuffer_add_reference(out, rq->reply, rq->reply_len,
                                                free_text, rq->reply) == 0)
        rq->reply = NULL;
}

void
http_reply_header(struct http_req *rq, const char *name, const char *value)
{
    char safe[1024];

    (void)text_safe(safe, sizeof safe, value, strlen(value));
    (void)buf_addf(&rq->extra, "%s: %s\r\n", name, safe);
}

/* text is the request's from here on. */
static void
reply_owned(struct http_req *rq, int status, char *text, size_t n)
{
    if (rq->replied) { /* a handler's mistake; the first answer stands */
        free(text);
        return;
    }
    rq->replied = true;
    rq->status = status;
    rq->reply = text;
    rq->reply_len = n;
    rq->no_body = n == 0;
    if (rq->local_done) {
        rq->local_done(rq->local_arg, status, text ? text : "", n);
        http_req_free(rq);
        return;
    }
    http_req_answered(rq);
}

void
http_reply(struct http_req *rq, int status, const char *text, size_t n)
{
    char *copy = NULL;

    if (n) {
        copy = malloc(n);
        if (!copy) {
            reply_owned(rq, 503, NULL, 0);
            return;
        }
        memcpy(copy, text, n);
    }
    reply_owned(rq, status, copy, n);
}

void
http_reply_buf(struct http_req *rq, int status, struct buf *json)
{
    if (json->failed) {
        buf_release(json);
        http_reply_fail(rq, 500, ERR_API_0016,
                        "the answer does not fit into memory or its limit");
        return;
    }
    reply_owned(rq, status, (char *)json->data, json->len);
    *json = (struct buf){ .data = NULL };
}

void
http_reply_text(struct http_req *rq, int status, const char *json_string)
{
    struct json_writer w;
    struct buf out;

    buf_init(&out, TEXT_REPLY_MAX);
    json_begin(&w, &out);
    json_put_str(&w, NULL, json_string);
    http_reply_buf(rq, status, &out);
}

void
http_reply_empty(struct http_req *rq, int status)
{
    reply_owned(rq, status, NULL, 0);
}

void
http_reply_err(struct http_req *rq, int status, const struct err *err)
{
    struct json_writer w;
    struct buf out;

    buf_init(&out, ERR_REPLY_MAX);
    json_begin(&w, &out);
    json_open_obj(&w, NULL);
    json_put_str(&w, "Message", err->msg);
    json_put_str(&w, "Code", err_code_text(err->code));
    json_put_str(&w, "NextStep", err_code_next(err->code));
    json_close_obj(&w);
    if (out.failed) {
        buf_release(&out);
        reply_owned(rq, 503, NULL, 0);
        return;
    }
    http_reply_buf(rq, status, &out);
}

void
http_reply_fail(struct http_req *rq, int status, enum err_code code,
                const char *fmt, ...)
{
    struct err err = ERR_INIT;
    char msg[ERR_MSG_MAX];
    va_list ap;

    va_start(ap, fmt);
    (void)vsnprintf(msg, sizeof msg, fmt, ap);
    va_end(ap);
    (void)err_set(&err, -EINVAL, code, "%s", msg);
    http_reply_err(rq, status, &err);
}

int
http_status_of(int num)
{
    switch (num < 0 ? -num : num) {
    case 0: return 200;
    case ENOENT: return 404;
    case EACCES:
    case EPERM: return 403;
    case EBUSY:
    case EEXIST:
    case ESTALE:
    case EAGAIN: return 409;
    case ENOSPC: return 507;
    case ECONNREFUSED:
    case ENOTCONN:
    case EHOSTUNREACH:
    case EKEYREJECTED:
    case EKEYEXPIRED:
    case EKEYREVOKED: return 502;
    case ETIMEDOUT: return 504;
    case ENOMEM: return 503;
    case EIO: return 500;
    default: return 400;
    }
}

/* --- from other threads ----------------------------------------------------------- */

struct reply_post {
    struct http_post post;
    struct http_req *rq;
    int status;
    size_t n;
    char text[];
};

static void
reply_here(void *arg)
{
    struct reply_post *p = arg;

    http_reply(p->rq, p->status, p->text, p->n);
    free(p);
}

void
http_reply_post(struct http_req *rq, int status, const char *text, size_t n)
{
    struct reply_post *p = malloc(sizeof *p + n);

    if (!p)
        abort(); /* the request would hang for ever: the supervisor restarts us */
    p->post = (struct http_post){ .fn = reply_here, .arg = p };
    p->rq = rq;
    p->status = status;
    p->n = n;
    if (n)
        memcpy(p->text, text, n);
    http_loop_post(rq->loop, &p->post);
}
