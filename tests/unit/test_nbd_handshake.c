/* room: nbd io common */
/* The negotiation machine, without sockets: each option, the order in which
 * they are allowed, TLS modes, and clients that lie. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/bytes.h"
#include "nbd/handshake.h"

/* Two exports, "a" (the default one) and "b" (with a description). */
static bool
get(size_t i, struct nbd_hs_export *out)
{
    static const struct nbd_hs_export all[] = {
        { .ref = (void *)(uintptr_t)1,
          .name = "a",
          .size = 1 << 20,
          .tx_flags = NBD_TX_HAS_FLAGS,
          .block = { 512, 4096, NBD_PAYLOAD_MAX } },
        { .ref = (void *)(uintptr_t)2,
          .name = "b",
          .description = "two",
          .size = 2 << 20,
          .tx_flags = NBD_TX_HAS_FLAGS | NBD_TX_READ_ONLY,
          .block = { 1, 4096, NBD_PAYLOAD_MAX } },
    };

    if (i >= ARRAY_SIZE(all))
        return false;
    *out = all[i];
    return true;
}

static bool
list(void *arg, size_t i, struct nbd_hs_export *out)
{
    return get(i, out);
}

static bool
find(void *arg, const char *name, size_t len, struct nbd_hs_export *out)
{
    struct nbd_hs_export e;
    size_t i;

    for (i = 0; get(i, &e); i++) {
        if (len == 0 || (len == 1 && name[0] == e.name[0])) {
            *out = e;
            return true;
        }
    }
    return false;
}

struct talk {
    struct nbd_hs_host host;
    struct nbd_hs hs;
    enum nbd_hs_next next;
};

/* Give the machine all bytes, at most step at a time. */
static void
feed(struct talk *t, const void *p, size_t n, size_t step)
{
    const uint8_t *from = p;

    while (n && t->next == NBD_HS_MORE) {
        uint8_t *to;
        size_t k = nbd_hs_want(&t->hs, &to);

        assert_true(k > 0);
        k = MIN(MIN(k, n), step);
        memcpy(to, from, k);
        from += k;
        n -= k;
        t->next = nbd_hs_got(&t->hs, k);
    }
}

static void
begin(struct talk *t, uint32_t flags)
{
    uint8_t b[4];

    t->host.find = find;
    t->host.list = list;
    t->next = NBD_HS_MORE;
    assert_int_equal(nbd_hs_init(&t->hs, &t->host), 0);
    assert_int_equal(t->hs.out.len, NBD_GREETING_SIZE);
    buf_clear(&t->hs.out);
    put_be32(b, flags);
    feed(t, b, 4, 4);
}

static void
say(struct talk *t, uint32_t opt, const void *data, size_t n)
{
    uint8_t head[NBD_OPTION_SIZE];

    buf_clear(&t->hs.out);
    put_be64(head, NBD_MAGIC_OPTION);
    put_be32(head + 8, opt);
    put_be32(head + 12, (uint32_t)n);
    feed(t, head, sizeof head, sizeof head);
    feed(t, data, n, 1000);
}

/* The i-th reply to the last option: its type, its data. */
static uint32_t
heard(const struct talk *t, unsigned i, const uint8_t **out, size_t *out_len)
{
    size_t at = 0;

    for (;;) {
        const uint8_t *p = t->hs.out.data + at;
        size_t n;

        if (t->hs.out.len < at + NBD_OPT_REPLY_SIZE)
            return 0;
        assert_true(get_be64(p) == NBD_MAGIC_OPT_REPLY);
        assert_int_equal(get_be32(p + 8), t->hs.opt.type);
        n = get_be32(p + 16);
        assert_true(at + NBD_OPT_REPLY_SIZE + n <= t->hs.out.len);
        if (i-- == 0) {
            if (out)
                *out = p + NBD_OPT_REPLY_SIZE;
            if (out_len)
                *out_len = n;
            return get_be32(p + 12);
        }
        at += NBD_OPT_REPLY_SIZE + n;
    }
}

static uint32_t
first(const struct talk *t)
{
    return heard(t, 0, NULL, NULL);
}

