/* Opening a journal: what the manifest names, and the tail of what it does not
 * close.  Only segments without SEG_SEAL are scanned: headers and tables, and
 * the bodies of what nobody had been told to be durable.  Blocking, on a worker;
 * the loop does not know the journal yet.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "journal/journal_internal.h"

enum {
    NAMES_MAX = 1 << 20
};
enum adopt_flags {
    ADOPT_LAST = 1 << 0, /* may take more batches */
    ADOPT_HURT = 1 << 1, /* damage lies behind: nothing is written to it */
};

static void
path_in(const struct journal *j, const char *name, char out[4096])
{
    (void)snprintf(out, 4096, "%s/%s", j->dir, name);
}

/* --- first time ---------------------------------------------------------------- */

static int
create(struct journal *j, struct err *err)
{
    struct man_header id = { .vpg = j->cfg.vpg, .lane = j->cfg.lane };
    struct manifest_job job;
    int rc = manifest_create(j->loop, j->dir, &id, &j->man, err);

    if (rc < 0)
        return rc;
    j->man_loaded = true;
    for (unsigned i = 0; i < j->cfg.n_volumes && rc == 0; i++) {
        struct man_rec r = { .type = MAN_GEOMETRY,
                             .u.volume = j->cfg.volumes[i] };

        rc = manifest_add(&j->man, &r);
    }
    if (rc == 0)
        rc = manifest_take(&j->man, false, &job);
    if (rc < 0)
        return err_set(err, rc, ERR_GEN_0002, "no memory for a manifest");
    rc = manifest_write(&job, err);
    if (rc == 0)
        j->man.durable = job.upto;
    manifest_job_release(&job);
    return rc;
}

static int
check_identity(struct journal *j, struct err *err)
{
    const struct man_state *s = &j->man.state;

    if (!uuid_equal(&s->id.vpg.u, &j->cfg.vpg.u) || s->id.lane != j->cfg.lane)
        return err_set(err, -EINVAL, ERR_JNL_0005,
                       "journal %s holds another lane (%" PRIu32 ")", j->dir,
                       s->id.lane);
    for (unsigned i = 0; i < j->cfg.n_volumes; i++) {
        const struct journal_volume *v = &j->cfg.volumes[i];
        unsigned k = 0;

        while (k < s->n_volumes && s->volumes[k].vol != v->vol)
            k++;
        if (k == s->n_volumes)
            return err_set(err, -EINVAL, ERR_JNL_0005,
                           "journal %s has no volume %u", j->dir, v->vol);
        if (s->volumes[k].size != v->size)
            return err_set(err, -EINVAL, ERR_JNL_0005,
                           "journal %s: volume %u has %" PRIu64
                           " bytes there, %" PRIu64 " are asked for",
                           j->dir, v->vol, s->volumes[k].size, v->size);
    }
    if (s->n_volumes != j->cfg.n_volumes)
        return err_set(err, -EINVAL, ERR_JNL_0005,
                       "journal %s has %u volumes, %u are asked for", j->dir,
                       s->n_volumes, j->cfg.n_volumes);
    return 0;
}

/* --- files that the manifest does not name ---------------------------------------- */

/* The segment that was being made when we died has at most a header.  One that
 * took batches and is not named means that the manifest lost records. */
static int
check_unnamed(struct journal *j, const char *path, uint32_t no, bool *out_used,
              struct err *err)
{
    struct seg_scan sc = { .tables = NULL };
    struct io_file *f = NULL;
    int rc = io_file_open(j->loop, path, IO_OPEN_READ | IO_OPEN_DIRECT, &f, err);

    *out_used = false;
    if (rc < 0)
        return rc;
    sc.tables = seg_tables_new();
    if (!sc.tables) {
        io_file_close(f);
        return err_set(err, -ENOMEM, ERR_GEN_0002, "no memory");
    }
    rc = segment_scan(f, SEG_HEADER_SIZE + BATCH_SIZE_MAX, &sc, NULL);
    *out_used = rc == 0 && sc.header.no == no && no >= j->man.state.next_seg &&
                atomic_load(&sc.tables->n_batches) > 0;
    seg_tables_free(sc.tables);
    io_file_close(f);
    return 0;
}

