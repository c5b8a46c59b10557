/* room: stream journal capture lane io common */
/* What a peer may say, and what it may not: HELLOs that are refused, frames that
 * break each rule of the table, sources that must not write here, targets that
 * tell lies.  The peer is played by hand, byte by byte. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/crc32c.h"
#include "helper_io.h"
#include "helper_stream.h"
#include "io/file.h"
#include "pki_fixture.h"
#include "stream/link.h"

enum {
    VOL = 256 * 1024,
    RAW_MAX = 1024 * 1024
};

struct raw { /* one connection of the peer that is played */
    struct io_chan *ch;
    bool open, closed;
    size_t n;
    uint8_t in[RAW_MAX];
};

static struct {
    struct io_loop *loop;
    char *dir;
    struct end a, b;
    struct lab l;
    struct raw *raw[2];
    struct stream_peer *peer;   /* the other end's view of us */
    struct io_listener *listen; /* of a target that is played */
    struct io_addr at;
    unsigned accepted;
} t;

static void
raw_event(void *arg, struct io_chan *ch, unsigned events)
{
    struct raw *r = arg;
    int64_t n;

    if (events & IO_CHAN_OPEN)
        r->open = true;
    if (events & IO_CHAN_BROKEN)
        r->closed = true;
    while (!r->closed && (events & IO_CHAN_READABLE)) {
        n = io_chan_read(ch, r->in + r->n, RAW_MAX - r->n);
        if (n == -EAGAIN)
            break;
        if (n <= 0)
            r->closed = true;
        else
            r->n += (size_t)n;
    }
    io_chan_want(ch, r->closed ? 0 : IO_CHAN_READABLE);
}

static void
turn(void)
{
    assert_int_equal(io_loop_turn(t.loop, 5 * NSEC_PER_MSEC), 0);
}

