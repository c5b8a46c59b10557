/* VPGs: reading, actions, checkpoints, views, and the VMs in them. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/text.h"
#include "manager/manager.h"

static const char *const priorities[] = { "Low", "Medium", "High" };
static const char *const entity_types[] = { "VCVpg", "VCvApp", "VCDvApp", "AWS",
                                            "HyperV" };
static const char *const commit_policies[] = { "Rollback", "Commit", "None" };
static const char *const shutdown_policies[] = { "None", "Shutdown",
                                                 "ForceShutdown" };
static const char *const retention_policies[] = { "None", "Full" };

static uint64_t
number(const cJSON *o, const char *name)
{
    uint64_t n = 0;

    (void)json_u64(o, name, JSON_OPTIONAL, 0, JSON_INT_MAX, &n, NULL);
    return n;
}

static const char *
text(const cJSON *o, const char *name)
{
    const char *s = NULL;

    (void)json_str(o, name, JSON_OPTIONAL, &s, NULL);
    return s;
}

static void
put_str_or_null(struct json_writer *w, const char *name, const char *s)
{
    if (s)
        json_put_str(w, name, s);
    else
        json_put_null(w, name);
}

/* What the recovery side said last, however long ago. */
static const cJSON *
last_target(struct manager *m, const struct vpg *v)
{
    const struct replicator *r = any_replicator(m, &v->target);

    return r ? replicator_target(r, v) : NULL;
}

static int64_t
rpo_seconds(struct manager *m, const struct vpg *v)
{
    int64_t ms = vpgs_rpo_ms(m, v);

    return ms < 0 ? -1 : (ms + 999) / 1000;
}

static uint64_t
provisioned(const struct vpg *v)
{
    uint64_t n = 0;

    for (unsigned i = 0; i < v->n_volumes; i++)
        n += v->volumes[i].size;
    return n;
}

static unsigned
count_vms(const struct vpg *v)
{
    unsigned n = 0;

    for (unsigned i = 0; i < v->n_volumes; i++)
        n += i == 0 || !uuid_equal(&v->volumes[i].vm, &v->volumes[i - 1].vm);
    return n;
}

/* --- rendering ----------------------------------------------------------------------------- */

static void
put_checkpoint(struct json_writer *w, const char *name, struct manager *m,
               const cJSON *c)
{
    const char *kind = text(c, "Kind"), *id = text(c, "CheckpointIdentifier");

    if (!c) {
        json_put_null(w, name);
        return;
    }
    json_open_obj(w, name);
    put_str_or_null(w, "CheckpointIdentifier", id);
    put_str_or_null(w, "TimeStamp", text(c, "TimeStamp"));
    put_str_or_null(w, "Tag", text(c, "Tag"));
    json_put_u64(w, "Type",
                 !kind || strcmp(kind, "Auto") == 0 ? 0
                 : strcmp(kind, "User") == 0        ? 1
                                                    : 2);
    json_put_bool(w, "Vss", kind && strcmp(kind, "Application") == 0);
    put_str_or_null(w, "Kind", kind);
    put_str_or_null(w, "Consistency", text(c, "Consistency"));
    json_put_null(w, "KeptUntil");
    json_put_null(w, "Verdict");
    json_put_null(w, "Note");
    put_link(w, "Link", m, "checkpoints", id ? id : "", "CheckpointApi");
    json_close_obj(w);
}

static void
put_sites(struct json_writer *w, struct manager *m, const struct vpg *v)
{
    json_put_str(w, "SourceSite", site_name(m, &v->protected_site));
    json_put_str(w, "TargetSite", site_name(m, &v->recovery_site));
    json_put_str(w, "ProtectedSiteName", site_name(m, &v->protected_site));
    json_put_str(w, "RecoverySiteName", site_name(m, &v->recovery_site));
    put_site_link(w, "ProtectedSite", m, &v->protected_site);
    put_site_link(w, "RecoverySite", m, &v->recovery_site);
    json_open_obj(w, "Entities");
    json_put_u64(w, "Protected", 0);
    json_put_u64(w, "Recovery", 0);
    json_put_u64(w, "Source", 0);
    json_put_u64(w, "Target", 0);
    json_close_obj(w);
    json_put_str(w, "OrganizationName", "");
}

