/* The table of commands, and what is printed from it. */
#include <stdio.h>
#include <string.h>

#include "common/bytes.h"
#include "tui/cli/app.h"

/* clang-format off */
const struct command commands[] = {
    { "dashboard", NULL, "", "the site, its VPGs, alerts and links on one page",
      0, 0, 0, NULL, cmd_dashboard },
    { "vpgs", NULL, "", "the VPGs: where to, how far behind",
      G_LIST, 0, 0, &table_vpgs, cmd_vpgs },
    { "vpg", NULL, "VPG", "one VPG with every figure",
      G_LIST, 1, 1, &table_vpgs, cmd_vpg },
    { "points", NULL, "VPG", "the points in time it can be recovered to",
      G_LIST | G_RANGE, 1, 1, &table_points, cmd_points },
    { "point", NULL, "VPG NAME", "make a named point now",
      G_ACT | G_LIST, 2, 2, &table_tasks, cmd_point },
    { "test", NULL, "VPG", "open its disks at a point while replication goes on",
      G_ACT | G_LIST | G_CONFIRM | G_POINT | G_VMS, 1, 1, &table_tasks, cmd_test },
    { "stop", NULL, "VPG", "end its test and discard what the test wrote",
      G_ACT | G_LIST | G_CONFIRM | G_STOP, 1, 1, &table_tasks, cmd_stop },
    { "views", NULL, "VPG", "its disks that are open at a point, with their NBD addresses",
      G_LIST, 1, 1, &table_views, cmd_views },
    { "view", NULL, "VPG", "open its disks at a point, to look inside",
      G_ACT | G_LIST | G_POINT | G_AT | G_VMS, 1, 1, &table_views, cmd_view },
    { "unview", NULL, "VPG VIEW", "close a view; 4 characters of its identifier are enough",
      G_ACT | G_LIST, 2, 2, &table_tasks, cmd_unview },
    { "pause", NULL, "VPG", "stop its replication",
      G_ACT | G_LIST | G_CONFIRM, 1, 1, &table_tasks, cmd_pause },
    { "resume", NULL, "VPG", "go on with its replication",
      G_ACT | G_LIST, 1, 1, &table_tasks, cmd_resume },
    { "sync", NULL, "VPG", "compare both sides and send what differs",
      G_ACT | G_LIST | G_CONFIRM, 1, 1, &table_tasks, cmd_sync },
    { "scrub", NULL, "VPG", "read and verify its journal at the recovery site",
      G_ACT | G_LIST, 1, 1, &table_scrub, cmd_scrub },
    { "overwrite", NULL, "VPG", "give up its points when its journal is too small to go on",
      G_ACT | G_LIST | G_CONFIRM, 1, 1, &table_tasks, cmd_overwrite },
    { "create", NULL, "VPG", "protect VMs",
      G_ACT | G_LIST | G_CREATE | G_VMS, 1, 1, &table_tasks, cmd_create },
    { "delete", NULL, "VPG", "end its protection and remove its history",
      G_ACT | G_LIST | G_CONFIRM | G_DELETE, 1, 1, &table_tasks, cmd_delete },
    { "tasks", NULL, "", "what runs and has run",
      G_LIST | G_RANGE, 0, 0, &table_tasks, cmd_tasks },
    { "task", NULL, "TASK", "one task; 4 characters of its identifier are enough",
      G_LIST, 1, 1, &table_tasks, cmd_task },
    { "events", NULL, "", "what has happened",
      G_LIST | G_RANGE, 0, 0, &table_events, cmd_events },
    { "alerts", NULL, "", "what needs a person",
      G_LIST, 0, 0, &table_alerts, cmd_alerts },
    { "vms", NULL, "", "the VMs, protected or not",
      G_LIST, 0, 0, &table_vms, cmd_vms },
    { "volumes", NULL, "", "the disks",
      G_LIST, 0, 0, &table_volumes, cmd_volumes },
    { "storage", NULL, "", "the stores for journals and replicas",
      G_LIST, 0, 0, &table_stores, cmd_storage },
    { "vras", "agents", "", "the host agents of the site",
      G_LIST, 0, 0, &table_vras, cmd_vras },
    { "sites", NULL, "", "this site and the paired ones, with their links",
      G_LIST, 0, 0, &table_sites, cmd_sites },
    { "localsite", NULL, "", "the site that answers",
      G_LIST, 0, 0, &table_local, cmd_localsite },
    { "pair", NULL, "token | accept", "token: print a pairing token; accept: use one of the other site",
      G_ACT | G_LIST | G_PAIR, 1, 1, &table_tasks, cmd_pair },
    { "unpair", NULL, "SITE", "end the pairing with a site",
      G_ACT | G_LIST | G_CONFIRM, 1, 1, &table_tasks, cmd_unpair },
    { "token", NULL, "NAME", "print a token with which holdfastd join enrols a replicator",
      G_TOKEN, 1, 1, NULL, cmd_token },
    { "login", NULL, "", "make a session and keep it",
      0, 0, 0, NULL, cmd_login },
    { "logout", NULL, "", "end the session",
      0, 0, 0, NULL, cmd_logout },
    { "password", NULL, "", "change your password; your other sessions end",
      G_PASSWORD, 0, 0, NULL, cmd_password },
    { "completion", NULL, "", "print completion for bash: eval \"$(holdfast completion)\"",
      0, 0, 0, NULL, cmd_completion },
    { "help", NULL, "[COMMAND]", "this text, or help on a command",
      0, 0, 1, NULL, cmd_help },
};
/* clang-format on */
const size_t n_commands = ARRAY_SIZE(commands);

