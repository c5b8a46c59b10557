/* Commands that look: each asks for what its rows need, makes them, and prints
 * them.  Stale figures are shown with their mark and end with status 4. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/text.h"
#include "tui/cli/app.h"
#include "tui/cli/layout.h"

enum {
    POINTS_SHOWN = 40,
    TASKS_SHOWN = 40,
    EVENTS_SHOWN = 100
};

/* Answers held while rows are made from them. */
struct asked {
    struct client *client;
    cJSON *local, *peers, *vpgs, *vms, *inventory, *types, *list;
};

enum ask {
    ASK_LOCAL = 1,
    ASK_PEERS = 2,
    ASK_VPGS = 4,
    ASK_VMS = 8,
    ASK_INVENTORY = 16,
    ASK_EVENT_TYPES = 32
};

static void
asked_release(struct asked *q)
{
    cJSON_Delete(q->local);
    cJSON_Delete(q->peers);
    cJSON_Delete(q->vpgs);
    cJSON_Delete(q->vms);
    cJSON_Delete(q->inventory);
    cJSON_Delete(q->types);
    cJSON_Delete(q->list);
}

static const char *
member(const cJSON *obj, const char *name)
{
    const cJSON *v = json_get(obj, name);

    return cJSON_IsString(v) ? v->valuestring : "";
}

/* [{SiteName, Vms}] of every virtualization site. */
static int
ask_inventory(struct app *a, struct client *c, cJSON **out, struct err *err)
{
    cJSON *sites = NULL, *list = cJSON_CreateArray();
    const cJSON *site;
    int rc = app_get(a, c, "/v1/virtualizationsites", &sites, err);

    cJSON_ArrayForEach (site, sites) {
        cJSON *vms = NULL, *entry = cJSON_CreateObject();
        struct buf path;

        buf_init(&path, 1024);
        (void)buf_addf(&path, "/v1/virtualizationsites/");
        url_escape(&path, member(site, "SiteIdentifier"));
        (void)buf_addf(&path, "/vms");
        if (rc == 0)
            rc = app_get(a, c, (const char *)path.data, &vms, err);
        buf_release(&path);
        (void)cJSON_AddStringToObject(entry, "SiteName",
                                      member(site, "VirtualizationSiteName"));
        if (vms)
            (void)cJSON_AddItemToObject(entry, "Vms", vms);
        (void)cJSON_AddItemToArray(list, entry);
    }
    cJSON_Delete(sites);
    if (rc < 0)
        cJSON_Delete(list);
    else
        *out = list;
    return rc;
}

/* path NULL: none beside those that what names. */
static int
ask(struct app *a, unsigned what, const char *path, struct asked *q,
    struct err *err)
{
    const struct {
        enum ask bit;
        const char *path;
        cJSON **to;
    } parts[] = {
        { ASK_LOCAL, "/v1/localsite", &q->local },
        { ASK_PEERS, "/v1/peersites", &q->peers },
        { ASK_VPGS, "/v1/vpgs", &q->vpgs },
        { ASK_VMS, "/v1/vms", &q->vms },
        { ASK_EVENT_TYPES, "/v1/events/types", &q->types },
    };
    int rc = 0;

    if (!q->client)
        rc = app_client(a, &q->client, err);
    if (rc == 0 && path)
        rc = app_get(a, q->client, path, &q->list, err);
    for (size_t i = 0; i < ARRAY_SIZE(parts) && rc == 0; i++) {
        if (what & parts[i].bit)
            rc = app_get(a, q->client, parts[i].path, parts[i].to, err);
    }
    if (rc == 0 && what & ASK_INVENTORY)
        rc = ask_inventory(a, q->client, &q->inventory, err);
    return rc;
}

static struct model
model_of(const struct asked *q)
{
    return (struct model){
        .now_ms = when_now_ms(),
        .local = q->local,
        .peers = q->peers,
        .vpgs = q->vpgs,
        .vms = q->vms,
        .inventory = q->inventory,
        .events_types = q->types,
        .list = q->list,
    };
}

