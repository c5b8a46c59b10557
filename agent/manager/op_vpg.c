/* The operations on a VPG.  A side at this site is set up by a call to its
 * replicator, a side at the other site by its manager, which then does the
 * same; so both replicators have taken their part, or the task says which one
 * did not and why. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "manager/manager.h"

enum {
    REACH_MS = 30000, /* how long another program may be away */
    DURABLE_MS = 180000,
    HEAR_MS = 5000, /* for a replicator that does not say how it is */
};

static struct vpg *
vpg_of(struct op *op)
{
    struct vpg *v = vpgs_find(op->m, &op->vpg);

    if (!v)
        (void)op_fail(op, -ENOENT, ERR_API_0013, "VPG %s is gone", op->vpg_name);
    return v;
}

static void
lane_path(const struct vpg *v, bool source, const char *rest, char out[200])
{
    char id[UUID_TEXT_SIZE];

    uuid_format(&v->id.u, id);
    (void)snprintf(out, 200, "/control/v1/%s/%s%s",
                   source ? "sources" : "targets", id, rest);
}

/* --- setting up ----------------------------------------------------------------------- */

static enum op_verdict
apply_here(struct op *op, struct vpg *v, bool source)
{
    enum op_verdict verdict;
    struct buf body;
    char path[200];

    buf_init(&body, VPG_DEFINITION_MAX);
    if (source)
        vpgs_source_body(op->m, v, &body);
    else
        vpgs_target_body(op->m, v, &body);
    lane_path(v, source, "", path);
    if (body.failed)
        verdict = op_fail(op, body.failed, ERR_MGR_0009,
                          "VPG %s: its definition is too large", v->name);
    else if (!body.len)
        verdict =
            op_wait(op, REACH_MS, "the address of the other site's replicator");
    else
        verdict = op_call_replicator(op, source ? &v->source : &v->target,
                                     "PUT", path, &body);
    buf_release(&body);
    return verdict;
}

static enum op_verdict
tell_there(struct op *op, struct vpg *v, const struct uuid *site,
           const char *query)
{
    enum op_verdict verdict;
    struct buf body;
    char id[UUID_TEXT_SIZE], path[120];

    buf_init(&body, VPG_DEFINITION_MAX);
    uuid_format(&v->id.u, id);
    (void)snprintf(path, sizeof path, "/peer/v1/vpgs/%s%s", id, query);
    if (vpg_encode(v, &body) < 0)
        verdict = op_fail(op, body.failed, ERR_MGR_0009,
                          "VPG %s: its definition is too large", v->name);
    else
        verdict = op_call_peer(op, site, "PUT", path, &body);
    buf_release(&body);
    return verdict;
}

static enum op_verdict
apply_there(struct op *op, struct vpg *v, bool source)
{
    return tell_there(op, v, source ? &v->protected_site : &v->recovery_site,
                      "?apply=1");
}

static enum op_verdict
apply(struct op *op, bool source)
{
    struct vpg *v = vpg_of(op);

    if (!v)
        return OP_FAILED;
    if (op->reply && op->reply->rc == 0)
        return OP_NEXT;
    if (op->reply)
        return op_retry(op, REACH_MS);
    if (uuid_equal(source ? &v->protected_site : &v->recovery_site, &op->m->site))
        return apply_here(op, v, source);
    return apply_there(op, v, source);
}

static enum op_verdict
apply_recovery(struct op *op)
{
    return apply(op, false);
}

static enum op_verdict
apply_protected(struct op *op)
{
    return apply(op, true);
}

static enum op_verdict
activate(struct op *op)
{
    struct vpg *v = vpg_of(op);

    if (!v)
        return OP_FAILED;
    v->state = VPG_ACTIVE;
    return vpgs_changed(op->m, v, &op->err) < 0 ? OP_FAILED : OP_NEXT;
}

/* So that a test can be started there as soon as this task has ended.  When the
 * other site does not hear it now, it learns it by a heartbeat. */
static enum op_verdict
announce(struct op *op)
{
    struct vpg *v = vpg_of(op);
    bool here;

    if (!v)
        return OP_FAILED;
    here = uuid_equal(&v->protected_site, &op->m->site);
    if (op->reply ||
        tell_there(op, v, here ? &v->recovery_site : &v->protected_site, "") ==
            OP_FAILED)
        return OP_NEXT;
    return OP_WAIT;
}

