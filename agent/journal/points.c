/* The table of checkpoints.  docs/formats/points.md. */
#include "journal/points.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/crc32c.h"

static bool
crc_ok(uint32_t have, uint32_t want)
{
#ifdef HOLDFAST_FUZZING
    UNUSED(have);
    UNUSED(want);
    return true;
#else
    return have == want;
#endif
}

void
points_header_encode(const struct points_header *h, uint8_t *out)
{
    memset(out, 0, POINTS_HEADER);
    put_le32(out, POINTS_MAGIC);
    put_le16(out + 4, POINTS_VERSION);
    put_le16(out + 6, POINTS_HEADER);
    memcpy(out + 16, h->vpg.u.b, 16);
    put_le32(out + 32, h->lane);
    put_le32(out + 36, h->gen);
    put_le64(out + 40, h->synced);
    put_le32(out + 60, crc32c(0, out, 60));
}

int
points_header_decode(const uint8_t *p, size_t len, struct points_header *out)
{
    struct points_header h;

    if (len < POINTS_HEADER)
        return -ENODATA;
    if (get_le32(p) != POINTS_MAGIC || get_le16(p + 6) != POINTS_HEADER ||
        !crc_ok(crc32c(0, p, 60), get_le32(p + 60)))
        return -EBADMSG;
    if (get_le16(p + 4) != POINTS_VERSION || get_le64(p + 8) != 0)
        return -EPROTONOSUPPORT;
    if (!bytes_all_zero(p + 48, 12) || get_le64(p + 40) > POINTS_MAX)
        return -EBADMSG;
    h = (struct points_header){ .lane = get_le32(p + 32),
                                .gen = get_le32(p + 36),
                                .synced = get_le64(p + 40) };
    memcpy(h.vpg.u.b, p + 16, 16);
    *out = h;
    return 0;
}

void
point_rec_encode(const struct point_rec *r, uint32_t gen, uint8_t *out)
{
    memset(out, 0, POINTS_REC);
    put_le64(out, r->cut_no);
    put_le64(out + 8, r->seq);
    put_le64(out + 16, r->wall_ns);
    put_le64(out + 24, r->up_ns);
    out[32] = r->kind;
    out[33] = r->consistency;
    put_le16(out + 34, r->flags);
    put_le32(out + 36, gen);
    put_le32(out + 60, crc32c(0, out, 60));
}

int
point_rec_decode(const uint8_t *p, size_t len, uint32_t gen,
                 struct point_rec *out)
{
    if (len < POINTS_REC)
        return -ENODATA;
    if (!crc_ok(crc32c(0, p, 60), get_le32(p + 60)) ||
        get_le32(p + 36) != gen || !bytes_all_zero(p + 40, 20) ||
        get_le16(p + 34) & ~POINT_TAGGED || get_le64(p + 8) == 0)
        return -EBADMSG;
    *out = (struct point_rec){
        .cut_no = get_le64(p),
        .seq = get_le64(p + 8),
        .wall_ns = get_le64(p + 16),
        .up_ns = get_le64(p + 24),
        .kind = p[32],
        .consistency = p[33],
        .flags = get_le16(p + 34),
    };
    return 0;
}

/* --- in memory ----------------------------------------------------------- */

void
points_release(struct points *p)
{
    free(p->recs);
    *p = (struct points){ .first = 0 };
}

size_t
points_count(const struct points *p)
{
    return p->n - p->first;
}

const struct point_rec *
points_at(const struct points *p, size_t i)
{
    return &p->recs[p->first + i];
}

