/* room: tui common */
/* Rows, filters, sorting, layout and the three forms of output. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <locale.h>
#include <stdio.h>

#include "common/bytes.h"
#include "common/json.h"
#include "tui/cli/filter.h"
#include "tui/cli/layout.h"
#include "tui/cli/output.h"
#include "tui/client/model.h"

static const struct column columns[] = {
    { "severity", "", FMT_SIGN, 100, 0 },
    { "name", "NAME", FMT_TEXT, 100, 6 },
    { "site", "SITE", FMT_TEXT, 50, 4 },
    { "rpo", "RPO", FMT_DURATION, 95, 0 },
    { "target", "TARGET", FMT_SECONDS, 40, 0 },
    { "state", "STATE", FMT_TEXT, 90, 6 },
    { "size", "SIZE", FMT_BYTES, 30, 0 },
    { "seen", "SEEN", FMT_TIME, 20, 0 },
    { "fresh", "FRESH", FMT_BOOL, 0, 0 },
};
static const struct table table = {
    .name = "things",
    .columns = columns,
    .n_columns = ARRAY_SIZE(columns),
    .sort = "name",
    .empty = "No thing.",
};

static void
add(struct rows *r, enum severity s, const char *name, const char *site,
    double rpo, double target, const char *state, double size, bool fresh)
{
    rows_add(r);
    rows_set_number(r, "severity", s);
    rows_set_text(r, "name", name);
    rows_set_text(r, "site", site);
    if (rpo >= 0)
        rows_set_number(r, "rpo", rpo);
    rows_set_number(r, "target", target);
    rows_set_text(r, "state", state);
    rows_set_number(r, "size", size);
    rows_set_number(r, "seen", 1773491455123.0); /* 2026-03-14T12:30:55.123Z */
    rows_set_bool(r, "fresh", fresh);
}

static void
fill(struct rows *r)
{
    rows_init(r, &table);
    add(r, SEV_WARNING, "erp-db", "paris", 312, 300, "RPO not met", 2e12, true);
    add(r, SEV_GOOD, "erp-web", "paris", 9, 60, "Meeting SLA", 1e9, true);
    add(r, SEV_PROGRESS, "crm", "tokyo", 700, 300, "Bitmap sync", 5e9, false);
    add(r, SEV_STALE, "old", "oslo", -1, 900, "Site silent", 0, false);
}

/* Names that match, with a blank between. */
static void
names(struct rows *r, char *out, size_t cap)
{
    out[0] = '\0';
    for (size_t i = 0; i < r->n; i++) {
        size_t n = strlen(out);

        (void)snprintf(out + n, cap - n, "%s%s", n ? " " : "",
                       rows_field(r, i, "name")->text);
    }
}

static void
filters(void **state)
{
    static const struct {
        const char *text, *names;
    } t[] = {
        { "erp", "erp-db erp-web" },
        { "ERP paris", "erp-db erp-web" },
        { "site=tokyo", "crm" },
        { "site=TOKYO or site=oslo", "crm old" },
        { "site != paris", "crm old" },
        { "rpo>60", "erp-db crm" },
        { "rpo>5min", "erp-db crm" },
        { "rpo<=312", "erp-db erp-web" },
        { "rpo>target", "erp-db crm" },
        { "rpo>2*target", "crm" },
        { "rpo=9", "erp-web" },
        { "rpo!=9", "erp-db crm old" },
        { "size>=1GiB", "erp-db crm" },
        { "state!=ok", "erp-db old" },
        { "state=ok", "erp-web crm" },
        { "state=\"Meeting SLA\"", "erp-web" },
        { "severity=warning", "erp-db" },
        { "severity>=stale", "erp-db old" },
        { "fresh", "erp-db erp-web" },
        { "not fresh", "crm old" },
        { "fresh=no", "crm old" },
        { "site~^par", "erp-db erp-web" },
        { "name~'(db|web)$' and rpo>60", "erp-db" },
        { "not (erp or crm)", "old" },
        { "not erp and not crm", "old" },
        { "erp rpo>60 or old", "erp-db old" },
        { "seen>2026-03-14", "erp-db erp-web crm old" },
        { "seen<2026-03-14T12:30:55Z", "" },
        { "'Site silent'", "old" },
        { "nothing-like-it", "" },
    };

    for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
        struct err e = ERR_INIT;
        struct filter *f = NULL;
        struct rows r;
        char got[200];

        fill(&r);
        if (filter_parse(t[i].text, &table, &f, &e) < 0)
            fail_msg("%s: %s", t[i].text, e.msg);
        filter_apply(f, &r);
        names(&r, got, sizeof got);
        if (strcmp(got, t[i].names) != 0)
            fail_msg("%s: \"%s\" instead of \"%s\"", t[i].text, got, t[i].names);
        filter_free(f);
        rows_release(&r);
    }
}

