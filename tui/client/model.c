/* API objects into rows. */
#include "tui/client/model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/json.h"
#include "common/text.h"
#include "tui/client/when.h"

static const double mega = 1024.0 * 1024.0;

/* ---- Members, whatever they are -------------------------------------------------- */

static const char *
str(const cJSON *obj, const char *name)
{
    const cJSON *v = json_get(obj, name);

    return cJSON_IsString(v) ? v->valuestring : NULL;
}

/* Of an array of so many words? */
static bool
is_index(double n, size_t size)
{
    return n >= 0 && n < (double)size;
}

static bool
number(const cJSON *obj, const char *name, double *out)
{
    const cJSON *v = json_get(obj, name);
    char *end;
    double d;

    if (cJSON_IsNumber(v)) {
        *out = v->valuedouble;
        return true;
    }
    if (!cJSON_IsString(v) || !v->valuestring[0])
        return false;
    d = strtod(v->valuestring, &end);
    if (*end || !isfinite(d))
        return false;
    *out = d;
    return true;
}

static void
set_str(struct rows *out, const char *field, const cJSON *obj, const char *name)
{
    rows_set_text(out, field, str(obj, name));
}

/* times: what one of the API's units is in ours. */
static void
set_number(struct rows *out, const char *field, const cJSON *obj,
           const char *name, double times)
{
    double v;

    if (number(obj, name, &v))
        rows_set_number(out, field, v * times);
}

static bool
get_time(const cJSON *obj, const char *name, int64_t *out_ms)
{
    const char *s = str(obj, name);

    return s && s[0] && when_parse(s, INT64_MAX / 1000, out_ms, NULL) == 0;
}

static void
set_time(struct rows *out, const char *field, const cJSON *obj, const char *name)
{
    int64_t ms;

    if (get_time(obj, name, &ms))
        rows_set_number(out, field, (double)ms);
}

static void
set_age(struct rows *out, const char *field, const cJSON *obj, const char *name,
        int64_t now_ms)
{
    int64_t ms;

    if (get_time(obj, name, &ms))
        rows_set_number(out, field, (double)MAX(now_ms - ms, 0) / 1000);
}

static bool
same(const char *a, const char *b)
{
    return a && b && text_icmp(a, b) == 0;
}

/* ---- Sites ------------------------------------------------------------------------- */

static bool
link_up(const cJSON *peer)
{
    const char *s = str(peer, "LinkState");

    return same(s, "up") || same(s, "connected") || same(s, "slow");
}

static const cJSON *
find_peer(const struct model *m, const char *id)
{
    const cJSON *p;

    cJSON_ArrayForEach (p, m->peers) {
        if (same(str(p, "SiteIdentifier"), id))
            return p;
    }
    return NULL;
}

int64_t
model_vpg_stale(const struct model *m, const cJSON *vpg)
{
    const cJSON *link = json_get(vpg, "RecoverySite"), *peer;
    int64_t ms;

    if (!m->peers || same(str(link, "type"), "LocalSiteApi") ||
        same(str(link, "identifier"), str(m->local, "SiteIdentifier")))
        return -1;
    peer = find_peer(m, str(link, "identifier"));
    if (!peer || link_up(peer))
        return -1;
    if (!get_time(peer, "LastContact", &ms) || ms > m->now_ms)
        return 0;
    return m->now_ms - ms;
}

/* What a site does in the VPGs that the answering one knows. */
static void
set_role(const struct model *m, const char *id, struct rows *out)
{
    bool protects = false, recovers = false;
    const cJSON *v;
    double n = 0;

    if (!m->vpgs)
        return;
    cJSON_ArrayForEach (v, m->vpgs) {
        bool p = same(str(json_get(v, "ProtectedSite"), "identifier"), id);
        bool r = same(str(json_get(v, "RecoverySite"), "identifier"), id);

        protects |= p;
        recovers |= r;
        n += p || r;
    }
    rows_set_text(out, "role",
                  protects && recovers ? "both"
                  : protects           ? "protected"
                  : recovers           ? "recovery"
                                       : "-");
    rows_set_number(out, "vpgs", n);
}

