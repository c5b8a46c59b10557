/* The range lock; rangelock.h tells the idea. */
#include "capture/rangelock.h"

void
rangelock_init(struct rangelock *l)
{
    *l = (struct rangelock){ .rng = 0x9e3779b9 };
    list_init(&l->granted);
}

/* Marsaglia's xorshift32: balance of the tree only, so no secret. */
static uint32_t
next_prio(struct rangelock *l)
{
    l->rng ^= l->rng << 13;
    l->rng ^= l->rng >> 17;
    l->rng ^= l->rng << 5;
    return l->rng;
}

static bool
before(const struct range_node *a, const struct range_node *b)
{
    return a->start != b->start ? a->start < b->start : a->ticket < b->ticket;
}

static void
update(struct range_node *n)
{
    n->max_end = n->end;
    if (n->left && n->left->max_end > n->max_end)
        n->max_end = n->left->max_end;
    if (n->right && n->right->max_end > n->max_end)
        n->max_end = n->right->max_end;
}

/* t into those before n and the rest. */
static void
split(struct range_node *t, const struct range_node *n,
      struct range_node **out_left, struct range_node **out_right)
{
    if (!t) {
        *out_left = *out_right = NULL;
    } else if (before(t, n)) {
        split(t->right, n, &t->right, out_right);
        update(t);
        *out_left = t;
    } else {
        split(t->left, n, out_left, &t->left);
        update(t);
        *out_right = t;
    }
}

static struct range_node *
merge(struct range_node *a, struct range_node *b)
{
    if (!a || !b)
        return a ? a : b;
    if (a->prio > b->prio) {
        a->right = merge(a->right, b);
        update(a);
        return a;
    }
    b->left = merge(a, b->left);
    update(b);
    return b;
}

static struct range_node *
insert(struct range_node *t, struct range_node *n)
{
    if (!t || n->prio > t->prio) {
        split(t, n, &n->left, &n->right);
        t = n;
    } else if (before(n, t)) {
        t->left = insert(t->left, n);
    } else {
        t->right = insert(t->right, n);
    }
    update(t);
    return t;
}

static struct range_node *
erase(struct range_node *t, const struct range_node *n)
{
    if (t == n)
        return merge(t->left, t->right);
    if (before(n, t))
        t->left = erase(t->left, n);
    else
        t->right = erase(t->right, n);
    update(t);
    return t;
}

static uint32_t
count_overlaps(const struct range_node *t, const struct range_node *n)
{
    uint32_t found = 0;

    /* Down the right side in a loop, down the left by recursion. */
    for (; t && t->max_end > n->start; t = t->right) {
        found += count_overlaps(t->left, n);
        if (t->start >= n->end)
            break;
        found += t->end > n->start;
    }
    return found;
}

/* One blocker less for all that overlap n and came after it. */
static void
unblock(struct rangelock *l, struct range_node *t, const struct range_node *n)
{
    for (; t && t->max_end > n->start; t = t->right) {
        unblock(l, t->left, n);
        if (t->start >= n->end)
            break;
        if (t->end > n->start && t->ticket > n->ticket && --t->blockers == 0)
            list_push_back(&l->granted, &t->link);
    }
}

bool
rangelock_take(struct rangelock *l, struct range_node *n, uint64_t off,
               uint64_t len)
{
    n->left = n->right = NULL;
    n->start = off;
    n->end = n->max_end = off + len;
    n->ticket = l->next_ticket++;
    n->prio = next_prio(l);
    list_init(&n->link);
    n->blockers = count_overlaps(l->root, n);
    l->root = insert(l->root, n);
    return n->blockers == 0;
}

void
rangelock_release(struct rangelock *l, struct range_node *n)
{
    l->root = erase(l->root, n);
    list_del(&n->link);
    unblock(l, l->root, n);
}

struct range_node *
rangelock_pop(struct rangelock *l)
{
    struct list *link = list_pop_front(&l->granted);

    return link ? list_entry(link, struct range_node, link) : NULL;
}
