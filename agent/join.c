/* holdfastd join: a host becomes a replicator of a site.
 *
 * The key is made here and never leaves.  The manager must show a certificate
 * under the root whose fingerprint the token carries before a byte of the
 * request is sent; the request then carries a proof that is bound to this very
 * connection, so that whoever relays it gets nothing.  The key and the
 * certificates are written to a directory of their own, which gets its final
 * name when all of it is on disk. */
#include "commands.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <openssl/crypto.h>

#include "common/bytes.h"
#include "common/files.h"
#include "common/httpc.h"
#include "common/identity.h"
#include "common/jointoken.h"
#include "common/json.h"
#include "common/pki.h"
#include "common/secret.h"
#include "common/text.h"
#include "role.h"
#include "statedir.h"

enum {
    ANSWER_MAX = 256 * 1024,
    PEM_MAX = 65536
};

struct join {
    struct jointoken token;
    EVP_PKEY *key;
    struct buf csr;  /* DER */
    struct buf body; /* the request, with room for the proof */
    struct pki_trust *trust;
    struct tls_ctx *tls;
    cJSON *answer;
    bool again;          /* a replicator is in the state directory */
    struct identity was; /* who it is */
    /* Out of the answer, checked. */
    struct buf chain, root; /* PEM */
    struct tls_identity who;
};

static int
read_token(const char *file, struct jointoken *out, struct err *err)
{
    struct buf b;
    int rc = 0;

    buf_init(&b, 4096);
    if (strcmp(file, "-") == 0) {
        char *to = buf_reserve(&b, 4000);
        size_t n = to ? fread(to, 1, 4000, stdin) : 0;

        if (to)
            buf_added(&b, n);
        if (ferror(stdin))
            rc = err_set(err, -EIO, ERR_GEN_0003, "standard input: read");
    } else {
        rc = file_read_secret(file, 2000, &b, err);
    }
    if (rc == 0)
        rc = jointoken_decode(b.len ? (const char *)b.data : "", out, err);
    secret_buf_release(&b);
    return rc;
}

static int
check_token(const struct jointoken *t, struct err *err)
{
    uint64_t now = (uint64_t)time(NULL);

    if (now < t->expiry_s)
        return 0;
    return err_set(err, -ESTALE, ERR_AGT_0006,
                   "join token for %s expired %llu s ago", t->name,
                   (unsigned long long)(now - t->expiry_s));
}

static int
prepare(struct join *j, struct err *err)
{
    const struct tls_settings ts = { .side = TLS_CLIENT };
    int rc = j->key ? 0 : pki_key_new(PKI_P256, &j->key, err);

    if (rc == 0)
        rc = pki_csr_make(j->key, j->token.name, &j->csr, err);
    if (rc == 0)
        rc = pki_trust_new(&j->trust, err);
    if (rc == 0)
        rc = pki_trust_add_pin(j->trust, j->token.root, err);
    if (rc == 0)
        rc = tls_ctx_new(&ts, &j->tls, err);
    if (rc == 0)
        tls_ctx_set_trust(j->tls, j->trust);
    return rc;
}

static int
write_body(struct join *j, const uint8_t proof[JOINTOKEN_PROOF_SIZE],
           struct err *err)
{
    char proof_text[TEXT_B64_SIZE(JOINTOKEN_PROOF_SIZE)];
    char *csr_text = malloc(TEXT_B64_SIZE(j->csr.len));
    struct json_writer w;

    if (!csr_text)
        return err_set(err, -ENOMEM, ERR_GEN_0002, "join: out of memory");
    text_b64_encode(TEXT_B64_STD, j->csr.data, j->csr.len, csr_text);
    text_b64_encode(TEXT_B64_STD, proof, JOINTOKEN_PROOF_SIZE, proof_text);
    buf_clear(&j->body);
    json_begin(&w, &j->body);
    json_open_obj(&w, NULL);
    json_put_str(&w, "Csr", csr_text);
    json_put_uuid(&w, "TokenIdentifier", &j->token.id);
    json_put_str(&w, "Proof", proof_text);
    if (j->again)
        json_put_uuid(&w, "Identifier", &j->was.who.id);
    json_close_obj(&w);
    free(csr_text);
    if (j->body.failed)
        return err_set(err, j->body.failed, ERR_GEN_0002, "join: out of memory");
    return 0;
}

