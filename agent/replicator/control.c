/* Control API: HTTP on one side, calls to the data loop on the other.
 *
 * The thread of libevent parses a request, checks who asks, and posts a struct
 * ctl_call.  The data loop answers with a finished text, which http_reply_post()
 * carries back.  A call is counted from its post to its answer, so that the end
 * of the role can wait for all of them.
 */
#include "replicator/control.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "common/text.h"
#include "http/http_server.h"
#include "replicator/source.h"
#include "replicator/target.h"

#define ROOM "replicator"

struct control {
    struct replicator *rep;
    struct http_loop *loop;
    struct http_server *server;
    struct http_router router;
    const struct http_route *tables[1];
    pthread_t thread;
    struct http_post recheck;
    atomic_bool rechecking;
};

static struct control *the_control; /* one replicator a process */

/* --- answers, on the data loop ------------------------------------------ */

static void
ctl_free(struct ctl_call *c)
{
    cJSON_Delete(c->body);
    free(c);
}

void
ctl_reply(struct ctl_call *c, int status, struct buf *json)
{
    struct err err = ERR_INIT;

    if (json->failed < 0) {
        buf_release(json);
        err_set(&err, json->failed, ERR_GEN_0002, "the answer is too long");
        ctl_reply_err(c, &err);
        return;
    }
    http_reply_post(c->rq, status, (const char *)json->data, json->len);
    buf_release(json);
    ctl_free(c);
}

void
ctl_reply_ok(struct ctl_call *c)
{
    http_reply_post(c->rq, 200, "{}", 2);
    ctl_free(c);
}

static int
ctl_status(const struct err *err)
{
    switch (err->num) {
    case -ENOENT: return 404;
    case -EPERM:
    case -EACCES: return 403;
    case -EBUSY:
    case -EAGAIN:
    case -ESTALE:
    case -EEXIST: return 409;
    case -EIO:
    case -ENOTCONN: return 503; /* comes by itself: ask again */
    case -ENOSPC: return 507;
    case -EINVAL:
    case -E2BIG:
    case -EBADMSG: return 400;
    default: return 409;
    }
}

void
ctl_reply_err(struct ctl_call *c, const struct err *err)
{
    struct json_writer w;
    struct buf out;

    buf_init(&out, REP_CONFIG_MAX);
    json_begin(&w, &out);
    json_open_obj(&w, NULL);
    json_put_str(&w, "Message", err->msg);
    json_put_str(&w, "Code", err_code_text(err->code));
    json_put_str(&w, "NextStep", err_code_next(err->code));
    json_close_obj(&w);
    http_reply_post(c->rq, ctl_status(err), (const char *)out.data, out.len);
    buf_release(&out);
    ctl_free(c);
}

/* --- requests, on the server's thread ------------------------------------ */

static void control_handle(struct http_req *rq, void *ctx);

enum {
    CTL_PRIVILEGE = 1
};

#define ROUTE(method, path, doc)                                     \
 {                                                                   \
  method, "/control/v1/" path, CTL_PRIVILEGE, 0, control_handle, doc \
 }

/* clang-format off */
static const struct http_route routes[] = {
    ROUTE("GET", "status", "Everything a manager shows"),
    ROUTE("PUT", "peers/{object}", "Trust another site's replicators"),
    ROUTE("DELETE", "peers/{object}", "Take the trust away"),
    ROUTE("PUT", "revocations", "The own site's revocation list"),
    ROUTE("PUT", "sources/{vpg}", "Protect volumes"),
    ROUTE("DELETE", "sources/{vpg}", "End protection; the exports stay"),
    ROUTE("POST", "sources/{vpg}/pause", "Stop replicating"),
    ROUTE("POST", "sources/{vpg}/resume", "Replicate again, with a sync"),
    ROUTE("POST", "sources/{vpg}/forcesync", "Sync everything again"),
    ROUTE("POST", "sources/{vpg}/checkpoints", "Make a checkpoint now"),
    ROUTE("PUT", "targets/{vpg}", "Keep a journal and replicas"),
    ROUTE("DELETE", "targets/{vpg}", "Remove them"),
    ROUTE("GET", "targets/{vpg}/checkpoints", "Offered checkpoints"),
    ROUTE("GET", "targets/{vpg}/checkpoints/{point}", "One of them"),
    ROUTE("POST", "targets/{vpg}/views", "Open the volumes as of a point"),
    ROUTE("DELETE", "targets/{vpg}/views/{object}", "Discard a view"),
    ROUTE("POST", "targets/{vpg}/scrub", "Read and verify the journal: begin, or how far it is"),
    ROUTE("POST", "targets/{vpg}/overwrite", "Give up the points of a lane that stands"),
    { .method = NULL },
};

