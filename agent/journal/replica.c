/* Replica images: see replica.h.
 *
 * A request that does not suit direct I/O (a device with 4 KiB sectors and a
 * range of 512-byte blocks) goes through a bounce buffer; writing that way reads
 * the surroundings first, so it excludes all other writes of the volume for
 * that moment.
 */
#include "journal/replica.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "journal/extmap.h"

enum {
    SECTOR = 512,
    BOUNCE_MAX = 1024 * 1024,
};

struct replica_vol {
    uint16_t vol;
    uint64_t size;
    struct io_file *file;
    uint32_t align;
    bool waits; /* for a disk: many requests at once are worth it */
    bool can_punch;
    pthread_rwlock_t rmw; /* write: reading surroundings and writing back */
};

struct replica {
    struct io_loop *loop;
    unsigned n;
    pthread_mutex_t lock; /* guards bad */
    struct extmap *bad;
    atomic_size_t n_bad; /* = extmap_count(bad), to look without the lock */
    struct replica_vol v[];
};

static struct replica_vol *
find_vol(const struct replica *r, uint16_t vol)
{
    for (unsigned i = 0; i < r->n; i++)
        if (r->v[i].vol == vol)
            return (struct replica_vol *)(uintptr_t)&r->v[i];
    return NULL;
}

static int
io_error(const struct replica_vol *v, int rc, const char *what, uint64_t off,
         struct err *err)
{
    return err_set(err, rc, ERR_JNL_0057,
                   "replica %s cannot be %s at offset %" PRIu64 ": %s",
                   io_file_path(v->file), what, off, err_errno(rc));
}

static int
open_vol(struct replica *r, const char *dir, const struct journal_volume *jv,
         struct err *err)
{
    struct replica_vol *v = &r->v[r->n];
    struct io_file_info fi;
    char path[ERR_MSG_MAX / 2];
    int rc;

    if (snprintf(path, sizeof path, "%s/replica.%03u", dir, jv->vol) >=
        (int)sizeof path)
        return err_set(err, -ENAMETOOLONG, ERR_JNL_0057,
                       "replica of volume %u: the directory's name is too long",
                       jv->vol);
    *v = (struct replica_vol){ .vol = jv->vol, .size = jv->size };
    rc = io_file_open(r->loop, path,
                      IO_OPEN_WRITE | IO_OPEN_CREATE | IO_OPEN_DIRECT, &v->file,
                      err);
    if (rc < 0)
        return rc;
    r->n++;
    pthread_rwlock_init(&v->rmw, NULL);
    rc = io_file_info(v->file, &fi, err);
    if (rc == 0 && fi.align > 1 && jv->size % fi.align != 0) {
        /* Direct I/O could not write the last blocks without making the image
         * longer than the volume. */
        io_file_close(v->file);
        v->file = NULL;
        rc = io_file_open(r->loop, path, IO_OPEN_WRITE, &v->file, err);
        if (rc == 0)
            rc = io_file_info(v->file, &fi, err);
    }
    if (rc < 0)
        return rc;
    if (fi.size == 0 && jv->size > 0) {
        rc = io_file_truncate_sync(v->file, jv->size);
        if (rc == 0)
            rc = io_file_fdatasync_sync(v->file);
        if (rc < 0)
            return io_error(v, rc, "sized", jv->size, err);
    } else if (fi.size != jv->size) {
        return err_set(err, -EINVAL, ERR_JNL_0057,
                       "replica %s has %" PRIu64
                       " bytes, the volume has %" PRIu64,
                       path, fi.size, jv->size);
    }
    v->align = MAX(fi.align, (uint32_t)1);
    v->waits = fi.direct && !fi.ram_backed;
    v->can_punch = io_file_can_punch(v->file);
    return 0;
}

int
replica_open(struct io_loop *loop, const char *dir,
             const struct journal_volume *vols, unsigned n,
             struct replica **out, struct err *err)
{
    struct replica *r = calloc(1, sizeof *r + n * sizeof r->v[0]);
    int rc = 0;

    if (!r)
        return err_set(err, -ENOMEM, ERR_GEN_0002, "no memory for a replica");
    r->loop = loop;
    pthread_mutex_init(&r->lock, NULL);
    atomic_init(&r->n_bad, 0);
    r->bad = extmap_new();
    if (!r->bad)
        rc = err_set(err, -ENOMEM, ERR_GEN_0002, "no memory for a replica");
    for (unsigned i = 0; rc == 0 && i < n; i++)
        rc = open_vol(r, dir, &vols[i], err);
    if (rc == 0)
        rc = io_sync_dir(loop, dir, err);
    if (rc < 0) {
        replica_close(r);
        return rc;
    }
    *out = r;
    return 0;
}

void
replica_close(struct replica *r)
{
    if (!r)
        return;
    for (unsigned i = 0; i < r->n; i++) {
        if (r->v[i].file)
            io_file_close(r->v[i].file);
        pthread_rwlock_destroy(&r->v[i].rmw);
    }
    extmap_free(r->bad);
    pthread_mutex_destroy(&r->lock);
    free(r);
}

