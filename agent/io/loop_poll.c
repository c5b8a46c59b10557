/* Readiness for both real backends: one epoll set with the sockets, the
 * wake-up eventfd, the signalfd, and (io_uring) the ring's own descriptor.
 *
 * Waiting in the ring with polls of the sockets was measured and gains nothing
 * here: 4 KiB request, pwrite to tmpfs, 16-byte reply over a Unix socket, one at
 * a time: 11.6 to 14.7 us with epoll, 11.4 to 13.5 with multishot polls, 11.8 to
 * 13.3 with one-shot ones, and the same CPU (three runs, two cores).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "common/log.h"
#include "io/loop_backend.h"

void
io_watch_init(struct io_watch *w, int fd,
              void (*ready)(struct io_watch *w, uint32_t events))
{
    *w = (struct io_watch){ .fd = fd, .ready = ready };
    list_init(&w->link);
}

void
io_watch_set(struct io_loop *loop, struct io_watch *w, uint32_t want)
{
    w->want = want;
    if (want == w->armed && (w->added || !want)) {
        list_del(&w->link);
        return;
    }
    if (list_empty(&w->link))
        list_push_back(&loop->watch_dirty, &w->link);
}

void
io_watch_remove(struct io_loop *loop, struct io_watch *w)
{
    list_del(&w->link);
    if (w->added)
        (void)epoll_ctl(loop->ep_fd, EPOLL_CTL_DEL, w->fd, NULL);
    w->added = false;
    w->armed = w->want = 0;
    for (int i = loop->batch_i; i < loop->batch_n; i++)
        if (loop->batch[i].data.ptr == w)
            loop->batch[i].data.ptr = NULL;
}

/* Nothing wanted: taken out of the set, because epoll would go on reporting a
 * hang-up that nobody wants to hear of. */
static int
watch_apply(struct io_loop *loop, struct io_watch *w)
{
    struct epoll_event ev = { .events = w->want, .data.ptr = w };
    int op = !w->want   ? EPOLL_CTL_DEL
             : w->added ? EPOLL_CTL_MOD
                        : EPOLL_CTL_ADD;

    if (!w->want && !w->added)
        return 0;
    if (epoll_ctl(loop->ep_fd, op, w->fd, &ev) < 0)
        return -errno;
    w->added = w->want != 0;
    w->armed = w->want;
    return 0;
}

static void
watches_apply(struct io_loop *loop)
{
    struct list *l;

    while ((l = list_pop_front(&loop->watch_dirty))) {
        struct io_watch *w = list_entry(l, struct io_watch, link);
        int rc = watch_apply(loop, w);

        /* Out of kernel memory: let the owner find out by an attempt. */
        if (rc < 0)
            w->ready(w, EPOLLERR);
    }
}

int
io_poll_wait(struct io_loop *loop, uint64_t wait_ns)
{
    struct timespec ts, *tsp = NULL;
    int n;

    watches_apply(loop);
    if (wait_ns != IO_WAIT_FOREVER) {
        ts.tv_sec = (time_t)(wait_ns / NSEC_PER_SEC);
        ts.tv_nsec = (long)(wait_ns % NSEC_PER_SEC);
        tsp = &ts;
    }
    n = epoll_pwait2(loop->ep_fd, loop->batch, IO_POLL_BATCH, tsp, NULL);
    if (n < 0 && errno == ENOSYS) { /* before Linux 5.11 */
        uint64_t ms = wait_ns / NSEC_PER_MSEC + (wait_ns % NSEC_PER_MSEC != 0);

        n = epoll_wait(loop->ep_fd, loop->batch, IO_POLL_BATCH,
                       tsp ? (int)MIN(ms, (uint64_t)INT32_MAX) : -1);
    }
    if (n < 0 && errno != EINTR)
        return -errno;
    loop->now_ns = io_real_mono(loop);
    loop->batch_n = MAX(n, 0);
    for (loop->batch_i = 0; loop->batch_i < loop->batch_n;) {
        struct epoll_event ev = loop->batch[loop->batch_i++];
        struct io_watch *w = ev.data.ptr;

        if (w)
            w->ready(w, ev.events);
    }
    loop->batch_n = 0;
    return 0;
}

void
io_poll_wake(struct io_loop *loop)
{
    uint64_t one = 1;

    /* Full counter: awake anyway. */
    if (write(loop->wake_fd, &one, sizeof one) < 0 && errno != EAGAIN)
        log_line(LOG_ERROR, "io", "", "eventfd: %s", err_errno(errno));
}

static void
wake_ready(struct io_watch *w, uint32_t events)
{
    uint64_t n;

    UNUSED(events);
    if (read(w->fd, &n, sizeof n) < 0 && errno != EAGAIN)
        log_line(LOG_ERROR, "io", "", "eventfd: %s", err_errno(errno));
}

int
io_poll_init(struct io_loop *loop, struct err *err)
{
    loop->ep_fd = epoll_create1(EPOLL_CLOEXEC);
    if (loop->ep_fd < 0)
        return err_set(err, -errno, ERR_IO_0001, "epoll: %s", err_errno(errno));
    loop->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (loop->wake_fd < 0)
        return err_set(err, -errno, ERR_IO_0001, "eventfd: %s",
                       err_errno(errno));
    io_watch_init(&loop->wake_watch, loop->wake_fd, wake_ready);
    io_watch_set(loop, &loop->wake_watch, EPOLLIN);
    return 0;
}

void
io_poll_release(struct io_loop *loop)
{
    if (loop->sig_fd >= 0)
        (void)close(loop->sig_fd); /* nothing to lose */
    if (loop->wake_fd >= 0)
        (void)close(loop->wake_fd);
    if (loop->ep_fd >= 0)
        (void)close(loop->ep_fd);
}

static uint64_t
clock_ns(clockid_t id)
{
    struct timespec ts = { .tv_sec = 0 };

    (void)clock_gettime(id, &ts); /* cannot fail for these two clocks */
    return (uint64_t)ts.tv_sec * NSEC_PER_SEC + (uint64_t)ts.tv_nsec;
}

uint64_t
io_real_mono(const struct io_loop *loop)
{
    UNUSED(loop);
    return clock_ns(CLOCK_MONOTONIC);
}

uint64_t
io_real_wall(const struct io_loop *loop)
{
    UNUSED(loop);
    return clock_ns(CLOCK_REALTIME);
}

void
io_real_random(struct io_loop *loop, void *out, size_t n)
{
    uint8_t *p = out;

    UNUSED(loop);
    while (n) {
        ssize_t k = getrandom(p, MIN(n, (size_t)256), 0);

        if (k < 0 && errno == EINTR)
            continue;
        if (k <= 0) { /* identifiers and keys must never be guessable */
            log_line(LOG_ERROR, "io", "", "getrandom: %s", err_errno(errno));
            abort();
        }
        p += k;
        n -= (size_t)k;
    }
}
