/* Tasks and events. */
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/text.h"
#include "manager/manager.h"

/* --- tasks -------------------------------------------------------------------------------- */

static const char *const states[] = {
    "FirstUnusedValue", "InProgress", "WaitingForUserInput", "Paused",
    "Failed",           "Stopped",    "Completed",           "Cancelling"
};

struct task_filter {
    uint64_t bounds[4]; /* started before, after, completed before, after */
};

static int
read_filter(struct http_req *rq, struct task_filter *f)
{
    static const char *const names[] = { "startedBeforeDate", "startedAfterDate",
                                         "completedBeforeDate",
                                         "completedAfterDate" };

    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        const char *s = http_req_query(rq, names[i]);

        f->bounds[i] = i % 2 ? 0 : UINT64_MAX;
        if (s && *s && time_parse(s, &f->bounds[i]) < 0) {
            http_reply_fail(rq, 400, ERR_API_0014, "%s is no time", names[i]);
            return -EINVAL;
        }
    }
    return 0;
}

static bool
passes(struct http_req *rq, const struct task_filter *f, const char *type,
       unsigned state, uint64_t started, uint64_t completed)
{
    bool asks_completed = f->bounds[2] != UINT64_MAX || f->bounds[3];

    return api_filter(rq, "type", type) &&
           api_filter_enum(rq, "status", state, states, ARRAY_SIZE(states)) &&
           started <= f->bounds[0] && started >= f->bounds[1] &&
           (!asks_completed || (completed && completed <= f->bounds[2] &&
                                completed >= f->bounds[3]));
}

static uint64_t
time_member(const cJSON *o, const char *name)
{
    const char *s = NULL;
    uint64_t ms = 0;

    if (json_str(o, name, JSON_OPTIONAL, &s, NULL) == 1)
        (void)time_parse(s, &ms);
    return ms;
}

/* Tasks of shared VPGs that the other sites run. */
static void
put_peer_tasks(struct http_req *rq, struct manager *m, struct json_writer *w,
               const struct task_filter *f)
{
    struct list *pos;
    const cJSON *t;

    list_for_each (pos, &m->peers) {
        cJSON_ArrayForEach (t, list_entry(pos, struct peer, link)->tasks) {
            const char *type = "";
            uint64_t state = 0;

            (void)json_str(t, "Type", JSON_OPTIONAL, &type, NULL);
            (void)json_u64(json_get(t, "Status"), "State", JSON_OPTIONAL, 0, 7,
                           &state, NULL);
            if (passes(rq, f, type, (unsigned)state, time_member(t, "Started"),
                       time_member(t, "Completed")))
                json_put_tree(w, NULL, t);
        }
    }
}

static void
tasks_list(struct http_req *rq, void *ctx)
{
    struct manager *m = ctx;
    struct task_filter f;
    struct json_writer w;
    struct list *pos;
    struct buf out;

    if (read_filter(rq, &f) < 0)
        return;
    buf_init(&out, API_JSON_MAX);
    json_begin(&w, &out);
    json_open_array(&w, NULL);
    list_for_each (pos, &m->ops) {
        const struct op *op = list_entry(pos, struct op, link);

        if (passes(rq, &f, op->type->task, (unsigned)op->state, op->started_ms,
                   op->completed_ms))
            op_put_task(&w, op);
    }
    put_peer_tasks(rq, m, &w, &f);
    json_close_array(&w);
    http_reply_buf(rq, 200, &out);
}

static void
task_forwarded(struct rpc *r)
{
    struct http_req *rq = r->arg;

    if (r->rc < 0)
        api_not_forwarded(rq, r);
    else
        http_reply(rq, r->status, (char *)r->text.data, r->text.len);
}

/* A task that another site runs is asked for there, so that its state is of
 * this moment. */
