/* room: journal lane io common */
/* How long a view takes to open, and a read of it, with a journal of N GiB of
 * random 4 KiB writes.
 *
 *     view_open_bench [GIB [DIRECTORY [LANES]]]
 *
 * With LANES, as many journals of GIB / LANES each, and what is measured is how
 * long it takes to open them all together, as a replicator does when it starts.
 *
 * The journal is made through journal_append(): batches of 1 MiB raw with 256
 * writes at random places of a 64 GiB volume.  The payloads compress to nearly
 * nothing, so that 20 GiB of history take little disk; segments are sized to
 * hold what 64 MiB of stored data would, so that their number, the entries in
 * each and the runs over them are those of a real journal.  The journal is
 * closed and opened again before measuring; index and segments are read with
 * direct I/O. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/crc32c.h"
#include "io/file.h"
#include "journal/journal.h"

enum {
    LANES_MAX = 16,
    ENTRIES = 256, /* of 4 KiB: a batch of 1 MiB */
    CHUNKS = 16,
    KINDS = 64, /* different chunks */
    CUT_EVERY = 16,
    AHEAD = 256, /* batches of 16 KiB not durable yet: half the credit */
    VIEWS = 20,
    READS = 1000,
};
#define VOLUME (64 * GIB)

struct kind { /* a chunk made once, used often */
    uint8_t stored[BATCH_CHUNK_RAW_MAX];
    struct lane_chunk c;
    uint32_t entry_crc[16];
};

static struct {
    struct io_loop *loop;
    struct journal *j;
    struct journal_config cfg;
    struct kind *kinds;
    struct incarnation_id inc;
    uint64_t batch, seq, durable, cuts, rng;
    uint8_t digest[16];
    struct journal_view *view;
    bool flag;
    int res;
} b;

static void
die(const char *what, const struct err *err, int rc)
{
    fprintf(stderr, "view_open_bench: %s: %s\n", what,
            err && err->num ? err->msg : err_errno(rc));
    exit(1);
}

