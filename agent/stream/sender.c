/* The source end of a lane.
 *
 *   CONNECTING ── link up: LANE_OPEN ──▶ LANE_STATE ──▶ open
 *       ▲                                    │ refused, held: ask again
 *       └── link down, ERROR ────────────────┴──────────────────────────
 *
 * While open: batches go out as long as the credit allows, and are kept by the
 * capture until DURABLE covers them (I7).  `need` says that the target's image
 * cannot be trusted (first start, unclean start, overflow, write error): no
 * checkpoint is made until a sync has run from RESYNC_BEGIN to RESYNC_END.
 *
 * Checkpoint numbers are reserved in lane.super in steps of CUT_RESERVE before
 * they are used, so that none is ever given twice (they name points for ever).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "stream/link.h"

#define ROOM "stream"

enum {
    CUT_RESERVE = 1024,
    CUTS_KEPT = 128,      /* cuts whose durability is still to be learned */
    BATCHES_SENT = 4096,  /* batches in flight to the target */
    OPEN_RETRY_MS = 1000, /* after HOLD, REFUSED or ERROR */
    OPEN_RETRY_MAX_MS = 30000, /* while nothing becomes durable in between */
    OPEN_ANSWER_MS = 15000,    /* without LANE_STATE: ask again */
    STATUS_MS = 1000,
    DRAIN_POLL_MS = 20,
};

/* Compress while the link is the bottleneck: it kept us waiting for more than
 * half of the last second, or all that the credit allows lies before it, and it
 * is slower than LZ4 would be worth. */
#define COMPRESS_UNSENT    (256 * KIB)
#define COMPRESS_BELOW_BPS (100 * MIB)
#define COMPRESS_LAG_NS    (NSEC_PER_SEC / 2)

struct sender {
    struct list link;
    struct sender_config cfg;
    struct io_loop *loop;
    struct stream_peer *peer;
    struct capture *capture;
    uint32_t handle;
    bool open, refused, stopping;
    bool proven; /* the target has said what it holds, since the start */
    uint64_t open_backoff_ms;
    struct err err;
    struct io_timer open_retry, restart, status, linger, cut;
    /* what has been sent */
    const struct capture_batch *held; /* taken, not yet sent */
    struct {
        uint64_t batch_no, size;
    } sent[BATCHES_SENT];
    unsigned sent_head, sent_n;
    uint64_t inflight, credit, durable_seen;
    uint64_t tx_batch;     /* half way out: its memory must stay; 0: none */
    uint64_t durable_told; /* what the target has said */
    bool sync_turn;
    bool starved; /* the credit is used up */
    /* sync */
    bool need, overwrite;
    /* The target's journal was empty when the lane was opened, and everything
     * since then is in the lane: straight writes are right. */
    bool straight_ok;
    bool lossy; /* writes were lost behind others that are in the lane */
    uint8_t reason;
    uint64_t seen_collapses;
    struct sync sync;
    /* checkpoints */
    uint64_t next_cut;
    struct {
        uint64_t cut_no, seq, wall_ns;
    } cuts[CUTS_KEPT];
    unsigned cut_head, cut_n;
    uint64_t newest_cut, newest_wall_ns, durable_cut, durable_wall_ns;
    /* lane.super */
    struct io_work store;
    struct lane_super stored; /* what the job writes */
    bool storing, store_again;
    bool cut_owed;     /* one was due when no number was reserved */
    uint64_t reserved; /* cut numbers below are ours to use */
    int store_res;
    /* compression */
    enum chunk_codec codec;
    uint64_t last_blocked_ns, last_tx_bytes;
    unsigned bottleneck_ticks;
    /* drain and stop */
    struct io_timer drain;
    uint64_t drain_until;
    void (*drained)(void *arg, bool all);
    void *drained_arg;
    void (*stopped)(void *arg);
    void *stopped_arg;
    char ids[64];
};

struct sender *
sender_of_link(struct list *l)
{
    return list_entry(l, struct sender, link);
}

struct sender *
sender_by_handle(struct stream_peer *p, uint32_t handle)
{
    struct list *l;

    list_for_each (l, &p->senders) {
        if (sender_of_link(l)->handle == handle)
            return sender_of_link(l);
    }
    return NULL;
}

static uint64_t
lane_term(const struct sender *s)
{
    return get_le64(s->cfg.super.incarnation.u.b);
}

/* --- lane.super --------------------------------------------------------- */

