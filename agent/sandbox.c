/* Process-wide limits of the agent. */
#include "sandbox.h"

#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/err.h"
#include "common/log.h"

#ifdef __has_feature
# if __has_feature(address_sanitizer)
#  define WITH_LEAK_CHECK 1
# endif
#endif
#ifdef __SANITIZE_ADDRESS__
# define WITH_LEAK_CHECK 1
#endif
#ifndef WITH_LEAK_CHECK
# define WITH_LEAK_CHECK 0
#endif

static void
note(const char *what)
{
    log_line(LOG_DEBUG, "main", "", "%s: %s", what, err_errno(errno));
}

void
sandbox_apply(void)
{
    const struct rlimit none = { .rlim_cur = 0, .rlim_max = 0 };
    struct rlimit files;

    (void)umask(0077);
    (void)signal(SIGPIPE, SIG_IGN);
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        note("no new privileges");
    /* A core would hold keys.  The leak checker of a sanitizer build traces
     * its own process, which the second line forbids. */
    if (setrlimit(RLIMIT_CORE, &none) < 0)
        note("no core dumps");
    if (!WITH_LEAK_CHECK && prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
        note("no dumps");
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        if (setrlimit(RLIMIT_NOFILE, &files) < 0)
            note("raise the limit of open files");
    }
}

int
sandbox_follow(pid_t supervisor, const char *name)
{
    char comm[16]; /* the kernel's limit */

    (void)snprintf(comm, sizeof comm, "hf-%s", name);
    (void)prctl(PR_SET_NAME, comm, 0, 0, 0);
    /* SIGKILL: state on disk is made for it, and two of a role would be worse
     * than one that ends at once. */
    if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0)
        return -errno;
    if (getppid() != supervisor) /* it died before the line above */
        return -ESRCH;
    return 0;
}
