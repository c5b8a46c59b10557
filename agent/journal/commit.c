/* Append, group commit, and the change of segments.
 *
 * While one write and its sync are in flight the next batches accumulate; then
 * all that fit go in one write.  No timers: the latency adjusts itself.  A
 * segment takes its first batch only when its header, its name and its SEG_NEW
 * are on stable storage, and so is the last batch of the one before.
 */
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "journal/journal_internal.h"

enum {
    WRITE_FAILURES = 2, /* in a row, then the journal stops */
};

#define SEG_AGED_LEAST (256 * KIB)

/* --- append -------------------------------------------------------------- */

static int
refuse(struct journal *j, struct err *err, const char *why, uint64_t no)
{
    return err_set(err, -EBADMSG, ERR_JNL_0007,
                   "journal %s: batch %" PRIu64 " behind %" PRIu64 ": %s",
                   j->dir, no, j->rx_batch, why);
}

static int
duplicate(struct journal *j, const struct batch_view *v,
          const uint8_t digest[16], struct err *err)
{
    unsigned i = (unsigned)(v->hdr.batch_no % JOURNAL_DIGESTS);

    if (j->digests[i].no != v->hdr.batch_no)
        return refuse(j, err, "a duplicate too old to be compared",
                      v->hdr.batch_no);
    if (memcmp(j->digests[i].digest, digest, 16) != 0)
        return refuse(j, err, "the number was taken by another batch",
                      v->hdr.batch_no);
    return -ESTALE;
}

static int
check_batch(struct journal *j, const struct batch_view *v,
            const uint8_t digest[16], struct err *err)
{
    const struct batch_hdr *h = &v->hdr;

    if (h->vpg_tag != get_le64(j->cfg.vpg.u.b) || h->lane != j->cfg.lane)
        return refuse(j, err, "it belongs to another lane", h->batch_no);
    if (!j->man.state.any_incarnation ||
        !uuid_equal(&h->incarnation.u, &j->man.state.incarnation.u))
        return refuse(j, err, "it belongs to another incarnation", h->batch_no);
    if (h->batch_no <= j->rx_batch)
        return duplicate(j, v, digest, err);
    if (h->batch_no != j->rx_batch + 1)
        return refuse(j, err, "a batch is missing before it", h->batch_no);
    if (memcmp(h->prev_digest, j->rx_digest, 16) != 0)
        return refuse(j, err, "the chain digest does not match", h->batch_no);
    if (h->first_seq <= j->rx_seq)
        return refuse(j, err, "its sequence numbers go back", h->batch_no);
    return batch_verify_bodies(v, err);
}

static void
batch_free(struct jbatch *b)
{
    io_mem_free(b->bytes, b->mem_size);
    free(b);
}

int
journal_append(struct journal *j, void *bytes, size_t size, size_t mem_size,
               struct err *err)
{
    struct jbatch *b = calloc(1, sizeof *b);
    uint64_t no;
    int rc;