static void
put_history(struct json_writer *w, struct manager *m, const struct vpg *v)
{
    const cJSON *t = last_target(m, v);
    uint64_t actual = number(t, "ActualHistorySeconds") / 60;

    json_open_obj(w, "HistoryStatusApi");
    json_put_u64(w, "ActualHistoryInMinutes", actual);
    json_put_u64(w, "ConfiguredHistoryInMinutes", v->history_s / 60);
    put_checkpoint(w, "EarliestCheckpoint", m, json_get(t, "Oldest"));
    json_close_obj(w);
    json_open_obj(w, "FailSafeHistory");
    json_put_u64(w, "ActualFailSafeHistory", actual);
    json_put_u64(w, "ConfiguredFailSafeHistory", v->history_s / 60);
    json_put_str(w, "FailSafeDescription", "");
    json_close_obj(w);
}

/* Ours, beyond the reference. */
static void
put_own(struct json_writer *w, struct manager *m, const struct vpg *v)
{
    const cJSON *s = vpgs_source(m, v), *t = last_target(m, v);
    uint64_t raw = number(s, "RawBytesTotal"),
             sent = number(s, "SentBytesTotal");
    const cJSON *error =
        json_get(s, "Error") ? json_get(s, "Error") : json_get(t, "Error");

    json_put_u64(w, "CheckpointIntervalInSeconds", v->interval_s);
    put_checkpoint(w, "LatestCheckpoint", m, json_get(t, "Newest"));
    json_put_u64(w, "CheckpointCount", number(t, "CheckpointCount"));
    json_put_null(w, "CommitDeadline");
    json_put_null(w, "CommitPolicy");
    json_put_u64(w, "LagBytes", number(s, "LagBytes"));
    json_put_u64(w, "SpillUsedInBytes", 0);
    json_put_u64(w, "SpillLimitInBytes", 0);
    json_put_u64(w, "JournalUsedInBytes", number(t, "JournalUsedInBytes"));
    json_put_u64(w, "ScratchUsedInBytes", number(t, "ScratchUsedInBytes"));
    json_put_u64(w, "CompressionPercent",
                 raw && sent < raw ? (raw - sent) * 100 / raw : 0);
    json_put_double(w, "IncomingMBs",
                    uuid_equal(&v->recovery_site, &m->site) ? v->mbps : 0);
    json_put_double(w, "OutgoingMBs",
                    uuid_equal(&v->protected_site, &m->site) ? v->mbps : 0);
    put_str_or_null(w, "SourceState", text(s, "State"));
    put_str_or_null(w, "TargetState", text(t, "State"));
    if (error)
        json_put_tree(w, "Error", error);
    else
        json_put_null(w, "Error");
}

static const char *
name_of(const char *const *names, unsigned n, unsigned i)
{
    return i < n ? names[i] : "?";
}

