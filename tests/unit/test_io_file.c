/* room: io common */
/* Files through both backends, on tmpfs and (where TMPDIR is one) a disk. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include <fcntl.h>

#include "helper_io.h"
#include "io/file.h"
#include "io/loop_backend.h"

enum {
    MEG = 1024 * 1024
};

struct ctx {
    enum io_backend backend;
    const char *under; /* directory */
    struct io_loop *loop;
    char *dir;
};

struct wait {
    struct io_req rq;
    unsigned n;
    int64_t res;
};

static unsigned all_done;

static void
wait_done(struct io_req *rq, int64_t res)
{
    struct wait *w = container_of(rq, struct wait, rq);

    w->res = res;
    w->n++;
    all_done++;
}

static int64_t
await(struct ctx *c, struct wait *w)
{
    assert_true(helper_turn_count(c->loop, &w->n, 1, 10000));
    assert_int_equal(w->n, 1);
    w->n = 0;
    return w->res;
}

static char *
in_dir(const struct ctx *c, const char *name)
{
    char *p = NULL;

    assert_true(asprintf(&p, "%s/%s", c->dir, name) > 0);
    return p;
}

static struct io_file *
open_new(struct ctx *c, const char *name, unsigned more)
{
    char *path = in_dir(c, name);
    struct io_file *f = NULL;
    struct err e = ERR_INIT;

    if (io_file_open(c->loop, path, IO_OPEN_WRITE | IO_OPEN_CREATE | more, &f,
                     &e) < 0)
        fail_msg("%s", e.msg);
    assert_string_equal(io_file_path(f), path);
    free(path);
    return f;
}

static void
fill(uint8_t *p, size_t n, unsigned seed)
{
    for (size_t i = 0; i < n; i++)
        p[i] = (uint8_t)((i * 31 + seed) ^ (i >> 9));
}

static int64_t
write_at(struct ctx *c, struct io_file *f, const void *p, size_t n,
         uint64_t off, unsigned flags)
{
    struct wait w = { .rq.done = wait_done };

    io_file_pwrite(f, &w.rq, p, n, off, flags);
    return await(c, &w);
}

static int64_t
read_at(struct ctx *c, struct io_file *f, void *p, size_t n, uint64_t off,
        unsigned flags)
{
    struct wait w = { .rq.done = wait_done };

    io_file_pread(f, &w.rq, p, n, off, flags);
    return await(c, &w);
}

/* Every flag, aligned and not, and the end of the file. */
static void
test_read_write(void **state)
{
    static const unsigned flags[] = { 0, IO_RW_INLINE, IO_RW_DSYNC,
                                      IO_RW_INLINE | IO_RW_DSYNC };
    struct ctx *c = *state;
    struct io_file *f = open_new(c, "rw", 0);
    uint8_t *out = malloc(MEG), *in = malloc(MEG);

    for (unsigned i = 0; i < ARRAY_SIZE(flags); i++) {
        unsigned rd = flags[i] & IO_RW_INLINE;

        fill(out, MEG, i);
        assert_int_equal(write_at(c, f, out, MEG, 0, flags[i]), MEG);
        assert_int_equal(write_at(c, f, out, 100, 4000 + i, flags[i]), 100);
        memcpy(out + 4000 + i, out, 100);
        assert_int_equal(read_at(c, f, in, MEG, 0, rd), MEG);
        assert_memory_equal(in, out, MEG);
        assert_int_equal(read_at(c, f, in, 4096, MEG - 10, rd), 10);
        assert_memory_equal(in, out + MEG - 10, 10);
        assert_int_equal(read_at(c, f, in, 4096, 2 * MEG, rd), 0);
        assert_int_equal(read_at(c, f, in, 0, 0, rd), 0);
    }
    assert_int_equal(write_at(c, f, out, 1, UINT64_MAX, 0), -EFBIG);
    assert_int_equal(write_at(c, f, out, 1, INT64_MAX, 0), -EFBIG);
    free(out);
    free(in);
    io_file_close(f);
}

/* A vector longer than one system call takes, with empty pieces, comes whole,
 * and the borrowed vector stays as it was. */
