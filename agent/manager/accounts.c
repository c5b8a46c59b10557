/* See accounts.h. */
#include "manager/accounts.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <openssl/sha.h>

#include "common/bytes.h"
#include "common/files.h"
#include "common/json.h"
#include "common/list.h"
#include "common/log.h"
#include "common/scrypt.h"
#include "common/text.h"
#include "manager/workers.h"

enum {
    HASH_QUEUE_MAX = 32,
    THROTTLES = 512,
    FREE_TRIES = 3,
    DELAY_MAX_S = 900,
};

struct account {
    struct list link;
    char name[128];
    struct scrypt_hash hash;
};

/* Failures of one name from one address; slots are reused, oldest first. */
struct throttle {
    uint8_t key[SHA256_DIGEST_LENGTH];
    unsigned failures;
    uint64_t until_ms, used_ms;
};

struct accounts {
    struct catalog *catalog;
    struct workers *hasher;
    struct list list;
    struct account nobody; /* what unknown names are hashed against */
    struct throttle throttles[THROTTLES];
};

unsigned
account_delay_s(unsigned failures)
{
    if (failures < FREE_TRIES)
        return 0;
    return failures - FREE_TRIES >= 10
               ? DELAY_MAX_S
               : MIN(1u << (failures - FREE_TRIES), (unsigned)DELAY_MAX_S);
}

static struct account *
find(const struct accounts *a, const char *name)
{
    struct list *pos;

    list_for_each (pos, &a->list) {
        struct account *one = list_entry(pos, struct account, link);

        if (strcasecmp(one->name, name) == 0)
            return one;
    }
    return NULL;
}

bool
accounts_known(const struct accounts *a, const char *user)
{
    return find(a, user) != NULL;
}

/* --- records ------------------------------------------------------------------------ */

static int
read_hash(const cJSON *tree, struct scrypt_hash *out, struct err *err)
{
    const char *salt, *hash;

    if (json_str(tree, "Salt", JSON_REQUIRED, &salt, err) < 0 ||
        json_str(tree, "Hash", JSON_REQUIRED, &hash, err) < 0 ||
        json_u64(tree, "N", JSON_REQUIRED, 1024, SCRYPT_N_MAX, &out->n, err) < 0 ||
        json_u64(tree, "R", JSON_REQUIRED, 1, SCRYPT_R_MAX, &out->r, err) < 0 ||
        json_u64(tree, "P", JSON_REQUIRED, 1, SCRYPT_P_MAX, &out->p, err) < 0)
        return -EINVAL;
    if (text_b64_decode(TEXT_B64_STD, salt, out->salt, sizeof out->salt) !=
            (int)sizeof out->salt ||
        text_b64_decode(TEXT_B64_STD, hash, out->hash, sizeof out->hash) !=
            (int)sizeof out->hash)
        return err_set(err, -EINVAL, ERR_JSN_0004,
                       "Salt or Hash has another length than expected");
    return 0;
}

/* {"Name", "Scrypt": {N, R, P, Salt, Hash}} */
static int
read_record(const cJSON *tree, struct account *one, struct err *err)
{
    const char *name;

    if (json_str(tree, "Name", JSON_REQUIRED, &name, err) < 0)
        return -EINVAL;
    if (!*name || strlen(name) >= sizeof one->name)
        return err_set(err, -EINVAL, ERR_JSN_0004, "Name is empty or too long");
    memcpy(one->name, name, strlen(name) + 1);
    return read_hash(json_get(tree, "Scrypt"), &one->hash, err);
}

static int
add_record(struct accounts *a, const cJSON *tree, struct err *err)
{
    struct account *one = calloc(1, sizeof *one);
    int rc = one ? read_record(tree, one, err)
                 : err_set(err, -ENOMEM, ERR_GEN_0002, "account: out of memory");

    if (rc < 0) {
        free(one);
        return rc;
    }
    list_push_back(&a->list, &one->link);
    return 0;
}

