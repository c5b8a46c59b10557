/* See vpg.h. */
#include "manager/vpg.h"

#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/text.h"

const char *const vpg_status_names[] = {
    "Initializing",     "MeetingSLA",  "NotMeetingSLA", "HistoryNotMeetingSLA",
    "RpoNotMeetingSLA", "FailingOver", "Moving",        "Deleting",
    "Recovered",
};
const unsigned vpg_status_count = ARRAY_SIZE(vpg_status_names);

const char *const vpg_substatus_names[] = {
    "None",
    "InitialSync",
    "Creating",
    "VolumeInitialSync",
    "Sync",
    "RecoveryPossible",
    "DeltaSync",
    "NeedsConfiguration",
    "Error",
    "EmptyProtectionGroup",
    "DisconnectedFromPeerNoRecoveryPoints",
    "FullSync",
    "VolumeDeltaSync",
    "VolumeFullSync",
    "FailingOverCommitting",
    "FailingOverBeforeCommit",
    "FailingOverRollingBack",
    "Promoting",
    "MovingCommitting",
    "MovingBeforeCommit",
    "MovingRollingBack",
    "Deleting",
    "PendingRemove",
    "BitmapSync",
    "DisconnectedFromPeer",
    "ReplicationPausedUserInitiated",
    "ReplicationPausedSystemInitiated",
    "RecoveryStorageProfileError",
    "Backup",
    "RollingBack",
    "RecoveryStorageError",
    "JournalStorageError",
    "VmNotProtectedError",
    "JournalOrRecoveryMissingError",
    "AddedVmsInInitialSync",
    "ReplicationPausedForMissingVolume",
    "StoppingForFailure",
    "RollingBackFailOverLiveFailure",
    "RollingBackMoveFailure",
    "SplittingCommitting",
    "PreparePreseed",
    "JournalVmRestore",
};
const unsigned vpg_substatus_count = ARRAY_SIZE(vpg_substatus_names);

static const char *const state_names[] = { "Creating", "Active", "Deleting" };

void
vpg_free(struct vpg *v)
{
    if (!v)
        return;
    cJSON_Delete(v->settings);
    free(v->pushed_source);
    free(v->pushed_target);
    free(v);
}

int
vpg_encode(const struct vpg *v, struct buf *out)
{
    struct json_writer w;

    json_begin(&w, out);
    json_open_obj(&w, NULL);
    json_put_uuid(&w, "VpgIdentifier", &v->id.u);
    json_put_str(&w, "VpgName", v->name);
    json_put_u64(&w, "Version", v->version);
    json_put_str(&w, "State", state_names[v->state]);
    json_put_uuid(&w, "ProtectedSite", &v->protected_site);
    json_put_uuid(&w, "RecoverySite", &v->recovery_site);
    json_put_uuid(&w, "Source", &v->source);
    json_put_uuid(&w, "Target", &v->target);
    json_put_uuid(&w, "Store", &v->store);
    json_put_uuid(&w, "Generation", &v->generation.u);
    json_put_u64(&w, "FencingEpoch", v->epoch);
    json_put_u64(&w, "CreatedMs", v->created_ms);
    json_put_u64(&w, "IntervalSeconds", v->interval_s);
    json_put_u64(&w, "RpoSeconds", v->rpo_s);
    json_put_u64(&w, "HistorySeconds", v->history_s);
    json_put_u64(&w, "Priority", v->priority);
    json_put_u64(&w, "HardLimitInBytes", v->hard_bytes);
    json_put_u64(&w, "WarnInBytes", v->warn_bytes);
    json_put_u64(&w, "ScratchLimitInBytes", v->scratch_bytes);
    json_put_bool(&w, "OverwriteFull", v->overwrite_full);
    json_put_bool(&w, "Compress", v->compress);
    json_put_bool(&w, "RecoveryDials", v->recovery_dials);
    json_put_bool(&w, "TestRunning", v->test.running);
    json_put_uuid(&w, "TestView", &v->test.view);
    json_put_str(&w, "TestCheckpoint", v->test.checkpoint);
    json_put_u64(&w, "LastTestMs", v->last_test_ms);
    json_open_array(&w, "Volumes");
    for (unsigned i = 0; i < v->n_volumes; i++) {
        const struct vpg_volume *vol = &v->volumes[i];

        json_open_obj(&w, NULL);
        json_put_u64(&w, "VolumeNumber", vol->number);
        json_put_uuid(&w, "VmIdentifier", &vol->vm);
        json_put_str(&w, "VmName", vol->vm_name);
        json_put_uuid(&w, "VolumeIdentifier", &vol->volume);
        json_put_str(&w, "VolumeName", vol->volume_name);
        json_put_u64(&w, "SizeInBytes", vol->size);
        json_close_obj(&w);
    }
    json_close_array(&w);
    if (v->settings)
        json_put_tree(&w, "Settings", v->settings);
    json_close_obj(&w);
    return out->failed;
}

