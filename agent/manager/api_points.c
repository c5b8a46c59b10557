/* Points in time of VPGs, and what is opened at them: checkpoints, failover
 * tests, views. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/text.h"
#include "manager/manager.h"

/* --- checkpoints ------------------------------------------------------------------------------------ */

enum {
    PAGE = 10000
};

/* Pages of the replicator's table, joined into one list. */
struct listing {
    struct manager *m;
    struct http_req *rq;
    struct uuid vpg;
    struct buf out;
    struct json_writer w;
    uint64_t from_ns, to_ns, skip, left;
};

static void next_page(struct listing *l);

static void
listing_end(struct listing *l)
{
    buf_release(&l->out);
    free(l);
}

static void
page_done(struct rpc *r)
{
    struct listing *l = r->arg;
    const cJSON *item;
    uint64_t n = 0;

    if (r->rc < 0) {
        http_reply_err(l->rq, r->status == 404 ? 404 : http_status_of(r->rc),
                       &r->err);
        listing_end(l);
        return;
    }
    cJSON_ArrayForEach (item, json_get(r->json, "Checkpoints")) {
        put_checkpoint(&l->w, NULL, l->m, &l->vpg, item);
        n++;
    }
    l->skip += n;
    l->left -= MIN(n, l->left);
    if (n == PAGE && l->left && !l->out.failed) {
        next_page(l);
        return;
    }
    json_close_array(&l->w);
    http_reply_buf(l->rq, 200, &l->out);
    listing_end(l);
}

static void
next_page(struct listing *l)
{
    struct vpg *v = vpgs_find(l->m, &l->vpg);
    struct replicator *r = v ? fleet_find(l->m, &v->target) : NULL;
    char id[UUID_TEXT_SIZE], path[300];
    struct err err = ERR_INIT;
    int rc;

    uuid_format(&l->vpg, id);
    (void)snprintf(path, sizeof path,
                   "/control/v1/targets/%s/checkpoints?from=%" PRIu64
                   "&to=%" PRIu64 "&skip=%" PRIu64 "&limit=%" PRIu64,
                   id, l->from_ns, l->to_ns, l->skip,
                   MIN(l->left, (uint64_t)PAGE));
    rc = r ? fleet_call(l->m, r, "GET", path, NULL, page_done, l, &err)
           : err_set(&err, -ENOENT, ERR_API_0013,
                     "the replicator of this VPG is not known at this site");
    if (rc < 0) {
        http_reply_err(l->rq, http_status_of(rc), &err);
        listing_end(l);
    }
}

static void
checkpoints_list(struct http_req *rq, void *ctx)
{
    struct manager *m = ctx;
    struct vpg *v = api_vpg(rq, m);
    uint64_t from, to, offset, limit;
    struct listing *l;

    if (!v || api_time_range(rq, &from, &to) < 0 ||
        api_window(rq, &offset, &limit) < 0 ||
        api_forwarded(rq, m, v, SIDE_RECOVERY))
        return;
    if (limit == 0) {
        http_reply(rq, 200, "[]", 2);
        return;
    }
    l = calloc(1, sizeof *l);
    if (!l) {
        http_reply_fail(rq, 503, ERR_GEN_0002, "checkpoints: out of memory");
        return;
    }
    l->m = m;
    l->rq = rq;
    l->vpg = v->id.u;
    l->from_ns = from * NSEC_PER_MSEC;
    l->to_ns = to >= INT64_MAX / NSEC_PER_MSEC
                   ? INT64_MAX
                   : to * NSEC_PER_MSEC + (NSEC_PER_MSEC - 1);
    l->skip = offset;
    l->left = limit;
    buf_init(&l->out, 4 * API_JSON_MAX);
    json_begin(&l->w, &l->out);
    json_open_array(&l->w, NULL);
    next_page(l);
}

struct one_point {
    struct http_req *rq;
    struct manager *m;
    struct uuid vpg;
};

static void
point_done(struct rpc *r)
{
    struct one_point *o = r->arg;
    struct json_writer w;
    struct buf out;

    if (r->rc < 0) {
        http_reply_err(o->rq,
                       r->status >= 400 ? r->status : http_status_of(r->rc),
                       &r->err);
        free(o);
        return;
    }
    buf_init(&out, API_JSON_MAX);
    json_begin(&w, &out);
    put_checkpoint(&w, NULL, o->m, &o->vpg, r->json);
    http_reply_buf(o->rq, 200, &out);
    free(o);
}

