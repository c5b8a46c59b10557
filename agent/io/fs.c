/* Opening files and knowing names: the real file system.
 *
 * Names are in a world of their own (io_fs_ops) so that a simulation can have
 * its own disks; what is built of other calls (reading and replacing whole
 * files) works in any world.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "io/loop_backend.h"

enum {
    SECTOR = 512,
    DIRECT_ALIGN_DEFAULT = 4096,
    TREE_DEPTH_MAX = 64
};

/* --- opening ------------------------------------------------------------------ */

static int
open_flags(unsigned flags)
{
    int o = O_CLOEXEC | O_NOCTTY;

    o |= flags & IO_OPEN_WRITE ? O_RDWR : O_RDONLY;
    if (flags & IO_OPEN_CREATE)
        o |= O_CREAT;
    if (flags & (IO_OPEN_EXCLUSIVE | IO_OPEN_BLOCK_EXCL))
        o |= O_EXCL;
    if (flags & IO_OPEN_TRUNCATE)
        o |= O_TRUNC;
    if (flags & IO_OPEN_DIRECT)
        o |= O_DIRECT;
    return o;
}

static int
open_retry(const char *path, int o)
{
    int fd;

    do
        fd = open(path, o, 0600);
    while (fd < 0 && errno == EINTR);
    return fd < 0 ? -errno : fd;
}

static uint32_t
direct_align(const struct io_file *f)
{
    uint32_t align = f->is_block ? f->block : DIRECT_ALIGN_DEFAULT;
#ifdef STATX_DIOALIGN
    struct statx sx;

    if (statx(f->fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &sx) == 0 &&
        (sx.stx_mask & STATX_DIOALIGN) && sx.stx_dio_offset_align)
        align = MAX(sx.stx_dio_mem_align, sx.stx_dio_offset_align);
#endif
    return MAX(align, (uint32_t)SECTOR);
}

static int
file_learn(struct io_file *f, struct err *err)
{
    struct stat st;
    struct statfs sf;
    int ssz = SECTOR, o;

    if (fstat(f->fd, &st) < 0)
        return err_set(err, -errno, ERR_IO_0004, "%s: stat: %s", f->path,
                       err_errno(errno));
    f->is_block = S_ISBLK(st.st_mode);
    f->is_regular = S_ISREG(st.st_mode);
    if (f->is_block && ioctl(f->fd, BLKSSZGET, &ssz) < 0)
        return err_set(err, -errno, ERR_IO_0004, "%s: BLKSSZGET: %s", f->path,
                       err_errno(errno));
    f->block = (uint32_t)MAX(ssz, (int)SECTOR);
    f->ram_backed = f->is_regular && fstatfs(f->fd, &sf) == 0 &&
                    (sf.f_type == TMPFS_MAGIC || sf.f_type == RAMFS_MAGIC);
    o = fcntl(f->fd, F_GETFL);
    f->direct = o >= 0 && (o & O_DIRECT);
    f->align = f->direct ? direct_align(f) : 1;
    return 0;
}

static int
real_open(struct io_loop *loop, const char *path, unsigned flags,
          struct io_file **out, struct err *err)
{
    struct io_file *f = calloc(1, sizeof *f);
    int rc = -ENOMEM;

    if (f)
        f->path = strdup(path);
    if (!f || !f->path) {
        free(f);
        return err_set(err, rc, ERR_GEN_0002, "%s: no memory", path);
    }
    f->loop = loop;
    f->read_only = !(flags & IO_OPEN_WRITE);
    f->fd = open_retry(path, open_flags(flags));
    if (f->fd == -EINVAL && (flags & IO_OPEN_DIRECT)) /* no O_DIRECT there */
        f->fd = open_retry(path, open_flags(flags & ~(unsigned)IO_OPEN_DIRECT));
    if (f->fd < 0) {
        rc = err_set(err, f->fd, ERR_IO_0004, "opening %s%s: %s", path,
                     f->read_only ? "" : " for writing", err_errno(f->fd));
        goto fail;
    }
    rc = file_learn(f, err);
    if (rc < 0)
        goto fail;
    *out = f;
    return 0;

fail:
    io_file_close(f);
    return rc;
}

int
io_file_open(struct io_loop *loop, const char *path, unsigned flags,
             struct io_file **out, struct err *err)
{
    return loop->fs->open(loop, path, flags, out, err);
}

/* Errors of close() tell nothing that fdatasync has not told: who needs the
 * data to be safe has synced it. */
void
io_file_close(struct io_file *f)
{
    if (!f)
        return;
    if (f->ops) {
        f->ops->close(f);
        return;
    }
    if (f->fd >= 0)
        (void)close(f->fd);
    free(f->path);
    free(f);
}

const char *
io_file_path(const struct io_file *f)
{
    return f->path;
}