uint64_t
replica_volume_size(const struct replica *r, uint16_t vol)
{
    const struct replica_vol *v = find_vol(r, vol);

    return v ? v->size : 0;
}

uint64_t
replica_bytes(struct replica *r)
{
    struct io_file_info fi;
    uint64_t n = 0;

    for (unsigned i = 0; i < r->n; i++)
        if (io_file_info(r->v[i].file, &fi, NULL) == 0)
            n += fi.allocated;
    return n;
}

/* --- unknown ranges -------------------------------------------------------- */

static int
bad_set(struct replica *r, uint16_t vol, uint64_t off, uint64_t len, bool bad)
{
    uint64_t from = ext_key(vol, off / 512), to = from + len / 512;
    int rc = 0;

    pthread_mutex_lock(&r->lock);
    if (!bad)
        rc = extmap_cut(r->bad, from, to);
    for (uint64_t n; bad && rc == 0 && from < to; from += n) {
        n = MIN(to - from, (uint64_t)EXT_LEN_MAX);
        rc = extmap_put(r->bad, &(struct ext_rec){ .key = from,
                                                   .len512 = (uint32_t)n,
                                                   .chunk = EXT_CHUNK_UNKNOWN });
    }
    atomic_store(&r->n_bad, extmap_count(r->bad));
    pthread_mutex_unlock(&r->lock);
    return rc;
}

int
replica_mark_bad(struct replica *r, uint16_t vol, uint64_t off, uint64_t len)
{
    return bad_set(r, vol, off, len, true);
}

size_t
replica_bad_parts(struct replica *r, uint16_t vol, uint64_t off, uint64_t len,
                  struct io_extent *out, size_t max)
{
    uint64_t from = ext_key(vol, off / 512), to = from + len / 512;
    struct extmap_iter it;
    struct ext_rec rec;
    size_t n = 0;

    pthread_mutex_lock(&r->lock);
    extmap_iterate(r->bad, from, to, &it);
    while (it.it.next(&it.it, &rec, NULL) > 0) {
        struct ext_rec c = ext_clip(&rec, from, to);

        if (n < max)
            out[n] = (struct io_extent){
                .off = (c.key & EXT_OFF_MASK) * 512,
                .len = (uint64_t)c.len512 * 512,
            };
        n++;
    }
    pthread_mutex_unlock(&r->lock);
    return n;
}

static bool
is_bad(struct replica *r, uint16_t vol, uint64_t off, uint64_t len,
       uint64_t *out_off)
{
    struct extmap_iter it;
    struct ext_rec rec;
    bool bad;

    if (atomic_load(&r->n_bad) == 0)
        return false;
    pthread_mutex_lock(&r->lock);
    extmap_iterate(r->bad, ext_key(vol, off / 512),
                   ext_key(vol, (off + len) / 512), &it);
    bad = it.it.next(&it.it, &rec, NULL) > 0;
    pthread_mutex_unlock(&r->lock);
    if (bad)
        *out_off = (rec.key & EXT_OFF_MASK) * 512;
    return bad;
}

/* --- transfers --------------------------------------------------------------- */

static bool
suits(const struct replica_vol *v, const void *buf, uint64_t len, uint64_t off)
{
    return (uintptr_t)buf % v->align == 0 && len % v->align == 0 &&
           off % v->align == 0;
}

/* Bytes behind the end read as zeros (a volume of an odd number of blocks). */
static int
read_whole(const struct replica_vol *v, void *buf, uint64_t len, uint64_t off)
{
    int64_t n = io_file_pread_sync(v->file, buf, len, off);

    if (n < 0)
        return (int)n;
    if ((uint64_t)n < len)
        memset((uint8_t *)buf + n, 0, len - (uint64_t)n);
    return 0;
}

/* The aligned window of at most BOUNCE_MAX bytes around the front of a range. */
static uint64_t
window(const struct replica_vol *v, uint64_t off, uint64_t len,
       uint64_t *out_start, uint64_t *out_part)
{
    uint64_t start = round_down(off, v->align),
             end = MIN(round_up(off + len, v->align), start + BOUNCE_MAX);

    *out_start = start;
    *out_part = MIN(off + len, end) - off;
    return end - start;
}

static int
bounce_read(const struct replica_vol *v, uint8_t *buf, uint64_t len,
            uint64_t off)
{
    uint8_t *b = io_mem_alloc(BOUNCE_MAX);
    uint64_t start, part, size;
    int rc = b ? 0 : -ENOMEM;

    for (; rc == 0 && len > 0; buf += part, off += part, len -= part) {
        size = window(v, off, len, &start, &part);
        rc = read_whole(v, b, size, start);
        if (rc < 0)
            break;
        memcpy(buf, b + (off - start), part);
    }
    if (b)
        io_mem_free(b, BOUNCE_MAX);
    return rc;
}

