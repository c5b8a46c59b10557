/* VPGs: reading, actions, and the VMs in them. */
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

const cJSON *
vpgs_last_target(struct manager *m, const struct vpg *v)
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

void
put_checkpoint(struct json_writer *w, const char *name, struct manager *m,
               const struct uuid *vpg, const cJSON *c)
{
    const char *kind = json_str_or(c, "Kind", NULL),
               *id = json_str_or(c, "CheckpointIdentifier", NULL);
    char vpg_id[UUID_TEXT_SIZE], place[UUID_TEXT_SIZE + 32];

    if (!c) {
        json_put_null(w, name);
        return;
    }
    json_open_obj(w, name);
    json_put_str_or_null(w, "CheckpointIdentifier", id);
    json_put_str_or_null(w, "TimeStamp", json_str_or(c, "TimeStamp", NULL));
    json_put_str_or_null(w, "Tag", json_str_or(c, "Tag", NULL));
    json_put_u64(w, "Type",
                 !kind || strcmp(kind, "Auto") == 0 ? 0
                 : strcmp(kind, "User") == 0        ? 1
                                                    : 2);
    json_put_bool(w, "Vss", kind && strcmp(kind, "Application") == 0);
    json_put_str_or_null(w, "Kind", kind);
    json_put_str_or_null(w, "Consistency", json_str_or(c, "Consistency", NULL));
    json_put_bool(w, "Damaged", cJSON_IsTrue(json_get(c, "Damaged")));
    json_put_null(w, "KeptUntil");
    json_put_null(w, "Verdict");
    json_put_null(w, "Note");
    uuid_format(vpg, vpg_id);
    (void)snprintf(place, sizeof place, "vpgs/%s/checkpoints", vpg_id);
    put_link(w, "Link", m, place, id ? id : "", "CheckpointApi");
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
    const cJSON *t = vpgs_last_target(m, v);
    uint64_t actual = vpgs_history_s(m, v) / 60;

    json_open_obj(w, "HistoryStatusApi");
    json_put_u64(w, "ActualHistoryInMinutes", actual);
    json_put_u64(w, "ConfiguredHistoryInMinutes", v->history_s / 60);
    put_checkpoint(w, "EarliestCheckpoint", m, &v->id.u, json_get(t, "Oldest"));
    json_close_obj(w);
    json_open_obj(w, "FailSafeHistory");
    json_put_u64(w, "ActualFailSafeHistory", actual);
    json_put_u64(w, "ConfiguredFailSafeHistory", v->history_s / 60);
    json_put_str(w, "FailSafeDescription", "");
    json_close_obj(w);
}

static void
put_tree_or_null(struct json_writer *w, const char *name, const cJSON *tree)
{
    if (tree && !cJSON_IsNull(tree))
        json_put_tree(w, name, tree);
    else
        json_put_null(w, name);
}

