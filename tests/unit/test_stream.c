/* room: stream journal capture lane io common */
/* limit: 120 */
/* The stream between two ends in one loop, a proxy between them, and a real
 * journal: at every checkpoint that the journal offers, its view equals what
 * the source held when it was made.  Links are cut at random bytes, either side
 * restarts, the ring overflows, lanes are stopped in the middle of frames. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "helper_io.h"
#include "helper_stream.h"
#include "io/file.h"
#include "stream/link.h"

enum {
    VOL = 1024 * 1024
};

static struct {
    struct io_loop *loop;
    char *dir;
    struct end a, b;
    struct proxy proxy;
    struct io_addr via; /* the proxy, in front of b */
    struct lab l;
} t;

static void
setup_dead(uint64_t dead_ns)
{
    memset(&t, 0, sizeof t);
    t.loop = helper_loop(IO_BACKEND_EPOLL, 2);
    t.dir = helper_tmpdir(NULL);
    end_open(&t.a, t.loop, 0xaa, t.dir, NULL, NULL, dead_ns);
    end_open(&t.b, t.loop, 0xbb, t.dir, NULL, NULL, dead_ns);
    t.via.is_unix = true;
    snprintf(t.via.host, sizeof t.via.host, "%.80s/proxy", t.dir);
    proxy_start(&t.proxy, t.loop, &t.via, &t.b.addr);
}

static void
setup(uint64_t seed)
{
    setup_dead(0);
    lab_init(&t.l, &t.a, &t.b, t.dir, 0x11, VOL, seed);
    t.l.dial_a = &t.via;
}

static void
teardown_all(void)
{
    if (t.l.sender)
        lab_source_stop(&t.l);
    if (t.l.journal)
        lab_target_stop(&t.l);
    lab_release(&t.l);
    proxy_stop(&t.proxy);
    stream_free(t.a.stream);
    stream_free(t.b.stream);
    io_loop_free(t.loop);
    helper_rmdir(t.dir);
}

static void
both_start(void)
{
    lab_target_start(&t.l);
    lab_source_start(&t.l);
}

/* --- the straight road -------------------------------------------------- */

static void
initial_sync_under_load(void **state)
{
    setup(1);
    lab_write(&t.l, 50, 64 * 1024); /* used before it is protected */
    both_start();
    for (unsigned i = 0; i < 40; i++) {
        lab_write(&t.l, 5, 32 * 1024);
        lab_turn(&t.l);
    }
    LAB_UNTIL(&t.l, lab_state(&t.l) == SENDER_STREAMING);
    for (unsigned i = 0; i < 10; i++) {
        lab_write(&t.l, 20, 32 * 1024);
        lab_cut_now(&t.l);
        lab_turn(&t.l);
    }
    lab_settle(&t.l);
    assert_true(lab_verify(&t.l) >= 10);
    teardown_all();
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(initial_sync_under_load),
};

int
main(void)
{
    return cmocka_run_group_tests(tests, NULL, NULL);
}
