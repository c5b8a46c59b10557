/* room: common */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <math.h>

#include "common/bytes.h"
#include "common/json.h"

static cJSON *
parse(const char *text)
{
    struct err e = ERR_INIT;
    cJSON *root = NULL;

    if (json_parse(text, strlen(text), 100000, &root, &e) < 0)
        fail_msg("%s: %s", text, e.msg);
    return root;
}

static void
takes_good_text(void **state)
{
    static const char *const good[] = {
        "{}",
        "[]",
        " 1 ",
        "\"\"",
        "null",
        "true",
        "-0",
        "1.5e-3",
        "9007199254740991",
        "-9007199254740991",
        "0.1",
        "1E+2",
        "{\"a\":[1,2,{\"b\":null}],\"c\":\"\\u00e9\\ud83d\\ude00\"}",
        "\"\xc3\xa9\"",
        "[1 , 2]",
        "\t\r\n[]",
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(good); i++)
        cJSON_Delete(parse(good[i]));
}

static void
refuses_bad_text(void **state)
{
    static const struct {
        const char *text;
        size_t n; /* 0: strlen */
        enum err_code code;
    } bad[] = {
        { "", 0, ERR_JSN_0001 },
        { "{", 0, ERR_JSN_0001 },
        { "{\"a\"}", 0, ERR_JSN_0001 },
        { "{\"a\":1,}", 0, ERR_JSN_0001 },
        { "[1,]", 0, ERR_JSN_0001 },
        { "[1 2]", 0, ERR_JSN_0001 },
        { "{a:1}", 0, ERR_JSN_0001 },
        { "'a'", 0, ERR_JSN_0001 },
        { "01", 0, ERR_JSN_0001 },
        { "-", 0, ERR_JSN_0001 },
        { "+1", 0, ERR_JSN_0001 },
        { ".5", 0, ERR_JSN_0001 },
        { "1.", 0, ERR_JSN_0001 },
        { "1e", 0, ERR_JSN_0001 },
        { "0x10", 0, ERR_JSN_0001 },
        { "NaN", 0, ERR_JSN_0001 },
        { "Infinity", 0, ERR_JSN_0001 },
        { "1e999", 0, ERR_JSN_0001 },
        { "9007199254740992", 0, ERR_JSN_0001 },
        { "-9007199254740992", 0, ERR_JSN_0001 },
        { "00000000000000000000000000000000000000000000000", 0, ERR_JSN_0001 },
        { "1.00000000000000000000000000000000000000000000", 0, ERR_JSN_0001 },
        { "nul", 0, ERR_JSN_0001 },
        { "{} {}", 0, ERR_JSN_0001 },
        { "{}\0", 3, ERR_JSN_0001 },
        { "\0{}", 3, ERR_JSN_0001 },
        { "\"a\0b\"", 5, ERR_JSN_0001 },
        { "\"a\nb\"", 0, ERR_JSN_0001 },
        { "\"\\x41\"", 0, ERR_JSN_0001 },
        { "\"\\", 0, ERR_JSN_0001 },
        { "\"\\u12", 0, ERR_JSN_0001 },
        { "\"\\u12g4\"", 0, ERR_JSN_0001 },
        { "\"\\u0000\"", 0, ERR_JSN_0001 },
        { "\"\\ud800\"", 0, ERR_JSN_0001 },
        { "\"\\ud800\\u0041\"", 0, ERR_JSN_0001 },
        { "\"\\udc00\"", 0, ERR_JSN_0001 },
        { "\"\xff\"", 0, ERR_JSN_0001 },
        { "\"\xc0\x80\"", 0, ERR_JSN_0001 },
        { "\xef\xbb\xbf{}", 0, ERR_JSN_0001 },
        { "// c\n{}", 0, ERR_JSN_0001 },
        { "{\"a\":1,\"b\":2,\"a\":3}", 0, ERR_JSN_0003 },
        { "{\"Name\":1,\"name\":2}", 0, ERR_JSN_0003 },
        { "{\"a\":1,\"\\u0061\":2}", 0, ERR_JSN_0003 },
        { "[{\"x\":{\"a\":1,\"a\":1}}]", 0, ERR_JSN_0003 },
    };
    cJSON *root = NULL;

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        struct err e = ERR_INIT;
        size_t n = bad[i].n ? bad[i].n : strlen(bad[i].text);

        if (json_parse(bad[i].text, n, 1000, &root, &e) != -EBADMSG)
            fail_msg("taken: %s", bad[i].text);
        assert_int_equal(e.code, bad[i].code);
        assert_null(root);
    }
}