static bool
run_named(const struct man_state *s, uint8_t level, uint32_t seg)
{
    for (size_t i = 0; i < s->n_runs; i++)
        if (s->runs[i].level == level && s->runs[i].first_seg == seg)
            return true;
    return false;
}

static bool
view_named(const struct man_state *s, const char *rest)
{
    char id[UUID_TEXT_SIZE];

    for (size_t i = 0; i < s->n_views; i++) {
        uuid_format(&s->views[i].cfg.id.u, id);
        if (strncmp(rest, id, UUID_TEXT_SIZE - 1) == 0)
            return true;
    }
    return false;
}

static bool
ends_with(const char *name, const char *end)
{
    size_t n = strlen(name), k = strlen(end);

    return n > k && strcmp(name + n - k, end) == 0;
}

static int
sweep_one(struct journal *j, const char *name, struct err *err)
{
    char path[4096];
    uint8_t level;
    uint32_t no;
    bool used = false;
    int rc;

    path_in(j, name, path);
    if (seg_name_parse(name, &no) == 0) {
        if (man_state_seg(&j->man.state, no))
            return 0;
        rc = check_unnamed(j, path, no, &used, err);
        if (rc < 0)
            return rc;
        if (used)
            return err_set(err, -EBADMSG, ERR_JNL_0004,
                           "%s holds batches, but the manifest ends before "
                           "segment %" PRIu32 ": records are missing",
                           path, no);
        j->man.state.next_seg = MAX(j->man.state.next_seg, no + 1);
        (void)io_unlink(j->loop, path);
    } else if (run_name_parse(name, &level, &no) == 0) {
        if (!run_named(&j->man.state, level, no))
            (void)io_unlink(j->loop, path);
    } else if (strncmp(name, "view.", 5) == 0) {
        if (!view_named(&j->man.state, name + 5))
            (void)io_unlink(j->loop, path);
    } else if (ends_with(name, ".tmp") ||
               (ends_with(name, ".damaged") && !j->deg.open && !j->offer)) {
        (void)io_unlink(j->loop, path); /* a sync has made it worthless */
    }
    return 0;
}

static int
sweep(struct journal *j, struct err *err)
{
    char **names = NULL;
    size_t n = 0;
    int rc = io_list_dir(j->loop, j->dir, NAMES_MAX, &names, &n, err);

    for (size_t i = 0; i < n && rc == 0; i++)
        rc = sweep_one(j, names[i], err);
    io_list_free(names, n);
    return rc;
}

/* No manifest is right only in an empty directory: a lost one must not recycle
 * the whole journal. */
static int
must_be_empty(struct journal *j, struct err *err)
{
    char **names = NULL;
    size_t n = 0;
    uint32_t no;
    int rc = io_list_dir(j->loop, j->dir, NAMES_MAX, &names, &n, err);

    for (size_t i = 0; i < n && rc == 0; i++)
        if (seg_name_parse(names[i], &no) == 0 ||
            strncmp(names[i], "run.", 4) == 0)
            rc = err_set(err, -EBADMSG, ERR_JNL_0004,
                         "journal %s holds %s but no manifest", j->dir,
                         names[i]);
    io_list_free(names, n);
    return rc;
}

/* --- segments ------------------------------------------------------------------ */

static struct seg_header
header_of(const struct journal *j, const struct man_seg *g)
{
    struct seg_header h = {
        .vpg = j->cfg.vpg,
        .lane = j->cfg.lane,
        .no = g->no,
        .size = g->size,
        .incarnation = g->incarnation,
        .first_batch = g->first_batch,
        .first_seq = g->first_seq,
    };

    memcpy(h.prev_digest, g->prev_digest, 16);
    return h;
}

/* What a segment's last sound batch leaves behind. */
static void
tail_at(struct journal *j, const struct man_seg *g, uint64_t batch_no,
        uint64_t seq, const uint8_t digest[16])
{
    j->d_seq = MAX(j->d_seq, seq);
    if (!uuid_equal(&g->incarnation.u, &j->man.state.incarnation.u))
        return;
    j->d_batch = batch_no;
    memcpy(j->d_digest, digest, 16);
}

