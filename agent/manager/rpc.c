/* See rpc.h. */
#include "manager/rpc.h"

#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/secret.h"
#include "common/text.h"

struct dest {
    struct httpc *client;
    unsigned refs;
    char address[TEXT_HOST_SIZE + 8];
};

int
dest_new(const char *address, struct tls_ctx *tls,
         const struct tls_expect *expect, struct dest **out_dest,
         struct err *err)
{
    struct dest *d = calloc(1, sizeof *d);
    char url[TEXT_HOST_SIZE + 24];
    struct httpc_settings set = { .base_url = url,
                                  .tls = tls,
                                  .expect = expect,
                                  .connect_timeout_ms = 4000,
                                  .user_agent = "holdfast-manager" };
    int rc;

    if (!d)
        return err_set(err, -ENOMEM, ERR_GEN_0002, "call: out of memory");
    d->refs = 1;
    (void)snprintf(d->address, sizeof d->address, "%s", address);
    (void)snprintf(url, sizeof url, "https://%s", d->address);
    rc = httpc_new(&set, &d->client, err);
    if (rc < 0) {
        free(d);
        return rc;
    }
    *out_dest = d;
    return 0;
}

struct dest *
dest_ref(struct dest *d)
{
    d->refs++;
    return d;
}

void
dest_free(struct dest *d)
{
    if (!d || --d->refs)
        return;
    httpc_free(d->client);
    free(d);
}

enum err_code
rpc_code(const char *text)
{
    for (int i = 0; i < ERR_CODE_MAX; i++)
        if (strcmp(err_code_text((enum err_code)i), text) == 0)
            return (enum err_code)i;
    return ERR_MGR_0001;
}

static int
num_of_status(int status)
{
    switch (status) {
    case 401:
    case 403: return -EACCES;
    case 404: return -ENOENT;
    case 409: return -EBUSY;
    case 429:
    case 503: return -EAGAIN;
    case 507: return -ENOSPC;
    default: return status >= 500 ? -EIO : -EINVAL;
    }
}

/* Turn {"Message", "Code"} of an answer into an error of ours. */
static void
judge_answer(struct rpc *r)
{
    const char *message = NULL, *code = "";

    if (r->status == 200) {
        r->rc = 0;
        return;
    }
    (void)json_str(r->json, "Message", JSON_OPTIONAL, &message, NULL);
    (void)json_str(r->json, "Code", JSON_OPTIONAL, &code, NULL);
    if (message)
        r->rc = err_set(&r->err, num_of_status(r->status), rpc_code(code), "%s",
                        message);
    else
        r->rc = err_set(&r->err, num_of_status(r->status), ERR_MGR_0001,
                        "%s answered %s %s with status %d", r->dest->address,
                        r->method, r->path, r->status);
}

static int
bind_body(void *arg, SSL *ssl, const void **out_body, struct err *err)
{
    struct rpc *r = arg;
    int rc = r->bind_body(r, ssl, err);

    if (rc == 0)
        *out_body = r->body.data;
    return rc;
}

static void
work(struct job *j)
{
    struct rpc *r = container_of(j, struct rpc, job);
    struct httpc_request rq = { .method = r->method,
                                .path = r->path,
                                .body = r->body.len ? r->body.data : NULL,
                                .body_len = r->body.len,
                                .timeout_ms = r->timeout_ms,
                                .max_response_bytes = r->max_bytes,
                                .make_body = r->bind_body ? bind_body : NULL,
                                .make_body_arg = r };
    struct httpc_response rs = { .status = 0 };

    r->err = (struct err)ERR_INIT;
    r->rc = httpc_call(r->dest->client, &rq, &rs, &r->err);
    if (r->rc == 0) {
        r->status = rs.status;
        r->text = rs.body;
        rs.body = (struct buf){ .data = NULL };
        if (!r->raw && r->text.len)
            r->rc = json_parse((const char *)r->text.data, r->text.len,
                               r->max_bytes, &r->json, &r->err);
        if (!r->raw && (r->rc == 0 || r->status != 200))
            judge_answer(r);
    }
    httpc_response_release(&rs);
}

static void
rpc_free(struct rpc *r)
{
    dest_free(r->dest);
    free(r->path);
    secret_buf_release(&r->body);
    secret_buf_release(&r->text);
    cJSON_Delete(r->json);
    free(r);
}

static void
done(struct job *j)
{
    struct rpc *r = container_of(j, struct rpc, job);

    r->done(r);
    rpc_free(r);
}

struct rpc *
rpc_new(struct dest *d, const char *method, const char *path,
        const struct buf *body, void (*done_fn)(struct rpc *r), void *arg)
{
    struct rpc *r = calloc(1, sizeof *r);

    if (!r)
        return NULL;
    (void)snprintf(r->method, sizeof r->method, "%s", method);
    r->path = strdup(path);
    r->dest = dest_ref(d);
    buf_init(&r->body, body ? body->len + 1 : 0);
    buf_init(&r->text, 0);
    if (!r->path ||
        (body && body->len && buf_add(&r->body, body->data, body->len) < 0)) {
        rpc_free(r);
        return NULL;
    }
    r->timeout_ms = 20000;
    r->max_bytes = 8 * MIB;
    r->done = done_fn;
    r->arg = arg;
    r->job.work = work;
    r->job.done = done;
    /* in case it comes back undone */
    r->rc =
        err_set(&r->err, -ECANCELED, ERR_API_0015, "the manager is stopping");
    return r;
}

int
rpc_submit(struct workers *w, struct rpc *r, struct err *err)
{
    if (!r)
        return err_set(err, -ENOMEM, ERR_GEN_0002, "call: out of memory");
    if (workers_submit(w, &r->job) == 0)
        return 0;
    rpc_free(r);
    return err_set(err, -EAGAIN, ERR_API_0015,
                   "too many calls to other programs wait already");
}

int
rpc_start(struct workers *w, struct dest *d, const char *method,
          const char *path, const struct buf *body,
          void (*done_fn)(struct rpc *r), void *arg, struct rpc **out_rpc,
          struct err *err)
{
    struct rpc *r = rpc_new(d, method, path, body, done_fn, arg);
    int rc = rpc_submit(w, r, err);

    if (rc == 0 && out_rpc)
        *out_rpc = r;
    return rc;
}
