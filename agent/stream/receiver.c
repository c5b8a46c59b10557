/* The target end of a lane.
 *
 *   CLOSED ── LANE_OPEN ──▶ ADMITTING ── LANE_STATE sent ──▶ OPEN
 *     ▲                        │ refused                       │
 *     └── link down, damage ───┴───────────────────────────────┘
 *
 * Admitting a source takes, in this order and each durable before the next: the
 * end of the straight writes of the connection before, a higher fencing epoch,
 * the points given up (only when the operator said so), the new incarnation.
 * Only then does LANE_STATE name the position to send from.
 *
 * A batch is handed to the journal unseen; number, chain and checksums are
 * checked there (I8, I11), and only what the journal reports durable is
 * answered with DURABLE (I9).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/crc32c.h"
#include "common/log.h"
#include "io/file.h"
#include "stream/link.h"

#define ROOM "stream"

enum {
    CUT_AGES = 1024, /* cuts that may be under way to the disk together */
};
#define CUT_AGE_MAX_NS (10000ull * 86400 * NSEC_PER_SEC)

enum admit_step {
    ADMIT_NONE,
    ADMIT_DRAIN,
    ADMIT_EPOCH,
    ADMIT_WITHDRAW,
    ADMIT_INCARNATION,
};

enum sync_write_state {
    SW_PENDING,
    SW_WRITTEN,
    SW_AGAIN
};

struct sync_write {
    struct journal_sync_write jw;
    struct receiver *r;
    uint64_t gen, id;
    void *mem;
    size_t mem_size;
};

struct receiver {
    struct list link;
    struct receiver_config cfg;
    struct io_loop *loop;
    struct stream_peer *peer;
    uint32_t handle;
    bool open;
    uint64_t gen; /* rises with every admission: late completions are dropped */
    enum admit_step step;
    struct frame open_frame;
    struct msg_lane_open want;
    uint8_t verdict;
    /* The incarnation that verdict was found for.  It is told again until the
     * source has sent a batch, which proves that it has heard it. */
    struct incarnation_id verdict_for;
    bool waiting; /* a durable step is under way */
    uint32_t epoch;
    uint64_t durable, told_durable, told_credit;
    struct io_task tell;
    /* straight writes */
    unsigned sync_inflight;
    bool flushing;
    uint64_t sync_base; /* lowest id not yet confirmed */
    uint8_t sync_state[SYNC_WINDOW];
    uint64_t sync_next; /* the id the source must send next */
    uint64_t flush_id, flush_gen;
    /* RPO */
    struct {
        uint64_t cut_no, age_ns;
    } age[CUT_AGES];
    unsigned age_i;
    bool has_source;
    struct msg_lane_status source;
    uint64_t received_bytes, batches, sync_bytes;
    struct err err;
    bool failing; /* err stopped an open lane, and nothing has arrived since */
    void (*stopped)(void *arg);
    void *stopped_arg;
    char ids[64];
};

static void admit(struct receiver *r);
static void sync_drained(struct receiver *r);

struct receiver *
receiver_of_link(struct list *l)
{
    return list_entry(l, struct receiver, link);
}

struct receiver *
receiver_by_handle(struct stream_peer *p, uint32_t handle)
{
    struct list *l;

    list_for_each (l, &p->receivers) {
        struct receiver *r = receiver_of_link(l);

        if (r->open && r->handle == handle)
            return r;
    }
    return NULL;
}

static void
receiver_send(struct receiver *r, enum frame_type type, uint64_t id,
              const uint8_t *body, size_t len)
{
    struct frame f = {
        .type = (uint8_t)type,
        .flags = FRAME_TO_SOURCE,
        .lane = r->handle,
        .body_len = (uint32_t)len,
        .id = id,
        .epoch = r->epoch,
    };

    link_control(r->peer, &f, body);
}

