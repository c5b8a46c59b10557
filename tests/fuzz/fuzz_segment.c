/* room: journal lane io common */
/* A segment's footer (first byte even) or header from hostile bytes.  What is
 * accepted must encode to the same bytes, and its entries must stay inside. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "journal/segment.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void
footer(const uint8_t *data, size_t n)
{
    struct seg_tables *t = NULL;
    uint32_t n_entries;

    if (seg_footer_decode(data, n, n >= 12 ? get_le32(data + 8) : 0, &t, NULL) <
        0)
        return;
    n_entries = seg_tables_entries(t);
    for (uint32_t i = 0; i < atomic_load(&t->n_batches); i++) {
        const struct seg_batch *b = &t->batches[i];

        if (b->n_entries > n_entries - b->first_entry)
            abort();
        for (uint32_t k = 0; k < b->n_entries; k++)
            if (seg_entry_seq(b, k) == 0)
                abort();
    }
    seg_tables_free(t);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct seg_header h;
    uint8_t again[SEG_HEADER_SIZE];

    if (n == 0)
        return 0;
    if (data[0] % 2 == 0) {
        footer(data + 1, n - 1);
    } else if (seg_header_decode(data + 1, n - 1, &h) == 0) {
        seg_header_encode(&h, again);
        if (memcmp(again, data + 1, 108) != 0)
            abort();
    }
    return 0;
}
