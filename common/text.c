/* Text helpers.  Everything that could come from a peer, a disk or a person is
 * checked byte by byte here, so that callers need no locale and no libc
 * parser with surprises (strtoul takes signs and blanks). */
#include "common/text.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/bytes.h"

size_t
text_utf8_next(const char *s, size_t n, uint32_t *out_cp)
{
    static const uint32_t lowest[] = { 0, 0, 0x80, 0x800, 0x10000 };
    const uint8_t *p = (const uint8_t *)s;
    uint32_t cp;
    size_t len;

    if (n == 0)
        return 0;
    if (p[0] < 0x80) {
        len = 1;
        cp = p[0];
    } else if (p[0] >= 0xc2 && p[0] < 0xe0) {
        len = 2;
        cp = p[0] & 0x1fU;
    } else if (p[0] >= 0xe0 && p[0] < 0xf0) {
        len = 3;
        cp = p[0] & 0x0fU;
    } else if (p[0] >= 0xf0 && p[0] < 0xf5) {
        len = 4;
        cp = p[0] & 0x07U;
    } else {
        return 0;
    }
    if (len > n)
        return 0;
    for (size_t i = 1; i < len; i++) {
        if ((p[i] & 0xc0) != 0x80)
            return 0;
        cp = cp << 6 | (p[i] & 0x3fU);
    }
    if (cp < lowest[len] || cp > 0x10ffff || (cp >= 0xd800 && cp < 0xe000))
        return 0;
    if (out_cp)
        *out_cp = cp;
    return len;
}

bool
text_utf8_ok(const char *s, size_t n)
{
    while (n > 0) {
        size_t k = text_utf8_next(s, n, NULL);

        if (k == 0)
            return false;
        s += k;
        n -= k;
    }
    return true;
}

bool
text_printable(uint32_t cp)
{
    static const struct {
        uint32_t first, last;
    } bad[] = {
        { 0x00, 0x1f },        /* C0 */
        { 0x7f, 0x9f },        /* DEL, C1 */
        { 0xad, 0xad },        /* soft hyphen */
        { 0x061c, 0x061c },    /* Arabic letter mark */
        { 0x180e, 0x180e },    /* vowel separator */
        { 0x200b, 0x200f },    /* zero width, direction marks */
        { 0x2028, 0x202e },    /* separators, embeddings, overrides */
        { 0x2060, 0x206f },    /* invisible operators, isolates */
        { 0xfeff, 0xfeff },    /* byte order mark */
        { 0xfff9, 0xfffb },    /* annotations */
        { 0xe0000, 0xe0fff },  /* tags */
        { 0xf0000, 0x10ffff }, /* private planes */
    };

    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        if (cp >= bad[i].first && cp <= bad[i].last)
            return false;
    }
    return true;
}

/* Is s[0..n) the beginning of a sequence that only lacks its last bytes? */
static bool
is_cut_sequence(const char *s, size_t n)
{
    uint8_t c = (uint8_t)s[0];
    size_t want = c >= 0xf0 && c < 0xf5   ? 4
                  : c >= 0xe0 && c < 0xf0 ? 3
                  : c >= 0xc2 && c < 0xe0 ? 2
                                          : 1;

    if (n >= want)
        return false;
    for (size_t i = 1; i < n; i++) {
        if (((uint8_t)s[i] & 0xc0) != 0x80)
            return false;
    }
    return true;
}

static void
clean_bytes(char *s, size_t n)
{
    size_t i = 0;

    while (i < n) {
        uint32_t cp = 0;
        size_t k = text_utf8_next(s + i, n - i, &cp);

        if (k == 0 && is_cut_sequence(s + i, n - i)) {
            s[i] = '\0';
            return;
        }
        if (k == 1 && (cp == '\t' || cp == '\n' || cp == '\r'))
            s[i] = ' ';
        else if (k == 0 || !text_printable(cp))
            memset(s + i, '?', k ? k : 1);
        i += k ? k : 1;
    }
}

void
text_clean(char *s)
{
    clean_bytes(s, strlen(s));
}

