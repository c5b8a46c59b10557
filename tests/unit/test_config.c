/* room: common */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <stdio.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/config.h"
#include "common/files.h"

struct item {
    char *name, *path;
    bool on;
};

struct values {
    char *text, *name, *path, *address;
    uint64_t count, size, time;
    bool flag;
    int level;
    struct config_strings words;
    struct {
        uint64_t depth;
    } group;
    struct config_list items;
};

static const char *const levels[] = { "low", "high", NULL };
static const char *const allowed[] = { "a", "b", "c", NULL };

static const struct config_option item_options[] = {
    { .name = "name",
      .type = CONFIG_NAME,
      .offset = offsetof(struct item, name),
      .max = 8,
      .flags = CONFIG_REQUIRED | CONFIG_UNIQUE,
      .help = "Name." },
    { .name = "path",
      .type = CONFIG_PATH,
      .offset = offsetof(struct item, path),
      .help = "Path." },
    { .name = "on",
      .type = CONFIG_BOOL,
      .offset = offsetof(struct item, on),
      .def = "true",
      .help = "On." },
};

static const struct config_option group_options[] = {
    { .name = "depth",
      .type = CONFIG_INT,
      .offset = 0,
      .def = "7",
      .help = "Depth." },
};

static const struct config_option options[] = {
    { .name = "text",
      .type = CONFIG_STRING,
      .offset = offsetof(struct values, text),
      .def = "x \"y\"",
      .max = 20,
      .flags = CONFIG_RELOADABLE,
      .help = "Text." },
    { .name = "name",
      .type = CONFIG_NAME,
      .offset = offsetof(struct values, name),
      .help = "Name." },
    { .name = "path",
      .type = CONFIG_PATH,
      .offset = offsetof(struct values, path),
      .help = "Path." },
    { .name = "address",
      .type = CONFIG_ADDRESS,
      .offset = offsetof(struct values, address),
      .def = ":4006",
      .help = "Address." },
    { .name = "count",
      .type = CONFIG_INT,
      .offset = offsetof(struct values, count),
      .def = "5",
      .min = 1,
      .max = 5000000000,
      .help = "Count." },
    { .name = "size",
      .type = CONFIG_SIZE,
      .offset = offsetof(struct values, size),
      .def = "64KiB",
      .min = 4096,
      .max = GIB,
      .help = "Size." },
    { .name = "time",
      .type = CONFIG_DURATION,
      .offset = offsetof(struct values, time),
      .def = "5s",
      .min = 1,
      .max = 3600000,
      .help = "Time,\nin two lines." },
    { .name = "flag",
      .type = CONFIG_BOOL,
      .offset = offsetof(struct values, flag),
      .help = "Flag." },
    { .name = "level",
      .type = CONFIG_ENUM,
      .offset = offsetof(struct values, level),
      .def = "high",
      .choices = levels,
      .help = "Level." },
    { .name = "words",
      .type = CONFIG_STRINGS,
      .offset = offsetof(struct values, words),
      .def = "a,b",
      .choices = allowed,
      .help = "Words." },
    { .name = "group",
      .type = CONFIG_GROUP,
      .offset = offsetof(struct values, group),
      .sub = group_options,
      .n_sub = ARRAY_SIZE(group_options),
      .help = "Group." },
    { .name = "items",
      .type = CONFIG_LIST,
      .offset = offsetof(struct values, items),
      .sub = item_options,
      .n_sub = ARRAY_SIZE(item_options),
      .item_size = sizeof(struct item),
      .help = "Items." },
};

static const struct config_table table = { options, ARRAY_SIZE(options),
                                           sizeof(struct values), NULL };

static void
defaults(void **state)
{
    struct err e = ERR_INIT;
    struct values v;

    (void)state;
    assert_int_equal(config_parse("", "t", &table, &v, &e), 0);
    assert_string_equal(v.text, "x \"y\"");
    assert_string_equal(v.name, "");
    assert_string_equal(v.path, "");
    assert_string_equal(v.address, ":4006");
    assert_int_equal(v.count, 5);
    assert_int_equal(v.size, 65536);
    assert_int_equal(v.time, 5000);
    assert_false(v.flag);
    assert_int_equal(v.level, 1);
    assert_int_equal(v.words.n, 2);
    assert_string_equal(v.words.v[1], "b");
    assert_int_equal(v.group.depth, 7);
    assert_int_equal(v.items.n, 0);
    config_release(&table, &v);
}

