/* cJSON 1.7.15 takes duplicate names, invalid UTF-8, a NUL in the middle of a
 * string and integers that a double cannot hold.  So a validator of our own
 * walks the text first (recursive descent, the depth is bounded), and a second
 * look at the tree finds names that come twice. */
#include "common/json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/text.h"

struct scan {
    const char *text;
    size_t n, at;
    int depth;
    struct err *err;
};

static int
bad(const struct scan *s, const char *what)
{
    return err_set(s->err, -EBADMSG, ERR_JSN_0001, "JSON byte %zu: %s", s->at,
                   what);
}

static int
peek(const struct scan *s)
{
    return s->at < s->n ? (uint8_t)s->text[s->at] : -1;
}

static void
skip_blanks(struct scan *s)
{
    while (s->at < s->n && strchr(" \t\r\n", s->text[s->at]) && s->text[s->at])
        s->at++;
}

/* Four hexadecimal digits at s->at. */
static int
scan_hex4(struct scan *s, uint32_t *out)
{
    char digits[5];
    uint8_t b[2];

    if (s->n - s->at < 4)
        return bad(s, "text ends inside an escape");
    memcpy(digits, s->text + s->at, 4);
    digits[4] = '\0';
    if (hex_decode(digits, b, 2) < 0)
        return bad(s, "not four hexadecimal digits after \\u");
    *out = get_be16(b);
    s->at += 4;
    return 0;
}

static int
scan_unicode_escape(struct scan *s)
{
    uint32_t u = 0, low = 0;
    int rc = scan_hex4(s, &u);

    if (rc < 0)
        return rc;
    if (u == 0)
        return bad(s, "NUL character in a string");
    if (u >= 0xdc00 && u < 0xe000)
        return bad(s, "second half of a surrogate pair alone");
    if (u < 0xd800 || u >= 0xe000)
        return 0;
    if (s->n - s->at < 2 || memcmp(s->text + s->at, "\\u", 2) != 0)
        return bad(s, "first half of a surrogate pair alone");
    s->at += 2;
    rc = scan_hex4(s, &low);
    if (rc < 0)
        return rc;
    if (low < 0xdc00 || low >= 0xe000)
        return bad(s, "first half of a surrogate pair alone");
    return 0;
}

static int
scan_string(struct scan *s)
{
    s->at++; /* the quote */
    for (;;) {
        int c = peek(s);
        size_t k;

        if (c < 0)
            return bad(s, "text ends inside a string");
        if (c == '"') {
            s->at++;
            return 0;
        }
        if (c < 0x20)
            return bad(s, "control character in a string");
        if (c == '\\') {
            s->at++;
            c = peek(s);
            if (c <= 0 || !strchr("\"\\/bfnrtu", c))
                return bad(s, "unknown escape in a string");
            s->at++;
            if (c == 'u') {
                int rc = scan_unicode_escape(s);

                if (rc < 0)
                    return rc;
            }
            continue;
        }
        k = text_utf8_next(s->text + s->at, s->n - s->at, NULL);
        if (k == 0)
            return bad(s, "not UTF-8");
        s->at += k;
    }
}

static size_t
scan_digits(struct scan *s)
{
    size_t start = s->at;

    while (s->at < s->n && s->text[s->at] >= '0' && s->text[s->at] <= '9')
        s->at++;
    return s->at - start;
}

