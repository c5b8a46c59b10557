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
#include "replicator/replicator.h"

#define ROOM "replicator"

enum {
    SOURCE_DRAIN_S = 10,
    SOURCE_RETRY_S = 5,
    SOURCE_DIR_NAME_MAX = 64,
};

static void source_start(struct source *s);

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

static void
source_file(const struct source *s, char *out, size_t size, const char *suffix)
{
    char id[UUID_TEXT_SIZE];

    uuid_format(&s->vpg.u, id);
    snprintf(out, size, "sources/%s%s", id, suffix);
}

static void
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

/* --- parsing ------------------------------------------------------------ */

static int
parse_compression(const cJSON *body, enum sender_compression dflt,
                  enum sender_compression *out, struct err *err)
{
    static const char *const names[] = { "Auto", "Off", "Lz4", "Zstd" };
    const char *text = "Auto";

    if (json_str(body, "Compression", JSON_OPTIONAL, &text, err) < 0)
        return -EINVAL;
    for (unsigned i = 0; i < ARRAY_SIZE(names); i++) {
        if (strcasecmp(names[i], text) == 0) {
            *out = i == COMPRESS_AUTO ? dflt : (enum sender_compression)i;
            return 0;
        }
    }
    return err_set(err, -EINVAL, ERR_REP_0002,
                   "Compression is \"%s\"; it can be Auto, Off, Lz4 or Zstd",
                   text);
}

static int
parse_volumes(struct source *s, const cJSON *body, struct err *err)
{
    const cJSON *list, *it;

    if (json_array(body, "Volumes", JSON_REQUIRED, &list, err) < 0)
        return -EINVAL;
    cJSON_ArrayForEach (it, list) {
        struct rep_volume *v;
        struct uuid id;
        uint64_t no;
        char text[UUID_TEXT_SIZE];

        if (json_u64(it, "VolumeNumber", JSON_REQUIRED, 0, UINT16_MAX, &no,
                     err) < 0 ||
            json_uuid(it, "VolumeIdentifier", JSON_REQUIRED, &id, err) < 0)
            return -EINVAL;
        if (s->n_volumes == REP_LANE_VOLUMES_MAX)
            return err_set(err, -E2BIG, ERR_REP_0003,
                           "a VPG can hold %d volumes of one replicator",
                           REP_LANE_VOLUMES_MAX);
        v = volume_by_id(s->rep, &id);
        uuid_format(&id, text);
        if (!v)
            return err_set(err, -ENOENT, ERR_REP_0004,
                           "volume %s is not in this replicator's config", text);
        if (v->source && v->source != s)
            return err_set(err, -EBUSY, ERR_REP_0005,
                           "volume %s is already protected by VPG %s",
                           v->full_name, v->source->name);
        s->volumes[s->n_volumes].volume = v;
        s->volumes[s->n_volumes++].vol = (uint16_t)no;
    }
    if (s->n_volumes == 0)
        return err_set(err, -EINVAL, ERR_REP_0002, "Volumes is empty");
    return 0;
}