/* The source asks again and again: the same reason is logged once. */
static void
receiver_say(struct receiver *r, const char *what, const struct err *err)
{
    if (strcmp(r->err.msg, err->msg) != 0)
        log_err(LOG_WARN, ROOM, r->ids, what, err);
    r->err = *err;
}

/* Is this the first refusal of the VPG on this link? */
static bool
first_said(struct stream_peer *p, const struct vpg_id *vpg)
{
    for (unsigned i = 0; i < p->said_n; i++) {
        if (uuid_equal(&p->said[i].u, &vpg->u))
            return false;
    }
    if (p->said_n == LINK_SAID_MAX)
        return false;
    p->said[p->said_n++] = *vpg;
    return true;
}

static void
receiver_fail(struct receiver *r, const struct err *err)
{
    struct msg_error m = { .code = "" };
    uint8_t body[MSG_BODY_MAX];

    receiver_say(r, "lane stopped", err);
    r->failing = true;
    snprintf(m.code, sizeof m.code, "%s", err_code_text(err->code));
    snprintf(m.text, sizeof m.text, "%.*s", (int)sizeof m.text - 1, err->msg);
    receiver_send(r, FRAME_ERROR, 0, body, msg_error_encode(&m, body));
    r->open = false;
    r->gen++;
}

/* --- admission ---------------------------------------------------------- */

static void
answer(struct stream_peer *p, const struct frame *open, struct receiver *r,
       uint8_t verdict, const struct err *err)
{
    struct msg_lane_state m = { .verdict = verdict };
    uint8_t body[MSG_BODY_MAX];
    struct frame f = {
        .type = FRAME_LANE_STATE,
        .flags = FRAME_TO_SOURCE,
        .lane = open->lane,
        .epoch = open->epoch,
    };

    if (r) {
        struct journal_tail t;

        journal_tail(r->cfg.journal, &t);
        m.incarnation = t.incarnation;
        m.durable_batch = t.durable_batch;
        memcpy(m.digest, t.digest, sizeof m.digest);
        m.generation = t.generation;
        m.fencing_epoch = t.fencing_epoch;
        m.credit = journal_credit(r->cfg.journal);
        r->told_credit = m.credit;
        r->told_durable = r->durable = t.durable_batch;
    }
    if (err) {
        snprintf(m.code, sizeof m.code, "%s", err_code_text(err->code));
        snprintf(m.text, sizeof m.text, "%.*s", (int)sizeof m.text - 1,
                 err->msg);
        if (r)
            receiver_say(r, "source not admitted", err);
    }
    f.body_len = (uint32_t)msg_lane_state_encode(&m, body);
    link_control(p, &f, body);
}

static int
check_volumes(const struct receiver *r, const struct msg_lane_open *m,
              struct err *err)
{
    if (m->n_volumes != r->cfg.n_volumes)
        return err_set(err, -EINVAL, ERR_STR_0005,
                       "source has %u volumes in this VPG, this site %u",
                       m->n_volumes, r->cfg.n_volumes);
    for (unsigned i = 0; i < m->n_volumes; i++) {
        bool found = false;

        for (unsigned k = 0; k < r->cfg.n_volumes; k++) {
            if (r->cfg.volumes[k].vol != m->volumes[i].vol)
                continue;
            found = true;
            if (r->cfg.volumes[k].size != m->volumes[i].size)
                return err_set(err, -EINVAL, ERR_STR_0005,
                               "volume %u has %llu bytes at the source and %llu here",
                               m->volumes[i].vol,
                               (unsigned long long)m->volumes[i].size,
                               (unsigned long long)r->cfg.volumes[k].size);
        }
        if (!found)
            return err_set(err, -EINVAL, ERR_STR_0005,
                           "volume %u of the source is unknown here",
                           m->volumes[i].vol);
    }
    return 0;
}