static void (*const handlers[ARRAY_SIZE(routes) - 1])(struct ctl_call *) = {
    status_get, trust_put_site, trust_delete_site, trust_put_revocations,
    source_put, source_delete, source_pause, source_resume, source_forcesync,
    source_checkpoint,
    target_put, target_delete, target_checkpoints, target_checkpoint,
    target_view_open, target_view_close, target_scrub, target_overwrite,
};
/* clang-format on */

static int
control_gate(struct http_req *rq, const struct http_route *route, void *ctx)
{
    struct control *ct = ctx;
    const struct tls_identity *who = http_req_peer(rq);

    UNUSED(route);
    if (who && who->role == TLS_ROLE_MANAGER &&
        uuid_equal(&who->site, &ct->rep->cfg.site) &&
        uuid_equal(&who->deployment, &ct->rep->cfg.deployment))
        return 0;
    http_reply_fail(rq, 403, ERR_REP_0018,
                    "the control port serves this site's manager only");
    return -EPERM;
}

static void
ctl_run(struct io_post *p)
{
    struct ctl_call *c = container_of(p, struct ctl_call, post);
    struct err err = ERR_INIT;

    if (c->rep->stopping) {
        err_set(&err, -EBUSY, ERR_REP_0010, "the replicator is stopping");
        ctl_reply_err(c, &err);
        return;
    }
    c->handle(c);
}

static int
path_uuid(struct http_req *rq, const char *name, struct uuid *out)
{
    const char *text = http_req_path(rq, name);

    if (!text || uuid_parse(text, out) == 0)
        return 0;
    http_reply_fail(rq, 400, ERR_REP_0002, "\"%.60s\" is no identifier", text);
    return -EINVAL;
}

static int
query_u64(struct http_req *rq, const char *name, uint64_t *out)
{
    const char *text = http_req_query(rq, name);

    if (!text || text_parse_u64(text, 0, UINT64_MAX, out) == 0)
        return 0;
    http_reply_fail(rq, 400, ERR_REP_0002, "%s=%.60s is no number", name, text);
    return -EINVAL;
}

static int
query_uuid(struct http_req *rq, const char *name, struct uuid *out)
{
    const char *text = http_req_query(rq, name);

    if (!text || uuid_parse(text, out) == 0)
        return 0;
    http_reply_fail(rq, 400, ERR_REP_0002, "%s=%.60s is no identifier", name,
                    text);
    return -EINVAL;
}

static bool
query_true(struct http_req *rq, const char *name)
{
    const char *text = http_req_query(rq, name);

    return text && text_icmp(text, "true") == 0;
}

static const char *
route_path_has(const struct http_route *route, const char *name)
{
    return strstr(route->path, name);
}

