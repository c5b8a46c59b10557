/* What there is: sites, VMs, hosts (replicators), stores, appliances. */
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/log.h"
#include "common/text.h"
#include "manager/manager.h"

/* The replicators of the site in the path; answers 400 or 404 itself. */
static struct list *
replicators_of(struct http_req *rq, struct manager *m)
{
    struct uuid site;
    struct peer *p;

    if (api_uuid(rq, "site", &site) < 0)
        return NULL;
    if (uuid_equal(&site, &m->site))
        return &m->replicators;
    p = peers_find(m, &site);
    if (!p)
        http_reply_fail(rq, 404, ERR_API_0013, "there is no site %s",
                        http_req_path(rq, "site"));
    return p ? &p->replicators : NULL;
}

static void
put_virtual_site(struct json_writer *w, struct manager *m,
                 const struct uuid *site)
{
    json_open_obj(w, NULL);
    json_put_uuid(w, "SiteIdentifier", site);
    json_put_str(w, "VirtualizationSiteName", site_name(m, site));
    json_close_obj(w);
}

static void
sites_list(struct http_req *rq, void *ctx)
{
    struct manager *m = ctx;
    struct json_writer w;
    struct list *pos;
    struct buf out;

    buf_init(&out, API_JSON_MAX);
    json_begin(&w, &out);
    json_open_array(&w, NULL);
    put_virtual_site(&w, m, &m->site);
    list_for_each (pos, &m->peers)
        put_virtual_site(&w, m, &list_entry(pos, struct peer, link)->site);
    json_close_array(&w);
    http_reply_buf(rq, 200, &out);
}

static void
site_get(struct http_req *rq, void *ctx)
{
    struct manager *m = ctx;
    struct json_writer w;
    struct uuid site;
    struct buf out;

    if (!replicators_of(rq, m) ||
        uuid_parse(http_req_path(rq, "site"), &site) < 0)
        return;
    buf_init(&out, API_JSON_MAX);
    json_begin(&w, &out);
    put_virtual_site(&w, m, &site);
    http_reply_buf(rq, 200, &out);
}

static bool
is_protected(struct manager *m, const struct uuid *vm)
{
    struct list *pos;

    list_for_each (pos, &m->vpgs) {
        const struct vpg *v = list_entry(pos, struct vpg, link);

        for (unsigned i = 0; i < v->n_volumes; i++)
            if (uuid_equal(&v->volumes[i].vm, vm))
                return true;
    }
    return false;
}

static void
put_vm_volumes(struct json_writer *w, const cJSON *vm)
{
    const cJSON *vol;

    json_open_array(w, "Volumes");
    cJSON_ArrayForEach (vol, json_get(vm, "Volumes")) {
        json_open_obj(w, NULL);
        json_put_str(w, "VmVolumeIdentifier",
                     json_str_or(vol, "VolumeIdentifier", ""));
        json_put_null(w, "PublicCloudVolumeIdentifier");
        json_put_str(w, "VolumeName", json_str_or(vol, "VolumeName", ""));
        json_put_str(w, "Path", json_str_or(vol, "Path", ""));
        json_put_u64(w, "SizeInBytes", json_u64_or(vol, "SizeInBytes", 0));
        json_put_str(w, "NbdUri", json_str_or(vol, "NbdUri", ""));
        if (json_get(vol, "Error"))
            json_put_str(w, "Error", json_str_or(vol, "Error", ""));
        else
            json_put_null(w, "Error");
        json_close_obj(w);
    }
    json_close_array(w);
}