/* May this source write here at all? */
static uint8_t
check_source(const struct receiver *r, const struct frame *f,
             const struct msg_lane_open *m, struct err *err)
{
    struct journal_tail t;
    struct journal_stats st;
    const struct generation_id *known;
    uint32_t epoch;

    journal_tail(r->cfg.journal, &t);
    journal_stats(r->cfg.journal, &st);
    epoch = MAX(t.fencing_epoch, r->cfg.fencing_epoch);
    known = uuid_is_nil(&t.generation.u) ? &r->cfg.generation : &t.generation;
    if (f->epoch < epoch) {
        err_set(err, -EACCES, ERR_STR_0006,
                "source writes with epoch %u, this site knows epoch %u",
                f->epoch, epoch);
        return VERDICT_FENCED;
    }
    if (!uuid_is_nil(&known->u) && !uuid_equal(&known->u, &m->generation.u)) {
        err_set(err, -EACCES, ERR_STR_0007,
                "source holds another generation of this VPG's data");
        return VERDICT_SPLIT_BRAIN;
    }
    if (check_volumes(r, m, err) < 0)
        return VERDICT_REFUSED;
    if (st.stopped) {
        err_set(err, -EROFS, ERR_STR_0008,
                "the journal has stopped and takes nothing");
        return VERDICT_HOLD;
    }
    return 0;
}

static uint8_t
choose_verdict(const struct receiver *r, const struct msg_lane_open *m,
               const struct journal_tail *t)
{
    bool exact = (m->flags & LANE_OPEN_EXACT) && t->any && !t->in_resync &&
                 !t->lost &&
                 uuid_equal(&m->prev_incarnation.u, &t->incarnation.u) &&
                 m->prev_last_batch == t->durable_batch;

    if (t->any && uuid_equal(&m->incarnation.u, &t->incarnation.u)) {
        if (t->taken_batch > 0) /* durable or not: what comes twice is dropped */
            return t->sync_wanted ? VERDICT_VERIFY : VERDICT_RESUME;
        if (uuid_equal(&m->incarnation.u, &r->verdict_for.u))
            return r->verdict;
        /* Recorded before a restart here, and what was found then is not known
         * any more: exact stays false. */
    }
    if (exact)
        return VERDICT_RESUME;
    /* Straight writes lie below all that is in the journal.  Where it holds
     * entries of a history that may have a hole behind them, these would hide
     * what is newer, and its checkpoints would show it: only in-band data is
     * right then.  A commit that is under way counts as ended. */
    return t->taken_seq == 0 ? VERDICT_FULL : VERDICT_VERIFY;
}

int
receiver_on_lane_open(struct stream_peer *p, const struct frame *f,
                      const struct msg_lane_open *m)
{
    struct receiver *r = NULL;
    struct journal_tail t;
    struct err err = ERR_INIT;
    struct list *l;
    uint8_t verdict;

    list_for_each (l, &p->receivers) {
        struct receiver *q = receiver_of_link(l);

        if (uuid_equal(&q->cfg.vpg.u, &m->vpg.u) && q->cfg.lane == m->lane)
            r = q;
        else if (q->open && q->handle == f->lane)
            return -EBADMSG;
    }
    if (!r) {
        char ids[64], id[UUID_TEXT_SIZE];

        err_set(&err, -ENOENT, ERR_STR_0004,
                "this site does not know the VPG, or is still opening it");
        uuid_format(&m->vpg.u, id);
        snprintf(ids, sizeof ids, "vpg=%s", id);
        if (first_said(p, &m->vpg))
            log_err(LOG_WARN, ROOM, ids, "source not admitted", &err);
        answer(p, f, NULL, VERDICT_HOLD, &err);
        return 0;
    }
    r->open = false;
    r->gen++;
    verdict = check_source(r, f, m, &err);
    if (verdict != 0) {
        r->step = ADMIT_NONE;
        answer(p, f, r, verdict, &err);
        return 0;
    }
    journal_tail(r->cfg.journal, &t);
    r->verdict = choose_verdict(r, m, &t);
    r->verdict_for = m->incarnation;
    r->open_frame = *f;
    r->want = *m;
    r->step = ADMIT_DRAIN;
    if (!r->waiting)
        admit(r);
    return 0;
}

