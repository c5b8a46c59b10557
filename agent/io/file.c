/* File requests: a small state machine over pread, pwrite, fdatasync and
 * fallocate that continues short transfers, falls back where the file system
 * lacks an operation, and remembers a failed sync for ever (I9).
 *
 * Who makes the system call is not its concern: the ring, a thread of the
 * pool, or (blocking faces, io_req_run) the caller.
 *
 * Inline (IO_RW_INLINE).  What only copies to or from the page cache is cheaper
 * done at once than handed over: a hand-over costs a context switch.
 *
 *   reads   preadv2(RWF_NOWAIT) returns what is cached; the rest goes on its
 *           way.
 *   tmpfs   never waits for a disk: plain pread and pwrite, also without the
 *           flag (then done() still comes later).
 *   writes  pwritev2(RWF_NOWAIT) where the file system has it (XFS, btrfs).
 *           ext4 and buffered block devices refuse it (EOPNOTSUPP, remembered
 *           in the file), and io_uring therefore always hands such a write to a
 *           kernel thread, one at a time for one file.  There a plain pwrite is
 *           made, and timed: dirty throttling or a busy journal can make it
 *           wait.  One write over SLOW_NS sends the file's writes the long way
 *           for a while, doubling from SLOW_STEP_MIN to SLOW_STEP_MAX while it
 *           goes on, so that a slow disk holds the loop for one write in that
 *           time and not for each.  An edge within a page that is not cached
 *           would be read from the disk first: such a write goes the long way.
 *
 * Measured with tests/bench/io_nbd (4 KiB random writes over NBD, a 256 MiB
 * file on ext4, two shared cores, 1 s a run), CPU of the server for a request,
 * beside the limit program of the lab that does plain pwrite and nothing else:
 *
 *                                  queue depth 1    queue depth 32
 *   limit program, 5 runs          25 to 47 us      12 to 21 us
 *   inline, timed, 4 runs          21 to 49 us      17 to 26 us
 *   all through the ring, 1 run    76 us            24 us
 *   all through the pool, 1 run    49 us            39 us
 *
 * Whoever runs first on the fresh file is fastest, so only the ring at depth 1
 * and the pool at depth 32 stand out.  On tmpfs, four runs: 0.9 to 1.1 of the
 * limit at depth 1, 1.0 to 1.5 at 32, 1.1 to 1.6 with four connections of 32.
 */
#include "io/file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "io/loop_backend.h"

enum {
    PAGE = 4096,
    ZERO_CHUNK = 256 * 1024,
    STEP_IOV_MAX = 1024, /* IOV_MAX */
};
#define STEP_MAX      (1 * GIB) /* of one system call; Linux ends at 2 GiB */
#define INLINE_MAX    (4 * MIB) /* beyond it even a copy holds the loop */
#define SLOW_NS       (5 * NSEC_PER_MSEC)
#define SLOW_STEP_MIN (50 * NSEC_PER_MSEC)
#define SLOW_STEP_MAX (5 * NSEC_PER_SEC)

static uint8_t zeros[ZERO_CHUNK] __attribute__((aligned(PAGE)));

static unsigned
bits_get(struct io_file *f)
{
    return atomic_load_explicit(&f->bits, memory_order_acquire);
}

static void
bits_add(struct io_file *f, unsigned bits)
{
    atomic_fetch_or_explicit(&f->bits, bits, memory_order_acq_rel);
}

/* --- the state machine ----------------------------------------------------- */

static bool
is_dsync(const struct io_req *rq)
{
    return rq->op == IO_OP_WRITE && (rq->flags & IO_RW_DSYNC);
}

/* The rest of the caller's vector, from moved on.  A piece cut by a short
 * transfer travels alone in iov1, so that the borrowed vector stays as it is. */
static void
prepare_iov(struct io_req *rq, struct io_step *st)
{
    uint64_t skip = rq->moved;
    unsigned i = 0;

    st->iov = &rq->iov1;
    st->iov_n = 1;
    if (!rq->iov) { /* io_req_advance() moves iov1.iov_base on */
        rq->iov1.iov_len = MIN(rq->len - rq->moved, STEP_MAX);
        return;
    }
    while (i < rq->iov_n && skip >= rq->iov[i].iov_len)
        skip -= rq->iov[i++].iov_len;
    if (skip || rq->iov[i].iov_len > STEP_MAX) {
        rq->iov1.iov_base = (char *)rq->iov[i].iov_base + skip;
        rq->iov1.iov_len = MIN(rq->iov[i].iov_len - skip, STEP_MAX);
        return;
    }
    st->iov = rq->iov + i;
    st->iov_n = MIN(rq->iov_n - i, (unsigned)STEP_IOV_MAX);
}

