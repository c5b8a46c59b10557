/* room: agent common
 * The top of holdfastd: configuration, derived identifiers, state directory,
 * restart delays, password hashes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent_config.h"
#include "commands.h"
#include "common/bytes.h"
#include "common/scrypt.h"
#include "statedir.h"
#include "supervisor.h"

static char dir[] = "/tmp/holdfast-agent-XXXXXX";

static int
setup(void **state)
{
    (void)state;
    return mkdtemp(dir) ? 0 : -1;
}

static int
teardown(void **state)
{
    (void)state;
    statedir_discard(dir);
    return access(dir, F_OK) == 0 ? -1 : 0;
}

static void
configuration(void **state)
{
    static const char text[] =
        "state_dir = \"/srv/s\"; roles = [ \"replicator\" ];\n"
        "replicator = { name = \"r1\"; ring_size = \"32MiB\"; io = \"epoll\";\n"
        "  vms = ( { name = \"db\"; volumes = (\n"
        "    { name = \"data\"; path = \"/dev/a\"; cache = \"none\"; },\n"
        "    { name = \"log\"; path = \"/dev/b\"; readonly = true; } ); } );\n"
        "  stores = ( { name = \"main\"; path = \"/srv/j\"; } );\n"
        "};\n";
    const struct agent_volume *v;
    const struct agent_vm *vm;
    const struct agent_store *st;
    struct agent_config c;
    struct err e = ERR_INIT;
    char path[FILE_PATH_SIZE];

    (void)state;
    assert_int_equal(agent_config_parse("format = 2;\n", "t", &c, &e),
                     -EPROTONOSUPPORT);
    assert_int_equal(e.code, ERR_AGT_0002);
    assert_int_equal(agent_config_parse(text, "t", &c, &e), 0);
    assert_true(agent_config_has_role(&c, "replicator"));
    assert_false(agent_config_has_role(&c, "manager"));
    assert_int_equal(c.replicator.ring_size, 32 * MIB);
    assert_int_equal(c.replicator.io, AGENT_IO_EPOLL);
    assert_int_equal(c.replicator.link_compression, AGENT_COMPRESS_AUTO);
    assert_int_equal(c.replicator.vms.n, 1);
    vm = c.replicator.vms.items;
    assert_string_equal(vm->name, "db");
    assert_int_equal(vm->volumes.n, 2);
    v = vm->volumes.items;
    assert_int_equal(v[0].cache, AGENT_CACHE_NONE);
    assert_false(v[0].read_only);
    assert_int_equal(v[1].cache, AGENT_CACHE_WRITEBACK);
    assert_true(v[1].read_only);
    st = c.replicator.stores.items;
    assert_string_equal(st->path, "/srv/j");
    assert_int_equal(agent_state_path(&c, "run", path, &e), 0);
    assert_string_equal(path, "/srv/s/run");
    agent_config_release(&c);
    assert_int_equal(agent_config_parse("roles = [];", "t", &c, &e), -EINVAL);
    assert_int_equal(e.code, ERR_CFG_0004);
    assert_int_equal(agent_config_parse("state_dir = \"\";", "t", &c, &e),
                     -EINVAL);
    assert_int_equal(agent_config_parse("replicator = { ring_size = \"1MiB\"; };",
                                        "t", &c, &e),
                     -EINVAL);
    assert_non_null(strstr(e.msg, "16MiB..64GiB"));
    assert_int_equal(agent_config_parse("replicator = { vms = ( { name = \"a\"; } ); };",
                                        "t", &c, &e),
                     -EINVAL);
    assert_int_equal(e.code, ERR_CFG_0005);
}

/* What no single option can say is refused where it is written. */
static void
options_that_do_not_fit(void **state)
{
#define VM(name, path)                                               \
 "{ name = \"" name "\"; volumes = ( { name = \"d\"; path = \"" path \
 "\"; } ); }"
    static const struct {
        const char *text;
        enum err_code code;
        const char *says[3];
    } t[] = {
        { "replicator = { vms = ( " VM("a", "/v/1") ",\n" VM("b",
                                                             "/v//./1/") " ); };",
          ERR_CFG_0007,
          { "t:2: replicator.vms.[1].volumes.[0].path", "/v/1", "line 1" } },
        { "replicator = { stores = (\n { name = \"a\"; path = \"/s\"; },\n"
          " { name = \"b\"; path = \"/s/\"; } ); };",
          ERR_CFG_0007,
          { "t:3: replicator.stores.[1].path", "another store", "line 2" } },
        { "state_dir = \"/srv/x\";\nreplicator = { stores = ( { name = \"a\"; path = \"/srv/x/j\"; } ); };",
          ERR_CFG_0007,
          { "t:2: replicator.stores.[0].path", "state directory /srv/x" } },
        { "replicator = { stores = ( { name = \"a\"; path = \"/s\"; } );\n vms = ( " VM(
              "a", "/s/v") " ); };",
          ERR_CFG_0007,
          { "t:2: replicator.vms.[0].volumes.[0].path", "store /s", "line 1" } },
        { "manager = { api_listen = \"127.0.0.1:9669\";\n peer_listen = \"0.0.0.0:9669\"; };",
          ERR_CFG_0007,
          { "t:2: manager.peer_listen", "manager.api_listen" } },
        { "replicator = {\n data_listen = \"[::1]:9081\"; };",
          ERR_CFG_0007,
          { "t:2: replicator.data_listen", "manager.peer_listen" } },
        { "replicator = { nbd_tcp = { enabled = true;\n listen = \"127.0.0.1:4006\"; }; };",
          ERR_CFG_0007,
          { "t:2: replicator.nbd_tcp.listen", "replicator.control_listen" } },
        { "replicator = { vms = (\n { name = \"a\";\n volumes = (); } ); };",
          ERR_CFG_0005,
          { "t:3: replicator.vms.[0].volumes", "VM a has no volume" } },
        { "log = {\n file = \"/no/such/dir/log\"; };",
          ERR_CFG_0008,
          { "t:2: log.file", "/no/such/dir: No such" } },
        { "log = {\n file = \"/dev/null/log\"; };",
          ERR_CFG_0008,
          { "t:2: log.file" } },
        { "roles = [\n];", ERR_CFG_0004, { "t:1: roles" } },
    };
    static const char *const good[] = {
        "replicator = { vms = ( " VM("a", "/v/1") ", " VM("b", "/v/11") " ); };",
        "state_dir = \"/srv/x\"; replicator = { stores = ( { name = \"a\"; path = \"/srv/x2\"; } ); };",
        "manager = { api_listen = \"127.0.0.1:9\"; peer_listen = \"127.0.0.2:9\"; };",
        "manager = { api_listen = \"127.0.0.1:0\"; peer_listen = \"127.0.0.1:0\"; };",
        "roles = [ \"manager\" ]; replicator = { data_listen = \":9669\"; };",
        "replicator = { nbd_tcp = { listen = \":4006\"; }; };",
        "log = { file = \"/dev/null\"; };",
    };
    struct agent_config c;
    struct err e = ERR_INIT;

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
        if (agent_config_parse(t[i].text, "t", &c, &e) != -EINVAL)
            fail_msg("taken: %s", t[i].text);
        if (e.code != t[i].code)
            fail_msg("%s: %s", err_code_text(e.code), e.msg);
        for (size_t k = 0; k < ARRAY_SIZE(t[i].says) && t[i].says[k]; k++) {
            if (!strstr(e.msg, t[i].says[k]))
                fail_msg("no \"%s\" in: %s", t[i].says[k], e.msg);
        }
    }
    for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
        if (agent_config_parse(good[i], "t", &c, &e) < 0)
            fail_msg("%s: %s", good[i], e.msg);
        agent_config_release(&c);
    }
}