static void
store_run(struct io_work *w)
{
    struct sender *s = container_of(w, struct sender, store);
    bool failed = s->store_res < 0; /* and said so */
    struct err err = ERR_INIT;

    s->store_res =
        lane_super_store(s->loop, s->cfg.super_path, &s->stored, &err);
    if (s->store_res < 0 && !failed)
        log_err(LOG_ERROR, ROOM, s->ids, "storing lane.super", &err);
}

static void sender_finish_stop(struct sender *s);
static void sender_tx_ended(struct sender *s);
static void sender_auto_cut(struct sender *s);
static void store_super(struct sender *s);

static void
store_done(struct io_work *w)
{
    struct sender *s = container_of(w, struct sender, store);

    s->storing = false;
    if (s->store_res == 0)
        s->reserved = s->stored.next_cut_no;
    if (s->stopping) {
        sender_finish_stop(s);
        return;
    }
    if (s->store_again)
        store_super(s);
    if (s->cut_owed && s->store_res == 0)
        sender_auto_cut(s);
}

static void
store_super(struct sender *s)
{
    s->store_again = s->storing;
    if (s->storing)
        return;
    s->cfg.super.next_cut_no =
        MAX(s->cfg.super.next_cut_no, s->next_cut + CUT_RESERVE);
    s->stored = s->cfg.super;
    s->storing = true;
    io_work_submit(s->loop, &s->store);
}

const struct lane_super *
sender_super(const struct sender *s)
{
    return &s->cfg.super;
}

/* --- opening the lane --------------------------------------------------- */

/* Nothing goes out before the next LANE_STATE. */
static void
sender_close_lane(struct sender *s)
{
    s->open = false;
    s->held = NULL;
    sync_reopen(&s->sync);
}

/* With a new handle: what is still under way of the opening before, in either
 * direction, then belongs to no lane and is dropped. */
static void
sender_open_lane(struct sender *s)
{
    const struct lane_super *su = &s->cfg.super;
    struct capture_stats st;
    struct msg_lane_open *m;
    uint8_t body[MSG_BODY_MAX];
    struct frame f = {
        .type = FRAME_LANE_OPEN,
        .term = lane_term(s),
        .epoch = su->fencing_epoch,
    };

    sender_close_lane(s);
    s->handle = f.lane = link_handle(s->peer);
    io_timer_set(&s->open_retry, OPEN_ANSWER_MS * NSEC_PER_MSEC);
    m = calloc(1, sizeof *m);
    if (!m) {
        io_timer_set(&s->open_retry, OPEN_RETRY_MS * NSEC_PER_MSEC);
        return;
    }
    capture_stats(s->capture, &st);
    *m = (struct msg_lane_open){
        .vpg = su->vpg,
        .lane = su->lane,
        .incarnation = su->incarnation,
        .prev_incarnation = su->prev_incarnation,
        .prev_last_batch = su->prev_last_batch,
        .generation = su->generation,
        .oldest_batch = st.durable_batch + 1,
        .last_batch = st.last_batch,
        .durable_seen = s->durable_seen,
        .flags = (s->cfg.exact ? LANE_OPEN_EXACT : 0u) |
                 (su->synced ? LANE_OPEN_SYNCED : 0u) |
                 (s->overwrite ? LANE_OPEN_OVERWRITE : 0u),
        .n_volumes = (uint16_t)su->n_volumes,
    };
    for (unsigned i = 0; i < su->n_volumes; i++) {
        m->volumes[i].vol = su->volumes[i].vol;
        m->volumes[i].size = s->cfg.volume_sizes[i];
    }
    f.body_len = (uint32_t)msg_lane_open_encode(m, body);
    free(m);
    link_control(s->peer, &f, body);
}

static void
sender_open_retry(struct io_timer *t)
{
    struct sender *s = container_of(t, struct sender, open_retry);

    if (s->peer->up && !s->open)
        sender_open_lane(s);
}

void
sender_link_up(struct sender *s)
{
    sender_open_lane(s);
}

void
sender_link_down(struct sender *s)
{
    sender_close_lane(s);
    io_timer_stop(&s->open_retry);
    sender_tx_ended(s);
}

static void
sender_restart(struct io_timer *t)
{
    struct sender *s = container_of(t, struct sender, restart);

    s->cfg.restart(s->cfg.arg);
}

/* Say what keeps the lane closed; once for each change of the reason. */
static void
sender_closed(struct sender *s, const struct err *err, uint64_t retry_ms)
{
    sender_close_lane(s);
    if (strcmp(s->err.msg, err->msg) != 0)
        log_err(LOG_WARN, ROOM, s->ids, "lane closed", err);
    s->err = *err;
    io_timer_set(&s->open_retry, retry_ms * NSEC_PER_MSEC);
}