static int
copy_text(const cJSON *tree, const char *name, char *out, size_t cap,
          struct err *err)
{
    const char *s;
    int rc = json_str(tree, name, JSON_REQUIRED, &s, err);

    if (rc < 0)
        return rc;
    if (strlen(s) >= cap)
        return err_set(err, -EINVAL, ERR_MGR_0009,
                       "%s is longer than %zu bytes", name, cap - 1);
    memcpy(out, s, strlen(s) + 1);
    return 0;
}

static int
decode_volume(const cJSON *tree, struct vpg_volume *vol, struct err *err)
{
    uint64_t number;

    if (json_u64(tree, "VolumeNumber", JSON_REQUIRED, 0, VPG_VOLUMES_MAX - 1,
                 &number, err) < 0 ||
        json_uuid(tree, "VmIdentifier", JSON_REQUIRED, &vol->vm, err) < 0 ||
        json_uuid(tree, "VolumeIdentifier", JSON_REQUIRED, &vol->volume, err) <
            0 ||
        json_u64(tree, "SizeInBytes", JSON_REQUIRED, 1, JSON_INT_MAX,
                 &vol->size, err) < 0 ||
        copy_text(tree, "VmName", vol->vm_name, sizeof vol->vm_name, err) < 0 ||
        copy_text(tree, "VolumeName", vol->volume_name, sizeof vol->volume_name,
                  err) < 0)
        return -EINVAL;
    vol->number = (unsigned)number;
    return 0;
}

static int
decode_volumes(const cJSON *tree, struct vpg *v, struct err *err)
{
    const cJSON *list, *item;

    if (json_array(tree, "Volumes", JSON_REQUIRED, &list, err) < 0)
        return -EINVAL;
    cJSON_ArrayForEach (item, list) {
        if (v->n_volumes == VPG_VOLUMES_MAX)
            return err_set(err, -EINVAL, ERR_MGR_0009,
                           "a VPG has at most %d volumes", VPG_VOLUMES_MAX);
        if (decode_volume(item, &v->volumes[v->n_volumes++], err) < 0)
            return -EINVAL;
    }
    return 0;
}

static int
decode_numbers(const cJSON *tree, struct vpg *v, struct err *err)
{
    const struct {
        const char *name;
        uint64_t min, max;
        uint64_t *wide;
        unsigned *narrow;
    } table[] = {
        { "Version", 1, JSON_INT_MAX, &v->version, NULL },
        { "FencingEpoch", 0, JSON_INT_MAX, &v->epoch, NULL },
        { "CreatedMs", 0, JSON_INT_MAX, &v->created_ms, NULL },
        { "IntervalSeconds", 1, 900, NULL, &v->interval_s },
        { "RpoSeconds", 1, 1000000, NULL, &v->rpo_s },
        { "HistorySeconds", 60, 720ull * 3600, NULL, &v->history_s },
        { "Priority", 0, 2, NULL, &v->priority },
        { "HardLimitInBytes", 0, JSON_INT_MAX, &v->hard_bytes, NULL },
        { "WarnInBytes", 0, JSON_INT_MAX, &v->warn_bytes, NULL },
        { "ScratchLimitInBytes", 0, JSON_INT_MAX, &v->scratch_bytes, NULL },
        { "LastTestMs", 0, JSON_INT_MAX, &v->last_test_ms, NULL },
    };

    for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
        uint64_t n;

        if (json_u64(tree, table[i].name, JSON_REQUIRED, table[i].min,
                     table[i].max, &n, err) < 0)
            return -EINVAL;
        if (table[i].wide)
            *table[i].wide = n;
        else
            *table[i].narrow = (unsigned)n;
    }
    return 0;
}

