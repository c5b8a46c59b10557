/* The replicator on the data loop: order of start and stop, durable texts. */
#include "replicator/replicator.h"
#include "replicator/source.h"
#include "replicator/target.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "io/file.h"

#define ROOM "replicator"

enum {
    LOAD_FILES_MAX = 4096
};

struct rep_store *
store_by_id(struct replicator *rep, const struct uuid *id)
{
    for (unsigned i = 0; i < rep->n_stores; i++) {
        if (uuid_equal(&rep->stores[i].id, id))
            return &rep->stores[i];
    }
    return NULL;
}

/* --- durable texts ------------------------------------------------------ */

struct save {
    struct io_work job;
    struct io_loop *loop;
    char path[REP_PATH_MAX + 64];
    char *text; /* NULL: remove */
    int res;
    void (*done)(void *arg, int res);
    void *arg;
};

static void
save_run(struct io_work *w)
{
    struct save *sv = container_of(w, struct save, job);
    struct err err = ERR_INIT;

    if (sv->text)
        sv->res = io_replace_whole(sv->loop, sv->path, sv->text,
                                   strlen(sv->text), &err);
    else
        sv->res = io_unlink(sv->loop, sv->path);
    if (sv->res < 0)
        log_line(LOG_ERROR, ROOM, "", "writing %s: %s", sv->path,
                 err.num ? err.msg : err_errno(sv->res));
}

static void
save_done(struct io_work *w)
{
    struct save *sv = container_of(w, struct save, job);

    sv->done(sv->arg, sv->res);
    free(sv->text);
    free(sv);
}

char *
rep_body_text(cJSON *body)
{
    cJSON_DeleteItemFromObject(body, "Format");
    cJSON_AddNumberToObject(body, "Format", REP_FORMAT);
    return cJSON_Print(body);
}

void
rep_save(struct replicator *rep, const char *name, const char *text,
         void (*done)(void *arg, int res), void *arg)
{
    struct save *sv = calloc(1, sizeof *sv);

    if (sv && text)
        sv->text = strdup(text);
    if (!sv || (text && !sv->text)) {
        free(sv);
        done(arg, -ENOMEM);
        return;
    }
    sv->loop = rep->loop;
    snprintf(sv->path, sizeof sv->path, "%s/%s", rep->cfg.state_dir, name);
    sv->done = done;
    sv->arg = arg;
    sv->job = (struct io_work){ .run = save_run, .done = save_done };
    io_work_submit(rep->loop, &sv->job);
}

static bool
ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), m = strlen(end);

    return n >= m && strcmp(s + n - m, end) == 0;
}

int
rep_load_dir(struct replicator *rep, const char *dir,
             void (*each)(struct replicator *rep, const cJSON *body),
             struct err *err)
{
    char path[REP_PATH_MAX + 64], file[sizeof path + 256];
    char **names = NULL;
    size_t n = 0;
    int rc;

    snprintf(path, sizeof path, "%s/%s", rep->cfg.state_dir, dir);
    rc = io_mkdir(rep->loop, path, err);
    if (rc == 0)
        rc = io_list_dir(rep->loop, path, LOAD_FILES_MAX, &names, &n, err);
    for (size_t i = 0; rc == 0 && i < n; i++) {
        struct err why = ERR_INIT;
        uint8_t *text = NULL;
        cJSON *body = NULL;
        uint64_t format = 1;
        size_t len = 0;

        if (!ends_with(names[i], ".json"))
            continue;
        snprintf(file, sizeof file, "%s/%.200s", path, names[i]);
        if (io_read_whole(rep->loop, file, REP_CONFIG_MAX, &text, &len, &why) <
                0 ||
            json_parse((const char *)text, len, REP_CONFIG_MAX, &body, &why) <
                0) {
            err_prefix(&why, "%s", file);
            log_err(LOG_ERROR, ROOM, "", "loading", &why);
        } else if (json_u64(body, "Format", JSON_OPTIONAL, 1, UINT32_MAX,
                            &format, &why) < 0 ||
                   format > REP_FORMAT) {
            /* Going on without it would serve a protected volume as if it were
             * none. */
            rc = err_set(err, -EPROTONOSUPPORT, ERR_REP_0019,
                         "%s has format %llu, of a newer release; this one "
                         "reads %d",
                         file, (unsigned long long)format, REP_FORMAT);
        } else {
            each(rep, body);
        }
        cJSON_Delete(body);
        free(text);
    }
    io_list_free(names, n);
    return rc;
}

/* --- order of life ------------------------------------------------------ */

static void
stores_open(struct replicator *rep)
{
    for (unsigned i = 0; i < rep->n_stores; i++) {
        struct rep_store *st = &rep->stores[i];

        if (io_mkdir(rep->loop, st->path, &st->err) < 0) {
            err_prefix(&st->err, "store %s", st->name);
            log_err(LOG_ERROR, ROOM, "", "opening a store", &st->err);
        }
    }
}

int
replicator_open(struct replicator *rep, struct err *err)
{
    struct nbd_server_config nc = { .payload_max = 0 };
    int rc;

    list_init(&rep->sources);
    list_init(&rep->targets);
    list_init(&rep->sites);
    rep->started_wall_ns = io_wall_ns(rep->loop);
    rc = io_mkdir(rep->loop, rep->cfg.state_dir, err);
    if (rc == 0)
        rc = io_mkdir(rep->loop, rep->cfg.run_dir, err);
    if (rc == 0)
        rc = trust_load(rep, err);
    if (rc == 0)
        rc = ringpool_new(rep->loop, rep->cfg.ring_size, &rep->ring, err);
    if (rc == 0)
        rc = nbd_server_new(rep->loop, &nc, &rep->nbd, err);
    if (rc == 0) {
        struct stream_config sc = {
            .loop = rep->loop,
            .self = { rep->cfg.id },
            .client_tls = rep->client_tls,
            .server_tls = rep->server_tls,
        };

        rc = stream_new(&sc, &rep->stream, err);
    }
    if (rc < 0)
        return rc;
    stores_open(rep);
    (void)exports_open(rep); /* each failure has been said */
    /* One more, so that the exports wait for the end of the loading. */
    rep->starting = 1;
    rc = kept_start(rep, err);
    if (rc == 0)
        rc = rep_load_dir(rep, "targets", target_load, err);
    if (rc == 0)
        rc = rep_load_dir(rep, "sources", source_load, err);
    if (--rep->starting == 0)
        exports_serve(rep);
    return rc;
}

static void
stop_targets_gone(struct replicator *rep)
{
    rep->stopped(rep);
}

static void
stop_sources_gone(struct replicator *rep)
{
    targets_stop(rep, stop_targets_gone);
}

static void
stop_exports_gone(struct replicator *rep)
{
    sources_stop(rep, stop_sources_gone);
}

void
replicator_stop(struct replicator *rep, void (*stopped)(struct replicator *rep))
{
    rep->stopping = true;
    rep->stopped = stopped;
    kept_stop(rep);
    exports_close(rep, stop_exports_gone);
}
