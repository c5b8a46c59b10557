/* Rows and cells: kept in one flat array, sorted through an index so that
 * equal rows keep their order. */
#include "tui/client/rows.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/bytes.h"
#include "common/text.h"

static const struct {
    const char *word;
    char sign;
} severities[SEV_COUNT] = {
    [SEV_GOOD] = { "good", ' ' },       [SEV_PROGRESS] = { "progress", '+' },
    [SEV_UNKNOWN] = { "unknown", '?' }, [SEV_STALE] = { "stale", '~' },
    [SEV_WARNING] = { "warning", '*' }, [SEV_CRITICAL] = { "critical", '!' },
};

const char *
severity_word(enum severity s)
{
    return severities[s < SEV_COUNT ? s : SEV_UNKNOWN].word;
}

char
severity_sign(enum severity s)
{
    return severities[s < SEV_COUNT ? s : SEV_UNKNOWN].sign;
}

void
rows_init(struct rows *r, const struct table *table)
{
    *r = (struct rows){ .table = table };
}

static void
wipe_row(struct rows *r, size_t row)
{
    for (size_t i = 0; i < r->table->n_columns; i++)
        free(rows_cell(r, row, i)->text);
}

void
rows_release(struct rows *r)
{
    for (size_t i = 0; i < r->n; i++)
        wipe_row(r, i);
    free(r->cells);
    *r = (struct rows){ .table = r->table };
}

struct cell *
rows_cell(const struct rows *r, size_t row, size_t column)
{
    return &r->cells[row * r->table->n_columns + column];
}

int
table_column(const struct table *t, const char *field)
{
    for (size_t i = 0; i < t->n_columns; i++) {
        if (text_icmp(t->columns[i].field, field) == 0)
            return (int)i;
    }
    return -1;
}

struct cell *
rows_field(const struct rows *r, size_t row, const char *field)
{
    int i = table_column(r->table, field);

    return i < 0 ? NULL : rows_cell(r, row, (size_t)i);
}

void
rows_add(struct rows *r)
{
    size_t n = r->table->n_columns;

    if (r->failed)
        return;
    if (r->n == r->cap) {
        size_t cap = r->cap ? r->cap * 2 : 64;
        struct cell *more = r->n >= ROWS_MAX
                                ? NULL
                                : reallocarray(r->cells, cap * n, sizeof *more);

        if (!more) {
            r->failed = -ENOMEM;
            return;
        }
        r->cells = more;
        r->cap = cap;
    }
    for (size_t i = 0; i < n; i++)
        r->cells[r->n * n + i] = (struct cell){ .kind = CELL_UNKNOWN };
    r->n++;
}

static struct cell *
cell_to_set(struct rows *r, const char *field)
{
    struct cell *c;

    if (r->failed || !r->n)
        return NULL;
    c = rows_field(r, r->n - 1, field);
    assert(c);
    if (c)
        free(c->text);
    return c;
}

void
rows_set_text(struct rows *r, const char *field, const char *text)
{
    struct cell *c = cell_to_set(r, field);
    char *copy;

    if (!c)
        return;
    *c = (struct cell){ .kind = CELL_UNKNOWN };
    if (!text)
        return;
    copy = strdup(text);
    if (!copy) {
        r->failed = -ENOMEM;
        return;
    }
    text_clean(copy);
    *c = (struct cell){ .kind = CELL_TEXT, .text = copy };
}

void
rows_set_number(struct rows *r, const char *field, double number)
{
    struct cell *c = cell_to_set(r, field);

    if (c)
        *c = (struct cell){ .kind = CELL_NUMBER, .number = number };
}

void
rows_set_bool(struct rows *r, const char *field, bool value)
{
    struct cell *c = cell_to_set(r, field);

    if (c)
        *c = (struct cell){ .kind = CELL_BOOL, .number = value };
}

/* ---- Order --------------------------------------------------------------- */

