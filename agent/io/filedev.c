/* A regular file or block device as a block device.
 *
 * WRITEBACK goes through the page cache, inline where that does not wait
 * (file.c), and large requests on a worker that has nothing to do: copying one
 * takes longer than the hand-over, and the loop receives or sends another one
 * meanwhile (1 MiB writes of one client on two cores: twice as many; reads: a
 * quarter more; tests/bench/run nbd).  NONE is O_DIRECT through the ring or the
 * pool.  A direct request whose buffer, offset or length is not aligned takes a
 * bounce buffer; where it does not cover whole blocks it is read, changed and
 * written back, one such request at a time.  That overlapping requests do not
 * run together is up to the submitter (the splitter's range lock).
 *
 * Requests in progress are described by struct job, from a pool that is filled
 * at the start and grows by slabs to a limit; beyond it requests wait, in order.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/log.h"
#include "io/blkdev.h"
#include "io/loop_backend.h"

enum {
    SECTOR = 512,
    PREF_BLOCK = 4096,
    FILE_MAX_PAYLOAD = 32 * 1024 * 1024, /* datapath.md 1.3 */
    SLAB = 128,
    SLABS_MAX = 32,
    EXT_BATCH = 64,
    BULK_MIN = 128 * 1024,
};

struct filedev;

struct job {
    struct io_req rq;
    struct io_work work;
    struct list link; /* free, or waiting for its read-modify-write */
    struct filedev *fd;
    struct blkdev_req *up;
    uint8_t *bounce;
    uint64_t p_off, p_len; /* the piece of up that bounce is for */
    uint64_t b_off, b_len; /* the aligned range that bounce holds */
    unsigned stage;        /* of a ZERO or TRIM: what comes next */
    bool rmw;
    int res;
};

struct filedev {
    struct blkdev dev;
    struct io_file *file;
    unsigned rw_flags;     /* IO_RW_INLINE or none */
    uint32_t align;        /* of direct I/O, else 1 */
    uint32_t unit;         /* of zeroing: also a device's block */
    struct list free;      /* job.link */
    struct list waiting;   /* blkdev_req.link: no free job */
    struct list rmw;       /* job.link: the first one is running */
    struct io_task resume; /* waiting ones can start */
    struct job *slabs[SLABS_MAX];
    unsigned slabs_n;
};

static void request_start(struct filedev *fd, struct blkdev_req *up);

static struct filedev *
filedev_of(struct blkdev *d)
{
    return container_of(d, struct filedev, dev);
}

/* --- jobs ---------------------------------------------------------------------- */

static int
slab_add(struct filedev *fd)
{
    struct job *jobs;

    if (fd->slabs_n == SLABS_MAX)
        return -ENOMEM;
    jobs = calloc(SLAB, sizeof *jobs);
    if (!jobs)
        return -ENOMEM;
    fd->slabs[fd->slabs_n++] = jobs;
    for (size_t i = 0; i < SLAB; i++) {
        jobs[i].fd = fd;
        list_init(&jobs[i].link);
        list_push_front(&fd->free, &jobs[i].link);
    }
    return 0;
}

static struct job *
job_get(struct filedev *fd, struct blkdev_req *up)
{
    struct list *l;
    struct job *j;

    if (list_empty(&fd->free))
        (void)slab_add(fd);
    l = list_pop_front(&fd->free);
    if (!l)
        return NULL;
    j = list_entry(l, struct job, link);
    j->up = up;
    j->bounce = NULL;
    j->rmw = false;
    j->stage = 0;
    return j;
}

static void rmw_next(struct filedev *fd);

/* The job goes back before the submitter hears, who may submit again. */
static void
job_done(struct job *j, int res)
{
    struct filedev *fd = j->fd;
    struct blkdev_req *up = j->up;
    bool rmw = j->rmw;

    if (j->bounce)
        io_mem_free(j->bounce, (size_t)j->b_len);
    list_del(&j->link);
    list_push_front(&fd->free, &j->link);
    if (rmw)
        rmw_next(fd);
    if (!list_empty(&fd->waiting))
        io_defer(fd->dev.loop, &fd->resume);
    up->done(up, res);
}

static void
resume_run(struct io_task *t)
{
    struct filedev *fd = container_of(t, struct filedev, resume);
    struct list now, *l;

    list_init(&now);
    list_splice_back(&now, &fd->waiting);
    while ((l = list_pop_front(&now)))
        request_start(fd, list_entry(l, struct blkdev_req, link));
}