#define UNTIL(cond)                                                          \
 do {                                                                        \
  uint64_t until_ = io_mono_fresh(t.loop) + HELPER_SLOW * 10 * NSEC_PER_SEC; \
  while (!(cond)) {                                                          \
   turn();                                                                   \
   if (io_mono_fresh(t.loop) > until_)                                       \
    fail_msg("%s:%d: not in time: %s", __FILE__, __LINE__, #cond);           \
  }                                                                          \
 } while (0)

static struct raw *
raw_dial(struct tls_ctx *tls)
{
    struct raw *r = calloc(1, sizeof *r);
    struct io_chan_owner owner = { raw_event, r };
    struct err e = ERR_INIT;

    assert_int_equal(io_chan_connect(t.loop, &t.b.addr, tls, NSEC_PER_SEC,
                                     &owner, &r->ch, &e),
                     0);
    UNTIL(r->open);
    return r;
}

static void
raw_free(struct raw *r)
{
    if (!r)
        return;
    io_chan_close(r->ch);
    free(r);
}

static void
raw_bytes(struct raw *r, const void *p, size_t n)
{
    struct iovec iov = { (void *)(uintptr_t)p, n };

    assert_int_equal(io_chan_writev(r->ch, &iov, 1), (int64_t)n);
}

static void
raw_send(struct raw *r, struct frame f, const uint8_t *body, size_t len)
{
    uint8_t hdr[FRAME_HDR_SIZE];

    f.body_len = (uint32_t)len;
    frame_encode(&f, hdr);
    raw_bytes(r, hdr, sizeof hdr);
    if (len > 0)
        raw_bytes(r, body, len);
}

/* The next frame of this type; others (PING, CREDIT...) are skipped. */
static struct frame
raw_expect(struct raw *r, uint8_t type, uint8_t *body)
{
    struct frame f;

    for (;;) {
        UNTIL(r->n >= FRAME_HDR_SIZE || r->closed);
        assert_int_equal(frame_decode(r->in, r->n, &f, NULL), 0);
        UNTIL(r->n >= FRAME_HDR_SIZE + f.body_len || r->closed);
        if (f.type == type && body)
            memcpy(body, r->in + FRAME_HDR_SIZE, f.body_len);
        r->n -= FRAME_HDR_SIZE + f.body_len;
        memmove(r->in, r->in + FRAME_HDR_SIZE + f.body_len, r->n);
        if (f.type == type)
            return f;
    }
}

static struct msg_hello
hello(enum link_kind kind)
{
    return (struct msg_hello){ .version_min = 1,
                               .version_max = 1,
                               .kind = (uint8_t)kind,
                               .agent = t.a.id,
                               .peer = t.b.id,
                               .session = 77 };
}

static void
raw_hello(struct raw *r, const struct msg_hello *m)
{
    uint8_t body[MSG_BODY_MAX];

    raw_send(r, (struct frame){ .type = FRAME_HELLO }, body,
             msg_hello_encode(m, body));
}

static struct msg_hello
raw_ack(struct raw *r)
{
    uint8_t body[MSG_BODY_MAX];
    struct frame f = raw_expect(r, FRAME_HELLO_ACK, body);
    struct msg_hello m;

    assert_int_equal(msg_hello_decode(body, f.body_len, &m), 0);
    return m;
}

static void
setup_turn(uint64_t rx_turn)
{
    memset(&t, 0, sizeof t);
    t.b.rx_turn = rx_turn;
    labs_reset();
    t.loop = helper_loop(IO_BACKEND_EPOLL, 2);
    t.dir = helper_tmpdir(NULL);
    end_open(&t.a, t.loop, 0xaa, t.dir, NULL, NULL, 0);
    end_open(&t.b, t.loop, 0xbb, t.dir, NULL, NULL, 0);
    lab_init(&t.l, &t.a, &t.b, t.dir, 0x11, VOL, 1);
}

static void
setup(void)
{
    setup_turn(0);
}

static void
hang_up(void)
{
    for (unsigned k = 0; k < 2; k++) {
        raw_free(t.raw[k]);
        t.raw[k] = NULL;
    }
}

static void
teardown_all(void)
{
    hang_up();
    if (t.l.sender)
        lab_source_stop(&t.l);
    if (t.l.journal)
        lab_target_stop(&t.l);
    if (t.listen)
        io_listener_close(t.listen);
    lab_release(&t.l);
    stream_free(t.a.stream);
    stream_free(t.b.stream);
    io_loop_free(t.loop);
    helper_rmdir(t.dir);
}

/* --- HELLO -------------------------------------------------------------- */

static void
refused(struct msg_hello m, const char *code)
{
    struct raw *r = raw_dial(NULL);

    raw_hello(r, &m);
    m = raw_ack(r);
    assert_int_equal(m.ok, 0);
    if (strncmp(m.text, code, strlen(code)) != 0)
        fail_msg("%s expected: %s", code, m.text);
    UNTIL(r->closed);
    raw_free(r);
}

static void
hellos_refused(void **state)
{
    struct msg_hello m;
    uint8_t hdr[FRAME_HDR_SIZE];
    struct raw *r;

    setup();
    refused(hello(LINK_CONTROL), "STR-0003"); /* nobody uses that peer yet */
    lab_target_start(&t.l);
    m = hello(LINK_CONTROL);
    m.version_min = m.version_max = 2;
    refused(m, "STR-0001");
    m = hello(LINK_DATA);
    m.features = 1u << 16;
    refused(m, "STR-0001");
    m = hello(LINK_CONTROL);
    m.peer.u.b[3] ^= 1;
    refused(m, "STR-0002");
    m = hello(LINK_CONTROL);
    m.agent.u.b[3] ^= 1;
    refused(m, "STR-0003");
    /* a header of another version */
    r = raw_dial(NULL);
    frame_encode(&(struct frame){ .type = FRAME_HELLO }, hdr);
    hdr[4] = 2;
    put_le32(hdr + 36, crc32c(0, hdr, 36));
    raw_bytes(r, hdr, sizeof hdr);
    m = raw_ack(r);
    assert_int_equal(strncmp(m.text, "STR-0001", 8), 0);
    raw_free(r);
    /* what a peer does not know of the optional features is no obstacle */
    m = hello(LINK_CONTROL);
    m.features = 1;
    m.version_max = 9;
    r = raw_dial(NULL);
    raw_hello(r, &m);
    assert_int_equal(raw_ack(r).ok, 1);
    raw_free(r);
    teardown_all();
}

/* --- frames ------------------------------------------------------------- */

static void
link_make(void)
{
    struct stream_peer_status st;

    for (unsigned k = 0; k < 2; k++) {
        struct msg_hello m = hello((enum link_kind)k);

        t.raw[k] = raw_dial(NULL);
        raw_hello(t.raw[k], &m);
    }
    for (unsigned k = 0; k < 2; k++)
        assert_int_equal(raw_ack(t.raw[k]).ok, 1);
    UNTIL((stream_peer_status(t.l.peer_b, &st), st.state == PEER_UP));
}

/* The last byte of a frame uses up what may be received in a turn, and nothing
 * follows that would begin another. */
static void
frame_ends_the_turn(void **state)
{
    struct frame f = { .type = FRAME_PING };

    setup_turn(FRAME_HDR_SIZE);
    lab_target_start(&t.l);
    link_make();
    for (f.id = 1; f.id < 20; f.id++) {
        raw_send(t.raw[LINK_CONTROL], f, NULL, 0);
        assert_int_equal(raw_expect(t.raw[LINK_CONTROL], FRAME_PONG, NULL).id,
                         f.id);
    }
    teardown_all();
}

static void
hostile_frames(void **state)
{
    static const struct {
        struct frame f;
        uint8_t kind;
        uint32_t len;
    } bad[] = {
        { { .type = FRAME_CUT_PREPARE }, LINK_CONTROL, 0 }, /* reserved */
        { { .type = FRAME_FENCE }, LINK_CONTROL, 0 },
        { { .type = 200 }, LINK_CONTROL, 0 }, /* unknown */
        { { .type = FRAME_HELLO }, LINK_CONTROL, 0 },
        { { .type = FRAME_PING }, LINK_DATA, 0 }, /* wrong connection */
        { { .type = FRAME_BATCH }, LINK_CONTROL, 4096 },
        { { .type = FRAME_LANE_OPEN }, LINK_DATA, 106 },
        { { .type = FRAME_DURABLE, .flags = 1 }, LINK_DATA, 0 },
        { { .type = FRAME_PING }, LINK_CONTROL, 1 }, /* wrong length */
        { { .type = FRAME_BATCH }, LINK_DATA, BATCH_HDR_SIZE - 1 },
        { { .type = FRAME_SYNC_DATA }, LINK_DATA, SYNC_DATA_HDR_SIZE - 1 },
        { { .type = FRAME_SYNC_DATA },
          LINK_DATA,
          SYNC_DATA_HDR_SIZE + SYNC_DATA_MAX + 1 },
        { { .type = FRAME_LANE_OPEN }, LINK_CONTROL, 0 },
        { { .type = FRAME_LANE_OPEN }, LINK_CONTROL, MSG_BODY_MAX + 1 },
        { { .type = FRAME_CUT_AGE }, LINK_DATA, 8 },
        { { .type = FRAME_LANE_CLOSE }, LINK_CONTROL, 2 },
        { { .type = FRAME_DURABLE }, LINK_CONTROL, 0 }, /* wrong direction */
        { { .type = FRAME_BATCH, .flags = 1 }, LINK_DATA, 4096 },
        { { .type = FRAME_PING, .flags = 4 }, LINK_CONTROL, 0 },
        { { .type = FRAME_LANE_OPEN }, LINK_CONTROL, 40 }, /* bodies */
        { { .type = FRAME_LANE_STATE, .flags = 1 }, LINK_CONTROL, 40 },
        { { .type = FRAME_LANE_STATUS }, LINK_CONTROL, 39 },
        { { .type = FRAME_ERROR }, LINK_CONTROL, 1 },
        { { .type = FRAME_SYNC_DATA }, LINK_DATA, SYNC_DATA_HDR_SIZE + 512 },
    };
    uint8_t *body = calloc(1, SYNC_DATA_HDR_SIZE + SYNC_DATA_MAX + 1);
    struct stream_peer_status st;

    setup();
    lab_target_start(&t.l);
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        struct iovec iov = { body, bad[i].len };
        uint8_t hdr[FRAME_HDR_SIZE];
        struct frame f = bad[i].f;
        bool dropped = f.type == FRAME_LANE_STATE; /* no lane: not even read */

        link_make();
        f.body_len = bad[i].len;
        frame_encode(&f, hdr);
        raw_bytes(t.raw[bad[i].kind], hdr, sizeof hdr);
        if (bad[i].len > 0)
            (void)io_chan_writev(t.raw[bad[i].kind]->ch, &iov, 1);
        for (unsigned k = 0; dropped && k < 3; k++)
            turn();
        if (!dropped) {
            UNTIL(t.raw[0]->closed && t.raw[1]->closed);
            stream_peer_status(t.l.peer_b, &st);
            if (!strstr(st.error, "broke the protocol"))
                fail_msg("row %zu: %s", i, st.error);
        }
        hang_up();
        UNTIL((stream_peer_status(t.l.peer_b, &st), st.state != PEER_UP));
    }
    /* a damaged header */
    for (unsigned at = 0; at < FRAME_HDR_SIZE; at += 3) {
        uint8_t hdr[FRAME_HDR_SIZE];

        link_make();
        frame_encode(&(struct frame){ .type = FRAME_PING }, hdr);
        hdr[at] ^= 0x20;
        raw_bytes(t.raw[0], hdr, sizeof hdr);
        UNTIL(t.raw[0]->closed && t.raw[1]->closed);
        hang_up();
        turn();
    }
    free(body);
    teardown_all();
}

