/* room: journal lane io common */
/* Power loss: every write, sync, rename and unlink of a journal is recorded
 * while it lives through a random history with views, promotion and withdrawn
 * segments.  Then the disk is rebuilt as a power loss at many moments may have
 * left it: what was synced is there, of the rest each write is there, torn, or
 * gone, and names that no directory sync covered may be the old ones.  The
 * journal must open, hold all that it had told to be durable (I9), know the
 * same checkpoints (I12), and show each as it was (I15).
 *
 *     test_journal_power [SEEDS [POINTS]]
 */
#include <fcntl.h>
#include <pthread.h>
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

#include "io/loop_backend.h"
#include "journal/journal_internal.h"
#include "tests/unit/helper_io.h"
#include "tests/unit/helper_lane.h"

enum kind {
    EV_CREATE, /* file */
    EV_WRITE,
    EV_SIZE,
    EV_SYNC,
    EV_RENAME,
    EV_UNLINK,
    EV_DIRSYNC,
    EV_DURABLE /* told: batch n */
};

struct event {
    enum kind kind;
    unsigned file;
    uint64_t off, len;
    uint8_t *data;
    size_t begun;  /* number of events when a sync began */
    size_t ended;  /* and when a write had ended; SIZE_MAX: never */
    char name[64]; /* inside the directory */
    char to[64];
};

enum {
    FILES_MAX = 4096,
    OPEN_MAX = 512
};

static struct {
    pthread_mutex_t lock;
    struct event *ev;
    size_t n, cap;
    unsigned files;
    char name[FILES_MAX][64]; /* of a file now; "" when unlinked */
    struct {
        struct io_file *f;
        unsigned file;
    } open[OPEN_MAX];
    bool on;
    unsigned seeds, points;
} rec = { .lock = PTHREAD_MUTEX_INITIALIZER, .seeds = 6, .points = 14 };

static const struct io_file_ops rec_ops;

static struct event *
add_locked(enum kind kind, unsigned file)
{
    if (rec.n == rec.cap) {
        rec.cap = rec.cap ? 2 * rec.cap : 1024;
        rec.ev = realloc(rec.ev, rec.cap * sizeof *rec.ev);
        if (!rec.ev)
            abort();
    }
    rec.ev[rec.n] =
        (struct event){ .kind = kind, .file = file, .ended = SIZE_MAX };
    return &rec.ev[rec.n++];
}

static const char *
base(const char *path)
{
    const char *s = strrchr(path, '/');

    return s ? s + 1 : path;
}

static unsigned
file_named(const char *name)
{
    for (unsigned i = rec.files; i-- > 0;)
        if (strcmp(rec.name[i], name) == 0)
            return i;
    return FILES_MAX;
}

static unsigned
file_of(const struct io_file *f)
{
    for (unsigned i = 0; i < OPEN_MAX; i++)
        if (rec.open[i].f == f)
            return rec.open[i].file;
    abort();
}

static int
rec_open(struct io_loop *loop, const char *path, unsigned flags,
         struct io_file **out, struct err *err)
{
    int rc = io_fs_real.open(loop, path, flags, out, err);
    unsigned file, i;

    if (rc < 0 || !rec.on)
        return rc;
    pthread_mutex_lock(&rec.lock);
    file = file_named(base(path));
    if (file == FILES_MAX) {
        file = rec.files++;
        if (file >= FILES_MAX)
            abort();
        (void)snprintf(rec.name[file], sizeof rec.name[file], "%s", base(path));
        memcpy(add_locked(EV_CREATE, file)->name, rec.name[file], 64);
    }
    if (flags & IO_OPEN_TRUNCATE)
        add_locked(EV_SIZE, file)->len = 0;
    for (i = 0; i < OPEN_MAX && rec.open[i].f; i++)
        ;
    if (i == OPEN_MAX)
        abort();
    rec.open[i].f = *out;
    rec.open[i].file = file;
    (*out)->ops = &rec_ops;
    pthread_mutex_unlock(&rec.lock);
    return 0;
}