/* Nothing half made stays: what a replicator took is taken back (fleet.c). */
static void
create_failed(struct op *op)
{
    struct vpg *v = vpgs_find(op->m, &op->vpg);

    if (v && v->state == VPG_CREATING)
        (void)vpgs_remove(op->m, v, false, NULL);
}

static const struct op_step create_steps[] = {
    { "RecoverySite", apply_recovery },
    { "ProtectedSite", apply_protected },
    { "Activate", activate },
    { "Announce", announce },
    { NULL, NULL },
};
const struct op_type op_create_vpg = { "CreateProtectionGroup", 1, create_steps,
                                       create_failed };

static const struct op_step update_steps[] = {
    { "RecoverySite", apply_recovery },
    { "ProtectedSite", apply_protected },
    { NULL, NULL },
};
const struct op_type op_update_vpg = { "UpdateProtectionGroup", 11,
                                       update_steps, NULL };

/* --- deleting ---------------------------------------------------------------------------- */

static bool
param_true(const struct op *op, const char *name)
{
    bool b = false;

    (void)json_bool(op->params, name, JSON_OPTIONAL, &b, NULL);
    return b;
}

static enum op_verdict
mark_deleting(struct op *op)
{
    struct vpg *v = vpg_of(op);

    if (!v)
        return OP_FAILED;
    if (v->test.running && !param_true(op, "Force"))
        return op_fail(op, -EBUSY, ERR_MGR_0011,
                       "VPG %s: a failover test is running: stop it first",
                       v->name);
    v->state = VPG_DELETING;
    return vpgs_changed(op->m, v, &op->err) < 0 ? OP_FAILED : OP_NEXT;
}

/* Forced: the views are closed, too. */
static void
removal_query(const struct op *op, char out[60])
{
    (void)snprintf(out, 60, "?keepReplicas=%s%s",
                   param_true(op, "KeepRecoveryVolumes") ? "true" : "false",
                   param_true(op, "Force") ? "&force=true" : "");
}

static enum op_verdict
remove_here(struct op *op, const struct vpg *v, bool source)
{
    char query[60] = "", path[200];

    if (!source)
        removal_query(op, query);
    lane_path(v, source, query, path);
    return op_call_replicator(op, source ? &v->source : &v->target, "DELETE",
                              path, NULL);
}

static enum op_verdict
remove_there(struct op *op, const struct vpg *v, bool source)
{
    char id[UUID_TEXT_SIZE], query[60], path[160];

    uuid_format(&v->id.u, id);
    removal_query(op, query);
    (void)snprintf(path, sizeof path, "/peer/v1/vpgs/%s%s", id, query);
    return op_call_peer(op, source ? &v->protected_site : &v->recovery_site,
                        "DELETE", path, NULL);
}

/* The images are kept: how far that is, or where they are. */
static enum op_verdict
removal_heard(struct op *op)
{
    const char *state = "", *message = "";
    uint64_t percent = 0;

    (void)json_str(op->reply->json, "State", JSON_OPTIONAL, &state, NULL);
    (void)json_str(op->reply->json, "Message", JSON_OPTIONAL, &message, NULL);
    (void)json_u64(op->reply->json, "ProgressPercent", JSON_OPTIONAL, 0, 100,
                   &percent, NULL);
    if (strcmp(state, "Keeping") == 0) {
        op->progress = (int)MIN(percent, 99u);
        op->step_ms = http_loop_now_ms(); /* it answers */
        return OP_WAIT;
    }
    if (*message) {
        cJSON_DeleteItemFromObject(op->params, "Warning");
        (void)cJSON_AddStringToObject(op->params, "Warning", message);
    }
    return OP_NEXT;
}

/* Did who should remove it say no, rather than that he cannot be reached? */
static bool
removal_refused(const struct op *op)
{
    const struct rpc *r = op->reply;

    return r && r->rc < 0 && r->status != 0 && r->status != 502 &&
           r->status != 503 && r->status != 504;
}

static enum op_verdict
remove_side(struct op *op, bool source)
{
    struct vpg *v = vpg_of(op);
    bool here = v && uuid_equal(source ? &v->protected_site : &v->recovery_site,
                                &op->m->site);
    bool force = param_true(op, "Force");
    enum op_verdict verdict;

    if (!v)
        return OP_FAILED;
    if (op->reply && op->reply->rc == 0)
        return removal_heard(op);
    if (op->reply && op->reply->rc == -ENOENT)
        return OP_NEXT;
    if (op->reply && op->reply->err.code == ERR_REP_0010) {
        op->err = op->reply->err;
        return http_loop_now_ms() - op->step_ms < REACH_MS ? OP_WAIT : OP_FAILED;
    }
    if (op->reply)
        verdict = op_retry(op, force ? 0 : REACH_MS);
    else
        verdict =
            here ? remove_here(op, v, source) : remove_there(op, v, source);
    /* Forced: what cannot be reached is told when it comes back. */
    return verdict == OP_FAILED && force && !removal_refused(op) ? OP_NEXT
                                                                 : verdict;
}