static void
put_vpg(struct json_writer *w, struct manager *m, struct vpg *v)
{
    struct vpg_verdict verdict = vpgs_verdict(m, v);
    const cJSON *t = last_target(m, v);
    char id[UUID_TEXT_SIZE];
    bool alert = verdict.status == VPG_NOT_MEETING_SLA;

    uuid_format(&v->id.u, id);
    json_open_obj(w, NULL);
    json_put_str(w, "VpgIdentifier", id);
    json_put_str(w, "VpgName", v->name);
    json_put_str(w, "VpgDescription", "");
    json_put_str(w, "VpgType", "Remote");
    json_put_u64(w, "Status", verdict.status);
    json_put_u64(w, "SubStatus", verdict.substatus);
    json_put_str(w, "StatusDescription",
                 name_of(vpg_status_names, vpg_status_count, verdict.status));
    json_put_str(w, "SubStatusDescription",
                 name_of(vpg_substatus_names, vpg_substatus_count,
                         verdict.substatus));
    json_put_u64(w, "AlertStatus",
                 alert                               ? 2
                 : verdict.status == VPG_MEETING_SLA ? 0
                                                     : 1);
    json_put_u64(w, "Priority", v->priority);
    json_put_i64(w, "ActualRPO", rpo_seconds(m, v));
    json_put_u64(w, "ConfiguredRpoSeconds", v->rpo_s);
    json_put_double(w, "ThroughputInMB", v->mbps);
    json_put_u64(w, "IOPs", (uint64_t)v->iops);
    json_put_u64(w, "ProvisionedStorageInMB", provisioned(v) / MIB);
    json_put_u64(w, "UsedStorageInMB", number(t, "ReplicaBytes") / MIB);
    json_put_u64(w, "VmsCount", count_vms(v));
    json_put_u64(w, "ProgressPercentage", (unsigned)verdict.progress);
    put_sites(w, m, v);
    put_link(w, "Zorg", m, "zorgs", "00000000-0000-0000-0000-000000000000",
             "ZorgApi");
    json_put_null(w, "ServiceProfile");
    json_put_null(w, "ServiceProfileIdentifier");
    json_put_str(w, "ServiceProfileName", "Custom");
    json_put_bool(w, "BackupEnabled", false);
    put_time(w, "LastTest", v->last_test_ms);
    json_open_obj(w, "ActiveProcessesApi");
    if (v->test.running) {
        json_open_obj(w, "RunningFailOverTestApi");
        json_put_str(w, "Stage", "Running");
        json_close_obj(w);
    } else {
        json_put_null(w, "RunningFailOverTestApi");
    }
    json_close_obj(w);
    put_history(w, m, v);
    put_own(w, m, v);
    put_link(w, "Link", m, "vpgs", id, "VpgApi");
    json_close_obj(w);
}

/* --- reading ------------------------------------------------------------------------------------- */

static bool
passes(struct http_req *rq, struct manager *m, struct vpg *v)
{
    struct vpg_verdict verdict = vpgs_verdict(m, v);
    char protected_id[UUID_TEXT_SIZE], recovery_id[UUID_TEXT_SIZE];

    uuid_format(&v->protected_site, protected_id);
    uuid_format(&v->recovery_site, recovery_id);
    return api_filter_enum(rq, "status", verdict.status, vpg_status_names,
                           vpg_status_count) &&
           api_filter_enum(rq, "subStatus", verdict.substatus,
                           vpg_substatus_names, vpg_substatus_count) &&
           api_filter_enum(rq, "priority", v->priority, priorities,
                           ARRAY_SIZE(priorities)) &&
           api_filter_enum(rq, "protectedSiteType", 0, entity_types,
                           ARRAY_SIZE(entity_types)) &&
           api_filter_enum(rq, "recoverySiteType", 0, entity_types,
                           ARRAY_SIZE(entity_types)) &&
           api_filter(rq, "protectedSiteIdentifier", protected_id) &&
           api_filter(rq, "recoverySiteIdentifier", recovery_id) &&
           api_filter(rq, "organizationName", "") &&
           api_filter(rq, "backupEnabled", "false") &&
           api_filter(rq, "sourceSite", site_name(m, &v->protected_site)) &&
           api_filter(rq, "targetSite", site_name(m, &v->recovery_site));
}

static void
vpgs_list(struct http_req *rq, void *ctx)
{
    struct manager *m = ctx;
    struct json_writer w;
    struct list *pos;
    struct buf out;

    buf_init(&out, API_JSON_MAX);
    json_begin(&w, &out);
    json_open_array(&w, NULL);
    list_for_each (pos, &m->vpgs) {
        struct vpg *v = list_entry(pos, struct vpg, link);

        if (api_filter(rq, "name", v->name) && passes(rq, m, v))
            put_vpg(&w, m, v);
    }
    json_close_array(&w);
    http_reply_buf(rq, 200, &out);
}

