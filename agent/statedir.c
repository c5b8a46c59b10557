/* Making and checking state directories.  A new one is built under another
 * name beside its place and renamed at the end, so that a crash or an error
 * leaves nothing half-made under the name people know. */
#include "statedir.h"

#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/text.h"

#define VERSION_WORD "holdfast-state "

/* 1 empty or absent, 0 not empty, negative: no directory or not readable. */
static int
is_vacant(const char *path, struct err *err)
{
    DIR *d = opendir(path);
    struct dirent *e;
    int vacant = 1;

    if (!d && errno == ENOENT)
        return 1;
    if (!d)
        return err_set(err, -errno, ERR_AGT_0003, "%s: %s", path,
                       err_errno(errno));
    while (vacant) {
        /* Its own stream.  NOLINTNEXTLINE(concurrency-mt-unsafe) */
        e = readdir(d);
        if (!e)
            break;
        vacant = strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0;
    }
    (void)closedir(d);
    return vacant;
}

static int
parse_version(const char *path, const char *text, struct err *err)
{
    char copy[64], *s;
    uint64_t v = 0;

    (void)snprintf(copy, sizeof copy, "%s", text);
    s = text_trim(copy);
    if (strncmp(s, VERSION_WORD, strlen(VERSION_WORD)) != 0 ||
        text_parse_u64(s + strlen(VERSION_WORD), 1, UINT32_MAX, &v) < 0)
        return err_set(err, -EBADMSG, ERR_AGT_0003,
                       "%s: VERSION holds \"%s\", not \"%sN\"", path, s,
                       VERSION_WORD);
    if (v > STATEDIR_VERSION)
        return err_set(err, -EPROTONOSUPPORT, ERR_AGT_0002,
                       "%s: state version %llu is newer than %d, the newest "
                       "that holdfastd " HOLDFAST_VERSION " knows",
                       path, (unsigned long long)v, STATEDIR_VERSION);
    return 0;
}

int
statedir_check(const char *path, struct err *err)
{
    char file[FILE_PATH_SIZE];
    struct buf text;
    int rc = path_join(file, path, "VERSION", err);

    if (rc < 0)
        return rc;
    buf_init(&text, 128);
    rc = file_read(file, 64, &text, err);
    if (rc == 0) {
        rc = parse_version(path, text.len ? (const char *)text.data : "", err);
    } else if (rc == -ENOENT) {
        int vacant = is_vacant(path, err);

        if (vacant > 0)
            rc = err_set(err, -ENOENT, ERR_AGT_0003,
                         "%s: there is no state directory", path);
        else if (vacant == 0)
            rc = err_set(err, -EBADMSG, ERR_AGT_0003,
                         "%s: holds files but no VERSION", path);
        else
            rc = vacant;
    }
    buf_release(&text);
    return rc;
}

int
statedir_lock(const char *path, struct lockfile *lock, struct err *err)
{
    char file[FILE_PATH_SIZE];
    int rc = path_join(file, path, "lock", err);

    return rc < 0 ? rc : lockfile_take(lock, file, err);
}

/* Why the directory can not be made there. */
static int
refuse_existing(const char *path, struct err *err)
{
    char file[FILE_PATH_SIZE];
    int rc = statedir_check(path, err);

    if (rc == -ENOENT)
        return 0;
    if (rc == -EPROTONOSUPPORT || (rc < 0 && rc != -EBADMSG))
        return rc;
    if (rc == -EBADMSG)
        return err_set(err, -EEXIST, ERR_AGT_0001,
                       "%s: exists and is not empty", path);
    rc = path_join(file, path, "lock", err);
    if (rc == 0)
        rc = lockfile_probe(file, err);
    if (rc < 0)
        return rc;
    return err_set(err, -EEXIST, ERR_AGT_0001,
                   "%s: is a state directory already", path);
}

static int
fill_draft(const char *draft, struct err *err)
{
    char file[FILE_PATH_SIZE], text[40];
    int rc = path_join(file, draft, "VERSION", err);

    if (rc < 0)
        return rc;
    (void)snprintf(text, sizeof text, VERSION_WORD "%d\n", STATEDIR_VERSION);
    rc = file_replace(file, 0600, text, strlen(text), err);
    if (rc == 0)
        rc = path_join(file, draft, "run", err);
    return rc < 0 ? rc : dir_make(file, err);
}

int
statedir_begin(const char *path, char out_draft[FILE_PATH_SIZE], struct err *err)
{
    char clean[FILE_PATH_SIZE], draft[FILE_PATH_SIZE], *slash;
    size_t n = strlen(path);
    int rc = refuse_existing(path, err);

    if (rc < 0)
        return rc;
    while (n > 1 && path[n - 1] == '/')
        n--;
    if (n == 0 || n + 16 > sizeof clean)
        return err_set(err, -ENAMETOOLONG, ERR_GEN_0003,
                       "%s: path of %zu bytes", path, n);
    (void)snprintf(clean, sizeof clean, "%.*s", (int)n, path);
    (void)snprintf(draft, sizeof draft, "%.1000s.new-XXXXXX", clean);
    slash = strrchr(clean, '/');
    if (slash && slash != clean) {
        *slash = '\0';
        rc = dir_make(clean, err);
        if (rc < 0)
            return rc;
    }
    if (!mkdtemp(draft))
        return err_set(err, -errno, ERR_GEN_0003, "%s: make directory: %s",
                       draft, err_errno(errno));
    rc = fill_draft(draft, err);
    if (rc < 0)
        statedir_discard(draft);
    else
        memcpy(out_draft, draft, sizeof draft);
    return rc;
}

int
statedir_commit(const char *draft, const char *path, struct err *err)
{
    char parent[FILE_PATH_SIZE];
    int rc = dir_sync(draft, err);

    if (rc < 0)
        return rc;
    /* rename(2) replaces an empty directory and nothing else. */
    if (rename(draft, path) < 0) {
        int e = errno;

        return err_set(err, -e,
                       e == ENOTEMPTY || e == EEXIST ? ERR_AGT_0001
                                                     : ERR_GEN_0003,
                       "%s: put in place: %s", path, err_errno(e));
    }
    rc = path_join(parent, path, "..", err);
    return rc < 0 ? rc : dir_sync(parent, err);
}

static int
remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    UNUSED(st);
    UNUSED(type);
    UNUSED(ftw);
    return remove(path);
}

void
statedir_discard(const char *draft)
{
    /* A command has one thread.  NOLINTNEXTLINE(concurrency-mt-unsafe) */
    (void)nftw(draft, remove_one, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
}
