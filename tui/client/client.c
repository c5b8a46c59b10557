/* The REST client.  A session's token belongs to one (url, user, root): its
 * file is named after the three, so that a token is never shown to a manager
 * it did not come from. */
#include "tui/client/client.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <openssl/sha.h>

#include "common/bytes.h"
#include "common/files.h"
#include "common/httpc.h"
#include "common/text.h"
#include "common/tls.h"
#include "tui/client/known.h"

enum {
    TOKEN_MAX = 200,
    NAME_BYTES = 16,
    CALL_TIMEOUT_MS = 30000
};

struct client {
    const struct site_def *site;
    const struct client_ui *ui;
    struct tls_ctx *tls;
    struct httpc *http;
    char host[TEXT_HOST_SIZE];
    char session_path[FILE_PATH_SIZE]; /* "": there is no place for one */
    struct secret token;               /* len 0: none */
    const char *reason;
    struct client_refusal refusal;
};

void
url_escape(struct buf *out, const char *text)
{
    for (const unsigned char *p = (const unsigned char *)text; *p; p++) {
        if ((*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') ||
            (*p >= '0' && *p <= '9') || strchr("-._~", *p))
            (void)buf_add(out, p, 1);
        else
            (void)buf_addf(out, "%%%02X", *p);
    }
}

/* ---- Whom to believe ----------------------------------------------------------- */

static int
accept_first(struct client *c, const char *known_path,
             uint8_t fp[PKI_FINGERPRINT_SIZE], struct err *err)
{
    char hex[PKI_FINGERPRINT_TEXT];
    int rc = known_probe(c->site->url, fp, err);

    if (rc < 0)
        return rc;
    hex_encode(fp, PKI_FINGERPRINT_SIZE, hex);
    rc = c->ui->accept_root(c->ui->arg, c->site, hex, err);
    return rc < 0 ? rc : known_add(known_path, c->site->url, fp, err);
}

static int
find_pin(struct client *c, uint8_t fp[PKI_FINGERPRINT_SIZE], struct err *err)
{
    char path[FILE_PATH_SIZE];
    int rc;

    if (c->site->fingerprint[0])
        return hex_decode(c->site->fingerprint, fp, PKI_FINGERPRINT_SIZE);
    if (home_path(HOME_CONFIG, "known_sites", path, sizeof path) < 0)
        return err_set(err, -ENOENT, ERR_CLI_0003,
                       "%s: neither ca_file nor fingerprint is given, and "
                       "there is no home directory with known_sites",
                       c->site->name);
    rc = known_find(path, c->site->url, fp, err);
    return rc ? (rc < 0 ? rc : 0) : accept_first(c, path, fp, err);
}

/* root_id tells the roots apart for the session's file. */
static int
make_trust(struct client *c, struct pki_trust **out_trust,
           char root_id[FILE_PATH_SIZE], struct err *err)
{
    uint8_t fp[PKI_FINGERPRINT_SIZE];
    struct pki_trust *trust = NULL;
    int rc = pki_trust_new(&trust, err);

    if (rc < 0)
        return rc;
    if (c->site->ca_file[0]) {
        (void)snprintf(root_id, FILE_PATH_SIZE, "%s", c->site->ca_file);
        rc = pki_trust_load(trust, c->site->ca_file, err);
    } else {
        rc = find_pin(c, fp, err);
        if (rc == 0) {
            hex_encode(fp, sizeof fp, root_id);
            rc = pki_trust_add_pin(trust, fp, err);
        }
    }
    if (rc < 0)
        pki_trust_free(trust);
    else
        *out_trust = trust;
    return rc;
}

static int
make_http(struct client *c, struct pki_trust *trust, struct err *err)
{
    const struct tls_settings settings = { .side = TLS_CLIENT };
    struct tls_expect expect = { .roles = 1u << TLS_ROLE_MANAGER };
    const struct httpc_settings http = {
        .base_url = c->site->url,
        .expect = &expect,
        .user_agent = "holdfast/" HOLDFAST_VERSION,
    };
    struct httpc_settings with_tls = http;
    uint16_t port;
    int rc;

    if (text_parse_hostport(c->site->url + strlen("https://"), c->host, &port) <
        0)
        (void)snprintf(c->host, sizeof c->host, "%s",
                       c->site->url + strlen("https://"));
    expect.host = c->host;
    rc = tls_ctx_new(&settings, &c->tls, err);
    if (rc < 0)
        return rc;
    tls_ctx_set_trust(c->tls, trust);
    with_tls.tls = c->tls;
    return httpc_new(&with_tls, &c->http, err);
}

/* ---- The session's file ----------------------------------------------------------- */

static void
name_session(struct client *c, const char *root_id)
{
    uint8_t digest[SHA256_DIGEST_LENGTH];
    char hex[2 * NAME_BYTES + 1], name[64];
    struct buf b;

    buf_init(&b, (size_t)3 * FILE_PATH_SIZE);
    (void)buf_addf(&b, "%s\n%s\n%s", c->site->url, c->site->user, root_id);
    (void)SHA256(b.data, b.len, digest);
    buf_release(&b);
    hex_encode(digest, NAME_BYTES, hex);
    (void)snprintf(name, sizeof name, "session-%s", hex);
    if (c->site->session_dir[0]
            ? path_join(c->session_path, c->site->session_dir, name, NULL) < 0
            : home_path(HOME_CACHE, name, c->session_path,
                        sizeof c->session_path) < 0)
        c->session_path[0] = '\0';
}

static bool
token_ok(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (s[i] <= ' ' || s[i] >= 0x7f)
            return false;
    }
    return n > 0 && n <= TOKEN_MAX;
}

