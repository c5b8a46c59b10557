/* Does a store have room for the replicas of a VPG?
 *
 * The replica of a volume is sparse and begins with what the volume uses now;
 * it can grow to the volume's size, and the journal comes on top.  Less free
 * than the first copy needs is refused: it could not end, and would fill the
 * store for all others on it.  Less free than the volumes may come to is said
 * in the task, not refused: thin stores are how stores are run. */
#include <inttypes.h>
#include <string.h>

#include "common/bytes.h"
#include "manager/manager.h"

/* Segments for the writes of the time of the copy; the journal keeps another
 * 256 MiB or 1 % of the disk free by itself (docs/operations.md). */
#define JOURNAL_LEAST (64 * MIB)
#define RESERVE_MOST  (256 * MIB)

/* What the volumes use, as far as their replicator knows: of a block device it
 * does not. */
static uint64_t
used_by(struct manager *m, const struct vpg *v)
{
    const struct replicator *r = any_replicator(m, &v->source);
    uint64_t sum = 0;

    for (unsigned i = 0; i < v->n_volumes; i++) {
        const cJSON *vol = replicator_volume(r, &v->volumes[i].volume);

        sum += MIN(json_u64_or(vol, "AllocatedInBytes", 0), v->volumes[i].size);
    }
    return sum;
}

static uint64_t
sizes_of(const struct vpg *v)
{
    uint64_t sum = 0;

    for (unsigned i = 0; i < v->n_volumes; i++)
        sum += v->volumes[i].size;
    return sum;
}

/* What VPGs that are being copied to the store for the first time still need. */
static uint64_t
promised(struct manager *m, const struct vpg *but)
{
    struct list *pos;
    uint64_t sum = 0;

    list_for_each (pos, &m->vpgs) {
        const struct vpg *v = list_entry(pos, struct vpg, link);
        const cJSON *t = vpgs_target(m, v);
        uint64_t used = used_by(m, v), there = json_u64_or(t, "ReplicaBytes", 0);
        const char *state = "";

        (void)json_str(t, "State", JSON_OPTIONAL, &state, NULL);
        if (v != but && uuid_equal(&v->store, &but->store) &&
            (!t || strcmp(state, "InitialSync") == 0) && used > there)
            sum += used - there;
    }
    return sum;
}

static const cJSON *
store_of(struct manager *m, const struct vpg *v)
{
    const struct replicator *r = any_replicator(m, &v->target);
    const cJSON *item;
    struct uuid id;

    cJSON_ArrayForEach (item, json_get(r ? r->status : NULL, "Stores")) {
        if (json_uuid(item, "StoreIdentifier", JSON_REQUIRED, &id, NULL) == 1 &&
            uuid_equal(&id, &v->store))
            return item;
    }
    return NULL;
}

static uint64_t
mib_up(uint64_t bytes)
{
    return (bytes + MIB - 1) / MIB;
}

int
space_check(struct manager *m, const struct vpg *v, char *out_warning,
            size_t size, struct err *err)
{
    const cJSON *store = store_of(m, v);
    uint64_t all = json_u64_or(store, "CapacityInBytes", 0),
             free_bytes = json_u64_or(store, "FreeInBytes", 0),
             used = used_by(m, v), others = promised(m, v),
             need = used + others + JOURNAL_LEAST + MIN(RESERVE_MOST, all / 100);
    const char *name = "";

    out_warning[0] = '\0';
    if (!store || all == 0) /* not known: the replicator will see */
        return 0;
    (void)json_str(store, "StoreName", JSON_OPTIONAL, &name, NULL);
    if (free_bytes < need)
        return err_set(err, -ENOSPC, ERR_MGR_0017,
                       "store %s has %" PRIu64 " MiB free, VPG %s needs %" PRIu64
                       " MiB: its volumes use %" PRIu64
                       " MiB, other VPGs being copied need %" PRIu64
                       " MiB, the rest is for the journal to begin with",
                       name, free_bytes / MIB, v->name, mib_up(need),
                       mib_up(used), mib_up(others));
    if (free_bytes < sizes_of(v))
        (void)snprintf(out_warning, size,
                       "warning: store %s has %" PRIu64
                       " MiB free, the replicas of VPG %s may grow to %" PRIu64
                       " MiB and its journal to %" PRIu64
                       " MiB: watch the store, or give it more space",
                       name, free_bytes / MIB, v->name, mib_up(sizes_of(v)),
                       mib_up(v->hard_bytes));
    return 0;
}
