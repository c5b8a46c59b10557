/* The roles' entry points.
 *
 * A role is a child process of the supervisor.  It is entered with the sandbox
 * on (agent/sandbox.h), the log open, its own lock taken, SIGPIPE ignored, and
 * SIGTERM, SIGINT, SIGHUP and SIGCHLD blocked in the only thread, so that it
 * can read them from a signalfd:
 *
 *   SIGTERM  stop in order and return 0; after stop_timeout it is killed
 *   SIGHUP   log_reopen(), read cfg->path again with agent_config_load(), apply
 *            the options marked reloadable (the supervisor has checked it)
 *
 * It is killed when the supervisor dies.  The supervisor starts a role only
 * when its identity is there: <state_dir>/<role>/chain.pem with key.pem and
 * root.pem, made by init (manager) or join (replicator).
 *
 * Returns the exit status: 0 stopped as asked, 1 failed, 2 wrong configuration,
 * 3 temporarily not possible.  Anything but an asked-for stop is followed by a
 * restart with back-off.
 */
#ifndef HOLDFAST_AGENT_ROLE_H
#define HOLDFAST_AGENT_ROLE_H

#include "agent_config.h"

int manager_role_main(const struct agent_config *cfg);
int replicator_role_main(const struct agent_config *cfg);

/* Files of a role's identity, below <state_dir>/<role>/. */
#define ROLE_KEY_FILE   "key.pem"   /* 0600 */
#define ROLE_CHAIN_FILE "chain.pem" /* leaf, site CA, root */
#define ROLE_ROOT_FILE  "root.pem"  /* the deployment's own root */
/* Of a replicator: Name, Identifier, Site, Deployment, Manager (host:port). */
#define ROLE_JOINED_FILE "joined.json"

/* Of the manager alone. */
#define MANAGER_CA_FILE        "ca.pem"
#define MANAGER_CA_KEY_FILE    "ca.key.pem"   /* 0600 */
#define MANAGER_ROOT_KEY_FILE  "root.key.pem" /* 0600; may be kept offline */
#define MANAGER_BOOTSTRAP_FILE "bootstrap.json"
#define MANAGER_SOCKET_FILE    "manager.sock" /* HTTP for holdfastd token */

#endif