static int
falloc_mode(unsigned zero_mode)
{
    return zero_mode == IO_ZERO_KEEP
               ? FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE
               : FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
}

void
io_req_prepare(struct io_req *rq, struct io_step *out)
{
    *out = (struct io_step){ .fd = rq->file->fd, .off = rq->off + rq->moved };
    switch ((enum io_op)rq->op) {
    case IO_OP_READ: out->kind = IO_STEP_READ; break;
    case IO_OP_WRITE:
        out->kind = IO_STEP_WRITE;
        out->rw_flags = rq->flags & IO_RW_DSYNC ? RWF_DSYNC : 0;
        break;
    case IO_OP_SYNC: out->kind = IO_STEP_SYNC; return;
    case IO_OP_ZERO:
        out->kind = IO_STEP_FALLOC;
        out->falloc_mode = falloc_mode(rq->flags);
        out->len = rq->len;
        return;
    case IO_OP_ZERO_WRITE:
        out->kind = IO_STEP_WRITE;
        rq->iov1.iov_base = zeros;
        rq->iov1.iov_len = MIN(rq->len - rq->moved, (uint64_t)ZERO_CHUNK);
        out->iov = &rq->iov1;
        out->iov_n = 1;
        return;
    }
    prepare_iov(rq, out);
}

/* Which failures of a sync leave the page cache and the disk apart.  A data
 * sync write says with one number whether writing or syncing failed: what can
 * only mean that nothing was written is let pass, for direct writes also a full
 * disk. */
static bool
poisons(const struct io_req *rq, int64_t res)
{
    if (rq->op == IO_OP_SYNC)
        return true;
    switch (res) {
    case -EINVAL:
    case -EOPNOTSUPP:
    case -EBADF:
    case -EFBIG:
    case -EPERM: return false;
    case -ENOSPC:
    case -EDQUOT: return !rq->file->direct;
    default: return true;
    }
}

static bool
finish(struct io_req *rq, int64_t res)
{
    if (rq->op == IO_OP_SYNC || is_dsync(rq)) {
        if (res < 0 && poisons(rq, res))
            bits_add(rq->file, IO_FILE_POISONED);
        /* The kernel reports a failure once for a descriptor: of two syncs in
         * flight the second must not look good. */
        else if (res >= 0 && (bits_get(rq->file) & IO_FILE_POISONED))
            res = -EIO;
    }
    rq->res = res;
    return true;
}

static bool
advance_moved(struct io_req *rq, int64_t res)
{
    rq->moved += (uint64_t)res;
    if (rq->moved == rq->len)
        return finish(rq, rq->op == IO_OP_ZERO_WRITE ? 0 : (int64_t)rq->len);
    if (!rq->iov && rq->op != IO_OP_ZERO_WRITE)
        rq->iov1.iov_base = (char *)rq->iov1.iov_base + res;
    /* Direct: a piece that ends within a block is the end of the file, and the
     * next read from there would not be aligned. */
    if (rq->op == IO_OP_READ && rq->file->direct &&
        rq->moved % rq->file->align != 0)
        return finish(rq, (int64_t)rq->moved);
    return false;
}

static bool
advance_zero(struct io_req *rq, int64_t res)
{
    if (res != -EOPNOTSUPP && res != -ENOSYS)
        return finish(rq, res);
    bits_add(rq->file,
             rq->flags == IO_ZERO_KEEP ? IO_FILE_NO_ZERO : IO_FILE_NO_PUNCH);
    if (rq->flags == IO_ZERO_PUNCH_FAST)
        return finish(rq, -EOPNOTSUPP);
    rq->op = IO_OP_ZERO_WRITE;
    return false;
}

bool
io_req_advance(struct io_req *rq, int64_t res)
{
    if (res == -EINTR || res == -EAGAIN)
        return false;
    switch ((enum io_op)rq->op) {
    case IO_OP_READ:
        if (res == 0) /* end of the file */
            return finish(rq, (int64_t)rq->moved);
        break;
    case IO_OP_WRITE:
    case IO_OP_ZERO_WRITE:
        if (res == 0) /* no progress and no reason */
            return finish(rq, -EIO);
        break;
    case IO_OP_SYNC: return finish(rq, res);
    case IO_OP_ZERO: return advance_zero(rq, res);
    }
    return res < 0 ? finish(rq, res) : advance_moved(rq, res);
}

