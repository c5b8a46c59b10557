/* The router table: one row a method and path, which also says who may call
 * it, how large a body may be, and what docs/api.md prints.  Pure. */
#ifndef HOLDFAST_HTTP_HTTP_ROUTE_H
#define HOLDFAST_HTTP_HTTP_ROUTE_H

#include <stddef.h>
#include <stdint.h>

#include "http/http_parse.h"

struct http_req;

enum {
    HTTP_ROUTE_PARAMS_MAX = 4
};

struct http_route {
    const char *method;
    const char *path;   /* "/v1/vpgs/{vpg}/checkpoints" */
    unsigned privilege; /* the gate's to judge; 0: open to all */
    uint32_t body_max;  /* bytes; 0: HTTP_BODY_MAX_DEFAULT */
    void (*handle)(struct http_req *rq, void *ctx);
    const char *doc; /* one sentence */
};

enum {
    HTTP_BODY_MAX_DEFAULT = 1024 * 1024
};

struct http_router {
    const struct http_route *const *tables; /* each ends with method NULL */
    size_t n_tables;
};

struct http_match {
    const struct http_route *route;
    struct http_field params[HTTP_ROUTE_PARAMS_MAX]; /* name, value */
    size_t n_params;
};

/* Literal segments are compared without regard to case and win over {names},
 * left to right.  Returns 0, -ENOENT, or -EPERM when the path is known with
 * other methods only; these are then in allow ("GET, POST"). */
int http_route_match(const struct http_router *r, const char *method,
                     const struct http_target *t, struct http_match *out_match,
                     char *allow, size_t allow_cap);

#endif
