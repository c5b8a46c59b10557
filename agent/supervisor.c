/* holdfastd run: one child process per role.
 *
 * The loop waits for three things: a signal (through a signalfd), the time of
 * the next start, and, while a role has no identity yet, the moment join has
 * put it in place.  A role that ends unasked is started again after a delay
 * that doubles from 100 ms to 30 s and begins anew when the role has run for
 * 30 s.  Stopping goes against the order of starting: the replicator drains
 * first, while its manager is still there; then the manager.  A role that does
 * not stop in stop_timeout is killed.
 *
 * A role in whose place join has put another identity is started anew, too.
 *
 *   WAITING --identity there--> READY --time--> RUNNING --exit--> READY
 *                                                  |
 *                                       stop: TERM, then KILL --exit--> DONE
 */
#include "supervisor.h"

#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "commands.h"
#include "common/bytes.h"
#include "common/files.h"
#include "common/log.h"
#include "common/text.h"
#include "role.h"
#include "sandbox.h"
#include "statedir.h"

/* A build without a role's room still links, and says so when asked for it. */
#pragma weak manager_role_main
#pragma weak replicator_role_main

enum {
    IDENTITY_POLL_MS = 200, /* how soon a join is noticed */
    ANOTHER_POLL_MS = 1000, /* how soon one in place of a running role is */
    LOCK_WAIT_MS = 15000,   /* for a killed supervisor's role to be gone */
    LOCK_POLL_MS = 20,
};

enum child_state {
    CHILD_WAITING,
    CHILD_READY,
    CHILD_RUNNING,
    CHILD_DONE
};

struct child {
    const char *role;
    enum child_state state;
    pid_t pid;
    uint64_t started_ms, delay_ms, due_ms; /* monotonic; due: next start */
    bool killed;
    dev_t dev; /* of the role's directory when it was started */
    ino_t ino;
};

struct supervisor {
    struct agent_config cfg;
    struct child children[2]; /* in the order of starting */
    size_t n;
    int signals;
    bool stopping;
    size_t stop_at;            /* children[stop_at] is being stopped */
    uint64_t stop_deadline_ms; /* when it is killed */
};

/* The roles in the order of starting. */
static const struct role {
    const char *name;
    int (*main)(const struct agent_config *cfg);
} roles[] = {
    { "manager", manager_role_main },
    { "replicator", replicator_role_main },
};

uint64_t
supervisor_next_delay(uint64_t delay_ms, uint64_t ran_ms)
{
    if (delay_ms == 0 || ran_ms >= SUPERVISOR_STABLE_MS)
        return SUPERVISOR_DELAY_MIN_MS;
    return MIN(2 * delay_ms, (uint64_t)SUPERVISOR_DELAY_MAX_MS);
}