int
io_file_info(struct io_file *f, struct io_file_info *out, struct err *err)
{
    struct stat st;
    struct io_file_info in = { .align = f->align,
                               .block = f->block,
                               .is_block_device = f->is_block,
                               .is_regular = f->is_regular,
                               .direct = f->direct,
                               .ram_backed = f->ram_backed };

    if (f->ops)
        return f->ops->info(f, out, err);
    if (fstat(f->fd, &st) < 0)
        return err_set(err, -errno, ERR_IO_0005, "%s: stat: %s", f->path,
                       err_errno(errno));
    in.size = (uint64_t)st.st_size;
    if (f->is_block && ioctl(f->fd, BLKGETSIZE64, &in.size) < 0)
        return err_set(err, -errno, ERR_IO_0005, "%s: BLKGETSIZE64: %s",
                       f->path, err_errno(errno));
    if (f->is_regular) {
        in.allocated = (uint64_t)st.st_blocks * SECTOR;
        in.mtime_ns = (uint64_t)st.st_mtim.tv_sec * NSEC_PER_SEC +
                      (uint64_t)st.st_mtim.tv_nsec;
    }
    in.identity = f->is_block ? (uint64_t)st.st_rdev
                              : (uint64_t)st.st_dev * 0x9e3779b97f4a7c15u +
                                    (uint64_t)st.st_ino;
    *out = in;
    return 0;
}

/* A number of a device's queue; a partition's is its disk's. */
int
io_device_queue(struct io_file *f, const char *name, uint64_t *out)
{
    static const char *const up[] = { "", "../" };
    struct stat st;

    if (fstat(f->fd, &st) < 0)
        return -errno;
    for (size_t i = 0; i < ARRAY_SIZE(up); i++) {
        char path[128]; /* two 32-bit numbers, and names of the kernel's */
        char text[32];  /* 20 digits and a line end */
        unsigned long long v;
        FILE *fp;
        bool got;

        (void)snprintf(path, sizeof path, "/sys/dev/block/%u:%u/%squeue/%s",
                       major(st.st_rdev), minor(st.st_rdev), up[i], name);
        fp = fopen(path, "re");
        if (!fp)
            continue;
        got = fgets(text, sizeof text, fp) != NULL;
        (void)fclose(fp); /* read-only */
        errno = 0;
        v = got ? strtoull(text, NULL, 10) : 0;
        if (!got || errno)
            return -EIO;
        *out = v;
        return 0;
    }
    return -ENOENT;
}

static bool
device_can_punch(struct io_file *f)
{
    uint64_t max = 0;

    return io_device_queue(f, "write_zeroes_max_bytes", &max) == 0 && max > 0;
}

/* Tried beyond the end, where a hole changes nothing.  ext4 notes a time of
 * change all the same: it is put back, because it is what tells a later start
 * whether somebody else wrote the file (lane.super). */
static bool
regular_can_punch(struct io_file *f)
{
    struct stat before, after;
    struct timespec times[2] = { { .tv_nsec = UTIME_OMIT } };
    bool can;

    if (fstat(f->fd, &before) < 0)
        return false;
    can = fallocate(f->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                    (before.st_size / 4096 + 1) * 4096, 4096) == 0;
    times[1] = before.st_mtim;
    if (fstat(f->fd, &after) == 0 &&
        (after.st_mtim.tv_sec != before.st_mtim.tv_sec ||
         after.st_mtim.tv_nsec != before.st_mtim.tv_nsec))
        (void)futimens(f->fd, times); /* else the next start syncs */
    return can;
}

/* Tried once. */
bool
io_file_can_punch(struct io_file *f)
{
    unsigned bits = atomic_load(&f->bits);
    bool can;

    if (f->ops)
        return f->ops->can_punch(f);
    if (bits & (IO_FILE_CAN_PUNCH | IO_FILE_NO_PUNCH))
        return (bits & IO_FILE_CAN_PUNCH) && !(bits & IO_FILE_NO_PUNCH);
    if (f->read_only)
        return false;
    can = f->is_block ? device_can_punch(f) : regular_can_punch(f);
    atomic_fetch_or(&f->bits, can ? IO_FILE_CAN_PUNCH : IO_FILE_NO_PUNCH);
    return can;
}

/* --- names -------------------------------------------------------------------- */

static int
dir_err(struct err *err, int num, const char *what, const char *path)
{
    return err_set(err, num, ERR_IO_0006, "%s %s: %s", what, path,
                   err_errno(num));
}

static int
mkdir_one(const char *path)
{
    struct stat st;

    if (mkdir(path, 0700) == 0)
        return 0;
    if (errno != EEXIST)
        return -errno;
    if (stat(path, &st) < 0)
        return -errno;
    return S_ISDIR(st.st_mode) ? 0 : -ENOTDIR;
}

