/* Files through io_uring: requests are queued as they come and submitted once
 * a turn; completions are collected by the same system call.
 *
 * Set-up: SINGLE_ISSUER | DEFER_TASKRUN | COOP_TASKRUN, so that completions
 * are worked off when the loop asks and no interrupt disturbs it; older kernels
 * refuse some of these, then fewer are asked for.  The ring starts disabled and
 * is enabled by the first submission, because the loop may be made on another
 * thread than the one that runs it.  No SQPOLL: it spins a kernel thread, half
 * of a two-core machine.  Descriptors are not registered: it gained nothing
 * measurable here beside the cost of the operation itself.
 *
 * The loop sleeps in epoll; an eventfd of the ring wakes it.  (Polling the
 * ring's own descriptor does not: with DEFER_TASKRUN the kernel wakes pollers
 * when completions are posted, and they are posted when we ask.)  It is watched
 * edge-triggered, so that it need not be read, and switched off while awake;
 * TASKRUN_FLAG then shows what came meanwhile.
 */
#include <errno.h>
#include <liburing.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "common/log.h"
#include "io/loop_backend.h"

enum {
    SQ_ENTRIES = 256
};

struct uring {
    struct io_uring ring;
    struct io_watch watch; /* the eventfd */
    unsigned unsubmitted;  /* queued in the ring's memory */
    struct list stalled;   /* io_req.link: the kernel took no more just now */
    bool disabled;         /* to be enabled by the submitting thread */
    bool ready;            /* epoll said that something may be collected */
};

static void
ring_submit(struct uring *u)
{
    int rc;

    if (u->disabled) {
        /* liburing 2.3's io_uring_enable_rings() is missing in its library. */
        rc = io_uring_register((unsigned)u->ring.ring_fd,
                               IORING_REGISTER_ENABLE_RINGS, NULL, 0);
        if (rc < 0) {
            log_line(LOG_ERROR, "io", "", "io_uring: enabling: %s",
                     err_errno(rc));
            return;
        }
        u->disabled = false;
    }
    do
        rc = io_uring_submit_and_get_events(&u->ring);
    while (rc == -EINTR);
    if (rc >= 0) {
        u->unsubmitted -= MIN(u->unsubmitted, (unsigned)rc);
    } else if (rc != -EAGAIN && rc != -EBUSY) {
        /* Kernel out of memory, or a wrong thread: tried again next turn. */
        log_line(LOG_ERROR, "io", "", "io_uring: submitting %u: %s",
                 u->unsubmitted, err_errno(rc));
    }
}

static void
sqe_fill(struct io_uring_sqe *sqe, struct io_req *rq)
{
    struct io_step st;

    io_req_prepare(rq, &st);
    switch (st.kind) {
    case IO_STEP_READ:
        if (st.iov_n == 1)
            io_uring_prep_read(sqe, st.fd, st.iov->iov_base,
                               (unsigned)st.iov->iov_len, st.off);
        else
            io_uring_prep_readv2(sqe, st.fd, st.iov, st.iov_n, st.off, 0);
        break;
    case IO_STEP_WRITE:
        if (st.iov_n == 1)
            io_uring_prep_write(sqe, st.fd, st.iov->iov_base,
                                (unsigned)st.iov->iov_len, st.off);
        else
            io_uring_prep_writev2(sqe, st.fd, st.iov, st.iov_n, st.off, 0);
        sqe->rw_flags = st.rw_flags;
        break;
    case IO_STEP_SYNC:
        io_uring_prep_fsync(sqe, st.fd, IORING_FSYNC_DATASYNC);
        break;
    case IO_STEP_FALLOC:
        /* By hand: liburing 2.3 takes the length as off_t all the same. */
        io_uring_prep_fallocate(sqe, st.fd, st.falloc_mode, (off_t)st.off,
                                (off_t)st.len);
        break;
    }
    io_uring_sqe_set_data(sqe, rq);
}

static bool
sqe_queue(struct uring *u, struct io_req *rq)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);

    if (!sqe) {
        ring_submit(u);
        sqe = io_uring_get_sqe(&u->ring);
    }
    if (!sqe)
        return false;
    sqe_fill(sqe, rq);
    u->unsubmitted++;
    return true;
}

static void
uring_file_start(struct io_loop *loop, struct io_req *rq)
{
    struct uring *u = loop->be_state;

    if (!list_empty(&u->stalled) || !sqe_queue(u, rq))
        list_add_before_(&u->stalled, &rq->link);
}

static void
uring_file_flush(struct io_loop *loop)
{
    struct uring *u = loop->be_state;
    struct list *l;

    while ((l = list_pop_front(&u->stalled))) {
        if (!sqe_queue(u, list_entry(l, struct io_req, link))) {
            list_push_front(&u->stalled, l);
            break;
        }
    }
    if (u->unsubmitted)
        ring_submit(u);
}

static void
uring_file_reap(struct io_loop *loop)
{
    struct uring *u = loop->be_state;
    struct io_uring_cqe *cqes[64];
    unsigned n;

    if (u->ready) {
        u->ready = false;
        (void)io_uring_get_events(&u->ring);
    }
    while ((n = io_uring_peek_batch_cqe(&u->ring, cqes, ARRAY_SIZE(cqes)))) {
        for (unsigned i = 0; i < n; i++) {
            struct io_req *rq = io_uring_cqe_get_data(cqes[i]);

            if (io_req_advance(rq, cqes[i]->res))
                io_req_finished(loop, rq);
            else
                uring_file_start(loop, rq);
        }
        io_uring_cq_advance(&u->ring, n);
    }
}

