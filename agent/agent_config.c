/* The agent's options: one table, from which the reader, --check-config, the
 * sample file and the reload check are all driven. */
#include "agent_config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/evp.h>

#include "common/bytes.h"
#include "common/text.h"
#include "role.h"

#define AT(field)  offsetof(struct agent_config, field)
#define SUB(table) .sub = (table), .n_sub = ARRAY_SIZE(table)

enum {
    NAME_BYTES = 63
};

static const char *const role_words[] = { "manager", "replicator", NULL };
static const char *const level_words[] = { "error", "warn", "info", "debug",
                                           NULL };
static const char *const io_words[] = { "auto", "io_uring", "epoll", NULL };
static const char *const compression_words[] = { "auto", "off", "lz4", "zstd",
                                                 NULL };
static const char *const cache_words[] = { "writeback", "none", NULL };

/* clang-format off */
static const struct config_option log_options[] = {
    { .name = "file", .type = CONFIG_PATH, .offset = AT(log.file) - AT(log),
      .help = "File to append to; empty: standard error, which the service manager keeps." },
    { .name = "level", .type = CONFIG_ENUM, .offset = AT(log.level) - AT(log),
      .def = "info", .choices = level_words, .flags = CONFIG_RELOADABLE,
      .help = "What to write down." },
};

static const struct config_option site_options[] = {
    { .name = "name", .type = CONFIG_NAME, .offset = AT(site.name) - AT(site),
      .max = NAME_BYTES,
      .help = "Name of this site; empty: the one given to holdfastd init." },
    { .name = "location", .type = CONFIG_STRING,
      .offset = AT(site.location) - AT(site), .max = 255,
      .flags = CONFIG_RELOADABLE,
      .help = "Where it is, for people." },
};

static const struct config_option manager_options[] = {
    { .name = "api_listen", .type = CONFIG_ADDRESS,
      .offset = AT(manager.api_listen) - AT(manager), .def = "127.0.0.1:9669",
      .help = "REST API and joining hosts (HTTPS)." },
    { .name = "peer_listen", .type = CONFIG_ADDRESS,
      .offset = AT(manager.peer_listen) - AT(manager), .def = ":9081",
      .help = "Managers of paired sites (HTTPS with certificates on both sides)." },
    { .name = "advertise", .type = CONFIG_STRING,
      .offset = AT(manager.advertise) - AT(manager), .max = 253,
      .help = "Host name or address that paired sites dial; empty: the first host given\n"
              "to holdfastd init --api." },
    { .name = "session_idle", .type = CONFIG_DURATION,
      .offset = AT(manager.session_idle_ms) - AT(manager), .def = "30min",
      .min = 60000, .max = 43200000, .flags = CONFIG_RELOADABLE,
      .help = "A session without a call ends after this time." },
    { .name = "session_max", .type = CONFIG_DURATION,
      .offset = AT(manager.session_max_ms) - AT(manager), .def = "12h",
      .min = 60000, .max = 604800000, .flags = CONFIG_RELOADABLE,
      .help = "And at the latest after this one." },
};

static const struct config_option nbd_tcp_options[] = {
    { .name = "enabled", .type = CONFIG_BOOL,
      .offset = AT(replicator.nbd_tcp.enabled) - AT(replicator.nbd_tcp),
      .def = "false",
      .help = "Serve the volumes over TCP too, with TLS and certificates only." },
    { .name = "listen", .type = CONFIG_ADDRESS,
      .offset = AT(replicator.nbd_tcp.listen) - AT(replicator.nbd_tcp),
      .def = "127.0.0.1:10809",
      .help = "Address of that service." },
};