static int64_t
step_call(const struct io_step *st, int more_flags)
{
    int64_t n = 0;

    switch (st->kind) {
    case IO_STEP_READ:
        if (st->iov_n == 1 && !(st->rw_flags | more_flags)) {
            n = pread(st->fd, st->iov->iov_base, st->iov->iov_len,
                      (off_t)st->off);
            break;
        }
        n = preadv2(st->fd, st->iov, (int)st->iov_n, (off_t)st->off,
                    st->rw_flags | more_flags);
        break;
    case IO_STEP_WRITE:
        if (st->iov_n == 1 && !(st->rw_flags | more_flags)) {
            n = pwrite(st->fd, st->iov->iov_base, st->iov->iov_len,
                       (off_t)st->off);
            break;
        }
        n = pwritev2(st->fd, st->iov, (int)st->iov_n, (off_t)st->off,
                     st->rw_flags | more_flags);
        break;
    case IO_STEP_SYNC: n = fdatasync(st->fd); break;
    case IO_STEP_FALLOC:
        n = fallocate(st->fd, st->falloc_mode, (off_t)st->off, (off_t)st->len);
        break;
    }
    return n < 0 ? -errno : n;
}

void
io_req_run(struct io_req *rq)
{
    struct io_step st;

    do
        io_req_prepare(rq, &st);
    while (!io_req_advance(rq, rq->file->ops ? rq->file->ops->step(rq->file, &st)
                                             : step_call(&st, 0)));
}

/* --- starting --------------------------------------------------------------- */

/* rq->res is known, done() is due after this turn's submission. */
static void
complete_later(struct io_req *rq, int64_t res)
{
    rq->res = res;
    list_add_before_(&rq->file->loop->completed, &rq->link);
}

static void
start(struct io_req *rq)
{
    struct io_loop *loop = rq->file->loop;

    if (loop->in_flight >= loop->file_depth || !list_empty(&loop->waiting)) {
        list_add_before_(&loop->waiting, &rq->link);
        return;
    }
    loop->in_flight++;
    loop->be->file_start(loop, rq);
}

/* 0, or why this request of the file cannot even begin. */
static int
refused(const struct io_req *rq)
{
    uint64_t end;

    if (__builtin_add_overflow(rq->off, rq->len, &end) || end > INT64_MAX)
        return -EFBIG;
    if (rq->op != IO_OP_READ && (bits_get(rq->file) & IO_FILE_POISONED))
        return -EIO;
    return 0;
}

/* True: finished, with rq->res. */
static bool
inline_read(struct io_req *rq)
{
    struct io_file *f = rq->file;
    struct io_step st;
    int64_t n;

    if (f->direct || (bits_get(f) & IO_FILE_NO_NOWAIT_R))
        return false;
    io_req_prepare(rq, &st);
    n = step_call(&st, RWF_NOWAIT);
    if (n == -EOPNOTSUPP) {
        bits_add(f, IO_FILE_NO_NOWAIT_R);
        return false;
    }
    return io_req_advance(rq, n);
}

/* Whether the page at off can be changed without reading it first. */
static bool
page_cached(struct io_file *f, uint64_t off)
{
    char c;
    struct iovec iov = { .iov_base = &c, .iov_len = 1 };

    return preadv2(f->fd, &iov, 1, (off_t)off, RWF_NOWAIT) >= 0 ||
           errno != EAGAIN;
}

static bool
timed_write(struct io_req *rq, const struct io_step *st)
{
    struct io_file *f = rq->file;
    struct io_loop *loop = f->loop;
    uint64_t began = loop->be->mono(loop), ended;
    int64_t n;

    if (began < f->slow_until_ns)
        return false;
    if (rq->off % PAGE != 0 && !page_cached(f, rq->off))
        return false;
    if ((rq->off + rq->len) % PAGE != 0 && !page_cached(f, rq->off + rq->len - 1))
        return false;
    n = step_call(st, 0);
    ended = loop->be->mono(loop);
    if (ended - began >= SLOW_NS) {
        f->slow_step_ns =
            MIN(MAX(2 * f->slow_step_ns, SLOW_STEP_MIN), SLOW_STEP_MAX);
        f->slow_until_ns = ended + f->slow_step_ns;
    } else if (ended - f->slow_until_ns > f->slow_step_ns) {
        f->slow_step_ns = 0; /* well for as long as it was sent away */
    }
    return io_req_advance(rq, n);
}