/* A file that is missing, loose or damaged means: no session yet. */
static void
load_session(struct client *c)
{
    if (!c->session_path[0] ||
        secret_from_file(&c->token, c->session_path, NULL) < 0 ||
        !token_ok((const char *)c->token.b, c->token.len))
        secret_wipe(&c->token);
}

static int
save_session(struct client *c, struct err *err)
{
    char dir[FILE_PATH_SIZE];
    struct buf b;
    char *slash;
    int rc;

    if (!c->session_path[0])
        return 0; /* no home: it lasts as long as this program */
    (void)snprintf(dir, sizeof dir, "%s", c->session_path);
    slash = strrchr(dir, '/');
    *slash = '\0';
    buf_init(&b, SECRET_MAX + 2);
    (void)buf_addf(&b, "%s\n", (const char *)c->token.b);
    rc = dir_make(dir, err);
    if (rc == 0)
        rc = file_replace(c->session_path, 0600, b.data, b.len, err);
    secret_buf_release(&b);
    if (rc < 0 && err) {
        err->code = ERR_CLI_0015;
        (void)err_prefix(err, "the session cannot be kept");
    }
    return rc;
}

static void
forget_session(struct client *c)
{
    secret_wipe(&c->token);
    if (c->session_path[0])
        (void)unlink(c->session_path); /* it may not have been there */
}

int
client_open(const struct site_def *site, const struct client_ui *ui,
            struct client **out_client, struct err *err)
{
    char root_id[FILE_PATH_SIZE] = "";
    struct pki_trust *trust = NULL;
    struct client *c = calloc(1, sizeof *c);
    int rc;

    if (!c)
        return err_set(err, -ENOMEM, ERR_GEN_0002, "client: out of memory");
    c->site = site;
    c->ui = ui;
    rc = make_trust(c, &trust, root_id, err);
    if (rc == 0)
        rc = make_http(c, trust, err);
    pki_trust_free(trust);
    if (rc < 0) {
        client_close(c);
        return rc;
    }
    name_session(c, root_id);
    load_session(c);
    *out_client = c;
    return 0;
}

void
client_close(struct client *c)
{
    if (!c)
        return;
    httpc_free(c->http);
    tls_ctx_free(c->tls);
    secret_wipe(&c->token);
    free(c);
}

const struct site_def *
client_site(const struct client *c)
{
    return c->site;
}

void
client_set_reason(struct client *c, const char *reason)
{
    c->reason = reason;
}

