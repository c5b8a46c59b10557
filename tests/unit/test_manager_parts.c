/* room: manager http common */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <fcntl.h>
#include <semaphore.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>
#include <sqlite3.h>

#include "common/bytes.h"
#include "common/log.h"
#include "manager/accounts.h"
#include "manager/manager.h"
#include "manager/pairtoken.h"
#include "manager/sessions.h"

static char dir[] = "/tmp/hf-mgrunit.XXXXXX";

static int
setup(void **state)
{
    log_set_level(LOG_ERROR);
    return mkdtemp(dir) ? 0 : -1;
}

static int
teardown(void **state)
{
    return rmdir(dir);
}

/* --- catalog --------------------------------------------------------------------- */

struct seen {
    unsigned n;
    char text[200];
};

static int
see(void *arg, const char *id, const char *json)
{
    struct seen *s = arg;
    size_t len = strlen(s->text);

    s->n++;
    (void)snprintf(s->text + len, sizeof s->text - len, "%s=%s ", id, json);
    return 0;
}

static void
remove_db(const char *path)
{
    char other[300];

    (void)unlink(path);
    (void)snprintf(other, sizeof other, "%s-wal", path);
    (void)unlink(other);
    (void)snprintf(other, sizeof other, "%s-shm", path);
    (void)unlink(other);
}

static void
catalog_keeps(void **state)
{
    struct catalog *c;
    struct err err = ERR_INIT;
    struct seen s = { 0 };
    struct stat st;
    char path[200];

    (void)snprintf(path, sizeof path, "%s/catalog.db", dir);
    assert_int_equal(catalog_open(path, &c, &err), 0);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 077, 0);
    assert_int_equal(catalog_put(c, "vpg", "b", "{2}", NULL), 0);
    assert_int_equal(catalog_put(c, "vpg", "a", "{1}", NULL), 0);
    assert_int_equal(catalog_put(c, "vpg", "a", "{3}", NULL), 0);
    assert_int_equal(catalog_put(c, "task", "a", "{}", NULL), 0);
    /* taken back */
    assert_int_equal(catalog_begin(c, NULL), 0);
    assert_int_equal(catalog_put(c, "vpg", "c", "{4}", NULL), 0);
    assert_int_equal(catalog_begin(c, &err), -EIO); /* one at a time */
    assert_int_equal(err.code, ERR_MGR_0004);
    catalog_rollback(c);
    catalog_close(c);
    assert_int_equal(catalog_open(path, &c, NULL), 0);
    assert_int_equal(catalog_each(c, "vpg", see, &s, NULL), 0);
    assert_string_equal(s.text, "a={3} b={2} ");
    assert_int_equal(catalog_get(c, "vpg", "z", see, &s, &err), -ENOENT);
    assert_int_equal(err.code, ERR_API_0013);
    assert_int_equal(catalog_delete(c, "vpg", "a", NULL), 0);
    assert_int_equal(catalog_delete(c, "vpg", "a", NULL), -ENOENT);
    /* events: newest first, the oldest go */
    for (unsigned i = 0; i < 10; i++) {
        char id[8];

        (void)snprintf(id, sizeof id, "%u", i);
        assert_int_equal(catalog_event_add(c, 1000 + i, id, "e", 4, NULL), 0);
    }
    s = (struct seen){ 0 };
    assert_int_equal(catalog_events(c, 0, UINT64_MAX, 100, see, &s, NULL), 0);
    assert_string_equal(s.text, "9=e 8=e 7=e 6=e ");
    s = (struct seen){ 0 };
    assert_int_equal(catalog_events(c, 1007, 1008, 1, see, &s, NULL), 0);
    assert_string_equal(s.text, "8=e ");
    catalog_close(c);
    remove_db(path);
}

static uint64_t
sum_of(const char *path)
{
    FILE *f = fopen(path, "rb");
    uint64_t sum = 5381;
    int c;

    assert_non_null(f);
    while ((c = fgetc(f)) != EOF)
        sum = sum * 33 + (unsigned)c;
    fclose(f);
    return sum;
}

