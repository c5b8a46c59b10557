/* room: common
 * Files and secrets. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/files.h"
#include "common/secret.h"

static char dir[] = "/tmp/holdfast-files-XXXXXX";

static int
setup(void **state)
{
    (void)state;
    return mkdtemp(dir) && chdir(dir) == 0 ? 0 : -1;
}

static int
teardown(void **state)
{
    (void)state;
    return chdir("/") == 0 ? rmdir(dir) : -1;
}

static void
replaces_and_reads(void **state)
{
    struct err e = ERR_INIT;
    struct buf b;
    struct stat st;

    (void)state;
    buf_init(&b, 1000);
    assert_int_equal(file_replace("x", 0600, "one", 3, &e), 0);
    assert_int_equal(file_replace("x", 0640, "second", 6, &e), 0);
    assert_int_equal(stat("x", &st), 0);
    assert_int_equal(st.st_mode & 0777, 0640);
    assert_int_equal(file_read("x", 6, &b, &e), 0);
    assert_string_equal((char *)b.data, "second");
    buf_clear(&b);
    assert_int_equal(file_read("x", 5, &b, &e), -EFBIG);
    assert_int_equal(e.code, ERR_GEN_0004);
    assert_int_equal(file_read("none", 5, &b, &e), -ENOENT);
    assert_int_equal(e.code, ERR_GEN_0003);
    assert_int_equal(file_read(".", 5, &b, &e), -EINVAL);
    assert_int_equal(file_replace("none/x", 0600, "", 0, &e), -ENOENT);
    assert_int_equal(unlink("x"), 0);
    buf_release(&b);
}

static void
discarded_leaves_nothing(void **state)
{
    struct tmpfile tf = TMPFILE_INIT;
    struct err e = ERR_INIT;

    (void)state;
    tmpfile_discard(&tf);
    assert_int_equal(tmpfile_open(&tf, ".", 0600, &e), 0);
    assert_int_equal(write_all(tf.fd, "half", 4, &e), 0);
    assert_int_equal(access("y", F_OK), -1);
    tmpfile_discard(&tf);
    assert_int_equal(access("y", F_OK), -1);
    assert_int_equal(write_all(-1, "x", 1, &e), -EBADF);
    /* teardown's rmdir proves that no temporary file stayed */
}

static void
directories(void **state)
{
    struct err e = ERR_INIT;
    char out[FILE_PATH_SIZE], *longname = malloc(FILE_PATH_SIZE + 1);
    struct stat st;

    (void)state;
    assert_int_equal(dir_make("a/b/c", &e), 0);
    assert_int_equal(dir_make("a/b/c", &e), 0);
    assert_int_equal(stat("a/b", &st), 0);
    assert_int_equal(st.st_mode & 0777, 0700);
    assert_int_equal(dir_sync("a/b", &e), 0);
    assert_int_equal(dir_sync("a/z", &e), -ENOENT);
    assert_int_equal(file_replace("f", 0600, "", 0, &e), 0);
    assert_int_equal(dir_make("f", &e), -ENOTDIR);
    assert_int_equal(dir_make("f/x", &e), -ENOTDIR);
    assert_int_equal(dir_make("", &e), -EINVAL);
    assert_int_equal(path_join(out, "a", "b", &e), 0);
    assert_string_equal(out, "a/b");
    assert_non_null(longname);
    memset(longname, 'x', FILE_PATH_SIZE);
    longname[FILE_PATH_SIZE] = '\0';
    assert_int_equal(path_join(out, "a", longname, &e), -ENAMETOOLONG);
    free(longname);
    (void)unlink("f");
    (void)rmdir("a/b/c");
    (void)rmdir("a/b");
    (void)rmdir("a");
}

static void
lock_names_its_holder(void **state)
{
    struct lockfile a = LOCKFILE_INIT, b = LOCKFILE_INIT;
    struct err e = ERR_INIT;
    char want[40];

    (void)state;
    lockfile_release(&b);
    assert_int_equal(lockfile_take(&a, "lock", &e), 0);
    assert_int_equal(lockfile_take(&b, "lock", &e), -EBUSY);
    assert_int_equal(e.code, ERR_GEN_0005);
    (void)snprintf(want, sizeof want, "process %ld", (long)getpid());
    assert_non_null(strstr(e.msg, want));
    lockfile_release(&a);
    assert_int_equal(lockfile_take(&b, "lock", &e), 0);
    lockfile_release(&b);
    assert_int_equal(lockfile_take(&b, "no/lock", &e), -ENOENT);
    (void)unlink("lock");
}

static void
secrets(void **state)
{
    struct secret s = { 0 }, t = { 0 };
    struct err e = ERR_INIT;
    char big[300];

    (void)state;
    memset(big, 'x', sizeof big);
    assert_int_equal(file_replace("s", 0600, "hunter2\r\nmore\n", 14, &e), 0);
    assert_int_equal(secret_from_file(&s, "s", &e), 0);
    assert_string_equal((char *)s.b, "hunter2");
    assert_int_equal(secret_set(&t, "hunter2", 7), 0);
    assert_true(secret_equal(&s, &t));
    assert_int_equal(secret_set(&t, "hunter", 6), 0);
    assert_false(secret_equal(&s, &t));
    assert_int_equal(secret_set(&t, "hunter2\0", 8), 0);
    assert_false(secret_equal(&s, &t));
    assert_int_equal(secret_set(&t, big, 257), -EMSGSIZE);
    assert_int_equal(t.len, 0);
    assert_int_equal(chmod("s", 0640), 0);
    assert_int_equal(secret_from_file(&s, "s", &e), -EPERM);
    assert_int_equal(e.code, ERR_GEN_0006);
    assert_non_null(strstr(e.msg, "0640"));
    assert_int_equal(s.len, 0);
    assert_true(bytes_all_zero(s.b, sizeof s.b));
    assert_int_equal(file_replace("s", 0600, "\n", 1, &e), 0);
    assert_int_equal(secret_from_file(&s, "s", &e), -EINVAL);
    assert_int_equal(file_replace("s", 0600, big, 257, &e), 0);
    assert_int_equal(secret_from_file(&s, "s", &e), -EMSGSIZE);
    assert_int_equal(secret_random(&s, 32, &e), 0);
    assert_int_equal(secret_random(&t, 32, &e), 0);
    assert_false(secret_equal(&s, &t));
    assert_int_equal(secret_random(&s, 1000, &e), -EIO);
    secret_wipe(&t);
    assert_true(bytes_all_zero(&t, sizeof t));
    (void)unlink("s");
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(replaces_and_reads),
        cmocka_unit_test(discarded_leaves_nothing),
        cmocka_unit_test(directories),
        cmocka_unit_test(lock_names_its_holder),
        cmocka_unit_test(secrets),
    };

    return cmocka_run_group_tests_name("files", tests, setup, teardown);
}