const struct client_refusal *
client_refusal(const struct client *c)
{
    return &c->refusal;
}

/* ---- Login -------------------------------------------------------------------------- */

static int
get_password(struct client *c, struct secret *out, struct err *err)
{
    if (c->site->password_file[0])
        return secret_from_file(out, c->site->password_file, err);
    return c->ui->password(c->ui->arg, c->site, out, err);
}

/* "Basic " and base64 of user:password, in a buffer to be wiped. */
static int
basic_header(const struct site_def *site, const struct secret *password,
             struct buf *out, struct err *err)
{
    struct buf plain;
    char *to;
    int rc = -ENOMEM;

    buf_init(&plain, 1024);
    (void)buf_addf(&plain, "%s:", site->user);
    (void)buf_add(&plain, password->b, password->len);
    if (!plain.failed && buf_addf(out, "Basic ") == 0) {
        to = buf_reserve(out, TEXT_B64_SIZE(plain.len));
        if (to) {
            buf_added(out,
                      text_b64_encode(TEXT_B64_STD, plain.data, plain.len, to));
            rc = 0;
        }
    }
    secret_buf_release(&plain);
    if (rc < 0)
        return err_set(err, rc, ERR_GEN_0002, "login: out of memory");
    return 0;
}

static int
take_token(struct client *c, const struct httpc_response *rs, struct err *err)
{
    char token[SECRET_MAX];

    if (httpc_header(rs, "x-holdfast-session", token, sizeof token) < 0 &&
        httpc_header(rs, "x-zerto-session", token, sizeof token) < 0)
        token[0] = '\0';
    if (!token_ok(token, strlen(token)))
        return err_set(err, -EPROTO, ERR_CLI_0005,
                       "the answer to the login holds no session");
    (void)secret_set(&c->token, token, strlen(token));
    return 0;
}

/* The manager's own sentence, code and next step. */
static void
read_refusal(struct client *c, const struct httpc_response *rs,
             char *out_message, size_t cap)
{
    cJSON *root = NULL;
    const char *s;

    c->refusal = (struct client_refusal){ .status = rs->status };
    (void)snprintf(out_message, cap, "the manager answers with status %d",
                   rs->status);
    if (json_parse((const char *)rs->body.data, rs->body.len, rs->body.max,
                   &root, NULL) < 0)
        return;
    if (json_str(root, "Message", JSON_OPTIONAL, &s, NULL) == 1 && s[0])
        (void)text_safe(out_message, cap, s, strlen(s));
    if (json_str(root, "Code", JSON_OPTIONAL, &s, NULL) == 1)
        (void)text_safe(c->refusal.code, sizeof c->refusal.code, s, strlen(s));
    if (json_str(root, "NextStep", JSON_OPTIONAL, &s, NULL) == 1)
        (void)text_safe(c->refusal.next, sizeof c->refusal.next, s, strlen(s));
    cJSON_Delete(root);
}

/* Did the manager itself fail to reach the other site, or its replicator? */
static bool
way_is_cut(const char *code)
{
    static const char *const codes[] = { "MGR-0012", "MGR-0015", "GEN-0007",
                                         "GEN-0008" };

    for (size_t i = 0; i < ARRAY_SIZE(codes); i++) {
        if (strcmp(code, codes[i]) == 0)
            return true;
    }
    return false;
}

static int
refuse(struct client *c, const struct httpc_response *rs, struct err *err)
{
    char message[512];

    read_refusal(c, rs, message, sizeof message);
    if (rs->status == 401)
        return err_set(err, -EACCES, ERR_CLI_0006, "%s: login as %s refused: %s",
                       c->site->name, c->site->user, message);
    if (rs->status == 403)
        return err_set(err, -EPERM, ERR_CLI_0019, "%s", message);
    if (way_is_cut(c->refusal.code))
        return err_set(err, -EHOSTUNREACH, ERR_CLI_0020, "%s", message);
    return err_set(err, rs->status == 404 ? -ENOENT : -EINVAL, ERR_CLI_0007,
                   "%s", message);
}