static void
checkpoint_get(struct http_req *rq, void *ctx)
{
    struct manager *m = ctx;
    struct vpg *v = api_vpg(rq, m);
    const char *point = http_req_path(rq, "checkpoint"),
               *lane = http_req_query(rq, "incarnation");
    char id[UUID_TEXT_SIZE], path[300];
    struct err err = ERR_INIT;
    struct one_point *o;
    struct replicator *r;
    struct uuid u;
    uint64_t n;
    int rc;

    if (!v)
        return;
    if (text_parse_u64(point, 0, UINT64_MAX, &n) < 0 ||
        (lane && uuid_parse(lane, &u) < 0)) {
        http_reply_fail(rq, 400, ERR_API_0014,
                        "a checkpoint is named by its number, an incarnation "
                        "by its identifier");
        return;
    }
    if (api_forwarded(rq, m, v, SIDE_RECOVERY))
        return;
    r = fleet_find(m, &v->target);
    o = malloc(sizeof *o);
    uuid_format(&v->id.u, id);
    (void)snprintf(path, sizeof path,
                   "/control/v1/targets/%s/checkpoints/%" PRIu64 "%s%.40s", id,
                   n, lane ? "?incarnation=" : "", lane ? lane : "");
    if (o)
        *o = (struct one_point){ rq, m, v->id.u };
    if (!o)
        rc = err_set(&err, -ENOMEM, ERR_GEN_0002, "checkpoint: out of memory");
    else if (!r)
        rc = err_set(&err, -ENOENT, ERR_API_0013,
                     "the replicator of this VPG is not known at this site");
    else
        rc = fleet_call(m, r, "GET", path, NULL, point_done, o, &err);
    if (rc < 0) {
        free(o);
        http_reply_err(rq, http_status_of(rc), &err);
    }
}

static void
checkpoints_stats(struct http_req *rq, void *ctx)
{
    struct manager *m = ctx;
    struct vpg *v = api_vpg(rq, m);
    struct json_writer w;
    struct buf out;

    if (!v)
        return;
    buf_init(&out, API_JSON_MAX);
    json_begin(&w, &out);
    json_open_obj(&w, NULL);
    put_checkpoint(&w, "Earliest", m, &v->id.u,
                   json_get(vpgs_last_target(m, v), "Oldest"));
    put_checkpoint(&w, "Latest", m, &v->id.u,
                   json_get(vpgs_last_target(m, v), "Newest"));
    json_close_obj(&w);
    http_reply_buf(rq, 200, &out);
}

static void
checkpoints_post(struct http_req *rq, void *ctx)
{
    struct manager *m = ctx;
    struct vpg *v = api_vpg(rq, m);
    const char *name = NULL;
    struct err err = ERR_INIT;
    const cJSON *body;
    cJSON *params;

    if (!v || http_req_json(rq, &body) < 0)
        return;
    if (json_str(body, "CheckpointName", JSON_OPTIONAL, &name, &err) < 0) {
        http_reply_err(rq, 400, &err);
        return;
    }
    if (!name || !*name || strlen(name) > 255) {
        http_reply_fail(rq, 400, ERR_API_0014,
                        "CheckpointName has %zu bytes, 1 to 255 are taken",
                        name ? strlen(name) : 0);
        return;
    }
    if (!api_active(rq, v) || api_forwarded(rq, m, v, SIDE_PROTECTED))
        return;
    params = cJSON_CreateObject();
    (void)cJSON_AddStringToObject(params, "CheckpointName", name);
    api_start(rq, m, &op_tag, v, params);
}

/* --- tests and views ---------------------------------------------------------------------------------- */

