/* The table of options and its reader. */
#include "tui/cli/options.h"

#include <stdio.h>
#include <string.h>

#include "common/bytes.h"
#include "common/text.h"

#define AT(field) offsetof(struct options, field)

/* clang-format off */
const struct option_def option_defs[] = {
    { "config", "FILE", AT(config), true, G_ALL,
      "site definitions in FILE instead of the usual ones; may be repeated" },
    { "ctx", "NAME", AT(ctx), false, G_ALL,
      "ask this site; without it the first one, or the one that knows the VPG" },
    { "output", "FORM", AT(output), false, G_ALL, "text (default), csv or json" },
    { "help", NULL, AT(help), false, G_ALL, "help on the command" },
    { "version", NULL, AT(version), false, G_ALL, "name and version" },
    { "filter", "EXPR", AT(filter), false, G_LIST | G_EMPTY,
      "only rows that match: 'state!=ok', 'rpo>target', 'site~^par or name=x'" },
    { "sort", "FIELDS", AT(sort), false, G_LIST, "by these fields; -rpo turns the order" },
    { "columns", "FIELDS", AT(columns), false, G_LIST, "these fields, in this order" },
    { "limit", "N", AT(limit), false, G_LIST, "at most N rows; 0: all" },
    { "wide", NULL, AT(wide), false, G_LIST, "text as wide as it is, nothing cut" },
    { "all", NULL, AT(all), false, G_LIST, "text with every field, one a line" },
    { "from", "TIME", AT(from), false, G_RANGE, "not older than this" },
    { "to", "TIME", AT(to), false, G_RANGE, "not newer than this" },
    { "point", "POINT", AT(point), false, G_POINT,
      "latest (default), oldest, a number, a name, or a time: the newest point not after it" },
    { "damaged", NULL, AT(damaged), false, G_POINT,
      "also a point that needs damaged data; reads of that fail" },
    { "at", "TIME", AT(at), false, G_AT, "the newest point not after this moment" },
    { "vm", "NAME", AT(vm), true, G_VMS, "this VM; may be repeated" },
    { "wait", NULL, AT(wait), false, G_ACT, "until the task has ended (default)" },
    { "no-wait", NULL, AT(no_wait), false, G_ACT, "return when the task has begun" },
    { "timeout", "TIME", AT(timeout), false, G_ACT, "wait no longer than this: 10min (default)" },
    { "reason", "TEXT", AT(reason), false, G_ACT | G_EMPTY, "why, for the record" },
    { "confirm", "TEXT", AT(confirm), false, G_CONFIRM | G_EMPTY,
      "what would be typed on a terminal: the name, or the word asked for" },
    { "failed", NULL, AT(failed), false, G_STOP, "record that the test did not prove what it should" },
    { "notes", "TEXT", AT(notes), false, G_STOP | G_EMPTY, "what was found, for the record" },
    { "keep-replicas", NULL, AT(keep_replicas), false, G_DELETE,
      "leave the images at the recovery site" },
    { "force", NULL, AT(force), false, G_DELETE,
      "although the other site is away; it is told when it comes back" },
    { "to-site", "NAME", AT(to_site), false, G_CREATE, "where it is to be recovered" },
    { "from-site", "NAME", AT(from_site), false, G_CREATE, "where its VMs are; needed when names are ambiguous" },
    { "store", "NAME", AT(store), false, G_CREATE, "store there for journal and replicas" },
    { "history", "TIME", AT(history), false, G_CREATE, "how far back: 1h to 30d; 24h (default)" },
    { "rpo", "TIME", AT(rpo), false, G_CREATE, "target: 5min (default)" },
    { "interval", "TIME", AT(interval), false, G_CREATE, "between points: 1s to 15min; 5s (default)" },
    { "priority", "WORD", AT(priority), false, G_CREATE, "low, medium (default) or high" },
    { "journal-limit", "SIZE", AT(journal_limit), false, G_CREATE, "hard limit of the journal: 150GiB (default)" },
    { "scratch-limit", "SIZE", AT(scratch_limit), false, G_CREATE, "of what tests write: 300GiB (default)" },
    { "ignore-space", NULL, AT(ignore_space), false, G_CREATE,
      "although the store has less room than the volumes use" },
    { "dial", "SIDE", AT(dial), false, G_CREATE, "who opens the data connection: protected (default) or recovery" },
    { "host", "HOST:PORT", AT(host), false, G_PAIR, "the other manager's port for managers" },
    { "token-file", "FILE", AT(token_file), false, G_PAIR, "with the pairing token; - (default): standard input" },
    { "old-file", "FILE", AT(old_file), false, G_PASSWORD,
      "with the password that is valid now, mode 0600; without it you are asked" },
    { "new-file", "FILE", AT(new_file), false, G_PASSWORD,
      "with the new one, mode 0600; without it you are asked, twice" },
    { "valid", "TIME", AT(valid), false, G_TOKEN, "how long the token may be used: up to 15min (default)" },
};
/* clang-format on */
const size_t n_option_defs = ARRAY_SIZE(option_defs);

