/* room: io common */
/* Block devices: every device of io/ against a plain array, on both backends,
 * and the check of requests, faults, locks and odd sizes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "helper_io.h"
#include "io/blkdev.h"
#include "io/file.h"

enum {
    DISK = 4 * 1024 * 1024,
    MEG = 1024 * 1024
};

static struct io_loop *loop;
static char *dir;

struct waiting {
    struct blkdev_req rq;
    unsigned n;
    int res;
};

static unsigned done_n;

static void
done(struct blkdev_req *rq, int res)
{
    struct waiting *w = container_of(rq, struct waiting, rq);

    w->n++;
    w->res = res;
    done_n++;
}

static void
start(struct blkdev *d, struct waiting *w)
{
    w->rq.done = done;
    w->n = 0;
    assert_int_equal(blkdev_check(d, &w->rq), 0);
    blkdev_submit(d, &w->rq);
}

static int
run(struct blkdev *d, struct waiting *w)
{
    start(d, w);
    assert_true(helper_turn_count(loop, &w->n, 1, 10000));
    assert_int_equal(w->n, 1);
    return w->res;
}

static int
simple(struct blkdev *d, enum blkdev_op op, unsigned flags, uint64_t off,
       uint64_t len, void *buf)
{
    struct waiting w = {
        .rq = { .op = op, .flags = flags, .off = off, .len = len, .buf = buf }
    };

    return run(d, &w);
}

static char *
image(const char *under, const char *name, uint64_t size)
{
    char *p = NULL;
    int fd;

    assert_true(asprintf(&p, "%s/%s", under, name) > 0);
    fd = open(p, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, (off_t)size), 0);
    close(fd);
    return p;
}

static struct blkdev *
open_file(const char *path, enum filedev_cache cache, bool read_only)
{
    struct filedev_config cfg = { .path = path,
                                  .cache = cache,
                                  .read_only = read_only };
    struct blkdev *d = NULL;
    struct err e = ERR_INIT;

    if (filedev_open(loop, &cfg, &d, &e) < 0)
        fail_msg("%s", e.msg);
    return d;
}

static void
fill(uint8_t *p, size_t n, unsigned seed)
{
    for (size_t i = 0; i < n; i++)
        p[i] = (uint8_t)(i * 7 + seed * 31 + (i >> 8));
}

/* --- against a model ----------------------------------------------------------- */

struct step_mix {
    unsigned unit;  /* offsets and lengths are multiples of it */
    bool any_align; /* buffers need not be page-aligned */
};

static void
random_steps(struct blkdev *d, const struct step_mix *mix, unsigned steps)
{
    uint8_t *model = calloc(1, DISK), *buf = io_mem_alloc(MEG + 8192);

    assert_non_null(buf);
    for (unsigned s = 0; s < steps; s++) {
        unsigned units = DISK / mix->unit;
        uint64_t off = (uint64_t)((unsigned)rand() % units) * mix->unit;
        uint64_t max = MIN((uint64_t)DISK - off, (uint64_t)MEG) / mix->unit;
        uint64_t cap = rand() % 4 ? MIN(max, (uint64_t)40) : max;
        uint64_t len = ((unsigned)rand() % cap + 1) * mix->unit;
        uint8_t *p = buf + (mix->any_align ? (unsigned)rand() % 4096 : 0);
        unsigned fua = rand() % 8 == 0 ? BLKDEV_FUA : 0;

        switch (rand() % 6) {
        case 0:
        case 1:
            fill(p, len, s);
            assert_int_equal(simple(d, BLKDEV_WRITE, fua, off, len, p), 0);
            memcpy(model + off, p, len);
            break;
        case 2:
            assert_int_equal(simple(d, BLKDEV_ZERO,
                                    fua | (rand() % 2 ? BLKDEV_NO_HOLE : 0u),
                                    off, len, NULL),
                             0);
            memset(model + off, 0, len);
            break;
        case 3:
            assert_int_equal(simple(d, BLKDEV_TRIM, fua, off, len, NULL), 0);
            if (d->info.features & BLKDEV_CAN_TRIM)
                memset(model + off, 0, len);
            break;
        case 4:
            assert_int_equal(simple(d, BLKDEV_FLUSH, 0, 0, 0, NULL), 0);
            assert_int_equal(simple(d, BLKDEV_CACHE, 0, off, len, NULL), 0);
            break;
        default:
            assert_int_equal(simple(d, BLKDEV_READ, 0, off, len, p), 0);
            assert_memory_equal(p, model + off, len);
        }
    }
    for (uint64_t off = 0; off < DISK; off += MEG) {
        assert_int_equal(simple(d, BLKDEV_READ, 0, off, MEG, buf), 0);
        assert_memory_equal(buf, model + off, MEG);
    }
    free(model);
    io_mem_free(buf, MEG + 8192);
}

