/* The range lock: overlapping writes of a volume run one after the other, in
 * the order in which they asked (I2).
 *
 * All that hold or wait for a range are in one tree, ordered by start and
 * augmented with the greatest end below (Cormen et al., "Introduction to
 * Algorithms", 14.3: interval trees; balanced as a treap, Seidel and Aragon
 * 1996).  A newcomer counts the ranges in the tree that overlap its own: these
 * came first.  It holds its range when that count has fallen to nothing, since
 * everyone who leaves tells the later ones that overlap.  So there is no queue
 * per range, and nobody is overtaken by somebody who overlaps.
 *
 * Exclusive only: reads take no lock.  Allocates nothing; the node is embedded
 * in its owner.  One thread. */
#ifndef HOLDFAST_CAPTURE_RANGELOCK_H
#define HOLDFAST_CAPTURE_RANGELOCK_H

#include "common/list.h"

struct range_node {
    /* Set by the owner: to be called once a range that had to be
     * waited for is held. */
    void (*granted)(struct range_node *n);
    /* private */
    struct range_node *left, *right;
    uint64_t start, end, max_end;
    uint64_t ticket;
    uint32_t prio;
    uint32_t blockers; /* earlier ones that overlap */
    struct list link;  /* rangelock.granted */
};

struct rangelock {
    struct range_node *root;
    uint64_t next_ticket;
    uint32_t rng;
    struct list granted; /* range_node.link: callback is due */
};

void rangelock_init(struct rangelock *l);
/* Ask for [off, off + len), len > 0.  True: held from here on.  False: wait
 * for n->granted(). */
bool rangelock_take(struct rangelock *l, struct range_node *n, uint64_t off,
                    uint64_t len);
/* Give the range back, or stop waiting for it (also when the callback is
 * due but has not come).  Who becomes due is in rangelock_pop(). */
void rangelock_release(struct rangelock *l, struct range_node *n);
/* The next one whose range has become free, or NULL; the caller calls its
 * granted(). */
struct range_node *rangelock_pop(struct rangelock *l);

#endif