static int
scan_number(struct scan *s)
{
    enum {
        NUMBER_MAX = 40
    };
    size_t start = s->at, whole;
    bool exact = true;
    char copy[NUMBER_MAX + 1];
    uint64_t v;

    if (peek(s) == '-')
        s->at++;
    whole = s->at;
    if (scan_digits(s) == 0 || (s->text[whole] == '0' && s->at - whole > 1))
        return bad(s, "not a number");
    if (peek(s) == '.') {
        exact = false;
        s->at++;
        if (scan_digits(s) == 0)
            return bad(s, "no digit after the decimal point");
    }
    if (peek(s) == 'e' || peek(s) == 'E') {
        exact = false;
        s->at++;
        if (peek(s) == '+' || peek(s) == '-')
            s->at++;
        if (scan_digits(s) == 0)
            return bad(s, "no digit in the exponent");
    }
    if (s->at - start > NUMBER_MAX)
        return bad(s, "number is too long");
    memcpy(copy, s->text + start, s->at - start);
    copy[s->at - start] = '\0';
    if (exact && text_parse_u64(copy + (copy[0] == '-'), 0, JSON_INT_MAX, &v) < 0)
        return bad(s, "integer beyond 2^53 - 1; send it as a string");
    /* Beyond it a double has no fraction left and prints as an integer that we
     * would refuse ourselves. */
    if (!exact && !(fabs(strtod(copy, NULL)) <= (double)JSON_INT_MAX))
        return bad(s, "number beyond 2^53 - 1; send it as a string");
    return 0;
}

static int scan_value(struct scan *s);

static int
scan_member_name(struct scan *s)
{
    int rc;

    skip_blanks(s);
    if (peek(s) != '"')
        return bad(s, "a name in quotes is missing");
    rc = scan_string(s);
    if (rc < 0)
        return rc;
    skip_blanks(s);
    if (peek(s) != ':')
        return bad(s, "':' is missing");
    s->at++;
    return 0;
}

/* An object or an array, whose opening is at s->at. */
static int
scan_container(struct scan *s, char close)
{
    int rc;

    if (++s->depth > JSON_DEPTH_MAX)
        return err_set(s->err, -EMSGSIZE, ERR_JSN_0002,
                       "JSON byte %zu: nested deeper than %d", s->at,
                       JSON_DEPTH_MAX);
    s->at++;
    skip_blanks(s);
    if (peek(s) == close) {
        s->at++;
        s->depth--;
        return 0;
    }
    for (;;) {
        rc = close == '}' ? scan_member_name(s) : 0;
        if (rc == 0)
            rc = scan_value(s);
        if (rc < 0)
            return rc;
        skip_blanks(s);
        if (peek(s) == close)
            break;
        if (peek(s) != ',')
            return bad(s, "',' or the closing bracket is missing");
        s->at++;
    }
    s->at++;
    s->depth--;
    return 0;
}

static int
scan_word(struct scan *s)
{
    static const char *const words[] = { "true", "false", "null" };

    for (size_t i = 0; i < ARRAY_SIZE(words); i++) {
        size_t k = strlen(words[i]);

        if (s->n - s->at >= k && memcmp(s->text + s->at, words[i], k) == 0) {
            s->at += k;
            return 0;
        }
    }
    return bad(s, "a value is missing");
}

static int
scan_value(struct scan *s)
{
    int c;

    skip_blanks(s);
    c = peek(s);
    if (c == '{')
        return scan_container(s, '}');
    if (c == '[')
        return scan_container(s, ']');
    if (c == '"')
        return scan_string(s);
    if (c == '-' || (c >= '0' && c <= '9'))
        return scan_number(s);
    return scan_word(s);
}

static int
by_name(const void *a, const void *b)
{
    return text_icmp(*(const char *const *)a, *(const char *const *)b);
}

static int
check_object_names(const cJSON *obj, struct err *err)
{
    size_t n = 0, i = 0;
    const char **names;
    const cJSON *m;
    int rc = 0;

    cJSON_ArrayForEach (m, obj)
        n++;
    if (n < 2)
        return 0;
    names = calloc(n, sizeof *names);
    if (!names)
        return err_set(err, -ENOMEM, ERR_GEN_0002, "JSON: out of memory");
    cJSON_ArrayForEach (m, obj)
        names[i++] = m->string;
    qsort(names, n, sizeof *names, by_name);
    for (i = 1; i < n && rc == 0; i++) {
        if (text_icmp(names[i - 1], names[i]) == 0)
            rc = err_set(err, -EBADMSG, ERR_JSN_0003,
                         "JSON: name \"%.64s\" comes twice in one object",
                         names[i]);
    }
    free(names);
    return rc;
}

