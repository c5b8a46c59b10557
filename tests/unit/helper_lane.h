/* For tests of the journal: one journal in a scratch directory, fed by a source
 * of random batches (helper_journal.h). */
#ifndef HOLDFAST_TESTS_UNIT_HELPER_LANE_H
#define HOLDFAST_TESTS_UNIT_HELPER_LANE_H

#include <sys/resource.h>

#include "io/loop.h"
#include "journal/journal.h"
#include "tests/unit/helper_journal.h"

struct lane_fixture {
    struct io_loop *loop;
    char *dir;
    struct gen g;
    struct journal *j;
    struct journal_config cfg;
    uint64_t durable;
    unsigned alerts, credits;
    struct err alert, open_err;
    enum err_code settled; /* the last one */
    bool flag, fixed_seen;
    int res, tell_fd;
    const struct rlimit *unlimit; /* at the next alert */
    struct journal_view *view;
};
extern struct lane_fixture t;

void on_closed(void *arg);
void on_res(void *arg, int res);
void on_view(void *arg, struct journal_view *v, int res, const struct err *e);
void wait_flag(void);
int jopen(void);
void jclose(void);
void begin(void);
void setup_dir(uint64_t seed, const char *under);
void teardown_dir(void);
void send_batch(size_t i);
void wait_durable(uint64_t no);
void resume(void);
void compare_view(struct journal_view *v, const struct gen_cut *k);
void open_view(uint64_t cut_no, uint8_t id);
void discard_view(struct journal_view *v);
void check_cut(uint64_t cut_no);
void check_points(void);

#endif
