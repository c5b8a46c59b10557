/* holdfastd: options to commands.  docs/man/holdfastd.8 is the long form. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent_config.h"
#include "commands.h"
#include "common/bytes.h"
#include "common/jointoken.h"
#include "common/text.h"

#define DEFAULT_CONFIG "/etc/holdfast/holdfastd.conf"

/* Every option of every command; which are allowed where says the table. */
struct arguments {
    const char *config, *state, *site, *api, *user, *name, *valid, *token,
        *manager, *supervisor;
    bool check_config;
};

struct command {
    const char *name, *synopsis, *help;
    const char *options; /* allowed ones, blank-separated */
    int (*run)(const struct arguments *a, const char *operand);
};

static int
finish(int rc, const struct err *err)
{
    if (rc == 0 && fflush(stdout) == 0)
        return STATUS_DONE;
    if (rc == 0) {
        fprintf(stderr, "holdfastd: standard output: write failed\n");
        return STATUS_FAILED;
    }
    report_error(err);
    return err->code == ERR_CFG_0003 || err->code == ERR_CFG_0004
               ? STATUS_USAGE
               : status_of(err);
}

static int
need(const char *value, const char *option)
{
    if (value && value[0])
        return 0;
    fprintf(stderr, "holdfastd: --%s is needed; holdfastd --help\n", option);
    return -EINVAL;
}

static int
run_init(const struct arguments *a, const char *operand)
{
    const struct init_options o = { .state = a->state,
                                    .site = a->site,
                                    .api = a->api,
                                    .user = a->user ? a->user : "admin" };
    struct err err = ERR_INIT;
    int rc;

    UNUSED(operand);
    if (need(a->state, "state") < 0 || need(a->site, "site") < 0 ||
        need(a->api, "api") < 0)
        return STATUS_USAGE;
    rc = command_init(&o, &err);
    return finish(rc, &err);
}

static int
run_token(const struct arguments *a, const char *operand)
{
    struct token_options o = { .state = a->state,
                               .name = a->name,
                               .valid_s = JOINTOKEN_VALID_MAX_S };
    uint64_t ms = (uint64_t)JOINTOKEN_VALID_MAX_S * 1000;
    struct err err = ERR_INIT;
    int rc;

    UNUSED(operand);
    if (need(a->state, "state") < 0 || need(a->name, "name") < 0)
        return STATUS_USAGE;
    if (a->valid && (text_parse_duration(a->valid, &ms) < 0 || ms < 1000 ||
                     ms > (uint64_t)JOINTOKEN_VALID_MAX_S * 1000)) {
        fprintf(stderr,
                "holdfastd: --valid: \"%s\" is no duration from 1s to 15min\n",
                a->valid);
        return STATUS_USAGE;
    }
    o.valid_s = ms / 1000;
    rc = command_token(&o, &err);
    return finish(rc, &err);
}

static int
run_join(const struct arguments *a, const char *operand)
{
    const struct join_options o = { .state = a->state,
                                    .token_file = a->token,
                                    .manager = a->manager };
    struct err err = ERR_INIT;
    int rc;

    UNUSED(operand);
    if (need(a->state, "state") < 0 || need(a->token, "token") < 0 ||
        need(a->manager, "manager") < 0)
        return STATUS_USAGE;
    rc = command_join(&o, &err);
    return finish(rc, &err);
}

static int
run_renew(const struct arguments *a, const char *operand)
{
    struct err err = ERR_INIT;
    int rc;

    UNUSED(operand);
    if (need(a->state, "state") < 0)
        return STATUS_USAGE;
    rc = command_renew(a->state, &err);
    return finish(rc, &err);
}

static int
run_scrub(const struct arguments *a, const char *operand)
{
    struct err err = ERR_INIT;
    int rc;

    UNUSED(a);
    if (!operand) {
        fprintf(stderr, "holdfastd: scrub needs a journal's directory; "
                        "holdfastd --help\n");
        return STATUS_USAGE;
    }
    rc = command_scrub(operand, &err);
    return finish(rc, &err);
}

static int
run_reset(const struct arguments *a, const char *operand)
{
    const struct reset_options o = { .config =
                                         a->config ? a->config : DEFAULT_CONFIG,
                                     .user = a->user };
    struct err err = ERR_INIT;
    int rc;

    UNUSED(operand);
    rc = command_reset_password(&o, &err);
    return finish(rc, &err);
}