static void
filters_refused(void **state)
{
    static const char *const t[] = {
        "",           "(",      "(erp", "erp)",         "rpo>", "rpo>abc",
        "nosuch=1",   "site~[", "or",   "not",          "a or", "name='open",
        "rpo>2*site", "a and",  "()",   "rpo>x*target",
    };
    char deep[200] = "";
    struct err e = ERR_INIT;
    struct filter *f;

    for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
        e = (struct err)ERR_INIT;
        if (filter_parse(t[i], &table, &f, &e) != -EINVAL)
            fail_msg("\"%s\" was taken", t[i]);
        if (strcmp(err_code_text(e.code), "CLI-0008") != 0)
            fail_msg("\"%s\": %s", t[i], err_code_text(e.code));
    }
    for (size_t i = 0; i < 100; i++)
        deep[i] = '(';
    assert_int_equal(filter_parse(deep, &table, &f, &e), -EINVAL);
}

static void
sorting(void **state)
{
    static const struct {
        const char *keys, *names;
    } t[] = {
        { "name", "crm erp-db erp-web old" },
        { "-name", "old erp-web erp-db crm" },
        { "-rpo", "crm erp-db erp-web old" }, /* unknown last */
        { "rpo", "erp-web erp-db crm old" },  /* either way */
        { "site,-name", "old erp-web erp-db crm" },
        { "-severity, name", "erp-db old crm erp-web" },
        { "target", "erp-web erp-db crm old" }, /* equal ones keep order */
        { "+SIZE", "old erp-web crm erp-db" },
    };
    struct err e = ERR_INIT;
    struct rows r;
    char got[200];

    for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
        fill(&r);
        assert_int_equal(rows_sort(&r, t[i].keys, &e), 0);
        names(&r, got, sizeof got);
        assert_string_equal(got, t[i].names);
        rows_release(&r);
    }
    fill(&r);
    assert_int_equal(rows_sort(&r, "nosuch", &e), -EINVAL);
    assert_string_equal(err_code_text(e.code), "CLI-0008");
    rows_cut(&r, 2);
    names(&r, got, sizeof got);
    assert_string_equal(got, "erp-db erp-web");
    rows_cut(&r, -1);
    names(&r, got, sizeof got);
    assert_string_equal(got, "erp-web");
    rows_release(&r);
}

/* ---- Layout ----------------------------------------------------------------- */

static void
widths(void **state)
{
    struct buf b;

    assert_int_equal(text_width("abc"), 3);
    assert_int_equal(text_width("\xc3\xa9"), 1);
    assert_int_equal(text_width("\xe6\x97\xa5\xe6\x9c\xac"), 4); /* 日本 */
    assert_int_equal(text_width("e\xcc\x81"), 1); /* combining acute */
    buf_init(&b, 1000);
    text_fit(&b, "\xe6\x97\xa5\xe6\x9c\xac\xe8\xaa\x9e", 4, ALIGN_LEFT);
    /* one wide character, the sign, and a blank for the place left over */
    assert_string_equal((char *)b.data, "\xe6\x97\xa5~ ");
    buf_clear(&b);
    text_fit(&b, "abcdef", 4, ALIGN_LEFT);
    assert_string_equal((char *)b.data, "abc~");
    buf_clear(&b);
    text_fit(&b, "ab", 4, ALIGN_RIGHT);
    assert_string_equal((char *)b.data, "  ab");
    buf_clear(&b);
    text_fit(&b, "ab", 4, ALIGN_NONE);
    assert_string_equal((char *)b.data, "ab");
    buf_release(&b);
}