static void
ask_site(struct http_req *rq, struct manager *m, struct peer *p)
{
    struct json_writer w;
    struct buf body;
    struct rpc *r;
    struct err err = ERR_INIT;

    buf_init(&body, 16 * KIB);
    json_begin(&w, &body);
    json_open_obj(&w, NULL);
    json_put_str(&w, "Method", "GET");
    json_put_str(&w, "Target", http_req_target(rq));
    json_put_str(&w, "User", http_req_user(rq));
    json_put_str(&w, "Body", "");
    json_close_obj(&w);
    r = p->dest && !body.failed ? rpc_new(p->dest, "POST", "/peer/v1/forward",
                                          &body, task_forwarded, rq)
                                : NULL;
    if (r)
        r->raw = true;
    if (rpc_submit(m->workers, r, &err) < 0)
        http_reply_err(rq, 503, &err);
    buf_release(&body);
}

static void
task_get(struct http_req *rq, void *ctx)
{
    struct manager *m = ctx;
    const char *given = http_req_path(rq, "task"), *dot = strchr(given, '.');
    char text[UUID_TEXT_SIZE];
    struct uuid id, site = m->site;
    const struct op *op;
    struct json_writer w;
    struct buf out;
    struct peer *p;

    (void)snprintf(text, sizeof text, "%s", given);
    if ((dot && dot - given != UUID_TEXT_SIZE - 1) ||
        (dot && uuid_parse(dot + 1, &site) < 0) ||
        (!dot && strlen(given) != UUID_TEXT_SIZE - 1) ||
        uuid_parse(text, &id) < 0) {
        http_reply_fail(rq, 400, ERR_API_0014, "%s is no task identifier",
                        given);
        return;
    }
    op = ops_find(m, &id);
    if (op) {
        buf_init(&out, API_JSON_MAX);
        json_begin(&w, &out);
        op_put_task(&w, op);
        http_reply_buf(rq, 200, &out);
        return;
    }
    p = http_req_is_local(rq) ? NULL : peers_find(m, &site);
    if (p)
        ask_site(rq, m, p);
    else
        http_reply_fail(rq, 404, ERR_API_0013, "there is no task %s", given);
}

static void
task_types(struct http_req *rq, void *ctx)
{
    const char *names[32];
    unsigned n = 0;

    UNUSED(ctx);
    while (n < ARRAY_SIZE(names) && op_types[n]) {
        names[n] = op_types[n]->task;
        n++;
    }
    api_names(rq, names, n);
}

/* --- events ---------------------------------------------------------------------------------- */

enum {
    EVENTS_SHOWN = 1000
};

static const char *const entities[] = { "VPG", "VRA", "Unknown", "Site" };
static const char *const categories[] = { "All", "Events", "Alerts" };

struct event_list {
    struct http_req *rq;
    struct json_writer w;
    const char *vpg;
    unsigned n;
};

static const char *
first_vpg(const cJSON *tree)
{
    const char *s = "";

    (void)json_str(cJSON_GetArrayItem(json_get(tree, "Vpgs"), 0),
                   "VpgIdentifier", JSON_OPTIONAL, &s, NULL);
    return s;
}

static bool
event_passes(struct http_req *rq, const cJSON *tree)
{
    uint64_t type = 0, entity = 0;
    const char *user = "", *site = "", *category = "";
    const char *want = http_req_query(rq, "eventType"),
               *vpg = http_req_query(rq, "vpgIdentifier");
    char digits[24];

    (void)json_u64(tree, "EventType", JSON_OPTIONAL, 0, 1000, &type, NULL);
    (void)json_u64(tree, "EntityType", JSON_OPTIONAL, 0, 10, &entity, NULL);
    (void)json_str(tree, "UserName", JSON_OPTIONAL, &user, NULL);
    (void)json_str(tree, "SiteName", JSON_OPTIONAL, &site, NULL);
    (void)json_str(tree, "EventCategory", JSON_OPTIONAL, &category, NULL);
    (void)snprintf(digits, sizeof digits, "%u", (unsigned)type);
    if (want && *want && strcmp(want, digits) != 0 &&
        text_icmp(want, event_type_name((unsigned)type)) != 0)
        return false;
    if (vpg && *vpg && text_icmp(vpg, first_vpg(tree)) != 0)
        return false;
    return api_filter_enum(rq, "entityType", (unsigned)entity, entities,
                           ARRAY_SIZE(entities)) &&
           api_filter(rq, "userName", user) &&
           api_filter(rq, "siteName", site) &&
           (api_filter(rq, "category", category) ||
            api_filter(rq, "category", "All") ||
            api_filter(rq, "category", "0"));
}

