/* room: common */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <errno.h>

#include "common/bytes.h"
#include "common/text.h"

static void
utf8(void **state)
{
    static const struct {
        const char *s;
        size_t n;
        int ok;
    } t[] = {
        { "", 0, 1 },
        { "abc", 3, 1 },
        { "\xc3\xa9", 2, 1 },
        { "\xe2\x82\xac", 3, 1 },
        { "\xf0\x9f\x98\x80", 4, 1 },
        { "\xf4\x8f\xbf\xbf", 4, 1 },
        { "\xc0\x80", 2, 0 },         /* overlong NUL */
        { "\xc1\xbf", 2, 0 },         /* overlong */
        { "\xe0\x80\xaf", 3, 0 },     /* overlong */
        { "\xf0\x80\x80\xaf", 4, 0 }, /* overlong */
        { "\xed\xa0\x80", 3, 0 },     /* surrogate */
        { "\xf4\x90\x80\x80", 4, 0 }, /* above 10ffff */
        { "\xff", 1, 0 },
        { "\x80", 1, 0 },
        { "\xc3", 1, 0 },
        { "\xe2\x82", 2, 0 },
        { "a\xc3(", 3, 0 },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(t); i++)
        assert_int_equal(text_utf8_ok(t[i].s, t[i].n), t[i].ok);
}

static void
cleaning(void **state)
{
    static const struct {
        const char *in, *out;
    } t[] = {
        { "plain \xc3\xa9", "plain \xc3\xa9" },
        { "a\tb\r\nc", "a b  c" },
        { "\x1b[31mred\x7f", "?[31mred?" },
        { "\xc2\x9b"
          "31m",
          "??31m" },                   /* C1 CSI */
        { "x\xe2\x80\xaey", "x???y" }, /* right-to-left override */
        { "x\xe2\x80\xa8y", "x???y" }, /* line separator */
        { "bad\xff\xfe!", "bad?"
                          "?!" },
        { "cut\xe2\x82", "cut" },
        { "cut\xc3", "cut" },
        { "\xe2\x82(", "?"
                       "?(" },
    };
    char b[64];

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
        strcpy(b, t[i].in);
        text_clean(b);
        assert_string_equal(b, t[i].out);
    }
    assert_string_equal(text_safe(b, 5, "ab\0cd", 5), "ab?c");
    assert_string_equal(text_safe(b, 4, "ab\xe2\x82\xac", 5), "ab");
    assert_string_equal(text_safe(b, 1, "ab", 2), "");
}

static void
splitting(void **state)
{
    char s[] = "a,,bc,", *out[4];
    char w[] = " \t x y \r\n", empty[] = "", blank[] = "  ";

    (void)state;
    assert_int_equal(text_split(s, ',', out, 4), 4);
    assert_string_equal(out[0], "a");
    assert_string_equal(out[1], "");
    assert_string_equal(out[2], "bc");
    assert_string_equal(out[3], "");
    strcpy(s, "a,b,c");
    assert_int_equal(text_split(s, ',', out, 2), -E2BIG);
    assert_int_equal(text_split(empty, ',', out, 2), 1);
    assert_string_equal(text_trim(w), "x y");
    assert_string_equal(text_trim(blank), "");
    assert_int_equal(text_icmp("AbC", "aBc"), 0);
    assert_true(text_icmp("a", "b") < 0);
    assert_true(text_icmp("ab", "a") > 0);
}

static void
base64(void **state)
{
    static const struct {
        const char *plain, *std, *url;
    } t[] = {
        { "", "", "" },
        { "f", "Zg==", "Zg" },
        { "fo", "Zm8=", "Zm8" },
        { "foo", "Zm9v", "Zm9v" },
        { "foob", "Zm9vYg==", "Zm9vYg" },
        { "fooba", "Zm9vYmE=", "Zm9vYmE" },
        { "foobar", "Zm9vYmFy", "Zm9vYmFy" },
        { "\xfb\xff", "+/8=", "-_8" },
    };
    static const char *const bad[] = { "Z",    "Zg",       "Zg=",   "Zh==",
                                       "Zm9=", "Zg==Zg==", "=Zg=",  "Zm 9v",
                                       "-_8=", "====",     "Zg==\n" };
    static const char *const bad_url[] = { "Zg==", "+/8", "Z", "Zh" };
    char text[TEXT_B64_SIZE(6)], out[8];

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
        size_t n = strlen(t[i].plain);

        assert_int_equal(text_b64_encode(TEXT_B64_STD, t[i].plain, n, text),
                         strlen(t[i].std));
        assert_string_equal(text, t[i].std);
        text_b64_encode(TEXT_B64_URL, t[i].plain, n, text);
        assert_string_equal(text, t[i].url);
        assert_int_equal(text_b64_decode(TEXT_B64_STD, t[i].std, out, n), n);
        assert_memory_equal(out, t[i].plain, n);
        assert_int_equal(text_b64_decode(TEXT_B64_URL, t[i].url, out, n), n);
        assert_memory_equal(out, t[i].plain, n);
    }
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        assert_int_equal(text_b64_decode(TEXT_B64_STD, bad[i], out, 8), -EINVAL);
    for (size_t i = 0; i < ARRAY_SIZE(bad_url); i++)
        assert_int_equal(text_b64_decode(TEXT_B64_URL, bad_url[i], out, 8),
                         -EINVAL);
    assert_int_equal(text_b64_decode(TEXT_B64_STD, "Zm9v", out, 2), -EMSGSIZE);
}

