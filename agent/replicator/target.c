/* Targets: VPGs whose journal, replicas and views are here.
 *
 *   OPENING ── journal recovered ──▶ OPEN: receiver, views of before
 *      ▲  │ error: said, tried again        │
 *      └──┘                                 ▼ delete, stop
 *                         views closed ▶ receiver stopped ▶ journal closed
 *
 * A view's volumes are served over NBD on Unix sockets of their own.  Nothing
 * here needs the source: points can be listed and views opened with the other
 * site dead.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "io/file.h"
#include "replicator/replicator.h"

#define ROOM "replicator"

enum {
    TARGET_RETRY_S = 5,
    TARGET_FILE_MAX = 64,
    POINTS_REPLY_MAX = 10000,
    POINTS_JSON_MAX = 8 * 1024 * 1024,
};

enum view_mode {
    VIEW_TEST = 0,
    VIEW_MOUNT = 1
};

static const char *const view_modes[] = { "Test", "Mount" };

static void target_open(struct target *t);

struct target *
target_by_vpg(struct replicator *rep, const struct uuid *vpg)
{
    struct list *l;

    list_for_each (l, &rep->targets) {
        struct target *t = list_entry(l, struct target, link);

        if (uuid_equal(&t->vpg.u, vpg))
            return t;
    }
    return NULL;
}

static void
target_ids(const struct target *t, char out[64])
{
    char id[UUID_TEXT_SIZE];

    uuid_format(&t->vpg.u, id);
    snprintf(out, 64, "vpg=%s", id);
}

static void
target_file(const struct target *t, char *out, size_t size)
{
    char id[UUID_TEXT_SIZE];

    uuid_format(&t->vpg.u, id);
    snprintf(out, size, "targets/%s.json", id);
}

static void
target_free(struct target *t)
{
    io_timer_stop(&t->retry);
    stream_peer_put(t->peer);
    cJSON_Delete(t->body);
    free(t);
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

static int
target_parse(struct target *t, const cJSON *body, struct err *err)
{
    const char *name;
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
        peer_parse(body, &t->peer_agent, &t->peer_site, &t->dial, &t->peer_addr,
                   err) < 0)
        return err->num;
    snprintf(t->name, sizeof t->name, "%.255s", name);
    t->fencing_epoch = (uint32_t)epoch;
    t->history_ns = history * NSEC_PER_SEC;
    t->store = store_by_id(t->rep, &store);
    if (!t->store)
        return err_set(err, -ENOENT, ERR_REP_0013,
                       "this replicator's config has no such store");
    return parse_volumes(t, body, err);
}

/* --- views over NBD ----------------------------------------------------- */

static unsigned
volume_index(const struct target *t, uint16_t vol)
{
    for (unsigned i = 0; i < t->n_volumes; i++) {
        if (t->volumes[i].vol == vol)
            return i;
    }
    return 0;
}

static int
view_serve_volume(struct target_view *tv, unsigned i, struct err *err)
{
    struct replicator *rep = tv->target->rep;
    unsigned k = volume_index(tv->target, tv->volumes[i].vol);
    char id[UUID_TEXT_SIZE],
        export[sizeof id + sizeof tv->target->volumes[0].name];
    struct nbd_listen_config lc = { .addr = { .is_unix = true } };
    struct nbd_export_config ec = {
        .name = export,
        .description = "a view of a past moment",
        .dev = journal_view_dev(tv->view, tv->volumes[i].vol),
        .multi_conn = true,
    };
    int rc;

    uuid_format(&tv->id.u, id);
    snprintf(export, sizeof export, "%s@%s", tv->target->volumes[k].name, id);
    rc = nbd_export_add(rep->nbd, &ec, &tv->volumes[i].export, err);
    if (rc < 0)
        return rc;
    rc = snprintf(lc.addr.host, sizeof lc.addr.host, "%.160s/%s.%u.sock",
                  rep->cfg.run_dir, id, tv->volumes[i].vol);
    lc.only = tv->volumes[i].export;
    rc = nbd_listen(rep->nbd, &lc, &tv->volumes[i].listener, err);
    if (rc < 0)
        return rc;
    return nbd_uri(&lc.addr, false, export, tv->volumes[i].uri,
                   sizeof tv->volumes[i].uri);
}

static void view_close(struct target_view *tv);

