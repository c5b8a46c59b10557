/* Rows to standard output, as text, CSV (RFC 4180) or JSON
 * (docs/cli-json.md), after filter, sort, limit and choice of columns. */
#ifndef HOLDFAST_TUI_CLI_OUTPUT_H
#define HOLDFAST_TUI_CLI_OUTPUT_H

#include "common/buf.h"
#include "common/err.h"
#include "tui/cli/options.h"
#include "tui/client/rows.h"

enum {
    OUTPUT_FORMAT = 1, /* "format" in JSON */
    OUTPUT_MAX = 256 * 1024 * 1024
};

struct output_head {
    const char *command, *site; /* site NULL: none */
    int64_t now_ms;
    long text_limit; /* rows of text when no --limit is given; 0: all */
};

/* Are --filter, --sort and --columns good ones for this table?  Before
 * anything is asked or done. */
int
output_check(const struct options *o, const struct table *t, struct err *err);
/* Changes the rows as the options say and prints them. */
int output_rows(const struct options *o, const struct output_head *head,
                struct rows *r, struct err *err);
/* The same into a buffer; width 0: no limit. */
int
output_render(const struct options *o, const struct output_head *head,
              struct rows *r, size_t width, struct buf *out, struct err *err);
/* Write all of it; CLI-0018. */
int output_write(const struct buf *b, struct err *err);
/* The terminal's width, $COLUMNS, or 80. */
size_t output_width(const struct options *o);

/* One CSV field, with its quotes where they are needed. */
void csv_put(struct buf *out, const char *field);

#endif
