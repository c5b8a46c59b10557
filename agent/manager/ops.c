/* Operations: a row of steps, each of which is in the catalog before it
 * begins, so that a restarted manager goes on where it was.  Steps are written
 * so that running one twice does no harm.  What a step waits for (an answer,
 * a state) it gets by being called again. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <event2/event.h>
#include <openssl/crypto.h>

#include "common/bytes.h"
#include "common/log.h"
#include "common/text.h"
#include "manager/manager.h"

enum {
    TICK_MS = 250,
    TASKS_KEPT = 1000,
    TASK_JSON_MAX = 256 * 1024,
};

const struct op_type *const op_types[] = {
    &op_create_vpg, &op_update_vpg,    &op_delete_vpg, &op_tag,
    &op_test,       &op_test_stop,     &op_pause,      &op_resume,
    &op_force_sync, &op_open_view,     &op_close_view, &op_pair,
    &op_unpair,     &op_uninstall_vra, &op_scrub,      &op_overwrite,
    NULL,
};

bool
op_beside(const struct op_type *type)
{
    return type == &op_tag || type == &op_open_view || type == &op_close_view ||
           type == &op_scrub;
}

static unsigned
count_steps(const struct op_type *t)
{
    unsigned n = 0;

    while (t->steps[n].name)
        n++;
    return n;
}

void
op_task_id(const struct op *op, char out[TASK_ID_SIZE])
{
    char id[UUID_TEXT_SIZE], site[UUID_TEXT_SIZE];

    uuid_format(&op->id, id);
    uuid_format(&op->m->site, site);
    (void)snprintf(out, TASK_ID_SIZE, "%s.%s", id, site);
}

static const char *
step_state(const struct op *op, unsigned i)
{
    if (i < op->step)
        return "Completed";
    if (i > op->step)
        return "Waiting";
    return op->state == OP_STATE_FAILED ? "Failed"
           : op->state == OP_COMPLETED  ? "Completed"
                                        : "InProgress";
}

static void
put_related(struct json_writer *w, const struct op *op)
{
    static const char *const none[] = { "Hosts", "FlrSessions" };
    char vpg[UUID_TEXT_SIZE];

    json_open_obj(w, "RelatedEntities");
    json_open_array(w, "Vpgs");
    if (!uuid_is_nil(&op->vpg)) {
        uuid_format(&op->vpg, vpg);
        put_link(w, NULL, op->m, "vpgs", vpg, "VpgApi");
    }
    json_close_array(w);
    json_open_array(w, "Sites");
    put_site_link(w, NULL, op->m, &op->m->site);
    json_close_array(w);
    for (size_t i = 0; i < ARRAY_SIZE(none); i++) {
        json_open_array(w, none[i]);
        json_close_array(w);
    }
    json_close_obj(w);
}

void
op_put_task(struct json_writer *w, const struct op *op)
{
    char id[TASK_ID_SIZE];

    op_task_id(op, id);
    json_open_obj(w, NULL);
    json_put_str(w, "TaskIdentifier", id);
    json_put_str(w, "Type", op->type->task);
    json_open_obj(w, "Status");
    json_put_i64(w, "State", op->state);
    json_put_i64(w, "Progress", op->progress);
    json_close_obj(w);
    json_put_str(w, "InitiatedBy", *op->user ? op->user : "System");
    put_time(w, "Started", op->started_ms);
    put_time(w, "Completed", op->completed_ms);
    json_put_str(w, "CompleteReason", op->reason);
    json_put_bool(w, "IsCancellable", false);
    put_related(w, op);
    json_put_u64(w, "Generation", op->step);
    json_open_array(w, "Steps");
    for (unsigned i = 0; op->type->steps[i].name; i++) {
        json_open_obj(w, NULL);
        json_put_str(w, "Name", op->type->steps[i].name);
        json_put_str(w, "State", step_state(op, i));
        json_close_obj(w);
    }
    json_close_array(w);
    json_put_null(w, "Reason");
    json_put_null(w, "RecoveryOperationIdentifier");
    json_put_null(w, "WaitsFor");
    if (json_get(op->params, "Scrub"))
        json_put_tree(w, "Scrub", json_get(op->params, "Scrub"));
    if (*op->vpg_name) { /* also when it is gone */
        json_open_array(w, "Vpgs");
        json_open_obj(w, NULL);
        json_put_uuid(w, "VpgIdentifier", &op->vpg);
        json_put_str(w, "VpgName", op->vpg_name);
        json_close_obj(w);
        json_close_array(w);
    }
    put_link(w, "Link", op->m, "tasks", id, "TaskApi");
    json_close_obj(w);
}

/* --- in the catalog ---------------------------------------------------------------- */