static int
check_config(const char *path)
{
    struct agent_config cfg;
    struct err err = ERR_INIT;
    struct buf text;
    int rc = agent_config_load(path, &cfg, &err);

    if (rc < 0) {
        report_error(&err);
        return STATUS_USAGE;
    }
    buf_init(&text, 64 * MIB);
    rc = agent_config_print(&cfg, &text);
    agent_config_release(&cfg);
    if (rc == 0)
        (void)fputs((const char *)text.data, stdout);
    else
        (void)err_set(&err, rc, ERR_GEN_0002, "configuration: out of memory");
    buf_release(&text);
    return finish(rc, &err);
}

static int
run_run(const struct arguments *a, const char *operand)
{
    const char *path = a->config ? a->config : DEFAULT_CONFIG;

    UNUSED(operand);
    return a->check_config ? check_config(path) : command_run(path);
}

static int
run_role(const struct arguments *a, const char *operand)
{
    uint64_t pid = 0;

    if (!operand || need(a->config, "config") < 0 ||
        need(a->supervisor, "supervisor") < 0 ||
        text_parse_u64(a->supervisor, 1, INT32_MAX, &pid) < 0)
        return STATUS_USAGE;
    return command_role(operand, a->config, (pid_t)pid);
}

static int
run_sample(const struct arguments *a, const char *operand)
{
    struct err err = ERR_INIT;
    struct buf text;
    int rc;

    UNUSED(a);
    UNUSED(operand);
    buf_init(&text, MIB);
    rc = agent_config_sample(&text);
    if (rc == 0)
        (void)fputs((const char *)text.data, stdout);
    else
        (void)err_set(&err, rc, ERR_GEN_0002, "sample: out of memory");
    buf_release(&text);
    return finish(rc, &err);
}

static const struct command commands[] = {
    { "init", "--state DIR --site NAME --api HOST:PORT[,HOST:PORT...]",
      "make a state directory, the site's CA and the first administrator,\n"
      "      whose password is printed once",
      "state site api user", run_init },
    { "token", "--state DIR --name NAME [--valid TIME]",
      "ask the running manager for a token by which the host NAME can join",
      "state name valid", run_token },
    { "join", "--state DIR --token FILE|- --manager HOST:PORT",
      "make this host a replicator of the manager's site",
      "state token manager", run_join },
    { "renew", "--state DIR",
      "have the running agent renew its certificates now, before their time",
      "state", run_renew },
    { "reset-password", "[--config FILE] [--user NAME]",
      "have the running manager set a new random password, which is printed\n"
      "      once",
      "config user", run_reset },
    { "scrub", "DIR",
      "read and verify the journal in DIR, which must not be in use", "",
      run_scrub },
    { "run", "[--config FILE] [--check-config]",
      "run the roles that the configuration names", "config check-config",
      run_run },
    { "sample-config", "",
      "print a configuration file with every option at its default", "",
      run_sample },
    /* Started by the supervisor only, so without synopsis. */
    { "role", NULL, NULL, "config supervisor", run_role },
};

static void
usage(FILE *to)
{
    fprintf(to, "holdfastd " HOLDFAST_VERSION
                ", the agent of Holdfast.  Usage:\n\n");
    for (size_t i = 0; i < ARRAY_SIZE(commands); i++) {
        if (commands[i].synopsis)
            fprintf(to, "  holdfastd %s %s\n      %s\n", commands[i].name,
                    commands[i].synopsis, commands[i].help);
    }
    fprintf(to, "  holdfastd --check-config [--config FILE]\n"
                "      check the configuration and print the effective values\n"
                "  holdfastd --version | --help\n\n"
                "The configuration is " DEFAULT_CONFIG
                " when --config is not given.\n"
                "Exit status: 0 done, 1 failed, 2 usage, 3 temporary, try "
                "again.  See holdfastd(8).\n");
}

enum {
    OPT_FIRST = 256
};

