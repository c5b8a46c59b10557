/* room: nbd io common */
/* Every message of the NBD protocol: golden bytes, cut at every length, and the
 * rules about requests. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/bytes.h"
#include "nbd/pool.h"
#include "nbd/proto.h"

static void
assert_hex(const uint8_t *p, size_t n, const char *want)
{
    char text[512];

    assert_true(2 * n + 1 <= sizeof text);
    hex_encode(p, n, text);
    assert_string_equal(text, want);
}

static void
test_negotiation_golden(void **state)
{
    struct nbd_block_size bs = { 512, 4096, NBD_PAYLOAD_MAX };
    uint8_t b[32];

    nbd_greeting_encode(b, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
    assert_hex(b, NBD_GREETING_SIZE, "4e42444d4147494349484156454f50540003");
    nbd_opt_reply_encode(b, NBD_OPT_GO, NBD_REP_ERR_UNKNOWN, 5);
    assert_hex(b, NBD_OPT_REPLY_SIZE,
               "0003e889045565a9000000078000000600000005");
    nbd_info_export_encode(b, 0x0102030405060708ULL, 0x0d6d);
    assert_hex(b, NBD_INFO_EXPORT_SIZE, "000001020304050607080d6d");
    nbd_info_block_size_encode(b, &bs);
    assert_hex(b, NBD_INFO_BLOCK_SIZE_SIZE, "0003000002000000100002000000");
    nbd_export_name_reply_encode(b, 0x0102030405060708ULL, 0x0103);
    assert_hex(b, NBD_EXPORT_NAME_REPLY_SIZE, "01020304050607080103");
}

static void
test_client_flags(void **state)
{
    static const uint8_t ok[] = { 0, 0, 0, 3 }, bad[] = { 0, 0, 0, 4 };
    static const uint8_t high[] = { 0x80, 0, 0, 1 };
    unsigned flags = 99;

    assert_int_equal(nbd_client_flags_decode(ok, 3, &flags), 0);
    assert_int_equal(flags, 3);
    flags = 99;
    assert_int_equal(nbd_client_flags_decode(bad, 3, &flags), -EPROTO);
    assert_int_equal(nbd_client_flags_decode(high, 3, &flags), -EPROTO);
    assert_int_equal(nbd_client_flags_decode(ok, 1, &flags), -EPROTO);
    assert_int_equal(flags, 99);
}

static void
test_option_header(void **state)
{
    uint8_t b[NBD_OPTION_SIZE];
    struct nbd_option opt;
    size_t i;

    assert_int_equal(hex_decode("49484156454f50540000000700000011", b, sizeof b),
                     0);
    assert_int_equal(nbd_option_decode(b, &opt), 0);
    assert_int_equal(opt.type, NBD_OPT_GO);
    assert_int_equal(opt.len, 17);
    for (i = 0; i < 64; i++) { /* any bit of the magic */
        b[i / 8] ^= (uint8_t)(1U << i % 8);
        assert_int_equal(nbd_option_decode(b, &opt), -EPROTO);
        b[i / 8] ^= (uint8_t)(1U << i % 8);
    }
}

static void
test_go(void **state)
{
    /* name "disk", requests NAME, DESCRIPTION, BLOCK_SIZE, 77 (unknown) */
    static const char hex[] = "000000046469736b0004"
                              "000100020003004d";
    uint8_t b[32];
    size_t n = (sizeof hex - 1) / 2, cut;
    struct nbd_opt_go go;

    assert_int_equal(hex_decode(hex, b, n), 0);
    assert_int_equal(nbd_opt_go_decode(b, n, &go), 0);
    assert_int_equal(go.name_len, 4);
    assert_memory_equal(go.name, "disk", 4);
    assert_true(go.want_name && go.want_description && go.want_block_size);
    for (cut = 0; cut < n; cut++) {
        uint8_t *exact = malloc(cut ? cut : 1); /* so that ASan sees the end */

        memcpy(exact, b, cut);
        assert_int_equal(nbd_opt_go_decode(exact, cut, &go), -EINVAL);
        free(exact);
    }
    assert_int_equal(nbd_opt_go_decode(b, n + 1, &go), -EINVAL);
    put_be32(b, 0xffffffff); /* a name longer than everything */
    assert_int_equal(nbd_opt_go_decode(b, n, &go), -EINVAL);
    put_be32(b, NBD_STRING_MAX + 1);
    assert_int_equal(nbd_opt_go_decode(b, n, &go), -EINVAL);
    put_be32(b, 4);
    b[8] = 0xff; /* 65,284 requests */
    assert_int_equal(nbd_opt_go_decode(b, n, &go), -EINVAL);
}