static size_t
go_data(uint8_t *b, const char *name, unsigned n, const uint16_t *info)
{
    size_t len = strlen(name);
    unsigned i;

    put_be32(b, (uint32_t)len);
    memcpy(b + 4, name, len);
    put_be16(b + 4 + len, (uint16_t)n);
    for (i = 0; i < n; i++)
        put_be16(b + 6 + len + 2 * (size_t)i, info[i]);
    return 6 + len + 2 * (size_t)n;
}

static size_t
meta_data(uint8_t *b, const char *name, const char *query)
{
    size_t len = strlen(name), q = query ? strlen(query) : 0;

    put_be32(b, (uint32_t)len);
    memcpy(b + 4, name, len);
    put_be32(b + 4 + len, query ? 1 : 0);
    if (!query)
        return 8 + len;
    put_be32(b + 8 + len, (uint32_t)q);
    memcpy(b + 12 + len, query, q);
    return 12 + len + q;
}

static void
test_go(void **state)
{
    static const uint16_t info[] = { NBD_INFO_NAME, NBD_INFO_DESCRIPTION,
                                     NBD_INFO_BLOCK_SIZE };
    struct talk t = { .next = NBD_HS_MORE };
    const uint8_t *p;
    uint8_t b[64];
    size_t n;

    begin(&t, 3);
    say(&t, NBD_OPT_INFO, b, go_data(b, "b", 3, info));
    assert_int_equal(t.next, NBD_HS_MORE);
    assert_int_equal(heard(&t, 0, &p, &n), NBD_REP_INFO);
    assert_int_equal(n, 12);
    assert_int_equal(get_be16(p), NBD_INFO_EXPORT);
    assert_int_equal(get_be64(p + 2), 2 << 20);
    assert_int_equal(get_be16(p + 10), NBD_TX_HAS_FLAGS | NBD_TX_READ_ONLY);
    assert_int_equal(heard(&t, 1, &p, &n), NBD_REP_INFO);
    assert_int_equal(get_be16(p), NBD_INFO_NAME);
    assert_memory_equal(p + 2, "b", n - 2);
    assert_int_equal(heard(&t, 2, &p, &n), NBD_REP_INFO);
    assert_int_equal(get_be16(p), NBD_INFO_DESCRIPTION);
    assert_memory_equal(p + 2, "two", n - 2);
    assert_int_equal(heard(&t, 3, &p, &n), NBD_REP_INFO);
    assert_int_equal(get_be16(p), NBD_INFO_BLOCK_SIZE);
    assert_int_equal(get_be32(p + 10), NBD_PAYLOAD_MAX);
    assert_int_equal(heard(&t, 4, NULL, NULL), NBD_REP_ACK);
    say(&t, NBD_OPT_GO, b, go_data(b, "nothing", 0, NULL));
    assert_int_equal(first(&t), NBD_REP_ERR_UNKNOWN);
    assert_int_equal(t.next, NBD_HS_MORE);
    say(&t, NBD_OPT_GO, b, go_data(b, "b", 0, NULL));
    assert_int_equal(heard(&t, 1, NULL, NULL), NBD_REP_ACK);
    assert_int_equal(t.next, NBD_HS_GO);
    assert_true(t.hs.chosen == (void *)(uintptr_t)2);
    assert_int_equal(t.hs.terms.size, 2 << 20);
    assert_false(t.hs.terms.structured);
    assert_false(t.hs.terms.tx_flags & NBD_TX_SEND_DF);
    nbd_hs_release(&t.hs);
}

static void
test_block_size_is_said_when_it_binds(void **state)
{
    struct talk t = { .next = NBD_HS_MORE };
    const uint8_t *p;
    uint8_t b[64];

    begin(&t, 3);
    say(&t, NBD_OPT_GO, b, go_data(b, "a", 0, NULL)); /* minimum 512 */
    assert_int_equal(heard(&t, 1, &p, NULL), NBD_REP_INFO);
    assert_int_equal(get_be16(p), NBD_INFO_BLOCK_SIZE);
    assert_int_equal(get_be32(p + 2), 512);
    nbd_hs_release(&t.hs);
}