static void
add_peer(const struct model *m, const cJSON *p, struct rows *out)
{
    static const char *const pairing[] = { "paired", "pairing", "unpaired" };
    const cJSON *vras = json_get(p, "Vras");
    double n, connected, total, port;
    char text[320];
    int64_t ms;
    bool up = link_up(p);

    rows_add(out);
    rows_set_number(out, "severity", up ? SEV_GOOD : SEV_STALE);
    set_str(out, "name", p, "PeerSiteName");
    set_role(m, str(p, "SiteIdentifier"), out);
    (void)snprintf(text, sizeof text, "%s", up ? "up" : "down");
    rows_set_text(out, "link", text);
    if (up) {
        set_number(out, "rtt", p, "RttInMs", 1);
        set_number(out, "queue", p, "QueueInBytes", 1);
        set_number(out, "skew", p, "ClockSkewInMs", 1);
    }
    set_str(out, "version", p, "Version");
    if (number(vras, "Total", &total)) {
        if (up && number(vras, "Connected", &connected))
            (void)snprintf(text, sizeof text, "%.0f/%.0f", connected, total);
        else
            (void)snprintf(text, sizeof text, "?/%.0f", total);
        rows_set_text(out, "agents", text);
    }
    (void)snprintf(text, sizeof text, "live");
    if (!up && get_time(p, "LastContact", &ms)) {
        int64_t s = MAX(m->now_ms - ms, 0) / 1000;

        (void)snprintf(text, sizeof text, "STALE %02lld:%02lld:%02lld",
                       (long long)s / 3600, (long long)s / 60 % 60,
                       (long long)s % 60);
    } else if (!up) {
        (void)snprintf(text, sizeof text, "OFFLINE");
    }
    rows_set_text(out, "fresh", text);
    if (str(p, "HostName")) {
        if (!number(p, "Port", &port))
            port = 0;
        (void)snprintf(text, sizeof text, "%.255s:%.0f", str(p, "HostName"),
                       port);
        rows_set_text(out, "address", text);
    }
    set_str(out, "location", p, "Location");
    if (number(p, "PairingStatus", &n) && is_index(n, ARRAY_SIZE(pairing)))
        rows_set_text(out, "pairing", pairing[(size_t)n]);
    set_time(out, "last_contact", p, "LastContact");
    set_str(out, "error", p, "LinkError");
    set_str(out, "id", p, "SiteIdentifier");
}

void
model_sites(const struct model *m, struct rows *out)
{
    const cJSON *p;

    if (m->local) {
        rows_add(out);
        rows_set_number(out, "severity", SEV_GOOD);
        set_str(out, "name", m->local, "SiteName");
        set_role(m, str(m->local, "SiteIdentifier"), out);
        rows_set_text(out, "link", "local");
        set_str(out, "version", m->local, "Version");
        set_str(out, "address", m->local, "IpAddress");
        set_str(out, "location", m->local, "Location");
        rows_set_text(out, "fresh", "live");
        set_str(out, "id", m->local, "SiteIdentifier");
    }
    cJSON_ArrayForEach (p, m->peers)
        add_peer(m, p, out);
}

void
model_local(const struct model *m, struct rows *out)
{
    rows_add(out);
    set_str(out, "name", m->local, "SiteName");
    set_str(out, "location", m->local, "Location");
    set_str(out, "version", m->local, "Version");
    set_str(out, "address", m->local, "IpAddress");
    set_str(out, "id", m->local, "SiteIdentifier");
}

/* ---- Agents --------------------------------------------------------------------------- */

static const char *
vra_state(double n)
{
    static const char *const words[] = {
        "connected",     "unsupported", "not connected",     "installing",
        "removing",      "error",       "password changed",  "updating",
        "changing host", "maintenance", "enter maintenance",
    };

    return is_index(n, ARRAY_SIZE(words)) ? words[(size_t)n] : "?";
}

