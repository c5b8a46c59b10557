/* Configuration by table.  Every walk (read, default, print, sample, compare,
 * release) goes over the same options and touches a value only through its
 * type, so a new option is one line in a table. */
#include "common/config.h"

#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <libconfig.h>

#include "common/bytes.h"
#include "common/files.h"
#include "common/text.h"

enum {
    FILE_MAX = 1024 * 1024,
    LIST_MAX = 4096,
    NAME_SIZE = 256
};

/* Where a value stands, for sentences. */
struct place {
    const char *file;
    unsigned line;
    const char *path; /* "replicator.vms.[0].name" */
    struct err *err;
};

static void *
field(void *values, const struct config_option *o)
{
    return (char *)values + o->offset;
}

static const void *
const_field(const void *values, const struct config_option *o)
{
    return (const char *)values + o->offset;
}

static int
complain(const struct place *p, enum err_code code, const char *what)
{
    if (p->line)
        return err_set(p->err, -EINVAL, code, "%s:%u: %s: %s", p->file, p->line,
                       p->path, what);
    return err_set(p->err, -EINVAL, code, "%s: %s: %s", p->file, p->path, what);
}

static int
no_memory(const struct place *p)
{
    return err_set(p->err, -ENOMEM, ERR_GEN_0002,
                   "configuration: out of memory");
}

/* ---- One value from text ------------------------------------------------- */

static int
check_limits(const struct config_option *o, uint64_t v, const struct place *p)
{
    char what[160], a[TEXT_UNIT_SIZE], b[TEXT_UNIT_SIZE], c[TEXT_UNIT_SIZE];

    if ((o->min == 0 && o->max == 0) || (v >= o->min && v <= o->max))
        return 0;
    if (o->type == CONFIG_SIZE) {
        (void)text_format_size(v, a);
        (void)text_format_size(o->min, b);
        (void)text_format_size(o->max, c);
    } else if (o->type == CONFIG_DURATION) {
        (void)text_format_duration(v, a);
        (void)text_format_duration(o->min, b);
        (void)text_format_duration(o->max, c);
    } else {
        (void)snprintf(a, sizeof a, "%llu", (unsigned long long)v);
        (void)snprintf(b, sizeof b, "%llu", (unsigned long long)o->min);
        (void)snprintf(c, sizeof c, "%llu", (unsigned long long)o->max);
    }
    (void)snprintf(what, sizeof what, "%s is not within %s..%s%s", a, b, c,
                   o->type == CONFIG_STRING ? " bytes" : "");
    return complain(p, ERR_CFG_0004, what);
}

static int
number_from_text(const struct config_option *o, const char *s, uint64_t *out,
                 const struct place *p)
{
    uint64_t v = 0;
    int rc = o->type == CONFIG_SIZE       ? text_parse_size(s, &v)
             : o->type == CONFIG_DURATION ? text_parse_duration(s, &v)
                                          : text_parse_u64(s, 0, UINT64_MAX, &v);

    if (rc < 0)
        return complain(p, ERR_CFG_0003,
                        o->type == CONFIG_SIZE ? "not a size such as \"256MiB\""
                        : o->type == CONFIG_DURATION
                            ? "not a duration such as \"250ms\", \"5s\", \"15min\", \"1h\""
                            : "not a whole number");
    rc = check_limits(o, v, p);
    if (rc == 0)
        *out = v;
    return rc;
}

static int
find_choice(const char *const *choices, const char *s)
{
    for (int i = 0; choices[i]; i++) {
        if (strcmp(choices[i], s) == 0)
            return i;
    }
    return -1;
}

static int
complain_choice(const struct config_option *o, const char *s,
                const struct place *p)
{
    struct buf b;
    int rc;

    buf_init(&b, 512);
    (void)buf_addf(&b, "\"%.40s\" is none of", s);
    for (int i = 0; o->choices[i]; i++)
        (void)buf_addf(&b, "%s %s", i ? "," : "", o->choices[i]);
    rc = complain(p, ERR_CFG_0003,
                  b.failed ? "not an allowed word" : (const char *)b.data);
    buf_release(&b);
    return rc;
}