static void
test_export_name(void **state)
{
    struct talk t = { .next = NBD_HS_MORE };

    begin(&t, NBD_FLAG_FIXED_NEWSTYLE);
    say(&t, NBD_OPT_EXPORT_NAME, "", 0); /* the default one */
    assert_int_equal(t.next, NBD_HS_GO);
    assert_int_equal(t.hs.out.len, 10 + 124);
    assert_int_equal(get_be64(t.hs.out.data), 1 << 20);
    assert_true(bytes_all_zero(t.hs.out.data + 10, 124));
    nbd_hs_release(&t.hs);

    begin(&t, 3);
    say(&t, NBD_OPT_EXPORT_NAME, "b", 1);
    assert_int_equal(t.next, NBD_HS_GO);
    assert_int_equal(t.hs.out.len, 10); /* NO_ZEROES */
    assert_true(t.hs.chosen == (void *)(uintptr_t)2);
    nbd_hs_release(&t.hs);

    begin(&t, 0); /* nonfixed newstyle knows just this option */
    say(&t, NBD_OPT_EXPORT_NAME, "a", 1);
    assert_int_equal(t.next, NBD_HS_GO);
    nbd_hs_release(&t.hs);
    begin(&t, 0);
    say(&t, NBD_OPT_LIST, "", 0);
    assert_int_equal(t.next, NBD_HS_BROKEN);
    nbd_hs_release(&t.hs);

    begin(&t, 3);
    say(&t, NBD_OPT_EXPORT_NAME, "zz", 2);
    assert_int_equal(t.next, NBD_HS_BROKEN);
    assert_non_null(t.hs.why);
    nbd_hs_release(&t.hs);
}

static void
test_list(void **state)
{
    struct talk t = { .next = NBD_HS_MORE };
    const uint8_t *p;
    size_t n;

    begin(&t, 3);
    say(&t, NBD_OPT_LIST, "", 0);
    assert_int_equal(heard(&t, 0, &p, &n), NBD_REP_SERVER);
    assert_int_equal(n, 5);
    assert_int_equal(get_be32(p), 1);
    assert_int_equal(p[4], 'a');
    assert_int_equal(heard(&t, 1, &p, &n), NBD_REP_SERVER);
    assert_memory_equal(p + 4, "btwo", 4);
    assert_int_equal(heard(&t, 2, &p, &n), NBD_REP_ACK);
    say(&t, NBD_OPT_LIST, "x", 1);
    assert_int_equal(first(&t), NBD_REP_ERR_INVALID);
    nbd_hs_release(&t.hs);
}

static void
test_abort_and_unknown(void **state)
{
    struct talk t = { .next = NBD_HS_MORE };
    static const uint32_t unknown[] = { 0, 4, 11, 12, 0xffffffff };
    size_t i;

    begin(&t, 3);
    for (i = 0; i < ARRAY_SIZE(unknown); i++) {
        say(&t, unknown[i], "data", 4);
        assert_int_equal(first(&t), NBD_REP_ERR_UNSUP);
        assert_int_equal(t.next, NBD_HS_MORE);
    }
    say(&t, NBD_OPT_ABORT, "why", 3);
    assert_int_equal(first(&t), NBD_REP_ACK);
    assert_int_equal(t.next, NBD_HS_BYE);
    nbd_hs_release(&t.hs);
}