void
model_vras(const struct model *m, struct rows *out)
{
    const cJSON *v;
    double status, alerts, volumes, more;

    cJSON_ArrayForEach (v, m->list) {
        if (!number(v, "Status", &status))
            status = -1;
        if (!number(json_get(v, "VraAlerts"), "VraAlertsStatus", &alerts))
            alerts = 0;
        rows_add(out);
        rows_set_number(out, "severity",
                        status > 0 || alerts >= 2 ? SEV_CRITICAL
                        : alerts >= 1             ? SEV_WARNING
                        : status < 0              ? SEV_UNKNOWN
                                                  : SEV_GOOD);
        set_str(out, "name", v, "VraName");
        set_str(out, "host", v, "HostDisplayName");
        set_str(out, "address", v, "IpAddress");
        rows_set_text(out, "state", vra_state(status));
        set_str(out, "version", v, "VraVersion");
        set_number(out, "protected_vpgs", json_get(v, "ProtectedCounters"),
                   "Vpgs", 1);
        set_number(out, "recovery_vpgs", json_get(v, "RecoveryCounters"),
                   "Vpgs", 1);
        if (number(json_get(v, "ProtectedCounters"), "Volumes", &volumes) &&
            number(json_get(v, "RecoveryCounters"), "Volumes", &more))
            rows_set_number(out, "volumes", volumes + more);
        set_str(out, "id", v, "VraIdentifierStr");
    }
}

/* ---- VPGs ------------------------------------------------------------------------------- */

struct state {
    const char *word;
    enum severity severity;
};

static const struct state status_words[] = {
    { "Initializing", SEV_PROGRESS },    { "Meeting SLA", SEV_GOOD },
    { "Not meeting SLA", SEV_CRITICAL }, { "History short", SEV_WARNING },
    { "RPO not met", SEV_WARNING },      { "Failing over", SEV_PROGRESS },
    { "Moving", SEV_PROGRESS },          { "Deleting", SEV_PROGRESS },
    { "Recovered", SEV_GOOD },
};

static const struct state substatus_words[] = {
    { NULL, SEV_GOOD }, /* the status speaks */
    { "Initial sync", SEV_PROGRESS },
    { "Creating", SEV_PROGRESS },
    { "Volume sync", SEV_PROGRESS },
    { "Sync", SEV_PROGRESS },
    { "Recovery possible", SEV_WARNING },
    { "Delta sync", SEV_PROGRESS },
    { "Needs config", SEV_CRITICAL },
    { "Error", SEV_CRITICAL },
    { "Empty", SEV_WARNING },
    { "Silent, no point", SEV_CRITICAL },
    { "Full sync", SEV_PROGRESS },
    { "Volume delta", SEV_PROGRESS },
    { "Volume full sync", SEV_PROGRESS },
    { "Committing", SEV_PROGRESS },
    { "Await commit", SEV_CRITICAL },
    { "Rolling back", SEV_PROGRESS },
    { "Promoting", SEV_PROGRESS },
    { "Committing move", SEV_PROGRESS },
    { "Await commit", SEV_CRITICAL },
    { "Rolling back", SEV_PROGRESS },
    { "Deleting", SEV_PROGRESS },
    { "Pending remove", SEV_PROGRESS },
    { "Bitmap sync", SEV_PROGRESS },
    { "Source silent", SEV_WARNING },
    { "Paused", SEV_WARNING },
    { "Paused by system", SEV_CRITICAL },
    { "Store policy", SEV_CRITICAL },
    { "Backup", SEV_PROGRESS },
    { "Rolling back", SEV_PROGRESS },
    { "Store error", SEV_CRITICAL },
    { "Journal error", SEV_CRITICAL },
    { "VM unprotected", SEV_CRITICAL },
    { "Journal missing", SEV_CRITICAL },
    { "Added VMs sync", SEV_PROGRESS },
    { "Volume missing", SEV_CRITICAL },
    { "Stop failed", SEV_CRITICAL },
    { "Rollback failed", SEV_CRITICAL },
    { "Rollback failed", SEV_CRITICAL },
    { "Splitting", SEV_PROGRESS },
    { "Preseed", SEV_PROGRESS },
    { "VM restore", SEV_PROGRESS },
};

