/* What every process of the agent gives up at its start.  Best effort: a
 * kernel that knows less leaves more, and the log says so. */
#ifndef HOLDFAST_AGENT_SANDBOX_H
#define HOLDFAST_AGENT_SANDBOX_H

#include <sys/types.h>

/* No new privileges, no core dumps, files for the owner only, SIGPIPE ignored,
 * as many descriptors as the hard limit allows. */
void sandbox_apply(void);

/* For a role: die with the supervisor.  name shows in ps.  -ESRCH when the
 * supervisor is gone already. */
int sandbox_follow(pid_t supervisor, const char *name);

#endif