static int
real_mkdir(const char *path, struct err *err)
{
    char *p = strdup(path);
    int rc = 0;

    if (!p)
        return err_set(err, -ENOMEM, ERR_GEN_0002, "%s: no memory", path);
    for (char *s = p; *s && rc == 0; s++) {
        if (*s != '/' || s == p)
            continue;
        *s = '\0';
        rc = mkdir_one(p);
        *s = '/';
    }
    if (rc == 0)
        rc = mkdir_one(p);
    free(p);
    return rc < 0 ? dir_err(err, rc, "making directory", path) : 0;
}

static int
real_rename(const char *from, const char *to, struct err *err)
{
    if (rename(from, to) == 0)
        return 0;
    return err_set(err, -errno, ERR_IO_0006, "renaming %s to %s: %s", from, to,
                   err_errno(errno));
}

static int
real_unlink(const char *path)
{
    return unlink(path) == 0 || errno == ENOENT ? 0 : -errno;
}

/* NULL with errno 0: the end. */
static const struct dirent *
entry_next(DIR *d)
{
    errno = 0;
    return readdir(d); /* NOLINT(concurrency-mt-unsafe): d is ours alone */
}

static bool
is_dot(const char *name)
{
    return strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
}

/* Empties the directory fd, which is consumed.  Links are not followed. */
static int
tree_empty(int fd, unsigned depth)
{
    DIR *d = fdopendir(fd);
    const struct dirent *de;
    int rc = 0;

    if (!d) {
        rc = -errno;
        (void)close(fd); /* read-only */
        return rc;
    }
    if (depth > TREE_DEPTH_MAX)
        rc = -ELOOP;
    while (rc == 0 && (de = entry_next(d))) {
        int sub;

        if (is_dot(de->d_name) || unlinkat(dirfd(d), de->d_name, 0) == 0)
            continue;
        rc = errno == ENOENT ? 0 : -errno;
        if (errno != EISDIR && errno != EPERM)
            continue;
        sub = openat(dirfd(d), de->d_name,
                     O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        rc = sub < 0 ? -errno : tree_empty(sub, depth + 1);
        if (rc == 0 && unlinkat(dirfd(d), de->d_name, AT_REMOVEDIR) < 0)
            rc = -errno;
    }
    if (rc == 0 && errno)
        rc = -errno;
    (void)closedir(d); /* read-only */
    return rc;
}

static int
real_rmdir_tree(const char *path, struct err *err)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    int rc;

    if (fd < 0)
        return errno == ENOENT ? 0 : dir_err(err, -errno, "removing tree", path);
    rc = tree_empty(fd, 0);
    if (rc == 0 && rmdir(path) < 0)
        rc = -errno;
    return rc < 0 ? dir_err(err, rc, "removing tree", path) : 0;
}

static int
real_sync_dir(const char *path, struct err *err)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC), rc = 0;

    if (fd < 0)
        return dir_err(err, -errno, "syncing directory", path);
    if (fsync(fd) < 0)
        rc = dir_err(err, -errno, "syncing directory", path);
    (void)close(fd); /* read-only */
    return rc;
}

