/* vpgSettings objects: the tree with its defaults (section 7.2 of the API
 * reference), merging what clients send into it, and turning it into a VPG. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/text.h"
#include "manager/manager.h"

#define NETWORK                                                      \
 "{\"Hypervisor\":{\"DefaultNetworkIdentifier\":null},\"VCD\":null," \
 "\"PublicCloud\":null}"
#define SCRIPT "{\"Command\":null,\"Parameters\":null,\"TimeoutInSeconds\":300}"
#define NIL    "00000000-0000-0000-0000-000000000000"

static const char defaults[] =
    "{\"VpgIdentifier\":null,\"VpgSettingsIdentifier\":null,"
    "\"Basic\":{\"Name\":null,\"VpgType\":\"Remote\",\"RpoInSeconds\":300,"
    "\"TestIntervalInMinutes\":262080,\"JournalHistoryInHours\":24,\"Priority\":\"Medium\","
    "\"UseWanCompression\":true,\"ServiceProfileIdentifier\":null,\"ZorgIdentifier\":null,"
    "\"ProtectedSiteIdentifier\":null,\"RecoverySiteIdentifier\":null,"
    "\"CheckpointIntervalInSeconds\":5,\"DataDial\":\"Protected\"},"
    "\"BootGroups\":{\"BootGroups\":[{\"BootGroupIdentifier\":\"" NIL
    "\",\"Name\":\"Default\","
    "\"BootDelayInSeconds\":0}]},"
    "\"Scripting\":{\"PreRecovery\":" SCRIPT ",\"PostRecovery\":" SCRIPT
    ",\"PostBackup\":null},"
    "\"Journal\":{\"DatastoreIdentifier\":null,\"DatastoreClusterIdentifier\":null,"
    "\"IgnoreFreeSpace\":false,"
    "\"Limitation\":{\"HardLimitInMB\":153600,\"HardLimitInPercent\":0,"
    "\"WarningThresholdInMB\":115200,\"WarningThresholdInPercent\":0},\"ResyncFull\":\"Ask\"},"
    "\"Scratch\":{\"DatastoreIdentifier\":null,\"DatastoreClusterIdentifier\":null,"
    "\"Limitation\":{\"HardLimitInMB\":307200,\"HardLimitInPercent\":0,"
    "\"WarningThresholdInMB\":230400,\"WarningThresholdInPercent\":0}},"
    "\"LongTermRetention\":null,"
    "\"Networks\":{\"Failover\":" NETWORK ",\"FailoverTest\":" NETWORK "},"
    "\"Recovery\":{\"DefaultHostIdentifier\":null,\"DefaultHostClusterIdentifier\":null,"
    "\"ResourcePoolIdentifier\":null,\"DefaultDatastoreIdentifier\":null,"
    "\"DefaultDatastoreClusterIdentifier\":null,\"DefaultFolderIdentifier\":null,"
    "\"VCD\":null,\"PublicCloud\":null},"
    "\"Protected\":{\"VCD\":null},\"Vms\":[]}";

static const char vm_defaults[] =
    "{\"VmIdentifier\":null,\"BootGroupIdentifier\":\"" NIL "\","
    "\"Recovery\":{\"HostIdentifier\":null,\"HostClusterIdentifier\":null,"
    "\"DatastoreIdentifier\":null,\"DatastoreClusterIdentifier\":null,\"FolderIdentifier\":null,"
    "\"ResourcePoolIdentifier\":null,\"VCD\":null,\"PublicCloud\":null},"
    "\"Journal\":{\"DatastoreIdentifier\":null,\"DatastoreClusterIdentifier\":null,\"Limitation\":null},"
    "\"Scratch\":{\"DatastoreIdentifier\":null,\"DatastoreClusterIdentifier\":null,\"Limitation\":null},"
    "\"Volumes\":[],\"Nics\":[]}";

cJSON *
settings_new(void)
{
    return cJSON_Parse(defaults);
}

cJSON *
settings_vm_new(void)
{
    return cJSON_Parse(vm_defaults);
}

/* --- merging ---------------------------------------------------------------------------- */

