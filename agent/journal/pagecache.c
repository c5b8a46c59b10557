/* The shared page cache: see pagecache.h.
 *
 * One table of chains and one list of unpinned pages, oldest use first, under
 * one lock, which is held for pointer work only.  Two threads that miss the
 * same page both read it; the second one's copy is thrown away.
 */
#include "journal/pagecache.h"

#include <pthread.h>
#include <stdlib.h>

#include "common/list.h"
#include "io/file.h"

enum {
    BUCKETS = 8192
};

struct cached_page {
    struct list lru; /* on cache.lru while unpinned and known */
    struct cached_page *next;
    uint64_t file_id, no;
    unsigned refs;
    bool known; /* in the table */
    uint8_t *data;
};

static struct {
    pthread_mutex_t lock; /* guards all below; nothing is taken after it */
    struct cached_page *bucket[BUCKETS];
    struct list lru;
    size_t pages, limit;
    uint64_t next_id, hits, misses;
} cache = {
    .lock = PTHREAD_MUTEX_INITIALIZER,
    .lru = { &cache.lru, &cache.lru },
    .limit = PAGECACHE_DEFAULT,
};

static struct cached_page **
bucket_of(uint64_t file_id, uint64_t no)
{
    uint64_t h = (file_id * UINT64_C(0x9E3779B97F4A7C15) + no) *
                 UINT64_C(0xD6E8FEB86659FD93);

    return &cache.bucket[h >> 51]; /* 13 bits */
}

static struct cached_page *
lookup_locked(uint64_t file_id, uint64_t no)
{
    struct cached_page *p = *bucket_of(file_id, no);

    while (p && (p->file_id != file_id || p->no != no))
        p = p->next;
    return p;
}

static void
page_free(struct cached_page *p)
{
    if (!p)
        return;
    if (p->data)
        io_mem_free(p->data, PAGECACHE_PAGE);
    free(p);
}

static struct cached_page *
page_new(uint64_t file_id, uint64_t no)
{
    struct cached_page *p = calloc(1, sizeof *p);

    if (!p)
        return NULL;
    p->data = io_mem_alloc(PAGECACHE_PAGE);
    if (!p->data) {
        free(p);
        return NULL;
    }
    list_init(&p->lru);
    p->file_id = file_id;
    p->no = no;
    p->refs = 1;
    return p;
}

static void
pin_locked(struct cached_page *p)
{
    if (p->refs++ == 0)
        list_del(&p->lru);
}

static void
unknow_locked(struct cached_page *p)
{
    struct cached_page **pp = bucket_of(p->file_id, p->no);

    while (*pp != p)
        pp = &(*pp)->next;
    *pp = p->next;
    p->known = false;
    list_del(&p->lru);
    cache.pages--;
}

/* Unpinned pages above the limit move to dead, to be freed unlocked. */
static void
trim_locked(struct list *dead)
{
    while (cache.pages > cache.limit && !list_empty(&cache.lru)) {
        struct cached_page *p =
            list_entry(cache.lru.next, struct cached_page, lru);

        unknow_locked(p);
        list_push_back(dead, &p->lru);
    }
}

static void
free_list(struct list *dead)
{
    struct list *l;

    while ((l = list_pop_front(dead)))
        page_free(list_entry(l, struct cached_page, lru));
}

uint64_t
pagecache_file_id(void)
{
    uint64_t id;

    pthread_mutex_lock(&cache.lock);
    id = ++cache.next_id;
    pthread_mutex_unlock(&cache.lock);
    return id;
}

/* The page that is known by now, else p becomes it. */
static struct cached_page *
publish(struct cached_page *p)
{
    struct cached_page *other, **b;
    struct list dead;

    list_init(&dead);
    pthread_mutex_lock(&cache.lock);
    other = lookup_locked(p->file_id, p->no);
    if (other) {
        pin_locked(other);
    } else {
        b = bucket_of(p->file_id, p->no);
        p->next = *b;
        *b = p;
        p->known = true;
        cache.pages++;
        trim_locked(&dead);
    }
    pthread_mutex_unlock(&cache.lock);
    free_list(&dead);
    if (other) {
        page_free(p);
        return other;
    }
    return p;
}

int
pagecache_get(uint64_t file_id, uint64_t no,
              int (*load)(void *arg, uint64_t no, uint8_t *buf, struct err *err),
              void *arg, struct cached_page **out, struct err *err)
{
    struct cached_page *p;
    int rc;

    pthread_mutex_lock(&cache.lock);
    p = lookup_locked(file_id, no);
    if (p) {
        pin_locked(p);
        cache.hits++;
    } else {
        cache.misses++;
    }
    pthread_mutex_unlock(&cache.lock);
    if (p) {
        *out = p;
        return 0;
    }
    p = page_new(file_id, no);
    if (!p)
        return err_set(err, -ENOMEM, ERR_GEN_0002,
                       "no memory for an index page of %d bytes",
                       PAGECACHE_PAGE);
    rc = load(arg, no, p->data, err);
    if (rc < 0) {
        page_free(p);
        return rc;
    }
    *out = publish(p);
    return 0;
}

const uint8_t *
pagecache_data(const struct cached_page *p)
{
    return p->data;
}

void
pagecache_put(struct cached_page *p)
{
    struct list dead;

    if (!p)
        return;
    list_init(&dead);
    pthread_mutex_lock(&cache.lock);
    if (--p->refs == 0) {
        list_push_back(&cache.lru, &p->lru);
        trim_locked(&dead);
    }
    pthread_mutex_unlock(&cache.lock);
    free_list(&dead);
}

void
pagecache_forget(uint64_t file_id)
{
    struct list *l, *tmp, dead;

    list_init(&dead);
    pthread_mutex_lock(&cache.lock);
    list_for_each_safe (l, tmp, &cache.lru) {
        struct cached_page *p = list_entry(l, struct cached_page, lru);

        if (p->file_id == file_id) {
            unknow_locked(p);
            list_push_back(&dead, &p->lru);
        }
    }
    pthread_mutex_unlock(&cache.lock);
    free_list(&dead);
}

void
pagecache_set_limit(size_t pages)
{
    struct list dead;

    list_init(&dead);
    pthread_mutex_lock(&cache.lock);
    cache.limit = pages;
    trim_locked(&dead);
    pthread_mutex_unlock(&cache.lock);
    free_list(&dead);
}

void
pagecache_stats(struct pagecache_stats *out)
{
    pthread_mutex_lock(&cache.lock);
    *out = (struct pagecache_stats){ .hits = cache.hits,
                                     .misses = cache.misses,
                                     .pages = cache.pages,
                                     .limit = cache.limit };
    pthread_mutex_unlock(&cache.lock);
}
