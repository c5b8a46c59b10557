/* Steps that commands share: finding the site that can answer, confirming,
 * and following a task. */
#include "tui/cli/app.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/text.h"
#include "tui/cli/term.h"

enum {
    POLL_FIRST_MS = 100,
    POLL_MAX_MS = 1000,
    LOST_MAX_MS = 30 * 1000
};

const char *
app_arg(const struct app *a, size_t n)
{
    return n + 1 < a->opt.n_words ? a->opt.words[n + 1] : NULL;
}

/* ---- How it ends ------------------------------------------------------------------- */

enum cli_exit
app_exit_of(const struct err *err)
{
    const char *code = err_code_text(err->code);

    if (!err->num)
        return EXIT_DONE;
    if (strncmp(code, "TLS-", 4) == 0)
        return err->code == ERR_TLS_0008 ? EXIT_FAILED : EXIT_NO_CONTACT;
    if (strncmp(code, "CFG-", 4) == 0)
        return EXIT_USAGE;
    /* The codes that mean something to scripts; all others have failed. */
    static const struct {
        enum err_code code;
        enum cli_exit exit;
    } exits[] = {
        { ERR_GEN_0007, EXIT_NO_CONTACT },    { ERR_GEN_0008, EXIT_NO_CONTACT },
        { ERR_GEN_0009, EXIT_NO_CONTACT },    { ERR_CLI_0001, EXIT_USAGE },
        { ERR_CLI_0002, EXIT_USAGE },         { ERR_CLI_0003, EXIT_NO_CONTACT },
        { ERR_CLI_0004, EXIT_NO_CONTACT },    { ERR_CLI_0008, EXIT_USAGE },
        { ERR_CLI_0009, EXIT_USAGE },         { ERR_CLI_0012, EXIT_STALE },
        { ERR_CLI_0013, EXIT_NOT_CONFIRMED }, { ERR_CLI_0014, EXIT_USAGE },
        { ERR_CLI_0019, EXIT_NO_PRIVILEGE },  { ERR_CLI_0020, EXIT_NO_CONTACT },
    };

    for (size_t i = 0; i < ARRAY_SIZE(exits); i++) {
        if (exits[i].code == err->code)
            return exits[i].exit;
    }
    return EXIT_FAILED;
}

/* To the operator, with nothing in it that could drive the terminal. */
static void
tell(const char *s)
{
    char clean[2 * ERR_MSG_MAX];

    (void)fprintf(stderr, "%s\n", text_safe(clean, sizeof clean, s, strlen(s)));
}

void
app_explain(const struct app *a, const struct err *err)
{
    const struct client_refusal *said = a->last ? client_refusal(a->last) : NULL;
    bool theirs =
        said && (err->code == ERR_CLI_0007 || err->code == ERR_CLI_0019 ||
                 err->code == ERR_CLI_0020);
    char line[ERR_MSG_MAX + 128];

    (void)snprintf(line, sizeof line, "holdfast: %s (%s%s%s)", err->msg,
                   err_code_text(err->code), theirs && said->code[0] ? ", " : "",
                   theirs ? said->code : "");
    tell(line);
    (void)snprintf(line, sizeof line, "  next: %s",
                   theirs && said->next[0] ? said->next
                                           : err_code_next(err->code));
    tell(line);
}

/* ---- Sites ---------------------------------------------------------------------------- */

int
app_load_sites(struct app *a, struct err *err)
{
    int rc;

    if (a->sites_loaded)
        return 0;
    rc = sites_load(&a->sites, a->opt.config.v, a->opt.config.n, err);
    if (rc < 0)
        return rc;
    a->clients = calloc(a->sites.n + 1, sizeof(struct client *));
    if (!a->clients)
        return err_set(err, -ENOMEM, ERR_GEN_0002, "sites: out of memory");
    a->sites_loaded = true;
    return 0;
}

void
app_release(struct app *a)
{
    for (size_t i = 0; a->clients && i < a->sites.n; i++)
        client_close(a->clients[i]);
    free(a->clients);
    sites_release(&a->sites);
}