/* Take a view of the journal into the books and serve it. */
static struct target_view *
view_adopt(struct target *t, struct journal_view *view, struct err *err)
{
    const struct journal_view_config *cfg = journal_view_config(view);
    struct target_view *tv = calloc(1, sizeof *tv);
    int rc = 0;

    if (!tv) {
        err_set(err, -ENOMEM, ERR_GEN_0002, "view: out of memory");
        return NULL;
    }
    tv->target = t;
    tv->view = view;
    tv->id = cfg->id;
    list_push_back(&t->views, &tv->link);
    for (unsigned i = 0; i < t->n_volumes && rc == 0; i++) {
        bool wanted = cfg->n_vols == 0;

        for (unsigned k = 0; k < cfg->n_vols; k++)
            wanted |= cfg->vols[k] == t->volumes[i].vol;
        if (!wanted)
            continue;
        tv->volumes[tv->n_volumes].vol = t->volumes[i].vol;
        rc = view_serve_volume(tv, tv->n_volumes++, err);
    }
    if (rc == 0)
        return tv;
    if (err && err->num == 0)
        err_set(err, rc, ERR_REP_0002, "serving the view: %s", err_errno(rc));
    view_close(tv);
    return NULL;
}

static void
view_discarded(void *arg)
{
    struct target_view *tv = arg;
    struct target *t = tv->target;
    void (*then)(struct target *) = tv->then;

    if (tv->call)
        ctl_reply_ok(tv->call);
    list_del(&tv->link);
    free(tv);
    if (then)
        then(t);
}

static void
view_unserved(void *arg)
{
    struct target_view *tv = arg;

    if (--tv->removing == 0)
        journal_view_discard(tv->view, view_discarded, tv);
}

/* Leave the view in the journal (the role stops): only its exports go. */
static void
view_released(void *arg)
{
    struct target_view *tv = arg;

    if (--tv->removing == 0)
        view_discarded(tv);
}

static void
view_unserve(struct target_view *tv, void (*gone)(void *arg))
{
    tv->closing = true;
    tv->removing = 1;
    for (unsigned i = 0; i < tv->n_volumes; i++) {
        if (tv->volumes[i].listener)
            nbd_listener_close(tv->volumes[i].listener);
        tv->volumes[i].listener = NULL;
        if (tv->volumes[i].export) {
            tv->removing++;
            nbd_export_remove(tv->volumes[i].export, gone, tv);
        }
        tv->volumes[i].export = NULL;
    }
    gone(tv);
}

static void
view_close(struct target_view *tv)
{
    view_unserve(tv, view_unserved);
}

/* --- opening ------------------------------------------------------------ */

static void
target_durable(void *arg, uint64_t batch_no)
{
    struct target *t = arg;

    if (t->receiver)
        receiver_durable(t->receiver, batch_no);
}

static void
target_credit(void *arg)
{
    struct target *t = arg;

    if (t->receiver)
        receiver_credit(t->receiver);
}

static void
target_alert(void *arg, const struct err *err)
{
    struct target *t = arg;
    struct target_alert *a = NULL;
    char ids[64];

    target_ids(t, ids);
    log_err(LOG_WARN, ROOM, ids, "journal", err);
    for (unsigned i = 0; i < t->n_alerts; i++) {
        if (t->alerts[i].err.code == err->code)
            a = &t->alerts[i];
    }
    if (!a) {
        if (t->n_alerts == REP_ALERTS_MAX) {
            memmove(t->alerts, t->alerts + 1,
                    sizeof t->alerts[0] * (REP_ALERTS_MAX - 1));
            t->n_alerts--;
        }
        a = &t->alerts[t->n_alerts++];
        a->since_wall_ns = io_wall_ns(t->rep->loop);
    }
    a->err = *err;
}

static void
target_fail(struct target *t, const struct err *err)
{
    char ids[64];

    if (strcmp(t->err.msg, err->msg) != 0) {
        target_ids(t, ids);
        log_err(LOG_ERROR, ROOM, ids, "opening a journal", err);
    }
    t->err = *err;
    t->opening = false;
    io_timer_set(&t->retry, TARGET_RETRY_S * NSEC_PER_SEC);
}

static void
target_retry(struct io_timer *timer)
{
    struct target *t = container_of(timer, struct target, retry);

    if (!t->journal && !t->opening && !t->deleting && !t->rep->stopping)
        target_open(t);
}