/* --- sources ------------------------------------------------------------ */

static void
open_msg(struct msg_lane_open *out)
{
    static struct msg_lane_open m; /* large */

    m = (struct msg_lane_open){ .vpg = t.l.vpg,
                                .lane = 1,
                                .generation = t.l.generation,
                                .n_volumes = LAB_VOLS };

    memset(m.incarnation.u.b, 0x99, 16);
    for (uint16_t i = 0; i < LAB_VOLS; i++)
        m.volumes[i] = (struct msg_volume){ i, VOL };
    *out = m;
}

static void
raw_open(const struct msg_lane_open *m, uint32_t handle, uint32_t epoch)
{
    uint8_t body[MSG_BODY_MAX];
    struct frame f = { .type = FRAME_LANE_OPEN, .lane = handle, .epoch = epoch };

    raw_send(t.raw[LINK_CONTROL], f, body, msg_lane_open_encode(m, body));
}

static struct msg_lane_state
ask(const struct msg_lane_open *m, uint32_t handle, uint32_t epoch)
{
    uint8_t body[MSG_BODY_MAX];
    struct msg_lane_state s;
    struct frame f = { .type = FRAME_LANE_OPEN, .lane = handle, .epoch = epoch };

    raw_send(t.raw[LINK_CONTROL], f, body, msg_lane_open_encode(m, body));
    f = raw_expect(t.raw[LINK_CONTROL], FRAME_LANE_STATE, body);
    assert_int_equal(f.lane, handle);
    assert_int_equal(msg_lane_state_decode(body, f.body_len, &s), 0);
    return s;
}

