/* What the manager asks of a source: PUT with its definition, DELETE, pause and
 * resume, a sync, a checkpoint.
 *
 * A definition is parsed into a struct source of its own, which becomes the
 * source or tells what may change in the one that runs.  A call is answered when
 * the state directory has it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/file.h"
#include "replicator/source.h"

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

int
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

/* --- PUT ---------------------------------------------------------------- */

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
    char file[SOURCE_FILE_MAX];
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

/* --- DELETE, pause, resume, sync, checkpoint ---------------------------- */

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
    char path[REP_PATH_MAX + SOURCE_FILE_MAX], file[SOURCE_FILE_MAX];

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
    char file[SOURCE_FILE_MAX];

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
    struct sender_status st;
    struct err err = ERR_INIT;

    if (!s)
        return;
    if (!s->sender) {
        err_set(&err, -EBUSY, ERR_REP_0011, "VPG %s is paused: resume it first",
                s->name);
        ctl_reply_err(c, &err);
        return;
    }
    sender_status(s->sender, &st);
    sender_force_sync(s->sender, c->query.overwrite);
    /* It is noted all the same.  STR-0014: the lane begins anew. */
    if (st.err.code != ERR_STR_0014 &&
        (st.state == SENDER_CONNECTING || st.state == SENDER_REFUSED) &&
        st.err.num < 0) {
        err_set(&err, -EBUSY, ERR_REP_0024,
                "the sync of VPG %s cannot begin: %s", s->name, st.err.msg);
        ctl_reply_err(c, &err);
        return;
    }
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
    json_put_uuid(&w, "Incarnation", &s->super.incarnation.u);
    json_close_obj(&w);
    ctl_reply(c, 200, &out);
}