int
points_add(struct points *p, const struct point_rec *r)
{
    const struct point_rec *last = p->n > p->first ? &p->recs[p->n - 1] : NULL;
    bool rises = !last || (p->wall_rises && r->wall_ns >= last->wall_ns);

    if (last && (r->cut_no <= last->cut_no || r->seq <= last->seq))
        return -EEXIST;
    if (p->n == p->cap && p->first > p->n / 2) {
        memmove(p->recs, p->recs + p->first,
                (p->n - p->first) * sizeof *p->recs);
        p->n -= p->first;
        p->first = 0;
    }
    if (p->n == p->cap) {
        size_t cap = p->cap ? 2 * p->cap : 64;
        struct point_rec *v = reallocarray(p->recs, cap, sizeof *v);

        if (!v)
            return -ENOMEM;
        p->recs = v;
        p->cap = cap;
    }
    p->wall_rises = rises;
    p->recs[p->n++] = *r;
    p->unwritten++;
    return 0;
}

void
points_drop_before(struct points *p, uint64_t seq)
{
    while (p->first < p->n && p->recs[p->first].seq < seq)
        p->first++;
    p->unwritten = MIN(p->unwritten, p->n - p->first);
}

void
points_drop_after(struct points *p, uint64_t seq)
{
    while (p->n > p->first && p->recs[p->n - 1].seq > seq)
        p->n--;
}

size_t
points_drop_between(struct points *p, uint64_t from, uint64_t until)
{
    size_t out = p->first, gone = 0;

    for (size_t i = p->first; i < p->n; i++) {
        bool drop = p->recs[i].seq > from && p->recs[i].seq < until;

        if (drop && i >= p->n - p->unwritten)
            gone++;
        if (!drop)
            p->recs[out++] = p->recs[i];
    }
    p->unwritten -= gone;
    gone = p->n - out;
    p->n = out;
    return gone;
}

