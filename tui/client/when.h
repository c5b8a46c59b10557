/* Moments and points in time as people write them.  All times are UTC. */
#ifndef HOLDFAST_TUI_CLIENT_WHEN_H
#define HOLDFAST_TUI_CLIENT_WHEN_H

#include <stdbool.h>
#include <stdint.h>

#include "common/err.h"

/* "11:30", "11:30:05", "03-14 11:30", "2026-03-14", "2026-03-14 11:30:05",
 * ISO 8601 with T, fraction, and Z or +hh:mm; "-90s", "-5min", "-2h" before
 * now; "now".  What lacks a day or year means the last such moment not after
 * now_ms.  Milliseconds since 1970; -EINVAL with CLI-0009. */
int
when_parse(const char *text, int64_t now_ms, int64_t *out_ms, struct err *err);
/* And its last millisecond: a time without a fraction is a whole second, the
 * first one of a minute or day; one with a fraction, "now" and "-5min" are
 * exact. */
int when_parse_span(const char *text, int64_t now_ms, int64_t *out_ms,
                    int64_t *out_last_ms, struct err *err);
int64_t when_now_ms(void);
enum {
    WHEN_SIZE = 32
};
/* "2026-03-14T11:30:05.123Z" */
char *when_iso(int64_t ms, char out[WHEN_SIZE]);

enum point_kind {
    POINT_LATEST,
    POINT_OLDEST,
    POINT_NUMBER, /* id */
    POINT_NAME,   /* text: a tag, compared exactly */
    POINT_TIME    /* ms: the newest point not after it */
};

enum {
    POINT_NAME_MAX = 255, /* as the API takes */
    POINT_TEXT_SIZE = POINT_NAME_MAX + 1
};

struct point_spec {
    enum point_kind kind;
    char text[POINT_TEXT_SIZE]; /* the number's digits, or the name */
    int64_t ms;
};

/* latest, oldest, a number, a time, or a name: in quotes it is always a name,
 * without them anything else is one.  -EINVAL with CLI-0009. */
int point_parse(const char *text, int64_t now_ms, struct point_spec *out_spec,
                struct err *err);

#endif
