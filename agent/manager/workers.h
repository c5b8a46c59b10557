/* A few threads for what blocks: HTTPS calls to replicators and other
 * managers, password hashing.  A job carries all it needs and comes back to
 * the loop's thread with its result; whoever submits it gives it away until
 * then.  The queue is bounded: when it is full, workers_submit() refuses and
 * the caller says so or tries later. */
#ifndef HOLDFAST_MANAGER_WORKERS_H
#define HOLDFAST_MANAGER_WORKERS_H

#include <stdbool.h>

#include "common/err.h"
#include "http/http_loop.h"

struct workers;

struct job {
    struct job *next;
    struct workers *workers;
    void (*work)(struct job *j); /* on a worker */
    void (*done)(struct job *j); /* on the loop's thread, always */
    struct http_post post;
};

int workers_new(struct http_loop *loop, unsigned n_threads, unsigned queue_max,
                struct workers **out_workers, struct err *err);
/* On the loop's thread, or when it has ended.  Waits for what runs, and all jobs
 * come back through done() before it returns: the finished ones with all else
 * that was posted to the loop, then those that have not begun, undone. */
void workers_free(struct workers *w);
/* -EAGAIN: the queue is full. */
int workers_submit(struct workers *w, struct job *j);
/* Is the pool going down?  done() may want to know. */
bool workers_ending(const struct workers *w);

#endif
