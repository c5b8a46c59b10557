/* The event loop and the platform seam of the data path.
 *
 * Everything above io/ takes time, random numbers, timers, files, sockets and
 * worker threads from a struct io_loop and from nowhere else, so that one
 * thread with simulated clock, disks and network can run two whole sites from
 * a seed.  The loop's backend is chosen at run time: io_uring (files in the
 * ring, submitted once a turn), or epoll with a pread/pwrite pool where the
 * kernel refuses io_uring.  A simulation is a further backend (loop_backend.h).
 *
 * One thread owns a loop and everything hung on it.  Only io_post() may be
 * called from other threads.
 *
 * A turn: ready sockets and posts -> their callbacks -> expired timers ->
 * deferred tasks (reply coalescing) -> one submission of all queued file
 * requests -> completions.  A callback may free any object of its own; it is
 * never called again after the object's stop, cancel or close has returned.
 */
#ifndef HOLDFAST_IO_LOOP_H
#define HOLDFAST_IO_LOOP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "common/list.h"

struct io_loop;

enum io_backend {
    IO_BACKEND_AUTO,
    IO_BACKEND_URING,
    IO_BACKEND_EPOLL
};

struct io_loop_config {
    enum io_backend backend; /* AUTO: io_uring, else epoll, with a log line */
    unsigned workers;        /* threads of the worker pool; 0: run inline */
    unsigned file_depth;     /* file requests in flight; 0: 1024.  Further
                              * ones wait inside the loop, in order. */
};

/* -ENOSYS/-EPERM: the backend asked for is refused by the kernel. */
int io_loop_new(const struct io_loop_config *cfg, struct io_loop **out,
                struct err *err);
/* Waits for worker jobs and file requests in flight, then frees. */
void io_loop_free(struct io_loop *loop);
/* Run turns until io_loop_stop(); 0, or negative errno when the loop itself
 * fails (which no data ever causes). */
int io_loop_run(struct io_loop *loop);
/* One turn that waits at most wait_ns (0: poll).  For tests. */
int io_loop_turn(struct io_loop *loop, uint64_t wait_ns);
void io_loop_stop(struct io_loop *loop);
const char *io_loop_backend_name(const struct io_loop *loop);

/* Monotonic nanoseconds, read once a turn; io_mono_fresh() reads now. */
uint64_t io_mono_ns(const struct io_loop *loop);
uint64_t io_mono_fresh(const struct io_loop *loop);
/* UTC nanoseconds since 1970: a label for people and records, never a
 * timeout. */
uint64_t io_wall_ns(const struct io_loop *loop);
/* Cryptographically strong random bytes. */
void io_random(struct io_loop *loop, void *out, size_t n);

/* A one-shot timer, embedded in its owner. */
struct io_timer {
    void (*fire)(struct io_timer *t);
    /* private */
    struct io_loop *loop;
    uint64_t at_ns;
    size_t heap_index; /* 0: not armed */
};

void io_timer_init(struct io_timer *t, struct io_loop *loop,
                   void (*fire)(struct io_timer *t));
void io_timer_set(struct io_timer *t, uint64_t delay_ns); /* re-arms */
void io_timer_stop(struct io_timer *t);
bool io_timer_armed(const struct io_timer *t);

/* A deferred task runs once, later in this turn (or in the next one when
 * deferred by a deferred task).  Deferring a queued task does nothing. */
struct io_task {
    void (*run)(struct io_task *t);
    /* private */
    struct list link;
    bool queued;
};

void io_task_init(struct io_task *t, void (*run)(struct io_task *t));
void io_defer(struct io_loop *loop, struct io_task *t);
void io_task_cancel(struct io_task *t);

/* A message from any thread to the loop's thread.  The poster gives the object
 * away until run() is called there.  Posts of one thread keep their order. */
struct io_post {
    void (*run)(struct io_post *p);
    /* private */
    struct io_post *next;
};

void io_post(struct io_loop *loop, struct io_post *p);

/* A job that blocks: disk metadata, fsync of many files, sorting, hashing.
 * run() is called on a worker thread and touches nothing but the job; done()
 * is called on the loop's thread.  The object belongs to the pool in between.
 * Jobs start in the order of submission.  Bounded by the callers' objects. */
struct io_work {
    void (*run)(struct io_work *w);
    void (*done)(struct io_work *w);
    /* private */
    struct io_loop *loop;
    struct list link;
};

void io_work_submit(struct io_loop *loop, struct io_work *w);

/* Signals: blocked in all threads, read here.  At most one handler a loop. */
int
io_signals_watch(struct io_loop *loop, const int *signals, size_t n,
                 void (*got)(void *arg, int sig), void *arg, struct err *err);

#endif