/* --- reading and writing --------------------------------------------------------- */

/* A volume does not end early: less than asked for is a cut file. */
static int
whole(int64_t res, uint64_t len)
{
    if (res < 0)
        return (int)res;
    return (uint64_t)res == len ? 0 : -EIO;
}

static void
plain_done(struct io_req *rq, int64_t res)
{
    struct job *j = container_of(rq, struct job, rq);

    job_done(j, whole(res, j->up->len));
}

static void zero_step(struct job *j, int rc);

static unsigned
write_flags(const struct job *j)
{
    return j->fd->rw_flags | (j->up->flags & BLKDEV_FUA ? IO_RW_DSYNC : 0);
}

/* The piece is done: its buffer and its turn are given back. */
static void
bounce_end(struct job *j)
{
    io_mem_free(j->bounce, (size_t)j->b_len);
    j->bounce = NULL;
    if (!j->rmw)
        return;
    j->rmw = false;
    list_del(&j->link);
    rmw_next(j->fd);
}

static void
bounce_written(struct io_req *rq, int64_t res)
{
    struct job *j = container_of(rq, struct job, rq);
    int rc = whole(res, j->b_len);

    if (j->up->op == BLKDEV_WRITE) {
        job_done(j, rc);
        return;
    }
    bounce_end(j);
    zero_step(j, rc);
}

static void
bounce_write(struct job *j)
{
    uint8_t *to = j->bounce + (j->p_off - j->b_off);

    if (j->up->op == BLKDEV_WRITE)
        memcpy(to, j->up->buf, (size_t)j->p_len);
    else
        memset(to, 0, (size_t)j->p_len);
    j->rq.done = bounce_written;
    io_file_pwrite(j->fd->file, &j->rq, j->bounce, (size_t)j->b_len, j->b_off,
                   write_flags(j));
}

static void
bounce_read_done(struct io_req *rq, int64_t res)
{
    struct job *j = container_of(rq, struct job, rq);
    int rc = whole(res, j->b_len);

    if (rc == 0 && j->rmw) {
        bounce_write(j);
        return;
    }
    if (rc == 0)
        memcpy(j->up->buf, j->bounce + (j->p_off - j->b_off), (size_t)j->p_len);
    job_done(j, rc);
}

static void
bounce_read(struct job *j)
{
    j->rq.done = bounce_read_done;
    io_file_pread(j->fd->file, &j->rq, j->bounce, (size_t)j->b_len, j->b_off, 0);
}

static void
rmw_next(struct filedev *fd)
{
    if (!list_empty(&fd->rmw))
        bounce_read(list_entry(fd->rmw.next, struct job, link));
}

static void
bounce_start(struct job *j, uint64_t off, uint64_t len, uint32_t unit)
{
    struct filedev *fd = j->fd;
    uint64_t mask = unit - 1;
    bool first;

    j->p_off = off;
    j->p_len = len;
    j->b_off = off & ~mask;
    j->b_len = ((off + len + mask) & ~mask) - j->b_off;
    j->bounce = io_mem_alloc((size_t)j->b_len);
    if (!j->bounce) {
        job_done(j, -ENOMEM);
    } else if (j->up->op == BLKDEV_READ) {
        bounce_read(j);
    } else if (j->b_len == len) {
        bounce_write(j);
    } else {
        j->rmw = true;
        first = list_empty(&fd->rmw);
        list_push_back(&fd->rmw, &j->link);
        if (first)
            bounce_read(j);
    }
}

static void work_start(struct job *j, void (*run)(struct io_work *w));

static void
bulk_run(struct io_work *w)
{
    struct job *j = container_of(w, struct job, work);
    const struct blkdev_req *up = j->up;

    if (up->op == BLKDEV_READ)
        j->res = whole(io_file_pread_sync(j->fd->file, up->buf, (size_t)up->len,
                                          up->off),
                       up->len);
    else
        j->res =
            io_file_pwrite_sync(j->fd->file, up->buf, (size_t)up->len, up->off);
}

/* A large copy to or from the page cache, and a worker would begin at once. */
static bool
is_bulk(const struct filedev *fd, const struct blkdev_req *up)
{
    return up->len >= BULK_MIN && (fd->rw_flags & IO_RW_INLINE) &&
           !(up->flags & BLKDEV_FUA) && io_workers_idle(fd->dev.loop->workers);
}

