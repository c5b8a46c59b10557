/* Sources: VPGs whose volumes are here, each with a lane to another site.
 *
 *   STOPPED ── load lane.super, new incarnation, clean=0 durable ──▶ attach
 *      ▲                                                               │
 *      │ pause, delete, restart, stop of the role                      ▼
 *      └──────── detach ◀── sender stopped ◀── (drain) ◀──────────  RUNNING
 *
 * A start is exact only when lane.super says the last stop was clean and every
 * backing file still looks as it did then; otherwise the lane begins with a
 * sync of everything.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "io/file.h"
#include "replicator/source.h"

#define ROOM "replicator"

enum {
    SOURCE_DRAIN_S = 10,
    SOURCE_RETRY_S = 5,
};

struct source *
source_by_vpg(struct replicator *rep, const struct uuid *vpg)
{
    struct list *l;

    list_for_each (l, &rep->sources) {
        struct source *s = list_entry(l, struct source, link);

        if (uuid_equal(&s->vpg.u, vpg))
            return s;
    }
    return NULL;
}

static void
source_ids(const struct source *s, char out[64])
{
    char id[UUID_TEXT_SIZE];

    uuid_format(&s->vpg.u, id);
    snprintf(out, 64, "vpg=%s", id);
}

void
source_file(const struct source *s, char *out, size_t size, const char *suffix)
{
    char id[UUID_TEXT_SIZE];

    uuid_format(&s->vpg.u, id);
    snprintf(out, size, "sources/%s%s", id, suffix);
}

void
source_free(struct source *s)
{
    for (unsigned i = 0; i < s->n_volumes; i++) {
        if (s->volumes[i].volume && s->volumes[i].volume->source == s)
            s->volumes[i].volume->source = NULL;
    }
    io_timer_stop(&s->retry);
    stream_peer_put(s->peer);
    cJSON_Delete(s->body);
    free(s);
}

/* --- starting ----------------------------------------------------------- */

static void
source_fail(struct source *s, const struct err *err)
{
    char ids[64];

    source_ids(s, ids);
    log_err(LOG_ERROR, ROOM, ids, "starting protection", err);
    s->err = *err;
    s->starting = false;
    io_timer_set(&s->retry, SOURCE_RETRY_S * NSEC_PER_SEC);
}

static void
source_retry(struct io_timer *t)
{
    struct source *s = container_of(t, struct source, retry);

    if (!s->running && !s->starting && !s->paused && !s->deleting &&
        !s->rep->stopping)
        source_start(s);
}

static void
source_started_one(struct source *s)
{
    struct replicator *rep = s->rep;

    if (rep->starting > 0 && --rep->starting == 0)
        exports_serve(rep);
}

static void
source_wake(void *arg)
{
    struct source *s = arg;

    if (s->sender)
        sender_wake(s->sender);
}

static void source_restart(void *arg);

static void
source_run(struct source *s)
{
    struct stream_peer_config pc = {
        .agent = { s->peer_agent },
        .dial = s->dial,
        .addr = s->peer_addr,
    };
    struct sender_config sc = {
        .stream = s->rep->stream,
        .capture = s->capture,
        .super_path = s->super_path,
        .super = s->super,
        .exact = s->exact,
        .cut_interval_ns = s->interval_ns,
        .compression = s->compression,
        .restart = source_restart,
        .arg = s,
    };
    struct err err = ERR_INIT;
    char ids[64];

    for (unsigned i = 0; i < s->n_volumes; i++)
        sc.volume_sizes[i] = s->volumes[i].volume->dev->info.size;
    if (!s->peer && stream_peer_get(s->rep->stream, &pc, &s->peer, &err) < 0) {
        source_fail(s, &err);
        return;
    }
    sc.peer = s->peer;
    if (sender_start(&sc, &s->sender, &err) < 0) {
        source_fail(s, &err);
        return;
    }
    s->starting = false;
    s->running = true;
    s->err = (struct err)ERR_INIT;
    source_ids(s, ids);
    log_line(LOG_INFO, ROOM, ids, "VPG %s is protected, %u volumes, %s start",
             s->name, s->n_volumes, s->exact ? "exact" : "unproven");
}

static void
source_attached(void *arg)
{
    struct source *s = arg;

    if (--s->attaching > 0)
        return;
    source_run(s);
    source_started_one(s);
}