static int
bounce_write(struct replica_vol *v, const uint8_t *buf, uint64_t len,
             uint64_t off)
{
    uint8_t *b = io_mem_alloc(BOUNCE_MAX);
    uint64_t start, part, size;
    int rc = b ? 0 : -ENOMEM;

    for (; rc == 0 && len > 0; buf += part, off += part, len -= part) {
        size = window(v, off, len, &start, &part);
        pthread_rwlock_wrlock(&v->rmw);
        rc = part == size ? 0 : read_whole(v, b, size, start);
        if (rc == 0) {
            memcpy(b + (off - start), buf, part);
            rc = io_file_pwrite_sync(v->file, b, size, start);
        }
        pthread_rwlock_unlock(&v->rmw);
        if (rc < 0)
            break;
    }
    if (b)
        io_mem_free(b, BOUNCE_MAX);
    return rc;
}

struct io_file *
replica_direct(struct replica *r, uint16_t vol, const void *buf, uint64_t len,
               uint64_t off, bool write)
{
    const struct replica_vol *v = find_vol(r, vol);

    /* Where sectors are larger than ours, writes of parts of them must see
     * those of others: under the lock, by replica_write(). */
    if (!v || !v->waits || !suits(v, buf, len, off) ||
        (write && v->align > SECTOR))
        return NULL;
    return v->file;
}

int
replica_check(struct replica *r, uint16_t vol, uint64_t len, uint64_t off,
              struct err *err)
{
    const struct replica_vol *v = find_vol(r, vol);
    uint64_t bad_off;

    if (!v || !range_ok(off, len, v->size))
        return err_set(err, -EINVAL, ERR_JNL_0057,
                       "replica: no volume %u of %" PRIu64 " bytes", vol,
                       off + len);
    if (is_bad(r, vol, off, len, &bad_off))
        return err_set(err, -EIO, ERR_JNL_0058,
                       "volume %u: the content at offset %" PRIu64
                       " is not known: the source could not read it",
                       vol, bad_off);
    return 0;
}

int
replica_error(struct replica *r, uint16_t vol, int rc, const char *what,
              uint64_t off, struct err *err)
{
    return io_error(find_vol(r, vol), rc, what, off, err);
}

int
replica_written(struct replica *r, uint16_t vol, uint64_t len, uint64_t off,
                struct err *err)
{
    int rc = 0;

    if (atomic_load(&r->n_bad) > 0)
        rc = bad_set(r, vol, off, len, false);
    return rc < 0 ? replica_error(r, vol, rc, "written", off, err) : 0;
}

int
replica_read(struct replica *r, uint16_t vol, void *buf, uint64_t len,
             uint64_t off, struct err *err)
{
    const struct replica_vol *v = find_vol(r, vol);
    int rc = replica_check(r, vol, len, off, err);

    if (rc < 0)
        return rc;
    rc = suits(v, buf, len, off) ? read_whole(v, buf, len, off)
                                 : bounce_read(v, buf, len, off);
    return rc < 0 ? io_error(v, rc, "read", off, err) : 0;
}

static int
write_zeros(struct replica_vol *v, uint64_t len, uint64_t off)
{
    if (v->align > 1 && (off % v->align != 0 || len % v->align != 0)) {
        /* Edges inside a sector of the device. */
        static const uint8_t zeros[4096];
        int rc = 0;

        for (uint64_t n; rc == 0 && len > 0; off += n, len -= n) {
            n = MIN(len, sizeof zeros - off % sizeof zeros);
            if (n == sizeof zeros && len >= 2 * n) {
                n = round_down(len, sizeof zeros);
                rc = io_file_zero_sync(v->file, IO_ZERO_PUNCH, off, n);
            } else {
                rc = bounce_write(v, zeros, n, off);
            }
        }
        return rc;
    }
    return io_file_zero_sync(v->file, IO_ZERO_PUNCH, off, len);
}

int
replica_write(struct replica *r, uint16_t vol, const void *buf, uint64_t len,
              uint64_t off, struct err *err)
{
    struct replica_vol *v = find_vol(r, vol);
    int rc;

    if (!v || !range_ok(off, len, v->size))
        return err_set(err, -EINVAL, ERR_JNL_0057,
                       "replica: no volume %u of %" PRIu64 " bytes", vol,
                       off + len);
    if (!buf) {
        rc = write_zeros(v, len, off);
    } else if (suits(v, buf, len, off)) {
        pthread_rwlock_rdlock(&v->rmw);
        rc = io_file_pwrite_sync(v->file, buf, len, off);
        pthread_rwlock_unlock(&v->rmw);
    } else {
        rc = bounce_write(v, buf, len, off);
    }
    if (rc < 0)
        return io_error(v, rc, "written", off, err);
    return replica_written(r, vol, len, off, err);
}

int
replica_sync(struct replica *r, struct err *err)
{
    for (unsigned i = 0; i < r->n; i++) {
        int rc = io_file_fdatasync_sync(r->v[i].file);

        if (rc < 0)
            return io_error(&r->v[i], rc, "synced", 0, err);
    }
    return 0;
}

int
replica_extents(struct replica *r, uint16_t vol, uint64_t off, uint64_t len,
                struct io_extent *out, size_t max)
{
    const struct replica_vol *v = find_vol(r, vol);

    if (!v || !range_ok(off, len, v->size))
        return -EINVAL;
    return io_file_extents_sync(v->file, off, len, out, max);
}