static int
load_one(void *arg, const char *id, const char *json)
{
    cJSON *tree = NULL;
    int rc = json_parse(json, strlen(json), 16 * KIB, &tree, NULL);

    UNUSED(id);
    if (rc == 0)
        rc = add_record(arg, tree, NULL);
    cJSON_Delete(tree);
    return rc;
}

static int
import_tree(struct accounts *a, const cJSON *tree, struct err *err)
{
    const cJSON *user = NULL, *site = NULL;
    char *text;
    int rc = json_obj(tree, "User", JSON_REQUIRED, &user, err);

    if (rc > 0)
        rc = json_obj(tree, "Site", JSON_REQUIRED, &site, err);
    if (rc > 0)
        rc = add_record(a, user, err);
    if (rc < 0)
        return rc;
    rc = catalog_begin(a->catalog, err);
    if (rc < 0)
        return rc;
    text = cJSON_PrintUnformatted(user);
    rc = text ? catalog_put(a->catalog, "account",
                            list_entry(a->list.next, struct account, link)->name,
                            text, err)
              : err_set(err, -ENOMEM, ERR_GEN_0002, "account: out of memory");
    cJSON_free(text);
    text = cJSON_PrintUnformatted(site);
    if (rc == 0)
        rc = text
                 ? catalog_put(a->catalog, "site", "self", text, err)
                 : err_set(err, -ENOMEM, ERR_GEN_0002, "account: out of memory");
    cJSON_free(text);
    if (rc < 0) {
        catalog_rollback(a->catalog);
        return rc;
    }
    return catalog_commit(a->catalog, err);
}

/* init's file becomes the first account; then the file goes. */
static int
import(struct accounts *a, const char *path, struct err *err)
{
    cJSON *tree = NULL;
    struct buf text;
    int rc;

    if (access(path, F_OK) < 0)
        return 0;
    buf_init(&text, 65 * KIB);
    rc = file_read_secret(path, 64 * KIB, &text, err);
    if (rc == 0 && list_empty(&a->list)) {
        rc = json_parse((char *)text.data, text.len, 64 * KIB, &tree, err);
        if (rc == 0)
            rc = import_tree(a, tree, err);
        if (rc < 0)
            (void)err_prefix(err, "first administrator from %s", path);
        cJSON_Delete(tree);
    }
    secret_buf_release(&text);
    if (rc == 0 && unlink(path) < 0)
        log_line(LOG_WARN, "manager", "",
                 "%s has been imported, but cannot be removed: %s", path,
                 err_errno(errno));
    return rc;
}

int
accounts_open(struct http_loop *loop, struct catalog *catalog,
              const char *bootstrap_path, struct accounts **out_accounts,
              struct err *err)
{
    struct accounts *a = calloc(1, sizeof *a);
    int rc;

    if (!a)
        return err_set(err, -ENOMEM, ERR_GEN_0002, "accounts: out of memory");
    a->catalog = catalog;
    list_init(&a->list);
    a->nobody.hash =
        (struct scrypt_hash){ .n = SCRYPT_N, .r = SCRYPT_R, .p = SCRYPT_P };
    rc = RAND_bytes(a->nobody.hash.hash, sizeof a->nobody.hash.hash) == 1
             ? catalog_each(catalog, "account", load_one, a, err)
             : err_set(err, -EIO, ERR_GEN_0002, "accounts: no random bytes");
    if (rc == 0)
        rc = import(a, bootstrap_path, err);
    if (rc == 0 && list_empty(&a->list))
        rc = err_set(err, -ENOENT, ERR_MGR_0019,
                     "the catalog holds no account: it is not the one of this "
                     "site");
    if (rc == 0)
        rc = workers_new(loop, 1, HASH_QUEUE_MAX, &a->hasher, err);
    if (rc < 0) {
        accounts_free(a);
        return rc;
    }
    *out_accounts = a;
    return 0;
}

void
accounts_free(struct accounts *a)
{
    struct list *pos;

    if (!a)
        return;
    workers_free(a->hasher);
    while ((pos = list_pop_front(&a->list))) {
        struct account *one = list_entry(pos, struct account, link);

        OPENSSL_cleanse(one, sizeof *one);
        free(one);
    }
    OPENSSL_cleanse(a, sizeof *a);
    free(a);
}