    if (!b) {
        io_mem_free(bytes, mem_size);
        return err_set(err, -EAGAIN, ERR_GEN_0002, "no memory for a batch");
    }
    b->bytes = bytes;
    b->mem_size = mem_size;
    b->disk_size = (size_t)round_up(size, SEG_ALIGN);
    if (j->stopped || j->closing)
        rc = err_set(err, -EROFS, ERR_JNL_0008,
                     "journal %s takes no more batches: %s", j->dir,
                     j->stopped ? j->stop_err.msg : "it is being closed");
    else if (b->disk_size > mem_size)
        rc = err_set(err, -EINVAL, ERR_GEN_0001, "batch memory too short");
    else
        rc = batch_decode(bytes, size, &b->v, err);
    if (rc == 0) {
        batch_digest(bytes, b->v.head_len, b->digest);
        rc = check_batch(j, &b->v, b->digest, err);
    } else if (rc == -ENODATA) {
        rc = -EBADMSG;
    }
    if (rc == 0 && j->unacked > 0 &&
        size > JOURNAL_CREDIT - MIN(j->unacked, JOURNAL_CREDIT))
        rc = err_set(err, -EAGAIN, ERR_JNL_0013,
                     "journal %s: %zu bytes beyond %" PRIu64
                     " in flight exceed the credit of %" PRIu64,
                     j->dir, size, j->unacked, JOURNAL_CREDIT);
    if (rc < 0) {
        batch_free(b);
        return rc;
    }
    memset(b->bytes + size, 0, b->disk_size - size);
    b->room = journal_batch_room(&b->v);
    journal_go_on(j, true);
    no = b->v.hdr.batch_no;
    j->rx_batch = no;
    j->rx_seq = b->v.hdr.last_seq;
    memcpy(j->rx_digest, b->digest, 16);
    j->digests[no % JOURNAL_DIGESTS].no = no;
    memcpy(j->digests[no % JOURNAL_DIGESTS].digest, b->digest, 16);
    j->unacked += size;
    list_push_back(&j->queue, &b->link);
    if (j->cfg.planted & JOURNAL_PLANT_ACK_BEFORE_SYNC) {
        /* The planted bug: told durable at once, written later. */
        io_defer(j->loop, &j->plant);
        if (!io_timer_armed(&j->plant_hold))
            io_timer_set(&j->plant_hold, 300 * NSEC_PER_MSEC);
        return 0;
    }
    journal_commit_kick(j);
    return 0;
}

uint64_t
journal_credit(const struct journal *j)
{
    return j->stopped || j->closing || j->no_space || j->at_limit
               ? 0
               : JOURNAL_CREDIT;
}

void
journal_credit_changed(struct journal *j)
{
    bool zero = journal_credit(j) == 0;

    if (zero == j->told_zero)
        return;
    j->told_zero = zero;
    if (!zero && j->ev.credit)
        j->ev.credit(j->ev.arg);
}

/* --- what a durable batch means ------------------------------------------ */

static int
note_cut(struct journal *j, const struct batch_view *v, uint32_t i,
         struct err *err)
{
    uint8_t raw[CONTROL_PAYLOAD_MAX];
    struct point_rec p = { .cut_no = 0 };
    struct cut_commit c = { .cut_no = 0 };
    struct lane_entry e;
    int rc;

    batch_entry(v, i, &e);
    rc = batch_entry_payload(v, i, raw, sizeof raw, err);
    if (rc == 0)
        rc = cut_commit_decode(raw, MIN(e.aux, sizeof raw), &c);
    if (rc < 0)
        return rc;
    /* I19, and nothing inside a folded group. */
    if (j->offer || (v->hdr.flags & BATCH_FOLDED && i + 1 < v->hdr.n_entries))
        return 0;
    p = (struct point_rec){
        .cut_no = c.cut_no,
        .seq = batch_entry_seq(v, i),
        .wall_ns = c.wall_ns,
        .up_ns = journal_up_ns(j),
        .kind = c.kind,
        .consistency = c.consistency,
        .flags = c.tag_len ? POINT_TAGGED : 0,
    };
    if (j->man.state.any_floor &&
        (p.seq < j->man.state.floor.seq ||
         (j->man.state.floor.none && p.seq <= j->man.state.floor.seq)))
        return 0;
    rc = points_add(&j->points, &p);
    if (rc == -EEXIST && !(j->recovering && points_find(&j->points, p.cut_no)))
        return 0; /* a number that does not rise */
    if (rc == -EEXIST)
        rc = 0; /* known; its tag may not have reached the disk */
    if (rc == 0 && j->given_up) {
        j->given_up = false;
        journal_settled(j, ERR_JNL_0018);
    }
    if (rc == 0 && c.tag_len) {
        struct man_rec r = { .type = MAN_TAG, .u.tag.cut_no = c.cut_no };

        memcpy(r.u.tag.text, c.tag, sizeof r.u.tag.text);
        r.u.tag.text[BATCH_TAG_MAX] = '\0';
        journal_log(j, &r);
    }
    return rc;
}

