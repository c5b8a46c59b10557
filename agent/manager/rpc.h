/* Calls to other programs of the product, made on a worker: JSON out, JSON
 * back, one result on the loop's thread. */
#ifndef HOLDFAST_MANAGER_RPC_H
#define HOLDFAST_MANAGER_RPC_H

#include <stdbool.h>

#include "common/httpc.h"
#include "common/json.h"
#include "manager/workers.h"

/* Where calls go.  Reference-counted: a call holds one while it runs, so that
 * an address can change under it. */
struct dest;
int dest_new(const char *address, struct tls_ctx *tls,
             const struct tls_expect *expect, struct dest **out_dest,
             struct err *err);
struct dest *dest_ref(struct dest *d);
void dest_free(struct dest *d);

struct rpc {
    struct job job;
    struct dest *dest;
    char method[8];
    char *path;
    struct buf body;
    uint32_t timeout_ms;
    size_t max_bytes;
    /* On the worker, when the connection stands: may change body, but not its
     * length; arg is that of done.  May be NULL. */
    int (*bind_body)(struct rpc *r, SSL *ssl, struct err *err);
    /* The result.  rc 0: an answer with status 200, in json (an object, an
     * array, or NULL for an empty body).  rc < 0: none came (status 0), or it
     * was an error, told by err with the code the other side gave. */
    int rc, status;
    struct err err;
    cJSON *json;
    struct buf text; /* the answer as it came */
    bool raw;        /* asked for: do not parse, do not judge the status */
    void (*done)(struct rpc *r);
    void *arg;
};

/* body may be NULL; it is copied.  The call is freed after done() returns. */
int
rpc_start(struct workers *w, struct dest *d, const char *method,
          const char *path, const struct buf *body, void (*done)(struct rpc *r),
          void *arg, struct rpc **out_rpc, struct err *err);
/* The two steps apart, to set more fields between them. */
struct rpc *
rpc_new(struct dest *d, const char *method, const char *path,
        const struct buf *body, void (*done)(struct rpc *r), void *arg);
int rpc_submit(struct workers *w, struct rpc *r, struct err *err);

/* The enum value for "REP-0007", MGR-0001 for a code this release does not
 * know. */
enum err_code rpc_code(const char *text);

#endif