static void
test_go_plain(void **state)
{
    static const uint8_t b[6] = { 0 };
    struct nbd_opt_go go;

    assert_int_equal(nbd_opt_go_decode(b, sizeof b, &go), 0);
    assert_int_equal(go.name_len, 0);
    assert_false(go.want_name || go.want_description || go.want_block_size);
}

static size_t
meta(uint8_t *b, const char *name, size_t n, const char *const *queries)
{
    size_t at = 0, i;

    put_be32(b, (uint32_t)strlen(name));
    memcpy(b + 4, name, strlen(name));
    at = 4 + strlen(name);
    put_be32(b + at, (uint32_t)n);
    at += 4;
    for (i = 0; i < n; i++) {
        put_be32(b + at, (uint32_t)strlen(queries[i]));
        memcpy(b + at + 4, queries[i], strlen(queries[i]));
        at += 4 + strlen(queries[i]);
    }
    return at;
}

static void
test_meta(void **state)
{
    static const char *const both[] = { "base:allocation", "base:", "x-y:z" };
    static const char *const others[] = { "base:alloc", "base:allocations",
                                          "qemu:dirty-bitmap:b", "" };
    struct nbd_opt_meta m;
    uint8_t b[256];
    size_t n, cut;

    n = meta(b, "d", 3, both);
    assert_int_equal(nbd_opt_meta_decode(b, n, &m), 0);
    assert_int_equal(m.name_len, 1);
    assert_int_equal(m.queries, 3);
    assert_true(m.base && m.allocation);
    for (cut = 0; cut < n; cut++) {
        uint8_t *exact = malloc(cut ? cut : 1);

        memcpy(exact, b, cut);
        assert_int_equal(nbd_opt_meta_decode(exact, cut, &m), -EINVAL);
        free(exact);
    }
    assert_int_equal(nbd_opt_meta_decode(b, n + 1, &m), -EINVAL);

    n = meta(b, "", 4, others);
    assert_int_equal(nbd_opt_meta_decode(b, n, &m), 0);
    assert_false(m.base || m.allocation);
    n = meta(b, "", 0, NULL);
    assert_int_equal(nbd_opt_meta_decode(b, n, &m), 0);
    assert_int_equal(m.queries, 0);
    put_be32(b + 4, 0xffffffff); /* queries that are not there */
    assert_int_equal(nbd_opt_meta_decode(b, n, &m), -EINVAL);
}

static void
test_request_golden(void **state)
{
    uint8_t b[NBD_REQUEST_SIZE];
    struct nbd_request rq;
    size_t i;

    assert_int_equal(hex_decode("25609513000100010102030405060708"
                                "000000000000100000002000",
                                b, sizeof b),
                     0);
    assert_int_equal(nbd_request_decode(b, &rq), 0);
    assert_int_equal(rq.flags, NBD_CMD_FLAG_FUA);
    assert_int_equal(rq.type, NBD_CMD_WRITE);
    assert_true(rq.cookie == 0x0102030405060708ULL);
    assert_true(rq.off == 4096);
    assert_int_equal(rq.len, 8192);
    for (i = 0; i < 32; i++) {
        b[i / 8] ^= (uint8_t)(1U << i % 8);
        assert_int_equal(nbd_request_decode(b, &rq), -EPROTO);
        b[i / 8] ^= (uint8_t)(1U << i % 8);
    }
}

static void
test_reply_golden(void **state)
{
    const uint64_t cookie = 0x0102030405060708ULL;
    uint8_t b[NBD_REPLY_HEADER_MAX + NBD_EXTENT_SIZE];
    size_t n;

    n = nbd_simple_reply_encode(b, cookie, NBD_EIO);
    assert_hex(b, n, "67446698000000050102030405060708");
    n = nbd_chunk_encode(b, NBD_REPLY_NONE, cookie, 0);
    assert_hex(b, n, "668e33ef00010000010203040506070800000000");
    n = nbd_data_chunk_encode(b, cookie, 0x1000, 512);
    assert_hex(b, n, "668e33ef000100010102030405060708000002080000000000001000");
    n = nbd_hole_chunk_encode(b, cookie, 0x1000, 512);
    assert_hex(b, n,
               "668e33ef0001000201020304050607080000000c000000000000100000000"
               "200");
    n = nbd_status_chunk_encode(b, cookie, NBD_CONTEXT_ALLOCATION_ID, 2);
    assert_hex(b, n,
               "668e33ef000100050102030405060708000000"
               "1400000001");
    nbd_extent_encode(b, 65536, NBD_STATE_HOLE | NBD_STATE_ZERO);
    assert_hex(b, NBD_EXTENT_SIZE, "0001000000000003");
    n = nbd_error_chunk_encode(b, cookie, NBD_EPERM);
    assert_hex(b, n,
               "668e33ef00018001010203040506070800000"
               "01d000000010017" /* then "the export is read-only" */
               "746865206578706f727420697320726561642d6f6e6c79");
}

