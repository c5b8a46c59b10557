/* Sealing of segments and the file of checkpoints, on a worker behind the
 * batches: one job at a time writes the footer of the oldest segment to seal
 * and the checkpoints that are not in their file yet; then SEG_SEAL says so. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "journal/journal_internal.h"

enum {
    POINTS_DEAD = 4096, /* before the points file is written afresh */
};

void
journal_seal_later(struct journal *j, struct jsegment *s)
{
    list_push_back(&j->sealing, &s->link);
    journal_care_kick(j);
}

/* On the worker. */
static int
points_append(struct jcare *c, struct err *err)
{
    struct journal *j = c->j;
    char path[4096];
    uint8_t *bytes;
    int rc = 0;

    if (!j->points_file) {
        int n = snprintf(path, sizeof path, "%s/points", j->dir);

        if (n < 0 || (size_t)n >= sizeof path)
            return err_set(err, -ENAMETOOLONG, ERR_JNL_0001, "path too long");
        rc = io_file_open(j->loop, path, IO_OPEN_WRITE, &j->points_file, err);
        if (rc < 0)
            return rc;
    }
    bytes = malloc(MAX(c->n_recs, (size_t)1) * POINTS_REC);
    if (!bytes)
        return err_set(err, -ENOMEM, ERR_GEN_0002, "no memory for checkpoints");
    for (size_t i = 0; i < c->n_recs; i++)
        point_rec_encode(&c->recs[i], c->gen, bytes + i * POINTS_REC);
    if (c->n_recs)
        rc = io_file_pwrite_sync(j->points_file, bytes, c->n_recs * POINTS_REC,
                                 POINTS_HEADER + c->at * POINTS_REC);
    if (rc == 0 && c->sync)
        rc = io_file_fdatasync_sync(j->points_file);
    free(bytes);
    if (rc < 0)
        (void)err_set(err, rc, ERR_JNL_0001, "%s/points: cannot write: %s",
                      j->dir, err_errno(rc));
    return rc;
}

/* A file of which nothing counts, but whose bytes are what is left of batches:
 * its name would be swept away. */
static void
set_aside(struct jcare *c)
{
    char name[SEG_NAME_MAX], from[4096], to[4096 + 16];

    seg_name(c->seal->header.no, name);
    (void)snprintf(from, sizeof from, "%s/%s", c->j->dir, name);
    (void)snprintf(to, sizeof to, "%s.damaged", from);
    (void)io_rename(c->j->loop, from, to, NULL); /* it may be missing */
}

static void
care_run(struct io_work *w)
{
    struct jcare *c = container_of(w, struct jcare, work);
    struct journal *j = c->j;

    if (c->seal && c->seal->hurt && c->seal->batches == 0)
        set_aside(c);
    if (c->seal && !c->seal->footer_done && !c->seal->no_footer)
        c->seal_res =
            segment_seal(c->seal->file, &c->seal->header, c->seal->tables,
                         &c->seal->footer_off, &c->err);
    if (c->rewrite) {
        if (j->points_file)
            io_file_close(j->points_file);
        j->points_file = NULL;
        c->head.gen = c->gen;
        c->points_res = points_rewrite(j->loop, j->dir, &c->head, c->recs,
                                       c->n_recs, &c->err);
    } else if (c->n_recs || (c->sync && c->gen)) {
        c->points_res = points_append(c, &c->err);
    }
    c->given =
        journal_no_space_error(c->points_res) &&
        reserve_give(j->reserve, POINTS_HEADER + c->n_live * POINTS_REC, 0);
}

/* SEG_SEAL (or SEG_DEL of an empty one) is durable. */
struct sealed {
    struct journal *j;
    struct jsegment *s;
};

static void
sealed_logged(void *arg, int res)
{
    struct sealed *d = arg;
    struct journal *j = d->j;
    struct jsegment *s = d->s;

    if (res == 0 && s->batches == 0) {
        jindex_drop_segment(j->ix, s->header.no);
        seg_store_drop(j->segs, s->header.no);
    } else if (res == 0) {
        struct seg_place p = {
            .no = s->header.no,
            .header = s->header,
            .footer_off = s->footer_off,
            .end = seg_tables_end(s->tables),
            .last_seq = s->last_seq,
        };

        seg_store_sealed(j->segs, &p);
        jindex_segment_sealed(j->ix, s->header.no, s->header.first_seq,
                              s->last_seq);
    }
    free(s);
    free(d);
    journal_recycle(j); /* it may have been promoted already */
    journal_retain(j);
    journal_job_done(j);
}