/* The lane as it is cannot go on: a new incarnation is needed. */
static void
sender_start_anew(struct sender *s, enum log_level level, const struct err *err)
{
    sender_close_lane(s);
    io_timer_stop(&s->open_retry);
    log_err(level, ROOM, s->ids, "lane starts anew", err);
    s->err = *err;
    io_timer_set(&s->restart, 0);
}

/* --- what is durable at the target -------------------------------------- */

/* Batches that the target has may go, but for one that is still being written
 * to the link: after a reconnect the target may say that it has it while it is
 * being sent again. */
static int
sender_settle(struct sender *s)
{
    uint64_t upto = s->durable_told;
    struct capture_stats st;

    if (s->tx_batch != 0)
        upto = MIN(upto, s->tx_batch - 1);
    if (s->held && s->held->batch_no <= upto)
        s->held = NULL;
    if (capture_durable(s->capture, upto) < 0)
        return -EPROTO;
    s->durable_seen = MAX(s->durable_seen, upto);
    while (s->sent_n > 0 && s->sent[s->sent_head].batch_no <= upto) {
        s->inflight -= s->sent[s->sent_head].size;
        s->sent_head = (s->sent_head + 1) % BATCHES_SENT;
        s->sent_n--;
    }
    capture_stats(s->capture, &st);
    while (s->cut_n > 0 && s->cuts[s->cut_head].seq <= st.durable_seq) {
        s->durable_cut = s->cuts[s->cut_head].cut_no;
        s->durable_wall_ns = s->cuts[s->cut_head].wall_ns;
        s->cut_head = (s->cut_head + 1) % CUTS_KEPT;
        s->cut_n--;
    }
    return 0;
}

/* No frame of ours is half way out any more. */
static void
sender_tx_ended(struct sender *s)
{
    s->tx_batch = 0;
    if (s->durable_told > s->durable_seen)
        (void)sender_settle(s);
}

static void
sender_need(struct sender *s, enum resync_reason reason)
{
    if (!s->need)
        log_line(LOG_INFO, ROOM, s->ids,
                 "the other site's image must be synced, reason %d", reason);
    s->need = true;
    s->reason = (uint8_t)reason;
}

static enum err_code
verdict_code(uint8_t verdict)
{
    switch (verdict) {
    case VERDICT_FENCED: return ERR_STR_0006;
    case VERDICT_SPLIT_BRAIN: return ERR_STR_0007;
    case VERDICT_HOLD: return ERR_STR_0004;
    default: return ERR_STR_0005;
    }
}

void
sender_on_lane_state(struct sender *s, const struct frame *f,
                     const struct msg_lane_state *m)
{
    struct err err = ERR_INIT;
    bool first;
    int rc;

    UNUSED(f);
    io_timer_stop(&s->open_retry);
    if (m->verdict == VERDICT_HOLD || m->verdict == VERDICT_SPLIT_BRAIN ||
        m->verdict == VERDICT_FENCED || m->verdict == VERDICT_REFUSED ||
        m->verdict == VERDICT_DELTA) {
        s->refused = m->verdict != VERDICT_HOLD;
        err_set(&err, -EACCES, verdict_code(m->verdict), "%s%s%s", m->code,
                m->code[0] ? " " : "", m->text);
        sender_closed(s, &err, OPEN_RETRY_MS);
        return;
    }
    rc = capture_rewind(s->capture, m->durable_batch, m->digest);
    if (rc == -ESTALE) {
        err_set(&err, rc, ERR_STR_0013,
                "the target holds batches up to %llu only, less than it had "
                "acknowledged (%llu): it has lost data; the lane starts anew",
                (unsigned long long)m->durable_batch,
                (unsigned long long)s->durable_told);
        sender_start_anew(s, LOG_ERROR, &err);
        return;
    }
    if (rc < 0) {
        err_set(&err, rc, ERR_STR_0014,
                "the target's chain at batch %llu is not ours: %s",
                (unsigned long long)m->durable_batch, err_errno(rc));
        s->refused = true;
        sender_closed(s, &err, OPEN_RETRY_MS);
        return;
    }
    if (m->verdict == VERDICT_FULL && s->newest_cut != 0) {
        /* Straight writes lie below all of the lane, so also below the
         * checkpoints that wait in it: these would show what is newer. */
        err_set(&err, -ESTALE, ERR_STR_0020,
                "the target asks for everything again, but checkpoint %llu is "
                "on its way already: the lane starts anew without it",
                (unsigned long long)s->newest_cut);
        sender_start_anew(s, LOG_WARN, &err);
        return;
    }
    s->durable_told = MAX(s->durable_told, m->durable_batch);
    (void)sender_settle(s); /* capture_rewind() knows the number */
    s->sent_n = 0;
    s->inflight = 0;
    s->held = NULL;
    s->credit = m->credit;
    first = !s->proven;
    s->open = s->proven = true;
    s->refused = false;
    if (s->err.code != ERR_STR_0015) /* that one only progress takes back */
        s->err = (struct err)ERR_INIT;
    if (m->verdict == VERDICT_FULL) {
        /* Also in the middle of an initial sync: the target has lost it. */
        s->cfg.super.synced = false;
        sync_abort(&s->sync);
        sender_need(s, RESYNC_INITIAL);
        s->straight_ok = !s->lossy;
    } else if (m->verdict == VERDICT_VERIFY) {
        s->straight_ok = false;
        /* In the middle of an incarnation: the target has lost part of what it
         * held, perhaps of the sync that runs. */
        if (m->durable_batch > 0)
            sync_abort(&s->sync);
        if (!s->need)
            sender_need(s, RESYNC_UNCLEAN);
    }
    log_line(LOG_INFO, ROOM, s->ids, "lane open, verdict %u, from batch %llu",
             m->verdict, (unsigned long long)m->durable_batch + 1);
    if (first)
        sender_auto_cut(s);
    sender_wake(s);
}

