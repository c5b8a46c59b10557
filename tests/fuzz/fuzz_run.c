/* room: journal lane io common */
/* Header, pages and footer of a run.  What is accepted must be in order and
 * inside its bounds, since readers trust a page once it was checked. */
#include <stdlib.h>

#include "journal/run.h"

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

static void
walk_page(const uint8_t *p, unsigned n)
{
    uint64_t after = 0;

    if (n == 0 || n > RUN_PAGE_RECS)
        abort();
    for (unsigned i = 0; i < n; i++) {
        struct ext_rec r;

        run_rec_decode(p + (size_t)i * RUN_REC_SIZE, &r);
        if (r.len512 == 0 || r.key < after || ext_end(&r) <= r.key)
            abort();
        if (ext_has_data(&r) &&
            (r.chunk >= EXT_CHUNK_MAX ||
             r.chunk_off512 + r.len512 > BATCH_CHUNK_RAW_MAX / 512))
            abort();
        after = ext_end(&r);
    }
}

int
LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    static uint8_t again[RUN_PAGE];
    struct run_header h, h2;
    struct run_footer f, f2;
    unsigned recs;

    if (run_header_decode(p, n, &h) == 0) {
        run_header_encode(&h, again);
        if (run_header_decode(again, RUN_PAGE, &h2) != 0 ||
            h.info.last_seq != h2.info.last_seq || h.lane != h2.lane)
            abort();
    }
    if (run_footer_decode(p, n, &f) == 0) {
        run_footer_encode(&f, again);
        if (run_footer_decode(again, RUN_PAGE, &f2) != 0 ||
            f.records != f2.records || f.filter_off != f2.filter_off)
            abort();
    }
    if (n >= RUN_PAGE && run_page_check(p, n, get_le32(p + 4084),
                                        get_le32(p + 4088), &recs) == 0)
        walk_page(p, recs);
    return 0;
}
