/* Files for control data: small, whole, durable, locked.  Nothing here is for
 * the data path, which reaches files through io/ alone.  Blocking. */
#ifndef HOLDFAST_COMMON_FILES_H
#define HOLDFAST_COMMON_FILES_H

#include <stddef.h>
#include <sys/types.h>

#include "common/buf.h"
#include "common/err.h"

/* Longer paths are refused with a sentence; several fit on a stack. */
enum {
    FILE_PATH_SIZE = 1024
};

/* dir/name into out; -ENAMETOOLONG with a sentence. */
int path_join(char out[FILE_PATH_SIZE], const char *dir, const char *name,
              struct err *err);

/* Append the whole regular file to out; -EFBIG when it holds more than limit
 * bytes, -ENOENT and others as open(2). */
int file_read(const char *path, size_t limit, struct buf *out, struct err *err);

/* The same for a file that holds a secret: must be a regular file, owned by
 * the effective user or root, without any access for group and others, else
 * -EPERM.  The caller wipes the buffer. */
int file_read_secret(const char *path, size_t limit, struct buf *out,
                     struct err *err);

/* Write all n bytes, whatever write(2) takes at a time. */
int write_all(int fd, const void *p, size_t n, struct err *err);

/* A file that appears under its name complete and durable, or not at all. */
struct tmpfile {
    int fd;     /* write here; -1: nothing open */
    char *path; /* of the temporary file */
    char *dir;
};

#define TMPFILE_INIT \
 {                   \
  .fd = -1           \
 }

int
tmpfile_open(struct tmpfile *tf, const char *dir, mode_t mode, struct err *err);
/* fsync, rename to dir/name, fsync dir. */
int tmpfile_commit(struct tmpfile *tf, const char *name, struct err *err);
void tmpfile_discard(struct tmpfile *tf); /* no-op after a commit */

/* The three steps at once for content in memory. */
int file_replace(const char *path, mode_t mode, const void *p, size_t n,
                 struct err *err);

/* Make path and what is missing above it, each 0700.  0 when it is there. */
int dir_make(const char *path, struct err *err);
int dir_sync(const char *path, struct err *err);

/* A lock for the life of the process (flock(2), so a crash frees it), which
 * holds its owner's process number in decimal. */
struct lockfile {
    int fd;
};
#define LOCKFILE_INIT \
 {                    \
  .fd = -1            \
 }
/* -EBUSY: held; the sentence names the holder. */
int lockfile_take(struct lockfile *l, const char *path, struct err *err);
void lockfile_release(struct lockfile *l);
/* Is it held?  -EBUSY as above, 0 when free or absent; changes nothing. */
int lockfile_probe(const char *path, struct err *err);

#endif
