/* The replicator's control API (docs/formats/control-api.md): an HTTPS server
 * on a thread of its own, for this site's manager only. */
#ifndef HOLDFAST_REPLICATOR_CONTROL_H
#define HOLDFAST_REPLICATOR_CONTROL_H

#include "replicator/replicator.h"

struct control;

/* Serves from the return on.  host "" means all addresses. */
int control_start(struct replicator *rep, const char *host, uint16_t port,
                  struct control **out, uint16_t *out_port, struct err *err);
/* No call reaches the data loop after the return; those that have are answered
 * into nothing.  Blocks for as long as an answer takes to be written. */
void control_stop(struct control *ct);
/* Frees it; every call has been answered. */
void control_free(struct control *ct);

#endif