static void
test_structured_and_contexts(void **state)
{
    struct talk t = { .next = NBD_HS_MORE };
    const uint8_t *p;
    uint8_t b[64];
    size_t n;

    begin(&t, 3);
    say(&t, NBD_OPT_SET_META_CONTEXT, b,
        meta_data(b, "a", NBD_CONTEXT_ALLOCATION));
    assert_int_equal(first(&t), NBD_REP_ERR_INVALID); /* too early */
    say(&t, NBD_OPT_STRUCTURED_REPLY, "x", 1);
    assert_int_equal(first(&t), NBD_REP_ERR_INVALID);
    say(&t, NBD_OPT_STRUCTURED_REPLY, "", 0);
    assert_int_equal(first(&t), NBD_REP_ACK);

    say(&t, NBD_OPT_LIST_META_CONTEXT, b, meta_data(b, "a", NULL));
    assert_int_equal(heard(&t, 0, &p, &n), NBD_REP_META_CONTEXT);
    assert_int_equal(get_be32(p), 0);
    assert_int_equal(n, 4 + strlen(NBD_CONTEXT_ALLOCATION));
    assert_memory_equal(p + 4, NBD_CONTEXT_ALLOCATION, n - 4);
    assert_int_equal(heard(&t, 1, NULL, NULL), NBD_REP_ACK);
    say(&t, NBD_OPT_LIST_META_CONTEXT, b, meta_data(b, "a", "base:"));
    assert_int_equal(first(&t), NBD_REP_META_CONTEXT);
    say(&t, NBD_OPT_LIST_META_CONTEXT, b, meta_data(b, "a", "x-no:thing"));
    assert_int_equal(first(&t), NBD_REP_ACK);
    say(&t, NBD_OPT_LIST_META_CONTEXT, b, meta_data(b, "zz", NULL));
    assert_int_equal(first(&t), NBD_REP_ERR_UNKNOWN);
    say(&t, NBD_OPT_LIST_META_CONTEXT, "\0\0\0\7", 4);
    assert_int_equal(first(&t), NBD_REP_ERR_INVALID);

    say(&t, NBD_OPT_SET_META_CONTEXT, b, meta_data(b, "a", "base:"));
    assert_int_equal(first(&t), NBD_REP_ACK); /* a wildcard selects nothing */
    say(&t, NBD_OPT_SET_META_CONTEXT, b,
        meta_data(b, "a", NBD_CONTEXT_ALLOCATION));
    assert_int_equal(heard(&t, 0, &p, &n), NBD_REP_META_CONTEXT);
    assert_int_equal(get_be32(p), NBD_CONTEXT_ALLOCATION_ID);
    say(&t, NBD_OPT_GO, b, go_data(b, "", 0, NULL)); /* the same export */
    assert_int_equal(t.next, NBD_HS_GO);
    assert_true(t.hs.terms.structured);
    assert_true(t.hs.terms.allocation);
    assert_true(t.hs.terms.tx_flags & NBD_TX_SEND_DF);
    nbd_hs_release(&t.hs);
}

/* A context counts for the export it was set on, and the last SET counts, also
 * when it fails. */
static void
test_context_is_lost(void **state)
{
    static const char *const last_export[] = { "a", "zz" };
    static const char *const last_query[] = { NULL, "base:allocation" };
    struct talk t = { .next = NBD_HS_MORE };
    uint8_t b[64];
    size_t i;

    for (i = 0; i < 3; i++) {
        begin(&t, 3);
        say(&t, NBD_OPT_STRUCTURED_REPLY, "", 0);
        say(&t, NBD_OPT_SET_META_CONTEXT, b,
            meta_data(b, "a", "base:allocation"));
        if (i < 2)
            say(&t, NBD_OPT_SET_META_CONTEXT, b,
                meta_data(b, last_export[i], last_query[i]));
        say(&t, NBD_OPT_GO, b, go_data(b, i < 2 ? "a" : "b", 0, NULL));
        assert_int_equal(t.next, NBD_HS_GO);
        assert_true(t.hs.terms.structured);
        assert_false(t.hs.terms.allocation);
        nbd_hs_release(&t.hs);
    }
}