struct sort_key {
    size_t column;
    bool turned;
};

struct sort {
    const struct rows *rows;
    struct sort_key keys[COLUMNS_MAX];
    size_t n_keys;
};

static int
compare_cells(const struct cell *a, const struct cell *b)
{
    if (a->kind == CELL_TEXT && b->kind == CELL_TEXT) {
        int rc = text_icmp(a->text, b->text);

        return rc ? rc : strcmp(a->text, b->text);
    }
    return (a->number > b->number) - (a->number < b->number);
}

static int
compare_rows(const void *pa, const void *pb, void *arg)
{
    const struct sort *s = arg;
    size_t a = *(const size_t *)pa, b = *(const size_t *)pb;

    for (size_t i = 0; i < s->n_keys; i++) {
        const struct cell *x = rows_cell(s->rows, a, s->keys[i].column);
        const struct cell *y = rows_cell(s->rows, b, s->keys[i].column);
        int rc;

        if (x->kind == CELL_UNKNOWN || y->kind == CELL_UNKNOWN)
            rc = (x->kind == CELL_UNKNOWN) - (y->kind == CELL_UNKNOWN);
        else
            rc = s->keys[i].turned ? compare_cells(y, x) : compare_cells(x, y);
        if (rc)
            return rc;
    }
    return (a > b) - (a < b);
}

static int
parse_keys(const struct table *t, const char *keys, struct sort *s,
           struct err *err)
{
    char copy[512], *parts[COLUMNS_MAX];
    int n;

    if (snprintf(copy, sizeof copy, "%s", keys) >= (int)sizeof copy)
        return err_set(err, -EINVAL, ERR_CLI_0008, "--sort is too long");
    n = text_split(copy, ',', parts, ARRAY_SIZE(parts));
    if (n < 0)
        return err_set(err, -EINVAL, ERR_CLI_0008,
                       "--sort names more than %d fields", COLUMNS_MAX);
    for (int i = 0; i < n; i++) {
        const char *name = text_trim(parts[i]);
        bool turned = name[0] == '-';
        int column;

        name += turned || name[0] == '+';
        column = table_column(t, name);
        if (column < 0)
            return err_set(err, -EINVAL, ERR_CLI_0008,
                           "--sort: %s has no field \"%s\"", t->name, name);
        s->keys[s->n_keys++] =
            (struct sort_key){ .column = (size_t)column, .turned = turned };
    }
    return 0;
}

int
rows_sort(struct rows *r, const char *keys, struct err *err)
{
    struct sort s = { .rows = r };
    size_t row_size = r->table->n_columns * sizeof *r->cells;
    size_t *order;
    struct cell *sorted;
    int rc = parse_keys(r->table, keys, &s, err);

    if (rc < 0 || r->n < 2)
        return rc;
    order = calloc(r->n, sizeof *order);
    sorted = calloc(r->n, row_size);
    if (!order || !sorted) {
        free(order);
        free(sorted);
        return err_set(err, -ENOMEM, ERR_GEN_0002, "sort: out of memory");
    }
    for (size_t i = 0; i < r->n; i++)
        order[i] = i;
    qsort_r(order, r->n, sizeof *order, compare_rows, &s);
    for (size_t i = 0; i < r->n; i++)
        memcpy(sorted + i * r->table->n_columns, rows_cell(r, order[i], 0),
               row_size);
    free(order);
    free(r->cells);
    r->cells = sorted;
    r->cap = r->n;
    return 0;
}

void
rows_filter(struct rows *r,
            bool (*keep)(const struct rows *r, size_t row, void *arg), void *arg)
{
    size_t row_size = r->table->n_columns * sizeof *r->cells, n = 0;

    for (size_t i = 0; i < r->n; i++) {
        if (!keep(r, i, arg)) {
            wipe_row(r, i);
            continue;
        }
        if (n != i)
            memmove(rows_cell(r, n, 0), rows_cell(r, i, 0), row_size);
        n++;
    }
    r->n = n;
}

