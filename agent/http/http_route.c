/* See http_route.h.  A linear walk over the rows: a hundred comparisons cost
 * less than the TLS record that brought the request. */
#include "http/http_route.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "common/bytes.h"
#include "common/text.h"

/* Bits of the literal segments that matched, the leftmost highest: of two
 * matching rows the one with the greater score is the more exact.  0: none. */
static unsigned
match_path(const char *pattern, const struct http_target *t,
           struct http_match *m)
{
    unsigned score = 1;
    size_t i = 0;

    m->n_params = 0;
    while (*pattern == '/') {
        const char *seg = pattern + 1;
        size_t n = strcspn(seg, "/");

        if (i == t->n_segments)
            return 0;
        score <<= 1;
        if (*seg == '{') {
            if (m->n_params == HTTP_ROUTE_PARAMS_MAX)
                return 0;
            m->params[m->n_params++] =
                (struct http_field){ seg + 1, t->segments[i] };
        } else if (strlen(t->segments[i]) == n &&
                   strncasecmp(seg, t->segments[i], n) == 0) {
            score |= 1;
        } else {
            return 0;
        }
        pattern = seg + n;
        i++;
    }
    return i == t->n_segments ? score : 0;
}

static void
add_allowed(char *allow, size_t cap, const char *method)
{
    size_t len = strlen(allow);

    if (!strstr(allow, method))
        (void)snprintf(allow + len, cap - len, "%s%s", len ? ", " : "", method);
}

int
http_route_match(const struct http_router *r, const char *method,
                 const struct http_target *t, struct http_match *out_match,
                 char *allow, size_t allow_cap)
{
    struct http_match best = { .route = NULL }, m = { .route = NULL };
    unsigned best_score = 0, path_score = 0;

    for (size_t i = 0; i < r->n_tables; i++) {
        for (const struct http_route *row = r->tables[i]; row->method; row++) {
            unsigned score = match_path(row->path, t, &m);

            if (score > path_score) {
                path_score = score;
                allow[0] = '\0';
            }
            if (score && score == path_score)
                add_allowed(allow, allow_cap, row->method);
            if (score > best_score && strcmp(row->method, method) == 0) {
                best_score = score;
                best = m;
                best.route = row;
            }
        }
    }
    /* A literal path with other methods is not answered by a {name} row. */
    if (!path_score)
        return -ENOENT;
    if (best_score < path_score)
        return -EPERM;
    *out_match = best;
    return 0;
}