/* A number in place of a string that is a number, and such: what old clients
 * send.  Returns a copy of from in the kind of into, NULL when it does not
 * fit. */
static cJSON *
convert(const cJSON *into, const cJSON *from)
{
    int64_t n;
    bool b;
    cJSON *holder, *out = NULL;

    if (cJSON_IsNull(into) || cJSON_IsNull(from) ||
        (into->type & 0xff) == (from->type & 0xff))
        return cJSON_Duplicate(from, true);
    if (cJSON_IsBool(into) && cJSON_IsBool(from))
        return cJSON_Duplicate(from, true);
    holder = cJSON_CreateObject();
    if (holder &&
        cJSON_AddItemToObject(holder, "v", cJSON_Duplicate(from, true))) {
        if (cJSON_IsNumber(into) &&
            json_i64(holder, "v", JSON_REQUIRED, -JSON_INT_MAX, JSON_INT_MAX,
                     &n, NULL) == 1)
            out = cJSON_CreateNumber((double)n);
        else if (cJSON_IsBool(into) &&
                 json_bool(holder, "v", JSON_REQUIRED, &b, NULL) == 1)
            out = cJSON_CreateBool(b);
        else if (cJSON_IsString(into) && cJSON_IsNumber(from)) {
            char text[32];

            (void)snprintf(text, sizeof text, "%.0f", from->valuedouble);
            out = cJSON_CreateString(text);
        }
    }
    cJSON_Delete(holder);
    return out;
}

static cJSON *
merge_vms(const cJSON *from, struct err *err)
{
    cJSON *list = cJSON_CreateArray();
    const cJSON *item;

    cJSON_ArrayForEach (item, from) {
        cJSON *vm = settings_vm_new();

        if (!list || !vm || !cJSON_IsObject(item) ||
            settings_merge(vm, item, err) < 0) {
            cJSON_Delete(vm);
            cJSON_Delete(list);
            return NULL;
        }
        cJSON_AddItemToArray(list, vm);
    }
    return list;
}

int
settings_merge(cJSON *into, const cJSON *from, struct err *err)
{
    cJSON *child, *next;

    for (child = into->child; child; child = next) {
        const cJSON *given = cJSON_GetObjectItem(from, child->string);
        cJSON *value = NULL;
        char name[64];

        next = child->next;
        if (!given)
            continue;
        if (cJSON_IsObject(child) && cJSON_IsObject(given)) {
            if (settings_merge(child, given, err) < 0)
                return -EINVAL;
            continue;
        }
        /* what must not become null stays */
        if (cJSON_IsNull(given) &&
            (cJSON_IsObject(child) || cJSON_IsArray(child)))
            continue;
        (void)snprintf(name, sizeof name, "%s", child->string);
        if (strcmp(name, "Vms") == 0 && cJSON_IsArray(given))
            value = merge_vms(given, err);
        else
            value = convert(child, given);
        if (!value)
            return err && err->num
                       ? err->num
                       : err_set(err, -EINVAL, ERR_API_0014,
                                 "%s is of another type than expected", name);
        cJSON_ReplaceItemInObject(into, name, value);
    }
    return 0;
}

/* --- into a VPG ---------------------------------------------------------------------------- */

static int
bad(struct err *err, const char *what)
{
    return err_set(err, -EINVAL, ERR_MGR_0009, "%s", what);
}

static int
priority_of(const cJSON *basic, unsigned *out, struct err *err)
{
    static const char *const names[] = { "Low", "Medium", "High" };
    static const char *const digits[] = { "0", "1", "2" };
    const char *s;

    if (json_str(basic, "Priority", JSON_REQUIRED, &s, err) < 0)
        return -EINVAL;
    for (unsigned i = 0; i < ARRAY_SIZE(names); i++)
        if (text_icmp(s, names[i]) == 0 || strcmp(s, digits[i]) == 0) {
            *out = i;
            return 0;
        }
    return err_set(err, -EINVAL, ERR_MGR_0009,
                   "Basic.Priority is %s, not Low, Medium or High", s);
}

