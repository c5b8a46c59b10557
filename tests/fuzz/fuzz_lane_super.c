/* room: capture lane io common */
/* The super block of a lane: what is accepted encodes to the same bytes. */
#include <stdlib.h>
#include <string.h>

#include "capture/lane_super.h"

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

int
LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    static uint8_t full[LANE_SUPER_SLOT], again[LANE_SUPER_SLOT];
    struct err err = ERR_INIT;
    struct lane_super s;
    uint64_t gen = 0;

    if (lane_super_decode(p, n, &s, &gen, &err) == 0)
        n = LANE_SUPER_SLOT;
    /* Short inputs stand for the beginning of a slot. */
    memset(full, 0, sizeof full);
    memcpy(full, p, n < sizeof full ? n : sizeof full);
    if (lane_super_decode(full, sizeof full, &s, &gen, &err) < 0)
        return 0;
    lane_super_encode(&s, gen, again);
    if (memcmp(full, again, LANE_SUPER_SLOT - 4) != 0)
        abort();
    return 0;
}
