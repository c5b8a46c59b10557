/* Merging of sorted record sources: see merge.h.
 *
 * Every source shows its next record.  The lowest start goes out next, the
 * newest source first where several start together, up to where a newer source
 * begins; then every source is moved behind what went out.  A newer record
 * that starts inside an older one thus cuts it, and what is left of the older
 * one behind it comes out later.
 */
#include "journal/merge.h"

#include <stdlib.h>

struct source {
    struct rec_iter *it;
    struct ext_rec head;
    bool has;
};

struct merge_iter {
    struct rec_iter it;
    bool primed;
    int failed;
    size_t n; /* newest first */
    struct source src[];
};

static int
advance(struct source *s, struct err *err)
{
    int rc = s->it->next(s->it, &s->head, err);

    s->has = rc > 0;
    return rc < 0 ? rc : 0;
}

/* Move a source to its first record above key. */
static int
skip_to(struct source *s, uint64_t key, struct err *err)
{
    while (s->has && s->head.key < key) {
        uint64_t end = ext_end(&s->head);
        int rc;

        if (end > key) {
            s->head = ext_clip(&s->head, key, end);
            return 0;
        }
        rc = advance(s, err);
        if (rc < 0)
            return rc;
    }
    return 0;
}

static int
merge_step(struct merge_iter *m, struct ext_rec *out, struct err *err)
{
    const struct source *first = NULL;
    struct ext_rec r;
    uint64_t end;

    for (size_t i = 0; i < m->n; i++)
        if (m->src[i].has && (!first || m->src[i].head.key < first->head.key))
            first = &m->src[i];
    if (!first)
        return 0;
    r = first->head;
    end = ext_end(&r);
    for (const struct source *s = m->src; s < first; s++)
        if (s->has && s->head.key < end)
            end = s->head.key;
    r = ext_clip(&r, r.key, end);
    for (size_t i = 0; i < m->n; i++) {
        int rc = skip_to(&m->src[i], end, err);

        if (rc < 0)
            return rc;
    }
    *out = r;
    return 1;
}

static int
merge_next(struct rec_iter *it, struct ext_rec *out, struct err *err)
{
    struct merge_iter *m = container_of(it, struct merge_iter, it);
    int rc;

    if (m->failed)
        return m->failed;
    if (!m->primed) {
        for (size_t i = 0; i < m->n; i++) {
            rc = advance(&m->src[i], err);
            if (rc < 0)
                return m->failed = rc;
        }
        m->primed = true;
    }
    rc = merge_step(m, out, err);
    if (rc < 0)
        m->failed = rc;
    return rc;
}

int
merge_new(struct rec_iter **src, size_t n, struct merge_iter **out)
{
    struct merge_iter *m = calloc(1, sizeof *m + n * sizeof m->src[0]);

    if (!m)
        return -ENOMEM;
    m->it.next = merge_next;
    m->n = n;
    for (size_t i = 0; i < n; i++)
        m->src[i].it = src[i];
    *out = m;
    return 0;
}

struct rec_iter *
merge_iter(struct merge_iter *m)
{
    return &m->it;
}

void
merge_free(struct merge_iter *m)
{
    free(m);
}