static void
vpg_get(struct http_req *rq, void *ctx)
{
    struct manager *m = ctx;
    struct vpg *v = api_vpg(rq, m);
    struct json_writer w;
    struct buf out;

    if (!v)
        return;
    buf_init(&out, API_JSON_MAX);
    json_begin(&w, &out);
    put_vpg(&w, m, v);
    http_reply_buf(rq, 200, &out);
}

#define NAMES(fn, list)                         \
 static void fn(struct http_req *rq, void *ctx) \
 {                                              \
  UNUSED(ctx);                                  \
  api_names(rq, list, ARRAY_SIZE(list));        \
 }
NAMES(get_priorities, priorities)
NAMES(get_entity_types, entity_types)
NAMES(get_commit_policies, commit_policies)
NAMES(get_shutdown_policies, shutdown_policies)
NAMES(get_retention_policies, retention_policies)

static void
get_statuses(struct http_req *rq, void *ctx)
{
    UNUSED(ctx);
    api_names(rq, vpg_status_names, vpg_status_count);
}

static void
get_substatuses(struct http_req *rq, void *ctx)
{
    UNUSED(ctx);
    api_names(rq, vpg_substatus_names, vpg_substatus_count);
}

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
        put_checkpoint(&l->w, NULL, l->m, item);
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
    put_checkpoint(&w, "Earliest", m, json_get(last_target(m, v), "Oldest"));
    put_checkpoint(&w, "Latest", m, json_get(last_target(m, v), "Newest"));
    json_close_obj(&w);
    http_reply_buf(rq, 200, &out);
}

