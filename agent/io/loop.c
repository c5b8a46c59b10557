/* The loop's core: turns, timers, deferred tasks, posts, signals, and the
 * counting of file requests.  What really waits and moves data is the backend.
 *
 * Turn: wait (sockets, wake-ups) -> posts -> finished jobs -> expired timers ->
 * tasks -> submission of queued file requests -> completions -> the tasks that
 * those deferred, and their submission.  The wait does not sleep while anything
 * of that is still due.
 *
 * Posts are a lock-free stack that is taken whole and reversed; only the poster
 * that finds it empty wakes the loop.
 *
 * Shutdown, in this order: the owner closes channels, listeners and files and
 * stops its timers; io_loop_free() then hands back (done()) whatever the worker
 * pool and the kernel still hold, without running timers, tasks or sockets,
 * joins the threads, and only then frees.  The thread that ran the loop frees
 * it: with io_uring only the submitting thread can collect completions.
 */
#include "io/loop.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "common/log.h"
#include "io/loop_backend.h"

enum {
    TIMERS_AT_START = 256
};

/* --- timers -------------------------------------------------------------- */

static void
heap_put(struct io_loop *loop, size_t i, struct io_timer *t)
{
    loop->heap[i] = t;
    t->heap_index = i;
}

static void
heap_up(struct io_loop *loop, size_t i, struct io_timer *t)
{
    while (i > 1 && loop->heap[i / 2]->at_ns > t->at_ns) {
        heap_put(loop, i, loop->heap[i / 2]);
        i /= 2;
    }
    heap_put(loop, i, t);
}

static void
heap_down(struct io_loop *loop, size_t i, struct io_timer *t)
{
    for (;;) {
        size_t c = 2 * i;

        if (c > loop->heap_n)
            break;
        if (c < loop->heap_n && loop->heap[c + 1]->at_ns < loop->heap[c]->at_ns)
            c++;
        if (loop->heap[c]->at_ns >= t->at_ns)
            break;
        heap_put(loop, i, loop->heap[c]);
        i = c;
    }
    heap_put(loop, i, t);
}

static void
heap_remove(struct io_loop *loop, struct io_timer *t)
{
    size_t i = t->heap_index;
    struct io_timer *last = loop->heap[loop->heap_n--];

    t->heap_index = 0;
    if (last == t)
        return;
    if (i > 1 && loop->heap[i / 2]->at_ns > last->at_ns)
        heap_up(loop, i, last);
    else
        heap_down(loop, i, last);
}

void
io_timer_init(struct io_timer *t, struct io_loop *loop,
              void (*fire)(struct io_timer *t))
{
    *t = (struct io_timer){ .fire = fire, .loop = loop };
}

void
io_timer_set(struct io_timer *t, uint64_t delay_ns)
{
    struct io_loop *loop = t->loop;
    uint64_t at;

    /* A timer set by an expiring one must not expire in the same round. */
    if (__builtin_add_overflow(io_mono_ns(loop), delay_ns ? delay_ns : 1, &at))
        at = UINT64_MAX;
    if (t->heap_index)
        heap_remove(loop, t);
    t->at_ns = at;
    if (loop->heap_n + 1 >= loop->heap_cap) {
        size_t cap = loop->heap_cap * 2;
        struct io_timer **heap =
            reallocarray(loop->heap, cap, sizeof(struct io_timer *));

        if (!heap) {
            /* Without its deadlines no promise of ours holds. */
            log_line(LOG_ERROR, "io", "", "no memory for %zu timers", cap);
            abort();
        }
        loop->heap = heap;
        loop->heap_cap = cap;
    }
    heap_up(loop, ++loop->heap_n, t);
}

void
io_timer_stop(struct io_timer *t)
{
    if (t->heap_index)
        heap_remove(t->loop, t);
}

bool
io_timer_armed(const struct io_timer *t)
{
    return t->heap_index != 0;
}

static void
timers_fire(struct io_loop *loop)
{
    while (loop->heap_n && loop->heap[1]->at_ns <= loop->now_ns) {
        struct io_timer *t = loop->heap[1];

        heap_remove(loop, t);
        t->fire(t);
    }
}

/* --- tasks --------------------------------------------------------------- */

void
io_task_init(struct io_task *t, void (*run)(struct io_task *t))
{
    *t = (struct io_task){ .run = run };
    list_init(&t->link);
}

void
io_defer(struct io_loop *loop, struct io_task *t)
{
    if (t->queued)
        return;
    t->queued = true;
    list_push_back(&loop->tasks, &t->link);
}

void
io_task_cancel(struct io_task *t)
{
    if (!t->queued)
        return;
    t->queued = false;
    list_del(&t->link);
}

static void
tasks_run(struct io_loop *loop)
{
    struct list now, *l;

    list_init(&now);
    list_splice_back(&now, &loop->tasks);
    while ((l = list_pop_front(&now))) {
        struct io_task *t = list_entry(l, struct io_task, link);

        t->queued = false;
        t->run(t);
    }
}

/* --- posts --------------------------------------------------------------- */

