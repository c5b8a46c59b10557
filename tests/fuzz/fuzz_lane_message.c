/* room: stream lane common */
/* Frames and the bodies of all messages; what is accepted must encode to the
 * same bytes again. */
#include <stdlib.h>
#include <string.h>

#include "stream/frame.h"

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

static uint8_t out[MSG_BODY_MAX];

static void
same(const uint8_t *p, size_t n, size_t m)
{
    if (m != n || memcmp(p, out, n) != 0)
        abort();
}

int
LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    static struct msg_lane_open open;
    struct msg_hello hello;
    struct msg_lane_state state;
    struct msg_lane_status status;
    struct msg_sync_data sync;
    struct msg_error error;
    struct frame f;

    if (frame_decode(p, n, &f, NULL) < 0)
        return 0;
    p += FRAME_HDR_SIZE;
    n -= FRAME_HDR_SIZE;
    switch (f.type) {
    case FRAME_HELLO:
    case FRAME_HELLO_ACK:
        if (msg_hello_decode(p, n, &hello) == 0)
            same(p, n, msg_hello_encode(&hello, out));
        break;
    case FRAME_LANE_OPEN:
        if (msg_lane_open_decode(p, n, &open) == 0)
            same(p, n, msg_lane_open_encode(&open, out));
        break;
    case FRAME_LANE_STATE:
        if (msg_lane_state_decode(p, n, &state) == 0)
            same(p, n, msg_lane_state_encode(&state, out));
        break;
    case FRAME_LANE_STATUS:
        if (msg_lane_status_decode(p, n, &status) == 0)
            same(p, n, msg_lane_status_encode(&status, out));
        break;
    case FRAME_SYNC_DATA:
        if (msg_sync_data_decode(p, n, &sync) == 0)
            same(p, SYNC_DATA_HDR_SIZE, msg_sync_data_encode(&sync, out));
        break;
    case FRAME_ERROR:
    case FRAME_BYE:
        if (msg_error_decode(p, n, &error) == 0)
            same(p, n, msg_error_encode(&error, out));
        break;
    default: break;
    }
    return 0;
}