static void
put_free_vm(struct json_writer *w, const struct replicator *r, const cJSON *vm)
{
    uint64_t size = 0, used = 0;
    const cJSON *vol;
    char host[UUID_TEXT_SIZE];

    cJSON_ArrayForEach (vol, json_get(vm, "Volumes")) {
        size += json_u64_or(vol, "SizeInBytes", 0);
        used += json_u64_or(vol, "AllocatedInBytes", 0);
    }
    uuid_format(&r->id, host);
    json_open_obj(w, NULL);
    json_put_str(w, "VmName", json_str_or(vm, "VmName", ""));
    json_put_str(w, "VmIdentifier", json_str_or(vm, "VmIdentifier", ""));
    json_put_null(w, "VmInstanceIdentifier");
    json_put_str(w, "OwningHostIdentifier", host);
    json_put_str(w, "OwningHostName", r->name);
    json_put_null(w, "OwningDatastoreIdentifier");
    json_put_null(w, "OwningDatastoreName");
    json_put_null(w, "GuestOs");
    json_put_null(w, "VmNetworkInformation");
    json_open_obj(w, "VmPerfMetricInfo");
    json_put_u64(w, "ProvisionedStorageInMB", size / MIB);
    json_put_u64(w, "UsedStorageInMB", used / MIB);
    json_put_u64(w, "CpuCoresNum", 0);
    json_put_u64(w, "MemorySizeInMB", 0);
    json_close_obj(w);
    json_open_array(w, "Nics");
    json_close_array(w);
    put_vm_volumes(w, vm);
    json_put_bool(w, "IsAgentInstalled", false);
    json_put_null(w, "PlatformInformation");
    json_close_obj(w);
}

static void
site_vms(struct http_req *rq, void *ctx)
{
    struct manager *m = ctx;
    struct list *pos, *head = replicators_of(rq, m);
    struct json_writer w;
    struct buf out;
    const cJSON *vm;
    struct uuid id;

    if (!head)
        return;
    buf_init(&out, API_JSON_MAX);
    json_begin(&w, &out);
    json_open_array(&w, NULL);
    list_for_each (pos, head) {
        const struct replicator *r = list_entry(pos, struct replicator, link);

        cJSON_ArrayForEach (vm, json_get(r->status, "Vms")) {
            if (json_uuid(vm, "VmIdentifier", JSON_REQUIRED, &id, NULL) == 1 &&
                !is_protected(m, &id))
                put_free_vm(&w, r, vm);
        }
    }
    json_close_array(&w);
    http_reply_buf(rq, 200, &out);
}

static void
site_hosts(struct http_req *rq, void *ctx)
{
    struct manager *m = ctx;
    struct list *pos, *head = replicators_of(rq, m);
    struct json_writer w;
    struct buf out;

    if (!head)
        return;
    buf_init(&out, API_JSON_MAX);
    json_begin(&w, &out);
    json_open_array(&w, NULL);
    list_for_each (pos, head) {
        const struct replicator *r = list_entry(pos, struct replicator, link);

        json_open_obj(&w, NULL);
        json_put_uuid(&w, "HostIdentifier", &r->id);
        json_put_str(&w, "VirtualizationHostName", r->name);
        json_put_str(&w, "HostVersion",
                     json_str_or(json_get(r->status, "Replicator"), "Version",
                                 ""));
        json_put_str(&w, "ConnectionStatus",
                     replicator_fresh(r) ? "Connected" : "Disconnected");
        json_close_obj(&w);
    }
    json_close_array(&w);
    http_reply_buf(rq, 200, &out);
}

static void
site_datastores(struct http_req *rq, void *ctx)
{
    struct manager *m = ctx;
    struct list *pos, *head = replicators_of(rq, m);
    struct json_writer w;
    struct buf out;
    const cJSON *store;

    if (!head)
        return;
    buf_init(&out, API_JSON_MAX);
    json_begin(&w, &out);
    json_open_array(&w, NULL);
    list_for_each (pos, head) {
        const struct replicator *r = list_entry(pos, struct replicator, link);

        cJSON_ArrayForEach (store, json_get(r->status, "Stores")) {
            json_open_obj(&w, NULL);
            json_put_str(&w, "DatastoreIdentifier",
                         json_str_or(store, "StoreIdentifier", ""));
            json_put_str(&w, "DatastoreName",
                         json_str_or(store, "StoreName", ""));
            json_put_null(&w, "OwningDatastoreCluster");
            json_put_uuid(&w, "HostIdentifier", &r->id);
            json_close_obj(&w);
        }
    }
    json_close_array(&w);
    http_reply_buf(rq, 200, &out);
}

