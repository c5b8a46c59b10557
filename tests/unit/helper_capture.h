/* For the capture tests: a loop whose clock stands still until told, and a
 * receiver that checks and applies batches as the other side does. */
#ifndef HOLDFAST_TESTS_UNIT_HELPER_CAPTURE_H
#define HOLDFAST_TESTS_UNIT_HELPER_CAPTURE_H

#include "capture/capture.h"

/* --- simulated time ----------------------------------------------------- */

struct io_loop *sim_loop_new(void);
void sim_loop_free(struct io_loop *loop);
void sim_advance(uint64_t ns);
/* Turns until nothing is left to run. */
void sim_turn(struct io_loop *loop);

/* --- random numbers ----------------------------------------------------- */

struct rnd {
    uint64_t s;
};
uint32_t rnd_next(struct rnd *r);
uint32_t rnd_below(struct rnd *r, uint32_t n);
bool rnd_chance(struct rnd *r, uint32_t in_1000);

/* --- the receiver ------------------------------------------------------- */

enum {
    RX_VOLUMES = 4,
    RX_PENDING_MAX = 4096
};

struct rx_image {
    uint8_t *data;
    uint64_t *seq; /* of each sector: position of what it holds */
    uint64_t size;
};

struct rx_pending {
    uint8_t *bytes;
    size_t len;
};

struct rx {
    struct capture *c;
    enum chunk_codec codec;
    struct rx_image vol[RX_VOLUMES];
    struct rx_pending pending[RX_PENDING_MAX]; /* received, not durable */
    size_t pending_n;
    uint64_t next_batch, next_seq;
    uint8_t digest[16]; /* of the last received */
    uint64_t durable, durable_seq;
    uint8_t durable_digest[16];
    uint64_t due_ns;      /* what capture_next() said last */
    uint64_t entries[32]; /* applied, by type */
    /* Before an entry is applied; payload NULL for ZERO and such. */
    void (*entry)(void *arg, const struct lane_entry *e, uint64_t seq,
                  const uint8_t *payload, uint16_t batch_flags);
    void *arg;
};

void rx_init(struct rx *rx, struct capture *c, uint64_t first_seq);
void rx_volume(struct rx *rx, uint16_t vol, uint64_t size);
void rx_release(struct rx *rx);
/* Take all batches that are due; each must decode and continue the chain. */
size_t rx_pull(struct rx *rx);
/* The n oldest received ones become durable: applied, and the source told. */
void rx_durable(struct rx *rx, size_t n);
/* The link breaks: what is not durable is lost and asked for again. */
void rx_drop(struct rx *rx);
/* Everything: time passes, all is received and durable. */
void rx_drain(struct rx *rx, struct io_loop *loop);
/* A straight write: sectors that hold something newer keep it. */
void rx_straight(struct rx *rx, uint16_t vol, uint64_t off, uint64_t len,
                 const uint8_t *data, uint64_t after_seq);

#endif