static void
numbers(void **state)
{
    static const char *const bad[] = { "",    " 1",  "1 ",  "+1", "-1",
                                       "0x1", "1.5", "1e3", "abc" };
    uint64_t v = 77;

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        assert_int_equal(text_parse_u64(bad[i], 0, UINT64_MAX, &v), -EINVAL);
    assert_int_equal(text_parse_u64("18446744073709551616", 0, UINT64_MAX, &v),
                     -ERANGE);
    assert_int_equal(text_parse_u64("11", 0, 10, &v), -ERANGE);
    assert_int_equal(v, 77);
    assert_int_equal(text_parse_u64("18446744073709551615", 0, UINT64_MAX, &v),
                     0);
    assert_true(v == UINT64_MAX);
}

static void
sizes_and_durations(void **state)
{
    static const struct {
        const char *s;
        uint64_t v;
        const char *back;
    } size[] = {
        { "0", 0, "0" },           { "4096", 4096, "4KiB" },
        { "256MiB", 256 * MIB, "256MiB" }, { "3G", 3 * GIB, "3GiB" },
        { "1TiB", 1024 * GIB, "1TiB" },    { "1025B", 1025, "1025B" },
    }, dur[] = {
        { "0", 0, "0ms" },         { "250ms", 250, "250ms" },
        { "5s", 5000, "5s" },      { "90s", 90000, "90s" },
        { "15min", 900000, "15min" }, { "24h", 86400000, "1d" },
    };
    char text[TEXT_UNIT_SIZE];
    uint64_t v;

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(size); i++) {
        assert_int_equal(text_parse_size(size[i].s, &v), 0);
        assert_true(v == size[i].v);
        text_format_size(v, text);
        assert_int_equal(text_parse_size(text, &v), 0);
        assert_true(v == size[i].v);
        if (i > 0)
            assert_string_equal(text, size[i].back);
    }
    for (size_t i = 0; i < ARRAY_SIZE(dur); i++) {
        assert_int_equal(text_parse_duration(dur[i].s, &v), 0);
        assert_true(v == dur[i].v);
        assert_string_equal(text_format_duration(v, text), dur[i].back);
    }
    assert_int_equal(text_parse_size("1MB", &v), -EINVAL);
    assert_int_equal(text_parse_size("MiB", &v), -EINVAL);
    assert_int_equal(text_parse_size("-1", &v), -EINVAL);
    assert_int_equal(text_parse_size("16777216TiB", &v), -ERANGE);
    assert_int_equal(text_parse_duration("5", &v), -EINVAL);
    assert_int_equal(text_parse_duration("5m", &v), -EINVAL);
    assert_int_equal(text_parse_duration("99999999999999999d", &v), -ERANGE);
}

static void
host_and_port(void **state)
{
    static const struct {
        const char *s;
        int rc;
        const char *host;
        uint16_t port;
    } t[] = {
        { "127.0.0.1:9669", 0, "127.0.0.1", 9669 },
        { ":4006", 0, "", 4006 },
        { "[::1]:80", 0, "::1", 80 },
        { "dr.example.org:0", 0, "dr.example.org", 0 },
        { "host", -EINVAL, NULL, 0 },
        { "host:", -EINVAL, NULL, 0 },
        { "host:65536", -EINVAL, NULL, 0 },
        { "::1:80", -EINVAL, NULL, 0 },
        { "[]:80", -EINVAL, NULL, 0 },
        { "[::1]80", -EINVAL, NULL, 0 },
        { "ho st:80", -EINVAL, NULL, 0 },
        { "a/b:80", -EINVAL, NULL, 0 },
    };
    char host[TEXT_HOST_SIZE];
    uint16_t port;

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
        assert_int_equal(text_parse_hostport(t[i].s, host, &port), t[i].rc);
        if (t[i].rc < 0)
            continue;
        assert_string_equal(host, t[i].host);
        assert_int_equal(port, t[i].port);
    }
}

static void
names(void **state)
{
    (void)state;
    assert_true(text_name_ok("db-1.x_y", 63));
    assert_false(text_name_ok("", 63));
    assert_false(text_name_ok(".", 63));
    assert_false(text_name_ok("..", 63));
    assert_false(text_name_ok("-x", 63));
    assert_false(text_name_ok("a/b", 63));
    assert_false(text_name_ok("a b", 63));
    assert_false(text_name_ok("abcd", 3));
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(utf8),          cmocka_unit_test(cleaning),
        cmocka_unit_test(splitting),     cmocka_unit_test(base64),
        cmocka_unit_test(numbers),       cmocka_unit_test(sizes_and_durations),
        cmocka_unit_test(host_and_port), cmocka_unit_test(names),
    };

    return cmocka_run_group_tests_name("text", tests, NULL, NULL);
}
