/* The VPGs this manager knows, its own and those it shares with another site:
 * kept in the catalog, judged by what replicators say, told to replicators. */
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "manager/manager.h"

enum {
    SAMPLE_MS = 2000
};

static int
load_vpg(void *arg, const char *id, const char *json)
{
    struct manager *m = arg;
    struct vpg *v = NULL;
    cJSON *tree = NULL;
    int rc = json_parse(json, strlen(json), VPG_DEFINITION_MAX, &tree, NULL);

    UNUSED(id);
    if (rc == 0)
        rc = vpg_decode(tree, &v, NULL);
    cJSON_Delete(tree);
    if (rc == 0)
        list_push_back(&m->vpgs, &v->link);
    return rc < 0 ? -EIO : 0;
}

int
vpgs_load(struct manager *m, struct err *err)
{
    int rc = catalog_each(m->catalog, "vpg", load_vpg, m, err);

    if (rc < 0 && err && !err->num)
        return err_set(err, rc, ERR_MGR_0002,
                       "catalog: a VPG's definition cannot be read");
    return rc;
}

void
vpgs_free(struct manager *m)
{
    struct list *pos;

    while ((pos = list_pop_front(&m->vpgs)))
        vpg_free(list_entry(pos, struct vpg, link));
}

struct vpg *
vpgs_find(struct manager *m, const struct uuid *id)
{
    struct list *pos;

    list_for_each (pos, &m->vpgs) {
        struct vpg *v = list_entry(pos, struct vpg, link);

        if (uuid_equal(&v->id.u, id))
            return v;
    }
    return NULL;
}

struct vpg *
vpgs_by_name(struct manager *m, const char *name)
{
    struct list *pos;

    list_for_each (pos, &m->vpgs) {
        struct vpg *v = list_entry(pos, struct vpg, link);

        if (strcasecmp(v->name, name) == 0)
            return v;
    }
    return NULL;
}

static int
save(struct manager *m, const struct vpg *v, struct err *err)
{
    char id[UUID_TEXT_SIZE];
    struct buf out;
    int rc;

    buf_init(&out, VPG_DEFINITION_MAX);
    uuid_format(&v->id.u, id);
    rc = vpg_encode(v, &out);
    rc = rc < 0 ? err_set(err, rc, ERR_MGR_0009,
                          "VPG %s: its definition is too large", v->name)
                : catalog_put(m->catalog, "vpg", id, (char *)out.data, err);
    buf_release(&out);
    return rc;
}

int
vpgs_put(struct manager *m, struct vpg *v, struct err *err)
{
    struct vpg *old = vpgs_find(m, &v->id.u);
    int rc = save(m, v, err);

    if (rc < 0)
        return rc;
    if (old) {
        list_del(&old->link);
        v->first_point_ms = old->first_point_ms;
        vpg_free(old);
    }
    list_push_back(&m->vpgs, &v->link);
    return 0;
}

int
vpgs_changed(struct manager *m, struct vpg *v, struct err *err)
{
    v->version++;
    return save(m, v, err);
}

int
vpgs_remove(struct manager *m, struct vpg *v, bool keep_replicas,
            struct err *err)
{
    char id[UUID_TEXT_SIZE];
    int rc = catalog_begin(m->catalog, err);

    if (rc < 0)
        return rc;
    uuid_format(&v->id.u, id);
    rc = catalog_put(m->catalog, "gone-vpg", id,
                     keep_replicas ? "{\"KeepReplicas\":true}" : "{}", err);
    if (rc == 0)
        rc = catalog_delete(m->catalog, "vpg", id, err);
    if (rc < 0) {
        catalog_rollback(m->catalog);
        return rc;
    }
    rc = catalog_commit(m->catalog, err);
    if (rc == 0) {
        m->vpg_removed_ms = http_loop_now_ms();
        list_del(&v->link);
        vpg_free(v);
    }
    return rc;
}

static int
seen(void *arg, const char *id, const char *json)
{
    UNUSED(id);
    UNUSED(json);
    *(bool *)arg = true;
    return 0;
}

bool
vpgs_is_removed(struct manager *m, const struct uuid *id)
{
    char text[UUID_TEXT_SIZE];
    bool found = false;

    uuid_format(id, text);
    (void)catalog_get(m->catalog, "gone-vpg", text, seen, &found, NULL);
    return found;
}

static int
kept(void *arg, const char *id, const char *json)
{
    cJSON *tree = NULL;

    UNUSED(id);
    if (json_parse(json, strlen(json), 4096, &tree, NULL) == 0)
        (void)json_bool(tree, "KeepReplicas", JSON_OPTIONAL, arg, NULL);
    cJSON_Delete(tree);
    return 0;
}