static void
catalog_refuses(void **state)
{
    struct catalog *c = NULL;
    struct err err = ERR_INIT;
    char path[200];
    uint64_t before;
    sqlite3 *db;
    FILE *f;

    (void)snprintf(path, sizeof path, "%s/newer.db", dir);
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db,
                                  "CREATE TABLE later (x); PRAGMA user_version = 2",
                                  NULL, NULL, NULL),
                     SQLITE_OK);
    sqlite3_close(db);
    before = sum_of(path);
    assert_int_equal(catalog_open(path, &c, &err), -EPROTONOSUPPORT);
    assert_int_equal(err.code, ERR_MGR_0003);
    assert_non_null(strstr(err.msg, "version 2"));
    assert_true(sum_of(path) == before); /* untouched */
    remove_db(path);
    f = fopen(path, "wb");
    for (int i = 0; i < 5000; i++)
        fputc("garbage"[i % 7], f);
    fclose(f);
    assert_int_equal(catalog_open(path, &c, &err), -EIO);
    assert_int_equal(err.code, ERR_MGR_0002);
    remove_db(path);
    assert_int_equal(catalog_open("/nonexistent/dir/c.db", &c, &err), -EIO);
    assert_null(c);
}

/* --- sessions ---------------------------------------------------------------------- */

#define MIN_MS ((uint64_t)60000)

static void
sessions_end_in_time(void **state)
{
    struct sessions *s;
    char token[SESSION_TOKEN_SIZE], other[SESSION_TOKEN_SIZE],
        first[SESSION_TOKEN_SIZE] = "";
    struct uuid id;
    uint64_t t = 1000;

    assert_int_equal(sessions_new(30 * MIN_MS, 720 * MIN_MS, &s, NULL), 0);
    assert_int_equal(sessions_begin(s, "ann", t, token, NULL), 0);
    assert_int_equal(strlen(token), 64);
    assert_string_equal(sessions_check(s, token, t, SESSION_ACTIVE, &id), "ann");
    assert_true(sessions_live(s, &id));
    /* idle 29:59 works and renews, 30:00 does not */
    t += 30 * MIN_MS - 1;
    assert_non_null(sessions_check(s, token, t, SESSION_ACTIVE, NULL));
    t += 30 * MIN_MS - 1;
    assert_non_null(sessions_check(s, token, t, SESSION_ACTIVE, NULL));
    assert_null(sessions_check(s, token, t + 30 * MIN_MS, SESSION_ACTIVE, NULL));
    assert_false(sessions_live(s, &id));
    /* background calls do not renew */
    assert_int_equal(sessions_begin(s, "ann", t, token, NULL), 0);
    assert_non_null(
        sessions_check(s, token, t + 20 * MIN_MS, SESSION_BACKGROUND, NULL));
    assert_null(
        sessions_check(s, token, t + 31 * MIN_MS, SESSION_BACKGROUND, NULL));
    /* 12 hours in all, however busy */
    assert_int_equal(sessions_begin(s, "ann", t, token, NULL), 0);
    for (unsigned i = 1; i < 72; i++)
        assert_non_null(sessions_check(s, token, t + i * 10 * MIN_MS,
                                       SESSION_ACTIVE, NULL));
    assert_null(sessions_check(s, token, t + 720 * MIN_MS, SESSION_ACTIVE, NULL));
    /* a reload's limits are for sessions that are there already, too */
    assert_int_equal(sessions_begin(s, "ann", t, token, NULL), 0);
    sessions_limits(s, 5 * MIN_MS, 8 * MIN_MS);
    assert_int_equal(sessions_begin(s, "ann", t, other, NULL), 0);
    assert_non_null(
        sessions_check(s, token, t + 4 * MIN_MS, SESSION_ACTIVE, NULL));
    assert_non_null(
        sessions_check(s, token, t + 7 * MIN_MS, SESSION_ACTIVE, NULL));
    assert_null(sessions_check(s, other, t + 6 * MIN_MS, SESSION_ACTIVE, NULL));
    assert_null(sessions_check(s, token, t + 9 * MIN_MS, SESSION_ACTIVE, NULL));
    sessions_limits(s, 30 * MIN_MS, 720 * MIN_MS);
    /* one too many: the longest idle goes */
    t += 1000 * MIN_MS;
    for (unsigned i = 0; i <= SESSIONS_PER_USER; i++) {
        assert_int_equal(sessions_begin(s, "ann", t + i, other, NULL), 0);
        if (i == 0)
            strcpy(first, other);
    }
    assert_int_equal(sessions_count(s), SESSIONS_PER_USER);
    assert_null(sessions_check(s, first, t + 30, SESSION_ACTIVE, NULL));
    assert_non_null(sessions_check(s, other, t + 30, SESSION_ACTIVE, NULL));
    sessions_end(s, other);
    assert_null(sessions_check(s, other, t + 30, SESSION_ACTIVE, NULL));
    sessions_end(s, "not a token");
    for (unsigned i = 0; i < SESSIONS_MAX + 50; i++) {
        char user[20];

        (void)snprintf(user, sizeof user, "u%u", i);
        assert_int_equal(sessions_begin(s, user, t + 40, other, NULL), 0);
    }
    assert_int_equal(sessions_count(s), SESSIONS_MAX);
    sessions_free(s);
}

