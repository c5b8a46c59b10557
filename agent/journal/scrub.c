/* The scrub: read everything that the manifest names and check it, without
 * changing anything.
 *
 * One object a worker job (manifest, points, a segment, a run, a piece of a
 * replica), and after each as long a pause as it took, up to a quarter of a
 * second, so commits and reads go on in between.  In a running journal an
 * object that was recycled meanwhile is passed over, and the open segment is
 * left to recovery and to the readers; without a running journal the open
 * segment is scanned as recovery would, and a valid batch that proves a lost
 * one is damage (I16).
 *
 * A replica is read, so that what its disk cannot give any more is found.  What
 * it gives cannot be verified: once promoted, data has no checksum here.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "journal/journal_internal.h"

enum {
    SCRUB_ALERTS_MAX = 16,
    SCRUB_PIECE = 32 * 1024 * 1024, /* of a replica, a job */
    SCRUB_READ = 1024 * 1024,
    SCRUB_STEP = 4096, /* what direct reads are rounded to */
};
#define SCRUB_PAUSE_MAX (NSEC_PER_SEC / 4)

struct scrub {
    struct io_loop *loop;
    const char *dir; /* borrowed */
    struct vpg_id vpg;
    uint32_t lane;
    struct man_seg *segs;
    struct run_info *runs;
    size_t n_segs, n_runs, next; /* next: objects done so far */
    struct journal_volume vols[LANE_VOLUMES_MAX]; /* whose replicas are read */
    unsigned n_vols;
    uint64_t pos; /* in the replica that is being read */
    uint64_t done_bytes, total_bytes;
    uint64_t points;
    uint32_t points_gen;
    struct journal_scrub_result result; /* the job's, while one runs */
    struct journal_scrub_result shown;  /* as of the last pause */
    char told[SCRUB_ALERTS_MAX][256];
    unsigned n_told;
    /* Of a running journal: */
    struct journal *j;
    struct io_work work;
    struct io_timer pause;
    uint64_t began_ns;
    struct scrub **slot;  /* in the journal */
    struct jhurts *hurts; /* of the segment at hand */
    size_t object;        /* the one at hand, and whether it was bad */
    bool object_bad;
    bool held;
    uint32_t hold;
    void (*done)(void *arg, int res, const struct journal_scrub_result *r);
    void (*tell)(void *arg, const char *what); /* without a running journal */
    void *arg;
};

enum {
    SCRUB_MANIFEST,
    SCRUB_POINTS,
    SCRUB_FILES
};

static void
found_bad(void *arg, const char *what)
{
    struct scrub *s = arg;

    if (s->result.bad++ == 0)
        (void)snprintf(s->result.first_bad, sizeof s->result.first_bad, "%s",
                       what);
    if (s->tell)
        s->tell(s->arg, what);
    if (s->n_told < SCRUB_ALERTS_MAX)
        (void)snprintf(s->told[s->n_told++], sizeof s->told[0], "%s", what);
}

static void
found_hurt(void *arg, const struct seg_hurt *h)
{
    struct scrub *s = arg;

    if (s->hurts)
        journal_damage_hurt(s->hurts, h);
}

/* Take the lists of objects out of a state. */
static int
scrub_list(struct scrub *s, const struct man_state *st)
{
    s->vpg = st->id.vpg;
    s->lane = st->id.lane;
    s->segs = calloc(st->n_segs + 1, sizeof *s->segs);
    s->runs = calloc(st->n_runs + 1, sizeof *s->runs);
    if (!s->segs || !s->runs)
        return -ENOMEM;
    for (size_t i = 0; i < st->n_segs; i++) {
        s->segs[s->n_segs++] = st->segs[i];
        if (st->segs[i].sealed) {
            s->points = st->segs[i].points;
            s->points_gen = st->segs[i].points_gen;
        }
    }
    for (size_t i = 0; i < st->n_runs; i++)
        s->runs[s->n_runs++] = st->runs[i];
    for (; s->n_vols < st->n_volumes; s->n_vols++)
        s->vols[s->n_vols] = st->volumes[s->n_vols];
    for (size_t i = 0; i < s->n_segs; i++)
        s->total_bytes += s->segs[i].end;
    for (size_t i = 0; i < s->n_runs; i++)
        s->total_bytes += s->runs[i].bytes;
    return 0;
}

