/* 128-bit identifiers.  Each kind that could be swapped for another has a
 * struct of its own, so that the compiler catches the swap.  Making one takes
 * the random bytes as an argument: the data path gets them from io/. */
#ifndef HOLDFAST_COMMON_ID_H
#define HOLDFAST_COMMON_ID_H

#include <stdbool.h>
#include <stdint.h>

struct uuid {
    uint8_t b[16];
};

struct site_id {
    struct uuid u;
};
struct agent_id { /* a replicator or manager process tree's certified id */
    struct uuid u;
};
struct vpg_id {
    struct uuid u;
};
struct incarnation_id { /* one life of a lane's source; never reused (I10) */
    struct uuid u;
};
struct generation_id {
    struct uuid u;
};
struct view_id {
    struct uuid u;
};

enum {
    UUID_TEXT_SIZE = 37
}; /* 8-4-4-4-12 and the NUL */

/* Set version 4 and variant bits on 16 random bytes (RFC 9562, 5.4). */
struct uuid uuid_from_random(const uint8_t random[16]);
void uuid_format(const struct uuid *u, char out[UUID_TEXT_SIZE]);
/* Accepts either case; 0 or -EINVAL, *out untouched then. */
int uuid_parse(const char *text, struct uuid *out);
bool uuid_equal(const struct uuid *a, const struct uuid *b);
bool uuid_is_nil(const struct uuid *u);

#endif