static int
stale_status(const struct rows *r)
{
    for (size_t i = 0; i < r->n; i++) {
        const struct cell *c = rows_field(r, i, "stale");

        if (c && c->kind == CELL_BOOL && c->number != 0) {
            (void)fprintf(stderr, "~ stale: the recovery site is silent; ask its "
                                  "manager with --ctx (CLI-0012)\n");
            return EXIT_STALE;
        }
    }
    return 0;
}

/* Ask, make rows, print. */
static int
show(struct app *a, unsigned what, const char *path,
     void (*make)(const struct model *m, struct rows *out), long text_limit,
     struct err *err)
{
    struct asked q = { .client = NULL };
    struct model m;
    struct rows r;
    int rc = ask(a, what, path, &q, err);

    rows_init(&r, a->command->rows);
    if (rc == 0) {
        m = model_of(&q);
        make(&m, &r);
        rc = app_print(a, q.client, &r, text_limit, err);
    }
    if (rc == 0)
        rc = stale_status(&r);
    rows_release(&r);
    asked_release(&q);
    return rc;
}

int
cmd_localsite(struct app *a, struct err *err)
{
    return show(a, ASK_LOCAL, NULL, model_local, 0, err);
}

int
cmd_sites(struct app *a, struct err *err)
{
    return show(a, ASK_LOCAL | ASK_PEERS | ASK_VPGS, NULL, model_sites, 0, err);
}

int
cmd_vras(struct app *a, struct err *err)
{
    return show(a, 0, "/v1/vras", model_vras, 0, err);
}

int
cmd_vms(struct app *a, struct err *err)
{
    return show(a, ASK_VMS | ASK_INVENTORY, NULL, model_vms, 0, err);
}

int
cmd_volumes(struct app *a, struct err *err)
{
    return show(a, ASK_VMS | ASK_INVENTORY, NULL, model_volumes, 0, err);
}

int
cmd_storage(struct app *a, struct err *err)
{
    return show(a, 0, "/v1/datastores", model_stores, 0, err);
}

int
cmd_vpgs(struct app *a, struct err *err)
{
    return show(a, ASK_LOCAL | ASK_PEERS | ASK_VPGS, NULL, model_vpgs, 0, err);
}

int
cmd_alerts(struct app *a, struct err *err)
{
    return show(a, ASK_VPGS, "/v1/alerts", model_alerts, 0, err);
}

/* "?startDate=...&endDate=..." as --from and --to say, the seconds that they
 * name included. */
static int
range_path(struct app *a, const char *base, const char *from_name,
           const char *to_name, struct buf *out, struct err *err)
{
    const struct {
        const char *name, *text;
    } ends[] = { { from_name, a->opt.from }, { to_name, a->opt.to } };
    char iso[WHEN_SIZE];
    int64_t span[2];
    int rc = 0;

    buf_init(out, 1024);
    (void)buf_addf(out, "%s", base);
    for (size_t i = 0; i < ARRAY_SIZE(ends) && rc == 0; i++) {
        if (!ends[i].text)
            continue;
        rc = when_parse_span(ends[i].text, when_now_ms(), &span[0], &span[1],
                             err);
        if (rc < 0)
            break;
        (void)buf_addf(out, "%c%s=", strchr((char *)out->data, '?') ? '&' : '?',
                       ends[i].name);
        url_escape(out, when_iso(span[i], iso));
    }
    return rc;
}

int
cmd_events(struct app *a, struct err *err)
{
    struct buf path;
    int rc = range_path(a, "/v1/events", "startDate", "endDate", &path, err);

    if (rc == 0)
        rc = show(a, ASK_EVENT_TYPES, (const char *)path.data, model_events,
                  EVENTS_SHOWN, err);
    buf_release(&path);
    return rc;
}

