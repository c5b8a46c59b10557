/* Planning of runs and read sets: see runset.h. */
#include "journal/runset.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "journal/merge.h"

enum {
    HOLDS_MAX = 64
};

struct runset {
    struct runset_config cfg;
    char *dir;
    struct seg_info *segs; /* by number */
    size_t n_segs, cap_segs;
    struct run_info *runs; /* by level, then first segment */
    size_t n_runs, cap_runs;
    struct list sets;
    uint64_t promoted; /* what lies at or below needs no more runs */
    uint32_t holds[HOLDS_MAX];
    size_t n_holds;
};

int
runset_new(const struct runset_config *cfg, struct runset **out)
{
    struct runset *rs = calloc(1, sizeof *rs);

    if (!rs)
        return -ENOMEM;
    rs->cfg = *cfg;
    list_init(&rs->sets);
    rs->dir = strdup(cfg->dir);
    if (!rs->dir) {
        free(rs);
        return -ENOMEM;
    }
    rs->cfg.dir = rs->dir;
    *out = rs;
    return 0;
}

void
runset_free(struct runset *rs)
{
    if (!rs)
        return;
    free(rs->dir);
    free(rs->segs);
    free(rs->runs);
    free(rs);
}

const struct runset_config *
runset_config(const struct runset *rs)
{
    return &rs->cfg;
}

/* --- segments and runs ---------------------------------------------------- */