static int
note_entry(struct journal *j, const struct batch_view *v, uint32_t i,
           struct err *err)
{
    uint8_t raw[CONTROL_PAYLOAD_MAX];
    struct lane_incarnation inc;
    struct lane_entry e;
    int rc;

    batch_entry(v, i, &e);
    switch (e.type) {
    case ENTRY_CUT_COMMIT: return note_cut(j, v, i, err);
    case ENTRY_GAP:
    case ENTRY_DIRTY: j->offer |= OFFER_TAINTED; return 0;
    case ENTRY_RESYNC_BEGIN:
        j->offer |= OFFER_IN_RESYNC;
        journal_hole_entry(j, ENTRY_RESYNC_BEGIN, batch_entry_seq(v, i));
        return 0;
    case ENTRY_RESYNC_END:
        j->offer = 0;
        journal_hole_entry(j, ENTRY_RESYNC_END, batch_entry_seq(v, i));
        return 0;
    case ENTRY_INCARNATION:
        rc = batch_entry_payload(v, i, raw, sizeof raw, err);
        if (rc == 0)
            rc = lane_incarnation_decode(raw, MIN(e.aux, sizeof raw), &inc);
        if (rc == 0 && !inc.exact)
            j->offer |= OFFER_TAINTED;
        return rc;
    default: return 0;
    }
}

int
journal_note_batch(struct journal *j, const struct batch_view *v,
                   const uint8_t digest[16], struct err *err)
{
    int rc = 0;

    for (uint32_t i = 0; i < v->hdr.n_entries && rc == 0; i++)
        rc = note_entry(j, v, i, err);
    j->d_batch = v->hdr.batch_no;
    j->d_seq = v->hdr.last_seq;
    memcpy(j->d_digest, digest, 16);
    j->digests[j->d_batch % JOURNAL_DIGESTS].no = j->d_batch;
    memcpy(j->digests[j->d_batch % JOURNAL_DIGESTS].digest, digest, 16);
    return rc;
}

/* --- the write ----------------------------------------------------------- */

static uint32_t
cuts_in(const struct batch_view *v)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < v->hdr.n_entries; i++) {
        struct lane_entry e;

        batch_entry(v, i, &e);
        n += e.type == ENTRY_CUT_COMMIT;
    }
    return n;
}

/* Does the batch fit the open segment, with room for the footer kept? */
static bool
fits(const struct jsegment *s, const struct jbatch *b)
{
    const struct batch_hdr *h = &b->v.hdr;
    uint64_t end = s->end + b->disk_size;
    uint64_t foot;

    if (s->batches == SEG_BATCHES_MAX ||
        h->n_entries > SEG_ENTRIES_MAX - s->entries ||
        h->n_chunks > SEG_CHUNKS_MAX - s->chunks)
        return false;
    foot = seg_footer_size(s->batches + 1, s->entries + h->n_entries,
                           s->chunks + h->n_chunks, s->cuts + cuts_in(&b->v));
    return end <= s->header.size && foot <= s->header.size - end;
}

static void write_done(struct io_req *rq, int64_t res);
static void sync_done(struct io_req *rq, int64_t res);

static void
write_start(struct journal *j)
{
    struct jsegment *s = j->open;
    uint64_t from = s->end;
    unsigned n = 0;

    while (n < JOURNAL_IOV && !list_empty(&j->queue)) {
        struct jbatch *b = list_entry(j->queue.next, struct jbatch, link);

        if (!fits(s, b) || (n > 0 && !journal_covers(j, s, b->room)))
            break;
        s->room += b->room;
        list_del(&b->link);
        list_push_back(&j->inflight, &b->link);
        b->off = s->end;
        s->end += b->disk_size;
        s->batches++;
        s->entries += b->v.hdr.n_entries;
        s->chunks += b->v.hdr.n_chunks;
        s->cuts += cuts_in(&b->v);
        j->iov[n++] =
            (struct iovec){ .iov_base = b->bytes, .iov_len = b->disk_size };
    }
    j->writing = true;
    j->turns->active++;
    j->turns->peak = MAX(j->turns->peak, j->turns->active);
    j->req.done = write_done;
    io_file_pwritev(s->file, &j->req, j->iov, n, from, 0);
}

