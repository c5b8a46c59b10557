/* holdfastd init: a site comes into being.  Root, site CA, the manager's first
 * certificate and the first administrator are made in a draft directory that is
 * put in place when all of it is on disk; only then is the password printed,
 * for the first and last time. */
#include "commands.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/bytes.h"
#include "common/json.h"
#include "common/pki.h"
#include "common/scrypt.h"
#include "common/text.h"
#include "role.h"
#include "statedir.h"

enum {
    HOSTS_MAX = 16,
    API_TEXT_MAX = 2048,
    PEM_MAX = 65536
};

/* The addresses given with --api. */
struct addresses {
    char text[API_TEXT_MAX];
    char *whole[HOSTS_MAX]; /* "host:port", in text */
    char host[HOSTS_MAX][TEXT_HOST_SIZE];
    const char *hosts[HOSTS_MAX]; /* without repeats */
    size_t n, n_hosts;
};

struct new_site {
    struct uuid deployment, site, manager;
    EVP_PKEY *root_key, *ca_key, *key;
    X509 *root, *ca, *leaf;
    struct secret password;
    struct scrypt_hash hash;
};

static int
parse_addresses(const char *api, struct addresses *a, struct err *err)
{
    uint16_t port;
    int n;

    if (strlen(api) >= sizeof a->text)
        return err_set(err, -EINVAL, ERR_CFG_0004, "--api: %zu bytes",
                       strlen(api));
    memcpy(a->text, api, strlen(api) + 1);
    n = text_split(a->text, ',', a->whole, HOSTS_MAX);
    if (n < 0)
        return err_set(err, -EINVAL, ERR_CFG_0004,
                       "--api: more than %d addresses", HOSTS_MAX);
    a->n = (size_t)n;
    a->n_hosts = 0;
    for (size_t i = 0; i < a->n; i++) {
        bool seen = false;

        if (text_parse_hostport(a->whole[i], a->host[i], &port) < 0 ||
            !a->host[i][0] || port == 0)
            return err_set(err, -EINVAL, ERR_CFG_0003,
                           "--api: \"%s\" is no HOST:PORT", a->whole[i]);
        for (size_t k = 0; k < a->n_hosts; k++)
            seen = seen || strcmp(a->hosts[k], a->host[i]) == 0;
        if (!seen)
            a->hosts[a->n_hosts++] = a->host[i];
    }
    return 0;
}

static int
make_keys(struct new_site *s, struct err *err)
{
    int rc = pki_uuid(&s->deployment, err);

    if (rc == 0)
        rc = pki_uuid(&s->site, err);
    if (rc == 0)
        rc = pki_uuid(&s->manager, err);
    if (rc == 0)
        rc = pki_key_new(PKI_P384, &s->root_key, err);
    if (rc == 0)
        rc = pki_key_new(PKI_P256, &s->ca_key, err);
    if (rc == 0)
        rc = pki_key_new(PKI_P256, &s->key, err);
    return rc;
}

static int
make_certificates(struct new_site *s, const char *name,
                  const struct addresses *a, uint64_t now_s, struct err *err)
{
    struct pki_leaf leaf = {
        .who = { .deployment = s->deployment,
                 .site = s->site,
                 .role = TLS_ROLE_MANAGER,
                 .id = s->manager },
        .name = name,
        .hosts = a->hosts,
        .n_hosts = a->n_hosts,
    };
    int rc =
        pki_make_root(&s->deployment, name, s->root_key, now_s, &s->root, err);

    if (rc == 0)
        rc = pki_make_site_ca(s->root, s->root_key, &s->site, name, s->ca_key,
                              now_s, &s->ca, err);
    if (rc == 0)
        rc = pki_sign_leaf(s->ca, s->ca_key, s->key, &leaf, now_s, &s->leaf,
                           err);
    return rc;
}