static int
target_receive(struct target *t, struct err *err)
{
    struct receiver_config rc = {
        .stream = t->rep->stream,
        .journal = t->journal,
        .vpg = t->vpg,
        .lane = 1,
        .fencing_epoch = t->fencing_epoch,
        .generation = t->generation,
        .n_volumes = t->n_volumes,
    };

    for (unsigned i = 0; i < t->n_volumes; i++)
        rc.volumes[i] = (struct msg_volume){ .vol = t->volumes[i].vol,
                                             .size = t->volumes[i].size };
    rc.peer = t->peer;
    return receiver_start(&rc, &t->receiver, err);
}

static void
target_opened(void *arg, struct journal *j, int res, const struct err *why)
{
    struct target *t = arg;
    struct journal_view *views[REP_VIEWS_MAX];
    struct err err = ERR_INIT;
    char ids[64];
    size_t n;

    if (res < 0) {
        if (why)
            err = *why;
        if (err.num == 0)
            err_set(&err, res, ERR_REP_0014, "journal: %s", err_errno(res));
        target_fail(t, &err);
        return;
    }
    t->journal = j;
    t->opening = false;
    t->err = (struct err)ERR_INIT;
    if (target_receive(t, &err) < 0)
        t->err = err;
    n = journal_views(j, views, ARRAY_SIZE(views));
    for (size_t i = 0; i < n; i++) {
        if (!view_adopt(t, views[i], &err))
            target_alert(t, &err);
    }
    target_ids(t, ids);
    log_line(LOG_INFO, ROOM, ids, "journal of VPG %s is open, %zu points",
             t->name, journal_points_count(j));
}

/* Make the directory; a worker job, then the journal opens. */
static void
target_mkdir_run(struct io_work *w)
{
    struct target *t = container_of(w, struct target, job);

    t->job_res = io_mkdir(t->rep->loop, t->dir, &t->err);
}

static void
target_mkdir_done(struct io_work *w)
{
    struct target *t = container_of(w, struct target, job);
    struct journal_events ev = {
        .durable = target_durable,
        .credit = target_credit,
        .alert = target_alert,
        .arg = t,
    };
    struct journal_config *jc;
    struct err err = t->err;

    if (t->job_res < 0) {
        err_prefix(&err, "store %s", t->store->name);
        target_fail(t, &err);
        return;
    }
    jc = calloc(1, sizeof *jc);
    if (!jc) {
        err_set(&err, -ENOMEM, ERR_GEN_0002, "journal: out of memory");
        target_fail(t, &err);
        return;
    }
    *jc = (struct journal_config){
        .loop = t->rep->loop,
        .dir = t->dir,
        .vpg = t->vpg,
        .lane = 1,
        .n_volumes = t->n_volumes,
        .history_ns = t->history_ns,
        .hard_limit_bytes = t->hard_limit,
        .warn_bytes = t->warn,
        .planted = t->rep->cfg.planted,
    };
    for (unsigned i = 0; i < t->n_volumes; i++)
        jc->volumes[i] = (struct journal_volume){ .vol = t->volumes[i].vol,
                                                  .size = t->volumes[i].size };
    journal_open(jc, &ev, target_opened, t);
    free(jc);
}

static void
target_open(struct target *t)
{
    struct stream_peer_config pc = {
        .agent = { t->peer_agent },
        .dial = t->dial,
        .addr = t->peer_addr,
    };
    struct err err = ERR_INIT;
    char id[UUID_TEXT_SIZE];

    t->opening = true;
    /* Known as a peer before the journal is open: its source may dial already
     * and is told to wait then, instead of being a stranger. */
    if (!t->peer && stream_peer_get(t->rep->stream, &pc, &t->peer, &err) < 0) {
        target_fail(t, &err);
        return;
    }
    if (t->store->err.num < 0) {
        target_fail(t, &t->store->err);
        return;
    }
    uuid_format(&t->vpg.u, id);
    snprintf(t->dir, sizeof t->dir, "%s/%s", t->store->path, id);
    t->job =
        (struct io_work){ .run = target_mkdir_run, .done = target_mkdir_done };
    io_work_submit(t->rep->loop, &t->job);
}

static struct target *
target_new(struct replicator *rep, const cJSON *body, struct err *err)
{
    struct target *t = calloc(1, sizeof *t);

    if (!t) {
        err_set(err, -ENOMEM, ERR_GEN_0002, "target: out of memory");
        return NULL;
    }
    t->rep = rep;
    list_init(&t->link);
    list_init(&t->views);
    io_timer_init(&t->retry, rep->loop, target_retry);
    t->body = cJSON_Duplicate(body, 1);
    if (!t->body || target_parse(t, body, err) < 0) {
        target_free(t);
        return NULL;
    }
    list_push_back(&rep->targets, &t->link);
    return t;
}

