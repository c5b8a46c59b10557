/* Alerts: what is wrong at this moment, under the identifiers that runbooks know
 * (docs/operations.md, section 8).  All of it is worked out anew once a second
 * and when somebody asks; what is kept is since when each has been there, by a
 * key that says which condition of which object it is.
 *
 *   collect() --conditions--> note() --known key: since when; new key: now-->
 *   the list, from which those whose key has not come again are taken
 *
 * A condition that comes and goes with every checkpoint (RPO) is shown when it
 * has held for a minute. */
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/log.h"
#include "common/text.h"
#include "manager/manager.h"

enum {
    KEY_SIZE = 120,
    DAY_S = 86400,
    CA_ERROR_DAYS = 14,
    EVENT_ALERT_ON = 47,
    EVENT_ALERT_OFF = 48,
};

static const char *const levels[] = { "Warning", "Error" };
static const char *const alert_entities[] = {
    "Zvm",     "Vra",     "Vpg", "CloudConnector",
    "Storage", "License", "Zcm", "FileRecoveryComponent"
};
static const char *const help_ids[] = {
    "STR0002", "VPG0003", "VPG0004", "VPG0005", "VPG0009", "VPG0010", "VPG0017",
    "VRA0005", "VRA0007", "VRA0013", "VRA0039", "VRA0040", "ZVM0002", "ZVM0003",
    "HF0001",  "HF0005",  "HF0007",  "HF0009",  "HF0015",  "HF0016",
};

enum level {
    WARNING,
    ERROR
};

/* One that is on. */
struct standing {
    struct list link;
    char key[KEY_SIZE]; /* the identifier, too */
    const char *help, *entity;
    enum level level;
    struct uuid vpg; /* nil: none */
    char text[ERR_MSG_MAX + 200], code[16];
    uint64_t since_ms;
    bool hidden; /* has not held for long enough */
    bool told;   /* by an event, when it goes that is told, too */
    bool seen;
};

struct condition {
    const char *help, *entity;
    enum level level;
    const struct vpg *vpg;
    const char *code;
    uint64_t since_ms; /* 0: since it was first seen */
    bool hidden, event;
};

static struct standing *
standing_by_key(struct manager *m, const char *key)
{
    struct list *pos;

    list_for_each (pos, &m->alerts) {
        struct standing *s = list_entry(pos, struct standing, link);

        if (strcmp(s->key, key) == 0)
            return s;
    }
    return NULL;
}

static struct standing *
standing_new(struct manager *m, const char *key)
{
    struct standing *s = calloc(1, sizeof *s);

    if (!s)
        return NULL;
    list_init(&s->link);
    (void)snprintf(s->key, sizeof s->key, "%s", key);
    s->since_ms = wall_ms();
    list_push_back(&m->alerts, &s->link);
    return s;
}

/* Out of memory an alert is missed for a second. */
static void PRINTF_LIKE(4, 5) note(struct manager *m, const struct condition *c,
                                   const char *key, const char *fmt, ...)
{
    struct standing *s = standing_by_key(m, key);
    va_list ap;

    if (!s)
        s = standing_new(m, key);
    if (!s)
        return;
    s->seen = true;
    s->help = c->help;
    s->entity = c->entity;
    s->level = c->level;
    s->hidden = c->hidden;
    s->vpg = c->vpg ? c->vpg->id.u : (struct uuid){ { 0 } };
    (void)snprintf(s->code, sizeof s->code, "%s", c->code ? c->code : "");
    if (c->since_ms)
        s->since_ms = c->since_ms;
    va_start(ap, fmt);
    (void)vsnprintf(s->text, sizeof s->text, fmt, ap);
    va_end(ap);
    if (c->event && !s->told) {
        events_record(m, EVENT_ALERT_ON, NULL, "", true, "", s->text);
        s->told = true;
    }
}

static const char *
key_of(const struct uuid *id, const char *what, char out[KEY_SIZE])
{
    char text[UUID_TEXT_SIZE];

    uuid_format(id, text);
    (void)snprintf(out, KEY_SIZE, "%s.%s", text, what);
    return out;
}

