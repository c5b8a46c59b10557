/* A journal under test: see helper_lane.h. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "io/file.h"
#include "tests/unit/helper_io.h"
#include "tests/unit/helper_lane.h"

enum {
    WAIT_MS = 30000
};

struct lane_fixture t;

static void
on_durable(void *arg, uint64_t no)
{
    assert_true(no > t.durable);
    t.durable = no;
    if (!t.fixed_seen)
        t.g.durable = no;
    if (t.tell_fd > 0)
        assert_int_equal(write(t.tell_fd, &no, sizeof no), sizeof no);
}
static void
on_credit(void *arg)
{
    t.credits++;
}
static void
on_alert(void *arg, const struct err *e)
{
    if (getenv("SHOW"))
        fprintf(stderr, "alert %s: %s\n", err_code_text(e->code), e->msg);
    t.alerts++;
    t.alert = *e;
    if (t.unlimit)
        assert_int_equal(setrlimit(RLIMIT_FSIZE, t.unlimit), 0);
    t.unlimit = NULL;
}
static void
on_settled(void *arg, enum err_code code)
{
    if (getenv("SHOW"))
        fprintf(stderr, "settled %s\n", err_code_text(code));
    t.settled = code;
}
static void
on_opened(void *arg, struct journal *j, int res, const struct err *e)
{
    t.j = j;
    t.res = res;
    t.flag = true;
    if (e)
        t.open_err = *e;
    if (res < 0 && getenv("SHOW"))
        fprintf(stderr, "open %s: %s\n", err_code_text(e->code), e->msg);
}
void
on_closed(void *arg)
{
    t.j = NULL;
    t.flag = true;
}
void
on_res(void *arg, int res)
{
    t.res = res;
    t.flag = true;
}
void
on_view(void *arg, struct journal_view *v, int res, const struct err *e)
{
    if (res < 0 && e)
        t.open_err = *e;
    if (res < 0 && e && getenv("SHOW"))
        fprintf(stderr, "view %s: %s\n", err_code_text(e->code), e->msg);
    t.view = v;
    t.res = res;
    t.flag = true;
}

void
wait_flag(void)
{
    assert_true(helper_turn_until(t.loop, &t.flag, WAIT_MS));
    t.flag = false;
}

int
jopen(void)
{
    static const struct journal_events ev = { .durable = on_durable,
                                              .credit = on_credit,
                                              .alert = on_alert,
                                              .settled = on_settled,
                                              .arg = NULL };

    t.durable = 0;
    journal_open(&t.cfg, &ev, on_opened, NULL);
    wait_flag();
    return t.res;
}

void
jclose(void)
{
    journal_close(t.j, on_closed, NULL);
    wait_flag();
}

void
begin(void)
{
    journal_begin_incarnation(t.j, &t.g.inc, on_res, NULL);
    wait_flag();
    assert_int_equal(t.res, 0);
    t.durable = 0;
}

void
setup_dir(uint64_t seed, const char *under)
{
    memset(&t, 0, sizeof t);
    t.loop = helper_loop(IO_BACKEND_EPOLL, 2);
    t.dir = helper_tmpdir(under);
    gen_init(&t.g, seed);
    t.cfg = (struct journal_config){
        .loop = t.loop,
        .dir = t.dir,
        .vpg = t.g.vpg,
        .lane = 1,
        .volumes = { { 0, GEN_VOL_SIZE }, { 1, GEN_VOL_SIZE } },
        .n_volumes = 2,
        .history_ns = 3600 * NSEC_PER_SEC,
        .disk_reserve_bytes = MIB,
        .segment_min = 128 * KIB,
        .segment_max = 256 * KIB,
        .merge_fan = 3,
    };
}

void
teardown_dir(void)
{
    if (t.j)
        jclose();
    io_loop_free(t.loop);
    helper_rmdir(t.dir);
    gen_release(&t.g);
}

void
send_batch(size_t i)
{
    struct err e = ERR_INIT;
    size_t mem;
    void *p = gen_copy(&t.g.batches[i], &mem);
    int rc = journal_append(t.j, p, t.g.batches[i].size, mem, &e);

    if (rc)
        print_message("append: %s\n", e.msg);
    assert_int_equal(rc, 0);
}

void
wait_durable(uint64_t no)
{
    unsigned turns = 0;

    while (t.durable < no) {
        assert_int_equal(io_loop_turn(t.loop, 20 * NSEC_PER_MSEC), 0);
        assert_true(++turns < 3000);
    }
}

/* After an open: the source sends again what is not durable. */
void
resume(void)
{
    struct journal_tail tail;

    journal_tail(t.j, &tail);
    if (!tail.any || memcmp(tail.incarnation.u.b, t.g.inc.u.b, 16) != 0) {
        begin();
        journal_tail(t.j, &tail);
    }
    t.durable = t.g.durable = tail.durable_batch;
    for (size_t i = 0; i < t.g.n_batches; i++)
        if (t.g.batches[i].epoch == t.g.epoch &&
            t.g.batches[i].no > tail.durable_batch) {
            send_batch(i);
            wait_durable(t.g.batches[i].no);
        }
}