/* lane.super says clean=0, durably: writes may come into the lane. */
static void
source_super_stored(struct io_work *w)
{
    struct source *s = container_of(w, struct source, job);
    struct lane_incarnation li = {
        .prev = s->super.prev_incarnation,
        .prev_last_batch = s->super.prev_last_batch,
        .exact = s->exact,
    };
    struct capture_config cc = {
        .loop = s->rep->loop,
        .pool = s->rep->ring,
        .vpg = s->vpg,
        .lane = s->super.lane,
        .incarnation = s->super.incarnation,
        .seq_epoch = s->super.seq_epoch,
        .wake = source_wake,
        .arg = s,
    };
    int rc = s->job_res;

    s->err = s->job_err;
    if (rc == 0)
        rc = capture_new(&cc, &s->capture, &s->err);
    if (rc == 0)
        rc = capture_incarnation(s->capture, &li);
    if (rc < 0) {
        if (s->err.num == 0)
            err_set(&s->err, rc, ERR_GEN_0001, "lane of VPG %s: %s", s->name,
                    err_errno(rc));
        capture_free(s->capture);
        s->capture = NULL;
        source_fail(s, &s->err);
        source_started_one(s);
        return;
    }
    s->attaching = s->n_volumes + 1;
    for (unsigned i = 0; i < s->n_volumes; i++) {
        rc = capture_attach(s->capture, s->volumes[i].vol,
                            s->volumes[i].volume->dev, source_attached, s,
                            &s->err);
        if (rc < 0) {
            capture_free(s->capture);
            s->capture = NULL;
            source_fail(s, &s->err);
            source_started_one(s);
            return;
        }
    }
    source_attached(s);
}

/* Does lane.super prove that the volumes are as they were left? */
static bool
super_proves(const struct source *s, const struct lane_super *old)
{
    if (!old->clean || !old->synced || old->n_volumes != s->n_volumes)
        return false;
    for (unsigned i = 0; i < s->n_volumes; i++) {
        const struct lane_super_volume *was = &old->volumes[i];
        struct lane_super_volume now = { .vol = s->volumes[i].vol };

        if (volume_fingerprint(s->volumes[i].volume, &now) < 0 ||
            now.vol != was->vol || now.size != was->size ||
            was->fp_mtime_ns == 0 || now.fp_identity != was->fp_identity ||
            now.fp_size != was->fp_size || now.fp_mtime_ns != was->fp_mtime_ns)
            return false;
    }
    return true;
}

static void
source_super_run(struct io_work *w)
{
    struct source *s = container_of(w, struct source, job);
    struct lane_super *su = &s->super, old = { .seq_epoch = 0 };
    struct incarnation_id fresh = su->incarnation;
    int rc;

    s->job_err = (struct err)ERR_INIT;
    rc = lane_super_load(s->rep->loop, s->super_path, &old, &s->job_err);
    if (rc == -ENOENT) {
        rc = 0;
        old = (struct lane_super){ .vpg = s->vpg, .lane = 1 };
        s->job_err = (struct err)ERR_INIT;
    }
    if (rc < 0) {
        s->job_res = rc;
        return;
    }
    s->exact = super_proves(s, &old);
    *su = old;
    su->vpg = s->vpg;
    su->lane = 1;
    if (!uuid_is_nil(&old.incarnation.u)) {
        su->prev_incarnation = old.incarnation;
        if (!old.clean)
            su->prev_last_batch = 0;
    }
    su->incarnation = fresh;
    su->seq_epoch = old.seq_epoch + 1;
    su->generation = s->generation;
    su->fencing_epoch = MAX(s->fencing_epoch, old.fencing_epoch);
    su->clean = false;
    su->n_volumes = s->n_volumes;
    for (unsigned i = 0; i < s->n_volumes; i++)
        su->volumes[i] = (struct lane_super_volume){
            .vol = s->volumes[i].vol,
            .size = s->volumes[i].volume->dev->info.size,
        };
    s->job_res = lane_super_store(s->rep->loop, s->super_path, su, &s->job_err);
}

void
source_start(struct source *s)
{
    uint8_t random[16];
    char file[SOURCE_FILE_MAX];

    s->starting = true;
    for (unsigned i = 0; i < s->n_volumes; i++) {
        struct rep_volume *v = s->volumes[i].volume;

        if (!v->dev) {
            source_fail(s, &v->err);
            source_started_one(s);
            return;
        }
    }
    io_random(s->rep->loop, random, sizeof random);
    s->super = (struct lane_super){ .lane = 1 };
    s->super.incarnation.u = uuid_from_random(random);
    source_file(s, file, sizeof file, ".super");
    snprintf(s->super_path, sizeof s->super_path, "%s/%s",
             s->rep->cfg.state_dir, file);
    s->job = (struct io_work){ .run = source_super_run,
                               .done = source_super_stored };
    io_work_submit(s->rep->loop, &s->job);
}