static bool
must_be_active(struct http_req *rq, const struct vpg *v)
{
    if (v->state == VPG_ACTIVE)
        return true;
    http_reply_fail(rq, 400, ERR_MGR_0011, "VPG %s is being %s", v->name,
                    v->state == VPG_CREATING ? "created" : "deleted");
    return false;
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
    if (name && (!*name || strlen(name) > 255)) {
        http_reply_fail(rq, 400, ERR_API_0014,
                        "CheckpointName has %zu bytes, 1 to 255 are taken",
                        strlen(name));
        return;
    }
    if (!must_be_active(rq, v) || api_forwarded(rq, m, v, SIDE_PROTECTED))
        return;
    params = cJSON_CreateObject();
    if (name)
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

    if (!params || !read_point(rq, body, params)) {
        cJSON_Delete(params);
        return NULL;
    }
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

    if (!v || http_req_json(rq, &body) < 0 || !must_be_active(rq, v) ||
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
    put_str_or_null(w, "ViewIdentifier", text(view, "ViewIdentifier"));
    put_str_or_null(w, "VmName", text(vol, "VmName"));
    put_str_or_null(w, "VolumeIdentifier", text(vol, "VolumeIdentifier"));
    put_str_or_null(w, "VolumeName", text(vol, "VolumeName"));
    put_str_or_null(w, "CheckpointIdentifier",
                    text(view, "CheckpointIdentifier"));
    put_str_or_null(w, "TimeStamp", text(view, "TimeStamp"));
    put_str_or_null(w, "Mode", text(view, "Mode"));
    put_str_or_null(w, "NbdUri", text(vol, "NbdUri"));
    json_put_u64(w, "SizeInBytes", number(vol, "SizeInBytes"));
    json_put_u64(w, "Connections", number(vol, "Connections"));
    put_str_or_null(w, "Broken", text(view, "Broken"));
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
    if (v->test.running && uuid_equal(&id, &v->test.view)) {
        http_reply_fail(
            rq, 400, ERR_MGR_0011,
            "this view is the failover test's: end it with FailoverTestStop");
        return;
    }
    uuid_format(&id, text_id);
    params = cJSON_CreateObject();
    (void)cJSON_AddStringToObject(params, "ViewIdentifier", text_id);
    api_start(rq, m, &op_close_view, v, params);
}

/* --- the other actions ------------------------------------------------------------------------------- */

static void
act(struct http_req *rq, struct manager *m, const struct op_type *type)
{
    struct vpg *v = api_vpg(rq, m);

    if (v && must_be_active(rq, v) && !api_forwarded(rq, m, v, SIDE_PROTECTED))
        api_start(rq, m, type, v, NULL);
}

static void
vpg_pause(struct http_req *rq, void *ctx)
{
    act(rq, ctx, &op_pause);
}

static void
vpg_resume(struct http_req *rq, void *ctx)
{
    act(rq, ctx, &op_resume);
}

static void
vpg_force_sync(struct http_req *rq, void *ctx)
{
    act(rq, ctx, &op_force_sync);
}

static void
vpg_delete(struct http_req *rq, void *ctx)
{
    struct manager *m = ctx;
    struct vpg *v = api_vpg(rq, m);
    bool keep = false, force = false;
    struct err err = ERR_INIT;
    const cJSON *body;
    cJSON *params;

    if (!v || http_req_json(rq, &body) < 0)
        return;
    if (json_bool(body, "KeepRecoveryVolumes", JSON_OPTIONAL, &keep, &err) < 0 ||
        json_bool(body, "Force", JSON_OPTIONAL, &force, &err) < 0) {
        http_reply_err(rq, 400, &err);
        return;
    }
    if (v->test.running) {
        http_reply_fail(rq, 400, ERR_MGR_0011,
                        "VPG %s: a failover test is running: stop it first",
                        v->name);
        return;
    }
    params = cJSON_CreateObject();
    (void)cJSON_AddBoolToObject(params, "KeepRecoveryVolumes", keep);
    (void)cJSON_AddBoolToObject(params, "Force", force);
    api_start(rq, m, &op_delete_vpg, v, params);
}

/* --- protected VMs -------------------------------------------------------------------------------------- */

static void
put_limit(struct json_writer *w, const char *name, uint64_t bytes)
{
    json_open_obj(w, name);
    json_put_u64(w, "LimitType", bytes ? 1 : 0);
    json_put_u64(w, "LimitValue", bytes / MIB);
    json_close_obj(w);
}

static void
put_vm_volumes(struct json_writer *w, const struct vpg *v,
               const struct uuid *vm, uint64_t *out_size)
{
    *out_size = 0;
    json_open_array(w, "Volumes");
    for (unsigned i = 0; i < v->n_volumes; i++) {
        if (!uuid_equal(&v->volumes[i].vm, vm))
            continue;
        json_open_obj(w, NULL);
        json_put_uuid(w, "VmVolumeIdentifier", &v->volumes[i].volume);
        json_put_str(w, "VolumeName", v->volumes[i].volume_name);
        json_put_u64(w, "SizeInBytes", v->volumes[i].size);
        json_close_obj(w);
        *out_size += v->volumes[i].size;
    }
    json_close_array(w);
}

static void
put_vm(struct json_writer *w, struct manager *m, struct vpg *v,
       const struct vpg_volume *first)
{
    struct vpg_verdict verdict = vpgs_verdict(m, v);
    const struct replicator *source = any_replicator(m, &v->source),
                            *target = any_replicator(m, &v->target);
    const cJSON *t = last_target(m, v);
    char id[UUID_TEXT_SIZE];
    uint64_t size;

    uuid_format(&first->vm, id);
    json_open_obj(w, NULL);
    json_put_str(w, "VmIdentifier", id);
    json_put_str(w, "VmName", first->vm_name);
    json_put_uuid(w, "VpgIdentifier", &v->id.u);
    json_put_str(w, "VpgName", v->name);
    json_put_u64(w, "Status", verdict.status);
    json_put_u64(w, "SubStatus", verdict.substatus);
    json_put_u64(w, "Priority", v->priority);
    json_put_i64(w, "ActualRPO", rpo_seconds(m, v));
    json_put_u64(w, "IOPs", (uint64_t)v->iops);
    json_put_double(w, "ThroughputInMB", v->mbps);
    json_put_double(w, "OutgoingBandWidthInMbps", v->mbps * 8);
    put_vm_volumes(w, v, &first->vm, &size);
    json_put_u64(w, "ProvisionedStorageInMB", size / MIB);
    json_put_u64(w, "UsedStorageInMB", size / MIB);
    json_put_u64(w, "JournalUsedStorageMb",
                 number(t, "JournalUsedInBytes") / MIB);
    put_limit(w, "JournalHardLimit", v->hard_bytes);
    put_limit(w, "JournalWarningThreshold", v->warn_bytes);
    put_sites(w, m, v);
    put_time(w, "LastTest", v->last_test_ms);
    json_open_obj(w, "EnabledActions");
    json_put_bool(w, "IsFlrEnabled", false);
    json_close_obj(w);
    json_put_bool(w, "IsVmExists", true);
    json_put_uuid(w, "RecoveryHostIdentifier", &v->target);
    json_put_str(w, "RecoveryHostName", target ? target->name : "");
    json_put_uuid(w, "OwningHostIdentifier", &v->source);
    json_put_str(w, "OwningHostName", source ? source->name : "");
    json_open_array(w, "Nics");
    json_close_array(w);
    json_put_bool(w, "IsAgentInstalled", false);
    put_link(w, "Link", m, "vms", id, "VmApi");
    json_close_obj(w);
}

static bool
first_of_vm(const struct vpg *v, unsigned i)
{
    return i == 0 || !uuid_equal(&v->volumes[i].vm, &v->volumes[i - 1].vm);
}

static void
vms_list(struct http_req *rq, void *ctx)
{
    struct manager *m = ctx;
    struct json_writer w;
    struct list *pos;
    struct buf out;

    buf_init(&out, API_JSON_MAX);
    json_begin(&w, &out);
    json_open_array(&w, NULL);
    list_for_each (pos, &m->vpgs) {
        struct vpg *v = list_entry(pos, struct vpg, link);

        if (!api_filter(rq, "vpgName", v->name) || !passes(rq, m, v))
            continue;
        for (unsigned i = 0; i < v->n_volumes; i++) {
            char id[UUID_TEXT_SIZE];

            uuid_format(&v->volumes[i].vm, id);
            if (first_of_vm(v, i) &&
                api_filter(rq, "vmName", v->volumes[i].vm_name) &&
                api_filter(rq, "vmIdentifier", id))
                put_vm(&w, m, v, &v->volumes[i]);
        }
    }
    json_close_array(&w);
    http_reply_buf(rq, 200, &out);
}

static void
vm_get(struct http_req *rq, void *ctx)
{
    struct manager *m = ctx;
    struct json_writer w;
    struct list *pos;
    struct buf out;
    struct uuid id;

    if (api_uuid(rq, "vm", &id) < 0)
        return;
    buf_init(&out, API_JSON_MAX);
    json_begin(&w, &out);
    list_for_each (pos, &m->vpgs) {
        struct vpg *v = list_entry(pos, struct vpg, link);
        char vpg[UUID_TEXT_SIZE];

        uuid_format(&v->id.u, vpg);
        for (unsigned i = 0; i < v->n_volumes && !out.len &&
                             api_filter(rq, "vpgIdentifier", vpg);
             i++)
            if (uuid_equal(&v->volumes[i].vm, &id))
                put_vm(&w, m, v, &v->volumes[i]);
    }
    if (out.len || out.failed)
        http_reply_buf(rq, 200, &out);
    else
        http_reply_fail(rq, 404, ERR_API_0013, "there is no protected VM %s",
                        http_req_path(rq, "vm"));
}

#define ONE "/v1/vpgs/{vpg}"
const struct http_route api_vpg_routes[] = {
    { "GET", "/v1/vpgs", PRIV_VIEWER, 0, vpgs_list,
      "VPGs; filters name, status, subStatus, priority, protectedSiteIdentifier, recoverySiteIdentifier." },
    { "GET", "/v1/vpgs/statuses", PRIV_VIEWER, 0, get_statuses,
      "Names of statuses." },
    { "GET", "/v1/vpgs/substatuses", PRIV_VIEWER, 0, get_substatuses,
      "Names of substatuses." },
    { "GET", "/v1/vpgs/priorities", PRIV_VIEWER, 0, get_priorities,
      "Names of priorities." },
    { "GET", "/v1/vpgs/entitytypes", PRIV_VIEWER, 0, get_entity_types,
      "Names of entity types." },
    { "GET", "/v1/vpgs/failovercommitpolicies", PRIV_VIEWER, 0,
      get_commit_policies, "Names." },
    { "GET", "/v1/vpgs/failovershutdownpolicies", PRIV_VIEWER, 0,
      get_shutdown_policies, "Names." },
    { "GET", "/v1/vpgs/retentionpolicies", PRIV_VIEWER, 0,
      get_retention_policies, "Names." },
    { "GET", ONE, PRIV_VIEWER, 0, vpg_get, "One VPG." },
    { "DELETE", ONE, PRIV_MANAGE_VPG, 0, vpg_delete,
      "Delete: {KeepRecoveryVolumes, Force}; Force does not wait for a site that is away. A task." },
    { "GET", ONE "/checkpoints", PRIV_VIEWER, 0, checkpoints_list,
      "Points in time, oldest first; startDate, endDate, offset, limit." },
    { "POST", ONE "/checkpoints", PRIV_MANAGE_VPG, 0, checkpoints_post,
      "A tagged one: {CheckpointName}; the task ends when it is listed at the recovery site." },
    { "GET", ONE "/checkpoints/stats", PRIV_VIEWER, 0, checkpoints_stats,
      "{Earliest, Latest}." },
    { "POST", ONE "/FailoverTest", PRIV_TEST_FAILOVER, 0, failover_test,
      "Open all volumes as of a point, writable on scratch: {CheckpointIdentifier, VmIdentifiers[]}; a task." },
    { "POST", ONE "/FailoverTestStop", PRIV_TEST_FAILOVER, 0, failover_test_stop,
      "Close them: {FailoverTestSuccess, FailoverTestSummary}; a task." },
    { "POST", ONE "/pause", PRIV_MANAGE_VPG, 0, vpg_pause,
      "Pause replication; a task." },
    { "POST", ONE "/resume", PRIV_MANAGE_VPG, 0, vpg_resume,
      "Resume it; a task." },
    { "POST", ONE "/forcesync", PRIV_MANAGE_VPG, 0, vpg_force_sync,
      "Compare and send everything again; a task." },
    { "GET", ONE "/views", PRIV_VIEWER, 0, views_get,
      "Open views, one row a volume, with NbdUri." },
    { "POST", ONE "/views", PRIV_TEST_FAILOVER, 0, views_post,
      "Open one: {CheckpointIdentifier or TimeStamp, VmIdentifiers[]}; a task, whose guid is the ViewIdentifier." },
    { "DELETE", ONE "/views/{view}", PRIV_TEST_FAILOVER, 0, view_delete,
      "Close one; a task." },
    { "GET", "/v1/vms", PRIV_VIEWER, 0, vms_list,
      "Protected VMs; filters vpgName, vmName, status and more." },
    { "GET", "/v1/vms/{vm}", PRIV_VIEWER, 0, vm_get,
      "One of them; vpgIdentifier." },
    { NULL, NULL, 0, 0, NULL, NULL },
};
