/* The agent's configuration file: the contract between the top of holdfastd
 * and its roles.  conf/holdfastd.conf shows every option with its default, and
 * agent_config.c holds the table that both come from. */
#ifndef HOLDFAST_AGENT_CONFIG_H
#define HOLDFAST_AGENT_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/config.h"
#include "common/err.h"
#include "common/files.h"
#include "common/id.h"

enum agent_io {
    AGENT_IO_AUTO,
    AGENT_IO_URING,
    AGENT_IO_EPOLL
};
enum agent_compression {
    AGENT_COMPRESS_AUTO,
    AGENT_COMPRESS_OFF,
    AGENT_COMPRESS_LZ4,
    AGENT_COMPRESS_ZSTD
};
enum agent_cache {
    AGENT_CACHE_WRITEBACK,
    AGENT_CACHE_NONE
};

struct agent_volume {
    char *name, *path;
    int cache; /* enum agent_cache; NONE: O_DIRECT */
    bool read_only;
};

struct agent_vm {
    char *name;
    struct config_list volumes; /* of struct agent_volume */
};

struct agent_store {
    char *name, *path;
};

enum {
    AGENT_CONFIG_FORMAT = 1
};

struct agent_config {
    uint64_t format;
    char *path; /* of the file, absolute; for reading it again on SIGHUP */

    char *state_dir;
    struct config_strings roles; /* "manager", "replicator" */
    uint64_t stop_timeout_ms;

    struct {
        char *file; /* empty: standard error */
        int level;  /* enum log_level */
    } log;

    struct {
        char *name, *location;
    } site;

    struct {
        char *api_listen, *peer_listen;
        char *advertise; /* host; empty: the host part of --api at init */
        uint64_t session_idle_ms, session_max_ms;
    } manager;

    struct {
        char *name; /* empty: the name it joined under */
        char *control_listen, *data_listen;
        char *advertise; /* host that other replicators and managers dial */
        char *advertise_data; /* host:port instead, behind translation */
        char *manager; /* host:port of its manager's API; empty: as joined */
        uint64_t ring_size;
        int io; /* enum agent_io */
        uint64_t workers;
        char *run_dir;        /* NBD sockets; empty: <state_dir>/nbd */
        int link_compression; /* enum agent_compression */
        struct {
            bool enabled;
            char *listen;
        } nbd_tcp;
        struct config_list vms;    /* of struct agent_vm */
        struct config_list stores; /* of struct agent_store */
    } replicator;
};

/* 0, or -EINVAL, -ENOENT, ... with file and line. */
int agent_config_load(const char *path, struct agent_config *out_cfg,
                      struct err *err);
/* From text; path is used in messages and kept. */
int agent_config_parse(const char *text, const char *path,
                       struct agent_config *out_cfg, struct err *err);
/* How the options fit together: of the table, for config_load(). */
int agent_config_check(const void *values, const struct config_source *from);
void agent_config_release(struct agent_config *cfg);
int agent_config_print(const struct agent_config *cfg, struct buf *out);
int agent_config_sample(struct buf *out);
/* Names of changed options that a reload does not apply. */
int
agent_config_changed(const struct agent_config *before,
                     const struct agent_config *after, struct buf *out_names);

bool agent_config_has_role(const struct agent_config *cfg, const char *role);

/* <state_dir>/<name>, e.g. "manager/catalog.db". */
int agent_state_path(const struct agent_config *cfg, const char *name,
                     char out[FILE_PATH_SIZE], struct err *err);

/* Identifiers of what a replicator's configuration names.  They are derived
 * (RFC 9562 version 8: the first 128 bits of SHA-256 over the length and bytes
 * of each part), so that they survive a lost state directory and need no
 * bookkeeping: the same names on the same replicator are the same things. */
void agent_vm_id(const struct uuid *site, const struct uuid *replicator,
                 const char *vm, struct uuid *out);
void agent_volume_id(const struct uuid *site, const struct uuid *replicator,
                     const char *vm, const char *volume, struct uuid *out);
void agent_store_id(const struct uuid *site, const struct uuid *replicator,
                    const char *store, struct uuid *out);

#endif
