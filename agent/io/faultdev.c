/* Faults for tests, over any device.  The first rule whose kind and range fit
 * a request decides; its skip and times count down.  A request that no rule
 * stops goes to the lower device unchanged, and completes from there. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "io/blkdev.h"

enum {
    RULES_MAX = 16
};

struct rule {
    struct faultdev_rule r;
    bool spent; /* times were given and are used up */
};

struct faultdev {
    struct blkdev dev;
    struct blkdev *lower;
    struct rule rules[RULES_MAX];
    size_t n;
    struct list held; /* blkdev_req.link, oldest first */
    unsigned held_n;
};

static struct faultdev *
faultdev_of(struct blkdev *d)
{
    return container_of(d, struct faultdev, dev);
}

static const struct faultdev *
faultdev_of_const(const struct blkdev *d)
{
    return (const struct faultdev *)(const void *)d; /* dev is its first */
}

static bool
rule_fits(const struct rule *ru, const struct blkdev_req *rq)
{
    const struct faultdev_rule *r = &ru->r;

    if (ru->spent || r->op != rq->op)
        return false;
    if (r->len == 0 || rq->op == BLKDEV_FLUSH)
        return true;
    return rq->off < r->off + r->len && r->off < rq->off + rq->len;
}

/* The rule that stops this request, or NULL. */
static const struct faultdev_rule *
rule_apply(struct faultdev *fd, const struct blkdev_req *rq)
{
    for (size_t i = 0; i < fd->n; i++) {
        struct rule *ru = &fd->rules[i];

        if (!rule_fits(ru, rq))
            continue;
        if (ru->r.skip) {
            ru->r.skip--;
            continue;
        }
        if (ru->r.times && --ru->r.times == 0)
            ru->spent = true;
        return &ru->r;
    }
    return NULL;
}

static void
fault_submit(struct blkdev *d, struct blkdev_req *rq)
{
    struct faultdev *fd = faultdev_of(d);
    const struct faultdev_rule *r = rule_apply(fd, rq);

    if (!r) {
        blkdev_submit(fd->lower, rq);
    } else if (r->error) {
        rq->done(rq, r->error);
    } else {
        list_init(&rq->link);
        list_push_back(&fd->held, &rq->link);
        fd->held_n++;
    }
}

static void
fault_cancel(struct blkdev *d, const void *origin)
{
    struct faultdev *fd = faultdev_of(d);
    struct list gone, *l, *tmp;

    list_init(&gone);
    list_for_each_safe (l, tmp, &fd->held) {
        if (list_entry(l, struct blkdev_req, link)->origin != origin)
            continue;
        list_del(l);
        list_push_back(&gone, l);
        fd->held_n--;
    }
    while ((l = list_pop_front(&gone))) {
        struct blkdev_req *rq = list_entry(l, struct blkdev_req, link);

        rq->done(rq, -ECANCELED);
    }
    blkdev_cancel(fd->lower, origin);
}

static void
fault_close(struct blkdev *d)
{
    struct faultdev *fd = faultdev_of(d);

    blkdev_close(fd->lower);
    free(fd);
}

static const struct blkdev_ops faultdev_ops = {
    .kind = "fault",
    .submit = fault_submit,
    .cancel = fault_cancel,
    .close = fault_close,
};

int
faultdev_new(struct blkdev *lower, struct blkdev **out)
{
    struct faultdev *fd = calloc(1, sizeof *fd);

    if (!fd)
        return -ENOMEM;
    fd->dev.ops = &faultdev_ops;
    fd->dev.loop = lower->loop;
    fd->dev.info = lower->info;
    fd->lower = lower;
    list_init(&fd->held);
    *out = &fd->dev;
    return 0;
}

void
faultdev_set(struct blkdev *d, const struct faultdev_rule *rules, size_t n)
{
    struct faultdev *fd = faultdev_of(d);

    fd->n = MIN(n, (size_t)RULES_MAX);
    for (size_t i = 0; i < fd->n; i++)
        fd->rules[i] = (struct rule){ .r = rules[i] };
}

unsigned
faultdev_held(const struct blkdev *d)
{
    return faultdev_of_const(d)->held_n;
}

void
faultdev_release(struct blkdev *d)
{
    struct faultdev *fd = faultdev_of(d);
    struct list now, *l;

    list_init(&now);
    list_splice_back(&now, &fd->held);
    fd->held_n = 0;
    while ((l = list_pop_front(&now)))
        blkdev_submit(fd->lower, list_entry(l, struct blkdev_req, link));
}
