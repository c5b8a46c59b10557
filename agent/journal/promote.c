/* Promotion into the replica: see promote.h. */
#include "journal/promote.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum {
    BAD_MAX = 4096
};

struct piece { /* a record's payload in the sort buffer */
    uint64_t key;
    uint32_t len; /* bytes */
    uint32_t at;
};

struct wr { /* a write to the replica */
    struct io_req rq;
    struct promotion *p;
    struct io_file *file;
    size_t first, n; /* pieces */
    uint16_t vol;
    uint64_t off, len;
    int64_t res;
};

enum phase {
    PHASE_NEXT,
    PHASE_READ, /* the fetch is planned */
    PHASE_WRITE /* the writes are */
};

struct promotion {
    enum phase phase;
    struct read_set *set;
    struct fetch *fetch;
    struct replica *replica;
    struct set_scan *scan;
    bool scanned;         /* the scan has ended */
    struct ext_rec *recs; /* a key window, sorted by place in the log */
    size_t n_recs, next;
    uint8_t *buf;
    struct piece *pieces; /* in buf */
    size_t n_pieces;
    struct iovec *iov; /* of the pieces, sorted by key */
    struct wr *wrs;
    size_t n_wrs, next_wr, in_flight;
    void (*done)(void *arg);
    void *arg;
    struct ext_rec *bad;
    size_t n_bad;
    uint64_t bytes;
    bool (*room)(void *arg, uint64_t bytes);
    void *room_arg;
};

enum {
    PIECES_MAX = PROMOTE_BUFFER / 512,
    IOV_JOIN = 256,
    ROOM_TRIES = 3,
    ROOM_MORE = 256 * 1024, /* than one write needs: asking takes a sync */
};

int
promotion_new(struct read_set *set, const struct segment_ops *seg,
              struct replica *replica, bool (*room)(void *arg, uint64_t bytes),
              void *room_arg, struct promotion **out)
{
    struct promotion *p = calloc(1, sizeof *p);

    if (!p)
        return -ENOMEM;
    p->set = read_set_ref(set);
    p->fetch =
        fetch_new(seg, replica, NULL, PROMOTE_FETCH, (size_t)4 * PROMOTE_FETCH);
    p->replica = replica;
    p->room = room;
    p->room_arg = room_arg;
    p->recs = calloc(PROMOTE_RECORDS, sizeof *p->recs);
    p->pieces = calloc(PIECES_MAX, sizeof *p->pieces);
    p->buf = io_mem_alloc(PROMOTE_BUFFER);
    p->iov = calloc(PIECES_MAX, sizeof *p->iov);
    if (!p->recs || !p->pieces || !p->buf || !p->iov || !p->fetch) {
        promotion_free(p);
        return -ENOMEM;
    }
    *out = p;
    return 0;
}

void
promotion_free(struct promotion *p)
{
    if (!p)
        return;
    set_scan_free(p->scan);
    if (p->buf)
        io_mem_free(p->buf, PROMOTE_BUFFER);
    fetch_free(p->fetch);
    free(p->recs);
    free(p->pieces);
    free(p->iov);
    free(p->wrs);
    read_set_unref(p->set); /* after the fetch let go of its segments */
    free(p->bad);
    free(p);
}

const struct ext_rec *
promotion_bad(const struct promotion *p, size_t *out_n)
{
    *out_n = p->n_bad;
    return p->bad;
}

uint64_t
promotion_bytes(const struct promotion *p)
{
    return p->bytes;
}

static int
add_bad(struct promotion *p, const struct ext_rec *r, struct err *err)
{
    struct ext_rec *last = p->n_bad ? &p->bad[p->n_bad - 1] : NULL;

    if (last && ext_continues(last, r)) {
        last->len512 += r->len512;
        return 0;
    }
    if (!p->bad)
        p->bad = calloc(BAD_MAX, sizeof *p->bad);
    if (!p->bad || p->n_bad == BAD_MAX)
        return err_set(err, p->bad ? -E2BIG : -ENOMEM, ERR_JNL_0059,
                       "promotion to %" PRIu64
                       ": more than %d ranges of unknown content",
                       p->set->upto_seq, BAD_MAX);
    p->bad[p->n_bad++] = *r;
    return 0;
}

