/* The replicator role's entry: configuration into a struct replicator, identity
 * and TLS contexts, the data loop, signals, the order of the end. */
#include "role.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/x509.h>

#include "capture/capture.h"
#include "common/identity.h"
#include "common/log.h"
#include "common/text.h"
#include "io/file.h"
#include "replicator/control.h"
#include "replicator/control_announce.h"
#include "replicator/control_renew.h"
#include "replicator/replicator.h"

#define ROOM "replicator"

struct role {
    const struct agent_config *cfg;
    struct replicator rep;
    struct control *control;
    struct announce *announce;
    struct renew *renew;
    char manager[IO_ADDR_TEXT_MAX]; /* host:port, or "" */
    bool stopping;
};

static int
put_text(char *out, size_t size, const char *text, const char *what,
         struct err *err)
{
    if (strlen(text) >= size)
        return err_set(err, -ENAMETOOLONG, ERR_REP_0019,
                       "%s \"%.80s...\" is longer than %zu bytes", what, text,
                       size - 1);
    memcpy(out, text, strlen(text) + 1);
    return 0;
}

/* --- identity ------------------------------------------------------------ */

static int
load_identity(struct role *r, const char *chain, struct err *err)
{
    struct rep_config *rc = &r->rep.cfg;
    struct stack_st_X509 *certs = NULL;
    struct tls_identity who;
    X509 *leaf;
    int res = pki_certs_load(chain, &certs, err);

    if (res < 0)
        return res;
    leaf = sk_X509_value(certs, 0);
    res = pki_cert_identity(leaf, &who, err);
    if (res == 0 && who.role != TLS_ROLE_REPLICATOR)
        res = err_set(err, -EINVAL, ERR_REP_0019,
                      "%s is not a replicator's certificate", chain);
    if (res == 0) {
        rc->deployment = who.deployment;
        rc->site = who.site;
        rc->id = who.id;
        if (r->cfg->replicator.name && r->cfg->replicator.name[0])
            res = put_text(rc->name, sizeof rc->name, r->cfg->replicator.name,
                           "replicator.name", err);
        else if (X509_NAME_get_text_by_NID(X509_get_subject_name(leaf),
                                           NID_commonName, rc->name,
                                           sizeof rc->name) < 0)
            uuid_format(&rc->id, rc->name);
    }
    pki_certs_free(certs);
    return res;
}

static int
load_tls(struct role *r, const char *chain, const char *key, struct err *err)
{
    static const struct tls_settings client = { .side = TLS_CLIENT };
    static const struct tls_settings server = { .side = TLS_SERVER,
                                                .client_cert =
                                                    TLS_CLIENT_CERT_REQUIRED };
    struct replicator *rep = &r->rep;
    int rc = tls_ctx_new(&client, &rep->client_tls, err);

    if (rc == 0)
        rc = tls_ctx_new(&server, &rep->server_tls, err);
    if (rc == 0)
        rc = tls_ctx_new(&server, &rep->control_tls, err);
    if (rc == 0)
        rc = tls_ctx_new(&server, &rep->nbd_tls, err);
    if (rc == 0)
        rc = tls_ctx_load_own(rep->nbd_tls, chain, key, err);
    if (rc == 0)
        rc = tls_ctx_load_own(rep->client_tls, chain, key, err);
    if (rc == 0)
        rc = tls_ctx_load_own(rep->server_tls, chain, key, err);
    if (rc == 0)
        rc = tls_ctx_load_own(rep->control_tls, chain, key, err);
    return rc;
}

/* --- configuration ------------------------------------------------------- */

