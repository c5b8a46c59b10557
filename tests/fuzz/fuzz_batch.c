/* room: lane common */
/* The batch decoder with everything behind it: bodies, payloads, control
 * payloads, chunks.  Whatever is accepted must be safe to walk. */
#include <stdlib.h>
#include <string.h>

#include "lane/batch.h"

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

static void
control_payload(const struct lane_entry *e, const uint8_t *p)
{
    struct cut_commit cut;
    struct lane_gap gap;
    struct resync_begin begin;
    struct lane_incarnation inc;

    (void)(cut_commit_decode(p, e->aux, &cut) + lane_gap_decode(p, e->aux, &gap) +
           resync_begin_decode(p, e->aux, &begin) +
           lane_incarnation_decode(p, e->aux, &inc));
}

int
LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    static uint8_t out[BATCH_WRITE_MAX];
    struct batch_view b;
    struct err err = ERR_INIT;
    uint64_t payload = 0, seq = 0;
    size_t size = 0;

    if (batch_decode_head(p, n, &b, &err) == 0 &&
        batch_head_size(b.hdr.n_entries, b.hdr.n_chunks) != b.head_len)
        abort();
    if (batch_decode(p, n, &b, &err) < 0)
        return 0;
    if (batch_peek(p, n, &size) != 0 || size != b.size || size > n ||
        size > BATCH_SIZE_MAX)
        abort();
    (void)batch_verify_bodies(&b, &err);
    for (uint32_t i = 0; i < b.hdr.n_entries; i++) {
        struct lane_entry e;

        batch_entry(&b, i, &e);
        if (batch_entry_seq(&b, i) < seq)
            abort();
        seq = batch_entry_seq(&b, i);
        if (e.chunk == BATCH_NO_CHUNK)
            continue;
        payload += (uint64_t)e.len512 * 512;
        if (batch_entry_payload(&b, i, out, sizeof out, &err) == 0 && e.aux != 0)
            control_payload(&e, out);
    }
    if (payload != b.hdr.raw_len || seq != b.hdr.last_seq)
        abort();
    return 0;
}