static void
delays(void **state)
{
    static const unsigned want[] = { 0,  0,  0,   1,   2,   4,   8,  16,
                                     32, 64, 128, 256, 512, 900, 900 };

    for (unsigned i = 0; i < ARRAY_SIZE(want); i++)
        assert_int_equal(account_delay_s(i), want[i]);
    assert_int_equal(account_delay_s(4000000000u), 900);
}

/* --- pairing tokens ------------------------------------------------------------------ */

static void
pairing_token(void **state)
{
    struct pairtoken t, u = { .expiry_s = 7 };
    uint8_t root[32], key[32], a[32], b[32];
    char text[PAIRTOKEN_TEXT_SIZE], copy[PAIRTOKEN_TEXT_SIZE + 10];
    struct err err = ERR_INIT;
    size_t n;

    memset(&t, 0, sizeof t);
    for (unsigned i = 0; i < 32; i++) {
        t.root[i] = (uint8_t)i;
        t.secret[i] = (uint8_t)(0x80 + i);
        root[i] = (uint8_t)(3 * i);
        key[i] = (uint8_t)(5 * i);
    }
    memset(t.id.b, 0x11, 16);
    memset(t.site.b, 0x22, 16);
    t.expiry_s = 1800000000;
    pairtoken_encode(&t, text);
    /* golden: version 1 */
    assert_string_equal(text,
                        "AREREREREREREREREREREREiIiIiIiIiIiIiIiIiIiIiANJJawAAAAAA"
                        "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eH4CBgoOEhYaHiImK"
                        "i4yNjo-QkZKTlJWWl5iZmpucnZ6fjX_ZTA");
    (void)snprintf(copy, sizeof copy, " %s\r\n", text);
    assert_int_equal(pairtoken_decode(copy, &u, &err), 0);
    assert_memory_equal(&u, &t, sizeof t);
    /* cut at every length, and every character exchanged */
    n = strlen(text);
    for (size_t i = 0; i < n; i++) {
        (void)snprintf(copy, sizeof copy, "%.*s", (int)i, text);
        assert_int_equal(pairtoken_decode(copy, &u, &err), -EBADMSG);
        assert_int_equal(err.code, ERR_MGR_0005);
        strcpy(copy, text);
        copy[i] = copy[i] == 'A' ? 'B' : 'A';
        assert_int_equal(pairtoken_decode(copy, &u, NULL), -EBADMSG);
    }
    /* proofs differ by side, root, connection, secret */
    assert_int_equal(pairtoken_proof(&t, PAIRTOKEN_REQUEST, root, key, a, NULL),
                     0);
    assert_int_equal(pairtoken_proof(&t, PAIRTOKEN_REQUEST, root, key, b, NULL),
                     0);
    assert_memory_equal(a, b, 32);
    assert_int_equal(pairtoken_proof(&t, PAIRTOKEN_ANSWER, root, key, b, NULL),
                     0);
    assert_memory_not_equal(a, b, 32);
    root[31] ^= 1;
    assert_int_equal(pairtoken_proof(&t, PAIRTOKEN_REQUEST, root, key, b, NULL),
                     0);
    assert_memory_not_equal(a, b, 32);
    root[31] ^= 1;
    key[0] ^= 1;
    assert_int_equal(pairtoken_proof(&t, PAIRTOKEN_REQUEST, root, key, b, NULL),
                     0);
    assert_memory_not_equal(a, b, 32);
    key[0] ^= 1;
    t.secret[5] ^= 1;
    assert_int_equal(pairtoken_proof(&t, PAIRTOKEN_REQUEST, root, key, b, NULL),
                     0);
    assert_memory_not_equal(a, b, 32);
}

