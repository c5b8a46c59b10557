/* DELETE of a target.  Everything goes, or the images stay for people:
 *
 *   views discarded (forced; else none may be open)
 *     |-- all goes:  receiver, journal closed > files removed > answer
 *     '-- kept:      receiver stopped > all that was received is durable
 *                    > promoted > journal closed > note written, files removed,
 *                    images and directory named
 *
 * What is kept is the newest state that has arrived.  That takes as long as it
 * takes: the call is answered at once, and repeated it tells how far it is, that
 * it failed and why, or that all is done.  Until the promotion begins a failure
 * changes nothing; the room it needs is looked at before.  The note kept.json is
 * on disk before the first file of the journal goes: with it the directory is no
 * journal any more, and the next call goes on from there after a crash.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/log.h"
#include "io/file.h"
#include "replicator/target.h"

#define ROOM "replicator"

enum {
    KEEP_TICK_MS = 100,
    KEEP_DURABLE_S = 30, /* for what waits for the disk */
    KEEP_ERR_S = 30,     /* how long a failure waits for somebody who asks */
    KEEP_NAME_MAX = 160,
    KEEP_NOTE_MAX = 1024 * 1024,
    KEEP_PATH_MAX = REP_PATH_MAX + KEEP_NAME_MAX + 80,
};

/* --- everything goes ---------------------------------------------------- */

static int
remove_state(struct target *t)
{
    char path[REP_PATH_MAX + TARGET_FILE_MAX], file[TARGET_FILE_MAX];

    target_file(t, file, sizeof file);
    snprintf(path, sizeof path, "%s/%s", t->rep->cfg.state_dir, file);
    return io_unlink(t->rep->loop, path);
}

static void
destroy_run(struct io_work *w)
{
    struct target *t = container_of(w, struct target, job);

    t->job_err = (struct err)ERR_INIT;
    t->job_res = journal_destroy(t->rep->loop, t->dir, false, &t->job_err);
    if (t->job_res == 0)
        t->job_res = remove_state(t);
}

/* The job's error, whoever wrote it. */
static void
job_error(const struct target *t, struct err *out)
{
    *out = t->job_err;
    if (out->num == 0)
        err_set(out, -EIO, ERR_REP_0007, "deleting %s: %s", t->dir,
                err_errno(t->job_res));
}

static void
destroyed(struct io_work *w)
{
    struct target *t = container_of(w, struct target, job);
    struct ctl_call *c = t->call;

    t->call = NULL;
    if (t->job_res < 0) {
        t->deleting = false;
        job_error(t, &t->err);
        ctl_reply_err(c, &t->err);
        io_timer_set(&t->retry, TARGET_RETRY_S * NSEC_PER_SEC);
        return;
    }
    ctl_reply_ok(c);
    list_del(&t->link);
    target_free(t);
}

static void
delete_closed(struct target *t)
{
    t->job = (struct io_work){ .run = destroy_run, .done = destroyed };
    io_work_submit(t->rep->loop, &t->job);
}

/* --- images stay: the files --------------------------------------------- */

/* A name for a file: no directories, nothing a shell stumbles over. */
static void
plain_name(const char *from, char *out, size_t size)
{
    size_t n = 0;

    for (; *from && n + 1 < size; from++) {
        char ch = *from;
        bool plain = (ch >= 'a' && ch <= 'z') || (ch >= 'A' && ch <= 'Z') ||
                     (ch >= '0' && ch <= '9') || ch == '.' || ch == '-' ||
                     ch == '_';

        out[n++] = plain ? ch : ch == '/' ? '-' : '_';
    }
    out[n] = '\0';
}

static void
image_name(const struct target *t, unsigned i, char out[KEEP_NAME_MAX])
{
    char name[KEEP_NAME_MAX - 16];

    plain_name(t->volumes[i].name, name, sizeof name);
    snprintf(out, KEEP_NAME_MAX, "%03u-%s.raw", t->volumes[i].vol, name);
}

