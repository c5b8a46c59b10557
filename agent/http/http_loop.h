/* The control plane's event loop: libevent's, with a queue by which other
 * threads hand work to the loop's thread.  All of http/ and manager/ lives on
 * such a thread; the replicator runs one beside its data loop and crosses over
 * with http_loop_post() in one direction and io_post() in the other. */
#ifndef HOLDFAST_HTTP_HTTP_LOOP_H
#define HOLDFAST_HTTP_HTTP_LOOP_H

#include <event2/event.h>

#include "common/bytes.h"
#include "common/err.h"

struct http_loop;

int http_loop_new(struct http_loop **out_loop, struct err *err);
/* Servers and timers of the loop are gone.  What was posted and has not run is
 * run, so that nothing given away is lost. */
void http_loop_free(struct http_loop *l);
struct event_base *http_loop_base(struct http_loop *l);

/* Serve until http_loop_stop().  0, or -EIO when libevent gives up. */
int http_loop_run(struct http_loop *l, struct err *err);
/* Any thread.  Also when it comes before http_loop_run(). */
void http_loop_stop(struct http_loop *l);

/* Any thread: run fn(arg) on the loop's thread, in the order of posting.
 * Never fails for want of room: the item is part of the caller's object. */
struct http_post {
    struct http_post *next;
    void (*fn)(void *arg);
    void *arg;
};
void http_loop_post(struct http_loop *l, struct http_post *item);

/* Loop's thread, or when it has ended: run what has been posted. */
void http_loop_drain(struct http_loop *l);

/* Monotonic milliseconds. */
uint64_t http_loop_now_ms(void);

#endif