static const struct option_def *
find_option(const char *name, size_t n)
{
    for (size_t i = 0; i < n_option_defs; i++) {
        if (strlen(option_defs[i].name) == n &&
            strncmp(option_defs[i].name, name, n) == 0)
            return &option_defs[i];
    }
    return NULL;
}

static int
set_option(struct options *o, const struct option_def *d, const char *value,
           struct err *err)
{
    void *field = (char *)o + d->offset;
    struct values *list = field;

    if (!d->value) {
        *(bool *)field = true;
        return 0;
    }
    if (!d->many) {
        *(const char **)field = value;
        return 0;
    }
    if (list->n == VALUES_MAX)
        return err_set(err, -EINVAL, ERR_CLI_0014,
                       "--%s is given more than %d times", d->name, VALUES_MAX);
    list->v[list->n++] = value;
    return 0;
}

static int
take_option(int argc, char *const *argv, int *i, struct options *o,
            struct err *err)
{
    const char *arg = argv[*i] + 2, *eq = strchr(arg, '=');
    size_t n = eq ? (size_t)(eq - arg) : strlen(arg);
    const struct option_def *d = find_option(arg, n);

    if (!d)
        return err_set(err, -EINVAL, ERR_CLI_0014, "there is no option --%.*s",
                       (int)MIN(n, (size_t)60), arg);
    if (!d->value && eq)
        return err_set(err, -EINVAL, ERR_CLI_0014, "--%s takes no value",
                       d->name);
    if (!d->value)
        return set_option(o, d, NULL, err);
    if (!eq && *i + 1 >= argc)
        return err_set(err, -EINVAL, ERR_CLI_0014, "--%s needs a value: %s",
                       d->name, d->value);
    return set_option(o, d, eq ? eq + 1 : argv[++*i], err);
}

/* Values that are no text are checked here, once. */
static int
convert(struct options *o, struct err *err)
{
    static const char *const forms[] = { "text", "csv", "json" };
    uint64_t n;
    size_t i = 0;

    for (; o->output && i < ARRAY_SIZE(forms); i++) {
        if (strcmp(o->output, forms[i]) == 0)
            break;
    }
    if (i == ARRAY_SIZE(forms))
        return err_set(err, -EINVAL, ERR_CLI_0014,
                       "--output is text, csv or json, not \"%.40s\"",
                       o->output);
    o->out = o->output ? (enum output)i : OUT_TEXT;
    o->timeout_ms = UINT64_C(600) * 1000;
    if (o->timeout && text_parse_duration(o->timeout, &o->timeout_ms) < 0)
        return err_set(err, -EINVAL, ERR_CLI_0014,
                       "--timeout \"%.40s\" is no time such as 30s or 10min",
                       o->timeout);
    if (o->wait && o->no_wait)
        return err_set(err, -EINVAL, ERR_CLI_0014,
                       "--wait and --no-wait exclude each other");
    o->limit_n = -1;
    if (o->limit) {
        if (text_parse_u64(o->limit, 0, UINT64_C(100) * 1000 * 1000, &n) < 0)
            return err_set(err, -EINVAL, ERR_CLI_0014,
                           "--limit \"%.40s\" is no number of rows", o->limit);
        o->limit_n = (long)n;
    }
    return 0;
}