static int
load_volumes(struct role *r, struct err *err)
{
    const struct agent_config *ac = r->cfg;
    struct replicator *rep = &r->rep;
    const struct agent_vm *vms = ac->replicator.vms.items;
    unsigned n = 0;
    int rc = 0;

    for (size_t i = 0; i < ac->replicator.vms.n; i++)
        n += (unsigned)vms[i].volumes.n;
    if (n > REP_VOLUMES_MAX)
        return err_set(err, -E2BIG, ERR_REP_0019,
                       "the configuration has %u volumes, more than %d", n,
                       REP_VOLUMES_MAX);
    rep->volumes = calloc(n + 1, sizeof *rep->volumes);
    if (!rep->volumes)
        return err_set(err, -ENOMEM, ERR_GEN_0002, "volumes: out of memory");
    for (size_t i = 0; i < ac->replicator.vms.n; i++) {
        const struct agent_volume *vols = vms[i].volumes.items;

        for (size_t k = 0; rc == 0 && k < vms[i].volumes.n; k++) {
            struct rep_volume *v = &rep->volumes[rep->n_volumes++];
            struct rep_volume_config *vc = &v->cfg;

            rc = put_text(vc->vm, sizeof vc->vm, vms[i].name, "VM", err);
            if (rc == 0)
                rc = put_text(vc->name, sizeof vc->name, vols[k].name, "volume",
                              err);
            if (rc == 0)
                rc = put_text(vc->path, sizeof vc->path, vols[k].path, "path",
                              err);
            vc->direct = vols[k].cache == AGENT_CACHE_NONE;
            vc->read_only = vols[k].read_only;
            agent_vm_id(&rep->cfg.site, &rep->cfg.id, vc->vm, &vc->vm_id);
            agent_volume_id(&rep->cfg.site, &rep->cfg.id, vc->vm, vc->name,
                            &vc->id);
            snprintf(v->full_name, sizeof v->full_name, "%s/%s", vc->vm,
                     vc->name);
        }
    }
    return rc;
}

static int
load_stores(struct role *r, struct err *err)
{
    const struct agent_config *ac = r->cfg;
    const struct agent_store *stores = ac->replicator.stores.items;
    struct replicator *rep = &r->rep;
    int rc = 0;

    if (ac->replicator.stores.n > REP_STORES_MAX)
        return err_set(err, -E2BIG, ERR_REP_0019,
                       "the configuration has %zu stores, more than %d",
                       ac->replicator.stores.n, REP_STORES_MAX);
    for (size_t i = 0; rc == 0 && i < ac->replicator.stores.n; i++) {
        struct rep_store *st = &rep->stores[rep->n_stores++];

        rc = put_text(st->name, sizeof st->name, stores[i].name, "store", err);
        if (rc == 0)
            rc = put_text(st->path, sizeof st->path, stores[i].path,
                          "store path", err);
        agent_store_id(&rep->cfg.site, &rep->cfg.id, st->name, &st->id);
    }
    return rc;
}

/* What others dial: the host to advertise, else the one we listen on, else the
 * one we use towards our manager, with the port really bound. */
static void
advertise(const struct role *r, const char *listen_host, uint16_t port,
          char out[IO_ADDR_TEXT_MAX])
{
    struct io_addr a = { .port = port };
    const char *host = r->cfg->replicator.advertise;

    if (!host || !host[0])
        host = listen_host;
    if (host[0] && strcmp(host, "0.0.0.0") != 0 && strcmp(host, "::") != 0)
        snprintf(a.host, sizeof a.host, "%.255s", host);
    else if (announce_local_host(r->manager, a.host, sizeof a.host) < 0)
        snprintf(a.host, sizeof a.host, "localhost");
    io_addr_format(&a, out);
}

/* The manager's address: as configured, else where this replicator joined. */
static void
find_manager(struct role *r)
{
    const char *text = r->cfg->replicator.manager, *joined = NULL;
    char path[REP_PATH_MAX + 64];
    uint8_t *data = NULL;
    cJSON *tree = NULL;
    size_t len = 0;

    if (!text || !text[0]) {
        snprintf(path, sizeof path, "%s/" ROLE_JOINED_FILE,
                 r->rep.cfg.state_dir);
        if (io_read_whole(r->rep.loop, path, REP_CONFIG_MAX, &data, &len,
                          NULL) == 0 &&
            json_parse((const char *)data, len, REP_CONFIG_MAX, &tree, NULL) ==
                0 &&
            json_str(tree, "Manager", JSON_REQUIRED, &joined, NULL) == 1)
            text = joined;
    }
    if (text)
        snprintf(r->manager, sizeof r->manager, "%.270s", text);
    cJSON_Delete(tree);
    free(data);
}

/* --- the loop ------------------------------------------------------------ */

static enum io_backend
backend_of(int io)
{
    switch (io) {
    case AGENT_IO_URING: return IO_BACKEND_URING;
    case AGENT_IO_EPOLL: return IO_BACKEND_EPOLL;
    default: return IO_BACKEND_AUTO;
    }
}

