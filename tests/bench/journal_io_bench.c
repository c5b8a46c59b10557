/* room: journal lane io common */
/* How fast a journal of random 4 KiB writes is read through a view, and how fast
 * it is promoted.
 *
 *     journal_io_bench [MIB [DIRECTORY]]
 *
 * MIB (512) of incompressible 4 KiB writes at random places of a volume twice
 * as large go through journal_append().  Then a view of the newest checkpoint
 * is read whole in requests of 1 MiB, one after the other, as qemu-img compare
 * does; in 4 KiB requests at random places, one and eight at a time; and at the
 * end the history is cut short, so that all of it is promoted.  Every block read
 * is compared with what was written last. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/crc32c.h"
#include "io/file.h"
#include "journal/journal.h"

enum {
    BLOCK = 4096,
    ENTRIES = 256, /* a batch of 1 MiB */
    CHUNKS = 16,
    AHEAD = 7, /* batches not durable yet: below the credit of 8 MiB */
    BIG = 1024 * 1024,
    READS = 20000,
    QD_MAX = 8,
};

static struct {
    struct io_loop *loop;
    struct journal *j;
    struct journal_config cfg;
    struct incarnation_id inc;
    uint64_t batch, seq, durable, cuts, rng;
    uint8_t digest[16];
    struct journal_view *view;
    uint64_t *stamp; /* of each block; 0: never written */
    uint64_t blocks;
    bool flag;
} b;

static void
die(const char *what, const struct err *err, int rc)
{
    fprintf(stderr, "journal_io_bench: %s: %s\n", what,
            err && err->num ? err->msg : err_errno(rc));
    exit(1);
}

static uint64_t
mix(uint64_t z)
{
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9;
    z = (z ^ z >> 27) * 0x94D049BB133111EB;
    return z ^ z >> 31;
}

static uint64_t
rnd(void)
{
    return mix(b.rng += 0x9E3779B97F4A7C15);
}

static void
fill_block(uint8_t *p, uint64_t stamp)
{
    for (unsigned i = 0; i < BLOCK; i += 8)
        put_le64(p + i, stamp * (i + 1) + i);
}

static void
check_block(const uint8_t *p, uint64_t block)
{
    uint8_t want[BLOCK] = { 0 };

    if (b.stamp[block])
        fill_block(want, b.stamp[block]);
    if (memcmp(p, want, BLOCK) != 0) {
        fprintf(stderr, "block %llu: content differs\n",
                (unsigned long long)block);
        exit(1);
    }
}

static void
turn_until_flag(void)
{
    while (!b.flag)
        if (io_loop_turn(b.loop, 10 * NSEC_PER_MSEC) < 0)
            die("loop", NULL, -EIO);
    b.flag = false;
}

static void
on_durable(void *arg, uint64_t no)
{
    b.durable = no;
}

static void
on_credit(void *arg)
{
}

static void
on_alert(void *arg, const struct err *err)
{
    fprintf(stderr, "alert: %s\n", err->msg);
}

static void
on_opened(void *arg, struct journal *j, int res, const struct err *err)
{
    if (res < 0)
        die("open", err, res);
    b.j = j;
    b.flag = true;
}

static void
on_void(void *arg)
{
    b.flag = true;
}

static void
on_res(void *arg, int res)
{
    if (res < 0)
        die("journal", NULL, res);
    b.flag = true;
}

static void
on_view(void *arg, struct journal_view *v, int res, const struct err *err)
{
    if (res < 0)
        die("view", err, res);
    b.view = v;
    b.flag = true;
}