static void
expect_error(const char *code)
{
    uint8_t body[MSG_BODY_MAX];
    struct frame f = raw_expect(t.raw[LINK_CONTROL], FRAME_ERROR, body);
    struct msg_error e;

    assert_int_equal(msg_error_decode(body, f.body_len, &e), 0);
    assert_string_equal(e.code, code);
}

static void
straight(uint32_t handle, uint32_t epoch, uint64_t id, uint64_t off)
{
    static uint8_t body[SYNC_DATA_HDR_SIZE + 4096] = { 0 };
    uint64_t term = 0x9999999999999999;
    struct msg_sync_data m = { .off = off,
                               .len = 4096,
                               .stored_len = 4096,
                               .after_seq = (uint64_t)1 << 40,
                               .crc =
                                   crc32c(0, body + SYNC_DATA_HDR_SIZE, 4096) };

    msg_sync_data_encode(&m, body);
    raw_send(t.raw[LINK_DATA],
             (struct frame){ .type = FRAME_SYNC_DATA,
                             .lane = handle,
                             .id = id,
                             .epoch = epoch,
                             .term = term },
             body, sizeof body);
}

static void
sources_refused(void **state)
{
    static struct msg_lane_open m; /* large */
    struct msg_lane_state s;
    struct frame f;

    setup();
    t.l.epoch = 5;
    lab_target_start(&t.l);
    link_make();
    open_msg(&m);
    s = ask(&m, 1, 4);
    assert_int_equal(s.verdict, VERDICT_FENCED);
    assert_string_equal(s.code, "STR-0006");
    m.generation.u.b[0]++;
    s = ask(&m, 2, 5);
    assert_int_equal(s.verdict, VERDICT_SPLIT_BRAIN);
    assert_string_equal(s.code, "STR-0007");
    open_msg(&m);
    m.volumes[1].size += 512;
    s = ask(&m, 3, 5);
    assert_int_equal(s.verdict, VERDICT_REFUSED);
    assert_string_equal(s.code, "STR-0005");
    open_msg(&m);
    m.n_volumes = 1;
    assert_int_equal(ask(&m, 4, 5).verdict, VERDICT_REFUSED);
    open_msg(&m);
    m.vpg.u.b[0]++;
    s = ask(&m, 5, 5);
    assert_int_equal(s.verdict, VERDICT_HOLD);
    assert_string_equal(s.code, "STR-0004");
    open_msg(&m);
    s = ask(&m, 6, 5);
    assert_int_equal(s.verdict, VERDICT_FULL);
    /* as long as nothing of the incarnation is there, the same again */
    assert_int_equal(ask(&m, 7, 5).verdict, VERDICT_FULL);
    /* a frame of an earlier opening is nobody's */
    straight(6, 5, 1, 0);
    straight(7, 5, 1, 0);
    f = raw_expect(t.raw[LINK_CONTROL], FRAME_SYNC_DONE, NULL);
    assert_int_equal(f.id, 1);
    assert_int_equal(f.lane, 7);
    straight(7, 5, 3, 0); /* out of turn */
    expect_error("STR-0011");
    assert_int_equal(ask(&m, 8, 5).verdict, VERDICT_FULL);
    straight(8, 5, 1, VOL - 512); /* past the end */
    expect_error("STR-0011");
    assert_int_equal(ask(&m, 9, 5).verdict, VERDICT_FULL);
    straight(9, 4, 1, 0);
    expect_error("STR-0006");
    assert_int_equal(ask(&m, 10, 6).verdict, VERDICT_FULL); /* a higher one */
    assert_int_equal(ask(&m, 11, 5).verdict, VERDICT_FENCED);
    assert_int_equal(ask(&m, 12, 6).verdict, VERDICT_FULL);
    {
        static const uint8_t junk[4096] = { 1 };

        raw_send(t.raw[LINK_DATA],
                 (struct frame){ .type = FRAME_BATCH,
                                 .lane = 12,
                                 .id = 1,
                                 .epoch = 6,
                                 .term = get_le64(m.incarnation.u.b) },
                 junk, sizeof junk);
        expect_error("STR-0009");
    }
    /* a source that leaves while it is being admitted is gone */
    {
        struct receiver_status rs;

        raw_send(t.raw[LINK_CONTROL],
                 (struct frame){ .type = FRAME_LANE_CLOSE, .lane = 12 }, NULL,
                 0);
        for (unsigned k = 0; k < 10; k++)
            turn();
        memset(m.incarnation.u.b, 0x98, 16);
        raw_open(&m, 20, 6);
        raw_send(t.raw[LINK_CONTROL],
                 (struct frame){ .type = FRAME_LANE_CLOSE, .lane = 20 }, NULL,
                 0);
        for (unsigned k = 0; k < 20; k++)
            turn();
        receiver_status(t.l.receiver, &rs);
        assert_false(rs.open);
        memset(m.incarnation.u.b, 0x99, 16);
    }
    /* a target that closes says so, open or being opened */
    assert_int_equal(ask(&m, 13, 6).verdict, VERDICT_FULL);
    lab_receiver_stop(&t.l);
    expect_error("STR-0012");
    teardown_all();
}