static void
site_nothing(struct http_req *rq, void *ctx)
{
    if (replicators_of(rq, ctx))
        http_reply(rq, 200, "[]", 2);
}

/* --- appliances --------------------------------------------------------------------------- */

static const char *const vra_statuses[] = {
    "Installed",
    "UnsupportedEsxVersion",
    "NotInstalled",
    "Installing",
    "Removing",
    "InstallationError",
    "HostPasswordChanged",
    "UpdatingIpSettings",
    "DuringChangeHost",
    "HostInMaintenanceMode",
    "HostEnteringMaintenanceMode",
};

/* A number below 2^53 for clients that keep it in a double. */
static uint64_t
vra_number(const struct uuid *id)
{
    return get_be64(id->b) & ((UINT64_C(1) << 52) - 1);
}

static void
put_counters(struct json_writer *w, struct manager *m,
             const struct replicator *r, bool source)
{
    unsigned vpgs = 0, vms = 0, volumes = 0;
    struct list *pos;

    list_for_each (pos, &m->vpgs) {
        const struct vpg *v = list_entry(pos, struct vpg, link);

        if (!uuid_equal(source ? &v->source : &v->target, &r->id))
            continue;
        vpgs++;
        volumes += v->n_volumes;
        for (unsigned i = 0; i < v->n_volumes; i++)
            vms +=
                i == 0 || !uuid_equal(&v->volumes[i].vm, &v->volumes[i - 1].vm);
    }
    json_open_obj(w, source ? "ProtectedCounters" : "RecoveryCounters");
    json_put_u64(w, "Vpgs", vpgs);
    json_put_u64(w, "Vms", vms);
    json_put_u64(w, "Volumes", volumes);
    json_close_obj(w);
}

static unsigned
vra_status(const struct replicator *r)
{
    return r->revoked ? 4 : !r->heard_ms && !r->status ? 3 : 0;
}

static void
put_vra(struct json_writer *w, struct manager *m, const struct replicator *r)
{
    const cJSON *self = json_get(r->status, "Replicator");
    char digits[24], id[UUID_TEXT_SIZE];

    (void)snprintf(digits, sizeof digits, "%llu",
                   (unsigned long long)vra_number(&r->id));
    uuid_format(&r->id, id);
    json_open_obj(w, NULL);
    json_put_u64(w, "VraIdentifier", vra_number(&r->id));
    json_put_str(w, "VraIdentifierStr", digits);
    json_put_str(w, "VraName", r->name);
    json_put_u64(w, "Status", vra_status(r));
    json_put_u64(w, "UpgradeStatus", 0);
    json_put_u64(w, "Progress", 0);
    json_put_str(w, "VraVersion", json_str_or(self, "Version", ""));
    json_put_str(w, "VraDisplayVersion", json_str_or(self, "Version", ""));
    json_put_str(w, "HostVersion", json_str_or(self, "Version", ""));
    json_put_str(w, "HostIdentifier", id);
    json_put_str(w, "HostDisplayName", r->name);
    json_put_str(w, "IpAddress", r->address);
    json_put_str(w, "VraGroup", "default_group");
    json_put_u64(w, "MemoryInGB", 0);
    json_put_u64(w, "NumOfCpus", 0);
    for (size_t i = 0; i < 6; i++) {
        static const char *const none[] = {
            "DatastoreName",        "DatastoreIdentifier",
            "DatastoreClusterName", "DatastoreClusterIdentifier",
            "NetworkName",          "NetworkIdentifier"
        };

        json_put_null(w, none[i]);
    }
    json_put_null(w, "VraNetworkDataApi");
    put_counters(w, m, r, true);
    put_counters(w, m, r, false);
    json_put_u64(w, "SelfProtectedVpgs", 0);
    json_open_obj(w, "VraAlerts");
    json_put_u64(w, "VraAlertsStatus", replicator_fresh(r) ? 0 : 2);
    json_close_obj(w);
    json_put_bool(w, "IsGhost", false);
    json_put_bool(w, "IsVaio", false);
    json_put_null(w, "VmInstanceType");
    json_put_null(w, "PlatformInformation");
    json_put_str(w, "LinkState",
                 replicator_fresh(r) ? "Connected" : "Disconnected");
    if (*r->error)
        json_put_str(w, "LinkError", r->error);
    else
        json_put_null(w, "LinkError");
    put_link(w, "Link", m, "vras", id, "VraApi");
    json_close_obj(w);
}