/* Index of the first segment with a number >= no. */
static size_t
seg_at(const struct runset *rs, uint32_t no)
{
    size_t lo = 0, hi = rs->n_segs;

    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;

        if (rs->segs[mid].no < no)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

static struct seg_info *
seg_find(const struct runset *rs, uint32_t no)
{
    size_t i = seg_at(rs, no);

    return i < rs->n_segs && rs->segs[i].no == no ? &rs->segs[i] : NULL;
}

const struct seg_info *
runset_segment(const struct runset *rs, uint32_t no)
{
    return seg_find(rs, no);
}

static bool
seg_empty(const struct seg_info *s)
{
    return s->sealed && s->first_seq > s->last_seq;
}

int
runset_add_segment(struct runset *rs, const struct seg_info *s)
{
    size_t at = seg_at(rs, s->no);

    if (at < rs->n_segs && rs->segs[at].no == s->no)
        return -EEXIST;
    if (rs->n_segs == rs->cap_segs) {
        size_t cap = rs->cap_segs ? rs->cap_segs * 2 : 64;
        struct seg_info *p = reallocarray(rs->segs, cap, sizeof *p);

        if (!p)
            return -ENOMEM;
        rs->segs = p;
        rs->cap_segs = cap;
    }
    memmove(&rs->segs[at + 1], &rs->segs[at],
            (rs->n_segs - at) * sizeof *rs->segs);
    rs->segs[at] = *s;
    if (!s->sealed)
        rs->segs[at].last_seq = UINT64_MAX;
    rs->n_segs++;
    return 0;
}

int
runset_seal_segment(struct runset *rs, uint32_t no, uint64_t first_seq,
                    uint64_t last_seq)
{
    struct seg_info *s = seg_find(rs, no);

    if (!s)
        return -ENOENT;
    s->sealed = true;
    s->first_seq = first_seq;
    s->last_seq = last_seq;
    return 0;
}

void
runset_set_promoted(struct runset *rs, uint64_t seq)
{
    rs->promoted = seq;
}

void
runset_drop_segment(struct runset *rs, uint32_t no)
{
    struct seg_info *s = seg_find(rs, no);
    size_t at;

    if (!s)
        return;
    at = (size_t)(s - rs->segs);
    rs->n_segs--;
    memmove(s, s + 1, (rs->n_segs - at) * sizeof *s);
}

static int
run_cmp(const struct run_info *a, const struct run_info *b)
{
    if (a->level != b->level)
        return a->level < b->level ? -1 : 1;
    return a->first_seg < b->first_seg ? -1 : a->first_seg > b->first_seg;
}

static size_t
run_at(const struct runset *rs, const struct run_info *info)
{
    size_t lo = 0, hi = rs->n_runs;

    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;

        if (run_cmp(&rs->runs[mid], info) < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

int
runset_add_run(struct runset *rs, const struct run_info *info)
{
    size_t at = run_at(rs, info);

    if (at < rs->n_runs && run_cmp(&rs->runs[at], info) == 0)
        return -EEXIST;
    if (rs->n_runs == rs->cap_runs) {
        size_t cap = rs->cap_runs ? rs->cap_runs * 2 : 64;
        struct run_info *p = reallocarray(rs->runs, cap, sizeof *p);

        if (!p)
            return -ENOMEM;
        rs->runs = p;
        rs->cap_runs = cap;
    }
    memmove(&rs->runs[at + 1], &rs->runs[at],
            (rs->n_runs - at) * sizeof *rs->runs);
    rs->runs[at] = *info;
    rs->n_runs++;
    return 0;
}

void
runset_drop_run(struct runset *rs, const struct run_info *info)
{
    size_t at = run_at(rs, info);

    if (at == rs->n_runs || run_cmp(&rs->runs[at], info) != 0)
        return;
    rs->n_runs--;
    memmove(&rs->runs[at], &rs->runs[at + 1],
            (rs->n_runs - at) * sizeof *rs->runs);
}

size_t
runset_runs(const struct runset *rs, uint64_t *out_bytes)
{
    uint64_t bytes = 0;

    for (size_t i = 0; i < rs->n_runs; i++)
        bytes += rs->runs[i].bytes;
    *out_bytes = bytes;
    return rs->n_runs;
}

const struct run_info *
runset_run(const struct runset *rs, size_t i)
{
    return i < rs->n_runs ? &rs->runs[i] : NULL;
}

/* The highest run below max_level that ends with the segment seg, lies inside
 * (after, upto] and does not begin before min_seg. */
static const struct run_info *
best_run(const struct runset *rs, uint32_t seg, uint32_t min_seg,
         uint64_t after, uint64_t upto, unsigned max_level)
{
    const struct run_info *best = NULL;

    for (size_t i = 0; i < rs->n_runs; i++) {
        const struct run_info *r = &rs->runs[i];

        if (r->last_seg == seg && r->level < max_level &&
            r->first_seg >= min_seg && r->first_seq > after &&
            r->last_seq <= upto && (!best || r->first_seg < best->first_seg))
            best = r;
    }
    return best;
}

/* --- plans ------------------------------------------------------------------ */

static bool
has_l0(const struct runset *rs, uint32_t seg)
{
    struct run_info want = { .level = 0, .first_seg = seg };
    size_t at = run_at(rs, &want);

    return at < rs->n_runs && run_cmp(&rs->runs[at], &want) == 0;
}

static void
plan_header(const struct runset *rs, struct run_header *h)
{
    *h = (struct run_header){ .vpg = rs->cfg.vpg, .lane = rs->cfg.lane };
}

static bool
plan_l0(const struct runset *rs, struct build_plan *out)
{
    for (size_t i = 0; i < rs->n_segs; i++) {
        const struct seg_info *s = &rs->segs[i];

        if (!s->sealed || seg_empty(s) || s->last_seq <= rs->promoted ||
            has_l0(rs, s->no))
            continue;
        *out = (struct build_plan){ .n = 0 };
        plan_header(rs, &out->header);
        out->header.info = (struct run_info){ .first_seg = s->no,
                                              .last_seg = s->no,
                                              .first_seq = s->first_seq,
                                              .last_seq = s->last_seq };
        return true;
    }
    return false;
}

/* The runs below `level` that cover the segments [lo, hi) of the array whole,
 * oldest first; their number, 0 where something is not covered. */
static size_t
cover_group(const struct runset *rs, size_t lo, size_t hi, unsigned level,
            const struct run_info **out, size_t max)
{
    size_t n = 0;

    while (hi > lo) {
        const struct seg_info *s = &rs->segs[hi - 1];
        const struct run_info *r;

        if (seg_empty(s)) {
            hi--;
            continue;
        }
        r = best_run(rs, s->no, rs->segs[lo].no, 0, UINT64_MAX, level);
        if (!r || n == max)
            return 0;
        out[n++] = r;
        hi = seg_at(rs, r->first_seg);
    }
    for (size_t i = 0; i < n / 2; i++) {
        const struct run_info *t = out[i];

        out[i] = out[n - 1 - i];
        out[n - 1 - i] = t;
    }
    return n;
}

static bool
level_has_group(const struct runset *rs, unsigned level, uint64_t first,
                uint64_t end)
{
    for (size_t i = 0; i < rs->n_runs; i++)
        if (rs->runs[i].level == level && rs->runs[i].first_seg >= first &&
            rs->runs[i].first_seg < end)
            return true;
    return false;
}

/* The group of `level` that begins at segment number first: can it be built? */
static int
plan_group(const struct runset *rs, unsigned level, uint64_t first,
           uint64_t span, struct build_plan *out)
{
    const struct run_info *from[64];
    size_t lo = seg_at(rs, (uint32_t)first), hi = rs->n_segs, n;

    if (first + span <= UINT32_MAX)
        hi = seg_at(rs, (uint32_t)(first + span));
    if (hi == rs->n_segs || hi - lo < 2 ||
        rs->segs[lo].first_seq <= rs->promoted ||
        level_has_group(rs, level, first, first + span))
        return 0;
    n = cover_group(rs, lo, hi, level, from, ARRAY_SIZE(from));
    if (n < 2)
        return 0;
    *out = (struct build_plan){ .n = n };
    out->from = calloc(n, sizeof *out->from);
    if (!out->from)
        return -ENOMEM;
    for (size_t i = 0; i < n; i++)
        out->from[i] = *from[i];
    plan_header(rs, &out->header);
    out->header.info = (struct run_info){ .level = (uint8_t)level,
                                          .first_seg = from[0]->first_seg,
                                          .last_seg = from[n - 1]->last_seg,
                                          .first_seq = from[0]->first_seq,
                                          .last_seq = from[n - 1]->last_seq };
    return 1;
}

static int
plan_merge(const struct runset *rs, struct build_plan *out)
{
    uint64_t span = rs->cfg.fan;

    if (rs->n_segs == 0)
        return 0;
    for (unsigned level = 1; level <= RUN_LEVEL_MAX; level++) {
        uint32_t last = rs->segs[rs->n_segs - 1].no;

        for (uint64_t g = rs->segs[0].no / span * span; g + span <= last;
             g += span) {
            int rc = plan_group(rs, level, g, span, out);

            if (rc != 0)
                return rc;
        }
        if (span > last)
            break;
        span *= rs->cfg.fan;
    }
    return 0;
}

int
runset_plan_build(struct runset *rs, struct build_plan *out)
{
    if (plan_l0(rs, out))
        return 1;
    return plan_merge(rs, out);
}

bool
runset_build_due(struct runset *rs)
{
    struct build_plan p;

    if (runset_plan_build(rs, &p) <= 0)
        return false;
    build_plan_release(&p);
    return true;
}

void
build_plan_release(struct build_plan *p)
{
    free(p->from);
    p->from = NULL;
    p->n = 0;
}

/* --- building ----------------------------------------------------------------- */

struct map_fill {
    struct extmap *map;
    uint32_t seg;
    struct err *err;
};

static int
map_put(void *arg, const struct seg_entry *se)
{
    struct map_fill *f = arg;

    return extmap_put_entry(f->map, f->seg, se, f->err);
}

int
segment_map(const struct segment_ops *seg, uint32_t no, uint64_t after_seq,
            uint64_t upto_seq, struct extmap **out, struct err *err)
{
    struct map_fill f = { .seg = no, .err = err };
    int rc;

    f.map = extmap_new();
    if (!f.map)
        return err_set(err, -ENOMEM, ERR_GEN_0002,
                       "segment %" PRIu32 ": no memory for its map", no);
    rc = seg->walk(seg->arg, no, after_seq, upto_seq, map_put, &f, err);
    if (rc < 0) {
        extmap_free(f.map);
        return rc;
    }
    *out = f.map;
    return 0;
}

static int
build_l0(struct io_loop *loop, const char *dir, const struct segment_ops *seg,
         const struct build_plan *p, struct run_info *out, struct err *err)
{
    struct extmap_iter it;
    struct extmap *map;
    int rc =
        segment_map(seg, p->header.info.first_seg, 0, UINT64_MAX, &map, err);

    if (rc < 0)
        return rc;
    extmap_iterate(map, 0, UINT64_MAX, &it);
    rc = run_build(loop, dir, &p->header, &it.it, out, err);
    extmap_free(map);
    return rc;
}

static struct run_header
header_of(const struct runset_config *cfg, const struct run_info *info)
{
    return (
        struct run_header){ .vpg = cfg->vpg, .lane = cfg->lane, .info = *info };
}

static int
open_by_info(const struct runset_config *cfg, const struct run_info *info,
             struct run **out, struct err *err)
{
    struct run_header want = header_of(cfg, info);
    char name[RUN_NAME_MAX];

    run_name(info, name);
    return run_open(cfg->loop, cfg->dir, name, &want, out, err);
}

static int
build_merge(struct io_loop *loop, const char *dir, const struct build_plan *p,
            struct run_info *out, struct err *err)
{
    struct runset_config cfg = {
        .loop = loop, .dir = dir, .vpg = p->header.vpg, .lane = p->header.lane
    };
    struct read_table *t = calloc(p->n, sizeof *t);
    struct read_set set = { .tables = t };
    struct set_scan *scan = NULL;
    int rc = 0;

    if (!t)
        return err_set(err, -ENOMEM, ERR_GEN_0002, "no memory for a merge");
    for (; rc == 0 && set.n_tables < p->n; set.n_tables += rc == 0)
        rc = open_by_info(&cfg, &p->from[p->n - 1 - set.n_tables],
                          &t[set.n_tables].run, err);
    if (rc == 0)
        rc = set_scan_new(&set, &scan, err);
    if (rc == 0)
        rc = run_build(loop, dir, &p->header, set_scan_records(scan), out, err);
    set_scan_free(scan);
    for (size_t i = 0; i < set.n_tables; i++)
        run_unref(t[i].run);
    free(t);
    return rc;
}

int
build_run(struct io_loop *loop, const char *dir, const struct segment_ops *seg,
          const struct build_plan *p, struct run_info *out, struct err *err)
{
    if (p->n == 0)
        return build_l0(loop, dir, seg, p, out, err);
    return build_merge(loop, dir, p, out, err);
}

/* --- covering a stretch ---------------------------------------------------------- */

/* A run that some living set has open already. */
static struct run *
open_run(const struct runset *rs, const struct run_info *info)
{
    struct list *l;

    list_for_each (l, &rs->sets) {
        const struct read_set *s = list_entry(l, struct read_set, link);

        for (size_t i = 0; i < s->n_tables; i++)
            if (s->tables[i].run &&
                run_cmp(run_info(s->tables[i].run), info) == 0)
                return run_ref(s->tables[i].run);
    }
    return NULL;
}

int
runset_cover(struct runset *rs, uint64_t after_seq, uint64_t upto_seq,
             struct table_plan **out, size_t *out_n)
{
    struct table_plan *plan = calloc(rs->n_segs + 1, sizeof *plan);
    size_t i = rs->n_segs, n = 0;

    if (!plan)
        return -ENOMEM;
    while (i > 0) {
        const struct seg_info *s = &rs->segs[i - 1];
        const struct run_info *r;

        if (s->first_seq > upto_seq || seg_empty(s)) {
            i--;
            continue;
        }
        if (s->last_seq <= after_seq)
            break;
        r = s->sealed
                ? best_run(rs, s->no, 0, after_seq, upto_seq, RUN_LEVEL_MAX + 1)
                : NULL;
        if (r) {
            plan[n++] = (struct table_plan){ .is_run = true,
                                             .info = *r,
                                             .run = open_run(rs, r),
                                             .seg = r->first_seg };
            i = seg_at(rs, r->first_seg);
            continue;
        }
        plan[n++] = (struct table_plan){ .seg = s->no,
                                         .after_seq = after_seq,
                                         .upto_seq = upto_seq };
        i--;
    }
    *out = plan;
    *out_n = n;
    return 0;
}

void
table_plans_free(struct table_plan *p, size_t n)
{
    if (!p)
        return;
    for (size_t i = 0; i < n; i++)
        run_unref(p[i].run);
    free(p);
}

/* --- read sets ------------------------------------------------------------------- */

static void
set_destroy(struct read_set *set)
{
    for (size_t i = 0; i < set->n_tables; i++) {
        run_unref(set->tables[i].run);
        extmap_free(set->tables[i].map);
    }
    free(set->tables);
    free(set);
}

int
read_set_build(const struct runset_config *cfg, uint64_t after_seq,
               uint64_t upto_seq, const struct table_plan *plan, size_t n,
               struct read_set **out, struct err *err)
{
    struct read_set *set = calloc(1, sizeof *set);
    int rc = 0;

    if (set)
        set->tables = calloc(n + 1, sizeof *set->tables);
    if (!set || !set->tables) {
        free(set);
        return err_set(err, -ENOMEM, ERR_GEN_0002, "no memory for a read set");
    }
    atomic_init(&set->refs, 1);
    list_init(&set->link);
    set->after_seq = after_seq;
    set->upto_seq = upto_seq;
    set->first_seg = UINT32_MAX;
    for (size_t i = 0; rc == 0 && i < n; i++) {
        struct read_table *t = &set->tables[i];

        if (!plan[i].is_run)
            rc = segment_map(&cfg->seg, plan[i].seg, plan[i].after_seq,
                             plan[i].upto_seq, &t->map, err);
        else if (plan[i].run)
            t->run = run_ref(plan[i].run);
        else
            rc = open_by_info(cfg, &plan[i].info, &t->run, err);
        if (rc == 0) {
            set->n_tables++;
            set->first_seg = MIN(set->first_seg, plan[i].seg);
        }
    }
    if (rc < 0) {
        set_destroy(set);
        return rc;
    }
    *out = set;
    return 0;
}

static int
hold_find(const struct runset *rs, uint32_t seg, size_t *out)
{
    for (size_t i = 0; i < rs->n_holds; i++)
        if (rs->holds[i] == seg) {
            *out = i;
            return 0;
        }
    return -ENOENT;
}

int
runset_hold(struct runset *rs, uint32_t first_seg)
{
    if (rs->n_holds == HOLDS_MAX)
        return -EBUSY;
    rs->holds[rs->n_holds++] = first_seg;
    return 0;
}

void
runset_unhold(struct runset *rs, uint32_t first_seg)
{
    size_t i;

    if (hold_find(rs, first_seg, &i) == 0)
        rs->holds[i] = rs->holds[--rs->n_holds];
}

void
read_set_register(struct read_set *set, struct runset *rs)
{
    set->owner = rs;
    list_push_back(&rs->sets, &set->link);
}

struct read_set *
read_set_ref(struct read_set *set)
{
    atomic_fetch_add_explicit(&set->refs, 1, memory_order_relaxed);
    return set;
}

static void
set_released(struct io_post *p)
{
    struct read_set *set = container_of(p, struct read_set, post);
    struct runset *rs = set->owner;

    list_del(&set->link);
    set_destroy(set);
    rs->cfg.released(rs->cfg.arg);
}

void
read_set_unref(struct read_set *set)
{
    if (!set ||
        atomic_fetch_sub_explicit(&set->refs, 1, memory_order_acq_rel) != 1)
        return;
    if (!set->owner) {
        set_destroy(set);
        return;
    }
    set->post.run = set_released;
    io_post(set->owner->cfg.loop, &set->post);
}

bool
runset_idle(const struct runset *rs)
{
    return list_empty(&rs->sets) && rs->n_holds == 0;
}

bool
runset_segment_used(const struct runset *rs, uint32_t no)
{
    struct list *l;

    for (size_t i = 0; i < rs->n_holds; i++)
        if (rs->holds[i] <= no)
            return true;
    list_for_each (l, &rs->sets)
        if (list_entry(l, struct read_set, link)->first_seg <= no)
            return true;
    return false;
}

/* --- scans ------------------------------------------------------------------------ */

struct scan_table {
    bool is_run;
    struct run_iter run;
    struct extmap_iter map;
};

struct set_scan {
    struct merge_iter *merge;
    size_t n;
    struct scan_table t[];
};

int
set_scan_new(struct read_set *set, struct set_scan **out, struct err *err)
{
    struct set_scan *s = calloc(1, sizeof *s + set->n_tables * sizeof s->t[0]);
    struct rec_iter **src = calloc(set->n_tables + 1, sizeof(struct rec_iter *));
    int rc = s && src ? 0 : -ENOMEM;

    for (size_t i = 0; rc == 0 && i < set->n_tables; i++) {
        const struct read_table *rt = &set->tables[i];

        s->t[i].is_run = rt->run != NULL;
        if (rt->run) {
            rc = run_scan(rt->run, &s->t[i].run, err);
            src[i] = &s->t[i].run.it;
            if (rc < 0)
                break;
        } else {
            extmap_iterate(rt->map, 0, UINT64_MAX, &s->t[i].map);
            src[i] = &s->t[i].map.it;
        }
        s->n++;
    }
    if (rc == 0)
        rc = merge_new(src, s->n, &s->merge);
    free(src);
    if (rc < 0) {
        if (rc == -ENOMEM)
            err_set(err, rc, ERR_GEN_0002, "no memory to scan an index");
        set_scan_free(s);
        return rc;
    }
    *out = s;
    return 0;
}

struct rec_iter *
set_scan_records(struct set_scan *s)
{
    return merge_iter(s->merge);
}

void
set_scan_free(struct set_scan *s)
{
    if (!s)
        return;
    for (size_t i = 0; i < s->n; i++)
        if (s->t[i].is_run)
            run_iter_release(&s->t[i].run);
    merge_free(s->merge);
    free(s);
}