static int
by_place(const void *pa, const void *pb)
{
    const struct ext_rec *a = pa, *b = pb;

    if (a->seg != b->seg)
        return a->seg < b->seg ? -1 : 1;
    if (a->chunk != b->chunk)
        return a->chunk < b->chunk ? -1 : 1;
    return a->chunk_off512 < b->chunk_off512   ? -1
           : a->chunk_off512 > b->chunk_off512 ? 1
                                               : 0;
}

static int
by_key(const void *pa, const void *pb)
{
    const struct piece *a = pa, *b = pb;

    return a->key < b->key ? -1 : a->key > b->key;
}

static bool
full(int64_t rc)
{
    return rc == -ENOSPC || rc == -EDQUOT;
}

/* The replica is sparse: a first write of a place allocates.  On a full disk
 * that is what the reserve is for. */
static int
put(struct promotion *p, uint16_t vol, const void *buf, uint64_t len,
    uint64_t off, struct err *err)
{
    int rc = replica_write(p->replica, vol, buf, len, off, err);

    /* Others may take what was given up for us: not all of it, in one go. */
    for (unsigned i = 0; i < ROOM_TRIES && full(rc) && p->room &&
                         p->room(p->room_arg, len + ROOM_MORE);
         i++)
        rc = replica_write(p->replica, vol, buf, len, off, err);
    return rc;
}

/* The pieces of a write, one by one. */
static int
put_pieces(struct promotion *p, const struct wr *w, struct err *err)
{
    uint64_t off = w->off;
    int rc = 0;

    for (size_t k = 0; k < w->n && rc == 0; k++) {
        const struct iovec *v = &p->iov[w->first + k];

        rc = put(p, w->vol, v->iov_base, v->iov_len, off, err);
        off += v->iov_len;
    }
    return rc;
}

/* Take the next key window; zeros are punched and unknowns noted on the way. */
static int
fill_window(struct promotion *p, struct err *err)
{
    struct rec_iter *it = set_scan_records(p->scan);
    struct ext_rec r;
    int rc = 0;

    p->n_recs = p->next = 0;
    while (p->n_recs < PROMOTE_RECORDS) {
        rc = it->next(it, &r, err);
        if (rc <= 0)
            break;
        if (ext_has_data(&r)) {
            p->recs[p->n_recs++] = r;
            continue;
        }
        if (r.chunk == EXT_CHUNK_UNKNOWN) {
            rc = add_bad(p, &r, err);
        } else {
            rc = put(p, (uint16_t)(r.key >> EXT_VOL_SHIFT), NULL,
                     (uint64_t)r.len512 * 512, (r.key & EXT_OFF_MASK) * 512,
                     err);
        }
        if (rc < 0)
            return rc;
    }
    if (rc < 0)
        return rc;
    p->scanned = p->n_recs < PROMOTE_RECORDS;
    qsort(p->recs, p->n_recs, sizeof *p->recs, by_place);
    return 0;
}

/* Ask for payloads in log order until the buffer is full or the window ends. */
static int
gather(struct promotion *p, struct err *err)
{
    size_t used = 0;
    int rc = 0;

    p->n_pieces = 0;
    for (; p->next < p->n_recs; p->next++) {
        const struct ext_rec *r = &p->recs[p->next];
        uint32_t len = r->len512 * 512;

        if (len > PROMOTE_BUFFER - used || p->n_pieces == PIECES_MAX)
            break;
        rc = fetch_add(p->fetch, r, p->buf + used, err);
        if (rc == -ENOBUFS)
            break;
        if (rc < 0)
            return rc;
        p->pieces[p->n_pieces++] =
            (struct piece){ .key = r->key, .len = len, .at = (uint32_t)used };
        used += len;
    }
    return fetch_plan(p->fetch, err);
}

/* The pieces in order as writes, neighbours together. */
static int
join(struct promotion *p, struct err *err)
{
    size_t n = p->n_pieces;

    qsort(p->pieces, n, sizeof *p->pieces, by_key);
    free(p->wrs);
    p->n_wrs = p->next_wr = 0;
    p->wrs = calloc(n + 1, sizeof *p->wrs);
    if (!p->wrs)
        return err_set(err, -ENOMEM, ERR_GEN_0002, "no memory to promote");
    for (size_t i = 0; i < n; i++) {
        const struct piece *pc = &p->pieces[i];
        struct wr *w = p->n_wrs ? &p->wrs[p->n_wrs - 1] : NULL;
        uint64_t off = (pc->key & EXT_OFF_MASK) * 512;
        uint16_t vol = (uint16_t)(pc->key >> EXT_VOL_SHIFT);

        p->iov[i] =
            (struct iovec){ .iov_base = p->buf + pc->at, .iov_len = pc->len };
        if (w && w->vol == vol && w->off + w->len == off &&
            w->len + pc->len <= PROMOTE_WRITE && w->n < IOV_JOIN) {
            w->len += pc->len;
            w->n++;
            continue;
        }
        p->wrs[p->n_wrs++] = (struct wr){
            .p = p, .first = i, .n = 1, .vol = vol, .off = off, .len = pc->len
        };
    }
    return 0;
}