static int64_t
rec_step(struct io_file *f, const struct io_step *st)
{
    size_t at = 0, begun;
    unsigned file;
    int64_t rc;

    switch (st->kind) {
    case IO_STEP_FALLOC: return -EOPNOTSUPP; /* zeros are written */
    case IO_STEP_READ:
        rc = preadv(f->fd, st->iov, (int)st->iov_n, (off_t)st->off);
        return rc < 0 ? -errno : rc;
    case IO_STEP_WRITE:
        pthread_mutex_lock(&rec.lock);
        {
            struct event *e = add_locked(EV_WRITE, file_of(f));

            at = rec.n - 1;
            e->off = st->off;
            for (unsigned i = 0; i < st->iov_n; i++)
                e->len += st->iov[i].iov_len;
            e->data = malloc(e->len);
            for (size_t i = 0, to = 0; i < st->iov_n; i++) {
                memcpy(e->data + to, st->iov[i].iov_base, st->iov[i].iov_len);
                to += st->iov[i].iov_len;
            }
        }
        pthread_mutex_unlock(&rec.lock);
        rc = pwritev(f->fd, st->iov, (int)st->iov_n, (off_t)st->off);
        if (rc < 0)
            return -errno;
        pthread_mutex_lock(&rec.lock);
        rec.ev[at].ended = rec.n;
        pthread_mutex_unlock(&rec.lock);
        return rc;
    case IO_STEP_SYNC:
        pthread_mutex_lock(&rec.lock);
        begun = rec.n;
        file = file_of(f);
        pthread_mutex_unlock(&rec.lock);
        /* The disk below keeps still; what matters is the order of events. */
        pthread_mutex_lock(&rec.lock);
        add_locked(EV_SYNC, file)->begun = begun;
        pthread_mutex_unlock(&rec.lock);
        return 0;
    }
    return -EINVAL;
}

static int
rec_info(struct io_file *f, struct io_file_info *out, struct err *err)
{
    struct stat sb;

    if (fstat(f->fd, &sb) < 0)
        return err_set(err, -errno, ERR_IO_0004, "stat");
    *out = (struct io_file_info){ .size = (uint64_t)sb.st_size,
                                  .allocated = (uint64_t)sb.st_blocks * 512,
                                  .align = f->align,
                                  .block = f->block,
                                  .is_regular = true,
                                  .direct = f->direct };
    return 0;
}

static int
rec_truncate(struct io_file *f, uint64_t size)
{
    pthread_mutex_lock(&rec.lock);
    add_locked(EV_SIZE, file_of(f))->len = size;
    pthread_mutex_unlock(&rec.lock);
    return ftruncate(f->fd, (off_t)size) < 0 ? -errno : 0;
}

static int
rec_extents(struct io_file *f, uint64_t off, uint64_t len,
            struct io_extent *out, size_t max)
{
    (void)f;
    if (max == 0)
        return 0;
    *out = (struct io_extent){ .off = off, .len = len };
    return 1;
}

static bool
rec_can_punch(struct io_file *f)
{
    (void)f;
    return false;
}

static void
rec_close(struct io_file *f)
{
    pthread_mutex_lock(&rec.lock);
    for (unsigned i = 0; i < OPEN_MAX; i++)
        if (rec.open[i].f == f)
            rec.open[i].f = NULL;
    pthread_mutex_unlock(&rec.lock);
    f->ops = NULL;
    io_file_close(f);
}

static const struct io_file_ops rec_ops = {
    .step = rec_step,
    .info = rec_info,
    .truncate = rec_truncate,
    .preallocate = rec_truncate,
    .extents = rec_extents,
    .can_punch = rec_can_punch,
    .close = rec_close,
};

