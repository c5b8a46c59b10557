/* What a target tells: its checkpoints, its status. */
#include <stdlib.h>

#include "common/bytes.h"
#include "replicator/target.h"

#define ALERT_QUIET_NS (900 * NSEC_PER_SEC)

enum {
    POINTS_REPLY_MAX = 10000,
    POINTS_JSON_MAX = 8 * 1024 * 1024,
};

/* --- checkpoints -------------------------------------------------------- */

static void
point_json(struct json_writer *w, const char *name,
           const struct journal_point *p)
{
    static const char *const kinds[] = { "Auto", "User", "Application" };

    json_open_obj(w, name);
    json_put_u64_text(w, "CheckpointIdentifier", p->cut_no);
    json_put_time(w, "TimeStamp", p->wall_ns);
    if (p->tag[0])
        json_put_str(w, "Tag", p->tag);
    else
        json_put_null(w, "Tag");
    json_put_str(w, "Kind", p->kind < ARRAY_SIZE(kinds) ? kinds[p->kind] : "");
    json_put_str(w, "Consistency", p->consistency ? "Application" : "Crash");
    json_put_bool(w, "Damaged", p->damaged);
    json_close_obj(w);
}

void
target_checkpoints(struct ctl_call *c)
{
    struct target *t = target_of_call(c);
    struct journal_point *points;
    struct json_writer w;
    struct buf out;
    size_t n, max;

    if (!t)
        return;
    max = MIN(c->query.limit, (uint64_t)POINTS_REPLY_MAX);
    points = calloc(max + 1, sizeof *points);
    if (!points) {
        struct err err = ERR_INIT;

        err_set(&err, -ENOMEM, ERR_GEN_0002, "checkpoints: out of memory");
        ctl_reply_err(c, &err);
        return;
    }
    n = journal_points(t->journal, c->query.from, c->query.to, c->query.skip,
                       points, max);
    buf_init(&out, POINTS_JSON_MAX);
    json_begin(&w, &out);
    json_open_obj(&w, NULL);
    json_open_array(&w, "Checkpoints");
    for (size_t i = 0; i < n; i++)
        point_json(&w, NULL, &points[i]);
    json_close_array(&w);
    json_put_u64(&w, "Count", journal_points_count(t->journal));
    json_close_obj(&w);
    free(points);
    ctl_reply(c, 200, &out);
}

int
target_parse_cut(const char *text, uint64_t *out)
{
    uint64_t v = 0;

    if (!*text)
        return -EINVAL;
    for (; *text; text++) {
        if (*text < '0' || *text > '9' || v > UINT64_MAX / 10 - 1)
            return -EINVAL;
        v = v * 10 + (uint64_t)(*text - '0');
    }
    *out = v;
    return 0;
}

/* Why a checkpoint that was made in an incarnation of the lane is not offered:
 * it may be on its way still, or nothing of that incarnation comes any more.
 * The journal takes up a new incarnation when all batches of the one before
 * are durable, and what is durable is offered in order of the numbers. */
static void
not_offered(const struct target *t, const char *name, uint64_t cut,
            const struct uuid *incarnation, struct err *err)
{
    struct journal_tail tail;
    struct journal_point newest;

    journal_tail(t->journal, &tail);
    if (journal_point_newest(t->journal, &newest) == 0 && newest.cut_no > cut)
        err_set(err, -ESTALE, ERR_REP_0022,
                "checkpoint %s of VPG %s is lost: a newer one, %llu, is "
                "offered here, and this one is not",
                name, t->name, (unsigned long long)newest.cut_no);
    else if (!uuid_is_nil(incarnation) && tail.any &&
             !uuid_equal(&tail.incarnation.u, incarnation))
        err_set(err, -ESTALE, ERR_REP_0022,
                "checkpoint %s of VPG %s is lost: the lane was started anew "
                "before its writes had arrived here",
                name, t->name);
    else
        err_set(err, -ENOENT, ERR_REP_0016,
                "checkpoint %s of VPG %s is not offered", name, t->name);
}

void
target_checkpoint(struct ctl_call *c)
{
    struct target *t = target_of_call(c);
    struct journal_point p;
    struct err err = ERR_INIT;
    struct json_writer w;
    struct buf out;
    uint64_t cut;

    if (!t)
        return;
    if (target_parse_cut(c->point, &cut) < 0)
        err_set(&err, -ENOENT, ERR_REP_0016,
                "checkpoint %s of VPG %s is not offered", c->point, t->name);
    else if (journal_point_find(t->journal, cut, &p) < 0)
        not_offered(t, c->point, cut, &c->query.incarnation, &err);
    if (err.num < 0) {
        ctl_reply_err(c, &err);
        return;
    }
    buf_init(&out, REP_CONFIG_MAX);
    json_begin(&w, &out);
    point_json(&w, NULL, &p);
    ctl_reply(c, 200, &out);
}

/* --- status ------------------------------------------------------------- */

static const char *
target_state(const struct target *t, const struct receiver_status *rs,
             const struct journal_stats *st)
{
    if (t->err.num < 0)
        return "Error";
    if (!t->journal)
        return "Opening";
    if (st->stopped)
        return "Stopped";
    if (st->degraded)
        return "Damaged";
    if (st->held == JOURNAL_HELD_BY_LIMIT)
        return "Asking";
    if (st->held == JOURNAL_HELD_BY_STORE)
        return "Full";
    if (!rs->open)
        return "Waiting";
    switch (rs->source_state) {
    case SENDER_INITIAL: return "InitialSync";
    case SENDER_RESYNC:
    case SENDER_COLLAPSED: return "Resync";
    default: return "Receiving";
    }
}