/* VolumeNumbers of the VMs named; none named: all.  NULL when answered. */
static cJSON *
pick_volumes(struct http_req *rq, const struct vpg *v, const cJSON *body)
{
    const cJSON *vms = json_get(body, "VmIdentifiers"), *item;
    cJSON *numbers = cJSON_CreateArray();

    if (vms && !cJSON_IsArray(vms)) {
        http_reply_fail(rq, 400, ERR_API_0014, "VmIdentifiers is no list");
        cJSON_Delete(numbers);
        return NULL;
    }
    cJSON_ArrayForEach (item, vms) {
        struct uuid id;
        bool found = false;

        for (unsigned i = 0;
             cJSON_IsString(item) && uuid_parse(item->valuestring, &id) == 0 &&
             i < v->n_volumes;
             i++) {
            if (uuid_equal(&v->volumes[i].vm, &id)) {
                cJSON_AddItemToArray(numbers,
                                     cJSON_CreateNumber(v->volumes[i].number));
                found = true;
            }
        }
        if (!found) {
            http_reply_fail(rq, 400, ERR_API_0014,
                            "VmIdentifiers names a VM that is not in VPG %s",
                            v->name);
            cJSON_Delete(numbers);
            return NULL;
        }
    }
    return numbers;
}

/* The point that was asked for, into params; false when answered. */
static bool
read_point(struct http_req *rq, const cJSON *body, cJSON *params)
{
    static const char *const names[] = { "CheckpointIdentifier",
                                         "CheckpointId" };
    const char *stamp = NULL;
    char normal[TIME_SIZE], digits[24];
    struct err err = ERR_INIT;
    uint64_t n, ms = 0;

    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        int rc =
            json_u64(body, names[i], JSON_OPTIONAL, 0, UINT64_MAX, &n, &err);

        if (rc < 0) {
            http_reply_err(rq, 400, &err);
            return false;
        }
        if (rc == 1) {
            (void)snprintf(digits, sizeof digits, "%" PRIu64, n);
            (void)cJSON_AddStringToObject(params, "CheckpointIdentifier",
                                          digits);
            return true;
        }
    }
    if (json_str(body, "TimeStamp", JSON_OPTIONAL, &stamp, &err) < 0) {
        http_reply_err(rq, 400, &err);
        return false;
    }
    if (stamp && time_parse(stamp, &ms) < 0) {
        http_reply_fail(rq, 400, ERR_API_0014,
                        "TimeStamp is no time: 2026-11-22T03:32:48Z is one");
        return false;
    }
    if (stamp)
        (void)cJSON_AddStringToObject(params, "TimeStamp",
                                      time_text(ms, normal));
    return true;
}

static cJSON *
view_params(struct http_req *rq, const struct vpg *v, const cJSON *body)
{
    cJSON *params = cJSON_CreateObject(), *numbers;
    struct err err = ERR_INIT;
    bool damaged = false;

    if (!params || !read_point(rq, body, params)) {
        cJSON_Delete(params);
        return NULL;
    }
    if (json_bool(body, "AllowDamaged", JSON_OPTIONAL, &damaged, &err) < 0) {
        http_reply_err(rq, 400, &err);
        cJSON_Delete(params);
        return NULL;
    }
    (void)cJSON_AddBoolToObject(params, "AllowDamaged", damaged);
    numbers = pick_volumes(rq, v, body);
    if (!numbers) {
        cJSON_Delete(params);
        return NULL;
    }
    cJSON_AddItemToObject(params, "VolumeNumbers", numbers);
    return params;
}

static void
start_view(struct http_req *rq, struct manager *m, const struct op_type *type)
{
    struct vpg *v = api_vpg(rq, m);
    const cJSON *body;
    cJSON *params;

    if (!v || http_req_json(rq, &body) < 0 || !api_active(rq, v) ||
        api_forwarded(rq, m, v, SIDE_RECOVERY))
        return;
    if (type == &op_test && v->test.running) {
        http_reply_fail(rq, 400, ERR_MGR_0011,
                        "VPG %s: a failover test is running already", v->name);
        return;
    }
    params = view_params(rq, v, body);
    if (params)
        api_start(rq, m, type, v, params);
}

static void
failover_test(struct http_req *rq, void *ctx)
{
    start_view(rq, ctx, &op_test);
}

static void
views_post(struct http_req *rq, void *ctx)
{
    start_view(rq, ctx, &op_open_view);
}

