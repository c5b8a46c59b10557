/* The map from places on the volumes to places in the log.
 *
 * An index record says where the content of a range lies: in a chunk of a
 * segment, nowhere because it is zeros, or nowhere because nobody knows
 * (DIRTY).  Records of one map are sorted by key and disjoint.  struct extmap
 * holds them in memory: later puts win, which is how a stretch of the log
 * becomes a map when its entries are put in log order (I12).  It is used to
 * build level-0 runs, and as it is for a segment in which a view's moment or
 * PROMOTED lies.
 *
 * Two levels: a sorted array of blocks of at most EXTMAP_BLOCK records, so that
 * a put moves at most one block's worth of memory.
 */
#ifndef HOLDFAST_JOURNAL_EXTMAP_H
#define HOLDFAST_JOURNAL_EXTMAP_H

#include "lane/batch.h"

enum {
    EXT_VOL_SHIFT = 48,
    EXT_LEN_MAX = 1 << 23, /* blocks of 512: 4 GiB, what one record may cover */
};
#define EXT_OFF_MASK      (((uint64_t)1 << EXT_VOL_SHIFT) - 1)
#define EXT_CHUNK_ZERO    UINT32_C(0xFFFFFFFF) /* reads as zeros */
#define EXT_CHUNK_UNKNOWN UINT32_C(0xFFFFFFFE) /* reads fail with EIO */
#define EXT_CHUNK_GAP     UINT32_C(0xFFFFFFFD) /* in no map or run: internal */
#define EXT_CHUNK_MAX     UINT32_C(0xFFFFFF00) /* data lies below */

struct ext_rec {
    uint64_t key; /* vol << 48 | off512 */
    uint32_t len512;
    uint32_t seg;
    uint32_t chunk; /* in the segment's directory, or EXT_CHUNK_* */
    uint32_t chunk_off512;
};

static inline uint64_t
ext_key(uint16_t vol, uint64_t off512)
{
    return (uint64_t)vol << EXT_VOL_SHIFT | off512;
}

static inline uint64_t
ext_end(const struct ext_rec *r)
{
    return r->key + r->len512;
}

static inline bool
ext_has_data(const struct ext_rec *r)
{
    return r->chunk < EXT_CHUNK_UNKNOWN;
}

/* The part of r inside [from, to), which must not be empty. */
struct ext_rec ext_clip(const struct ext_rec *r, uint64_t from, uint64_t to);
/* Is b the seamless continuation of a (next to it, same chunk or same nothing)?
 * Then it may be appended to a. */
bool ext_continues(const struct ext_rec *a, const struct ext_rec *b);

/* Something that yields records in key order, disjoint. */
struct rec_iter {
    /* 1: *out is the next record; 0: no more; negative errno. */
    int (*next)(struct rec_iter *it, struct ext_rec *out, struct err *err);
};

struct extmap;

struct extmap *extmap_new(void); /* NULL: no memory */
void extmap_free(struct extmap *m);
size_t extmap_count(const struct extmap *m);
size_t extmap_memory(const struct extmap *m); /* bytes */

/* Put a record over whatever was there.  -EINVAL: empty, or beyond its
 * volume's 48-bit space; -ENOMEM leaves the map as it was. */
int extmap_put(struct extmap *m, const struct ext_rec *r);
/* Take a range out. */
int extmap_cut(struct extmap *m, uint64_t from, uint64_t to);

/* One entry of the log, as a segment's walk tells it. */
struct seg_entry {
    struct lane_entry e;
    uint64_t seq;
    uint32_t chunk_base;     /* e.chunk + chunk_base: index in the directory */
    const uint32_t *raw_len; /* raw lengths of the chunks from e.chunk on */
    uint32_t n_raw;          /* how many there are in the batch */
};

/* Put what the entry did to its volume: a record for each chunk of its payload,
 * zeros, or unknown; nothing for marks.  -EBADMSG: the payload does not lie
 * in its chunks. */
int extmap_put_entry(struct extmap *m, uint32_t seg, const struct seg_entry *se,
                     struct err *err);

/* The parts of records inside [from, to), in order.  The map must not change
 * meanwhile. */
struct extmap_iter {
    struct rec_iter it;
    const struct extmap *map;
    size_t block, pos;
    uint64_t from, to;
};
void extmap_iterate(const struct extmap *m, uint64_t from, uint64_t to,
                    struct extmap_iter *out);

#endif
