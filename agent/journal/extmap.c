/* The extent map in memory: see extmap.h.
 *
 * Blocks of sorted records under a sorted array of block pointers.  A put first
 * secures the memory it may need (two blocks at most: one for the record that
 * is split in two, one for the new one), so that nothing can fail half-way.
 */
#include "journal/extmap.h"

#include <stdlib.h>
#include <string.h>

enum {
    EXTMAP_BLOCK = 256,
    EXTMAP_SPARES = 2
};

struct block {
    size_t n;
    struct ext_rec r[EXTMAP_BLOCK];
};

struct extmap {
    struct block **blocks; /* none empty */
    size_t n_blocks, cap;
    size_t count;
    struct block *spare[EXTMAP_SPARES];
    size_t n_spare;
};

struct ext_rec
ext_clip(const struct ext_rec *r, uint64_t from, uint64_t to)
{
    struct ext_rec c = *r;
    uint64_t end = ext_end(r);

    if (from > c.key) {
        if (ext_has_data(r))
            c.chunk_off512 += (uint32_t)(from - c.key);
        c.key = from;
    }
    c.len512 = (uint32_t)(MIN(end, to) - c.key);
    return c;
}

bool
ext_continues(const struct ext_rec *a, const struct ext_rec *b)
{
    if (ext_end(a) != b->key ||
        a->key >> EXT_VOL_SHIFT != b->key >> EXT_VOL_SHIFT ||
        a->chunk != b->chunk || a->len512 > EXT_LEN_MAX - b->len512)
        return false;
    return !ext_has_data(a) ||
           (a->seg == b->seg && a->chunk_off512 + a->len512 == b->chunk_off512);
}

struct extmap *
extmap_new(void)
{
    return calloc(1, sizeof(struct extmap));
}

void
extmap_free(struct extmap *m)
{
    if (!m)
        return;
    for (size_t i = 0; i < m->n_blocks; i++)
        free(m->blocks[i]);
    for (size_t i = 0; i < m->n_spare; i++)
        free(m->spare[i]);
    free(m->blocks);
    free(m);
}

size_t
extmap_count(const struct extmap *m)
{
    return m->count;
}

size_t
extmap_memory(const struct extmap *m)
{
    return sizeof *m + m->cap * sizeof(struct block *) +
           (m->n_blocks + m->n_spare) * sizeof(struct block);
}

static int
reserve(struct extmap *m)
{
    while (m->n_spare < EXTMAP_SPARES) {
        struct block *b = malloc(sizeof *b);

        if (!b)
            return -ENOMEM;
        b->n = 0;
        m->spare[m->n_spare++] = b;
    }
    if (m->cap - m->n_blocks < EXTMAP_SPARES) {
        size_t cap = m->cap ? m->cap * 2 : 16;
        struct block **p = reallocarray(m->blocks, cap, sizeof(struct block *));

        if (!p)
            return -ENOMEM;
        m->blocks = p;
        m->cap = cap;
    }
    return 0;
}

/* The block that holds the last record with a key <= key, else block 0. */
static size_t
find_block(const struct extmap *m, uint64_t key)
{
    size_t lo = 0, hi = m->n_blocks;

    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;

        if (m->blocks[mid]->r[0].key <= key)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo > 0 ? lo - 1 : 0;
}