static const struct config_option volume_options[] = {
    { .name = "name", .type = CONFIG_NAME,
      .offset = offsetof(struct agent_volume, name), .max = NAME_BYTES,
      .flags = CONFIG_REQUIRED | CONFIG_UNIQUE,
      .help = "Name of the volume, unique in its VM." },
    { .name = "path", .type = CONFIG_PATH,
      .offset = offsetof(struct agent_volume, path), .flags = CONFIG_REQUIRED,
      .help = "Raw file or block device." },
    { .name = "cache", .type = CONFIG_ENUM,
      .offset = offsetof(struct agent_volume, cache), .def = "writeback",
      .choices = cache_words,
      .help = "Through the page cache, or past it (O_DIRECT)." },
    { .name = "readonly", .type = CONFIG_BOOL,
      .offset = offsetof(struct agent_volume, read_only), .def = "false",
      .help = "Refuse writes." },
};

static const struct config_option vm_options[] = {
    { .name = "name", .type = CONFIG_NAME,
      .offset = offsetof(struct agent_vm, name), .max = NAME_BYTES,
      .flags = CONFIG_REQUIRED | CONFIG_UNIQUE,
      .help = "Name of the machine." },
    { .name = "volumes", .type = CONFIG_LIST,
      .offset = offsetof(struct agent_vm, volumes), SUB(volume_options),
      .item_size = sizeof(struct agent_volume), .flags = CONFIG_REQUIRED,
      .help = "Its volumes." },
};

static const struct config_option store_options[] = {
    { .name = "name", .type = CONFIG_NAME,
      .offset = offsetof(struct agent_store, name), .max = NAME_BYTES,
      .flags = CONFIG_REQUIRED | CONFIG_UNIQUE,
      .help = "Name of the store." },
    { .name = "path", .type = CONFIG_PATH,
      .offset = offsetof(struct agent_store, path), .flags = CONFIG_REQUIRED,
      .help = "Directory." },
};

static const struct config_option replicator_options[] = {
    { .name = "name", .type = CONFIG_NAME,
      .offset = AT(replicator.name) - AT(replicator), .max = NAME_BYTES,
      .help = "Name of this replicator; empty: the one it joined under." },
    { .name = "control_listen", .type = CONFIG_ADDRESS,
      .offset = AT(replicator.control_listen) - AT(replicator), .def = ":4006",
      .help = "Orders of the site's manager (HTTPS with certificates on both sides)." },
    { .name = "data_listen", .type = CONFIG_ADDRESS,
      .offset = AT(replicator.data_listen) - AT(replicator), .def = ":4008",
      .help = "Streams of other replicators (TLS with certificates on both sides)." },
    { .name = "advertise", .type = CONFIG_STRING,
      .offset = AT(replicator.advertise) - AT(replicator), .max = 253,
      .help = "Host name or address that others dial; empty: the one this host uses\n"
              "towards its manager." },
    { .name = "advertise_data", .type = CONFIG_ADDRESS,
      .offset = AT(replicator.advertise_data) - AT(replicator),
      .help = "HOST:PORT that other replicators dial, where address translation\n"
              "stands between; empty: the host above with the port of data_listen." },
    { .name = "manager", .type = CONFIG_ADDRESS,
      .offset = AT(replicator.manager) - AT(replicator),
      .help = "Address of the manager's API; empty: the one it joined at." },
    { .name = "ring_size", .type = CONFIG_SIZE,
      .offset = AT(replicator.ring_size) - AT(replicator), .def = "256MiB",
      .min = 16 * MIB, .max = 64 * GIB,
      .help = "Memory for writes that wait for the link, shared by all groups." },
    { .name = "io", .type = CONFIG_ENUM,
      .offset = AT(replicator.io) - AT(replicator), .def = "auto",
      .choices = io_words,
      .help = "How disks and sockets are driven; auto takes io_uring where the kernel\n"
              "allows it." },
    { .name = "workers", .type = CONFIG_INT,
      .offset = AT(replicator.workers) - AT(replicator), .def = "2",
      .min = 1, .max = 64,
      .help = "Threads for what blocks or computes: fsync, hashing, compression." },
    { .name = "run_dir", .type = CONFIG_PATH,
      .offset = AT(replicator.run_dir) - AT(replicator),
      .help = "Directory of the volumes' NBD sockets; empty: nbd in the state\n"
              "directory. Socket names are limited to 107 bytes in all." },
    { .name = "link_compression", .type = CONFIG_ENUM,
      .offset = AT(replicator.link_compression) - AT(replicator), .def = "auto",
      .choices = compression_words,
      .help = "Compression towards the other site; auto compresses when the link, not\n"
              "the processor, is the bottleneck." },
    { .name = "nbd_tcp", .type = CONFIG_GROUP,
      .offset = AT(replicator.nbd_tcp) - AT(replicator), SUB(nbd_tcp_options),
      .help = "NBD over TCP." },
    { .name = "vms", .type = CONFIG_LIST,
      .offset = AT(replicator.vms) - AT(replicator), SUB(vm_options),
      .item_size = sizeof(struct agent_vm),
      .help = "Machines whose volumes can be protected:\n"
              "( { name = \"db\"; volumes = ( { name = \"data\"; path = \"/dev/vg/db\"; } ); } )\n"
              "A volume may also say cache = \"none\" (past the page cache) and\n"
              "readonly = true." },
    { .name = "stores", .type = CONFIG_LIST,
      .offset = AT(replicator.stores) - AT(replicator), SUB(store_options),
      .item_size = sizeof(struct agent_store),
      .help = "Directories for journals, replicas and scratch:\n"
              "( { name = \"main\"; path = \"/srv/holdfast\"; } )" },
};