static void
refuses_size_and_depth(void **state)
{
    char text[2 * JSON_DEPTH_MAX + 3];
    struct err e = ERR_INIT;
    cJSON *root = NULL;
    size_t d = JSON_DEPTH_MAX;

    (void)state;
    memset(text, '[', d);
    memset(text + d, ']', d);
    assert_int_equal(json_parse(text, 2 * d, 1000, &root, &e), 0);
    cJSON_Delete(root);
    memset(text, '[', d + 1);
    memset(text + d + 1, ']', d + 1);
    assert_int_equal(json_parse(text, 2 * d + 2, 1000, &root, &e), -EMSGSIZE);
    assert_int_equal(e.code, ERR_JSN_0002);
    assert_int_equal(json_parse("[1]", 3, 2, &root, &e), -EMSGSIZE);
}

/* Every beginning of a good text is refused, none reads past its end (the
 * copy on the heap lets a sanitizer see that). */
static void
cut_at_every_length(void **state)
{
    static const char text[] =
        "{\"a\":[1.5e3,true,null,-2],\"b\":\"\\ud83d\\ude00\xc3\xa9\"}";

    (void)state;
    for (size_t n = 0; n < strlen(text); n++) {
        char *copy = malloc(n + 1);
        cJSON *root = NULL;

        assert_non_null(copy);
        memmove(copy + 1, text, n);
        assert_int_equal(json_parse(copy + 1, n, 1000, &root, NULL), -EBADMSG);
        free(copy);
    }
}

static void
getters(void **state)
{
    cJSON *o = parse("{\"Name\":\"x\",\"N\":5,\"Big\":\"18446744073709551615\","
                     "\"Neg\":-7,\"NegS\":\"-9223372036854775807\",\"F\":1.5,"
                     "\"T\":true,\"S\":\"False\",\"Nil\":null,\"O\":{},\"A\":[],"
                     "\"U\":\"00010203-0405-4607-8809-0a0b0c0d0e0f\"}");
    struct err e = ERR_INIT;
    const char *s = NULL;
    const cJSON *c = NULL;
    uint64_t u = 99;
    int64_t i = 99;
    bool b = false;
    struct uuid id;

    (void)state;
    assert_int_equal(json_str(o, "nAME", JSON_REQUIRED, &s, &e), 1);
    assert_string_equal(s, "x");
    assert_int_equal(json_str(o, "nil", JSON_OPTIONAL, &s, &e), 0);
    assert_int_equal(json_str(o, "nil", JSON_REQUIRED, &s, &e), -EINVAL);
    assert_int_equal(e.code, ERR_JSN_0004);
    assert_string_equal(e.msg, "member \"nil\" is missing");
    assert_int_equal(json_str(o, "n", JSON_OPTIONAL, &s, &e), -EINVAL);
    assert_int_equal(json_u64(o, "n", JSON_REQUIRED, 0, 5, &u, &e), 1);
    assert_int_equal(u, 5);
    assert_int_equal(json_u64(o, "n", JSON_REQUIRED, 6, 9, &u, &e), -EINVAL);
    assert_string_equal(e.msg, "member \"n\" is 5, not within 6..9");
    assert_int_equal(json_u64(o, "big", JSON_REQUIRED, 0, UINT64_MAX, &u, &e),
                     1);
    assert_true(u == UINT64_MAX);
    assert_int_equal(json_u64(o, "neg", JSON_REQUIRED, 0, 9, &u, &e), -EINVAL);
    assert_int_equal(json_u64(o, "f", JSON_REQUIRED, 0, 9, &u, &e), -EINVAL);
    assert_int_equal(json_u64(o, "name", JSON_REQUIRED, 0, 9, &u, &e), -EINVAL);
    assert_int_equal(json_u64(o, "none", JSON_OPTIONAL, 0, 9, &u, &e), 0);
    assert_int_equal(json_u64_or(o, "n", 3), 5);
    assert_int_equal(json_u64_or(o, "none", 3), 3);
    assert_int_equal(json_u64_or(o, "neg", 3), 3);
    assert_int_equal(json_u64_or(NULL, "n", 3), 3);
    assert_string_equal(json_str_or(o, "name", "?"), "x");
    assert_string_equal(json_str_or(o, "n", "?"), "?");
    assert_null(json_str_or(o, "nil", NULL));
    assert_int_equal(json_i64(o, "neg", JSON_REQUIRED, -9, 9, &i, &e), 1);
    assert_int_equal(i, -7);
    assert_int_equal(json_i64(o, "negs", JSON_REQUIRED, INT64_MIN, 0, &i, &e),
                     1);
    assert_true(i == -INT64_MAX);
    assert_int_equal(json_i64(o, "big", JSON_REQUIRED, 0, 9, &i, &e), -EINVAL);
    assert_int_equal(json_i64(o, "n", JSON_REQUIRED, -9, 4, &i, &e), -EINVAL);
    assert_int_equal(json_bool(o, "t", JSON_REQUIRED, &b, &e), 1);
    assert_true(b);
    assert_int_equal(json_bool(o, "s", JSON_REQUIRED, &b, &e), 1);
    assert_false(b);
    assert_int_equal(json_bool(o, "n", JSON_REQUIRED, &b, &e), -EINVAL);
    assert_int_equal(json_uuid(o, "u", JSON_REQUIRED, &id, &e), 1);
    assert_int_equal(id.b[15], 15);
    assert_int_equal(json_uuid(o, "name", JSON_REQUIRED, &id, &e), -EINVAL);
    assert_int_equal(json_obj(o, "o", JSON_REQUIRED, &c, &e), 1);
    assert_int_equal(json_obj(o, "a", JSON_REQUIRED, &c, &e), -EINVAL);
    assert_int_equal(json_array(o, "a", JSON_REQUIRED, &c, &e), 1);
    assert_int_equal(json_array(o, "o", JSON_REQUIRED, &c, &e), -EINVAL);
    assert_null(json_get(NULL, "a"));
    assert_null(json_get(c, "a"));
    cJSON_Delete(o);
}