void
target_load(struct replicator *rep, const cJSON *body)
{
    struct err err = ERR_INIT;
    struct target *t = target_new(rep, body, &err);

    if (!t)
        log_err(LOG_ERROR, ROOM, "", "a target in the state directory", &err);
    else
        target_open(t);
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
        unsigned k = volume_index(n, t->volumes[i].vol);

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
    t->scratch_limit = n->scratch_limit;
    memcpy(t->name, n->name, sizeof t->name);
    free(n);
    if (t->journal)
        journal_set_limits(t->journal, t->history_ns, t->hard_limit, t->warn);
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
    t = target_new(rep, c->body, &err);
    if (t && !trust_allows(rep, &t->peer_site, &t->peer_agent))
        err_set(&err, -ENOTCONN, ERR_REP_0009,
                "the other site's replicator is not trusted yet");
    if (t && t->store->err.num < 0)
        err = t->store->err;
    if (err.num < 0) {
        if (t) {
            list_del(&t->link);
            target_free(t);
        }
        ctl_reply_err(c, &err);
        return;
    }
    t->fresh = true;
    target_save(t, c);
}

/* --- DELETE ------------------------------------------------------------- */

static void
target_destroy_run(struct io_work *w)
{
    struct target *t = container_of(w, struct target, job);
    char path[REP_PATH_MAX + TARGET_FILE_MAX], file[TARGET_FILE_MAX];

    target_file(t, file, sizeof file);
    snprintf(path, sizeof path, "%s/%s", t->rep->cfg.state_dir, file);
    t->job_err = (struct err)ERR_INIT;
    t->job_res =
        journal_destroy(t->rep->loop, t->dir, t->keep_replicas, &t->job_err);
    if (t->job_res == 0)
        t->job_res = io_unlink(t->rep->loop, path);
}

static void
target_destroyed(struct io_work *w)
{
    struct target *t = container_of(w, struct target, job);
    struct ctl_call *c = t->call;

    t->call = NULL;
    if (t->job_res < 0) {
        t->deleting = false;
        t->err = t->job_err;
        if (t->err.num == 0)
            err_set(&t->err, -EIO, ERR_REP_0007, "deleting %s: %s", t->dir,
                    err_errno(t->job_res));
        ctl_reply_err(c, &t->err);
        io_timer_set(&t->retry, TARGET_RETRY_S * NSEC_PER_SEC);
        return;
    }
    ctl_reply_ok(c);
    list_del(&t->link);
    target_free(t);
}

static void
target_closed_journal(void *arg)
{
    struct target *t = arg;
    void (*then)(struct target *) = t->then;

    t->journal = NULL;
    t->then = NULL;
    then(t);
}

static void
target_stopped_receiver(void *arg)
{
    struct target *t = arg;

    t->receiver = NULL;
    journal_close(t->journal, target_closed_journal, t);
}

static void
target_close(struct target *t, void (*then)(struct target *t))
{
    t->then = then;
    io_timer_stop(&t->retry);
    if (t->receiver)
        receiver_stop(t->receiver, target_stopped_receiver, t);
    else if (t->journal)
        target_stopped_receiver(t);
    else
        target_closed_journal(t);
}

static void
target_delete_closed(struct target *t)
{
    t->job =
        (struct io_work){ .run = target_destroy_run, .done = target_destroyed };
    io_work_submit(t->rep->loop, &t->job);
}

void
target_delete(struct ctl_call *c)
{
    struct target *t = target_by_vpg(c->rep, &c->vpg);
    struct err err = ERR_INIT;

    if (!t) {
        ctl_reply_ok(c);
        return;
    }
    if (t->call || t->deleting || t->opening)
        err_set(&err, -EBUSY, ERR_REP_0010,
                "VPG %s is being changed by another call", t->name);
    else if (!list_empty(&t->views) || t->views_opening > 0)
        err_set(&err, -EBUSY, ERR_REP_0015, "views of VPG %s are open", t->name);
    if (err.num < 0) {
        ctl_reply_err(c, &err);
        return;
    }
    t->deleting = true;
    t->keep_replicas = c->query.keep_replicas;
    t->call = c;
    target_close(t, target_delete_closed);
}

/* --- points ------------------------------------------------------------- */