static void
scrub_release(struct scrub *s)
{
    free(s->segs);
    free(s->runs);
    free(s->hurts);
}

/* A rewrite stopped between its two renames leaves manifest.old alone. */
static int
manifest_read(struct io_loop *loop, const char *dir, struct man_state *out,
              size_t *out_len, struct err *err)
{
    static const char *const names[] = { "manifest", "manifest.old" };
    int rc = -ENOENT;

    for (size_t i = 0; rc == -ENOENT && i < ARRAY_SIZE(names); i++) {
        char path[4096];
        uint8_t *bytes = NULL;
        uint64_t next;
        uint32_t prev;
        size_t good;
        bool clean;

        (void)snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        rc = io_read_whole(loop, path, MANIFEST_FILE_MAX, &bytes, out_len, err);
        if (rc == 0) {
            rc = man_state_parse(bytes, *out_len, out, &next, &prev, &good,
                                 &clean, err);
            if (rc < 0)
                err_prefix(err, "%s", path);
        }
        free(bytes);
    }
    return rc;
}

static void
check_manifest(struct scrub *s)
{
    struct man_state st = { .n_segs = 0 };
    struct err err = ERR_INIT;
    size_t len = 0;

    if (manifest_read(s->loop, s->dir, &st, &len, &err) < 0)
        found_bad(s, err.msg);
    else
        man_state_release(&st);
    s->result.bytes += len;
}

static void
check_points(struct scrub *s)
{
    struct err err = ERR_INIT;
    uint64_t n = 0;

    if (points_verify(s->loop, s->dir, s->points_gen, s->points, &n, &err) < 0)
        found_bad(s, err.msg);
    s->result.bytes += n * POINTS_REC;
}

/* Behind the last good batch of an open segment there must be none that proves
 * that more had been acknowledged. */
static void
check_tail(struct scrub *s, uint32_t no)
{
    struct seg_scan sc = { .tables = seg_tables_new() };
    struct err err = ERR_INIT;
    struct io_file *f = NULL;
    char path[4096], name[SEG_NAME_MAX], what[256];
    int rc;

    seg_name(no, name);
    (void)snprintf(path, sizeof path, "%s/%s", s->dir, name);
    rc = sc.tables ? io_file_open(s->loop, path, IO_OPEN_READ | IO_OPEN_DIRECT,
                                  &f, &err)
                   : -ENOMEM;
    if (rc == 0)
        rc = segment_scan(f, 0, &sc, &err);
    if (rc == 0)
        rc = segment_find_later(f, &sc.incarnation, sc.end, sc.last_batch + 1,
                                &err);
    if (rc > 0) {
        (void)snprintf(what, sizeof what,
                       "%s: offset %" PRIu64 ": acknowledged batch %" PRIu64
                       " is damaged",
                       name, sc.end, sc.last_batch + 1);
        found_bad(s, what);
    }
    seg_tables_free(sc.tables);
    if (f)
        io_file_close(f);
}

static void
check_segment(struct scrub *s, const struct man_seg *m)
{
    struct seg_place p = { .no = m->no,
                           .footer_off = m->sealed ? m->footer_off : 0,
                           .end = m->sealed ? m->end : 0,
                           .last_seq = m->last_seq };
    struct seg_verify v = {
        .bad = found_bad, .hurt = found_hurt, .arg = s, .mend = s->j != NULL
    };
    uint64_t before = s->result.bad;

    p.header = (struct seg_header){ .vpg = s->vpg,
                                    .lane = s->lane,
                                    .no = m->no,
                                    .size = m->size,
                                    .incarnation = m->incarnation,
                                    .first_batch = m->first_batch,
                                    .first_seq = m->first_seq };
    memcpy(p.header.prev_digest, m->prev_digest, sizeof m->prev_digest);
    (void)segment_verify(s->loop, s->dir, &p, &v);
    if (!m->sealed && s->result.bad == before)
        check_tail(s, m->no);
    s->result.segments++;
    s->result.batches += v.batches;
    s->result.chunks += v.chunks;
    s->result.bytes += v.bytes;
}