/* Take the segment out of use; its durable batches stay where they are. */
static void
retire_open(struct journal *j, bool no_footer)
{
    struct jsegment *s = j->open;
    struct man_seg *m = man_state_seg(&j->man.state, s->header.no);

    if (m)
        m->room = s->room;
    j->open = NULL;
    s->no_footer = no_footer;
    s->offer = j->offer;
    s->last_batch = j->d_batch;
    s->last_seq = j->d_seq;
    journal_seal_later(j, s);
}

static void
write_failed(struct journal *j, int res, const char *what)
{
    struct err e = ERR_INIT;

    (void)err_set(&e, res, ERR_JNL_0002,
                  "%s: cannot %s at offset %" PRIu64 ": %s",
                  io_file_path(j->open->file), what,
                  seg_tables_end(j->open->tables), err_errno(res));
    journal_alert(j, &e);
    /* I9: this file gets no second try.  All that is not acknowledged is still
     * in memory and goes into a fresh segment. */
    list_splice_back(&j->inflight, &j->queue);
    list_splice_back(&j->queue, &j->inflight);
    retire_open(j, true);
    if (journal_no_space_error(res)) /* no preallocation there; the tick goes on */
        journal_no_space(j, &e);
    else if (++j->write_failures >= WRITE_FAILURES)
        journal_stop(j, &e);
    else
        journal_commit_kick(j);
}

/* --- turns ---------------------------------------------------------------- */

static pthread_mutex_t turns_lock = PTHREAD_MUTEX_INITIALIZER; /* of the list */
static struct list turns = { &turns, &turns };

int
journal_turns_join(struct journal *j)
{
    struct jturns *t = NULL;
    struct list *l;

    pthread_mutex_lock(&turns_lock);
    list_for_each (l, &turns) {
        struct jturns *have = list_entry(l, struct jturns, link);

        if (have->loop == j->loop && have->disk == j->cfg.disk)
            t = have;
    }
    if (!t) {
        t = calloc(1, sizeof *t);
        if (t) {
            t->loop = j->loop;
            t->disk = j->cfg.disk;
            list_init(&t->waiting);
            list_push_back(&turns, &t->link);
        }
    }
    if (t)
        t->refs++;
    pthread_mutex_unlock(&turns_lock);
    j->turns = t;
    return t ? 0 : -ENOMEM;
}

void
journal_turns_leave(struct journal *j)
{
    struct jturns *t = j->turns;

    list_del(&j->turn_link);
    if (!t)
        return;
    j->turns = NULL;
    pthread_mutex_lock(&turns_lock);
    if (--t->refs == 0) {
        list_del(&t->link);
        free(t);
    }
    pthread_mutex_unlock(&turns_lock);
}

/* May this lane write now?  If not it is called when its turn has come. */
static bool
turn_taken(struct journal *j)
{
    if (j->turns->active < JOURNAL_SYNCS) {
        list_del(&j->turn_link);
        return true;
    }
    if (list_empty(&j->turn_link))
        list_push_back(&j->turns->waiting, &j->turn_link);
    return false;
}

static void
write_ended(struct journal *j)
{
    struct list *l;

    j->writing = false;
    j->turns->active--;
    l = list_pop_front(&j->turns->waiting);
    if (!l)
        return;
    list_init(l);
    journal_commit_kick(list_entry(l, struct journal, turn_link));
}

static void
write_done(struct io_req *rq, int64_t res)
{
    struct journal *j = container_of(rq, struct journal, req);

    if (res < 0) {
        write_ended(j);
        write_failed(j, (int)res, "write");
        journal_job_done(j);
        return;
    }
    j->req.done = sync_done;
    io_file_fdatasync(j->open->file, &j->req);
}