/* It works again, not only opens: forget the last complaint. */
static void
sender_progress(struct sender *s)
{
    s->open_backoff_ms = OPEN_RETRY_MS;
    s->err = (struct err)ERR_INIT;
}

void
sender_on_error(struct sender *s, const struct msg_error *m)
{
    struct err err = ERR_INIT;

    err_set(&err, -EREMOTEIO, ERR_STR_0015,
            "the target stopped the lane: %s%s%s", m->code,
            m->code[0] ? " " : "", m->text);
    sender_closed(s, &err, s->open_backoff_ms);
    s->open_backoff_ms =
        MIN(s->open_backoff_ms * 2, (uint64_t)OPEN_RETRY_MAX_MS);
}

/* --- syncs -------------------------------------------------------------- */

static void
sync_begin_window(struct sender *s)
{
    const struct lane_super *su = &s->cfg.super;
    bool straight = s->straight_ok;
    struct resync_begin rb = { .reason = s->reason };
    uint16_t vols[ARRAY_SIZE(su->volumes)];

    if (!sync_idle(&s->sync))
        return; /* reads of a sync that was given up still end */
    for (unsigned i = 0; i < su->n_volumes; i++) {
        vols[i] = su->volumes[i].vol;
        rb.scope_bytes += s->cfg.volume_sizes[i];
    }
    io_random(s->loop, rb.salt, sizeof rb.salt);
    if (capture_resync_begin(s->capture, &rb) < 0)
        return; /* collapsed: wake() comes when there is room */
    log_line(LOG_INFO, ROOM, s->ids, "%s sync of %llu bytes begins",
             straight ? "straight" : "in-band",
             (unsigned long long)rb.scope_bytes);
    sync_begin(&s->sync, straight, vols, s->cfg.volume_sizes, su->n_volumes);
}

static void
sync_end_window(struct sender *s)
{
    if (capture_resync_end(s->capture) < 0) {
        if (capture_state(s->capture) == CAPTURE_EXACT)
            return; /* no room: wake() comes when there is some */
        log_line(LOG_WARN, ROOM, s->ids,
                 "the sync must be repeated: writes were lost meanwhile");
        sync_abort(&s->sync);
        return; /* need stands: sender_wake() begins another */
    }
    sync_abort(&s->sync);
    s->need = false;
    s->overwrite = false;
    s->straight_ok = false;
    s->cfg.super.synced = true;
    store_super(s);
    log_line(LOG_INFO, ROOM, s->ids, "sync complete");
    sender_auto_cut(s);
}

static void
sender_check_capture(struct sender *s)
{
    struct capture_stats st;

    if (capture_state(s->capture) == CAPTURE_EXACT)
        return;
    capture_stats(s->capture, &st);
    if (st.entries > 1) { /* more than INCARNATION */
        s->lossy = true;
        s->straight_ok = false;
    }
    if (s->sync.active)
        sync_abort(&s->sync);
    if (!s->need || st.collapses != s->seen_collapses)
        sender_need(s, st.collapses != s->seen_collapses ? RESYNC_OVERFLOW
                                                         : RESYNC_IO_ERROR);
    s->seen_collapses = st.collapses;
}

static void
sender_sync_wake(void *arg)
{
    sender_wake(arg);
}

