/* What the manager says of a target: PUT with its definition.  DELETE is in
 * target_delete.c.
 *
 * A definition is parsed into a struct target of its own, which becomes the
 * target or tells what may change in the one that is open.  A call is answered
 * when the state directory has it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/file.h"
#include "replicator/target.h"

void
target_file(const struct target *t, char *out, size_t size)
{
    char id[UUID_TEXT_SIZE];

    uuid_format(&t->vpg.u, id);
    snprintf(out, size, "targets/%s.json", id);
}

/* --- parsing ------------------------------------------------------------ */

static int
parse_volumes(struct target *t, const cJSON *body, struct err *err)
{
    const cJSON *list, *it;

    if (json_array(body, "Volumes", JSON_REQUIRED, &list, err) < 0)
        return -EINVAL;
    cJSON_ArrayForEach (it, list) {
        const char *vm, *name;
        uint64_t no, size;
        unsigned i = t->n_volumes;

        if (i == REP_LANE_VOLUMES_MAX)
            return err_set(err, -E2BIG, ERR_REP_0003,
                           "a VPG can hold %d volumes of one replicator",
                           REP_LANE_VOLUMES_MAX);
        if (json_u64(it, "VolumeNumber", JSON_REQUIRED, 0, UINT16_MAX, &no,
                     err) < 0 ||
            json_uuid(it, "VolumeIdentifier", JSON_REQUIRED, &t->volumes[i].id,
                      err) < 0 ||
            json_str(it, "VmName", JSON_REQUIRED, &vm, err) < 0 ||
            json_str(it, "VolumeName", JSON_REQUIRED, &name, err) < 0 ||
            json_u64(it, "SizeInBytes", JSON_REQUIRED, 512, (uint64_t)1 << 52,
                     &size, err) < 0)
            return -EINVAL;
        if (size % 512 != 0)
            return err_set(err, -EINVAL, ERR_REP_0002,
                           "volume %s has %llu bytes, no multiple of 512", name,
                           (unsigned long long)size);
        t->volumes[i].vol = (uint16_t)no;
        t->volumes[i].size = size;
        snprintf(t->volumes[i].vm, sizeof t->volumes[i].vm, "%.63s", vm);
        snprintf(t->volumes[i].name, sizeof t->volumes[i].name, "%.127s", name);
        t->n_volumes++;
    }
    if (t->n_volumes == 0)
        return err_set(err, -EINVAL, ERR_REP_0002, "Volumes is empty");
    return 0;
}

int
target_parse(struct target *t, const cJSON *body, struct err *err)
{
    const char *name, *full = "Ask";
    uint64_t epoch = 1, history;
    struct uuid store;

    if (json_uuid(body, "VpgIdentifier", JSON_REQUIRED, &t->vpg.u, err) < 0 ||
        json_str(body, "VpgName", JSON_REQUIRED, &name, err) < 0 ||
        json_u64(body, "FencingEpoch", JSON_OPTIONAL, 1, UINT32_MAX, &epoch,
                 err) < 0 ||
        json_uuid(body, "Generation", JSON_OPTIONAL, &t->generation.u, err) < 0 ||
        json_uuid(body, "StoreIdentifier", JSON_REQUIRED, &store, err) < 0 ||
        json_u64(body, "HistorySeconds", JSON_REQUIRED, 60, 400ull * 86400,
                 &history, err) < 0 ||
        json_u64(body, "HardLimitInBytes", JSON_OPTIONAL, 0, JSON_INT_MAX,
                 &t->hard_limit, err) < 0 ||
        json_u64(body, "WarnInBytes", JSON_OPTIONAL, 0, JSON_INT_MAX, &t->warn,
                 err) < 0 ||
        json_u64(body, "ScratchLimitInBytes", JSON_OPTIONAL, 0, JSON_INT_MAX,
                 &t->scratch_limit, err) < 0 ||
        json_str(body, "ResyncFull", JSON_OPTIONAL, &full, err) < 0 ||
        peer_parse(body, &t->peer_agent, &t->peer_site, &t->dial, &t->peer_addr,
                   err) < 0)
        return err->num;
    snprintf(t->name, sizeof t->name, "%.255s", name);
    if (strcasecmp(full, "Ask") != 0 && strcasecmp(full, "Proceed") != 0)
        return err_set(err, -EINVAL, ERR_REP_0002,
                       "ResyncFull is \"%s\"; it can be Ask or Proceed", full);
    t->overwrite_full = strcasecmp(full, "Proceed") == 0;
    t->fencing_epoch = (uint32_t)epoch;
    t->history_ns = history * NSEC_PER_SEC;
    t->store = store_by_id(t->rep, &store);
    if (!t->store)
        return err_set(err, -ENOENT, ERR_REP_0013,
                       "this replicator's config has no such store");
    return parse_volumes(t, body, err);
}

/* --- PUT ---------------------------------------------------------------- */