static bool
inline_write(struct io_req *rq)
{
    struct io_file *f = rq->file;
    struct io_step st;
    int64_t n;

    if (f->direct || (rq->flags & IO_RW_DSYNC) || rq->len > INLINE_MAX)
        return false;
    io_req_prepare(rq, &st);
    if (!(bits_get(f) & IO_FILE_NO_NOWAIT_W)) {
        n = step_call(&st, RWF_NOWAIT);
        if (n != -EOPNOTSUPP)
            return io_req_advance(rq, n);
        bits_add(f, IO_FILE_NO_NOWAIT_W);
    }
    return timed_write(rq, &st);
}

static void
begin_rw(struct io_req *rq)
{
    struct io_file *f = rq->file;
    bool now = false;
    int rc = refused(rq);

    if (rc < 0 || rq->len == 0) {
        complete_later(rq, rc);
        return;
    }
    if (f->ram_backed && rq->len <= INLINE_MAX) {
        io_req_run(rq);
        now = true;
    } else if ((rq->flags & IO_RW_INLINE) && !f->ops) {
        now = rq->op == IO_OP_READ ? inline_read(rq) : inline_write(rq);
    }
    if (!now)
        start(rq);
    else if (rq->flags & IO_RW_INLINE)
        rq->done(rq, rq->res);
    else
        complete_later(rq, rq->res);
}

static void
req_set(struct io_req *rq, struct io_file *f, enum io_op op, uint64_t off,
        uint64_t len, unsigned flags)
{
    rq->file = f;
    rq->op = op;
    rq->flags = flags;
    rq->off = off;
    rq->len = len;
    rq->moved = 0;
    rq->res = 0;
    rq->iov = NULL;
    rq->iov_n = 0;
}

void
io_file_pread(struct io_file *f, struct io_req *rq, void *buf, size_t len,
              uint64_t off, unsigned flags)
{
    req_set(rq, f, IO_OP_READ, off, len, flags);
    rq->iov1.iov_base = buf;
    begin_rw(rq);
}

void
io_file_pwrite(struct io_file *f, struct io_req *rq, const void *buf,
               size_t len, uint64_t off, unsigned flags)
{
    req_set(rq, f, IO_OP_WRITE, off, len, flags);
    /* iovec has no const; writes do not change what it names */
    rq->iov1.iov_base = (void *)(uintptr_t)buf;
    begin_rw(rq);
}

/* False: the sum of the lengths is beyond any file. */
static bool
iov_total(const struct iovec *iov, unsigned n, uint64_t *out)
{
    uint64_t total = 0;

    for (unsigned i = 0; i < n; i++)
        if (__builtin_add_overflow(total, (uint64_t)iov[i].iov_len, &total))
            return false;
    *out = total;
    return true;
}

void
io_file_pwritev(struct io_file *f, struct io_req *rq, struct iovec *iov,
                unsigned n, uint64_t off, unsigned flags)
{
    uint64_t total = UINT64_MAX; /* refused as too long */

    (void)iov_total(iov, n, &total);
    req_set(rq, f, IO_OP_WRITE, off, total, flags);
    rq->iov = iov;
    rq->iov_n = n;
    begin_rw(rq);
}

void
io_file_fdatasync(struct io_file *f, struct io_req *rq)
{
    int rc;

    req_set(rq, f, IO_OP_SYNC, 0, 0, 0);
    rc = refused(rq);
    if (rc < 0)
        complete_later(rq, rc);
    else
        start(rq);
}

/* 0: to be carried out.  Otherwise finished with *out. */
static bool
zero_begin(struct io_req *rq, int *out)
{
    unsigned bits = bits_get(rq->file);
    bool lacks =
        bits & (rq->flags == IO_ZERO_KEEP ? IO_FILE_NO_ZERO : IO_FILE_NO_PUNCH);

    *out = refused(rq);
    if (*out < 0 || rq->len == 0)
        return true;
    if (lacks && rq->flags == IO_ZERO_PUNCH_FAST) {
        *out = -EOPNOTSUPP;
        return true;
    }
    if (lacks)
        rq->op = IO_OP_ZERO_WRITE;
    return false;
}