static struct target *
open_target(struct ctl_call *c)
{
    struct target *t = target_by_vpg(c->rep, &c->vpg);
    struct err err = ERR_INIT;

    if (t && t->journal && !t->deleting)
        return t;
    if (!t)
        err_set(&err, -ENOENT, ERR_REP_0001, "no target for this VPG here");
    else if (t->err.num < 0)
        err = t->err;
    else
        err_set(&err, -EBUSY, ERR_REP_0014, "the journal of VPG %s is opening",
                t->name);
    ctl_reply_err(c, &err);
    return NULL;
}

static void
point_json(struct json_writer *w, const char *name,
           const struct journal_point *p)
{
    static const char *const kinds[] = { "Auto", "User", "Application" };

    json_open_obj(w, name);
    json_put_u64_text(w, "CheckpointIdentifier", p->cut_no);
    json_put_time(w, "TimeStamp", p->wall_ns);
    if (p->tag[0])
        json_put_str(w, "Tag", p->tag);
    else
        json_put_null(w, "Tag");
    json_put_str(w, "Kind", p->kind < ARRAY_SIZE(kinds) ? kinds[p->kind] : "");
    json_put_str(w, "Consistency", p->consistency ? "Application" : "Crash");
    json_close_obj(w);
}

void
target_checkpoints(struct ctl_call *c)
{
    struct target *t = open_target(c);
    struct journal_point *points;
    struct json_writer w;
    struct buf out;
    size_t n, max;

    if (!t)
        return;
    max = MIN(c->query.limit, (uint64_t)POINTS_REPLY_MAX);
    points = calloc(max + 1, sizeof *points);
    if (!points) {
        struct err err = ERR_INIT;

        err_set(&err, -ENOMEM, ERR_GEN_0002, "checkpoints: out of memory");
        ctl_reply_err(c, &err);
        return;
    }
    n = journal_points(t->journal, c->query.from, c->query.to, c->query.skip,
                       points, max);
    buf_init(&out, POINTS_JSON_MAX);
    json_begin(&w, &out);
    json_open_obj(&w, NULL);
    json_open_array(&w, "Checkpoints");
    for (size_t i = 0; i < n; i++)
        point_json(&w, NULL, &points[i]);
    json_close_array(&w);
    json_put_u64(&w, "Count", journal_points_count(t->journal));
    json_close_obj(&w);
    free(points);
    ctl_reply(c, 200, &out);
}

static int
parse_cut(const char *text, uint64_t *out)
{
    uint64_t v = 0;

    if (!*text)
        return -EINVAL;
    for (; *text; text++) {
        if (*text < '0' || *text > '9' || v > UINT64_MAX / 10 - 1)
            return -EINVAL;
        v = v * 10 + (uint64_t)(*text - '0');
    }
    *out = v;
    return 0;
}

void
target_checkpoint(struct ctl_call *c)
{
    struct target *t = open_target(c);
    struct journal_point p;
    struct err err = ERR_INIT;
    struct json_writer w;
    struct buf out;
    uint64_t cut;

    if (!t)
        return;
    if (parse_cut(c->point, &cut) < 0 ||
        journal_point_find(t->journal, cut, &p) < 0) {
        err_set(&err, -ENOENT, ERR_REP_0016,
                "checkpoint %s of VPG %s is not offered", c->point, t->name);
        ctl_reply_err(c, &err);
        return;
    }
    buf_init(&out, REP_CONFIG_MAX);
    json_begin(&w, &out);
    point_json(&w, NULL, &p);
    ctl_reply(c, 200, &out);
}

/* --- views -------------------------------------------------------------- */

static void
view_json(struct json_writer *w, struct target_view *tv)
{
    const struct journal_view_config *cfg = journal_view_config(tv->view);
    struct target *t = tv->target;
    struct journal_point p;
    struct err why = ERR_INIT;

    journal_view_point(tv->view, &p);
    json_open_obj(w, NULL);
    json_put_uuid(w, "ViewIdentifier", &tv->id.u);
    json_put_str(w, "Mode",
                 cfg->mode < ARRAY_SIZE(view_modes) ? view_modes[cfg->mode]
                                                    : "Mount");
    json_put_u64_text(w, "CheckpointIdentifier", p.cut_no);
    json_put_time(w, "TimeStamp", p.wall_ns);
    if (journal_view_broken(tv->view, &why))
        json_put_str(w, "Broken", why.msg);
    else
        json_put_null(w, "Broken");
    json_open_array(w, "Volumes");
    for (unsigned i = 0; i < tv->n_volumes; i++) {
        unsigned k = volume_index(t, tv->volumes[i].vol);
        struct nbd_export_stats st = { .connections = 0 };

        if (tv->volumes[i].export)
            nbd_export_stats(tv->volumes[i].export, &st);
        json_open_obj(w, NULL);
        json_put_u64(w, "VolumeNumber", tv->volumes[i].vol);
        json_put_str(w, "VmName", t->volumes[k].vm);
        json_put_str(w, "VolumeName", t->volumes[k].name);
        json_put_uuid(w, "VolumeIdentifier", &t->volumes[k].id);
        json_put_u64(w, "SizeInBytes", t->volumes[k].size);
        json_put_str(w, "NbdUri", tv->volumes[i].uri);
        json_put_u64(w, "Connections", st.connections);
        json_close_obj(w);
    }
    json_close_array(w);
    json_close_obj(w);
}

