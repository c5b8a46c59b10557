/* Which checkpoints need data that is damaged.
 *
 * Damage is known by entry of the log (DAMAGE in the manifest) and by range of
 * the replica (BAD).  A point is touched when the newest content of some range
 * as of it is damaged, that is, from the damaged entry on (BAD: from the
 * oldest point on) to the entry that overwrites the last of what was lost.
 * Walking the log in order with a map of what is exposed gives the stretches
 * in which there is something; a point lies in one of them or is whole.
 *
 * Values in, values out; damage_walk() runs on a worker.
 */
#ifndef HOLDFAST_JOURNAL_DAMAGE_H
#define HOLDFAST_JOURNAL_DAMAGE_H

#include "journal/manifest.h"
#include "journal/runset.h"

/* Points with from <= seq < until are touched. */
struct damage_span {
    uint64_t from, until;
    struct man_damage first; /* a range that is lost there */
    uint64_t ranges;         /* how many there are */
};

struct damage_map;

/* items and bad are copied; everything up to `promoted` is in the replica.
 * -ENOMEM. */
int damage_map_new(const struct man_damage *items, size_t n_items,
                   const struct man_bad *bad, size_t n_bad, uint64_t promoted,
                   const struct journal_volume *vols, unsigned n_vols,
                   struct damage_map **out);
void damage_map_free(struct damage_map *m);
/* Go on with one segment's entries up to upto.  A segment whose tables cannot
 * be read overwrites nothing. */
int damage_walk(struct damage_map *m, const struct segment_ops *seg,
                uint32_t no, uint64_t upto);
/* All entries up to upto have been walked. */
int damage_walked(struct damage_map *m, uint64_t upto);
uint64_t damage_upto(const struct damage_map *m);
bool damage_exposed(const struct damage_map *m); /* at its end */
const struct damage_span *
damage_spans(const struct damage_map *m, size_t *out_n);

#endif
