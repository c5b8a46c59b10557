/* The replicator's certificate is renewed by its site's manager while it runs
 * (security.md 6.2, step 5). */
#ifndef HOLDFAST_REPLICATOR_CONTROL_RENEW_H
#define HOLDFAST_REPLICATOR_CONTROL_RENEW_H

#include "replicator/replicator.h"

struct renew;

struct renew_settings {
    const char *manager;     /* host:port of its API; "": no manager known */
    const char *chain, *key; /* files of the identity in use */
    /* Contexts that get the new pair; the first one, which must be a client's,
     * makes the call. */
    struct tls_ctx *const *contexts;
    size_t n_contexts;
};

enum {
    RENEW_CONTEXTS_MAX = 8
};

/* A thread of its own: it touches nothing but its copies and the contexts,
 * which may be changed while they are in use. */
int renew_start(const struct rep_config *cfg, const struct renew_settings *set,
                struct renew **out, struct err *err);
/* Look whether somebody has asked for a renewal now (SIGHUP). */
void renew_poke(struct renew *r);
void renew_stop(struct renew *r); /* waits for a call under way */

#endif