/* Ours, beyond the reference. */
static void
put_own(struct json_writer *w, struct manager *m, const struct vpg *v)
{
    const cJSON *s = vpgs_source(m, v), *t = vpgs_last_target(m, v);
    uint64_t raw = json_u64_or(s, "RawBytesTotal", 0),
             sent = json_u64_or(s, "SentBytesTotal", 0);
    const char *target_state = json_str_or(t, "State", NULL);
    bool target_first = target_state && (strcmp(target_state, "Error") == 0 ||
                                         strcmp(target_state, "Damaged") == 0 ||
                                         strcmp(target_state, "Stopped") == 0);
    const cJSON *error = json_get(target_first ? t : s, "Error");

    /* What stops the target is the cause of what the source then says. */
    if (!error)
        error = json_get(target_first ? s : t, "Error");
    json_put_u64(w, "CheckpointIntervalInSeconds", v->interval_s);
    put_checkpoint(w, "LatestCheckpoint", m, &v->id.u, json_get(t, "Newest"));
    json_put_u64(w, "CheckpointCount", json_u64_or(t, "CheckpointCount", 0));
    json_put_null(w, "CommitDeadline");
    json_put_null(w, "CommitPolicy");
    json_put_u64(w, "LagBytes", json_u64_or(s, "LagBytes", 0));
    json_put_u64(w, "SpillUsedInBytes", 0);
    json_put_u64(w, "SpillLimitInBytes", 0);
    json_put_u64(w, "JournalUsedInBytes",
                 json_u64_or(t, "JournalUsedInBytes", 0));
    json_put_u64(w, "ScratchUsedInBytes",
                 json_u64_or(t, "ScratchUsedInBytes", 0));
    json_put_u64(w, "CompressionPercent",
                 raw && sent < raw ? (raw - sent) * 100 / raw : 0);
    json_put_double(w, "IncomingMBs",
                    uuid_equal(&v->recovery_site, &m->site) ? v->mbps : 0);
    json_put_double(w, "OutgoingMBs",
                    uuid_equal(&v->protected_site, &m->site) ? v->mbps : 0);
    json_put_str_or_null(w, "SourceState", json_str_or(s, "State", NULL));
    json_put_str_or_null(w, "TargetState", json_str_or(t, "State", NULL));
    put_tree_or_null(w, "Error", error);
    put_tree_or_null(w, "SourceError", json_get(s, "Error"));
    put_tree_or_null(w, "TargetError", json_get(t, "Error"));
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
    const cJSON *t = vpgs_last_target(m, v);
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
    json_put_u64(w, "UsedStorageInMB", json_u64_or(t, "ReplicaBytes", 0) / MIB);
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

bool
api_active(struct http_req *rq, const struct vpg *v)
{
    if (v->state == VPG_ACTIVE)
        return true;
    http_reply_fail(rq, 400, ERR_MGR_0011, "VPG %s is being %s", v->name,
                    v->state == VPG_CREATING ? "created" : "deleted");
    return false;
}

/* --- the other actions ------------------------------------------------------------------------------- */

static void
act(struct http_req *rq, struct manager *m, const struct op_type *type)
{
    struct vpg *v = api_vpg(rq, m);

    if (v && api_active(rq, v) && !api_forwarded(rq, m, v, SIDE_PROTECTED))
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
vpg_overwrite(struct http_req *rq, void *ctx)
{
    struct manager *m = ctx;
    struct vpg *v = api_vpg(rq, m);

    if (v && api_active(rq, v) && !api_forwarded(rq, m, v, SIDE_RECOVERY))
        api_start(rq, m, &op_overwrite, v, NULL);
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
    if (v->test.running && !force) {
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
put_vm_volumes(struct json_writer *w, const struct replicator *source,
               const struct vpg *v, const struct uuid *vm, uint64_t *out_size)
{
    static const char *const told[] = { "Path", "NbdUri", "Error" };

    *out_size = 0;
    json_open_array(w, "Volumes");
    for (unsigned i = 0; i < v->n_volumes; i++) {
        if (!uuid_equal(&v->volumes[i].vm, vm))
            continue;
        json_open_obj(w, NULL);
        json_put_uuid(w, "VmVolumeIdentifier", &v->volumes[i].volume);
        json_put_str(w, "VolumeName", v->volumes[i].volume_name);
        json_put_u64(w, "SizeInBytes", v->volumes[i].size);
        for (size_t k = 0; k < ARRAY_SIZE(told); k++) {
            const char *text = NULL;

            (void)json_str(replicator_volume(source, &v->volumes[i].volume),
                           told[k], JSON_OPTIONAL, &text, NULL);
            if (text)
                json_put_str(w, told[k], text);
            else
                json_put_null(w, told[k]);
        }
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
    const cJSON *t = vpgs_last_target(m, v);
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
    put_vm_volumes(w, source, v, &first->vm, &size);
    json_put_u64(w, "ProvisionedStorageInMB", size / MIB);
    json_put_u64(w, "UsedStorageInMB", size / MIB);
    json_put_u64(w, "JournalUsedStorageMb",
                 json_u64_or(t, "JournalUsedInBytes", 0) / MIB);
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
    { "POST", ONE "/pause", PRIV_MANAGE_VPG, 0, vpg_pause,
      "Pause replication; a task." },
    { "POST", ONE "/resume", PRIV_MANAGE_VPG, 0, vpg_resume,
      "Resume it; a task." },
    { "POST", ONE "/forcesync", PRIV_MANAGE_VPG, 0, vpg_force_sync,
      "Compare and send everything again; a task." },
    { "POST", ONE "/overwrite", PRIV_MANAGE_VPG, 0, vpg_overwrite,
      "NeedsConfiguration, JNL-0017: give up its points so that replication goes on; a task." },
    { "GET", "/v1/vms", PRIV_VIEWER, 0, vms_list,
      "Protected VMs; filters vpgName, vmName, status and more." },
    { "GET", "/v1/vms/{vm}", PRIV_VIEWER, 0, vm_get,
      "One of them; vpgIdentifier." },
    { NULL, NULL, 0, 0, NULL, NULL },
};