int
app_client_at(struct app *a, size_t i, struct client **out_client,
              struct err *err)
{
    int rc = 0;

    if (!a->clients[i])
        rc = client_open(&a->sites.defs[i], &a->ui, &a->clients[i], err);
    if (rc < 0)
        return rc;
    client_set_reason(a->clients[i], a->opt.reason);
    *out_client = a->last = a->clients[i];
    return 0;
}

/* The site of --ctx, or of them all: [*out_first, *out_end). */
static int
site_range(struct app *a, size_t *out_first, size_t *out_end, struct err *err)
{
    const struct site_def *d;
    int rc = app_load_sites(a, err);

    if (rc < 0)
        return rc;
    d = sites_find(&a->sites, a->opt.ctx, err);
    if (!d)
        return -ENOENT;
    *out_first = (size_t)(d - a->sites.defs);
    *out_end = a->opt.ctx ? *out_first + 1 : a->sites.n;
    return 0;
}

int
app_client(struct app *a, struct client **out_client, struct err *err)
{
    size_t i, end;
    struct client *c;
    cJSON *answer;
    int rc = site_range(a, &i, &end, err);

    if (rc < 0)
        return rc;
    for (;; i++) {
        struct err why = ERR_INIT;

        rc = app_client_at(a, i, &c, &why);
        if (rc == 0 && i + 1 < end) {
            /* is it there? */
            rc = client_get(c, "/v1/localsite", &answer, &why);
            if (rc == 0)
                cJSON_Delete(answer);
        }
        if (rc == 0) {
            *out_client = c;
            return 0;
        }
        if (i + 1 >= end || app_exit_of(&why) != EXIT_NO_CONTACT) {
            if (err)
                *err = why;
            return rc;
        }
        tell(why.msg);
        (void)fprintf(stderr, "asking %s instead\n", a->sites.defs[i + 1].name);
    }
}

int
app_get(struct app *a, struct client *c, const char *path, cJSON **out_answer,
        struct err *err)
{
    int rc;

    a->last = c;
    rc = client_get(c, path, out_answer, err);
    if (rc == 0 && !*out_answer)
        rc = err_set(err, -EBADMSG, ERR_CLI_0005,
                     "%s: answer to %.100s is empty", client_site(c)->name,
                     path);
    return rc;
}

/* ---- VPGs -------------------------------------------------------------------------------- */

static const char *
member(const cJSON *obj, const char *name)
{
    const cJSON *v = json_get(obj, name);

    return cJSON_IsString(v) ? v->valuestring : "";
}

/* Whether text names id: all of it, or enough of its beginning that a slip of
 * the hand or of a script does not name the only one there is. */
bool
app_names_id(const char *text, const char *id)
{
    size_t n = strlen(text);

    return strcmp(text, id) == 0 ||
           (n >= ID_PREFIX_MIN && strncasecmp(id, text, n) == 0);
}

int
app_no_such_id(const char *what, const char *text, struct err *err)
{
    bool brief = strlen(text) < ID_PREFIX_MIN;

    return err_set(err, -ENOENT, ERR_CLI_0010, "there is no %s \"%.80s\"%s",
                   what, text,
                   brief ? ": the start of an identifier has at least 4 "
                           "characters"
                         : "");
}

static const cJSON *
pick_vpg(const cJSON *list, const char *name)
{
    const cJSON *v;

    cJSON_ArrayForEach (v, list) {
        if (strcmp(member(v, "VpgName"), name) == 0 ||
            text_icmp(member(v, "VpgIdentifier"), name) == 0)
            return v;
    }
    return NULL;
}

