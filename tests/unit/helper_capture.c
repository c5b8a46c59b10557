/* The capture tests' clock and receiver. */
#include "helper_capture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "io/loop_backend.h"

/* --- simulated time ----------------------------------------------------- */

static uint64_t sim_now_ns;
static struct io_backend_ops sim_ops;

static uint64_t
sim_mono(const struct io_loop *loop)
{
    return sim_now_ns;
}

static uint64_t
sim_wall(const struct io_loop *loop)
{
    return (uint64_t)1700000000 * NSEC_PER_SEC + sim_now_ns;
}

struct io_loop *
sim_loop_new(void)
{
    const struct io_loop_config cfg = { .backend = IO_BACKEND_EPOLL };
    struct io_loop *loop = NULL;
    struct err err = ERR_INIT;

    if (io_loop_new(&cfg, &loop, &err) != 0)
        fail_msg("loop: %s", err.msg);
    sim_now_ns = NSEC_PER_SEC;
    sim_ops = *loop->be;
    sim_ops.mono = sim_mono;
    sim_ops.wall = sim_wall;
    loop->be = &sim_ops;
    sim_turn(loop);
    return loop;
}

void
sim_loop_free(struct io_loop *loop)
{
    io_loop_free(loop);
}

void
sim_advance(uint64_t ns)
{
    sim_now_ns += ns;
}

void
sim_turn(struct io_loop *loop)
{
    do
        assert_int_equal(io_loop_turn(loop, 0), 0);
    while (!list_empty(&loop->tasks));
}

/* --- random numbers ----------------------------------------------------- */

uint32_t
rnd_next(struct rnd *r) /* Knuth's MMIX multiplier */
{
    r->s = r->s * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(r->s >> 33);
}

uint32_t
rnd_below(struct rnd *r, uint32_t n)
{
    return rnd_next(r) % n;
}

bool
rnd_chance(struct rnd *r, uint32_t in_1000)
{
    return rnd_below(r, 1000) < in_1000;
}

/* --- the receiver ------------------------------------------------------- */

void
rx_init(struct rx *rx, struct capture *c, uint64_t first_seq)
{
    memset(rx, 0, sizeof *rx);
    rx->c = c;
    rx->next_batch = 1;
    rx->next_seq = first_seq;
    rx->durable_seq = first_seq - 1;
}

void
rx_volume(struct rx *rx, uint16_t vol, uint64_t size)
{
    struct rx_image *im = &rx->vol[vol];

    im->data = calloc(1, size);
    im->seq = calloc(size / 512, sizeof(uint64_t));
    im->size = size;
    assert_true(im->data && im->seq);
}

static void
forget_pending(struct rx *rx)
{
    for (size_t i = 0; i < rx->pending_n; i++)
        free(rx->pending[i].bytes);
    rx->pending_n = 0;
}

void
rx_release(struct rx *rx)
{
    forget_pending(rx);
    for (size_t v = 0; v < RX_VOLUMES; v++) {
        free(rx->vol[v].data);
        free(rx->vol[v].seq);
    }
}

static void
receive(struct rx *rx, const struct capture_batch *cb)
{
    struct rx_pending *p = &rx->pending[rx->pending_n++];
    struct err err = ERR_INIT;
    struct batch_view b;
    size_t at = 0;

    assert_true(rx->pending_n < RX_PENDING_MAX);
    p->bytes = malloc(cb->size);
    p->len = cb->size;
    assert_non_null(p->bytes);
    for (unsigned i = 0; i < cb->iov_n; i++) {
        assert_true(at + cb->iov[i].iov_len <= cb->size);
        memcpy(p->bytes + at, cb->iov[i].iov_base, cb->iov[i].iov_len);
        at += cb->iov[i].iov_len;
    }
    assert_int_equal(at, cb->size);
    if (batch_decode(p->bytes, p->len, &b, &err) != 0 ||
        batch_verify_bodies(&b, &err) != 0)
        fail_msg("%s", err.msg);
    assert_int_equal(b.size, p->len);
    assert_int_equal(b.hdr.batch_no, rx->next_batch);
    assert_int_equal(b.hdr.first_seq, rx->next_seq);
    assert_memory_equal(b.hdr.prev_digest, rx->digest, 16);
    assert_int_equal(cb->batch_no, b.hdr.batch_no);
    assert_int_equal(cb->first_seq, b.hdr.first_seq);
    assert_int_equal(cb->last_seq, b.hdr.last_seq);
    assert_true(b.hdr.t_last_ns >= b.hdr.t_first_ns);
    batch_digest(p->bytes, b.head_len, rx->digest);
    rx->next_batch++;
    rx->next_seq = b.hdr.last_seq + 1;
}

