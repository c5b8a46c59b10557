/* The overlay of a view's volume: what was written since the view was opened.
 *
 * docs/formats/view.md has the byte tables.  A sparse data file of the volume's
 * size, and a map file that says which 4 KiB blocks of it count.  The map is in
 * memory in pages made on demand.  On disk each page and the header have two
 * slots.  A flush syncs the data, writes the changed pages into their older
 * slots and syncs them, then writes the header (one sector) that makes them
 * count: it holds the number of the flush and a sum over all pages, so that a
 * page that is lost or stale is noticed and never guessed at.
 *
 * The map in memory belongs to the loop's thread; data is moved by workers,
 * which the owner keeps from overlapping (view.c).
 */
#ifndef HOLDFAST_JOURNAL_OVERLAY_H
#define HOLDFAST_JOURNAL_OVERLAY_H

#include "io/file.h"
#include "lane/batch.h"

enum {
    OVERLAY_VERSION = 1,
    OVERLAY_BLOCK = 4096,
    OVERLAY_PAGE = 4096,
    OVERLAY_PAGE_BITS = (OVERLAY_PAGE - 32) * 8, /* blocks a map page covers */
    OVERLAY_PAGES_MAX = 1 << 22,
};
#define OVERLAY_MAGIC      0x6c6f6648u /* "Hfol" */
#define OVERLAY_PAGE_MAGIC 0x706f6648u /* "Hfop" */

struct overlay_header {
    struct view_id view;
    uint16_t vol;
    uint64_t size;      /* of the volume */
    uint64_t flush_no;  /* pages of later flushes do not count */
    uint64_t pages_sum; /* of overlay_page_mix() over the pages that count */
};
struct overlay_page {
    uint32_t page_no;
    uint64_t gen; /* number of the flush that wrote it, from 1 */
    uint8_t bits[OVERLAY_PAGE_BITS / 8];
};
/* OVERLAY_PAGE bytes each; -ENODATA, -EBADMSG, -EPROTONOSUPPORT. */
void overlay_header_encode(const struct overlay_header *h, uint8_t *out);
int
overlay_header_decode(const uint8_t *p, size_t len, struct overlay_header *out);
/* Ties the pages to their file: the CRC of view, volume and size. */
uint32_t overlay_tag(const struct overlay_header *h);
uint64_t overlay_page_mix(uint32_t page_no, uint64_t gen);
void
overlay_page_encode(const struct overlay_page *pg, uint32_t tag, uint8_t *out);
/* 1: a page of all zeros, never written. */
int overlay_page_decode(const uint8_t *p, size_t len, uint32_t tag,
                        struct overlay_page *out);

struct overlay;

/* Blocking.  Creates the two files, or opens what was there. */
int overlay_open(struct io_loop *loop, const char *dir,
                 const struct overlay_header *h, bool create,
                 struct overlay **out, struct err *err);
void overlay_close(struct overlay *o);
void overlay_remove(struct io_loop *loop, const char *dir,
                    const struct overlay_header *h);

/* Loop's thread.  A block that is there holds data, or zeros that take no
 * space. */
bool overlay_has(const struct overlay *o, uint64_t block);
/* Blocks of [first, first + n) that hold no data yet: what writing it costs. */
uint64_t overlay_cost(const struct overlay *o, uint64_t first, uint64_t n);
/* End of the stretch of blocks from `first` on that are all there or all not;
 * at most `end`. */
uint64_t overlay_stretch(const struct overlay *o, uint64_t first, uint64_t end,
                         bool *out_has);
/* Make the map's memory for a range, so that overlay_mark() cannot fail. */
int overlay_prepare(struct overlay *o, uint64_t first, uint64_t n);
void overlay_mark(struct overlay *o, uint64_t first, uint64_t n, bool data);
uint64_t overlay_data_blocks(const struct overlay *o);
bool overlay_can_punch(struct overlay *o);

/* Workers. */
int overlay_read(struct overlay *o, void *buf, uint64_t len, uint64_t off);
int
overlay_write(struct overlay *o, const void *buf, uint64_t len, uint64_t off);
int overlay_zero(struct overlay *o, uint64_t len, uint64_t off, bool keep);
int overlay_extents(struct overlay *o, uint64_t off, uint64_t len,
                    struct io_extent *out, size_t max);

/* A flush: begin on the loop's thread takes a copy of the changed map pages;
 * run on a worker; end on the loop's thread.  One at a time. */
struct overlay_flush;
int overlay_flush_begin(struct overlay *o, struct overlay_flush **out);
int overlay_flush_run(struct overlay_flush *f, struct err *err);
void overlay_flush_end(struct overlay_flush *f, int res);

#endif
