/* The tables: fields, heads, formats and what goes first on a narrow line. */
#include "common/bytes.h"
#include "tui/client/model.h"

/* clang-format off */
/* NOLINTBEGIN(bugprone-macro-parentheses): names are pasted */
#define TABLE(name_, columns_, sort_, empty_) \
    const struct table table_##columns_ = { \
        .name = name_, .columns = columns_##_columns, \
        .n_columns = ARRAY_SIZE(columns_##_columns), \
        .sort = sort_, .empty = empty_ }
/* NOLINTEND(bugprone-macro-parentheses) */
/* clang-format on */

/* field, head, format, keep, min */
static const struct column vpgs_columns[] = {
    { "severity", "", FMT_SIGN, 100, 0 },
    { "name", "NAME", FMT_TEXT, 100, 12 },
    { "protected", "PROTECTED", FMT_TEXT, 60, 9 },
    { "recovery", "RECOVERY", FMT_TEXT, 59, 8 },
    { "rpo", "RPO", FMT_DURATION, 95, 0 },
    { "target", "TARGET", FMT_SECONDS, 40, 0 },
    { "state", "STATE", FMT_TEXT, 90, 10 },
    { "progress", "PRG", FMT_PERCENT, 50, 0 },
    { "vms", "VMS", FMT_COUNT, 30, 0 },
    { "priority", "PRIO", FMT_TEXT, 0, 4 },
    { "id", "ID", FMT_TEXT, 0, 0 },
    { "status", "STATUS", FMT_COUNT, 0, 0 },
    { "substatus", "SUBSTATUS", FMT_COUNT, 0, 0 },
    { "history", "HISTORY", FMT_DURATION, 0, 0 },
    { "history_target", "OF", FMT_DURATION, 0, 0 },
    { "interval", "INTERVAL", FMT_SECONDS, 0, 0 },
    { "latest", "LATEST", FMT_TIME, 0, 0 },
    { "testing", "TEST", FMT_BOOL, 0, 0 },
    { "last_test", "LAST TEST", FMT_TIME, 0, 0 },
    { "iops", "IOPS", FMT_COUNT, 0, 0 },
    { "throughput", "WRITES", FMT_RATE, 0, 0 },
    { "incoming", "IN", FMT_RATE, 0, 0 },
    { "outgoing", "OUT", FMT_RATE, 0, 0 },
    { "lag", "LAG", FMT_BYTES, 0, 0 },
    { "journal", "JOURNAL", FMT_BYTES, 0, 0 },
    { "scratch", "SCRATCH", FMT_BYTES, 0, 0 },
    { "size", "SIZE", FMT_BYTES, 0, 0 },
    { "used", "USED", FMT_BYTES, 0, 0 },
    { "stale", "STALE", FMT_BOOL, 0, 0 },
    { "stale_for", "STALE FOR", FMT_DURATION, 0, 0 },
    { "source_error", "SOURCE ERROR", FMT_TEXT, 0, 20 },
    { "target_error", "TARGET ERROR", FMT_TEXT, 0, 20 },
};
TABLE("vpgs", vpgs, "-severity,name", "No VPG matches.");

static const struct column sites_columns[] = {
    { "severity", "", FMT_SIGN, 100, 0 },
    { "name", "SITE", FMT_TEXT, 100, 12 },
    { "role", "ROLE", FMT_TEXT, 70, 0 },
    { "link", "LINK", FMT_TEXT, 95, 6 },
    { "rtt", "RTT", FMT_MILLISECONDS, 40, 0 },
    { "queue", "QUEUE", FMT_BYTES, 50, 0 },
    { "skew", "SKEW", FMT_MILLISECONDS, 20, 0 },
    { "version", "VERSION", FMT_TEXT, 30, 7 },
    { "agents", "AGENTS", FMT_TEXT, 60, 0 },
    { "vpgs", "VPGS", FMT_COUNT, 55, 0 },
    { "fresh", "FRESH", FMT_TEXT, 90, 0 },
    { "address", "ADDRESS", FMT_TEXT, 0, 12 },
    { "location", "LOCATION", FMT_TEXT, 0, 8 },
    { "pairing", "PAIRING", FMT_TEXT, 0, 0 },
    { "last_contact", "LAST CONTACT", FMT_TIME, 0, 0 },
    { "error", "ERROR", FMT_TEXT, 0, 20 },
    { "id", "ID", FMT_TEXT, 0, 0 },
};
TABLE("sites", sites, NULL, "No site.");

