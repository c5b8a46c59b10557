/* Renewing the replicator's certificate: from a third of its life on, at a
 * moment of this host's own, with a new key each time.  The request goes to the
 * manager's API over TLS with the certificate in use, which alone says who we
 * are; the new pair is checked, written (common/identity.h) and given to the
 * contexts.  Connections that are open keep what they had.
 *
 *   WAIT --due or asked--> CALL --taken--> WAIT
 *                            |-- failed: again after 5 s, doubling, at most an
 *                                hour or a tenth of the life that is left
 *
 * An expired certificate is not accepted by anybody, so there is nobody to ask:
 * that is said, and the way out is to join again.  Time is the wall clock,
 * looked at every minute, because that is what certificates are made of. */
#include "replicator/control_renew.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <openssl/rand.h>
#include <openssl/x509.h>

#include "common/bytes.h"
#include "common/files.h"
#include "common/httpc.h"
#include "common/identity.h"
#include "common/json.h"
#include "common/log.h"
#include "common/text.h"

#define ROOM "replicator"

enum {
    LOOK_EVERY_S = 60,
    RETRY_FIRST_S = 5,
    RETRY_MAX_S = 3600,
    CALL_TIMEOUT_MS = 20000,
    ANSWER_MAX = 256 * 1024,
    PEM_MAX = 64 * 1024,
};

struct renew {
    pthread_t thread;
    pthread_mutex_t lock; /* guards stop and look */
    pthread_cond_t wake;
    bool stop, look;
    char chain[FILE_PATH_SIZE], key[FILE_PATH_SIZE], root[FILE_PATH_SIZE];
    char url[IO_ADDR_TEXT_MAX + 16]; /* "" without a manager */
    struct uuid deployment, site;
    struct tls_ctx *contexts[RENEW_CONTEXTS_MAX];
    size_t n_contexts;
    /* the thread's own */
    struct identity now;
    uint32_t jitter;
    uint64_t due_s, retry_s;
    char said[ERR_MSG_MAX];
};

static uint64_t
wall_s(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_REALTIME, &ts);
    return (uint64_t)ts.tv_sec;
}

static void
day_text(uint64_t s, char out[32])
{
    time_t t = (time_t)s;
    struct tm tm;

    gmtime_r(&t, &tm);
    strftime(out, 32, "%Y-%m-%dT%H:%M:%SZ", &tm);
}

/* --- one renewal -------------------------------------------------------------- */

static int
make_request(const struct renew *r, EVP_PKEY *key, struct buf *out,
             struct err *err)
{
    struct json_writer w;
    struct buf der;
    char *text = NULL;
    int rc;

    buf_init(&der, 16384);
    rc = pki_csr_make(key, r->now.name, &der, err);
    if (rc == 0) {
        text = malloc(TEXT_B64_SIZE(der.len));
        if (!text)
            rc = err_set(err, -ENOMEM, ERR_GEN_0002, "renew: out of memory");
    }
    if (rc == 0) {
        text_b64_encode(TEXT_B64_STD, der.data, der.len, text);
        json_begin(&w, out);
        json_open_obj(&w, NULL);
        json_put_str(&w, "Csr", text);
        json_close_obj(&w);
        if (out->failed)
            rc = err_set(err, out->failed, ERR_GEN_0002, "renew: out of memory");
    }
    free(text);
    buf_release(&der);
    return rc;
}

static int
refused(const struct httpc_response *rs, struct err *err)
{
    const char *why = "no reason given", *code = "";
    cJSON *tree = NULL;
    int rc;

    if (rs->body.len && json_parse((const char *)rs->body.data, rs->body.len,
                                   ANSWER_MAX, &tree, NULL) == 0) {
        (void)json_str(tree, "Message", JSON_OPTIONAL, &why, NULL);
        (void)json_str(tree, "Code", JSON_OPTIONAL, &code, NULL);
    }
    rc = err_set(err, -EACCES, ERR_REP_0021, "the manager answered %d: %s%s%s%s",
                 rs->status, why, *code ? " (" : "", code, *code ? ")" : "");
    cJSON_Delete(tree);
    return rc;
}