static void
test_vector(void **state)
{
    struct ctx *c = *state;
    struct io_file *f = open_new(c, "vec", 0);
    enum {
        N = 3000
    };
    struct iovec *iov = calloc(N, sizeof *iov), *copy = calloc(N, sizeof *iov);
    uint8_t *data = malloc(N * 100), *in = malloc(N * 100);
    struct wait w = { .rq.done = wait_done };
    size_t total = 0;

    fill(data, N * 100, 7);
    for (size_t i = 0; i < N; i++) {
        size_t n = i % 10 == 3 ? 0 : i % 100 + 1;

        iov[i] = (struct iovec){ .iov_base = data + total, .iov_len = n };
        total += n;
    }
    memcpy(copy, iov, N * sizeof *iov);
    io_file_pwritev(f, &w.rq, iov, N, 5, 0);
    assert_int_equal(await(c, &w), total);
    assert_memory_equal(copy, iov, N * sizeof *iov);
    assert_int_equal(io_file_pread_sync(f, in, total, 5), total);
    assert_memory_equal(in, data, total);
    memset(in, 0, total);
    assert_int_equal(io_file_pwritev_sync(f, iov, N, 777), 0);
    assert_int_equal(io_file_pread_sync(f, in, total, 777), total);
    assert_memory_equal(in, data, total);
    free(iov);
    free(copy);
    free(data);
    free(in);
    io_file_close(f);
}

/* More requests than the loop lets in flight; all complete, all right. */
static void
test_many_in_flight(void **state)
{
    struct ctx *c = *state;
    struct io_loop_config cfg = { .backend = c->backend, .file_depth = 16 };
    struct ctx own = *c;
    struct io_file *f;
    enum {
        N = 600,
        BS = 4096
    };
    struct wait *w = calloc(N, sizeof *w);
    uint8_t *data = malloc(N * BS), *in = malloc(N * BS);

    assert_int_equal(io_loop_new(&cfg, &own.loop, NULL), 0);
    f = open_new(&own, "many", 0);
    fill(data, N * BS, 3);
    all_done = 0;
    for (size_t i = 0; i < N; i++) {
        w[i].rq.done = wait_done;
        io_file_pwrite(f, &w[i].rq, data + i * BS, BS, i * BS, IO_RW_DSYNC);
    }
    assert_int_equal(all_done, 0); /* never before the call returns */
    assert_true(helper_turn_count(own.loop, &all_done, N, 20000));
    for (size_t i = 0; i < N; i++)
        assert_int_equal(w[i].res, BS);
    assert_int_equal(io_file_pread_sync(f, in, N * BS, 0), N * BS);
    assert_memory_equal(in, data, N * BS);
    all_done = 0;
    memset(in, 0, N * BS);
    for (size_t i = 0; i < N; i++)
        io_file_pread(f, &w[i].rq, in + i * BS, BS, i * BS, 0);
    assert_true(helper_turn_count(own.loop, &all_done, N, 20000));
    assert_memory_equal(in, data, N * BS);
    /* Freeing the loop hands back what is still in flight. */
    all_done = 0;
    for (size_t i = 0; i < N; i++)
        io_file_pwrite(f, &w[i].rq, data + i * BS, BS, i * BS, IO_RW_DSYNC);
    io_loop_free(own.loop);
    assert_int_equal(all_done, N);
    io_file_close(f);
    free(w);
    free(data);
    free(in);
}

/* I9: after a failed sync no write and no sync of that file succeeds. */
static void
test_failed_sync_is_final(void **state)
{
    struct ctx *c = *state;
    struct io_file *f = NULL;
    struct wait w = { .rq.done = wait_done };
    char b[8] = "x";

    /* A character device cannot be synced: the simplest sync that fails. */
    assert_int_equal(io_file_open(c->loop, "/dev/zero", IO_OPEN_WRITE, &f, NULL),
                     0);
    assert_int_equal(write_at(c, f, b, 1, 0, 0), 1);
    io_file_fdatasync(f, &w.rq);
    assert_int_equal(await(c, &w), -EINVAL);
    assert_int_equal(write_at(c, f, b, 1, 0, 0), -EIO);
    assert_int_equal(write_at(c, f, b, 1, 0, IO_RW_INLINE), -EIO);
    io_file_fdatasync(f, &w.rq);
    assert_int_equal(await(c, &w), -EIO);
    io_file_zero(f, &w.rq, IO_ZERO_KEEP, 0, 4096);
    assert_int_equal(await(c, &w), -EIO);
    assert_int_equal(io_file_pwrite_sync(f, b, 1, 0), -EIO);
    assert_int_equal(io_file_fdatasync_sync(f), -EIO);
    assert_int_equal(io_file_truncate_sync(f, 0), -EIO);
    assert_int_equal(io_file_preallocate_sync(f, 4096), -EIO);
    assert_int_equal(read_at(c, f, b, 1, 0, 0), 1); /* reading is harmless */
    io_file_close(f);
}

