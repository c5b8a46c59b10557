/* Rows of a screen or command: what tui/client/ makes of the API's objects,
 * once.  A table names its columns; names of fields are stable, since filters,
 * scripts and screen files use them.  A cell holds a clean text (nothing in it
 * can drive a terminal), a number in the unit its format names, or nothing
 * known.  Pure; the caller owns what it makes. */
#ifndef HOLDFAST_TUI_CLIENT_ROWS_H
#define HOLDFAST_TUI_CLIENT_ROWS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

enum cell_kind {
    CELL_UNKNOWN,
    CELL_TEXT,
    CELL_NUMBER,
    CELL_BOOL
};

struct cell {
    enum cell_kind kind;
    char *text;    /* CELL_TEXT: owned, clean UTF-8 */
    double number; /* CELL_NUMBER; CELL_BOOL: 0 or 1 */
};

/* What a number means and how it is shown. */
enum row_format {
    FMT_TEXT,
    FMT_SIGN,     /* enum severity */
    FMT_COUNT,    /* as it is */
    FMT_BYTES,    /* bytes, shown as "6.1 GB" */
    FMT_RATE,     /* bytes a second */
    FMT_DURATION, /* seconds, shown as 00:05:12 */
    FMT_SECONDS,
    FMT_MILLISECONDS,
    FMT_PERCENT,
    FMT_TIME,   /* milliseconds since 1970, UTC, shown as 03-14 12:41:05 */
    FMT_MOMENT, /* the same to the millisecond: what names a point */
    FMT_BOOL,
};

/* The worst of all that is known about a row, in rising order. */
enum severity {
    SEV_GOOD,
    SEV_PROGRESS,
    SEV_UNKNOWN,
    SEV_STALE,
    SEV_WARNING,
    SEV_CRITICAL,
    SEV_COUNT
};
const char *severity_word(enum severity s); /* "warning" */
char severity_sign(enum severity s);        /* '*' */

struct column {
    const char *field, *head;
    enum row_format format;
    /* Rank when space is short, the lowest goes first; 100 never goes; 0 is
     * shown only when asked for by name. */
    unsigned keep;
    unsigned min; /* a text may be cut down to this many places; 0: never */
};

enum {
    COLUMNS_MAX = 32,
    ROWS_MAX = 1000 * 1000
};

struct table {
    const char *name; /* the command's */
    const struct column *columns;
    size_t n_columns;
    const char *sort;  /* fields with ",", "-" turns one; NULL: as it comes */
    const char *empty; /* said when there is no row */
};

struct rows {
    const struct table *table;
    struct cell *cells; /* n rows of table->n_columns each */
    size_t n, cap;
    int failed; /* 0 or -ENOMEM; sticks */
};

void rows_init(struct rows *r, const struct table *table);
void rows_release(struct rows *r);
/* Begin a row of unknown cells; rows_set_*() below go to the last one.  A
 * field that the table does not have is an error of ours. */
void rows_add(struct rows *r);
void rows_set_text(struct rows *r, const char *field, const char *text);
void rows_set_number(struct rows *r, const char *field, double number);
void rows_set_bool(struct rows *r, const char *field, bool value);
struct cell *rows_cell(const struct rows *r, size_t row, size_t column);
/* NULL when the table has no such column. */
struct cell *rows_field(const struct rows *r, size_t row, const char *field);
/* -1 when there is none; names are compared in any case. */
int table_column(const struct table *t, const char *field);

/* Sort by keys such as "-severity,name".  Rows that are equal keep their
 * order; unknown cells come last either way.  -EINVAL with CLI-0008. */
int rows_sort(struct rows *r, const char *keys, struct err *err);
/* Keep the rows for which keep() is true, in their order. */
void rows_filter(struct rows *r,
                 bool (*keep)(const struct rows *r, size_t row, void *arg),
                 void *arg);
/* Keep the first (n >= 0) or the last (-n) rows. */
void rows_cut(struct rows *r, long n);

/* A cell as people read it, into out (NUL-terminated).  Unknown is "?"; a text
 * and a percentage are then left out, a time is "-". */
enum {
    CELL_TEXT_SIZE = 512
};
void cell_format(const struct column *c, const struct cell *cell,
                 char out[CELL_TEXT_SIZE]);

#endif
