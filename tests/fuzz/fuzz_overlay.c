/* room: journal lane io common */
/* Header and pages of an overlay's map. */
#include <stdlib.h>
#include <string.h>

#include "journal/overlay.h"

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

int
LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    static struct overlay_page pg, pg2;
    static uint8_t again[OVERLAY_PAGE];
    struct overlay_header h, h2;

    if (overlay_header_decode(p, n, &h) == 0) {
        overlay_header_encode(&h, again);
        if (overlay_header_decode(again, OVERLAY_PAGE, &h2) != 0 ||
            h.size != h2.size || h.flush_no != h2.flush_no || h.vol != h2.vol)
            abort();
    }
    if (n >= OVERLAY_PAGE &&
        overlay_page_decode(p, n, get_le32(p + 4), &pg) == 0) {
        overlay_page_encode(&pg, 7, again);
        if (overlay_page_decode(again, OVERLAY_PAGE, 7, &pg2) != 0 ||
            memcmp(pg.bits, pg2.bits, sizeof pg.bits) != 0 ||
            pg.page_no != pg2.page_no || pg.gen == 0)
            abort();
    }
    return 0;
}