static void
test_sync(void **state)
{
    struct ctx *c = *state;
    struct io_file *f = open_new(c, "sync", 0);
    struct wait w = { .rq.done = wait_done };

    assert_int_equal(write_at(c, f, "abc", 3, 0, 0), 3);
    io_file_fdatasync(f, &w.rq);
    assert_int_equal(await(c, &w), 0);
    assert_int_equal(io_file_fdatasync_sync(f), 0);
    io_file_close(f);
}

static bool
all_zero(const uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (p[i])
            return false;
    return true;
}

static void
test_zero(void **state)
{
    static const enum io_zero_mode modes[] = { IO_ZERO_PUNCH, IO_ZERO_KEEP,
                                               IO_ZERO_PUNCH_FAST };
    struct ctx *c = *state;
    struct io_file *f = open_new(c, "zero", 0);
    uint8_t *data = malloc(2 * MEG), *in = malloc(2 * MEG);
    struct io_file_info info;
    struct wait w = { .rq.done = wait_done };

    fill(data, 2 * MEG, 9);
    for (unsigned i = 0; i < 2 * ARRAY_SIZE(modes); i++) {
        enum io_zero_mode mode = modes[i / 2];

        assert_int_equal(io_file_pwrite_sync(f, data, 2 * MEG, 0), 0);
        if (i % 2) {
            assert_int_equal(io_file_zero_sync(f, mode, 5000, MEG), 0);
        } else {
            io_file_zero(f, &w.rq, mode, 5000, MEG);
            assert_int_equal(await(c, &w), 0);
        }
        assert_int_equal(io_file_pread_sync(f, in, 2 * MEG, 0), 2 * MEG);
        assert_memory_equal(in, data, 5000);
        assert_true(all_zero(in + 5000, MEG));
        assert_memory_equal(in + 5000 + MEG, data + 5000 + MEG, MEG - 5000);
        assert_int_equal(io_file_info(f, &info, NULL), 0);
        assert_int_equal(info.size, 2 * MEG);
        if (mode == IO_ZERO_KEEP)
            assert_true(info.allocated >= 2 * MEG);
        else if (io_file_can_punch(f))
            assert_true(info.allocated < 2 * MEG - 900000);
    }
    io_file_zero(f, &w.rq, IO_ZERO_KEEP, 0, 0);
    assert_int_equal(await(c, &w), 0);
    io_file_zero(f, &w.rq, IO_ZERO_KEEP, UINT64_MAX, 2);
    assert_int_equal(await(c, &w), -EFBIG);
    free(data);
    free(in);
    io_file_close(f);
}