/* --- throttle --------------------------------------------------------------------------- */

static struct throttle *
throttle_of(struct accounts *a, const char *user, const char *source)
{
    char text[400];
    uint8_t key[SHA256_DIGEST_LENGTH];
    struct throttle *oldest = &a->throttles[0];

    (void)snprintf(text, sizeof text, "%s\n%s", source, user);
    for (char *c = text; *c; c++)
        if (*c >= 'A' && *c <= 'Z')
            *c = (char)(*c - 'A' + 'a');
    SHA256((const uint8_t *)text, strlen(text), key);
    for (size_t i = 0; i < THROTTLES; i++) {
        struct throttle *t = &a->throttles[i];

        if (memcmp(t->key, key, sizeof key) == 0)
            return t;
        if (t->used_ms < oldest->used_ms)
            oldest = t;
    }
    *oldest = (struct throttle){ .failures = 0 };
    memcpy(oldest->key, key, sizeof key);
    return oldest;
}

static void
judged(struct accounts *a, const char *user, const char *source, bool ok)
{
    struct throttle *t = throttle_of(a, user, source);

    t->used_ms = http_loop_now_ms();
    t->failures = ok ? 0 : t->failures + 1;
    t->until_ms = t->used_ms + (uint64_t)account_delay_s(t->failures) * 1000;
}

/* --- verifying ----------------------------------------------------------------------------- */

struct attempt {
    struct job job;
    struct accounts *a;
    struct account one; /* a copy: the list may change meanwhile */
    bool known;
    char source[64];
    struct secret password;
    int rc;
    void (*done)(void *arg, int rc);
    void *arg;
};

static void
hash_work(struct job *j)
{
    struct attempt *t = container_of(j, struct attempt, job);

    t->rc = scrypt_check(&t->password, &t->one.hash, NULL);
    secret_wipe(&t->password);
}

static void
hash_done(struct job *j)
{
    struct attempt *t = container_of(j, struct attempt, job);

    if (t->rc == -ECANCELED || workers_ending(j->workers)) {
        t->done(t->arg, -ECANCELED);
    } else {
        bool ok = t->rc == 0 && t->known;

        judged(t->a, t->one.name, t->source, ok);
        t->done(t->arg, ok ? 0 : -EACCES);
    }
    OPENSSL_cleanse(t, sizeof *t);
    free(t);
}

int
accounts_verify(struct accounts *a, const char *user,
                const struct secret *password, const char *source,
                void (*done)(void *arg, int rc), void *arg,
                unsigned *out_wait_s, struct err *err)
{
    struct throttle *throttle = throttle_of(a, user, source);
    const struct account *one = find(a, user);
    uint64_t now = http_loop_now_ms();
    struct attempt *t;

    *out_wait_s = 1;
    if (now < throttle->until_ms) {
        *out_wait_s = (unsigned)((throttle->until_ms - now + 999) / 1000);
        return err_set(err, -EAGAIN, ERR_API_0008,
                       "too many logins have failed: the next one is taken in %u s",
                       *out_wait_s);
    }
    t = calloc(1, sizeof *t);
    if (!t)
        return err_set(err, -EAGAIN, ERR_API_0008, "login: out of memory");
    t->a = a;
    t->one = one ? *one : a->nobody;
    (void)snprintf(t->one.name, sizeof t->one.name, "%s", user);
    t->known = one != NULL;
    (void)snprintf(t->source, sizeof t->source, "%s", source);
    t->password = *password;
    t->rc = -ECANCELED;
    t->done = done;
    t->arg = arg;
    t->job.work = hash_work;
    t->job.done = hash_done;
    if (workers_submit(a->hasher, &t->job) < 0) {
        OPENSSL_cleanse(t, sizeof *t);
        free(t);
        return err_set(err, -EAGAIN, ERR_API_0008,
                       "too many logins wait already");
    }
    return 0;
}

/* --- setting -------------------------------------------------------------------------------- */

struct change {
    struct job job;
    struct accounts *a;
    char user[128];
    struct secret password;
    struct scrypt_hash hash;
    int rc;
    struct err err;
    void (*done)(void *arg, int rc, const struct err *err);
    void *arg;
};

