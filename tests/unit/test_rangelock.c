/* room: capture lane io common */
/* The range lock against a list that does the same the slow way. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "capture/rangelock.h"
#include "helper_capture.h"

enum {
    NODES = 64,
    SPACE = 100
};

struct item {
    struct range_node node;
    uint64_t off, len, order;
    bool in, held;
};

static struct item items[NODES];

static void
granted(struct range_node *n)
{
    struct item *it = container_of(n, struct item, node);

    assert_true(it->in && !it->held);
    it->held = true;
}

static bool
overlaps(const struct item *a, const struct item *b)
{
    return a->off < b->off + b->len && b->off < a->off + a->len;
}

/* Held exactly when no earlier one that is still there overlaps. */
static void
check(void)
{
    for (size_t i = 0; i < NODES; i++) {
        bool free = true;

        if (!items[i].in)
            continue;
        for (size_t k = 0; k < NODES; k++) {
            if (items[k].in && items[k].order < items[i].order &&
                overlaps(&items[i], &items[k]))
                free = false;
        }
        assert_int_equal(items[i].held, free);
    }
}

static void
run(struct rangelock *l)
{
    struct range_node *n;

    while ((n = rangelock_pop(l)))
        n->granted(n);
}

static void
random_model(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 40; seed++) {
        struct rnd r = { seed };
        struct rangelock l;
        uint64_t order = 0;

        memset(items, 0, sizeof items);
        rangelock_init(&l);
        for (int step = 0; step < 2000; step++) {
            struct item *it = &items[rnd_below(&r, NODES)];

            if (it->in) {
                /* also one that waits: a cancelled request */
                if (!it->held && rnd_chance(&r, 700))
                    continue;
                rangelock_release(&l, &it->node);
                it->in = it->held = false;
            } else {
                it->len = 1 + rnd_below(&r, 1 + rnd_below(&r, SPACE));
                it->off = rnd_below(&r, SPACE);
                it->order = order++;
                it->in = true;
                it->node.granted = granted;
                it->held = rangelock_take(&l, &it->node, it->off, it->len);
            }
            run(&l);
            check();
        }
        for (size_t i = 0; i < NODES; i++) {
            if (items[i].in)
                rangelock_release(&l, &items[i].node);
            items[i].in = false;
        }
        assert_null(l.root);
    }
}

/* One whose callback is due may still leave. */
static void
leave_when_due(void **state)
{
    struct rangelock l;

    (void)state;
    memset(items, 0, sizeof items);
    rangelock_init(&l);
    for (int i = 0; i < 3; i++) {
        items[i].node.granted = granted;
        items[i].in = true;
        items[i].held = rangelock_take(&l, &items[i].node, 0, 8);
    }
    assert_true(items[0].held);
    rangelock_release(&l, &items[0].node);
    rangelock_release(&l, &items[1].node); /* due, never called */
    items[1].in = false;
    run(&l);
    assert_true(items[2].held);
    rangelock_release(&l, &items[2].node);
    assert_null(l.root);
    assert_null(rangelock_pop(&l));
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_model),
        cmocka_unit_test(leave_when_due),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
