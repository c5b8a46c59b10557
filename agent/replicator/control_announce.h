/* Telling the site's manager where this replicator listens. */
#ifndef HOLDFAST_REPLICATOR_CONTROL_ANNOUNCE_H
#define HOLDFAST_REPLICATOR_CONTROL_ANNOUNCE_H

#include "replicator/replicator.h"

struct announce;

/* manager: host:port of its API. */
int announce_start(const struct replicator *rep, const char *manager,
                   struct announce **out, struct err *err);
/* The local address that packets to host:port would leave from. */
int announce_local_host(const char *manager, char *out, size_t size);
void announce_stop(struct announce *a); /* waits for a call under way */

#endif