static void
sync_done(struct io_req *rq, int64_t res)
{
    struct journal *j = container_of(rq, struct journal, req);
    struct err e = ERR_INIT;
    struct list *l;
    int rc = 0;

    write_ended(j);
    if (res < 0) {
        write_failed(j, (int)res, "sync");
        journal_job_done(j);
        return;
    }
    j->write_failures = 0;
    j->st.syncs++;
    while ((l = list_pop_front(&j->inflight)) != NULL) {
        struct jbatch *b = list_entry(l, struct jbatch, link);

        if (rc == 0)
            rc = seg_tables_add(j->open->tables, &b->v, (uint32_t)b->off);
        if (rc == 0)
            rc = journal_note_batch(j, &b->v, b->digest, &e);
        j->unacked -= b->v.size;
        j->st.batches++;
        j->st.raw_bytes += b->v.hdr.raw_len;
        j->st.stored_bytes += b->v.size;
        batch_free(b);
    }
    if (rc < 0) { /* a control payload that cannot be: say so and stop */
        if (!e.num)
            (void)err_set(&e, rc, ERR_GEN_0001, "segment tables overflow");
        journal_stop(j, &e);
    } else if (j->d_batch > j->planted_told) {
        j->ev.durable(j->ev.arg, j->d_batch);
    }
    journal_withdraw_go(j);
    journal_commit_kick(j);
    journal_job_done(j);
}

/* --- the next segment ---------------------------------------------------- */

static void
opening_run(struct io_work *w)
{
    struct jopening *o = container_of(w, struct jopening, work);
    struct journal *j = o->j;
    uint64_t avail, size;

    o->res = 0;
    if (o->drop) {
        char path[4096], name[SEG_NAME_MAX];

        seg_name(o->recycle_no, name);
        (void)snprintf(path, sizeof path, "%s/%s", j->dir, name);
        (void)io_unlink(j->loop, path);
    }
    if (!o->recycle && io_disk_free(j->loop, j->dir, &avail, &size) == 0) {
        uint64_t keep = o->reserve ? o->reserve : MIN(256 * MIB, size / 100);

        if (avail < keep || avail - keep < o->header.size)
            o->res =
                err_set(&o->err, -ENOSPC, ERR_JNL_0009,
                        "journal %s: %" PRIu64 " MiB free, a segment of %" PRIu64
                        " MiB and a reserve of %" PRIu64 " MiB needed",
                        j->dir, avail / MIB, o->header.size / MIB, keep / MIB);
    }
    if (o->res == 0)
        o->res = segment_create(j->loop, j->dir, &o->header,
                                o->recycle ? &o->recycle_no : NULL, &o->file,
                                &o->err);
}

static void
opening_ready(void *arg, int res)
{
    struct journal *j = arg;
    struct jopening *o = &j->opening;

    o->active = false;
    j->open = o->made;
    o->made = NULL;
    if (res < 0) /* the manifest has stopped the journal */
        retire_open(j, true);
    journal_commit_kick(j);
    journal_job_done(j);
}

static void
smaller_size(struct journal *j)
{
    j->seg_size = MAX(round_up(j->seg_size / 2, SEG_ALIGN), j->cfg.segment_min);
}

/* Segments grow with the lane's rate, so that an idle lane costs little. */
static void
choose_size(struct journal *j, uint64_t lived_ns)
{
    if (lived_ns < 10 * NSEC_PER_SEC)
        j->seg_size = MIN(j->seg_size * 2, j->cfg.segment_max);
    else if (lived_ns > 120 * NSEC_PER_SEC)
        smaller_size(j);
}