static int
add_sealed(struct journal *j, const struct man_seg *g)
{
    struct seg_place p = { .no = g->no,
                           .header = header_of(j, g),
                           .footer_off = g->footer_off,
                           .end = g->end,
                           .last_seq = g->last_seq };

    j->offer = g->offer;
    tail_at(j, g, g->last_batch, g->last_seq, g->digest);
    return seg_store_add(j->segs, &p, NULL, NULL);
}

/* Only its beginning is there: that much is walked, without a footer. */
static int
add_rest(struct journal *j, const struct man_seg *g, const struct seg_scan *sc,
         const struct err *why)
{
    struct jlost lost = { .seg = g->no, .last_seq = sc->last_seq };
    struct seg_place p = { .no = g->no,
                           .header = header_of(j, g),
                           .end = sc->end,
                           .last_seq = sc->last_seq };
    int rc;

    lost.nothing = atomic_load(&sc->tables->n_batches) == 0;
    if (!lost.nothing)
        tail_at(j, g, sc->last_batch, sc->last_seq, sc->tables->digest);
    else
        tail_at(j, g, g->first_batch - 1, j->d_seq, g->prev_digest);
    rc = journal_lost_add(j, &lost);
    if (rc == 0 && !lost.nothing)
        rc = seg_store_add(j->segs, &p, NULL, NULL);
    if (rc == 0 && sc->end < g->end && g->last_seq > j->man.state.promoted)
        journal_hole_open(j, j->d_seq, why);
    else if (!j->found.num) /* only its footer */
        j->found = *why;
    return rc;
}

/* Is all of a sealed segment in its file?  Its bytes are not read: what is bad
 * among them is noticed by whoever reads them.  1: yes; 0: no, *why says so. */
static int
is_whole(struct io_file *f, const struct seg_place *p, uint64_t *out_size,
         struct err *why)
{
    struct seg_tables *t = NULL;
    struct io_file_info fi;
    int rc = io_file_info(f, &fi, why);

    if (rc < 0)
        return rc;
    *out_size = fi.size;
    if (fi.size >= p->header.size)
        return 1;
    /* It may still end behind all that counts. */
    rc = segment_load_tables(f, p, &t, why);
    seg_tables_free(t);
    if (rc == 0)
        return 1;
    (void)err_set(why, -EBADMSG, ERR_JNL_0003,
                  "%s: the file ends at %" PRIu64 ", and had %" PRIu64 " bytes",
                  io_file_path(f), fi.size, p->header.size);
    return rc == -ENOMEM ? rc : 0;
}

/* After a hole: does a whole sync lie in this segment? */
static int
find_sync(struct journal *j, struct io_file *f, const struct seg_place *p,
          struct err *err)
{
    struct seg_tables *t;
    int rc = segment_load_tables(f, p, &t, err);

    for (uint32_t i = 0; rc == 0 && i < atomic_load(&t->n_batches); i++)
        for (uint32_t k = 0; k < t->batches[i].n_entries; k++) {
            struct lane_entry e;

            lane_entry_decode(t->entries +
                                  (size_t)(t->batches[i].first_entry + k) *
                                      BATCH_ENTRY_SIZE,
                              &e);
            if (e.type == ENTRY_RESYNC_BEGIN || e.type == ENTRY_RESYNC_END)
                journal_hole_entry(j, (enum entry_type)e.type,
                                   seg_entry_seq(&t->batches[i], k));
        }
    if (rc == 0)
        seg_tables_free(t);
    return rc;
}