static void
put_b64(struct json_writer *w, const char *name, const uint8_t *b, size_t n)
{
    char text[TEXT_B64_SIZE(SCRYPT_HASH_SIZE)];

    text_b64_encode(TEXT_B64_STD, b, n, text);
    json_put_str(w, name, text);
}

/* As read_record() reads it. */
static void
put_record(const struct account *one, struct buf *out)
{
    struct json_writer w;

    json_begin(&w, out);
    json_open_obj(&w, NULL);
    json_put_str(&w, "Name", one->name);
    json_open_obj(&w, "Scrypt");
    json_put_u64(&w, "N", one->hash.n);
    json_put_u64(&w, "R", one->hash.r);
    json_put_u64(&w, "P", one->hash.p);
    put_b64(&w, "Salt", one->hash.salt, sizeof one->hash.salt);
    put_b64(&w, "Hash", one->hash.hash, sizeof one->hash.hash);
    json_close_obj(&w);
    json_close_obj(&w);
}

static int
save_change(struct change *c)
{
    struct account *one = find(c->a, c->user);
    struct account next = { .hash = c->hash };
    struct buf text;
    int rc;

    if (!one)
        return err_set(&c->err, -ENOENT, ERR_API_0013,
                       "there is no user %s any more", c->user);
    memcpy(next.name, one->name, sizeof next.name);
    buf_init(&text, 4096);
    put_record(&next, &text);
    rc = text.failed ? err_set(&c->err, text.failed, ERR_GEN_0002,
                               "account: out of memory")
                     : catalog_put(c->a->catalog, "account", one->name,
                                   (const char *)text.data, &c->err);
    secret_buf_release(&text);
    if (rc == 0) {
        one->hash = c->hash;
        memset(c->a->throttles, 0, sizeof c->a->throttles);
    }
    OPENSSL_cleanse(&next, sizeof next);
    return rc;
}

static void
change_work(struct job *j)
{
    struct change *c = container_of(j, struct change, job);

    c->rc = scrypt_make(&c->password, &c->hash, &c->err);
    secret_wipe(&c->password);
}

static void
change_done(struct job *j)
{
    struct change *c = container_of(j, struct change, job);

    if (c->rc != -ECANCELED && workers_ending(j->workers))
        c->rc = -ECANCELED;
    if (c->rc == 0)
        c->rc = save_change(c);
    c->done(c->arg, c->rc, &c->err);
    OPENSSL_cleanse(c, sizeof *c);
    free(c);
}

const char *
accounts_first(const struct accounts *a)
{
    return list_empty(&a->list)
               ? NULL
               : list_entry(a->list.next, struct account, link)->name;
}

int
accounts_set_password(struct accounts *a, const char *user,
                      const struct secret *password,
                      void (*done)(void *arg, int rc, const struct err *err),
                      void *arg, struct err *err)
{
    struct change *c;

    if (!find(a, user))
        return err_set(err, -ENOENT, ERR_API_0013, "there is no user %s", user);
    if (password->len < PASSWORD_MIN ||
        !text_utf8_ok((const char *)password->b, password->len))
        return err_set(err, -EINVAL, ERR_API_0014,
                       "a password has %d to %d bytes of UTF-8, the new one has "
                       "%zu",
                       PASSWORD_MIN, SECRET_MAX, password->len);
    c = calloc(1, sizeof *c);
    if (!c)
        return err_set(err, -EAGAIN, ERR_API_0015, "account: out of memory");
    c->a = a;
    (void)snprintf(c->user, sizeof c->user, "%s", user);
    c->password = *password;
    c->rc = -ECANCELED;
    c->err = (struct err)ERR_INIT;
    c->done = done;
    c->arg = arg;
    c->job.work = change_work;
    c->job.done = change_done;
    if (workers_submit(a->hasher, &c->job) < 0) {
        OPENSSL_cleanse(c, sizeof *c);
        free(c);
        return err_set(err, -EAGAIN, ERR_API_0015,
                       "too many logins wait already");
    }
    return 0;
}