static const char full[] =
    "text = \"q\\\\\"; name = \"n-1\"; path = \"/a b\";\n"
    "address = \"[::1]:80\"; count = 5000000000L; size = 8192;\n"
    "time = \"250ms\"; flag = true; level = \"low\"; words = [ \"c\" ];\n"
    "group = { depth = 9; };\n"
    "items = ( { name = \"i1\"; path = \"/x\"; },\n"
    "          { name = \"i2\"; on = false; } );\n";

static void
check_full(const struct values *v)
{
    const struct item *i = v->items.items;

    assert_string_equal(v->text, "q\\");
    assert_string_equal(v->path, "/a b");
    assert_true(v->count == 5000000000);
    assert_int_equal(v->size, 8192);
    assert_int_equal(v->time, 250);
    assert_true(v->flag);
    assert_int_equal(v->level, 0);
    assert_int_equal(v->words.n, 1);
    assert_int_equal(v->group.depth, 9);
    assert_int_equal(v->items.n, 2);
    assert_string_equal(i[0].name, "i1");
    assert_string_equal(i[0].path, "/x");
    assert_true(i[0].on);
    assert_string_equal(i[1].path, "");
    assert_false(i[1].on);
}

static void
reads_and_prints_back(void **state)
{
    struct err e = ERR_INIT;
    struct values v, w;
    struct buf text, changed;

    (void)state;
    buf_init(&text, 65536);
    buf_init(&changed, 4096);
    assert_int_equal(config_parse(full, "t", &table, &v, &e), 0);
    check_full(&v);
    assert_int_equal(config_print(&table, &v, &text), 0);
    assert_int_equal(config_parse((char *)text.data, "t", &table, &w, &e), 0);
    check_full(&w);
    assert_int_equal(config_changed(&table, &v, &w, &changed), 0);
    assert_int_equal(changed.len, 0);
    config_release(&table, &w);
    assert_int_equal(config_defaults(&table, &w, &e), 0);
    assert_int_equal(config_changed(&table, &v, &w, &changed), 0);
    assert_string_equal((char *)changed.data,
                        "name, path, address, count, size, time, flag, level, "
                        "words, group.depth, items");
    config_release(&table, &v);
    config_release(&table, &w);
    buf_release(&text);
    buf_release(&changed);
}

/* The sample with every "#name = value" uncommented says the defaults. */
static void
sample_says_the_defaults(void **state)
{
    struct err e = ERR_INIT;
    struct values v, w;
    struct buf text, a, b;
    size_t n = 0;

    (void)state;
    buf_init(&text, 65536);
    buf_init(&a, 65536);
    buf_init(&b, 65536);
    assert_int_equal(config_sample(&table, &text), 0);
    assert_non_null(strstr((char *)text.data, "# Time,\n# in two lines.\n"));
    assert_non_null(strstr((char *)text.data, "# One of: low, high.\n"));
    assert_non_null(strstr((char *)text.data, "# From 4KiB to 1GiB.\n"));
    for (size_t i = 0; i < text.len; i++) {
        if (text.data[i] == '#' && text.data[i + 1] != ' ') {
            text.data[i] = ' ';
            n++;
        }
    }
    assert_int_equal(n, ARRAY_SIZE(options)); /* a group's one inside */
    assert_int_equal(config_parse((char *)text.data, "t", &table, &v, &e), 0);
    assert_int_equal(config_defaults(&table, &w, &e), 0);
    config_print(&table, &v, &a);
    config_print(&table, &w, &b);
    assert_string_equal((char *)a.data, (char *)b.data);
    config_release(&table, &v);
    config_release(&table, &w);
    buf_release(&text);
    buf_release(&a);
    buf_release(&b);
}

