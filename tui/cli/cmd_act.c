/* Commands that act on a VPG: find it, see that what is known of it is fresh,
 * confirm, start the task, follow it, print it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/text.h"
#include "tui/cli/app.h"

#define SCRUB_WAIT_MS (7ull * 86400 * 1000)

struct act {
    const char *method, *path; /* below /v1/vpgs/<id> */
    const char *what;          /* "Test of" */
    const char *word;          /* to be typed; NULL: nothing is asked */
    bool by_name;              /* the name itself must be typed */
    const char *happens;       /* what will happen */
};

static int
confirm(struct app *a, const struct act *x, const struct vpg_found *f,
        const char *point, struct err *err)
{
    char what[1024];

    if (!x->word && !x->by_name)
        return 0;
    if (!a->opt.force && vpg_found_fresh(f, err) < 0)
        return -ESTALE;
    (void)snprintf(what, sizeof what, "%s %s, %s -> %s%s%s: %s.", x->what,
                   f->name, f->protected, f->recovery, point ? ", point " : "",
                   point ? point : "", x->happens);
    return app_confirm(a, what, f->name, x->by_name ? NULL : x->word, err);
}

/* body may be NULL. */
static int
act(struct app *a, const struct act *x, const struct vpg_found *f,
    const struct buf *body, char out_id[TASK_ID_TEXT], struct err *err)
{
    char what[160];
    struct buf path;
    int rc;

    (void)snprintf(what, sizeof what, "%s %.100s", x->what, f->name);
    vpg_path(f, x->path, &path);
    rc = app_task(a, f->client, x->method, (const char *)path.data, body, what,
                  out_id, err);
    buf_release(&path);
    return rc;
}

/* For actions without a body. */
static int
simple(struct app *a, const struct act *x, const struct buf *body,
       struct err *err)
{
    struct vpg_found f = { .client = NULL };
    char id[TASK_ID_TEXT];
    int rc = app_find_vpg(a, app_arg(a, 0), &f, err);

    if (rc == 0)
        rc = confirm(a, x, &f, NULL, err);
    if (rc == 0)
        rc = act(a, x, &f, body, id, err);
    if (rc == 0)
        rc = app_print_task(a, f.client, id, err);
    vpg_found_release(&f);
    return rc;
}

int
cmd_pause(struct app *a, struct err *err)
{
    static const struct act x = {
        .method = "POST",
        .path = "/pause",
        .what = "Pause",
        .word = "PAUSE",
        .happens = "no new points are made until it is resumed, and then "
                   "everything is compared",
    };

    return simple(a, &x, NULL, err);
}

int
cmd_resume(struct app *a, struct err *err)
{
    static const struct act x = { .method = "POST",
                                  .path = "/resume",
                                  .what = "Resume" };

    return simple(a, &x, NULL, err);
}

int
cmd_sync(struct app *a, struct err *err)
{
    static const struct act x = {
        .method = "POST",
        .path = "/forcesync",
        .what = "Force sync of",
        .word = "SYNC",
        .happens = "both sides are compared; no new points until that has "
                   "ended, earlier ones stay",
    };

    return simple(a, &x, NULL, err);
}

/* What it found is printed, also when that is damage. */
int
cmd_scrub(struct app *a, struct err *err)
{
    static const struct act x = { .method = "POST",
                                  .path = "/scrub",
                                  .what = "Scrub of" };
    struct vpg_found f = { .client = NULL };
    char id[TASK_ID_TEXT] = "";
    int rc = app_find_vpg(a, app_arg(a, 0), &f, err), printed;

    if (!a->opt.timeout) /* it reads all there is */
        a->opt.timeout_ms = SCRUB_WAIT_MS;
    if (rc == 0)
        rc = act(a, &x, &f, NULL, id, err);
    if (rc == 0 || (id[0] && err->code == ERR_CLI_0016)) {
        printed = app_print_as(a, f.client, id, &table_scrub, model_scrub,
                               rc == 0 ? err : NULL);
        rc = rc < 0 ? rc : printed;
    }
    vpg_found_release(&f);
    return rc;
}

