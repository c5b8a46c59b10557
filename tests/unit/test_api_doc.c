/* room: manager http common */
/* The table of routes in docs/api.md is the router's.  With --print: write the
 * router's to standard output. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/files.h"
#include "manager/manager.h"

static void
table_is_current(void **state)
{
    const char *top = getenv("TOP");
    char path[FILE_PATH_SIZE];
    struct buf table, doc;

    buf_init(&table, 1024 * 1024);
    buf_init(&doc, 1024 * 1024);
    assert_int_equal(manager_print_routes(&table), 0);
    assert_int_equal(path_join(path, top ? top : ".", "docs/api.md", NULL), 0);
    assert_int_equal(file_read(path, 1024 * 1000, &doc, NULL), 0);
    if (!strstr((char *)doc.data, (char *)table.data))
        fail_msg(
            "docs/api.md is not current: put in the output of build/tests/unit/test_api_doc --print");
    buf_release(&table);
    buf_release(&doc);
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(table_is_current) };
    struct buf table;

    if (argc == 2 && strcmp(argv[1], "--print") == 0) {
        buf_init(&table, 1024 * 1024);
        (void)manager_print_routes(&table);
        fputs((char *)table.data, stdout);
        buf_release(&table);
        return 0;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