static void
admit_stepped(void *arg, int res)
{
    struct receiver *r = arg;
    struct err err = ERR_INIT;

    r->waiting = false;
    if (r->stopped) {
        sync_drained(r);
        return;
    }
    if (r->step == ADMIT_NONE)
        return;
    if (res < 0) {
        err_set(&err, res, ERR_STR_0008,
                "admitting a source: the journal could not record it: %s",
                err_errno(res));
        r->step = ADMIT_NONE;
        answer(r->peer, &r->open_frame, r, VERDICT_HOLD, &err);
        return;
    }
    admit(r);
}

/* Take the next step of an admission; LANE_STATE is the last. */
static void
admit(struct receiver *r)
{
    struct journal_tail t;

    if (r->step == ADMIT_DRAIN) {
        if (r->sync_inflight > 0 || r->flushing)
            return; /* sync_write_done() comes back here */
        r->step = ADMIT_EPOCH;
    }
    journal_tail(r->cfg.journal, &t);
    if (r->step == ADMIT_EPOCH) {
        r->step = ADMIT_WITHDRAW;
        if (r->open_frame.epoch > t.fencing_epoch) {
            r->waiting = true;
            journal_set_fencing_epoch(r->cfg.journal, r->open_frame.epoch,
                                      admit_stepped, r);
            return;
        }
    }
    if (r->step == ADMIT_WITHDRAW) {
        r->step = ADMIT_INCARNATION;
        if ((r->want.flags & LANE_OPEN_OVERWRITE) && t.offered_any) {
            r->waiting = true;
            journal_withdraw_points(r->cfg.journal, admit_stepped, r);
            return;
        }
    }
    if (r->step == ADMIT_INCARNATION) {
        if (!t.any || !uuid_equal(&t.incarnation.u, &r->want.incarnation.u)) {
            r->waiting = true;
            journal_begin_incarnation(r->cfg.journal, &r->want.incarnation,
                                      admit_stepped, r);
            return;
        }
    }
    r->step = ADMIT_NONE;
    if (!r->peer->up)
        return;
    r->handle = r->open_frame.lane;
    r->epoch = r->open_frame.epoch;
    r->open = true;
    if (!r->failing)
        r->err = (struct err)ERR_INIT;
    r->sync_base = r->sync_next = 1;
    answer(r->peer, &r->open_frame, r, r->verdict, NULL);
}

/* It works again, not only opens: forget the last complaint. */
static void
receiver_progress(struct receiver *r)
{
    if (r->failing)
        r->err = (struct err)ERR_INIT;
    r->failing = false;
}

/* --- batches ------------------------------------------------------------ */

static void
receiver_tell(struct io_task *task)
{
    struct receiver *r = container_of(task, struct receiver, tell);
    uint64_t credit;

    if (!r->open)
        return;
    if (r->durable > r->told_durable) {
        receiver_progress(r);
        r->told_durable = r->durable;
        receiver_send(r, FRAME_DURABLE, r->durable, NULL, 0);
    }
    credit = journal_credit(r->cfg.journal);
    if (credit != r->told_credit) {
        r->told_credit = credit;
        receiver_send(r, FRAME_CREDIT, credit, NULL, 0);
    }
}

void
receiver_durable(struct receiver *r, uint64_t batch_no)
{
    struct journal_tail t;

    journal_tail(r->cfg.journal, &t);
    /* A commit of an incarnation before this one ends late. */
    if (!r->open || !uuid_equal(&t.incarnation.u, &r->want.incarnation.u))
        return;
    r->durable = batch_no;
    io_defer(r->loop, &r->tell);
}

void
receiver_credit(struct receiver *r)
{
    if (r->open)
        io_defer(r->loop, &r->tell);
}

