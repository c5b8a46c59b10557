/* Sessions: a random 256-bit token each, shown once and kept as SHA-256; ended
 * by 30 minutes without a call (calls marked as background do not count), by
 * 12 hours in all, by logging out, or when a user opens more than 20.  In
 * memory only: a restart ends them all.  Time is the monotonic clock's and
 * comes in, so that a step of the wall clock changes nothing.  Pure. */
#ifndef HOLDFAST_MANAGER_SESSIONS_H
#define HOLDFAST_MANAGER_SESSIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "common/err.h"
#include "common/id.h"

enum {
    SESSION_TOKEN_SIZE = 65, /* hexadecimal and the NUL */
    SESSIONS_PER_USER = 20,
    SESSIONS_MAX = 1000,
};

struct sessions;
int sessions_new(uint64_t idle_ms, uint64_t max_ms, struct sessions **out,
                 struct err *err);
void sessions_free(struct sessions *s);
void sessions_limits(struct sessions *s, uint64_t idle_ms, uint64_t max_ms);

int sessions_begin(struct sessions *s, const char *user, uint64_t now_ms,
                   char out_token[SESSION_TOKEN_SIZE], struct err *err);
/* The user (borrowed until the next call), or NULL.  out_id names the session
 * without being its token; may be NULL. */
enum session_use {
    SESSION_ACTIVE,
    SESSION_BACKGROUND
};
const char *
sessions_check(struct sessions *s, const char *token, uint64_t now_ms,
               enum session_use use, struct uuid *out_id);
void sessions_end(struct sessions *s, const char *token);
/* All of a user but the one with this token; NULL: all. */
void
sessions_end_user(struct sessions *s, const char *user, const char *but_token);
bool sessions_live(const struct sessions *s, const struct uuid *id);
unsigned sessions_count(const struct sessions *s);

#endif
