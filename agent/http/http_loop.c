/* See http_loop.h.  Posts go through a mutex-guarded list and an eventfd, not
 * through libevent's own locking, so that one queue keeps the order. */
#include "http/http_loop.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

struct http_loop {
    struct event_base *base;
    struct event *wake;
    int fd;
    pthread_mutex_t lock; /* guards head, tail, stop; taken alone */
    struct http_post *head, **tail;
    bool stop;
};

static void
run_posts(struct http_loop *l)
{
    struct http_post *list, *next;
    bool stop;

    pthread_mutex_lock(&l->lock);
    list = l->head;
    l->head = NULL;
    l->tail = &l->head;
    stop = l->stop;
    pthread_mutex_unlock(&l->lock);
    for (; list; list = next) {
        next = list->next; /* the item is the receiver's from here on */
        list->fn(list->arg);
    }
    if (stop)
        event_base_loopbreak(l->base);
}

static void
on_wake(evutil_socket_t fd, short what, void *arg)
{
    uint64_t n;

    UNUSED(what);
    if (read(fd, &n, sizeof n) != sizeof n)
        return; /* another turn has taken it */
    run_posts(arg);
}

int
http_loop_new(struct http_loop **out_loop, struct err *err)
{
    struct http_loop *l = calloc(1, sizeof *l);

    if (!l)
        return err_set(err, -ENOMEM, ERR_GEN_0002, "event loop: out of memory");
    l->tail = &l->head;
    l->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    l->base = event_base_new();
    if (l->base && l->fd >= 0)
        l->wake = event_new(l->base, l->fd, EV_READ | EV_PERSIST, on_wake, l);
    pthread_mutex_init(&l->lock, NULL);
    if (!l->wake || event_add(l->wake, NULL)) {
        http_loop_free(l);
        return err_set(err, -ENOMEM, ERR_GEN_0002,
                       "event loop: cannot be set up: out of memory or descriptors");
    }
    *out_loop = l;
    return 0;
}

void
http_loop_free(struct http_loop *l)
{
    if (!l)
        return;
    if (l->base)
        run_posts(l);
    if (l->wake)
        event_free(l->wake);
    if (l->base) {
        /* What libevent has put off holds the connection it is about, and would
         * be forgotten with it: its descriptor would stay open. */
        (void)event_base_loop(l->base, EVLOOP_NONBLOCK);
        event_base_free(l->base);
    }
    if (l->fd >= 0)
        (void)close(l->fd);
    pthread_mutex_destroy(&l->lock);
    free(l);
}

struct event_base *
http_loop_base(struct http_loop *l)
{
    return l->base;
}

int
http_loop_run(struct http_loop *l, struct err *err)
{
    if (event_base_dispatch(l->base) < 0)
        return err_set(err, -EIO, ERR_GEN_0001, "event loop: libevent failed");
    return 0;
}

static void
wake(struct http_loop *l)
{
    uint64_t one = 1;

    if (write(l->fd, &one, sizeof one) != sizeof one)
        return; /* EAGAIN: the counter is full, so it is awake */
}

void
http_loop_stop(struct http_loop *l)
{
    pthread_mutex_lock(&l->lock);
    l->stop = true;
    pthread_mutex_unlock(&l->lock);
    wake(l);
}

void
http_loop_post(struct http_loop *l, struct http_post *item)
{
    item->next = NULL;
    pthread_mutex_lock(&l->lock);
    *l->tail = item;
    l->tail = &item->next;
    pthread_mutex_unlock(&l->lock);
    wake(l);
}

void
http_loop_drain(struct http_loop *l)
{
    run_posts(l);
}

uint64_t
http_loop_now_ms(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / NSEC_PER_MSEC;
}