/* --- targets ------------------------------------------------------------ */

static void
raw_accepted(void *arg, struct io_chan *ch)
{
    struct raw *r = calloc(1, sizeof *r);

    assert_true(t.accepted < 2);
    r->ch = ch;
    r->open = true;
    t.raw[t.accepted++] = r;
    io_chan_set_owner(ch, &(struct io_chan_owner){ raw_event, r });
    io_chan_want(ch, IO_CHAN_READABLE);
}

static struct frame
target_answers(uint8_t verdict, uint64_t durable, uint8_t digest)
{
    uint8_t body[MSG_BODY_MAX];
    struct frame f = raw_expect(t.raw[LINK_CONTROL], FRAME_LANE_OPEN, NULL);
    struct msg_lane_state m = { .verdict = verdict,
                                .durable_batch = durable,
                                .credit = 8 * MIB };

    memset(m.digest, digest, 16);
    f = (struct frame){ .type = FRAME_LANE_STATE,
                        .flags = FRAME_TO_SOURCE,
                        .lane = f.lane,
                        .epoch = f.epoch };
    raw_send(t.raw[LINK_CONTROL], f, body, msg_lane_state_encode(&m, body));
    return f;
}

/* Answer both HELLOs.  early: a first frame overtakes the second answer. */
static void
play_target(bool early)
{
    struct msg_hello m[2];
    uint8_t body[MSG_BODY_MAX];

    UNTIL(t.accepted == 2);
    for (unsigned k = 0; k < 2; k++) {
        struct frame f = raw_expect(t.raw[k], FRAME_HELLO, body);

        assert_int_equal(msg_hello_decode(body, f.body_len, &m[k]), 0);
    }
    if (m[0].kind != LINK_CONTROL) {
        struct raw *x = t.raw[0];

        t.raw[0] = t.raw[1];
        t.raw[1] = x;
    }
    for (unsigned k = 0; k < 2; k++) {
        m[k].kind = (uint8_t)k;
        m[k].peer = t.a.id;
        m[k].agent = t.b.id;
        m[k].ok = 1;
        raw_send(t.raw[k], (struct frame){ .type = FRAME_HELLO_ACK }, body,
                 msg_hello_encode(&m[k], body));
        if (k > 0 || !early)
            continue;
        raw_send(t.raw[0], (struct frame){ .type = FRAME_PING, .id = 4711 },
                 NULL, 0);
        for (unsigned i = 0; i < 5; i++)
            turn();
    }
}