void
sender_wake(struct sender *s)
{
    if (s->stopping) {
        sender_finish_stop(s);
        return;
    }
    sender_check_capture(s);
    if (s->open) {
        if (s->need && !s->sync.active)
            sync_begin_window(s);
        sync_run(&s->sync);
        if (sync_finished(&s->sync))
            sync_end_window(s);
    }
    link_kick(s->peer);
}

void
sender_on_sync_done(struct sender *s, const struct frame *f)
{
    if (!s->open)
        return;
    sync_confirmed(&s->sync, f->id);
    sender_progress(s);
    sender_wake(s);
}

void
sender_on_sync_again(struct sender *s, const struct frame *f)
{
    if (!s->open)
        return;
    sync_again(&s->sync, f->id);
    sender_wake(s);
}

void
sender_force_sync(struct sender *s, bool overwrite)
{
    if (s->err.code == ERR_STR_0014) { /* only another incarnation helps */
        io_timer_set(&s->restart, 0);
        return;
    }
    sync_abort(&s->sync);
    s->overwrite = overwrite;
    s->straight_ok = false; /* what the journal holds is not trusted */
    sender_need(s, RESYNC_FORCED);
    if (overwrite && s->peer->up)
        sender_open_lane(s); /* the target gives up its points first */
    sender_wake(s);
}

/* --- sending ------------------------------------------------------------ */

static void
tx_begin(struct sender *s, struct tx_frame *tx)
{
    tx->n = tx->pos = 0;
    tx->owner = s;
    tx->sent = NULL;
    tx->buf = NULL;
    tx->iov[0] = (struct iovec){ .iov_base = tx->head };
    tx->n = 1;
}

static void
tx_header(struct sender *s, struct tx_frame *tx, struct frame f)
{
    f.lane = s->handle;
    f.epoch = s->cfg.super.fencing_epoch;
    frame_encode(&f, tx->head + tx->iov[0].iov_len);
    tx->iov[0].iov_len += FRAME_HDR_SIZE;
}

static void
linger(struct io_timer *t)
{
    link_kick(container_of(t, struct sender, linger)->peer);
}

static bool
fill_batch(struct sender *s, struct tx_frame *tx)
{
    const struct capture_batch *b = s->held;
    uint64_t now = io_mono_ns(s->loop), due = 0;
    unsigned i;

    if (!b) {
        if (s->sent_n == BATCHES_SENT)
            return false;
        b = capture_next(s->capture, s->codec, s->durable_seen, &due);
    }
    if (!b) {
        if (due > 0)
            io_timer_set(&s->linger, due > now ? due - now : 0);
        return false;
    }
    s->held = b;
    s->starved = b->size > s->credit || s->inflight > s->credit - b->size;
    if (s->starved)
        return false; /* CREDIT or DURABLE comes back here */
    s->held = NULL;
    tx_begin(s, tx);
    tx->sent = sender_tx_ended;
    s->tx_batch = b->batch_no;
    if (b->newest_cut_no != 0)
        tx_header(s, tx,
                  (struct frame){ .type = FRAME_CUT_AGE,
                                  .id = b->newest_cut_no,
                                  .term = now - b->newest_cut_ns });
    tx_header(s, tx,
              (struct frame){ .type = FRAME_BATCH,
                              .body_len = (uint32_t)b->size,
                              .id = b->batch_no,
                              .term = lane_term(s) });
    for (i = 0; i < b->iov_n; i++)
        tx->iov[tx->n++] = b->iov[i];
    i = (s->sent_head + s->sent_n) % BATCHES_SENT;
    s->sent[i].batch_no = b->batch_no;
    s->sent[i].size = b->size;
    s->sent_n++;
    s->inflight += b->size;
    return true;
}

static bool
fill_sync(struct sender *s, struct tx_frame *tx)
{
    void *buf = NULL;
    struct sync_range *r = sync_next(&s->sync, &buf);
    struct msg_sync_data m;

    if (!r)
        return false;
    m = (struct msg_sync_data){
        .vol = r->vol,
        .zero = r->rq.zero,
        .codec = CHUNK_STORED,
        .off = r->rq.off,
        .len = r->rq.len,
        .after_seq = r->rq.after_seq,
        .crc = r->rq.zero ? 0 : r->rq.crc,
        .stored_len = r->rq.zero ? 0 : (uint32_t)r->rq.len,
    };
    tx_begin(s, tx);
    tx_header(s, tx,
              (struct frame){ .type = FRAME_SYNC_DATA,
                              .body_len = SYNC_DATA_HDR_SIZE + m.stored_len,
                              .id = r->id,
                              .term = lane_term(s) });
    msg_sync_data_encode(&m, tx->head + tx->iov[0].iov_len);
    tx->iov[0].iov_len += SYNC_DATA_HDR_SIZE;
    if (m.stored_len > 0)
        tx->iov[tx->n++] =
            (struct iovec){ .iov_base = buf, .iov_len = m.stored_len };
    tx->buf = buf;
    tx->buf_size = SYNC_PIECE;
    /* The next reads: a place for a buffer has become free. */
    sync_run(&s->sync);
    return true;
}