static void
new_site_release(struct new_site *s)
{
    EVP_PKEY_free(s->root_key);
    EVP_PKEY_free(s->ca_key);
    EVP_PKEY_free(s->key);
    X509_free(s->root);
    X509_free(s->ca);
    X509_free(s->leaf);
    secret_wipe(&s->password);
}

/* ---- Files --------------------------------------------------------------- */

static int
write_buf(const char *dir, const char *name, mode_t mode, const struct buf *b,
          struct err *err)
{
    char path[FILE_PATH_SIZE];
    int rc = path_join(path, dir, name, err);

    if (rc == 0 && b->failed)
        rc = err_set(err, b->failed, ERR_GEN_0002, "%s: out of memory", path);
    return rc < 0 ? rc : file_replace(path, mode, b->data, b->len, err);
}

static int
write_key(const char *dir, const char *name, EVP_PKEY *key, struct err *err)
{
    struct buf pem;
    int rc;

    buf_init(&pem, PEM_MAX);
    rc = pki_key_pem(key, &pem, err);
    if (rc == 0)
        rc = write_buf(dir, name, 0600, &pem, err);
    secret_buf_release(&pem);
    return rc;
}

static int
write_certs(const char *dir, const char *name, X509 *const *certs, size_t n,
            struct err *err)
{
    struct buf pem;
    int rc = 0;

    buf_init(&pem, PEM_MAX);
    for (size_t i = 0; rc == 0 && i < n; i++)
        rc = pki_cert_pem(certs[i], &pem, err);
    if (rc == 0)
        rc = write_buf(dir, name, 0644, &pem, err);
    buf_release(&pem);
    return rc;
}

static void
put_scrypt(struct json_writer *w, const struct scrypt_hash *h)
{
    char text[TEXT_B64_SIZE(SCRYPT_HASH_SIZE)];

    json_open_obj(w, "Scrypt");
    json_put_u64(w, "N", h->n);
    json_put_u64(w, "R", h->r);
    json_put_u64(w, "P", h->p);
    text_b64_encode(TEXT_B64_STD, h->salt, sizeof h->salt, text);
    json_put_str(w, "Salt", text);
    text_b64_encode(TEXT_B64_STD, h->hash, sizeof h->hash, text);
    json_put_str(w, "Hash", text);
    json_close_obj(w);
}

/* What the manager takes over into its catalog at its first start. */
static int
write_bootstrap(const char *dir, const struct init_options *o,
                const struct new_site *s, const struct addresses *a,
                uint64_t now_s, struct err *err)
{
    struct json_writer w;
    struct buf text;
    int rc;

    buf_init(&text, 65536);
    json_begin(&w, &text);
    json_open_obj(&w, NULL);
    json_put_u64(&w, "Format", 1);
    json_put_u64(&w, "CreatedAt", now_s);
    json_open_obj(&w, "Site");
    json_put_str(&w, "Name", o->site);
    json_put_uuid(&w, "Identifier", &s->site);
    json_put_uuid(&w, "Deployment", &s->deployment);
    json_put_uuid(&w, "Manager", &s->manager);
    json_open_array(&w, "Api");
    for (size_t i = 0; i < a->n; i++)
        json_put_str(&w, NULL, a->whole[i]);
    json_close_array(&w);
    json_close_obj(&w);
    json_open_obj(&w, "User");
    json_put_str(&w, "Name", o->user);
    put_scrypt(&w, &s->hash);
    json_close_obj(&w);
    json_close_obj(&w);
    (void)buf_add(&text, "\n", 1);
    rc = write_buf(dir, MANAGER_BOOTSTRAP_FILE, 0600, &text, err);
    buf_release(&text);
    return rc;
}

