/* The catalog: what a manager must know after a restart, in SQLite (WAL,
 * synchronous FULL), so that what was put is durable before the call returns.
 * Objects are JSON texts under a kind and an identifier; the few kinds are
 * listed in docs/formats/catalog.md.  Events and pair and join tokens have
 * what they need beside.  Loop's thread only; a put takes a few milliseconds
 * of it, which the rate of changes allows. */
#ifndef HOLDFAST_MANAGER_CATALOG_H
#define HOLDFAST_MANAGER_CATALOG_H

#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

enum {
    CATALOG_VERSION = 1
};

struct catalog;

/* Makes the file when it is not there.  -EPROTONOSUPPORT for one of a newer
 * version, which is left untouched; -EIO and others. */
int
catalog_open(const char *path, struct catalog **out_catalog, struct err *err);
void catalog_close(struct catalog *c);

/* Several puts that are durable together, or none. */
int catalog_begin(struct catalog *c, struct err *err);
int catalog_commit(struct catalog *c, struct err *err);
void catalog_rollback(struct catalog *c);

int catalog_put(struct catalog *c, const char *kind, const char *id,
                const char *json, struct err *err);
/* -ENOENT when there was none. */
int catalog_delete(struct catalog *c, const char *kind, const char *id,
                   struct err *err);
/* One object, in the order of identifiers; the texts are borrowed for the
 * call.  A negative return ends the walk with it. */
typedef int catalog_each_fn(void *arg, const char *id, const char *json);
int catalog_each(struct catalog *c, const char *kind, catalog_each_fn *fn,
                 void *arg, struct err *err);
/* As catalog_each() for one; -ENOENT. */
int catalog_get(struct catalog *c, const char *kind, const char *id,
                catalog_each_fn *fn, void *arg, struct err *err);

/* Events: appended, the oldest dropped beyond keep; newest first. */
int catalog_event_add(struct catalog *c, uint64_t at_ms, const char *id,
                      const char *json, unsigned keep, struct err *err);
int
catalog_events(struct catalog *c, uint64_t from_ms, uint64_t to_ms,
               unsigned max, catalog_each_fn *fn, void *arg, struct err *err);

#endif