/* --- VPGs ---------------------------------------------------------------------------------- */

/* Kept from the first moment, shown when it has held. */
static void
rpo_alert(struct manager *m, const struct vpg *v, const struct vpg_facts *f)
{
    struct condition c = { .help = "VPG0009", .entity = "Vpg", .vpg = v };
    const struct standing *s;
    char key[KEY_SIZE];
    int alarm = 0;

    if (!f->has_points || f->rpo_ms <= (int64_t)f->rpo_s * 1000)
        return;
    s = standing_by_key(m, key_of(&v->id.u, "rpo", key));
    if (s)
        alarm = vpg_rpo_alarm(f, wall_ms() - s->since_ms);
    c.hidden = alarm == 0;
    if (alarm == 2) {
        c.help = "VPG0010";
        c.level = ERROR;
    }
    note(m, &c, key,
         "VPG %s: the newest point is %lld s old, the target is %u s: see link, lag and outgoing in holdfast vpg",
         v->name, (long long)(f->rpo_ms / 1000), f->rpo_s);
}

static void
history_alert(struct manager *m, const struct vpg *v, const struct vpg_facts *f)
{
    struct condition c = { .help = "VPG0003", .entity = "Vpg", .vpg = v };
    char key[KEY_SIZE];

    if (!vpg_history_short(f))
        return;
    if (vpg_history_half(f)) {
        c.help = "VPG0004";
        c.level = ERROR;
    }
    note(m, &c, key_of(&v->id.u, "history", key),
         "VPG %s: the journal reaches back %llu s, the target is %llu s: give it more space or a shorter target",
         v->name, (unsigned long long)f->actual_history_s,
         (unsigned long long)f->history_s);
}

/* What its substatus says beside the figures. */
static void
state_alert(struct manager *m, struct vpg *v, const struct vpg_facts *f)
{
    static const struct {
        enum vpg_substatus sub;
        enum level level;
        const char *help, *text;
    } table[] = {
        { VPG_SUB_ERROR, ERROR, "VPG0005",
          "replication is in an error state: its error stands in holdfast vpg" },
        { VPG_SUB_PAUSED, WARNING, "VPG0017",
          "replication was paused by a user: resume it when the reason is gone" },
        { VPG_SUB_DISCONNECTED, ERROR, "VRA0005",
          "the replicators of the two sites have no connection: check both and the port of data_listen" },
        { VPG_SUB_DISCONNECTED_NO_POINTS, ERROR, "VRA0005",
          "the replicators of the two sites have no connection, and there is no point to recover to" },
        { VPG_SUB_JOURNAL_STORAGE_ERROR, ERROR, "VRA0007",
          "the journal has stopped, or its store is full: see the replicator's alert and the disk of the store" },
        { VPG_SUB_RECOVERY_STORAGE_ERROR, ERROR, "VRA0013",
          "the recovery copy cannot be used: see the replicator's alert and the disk of the store" },
    };
    struct vpg_verdict verdict = vpg_judge(f);
    char key[KEY_SIZE];

    for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
        struct condition c = { .help = table[i].help,
                               .entity = "Vpg",
                               .level = table[i].level,
                               .vpg = v };

        if (verdict.substatus == table[i].sub)
            note(m, &c, key_of(&v->id.u, "state", key), "VPG %s: %s", v->name,
                 table[i].text);
    }
}

/* The journal's own codes and what they are called here; all others are read
 * as an I/O error of the journal. */