/* A name ends up on terminals and in logs of people who did not choose it. */
static bool
printable(const char *name)
{
    for (size_t left = strlen(name); left > 0;) {
        uint32_t cp;
        size_t n = text_utf8_next(name, left, &cp);

        if (n == 0 || !text_printable(cp))
            return false;
        name += n;
        left -= n;
    }
    return true;
}

static int
bytes_of(const cJSON *limit, const char *name, uint64_t *out, struct err *err)
{
    uint64_t mb = 0;

    if (json_u64(limit, name, JSON_OPTIONAL, 0, JSON_INT_MAX / MIB, &mb, err) < 0)
        return -EINVAL;
    *out = mb * MIB;
    return 0;
}

static int
check_percent(const cJSON *limit, const char *what, struct err *err)
{
    static const char *const names[] = { "HardLimitInPercent",
                                         "WarningThresholdInPercent" };
    uint64_t percent;

    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        if (json_u64(limit, names[i], JSON_OPTIONAL, 0, 100, &percent, err) < 0)
            return err_prefix(err, "%s.Limitation", what);
    }
    return 0;
}

/* What an edit says of places: they stay while the VPG is protected. */
static int
check_place(const cJSON *part, const char *part_name, const char *name,
            const struct uuid *is, const struct vpg *v, struct err *err)
{
    struct uuid said;
    int rc = json_uuid(part, name, JSON_OPTIONAL, &said, err);

    if (rc < 0 || (rc == 1 && !uuid_equal(&said, is)))
        return err_set(err, -EINVAL, ERR_MGR_0009,
                       "%s.%s cannot be changed while VPG %s is protected",
                       part_name, name, v->name);
    return 0;
}

int
settings_same_places(const cJSON *tree, const struct vpg *v, struct err *err)
{
    const struct {
        const char *part, *name;
        const struct uuid *is;
    } places[] = {
        { "Basic", "ProtectedSiteIdentifier", &v->protected_site },
        { "Basic", "RecoverySiteIdentifier", &v->recovery_site },
        { "Journal", "DatastoreIdentifier", &v->store },
        { "Recovery", "DefaultDatastoreIdentifier", &v->store },
        { "Recovery", "DefaultHostIdentifier", &v->target },
    };

    for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
        const cJSON *was =
            json_get(json_get(v->settings, places[i].part), places[i].name);
        const cJSON *part = json_get(tree, places[i].part);

        /* What it was made with it may say again. */
        if (was && cJSON_Compare(was, json_get(part, places[i].name), true))
            continue;
        if (check_place(part, places[i].part, places[i].name, places[i].is, v,
                        err) < 0)
            return -EINVAL;
    }
    return 0;
}

int
settings_apply(struct manager *m, const cJSON *tree, struct vpg *v,
               struct err *err)
{
    const cJSON *basic = json_get(tree, "Basic");
    const cJSON *journal = json_get(json_get(tree, "Journal"), "Limitation");
    const cJSON *scratch = json_get(json_get(tree, "Scratch"), "Limitation");
    const char *name = NULL, *dial = NULL, *full = "Ask";
    uint64_t rpo, hours, interval;
    struct vpg *other;

