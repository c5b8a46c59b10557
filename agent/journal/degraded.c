/* A journal of which a part is damaged or missing (I16).
 *
 *   log:  ====sound====|??? hole ???|==sound, but built on it==|BEGIN..END|====
 *                      from                                           until
 *
 * A hole opens behind the last sound entry before the damage and ends with the
 * first RESYNC_END whose RESYNC_BEGIN lies behind it, too: by then every range
 * has been written anew.  Checkpoints between are not offered (I15), all others
 * are.  Which holes there are is found at each start from the files alone, so
 * that a file that was put back counts again.
 *
 * While a hole has no end the journal is degraded: nothing is sealed, promoted,
 * recycled or cut off, and the table of checkpoints stays as it is.  It goes on
 * when the source
 *   sends again what follows the last sound batch: nothing was lost,
 *   begins a new incarnation, or goes on where the log ends behind the hole:
 *   its sync (the tail asks for it) ends the hole.
 *
 * Recovery calls most of this on its worker; the rest is the loop's.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "journal/journal_internal.h"

static struct jhole *
last_hole(struct journal *j)
{
    return j->deg.n_holes ? &j->deg.holes[j->deg.n_holes - 1] : NULL;
}

void
journal_hole_open(struct journal *j, uint64_t from, const struct err *why)
{
    struct jdegraded *d = &j->deg;

    if (d->why.num == 0)
        d->why = *why;
    if (!d->open) {
        /* Two holes that cannot be told apart any more are one. */
        if (d->n_holes == JOURNAL_HOLES)
            last_hole(j)->until = UINT64_MAX;
        else
            d->holes[d->n_holes++] = (struct jhole){ from, UINT64_MAX };
        d->offer_before = j->offer;
    }
    d->open = true;
    d->begun = false;
    j->offer |= OFFER_TAINTED;
}

void
journal_hole_entry(struct journal *j, enum entry_type type, uint64_t seq)
{
    struct jdegraded *d = &j->deg;

    if (!d->open)
        return;
    if (type == ENTRY_RESYNC_BEGIN)
        d->begun = true;
    if (type != ENTRY_RESYNC_END)
        return;
    if (!d->begun) { /* what it sent before the hole may lie in it */
        j->offer |= OFFER_TAINTED;
        return;
    }
    last_hole(j)->until = seq;
    d->open = false;
    if (!j->recovering)
        journal_settled(j, ERR_JNL_0020);
}

bool
journal_in_hole(const struct journal *j, uint64_t seq)
{
    for (size_t i = 0; i < j->deg.n_holes; i++)
        if (seq > j->deg.holes[i].from && seq < j->deg.holes[i].until)
            return true;
    return false;
}

/* The hole lies at the end of the log: what follows may still come again. */
static bool
at_tail(const struct journal *j)
{
    const struct jdegraded *d = &j->deg;

    return d->open && d->holes[d->n_holes - 1].from == j->d_seq;
}

bool
journal_sync_wanted(const struct journal *j)
{
    return j->deg.open && !j->deg.begun && !at_tail(j);
}

/* --- segments of which not all is there ---------------------------------------- */

int
journal_lost_add(struct journal *j, const struct jlost *l)
{
    struct jdegraded *d = &j->deg;
    struct jlost *v = reallocarray(d->lost, d->n_lost + 1, sizeof *v);

    if (!v)
        return -ENOMEM;
    d->lost = v;
    v[d->n_lost++] = *l;
    return 0;
}

const struct jlost *
journal_lost(const struct journal *j, uint32_t seg)
{
    for (size_t i = 0; i < j->deg.n_lost; i++)
        if (j->deg.lost[i].seg == seg)
            return &j->deg.lost[i];
    return NULL;
}

void
journal_degraded_release(struct journal *j)
{
    free(j->deg.lost);
    j->deg.lost = NULL;
    j->deg.n_lost = 0;
}

/* --- judged, and over ------------------------------------------------------------ */

/* All has been read: what is not offered, and what a person must know. */
void
journal_degraded_judge(struct journal *j)
{
    struct jdegraded *d = &j->deg;
    const struct point_rec *last = NULL;
    char whole[64] = "none before it is left";

    for (size_t i = 0; i < d->n_holes; i++) {
        uint64_t from = d->holes[i].from;

        d->lost_points +=
            points_drop_between(&j->points, from, d->holes[i].until);
        for (size_t k = 0; i == 0 && k < points_count(&j->points); k++)
            if (points_at(&j->points, k)->seq <= from)
                last = points_at(&j->points, k);
    }
    d->on = d->open;
    if (!d->on && !d->lost_points)
        return;
    if (last)
        (void)snprintf(whole, sizeof whole,
                       "those up to %" PRIu64 " are offered", last->cut_no);
    (void)err_set(&j->found, -EBADMSG, ERR_JNL_0020,
                  "journal %s: %zu known checkpoints are not offered because of "
                  "damage; %s%s; nothing was cut off: %s",
                  j->dir, d->lost_points, whole,
                  d->on ? ", and new ones follow when the source has synced"
                        : ", and so are those since the sync that followed",
                  d->why.msg);
}

/* The lane goes on: a batch behind what is sound (resent), or something else. */
void
journal_go_on(struct journal *j, bool resent)
{
    struct jdegraded *d = &j->deg;

    if (!d->on)
        return;
    d->on = false;
    if (resent && at_tail(j)) {
        d->n_holes--;
        d->open = false;
        j->offer = d->offer_before;
        if (!list_empty(&j->sealing))
            list_entry(j->sealing.prev, struct jsegment, link)->offer = j->offer;
        journal_settled(j, ERR_JNL_0020);
    }
    /* Its numbers may come again, and must not be there twice. */
    j->points.in_file = 0;
    j->points.unwritten = points_count(&j->points);
    journal_care_kick(j);
    journal_recycle(j);
}
