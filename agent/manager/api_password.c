/* Passwords: a user changes his own over the API, which takes the old one; whoever
 * may open the manager's Unix socket, this host's administrator, resets one to a
 * random one, which is in the answer and nowhere else.  Either way the other
 * sessions of that user end. */
#include <stdlib.h>
#include <string.h>

#include <openssl/crypto.h>

#include "common/bytes.h"
#include "common/scrypt.h"
#include "manager/accounts.h"
#include "manager/manager.h"
#include "manager/sessions.h"

enum {
    EVENT_PASSWORD = 70,
};

struct password_change {
    struct manager *m;
    struct http_req *rq;
    char user[128], token[SESSION_TOKEN_SIZE];
    struct secret next;
    bool reset;
};

static void
change_free(struct password_change *p)
{
    OPENSSL_cleanse(p, sizeof *p);
    free(p);
}

static void
reply_reset(struct password_change *p)
{
    struct json_writer w;
    struct buf out;

    buf_init(&out, 4096);
    json_begin(&w, &out);
    json_open_obj(&w, NULL);
    json_put_str(&w, "User", p->user);
    json_put_str(&w, "Password", (const char *)p->next.b);
    json_close_obj(&w);
    http_reply_buf(p->rq, 200, &out);
}

static void
changed(void *arg, int rc, const struct err *err)
{
    struct password_change *p = arg;
    char text[300];

    if (rc == -ECANCELED) {
        http_reply_fail(p->rq, 503, ERR_API_0015, "the manager is stopping");
        change_free(p);
        return;
    }
    if (rc < 0) {
        http_reply_err(p->rq, http_status_of(rc), err);
        change_free(p);
        return;
    }
    sessions_end_user(p->m->sessions, p->user, p->reset ? NULL : p->token);
    (void)snprintf(text, sizeof text,
                   p->reset ? "the password of %s was reset on the manager's "
                              "host; its sessions have ended"
                            : "user %s has changed the password; the other "
                              "sessions have ended",
                   p->user);
    events_record(p->m, EVENT_PASSWORD, NULL, "", true, p->reset ? "" : p->user,
                  text);
    if (p->reset)
        reply_reset(p);
    else
        http_reply_empty(p->rq, 200);
    change_free(p);
}

static void
set_password(struct password_change *p)
{
    struct err err = ERR_INIT;

    if (accounts_set_password(p->m->accounts, p->user, &p->next, changed, p,
                              &err) < 0) {
        http_reply_err(p->rq, http_status_of(err.num), &err);
        change_free(p);
    }
}

static void
old_verified(void *arg, int rc)
{
    struct password_change *p = arg;
    char text[300];

    if (rc == 0) {
        set_password(p);
        return;
    }
    if (rc == -ECANCELED) {
        http_reply_fail(p->rq, 503, ERR_API_0015, "the manager is stopping");
    } else {
        (void)snprintf(text, sizeof text,
                       "a change of the password of %s from %s was refused",
                       p->user, http_req_source(p->rq));
        events_record(p->m, EVENT_PASSWORD, NULL, "", false, p->user, text);
        http_reply_fail(p->rq, 403, ERR_API_0007, "the old password is wrong");
    }
    change_free(p);
}

static int
read_password(const cJSON *body, const char *name, struct secret *out,
              struct err *err)
{
    const char *text = NULL;

    if (json_str(body, name, JSON_REQUIRED, &text, err) < 0)
        return -EINVAL;
    if (secret_set(out, text, strlen(text)) < 0)
        return err_set(err, -EINVAL, ERR_API_0014, "%s has more than %d bytes",
                       name, SECRET_MAX);
    return 0;
}

static struct password_change *
change_new(struct http_req *rq, struct manager *m, const char *user)
{
    struct password_change *p = calloc(1, sizeof *p);

    if (!p) {
        http_reply_fail(rq, 503, ERR_GEN_0002, "password: out of memory");
        return NULL;
    }
    p->m = m;
    p->rq = rq;
    (void)snprintf(p->user, sizeof p->user, "%s", user);
    return p;
}

/* {OldPassword, NewPassword} */
static void
password_put(struct http_req *rq, void *ctx)
{
    struct manager *m = ctx;
    const char *token = http_req_header(rq, "x-holdfast-session");
    struct password_change *p;
    struct secret old;
    struct err err = ERR_INIT;
    const cJSON *body;
    char wait[16];
    unsigned wait_s = 1;
    int rc;

    if (http_req_json(rq, &body) < 0 ||
        !(p = change_new(rq, m, http_req_user(rq))))
        return;
    if (!token)
        token = http_req_header(rq, "x-zerto-session");
    (void)snprintf(p->token, sizeof p->token, "%s", token ? token : "");
    old.len = 0;
    rc = read_password(body, "OldPassword", &old, &err);
    if (rc == 0)
        rc = read_password(body, "NewPassword", &p->next, &err);
    if (rc == 0 && p->next.len < PASSWORD_MIN)
        rc = err_set(&err, -EINVAL, ERR_API_0014,
                     "NewPassword has fewer than %d bytes", PASSWORD_MIN);
    if (rc == 0 && secret_equal(&old, &p->next))
        rc = err_set(&err, -EINVAL, ERR_API_0014, "NewPassword is the old one");
    if (rc < 0) {
        http_reply_err(rq, 400, &err);
        change_free(p);
    } else if (accounts_verify(m->accounts, p->user, &old, http_req_source(rq),
                               old_verified, p, &wait_s, &err) < 0) {
        (void)snprintf(wait, sizeof wait, "%u", wait_s);
        http_reply_header(rq, "Retry-After", wait);
        http_reply_err(rq, 429, &err);
        change_free(p);
    }
    secret_wipe(&old);
}

/* {User}: without it the first there is. */
static void
password_reset(struct http_req *rq, void *ctx)
{
    struct manager *m = ctx;
    const char *user = accounts_first(m->accounts);
    struct password_change *p;
    struct err err = ERR_INIT;
    const cJSON *body;

    if (http_req_json(rq, &body) < 0)
        return;
    if (json_str(body, "User", JSON_OPTIONAL, &user, &err) < 0 || !user) {
        http_reply_err(rq, 400, &err);
        return;
    }
    p = change_new(rq, m, user);
    if (!p)
        return;
    p->reset = true;
    if (scrypt_new_password(&p->next, &err) < 0) {
        http_reply_err(rq, 503, &err);
        change_free(p);
        return;
    }
    set_password(p);
}

const struct http_route api_password_routes[] = {
    { "PUT", "/v1/session/password", PRIV_SESSION, 4096, password_put,
      "One's own password: {OldPassword, NewPassword}; the other sessions end." },
    { NULL, NULL, 0, 0, NULL, NULL },
};

const struct http_route api_local_password_routes[] = {
    { "POST", "/local/v1/passwords", PRIV_NONE, 4096, password_reset,
      "For holdfastd reset-password: {User}; answers {User, Password}." },
    { NULL, NULL, 0, 0, NULL, NULL },
};
