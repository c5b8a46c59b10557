/* Control payloads: what CUT_COMMIT, GAP, RESYNC_BEGIN and INCARNATION carry.
 * docs/formats/batch.md, "Control payloads".  The batch's checksums cover them;
 * these decoders check lengths, limits and reserved bytes. */
#include <string.h>

#include "lane/batch.h"

enum {
    CUT_FIXED_SIZE = 34,
    GAP_SIZE = 16,
    BEGIN_SIZE = 32,
    INCARNATION_SIZE = 32,
};

static bool
range_in_epoch(uint64_t first, uint64_t last)
{
    return first != 0 && first <= last &&
           first >> LANE_SEQ_EPOCH_SHIFT == last >> LANE_SEQ_EPOCH_SHIFT;
}

/* 0, -ENODATA: cut short, -EBADMSG: something behind it. */
static int
exact_len(size_t len, size_t want)
{
    return len < want ? -ENODATA : len > want ? -EBADMSG : 0;
}

size_t
cut_commit_encode(const struct cut_commit *c, uint8_t *out)
{
    put_le64(out, c->cut_no);
    put_le64(out + 8, c->wall_ns);
    put_le64(out + 16, c->term);
    put_le32(out + 24, c->membership_epoch);
    out[28] = c->kind;
    out[29] = c->consistency;
    put_le16(out + 30, c->n_positions);
    put_le16(out + 32, c->tag_len);
    memcpy(out + CUT_FIXED_SIZE, c->tag, c->tag_len);
    return (size_t)CUT_FIXED_SIZE + c->tag_len;
}

int
cut_commit_decode(const uint8_t *p, size_t len, struct cut_commit *out)
{
    struct cut_commit c;
    int rc;

    if (len < CUT_FIXED_SIZE)
        return -ENODATA;
    c = (struct cut_commit){
        .cut_no = get_le64(p),
        .wall_ns = get_le64(p + 8),
        .term = get_le64(p + 16),
        .membership_epoch = get_le32(p + 24),
        .kind = p[28],
        .consistency = p[29],
        .n_positions = get_le16(p + 30),
        .tag_len = get_le16(p + 32),
    };
    if (c.kind > CUT_APPLICATION || c.consistency > 1 ||
        c.tag_len > BATCH_TAG_MAX)
        return -EBADMSG;
    if (c.n_positions != 0) /* cuts across replicators: a later release */
        return -EPROTONOSUPPORT;
    rc = exact_len(len, (size_t)CUT_FIXED_SIZE + c.tag_len);
    if (rc < 0)
        return rc;
    if (memchr(p + CUT_FIXED_SIZE, '\0', c.tag_len))
        return -EBADMSG;
    memcpy(c.tag, p + CUT_FIXED_SIZE, c.tag_len);
    *out = c;
    return 0;
}

size_t
lane_gap_encode(const struct lane_gap *g, uint8_t *out)
{
    put_le64(out, g->first_seq);
    put_le64(out + 8, g->last_seq);
    return GAP_SIZE;
}

int
lane_gap_decode(const uint8_t *p, size_t len, struct lane_gap *out)
{
    struct lane_gap g;
    int rc = exact_len(len, GAP_SIZE);

    if (rc < 0)
        return rc;
    g = (struct lane_gap){ get_le64(p), get_le64(p + 8) };
    if (!range_in_epoch(g.first_seq, g.last_seq))
        return -EBADMSG;
    *out = g;
    return 0;
}

size_t
resync_begin_encode(const struct resync_begin *r, uint8_t *out)
{
    memset(out, 0, BEGIN_SIZE);
    put_le64(out, r->scope_bytes);
    memcpy(out + 8, r->salt, sizeof r->salt);
    out[24] = r->reason;
    return BEGIN_SIZE;
}

int
resync_begin_decode(const uint8_t *p, size_t len, struct resync_begin *out)
{
    int rc = exact_len(len, BEGIN_SIZE);

    if (rc < 0)
        return rc;
    if (p[24] > RESYNC_IO_ERROR || !bytes_all_zero(p + 25, BEGIN_SIZE - 25))
        return -EBADMSG;
    *out = (struct resync_begin){ .scope_bytes = get_le64(p), .reason = p[24] };
    memcpy(out->salt, p + 8, sizeof out->salt);
    return 0;
}

size_t
lane_incarnation_encode(const struct lane_incarnation *i, uint8_t *out)
{
    memset(out, 0, INCARNATION_SIZE);
    memcpy(out, i->prev.u.b, 16);
    put_le64(out + 16, i->prev_last_batch);
    out[24] = i->exact;
    return INCARNATION_SIZE;
}

int
lane_incarnation_decode(const uint8_t *p, size_t len,
                        struct lane_incarnation *out)
{
    int rc = exact_len(len, INCARNATION_SIZE);

    if (rc < 0)
        return rc;
    if (p[24] > 1 || !bytes_all_zero(p + 25, INCARNATION_SIZE - 25))
        return -EBADMSG;
    *out = (struct lane_incarnation){ .prev_last_batch = get_le64(p + 16),
                                      .exact = p[24] };
    memcpy(out->prev.u.b, p, 16);
    return 0;
}