static void
writer(void **state)
{
    struct uuid id = { .b = { 1 } };
    struct json_writer w;
    struct buf b;
    cJSON *tree = parse("{\"k\":[1,\"x\"]}");

    (void)state;
    buf_init(&b, 1000);
    json_begin(&w, &b);
    json_open_obj(&w, NULL);
    json_put_str(&w, "s", "q\"\\\n\x01\xff\xc3\xa9");
    json_put_strn(&w, "z", "a\0b", 3);
    json_open_array(&w, "a");
    json_put_u64(&w, NULL, UINT64_MAX);
    json_put_i64(&w, NULL, -5);
    json_put_u64_text(&w, NULL, UINT64_MAX);
    json_put_double(&w, NULL, 0.5);
    json_put_double(&w, NULL, (double)NAN);
    json_open_obj(&w, NULL);
    json_close_obj(&w);
    json_close_array(&w);
    json_put_bool(&w, "b", true);
    json_put_str_or_null(&w, "n", NULL);
    json_put_uuid(&w, "u", &id);
    json_put_tree(&w, "t", tree);
    json_close_obj(&w);
    assert_int_equal(b.failed, 0);
    assert_string_equal(
        (char *)b.data,
        "{\"s\":\"q\\\"\\\\\\n\\u0001\xef\xbf\xbd\xc3\xa9\",\"z\":\"a\\ufffdb\","
        "\"a\":[18446744073709551615,-5,\"18446744073709551615\",0.5,null,{}],"
        "\"b\":true,\"n\":null,\"u\":\"01000000-0000-0000-0000-000000000000\","
        "\"t\":{\"k\":[1,\"x\"]}}");
    cJSON_Delete(tree);
    buf_release(&b);
    buf_init(&b, 4);
    json_begin(&w, &b);
    json_put_str(&w, NULL, "too long");
    assert_int_equal(b.failed, -EMSGSIZE);
    buf_release(&b);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(takes_good_text),
        cmocka_unit_test(refuses_bad_text),
        cmocka_unit_test(refuses_size_and_depth),
        cmocka_unit_test(cut_at_every_length),
        cmocka_unit_test(getters),
        cmocka_unit_test(writer),
    };

    return cmocka_run_group_tests_name("json", tests, NULL, NULL);
}
