/* Filters over rows, as --filter and the console's & take them:
 *
 *   word               some text of the row holds it, or it is a yes/no field
 *   field=value  !=    the same text in any case, or the same number
 *   field<value  <= > >=
 *   field~regexp       POSIX extended, any case
 *   a and b   a b   a or b   not a   ( a )
 *
 * A value is a word or a text in quotes; numbers may carry a unit (60, 5min,
 * 1GiB, 80%); it may also be another field of the row, or a multiple of one:
 * rpo>target, rpo>2*target.  `state=ok` asks whether the row's severity is
 * good.  A comparison with something unknown is false, but != is true.
 * docs: holdfast(1), FILTERS. */
#ifndef HOLDFAST_TUI_CLI_FILTER_H
#define HOLDFAST_TUI_CLI_FILTER_H

#include "common/err.h"
#include "tui/client/rows.h"

struct filter;

/* -EINVAL with CLI-0008, which names the place. */
int filter_parse(const char *text, const struct table *table,
                 struct filter **out_filter, struct err *err);
void filter_free(struct filter *f);
bool filter_match(const struct filter *f, const struct rows *r, size_t row);
void filter_apply(const struct filter *f, struct rows *r);

#endif
