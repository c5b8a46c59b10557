/* A run: an immutable sorted table of index records on disk.
 *
 * docs/formats/run.md has the byte tables.  4 KiB header, pages of 170 records
 * with a CRC each, then the fences (first key of each page), the region filter
 * and a 4 KiB footer.  Fences and filter are read and checked when the run is
 * opened; pages come through the page cache.  A run is complete or does not
 * exist: it is written under a temporary name, synced and renamed before the
 * manifest names it.
 */
#ifndef HOLDFAST_JOURNAL_RUN_H
#define HOLDFAST_JOURNAL_RUN_H

#include "io/file.h"
#include "journal/extmap.h"
#include "journal/pagecache.h"

enum {
    RUN_VERSION = 1,
    RUN_PAGE = PAGECACHE_PAGE,
    RUN_REC_SIZE = 24,
    RUN_PAGE_RECS = 170,
    RUN_REGION_SHIFT = 11,      /* of blocks of 512: 1 MiB */
    RUN_FILTER_MAX = 64 * 1024, /* bytes; regions grow beyond it */
    RUN_LEVEL_MAX = 8,
    RUN_PAGES_MAX = 1 << 24,
    RUN_NAME_MAX = 64,
};
#define RUN_MAGIC        0x6e756648u /* "Hfun" */
#define RUN_FOOTER_MAGIC 0x66756648u /* "Hfuf" */

/* What the manifest says of a run, and its header repeats. */
struct run_info {
    uint8_t level;
    uint32_t first_seg, last_seg; /* segments whose entries it holds */
    uint64_t first_seq, last_seq; /* the stretch of the log it covers */
    uint64_t records, bytes;      /* known once built */
};

struct run_header {
    struct vpg_id vpg;
    uint32_t lane;
    struct run_info info; /* records and bytes: 0 in the header */
};

struct run_footer {
    uint32_t header_crc; /* ties the footer to its header */
    uint64_t records, pages;
    uint64_t fence_off, filter_off;
    uint32_t fence_len, filter_len; /* bytes */
    uint32_t fence_crc, filter_crc;
    uint32_t region_shift;
    uint64_t first_key, last_key; /* of the first and last record */
};

/* "run.L.NNNNNNNN" */
void run_name(const struct run_info *info, char out[RUN_NAME_MAX]);
/* -EINVAL: not the name of a run. */
int run_name_parse(const char *name, uint8_t *out_level, uint32_t *out_seg);

/* Codecs: RUN_PAGE bytes each.  Decoders: -ENODATA cut, -EBADMSG damaged,
 * -EPROTONOSUPPORT newer. */
void run_header_encode(const struct run_header *h, uint8_t *out);
int run_header_decode(const uint8_t *p, size_t len, struct run_header *out);
void run_footer_encode(const struct run_footer *f, uint8_t *out);
int run_footer_decode(const uint8_t *p, size_t len, struct run_footer *out);
void run_page_encode(const struct ext_rec *recs, unsigned n, uint32_t page_no,
                     uint32_t header_crc, uint8_t *out);
/* Checks CRC, place and order; *out_n records are there. */
int run_page_check(const uint8_t *p, size_t len, uint32_t page_no,
                   uint32_t header_crc, unsigned *out_n);
void run_rec_decode(const uint8_t *p, struct ext_rec *out);

/* Build a run from records in key order (neighbours that continue each other
 * are joined) in dir: durable and under its final name on return.  Blocking.
 * out_info: h->info with records and bytes. */
int run_build(struct io_loop *loop, const char *dir, const struct run_header *h,
              struct rec_iter *src, struct run_info *out_info, struct err *err);

struct run;

/* Blocking.  -EBADMSG names file and place.  want: level, segments and seqs
 * must be as the manifest says; may be NULL. */
int run_open(struct io_loop *loop, const char *dir, const char *name,
             const struct run_header *want, struct run **out, struct err *err);
struct run *run_ref(struct run *r); /* atomic */
void run_unref(struct run *r);      /* NULL is allowed */
const struct run_info *run_info(const struct run *r);
size_t run_memory(const struct run *r); /* fences and filter, bytes */
/* May [from, to) of one volume hold a record?  From the filter alone. */
bool run_may_overlap(const struct run *r, uint64_t from, uint64_t to);

/* The parts of records inside [from, to), in order.  Any thread, one iterator
 * each. */
struct run_iter {
    struct rec_iter it;
    struct run *run;
    uint64_t to;
    uint64_t page;
    unsigned pos, n;
    struct cached_page *cp;
    uint64_t from;
    const uint8_t *data;      /* of the page at hand */
    uint8_t *buf;             /* a scan: reads past the cache, many pages */
    uint64_t buf_page, buf_n; /* which pages are in buf */
};
int run_iterate(struct run *r, uint64_t from, uint64_t to, struct run_iter *out,
                struct err *err);
/* The same over the whole run, without touching the cache. */
int run_scan(struct run *r, struct run_iter *out, struct err *err);
void run_iter_release(struct run_iter *it);
/* Read and check every page, fence and filter bit. */
int run_verify(struct run *r, uint64_t *out_bytes, struct err *err);

#endif
