/* See manager.h: putting the parts together, and taking them apart. */
#include "manager/manager.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <event2/event.h>

#include "common/bytes.h"
#include "common/log.h"
#include "common/text.h"
#include "manager/accounts.h"
#include "manager/sessions.h"

enum {
    WORKERS = 8,
    QUEUE_MAX = 512,
    TICK_S = 1,
};

static void
on_tick(evutil_socket_t fd, short what, void *arg)
{
    struct manager *m = arg;

    UNUSED(fd);
    UNUSED(what);
    fleet_tick(m);
    peers_tick(m);
    renew_tick(m);
    alerts_tick(m);
}

static int
read_site(void *arg, const char *id, const char *json)
{
    struct manager *m = arg;
    const char *name, *first;
    char host[TEXT_HOST_SIZE];
    uint16_t port;
    cJSON *tree = NULL;

    UNUSED(id);
    if (json_parse(json, strlen(json), 64 * KIB, &tree, NULL) == 0 &&
        json_str(tree, "Name", JSON_REQUIRED, &name, NULL) == 1)
        (void)snprintf(m->site_name, sizeof m->site_name, "%s", name);
    first = cJSON_GetStringValue(cJSON_GetArrayItem(json_get(tree, "Api"), 0));
    if (first && text_parse_hostport(first, host, &port) == 0)
        (void)snprintf(m->advertise, sizeof m->advertise, "%s", host);
    cJSON_Delete(tree);
    return 0;
}

static int
start_listeners(struct manager *m, struct err *err)
{
    struct http_settings api = { .router = &manager_api_router,
                                 .ctx = m,
                                 .gate = api_gate,
                                 .room = "manager" };
    struct http_settings peer = { .router = &manager_peer_router,
                                  .ctx = m,
                                  .gate = api_peer_gate,
                                  .room = "manager" };
    struct http_settings local = { .router = &manager_local_router,
                                   .ctx = m,
                                   .room = "manager" };
    int rc = http_server_new(m->loop, &api, &m->api, err);

    if (rc == 0)
        rc = http_server_new(m->loop, &peer, &m->peer_server, err);
    if (rc == 0)
        rc = http_server_new(m->loop, &local, &m->local, err);
    if (rc == 0)
        rc = http_server_listen_tls(m->api, m->cfg.api_host, m->cfg.api_port,
                                    m->api_tls, &m->api_port, err);
    if (rc == 0)
        rc = http_server_listen_tls(m->peer_server, m->cfg.peer_host,
                                    m->cfg.peer_port, m->peer_tls,
                                    &m->peer_port, err);
    if (rc == 0)
        rc = http_server_listen_unix(m->local, m->cfg.unix_path, err);
    return rc;
}

/* init leaves the first administrator in a file, which goes when the catalog has
 * him: with neither of the two this is no new site, but one that lost its catalog. */
static int
check_catalog(const struct manager *m, struct err *err)
{
    if (access(m->cfg.catalog_path, F_OK) == 0 ||
        access(m->cfg.bootstrap_path, F_OK) == 0)
        return 0;
    return err_set(err, -ENOENT, ERR_MGR_0019,
                   "%s is missing: with it this site's accounts, pairings and "
                   "VPGs",
                   m->cfg.catalog_path);
}

static int
load_all(struct manager *m, struct err *err)
{
    int rc = check_catalog(m, err);

    if (rc == 0)
        rc = catalog_open(m->cfg.catalog_path, &m->catalog, err);
    if (rc == 0)
        rc = accounts_open(m->loop, m->catalog, m->cfg.bootstrap_path,
                           &m->accounts, err);
    if (rc == 0)
        rc = sessions_new(m->cfg.session_idle_ms, m->cfg.session_max_ms,
                          &m->sessions, err);
    if (rc == 0)
        rc = workers_new(m->loop, WORKERS, QUEUE_MAX, &m->workers, err);
    if (rc == 0)
        rc = keys_load(m, err);
    if (rc == 0)
        rc = catalog_get(m->catalog, "site", "self", read_site, m, NULL) == -EIO
                 ? -EIO
                 : 0;
    if (rc == 0 && *m->cfg.site_name)
        (void)snprintf(m->site_name, sizeof m->site_name, "%s",
                       m->cfg.site_name);
    if (*m->cfg.advertise_host)
        (void)snprintf(m->advertise, sizeof m->advertise, "%s",
                       m->cfg.advertise_host);
    m->cfg.advertise_host = m->advertise;
    if (rc == 0)
        rc = fleet_load(m, err);
    if (rc == 0)
        rc = peers_load(m, err);
    if (rc == 0)
        rc = vpgs_load(m, err);
    if (rc == 0)
        rc = ops_load(m, err);
    if (rc == 0)
        rc = keys_rebuild(m, err);
    return rc;
}

int
manager_new(const struct manager_config *cfg, struct http_loop *loop,
            struct manager **out_manager, struct err *err)
{
    struct timeval second = { .tv_sec = TICK_S };
    struct manager *m = calloc(1, sizeof *m);
    int rc;

    if (!m)
        return err_set(err, -ENOMEM, ERR_GEN_0002, "manager: out of memory");
    m->cfg = *cfg;
    m->loop = loop;
    m->started_ms = wall_ms();
    list_init(&m->replicators);
    list_init(&m->peers);
    list_init(&m->vpgs);
    list_init(&m->ops);
    list_init(&m->drafts);
    list_init(&m->alerts);
    rc = load_all(m, err);
    if (rc == 0)
        rc = start_listeners(m, err);
    m->tick = event_new(http_loop_base(loop), -1, EV_PERSIST, on_tick, m);
    if (rc == 0 && (!m->tick || event_add(m->tick, &second)))
        rc = err_set(err, -ENOMEM, ERR_GEN_0002, "manager: out of memory");
    if (rc < 0) {
        manager_free(m);
        return rc;
    }
    *out_manager = m;
    return 0;
}

void
manager_free(struct manager *m)
{
    struct list *pos, *tmp;

    if (!m)
        return;
    http_server_free(m->api);
    http_server_free(m->peer_server);
    http_server_free(m->local);
    if (m->tick)
        event_free(m->tick);
    /* In this order: log-ins that come back with the first pool's jobs need the
     * accounts and nothing of that pool. */
    workers_free(m->workers);
    accounts_free(m->accounts);
    list_for_each_safe (pos, tmp, &m->drafts) {
        struct draft *d = list_entry(pos, struct draft, link);

        list_del(&d->link);
        cJSON_Delete(d->tree);
        free(d);
    }
    ops_free(m);
    alerts_free(m);
    vpgs_free(m);
    peers_free(m);
    fleet_free(m);
    keys_free(m);
    sessions_free(m->sessions);
    catalog_close(m->catalog);
    free(m);
}

int
manager_reload(struct manager *m, struct err *err)
{
    int rc;

    sessions_limits(m->sessions, m->cfg.session_idle_ms, m->cfg.session_max_ms);
    rc = keys_reload_own(m, err);
    renew_look(m);
    return rc;
}