static const struct config_option options[] = {
    { .name = "format", .type = CONFIG_INT, .offset = AT(format),
      .def = "1", .min = 1, .max = 1000000,
      .help = "Version of this file's form; a release refuses a newer one." },
    { .name = "state_dir", .type = CONFIG_PATH, .offset = AT(state_dir),
      .def = "/var/lib/holdfast",
      .help = "Directory made by holdfastd init or join." },
    { .name = "roles", .type = CONFIG_STRINGS, .offset = AT(roles),
      .def = "manager,replicator", .choices = role_words,
      .help = "Roles to run on this host: manager, replicator." },
    { .name = "stop_timeout", .type = CONFIG_DURATION,
      .offset = AT(stop_timeout_ms), .def = "20s", .min = 100, .max = 600000,
      .flags = CONFIG_RELOADABLE,
      .help = "A role that has not stopped after this time is killed." },
    { .name = "log", .type = CONFIG_GROUP, .offset = AT(log),
      SUB(log_options), .help = "The log." },
    { .name = "site", .type = CONFIG_GROUP, .offset = AT(site),
      SUB(site_options), .help = "This site." },
    { .name = "manager", .type = CONFIG_GROUP, .offset = AT(manager),
      SUB(manager_options), .help = "The role manager: the site's control service." },
    { .name = "replicator", .type = CONFIG_GROUP, .offset = AT(replicator),
      SUB(replicator_options), .help = "The role replicator: the host's data service." },
};
/* clang-format on */

static const struct config_table table = {
    .options = options,
    .n = ARRAY_SIZE(options),
    .size = sizeof(struct agent_config),
    .check = agent_config_check,
};

static int
finish(const char *path, struct agent_config *cfg, struct err *err)
{
    if (cfg->format > AGENT_CONFIG_FORMAT) {
        (void)err_set(err, -EPROTONOSUPPORT, ERR_AGT_0002,
                      "%s: format %llu is of a newer release, this one reads %d",
                      path, (unsigned long long)cfg->format,
                      AGENT_CONFIG_FORMAT);
        agent_config_release(cfg);
        return -EPROTONOSUPPORT;
    }
    int rc = 0;

    cfg->path = realpath(path, NULL);
    if (!cfg->path)
        cfg->path = strdup(path);
    if (!cfg->path)
        rc = err_set(err, -ENOMEM, ERR_GEN_0002, "configuration: out of memory");
    if (rc < 0)
        agent_config_release(cfg);
    return rc;
}

