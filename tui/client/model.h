/* API objects into rows, in one place: field names are those of
 * reference console.md section 8 and are listed in docs/cli-json.md.  Pure:
 * the time comes in, what the API leaves out or gives in another type is an
 * unknown cell, and no answer can do more than that. */
#ifndef HOLDFAST_TUI_CLIENT_MODEL_H
#define HOLDFAST_TUI_CLIENT_MODEL_H

#include <stdbool.h>
#include <stdint.h>

#include <cjson/cJSON.h>

#include "tui/client/rows.h"

extern const struct table table_sites, table_vras, table_vms, table_vpgs,
    table_points, table_tasks, table_events, table_alerts, table_volumes,
    table_stores, table_views, table_local, table_scrub;
extern const struct table *const tables[]; /* ends with NULL */

/* Answers that rows are made from; a list that was not asked for is NULL. */
struct model {
    int64_t now_ms;
    const cJSON *local;     /* /v1/localsite */
    const cJSON *peers;     /* /v1/peersites */
    const cJSON *vpgs;      /* /v1/vpgs */
    const cJSON *vms;       /* /v1/vms */
    const cJSON *inventory; /* [{SiteName, Vms: virtualizationsites/.../vms}] */
    const cJSON *events_types;
    const cJSON *list; /* the collection itself, where it is none of these */
};

void model_local(const struct model *m, struct rows *out);
void model_sites(const struct model *m, struct rows *out);
void model_vras(const struct model *m, struct rows *out);
void model_vms(const struct model *m, struct rows *out);
void model_vpgs(const struct model *m, struct rows *out);
void model_points(const struct model *m, struct rows *out);
void model_tasks(const struct model *m, struct rows *out);
void model_events(const struct model *m, struct rows *out);
void model_alerts(const struct model *m, struct rows *out);
void model_volumes(const struct model *m, struct rows *out);
void model_stores(const struct model *m, struct rows *out);
/* The task of a scrub, with what it has found. */
void model_scrub(const struct model *m, struct rows *out);
void model_views(const struct model *m, struct rows *out);

/* Is what the answering site shows of this VPG old, because the recovery site
 * is another one and silent?  -1: no; else how old it is in milliseconds, 0
 * when that is unknown. */
int64_t model_vpg_stale(const struct model *m, const cJSON *vpg);

/* The state of a task: 1 running, 4 failed, 6 completed ...; -1: none. */
int model_task_state(const cJSON *task);
/* "Test failover" for "FailOverTest". */
const char *model_task_word(const char *type);

#endif