int
client_login(struct client *c, struct err *err)
{
    struct secret password = { .len = 0 };
    struct httpc_response rs = { .status = 0 };
    struct buf basic;
    struct httpc_header header = { .name = "Authorization" };
    const struct httpc_request rq = {
        .method = "POST",
        .path = "/v1/session/add",
        .headers = &header,
        .n_headers = 1,
        .timeout_ms = CALL_TIMEOUT_MS,
    };
    int rc;

    forget_session(c);
    buf_init(&basic, 2048);
    rc = get_password(c, &password, err);
    if (rc == 0)
        rc = basic_header(c->site, &password, &basic, err);
    secret_wipe(&password);
    if (rc < 0)
        goto out;
    header.value = (const char *)basic.data;
    rc = httpc_call(c->http, &rq, &rs, err);
    if (rc == 0)
        rc = rs.status == 200 ? take_token(c, &rs, err) : refuse(c, &rs, err);
    if (rc == 0)
        rc = save_session(c, err);
out:
    secret_buf_release(&basic);
    httpc_response_release(&rs);
    return rc;
}

/* ---- Calls ----------------------------------------------------------------------------- */

static int
call_once(struct client *c, const char *method, const char *path,
          const struct buf *body, struct httpc_response *rs, struct err *err)
{
    struct httpc_header headers[2] = {
        { .name = "x-holdfast-session", .value = (const char *)c->token.b },
        { .name = "x-holdfast-reason", .value = c->reason },
    };
    const struct httpc_request rq = {
        .method = method,
        .path = path,
        .headers = headers,
        .n_headers = c->reason && strcmp(method, "GET") != 0 ? 2 : 1,
        .body = body ? body->data : NULL,
        .body_len = body ? body->len : 0,
        .timeout_ms = CALL_TIMEOUT_MS,
        .max_response_bytes = CLIENT_ANSWER_MAX,
    };

    return httpc_call(c->http, &rq, rs, err);
}

static int
take_answer(struct client *c, const struct httpc_response *rs, const char *path,
            cJSON **out_answer, struct err *err)
{
    struct err why = ERR_INIT;

    if (rs->status < 200 || rs->status > 299)
        return refuse(c, rs, err);
    *out_answer = NULL;
    if (!rs->body.len)
        return 0;
    if (json_parse((const char *)rs->body.data, rs->body.len, CLIENT_ANSWER_MAX,
                   out_answer, &why) < 0)
        return err_set(err, -EBADMSG, ERR_CLI_0005,
                       "%s: answer to %.100s is no JSON: %s", c->site->name,
                       path, why.msg);
    return 0;
}

int
client_call(struct client *c, const char *method, const char *path,
            const struct buf *body, cJSON **out_answer, struct err *err)
{
    struct httpc_response rs = { .status = 0 };
    int rc = 0;

    if (body && body->failed)
        return err_set(err, body->failed, ERR_GEN_0002,
                       "request too large, or out of memory");
    if (!c->token.len)
        rc = client_login(c, err);
    if (rc == 0)
        rc = call_once(c, method, path, body, &rs, err);
    if (rc == 0 && rs.status == 401) {
        /* The session has ended; the action was not begun. */
        httpc_response_release(&rs);
        rs = (struct httpc_response){ .status = 0 };
        rc = client_login(c, err);
        if (rc == 0)
            rc = call_once(c, method, path, body, &rs, err);
    }
    if (rc == 0)
        rc = take_answer(c, &rs, path, out_answer, err);
    httpc_response_release(&rs);
    return rc;
}

int
client_get(struct client *c, const char *path, cJSON **out_answer,
           struct err *err)
{
    return client_call(c, "GET", path, NULL, out_answer, err);
}

int
client_logout(struct client *c, struct err *err)
{
    struct httpc_response rs = { .status = 0 };
    int rc = 0;

    if (c->token.len)
        rc = call_once(c, "DELETE", "/v1/session", NULL, &rs, err);
    httpc_response_release(&rs);
    /* Forgotten here in any case; there it ends by itself. */
    forget_session(c);
    return rc;
}