static int
rec_rename(const char *from, const char *to, struct err *err)
{
    int rc;

    pthread_mutex_lock(&rec.lock);
    rc = io_fs_real.rename(from, to, err);
    if (rc == 0 && rec.on) {
        unsigned gone = file_named(base(to)), file = file_named(base(from));
        struct event *e = add_locked(EV_RENAME, file);

        (void)snprintf(e->name, sizeof e->name, "%s", base(from));
        (void)snprintf(e->to, sizeof e->to, "%s", base(to));
        if (gone < FILES_MAX)
            rec.name[gone][0] = '\0';
        if (file < FILES_MAX)
            memcpy(rec.name[file], e->to, 64);
    }
    pthread_mutex_unlock(&rec.lock);
    return rc;
}

static int
rec_unlink(const char *path)
{
    int rc;

    pthread_mutex_lock(&rec.lock);
    rc = io_fs_real.unlink(path);
    if (rc == 0 && rec.on && file_named(base(path)) < FILES_MAX) {
        unsigned file = file_named(base(path));

        (void)snprintf(add_locked(EV_UNLINK, file)->name, 64, "%s", base(path));
        rec.name[file][0] = '\0';
    }
    pthread_mutex_unlock(&rec.lock);
    return rc;
}

static int
rec_sync_dir(const char *path, struct err *err)
{
    (void)path;
    (void)err;
    pthread_mutex_lock(&rec.lock);
    if (rec.on)
        add_locked(EV_DIRSYNC, 0);
    pthread_mutex_unlock(&rec.lock);
    return 0;
}

static struct io_fs_ops rec_fs;

/* --- the disk after a power loss --------------------------------------------- */

static struct {
    uint8_t *data;
    uint64_t size;
} disk[FILES_MAX];

static uint64_t rng;

static uint64_t
below(uint64_t n)
{
    uint64_t z = (rng += 0x9E3779B97F4A7C15);

    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9;
    z = (z ^ z >> 27) * 0x94D049BB133111EB;
    return (z ^ z >> 31) % n;
}

static void
disk_size(unsigned file, uint64_t size)
{
    disk[file].data = realloc(disk[file].data, size + 1);
    assert_non_null(disk[file].data);
    if (size > disk[file].size)
        memset(disk[file].data + disk[file].size, 0, size - disk[file].size);
    disk[file].size = size;
}

/* Was the write on stable storage at the moment k? */
static bool
synced(size_t at, size_t k)
{
    const struct event *w = &rec.ev[at];

    for (size_t i = at + 1; i < k; i++)
        if (rec.ev[i].kind == EV_SYNC && rec.ev[i].file == w->file &&
            w->ended <= rec.ev[i].begun)
            return true;
    return false;
}

static void
apply(size_t at, size_t k, unsigned mode)
{
    const struct event *e = &rec.ev[at];
    uint64_t len = e->len;
    unsigned fate = mode < 2 ? mode : (unsigned)below(3);

    if (!synced(at, k)) {
        if (fate == 0)
            return; /* gone */
        if (fate == 2)
            len = below(len / 512 + 1) * 512; /* torn */
        if (len > e->len)
            len = e->len;
    }
    if (len == 0)
        return;
    if (e->off + len > disk[e->file].size)
        disk_size(e->file, e->off + len);
    memcpy(disk[e->file].data + e->off, e->data, len);
}

/* Which names there are: all changes up to the last directory sync, and some
 * of those after it, in order. */
