/* The part of the supervisor that is arithmetic. */
#ifndef HOLDFAST_AGENT_SUPERVISOR_H
#define HOLDFAST_AGENT_SUPERVISOR_H

#include <stdint.h>

enum {
    SUPERVISOR_DELAY_MIN_MS = 100,
    SUPERVISOR_DELAY_MAX_MS = 30000,
    SUPERVISOR_STABLE_MS = 30000, /* after this, the delay begins anew */
};

/* How long to wait before the next start of a role that ran for ran_ms after
 * a wait of delay_ms (0: the first start). */
uint64_t supervisor_next_delay(uint64_t delay_ms, uint64_t ran_ms);

#endif