static void
check_run(struct scrub *s, const struct run_info *info)
{
    struct run_header want = { .vpg = s->vpg, .lane = s->lane, .info = *info };
    struct err err = ERR_INIT;
    char name[RUN_NAME_MAX];
    struct run *r = NULL;
    uint64_t bytes = 0;
    int rc;

    run_name(info, name);
    rc = run_open(s->loop, s->dir, name, &want, &r, &err);
    if (rc == 0)
        rc = run_verify(r, &bytes, &err);
    run_unref(r);
    if (rc < 0)
        found_bad(s, err.msg);
    s->result.runs++;
    s->result.bytes += bytes;
}

/* --- replicas ---------------------------------------------------------------- */

static int
read_stretch(struct io_file *f, uint8_t *buf, uint64_t off, uint64_t end,
             uint64_t *out_bytes, uint64_t *out_bad)
{
    for (uint64_t at = off; at < end; at += SCRUB_READ) {
        int64_t n = io_file_pread_sync(f, buf, MIN(end - at, SCRUB_READ), at);

        *out_bad = at;
        if (n < 0)
            return (int)n;
        *out_bytes += (uint64_t)n;
    }
    return 0;
}

/* Read about a piece of what is allocated from s->pos on, which moves on.  Holes
 * cost nothing. */
static int
read_piece(struct scrub *s, struct io_file *f, uint64_t size, uint8_t *buf,
           uint64_t *out_bad)
{
    uint64_t left = SCRUB_PIECE;
    struct io_extent e[64];
    int rc = 0;

    while (rc == 0 && s->pos < size && left > 0) {
        int n = io_file_extents_sync(f, s->pos, size - s->pos, e, ARRAY_SIZE(e));

        *out_bad = s->pos;
        if (n <= 0)
            return n < 0 ? n : -EIO;
        for (int i = 0; i < n && rc == 0 && left > 0; i++) {
            uint64_t to = e[i].off + e[i].len;

            if (!e[i].hole) {
                to = MIN(to, s->pos + left);
                left -= to - s->pos;
                rc = read_stretch(f, buf, round_down(s->pos, SCRUB_STEP),
                                  round_up(to, SCRUB_STEP), &s->result.bytes,
                                  out_bad);
            }
            s->pos = rc < 0 ? *out_bad + SCRUB_READ : to;
        }
    }
    return rc;
}

/* True when all of it has been read. */
static bool
check_replica(struct scrub *s, const struct journal_volume *v)
{
    char path[4096], what[256];
    struct err err = ERR_INIT;
    struct io_file *f = NULL;
    uint8_t *buf = io_mem_alloc(SCRUB_READ);
    uint64_t bad = 0;
    int rc;

    (void)snprintf(path, sizeof path, "%s/replica.%03u", s->dir, v->vol);
    rc = buf ? io_file_open(s->loop, path, IO_OPEN_READ | IO_OPEN_DIRECT, &f,
                            &err)
             : -ENOMEM;
    if (rc < 0) {
        found_bad(s, err.num ? err.msg : "no memory to read a replica");
        s->pos = v->size;
    } else {
        rc = read_piece(s, f, v->size, buf, &bad);
        if (rc < 0) {
            (void)snprintf(what, sizeof what,
                           "replica.%03u: offset %" PRIu64
                           ": cannot be read: %s",
                           v->vol, bad, err_errno(rc));
            found_bad(s, what);
            s->pos = MAX(s->pos, bad + SCRUB_READ);
        }
        io_file_close(f);
    }
    if (buf)
        io_mem_free(buf, SCRUB_READ);
    if (s->pos < v->size)
        return false;
    s->pos = 0;
    s->result.replicas++;
    return true;
}