static int
op_save(struct op *op, struct err *err)
{
    struct json_writer w;
    char id[UUID_TEXT_SIZE];
    struct buf out;
    int rc;

    buf_init(&out, TASK_JSON_MAX);
    json_begin(&w, &out);
    json_open_obj(&w, NULL);
    json_put_str(&w, "Type", op->type->task);
    json_put_uuid(&w, "Vpg", &op->vpg);
    json_put_str(&w, "VpgName", op->vpg_name);
    json_put_str(&w, "User", op->user);
    json_put_u64(&w, "Step", op->step);
    json_put_i64(&w, "State", op->state);
    json_put_i64(&w, "Progress", op->progress);
    json_put_u64(&w, "StartedMs", op->started_ms);
    json_put_u64(&w, "CompletedMs", op->completed_ms);
    json_put_str(&w, "Reason", op->reason);
    if (op->params)
        json_put_tree(&w, "Params", op->params);
    json_close_obj(&w);
    uuid_format(&op->id, id);
    rc = out.failed
             ? err_set(err, out.failed, ERR_GEN_0002, "task: too large")
             : catalog_put(op->m->catalog, "task", id, (char *)out.data, err);
    buf_release(&out);
    return rc;
}

static void
forget_secret(struct op *op)
{
    if (op->secret)
        OPENSSL_cleanse(op->secret, strlen(op->secret));
    free(op->secret);
    op->secret = NULL;
}

static void
op_free(struct op *op)
{
    list_del(&op->link);
    if (op->timer)
        event_free(op->timer);
    cJSON_Delete(op->params);
    forget_secret(op);
    free(op);
}

static void op_advance(struct op *op);

static void
on_timer(evutil_socket_t fd, short what, void *arg)
{
    UNUSED(fd);
    UNUSED(what);
    op_advance(arg);
}

static struct op *
op_new(struct manager *m, const struct op_type *type)
{
    struct op *op = calloc(1, sizeof *op);

    if (!op)
        return NULL;
    list_init(&op->link);
    op->m = m;
    op->type = type;
    op->state = OP_IN_PROGRESS;
    op->timer = evtimer_new(http_loop_base(m->loop), on_timer, op);
    if (!op->timer) {
        free(op);
        return NULL;
    }
    return op;
}

static void
arm(struct op *op, unsigned ms)
{
    struct timeval tv = { .tv_usec = (suseconds_t)ms * 1000 };

    (void)evtimer_add(op->timer, &tv);
}

/* Old ones go, so that the catalog does not grow for ever. */
static void
trim_tasks(struct manager *m)
{
    struct list *pos, *tmp;
    unsigned n = 0;

    list_for_each (pos, &m->ops)
        n++;
    list_for_each_safe (pos, tmp, &m->ops) {
        struct op *op = list_entry(pos, struct op, link);
        char id[UUID_TEXT_SIZE];

        if (n <= TASKS_KEPT)
            return;
        if (op->state == OP_IN_PROGRESS)
            continue;
        uuid_format(&op->id, id);
        (void)catalog_delete(m->catalog, "task", id, NULL);
        op_free(op);
        n--;
    }
}

static int
load_op(void *arg, const char *id, const char *json)
{
    struct manager *m = arg;
    const struct op_type *type = NULL;
    const char *name, *user, *vpg_name, *reason;
    struct op *op;
    cJSON *tree = NULL;
    const cJSON *params = NULL;
    uint64_t step, state, progress;

    if (json_parse(json, strlen(json), TASK_JSON_MAX, &tree, NULL) < 0)
        return -EIO;
    if (json_str(tree, "Type", JSON_REQUIRED, &name, NULL) == 1)
        for (unsigned i = 0; op_types[i]; i++)
            if (strcmp(op_types[i]->task, name) == 0)
                type = op_types[i];
    op = type ? op_new(m, type) : NULL;
    if (!op || uuid_parse(id, &op->id) < 0 ||
        json_uuid(tree, "Vpg", JSON_REQUIRED, &op->vpg, NULL) < 0 ||
        json_str(tree, "VpgName", JSON_REQUIRED, &vpg_name, NULL) < 0 ||
        json_str(tree, "User", JSON_REQUIRED, &user, NULL) < 0 ||
        json_str(tree, "Reason", JSON_REQUIRED, &reason, NULL) < 0 ||
        json_u64(tree, "Step", JSON_REQUIRED, 0, 100, &step, NULL) < 0 ||
        json_u64(tree, "State", JSON_REQUIRED, 1, 6, &state, NULL) < 0 ||
        json_u64(tree, "Progress", JSON_REQUIRED, 0, 100, &progress, NULL) < 0 ||
        json_u64(tree, "StartedMs", JSON_REQUIRED, 0, JSON_INT_MAX,
                 &op->started_ms, NULL) < 0 ||
        json_u64(tree, "CompletedMs", JSON_REQUIRED, 0, JSON_INT_MAX,
                 &op->completed_ms, NULL) < 0 ||
        json_obj(tree, "Params", JSON_OPTIONAL, &params, NULL) < 0) {
        log_line(LOG_WARN, "manager", "",
                 "task %s of the catalog is not understood and left alone", id);
        if (op)
            op_free(op);
        cJSON_Delete(tree);
        return 0;
    }
    op->step = (unsigned)MIN(step, (uint64_t)count_steps(type));
    op->state = (enum op_state)state;
    op->progress = (int)progress;
    op->params = params ? cJSON_Duplicate(params, true) : NULL;
    (void)snprintf(op->vpg_name, sizeof op->vpg_name, "%s", vpg_name);
    (void)snprintf(op->user, sizeof op->user, "%s", user);
    (void)snprintf(op->reason, sizeof op->reason, "%s", reason);
    cJSON_Delete(tree);
    list_push_back(&m->ops, &op->link);
    if (op->state == OP_IN_PROGRESS) {
        op->step_ms = http_loop_now_ms();
        arm(op, TICK_MS);
    }
    return 0;
}