static int
check_names(const cJSON *node, struct err *err)
{
    const cJSON *m;
    int rc = cJSON_IsObject(node) ? check_object_names(node, err) : 0;

    if (rc < 0)
        return rc;
    cJSON_ArrayForEach (m, node) {
        rc = check_names(m, err);
        if (rc < 0)
            return rc;
    }
    return 0;
}

int
json_parse(const char *text, size_t n, size_t max_bytes, cJSON **out_root,
           struct err *err)
{
    struct scan s = { .text = text, .n = n, .err = err };
    cJSON *root;
    int rc;

    if (n > max_bytes)
        return err_set(err, -EMSGSIZE, ERR_JSN_0002,
                       "JSON text of %zu bytes exceeds %zu", n, max_bytes);
    rc = scan_value(&s);
    if (rc < 0)
        return rc;
    skip_blanks(&s);
    if (s.at != n)
        return bad(&s, "more text behind the value");
    root = cJSON_ParseWithLength(text, n);
    if (!root)
        return err_set(err, -ENOMEM, ERR_GEN_0002, "JSON: out of memory");
    rc = check_names(root, err);
    if (rc < 0) {
        cJSON_Delete(root);
        return rc;
    }
    *out_root = root;
    return 0;
}

const cJSON *
json_get(const cJSON *obj, const char *name)
{
    const cJSON *m;

    if (!cJSON_IsObject(obj))
        return NULL;
    cJSON_ArrayForEach (m, obj) {
        if (m->string && text_icmp(m->string, name) == 0)
            return cJSON_IsNull(m) ? NULL : m;
    }
    return NULL;
}

/* 1 and *out_m, or what the typed getter returns for an absent member. */
static int
find(const cJSON *obj, const char *name, enum json_need need,
     const cJSON **out_m, struct err *err)
{
    *out_m = json_get(obj, name);
    if (*out_m)
        return 1;
    if (need == JSON_OPTIONAL)
        return 0;
    return err_set(err, -EINVAL, ERR_JSN_0004, "member \"%s\" is missing", name);
}

static int
wrong(const char *name, const char *want, struct err *err)
{
    return err_set(err, -EINVAL, ERR_JSN_0004, "member \"%s\" is not %s", name,
                   want);
}

int
json_str(const cJSON *obj, const char *name, enum json_need need,
         const char **out_value, struct err *err)
{
    const cJSON *m;
    int rc = find(obj, name, need, &m, err);

    if (rc <= 0)
        return rc;
    if (!cJSON_IsString(m))
        return wrong(name, "a string", err);
    *out_value = m->valuestring;
    return 1;
}

/* Magnitude and sign of a number or of digits in a string. */
static int
whole_number(const cJSON *m, uint64_t *out_magnitude, bool *out_negative)
{
    const char *s;

    if (cJSON_IsNumber(m)) {
        double v = fabs(m->valuedouble);

        if (v != floor(v) || v > (double)JSON_INT_MAX)
            return -EINVAL;
        *out_negative = m->valuedouble < 0;
        *out_magnitude = (uint64_t)v;
        return 0;
    }
    if (!cJSON_IsString(m))
        return -EINVAL;
    s = m->valuestring;
    *out_negative = *s == '-';
    return text_parse_u64(s + *out_negative, 0, UINT64_MAX, out_magnitude);
}

int
json_u64(const cJSON *obj, const char *name, enum json_need need, uint64_t min,
         uint64_t max, uint64_t *out_value, struct err *err)
{
    const cJSON *m;
    uint64_t v = 0;
    bool negative = false;
    int rc = find(obj, name, need, &m, err);

    if (rc <= 0)
        return rc;
    if (whole_number(m, &v, &negative) < 0)
        return wrong(name, "a whole number", err);
    if ((negative && v > 0) || v < min || v > max)
        return err_set(err, -EINVAL, ERR_JSN_0004,
                       "member \"%s\" is %s%llu, not within %llu..%llu", name,
                       negative ? "-" : "", (unsigned long long)v,
                       (unsigned long long)min, (unsigned long long)max);
    *out_value = v;
    return 1;
}