static void
view_reply(struct ctl_call *c, struct target_view *tv)
{
    struct json_writer w;
    struct buf out;

    buf_init(&out, REP_CONFIG_MAX);
    json_begin(&w, &out);
    view_json(&w, tv);
    ctl_reply(c, 200, &out);
}

static void
view_opened(void *arg, struct journal_view *v, int res, const struct err *why)
{
    struct ctl_call *c = arg;
    struct target *t = target_by_vpg(c->rep, &c->vpg);
    struct err err = ERR_INIT;
    struct target_view *tv;

    t->views_opening--;
    if (res < 0) {
        if (why)
            err = *why;
        if (err.num == 0)
            err_set(&err, res, ERR_REP_0016, "the view could not be opened: %s",
                    err_errno(res));
        ctl_reply_err(c, &err);
        return;
    }
    tv = view_adopt(t, v, &err);
    if (!tv)
        ctl_reply_err(c, &err);
    else
        view_reply(c, tv);
}

static struct target_view *
view_by_id(struct target *t, const struct uuid *id)
{
    struct list *l;

    list_for_each (l, &t->views) {
        struct target_view *tv = list_entry(l, struct target_view, link);

        if (uuid_equal(&tv->id.u, id))
            return tv;
    }
    return NULL;
}

static int
view_point(struct target *t, const cJSON *body, uint64_t *out_cut,
           struct err *err)
{
    const char *text = NULL;
    struct journal_point p;
    uint64_t cut, wall_ns = 0;

    if (json_str(body, "CheckpointIdentifier", JSON_OPTIONAL, &text, err) < 0 ||
        json_time(body, "TimeStamp", &wall_ns, err) < 0)
        return -EINVAL;
    if (text) {
        if (parse_cut(text, &cut) < 0 ||
            journal_point_find(t->journal, cut, &p) < 0)
            return err_set(err, -ENOENT, ERR_REP_0016,
                           "checkpoint %s of VPG %s is not offered", text,
                           t->name);
    } else if (wall_ns != 0) {
        /* Times are told in milliseconds: the point that was shown with this
         * one lies up to a millisecond later. */
        if (journal_point_at(t->journal, wall_ns + NSEC_PER_MSEC - 1, &p) < 0)
            return err_set(err, -ENOENT, ERR_REP_0016,
                           "VPG %s has no checkpoint that old", t->name);
    } else if (journal_point_newest(t->journal, &p) < 0) {
        return err_set(err, -ENOENT, ERR_REP_0016,
                       "VPG %s has no checkpoint yet", t->name);
    }
    *out_cut = p.cut_no;
    return 0;
}

static int
view_parse(struct target *t, const cJSON *body, struct journal_view_config *cfg,
           struct err *err)
{
    const char *mode = "Mount";
    const cJSON *list = NULL, *it;
    unsigned i;

    if (json_uuid(body, "ViewIdentifier", JSON_REQUIRED, &cfg->id.u, err) < 0 ||
        json_str(body, "Mode", JSON_OPTIONAL, &mode, err) < 0 ||
        json_array(body, "VolumeNumbers", JSON_OPTIONAL, &list, err) < 0)
        return -EINVAL;
    for (i = 0; i < ARRAY_SIZE(view_modes); i++) {
        if (strcasecmp(view_modes[i], mode) == 0)
            break;
    }
    if (i == ARRAY_SIZE(view_modes))
        return err_set(err, -EINVAL, ERR_REP_0002,
                       "Mode is \"%s\"; it can be Test or Mount", mode);
    cfg->mode = (uint8_t)i;
    cfg->overlay_limit = t->scratch_limit;
    cJSON_ArrayForEach (it, list) {
        bool known = false;

        for (unsigned k = 0; k < t->n_volumes && cJSON_IsNumber(it); k++)
            known |= t->volumes[k].vol == (uint16_t)it->valueint &&
                     it->valueint >= 0 && it->valueint <= UINT16_MAX;
        if (!known || cfg->n_vols == REP_LANE_VOLUMES_MAX)
            return err_set(err, -EINVAL, ERR_REP_0002,
                           "VolumeNumbers names a volume that VPG %s lacks",
                           t->name);
        cfg->vols[cfg->n_vols++] = (uint16_t)it->valueint;
    }
    return view_point(t, body, &cfg->cut_no, err);
}