/* --- all of it --------------------------------------------------------------- */

static size_t
scrub_objects(const struct scrub *s)
{
    return SCRUB_FILES + s->n_segs + s->n_runs + s->n_vols;
}

static void
check_object(struct scrub *s)
{
    size_t i = s->next, run = SCRUB_FILES + s->n_segs, vol = run + s->n_runs;
    uint64_t before = s->result.bytes;

    if (i == SCRUB_MANIFEST) {
        check_manifest(s);
    } else if (i == SCRUB_POINTS) {
        check_points(s);
    } else if (i < run) {
        check_segment(s, &s->segs[i - SCRUB_FILES]);
        s->done_bytes += s->segs[i - SCRUB_FILES].end;
    } else if (i < vol) {
        check_run(s, &s->runs[i - run]);
        s->done_bytes += s->runs[i - run].bytes;
    } else {
        bool all = check_replica(s, &s->vols[i - vol]);

        s->done_bytes += s->result.bytes - before;
        if (!all)
            return;
    }
    s->next++;
}

static unsigned
scrub_percent(const struct scrub *s)
{
    uint64_t total = MAX(s->total_bytes, 1u);

    return (unsigned)(MIN(s->done_bytes, total) * 99 / total);
}

int
journal_scrub_dir(struct io_loop *loop, const char *dir,
                  struct journal_scrub_result *out, struct err *err)
{
    return journal_scrub_files(loop, dir, NULL, NULL, out, err);
}

int
journal_scrub_files(struct io_loop *loop, const char *dir,
                    void (*tell)(void *arg, const char *what), void *arg,
                    struct journal_scrub_result *out, struct err *err)
{
    struct scrub s = { .loop = loop, .dir = dir, .tell = tell, .arg = arg };
    struct man_state st = { .n_segs = 0 };
    size_t len = 0;
    int rc = manifest_read(loop, dir, &st, &len, err);

    if (rc == -EBADMSG) {
        /* Damage is a finding, not a failure to look. */
        struct err e = ERR_INIT;

        (void)manifest_read(loop, dir, &st, &len, &e);
        found_bad(&s, e.msg);
        *out = s.result;
        return 0;
    }
    if (rc < 0)
        return rc;
    rc = scrub_list(&s, &st);
    man_state_release(&st);
    while (rc == 0 && s.next < scrub_objects(&s))
        check_object(&s);
    s.result.percent = 100;
    scrub_release(&s);
    if (rc < 0)
        return err_set(err, rc, ERR_GEN_0002, "no memory to scrub %s", dir);
    *out = s.result;
    return 0;
}

/* --- in a running journal ---------------------------------------------------- */

static void
scrub_work(struct io_work *w)
{
    struct scrub *s = container_of(w, struct scrub, work);
    uint64_t bad = s->result.bad;

    s->hurts->n = 0;
    check_object(s);
    s->object_bad = s->result.bad != bad;
}

/* Keep what the object needs; false: it is gone, or belongs to recovery. */
static bool
scrub_hold(struct scrub *s, size_t i)
{
    uint32_t no;

    s->held = false;
    if (i < SCRUB_FILES)
        return true;
    i -= SCRUB_FILES;
    if (i >= s->n_segs + s->n_runs)
        return true;
    if (i < s->n_segs && !s->segs[i].sealed)
        return false;
    no = i < s->n_segs ? s->segs[i].no : s->runs[i - s->n_segs].first_seg;
    if (i >= s->n_segs && !jindex_has_run(s->j->ix, &s->runs[i - s->n_segs]))
        return false;
    if (jindex_hold(s->j->ix, no) < 0)
        return false;
    s->hold = no;
    s->held = true;
    return true;
}

static void
scrub_end(struct scrub *s)
{
    struct journal *j = s->j;

    for (unsigned i = 0; i < s->n_told; i++) {
        struct err e;

        err_set(&e, -EBADMSG, ERR_JNL_0061, "the scrub found damage: %s",
                s->told[i]);
        journal_alert(j, &e);
    }
    *s->slot = NULL;
    io_timer_stop(&s->pause);
    s->result.percent = j->closing ? scrub_percent(s) : 100;
    if (s->done)
        s->done(s->arg, j->closing ? -ECANCELED : 0, &s->result);
    scrub_release(s);
    free(s);
    journal_job_done(j);
}