bool
vpgs_keeps_replicas(struct manager *m, const struct uuid *id)
{
    char text[UUID_TEXT_SIZE];
    bool keep = false;

    uuid_format(id, text);
    (void)catalog_get(m->catalog, "gone-vpg", text, kept, &keep, NULL);
    return keep;
}

const struct uuid *
vpgs_site(const struct vpg *v, enum side side)
{
    return side == SIDE_PROTECTED ? &v->protected_site : &v->recovery_site;
}

/* --- what replicators say of it ------------------------------------------------------- */

static const cJSON *
lane_of(struct manager *m, const struct vpg *v, bool source)
{
    const struct replicator *r =
        any_replicator(m, source ? &v->source : &v->target);

    if (!r || !replicator_fresh(r))
        return NULL;
    return source ? replicator_source(r, v) : replicator_target(r, v);
}

const cJSON *
vpgs_source(struct manager *m, const struct vpg *v)
{
    return lane_of(m, v, true);
}

const cJSON *
vpgs_target(struct manager *m, const struct vpg *v)
{
    return lane_of(m, v, false);
}

int64_t
vpgs_rpo_ms(struct manager *m, const struct vpg *v)
{
    const struct replicator *r = any_replicator(m, &v->target);
    int64_t rpo = -1;

    if (!r ||
        json_i64(replicator_target(r, v), "RpoMilliseconds", JSON_OPTIONAL, 0,
                 JSON_INT_MAX, &rpo, NULL) < 0 ||
        rpo < 0)
        return -1;
    /* grows while nobody tells us better */
    return replicator_fresh(r)
               ? rpo
               : rpo + (int64_t)(http_loop_now_ms() - r->heard_ms);
}

/* Not the age that the journal says: that does not count the time its replicator
 * was down, and stands still while nothing is heard. */
uint64_t
vpgs_history_s(struct manager *m, const struct vpg *v)
{
    const char *stamp = NULL;
    uint64_t oldest_ms = 0, now_ms = wall_ms();

    if (json_str(json_get(vpgs_last_target(m, v), "Oldest"), "TimeStamp",
                 JSON_OPTIONAL, &stamp, NULL) != 1 ||
        time_parse(stamp, &oldest_ms) < 0 || oldest_ms > now_ms)
        return 0;
    return (now_ms - oldest_ms) / 1000;
}

struct vpg_facts
vpgs_facts(struct manager *m, struct vpg *v)
{
    const cJSON *source = vpgs_source(m, v), *target = vpgs_target(m, v);
    const struct replicator *tr = any_replicator(m, &v->target);
    const cJSON *last =
        tr ? replicator_target(tr, v) : NULL; /* also an old one */
    const cJSON *oldest = json_get(last, "Oldest");
    struct vpg_facts f = { .state = v->state,
                           .rpo_ms = vpgs_rpo_ms(m, v),
                           .rpo_s = v->rpo_s,
                           .history_s = v->history_s,
                           .progress = -1 };
    const char *stamp = NULL;
    uint64_t progress;

    (void)json_str(source, "State", JSON_OPTIONAL, &f.source_state, NULL);
    (void)json_str(target, "State", JSON_OPTIONAL, &f.target_state, NULL);
    (void)json_str(source, "ResyncReason", JSON_OPTIONAL, &f.resync_reason,
                   NULL);
    (void)json_bool(source, "LinkUp", JSON_OPTIONAL, &f.source_link, NULL);
    (void)json_bool(target, "LinkUp", JSON_OPTIONAL, &f.target_link, NULL);
    f.has_points = oldest != NULL;
    f.actual_history_s = vpgs_history_s(m, v);
    if (json_u64(source, "ProgressPercent", JSON_OPTIONAL, 0, 100, &progress,
                 NULL) == 1 ||
        json_u64(target, "ProgressPercent", JSON_OPTIONAL, 0, 100, &progress,
                 NULL) == 1)
        f.progress = (int)progress;
    if (!v->first_point_ms &&
        json_str(oldest, "TimeStamp", JSON_OPTIONAL, &stamp, NULL) == 1)
        (void)time_parse(stamp, &v->first_point_ms);
    if (v->first_point_ms && wall_ms() > v->first_point_ms)
        f.age_s = (wall_ms() - v->first_point_ms) / 1000;
    return f;
}

struct vpg_verdict
vpgs_verdict(struct manager *m, struct vpg *v)
{
    struct vpg_facts f = vpgs_facts(m, v);

    return vpg_judge(&f);
}

static bool
volume_of(const struct vpg *v, const struct uuid *id)
{
    for (unsigned i = 0; i < v->n_volumes; i++)
        if (uuid_equal(&v->volumes[i].volume, id))
            return true;
    return false;
}