static void
rw_start(struct job *j)
{
    struct filedev *fd = j->fd;
    const struct blkdev_req *up = j->up;

    if (is_bulk(fd, up)) {
        work_start(j, bulk_run);
        return;
    }
    if (((uintptr_t)up->buf | up->off | up->len) & (fd->align - 1)) {
        bounce_start(j, up->off, up->len, fd->align);
        return;
    }
    j->rq.done = plain_done;
    if (up->op == BLKDEV_READ)
        io_file_pread(fd->file, &j->rq, up->buf, (size_t)up->len, up->off,
                      fd->rw_flags);
    else
        io_file_pwrite(fd->file, &j->rq, up->buf, (size_t)up->len, up->off,
                       write_flags(j));
}

/* --- the other operations ----------------------------------------------------------- */

static void
last_done(struct io_req *rq, int64_t res)
{
    job_done(container_of(rq, struct job, rq), (int)MIN(res, (int64_t)0));
}

static void
flush_start(struct job *j)
{
    j->rq.done = last_done;
    io_file_fdatasync(j->fd->file, &j->rq);
}

static void
zero_end(struct job *j, int rc)
{
    if (rc == 0 && (j->up->flags & BLKDEV_FUA))
        flush_start(j);
    else
        job_done(j, rc);
}

static void
zero_done(struct io_req *rq, int64_t res)
{
    zero_end(container_of(rq, struct job, rq), (int)res);
}

/* TRIM is only carried out where holes are cheap; should that turn out wrong,
 * it writes zeros, because the submitter has counted on them (I23). */
static enum io_zero_mode
zero_mode(const struct blkdev_req *up)
{
    if (up->op == BLKDEV_TRIM)
        return IO_ZERO_PUNCH;
    if (up->flags & BLKDEV_NO_HOLE)
        return IO_ZERO_KEEP;
    return up->flags & BLKDEV_FAST_ZERO ? IO_ZERO_PUNCH_FAST : IO_ZERO_PUNCH;
}

/* Blocks that the range covers in part are read, changed and written: first the
 * head, then the tail; then all between is zeroed by one call. */
static void
zero_step(struct job *j, int rc)
{
    const struct blkdev_req *up = j->up;
    uint32_t unit = j->fd->unit;
    uint64_t mask = unit - 1, end = up->off + up->len;
    uint64_t first = (up->off + mask) & ~mask, last = end & ~mask;

    if (rc < 0) {
        job_done(j, rc);
        return;
    }
    if (j->stage == 0) {
        j->stage = 1;
        if (first != up->off) {
            bounce_start(j, up->off, MIN(first, end) - up->off, unit);
            return;
        }
    }
    if (j->stage == 1) {
        j->stage = 2;
        if (last != end && last >= first) {
            bounce_start(j, last, end - last, unit);
            return;
        }
    }
    if (last <= first) {
        zero_end(j, 0);
        return;
    }
    j->rq.done = zero_done;
    io_file_zero(j->fd->file, &j->rq, zero_mode(up), first, last - first);
}

/* TRIM where holes cannot be punched does nothing (I23).  ZERO that keeps its
 * space and must be fast is only what a zero-range call does; whether there is
 * one shows at the first try, so it is refused: the client then writes. */
static void
zero_start(struct job *j)
{
    const struct blkdev_req *up = j->up;
    unsigned fast_keep = BLKDEV_NO_HOLE | BLKDEV_FAST_ZERO;

    if (up->op == BLKDEV_TRIM && !(j->fd->dev.info.features & BLKDEV_CAN_TRIM))
        job_done(j, 0);
    else if (up->op == BLKDEV_ZERO && (up->flags & fast_keep) == fast_keep)
        job_done(j, -EOPNOTSUPP);
    else
        zero_step(j, 0);
}

static void
work_done(struct io_work *w)
{
    struct job *j = container_of(w, struct job, work);

    job_done(j, j->res);
}

static int
extents_fill(struct io_file *f, struct blkdev_req *up)
{
    struct io_extent got[EXT_BATCH];
    size_t max = up->flags & BLKDEV_EXT_ONE ? 1 : up->ext_max;
    uint64_t at = up->off, end = up->off + up->len;

    up->ext_n = 0;
    while (at < end && up->ext_n < max) {
        int n = io_file_extents_sync(f, at, end - at, got,
                                     MIN(max - up->ext_n, (size_t)EXT_BATCH));

        if (n <= 0)
            return n < 0 ? n : -EIO;
        for (int i = 0; i < n; i++) {
            up->ext[up->ext_n++] = (struct blkdev_extent){
                .len = got[i].len, .hole = got[i].hole, .zero = got[i].hole
            };
            at += got[i].len;
        }
    }
    return 0;
}