static void
rebuild(const char *dir, size_t k, unsigned mode, uint64_t *out_durable)
{
    static char name[FILES_MAX][64];
    size_t last_sync = 0, names_end;
    struct err err = ERR_INIT;

    *out_durable = 0;
    memset(name, 0, sizeof name);
    for (size_t i = 0; i < k; i++)
        if (rec.ev[i].kind == EV_DIRSYNC)
            last_sync = i;
    names_end = mode == 0   ? last_sync
                : mode == 1 ? k
                            : last_sync + below(k - last_sync + 1);
    for (size_t i = 0; i < k; i++) {
        const struct event *e = &rec.ev[i];

        switch (e->kind) {
        case EV_WRITE: apply(i, k, mode); break;
        case EV_SIZE: disk_size(e->file, e->len); break;
        case EV_DURABLE: *out_durable = e->off; break;
        case EV_CREATE:
            if (i < names_end)
                memcpy(name[e->file], e->name, 64);
            break;
        case EV_RENAME:
            for (unsigned f = 0; i < names_end && f < rec.files; f++)
                if (f != e->file && strcmp(name[f], e->to) == 0)
                    name[f][0] = '\0';
            if (i < names_end)
                memcpy(name[e->file], e->to, 64);
            break;
        case EV_UNLINK:
            if (i < names_end)
                name[e->file][0] = '\0';
            break;
        case EV_SYNC:
        case EV_DIRSYNC: break;
        }
    }
    for (unsigned f = 0; f < rec.files; f++) {
        char path[512];
        int fd;

        if (name[f][0]) {
            (void)snprintf(path, sizeof path, "%s/%.63s", dir, name[f]);
            fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
            assert_true(fd >= 0);
            assert_int_equal(pwrite(fd, disk[f].data, disk[f].size, 0),
                             disk[f].size);
            assert_int_equal(close(fd), 0);
        }
        free(disk[f].data);
        disk[f].data = NULL;
        disk[f].size = 0;
    }
    (void)err;
}

/* --- the history -------------------------------------------------------------- */

static void
told(uint64_t no)
{
    pthread_mutex_lock(&rec.lock);
    add_locked(EV_DURABLE, 0)->off = no;
    pthread_mutex_unlock(&rec.lock);
}

static void
live(unsigned rounds)
{
    uint64_t durable = 0;
    struct journal_view *kept = NULL;

    rec.on = true;
    t.loop->fs = &rec_fs;
    assert_int_equal(jopen(), 0);
    begin();
    for (unsigned r = 0; r < rounds; r++) {
        unsigned n = 1 + (unsigned)gen_below(&t.g, 5);

        for (unsigned i = 0; i < n; i++)
            send_batch(gen_make(&t.g, (unsigned)gen_below(&t.g, 10),
                                gen_below(&t.g, 3) == 0 ? GEN_CUT : 0, NULL));
        for (unsigned turns = 0; t.durable < t.g.batch_no; turns++) {
            assert_true(turns < 3000);
            (void)io_loop_turn(t.loop, NSEC_PER_MSEC);
            if (t.durable != durable)
                told(durable = t.durable);
        }
        if (r % 20 == 19 && journal_points_count(t.j) > 0) {
            struct journal_point p;

            if (kept)
                discard_view(kept);
            assert_int_equal(journal_point_oldest(t.j, &p), 0);
            open_view(p.cut_no, (uint8_t)(1 + r / 20));
            assert_int_equal(t.res, 0);
            kept = t.view;
        }
    }
    jclose();
    rec.on = false;
    t.loop->fs = &io_fs_real;
}

static void
ignore_bad(void *arg, int res, const struct journal_scrub_result *r)
{
    (void)arg;
    t.res = res < 0 ? res : (int)r->bad;
    if (r->bad)
        print_message("scrub: %s\n", r->first_bad);
    t.flag = true;
}

/* Open what is left and hold it against what was told. */
static void
check_state(uint64_t durable)
{
    struct journal_tail tail;
    struct journal_view *v[8];
    struct journal_point p;
    size_t n;

    if (jopen() < 0) {
        print_message("open: %s\n", t.open_err.msg);
        fail();
    }
    journal_tail(t.j, &tail);
    if (durable > 0)
        assert_true(tail.any && tail.durable_batch >= durable);
    if (!tail.any) {
        jclose();
        return;
    }
    check_points();
    n = journal_views(t.j, v, 8);
    for (size_t i = 0; i < n; i++) {
        assert_false(journal_view_broken(v[i], NULL));
        compare_view(v[i], gen_find(&t.g, journal_view_config(v[i])->cut_no));
    }
    if (journal_point_oldest(t.j, &p) == 0)
        check_cut(p.cut_no);
    if (journal_point_newest(t.j, &p) == 0)
        check_cut(p.cut_no);
    n = journal_points_count(t.j);
    if (n > 2) {
        struct journal_point some;

        assert_int_equal(journal_points(t.j, 0, UINT64_MAX, below(n), &some, 1),
                         1);
        check_cut(some.cut_no);
    }
    journal_scrub(t.j, ignore_bad, NULL);
    wait_flag();
    assert_int_equal(t.res, 0);
    jclose();
}