void
io_post(struct io_loop *loop, struct io_post *p)
{
    struct io_post *head =
        atomic_load_explicit(&loop->posts, memory_order_relaxed);

    do
        p->next = head;
    while (!atomic_compare_exchange_weak_explicit(&loop->posts, &head, p,
                                                  memory_order_release,
                                                  memory_order_relaxed));
    if (!head)
        loop->be->wake(loop);
}

static void
posts_run(struct io_loop *loop)
{
    struct io_post *p, *next, *in_order = NULL;

    if (!atomic_load_explicit(&loop->posts, memory_order_relaxed))
        return;
    p = atomic_exchange_explicit(&loop->posts, NULL, memory_order_acquire);
    for (; p; p = next) {
        next = p->next;
        p->next = in_order;
        in_order = p;
    }
    for (p = in_order; p; p = next) {
        next = p->next;
        p->run(p);
    }
}

/* --- file requests ------------------------------------------------------- */

static void
requests_admit(struct io_loop *loop)
{
    while (loop->in_flight < loop->file_depth && !list_empty(&loop->waiting)) {
        struct list *l = list_pop_front(&loop->waiting);

        loop->in_flight++;
        loop->be->file_start(loop, list_entry(l, struct io_req, link));
    }
}

void
io_req_finished(struct io_loop *loop, struct io_req *rq)
{
    loop->in_flight--;
    list_push_back(&loop->completed, &rq->link);
}

/* Those present at the start; what done() completes at once waits its turn. */
static void
completions_run(struct io_loop *loop)
{
    struct list now, *l;

    list_init(&now);
    list_splice_back(&now, &loop->completed);
    while ((l = list_pop_front(&now))) {
        struct io_req *rq = list_entry(l, struct io_req, link);

        rq->done(rq, rq->res);
    }
}

static void
requests_submit(struct io_loop *loop)
{
    requests_admit(loop);
    loop->be->file_flush(loop);
}

/* --- turns --------------------------------------------------------------- */

static uint64_t
wait_limit(const struct io_loop *loop, uint64_t wait_ns)
{
    uint64_t now, at;

    if (loop->stop || !list_empty(&loop->tasks) ||
        !list_empty(&loop->completed) ||
        (!list_empty(&loop->waiting) && loop->in_flight < loop->file_depth) ||
        io_workers_due(loop->workers) ||
        atomic_load_explicit(&loop->posts, memory_order_relaxed))
        return 0;
    if (!loop->heap_n)
        return wait_ns;
    now = loop->be->mono(loop);
    at = loop->heap[1]->at_ns;
    return at <= now ? 0 : MIN(wait_ns, at - now);
}

int
io_loop_turn(struct io_loop *loop, uint64_t wait_ns)
{
    struct list later;
    int rc;

    list_init(&later);
    loop->in_turn = true;
    requests_submit(loop);
    rc = loop->be->wait(loop, wait_limit(loop, wait_ns));
    posts_run(loop);
    (void)io_workers_collect(loop->workers);
    timers_fire(loop);
    tasks_run(loop);
    requests_submit(loop);
    loop->be->file_reap(loop);
    /* Tasks of tasks are for the next turn, tasks of completions for this. */
    list_splice_back(&later, &loop->tasks);
    completions_run(loop);
    tasks_run(loop);
    list_splice_back(&later, &loop->tasks);
    list_splice_back(&loop->tasks, &later);
    loop->in_turn = false;
    return rc;
}

int
io_loop_run(struct io_loop *loop)
{
    int rc = 0;

    while (!loop->stop && rc == 0)
        rc = io_loop_turn(loop, IO_WAIT_FOREVER);
    loop->stop = false;
    return rc;
}

void
io_loop_stop(struct io_loop *loop)
{
    loop->stop = true;
}

const char *
io_loop_backend_name(const struct io_loop *loop)
{
    return loop->be->name;
}

uint64_t
io_mono_ns(const struct io_loop *loop)
{
    return loop->in_turn ? loop->now_ns : loop->be->mono(loop);
}

uint64_t
io_mono_fresh(const struct io_loop *loop)
{
    return loop->be->mono(loop);
}

uint64_t
io_wall_ns(const struct io_loop *loop)
{
    return loop->be->wall(loop);
}

void
io_random(struct io_loop *loop, void *out, size_t n)
{
    loop->be->random(loop, out, n);
}

/* --- signals ------------------------------------------------------------- */

static void
signals_ready(struct io_watch *w, uint32_t events)
{
    struct io_loop *loop = container_of(w, struct io_loop, sig_watch);
    struct signalfd_siginfo si;

    UNUSED(events);
    while (read(loop->sig_fd, &si, sizeof si) == (ssize_t)sizeof si)
        loop->sig_got(loop->sig_arg, (int)si.ssi_signo);
}

