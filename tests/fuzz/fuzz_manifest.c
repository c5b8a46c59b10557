/* room: journal lane io common */
/* A whole manifest from hostile bytes: parsed into a state, or refused. */
#include <stdint.h>
#include <stdlib.h>

#include "journal/manifest.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct man_state s = { .n_segs = 0 };
    uint64_t next = 0;
    uint32_t prev = 0;
    size_t good = 0;
    bool clean = false;

    if (man_state_parse(data, n, &s, &next, &prev, &good, &clean, NULL) < 0)
        return 0;
    if (good > n || s.n_volumes > LANE_VOLUMES_MAX)
        abort();
    for (size_t i = 1; i < s.n_segs; i++)
        if (s.segs[i].no <= s.segs[i - 1].no)
            abort();
    for (size_t i = 1; i < s.n_tags; i++)
        if (s.tags[i]->cut_no <= s.tags[i - 1]->cut_no)
            abort();
    man_state_release(&s);
    return 0;
}