static enum sender_compression
compression_of(int c)
{
    switch (c) {
    case AGENT_COMPRESS_OFF: return COMPRESS_OFF;
    case AGENT_COMPRESS_LZ4: return COMPRESS_LZ4;
    case AGENT_COMPRESS_ZSTD: return COMPRESS_ZSTD;
    default: return COMPRESS_AUTO;
    }
}

/* All exports over TCP, to whoever has a certificate of this site. */
static int
serve_tcp(struct role *r, struct err *err)
{
    struct nbd_listen_config lc = { .tls = r->rep.nbd_tls };
    struct nbd_listener *l;
    char text[IO_ADDR_TEXT_MAX];
    int rc;

    if (!r->cfg->replicator.nbd_tcp.enabled)
        return 0;
    rc = io_addr_parse(r->cfg->replicator.nbd_tcp.listen, &lc.addr, err);
    if (rc < 0)
        return rc;
    rc = nbd_listen(r->rep.nbd, &lc, &l, err);
    if (rc < 0)
        return rc;
    nbd_listener_addr(l, &lc.addr);
    io_addr_format(&lc.addr, text);
    log_line(LOG_INFO, ROOM, "", "volumes are served over TLS at %s, too", text);
    return 0;
}

static void
role_stopped(struct replicator *rep)
{
    io_loop_stop(rep->loop);
}

/* What may change while we run: the log.  Volumes and stores need a restart,
 * which costs a lane nothing when it is clean. */
static void
role_reload(struct role *r)
{
    struct agent_config fresh;
    struct err err = ERR_INIT;

    log_reopen();
    if (agent_config_load(r->cfg->path, &fresh, &err) < 0) {
        log_err(LOG_ERROR, ROOM, "", "reloading", &err);
        return;
    }
    log_set_level((enum log_level)fresh.log.level);
    agent_config_release(&fresh);
    log_line(LOG_INFO, ROOM, "", "configuration reloaded");
}

static void
role_signal(void *arg, int sig)
{
    struct role *r = arg;

    if (sig == SIGHUP) {
        role_reload(r);
        renew_poke(r->renew);
        return;
    }
    if (r->stopping)
        return;
    r->stopping = true;
    log_line(LOG_INFO, ROOM, "", "stopping");
    announce_stop(r->announce);
    r->announce = NULL;
    renew_stop(r->renew);
    r->renew = NULL;
    replicator_stop(&r->rep, role_stopped);
}

/* Faults that the torture tests plant, to see that the oracle finds them.  The
 * variable does nothing in a release build. */
static void
plant(struct role *r)
{
#ifdef HOLDFAST_PLANTS
    const char *text = getenv("HOLDFAST_PLANT");

    if (!text)
        return;
    if (strcmp(text, "ack-before-sync") == 0)
        r->rep.cfg.planted = JOURNAL_PLANT_ACK_BEFORE_SYNC;
    else if (strcmp(text, "arrival-order") == 0)
        r->rep.cfg.planted = JOURNAL_PLANT_ARRIVAL_ORDER;
    else if (strcmp(text, "no-range-lock") == 0)
        capture_planted = CAPTURE_PLANT_NO_RANGE_LOCK;
    log_line(LOG_WARN, ROOM, "", "fault planted: %s", text);
#else
    UNUSED(r);
#endif
}

static int
role_paths(struct role *r, char *chain, char *key, struct err *err)
{
    struct rep_config *rc = &r->rep.cfg;
    const char *run = r->cfg->replicator.run_dir;
    char path[FILE_PATH_SIZE];
    int res =
        agent_state_path(r->cfg, "replicator/" ROLE_CHAIN_FILE, chain, err);

    if (res == 0)
        res = agent_state_path(r->cfg, "replicator/" ROLE_KEY_FILE, key, err);
    if (res == 0)
        res = agent_state_path(r->cfg, "replicator", path, err);
    if (res == 0)
        res = put_text(rc->state_dir, sizeof rc->state_dir, path, "state_dir",
                       err);
    if (res == 0 && (!run || !run[0]))
        res = agent_state_path(r->cfg, "nbd", path, err);
    else if (res == 0)
        snprintf(path, sizeof path, "%s", run);
    if (res == 0)
        res = put_text(rc->run_dir, sizeof rc->run_dir, path, "run_dir", err);
    rc->ring_size = r->cfg->replicator.ring_size;
    rc->compression = compression_of(r->cfg->replicator.link_compression);
    return res;
}

