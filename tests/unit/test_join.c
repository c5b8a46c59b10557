/* room: agent common
 * holdfastd join and token against a manager that lives in a thread here, and
 * answers rightly or in each wrong way. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <openssl/err.h>

#include "commands.h"
#include "common/bytes.h"
#include "common/files.h"
#include "common/identity.h"
#include "common/jointoken.h"
#include "common/json.h"
#include "common/text.h"
#include "pki_fixture.h"
#include "statedir.h"

enum mode {
    GOOD,
    REFUSE,
    BUSY,
    OTHER_KEY,
    OTHER_SITE,
    GARBAGE,
    OTHER_ROLE,
    OTHER_ID
};

static char dir[] = "/tmp/holdfast-join-XXXXXX";
static struct site london, paris;
static struct leaf london_manager, paris_manager, replicator;

struct manager {
    pthread_t thread;
    int fd;
    const struct site *site;
    const struct leaf *own; /* NULL: a Unix socket in plain HTTP */
    enum mode mode;
    struct jointoken token;
    char address[64];
    char last[4096]; /* the request */
    bool proof_ok;
};

static int
setup(void **state)
{
    (void)state;
    site_make(&london, "london");
    site_make(&paris, "paris");
    leaf_make(&london_manager, &london, TLS_ROLE_MANAGER, 0, 0, 0);
    leaf_make(&paris_manager, &paris, TLS_ROLE_MANAGER, 0, 0, 0);
    leaf_make(&replicator, &london, TLS_ROLE_REPLICATOR, 0, 0, 0);
    return mkdtemp(dir) ? 0 : -1;
}

static int
teardown(void **state)
{
    (void)state;
    leaf_release(&london_manager);
    leaf_release(&paris_manager);
    leaf_release(&replicator);
    site_release(&london);
    site_release(&paris);
    statedir_discard(dir);
    return 0;
}

static char *
in_dir(const char *name)
{
    static char path[4][128];
    static unsigned at;

    at = (at + 1) % 4;
    (void)snprintf(path[at], sizeof path[at], "%s/%s", dir, name);
    return path[at];
}

/* The manager's side: check the proof, sign. */
static void
make_answer(struct manager *m, const char *body, SSL *ssl, struct buf *out)
{
    uint8_t csr[4096], proof[64], want[32], exported[32];
    const struct site *by = m->mode == OTHER_SITE ? &paris : m->site;
    struct pki_leaf p = { .name = m->token.name };
    const char *csr_text = "", *proof_text = "";
    char name[PKI_NAME_MAX + 1];
    struct err e = ERR_INIT;
    struct json_writer w;
    EVP_PKEY *key = NULL, *other = NULL;
    X509 *cert = NULL;
    struct buf pem;
    cJSON *root = NULL;
    int n;

    must(json_parse(body, strlen(body), 65536, &root, &e), &e);
    must(json_str(root, "Csr", JSON_REQUIRED, &csr_text, &e), &e);
    must(json_str(root, "Proof", JSON_REQUIRED, &proof_text, &e), &e);
    n = text_b64_decode(TEXT_B64_STD, csr_text, csr, sizeof csr);
    assert_true(n > 0);
    assert_int_equal(text_b64_decode(TEXT_B64_STD, proof_text, proof,
                                     sizeof proof),
                     32);
    must(tls_exporter(ssl, JOINTOKEN_EXPORT_LABEL, exported, 32, &e), &e);
    must(jointoken_proof(m->token.secret, csr, (size_t)n, exported, want, &e),
         &e);
    m->proof_ok = memcmp(proof, want, 32) == 0;
    must(pki_csr_parse(csr, (size_t)n, &key, name, &e), &e);
    assert_string_equal(name, m->token.name);
    must(pki_key_new(PKI_P256, &other, &e), &e);
    p.who = (struct tls_identity){ .deployment = by->deployment,
                                   .site = by->id,
                                   .role = m->mode == OTHER_ROLE
                                               ? TLS_ROLE_MANAGER
                                               : TLS_ROLE_REPLICATOR };
    if (json_uuid(root, "Identifier", JSON_OPTIONAL, &p.who.id, &e) != 1 ||
        m->mode == OTHER_ID)
        must(pki_uuid(&p.who.id, &e), &e);
    must(pki_sign_leaf(by->ca, by->ca_key, m->mode == OTHER_KEY ? other : key,
                       &p, (uint64_t)time(NULL), &cert, &e),
         &e);
    buf_init(&pem, 65536);
    json_begin(&w, out);
    json_open_obj(&w, NULL);
    must(pki_cert_pem(cert, &pem, &e), &e);
    json_put_str(&w, "Certificate", (char *)pem.data);
    buf_clear(&pem);
    must(pki_cert_pem(by->ca, &pem, &e), &e);
    json_put_str(&w, "Chain", (char *)pem.data);
    buf_clear(&pem);
    must(pki_cert_pem(by->root, &pem, &e), &e);
    json_put_str(&w, "Root", (char *)pem.data);
    json_put_uuid(&w, "Identifier", &p.who.id);
    json_close_obj(&w);
    buf_release(&pem);
    X509_free(cert);
    EVP_PKEY_free(key);
    EVP_PKEY_free(other);
    cJSON_Delete(root);
}