static int
recover_sealed(struct journal *j, const struct man_seg *g, struct err *err)
{
    char path[4096], name[SEG_NAME_MAX];
    struct seg_place p = { .no = g->no,
                           .header = header_of(j, g),
                           .footer_off = g->footer_off,
                           .end = g->end };
    struct seg_scan sc = { .last_seq = g->first_seq - 1 };
    struct err why = ERR_INIT;
    struct io_file *f = NULL;
    uint64_t size = 0;
    int rc;

    seg_name(g->no, name);
    path_in(j, name, path);
    j->used += g->size;
    /* How far its entries would go in the replica only its footer tells. */
    man_state_seg(&j->man.state, g->no)->room = 2 * g->end;
    rc = io_file_open(j->loop, path, IO_OPEN_READ | IO_OPEN_DIRECT, &f, &why);
    if (rc == 0)
        rc = is_whole(f, &p, &size, &why);
    else if (rc == -ENOENT)
        rc = 0;
    if (rc == 1 && j->deg.open && find_sync(j, f, &p, &why) < 0)
        rc = 0; /* its batches may be there; without their table they are not */
    if (rc < 0)
        *err = why;
    if (rc == 1) {
        rc = add_sealed(j, g);
        if (j->deg.open)
            j->offer |= OFFER_TAINTED;
        goto out;
    }
    sc.tables = seg_tables_new();
    if (rc == 0 && !sc.tables)
        rc = -ENOMEM;
    if (rc == 0 && f)
        rc = segment_scan_as(f, &p.header, g->end, &sc, err);
    if (rc == 0) {
        j->offer = g->offer;
        rc = add_rest(j, g, &sc, &why);
        if (j->deg.open)
            j->offer |= OFFER_TAINTED;
    }
out:
    if (rc == -ENOMEM)
        (void)err_set(err, rc, ERR_GEN_0002, "no memory for segments");
    seg_tables_free(sc.tables);
    if (f)
        io_file_close(f);
    return rc;
}

/* Does a batch say something in its bodies that recovery must know? */
static bool
has_news(const struct seg_tables *t, const struct seg_batch *b)
{
    for (uint32_t i = 0; i < b->n_entries; i++) {
        struct lane_entry e;

        lane_entry_decode(t->entries +
                              (size_t)(b->first_entry + i) * BATCH_ENTRY_SIZE,
                          &e);
        if (e.type == ENTRY_CUT_COMMIT || e.type == ENTRY_INCARNATION)
            return true;
    }
    return false;
}

/* The batches that were found, as if they had just become durable.  Their heads
 * say all, but for those with a checkpoint or the begin of an incarnation. */
static int
replay(struct journal *j, struct io_file *f, const struct seg_tables *t,
       struct err *err)
{
    uint32_t n = atomic_load(&t->n_batches);
    int rc = 0;

    for (uint32_t i = 0; i < n && rc == 0; i++) {
        struct batch_view b;
        uint8_t *buf, digest[16];
        size_t cap;

        if (has_news(t, &t->batches[i])) {
            rc = segment_read_batch(f, &t->batches[i], &buf, &cap, err);
            if (rc == 0) {
                j->recover_bytes += cap;
                rc = batch_decode(buf, t->batches[i].size, &b, err);
                if (rc < 0)
                    io_mem_free(buf, cap);
            }
        } else {
            rc = segment_read_head(f, &t->batches[i], &b, &buf, &cap, err);
            j->recover_bytes += rc == 0 ? cap : 0;
        }
        if (rc == 0) {
            batch_digest(buf, b.head_len, digest);
            rc = journal_note_batch(j, &b, digest, err);
            io_mem_free(buf, cap);
        }
    }
    return rc;
}

/* Tail or damage?  next: the segment behind it, or NULL; size: of the file.
 * 1: damage, *why says which. */