static void
vras_list(struct http_req *rq, void *ctx)
{
    struct manager *m = ctx;
    struct json_writer w;
    struct list *pos;
    struct buf out;

    buf_init(&out, API_JSON_MAX);
    json_begin(&w, &out);
    json_open_array(&w, NULL);
    list_for_each (pos, &m->replicators) {
        const struct replicator *r = list_entry(pos, struct replicator, link);

        if (api_filter(rq, "vraName", r->name) &&
            api_filter(rq, "ipAddress", r->address) &&
            api_filter(rq, "vraGroup", "default_group") &&
            api_filter_enum(rq, "status", vra_status(r), vra_statuses,
                            ARRAY_SIZE(vra_statuses)))
            put_vra(&w, m, r);
    }
    json_close_array(&w);
    http_reply_buf(rq, 200, &out);
}

/* By number or by identifier. */
static struct replicator *
find_vra(struct http_req *rq, struct manager *m)
{
    const char *given = http_req_path(rq, "vra");
    struct list *pos;
    struct uuid id;
    uint64_t n = 0;
    bool is_id = uuid_parse(given, &id) == 0;

    if (!is_id && text_parse_u64(given, 0, UINT64_MAX, &n) < 0) {
        http_reply_fail(rq, 400, ERR_API_0014, "%s is no identifier", given);
        return NULL;
    }
    list_for_each (pos, &m->replicators) {
        struct replicator *r = list_entry(pos, struct replicator, link);

        if (is_id ? uuid_equal(&r->id, &id) : vra_number(&r->id) == n)
            return r;
    }
    http_reply_fail(rq, 404, ERR_API_0013, "there is no replicator %s", given);
    return NULL;
}

static void
vra_get(struct http_req *rq, void *ctx)
{
    struct manager *m = ctx;
    struct replicator *r = find_vra(rq, m);
    struct json_writer w;
    struct buf out;

    if (!r)
        return;
    buf_init(&out, API_JSON_MAX);
    json_begin(&w, &out);
    put_vra(&w, m, r);
    http_reply_buf(rq, 200, &out);
}

static void
vra_put(struct http_req *rq, void *ctx)
{
    struct manager *m = ctx;
    struct replicator *r = find_vra(rq, m);
    char host[TEXT_HOST_SIZE];
    const char *address;
    struct err err = ERR_INIT;
    const cJSON *body;
    uint16_t port;

    if (!r || http_req_json(rq, &body) < 0)
        return;
    if (json_str(body, "ControlAddress", JSON_REQUIRED, &address, &err) < 0)
        http_reply_err(rq, 400, &err);
    else if (text_parse_hostport(address, host, &port) < 0 || !*host || !port)
        http_reply_fail(rq, 400, ERR_API_0014, "ControlAddress is no host:port");
    else if (fleet_set_address(m, r, address, &err) < 0)
        http_reply_err(rq, http_status_of(err.num), &err);
    else
        http_reply_empty(rq, 200);
}

static void
vra_delete(struct http_req *rq, void *ctx)
{
    struct manager *m = ctx;
    struct replicator *r = find_vra(rq, m);
    char id[UUID_TEXT_SIZE];
    struct list *pos;
    cJSON *params;

    if (!r)
        return;
    list_for_each (pos, &m->vpgs) {
        const struct vpg *v = list_entry(pos, struct vpg, link);

        if (uuid_equal(&v->source, &r->id) || uuid_equal(&v->target, &r->id)) {
            http_reply_fail(
                rq, 400, ERR_MGR_0011,
                "replicator %s still takes part in VPG %s: delete the VPG first",
                r->name, v->name);
            return;
        }
    }
    uuid_format(&r->id, id);
    params = cJSON_CreateObject();
    (void)cJSON_AddStringToObject(params, "ReplicatorIdentifier", id);
    api_start(rq, m, &op_uninstall_vra, NULL, params);
}

