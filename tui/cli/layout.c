/* Columns get the width of their widest cell; when that is too much, texts are
 * cut, the widest first, and then the columns with the lowest rank go. */
#include "tui/cli/layout.h"

#include <langinfo.h>
#include <stdio.h>
#include <string.h>
#include <wchar.h>

#include "common/bytes.h"
#include "common/text.h"

enum {
    GAP = 2
};

static bool
locale_is_utf8(void)
{
    /* NOLINTNEXTLINE(concurrency-mt-unsafe): one thread */
    return strcmp(nl_langinfo(CODESET), "UTF-8") == 0;
}

/* One character at s: its bytes, and its places on the terminal. */
static size_t
next_char(const char *s, bool utf8, size_t *out_places)
{
    uint32_t cp = 0;
    size_t n = text_utf8_next(s, strlen(s), &cp);
    int w;

    if (!n) {
        *out_places = 1;
        return 1;
    }
    if (cp < 0x80 || !utf8) {
        *out_places = 1;
        return n;
    }
    w = wcwidth((wchar_t)cp);
    *out_places = w < 0 ? 1 : (size_t)w;
    return n;
}

size_t
text_width(const char *s)
{
    bool utf8 = locale_is_utf8();
    size_t width = 0, places;

    for (; *s; s += next_char(s, utf8, &places), width += places)
        places = 0;
    return width;
}

/* What the terminal cannot show in this locale becomes '?'. */
static void
add_char(struct buf *out, const char *s, size_t n, bool utf8)
{
    uint32_t cp = 0;
    bool shown = text_utf8_next(s, n, &cp) == n &&
                 (cp < 0x80 || (utf8 && wcwidth((wchar_t)cp) >= 0));

    (void)buf_add(out, shown ? s : "?", shown ? n : 1);
}

static void
add_blanks(struct buf *out, size_t n)
{
    while (n--)
        (void)buf_add(out, " ", 1);
}

void
text_fit(struct buf *out, const char *s, size_t width, enum align align)
{
    bool utf8 = locale_is_utf8();
    size_t full = text_width(s), used = 0, places, n;

    if (full <= width && align == ALIGN_RIGHT)
        add_blanks(out, width - full);
    for (; *s; s += n, used += places) {
        n = next_char(s, utf8, &places);
        /* leave a place for the sign that something was cut */
        if (full > width && used + places + 1 > width)
            break;
        add_char(out, s, n, utf8);
    }
    if (full > width && width) {
        (void)buf_add(out, "~", 1);
        used++;
    }
    if (align != ALIGN_NONE && used < width &&
        (full > width || align == ALIGN_LEFT))
        add_blanks(out, width - used);
}

static size_t
natural_width(const struct rows *r, size_t column)
{
    const struct column *c = &r->table->columns[column];
    size_t width = text_width(c->head);
    char text[CELL_TEXT_SIZE];

    for (size_t i = 0; i < r->n; i++) {
        cell_format(c, rows_cell(r, i, column), text);
        width = MAX(width, text_width(text));
    }
    return MAX(width, (size_t)1);
}

static size_t
total_width(const struct layout *l)
{
    size_t total = 0;

    for (size_t i = 0; i < l->n; i++)
        total += l->width[i] + (i ? GAP : 0);
    return total;
}

/* The widest text that may still be cut; -1: none. */
static int
widest(const struct rows *r, const struct layout *l)
{
    int found = -1;

    for (size_t i = 0; i < l->n; i++) {
        const struct column *c = &r->table->columns[l->column[i]];

        if (c->min && l->width[i] > MAX((size_t)c->min, text_width(c->head)) &&
            (found < 0 || l->width[i] > l->width[found]))
            found = (int)i;
    }
    return found;
}

static int
least_wanted(const struct rows *r, const struct layout *l)
{
    int found = -1;
    unsigned least = 100;

    for (size_t i = 0; i < l->n; i++) {
        unsigned keep = r->table->columns[l->column[i]].keep;

        if (keep < least) {
            least = keep;
            found = (int)i;
        }
    }
    return found;
}

static void
drop(struct layout *l, size_t at)
{
    l->n--;
    memmove(&l->column[at], &l->column[at + 1],
            (l->n - at) * sizeof l->column[0]);
    memmove(&l->width[at], &l->width[at + 1], (l->n - at) * sizeof l->width[0]);
}

/* Cut texts as long as that may help; false when it cannot be enough. */
static bool
shrink(const struct rows *r, struct layout *l, size_t width)
{
    int i;

    while (total_width(l) > width) {
        i = widest(r, l);
        if (i < 0)
            return false;
        l->width[i]--;
    }
    return true;
}

void
layout_make(const struct rows *r, const size_t *pick, size_t n_pick,
            size_t width, struct layout *out)
{
    struct layout l = { .n = 0 }, try;
    int i;

    for (size_t c = 0; !n_pick && c < r->table->n_columns; c++) {
        if (r->table->columns[c].keep)
            l.column[l.n++] = c;
    }
    for (size_t k = 0; k < n_pick; k++)
        l.column[l.n++] = pick[k];
    for (size_t k = 0; k < l.n; k++)
        l.width[k] = natural_width(r, l.column[k]);
    for (;;) {
        try = l;
        if (!width || shrink(r, &try, width))
            break;
        i = n_pick ? -1 : least_wanted(r, &l);
        if (i < 0)
            break; /* what must be shown is wider than the line */
        drop(&l, (size_t)i);
    }
    *out = try;
}

static void
print_line(const struct rows *r, const struct layout *l, const size_t *row,
           struct buf *out)
{
    char text[CELL_TEXT_SIZE];
    size_t start = out->len;

    for (size_t i = 0; i < l->n; i++) {
        const struct column *c = &r->table->columns[l->column[i]];
        bool right = c->format != FMT_TEXT && c->format != FMT_SIGN &&
                     c->format != FMT_TIME && c->format != FMT_MOMENT &&
                     c->format != FMT_BOOL;
        enum align align = right           ? ALIGN_RIGHT
                           : i + 1 == l->n ? ALIGN_NONE
                                           : ALIGN_LEFT;

        if (i)
            add_blanks(out, l->column[i - 1] == 0 &&
                                    r->table->columns[0].format == FMT_SIGN
                                ? 1
                                : GAP);
        if (row)
            cell_format(c, rows_cell(r, *row, l->column[i]), text);
        text_fit(out, row ? text : c->head, l->width[i], align);
    }
    while (out->len > start && out->data[out->len - 1] == ' ')
        out->len--;
    (void)buf_add(out, "\n", 1);
}

void
layout_print(const struct rows *r, const struct layout *l, struct buf *out)
{
    print_line(r, l, NULL, out);
    for (size_t i = 0; i < r->n; i++)
        print_line(r, l, &i, out);
}

void
layout_wrap(struct buf *out, const char *text, const char *between, size_t width)
{
    size_t gap = strlen(between), used = 0;

    while (*text) {
        const char *end = strstr(text, between);
        size_t n = end ? (size_t)(end - text) : strlen(text), columns;
        char part[CELL_TEXT_SIZE];

        (void)snprintf(part, sizeof part, "%.*s", (int)n, text);
        columns = text_width(part);
        if (used && width && used + gap + columns > width) {
            (void)buf_add(out, "\n", 1);
            used = 0;
        }
        if (used)
            (void)buf_add(out, between, gap);
        used += (used ? gap : 0) + columns;
        text_fit(out, part, width && columns > width ? width : columns,
                 ALIGN_NONE);
        text += n + (end ? gap : 0);
    }
    (void)buf_add(out, "\n", 1);
}