static void
test_sizes_and_extents(void **state)
{
    struct ctx *c = *state;
    struct io_file *f = open_new(c, "ext", 0);
    struct io_file_info info;
    struct io_extent ext[8];
    uint8_t *data = calloc(1, MEG);
    int n;

    memset(data, 1, MEG);
    assert_int_equal(io_file_truncate_sync(f, 8 * MEG), 0);
    assert_int_equal(io_file_pwrite_sync(f, data, MEG, 2 * MEG), 0);
    n = io_file_extents_sync(f, MEG, 6 * MEG, ext, 8);
    assert_int_equal(n, 3);
    assert_true(ext[0].hole && ext[0].off == MEG && ext[0].len == MEG);
    assert_true(!ext[1].hole && ext[1].off == 2 * MEG && ext[1].len == MEG);
    assert_true(ext[2].hole && ext[2].off == 3 * MEG && ext[2].len == 4 * MEG);
    assert_int_equal(io_file_extents_sync(f, MEG, 6 * MEG, ext, 2), 2);
    assert_int_equal(io_file_extents_sync(f, 2 * MEG + 512, 512, ext, 2), 1);
    assert_true(!ext[0].hole && ext[0].len == 512);
    assert_int_equal(io_file_preallocate_sync(f, 8 * MEG), 0);
    assert_int_equal(io_file_info(f, &info, NULL), 0);
    assert_int_equal(info.size, 8 * MEG);
    assert_true(info.allocated >= 8 * MEG);
    assert_true(info.is_regular && !info.is_block_device);
    assert_true(info.mtime_ns > 0 && info.align == 1 && info.block >= 512);
    /* More than there is: as before. */
    assert_int_equal(io_file_preallocate_sync(f, (uint64_t)1 << 60) == 0, 0);
    assert_int_equal(io_file_info(f, &info, NULL), 0);
    assert_int_equal(info.size, 8 * MEG);
    free(data);
    io_file_close(f);
}

static void
test_direct(void **state)
{
    struct ctx *c = *state;
    struct io_file *f = open_new(c, "direct", IO_OPEN_DIRECT);
    struct io_file_info info;
    uint8_t *buf = io_mem_alloc(2 * MEG);

    assert_non_null(buf);
    assert_int_equal(io_file_info(f, &info, NULL), 0);
    if (info.direct)
        assert_true(info.align >= 512 && info.align <= 4096);
    fill(buf, MEG, 4);
    assert_int_equal(write_at(c, f, buf, MEG, 0, IO_RW_INLINE), MEG);
    assert_int_equal(io_file_truncate_sync(f, MEG - 1000), 0);
    /* The end of the file within a block. */
    assert_int_equal(read_at(c, f, buf + MEG, MEG, 0, IO_RW_INLINE), MEG - 1000);
    assert_memory_equal(buf, buf + MEG, MEG - 1000);
    io_mem_free(buf, 2 * MEG);
    io_mem_free(NULL, 0);
    io_file_close(f);
}

/* A clock on which everything takes 10 ms. */
static uint64_t slow_clock;

static uint64_t
slow_mono(const struct io_loop *loop)
{
    return slow_clock += 10 * NSEC_PER_MSEC;
}

/* Where an inline write may wait for the disk, one that took long sends the
 * next ones the long way for a while, and then one is tried again. */
static void
test_slow_inline_write_backs_off(void **state)
{
    struct ctx *c = *state;
    const struct io_backend_ops *real = c->loop->be;
    struct io_backend_ops slow = *real;
    struct io_file *f = open_new(c, "slow", 0);
    unsigned at_once = 0;
    bool first = false, second = false;
    struct io_file_info info;
    uint8_t page[4096] = { 1 };

    assert_int_equal(io_file_info(f, &info, NULL), 0);
    assert_int_equal(write_at(c, f, page, 4096, 0, IO_RW_INLINE), 4096);
    if (info.ram_backed || !(atomic_load(&f->bits) & IO_FILE_NO_NOWAIT_W)) {
        io_file_close(f);
        return; /* never waits, or the kernel tells */
    }
    slow_clock = real->mono(c->loop);
    slow.mono = slow_mono;
    for (unsigned i = 0; i < 12; i++) {
        struct wait w = { .rq.done = wait_done };

        c->loop->be = &slow;
        io_file_pwrite(f, &w.rq, page, 4096, i * 4096, IO_RW_INLINE);
        c->loop->be = real;
        if (i == 0)
            first = w.n == 1;
        if (i == 1)
            second = w.n == 1;
        at_once += w.n;
        assert_int_equal(await(c, &w), 4096);
    }
    assert_true(first);
    assert_false(second);
    assert_in_range(at_once, 2, 4);
    io_file_close(f);
}

