/* Small durable files.  Order in tmpfile_commit(): the content is on disk
 * before the name points at it, and the name is on disk before the caller
 * hears of success; a crash between leaves the old file. */
#include "common/files.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/bytes.h"

static int
fail(struct err *err, const char *path, const char *what)
{
    int e = errno;

    return err_set(err, -e, ERR_GEN_0003, "%s: %s: %s", path, what,
                   err_errno(e));
}

int
path_join(char out[FILE_PATH_SIZE], const char *dir, const char *name,
          struct err *err)
{
    int n = snprintf(out, FILE_PATH_SIZE, "%s/%s", dir, name);

    if (n < 0 || n >= FILE_PATH_SIZE)
        return err_set(err, -ENAMETOOLONG, ERR_GEN_0003,
                       "%s/%s: path is longer than %d bytes", dir, name,
                       FILE_PATH_SIZE - 1);
    return 0;
}

enum read_flags {
    READ_PLAIN,
    READ_SECRET
};

static int
check_opened(int fd, const char *path, enum read_flags flags, struct err *err)
{
    struct stat st;

    if (fstat(fd, &st) < 0)
        return fail(err, path, "stat");
    if (!S_ISREG(st.st_mode))
        return err_set(err, -EINVAL, ERR_GEN_0003, "%s: not a regular file",
                       path);
    if (flags == READ_PLAIN)
        return 0;
    if (st.st_uid != geteuid() && st.st_uid != 0)
        return err_set(err, -EPERM, ERR_GEN_0006,
                       "%s: holds a secret but belongs to user %u, not %u",
                       path, (unsigned)st.st_uid, (unsigned)geteuid());
    if (st.st_mode & (S_IRWXG | S_IRWXO))
        return err_set(err, -EPERM, ERR_GEN_0006,
                       "%s: holds a secret but has mode %04o, not 0600", path,
                       (unsigned)st.st_mode & 07777U);
    return 0;
}

static int
read_rest(int fd, const char *path, size_t limit, struct buf *out,
          struct err *err)
{
    size_t start = out->len;

    for (;;) {
        size_t left = limit - (out->len - start);
        /* One byte past the limit is asked for, to see whether there is. */
        size_t ask = MIN(left + 1, (size_t)65536);
        char *to = buf_reserve(out, ask);
        ssize_t n;

        if (!to)
            return err_set(err, out->failed, ERR_GEN_0002,
                           "%s: no memory for its content", path);
        n = read(fd, to, ask);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return fail(err, path, "read");
        if ((size_t)n > left)
            return err_set(err, -EFBIG, ERR_GEN_0004,
                           "%s: longer than %zu bytes", path, limit);
        buf_added(out, (size_t)n);
        if (n == 0)
            return 0;
    }
}

static int
read_file(const char *path, size_t limit, enum read_flags flags,
          struct buf *out, struct err *err)
{
    /* O_NONBLOCK: a pipe by that name must not hang us. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    int rc;

    if (fd < 0)
        return fail(err, path, "open");
    rc = check_opened(fd, path, flags, err);
    if (rc == 0)
        rc = read_rest(fd, path, limit, out, err);
    (void)close(fd); /* read-only */
    return rc;
}

int
file_read(const char *path, size_t limit, struct buf *out, struct err *err)
{
    return read_file(path, limit, READ_PLAIN, out, err);
}

int
file_read_secret(const char *path, size_t limit, struct buf *out,
                 struct err *err)
{
    return read_file(path, limit, READ_SECRET, out, err);
}

int
write_all(int fd, const void *p, size_t n, struct err *err)
{
    const char *b = p;

    while (n > 0) {
        ssize_t w = write(fd, b, n);

        if (w < 0 && errno == EINTR)
            continue;
        if (w < 0) {
            int e = errno;

            return err_set(err, -e, ERR_GEN_0003, "write: %s", err_errno(e));
        }
        b += w;
        n -= (size_t)w;
    }
    return 0;
}

int
tmpfile_open(struct tmpfile *tf, const char *dir, mode_t mode, struct err *err)
{
    *tf = (struct tmpfile)TMPFILE_INIT;
    tf->dir = strdup(dir);
    if (!tf->dir || asprintf(&tf->path, "%s/.tmp-XXXXXX", dir) < 0) {
        tf->path = NULL;
        tmpfile_discard(tf);
        return err_set(err, -ENOMEM, ERR_GEN_0002, "%s: out of memory", dir);
    }
    tf->fd = mkostemp(tf->path, O_CLOEXEC);
    if (tf->fd < 0) {
        int rc = fail(err, dir, "make a temporary file");

        free(tf->path);
        tf->path = NULL;
        tmpfile_discard(tf);
        return rc;
    }
    if (fchmod(tf->fd, mode) < 0) {
        int rc = fail(err, tf->path, "set its mode");

        tmpfile_discard(tf);
        return rc;
    }
    return 0;
}