/* First index whose key is >= the value; keys rise. */
static size_t
lower(const struct points *p, uint64_t (*key)(const struct point_rec *r),
      uint64_t value)
{
    size_t lo = 0, hi = points_count(p);

    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;

        if (key(points_at(p, mid)) < value)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

static uint64_t
key_cut_no(const struct point_rec *r)
{
    return r->cut_no;
}
static uint64_t
key_seq(const struct point_rec *r)
{
    return r->seq;
}
static uint64_t
key_wall_ns(const struct point_rec *r)
{
    return r->wall_ns;
}
static uint64_t
key_up_ns(const struct point_rec *r)
{
    return r->up_ns;
}

const struct point_rec *
points_find(const struct points *p, uint64_t cut_no)
{
    size_t i = lower(p, key_cut_no, cut_no);

    return i < points_count(p) && points_at(p, i)->cut_no == cut_no
               ? points_at(p, i)
               : NULL;
}

size_t
points_lower(const struct points *p, uint64_t wall)
{
    return p->wall_rises ? lower(p, key_wall_ns, wall) : 0;
}

const struct point_rec *
points_by_wall(const struct points *p, uint64_t wall)
{
    size_t n = points_count(p);

    if (p->wall_rises && wall < UINT64_MAX)
        n = lower(p, key_wall_ns, wall + 1);
    while (n > 0 && points_at(p, n - 1)->wall_ns > wall)
        n--;
    return n ? points_at(p, n - 1) : NULL;
}

const struct point_rec *
points_by_seq(const struct points *p, uint64_t seq)
{
    size_t i = lower(p, key_seq, seq);

    return i < points_count(p) ? points_at(p, i) : NULL;
}

const struct point_rec *
points_by_age(const struct points *p, uint64_t up_ns)
{
    size_t i = lower(p, key_up_ns, up_ns + 1);

    return i ? points_at(p, i - 1) : NULL;
}

/* --- the file ------------------------------------------------------------ */

static int
damaged(struct err *err, const char *path, uint64_t rec, const char *what)
{
    return err_set(err, -EBADMSG, ERR_JNL_0011,
                   "%s: record %" PRIu64 " at offset %" PRIu64 ": %s", path,
                   rec, POINTS_HEADER + rec * POINTS_REC, what);
}

static int
parse(const uint8_t *bytes, size_t len, const char *path,
      const struct points_header *id, uint32_t gen, uint64_t synced,
      struct points *out, struct err *err)
{
    struct points_header h;
    int rc = points_header_decode(bytes, len, &h);

    if (rc == -EPROTONOSUPPORT)
        return err_set(err, rc, ERR_JNL_0052, "%s: written by a newer release",
                       path);
    if (rc < 0 || h.gen < gen || h.lane != id->lane ||
        !uuid_equal(&h.vpg.u, &id->vpg.u))
        return err_set(err, -EBADMSG, ERR_JNL_0011,
                       "%s: the header is damaged, of another lane, or older "
                       "than the manifest",
                       path);
    out->gen = h.gen;
    if (h.gen > gen || synced < h.synced)
        synced = h.synced;
    for (uint64_t i = 0;; i++) {
        size_t at = POINTS_HEADER + (size_t)i * POINTS_REC;
        struct point_rec r;

        rc = at > len ? -ENODATA
                      : point_rec_decode(bytes + at, len - at, h.gen, &r);
        if (rc == 0)
            rc = points_add(out, &r);
        if (rc == -ENOMEM)
            return err_set(err, rc, ERR_GEN_0002, "no memory for checkpoints");
        if (rc < 0 && i < synced)
            return damaged(err, path, i, "damaged");
        if (rc < 0) {
            out->in_file = i;
            return 0;
        }
    }
}

int
points_load(struct io_loop *loop, const char *dir,
            const struct points_header *id, uint32_t gen, uint64_t synced,
            struct points *out, struct err *err)
{
    char path[4096];
    uint8_t *bytes = NULL;
    size_t len = 0;
    int rc;

    *out = (struct points){ .gen = gen, .wall_rises = true };
    (void)snprintf(path, sizeof path, "%s/points", dir);
    rc = io_read_whole(loop, path, (size_t)POINTS_MAX * POINTS_REC, &bytes,
                       &len, err);
    if (rc == -ENOENT)
        return synced || gen ? damaged(err, path, 0, "the file is missing") : 0;
    if (rc == 0)
        rc = parse(bytes, len, path, id, gen, synced, out, err);
    free(bytes);
    if (rc < 0)
        points_release(out);
    out->unwritten = 0;
    return rc;
}

int
points_rewrite(struct io_loop *loop, const char *dir,
               const struct points_header *h, const struct point_rec *recs,
               size_t n, struct err *err)
{
    struct points_header head = *h;
    size_t len = POINTS_HEADER + n * POINTS_REC;
    uint8_t *bytes = malloc(len);
    char path[4096];
    int rc;

    if (!bytes)
        return err_set(err, -ENOMEM, ERR_GEN_0002, "no memory for checkpoints");
    head.synced = n;
    points_header_encode(&head, bytes);
    for (size_t i = 0; i < n; i++)
        point_rec_encode(&recs[i], h->gen,
                         bytes + POINTS_HEADER + i * POINTS_REC);
    (void)snprintf(path, sizeof path, "%s/points", dir);
    rc = io_replace_whole(loop, path, bytes, len, err);
    free(bytes);
    return rc;
}

int
points_verify(struct io_loop *loop, const char *dir, uint32_t gen,
              uint64_t synced, uint64_t *out_n, struct err *err)
{
    struct points_header h = { .lane = 0 };
    struct points p = { .first = 0 };
    uint8_t *bytes = NULL;
    char path[4096];
    size_t len = 0;
    int rc;

    (void)snprintf(path, sizeof path, "%s/points", dir);
    rc = io_read_whole(loop, path, (size_t)POINTS_MAX * POINTS_REC, &bytes,
                       &len, err);
    *out_n = 0;
    if (rc == -ENOENT && !synced && !gen)
        return 0;
    if (rc == 0) {
        if (points_header_decode(bytes, len, &h) < 0)
            rc = damaged(err, path, 0, "the header is damaged");
        else
            rc = parse(bytes, len, path, &h, gen, synced, &p, err);
    }
    free(bytes);
    if (rc == 0)
        *out_n = points_count(&p);
    points_release(&p);
    return rc;
}