static bool
test_runs(const cJSON *v)
{
    return json_get(json_get(v, "ActiveProcessesApi"),
                    "RunningFailOverTestApi") != NULL;
}

/* Seen at the protected site, the two replicators having no connection: does the
 * other site not answer, or our own replicator, or is it the link alone? */
static const char *
silent_word(const cJSON *v, int64_t stale)
{
    const cJSON *source = json_get(v, "SourceState");

    if (same(str(json_get(v, "RecoverySite"), "type"), "LocalSiteApi"))
        return "Source silent";
    if (stale >= 0)
        return "Site silent";
    return cJSON_HasObjectItem(v, "SourceState") && !source ? "Agent silent"
                                                            : "No link";
}

static struct state
vpg_state(const cJSON *v, int64_t stale)
{
    static const struct state unknown = { "?", SEV_UNKNOWN };
    struct state s = unknown;
    double status = -1, sub = 0, alert = 0;

    if (number(v, "Status", &status) &&
        is_index(status, ARRAY_SIZE(status_words)))
        s = status_words[(size_t)status];
    if (number(v, "SubStatus", &sub) && sub >= 1 &&
        is_index(sub, ARRAY_SIZE(substatus_words))) {
        s.word = substatus_words[(size_t)sub].word;
        /* A silent source outweighs that RPO and history suffer from it. */
        s.severity =
            sub == 24 ? SEV_WARNING
                      : MAX(s.severity, substatus_words[(size_t)sub].severity);
        if (sub == 24)
            s.word = silent_word(v, stale);
    } else if (test_runs(v) && s.severity == SEV_GOOD) {
        s = (struct state){ "Test running", SEV_PROGRESS };
    }
    if (number(v, "AlertStatus", &alert) && alert >= 1)
        s.severity = MAX(s.severity, alert >= 2 ? SEV_CRITICAL : SEV_WARNING);
    return s;
}

static const char *
first_str(const cJSON *obj, const char *a, const char *b)
{
    const char *s = str(obj, a);

    return s ? s : str(obj, b);
}

static void
set_rpo(struct rows *out, const cJSON *obj)
{
    double v;

    if (number(obj, "ActualRPO", &v) && v >= 0)
        rows_set_number(out, "rpo", v);
}

/* "sentence (CODE; next: step)" of an error of one side. */
static void
set_error(struct rows *out, const char *field, const cJSON *e)
{
    const char *message = str(e, "Message"), *code = str(e, "Code"),
               *next = str(e, "NextStep");
    char text[1600];

    if (!message)
        return;
    (void)snprintf(text, sizeof text, "%.800s (%.20s%s%.600s)", message,
                   code ? code : "?", next ? "; next: " : "", next ? next : "");
    rows_set_text(out, field, text);
}