int
json_i64(const cJSON *obj, const char *name, enum json_need need, int64_t min,
         int64_t max, int64_t *out_value, struct err *err)
{
    const cJSON *m;
    uint64_t u = 0;
    int64_t v;
    bool negative = false;
    int rc = find(obj, name, need, &m, err);

    if (rc <= 0)
        return rc;
    if (whole_number(m, &u, &negative) < 0 || u > INT64_MAX)
        return wrong(name, "a whole number", err);
    v = negative ? -(int64_t)u : (int64_t)u;
    if (v < min || v > max)
        return err_set(err, -EINVAL, ERR_JSN_0004,
                       "member \"%s\" is %lld, not within %lld..%lld", name,
                       (long long)v, (long long)min, (long long)max);
    *out_value = v;
    return 1;
}

uint64_t
json_u64_or(const cJSON *obj, const char *name, uint64_t otherwise)
{
    (void)json_u64(obj, name, JSON_OPTIONAL, 0, JSON_INT_MAX, &otherwise, NULL);
    return otherwise;
}

const char *
json_str_or(const cJSON *obj, const char *name, const char *otherwise)
{
    (void)json_str(obj, name, JSON_OPTIONAL, &otherwise, NULL);
    return otherwise;
}

int
json_bool(const cJSON *obj, const char *name, enum json_need need,
          bool *out_value, struct err *err)
{
    const cJSON *m;
    int rc = find(obj, name, need, &m, err);

    if (rc <= 0)
        return rc;
    if (cJSON_IsBool(m))
        *out_value = cJSON_IsTrue(m);
    else if (cJSON_IsString(m) && text_icmp(m->valuestring, "true") == 0)
        *out_value = true;
    else if (cJSON_IsString(m) && text_icmp(m->valuestring, "false") == 0)
        *out_value = false;
    else
        return wrong(name, "true or false", err);
    return 1;
}

int
json_uuid(const cJSON *obj, const char *name, enum json_need need,
          struct uuid *out_value, struct err *err)
{
    const cJSON *m;
    int rc = find(obj, name, need, &m, err);

    if (rc <= 0)
        return rc;
    if (!cJSON_IsString(m) || uuid_parse(m->valuestring, out_value) < 0)
        return wrong(name, "an identifier of 32 hexadecimal digits", err);
    return 1;
}

int
json_obj(const cJSON *obj, const char *name, enum json_need need,
         const cJSON **out_value, struct err *err)
{
    const cJSON *m;
    int rc = find(obj, name, need, &m, err);

    if (rc <= 0)
        return rc;
    if (!cJSON_IsObject(m))
        return wrong(name, "an object", err);
    *out_value = m;
    return 1;
}

int
json_array(const cJSON *obj, const char *name, enum json_need need,
           const cJSON **out_value, struct err *err)
{
    const cJSON *m;
    int rc = find(obj, name, need, &m, err);

    if (rc <= 0)
        return rc;
    if (!cJSON_IsArray(m))
        return wrong(name, "an array", err);
    *out_value = m;
    return 1;
}

void
json_begin(struct json_writer *w, struct buf *out)
{
    *w = (struct json_writer){ .out = out };
}

static void
put_raw(struct json_writer *w, const char *s)
{
    (void)buf_add(w->out, s, strlen(s)); /* sticks in the buffer */
}