/* "kept-ledger-2026-11-28T03-32-48.123Z" */
static void
dir_name(const struct target *t, const char *stamp, char out[KEEP_NAME_MAX])
{
    char name[80], when[40];

    plain_name(t->name, name, sizeof name);
    snprintf(when, sizeof when, "%s", stamp);
    for (char *p = when; *p; p++)
        if (*p == ':')
            *p = '-';
    snprintf(out, KEEP_NAME_MAX, "kept-%s-%s", name, when);
}

static void
note_path(const char *dir, char out[KEEP_PATH_MAX])
{
    snprintf(out, KEEP_PATH_MAX, "%s/" KEPT_NOTE, dir);
}

bool
target_keep_begun(struct io_loop *loop, const char *dir)
{
    char path[KEEP_PATH_MAX];
    uint8_t *text = NULL;
    size_t len;
    int rc;

    note_path(dir, path);
    rc = io_read_whole(loop, path, KEEP_NOTE_MAX, &text, &len, NULL);
    free(text);
    return rc == 0;
}

static void
note_json(const struct target *t, struct buf *out)
{
    struct json_writer w;
    char file[KEEP_NAME_MAX];

    json_begin(&w, out);
    json_open_obj(&w, NULL);
    json_put_u64(&w, "Format", 1);
    json_put_uuid(&w, "VpgIdentifier", &t->vpg.u);
    json_put_str(&w, "VpgName", t->name);
    json_put_time(&w, "KeptAt", io_wall_ns(t->rep->loop));
    if (t->keep.any) {
        json_put_time(&w, "AsOf", t->keep.newest.wall_ns);
        json_put_u64_text(&w, "CheckpointIdentifier", t->keep.newest.cut_no);
    } else {
        json_put_null(&w, "AsOf");
        json_put_null(&w, "CheckpointIdentifier");
    }
    json_put_bool(&w, "Consistent", t->keep.any && t->keep.whole);
    json_open_array(&w, "Volumes");
    for (unsigned i = 0; i < t->n_volumes; i++) {
        image_name(t, i, file);
        json_open_obj(&w, NULL);
        json_put_str(&w, "File", file);
        json_put_str(&w, "VmName", t->volumes[i].vm);
        json_put_str(&w, "VolumeName", t->volumes[i].name);
        json_put_u64(&w, "SizeInBytes", t->volumes[i].size);
        json_close_obj(&w);
    }
    json_close_array(&w);
    json_close_obj(&w);
    (void)buf_add(out, "\n", 1);
}

static int
write_note(const struct target *t, struct err *err)
{
    char path[KEEP_PATH_MAX];
    struct buf text;
    int rc;

    buf_init(&text, KEEP_NOTE_MAX);
    note_json(t, &text);
    note_path(t->dir, path);
    rc = text.failed
             ? err_set(err, text.failed, ERR_GEN_0002, "%s: out of memory", path)
             : io_replace_whole(t->rep->loop, path, text.data, text.len, err);
    buf_release(&text);
    return rc;
}

/* Each image its name, unless it has it already. */
static int
name_images(const struct target *t, struct err *err)
{
    char from[KEEP_PATH_MAX], to[KEEP_PATH_MAX], file[KEEP_NAME_MAX];
    char **names = NULL;
    size_t n = 0;
    int rc = io_list_dir(t->rep->loop, t->dir, 4096, &names, &n, err);

    for (unsigned i = 0; i < t->n_volumes && rc == 0; i++) {
        image_name(t, i, file);
        snprintf(from, sizeof from, "%s/replica.%03u", t->dir,
                 t->volumes[i].vol);
        snprintf(to, sizeof to, "%s/%s", t->dir, file);
        for (size_t k = 0; k < n && rc == 0; k++)
            if (strcmp(names[k], strrchr(from, '/') + 1) == 0)
                rc = io_rename(t->rep->loop, from, to, err);
    }
    io_list_free(names, n);
    return rc == 0 ? io_sync_dir(t->rep->loop, t->dir, err) : rc;
}

