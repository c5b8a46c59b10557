/* Damage in a running journal: what the scrub, a read or a promotion met is
 * verified and recorded, what can be made anew here is, and the checkpoints
 * that need the rest are known (damage.h).
 *
 *   read fails ──▶ segment suspected ──▶ verified on a worker ──┐
 *   scrub ──────────────────────────────────────────────────────┴▶ DAMAGE or
 *   MENDED in the manifest ──▶ the log is walked, a segment a job ──▶ spans
 *
 * A footer is written anew when its batches are sound, a run is left out and
 * built again, manifest and table of checkpoints are written from memory.  A
 * damaged batch stays: its source has forgotten it; a sync sends what the
 * volumes hold now, after which new checkpoints are whole.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "journal/journal_internal.h"

#define AGAIN_NS (NSEC_PER_SEC) /* between walks of what was added */

/* --- which points ------------------------------------------------------------ */

static void
spans_set(struct journal *j, const struct damage_span *spans, size_t n)
{
    struct jdamage *d = &j->damage;
    struct damage_span *copy = n ? malloc(n * sizeof *copy) : NULL;

    if (n && !copy)
        return; /* as before; the tick tries again */
    if (n)
        memcpy(copy, spans, n * sizeof *copy);
    free(d->spans);
    d->spans = copy;
    d->n_spans = n;
}

/* Until the log has been walked all behind the first damage counts. */
void
journal_damage_load(struct journal *j)
{
    const struct man_state *s = &j->man.state;
    struct damage_span all = { .from = UINT64_MAX, .until = UINT64_MAX };

    for (size_t i = 0; i < s->n_damage; i++) {
        if (s->damage[i].seq <= s->promoted || s->damage[i].seq >= all.from)
            continue;
        all.from = s->damage[i].seq;
        all.first = s->damage[i];
    }
    if (s->n_bad) {
        all.from = 0;
        all.first = (struct man_damage){ .vol = s->bad[0].vol,
                                         .off = s->bad[0].off,
                                         .len = s->bad[0].len };
    }
    all.ranges = s->n_damage + s->n_bad;
    if (all.from != UINT64_MAX)
        spans_set(j, &all, 1);
    j->damage.dirty = true;
}

void
journal_damage_release(struct journal *j)
{
    damage_map_free(j->damage.map);
    free(j->damage.spans);
    free(j->damage.segs);
    j->damage.map = NULL;
    j->damage.spans = NULL;
    j->damage.segs = NULL;
}

static const struct damage_span *
span_at(const struct journal *j, uint64_t seq)
{
    for (size_t i = 0; i < j->damage.n_spans; i++)
        if (seq >= j->damage.spans[i].from && seq < j->damage.spans[i].until)
            return &j->damage.spans[i];
    return NULL;
}

bool
journal_seq_damaged(const struct journal *j, uint64_t seq)
{
    return span_at(j, seq) != NULL;
}

static void
span_text(const struct damage_span *s, char out[160])
{
    char more[60] = "";

    if (s->ranges > 1)
        (void)snprintf(more, sizeof more, " and %" PRIu64 " other ranges",
                       s->ranges - 1);
    if (s->first.vol == MAN_ALL_VOLUMES)
        (void)snprintf(out, 160, "all that segment %" PRIu32 " holds%s",
                       s->first.seg, more);
    else
        (void)snprintf(out, 160,
                       "volume %u: %" PRIu64 " bytes at offset %" PRIu64 "%s",
                       s->first.vol, s->first.len, s->first.off, more);
}

int
journal_point_whole(const struct journal *j, const struct journal_point *p,
                    struct err *err)
{
    const struct damage_span *s = span_at(j, p->seq);
    char what[160], other[60] = "there is none that is whole";

    if (!s)
        return 0;
    span_text(s, what);
    for (size_t i = points_count(&j->points); i-- > 0;) {
        const struct point_rec *r = points_at(&j->points, i);

        if (span_at(j, r->seq))
            continue;
        (void)snprintf(other, sizeof other, "the newest whole one is %" PRIu64,
                       r->cut_no);
        break;
    }
    return err_set(err, -EUCLEAN, ERR_JNL_0015,
                   "checkpoint %" PRIu64 " needs data that is damaged (%s); %s",
                   p->cut_no, what, other);
}