static void
forget(void)
{
    for (size_t i = 0; i < rec.n; i++)
        free(rec.ev[i].data);
    free(rec.ev);
    rec.ev = NULL;
    rec.n = rec.cap = 0;
    rec.files = 0;
}

static void
power_losses(void **state)
{
    (void)state;
    for (unsigned seed = 1; seed <= rec.seeds; seed++) {
        char *lived;

        setup_dir(1000 + seed, NULL);
        t.cfg.hard_limit_bytes = 3 * MIB / 2;
        t.cfg.manifest_rewrite = 24 * KIB;
        rng = seed;
        live(90);
        lived = t.dir;
        for (unsigned i = 0; i < rec.points; i++) {
            size_t k = 1 + below(rec.n);
            unsigned mode = (unsigned)below(5);
            uint64_t durable;

            /* Mostly right behind a sync: that is where it is told. */
            while (i % 3 && k < rec.n && rec.ev[k - 1].kind != EV_SYNC &&
                   rec.ev[k - 1].kind != EV_DURABLE)
                k++;
            t.dir = helper_tmpdir(NULL);
            t.cfg.dir = t.dir;
            rebuild(t.dir, k, mode, &durable);
            if (getenv("SHOW"))
                print_message("seed %u point %zu of %zu mode %u durable %llu "
                              "in %s\n",
                              seed, k, rec.n, mode, (unsigned long long)durable,
                              t.dir);
            check_state(durable);
            helper_rmdir(t.dir);
        }
        t.dir = lived;
        forget();
        teardown_dir();
    }
}

/* The test of the test: a journal that tells before it has synced must be
 * found out. */
static void
early_ack_is_found(void **state)
{
    unsigned found = 0;
    char *lived;

    (void)state;
    setup_dir(2000, NULL);
    t.cfg.planted = JOURNAL_PLANT_ACK_BEFORE_SYNC;
    rng = 7;
    live(10);
    t.cfg.planted = 0;
    lived = t.dir;
    for (unsigned i = 0; i < 20; i++) {
        struct journal_tail tail;
        size_t k = 1 + below(rec.n);
        uint64_t durable;

        while (k < rec.n && rec.ev[k - 1].kind != EV_DURABLE)
            k++;
        t.dir = helper_tmpdir(NULL);
        t.cfg.dir = t.dir;
        rebuild(t.dir, k, 0, &durable);
        if (jopen() < 0) {
            found++;
        } else {
            journal_tail(t.j, &tail);
            found += tail.durable_batch < durable;
            jclose();
        }
        helper_rmdir(t.dir);
    }
    assert_true(found > 0);
    t.dir = lived;
    forget();
    teardown_dir();
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(power_losses),
                                        cmocka_unit_test(early_ack_is_found) };

    if (argc > 1)
        rec.seeds = (unsigned)strtoul(argv[1], NULL, 10);
    if (argc > 2)
        rec.points = (unsigned)strtoul(argv[2], NULL, 10);
    rec_fs = io_fs_real;
    rec_fs.open = rec_open;
    rec_fs.rename = rec_rename;
    rec_fs.unlink = rec_unlink;
    rec_fs.sync_dir = rec_sync_dir;
    return cmocka_run_group_tests_name("journal power", tests, NULL, NULL);
}
