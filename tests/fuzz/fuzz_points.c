/* room: journal lane io common */
/* The table of checkpoints from hostile bytes: header, then records; searches in
 * what was accepted must agree with a look at each. */
#include <stdint.h>
#include <stdlib.h>

#include "journal/points.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct points p = { .first = 0 };
    struct points_header h;
    struct point_rec r;

    if (points_header_decode(data, n, &h) < 0)
        return 0;
    for (size_t at = POINTS_HEADER; at <= n; at += POINTS_REC) {
        if (point_rec_decode(data + at, n - at, h.gen, &r) < 0 ||
            points_add(&p, &r) < 0)
            break;
    }
    for (size_t i = 0; i < points_count(&p); i++) {
        const struct point_rec *q = points_at(&p, i), *w;

        if (points_find(&p, q->cut_no) != q || points_by_seq(&p, q->seq) != q)
            abort();
        w = points_by_wall(&p, q->wall_ns);
        if (!w || w->wall_ns > q->wall_ns || w < q)
            abort();
    }
    points_release(&p);
    return 0;
}
