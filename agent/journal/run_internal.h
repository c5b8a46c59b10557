/* What run.c (reading), run_codec.c (the byte tables) and run_build.c share.
 * docs/formats/run.md. */
#ifndef HOLDFAST_JOURNAL_RUN_INTERNAL_H
#define HOLDFAST_JOURNAL_RUN_INTERNAL_H

#include "journal/run.h"

enum {
    RUN_PAGE_TRAILER = RUN_PAGE_RECS * RUN_REC_SIZE, /* 4080 */
};

/* Always true where a fuzzer makes the bytes. */
bool run_crc_ok(uint32_t have, uint32_t want);
/* The checksum that the header of h has. */
uint32_t run_header_crc(const struct run_header *h);

#endif
