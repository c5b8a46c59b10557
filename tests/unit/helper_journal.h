/* For tests of the journal: a source that makes random batches of a lane, keeps
 * them as a replicator would, and knows what each checkpoint must show. */
#ifndef HOLDFAST_TESTS_UNIT_HELPER_JOURNAL_H
#define HOLDFAST_TESTS_UNIT_HELPER_JOURNAL_H

#include "journal/journal.h"

enum {
    GEN_VOLS = 2,
    GEN_VOL_SIZE = 128 * 1024,
    GEN_BATCHES = 8192,
    GEN_CUTS = 4096,
};

struct gen_batch {
    uint8_t *bytes;
    size_t size;
    uint64_t no, last_seq;
    uint32_t epoch;
};
struct gen_cut {
    uint64_t cut_no, seq, wall_ns;
    bool offered; /* I19 lets it be */
    char tag[32];
    uint8_t *image[GEN_VOLS]; /* NULL: not kept */
};

struct gen {
    struct vpg_id vpg;
    struct incarnation_id inc;
    uint32_t epoch; /* of the sequence numbers */
    uint64_t batch_no, seq, cut_no, durable;
    uint8_t digest[16];
    uint64_t rng;
    bool withheld; /* no cut is offered now */
    bool repeat;   /* few distinct bytes */
    uint8_t *image[GEN_VOLS];
    struct gen_batch *batches; /* all that were made */
    size_t n_batches;
    struct gen_cut *cuts;
    size_t n_cuts;
};

void gen_init(struct gen *g, uint64_t seed);
void gen_release(struct gen *g);
uint64_t gen_below(struct gen *g, uint64_t n);
void gen_new_incarnation(struct gen *g);
/* A batch of n random writes; cut: it ends with a checkpoint (tag may be NULL).
 * Returns its index. */
enum gen_extra {
    GEN_CUT = 1,
    GEN_RESYNC_BEGIN = 2,
    GEN_RESYNC_END = 4,
    GEN_DIRTY = 8,
    GEN_RESYNC_ALL = 16 /* what a whole sync sends, in one batch */
};
size_t gen_make(struct gen *g, unsigned n, unsigned extra, const char *tag);
/* A copy that journal_append() may take. */
void *gen_copy(const struct gen_batch *b, size_t *out_mem);
const struct gen_cut *gen_find(const struct gen *g, uint64_t cut_no);

#endif