/* --- status --------------------------------------------------------------------------- */

static void
judging(void **state)
{
    const struct vpg_facts good = { .state = VPG_ACTIVE,
                                    .source_state = "Streaming",
                                    .target_state = "Receiving",
                                    .source_link = true,
                                    .target_link = true,
                                    .has_points = true,
                                    .rpo_ms = 2000,
                                    .rpo_s = 10,
                                    .history_s = 3600,
                                    .actual_history_s = 3600,
                                    .age_s = 9000,
                                    .progress = -1 };
    struct vpg_facts f;
    struct vpg_verdict v;

#define EXPECT(change, st, sub)        \
 do {                                  \
  f = good;                            \
  change;                              \
  v = vpg_judge(&f);                   \
  assert_int_equal(v.status, st);      \
  assert_int_equal(v.substatus, sub);  \
  assert_in_range(v.progress, 0, 100); \
 } while (0)
    EXPECT((void)0, 1, 0);
    EXPECT(f.state = VPG_CREATING, 0, 2);
    EXPECT(f.state = VPG_DELETING, 7, 21);
    EXPECT((f.has_points = false, f.source_state = "InitialSync", f.rpo_ms = -1),
           0, 1);
    EXPECT((f.has_points = false, f.rpo_ms = -1), 0, 1);
    EXPECT(f.rpo_ms = 10001, 4, 0);
    EXPECT(f.rpo_ms = -1, 4, 0);
    EXPECT(f.actual_history_s = 1000, 3, 0);
    EXPECT((f.actual_history_s = 1000, f.rpo_ms = 99999), 2, 0);
    /* a young VPG has had no time */
    EXPECT((f.actual_history_s = 300, f.age_s = 310), 1, 0);
    EXPECT((f.source_link = false), 2, 24);
    EXPECT((f.source_state = NULL, f.source_link = false, f.target_link = false),
           2, 24);
    EXPECT((f.source_state = NULL, f.source_link = false), 1,
           0); /* the manager is away, the stream is not */
    EXPECT((f.source_state = NULL, f.target_state = NULL, f.source_link = false,
            f.target_link = false),
           2, 24);
    EXPECT((f.has_points = false, f.source_link = f.target_link = false), 2, 10);
    EXPECT((f.has_points = false, f.source_link = f.target_link = false,
            f.source_state = "Connecting"),
           0, 1);
    EXPECT(f.source_state = "Paused", 1, 25);
    EXPECT((f.source_state = "Paused", f.rpo_ms = 99999), 4, 25);
    EXPECT((f.source_state = "Resync", f.resync_reason = "the ring overflowed",
            f.progress = 40),
           1, 23);
    EXPECT((f.source_state = "Resync", f.resync_reason = "forced by an operator"),
           1, 6);
    EXPECT(f.source_state = "Collapsed", 1, 23);
    EXPECT(f.source_state = "Error", 2, 8);
    EXPECT(f.target_state = "Stopped", 2, 31);
    EXPECT(f.target_state = "Asking", 2, 7);
    EXPECT(f.target_state = "Full", 2, 31);
    EXPECT(f.target_state = "Damaged", 2, 31);
    EXPECT(f.target_state = "Error", 2, 30);
    f = good;
    f.rpo_ms = 10001;
    assert_int_equal(vpg_rpo_alarm(&f, 59999), 0);
    assert_int_equal(vpg_rpo_alarm(&f, 60000), 1);
    assert_int_equal(vpg_rpo_alarm(&f, 30 * MIN_MS), 2);
    f.rpo_ms = 20001;
    assert_int_equal(vpg_rpo_alarm(&f, 59999), 0);
    assert_int_equal(vpg_rpo_alarm(&f, 60000), 2);
    f.rpo_ms = 10000;
    assert_int_equal(vpg_rpo_alarm(&f, 60 * MIN_MS), 0);
    f.rpo_ms = 99999;
    f.has_points = false; /* none is no old one */
    assert_int_equal(vpg_rpo_alarm(&f, 60 * MIN_MS), 0);
    f = good;
    assert_false(vpg_history_short(&f));
    f.actual_history_s = 1800;
    assert_true(vpg_history_short(&f));
    assert_false(vpg_history_half(&f));
    f.actual_history_s = 1799;
    assert_true(vpg_history_half(&f));
    assert_int_equal(vpg_status_count, 9);
    assert_string_equal(vpg_status_names[3], "HistoryNotMeetingSLA");
    assert_int_equal(vpg_substatus_count, 42);
    assert_string_equal(vpg_substatus_names[36], "StoppingForFailure");
}

