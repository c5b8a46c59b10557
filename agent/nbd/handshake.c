/* The negotiation machine: fixed newstyle with the options of
 * docs/formats/nbd.md.  Which options are allowed when is decided in
 * run_option() and nowhere else. */
#include "nbd/handshake.h"

#include <assert.h>
#include <string.h>

#include "common/bytes.h"

enum {
    OFFERED = NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES
};

int
nbd_hs_init(struct nbd_hs *hs, const struct nbd_hs_host *host)
{
    uint8_t greeting[NBD_GREETING_SIZE];

    hs->host = host;
    hs->why = NULL;
    hs->chosen = NULL;
    hs->terms = (struct nbd_terms){ .size = 0 };
    hs->state = NBD_HS_CLIENT_FLAGS;
    hs->client_flags = hs->options = 0;
    hs->tls = hs->structured = false;
    hs->context_of = NULL;
    hs->opt = (struct nbd_option){ .type = 0 };
    hs->have = hs->skip = 0;
    buf_init(&hs->out, NBD_HS_OUT_MAX);
    nbd_greeting_encode(greeting, OFFERED);
    return buf_add(&hs->out, greeting, sizeof greeting);
}

void
nbd_hs_release(struct nbd_hs *hs)
{
    buf_release(&hs->out);
}

void
nbd_hs_tls_on(struct nbd_hs *hs)
{
    hs->tls = true;
    hs->structured = false;
    hs->context_of = NULL;
}

/* --- replies ------------------------------------------------------------ */

/* A reply whose data comes in up to two pieces.  Lack of room or memory is
 * sticky in out and dealt with once, in finish(). */
static void
reply2(struct nbd_hs *hs, uint32_t type, const void *a, size_t an,
       const void *b, size_t bn)
{
    uint8_t head[NBD_OPT_REPLY_SIZE];

    nbd_opt_reply_encode(head, hs->opt.type, type, (uint32_t)(an + bn));
    (void)buf_add(&hs->out, head, sizeof head);
    (void)buf_add(&hs->out, a, an);
    (void)buf_add(&hs->out, b, bn);
}

static void
reply(struct nbd_hs *hs, uint32_t type)
{
    reply2(hs, type, NULL, 0, NULL, 0);
}

static void
reply_err(struct nbd_hs *hs, uint32_t type, const char *text)
{
    reply2(hs, type, text, strlen(text), NULL, 0);
}

static enum nbd_hs_next
broken(struct nbd_hs *hs, const char *why)
{
    hs->state = NBD_HS_END;
    hs->why = why;
    return NBD_HS_BROKEN;
}

/* --- options ------------------------------------------------------------ */

static void
choose(struct nbd_hs *hs, const struct nbd_hs_export *e)
{
    hs->chosen = e->ref;
    hs->terms = (struct nbd_terms){
        .size = e->size,
        .block = e->block,
        .tx_flags = e->tx_flags,
        .structured = hs->structured,
        .allocation = hs->structured && hs->context_of == e->ref,
    };
    if (hs->structured)
        hs->terms.tx_flags |= NBD_TX_SEND_DF;
    hs->state = NBD_HS_END;
}

static uint16_t
tx_flags(const struct nbd_hs *hs, const struct nbd_hs_export *e)
{
    return (uint16_t)(e->tx_flags | (hs->structured ? NBD_TX_SEND_DF : 0));
}

static enum nbd_hs_next
opt_export_name(struct nbd_hs *hs)
{
    static const uint8_t zeroes[NBD_EXPORT_NAME_ZEROES];
    uint8_t out[NBD_EXPORT_NAME_REPLY_SIZE];
    struct nbd_hs_export e;

    /* This option has no way to say no but to close. */
    if (!hs->host->find(hs->host->arg, (const char *)hs->in, hs->opt.len, &e))
        return broken(hs, "asked for an export that is not there");
    nbd_export_name_reply_encode(out, e.size, tx_flags(hs, &e));
    (void)buf_add(&hs->out, out, sizeof out);
    if (!(hs->client_flags & NBD_FLAG_NO_ZEROES))
        (void)buf_add(&hs->out, zeroes, sizeof zeroes);
    choose(hs, &e);
    return NBD_HS_GO;
}

static enum nbd_hs_next
opt_list(struct nbd_hs *hs)
{
    struct nbd_hs_export e;
    uint8_t head[NBD_OPT_REPLY_SIZE], n[4];
    size_t i, name_len, description_len;

    if (hs->opt.len) {
        reply_err(hs, NBD_REP_ERR_INVALID, "LIST has no data");
        return NBD_HS_MORE;
    }
    for (i = 0; hs->host->list(hs->host->arg, i, &e); i++) {
        name_len = strlen(e.name);
        description_len = e.description ? strlen(e.description) : 0;
        nbd_opt_reply_encode(head, hs->opt.type, NBD_REP_SERVER,
                             (uint32_t)(4 + name_len + description_len));
        put_be32(n, (uint32_t)name_len);
        (void)buf_add(&hs->out, head, sizeof head);
        (void)buf_add(&hs->out, n, sizeof n);
        (void)buf_add(&hs->out, e.name, name_len);
        (void)buf_add(&hs->out, e.description, description_len);
    }
    reply(hs, NBD_REP_ACK);
    return NBD_HS_MORE;
}