static int
check_end(struct io_file *f, uint64_t size, const struct seg_scan *sc,
          const struct man_seg *next, struct err *why)
{
    bool cut = size < sc->header.size;
    int rc;

    if (next && uuid_equal(&next->incarnation.u, &sc->incarnation.u) &&
        next->first_batch == sc->last_batch + 1)
        return 0;
    if (next && uuid_equal(&next->incarnation.u, &sc->incarnation.u))
        (void)err_set(why, -EBADMSG, ERR_JNL_0003,
                      "%s: offset %" PRIu64 ": batch %" PRIu64
                      " had been acknowledged (segment %" PRIu32
                      " begins with %" PRIu64 ") and is damaged: %s",
                      io_file_path(f), sc->end, sc->last_batch + 1, next->no,
                      next->first_batch, sc->why.num ? sc->why.msg : "missing");
    else if (sc->unreadable || sc->last_batch < sc->durable_seen || cut)
        (void)err_set(why, -EBADMSG, ERR_JNL_0003,
                      "%s: offset %" PRIu64 ": batch %" PRIu64
                      " may have been acknowledged and is damaged: %s",
                      io_file_path(f), sc->end, sc->last_batch + 1,
                      cut           ? "the file was cut"
                      : sc->why.num ? sc->why.msg
                                    : "no batch");
    if (why->num)
        return 1;
    rc = segment_find_later(f, &sc->incarnation, sc->end, sc->last_batch + 1,
                            why);
    if (rc == -EIO) /* behind what is sound the disk gives nothing */
        return 1;
    if (rc == 1)
        (void)err_set(why, -EBADMSG, ERR_JNL_0003,
                      "%s: offset %" PRIu64 ": batch %" PRIu64
                      " had been acknowledged (a later batch says so) and is "
                      "damaged: %s",
                      io_file_path(f), sc->end, sc->last_batch + 1,
                      sc->why.num ? sc->why.msg : "no batch");
    return rc;
}

static int
adopt(struct journal *j, const struct man_seg *g, struct io_file *f,
      struct seg_scan *sc, unsigned flags, struct err *err)
{
    struct jsegment *s = calloc(1, sizeof *s);
    struct seg_place p = { .no = g->no, .header = sc->header };
    struct seg_tables *t = sc->tables;
    uint32_t n = atomic_load(&t->n_batches);
    int rc;

    if (!s)
        return err_set(err, -ENOMEM, ERR_GEN_0002, "no memory for a segment");
    rc = seg_store_add(j->segs, &p, f, t);
    if (rc < 0) {
        free(s);
        return err_set(err, rc, ERR_GEN_0002, "no memory for a segment");
    }
    sc->tables = NULL; /* the store's now */
    j->used += g->size;
    *s = (struct jsegment){
        .header = sc->header,
        .file = f,
        .tables = t,
        .end = seg_tables_end(t),
        .batches = n,
        .entries = seg_tables_entries(t),
        .chunks = seg_tables_chunks(t),
        .cuts = t->n_cuts,
        .born_ns = j->up_mono,
        .room = journal_tables_room(t),
        .offer = j->offer,
        .last_batch = sc->last_batch,
        .last_seq = sc->last_seq,
        .hurt = (flags & ADOPT_HURT) != 0,
        .no_footer = (flags & ADOPT_HURT) != 0,
    };
    if ((flags & ADOPT_LAST) && !s->hurt && n > 0 &&
        uuid_equal(&g->incarnation.u, &j->man.state.incarnation.u)) {
        j->open = s;
    } else {
        list_push_back(&j->sealing, &s->link);
    }
    return 0;
}

/* What is there of a segment without SEG_SEAL; *out_file NULL: no file. */
static int
scan_open(struct journal *j, const struct man_seg *g, struct seg_scan *sc,
          struct io_file **out_file, struct err *why, struct err *err)
{
    char path[4096], name[SEG_NAME_MAX];
    struct seg_header want = header_of(j, g), have;
    uint8_t a[SEG_HEADER_SIZE], b[SEG_HEADER_SIZE];
    int rc;

    seg_name(g->no, name);
    path_in(j, name, path);
    rc = io_file_open(j->loop, path, IO_OPEN_WRITE | IO_OPEN_DIRECT, out_file,
                      err);
    if (rc == -ENOENT) {
        *why = *err;
        *out_file = NULL;
        sc->header = want;
        sc->end = SEG_HEADER_SIZE;
        sc->last_batch = g->first_batch - 1;
        sc->last_seq = g->first_seq - 1;
        memcpy(sc->tables->digest, g->prev_digest, 16);
        return 1;
    }
    if (rc == 0)
        rc = segment_read_header(*out_file, &have, why);
    if (rc == 0) {
        seg_header_encode(&want, a);
        seg_header_encode(&have, b);
        if (memcmp(a, b, sizeof a) != 0)
            (void)err_set(why, -EBADMSG, ERR_JNL_0003,
                          "%s: its header is not the one that the manifest "
                          "names",
                          path);
    }
    /* The manifest knows all of the header: its batches count without. */
    if (rc == -EBADMSG || rc == -EIO)
        rc = 0;
    if (why->num && !j->found.num)
        j->found = *why;
    if (rc < 0)
        *err = *why;
    *why = (struct err)ERR_INIT;
    if (rc == 0)
        rc = segment_scan_as(*out_file, &want, 0, sc, err);
    j->recover_bytes += sc->bytes_read;
    return rc;
}

