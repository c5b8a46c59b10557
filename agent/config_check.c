/* How the options of a configuration fit together.  Each mistake found here
 * would come up much later, as a volume that is locked, a service that does not
 * start, or a journal that is backed up with the keys. */
#include "agent_config.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/bytes.h"
#include "common/text.h"

enum {
    OPTION_PATH_SIZE = 96
};

/* ---- Paths -------------------------------------------------------------------- */

struct used_path {
    char option[OPTION_PATH_SIZE];
    char *real; /* what the path comes to */
};

struct used_paths {
    struct used_path *v;
    size_t n;
};

/* Without doubled and last slashes and "."; what is not there yet cannot be a
 * link. */
static char *
real_path(const char *path)
{
    char *real = realpath(path, NULL), *out = real;
    size_t n = 0;

    if (real)
        return real;
    out = strdup(path);
    for (const char *p = path; out && *p;) {
        size_t part = strcspn(p, "/");

        if (part && !(part == 1 && *p == '.')) {
            out[n++] = '/';
            memmove(out + n, p, part);
            n += part;
        }
        p += part + (p[part] == '/');
    }
    if (out)
        out[n] = '\0';
    return out;
}

static bool
is_below(const char *path, const char *dir)
{
    size_t n = strlen(dir);

    return strncmp(path, dir, n) == 0 &&
           (path[n] == '/' || path[n] == '\0' || (n && dir[n - 1] == '/'));
}

static int
out_of_memory(const struct config_source *from)
{
    return config_refuse(from, "replicator", ERR_GEN_0002, "out of memory");
}

static int
add_path(struct used_paths *list, const char *option, const char *path,
         const struct config_source *from)
{
    struct used_path *more = reallocarray(list->v, list->n + 1, sizeof *list->v);

    if (!more)
        return out_of_memory(from);
    list->v = more;
    more += list->n;
    (void)snprintf(more->option, sizeof more->option, "%s", option);
    more->real = real_path(path);
    if (!more->real)
        return out_of_memory(from);
    list->n++;
    return 0;
}

static void
release_paths(struct used_paths *list)
{
    for (size_t i = 0; i < list->n; i++)
        free(list->v[i].real);
    free(list->v);
}

static int
compare_paths(const void *a, const void *b)
{
    const struct used_path *x = a, *y = b;
    int by_path = strcmp(x->real, y->real);

    return by_path ? by_path : strcmp(x->option, y->option);
}

/* Also sorts the list. */
static int
check_twice(struct used_paths *list, const char *what,
            const struct config_source *from)
{
    if (list->n)
        qsort(list->v, list->n, sizeof *list->v, compare_paths);
    for (size_t i = 1; i < list->n; i++) {
        const struct used_path *a = &list->v[i - 1], *b = &list->v[i];
        unsigned first = config_line(from, a->option),
                 second = config_line(from, b->option);

        if (strcmp(a->real, b->real) != 0)
            continue;
        if (first > second)
            return config_refuse(from, a->option, ERR_CFG_0007,
                                 "%s is the path of another %s too, on line %u",
                                 a->real, what, second);
        return config_refuse(from, b->option, ERR_CFG_0007,
                             "%s is the path of another %s too, on line %u",
                             b->real, what, first);
    }
    return 0;
}

static int
check_stores(const struct agent_config *cfg, const struct used_paths *stores,
             const struct used_paths *volumes, const struct config_source *from)
{
    char *state = real_path(cfg->state_dir);
    int rc = state ? 0 : out_of_memory(from);

    for (size_t i = 0; i < stores->n && rc == 0; i++) {
        const struct used_path *s = &stores->v[i];

        if (is_below(s->real, state))
            rc = config_refuse(from, s->option, ERR_CFG_0007,
                               "%s lies in the state directory %s, which is "
                               "for keys and the catalog, and is backed up",
                               s->real, state);
        for (size_t k = 0; k < volumes->n && rc == 0; k++) {
            if (is_below(volumes->v[k].real, s->real))
                rc = config_refuse(from, volumes->v[k].option, ERR_CFG_0007,
                                   "%s lies in the store %s (line %u)",
                                   volumes->v[k].real, s->real,
                                   config_line(from, s->option));
        }
    }
    free(state);
    return rc;
}

static int
take_volumes(const struct agent_config *cfg, struct used_paths *out,
             const struct config_source *from)
{
    const struct config_list *vms = &cfg->replicator.vms;
    char option[OPTION_PATH_SIZE];
    int rc = 0;

    for (size_t i = 0; i < vms->n && rc == 0; i++) {
        const struct agent_vm *vm = (const struct agent_vm *)vms->items + i;
        const struct agent_volume *v = vm->volumes.items;

        (void)snprintf(option, sizeof option, "replicator.vms.[%zu].volumes", i);
        if (!vm->volumes.n)
            return config_refuse(from, option, ERR_CFG_0005,
                                 "VM %s has no volume", vm->name);
        for (size_t k = 0; k < vm->volumes.n && rc == 0; k++) {
            (void)snprintf(option, sizeof option,
                           "replicator.vms.[%zu].volumes.[%zu].path", i, k);
            rc = add_path(out, option, v[k].path, from);
        }
    }
    return rc;
}