void
io_file_zero(struct io_file *f, struct io_req *rq, enum io_zero_mode mode,
             uint64_t off, uint64_t len)
{
    int rc;

    req_set(rq, f, IO_OP_ZERO, off, len, mode);
    if (zero_begin(rq, &rc))
        complete_later(rq, rc);
    else
        start(rq);
}

/* --- blocking faces ---------------------------------------------------------- */

static int64_t
run_sync(struct io_req *rq)
{
    int rc = refused(rq);

    if (rc < 0)
        return rc;
    if (rq->len == 0 && rq->op != IO_OP_SYNC)
        return 0;
    io_req_run(rq);
    return rq->res;
}

int64_t
io_file_pread_sync(struct io_file *f, void *buf, size_t len, uint64_t off)
{
    struct io_req rq;

    req_set(&rq, f, IO_OP_READ, off, len, 0);
    rq.iov1.iov_base = buf;
    return run_sync(&rq);
}

int
io_file_pwrite_sync(struct io_file *f, const void *buf, size_t len, uint64_t off)
{
    struct io_req rq;

    req_set(&rq, f, IO_OP_WRITE, off, len, 0);
    rq.iov1.iov_base = (void *)(uintptr_t)buf;
    return (int)MIN(run_sync(&rq), (int64_t)0);
}

int
io_file_pwritev_sync(struct io_file *f, const struct iovec *iov, unsigned n,
                     uint64_t off)
{
    uint64_t total;
    struct io_req rq;

    if (!iov_total(iov, n, &total))
        return -EFBIG;
    req_set(&rq, f, IO_OP_WRITE, off, total, 0);
    rq.iov = (struct iovec *)(uintptr_t)iov; /* only read */
    rq.iov_n = n;
    return (int)MIN(run_sync(&rq), (int64_t)0);
}

int
io_file_fdatasync_sync(struct io_file *f)
{
    struct io_req rq;

    req_set(&rq, f, IO_OP_SYNC, 0, 0, 0);
    return (int)run_sync(&rq);
}

int
io_file_zero_sync(struct io_file *f, enum io_zero_mode mode, uint64_t off,
                  uint64_t len)
{
    struct io_req rq;
    int rc;

    req_set(&rq, f, IO_OP_ZERO, off, len, mode);
    if (zero_begin(&rq, &rc))
        return rc;
    io_req_run(&rq);
    return (int)rq.res;
}

int
io_file_truncate_sync(struct io_file *f, uint64_t size)
{
    int rc;

    if (size > INT64_MAX)
        return -EFBIG;
    if (bits_get(f) & IO_FILE_POISONED)
        return -EIO;
    if (f->ops)
        return f->ops->truncate(f, size);
    do
        rc = ftruncate(f->fd, (off_t)size);
    while (rc < 0 && errno == EINTR);
    return rc < 0 ? -errno : 0;
}

/* Without fallocate the blocks are taken by writing zeros over holes only. */
static int
preallocate_by_writing(struct io_file *f, uint64_t old_size, uint64_t size)
{
    struct io_extent ext[16];
    uint64_t at = 0;
    int rc = size > old_size ? io_file_truncate_sync(f, size) : 0;

    while (rc == 0 && at < size) {
        int n = io_file_extents_sync(f, at, size - at, ext, ARRAY_SIZE(ext));

        if (n <= 0)
            return n < 0 ? n : -EIO;
        for (int i = 0; i < n && rc == 0; i++) {
            struct io_req rq;

            at = ext[i].off + ext[i].len;
            if (!ext[i].hole)
                continue;
            req_set(&rq, f, IO_OP_ZERO_WRITE, ext[i].off, ext[i].len, 0);
            rc = (int)run_sync(&rq);
        }
    }
    return rc;
}