/* The directory's name says when, from the note: also after a crash. */
static void
name_dir(struct target *t)
{
    char path[KEEP_PATH_MAX], to[KEEP_PATH_MAX], name[KEEP_NAME_MAX];
    const char *when = NULL;
    cJSON *note = NULL;
    uint8_t *text = NULL;
    size_t len = 0;

    note_path(t->dir, path);
    if (io_read_whole(t->rep->loop, path, KEEP_NOTE_MAX, &text, &len, NULL) == 0 &&
        json_parse((const char *)text, len, KEEP_NOTE_MAX, &note, NULL) == 0 &&
        json_str(note, "KeptAt", JSON_REQUIRED, &when, NULL) == 1) {
        dir_name(t, when, name);
        snprintf(to, sizeof to, "%s/%s", t->store->path, name);
        /* Under its old name it is as good. */
        if (io_rename(t->rep->loop, t->dir, to, NULL) == 0)
            snprintf(t->dir, sizeof t->dir, "%.*s", (int)sizeof t->dir - 1, to);
        (void)io_sync_dir(t->rep->loop, t->store->path, NULL);
    }
    cJSON_Delete(note);
    free(text);
}

static void
keep_run(struct io_work *w)
{
    struct target *t = container_of(w, struct target, job);
    bool begun = target_keep_begun(t->rep->loop, t->dir);

    t->job_err = (struct err)ERR_INIT;
    t->job_res = 0;
    if (!begun && t->keep.phase != KEEP_FILES)
        t->job_res = err_set(&t->job_err, -EIO, ERR_REP_0014,
                             "the journal of VPG %s is not open, so that its "
                             "newest state cannot be kept: %s",
                             t->name, t->err.num ? t->err.msg : "it opens");
    else if (!begun)
        t->job_res = write_note(t, &t->job_err);
    if (t->job_res == 0)
        t->job_res = journal_destroy(t->rep->loop, t->dir, true, &t->job_err);
    if (t->job_res == 0)
        t->job_res = name_images(t, &t->job_err);
    if (t->job_res == 0)
        t->job_res = remove_state(t);
    if (t->job_res == 0)
        name_dir(t);
}

/* --- images stay: the steps --------------------------------------------- */

/* Everything stays, and goes on. */
static void
keep_fail(struct target *t, const struct err *why)
{
    struct err err = ERR_INIT;
    char ids[64], id[UUID_TEXT_SIZE];

    uuid_format(&t->vpg.u, id);
    snprintf(ids, sizeof ids, "vpg=%s", id);
    t->keep.err = *why;
    err_prefix(&t->keep.err, "VPG %s is not deleted", t->name);
    log_err(LOG_ERROR, ROOM, ids, "keeping replicas", &t->keep.err);
    t->keep.phase = KEEP_NOT;
    t->keep.since_ns = io_mono_ns(t->rep->loop);
    t->deleting = false;
    if (!t->journal)
        io_timer_set(&t->retry, TARGET_RETRY_S * NSEC_PER_SEC);
    else if (!t->receiver && target_receive(t, &err) < 0)
        t->err = err;
}

static void
kept(struct io_work *w)
{
    struct target *t = container_of(w, struct target, job);
    struct replicator *rep = t->rep;
    struct err err;

    if (t->job_res < 0) {
        job_error(t, &err);
        keep_fail(t, &err);
        return;
    }
    rep->last_kept.vpg = t->vpg.u;
    snprintf(rep->last_kept.text, sizeof rep->last_kept.text,
             "its images are in %.400s; " KEPT_NOTE " there says as of when",
             t->dir);
    log_line(LOG_INFO, ROOM, "", "VPG %s is deleted: %s", t->name,
             rep->last_kept.text);
    /* It stays in the list until the manager has asked: one that has not heard
     * yet would see that it is missing and set it up again. */
    t->keep.phase = KEEP_DONE;
    kept_look(rep);
}