static size_t
longest_line(const char *s)
{
    size_t longest = 0;
    char line[1000];

    while (*s) {
        size_t n = strcspn(s, "\n");

        assert_true(n < sizeof line);
        memcpy(line, s, n);
        line[n] = '\0';
        longest = MAX(longest, text_width(line));
        s += n + (s[n] == '\n');
    }
    return longest;
}

static void
tables_fit(void **state)
{
    static const size_t limits[] = { 200, 80, 60, 40, 30 };
    struct rows r;
    struct layout l;
    struct buf b;

    fill(&r);
    add(&r, SEV_GOOD, "a-name-that-goes-on-and-on-and-on-and-on-and-on-and-on",
        "\xe6\x97\xa5\xe6\x9c\xac\xe6\x97\xa5\xe6\x9c\xac", 1, 1,
        "a state of several words", 1, true);
    for (size_t i = 0; i < ARRAY_SIZE(limits); i++) {
        buf_init(&b, 10000);
        layout_make(&r, NULL, 0, limits[i], &l);
        layout_print(&r, &l, &b);
        assert_true(longest_line((char *)b.data) <= limits[i]);
        assert_non_null(strstr((char *)b.data, "NAME"));
        buf_release(&b);
    }
    /* the column with the lowest rank goes first, the name never */
    assert_true(l.n < 8);
    rows_release(&r);
}

static void
hostile_text(void **state)
{
    struct options o = { .limit_n = -1, .out = OUT_JSON };
    const struct output_head head = { .command = "things" };
    struct err e = ERR_INIT;
    struct rows r;
    struct buf b;

    for (int form = OUT_TEXT; form <= OUT_JSON; form++) {
        o.out = (enum output)form;
        rows_init(&r, &table);
        add(&r, SEV_GOOD, "\x1b[2Jx\x07\xc2\x9b\xe2\x80\xae\r\n", "p", 1, 1,
            "s", 1, true);
        buf_init(&b, 10000);
        assert_int_equal(output_render(&o, &head, &r, 80, &b, &e), 0);
        assert_null(strchr((char *)b.data, 0x1b));
        assert_null(strchr((char *)b.data, 0x07));
        assert_null(strstr((char *)b.data, "\xc2\x9b"));
        assert_null(strstr((char *)b.data, "\xe2\x80\xae"));
        assert_non_null(strstr((char *)b.data, "[2Jx"));
        buf_release(&b);
        rows_release(&r);
    }
}

/* ---- Forms ------------------------------------------------------------------- */

static void
csv(void **state)
{
    static const struct {
        const char *field, *text;
    } t[] = {
        { "plain", "plain" },
        { "", "" },
        { "a,b", "\"a,b\"" },
        { "say \"hi\"", "\"say \"\"hi\"\"\"" },
        { "two\nlines", "\"two\nlines\"" },
        { " led", "\" led\"" },
    };
    struct options o = { .limit_n = -1,
                         .out = OUT_CSV,
                         .columns = "name,rpo,seen,severity,fresh",
                         .filter = "erp-db or old" };
    const struct output_head head = { .command = "things" };
    struct err e = ERR_INIT;
    struct rows r;
    struct buf b;

    for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
        buf_init(&b, 100);
        (void)buf_add(&b, "", 0);
        csv_put(&b, t[i].field);
        assert_int_equal(b.len, strlen(t[i].text));
        assert_memory_equal(b.data ? (char *)b.data : "", t[i].text, b.len);
        buf_release(&b);
    }
    fill(&r);
    buf_init(&b, 10000);
    assert_int_equal(output_render(&o, &head, &r, 80, &b, &e), 0);
    assert_string_equal((char *)b.data,
                        "name,rpo,seen,severity,fresh\n"
                        "erp-db,312,2026-03-14T12:30:55.123Z,warning,true\n"
                        "old,,2026-03-14T12:30:55.123Z,stale,false\n");
    buf_release(&b);
    rows_release(&r);
}