static int
ask_manager(struct renew *r, const struct buf *body, struct httpc_response *rs,
            struct err *err)
{
    struct tls_expect who = { .roles = 1u << TLS_ROLE_MANAGER,
                              .deployment = &r->deployment,
                              .site = &r->site };
    struct httpc_settings hs = { .base_url = r->url,
                                 .tls = r->contexts[0],
                                 .expect = &who,
                                 .user_agent = "holdfastd" };
    struct httpc_request rq = { .method = "POST",
                                .path = "/v1/renew",
                                .body = body->data,
                                .body_len = body->len,
                                .max_response_bytes = ANSWER_MAX,
                                .timeout_ms = CALL_TIMEOUT_MS };
    struct httpc *client = NULL;
    int rc = httpc_new(&hs, &client, err);

    if (rc == 0)
        rc = httpc_call(client, &rq, rs, err);
    if (rc == 0 && rs->status != 200)
        rc = refused(rs, err);
    httpc_free(client);
    return rc;
}

/* Is it ours, for the key that was made, under our root? */
static int
check_chain(const struct renew *r, struct stack_st_X509 *chain, EVP_PKEY *key,
            struct err *err)
{
    X509 *leaf = sk_X509_value(chain, 0);
    struct pki_trust *trust = NULL;
    struct tls_identity who;
    int rc = pki_trust_new(&trust, err);

    if (rc == 0)
        rc = pki_trust_load(trust, r->root, err);
    if (rc == 0)
        rc = pki_verify(trust, leaf, chain, PKI_CLIENT, wall_s(), &who, err);
    if (rc == 0 &&
        (X509_check_private_key(leaf, key) != 1 ||
         who.role != r->now.who.role || !uuid_equal(&who.id, &r->now.who.id) ||
         !uuid_equal(&who.site, &r->now.who.site) ||
         !uuid_equal(&who.deployment, &r->now.who.deployment)))
        rc = err_set(
            err, -EBADMSG, ERR_REP_0021,
            "the manager's answer is a certificate for another key or replicator");
    pki_trust_free(trust);
    return rc;
}

static int
read_answer(const struct httpc_response *rs, struct buf *out_chain,
            struct err *err)
{
    const char *cert = "", *chain = "", *root = "";
    cJSON *tree = NULL;
    int rc = json_parse((const char *)rs->body.data, rs->body.len, ANSWER_MAX,
                        &tree, err);

    if (rc == 0 && (json_str(tree, "Certificate", JSON_REQUIRED, &cert, err) < 0 ||
                    json_str(tree, "Chain", JSON_REQUIRED, &chain, err) < 0 ||
                    json_str(tree, "Root", JSON_REQUIRED, &root, err) < 0))
        rc = -EBADMSG;
    if (rc == 0 && buf_addf(out_chain, "%s\n%s\n%s\n", cert, chain, root) < 0)
        rc = err_set(err, -ENOMEM, ERR_GEN_0002, "renew: out of memory");
    cJSON_Delete(tree);
    return rc < 0 ? err_prefix(err, "the manager's answer") : 0;
}

static int
give_to_contexts(struct renew *r, struct stack_st_X509 *chain, EVP_PKEY *key,
                 struct err *err)
{
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < r->n_contexts; i++)
        rc = tls_ctx_set_own(r->contexts[i], chain, key, err);
    return rc < 0 ? rc : identity_of(sk_X509_value(chain, 0), &r->now, err);
}

/* holdfastd join may have put another certificate there, for the key we have or
 * a later one of ours: 1 taken, 0 there is none. */
static int
take_from_files(struct renew *r, struct err *err)
{
    struct stack_st_X509 *chain = NULL;
    EVP_PKEY *key = NULL;
    struct identity there;
    int rc = identity_read(r->chain, &there, err);

    if (rc < 0 || strcmp(there.serial, r->now.serial) == 0)
        return rc;
    rc = pki_certs_load(r->chain, &chain, err);
    if (rc == 0)
        rc = pki_key_load(r->key, &key, err);
    if (rc == 0)
        rc = check_chain(r, chain, key, err);
    if (rc == 0)
        rc = give_to_contexts(r, chain, key, err);
    pki_certs_free(chain);
    EVP_PKEY_free(key);
    return rc < 0 ? rc : 1;
}