size_t
rx_pull(struct rx *rx)
{
    const struct capture_batch *cb;
    size_t n = 0;

    while ((cb = capture_next(rx->c, rx->codec, rx->durable, &rx->due_ns))) {
        receive(rx, cb);
        n++;
    }
    return n;
}

static void
apply_sectors(struct rx *rx, const struct lane_entry *e, uint64_t seq,
              const uint8_t *payload)
{
    struct rx_image *im = &rx->vol[e->vol];

    assert_true(e->vol < RX_VOLUMES && im->data);
    assert_true(range_ok(e->off512 * 512, (uint64_t)e->len512 * 512, im->size));
    for (uint64_t i = 0; i < e->len512; i++) {
        uint64_t s = e->off512 + i;

        if (im->seq[s] > seq) /* straight data is newer */
            continue;
        im->seq[s] = seq;
        if (payload)
            memcpy(im->data + s * 512, payload + i * 512, 512);
        else
            memset(im->data + s * 512, e->type == ENTRY_DIRTY ? 0xdd : 0, 512);
    }
}

static void
apply_batch(struct rx *rx, const struct rx_pending *p)
{
    static uint8_t payload[BATCH_WRITE_MAX];
    struct err err = ERR_INIT;
    struct batch_view b;

    assert_int_equal(batch_decode(p->bytes, p->len, &b, &err), 0);
    for (uint32_t i = 0; i < b.hdr.n_entries; i++) {
        uint64_t seq = batch_entry_seq(&b, i);
        struct lane_entry e;
        bool data;

        batch_entry(&b, i, &e);
        data = e.chunk != BATCH_NO_CHUNK;
        if (data &&
            batch_entry_payload(&b, i, payload, sizeof payload, &err) != 0)
            fail_msg("%s", err.msg);
        if (rx->entry)
            rx->entry(rx->arg, &e, seq, data ? payload : NULL, b.hdr.flags);
        rx->entries[e.type]++;
        if (entry_is_write(&e) || entry_is_zero(&e) || e.type == ENTRY_DIRTY)
            apply_sectors(rx, &e, seq, data ? payload : NULL);
    }
    rx->durable = b.hdr.batch_no;
    rx->durable_seq = b.hdr.last_seq;
    batch_digest(p->bytes, b.head_len, rx->durable_digest);
}

void
rx_durable(struct rx *rx, size_t n)
{
    n = MIN(n, rx->pending_n);
    if (n == 0)
        return;
    for (size_t i = 0; i < n; i++) {
        apply_batch(rx, &rx->pending[i]);
        free(rx->pending[i].bytes);
    }
    rx->pending_n -= n;
    memmove(rx->pending, rx->pending + n, rx->pending_n * sizeof *rx->pending);
    assert_int_equal(capture_durable(rx->c, rx->durable), 0);
}

void
rx_drop(struct rx *rx)
{
    forget_pending(rx);
    rx->next_batch = rx->durable + 1;
    rx->next_seq = rx->durable_seq + 1;
    memcpy(rx->digest, rx->durable_digest, 16);
    assert_int_equal(capture_rewind(rx->c, rx->durable, rx->durable_digest), 0);
}

void
rx_drain(struct rx *rx, struct io_loop *loop)
{
    size_t n;

    do {
        sim_turn(loop);
        sim_advance(BATCH_LINGER_NS);
        sim_turn(loop);
        n = rx_pull(rx);
        rx_durable(rx, rx->pending_n);
    } while (n > 0);
}

void
rx_straight(struct rx *rx, uint16_t vol, uint64_t off, uint64_t len,
            const uint8_t *data, uint64_t after_seq)
{
    struct rx_image *im = &rx->vol[vol];

    for (uint64_t s = off / 512; s < (off + len) / 512; s++) {
        if (im->seq[s] > after_seq)
            continue;
        im->seq[s] = after_seq;
        if (data)
            memcpy(im->data + s * 512, data + (s * 512 - off), 512);
        else
            memset(im->data + s * 512, 0, 512);
    }
}