static void
keep_files(struct target *t)
{
    t->job = (struct io_work){ .run = keep_run, .done = kept };
    io_work_submit(t->rep->loop, &t->job);
}

/* The alert of the promotion says why. */
static void
promotion_error(const struct target *t, int res, struct err *out)
{
    for (unsigned i = 0; i < t->n_alerts; i++) {
        if (t->alerts[i].err.code == ERR_JNL_0059) {
            *out = t->alerts[i].err;
            return;
        }
    }
    err_set(out, res, ERR_JNL_0059,
            "what is in the journal could not be brought into the replica: %s",
            err_errno(res));
}

static void
keep_promoted(void *arg, int res)
{
    struct target *t = arg;
    struct err err = ERR_INIT;

    if (t->rep->stopping)
        return; /* the journal is being closed */
    if (res < 0) {
        promotion_error(t, res, &err);
        keep_fail(t, &err);
        return;
    }
    t->keep.phase = KEEP_FILES;
    target_close(t, keep_files);
}

/* What the replica may still have to allocate: no more than the log holds, nor
 * than there is in the volumes. */
static uint64_t
room_needed(const struct target *t, const struct journal_stats *st)
{
    uint64_t log = st->used_bytes, size = 0;

    for (unsigned i = 0; i < t->n_volumes; i++)
        size += t->volumes[i].size;
    if (st->stored_bytes > 0 && st->raw_bytes > st->stored_bytes)
        log = (uint64_t)((double)log * (double)st->raw_bytes /
                         (double)st->stored_bytes);
    return MIN(log, size - MIN(size, st->replica_bytes));
}

static int
check_room(struct target *t, const struct journal_stats *st, struct err *err)
{
    uint64_t need = room_needed(t, st), avail = 0, size = 0;

    t->keep.expected = need;
    t->keep.before = st->promoted_bytes;
    if (io_disk_free(t->rep->loop, t->store->path, &avail, &size) < 0 ||
        need <= avail)
        return 0;
    return err_set(err, -ENOSPC, ERR_REP_0023,
                   "keeping its newest state may take %" PRIu64
                   " MiB of store %s, which has %" PRIu64 " MiB free",
                   need / MIB + 1, t->store->name, avail / MIB);
}

static void
keep_tick(struct io_timer *timer)
{
    struct target *t = container_of(timer, struct target, keep.timer);
    struct journal_stats st;
    struct journal_tail tail;
    struct err err = ERR_INIT;

    journal_stats(t->journal, &st);
    journal_tail(t->journal, &tail);
    if (st.stopped)
        err_set(&err, -EROFS, ERR_REP_0023,
                "its journal has stopped: see its alerts");
    else if (tail.lost) /* all of it would be no state that ever was */
        err_set(&err, -EBADMSG, ERR_REP_0023,
                "part of its journal is damaged (JNL-0020): open a view of the "
                "newest checkpoint and copy its volumes, or let the source "
                "sync first");
    else if (st.durable_seq < st.received_seq &&
             io_mono_ns(t->rep->loop) - t->keep.since_ns >
                 KEEP_DURABLE_S * NSEC_PER_SEC)
        err_set(&err, -ENOSPC, ERR_REP_0023,
                "what has arrived waited %d s for room in the journal",
                KEEP_DURABLE_S);
    else if (st.durable_seq < st.received_seq) {
        io_timer_set(timer, KEEP_TICK_MS * NSEC_PER_MSEC);
        return;
    }
    if (err.num < 0 || check_room(t, &st, &err) < 0) {
        keep_fail(t, &err);
        return;
    }
    t->keep.any = journal_point_newest(t->journal, &t->keep.newest) == 0;
    t->keep.whole = !tail.in_resync;
    t->keep.phase = KEEP_PROMOTE;
    journal_withdraw_points(t->journal, keep_promoted, t);
}