/* The channel stands and the manager's root has been checked. */
static int
make_bound_body(void *arg, SSL *ssl, const void **out_body, struct err *err)
{
    uint8_t exported[JOINTOKEN_EXPORT_SIZE], proof[JOINTOKEN_PROOF_SIZE];
    struct join *j = arg;
    int rc = tls_exporter(ssl, JOINTOKEN_EXPORT_LABEL, exported,
                          sizeof exported, err);

    if (rc == 0)
        rc = jointoken_proof(j->token.secret, j->csr.data, j->csr.len, exported,
                             proof, err);
    if (rc == 0)
        rc = write_body(j, proof, err);
    OPENSSL_cleanse(exported, sizeof exported);
    if (rc == 0)
        *out_body = j->body.data;
    return rc;
}

static int
read_answer(struct join *j, const struct httpc_response *rs, struct err *err)
{
    const char *why = "no reason given";
    int rc = json_parse(rs->body.len ? (const char *)rs->body.data : "",
                        rs->body.len, ANSWER_MAX, &j->answer,
                        rs->status / 100 == 2 ? err : NULL);

    if (rs->status / 100 == 2)
        return rc;
    if (rc == 0)
        (void)json_str(j->answer, "Message", JSON_OPTIONAL, &why, NULL);
    return err_set(err, rs->status == 503 ? -EAGAIN : -EACCES, ERR_AGT_0004,
                   "the manager answered %d: %s", rs->status, why);
}

static int
ask(struct join *j, const char *manager, struct err *err)
{
    const struct tls_expect expect = { .roles = 1U << TLS_ROLE_MANAGER,
                                       .deployment = &j->token.deployment,
                                       .site = &j->token.site };
    const uint8_t no_proof[JOINTOKEN_PROOF_SIZE] = { 0 };
    char url[TEXT_HOST_SIZE + 32];
    struct httpc_settings hs = { .base_url = url,
                                 .tls = j->tls,
                                 .expect = &expect };
    struct httpc_request rq = { .method = "POST",
                                .path = "/v1/join",
                                .content_type = "application/json",
                                .max_response_bytes = ANSWER_MAX,
                                .make_body = make_bound_body,
                                .make_body_arg = j };
    struct httpc_response rs = { .status = 0 };
    struct httpc *c = NULL;
    int rc;

    (void)snprintf(url, sizeof url, "https://%s", manager);
    rc = write_body(j, no_proof, err); /* for its length */
    if (rc < 0)
        return rc;
    rq.body_len = j->body.len;
    rc = httpc_new(&hs, &c, err);
    if (rc < 0)
        return rc;
    rc = httpc_call(c, &rq, &rs, err);
    if (rc == 0)
        rc = read_answer(j, &rs, err);
    httpc_response_release(&rs);
    httpc_free(c);
    return rc;
}

/* ---- The answer ---------------------------------------------------------- */

static int
unfit(const char *what, struct err *err)
{
    return err_set(err, -EBADMSG, ERR_AGT_0007, "the manager's answer: %s",
                   what);
}

/* Is the leaf ours, under the token's root, for its site and role? */
static int
check_leaf(struct join *j, struct stack_st_X509 *chain, struct err *err)
{
    X509 *leaf = sk_X509_value(chain, 0);
    int rc = pki_verify(j->trust, leaf, chain, PKI_CLIENT, (uint64_t)time(NULL),
                        &j->who, err);

    if (rc < 0)
        return err_prefix(err, "the manager's answer");
    if (X509_check_private_key(leaf, j->key) != 1)
        return unfit("the certificate is for another key", err);
    if (j->who.role != j->token.role ||
        !uuid_equal(&j->who.site, &j->token.site) ||
        !uuid_equal(&j->who.deployment, &j->token.deployment))
        return unfit("the certificate is for another role or site", err);
    if (j->again && !uuid_equal(&j->who.id, &j->was.who.id))
        return unfit("the certificate is for another replicator", err);
    return 0;
}

static int
check_answer(struct join *j, struct err *err)
{
    const char *cert = "", *chain = "", *root = "";
    struct stack_st_X509 *certs = NULL;
    uint8_t fp[PKI_FINGERPRINT_SIZE];
    X509 *last;
    int rc = json_str(j->answer, "Certificate", JSON_REQUIRED, &cert, err);

    if (rc > 0)
        rc = json_str(j->answer, "Chain", JSON_REQUIRED, &chain, err);
    if (rc > 0)
        rc = json_str(j->answer, "Root", JSON_REQUIRED, &root, err);
    if (rc < 0)
        return err_prefix(err, "the manager's answer");
    (void)buf_addf(&j->chain, "%s\n%s\n", cert, chain);
    if (!strstr(chain, root))
        (void)buf_addf(&j->chain, "%s\n", root);
    (void)buf_addf(&j->root, "%s\n", root);
    if (j->chain.failed || j->root.failed)
        return unfit("certificates are too long", err);
    rc = pki_certs_parse((const char *)j->chain.data, j->chain.len, &certs, err);
    if (rc < 0)
        return err_prefix(err, "the manager's answer");
    rc = check_leaf(j, certs, err);
    last = sk_X509_value(certs, sk_X509_num(certs) - 1);
    pki_fingerprint(last, fp);
    if (rc == 0 &&
        (sk_X509_num(certs) != 3 || memcmp(fp, j->token.root, sizeof fp) != 0))
        rc = unfit("not leaf, site and the token's root", err);
    pki_certs_free(certs);
    return rc;
}

