/* Identifiers: RFC 9562 text form and version bits. */
#include "common/id.h"

#include <errno.h>
#include <string.h>

#include "common/bytes.h"

struct uuid
uuid_from_random(const uint8_t random[16])
{
    struct uuid u;

    memcpy(u.b, random, sizeof u.b);
    u.b[6] = (uint8_t)((u.b[6] & 0x0f) | 0x40);
    u.b[8] = (uint8_t)((u.b[8] & 0x3f) | 0x80);
    return u;
}

/* The byte index at which each of the five groups begins. */
static const uint8_t group_start[] = { 0, 4, 6, 8, 10, 16 };

void
uuid_format(const struct uuid *u, char out[UUID_TEXT_SIZE])
{
    char *p = out;

    for (size_t g = 0; g + 1 < ARRAY_SIZE(group_start); g++) {
        size_t n = (size_t)(group_start[g + 1] - group_start[g]);

        hex_encode(u->b + group_start[g], n, p);
        p += 2 * n;
        *p++ = '-';
    }
    out[UUID_TEXT_SIZE - 1] = '\0';
}

int
uuid_parse(const char *text, struct uuid *out)
{
    struct uuid u = { .b = { 0 } };
    char group[13]; /* the longest group has 12 digits */

    if (strnlen(text, UUID_TEXT_SIZE) != UUID_TEXT_SIZE - 1)
        return -EINVAL;
    for (size_t g = 0; g + 1 < ARRAY_SIZE(group_start); g++) {
        size_t n = (size_t)(group_start[g + 1] - group_start[g]);

        memcpy(group, text, 2 * n);
        group[2 * n] = '\0';
        if (hex_decode(group, u.b + group_start[g], n) < 0)
            return -EINVAL;
        text += 2 * n;
        if (*text != (g + 2 < ARRAY_SIZE(group_start) ? '-' : '\0'))
            return -EINVAL;
        text++;
    }
    *out = u;
    return 0;
}

bool
uuid_equal(const struct uuid *a, const struct uuid *b)
{
    return memcmp(a->b, b->b, sizeof a->b) == 0;
}

bool
uuid_is_nil(const struct uuid *u)
{
    return bytes_all_zero(u->b, sizeof u->b);
}
