#include "tests/unit/helper_journal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/crc32c.h"
#include "io/file.h"

void
gen_init(struct gen *g, uint64_t seed)
{
    *g = (struct gen){ .rng = seed * 2654435761u + 88172645463325252u };
    memset(g->vpg.u.b, 0x51, 16);
    for (unsigned v = 0; v < GEN_VOLS; v++)
        g->image[v] = calloc(1, GEN_VOL_SIZE);
    g->batches = calloc(GEN_BATCHES, sizeof *g->batches);
    g->cuts = calloc(GEN_CUTS, sizeof *g->cuts);
    gen_new_incarnation(g);
}

void
gen_release(struct gen *g)
{
    for (size_t i = 0; i < g->n_batches; i++)
        free(g->batches[i].bytes);
    for (size_t i = 0; i < g->n_cuts; i++)
        for (unsigned v = 0; v < GEN_VOLS; v++)
            free(g->cuts[i].image[v]);
    for (unsigned v = 0; v < GEN_VOLS; v++)
        free(g->image[v]);
    free(g->batches);
    free(g->cuts);
}

uint64_t
gen_below(struct gen *g, uint64_t n)
{
    g->rng ^= g->rng << 13;
    g->rng ^= g->rng >> 7;
    g->rng ^= g->rng << 17;
    return (g->rng >> 11) % n;
}

void
gen_new_incarnation(struct gen *g)
{
    for (unsigned i = 0; i < 16; i++)
        g->inc.u.b[i] = (uint8_t)gen_below(g, 256);
    g->epoch++;
    g->batch_no = g->durable = 0;
    g->seq = lane_seq(g->epoch, 0);
    memset(g->digest, 0, 16);
}

struct making {
    struct lane_entry e[64];
    struct lane_chunk c[128];
    uint8_t *body;
    uint32_t n_e, n_c, body_len;
};

static void
add_payload(struct making *m, struct lane_entry *e, uint32_t len)
{
    uint8_t *p = m->body + m->body_len;

    e->chunk = m->n_c;
    e->len512 = len / 512;
    e->crc = crc32c(0, p, len);
    for (uint32_t at = 0; at < len; at += BATCH_CHUNK_RAW_MAX) {
        uint32_t part = MIN(len - at, (uint32_t)BATCH_CHUNK_RAW_MAX);
        uint32_t crc = crc32c(0, p + at, part);

        m->c[m->n_c++] = (struct lane_chunk){ .body_off = m->body_len + at,
                                              .stored_len = part,
                                              .raw_len = part,
                                              .crc_raw = crc,
                                              .crc_stored = crc };
    }
    m->body_len += len;
}

static void
add_write(struct gen *g, struct making *m)
{
    struct lane_entry *e = &m->e[m->n_e++];
    uint32_t blocks = GEN_VOL_SIZE / 512;
    uint32_t len = gen_below(g, 12) == 0 ? 1 + (uint32_t)gen_below(g, 160)
                                         : 1 + (uint32_t)gen_below(g, 16);
    uint32_t off = (uint32_t)gen_below(g, blocks - len);
    uint8_t *p = m->body + m->body_len;

    *e = (struct lane_entry){ .type = ENTRY_WRITE,
                              .vol = (uint16_t)gen_below(g, GEN_VOLS),
                              .off512 = off,
                              .len512 = len,
                              .chunk = BATCH_NO_CHUNK };
    if (gen_below(g, 10) == 0) {
        e->type = ENTRY_ZERO;
        memset(g->image[e->vol] + off * 512, 0, len * 512);
        return;
    }
    for (uint32_t i = 0; i < len * 512; i += 8)
        put_le64(p + i, g->repeat ? g->seq : g->rng * (i + 1) + m->n_e);
    memcpy(g->image[e->vol] + off * 512, p, len * 512);
    add_payload(m, e, len * 512);
}

static void
add_control(struct making *m, enum entry_type type, const uint8_t *raw,
            size_t len)
{
    struct lane_entry *e = &m->e[m->n_e++];
    uint32_t padded = (uint32_t)round_up(len, 512);

    *e = (struct lane_entry){ .type = (uint8_t)type, .chunk = BATCH_NO_CHUNK };
    if (!len)
        return;
    memset(m->body + m->body_len, 0, padded);
    memcpy(m->body + m->body_len, raw, len);
    e->aux = (uint32_t)len;
    add_payload(m, e, padded);
}