int
io_file_preallocate_sync(struct io_file *f, uint64_t size)
{
    struct io_file_info info;
    int rc = io_file_info(f, &info, NULL);

    if (rc < 0)
        return rc;
    if (size > INT64_MAX)
        return -EFBIG;
    if (bits_get(f) & IO_FILE_POISONED)
        return -EIO;
    if (size == 0)
        return 0;
    if (f->ops)
        return f->ops->preallocate(f, size);
    do
        rc = fallocate(f->fd, 0, 0, (off_t)size) < 0 ? -errno : 0;
    while (rc == -EINTR);
    if (rc == -EOPNOTSUPP && info.is_regular)
        rc = preallocate_by_writing(f, info.size, size);
    /* What was allocated beyond the old end goes back; if even that fails, the
     * first error is the one to tell. */
    if (rc < 0 && info.is_regular && size > info.size &&
        ftruncate(f->fd, (off_t)info.size) < 0)
        return rc;
    return rc;
}

static int64_t
seek_to(struct io_file *f, uint64_t off, int whence)
{
    off_t at = lseek(f->fd, (off_t)off, whence);

    return at < 0 ? -errno : at;
}

int
io_file_extents_sync(struct io_file *f, uint64_t off, uint64_t len,
                     struct io_extent *out, size_t max)
{
    uint64_t end, at = off;
    size_t n = 0;

    if (__builtin_add_overflow(off, len, &end) || end > INT64_MAX)
        return -EFBIG;
    if (f->ops)
        return f->ops->extents(f, off, len, out, max);
    if (!f->is_regular && len && max) {
        out[0] = (struct io_extent){ .off = off, .len = len };
        return 1;
    }
    while (at < end && n < max) {
        int64_t data = seek_to(f, at, SEEK_DATA), next = (int64_t)end;
        bool hole = data == -ENXIO || data > (int64_t)at;

        if (data >= 0)
            next = hole ? data : seek_to(f, at, SEEK_HOLE);
        else if (data != -ENXIO && data != -EINVAL) /* EINVAL: cannot tell */
            return (int)data;
        if (next < 0)
            return (int)next;
        next = MIN(next, (int64_t)end);
        if (next <= (int64_t)at) /* changed under us: call the rest data */
            next = (int64_t)end;
        out[n++] = (struct io_extent){ .off = at,
                                       .len = (uint64_t)next - at,
                                       .hole = hole };
        at = (uint64_t)next;
    }
    return (int)n;
}

/* --- memory ------------------------------------------------------------------ */

enum {
    KEEP_MIN = 128 * 1024, /* below this, faults are few */
    KEEP_MAX = 2 * 1024 * 1024,
    KEEP_N = 16,
    KEEP_BYTES = 12 * 1024 * 1024,
};

/* Freed blocks for io_mem_alloc_uncleared(). */
static struct {
    pthread_mutex_t lock; /* guards all; a leaf */
    struct iovec block[KEEP_N];
    size_t n, bytes;
} kept = { .lock = PTHREAD_MUTEX_INITIALIZER };

void *
io_mem_alloc(size_t len)
{
    void *p = mmap(NULL, len, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    return p == MAP_FAILED ? NULL : p;
}

void *
io_mem_alloc_uncleared(size_t len)
{
    void *p = NULL;

    pthread_mutex_lock(&kept.lock);
    for (size_t i = kept.n; !p && i-- > 0;) {
        if (kept.block[i].iov_len != len)
            continue;
        p = kept.block[i].iov_base;
        kept.bytes -= len;
        kept.block[i] = kept.block[--kept.n];
    }
    pthread_mutex_unlock(&kept.lock);
    return p ? p : io_mem_alloc(len);
}

/* Takes p, and gives back in *old what must make room for it. */
static bool
keep(void *p, size_t len, struct iovec *old)
{
    bool taken = false;

    *old = (struct iovec){ 0 };
    pthread_mutex_lock(&kept.lock);
    if (kept.n == KEEP_N || kept.bytes + len > KEEP_BYTES) {
        *old = kept.block[0];
        kept.bytes -= old->iov_len;
        kept.n--;
        memmove(kept.block, kept.block + 1, kept.n * sizeof *kept.block);
    }
    if (kept.bytes + len <= KEEP_BYTES) {
        kept.block[kept.n++] = (struct iovec){ .iov_base = p, .iov_len = len };
        kept.bytes += len;
        taken = true;
    }
    pthread_mutex_unlock(&kept.lock);
    return taken;
}

void
io_mem_free(void *p, size_t len)
{
    struct iovec old = { 0 };

    if (!p)
        return;
    if (len < KEEP_MIN || len > KEEP_MAX || !keep(p, len, &old))
        (void)munmap(p, len); /* only fails for what was never mapped */
    if (old.iov_base)
        (void)munmap(old.iov_base, old.iov_len);
}