void
rows_cut(struct rows *r, long n)
{
    size_t want = (size_t)(n < 0 ? -n : n), first;

    if (r->n <= want)
        return;
    first = n < 0 ? r->n - want : 0;
    for (size_t i = 0; i < r->n; i++) {
        if (i < first || i >= first + want)
            wipe_row(r, i);
    }
    if (want)
        memmove(r->cells, rows_cell(r, first, 0),
                want * r->table->n_columns * sizeof *r->cells);
    r->n = want;
}

/* ---- For people ----------------------------------------------------------- */

static void
format_bytes(double v, const char *per, char *out, size_t cap)
{
    static const char *const units[] = { "B", "KB", "MB", "GB", "TB", "PB" };
    size_t u = 0;

    while (v >= 1024 && u + 1 < ARRAY_SIZE(units)) {
        v /= 1024;
        u++;
    }
    (void)snprintf(out, cap, u && v < 10 ? "%.1f %s%s" : "%.0f %s%s", v,
                   units[u], per);
}

static void
format_time(double ms, char *out, size_t cap)
{
    time_t s = (time_t)(ms / 1000);
    struct tm tm;

    if (!gmtime_r(&s, &tm) || !strftime(out, cap, "%m-%d %H:%M:%S", &tm))
        (void)snprintf(out, cap, "?");
}

static void
format_moment(double ms, char *out, size_t cap)
{
    size_t n;

    format_time(ms, out, cap);
    n = strlen(out);
    (void)snprintf(out + n, cap - n, ".%03d", (int)fmod(ms, 1000));
}

static void
format_duration(double seconds, char *out, size_t cap)
{
    unsigned long long s = seconds < 0 ? 0 : (unsigned long long)seconds;

    if (s >= 100ull * 3600)
        (void)snprintf(out, cap, "%llu d", s / 86400);
    else
        (void)snprintf(out, cap, "%02llu:%02llu:%02llu", s / 3600, s / 60 % 60,
                       s % 60);
}

void
cell_format(const struct column *c, const struct cell *cell,
            char out[CELL_TEXT_SIZE])
{
    size_t cap = CELL_TEXT_SIZE;
    double v = cell->number;

    if (cell->kind == CELL_TEXT) {
        (void)text_safe(out, cap, cell->text, strlen(cell->text));
        return;
    }
    if (cell->kind == CELL_BOOL) {
        (void)snprintf(out, cap, "%s", v != 0 ? "yes" : "no");
        return;
    }
    if (cell->kind == CELL_UNKNOWN || !isfinite(v)) {
        /* What does not apply is no question. */
        (void)snprintf(out, cap, "%s",
                       c->format == FMT_TEXT || c->format == FMT_PERCENT  ? ""
                       : c->format == FMT_TIME || c->format == FMT_MOMENT ? "-"
                                                                          : "?");
        return;
    }
    switch (c->format) {
    case FMT_SIGN:
        (void)snprintf(out, cap, "%c", severity_sign((enum severity)v));
        break;
    case FMT_BYTES: format_bytes(v, "", out, cap); break;
    case FMT_RATE: format_bytes(v, "/s", out, cap); break;
    case FMT_DURATION: format_duration(v, out, cap); break;
    case FMT_PERCENT: (void)snprintf(out, cap, "%.0f%%", v); break;
    case FMT_TIME: format_time(v, out, cap); break;
    case FMT_MOMENT: format_moment(v, out, cap); break;
    case FMT_MILLISECONDS: (void)snprintf(out, cap, "%.0f ms", v); break;
    case FMT_TEXT:
    case FMT_COUNT:
    case FMT_SECONDS:
    case FMT_BOOL:
        (void)snprintf(out, cap, v == floor(v) ? "%.0f" : "%.1f", v);
        break;
    }
}