/* The first record of b whose end lies above key; b->n: none. */
static size_t
find_in_block(const struct block *b, uint64_t key)
{
    size_t lo = 0, hi = b->n;

    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;

        if (ext_end(&b->r[mid]) <= key)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

static void
insert_block(struct extmap *m, size_t at)
{
    memmove(&m->blocks[at + 1], &m->blocks[at],
            (m->n_blocks - at) * sizeof(struct block *));
    m->blocks[at] = m->spare[--m->n_spare];
    m->blocks[at]->n = 0;
    m->n_blocks++;
}

static void
remove_block(struct extmap *m, size_t at)
{
    if (m->n_spare < EXTMAP_SPARES)
        m->spare[m->n_spare++] = m->blocks[at];
    else
        free(m->blocks[at]);
    m->n_blocks--;
    memmove(&m->blocks[at], &m->blocks[at + 1],
            (m->n_blocks - at) * sizeof(struct block *));
}

static void
insert_at(struct extmap *m, size_t bi, size_t pos, const struct ext_rec *r)
{
    struct block *b = m->blocks[bi];

    if (b->n == EXTMAP_BLOCK) {
        /* Growing at the end: leave the block full, as sequential puts go on
         * there; otherwise halve. */
        size_t keep = pos == EXTMAP_BLOCK ? EXTMAP_BLOCK : EXTMAP_BLOCK / 2;
        struct block *nb;

        insert_block(m, bi + 1);
        nb = m->blocks[bi + 1];
        nb->n = EXTMAP_BLOCK - keep;
        memcpy(nb->r, &b->r[keep], nb->n * sizeof *nb->r);
        b->n = keep;
        if (pos >= keep) {
            b = nb;
            pos -= keep;
        }
    }
    memmove(&b->r[pos + 1], &b->r[pos], (b->n - pos) * sizeof *b->r);
    b->r[pos] = *r;
    b->n++;
    m->count++;
}

/* Take [from, to) out of an m with reserve; the caller inserts at most one
 * record afterwards. */
static void
cut_reserved(struct extmap *m, uint64_t from, uint64_t to)
{
    size_t bi = find_block(m, from), pos, end;

    while (bi < m->n_blocks) {
        struct block *b = m->blocks[bi];
        struct ext_rec *r;

        pos = find_in_block(b, from);
        if (pos == b->n) {
            bi++;
            continue;
        }
        r = &b->r[pos];
        if (r->key >= to)
            return;
        if (r->key < from) {
            struct ext_rec right = *r;

            if (ext_end(r) > to) {
                right = ext_clip(r, to, ext_end(r));
                r->len512 = (uint32_t)(from - r->key);
                insert_at(m, bi, pos + 1, &right);
                return;
            }
            r->len512 = (uint32_t)(from - r->key);
            pos++;
        }
        for (end = pos; end < b->n && ext_end(&b->r[end]) <= to; end++)
            continue;
        m->count -= end - pos;
        memmove(&b->r[pos], &b->r[end], (b->n - end) * sizeof *b->r);
        b->n -= end - pos;
        if (b->n == 0) {
            remove_block(m, bi);
            continue;
        }
        if (pos < b->n) {
            if (b->r[pos].key < to)
                b->r[pos] = ext_clip(&b->r[pos], to, ext_end(&b->r[pos]));
            return;
        }
        bi++;
    }
}

int
extmap_cut(struct extmap *m, uint64_t from, uint64_t to)
{
    int rc = reserve(m);

    if (rc == 0 && from < to)
        cut_reserved(m, from, to);
    return rc;
}

int
extmap_put(struct extmap *m, const struct ext_rec *r)
{
    size_t bi;
    int rc;

    if (r->len512 == 0 || r->len512 > EXT_LEN_MAX ||
        r->len512 > EXT_OFF_MASK + 1 - (r->key & EXT_OFF_MASK))
        return -EINVAL;
    rc = reserve(m);
    if (rc < 0)
        return rc;
    cut_reserved(m, r->key, ext_end(r));
    if (m->n_blocks == 0)
        insert_block(m, 0);
    bi = find_block(m, r->key);
    insert_at(m, bi, find_in_block(m->blocks[bi], r->key), r);
    return 0;
}

static int
put_payload(struct extmap *m, uint32_t seg, const struct seg_entry *se,
            struct err *err)
{
    struct ext_rec r = { .key = ext_key(se->e.vol, se->e.off512), .seg = seg };
    uint32_t left = se->e.len512, off = se->e.chunk_off512;

    for (uint32_t i = 0; left > 0; i++, off = 0) {
        uint32_t have;
        int rc;

        if (i >= se->n_raw || se->raw_len[i] / 512 <= off)
            return err_set(err, -EBADMSG, ERR_JNL_0050,
                           "segment %u: entry %llu of %u blocks does not lie "
                           "in its chunks",
                           seg, (unsigned long long)se->seq, se->e.len512);
        have = se->raw_len[i] / 512 - off;
        r.len512 = MIN(have, left);
        r.chunk = se->chunk_base + se->e.chunk + i;
        r.chunk_off512 = off;
        rc = extmap_put(m, &r);
        if (rc < 0)
            return err_set(err, rc, ERR_GEN_0002,
                           "segment %u: entry %llu cannot be indexed: %s", seg,
                           (unsigned long long)se->seq, err_errno(rc));
        r.key += r.len512;
        left -= r.len512;
    }
    return 0;
}

int
extmap_put_entry(struct extmap *m, uint32_t seg, const struct seg_entry *se,
                 struct err *err)
{
    struct ext_rec r = { .key = ext_key(se->e.vol, se->e.off512),
                         .len512 = se->e.len512,
                         .chunk = EXT_CHUNK_ZERO };
    int rc;

    if (entry_is_write(&se->e))
        return put_payload(m, seg, se, err);
    if (se->e.type == ENTRY_DIRTY)
        r.chunk = EXT_CHUNK_UNKNOWN;
    else if (!entry_is_zero(&se->e))
        return 0;
    if (r.len512 == 0)
        return 0;
    rc = extmap_put(m, &r);
    if (rc < 0)
        return err_set(err, rc, ERR_GEN_0002,
                       "segment %u: entry %llu cannot be indexed: %s", seg,
                       (unsigned long long)se->seq, err_errno(rc));
    return 0;
}

static int
extmap_next(struct rec_iter *rit, struct ext_rec *out, struct err *err)
{
    struct extmap_iter *it = container_of(rit, struct extmap_iter, it);

    UNUSED(err);
    while (it->block < it->map->n_blocks) {
        const struct block *b = it->map->blocks[it->block];

        if (it->pos < b->n) {
            const struct ext_rec *r = &b->r[it->pos];

            if (r->key >= it->to)
                return 0;
            *out = ext_clip(r, MAX(it->from, r->key), it->to);
            it->pos++;
            return 1;
        }
        it->block++;
        it->pos = 0;
    }
    return 0;
}

void
extmap_iterate(const struct extmap *m, uint64_t from, uint64_t to,
               struct extmap_iter *out)
{
    *out = (struct extmap_iter){
        .it.next = extmap_next, .map = m, .from = from, .to = to
    };
    if (m->n_blocks == 0)
        return;
    out->block = find_block(m, from);
    out->pos = find_in_block(m->blocks[out->block], from);
}