/* From here on the files rule: what the contexts do not take now they take at
 * the next start. */
static int
put_in_use(struct renew *r, EVP_PKEY *key, const struct buf *pem,
           struct err *err)
{
    struct stack_st_X509 *chain = NULL;
    int rc = pki_certs_parse((const char *)pem->data, pem->len, &chain, err);

    if (rc == 0)
        rc = check_chain(r, chain, key, err);
    if (rc == 0)
        rc = identity_replace(r->key, r->chain, key, pem, err);
    if (rc == 0)
        rc = give_to_contexts(r, chain, key, err);
    pki_certs_free(chain);
    return rc;
}

static int
renew_now(struct renew *r, struct err *err)
{
    struct httpc_response rs = { .status = 0 };
    struct buf body, pem;
    EVP_PKEY *key = NULL;
    int rc;

    buf_init(&body, PEM_MAX);
    buf_init(&pem, PEM_MAX);
    rc = r->url[0] ? pki_key_new(PKI_P256, &key, err)
                   : err_set(err, -ENOTCONN, ERR_REP_0021,
                             "no manager's address is known");
    if (rc == 0)
        rc = make_request(r, key, &body, err);
    if (rc == 0)
        rc = ask_manager(r, &body, &rs, err);
    if (rc == 0)
        rc = read_answer(&rs, &pem, err);
    if (rc == 0)
        rc = put_in_use(r, key, &pem, err);
    httpc_response_release(&rs);
    buf_release(&body);
    buf_release(&pem);
    EVP_PKEY_free(key);
    return rc;
}

/* --- when ------------------------------------------------------------------------ */

/* One line when it begins, one when the reason changes. */
static void
complain(struct renew *r, const struct err *why, uint64_t now_s)
{
    char until[32];
    struct err err = ERR_INIT;
    bool over = now_s >= r->now.not_after_s;
    unsigned left =
        identity_life_left(r->now.not_before_s, r->now.not_after_s, now_s);

    if (strcmp(r->said, why->msg) == 0)
        return;
    snprintf(r->said, sizeof r->said, "%s", why->msg);
    day_text(r->now.not_after_s, until);
    err_set(&err, -EIO, ERR_REP_0021, "certificate %s, which %s at %s: %s",
            r->now.serial, over ? "expired" : "expires", until, why->msg);
    log_err(left < 334 ? LOG_ERROR : LOG_WARN, ROOM, "",
            "renewing the certificate", &err);
}

static void
plan(struct renew *r)
{
    r->due_s = identity_renew_at(&r->now, r->jitter);
    r->retry_s = RETRY_FIRST_S;
    r->said[0] = '\0';
}

static void
attempt(struct renew *r, uint64_t now_s)
{
    struct err err = ERR_INIT;
    char until[32];

    if (now_s >= r->now.not_after_s) {
        err_set(&err, -EKEYEXPIRED, ERR_TLS_0002,
                "nobody accepts it any more, so it cannot be renewed: join again with a new token");
        complain(r, &err, now_s);
        r->due_s = now_s + LOOK_EVERY_S;
        return;
    }
    if (renew_now(r, &err) < 0) {
        uint64_t left = (r->now.not_after_s - now_s) / 10 + 1;

        complain(r, &err, now_s);
        r->due_s = now_s + MIN(r->retry_s, left);
        r->retry_s = MIN(r->retry_s * 2, (uint64_t)RETRY_MAX_S);
        return;
    }
    if (RAND_bytes((unsigned char *)&r->jitter, sizeof r->jitter) != 1)
        r->jitter = 0;
    plan(r);
    day_text(r->now.not_after_s, until);
    log_line(LOG_INFO, ROOM, "",
             "the certificate was renewed: serial %s, good until %s",
             r->now.serial, until);
}

static void
look_at_files(struct renew *r)
{
    struct err err = ERR_INIT;
    int rc = take_from_files(r, &err);

    if (rc > 0) {
        plan(r);
        log_line(LOG_INFO, ROOM, "", "joined again: certificate %s is in use",
                 r->now.serial);
    } else if (rc < 0 && strcmp(r->said, err.msg) != 0) {
        snprintf(r->said, sizeof r->said, "%s", err.msg);
        log_err(LOG_WARN, ROOM, "", "the certificate on disk is not taken",
                &err);
    }
}