static void
sample(struct manager *m, struct vpg *v, uint64_t now)
{
    const struct replicator *r = any_replicator(m, &v->source);
    uint64_t writes = 0, bytes = 0, ms = now - v->sample_ms;
    const cJSON *vm, *vol;
    struct uuid id;

    if (!r || !replicator_fresh(r) || ms < SAMPLE_MS)
        return;
    cJSON_ArrayForEach (vm, json_get(r->status, "Vms")) {
        cJSON_ArrayForEach (vol, json_get(vm, "Volumes")) {
            if (json_uuid(vol, "VolumeIdentifier", JSON_OPTIONAL, &id, NULL) ==
                    1 &&
                volume_of(v, &id)) {
                writes += json_u64_or(vol, "WritesTotal", 0);
                bytes += json_u64_or(vol, "WriteBytesTotal", 0);
            }
        }
    }
    if (v->sample_ms && writes >= v->writes && bytes >= v->bytes) {
        v->iops = (double)(writes - v->writes) * 1000.0 / (double)ms;
        v->mbps = (double)(bytes - v->bytes) * 1000.0 / (double)ms / (double)MIB;
    }
    v->sample_ms = now;
    v->writes = writes;
    v->bytes = bytes;
}

void
vpgs_sample(struct manager *m)
{
    uint64_t now = http_loop_now_ms();
    struct list *pos;

    list_for_each (pos, &m->vpgs)
        sample(m, list_entry(pos, struct vpg, link), now);
}

/* --- what replicators are told of it --------------------------------------------------- */

/* Returns whether the address is known, or not needed. */
static bool
put_peer(struct manager *m, struct json_writer *w, const struct uuid *agent,
         const struct uuid *site, bool dial)
{
    const struct replicator *r = any_replicator(m, agent);
    const char *address = r ? replicator_data_address(r) : NULL;

    json_open_obj(w, "Peer");
    json_put_uuid(w, "AgentIdentifier", agent);
    json_put_uuid(w, "SiteIdentifier", site);
    if (dial && address)
        json_put_str(w, "Address", address);
    else
        json_put_null(w, "Address");
    json_close_obj(w);
    return !dial || address;
}

static void
begin_body(struct json_writer *w, const struct vpg *v, struct buf *out)
{
    json_begin(w, out);
    json_open_obj(w, NULL);
    json_put_str(w, "VpgName", v->name);
    json_put_u64(w, "Lane", 1);
    json_put_u64(w, "FencingEpoch", v->epoch);
    json_put_uuid(w, "Generation", &v->generation.u);
}

/* Empty when the other replicator's address is not known yet. */
void
vpgs_source_body(struct manager *m, const struct vpg *v, struct buf *out)
{
    struct json_writer w;
    bool known;

    begin_body(&w, v, out);
    json_put_u64(&w, "CheckpointIntervalSeconds", v->interval_s);
    json_open_array(&w, "Volumes");
    for (unsigned i = 0; i < v->n_volumes; i++) {
        json_open_obj(&w, NULL);
        json_put_u64(&w, "VolumeNumber", v->volumes[i].number);
        json_put_uuid(&w, "VolumeIdentifier", &v->volumes[i].volume);
        json_close_obj(&w);
    }
    json_close_array(&w);
    known = put_peer(m, &w, &v->target, &v->recovery_site, !v->recovery_dials);
    json_put_str(&w, "Compression", v->compress ? "Auto" : "Off");
    json_close_obj(&w);
    if (!known)
        buf_clear(out);
}

void
vpgs_target_body(struct manager *m, const struct vpg *v, struct buf *out)
{
    struct json_writer w;
    bool known;

    begin_body(&w, v, out);
    json_put_uuid(&w, "StoreIdentifier", &v->store);
    json_put_u64(&w, "HistorySeconds", v->history_s);
    json_put_u64(&w, "HardLimitInBytes", v->hard_bytes);
    json_put_u64(&w, "WarnInBytes", v->warn_bytes);
    json_put_u64(&w, "ScratchLimitInBytes", v->scratch_bytes);
    json_put_str(&w, "ResyncFull", v->overwrite_full ? "Proceed" : "Ask");
    json_open_array(&w, "Volumes");
    for (unsigned i = 0; i < v->n_volumes; i++) {
        const struct vpg_volume *vol = &v->volumes[i];

        json_open_obj(&w, NULL);
        json_put_u64(&w, "VolumeNumber", vol->number);
        json_put_uuid(&w, "VolumeIdentifier", &vol->volume);
        json_put_str(&w, "VmName", vol->vm_name);
        json_put_str(&w, "VolumeName", vol->volume_name);
        json_put_u64(&w, "SizeInBytes", vol->size);
        json_close_obj(&w);
    }
    json_close_array(&w);
    known = put_peer(m, &w, &v->source, &v->protected_site, v->recovery_dials);
    json_close_obj(&w);
    if (!known)
        buf_clear(out);
}