/* What is tried again and again is told again, too: silence means that it went
 * well at last. */
static void
drop_quiet(struct target *t)
{
    static const enum err_code tried[] = { ERR_JNL_0053, ERR_JNL_0054,
                                           ERR_JNL_0060 };
    uint64_t now = io_mono_ns(t->rep->loop);

    for (unsigned i = t->n_alerts; i-- > 0;) {
        bool quiet = false;

        for (size_t k = 0; k < ARRAY_SIZE(tried); k++)
            quiet |= t->alerts[i].err.code == tried[k] &&
                     now - t->alerts[i].told_ns > ALERT_QUIET_NS;
        if (quiet)
            target_settled(t, t->alerts[i].err.code);
    }
}

static void
alerts_json(struct target *t, struct json_writer *w)
{
    drop_quiet(t);
    json_open_array(w, "Alerts");
    for (unsigned i = 0; i < t->n_alerts; i++) {
        json_open_obj(w, NULL);
        json_put_str(w, "Code", err_code_text(t->alerts[i].err.code));
        json_put_str(w, "Message", t->alerts[i].err.msg);
        json_put_str(w, "NextStep", err_code_next(t->alerts[i].err.code));
        json_put_time(w, "Since", t->alerts[i].since_wall_ns);
        json_close_obj(w);
    }
    json_close_array(w);
}

/* The points that need damaged data; null: none. */
static void
damage_json(const struct target *t, struct json_writer *w)
{
    struct journal_damage d;

    if (!t->journal || !journal_damage(t->journal, &d)) {
        json_put_null(w, "Damage");
        return;
    }
    json_open_obj(w, "Damage");
    json_put_u64(w, "Checkpoints", d.points);
    json_put_u64_text(w, "First", d.first_cut);
    json_put_time(w, "FirstTimeStamp", d.first_wall_ns);
    json_put_u64_text(w, "Last", d.last_cut);
    json_put_time(w, "LastTimeStamp", d.last_wall_ns);
    json_put_bool(w, "Newest", d.newest);
    json_put_str(w, "What", d.what);
    json_close_obj(w);
}

/* What keeps it from working as it should. */
static const struct err *
target_error(const struct target *t, const struct receiver_status *rs,
             const struct journal_stats *st)
{
    if (t->err.num < 0)
        return &t->err;
    for (unsigned i = 0; i < t->n_alerts && st->degraded; i++)
        if (t->alerts[i].err.code == ERR_JNL_0020)
            return &t->alerts[i].err;
    return &rs->err;
}

void
target_status_json(struct target *t, struct json_writer *w)
{
    struct receiver_status rs = { .progress = UINT8_MAX };
    struct journal_stats st = { .used_bytes = 0 };
    struct journal_point p;
    struct list *l;

    if (t->journal)
        journal_stats(t->journal, &st);
    if (t->receiver)
        receiver_status(t->receiver, &rs);
    json_open_obj(w, NULL);
    json_put_uuid(w, "VpgIdentifier", &t->vpg.u);
    json_put_str(w, "VpgName", t->name);
    json_put_u64(w, "FencingEpoch", t->fencing_epoch);
    json_put_uuid(w, "StoreIdentifier", &t->store->id);
    json_put_str(w, "State", target_state(t, &rs, &st));
    json_put_err(w, "Error", target_error(t, &rs, &st));
    json_put_bool(w, "LinkUp", rs.open && rs.link_up);
    if (rs.progress <= 100)
        json_put_u64(w, "ProgressPercent", rs.progress);
    else
        json_put_null(w, "ProgressPercent");
    if (rs.has_rpo)
        json_put_u64(w, "RpoMilliseconds", rs.rpo_ns / NSEC_PER_MSEC);
    else
        json_put_null(w, "RpoMilliseconds");
    if (t->journal && journal_point_oldest(t->journal, &p) == 0)
        point_json(w, "Oldest", &p);
    else
        json_put_null(w, "Oldest");
    if (t->journal && journal_point_newest(t->journal, &p) == 0)
        point_json(w, "Newest", &p);
    else
        json_put_null(w, "Newest");
    json_put_u64(w, "CheckpointCount",
                 t->journal ? journal_points_count(t->journal) : 0);
    json_put_u64(w, "JournalUsedInBytes", st.used_bytes);
    json_put_u64(w, "JournalLimitInBytes", t->hard_limit);
    json_put_u64(w, "JournalWarnInBytes", t->warn);
    json_put_u64(w, "ReplicaBytes", st.replica_bytes);
    json_put_u64(w, "ScratchUsedInBytes", st.overlay_bytes);
    json_put_u64(w, "HistorySeconds", t->history_ns / NSEC_PER_SEC);
    json_put_u64(w, "ActualHistorySeconds", st.history_ns / NSEC_PER_SEC);
    json_put_u64(w, "ReceivedBytesTotal", rs.received_bytes);
    alerts_json(t, w);
    damage_json(t, w);
    json_open_array(w, "Views");
    list_for_each (l, &t->views) {
        struct target_view *tv = list_entry(l, struct target_view, link);

        if (!tv->closing) /* the journal may have freed it already */
            target_view_json(w, tv);
    }
    json_close_array(w);
    json_close_obj(w);
}
