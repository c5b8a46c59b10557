/* What is below the seam: a loop's inside, and what a backend has to offer.
 *
 * Only files of io/ and a simulation include this.  Two tables: io_backend_ops
 * moves time, readiness and file requests; io_fs_ops opens files and knows
 * names.  The two real backends (loop_uring.c, loop_epoll.c) share sockets,
 * clock and wake-up (loop_poll.c) and the real file system (fs.c), and differ
 * in how a file request travels.
 *
 * A file request is a small state machine (file.c) that knows nothing of its
 * carrier: io_req_prepare() tells the next system call, io_req_advance() takes
 * its result and says whether the request is finished.
 */
#ifndef HOLDFAST_IO_LOOP_BACKEND_H
#define HOLDFAST_IO_LOOP_BACKEND_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/epoll.h>
#include <sys/uio.h>

#include "io/chan.h"
#include "io/file.h"
#include "io/loop.h"

enum {
    IO_POLL_BATCH = 64,
    IO_FILE_DEPTH_DEFAULT = 1024,
    IO_FILE_DEPTH_MAX = 16384,
    IO_WORKERS_MAX = 64,
};
#define IO_WAIT_FOREVER UINT64_MAX

/* A descriptor whose readiness is watched, level-triggered.  Changes of
 * interest are gathered and reach the kernel once, before the next wait. */
struct io_watch {
    int fd;
    uint32_t want, armed; /* EPOLLIN | EPOLLOUT; armed: what the kernel has */
    bool added;
    struct list link; /* loop->watch_dirty */
    void (*ready)(struct io_watch *w, uint32_t events);
};

void io_watch_init(struct io_watch *w, int fd,
                   void (*ready)(struct io_watch *w, uint32_t events));
void io_watch_set(struct io_loop *loop, struct io_watch *w, uint32_t want);
/* No call of ready() afterwards, not even in the batch being dispatched. */
void io_watch_remove(struct io_loop *loop, struct io_watch *w);

struct io_backend_ops {
    const char *name;
    uint64_t (*mono)(const struct io_loop *loop);
    uint64_t (*wall)(const struct io_loop *loop);
    void (*random)(struct io_loop *loop, void *out, size_t n);
    /* Wait for readiness at most wait_ns, dispatch it.  0 or negative errno. */
    int (*wait)(struct io_loop *loop, uint64_t wait_ns);
    /* From any thread: end the wait that is going on, or the next one. */
    void (*wake)(struct io_loop *loop);
    /* Take a request (queue it); flush() hands the queued ones to the kernel;
     * reap() calls io_req_finished() for what is done. */
    void (*file_start)(struct io_loop *loop, struct io_req *rq);
    void (*file_flush)(struct io_loop *loop);
    void (*file_reap)(struct io_loop *loop);
    /* Block until at least one file request has moved. */
    void (*file_wait)(struct io_loop *loop);
    void (*free)(struct io_loop *loop); /* no request is in flight */
};

struct io_fs_ops {
    int (*open)(struct io_loop *loop, const char *path, unsigned flags,
                struct io_file **out, struct err *err);
    int (*mkdir)(const char *path, struct err *err);
    int (*rename)(const char *from, const char *to, struct err *err);
    int (*unlink)(const char *path);
    int (*rmdir_tree)(const char *path, struct err *err);
    int (*sync_dir)(const char *path, struct err *err);
    int (*list_dir)(const char *path, size_t max, char ***out_names,
                    size_t *out_n, struct err *err);
    int (*disk_free)(const char *path, uint64_t *out_free, uint64_t *out_size);
};
extern const struct io_fs_ops io_fs_real;

/* Channels and listeners of a simulated network; NULL: real sockets. */
struct io_net_ops {
    int (*connect)(struct io_loop *loop, const struct io_addr *addr,
                   struct tls_ctx *tls, uint64_t deadline_ns,
                   const struct io_chan_owner *owner, struct io_chan **out,
                   struct err *err);
    int (*listen)(struct io_loop *loop, const struct io_listen_config *cfg,
                  io_accept_fn accepted, void *arg, struct io_listener **out,
                  struct err *err);
    void (*listener_addr)(const struct io_listener *l, struct io_addr *out);
    void (*listener_close)(struct io_listener *l);
};

struct io_workers; /* work.c */

struct io_loop {
    const struct io_backend_ops *be;
    const struct io_fs_ops *fs;
    const struct io_net_ops *net;
    void *be_state;
    uint64_t now_ns; /* read once a turn */
    bool in_turn, stop;

    /* Timers: binary heap, heap[0] unused. */
    struct io_timer **heap;
    size_t heap_n, heap_cap;

    struct list tasks;     /* io_task.link */
    struct list completed; /* io_req.link, done() is due */
    struct list waiting;   /* io_req.link, beyond file_depth */
    unsigned in_flight, file_depth;

    _Atomic(struct io_post *) posts; /* newest first */
    struct io_workers *workers;