static void
test_open_errors(void **state)
{
    struct ctx *c = *state;
    char *path = in_dir(c, "absent");
    struct io_file *f = NULL;
    struct err e = ERR_INIT;

    assert_int_equal(io_file_open(c->loop, path, 0, &f, &e), -ENOENT);
    assert_string_equal(err_code_text(e.code), "IO-0004");
    assert_non_null(strstr(e.msg, path));
    assert_null(f);
    f = open_new(c, "absent", IO_OPEN_EXCLUSIVE);
    io_file_close(f);
    assert_int_equal(io_file_open(c->loop, path,
                                  IO_OPEN_WRITE | IO_OPEN_CREATE |
                                      IO_OPEN_EXCLUSIVE,
                                  &f, NULL),
                     -EEXIST);
    assert_int_equal(io_file_open(c->loop, path, IO_OPEN_READ, &f, NULL), 0);
    assert_true(write_at(c, f, "x", 1, 0, 0) < 0);
    assert_false(io_file_can_punch(f));
    io_file_close(f);
    io_file_close(NULL);
    free(path);
}

static void
test_names(void **state)
{
    struct ctx *c = *state;
    struct err e = ERR_INIT;
    char *deep = in_dir(c, "a/b/c"), *file = in_dir(c, "a/b/c/f"),
         *top = in_dir(c, "a"), *other = in_dir(c, "a/g");
    char **names = NULL;
    uint8_t *data = NULL;
    size_t n = 0;
    uint64_t fr = 0, size = 0;

    assert_int_equal(io_mkdir(c->loop, deep, NULL), 0);
    assert_int_equal(io_mkdir(c->loop, deep, NULL), 0);
    assert_int_equal(io_replace_whole(c->loop, file, "hello", 5, NULL), 0);
    assert_int_equal(io_replace_whole(c->loop, file, "hello2", 6, NULL), 0);
    assert_int_equal(io_read_whole(c->loop, file, 6, &data, &n, NULL), 0);
    assert_int_equal(n, 6);
    assert_memory_equal(data, "hello2", 6);
    free(data);
    assert_int_equal(io_read_whole(c->loop, file, 5, &data, &n, &e), -EFBIG);
    assert_string_equal(err_code_text(e.code), "IO-0005");
    assert_int_equal(io_list_dir(c->loop, deep, 10, &names, &n, NULL), 0);
    assert_int_equal(n, 1); /* no temporary file is left */
    assert_string_equal(names[0], "f");
    io_list_free(names, n);
    assert_int_equal(io_mkdir(c->loop, file, &e), -ENOTDIR);
    assert_string_equal(err_code_text(e.code), "IO-0006");
    assert_int_equal(io_rename(c->loop, file, other, NULL), 0);
    assert_int_equal(io_rename(c->loop, file, other, &e), -ENOENT);
    assert_int_equal(io_sync_dir(c->loop, top, NULL), 0);
    assert_int_equal(io_sync_dir(c->loop, file, &e), -ENOENT);
    assert_int_equal(io_list_dir(c->loop, top, 1, &names, &n, &e), -E2BIG);
    assert_int_equal(io_list_dir(c->loop, top, 2, &names, &n, NULL), 0);
    assert_int_equal(n, 2);
    assert_string_equal(names[0], "b");
    assert_string_equal(names[1], "g");
    io_list_free(names, n);
    assert_int_equal(io_unlink(c->loop, other), 0);
    assert_int_equal(io_unlink(c->loop, other), 0);
    assert_int_equal(symlink("/", other), 0); /* must not be followed */
    assert_int_equal(io_rmdir_tree(c->loop, top, NULL), 0);
    assert_int_equal(io_rmdir_tree(c->loop, top, NULL), 0);
    assert_int_equal(access("/dev/null", F_OK), 0);
    assert_int_equal(io_disk_free(c->loop, c->dir, &fr, &size), 0);
    assert_true(size > 0 && fr <= size);
    free(deep);
    free(file);
    free(top);
    free(other);
}

static void
test_identity(void **state)
{
    struct ctx *c = *state;
    struct io_file *a = open_new(c, "id1", 0), *b = open_new(c, "id2", 0),
                   *a2 = open_new(c, "id1", 0);
    struct io_file_info ia, ib, ia2;

    assert_int_equal(io_file_info(a, &ia, NULL), 0);
    assert_int_equal(io_file_info(b, &ib, NULL), 0);
    assert_int_equal(io_file_info(a2, &ia2, NULL), 0);
    assert_true(ia.identity == ia2.identity);
    assert_true(ia.identity != ib.identity);
    io_file_close(a);
    io_file_close(b);
    io_file_close(a2);
}