static void
test_error_chunks_fit(void **state)
{
    static const enum nbd_error all[] = { NBD_EPERM,   NBD_EIO,
                                          NBD_ENOMEM,  NBD_EINVAL,
                                          NBD_ENOSPC,  NBD_EOVERFLOW,
                                          NBD_ENOTSUP, NBD_ESHUTDOWN };
    uint8_t b[NBD_REPLY_HEADER_MAX];
    size_t i, n;

    for (i = 0; i < ARRAY_SIZE(all); i++) {
        n = nbd_error_chunk_encode(b, 1, all[i]);
        assert_true(n <= sizeof b);
        assert_int_equal(get_be32(b + 16), n - NBD_CHUNK_SIZE);
        assert_int_equal(get_be16(b + 24), n - NBD_CHUNK_SIZE - 6);
        assert_true(strlen(nbd_error_text(all[i])) > 0);
        assert_true(strlen(nbd_error_text(all[i])) <= NBD_REPLY_MESSAGE_MAX);
    }
}

enum {
    SIZE = 1 << 20
};

static void
test_request_rules(void **state)
{
    enum {
        RW = NBD_TX_HAS_FLAGS | NBD_TX_SEND_FLUSH | NBD_TX_SEND_FUA |
             NBD_TX_SEND_TRIM | NBD_TX_SEND_WRITE_ZEROES | NBD_TX_SEND_DF |
             NBD_TX_SEND_CACHE | NBD_TX_SEND_FAST_ZERO,
        RO = NBD_TX_HAS_FLAGS | NBD_TX_READ_ONLY | NBD_TX_SEND_FLUSH |
             NBD_TX_SEND_FUA | NBD_TX_SEND_CACHE,
        BARE = NBD_TX_HAS_FLAGS,
        FUA = NBD_CMD_FLAG_FUA,
    };
    static const struct {
        unsigned tx;
        uint16_t type, flags;
        uint64_t off;
        uint32_t len;
        enum nbd_error want;
    } t[] = {
        { RW, NBD_CMD_READ, 0, 0, 512, NBD_SUCCESS },
        { RW, NBD_CMD_READ, NBD_CMD_FLAG_DF, 0, 512, NBD_SUCCESS },
        { RO, NBD_CMD_READ, NBD_CMD_FLAG_DF, 0, 512, NBD_EINVAL },
        { RW, NBD_CMD_READ, NBD_CMD_FLAG_NO_HOLE, 0, 512, NBD_EINVAL },
        { RW, NBD_CMD_READ, 0, 0, 0, NBD_SUCCESS },
        { RW, NBD_CMD_READ, 0, SIZE, 0, NBD_SUCCESS },
        { RW, NBD_CMD_READ, 0, SIZE, 512, NBD_EINVAL },
        { RW, NBD_CMD_READ, 0, SIZE - 512, 1024, NBD_EINVAL },
        { RW, NBD_CMD_READ, 0, UINT64_MAX - 511, 1024, NBD_EINVAL },
        { RW, NBD_CMD_READ, 0, 1, 512, NBD_EINVAL },
        { RW, NBD_CMD_READ, 0, 0, 513, NBD_EINVAL },
        { RW, NBD_CMD_READ, 0, 0, SIZE / 2 + 512, NBD_EOVERFLOW },
        { RW, NBD_CMD_WRITE, 0, 0, SIZE / 2, NBD_SUCCESS },
        { RW, NBD_CMD_WRITE, 0, 0, SIZE / 2 + 512, NBD_EINVAL },
        { RW, NBD_CMD_WRITE, FUA, 0, 512, NBD_SUCCESS },
        { RW, NBD_CMD_WRITE, NBD_CMD_FLAG_DF, 0, 512, NBD_EINVAL },
        { RW, NBD_CMD_WRITE, 0x8000, 0, 512, NBD_EINVAL },
        { RW, NBD_CMD_WRITE, 0, SIZE, 512, NBD_ENOSPC },
        { BARE, NBD_CMD_WRITE, FUA, 0, 512, NBD_EINVAL },
        { RO, NBD_CMD_WRITE, 0, 0, 512, NBD_EPERM },
        { RO, NBD_CMD_WRITE, 0, SIZE, 512, NBD_EPERM },
        { RW, NBD_CMD_FLUSH, 0, 0, 0, NBD_SUCCESS },
        { RW, NBD_CMD_FLUSH, FUA, 0, 0, NBD_SUCCESS },
        { RW, NBD_CMD_FLUSH, 0, 512, 0, NBD_EINVAL },
        { RW, NBD_CMD_FLUSH, 0, 0, 512, NBD_EINVAL },
        { RO, NBD_CMD_FLUSH, 0, 0, 0, NBD_SUCCESS },
        { BARE, NBD_CMD_FLUSH, 0, 0, 0, NBD_EINVAL },
        { RW, NBD_CMD_TRIM, FUA, 0, SIZE, NBD_SUCCESS },
        { RW, NBD_CMD_TRIM, 0, 512, SIZE, NBD_EINVAL },
        { RO, NBD_CMD_TRIM, 0, 0, 512, NBD_EPERM },
        { BARE, NBD_CMD_TRIM, 0, 0, 512, NBD_EINVAL },
        { RW, NBD_CMD_CACHE, 0, 0, SIZE, NBD_SUCCESS },
        { RW, NBD_CMD_CACHE, NBD_CMD_FLAG_REQ_ONE, 0, 512, NBD_EINVAL },
        { RW, NBD_CMD_CACHE, 0, SIZE, 512, NBD_EINVAL },
        { RW, NBD_CMD_WRITE_ZEROES, 0, 0, SIZE, NBD_SUCCESS },
        { RW, NBD_CMD_WRITE_ZEROES,
          NBD_CMD_FLAG_NO_HOLE | NBD_CMD_FLAG_FAST_ZERO | FUA, 0, 512,
          NBD_SUCCESS },
        { RW & ~NBD_TX_SEND_FAST_ZERO, NBD_CMD_WRITE_ZEROES,
          NBD_CMD_FLAG_FAST_ZERO, 0, 512, NBD_EINVAL },
        { RW, NBD_CMD_WRITE_ZEROES, 0, SIZE - 512, 1024, NBD_ENOSPC },
        { RO, NBD_CMD_WRITE_ZEROES, 0, 0, 512, NBD_EPERM },
        { RW, NBD_CMD_BLOCK_STATUS, 0, 0, SIZE, NBD_SUCCESS },
        { RW, NBD_CMD_BLOCK_STATUS, NBD_CMD_FLAG_REQ_ONE, 0, 512, NBD_SUCCESS },
        { RW, NBD_CMD_BLOCK_STATUS, 0, 0, 0, NBD_EINVAL },
        { RW, NBD_CMD_BLOCK_STATUS, 0, SIZE, 512, NBD_EINVAL },
        { RW, 8, 0, 0, 0, NBD_EINVAL }, /* RESIZE, not offered */
        { RW, 0xffff, 0, 0, 0, NBD_EINVAL },
    };
    size_t i;

    for (i = 0; i < ARRAY_SIZE(t); i++) {
        struct nbd_terms terms = {
            .size = SIZE,
            .block = { 512, 4096, SIZE / 2 },
            .tx_flags = (uint16_t)t[i].tx,
            .structured = t[i].tx & NBD_TX_SEND_DF,
            .allocation = t[i].tx & NBD_TX_SEND_DF,
        };
        struct nbd_request rq = { .type = t[i].type,
                                  .flags = t[i].flags,
                                  .off = t[i].off,
                                  .len = t[i].len };

        if (nbd_request_check(&rq, &terms) != t[i].want)
            fail_msg("row %zu: got %d, want %d", i,
                     (int)nbd_request_check(&rq, &terms), (int)t[i].want);
    }
}