static unsigned
views_open(struct target *t)
{
    struct list *l;
    unsigned n = 0;

    list_for_each (l, &t->views)
        n++;
    return n;
}

void
target_view_open(struct ctl_call *c)
{
    struct target *t = open_target(c);
    struct journal_view_config *cfg;
    struct target_view *known;
    struct err err = ERR_INIT;

    if (!t)
        return;
    cfg = calloc(1, sizeof *cfg);
    if (!cfg) {
        err_set(&err, -ENOMEM, ERR_GEN_0002, "view: out of memory");
        ctl_reply_err(c, &err);
        return;
    }
    if (view_parse(t, c->body, cfg, &err) < 0) {
        ctl_reply_err(c, &err);
    } else if ((known = view_by_id(t, &cfg->id.u)) != NULL && known->closing) {
        err_set(&err, -EBUSY, ERR_REP_0010, "the view is being closed");
        ctl_reply_err(c, &err);
    } else if (known) {
        view_reply(c, known); /* the same call again */
    } else if (views_open(t) >= REP_VIEWS_MAX) {
        err_set(&err, -EBUSY, ERR_REP_0015,
                "%d views of VPG %s are open, which is the most", REP_VIEWS_MAX,
                t->name);
        ctl_reply_err(c, &err);
    } else {
        t->views_opening++;
        journal_view_open(t->journal, cfg, view_opened, c);
    }
    free(cfg);
}

void
target_view_close(struct ctl_call *c)
{
    struct target *t = open_target(c);
    struct target_view *tv;
    struct err err = ERR_INIT;

    if (!t)
        return;
    tv = view_by_id(t, &c->object);
    if (!tv) {
        ctl_reply_ok(c);
        return;
    }
    if (tv->closing) {
        err_set(&err, -EBUSY, ERR_REP_0010, "the view is being closed already");
        ctl_reply_err(c, &err);
        return;
    }
    tv->call = c;
    view_close(tv);
}

/* --- care --------------------------------------------------------------- */

static void
scrubbed(void *arg, int res, const struct journal_scrub_result *r)
{
    struct ctl_call *c = arg;
    struct err err = ERR_INIT;
    struct json_writer w;
    struct buf out;

    if (res < 0) {
        err_set(&err, res, ERR_REP_0014, "scrub: %s", err_errno(res));
        ctl_reply_err(c, &err);
        return;
    }
    buf_init(&out, REP_CONFIG_MAX);
    json_begin(&w, &out);
    json_open_obj(&w, NULL);
    json_put_u64(&w, "Segments", r->segments);
    json_put_u64(&w, "Batches", r->batches);
    json_put_u64(&w, "Chunks", r->chunks);
    json_put_u64(&w, "Runs", r->runs);
    json_put_u64(&w, "Bytes", r->bytes);
    json_put_u64(&w, "Bad", r->bad);
    json_put_str(&w, "FirstBad", r->first_bad);
    json_close_obj(&w);
    ctl_reply(c, 200, &out);
}

void
target_scrub(struct ctl_call *c)
{
    struct target *t = open_target(c);

    if (t)
        journal_scrub(t->journal, scrubbed, c);
}

/* --- the role stops ----------------------------------------------------- */

struct stopping {
    struct replicator *rep;
    unsigned left;
    void (*done)(struct replicator *rep);
};

static struct stopping targets_stopping; /* one replicator a process */

static void
target_stop_one(void)
{
    struct stopping *all = &targets_stopping;

    if (--all->left == 0)
        all->done(all->rep);
}

static void
target_stop_closed(struct target *t)
{
    UNUSED(t);
    target_stop_one();
}

static void
target_stop_view_gone(struct target *t)
{
    if (list_empty(&t->views))
        target_close(t, target_stop_closed);
}

