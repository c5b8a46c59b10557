/* holdfastd token: asks the running manager for a join token over its Unix
 * socket, which only the state directory's owner can reach. */
#include "commands.h"

#include <stdio.h>
#include <string.h>

#include <openssl/crypto.h>

#include "common/files.h"
#include "common/httpc.h"
#include "common/jointoken.h"
#include "common/json.h"
#include "common/text.h"
#include "role.h"
#include "statedir.h"

/* The manager's sentence, when it gave one. */
static int
refused(const struct httpc_response *rs, struct err *err)
{
    const char *why = "no reason given";
    cJSON *root = NULL;
    int rc;

    if (rs->body.len && json_parse((const char *)rs->body.data, rs->body.len,
                                   65536, &root, NULL) == 0)
        (void)json_str(root, "Message", JSON_OPTIONAL, &why, NULL);
    rc = err_set(err, rs->status == 503 ? -EAGAIN : -EACCES, ERR_AGT_0004,
                 "the manager answered %d: %s", rs->status, why);
    cJSON_Delete(root);
    return rc;
}

static int
print_token(const struct httpc_response *rs, struct err *err)
{
    const char *text = NULL;
    struct jointoken t;
    cJSON *root = NULL;
    int rc = json_parse((const char *)rs->body.data, rs->body.len, 65536, &root,
                        err);

    if (rc == 0)
        rc = json_str(root, "Token", JSON_REQUIRED, &text, err);
    if (rc >= 0)
        rc = jointoken_decode(text, &t, err);
    if (rc >= 0) {
        OPENSSL_cleanse(&t, sizeof t);
        printf("%s\n", text);
        rc = 0;
    }
    cJSON_Delete(root);
    return rc;
}

static int
ask(const char *socket, const struct token_options *o, struct err *err)
{
    struct httpc_settings hs = { .base_url = "http://local",
                                 .unix_path = socket };
    struct httpc_request rq = { .method = "POST",
                                .path = "/local/v1/jointokens" };
    struct httpc_response rs = { .status = 0 };
    struct httpc *c = NULL;
    struct json_writer w;
    struct buf body;
    int rc = httpc_new(&hs, &c, err);

    if (rc < 0)
        return rc;
    buf_init(&body, 4096);
    json_begin(&w, &body);
    json_open_obj(&w, NULL);
    json_put_str(&w, "Name", o->name);
    json_put_str(&w, "Role", tls_role_name(TLS_ROLE_REPLICATOR));
    json_put_u64(&w, "ValidSeconds", o->valid_s);
    json_close_obj(&w);
    rq.body = body.data;
    rq.body_len = body.len;
    rc = httpc_call(c, &rq, &rs, err);
    if (rc == -ECONNREFUSED || rc == -EHOSTUNREACH || rc == -ENOENT)
        rc = err_set(err, -EAGAIN, ERR_AGT_0010,
                     "no manager runs with the state directory %s", o->state);
    if (rc == 0)
        rc = rs.status / 100 == 2 ? print_token(&rs, err) : refused(&rs, err);
    secret_buf_release(&rs.body);
    httpc_response_release(&rs);
    buf_release(&body);
    httpc_free(c);
    return rc;
}

int
command_token(const struct token_options *o, struct err *err)
{
    char socket[FILE_PATH_SIZE];
    int rc;

    if (!text_name_ok(o->name, PKI_NAME_MAX))
        return err_set(err, -EINVAL, ERR_CFG_0003,
                       "--name: \"%s\" is no name of 1 to %d letters, digits, "
                       "'.', '_', '-'",
                       o->name, PKI_NAME_MAX);
    rc = statedir_check(o->state, err);
    if (rc == 0)
        rc = path_join(socket, o->state, "manager/" MANAGER_SOCKET_FILE, err);
    return rc < 0 ? rc : ask(socket, o, err);
}
