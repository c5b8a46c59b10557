/* Worker threads for what blocks: jobs start in the order of submission and
 * come back to the loop's thread.  With no threads a job runs in the loop, one
 * per turn step, in the same order (a simulation does it so).
 *
 * One mutex guards both queues; the loop is woken when the queue of finished
 * jobs was empty.  Bounded by the callers' objects: nothing is allocated here.
 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>

#include "io/loop_backend.h"

struct io_workers {
    struct io_loop *loop;
    pthread_mutex_t lock; /* guards the fields up to quit; a leaf */
    pthread_cond_t more, finished;
    struct list todo, done;
    bool quit;
    atomic_bool due; /* done is not empty, or (no threads) todo is not */
    unsigned busy;   /* the loop's thread only: not yet handed back */
    unsigned n_threads;
    pthread_t threads[];
};

int
io_thread_start(pthread_t *out, void *(*run)(void *), void *arg)
{
    sigset_t all, old;
    int rc;

    sigfillset(&all);
    rc = pthread_sigmask(SIG_SETMASK, &all, &old);
    if (rc)
        return -rc;
    rc = pthread_create(out, NULL, run, arg);
    (void)pthread_sigmask(SIG_SETMASK, &old, NULL);
    return -rc;
}

static void *
worker_main(void *arg)
{
    struct io_workers *ws = arg;

    pthread_mutex_lock(&ws->lock);
    for (;;) {
        struct list *l = list_pop_front(&ws->todo);
        struct io_work *w;
        bool wake;

        if (!l) {
            if (ws->quit)
                break;
            pthread_cond_wait(&ws->more, &ws->lock);
            continue;
        }
        pthread_mutex_unlock(&ws->lock);
        w = list_entry(l, struct io_work, link);
        w->run(w);
        pthread_mutex_lock(&ws->lock);
        wake = list_empty(&ws->done);
        list_push_back(&ws->done, &w->link);
        atomic_store(&ws->due, true);
        pthread_cond_signal(&ws->finished);
        if (wake)
            ws->loop->be->wake(ws->loop);
    }
    pthread_mutex_unlock(&ws->lock);
    return NULL;
}

int
io_workers_new(struct io_loop *loop, unsigned n, struct io_workers **out)
{
    struct io_workers *ws = calloc(1, sizeof *ws + n * sizeof(pthread_t));

    if (!ws)
        return -ENOMEM;
    ws->loop = loop;
    list_init(&ws->todo);
    list_init(&ws->done);
    pthread_mutex_init(&ws->lock, NULL);
    pthread_cond_init(&ws->more, NULL);
    pthread_cond_init(&ws->finished, NULL);
    for (; ws->n_threads < n; ws->n_threads++) {
        int rc = io_thread_start(&ws->threads[ws->n_threads], worker_main, ws);

        if (rc < 0) {
            io_workers_free(ws);
            return rc;
        }
    }
    *out = ws;
    return 0;
}

void
io_work_submit(struct io_loop *loop, struct io_work *w)
{
    struct io_workers *ws = loop->workers;

    w->loop = loop;
    ws->busy++;
    pthread_mutex_lock(&ws->lock);
    list_add_before_(&ws->todo, &w->link);
    if (ws->n_threads == 0)
        atomic_store(&ws->due, true);
    else
        pthread_cond_signal(&ws->more);
    pthread_mutex_unlock(&ws->lock);
}

bool
io_workers_due(struct io_workers *ws)
{
    return ws && atomic_load_explicit(&ws->due, memory_order_relaxed);
}

/* With no threads: run what was queued when we began. */
static void
run_inline(struct list *jobs)
{
    struct list *l;

    list_for_each (l, jobs) {
        struct io_work *w = list_entry(l, struct io_work, link);

        w->run(w);
    }
}

unsigned
io_workers_collect(struct io_workers *ws)
{
    struct list jobs, *l;
    unsigned n = 0;

    if (!io_workers_due(ws))
        return 0;
    list_init(&jobs);
    pthread_mutex_lock(&ws->lock);
    atomic_store(&ws->due, false);
    list_splice_back(&jobs, ws->n_threads ? &ws->done : &ws->todo);
    pthread_mutex_unlock(&ws->lock);
    if (ws->n_threads == 0)
        run_inline(&jobs);
    while ((l = list_pop_front(&jobs))) {
        struct io_work *w = list_entry(l, struct io_work, link);

        n++;
        ws->busy--;
        w->done(w);
    }
    return n;
}

unsigned
io_workers_busy(struct io_workers *ws)
{
    return ws->busy;
}

bool
io_workers_idle(const struct io_workers *ws)
{
    return ws && ws->busy < ws->n_threads;
}

void
io_workers_wait(struct io_workers *ws)
{
    pthread_mutex_lock(&ws->lock);
    while (ws->n_threads && list_empty(&ws->done))
        pthread_cond_wait(&ws->finished, &ws->lock);
    pthread_mutex_unlock(&ws->lock);
}

void
io_workers_free(struct io_workers *ws)
{
    if (!ws)
        return;
    pthread_mutex_lock(&ws->lock);
    ws->quit = true;
    pthread_cond_broadcast(&ws->more);
    pthread_mutex_unlock(&ws->lock);
    for (unsigned i = 0; i < ws->n_threads; i++)
        pthread_join(ws->threads[i], NULL);
    pthread_cond_destroy(&ws->finished);
    pthread_cond_destroy(&ws->more);
    pthread_mutex_destroy(&ws->lock);
    free(ws);
}