static uint64_t
now_ms(void)
{
    struct timespec ts = { .tv_sec = 0 };

    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

/* ---- Process numbers on disk --------------------------------------------- */

static void
pid_path(const struct supervisor *s, const char *name, char out[FILE_PATH_SIZE])
{
    (void)snprintf(out, FILE_PATH_SIZE, "%.900s/run/%s.pid", s->cfg.state_dir,
                   name);
}

static void
write_pid(const struct supervisor *s, const char *name, pid_t pid)
{
    char path[FILE_PATH_SIZE], text[24];
    struct err err = ERR_INIT;

    pid_path(s, name, path);
    (void)snprintf(text, sizeof text, "%ld\n", (long)pid);
    if (file_replace(path, 0644, text, strlen(text), &err) < 0)
        log_err(LOG_WARN, "supervisor", "", "process number", &err);
}

static void
remove_pid(const struct supervisor *s, const char *name)
{
    char path[FILE_PATH_SIZE];

    pid_path(s, name, path);
    (void)unlink(path);
}

/* ---- Children ------------------------------------------------------------ */

static bool
has_identity(const struct supervisor *s, const char *role)
{
    char path[FILE_PATH_SIZE];

    (void)snprintf(path, sizeof path, "%.900s/%s/" ROLE_CHAIN_FILE,
                   s->cfg.state_dir, role);
    return access(path, F_OK) == 0;
}

static bool
role_dir(const struct supervisor *s, const char *role, struct stat *out)
{
    char path[FILE_PATH_SIZE];

    (void)snprintf(path, sizeof path, "%.900s/%s", s->cfg.state_dir, role);
    return stat(path, out) == 0;
}

/* Own process group, so that a terminal's Ctrl-C reaches the supervisor alone
 * and the order of stopping holds; no signal blocked or ignored. */
static int
spawn_attributes(posix_spawnattr_t *attr)
{
    sigset_t none, all;
    int rc = posix_spawnattr_init(attr);

    if (rc)
        return rc;
    (void)sigemptyset(&none);
    (void)sigfillset(&all);
    rc = posix_spawnattr_setsigmask(attr, &none);
    if (rc == 0)
        rc = posix_spawnattr_setsigdefault(attr, &all);
    if (rc == 0)
        rc = posix_spawnattr_setpgroup(attr, 0);
    if (rc == 0)
        rc = posix_spawnattr_setflags(attr, POSIX_SPAWN_SETSIGMASK |
                                                POSIX_SPAWN_SETSIGDEF |
                                                POSIX_SPAWN_SETPGROUP);
    return rc;
}

static int
spawn_role(const struct supervisor *s, const char *role, pid_t *out_pid)
{
    char self[24];
    const char *argv[] = { "holdfastd", "role",         role, "--config",
                           s->cfg.path, "--supervisor", self, NULL };
    posix_spawnattr_t attr;
    int rc = spawn_attributes(&attr);

    (void)snprintf(self, sizeof self, "%ld", (long)getpid());
    if (rc == 0) {
        char *args[ARRAY_SIZE(argv)];

        memcpy(args, argv, sizeof args); /* posix_spawn wants it unconst */
        /* The same program as this one, also when its file was replaced. */
        rc = posix_spawn(out_pid, "/proc/self/exe", NULL, &attr, args, environ);
        (void)posix_spawnattr_destroy(&attr);
    }
    return -rc;
}

static void
start_child(struct supervisor *s, struct child *c)
{
    struct err err = ERR_INIT;
    char ids[64];
    struct stat st = { .st_ino = 0 };
    int rc;

    (void)role_dir(s, c->role, &st);
    c->dev = st.st_dev;
    c->ino = st.st_ino;
    rc = spawn_role(s, c->role, &c->pid);
    c->started_ms = now_ms();
    if (rc < 0) {
        (void)err_set(&err, rc, ERR_AGT_0008, "role %s: start: %s", c->role,
                      err_errno(rc));
        log_err(LOG_ERROR, "supervisor", "", "starting", &err);
        c->delay_ms = supervisor_next_delay(c->delay_ms, 0);
        c->due_ms = c->started_ms + c->delay_ms;
        return;
    }
    c->state = CHILD_RUNNING;
    c->killed = false;
    write_pid(s, c->role, c->pid);
    (void)snprintf(ids, sizeof ids, "role=%s pid=%ld", c->role, (long)c->pid);
    log_line(LOG_INFO, "supervisor", ids, "started");
}

static void
describe_end(int status, char *out, size_t cap)
{
    if (WIFSIGNALED(status))
        (void)snprintf(out, cap, "was ended by signal %d (%s)",
                       WTERMSIG(status), sigabbrev_np(WTERMSIG(status)));
    else
        (void)snprintf(out, cap, "ended with status %d", WEXITSTATUS(status));
}

static void
child_ended(struct supervisor *s, struct child *c, int status)
{
    uint64_t now = now_ms();
    char ids[64], how[64];

    remove_pid(s, c->role);
    describe_end(status, how, sizeof how);
    (void)snprintf(ids, sizeof ids, "role=%s pid=%ld", c->role, (long)c->pid);
    c->pid = 0;
    if (s->stopping) {
        c->state = CHILD_DONE;
        log_line(LOG_INFO, "supervisor", ids, "stopped: %s", how);
        return;
    }
    c->delay_ms = supervisor_next_delay(c->delay_ms, now - c->started_ms);
    c->due_ms = now + c->delay_ms;
    c->state = CHILD_READY;
    log_line(LOG_ERROR, "supervisor", ids, "%s; next start in %llu ms", how,
             (unsigned long long)c->delay_ms);
}

static void
reap(struct supervisor *s)
{
    int status;
    pid_t pid;

    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        for (size_t i = 0; i < s->n; i++) {
            if (s->children[i].state == CHILD_RUNNING &&
                s->children[i].pid == pid)
                child_ended(s, &s->children[i], status);
        }
    }
}

