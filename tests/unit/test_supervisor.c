/* room: agent common
 * The supervisor with roles of its own: this program is started again by it as
 * "holdfastd role ...".  The roles write what happens to them into one file. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "commands.h"
#include "common/bytes.h"
#include "common/log.h"
#include "role.h"
#include "statedir.h"

enum {
    PATIENCE_MS = 20000,
    LOOK_MS = 5
};

static char dir[64], self[256];

/* ---- The roles ----------------------------------------------------------- */

static void
note(const struct agent_config *cfg, const char *role, const char *what)
{
    char path[FILE_PATH_SIZE], line[64];
    int n, fd;

    (void)snprintf(path, sizeof path, "%.900s/events", cfg->state_dir);
    n = snprintf(line, sizeof line, "%s %s\n", role, what);
    fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (fd >= 0) {
        (void)!write(fd, line, (size_t)n);
        (void)close(fd);
    }
}

static bool
exists(const struct agent_config *cfg, const char *name)
{
    char path[FILE_PATH_SIZE];

    (void)snprintf(path, sizeof path, "%.900s/%s", cfg->state_dir, name);
    return access(path, F_OK) == 0;
}

static int
run_until_stopped(const struct agent_config *cfg, const char *role)
{
    struct signalfd_siginfo si;
    sigset_t set;
    int fd;

    (void)sigemptyset(&set);
    (void)sigaddset(&set, SIGTERM);
    (void)sigaddset(&set, SIGHUP);
    fd = signalfd(-1, &set, SFD_CLOEXEC);
    note(cfg, role, "start");
    while (read(fd, &si, sizeof si) == (ssize_t)sizeof si) {
        if (si.ssi_signo == SIGHUP) {
            note(cfg, role, "reload");
        } else if (exists(cfg, "deaf")) {
            note(cfg, role, "deaf");
        } else {
            note(cfg, role, "stop");
            break;
        }
    }
    (void)close(fd);
    return 0;
}

int
manager_role_main(const struct agent_config *cfg)
{
    return run_until_stopped(cfg, "manager");
}

int
replicator_role_main(const struct agent_config *cfg)
{
    return run_until_stopped(cfg, "replicator");
}

/* ---- Helpers ------------------------------------------------------------- */

static const char *
in_dir(const char *name)
{
    static char path[4][160];
    static unsigned at;

    at = (at + 1) % 4;
    (void)snprintf(path[at], sizeof path[at], "%s/%s", dir, name);
    return path[at];
}

static void
put(const char *name, const char *text)
{
    struct err e = ERR_INIT;

    if (file_replace(in_dir(name), 0600, text, strlen(text), &e) < 0)
        fail_msg("%s", e.msg);
}

/* "manager start\n..." as it is now. */
static const char *
events(void)
{
    static struct buf b;

    buf_release(&b);
    buf_init(&b, 65536);
    if (file_read(in_dir("state/events"), 65000, &b, NULL) < 0 || !b.len)
        return "";
    return (const char *)b.data;
}

static int
count(const char *what)
{
    int n = 0;

    for (const char *p = strstr(events(), what); p; p = strstr(p + 1, what))
        n++;
    return n;
}

static pid_t
pid_of(const char *name)
{
    char path[64];
    struct buf b;
    long pid = 0;

    (void)snprintf(path, sizeof path, "state/run/%s.pid", name);
    buf_init(&b, 64);
    if (file_read(in_dir(path), 32, &b, NULL) == 0 && b.len)
        pid = strtol((const char *)b.data, NULL, 10);
    buf_release(&b);
    return (pid_t)pid;
}

static void
look_away(void)
{
    (void)poll(NULL, 0, LOOK_MS);
}