static void
name_code(const char *code, struct condition *c)
{
    static const struct {
        const char *code, *help, *entity;
        enum level level;
    } table[] = {
        { "JNL-0003", "HF0007", "Vpg", ERROR },
        { "JNL-0009", "STR0002", "Storage", ERROR },
        { "JNL-0010", "HF0005", "Vpg", WARNING },
        { "JNL-0012", "VRA0040", "Vra", WARNING },
        { "JNL-0017", "VRA0039", "Vpg", ERROR },
        { "JNL-0018", "HF0001", "Vpg", ERROR },
        { "JNL-0020", "HF0007", "Vpg", ERROR },
        { "JNL-0051", "HF0007", "Vpg", ERROR },
        { "JNL-0055", "HF0009", "Vpg", WARNING },
        { "JNL-0056", "HF0009", "Vpg", WARNING },
        { "JNL-0058", "HF0007", "Vpg", ERROR },
        { "JNL-0061", "HF0007", "Vpg", ERROR },
    };

    c->help = "VRA0007";
    c->entity = "Vra";
    c->level = ERROR;
    for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
        if (strcmp(table[i].code, code) == 0) {
            c->help = table[i].help;
            c->entity = table[i].entity;
            c->level = table[i].level;
        }
    }
    c->code = code;
}

static void
target_alerts(struct manager *m, const struct vpg *v)
{
    const struct replicator *r = any_replicator(m, &v->target);
    char key[KEY_SIZE], what[40];
    const cJSON *item;

    cJSON_ArrayForEach (item,
                        json_get(r ? replicator_target(r, v) : NULL, "Alerts")) {
        const char *message = "", *code = "", *since = NULL;
        struct condition c = { .vpg = v };

        (void)json_str(item, "Message", JSON_OPTIONAL, &message, NULL);
        (void)json_str(item, "Code", JSON_OPTIONAL, &code, NULL);
        if (json_str(item, "Since", JSON_OPTIONAL, &since, NULL) == 1)
            (void)time_parse(since, &c.since_ms);
        name_code(code, &c);
        (void)snprintf(what, sizeof what, "journal.%.15s", code);
        note(m, &c, key_of(&v->id.u, what, key), "VPG %s: %s", v->name, message);
    }
}

/* Which points are lost for the time being, and the way out. */
static void
damage_alert(struct manager *m, const struct vpg *v)
{
    struct condition c = { .help = "HF0007",
                           .entity = "Vpg",
                           .level = ERROR,
                           .vpg = v,
                           .code = "JNL-0015" };
    const cJSON *d = json_get(vpgs_last_target(m, v), "Damage");
    const char *first = "", *last = "", *from = "", *to = "", *what = "";
    char key[KEY_SIZE];
    uint64_t n = 0;
    bool newest = false;

    if (json_u64(d, "Checkpoints", JSON_REQUIRED, 1, JSON_INT_MAX, &n, NULL) != 1)
        return;
    (void)json_str(d, "First", JSON_OPTIONAL, &first, NULL);
    (void)json_str(d, "Last", JSON_OPTIONAL, &last, NULL);
    (void)json_str(d, "FirstTimeStamp", JSON_OPTIONAL, &from, NULL);
    (void)json_str(d, "LastTimeStamp", JSON_OPTIONAL, &to, NULL);
    (void)json_str(d, "What", JSON_OPTIONAL, &what, NULL);
    (void)json_bool(d, "Newest", JSON_OPTIONAL, &newest, NULL);
    note(m, &c, key_of(&v->id.u, "damage", key),
         "VPG %s: %llu points, %s to %s (%s to %s), need data that is damaged at the recovery site: %s. %s",
         v->name, (unsigned long long)n, first, last, from, to, what,
         newest
             ? "The newest point is one of them, and so will be all new ones until that data is written again: "
               "look at the disk of the store, then run holdfast sync, after which new points are whole"
             : "Newer points are whole: use those; the damaged ones leave with the history. Look at the disk of the "
               "store");
}

/* --- other programs, certificates ---------------------------------------------------------------- */

static uint64_t
ago(uint64_t heard_ms, const struct manager *m)
{
    return heard_ms ? wall_ms() - (http_loop_now_ms() - heard_ms)
                    : m->started_ms;
}

static void
certificate_alert(struct manager *m, const char *key, const char *entity,
                  const char *whose, uint64_t from_s, uint64_t to_s)
{
    uint64_t now_s = wall_ms() / 1000;
    unsigned left = identity_life_left(from_s, to_s, now_s);
    struct condition c = { .help = left < 100 ? "HF0016" : "HF0015",
                           .entity = entity,
                           .level = left < 100 ? ERROR : WARNING,
                           .since_ms = (to_s - (to_s - from_s) / 3) * 1000,
                           .event = true };
    char until[TIME_SIZE];

    if (left >= 334)
        return;
    note(m, &c, key,
         now_s < to_s
             ? "the certificate of %s was not renewed and ends at %s: see its log; holdfastd renew tries at once"
             : "the certificate of %s ended at %s: it must join again",
         whose, time_text(to_s * 1000, until));
}