/* conf/holdfastd.conf is what the table says, to the byte. */
static void
sample_file_is_current(void **state)
{
    const char *top = getenv("TOP"); /* set by tests/run */
    struct buf file, sample;
    struct err e = ERR_INIT;
    char path[FILE_PATH_SIZE];

    (void)state;
    buf_init(&file, MIB);
    buf_init(&sample, MIB);
    (void)snprintf(path, sizeof path, "%s/conf/holdfastd.conf", top ? top : ".");
    assert_int_equal(file_read(path, MIB - 1, &file, &e), 0);
    assert_int_equal(agent_config_sample(&sample), 0);
    assert_string_equal((char *)file.data, (char *)sample.data);
    buf_release(&file);
    buf_release(&sample);
}

static void
changes_that_need_a_restart(void **state)
{
    struct agent_config a, b;
    struct err e = ERR_INIT;
    struct buf names;

    (void)state;
    buf_init(&names, 4096);
    assert_int_equal(agent_config_parse("", "t", &a, &e), 0);
    assert_int_equal(agent_config_parse("log = { level = \"debug\"; }; stop_timeout = \"9s\";"
                                        "manager = { api_listen = \":1\"; };",
                                        "t", &b, &e),
                     0);
    assert_int_equal(agent_config_changed(&a, &b, &names), 0);
    assert_string_equal((char *)names.data, "manager.api_listen");
    agent_config_release(&a);
    agent_config_release(&b);
    buf_release(&names);
}

