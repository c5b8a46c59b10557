/* See workers.h. */
#include "manager/workers.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

#include "common/bytes.h"

enum {
    THREADS_MAX = 16
};

struct workers {
    struct http_loop *loop;
    pthread_t threads[THREADS_MAX];
    unsigned n_threads, queue_max;
    pthread_mutex_t lock; /* guards all below; taken alone */
    pthread_cond_t more;
    struct job *head, **tail;
    unsigned queued;
    bool ending;
};

static void
come_back(void *arg)
{
    struct job *j = arg;

    j->done(j);
}

static void *
run(void *arg)
{
    struct workers *w = arg;

    for (;;) {
        struct job *j;

        pthread_mutex_lock(&w->lock);
        while (!w->head && !w->ending)
            pthread_cond_wait(&w->more, &w->lock);
        j = w->ending ? NULL : w->head;
        if (j) {
            w->head = j->next;
            if (!w->head)
                w->tail = &w->head;
            w->queued--;
        }
        pthread_mutex_unlock(&w->lock);
        if (!j)
            return NULL;
        j->work(j);
        http_loop_post(w->loop, &j->post);
    }
}

int
workers_new(struct http_loop *loop, unsigned n_threads, unsigned queue_max,
            struct workers **out_workers, struct err *err)
{
    struct workers *w = calloc(1, sizeof *w);
    sigset_t all, old;
    int rc = 0;

    if (!w)
        return err_set(err, -ENOMEM, ERR_GEN_0002, "workers: out of memory");
    w->loop = loop;
    w->queue_max = queue_max;
    w->tail = &w->head;
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->more, NULL);
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &old);
    while (rc == 0 && w->n_threads < MIN(n_threads, (unsigned)THREADS_MAX)) {
        rc = pthread_create(&w->threads[w->n_threads], NULL, run, w);
        w->n_threads += rc == 0;
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (rc) {
        workers_free(w);
        return err_set(err, -rc, ERR_GEN_0002,
                       "workers: a thread cannot be started: %s", err_errno(rc));
    }
    *out_workers = w;
    return 0;
}

void
workers_free(struct workers *w)
{
    struct job *j, *next;

    if (!w)
        return;
    pthread_mutex_lock(&w->lock);
    w->ending = true;
    pthread_cond_broadcast(&w->more);
    pthread_mutex_unlock(&w->lock);
    for (unsigned i = 0; i < w->n_threads; i++)
        pthread_join(w->threads[i], NULL);
    http_loop_drain(w->loop); /* the finished jobs; they may ask the pool */
    for (j = w->head; j; j = next) {
        next = j->next;
        j->done(j);
    }
    pthread_cond_destroy(&w->more);
    pthread_mutex_destroy(&w->lock);
    free(w);
}

int
workers_submit(struct workers *w, struct job *j)
{
    int rc = 0;

    j->next = NULL;
    j->workers = w;
    j->post = (struct http_post){ .fn = come_back, .arg = j };
    pthread_mutex_lock(&w->lock);
    if (w->ending || w->queued >= w->queue_max) {
        rc = -EAGAIN;
    } else {
        *w->tail = j;
        w->tail = &j->next;
        w->queued++;
        pthread_cond_signal(&w->more);
    }
    pthread_mutex_unlock(&w->lock);
    return rc;
}

bool
workers_ending(const struct workers *w)
{
    return w->ending; /* set on the loop's thread, where this is asked */
}