static const struct column vras_columns[] = {
    { "severity", "", FMT_SIGN, 100, 0 },
    { "name", "AGENT", FMT_TEXT, 100, 12 },
    { "host", "HOST", FMT_TEXT, 60, 8 },
    { "address", "ADDRESS", FMT_TEXT, 50, 10 },
    { "state", "STATE", FMT_TEXT, 90, 8 },
    { "version", "VERSION", FMT_TEXT, 40, 7 },
    { "protected_vpgs", "PROTECTS", FMT_COUNT, 70, 0 },
    { "recovery_vpgs", "RECOVERS", FMT_COUNT, 69, 0 },
    { "volumes", "DISKS", FMT_COUNT, 30, 0 },
    { "id", "ID", FMT_TEXT, 0, 0 },
};
TABLE("vras", vras, "-severity,name", "No agent has joined this site.");

static const struct column vms_columns[] = {
    { "severity", "", FMT_SIGN, 100, 0 },
    { "name", "VM", FMT_TEXT, 100, 12 },
    { "vpg", "VPG", FMT_TEXT, 80, 8 },
    { "state", "STATE", FMT_TEXT, 90, 10 },
    { "rpo", "RPO", FMT_DURATION, 70, 0 },
    { "protected", "PROTECTED", FMT_TEXT, 60, 9 },
    { "recovery", "RECOVERY", FMT_TEXT, 59, 8 },
    { "size", "SIZE", FMT_BYTES, 40, 0 },
    { "volumes", "DISKS", FMT_COUNT, 30, 0 },
    { "id", "ID", FMT_TEXT, 0, 0 },
    { "vpg_id", "VPG ID", FMT_TEXT, 0, 0 },
};
TABLE("vms", vms, "name", "No VM matches.");

static const struct column points_columns[] = {
    { "severity", "", FMT_SIGN, 100, 0 },
    { "time", "TIME (UTC)", FMT_MOMENT, 100, 0 },
    { "age", "AGE", FMT_DURATION, 90, 0 },
    { "kind", "KIND", FMT_TEXT, 60, 4 },
    { "consistent", "CONSISTENT", FMT_TEXT, 50, 0 },
    { "point", "POINT", FMT_TEXT, 95, 0 },
    { "damaged", "DAMAGED", FMT_BOOL, 96, 0 },
    { "note", "NOTE", FMT_TEXT, 99, 20 },
};
TABLE("points", points, "-time", "No point matches.");

static const struct column tasks_columns[] = {
    { "severity", "", FMT_SIGN, 100, 0 },
    { "id", "ID", FMT_TEXT, 95, 9 },
    { "started", "STARTED", FMT_TIME, 80, 0 },
    { "what", "WHAT", FMT_TEXT, 99, 13 },
    { "on", "ON", FMT_TEXT, 85, 8 },
    { "by", "BY", FMT_TEXT, 30, 5 },
    { "state", "STATE", FMT_TEXT, 98, 0 },
    { "progress", "PRG", FMT_PERCENT, 60, 0 },
    { "took", "TOOK", FMT_DURATION, 20, 0 },
    { "completed", "COMPLETED", FMT_TIME, 0, 0 },
    { "reason", "REASON", FMT_TEXT, 0, 20 },
    { "type", "TYPE", FMT_TEXT, 0, 0 },
    { "vpg_id", "VPG ID", FMT_TEXT, 0, 0 },
};
TABLE("tasks", tasks, "-started", "No task matches.");

static const struct column events_columns[] = {
    { "severity", "", FMT_SIGN, 100, 0 },
    { "time", "TIME (UTC)", FMT_TIME, 99, 0 },
    { "on", "ON", FMT_TEXT, 70, 8 },
    { "by", "BY", FMT_TEXT, 50, 5 },
    { "text", "TEXT", FMT_TEXT, 100, 20 },
    { "type", "TYPE", FMT_TEXT, 0, 8 },
    { "ok", "OK", FMT_BOOL, 0, 0 },
    { "site", "SITE", FMT_TEXT, 0, 8 },
    { "id", "ID", FMT_TEXT, 0, 0 },
};
TABLE("events", events, "-time", "No event matches.");