void
targets_stop(struct replicator *rep, void (*done)(struct replicator *rep))
{
    struct list *l, *v, *tmp;

    targets_stopping = (struct stopping){ .rep = rep, .left = 1, .done = done };
    list_for_each (l, &rep->targets) {
        struct target *t = list_entry(l, struct target, link);

        io_timer_stop(&t->retry);
        if (!t->journal)
            continue;
        targets_stopping.left++;
        if (list_empty(&t->views)) {
            target_close(t, target_stop_closed);
            continue;
        }
        list_for_each_safe (v, tmp, &t->views) {
            struct target_view *tv = list_entry(v, struct target_view, link);

            tv->then = target_stop_view_gone;
            if (!tv->closing)
                view_unserve(tv, view_released);
        }
    }
    target_stop_one();
}

/* --- status ------------------------------------------------------------- */

static const char *
target_state(const struct target *t, const struct receiver_status *rs,
             const struct journal_stats *st)
{
    if (t->err.num < 0)
        return "Error";
    if (!t->journal)
        return "Opening";
    if (st->stopped)
        return "Stopped";
    if (!rs->open)
        return "Waiting";
    switch (rs->source_state) {
    case SENDER_INITIAL: return "InitialSync";
    case SENDER_RESYNC:
    case SENDER_COLLAPSED: return "Resync";
    default: return "Receiving";
    }
}

static void
alerts_json(struct target *t, struct json_writer *w)
{
    json_open_array(w, "Alerts");
    for (unsigned i = 0; i < t->n_alerts; i++) {
        json_open_obj(w, NULL);
        json_put_str(w, "Code", err_code_text(t->alerts[i].err.code));
        json_put_str(w, "Message", t->alerts[i].err.msg);
        json_put_str(w, "NextStep", err_code_next(t->alerts[i].err.code));
        json_put_time(w, "Since", t->alerts[i].since_wall_ns);
        json_close_obj(w);
    }
    json_close_array(w);
}

void
target_status_json(struct target *t, struct json_writer *w)
{
    struct receiver_status rs = { .progress = UINT8_MAX };
    struct journal_stats st = { .used_bytes = 0 };
    struct journal_point p;
    struct list *l;

    if (t->journal)
        journal_stats(t->journal, &st);
    if (t->receiver)
        receiver_status(t->receiver, &rs);
    json_open_obj(w, NULL);
    json_put_uuid(w, "VpgIdentifier", &t->vpg.u);
    json_put_str(w, "VpgName", t->name);
    json_put_u64(w, "FencingEpoch", t->fencing_epoch);
    json_put_uuid(w, "StoreIdentifier", &t->store->id);
    json_put_str(w, "State", target_state(t, &rs, &st));
    json_put_err(w, "Error", t->err.num < 0 ? &t->err : &rs.err);
    json_put_bool(w, "LinkUp", rs.open && rs.link_up);
    if (rs.progress <= 100)
        json_put_u64(w, "ProgressPercent", rs.progress);
    else
        json_put_null(w, "ProgressPercent");
    if (rs.has_rpo)
        json_put_u64(w, "RpoMilliseconds", rs.rpo_ns / NSEC_PER_MSEC);
    else
        json_put_null(w, "RpoMilliseconds");
    if (t->journal && journal_point_oldest(t->journal, &p) == 0)
        point_json(w, "Oldest", &p);
    else
        json_put_null(w, "Oldest");
    if (t->journal && journal_point_newest(t->journal, &p) == 0)
        point_json(w, "Newest", &p);
    else
        json_put_null(w, "Newest");
    json_put_u64(w, "CheckpointCount",
                 t->journal ? journal_points_count(t->journal) : 0);
    json_put_u64(w, "JournalUsedInBytes", st.used_bytes);
    json_put_u64(w, "JournalLimitInBytes", t->hard_limit);
    json_put_u64(w, "JournalWarnInBytes", t->warn);
    json_put_u64(w, "ReplicaBytes", st.replica_bytes);
    json_put_u64(w, "ScratchUsedInBytes", st.overlay_bytes);
    json_put_u64(w, "HistorySeconds", t->history_ns / NSEC_PER_SEC);
    json_put_u64(w, "ActualHistorySeconds", st.history_ns / NSEC_PER_SEC);
    json_put_u64(w, "ReceivedBytesTotal", rs.received_bytes);
    alerts_json(t, w);
    json_open_array(w, "Views");
    list_for_each (l, &t->views) {
        struct target_view *tv = list_entry(l, struct target_view, link);

        if (!tv->closing) /* the journal may have freed it already */
            view_json(w, tv);
    }
    json_close_array(w);
    json_close_obj(w);
}
