/* Images that deletions have left in the stores (target_delete.c), so that their
 * space is seen: each is a directory kept-* with a note in it.  A worker counts
 * them when one was added, and twice a minute, because people remove them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/file.h"
#include "replicator/replicator.h"

enum {
    KEPT_LOOK_S = 30,
    KEPT_FILES_MAX = 1 << 16,
    KEPT_PATH_MAX = REP_PATH_MAX + 600,
};

struct kept {
    struct replicator *rep;
    struct io_timer timer;
    struct io_work job;
    bool running, again, stopped;
    uint64_t n[REP_STORES_MAX], bytes[REP_STORES_MAX]; /* the job's */
};

/* What the files below dir take; false: it has no note. */
static bool
count_dir(struct io_loop *loop, const char *dir, uint64_t *bytes)
{
    char path[KEPT_PATH_MAX];
    char **names = NULL;
    size_t n = 0;
    bool noted = false;

    if (io_list_dir(loop, dir, KEPT_FILES_MAX, &names, &n, NULL) < 0)
        return false;
    for (size_t i = 0; i < n; i++)
        noted |= strcmp(names[i], KEPT_NOTE) == 0;
    for (size_t i = 0; noted && i < n; i++) {
        struct io_file_info fi = { .allocated = 0 };
        struct io_file *f = NULL;

        snprintf(path, sizeof path, "%s/%.255s", dir, names[i]);
        if (io_file_open(loop, path, 0, &f, NULL) < 0)
            continue;
        if (io_file_info(f, &fi, NULL) == 0)
            *bytes += fi.allocated;
        io_file_close(f);
    }
    io_list_free(names, n);
    return noted;
}

static void
count_run(struct io_work *w)
{
    struct kept *k = container_of(w, struct kept, job);
    struct io_loop *loop = k->rep->loop;

    for (unsigned s = 0; s < k->rep->n_stores; s++) {
        const char *path = k->rep->stores[s].path;
        char dir[REP_PATH_MAX + 300];
        char **names = NULL;
        size_t n = 0;

        k->n[s] = k->bytes[s] = 0;
        if (io_list_dir(loop, path, KEPT_FILES_MAX, &names, &n, NULL) < 0)
            continue;
        for (size_t i = 0; i < n; i++) {
            snprintf(dir, sizeof dir, "%s/%.255s", path, names[i]);
            if (strncmp(names[i], "kept-", 5) == 0)
                k->n[s] += count_dir(loop, dir, &k->bytes[s]);
        }
        io_list_free(names, n);
    }
}

static void
count_done(struct io_work *w)
{
    struct kept *k = container_of(w, struct kept, job);

    k->running = false;
    for (unsigned s = 0; s < k->rep->n_stores; s++) {
        k->rep->stores[s].kept = k->n[s];
        k->rep->stores[s].kept_bytes = k->bytes[s];
    }
    if (!k->stopped)
        io_timer_set(&k->timer, k->again ? 0 : KEPT_LOOK_S * NSEC_PER_SEC);
    k->again = false;
}

static void
look(struct io_timer *timer)
{
    struct kept *k = container_of(timer, struct kept, timer);

    k->running = true;
    k->job = (struct io_work){ .run = count_run, .done = count_done };
    io_work_submit(k->rep->loop, &k->job);
}

int
kept_start(struct replicator *rep, struct err *err)
{
    struct kept *k = calloc(1, sizeof *k);

    if (!k)
        return err_set(err, -ENOMEM, ERR_GEN_0002, "stores: out of memory");
    k->rep = rep;
    rep->kept = k;
    io_timer_init(&k->timer, rep->loop, look);
    io_timer_set(&k->timer, 0);
    return 0;
}

void
kept_look(struct replicator *rep)
{
    struct kept *k = rep->kept;

    if (k->running)
        k->again = true;
    else if (!k->stopped)
        io_timer_set(&k->timer, 0);
}

/* What runs ends by itself; the process frees it. */
void
kept_stop(struct replicator *rep)
{
    if (!rep->kept)
        return;
    rep->kept->stopped = true;
    io_timer_stop(&rep->kept->timer);
}