static void
refusals(void **state)
{
    static const struct {
        const char *text;
        enum err_code code;
        const char *says;
    } t[] = {
        { "count = ;", ERR_CFG_0001, "t:1: " },
        { "\ncuont = 1;", ERR_CFG_0002, "t:2: cuont: " },
        { "group = {\n depht = 1; };", ERR_CFG_0002, "t:2: group.depht: " },
        { "items = ( { name = \"a\"; nmae = 1; } );", ERR_CFG_0002,
          "items.[0].nmae" },
        { "count = \"5\";", ERR_CFG_0003, "t:1: count: not a whole number" },
        { "count = 1.5;", ERR_CFG_0003, "whole number" },
        { "count = -1;", ERR_CFG_0003, "whole number" },
        { "count = 0;", ERR_CFG_0004, "0 is not within 1..5000000000" },
        { "size = \"1XB\";", ERR_CFG_0003, "256MiB" },
        { "size = true;", ERR_CFG_0003, "256MiB" },
        { "size = 100;", ERR_CFG_0004, "100B is not within 4KiB..1GiB" },
        { "time = 5;", ERR_CFG_0003, "in quotes" },
        { "time = \"5m\";", ERR_CFG_0003, "15min" },
        { "time = \"2h\";", ERR_CFG_0004, "2h is not within 1ms..1h" },
        { "flag = 1;", ERR_CFG_0003, "neither true nor false" },
        { "level = \"mid\";", ERR_CFG_0003, "\"mid\" is none of low, high" },
        { "level = 1;", ERR_CFG_0003, "quotes" },
        { "text = 5;", ERR_CFG_0003, "quotes" },
        { "text = \"123456789012345678901\";", ERR_CFG_0004, "0..20 bytes" },
        { "name = \"a/b\";", ERR_CFG_0003, "not a name" },
        { "path = \"a\";", ERR_CFG_0003, "absolute" },
        { "address = \"a\";", ERR_CFG_0003, "address such as" },
        { "words = \"a\";", ERR_CFG_0003, "list of words" },
        { "words = [ \"z\" ];", ERR_CFG_0003, "\"z\" is none of a, b, c" },
        { "words = [ 1 ];", ERR_CFG_0003, "no text" },
        { "words = [ \"a\", \"a\" ];", ERR_CFG_0006, "twice" },
        { "group = 1;", ERR_CFG_0003, "not a group" },
        { "items = [ 1 ];", ERR_CFG_0003, "list of groups" },
        { "items = ( 1 );", ERR_CFG_0003, "no group" },
        { "items = (\n { path = \"/x\"; } );", ERR_CFG_0005,
          "items.[0].name: must be given" },
        { "items = ( { name = \"\"; } );", ERR_CFG_0003, "empty" },
        { "items = ( { name = \"123456789\"; } );", ERR_CFG_0003, "too long" },
        { "items = ( { name = \"a\"; }, { name = \"a\"; } );", ERR_CFG_0006,
          "name \"a\" comes twice" },
        { "count = 1; count = 2;", ERR_CFG_0001, "t:1: " },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
        struct err e = ERR_INIT;
        struct values v;
        int rc = config_parse(t[i].text, "t", &table, &v, &e);

        if (rc != -EINVAL || e.code != t[i].code || !strstr(e.msg, t[i].says))
            fail_msg("%s: %d %s %s", t[i].text, rc, err_code_text(e.code),
                     e.msg);
    }
}

static void
files(void **state)
{
    char dir[] = "/tmp/holdfast-config-XXXXXX", path[64], want[80];
    struct err e = ERR_INIT;
    struct values v;

    (void)state;
    assert_non_null(mkdtemp(dir));
    (void)snprintf(path, sizeof path, "%s/c", dir);
    assert_int_equal(config_load(path, &table, &v, &e), -ENOENT);
    assert_int_equal(e.code, ERR_GEN_0003);
    assert_int_equal(config_load(dir, &table, &v, &e), -EINVAL);
    assert_int_equal(file_replace(path, 0600, full, strlen(full), &e), 0);
    assert_int_equal(config_load(path, &table, &v, &e), 0);
    check_full(&v);
    config_release(&table, &v);
    assert_int_equal(file_replace(path, 0600, "\nnope = 1;\n", 11, &e), 0);
    assert_int_equal(config_load(path, &table, &v, &e), -EINVAL);
    (void)snprintf(want, sizeof want, "%s:2: nope: ", path);
    assert_non_null(strstr(e.msg, want));
    (void)unlink(path);
    (void)rmdir(dir);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults),
        cmocka_unit_test(reads_and_prints_back),
        cmocka_unit_test(sample_says_the_defaults),
        cmocka_unit_test(refusals),
        cmocka_unit_test(files),
    };

    return cmocka_run_group_tests_name("config", tests, NULL, NULL);
}
