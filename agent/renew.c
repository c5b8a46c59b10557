/* holdfastd renew: certificates renew themselves; this asks for it now, after a
 * key may have been seen by somebody, or to try whether it works.  The request
 * is a file beside each role's certificate and a SIGHUP to the role, and the
 * command waits until the file of the certificate is another one. */
#include "commands.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/files.h"
#include "common/identity.h"
#include "common/text.h"
#include "role.h"
#include "statedir.h"

enum {
    WAIT_MS = 30000,
    POLL_MS = 50,
};

/* The process of a role, as its running supervisor noted it. */
static int
role_process(const char *state, const char *role, pid_t *out_pid,
             struct err *err)
{
    char name[64], path[FILE_PATH_SIZE];
    uint64_t pid = 0;
    struct buf text;
    int rc;

    (void)snprintf(name, sizeof name, "run/%s.pid", role);
    rc = path_join(path, state, name, err);
    if (rc < 0)
        return rc;
    buf_init(&text, 64);
    rc = file_read(path, 32, &text, NULL);
    if (rc == 0 && text.len) {
        char *line = (char *)text.data;

        line[strcspn(line, "\n")] = '\0';
        rc = text_parse_u64(line, 2, INT32_MAX, &pid);
    }
    buf_release(&text);
    if (rc < 0)
        return err_set(err, -ESRCH, ERR_AGT_0009,
                       "%s: the role %s is not running", state, role);
    *out_pid = (pid_t)pid;
    return 0;
}

static int
await(const char *chain, const char *role, const struct identity *before,
      struct err *err)
{
    const struct timespec pause = { .tv_nsec = POLL_MS * 1000000L };
    struct identity now;

    for (int waited = 0; waited < WAIT_MS; waited += POLL_MS) {
        (void)nanosleep(&pause, NULL);
        if (identity_read(chain, &now, NULL) == 0 &&
            strcmp(now.serial, before->serial) != 0) {
            time_t t = (time_t)now.not_after_s;
            char until[32];
            struct tm tm;

            (void)gmtime_r(&t, &tm);
            (void)strftime(until, sizeof until, "%Y-%m-%dT%H:%M:%SZ", &tm);
            printf("%s: serial %s, good until %s\n", role, now.serial, until);
            return 0;
        }
    }
    return err_set(err, -ETIMEDOUT, ERR_AGT_0009,
                   "role %s still has certificate %s after %d s", role,
                   before->serial, WAIT_MS / 1000);
}

/* 1: renewed, 0: the role has no identity here. */
static int
renew_role(const char *state, const char *role, struct err *err)
{
    char name[64], chain[FILE_PATH_SIZE];
    struct identity before;
    pid_t pid = 0;
    int rc;

    (void)snprintf(name, sizeof name, "%s/" ROLE_CHAIN_FILE, role);
    rc = path_join(chain, state, name, err);
    if (rc < 0)
        return rc;
    if (access(chain, F_OK) < 0)
        return 0;
    rc = identity_read(chain, &before, err);
    if (rc == 0)
        rc = role_process(state, role, &pid, err);
    if (rc == 0)
        rc = identity_ask(chain, err);
    if (rc == 0 && kill(pid, SIGHUP) < 0)
        rc = err_set(err, -errno, ERR_AGT_0009, "role %s (process %ld): %s",
                     role, (long)pid, err_errno(errno));
    if (rc == 0)
        rc = await(chain, role, &before, err);
    return rc < 0 ? rc : 1;
}

int
command_renew(const char *state, struct err *err)
{
    /* The manager first: it signs what the replicator asks for. */
    static const char *const roles[] = { "manager", "replicator" };
    char lock[FILE_PATH_SIZE];
    int rc = statedir_check(state, err), n = 0;

    if (rc == 0)
        rc = path_join(lock, state, "lock", err);
    if (rc < 0)
        return rc;
    if (lockfile_probe(lock, NULL) != -EBUSY)
        return err_set(err, -ESRCH, ERR_AGT_0009,
                       "%s: no agent runs with this state directory", state);
    for (size_t i = 0; i < ARRAY_SIZE(roles); i++) {
        rc = renew_role(state, roles[i], err);
        if (rc < 0)
            return rc;
        n += rc;
    }
    return n ? 0
             : err_set(err, -ENOENT, ERR_AGT_0009,
                       "%s: no role has a certificate here", state);
}