static void
test_status_needs_a_context(void **state)
{
    struct nbd_terms t = { .size = SIZE, .block = { 1, 4096, SIZE } };
    struct nbd_request rq = { .type = NBD_CMD_BLOCK_STATUS, .len = 512 };

    t.tx_flags = NBD_TX_HAS_FLAGS;
    assert_int_equal(nbd_request_check(&rq, &t), NBD_EINVAL);
    t.allocation = true;
    assert_int_equal(nbd_request_check(&rq, &t), NBD_SUCCESS);
    rq = (struct nbd_request){ .type = NBD_CMD_READ, .off = 3, .len = 7 };
    assert_int_equal(nbd_request_check(&rq, &t), NBD_SUCCESS); /* min is 1 */
    rq.len = SIZE;
    rq.off = 0;
    t.block.max_payload = SIZE - 1; /* without structured replies */
    assert_int_equal(nbd_request_check(&rq, &t), NBD_EINVAL);
}

static void
test_errno(void **state)
{
    static const struct {
        int num;
        uint16_t flags;
        enum nbd_error want;
    } t[] = {
        { 0, 0, NBD_SUCCESS },
        { -EPERM, 0, NBD_EPERM },
        { -EROFS, 0, NBD_EPERM },
        { -EIO, 0, NBD_EIO },
        { -ENODEV, 0, NBD_EIO },
        { -ENOMEM, 0, NBD_ENOMEM },
        { -EINVAL, 0, NBD_EINVAL },
        { -ENOSPC, 0, NBD_ENOSPC },
        { -EDQUOT, 0, NBD_ENOSPC },
        { -EFBIG, 0, NBD_ENOSPC },
        { -EOVERFLOW, 0, NBD_EOVERFLOW },
        { -EOPNOTSUPP, NBD_CMD_FLAG_FAST_ZERO, NBD_ENOTSUP },
        { -EOPNOTSUPP, 0, NBD_EINVAL },
        { -ECANCELED, 0, NBD_ESHUTDOWN },
        { -ESHUTDOWN, 0, NBD_ESHUTDOWN },
    };
    size_t i;

    for (i = 0; i < ARRAY_SIZE(t); i++) {
        struct nbd_request rq = { .flags = t[i].flags };

        assert_int_equal(nbd_error_of(t[i].num, &rq), t[i].want);
    }
}