/* --- settings and definitions ------------------------------------------------------------- */

static cJSON *
tree(const char *text)
{
    cJSON *t = NULL;

    assert_int_equal(json_parse(text, strlen(text), 100000, &t, NULL), 0);
    return t;
}

static void
settings_merging(void **state)
{
    cJSON *s = settings_new(), *given;
    const cJSON *basic, *vm;
    const char *text;
    struct err err = ERR_INIT;
    uint64_t n;
    bool b;

    given = tree(
        "{\"basic\":{\"NAME\":\"x\",\"rpoInSeconds\":\"60\",\"UseWanCompression\":\"False\",\"Priority\":2,"
        "\"Nothing\":1},\"Scratch\":null,\"Vms\":[{\"vmIdentifier\":\"a\",\"Journal\":{\"Limitation\":{\"x\":1}}}],"
        "\"recovery\":{\"DefaultHostIdentifier\":\"h\"}}");
    assert_int_equal(settings_merge(s, given, &err), 0);
    cJSON_Delete(given);
    basic = json_get(s, "Basic");
    assert_int_equal(json_str(basic, "Name", JSON_REQUIRED, &text, NULL), 1);
    assert_string_equal(text, "x");
    assert_int_equal(json_u64(basic, "RpoInSeconds", JSON_REQUIRED, 0, 100, &n,
                              NULL),
                     1);
    assert_int_equal(n, 60);
    assert_true(cJSON_IsNumber(json_get(basic, "RpoInSeconds")));
    assert_int_equal(json_bool(basic, "UseWanCompression", JSON_REQUIRED, &b,
                               NULL),
                     1);
    assert_false(b);
    assert_null(json_get(basic, "Nothing"));
    assert_true(
        cJSON_IsObject(json_get(s, "Scratch"))); /* null does not take it away */
    vm = cJSON_GetArrayItem(json_get(s, "Vms"), 0);
    assert_non_null(json_get(vm, "Recovery")); /* filled in */
    assert_non_null(json_get(json_get(vm, "Journal"), "Limitation"));
    given = tree("{\"Basic\":{\"RpoInSeconds\":[1]}}");
    assert_int_equal(settings_merge(s, given, &err), -EINVAL);
    assert_int_equal(err.code, ERR_API_0014);
    assert_non_null(strstr(err.msg, "RpoInSeconds"));
    cJSON_Delete(given);
    given = tree("{\"Vms\":[5]}");
    err = (struct err)ERR_INIT;
    assert_int_equal(settings_merge(s, given, &err), -EINVAL);
    cJSON_Delete(given);
    cJSON_Delete(s);
}