/* --- stopping ----------------------------------------------------------- */

static void
source_stopped(void *arg)
{
    struct source *s = arg;
    void (*then)(struct source *) = s->then;

    s->sender = NULL;
    s->stopping = false;
    for (unsigned i = 0; i < s->n_volumes; i++)
        capture_detach(s->capture, s->volumes[i].vol);
    capture_free(s->capture);
    s->capture = NULL;
    s->running = false;
    s->then = NULL;
    if (then)
        then(s);
}

void
source_stop(struct source *s, void (*then)(struct source *s))
{
    s->then = then;
    io_timer_stop(&s->retry);
    if (s->stopping) /* for another reason: this one counts */
        return;
    if (s->sender) {
        s->stopping = true;
        sender_stop(s->sender, source_stopped, s);
        return;
    }
    if (s->capture) {
        source_stopped(s);
        return;
    }
    s->then = NULL;
    then(s);
}

static void
source_restart(void *arg)
{
    struct source *s = arg;

    if (!s->rep->stopping) /* else it is being drained, or stopped already */
        source_stop(s, source_start);
}

/* --- from the state directory ------------------------------------------- */

struct source *
source_new(struct replicator *rep, const cJSON *body, struct err *err)
{
    struct source *s = calloc(1, sizeof *s);

    if (!s) {
        err_set(err, -ENOMEM, ERR_GEN_0002, "source: out of memory");
        return NULL;
    }
    s->rep = rep;
    list_init(&s->link);
    io_timer_init(&s->retry, rep->loop, source_retry);
    s->body = cJSON_Duplicate(body, 1);
    if (!s->body)
        err_set(err, -ENOMEM, ERR_GEN_0002, "source: out of memory");
    if (!s->body || source_parse(s, body, err) < 0) {
        source_free(s);
        return NULL;
    }
    for (unsigned i = 0; i < s->n_volumes; i++)
        s->volumes[i].volume->source = s;
    list_push_back(&rep->sources, &s->link);
    return s;
}

void
source_load(struct replicator *rep, const cJSON *body)
{
    struct err err = ERR_INIT;
    struct source *s = source_new(rep, body, &err);

    if (!s) {
        log_err(LOG_ERROR, ROOM, "", "a source in the state directory", &err);
        return;
    }
    if (s->paused)
        return;
    rep->starting++;
    source_start(s);
}

/* --- the role stops ----------------------------------------------------- */

struct stopping {
    struct replicator *rep;
    unsigned left;
    void (*done)(struct replicator *rep);
};

struct one_stop {
    struct stopping *all;
    struct source *source;
    bool drained;
    struct lane_super super;
    struct io_work job;
};

static void
stopping_one(struct stopping *all)
{
    if (--all->left > 0)
        return;
    all->done(all->rep);
    free(all);
}

/* What the lane has delivered must be on this disk, too, before lane.super may
 * say that both are alike: a power cut could undo it otherwise. */
static void
clean_store_run(struct io_work *w)
{
    struct one_stop *o = container_of(w, struct one_stop, job);
    struct source *s = o->source;
    struct err err = ERR_INIT;

    for (unsigned i = 0; i < s->n_volumes; i++) {
        struct rep_volume *v = s->volumes[i].volume;

        if (io_file_fdatasync_sync(filedev_file(v->backing)) < 0 ||
            volume_fingerprint(v, &o->super.volumes[i]) < 0)
            return;
    }
    o->super.clean = true;
    if (lane_super_store(o->all->rep->loop, s->super_path, &o->super, &err) < 0)
        log_err(LOG_ERROR, ROOM, "", "storing lane.super", &err);
}

static void
clean_store_done(struct io_work *w)
{
    struct one_stop *o = container_of(w, struct one_stop, job);

    stopping_one(o->all);
    free(o);
}

/* Detached: nothing writes the volume any more.  What it looks like now is what
 * it must look like at the next start for that to be exact. */
static void
drained_stopped(void *arg)
{
    struct one_stop *o = arg;
    struct source *s = o->source;

    source_stopped(s);
    if (!o->drained) {
        stopping_one(o->all);
        free(o);
        return;
    }
    o->job =
        (struct io_work){ .run = clean_store_run, .done = clean_store_done };
    io_work_submit(s->rep->loop, &o->job);
}

static void
one_drained(void *arg, bool drained)
{
    struct one_stop *o = arg;
    char ids[64];

    source_ids(o->source, ids);
    log_line(LOG_INFO, ROOM, ids, "lane of VPG %s %s", o->source->name,
             drained ? "drained"
                     : "stopped with entries that are not delivered; "
                       "a sync follows at the next start");
    o->drained = drained;
    o->super = *sender_super(o->source->sender);
    sender_stop(o->source->sender, drained_stopped, o);
}