#define WAIT_FOR(condition)                                  \
 do {                                                        \
  int left = PATIENCE_MS / LOOK_MS;                          \
  while (!(condition) && left-- > 0)                         \
   look_away();                                              \
  if (left <= 0)                                             \
   fail_msg("never: %s; events:\n%s", #condition, events()); \
 } while (0)

static void
configure(const char *more)
{
    char text[512];

    (void)snprintf(text, sizeof text,
                   "state_dir = \"%s/state\";\nlog = { file = \"%s/log\"; };\n%s\n",
                   dir, dir, more);
    put("conf", text);
}

static pid_t
start_supervisor(void)
{
    pid_t pid = fork();

    assert_true(pid >= 0);
    if (pid == 0) {
        (void)execl(self, self, "run", in_dir("conf"), (char *)NULL);
        _exit(99);
    }
    return pid;
}

static int
status_after(pid_t pid)
{
    int status = -1;

    WAIT_FOR(waitpid(pid, &status, WNOHANG) == pid);
    return status;
}

static void
give_identity(const char *role)
{
    char name[64];
    struct err e = ERR_INIT;

    (void)snprintf(name, sizeof name, "state/%s", role);
    assert_int_equal(dir_make(in_dir(name), &e), 0);
    (void)snprintf(name, sizeof name, "state/%s/chain.pem", role);
    put(name, "x");
}

static int
setup(void **state)
{
    char draft[FILE_PATH_SIZE];
    struct err e = ERR_INIT;

    (void)state;
    (void)snprintf(dir, sizeof dir, "/tmp/holdfast-super-XXXXXX");
    if (!mkdtemp(dir) || statedir_begin(in_dir("state"), draft, &e) < 0 ||
        statedir_commit(draft, in_dir("state"), &e) < 0)
        return -1;
    configure("stop_timeout = \"20s\";");
    return 0;
}

static int
teardown(void **state)
{
    (void)state;
    statedir_discard(dir);
    return 0;
}

/* ---- Tests --------------------------------------------------------------- */

static void
one_life(void **state)
{
    pid_t super, manager;

    (void)state;
    give_identity("manager");
    super = start_supervisor();
    WAIT_FOR(count("manager start\n") == 1);
    WAIT_FOR(pid_of("manager") > 0);
    assert_int_equal(pid_of("supervisor"), super);
    assert_int_equal(count("replicator start\n"), 0);
    assert_int_equal(pid_of("replicator"), 0);
    /* joined now */
    give_identity("replicator");
    WAIT_FOR(count("replicator start\n") == 1);
    WAIT_FOR(pid_of("replicator") > 0);
    /* killed: started again, the number follows */
    manager = pid_of("manager");
    assert_int_equal(kill(manager, SIGKILL), 0);
    WAIT_FOR(count("manager start\n") == 2);
    WAIT_FOR(pid_of("manager") > 0 && pid_of("manager") != manager);
    assert_int_equal(count("replicator start\n"), 1);
    /* reload reaches both */
    assert_int_equal(kill(super, SIGHUP), 0);
    WAIT_FOR(count("reload\n") == 2);
    /* in order: the replicator first */
    assert_int_equal(kill(super, SIGTERM), 0);
    assert_int_equal(status_after(super), 0);
    assert_non_null(strstr(events(), "replicator stop\nmanager stop\n"));
    assert_int_equal(pid_of("supervisor"), 0);
    assert_int_equal(pid_of("manager"), 0);
    assert_int_equal(pid_of("replicator"), 0);
}

static void
refused_reload_is_not_forwarded(void **state)
{
    struct buf log;
    pid_t super;

    (void)state;
    buf_init(&log, MIB);
    give_identity("manager");
    super = start_supervisor();
    WAIT_FOR(count("manager start\n") == 1);
    configure("nonsense = 1;");
    assert_int_equal(kill(super, SIGHUP), 0);
    WAIT_FOR(
        (buf_clear(&log), file_read(in_dir("log"), MIB - 1, &log, NULL) == 0 &&
                              strstr((char *)log.data, "CFG-0002")));
    configure("manager = { api_listen = \":1\"; };");
    assert_int_equal(kill(super, SIGHUP), 0);
    WAIT_FOR(count("manager reload\n") == 1);
    WAIT_FOR((buf_clear(&log),
              file_read(in_dir("log"), MIB - 1, &log, NULL) == 0 &&
                  strstr((char *)log.data,
                         "only after a restart in effect: manager.api_listen")));
    assert_int_equal(kill(super, SIGINT), 0);
    assert_int_equal(status_after(super), 0);
    assert_int_equal(count("manager reload\n"), 1);
    buf_release(&log);
}

static void
deaf_role_is_killed(void **state)
{
    pid_t super;

    (void)state;
    configure("roles = [ \"manager\" ]; stop_timeout = \"300ms\";");
    give_identity("manager");
    put("state/deaf", "");
    super = start_supervisor();
    WAIT_FOR(count("manager start\n") == 1);
    assert_int_equal(kill(super, SIGTERM), 0);
    assert_int_equal(status_after(super), 0);
    assert_int_equal(count("manager deaf\n"), 1);
    assert_int_equal(count("manager stop\n"), 0);
}

static void
roles_die_with_the_supervisor(void **state)
{
    pid_t super, manager, second;

    (void)state;
    configure("roles = [ \"manager\" ];");
    give_identity("manager");
    super = start_supervisor();
    WAIT_FOR(count("manager start\n") == 1);
    WAIT_FOR(pid_of("manager") > 0);
    manager = pid_of("manager");
    /* one at a time: temporary, and says who */
    second = start_supervisor();
    assert_int_equal(WEXITSTATUS(status_after(second)), STATUS_TEMPORARY);
    assert_int_equal(kill(super, SIGKILL), 0);
    assert_true(WIFSIGNALED(status_after(super)));
    /* its own lock frees when it is gone, so the next life can begin */
    super = start_supervisor();
    WAIT_FOR(count("manager start\n") == 2);
    WAIT_FOR(pid_of("manager") > 0 && pid_of("manager") != manager);
    assert_int_equal(kill(super, SIGTERM), 0);
    assert_int_equal(status_after(super), 0);
}

static void
refuses_to_begin(void **state)
{
    pid_t super;

    (void)state;
    put("state/VERSION", "holdfast-state 2\n");
    super = start_supervisor();
    assert_int_equal(WEXITSTATUS(status_after(super)), STATUS_FAILED);
    assert_int_equal(pid_of("supervisor"), 0);
    configure("nonsense = 1;");
    super = start_supervisor();
    assert_int_equal(WEXITSTATUS(status_after(super)), STATUS_USAGE);
}

/* What main.c does with the supervisor's own command line. */
static int
as_holdfastd(int argc, char **argv)
{
    if (strcmp(argv[1], "run") == 0)
        return command_run(argv[2]);
    if (argc == 7 && strcmp(argv[1], "role") == 0)
        return command_role(argv[2], argv[4], (pid_t)atoi(argv[6]));
    return STATUS_USAGE;
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(one_life, setup, teardown),
        cmocka_unit_test_setup_teardown(refused_reload_is_not_forwarded, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(deaf_role_is_killed, setup, teardown),
        cmocka_unit_test_setup_teardown(roles_die_with_the_supervisor, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(refuses_to_begin, setup, teardown),
    };
    ssize_t n;

    if (argc > 1)
        return as_holdfastd(argc, argv);
    n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n <= 0)
        return 1;
    return cmocka_run_group_tests_name("supervisor", tests, NULL, NULL);
}