static struct replicator *
add_replicator(struct manager *m, struct list *head, uint8_t id,
               const char *status)
{
    struct replicator *r = calloc(1, sizeof *r);

    assert_non_null(r);
    list_init(&r->link);
    memset(r->id.b, id, 16);
    (void)snprintf(r->name, sizeof r->name, "r%u", id);
    r->status = tree(status);
    list_push_back(head, &r->link);
    return r;
}

#define U(d)                                                     \
# d # d # d # d # d # d # d # d                                  \
     "-" # d # d # d # d "-" # d # d # d # d "-" # d # d # d # d \
     "-" # d # d # d # d # d # d # d # d # d # d # d # d
#define VOL(d)                                              \
 "{\"VolumeIdentifier\":\"" U(d) "\",\"VolumeName\":\"v" #d \
                                 "\",\"SizeInBytes\":4096,\"Error\":null}"
#define VM(d, vols) \
 "{\"VmIdentifier\":\"" U(d) "\",\"VmName\":\"m" #d "\",\"Volumes\":[" vols "]}"

static void
one_replicator_each(void **state)
{
    struct manager m = { .n_event = 0 };
    struct peer *p = peer_new();
    struct vpg *v = NULL, *again = NULL;
    struct err err = ERR_INIT;
    struct list *pos, *tmp;
    struct buf out;
    cJSON *s = settings_new(), *given, *copy;

    list_init(&m.replicators);
    list_init(&m.peers);
    list_init(&m.vpgs);
    list_init(&m.ops);
    memset(m.site.b, 0x11, 16);
    memset(p->site.b, 0x22, 16);
    list_push_back(&m.peers, &p->link);
    (void)add_replicator(&m, &m.replicators, 3,
                         "{\"Vms\":[" VM(5, VOL(6)) "," VM(7, VOL(8) "," VOL(
                                                                  9)) "]}");
    (void)add_replicator(&m, &m.replicators, 4, "{\"Vms\":[" VM(0, VOL(1)) "]}");
    (void)add_replicator(&m, &p->replicators, 9,
                         "{\"Stores\":[{\"StoreIdentifier\":\"" U(2) "\"}]}");
    given = tree(
        "{\"Basic\":{\"Name\":\"n\",\"ProtectedSiteIdentifier\":\"" U(1) "\",\"RecoverySiteIdentifier\":\"" U(
            2) "\"},"
               "\"Vms\":[{\"VmIdentifier\":\"" U(
                   5) "\"},{\"VmIdentifier\":\"" U(7) "\"}]}");
    assert_int_equal(settings_merge(s, given, NULL), 0);
    cJSON_Delete(given);
    assert_int_equal(settings_to_vpg(&m, s, &v, &err), 0);
    assert_int_equal(v->n_volumes, 3);
    assert_int_equal(v->volumes[2].number, 2);
    assert_int_equal(v->source.b[0], 3);
    assert_int_equal(v->target.b[0], 9);
    assert_int_equal(v->history_s, 24 * 3600);
    /* written and read back, it is the same */
    buf_init(&out, VPG_DEFINITION_MAX);
    assert_int_equal(vpg_encode(v, &out), 0);
    copy = tree((char *)out.data);
    assert_int_equal(vpg_decode(copy, &again, &err), 0);
    assert_int_equal(again->n_volumes, 3);
    assert_memory_equal(again->volumes, v->volumes, sizeof v->volumes);
    assert_int_equal(again->hard_bytes, v->hard_bytes);
    vpg_free(again);
    cJSON_DeleteItemFromObject(copy, "Generation");
    assert_int_equal(vpg_decode(copy, &again, &err), -EINVAL);
    cJSON_Delete(copy);
    /* a VM on another replicator */
    given = tree("{\"Vms\":[{\"VmIdentifier\":\"" U(
        5) "\"},{\"VmIdentifier\":\"" U(0) "\"}]}");
    assert_int_equal(settings_merge(s, given, NULL), 0);
    cJSON_Delete(given);
    assert_int_equal(settings_to_vpg(&m, s, &again, &err), -EINVAL);
    assert_int_equal(err.code, ERR_MGR_0010);
    buf_release(&out);
    vpg_free(v);
    cJSON_Delete(s);
    list_for_each_safe (pos, tmp, &m.replicators)
        replicator_free(list_entry(pos, struct replicator, link));
    list_for_each_safe (pos, tmp, &p->replicators)
        replicator_free(list_entry(pos, struct replicator, link));
    peer_free(p);
}