/* The directory of a running role was moved away and join has made another one:
 * the process is the one that was taken out.  It is killed, because in stopping
 * it would write what it knows of its lanes into the new one's directory. */
static void
check_same(struct child *c, const struct supervisor *s)
{
    char ids[64];
    struct stat st;

    if (c->killed || !has_identity(s, c->role) || !role_dir(s, c->role, &st) ||
        (st.st_dev == c->dev && st.st_ino == c->ino))
        return;
    (void)snprintf(ids, sizeof ids, "role=%s pid=%ld", c->role, (long)c->pid);
    log_line(LOG_WARN, "supervisor", ids,
             "another identity stands in its place: it is started anew");
    c->killed = true;
    (void)kill(c->pid, SIGKILL);
}

/* Start what is due; returns the milliseconds until the next look, -1: none. */
static int
tick(struct supervisor *s)
{
    uint64_t now = now_ms(), next = UINT64_MAX;

    for (size_t i = 0; i < s->n; i++) {
        struct child *c = &s->children[i];

        if (c->state == CHILD_WAITING && has_identity(s, c->role)) {
            c->state = CHILD_READY;
            c->due_ms = now;
        }
        if (c->state == CHILD_READY && c->due_ms <= now)
            start_child(s, c);
        if (c->state == CHILD_RUNNING) {
            check_same(c, s);
            next = MIN(next, now + ANOTHER_POLL_MS);
        } else if (c->state == CHILD_WAITING)
            next = MIN(next, now + IDENTITY_POLL_MS);
        else if (c->state == CHILD_READY)
            next = MIN(next, c->due_ms);
    }
    if (next == UINT64_MAX)
        return -1;
    return next > now ? (int)MIN(next - now, (uint64_t)60000) : 0;
}

/* ---- Stopping ------------------------------------------------------------ */

/* Go on to the next child that still runs, from the last started to the
 * first; returns as tick(), or -2 when all have ended. */
static int
stop_tick(struct supervisor *s)
{
    uint64_t now = now_ms();

    for (;;) {
        struct child *c = &s->children[s->stop_at];

        if (c->state != CHILD_RUNNING) {
            if (s->stop_at == 0)
                return -2;
            s->stop_at--;
            s->stop_deadline_ms = 0;
            continue;
        }
        if (s->stop_deadline_ms == 0) {
            s->stop_deadline_ms = now + s->cfg.stop_timeout_ms;
            (void)kill(c->pid, SIGTERM);
        } else if (now >= s->stop_deadline_ms && !c->killed) {
            log_line(LOG_WARN, "supervisor", "",
                     "role %s did not stop in %llu ms: killed", c->role,
                     (unsigned long long)s->cfg.stop_timeout_ms);
            c->killed = true;
            (void)kill(c->pid, SIGKILL);
        }
        if (c->killed)
            return -1; /* SIGCHLD will come */
        return (int)(s->stop_deadline_ms - now);
    }
}