int
cmd_tasks(struct app *a, struct err *err)
{
    struct buf path;
    int rc = range_path(a, "/v1/tasks", "startedAfterDate", "startedBeforeDate",
                        &path, err);

    if (rc == 0)
        rc = show(a, ASK_VPGS, (const char *)path.data, model_tasks,
                  TASKS_SHOWN, err);
    buf_release(&path);
    return rc;
}

/* ---- One object ---------------------------------------------------------------------- */

int
cmd_vpg(struct app *a, struct err *err)
{
    struct vpg_found f = { .client = NULL };
    struct asked q = { .client = NULL };
    cJSON *one = cJSON_CreateArray();
    struct model m;
    struct rows r;
    int rc = app_find_vpg(a, app_arg(a, 0), &f, err);

    rows_init(&r, &table_vpgs);
    q.client = f.client;
    if (rc == 0)
        rc = ask(a, ASK_LOCAL | ASK_PEERS, NULL, &q, err);
    if (rc == 0) {
        (void)cJSON_AddItemToArray(one, cJSON_Duplicate(f.vpg, true));
        m = model_of(&q);
        m.vpgs = one;
        model_vpgs(&m, &r);
        a->opt.all = !a->opt.columns;
        rc = app_print(a, f.client, &r, 0, err);
    }
    if (rc == 0)
        rc = stale_status(&r);
    rows_release(&r);
    cJSON_Delete(one);
    asked_release(&q);
    vpg_found_release(&f);
    return rc;
}

/* The task whose identifier begins with text; two of them are too many. */
static int
find_task(cJSON *list, const char *text, const char **out_id, struct err *err)
{
    const cJSON *t;

    *out_id = NULL;
    cJSON_ArrayForEach (t, list) {
        const char *id = member(t, "TaskIdentifier");

        if (!app_names_id(text, id))
            continue;
        if (*out_id)
            return err_set(err, -EEXIST, ERR_CLI_0011,
                           "several tasks begin with \"%s\", among them %s and "
                           "%s",
                           text, *out_id, id);
        *out_id = id;
    }
    if (!*out_id)
        return app_no_such_id("task", text, err);
    return 0;
}

int
cmd_task(struct app *a, struct err *err)
{
    struct asked q = { .client = NULL };
    const char *id;
    int rc = ask(a, 0, "/v1/tasks", &q, err);

    if (rc == 0)
        rc = find_task(q.list, app_arg(a, 0), &id, err);
    if (rc == 0) {
        a->opt.all = !a->opt.columns;
        rc = app_print_task(a, q.client, id, err);
    }
    asked_release(&q);
    return rc;
}

int
cmd_points(struct app *a, struct err *err)
{
    struct vpg_found f = { .client = NULL };
    struct model m = { .now_ms = when_now_ms() };
    cJSON *list = NULL;
    struct rows r;
    int rc = app_find_vpg(a, app_arg(a, 0), &f, err);

    rows_init(&r, &table_points);
    if (rc == 0)
        rc = app_points(a, &f, a->opt.from, a->opt.to, &list, err);
    if (rc == 0) {
        m.list = list;
        model_points(&m, &r);
        rc = app_print(a, f.client, &r, POINTS_SHOWN, err);
    }
    rows_release(&r);
    cJSON_Delete(list);
    vpg_found_release(&f);
    return rc;
}

int
cmd_views(struct app *a, struct err *err)
{
    struct vpg_found f = { .client = NULL };
    struct model m = { .now_ms = when_now_ms() };
    cJSON *list = NULL;
    struct buf path;
    struct rows r;
    int rc = app_find_vpg(a, app_arg(a, 0), &f, err);

    rows_init(&r, &table_views);
    if (rc == 0) {
        vpg_path(&f, "/views", &path);
        rc = app_get(a, f.client, (const char *)path.data, &list, err);
        buf_release(&path);
    }
    if (rc == 0) {
        m.list = list;
        model_views(&m, &r);
        rc = app_print_views(a, f.client, &r, err);
    }
    rows_release(&r);
    cJSON_Delete(list);
    vpg_found_release(&f);
    return rc;
}

/* ---- Dashboard --------------------------------------------------------------------------- */