bool
journal_damage(const struct journal *j, struct journal_damage *out)
{
    const struct points *p = &j->points;
    size_t n = points_count(p);

    *out = (struct journal_damage){ .points = 0 };
    if (j->damage.n_spans == 0)
        return false;
    for (size_t i = 0; i < n; i++) {
        const struct point_rec *r = points_at(p, i);
        const struct damage_span *s = span_at(j, r->seq);

        if (!s)
            continue;
        if (out->points++ == 0) {
            out->first_cut = r->cut_no;
            out->first_wall_ns = r->wall_ns;
            span_text(s, out->what);
        }
        out->last_cut = r->cut_no;
        out->last_wall_ns = r->wall_ns;
        out->newest = i + 1 == n;
    }
    return out->points > 0;
}

/* --- the walk ---------------------------------------------------------------- */

static void
walk_run(struct io_work *w)
{
    struct jdamage *d = container_of(w, struct jdamage, work);
    struct segment_ops ops = { .walk = seg_store_walk, .arg = d->store };

    d->res = damage_walk(d->map, &ops, d->segs[d->next_seg], d->to);
}

static void walk_done(struct io_work *w);

static void
walk_go(struct journal *j)
{
    struct jdamage *d = &j->damage;
    const struct damage_span *spans;
    size_t n;

    if (d->next_seg < d->n_segs && d->res == 0 && !j->closing) {
        d->work = (struct io_work){ .run = walk_run, .done = walk_done };
        io_work_submit(j->loop, &d->work);
        return;
    }
    if (d->res == 0 && !j->closing)
        d->res = damage_walked(d->map, d->to);
    if (d->res == 0 && !j->closing) {
        spans = damage_spans(d->map, &n);
        spans_set(j, spans, n);
    } else {
        d->dirty = true;
    }
    if (d->n_segs)
        jindex_unhold(j->ix, d->segs[0]);
    d->walking = false;
    d->at_ns = io_mono_ns(j->loop);
    journal_job_done(j);
}

static void
walk_done(struct io_work *w)
{
    struct jdamage *d = container_of(w, struct jdamage, work);

    d->next_seg++;
    walk_go(container_of(d, struct journal, damage));
}

/* BAD of the manifest as far as it has not been written over. */
static int
fresh_map(struct journal *j)
{
    const struct man_state *s = &j->man.state;
    struct io_extent part[32];
    struct man_bad *bad = NULL;
    size_t n = 0, cap = 0;
    int rc = 0;

    for (size_t i = 0; i < s->n_bad && rc == 0; i++) {
        size_t k = jindex_bad_parts(j->ix, s->bad[i].vol, s->bad[i].off,
                                    s->bad[i].len, part, ARRAY_SIZE(part));
        bool whole = k > ARRAY_SIZE(part);
        size_t add = whole ? 1 : k;

        if (n + add > cap) {
            struct man_bad *more =
                reallocarray(bad, cap = 2 * (n + add), sizeof *bad);

            if (!more)
                rc = -ENOMEM;
            else
                bad = more;
        }
        for (size_t q = 0; q < add && rc == 0; q++)
            bad[n++] = whole ? s->bad[i]
                             : (struct man_bad){ s->bad[i].vol, part[q].off,
                                                 part[q].len };
    }
    damage_map_free(j->damage.map);
    j->damage.map = NULL;
    if (rc == 0)
        rc = damage_map_new(s->damage, s->n_damage, bad, n, s->promoted,
                            j->cfg.volumes, j->cfg.n_volumes, &j->damage.map);
    free(bad);
    return rc;
}

/* The segments with entries behind what has been walked. */
static int
list_segments(struct journal *j)
{
    const struct man_state *s = &j->man.state;
    struct jdamage *d = &j->damage;

    free(d->segs);
    d->n_segs = d->next_seg = 0;
    d->segs = calloc(s->n_segs + 1, sizeof *d->segs);
    if (!d->segs)
        return -ENOMEM;
    for (size_t i = 0; i < s->n_segs; i++)
        if (!s->segs[i].sealed || s->segs[i].last_seq > damage_upto(d->map))
            d->segs[d->n_segs++] = s->segs[i].no;
    return d->n_segs ? jindex_hold(j->ix, d->segs[0]) : 0;
}

