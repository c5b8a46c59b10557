/* One run of the command line: what was asked for, which sites there are, the
 * connections that are open, and the steps that commands share.  Handlers
 * return 0, an exit status above 0 that they have explained themselves, or a
 * negative errno with the sentence in *err. */
#ifndef HOLDFAST_TUI_CLI_APP_H
#define HOLDFAST_TUI_CLI_APP_H

#include "tui/cli/options.h"
#include "tui/cli/output.h"
#include "tui/client/client.h"
#include "tui/client/model.h"
#include "tui/client/sites.h"
#include "tui/client/when.h"

enum cli_exit {
    EXIT_DONE = 0,
    EXIT_FAILED = 1,
    EXIT_USAGE = 2,
    EXIT_NO_CONTACT = 3,
    EXIT_STALE = 4,
    EXIT_NO_PRIVILEGE = 5,
    EXIT_NOT_CONFIRMED = 6
};

struct command;

struct app {
    struct options opt;
    const struct command *command;
    struct sites sites;
    bool sites_loaded;
    struct client_ui ui;
    struct client **clients; /* one a site, NULL: not open */
    struct client *last;     /* the one that spoke last */
};

struct command {
    const char *name, *alias;
    const char *args; /* for help: "VPG [--point POINT]" */
    const char *help;
    unsigned groups;          /* of enum option_group */
    unsigned min, max;        /* words after the name */
    const struct table *rows; /* what --filter and the rest work on */
    int (*run)(struct app *a, struct err *err);
};
extern const struct command commands[];
extern const size_t n_commands;
const struct command *command_find(const char *name);

/* The n-th word after the command's name; NULL when there is none. */
const char *app_arg(const struct app *a, size_t n);
int app_load_sites(struct app *a, struct err *err);
void app_release(struct app *a);
enum cli_exit app_exit_of(const struct err *err);
/* Tell on standard error why it did not work. */
void app_explain(const struct app *a, const struct err *err);

/* The manager to ask: of --ctx, else of the first site that answers. */
int app_client(struct app *a, struct client **out_client, struct err *err);
/* Identifiers may be cut, but not to less than this. */
enum {
    ID_PREFIX_MIN = 4
};
bool app_names_id(const char *text, const char *id);
/* CLI-0010: "there is no view ..." */
int app_no_such_id(const char *what, const char *text, struct err *err);

/* The i-th site's, whatever --ctx says. */
int app_client_at(struct app *a, size_t i, struct client **out_client,
                  struct err *err);
int app_get(struct app *a, struct client *c, const char *path,
            cJSON **out_answer, struct err *err);

/* A VPG by name or identifier, at the site of --ctx or the first that knows
 * it.  The caller deletes *out_vpg and *out_facts. */
struct vpg_found {
    struct client *client;
    cJSON *list;      /* its tree */
    const cJSON *vpg; /* in list */
    const char *id, *name, *protected, *recovery;
    int64_t stale_ms; /* -1: fresh */
};
int app_find_vpg(struct app *a, const char *name, struct vpg_found *out,
                 struct err *err);
void vpg_found_release(struct vpg_found *f);
/* CLI-0012 when what is known of it is stale. */
int vpg_found_fresh(const struct vpg_found *f, struct err *err);
/* "/v1/vpgs/<id>" and more. */
void vpg_path(const struct vpg_found *f, const char *more, struct buf *out);

/* Rows of the command's table, printed. */
int app_print(struct app *a, struct client *c, struct rows *r, long text_limit,
              struct err *err);

/* Views, whose NBD addresses must not be cut: text with a field a line. */
int app_print_views(struct app *a, struct client *c, struct rows *r,
                    struct err *err);

/* Confirmation as reference console.md section 4 says.  name: what must be
 * typed or given with --confirm; word: accepted instead, may be NULL.  what:
 * one or more lines that say what will happen. */
int app_confirm(struct app *a, const char *what, const char *name,
                const char *word, struct err *err);

/* Start a task and, unless --no-wait, follow it to its end; then print its row
 * (text: only when not waited for or --output says so).  out_id: its
 * identifier, may be NULL. */
enum {
    TASK_ID_TEXT = 160
};
int app_task(struct app *a, struct client *c, const char *method,
             const char *path, const struct buf *body, const char *what,
             char out_id[TASK_ID_TEXT], struct err *err);
/* A task as a row of another table. */
int app_print_as(struct app *a, struct client *c, const char *id,
                 const struct table *table,
                 void (*model)(const struct model *m, struct rows *out),
                 struct err *err);
int
app_print_task(struct app *a, struct client *c, const char *id, struct err *err);

/* Which point is meant. */
struct point_found {
    char id[64];    /* its number; "": the latest, whichever that will be */
    char stamp[40]; /* its time in full, where the manager was asked */
};
int app_point(struct app *a, const struct vpg_found *f, const char *text,
              struct point_found *out, struct err *err);
/* To the operator: the number and full time of the point that this view, or
 * with NULL the VPG's test, has open; what was asked for when no view tells. */
void app_tell_point(struct app *a, const struct vpg_found *f, const char *view,
                    const struct point_found *asked);
int app_points(struct app *a, const struct vpg_found *f, const char *from,
               const char *to, cJSON **out_list, struct err *err);

/* Handlers in cmd_*.c. */
int cmd_help(struct app *a, struct err *err);
int cmd_completion(struct app *a, struct err *err);
int cmd_login(struct app *a, struct err *err);
int cmd_logout(struct app *a, struct err *err);
int cmd_password(struct app *a, struct err *err);
int cmd_dashboard(struct app *a, struct err *err);
int cmd_localsite(struct app *a, struct err *err);
int cmd_sites(struct app *a, struct err *err);
int cmd_vras(struct app *a, struct err *err);
int cmd_vms(struct app *a, struct err *err);
int cmd_vpgs(struct app *a, struct err *err);
int cmd_vpg(struct app *a, struct err *err);
int cmd_points(struct app *a, struct err *err);
int cmd_tasks(struct app *a, struct err *err);
int cmd_task(struct app *a, struct err *err);
int cmd_events(struct app *a, struct err *err);
int cmd_alerts(struct app *a, struct err *err);
int cmd_volumes(struct app *a, struct err *err);
int cmd_storage(struct app *a, struct err *err);
int cmd_views(struct app *a, struct err *err);
int cmd_test(struct app *a, struct err *err);
int cmd_stop(struct app *a, struct err *err);
int cmd_point(struct app *a, struct err *err);
int cmd_overwrite(struct app *a, struct err *err);
int cmd_pause(struct app *a, struct err *err);
int cmd_resume(struct app *a, struct err *err);
int cmd_sync(struct app *a, struct err *err);
int cmd_scrub(struct app *a, struct err *err);
int cmd_view(struct app *a, struct err *err);
int cmd_unview(struct app *a, struct err *err);
int cmd_create(struct app *a, struct err *err);
int cmd_delete(struct app *a, struct err *err);
int cmd_pair(struct app *a, struct err *err);
int cmd_unpair(struct app *a, struct err *err);
int cmd_token(struct app *a, struct err *err);
void help_overview(struct buf *out);

#endif