static void
failover_test_stop(struct http_req *rq, void *ctx)
{
    struct manager *m = ctx;
    struct vpg *v = api_vpg(rq, m);
    const char *summary = NULL;
    struct err err = ERR_INIT;
    bool success = true;
    const cJSON *body;
    cJSON *params;

    if (!v || http_req_json(rq, &body) < 0)
        return;
    if (json_bool(body, "FailoverTestSuccess", JSON_OPTIONAL, &success, &err) <
            0 ||
        json_str(body, "FailoverTestSummary", JSON_OPTIONAL, &summary, &err) <
            0) {
        http_reply_err(rq, 400, &err);
        return;
    }
    if (api_forwarded(rq, m, v, SIDE_RECOVERY))
        return;
    if (!v->test.running) {
        http_reply_fail(rq, 400, ERR_MGR_0011,
                        "VPG %s: no failover test is running", v->name);
        return;
    }
    params = cJSON_CreateObject();
    (void)cJSON_AddBoolToObject(params, "FailoverTestSuccess", success);
    (void)cJSON_AddStringToObject(params, "FailoverTestSummary",
                                  summary ? summary : "");
    api_start(rq, m, &op_test_stop, v, params);
}

static void
put_view_volume(struct json_writer *w, const cJSON *view, const cJSON *vol)
{
    json_open_obj(w, NULL);
    json_put_str_or_null(w, "ViewIdentifier",
                         json_str_or(view, "ViewIdentifier", NULL));
    json_put_str_or_null(w, "VmName", json_str_or(vol, "VmName", NULL));
    json_put_str_or_null(w, "VolumeIdentifier",
                         json_str_or(vol, "VolumeIdentifier", NULL));
    json_put_str_or_null(w, "VolumeName", json_str_or(vol, "VolumeName", NULL));
    json_put_str_or_null(w, "CheckpointIdentifier",
                         json_str_or(view, "CheckpointIdentifier", NULL));
    json_put_str_or_null(w, "TimeStamp", json_str_or(view, "TimeStamp", NULL));
    json_put_str_or_null(w, "Mode", json_str_or(view, "Mode", NULL));
    json_put_str_or_null(w, "NbdUri", json_str_or(vol, "NbdUri", NULL));
    json_put_u64(w, "SizeInBytes", json_u64_or(vol, "SizeInBytes", 0));
    json_put_u64(w, "Connections", json_u64_or(vol, "Connections", 0));
    json_put_str_or_null(w, "Broken", json_str_or(view, "Broken", NULL));
    json_close_obj(w);
}

/* Asked of the replicator itself, so that a view that a task has just opened
 * is there. */
struct view_list {
    struct http_req *rq;
    struct uuid vpg;
};

static void
views_done(struct rpc *r)
{
    struct view_list *l = r->arg;
    const cJSON *target, *view, *vol;
    struct json_writer w;
    struct buf out;
    struct uuid id;

    if (r->rc < 0) {
        http_reply_err(l->rq, http_status_of(r->rc), &r->err);
        free(l);
        return;
    }
    buf_init(&out, API_JSON_MAX);
    json_begin(&w, &out);
    json_open_array(&w, NULL);
    cJSON_ArrayForEach (target, json_get(r->json, "Targets")) {
        if (json_uuid(target, "VpgIdentifier", JSON_REQUIRED, &id, NULL) < 0 ||
            !uuid_equal(&id, &l->vpg))
            continue;
        cJSON_ArrayForEach (view, json_get(target, "Views")) {
            cJSON_ArrayForEach (vol, json_get(view, "Volumes")) {
                put_view_volume(&w, view, vol);
            }
        }
    }
    json_close_array(&w);
    http_reply_buf(l->rq, 200, &out);
    free(l);
}

static void
views_get(struct http_req *rq, void *ctx)
{
    struct manager *m = ctx;
    struct vpg *v = api_vpg(rq, m);
    struct replicator *r;
    struct view_list *l;
    struct err err = ERR_INIT;
    int rc = -ENOMEM;

    if (!v || api_forwarded(rq, m, v, SIDE_RECOVERY))
        return;
    r = fleet_find(m, &v->target);
    l = calloc(1, sizeof *l);
    if (l && r) {
        *l = (struct view_list){ rq, v->id.u };
        rc = fleet_call(m, r, "GET", "/control/v1/status", NULL, views_done, l,
                        &err);
    } else if (!r) {
        rc = err_set(&err, -ENOENT, ERR_API_0013,
                     "the replicator of this VPG is not known at this site");
    }
    if (rc < 0) {
        free(l);
        http_reply_err(rq, http_status_of(rc), &err);
    }
}