static void
target_saved(void *arg, int res)
{
    struct target *t = arg;
    struct ctl_call *c = t->call;
    bool fresh = t->fresh;
    struct err err = ERR_INIT;

    t->call = NULL;
    t->fresh = false;
    if (res < 0) {
        err_set(&err, -EIO, ERR_REP_0007,
                "the state directory could not be written: %s", err_errno(res));
        ctl_reply_err(c, &err);
        if (fresh) {
            list_del(&t->link);
            target_free(t);
        }
        return;
    }
    ctl_reply_ok(c);
    if (!t->journal && !t->opening)
        target_open(t);
}

static void
target_save(struct target *t, struct ctl_call *c)
{
    char file[TARGET_FILE_MAX];
    char *text = rep_body_text(t->body);

    t->call = c;
    target_file(t, file, sizeof file);
    rep_save(t->rep, file, text, target_saved, t);
    cJSON_free(text);
}

static int
check_same(const struct target *t, const struct target *n, struct err *err)
{
    if (t->n_volumes != n->n_volumes)
        return err_set(err, -EBUSY, ERR_REP_0008,
                       "VPG %s has %u volumes here, not %u", t->name,
                       t->n_volumes, n->n_volumes);
    for (unsigned i = 0; i < t->n_volumes; i++) {
        unsigned k = target_volume_index(n, t->volumes[i].vol);

        if (n->volumes[k].vol != t->volumes[i].vol)
            return err_set(err, -EBUSY, ERR_REP_0008,
                           "volume %u of VPG %s is missing in the call",
                           t->volumes[i].vol, t->name);
        if (n->volumes[k].size != t->volumes[i].size)
            return err_set(err, -EBUSY, ERR_REP_0012,
                           "volume %s has %llu bytes here and %llu in the call",
                           t->volumes[i].name,
                           (unsigned long long)t->volumes[i].size,
                           (unsigned long long)n->volumes[k].size);
    }
    if (t->store != n->store || !uuid_equal(&t->peer_agent, &n->peer_agent) ||
        !uuid_equal(&t->generation.u, &n->generation.u) ||
        t->fencing_epoch != n->fencing_epoch)
        return err_set(err, -EBUSY, ERR_REP_0008,
                       "VPG %s is here with another store, epoch or peer",
                       t->name);
    return 0;
}

static void
target_update(struct target *t, struct ctl_call *c)
{
    struct target *n = calloc(1, sizeof *n);
    struct err err = ERR_INIT;

    if (!n) {
        err_set(&err, -ENOMEM, ERR_GEN_0002, "target: out of memory");
        ctl_reply_err(c, &err);
        return;
    }
    n->rep = t->rep;
    (void)target_parse(n, c->body, &err);
    if (err.num == 0)
        (void)check_same(t, n, &err);
    if (err.num == 0 && (t->call || t->deleting))
        err_set(&err, -EBUSY, ERR_REP_0010,
                "VPG %s is being changed by another call", t->name);
    if (err.num < 0) {
        free(n);
        ctl_reply_err(c, &err);
        return;
    }
    t->history_ns = n->history_ns;
    t->hard_limit = n->hard_limit;
    t->warn = n->warn;
    t->overwrite_full = n->overwrite_full;
    t->scratch_limit = n->scratch_limit;
    memcpy(t->name, n->name, sizeof t->name);
    free(n);
    if (t->journal) {
        journal_set_limits(t->journal, t->history_ns, t->hard_limit, t->warn);
        journal_set_overwrite(t->journal, t->overwrite_full);
    }
    cJSON_Delete(t->body);
    t->body = cJSON_Duplicate(c->body, 1);
    target_save(t, c);
}

void
target_put(struct ctl_call *c)
{
    struct replicator *rep = c->rep;
    struct target *t = target_by_vpg(rep, &c->vpg);
    struct err err = ERR_INIT;
    char id[UUID_TEXT_SIZE];

    uuid_format(&c->vpg, id);
    cJSON_DeleteItemFromObject(c->body, "VpgIdentifier");
    cJSON_AddStringToObject(c->body, "VpgIdentifier", id);
    if (t) {
        target_update(t, c);
        return;
    }
    if (uuid_equal(&rep->last_kept.vpg, &c->vpg)) {
        err_set(&err, -EBUSY, ERR_REP_0010,
                "this VPG was just deleted here: %s", rep->last_kept.text);
        ctl_reply_err(c, &err);
        return;
    }
    t = target_new(rep, c->body, &err);
    if (!t) {
        ctl_reply_err(c, &err);
        return;
    }
    if (!trust_allows(rep, &t->peer_site, &t->peer_agent))
        err_set(&err, -ENOTCONN, ERR_REP_0009,
                "the other site's replicator is not trusted yet");
    if (t->store->err.num < 0)
        err = t->store->err;
    if (err.num < 0) {
        list_del(&t->link);
        target_free(t);
        ctl_reply_err(c, &err);
        return;
    }
    t->fresh = true;
    target_save(t, c);
}

/* --- overwrite ---------------------------------------------------------- */

/* The operator's answer to JNL-0017: the points are given up. */
void
target_overwrite(struct ctl_call *c)
{
    struct target *t = target_of_call(c);
    struct err err = ERR_INIT;

    if (!t)
        return;
    if (journal_overwrite(t->journal, &err) < 0)
        ctl_reply_err(c, &err);
    else
        ctl_reply_ok(c);
}