static int64_t
stale_at(struct app *a, struct client *c, const cJSON *vpg)
{
    struct model m = { .now_ms = when_now_ms() };
    cJSON *local = NULL, *peers = NULL;
    int64_t stale = -1;

    if (app_get(a, c, "/v1/localsite", &local, NULL) == 0 &&
        app_get(a, c, "/v1/peersites", &peers, NULL) == 0) {
        m.local = local;
        m.peers = peers;
        stale = model_vpg_stale(&m, vpg);
    }
    cJSON_Delete(local);
    cJSON_Delete(peers);
    return stale;
}

static int
find_at(struct app *a, size_t i, const char *name, struct vpg_found *out,
        struct err *err)
{
    struct vpg_found f = { .client = NULL };
    int rc = app_client_at(a, i, &f.client, err);

    if (rc == 0)
        rc = app_get(a, f.client, "/v1/vpgs", &f.list, err);
    if (rc < 0)
        return rc;
    f.vpg = pick_vpg(f.list, name);
    if (!f.vpg) {
        cJSON_Delete(f.list);
        return err_set(err, -ENOENT, ERR_CLI_0010, "%s knows no VPG \"%s\"",
                       client_site(f.client)->name, name);
    }
    f.id = member(f.vpg, "VpgIdentifier");
    f.name = member(f.vpg, "VpgName");
    f.protected = member(f.vpg, "ProtectedSiteName");
    f.recovery = member(f.vpg, "RecoverySiteName");
    f.stale_ms = stale_at(a, f.client, f.vpg);
    *out = f;
    return 0;
}

int
app_find_vpg(struct app *a, const char *name, struct vpg_found *out,
             struct err *err)
{
    struct vpg_found stale = { .client = NULL };
    struct err first = ERR_INIT;
    size_t i, end;
    int rc = site_range(a, &i, &end, err);

    if (rc < 0)
        return rc;
    for (; i < end; i++) {
        struct err why = ERR_INIT;
        struct vpg_found f = { .client = NULL };

        rc = find_at(a, i, name, &f, &why);
        if (rc == 0 && f.stale_ms < 0) {
            vpg_found_release(&stale);
            *out = f;
            return 0;
        }
        if (rc == 0 && !stale.client)
            stale = f; /* another site may know better */
        else if (rc == 0)
            vpg_found_release(&f);
        else if (!first.num || first.code == ERR_CLI_0010)
            first = why; /* a site that could not say outweighs a no */
    }
    if (stale.client) {
        *out = stale;
        return 0;
    }
    if (err)
        *err = first;
    return first.num;
}

void
vpg_found_release(struct vpg_found *f)
{
    cJSON_Delete(f->list);
    f->list = NULL;
}

int
vpg_found_fresh(const struct vpg_found *f, struct err *err)
{
    if (f->stale_ms < 0)
        return 0;
    return err_set(err, -ESTALE, ERR_CLI_0012,
                   "%s: its recovery site %s has been silent for %lld s as %s "
                   "sees it; nothing was sent",
                   f->name, f->recovery, (long long)(f->stale_ms / 1000),
                   client_site(f->client)->name);
}

void
vpg_path(const struct vpg_found *f, const char *more, struct buf *out)
{
    buf_init(out, 4096);
    (void)buf_addf(out, "/v1/vpgs/");
    url_escape(out, f->id);
    (void)buf_addf(out, "%s", more);
}

int
app_print(struct app *a, struct client *c, struct rows *r, long text_limit,
          struct err *err)
{
    const struct output_head head = {
        .command = a->command->name,
        .site = c ? client_site(c)->name : NULL,
        .now_ms = when_now_ms(),
        .text_limit = text_limit,
    };

    return output_rows(&a->opt, &head, r, err);
}

int
app_print_views(struct app *a, struct client *c, struct rows *r, struct err *err)
{
    if (a->opt.out == OUT_TEXT && !a->opt.columns && !a->opt.wide &&
        !a->opt.all) {
        a->opt.columns = "name,uri,mode,time,point,id";
        a->opt.all = true;
    }
    return app_print(a, c, r, 0, err);
}

/* ---- Confirmation --------------------------------------------------------------------------- */