static void
answer(struct manager *m, SSL *ssl, int fd)
{
    const char *body = strstr(m->last, "\r\n\r\n") + 4;
    struct buf content, all;
    int status = 200;

    buf_init(&content, 65536);
    buf_init(&all, 70000);
    if (m->mode == REFUSE || m->mode == BUSY) {
        status = m->mode == BUSY ? 503 : 403;
        (void)buf_addf(&content, "{\"Message\":\"token was used\"}");
    } else if (m->mode == GARBAGE) {
        (void)buf_addf(&content, "{\"Certificate\":7}");
    } else if (m->own) {
        make_answer(m, body, ssl, &content);
    } else {
        char text[JOINTOKEN_TEXT_SIZE];

        (void)jointoken_encode(&m->token, text);
        (void)buf_addf(&content, "{\"Token\":\"%s\"}", text);
    }
    (void)buf_addf(&all, "HTTP/1.1 %d X\r\nContent-Length: %zu\r\n\r\n%s",
                   status, content.len, (char *)content.data);
    if (ssl)
        (void)SSL_write(ssl, all.data, (int)all.len);
    else
        (void)!write(fd, all.data, all.len);
    buf_release(&content);
    buf_release(&all);
}

static bool
read_request(struct manager *m, SSL *ssl, int fd)
{
    size_t n = 0;

    for (;;) {
        size_t room = sizeof m->last - 1 - n;
        ssize_t k = ssl ? SSL_read(ssl, m->last + n, (int)room)
                        : read(fd, m->last + n, room);
        const char *end, *cl;

        if (k <= 0)
            return false;
        n += (size_t)k;
        m->last[n] = '\0';
        end = strstr(m->last, "\r\n\r\n");
        cl = strstr(m->last, "Content-Length: ");
        if (end && cl && n >= (size_t)(end + 4 - m->last) + (size_t)atoi(cl + 16))
            return true;
    }
}

static void *
serve(void *arg)
{
    struct tls_settings ts = { .side = TLS_SERVER,
                               .client_cert = TLS_CLIENT_CERT_OPTIONAL };
    struct manager *m = arg;
    struct tls_ctx *ctx = NULL;
    struct err e = ERR_INIT;
    SSL *ssl = NULL;
    int fd = accept(m->fd, NULL, NULL);

    if (fd < 0)
        return NULL;
    if (m->own) {
        must(tls_ctx_new(&ts, &ctx, &e), &e);
        must(tls_ctx_set_own(ctx, m->own->chain, m->own->key, &e), &e);
        must(tls_ssl_new(ctx, NULL, &ssl, &e), &e);
        SSL_set_fd(ssl, fd);
    }
    if ((!ssl || SSL_accept(ssl) == 1) && read_request(m, ssl, fd))
        answer(m, ssl, fd);
    ERR_clear_error();
    SSL_free(ssl);
    tls_ctx_free(ctx);
    (void)close(fd);
    return NULL;
}