static void *
renew_thread(void *arg)
{
    struct renew *r = arg;
    struct timespec until;

    pthread_mutex_lock(&r->lock);
    while (!r->stop) {
        uint64_t now_s, wait_s;

        r->look = false;
        pthread_mutex_unlock(&r->lock);
        now_s = wall_s();
        look_at_files(r);
        if (identity_asked(r->chain)) {
            r->said[0] = '\0';
            r->due_s = now_s;
        }
        if (now_s >= r->due_s)
            attempt(r, now_s);
        now_s = wall_s();
        wait_s = r->due_s > now_s ? r->due_s - now_s : 1;
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_sec += (time_t)MIN(wait_s, (uint64_t)LOOK_EVERY_S);
        pthread_mutex_lock(&r->lock);
        while (!r->stop && !r->look &&
               pthread_cond_timedwait(&r->wake, &r->lock, &until) == 0)
            ;
    }
    pthread_mutex_unlock(&r->lock);
    return NULL;
}

/* --- beginning and end ----------------------------------------------------------- */

static int
take_settings(struct renew *r, const struct rep_config *cfg,
              const struct renew_settings *set, struct err *err)
{
    int rc = identity_read(set->chain, &r->now, err);

    if (rc == 0)
        rc = path_join(r->root, cfg->state_dir, "root.pem", err);
    if (rc == 0 && (strlen(set->chain) >= sizeof r->chain ||
                    strlen(set->key) >= sizeof r->key ||
                    set->n_contexts > RENEW_CONTEXTS_MAX))
        rc = err_set(err, -ENAMETOOLONG, ERR_REP_0019,
                     "renewal of the certificate: the paths are too long");
    if (rc < 0)
        return rc;
    memcpy(r->chain, set->chain, strlen(set->chain) + 1);
    memcpy(r->key, set->key, strlen(set->key) + 1);
    if (set->manager[0])
        snprintf(r->url, sizeof r->url, "https://%.270s", set->manager);
    r->deployment = cfg->deployment;
    r->site = cfg->site;
    if (RAND_bytes((unsigned char *)&r->jitter, sizeof r->jitter) != 1)
        r->jitter = 0;
    for (size_t i = 0; i < set->n_contexts; i++)
        r->contexts[r->n_contexts++] = tls_ctx_ref(set->contexts[i]);
    plan(r);
    return 0;
}

static void
release(struct renew *r)
{
    for (size_t i = 0; i < r->n_contexts; i++)
        tls_ctx_free(r->contexts[i]);
    pthread_mutex_destroy(&r->lock);
    pthread_cond_destroy(&r->wake);
    free(r);
}

int
renew_start(const struct rep_config *cfg, const struct renew_settings *set,
            struct renew **out, struct err *err)
{
    struct renew *r = calloc(1, sizeof *r);
    pthread_condattr_t attr;
    int rc;

    if (!r)
        return err_set(err, -ENOMEM, ERR_GEN_0002, "renew: out of memory");
    pthread_mutex_init(&r->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&r->wake, &attr);
    pthread_condattr_destroy(&attr);
    rc = take_settings(r, cfg, set, err);
    if (rc == 0 && pthread_create(&r->thread, NULL, renew_thread, r) != 0)
        rc = err_set(err, -EAGAIN, ERR_REP_0019,
                     "a thread for the certificate could not be made");
    if (rc < 0) {
        release(r);
        return rc;
    }
    *out = r;
    return 0;
}

void
renew_poke(struct renew *r)
{
    if (!r)
        return;
    pthread_mutex_lock(&r->lock);
    r->look = true;
    pthread_cond_signal(&r->wake);
    pthread_mutex_unlock(&r->lock);
}

void
renew_stop(struct renew *r)
{
    if (!r)
        return;
    pthread_mutex_lock(&r->lock);
    r->stop = true;
    pthread_cond_signal(&r->wake);
    pthread_mutex_unlock(&r->lock);
    pthread_join(r->thread, NULL);
    release(r);
}