static void
opening_failed(struct journal *j)
{
    struct jopening *o = &j->opening;

    o->active = false;
    if (journal_no_space_error(o->res) && j->seg_size > j->cfg.segment_min) {
        /* A smaller one may fit still: a busy lane must not stand while there
         * is room for what an idle one would use. */
        smaller_size(j);
        journal_commit_kick(j);
    } else if (journal_no_space_error(o->res)) {
        journal_no_space(j, &o->err);
    } else if (++o->failures >= WRITE_FAILURES) {
        journal_stop(j, &o->err);
    } else {
        journal_alert(j, &o->err);
        journal_commit_kick(j);
    }
    journal_job_done(j);
}

static void
opening_done(struct io_work *w)
{
    struct jopening *o = container_of(w, struct jopening, work);
    struct journal *j = o->j;
    struct seg_tables *t = NULL;
    struct jsegment *s = NULL;
    struct man_rec r = { .type = MAN_SEG_NEW };

    if (o->res < 0) {
        opening_failed(j);
        return;
    }
    t = seg_tables_new();
    s = calloc(1, sizeof *s);
    if (t && s) {
        struct seg_place p = { .no = o->header.no, .header = o->header };

        o->res = seg_store_add(j->segs, &p, o->file, t);
    } else {
        o->res = -ENOMEM;
    }
    if (o->res == 0)
        o->res = jindex_segment_opened(j->ix, o->header.no, o->header.first_seq);
    if (o->res < 0) {
        (void)err_set(&o->err, o->res, ERR_GEN_0002,
                      "journal %s: no memory for a segment", j->dir);
        seg_tables_free(t);
        free(s);
        journal_stop(j, &o->err);
        o->active = false;
        journal_job_done(j);
        return;
    }
    o->failures = 0;
    journal_space_found(j, !o->recycle);
    s->header = o->header;
    s->file = o->file;
    s->tables = t;
    s->end = SEG_HEADER_SIZE;
    s->born_ns = io_mono_ns(j->loop);
    j->used += s->header.size;
    j->st.segments++;
    o->made = s;
    r.u.seg = (struct man_seg){
        .no = s->header.no,
        .size = s->header.size,
        .incarnation = s->header.incarnation,
        .first_batch = s->header.first_batch,
        .first_seq = s->header.first_seq,
    };
    memcpy(r.u.seg.prev_digest, s->header.prev_digest, 16);
    journal_log(j, &r);
    journal_log_sync(j, opening_ready, j);
}

static void
opening_start(struct journal *j)
{
    struct jopening *o = &j->opening;
    struct jbatch *b = list_entry(j->queue.next, struct jbatch, link);
    uint64_t need = SEG_HEADER_SIZE + b->disk_size +
                    seg_footer_size(1, b->v.hdr.n_entries, b->v.hdr.n_chunks,
                                    b->v.hdr.n_entries);
    uint64_t least = MAX(need, j->cfg.segment_min);
    uint64_t limit = journal_hard_limit(j), size = MAX(j->seg_size, need);

    if (o->active || journal_cover(j, NULL, b->room) != COVER_YES)
        return;
    /* History goes in whole segments: a quarter of the limit is the most. */
    if (limit)
        size = MIN(size, MAX(limit / 4, least));
    size = round_up(size, SEG_ALIGN);
    while (limit && j->used + size > limit && size / 2 >= least)
        size = round_up(size / 2, SEG_ALIGN);
    /* The newest segment stays until there is one behind it, also when it fills
     * the limit alone. */
    if (limit && j->used + size > limit && j->man.state.n_segs > 1) {
        if (!j->at_limit) {
            j->at_limit = true;
            journal_credit_changed(j);
        }
        journal_retain(j);
        return;
    }
    if (j->at_limit) {
        j->at_limit = false;
        if (!j->no_space)
            journal_held_set(j, JOURNAL_NOT_HELD);
        journal_credit_changed(j);
    }
    o->header = (struct seg_header){
        .vpg = j->cfg.vpg,
        .lane = j->cfg.lane,
        .no = j->man.state.next_seg,
        .size = size,
        .incarnation = j->man.state.incarnation,
        .first_batch = b->v.hdr.batch_no,
        .first_seq = b->v.hdr.first_seq,
    };
    memcpy(o->header.prev_digest, b->v.hdr.prev_digest, 16);
    o->recycle = o->drop = false;
    if (j->n_free > 0) {
        o->recycle_no = j->free_files[--j->n_free];
        /* Not one that would go beyond the limit by its size. */
        o->recycle =
            j->free_sizes[j->n_free] >= size &&
            (!limit || j->free_sizes[j->n_free] <= MAX(limit / 4, size));
        o->drop = !o->recycle;
    }
    o->reserve = j->cfg.disk_reserve_bytes;
    o->active = true;
    o->j = j;
    o->err = (struct err)ERR_INIT;
    o->work = (struct io_work){ .run = opening_run, .done = opening_done };
    j->jobs++;
    io_work_submit(j->loop, &o->work);
}