static void
targets_that_lie(void **state)
{
    struct io_listen_config lc = { .addr = { .is_unix = true } };
    struct err e = ERR_INIT;
    struct sender_status st;
    struct frame f;

    setup();
    snprintf(t.at.host, sizeof t.at.host, "%.80s/raw", t.dir);
    t.at.is_unix = true;
    lc.addr = t.at;
    assert_int_equal(io_listen(t.loop, &lc, raw_accepted, NULL, &t.listen, &e),
                     0);
    t.l.dial_a = &t.at;
    lab_source_start(&t.l);
    play_target(true);
    assert_int_equal(raw_expect(t.raw[LINK_CONTROL], FRAME_PONG, NULL).id, 4711);
    hang_up();
    t.accepted = 0;
    play_target(false);
    /* a digest that is not ours */
    (void)target_answers(VERDICT_RESUME, 0, 0x55);
    UNTIL((sender_status(t.l.sender, &st), st.state == SENDER_REFUSED));
    assert_int_equal(st.err.code, ERR_STR_0014);
    sender_force_sync(t.l.sender, false); /* only a new incarnation helps */
    UNTIL(t.l.restarts == 1);
    /* an answer to an earlier opening, and an ERROR for it: nobody's */
    f = target_answers(VERDICT_FULL, 0, 0);
    UNTIL((sender_status(t.l.sender, &st), st.state == SENDER_INITIAL));
    raw_send(t.raw[LINK_CONTROL],
             (struct frame){ .type = FRAME_DURABLE,
                             .flags = FRAME_TO_SOURCE,
                             .lane = f.lane - 1,
                             .id = 999 },
             NULL, 0);
    for (unsigned k = 0; k < 10; k++)
        turn();
    assert_int_equal(lab_state(&t.l), SENDER_INITIAL);
    /* what was never sent cannot be durable */
    raw_send(t.raw[LINK_CONTROL],
             (struct frame){ .type = FRAME_DURABLE,
                             .flags = FRAME_TO_SOURCE,
                             .lane = f.lane,
                             .id = 999 },
             NULL, 0);
    UNTIL((sender_status(t.l.sender, &st), st.err.code == ERR_STR_0014));
    /* a target that stops the lane again and again is asked more slowly */
    {
        uint8_t body[MSG_BODY_MAX];
        struct msg_error m = { .code = "STR-0010", .text = "no disk" };

        f = target_answers(VERDICT_FULL, 0, 0);
        f.type = FRAME_ERROR;
        raw_send(t.raw[LINK_CONTROL], f, body, msg_error_encode(&m, body));
        UNTIL((sender_status(t.l.sender, &st), st.err.code == ERR_STR_0015));
        assert_non_null(strstr(st.err.msg, "STR-0010 no disk"));
    }
    teardown_all();
}

/* Both sides dial: the one with the greater id, once it has reached the other,
 * lets the other's HELLO wait for its own (STR-0019). */