static const struct column alerts_columns[] = {
    { "severity", "", FMT_SIGN, 100, 0 },
    { "since", "SINCE", FMT_TIME, 60, 0 },
    { "age", "AGE", FMT_DURATION, 50, 0 },
    { "code", "CODE", FMT_TEXT, 99, 0 },
    { "level", "LEVEL", FMT_TEXT, 40, 0 },
    { "on", "ON", FMT_TEXT, 80, 8 },
    { "text", "TEXT", FMT_TEXT, 100, 20 },
    { "dismissed", "DISMISSED", FMT_BOOL, 0, 0 },
    { "entity", "ENTITY", FMT_TEXT, 0, 0 },
    { "site", "SITE", FMT_TEXT, 0, 8 },
    { "id", "ID", FMT_TEXT, 0, 0 },
};
TABLE("alerts", alerts, "-severity,-since", "No alert.");

static const struct column volumes_columns[] = {
    { "severity", "", FMT_SIGN, 100, 0 },
    { "name", "VOLUME", FMT_TEXT, 100, 14 },
    { "vpg", "VPG", FMT_TEXT, 80, 8 },
    { "site", "SITE", FMT_TEXT, 70, 6 },
    { "size", "SIZE", FMT_BYTES, 90, 0 },
    { "uri", "NBD URI", FMT_TEXT, 60, 16 },
    { "vm", "VM", FMT_TEXT, 0, 8 },
    { "path", "PATH", FMT_TEXT, 0, 12 },
    { "error", "ERROR", FMT_TEXT, 0, 20 },
    { "id", "ID", FMT_TEXT, 0, 0 },
};
TABLE("volumes", volumes, "name", "No volume matches.");

static const struct column stores_columns[] = {
    { "name", "STORE", FMT_TEXT, 100, 12 },
    { "site", "SITE", FMT_TEXT, 90, 8 },
    { "capacity", "CAPACITY", FMT_BYTES, 80, 0 },
    { "free", "FREE", FMT_BYTES, 95, 0 },
    { "journal", "JOURNALS", FMT_BYTES, 60, 0 },
    { "replica", "REPLICAS", FMT_BYTES, 59, 0 },
    { "scratch", "SCRATCH", FMT_BYTES, 40, 0 },
    { "id", "ID", FMT_TEXT, 0, 0 },
};
TABLE("storage", stores, "name", "No store.");

static const struct column views_columns[] = {
    { "mode", "MODE", FMT_TEXT, 90, 0 },
    { "time", "POINT (UTC)", FMT_MOMENT, 95, 0 },
    { "name", "VOLUME", FMT_TEXT, 99, 12 },
    { "uri", "NBD URI", FMT_TEXT, 80, 20 },
    { "id", "VIEW", FMT_TEXT, 100, 8 },
    { "vm", "VM", FMT_TEXT, 0, 8 },
    { "point", "POINT", FMT_TEXT, 0, 0 },
    { "volume_id", "VOLUME ID", FMT_TEXT, 0, 0 },
};
TABLE("views", views, "name", "No view is open.");

static const struct column scrub_columns[] = {
    { "severity", "", FMT_SIGN, 100, 0 },
    { "vpg", "VPG", FMT_TEXT, 95, 8 },
    { "state", "STATE", FMT_TEXT, 94, 0 },
    { "progress", "%", FMT_PERCENT, 80, 0 },
    { "bad", "BAD", FMT_COUNT, 99, 0 },
    { "bytes", "READ", FMT_BYTES, 90, 0 },
    { "segments", "SEGMENTS", FMT_COUNT, 70, 0 },
    { "batches", "BATCHES", FMT_COUNT, 60, 0 },
    { "chunks", "CHUNKS", FMT_COUNT, 50, 0 },
    { "runs", "RUNS", FMT_COUNT, 65, 0 },
    { "replicas", "REPLICAS", FMT_COUNT, 64, 0 },
    { "first_bad", "FIRST", FMT_TEXT, 85, 20 },
    { "took", "TOOK", FMT_DURATION, 40, 0 },
    { "id", "ID", FMT_TEXT, 0, 8 },
};
TABLE("scrub", scrub, NULL, "No scrub.");

static const struct column local_columns[] = {
    { "name", "SITE", FMT_TEXT, 100, 12 },
    { "location", "LOCATION", FMT_TEXT, 80, 8 },
    { "version", "VERSION", FMT_TEXT, 90, 0 },
    { "address", "ADDRESS", FMT_TEXT, 70, 10 },
    { "id", "ID", FMT_TEXT, 95, 0 },
};
TABLE("localsite", local, NULL, "No site.");

const struct table *const tables[] = {
    &table_vpgs,  &table_sites,  &table_vras,   &table_vms,     &table_points,
    &table_tasks, &table_events, &table_alerts, &table_volumes, &table_stores,
    &table_views, &table_local,  &table_scrub,  NULL,
};