static int
write_all_files(const char *draft, const struct init_options *o,
                const struct new_site *s, const struct addresses *a,
                uint64_t now_s, struct err *err)
{
    X509 *const chain[] = { s->leaf, s->ca, s->root };
    char dir[FILE_PATH_SIZE];
    int rc = path_join(dir, draft, "manager", err);

    if (rc == 0)
        rc = dir_make(dir, err);
    if (rc == 0)
        rc = write_key(dir, MANAGER_ROOT_KEY_FILE, s->root_key, err);
    if (rc == 0)
        rc = write_key(dir, MANAGER_CA_KEY_FILE, s->ca_key, err);
    if (rc == 0)
        rc = write_key(dir, ROLE_KEY_FILE, s->key, err);
    if (rc == 0)
        rc = write_certs(dir, ROLE_ROOT_FILE, &chain[2], 1, err);
    if (rc == 0)
        rc = write_certs(dir, MANAGER_CA_FILE, &chain[1], 1, err);
    if (rc == 0)
        rc = write_certs(dir, ROLE_CHAIN_FILE, chain, ARRAY_SIZE(chain), err);
    if (rc == 0)
        rc = write_bootstrap(dir, o, s, a, now_s, err);
    return rc;
}

/* ---- The command --------------------------------------------------------- */

static void
print_result(const struct init_options *o, const struct new_site *s,
             const struct addresses *a)
{
    uint8_t fp[PKI_FINGERPRINT_SIZE];
    char hex[PKI_FINGERPRINT_TEXT], site[UUID_TEXT_SIZE];

    pki_fingerprint(s->root, fp);
    hex_encode(fp, sizeof fp, hex);
    uuid_format(&s->site, site);
    printf("site: %s\nsite identifier: %s\napi: %s\nroot fingerprint: %s\n"
           "user: %s\npassword: %s\n",
           o->site, site, a->whole[0], hex, o->user,
           (const char *)s->password.b);
    fprintf(stderr,
            "The password is kept nowhere in this form: write it down now.\n");
}

static int
check_options(const struct init_options *o, struct err *err)
{
    if (!text_name_ok(o->site, PKI_NAME_MAX))
        return err_set(err, -EINVAL, ERR_CFG_0003,
                       "--site: \"%s\" is no name of 1 to %d letters, digits, "
                       "'.', '_', '-'",
                       o->site, PKI_NAME_MAX);
    if (!text_name_ok(o->user, PKI_NAME_MAX))
        return err_set(err, -EINVAL, ERR_CFG_0003,
                       "--user: \"%s\" is no name of 1 to %d letters, digits, "
                       "'.', '_', '-'",
                       o->user, PKI_NAME_MAX);
    return 0;
}

static int
make_site(const struct init_options *o, struct new_site *s,
          const struct addresses *a, struct err *err)
{
    uint64_t now_s = (uint64_t)time(NULL);
    char draft[FILE_PATH_SIZE];
    int rc = statedir_begin(o->state, draft, err);

    if (rc < 0)
        return rc;
    rc = make_keys(s, err);
    if (rc == 0)
        rc = make_certificates(s, o->site, a, now_s, err);
    if (rc == 0)
        rc = scrypt_new_password(&s->password, err);
    if (rc == 0)
        rc = scrypt_make(&s->password, &s->hash, err);
    if (rc == 0)
        rc = write_all_files(draft, o, s, a, now_s, err);
    if (rc == 0)
        rc = statedir_commit(draft, o->state, err);
    if (rc < 0)
        statedir_discard(draft);
    return rc;
}

int
command_init(const struct init_options *o, struct err *err)
{
    struct new_site s = { .leaf = NULL };
    struct addresses *a = calloc(1, sizeof *a);
    int rc;

    if (!a)
        return err_set(err, -ENOMEM, ERR_GEN_0002, "init: out of memory");
    rc = check_options(o, err);
    if (rc == 0)
        rc = parse_addresses(o->api, a, err);
    if (rc == 0)
        rc = make_site(o, &s, a, err);
    if (rc == 0)
        print_result(o, &s, a);
    new_site_release(&s);
    free(a);
    return rc;
}