static enum op_verdict
remove_protected(struct op *op)
{
    return remove_side(op, true);
}

static enum op_verdict
remove_recovery(struct op *op)
{
    return remove_side(op, false);
}

static enum op_verdict
forget(struct op *op)
{
    struct vpg *v = vpgs_find(op->m, &op->vpg);

    return v && vpgs_remove(op->m, v, param_true(op, "KeepRecoveryVolumes"),
                            &op->err) < 0
               ? OP_FAILED
               : OP_NEXT;
}

static void
delete_failed(struct op *op)
{
    struct vpg *v = vpgs_find(op->m, &op->vpg);

    if (v && v->state == VPG_DELETING) {
        v->state = VPG_ACTIVE;
        (void)vpgs_changed(op->m, v, NULL);
    }
}

static const struct op_step delete_steps[] = {
    { "Mark", mark_deleting },
    /* First the side that may refuse (open views): a refused deletion must leave
     * the protection as it is. */
    { "RecoverySite", remove_recovery },
    { "ProtectedSite", remove_protected },
    { "Forget", forget },
    { NULL, NULL },
};
const struct op_type op_delete_vpg = { "RemoveProtectionGroup", 2, delete_steps,
                                       delete_failed };

/* --- a tagged checkpoint --------------------------------------------------------------------- */

static enum op_verdict
cut(struct op *op)
{
    struct vpg *v = vpg_of(op);
    const char *name = NULL, *id, *lane = NULL;
    struct json_writer w;
    struct buf body;
    char path[200];
    enum op_verdict verdict;

    if (!v)
        return OP_FAILED;
    if (op->reply && op->reply->rc == 0) {
        if (json_str(op->reply->json, "CheckpointIdentifier", JSON_REQUIRED,
                     &id, &op->err) < 0)
            return OP_FAILED;
        cJSON_DeleteItemFromObject(op->params, "CheckpointIdentifier");
        (void)cJSON_AddStringToObject(op->params, "CheckpointIdentifier", id);
        cJSON_DeleteItemFromObject(op->params, "Incarnation");
        if (json_str(op->reply->json, "Incarnation", JSON_OPTIONAL, &lane,
                     NULL) == 1)
            (void)cJSON_AddStringToObject(op->params, "Incarnation", lane);
        return OP_NEXT;
    }
    if (op->reply)
        return op_retry(op, REACH_MS);
    (void)json_str(op->params, "CheckpointName", JSON_OPTIONAL, &name, NULL);
    buf_init(&body, 8192);
    json_begin(&w, &body);
    json_open_obj(&w, NULL);
    if (name)
        json_put_str(&w, "Name", name);
    else
        json_put_null(&w, "Name");
    json_put_str(&w, "Kind", "User");
    json_put_str(&w, "Consistency", "Crash");
    json_close_obj(&w);
    lane_path(v, true, "/checkpoints", path);
    verdict = op_call_replicator(op, &v->source, "POST", path, &body);
    buf_release(&body);
    return verdict;
}

/* Ask the recovery site for a checkpoint by its number: whether a newer one is
 * listed says nothing of this one.  lane: of which incarnation it is. */
static enum op_verdict
ask_for_point(struct op *op, const struct vpg *v, const char *point,
              const char *lane)
{
    enum op_verdict verdict;
    struct json_writer w;
    char id[UUID_TEXT_SIZE], target[300];
    struct buf body;

    uuid_format(&v->id.u, id);
    (void)snprintf(target, sizeof target, "/v1/vpgs/%s/checkpoints/%.24s%s%.40s",
                   id, point, lane ? "?incarnation=" : "", lane ? lane : "");
    buf_init(&body, 2048);
    json_begin(&w, &body);
    json_open_obj(&w, NULL);
    json_put_str(&w, "Method", "GET");
    json_put_str(&w, "Target", target);
    json_put_str(&w, "User", op->user);
    json_put_str(&w, "Body", "");
    json_close_obj(&w);
    verdict =
        op_call_peer(op, &v->recovery_site, "POST", "/peer/v1/forward", &body);
    buf_release(&body);
    return verdict;
}