int
agent_config_load(const char *path, struct agent_config *out_cfg,
                  struct err *err)
{
    struct agent_config cfg;
    int rc = config_load(path, &table, &cfg, err);

    if (rc == 0)
        rc = finish(path, &cfg, err);
    if (rc == 0)
        *out_cfg = cfg;
    return rc;
}

int
agent_config_parse(const char *text, const char *path,
                   struct agent_config *out_cfg, struct err *err)
{
    struct agent_config cfg;
    int rc = config_parse(text, path, &table, &cfg, err);

    if (rc == 0)
        rc = finish(path, &cfg, err);
    if (rc == 0)
        *out_cfg = cfg;
    return rc;
}

void
agent_config_release(struct agent_config *cfg)
{
    config_release(&table, cfg);
    free(cfg->path);
    cfg->path = NULL;
}

int
agent_config_print(const struct agent_config *cfg, struct buf *out)
{
    return config_print(&table, cfg, out);
}

int
agent_config_sample(struct buf *out)
{
    (void)buf_addf(
        out,
        "# Configuration of holdfastd, see holdfastd(8).  Every option stands here with\n"
        "# its default; take the # away to change one.  Form: libconfig (name = value;).\n"
        "# Sizes: \"64KiB\", \"256MiB\", \"4GiB\".  Times: \"250ms\", \"5s\", \"15min\", \"1h\".\n"
        "# holdfastd --check-config prints the values in effect.\n\n");
    return config_sample(&table, out);
}

int
agent_config_changed(const struct agent_config *before,
                     const struct agent_config *after, struct buf *out_names)
{
    return config_changed(&table, before, after, out_names);
}

bool
agent_config_has_role(const struct agent_config *cfg, const char *role)
{
    for (size_t i = 0; i < cfg->roles.n; i++) {
        if (strcmp(cfg->roles.v[i], role) == 0)
            return true;
    }
    return false;
}

int
agent_state_path(const struct agent_config *cfg, const char *name,
                 char out[FILE_PATH_SIZE], struct err *err)
{
    return path_join(out, cfg->state_dir, name, err);
}

/* ---- Derived identifiers ------------------------------------------------- */

static void
derive(const char *kind, const struct uuid *site, const struct uuid *replicator,
       const char *a, const char *b, struct uuid *out)
{
    const struct {
        const void *p;
        size_t n;
    } parts[] = {
        { kind, strlen(kind) },
        { site->b, sizeof site->b },
        { replicator->b, sizeof replicator->b },
        { a, strlen(a) },
        { b, strlen(b) },
    };
    uint8_t digest[EVP_MAX_MD_SIZE], length[8];
    struct buf text;

    buf_init(&text, 65536);
    for (size_t i = 0; i < ARRAY_SIZE(parts); i++) {
        put_le64(length, parts[i].n);
        (void)buf_add(&text, length, sizeof length);
        (void)buf_add(&text, parts[i].p, parts[i].n);
    }
    /* SHA-256 of a short text fails only without memory; a process that can
     * not name its volumes must not go on. */
    if (text.failed ||
        EVP_Digest(text.data, text.len, digest, NULL, EVP_sha256(), NULL) != 1)
        abort();
    buf_release(&text);
    *out = uuid_from_random(digest);
    out->b[6] = (uint8_t)((out->b[6] & 0x0f) | 0x80); /* version 8 */
}

void
agent_vm_id(const struct uuid *site, const struct uuid *replicator,
            const char *vm, struct uuid *out)
{
    derive("vm", site, replicator, vm, "", out);
}

void
agent_volume_id(const struct uuid *site, const struct uuid *replicator,
                const char *vm, const char *volume, struct uuid *out)
{
    derive("volume", site, replicator, vm, volume, out);
}

void
agent_store_id(const struct uuid *site, const struct uuid *replicator,
               const char *store, struct uuid *out)
{
    derive("store", site, replicator, store, "", out);
}