/* Does a data frame belong to the source that was admitted? */
static bool
frame_fits(struct receiver *r, const struct frame *f)
{
    struct err err = ERR_INIT;
    struct journal_tail t;

    journal_tail(r->cfg.journal, &t);
    if (f->epoch != r->epoch || f->epoch < t.fencing_epoch) {
        err_set(&err, -EACCES, ERR_STR_0006,
                "frame carries epoch %u, the lane was opened with %u and this "
                "site knows %u",
                f->epoch, r->epoch, t.fencing_epoch);
        receiver_fail(r, &err);
        return false;
    }
    return f->term == get_le64(r->want.incarnation.u.b);
}

void
receiver_on_batch(struct receiver *r, const struct frame *f, void *mem,
                  size_t size, size_t mem_size)
{
    struct err err = ERR_INIT, why = ERR_INIT;
    int rc;

    if (!frame_fits(r, f)) {
        io_mem_free(mem, mem_size);
        return;
    }
    r->received_bytes += size;
    r->batches++;
    rc = journal_append(r->cfg.journal, mem, size, mem_size, &why);
    if (rc == 0 || rc == -ESTALE)
        return;
    err_set(&err, rc, ERR_STR_0009, "batch %llu not taken: %s %s",
            (unsigned long long)f->id, why.num ? err_code_text(why.code) : "",
            why.num ? why.msg : err_errno(rc));
    receiver_fail(r, &err);
}

/* --- straight writes ---------------------------------------------------- */

static void sync_flush(struct receiver *r);

static void
sync_drained(struct receiver *r)
{
    if (r->sync_inflight > 0 || r->flushing || r->waiting)
        return;
    if (r->stopped) {
        void (*stopped)(void *) = r->stopped;
        void *a = r->stopped_arg;

        free(r);
        stopped(a);
    } else if (r->step == ADMIT_DRAIN) {
        admit(r);
    }
}

static void
sync_flushed(void *arg, int res)
{
    struct receiver *r = arg;
    struct err err = ERR_INIT;

    r->flushing = false;
    if (r->open && res < 0) {
        err_set(&err, res, ERR_STR_0010, "replica could not be synced: %s",
                err_errno(res));
        receiver_fail(r, &err);
    } else if (r->open && r->gen == r->flush_gen) {
        receiver_progress(r);
        receiver_send(r, FRAME_SYNC_DONE, r->flush_id, NULL, 0);
        r->sync_base = r->flush_id + 1;
    }
    if (r->open)
        sync_flush(r);
    sync_drained(r);
}

/* Sync the replica when a prefix of the straight writes has been written; one
 * flush at a time, so that many writes share one. */
static void
sync_flush(struct receiver *r)
{
    uint64_t id = r->sync_base;

    while (id < r->sync_next && r->sync_state[id % SYNC_WINDOW] != SW_PENDING)
        id++;
    if (r->flushing || id == r->sync_base)
        return;
    r->flushing = true;
    r->flush_id = id - 1;
    r->flush_gen = r->gen;
    journal_sync_flush(r->cfg.journal, sync_flushed, r);
}

static void
sync_write_done(struct journal_sync_write *jw, int res)
{
    struct sync_write *w = container_of(jw, struct sync_write, jw);
    struct receiver *r = w->r;
    struct err err = ERR_INIT;

    r->sync_inflight--;
    if (w->gen == r->gen && r->open) {
        if (res == 0 || res == -EAGAIN) {
            r->sync_state[w->id % SYNC_WINDOW] =
                res == 0 ? SW_WRITTEN : SW_AGAIN;
            if (res == -EAGAIN)
                receiver_send(r, FRAME_SYNC_AGAIN, w->id, NULL, 0);
            sync_flush(r);
        } else {
            err_set(&err, res, ERR_STR_0010,
                    "replica of volume %u could not be written at %llu: %s",
                    jw->vol, (unsigned long long)jw->off, err_errno(res));
            receiver_fail(r, &err);
        }
    }
    io_mem_free(w->mem, w->mem_size);
    free(w);
    sync_drained(r);
}