static void
uring_file_wait(struct io_loop *loop)
{
    struct uring *u = loop->be_state;
    struct io_uring_cqe *cqe;
    int rc;

    do
        rc = io_uring_wait_cqe(&u->ring, &cqe);
    while (rc == -EINTR);
    if (rc < 0) {
        /* In flight, and no way to learn the end: their memory must not be
         * freed under the kernel. */
        log_line(LOG_ERROR, "io", "", "io_uring: waiting: %s", err_errno(rc));
        abort();
    }
}

static bool
something_came(const struct uring *u)
{
    return io_uring_cq_ready(&u->ring) ||
           (IO_URING_READ_ONCE(*u->ring.sq.kflags) & IORING_SQ_TASKRUN);
}

static int
uring_wait(struct io_loop *loop, uint64_t wait_ns)
{
    struct uring *u = loop->be_state;
    int rc;

    if (!loop->in_flight)
        return io_poll_wait(loop, wait_ns);
    /* On first, then look: what comes between the two shows in one of them. */
    (void)io_uring_cq_eventfd_toggle(&u->ring, true);
    atomic_thread_fence(memory_order_seq_cst);
    if (something_came(u)) {
        u->ready = true;
        wait_ns = 0;
    } else if (u->unsubmitted) { /* refused for now: try again soon */
        wait_ns = MIN(wait_ns, NSEC_PER_MSEC);
    }
    rc = io_poll_wait(loop, wait_ns);
    (void)io_uring_cq_eventfd_toggle(&u->ring, false);
    u->ready = u->ready || something_came(u);
    return rc;
}

static void
uring_ready(struct io_watch *w, uint32_t events)
{
    struct uring *u = container_of(w, struct uring, watch);

    UNUSED(events);
    u->ready = true;
}

static void
uring_free(struct io_loop *loop)
{
    struct uring *u = loop->be_state;

    io_watch_remove(loop, &u->watch);
    io_uring_queue_exit(&u->ring);
    (void)close(u->watch.fd); /* nothing to lose */
    free(u);
}

static const struct io_backend_ops uring_ops = {
    .name = "io_uring",
    .mono = io_real_mono,
    .wall = io_real_wall,
    .random = io_real_random,
    .wait = uring_wait,
    .wake = io_poll_wake,
    .file_start = uring_file_start,
    .file_flush = uring_file_flush,
    .file_reap = uring_file_reap,
    .file_wait = uring_file_wait,
    .free = uring_free,
};

static const unsigned setup_flags[] = {
    IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
        IORING_SETUP_COOP_TASKRUN | IORING_SETUP_R_DISABLED |
        IORING_SETUP_SUBMIT_ALL | IORING_SETUP_TASKRUN_FLAG,
    IORING_SETUP_COOP_TASKRUN | IORING_SETUP_SUBMIT_ALL |
        IORING_SETUP_TASKRUN_FLAG,
    IORING_SETUP_SUBMIT_ALL,
    0,
};

static const uint8_t needed_ops[] = {
    IORING_OP_READ,   IORING_OP_WRITE, IORING_OP_READV,
    IORING_OP_WRITEV, IORING_OP_FSYNC, IORING_OP_FALLOCATE,
};

static int
ring_setup(struct io_loop *loop, struct io_uring *ring, unsigned *out_flags)
{
    int rc = -EINVAL;

    for (size_t i = 0; i < ARRAY_SIZE(setup_flags) && rc == -EINVAL; i++) {
        struct io_uring_params p = {
            .flags = setup_flags[i] | IORING_SETUP_CQSIZE,
            .cq_entries = MAX(2 * loop->file_depth, 2 * (unsigned)SQ_ENTRIES),
        };

        rc = io_uring_queue_init_params(SQ_ENTRIES, ring, &p);
        *out_flags = setup_flags[i];
    }
    return rc;
}

static int
ops_check(struct io_uring *ring)
{
    struct io_uring_probe *probe = io_uring_get_probe_ring(ring);
    int rc = 0;

    if (!probe)
        return -ENOSYS;
    for (size_t i = 0; i < ARRAY_SIZE(needed_ops); i++)
        if (!io_uring_opcode_supported(probe, needed_ops[i]))
            rc = -ENOSYS;
    io_uring_free_probe(probe);
    return rc;
}

int
io_uring_backend_init(struct io_loop *loop, struct err *err)
{
    struct uring *u = calloc(1, sizeof *u);
    unsigned flags = 0;
    int rc, fd;

    if (!u)
        return err_set(err, -ENOMEM, ERR_GEN_0002, "no memory for a ring");
    rc = ring_setup(loop, &u->ring, &flags);
    if (rc < 0) {
        free(u);
        return err_set(err, rc, ERR_IO_0003, "io_uring: %s", err_errno(rc));
    }
    rc = ops_check(&u->ring);
    if (rc < 0) {
        io_uring_queue_exit(&u->ring);
        free(u);
        return err_set(err, rc, ERR_IO_0003,
                       "io_uring lacks operations this program needs");
    }
    fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    rc = fd < 0 ? -errno : io_uring_register_eventfd(&u->ring, fd);
    if (rc < 0) {
        if (fd >= 0)
            (void)close(fd); /* nothing to lose */
        io_uring_queue_exit(&u->ring);
        free(u);
        return err_set(err, rc, ERR_IO_0003, "io_uring: eventfd: %s",
                       err_errno(rc));
    }
    list_init(&u->stalled);
    u->disabled = (flags & IORING_SETUP_R_DISABLED) != 0;
    (void)io_uring_cq_eventfd_toggle(&u->ring, false);
    (void)io_uring_ring_dontfork(&u->ring);
    io_watch_init(&u->watch, fd, uring_ready);
    io_watch_set(loop, &u->watch, EPOLLIN | EPOLLET);
    loop->be = &uring_ops;
    loop->be_state = u;
    return 0;
}