int
io_signals_watch(struct io_loop *loop, const int *signals, size_t n,
                 void (*got)(void *arg, int sig), void *arg, struct err *err)
{
    sigset_t set;
    int rc;

    if (loop->sig_fd >= 0)
        return err_set(err, -EBUSY, ERR_IO_0002,
                       "signals are already watched by this loop");
    sigemptyset(&set);
    for (size_t i = 0; i < n; i++)
        if (sigaddset(&set, signals[i]) < 0)
            return err_set(err, -EINVAL, ERR_IO_0002,
                           "signal %d cannot be watched", signals[i]);
    rc = pthread_sigmask(SIG_BLOCK, &set, NULL);
    if (rc)
        return err_set(err, -rc, ERR_IO_0002, "blocking signals: %s",
                       err_errno(rc));
    loop->sig_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (loop->sig_fd < 0)
        return err_set(err, -errno, ERR_IO_0002, "signalfd: %s",
                       err_errno(errno));
    loop->sig_got = got;
    loop->sig_arg = arg;
    io_watch_init(&loop->sig_watch, loop->sig_fd, signals_ready);
    io_watch_set(loop, &loop->sig_watch, EPOLLIN);
    return 0;
}

/* --- birth and death ------------------------------------------------------ */

static int
backend_init(struct io_loop *loop, enum io_backend want, struct err *err)
{
    struct err e = ERR_INIT;
    int rc;

    switch (want) {
    case IO_BACKEND_EPOLL: return io_epoll_backend_init(loop, err);
    case IO_BACKEND_URING: return io_uring_backend_init(loop, err);
    case IO_BACKEND_AUTO: break;
    }
    rc = io_uring_backend_init(loop, &e);
    if (rc == 0) {
        log_line(LOG_DEBUG, "io", "", "files through io_uring");
        return 0;
    }
    log_err(LOG_INFO, "io", "", "io_uring refused, using epoll and threads", &e);
    return io_epoll_backend_init(loop, err);
}

int
io_loop_new(const struct io_loop_config *cfg, struct io_loop **out,
            struct err *err)
{
    struct sigaction sa;
    struct io_loop *loop;
    int rc;

    if (cfg->workers > IO_WORKERS_MAX || cfg->file_depth > IO_FILE_DEPTH_MAX)
        return err_set(err, -EINVAL, ERR_IO_0001,
                       "loop: %u workers (limit %d), file depth %u (limit %d)",
                       cfg->workers, (int)IO_WORKERS_MAX, cfg->file_depth,
                       (int)IO_FILE_DEPTH_MAX);
    loop = calloc(1, sizeof *loop);
    if (!loop)
        return err_set(err, -ENOMEM, ERR_GEN_0002, "no memory for a loop");
    loop->ep_fd = loop->wake_fd = loop->sig_fd = -1;
    loop->fs = &io_fs_real;
    loop->file_depth = cfg->file_depth ? cfg->file_depth : IO_FILE_DEPTH_DEFAULT;
    list_init(&loop->tasks);
    list_init(&loop->completed);
    list_init(&loop->waiting);
    list_init(&loop->watch_dirty);
    /* A peer that goes away is an error code, never a signal: OpenSSL and
     * readers of pipes write without MSG_NOSIGNAL. */
    if (sigaction(SIGPIPE, NULL, &sa) == 0 && sa.sa_handler == SIG_DFL)
        (void)signal(SIGPIPE, SIG_IGN);

    rc = -ENOMEM;
    loop->heap_cap = TIMERS_AT_START;
    loop->heap = calloc(loop->heap_cap, sizeof(struct io_timer *));
    if (!loop->heap) {
        err_set(err, rc, ERR_GEN_0002, "no memory for timers");
        goto fail;
    }
    rc = io_poll_init(loop, err);
    if (rc < 0)
        goto fail;
    rc = backend_init(loop, cfg->backend, err);
    if (rc < 0)
        goto fail;
    loop->now_ns = loop->be->mono(loop);
    rc = io_workers_new(loop, cfg->workers, &loop->workers);
    if (rc < 0) {
        err_set(err, rc, ERR_IO_0001, "starting %u worker threads: %s",
                cfg->workers, err_errno(rc));
        goto fail;
    }
    *out = loop;
    return 0;

fail:
    if (loop->be)
        loop->be->free(loop);
    io_poll_release(loop);
    free(loop->heap);
    free(loop);
    return rc;
}

/* Hand back everything that io/ holds for others.  done() may start more. */
static void
loop_drain(struct io_loop *loop)
{
    for (;;) {
        requests_submit(loop);
        loop->be->file_reap(loop);
        completions_run(loop);
        (void)io_workers_collect(loop->workers);
        if (!list_empty(&loop->completed) || !list_empty(&loop->waiting))
            continue;
        if (loop->in_flight) {
            loop->be->file_flush(loop);
            loop->be->file_wait(loop);
        } else if (io_workers_busy(loop->workers)) {
            io_workers_wait(loop->workers);
        } else {
            return;
        }
    }
}

void
io_loop_free(struct io_loop *loop)
{
    if (!loop)
        return;
    loop->in_turn = true;
    loop_drain(loop);
    io_workers_free(loop->workers);
    posts_run(loop); /* so that nothing given away is lost */
    loop->be->free(loop);
    io_poll_release(loop);
    free(loop->heap);
    free(loop);
}
