/* room: capture lane io common */
/* What the splitter costs: nanoseconds of one 4 KiB write on a device in
 * memory, bare, through a detached splitter, and through an attached one whose
 * batches are taken and acknowledged at once (stored, LZ4).  One thread, so the
 * figure is all CPU: lock, copy, checksum, entry, batch.
 *
 *     capture_bench [queue depth [writes]]
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "capture/capture.h"

enum {
    BLOCK = 4096,
    SIZE = 64 * 1024 * 1024,
    DEPTH_MAX = 128
};

static uint8_t *buf;
static unsigned done_n;
static uint64_t batches, batch_bytes;

static double
now_ns(void)
{
    struct timespec ts;

    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec * 1e9 + (double)ts.tv_nsec;
}

static void
op_done(struct blkdev_req *rq, int res)
{
    if (res != 0) {
        (void)fprintf(stderr, "capture_bench: write failed: %d\n", res);
        exit(1);
    }
    done_n++;
}

static void
take(struct capture *c, enum chunk_codec codec)
{
    const struct capture_batch *b;
    uint64_t due, last = 0;

    while ((b = capture_next(c, codec, last, &due))) {
        last = b->batch_no;
        batches++;
        batch_bytes += b->size;
    }
    if (last)
        (void)capture_durable(c, last);
}

static double
run(struct io_loop *loop, struct blkdev *d, struct capture *c,
    enum chunk_codec codec, unsigned depth, unsigned writes)
{
    static struct blkdev_req rq[DEPTH_MAX];
    uint64_t at = 1;
    double t = now_ns();

    done_n = 0;
    for (unsigned i = 0; i < writes; i += depth) {
        for (unsigned k = 0; k < depth; k++) {
            at = at * 6364136223846793005u + 1442695040888963407u;
            rq[k] = (struct blkdev_req){
                .op = BLKDEV_WRITE,
                .off = (at >> 33) % (SIZE / BLOCK) * BLOCK,
                .len = BLOCK,
                .buf = buf + (i + k) % 64 * BLOCK,
                .done = op_done,
            };
            blkdev_submit(d, &rq[k]);
        }
        (void)io_loop_turn(loop, 0);
        if (c)
            take(c, codec);
    }
    return (now_ns() - t) / done_n;
}

static void
row(const char *what, double ns, double base)
{
    (void)printf("%-28s %8.0f ns/write", what, ns);
    if (base > 0)
        (void)printf("  +%.0f ns", ns - base);
    (void)printf("\n");
}

int
main(int argc, char **argv)
{
    unsigned depth = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 10) : 32;
    unsigned writes = argc > 2 ? (unsigned)strtoul(argv[2], NULL, 10) : 200000;
    struct io_loop_config lc = { .backend = IO_BACKEND_EPOLL };
    struct capture_config cc = { .lane = 1, .seq_epoch = 1 };
    struct blkdev *mem = NULL, *split = NULL;
    struct ringpool *pool = NULL;
    struct capture *c = NULL;
    struct io_loop *loop = NULL;
    double bare;

    if (depth == 0 || depth > DEPTH_MAX || writes < depth) {
        (void)fprintf(stderr, "usage: capture_bench [1..128 [writes]]\n");
        return 2;
    }
    buf = aligned_alloc(BLOCK, 64 * BLOCK);
    if (!buf || io_loop_new(&lc, &loop, NULL) != 0 ||
        memdev_new(loop, SIZE, &mem) != 0 ||
        splitter_open(mem, &split, NULL) != 0 ||
        ringpool_new(loop, 256 * MIB, &pool, NULL) != 0)
        return 1;
    cc.loop = loop;
    cc.pool = pool;
    if (capture_new(&cc, &c, NULL) != 0)
        return 1;
    /* text-like for LZ4: half of each block repeats */
    for (size_t i = 0; i < 64 * BLOCK; i++)
        buf[i] = (uint8_t)(i % 64 < 32 ? 'a' + i % 7 : i * 2654435761u >> 16);

    (void)run(loop, mem, NULL, CHUNK_STORED, depth, writes); /* touch it all */
    (void)printf("4 KiB random writes, depth %u, %u writes\n", depth, writes);
    bare = run(loop, mem, NULL, CHUNK_STORED, depth, writes);
    row("memory device", bare, 0);
    row("splitter, detached",
        run(loop, split, NULL, CHUNK_STORED, depth, writes), bare);
    if (capture_attach(c, 0, split, NULL, NULL, NULL) != 0)
        return 1;
    row("attached, stored", run(loop, split, c, CHUNK_STORED, depth, writes),
        bare);
    row("attached, lz4", run(loop, split, c, CHUNK_LZ4, depth, writes), bare);
    (void)printf("%llu batches, %.0f KiB each\n", (unsigned long long)batches,
                 batches ? (double)batch_bytes / (double)batches / 1024 : 0);
    capture_free(c);
    blkdev_close(split);
    ringpool_free(pool);
    io_loop_free(loop);
    free(buf);
    return 0;
}
