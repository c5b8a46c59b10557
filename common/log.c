/* The log's one sink.  A record is formatted on the caller's stack and leaves
 * in one write(2), so that lines of several threads, or of several processes
 * appending to one file, never mix. */
#include "common/log.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/text.h"

enum {
    LINE_MAX_BYTES = 2048, /* below PIPE_BUF, so a pipe keeps lines whole too */
};

static const char *const level_names[] = {
    [LOG_ERROR] = "error",
    [LOG_WARN] = "warn",
    [LOG_INFO] = "info",
    [LOG_DEBUG] = "debug",
};
/* The service manager's priorities, sd-daemon(3). */
static const char level_priority[] = { '3', '4', '6', '7' };

static pthread_mutex_t sink_lock = PTHREAD_MUTEX_INITIALIZER;
/* Guarded by sink_lock. */
static int sink_fd = STDERR_FILENO;
static char *sink_path; /* NULL: standard error */
static bool sink_is_journal;
/* Read without the lock on every call. */
static _Atomic int max_level = LOG_INFO;

/* sd_journal_stream: the variable holds device:inode of the descriptor it was
 * set for, so a redirected standard error is told apart. */
static bool
stderr_is_journal(void)
{
    /* Set once, by the service manager.  NOLINTNEXTLINE(concurrency-mt-unsafe) */
    const char *v = getenv("JOURNAL_STREAM");
    char want[64];
    struct stat st;

    if (!v || fstat(STDERR_FILENO, &st) < 0)
        return false;
    (void)snprintf(want, sizeof want, "%llu:%llu",
                   (unsigned long long)st.st_dev, (unsigned long long)st.st_ino);
    return strcmp(v, want) == 0;
}

static int
open_file(const char *path)
{
    return open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY,
                0640);
}

int
log_open(const char *path, struct err *err)
{
    char *copy = NULL;
    int fd = STDERR_FILENO;

    if (path) {
        copy = strdup(path);
        if (!copy)
            return err_set(err, -ENOMEM, ERR_GEN_0002, "log %s: out of memory",
                           path);
        fd = open_file(path);
        if (fd < 0) {
            int e = errno;

            free(copy);
            return err_set(err, -e, ERR_GEN_0003, "log %s: open: %s", path,
                           err_errno(e));
        }
    }
    log_close();
    pthread_mutex_lock(&sink_lock);
    sink_fd = fd;
    sink_path = copy;
    sink_is_journal = !path && stderr_is_journal();
    pthread_mutex_unlock(&sink_lock);
    return 0;
}

void
log_reopen(void)
{
    pthread_mutex_lock(&sink_lock);
    if (sink_path) {
        int fd = open_file(sink_path);

        if (fd >= 0) { /* else go on with the old file */
            (void)close(sink_fd);
            sink_fd = fd;
        }
    }
    pthread_mutex_unlock(&sink_lock);
}

void
log_close(void)
{
    pthread_mutex_lock(&sink_lock);
    if (sink_path) {
        (void)close(sink_fd);
        free(sink_path);
    }
    sink_fd = STDERR_FILENO;
    sink_path = NULL;
    sink_is_journal = false;
    pthread_mutex_unlock(&sink_lock);
}

void
log_set_level(enum log_level level)
{
    atomic_store_explicit(&max_level, (int)level, memory_order_relaxed);
}

int
log_level_parse(const char *name, enum log_level *out_level)
{
    for (size_t i = 0; i < ARRAY_SIZE(level_names); i++) {
        if (strcmp(name, level_names[i]) == 0) {
            *out_level = (enum log_level)i;
            return 0;
        }
    }
    return -EINVAL;
}

static size_t
format_time(char *out, size_t cap)
{
    struct timespec ts;
    struct tm tm;
    size_t n;

    if (clock_gettime(CLOCK_REALTIME, &ts) < 0 || !gmtime_r(&ts.tv_sec, &tm))
        return 0;
    n = strftime(out, cap, "%Y-%m-%dT%H:%M:%S", &tm);
    return n + (size_t)snprintf(out + n, cap - n, ".%03uZ",
                                (unsigned)(ts.tv_nsec / 1000000) % 1000);
}

static void
emit(enum log_level level, const char *line, size_t n)
{
    char with_priority[LINE_MAX_BYTES + 8];
    size_t done = 0;

    pthread_mutex_lock(&sink_lock);
    if (sink_is_journal) {
        int k = snprintf(with_priority, sizeof with_priority, "<%c>%.*s",
                         level_priority[level], (int)n, line);

        line = with_priority;
        n = k > 0 ? MIN((size_t)k, sizeof with_priority - 1) : 0;
    }
    while (done < n) {
        ssize_t w = write(sink_fd, line + done, n - done);

        if (w < 0 && errno == EINTR)
            continue;
        if (w < 0)
            break; /* nowhere left to complain to */
        done += (size_t)w;
    }
    pthread_mutex_unlock(&sink_lock);
}

void
log_line(enum log_level level, const char *room, const char *ids,
         const char *fmt, ...)
{
    char line[LINE_MAX_BYTES];
    size_t cap = sizeof line - 1; /* for the newline */
    size_t n;
    va_list ap;
    int k;

    if ((int)level > atomic_load_explicit(&max_level, memory_order_relaxed))
        return;
    n = format_time(line, cap);
    k = snprintf(line + n, cap - n, " %s %s %s%s", level_names[level], room,
                 ids, ids[0] ? " " : "");
    n += k > 0 ? MIN((size_t)k, cap - n - 1) : 0;
    va_start(ap, fmt);
    /* NOLINTNEXTLINE(clang-analyzer-valist.Uninitialized): it is, above */
    (void)vsnprintf(line + n, cap - n, fmt, ap);
    va_end(ap);
    text_clean(line);
    n = strlen(line);
    line[n] = '\n';
    emit(level, line, n + 1);
}

void
log_err(enum log_level level, const char *room, const char *ids,
        const char *trying, const struct err *err)
{
    log_line(level, room, ids, "%s: %s (%s; next: %s)", trying, err->msg,
             err_code_text(err->code), err_code_next(err->code));
}