static uint64_t
rnd(uint64_t n)
{
    uint64_t z = (b.rng += 0x9E3779B97F4A7C15);

    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9;
    z = (z ^ z >> 27) * 0x94D049BB133111EB;
    return (z ^ z >> 31) % n;
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
    b.res = res;
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

static void
open_journal(void)
{
    static const struct journal_events ev = { .durable = on_durable,
                                              .credit = on_credit,
                                              .alert = on_alert,
                                              .arg = NULL };

    journal_open(&b.cfg, &ev, on_opened, NULL);
    turn_until_flag();
}

static void
make_kinds(void)
{
    static uint8_t raw[BATCH_CHUNK_RAW_MAX];

    b.kinds = calloc(KINDS, sizeof *b.kinds);
    for (unsigned k = 0; b.kinds && k < KINDS; k++) {
        struct kind *kd = &b.kinds[k];

        for (unsigned e = 0; e < 16; e++) {
            memset(raw + e * 4096, (int)(k * 3 + e + 1), 4096);
            kd->entry_crc[e] = crc32c(0, raw + e * 4096, 4096);
        }
        kd->c = (struct lane_chunk){ .raw_len = sizeof raw,
                                     .crc_raw = crc32c(0, raw, sizeof raw),
                                     .codec = CHUNK_LZ4 };
        kd->c.stored_len =
            (uint32_t)chunk_deflate(CHUNK_LZ4, raw, sizeof raw, kd->stored,
                                    sizeof kd->stored);
        kd->c.crc_stored = crc32c(0, kd->stored, kd->c.stored_len);
    }
}

static uint32_t
add_cut(struct lane_entry *e, struct lane_chunk *c, uint8_t *payload)
{
    struct cut_commit cut = { .cut_no = ++b.cuts,
                              .wall_ns = b.cuts * NSEC_PER_SEC };
    size_t len = cut_commit_encode(&cut, payload), padded = round_up(len, 512);

    memset(payload + len, 0, padded - len);
    *c = (struct lane_chunk){ .stored_len = (uint32_t)padded,
                              .raw_len = (uint32_t)padded,
                              .crc_raw = crc32c(0, payload, padded) };
    c->crc_stored = c->crc_raw;
    *e = (struct lane_entry){ .type = ENTRY_CUT_COMMIT,
                              .len512 = (uint32_t)(padded / 512),
                              .chunk = CHUNKS,
                              .crc = c->crc_raw,
                              .aux = (uint32_t)len };
    return (uint32_t)padded;
}

/* The next batch, from io_mem_alloc(*out_mem). */
static uint8_t *
make_batch(size_t *out_size, size_t *out_mem)
{
    static struct lane_entry e[ENTRIES + 1];
    static struct lane_chunk c[CHUNKS + 1];
    uint8_t cut[CONTROL_PAYLOAD_MAX], *mem, *p;
    bool with_cut = (b.batch + 1) % CUT_EVERY == 0;
    struct batch_hdr h = { .lane = b.cfg.lane,
                           .vpg_tag = get_le64(b.cfg.vpg.u.b),
                           .incarnation = b.inc,
                           .batch_no = ++b.batch,
                           .first_seq = b.seq + 1,
                           .n_entries = ENTRIES + with_cut,
                           .n_chunks = CHUNKS + with_cut,
                           .durable_seen = b.durable,
                           .flags = with_cut ? BATCH_CUT_INSIDE : 0 };
    unsigned kind[CHUNKS];
    uint32_t body = 0, cut_len = 0;
    size_t head;

    for (unsigned i = 0; i < CHUNKS; i++) {
        kind[i] = (unsigned)rnd(KINDS);
        c[i] = b.kinds[kind[i]].c;
        c[i].body_off = body;
        body += c[i].stored_len;
        for (unsigned k = 0; k < 16; k++)
            e[i * 16 + k] =
                (struct lane_entry){ .type = ENTRY_WRITE,
                                     .off512 = rnd(VOLUME / 4096) * 8,
                                     .len512 = 8,
                                     .chunk = i,
                                     .chunk_off512 = (uint16_t)(k * 8),
                                     .crc = b.kinds[kind[i]].entry_crc[k] };
    }
    if (with_cut) {
        cut_len = add_cut(&e[ENTRIES], &c[CHUNKS], cut);
        c[CHUNKS].body_off = body;
        body += cut_len;
    }
    h.last_seq = b.seq += h.n_entries;
    memcpy(h.prev_digest, b.digest, 16);
    head = batch_head_size(h.n_entries, h.n_chunks);
    *out_size = head + body;
    *out_mem = round_up(*out_size, BATCH_DISK_ALIGN);
    mem = io_mem_alloc(*out_mem);
    if (!mem)
        die("memory", NULL, -ENOMEM);
    memset(mem, 0, *out_mem);
    batch_head_encode(&h, e, c, mem);
    batch_digest(mem, head, b.digest);
    p = mem + head;
    for (unsigned i = 0; i < CHUNKS; i++) {
        memcpy(p, b.kinds[kind[i]].stored, c[i].stored_len);
        p += c[i].stored_len;
    }
    memcpy(p, cut, cut_len);
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
    bool done;
    int res;
};

static void
read_done(struct blkdev_req *rq, int res)
{
    struct read_rq *r = container_of(rq, struct read_rq, rq);

    r->res = res;
    r->done = true;
}

static uint64_t
read_ns(struct blkdev *d, void *buf, uint64_t off, uint64_t len)
{
    struct read_rq r = { .rq = { .op = BLKDEV_READ,
                                 .off = off,
                                 .len = len,
                                 .buf = buf,
                                 .done = read_done } };
    uint64_t start = io_mono_fresh(b.loop);

    blkdev_submit(d, &r.rq);
    while (!r.done)
        io_loop_turn(b.loop, NSEC_PER_SEC);
    if (r.res < 0)
        die("read", NULL, r.res);
    return io_mono_fresh(b.loop) - start;
}

static int
by_value(const void *a, const void *c)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)c;

    return x < y ? -1 : x > y;
}