static void
incarnation_logged(void *arg, int res)
{
    struct journal *j = arg;
    void (*done)(void *a, int r) = j->inc_done;

    j->inc_pending = false;
    j->inc_done = NULL;
    if (done)
        done(j->inc_arg, res);
    journal_job_done(j);
}

static void
incarnation_start(struct journal *j)
{
    struct man_rec r = { .type = MAN_INCARNATION, .u.incarnation = j->inc_next };
    void (*done)(void *a, int r) = j->inc_done;

    if (!done)
        return; /* under way */
    journal_go_on(j, false);
    if (j->open)
        retire_open(j, false);
    journal_log(j, &r);
    j->rx_batch = j->d_batch = 0;
    memset(j->rx_digest, 0, 16);
    memset(j->d_digest, 0, 16);
    memset(j->digests, 0, sizeof j->digests);
    j->planted_told = 0;
    j->jobs++;
    j->inc_pending = false;
    journal_log_sync(j, incarnation_logged, j);
}

void
journal_commit_kick(struct journal *j)
{
    struct jbatch *b;

    if (j->writing || j->stopped || j->opening.active)
        return;
    if (list_empty(&j->queue)) {
        if (j->inc_pending)
            incarnation_start(j);
        return;
    }
    if (io_timer_armed(&j->plant_hold) && !j->closing)
        return;
    if (!j->open) {
        opening_start(j);
        return;
    }
    b = list_entry(j->queue.next, struct jbatch, link);
    if (fits(j->open, b)) {
        switch (journal_cover(j, j->open, b->room)) {
        case COVER_YES: break;
        case COVER_LATER: return;
        case COVER_NO: /* what is in it can be promoted only when it is sealed */
            if (j->open && j->open->batches > 0)
                retire_open(j, false);
            return;
        }
        if (!turn_taken(j))
            return;
        journal_space_found(j, false);
        j->jobs++;
        write_start(j);
        return;
    }
    choose_size(j, io_mono_ns(j->loop) - j->open->born_ns);
    retire_open(j, false);
    opening_start(j);
}

void
journal_seal_aged(struct journal *j)
{
    uint64_t age = j->cfg.seal_age_ns, used;

    if (!age)
        age = MIN(MAX(j->cfg.history_ns / 16, 60 * NSEC_PER_SEC),
                  3600 * NSEC_PER_SEC);
    if (!j->open || j->writing || j->stopped || j->closing || j->inc_pending ||
        !list_empty(&j->queue) || j->open->batches == 0 ||
        io_mono_ns(j->loop) - j->open->born_ns < age)
        return;
    /* The next one takes no more space than as much again needs. */
    used = round_up(j->open->end / 4 * 5, SEG_ALIGN) +
           seg_footer_size(j->open->batches, j->open->entries, j->open->chunks,
                           j->open->cuts);
    j->seg_size = MIN(MAX(used, SEG_AGED_LEAST), j->cfg.segment_min);
    retire_open(j, false);
}

bool
journal_commit_idle(const struct journal *j)
{
    return !j->writing && !j->opening.active &&
           (j->stopped || list_empty(&j->queue));
}
