/* The scrub of a target's journal for the manager, which names it: the call that
 * begins one, repeated, tells how far that one is and at last what it found.  A
 * replicator that has been restarted meanwhile begins anew. */
#include <string.h>

#include "common/bytes.h"
#include "replicator/target.h"

static const char *const states[] = { "None", "Running", "Done", "Failed" };

static void
scrub_json(struct json_writer *w, const struct target_scrub *s,
           const struct journal_scrub_result *r)
{
    json_open_obj(w, NULL);
    json_put_uuid(w, "ScrubIdentifier", &s->id);
    json_put_str(w, "State", states[s->state]);
    json_put_u64(w, "ProgressPercent", r->percent);
    json_put_u64(w, "Segments", r->segments);
    json_put_u64(w, "Batches", r->batches);
    json_put_u64(w, "Chunks", r->chunks);
    json_put_u64(w, "Runs", r->runs);
    json_put_u64(w, "Replicas", r->replicas);
    json_put_u64(w, "Bytes", r->bytes);
    json_put_u64(w, "Bad", r->bad);
    if (r->bad)
        json_put_str(w, "FirstBad", r->first_bad);
    else
        json_put_null(w, "FirstBad");
    json_put_err(w, "Error", &s->err);
    json_close_obj(w);
}

static void
scrub_reply(struct ctl_call *c, const struct target *t)
{
    struct journal_scrub_result r = t->scrub.result;
    struct json_writer w;
    struct buf out;

    if (t->scrub.state == SCRUB_RUNNING)
        (void)journal_scrub_progress(t->journal, &r);
    buf_init(&out, REP_CONFIG_MAX);
    json_begin(&w, &out);
    scrub_json(&w, &t->scrub, &r);
    ctl_reply(c, 200, &out);
}

/* What is told of damage stays until a scrub finds none. */
static const enum err_code damage[] = { ERR_JNL_0003, ERR_JNL_0050, ERR_JNL_0051,
                                        ERR_JNL_0057, ERR_JNL_0061 };

static void
scrubbed(void *arg, int res, const struct journal_scrub_result *r)
{
    struct target *t = arg;

    t->scrub.state = res < 0 ? SCRUB_FAILED : SCRUB_DONE;
    t->scrub.result = *r;
    for (size_t i = 0; res == 0 && !r->bad && i < ARRAY_SIZE(damage); i++)
        target_settled(t, damage[i]);
    if (res < 0)
        err_set(&t->scrub.err, res, ERR_REP_0014, "scrub of VPG %s: %s", t->name,
                res == -ECANCELED ? "the journal was closed meanwhile"
                                  : err_errno(res));
}

void
target_scrub(struct ctl_call *c)
{
    struct target *t = target_of_call(c);
    struct err err = ERR_INIT;
    struct uuid id;

    if (!t)
        return;
    if (json_uuid(c->body, "ScrubIdentifier", JSON_REQUIRED, &id, &err) < 0) {
        ctl_reply_err(c, &err);
        return;
    }
    if (t->scrub.state == SCRUB_NONE || !uuid_equal(&t->scrub.id, &id)) {
        if (t->scrub.state == SCRUB_RUNNING) {
            err_set(&err, -EBUSY, ERR_REP_0010,
                    "a scrub of VPG %s is running already", t->name);
            ctl_reply_err(c, &err);
            return;
        }
        t->scrub = (struct target_scrub){ .id = id, .state = SCRUB_RUNNING };
        journal_scrub(t->journal, scrubbed, t);
    }
    scrub_reply(c, t);
}