static void
test_mem_model(void **state)
{
    static const struct step_mix mix = { .unit = 1, .any_align = true };
    struct blkdev *d = NULL;

    assert_int_equal(memdev_new(loop, 100, &d), -EINVAL);
    assert_int_equal(memdev_new(loop, DISK, &d), 0);
    random_steps(d, &mix, 400);
    blkdev_close(d);
    blkdev_close(NULL);
}

static void
test_file_model(void **state)
{
    static const struct step_mix mixes[] = {
        { .unit = 512, .any_align = true },
        { .unit = 4096, .any_align = false },
    };
    static const char *const places[] = { "/dev/shm", NULL };

    for (unsigned i = 0; i < 8; i++) {
        char *tmp = helper_tmpdir(places[i & 1]);
        char *path = image(tmp, "disk", DISK);
        struct blkdev *d =
            open_file(path, i & 2 ? FILEDEV_NONE : FILEDEV_WRITEBACK, false);

        random_steps(d, &mixes[i >> 2], 150);
        blkdev_close(d);
        free(path);
        helper_rmdir(tmp);
    }
}

/* A real block device of DISK bytes whose content may be lost, where one is
 * given: HOLDFAST_TEST_DEVICE=/dev/loop0. */
static void
test_device_model(void **state)
{
    static const struct step_mix mix = { .unit = 512, .any_align = true };
    const char *path = getenv("HOLDFAST_TEST_DEVICE");

    for (unsigned i = 0; path && i < 2; i++) {
        struct blkdev *d =
            open_file(path, i ? FILEDEV_NONE : FILEDEV_WRITEBACK, false);
        struct io_file_info info;
        struct filedev_config cfg = { .path = path };
        struct blkdev *again = NULL;

        assert_int_equal(d->info.size, DISK);
        assert_int_equal(io_file_info(filedev_file(d), &info, NULL), 0);
        assert_true(info.is_block_device && info.size == DISK);
        assert_int_equal(filedev_open(loop, &cfg, &again, NULL), -EBUSY);
        blkdev_close(d);
        /* zeros first: the model begins so */
        d = open_file(path, i ? FILEDEV_NONE : FILEDEV_WRITEBACK, false);
        assert_int_equal(simple(d, BLKDEV_ZERO, 0, 0, DISK, NULL), 0);
        random_steps(d, &mix, 200);
        blkdev_close(d);
    }
}

/* As on a disk of 4 KiB sectors: sub-sector requests at the same time share
 * sectors, and none is lost. */
static void
sub_sector_in(const char *where)
{
    enum {
        N = 64
    };
    char *path = image(where, "sub", DISK);
    struct blkdev *d = open_file(path, FILEDEV_NONE, false);
    struct waiting w[N];
    uint8_t *bufs = malloc(N * 512), *all = io_mem_alloc(N * 512);

    done_n = 0;
    fill(bufs, N * 512, 77);
    for (unsigned i = 0; i < N; i++) {
        unsigned at = i * 37 % N; /* scattered */

        w[i] = (struct waiting){ .rq = { .op = BLKDEV_WRITE,
                                         .off = at * 512,
                                         .len = 512,
                                         .buf = bufs + at * 512 } };
        start(d, &w[i]);
    }
    assert_true(helper_turn_count(loop, &done_n, N, 10000));
    for (unsigned i = 0; i < N; i++)
        assert_int_equal(w[i].res, 0);
    assert_int_equal(simple(d, BLKDEV_READ, 0, 0, N * 512, all), 0);
    assert_memory_equal(all, bufs, N * 512);
    blkdev_close(d);
    free(bufs);
    io_mem_free(all, N * 512);
    free(path);
}

/* tmpfs tells no alignment, so 4096 is taken there: 8 requests a block. */
static void
test_direct_sub_sector(void **state)
{
    char *shm = helper_tmpdir("/dev/shm");

    sub_sector_in(dir);
    sub_sector_in(shm);
    helper_rmdir(shm);
}

/* More requests than the device has descriptions for: they wait, and those of
 * a departed origin that have not begun are cancelled. */