    if (json_str(basic, "Name", JSON_OPTIONAL, &name, err) < 0)
        return -EINVAL;
    if (!name || !*name)
        return bad(err, "Basic.Name is missing: a VPG needs a name");
    if (!printable(name))
        return bad(err, "Basic.Name holds characters that no terminal can show: "
                        "use printable text");
    if (strlen(name) > VPG_NAME_MAX)
        return err_set(err, -EINVAL, ERR_MGR_0009,
                       "Basic.Name has %zu bytes, %d are the limit",
                       strlen(name), VPG_NAME_MAX);
    other = vpgs_by_name(m, name);
    if (other && !uuid_equal(&other->id.u, &v->id.u))
        return err_set(err, -EINVAL, ERR_MGR_0009,
                       "there is a VPG named %s already", name);
    if (json_u64(basic, "RpoInSeconds", JSON_REQUIRED, 1, 1000000, &rpo, err) <
            0 ||
        json_u64(basic, "JournalHistoryInHours", JSON_REQUIRED, 1, 720, &hours,
                 err) < 0 ||
        json_u64(basic, "CheckpointIntervalInSeconds", JSON_REQUIRED, 1, 900,
                 &interval, err) < 0 ||
        json_bool(basic, "UseWanCompression", JSON_REQUIRED, &v->compress,
                  err) < 0 ||
        json_str(basic, "DataDial", JSON_REQUIRED, &dial, err) < 0 ||
        priority_of(basic, &v->priority, err) < 0 ||
        bytes_of(journal, "HardLimitInMB", &v->hard_bytes, err) < 0 ||
        bytes_of(journal, "WarningThresholdInMB", &v->warn_bytes, err) < 0 ||
        bytes_of(scratch, "HardLimitInMB", &v->scratch_bytes, err) < 0 ||
        check_percent(journal, "Journal", err) < 0 ||
        check_percent(scratch, "Scratch", err) < 0 ||
        json_str(json_get(tree, "Journal"), "ResyncFull", JSON_OPTIONAL, &full,
                 err) < 0)
        return -EINVAL;
    if (v->hard_bytes && v->warn_bytes > v->hard_bytes)
        return bad(err,
                   "Journal.Limitation: WarningThresholdInMB is above HardLimitInMB");
    if (text_icmp(full, "Ask") != 0 && text_icmp(full, "Proceed") != 0)
        return err_set(err, -EINVAL, ERR_MGR_0009,
                       "Journal.ResyncFull is %s, not Ask or Proceed", full);
    if (text_icmp(dial, "Protected") != 0 && text_icmp(dial, "Recovery") != 0)
        return err_set(err, -EINVAL, ERR_MGR_0009,
                       "Basic.DataDial is %s, not Protected or Recovery", dial);
    v->overwrite_full = text_icmp(full, "Proceed") == 0;
    v->recovery_dials = text_icmp(dial, "Recovery") == 0;
    v->rpo_s = (unsigned)rpo;
    v->history_s = (unsigned)hours * 3600;
    v->interval_s = (unsigned)interval;
    (void)snprintf(v->name, sizeof v->name, "%s", name);
    return 0;
}

static int
known_site(struct manager *m, const cJSON *basic, const char *name,
           struct uuid *out, struct err *err)
{
    if (json_uuid(basic, name, JSON_OPTIONAL, out, err) < 1)
        return err_set(err, -EINVAL, ERR_MGR_0009,
                       "Basic.%s is missing or no identifier", name);
    if (!uuid_equal(out, &m->site) && !peers_find(m, out))
        return err_set(err, -EINVAL, ERR_MGR_0009,
                       "Basic.%s names a site that is not paired with this one",
                       name);
    return 0;
}

static const cJSON *
find_vm_on(const struct replicator *r, const struct uuid *vm)
{
    const cJSON *item;
    struct uuid id;

    cJSON_ArrayForEach (item, json_get(r->status, "Vms")) {
        if (json_uuid(item, "VmIdentifier", JSON_REQUIRED, &id, NULL) == 1 &&
            uuid_equal(&id, vm))
            return item;
    }
    return NULL;
}

static struct list *
replicators_at(struct manager *m, const struct uuid *site)
{
    struct peer *p;

    if (uuid_equal(site, &m->site))
        return &m->replicators;
    p = peers_find(m, site);
    return p ? &p->replicators : NULL;
}

static int
add_volumes(struct vpg *v, const cJSON *vm, const struct uuid *vm_id,
            struct err *err)
{
    const char *vm_name, *name, *problem = NULL;
    const cJSON *item;