static void
put_quoted(struct json_writer *w, const char *s, size_t n)
{
    size_t i = 0, start = 0;
    char esc[8];

    put_raw(w, "\"");
    while (i < n) {
        uint8_t c = (uint8_t)s[i];
        size_t k = text_utf8_next(s + i, n - i, NULL);

        if (k > 1 || (k == 1 && c >= 0x20 && c != '"' && c != '\\')) {
            i += k;
            continue;
        }
        (void)buf_add(w->out, s + start, i - start);
        if (k == 0)
            (void)snprintf(esc, sizeof esc, "\xef\xbf\xbd");
        else if (c == '"' || c == '\\')
            (void)snprintf(esc, sizeof esc, "\\%c", c);
        else if (c == '\n')
            (void)snprintf(esc, sizeof esc, "\\n");
        else
            /* NUL, which our own reader refuses, becomes U+FFFD. */
            (void)snprintf(esc, sizeof esc, "\\u%04x", c ? c : 0xfffdU);
        put_raw(w, esc);
        start = ++i;
    }
    (void)buf_add(w->out, s + start, n - start);
    put_raw(w, "\"");
}

static void
put_name(struct json_writer *w, const char *name)
{
    if (w->comma)
        put_raw(w, ",");
    w->comma = true;
    if (name) {
        put_quoted(w, name, strlen(name));
        put_raw(w, ":");
    }
}

static void
open_with(struct json_writer *w, const char *name, const char *bracket)
{
    put_name(w, name);
    put_raw(w, bracket);
    w->comma = false;
}

static void
close_with(struct json_writer *w, const char *bracket)
{
    put_raw(w, bracket);
    w->comma = true;
}

void
json_open_obj(struct json_writer *w, const char *name)
{
    open_with(w, name, "{");
}

void
json_close_obj(struct json_writer *w)
{
    close_with(w, "}");
}

void
json_open_array(struct json_writer *w, const char *name)
{
    open_with(w, name, "[");
}

void
json_close_array(struct json_writer *w)
{
    close_with(w, "]");
}

void
json_put_strn(struct json_writer *w, const char *name, const char *value,
              size_t n)
{
    put_name(w, name);
    put_quoted(w, value, n);
}

void
json_put_str(struct json_writer *w, const char *name, const char *value)
{
    json_put_strn(w, name, value, strlen(value));
}

void
json_put_str_or_null(struct json_writer *w, const char *name, const char *value)
{
    if (value)
        json_put_str(w, name, value);
    else
        json_put_null(w, name);
}

void
json_put_u64(struct json_writer *w, const char *name, uint64_t value)
{
    put_name(w, name);
    (void)buf_addf(w->out, "%llu", (unsigned long long)value);
}

void
json_put_i64(struct json_writer *w, const char *name, int64_t value)
{
    put_name(w, name);
    (void)buf_addf(w->out, "%lld", (long long)value);
}

void
json_put_u64_text(struct json_writer *w, const char *name, uint64_t value)
{
    put_name(w, name);
    (void)buf_addf(w->out, "\"%llu\"", (unsigned long long)value);
}

void
json_put_double(struct json_writer *w, const char *name, double value)
{
    char text[40]; /* sign, 15 digits, point, exponent of 5 */
    char *comma;

    put_name(w, name);
    if (!isfinite(value)) {
        put_raw(w, "null"); /* JSON has no other word for it */
        return;
    }
    (void)snprintf(text, sizeof text, "%.15g", value);
    comma = strchr(text, ','); /* a console may run in such a locale */
    if (comma)
        *comma = '.';
    put_raw(w, text);
}

void
json_put_bool(struct json_writer *w, const char *name, bool value)
{
    put_name(w, name);
    put_raw(w, value ? "true" : "false");
}

void
json_put_null(struct json_writer *w, const char *name)
{
    put_name(w, name);
    put_raw(w, "null");
}

void
json_put_uuid(struct json_writer *w, const char *name, const struct uuid *value)
{
    char text[UUID_TEXT_SIZE];

    uuid_format(value, text);
    json_put_strn(w, name, text, UUID_TEXT_SIZE - 1);
}

void
json_put_tree(struct json_writer *w, const char *name, const cJSON *tree)
{
    char *text = cJSON_PrintUnformatted(tree);

    put_name(w, name);
    if (text)
        put_raw(w, text);
    else if (!w->out->failed)
        w->out->failed = -ENOMEM;
    cJSON_free(text);
}
