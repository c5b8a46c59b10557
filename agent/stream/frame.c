/* Frames and messages: one encoder and one decoder each, side by side.
 * docs/formats/stream.md is the byte table; nothing else knows these offsets.
 */
#include "stream/frame.h"

#include <string.h>

#include "common/crc32c.h"

void
frame_encode(const struct frame *f, uint8_t out[FRAME_HDR_SIZE])
{
    put_le32(out, FRAME_MAGIC);
    out[4] = STREAM_VERSION;
    out[5] = f->type;
    put_le16(out + 6, f->flags);
    put_le32(out + 8, f->lane);
    put_le32(out + 12, f->body_len);
    put_le64(out + 16, f->id);
    put_le64(out + 24, f->term);
    put_le32(out + 32, f->epoch);
    put_le32(out + 36, crc32c(0, out, 36));
}

int
frame_decode(const uint8_t *p, size_t len, struct frame *out,
             uint8_t *out_version)
{
    if (len < FRAME_HDR_SIZE)
        return -ENODATA;
    if (get_le32(p) != FRAME_MAGIC)
        return -EBADMSG;
#ifndef HOLDFAST_FUZZING
    if (get_le32(p + 36) != crc32c(0, p, 36))
        return -EBADMSG;
#endif
    if (out_version)
        *out_version = p[4];
    if (p[4] != STREAM_VERSION)
        return -EPROTONOSUPPORT;
    if (get_le32(p + 12) > FRAME_BODY_MAX)
        return -EMSGSIZE;
    *out = (struct frame){
        .type = p[5],
        .flags = get_le16(p + 6),
        .lane = get_le32(p + 8),
        .body_len = get_le32(p + 12),
        .id = get_le64(p + 16),
        .term = get_le64(p + 24),
        .epoch = get_le32(p + 32),
    };
    return 0;
}

/* A length byte or two before a text; decoders refuse a NUL inside. */
static size_t
put_text(uint8_t *out, const char *text, size_t max)
{
    size_t n = strnlen(text, max);

    put_le16(out, (uint16_t)n);
    memcpy(out + 2, text, n);
    return n + 2;
}

static int
get_text(const uint8_t *p, size_t len, size_t *pos, char *out, size_t out_size)
{
    size_t n;

    if (len - *pos < 2)
        return -EBADMSG;
    n = get_le16(p + *pos);
    if (n >= out_size || n > len - *pos - 2 ||
        memchr(p + *pos + 2, 0, n) != NULL)
        return -EBADMSG;
    memcpy(out, p + *pos + 2, n);
    out[n] = 0;
    *pos += n + 2;
    return 0;
}

/* HELLO: version_min 0, version_max 1, kind 2, ok 3, features 4, agent 8,
 * peer 24, session 40, wall_ns 48, text 56. */
enum {
    HELLO_FIXED = 56
};

size_t
msg_hello_encode(const struct msg_hello *m, uint8_t *out)
{
    out[0] = m->version_min;
    out[1] = m->version_max;
    out[2] = m->kind;
    out[3] = m->ok;
    put_le32(out + 4, m->features);
    memcpy(out + 8, m->agent.u.b, 16);
    memcpy(out + 24, m->peer.u.b, 16);
    put_le64(out + 40, m->session);
    put_le64(out + 48, m->wall_ns);
    return HELLO_FIXED +
           put_text(out + HELLO_FIXED, m->text, sizeof m->text - 1);
}

int
msg_hello_decode(const uint8_t *p, size_t len, struct msg_hello *out)
{
    struct msg_hello m = { .version_min = 0 };
    size_t pos = HELLO_FIXED;

    if (len < HELLO_FIXED || p[2] > LINK_DATA || p[3] > 1)
        return -EBADMSG;
    m.version_min = p[0];
    m.version_max = p[1];
    m.kind = p[2];
    m.ok = p[3];
    m.features = get_le32(p + 4);
    memcpy(m.agent.u.b, p + 8, 16);
    memcpy(m.peer.u.b, p + 24, 16);
    m.session = get_le64(p + 40);
    m.wall_ns = get_le64(p + 48);
    if (get_text(p, len, &pos, m.text, sizeof m.text) < 0 || pos != len)
        return -EBADMSG;
    *out = m;
    return 0;
}

/* LANE_OPEN: vpg 0, lane 16, incarnation 20, prev_incarnation 36,
 * prev_last_batch 52, generation 60, oldest_batch 76, last_batch 84,
 * durable_seen 92, flags 100, n_volumes 104, volumes 106 (vol 2, size 8). */
