/* The bounded cache of index pages, one for all journals of the process.
 *
 * A page is checked once, when it is read; from then on its bytes are trusted.
 * Pages in use are pinned; of the others the least recently used goes when the
 * limit is reached.  When everything is pinned a page is lent beyond the limit
 * and freed on release, so a reader never waits for another.  Any thread.
 */
#ifndef HOLDFAST_JOURNAL_PAGECACHE_H
#define HOLDFAST_JOURNAL_PAGECACHE_H

#include "common/bytes.h"
#include "common/err.h"

enum {
    PAGECACHE_PAGE = 4096,
    PAGECACHE_DEFAULT = 4096 /* pages: 16 MiB */
};

struct cached_page;

/* A number never given before in this process, for the pages of one file. */
uint64_t pagecache_file_id(void);
/* The page no of a file.  On a miss load(arg, no, buf) reads and checks it on
 * this thread, outside all locks.  0 and a pinned page, or load's error. */
int
pagecache_get(uint64_t file_id, uint64_t no,
              int (*load)(void *arg, uint64_t no, uint8_t *buf, struct err *err),
              void *arg, struct cached_page **out, struct err *err);
const uint8_t *pagecache_data(const struct cached_page *p);
void pagecache_put(struct cached_page *p);
/* Forget a file's pages: none is pinned any more. */
void pagecache_forget(uint64_t file_id);
/* Limit in pages; what is above it goes as it is released. */
void pagecache_set_limit(size_t pages);

struct pagecache_stats {
    uint64_t hits, misses;
    size_t pages, limit;
};
void pagecache_stats(struct pagecache_stats *out);

#endif