static void
extents_run(struct io_work *w)
{
    struct job *j = container_of(w, struct job, work);

    j->res = extents_fill(j->fd->file, j->up);
}

static void
cache_run(struct io_work *w)
{
    struct job *j = container_of(w, struct job, work);

    /* A hint: its failure is nobody's loss. */
    (void)posix_fadvise(j->fd->file->fd, (off_t)j->up->off, (off_t)j->up->len,
                        POSIX_FADV_WILLNEED);
    j->res = 0;
}

static void
work_start(struct job *j, void (*run)(struct io_work *w))
{
    j->work.run = run;
    j->work.done = work_done;
    io_work_submit(j->fd->dev.loop, &j->work);
}

static void
request_start(struct filedev *fd, struct blkdev_req *up)
{
    struct job *j = list_empty(&fd->waiting) ? job_get(fd, up) : NULL;

    if (!j) {
        list_add_before_(&fd->waiting, &up->link);
        return;
    }
    switch (up->op) {
    case BLKDEV_READ:
    case BLKDEV_WRITE: rw_start(j); break;
    case BLKDEV_FLUSH: flush_start(j); break;
    case BLKDEV_TRIM:
    case BLKDEV_ZERO: zero_start(j); break;
    case BLKDEV_EXTENTS: work_start(j, extents_run); break;
    case BLKDEV_CACHE:
        if (fd->align > 1) /* direct: there is no cache */
            job_done(j, 0);
        else
            work_start(j, cache_run);
        break;
    }
}

static void
file_submit(struct blkdev *d, struct blkdev_req *rq)
{
    request_start(filedev_of(d), rq);
}

/* What waits for a job, or for its turn to read and modify, has not begun. */
static void
file_cancel(struct blkdev *d, const void *origin)
{
    struct filedev *fd = filedev_of(d);
    struct list gone, *l, *tmp;

    list_init(&gone);
    list_for_each_safe (l, tmp, &fd->waiting) {
        if (list_entry(l, struct blkdev_req, link)->origin != origin)
            continue;
        list_del(l);
        list_push_back(&gone, l);
    }
    while ((l = list_pop_front(&gone))) {
        struct blkdev_req *up = list_entry(l, struct blkdev_req, link);

        up->done(up, -ECANCELED);
    }
    list_for_each_safe (l, tmp, &fd->rmw) {
        struct job *j = list_entry(l, struct job, link);

        if (l == fd->rmw.next || j->stage > 1 || j->up->origin != origin)
            continue;
        list_del(l);
        list_push_back(&gone, l);
    }
    while ((l = list_pop_front(&gone))) {
        struct job *j = list_entry(l, struct job, link);

        j->rmw = false; /* the one that runs is not ours */
        job_done(j, -ECANCELED);
    }
}

/* --- opening ------------------------------------------------------------------------ */

static void
file_close(struct blkdev *d)
{
    struct filedev *fd = filedev_of(d);

    io_task_cancel(&fd->resume);
    for (unsigned i = 0; i < fd->slabs_n; i++)
        free(fd->slabs[i]);
    io_file_close(fd->file); /* and the lock with it */
    free(fd);
}

static const struct blkdev_ops filedev_ops = {
    .kind = "file",
    .submit = file_submit,
    .cancel = file_cancel,
    .close = file_close,
};

/* Before opening, because opening a FIFO waits and opening a tape moves it. */
static int
kind_check(const char *path, struct err *err)
{
    struct stat st;

    if (stat(path, &st) < 0)
        return err_set(err, -errno, ERR_IO_0004, "%s: %s", path,
                       err_errno(errno));
    if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
        return err_set(err, -ENOTBLK, ERR_IO_0011,
                       "%s is neither a regular file nor a block device", path);
    return 0;
}

static int
file_open_locked(struct filedev *fd, const struct filedev_config *cfg,
                 unsigned more, struct err *err)
{
    int rc = io_file_open(fd->dev.loop, cfg->path,
                          (cfg->read_only ? IO_OPEN_READ : IO_OPEN_WRITE) |
                              IO_OPEN_BLOCK_EXCL | more,
                          &fd->file, err);

    if (rc == -EBUSY)
        return err_set(err, rc, ERR_IO_0012,
                       "%s is mounted or in exclusive use", cfg->path);
    if (rc < 0 || fd->file->ops)
        return rc;
    /* flock, not fcntl: QEMU locks bytes of an image it has open with those,
     * and may have this one open while the export is slid under it. */
    if (flock(fd->file->fd, (cfg->read_only ? LOCK_SH : LOCK_EX) | LOCK_NB) < 0)
        return err_set(err, errno == EWOULDBLOCK ? -EBUSY : -errno, ERR_IO_0012,
                       "%s is locked by another process: %s", cfg->path,
                       err_errno(errno));
    return 0;
}