static void
add_cut(struct gen *g, struct making *m, const char *tag)
{
    struct gen_cut *k = &g->cuts[g->n_cuts++];
    struct cut_commit c = { .cut_no = ++g->cut_no };
    uint8_t raw[CONTROL_PAYLOAD_MAX];

    c.wall_ns = 1700000000u * NSEC_PER_SEC + c.cut_no * NSEC_PER_SEC;
    c.kind = tag ? CUT_USER : CUT_AUTO;
    if (tag) {
        c.tag_len = (uint16_t)strlen(tag);
        (void)snprintf(c.tag, sizeof c.tag, "%s", tag);
        (void)snprintf(k->tag, sizeof k->tag, "%s", tag);
    }
    k->cut_no = c.cut_no;
    k->wall_ns = c.wall_ns;
    k->seq = g->seq + m->n_e + 1;
    k->offered = !g->withheld;
    for (unsigned v = 0; v < GEN_VOLS; v++) {
        k->image[v] = malloc(GEN_VOL_SIZE);
        memcpy(k->image[v], g->image[v], GEN_VOL_SIZE);
    }
    add_control(m, ENTRY_CUT_COMMIT, raw, cut_commit_encode(&c, raw));
}

size_t
gen_make(struct gen *g, unsigned n, unsigned extra, const char *tag)
{
    struct making *m = calloc(1, sizeof *m);
    struct gen_batch *b = &g->batches[g->n_batches];
    struct batch_hdr h = { .vpg_tag = get_le64(g->vpg.u.b), .lane = 1 };
    uint8_t raw[CONTROL_PAYLOAD_MAX];
    size_t head;

    m->body = malloc(2 * BATCH_RAW_MAX);
    if (extra & GEN_RESYNC_BEGIN) {
        struct resync_begin r = { .reason = RESYNC_UNCLEAN };

        add_control(m, ENTRY_RESYNC_BEGIN, raw, resync_begin_encode(&r, raw));
        g->withheld = true;
    }
    for (unsigned i = 0; i < MIN(n, 40U); i++)
        add_write(g, m);
    if (extra & GEN_DIRTY) {
        /* Over nothing that a test compares: the block is written again. */
        m->e[m->n_e++] = (struct lane_entry){ .type = ENTRY_DIRTY,
                                              .chunk = BATCH_NO_CHUNK,
                                              .len512 = 1 };
        g->withheld = true;
    }
    for (uint16_t v = 0; v < GEN_VOLS && extra & GEN_RESYNC_ALL; v++) {
        struct lane_entry *e = &m->e[m->n_e++];

        *e = (struct lane_entry){ .type = ENTRY_RESYNC_WRITE, .vol = v };
        memcpy(m->body + m->body_len, g->image[v], GEN_VOL_SIZE);
        add_payload(m, e, GEN_VOL_SIZE);
    }
    if (extra & GEN_RESYNC_END) {
        struct lane_entry *e = &m->e[m->n_e++];

        *e = (struct lane_entry){ .type = ENTRY_RESYNC_WRITE };
        memcpy(m->body + m->body_len, g->image[0], 512);
        add_payload(m, e, 512);
        add_control(m, ENTRY_RESYNC_END, NULL, 0);
        g->withheld = false;
    }
    if (m->n_e == 0 && !(extra & GEN_CUT))
        add_control(m, ENTRY_FLUSH, NULL, 0);
    if (extra & GEN_CUT)
        add_cut(g, m, tag);
    h.flags = extra & GEN_CUT ? BATCH_CUT_INSIDE : 0;
    h.incarnation = g->inc;
    h.batch_no = ++g->batch_no;
    h.first_seq = g->seq + 1;
    h.last_seq = g->seq + m->n_e;
    h.n_entries = m->n_e;
    h.n_chunks = m->n_c;
    h.durable_seen = g->durable;
    memcpy(h.prev_digest, g->digest, 16);
    head = batch_head_size(m->n_e, m->n_c);
    b->size = head + m->body_len;
    b->bytes = malloc(b->size);
    batch_head_encode(&h, m->e, m->c, b->bytes);
    memcpy(b->bytes + head, m->body, m->body_len);
    batch_digest(b->bytes, head, g->digest);
    b->no = h.batch_no;
    b->last_seq = g->seq = h.last_seq;
    b->epoch = g->epoch;
    free(m->body);
    free(m);
    return g->n_batches++;
}

void *
gen_copy(const struct gen_batch *b, size_t *out_mem)
{
    size_t mem = (size_t)round_up(b->size, 4096);
    uint8_t *p = io_mem_alloc(mem);

    memset(p, 0xEE, mem);
    memcpy(p, b->bytes, b->size);
    *out_mem = mem;
    return p;
}

const struct gen_cut *
gen_find(const struct gen *g, uint64_t cut_no)
{
    for (size_t i = 0; i < g->n_cuts; i++)
        if (g->cuts[i].cut_no == cut_no)
            return &g->cuts[i];
    return NULL;
}