static void
report(const char *what, uint64_t *ns, size_t n)
{
    qsort(ns, n, sizeof *ns, by_value);
    printf("  %-28s min %8.3f ms   median %8.3f ms   p99 %8.3f ms   max "
           "%8.3f ms\n",
           what, (double)ns[0] / 1e6, (double)ns[n / 2] / 1e6,
           (double)ns[n * 99 / 100] / 1e6, (double)ns[n - 1] / 1e6);
}

static void
measure(void)
{
    static uint64_t opens[VIEWS], firsts[VIEWS], reads[READS];
    size_t points = journal_points_count(b.j);
    void *buf = io_mem_alloc(MIB);

    for (unsigned i = 0; i < VIEWS; i++) {
        struct journal_view_config vc = { .cut_no = 1 + rnd(points) };
        uint64_t start = io_mono_fresh(b.loop);
        struct blkdev *d;

        put_le32(vc.id.u.b, i + 1);
        journal_view_open(b.j, &vc, on_view, NULL);
        turn_until_flag();
        opens[i] = io_mono_fresh(b.loop) - start;
        d = journal_view_dev(b.view, 0);
        firsts[i] = read_ns(d, buf, rnd(VOLUME / 4096) * 4096, 4096);
        if (i == VIEWS - 1)
            for (unsigned k = 0; k < READS; k++)
                reads[k] = read_ns(d, buf, rnd(VOLUME / 4096) * 4096, 4096);
        journal_view_discard(b.view, on_void, NULL);
        turn_until_flag();
    }
    report("view open, random points", opens, VIEWS);
    report("first 4 KiB read", firsts, VIEWS);
    report("random 4 KiB read, QD1", reads, READS);
    io_mem_free(buf, MIB);
}

/* ---- A restart with many lanes -------------------------------------------- */

static struct {
    struct journal_config cfg;
    char dir[256];
    struct journal *j;
} lanes[LANES_MAX];
static unsigned lanes_busy;

static void
on_lane_open(void *arg, struct journal *j, int res, const struct err *err)
{
    struct journal **out = arg;

    if (res < 0)
        die("open", err, res);
    *out = j;
    lanes_busy--;
}

static void
on_lane_closed(void *arg)
{
    lanes_busy--;
}

static void
turn_until_idle(void)
{
    while (lanes_busy > 0)
        if (io_loop_turn(b.loop, 10 * NSEC_PER_MSEC) < 0)
            die("loop", NULL, -EIO);
}

static void
make_lane(unsigned i, const char *dir, uint64_t batches)
{
    if (snprintf(lanes[i].dir, sizeof lanes[i].dir, "%s/%u", dir, i) >=
        (int)sizeof lanes[i].dir)
        die("the directory's name is too long", NULL, -ENAMETOOLONG);
    b.cfg.dir = lanes[i].dir;
    b.cfg.lane = i + 1;
    b.batch = b.durable = b.cuts = 0;
    memset(b.digest, 0, sizeof b.digest);
    b.seq = lane_seq(1, 0);
    lanes[i].cfg = b.cfg;
    open_journal();
    journal_begin_incarnation(b.j, &b.inc, on_res, NULL);
    turn_until_flag();
    fill(batches);
    settle();
    journal_close(b.j, on_void, NULL);
    turn_until_flag();
}