static void
json_form(void **state)
{
    struct options o = { .limit_n = 1, .out = OUT_JSON, .limit = "1" };
    const struct output_head head = { .command = "things",
                                      .site = "paris",
                                      .now_ms = 1773491455123 };
    struct err e = ERR_INIT;
    struct rows r;
    struct buf b;
    cJSON *root;
    const cJSON *row;

    fill(&r);
    buf_init(&b, 10000);
    o.sort = "-name";
    assert_int_equal(output_render(&o, &head, &r, 80, &b, &e), 0);
    assert_int_equal(json_parse((char *)b.data, b.len, 10000, &root, &e), 0);
    assert_int_equal(json_get(root, "format")->valueint, OUTPUT_FORMAT);
    assert_string_equal(json_get(root, "command")->valuestring, "things");
    assert_string_equal(json_get(root, "time")->valuestring,
                        "2026-03-14T12:30:55.123Z");
    assert_int_equal(cJSON_GetArraySize(json_get(root, "rows")), 1);
    row = cJSON_GetArrayItem(json_get(root, "rows"), 0);
    assert_string_equal(json_get(row, "name")->valuestring, "old");
    assert_string_equal(json_get(row, "severity")->valuestring, "stale");
    assert_true(cJSON_HasObjectItem(row, "rpo"));
    assert_null(json_get(row, "rpo")); /* present as null */
    assert_true(cJSON_IsFalse(json_get(row, "fresh")));
    assert_int_equal(json_get(row, "target")->valueint, 900);
    cJSON_Delete(root);
    buf_release(&b);
    rows_release(&r);
}

static void
columns_refused(void **state)
{
    struct options o = { .columns = "name,nosuch" };
    struct err e = ERR_INIT;

    assert_int_equal(output_check(&o, &table, &e), -EINVAL);
    assert_string_equal(err_code_text(e.code), "CLI-0008");
    o.columns = "name";
    assert_int_equal(output_check(&o, &table, &e), 0);
    o.sort = "-nosuch";
    assert_int_equal(output_check(&o, &table, &e), -EINVAL);
}

/* ---- API objects ---------------------------------------------------------------- */

static const struct cell *
vpg_cell(const char *text, const char *field, const char *peers, struct rows *r)
{
    struct model m = { .now_ms = 1773491455123 };
    struct err e = ERR_INIT;
    cJSON *list, *p = NULL;

    assert_int_equal(json_parse(text, strlen(text), 10000, &list, &e), 0);
    if (peers)
        assert_int_equal(json_parse(peers, strlen(peers), 10000, &p, &e), 0);
    m.vpgs = list;
    m.peers = p;
    rows_init(r, &table_vpgs);
    model_vpgs(&m, r);
    cJSON_Delete(list);
    cJSON_Delete(p);
    assert_int_equal(r->n, 1);
    return rows_field(r, 0, field);
}