static void
begin_stop(struct supervisor *s, int signal)
{
    if (s->stopping)
        return;
    log_line(LOG_INFO, "supervisor", "", "stopping on SIG%s",
             sigabbrev_np(signal));
    s->stopping = true;
    s->stop_at = s->n - 1;
    s->stop_deadline_ms = 0;
}

/* ---- Reload -------------------------------------------------------------- */

static void
reload(struct supervisor *s)
{
    struct agent_config next;
    struct err err = ERR_INIT;
    struct buf names;

    log_reopen();
    if (agent_config_load(s->cfg.path, &next, &err) < 0) {
        log_err(LOG_ERROR, "supervisor", "",
                "reload refused, the old configuration stays", &err);
        return;
    }
    buf_init(&names, 4096);
    if (agent_config_changed(&s->cfg, &next, &names) == 0 && names.len)
        log_line(LOG_WARN, "supervisor", "",
                 "changed, but only after a restart in effect: %s",
                 (const char *)names.data);
    buf_release(&names);
    s->cfg.stop_timeout_ms = next.stop_timeout_ms;
    s->cfg.log.level = next.log.level;
    log_set_level((enum log_level)next.log.level);
    agent_config_release(&next);
    for (size_t i = 0; i < s->n; i++) {
        if (s->children[i].state == CHILD_RUNNING)
            (void)kill(s->children[i].pid, SIGHUP);
    }
    log_line(LOG_INFO, "supervisor", "", "reloaded %s", s->cfg.path);
}

static void
read_signals(struct supervisor *s)
{
    struct signalfd_siginfo si;

    while (read(s->signals, &si, sizeof si) == (ssize_t)sizeof si) {
        if (si.ssi_signo == SIGCHLD)
            reap(s);
        else if (si.ssi_signo == SIGHUP)
            reload(s);
        else
            begin_stop(s, (int)si.ssi_signo);
    }
}

/* ---- The command --------------------------------------------------------- */

static void
block_signals(sigset_t *set)
{
    (void)sigemptyset(set);
    (void)sigaddset(set, SIGTERM);
    (void)sigaddset(set, SIGINT);
    (void)sigaddset(set, SIGHUP);
    (void)sigaddset(set, SIGCHLD);
    (void)pthread_sigmask(SIG_BLOCK, set, NULL);
}

static void
add_children(struct supervisor *s)
{
    for (size_t i = 0; i < ARRAY_SIZE(roles); i++) {
        struct child *c = &s->children[s->n];

        if (!agent_config_has_role(&s->cfg, roles[i].name))
            continue;
        *c = (struct child){ .role = roles[i].name, .state = CHILD_WAITING };
        s->n++;
        if (!has_identity(s, c->role))
            log_line(LOG_INFO, "supervisor", "",
                     "role %s waits for its identity: holdfastd %s makes it",
                     c->role, i == 0 ? "init" : "join");
    }
}

static void
supervise(struct supervisor *s)
{
    struct pollfd p = { .fd = s->signals, .events = POLLIN };

    for (;;) {
        int wait_ms = s->stopping ? stop_tick(s) : tick(s);

        if (wait_ms == -2)
            return;
        (void)poll(&p, 1, wait_ms);
        read_signals(s);
    }
}

static int
open_log(const struct agent_config *cfg, struct err *err)
{
    log_set_level((enum log_level)cfg->log.level);
    return log_open(cfg->log.file[0] ? cfg->log.file : NULL, err);
}

static int
prepare_run(struct supervisor *s, struct lockfile *lock, struct err *err)
{
    char path[FILE_PATH_SIZE];
    sigset_t set;
    int rc = open_log(&s->cfg, err);

    if (rc == 0)
        rc = statedir_check(s->cfg.state_dir, err);
    if (rc == 0)
        rc = statedir_lock(s->cfg.state_dir, lock, err);
    if (rc == 0)
        rc = path_join(path, s->cfg.state_dir, "run", err);
    if (rc == 0)
        rc = dir_make(path, err);
    if (rc < 0)
        return rc;
    block_signals(&set);
    s->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (s->signals < 0)
        return err_set(err, -errno, ERR_GEN_0001, "signalfd: %s",
                       err_errno(errno));
    return 0;
}