enum {
    LANE_OPEN_FIXED = 106,
    LANE_OPEN_VOLUME = 10
};

size_t
msg_lane_open_encode(const struct msg_lane_open *m, uint8_t *out)
{
    uint8_t *v = out + LANE_OPEN_FIXED;

    memcpy(out, m->vpg.u.b, 16);
    put_le32(out + 16, m->lane);
    memcpy(out + 20, m->incarnation.u.b, 16);
    memcpy(out + 36, m->prev_incarnation.u.b, 16);
    put_le64(out + 52, m->prev_last_batch);
    memcpy(out + 60, m->generation.u.b, 16);
    put_le64(out + 76, m->oldest_batch);
    put_le64(out + 84, m->last_batch);
    put_le64(out + 92, m->durable_seen);
    put_le32(out + 100, m->flags);
    put_le16(out + 104, m->n_volumes);
    for (unsigned i = 0; i < m->n_volumes; i++, v += LANE_OPEN_VOLUME) {
        put_le16(v, m->volumes[i].vol);
        put_le64(v + 2, m->volumes[i].size);
    }
    return (size_t)(v - out);
}

int
msg_lane_open_decode(const uint8_t *p, size_t len, struct msg_lane_open *out)
{
    const uint8_t *v = p + LANE_OPEN_FIXED;
    unsigned n;

    if (len < LANE_OPEN_FIXED)
        return -EBADMSG;
    n = get_le16(p + 104);
    if (n > LANE_VOLUMES_MAX || len != LANE_OPEN_FIXED + n * LANE_OPEN_VOLUME)
        return -EBADMSG;
    *out = (struct msg_lane_open){
        .lane = get_le32(p + 16),
        .prev_last_batch = get_le64(p + 52),
        .oldest_batch = get_le64(p + 76),
        .last_batch = get_le64(p + 84),
        .durable_seen = get_le64(p + 92),
        .flags = get_le32(p + 100),
        .n_volumes = (uint16_t)n,
    };
    memcpy(out->vpg.u.b, p, 16);
    memcpy(out->incarnation.u.b, p + 20, 16);
    memcpy(out->prev_incarnation.u.b, p + 36, 16);
    memcpy(out->generation.u.b, p + 60, 16);
    for (unsigned i = 0; i < n; i++, v += LANE_OPEN_VOLUME) {
        out->volumes[i].vol = get_le16(v);
        out->volumes[i].size = get_le64(v + 2);
    }
    return 0;
}

/* LANE_STATE: verdict 0, zero 1..3, incarnation 4, durable_batch 20, digest 28,
 * generation 44, membership_epoch 60, fencing_epoch 64, credit 68, code 76,
 * text after it. */
enum {
    LANE_STATE_FIXED = 76
};

size_t
msg_lane_state_encode(const struct msg_lane_state *m, uint8_t *out)
{
    size_t n = LANE_STATE_FIXED;

    out[0] = m->verdict;
    out[1] = out[2] = out[3] = 0;
    memcpy(out + 4, m->incarnation.u.b, 16);
    put_le64(out + 20, m->durable_batch);
    memcpy(out + 28, m->digest, 16);
    memcpy(out + 44, m->generation.u.b, 16);
    put_le32(out + 60, m->membership_epoch);
    put_le32(out + 64, m->fencing_epoch);
    put_le64(out + 68, m->credit);
    n += put_text(out + n, m->code, sizeof m->code - 1);
    n += put_text(out + n, m->text, sizeof m->text - 1);
    return n;
}

int
msg_lane_state_decode(const uint8_t *p, size_t len, struct msg_lane_state *out)
{
    struct msg_lane_state m = { .verdict = 0 };
    size_t pos = LANE_STATE_FIXED;

    if (len < LANE_STATE_FIXED || p[0] < VERDICT_RESUME ||
        p[0] > VERDICT_REFUSED || (p[1] | p[2] | p[3]) != 0)
        return -EBADMSG;
    m.verdict = p[0];
    memcpy(m.incarnation.u.b, p + 4, 16);
    m.durable_batch = get_le64(p + 20);
    memcpy(m.digest, p + 28, 16);
    memcpy(m.generation.u.b, p + 44, 16);
    m.membership_epoch = get_le32(p + 60);
    m.fencing_epoch = get_le32(p + 64);
    m.credit = get_le64(p + 68);
    if (get_text(p, len, &pos, m.code, sizeof m.code) < 0 ||
        get_text(p, len, &pos, m.text, sizeof m.text) < 0 || pos != len)
        return -EBADMSG;
    *out = m;
    return 0;
}