static void
read_done(struct blkdev_req *rq, int res)
{
    t.res = res;
    t.flag = true;
}

void
compare_view(struct journal_view *v, const struct gen_cut *k)
{
    uint8_t *buf = io_mem_alloc(GEN_VOL_SIZE);

    for (uint16_t vol = 0; vol < GEN_VOLS; vol++) {
        struct blkdev_req rq = {
            .op = BLKDEV_READ, .len = GEN_VOL_SIZE, .buf = buf, .done = read_done
        };

        blkdev_submit(journal_view_dev(v, vol), &rq);
        wait_flag();
        assert_int_equal(t.res, 0);
        assert_memory_equal(buf, k->image[vol], GEN_VOL_SIZE);
    }
    io_mem_free(buf, GEN_VOL_SIZE);
}

void
open_view(uint64_t cut_no, uint8_t id)
{
    struct journal_view_config c = { .cut_no = cut_no };

    c.id.u.b[0] = id;
    journal_view_open(t.j, &c, on_view, NULL);
    wait_flag();
}

void
discard_view(struct journal_view *v)
{
    struct journal *j = t.j;

    journal_view_discard(v, on_closed, NULL);
    wait_flag();
    t.j = j;
}

void
check_cut(uint64_t cut_no)
{
    struct journal_point p;
    int listed = journal_point_find(t.j, cut_no, &p);

    /* What is listed opens, also while promotion passes it. */
    open_view(cut_no, 0xC0);
    if (listed == -ENOENT) {
        assert_int_equal(t.res, -ENOENT);
        return;
    }
    assert_int_equal(t.res, 0);
    compare_view(t.view, gen_find(&t.g, cut_no));
    discard_view(t.view);
}

/* The points are the cuts that may be offered from the oldest on, in order. */
void
check_points(void)
{
    static struct journal_point p[GEN_CUTS];
    size_t n = journal_points(t.j, 0, UINT64_MAX, 0, p, GEN_CUTS);
    struct journal_tail tail;
    size_t i = 0;

    journal_tail(t.j, &tail);
    assert_int_equal(n, journal_points_count(t.j));
    for (size_t k = 0; k < t.g.n_cuts; k++) {
        const struct gen_cut *c = &t.g.cuts[k];

        if (!c->offered || c->seq > tail.durable_seq ||
            (n && c->cut_no < p[0].cut_no))
            continue;
        if (n == 0)
            fail_msg("cut %u is missing", (unsigned)c->cut_no);
        assert_true(i < n);
        assert_int_equal(p[i].cut_no, c->cut_no);
        assert_int_equal(p[i].seq, c->seq);
        assert_int_equal(p[i].wall_ns, c->wall_ns);
        assert_string_equal(p[i].tag, c->tag);
        i++;
    }
    assert_int_equal(i, n);
}