static void
log_sealed(struct journal *j, struct jsegment *s)
{
    struct man_rec r = { .type = MAN_SEG_SEAL };
    struct sealed *d = malloc(sizeof *d);
    uint32_t n = atomic_load(&s->tables->n_batches);
    struct err e = ERR_INIT;

    if (!d) {
        (void)err_set(&e, -ENOMEM, ERR_GEN_0002, "no memory to seal a segment");
        journal_stop(j, &e);
        free(s);
        return;
    }
    *d = (struct sealed){ j, s };
    s->batches = n;
    r.u.seg = (struct man_seg){
        .no = s->header.no,
        .footer_off = s->footer_off,
        .end = seg_tables_end(s->tables),
        .last_batch = s->last_batch,
        .last_seq = s->last_seq,
        .offer = s->offer,
        .points_gen = j->points.gen,
        .points = j->points.in_file,
        .up_ns = journal_up_ns(j),
    };
    memcpy(r.u.seg.digest, s->tables->digest, 16);
    if (n == 0) { /* it never took a batch */
        r.type = MAN_SEG_DEL;
        j->used -= MIN(j->used, s->header.size);
    }
    journal_log(j, &r);
    j->jobs++;
    journal_log_sync(j, sealed_logged, d);
}

static void
care_done(struct io_work *w)
{
    struct jcare *c = container_of(w, struct jcare, work);
    struct journal *j = c->j;

    c->active = false;
    if (c->points_res < 0) {
        /* What is in the file is not known any more: write it afresh. */
        if (!c->given)
            journal_alert(j, &c->err);
        j->points.gen = MAX(j->points.gen, c->gen);
        j->points.unwritten = points_count(&j->points);
        j->points.in_file = 0;
        /* the tick tries again */
    }
    if (c->seal) {
        c->seal->footer_done = true;
        if (c->seal_res < 0) {
            journal_alert(j, &c->err);
            c->seal->no_footer = true;
            c->seal->footer_off = 0;
        }
        if (c->points_res == 0) {
            list_del(&c->seal->link);
            log_sealed(j, c->seal);
        }
        c->seal = NULL;
    }
    free(c->recs);
    c->recs = NULL;
    if (c->points_res < 0 && j->closing) { /* recovery finds it all again */
        struct list *l;

        j->points.unwritten = 0;
        while ((l = list_pop_front(&j->sealing)) != NULL)
            free(list_entry(l, struct jsegment, link));
    }
    if (c->points_res == 0 || c->given)
        journal_care_kick(j);
    journal_job_done(j);
}

void
journal_care_kick(struct journal *j)
{
    struct jcare *c = &j->care;
    struct points *p = &j->points;
    size_t live = points_count(p), n;
    bool seal = !list_empty(&j->sealing);

    if (c->active || !j->ix || j->deg.on ||
        (!seal && !p->unwritten && !j->closing))
        return;
    if (!seal && !p->unwritten)
        return;
    *c = (struct jcare){ .j = j, .sync = seal || j->closing };
    c->seal = seal ? list_entry(j->sealing.next, struct jsegment, link) : NULL;
    c->head = (struct points_header){ .vpg = j->cfg.vpg, .lane = j->cfg.lane };
    c->rewrite = (p->unwritten && (p->gen == 0 || p->in_file == 0)) ||
                 (p->in_file > live && p->in_file - live > POINTS_DEAD &&
                  p->in_file - live > live);
    c->n_live = live;
    n = c->rewrite ? live : p->unwritten;
    if (n) {
        c->recs = malloc(n * sizeof *c->recs);
        if (!c->recs)
            return; /* the tick tries again */
        memcpy(c->recs, p->recs + (p->n - n), n * sizeof *c->recs);
    }
    c->n_recs = n;
    c->at = p->in_file;
    if (c->rewrite) {
        p->gen++;
        p->in_file = n;
    } else {
        p->in_file += n;
    }
    p->unwritten = 0;
    c->gen = p->gen;
    c->active = true;
    c->work = (struct io_work){ .run = care_run, .done = care_done };
    j->jobs++;
    io_work_submit(j->loop, &c->work);
}