/* Batches first, but a running sync gets every second frame, so that a busy
 * volume still gets in sync. */
bool
sender_fill(struct sender *s, struct tx_frame *tx)
{
    bool filled;

    if (!s->open)
        return false;
    if (s->sync_turn && fill_sync(s, tx)) {
        s->sync_turn = false;
        return true;
    }
    filled = fill_batch(s, tx);
    s->sync_turn = filled && !capture_crowded(s->capture);
    return filled || fill_sync(s, tx);
}

void
sender_on_durable(struct sender *s, const struct frame *f)
{
    struct capture_stats st;
    struct err err = ERR_INIT;

    if (!s->open || f->id <= s->durable_told)
        return;
    capture_stats(s->capture, &st);
    if (f->id > st.last_batch) {
        err_set(&err, -EPROTO, ERR_STR_0014,
                "the target says batch %llu is durable, which was never sent",
                (unsigned long long)f->id);
        sender_closed(s, &err, OPEN_RETRY_MS);
        return;
    }
    s->durable_told = f->id;
    (void)sender_settle(s);
    sender_progress(s);
    sender_wake(s);
}

void
sender_on_credit(struct sender *s, const struct frame *f)
{
    s->credit = f->id;
    link_kick(s->peer);
}

/* --- checkpoints -------------------------------------------------------- */

int
sender_cut(struct sender *s, enum cut_kind kind, uint8_t consistency,
           const char *tag, uint64_t *out_cut_no, uint64_t *out_wall_ns,
           struct err *err)
{
    struct cut_commit cc = {
        .cut_no = s->next_cut,
        .wall_ns = io_wall_ns(s->loop),
        .kind = (uint8_t)kind,
        .consistency = consistency,
    };
    uint64_t seq = 0;
    unsigned i;
    int rc;

    if (!s->proven)
        return err_set(err, -EAGAIN, ERR_STR_0016,
                       "no checkpoint before the other site has been reached "
                       "once: what it holds must be known first");
    if (s->need || s->stopping)
        return err_set(err, -EAGAIN, ERR_STR_0016,
                       "no checkpoint while the volumes are being synced: "
                       "%llu of %llu bytes done",
                       (unsigned long long)s->sync.done,
                       (unsigned long long)s->sync.total);
    if (s->next_cut >= s->reserved) {
        if (!s->storing)
            store_super(s);
        return err_set(err, -EAGAIN, ERR_STR_0017,
                       "checkpoint numbers are not stored yet");
    }
    if (tag) {
        cc.tag_len = (uint16_t)strnlen(tag, BATCH_TAG_MAX + 1);
        if (cc.tag_len > BATCH_TAG_MAX)
            return err_set(err, -EINVAL, ERR_STR_0018,
                           "checkpoint name is longer than %d bytes",
                           BATCH_TAG_MAX);
        memcpy(cc.tag, tag, cc.tag_len);
    }
    rc = capture_cut(s->capture, &cc, &seq);
    if (rc < 0)
        return err_set(err, rc, ERR_STR_0016,
                       "no checkpoint now: writes were lost, a sync follows");
    s->next_cut++;
    if (s->next_cut + CUT_RESERVE / 2 > s->reserved)
        store_super(s);
    if (s->cut_n == CUTS_KEPT) {
        s->cut_head = (s->cut_head + 1) % CUTS_KEPT;
        s->cut_n--;
    }
    i = (s->cut_head + s->cut_n++) % CUTS_KEPT;
    s->cuts[i].cut_no = s->newest_cut = cc.cut_no;
    s->cuts[i].wall_ns = s->newest_wall_ns = cc.wall_ns;
    s->cuts[i].seq = seq;
    if (out_cut_no)
        *out_cut_no = cc.cut_no;
    if (out_wall_ns)
        *out_wall_ns = cc.wall_ns;
    link_kick(s->peer);
    return 0;
}

/* Made now, or as soon as its number is reserved: the one that ends a sync must
 * not wait for another interval. */
static void
sender_auto_cut(struct sender *s)
{
    struct err err = ERR_INIT;

    s->cut_owed = sender_cut(s, CUT_AUTO, 0, NULL, NULL, NULL, &err) < 0 &&
                  err.code == ERR_STR_0017;
}

