/* The volumes of the config, each behind a splitter, each served over NBD on a
 * Unix socket of its own; whether it is protected or not makes no difference to
 * its clients.
 *
 * A volume that cannot be opened is not served and says why in the status; the
 * others are served all the same. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "io/file.h"
#include "replicator/replicator.h"

#define ROOM "replicator"

enum {
    EXPORTS_WATCH_S = 5
};

struct rep_volume *
volume_by_id(struct replicator *rep, const struct uuid *id)
{
    for (unsigned i = 0; i < rep->n_volumes; i++) {
        if (uuid_equal(&rep->volumes[i].cfg.id, id))
            return &rep->volumes[i];
    }
    return NULL;
}

static int
volume_open(struct replicator *rep, struct rep_volume *v)
{
    struct filedev_config fc = {
        .path = v->cfg.path,
        .cache = v->cfg.direct ? FILEDEV_NONE : FILEDEV_WRITEBACK,
        .read_only = v->cfg.read_only,
    };
    struct blkdev *backing = NULL;
    int rc = filedev_open(rep->loop, &fc, &backing, &v->err);

    if (rc == 0) {
        v->backing = backing;
        rc = splitter_open(backing, &v->dev, &v->err);
        if (rc < 0) {
            blkdev_close(backing);
            v->backing = NULL;
        }
    }
    if (rc < 0) {
        err_prefix(&v->err, "volume %s", v->full_name);
        log_err(LOG_ERROR, ROOM, "", "opening a volume", &v->err);
    }
    return rc;
}

int
exports_open(struct replicator *rep)
{
    int failed = 0;

    for (unsigned i = 0; i < rep->n_volumes; i++)
        failed += volume_open(rep, &rep->volumes[i]) < 0;
    return failed;
}

static int
volume_serve(struct replicator *rep, struct rep_volume *v)
{
    struct nbd_export_config ec = {
        .name = v->full_name,
        .description = v->cfg.vm,
        .dev = v->dev,
        .read_only = v->cfg.read_only,
        .multi_conn = true,
    };
    struct nbd_listen_config lc = { .addr = { .is_unix = true } };
    char id[UUID_TEXT_SIZE];
    int rc = nbd_export_add(rep->nbd, &ec, &v->export, &v->err);

    if (rc < 0)
        goto out;
    /* Socket paths are short (107 bytes): the identifier names it. */
    uuid_format(&v->cfg.id, id);
    rc = snprintf(lc.addr.host, sizeof lc.addr.host, "%.200s/%s.sock",
                  rep->cfg.run_dir, id);
    UNUSED(rc);
    lc.only = v->export;
    rc = nbd_listen(rep->nbd, &lc, &v->listener, &v->err);
    if (rc < 0)
        goto out;
    rc = nbd_uri(&lc.addr, false, v->full_name, v->uri, sizeof v->uri);
out:
    if (rc < 0) {
        err_prefix(&v->err, "export %s", v->full_name);
        log_err(LOG_ERROR, ROOM, "", "serving a volume", &v->err);
    }
    return rc;
}

/* A disk that fails tells its client; this tells the operator. */
static void
exports_watch(struct io_timer *t)
{
    struct replicator *rep = container_of(t, struct replicator, watch);

    for (unsigned i = 0; i < rep->n_volumes; i++) {
        struct rep_volume *v = &rep->volumes[i];
        struct nbd_export_stats st;

        if (!v->export)
            continue;
        nbd_export_stats(v->export, &st);
        if (st.errors > v->errors_told)
            log_line(LOG_ERROR, ROOM, "",
                     "volume %s: %llu requests have failed, %llu since it is "
                     "served: look at %s and the disk below",
                     v->full_name,
                     (unsigned long long)(st.errors - v->errors_told),
                     (unsigned long long)st.errors, v->cfg.path);
        v->errors_told = st.errors;
    }
    io_timer_set(t, EXPORTS_WATCH_S * NSEC_PER_SEC);
}

void
exports_serve(struct replicator *rep)
{
    io_timer_init(&rep->watch, rep->loop, exports_watch);
    io_timer_set(&rep->watch, EXPORTS_WATCH_S * NSEC_PER_SEC);
    for (unsigned i = 0; i < rep->n_volumes; i++) {
        struct rep_volume *v = &rep->volumes[i];

        if (v->dev && !v->export && volume_serve(rep, v) == 0)
            log_line(LOG_INFO, ROOM, "", "volume %s is served at %s",
                     v->full_name, v->uri);
    }
}

struct closing {
    struct replicator *rep;
    unsigned left;
    void (*done)(struct replicator *rep);
};

static void
export_gone(void *arg)
{
    struct closing *c = arg;

    if (--c->left > 0)
        return;
    c->done(c->rep);
    free(c);
}

void
exports_close(struct replicator *rep, void (*done)(struct replicator *rep))
{
    struct closing *c = calloc(1, sizeof *c);

    if (!c) { /* leave without waiting: requests in flight are cut off */
        done(rep);
        return;
    }
    *c = (struct closing){ .rep = rep, .left = 1, .done = done };
    if (rep->watch.loop)
        io_timer_stop(&rep->watch);
    for (unsigned i = 0; i < rep->n_volumes; i++) {
        struct rep_volume *v = &rep->volumes[i];

        if (v->listener)
            nbd_listener_close(v->listener);
        v->listener = NULL;
        if (v->export) {
            c->left++;
            nbd_export_remove(v->export, export_gone, c);
        }
        v->export = NULL;
    }
    export_gone(c);
}

int
volume_fingerprint(struct rep_volume *v, struct lane_super_volume *out)
{
    struct io_file_info info;
    int rc = io_file_info(filedev_file(v->backing), &info, NULL);

    if (rc < 0)
        return rc;
    out->size = v->dev->info.size;
    out->fp_size = info.size;
    out->fp_identity = info.identity;
    /* A device has no time of change: it cannot prove that nobody wrote it,
     * and is resynced after every restart of the host. */
    out->fp_mtime_ns = info.is_regular ? info.mtime_ns : 0;
    return 0;
}
