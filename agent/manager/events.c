/* Events: what happened, for people; kept in the catalog. */
#include <string.h>

#include "common/bytes.h"
#include "common/log.h"
#include "common/text.h"
#include "manager/manager.h"

enum {
    EVENTS_KEPT = 10000
};

static const char *const names[] = {
    "Unknown",
    "CreateProtectionGroup",
    "RemoveProtectionGroup",
    "FailOver",
    "FailOverTest",
    "StopFailOverTest",
    "Move",
    "ProtectVM",
    "UnprotectVM",
    "InstallVra",
    "UninstallVra",
    "UpdateProtectionGroup",
    "InsertTaggedCP",
    "HandleMirrorPromotion",
    "ActivateAllMirrors",
    "LogCollection",
    "ForceReconfigurationOfNewVM",
    "ClearSite",
    "ForceRemoveProtectionGroup",
    "ForceUpdateProtectionGroup",
    "ForceKillProtectionGroup",
    "PrePostScript",
    "InitFullSync",
    "Pair",
    "Unpair",
    "InstallCloudConnector",
    "UninstallCloudConnector",
    "RedeployCloudConnector",
    "ScriptExecutionFailure",
    "SetAdvancedSiteSettings",
    "Clone",
    "KeepDisk",
    "FailoverBeforeCommit",
    "FailoverCommit",
    "FailoverRollback",
    "MoveBeforeCommit",
    "MoveRollback",
    "MoveCommit",
    "MaintainHost",
    "UpgradeVra",
    "MoveProtectionGroupToManualOperationNeeded",
    "ChangeVraIpSettings",
    "PauseProtectionGroup",
    "ResumeProtectionGroup",
    "UpgradeZVM",
    "BulkUpgradeVras",
    "BulkUninstallVras",
    "AlertTurnedOn",
    "AlertTurnedOff",
    "ChangeVraPassword",
    "ChangeRecoveryHost",
    "BackupProtectionGroup",
    "CleanupProtectionGroupVipDiskbox",
    "RestoreProtectionGroup",
    "PreScript",
    "PostScript",
    "RemoveVmFromVc",
    "ChangeVraPasswordIpSettings",
    "FlrJournalMount",
    "FlrJournalUnmount",
    "Login",
    "HostEnteringMaintenanceMode",
    "HostExitingMaintenanceMode",
    "VmRestoredToSnapshot",
    "ProtectedVmRemovedFromHypervisor",
    "ProtectedVmAddedToHypervisor",
    "PauseProtectionGroupForMissingVm",
    "ResumeProtectionGroupAfterUserRemovedMissingVm",
    "ResumeProtectionGroupAfterVmReadded",
    /* ours */
    "ScrubJournal",
    "ChangePassword",
};

const char *
event_type_name(unsigned type)
{
    return type < ARRAY_SIZE(names) ? names[type] : "Unknown";
}

unsigned
event_type_count(void)
{
    return ARRAY_SIZE(names);
}

/* As the API shows it, so that reading needs no second form. */
static void
render(struct manager *m, struct buf *out, const char *id, int type,
       const struct uuid *vpg, const char *vpg_name, bool ok, const char *user,
       const char *description, uint64_t at)
{
    struct json_writer w;
    char vpg_id[UUID_TEXT_SIZE];
    bool has_vpg = vpg && !uuid_is_nil(vpg);

    json_begin(&w, out);
    json_open_obj(&w, NULL);
    json_put_str(&w, "EventIdentifier", id);
    json_put_i64(&w, "EventType", type);
    json_put_u64(&w, "EntityType", has_vpg ? 0 : 3);
    json_put_str(&w, "EventCategory", "Events");
    json_put_str(&w, "Description", description);
    put_time(&w, "OccurredOn", at);
    json_put_bool(&w, "EventCompletedSuccessfully", ok);
    json_put_str(&w, "UserName", *user ? user : "System");
    json_put_null(&w, "HelpLink");
    json_put_uuid(&w, "SiteIdentifier", &m->site);
    json_put_str(&w, "SiteName", m->site_name);
    json_put_null(&w, "ZorgIdentifier");
    json_put_null(&w, "ZorgName");
    json_open_array(&w, "Vpgs");
    if (has_vpg) {
        json_open_obj(&w, NULL);
        json_put_uuid(&w, "VpgIdentifier", vpg);
        json_put_str(&w, "VpgName", vpg_name);
        json_close_obj(&w);
    }
    json_close_array(&w);
    json_open_obj(&w, "RelatedEntities");
    json_open_array(&w, "Vpgs");
    if (has_vpg) {
        uuid_format(vpg, vpg_id);
        put_link(&w, NULL, m, "vpgs", vpg_id, "VpgApi");
    }
    json_close_array(&w);
    json_open_array(&w, "Sites");
    put_site_link(&w, NULL, m, &m->site);
    json_close_array(&w);
    for (size_t i = 0; i < 5; i++) {
        static const char *const none[] = { "Hosts", "Zorgs", "Alerts",
                                            "FlrSessions", "Repositories" };

        json_open_array(&w, none[i]);
        json_close_array(&w);
    }
    json_close_obj(&w);
    put_link(&w, "Link", m, "events", id, "EventApi");
    json_close_obj(&w);
}

void
events_record(struct manager *m, int type, const struct uuid *vpg,
              const char *vpg_name, bool ok, const char *user,
              const char *description)
{
    struct err err = ERR_INIT;
    uint64_t at = wall_ms();
    struct uuid id;
    char text[UUID_TEXT_SIZE];
    struct buf out;

    buf_init(&out, 64 * KIB);
    if (pki_uuid(&id, &err) == 0) {
        uuid_format(&id, text);
        render(m, &out, text, type, vpg, vpg_name, ok, user, description, at);
        if (!out.failed)
            (void)catalog_event_add(m->catalog, at, text, (char *)out.data,
                                    EVENTS_KEPT, &err);
    }
    if (err.num)
        log_err(LOG_ERROR, "manager", "", "event", &err);
    buf_release(&out);
    log_line(LOG_INFO, "manager", "", "event %s: %s",
             event_type_name((unsigned)type), description);
}
