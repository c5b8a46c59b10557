/* A VPG as both its managers know it, and the pure rules about it: how its
 * definition is written, which status its figures mean. */
#ifndef HOLDFAST_MANAGER_VPG_H
#define HOLDFAST_MANAGER_VPG_H

#include <stdbool.h>

#include "common/buf.h"
#include "common/id.h"
#include "common/json.h"
#include "common/list.h"

enum {
    VPG_VOLUMES_MAX = 64,
    VPG_NAME_MAX = 80,
    VPG_NAME_SIZE = VPG_NAME_MAX + 1,
    VPG_VOLUME_NAME_SIZE = 160,
    VPG_DEFINITION_MAX = 512 * 1024,
};

enum vpg_state {
    VPG_CREATING, /* until its first operation has set up both sides */
    VPG_ACTIVE,
    VPG_DELETING,
};

struct vpg_volume {
    unsigned number;
    struct uuid vm, volume;
    char vm_name[VPG_NAME_SIZE], volume_name[VPG_VOLUME_NAME_SIZE];
    uint64_t size;
};

struct vpg {
    struct list link;
    /* The definition, the same at both sites; the higher version rules. */
    struct vpg_id id;
    char name[VPG_NAME_SIZE];
    uint64_t version;
    enum vpg_state state;
    struct uuid protected_site, recovery_site;
    struct uuid source, target; /* replicators */
    struct uuid store;
    struct generation_id generation;
    uint64_t epoch;
    uint64_t created_ms;
    unsigned interval_s, rpo_s, history_s, priority;
    uint64_t hard_bytes, warn_bytes, scratch_bytes; /* 0: none */
    bool overwrite_full;                            /* ResyncFull is Proceed */
    bool compress, recovery_dials; /* which side dials the data connection */
    unsigned n_volumes;
    struct vpg_volume volumes[VPG_VOLUMES_MAX];
    struct {
        bool running;
        struct uuid view;
        char checkpoint[24];
    } test;
    uint64_t last_test_ms; /* 0: never */
    cJSON *settings;       /* as section 7.2 shows them; owned */
    /* What only this process knows. */
    char *pushed_source, *pushed_target; /* bodies the replicators have */
    uint64_t first_point_ms;             /* oldest point seen, wall clock */
    uint64_t sample_ms, writes, bytes;   /* of the last sample */
    double iops, mbps;
};

void vpg_free(struct vpg *v);
/* The definition as JSON, for the catalog and the other site. */
int vpg_encode(const struct vpg *v, struct buf *out);
/* Checks everything; -EINVAL with MGR-0009. */
int vpg_decode(const cJSON *tree, struct vpg **out_vpg, struct err *err);

/* Section 6.2 of the reference. */
enum vpg_status {
    VPG_INITIALIZING = 0,
    VPG_MEETING_SLA = 1,
    VPG_NOT_MEETING_SLA = 2,
    VPG_HISTORY_NOT_MEETING_SLA = 3,
    VPG_RPO_NOT_MEETING_SLA = 4,
    VPG_STATUS_DELETING = 7,
};

enum vpg_substatus {
    VPG_SUB_NONE = 0,
    VPG_SUB_INITIAL_SYNC = 1,
    VPG_SUB_CREATING = 2,
    VPG_SUB_DELTA_SYNC = 6,
    VPG_SUB_NEEDS_CONFIGURATION = 7,
    VPG_SUB_ERROR = 8,
    VPG_SUB_DISCONNECTED_NO_POINTS = 10,
    VPG_SUB_DELETING = 21,
    VPG_SUB_BITMAP_SYNC = 23,
    VPG_SUB_DISCONNECTED = 24,
    VPG_SUB_PAUSED = 25,
    VPG_SUB_RECOVERY_STORAGE_ERROR = 30,
    VPG_SUB_JOURNAL_STORAGE_ERROR = 31,
};

extern const char *const vpg_status_names[];
extern const unsigned vpg_status_count;
extern const char *const vpg_substatus_names[];
extern const unsigned vpg_substatus_count;

/* What is known of a VPG at this moment; strings are the control API's, NULL
 * when that side has not been heard for a while. */
struct vpg_facts {
    enum vpg_state state;
    const char *source_state, *target_state, *resync_reason;
    bool source_link, target_link;
    bool has_points;
    int64_t rpo_ms; /* -1: none */
    unsigned rpo_s; /* configured */
    uint64_t history_s, actual_history_s;
    uint64_t age_s; /* since the first point */
    int progress;   /* of a sync, -1: none */
};

struct vpg_verdict {
    enum vpg_status status;
    enum vpg_substatus substatus;
    int progress; /* 0..100 */
};

struct vpg_verdict vpg_judge(const struct vpg_facts *f);
/* Is the newest point too old: 0 no, or not for a minute yet; 1 above the target;
 * 2 above twice the target, or above it for half an hour (alerts, VPG0009 and
 * VPG0010).  held_ms: since when it has been above. */
int vpg_rpo_alarm(const struct vpg_facts *f, uint64_t held_ms);
/* Is the history shorter than it should be by now?  And is it under half? */
bool vpg_history_short(const struct vpg_facts *f);
bool vpg_history_half(const struct vpg_facts *f);

#endif
