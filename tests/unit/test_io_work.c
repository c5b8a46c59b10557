/* room: io common */
/* The worker pool: order, done() on the loop's thread, inline mode, freeing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#include <pthread.h>

#include "helper_io.h"
#include "io/loop.h"

enum {
    JOBS = 2000
};

struct bench {
    atomic_uint started;
    unsigned done;
    pthread_t loop_thread;
    bool disorder, wrong_thread, ran_in_loop;
};

struct job {
    struct io_work w;
    struct bench *b;
    struct io_loop *loop;
    unsigned number, ran, chain;
};

static void
job_run(struct io_work *w)
{
    struct job *j = container_of(w, struct job, w);

    j->ran = atomic_fetch_add(&j->b->started, 1) + 1;
    if (pthread_equal(pthread_self(), j->b->loop_thread))
        j->b->ran_in_loop = true;
}

static void
job_done(struct io_work *w)
{
    struct job *j = container_of(w, struct job, w);

    if (!pthread_equal(pthread_self(), j->b->loop_thread))
        j->b->wrong_thread = true;
    j->b->done++;
    if (j->chain) { /* may be submitted again from done() */
        j->chain--;
        io_work_submit(j->loop, w);
    }
}

static void
run_jobs(unsigned workers, enum io_backend backend)
{
    struct io_loop *loop = helper_loop(backend, workers);
    struct bench b = { .loop_thread = pthread_self() };
    struct job *j = calloc(JOBS, sizeof *j);

    assert_non_null(loop);
    for (unsigned i = 0; i < JOBS; i++) {
        j[i] = (struct job){ .w = { .run = job_run, .done = job_done },
                             .b = &b,
                             .loop = loop,
                             .number = i + 1,
                             .chain = i == 0 ? 10 : 0 };
        io_work_submit(loop, &j[i].w);
    }
    assert_int_equal(b.done, 0); /* never inside the call */
    assert_true(helper_turn_count(loop, &b.done, JOBS + 10, 20000));
    assert_false(b.wrong_thread);
    if (workers == 1) /* one thread: begun in the order of submission */
        for (unsigned i = 1; i < JOBS; i++)
            assert_true(j[i].ran >= j[i].number);
    if (workers == 0)
        for (unsigned i = 0; i < JOBS; i++)
            assert_int_equal(i ? j[i].ran : 1, i ? j[i].number : 1);
    assert_int_equal(b.ran_in_loop, workers == 0);
    io_loop_free(loop);
    free(j);
}

static void
test_jobs(void **state)
{
    run_jobs(0, IO_BACKEND_EPOLL);
    run_jobs(1, IO_BACKEND_EPOLL);
    run_jobs(2, IO_BACKEND_AUTO);
    run_jobs(4, IO_BACKEND_EPOLL);
}

static void
slow_run(struct io_work *w)
{
    usleep(20000);
    job_run(w);
}

/* Freeing the loop waits for jobs under way and hands them back. */
static void
test_free_waits(void **state)
{
    for (unsigned workers = 0; workers < 3; workers++) {
        struct io_loop *loop = helper_loop(IO_BACKEND_AUTO, workers);
        struct bench b = { .loop_thread = pthread_self() };
        struct job j[5];

        for (unsigned i = 0; i < 5; i++) {
            j[i] = (struct job){ .w = { .run = slow_run, .done = job_done },
                                 .b = &b,
                                 .loop = loop };
            io_work_submit(loop, &j[i].w);
        }
        io_loop_free(loop);
        assert_int_equal(atomic_load(&b.started), 5);
        assert_int_equal(b.done, 5);
        assert_false(b.wrong_thread);
    }
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_jobs),
        cmocka_unit_test(test_free_waits),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