/* Fill the call from path, query and body; -EINVAL: answered. */
static int
control_fill(struct http_req *rq, struct ctl_call *c)
{
    const struct http_route *route = http_req_route(rq);
    const cJSON *body = NULL;

    if (route_path_has(route, "{vpg}") && path_uuid(rq, "vpg", &c->vpg) < 0)
        return -EINVAL;
    if (route_path_has(route, "{object}") &&
        path_uuid(rq, "object", &c->object) < 0)
        return -EINVAL;
    if (route_path_has(route, "{point}"))
        snprintf(c->point, sizeof c->point, "%.23s", http_req_path(rq, "point"));
    c->query.to = UINT64_MAX;
    c->query.limit = 1000;
    if (query_u64(rq, "from", &c->query.from) < 0 ||
        query_u64(rq, "to", &c->query.to) < 0 ||
        query_u64(rq, "skip", &c->query.skip) < 0 ||
        query_u64(rq, "limit", &c->query.limit) < 0)
        return -EINVAL;
    if (query_uuid(rq, "incarnation", &c->query.incarnation) < 0)
        return -EINVAL;
    c->query.keep_replicas = query_true(rq, "keepReplicas");
    c->query.overwrite = query_true(rq, "overwrite");
    c->query.force = query_true(rq, "force");
    if (http_req_json(rq, &body) < 0)
        return -EINVAL;
    c->body = body ? cJSON_Duplicate(body, 1) : cJSON_CreateObject();
    if (!c->body) {
        http_reply_fail(rq, 503, ERR_GEN_0002, "no memory for the call");
        return -EINVAL;
    }
    return 0;
}

static void
control_handle(struct http_req *rq, void *ctx)
{
    struct control *ct = ctx;
    struct ctl_call *c = calloc(1, sizeof *c);

    if (!c) {
        http_reply_fail(rq, 503, ERR_GEN_0002, "no memory for the call");
        return;
    }
    if (control_fill(rq, c) < 0) {
        ctl_free(c);
        return;
    }
    c->rep = ct->rep;
    c->rq = rq;
    c->handle = handlers[http_req_route(rq) - routes];
    c->post.run = ctl_run;
    io_post(ct->rep->loop, &c->post);
}

/* --- trust --------------------------------------------------------------- */

static void
control_recheck(void *arg)
{
    struct control *ct = arg;

    atomic_store(&ct->rechecking, false);
    (void)http_server_recheck(ct->server);
}

static void
control_trust_changed(struct replicator *rep)
{
    struct control *ct = the_control;

    UNUSED(rep);
    if (ct && !atomic_exchange(&ct->rechecking, true))
        http_loop_post(ct->loop, &ct->recheck);
}

/* --- life ----------------------------------------------------------------- */

static void *
control_thread(void *arg)
{
    struct control *ct = arg;
    struct err err = ERR_INIT;

    if (http_loop_run(ct->loop, &err) < 0)
        log_err(LOG_ERROR, ROOM, "", "the control server", &err);
    return NULL;
}

int
control_start(struct replicator *rep, const char *host, uint16_t port,
              struct control **out, uint16_t *out_port, struct err *err)
{
    struct control *ct = calloc(1, sizeof *ct);
    struct http_settings hs;
    int rc;

    if (!ct)
        return err_set(err, -ENOMEM, ERR_GEN_0002, "control: out of memory");
    ct->rep = rep;
    ct->recheck.fn = control_recheck;
    ct->recheck.arg = ct;
    ct->tables[0] = routes;
    ct->router = (struct http_router){ ct->tables, ARRAY_SIZE(ct->tables) };
    rc = http_loop_new(&ct->loop, err);
    hs = (struct http_settings){
        .router = &ct->router, .ctx = ct, .gate = control_gate, .room = ROOM
    };
    if (rc == 0)
        rc = http_server_new(ct->loop, &hs, &ct->server, err);
    if (rc == 0)
        rc = http_server_listen_tls(ct->server, host, port, rep->control_tls,
                                    out_port, err);
    if (rc == 0 && pthread_create(&ct->thread, NULL, control_thread, ct) != 0)
        rc = err_set(err, -EAGAIN, ERR_REP_0019,
                     "the control server's thread could not be made");
    if (rc < 0) {
        if (ct->server)
            http_server_free(ct->server);
        if (ct->loop)
            http_loop_free(ct->loop);
        free(ct);
        return rc;
    }
    the_control = ct;
    rep->trust_changed = control_trust_changed;
    *out = ct;
    return 0;
}

void
control_stop(struct control *ct)
{
    if (!ct)
        return;
    ct->rep->trust_changed = NULL;
    the_control = NULL;
    http_loop_stop(ct->loop);
    pthread_join(ct->thread, NULL);
}

void
control_free(struct control *ct)
{
    if (!ct)
        return;
    http_server_free(ct->server);
    http_loop_free(ct->loop);
    free(ct);
}