static void
test_forced_tls(void **state)
{
    static const uint32_t refused[] = { NBD_OPT_LIST,
                                        NBD_OPT_INFO,
                                        NBD_OPT_GO,
                                        NBD_OPT_STRUCTURED_REPLY,
                                        NBD_OPT_LIST_META_CONTEXT,
                                        NBD_OPT_SET_META_CONTEXT,
                                        77 };
    struct talk t = { .host = { .tls_offered = true, .tls_forced = true } };
    uint8_t b[64];
    size_t i;

    begin(&t, 3);
    for (i = 0; i < ARRAY_SIZE(refused); i++) {
        say(&t, refused[i], b, go_data(b, "a", 0, NULL));
        assert_int_equal(first(&t), NBD_REP_ERR_TLS_REQD);
        assert_int_equal(t.next, NBD_HS_MORE);
    }
    say(&t, NBD_OPT_STARTTLS, "x", 1);
    assert_int_equal(first(&t), NBD_REP_ERR_INVALID);
    say(&t, NBD_OPT_STARTTLS, "", 0);
    assert_int_equal(first(&t), NBD_REP_ACK);
    assert_int_equal(t.next, NBD_HS_START_TLS);
    nbd_hs_tls_on(&t.hs);
    t.next = NBD_HS_MORE;
    say(&t, NBD_OPT_STARTTLS, "", 0);
    assert_int_equal(first(&t), NBD_REP_ERR_INVALID);
    say(&t, NBD_OPT_GO, b, go_data(b, "a", 0, NULL));
    assert_int_equal(t.next, NBD_HS_GO);
    nbd_hs_release(&t.hs);

    begin(&t, 3); /* this option has no way to say TLS_REQD */
    say(&t, NBD_OPT_EXPORT_NAME, "a", 1);
    assert_int_equal(t.next, NBD_HS_BROKEN);
    nbd_hs_release(&t.hs);
    begin(&t, 3);
    say(&t, NBD_OPT_ABORT, "", 0);
    assert_int_equal(first(&t), NBD_REP_ACK);
    assert_int_equal(t.next, NBD_HS_BYE);
    nbd_hs_release(&t.hs);
}

static void
test_offered_tls_forgets_what_was_before(void **state)
{
    struct talk t = { .host = { .tls_offered = true } };
    uint8_t b[64];

    begin(&t, 3);
    say(&t, NBD_OPT_STRUCTURED_REPLY, "", 0);
    say(&t, NBD_OPT_SET_META_CONTEXT, b, meta_data(b, "a", "base:allocation"));
    assert_int_equal(first(&t), NBD_REP_META_CONTEXT);
    say(&t, NBD_OPT_STARTTLS, "", 0);
    assert_int_equal(t.next, NBD_HS_START_TLS);
    nbd_hs_tls_on(&t.hs);
    t.next = NBD_HS_MORE;
    say(&t, NBD_OPT_GO, b, go_data(b, "a", 0, NULL));
    assert_int_equal(t.next, NBD_HS_GO);
    assert_false(t.hs.terms.structured);
    assert_false(t.hs.terms.allocation);
    nbd_hs_release(&t.hs);
}

static void
test_no_tls(void **state)
{
    struct talk t = { .next = NBD_HS_MORE };

    begin(&t, 3);
    say(&t, NBD_OPT_STARTTLS, "", 0);
    assert_int_equal(first(&t), NBD_REP_ERR_POLICY);
    assert_int_equal(t.next, NBD_HS_MORE);
    nbd_hs_release(&t.hs);
}

/* The machine never asks for a byte beyond the message it is in. */
static void
test_reads_exactly(void **state)
{
    struct talk t = { .host = { .tls_offered = true } };
    uint8_t *to;

    begin(&t, 3);
    assert_int_equal(nbd_hs_want(&t.hs, &to), NBD_OPTION_SIZE);
    say(&t, NBD_OPT_STARTTLS, "", 0);
    assert_int_equal(nbd_hs_want(&t.hs, &to), NBD_OPTION_SIZE);
    assert_int_equal(t.hs.have, 0);
    nbd_hs_release(&t.hs);
}