    if (json_str(vm, "VmName", JSON_REQUIRED, &vm_name, err) < 0)
        return -EINVAL;
    cJSON_ArrayForEach (item, json_get(vm, "Volumes")) {
        struct vpg_volume *vol = &v->volumes[v->n_volumes];

        if (v->n_volumes == VPG_VOLUMES_MAX)
            return err_set(err, -EINVAL, ERR_MGR_0009,
                           "a VPG has at most %d volumes", VPG_VOLUMES_MAX);
        if (json_uuid(item, "VolumeIdentifier", JSON_REQUIRED, &vol->volume,
                      err) < 0 ||
            json_str(item, "VolumeName", JSON_REQUIRED, &name, err) < 0 ||
            json_str(item, "Error", JSON_OPTIONAL, &problem, err) < 0)
            return -EINVAL;
        if (problem)
            return err_set(err, -EINVAL, ERR_MGR_0009,
                           "volume %s cannot be protected: %s", name, problem);
        if (json_u64(item, "SizeInBytes", JSON_REQUIRED, 1, JSON_INT_MAX,
                     &vol->size, err) < 0)
            return -EINVAL;
        vol->number = v->n_volumes++;
        vol->vm = *vm_id;
        (void)snprintf(vol->vm_name, sizeof vol->vm_name, "%s", vm_name);
        (void)snprintf(vol->volume_name, sizeof vol->volume_name, "%s", name);
    }
    return 0;
}

static const struct vpg *
protector_of(struct manager *m, const struct uuid *vm)
{
    struct list *pos;

    list_for_each (pos, &m->vpgs) {
        const struct vpg *v = list_entry(pos, struct vpg, link);

        for (unsigned i = 0; i < v->n_volumes; i++)
            if (uuid_equal(&v->volumes[i].vm, vm))
                return v;
    }
    return NULL;
}

static int
add_vm(struct manager *m, struct vpg *v, const cJSON *setting, struct err *err)
{
    struct list *pos, *list = replicators_at(m, &v->protected_site);
    const struct vpg *other;
    struct uuid id;

    if (json_uuid(setting, "VmIdentifier", JSON_REQUIRED, &id, err) < 0)
        return err_set(err, -EINVAL, ERR_MGR_0009,
                       "a VM's VmIdentifier is missing or no identifier");
    other = protector_of(m, &id);
    if (other)
        return err_set(err, -EINVAL, ERR_MGR_0009,
                       "a VM of these settings is protected by VPG %s already",
                       other->name);
    for (unsigned i = 0; i < v->n_volumes; i++)
        if (uuid_equal(&v->volumes[i].vm, &id))
            return err_set(err, -EINVAL, ERR_MGR_0009, "VM %s is named twice",
                           v->volumes[i].vm_name);
    list_for_each (pos, list) {
        const struct replicator *r = list_entry(pos, struct replicator, link);
        const cJSON *vm = find_vm_on(r, &id);

        if (!vm)
            continue;
        if (v->n_volumes && !uuid_equal(&v->source, &r->id))
            return err_set(err, -EINVAL, ERR_MGR_0010,
                           "the VMs of this VPG lie on more than one replicator; one of them is on %s",
                           r->name);
        v->source = r->id;
        return add_volumes(v, vm, &id, err);
    }
    return err_set(err, -EINVAL, ERR_MGR_0009,
                   "no replicator of site %s has a VM with one of these identifiers",
                   site_name(m, &v->protected_site));
}

/* The replicator whose store it is. */
static const struct replicator *
store_owner(struct manager *m, const struct uuid *site, const struct uuid *store)
{
    struct list *pos, *list = replicators_at(m, site);
    const cJSON *item;
    struct uuid id;

    list_for_each (pos, list) {
        const struct replicator *r = list_entry(pos, struct replicator, link);

        cJSON_ArrayForEach (item, json_get(r->status, "Stores")) {
            if (json_uuid(item, "StoreIdentifier", JSON_REQUIRED, &id, NULL) ==
                    1 &&
                uuid_equal(&id, store))
                return r;
        }
    }
    return NULL;
}