static void
test_many_and_cancel(void **state)
{
    enum {
        N = 6000
    };
    char *path = image(dir, "many", DISK);
    struct blkdev *d = open_file(path, FILEDEV_NONE, false);
    struct waiting *w = calloc(N, sizeof *w);
    uint8_t *buf = io_mem_alloc((size_t)N * 4096);
    int me, you;
    unsigned cancelled = 0;

    done_n = 0;
    for (unsigned i = 0; i < N; i++) {
        w[i].rq = (struct blkdev_req){ .op = BLKDEV_READ,
                                       .off = (uint64_t)(i % 1024) * 4096,
                                       .len = 4096,
                                       .buf = buf + (size_t)i * 4096,
                                       .origin = i % 2 ? &me : &you };
        start(d, &w[i]);
    }
    blkdev_cancel(d, &me);
    assert_true(done_n > 0 && done_n < N / 2);
    assert_true(helper_turn_count(loop, &done_n, N, 20000));
    for (unsigned i = 0; i < N; i++) {
        assert_int_equal(w[i].n, 1);
        if (w[i].res == -ECANCELED) {
            assert_ptr_equal(w[i].rq.origin, &me);
            cancelled++;
        } else {
            assert_int_equal(w[i].res, 0);
        }
    }
    assert_true(cancelled > 0 && cancelled < N / 2);
    blkdev_close(d);
    free(w);
    io_mem_free(buf, (size_t)N * 4096);
    free(path);
}

static void
test_extents(void **state)
{
    char *path = image(dir, "ext", DISK);
    struct blkdev *devs[2] = { open_file(path, FILEDEV_WRITEBACK, false), NULL };
    uint8_t *buf = io_mem_alloc(MEG);

    assert_int_equal(memdev_new(loop, DISK, &devs[1]), 0);
    fill(buf, MEG, 1);
    for (unsigned i = 0; i < 2; i++) {
        struct blkdev_extent ext[4];
        struct waiting w = { .rq = { .op = BLKDEV_EXTENTS,
                                     .off = 512 * 1024,
                                     .len = 2 * MEG,
                                     .ext = ext,
                                     .ext_max = 4 } };

        assert_true(devs[i]->info.features & BLKDEV_CAN_EXTENTS);
        assert_int_equal(simple(devs[i], BLKDEV_WRITE, 0, MEG, MEG, buf), 0);
        assert_int_equal(run(devs[i], &w), 0);
        assert_int_equal(w.rq.ext_n, 3);
        assert_true(ext[0].hole && ext[0].zero && ext[0].len == MEG / 2);
        assert_true(!ext[1].hole && !ext[1].zero && ext[1].len == MEG);
        assert_true(ext[2].hole && ext[2].len == MEG / 2);
        w.rq.flags = BLKDEV_EXT_ONE;
        assert_int_equal(run(devs[i], &w), 0);
        assert_int_equal(w.rq.ext_n, 1);
        w.rq.flags = 0;
        w.rq.ext_max = 2;
        assert_int_equal(run(devs[i], &w), 0);
        assert_int_equal(w.rq.ext_n, 2);
        blkdev_close(devs[i]);
    }
    io_mem_free(buf, MEG);
    free(path);
}

static void
test_zero_fast(void **state)
{
    char *path = image(dir, "fast", DISK);
    struct blkdev *d = open_file(path, FILEDEV_WRITEBACK, false);
    uint8_t *buf = io_mem_alloc(MEG);
    int rc;

    memset(buf, 5, MEG);
    assert_int_equal(simple(d, BLKDEV_WRITE, 0, 0, MEG, buf), 0);
    rc = simple(d, BLKDEV_ZERO, BLKDEV_FAST_ZERO, 0, MEG, NULL);
    assert_int_equal(rc, d->info.features & BLKDEV_CAN_TRIM ? 0 : -EOPNOTSUPP);
    assert_int_equal(simple(d, BLKDEV_ZERO, BLKDEV_FAST_ZERO | BLKDEV_NO_HOLE,
                            0, MEG, NULL),
                     -EOPNOTSUPP);
    blkdev_close(d);
    io_mem_free(buf, MEG);
    free(path);
}

/* A file cut under us is an error, not short data. */
static void
test_cut_file(void **state)
{
    for (unsigned i = 0; i < 2; i++) {
        char *path = image(dir, "cut", DISK);
        struct blkdev *d =
            open_file(path, i ? FILEDEV_NONE : FILEDEV_WRITEBACK, false);
        uint8_t *buf = io_mem_alloc(MEG);

        assert_int_equal(truncate(path, MEG / 2), 0);
        assert_int_equal(simple(d, BLKDEV_READ, 0, 0, MEG, buf), -EIO);
        assert_int_equal(simple(d, BLKDEV_READ, 0, MEG, MEG, buf), -EIO);
        blkdev_close(d);
        io_mem_free(buf, MEG);
        free(path);
    }
}