/* The task ends when its own point is listed, and fails when that cannot happen
 * any more. */
static enum op_verdict
durable(struct op *op)
{
    struct vpg *v = vpg_of(op);
    const char *point = "", *lane = NULL;
    const struct rpc *r = op->reply;

    if (!v)
        return OP_FAILED;
    if (r && r->rc == 0)
        return OP_NEXT;
    if (r && r->err.code == ERR_REP_0022) {
        op->err = r->err;
        return OP_FAILED;
    }
    if (r) /* not yet, or the other site cannot be asked: again with the timer */
        return op_wait(op, DURABLE_MS,
                       "the checkpoint to be listed at the recovery site; "
                       "holdfast points shows whether it is later");
    (void)json_str(op->params, "CheckpointIdentifier", JSON_REQUIRED, &point,
                   NULL);
    (void)json_str(op->params, "Incarnation", JSON_OPTIONAL, &lane, NULL);
    return ask_for_point(op, v, point, lane);
}

static const struct op_step tag_steps[] = {
    { "Cut", cut },
    { "Durable", durable },
    { NULL, NULL },
};
const struct op_type op_tag = { "InsertTaggedCP", 12, tag_steps, NULL };

/* --- views: tests and mounts ------------------------------------------------------------------- */

/* The view has the task's identifier. */
static enum op_verdict
open_view(struct op *op, const char *mode)
{
    struct vpg *v = vpg_of(op);
    const char *point = NULL, *stamp = NULL;
    const cJSON *numbers = json_get(op->params, "VolumeNumbers");
    struct json_writer w;
    struct buf body;
    char path[200];
    enum op_verdict verdict;

    if (!v)
        return OP_FAILED;
    if (op->reply && op->reply->rc == 0) {
        if (json_str(op->reply->json, "CheckpointIdentifier", JSON_REQUIRED,
                     &point, &op->err) < 0)
            return OP_FAILED;
        cJSON_DeleteItemFromObject(op->params, "Opened");
        (void)cJSON_AddStringToObject(op->params, "Opened", point);
        return OP_NEXT;
    }
    if (op->reply)
        return op_retry(op, REACH_MS);
    (void)json_str(op->params, "CheckpointIdentifier", JSON_OPTIONAL, &point,
                   NULL);
    (void)json_str(op->params, "TimeStamp", JSON_OPTIONAL, &stamp, NULL);
    buf_init(&body, 64 * KIB);
    json_begin(&w, &body);
    json_open_obj(&w, NULL);
    json_put_uuid(&w, "ViewIdentifier", &op->id);
    json_put_str(&w, "Mode", mode);
    json_put_bool(&w, "AllowDamaged", param_true(op, "AllowDamaged"));
    if (point)
        json_put_str(&w, "CheckpointIdentifier", point);
    else
        json_put_null(&w, "CheckpointIdentifier");
    if (stamp)
        json_put_str(&w, "TimeStamp", stamp);
    else
        json_put_null(&w, "TimeStamp");
    if (numbers) {
        json_put_tree(&w, "VolumeNumbers", numbers);
    } else {
        json_open_array(&w, "VolumeNumbers");
        json_close_array(&w);
    }
    json_close_obj(&w);
    lane_path(v, false, "/views", path);
    verdict = op_call_replicator(op, &v->target, "POST", path, &body);
    buf_release(&body);
    return verdict;
}

static enum op_verdict
close_view(struct op *op, const struct uuid *view)
{
    struct vpg *v = vpg_of(op);
    char id[UUID_TEXT_SIZE], rest[60], path[200];

    if (!v)
        return OP_FAILED;
    if (op->reply && (op->reply->rc == 0 || op->reply->rc == -ENOENT))
        return OP_NEXT;
    if (op->reply)
        return op_retry(op, REACH_MS);
    uuid_format(view, id);
    (void)snprintf(rest, sizeof rest, "/views/%s", id);
    lane_path(v, false, rest, path);
    return op_call_replicator(op, &v->target, "DELETE", path, NULL);
}

static enum op_verdict
test_open(struct op *op)
{
    return open_view(op, "Test");
}