static int
put_event(void *arg, const char *id, const char *json)
{
    struct event_list *l = arg;
    cJSON *tree = NULL;

    UNUSED(id);
    if (json_parse(json, strlen(json), 64 * KIB, &tree, NULL) == 0 &&
        event_passes(l->rq, tree)) {
        json_put_tree(&l->w, NULL, tree);
        l->n++;
    }
    cJSON_Delete(tree);
    return 0;
}

static void
events_list(struct http_req *rq, void *ctx)
{
    struct manager *m = ctx;
    struct event_list l = { .rq = rq };
    struct err err = ERR_INIT;
    uint64_t from, to;
    struct buf out;

    if (api_time_range(rq, &from, &to) < 0)
        return;
    buf_init(&out, API_JSON_MAX);
    json_begin(&l.w, &out);
    json_open_array(&l.w, NULL);
    if (catalog_events(m->catalog, from, to, EVENTS_SHOWN, put_event, &l,
                       &err) < 0) {
        buf_release(&out);
        http_reply_err(rq, 500, &err);
        return;
    }
    json_close_array(&l.w);
    http_reply_buf(rq, 200, &out);
}

struct one_event {
    const char *id;
    char *json;
};

static int
find_event(void *arg, const char *id, const char *json)
{
    struct one_event *one = arg;

    if (!one->json && text_icmp(id, one->id) == 0)
        one->json = strdup(json);
    return 0;
}

static void
event_get(struct http_req *rq, void *ctx)
{
    struct manager *m = ctx;
    struct one_event one = { .id = http_req_path(rq, "event") };

    (void)catalog_events(m->catalog, 0, INT64_MAX, 10000, find_event, &one,
                         NULL);
    if (one.json)
        http_reply(rq, 200, one.json, strlen(one.json));
    else
        http_reply_fail(rq, 404, ERR_API_0013, "there is no event %s", one.id);
    free(one.json);
}

static void
event_types(struct http_req *rq, void *ctx)
{
    const char *names[128];
    unsigned n = MIN(event_type_count(), (unsigned)ARRAY_SIZE(names));

    UNUSED(ctx);
    for (unsigned i = 0; i < n; i++)
        names[i] = event_type_name(i);
    api_names(rq, names, n);
}

static void
event_entities(struct http_req *rq, void *ctx)
{
    UNUSED(ctx);
    api_names(rq, entities, ARRAY_SIZE(entities));
}

static void
event_categories(struct http_req *rq, void *ctx)
{
    UNUSED(ctx);
    api_names(rq, categories, ARRAY_SIZE(categories));
}

const struct http_route api_task_routes[] = {
    { "GET", "/v1/tasks", PRIV_VIEWER, 0, tasks_list,
      "Tasks of this site and of shared VPGs; startedBeforeDate, startedAfterDate, completedBeforeDate, "
      "completedAfterDate, type, status." },
    { "GET", "/v1/tasks/types", PRIV_VIEWER, 0, task_types,
      "Names of task types." },
    { "GET", "/v1/tasks/{task}", PRIV_VIEWER, 0, task_get, "One task." },
    { "GET", "/v1/events", PRIV_VIEWER, 0, events_list,
      "The last 1000; startDate, endDate, vpgIdentifier, eventType, entityType, userName, siteName, category." },
    { "GET", "/v1/events/types", PRIV_VIEWER, 0, event_types,
      "Names of event types." },
    { "GET", "/v1/events/entities", PRIV_VIEWER, 0, event_entities, "Names." },
    { "GET", "/v1/events/categories", PRIV_VIEWER, 0, event_categories,
      "Names." },
    { "GET", "/v1/events/{event}", PRIV_VIEWER, 0, event_get, "One event." },
    { NULL, NULL, 0, 0, NULL, NULL },
};