/* The calls towards our manager, each on a thread of its own. */
static int
call_manager(struct role *r, const char *chain, const char *key, struct err *err)
{
    struct replicator *rep = &r->rep;
    struct tls_ctx *const contexts[] = { rep->client_tls, rep->server_tls,
                                         rep->control_tls, rep->nbd_tls };
    const struct renew_settings rs = { .manager = r->manager,
                                       .chain = chain,
                                       .key = key,
                                       .contexts = contexts,
                                       .n_contexts = ARRAY_SIZE(contexts) };
    int rc = renew_start(&rep->cfg, &rs, &r->renew, err);

    if (rc == 0 && r->manager[0])
        rc = announce_start(rep, r->manager, &r->announce, err);
    return rc;
}

/* Everything up to the point where the loop runs. */
static int
role_open(struct role *r, struct err *err)
{
    const struct agent_config *ac = r->cfg;
    struct replicator *rep = &r->rep;
    struct io_loop_config lc = {
        .backend = backend_of(ac->replicator.io),
        .workers = (unsigned)ac->replicator.workers,
    };
    static const int signals[] = { SIGTERM, SIGINT, SIGHUP };
    char chain[FILE_PATH_SIZE], key[FILE_PATH_SIZE];
    struct io_addr control = { .port = 0 }, data = control, bound = control;
    int rc = role_paths(r, chain, key, err);

    if (rc == 0)
        rc = io_addr_parse(ac->replicator.control_listen, &control, err);
    if (rc == 0)
        rc = io_addr_parse(ac->replicator.data_listen, &data, err);
    if (rc == 0)
        rc = identity_recover(key, chain, err);
    if (rc == 0)
        rc = load_identity(r, chain, err);
    if (rc == 0)
        rc = load_tls(r, chain, key, err);
    if (rc == 0)
        rc = load_volumes(r, err);
    if (rc == 0)
        rc = load_stores(r, err);
    if (rc == 0)
        rc = io_loop_new(&lc, &rep->loop, err);
    if (rc == 0)
        rc = io_signals_watch(rep->loop, signals, ARRAY_SIZE(signals),
                              role_signal, r, err);
    if (rc == 0)
        rc = replicator_open(rep, err);
    if (rc == 0)
        rc = serve_tcp(r, err);
    if (rc == 0)
        rc = stream_listen(rep->stream, &data, &bound, err);
    if (rc < 0)
        return rc;
    find_manager(r);
    advertise(r, data.host, bound.port, rep->cfg.data_address);
    if (ac->replicator.advertise_data && ac->replicator.advertise_data[0])
        snprintf(rep->cfg.data_address, sizeof rep->cfg.data_address, "%.270s",
                 ac->replicator.advertise_data);
    advertise(r, control.host, control.port, rep->cfg.control_address);
    rc = control_start(rep, control.host, control.port, &r->control,
                       &control.port, err);
    if (rc < 0)
        return rc;
    advertise(r, control.host, control.port, rep->cfg.control_address);
    return call_manager(r, chain, key, err);
}

int
replicator_role_main(const struct agent_config *cfg)
{
    struct role *r = calloc(1, sizeof *r);
    struct err err = ERR_INIT;
    int rc;

    if (!r)
        return 1;
    r->cfg = cfg;
    plant(r);
    rc = role_open(r, &err);
    if (rc < 0) {
        /* The process ends: nothing needs to be given back.
         * NOLINTNEXTLINE(clang-analyzer-unix.Malloc) */
        log_err(LOG_ERROR, ROOM, "", "starting", &err);
        return 1;
    }
    log_line(LOG_INFO, ROOM, "",
             "replicator %s is ready: control %s, data %s, %u volumes, %s",
             r->rep.cfg.name, r->rep.cfg.control_address,
             r->rep.cfg.data_address, r->rep.n_volumes,
             io_loop_backend_name(r->rep.loop));
    rc = io_loop_run(r->rep.loop);
    control_stop(r->control);
    control_free(r->control);
    log_line(LOG_INFO, ROOM, "", "stopped");
    return rc < 0 ? 1 : 0;
}
