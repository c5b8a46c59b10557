/* Intrusive doubly linked list, circular, with the head as sentinel. */
#ifndef HOLDFAST_COMMON_LIST_H
#define HOLDFAST_COMMON_LIST_H

#include "common/bytes.h"

struct list {
    struct list *next, *prev;
};

static inline void
list_init(struct list *l)
{
    l->next = l->prev = l;
}

static inline bool
list_empty(const struct list *l)
{
    return l->next == l;
}

static inline void
list_add_before_(struct list *pos, struct list *n)
{
    n->prev = pos->prev;
    n->next = pos;
    pos->prev->next = n;
    pos->prev = n;
}

static inline void
list_push_back(struct list *head, struct list *n)
{
    list_add_before_(head, n);
}

static inline void
list_push_front(struct list *head, struct list *n)
{
    list_add_before_(head->next, n);
}

/* Take n off its list; n is left as an empty list, so this may be repeated. */
static inline void
list_del(struct list *n)
{
    n->prev->next = n->next;
    n->next->prev = n->prev;
    list_init(n);
}

static inline struct list *
list_pop_front(struct list *head)
{
    struct list *n = head->next, *next = n->next;

    if (n == head)
        return NULL;
    head->next = next;
    next->prev = head;
    list_init(n);
    return n;
}

/* Append all of src to dst; src is empty afterwards. */
static inline void
list_splice_back(struct list *dst, struct list *src)
{
    if (list_empty(src))
        return;
    src->next->prev = dst->prev;
    dst->prev->next = src->next;
    src->prev->next = dst;
    dst->prev = src->prev;
    list_init(src);
}

#define list_entry(ptr, type, member) container_of(ptr, type, member)
#define list_for_each(pos, head) \
 for ((pos) = (head)->next; (pos) != (head); (pos) = (pos)->next)
#define list_for_each_safe(pos, tmp, head)                        \
 for ((pos) = (head)->next, (tmp) = (pos)->next; (pos) != (head); \
      (pos) = (tmp), (tmp) = (pos)->next)

#endif