static void
derived_identifiers(void **state)
{
    struct uuid site = { .b = { 1 } }, rep = { .b = { 2 } };
    struct uuid a, b;
    char text[UUID_TEXT_SIZE];

    (void)state;
    agent_volume_id(&site, &rep, "vm", "vol", &a);
    agent_volume_id(&site, &rep, "vm", "vol", &b);
    assert_true(uuid_equal(&a, &b));
    uuid_format(&a, text);
    /* for ever: a changed derivation would orphan every replica */
    assert_string_equal(text, "f7b9bfd2-7f88-89b6-909c-fb0e61c54064");
    agent_volume_id(&site, &rep, "vmv", "ol", &b);
    assert_false(uuid_equal(&a, &b));
    agent_volume_id(&rep, &site, "vm", "vol", &b);
    assert_false(uuid_equal(&a, &b));
    agent_vm_id(&site, &rep, "vm", &a);
    agent_store_id(&site, &rep, "vm", &b);
    assert_false(uuid_equal(&a, &b));
    assert_int_equal(a.b[6] >> 4, 8);
    assert_int_equal(a.b[8] >> 6, 2);
}

static void
write_version(const char *path, const char *text)
{
    char file[200];
    struct err e = ERR_INIT;

    (void)snprintf(file, sizeof file, "%s/VERSION", path);
    assert_int_equal(file_replace(file, 0600, text, strlen(text), &e), 0);
}

static void
state_directories(void **state)
{
    char path[128], draft[FILE_PATH_SIZE], again[FILE_PATH_SIZE];
    struct lockfile lock = LOCKFILE_INIT;
    struct err e = ERR_INIT;
    struct stat st;

    (void)state;
    (void)snprintf(path, sizeof path, "%s/deep/state", dir);
    assert_int_equal(statedir_check(path, &e), -ENOENT);
    assert_int_equal(statedir_begin(path, draft, &e), 0);
    assert_int_equal(access(path, F_OK), -1); /* nothing half-made */
    statedir_discard(draft);
    assert_int_equal(access(draft, F_OK), -1);
    assert_int_equal(statedir_begin(path, draft, &e), 0);
    assert_int_equal(statedir_begin(path, again, &e), 0);
    assert_int_equal(statedir_commit(draft, path, &e), 0);
    /* two at once: the second finds the first */
    assert_true(statedir_commit(again, path, &e) < 0);
    assert_int_equal(e.code, ERR_AGT_0001);
    statedir_discard(again);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0700);
    assert_int_equal(statedir_check(path, &e), 0);
    assert_int_equal(statedir_begin(path, draft, &e), -EEXIST);
    assert_int_equal(e.code, ERR_AGT_0001);
    assert_int_equal(statedir_lock(path, &lock, &e), 0);
    assert_int_equal(statedir_begin(path, draft, &e), -EBUSY);
    assert_int_equal(e.code, ERR_GEN_0005);
    lockfile_release(&lock);
    write_version(path, "holdfast-state 2\n");
    assert_int_equal(statedir_check(path, &e), -EPROTONOSUPPORT);
    assert_int_equal(e.code, ERR_AGT_0002);
    assert_int_equal(statedir_begin(path, draft, &e), -EPROTONOSUPPORT);
    write_version(path, "something else\n");
    assert_int_equal(statedir_check(path, &e), -EBADMSG);
    assert_int_equal(e.code, ERR_AGT_0003);
    write_version(path, "holdfast-state 0\n");
    assert_int_equal(statedir_check(path, &e), -EBADMSG);
    write_version(path, "holdfast-state 99999999999999999999\n");
    assert_int_equal(statedir_check(path, &e), -EBADMSG);
    /* a directory with somebody's files */
    assert_int_equal(statedir_begin(dir, draft, &e), -EEXIST);
    assert_int_equal(e.code, ERR_AGT_0001);
}