/* Does s fit a text option? */
static int
check_text(const struct config_option *o, const char *s, const struct place *p)
{
    char host[TEXT_HOST_SIZE];
    uint16_t port;

    if (!text_utf8_ok(s, strlen(s)))
        return complain(p, ERR_CFG_0003, "not UTF-8");
    if (o->type == CONFIG_STRING)
        return check_limits(o, strlen(s), p);
    if (!s[0])
        return o->flags & CONFIG_REQUIRED ? complain(p, ERR_CFG_0003, "empty")
                                          : 0;
    if (o->type == CONFIG_NAME &&
        !text_name_ok(s, o->max ? (size_t)o->max : NAME_SIZE))
        return complain(p, ERR_CFG_0003,
                        "not a name of letters, digits, '.', '_' and '-', or too long");
    if (o->type == CONFIG_PATH && (s[0] != '/' || strlen(s) >= FILE_PATH_SIZE))
        return complain(p, ERR_CFG_0003, "not an absolute path");
    if (o->type == CONFIG_ADDRESS && text_parse_hostport(s, host, &port) < 0)
        return complain(p, ERR_CFG_0003,
                        "not an address such as \"host:4006\" or \":4006\"");
    return 0;
}

static int
set_text(char **to, const char *s, const struct place *p)
{
    char *copy = strdup(s);

    if (!copy)
        return no_memory(p);
    free(*to);
    *to = copy;
    return 0;
}

/* A scalar from its text, as it stands in a default or a file. */
static int
scalar_from_text(const struct config_option *o, const char *s, void *f,
                 const struct place *p)
{
    int rc;

    switch (o->type) {
    case CONFIG_STRING:
    case CONFIG_NAME:
    case CONFIG_PATH:
    case CONFIG_ADDRESS:
        rc = check_text(o, s, p);
        return rc < 0 ? rc : set_text(f, s, p);
    case CONFIG_INT:
    case CONFIG_SIZE:
    case CONFIG_DURATION: return number_from_text(o, s, f, p);
    case CONFIG_BOOL: *(bool *)f = strcmp(s, "true") == 0; return 0;
    case CONFIG_ENUM:
        rc = find_choice(o->choices, s);
        if (rc < 0)
            return complain_choice(o, s, p);
        *(int *)f = rc;
        return 0;
    case CONFIG_STRINGS:
    case CONFIG_GROUP:
    case CONFIG_LIST: break;
    }
    return complain(p, ERR_GEN_0001, "no scalar");
}

static int
strings_add(const struct config_option *o, struct config_strings *to,
            const char *s, const struct place *p)
{
    char **longer;

    if (o->choices && find_choice(o->choices, s) < 0)
        return complain_choice(o, s, p);
    for (size_t i = 0; i < to->n; i++) {
        if (strcmp(to->v[i], s) == 0)
            return complain(p, ERR_CFG_0006, "the same word twice");
    }
    if (to->n == LIST_MAX)
        return complain(p, ERR_CFG_0004, "too many words");
    longer = reallocarray(to->v, to->n + 1, sizeof *longer);
    if (!longer)
        return no_memory(p);
    to->v = longer;
    to->v[to->n] = strdup(s);
    if (!to->v[to->n])
        return no_memory(p);
    to->n++;
    return 0;
}

static void
strings_release(struct config_strings *s)
{
    for (size_t i = 0; i < s->n; i++)
        free(s->v[i]);
    free(s->v);
    *s = (struct config_strings){ .n = 0 };
}

static int
strings_from_text(const struct config_option *o, const char *text,
                  struct config_strings *to, const struct place *p)
{
    char copy[512], *part[32];
    int n, rc = 0;

    if (!text || !text[0])
        return 0;
    (void)snprintf(copy, sizeof copy, "%s", text);
    n = text_split(copy, ',', part, ARRAY_SIZE(part));
    for (int i = 0; i < n && rc == 0; i++)
        rc = strings_add(o, to, part[i], p);
    return rc;
}

/* ---- Defaults and release ------------------------------------------------ */