const struct command *
command_find(const char *name)
{
    for (size_t i = 0; i < n_commands; i++) {
        if (strcmp(commands[i].name, name) == 0 ||
            (commands[i].alias && strcmp(commands[i].alias, name) == 0))
            return &commands[i];
    }
    return NULL;
}

void
help_overview(struct buf *out)
{
    char left[64];

    (void)buf_addf(out, "usage: holdfast [COMMAND] [WORD...] [--OPTION...]\n\n");
    for (size_t i = 0; i < n_commands; i++) {
        const struct command *c = &commands[i];

        (void)snprintf(left, sizeof left, "%s%s%s%s%s", c->name,
                       c->alias ? ", " : "", c->alias ? c->alias : "",
                       c->args[0] ? " " : "", c->args);
        (void)buf_addf(out, "  %-22s %s\n", left, c->help);
    }
    (void)buf_addf(out, "\nOptions of every command:\n");
    options_help(G_ALL, out);
    (void)buf_addf(
        out,
        "\nholdfast COMMAND --help lists the others.  Exit status: 0 done, 1 refused or\n"
        "failed, 2 usage, 3 no contact, 4 stale data, 5 no privilege, 6 not confirmed.\n");
}

static void
help_command(const struct command *c, struct buf *out)
{
    (void)buf_addf(out, "usage: holdfast %s%s%s [--OPTION...]\n\n%s\n", c->name,
                   c->args[0] ? " " : "", c->args, c->help);
    if (c->alias)
        (void)buf_addf(out, "Also: holdfast %s\n", c->alias);
    (void)buf_addf(out, "\nOptions:\n");
    options_help(c->groups | G_ALL, out);
    if (!c->rows)
        return;
    (void)buf_addf(out,
                   "\nFields for --filter, --sort, --columns, and keys of JSON:\n ");
    for (size_t i = 0; i < c->rows->n_columns; i++)
        (void)buf_addf(out, "%s%s", i && i % 9 == 0 ? "\n  " : " ",
                       c->rows->columns[i].field);
    (void)buf_addf(out, "\n");
}

static int
print(const struct buf *b, struct err *err)
{
    return output_write(b, err);
}

int
cmd_help(struct app *a, struct err *err)
{
    const char *name = app_arg(a, 0);
    const struct command *c = a->command;
    struct buf b;
    int rc;

    if (c->run == cmd_help && name) {
        c = command_find(name);
        if (!c)
            return err_set(err, -EINVAL, ERR_CLI_0014,
                           "there is no command \"%.60s\"", name);
    }
    buf_init(&b, OUTPUT_MAX);
    if (c->run == cmd_help)
        help_overview(&b);
    else
        help_command(c, &b);
    rc = print(&b, err);
    buf_release(&b);
    return rc;
}

int
cmd_completion(struct app *a, struct err *err)
{
    struct buf b;
    int rc;

    UNUSED(a);
    buf_init(&b, OUTPUT_MAX);
    (void)buf_addf(&b, "_holdfast() {\n    local word=${COMP_WORDS[COMP_CWORD]}\n"
                       "    if [ \"$COMP_CWORD\" -eq 1 ]; then\n"
                       "        COMPREPLY=($(compgen -W '");
    for (size_t i = 0; i < n_commands; i++)
        (void)buf_addf(&b, "%s ", commands[i].name);
    (void)buf_addf(&b, "' -- \"$word\"))\n        return\n    fi\n"
                       "    case ${COMP_WORDS[1]} in\n");
    for (size_t i = 0; i < n_commands; i++) {
        const struct command *c = &commands[i];

        (void)buf_addf(&b, "    %s%s%s) COMPREPLY=($(compgen -W '", c->name,
                       c->alias ? "|" : "", c->alias ? c->alias : "");
        for (size_t k = 0; k < n_option_defs; k++) {
            if (option_defs[k].groups & (c->groups | G_ALL))
                (void)buf_addf(&b, "--%s ", option_defs[k].name);
        }
        (void)buf_addf(&b, "' -- \"$word\")) ;;\n");
    }
    (void)buf_addf(&b,
                   "    esac\n}\ncomplete -o default -F _holdfast holdfast\n");
    rc = print(&b, err);
    buf_release(&b);
    return rc;
}