static void
restart_delays(void **state)
{
    static const uint64_t want[] = { 100,  200,  400,   800,   1600,
                                     3200, 6400, 12800, 25600, 30000 };
    uint64_t d = 0;

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(want); i++) {
        d = supervisor_next_delay(d, 50);
        assert_int_equal(d, want[i]);
    }
    assert_int_equal(supervisor_next_delay(d, 29999), 30000);
    assert_int_equal(supervisor_next_delay(d, 30000), 100);
}

static void
statuses(void **state)
{
    static const struct {
        int num;
        enum err_code code;
        int status;
    } t[] = {
        { -ENOENT, ERR_GEN_0007, STATUS_TEMPORARY },
        { -ETIMEDOUT, ERR_GEN_0008, STATUS_TEMPORARY },
        { -EBUSY, ERR_GEN_0005, STATUS_TEMPORARY },
        { -EAGAIN, ERR_AGT_0004, STATUS_TEMPORARY },
        { -EACCES, ERR_AGT_0004, STATUS_FAILED },
        { -ENOENT, ERR_GEN_0003, STATUS_FAILED },
        { -EAGAIN, ERR_AGT_0008, STATUS_TEMPORARY },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
        struct err e = ERR_INIT;

        err_set(&e, t[i].num, t[i].code, "x");
        assert_int_equal(status_of(&e), t[i].status);
    }
}

static void
passwords(void **state)
{
    struct secret a = { .len = 0 }, b = { .len = 0 };
    struct scrypt_hash h, g;
    struct err e = ERR_INIT;

    (void)state;
    assert_int_equal(scrypt_new_password(&a, &e), 0);
    assert_int_equal(scrypt_new_password(&b, &e), 0);
    assert_int_equal(a.len, 29);
    assert_int_equal(a.b[9], '-');
    assert_false(secret_equal(&a, &b));
    assert_int_equal(scrypt_make(&a, &h, &e), 0);
    assert_int_equal(scrypt_make(&a, &g, &e), 0);
    assert_memory_not_equal(h.hash, g.hash, sizeof h.hash); /* salted */
    assert_int_equal(scrypt_check(&a, &h, &e), 0);
    assert_int_equal(scrypt_check(&b, &h, &e), -EACCES);
    h.hash[31] ^= 1;
    assert_int_equal(scrypt_check(&a, &h, &e), -EACCES);
    h.n = 1 << 21;
    assert_int_equal(scrypt_check(&a, &h, &e), -ERANGE);
    h.n = 65535;
    assert_int_equal(scrypt_check(&a, &h, &e), -ERANGE);
    secret_wipe(&a);
    secret_wipe(&b);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(configuration),
        cmocka_unit_test(options_that_do_not_fit),
        cmocka_unit_test(sample_file_is_current),
        cmocka_unit_test(changes_that_need_a_restart),
        cmocka_unit_test(derived_identifiers),
        cmocka_unit_test(state_directories),
        cmocka_unit_test(restart_delays),
        cmocka_unit_test(statuses),
        cmocka_unit_test(passwords),
    };

    return cmocka_run_group_tests_name("agent", tests, setup, teardown);
}