static enum op_verdict
test_record(struct op *op)
{
    struct vpg *v = vpg_of(op);
    const char *point = "";

    if (!v)
        return OP_FAILED;
    (void)json_str(op->params, "Opened", JSON_OPTIONAL, &point, NULL);
    v->test.running = true;
    v->test.view = op->id;
    (void)snprintf(v->test.checkpoint, sizeof v->test.checkpoint, "%s", point);
    return vpgs_changed(op->m, v, &op->err) < 0 ? OP_FAILED : OP_NEXT;
}

/* The other site shows the test, and refuses what does not go with it, from the
 * end of this task on; but a test never waits for a site that does not answer. */
static enum op_verdict
announce_test(struct op *op)
{
    const struct vpg *v = vpg_of(op);
    const struct peer *p = v ? peers_find(op->m, &v->protected_site) : NULL;

    return op->reply || !p || !peer_fresh(p) ? OP_NEXT : announce(op);
}

static const struct op_step test_steps[] = {
    { "OpenViews", test_open },
    { "Record", test_record },
    { "Announce", announce_test },
    { NULL, NULL },
};
const struct op_type op_test = { "FailOverTest", 4, test_steps, NULL };

static enum op_verdict
test_close(struct op *op)
{
    struct vpg *v = vpg_of(op);

    return v ? close_view(op, &v->test.view) : OP_FAILED;
}

static enum op_verdict
test_result(struct op *op)
{
    struct vpg *v = vpg_of(op);
    const char *summary = "";
    char text[700];
    bool ok = true;

    if (!v)
        return OP_FAILED;
    (void)json_str(op->params, "FailoverTestSummary", JSON_OPTIONAL, &summary,
                   NULL);
    (void)json_bool(op->params, "FailoverTestSuccess", JSON_OPTIONAL, &ok, NULL);
    v->test.running = false;
    v->last_test_ms = wall_ms();
    if (vpgs_changed(op->m, v, &op->err) < 0)
        return OP_FAILED;
    (void)snprintf(text, sizeof text,
                   "failover test of %s at checkpoint %s: %s%s%.500s", v->name,
                   v->test.checkpoint, ok ? "passed" : "not passed",
                   *summary ? ": " : "", summary);
    events_record(op->m, 5, &v->id.u, v->name, ok, op->user, text);
    return OP_NEXT;
}

static const struct op_step test_stop_steps[] = {
    { "CloseViews", test_close },
    { "Record", test_result },
    { "Announce", announce_test },
    { NULL, NULL },
};
const struct op_type op_test_stop = { "StopFailOverTest", 5, test_stop_steps,
                                      NULL };

static enum op_verdict
mount_open(struct op *op)
{
    return open_view(op, "Mount");
}

static enum op_verdict
mount_close(struct op *op)
{
    struct uuid view = { { 0 } };

    (void)json_uuid(op->params, "ViewIdentifier", JSON_REQUIRED, &view, NULL);
    return close_view(op, &view);
}

static const struct op_step open_view_steps[] = { { "OpenView", mount_open },
                                                  { NULL, NULL } };
static const struct op_step close_view_steps[] = { { "CloseView", mount_close },
                                                   { NULL, NULL } };
const struct op_type op_open_view = { "OpenView", 58, open_view_steps, NULL };
const struct op_type op_close_view = { "CloseView", 59, close_view_steps, NULL };

/* --- pause, resume, force sync --------------------------------------------------------------------- */

static enum op_verdict
tell_source(struct op *op, const char *what)
{
    struct vpg *v = vpg_of(op);
    char path[200];

    if (!v)
        return OP_FAILED;
    if (op->reply && op->reply->rc == 0)
        return OP_NEXT;
    if (op->reply)
        return op_retry(op, REACH_MS);
    lane_path(v, true, what, path);
    return op_call_replicator(op, &v->source, "POST", path, NULL);
}

static enum op_verdict
pause_source(struct op *op)
{
    return tell_source(op, "/pause");
}

static enum op_verdict
resume_source(struct op *op)
{
    return tell_source(op, "/resume");
}

static enum op_verdict
force_sync(struct op *op)
{
    return tell_source(op, "/forcesync");
}

/* When the task has ended the VPG shows what it did: the state that the source
 * says is one that was asked for after it had been told. */
static enum op_verdict
hear_source(struct op *op)
{
    const struct vpg *v = vpgs_find(op->m, &op->vpg);
    struct replicator *r = v ? fleet_find(op->m, &v->source) : NULL;

    if (!r || r->asked_ms > op->step_ms ||
        http_loop_now_ms() - op->step_ms >= HEAR_MS)
        return OP_NEXT;
    r->next_ms = 0;
    return OP_WAIT;
}

