/* The reserve: see reserve.h. */
#include "journal/reserve.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"

enum {
    NAME_MAX_LEN = 16 /* "/reserve.NN" and the end */
};

struct reserve {
    struct io_loop *loop;
    pthread_mutex_t lock; /* guards part, and the files while they change */
    uint64_t part[RESERVE_FILES];
    _Atomic uint64_t size; /* of all; changed under the lock, read without */
    char dir[];
};

static int
open_part_locked(struct reserve *r, unsigned i, unsigned flags,
                 struct io_file **out, struct err *err)
{
    char path[4096];

    (void)snprintf(path, sizeof path, "%s/reserve.%u", r->dir, i);
    return io_file_open(r->loop, path, IO_OPEN_WRITE | flags, out, err);
}

/* A file that lost its blocks (copied, restored) is none; one that cannot be
 * read is made anew when it is needed. */
static uint64_t
load_part_locked(struct reserve *r, unsigned i)
{
    struct io_file_info fi = { .size = 0 };
    struct io_file *f = NULL;

    if (open_part_locked(r, i, 0, &f, NULL) < 0)
        return 0;
    if (io_file_info(f, &fi, NULL) < 0)
        fi = (struct io_file_info){ .size = 0 };
    io_file_close(f);
    return MIN(fi.size, fi.allocated);
}

static void
set_part_locked(struct reserve *r, unsigned i, uint64_t size)
{
    r->size = r->size - r->part[i] + size;
    r->part[i] = size;
}

int
reserve_new(struct io_loop *loop, const char *dir, struct reserve **out,
            struct err *err)
{
    size_t len = strlen(dir) + 1;
    struct reserve *r = calloc(1, sizeof *r + len);

    if (!r)
        return err_set(err, -ENOMEM, ERR_GEN_0002, "no memory for a reserve");
    if (len > 4096 - NAME_MAX_LEN) {
        free(r);
        return err_set(err, -ENAMETOOLONG, ERR_JNL_0001, "path too long");
    }
    memcpy(r->dir, dir, len);
    r->loop = loop;
    pthread_mutex_init(&r->lock, NULL);
    pthread_mutex_lock(&r->lock);
    for (unsigned i = 0; i < RESERVE_FILES; i++)
        set_part_locked(r, i, load_part_locked(r, i));
    pthread_mutex_unlock(&r->lock);
    *out = r;
    return 0;
}

void
reserve_free(struct reserve *r)
{
    if (!r)
        return;
    pthread_mutex_destroy(&r->lock);
    free(r);
}

uint64_t
reserve_size(struct reserve *r)
{
    return r->size;
}

/* Freed blocks can be used when the file system has durably forgotten their old
 * use, so the cut is synced. */
static int
cut_locked(struct reserve *r, unsigned i, uint64_t size)
{
    struct io_file *f = NULL;
    int rc = open_part_locked(r, i, 0, &f, NULL);

    if (rc == 0)
        rc = io_file_truncate_sync(f, size);
    if (rc == 0)
        rc = io_file_fdatasync_sync(f);
    if (f)
        io_file_close(f);
    if (rc == 0)
        set_part_locked(r, i, size);
    return rc;
}

/* Down to `size`, the last files first. */
static int
shrink_locked(struct reserve *r, uint64_t size)
{
    int rc = 0;

    for (unsigned i = RESERVE_FILES; i-- > 0 && rc == 0 && r->size > size;)
        if (r->part[i] > 0)
            rc = cut_locked(r, i, r->part[i] - MIN(r->part[i], r->size - size));
    return rc;
}

bool
reserve_give(struct reserve *r, uint64_t bytes, uint64_t keep)
{
    uint64_t want = round_up(MAX(bytes, (uint64_t)1), RESERVE_ALIGN), was;
    bool given;

    pthread_mutex_lock(&r->lock);
    was = r->size;
    if (was > keep)
        (void)shrink_locked(r, was - MIN(was - keep, want));
    given = r->size < was;
    pthread_mutex_unlock(&r->lock);
    return given;
}

static int
grow_locked(struct reserve *r, uint64_t size, struct err *err)
{
    uint64_t to = size - (r->size - r->part[0]);
    struct io_file *f = NULL;
    int rc = open_part_locked(r, 0, IO_OPEN_CREATE, &f, err);

    if (rc < 0)
        return rc;
    rc = io_file_preallocate_sync(f, to);
    if (rc < 0)
        (void)err_set(err, rc, ERR_JNL_0001,
                      "%s: cannot allocate %llu bytes: %s", io_file_path(f),
                      (unsigned long long)to, err_errno(rc));
    else
        set_part_locked(r, 0, to);
    io_file_close(f);
    return rc;
}

int
reserve_set(struct reserve *r, uint64_t size, struct err *err)
{
    int rc;

    pthread_mutex_lock(&r->lock);
    if (size > r->size) {
        rc = grow_locked(r, size, err);
    } else {
        rc = shrink_locked(r, size);
        if (rc < 0)
            (void)err_set(err, rc, ERR_JNL_0001, "%s/reserve: cannot cut: %s",
                          r->dir, err_errno(rc));
    }
    pthread_mutex_unlock(&r->lock);
    return rc;
}

bool
reserve_take(struct reserve *r, const char *path)
{
    char to[4096];
    unsigned i = 0;
    bool taken = false;

    pthread_mutex_lock(&r->lock);
    while (i < RESERVE_FILES && r->part[i] > 0)
        i++;
    (void)snprintf(to, sizeof to, "%s/reserve.%u", r->dir, i);
    if (i < RESERVE_FILES && io_rename(r->loop, path, to, NULL) == 0) {
        set_part_locked(r, i, load_part_locked(r, i));
        taken = true;
    }
    pthread_mutex_unlock(&r->lock);
    return taken;
}