static void
add_vpg(const struct model *m, const cJSON *v, struct rows *out)
{
    static const char *const priority[] = { "low", "medium", "high" };
    const cJSON *history = json_get(v, "HistoryStatusApi");
    int64_t stale = model_vpg_stale(m, v);
    struct state s = vpg_state(v, stale);
    double n;

    rows_add(out);
    rows_set_number(out, "severity", stale >= 0 ? SEV_STALE : s.severity);
    set_str(out, "name", v, "VpgName");
    rows_set_text(out, "protected",
                  first_str(v, "ProtectedSiteName", "SourceSite"));
    rows_set_text(out, "recovery",
                  first_str(v, "RecoverySiteName", "TargetSite"));
    set_rpo(out, v);
    set_number(out, "target", v, "ConfiguredRpoSeconds", 1);
    rows_set_text(out, "state", s.word);
    if (s.severity == SEV_PROGRESS && number(v, "ProgressPercentage", &n) &&
        n < 100)
        rows_set_number(out, "progress", n);
    set_number(out, "vms", v, "VmsCount", 1);
    if (number(v, "Priority", &n) && is_index(n, ARRAY_SIZE(priority)))
        rows_set_text(out, "priority", priority[(size_t)n]);
    set_str(out, "id", v, "VpgIdentifier");
    set_number(out, "status", v, "Status", 1);
    set_number(out, "substatus", v, "SubStatus", 1);
    set_number(out, "history", history, "ActualHistoryInMinutes", 60);
    set_number(out, "history_target", history, "ConfiguredHistoryInMinutes", 60);
    set_number(out, "interval", v, "CheckpointIntervalInSeconds", 1);
    set_time(out, "latest", json_get(v, "LatestCheckpoint"), "TimeStamp");
    rows_set_bool(out, "testing", test_runs(v));
    set_time(out, "last_test", v, "LastTest");
    set_number(out, "iops", v, "IOPs", 1);
    set_number(out, "throughput", v, "ThroughputInMB", mega);
    set_number(out, "incoming", v, "IncomingMBs", mega);
    set_number(out, "outgoing", v, "OutgoingMBs", mega);
    set_number(out, "lag", v, "LagBytes", 1);
    set_number(out, "journal", v, "JournalUsedInBytes", 1);
    set_number(out, "scratch", v, "ScratchUsedInBytes", 1);
    set_number(out, "size", v, "ProvisionedStorageInMB", mega);
    set_number(out, "used", v, "UsedStorageInMB", mega);
    rows_set_bool(out, "stale", stale >= 0);
    if (stale > 0)
        rows_set_number(out, "stale_for", (double)stale / 1000);
    set_error(out, "source_error", json_get(v, "SourceError"));
    set_error(out, "target_error", json_get(v, "TargetError"));
}

void
model_vpgs(const struct model *m, struct rows *out)
{
    const cJSON *v;

    cJSON_ArrayForEach (v, m->vpgs)
        add_vpg(m, v, out);
}

/* ---- VMs ---------------------------------------------------------------------------------- */

static void
set_count(struct rows *out, const char *field, const cJSON *list)
{
    if (cJSON_IsArray(list))
        rows_set_number(out, field, cJSON_GetArraySize(list));
}

static void
add_unprotected(const cJSON *site, struct rows *out)
{
    const cJSON *v;

    cJSON_ArrayForEach (v, json_get(site, "Vms")) {
        rows_add(out);
        rows_set_number(out, "severity", SEV_GOOD);
        set_str(out, "name", v, "VmName");
        rows_set_text(out, "state", "not protected");
        set_str(out, "protected", site, "SiteName");
        set_number(out, "size", json_get(v, "VmPerfMetricInfo"),
                   "ProvisionedStorageInMB", mega);
        set_count(out, "volumes", json_get(v, "Volumes"));
        set_str(out, "id", v, "VmIdentifier");
    }
}

void
model_vms(const struct model *m, struct rows *out)
{
    const cJSON *v;

    cJSON_ArrayForEach (v, m->vms) {
        struct state s = vpg_state(v, model_vpg_stale(m, v));

        rows_add(out);
        rows_set_number(out, "severity", s.severity);
        set_str(out, "name", v, "VmName");
        set_str(out, "vpg", v, "VpgName");
        rows_set_text(out, "state", s.word);
        set_rpo(out, v);
        rows_set_text(out, "protected",
                      first_str(v, "ProtectedSiteName", "SourceSite"));
        rows_set_text(out, "recovery",
                      first_str(v, "RecoverySiteName", "TargetSite"));
        set_number(out, "size", v, "ProvisionedStorageInMB", mega);
        set_count(out, "volumes", json_get(v, "Volumes"));
        set_str(out, "id", v, "VmIdentifier");
        set_str(out, "vpg_id", v, "VpgIdentifier");
    }
    cJSON_ArrayForEach (v, m->inventory)
        add_unprotected(v, out);
}

/* ---- Points --------------------------------------------------------------------------------- */