static const struct option long_options[] = {
    { "config", required_argument, NULL, OPT_FIRST },
    { "state", required_argument, NULL, OPT_FIRST + 1 },
    { "site", required_argument, NULL, OPT_FIRST + 2 },
    { "api", required_argument, NULL, OPT_FIRST + 3 },
    { "user", required_argument, NULL, OPT_FIRST + 4 },
    { "name", required_argument, NULL, OPT_FIRST + 5 },
    { "valid", required_argument, NULL, OPT_FIRST + 6 },
    { "token", required_argument, NULL, OPT_FIRST + 7 },
    { "manager", required_argument, NULL, OPT_FIRST + 8 },
    { "supervisor", required_argument, NULL, OPT_FIRST + 9 },
    { "check-config", no_argument, NULL, OPT_FIRST + 10 },
    { "help", no_argument, NULL, 'h' },
    { "version", no_argument, NULL, 'V' },
    { NULL, 0, NULL, 0 },
};

static const char **
slot(struct arguments *a, int option)
{
    const char **const slots[] = {
        &a->config, &a->state, &a->site,  &a->api,     &a->user,
        &a->name,   &a->valid, &a->token, &a->manager, &a->supervisor,
    };

    return slots[option - OPT_FIRST];
}

/* Is the word in the blank-separated list? */
static bool
listed(const char *list, const char *word)
{
    size_t n = strlen(word);

    for (const char *p = strstr(list, word); p; p = strstr(p + 1, word)) {
        if ((p == list || p[-1] == ' ') && (p[n] == ' ' || p[n] == '\0'))
            return true;
    }
    return false;
}

static const struct command *
find_command(const char *name)
{
    for (size_t i = 0; i < ARRAY_SIZE(commands); i++) {
        if (strcmp(commands[i].name, name) == 0)
            return &commands[i];
    }
    return NULL;
}

/* Returns -1 to go on, or the exit status. */
static int
parse_options(int argc, char **argv, const struct command *cmd,
              struct arguments *a)
{
    int at = 0;

    for (;;) {
        /* One thread at this point.  NOLINTNEXTLINE(concurrency-mt-unsafe) */
        int o = getopt_long(argc, argv, "hV", long_options, &at);

        if (o == -1)
            return -1;
        if (o == 'h') {
            usage(stdout);
            return STATUS_DONE;
        }
        if (o == 'V') {
            printf("holdfastd " HOLDFAST_VERSION "\n");
            return STATUS_DONE;
        }
        if (o < OPT_FIRST) {
            fprintf(stderr, "holdfastd --help lists the options\n");
            return STATUS_USAGE;
        }
        if (!listed(cmd->options, long_options[at].name)) {
            fprintf(stderr, "holdfastd: %s has no option --%s\n", cmd->name,
                    long_options[at].name);
            return STATUS_USAGE;
        }
        if (long_options[at].has_arg)
            *slot(a, o) = optarg;
        else
            a->check_config = true;
    }
}

/* A standard stream that is closed would be the next file or socket that is
 * opened: a password meant for the terminal must not end in the catalog.
 * Output becomes a file that cannot be written, so that losing it is an error. */
static void
standard_streams(void)
{
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++) {
        if (fcntl(fd, F_GETFD) < 0 && errno == EBADF)
            (void)open("/dev/null", fd == STDERR_FILENO ? O_WRONLY : O_RDONLY);
    }
}

int
main(int argc, char **argv)
{
    struct arguments a = { .config = NULL };
    const struct command *cmd;
    const char *operand;
    int rc;

    /* "holdfastd --check-config" is "holdfastd run --check-config". */
    bool named = argc > 1 && argv[1][0] != '-';

    standard_streams();
    cmd = find_command(named ? argv[1] : "run");
    if (argc < 2 || !cmd) {
        if (named)
            fprintf(stderr, "holdfastd: there is no command \"%s\"\n", argv[1]);
        usage(stderr);
        return STATUS_USAGE;
    }
    if (named) {
        argc--;
        argv++;
    }
    rc = parse_options(argc, argv, cmd, &a);
    if (rc >= 0)
        return rc;
    if (!named && !a.check_config) {
        usage(stderr);
        return STATUS_USAGE;
    }
    operand = optind < argc ? argv[optind] : NULL;
    if (argc - optind > (cmd->run == run_role || cmd->run == run_scrub)) {
        fprintf(stderr, "holdfastd: %s: \"%s\" is one word too many\n",
                cmd->name, argv[argc - 1]);
        return STATUS_USAGE;
    }
    return cmd->run(&a, operand);
}
