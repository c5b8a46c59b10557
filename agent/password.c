/* holdfastd reset-password: asks the running manager, over its Unix socket, which
 * only the state directory's owner can reach, for a new random password. */
#include "commands.h"

#include <stdio.h>
#include <string.h>

#include <openssl/crypto.h>

#include "agent_config.h"
#include "common/files.h"
#include "common/httpc.h"
#include "common/json.h"
#include "common/secret.h"
#include "role.h"
#include "statedir.h"

enum {
    ANSWER_MAX = 65536
};

static void
wipe_tree(cJSON *root)
{
    cJSON *item = cJSON_GetObjectItem(root, "Password");

    if (cJSON_IsString(item))
        OPENSSL_cleanse(item->valuestring, strlen(item->valuestring));
    cJSON_Delete(root);
}

static int
print_answer(const struct httpc_response *rs, struct err *err)
{
    const char *user = "", *password = "", *why = "no reason given";
    cJSON *root = NULL;
    int rc = json_parse(rs->body.len ? (const char *)rs->body.data : "",
                        rs->body.len, ANSWER_MAX, &root, err);

    if (rs->status / 100 != 2) {
        (void)json_str(root, "Message", JSON_OPTIONAL, &why, NULL);
        rc = err_set(err, rs->status == 503 ? -EAGAIN : -EACCES, ERR_AGT_0004,
                     "the manager answered %d: %s", rs->status, why);
    } else if (rc == 0 &&
               (json_str(root, "User", JSON_REQUIRED, &user, err) < 0 ||
                json_str(root, "Password", JSON_REQUIRED, &password, err) < 0)) {
        rc = -EBADMSG;
    } else if (rc == 0) {
        printf("user: %s\npassword: %s\n", user, password);
        fprintf(stderr,
                "The password is kept nowhere in this form: write it "
                "down now.  Sessions of %s have ended.\n",
                user);
    }
    wipe_tree(root);
    return rc;
}

static int
ask(const char *socket, const char *user, struct err *err)
{
    struct httpc_settings hs = { .base_url = "http://local",
                                 .unix_path = socket };
    struct httpc_request rq = { .method = "POST",
                                .path = "/local/v1/passwords" };
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
    if (user)
        json_put_str(&w, "User", user);
    json_close_obj(&w);
    rq.body = body.data;
    rq.body_len = body.len;
    rc = httpc_call(c, &rq, &rs, err);
    if (rc == 0)
        rc = print_answer(&rs, err);
    else
        (void)err_prefix(err, "no manager answers at %s", socket);
    secret_buf_release(&rs.body);
    httpc_response_release(&rs);
    buf_release(&body);
    httpc_free(c);
    return rc;
}

int
command_reset_password(const struct reset_options *o, struct err *err)
{
    struct agent_config cfg;
    char socket[FILE_PATH_SIZE];
    int rc = agent_config_load(o->config, &cfg, err);

    if (rc < 0)
        return rc;
    rc = statedir_check(cfg.state_dir, err);
    if (rc == 0)
        rc = path_join(socket, cfg.state_dir, "manager/" MANAGER_SOCKET_FILE,
                       err);
    agent_config_release(&cfg);
    return rc < 0 ? rc : ask(socket, o->user, err);
}