    /* loop_poll.c */
    int ep_fd, wake_fd;
    struct io_watch wake_watch;
    struct list watch_dirty;
    struct epoll_event batch[IO_POLL_BATCH];
    int batch_i, batch_n;

    /* signals */
    int sig_fd;
    struct io_watch sig_watch;
    void (*sig_got)(void *arg, int sig);
    void *sig_arg;
};

/* loop_poll.c: sockets, clock, randomness, wake-up of the real backends. */
int io_poll_init(struct io_loop *loop, struct err *err);
void io_poll_release(struct io_loop *loop);
int io_poll_wait(struct io_loop *loop, uint64_t wait_ns);
void io_poll_wake(struct io_loop *loop);
uint64_t io_real_mono(const struct io_loop *loop);
uint64_t io_real_wall(const struct io_loop *loop);
void io_real_random(struct io_loop *loop, void *out, size_t n);

/* loop_uring.c, loop_epoll.c: fill be and be_state. */
int io_uring_backend_init(struct io_loop *loop, struct err *err);
int io_epoll_backend_init(struct io_loop *loop, struct err *err);

/* work.c */
int io_workers_new(struct io_loop *loop, unsigned n, struct io_workers **out);
/* Run what is due on the loop's thread: done() of finished jobs, and with no
 * threads also the jobs.  Returns how many. */
unsigned io_workers_collect(struct io_workers *ws);
bool io_workers_due(struct io_workers *ws); /* collect() has something to do */
unsigned io_workers_busy(struct io_workers *ws); /* jobs not yet handed back */
/* A job that is submitted now begins at once. */
bool io_workers_idle(const struct io_workers *ws);
void io_workers_wait(struct io_workers *ws); /* until one job is finished */
void io_workers_free(struct io_workers *ws); /* joins the threads */
/* A thread with all signals blocked. */
int io_thread_start(pthread_t *out, void *(*run)(void *), void *arg);

/* --- files -------------------------------------------------------------- */

enum io_op {
    IO_OP_READ,
    IO_OP_WRITE,
    IO_OP_SYNC,
    IO_OP_ZERO,       /* fallocate; flags is the io_zero_mode */
    IO_OP_ZERO_WRITE, /* its fallback */
};

enum io_file_bits {            /* io_file.bits */
    IO_FILE_POISONED = 1 << 0, /* a sync failed: I9 */
    IO_FILE_NO_PUNCH = 1 << 1, /* learnt from EOPNOTSUPP */
    IO_FILE_NO_ZERO = 1 << 2,  /* the same for zero-range */
    IO_FILE_CAN_PUNCH = 1 << 3,
    IO_FILE_NO_NOWAIT_R = 1 << 4, /* RWF_NOWAIT reads are refused */
    IO_FILE_NO_NOWAIT_W = 1 << 5,
};

struct io_step;
/* A file that is not the kernel's (a simulation's): its requests reach the
 * backend's file_start(), its blocking calls come here. */
struct io_file_ops {
    int64_t (*step)(struct io_file *f, const struct io_step *st);
    int (*info)(struct io_file *f, struct io_file_info *out, struct err *err);
    int (*truncate)(struct io_file *f, uint64_t size);
    int (*preallocate)(struct io_file *f, uint64_t size);
    int (*extents)(struct io_file *f, uint64_t off, uint64_t len,
                   struct io_extent *out, size_t max);
    bool (*can_punch)(struct io_file *f);
    void (*close)(struct io_file *f);
};

struct io_file {
    struct io_loop *loop;
    const struct io_file_ops *ops; /* NULL: a real one */
    int fd;
    char *path;
    bool read_only, direct, ram_backed, is_block, is_regular;
    uint32_t align, block;
    atomic_uint bits;
    /* Inline writes that might stall: see io_file_inline_write(). */
    uint64_t slow_until_ns, slow_step_ns;
};

/* The next system call of a request. */
enum io_step_kind {
    IO_STEP_READ,
    IO_STEP_WRITE,
    IO_STEP_SYNC,
    IO_STEP_FALLOC
};
struct io_step {
    enum io_step_kind kind;
    int fd;
    const struct iovec *iov;
    unsigned iov_n;
    int rw_flags;    /* RWF_* */
    int falloc_mode; /* FALLOC_FL_* */
    uint64_t off, len;
};
void io_req_prepare(struct io_req *rq, struct io_step *out);
/* res: bytes or negative errno.  True: finished, rq->res is set. */
bool io_req_advance(struct io_req *rq, int64_t res);
/* Run a whole request here and now, blocking. */
void io_req_run(struct io_req *rq);
/* From the backend, on the loop's thread: rq is finished. */
void io_req_finished(struct io_loop *loop, struct io_req *rq);

/* A number below /sys/dev/block/M:N/queue/. */
int io_device_queue(struct io_file *f, const char *name, uint64_t *out);

/* For filedev.c: refuse a block device that is mounted or otherwise taken. */
enum {
    IO_OPEN_BLOCK_EXCL = 1 << 16
};

#endif
