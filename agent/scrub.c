/* holdfastd scrub: read and verify a journal's directory that no replicator has
 * open, without changing anything. */
#include "commands.h"

#include <inttypes.h>
#include <stdio.h>

#include "common/bytes.h"
#include "journal/journal.h"

static void
tell(void *arg, const char *what)
{
    UNUSED(arg);
    fprintf(stderr, "holdfastd: damage: %s\n", what);
}

int
command_scrub(const char *dir, struct err *err)
{
    struct io_loop_config lc = { .backend = IO_BACKEND_EPOLL };
    struct journal_scrub_result r = { .bad = 0 };
    struct io_loop *loop = NULL;
    int rc = io_loop_new(&lc, &loop, err);

    if (rc < 0)
        return rc;
    rc = journal_scrub_files(loop, dir, tell, NULL, &r, err);
    io_loop_free(loop);
    if (rc < 0)
        return rc;
    printf("segments: %" PRIu64 "\nbatches: %" PRIu64 "\nchunks: %" PRIu64
           "\nruns: %" PRIu64 "\nreplicas: %" PRIu64 "\nbytes: %" PRIu64
           "\nbad: %" PRIu64 "\n",
           r.segments, r.batches, r.chunks, r.runs, r.replicas, r.bytes, r.bad);
    if (r.bad == 0)
        return 0;
    (void)fflush(stdout);
    return err_set(err, -EBADMSG, ERR_JNL_0061,
                   "journal %s: %" PRIu64 " damaged places, the first: %s", dir,
                   r.bad, r.first_bad);
}
