/* HTTPS client for calls between our programs and from the console: TLS 1.3
 * only, the peer's identity checked, everything bounded.  Blocking; one httpc
 * stands for one peer and may be used by several threads at once, each call
 * taking an idle connection or a new one. */
#ifndef HOLDFAST_COMMON_HTTPC_H
#define HOLDFAST_COMMON_HTTPC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/err.h"
#include "common/tls.h"

struct httpc_settings {
    /* "https://host:port", or "http://local" together with unix_path. */
    const char *base_url;
    const char *unix_path; /* NULL: TCP.  Plain HTTP is only spoken here */
    /* Client side; its trust decides.  Not used with unix_path. */
    struct tls_ctx *tls;             /* a reference is taken */
    const struct tls_expect *expect; /* copied; see there */
    uint32_t connect_timeout_ms;     /* 0: 5 s */
    const char *user_agent;          /* NULL: "holdfast" */
};

struct httpc_header {
    const char *name, *value;
};

struct httpc_request {
    const char *method; /* "GET", "POST", "PUT", "DELETE", ... */
    const char *path;   /* "/v1/vpgs?name=x", already escaped */
    const struct httpc_header *headers;
    size_t n_headers;
    const void *body; /* may be NULL */
    size_t body_len;
    const char *content_type;  /* NULL: application/json when there is a body */
    uint32_t timeout_ms;       /* whole call; 0: 30 s */
    size_t max_response_bytes; /* 0: 1 MiB */
    /* Called when the secure channel stands and before the body is sent, to
     * make a body that is bound to the connection (TLS exporter).  It gives
     * body_len bytes, which must live until the call returns.  May be NULL. */
    int (*make_body)(void *arg, SSL *ssl, const void **out_body,
                     struct err *err);
    void *make_body_arg;
    /* Takes the body piece by piece instead of out->body, without limit; a
     * negative return ends the call with it.  May be NULL. */
    int (*on_data)(void *arg, const void *p, size_t n);
    void *on_data_arg;
};

enum {
    HTTPC_HEADERS_MAX = 32 * 1024
};

struct httpc_response {
    int status; /* 200, 404, ... */
    struct buf body;
    struct buf headers;       /* "name: value\r\n" each, as received */
    struct tls_identity peer; /* valid when has_peer */
    bool has_peer;
};

struct httpc;
int httpc_new(const struct httpc_settings *settings, struct httpc **out_client,
              struct err *err);
void httpc_free(struct httpc *c); /* no call may be running */

/* Returns 0 when an HTTP answer came, whatever its status; release the
 * response in any case.  -ECONNREFUSED and others with GEN-0007, -ETIMEDOUT
 * with GEN-0008, -EMSGSIZE with GEN-0009, TLS errors as tls_failure(). */
int httpc_call(struct httpc *c, const struct httpc_request *rq,
               struct httpc_response *out, struct err *err);
void httpc_response_release(struct httpc_response *out);

/* Copy the first header by that name (any case) into out, cleaned and cut;
 * -ENOENT when there is none. */
int httpc_header(const struct httpc_response *rs, const char *name, char *out,
                 size_t cap);

#endif