int
cmd_overwrite(struct app *a, struct err *err)
{
    static const struct act x = {
        .method = "POST",
        .path = "/overwrite",
        .what = "Overwrite the replica of",
        .by_name = true,
        .happens = "every point it can be recovered to now is given up, and "
                   "nothing can be recovered until the next one; raising the "
                   "limit of its journal keeps them",
    };

    return simple(a, &x, NULL, err);
}

int
cmd_delete(struct app *a, struct err *err)
{
    static const struct act x = {
        .method = "DELETE",
        .path = "",
        .what = "Delete",
        .by_name = true,
        .happens = "its protection ends and every point of its history is "
                   "lost; its disks at the protected site stay as they are",
    };
    struct json_writer w;
    struct buf body;
    int rc;

    buf_init(&body, 256);
    json_begin(&w, &body);
    json_open_obj(&w, NULL);
    json_put_bool(&w, "KeepRecoveryVolumes", a->opt.keep_replicas);
    json_put_bool(&w, "Force", a->opt.force);
    json_close_obj(&w);
    rc = simple(a, &x, &body, err);
    buf_release(&body);
    return rc;
}

int
cmd_stop(struct app *a, struct err *err)
{
    static const struct act x = {
        .method = "POST",
        .path = "/FailoverTestStop",
        .what = "Stop the test of",
        .word = "STOP",
        .happens = "its test disks are closed and what was written to them is "
                   "discarded",
    };
    struct json_writer w;
    struct buf body;
    int rc;

    buf_init(&body, (size_t)64 * 1024);
    json_begin(&w, &body);
    json_open_obj(&w, NULL);
    json_put_bool(&w, "FailoverTestSuccess", !a->opt.failed);
    json_put_str(&w, "FailoverTestSummary", a->opt.notes ? a->opt.notes : "");
    json_close_obj(&w);
    rc = simple(a, &x, &body, err);
    buf_release(&body);
    return rc;
}

/* The name means something else to --point, unless it is in quotes. */
static void
say_quoted(const char *name)
{
    char shown[4 * POINT_TEXT_SIZE];

    (void)text_safe(shown, sizeof shown, name, strlen(name));
    (void)fprintf(stderr,
                  "%s by itself means something else to --point; name this "
                  "point in quotes of its own: --point '\"%s\"'\n",
                  shown, shown);
}

int
cmd_point(struct app *a, struct err *err)
{
    static const struct act x = { .method = "POST",
                                  .path = "/checkpoints",
                                  .what = "Point of" };
    const char *name = app_arg(a, 1);
    struct point_spec spec;
    struct json_writer w;
    struct buf body;
    int rc;

    buf_init(&body, (size_t)64 * 1024);
    json_begin(&w, &body);
    json_open_obj(&w, NULL);
    json_put_str(&w, "CheckpointName", name);
    json_close_obj(&w);
    rc = simple(a, &x, &body, err);
    buf_release(&body);
    if (rc == 0 && point_parse(name, when_now_ms(), &spec, NULL) == 0 &&
        (spec.kind != POINT_NAME || strcmp(spec.text, name) != 0))
        say_quoted(name);
    return rc;
}

/* ---- Disks at a point ------------------------------------------------------------------- */

static const char *
member(const cJSON *obj, const char *name)
{
    const cJSON *v = json_get(obj, name);

    return cJSON_IsString(v) ? v->valuestring : "";
}

static int
put_vm(const cJSON *vms, const struct vpg_found *f, const char *name,
       struct json_writer *w, struct err *err)
{
    const cJSON *v;

    cJSON_ArrayForEach (v, vms) {
        if (text_icmp(member(v, "VpgIdentifier"), f->id) == 0 &&
            (strcmp(member(v, "VmName"), name) == 0 ||
             text_icmp(member(v, "VmIdentifier"), name) == 0)) {
            json_put_str(w, NULL, member(v, "VmIdentifier"));
            return 0;
        }
    }
    return err_set(err, -ENOENT, ERR_CLI_0010, "%s has no VM \"%.80s\"",
                   f->name, name);
}