static void
manager_start(struct manager *m, const char *unix_path)
{
    struct sockaddr_in in = { .sin_family = AF_INET };
    struct sockaddr_un un = { .sun_family = AF_UNIX };
    socklen_t len = sizeof in;

    m->fd = socket(unix_path ? AF_UNIX : AF_INET, SOCK_STREAM, 0);
    in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (unix_path) {
        (void)snprintf(un.sun_path, sizeof un.sun_path, "%s", unix_path);
        assert_int_equal(bind(m->fd, (struct sockaddr *)&un, sizeof un), 0);
    } else {
        assert_int_equal(bind(m->fd, (struct sockaddr *)&in, sizeof in), 0);
        assert_int_equal(getsockname(m->fd, (struct sockaddr *)&in, &len), 0);
        (void)snprintf(m->address, sizeof m->address, "127.0.0.1:%u",
                       ntohs(in.sin_port));
    }
    assert_int_equal(listen(m->fd, 4), 0);
    assert_int_equal(pthread_create(&m->thread, NULL, serve, m), 0);
}

static void
manager_stop(struct manager *m)
{
    (void)shutdown(m->fd, SHUT_RDWR);
    assert_int_equal(pthread_join(m->thread, NULL), 0);
    (void)close(m->fd);
}

static void
make_token_for(struct jointoken *t, const struct site *s, const char *name,
               int64_t valid_s)
{
    struct err e = ERR_INIT;
    char text[JOINTOKEN_TEXT_SIZE];

    *t = (struct jointoken){ .role = TLS_ROLE_REPLICATOR,
                             .deployment = s->deployment,
                             .site = s->id };
    (void)snprintf(t->name, sizeof t->name, "%s", name);
    must(pki_uuid(&t->id, &e), &e);
    t->expiry_s = (uint64_t)((int64_t)time(NULL) + valid_s);
    pki_fingerprint(s->root, t->root);
    memset(t->secret, 0x5a, sizeof t->secret);
    (void)jointoken_encode(t, text);
    must(file_replace(in_dir("token"), 0600, text, strlen(text), &e), &e);
}

static void
make_token(struct jointoken *t, const struct site *s, int64_t valid_s)
{
    make_token_for(t, s, "host-1", valid_s);
}

static void
joins(void **state)
{
    struct manager m = { .site = &london, .own = &london_manager };
    struct join_options o = { .token_file = in_dir("token") };
    struct stack_st_X509 *chain = NULL;
    EVP_PKEY *key = NULL;
    struct err e = ERR_INIT;
    char path[200];
    struct stat st;

    (void)state;
    make_token(&m.token, &london, 60);
    manager_start(&m, NULL);
    o.manager = m.address;
    o.state = in_dir("state");
    must(command_join(&o, &e), &e);
    manager_stop(&m);
    assert_true(m.proof_ok);
    assert_memory_equal(m.last, "POST /v1/join HTTP/1.1\r\n", 24);
    must(statedir_check(o.state, &e), &e);
    (void)snprintf(path, sizeof path, "%s/replicator/key.pem", o.state);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    must(pki_key_load(path, &key, &e), &e);
    (void)snprintf(path, sizeof path, "%s/replicator/chain.pem", o.state);
    must(pki_certs_load(path, &chain, &e), &e);
    assert_int_equal(sk_X509_num(chain), 3);
    assert_int_equal(X509_check_private_key(sk_X509_value(chain, 0), key), 1);
    pki_certs_free(chain);
    EVP_PKEY_free(key);
    (void)snprintf(path, sizeof path, "%s/replicator/joined.json", o.state);
    assert_int_equal(access(path, R_OK), 0);
    /* as somebody else, or for another site: nothing is sent */
    make_token_for(&m.token, &london, "host-2", 60);
    assert_int_equal(command_join(&o, &e), -EEXIST);
    assert_int_equal(e.code, ERR_AGT_0005);
    make_token(&m.token, &paris, 60);
    assert_int_equal(command_join(&o, &e), -EEXIST);
    assert_int_equal(e.code, ERR_AGT_0005);
}

