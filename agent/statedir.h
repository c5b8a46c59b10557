/* The state directory: where an agent keeps what must survive.
 *
 *   VERSION      "holdfast-state 1"; a newer number is refused untouched
 *   lock         held by the running supervisor, with its process number
 *   run/         process numbers: supervisor.pid, manager.pid, replicator.pid
 *   manager/     made by init: keys, certificates, catalog, manager.sock
 *   replicator/  made by join: key, certificate, and what the role keeps
 */
#ifndef HOLDFAST_AGENT_STATEDIR_H
#define HOLDFAST_AGENT_STATEDIR_H

#include "common/err.h"
#include "common/files.h"

enum {
    STATEDIR_VERSION = 1
};

/* Is there a state directory of this release?  0; -ENOENT nothing at path or
 * an empty directory; AGT-0003 something else; AGT-0002 a newer release's. */
int statedir_check(const char *path, struct err *err);

/* Lock it for the life of this process; -EBUSY names the holder. */
int statedir_lock(const char *path, struct lockfile *lock, struct err *err);

/* Make one complete or not at all: statedir_begin() makes a directory beside
 * path and gives its name in out_draft (VERSION and run/ are in it), the caller
 * fills it, statedir_commit() puts it in place.  path must not exist or be an
 * empty directory, else AGT-0001 (or AGT-0002, GEN-0005: in use). */
int statedir_begin(const char *path, char out_draft[FILE_PATH_SIZE],
                   struct err *err);
int statedir_commit(const char *draft, const char *path, struct err *err);
/* Remove a draft with all that is in it. */
void statedir_discard(const char *draft);

#endif