static int
set_defaults(const struct config_option *options, size_t n, void *values,
             const struct place *p)
{
    int rc = 0;

    for (size_t i = 0; i < n && rc == 0; i++) {
        const struct config_option *o = &options[i];
        struct place at = { .file = "defaults", .path = o->name, .err = p->err };
        struct config_option lenient = *o;

        if (o->type == CONFIG_GROUP) {
            rc = set_defaults(o->sub, o->n_sub, field(values, o), p);
        } else if (o->type == CONFIG_STRINGS) {
            rc = strings_from_text(o, o->def, field(values, o), &at);
        } else if (o->def) {
            rc = scalar_from_text(o, o->def, field(values, o), &at);
        } else if (o->type <= CONFIG_ADDRESS) {
            lenient.type = CONFIG_STRING; /* empty, whatever its form */
            lenient.min = lenient.max = 0;
            rc = scalar_from_text(&lenient, "", field(values, o), &at);
        }
    }
    return rc;
}

static void release(const struct config_option *options, size_t n, void *values);

static void
release_list(const struct config_option *o, struct config_list *l)
{
    for (size_t i = 0; i < l->n; i++)
        release(o->sub, o->n_sub, (char *)l->items + i * o->item_size);
    free(l->items);
    *l = (struct config_list){ .n = 0 };
}

static void
release(const struct config_option *options, size_t n, void *values)
{
    for (size_t i = 0; i < n; i++) {
        const struct config_option *o = &options[i];
        void *f = field(values, o);

        switch (o->type) {
        case CONFIG_STRING:
        case CONFIG_NAME:
        case CONFIG_PATH:
        case CONFIG_ADDRESS:
            free(*(char **)f);
            *(char **)f = NULL;
            break;
        case CONFIG_STRINGS: strings_release(f); break;
        case CONFIG_GROUP: release(o->sub, o->n_sub, f); break;
        case CONFIG_LIST: release_list(o, f); break;
        case CONFIG_INT:
        case CONFIG_SIZE:
        case CONFIG_DURATION:
        case CONFIG_BOOL:
        case CONFIG_ENUM: break;
        }
    }
}

int
config_defaults(const struct config_table *table, void *out, struct err *err)
{
    struct place p = { .file = "defaults", .path = "", .err = err };
    int rc;

    memset(out, 0, table->size);
    rc = set_defaults(table->options, table->n, out, &p);
    if (rc < 0)
        config_release(table, out);
    return rc;
}

void
config_release(const struct config_table *table, void *values)
{
    release(table->options, table->n, values);
}

/* ---- Reading ------------------------------------------------------------- */

/* What all settings of one text share. */
struct reader {
    const char *name; /* of the file, unless the setting knows its own */
    struct err *err;
};

static struct place
place_of(const struct reader *r, const config_setting_t *s, const char *path)
{
    const char *file = config_setting_source_file(s);

    return (struct place){ .file = file ? file : r->name,
                           .line = config_setting_source_line(s),
                           .path = path,
                           .err = r->err };
}

struct config_source {
    const struct reader *reader;
    const config_t *cfg;
};

unsigned
config_line(const struct config_source *from, const char *path)
{
    const config_setting_t *s = config_lookup(from->cfg, path);

    return s ? config_setting_source_line(s) : 0;
}

int
config_refuse(const struct config_source *from, const char *path,
              enum err_code code, const char *fmt, ...)
{
    const config_setting_t *s = config_lookup(from->cfg, path);
    struct place p = { .file = from->reader->name,
                       .path = path,
                       .err = from->reader->err };
    char what[ERR_MSG_MAX];
    va_list ap;

    va_start(ap, fmt);
    (void)vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    if (s)
        p = place_of(from->reader, s, path);
    return complain(&p, code, what);
}

static int read_group(const struct reader *r, const config_setting_t *group,
                      const struct config_option *options, size_t n,
                      const char *prefix, void *values);

/* Text of a scalar setting in the form of defaults. */
static int
setting_text(const config_setting_t *s, char *out, size_t cap,
             const char **out_text)
{
    long long v;

    *out_text = out;
    switch (config_setting_type(s)) {
    case CONFIG_TYPE_STRING: *out_text = config_setting_get_string(s); return 0;
    case CONFIG_TYPE_BOOL:
        (void)snprintf(out, cap, "%s",
                       config_setting_get_bool(s) ? "true" : "false");
        return 0;
    case CONFIG_TYPE_INT:
    case CONFIG_TYPE_INT64:
        v = config_setting_get_int64(s);
        (void)snprintf(out, cap, "%lld", v);
        return 0;
    default: return -EINVAL;
    }
}

