/* The negotiation of one NBD connection as a machine: bytes in, bytes out, and
 * a word about what to do next.  It knows no socket, device or clock, so that
 * a fuzzer can drive it.
 *
 * Its driver reads exactly what nbd_hs_want() asks for and never more: bytes
 * behind STARTTLS belong to TLS (text injected in the clear before the
 * handshake must not be taken for text inside it), and bytes behind GO belong
 * to the transmission phase.
 *
 * Bounds: an option's data is buffered up to NBD_HS_DATA_MAX bytes, skipped up
 * to NBD_HS_SKIP_MAX, and closes the connection beyond; a connection has at
 * most NBD_HS_OPTIONS_MAX options; the driver sends what is in out before it
 * feeds more.
 */
#ifndef HOLDFAST_NBD_HANDSHAKE_H
#define HOLDFAST_NBD_HANDSHAKE_H

#include "common/buf.h"
#include "nbd/proto.h"

enum {
    NBD_HS_DATA_MAX = 2 * NBD_STRING_MAX,
    NBD_HS_SKIP_MAX = 1 << 20,
    NBD_HS_OPTIONS_MAX = 256,
    NBD_HS_OUT_MAX = 4 << 20,
};

/* An export as the client sees it; strings are borrowed. */
struct nbd_hs_export {
    void *ref;                      /* the driver's own */
    const char *name, *description; /* description: NULL when there is none */
    uint64_t size;
    uint16_t tx_flags; /* without SEND_DF, which the machine adds */
    struct nbd_block_size block;
};

/* What the machine asks of its surroundings. */
struct nbd_hs_host {
    /* The export of that name ("" is the default one); false: none. */
    bool (*find)(void *arg, const char *name, size_t name_len,
                 struct nbd_hs_export *out);
    /* The i-th export of the list; false: there are no more. */
    bool (*list)(void *arg, size_t i, struct nbd_hs_export *out);
    void *arg;
    bool tls_offered, tls_forced;
};

enum nbd_hs_next {
    NBD_HS_MORE,      /* send out, then read on */
    NBD_HS_START_TLS, /* send out, then start TLS, then nbd_hs_tls_on() */
    NBD_HS_GO,        /* send out, then serve: see chosen and terms */
    NBD_HS_BYE,       /* send out, then close: the client asked for it */
    NBD_HS_BROKEN,    /* close: see why */
};

enum nbd_hs_state {
    NBD_HS_CLIENT_FLAGS,
    NBD_HS_OPTION,
    NBD_HS_DATA,
    NBD_HS_SKIP,
    NBD_HS_END,
};

struct nbd_hs {
    const struct nbd_hs_host *host;
    struct buf out;  /* bytes for the client; the driver consumes them */
    const char *why; /* BROKEN: a sentence, constant */
    void *chosen;    /* GO: the export's ref */
    struct nbd_terms terms;
    /* private */
    enum nbd_hs_state state;
    unsigned client_flags, options;
    bool tls, structured;
    void *context_of; /* the export whose base:allocation was selected */
    struct nbd_option opt;
    size_t have, skip;
    uint8_t in[NBD_HS_DATA_MAX];
};

/* Begin; the greeting is in out.  0 or -ENOMEM.  host is borrowed. */
int nbd_hs_init(struct nbd_hs *hs, const struct nbd_hs_host *host);
void nbd_hs_release(struct nbd_hs *hs);

/* Where the next bytes go, and how many at most (at least 1 until END). */
size_t nbd_hs_want(struct nbd_hs *hs, uint8_t **out_to);
/* n bytes were put there, 1..want. */
enum nbd_hs_next nbd_hs_got(struct nbd_hs *hs, size_t n);
/* TLS is on: what was negotiated before it is forgotten. */
void nbd_hs_tls_on(struct nbd_hs *hs);

#endif