static int
recover_open(struct journal *j, const struct man_seg *g,
             const struct man_seg *next, struct err *err)
{
    struct seg_scan sc = { .tables = seg_tables_new() };
    struct io_file_info fi = { .size = 0 };
    struct err why = ERR_INIT;
    struct io_file *f = NULL;
    bool hurt = false;
    int rc;

    rc = sc.tables ? scan_open(j, g, &sc, &f, &why, err)
                   : err_set(err, -ENOMEM, ERR_GEN_0002, "no memory");
    if (rc == 0)
        rc = io_file_info(f, &fi, err);
    if (rc == 0) {
        rc = check_end(f, fi.size, &sc, next, &why);
        if (rc < 0)
            *err = why;
    }
    if (rc == 1) {
        hurt = true;
        rc = 0;
    }
    /* Read with direct I/O, and now on stable storage before anybody is told;
     * otherwise a power loss could take back what we name durable. */
    if (rc == 0 && f) {
        rc = io_file_fdatasync_sync(f);
        if (rc < 0)
            (void)err_set(err, rc, ERR_JNL_0002, "%s: cannot sync: %s",
                          io_file_path(f), err_errno(rc));
    }
    if (rc == 0 && f)
        rc = replay(j, f, sc.tables, err);
    if (rc == 0 && !uuid_equal(&g->incarnation.u, &j->man.state.incarnation.u)) {
        j->d_batch = 0;
        memset(j->d_digest, 0, 16);
    }
    if (rc == 0 && hurt) {
        if (atomic_load(&sc.tables->n_batches) == 0)
            tail_at(j, g, g->first_batch - 1, j->d_seq, g->prev_digest);
        journal_hole_open(j, j->d_seq, &why);
    }
    if (rc == 0)
        rc = adopt(j, g, f, &sc,
                   (next ? 0U : (unsigned)ADOPT_LAST) |
                       (hurt ? (unsigned)ADOPT_HURT : 0U),
                   err);
    if (rc < 0 && f)
        io_file_close(f);
    seg_tables_free(sc.tables);
    return rc;
}

/* --- all of it -------------------------------------------------------------------- */

static int
load_points(struct journal *j, struct err *err)
{
    const struct man_state *s = &j->man.state;
    struct points_header id = { .vpg = j->cfg.vpg, .lane = j->cfg.lane };
    const struct man_seg *last = NULL;
    int rc;

    for (size_t i = 0; i < s->n_segs; i++)
        if (s->segs[i].sealed && (!last || s->segs[i].no > last->no))
            last = &s->segs[i];
    rc = points_load(j->loop, j->dir, &id, last ? last->points_gen : 0,
                     last ? last->points : 0, &j->points, err);
    if (rc < 0)
        return rc;
    j->up_base = s->up_ns;
    if (points_count(&j->points))
        j->up_base =
            MAX(j->up_base,
                points_at(&j->points, points_count(&j->points) - 1)->up_ns);
    if (s->any_floor)
        points_drop_before(&j->points, s->floor.seq + s->floor.none);
    return 0;
}

/* Points of the table that no batch carries can only come from a disk that
 * forgot what it had acknowledged: the end of the log is a hole. */