/* ---- Files --------------------------------------------------------------- */

static int
write_file(const char *dir, const char *name, mode_t mode,
           const struct buf *content, struct err *err)
{
    char path[FILE_PATH_SIZE];
    int rc = path_join(path, dir, name, err);

    return rc < 0 ? rc
                  : file_replace(path, mode, content->data, content->len, err);
}

/* What the role reads to know itself, beside its certificate. */
static int
write_joined(const char *dir, const struct join *j, const char *manager,
             struct err *err)
{
    struct json_writer w;
    struct buf text;
    int rc;

    buf_init(&text, 4096);
    json_begin(&w, &text);
    json_open_obj(&w, NULL);
    json_put_u64(&w, "Format", 1);
    json_put_str(&w, "Name", j->token.name);
    json_put_uuid(&w, "Identifier", &j->who.id);
    json_put_uuid(&w, "Site", &j->who.site);
    json_put_uuid(&w, "Deployment", &j->who.deployment);
    json_put_str(&w, "Manager", manager);
    json_close_obj(&w);
    (void)buf_add(&text, "\n", 1);
    rc = text.failed ? err_set(err, text.failed, ERR_GEN_0002, "out of memory")
                     : write_file(dir, ROLE_JOINED_FILE, 0600, &text, err);
    buf_release(&text);
    return rc;
}

static int
write_identity(const char *dir, const struct join *j, const char *manager,
               struct err *err)
{
    struct buf pem;
    int rc;

    buf_init(&pem, PEM_MAX);
    rc = pki_key_pem(j->key, &pem, err);
    if (rc == 0)
        rc = write_file(dir, ROLE_KEY_FILE, 0600, &pem, err);
    secret_buf_release(&pem);
    if (rc == 0)
        rc = write_file(dir, ROLE_ROOT_FILE, 0644, &j->root, err);
    if (rc == 0)
        rc = write_file(dir, ROLE_CHAIN_FILE, 0644, &j->chain, err);
    if (rc == 0)
        rc = write_joined(dir, j, manager, err);
    return rc < 0 ? rc : dir_sync(dir, err);
}

enum place {
    PLACE_NOTHING, /* the state directory must be made */
    PLACE_STATE,   /* it is there, a manager's */
    PLACE_JOINED,  /* with a replicator in it */
};

static int
check_place(const char *state, char out_role_dir[FILE_PATH_SIZE],
            struct err *err)
{
    int rc = statedir_check(state, err);

    if (rc < 0 && rc != -ENOENT)
        return rc;
    if (path_join(out_role_dir, state, "replicator", err) < 0)
        return -ENAMETOOLONG;
    if (rc < 0)
        return PLACE_NOTHING;
    return access(out_role_dir, F_OK) == 0 ? PLACE_JOINED : PLACE_STATE;
}

/* A replicator that is there joins again as itself, with its key: what it holds
 * of its VPGs stays good. */
static int
take_old(const char *role_dir, struct join *j, struct err *err)
{
    char key[FILE_PATH_SIZE], chain[FILE_PATH_SIZE];
    int rc = path_join(key, role_dir, ROLE_KEY_FILE, err);

    if (rc == 0)
        rc = path_join(chain, role_dir, ROLE_CHAIN_FILE, err);
    if (rc == 0)
        rc = identity_recover(key, chain, err);
    if (rc == 0)
        rc = identity_read(chain, &j->was, err);
    if (rc < 0)
        return rc;
    if (strcmp(j->was.name, j->token.name) != 0 ||
        !uuid_equal(&j->was.who.site, &j->token.site) ||
        !uuid_equal(&j->was.who.deployment, &j->token.deployment))
        return err_set(err, -EEXIST, ERR_AGT_0005,
                       "%s holds replicator %s, the token is for %s%s",
                       role_dir, j->was.name, j->token.name,
                       uuid_equal(&j->was.who.site, &j->token.site)
                           ? ""
                           : " of another site");
    j->again = true;
    return pki_key_load(key, &j->key, err);
}