int
command_run(const char *config_path)
{
    struct lockfile lock = LOCKFILE_INIT;
    struct supervisor s = { .signals = -1 };
    struct err err = ERR_INIT;
    int rc;

    sandbox_apply();
    rc = agent_config_load(config_path, &s.cfg, &err);
    if (rc < 0) {
        report_error(&err);
        return STATUS_USAGE;
    }
    rc = prepare_run(&s, &lock, &err);
    if (rc < 0) {
        report_error(&err);
        rc = status_of(&err);
        goto out;
    }
    write_pid(&s, "supervisor", getpid());
    log_line(LOG_INFO, "supervisor", "",
             "holdfastd " HOLDFAST_VERSION " began, state in %s",
             s.cfg.state_dir);
    add_children(&s);
    supervise(&s);
    log_line(LOG_INFO, "supervisor", "", "all roles have stopped");
    remove_pid(&s, "supervisor");
    rc = STATUS_DONE;
out:
    if (s.signals >= 0)
        (void)close(s.signals);
    lockfile_release(&lock);
    agent_config_release(&s.cfg);
    log_close();
    return rc;
}

/* ---- A role, in its own process ------------------------------------------ */

/* The role of a supervisor that was killed may need a moment to be gone. */
static int
lock_role(const struct agent_config *cfg, const char *role,
          struct lockfile *lock, struct err *err)
{
    const struct timespec pause = { .tv_nsec = LOCK_POLL_MS * 1000000L };
    uint64_t deadline = now_ms() + LOCK_WAIT_MS;
    char path[FILE_PATH_SIZE];
    int rc;

    (void)snprintf(path, sizeof path, "%.900s/%s/lock", cfg->state_dir, role);
    for (;;) {
        rc = lockfile_take(lock, path, err);
        if (rc != -EBUSY || now_ms() >= deadline)
            return rc;
        (void)nanosleep(&pause, NULL);
    }
}

static int
enter_role(const struct role *r, const struct agent_config *cfg)
{
    struct lockfile lock = LOCKFILE_INIT;
    struct err err = ERR_INIT;
    sigset_t set;
    int rc;

    rc = open_log(cfg, &err);
    if (rc == 0)
        rc = statedir_check(cfg->state_dir, &err);
    if (rc == 0)
        rc = lock_role(cfg, r->name, &lock, &err);
    if (rc < 0) {
        log_err(LOG_ERROR, r->name, "", "starting", &err);
        return status_of(&err);
    }
    block_signals(&set);
    rc = r->main(cfg);
    lockfile_release(&lock);
    log_close();
    return rc;
}

int
command_role(const char *role, const char *config_path, pid_t supervisor)
{
    struct agent_config cfg;
    struct err err = ERR_INIT;
    int rc = STATUS_USAGE;

    sandbox_apply();
    if (sandbox_follow(supervisor, role) < 0)
        return STATUS_FAILED;
    if (agent_config_load(config_path, &cfg, &err) < 0) {
        report_error(&err);
        return STATUS_USAGE;
    }
    for (size_t i = 0; i < ARRAY_SIZE(roles); i++) {
        if (strcmp(role, roles[i].name) != 0)
            continue;
        if (roles[i].main) {
            rc = enter_role(&roles[i], &cfg);
            break;
        }
        (void)err_set(&err, -ENOSYS, ERR_AGT_0008,
                      "role %s is not part of this build", role);
        report_error(&err);
        rc = STATUS_FAILED;
    }
    agent_config_release(&cfg);
    return rc;
}