static void
set_lower(struct rows *out, const char *field, const cJSON *obj,
          const char *name)
{
    char text[64];
    const char *s = str(obj, name);
    size_t i = 0;

    for (; s && s[i] && i + 1 < sizeof text; i++)
        text[i] = (char)(s[i] >= 'A' && s[i] <= 'Z' ? s[i] + 32 : s[i]);
    text[i] = '\0';
    rows_set_text(out, field, s ? text : NULL);
}

void
model_points(const struct model *m, struct rows *out)
{
    const cJSON *p;

    cJSON_ArrayForEach (p, m->list) {
        rows_add(out);
        set_time(out, "time", p, "TimeStamp");
        set_age(out, "age", p, "TimeStamp", m->now_ms);
        set_lower(out, "kind", p, "Kind");
        set_lower(out, "consistent", p, "Consistency");
        set_str(out, "point", p, "CheckpointIdentifier");
        set_str(out, "note", p, "Tag");
        rows_set_bool(out, "damaged", cJSON_IsTrue(json_get(p, "Damaged")));
        rows_set_number(out, "severity",
                        cJSON_IsTrue(json_get(p, "Damaged")) ? SEV_CRITICAL
                                                             : SEV_GOOD);
    }
}

/* ---- Tasks and events --------------------------------------------------------------------------- */

int
model_task_state(const cJSON *task)
{
    double n;

    return number(json_get(task, "Status"), "State", &n) && n >= 0 && n < 100
               ? (int)n
               : -1;
}

const char *
model_task_word(const char *type)
{
    static const struct {
        const char *type, *word;
    } words[] = {
        { "CreateProtectionGroup", "Create VPG" },
        { "RemoveProtectionGroup", "Delete VPG" },
        { "UpdateProtectionGroup", "Edit VPG" },
        { "FailOverTest", "Test failover" },
        { "StopFailOverTest", "Stop test" },
        { "InsertTaggedCP", "New point" },
        { "ScrubJournal", "Scrub" },
        { "PauseProtectionGroup", "Pause" },
        { "ResumeProtectionGroup", "Resume" },
        { "InitFullSync", "Force sync" },
        { "OverwriteReplica", "Overwrite" },
        { "Pair", "Pair sites" },
        { "Unpair", "Unpair sites" },
        { "UninstallVra", "Remove agent" },
        { "OpenView", "Open view" },
        { "CloseView", "Close view" },
    };

    for (size_t i = 0; i < ARRAY_SIZE(words); i++) {
        if (same(words[i].type, type))
            return words[i].word;
    }
    return type;
}

/* The first VPG that an object is about: its name, or at least its id. */
static const char *
related_vpg(const struct model *m, const cJSON *obj, const char **out_id)
{
    const cJSON *link =
        cJSON_GetArrayItem(json_get(json_get(obj, "RelatedEntities"), "Vpgs"),
                           0);
    const cJSON *named = cJSON_GetArrayItem(json_get(obj, "Vpgs"), 0), *v;

    *out_id = str(link, "identifier");
    if (!*out_id)
        *out_id = str(named, "VpgIdentifier");
    if (str(named, "VpgName"))
        return str(named, "VpgName");
    cJSON_ArrayForEach (v, m->vpgs) {
        if (same(str(v, "VpgIdentifier"), *out_id))
            return str(v, "VpgName");
    }
    return *out_id;
}

static const struct state *
task_state(const cJSON *t)
{
    static const struct state states[] = {
        { "?", SEV_UNKNOWN },      { "running", SEV_PROGRESS },
        { "waits", SEV_CRITICAL }, { "paused", SEV_WARNING },
        { "FAILED", SEV_WARNING }, { "stopped", SEV_WARNING },
        { "done", SEV_GOOD },      { "cancelling", SEV_PROGRESS },
    };
    int state = model_task_state(t);

    return &states[state >= 0 && state < (int)ARRAY_SIZE(states) ? state : 0];
}

static void
set_took(struct rows *out, const cJSON *t)
{
    int64_t from, to;

    if (get_time(t, "Started", &from) && get_time(t, "Completed", &to))
        rows_set_number(out, "took", (double)MAX(to - from, 0) / 1000);
}