/* The time of change proves to the next start that nobody wrote the file. */
static void
test_asking_for_holes_leaves_the_time(void **state)
{
    struct ctx *c = *state;
    struct io_file *f = open_new(c, "time", 0);
    char *path = in_dir(c, "time");
    struct timespec old[2] = { { .tv_sec = 1000000000 },
                               { .tv_sec = 1000000000, .tv_nsec = 5 } };
    struct io_file_info info;

    assert_int_equal(truncate(path, MEG), 0);
    assert_int_equal(utimensat(AT_FDCWD, path, old, 0), 0);
    (void)io_file_can_punch(f);
    assert_int_equal(io_file_info(f, &info, NULL), 0);
    assert_int_equal(info.mtime_ns, UINT64_C(1000000000000000005));
    io_file_close(f);
    free(path);
}

static struct ctx ctxs[] = {
    { .backend = IO_BACKEND_URING, .under = "/dev/shm" },
    { .backend = IO_BACKEND_EPOLL, .under = "/dev/shm" },
    { .backend = IO_BACKEND_URING },
    { .backend = IO_BACKEND_EPOLL },
};
static size_t ctx_i;

static int
setup(void **state)
{
    struct ctx *c = &ctxs[ctx_i];

    c->loop = helper_loop(c->backend, 1);
    if (c->loop)
        c->dir = helper_tmpdir(c->under);
    *state = c;
    return c->loop && c->dir ? 0 : -1;
}

static int
teardown(void **state)
{
    struct ctx *c = *state;

    io_loop_free(c->loop);
    helper_rmdir(c->dir);
    return 0;
}

/* Memory that comes back has the length asked for and is nobody else's; what is
 * asked for cleared is zeroed, and more than a little is never kept. */
static void
test_memory_is_used_again(void **state)
{
    enum {
        LEN = 256 * 1024,
        N = 64
    };
    uint8_t *p[N], *q;

    UNUSED(state);
    for (unsigned i = 0; i < N; i++) {
        p[i] = io_mem_alloc_uncleared(LEN);
        assert_non_null(p[i]);
        memset(p[i], (int)i + 1, LEN);
    }
    for (unsigned i = 0; i < N; i++)
        io_mem_free(p[i], LEN);
    for (unsigned i = 0; i < N; i++) {
        p[i] = io_mem_alloc_uncleared(LEN);
        assert_non_null(p[i]);
        assert_int_equal((uintptr_t)p[i] % 4096, 0);
        for (unsigned k = 0; k < i; k++)
            assert_ptr_not_equal(p[i], p[k]);
        memset(p[i], 0xee, LEN);
    }
    for (unsigned i = 0; i < N; i++)
        io_mem_free(p[i], LEN);
    q = io_mem_alloc_uncleared(2 * LEN); /* none of this length was freed */
    assert_non_null(q);
    assert_int_equal(q[0] | q[2 * LEN - 1], 0);
    io_mem_free(q, 2 * LEN);
    q = io_mem_alloc(LEN);
    assert_non_null(q);
    for (size_t i = 0; i < LEN; i += 512)
        assert_int_equal(q[i], 0);
    io_mem_free(q, LEN);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_read_write),
        cmocka_unit_test(test_vector),
        cmocka_unit_test(test_many_in_flight),
        cmocka_unit_test(test_failed_sync_is_final),
        cmocka_unit_test(test_sync),
        cmocka_unit_test(test_zero),
        cmocka_unit_test(test_sizes_and_extents),
        cmocka_unit_test(test_direct),
        cmocka_unit_test(test_slow_inline_write_backs_off),
        cmocka_unit_test(test_open_errors),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_identity),
        cmocka_unit_test(test_memory_is_used_again),
        cmocka_unit_test(test_asking_for_holes_leaves_the_time),
    };
    int failed = 0;

    for (; ctx_i < ARRAY_SIZE(ctxs); ctx_i++)
        failed += cmocka_run_group_tests(tests, setup, teardown);
    return failed;
}