void
sources_stop(struct replicator *rep, void (*done)(struct replicator *rep))
{
    struct stopping *all = calloc(1, sizeof *all);
    struct list *l;

    if (!all) {
        done(rep);
        return;
    }
    *all = (struct stopping){ .rep = rep, .left = 1, .done = done };
    list_for_each (l, &rep->sources) {
        struct source *s = list_entry(l, struct source, link);
        struct one_stop *o =
            s->sender && !s->stopping ? calloc(1, sizeof *o) : NULL;

        io_timer_stop(&s->retry);
        if (!o)
            continue;
        o->all = all;
        o->source = s;
        all->left++;
        s->then = NULL;
        sender_drain(s->sender, SOURCE_DRAIN_S * NSEC_PER_SEC, one_drained, o);
    }
    stopping_one(all);
}

/* --- status ------------------------------------------------------------- */

static void
cut_json(struct json_writer *w, const char *name, uint64_t cut, uint64_t wall_ns)
{
    if (cut == 0) {
        json_put_null(w, name);
        return;
    }
    json_open_obj(w, name);
    json_put_u64_text(w, "CheckpointIdentifier", cut);
    json_put_time(w, "TimeStamp", wall_ns);
    json_close_obj(w);
}

void
source_status_json(struct source *s, struct json_writer *w)
{
    static const char *const states[] = {
        [SENDER_CONNECTING] = "Connecting", [SENDER_INITIAL] = "InitialSync",
        [SENDER_STREAMING] = "Streaming",   [SENDER_RESYNC] = "Resync",
        [SENDER_COLLAPSED] = "Collapsed",   [SENDER_PAUSED] = "Paused",
        [SENDER_REFUSED] = "Refused",
    };
    static const char *const reasons[] = {
        [RESYNC_INITIAL] = "Initial",
        [RESYNC_OVERFLOW] = "Overflow",
        [RESYNC_UNCLEAN] = "Unclean",
        [RESYNC_FORCED] = "Forced",
        [RESYNC_BACKING_CHANGED] = "BackingChanged",
        [RESYNC_IO_ERROR] = "IoError",
    };
    struct sender_status st = { .state = SENDER_CONNECTING };
    const char *state;

    if (s->sender)
        sender_status(s->sender, &st);
    state = s->paused          ? "Paused"
            : s->err.num < 0   ? "Error"
            : states[st.state] ? states[st.state]
                               : "Connecting";
    json_open_obj(w, NULL);
    json_put_uuid(w, "VpgIdentifier", &s->vpg.u);
    json_put_str(w, "VpgName", s->name);
    json_put_u64(w, "FencingEpoch", s->fencing_epoch);
    json_put_str(w, "State", state);
    json_put_err(w, "Error", s->err.num < 0 ? &s->err : &st.err);
    if (st.syncing && st.sync_total > 0)
        json_put_u64(w, "ProgressPercent",
                     MIN(st.sync_done / (st.sync_total / 100 + 1),
                         (uint64_t)100));
    else if (st.syncing)
        json_put_u64(w, "ProgressPercent", 0);
    else
        json_put_null(w, "ProgressPercent");
    json_put_u64(w, "SyncBytesTotal", st.sync_total);
    json_put_u64(w, "SyncBytesDone", st.sync_done);
    json_put_bool(w, "LinkUp", st.link_up);
    json_put_u64(w, "LagBytes", st.lag_bytes);
    json_put_u64(w, "LagMilliseconds", st.lag_ns / NSEC_PER_MSEC);
    json_put_u64(w, "RingUsedInBytes", st.capture.ring_bytes);
    json_put_u64(w, "EntriesTotal", st.capture.entries);
    json_put_u64(w, "RawBytesTotal", st.capture.raw_bytes);
    json_put_u64(w, "SentBytesTotal", st.capture.sent_bytes);
    json_put_u64(w, "Collapses", st.capture.collapses);
    if (st.syncing && st.sync_reason < ARRAY_SIZE(reasons))
        json_put_str(w, "ResyncReason", reasons[st.sync_reason]);
    else
        json_put_null(w, "ResyncReason");
    cut_json(w, "NewestCut", st.newest_cut, st.newest_cut_wall_ns);
    cut_json(w, "NewestDurableCut", st.durable_cut, st.durable_cut_wall_ns);
    json_put_u64(w, "CheckpointIntervalSeconds", s->interval_ns / NSEC_PER_SEC);
    json_close_obj(w);
}
