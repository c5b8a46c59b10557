/* Three writers over the same rows.  CSV and JSON carry raw values in the unit
 * of the field; text is for eyes. */
#include "tui/cli/output.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/files.h"
#include "common/json.h"
#include "common/text.h"
#include "tui/cli/filter.h"
#include "tui/cli/layout.h"
#include "tui/cli/term.h"
#include "tui/client/when.h"

struct pick {
    size_t columns[COLUMNS_MAX];
    size_t n; /* 0: as the table says */
};

static int
parse_columns(const char *text, const struct table *t, struct pick *out,
              struct err *err)
{
    char copy[512], *parts[COLUMNS_MAX];
    int n;

    out->n = 0;
    if (!text)
        return 0;
    if (snprintf(copy, sizeof copy, "%s", text) >= (int)sizeof copy)
        return err_set(err, -EINVAL, ERR_CLI_0008, "--columns is too long");
    n = text_split(copy, ',', parts, ARRAY_SIZE(parts));
    if (n < 0)
        return err_set(err, -EINVAL, ERR_CLI_0008,
                       "--columns names more than %d fields", COLUMNS_MAX);
    for (int i = 0; i < n; i++) {
        const char *name = text_trim(parts[i]);
        int column = table_column(t, name);

        if (column < 0)
            return err_set(err, -EINVAL, ERR_CLI_0008,
                           "--columns: %s has no field \"%s\"", t->name, name);
        out->columns[out->n++] = (size_t)column;
    }
    return 0;
}

int
output_check(const struct options *o, const struct table *t, struct err *err)
{
    struct rows none;
    struct filter *f = NULL;
    struct pick pick;
    int rc = parse_columns(o->columns, t, &pick, err);

    rows_init(&none, t);
    if (rc == 0 && o->sort)
        rc = rows_sort(&none, o->sort, err);
    if (rc == 0 && o->filter)
        rc = filter_parse(o->filter, t, &f, err);
    filter_free(f);
    return rc;
}

/* ---- CSV -------------------------------------------------------------------------- */

void
csv_put(struct buf *out, const char *field)
{
    if (!field[strcspn(field, "\",\r\n")] && field[0] != ' ') {
        (void)buf_add(out, field, strlen(field));
        return;
    }
    (void)buf_add(out, "\"", 1);
    for (const char *p = field; *p; p++)
        (void)buf_add(out, *p == '"' ? "\"\"" : p, *p == '"' ? 2 : 1);
    (void)buf_add(out, "\"", 1);
}

/* As scripts read it: no unit, no rounding that matters, "" when unknown. */
static void
raw_text(const struct column *c, const struct cell *cell,
         char out[CELL_TEXT_SIZE])
{
    char iso[WHEN_SIZE];

    out[0] = '\0';
    if (cell->kind == CELL_UNKNOWN)
        return;
    if (cell->kind == CELL_TEXT)
        (void)snprintf(out, CELL_TEXT_SIZE, "%s", cell->text);
    else if (cell->kind == CELL_BOOL)
        (void)snprintf(out, CELL_TEXT_SIZE, "%s",
                       cell->number != 0 ? "true" : "false");
    else if (c->format == FMT_SIGN)
        (void)snprintf(out, CELL_TEXT_SIZE, "%s",
                       severity_word((enum severity)cell->number));
    else if (c->format == FMT_TIME || c->format == FMT_MOMENT)
        (void)snprintf(out, CELL_TEXT_SIZE, "%s",
                       when_iso((int64_t)cell->number, iso));
    else
        (void)snprintf(out, CELL_TEXT_SIZE,
                       cell->number == floor(cell->number) ? "%.0f" : "%.3f",
                       cell->number);
}

static void
all_columns(const struct rows *r, struct pick *pick)
{
    while (!pick->n || pick->n < r->table->n_columns) {
        pick->columns[pick->n] = pick->n;
        pick->n++;
    }
}

static void
render_csv(const struct rows *r, const struct pick *pick, struct buf *out)
{
    char text[CELL_TEXT_SIZE];

    for (size_t i = 0; i < pick->n; i++) {
        (void)buf_add(out, ",", i ? 1 : 0);
        csv_put(out, r->table->columns[pick->columns[i]].field);
    }
    (void)buf_add(out, "\n", 1);
    for (size_t row = 0; row < r->n; row++) {
        for (size_t i = 0; i < pick->n; i++) {
            const struct cell *cell = rows_cell(r, row, pick->columns[i]);

            (void)buf_add(out, ",", i ? 1 : 0);
            if (cell->kind == CELL_TEXT) {
                csv_put(out, cell->text);
                continue;
            }
            raw_text(&r->table->columns[pick->columns[i]], cell, text);
            csv_put(out, text);
        }
        (void)buf_add(out, "\n", 1);
    }
}

/* ---- JSON --------------------------------------------------------------------------- */

static void
put_cell(struct json_writer *w, const struct column *c, const struct cell *cell)
{
    char text[CELL_TEXT_SIZE];

    if (cell->kind == CELL_UNKNOWN) {
        json_put_null(w, c->field);
    } else if (cell->kind == CELL_TEXT) {
        json_put_str(w, c->field, cell->text);
    } else if (cell->kind == CELL_BOOL) {
        json_put_bool(w, c->field, cell->number != 0);
    } else if (c->format == FMT_SIGN || c->format == FMT_TIME ||
               c->format == FMT_MOMENT) {
        raw_text(c, cell, text);
        json_put_str(w, c->field, text);
    } else if (cell->number == floor(cell->number) &&
               fabs(cell->number) <= (double)JSON_INT_MAX) {
        json_put_i64(w, c->field, (int64_t)cell->number);
    } else {
        json_put_double(w, c->field, cell->number);
    }
}

