/* Damage and the points that need it: see damage.h. */
#include "journal/damage.h"

#include <stdlib.h>
#include <string.h>

enum {
    SPANS_MAX = 1024 /* then the last one grows */
};

struct damage_map {
    struct extmap *open;      /* exposed now */
    struct man_damage *items; /* by seq */
    size_t n_items, next;
    struct journal_volume vols[LANE_VOLUMES_MAX];
    unsigned n_vols;
    uint64_t upto;
    struct damage_span *spans;
    size_t n_spans;
};

static int
by_seq(const void *pa, const void *pb)
{
    const struct man_damage *a = pa, *b = pb;

    return a->seq < b->seq ? -1 : a->seq > b->seq;
}

/* A span is open while something is exposed. */
static struct damage_span *
span_open(struct damage_map *m)
{
    struct damage_span *s = m->n_spans ? &m->spans[m->n_spans - 1] : NULL;

    return s && s->until == UINT64_MAX ? s : NULL;
}

static void
expose(struct damage_map *m, const struct man_damage *d)
{
    struct damage_span *s = span_open(m);

    if (!s && m->n_spans == SPANS_MAX) {
        s = &m->spans[SPANS_MAX - 1];
        s->until = UINT64_MAX;
    } else if (!s) {
        s = &m->spans[m->n_spans++];
        *s = (struct damage_span){ .from = d->seq,
                                   .until = UINT64_MAX,
                                   .first = *d };
    }
    s->ranges++;
}

static int
put(struct damage_map *m, uint16_t vol, uint64_t off, uint64_t len)
{
    uint64_t from = ext_key(vol, off / 512), to = from + len / 512;
    int rc = 0;

    for (uint64_t n; rc == 0 && from < to; from += n) {
        n = MIN(to - from, (uint64_t)EXT_LEN_MAX);
        rc = extmap_put(m->open,
                        &(struct ext_rec){ .key = from,
                                           .len512 = (uint32_t)n,
                                           .chunk = EXT_CHUNK_UNKNOWN });
    }
    return rc;
}

static int
put_item(struct damage_map *m, const struct man_damage *d)
{
    int rc = 0;

    expose(m, d);
    if (d->vol != MAN_ALL_VOLUMES)
        return put(m, d->vol, d->off, d->len);
    for (unsigned i = 0; i < m->n_vols && rc == 0; i++)
        rc = put(m, m->vols[i].vol, 0, m->vols[i].size);
    return rc;
}

/* Items of entries before seq. */
static int
put_items(struct damage_map *m, uint64_t seq)
{
    int rc = 0;

    while (rc == 0 && m->next < m->n_items && m->items[m->next].seq < seq)
        rc = put_item(m, &m->items[m->next++]);
    return rc;
}

static void
close_span(struct damage_map *m, uint64_t seq)
{
    struct damage_span *s = span_open(m);

    if (s && extmap_count(m->open) == 0)
        s->until = seq;
}

int
damage_map_new(const struct man_damage *items, size_t n_items,
               const struct man_bad *bad, size_t n_bad, uint64_t promoted,
               const struct journal_volume *vols, unsigned n_vols,
               struct damage_map **out)
{
    struct damage_map *m = calloc(1, sizeof *m);
    int rc = 0;

    if (!m)
        return -ENOMEM;
    m->open = extmap_new();
    m->items = calloc(n_items + 1, sizeof *m->items);
    m->spans = calloc(SPANS_MAX, sizeof *m->spans);
    if (!m->open || !m->items || !m->spans)
        rc = -ENOMEM;
    memcpy(m->vols, vols, n_vols * sizeof *vols);
    m->n_vols = n_vols;
    m->upto = promoted;
    for (size_t i = 0; i < n_items && rc == 0; i++)
        if (items[i].seq > promoted)
            m->items[m->n_items++] = items[i];
    if (rc == 0 && m->n_items)
        qsort(m->items, m->n_items, sizeof *m->items, by_seq);
    if (n_bad == 0 && m->n_items) /* nothing is exposed before */
        m->upto = MAX(promoted, m->items[0].seq - 1);
    for (size_t i = 0; i < n_bad && rc == 0; i++) {
        const struct man_damage d = { .vol = bad[i].vol,
                                      .off = bad[i].off,
                                      .len = bad[i].len };

        rc = put_item(m, &d);
    }
    if (rc < 0)
        damage_map_free(m);
    else
        *out = m;
    return rc;
}

void
damage_map_free(struct damage_map *m)
{
    if (!m)
        return;
    extmap_free(m->open);
    free(m->items);
    free(m->spans);
    free(m);
}

static int
walk_entry(void *arg, const struct seg_entry *se)
{
    struct damage_map *m = arg;
    uint64_t from = ext_key(se->e.vol, se->e.off512);
    bool writes = entry_is_write(&se->e) || entry_is_zero(&se->e);
    int rc = put_items(m, se->seq); /* those of this entry: with the next */

    if (rc == 0 && writes && se->e.len512 && extmap_count(m->open) > 0)
        rc = extmap_cut(m->open, from, from + se->e.len512);
    close_span(m, se->seq);
    return rc;
}

int
damage_walk(struct damage_map *m, const struct segment_ops *seg, uint32_t no,
            uint64_t upto)
{
    int rc = seg->walk(seg->arg, no, m->upto, upto, walk_entry, m, NULL);

    return rc == -ENOMEM ? rc : 0;
}

int
damage_walked(struct damage_map *m, uint64_t upto)
{
    int rc = put_items(m, upto + 1);

    m->upto = MAX(m->upto, upto);
    return rc;
}

uint64_t
damage_upto(const struct damage_map *m)
{
    return m->upto;
}

bool
damage_exposed(const struct damage_map *m)
{
    return extmap_count(m->open) > 0;
}

const struct damage_span *
damage_spans(const struct damage_map *m, size_t *out_n)
{
    *out_n = m->n_spans;
    return m->spans;
}
