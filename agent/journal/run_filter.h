/* The region filter of a run: one bit a region and volume, 1: a record touches
 * it.  Regions begin at 1 MiB and are doubled while the bits are more than
 * RUN_FILTER_MAX bytes.  docs/formats/run.md, "Filter". */
#ifndef HOLDFAST_JOURNAL_RUN_FILTER_H
#define HOLDFAST_JOURNAL_RUN_FILTER_H

#include "journal/run.h"

enum {
    RUN_FILTER_VOLS_MAX = LANE_VOLUMES_MAX,
};

struct run_filter_vol {
    uint16_t vol;
    uint32_t n_regions;
    uint32_t cap; /* bytes; builder only */
    uint8_t *bits;
};

struct run_filter {
    uint32_t shift; /* of blocks of 512 */
    unsigned n;
    struct run_filter_vol v[RUN_FILTER_VOLS_MAX];
};

/* Of a filter that was built; frees its bits. */
void run_filter_release(struct run_filter *f);
size_t run_filter_size(const struct run_filter *f); /* bytes of its encoding */
/* Records come in key order. */
int run_filter_add(struct run_filter *f, const struct ext_rec *r);
void run_filter_encode(const struct run_filter *f, uint8_t *out);
/* f->shift is set; bits are borrowed from p. */
int run_filter_decode(const uint8_t *p, size_t len, struct run_filter *f);
/* May [from, to) of one volume hold a record? */
bool run_filter_test(const struct run_filter *f, uint64_t from, uint64_t to);

#endif