static int
decode_state(const cJSON *tree, struct vpg *v, struct err *err)
{
    const char *s;

    if (json_str(tree, "State", JSON_REQUIRED, &s, err) < 0)
        return -EINVAL;
    for (unsigned i = 0; i < ARRAY_SIZE(state_names); i++)
        if (strcmp(s, state_names[i]) == 0) {
            v->state = (enum vpg_state)i;
            return 0;
        }
    return err_set(err, -EINVAL, ERR_MGR_0009, "State %s is unknown", s);
}

static int
decode_all(const cJSON *tree, struct vpg *v, struct err *err)
{
    const cJSON *settings = NULL;

    if (json_uuid(tree, "VpgIdentifier", JSON_REQUIRED, &v->id.u, err) < 0 ||
        json_uuid(tree, "ProtectedSite", JSON_REQUIRED, &v->protected_site,
                  err) < 0 ||
        json_uuid(tree, "RecoverySite", JSON_REQUIRED, &v->recovery_site, err) <
            0 ||
        json_uuid(tree, "Source", JSON_REQUIRED, &v->source, err) < 0 ||
        json_uuid(tree, "Target", JSON_REQUIRED, &v->target, err) < 0 ||
        json_uuid(tree, "Store", JSON_REQUIRED, &v->store, err) < 0 ||
        json_uuid(tree, "Generation", JSON_REQUIRED, &v->generation.u, err) < 0 ||
        json_uuid(tree, "TestView", JSON_REQUIRED, &v->test.view, err) < 0 ||
        json_bool(tree, "TestRunning", JSON_REQUIRED, &v->test.running, err) < 0 ||
        json_bool(tree, "OverwriteFull", JSON_OPTIONAL, &v->overwrite_full,
                  err) < 0 ||
        json_bool(tree, "Compress", JSON_REQUIRED, &v->compress, err) < 0 ||
        json_bool(tree, "RecoveryDials", JSON_REQUIRED, &v->recovery_dials,
                  err) < 0 ||
        copy_text(tree, "VpgName", v->name, sizeof v->name, err) < 0 ||
        copy_text(tree, "TestCheckpoint", v->test.checkpoint,
                  sizeof v->test.checkpoint, err) < 0 ||
        decode_state(tree, v, err) < 0 || decode_numbers(tree, v, err) < 0 ||
        decode_volumes(tree, v, err) < 0 ||
        json_obj(tree, "Settings", JSON_OPTIONAL, &settings, err) < 0)
        return -EINVAL;
    if (settings) {
        v->settings = cJSON_Duplicate(settings, true);
        if (!v->settings)
            return err_set(err, -ENOMEM, ERR_GEN_0002, "VPG: out of memory");
    }
    return 0;
}

int
vpg_decode(const cJSON *tree, struct vpg **out_vpg, struct err *err)
{
    struct vpg *v = calloc(1, sizeof *v);
    int rc;

    if (!v)
        return err_set(err, -ENOMEM, ERR_GEN_0002, "VPG: out of memory");
    list_init(&v->link);
    rc = decode_all(tree, v, err);
    if (rc < 0) {
        vpg_free(v);
        return rc;
    }
    *out_vpg = v;
    return 0;
}

/* --- status ----------------------------------------------------------------------- */

static bool
is(const char *a, const char *b)
{
    return a && strcmp(a, b) == 0;
}

int
vpg_rpo_alarm(const struct vpg_facts *f, uint64_t held_ms)
{
    const uint64_t minute = 60000;
    int64_t target_ms = (int64_t)f->rpo_s * 1000;

    if (!f->has_points || f->rpo_ms <= target_ms || held_ms < minute)
        return 0;
    return f->rpo_ms > 2 * target_ms || held_ms >= 30 * minute ? 2 : 1;
}

