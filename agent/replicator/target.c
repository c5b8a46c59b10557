/* Targets: VPGs whose journal, replicas and views are here.
 *
 *   OPENING ── journal recovered ──▶ OPEN: receiver, views of before
 *      ▲  │ error: said, tried again        │
 *      └──┘                                 ▼ delete, stop
 *                         views closed ▶ receiver stopped ▶ journal closed
 *
 * Nothing here needs the source: points can be listed and views opened with the
 * other site dead.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "io/file.h"
#include "replicator/target.h"

#define ROOM "replicator"

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

void
target_free(struct target *t)
{
    io_timer_stop(&t->retry);
    io_timer_stop(&t->keep.timer);
    stream_peer_put(t->peer);
    cJSON_Delete(t->body);
    free(t);
}

unsigned
target_volume_index(const struct target *t, uint16_t vol)
{
    for (unsigned i = 0; i < t->n_volumes; i++) {
        if (t->volumes[i].vol == vol)
            return i;
    }
    return 0;
}

struct target *
target_of_call(struct ctl_call *c)
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
    a->told_ns = io_mono_ns(t->rep->loop);
}

void
target_settled(void *arg, enum err_code code)
{
    struct target *t = arg;

    for (unsigned i = 0; i < t->n_alerts; i++) {
        if (t->alerts[i].err.code != code)
            continue;
        t->n_alerts--;
        memmove(&t->alerts[i], &t->alerts[i + 1],
                sizeof t->alerts[0] * (t->n_alerts - i));
        return;
    }
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

int
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
        if (!target_view_adopt(t, views[i], &err))
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
    if (t->job_res == 0 && target_keep_begun(t->rep->loop, t->dir))
        t->job_res = err_set(&t->err, -EBUSY, ERR_REP_0010,
                             "the journal of VPG %s is deleted and its images "
                             "are about to be kept: delete it again",
                             t->name);
}

static void
target_mkdir_done(struct io_work *w)
{
    struct target *t = container_of(w, struct target, job);
    struct journal_events ev = {
        .durable = target_durable,
        .credit = target_credit,
        .alert = target_alert,
        .settled = target_settled,
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
        .overwrite_full = t->overwrite_full,
        .planted = t->rep->cfg.planted,
    };
    for (unsigned i = 0; i < t->n_volumes; i++)
        jc->volumes[i] = (struct journal_volume){ .vol = t->volumes[i].vol,
                                                  .size = t->volumes[i].size };
    journal_open(jc, &ev, target_opened, t);
    free(jc);
}

void
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

struct target *
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
    target_keep_init(t);
    t->body = cJSON_Duplicate(body, 1);
    if (!t->body)
        err_set(err, -ENOMEM, ERR_GEN_0002, "target: out of memory");
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

/* --- closing ------------------------------------------------------------ */

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

void
target_close(struct target *t, void (*then)(struct target *t))
{
    bool closing = t->then != NULL;

    t->then = then;
    if (closing)
        return;
    io_timer_stop(&t->retry);
    if (t->receiver)
        receiver_stop(t->receiver, target_stopped_receiver, t);
    else if (t->journal)
        target_stopped_receiver(t);
    else
        target_closed_journal(t);
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
    struct err err = ERR_INIT;

    if (t->call) { /* a deletion: it is asked for again after the next start */
        err_set(&err, -EBUSY, ERR_REP_0010, "the replicator is stopping");
        ctl_reply_err(t->call, &err);
        t->call = NULL;
    }
    target_stop_one();
}

void
target_stop_go(struct target *t)
{
    target_close(t, target_stop_closed);
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
        io_timer_stop(&t->keep.timer);
        t->views_gone = NULL;
        if (!t->journal)
            continue;
        targets_stopping.left++;
        if (t->keep.phase == KEEP_RECEIVER)
            continue;
        if (list_empty(&t->views)) {
            target_close(t, target_stop_closed);
            continue;
        }
        list_for_each_safe (v, tmp, &t->views) {
            struct target_view *tv = list_entry(v, struct target_view, link);

            tv->then = target_stop_view_gone;
            if (!tv->closing)
                target_view_release(tv);
        }
    }
    target_stop_one();
}