/* --- calls and steps that cannot be made ------------------------------------------------------ */

static enum op_verdict
never(struct op *op)
{
    return OP_WAIT;
}

static void
cannot_call(void **state)
{
    static const struct op_step steps[] = { { "Step", never }, { NULL, NULL } };
    static const struct op_type type = { "T", 0, steps, NULL };
    struct manager m = { .n_event = 0 };
    struct replicator r = { .name = "r" };
    struct op op = { .m = &m, .type = &type };
    struct err err = ERR_INIT;

    list_init(&m.replicators);
    list_init(&m.peers);
    assert_int_equal(fleet_call(&m, &r, "GET", "/", NULL, NULL, NULL, &err),
                     -ENOTCONN);
    assert_int_equal(err.code, ERR_MGR_0015);
    assert_int_equal(op_call_peer(&op, &m.site, "GET", "/", NULL), OP_FAILED);
    assert_int_equal(op.err.code, ERR_MGR_0012);
    assert_int_equal(op_call_replicator(&op, &m.site, "GET", "/", NULL),
                     OP_FAILED);
    assert_int_equal(op.err.code, ERR_API_0013);
    op.step_ms = http_loop_now_ms();
    assert_int_equal(op_wait(&op, 60000, "rain"), OP_WAIT);
    op.step_ms = 0;
    assert_int_equal(op_wait(&op, 1, "rain"), OP_FAILED);
    assert_int_equal(op.err.code, ERR_MGR_0014);
    assert_int_equal(rpc_code("MGR-0007"), ERR_MGR_0007);
    assert_int_equal(rpc_code("NEW-4711"), ERR_MGR_0001);
}

struct counted {
    struct job job;
    unsigned *done;
};

static void
work(struct job *j)
{
    usleep(1000);
}

static void
count(struct job *j)
{
    (*container_of(j, struct counted, job)->done)++;
}

static void
ignore(struct rpc *r)
{
}

static void
workers_bounded(void **state)
{
    struct counted jobs[50];
    struct http_loop *loop;
    struct workers *w;
    struct tls_settings set = { .side = TLS_CLIENT };
    struct tls_ctx *tls;
    struct dest *d;
    struct err err = ERR_INIT;
    unsigned done = 0, taken = 0;

    assert_int_equal(http_loop_new(&loop, NULL), 0);
    assert_int_equal(workers_new(loop, 1, 5, &w, NULL), 0);
    for (unsigned i = 0; i < ARRAY_SIZE(jobs); i++) {
        jobs[i] = (struct counted){ .job = { .work = work, .done = count },
                                    .done = &done };
        taken += workers_submit(w, &jobs[i].job) == 0;
    }
    assert_in_range(taken, 5, 49);
    /* the same refusal with a call's name for it */
    assert_int_equal(tls_ctx_new(&set, &tls, NULL), 0);
    assert_int_equal(dest_new("127.0.0.1:1", tls, NULL, &d, NULL), 0);
    if (rpc_start(w, d, "GET", "/", NULL, ignore, NULL, NULL, &err) < 0)
        assert_int_equal(err.code, ERR_API_0015);
    dest_free(d);
    tls_ctx_free(tls);
    workers_free(w);
    http_loop_free(loop);
    assert_int_equal(done, taken); /* each came back, done or not */
}

struct asking {
    struct job job;
    sem_t worked;
    bool done, ending;
};

static void
work_and_tell(struct job *j)
{
    sem_post(&container_of(j, struct asking, job)->worked);
}

static void
ask_pool(struct job *j)
{
    struct asking *a = container_of(j, struct asking, job);

    a->done = true;
    a->ending = workers_ending(j->workers);
}