static void
sender_cut_timer(struct io_timer *t)
{
    struct sender *s = container_of(t, struct sender, cut);

    io_timer_set(t, s->cfg.cut_interval_ns);
    if (!s->drained)
        sender_auto_cut(s);
}

void
sender_set_interval(struct sender *s, uint64_t cut_interval_ns)
{
    s->cfg.cut_interval_ns = cut_interval_ns;
    io_timer_set(&s->cut, cut_interval_ns);
}

/* --- once a second ------------------------------------------------------ */

static void
choose_codec(struct sender *s, uint64_t lag_ns)
{
    uint64_t blocked_ns = link_blocked_ns(s->peer);
    uint64_t blocked = blocked_ns - s->last_blocked_ns;
    uint64_t sent = s->peer->tx_bytes - s->last_tx_bytes;
    bool full = blocked > STATUS_MS * NSEC_PER_MSEC / 2 ||
                (s->starved && link_unsent(s->peer) > COMPRESS_UNSENT);
    bool bottleneck =
        full && sent < COMPRESS_BELOW_BPS && lag_ns > COMPRESS_LAG_NS;

    s->last_blocked_ns = blocked_ns;
    s->last_tx_bytes = s->peer->tx_bytes;
    switch (s->cfg.compression) {
    case COMPRESS_OFF: s->codec = CHUNK_STORED; return;
    case COMPRESS_LZ4: s->codec = CHUNK_LZ4; return;
    case COMPRESS_ZSTD: s->codec = CHUNK_ZSTD; return;
    case COMPRESS_AUTO: break;
    }
    if (bottleneck)
        s->bottleneck_ticks = MIN(s->bottleneck_ticks + 1, 20u);
    else if (s->bottleneck_ticks > 0)
        s->bottleneck_ticks--;
    s->codec = s->bottleneck_ticks == 0  ? CHUNK_STORED
               : s->bottleneck_ticks < 8 ? CHUNK_LZ4
                                         : CHUNK_ZSTD;
}

void
sender_set_compression(struct sender *s, enum sender_compression c)
{
    s->cfg.compression = c;
    choose_codec(s, 0);
}

static void
sender_status_timer(struct io_timer *t)
{
    struct sender *s = container_of(t, struct sender, status);
    struct sender_status st;
    struct msg_lane_status m;
    uint8_t body[MSG_BODY_MAX];
    struct frame f = {
        .type = FRAME_LANE_STATUS,
        .lane = s->handle,
        .epoch = s->cfg.super.fencing_epoch,
    };

    io_timer_set(t, STATUS_MS * NSEC_PER_MSEC);
    sender_status(s, &st);
    choose_codec(s, st.lag_ns);
    if (!s->open)
        return;
    m = (struct msg_lane_status){
        .state = (uint8_t)st.state,
        .progress = UINT8_MAX,
        .lag_bytes = st.lag_bytes,
        .lag_ns = st.lag_ns,
        .sync_total = st.sync_total,
        .sync_done = st.sync_done,
    };
    if (st.syncing && st.sync_total > 0)
        m.progress =
            (uint8_t)MIN(st.sync_done / (st.sync_total / 100 + 1), 100u);
    f.body_len = (uint32_t)msg_lane_status_encode(&m, body);
    link_control(s->peer, &f, body);
    sender_wake(s); /* a wake that was missed costs a second, not for ever */
}

void
sender_status(const struct sender *s, struct sender_status *out)
{
    uint64_t now = io_mono_ns(s->loop);

    *out = (struct sender_status){
        .link_up = s->peer->up,
        .err = s->err,
        .syncing = s->need,
        .sync_reason = s->reason,
        .sync_total = s->sync.total,
        .sync_done = s->sync.done,
        .newest_cut = s->newest_cut,
        .newest_cut_wall_ns = s->newest_wall_ns,
        .durable_cut = s->durable_cut,
        .durable_cut_wall_ns = s->durable_wall_ns,
    };
    capture_stats(s->capture, &out->capture);
    out->lag_bytes = out->capture.lag_bytes;
    if (out->capture.oldest_ns != 0 && now > out->capture.oldest_ns)
        out->lag_ns = now - out->capture.oldest_ns;
    if (s->refused)
        out->state = SENDER_REFUSED;
    else if (!s->open)
        out->state = SENDER_CONNECTING;
    else if (capture_state(s->capture) == CAPTURE_COLLAPSED)
        out->state = SENDER_COLLAPSED;
    else if (s->need)
        out->state = !s->cfg.super.synced || s->overwrite ? SENDER_INITIAL
                                                          : SENDER_RESYNC;
    else
        out->state = SENDER_STREAMING;
}