static int
read_scalar(const struct config_option *o, const config_setting_t *s, void *f,
            const struct place *p)
{
    int type = config_setting_type(s);
    bool is_number = type == CONFIG_TYPE_INT || type == CONFIG_TYPE_INT64;
    bool is_string = type == CONFIG_TYPE_STRING;
    const char *text = NULL;
    char b[32];

    switch (o->type) {
    case CONFIG_BOOL:
        if (type != CONFIG_TYPE_BOOL)
            return complain(p, ERR_CFG_0003, "neither true nor false");
        break;
    case CONFIG_INT:
        if (!is_number)
            return complain(p, ERR_CFG_0003, "not a whole number");
        break;
    case CONFIG_SIZE:
        if (!is_number && !is_string)
            return complain(p, ERR_CFG_0003, "not a size such as \"256MiB\"");
        break;
    case CONFIG_DURATION:
        if (!is_string)
            return complain(p, ERR_CFG_0003,
                            "not a duration in quotes such as \"5s\"");
        break;
    case CONFIG_STRING:
    case CONFIG_NAME:
    case CONFIG_PATH:
    case CONFIG_ADDRESS:
    case CONFIG_ENUM:
        if (!is_string)
            return complain(p, ERR_CFG_0003, "not a text in quotes");
        break;
    case CONFIG_STRINGS:
    case CONFIG_GROUP:
    case CONFIG_LIST: break;
    }
    if (setting_text(s, b, sizeof b, &text) < 0)
        return complain(p, ERR_CFG_0003, "not a single value");
    return scalar_from_text(o, text, f, p);
}

static int
read_strings(const struct config_option *o, const config_setting_t *s,
             struct config_strings *to, const struct place *p)
{
    int n = config_setting_length(s), rc = 0;

    if (!config_setting_is_array(s) && !config_setting_is_list(s))
        return complain(p, ERR_CFG_0003,
                        "not a list of words such as [ \"a\", \"b\" ]");
    strings_release(to);
    for (int i = 0; i < n && rc == 0; i++) {
        const char *word = config_setting_get_string_elem(s, i);

        rc = word ? strings_add(o, to, word, p)
                  : complain(p, ERR_CFG_0003, "an element is no text");
    }
    return rc;
}

/* No two entries may share a value that is marked unique. */
static int
check_unique(const struct config_option *o, const struct config_list *l,
             const struct place *p)
{
    for (size_t k = 0; k < o->n_sub; k++) {
        const struct config_option *u = &o->sub[k];

        if (!(u->flags & CONFIG_UNIQUE))
            continue;
        for (size_t i = 0; i < l->n; i++) {
            const char *a = *(char *const *)const_field((const char *)l->items +
                                                            i * o->item_size,
                                                        u);

            for (size_t j = 0; j < i; j++) {
                const char *b =
                    *(char *const *)const_field((const char *)l->items +
                                                    j * o->item_size,
                                                u);
                char what[320];

                if (strcmp(a, b) != 0)
                    continue;
                (void)snprintf(what, sizeof what, "%s \"%.200s\" comes twice",
                               u->name, a);
                return complain(p, ERR_CFG_0006, what);
            }
        }
    }
    return 0;
}

static int
read_list(const struct reader *r, const config_setting_t *s,
          const struct config_option *o, const char *path,
          struct config_list *to, const struct place *p)
{
    int n = config_setting_length(s), rc = 0;
    char prefix[NAME_SIZE];

    if (!config_setting_is_list(s))
        return complain(p, ERR_CFG_0003,
                        "not a list of groups such as ( { name = \"x\"; } )");
    if (n > LIST_MAX)
        return complain(p, ERR_CFG_0004, "more than 4096 entries");
    if (n == 0)
        return 0;
    to->items = calloc((size_t)n, o->item_size);
    if (!to->items)
        return no_memory(p);
    for (int i = 0; i < n && rc == 0; i++) {
        const config_setting_t *e = config_setting_get_elem(s, (unsigned)i);
        void *item = (char *)to->items + (size_t)i * o->item_size;

        (void)snprintf(prefix, sizeof prefix, "%.240s.[%d].", path, i);
        to->n = (size_t)i + 1; /* so that a half-read entry is released */
        if (!config_setting_is_group(e))
            return complain(p, ERR_CFG_0003, "an entry is no group { }");
        rc = set_defaults(o->sub, o->n_sub, item, p);
        if (rc == 0)
            rc = read_group(r, e, o->sub, o->n_sub, prefix, item);
    }
    return rc < 0 ? rc : check_unique(o, to, p);
}