static void
ca_alert(struct manager *m)
{
    uint64_t now_s = wall_ms() / 1000, from_s, to_s, days;
    struct condition c = { .help = "HF0015", .entity = "Zvm", .event = true };
    char until[TIME_SIZE];

    keys_ca_times(m, &from_s, &to_s);
    days = to_s > now_s ? (to_s - now_s) / DAY_S : 0;
    if (days >= CA_WARN_DAYS)
        return;
    if (days < CA_ERROR_DAYS) {
        c.help = "HF0016";
        c.level = ERROR;
    }
    c.since_ms = (to_s - (uint64_t)CA_WARN_DAYS * DAY_S) * 1000;
    note(m, &c, "site-ca.certificate",
         "the CA of site %s ends in %llu days, at %s, and with it every certificate it has signed: "
         "see docs/operations.md, Certificates",
         m->site_name, (unsigned long long)days, time_text(to_s * 1000, until));
}

static void
replicator_alerts(struct manager *m, const struct replicator *r)
{
    struct condition c = { .help = "ZVM0002",
                           .entity = "Vra",
                           .level = ERROR,
                           .since_ms = ago(r->heard_ms, m) };
    char key[KEY_SIZE], whose[NAME_SIZE + 20];

    if (r->revoked)
        return;
    if (!replicator_fresh(r))
        note(m, &c, key_of(&r->id, "link", key),
             "replicator %s does not answer: %s", r->name,
             *r->error ? r->error : "nothing heard yet");
    if (r->n_issued && r->issued[r->n_issued - 1].not_after_s) {
        const struct issued *last = &r->issued[r->n_issued - 1];

        (void)snprintf(whose, sizeof whose, "replicator %s", r->name);
        certificate_alert(m, key_of(&r->id, "certificate", key), "Vra", whose,
                          last->not_before_s, last->not_after_s);
    }
}

static void
peer_alert(struct manager *m, const struct peer *p)
{
    struct condition c = { .help = "ZVM0003",
                           .entity = "Zvm",
                           .level = ERROR,
                           .since_ms = p->last_contact_ms ? p->last_contact_ms
                                                          : m->started_ms };
    char key[KEY_SIZE];

    if (!peer_fresh(p))
        note(m, &c, key_of(&p->site, "link", key), "site %s does not answer: %s",
             p->name, *p->error ? p->error : "nothing heard yet");
}

/* --- all of it ------------------------------------------------------------------------------------- */

static void
forget_gone(struct manager *m)
{
    struct list *pos, *tmp;

    list_for_each_safe (pos, tmp, &m->alerts) {
        struct standing *s = list_entry(pos, struct standing, link);

        if (s->seen)
            continue;
        if (s->told)
            events_record(m, EVENT_ALERT_OFF, NULL, "", true, "", s->text);
        list_del(&s->link);
        free(s);
    }
}

void
alerts_tick(struct manager *m)
{
    const struct identity *own = keys_own(m);
    struct list *pos;

    list_for_each (pos, &m->alerts)
        list_entry(pos, struct standing, link)->seen = false;
    list_for_each (pos, &m->vpgs) {
        struct vpg *v = list_entry(pos, struct vpg, link);
        struct vpg_facts f = vpgs_facts(m, v);

        if (v->state != VPG_ACTIVE)
            continue;
        rpo_alert(m, v, &f);
        history_alert(m, v, &f);
        state_alert(m, v, &f);
        target_alerts(m, v);
        damage_alert(m, v);
    }
    list_for_each (pos, &m->replicators)
        replicator_alerts(m, list_entry(pos, struct replicator, link));
    list_for_each (pos, &m->peers)
        peer_alert(m, list_entry(pos, struct peer, link));
    certificate_alert(m, "manager.certificate", "Zvm", "this manager",
                      own->not_before_s, own->not_after_s);
    ca_alert(m);
    forget_gone(m);
}

