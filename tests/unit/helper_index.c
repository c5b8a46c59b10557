#include "tests/unit/helper_index.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

uint64_t
fake_rand(struct fake_log *l)
{
    uint64_t z = (l->rng += 0x9E3779B97F4A7C15);

    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9;
    z = (z ^ z >> 27) * 0x94D049BB133111EB;
    return z ^ z >> 31;
}

uint64_t
fake_below(struct fake_log *l, uint64_t n)
{
    return fake_rand(l) % n;
}

void
fake_init(struct fake_log *l, uint64_t seed, const uint64_t *sizes)
{
    memset(l, 0, sizeof *l);
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->gate, NULL);
    l->rng = seed;
    for (unsigned i = 0; i < FAKE_VOLS; i++)
        l->sizes[i] = sizes[i];
}

void
fake_release(struct fake_log *l)
{
    for (uint32_t i = 0; i < l->n_segs; i++) {
        for (size_t c = 0; c < l->segs[i].n_chunks; c++)
            free(l->segs[i].chunks[c].data);
        free(l->segs[i].chunks);
        free(l->segs[i].entries);
    }
    pthread_cond_destroy(&l->gate);
    pthread_mutex_destroy(&l->lock);
}

void
fake_open_segment(struct fake_log *l)
{
    pthread_mutex_lock(&l->lock);
    if (l->n_segs == FAKE_SEGS_MAX)
        abort();
    l->segs[l->n_segs++] =
        (struct fake_seg){ .first_seq = l->seq + 1, .last_seq = l->seq };
    pthread_mutex_unlock(&l->lock);
}

static uint32_t
add_chunk(struct fake_seg *s, uint32_t len)
{
    s->chunks = reallocarray(s->chunks, s->n_chunks + 1, sizeof *s->chunks);
    s->chunks[s->n_chunks] = (struct fake_chunk){ .len = len };
    s->chunks[s->n_chunks].data = malloc(len);
    return (uint32_t)s->n_chunks++;
}

/* Payload in chunks: the first one begins with what another entry might have
 * left there, so that offsets are not all 0. */
static void
add_payload(struct fake_log *l, struct fake_seg *s, struct lane_entry *e)
{
    uint32_t left = e->len512 * 512, lead, at;

    lead = (uint32_t)fake_below(l, 8) * 512;
    e->chunk_off512 = (uint16_t)(lead / 512);
    e->chunk = (uint32_t)s->n_chunks;
    for (at = lead; left > 0; at = 0) {
        uint32_t take = MIN(left, (uint32_t)BATCH_CHUNK_RAW_MAX - at);
        uint32_t c = add_chunk(s, at + take);
        uint8_t *p = s->chunks[c].data;

        for (uint32_t i = 0; i < at + take; i++)
            p[i] = (uint8_t)(l->poor ? 0 : fake_rand(l));
        left -= take;
    }
}

void
fake_append_range(struct fake_log *l, enum entry_type type, uint16_t vol,
                  uint64_t off, uint64_t len)
{
    struct fake_seg *s;
    struct fake_entry fe = { .e = { .vol = vol,
                                    .off512 = off / 512,
                                    .len512 = (uint32_t)(len / 512),
                                    .type = (uint8_t)type,
                                    .chunk = BATCH_NO_CHUNK } };

    pthread_mutex_lock(&l->lock);
    s = &l->segs[l->n_segs - 1];
    if (type == ENTRY_WRITE)
        add_payload(l, s, &fe.e);
    fe.seq = s->last_seq = ++l->seq;
    s->entries = reallocarray(s->entries, s->n_entries + 1, sizeof *s->entries);
    s->entries[s->n_entries++] = fe;
    pthread_mutex_unlock(&l->lock);
}

void
fake_append(struct fake_log *l)
{
    uint16_t vol = (uint16_t)fake_below(l, FAKE_VOLS);
    uint64_t blocks = l->sizes[vol] / 512, n = 1 + fake_below(l, 24), off;
    uint64_t kind = fake_below(l, 20);

    if (fake_below(l, 12) == 0)
        n = 1 + fake_below(l, 500);
    n = MIN(n, blocks);
    off = fake_below(l, blocks - n + 1);
    if (kind == 0)
        fake_append_range(l, ENTRY_FLUSH, 0, 0, 0);
    else
        fake_append_range(l, kind < 4 ? ENTRY_ZERO : ENTRY_WRITE, vol,
                          off * 512, n * 512);
}

void
fake_seal(struct fake_log *l)
{
    pthread_mutex_lock(&l->lock);
    l->segs[l->n_segs - 1].sealed = true;
    pthread_mutex_unlock(&l->lock);
}

void
fake_gate(struct fake_log *l, bool shut, uint32_t seg, uint32_t chunk)
{
    pthread_mutex_lock(&l->lock);
    l->gate_shut = shut;
    l->gate_seg = seg;
    l->gate_chunk = chunk;
    pthread_cond_broadcast(&l->gate);
    pthread_mutex_unlock(&l->lock);
}