int
tmpfile_commit(struct tmpfile *tf, const char *name, struct err *err)
{
    char path[FILE_PATH_SIZE];
    int fd = tf->fd, rc;

    if (!tf->path)
        return err_set(err, -EINVAL, ERR_GEN_0001, "%s: nothing to commit",
                       name);
    rc = path_join(path, tf->dir, name, err);
    if (rc < 0)
        return rc;
    if (fsync(fd) < 0)
        return fail(err, path, "fsync");
    tf->fd = -1;
    if (close(fd) < 0)
        return fail(err, path, "close");
    if (rename(tf->path, path) < 0)
        return fail(err, path, "rename");
    free(tf->path);
    tf->path = NULL;
    rc = dir_sync(tf->dir, err);
    free(tf->dir);
    tf->dir = NULL;
    return rc;
}

void
tmpfile_discard(struct tmpfile *tf)
{
    if (tf->fd >= 0)
        (void)close(tf->fd); /* the content is given up */
    if (tf->path)
        (void)unlink(tf->path);
    free(tf->path);
    free(tf->dir);
    *tf = (struct tmpfile)TMPFILE_INIT;
}

int
file_replace(const char *path, mode_t mode, const void *p, size_t n,
             struct err *err)
{
    struct tmpfile tf = TMPFILE_INIT;
    char dir[FILE_PATH_SIZE];
    const char *slash = strrchr(path, '/');
    int rc;

    if (!slash)
        (void)snprintf(dir, sizeof dir, ".");
    else if ((size_t)(slash - path) >= sizeof dir)
        return err_set(err, -ENAMETOOLONG, ERR_GEN_0003, "%s: path too long",
                       path);
    else
        (void)snprintf(dir, sizeof dir, "%.*s",
                       slash == path ? 1 : (int)(slash - path), path);
    rc = tmpfile_open(&tf, dir, mode, err);
    if (rc < 0)
        goto out;
    rc = write_all(tf.fd, p, n, err);
    if (rc < 0) {
        err_prefix(err, "%s", path);
        goto out;
    }
    rc = tmpfile_commit(&tf, slash ? slash + 1 : path, err);
out:
    tmpfile_discard(&tf);
    return rc;
}

int
dir_make(const char *path, struct err *err)
{
    char p[FILE_PATH_SIZE];
    size_t n = strlen(path);
    struct stat st;

    if (n == 0 || n >= sizeof p)
        return err_set(err, -EINVAL, ERR_GEN_0003,
                       "%s: no usable directory name", path);
    memcpy(p, path, n + 1);
    for (size_t i = 1; i <= n; i++) {
        if (p[i] != '/' && p[i] != '\0')
            continue;
        p[i] = '\0';
        if (mkdir(p, 0700) < 0 && errno != EEXIST)
            return fail(err, p, "make directory");
        if (i < n)
            p[i] = '/';
    }
    if (stat(path, &st) < 0)
        return fail(err, path, "stat");
    if (!S_ISDIR(st.st_mode))
        return err_set(err, -ENOTDIR, ERR_GEN_0003, "%s: not a directory", path);
    return 0;
}

int
dir_sync(const char *path, struct err *err)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int rc = 0;

    if (fd < 0)
        return fail(err, path, "open");
    if (fsync(fd) < 0)
        rc = fail(err, path, "fsync");
    (void)close(fd); /* read-only */
    return rc;
}

/* The lock on fd was refused: say who has it. */
static int
name_holder(int fd, const char *path, struct err *err)
{
    char text[32] = "";
    ssize_t n;

    if (errno != EWOULDBLOCK)
        return fail(err, path, "lock");
    n = pread(fd, text, sizeof text - 1, 0);
    text[n > 0 ? n : 0] = '\0';
    text[strcspn(text, "\n")] = '\0';
    return err_set(err, -EBUSY, ERR_GEN_0005, "%s: locked by running process %s",
                   path, text[0] ? text : "(number unknown)");
}

int
lockfile_take(struct lockfile *l, const char *path, struct err *err)
{
    int rc, fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    char text[32];
    int n;

    l->fd = -1;
    if (fd < 0)
        return fail(err, path, "open");
    if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
        rc = name_holder(fd, path, err);
        (void)close(fd); /* nothing written */
        return rc;
    }
    n = snprintf(text, sizeof text, "%ld\n", (long)getpid());
    if (ftruncate(fd, 0) < 0 || pwrite(fd, text, (size_t)n, 0) != n) {
        rc = fail(err, path, "write");
        (void)close(fd); /* the lock goes with it */
        return rc;
    }
    l->fd = fd;
    return 0;
}

int
lockfile_probe(const char *path, struct err *err)
{
    int rc = 0, fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);

    if (fd < 0)
        return errno == ENOENT ? 0 : fail(err, path, "open");
    if (flock(fd, LOCK_SH | LOCK_NB) < 0)
        rc = name_holder(fd, path, err);
    (void)close(fd); /* read-only */
    return rc;
}

void
lockfile_release(struct lockfile *l)
{
    if (l->fd >= 0)
        (void)close(l->fd); /* the number in it is advice */
    l->fd = -1;
}
