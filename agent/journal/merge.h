/* Many sorted sources as one: of records that overlap, the part of the newest
 * source wins.  Only metadata moves.  Used to make a run of a higher level, to
 * fold a stretch of the log for promotion and to answer a view's reads.
 */
#ifndef HOLDFAST_JOURNAL_MERGE_H
#define HOLDFAST_JOURNAL_MERGE_H

#include "journal/extmap.h"

struct merge_iter;

/* src[0] is the newest.  Sources are borrowed until merge_free(). */
int merge_new(struct rec_iter **src, size_t n, struct merge_iter **out);
struct rec_iter *merge_iter(struct merge_iter *m);
void merge_free(struct merge_iter *m);

#endif