/* A refused number may have been meant as a name. */
static void
hint_number(const char *asked, const struct err *err)
{
    if (asked && asked[0] && !asked[strspn(asked, "0123456789")] &&
        (err->code == ERR_CLI_0007 || err->code == ERR_CLI_0016))
        (void)fprintf(stderr,
                      "a point that is named %s is told from the number by "
                      "quotes of its own: --point '\"%s\"'\n",
                      asked, asked);
}

/* {CheckpointIdentifier or TimeStamp, VmIdentifiers} */
static int
point_body(struct app *a, const struct vpg_found *f, const char *point,
           struct buf *out, struct err *err)
{
    struct json_writer w;
    cJSON *vms = NULL;
    int rc = 0;

    buf_init(out, (size_t)256 * 1024);
    if (a->opt.vm.n)
        rc = app_get(a, f->client, "/v1/vms", &vms, err);
    json_begin(&w, out);
    json_open_obj(&w, NULL);
    if (point[0])
        json_put_str(&w, "CheckpointIdentifier", point);
    if (a->opt.damaged)
        json_put_bool(&w, "AllowDamaged", true);
    json_open_array(&w, "VmIdentifiers");
    for (size_t i = 0; i < a->opt.vm.n && rc == 0; i++)
        rc = put_vm(vms, f, a->opt.vm.v[i], &w, err);
    json_close_array(&w);
    json_close_obj(&w);
    cJSON_Delete(vms);
    return rc;
}

int
cmd_test(struct app *a, struct err *err)
{
    static const struct act x = {
        .method = "POST",
        .path = "/FailoverTest",
        .what = "Test of",
        .word = "TEST",
        .happens = "its disks open at that point for a test; replication goes "
                   "on, and what the test writes is discarded by stop",
    };
    struct vpg_found f = { .client = NULL };
    char id[TASK_ID_TEXT], shown[128];
    struct point_found point;
    struct buf body;
    int rc = app_find_vpg(a, app_arg(a, 0), &f, err);

    buf_init(&body, 0);
    if (rc == 0)
        rc = vpg_found_fresh(&f, err);
    if (rc == 0)
        rc = app_point(a, &f, a->opt.point, &point, err);
    if (rc == 0) {
        (void)snprintf(shown, sizeof shown, "%s%s%s",
                       point.id[0] ? point.id : "latest",
                       point.stamp[0] ? " of " : "", point.stamp);
        rc = confirm(a, &x, &f, shown, err);
    }
    if (rc == 0)
        rc = point_body(a, &f, point.id, &body, err);
    if (rc == 0) {
        rc = act(a, &x, &f, &body, id, err);
        if (rc < 0)
            hint_number(a->opt.point, err);
    }
    if (rc == 0 && !a->opt.no_wait)
        app_tell_point(a, &f, NULL, &point);
    if (rc == 0)
        rc = app_print_task(a, f.client, id, err);
    if (rc == 0 && a->opt.out == OUT_TEXT)
        (void)fprintf(stderr,
                      "holdfast views %s shows its disks; holdfast "
                      "stop %s ends it\n",
                      app_arg(a, 0), app_arg(a, 0));
    buf_release(&body);
    vpg_found_release(&f);
    return rc;
}

/* The view has the identifier of the task that opened it. */
static int
print_view(struct app *a, const struct vpg_found *f, const char *task,
           struct err *err)
{
    struct model m = { .now_ms = when_now_ms() };
    cJSON *list = NULL, *ours = cJSON_CreateArray();
    size_t n = strcspn(task, ".");
    const cJSON *v;
    struct buf path;
    struct rows r;
    int rc;