static void
walk_start(struct journal *j)
{
    const struct man_state *s = &j->man.state;
    struct jdamage *d = &j->damage;
    bool fresh = d->dirty || d->promoted != s->promoted || d->n_bad != s->n_bad;

    if (s->n_damage + s->n_bad == 0) { /* all is well */
        if (d->n_spans)
            spans_set(j, NULL, 0);
        d->dirty = false;
        return;
    }
    if (!fresh && (!damage_exposed(d->map) || damage_upto(d->map) == j->d_seq))
        return;
    if (!d->dirty && io_mono_ns(j->loop) - d->at_ns < AGAIN_NS)
        return;
    if (fresh && fresh_map(j) < 0)
        return; /* no memory: later */
    d->promoted = s->promoted;
    d->n_bad = s->n_bad;
    d->to = j->d_seq;
    d->store = j->segs;
    d->res = 0;
    if (list_segments(j) < 0) {
        d->dirty = true;
        return;
    }
    d->dirty = false;
    d->walking = true;
    j->jobs++;
    walk_go(j);
}

/* --- what was found ----------------------------------------------------------- */

static bool
has_damage(const struct man_state *s, uint32_t no)
{
    for (size_t i = 0; i < s->n_damage; i++)
        if (s->damage[i].seg == no)
            return true;
    return false;
}

void
journal_damage_hurt(void *arg, const struct seg_hurt *h)
{
    struct jhurts *v = arg;
    struct seg_hurt *last = v->n ? &v->h[v->n - 1] : NULL;

    if (last && last->all)
        return; /* that is all there is to say */
    if (last && !h->all && last->seq == h->seq && last->vol == h->vol &&
        last->off + last->len == h->off) {
        last->len += h->len;
        return;
    }
    if (v->n == ARRAY_SIZE(v->h)) {
        last->all = true;
        return;
    }
    v->h[v->n++] = *h;
}

void
journal_damage_found(struct journal *j, uint32_t no, const struct jhurts *v)
{
    const struct man_state *s = &j->man.state;
    struct man_rec r = { .type = MAN_MENDED };

    if (j->closing || !man_state_seg(&j->man.state, no))
        return;
    r.u.damage.seg = no;
    if (has_damage(s, no))
        journal_log(j, &r);
    else if (v->n == 0)
        return;
    r.type = MAN_DAMAGE;
    for (size_t i = 0; i < v->n && s->n_damage < MAN_DAMAGE_MAX; i++) {
        bool all = v->h[i].all || s->n_damage == MAN_DAMAGE_MAX - 1;

        r.u.damage =
            (struct man_damage){ .seg = no,
                                 .vol = all ? MAN_ALL_VOLUMES : v->h[i].vol,
                                 .seq = v->h[i].seq,
                                 .off = all ? 0 : v->h[i].off,
                                 .len = all ? 0 : v->h[i].len };
        journal_log(j, &r);
    }
    journal_log_sync(j, NULL, NULL);
    j->damage.dirty = true;
}

/* Its file stays until another run of the name takes its place, or the next
 * start. */
bool
journal_drop_run(struct journal *j, const struct run_info *info)
{
    struct man_rec r = { .type = MAN_RUN_DEL, .u.run = *info };

    if (j->closing || j->stopped || j->recycling || !jindex_has_run(j->ix, info))
        return false;
    jindex_forget_run(j->ix, info);
    journal_log(j, &r);
    journal_log_sync(j, NULL, NULL);
    return true;
}

/* All of it is in memory. */
void
journal_write_afresh(struct journal *j, bool points)
{
    if (!points) {
        j->man_afresh = true;
    } else if (!j->care.active) {
        j->points.in_file = 0;
        j->points.unwritten = points_count(&j->points);
        journal_care_kick(j);
    }
}

void
journal_damage_tick(struct journal *j)
{
    uint32_t no;

    /* A job in flight would take the wish for its own when it ends. */
    if (j->man_afresh && !j->man_busy) {
        j->man_rewrite = true;
        j->man_afresh = false;
    }
    if (!j->check && seg_store_suspected(j->segs, &no)) {
        if (!has_damage(&j->man.state, no))
            journal_check(j, &no);
    } else if (!j->check && j->runs_suspect) {
        j->runs_suspect = false;
        journal_check(j, NULL);
    }
    if (!j->damage.walking)
        walk_start(j);
}