static void
keep_unreceived(void *arg)
{
    struct target *t = arg;

    t->receiver = NULL;
    if (t->rep->stopping) {
        target_stop_go(t);
        return;
    }
    t->keep.phase = KEEP_DURABLE;
    t->keep.since_ns = io_mono_ns(t->rep->loop);
    io_timer_set(&t->keep.timer, 0);
}

static void
unviewed(struct target *t)
{
    if (!t->keep_replicas) {
        target_close(t, delete_closed);
    } else if (!t->journal) {
        io_timer_stop(&t->retry);
        keep_files(t);
    } else if (t->receiver) {
        t->keep.phase = KEEP_RECEIVER;
        receiver_stop(t->receiver, keep_unreceived, t);
    } else {
        keep_unreceived(t);
    }
}

void
target_keep_init(struct target *t)
{
    io_timer_init(&t->keep.timer, t->rep->loop, keep_tick);
}

/* --- the call ----------------------------------------------------------- */

static unsigned
percent(const struct target *t)
{
    struct journal_stats st;

    if (t->keep.phase >= KEEP_FILES)
        return 99;
    if (t->keep.phase != KEEP_PROMOTE || !t->keep.expected)
        return 0;
    journal_stats(t->journal, &st);
    return (unsigned)MIN((st.promoted_bytes - t->keep.before) * 99 /
                             t->keep.expected,
                         (uint64_t)99);
}

static void
reply_state(struct ctl_call *c, const char *state, unsigned n, const char *text)
{
    struct json_writer w;
    struct buf out;

    buf_init(&out, REP_CONFIG_MAX);
    json_begin(&w, &out);
    json_open_obj(&w, NULL);
    json_put_str(&w, "State", state);
    json_put_u64(&w, "ProgressPercent", n);
    json_put_str(&w, "Message", text);
    json_close_obj(&w);
    ctl_reply(c, 200, &out);
}

static void
reply_gone(struct ctl_call *c)
{
    const struct rep_last_kept *k = &c->rep->last_kept;

    if (uuid_equal(&k->vpg, &c->vpg))
        reply_state(c, "Kept", 100, k->text);
    else
        ctl_reply_ok(c);
}

static bool
just_failed(struct target *t)
{
    return t->keep.err.num < 0 && io_mono_ns(t->rep->loop) - t->keep.since_ns <
                                      KEEP_ERR_S * NSEC_PER_SEC;
}

static void
begin(struct target *t, struct ctl_call *c)
{
    t->deleting = true;
    t->keep_replicas = c->query.keep_replicas;
    if (t->keep_replicas) {
        t->keep.phase = KEEP_VIEWS;
        t->keep.any = t->keep.whole = false;
        reply_state(c, "Keeping", 0, "");
    } else {
        t->call = c;
    }
    target_views_discard(t, unviewed);
}

void
target_delete(struct ctl_call *c)
{
    struct target *t = target_by_vpg(c->rep, &c->vpg);
    struct err err = ERR_INIT;

    if (!t) {
        reply_gone(c);
        return;
    }
    if (t->keep.phase == KEEP_DONE) {
        list_del(&t->link);
        target_free(t);
        reply_gone(c);
        return;
    }
    if (t->keep.phase != KEEP_NOT && c->query.keep_replicas) {
        reply_state(c, "Keeping", percent(t), "");
        return;
    }
    if (t->call || t->deleting || t->opening)
        err_set(&err, -EBUSY, ERR_REP_0010,
                "VPG %s is being changed by another call", t->name);
    else if (!c->query.force && (!list_empty(&t->views) || t->views_opening > 0))
        err_set(&err, -EBUSY, ERR_REP_0015, "views of VPG %s are open", t->name);
    else if (c->query.keep_replicas && just_failed(t))
        err = t->keep.err;
    t->keep.err = (struct err)ERR_INIT;
    if (err.num < 0)
        ctl_reply_err(c, &err);
    else
        begin(t, c);
}