bool
fake_at_gate(struct fake_log *l)
{
    bool waits;

    pthread_mutex_lock(&l->lock);
    waits = l->at_gate > 0;
    pthread_mutex_unlock(&l->lock);
    return waits;
}

void
fake_damage(struct fake_log *l, uint32_t seg, uint32_t chunk)
{
    pthread_mutex_lock(&l->lock);
    l->segs[seg].chunks[chunk].damaged = true;
    l->segs[seg].chunks[chunk].data[0] ^= 0x10;
    pthread_mutex_unlock(&l->lock);
}

void
fake_replay(struct fake_log *l, uint16_t vol, uint64_t after, uint64_t upto,
            uint8_t *image)
{
    for (uint32_t i = 0; i < l->n_segs; i++) {
        const struct fake_seg *s = &l->segs[i];

        for (size_t k = 0; k < s->n_entries; k++) {
            const struct fake_entry *fe = &s->entries[k];
            uint8_t *to = image + fe->e.off512 * 512;
            uint32_t left = fe->e.len512 * 512, c = fe->e.chunk,
                     at = fe->e.chunk_off512 * 512u;

            if (fe->seq <= after || fe->seq > upto || fe->e.vol != vol)
                continue;
            if (fe->e.type == ENTRY_ZERO)
                memset(to, 0, left);
            if (fe->e.type != ENTRY_WRITE)
                continue;
            for (; left > 0; c++, at = 0) {
                uint32_t n = MIN(left, s->chunks[c].len - at);

                memcpy(to, s->chunks[c].data + at, n);
                to += n;
                left -= n;
            }
        }
    }
}

static int
walk(void *arg, uint32_t seg, uint64_t after_seq, uint64_t upto_seq,
     int (*fn)(void *fn_arg, const struct seg_entry *se), void *fn_arg,
     struct err *err)
{
    struct fake_log *l = arg;
    int rc = 0;

    (void)err;
    pthread_mutex_lock(&l->lock);
    if (seg >= l->n_segs)
        rc = -ENOENT;
    else if (l->segs[seg].gone)
        l->reads_of_gone++;
    for (size_t i = 0; rc == 0 && i < l->segs[seg].n_entries; i++) {
        const struct fake_seg *s = &l->segs[seg];
        const struct fake_entry *fe = &s->entries[i];
        uint32_t raw[32];
        struct seg_entry se = { .e = fe->e, .seq = fe->seq, .raw_len = raw };

        if (fe->seq <= after_seq || fe->seq > upto_seq)
            continue;
        if (fe->e.type == ENTRY_WRITE) {
            /* As a batch of its own: chunk numbers count from its first. */
            se.chunk_base = fe->e.chunk;
            se.e.chunk = 0;
            for (; se.n_raw < ARRAY_SIZE(raw) &&
                   se.chunk_base + se.n_raw < s->n_chunks;
                 se.n_raw++)
                raw[se.n_raw] = s->chunks[se.chunk_base + se.n_raw].len;
        }
        rc = fn(fn_arg, &se);
    }
    pthread_mutex_unlock(&l->lock);
    return rc;
}

static int
read_chunk(void *arg, uint32_t seg, uint32_t chunk, uint8_t *out,
           uint32_t *out_len, struct err *err)
{
    struct fake_log *l = arg;
    int rc = 0;

    pthread_mutex_lock(&l->lock);
    while (l->gate_shut && seg == l->gate_seg && chunk == l->gate_chunk) {
        l->at_gate++;
        pthread_cond_wait(&l->gate, &l->lock);
        l->at_gate--;
    }
    if (seg >= l->n_segs || chunk >= l->segs[seg].n_chunks) {
        rc = err_set(err, -ENOENT, ERR_GEN_0001, "no chunk %u.%u", seg, chunk);
    } else if (l->segs[seg].chunks[chunk].damaged) {
        rc = err_set(err, -EBADMSG, ERR_GEN_0001,
                     "segment %u: chunk %u is damaged", seg, chunk);
    } else {
        const struct fake_chunk *c = &l->segs[seg].chunks[chunk];

        l->reads_of_gone += l->segs[seg].gone;
        memcpy(out, c->data, c->len);
        *out_len = c->len;
    }
    pthread_mutex_unlock(&l->lock);
    return rc;
}

struct segment_ops
fake_ops(struct fake_log *l)
{
    return (
        struct segment_ops){ .walk = walk, .read_chunk = read_chunk, .arg = l };
}

const char *
fake_differ(const uint8_t *a, const uint8_t *b, uint64_t len)
{
    static char text[64];

    for (uint64_t i = 0; i < len; i += 512)
        if (memcmp(a + i, b + i, MIN(len - i, 512)) != 0) {
            (void)snprintf(text, sizeof text, "differ at offset %llu",
                           (unsigned long long)i);
            return text;
        }
    return NULL;
}