bool
vpg_history_half(const struct vpg_facts *f)
{
    return vpg_history_short(f) &&
           f->actual_history_s * 2 < MIN(f->history_s, f->age_s);
}

bool
vpg_history_short(const struct vpg_facts *f)
{
    uint64_t wanted = MIN(f->history_s, f->age_s);
    uint64_t slack = MAX(wanted / 10, (uint64_t)120);

    /* promotion runs in steps, and a young VPG has had no time yet */
    return f->has_points && f->actual_history_s + slack < wanted;
}

static struct vpg_verdict
verdict(enum vpg_status status, enum vpg_substatus sub, int progress)
{
    return (struct vpg_verdict){ status, sub,
                                 progress < 0 ? 0 : MIN(progress, 100) };
}

static enum vpg_status
sla_of(const struct vpg_facts *f)
{
    bool rpo_bad = f->rpo_ms < 0 || f->rpo_ms > (int64_t)f->rpo_s * 1000;
    bool history_bad = vpg_history_short(f);

    if (rpo_bad && history_bad)
        return VPG_NOT_MEETING_SLA;
    if (history_bad)
        return VPG_HISTORY_NOT_MEETING_SLA;
    return rpo_bad ? VPG_RPO_NOT_MEETING_SLA : VPG_MEETING_SLA;
}

struct vpg_verdict
vpg_judge(const struct vpg_facts *f)
{
    bool link = f->source_state && f->target_state
                    ? f->source_link && f->target_link
                    : f->source_link || f->target_link;

    if (f->state == VPG_DELETING)
        return verdict(VPG_STATUS_DELETING, VPG_SUB_DELETING, 0);
    if (f->state == VPG_CREATING)
        return verdict(VPG_INITIALIZING, VPG_SUB_CREATING, 0);
    if (is(f->target_state, "Stopped") || is(f->target_state, "Damaged"))
        return verdict(VPG_NOT_MEETING_SLA, VPG_SUB_JOURNAL_STORAGE_ERROR,
                       f->progress);
    if (is(f->target_state, "Error"))
        return verdict(VPG_NOT_MEETING_SLA, VPG_SUB_RECOVERY_STORAGE_ERROR,
                       f->progress);
    if (is(f->source_state, "Error") || is(f->source_state, "Refused"))
        return verdict(VPG_NOT_MEETING_SLA, VPG_SUB_ERROR, f->progress);
    if (is(f->source_state, "Paused"))
        return verdict(f->has_points ? sla_of(f) : VPG_INITIALIZING,
                       VPG_SUB_PAUSED, f->progress);
    if (is(f->target_state, "Asking"))
        return verdict(VPG_NOT_MEETING_SLA, VPG_SUB_NEEDS_CONFIGURATION,
                       f->progress);
    if (is(f->target_state, "Full"))
        return verdict(VPG_NOT_MEETING_SLA, VPG_SUB_JOURNAL_STORAGE_ERROR,
                       f->progress);
    if (!link && f->has_points)
        return verdict(VPG_NOT_MEETING_SLA, VPG_SUB_DISCONNECTED, f->progress);
    if (is(f->source_state, "InitialSync") || is(f->target_state, "InitialSync"))
        return verdict(VPG_INITIALIZING, VPG_SUB_INITIAL_SYNC, f->progress);
    if (!f->has_points && !link && (f->source_state || f->target_state) &&
        !is(f->source_state, "Connecting") && !is(f->target_state, "Opening") &&
        !is(f->target_state, "Waiting"))
        return verdict(VPG_NOT_MEETING_SLA, VPG_SUB_DISCONNECTED_NO_POINTS,
                       f->progress);
    if (!f->has_points)
        return verdict(VPG_INITIALIZING, VPG_SUB_INITIAL_SYNC, f->progress);
    if (is(f->source_state, "Resync") || is(f->source_state, "Collapsed") ||
        is(f->target_state, "Resync"))
        return verdict(sla_of(f),
                       f->resync_reason && strcasestr(f->resync_reason, "force")
                           ? VPG_SUB_DELTA_SYNC
                           : VPG_SUB_BITMAP_SYNC,
                       f->progress);
    return verdict(sla_of(f), VPG_SUB_NONE, 100);
}
