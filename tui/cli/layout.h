/* Text on a terminal: how wide it is, and tables that fit.  Pure, but for the
 * locale that the program has set. */
#ifndef HOLDFAST_TUI_CLI_LAYOUT_H
#define HOLDFAST_TUI_CLI_LAYOUT_H

#include <stdbool.h>
#include <stddef.h>

#include "common/buf.h"
#include "tui/client/rows.h"

enum {
    LAYOUT_WIDTH = 80
};

/* Places on the terminal that the text takes; clean UTF-8.  Where the locale
 * is not UTF-8, each other character is shown as one '?'. */
size_t text_width(const char *s);

/* Append s in exactly width places: cut with a closing '~', or filled up with
 * blanks on the side that align names. */
enum align {
    ALIGN_LEFT,
    ALIGN_RIGHT,
    ALIGN_NONE /* cut, but not filled: the last of a line */
};
void text_fit(struct buf *out, const char *s, size_t width, enum align align);

/* Which columns to show and how wide.  pick: column numbers in order, n_pick 0
 * for all with a rank.  width 0: no limit. */
struct layout {
    size_t column[COLUMNS_MAX];
    size_t width[COLUMNS_MAX];
    size_t n;
};
void layout_make(const struct rows *r, const size_t *pick, size_t n_pick,
                 size_t width, struct layout *out);
void layout_print(const struct rows *r, const struct layout *l, struct buf *out);

/* One or more lines of up to width columns (0: any number), broken where
 * between stands. */
void layout_wrap(struct buf *out, const char *text, const char *between,
                 size_t width);

#endif