static int
read_option(const struct reader *r, const config_setting_t *s,
            const struct config_option *o, const char *path, void *values)
{
    struct place p = place_of(r, s, path);
    char prefix[NAME_SIZE];

    switch (o->type) {
    case CONFIG_STRINGS: return read_strings(o, s, field(values, o), &p);
    case CONFIG_LIST: return read_list(r, s, o, path, field(values, o), &p);
    case CONFIG_GROUP:
        if (!config_setting_is_group(s))
            return complain(&p, ERR_CFG_0003, "not a group { }");
        (void)snprintf(prefix, sizeof prefix, "%.240s.", path);
        return read_group(r, s, o->sub, o->n_sub, prefix, field(values, o));
    case CONFIG_STRING:
    case CONFIG_NAME:
    case CONFIG_PATH:
    case CONFIG_ADDRESS:
    case CONFIG_INT:
    case CONFIG_SIZE:
    case CONFIG_DURATION:
    case CONFIG_BOOL:
    case CONFIG_ENUM: break;
    }
    return read_scalar(o, s, field(values, o), &p);
}

static int
check_required(const struct reader *r, const config_setting_t *group,
               const struct config_option *options, size_t n, const char *prefix)
{
    char path[NAME_SIZE];

    for (size_t i = 0; i < n; i++) {
        struct place p;

        if (!(options[i].flags & CONFIG_REQUIRED) ||
            config_setting_get_member(group, options[i].name))
            continue;
        (void)snprintf(path, sizeof path, "%s%s", prefix, options[i].name);
        p = place_of(r, group, path);
        return complain(&p, ERR_CFG_0005, "must be given");
    }
    return 0;
}

static int
read_group(const struct reader *r, const config_setting_t *group,
           const struct config_option *options, size_t n, const char *prefix,
           void *values)
{
    int count = config_setting_length(group), rc = 0;
    char path[NAME_SIZE];

    for (int i = 0; i < count && rc == 0; i++) {
        const config_setting_t *s = config_setting_get_elem(group, (unsigned)i);
        const char *name = config_setting_name(s);
        const struct config_option *o = NULL;

        for (size_t k = 0; k < n && !o; k++) {
            if (strcmp(options[k].name, name) == 0)
                o = &options[k];
        }
        (void)snprintf(path, sizeof path, "%s%s", prefix, name);
        if (!o) {
            struct place p = place_of(r, s, path);

            return complain(&p, ERR_CFG_0002, "there is no such option");
        }
        rc = read_option(r, s, o, path, values);
    }
    return rc < 0 ? rc : check_required(r, group, options, n, prefix);
}

static int
read_all(const config_t *cfg, const struct reader *r,
         const struct config_table *table, void *out)
{
    int rc = config_defaults(table, out, r->err);

    if (rc < 0)
        return rc;
    rc = read_group(r, config_root_setting(cfg), table->options, table->n, "",
                    out);
    if (rc == 0 && table->check)
        rc = table->check(out, &(struct config_source){ r, cfg });
    if (rc < 0)
        config_release(table, out);
    return rc;
}

static int
syntax_error(const config_t *cfg, const char *name, struct err *err)
{
    const char *file = config_error_file(cfg);

    return err_set(err, -EINVAL, ERR_CFG_0001, "%s:%d: %s", file ? file : name,
                   config_error_line(cfg), config_error_text(cfg));
}

int
config_parse(const char *text, const char *name,
             const struct config_table *table, void *out, struct err *err)
{
    struct reader r = { .name = name, .err = err };
    config_t cfg;
    int rc;

    config_init(&cfg);
    if (config_read_string(&cfg, text) != CONFIG_TRUE)
        rc = syntax_error(&cfg, name, err);
    else
        rc = read_all(&cfg, &r, table, out);
    config_destroy(&cfg);
    return rc;
}

int
config_load(const char *path, const struct config_table *table, void *out,
            struct err *err)
{
    struct reader r = { .name = path, .err = err };
    struct buf probe;
    config_t cfg;
    int rc;

