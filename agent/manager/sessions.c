/* See sessions.h. */
#include "manager/sessions.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <openssl/sha.h>

#include "common/bytes.h"
#include "common/list.h"

struct session {
    struct list link;
    uint8_t hash[SHA256_DIGEST_LENGTH];
    struct uuid id;
    char user[128];
    uint64_t begun_ms, used_ms;
};

struct sessions {
    struct list list; /* longest unused first */
    unsigned n;
    uint64_t idle_ms, max_ms;
};

int
sessions_new(uint64_t idle_ms, uint64_t max_ms, struct sessions **out,
             struct err *err)
{
    struct sessions *s = calloc(1, sizeof *s);

    if (!s)
        return err_set(err, -ENOMEM, ERR_GEN_0002, "sessions: out of memory");
    list_init(&s->list);
    s->idle_ms = idle_ms;
    s->max_ms = max_ms;
    *out = s;
    return 0;
}

static void
drop(struct sessions *s, struct session *one)
{
    list_del(&one->link);
    s->n--;
    OPENSSL_cleanse(one, sizeof *one);
    free(one);
}

void
sessions_free(struct sessions *s)
{
    struct list *pos, *tmp;

    if (!s)
        return;
    list_for_each_safe (pos, tmp, &s->list)
        drop(s, list_entry(pos, struct session, link));
    free(s);
}

void
sessions_limits(struct sessions *s, uint64_t idle_ms, uint64_t max_ms)
{
    s->idle_ms = idle_ms;
    s->max_ms = max_ms;
}

static void
drop_ended(struct sessions *s, uint64_t now_ms)
{
    struct list *pos, *tmp;

    list_for_each_safe (pos, tmp, &s->list) {
        struct session *one = list_entry(pos, struct session, link);

        if (now_ms - one->used_ms >= s->idle_ms ||
            now_ms - one->begun_ms >= s->max_ms)
            drop(s, one);
    }
}

/* The longest idle one of a user goes when there are too many. */
static void
make_room(struct sessions *s, const char *user)
{
    struct list *pos;
    struct session *oldest = NULL;
    unsigned n = 0;

    list_for_each (pos, &s->list) {
        struct session *one = list_entry(pos, struct session, link);

        if (strcmp(one->user, user) == 0) {
            n++;
            oldest = oldest ? oldest : one;
        }
    }
    if (n >= SESSIONS_PER_USER)
        drop(s, oldest);
    else if (s->n >= SESSIONS_MAX)
        drop(s, list_entry(s->list.next, struct session, link));
}

int
sessions_begin(struct sessions *s, const char *user, uint64_t now_ms,
               char out_token[SESSION_TOKEN_SIZE], struct err *err)
{
    uint8_t random[32 + 16];
    struct session *one = calloc(1, sizeof *one);

    drop_ended(s, now_ms);
    make_room(s, user);
    if (!one || RAND_priv_bytes(random, sizeof random) != 1) {
        free(one);
        return err_set(err, -ENOMEM, ERR_GEN_0002,
                       "session: no memory or no random bytes");
    }
    hex_encode(random, 32, out_token);
    SHA256((const uint8_t *)out_token, SESSION_TOKEN_SIZE - 1, one->hash);
    one->id = uuid_from_random(random + 32);
    OPENSSL_cleanse(random, sizeof random);
    (void)snprintf(one->user, sizeof one->user, "%s", user);
    one->begun_ms = one->used_ms = now_ms;
    list_push_back(&s->list, &one->link);
    s->n++;
    return 0;
}

static struct session *
find(const struct sessions *s, const char *token)
{
    uint8_t hash[SHA256_DIGEST_LENGTH];
    struct list *pos;

    if (strlen(token) != SESSION_TOKEN_SIZE - 1)
        return NULL;
    SHA256((const uint8_t *)token, SESSION_TOKEN_SIZE - 1, hash);
    list_for_each (pos, &s->list) {
        struct session *one = list_entry(pos, struct session, link);

        if (CRYPTO_memcmp(one->hash, hash, sizeof hash) == 0)
            return one;
    }
    return NULL;
}

const char *
sessions_check(struct sessions *s, const char *token, uint64_t now_ms,
               enum session_use use, struct uuid *out_id)
{
    struct session *one;

    drop_ended(s, now_ms);
    one = find(s, token);
    if (!one)
        return NULL;
    if (use == SESSION_ACTIVE) {
        one->used_ms = now_ms;
        list_del(&one->link);
        list_push_back(&s->list, &one->link);
    }
    if (out_id)
        *out_id = one->id;
    return one->user;
}

void
sessions_end(struct sessions *s, const char *token)
{
    struct session *one = find(s, token);

    if (one)
        drop(s, one);
}

void
sessions_end_user(struct sessions *s, const char *user, const char *but_token)
{
    struct session *but = but_token ? find(s, but_token) : NULL;
    struct list *pos, *tmp;

    list_for_each_safe (pos, tmp, &s->list) {
        struct session *one = list_entry(pos, struct session, link);

        if (one != but && strcasecmp(one->user, user) == 0)
            drop(s, one);
    }
}

bool
sessions_live(const struct sessions *s, const struct uuid *id)
{
    struct list *pos;

    list_for_each (pos, &s->list) {
        if (uuid_equal(&list_entry(pos, struct session, link)->id, id))
            return true;
    }
    return false;
}

unsigned
sessions_count(const struct sessions *s)
{
    return s->n;
}