static enum op_verdict
overwrite(struct op *op)
{
    struct vpg *v = vpg_of(op);
    char path[200];

    if (!v)
        return OP_FAILED;
    if (op->reply && op->reply->rc == 0)
        return OP_NEXT;
    if (op->reply)
        return op_retry(op, REACH_MS);
    lane_path(v, false, "/overwrite", path);
    return op_call_replicator(op, &v->target, "POST", path, NULL);
}

static const struct op_step pause_steps[] = { { "Pause", pause_source },
                                              { "Hear", hear_source },
                                              { NULL, NULL } };
static const struct op_step resume_steps[] = { { "Resume", resume_source },
                                               { "Hear", hear_source },
                                               { NULL, NULL } };
static const struct op_step force_steps[] = { { "ForceSync", force_sync },
                                              { "Hear", hear_source },
                                              { NULL, NULL } };
const struct op_type op_pause = { "PauseProtectionGroup", 42, pause_steps,
                                  NULL };
const struct op_type op_resume = { "ResumeProtectionGroup", 43, resume_steps,
                                   NULL };
const struct op_type op_force_sync = { "InitFullSync", 22, force_steps, NULL };
static const struct op_step overwrite_steps[] = { { "GiveUpPoints", overwrite },
                                                  { NULL, NULL } };
const struct op_type op_overwrite = { "OverwriteReplica", 22, overwrite_steps,
                                      NULL };

/* --- scrub ------------------------------------------------------------------------------------------ */

/* The same call begins it and tells how far it is: it has the task's identifier.
 * What it found so far is in the task. */
static enum op_verdict
scrub_run(struct op *op)
{
    struct vpg *v = vpg_of(op);
    const char *state = "", *why = "the journal could not be read";
    struct json_writer w;
    uint64_t percent = 0;
    struct buf body;
    char path[200];
    enum op_verdict verdict;

    if (!v)
        return OP_FAILED;
    if (op->reply && op->reply->rc < 0)
        return op_retry(op, REACH_MS);
    if (op->reply) {
        cJSON *found = cJSON_Duplicate(op->reply->json, true);

        (void)json_str(found, "State", JSON_REQUIRED, &state, NULL);
        (void)json_u64(found, "ProgressPercent", JSON_OPTIONAL, 0, 100,
                       &percent, NULL);
        (void)json_str(json_get(found, "Error"), "Message", JSON_OPTIONAL, &why,
                       NULL);
        op->progress = (int)MIN(percent, 99u);
        op->step_ms = http_loop_now_ms(); /* it answers */
        if (strcmp(state, "Failed") == 0) {
            verdict = op_fail(op, -EIO, ERR_REP_0014, "%s", why);
            cJSON_Delete(found);
            return verdict;
        }
        cJSON_DeleteItemFromObject(op->params, "Scrub");
        (void)cJSON_AddItemToObject(op->params, "Scrub", found);
        return strcmp(state, "Done") == 0 ? OP_NEXT : OP_WAIT;
    }
    buf_init(&body, 256);
    json_begin(&w, &body);
    json_open_obj(&w, NULL);
    json_put_uuid(&w, "ScrubIdentifier", &op->id);
    json_close_obj(&w);
    lane_path(v, false, "/scrub", path);
    verdict = op_call_replicator(op, &v->target, "POST", path, &body);
    buf_release(&body);
    return verdict;
}

/* Damage is what the task was started to find: it is told as a failure, so that
 * nobody takes "done" for "sound". */
static enum op_verdict
scrub_judge(struct op *op)
{
    const cJSON *found = json_get(op->params, "Scrub");
    const char *first = "";
    uint64_t bad = 0;

    (void)json_u64(found, "Bad", JSON_OPTIONAL, 0, JSON_INT_MAX, &bad, NULL);
    (void)json_str(found, "FirstBad", JSON_OPTIONAL, &first, NULL);
    if (bad == 0)
        return OP_NEXT;
    return op_fail(op, -EBADMSG, ERR_JNL_0061,
                   "the scrub found %" PRIu64 " damaged places, the first: %s",
                   bad, first);
}

static const struct op_step scrub_steps[] = { { "Read", scrub_run },
                                              { "Judge", scrub_judge },
                                              { NULL, NULL } };
const struct op_type op_scrub = { "ScrubJournal", 69, scrub_steps, NULL };