/* At once, whatever depends on it: a stolen key must not wait for a task. */
static void
vra_revoke(struct http_req *rq, void *ctx)
{
    struct manager *m = ctx;
    struct replicator *r = find_vra(rq, m);
    struct err err = ERR_INIT;
    char line[200];

    if (!r)
        return;
    if (fleet_revoke(m, r, &err) < 0) {
        http_reply_err(rq, http_status_of(err.num), &err);
        return;
    }
    (void)snprintf(line, sizeof line,
                   "the certificate of replicator %s was revoked", r->name);
    events_record(m, 10, NULL, "", true, http_req_user(rq), line);
    http_reply_empty(rq, 200);
}

static void
vra_status_names(struct http_req *rq, void *ctx)
{
    UNUSED(ctx);
    api_names(rq, vra_statuses, ARRAY_SIZE(vra_statuses));
}

static void
vra_ip_types(struct http_req *rq, void *ctx)
{
    static const char *const names[] = { "Dhcp", "Static" };

    UNUSED(ctx);
    api_names(rq, names, ARRAY_SIZE(names));
}

/* --- stores of this site ----------------------------------------------------------------------- */

static void
put_usage(struct json_writer *w, const char *name, uint64_t used,
          uint64_t provisioned)
{
    json_open_obj(w, name);
    json_put_u64(w, "UsedInBytes", used);
    json_put_u64(w, "ProvisionedInBytes", provisioned);
    json_close_obj(w);
}

static void
put_datastore(struct json_writer *w, const struct replicator *r,
              const cJSON *store)
{
    static const char *const kinds[] = { "Protected", "Recovery",   "Journal",
                                         "Scratch",   "Appliances", "Unknown" };
    uint64_t used[6] = { 0 },
             capacity = json_u64_or(store, "CapacityInBytes", 0),
             free_bytes = json_u64_or(store, "FreeInBytes", 0);
    unsigned incoming = 0;
    const cJSON *t;

    used[1] = json_u64_or(store, "KeptReplicasInBytes", 0);
    cJSON_ArrayForEach (t, json_get(r->status, "Targets")) {
        if (strcmp(json_str_or(t, "StoreIdentifier", ""),
                   json_str_or(store, "StoreIdentifier", "")) != 0)
            continue;
        incoming++;
        used[1] += json_u64_or(t, "ReplicaBytes", 0);
        used[2] += json_u64_or(t, "JournalUsedInBytes", 0);
        used[3] += json_u64_or(t, "ScratchUsedInBytes", 0);
    }
    json_open_obj(w, NULL);
    json_put_str(w, "DatastoreIdentifier",
                 json_str_or(store, "StoreIdentifier", ""));
    json_put_str(w, "DatastoreName", json_str_or(store, "StoreName", ""));
    json_open_obj(w, "Config");
    json_open_array(w, "Devices");
    json_close_array(w);
    json_put_str(w, "Type", "Directory");
    json_put_null(w, "OwningDatastoreCluster");
    json_close_obj(w);
    json_open_obj(w, "Stats");
    json_put_u64(w, "NumVRAs", 1);
    json_put_u64(w, "NumIncomingVMs", incoming);
    json_put_u64(w, "NumOutgoingVMs", 0);
    json_put_u64(w, "AvailabilityStatus", 0);
    json_open_obj(w, "Usage");
    json_open_obj(w, "Datastore");
    json_put_u64(w, "CapacityInBytes", capacity);
    json_put_u64(w, "FreeInBytes", free_bytes);
    json_put_u64(w, "UsedInBytes",
                 capacity > free_bytes ? capacity - free_bytes : 0);
    json_put_u64(w, "ProvisionedInBytes", used[1] + used[2] + used[3]);
    json_close_obj(w);
    json_open_obj(w, "Zerto");
    for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
        put_usage(w, kinds[i], used[i], used[i]);
    json_close_obj(w);
    json_close_obj(w);
    json_close_obj(w);
    json_open_obj(w, "Health");
    json_put_u64(w, "Status", json_get(store, "Error") ? 2 : 0);
    json_open_array(w, "Alerts");
    json_close_array(w);
    json_close_obj(w);
    json_close_obj(w);
}