static enum nbd_hs_next
opt_starttls(struct nbd_hs *hs)
{
    if (hs->opt.len) {
        reply_err(hs, NBD_REP_ERR_INVALID, "STARTTLS has no data");
        return NBD_HS_MORE;
    }
    if (hs->tls) {
        reply_err(hs, NBD_REP_ERR_INVALID, "TLS is on already");
        return NBD_HS_MORE;
    }
    if (!hs->host->tls_offered) {
        reply_err(hs, NBD_REP_ERR_POLICY, "this listener has no TLS");
        return NBD_HS_MORE;
    }
    reply(hs, NBD_REP_ACK);
    return NBD_HS_START_TLS;
}

static void
reply_info_text(struct nbd_hs *hs, enum nbd_info info, const char *text)
{
    uint8_t type[2];

    put_be16(type, (uint16_t)info);
    reply2(hs, NBD_REP_INFO, type, sizeof type, text, strlen(text));
}

static enum nbd_hs_next
opt_info_or_go(struct nbd_hs *hs)
{
    uint8_t info[NBD_INFO_EXPORT_SIZE], bs[NBD_INFO_BLOCK_SIZE_SIZE];
    struct nbd_hs_export e;
    struct nbd_opt_go go;

    if (nbd_opt_go_decode(hs->in, hs->opt.len, &go) < 0) {
        reply_err(hs, NBD_REP_ERR_INVALID, "lengths do not add up");
        return NBD_HS_MORE;
    }
    if (!hs->host->find(hs->host->arg, go.name, go.name_len, &e)) {
        reply_err(hs, NBD_REP_ERR_UNKNOWN, "no such export");
        return NBD_HS_MORE;
    }
    nbd_info_export_encode(info, e.size, tx_flags(hs, &e));
    reply2(hs, NBD_REP_INFO, info, sizeof info, NULL, 0);
    if (go.want_name)
        reply_info_text(hs, NBD_INFO_NAME, e.name);
    if (go.want_description && e.description)
        reply_info_text(hs, NBD_INFO_DESCRIPTION, e.description);
    if (go.want_block_size || e.block.min > 1) {
        nbd_info_block_size_encode(bs, &e.block);
        reply2(hs, NBD_REP_INFO, bs, sizeof bs, NULL, 0);
    }
    reply(hs, NBD_REP_ACK);
    if (hs->opt.type == NBD_OPT_INFO)
        return NBD_HS_MORE;
    choose(hs, &e);
    return NBD_HS_GO;
}

static enum nbd_hs_next
opt_structured_reply(struct nbd_hs *hs)
{
    if (hs->opt.len) {
        reply_err(hs, NBD_REP_ERR_INVALID, "STRUCTURED_REPLY has no data");
        return NBD_HS_MORE;
    }
    hs->structured = true;
    reply(hs, NBD_REP_ACK);
    return NBD_HS_MORE;
}

static enum nbd_hs_next
opt_meta_context(struct nbd_hs *hs)
{
    bool set = hs->opt.type == NBD_OPT_SET_META_CONTEXT, match;
    struct nbd_hs_export e;
    struct nbd_opt_meta m;
    uint8_t id[4];

    if (set)
        hs->context_of = NULL; /* also when this command fails */
    if (!hs->structured) {
        reply_err(hs, NBD_REP_ERR_INVALID, "structured replies come first");
        return NBD_HS_MORE;
    }
    if (nbd_opt_meta_decode(hs->in, hs->opt.len, &m) < 0) {
        reply_err(hs, NBD_REP_ERR_INVALID, "lengths do not add up");
        return NBD_HS_MORE;
    }
    if (!hs->host->find(hs->host->arg, m.name, m.name_len, &e)) {
        reply_err(hs, NBD_REP_ERR_UNKNOWN, "no such export");
        return NBD_HS_MORE;
    }
    match = set ? m.allocation : m.allocation || m.base || m.queries == 0;
    if (match) {
        put_be32(id, set ? NBD_CONTEXT_ALLOCATION_ID : 0);
        reply2(hs, NBD_REP_META_CONTEXT, id, sizeof id, NBD_CONTEXT_ALLOCATION,
               strlen(NBD_CONTEXT_ALLOCATION));
        if (set)
            hs->context_of = e.ref;
    }
    reply(hs, NBD_REP_ACK);
    return NBD_HS_MORE;
}

static enum nbd_hs_next
opt_abort(struct nbd_hs *hs)
{
    reply(hs, NBD_REP_ACK);
    hs->state = NBD_HS_END;
    return NBD_HS_BYE;
}