static void
check_points(struct journal *j)
{
    size_t n = points_count(&j->points);
    struct err why = ERR_INIT;

    if (n == 0 || j->deg.open || points_at(&j->points, n - 1)->seq <= j->d_seq)
        return;
    (void)err_set(&why, -EBADMSG, ERR_JNL_0003,
                  "checkpoint %" PRIu64 " was durable at %" PRIu64
                  ", but the segments end at %" PRIu64,
                  points_at(&j->points, n - 1)->cut_no,
                  points_at(&j->points, n - 1)->seq, j->d_seq);
    journal_hole_open(j, j->d_seq, &why);
    if (j->open)
        list_push_back(&j->sealing, &j->open->link);
    j->open = NULL;
    if (!list_empty(&j->sealing)) {
        struct jsegment *s = list_entry(j->sealing.prev, struct jsegment, link);

        s->hurt = s->no_footer = true;
        s->offer = j->offer;
    }
}

/* Index runs are made anew from segments: what is missing, cut, or covers what
 * is lost is dropped. */
static int
check_runs(struct journal *j)
{
    const struct man_state *s = &j->man.state;
    int rc = 0;

    for (size_t i = s->n_runs; i-- > 0 && rc == 0;) {
        struct man_rec r = { .type = MAN_RUN_DEL, .u.run = s->runs[i] };
        struct io_file_info fi = { .size = 0 };
        char path[4096], name[RUN_NAME_MAX];
        struct io_file *f = NULL;
        bool bad = false;

        run_name(&s->runs[i], name);
        path_in(j, name, path);
        for (size_t k = 0; k < j->deg.n_lost; k++)
            bad |= s->runs[i].first_seg <= j->deg.lost[k].seg &&
                   s->runs[i].last_seg >= j->deg.lost[k].seg;
        rc = bad ? 0 : io_file_open(j->loop, path, IO_OPEN_READ, &f, NULL);
        if (f) {
            bad = io_file_info(f, &fi, NULL) == 0 && fi.size != r.u.run.bytes;
            io_file_close(f);
        }
        bad |= rc == -ENOENT;
        rc = bad ? manifest_add(&j->man, &r) : 0;
    }
    return rc;
}

static int
load(struct journal *j, struct err *err)
{
    const struct man_state *s = &j->man.state;
    bool clean = true;
    int rc = manifest_load(j->loop, j->dir, &j->man, &clean, err);

    if (rc == -ENOENT) {
        rc = must_be_empty(j, err);
        return rc == 0 ? create(j, err) : rc;
    }
    if (rc < 0)
        return rc;
    j->man_loaded = true;
    j->man_rewrite = !clean; /* what lies behind the tear must not come back */
    rc = check_identity(j, err);
    if (rc == 0)
        rc = load_points(j, err);
    j->d_seq = s->promoted;
    for (size_t i = 0; i < s->n_segs && rc == 0; i++) {
        if (s->segs[i].sealed) {
            rc = recover_sealed(j, &s->segs[i], err);
        } else {
            rc = recover_open(j, &s->segs[i],
                              i + 1 < s->n_segs ? &s->segs[i + 1] : NULL, err);
        }
    }
    if (rc == 0 && check_runs(j) < 0)
        rc = err_set(err, -ENOMEM, ERR_GEN_0002, "no memory for segments");
    if (rc == 0)
        check_points(j);
    if (rc == 0)
        rc = sweep(j, err);
    if (rc == 0)
        journal_degraded_judge(j);
    return rc;
}

int
journal_recover(struct journal *j, struct err *err)
{
    int rc = io_mkdir(j->loop, j->dir, err);

    j->recovering = true;

    if (rc == 0) {
        rc = seg_store_new(j->loop, j->dir, j->cfg.vpg, j->cfg.lane,
                           (j->cfg.planted & JOURNAL_PLANT_ARRIVAL_ORDER) != 0,
                           &j->segs);
        if (rc < 0)
            (void)err_set(err, rc, ERR_GEN_0002, "no memory for a journal");
    }
    if (rc == 0)
        rc = reserve_new(j->loop, j->dir, &j->reserve, err);
    if (rc == 0)
        rc = load(j, err);
    j->man.rewrite_at = j->cfg.manifest_rewrite;
    j->rx_batch = j->d_batch;
    j->rx_seq = j->d_seq;
    memcpy(j->rx_digest, j->d_digest, 16);
    j->recovering = false;
    return rc;
}
