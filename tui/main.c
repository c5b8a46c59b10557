/* holdfast: the operator's program.  This file is the way in and the way out;
 * what the words mean is in tui/cli/. */
#include <errno.h>
#include <fcntl.h>
#include <locale.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/text.h"
#include "tui/cli/app.h"
#include "tui/cli/layout.h"
#include "tui/cli/term.h"

static int
ask_password(void *arg, const struct site_def *site, struct secret *out,
             struct err *err)
{
    char question[512];
    int rc;

    UNUSED(arg);
    (void)snprintf(question, sizeof question,
                   "Password of %s at %s (%s): ", site->user, site->name,
                   site->url);
    text_clean(question);
    rc = term_password(question, out, err);
    return rc < 0 ? err_prefix(err, "%s: login as %s", site->name, site->user)
                  : 0;
}

static int
ask_root(void *arg, const struct site_def *site, const char *fingerprint,
         struct err *err)
{
    char question[1024], answer[16];

    UNUSED(arg);
    if (!term_present())
        return err_set(err, -EACCES, ERR_CLI_0003,
                       "%s: the root of %s is not known here and there is no "
                       "terminal to ask on; it shows fingerprint %s",
                       site->name, site->url, fingerprint);
    (void)snprintf(question, sizeof question,
                   "The root certificate of %s (%s) is not known here.\n"
                   "Its SHA-256 fingerprint is\n  %s\nholdfastd init has shown "
                   "it at that site.  Believe it from now on? (yes/no) ",
                   site->name, site->url, fingerprint);
    if (term_ask(question, answer, sizeof answer, err) < 0 ||
        strcmp(answer, "yes") != 0)
        return err_set(err, -EACCES, ERR_CLI_0003,
                       "%s: the root with fingerprint %s was not accepted",
                       site->name, fingerprint);
    return 0;
}

/* A standard stream that is closed would be the next file or socket that is
 * opened.  Output becomes a file that cannot be written, so that losing it is
 * an error. */
static void
standard_streams(void)
{
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++) {
        if (fcntl(fd, F_GETFD) < 0 && errno == EBADF)
            (void)open("/dev/null", fd == STDERR_FILENO ? O_WRONLY : O_RDONLY);
    }
}

static int
print_version(struct err *err)
{
    struct buf b;
    int rc;

    buf_init(&b, 256);
    (void)buf_addf(&b, "holdfast " HOLDFAST_VERSION "\n");
    rc = output_write(&b, err);
    buf_release(&b);
    return rc;
}

/* Without a command: what there is, and how to go on. */
static int
overview(struct app *a, struct err *err)
{
    static const char more[] =
        "holdfast help lists the commands; holdfast vpgs, points VPG and test "
        "VPG are the usual ones.";
    struct buf b;
    int rc = app_load_sites(a, err);

    if (rc < 0)
        return rc;
    buf_init(&b, OUTPUT_MAX);
    if (!a->sites.n)
        (void)buf_addf(&b,
                       "holdfast " HOLDFAST_VERSION ": no site is defined.\n"
                       "Write one into ~/.config/holdfast/sites/NAME.conf (see "
                       "holdfast(1), FILES),\nor name a file with --config.\n");
    rc = output_write(&b, err);
    for (size_t i = 0; i < a->sites.n && rc >= 0; i++) {
        const struct site_def *d = &a->sites.defs[i];
        struct err why = ERR_INIT;

        if (a->opt.ctx && strcmp(a->opt.ctx, d->name) != 0)
            continue;
        buf_clear(&b);
        if (i && !a->opt.ctx && buf_add(&b, "\n", 1) == 0)
            rc = output_write(&b, err);
        a->opt.ctx = d->name;
        if (cmd_dashboard(a, &why) < 0) {
            buf_clear(&b);
            (void)buf_addf(&b, "%s: %s\n", d->name, why.msg);
            text_clean((char *)b.data);
            b.data[b.len - 1] = '\n';
            rc = output_write(&b, err);
        }
        a->opt.ctx = NULL;
    }
    buf_clear(&b);
    (void)buf_addf(&b, "\n");
    layout_wrap(&b, more, " ", output_width(&a->opt));
    if (rc >= 0)
        rc = output_write(&b, err);
    buf_release(&b);
    return rc < 0 ? rc : 0;
}

static int
run(struct app *a, struct err *err)
{
    static const struct command none = { .name = "dashboard",
                                         .run = cmd_dashboard };
    const char *name = a->opt.n_words ? a->opt.words[0] : NULL;
    size_t n;
    int rc;

    if (a->opt.version)
        return print_version(err);
    a->command = name ? command_find(name) : &none;
    if (!name) {
        rc = options_check(&a->opt, "", 0, err);
        if (rc < 0)
            return rc;
        if (a->opt.help) {
            a->command = command_find("help");
            return cmd_help(a, err);
        }
        return overview(a, err);
    }
    if (!a->command)
        return err_set(err, -EINVAL, ERR_CLI_0014,
                       "there is no command \"%.60s\"", name);
    if (a->opt.help)
        return cmd_help(a, err);
    rc = options_check(&a->opt, name, a->command->groups, err);
    if (rc < 0)
        return rc;
    n = a->opt.n_words - 1;
    if (n < a->command->min || n > a->command->max)
        return err_set(err, -EINVAL, ERR_CLI_0014, "usage: holdfast %s%s%s",
                       a->command->name, a->command->args[0] ? " " : "",
                       a->command->args);
    /* An unset variable of a script must not stand for whatever there is. */
    for (size_t i = 0; i <= n; i++) {
        if (!text_utf8_ok(a->opt.words[i], strlen(a->opt.words[i])))
            return err_set(err, -EINVAL, ERR_CLI_0014,
                           "word %zu is not valid UTF-8: \"%.80s\"", i,
                           a->opt.words[i]);
        if (!a->opt.words[i][0])
            return err_set(err, -EINVAL, ERR_CLI_0014,
                           "word %zu is empty; usage: holdfast %s %s", i,
                           a->command->name, a->command->args);
    }
    if (a->command->rows) {
        rc = output_check(&a->opt, a->command->rows, err);
        if (rc < 0)
            return rc;
    }
    return a->command->run(a, err);
}

int
main(int argc, char **argv)
{
    struct app a = { .ui = { .password = ask_password,
                             .accept_root = ask_root } };
    struct err err = ERR_INIT;
    int rc;

    standard_streams();
    /* No thread runs yet.  NOLINTNEXTLINE(concurrency-mt-unsafe) */
    (void)setlocale(LC_CTYPE, "");
    /* A reader of our output that ends is an error to report, no death. */
    (void)signal(SIGPIPE, SIG_IGN);
    rc = options_parse(argc, argv, &a.opt, &err);
    if (rc == 0)
        rc = run(&a, &err);
    if (rc < 0) {
        app_explain(&a, &err);
        rc = (int)app_exit_of(&err);
    }
    app_release(&a);
    return rc;
}