    vpg_path(f, "/views", &path);
    rc = app_get(a, f->client, (const char *)path.data, &list, err);
    buf_release(&path);
    cJSON_ArrayForEach (v, list) {
        const char *id = member(v, "ViewIdentifier");

        if (strlen(id) == n && strncasecmp(id, task, n) == 0)
            (void)cJSON_AddItemToArray(ours, cJSON_Duplicate(v, true));
    }
    rows_init(&r, &table_views);
    if (rc == 0) {
        m.list = ours;
        model_views(&m, &r);
        rc = app_print_views(a, f->client, &r, err);
    }
    rows_release(&r);
    cJSON_Delete(ours);
    cJSON_Delete(list);
    return rc;
}

int
cmd_view(struct app *a, struct err *err)
{
    static const struct act x = { .method = "POST",
                                  .path = "/views",
                                  .what = "View of" };
    const char *at = a->opt.at;
    struct vpg_found f = { .client = NULL };
    char id[TASK_ID_TEXT], view[TASK_ID_TEXT];
    struct point_found point;
    struct buf body;
    int64_t ms;
    int rc;

    if (at && a->opt.point)
        return err_set(err, -EINVAL, ERR_CLI_0014,
                       "--at and --point exclude each other");
    rc = at ? when_parse(at, when_now_ms(), &ms, err) : 0;
    if (rc < 0)
        return rc;
    rc = app_find_vpg(a, app_arg(a, 0), &f, err);
    buf_init(&body, 0);
    if (rc == 0)
        rc = app_point(a, &f, at ? at : a->opt.point, &point, err);
    if (rc == 0)
        rc = point_body(a, &f, point.id, &body, err);
    if (rc == 0) {
        rc = act(a, &x, &f, &body, id, err);
        if (rc < 0)
            hint_number(a->opt.point, err);
    }
    if (rc == 0 && !a->opt.no_wait) {
        (void)snprintf(view, sizeof view, "%.*s", (int)strcspn(id, "."), id);
        app_tell_point(a, &f, view, &point);
        rc = print_view(a, &f, id, err);
    } else if (rc == 0) {
        (void)fprintf(stderr, "task %s\n", id);
    }
    buf_release(&body);
    vpg_found_release(&f);
    return rc;
}

static int
find_view(const cJSON *list, const char *text, char out[80], struct err *err)
{
    const cJSON *v;

    out[0] = '\0';
    cJSON_ArrayForEach (v, list) {
        const char *id = member(v, "ViewIdentifier");

        if (!app_names_id(text, id) || strlen(id) >= 80 || strcmp(id, out) == 0)
            continue;
        if (out[0])
            return err_set(err, -EEXIST, ERR_CLI_0011,
                           "several views begin with \"%.80s\", among them %s "
                           "and %s",
                           text, out, id);
        (void)snprintf(out, 80, "%s", id);
    }
    if (!out[0])
        return app_no_such_id("view", text, err);
    return 0;
}

int
cmd_unview(struct app *a, struct err *err)
{
    struct act x = { .method = "DELETE", .what = "Close view of" };
    struct vpg_found f = { .client = NULL };
    char view[80], id[TASK_ID_TEXT], more[256];
    struct buf path, escaped;
    cJSON *list = NULL;
    int rc = app_find_vpg(a, app_arg(a, 0), &f, err);

    if (rc == 0) {
        vpg_path(&f, "/views", &path);
        rc = app_get(a, f.client, (const char *)path.data, &list, err);
        buf_release(&path);
    }
    if (rc == 0)
        rc = find_view(list, app_arg(a, 1), view, err);
    if (rc == 0) {
        buf_init(&escaped, sizeof more - 16);
        url_escape(&escaped, view);
        (void)snprintf(more, sizeof more, "/views/%s", (char *)escaped.data);
        buf_release(&escaped);
        x.path = more;
        rc = act(a, &x, &f, NULL, id, err);
    }
    if (rc == 0)
        rc = app_print_task(a, f.client, id, err);
    cJSON_Delete(list);
    vpg_found_release(&f);
    return rc;
}
