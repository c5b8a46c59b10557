/* room: io common */
/* The loop: timers, tasks, posts from threads, signals, limits. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include <pthread.h>
#include <sys/prctl.h>

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "helper_io.h"
#include "io/loop.h"

static const enum io_backend backends[] = { IO_BACKEND_URING, IO_BACKEND_EPOLL };

/* --- timers ------------------------------------------------------------------ */

enum {
    N_TIMERS = 500
};

struct timed {
    struct io_timer t;
    unsigned fired, order;
    struct order *o;
};

struct order {
    unsigned next;
    uint64_t last_at;
    bool wrong;
};

static void
timed_fire(struct io_timer *t)
{
    struct timed *x = container_of(t, struct timed, t);

    x->fired++;
    x->order = x->o->next++;
    if (t->at_ns < x->o->last_at)
        x->o->wrong = true;
    x->o->last_at = t->at_ns;
}

static void
test_timers_fire_in_order(void **state)
{
    struct io_loop *loop = helper_loop(IO_BACKEND_AUTO, 0);
    struct order o = { 0 };
    struct timed *x = calloc(N_TIMERS, sizeof *x);
    unsigned stopped = 0;

    assert_non_null(loop);
    srand(1);
    for (unsigned i = 0; i < N_TIMERS; i++) {
        x[i].o = &o;
        io_timer_init(&x[i].t, loop, timed_fire);
        assert_false(io_timer_armed(&x[i].t));
        io_timer_set(&x[i].t, (uint64_t)(rand() % 20) * NSEC_PER_MSEC);
        if (i % 3 == 0) /* re-armed */
            io_timer_set(&x[i].t, (uint64_t)(rand() % 20) * NSEC_PER_MSEC);
        assert_true(io_timer_armed(&x[i].t));
    }
    for (unsigned i = 0; i < N_TIMERS; i += 5, stopped++)
        io_timer_stop(&x[i].t);
    assert_true(helper_turn_count(loop, &o.next, N_TIMERS - stopped, 2000));
    assert_false(o.wrong);
    for (unsigned i = 0; i < N_TIMERS; i++)
        assert_int_equal(x[i].fired, i % 5 == 0 ? 0 : 1);
    free(x);
    io_loop_free(loop);
}

struct again {
    struct io_timer t;
    unsigned n;
};

static void
again_fire(struct io_timer *t)
{
    container_of(t, struct again, t)->n++;
    io_timer_set(t, 0);
}

/* A timer that re-arms itself without delay runs once a turn, not for ever. */
static void
test_timer_rearming_does_not_hang(void **state)
{
    struct io_loop *loop = helper_loop(IO_BACKEND_EPOLL, 0);
    struct again a = { .n = 0 };

    io_timer_init(&a.t, loop, again_fire);
    io_timer_set(&a.t, 0);
    for (int i = 0; i < 10; i++)
        assert_int_equal(io_loop_turn(loop, NSEC_PER_SEC), 0);
    assert_in_range(a.n, 5, 10);
    io_timer_stop(&a.t);
    io_loop_free(loop);
}

/* The delay counts from now, not from the last turn. */
static void
test_timer_set_long_after_the_turn(void **state)
{
    struct io_loop *loop = helper_loop(IO_BACKEND_EPOLL, 0);
    struct order o = { 0 };
    struct timed x = { .o = &o };
    uint64_t began;

    assert_int_equal(io_loop_turn(loop, 0), 0);
    usleep(30000);
    began = io_mono_fresh(loop);
    io_timer_init(&x.t, loop, timed_fire);
    io_timer_set(&x.t, 20 * NSEC_PER_MSEC);
    assert_true(helper_turn_count(loop, &x.fired, 1, 2000));
    assert_true(io_mono_fresh(loop) - began >= 20 * NSEC_PER_MSEC);
    io_loop_free(loop);
}

/* --- tasks --------------------------------------------------------------------- */

struct tasks {
    struct io_task a, b, c;
    struct io_loop *loop;
    char log[32];
};

static void
task_note(struct tasks *t, const char *what)
{
    strcat(t->log, what);
}