static const struct {
    enum nbd_hs_next (*run)(struct nbd_hs *hs);
    enum nbd_opt type;
    bool before_tls; /* also while TLS is still to come on a forced listener */
} options[] = {
    { opt_export_name, NBD_OPT_EXPORT_NAME, false },
    { opt_abort, NBD_OPT_ABORT, true },
    { opt_list, NBD_OPT_LIST, false },
    { opt_starttls, NBD_OPT_STARTTLS, true },
    { opt_info_or_go, NBD_OPT_INFO, false },
    { opt_info_or_go, NBD_OPT_GO, false },
    { opt_structured_reply, NBD_OPT_STRUCTURED_REPLY, false },
    { opt_meta_context, NBD_OPT_LIST_META_CONTEXT, false },
    { opt_meta_context, NBD_OPT_SET_META_CONTEXT, false },
};

static enum nbd_hs_next
run_option(struct nbd_hs *hs, bool skipped)
{
    bool tls_first = hs->host->tls_forced && !hs->tls;
    bool is_name = hs->opt.type == NBD_OPT_EXPORT_NAME;
    size_t i;

    if (is_name && (skipped || tls_first))
        return broken(hs, skipped ? "an export name is too long"
                                  : "asked for an export before TLS");
    if (!is_name && !(hs->client_flags & NBD_FLAG_FIXED_NEWSTYLE))
        return broken(hs, "sent an option without fixed newstyle");
    for (i = 0; i < ARRAY_SIZE(options); i++) {
        if ((uint32_t)options[i].type == hs->opt.type)
            break;
    }
    if (tls_first && (i == ARRAY_SIZE(options) || !options[i].before_tls))
        reply_err(hs, NBD_REP_ERR_TLS_REQD, "STARTTLS comes first");
    else if (i == ARRAY_SIZE(options))
        reply_err(hs, NBD_REP_ERR_UNSUP, "unknown option");
    else if (skipped && options[i].type != NBD_OPT_ABORT)
        reply_err(hs, NBD_REP_ERR_TOO_BIG, "the option's data is too long");
    else
        return options[i].run(hs);
    return NBD_HS_MORE;
}

/* An option and its data are complete.  An answer that does not fit is
 * replaced by an error. */
static enum nbd_hs_next
finish(struct nbd_hs *hs, bool skipped)
{
    size_t before = hs->out.len;
    enum nbd_hs_next next;

    hs->have = 0;
    hs->state = NBD_HS_OPTION;
    next = run_option(hs, skipped);
    if (!hs->out.failed)
        return next;
    if (next != NBD_HS_MORE)
        return broken(hs, "no memory for an answer");
    hs->out.failed = 0;
    hs->out.len = before;
    reply(hs, NBD_REP_ERR_TOO_BIG);
    return hs->out.failed ? broken(hs, "no memory for an answer") : next;
}

/* --- bytes -------------------------------------------------------------- */

static size_t
unit_size(const struct nbd_hs *hs)
{
    switch (hs->state) {
    case NBD_HS_CLIENT_FLAGS: return NBD_CLIENT_FLAGS_SIZE;
    case NBD_HS_OPTION: return NBD_OPTION_SIZE;
    case NBD_HS_DATA: return hs->opt.len;
    case NBD_HS_SKIP: return MIN(hs->skip, sizeof hs->in);
    case NBD_HS_END: break;
    }
    return 0;
}

size_t
nbd_hs_want(struct nbd_hs *hs, uint8_t **out_to)
{
    *out_to = hs->in + hs->have;
    return unit_size(hs) - hs->have;
}

static enum nbd_hs_next
got_option(struct nbd_hs *hs)
{
    if (nbd_option_decode(hs->in, &hs->opt) < 0)
        return broken(hs, "sent a wrong option magic");
    if (++hs->options > NBD_HS_OPTIONS_MAX)
        return broken(hs, "sent too many options");
    hs->have = 0;
    if (hs->opt.len == 0)
        return finish(hs, false);
    if (hs->opt.len <= NBD_HS_DATA_MAX) {
        hs->state = NBD_HS_DATA;
        return NBD_HS_MORE;
    }
    if (hs->opt.len > NBD_HS_SKIP_MAX)
        return broken(hs, "sent an option that is too long");
    hs->skip = hs->opt.len;
    hs->state = NBD_HS_SKIP;
    return NBD_HS_MORE;
}

enum nbd_hs_next
nbd_hs_got(struct nbd_hs *hs, size_t n)
{
    assert(n <= unit_size(hs) - hs->have);
    hs->have += n;
    if (hs->have < unit_size(hs))
        return NBD_HS_MORE;
    switch (hs->state) {
    case NBD_HS_CLIENT_FLAGS:
        if (nbd_client_flags_decode(hs->in, OFFERED, &hs->client_flags) < 0)
            return broken(hs, "set flags that were not offered");
        hs->have = 0;
        hs->state = NBD_HS_OPTION;
        return NBD_HS_MORE;
    case NBD_HS_OPTION: return got_option(hs);
    case NBD_HS_DATA: return finish(hs, false);
    case NBD_HS_SKIP:
        hs->skip -= hs->have;
        hs->have = 0;
        return hs->skip ? NBD_HS_MORE : finish(hs, true);
    case NBD_HS_END: break;
    }
    return broken(hs, "sent bytes after the end");
}