/* With the key it has, as the replicator it is; whatever goes wrong on the way
 * leaves what is there. */
static void
joins_again(void **state)
{
    struct manager m = { .site = &london, .own = &london_manager };
    struct join_options o = { .token_file = in_dir("token") };
    static const enum mode bad[] = { REFUSE, OTHER_KEY, OTHER_ID, GARBAGE };
    struct identity before, after;
    EVP_PKEY *key = NULL;
    struct err e = ERR_INIT;
    char path[200], key_path[200];

    (void)state;
    o.manager = m.address;
    o.state = in_dir("again");
    (void)snprintf(path, sizeof path, "%s/replicator/chain.pem", o.state);
    (void)snprintf(key_path, sizeof key_path, "%s/replicator/key.pem", o.state);
    make_token(&m.token, &london, 60);
    manager_start(&m, NULL);
    must(command_join(&o, &e), &e);
    manager_stop(&m);
    assert_null(strstr(m.last, "\"Identifier\""));
    must(identity_read(path, &before, &e), &e);
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        m.mode = bad[i];
        manager_start(&m, NULL);
        assert_true(command_join(&o, &e) < 0);
        manager_stop(&m);
        must(identity_read(path, &after, &e), &e);
        assert_string_equal(after.serial, before.serial);
    }
    m.mode = GOOD;
    manager_start(&m, NULL);
    must(command_join(&o, &e), &e);
    manager_stop(&m);
    assert_true(m.proof_ok);
    assert_non_null(strstr(m.last, "\"Identifier\""));
    must(identity_read(path, &after, &e), &e);
    assert_string_not_equal(after.serial, before.serial);
    assert_true(uuid_equal(&after.who.id, &before.who.id));
    assert_string_equal(after.key, before.key);
    must(pki_key_load(key_path, &key, &e), &e);
    EVP_PKEY_free(key);
}

/* Into the state directory of a manager on the same host, while it is locked
 * by its supervisor. */
static void
joins_beside_a_manager(void **state)
{
    struct manager m = { .site = &london, .own = &london_manager };
    struct join_options o = { .token_file = in_dir("token") };
    struct lockfile lock = LOCKFILE_INIT;
    char draft[FILE_PATH_SIZE], path[200];
    struct err e = ERR_INIT;

    (void)state;
    o.state = in_dir("both");
    must(statedir_begin(o.state, draft, &e), &e);
    must(statedir_commit(draft, o.state, &e), &e);
    must(statedir_lock(o.state, &lock, &e), &e);
    make_token(&m.token, &london, 60);
    manager_start(&m, NULL);
    o.manager = m.address;
    must(command_join(&o, &e), &e);
    manager_stop(&m);
    lockfile_release(&lock);
    (void)snprintf(path, sizeof path, "%s/replicator/chain.pem", o.state);
    assert_int_equal(access(path, R_OK), 0);
}

static void
refuses_wrong_answers(void **state)
{
    const struct {
        const struct site *site;
        const struct leaf *own;
        enum mode mode;
        int rc;
        enum err_code code;
        int sent; /* did the request leave this host? */
    } t[] = {
        { &london, &london_manager, REFUSE, -EACCES, ERR_AGT_0004, 1 },
        { &london, &london_manager, BUSY, -EAGAIN, ERR_AGT_0004, 1 },
        { &london, &london_manager, OTHER_KEY, -EBADMSG, ERR_AGT_0007, 1 },
        { &london, &london_manager, OTHER_ROLE, -EBADMSG, ERR_AGT_0007, 1 },
        { &london, &london_manager, OTHER_SITE, -EKEYREJECTED, ERR_TLS_0004, 1 },
        { &london, &london_manager, GARBAGE, -EINVAL, ERR_JSN_0004, 1 },
        /* another root, or no manager: not a byte is sent */
        { &paris, &paris_manager, GOOD, -EKEYREJECTED, ERR_TLS_0004, 0 },
        { &london, &replicator, GOOD, -EKEYREJECTED, ERR_TLS_0007, 0 },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
        struct manager m = { .site = t[i].site,
                             .own = t[i].own,
                             .mode = t[i].mode };
        struct join_options o = { .token_file = in_dir("token") };
        struct err e = ERR_INIT;
        int rc;

        o.state = in_dir("never");
        make_token(&m.token, &london, 60);
        manager_start(&m, NULL);
        o.manager = m.address;
        rc = command_join(&o, &e);
        manager_stop(&m);
        if (rc != t[i].rc || e.code != t[i].code)
            fail_msg("row %zu: %d %s %s", i, rc, err_code_text(e.code), e.msg);
        assert_int_equal(m.last[0] != '\0', t[i].sent);
        assert_int_equal(access(o.state, F_OK), -1);
    }
}