static void
run_a(struct io_task *t)
{
    struct tasks *x = container_of(t, struct tasks, a);

    task_note(x, "a");
    io_defer(x->loop, &x->b); /* next turn */
    io_task_cancel(&x->c);
}

static void
run_b(struct io_task *t)
{
    task_note(container_of(t, struct tasks, b), "b");
}

static void
run_c(struct io_task *t)
{
    task_note(container_of(t, struct tasks, c), "c");
}

static void
test_tasks(void **state)
{
    struct io_loop *loop = helper_loop(IO_BACKEND_EPOLL, 0);
    struct tasks x = { .loop = loop };

    io_task_init(&x.a, run_a);
    io_task_init(&x.b, run_b);
    io_task_init(&x.c, run_c);
    io_defer(loop, &x.a);
    io_defer(loop, &x.a); /* once */
    io_defer(loop, &x.c); /* cancelled by a, in the same batch */
    assert_int_equal(io_loop_turn(loop, NSEC_PER_SEC), 0);
    assert_string_equal(x.log, "a");
    assert_int_equal(io_loop_turn(loop, NSEC_PER_SEC), 0);
    assert_string_equal(x.log, "ab");
    io_task_cancel(&x.b);
    assert_int_equal(io_loop_turn(loop, 0), 0);
    assert_string_equal(x.log, "ab");
    io_loop_free(loop);
}

/* --- posts --------------------------------------------------------------------- */

enum {
    POSTERS = 4,
    POSTS = 5000
};

struct mail {
    struct io_post p;
    unsigned from, number;
    struct mailbox *box;
};

struct mailbox {
    unsigned last[POSTERS], got;
    bool disorder;
};

static void
mail_run(struct io_post *p)
{
    struct mail *m = container_of(p, struct mail, p);
    struct mailbox *b = m->box;

    if (m->number != b->last[m->from] + 1)
        b->disorder = true;
    b->last[m->from] = m->number;
    b->got++;
    free(m);
}

struct poster {
    struct io_loop *loop;
    struct mailbox *box;
    unsigned id;
};

static void *
poster_main(void *arg)
{
    struct poster *po = arg;

    for (unsigned i = 1; i <= POSTS; i++) {
        struct mail *m = calloc(1, sizeof *m);

        *m = (struct mail){
            .p.run = mail_run, .from = po->id, .number = i, .box = po->box
        };
        io_post(po->loop, &m->p);
    }
    return NULL;
}

static void
test_posts_keep_order(void **state)
{
    for (size_t b = 0; b < ARRAY_SIZE(backends); b++) {
        struct io_loop *loop = helper_loop(backends[b], 0);
        struct mailbox box = { .got = 0 };
        struct poster po[POSTERS];
        pthread_t th[POSTERS];

        assert_non_null(loop);
        for (unsigned i = 0; i < POSTERS; i++) {
            po[i] = (struct poster){ .loop = loop, .box = &box, .id = i };
            assert_int_equal(pthread_create(&th[i], NULL, poster_main, &po[i]),
                             0);
        }
        assert_true(helper_turn_count(loop, &box.got, POSTERS * POSTS, 20000));
        for (unsigned i = 0; i < POSTERS; i++)
            pthread_join(th[i], NULL);
        assert_false(box.disorder);
        io_loop_free(loop);
    }
}

struct stopper {
    struct io_post p;
    struct io_loop *loop;
};

static void
stopper_run(struct io_post *p)
{
    io_loop_stop(container_of(p, struct stopper, p)->loop);
}

static void *
stopper_main(void *arg)
{
    struct stopper *s = arg;

    usleep(20000);
    io_post(s->loop, &s->p);
    return NULL;
}

/* A post wakes a loop that sleeps without any deadline. */
static void
test_post_wakes_and_stops(void **state)
{
    struct io_loop *loop = helper_loop(IO_BACKEND_AUTO, 1);
    struct stopper s = { .p.run = stopper_run, .loop = loop };
    pthread_t th;

    assert_int_equal(pthread_create(&th, NULL, stopper_main, &s), 0);
    assert_int_equal(io_loop_run(loop), 0);
    pthread_join(th, NULL);
    io_loop_free(loop);
}

