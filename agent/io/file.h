/* Files, directories and block devices for the data path.
 *
 * Two faces on the same struct io_file: requests with a completion, for the
 * loop's thread, and blocking calls, for worker jobs and for start and stop.
 * A request is embedded in its owner and owned by io/ until done().
 *
 * Reads and writes are whole: short transfers are continued inside, so the
 * result is the length asked for, an error, or (read only) less at the end of
 * the file.  A failed fdatasync is final (I9): the file is marked, and every
 * later write or sync of it fails with -EIO.
 */
#ifndef HOLDFAST_IO_FILE_H
#define HOLDFAST_IO_FILE_H

#include <sys/uio.h>

#include "io/loop.h"

struct io_file;

enum io_open_flags {
    IO_OPEN_READ = 0,
    IO_OPEN_WRITE = 1 << 0,     /* read and write */
    IO_OPEN_CREATE = 1 << 1,    /* mode 0600 */
    IO_OPEN_EXCLUSIVE = 1 << 2, /* with CREATE: must not exist */
    IO_OPEN_DIRECT = 1 << 3,    /* O_DIRECT where the file system has it; see
                                 * io_file_info.direct.  Buffers, offsets and
                                 * lengths are then multiples of io_file_info
                                 * .align, and the caller sees to it. */
    IO_OPEN_TRUNCATE = 1 << 4,
};

struct io_file_info {
    uint64_t size;      /* bytes; of a block device its capacity */
    uint64_t allocated; /* bytes; 0 where unknown */
    uint64_t mtime_ns;  /* regular files */
    uint32_t align;     /* for direct I/O; 1 otherwise */
    uint32_t block;     /* logical block size, at least 512 */
    bool is_block_device;
    bool is_regular;
    bool direct;       /* O_DIRECT is in force */
    bool ram_backed;   /* tmpfs: never waits for a disk */
    uint64_t identity; /* stable while the device or inode is the same */
};

/* Blocking.  Error sentences name the path. */
int io_file_open(struct io_loop *loop, const char *path, unsigned flags,
                 struct io_file **out, struct err *err);
void io_file_close(struct io_file *f); /* no request may be in flight */
const char *io_file_path(const struct io_file *f);
int io_file_info(struct io_file *f, struct io_file_info *out, struct err *err);

struct io_req {
    void (*done)(struct io_req *rq, int64_t res); /* bytes or negative errno */
    /* private */
    struct list link;
    struct io_file *file;
    struct iovec iov1;
    struct iovec *iov; /* NULL: iov1 */
    unsigned iov_n, op, flags;
    uint64_t off, len, moved;
    int64_t res;
};

enum io_rw_flags {
    IO_RW_DSYNC = 1 << 0, /* the write is on stable storage when done */
    /* Page-cache traffic of a production volume: try to finish it at once
     * without a context switch; only what would wait for the disk goes to the
     * ring or the pool. */
    IO_RW_INLINE = 1 << 1,
};

/* Start a request; done() is called later, or (with IO_RW_INLINE, when the
 * data could be moved at once) before the call returns.  buf and iov stay valid
 * until then. */
void io_file_pread(struct io_file *f, struct io_req *rq, void *buf, size_t len,
                   uint64_t off, unsigned flags);
void io_file_pwrite(struct io_file *f, struct io_req *rq, const void *buf,
                    size_t len, uint64_t off, unsigned flags);
/* iov is borrowed and not changed. */
void io_file_pwritev(struct io_file *f, struct io_req *rq, struct iovec *iov,
                     unsigned n, uint64_t off, unsigned flags);
void io_file_fdatasync(struct io_file *f, struct io_req *rq);

enum io_zero_mode {
    IO_ZERO_PUNCH,     /* give the space back; reads as zeros afterwards */
    IO_ZERO_KEEP,      /* zeros without giving up the allocation */
    IO_ZERO_PUNCH_FAST /* as PUNCH, but -EOPNOTSUPP rather than slow writing */
};

/* Zero a range.  PUNCH and KEEP fall back to writing zeros, except that PUNCH
 * as used for TRIM must not: callers ask io_file_can_punch() first. */
void io_file_zero(struct io_file *f, struct io_req *rq, enum io_zero_mode mode,
                  uint64_t off, uint64_t len);
bool io_file_can_punch(struct io_file *f); /* punching gives zeros, cheaply */

/* Blocking faces, any thread. */
int64_t
io_file_pread_sync(struct io_file *f, void *buf, size_t len, uint64_t off);
int io_file_pwrite_sync(struct io_file *f, const void *buf, size_t len,
                        uint64_t off);
int io_file_pwritev_sync(struct io_file *f, const struct iovec *iov, unsigned n,
                         uint64_t off);
int io_file_fdatasync_sync(struct io_file *f);
int io_file_zero_sync(struct io_file *f, enum io_zero_mode mode, uint64_t off,
                      uint64_t len);
int io_file_truncate_sync(struct io_file *f, uint64_t size);
/* Allocate [0, size) so that later writes need no allocation; -ENOSPC leaves
 * the file as it was. */
int io_file_preallocate_sync(struct io_file *f, uint64_t size);

struct io_extent {
    uint64_t off, len;
    bool hole; /* reads as zeros */
};

/* The extents of [off, off + len), at most max; returns how many were found
 * (they cover a prefix of the range), or negative errno.  One data extent where
 * the file system cannot tell. */
int io_file_extents_sync(struct io_file *f, uint64_t off, uint64_t len,
                         struct io_extent *out, size_t max);

/* Directories and names, blocking, any thread.  loop says in which world. */
int io_mkdir(struct io_loop *loop, const char *path, struct err *err); /* 0700,
                                          parents too; 0 when it exists */
int io_rename(struct io_loop *loop, const char *from, const char *to,
              struct err *err);
int io_unlink(struct io_loop *loop, const char *path); /* 0 when absent */
int io_rmdir_tree(struct io_loop *loop, const char *path, struct err *err);
int io_sync_dir(struct io_loop *loop, const char *path, struct err *err);
/* Names in a directory (without . and ..), sorted; at most max, else -E2BIG. */
int io_list_dir(struct io_loop *loop, const char *path, size_t max,
                char ***out_names, size_t *out_n, struct err *err);
void io_list_free(char **names, size_t n);
int io_disk_free(struct io_loop *loop, const char *path, uint64_t *out_free,
                 uint64_t *out_size);

/* Whole small files.  Replace is crash-safe: temporary file, fdatasync,
 * rename, directory sync. */
int io_read_whole(struct io_loop *loop, const char *path, size_t max,
                  uint8_t **out, size_t *out_len, struct err *err);
int io_replace_whole(struct io_loop *loop, const char *path, const void *data,
                     size_t len, struct err *err);

/* Page-aligned memory for direct I/O, zeroed; NULL when there is none. */
void *io_mem_alloc(size_t len);
void io_mem_free(void *p, size_t len);
/* The same, but it may hold anything: for buffers that are filled before they
 * are looked at.  Some of what is freed is kept for the next call with exactly
 * this length, since pages fresh from the kernel cost more than most of what is
 * done with them.  From any thread. */
void *io_mem_alloc_uncleared(size_t len);

#endif