static bool
any_stale(const struct rows *r)
{
    for (size_t i = 0; i < r->n; i++) {
        const struct cell *c = rows_field(r, i, "stale");

        if (c && c->kind == CELL_BOOL && c->number != 0)
            return true;
    }
    return false;
}

static void
render_json(const struct output_head *head, const struct rows *r,
            const struct pick *pick, struct buf *out)
{
    struct json_writer w;
    char iso[WHEN_SIZE];

    json_begin(&w, out);
    json_open_obj(&w, NULL);
    json_put_i64(&w, "format", OUTPUT_FORMAT);
    json_put_str(&w, "command", head->command);
    if (head->site)
        json_put_str(&w, "site", head->site);
    else
        json_put_null(&w, "site");
    json_put_str(&w, "time", when_iso(head->now_ms, iso));
    json_put_bool(&w, "stale", any_stale(r));
    json_open_array(&w, "rows");
    for (size_t row = 0; row < r->n; row++) {
        json_open_obj(&w, NULL);
        for (size_t i = 0; i < pick->n; i++)
            put_cell(&w, &r->table->columns[pick->columns[i]],
                     rows_cell(r, row, pick->columns[i]));
        json_close_obj(&w);
    }
    json_close_array(&w);
    json_close_obj(&w);
    (void)buf_add(out, "\n", 1);
}

/* ---- Text ------------------------------------------------------------------------------ */

/* Each row as a paragraph, a field a line. */
static void
render_fields(const struct rows *r, const struct pick *pick, struct buf *out)
{
    char text[CELL_TEXT_SIZE];

    for (size_t row = 0; row < r->n; row++) {
        (void)buf_add(out, "\n", row ? 1 : 0);
        for (size_t i = 0; i < pick->n; i++) {
            const struct column *c = &r->table->columns[pick->columns[i]];
            const struct cell *cell = rows_cell(r, row, pick->columns[i]);

            if (c->format == FMT_SIGN)
                (void)snprintf(text, sizeof text, "%s",
                               severity_word((enum severity)cell->number));
            else
                cell_format(c, cell, text);
            const char *shown = cell->kind == CELL_TEXT ? cell->text : text;

            (void)buf_addf(out, "%-15s ", c->field);
            text_fit(out, shown, text_width(shown), ALIGN_NONE);
            (void)buf_add(out, "\n", 1);
        }
    }
}

static void
render_table(const struct options *o, const struct rows *r,
             const struct pick *pick, size_t width, struct buf *out)
{
    struct layout l;

    if (!r->n) {
        (void)buf_addf(out, "%s\n", r->table->empty);
        return;
    }
    layout_make(r, pick->columns, pick->n, o->wide ? 0 : width, &l);
    layout_print(r, &l, out);
}

static long
row_limit(const struct options *o, const struct output_head *head)
{
    if (o->limit_n >= 0)
        return o->limit_n;
    return o->out == OUT_TEXT ? head->text_limit : 0;
}

int
output_render(const struct options *o, const struct output_head *head,
              struct rows *r, size_t width, struct buf *out, struct err *err)
{
    const char *sort = o->sort ? o->sort : r->table->sort;
    long limit = row_limit(o, head);
    struct filter *f = NULL;
    struct pick pick;
    size_t all;
    int rc = parse_columns(o->columns, r->table, &pick, err);

    if (rc == 0 && r->failed)
        rc = err_set(err, r->failed, ERR_GEN_0002, "too many rows");
    if (rc == 0 && o->filter)
        rc = filter_parse(o->filter, r->table, &f, err);
    if (rc == 0 && f)
        filter_apply(f, r);
    filter_free(f);
    if (rc == 0 && sort)
        rc = rows_sort(r, sort, err);
    if (rc < 0)
        return rc;
    all = r->n;
    if (limit > 0)
        rows_cut(r, limit);
    if (r->n < all && !o->limit)
        (void)fprintf(stderr, "%zu of %zu shown: --limit 0 shows all\n", r->n,
                      all);
    if (!pick.n && (o->out != OUT_TEXT || o->all))
        all_columns(r, &pick);
    switch (o->out) {
    case OUT_CSV: render_csv(r, &pick, out); break;
    case OUT_JSON: render_json(head, r, &pick, out); break;
    case OUT_TEXT:
        if (o->all && r->n)
            render_fields(r, &pick, out);
        else
            render_table(o, r, &pick, width, out);
        break;
    }
    return out->failed ? err_set(err, out->failed, ERR_GEN_0002,
                                 "output: too large, or out of memory")
                       : 0;
}

size_t
output_width(const struct options *o)
{
    /* NOLINTNEXTLINE(concurrency-mt-unsafe): one thread */
    const char *columns = getenv("COLUMNS");
    uint64_t n;
    size_t tty = term_columns();

    if (o->wide)
        return 0;
    if (tty)
        return tty;
    if (columns && text_parse_u64(columns, 20, 10000, &n) == 0)
        return (size_t)n;
    return LAYOUT_WIDTH;
}

int
output_write(const struct buf *b, struct err *err)
{
    struct err why = ERR_INIT;

    if (b->failed)
        return err_set(err, b->failed, ERR_GEN_0002, "output: out of memory");
    if (write_all(STDOUT_FILENO, b->data, b->len, &why) < 0)
        return err_set(err, why.num, ERR_CLI_0018, "standard output: %s",
                       err_errno(why.num));
    return 0;
}

int
output_rows(const struct options *o, const struct output_head *head,
            struct rows *r, struct err *err)
{
    struct buf b;
    int rc;

    buf_init(&b, OUTPUT_MAX);
    rc = output_render(o, head, r, output_width(o), &b, err);
    if (rc == 0)
        rc = output_write(&b, err);
    buf_release(&b);
    return rc;
}