struct board {
    struct rows vpgs, sites, alerts;
    double vms, size, journal, worst_rpo;
    size_t errors, warnings;
};

static double
sum(const struct rows *r, const char *field)
{
    double total = 0;

    for (size_t i = 0; i < r->n; i++) {
        const struct cell *c = rows_field(r, i, field);

        total += c->kind == CELL_NUMBER ? c->number : 0;
    }
    return total;
}

static void
board_count(struct board *b)
{
    b->vms = sum(&b->vpgs, "vms");
    b->size = sum(&b->vpgs, "size");
    b->journal = sum(&b->vpgs, "journal");
    b->worst_rpo = -1;
    for (size_t i = 0; i < b->vpgs.n; i++) {
        const struct cell *c = rows_field(&b->vpgs, i, "rpo");

        if (c->kind == CELL_NUMBER)
            b->worst_rpo = MAX(b->worst_rpo, c->number);
    }
    for (size_t i = 0; i < b->alerts.n; i++) {
        double s = rows_field(&b->alerts, i, "severity")->number;

        b->errors += s >= SEV_CRITICAL;
        b->warnings += s >= SEV_WARNING && s < SEV_CRITICAL;
    }
}

static void
put_amount(struct buf *out, enum row_format format, double v)
{
    const struct column c = { .format = format };
    const struct cell cell = { .kind = v < 0 ? CELL_UNKNOWN : CELL_NUMBER,
                               .number = v };
    char text[CELL_TEXT_SIZE];

    cell_format(&c, &cell, text);
    (void)buf_addf(out, "%s", text);
}

/* "  397 Meeting SLA", one line a state, in the order they come. */
static void
put_states(const struct rows *vpgs, struct buf *out)
{
    for (size_t i = 0; i < vpgs->n; i++) {
        const struct cell *state = rows_field(vpgs, i, "state");
        double worst = SEV_GOOD;
        size_t n = 0, first = vpgs->n;

        for (size_t k = 0; k < vpgs->n; k++) {
            if (strcmp(rows_field(vpgs, k, "state")->text, state->text) != 0)
                continue;
            first = MIN(first, k);
            worst = MAX(worst, rows_field(vpgs, k, "severity")->number);
            n++;
        }
        if (first == i)
            (void)buf_addf(out, "%c%5zu  %s\n",
                           severity_sign((enum severity)worst), n, state->text);
    }
}

static void
put_table(struct rows *r, size_t width, long limit, struct buf *out)
{
    struct layout l;

    (void)rows_sort(r, r->table->sort ? r->table->sort : "name", NULL);
    if (limit)
        rows_cut(r, limit);
    layout_make(r, NULL, 0, width, &l);
    layout_print(r, &l, out);
}

enum {
    BOARD_ROWS = 8
};

static void
board_text(struct app *a, const char *site, struct board *b, struct buf *out)
{
    size_t width = output_width(&a->opt);
    struct buf head;

    buf_init(&head, (size_t)4 * CELL_TEXT_SIZE);
    (void)buf_addf(&head, "%s: VPGs %zu  VMs %.0f  protected ", site, b->vpgs.n,
                   b->vms);
    put_amount(&head, FMT_BYTES, b->size);
    (void)buf_addf(&head, "  journal ");
    put_amount(&head, FMT_BYTES, b->journal);
    (void)buf_addf(&head, "  worst RPO ");
    put_amount(&head, FMT_DURATION, b->worst_rpo);
    if (!head.failed)
        layout_wrap(out, (const char *)head.data, "  ", width);
    buf_release(&head);
    (void)buf_addf(out, "Alerts: %zu error, %zu warning\n\n", b->errors,
                   b->warnings);
    if (b->vpgs.n) {
        put_states(&b->vpgs, out);
        (void)buf_addf(out, "\n");
        put_table(&b->vpgs, width, BOARD_ROWS, out);
        (void)buf_addf(out, "\n");
    }
    put_table(&b->sites, width, 0, out);
    if (b->alerts.n) {
        (void)buf_addf(out, "\n");
        put_table(&b->alerts, width, BOARD_ROWS, out);
    }
}