static uint8_t *
make_batch(size_t *out_size, size_t *out_mem)
{
    static struct lane_entry e[ENTRIES + 1];
    static struct lane_chunk c[CHUNKS + 1];
    uint8_t cut[CONTROL_PAYLOAD_MAX] = { 0 }, *mem, *body;
    struct cut_commit commit = { .cut_no = ++b.cuts,
                                 .wall_ns = b.cuts * NSEC_PER_SEC };
    size_t cut_len = cut_commit_encode(&commit, cut),
           padded = round_up(cut_len, 512);
    struct batch_hdr h = { .lane = b.cfg.lane,
                           .vpg_tag = get_le64(b.cfg.vpg.u.b),
                           .incarnation = b.inc,
                           .batch_no = ++b.batch,
                           .first_seq = b.seq + 1,
                           .n_entries = ENTRIES + 1,
                           .n_chunks = CHUNKS + 1,
                           .durable_seen = b.durable,
                           .flags = BATCH_CUT_INSIDE };
    size_t head = batch_head_size(h.n_entries, h.n_chunks);

    *out_size = head + ENTRIES * BLOCK + padded;
    *out_mem = round_up(*out_size, BATCH_DISK_ALIGN);
    mem = io_mem_alloc(*out_mem);
    if (!mem)
        die("memory", NULL, -ENOMEM);
    memset(mem, 0, *out_mem);
    body = mem + head;
    for (unsigned i = 0; i < ENTRIES; i++) {
        uint64_t block = rnd() % b.blocks, stamp = rnd() | 1;

        fill_block(body + (size_t)i * BLOCK, stamp);
        b.stamp[block] = stamp;
        e[i] = (struct lane_entry){ .type = ENTRY_WRITE,
                                    .off512 = block * 8,
                                    .len512 = 8,
                                    .chunk = i / 16,
                                    .chunk_off512 = (uint16_t)(i % 16 * 8),
                                    .crc = crc32c(0, body + (size_t)i * BLOCK,
                                                  BLOCK) };
    }
    for (unsigned i = 0; i < CHUNKS; i++) {
        c[i] = (struct lane_chunk){ .body_off = i * BATCH_CHUNK_RAW_MAX,
                                    .stored_len = BATCH_CHUNK_RAW_MAX,
                                    .raw_len = BATCH_CHUNK_RAW_MAX };
        c[i].crc_raw = c[i].crc_stored =
            crc32c(0, body + c[i].body_off, BATCH_CHUNK_RAW_MAX);
    }
    memcpy(body + ENTRIES * BLOCK, cut, padded);
    c[CHUNKS] = (struct lane_chunk){ .body_off = ENTRIES * BLOCK,
                                     .stored_len = (uint32_t)padded,
                                     .raw_len = (uint32_t)padded,
                                     .crc_raw = crc32c(0, cut, padded) };
    c[CHUNKS].crc_stored = c[CHUNKS].crc_raw;
    e[ENTRIES] = (struct lane_entry){ .type = ENTRY_CUT_COMMIT,
                                      .len512 = (uint32_t)(padded / 512),
                                      .chunk = CHUNKS,
                                      .crc = c[CHUNKS].crc_raw,
                                      .aux = (uint32_t)cut_len };
    h.last_seq = b.seq += h.n_entries;
    memcpy(h.prev_digest, b.digest, 16);
    batch_head_encode(&h, e, c, mem);
    batch_digest(mem, head, b.digest);
    return mem;
}

static void
fill(uint64_t batches)
{
    for (uint64_t i = 0; i < batches; i++) {
        struct err err = ERR_INIT;
        size_t size, mem_size;
        uint8_t *mem;
        int rc;

        while (b.batch - b.durable >= AHEAD)
            io_loop_turn(b.loop, NSEC_PER_MSEC);
        mem = make_batch(&size, &mem_size);
        rc = journal_append(b.j, mem, size, mem_size, &err);
        if (rc < 0)
            die("append", &err, rc);
        io_loop_turn(b.loop, 0);
    }
    while (b.durable < b.batch)
        io_loop_turn(b.loop, NSEC_PER_MSEC);
}

/* Until no run has been added for half a second. */
static void
settle(void)
{
    struct journal_stats st;
    uint64_t runs = UINT64_MAX, since = 0, now;

    do {
        io_loop_turn(b.loop, 20 * NSEC_PER_MSEC);
        journal_stats(b.j, &st);
        now = io_mono_fresh(b.loop);
        if (st.runs != runs) {
            runs = st.runs;
            since = now;
        }
    } while (now - since < NSEC_PER_SEC / 2);
}

struct read_rq {
    struct blkdev_req rq;
    bool busy;
    uint8_t *buf;
};
static unsigned in_flight;

static void
read_done(struct blkdev_req *rq, int res)
{
    struct read_rq *r = container_of(rq, struct read_rq, rq);

    if (res < 0)
        die("read", NULL, res);
    for (uint64_t at = 0; at < rq->len; at += BLOCK)
        check_block((uint8_t *)rq->buf + at, (rq->off + at) / BLOCK);
    r->busy = false;
    in_flight--;
}

/* n reads of len bytes, qd at a time: in order, or at random places. */
static double
read_all(struct blkdev *d, uint64_t n, uint64_t len, unsigned qd, bool random)
{
    static struct read_rq r[QD_MAX];
    uint64_t start = io_mono_fresh(b.loop), next = 0;

    for (unsigned i = 0; i < qd; i++)
        r[i].buf = io_mem_alloc(len);
    while (next < n || in_flight > 0) {
        for (unsigned i = 0; i < qd && next < n; i++) {
            if (r[i].busy)
                continue;
            r[i].busy = true;
            in_flight++;
            r[i].rq =
                (struct blkdev_req){ .op = BLKDEV_READ,
                                     .off = random ? rnd() % b.blocks * BLOCK
                                                   : next * len,
                                     .len = len,
                                     .buf = r[i].buf,
                                     .done = read_done };
            next++;
            blkdev_submit(d, &r[i].rq);
        }
        io_loop_turn(b.loop, 10 * NSEC_PER_MSEC);
    }
    for (unsigned i = 0; i < qd; i++)
        io_mem_free(r[i].buf, len);
    return (double)(io_mono_fresh(b.loop) - start) / 1e9;
}

