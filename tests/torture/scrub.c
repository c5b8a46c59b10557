/* room: journal lane io common */
/* Scrub journals that nobody uses:
 *
 *   scrub DIR...     a line a journal; ends with 1 when one has anything bad
 */
#include <inttypes.h>
#include <stdio.h>

#include "io/loop.h"
#include "journal/journal.h"

int
main(int argc, char **argv)
{
    struct io_loop_config lc = { .workers = 1 };
    struct io_loop *loop;
    struct err err = ERR_INIT;
    int bad = 0;

    if (argc < 2 || io_loop_new(&lc, &loop, &err) < 0) {
        fprintf(stderr, "usage: scrub DIR...  %s\n", err.msg);
        return 2;
    }
    for (int i = 1; i < argc; i++) {
        struct journal_scrub_result r = { .bad = 0 };
        int rc = journal_scrub_dir(loop, argv[i], &r, &err);

        printf("%s: %" PRIu64 " segments, %" PRIu64 " batches, %" PRIu64
               " chunks, %" PRIu64 " runs, %" PRIu64 " bytes, %" PRIu64
               " bad %s%s\n",
               argv[i], r.segments, r.batches, r.chunks, r.runs, r.bytes, r.bad,
               r.first_bad, rc < 0 ? err.msg : "");
        if (rc < 0 || r.bad > 0 || r.batches == 0)
            bad = 1;
    }
    io_loop_free(loop);
    return bad;
}
