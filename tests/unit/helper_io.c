#include "helper_io.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "io/file.h"

struct io_loop *
helper_loop(enum io_backend backend, unsigned workers)
{
    struct io_loop_config cfg = { .backend = backend, .workers = workers };
    struct io_loop *loop = NULL;
    struct err e = ERR_INIT;

    if (io_loop_new(&cfg, &loop, &e) < 0) {
        fprintf(stderr, "loop: %s %s\n", err_code_text(e.code), e.msg);
        return NULL;
    }
    return loop;
}

bool
helper_turn_until(struct io_loop *loop, const bool *flag, unsigned ms)
{
    uint64_t end = io_mono_fresh(loop) + HELPER_SLOW * ms * NSEC_PER_MSEC;

    while (!*flag && io_mono_fresh(loop) < end)
        if (io_loop_turn(loop, 20 * NSEC_PER_MSEC) < 0)
            return false;
    return *flag;
}

bool
helper_turn_count(struct io_loop *loop, const unsigned *count, unsigned n,
                  unsigned ms)
{
    uint64_t end = io_mono_fresh(loop) + HELPER_SLOW * ms * NSEC_PER_MSEC;

    while (*count < n && io_mono_fresh(loop) < end)
        if (io_loop_turn(loop, 20 * NSEC_PER_MSEC) < 0)
            return false;
    return *count >= n;
}

char *
helper_tmpdir(const char *under)
{
    const char *base = under ? under : getenv("TMPDIR");
    char *dir = NULL;

    if (asprintf(&dir, "%s/hf-unit-XXXXXX", base ? base : "/tmp") < 0)
        return NULL;
    return mkdtemp(dir) ? dir : NULL;
}

void
helper_rmdir(char *dir)
{
    struct io_loop *loop = helper_loop(IO_BACKEND_EPOLL, 0);

    if (loop)
        (void)io_rmdir_tree(loop, dir, NULL);
    io_loop_free(loop);
    free(dir);
}