static void
add_task(const struct model *m, const cJSON *t, struct rows *out)
{
    const struct state *s = task_state(t);
    const char *vpg_id;

    rows_add(out);
    rows_set_number(out, "severity", s->severity);
    set_str(out, "id", t, "TaskIdentifier");
    set_time(out, "started", t, "Started");
    rows_set_text(out, "what", model_task_word(str(t, "Type")));
    rows_set_text(out, "on", related_vpg(m, t, &vpg_id));
    set_str(out, "by", t, "InitiatedBy");
    rows_set_text(out, "state", s->word);
    if (model_task_state(t) == 1)
        set_number(out, "progress", json_get(t, "Status"), "Progress", 1);
    set_took(out, t);
    set_time(out, "completed", t, "Completed");
    set_str(out, "reason", t, "CompleteReason");
    set_str(out, "type", t, "Type");
    rows_set_text(out, "vpg_id", vpg_id);
}

void
model_tasks(const struct model *m, struct rows *out)
{
    const cJSON *t;

    cJSON_ArrayForEach (t, m->list)
        add_task(m, t, out);
}

void
model_scrub(const struct model *m, struct rows *out)
{
    static const struct {
        const char *field, *name;
    } counts[] = {
        { "bad", "Bad" },           { "bytes", "Bytes" },
        { "segments", "Segments" }, { "batches", "Batches" },
        { "chunks", "Chunks" },     { "runs", "Runs" },
        { "replicas", "Replicas" },
    };
    const cJSON *t;

    cJSON_ArrayForEach (t, m->list) {
        const cJSON *found = json_get(t, "Scrub");
        const struct state *s = task_state(t);
        const char *vpg_id;
        double bad = 0;

        rows_add(out);
        rows_set_number(out, "severity",
                        number(found, "Bad", &bad) && bad > 0 ? SEV_CRITICAL
                                                              : s->severity);
        rows_set_text(out, "vpg", related_vpg(m, t, &vpg_id));
        rows_set_text(out, "state", bad > 0 ? "DAMAGED" : s->word);
        set_number(out, "progress", found, "ProgressPercent", 1);
        for (size_t i = 0; i < ARRAY_SIZE(counts); i++)
            set_number(out, counts[i].field, found, counts[i].name, 1);
        set_str(out, "first_bad", found, "FirstBad");
        set_took(out, t);
        set_str(out, "id", t, "TaskIdentifier");
    }
}

void
model_events(const struct model *m, struct rows *out)
{
    const cJSON *e;

    cJSON_ArrayForEach (e, m->list) {
        const cJSON *ok = json_get(e, "EventCompletedSuccessfully");
        const cJSON *type;
        const char *vpg_id;
        double n;

        rows_add(out);
        rows_set_number(out, "severity",
                        cJSON_IsFalse(ok) ? SEV_WARNING : SEV_GOOD);
        set_time(out, "time", e, "OccurredOn");
        rows_set_text(out, "on", related_vpg(m, e, &vpg_id));
        set_str(out, "by", e, "UserName");
        set_str(out, "text", e, "Description");
        if (number(e, "EventType", &n) && n >= 0 && n < 1000) {
            type = cJSON_GetArrayItem(m->events_types, (int)n);
            rows_set_text(out, "type",
                          cJSON_IsString(type) ? type->valuestring : NULL);
        }
        if (cJSON_IsBool(ok))
            rows_set_bool(out, "ok", cJSON_IsTrue(ok));
        set_str(out, "site", e, "SiteName");
        set_str(out, "id", e, "EventIdentifier");
    }
}