static void
test_pool(void **state)
{
    struct nbd_pool p;
    void *a, *b, *c;
    size_t an, bn, cn;

    assert_int_equal(nbd_pool_size(0), 0);
    assert_int_equal(nbd_pool_size(1), 4096);
    assert_int_equal(nbd_pool_size(4096), 4096);
    assert_int_equal(nbd_pool_size(4097), 8192);
    assert_int_equal(nbd_pool_size(32 << 20), 32 << 20);
    assert_int_equal(nbd_pool_size((32 << 20) + 1), 0);

    nbd_pool_init(&p, 64 << 10);
    a = nbd_pool_get(&p, 32 << 10, &an);
    b = nbd_pool_get(&p, 20000, &bn);
    assert_non_null(a);
    assert_non_null(b);
    assert_int_equal(an, 32 << 10);
    assert_int_equal(bn, 32 << 10);
    assert_int_equal((uintptr_t)a % 4096, 0);
    assert_null(nbd_pool_get(&p, 1, &cn)); /* the maximum */
    memset(a, 1, an);
    memset(b, 2, bn);
    nbd_pool_put(&p, a, an);
    assert_int_equal(p.used, 32 << 10);
    c = nbd_pool_get(&p, 5000, &cn);
    assert_non_null(c);
    assert_int_equal(cn, 8192);
    nbd_pool_put(&p, c, cn);
    assert_int_equal(p.kept, 8192);
    assert_true(nbd_pool_get(&p, 8192, &cn) == c); /* the warm one */
    nbd_pool_put(&p, c, cn);
    a = nbd_pool_get(&p, 32 << 10, &an); /* takes the kept one's room */
    assert_non_null(a);
    assert_int_equal(p.kept, 0);
    nbd_pool_put(&p, a, an);
    nbd_pool_put(&p, b, bn);
    assert_int_equal(p.used, 0);
    nbd_pool_release(&p);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_negotiation_golden),
        cmocka_unit_test(test_client_flags),
        cmocka_unit_test(test_option_header),
        cmocka_unit_test(test_go),
        cmocka_unit_test(test_go_plain),
        cmocka_unit_test(test_meta),
        cmocka_unit_test(test_request_golden),
        cmocka_unit_test(test_reply_golden),
        cmocka_unit_test(test_error_chunks_fit),
        cmocka_unit_test(test_request_rules),
        cmocka_unit_test(test_status_needs_a_context),
        cmocka_unit_test(test_errno),
        cmocka_unit_test(test_pool),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