/* Is it a failover test's?  Two witnesses: our own record of the test, and the
 * replicator, which keeps each view's mode. */
static bool
view_is_test(struct manager *m, const struct vpg *v, const struct uuid *id)
{
    const struct replicator *r = any_replicator(m, &v->target);
    const cJSON *view;

    if (v->test.running && uuid_equal(id, &v->test.view))
        return true;
    cJSON_ArrayForEach (view,
                        json_get(r ? replicator_target(r, v) : NULL, "Views")) {
        const char *mode = "";
        struct uuid have;

        if (json_uuid(view, "ViewIdentifier", JSON_REQUIRED, &have, NULL) == 1 &&
            json_str(view, "Mode", JSON_REQUIRED, &mode, NULL) == 1 &&
            uuid_equal(&have, id) && strcmp(mode, "Test") == 0)
            return true;
    }
    return false;
}

static void
view_delete(struct http_req *rq, void *ctx)
{
    struct manager *m = ctx;
    struct vpg *v = api_vpg(rq, m);
    char text_id[UUID_TEXT_SIZE];
    struct uuid id;
    cJSON *params;

    if (!v || api_uuid(rq, "view", &id) < 0 ||
        api_forwarded(rq, m, v, SIDE_RECOVERY))
        return;
    if (view_is_test(m, v, &id)) {
        http_reply_fail(rq, 400, ERR_MGR_0011,
                        "this view is the failover test's: stop the test "
                        "(holdfast stop, FailoverTestStop) to end it");
        return;
    }
    uuid_format(&id, text_id);
    params = cJSON_CreateObject();
    (void)cJSON_AddStringToObject(params, "ViewIdentifier", text_id);
    api_start(rq, m, &op_close_view, v, params);
}

static void
scrub(struct http_req *rq, void *ctx)
{
    struct manager *m = ctx;
    struct vpg *v = api_vpg(rq, m);

    if (v && api_active(rq, v) && !api_forwarded(rq, m, v, SIDE_RECOVERY))
        api_start(rq, m, &op_scrub, v, NULL);
}

#define ONE "/v1/vpgs/{vpg}"
const struct http_route api_point_routes[] = {
    { "GET", ONE "/checkpoints", PRIV_VIEWER, 0, checkpoints_list,
      "Points in time, oldest first; startDate, endDate, offset, limit." },
    { "POST", ONE "/checkpoints", PRIV_MANAGE_VPG, 0, checkpoints_post,
      "A tagged one: {CheckpointName}; the task ends when this very one is listed at the recovery site, and fails when it is lost on the way." },
    { "GET", ONE "/checkpoints/stats", PRIV_VIEWER, 0, checkpoints_stats,
      "{Earliest, Latest}." },
    { "GET", ONE "/checkpoints/{checkpoint}", PRIV_VIEWER, 0, checkpoint_get,
      "One of them, by its number; 404 with REP-0016: not listed (yet), 409 with REP-0022: lost, it will never be." },
    { "POST", ONE "/FailoverTest", PRIV_TEST_FAILOVER, 0, failover_test,
      "Open all volumes as of a point, writable on scratch: {CheckpointIdentifier, VmIdentifiers[], AllowDamaged}; a task." },
    { "POST", ONE "/FailoverTestStop", PRIV_TEST_FAILOVER, 0, failover_test_stop,
      "Close them: {FailoverTestSuccess, FailoverTestSummary}; a task." },
    { "GET", ONE "/views", PRIV_VIEWER, 0, views_get,
      "Open views, one row a volume, with NbdUri." },
    { "POST", ONE "/views", PRIV_TEST_FAILOVER, 0, views_post,
      "Open one: {CheckpointIdentifier or TimeStamp, VmIdentifiers[], AllowDamaged}; a task, whose guid is the ViewIdentifier." },
    { "POST", ONE "/scrub", PRIV_MANAGE_VPG, 0, scrub,
      "Read and verify its journal; a task with Progress and Scrub{Segments, Batches, Chunks, Runs, Replicas, Bytes, Bad, "
      "FirstBad}, which fails when something is bad." },
    { "DELETE", ONE "/views/{view}", PRIV_TEST_FAILOVER, 0, view_delete,
      "Close one; a task." },
    { NULL, NULL, 0, 0, NULL, NULL },
};