/* --- checks ------------------------------------------------------------------- */

static void
test_check(void **state)
{
    static const struct {
        enum blkdev_op op;
        uint64_t off, len;
        int rw, ro;
    } t[] = {
        { BLKDEV_READ, 0, 512, 0, 0 },
        { BLKDEV_READ, DISK - 512, 512, 0, 0 },
        { BLKDEV_READ, DISK - 512, 1024, -EINVAL, -EINVAL },
        { BLKDEV_READ, UINT64_MAX - 511, 1024, -EINVAL, -EINVAL },
        { BLKDEV_READ, 0, 0, -EINVAL, -EINVAL },
        { BLKDEV_READ, 1, 512, -EINVAL, -EINVAL },
        { BLKDEV_READ, 0, 513, -EINVAL, -EINVAL },
        { BLKDEV_READ, 0, 64 * MIB, -EOVERFLOW, -EOVERFLOW },
        { BLKDEV_WRITE, 0, 64 * MIB, -EOVERFLOW, -EPERM },
        { BLKDEV_WRITE, DISK - 512, 512, 0, -EPERM },
        { BLKDEV_WRITE, DISK, 512, -ENOSPC, -EPERM },
        { BLKDEV_WRITE, DISK - 512, 1024, -ENOSPC, -EPERM },
        { BLKDEV_ZERO, 0, 64 * MIB, -ENOSPC, -EPERM },
        { BLKDEV_ZERO, 0, DISK, 0, -EPERM },
        { BLKDEV_TRIM, 0, DISK, 0, -EPERM },
        { BLKDEV_TRIM, 512, DISK, -EINVAL, -EPERM },
        { BLKDEV_FLUSH, 0, 0, 0, 0 },
        { BLKDEV_FLUSH, 0, 512, -EINVAL, -EINVAL },
        { BLKDEV_CACHE, 0, DISK, 0, 0 },
        { BLKDEV_EXTENTS, 0, DISK, -EINVAL, -EINVAL }, /* no room for any */
    };
    char *path = image(dir, "check", DISK);

    for (unsigned ro = 0; ro < 2; ro++) {
        struct blkdev *d = open_file(path, FILEDEV_WRITEBACK, ro);

        assert_int_equal((d->info.features & BLKDEV_READ_ONLY) != 0, ro);
        assert_int_equal(d->info.size, DISK);
        for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
            struct blkdev_req rq = { .op = t[i].op,
                                     .off = t[i].off,
                                     .len = t[i].len };

            assert_int_equal(blkdev_check(d, &rq), ro ? t[i].ro : t[i].rw);
        }
        blkdev_close(d);
    }
    free(path);
}

static int
open_code(const char *path, enum filedev_cache cache, const char **code)
{
    struct filedev_config cfg = { .path = path, .cache = cache };
    struct blkdev *d = NULL;
    struct err e = ERR_INIT;
    int rc = filedev_open(loop, &cfg, &d, &e);

    *code = err_code_text(e.code);
    if (rc == 0)
        blkdev_close(d);
    return rc;
}

static void
test_open_refusals(void **state)
{
    char *path = image(dir, "odd", 1000), *fifo = NULL;
    const char *code;
    struct blkdev *d;
    int fd;

    assert_int_equal(open_code(path, FILEDEV_WRITEBACK, &code), -EINVAL);
    assert_string_equal(code, "IO-0011");
    assert_int_equal(truncate(path, 0), 0);
    assert_int_equal(open_code(path, FILEDEV_WRITEBACK, &code), -EINVAL);
    assert_int_equal(open_code(dir, FILEDEV_WRITEBACK, &code), -ENOTBLK);
    assert_string_equal(code, "IO-0011");
    assert_int_equal(open_code("/dev/null", FILEDEV_NONE, &code), -ENOTBLK);
    assert_true(asprintf(&fifo, "%s/fifo", dir) > 0);
    assert_int_equal(mkfifo(fifo, 0600), 0);
    assert_int_equal(open_code(fifo, FILEDEV_NONE, &code), -ENOTBLK);
    assert_int_equal(open_code("/nonexistent", FILEDEV_NONE, &code), -ENOENT);
    assert_string_equal(code, "IO-0004");

    /* Locked: by another open of ours, by another process's flock. */
    assert_int_equal(truncate(path, DISK), 0);
    d = open_file(path, FILEDEV_WRITEBACK, false);
    assert_int_equal(open_code(path, FILEDEV_WRITEBACK, &code), -EBUSY);
    assert_string_equal(code, "IO-0012");
    assert_ptr_not_equal(filedev_file(d), NULL);
    assert_string_equal(io_file_path(filedev_file(d)), path);
    blkdev_close(d);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_int_equal(flock(fd, LOCK_SH), 0);
    assert_int_equal(open_code(path, FILEDEV_NONE, &code), -EBUSY);
    d = open_file(path, FILEDEV_WRITEBACK, true); /* readers share */
    blkdev_close(d);
    close(fd);
    assert_int_equal(open_code(path, FILEDEV_NONE, &code), 0);
    /* An end that direct I/O could not reach. */
    assert_int_equal(truncate(path, DISK + 512), 0);
    d = open_file(path, FILEDEV_NONE, false);
    assert_int_equal(d->info.size, DISK + 512);
    assert_int_equal(simple(d, BLKDEV_ZERO, 0, DISK, 512, NULL), 0);
    blkdev_close(d);
    free(path);
    free(fifo);
}