/* The pair in one step, then what says the same as before. */
static int
write_again(const char *role_dir, const struct join *j, const char *manager,
            struct err *err)
{
    char key[FILE_PATH_SIZE], chain[FILE_PATH_SIZE];
    int rc = path_join(key, role_dir, ROLE_KEY_FILE, err);

    if (rc == 0)
        rc = path_join(chain, role_dir, ROLE_CHAIN_FILE, err);
    if (rc == 0)
        rc = identity_replace(key, chain, j->key, &j->chain, err);
    if (rc == 0)
        rc = write_file(role_dir, ROLE_ROOT_FILE, 0644, &j->root, err);
    if (rc == 0)
        rc = write_joined(role_dir, j, manager, err);
    return rc < 0 ? rc : dir_sync(role_dir, err);
}

/* Into a state directory that is there (a manager's): a directory of another
 * name first, then its own. */
static int
add_to_state(const char *state, const char *role_dir, const struct join *j,
             const char *manager, struct err *err)
{
    char draft[FILE_PATH_SIZE];
    int rc = path_join(draft, state, ".replicator-XXXXXX", err);

    if (rc < 0)
        return rc;
    if (!mkdtemp(draft))
        return err_set(err, -errno, ERR_GEN_0003, "%s: make directory: %s",
                       draft, err_errno(errno));
    rc = write_identity(draft, j, manager, err);
    if (rc == 0 && rename(draft, role_dir) < 0)
        rc = err_set(err, -errno, ERR_GEN_0003, "%s: put in place: %s",
                     role_dir, err_errno(errno));
    if (rc == 0)
        rc = dir_sync(state, err);
    else
        statedir_discard(draft);
    return rc;
}

static int
make_state(const char *state, const struct join *j, const char *manager,
           struct err *err)
{
    char draft[FILE_PATH_SIZE], dir[FILE_PATH_SIZE];
    int rc = statedir_begin(state, draft, err);

    if (rc < 0)
        return rc;
    rc = path_join(dir, draft, "replicator", err);
    if (rc == 0)
        rc = dir_make(dir, err);
    if (rc == 0)
        rc = write_identity(dir, j, manager, err);
    if (rc == 0)
        rc = statedir_commit(draft, state, err);
    if (rc < 0)
        statedir_discard(draft);
    return rc;
}

/* ---- The command --------------------------------------------------------- */

static int
run_join(struct join *j, const struct join_options *o, struct err *err)
{
    char role_dir[FILE_PATH_SIZE], host[TEXT_HOST_SIZE], id[UUID_TEXT_SIZE];
    uint16_t port;
    int there, rc;

    if (text_parse_hostport(o->manager, host, &port) < 0 || !host[0] || !port)
        return err_set(err, -EINVAL, ERR_CFG_0003,
                       "--manager: \"%s\" is no HOST:PORT", o->manager);
    there = check_place(o->state, role_dir, err);
    if (there < 0)
        return there;
    rc = read_token(o->token_file, &j->token, err);
    if (rc == 0)
        rc = check_token(&j->token, err);
    if (rc == 0 && there == PLACE_JOINED)
        rc = take_old(role_dir, j, err);
    if (rc == 0)
        rc = prepare(j, err);
    if (rc == 0)
        rc = ask(j, o->manager, err);
    if (rc == 0)
        rc = check_answer(j, err);
    if (rc == 0)
        rc = there == PLACE_JOINED ? write_again(role_dir, j, o->manager, err)
             : there == PLACE_STATE
                 ? add_to_state(o->state, role_dir, j, o->manager, err)
                 : make_state(o->state, j, o->manager, err);
    if (rc < 0)
        return rc;
    uuid_format(&j->who.id, id);
    printf("replicator: %s\nidentifier: %s\n", j->token.name, id);
    if (j->again)
        printf(
            "joined again: a running holdfastd takes the certificate within a minute\n");
    return 0;
}

int
command_join(const struct join_options *o, struct err *err)
{
    struct join j = { .key = NULL };
    int rc;

    buf_init(&j.csr, 65536);
    buf_init(&j.body, 65536);
    buf_init(&j.chain, PEM_MAX);
    buf_init(&j.root, PEM_MAX);
    rc = run_join(&j, o, err);
    EVP_PKEY_free(j.key);
    buf_release(&j.csr);
    buf_release(&j.body);
    buf_release(&j.chain);
    buf_release(&j.root);
    pki_trust_free(j.trust);
    tls_ctx_free(j.tls);
    cJSON_Delete(j.answer);
    OPENSSL_cleanse(&j.token, sizeof j.token);
    return rc;
}