/* The object that was looked at: record what is lost, make anew what can be. */
static void
scrub_act(struct scrub *s, size_t i)
{
    size_t run = SCRUB_FILES + s->n_segs;

    if (i >= SCRUB_FILES && i < run)
        journal_damage_found(s->j, s->segs[i - SCRUB_FILES].no, s->hurts);
    else if (i >= run && i < run + s->n_runs && s->object_bad)
        (void)journal_drop_run(s->j, &s->runs[i - run]);
    else if (i < SCRUB_FILES && s->object_bad)
        journal_write_afresh(s->j, i == SCRUB_POINTS);
}

static void
scrub_go(struct scrub *s)
{
    while (!s->j->closing && s->next < scrub_objects(s)) {
        if (scrub_hold(s, s->next)) {
            s->object = s->next;
            s->began_ns = io_mono_fresh(s->loop);
            io_work_submit(s->loop, &s->work);
            return;
        }
        s->next++;
    }
    scrub_end(s);
}

static void
scrub_work_done(struct io_work *w)
{
    struct scrub *s = container_of(w, struct scrub, work);
    uint64_t took = io_mono_fresh(s->loop) - s->began_ns;

    if (s->held)
        jindex_unhold(s->j->ix, s->hold);
    scrub_act(s, s->object);
    s->shown = s->result;
    s->shown.percent = scrub_percent(s);
    io_timer_set(&s->pause, MIN(took, SCRUB_PAUSE_MAX));
}

static void
scrub_paused(struct io_timer *t)
{
    scrub_go(container_of(t, struct scrub, pause));
}

bool
journal_scrub_progress(const struct journal *j, struct journal_scrub_result *out)
{
    if (!j->scrub)
        return false;
    *out = j->scrub->shown; /* the worker counts in the other */
    return true;
}

static struct scrub *
scrub_new(struct journal *j, struct scrub **slot)
{
    struct scrub *s = calloc(1, sizeof *s);

    if (s)
        s->hurts = calloc(1, sizeof *s->hurts);
    if (!s || !s->hurts || scrub_list(s, &j->man.state) < 0) {
        if (s)
            scrub_release(s);
        free(s);
        return NULL;
    }
    s->loop = j->loop;
    s->dir = j->dir;
    s->j = j;
    s->slot = slot;
    s->work.run = scrub_work;
    s->work.done = scrub_work_done;
    io_timer_init(&s->pause, j->loop, scrub_paused);
    *slot = s;
    return s;
}

void
journal_scrub(struct journal *j,
              void (*done)(void *arg, int res,
                           const struct journal_scrub_result *r),
              void *arg)
{
    struct journal_scrub_result none = { .bad = 0 };
    struct jindex_stats ix;
    struct scrub *s;

    if (j->scrub || j->closing) {
        done(arg, j->closing ? -ECANCELED : -EBUSY, &none);
        return;
    }
    s = scrub_new(j, &j->scrub);
    if (!s) {
        done(arg, -ENOMEM, &none);
        return;
    }
    jindex_stats(j->ix, &ix);
    s->total_bytes += ix.replica_bytes;
    s->done = done;
    s->arg = arg;
    j->jobs++;
    scrub_go(s);
}

void
journal_check(struct journal *j, const uint32_t *seg)
{
    struct scrub *s = scrub_new(j, &j->check);
    size_t n = 0;

    if (!s)
        return; /* what reads it next suspects it again */
    for (size_t i = 0; i < s->n_segs; i++)
        if (seg && s->segs[i].no == *seg)
            s->segs[n++] = s->segs[i];
    s->n_segs = n;
    s->n_runs = seg ? 0 : s->n_runs;
    s->n_vols = 0;
    s->next = SCRUB_FILES;
    j->jobs++;
    scrub_go(s);
}
