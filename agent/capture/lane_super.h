/* lane.super: what a lane's source must remember across restarts.
 * docs/formats/lane-super.md.  Two 4 KiB copies, the valid one with the highest
 * generation of its own wins; written through io_replace semantics of two
 * slots: the older slot is overwritten and synced. */
#ifndef HOLDFAST_CAPTURE_LANE_SUPER_H
#define HOLDFAST_CAPTURE_LANE_SUPER_H

#include "io/file.h"
#include "lane/batch.h"

struct lane_super_volume {
    uint16_t vol;
    uint64_t size;
    uint64_t fp_identity, fp_size, fp_mtime_ns; /* of the backing at a clean
                                                 * detach; 0: cannot prove */
};

struct lane_super {
    struct vpg_id vpg;
    uint32_t lane, seq_epoch;
    struct incarnation_id incarnation, prev_incarnation;
    uint64_t prev_last_batch;
    struct generation_id generation;
    uint32_t fencing_epoch;
    uint64_t next_cut_no; /* numbers below may have been used; advanced in
                           * steps of 1024 ahead of use */
    bool clean;  /* drained and detached; false is durable before the first
                       * write after an attach */
    bool synced; /* an initial sync has once been completed */
    uint32_t n_volumes;
    struct lane_super_volume volumes[80];
};

enum {
    LANE_SUPER_SLOT = 4096,
    LANE_SUPER_VERSION = 1
};

void lane_super_encode(const struct lane_super *s, uint64_t gen,
                       uint8_t out[LANE_SUPER_SLOT]);
int lane_super_decode(const uint8_t *p, size_t len, struct lane_super *out,
                      uint64_t *out_gen, struct err *err);
/* Blocking; worker or start-up.  -ENOENT: no such file; -EPROTONOSUPPORT: a
 * newer release wrote it (left untouched); -EBADMSG: both slots damaged. */
int lane_super_load(struct io_loop *loop, const char *path,
                    struct lane_super *out, struct err *err);
int lane_super_store(struct io_loop *loop, const char *path,
                     const struct lane_super *s, struct err *err);

#endif