static int
name_cmp(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static int
names_read(DIR *d, size_t max, char ***names, size_t *n)
{
    const struct dirent *de;
    size_t cap = 0;

    while ((de = entry_next(d))) {
        if (is_dot(de->d_name))
            continue;
        if (*n == max)
            return -E2BIG;
        if (*n == cap) {
            size_t more = cap ? 2 * cap : 16;
            char **grown = reallocarray(*names, more, sizeof(char *));

            if (!grown)
                return -ENOMEM;
            *names = grown;
            cap = more;
        }
        (*names)[*n] = strdup(de->d_name);
        if (!(*names)[*n])
            return -ENOMEM;
        ++*n;
    }
    return -errno;
}

static int
real_list_dir(const char *path, size_t max, char ***out_names, size_t *out_n,
              struct err *err)
{
    DIR *d = opendir(path);
    char **names = NULL;
    size_t n = 0;
    int rc;

    if (!d)
        return dir_err(err, -errno, "listing", path);
    rc = names_read(d, max, &names, &n);
    (void)closedir(d); /* read-only */
    if (rc < 0) {
        io_list_free(names, n);
        return rc == -E2BIG
                   ? err_set(err, rc, ERR_IO_0006,
                             "listing %s: more than %zu names", path, max)
                   : dir_err(err, rc, "listing", path);
    }
    if (n)
        qsort(names, n, sizeof(char *), name_cmp);
    *out_names = names;
    *out_n = n;
    return 0;
}

static int
real_disk_free(const char *path, uint64_t *out_free, uint64_t *out_size)
{
    struct statvfs sv;

    if (statvfs(path, &sv) < 0)
        return -errno;
    *out_free = (uint64_t)sv.f_bavail * sv.f_frsize;
    *out_size = (uint64_t)sv.f_blocks * sv.f_frsize;
    return 0;
}

const struct io_fs_ops io_fs_real = {
    .open = real_open,
    .mkdir = real_mkdir,
    .rename = real_rename,
    .unlink = real_unlink,
    .rmdir_tree = real_rmdir_tree,
    .sync_dir = real_sync_dir,
    .list_dir = real_list_dir,
    .disk_free = real_disk_free,
};

int
io_mkdir(struct io_loop *loop, const char *path, struct err *err)
{
    return loop->fs->mkdir(path, err);
}

int
io_rename(struct io_loop *loop, const char *from, const char *to,
          struct err *err)
{
    return loop->fs->rename(from, to, err);
}

int
io_unlink(struct io_loop *loop, const char *path)
{
    return loop->fs->unlink(path);
}

int
io_rmdir_tree(struct io_loop *loop, const char *path, struct err *err)
{
    return loop->fs->rmdir_tree(path, err);
}

int
io_sync_dir(struct io_loop *loop, const char *path, struct err *err)
{
    return loop->fs->sync_dir(path, err);
}

int
io_list_dir(struct io_loop *loop, const char *path, size_t max,
            char ***out_names, size_t *out_n, struct err *err)
{
    return loop->fs->list_dir(path, max, out_names, out_n, err);
}

void
io_list_free(char **names, size_t n)
{
    for (size_t i = 0; i < n; i++)
        free(names[i]);
    free(names);
}

int
io_disk_free(struct io_loop *loop, const char *path, uint64_t *out_free,
             uint64_t *out_size)
{
    return loop->fs->disk_free(path, out_free, out_size);
}

/* --- whole files ---------------------------------------------------------------- */

int
io_read_whole(struct io_loop *loop, const char *path, size_t max, uint8_t **out,
              size_t *out_len, struct err *err)
{
    struct io_file *f = NULL;
    uint8_t *data = NULL;
    size_t cap = 4096, len = 0;
    int64_t n;
    int rc = io_file_open(loop, path, IO_OPEN_READ, &f, err);

    if (rc < 0)
        return rc;
    for (;;) { /* the size is what can be read, not what stat said */
        uint8_t *grown = realloc(data, cap);

        if (!grown) {
            rc = err_set(err, -ENOMEM, ERR_GEN_0002, "%s: no memory", path);
            break;
        }
        data = grown;
        n = io_file_pread_sync(f, data + len, cap - len, len);
        if (n < 0) {
            rc = err_set(err, (int)n, ERR_IO_0005, "reading %s: %s", path,
                         err_errno((int)n));
            break;
        }
        len += (size_t)n;
        if (len > max) {
            rc = err_set(err, -EFBIG, ERR_IO_0005,
                         "%s is longer than %zu bytes", path, max);
            break;
        }
        if (len < cap)
            break;
        cap *= 2;
    }
    io_file_close(f);
    if (rc < 0) {
        free(data);
        return rc;
    }
    *out = data;
    *out_len = len;
    return 0;
}

static int
sync_parent(struct io_loop *loop, const char *path, struct err *err)
{
    const char *slash = strrchr(path, '/');
    char *dir;
    int rc;

    if (!slash)
        return io_sync_dir(loop, ".", err);
    dir = strndup(path, slash == path ? 1 : (size_t)(slash - path));
    if (!dir)
        return err_set(err, -ENOMEM, ERR_GEN_0002, "%s: no memory", path);
    rc = io_sync_dir(loop, dir, err);
    free(dir);
    return rc;
}

/* The content is on disk before the name points to it, otherwise a crash here
 * would leave an empty file under it; the name is on disk before we return.  A
 * left-over temporary file is overwritten by the next attempt. */
int
io_replace_whole(struct io_loop *loop, const char *path, const void *data,
                 size_t len, struct err *err)
{
    struct io_file *f = NULL;
    char *tmp = NULL;
    int rc;

    if (asprintf(&tmp, "%s.tmp", path) < 0)
        return err_set(err, -ENOMEM, ERR_GEN_0002, "%s: no memory", path);
    rc = io_file_open(loop, tmp,
                      IO_OPEN_WRITE | IO_OPEN_CREATE | IO_OPEN_TRUNCATE, &f,
                      err);
    if (rc < 0)
        goto out;
    rc = io_file_pwrite_sync(f, data, len, 0);
    if (rc == 0)
        rc = io_file_fdatasync_sync(f);
    io_file_close(f);
    if (rc < 0)
        err_set(err, rc, ERR_IO_0005, "writing %s: %s", tmp, err_errno(rc));
    if (rc == 0)
        rc = io_rename(loop, tmp, path, err);
    if (rc == 0)
        rc = sync_parent(loop, path, err);
    else
        (void)io_unlink(loop, tmp);
out:
    free(tmp);
    return rc;
}