/* Identifiers are random, so the catalog's order says nothing of age. */
static void
sort_by_age(struct manager *m)
{
    struct list sorted, *pos;

    list_init(&sorted);
    while ((pos = list_pop_front(&m->ops))) {
        struct op *op = list_entry(pos, struct op, link);
        struct list *at = sorted.prev;

        while (at != &sorted &&
               list_entry(at, struct op, link)->started_ms > op->started_ms)
            at = at->prev;
        list_push_front(at, &op->link);
    }
    list_splice_back(&m->ops, &sorted);
}

int
ops_load(struct manager *m, struct err *err)
{
    int rc = catalog_each(m->catalog, "task", load_op, m, err);

    sort_by_age(m);
    return rc;
}

void
ops_free(struct manager *m)
{
    struct list *pos, *tmp;

    list_for_each_safe (pos, tmp, &m->ops)
        op_free(list_entry(pos, struct op, link));
}

/* --- running ------------------------------------------------------------------------ */

static void
op_end(struct op *op, bool ok)
{
    struct err err = ERR_INIT;
    char text[ERR_MSG_MAX + 200];
    const char *warning = "";

    op->completed_ms = wall_ms();
    forget_secret(op);
    if (ok) {
        op->state = OP_COMPLETED;
        op->progress = 100;
        (void)json_str(op->params, "Warning", JSON_OPTIONAL, &warning, NULL);
        (void)snprintf(op->reason, sizeof op->reason, "%s", warning);
        (void)snprintf(text, sizeof text, "%s of %s has ended%s%s",
                       op->type->task,
                       *op->vpg_name ? op->vpg_name : op->m->site_name,
                       *warning ? ": " : "", warning);
    } else {
        op->state = OP_STATE_FAILED;
        (void)snprintf(op->reason, sizeof op->reason, "%.*s (%s)",
                       (int)sizeof op->reason - 16, op->err.msg,
                       err_code_text(op->err.code));
        (void)snprintf(text, sizeof text, "%s of %s has failed: %s",
                       op->type->task,
                       *op->vpg_name ? op->vpg_name : op->m->site_name,
                       op->reason);
        if (op->type->failed)
            op->type->failed(op);
    }
    if (op_save(op, &err) < 0)
        log_err(LOG_ERROR, "manager", "", "task", &err);
    events_record(op->m, op->type->event, &op->vpg, op->vpg_name, ok, op->user,
                  text);
    trim_tasks(op->m);
}

static void
op_advance(struct op *op)
{
    struct err err = ERR_INIT;
    unsigned n = count_steps(op->type);

    if (op->in_run || op->state != OP_IN_PROGRESS || (op->calling && !op->reply))
        return;
    op->in_run = true;
    while (op->state == OP_IN_PROGRESS && op->step < n) {
        enum op_verdict v = op->type->steps[op->step].run(op);

        op->reply = NULL;
        if (v == OP_WAIT) {
            if (!op->calling)
                arm(op, TICK_MS);
            break;
        }
        if (v == OP_FAILED) {
            op_end(op, false);
            break;
        }
        op->step++;
        op->tries = 0;
        op->step_ms = http_loop_now_ms();
        op->progress = (int)(op->step * 100 / n) - (op->step == n ? 1 : 0);
        if (op->step < n && op_save(op, &err) < 0) {
            op->err = err;
            op_end(op, false);
        }
    }
    op->in_run = false;
    if (op->state == OP_IN_PROGRESS && op->step >= n)
        op_end(op, true);
}