    /* Says what is wrong with the file better than libconfig, and bounds it. */
    buf_init(&probe, FILE_MAX + 1);
    rc = file_read(path, FILE_MAX, &probe, err);
    buf_release(&probe);
    if (rc < 0)
        return rc;
    config_init(&cfg);
    if (config_read_file(&cfg, path) != CONFIG_TRUE)
        rc = syntax_error(&cfg, path, err);
    else
        rc = read_all(&cfg, &r, table, out);
    config_destroy(&cfg);
    return rc;
}

/* ---- Writing ------------------------------------------------------------- */

static void
put_quoted(struct buf *b, const char *s)
{
    (void)buf_add(b, "\"", 1);
    for (; *s; s++) {
        if (*s == '"' || *s == '\\')
            (void)buf_addf(b, "\\%c", *s);
        else if ((uint8_t)*s < 0x20)
            (void)buf_addf(b, "\\x%02x", (unsigned)(uint8_t)*s);
        else
            (void)buf_add(b, s, 1);
    }
    (void)buf_add(b, "\"", 1);
}

static void
put_indent(struct buf *b, unsigned depth)
{
    (void)buf_addf(b, "%*s", (int)(4 * depth), "");
}

static void put_options(const struct config_option *options, size_t n,
                        const void *values, unsigned depth, struct buf *b);

static void
put_list(const struct config_option *o, const struct config_list *l,
         unsigned depth, struct buf *b)
{
    (void)buf_addf(b, "(");
    for (size_t i = 0; i < l->n; i++) {
        (void)buf_addf(b, i ? ",\n" : "\n");
        put_indent(b, depth + 1);
        (void)buf_addf(b, "{\n");
        put_options(o->sub, o->n_sub, (const char *)l->items + i * o->item_size,
                    depth + 2, b);
        put_indent(b, depth + 1);
        (void)buf_addf(b, "}");
    }
    (void)buf_addf(b, l->n ? "\n" : "");
    put_indent(b, l->n ? depth : 0);
    (void)buf_addf(b, ")");
}

static void
put_value(const struct config_option *o, const void *f, unsigned depth,
          struct buf *b)
{
    const struct config_strings *words = f;
    char text[TEXT_UNIT_SIZE];
    uint64_t v;

    switch (o->type) {
    case CONFIG_STRING:
    case CONFIG_NAME:
    case CONFIG_PATH:
    case CONFIG_ADDRESS: put_quoted(b, *(char *const *)f); return;
    case CONFIG_INT:
        v = *(const uint64_t *)f;
        (void)buf_addf(b, "%llu%s", (unsigned long long)v,
                       v > INT_MAX ? "L" : "");
        return;
    case CONFIG_SIZE:
        put_quoted(b, text_format_size(*(const uint64_t *)f, text));
        return;
    case CONFIG_DURATION:
        put_quoted(b, text_format_duration(*(const uint64_t *)f, text));
        return;
    case CONFIG_BOOL:
        (void)buf_addf(b, "%s", *(const bool *)f ? "true" : "false");
        return;
    case CONFIG_ENUM: put_quoted(b, o->choices[*(const int *)f]); return;
    case CONFIG_STRINGS:
        (void)buf_addf(b, "[");
        for (size_t i = 0; i < words->n; i++) {
            (void)buf_addf(b, i ? ", " : " ");
            put_quoted(b, words->v[i]);
        }
        (void)buf_addf(b, " ]");
        return;
    case CONFIG_GROUP:
        (void)buf_addf(b, "{\n");
        put_options(o->sub, o->n_sub, f, depth + 1, b);
        put_indent(b, depth);
        (void)buf_addf(b, "}");
        return;
    case CONFIG_LIST: put_list(o, f, depth, b); return;
    }
}

static void
put_options(const struct config_option *options, size_t n, const void *values,
            unsigned depth, struct buf *b)
{
    for (size_t i = 0; i < n; i++) {
        put_indent(b, depth);
        (void)buf_addf(b, "%s = ", options[i].name);
        put_value(&options[i], const_field(values, &options[i]), depth, b);
        (void)buf_addf(b, ";\n");
    }
}

int
config_print(const struct config_table *table, const void *values,
             struct buf *out)
{
    put_options(table->options, table->n, values, 0, out);
    return out->failed;
}