/* --- the rest -------------------------------------------------------------------- */

static void
got_signal(void *arg, int sig)
{
    *(unsigned *)arg = (unsigned)sig;
}

static void
test_signals(void **state)
{
    struct io_loop *loop = helper_loop(IO_BACKEND_AUTO, 2);
    const int sigs[] = { SIGUSR1, SIGHUP };
    const int bad[] = { 4711 };
    unsigned got = 0;
    struct err e = ERR_INIT;

    assert_int_equal(io_signals_watch(loop, bad, 1, got_signal, &got, &e),
                     -EINVAL);
    assert_string_equal(err_code_text(e.code), "IO-0002");
    assert_int_equal(io_signals_watch(loop, sigs, 2, got_signal, &got, NULL), 0);
    assert_int_equal(io_signals_watch(loop, sigs, 2, got_signal, &got, NULL),
                     -EBUSY);
    kill(getpid(), SIGUSR1);
    assert_true(helper_turn_count(loop, &got, 1, 2000));
    assert_int_equal(got, SIGUSR1);
    io_loop_free(loop);
}

static void
test_clocks_and_random(void **state)
{
    struct io_loop *loop = helper_loop(IO_BACKEND_AUTO, 0);
    uint8_t a[700], b[700];
    uint64_t t = io_mono_fresh(loop);

    assert_true(io_mono_fresh(loop) >= t);
    assert_true(io_wall_ns(loop) > 1600000000 * NSEC_PER_SEC);
    io_random(loop, a, sizeof a);
    io_random(loop, b, sizeof b);
    assert_memory_not_equal(a, b, sizeof a);
    io_loop_free(loop);
}

static void
test_limits_are_named(void **state)
{
    struct io_loop_config cfg = { .workers = 1000 };
    struct io_loop *loop = NULL;
    struct err e = ERR_INIT;

    assert_int_equal(io_loop_new(&cfg, &loop, &e), -EINVAL);
    assert_string_equal(err_code_text(e.code), "IO-0001");
    assert_null(loop);
    io_loop_free(NULL);
}

/* In a child whose seccomp filter refuses io_uring_setup: asked for by name it
 * is an error, with AUTO the other backend comes up. */
static int
refused_child(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_io_uring_setup, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog prog = { .len = ARRAY_SIZE(code), .filter = code };
    struct io_loop_config cfg = { .backend = IO_BACKEND_URING };
    struct io_loop *loop = NULL;
    struct err e = ERR_INIT;

    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog) < 0)
        return 77;
    if (io_loop_new(&cfg, &loop, &e) != -EPERM ||
        strcmp(err_code_text(e.code), "IO-0003") != 0)
        return 1;
    cfg.backend = IO_BACKEND_AUTO;
    if (io_loop_new(&cfg, &loop, &e) < 0 ||
        strcmp(io_loop_backend_name(loop), "epoll") != 0)
        return 2;
    if (io_loop_turn(loop, 0) < 0)
        return 3;
    io_loop_free(loop);
    return 0;
}

static void
test_uring_refused(void **state)
{
    pid_t pid = fork();
    int st = 0;

    if (pid == 0)
        _exit(refused_child());
    assert_int_equal(waitpid(pid, &st, 0), pid);
    assert_true(WIFEXITED(st));
    if (WEXITSTATUS(st) == 77)
        skip();
    assert_int_equal(WEXITSTATUS(st), 0);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_timers_fire_in_order),
        cmocka_unit_test(test_timer_rearming_does_not_hang),
        cmocka_unit_test(test_timer_set_long_after_the_turn),
        cmocka_unit_test(test_tasks),
        cmocka_unit_test(test_posts_keep_order),
        cmocka_unit_test(test_post_wakes_and_stops),
        cmocka_unit_test(test_signals),
        cmocka_unit_test(test_clocks_and_random),
        cmocka_unit_test(test_limits_are_named),
        cmocka_unit_test(test_uring_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