char *
text_safe(char *out, size_t cap, const char *s, size_t n)
{
    size_t k = MIN(n, cap - 1);

    memcpy(out, s, k);
    out[k] = '\0';
    clean_bytes(out, k);
    return out;
}

static int
ascii_lower(char c)
{
    return c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : (uint8_t)c;
}

int
text_icmp(const char *a, const char *b)
{
    while (*a && ascii_lower(*a) == ascii_lower(*b)) {
        a++;
        b++;
    }
    return ascii_lower(*a) - ascii_lower(*b);
}

static bool
is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

char *
text_trim(char *s)
{
    size_t n;

    while (is_blank(*s))
        s++;
    n = strlen(s);
    while (n > 0 && is_blank(s[n - 1]))
        n--;
    s[n] = '\0';
    return s;
}

int
text_split(char *s, char sep, char **out, size_t max)
{
    size_t n = 0;

    for (;;) {
        char *end = strchr(s, sep);

        if (n == max)
            return -E2BIG;
        out[n++] = s;
        if (!end)
            return (int)n;
        *end = '\0';
        s = end + 1;
    }
}

static const char b64_std[] =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
static const char b64_url[] =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

size_t
text_b64_encode(enum text_b64 kind, const void *p, size_t n, char *out)
{
    const char *abc = kind == TEXT_B64_URL ? b64_url : b64_std;
    const uint8_t *b = p;
    size_t len = 0;

    for (size_t i = 0; i < n; i += 3) {
        size_t k = MIN(n - i, (size_t)3);
        uint32_t v = (uint32_t)b[i] << 16 |
                     (k > 1 ? (uint32_t)b[i + 1] << 8 : 0) |
                     (k > 2 ? b[i + 2] : 0);

        for (size_t j = 0; j <= k; j++)
            out[len++] = abc[v >> (18 - 6 * j) & 63];
        for (size_t j = k; j < 3 && kind == TEXT_B64_STD; j++)
            out[len++] = '=';
    }
    out[len] = '\0';
    return len;
}

static int
b64_value(enum text_b64 kind, char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    if (c == (kind == TEXT_B64_URL ? '-' : '+'))
        return 62;
    if (c == (kind == TEXT_B64_URL ? '_' : '/'))
        return 63;
    return -1;
}

int
text_b64_decode(enum text_b64 kind, const char *text, void *out, size_t cap)
{
    size_t n = strlen(text), len = 0;
    uint8_t *to = out;
    uint32_t bits = 0;
    unsigned have = 0;

    if (kind == TEXT_B64_STD) {
        if (n % 4 != 0)
            return -EINVAL;
        for (int i = 0; i < 2 && n > 0 && text[n - 1] == '='; i++)
            n--;
    }
    if (n % 4 == 1 || n > INT32_MAX)
        return -EINVAL;
    for (size_t i = 0; i < n; i++) {
        int v = b64_value(kind, text[i]);

        if (v < 0)
            return -EINVAL;
        bits = bits << 6 | (uint32_t)v;
        have += 6;
        if (have < 8)
            continue;
        have -= 8;
        if (len == cap)
            return -EMSGSIZE;
        to[len++] = (uint8_t)(bits >> have);
    }
    if ((bits & ((1U << have) - 1)) != 0)
        return -EINVAL;
    return (int)len;
}

/* Digits at *s; moves *s behind them. */
static int
parse_digits(const char **s, uint64_t *out_value)
{
    uint64_t v = 0;
    const char *p = *s;

    if (*p < '0' || *p > '9')
        return -EINVAL;
    for (; *p >= '0' && *p <= '9'; p++) {
        if (__builtin_mul_overflow(v, (uint64_t)10, &v) ||
            __builtin_add_overflow(v, (uint64_t)(*p - '0'), &v))
            return -ERANGE;
    }
    *s = p;
    *out_value = v;
    return 0;
}

int
text_parse_u64(const char *s, uint64_t min, uint64_t max, uint64_t *out_value)
{
    uint64_t v;
    int rc = parse_digits(&s, &v);

    if (rc < 0)
        return rc;
    if (*s)
        return -EINVAL;
    if (v < min || v > max)
        return -ERANGE;
    *out_value = v;
    return 0;
}