static void
list_datastores(struct http_req *rq, struct manager *m, const char *only)
{
    struct json_writer w;
    struct list *pos;
    struct buf out;
    const cJSON *store;
    unsigned n = 0;

    buf_init(&out, API_JSON_MAX);
    json_begin(&w, &out);
    if (!only)
        json_open_array(&w, NULL);
    list_for_each (pos, &m->replicators) {
        const struct replicator *r = list_entry(pos, struct replicator, link);

        cJSON_ArrayForEach (store, json_get(r->status, "Stores")) {
            if (only &&
                (n || text_icmp(only,
                                json_str_or(store, "StoreIdentifier", "")) != 0))
                continue;
            put_datastore(&w, r, store);
            n++;
        }
    }
    if (!only)
        json_close_array(&w);
    if (only && !n) {
        buf_release(&out);
        http_reply_fail(rq, 404, ERR_API_0013,
                        "there is no store %s at this site", only);
        return;
    }
    http_reply_buf(rq, 200, &out);
}

static void
datastores(struct http_req *rq, void *ctx)
{
    list_datastores(rq, ctx, NULL);
}

static void
datastore_get(struct http_req *rq, void *ctx)
{
    list_datastores(rq, ctx, http_req_path(rq, "store"));
}

const struct http_route api_inventory_routes[] = {
    { "GET", "/v1/virtualizationsites", PRIV_VIEWER, 0, sites_list,
      "This site and the paired ones." },
    { "GET", "/v1/virtualizationsites/{site}", PRIV_VIEWER, 0, site_get,
      "One of them." },
    { "GET", "/v1/virtualizationsites/{site}/vms", PRIV_VIEWER, 0, site_vms,
      "VMs that are not protected." },
    { "GET", "/v1/virtualizationsites/{site}/hosts", PRIV_VIEWER, 0, site_hosts,
      "Replicators." },
    { "GET", "/v1/virtualizationsites/{site}/datastores", PRIV_VIEWER, 0,
      site_datastores, "Stores." },
    { "GET", "/v1/virtualizationsites/{site}/networks", PRIV_VIEWER, 0,
      site_nothing, "None here." },
    { "GET", "/v1/virtualizationsites/{site}/folders", PRIV_VIEWER, 0,
      site_nothing, "None here." },
    { "GET", "/v1/virtualizationsites/{site}/hostclusters", PRIV_VIEWER, 0,
      site_nothing, "None here." },
    { "GET", "/v1/virtualizationsites/{site}/datastoreclusters", PRIV_VIEWER, 0,
      site_nothing, "None here." },
    { "GET", "/v1/virtualizationsites/{site}/resourcepools", PRIV_VIEWER, 0,
      site_nothing, "None here." },
    { "GET", "/v1/vras", PRIV_VIEWER, 0, vras_list, "Replicators of this site." },
    { "GET", "/v1/vras/statuses", PRIV_VIEWER, 0, vra_status_names,
      "Names of their statuses." },
    { "GET", "/v1/vras/ipconfigurationtypes", PRIV_VIEWER, 0, vra_ip_types,
      "Names." },
    { "GET", "/v1/vras/{vra}", PRIV_VIEWER, 0, vra_get,
      "One, by number or identifier." },
    { "PUT", "/v1/vras/{vra}", PRIV_MANAGE_VRA, 0, vra_put,
      "{ControlAddress}: where the manager reaches it." },
    { "DELETE", "/v1/vras/{vra}", PRIV_MANAGE_VRA, 0, vra_delete,
      "Take it out; its certificate is revoked. A task." },
    { "POST", "/v1/vras/{vra}/revoke", PRIV_MANAGE_VRA, 0, vra_revoke,
      "Revoke its certificate at once." },
    { "GET", "/v1/datastores", PRIV_VIEWER, 0, datastores,
      "Stores of this site with their use." },
    { "GET", "/v1/datastores/{store}", PRIV_VIEWER, 0, datastore_get,
      "One store." },
    { NULL, NULL, 0, 0, NULL, NULL },
};
