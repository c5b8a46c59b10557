/* The agent's ring: blocks of 64 KiB shared by all lanes.  Each lane has a
 * floor that no other lane can take; what lies above the sum of the floors goes
 * to whoever comes first.  The floors are at most half the ring in all: with
 * many lanes they shrink to equal parts of it, so that a busy lane among idle
 * ones always has the other half.  All memory is taken at start: a write never
 * waits for an allocator, and never fails for want of memory. */
#include <stdlib.h>

#include "capture/capture_impl.h"
#include "io/file.h"

enum {
    RING_MIN_BLOCKS = 8
};

int
ringpool_new(struct io_loop *loop, uint64_t bytes, struct ringpool **out,
             struct err *err)
{
    uint64_t n = bytes / RING_BLOCK_SIZE;
    struct ringpool *p;

    if (n < RING_MIN_BLOCKS || n >= RING_NONE)
        return err_set(err, -EINVAL, ERR_CAP_0001,
                       "ring of %llu bytes: it must be %d KiB to 255 TiB",
                       (unsigned long long)bytes,
                       RING_MIN_BLOCKS * RING_BLOCK_SIZE / 1024);
    p = calloc(1, sizeof *p);
    if (p)
        p->blocks = calloc((size_t)n, sizeof *p->blocks);
    if (p && p->blocks)
        p->base = io_mem_alloc((size_t)n * RING_BLOCK_SIZE);
    if (!p || !p->blocks || !p->base) {
        if (p)
            free(p->blocks);
        free(p);
        return err_set(err, -ENOMEM, ERR_CAP_0001,
                       "ring of %llu bytes: out of memory",
                       (unsigned long long)bytes);
    }
    p->loop = loop;
    p->n = p->n_free = (uint32_t)n;
    list_init(&p->lanes);
    /* A stack, lowest block on top: an idle ring touches little memory. */
    for (uint32_t i = 0; i < p->n; i++)
        p->blocks[i].next = i + 1 < p->n ? i + 1 : RING_NONE;
    *out = p;
    return 0;
}

void
ringpool_free(struct ringpool *p)
{
    if (!p)
        return;
    for (unsigned i = 0; i < p->bounce_n; i++)
        io_mem_free(p->bounce[i], BOUNCE_SIZE);
    io_mem_free(p->base, (size_t)p->n * RING_BLOCK_SIZE);
    free(p->blocks);
    free(p);
}

uint64_t
ringpool_used(const struct ringpool *p)
{
    return (uint64_t)(p->n - p->n_free) * RING_BLOCK_SIZE;
}

uint64_t
ringpool_size(const struct ringpool *p)
{
    return (uint64_t)p->n * RING_BLOCK_SIZE;
}

static uint32_t
lack(const struct ring_lane *l)
{
    return l->used < l->floor ? l->floor - l->used : 0;
}

static void
floors_update(struct ringpool *p)
{
    struct list *l;

    p->reserved = 0;
    list_for_each (l, &p->lanes) {
        struct ring_lane *lane = list_entry(l, struct ring_lane, link);

        lane->floor = MIN(lane->floor_wish, p->n / 2 / p->n_lanes);
        p->reserved += lack(lane);
    }
}

void
ring_lane_add(struct ringpool *p, struct ring_lane *l, uint64_t floor)
{
    l->floor_wish = (uint32_t)MIN(floor / RING_BLOCK_SIZE, (uint64_t)p->n);
    l->used = 0;
    l->want_room = false;
    list_push_back(&p->lanes, &l->link);
    p->n_lanes++;
    floors_update(p);
}

void
ring_lane_remove(struct ringpool *p, struct ring_lane *l)
{
    list_del(&l->link);
    p->n_lanes--;
    floors_update(p);
}

bool
ring_can_take(const struct ringpool *p, const struct ring_lane *l, uint64_t n)
{
    uint64_t own = lack(l);
    uint64_t shared = p->n_free > p->reserved ? p->n_free - p->reserved : 0;

    return n <= p->n_free && (n <= own || n - own <= shared);
}

uint32_t
ring_take(struct ringpool *p, struct ring_lane *l)
{
    uint32_t b = p->free_head;

    p->free_head = p->blocks[b].next;
    p->n_free--;
    if (l->used++ < l->floor)
        p->reserved--;
    p->blocks[b] = (struct ring_block){ .next = RING_NONE, .refs = 1 };
    return b;
}

void
ring_give(struct ringpool *p, struct ring_lane *l, uint32_t block)
{
    p->blocks[block].next = p->n_free ? p->free_head : RING_NONE;
    p->free_head = block;
    p->n_free++;
    if (--l->used < l->floor)
        p->reserved++;
}

uint8_t *
ring_data(const struct ringpool *p, uint32_t block)
{
    return p->base + (size_t)block * RING_BLOCK_SIZE;
}

void
ring_room(struct ringpool *p)
{
    struct list *l;

    list_for_each (l, &p->lanes) {
        struct ring_lane *lane = list_entry(l, struct ring_lane, link);

        if (!lane->want_room)
            continue;
        lane->want_room = false;
        lane->room(lane);
    }
}

bool
ring_resync_take(struct ringpool *p, uint64_t bytes)
{
    if (p->resync_bytes + bytes > ringpool_size(p) / 4)
        return false;
    p->resync_bytes += bytes;
    return true;
}

void
ring_resync_give(struct ringpool *p, uint64_t bytes)
{
    p->resync_bytes -= bytes;
}

void *
ring_bounce_take(struct ringpool *p)
{
    void *buf;

    if (p->bounce_n > 0)
        return p->bounce[--p->bounce_n];
    if (p->bounce_made == BOUNCE_MAX)
        return NULL;
    buf = io_mem_alloc(BOUNCE_SIZE);
    p->bounce_made += buf != NULL;
    return buf;
}

void
ring_bounce_give(struct ringpool *p, void *buf)
{
    p->bounce[p->bounce_n++] = buf;
}