/* SYNC_DATA: vol 0, zero 2, codec 3, stored_len 4, off 8, len 16, after_seq 24,
 * crc 32, zero 36..47; the data follows. */
size_t
msg_sync_data_encode(const struct msg_sync_data *m, uint8_t *out)
{
    memset(out, 0, SYNC_DATA_HDR_SIZE);
    put_le16(out, m->vol);
    out[2] = m->zero;
    out[3] = m->codec;
    put_le32(out + 4, m->stored_len);
    put_le64(out + 8, m->off);
    put_le64(out + 16, m->len);
    put_le64(out + 24, m->after_seq);
    put_le32(out + 32, m->crc);
    return SYNC_DATA_HDR_SIZE;
}

int
msg_sync_data_decode(const uint8_t *p, size_t len, struct msg_sync_data *out)
{
    struct msg_sync_data m;
    uint64_t max;

    if (len < SYNC_DATA_HDR_SIZE)
        return -EBADMSG;
    for (unsigned i = 36; i < SYNC_DATA_HDR_SIZE; i++) {
        if (p[i] != 0)
            return -EBADMSG;
    }
    m = (struct msg_sync_data){
        .vol = get_le16(p),
        .zero = p[2],
        .codec = p[3],
        .stored_len = get_le32(p + 4),
        .off = get_le64(p + 8),
        .len = get_le64(p + 16),
        .after_seq = get_le64(p + 24),
        .crc = get_le32(p + 32),
    };
    max = m.zero                    ? BATCH_ZERO_MAX
          : m.codec != CHUNK_STORED ? (uint64_t)BATCH_CHUNK_RAW_MAX
                                    : (uint64_t)SYNC_DATA_MAX;
    if (m.zero > 1 || m.codec > CHUNK_ZSTD || m.len == 0 || m.len > max ||
        m.len % 512 != 0 || m.off % 512 != 0 || m.off > UINT64_MAX - m.len ||
        m.stored_len != len - SYNC_DATA_HDR_SIZE)
        return -EBADMSG;
    if (m.zero ? m.stored_len != 0
               : m.stored_len == 0 || m.stored_len > m.len ||
                     (m.codec == CHUNK_STORED && m.stored_len != m.len))
        return -EBADMSG;
    *out = m;
    return 0;
}

/* LANE_STATUS: state 0, progress 1, zero 2..7, lag_bytes 8, lag_ns 16,
 * sync_total 24, sync_done 32. */
enum {
    LANE_STATUS_SIZE = 40
};

size_t
msg_lane_status_encode(const struct msg_lane_status *m, uint8_t *out)
{
    memset(out, 0, LANE_STATUS_SIZE);
    out[0] = m->state;
    out[1] = m->progress;
    put_le64(out + 8, m->lag_bytes);
    put_le64(out + 16, m->lag_ns);
    put_le64(out + 24, m->sync_total);
    put_le64(out + 32, m->sync_done);
    return LANE_STATUS_SIZE;
}

int
msg_lane_status_decode(const uint8_t *p, size_t len, struct msg_lane_status *out)
{
    if (len != LANE_STATUS_SIZE)
        return -EBADMSG;
    for (unsigned i = 2; i < 8; i++) {
        if (p[i] != 0)
            return -EBADMSG;
    }
    *out = (struct msg_lane_status){
        .state = p[0],
        .progress = p[1],
        .lag_bytes = get_le64(p + 8),
        .lag_ns = get_le64(p + 16),
        .sync_total = get_le64(p + 24),
        .sync_done = get_le64(p + 32),
    };
    return 0;
}

size_t
msg_error_encode(const struct msg_error *m, uint8_t *out)
{
    size_t n = put_text(out, m->code, sizeof m->code - 1);

    return n + put_text(out + n, m->text, sizeof m->text - 1);
}

int
msg_error_decode(const uint8_t *p, size_t len, struct msg_error *out)
{
    struct msg_error m = { .code = "" };
    size_t pos = 0;

    if (get_text(p, len, &pos, m.code, sizeof m.code) < 0 ||
        get_text(p, len, &pos, m.text, sizeof m.text) < 0 || pos != len)
        return -EBADMSG;
    *out = m;
    return 0;
}