static void
measure_view(void)
{
    struct journal_view_config vc = { .cut_no = b.cuts };
    struct blkdev *d;
    double s;

    put_le32(vc.id.u.b, 1);
    journal_view_open(b.j, &vc, on_view, NULL);
    turn_until_flag();
    d = journal_view_dev(b.view, 0);
    s = read_all(d, b.blocks * BLOCK / BIG, BIG, 1, false);
    printf("  whole volume, 1 MiB, QD1     %8.1f MiB/s\n",
           (double)(b.blocks * BLOCK) / MIB / s);
    s = read_all(d, READS, BLOCK, 1, true);
    printf("  random 4 KiB, QD1            %8.0f /s\n", READS / s);
    s = read_all(d, READS, BLOCK, QD_MAX, true);
    printf("  random 4 KiB, QD8            %8.0f /s\n", READS / s);
    journal_view_discard(b.view, on_void, NULL);
    turn_until_flag();
}

static void
measure_promotion(void)
{
    uint64_t start = io_mono_fresh(b.loop), now = start;
    struct journal_stats st;

    journal_set_limits(b.j, 1, 0, 0);
    do {
        io_loop_turn(b.loop, 10 * NSEC_PER_MSEC);
        journal_stats(b.j, &st);
        now = io_mono_fresh(b.loop);
    } while (st.promotions == 0 && now - start < 600 * NSEC_PER_SEC);
    printf("  promotion                    %8.1f MiB/s: %.1f MiB in %.2f s, %.0f "
           "writes of the lane a second\n",
           (double)st.promoted_bytes / MIB / ((double)(now - start) / 1e9),
           (double)st.promoted_bytes / MIB, (double)(now - start) / 1e9,
           (double)(b.batch * ENTRIES) / ((double)(now - start) / 1e9));
}

int
main(int argc, char **argv)
{
    uint64_t mib = argc > 1 ? strtoull(argv[1], NULL, 10) : 512, start;
    char tmp[] = "/tmp/hf-bench-XXXXXX";
    const char *dir = argc > 2 ? argv[2] : mkdtemp(tmp);
    struct io_loop_config lc = { .workers = 2 };
    struct err err = ERR_INIT;
    int rc = io_loop_new(&lc, &b.loop, &err);

    if (rc < 0 || !dir || mib == 0)
        die("loop, directory or size", &err, rc < 0 ? rc : -EINVAL);
    b.blocks = 2 * mib * MIB / BLOCK;
    b.stamp = calloc(b.blocks, sizeof *b.stamp);
    if (!b.stamp)
        die("memory", NULL, -ENOMEM);
    memset(b.inc.u.b, 0x11, 16);
    b.cfg = (struct journal_config){
        .loop = b.loop,
        .dir = dir,
        .lane = 1,
        .volumes = { { 0, b.blocks * BLOCK } },
        .n_volumes = 1,
        .history_ns = 86400 * NSEC_PER_SEC,
    };
    memset(b.cfg.vpg.u.b, 0x22, 16);
    {
        static const struct journal_events ev = { .durable = on_durable,
                                                  .credit = on_credit,
                                                  .alert = on_alert,
                                                  .arg = NULL };

        journal_open(&b.cfg, &ev, on_opened, NULL);
    }
    turn_until_flag();
    journal_begin_incarnation(b.j, &b.inc, on_res, NULL);
    turn_until_flag();
    b.seq = lane_seq(1, 0);
    start = io_mono_fresh(b.loop);
    fill(mib);
    printf("%llu MiB of random 4 KiB writes, appended in %.1f s\n",
           (unsigned long long)mib,
           (double)(io_mono_fresh(b.loop) - start) / 1e9);
    settle();
    measure_view();
    measure_promotion();
    journal_close(b.j, on_void, NULL);
    turn_until_flag();
    rc = journal_destroy(b.loop, dir, false, &err);
    if (rc < 0)
        die("remove", &err, rc);
    if (argc <= 2)
        (void)io_rmdir_tree(b.loop, dir, NULL);
    io_loop_free(b.loop);
    free(b.stamp);
    return 0;
}