/* Those that do not wait for a disk, or do not suit a request of their own, are
 * written here; the others stay for promotion_io().  Returns how many those
 * are. */
static int
write_here(struct promotion *p, struct err *err)
{
    size_t left = 0;

    for (size_t i = 0; i < p->n_wrs; i++) {
        struct wr *w = &p->wrs[i];
        int rc;

        p->bytes += w->len;
        w->file = replica_direct(p->replica, w->vol, p->iov[w->first].iov_base,
                                 w->len, w->off, true);
        if (w->file) {
            p->wrs[left++] = *w;
            continue;
        }
        rc = put_pieces(p, w, err);
        if (rc < 0)
            return rc;
    }
    p->n_wrs = left;
    return (int)left;
}

/* The writes that were requests. */
static int
written(struct promotion *p, struct err *err)
{
    int rc = 0;

    for (size_t i = 0; i < p->n_wrs && rc == 0; i++) {
        const struct wr *w = &p->wrs[i];

        rc = full(w->res) ? put_pieces(p, w, err)
             : w->res < 0
                 ? replica_error(p->replica, w->vol, (int)w->res, "written",
                                 w->off, err)
                 : replica_written(p->replica, w->vol, w->len, w->off, err);
    }
    p->n_wrs = 0;
    return rc;
}

static void wrs_go(struct promotion *p);

static void
wr_done(struct io_req *rq, int64_t res)
{
    struct wr *w = container_of(rq, struct wr, rq);
    struct promotion *p = w->p;

    w->res = res;
    p->in_flight--;
    if (p->next_wr < p->n_wrs)
        wrs_go(p);
    else if (p->in_flight == 0)
        p->done(p->arg);
}

static void
wrs_go(struct promotion *p)
{
    while (p->next_wr < p->n_wrs && p->in_flight < PROMOTE_WRITES) {
        struct wr *w = &p->wrs[p->next_wr++];

        p->in_flight++;
        w->rq.done = wr_done;
        io_file_pwritev(w->file, &w->rq, p->iov + w->first, (unsigned)w->n,
                        w->off, 0);
    }
}

void
promotion_io(struct promotion *p, void (*done)(void *arg), void *arg)
{
    p->done = done;
    p->arg = arg;
    if (p->phase == PHASE_READ)
        fetch_start(p->fetch, done, arg);
    else
        wrs_go(p);
}

/* What was fetched is verified and goes out. */
static int
scatter(struct promotion *p, struct err *err)
{
    int rc = fetch_finish(p->fetch, err);

    if (rc == 0)
        rc = join(p, err);
    if (rc == 0)
        rc = write_here(p, err);
    if (rc < 0)
        return rc;
    p->phase = rc > 0 ? PHASE_WRITE : PHASE_NEXT;
    return rc > 0 ? PROMOTE_IO : 1;
}

int
promotion_step(struct promotion *p, struct err *err)
{
    int rc = 0;

    if (p->phase == PHASE_READ)
        return scatter(p, err);
    if (p->phase == PHASE_WRITE)
        rc = written(p, err);
    p->phase = PHASE_NEXT;
    if (rc == 0 && !p->scan)
        rc = set_scan_new(p->set, &p->scan, err);
    if (rc == 0 && p->next == p->n_recs && !p->scanned)
        rc = fill_window(p, err);
    if (rc < 0)
        return rc;
    if (p->next == p->n_recs)
        return p->scanned ? replica_sync(p->replica, err) : 1;
    rc = gather(p, err);
    if (rc < 0)
        return rc;
    if (fetch_waits(p->fetch)) {
        p->phase = PHASE_READ;
        return PROMOTE_IO;
    }
    fetch_read(p->fetch);
    return scatter(p, err);
}