static int
source_parse(struct source *s, const cJSON *body, struct err *err)
{
    const char *name;
    uint64_t epoch = 1, interval;
    bool paused = false;

    if (json_uuid(body, "VpgIdentifier", JSON_REQUIRED, &s->vpg.u, err) < 0 ||
        json_str(body, "VpgName", JSON_REQUIRED, &name, err) < 0 ||
        json_u64(body, "FencingEpoch", JSON_OPTIONAL, 1, UINT32_MAX, &epoch,
                 err) < 0 ||
        json_uuid(body, "Generation", JSON_OPTIONAL, &s->generation.u, err) < 0 ||
        json_u64(body, "CheckpointIntervalSeconds", JSON_REQUIRED, 1, 900,
                 &interval, err) < 0 ||
        json_bool(body, "Paused", JSON_OPTIONAL, &paused, err) < 0 ||
        parse_compression(body, s->rep->cfg.compression, &s->compression, err) <
            0 ||
        peer_parse(body, &s->peer_agent, &s->peer_site, &s->dial, &s->peer_addr,
                   err) < 0)
        return err->num;
    snprintf(s->name, sizeof s->name, "%.255s", name);
    s->fencing_epoch = (uint32_t)epoch;
    s->interval_ns = interval * NSEC_PER_SEC;
    s->paused = paused;
    return parse_volumes(s, body, err);
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

static void
source_start(struct source *s)
{
    uint8_t random[16];
    char file[SOURCE_DIR_NAME_MAX];

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

static void
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

static struct source *
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

/* --- calls -------------------------------------------------------------- */

static void
set_paused(struct source *s, bool paused)
{
    s->paused = paused;
    cJSON_DeleteItemFromObject(s->body, "Paused");
    cJSON_AddBoolToObject(s->body, "Paused", paused);
}

static void
source_saved(void *arg, int res)
{
    struct source *s = arg;
    struct ctl_call *c = s->call;
    bool fresh = s->fresh;
    struct err err = ERR_INIT;

    s->call = NULL;
    s->fresh = false;
    if (res < 0) {
        err_set(&err, -EIO, ERR_REP_0007,
                "the state directory could not be written: %s", err_errno(res));
        ctl_reply_err(c, &err);
        if (fresh) {
            list_del(&s->link);
            source_free(s);
            return;
        }
        /* A pause that a restart would forget is none: go on replicating. */
        set_paused(s, false);
    } else {
        ctl_reply_ok(c);
    }
    if (!s->running && !s->starting && !s->paused)
        source_start(s);
}

static void
source_save(struct source *s, struct ctl_call *c)
{
    char file[SOURCE_DIR_NAME_MAX];
    char *text = rep_body_text(s->body);

    s->call = c;
    source_file(s, file, sizeof file, ".json");
    rep_save(s->rep, file, text, source_saved, s);
    cJSON_free(text);
}

static bool
same_volumes(const struct source *a, const struct source *b)
{
    if (a->n_volumes != b->n_volumes)
        return false;
    for (unsigned i = 0; i < a->n_volumes; i++) {
        if (a->volumes[i].volume != b->volumes[i].volume ||
            a->volumes[i].vol != b->volumes[i].vol)
            return false;
    }
    return true;
}

/* The VPG is known: take over what may change while it runs. */
static void
source_update(struct source *s, struct ctl_call *c)
{
    struct source *n = calloc(1, sizeof *n);
    struct err err = ERR_INIT;
    struct stream_peer *peer = NULL;

    if (!n) {
        err_set(&err, -ENOMEM, ERR_GEN_0002, "source: out of memory");
        ctl_reply_err(c, &err);
        return;
    }
    n->rep = s->rep;
    for (unsigned i = 0; i < s->n_volumes; i++)
        s->volumes[i].volume->source = NULL; /* for the check of parsing */
    (void)source_parse(n, c->body, &err);
    for (unsigned i = 0; i < s->n_volumes; i++)
        s->volumes[i].volume->source = s;
    if (err.num == 0 && (s->call || s->deleting || !same_volumes(s, n) ||
                         !uuid_equal(&s->generation.u, &n->generation.u) ||
                         s->fencing_epoch != n->fencing_epoch ||
                         !uuid_equal(&s->peer_agent, &n->peer_agent)))
        err_set(&err, -EBUSY, ERR_REP_0008,
                "VPG %s is protected already with other volumes, epoch, "
                "generation or peer",
                s->name);
    if (err.num == 0 && n->dial) {
        struct stream_peer_config pc = { .agent = { n->peer_agent },
                                         .dial = true,
                                         .addr = n->peer_addr };

        if (stream_peer_get(s->rep->stream, &pc, &peer, &err) == 0)
            stream_peer_put(peer);
    }
    if (err.num < 0) {
        free(n);
        ctl_reply_err(c, &err);
        return;
    }
    s->interval_ns = n->interval_ns;
    s->compression = n->compression;
    s->dial = n->dial;
    s->peer_addr = n->peer_addr;
    memcpy(s->name, n->name, sizeof s->name);
    free(n);
    if (s->sender) {
        sender_set_interval(s->sender, s->interval_ns);
        sender_set_compression(s->sender, s->compression);
    }
    cJSON_Delete(s->body);
    s->body = cJSON_Duplicate(c->body, 1);
    cJSON_AddBoolToObject(s->body, "Paused", s->paused);
    source_save(s, c);
}

void
source_put(struct ctl_call *c)
{
    struct replicator *rep = c->rep;
    struct source *s = source_by_vpg(rep, &c->vpg);
    struct err err = ERR_INIT;
    char id[UUID_TEXT_SIZE];

    uuid_format(&c->vpg, id);
    cJSON_DeleteItemFromObject(c->body, "VpgIdentifier");
    cJSON_AddStringToObject(c->body, "VpgIdentifier", id);
    if (s) {
        source_update(s, c);
        return;
    }
    s = source_new(rep, c->body, &err);
    if (!s) {
        ctl_reply_err(c, &err);
        return;
    }
    if (!trust_allows(rep, &s->peer_site, &s->peer_agent)) {
        err_set(&err, -ENOTCONN, ERR_REP_0009,
                "the other site's replicator is not trusted yet");
        list_del(&s->link);
        source_free(s);
        ctl_reply_err(c, &err);
        return;
    }
    s->fresh = true;
    source_save(s, c);
}

static struct source *
source_of_call(struct ctl_call *c)
{
    struct source *s = source_by_vpg(c->rep, &c->vpg);
    struct err err = ERR_INIT;

    if (!s)
        err_set(&err, -ENOENT, ERR_REP_0001, "no source for this VPG here");
    else if (s->call || s->deleting || s->starting)
        err_set(&err, -EBUSY, ERR_REP_0010,
                "VPG %s is being changed by another call", s->name);
    else
        return s;
    ctl_reply_err(c, &err);
    return NULL;
}

static void
source_remove_run(struct io_work *w)
{
    struct source *s = container_of(w, struct source, job);
    char path[REP_PATH_MAX + SOURCE_DIR_NAME_MAX], file[SOURCE_DIR_NAME_MAX];

    source_file(s, file, sizeof file, ".json");
    snprintf(path, sizeof path, "%s/%s", s->rep->cfg.state_dir, file);
    s->job_res = io_unlink(s->rep->loop, path);
    if (s->job_res == 0)
        s->job_res = io_unlink(s->rep->loop, s->super_path);
    snprintf(path, sizeof path, "%s/sources", s->rep->cfg.state_dir);
    if (s->job_res == 0)
        s->job_res = io_sync_dir(s->rep->loop, path, NULL);
}

static void
source_removed(struct io_work *w)
{
    struct source *s = container_of(w, struct source, job);
    struct err err = ERR_INIT;

    if (s->job_res < 0) {
        err_set(&err, -EIO, ERR_REP_0007,
                "the state directory could not be written: %s",
                err_errno(s->job_res));
        ctl_reply_err(s->call, &err);
    } else {
        ctl_reply_ok(s->call);
    }
    list_del(&s->link);
    source_free(s);
}

static void
source_delete_stopped(struct source *s)
{
    char file[SOURCE_DIR_NAME_MAX];

    source_file(s, file, sizeof file, ".super");
    snprintf(s->super_path, sizeof s->super_path, "%s/%s",
             s->rep->cfg.state_dir, file);
    s->job =
        (struct io_work){ .run = source_remove_run, .done = source_removed };
    io_work_submit(s->rep->loop, &s->job);
}

void
source_delete(struct ctl_call *c)
{
    struct source *s = source_by_vpg(c->rep, &c->vpg);

    if (!s) { /* gone already: the same call again */
        ctl_reply_ok(c);
        return;
    }
    s = source_of_call(c);
    if (!s)
        return;
    s->call = c;
    s->deleting = true;
    source_stop(s, source_delete_stopped);
}

static void
source_paused(struct source *s)
{
    struct ctl_call *c = s->call;

    s->call = NULL;
    source_save(s, c);
}

void
source_pause(struct ctl_call *c)
{
    struct source *s = source_of_call(c);

    if (!s)
        return;
    set_paused(s, true);
    s->call = c;
    source_stop(s, source_paused);
}

void
source_resume(struct ctl_call *c)
{
    struct source *s = source_of_call(c);

    if (!s)
        return;
    if (!s->paused) {
        ctl_reply_ok(c);
        return;
    }
    set_paused(s, false);
    source_save(s, c); /* starts it when saved */
}

void
source_forcesync(struct ctl_call *c)
{
    struct source *s = source_of_call(c);
    struct err err = ERR_INIT;

    if (!s)
        return;
    if (!s->sender) {
        err_set(&err, -EBUSY, ERR_REP_0011, "VPG %s is paused: resume it first",
                s->name);
        ctl_reply_err(c, &err);
        return;
    }
    sender_force_sync(s->sender, c->query.overwrite);
    ctl_reply_ok(c);
}

void
source_checkpoint(struct ctl_call *c)
{
    static const char *const kinds[] = { "Auto", "User", "Application" };
    struct source *s = source_of_call(c);
    const char *name = NULL, *kind = "User", *consistency = "Crash";
    struct err err = ERR_INIT;
    struct json_writer w;
    struct buf out;
    uint64_t cut_no = 0, wall_ns = 0;
    unsigned k;

    if (!s)
        return;
    if (json_str(c->body, "Name", JSON_OPTIONAL, &name, &err) < 0 ||
        json_str(c->body, "Kind", JSON_OPTIONAL, &kind, &err) < 0 ||
        json_str(c->body, "Consistency", JSON_OPTIONAL, &consistency, &err) < 0) {
        ctl_reply_err(c, &err);
        return;
    }
    for (k = 0; k < ARRAY_SIZE(kinds); k++) {
        if (strcasecmp(kinds[k], kind) == 0)
            break;
    }
    if (k == ARRAY_SIZE(kinds)) {
        err_set(&err, -EINVAL, ERR_REP_0002,
                "Kind is \"%s\"; it can be Auto, User or Application", kind);
    } else if (!s->sender) {
        err_set(&err, -EBUSY, ERR_REP_0011, "VPG %s is paused: resume it first",
                s->name);
    } else {
        (void)sender_cut(s->sender, (enum cut_kind)k,
                         strcasecmp(consistency, "Application") == 0, name,
                         &cut_no, &wall_ns, &err);
    }
    if (err.num < 0) {
        ctl_reply_err(c, &err);
        return;
    }
    buf_init(&out, REP_CONFIG_MAX);
    json_begin(&w, &out);
    json_open_obj(&w, NULL);
    json_put_u64_text(&w, "CheckpointIdentifier", cut_no);
    json_put_time(&w, "TimeStamp", wall_ns);
    json_close_obj(&w);
    ctl_reply(c, 200, &out);
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