/* The only store of the site, when there is but one. */
static int
only_store(struct manager *m, const struct uuid *site, struct uuid *out)
{
    struct list *pos, *list = replicators_at(m, site);
    const cJSON *item;
    unsigned n = 0;

    list_for_each (pos, list) {
        const struct replicator *r = list_entry(pos, struct replicator, link);

        cJSON_ArrayForEach (item, json_get(r->status, "Stores"))
            n += json_uuid(item, "StoreIdentifier", JSON_REQUIRED, out, NULL) ==
                 1;
    }
    return n == 1 ? 0 : -ENOENT;
}

static int
pick_store(struct manager *m, const cJSON *tree, struct vpg *v, struct err *err)
{
    const cJSON *recovery = json_get(tree, "Recovery"),
                *journal = json_get(tree, "Journal");
    const struct replicator *r;
    struct uuid host;

    if (json_uuid(journal, "DatastoreIdentifier", JSON_OPTIONAL, &v->store,
                  err) < 1 &&
        json_uuid(recovery, "DefaultDatastoreIdentifier", JSON_OPTIONAL,
                  &v->store, err) < 1 &&
        only_store(m, &v->recovery_site, &v->store) < 0)
        return bad(err,
                   "name a store: Journal.DatastoreIdentifier or Recovery.DefaultDatastoreIdentifier");
    r = store_owner(m, &v->recovery_site, &v->store);
    if (!r)
        return err_set(err, -EINVAL, ERR_MGR_0009,
                       "no replicator of site %s has the store that was named",
                       site_name(m, &v->recovery_site));
    if (json_uuid(recovery, "DefaultHostIdentifier", JSON_OPTIONAL, &host,
                  NULL) == 1 &&
        !uuid_equal(&host, &r->id))
        return err_set(err, -EINVAL, ERR_MGR_0010,
                       "Recovery.DefaultHostIdentifier is not the replicator with the store, which is %s",
                       r->name);
    v->target = r->id;
    return 0;
}

static int
fill_vpg(struct manager *m, const cJSON *tree, struct vpg *v, struct err *err)
{
    const cJSON *basic = json_get(tree, "Basic"), *item;

    if (settings_apply(m, tree, v, err) < 0 ||
        known_site(m, basic, "ProtectedSiteIdentifier", &v->protected_site,
                   err) < 0 ||
        known_site(m, basic, "RecoverySiteIdentifier", &v->recovery_site, err) <
            0)
        return -EINVAL;
    if (!uuid_equal(&v->protected_site, &m->site) &&
        !uuid_equal(&v->recovery_site, &m->site))
        return bad(err,
                   "neither site of the VPG is this manager's: commit at one of the two");
    if (uuid_equal(&v->protected_site, &v->recovery_site))
        return bad(err, "the protected and the recovery site are the same");
    cJSON_ArrayForEach (item, json_get(tree, "Vms")) {
        if (add_vm(m, v, item, err) < 0)
            return -EINVAL;
    }
    if (v->n_volumes == 0)
        return bad(err,
                   "Vms is empty: a VPG needs at least one VM with a volume");
    return pick_store(m, tree, v, err);
}

int
settings_to_vpg(struct manager *m, const cJSON *tree, struct vpg **out_vpg,
                struct err *err)
{
    struct vpg *v = calloc(1, sizeof *v);
    int rc;

    if (!v)
        return err_set(err, -ENOMEM, ERR_GEN_0002, "VPG: out of memory");
    list_init(&v->link);
    v->version = 1;
    v->epoch = 1;
    v->state = VPG_CREATING;
    v->created_ms = wall_ms();
    rc = pki_uuid(&v->id.u, err);
    if (rc == 0)
        rc = pki_uuid(&v->generation.u, err);
    if (rc == 0)
        rc = fill_vpg(m, tree, v, err);
    if (rc == 0 && !(v->settings = cJSON_Duplicate(tree, true)))
        rc = err_set(err, -ENOMEM, ERR_GEN_0002, "VPG: out of memory");
    if (rc < 0) {
        vpg_free(v);
        return rc;
    }
    *out_vpg = v;
    return 0;
}