static void
test_liars(void **state)
{
    static uint8_t big[NBD_HS_SKIP_MAX + 1];
    struct talk t = { .next = NBD_HS_MORE };
    unsigned i;

    begin(&t, 8); /* a flag that was not offered */
    assert_int_equal(t.next, NBD_HS_BROKEN);
    nbd_hs_release(&t.hs);

    begin(&t, 3); /* garbage for an option */
    feed(&t, big, NBD_OPTION_SIZE, 3);
    assert_int_equal(t.next, NBD_HS_BROKEN);
    nbd_hs_release(&t.hs);

    begin(&t, 3); /* data that is skipped, not kept */
    say(&t, NBD_OPT_GO, big, NBD_HS_DATA_MAX + 1);
    assert_int_equal(first(&t), NBD_REP_ERR_TOO_BIG);
    say(&t, 99, big, NBD_HS_SKIP_MAX);
    assert_int_equal(first(&t), NBD_REP_ERR_UNSUP);
    say(&t, NBD_OPT_EXPORT_NAME, big, NBD_HS_DATA_MAX + 1);
    assert_int_equal(t.next, NBD_HS_BROKEN);
    nbd_hs_release(&t.hs);

    begin(&t, 3); /* too much even to skip: refused at its header */
    say(&t, NBD_OPT_GO, big, NBD_HS_SKIP_MAX + 1);
    assert_int_equal(t.next, NBD_HS_BROKEN);
    nbd_hs_release(&t.hs);

    begin(&t, 3);
    for (i = 0; i < NBD_HS_OPTIONS_MAX; i++) {
        say(&t, NBD_OPT_LIST, "", 0);
        assert_int_equal(t.next, NBD_HS_MORE);
    }
    say(&t, NBD_OPT_LIST, "", 0);
    assert_int_equal(t.next, NBD_HS_BROKEN);
    nbd_hs_release(&t.hs);
}

static bool
endless_list(void *arg, size_t i, struct nbd_hs_export *out)
{
    static char description[4000];

    memset(description, 'd', sizeof description - 1);
    get(0, out);
    out->description = description;
    return i < 2000;
}

/* An answer beyond the bound becomes an error, and the talk goes on. */
static void
test_answer_too_big(void **state)
{
    struct talk t = { .next = NBD_HS_MORE };

    begin(&t, 3);
    t.host.list = endless_list;
    say(&t, NBD_OPT_LIST, "", 0);
    assert_int_equal(first(&t), NBD_REP_ERR_TOO_BIG);
    assert_int_equal(t.hs.out.len, NBD_OPT_REPLY_SIZE);
    assert_int_equal(t.next, NBD_HS_MORE);
    t.host.list = list;
    say(&t, NBD_OPT_LIST, "", 0);
    assert_int_equal(first(&t), NBD_REP_SERVER);
    nbd_hs_release(&t.hs);
}

/* However the bytes are cut, the talk ends the same way. */
static void
test_any_cut(void **state)
{
    uint8_t all[256], data[64];
    size_t step, n = 0, k;

    put_be32(all, 3);
    n = 4;
    k = go_data(data, "a", 0, NULL);
    put_be64(all + n, NBD_MAGIC_OPTION);
    put_be32(all + n + 8, NBD_OPT_STRUCTURED_REPLY);
    put_be32(all + n + 12, 0);
    n += 16;
    put_be64(all + n, NBD_MAGIC_OPTION);
    put_be32(all + n + 8, NBD_OPT_GO);
    put_be32(all + n + 12, (uint32_t)k);
    memcpy(all + n + 16, data, k);
    n += 16 + k;
    for (step = 1; step <= n; step++) {
        struct talk t = { .host = { .find = find, .list = list } };

        assert_int_equal(nbd_hs_init(&t.hs, &t.host), 0);
        feed(&t, all, n, step);
        assert_int_equal(t.next, NBD_HS_GO);
        assert_true(t.hs.terms.structured);
        nbd_hs_release(&t.hs);
    }
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_go),
        cmocka_unit_test(test_block_size_is_said_when_it_binds),
        cmocka_unit_test(test_export_name),
        cmocka_unit_test(test_list),
        cmocka_unit_test(test_abort_and_unknown),
        cmocka_unit_test(test_structured_and_contexts),
        cmocka_unit_test(test_context_is_lost),
        cmocka_unit_test(test_forced_tls),
        cmocka_unit_test(test_offered_tls_forgets_what_was_before),
        cmocka_unit_test(test_no_tls),
        cmocka_unit_test(test_reads_exactly),
        cmocka_unit_test(test_liars),
        cmocka_unit_test(test_answer_too_big),
        cmocka_unit_test(test_any_cut),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