static void
restart(const char *dir, unsigned n, uint64_t gib)
{
    static const struct journal_events ev = { .durable = on_durable,
                                              .credit = on_credit,
                                              .alert = on_alert,
                                              .arg = NULL };
    uint64_t start, points = 0;
    struct err err = ERR_INIT;

    for (unsigned i = 0; i < n; i++)
        make_lane(i, dir, gib * 1024 / n);
    start = io_mono_fresh(b.loop);
    lanes_busy = n;
    for (unsigned i = 0; i < n; i++)
        journal_open(&lanes[i].cfg, &ev, on_lane_open, &lanes[i].j);
    turn_until_idle();
    printf("%u lanes with %llu GiB together:\n  restart                      "
           "%8.3f ms\n",
           n, (unsigned long long)gib,
           (double)(io_mono_fresh(b.loop) - start) / 1e6);
    lanes_busy = n;
    for (unsigned i = 0; i < n; i++) {
        points += journal_points_count(lanes[i].j);
        journal_close(lanes[i].j, on_lane_closed, NULL);
    }
    turn_until_idle();
    if (points != n * (gib * 1024 / n / CUT_EVERY))
        die("checkpoints were lost", NULL, -EIO);
    for (unsigned i = 0; i < n; i++) {
        int rc = journal_destroy(b.loop, lanes[i].dir, false, &err);

        if (rc < 0)
            die("remove", &err, rc);
    }
}

int
main(int argc, char **argv)
{
    unsigned long n_lanes = argc > 3 ? strtoul(argv[3], NULL, 10) : 0;
    uint64_t gib = argc > 1 ? strtoull(argv[1], NULL, 10) : 1, start;
    char tmp[] = "/tmp/hf-bench-XXXXXX";
    const char *dir = argc > 2 ? argv[2] : mkdtemp(tmp);
    struct io_loop_config lc = { .workers = 2 };
    struct journal_stats st;
    struct err err = ERR_INIT;
    int rc = io_loop_new(&lc, &b.loop, &err);

    if (rc < 0 || !dir || n_lanes > LANES_MAX)
        die("loop, directory or lanes", &err, rc < 0 ? rc : -EINVAL);
    memset(b.inc.u.b, 0x11, 16);
    b.cfg = (struct journal_config){
        .loop = b.loop,
        .dir = dir,
        .lane = 1,
        .volumes = { { 0, VOLUME } },
        .n_volumes = 1,
        .history_ns = 86400 * NSEC_PER_SEC,
        .segment_min = 1536 * KIB,
        .segment_max = 1536 * KIB,
    };
    memset(b.cfg.vpg.u.b, 0x22, 16);
    make_kinds();
    if (n_lanes > 0) {
        restart(dir, (unsigned)n_lanes, gib);
        io_loop_free(b.loop);
        free(b.kinds);
        return 0;
    }
    open_journal();
    journal_begin_incarnation(b.j, &b.inc, on_res, NULL);
    turn_until_flag();
    b.seq = lane_seq(1, 0);
    start = io_mono_fresh(b.loop);
    fill(gib * 1024);
    printf("%llu GiB of 4 KiB writes: appended in %.1f s",
           (unsigned long long)gib,
           (double)(io_mono_fresh(b.loop) - start) / 1e9);
    settle();
    journal_stats(b.j, &st);
    printf(", indexed after %.1f s: %llu segments, %llu runs, %zu points\n",
           (double)(io_mono_fresh(b.loop) - start) / 1e9,
           (unsigned long long)st.segments, (unsigned long long)st.runs,
           journal_points_count(b.j));
    journal_close(b.j, on_void, NULL);
    turn_until_flag();
    start = io_mono_fresh(b.loop);
    open_journal();
    printf("  restart                      %8.3f ms\n",
           (double)(io_mono_fresh(b.loop) - start) / 1e6);
    measure();
    journal_close(b.j, on_void, NULL);
    turn_until_flag();
    rc = journal_destroy(b.loop, dir, false, &err);
    if (rc < 0)
        die("remove", &err, rc);
    if (argc <= 2)
        (void)io_rmdir_tree(b.loop, dir, NULL);
    io_loop_free(b.loop);
    free(b.kinds);
    return 0;
}