int
app_confirm(struct app *a, const char *what, const char *name, const char *word,
            struct err *err)
{
    const char *given = a->opt.confirm;
    char answer[256], question[384];
    int rc;

    if (!given) {
        if (!term_present())
            return err_set(err, -ECANCELED, ERR_CLI_0013,
                           "%s: not confirmed: give --confirm %s", name,
                           word ? word : name);
        tell(what);
        (void)snprintf(question, sizeof question,
                       "Type %s and press Enter: ", word ? word : name);
        text_clean(question);
        rc = term_ask(question, answer, sizeof answer, err);
        if (rc < 0)
            return rc;
        given = answer;
    }
    if (strcmp(given, name) != 0 && (!word || strcmp(given, word) != 0))
        return err_set(err, -ECANCELED, ERR_CLI_0013,
                       "%s: not confirmed: expected \"%s\", got \"%.60s\"",
                       name, word ? word : name, given);
    return 0;
}

/* ---- Tasks ------------------------------------------------------------------------------------ */

static int64_t
monotonic_ms(void)
{
    struct timespec ts = { 0 };

    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* Waiting between two looks at a task that runs elsewhere. */
static void
pause_ms(int ms)
{
    const struct timespec ts = { .tv_sec = ms / 1000,
                                 .tv_nsec = ms % 1000 * 1000000L };

    (void)nanosleep(&ts, NULL); /* a signal only shortens it */
}

static void
show_progress(const char *what, const cJSON *task, int *shown)
{
    const cJSON *p = json_get(json_get(task, "Status"), "Progress");
    int percent = cJSON_IsNumber(p) ? p->valueint : 0;

    if (percent == *shown || !isatty(STDERR_FILENO))
        return;
    *shown = percent;
    (void)fprintf(stderr, "\r%s %3d%%", what, percent);
    (void)fflush(stderr);
}

static int
task_result(const char *what, const cJSON *task, int state, struct err *err)
{
    const char *reason = member(task, "CompleteReason");

    if (state == 6) {
        char said[500];

        (void)text_safe(said, sizeof said, reason, strlen(reason));
        if (reason[0]) /* a warning */
            (void)fprintf(stderr, "%s\n", said);
        return 0;
    }
    return err_set(err, -EIO, ERR_CLI_0016, "%s has %s: %.500s", what,
                   state == 5 ? "been stopped" : "failed",
                   reason[0] ? reason : "the manager gives no reason");
}

static int
follow_task(struct app *a, struct client *c, const char *id, const char *what,
            struct err *err)
{
    int64_t start = monotonic_ms(), heard = start;
    int poll_ms = POLL_FIRST_MS, shown = -1, state, rc;
    struct buf path;

    buf_init(&path, 1024);
    (void)buf_addf(&path, "/v1/tasks/");
    url_escape(&path, id);
    for (;;) {
        struct err why = ERR_INIT;
        cJSON *task = NULL;
        int64_t now;

        rc = app_get(a, c, (const char *)path.data, &task, &why);
        now = monotonic_ms();
        state = rc == 0 ? model_task_state(task) : 1;
        if (rc == 0) {
            heard = now;
            show_progress(what, task, &shown);
            if (state < 0)
                rc = err_set(err, -EBADMSG, ERR_CLI_0005,
                             "the manager's task %s has no state", id);
            else if (state >= 4 && state <= 6)
                rc = task_result(what, task, state, err);
        } else if (app_exit_of(&why) != EXIT_NO_CONTACT ||
                   now - heard > LOST_MAX_MS) {
            if (err)
                *err = why;
        } else {
            rc = 0; /* the task goes on without us: look again */
        }
        cJSON_Delete(task);
        if (rc < 0 || (state >= 4 && state <= 6))
            break;
        if (now - start > (int64_t)a->opt.timeout_ms) {
            rc = err_set(err, -ETIMEDOUT, ERR_CLI_0017,
                         "%s has not ended within %lld s: task %s", what,
                         (long long)(a->opt.timeout_ms / 1000), id);
            break;
        }
        pause_ms(poll_ms);
        poll_ms = MIN(poll_ms * 2, POLL_MAX_MS);
    }
    if (shown >= 0)
        (void)fprintf(stderr, "\n");
    buf_release(&path);
    return rc;
}

int
app_task(struct app *a, struct client *c, const char *method, const char *path,
         const struct buf *body, const char *what, char out_id[TASK_ID_TEXT],
         struct err *err)
{
    cJSON *answer = NULL;
    int rc;

    a->last = c;
    rc = client_call(c, method, path, body, &answer, err);
    if (rc < 0)
        return rc;
    if (!cJSON_IsString(answer) || !answer->valuestring[0] ||
        strlen(answer->valuestring) >= TASK_ID_TEXT)
        rc = err_set(err, -EBADMSG, ERR_CLI_0005,
                     "%s: the answer to %.100s names no task",
                     client_site(c)->name, path);
    else
        (void)text_safe(out_id, TASK_ID_TEXT, answer->valuestring,
                        strlen(answer->valuestring));
    cJSON_Delete(answer);
    if (rc == 0 && !a->opt.no_wait)
        rc = follow_task(a, c, out_id, what, err);
    return rc;
}

int
app_print_as(struct app *a, struct client *c, const char *id,
             const struct table *table,
             void (*model)(const struct model *m, struct rows *out),
             struct err *err)
{
    struct model m = { .now_ms = when_now_ms() };
    cJSON *task = NULL, *vpgs = NULL, *list;
    struct rows r;
    struct buf path;
    int rc;

    buf_init(&path, 1024);
    (void)buf_addf(&path, "/v1/tasks/");
    url_escape(&path, id);
    rc = app_get(a, c, (const char *)path.data, &task, err);
    buf_release(&path);
    if (rc < 0)
        return rc;
    /* Only for the names: without them it shows identifiers. */
    if (app_get(a, c, "/v1/vpgs", &vpgs, NULL) == 0)
        m.vpgs = vpgs;
    list = cJSON_CreateArray();
    if (list)
        (void)cJSON_AddItemToArray(list, task);
    m.list = list;
    rows_init(&r, table);
    model(&m, &r);
    rc = app_print(a, c, &r, 0, err);
    rows_release(&r);
    if (list)
        cJSON_Delete(list);
    else
        cJSON_Delete(task);
    cJSON_Delete(vpgs);
    return rc;
}

int
app_print_task(struct app *a, struct client *c, const char *id, struct err *err)
{
    return app_print_as(a, c, id, &table_tasks, model_tasks, err);
}

/* ---- Points --------------------------------------------------------------------------------------- */

static void
add_time(struct buf *path, const char *name, int64_t ms)
{
    char iso[WHEN_SIZE];

    (void)buf_addf(path, "%c%s=", strchr((char *)path->data, '?') ? '&' : '?',
                   name);
    url_escape(path, when_iso(ms, iso));
}

int
app_points(struct app *a, const struct vpg_found *f, const char *from,
           const char *to, cJSON **out_list, struct err *err)
{
    int64_t now = when_now_ms(), first = 0, last = 0, ignored;
    struct buf path;
    int rc = 0;

    if (from)
        rc = when_parse_span(from, now, &first, &ignored, err);
    if (rc == 0 && to)
        rc = when_parse_span(to, now, &ignored, &last, err);
    if (rc < 0)
        return rc;
    vpg_path(f, "/checkpoints", &path);
    if (from)
        add_time(&path, "startDate", first);
    if (to)
        add_time(&path, "endDate", last);
    rc = app_get(a, f->client, (const char *)path.data, out_list, err);
    buf_release(&path);
    return rc;
}

static int
take_point(const cJSON *point, struct point_found *out, struct err *err)
{
    const char *id = member(point, "CheckpointIdentifier"),
               *stamp = member(point, "TimeStamp");

    if (!id[0] || strlen(id) >= sizeof out->id)
        return err_set(err, -EBADMSG, ERR_CLI_0005,
                       "a point in the manager's list has no number");
    (void)snprintf(out->id, sizeof out->id, "%s", id);
    (void)text_safe(out->stamp, sizeof out->stamp, stamp, strlen(stamp));
    return 0;
}

static int
point_by_name(const struct vpg_found *f, const cJSON *list, const char *name,
              struct point_found *out, struct err *err)
{
    const cJSON *p, *found = NULL;

    cJSON_ArrayForEach (p, list) {
        if (strcmp(member(p, "Tag"), name) != 0)
            continue;
        if (found)
            return err_set(err, -EEXIST, ERR_CLI_0011,
                           "%s has several points named \"%s\", among them "
                           "%.20s and %.20s",
                           f->name, name, member(found, "CheckpointIdentifier"),
                           member(p, "CheckpointIdentifier"));
        found = p;
    }
    if (!found)
        return err_set(err, -ENOENT, ERR_CLI_0010,
                       "%s has no point named \"%s\"", f->name, name);
    return take_point(found, out, err);
}

/* The newest of the list that is not after ms; ms < 0: the oldest of all. */
static int
point_by_time(const struct vpg_found *f, const cJSON *list, int64_t ms,
              struct point_found *out, struct err *err)
{
    const cJSON *p, *found = NULL;
    int64_t best = 0;
    char iso[WHEN_SIZE];

    cJSON_ArrayForEach (p, list) {
        int64_t t;

        if (when_parse(member(p, "TimeStamp"), 0, &t, NULL) < 0)
            continue;
        if (ms < 0 ? (!found || t < best) : (t <= ms && (!found || t >= best))) {
            found = p;
            best = t;
        }
    }
    if (!found)
        return err_set(err, -ENOENT, ERR_CLI_0010, "%s has no point%s%s%s",
                       f->name, ms < 0 ? "" : " at or before ",
                       ms < 0 ? "" : when_iso(ms, iso),
                       ms < 0
                           ? ""
                           : "; a name goes in quotes of its own, as in '\"11:30\"'");
    return take_point(found, out, err);
}

int
app_point(struct app *a, const struct vpg_found *f, const char *text,
          struct point_found *out, struct err *err)
{
    struct point_spec spec;
    cJSON *list = NULL;
    char iso[WHEN_SIZE];
    int rc = point_parse(text ? text : "latest", when_now_ms(), &spec, err);

    *out = (struct point_found){ .id = "" };
    if (rc < 0 || spec.kind == POINT_LATEST)
        return rc;
    if (spec.kind == POINT_NUMBER) {
        (void)snprintf(out->id, sizeof out->id, "%.24s", spec.text);
        return 0;
    }
    rc = app_points(a, f, NULL,
                    spec.kind == POINT_TIME ? when_iso(spec.ms, iso) : NULL,
                    &list, err);
    if (rc < 0)
        return rc;
    rc = spec.kind == POINT_NAME
             ? point_by_name(f, list, spec.text, out, err)
             : point_by_time(f, list, spec.kind == POINT_TIME ? spec.ms : -1,
                             out, err);
    cJSON_Delete(list);
    return rc;
}

void
app_tell_point(struct app *a, const struct vpg_found *f, const char *view,
               const struct point_found *asked)
{
    struct point_found p = *asked;
    cJSON *list = NULL;
    struct buf path;
    const cJSON *v;

    vpg_path(f, "/views", &path);
    (void)app_get(a, f->client, (const char *)path.data, &list, NULL);
    buf_release(&path);
    cJSON_ArrayForEach (v, list) {
        if (view ? text_icmp(member(v, "ViewIdentifier"), view) == 0
                 : text_icmp(member(v, "Mode"), "Test") == 0)
            (void)take_point(v, &p, NULL);
    }
    cJSON_Delete(list);
    if (p.id[0])
        (void)fprintf(stderr, "point %s%s%s\n", p.id, p.stamp[0] ? " of " : "",
                      p.stamp);
}