static int
sync_check(const struct receiver *r, const struct frame *f,
           const struct msg_sync_data *m, struct err *err)
{
    struct journal_tail t;

    journal_tail(r->cfg.journal, &t);
    if (t.offered_any) /* I21: they would change what the points show */
        return err_set(err, -EPROTO, ERR_STR_0011,
                       "straight write while checkpoints are offered here");
    for (unsigned k = 0; k < r->cfg.n_volumes; k++) {
        if (r->cfg.volumes[k].vol != m->vol)
            continue;
        if (!range_ok(m->off, m->len, r->cfg.volumes[k].size))
            break;
        if (f->id != r->sync_next || f->id - r->sync_base >= SYNC_WINDOW)
            return err_set(err, -EPROTO, ERR_STR_0011,
                           "straight write %llu out of turn, expected %llu",
                           (unsigned long long)f->id,
                           (unsigned long long)r->sync_next);
        return 0;
    }
    return err_set(err, -EPROTO, ERR_STR_0011,
                   "straight write outside of volume %u: offset %llu, %llu "
                   "bytes",
                   m->vol, (unsigned long long)m->off,
                   (unsigned long long)m->len);
}

void
receiver_on_sync_data(struct receiver *r, const struct frame *f,
                      const struct msg_sync_data *m, void *mem, size_t mem_size)
{
    struct sync_write *w = NULL;
    struct err err = ERR_INIT;
    void *raw = NULL;
    size_t raw_size = BATCH_CHUNK_RAW_MAX;

    if (!frame_fits(r, f))
        goto drop;
    if (sync_check(r, f, m, &err) < 0)
        goto fail;
    if (m->codec != CHUNK_STORED) {
        struct lane_chunk c = {
            .stored_len = m->stored_len,
            .raw_len = (uint32_t)m->len,
            .crc_raw = m->crc,
            .codec = m->codec,
            .crc_stored = crc32c(0, mem, m->stored_len),
        };

        raw = io_mem_alloc(raw_size);
        if (!raw) {
            err_set(&err, -ENOMEM, ERR_GEN_0002, "straight write: no memory");
            goto fail;
        }
        if (chunk_inflate(&c, mem, raw, raw_size, &err) < 0)
            goto fail;
        io_mem_free(mem, mem_size);
        mem = raw;
        mem_size = raw_size;
        raw = NULL;
    }
    w = calloc(1, sizeof *w);
    if (!w) {
        err_set(&err, -ENOMEM, ERR_GEN_0002, "straight write: no memory");
        goto fail;
    }
    *w = (struct sync_write){
        .jw = { .vol = m->vol,
                .off = m->off,
                .len = m->len,
                .buf = m->zero ? NULL : mem,
                .after_seq = m->after_seq,
                .crc = m->crc,
                .done = sync_write_done },
        .r = r,
        .gen = r->gen,
        .id = f->id,
        .mem = mem,
        .mem_size = mem_size,
    };
    r->sync_state[f->id % SYNC_WINDOW] = SW_PENDING;
    r->sync_next++;
    r->sync_inflight++;
    r->sync_bytes += m->len;
    r->received_bytes += m->stored_len;
    journal_sync_data(r->cfg.journal, &w->jw);
    return;
fail:
    receiver_fail(r, &err);
drop:
    io_mem_free(raw, raw_size);
    io_mem_free(mem, mem_size);
}

/* --- the rest ----------------------------------------------------------- */

void
receiver_on_lane_status(struct receiver *r, const struct msg_lane_status *m)
{
    r->source = *m;
    r->has_source = true;
}