void
alerts_free(struct manager *m)
{
    struct list *pos, *tmp;

    list_for_each_safe (pos, tmp, &m->alerts)
        free(list_entry(pos, struct standing, link));
    list_init(&m->alerts);
}

/* --- routes ------------------------------------------------------------------------------------------ */

static bool
passes(struct http_req *rq, const struct standing *s, const char *vpg)
{
    return !s->hidden &&
           api_filter_enum(rq, "level", s->level, levels, ARRAY_SIZE(levels)) &&
           api_filter(rq, "entity", s->entity) &&
           api_filter(rq, "helpIdentifier", s->help) &&
           api_filter(rq, "vpgIdentifier", vpg) &&
           api_filter(rq, "isDismissed", "false");
}

static void
put_alert(struct http_req *rq, struct manager *m, struct json_writer *w,
          const struct standing *s)
{
    char vpg[UUID_TEXT_SIZE] = "";
    bool has_vpg = !uuid_is_nil(&s->vpg);

    if (has_vpg)
        uuid_format(&s->vpg, vpg);
    if (!passes(rq, s, vpg))
        return;
    json_open_obj(w, NULL);
    put_link(w, "Link", m, "alerts", s->key, "AlertApi");
    json_put_str(w, "Level", levels[s->level]);
    json_put_str(w, "Entity", s->entity);
    json_put_str(w, "HelpIdentifier", s->help);
    json_put_str(w, "Description", s->text);
    put_time(w, "TurnedOn", s->since_ms);
    json_put_bool(w, "IsDismissed", false);
    put_site_link(w, "Site", m, &m->site);
    json_open_array(w, "AffectedVpgs");
    if (has_vpg)
        put_link(w, NULL, m, "vpgs", vpg, "VpgApi");
    json_close_array(w);
    json_open_array(w, "AffectedZorgs");
    json_close_array(w);
    json_put_u64(w, "Generation", 0);
    if (*s->code)
        json_put_str(w, "Code", s->code);
    else
        json_put_null(w, "Code");
    json_close_obj(w);
}

static void
alerts_list(struct http_req *rq, void *ctx)
{
    struct manager *m = ctx;
    struct json_writer w;
    struct list *pos;
    struct buf out;

    alerts_tick(m);
    buf_init(&out, API_JSON_MAX);
    json_begin(&w, &out);
    json_open_array(&w, NULL);
    /* clang does not see that forget_gone() took what it freed off the list.
     * NOLINTNEXTLINE(clang-analyzer-unix.Malloc) */
    list_for_each (pos, &m->alerts)
        put_alert(rq, m, &w, list_entry(pos, struct standing, link));
    json_close_array(&w);
    http_reply_buf(rq, 200, &out);
}

static void
alert_levels(struct http_req *rq, void *ctx)
{
    UNUSED(ctx);
    api_names(rq, levels, ARRAY_SIZE(levels));
}

static void
alert_entity_names(struct http_req *rq, void *ctx)
{
    UNUSED(ctx);
    api_names(rq, alert_entities, ARRAY_SIZE(alert_entities));
}

static void
alert_help(struct http_req *rq, void *ctx)
{
    UNUSED(ctx);
    api_names(rq, help_ids, ARRAY_SIZE(help_ids));
}

const struct http_route api_alert_routes[] = {
    { "GET", "/v1/alerts", PRIV_VIEWER, 0, alerts_list,
      "What is wrong now; level, entity, helpIdentifier, vpgIdentifier, isDismissed." },
    { "GET", "/v1/alerts/levels", PRIV_VIEWER, 0, alert_levels, "Names." },
    { "GET", "/v1/alerts/entities", PRIV_VIEWER, 0, alert_entity_names,
      "Names." },
    { "GET", "/v1/alerts/helpidentifiers", PRIV_VIEWER, 0, alert_help, "Names." },
    { NULL, NULL, 0, 0, NULL, NULL },
};
