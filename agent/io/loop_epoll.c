/* Files where io_uring is refused: a pool of threads of its own makes the same
 * system calls, whole requests at a time.  It is not the worker pool: a write
 * of a production volume must not wait behind a long job.
 *
 * A turn's requests are handed over together under one lock; a thread takes one
 * at a time, so that a slow fdatasync holds up one thread only.
 */
#include <errno.h>
#include <stdlib.h>

#include "io/loop_backend.h"

enum {
    FILE_THREADS = 8
};

struct file_pool {
    struct io_loop *loop;
    struct list queued; /* the loop's thread only */
    unsigned queued_n;
    pthread_mutex_t lock; /* guards the next fields; a leaf */
    pthread_cond_t more, finished;
    struct list todo, done;
    unsigned idle;
    bool quit;
    atomic_bool due; /* done is not empty */
    unsigned n_threads;
    pthread_t threads[FILE_THREADS];
};

static void *
pool_main(void *arg)
{
    struct file_pool *fp = arg;

    pthread_mutex_lock(&fp->lock);
    for (;;) {
        struct list *l = list_pop_front(&fp->todo);
        bool wake;

        if (!l) {
            if (fp->quit)
                break;
            fp->idle++;
            pthread_cond_wait(&fp->more, &fp->lock);
            fp->idle--;
            continue;
        }
        pthread_mutex_unlock(&fp->lock);
        io_req_run(list_entry(l, struct io_req, link));
        pthread_mutex_lock(&fp->lock);
        wake = list_empty(&fp->done);
        list_add_before_(&fp->done, l);
        atomic_store(&fp->due, true);
        pthread_cond_signal(&fp->finished);
        if (wake)
            fp->loop->be->wake(fp->loop);
    }
    pthread_mutex_unlock(&fp->lock);
    return NULL;
}

static void
pool_file_start(struct io_loop *loop, struct io_req *rq)
{
    struct file_pool *fp = loop->be_state;

    list_push_back(&fp->queued, &rq->link);
    fp->queued_n++;
}

static void
pool_file_flush(struct io_loop *loop)
{
    struct file_pool *fp = loop->be_state;
    unsigned wake;

    if (!fp->queued_n)
        return;
    pthread_mutex_lock(&fp->lock);
    list_splice_back(&fp->todo, &fp->queued);
    wake = MIN(fp->queued_n, fp->idle);
    while (wake--)
        pthread_cond_signal(&fp->more);
    pthread_mutex_unlock(&fp->lock);
    fp->queued_n = 0;
}

static void
pool_file_reap(struct io_loop *loop)
{
    struct file_pool *fp = loop->be_state;
    struct list done, *l;

    if (!atomic_load_explicit(&fp->due, memory_order_relaxed))
        return;
    list_init(&done);
    pthread_mutex_lock(&fp->lock);
    atomic_store(&fp->due, false);
    list_splice_back(&done, &fp->done);
    pthread_mutex_unlock(&fp->lock);
    while ((l = list_pop_front(&done)))
        io_req_finished(loop, list_entry(l, struct io_req, link));
}

static void
pool_file_wait(struct io_loop *loop)
{
    struct file_pool *fp = loop->be_state;

    pthread_mutex_lock(&fp->lock);
    while (list_empty(&fp->done))
        pthread_cond_wait(&fp->finished, &fp->lock);
    pthread_mutex_unlock(&fp->lock);
}

static void
pool_free(struct io_loop *loop)
{
    struct file_pool *fp = loop->be_state;

    pthread_mutex_lock(&fp->lock);
    fp->quit = true;
    pthread_cond_broadcast(&fp->more);
    pthread_mutex_unlock(&fp->lock);
    for (unsigned i = 0; i < fp->n_threads; i++)
        pthread_join(fp->threads[i], NULL);
    pthread_cond_destroy(&fp->finished);
    pthread_cond_destroy(&fp->more);
    pthread_mutex_destroy(&fp->lock);
    free(fp);
}

static const struct io_backend_ops epoll_ops = {
    .name = "epoll",
    .mono = io_real_mono,
    .wall = io_real_wall,
    .random = io_real_random,
    .wait = io_poll_wait,
    .wake = io_poll_wake,
    .file_start = pool_file_start,
    .file_flush = pool_file_flush,
    .file_reap = pool_file_reap,
    .file_wait = pool_file_wait,
    .free = pool_free,
};

int
io_epoll_backend_init(struct io_loop *loop, struct err *err)
{
    struct file_pool *fp = calloc(1, sizeof *fp);

    if (!fp)
        return err_set(err, -ENOMEM, ERR_GEN_0002, "no memory for a file pool");
    fp->loop = loop;
    list_init(&fp->queued);
    list_init(&fp->todo);
    list_init(&fp->done);
    pthread_mutex_init(&fp->lock, NULL);
    pthread_cond_init(&fp->more, NULL);
    pthread_cond_init(&fp->finished, NULL);
    loop->be = &epoll_ops;
    loop->be_state = fp;
    for (; fp->n_threads < FILE_THREADS; fp->n_threads++) {
        int rc = io_thread_start(&fp->threads[fp->n_threads], pool_main, fp);

        if (rc < 0) {
            pool_free(loop);
            loop->be = NULL;
            loop->be_state = NULL;
            return err_set(err, rc, ERR_IO_0001, "starting %d file threads: %s",
                           (int)FILE_THREADS, err_errno(rc));
        }
    }
    return 0;
}
