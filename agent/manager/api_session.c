/* POST /v1/session/add, DELETE /v1/session. */
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/log.h"
#include "common/secret.h"
#include "common/text.h"
#include "manager/accounts.h"
#include "manager/manager.h"
#include "manager/sessions.h"

struct login {
    struct manager *m;
    struct http_req *rq;
    char user[128];
};

static void
refuse(struct http_req *rq)
{
    http_reply_header(rq, "WWW-Authenticate",
                      "Basic realm=\"holdfast\", charset=\"UTF-8\"");
    http_reply_fail(rq, 401, ERR_API_0007,
                    "user name or password is wrong, or none was sent");
}

/* "Basic base64(user:password)"; the name without an empty domain. */
static int
read_basic(const char *header, char user[128], struct secret *password)
{
    char raw[512];
    const char *name = raw;
    char *colon;
    int n;

    if (!header || strncasecmp(header, "Basic ", 6) != 0)
        return -EINVAL;
    n = text_b64_decode(TEXT_B64_STD, header + 6 + strspn(header + 6, " "), raw,
                        sizeof raw - 1);
    if (n < 0)
        return -EINVAL;
    raw[n] = '\0';
    colon = strchr(raw, ':');
    if (strlen(raw) != (size_t)n || !colon || !text_utf8_ok(raw, (size_t)n)) {
        OPENSSL_cleanse(raw, sizeof raw);
        return -EINVAL;
    }
    *colon = '\0';
    if (*name == '\\')
        name++;
    n = *name && strlen(name) < 128
            ? secret_set(password, colon + 1, strlen(colon + 1))
            : -EINVAL;
    if (n == 0)
        (void)text_safe(user, 128, name, strlen(name));
    OPENSSL_cleanse(raw, sizeof raw);
    return n;
}

static void
verified(void *arg, int rc)
{
    struct login *l = arg;
    struct manager *m = l->m;
    char token[SESSION_TOKEN_SIZE], text[300];
    struct err err = ERR_INIT;

    if (rc == -ECANCELED) {
        http_reply_fail(l->rq, 503, ERR_API_0015, "the manager is stopping");
    } else if (rc < 0) {
        (void)snprintf(text, sizeof text, "login as %s from %s was refused",
                       l->user, http_req_source(l->rq));
        events_record(m, 60, NULL, "", false, l->user, text);
        refuse(l->rq);
    } else if (sessions_begin(m->sessions, l->user, http_loop_now_ms(), token,
                              &err) < 0) {
        http_reply_err(l->rq, 503, &err);
    } else {
        log_line(LOG_INFO, "manager", "", "user %s has logged in from %s",
                 l->user, http_req_source(l->rq));
        http_reply_header(l->rq, "x-zerto-session", token);
        http_reply_header(l->rq, "x-holdfast-session", token);
        http_reply_empty(l->rq, 200);
        OPENSSL_cleanse(token, sizeof token);
    }
    free(l);
}

static void
session_add(struct http_req *rq, void *ctx)
{
    struct manager *m = ctx;
    struct login *l = calloc(1, sizeof *l);
    struct secret password;
    struct err err = ERR_INIT;
    unsigned wait_s;
    char text[16];

    if (!l || read_basic(http_req_header(rq, "Authorization"), l->user,
                         &password) < 0) {
        free(l);
        refuse(rq);
        return;
    }
    l->m = m;
    l->rq = rq;
    if (accounts_verify(m->accounts, l->user, &password, http_req_source(rq),
                        verified, l, &wait_s, &err) < 0) {
        (void)snprintf(text, sizeof text, "%u", wait_s);
        http_reply_header(rq, "Retry-After", text);
        http_reply_err(rq, 429, &err);
        free(l);
    }
    secret_wipe(&password);
}

static void
session_delete(struct http_req *rq, void *ctx)
{
    struct manager *m = ctx;
    const char *token = http_req_header(rq, "x-holdfast-session");

    sessions_end(m->sessions,
                 token ? token : http_req_header(rq, "x-zerto-session"));
    http_reply_empty(rq, 200);
}

const struct http_route api_session_routes[] = {
    { "POST", "/v1/session/add", PRIV_NONE, 4096, session_add,
      "Log in with Basic authentication; the answer's x-holdfast-session (and x-zerto-session) goes with each call." },
    { "DELETE", "/v1/session", PRIV_SESSION, 4096, session_delete, "Log out." },
    { NULL, NULL, 0, 0, NULL, NULL },
};