static void
refuses_bad_tokens(void **state)
{
    struct join_options o = { .manager = "127.0.0.1:1" };
    struct jointoken t;
    struct err e = ERR_INIT;

    (void)state;
    o.state = in_dir("never");
    o.token_file = in_dir("token");
    make_token(&t, &london, -5);
    assert_int_equal(command_join(&o, &e), -ESTALE);
    assert_int_equal(e.code, ERR_AGT_0006);
    make_token(&t, &london, 60);
    assert_int_equal(command_join(&o, &e), -ECONNREFUSED);
    assert_int_equal(status_of(&e), STATUS_TEMPORARY);
    assert_int_equal(chmod(o.token_file, 0644), 0);
    assert_int_equal(command_join(&o, &e), -EPERM);
    assert_int_equal(e.code, ERR_GEN_0006);
    must(file_replace(o.token_file, 0600, "hfjoin1.AAAA", 12, &e), &e);
    assert_int_equal(command_join(&o, &e), -EBADMSG);
    assert_int_equal(e.code, ERR_TLS_0012);
    o.manager = "nonsense";
    assert_int_equal(command_join(&o, &e), -EINVAL);
    o.manager = "127.0.0.1:1";
    o.state = dir;
    assert_int_equal(command_join(&o, &e), -EBADMSG);
    assert_int_equal(e.code, ERR_AGT_0003);
}

static void
asks_for_tokens(void **state)
{
    struct token_options o = { .name = "host-1", .valid_s = 60 };
    char draft[FILE_PATH_SIZE], path[200];
    struct err e = ERR_INIT;

    (void)state;
    o.state = in_dir("site");
    assert_int_equal(command_token(&o, &e), -ENOENT);
    must(statedir_begin(o.state, draft, &e), &e);
    must(statedir_commit(draft, o.state, &e), &e);
    (void)snprintf(path, sizeof path, "%s/manager", o.state);
    must(dir_make(path, &e), &e);
    assert_int_equal(command_token(&o, &e), -EAGAIN); /* nobody listens */
    assert_int_equal(e.code, ERR_AGT_0010);
    assert_int_equal(status_of(&e), STATUS_TEMPORARY);
    (void)snprintf(path, sizeof path, "%s/manager/manager.sock", o.state);
    for (int i = 0; i < 3; i++) {
        static const enum mode modes[] = { GOOD, REFUSE, GARBAGE };
        static const int want[] = { 0, -EACCES, -EINVAL };
        struct manager m = { .site = &london, .mode = modes[i] };

        make_token(&m.token, &london, 60);
        manager_start(&m, path);
        assert_int_equal(command_token(&o, &e), want[i]);
        manager_stop(&m);
        (void)unlink(path);
        assert_memory_equal(m.last, "POST /local/v1/jointokens HTTP/1.1\r\n",
                            36);
        assert_non_null(strstr(m.last, "{\"Name\":\"host-1\",\"Role\":"
                                       "\"replicator\",\"ValidSeconds\":60}"));
    }
    o.name = "a b";
    assert_int_equal(command_token(&o, &e), -EINVAL);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(joins),
        cmocka_unit_test(joins_again),
        cmocka_unit_test(joins_beside_a_manager),
        cmocka_unit_test(refuses_wrong_answers),
        cmocka_unit_test(refuses_bad_tokens),
        cmocka_unit_test(asks_for_tokens),
    };

    return cmocka_run_group_tests_name("join", tests, setup, teardown);
}
