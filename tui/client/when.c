/* Times and points: a list of accepted shapes, tried in turn. */
#include "tui/client/when.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/bytes.h"
#include "common/text.h"

enum {
    DAY_S = 86400
};

int64_t
when_now_ms(void)
{
    struct timespec ts = { 0 };

    (void)clock_gettime(CLOCK_REALTIME, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

char *
when_iso(int64_t ms, char out[WHEN_SIZE])
{
    time_t s = (time_t)(ms / 1000);
    struct tm tm;
    size_t n;

    if (ms < 0 || !gmtime_r(&s, &tm) || tm.tm_year > 9999 - 1900) {
        out[0] = '\0';
        return out;
    }
    n = strftime(out, WHEN_SIZE, "%Y-%m-%dT%H:%M:%S", &tm);
    (void)snprintf(out + n, WHEN_SIZE - n, ".%03dZ", (int)(ms % 1000));
    return out;
}

/* What a text gave; year 0: not said, month 0: nor the day. */
struct parts {
    int year, month, day, hour, minute, second, ms;
    int offset_min;
    bool fraction;
};

/* Two digits (four for a year). */
static bool
take_digits(const char **p, int n, int *out)
{
    int v = 0;

    for (int i = 0; i < n; i++) {
        if (!isdigit((unsigned char)(*p)[i]))
            return false;
        v = v * 10 + ((*p)[i] - '0');
    }
    *p += n;
    *out = v;
    return true;
}

static bool
take_char(const char **p, const char *any)
{
    if (!**p || !strchr(any, **p))
        return false;
    ++*p;
    return true;
}

static bool
take_day(const char **p, struct parts *t)
{
    const char *q = *p;

    if (take_digits(&q, 4, &t->year) && take_char(&q, "-") &&
        take_digits(&q, 2, &t->month) && take_char(&q, "-") &&
        take_digits(&q, 2, &t->day)) {
        *p = q;
        return true;
    }
    q = *p;
    t->year = 0;
    if (take_digits(&q, 2, &t->month) && take_char(&q, "-") &&
        take_digits(&q, 2, &t->day)) {
        *p = q;
        return true;
    }
    t->month = t->day = 0;
    return false;
}

static bool
take_fraction(const char **p, struct parts *t)
{
    int scale = 100;

    if (!isdigit((unsigned char)**p))
        return false;
    t->fraction = true;
    for (; isdigit((unsigned char)**p); ++*p) {
        t->ms += (**p - '0') * scale;
        scale /= 10;
    }
    return true;
}

static bool
take_clock(const char **p, struct parts *t)
{
    if (!take_digits(p, 2, &t->hour) || !take_char(p, ":") ||
        !take_digits(p, 2, &t->minute))
        return false;
    if (take_char(p, ":") && !take_digits(p, 2, &t->second))
        return false;
    if (take_char(p, ".,") && !take_fraction(p, t))
        return false;
    return true;
}

static bool
take_zone(const char **p, struct parts *t)
{
    int h, m = 0, sign = **p == '-' ? -1 : 1;

    if (take_char(p, "Zz"))
        return true;
    if (!take_char(p, "+-"))
        return true;
    if (!take_digits(p, 2, &h))
        return false;
    (void)take_char(p, ":");
    if (**p && !take_digits(p, 2, &m))
        return false;
    t->offset_min = sign * (h * 60 + m);
    return h < 24 && m < 60;
}

static bool
take_all(const char *s, struct parts *t)
{
    const char *p = s;

    if (take_day(&p, t)) {
        if (!*p)
            return true;
        if (!take_char(&p, "T t"))
            return false;
    }
    if (!take_clock(&p, t))
        return false;
    return take_zone(&p, t) && !*p;
}

static bool
to_seconds(const struct parts *t, int64_t *out_s)
{
    struct tm tm = { .tm_year = t->year - 1900,
                     .tm_mon = t->month - 1,
                     .tm_mday = t->day,
                     .tm_hour = t->hour,
                     .tm_min = t->minute,
                     .tm_sec = t->second };
    struct tm back;
    time_t s;

    if (t->hour > 23 || t->minute > 59 || t->second > 60 || t->year < 1970)
        return false;
    s = timegm(&tm);
    /* the 31st of February becomes the 3rd of March: refuse it */
    if (s == (time_t)-1 || !gmtime_r(&s, &back) || back.tm_mday != t->day ||
        (back.tm_mon != t->month - 1 && t->second < 60))
        return false;
    *out_s = (int64_t)s - (int64_t)t->offset_min * 60;
    return true;
}

/* The day that was left out: the last one on which the time is past. */
static bool
complete(struct parts t, int64_t now_s, int64_t *out_s)
{
    time_t now = (time_t)now_s;
    struct tm today;

    if (!gmtime_r(&now, &today))
        return false;
    if (t.month) {
        for (int back = 0; back <= 8; back++) { /* 8: the 29th of February */
            t.year = today.tm_year + 1900 - back;
            if (to_seconds(&t, out_s) && *out_s <= now_s)
                return true;
        }
        return false;
    }
    t.year = today.tm_year + 1900;
    t.month = today.tm_mon + 1;
    t.day = today.tm_mday;
    if (!to_seconds(&t, out_s))
        return false;
    if (*out_s > now_s)
        *out_s -= DAY_S;
    return true;
}

/* Listings show whole seconds: one that is written means all of it, from
 * *out_ms to *out_last_ms. */
static bool
parse_moment(const char *text, int64_t now_ms, int64_t *out_ms,
             int64_t *out_last_ms)
{
    struct parts t = { .year = 0 };
    uint64_t back;
    int64_t s;

    if (text_icmp(text, "now") == 0) {
        *out_ms = *out_last_ms = now_ms;
        return true;
    }
    if (text[0] == '-' && text_parse_duration(text + 1, &back) == 0 &&
        back <= (uint64_t)now_ms) {
        *out_ms = *out_last_ms = now_ms - (int64_t)back;
        return true;
    }
    if (!take_all(text, &t))
        return false;
    if (t.year ? !to_seconds(&t, &s) : !complete(t, now_ms / 1000, &s))
        return false;
    *out_ms = s * 1000 + t.ms;
    *out_last_ms = *out_ms + (t.fraction ? 0 : 999);
    return *out_ms >= 0;
}

int
when_parse(const char *text, int64_t now_ms, int64_t *out_ms, struct err *err)
{
    int64_t last;

    return when_parse_span(text, now_ms, out_ms, &last, err);
}

int
when_parse_span(const char *text, int64_t now_ms, int64_t *out_ms,
                int64_t *out_last_ms, struct err *err)
{
    if (!parse_moment(text, now_ms, out_ms, out_last_ms))
        return err_set(err, -EINVAL, ERR_CLI_0009,
                       "\"%.60s\" is no time such as 11:30, \"03-14 11:30\", "
                       "2026-03-14T11:30:00Z or -5min (UTC)",
                       text);
    return 0;
}

static bool
all_digits(const char *s)
{
    return *s && s[strspn(s, "0123456789")] == '\0';
}

int
point_parse(const char *text, int64_t now_ms, struct point_spec *out_spec,
            struct err *err)
{
    struct point_spec s = { .kind = POINT_NAME };
    size_t n = strlen(text);
    int64_t last;
    bool quoted =
        n >= 2 && (text[0] == '"' || text[0] == '\'') && text[n - 1] == text[0];

    if (quoted) {
        text++;
        n -= 2;
    }
    if (n == 0 || n > POINT_NAME_MAX)
        return err_set(err, -EINVAL, ERR_CLI_0009,
                       "a point's name has 1 to %zu bytes, not %zu",
                       (size_t)POINT_NAME_MAX, n);
    memcpy(s.text, text, n);
    s.text[n] = '\0';
    if (!quoted) {
        if (text_icmp(s.text, "latest") == 0)
            s.kind = POINT_LATEST;
        else if (text_icmp(s.text, "oldest") == 0)
            s.kind = POINT_OLDEST;
        else if (all_digits(s.text) && n <= 20)
            s.kind = POINT_NUMBER;
        else if (parse_moment(s.text, now_ms, &s.ms, &last))
            s.kind = POINT_TIME;
    }
    *out_spec = s;
    return 0;
}
