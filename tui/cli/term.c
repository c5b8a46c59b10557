/* Reading from the terminal, a character at a time, with our own small line
 * editing (Backspace, Ctrl-U), so that Ctrl-C can be told from an answer. */
#include "tui/cli/term.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include "common/files.h"

enum {
    CTRL_C = 3,
    CTRL_D = 4,
    BACKSPACE = 8,
    CTRL_U = 21,
    DELETE = 127,
    POLL_MS = 200
};

bool
term_present(void)
{
    int fd;

    if (!isatty(STDIN_FILENO))
        return false;
    fd = open("/dev/tty", O_RDWR | O_CLOEXEC | O_NOCTTY);
    if (fd < 0)
        return false;
    (void)close(fd); /* nothing was written */
    return true;
}

size_t
term_columns(void)
{
    struct winsize w;

    if (!isatty(STDOUT_FILENO) || ioctl(STDOUT_FILENO, TIOCGWINSZ, &w) < 0)
        return 0;
    return w.ws_col;
}

static const int ending[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP };

static bool
signal_waits(void)
{
    sigset_t waiting;

    if (sigpending(&waiting) < 0)
        return false;
    for (size_t i = 0; i < sizeof ending / sizeof ending[0]; i++) {
        if (sigismember(&waiting, ending[i]) == 1)
            return true;
    }
    return false;
}

/* The next byte; -1 at the end or when a signal waits. */
static int
read_key(int fd)
{
    struct pollfd p = { .fd = fd, .events = POLLIN };
    unsigned char c;
    int rc;

    while (!signal_waits()) {
        rc = poll(&p, 1, POLL_MS);
        if (rc == 0 || (rc < 0 && errno == EINTR))
            continue;
        return rc > 0 && read(fd, &c, 1) == 1 ? c : -1;
    }
    return -1;
}

static void
say(int fd, const char *s, size_t n)
{
    (void)write_all(fd, s, n, NULL); /* a terminal that is gone shows nothing */
}

static size_t
rub_out(int fd, const char *line, size_t n, bool echo)
{
    if (!n)
        return 0;
    do
        n--;
    while (n && ((unsigned char)line[n] & 0xc0) == 0x80);
    if (echo)
        say(fd, "\b \b", 3);
    return n;
}

/* 0 when Enter ended the line, -ECANCELED else. */
static int
edit_line(int fd, bool echo, char *line, size_t cap)
{
    size_t n = 0;
    int key;

    for (;;) {
        key = read_key(fd);
        if (key < 0 || key == CTRL_C || (key == CTRL_D && n == 0))
            return -ECANCELED;
        if (key == '\r' || key == '\n') {
            line[n] = '\0';
            return 0;
        }
        if (key == BACKSPACE || key == DELETE) {
            n = rub_out(fd, line, n, echo);
        } else if (key == CTRL_U) {
            while (n)
                n = rub_out(fd, line, n, echo);
        } else if (key >= ' ' && n + 1 < cap) {
            line[n] = (char)key;
            if (echo)
                say(fd, line + n, 1);
            n++;
        }
    }
}

static int
ask(const char *question, bool echo, char *line, size_t cap)
{
    struct termios before, raw;
    sigset_t block, old;
    int fd = open("/dev/tty", O_RDWR | O_CLOEXEC | O_NOCTTY), rc;

    if (fd < 0)
        return -ENXIO;
    if (tcgetattr(fd, &before) < 0) {
        (void)close(fd); /* nothing was written */
        return -ENXIO;
    }
    (void)sigemptyset(&block);
    for (size_t i = 0; i < sizeof ending / sizeof ending[0]; i++)
        (void)sigaddset(&block, ending[i]);
    (void)pthread_sigmask(SIG_BLOCK, &block, &old);
    raw = before;
    raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO | ISIG);
    raw.c_cc[VMIN] = 1;
    raw.c_cc[VTIME] = 0;
    /* What was typed before the question is no answer to it. */
    rc = tcsetattr(fd, TCSAFLUSH, &raw) < 0 ? -ENXIO : 0;
    if (rc == 0) {
        say(fd, question, strlen(question));
        rc = edit_line(fd, echo, line, cap);
        say(fd, "\n", 1);
        (void)tcsetattr(fd, TCSAFLUSH, &before);
    }
    (void)pthread_sigmask(SIG_SETMASK, &old, NULL); /* what waited acts now */
    (void)close(fd);                                /* a terminal */
    return rc;
}

int
term_ask(const char *question, char *out, size_t cap, struct err *err)
{
    int rc = term_present() ? ask(question, true, out, cap) : -ENXIO;

    if (rc < 0)
        return err_set(err, -ECANCELED, ERR_CLI_0013, "%s",
                       rc == -ENXIO ? "there is no terminal to ask on"
                                    : "left without an answer");
    return 0;
}

int
term_password(const char *question, struct secret *out, struct err *err)
{
    char line[SECRET_MAX + 1] = "";
    int rc = ask(question, false, line, sizeof line);

    if (rc == 0)
        (void)secret_set(out, line, strlen(line));
    explicit_bzero(line, sizeof line);
    if (rc < 0)
        return err_set(err, -EACCES, ERR_CLI_0006,
                       rc == -ENXIO ? "no password: there is no password_file "
                                      "and no terminal to ask on"
                                    : "no password was given");
    return 0;
}