void
model_alerts(const struct model *m, struct rows *out)
{
    const cJSON *a;

    cJSON_ArrayForEach (a, m->list) {
        const cJSON *vpg = cJSON_GetArrayItem(json_get(a, "AffectedVpgs"), 0);
        const cJSON *v, *dismissed = json_get(a, "IsDismissed");
        const char *level = str(a, "Level"), *on = str(vpg, "identifier");

        rows_add(out);
        rows_set_number(out, "severity",
                        same(level, "Error")     ? SEV_CRITICAL
                        : same(level, "Warning") ? SEV_WARNING
                                                 : SEV_UNKNOWN);
        set_time(out, "since", a, "TurnedOn");
        set_age(out, "age", a, "TurnedOn", m->now_ms);
        set_str(out, "code", a, "HelpIdentifier");
        set_lower(out, "level", a, "Level");
        cJSON_ArrayForEach (v, m->vpgs) {
            if (same(str(v, "VpgIdentifier"), str(vpg, "identifier")))
                on = str(v, "VpgName");
        }
        rows_set_text(out, "on", on);
        set_str(out, "text", a, "Description");
        if (cJSON_IsBool(dismissed))
            rows_set_bool(out, "dismissed", cJSON_IsTrue(dismissed));
        set_lower(out, "entity", a, "Entity");
        set_str(out, "site", json_get(a, "Site"), "identifier");
        set_str(out, "id", json_get(a, "Link"), "identifier");
    }
}

/* ---- Storage ----------------------------------------------------------------------------------------- */

static void
add_volumes(const cJSON *vm, const char *site, struct rows *out)
{
    const cJSON *v;

    cJSON_ArrayForEach (v, json_get(vm, "Volumes")) {
        const char *error = str(v, "Error");

        rows_add(out);
        rows_set_number(out, "severity", error ? SEV_CRITICAL : SEV_GOOD);
        rows_set_text(out, "name",
                      first_str(v, "VolumeName", "VmVolumeIdentifier"));
        set_str(out, "vm", vm, "VmName");
        set_str(out, "vpg", vm, "VpgName");
        rows_set_text(out, "site", site);
        set_number(out, "size", v, "SizeInBytes", 1);
        set_str(out, "uri", v, "NbdUri");
        set_str(out, "path", v, "Path");
        rows_set_text(out, "error", error);
        set_str(out, "id", v, "VmVolumeIdentifier");
    }
}

void
model_volumes(const struct model *m, struct rows *out)
{
    const cJSON *v, *vm;

    cJSON_ArrayForEach (v, m->vms)
        add_volumes(v, first_str(v, "ProtectedSiteName", "SourceSite"), out);
    cJSON_ArrayForEach (v, m->inventory) {
        cJSON_ArrayForEach (vm, json_get(v, "Vms"))
            add_volumes(vm, str(v, "SiteName"), out);
    }
}

void
model_stores(const struct model *m, struct rows *out)
{
    const cJSON *v;

    cJSON_ArrayForEach (v, m->list) {
        const cJSON *usage = json_get(json_get(v, "Stats"), "Usage");
        const cJSON *disk = json_get(usage, "Datastore");
        const cJSON *ours = json_get(usage, "Zerto");

        rows_add(out);
        set_str(out, "name", v, "DatastoreName");
        set_str(out, "site", v, "SiteName");
        set_number(out, "capacity", disk, "CapacityInBytes", 1);
        set_number(out, "free", disk, "FreeInBytes", 1);
        set_number(out, "journal", json_get(ours, "Journal"), "UsedInBytes", 1);
        set_number(out, "replica", json_get(ours, "Recovery"), "UsedInBytes", 1);
        set_number(out, "scratch", json_get(ours, "Scratch"), "UsedInBytes", 1);
        set_str(out, "id", v, "DatastoreIdentifier");
    }
}

void
model_views(const struct model *m, struct rows *out)
{
    const cJSON *v;

    cJSON_ArrayForEach (v, m->list) {
        rows_add(out);
        set_lower(out, "mode", v, "Mode");
        set_time(out, "time", v, "TimeStamp");
        set_str(out, "name", v, "VolumeName");
        set_str(out, "uri", v, "NbdUri");
        set_str(out, "id", v, "ViewIdentifier");
        set_str(out, "vm", v, "VmName");
        set_str(out, "point", v, "CheckpointIdentifier");
        set_str(out, "volume_id", v, "VolumeIdentifier");
    }
}