int
options_parse(int argc, char *const *argv, struct options *out, struct err *err)
{
    struct options o = { .n_words = 0 };
    bool words_only = false;
    int rc = 0;

    for (int i = 1; i < argc && rc == 0; i++) {
        const char *a = argv[i];

        if (!words_only && strcmp(a, "--") == 0) {
            words_only = true;
        } else if (!words_only && strcmp(a, "-h") == 0) {
            o.help = true;
        } else if (!words_only && a[0] == '-' && a[1] == '-') {
            rc = take_option(argc, argv, &i, &o, err);
        } else if (!words_only && a[0] == '-' && a[1]) {
            rc = err_set(err, -EINVAL, ERR_CLI_0014, "there is no option %.60s",
                         a);
        } else if (o.n_words == VALUES_MAX) {
            rc = err_set(err, -EINVAL, ERR_CLI_0014, "too many words");
        } else {
            o.words[o.n_words++] = a;
        }
    }
    if (rc == 0)
        rc = convert(&o, err);
    if (rc == 0)
        *out = o;
    return rc;
}

static bool
given(const struct options *o, const struct option_def *d)
{
    const void *field = (const char *)o + d->offset;

    if (!d->value)
        return *(const bool *)field;
    if (d->many)
        return ((const struct values *)field)->n > 0;
    return *(const char *const *)field != NULL;
}

/* Names of files may be any bytes; all else becomes text of a request. */
static bool
holds_text(const struct options *o, const struct option_def *d)
{
    const void *field = (const char *)o + d->offset;
    const struct values *list = field;

    if (!d->value || strcmp(d->value, "FILE") == 0 || !given(o, d))
        return true;
    for (size_t i = 0; i < (d->many ? list->n : 1); i++) {
        const char *s = d->many ? list->v[i] : *(const char *const *)field;

        if (!text_utf8_ok(s, strlen(s)))
            return false;
    }
    return true;
}

static bool
holds_empty(const struct options *o, const struct option_def *d)
{
    const void *field = (const char *)o + d->offset;
    const struct values *list = field;

    if (!d->value || !given(o, d))
        return false;
    if (!d->many)
        return !(*(const char *const *)field)[0];
    for (size_t i = 0; i < list->n; i++) {
        if (!list->v[i][0])
            return true;
    }
    return false;
}

int
options_check(const struct options *o, const char *command, unsigned groups,
              struct err *err)
{
    for (size_t i = 0; i < n_option_defs; i++) {
        const struct option_def *d = &option_defs[i];

        if (!(d->groups & (groups | G_ALL)) && given(o, d))
            return err_set(err, -EINVAL, ERR_CLI_0014,
                           "holdfast %s has no option --%s", command, d->name);
        if (!holds_text(o, d))
            return err_set(err, -EINVAL, ERR_CLI_0014,
                           "--%s is not valid UTF-8", d->name);
        if (!(d->groups & G_EMPTY) && holds_empty(o, d))
            return err_set(err, -EINVAL, ERR_CLI_0014,
                           "--%s is empty; it needs %s", d->name, d->value);
    }
    return 0;
}

void
options_help(unsigned groups, struct buf *out)
{
    char left[64];

    for (size_t i = 0; i < n_option_defs; i++) {
        const struct option_def *d = &option_defs[i];

        if (!(d->groups & groups))
            continue;
        (void)snprintf(left, sizeof left, "--%s%s%s", d->name,
                       d->value ? " " : "", d->value ? d->value : "");
        (void)buf_addf(out, "  %-22s %s\n", left, d->help);
    }
}