static void
vpg_rows(void **state)
{
    static const struct {
        const char *json, *state;
        enum severity severity;
    } t[] = {
        { "[{\"Status\":1,\"SubStatus\":0}]", "Meeting SLA", SEV_GOOD },
        { "[{\"Status\":0,\"SubStatus\":1}]", "Initial sync", SEV_PROGRESS },
        { "[{\"Status\":4,\"SubStatus\":0}]", "RPO not met", SEV_WARNING },
        { "[{\"Status\":3,\"SubStatus\":0}]", "History short", SEV_WARNING },
        { "[{\"Status\":2,\"SubStatus\":8}]", "Error", SEV_CRITICAL },
        { "[{\"Status\":1,\"SubStatus\":25}]", "Paused", SEV_WARNING },
        { "[{\"Status\":5,\"SubStatus\":15}]", "Await commit", SEV_CRITICAL },
        { "[{\"Status\":1,\"SubStatus\":0,\"AlertStatus\":2}]", "Meeting SLA",
          SEV_CRITICAL },
        { "[{\"Status\":2,\"SubStatus\":24,\"RecoverySite\":{\"type\":"
          "\"LocalSiteApi\"}}]",
          "Source silent", SEV_WARNING },
        { "[{\"Status\":2,\"SubStatus\":24}]", "No link", SEV_WARNING },
        { "[{\"Status\":2,\"SubStatus\":24,\"SourceState\":\"Connecting\"}]",
          "No link", SEV_WARNING },
        { "[{\"Status\":2,\"SubStatus\":24,\"SourceState\":null}]",
          "Agent silent", SEV_WARNING },
        { "[{\"Status\":1,\"SubStatus\":0,\"ActiveProcessesApi\":{"
          "\"RunningFailOverTestApi\":{\"Stage\":\"x\"}}}]",
          "Test running", SEV_PROGRESS },
        { "[{\"Status\":\"junk\",\"SubStatus\":99}]", "?", SEV_UNKNOWN },
        { "[{}]", "?", SEV_UNKNOWN },
        { "[7]", "?", SEV_UNKNOWN },
    };
    struct rows r;

    for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
        assert_string_equal(vpg_cell(t[i].json, "state", NULL, &r)->text,
                            t[i].state);
        assert_int_equal((int)rows_field(&r, 0, "severity")->number,
                         t[i].severity);
        rows_release(&r);
    }
    assert_int_equal(vpg_cell("[{\"ActualRPO\":-1}]", "rpo", NULL, &r)->kind,
                     CELL_UNKNOWN);
    rows_release(&r);
    assert_int_equal(vpg_cell("[{\"ActualRPO\":null}]", "rpo", NULL, &r)->kind,
                     CELL_UNKNOWN);
    rows_release(&r);
    assert_int_equal((int)vpg_cell("[{\"ActualRPO\":12}]", "rpo", NULL, &r)->number,
                     12);
    rows_release(&r);
}

static void
stale_rows(void **state)
{
    static const char vpg[] =
        "[{\"Status\":1,\"SubStatus\":0,\"RecoverySite\":{\"type\":"
        "\"PeerSiteApi\",\"identifier\":\"b\"}}]";
    static const char silent[] =
        "[{\"Status\":2,\"SubStatus\":24,\"RecoverySite\":{\"type\":"
        "\"PeerSiteApi\",\"identifier\":\"b\"}}]";
    static const char down[] =
        "[{\"SiteIdentifier\":\"B\",\"LinkState\":\"Disconnected\","
        "\"LastContact\":\"2026-03-14T12:27:43.123Z\"}]";
    static const char up[] =
        "[{\"SiteIdentifier\":\"B\",\"LinkState\":\"Connected\"}]";
    struct rows r;

    assert_true(vpg_cell(vpg, "stale", down, &r)->number != 0);
    assert_int_equal((int)rows_field(&r, 0, "severity")->number, SEV_STALE);
    assert_int_equal((int)rows_field(&r, 0, "stale_for")->number, 192);
    rows_release(&r);
    assert_true(vpg_cell(vpg, "stale", up, &r)->number == 0);
    rows_release(&r);
    assert_string_equal(vpg_cell(silent, "state", down, &r)->text,
                        "Site silent");
    rows_release(&r);
    assert_string_equal(vpg_cell(silent, "state", up, &r)->text, "No link");
    rows_release(&r);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(filters),
        cmocka_unit_test(filters_refused),
        cmocka_unit_test(sorting),
        cmocka_unit_test(widths),
        cmocka_unit_test(tables_fit),
        cmocka_unit_test(hostile_text),
        cmocka_unit_test(csv),
        cmocka_unit_test(json_form),
        cmocka_unit_test(columns_refused),
        cmocka_unit_test(vpg_rows),
        cmocka_unit_test(stale_rows),
    };

    (void)setlocale(LC_CTYPE, "C.UTF-8");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