/* --- start, drain, stop ------------------------------------------------- */

static void sender_drain_poll(struct io_timer *t);

int
sender_start(const struct sender_config *cfg, struct sender **out,
             struct err *err)
{
    const struct lane_super *su = &cfg->super;
    struct sender *s = calloc(1, sizeof *s);
    char id[UUID_TEXT_SIZE];

    if (!s)
        return err_set(err, -ENOMEM, ERR_GEN_0002, "sender: out of memory");
    s->cfg = *cfg;
    s->loop = cfg->stream->loop;
    s->capture = cfg->capture;
    s->peer = cfg->peer;
    uuid_format(&su->vpg.u, id);
    snprintf(s->ids, sizeof s->ids, "vpg=%s", id);
    s->peer->refs++;
    s->open_backoff_ms = OPEN_RETRY_MS;
    s->next_cut = MAX(su->next_cut_no, (uint64_t)1);
    s->store = (struct io_work){ .run = store_run, .done = store_done };
    io_timer_init(&s->open_retry, s->loop, sender_open_retry);
    io_timer_init(&s->restart, s->loop, sender_restart);
    io_timer_init(&s->status, s->loop, sender_status_timer);
    io_timer_init(&s->linger, s->loop, linger);
    io_timer_init(&s->cut, s->loop, sender_cut_timer);
    io_timer_init(&s->drain, s->loop, sender_drain_poll);
    sync_init(&s->sync, s->loop, s->capture, sender_sync_wake, s);
    if (!cfg->exact || !su->synced)
        sender_need(s, su->synced ? RESYNC_UNCLEAN : RESYNC_INITIAL);
    store_super(s);
    choose_codec(s, 0);
    io_timer_set(&s->cut, cfg->cut_interval_ns);
    io_timer_set(&s->status, STATUS_MS * NSEC_PER_MSEC);
    list_push_back(&s->peer->senders, &s->link);
    if (s->peer->up)
        sender_open_lane(s);
    *out = s;
    return 0;
}

static void
sender_drain_poll(struct io_timer *t)
{
    struct sender *s = container_of(t, struct sender, drain);
    void (*drained)(void *, bool) = s->drained;
    struct capture_stats st;
    bool all;

    capture_stats(s->capture, &st);
    all = !s->need && capture_state(s->capture) == CAPTURE_EXACT &&
          st.durable_seq == st.seq && !s->storing;
    if (!all && io_mono_ns(s->loop) < s->drain_until) {
        io_timer_set(t, DRAIN_POLL_MS * NSEC_PER_MSEC);
        return;
    }
    s->cfg.super.prev_incarnation = s->cfg.super.incarnation;
    s->cfg.super.prev_last_batch = st.last_batch;
    drained(s->drained_arg, all);
}

void
sender_drain(struct sender *s, uint64_t deadline_ns,
             void (*done)(void *arg, bool drained), void *arg)
{
    sender_auto_cut(s); /* what was written last is recoverable, too */
    s->drained = done;
    s->drained_arg = arg;
    s->drain_until = io_mono_ns(s->loop) + deadline_ns;
    io_timer_set(&s->drain, 0);
}

static void
sender_finish_stop(struct sender *s)
{
    void (*stopped)(void *) = s->stopped;
    void *arg = s->stopped_arg;

    if (s->storing || !sync_idle(&s->sync))
        return;
    sync_release(&s->sync);
    free(s);
    stopped(arg);
}

void
sender_stop(struct sender *s, void (*stopped)(void *arg), void *arg)
{
    struct frame f = {
        .type = FRAME_LANE_CLOSE,
        .lane = s->handle,
        .epoch = s->cfg.super.fencing_epoch,
    };
    struct stream_peer *p = s->peer;
    const struct conn *data;

    s->stopping = true;
    s->stopped = stopped;
    s->stopped_arg = arg;
    io_timer_stop(&s->open_retry);
    io_timer_stop(&s->restart);
    io_timer_stop(&s->status);
    io_timer_stop(&s->linger);
    io_timer_stop(&s->cut);
    io_timer_stop(&s->drain);
    if (s->handle != 0)
        link_control(p, &f, NULL);
    list_del(&s->link);
    s->open = false;
    sync_abort(&s->sync);
    /* A frame of ours that is half way out borrows memory that goes now. */
    data = p->conn[LINK_DATA];
    if (p->up && data->tx_busy && data->tx->owner == s)
        link_break(p, "a lane was stopped in the middle of a frame");
    stream_peer_put(p);
    sender_finish_stop(s); /* the last: it frees s, and the caller perhaps all */
}