/* --- faults -------------------------------------------------------------------- */

static void
test_faults(void **state)
{
    static const struct faultdev_rule rules[] = {
        { .op = BLKDEV_WRITE, .skip = 1, .times = 2, .error = -EIO },
        { .op = BLKDEV_READ, .off = 8192, .len = 4096, .error = -ENXIO },
        { .op = BLKDEV_FLUSH, .error = 0 },
    };
    static const int writes[] = { 0, -EIO, -EIO, 0, 0 };
    struct blkdev *m = NULL, *d = NULL;
    struct waiting f[3] = { 0 };
    uint8_t buf[512];
    int me;

    assert_int_equal(memdev_new(loop, DISK, &m), 0);
    assert_int_equal(faultdev_new(m, &d), 0);
    assert_int_equal(d->info.size, DISK);
    faultdev_set(d, rules, ARRAY_SIZE(rules));
    for (size_t i = 0; i < ARRAY_SIZE(writes); i++) {
        memset(buf, (int)i + 1, sizeof buf);
        assert_int_equal(simple(d, BLKDEV_WRITE, 0, i * 512, 512, buf),
                         writes[i]);
        assert_int_equal(simple(d, BLKDEV_READ, 0, i * 512, 512, buf), 0);
        assert_int_equal(buf[0], writes[i] ? 0 : i + 1);
    }
    assert_int_equal(simple(d, BLKDEV_READ, 0, 8192 + 3584, 512, buf), -ENXIO);
    assert_int_equal(simple(d, BLKDEV_READ, 0, 8192 + 4096, 512, buf), 0);
    assert_int_equal(simple(d, BLKDEV_READ, 0, 8192 - 512, 512, buf), 0);
    done_n = 0;
    for (unsigned i = 0; i < 3; i++) {
        f[i].rq.op = BLKDEV_FLUSH;
        f[i].rq.origin = i == 1 ? &me : NULL;
        start(d, &f[i]);
    }
    assert_int_equal(faultdev_held(d), 3);
    assert_int_equal(done_n, 0);
    blkdev_cancel(d, &me);
    assert_int_equal(f[1].res, -ECANCELED);
    assert_int_equal(faultdev_held(d), 2);
    faultdev_release(d);
    assert_int_equal(done_n, 3);
    assert_int_equal(faultdev_held(d), 0);
    assert_int_equal(f[0].res, 0);
    faultdev_set(d, NULL, 0);
    assert_int_equal(simple(d, BLKDEV_FLUSH, 0, 0, 0, NULL), 0);
    blkdev_close(d);
}

static const enum io_backend backends[] = { IO_BACKEND_URING, IO_BACKEND_EPOLL };
static size_t backend_i;

static int
setup(void **state)
{
    srand(1);
    loop = helper_loop(backends[backend_i], (unsigned)backend_i);
    dir = helper_tmpdir(NULL);
    return loop && dir ? 0 : -1;
}

static int
teardown(void **state)
{
    io_loop_free(loop);
    helper_rmdir(dir);
    return 0;
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mem_model),
        cmocka_unit_test(test_file_model),
        cmocka_unit_test(test_device_model),
        cmocka_unit_test(test_direct_sub_sector),
        cmocka_unit_test(test_many_and_cancel),
        cmocka_unit_test(test_extents),
        cmocka_unit_test(test_zero_fast),
        cmocka_unit_test(test_cut_file),
        cmocka_unit_test(test_check),
        cmocka_unit_test(test_open_refusals),
        cmocka_unit_test(test_faults),
    };
    int failed = 0;

    for (; backend_i < ARRAY_SIZE(backends); backend_i++)
        failed += cmocka_run_group_tests(tests, setup, teardown);
    return failed;
}