/* Help as comment lines, then the limits. */
static void
put_help(const struct config_option *o, unsigned depth, struct buf *b)
{
    const char *p = o->help;
    char lo[TEXT_UNIT_SIZE], hi[TEXT_UNIT_SIZE];

    while (*p) {
        size_t n = strcspn(p, "\n");

        put_indent(b, depth);
        (void)buf_addf(b, "# %.*s\n", (int)n, p);
        p += n + (p[n] == '\n');
    }
    if (o->max && (o->type == CONFIG_SIZE || o->type == CONFIG_DURATION)) {
        put_indent(b, depth);
        if (o->type == CONFIG_SIZE)
            (void)buf_addf(b, "# From %s to %s.\n", text_format_size(o->min, lo),
                           text_format_size(o->max, hi));
        else
            (void)buf_addf(b, "# From %s to %s.\n",
                           text_format_duration(o->min, lo),
                           text_format_duration(o->max, hi));
    } else if (o->max && o->type == CONFIG_INT) {
        put_indent(b, depth);
        (void)buf_addf(b, "# From %llu to %llu.\n", (unsigned long long)o->min,
                       (unsigned long long)o->max);
    }
    if (o->choices && o->type == CONFIG_ENUM) {
        put_indent(b, depth);
        (void)buf_addf(b, "# One of:");
        for (int i = 0; o->choices[i]; i++)
            (void)buf_addf(b, "%s %s", i ? "," : "", o->choices[i]);
        (void)buf_addf(b, ".\n");
    }
    if (o->flags & CONFIG_RELOADABLE) {
        put_indent(b, depth);
        (void)buf_addf(b, "# Takes effect on reload.\n");
    }
}

static void
put_sample(const struct config_option *options, size_t n, const void *values,
           unsigned depth, struct buf *b)
{
    for (size_t i = 0; i < n; i++) {
        const struct config_option *o = &options[i];

        if (i)
            (void)buf_addf(b, "\n");
        put_help(o, depth, b);
        put_indent(b, depth);
        if (o->type == CONFIG_GROUP) {
            (void)buf_addf(b, "%s = {\n", o->name);
            put_sample(o->sub, o->n_sub, const_field(values, o), depth + 1, b);
            put_indent(b, depth);
            (void)buf_addf(b, "};\n");
            continue;
        }
        (void)buf_addf(b, "#%s = ", o->name);
        put_value(o, const_field(values, o), depth, b);
        (void)buf_addf(b, ";\n");
    }
}

int
config_sample(const struct config_table *table, struct buf *out)
{
    struct place p = { .file = "sample", .path = "" };
    void *values = calloc(1, table->size);
    int rc;

    if (!values)
        return no_memory(&p);
    rc = config_defaults(table, values, NULL);
    if (rc == 0) {
        put_sample(table->options, table->n, values, 0, out);
        rc = out->failed;
        config_release(table, values);
    }
    free(values);
    return rc;
}

static bool
values_differ(const struct config_option *o, const void *a, const void *b)
{
    struct buf x, y;
    bool differ;

    buf_init(&x, FILE_MAX);
    buf_init(&y, FILE_MAX);
    put_value(o, const_field(a, o), 0, &x);
    put_value(o, const_field(b, o), 0, &y);
    differ = x.failed || y.failed || x.len != y.len ||
             memcmp(x.data, y.data, x.len) != 0;
    buf_release(&x);
    buf_release(&y);
    return differ;
}

static void
add_changed(const struct config_option *options, size_t n, const char *prefix,
            const void *a, const void *b, struct buf *out)
{
    char path[NAME_SIZE];

    for (size_t i = 0; i < n; i++) {
        const struct config_option *o = &options[i];

        if (o->type == CONFIG_GROUP) {
            (void)snprintf(path, sizeof path, "%.200s%.40s.", prefix, o->name);
            add_changed(o->sub, o->n_sub, path, const_field(a, o),
                        const_field(b, o), out);
        } else if (!(o->flags & CONFIG_RELOADABLE) && values_differ(o, a, b)) {
            (void)buf_addf(out, "%s%s%s", out->len ? ", " : "", prefix, o->name);
        }
    }
}

int
config_changed(const struct config_table *table, const void *before,
               const void *after, struct buf *out_names)
{
    add_changed(table->options, table->n, "", before, after, out_names);
    return out_names->failed;
}
