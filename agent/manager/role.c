/* The manager's process: from the agent's configuration to a running loop,
 * SIGTERM ends it in order, SIGHUP reads configuration, certificate and log file again. */
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <event2/event.h>

#include "agent_config.h"
#include "common/bytes.h"
#include "common/log.h"
#include "common/text.h"
#include "manager/manager.h"
#include "role.h"

struct running {
    const struct agent_config *cfg;
    struct agent_config *fresh; /* read again by SIGHUP; NULL: not yet */
    struct http_loop *loop;
    struct manager *m;
};

/* The texts a manager_config points to. */
struct places {
    char catalog[FILE_PATH_SIZE], bootstrap[FILE_PATH_SIZE],
        sock[FILE_PATH_SIZE];
    char key[FILE_PATH_SIZE], chain[FILE_PATH_SIZE], root[FILE_PATH_SIZE];
    char ca[FILE_PATH_SIZE], ca_key[FILE_PATH_SIZE], root_key[FILE_PATH_SIZE];
    char api_host[TEXT_HOST_SIZE], peer_host[TEXT_HOST_SIZE];
};

static int
find_places(const struct agent_config *cfg, struct places *p, struct err *err)
{
    const struct {
        const char *name;
        char *out;
    } table[] = {
        { "manager/catalog.db", p->catalog },
        { "manager/" MANAGER_BOOTSTRAP_FILE, p->bootstrap },
        { "manager/" MANAGER_SOCKET_FILE, p->sock },
        { "manager/" ROLE_KEY_FILE, p->key },
        { "manager/" ROLE_CHAIN_FILE, p->chain },
        { "manager/" ROLE_ROOT_FILE, p->root },
        { "manager/" MANAGER_CA_FILE, p->ca },
        { "manager/" MANAGER_CA_KEY_FILE, p->ca_key },
        { "manager/" MANAGER_ROOT_KEY_FILE, p->root_key },
    };

    for (size_t i = 0; i < ARRAY_SIZE(table); i++)
        if (agent_state_path(cfg, table[i].name, table[i].out, err) < 0)
            return -EINVAL;
    return 0;
}

static int
make_config(const struct agent_config *cfg, struct places *p,
            struct manager_config *out, struct err *err)
{
    int rc = find_places(cfg, p, err);

    if (rc < 0)
        return rc;
    *out = (struct manager_config){
        .catalog_path = p->catalog,
        .bootstrap_path = p->bootstrap,
        .unix_path = p->sock,
        .key_path = p->key,
        .chain_path = p->chain,
        .root_path = p->root,
        .ca_key_path = p->ca_key,
        .ca_path = p->ca,
        .root_key_path = p->root_key,
        .site_name = cfg->site.name,
        .location = cfg->site.location,
        .api_host = p->api_host,
        .peer_host = p->peer_host,
        .advertise_host = cfg->manager.advertise,
        .session_idle_ms = cfg->manager.session_idle_ms,
        .session_max_ms = cfg->manager.session_max_ms,
    };
    if (text_parse_hostport(cfg->manager.api_listen, p->api_host,
                            &out->api_port) < 0 ||
        text_parse_hostport(cfg->manager.peer_listen, p->peer_host,
                            &out->peer_port) < 0)
        return err_set(err, -EINVAL, ERR_API_0017,
                       "manager.api_listen or peer_listen is no host:port");
    return 0;
}

/* The options that a reload applies, the certificate, the log file.  On failure
 * all stays as it was. */
static int
reload(struct running *r, struct err *err)
{
    struct agent_config *fresh = calloc(1, sizeof *fresh);
    int rc = fresh
                 ? agent_config_load(r->cfg->path, fresh, err)
                 : err_set(err, -ENOMEM, ERR_GEN_0002, "reload: out of memory");

    log_reopen();
    if (rc < 0) {
        free(fresh);
        return rc;
    }
    log_set_level((enum log_level)fresh->log.level);
    r->m->cfg.location = fresh->site.location;
    r->m->cfg.session_idle_ms = fresh->manager.session_idle_ms;
    r->m->cfg.session_max_ms = fresh->manager.session_max_ms;
    if (r->fresh)
        agent_config_release(r->fresh);
    free(r->fresh);
    r->fresh = fresh;
    return manager_reload(r->m, err);
}

static void
on_signal(evutil_socket_t fd, short what, void *arg)
{
    struct running *r = arg;
    struct signalfd_siginfo si;
    struct err err = ERR_INIT;

    UNUSED(what);
    while (read(fd, &si, sizeof si) == sizeof si) {
        if (si.ssi_signo == SIGHUP) {
            if (reload(r, &err) < 0)
                log_err(LOG_ERROR, "manager", "", "reload", &err);
            else
                log_line(LOG_INFO, "manager", "",
                         "configuration, certificate and log file were read again");
        } else if (si.ssi_signo == SIGTERM || si.ssi_signo == SIGINT) {
            log_line(LOG_INFO, "manager", "", "stopping");
            http_loop_stop(r->loop);
        }
    }
}

static int
run(struct running *r, struct err *err)
{
    struct event *ev;
    sigset_t set;
    int fd, rc;

    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    ev = fd < 0 ? NULL
                : event_new(http_loop_base(r->loop), fd, EV_READ | EV_PERSIST,
                            on_signal, r);
    if (!ev || event_add(ev, NULL)) {
        rc = err_set(err, -ENOMEM, ERR_GEN_0002,
                     "signals: out of memory or descriptors");
    } else {
        log_line(LOG_INFO, "manager", "",
                 "site %s: API on port %u, other managers on port %u",
                 r->m->site_name, r->m->api_port, r->m->peer_port);
        rc = http_loop_run(r->loop, err);
    }
    if (ev)
        event_free(ev);
    if (fd >= 0)
        (void)close(fd);
    return rc;
}

int
manager_role_main(const struct agent_config *cfg)
{
    struct running r = { .cfg = cfg };
    struct places *p = calloc(1, sizeof *p);
    struct manager_config mc;
    struct err err = ERR_INIT;
    int rc = p ? make_config(cfg, p, &mc, &err)
               : err_set(&err, -ENOMEM, ERR_GEN_0002, "manager: out of memory");

    if (rc == 0)
        rc = http_loop_new(&r.loop, &err);
    if (rc == 0)
        rc = manager_new(&mc, r.loop, &r.m, &err);
    if (rc == 0)
        rc = run(&r, &err);
    if (rc < 0)
        log_err(LOG_ERROR, "manager", "", "start", &err);
    manager_free(r.m);
    http_loop_free(r.loop);
    if (r.fresh)
        agent_config_release(r.fresh);
    free(r.fresh);
    free(p);
    if (rc == 0)
        return 0;
    return rc == -EADDRINUSE || rc == -ENOMEM        ? 3
           : rc == -EINVAL || rc == -EPROTONOSUPPORT ? 2
                                                     : 1;
}