static int
take_stores(const struct agent_config *cfg, struct used_paths *out,
            const struct config_source *from)
{
    const struct agent_store *s = cfg->replicator.stores.items;
    char option[OPTION_PATH_SIZE];
    int rc = 0;

    for (size_t i = 0; i < cfg->replicator.stores.n && rc == 0; i++) {
        (void)snprintf(option, sizeof option, "replicator.stores.[%zu].path", i);
        rc = add_path(out, option, s[i].path, from);
    }
    return rc;
}

static int
check_paths(const struct agent_config *cfg, const struct config_source *from)
{
    struct used_paths volumes = { .n = 0 }, stores = { .n = 0 };
    int rc = take_volumes(cfg, &volumes, from);

    if (rc == 0)
        rc = take_stores(cfg, &stores, from);
    if (rc == 0)
        rc = check_twice(&volumes, "volume", from);
    if (rc == 0)
        rc = check_twice(&stores, "store", from);
    if (rc == 0)
        rc = check_stores(cfg, &stores, &volumes, from);
    release_paths(&volumes);
    release_paths(&stores);
    return rc;
}

static int
check_log(const struct agent_config *cfg, const struct config_source *from)
{
    char dir[FILE_PATH_SIZE];
    const char *slash = strrchr(cfg->log.file, '/');
    struct stat st;

    if (!slash || slash == cfg->log.file)
        return 0;
    (void)snprintf(dir, sizeof dir, "%.*s", (int)(slash - cfg->log.file),
                   cfg->log.file);
    if (stat(dir, &st) < 0)
        return config_refuse(from, "log.file", ERR_CFG_0008, "%s: %s", dir,
                             err_errno(errno));
    if (!S_ISDIR(st.st_mode))
        return config_refuse(from, "log.file", ERR_CFG_0008,
                             "%s is no directory", dir);
    return 0;
}

/* ---- Listeners ------------------------------------------------------------------ */

static bool
any_host(const char *host)
{
    return !host[0] || strcmp(host, "0.0.0.0") == 0 ||
           strcmp(host, "::") == 0 || strcmp(host, "*") == 0;
}

/* Port 0 is whichever is free. */
static bool
clash(const char *a, const char *b)
{
    char host[2][TEXT_HOST_SIZE];
    uint16_t port[2];

    if (text_parse_hostport(a, host[0], &port[0]) < 0 ||
        text_parse_hostport(b, host[1], &port[1]) < 0)
        return false;
    return port[0] && port[0] == port[1] &&
           (any_host(host[0]) || any_host(host[1]) ||
            text_icmp(host[0], host[1]) == 0);
}

static int
check_listeners(const struct agent_config *cfg, const struct config_source *from)
{
    bool manager = agent_config_has_role(cfg, "manager"),
         replicator = agent_config_has_role(cfg, "replicator");
    const struct {
        bool used;
        const char *option, *address;
    } l[] = {
        { manager, "manager.api_listen", cfg->manager.api_listen },
        { manager, "manager.peer_listen", cfg->manager.peer_listen },
        { replicator, "replicator.control_listen",
          cfg->replicator.control_listen },
        { replicator, "replicator.data_listen", cfg->replicator.data_listen },
        { replicator && cfg->replicator.nbd_tcp.enabled,
          "replicator.nbd_tcp.listen", cfg->replicator.nbd_tcp.listen },
    };

    for (size_t i = 0; i < ARRAY_SIZE(l); i++) {
        for (size_t k = 0; k < i; k++) {
            size_t at = config_line(from, l[i].option) ? i : k;

            if (l[i].used && l[k].used && clash(l[i].address, l[k].address))
                return config_refuse(from, l[at].option, ERR_CFG_0007,
                                     "%s and %s (%s) cannot listen on one port",
                                     l[at].address, l[i + k - at].option,
                                     l[i + k - at].address);
        }
    }
    return 0;
}

int
agent_config_check(const void *values, const struct config_source *from)
{
    const struct agent_config *cfg = values;
    int rc = 0;

    if (cfg->format > AGENT_CONFIG_FORMAT)
        return 0; /* refused as a whole, by its reader */
    if (cfg->roles.n == 0)
        rc = config_refuse(from, "roles", ERR_CFG_0004,
                           "at least one is needed");
    else if (!cfg->state_dir[0])
        rc = config_refuse(from, "state_dir", ERR_CFG_0003, "empty");
    if (rc == 0)
        rc = check_log(cfg, from);
    if (rc == 0)
        rc = check_listeners(cfg, from);
    if (rc == 0)
        rc = check_paths(cfg, from);
    return rc;
}