static int
board_make(struct app *a, struct client *c, struct board *b, struct err *err)
{
    struct asked q = { .client = c };
    struct model m;
    int rc = ask(a, ASK_LOCAL | ASK_PEERS | ASK_VPGS, "/v1/alerts", &q, err);

    rows_init(&b->vpgs, &table_vpgs);
    rows_init(&b->sites, &table_sites);
    rows_init(&b->alerts, &table_alerts);
    if (rc == 0) {
        m = model_of(&q);
        model_vpgs(&m, &b->vpgs);
        model_sites(&m, &b->sites);
        model_alerts(&m, &b->alerts);
        if (b->vpgs.failed || b->sites.failed || b->alerts.failed)
            rc = err_set(err, -ENOMEM, ERR_GEN_0002, "dashboard: out of memory");
    }
    if (rc == 0)
        board_count(b);
    asked_release(&q);
    return rc;
}

static void
board_release(struct board *b)
{
    rows_release(&b->vpgs);
    rows_release(&b->sites);
    rows_release(&b->alerts);
}

/* In CSV and JSON the dashboard is one row of figures. */
static const struct column dashboard_columns[] = {
    { "name", "SITE", FMT_TEXT, 100, 12 },
    { "vpgs", "VPGS", FMT_COUNT, 90, 0 },
    { "vms", "VMS", FMT_COUNT, 80, 0 },
    { "not_ok", "NOT OK", FMT_COUNT, 99, 0 },
    { "worst_rpo", "WORST RPO", FMT_DURATION, 95, 0 },
    { "errors", "ERRORS", FMT_COUNT, 94, 0 },
    { "warnings", "WARNINGS", FMT_COUNT, 93, 0 },
    { "size", "PROTECTED", FMT_BYTES, 70, 0 },
    { "journal", "JOURNAL", FMT_BYTES, 60, 0 },
};
static const struct table table_dashboard = {
    .name = "dashboard",
    .columns = dashboard_columns,
    .n_columns = ARRAY_SIZE(dashboard_columns),
    .empty = "No site.",
};

static int
board_row(struct app *a, struct client *c, const struct board *b,
          struct err *err)
{
    struct rows r;
    size_t not_ok = 0;
    int rc;

    for (size_t i = 0; i < b->vpgs.n; i++)
        not_ok += rows_field(&b->vpgs, i, "severity")->number > SEV_PROGRESS;
    rows_init(&r, &table_dashboard);
    rows_add(&r);
    rows_set_text(&r, "name", client_site(c)->name);
    rows_set_number(&r, "vpgs", (double)b->vpgs.n);
    rows_set_number(&r, "vms", b->vms);
    rows_set_number(&r, "not_ok", (double)not_ok);
    if (b->worst_rpo >= 0)
        rows_set_number(&r, "worst_rpo", b->worst_rpo);
    rows_set_number(&r, "errors", (double)b->errors);
    rows_set_number(&r, "warnings", (double)b->warnings);
    rows_set_number(&r, "size", b->size);
    rows_set_number(&r, "journal", b->journal);
    rc = app_print(a, c, &r, 0, err);
    rows_release(&r);
    return rc;
}

int
cmd_dashboard(struct app *a, struct err *err)
{
    struct board b = { .errors = 0 };
    struct client *c;
    struct buf out;
    int rc = app_client(a, &c, err);

    if (rc < 0)
        return rc;
    buf_init(&out, OUTPUT_MAX);
    rc = board_make(a, c, &b, err);
    if (rc == 0 && a->opt.out != OUT_TEXT) {
        rc = board_row(a, c, &b, err);
    } else if (rc == 0) {
        board_text(a, client_site(c)->name, &b, &out);
        rc = output_write(&out, err);
    }
    if (rc == 0)
        rc = stale_status(&b.vpgs);
    board_release(&b);
    buf_release(&out);
    return rc;
}