struct unit {
    const char *name;
    uint64_t factor;
};

/* Largest first, and the spelling to print before its short form. */
static const struct unit size_units[] = {
    { "TiB", GIB * 1024 },
    { "GiB", GIB },
    { "MiB", MIB },
    { "KiB", KIB },
    { "T", GIB * 1024 },
    { "G", GIB },
    { "M", MIB },
    { "K", KIB },
    { "B", 1 },
    { "", 1 },
};
static const struct unit time_units[] = {
    { "d", 86400000 }, { "h", 3600000 }, { "min", 60000 },
    { "s", 1000 },     { "ms", 1 },
};

static int
parse_unit(const char *s, const struct unit *units, size_t n, uint64_t *out)
{
    uint64_t v;
    int rc = parse_digits(&s, &v);

    if (rc < 0)
        return rc;
    for (size_t i = 0; i < n; i++) {
        if (strcmp(s, units[i].name) != 0)
            continue;
        if (__builtin_mul_overflow(v, units[i].factor, &v))
            return -ERANGE;
        *out = v;
        return 0;
    }
    return -EINVAL;
}

int
text_parse_size(const char *s, uint64_t *out_bytes)
{
    return parse_unit(s, size_units, ARRAY_SIZE(size_units), out_bytes);
}

int
text_parse_duration(const char *s, uint64_t *out_ms)
{
    if (strcmp(s, "0") == 0) {
        *out_ms = 0;
        return 0;
    }
    return parse_unit(s, time_units, ARRAY_SIZE(time_units), out_ms);
}

static char *
format_unit(uint64_t v, const struct unit *units, size_t n,
            char out[TEXT_UNIT_SIZE])
{
    size_t i = 0;

    while (i + 1 < n && (v == 0 || v % units[i].factor != 0))
        i++;
    (void)snprintf(out, TEXT_UNIT_SIZE, "%llu%s",
                   (unsigned long long)(v / units[i].factor), units[i].name);
    return out;
}

char *
text_format_size(uint64_t bytes, char out[TEXT_UNIT_SIZE])
{
    return format_unit(bytes, size_units, ARRAY_SIZE(size_units), out);
}

char *
text_format_duration(uint64_t ms, char out[TEXT_UNIT_SIZE])
{
    return format_unit(ms, time_units, ARRAY_SIZE(time_units), out);
}

static bool
host_char_ok(char c, bool v6)
{
    if (v6 && (c == ':' || c == '%'))
        return true;
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') ||
           (c >= 'A' && c <= 'Z') || c == '.' || c == '-' || c == '_';
}

int
text_parse_hostport(const char *s, char out_host[TEXT_HOST_SIZE],
                    uint16_t *out_port)
{
    const char *host = s, *colon;
    uint64_t port;
    size_t n;
    bool v6 = s[0] == '[';

    if (v6) {
        const char *end = strchr(s, ']');

        if (!end || end[1] != ':')
            return -EINVAL;
        host = s + 1;
        n = (size_t)(end - host);
        colon = end + 1;
        if (n == 0)
            return -EINVAL;
    } else {
        colon = strchr(s, ':');
        if (!colon)
            return -EINVAL;
        n = (size_t)(colon - host);
    }
    if (n >= TEXT_HOST_SIZE || text_parse_u64(colon + 1, 0, 65535, &port) < 0)
        return -EINVAL;
    for (size_t i = 0; i < n; i++) {
        if (!host_char_ok(host[i], v6))
            return -EINVAL;
    }
    memcpy(out_host, host, n);
    out_host[n] = '\0';
    *out_port = (uint16_t)port;
    return 0;
}

bool
text_name_ok(const char *s, size_t max)
{
    size_t n = strlen(s);

    if (n == 0 || n > max || s[0] == '.' || s[0] == '_' || s[0] == '-')
        return false;
    for (size_t i = 0; i < n; i++) {
        if (!host_char_ok(s[i], false))
            return false;
    }
    return true;
}