static void
dialling_already(void **state)
{
    struct io_listen_config lc = { .addr = { .is_unix = true } };
    struct stream_peer_config pc = { .dial = true };
    struct stream_peer *p = NULL;
    struct err e = ERR_INIT;

    setup();
    snprintf(lc.addr.host, sizeof lc.addr.host, "%.80s/raw", t.dir);
    assert_int_equal(io_listen(t.loop, &lc, raw_accepted, NULL, &t.listen, &e),
                     0);
    pc.agent = t.a.id;
    pc.addr = lc.addr;
    assert_int_equal(stream_peer_get(t.b.stream, &pc, &p, &e), 0);
    UNTIL(t.accepted == 2 && t.raw[0]->n > 0 && t.raw[1]->n > 0);
    refused(hello(LINK_CONTROL), "STR-0019");
    stream_peer_put(p);
    teardown_all();
}

/* --- certificates ------------------------------------------------------- */

static struct tls_ctx *
context(enum tls_side side, const struct leaf *own, struct pki_trust *trust)
{
    struct tls_settings s = { .side = side };
    struct tls_ctx *ctx = NULL;
    struct err e = ERR_INIT;

    must(tls_ctx_new(&s, &ctx, &e), &e);
    must(tls_ctx_set_own(ctx, own->chain, own->key, &e), &e);
    tls_ctx_set_trust(ctx, trust);
    return ctx;
}

static void
certified(void **state)
{
    struct leaf la, lb, lc;
    struct tls_ctx *ca, *sa, *cb, *sb, *cc;
    struct pki_trust *trust;
    struct site site;
    struct err e = ERR_INIT;
    struct msg_hello m;
    struct raw *r;

    memset(&t, 0, sizeof t);
    labs_reset();
    t.loop = helper_loop(IO_BACKEND_EPOLL, 2);
    t.dir = helper_tmpdir(NULL);
    site_make(&site, "site");
    leaf_make(&la, &site, TLS_ROLE_REPLICATOR, 0, 0, 0);
    leaf_make(&lb, &site, TLS_ROLE_REPLICATOR, 0, 0, 0);
    leaf_make(&lc, &site, TLS_ROLE_REPLICATOR, 0, 0, 0);
    must(pki_trust_new(&trust, &e), &e);
    must(pki_trust_add_root(trust, site.root, &e), &e);
    ca = context(TLS_CLIENT, &la, trust);
    sa = context(TLS_SERVER, &la, trust);
    cb = context(TLS_CLIENT, &lb, trust);
    sb = context(TLS_SERVER, &lb, trust);
    cc = context(TLS_CLIENT, &lc, trust);
    t.a.id.u = la.who.id;
    t.b.id.u = lb.who.id;
    end_open(&t.a, t.loop, 1, t.dir, ca, sa, 0);
    end_open(&t.b, t.loop, 2, t.dir, cb, sb, 0);
    lab_init(&t.l, &t.a, &t.b, t.dir, 0x11, 4 * VOL, 9);
    t.l.dial_a = &t.b.addr;
    lab_target_start(&t.l);
    /* c says it is a */
    r = raw_dial(cc);
    m = hello(LINK_CONTROL);
    raw_hello(r, &m);
    m = raw_ack(r);
    assert_int_equal(m.ok, 0);
    assert_int_equal(strncmp(m.text, "STR-0002", 8), 0);
    raw_free(r);
    /* and the real one */
    lab_write(&t.l, 20, 64 * 1024);
    lab_source_start(&t.l);
    for (unsigned i = 0; i < 30; i++) {
        lab_write(&t.l, 5, 64 * 1024);
        if (i % 10 == 9)
            stream_peer_cut(t.l.peer_b, "a test cuts it");
        lab_turn(&t.l);
    }
    lab_settle(&t.l);
    lab_cut_now(&t.l);
    lab_settle(&t.l);
    assert_true(lab_verify(&t.l) >= 1);
    stream_recheck(t.a.stream); /* still good */
    assert_int_equal(lab_state(&t.l), SENDER_STREAMING);
    teardown_all();
    tls_ctx_free(ca);
    tls_ctx_free(sa);
    tls_ctx_free(cb);
    tls_ctx_free(sb);
    tls_ctx_free(cc);
    pki_trust_free(trust);
    leaf_release(&la);
    leaf_release(&lb);
    leaf_release(&lc);
    site_release(&site);
}

int
main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(hellos_refused),
        cmocka_unit_test(frame_ends_the_turn),
        cmocka_unit_test(hostile_frames),
        cmocka_unit_test(sources_refused),
        cmocka_unit_test(targets_that_lie),
        cmocka_unit_test(dialling_already),
        cmocka_unit_test(certified),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