static int
info_fill(struct filedev *fd, const struct filedev_config *cfg, struct err *err)
{
    struct io_file_info in;
    struct blkdev_info *out = &fd->dev.info;
    uint64_t rotational = 0;
    int rc = io_file_info(fd->file, &in, err);

    if (rc < 0)
        return rc;
    if (in.size == 0 || in.size % SECTOR != 0)
        return err_set(err, -EINVAL, ERR_IO_0011,
                       "%s has %llu bytes, not a multiple of 512 above 0",
                       cfg->path, (unsigned long long)in.size);
    fd->align = in.direct ? in.align : 1;
    fd->unit = MAX(fd->align, in.is_block_device ? in.block : 1u);
    fd->rw_flags = cfg->cache == FILEDEV_WRITEBACK ? IO_RW_INLINE : 0;
    out->size = in.size;
    out->min_block = in.direct ? MAX(in.align, (uint32_t)SECTOR) : SECTOR;
    out->pref_block = MAX(out->min_block, (uint32_t)PREF_BLOCK);
    out->max_payload = FILE_MAX_PAYLOAD;
    if (cfg->read_only)
        out->features |= BLKDEV_READ_ONLY;
    else if (io_file_can_punch(fd->file))
        out->features |= BLKDEV_CAN_TRIM;
    if (!cfg->read_only)
        out->features |= BLKDEV_CAN_FAST_ZERO;
    if (in.is_regular)
        out->features |= BLKDEV_CAN_EXTENTS;
    if (in.is_block_device && !fd->file->ops &&
        io_device_queue(fd->file, "rotational", &rotational) == 0 && rotational)
        out->features |= BLKDEV_ROTATIONAL;
    return 0;
}

/* A file whose end is not on a block of direct I/O could not be written there
 * without growing: it goes through the page cache. */
static int
direct_check(struct filedev *fd, const struct filedev_config *cfg,
             struct err *err)
{
    if (fd->align <= 1 || fd->dev.info.size % fd->align == 0)
        return 0;
    log_line(LOG_WARN, "io", "",
             "%s: %llu bytes are no multiple of %u: no direct I/O", cfg->path,
             (unsigned long long)fd->dev.info.size, fd->align);
    io_file_close(fd->file);
    fd->file = NULL;
    fd->dev.info = (struct blkdev_info){ .size = 0 };
    return file_open_locked(fd, cfg, 0, err);
}

int
filedev_open(struct io_loop *loop, const struct filedev_config *cfg,
             struct blkdev **out, struct err *err)
{
    struct filedev *fd;
    int rc = loop->fs == &io_fs_real ? kind_check(cfg->path, err) : 0;

    if (rc < 0)
        return rc;
    fd = calloc(1, sizeof *fd);
    if (!fd)
        return err_set(err, -ENOMEM, ERR_GEN_0002, "%s: no memory", cfg->path);
    fd->dev.ops = &filedev_ops;
    fd->dev.loop = loop;
    list_init(&fd->free);
    list_init(&fd->waiting);
    list_init(&fd->rmw);
    io_task_init(&fd->resume, resume_run);
    rc = slab_add(fd);
    if (rc < 0) {
        err_set(err, rc, ERR_GEN_0002, "%s: no memory", cfg->path);
        goto fail;
    }
    rc = file_open_locked(fd, cfg,
                          cfg->cache == FILEDEV_NONE ? IO_OPEN_DIRECT : 0, err);
    if (rc == 0)
        rc = info_fill(fd, cfg, err);
    if (rc == 0)
        rc = direct_check(fd, cfg, err);
    if (rc == 0 && fd->dev.info.size == 0)
        rc = info_fill(fd, cfg, err);
    if (rc < 0)
        goto fail;
    *out = &fd->dev;
    return 0;

fail:
    file_close(&fd->dev);
    return rc;
}

struct io_file *
filedev_file(struct blkdev *d)
{
    return filedev_of(d)->file;
}