void
receiver_on_cut_age(struct receiver *r, const struct frame *f)
{
    unsigned last = (r->age_i + CUT_AGES - 1) % CUT_AGES;

    /* Cut numbers rise; what comes again after a reconnect is known.  An age of
     * years is a lie and would only upset the sums. */
    if (f->id <= r->age[last].cut_no)
        return;
    r->age[r->age_i].cut_no = f->id;
    r->age[r->age_i].age_ns = MIN(f->term, CUT_AGE_MAX_NS);
    r->age_i = (r->age_i + 1) % CUT_AGES;
}

void
receivers_on_lane_close(struct stream_peer *p, uint32_t handle)
{
    struct list *l;

    list_for_each (l, &p->receivers) {
        struct receiver *r = receiver_of_link(l);

        if (r->open_frame.lane != handle || (!r->open && r->step == ADMIT_NONE))
            continue;
        r->open = false;
        r->step = ADMIT_NONE;
        r->gen++;
    }
}

void
receiver_link_up(struct receiver *r)
{
    UNUSED(r); /* the source opens its lane */
}

void
receiver_link_down(struct receiver *r)
{
    r->open = false;
    r->gen++;
    r->step = ADMIT_NONE;
}

int
receiver_start(const struct receiver_config *cfg, struct receiver **out,
               struct err *err)
{
    struct receiver *r = calloc(1, sizeof *r);
    char id[UUID_TEXT_SIZE];

    if (!r)
        return err_set(err, -ENOMEM, ERR_GEN_0002, "receiver: out of memory");
    r->cfg = *cfg;
    r->loop = cfg->stream->loop;
    r->peer = cfg->peer;
    r->peer->refs++;
    io_task_init(&r->tell, receiver_tell);
    uuid_format(&cfg->vpg.u, id);
    snprintf(r->ids, sizeof r->ids, "vpg=%s", id);
    list_push_back(&r->peer->receivers, &r->link);
    *out = r;
    return 0;
}

void
receiver_stop(struct receiver *r, void (*stopped)(void *arg), void *arg)
{
    struct stream_peer *p = r->peer;
    struct err err = ERR_INIT;

    err_set(&err, -ESHUTDOWN, ERR_STR_0012, "the target is closing");
    if (r->open)
        receiver_fail(r, &err);
    else if (r->step != ADMIT_NONE)
        answer(p, &r->open_frame, r, VERDICT_HOLD, &err);
    r->open = false;
    r->gen++;
    r->stopped = stopped;
    r->stopped_arg = arg;
    r->step = ADMIT_NONE;
    io_task_cancel(&r->tell);
    list_del(&r->link);
    stream_peer_put(p);
    sync_drained(r); /* the last: it frees r, and the caller perhaps all */
}

/* The age that a cut had when it was handed to the link.  Of one older than all
 * that are kept at least that of the oldest of these. */
static uint64_t
age_of(const struct receiver *r, uint64_t cut_no)
{
    for (unsigned i = 0; i < CUT_AGES; i++) {
        unsigned k = (r->age_i + i) % CUT_AGES; /* from the oldest */

        if (r->age[k].cut_no != 0 && r->age[k].cut_no >= cut_no)
            return r->age[k].age_ns;
    }
    return 0;
}

void
receiver_status(const struct receiver *r, struct receiver_status *out)
{
    struct journal_point pt;

    *out = (struct receiver_status){
        .open = r->open,
        .link_up = r->peer->up,
        .progress = UINT8_MAX,
        .received_bytes = r->received_bytes,
        .batches = r->batches,
        .sync_bytes = r->sync_bytes,
        .err = r->err,
    };
    if (r->has_source) {
        out->source_state = r->source.state;
        out->progress = r->source.progress;
        out->sync_total = r->source.sync_total;
        out->sync_done = r->source.sync_done;
    }
    if (journal_point_newest(r->cfg.journal, &pt) < 0)
        return;
    /* Its age here, and what it had already when it was handed to the link: no
     * two clocks are subtracted (datapath.md 2.2, RPO). */
    out->has_rpo = true;
    out->rpo_ns = pt.age_ns + age_of(r, pt.cut_no);
}
