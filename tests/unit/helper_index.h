/* For tests of the journal's index: a log in memory that stands for segments,
 * and the images that it must give at any position. */
#ifndef HOLDFAST_TESTS_UNIT_HELPER_INDEX_H
#define HOLDFAST_TESTS_UNIT_HELPER_INDEX_H

#include <pthread.h>

#include "journal/runset.h"

enum {
    FAKE_SEGS_MAX = 4096,
    FAKE_VOLS = 2
};

struct fake_chunk {
    uint8_t *data;
    uint32_t len;
    bool damaged;
};

struct fake_entry {
    struct lane_entry e;
    uint64_t seq;
};

struct fake_seg {
    bool gone; /* recycled: whoever reads it is wrong */
    bool sealed;
    uint64_t first_seq, last_seq;
    struct fake_entry *entries;
    size_t n_entries;
    struct fake_chunk *chunks;
    size_t n_chunks;
};

struct fake_log {
    pthread_mutex_t lock;
    struct fake_seg segs[FAKE_SEGS_MAX]; /* by number; the last is open */
    uint32_t n_segs;
    uint64_t seq; /* of the last entry */
    uint64_t sizes[FAKE_VOLS];
    uint64_t rng;
    unsigned reads_of_gone;
    /* A gate: while shut, readers of this chunk wait in front of it. */
    bool gate_shut;
    uint32_t gate_seg, gate_chunk;
    unsigned at_gate;
    pthread_cond_t gate;
    bool poor; /* few distinct bytes, many zeros */
};

uint64_t fake_rand(struct fake_log *l);
uint64_t fake_below(struct fake_log *l, uint64_t n);

void fake_init(struct fake_log *l, uint64_t seed, const uint64_t *sizes);
void fake_release(struct fake_log *l);
/* Begin segment n_segs; append a random entry to it; seal it. */
void fake_open_segment(struct fake_log *l);
void fake_append(struct fake_log *l);
void fake_append_range(struct fake_log *l, enum entry_type type, uint16_t vol,
                       uint64_t off, uint64_t len);
void fake_seal(struct fake_log *l);
/* Shut or open the gate; whether somebody waits there. */
void fake_gate(struct fake_log *l, bool shut, uint32_t seg, uint32_t chunk);
bool fake_at_gate(struct fake_log *l);
/* Change a byte of a chunk, so that it no longer verifies. */
void fake_damage(struct fake_log *l, uint32_t seg, uint32_t chunk);
/* Apply entries with after < seq <= upto to a whole image of a volume. */
void fake_replay(struct fake_log *l, uint16_t vol, uint64_t after,
                 uint64_t upto, uint8_t *image);
struct segment_ops fake_ops(struct fake_log *l);
/* "vol off len" of the first difference, for a message; NULL: equal. */
const char *fake_differ(const uint8_t *a, const uint8_t *b, uint64_t len);

#endif
