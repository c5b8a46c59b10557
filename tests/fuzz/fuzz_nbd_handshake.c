/* room: nbd io common */
/* The negotiation machine on arbitrary bytes.  The first byte chooses the TLS
 * mode, the second how the rest is cut. */
#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "common/bytes.h"
#include "nbd/handshake.h"

static const struct nbd_hs_export one = {
    .name = "disk",
    .description = "a disk",
    .size = 1 << 20,
    .tx_flags = NBD_TX_HAS_FLAGS,
    .block = { 512, 4096, NBD_PAYLOAD_MAX },
};

static bool
find(void *arg, const char *name, size_t len, struct nbd_hs_export *out)
{
    if (len && (len != 4 || memcmp(name, "disk", 4) != 0))
        return false;
    *out = one;
    out->ref = arg;
    return true;
}

static bool
list(void *arg, size_t i, struct nbd_hs_export *out)
{
    return i < 3 && find(arg, "", 0, out);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

int
LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    static struct nbd_hs hs;
    struct nbd_hs_host host = { .find = find, .list = list, .arg = &hs };
    enum nbd_hs_next next = NBD_HS_MORE;
    size_t step, k;
    uint8_t *to;

    if (n < 2)
        return 0;
    host.tls_offered = p[0] & 1;
    host.tls_forced = (p[0] & 3) == 3;
    step = 1 + (size_t)p[1];
    p += 2;
    n -= 2;
    if (nbd_hs_init(&hs, &host) < 0)
        return 0;
    while (n && next == NBD_HS_MORE) {
        k = nbd_hs_want(&hs, &to);
        assert(k > 0 && k <= sizeof hs.in);
        assert(to >= hs.in && to + k <= hs.in + sizeof hs.in);
        k = MIN(MIN(k, n), step);
        memcpy(to, p, k);
        p += k;
        n -= k;
        next = nbd_hs_got(&hs, k);
        assert(hs.out.len <= NBD_HS_OUT_MAX);
        if (next == NBD_HS_START_TLS) {
            assert(host.tls_offered && !hs.tls);
            nbd_hs_tls_on(&hs);
            next = NBD_HS_MORE;
        }
        if (next == NBD_HS_GO) {
            assert(hs.chosen == &hs);
            assert(!host.tls_forced || hs.tls);
            assert(!hs.terms.allocation || hs.terms.structured);
        }
        buf_clear(&hs.out);
    }
    nbd_hs_release(&hs);
    return 0;
}