int
op_start(struct manager *m, const struct op_type *type, const struct vpg *v,
         const char *user, cJSON *params, struct op **out_op, struct err *err)
{
    struct op *op = op_new(m, type);
    int rc;

    if (!op) {
        cJSON_Delete(params);
        return err_set(err, -ENOMEM, ERR_GEN_0002, "task: out of memory");
    }
    op->params = params ? params : cJSON_CreateObject();
    op->started_ms = wall_ms();
    op->step_ms = http_loop_now_ms();
    (void)text_safe(op->user, sizeof op->user, user, strlen(user));
    if (v) {
        op->vpg = v->id.u;
        (void)snprintf(op->vpg_name, sizeof op->vpg_name, "%s", v->name);
    }
    rc = op->params ? pki_uuid(&op->id, err)
                    : err_set(err, -ENOMEM, ERR_GEN_0002, "task: out of memory");
    if (rc == 0)
        rc = op_save(op, err);
    if (rc < 0) {
        op_free(op);
        return rc;
    }
    list_push_back(&m->ops, &op->link);
    arm(op, 0);
    if (out_op)
        *out_op = op;
    return 0;
}

struct op *
ops_find(struct manager *m, const struct uuid *id)
{
    struct list *pos;

    list_for_each (pos, &m->ops) {
        struct op *op = list_entry(pos, struct op, link);

        if (uuid_equal(&op->id, id))
            return op;
    }
    return NULL;
}

struct op *
ops_running(struct manager *m, const struct uuid *vpg)
{
    struct list *pos;

    list_for_each (pos, &m->ops) {
        struct op *op = list_entry(pos, struct op, link);

        if (op->state == OP_IN_PROGRESS && uuid_equal(&op->vpg, vpg) &&
            !op_beside(op->type))
            return op;
    }
    return NULL;
}

/* --- for steps ------------------------------------------------------------------------- */

enum op_verdict
op_fail(struct op *op, int num, enum err_code code, const char *fmt, ...)
{
    char text[ERR_MSG_MAX];
    va_list ap;

    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    (void)err_set(&op->err, num, code, "%s", text);
    return OP_FAILED;
}

enum op_verdict
op_wait(struct op *op, uint64_t ms, const char *what)
{
    uint64_t waited = http_loop_now_ms() - op->step_ms;

    if (waited < ms)
        return OP_WAIT;
    return op_fail(op, -ETIMEDOUT, ERR_MGR_0014,
                   "%s: waited %" PRIu64 " s for %s",
                   op->type->steps[op->step].name, waited / 1000, what);
}

enum op_verdict
op_retry(struct op *op, uint64_t ms)
{
    const struct rpc *r = op->reply;

    op->err = r->err;
    if (r->status != 0 && r->status != 502 && r->status != 503 &&
        r->status != 504)
        return OP_FAILED;
    if (http_loop_now_ms() - op->step_ms >= ms)
        return OP_FAILED;
    return OP_WAIT; /* the next call is made when the timer comes */
}

static void
call_done(struct rpc *r)
{
    struct op *op = r->arg;

    op->calling = false;
    if (workers_ending(r->job.workers))
        return;
    op->reply = r;
    op_advance(op);
    op->reply = NULL;
}

static enum op_verdict
call_started(struct op *op, int rc, const struct err *err)
{
    if (rc == 0) {
        op->calling = true;
        return OP_WAIT;
    }
    op->err = *err;
    if (rc == -EAGAIN || rc == -ENOTCONN)
        return op_wait(op, 30000, err->msg);
    return OP_FAILED;
}

enum op_verdict
op_submit(struct op *op, struct rpc *r)
{
    struct err err = ERR_INIT;

    if (r) {
        r->done = call_done;
        r->arg = op;
    }
    return call_started(op, rpc_submit(op->m->workers, r, &err), &err);
}

enum op_verdict
op_call_replicator(struct op *op, const struct uuid *replicator,
                   const char *method, const char *path, const struct buf *body)
{
    struct replicator *r = fleet_find(op->m, replicator);
    struct err err = ERR_INIT;

    if (!r)
        return op_fail(op, -ENOENT, ERR_API_0013,
                       "the replicator of this VPG is not known at this site");
    return call_started(op,
                        fleet_call(op->m, r, method, path, body, call_done, op,
                                   &err),
                        &err);
}

enum op_verdict
op_call_peer(struct op *op, const struct uuid *site, const char *method,
             const char *path, const struct buf *body)
{
    struct peer *p = peers_find(op->m, site);
    struct err err = ERR_INIT;

    if (!p)
        return op_fail(op, -ENOENT, ERR_MGR_0012,
                       "the other site of this VPG is not paired with this one");
    return call_started(op,
                        peers_call(op->m, p, method, path, body, call_done, op,
                                   &err),
                        &err);
}