/* A job that is finished when the pool goes, and whose loop turns no more. */
static void
workers_end(void **state)
{
    struct asking a = { .job = { .work = work_and_tell, .done = ask_pool } };
    struct http_loop *loop;
    struct workers *w;

    sem_init(&a.worked, 0, 0);
    assert_int_equal(http_loop_new(&loop, NULL), 0);
    assert_int_equal(workers_new(loop, 1, 5, &w, NULL), 0);
    assert_int_equal(workers_submit(w, &a.job), 0);
    sem_wait(&a.worked);
    workers_free(w);
    assert_true(a.done && a.ending);
    http_loop_free(loop);
    sem_destroy(&a.worked);
}

/* --- times ---------------------------------------------------------------------------------------- */

static void
times(void **state)
{
    static const char *const bad[] = { "",
                                       "x",
                                       "2026-13-01",
                                       "2026-02-30",
                                       "2026-02-29T10:00:00Z",
                                       "2026-04-31T10:00:00.5Z",
                                       "2100-02-29",
                                       "2026-11-22T",
                                       "2026-11-22T03:32",
                                       "2026-11-22T03:32:48.1X",
                                       "1969-01-01",
                                       "99999999999999999999" };
    char text[TIME_SIZE];
    uint64_t ms = 0;

    assert_int_equal(time_parse("2026-11-22T03:32:48.123Z", &ms), 0);
    assert_string_equal(time_text(ms, text), "2026-11-22T03:32:48.123Z");
    assert_int_equal(time_parse("1520423877045", &ms), 0);
    assert_true(ms == 1520423877045);
    assert_int_equal(time_parse("2026-11-22T03:32:48Z", &ms), 0);
    assert_int_equal(time_parse("2026-11-22", &ms), 0);
    assert_int_equal(time_parse("2028-02-29", &ms), 0);
    assert_int_equal(time_parse("2026-12-31T23:59:60Z", &ms), 0);
    assert_int_equal(time_parse("2026-11-22T03:32:48", &ms), 0);
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        if (time_parse(bad[i], &ms) == 0)
            fail_msg("%s was taken", bad[i]);
}

/* --- how far back ------------------------------------------------------------------------------------ */

/* The oldest point is four minutes old, the journal was up for 64 s of them, and
 * for the last two and a half nothing was heard. */
static void
history_of_an_outage(void **state)
{
    static struct manager m;
    static struct replicator r;
    static struct vpg v = { .history_s = 3600, .state = VPG_ACTIVE };
    char json[400], stamp[TIME_SIZE];
    struct vpg_facts f;

    list_init(&m.replicators);
    list_init(&m.peers);
    list_init(&r.link);
    (void)snprintf(json, sizeof json,
                   "{\"Targets\":[{\"VpgIdentifier\":"
                   "\"00000000-0000-0000-0000-000000000000\","
                   "\"ActualHistorySeconds\":64,"
                   "\"Oldest\":{\"TimeStamp\":\"%s\"}}]}",
                   time_text(wall_ms() - 240000, stamp));
    r.status = cJSON_Parse(json);
    assert_non_null(r.status);
    list_push_back(&m.replicators, &r.link);
    f = vpgs_facts(&m, &v);
    assert_in_range(f.actual_history_s, 239, 300);
    assert_in_range(f.age_s, 239, 300);
    assert_false(vpg_history_short(&f));
    assert_false(vpg_history_half(&f));
    cJSON_Delete(r.status);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(catalog_keeps),
        cmocka_unit_test(catalog_refuses),
        cmocka_unit_test(sessions_end_in_time),
        cmocka_unit_test(delays),
        cmocka_unit_test(pairing_token),
        cmocka_unit_test(judging),
        cmocka_unit_test(settings_merging),
        cmocka_unit_test(one_replicator_each),
        cmocka_unit_test(cannot_call),
        cmocka_unit_test(workers_bounded),
        cmocka_unit_test(workers_end),
        cmocka_unit_test(times),
        cmocka_unit_test(history_of_an_outage),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
