/* See identity.h.  A new pair is decided by one rename, that of chain.pem.new
 * into being; everything before it is undone, everything after it is done. */
#include "common/identity.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <openssl/x509.h>

#include "common/files.h"
#include "common/secret.h"

enum {
    KEY_PEM_MAX = 16384,
};
#define ASK_FILE "renew"

int
identity_of(const X509 *leaf, struct identity *out, struct err *err)
{
    struct identity id = { .not_before_s = pki_not_before(leaf),
                           .not_after_s = pki_not_after(leaf) };
    int rc = pki_cert_identity(leaf, &id.who, err);

    if (rc < 0)
        return rc;
    if (!id.not_after_s || id.not_after_s <= id.not_before_s)
        return err_set(err, -EINVAL, ERR_TLS_0008,
                       "the certificate's times cannot be read");
    pki_serial(leaf, id.serial);
    pki_key_text(X509_get0_pubkey(leaf), id.key);
    if (X509_NAME_get_text_by_NID(X509_get_subject_name(leaf), NID_commonName,
                                  id.name, sizeof id.name) < 0)
        id.name[0] = '\0';
    *out = id;
    return 0;
}

int
identity_read(const char *chain_path, struct identity *out, struct err *err)
{
    struct stack_st_X509 *chain = NULL;
    int rc = pki_certs_load(chain_path, &chain, err);

    if (rc == 0) {
        rc = identity_of(sk_X509_value(chain, 0), out, err);
        if (rc < 0)
            err_prefix(err, "%s", chain_path);
    }
    pki_certs_free(chain);
    return rc;
}

/* --- the exchange ----------------------------------------------------------- */

struct pair {
    const char *key, *chain;
    char new_key[FILE_PATH_SIZE], new_chain[FILE_PATH_SIZE];
    char dir[FILE_PATH_SIZE];
};

static int
pair_init(struct pair *p, const char *key, const char *chain, struct err *err)
{
    const char *slash = strrchr(chain, '/');

    *p = (struct pair){ .key = key, .chain = chain };
    if (strlen(key) + 5 > sizeof p->new_key ||
        strlen(chain) + 5 > sizeof p->new_chain)
        return err_set(err, -ENAMETOOLONG, ERR_GEN_0003,
                       "%.200s...: the path is too long", chain);
    (void)snprintf(p->new_key, sizeof p->new_key, "%s.new", key);
    (void)snprintf(p->new_chain, sizeof p->new_chain, "%s.new", chain);
    if (slash)
        (void)snprintf(p->dir, sizeof p->dir, "%.*s", (int)(slash - chain),
                       chain);
    else
        (void)snprintf(p->dir, sizeof p->dir, ".");
    return 0;
}

static int
put_in_place(const char *from, const char *to, const char *dir, struct err *err)
{
    if (rename(from, to) < 0)
        return err_set(err, -errno, ERR_GEN_0003, "%s: put in place: %s", to,
                       err_errno(errno));
    return dir_sync(dir, err);
}

static int
take_away(const char *path, struct err *err)
{
    if (unlink(path) < 0 && errno != ENOENT)
        return err_set(err, -errno, ERR_GEN_0003, "%s: remove: %s", path,
                       err_errno(errno));
    return 0;
}

static int
check_fit(const struct buf *chain_pem, EVP_PKEY *key, struct err *err)
{
    struct stack_st_X509 *chain = NULL;
    int rc = pki_certs_parse((const char *)chain_pem->data, chain_pem->len,
                             &chain, err);

    if (rc == 0 && X509_check_private_key(sk_X509_value(chain, 0), key) != 1)
        rc = err_set(err, -EINVAL, ERR_TLS_0008,
                     "the new certificate is not for the new key");
    pki_certs_free(chain);
    return rc;
}

int
identity_replace(const char *key_path, const char *chain_path, EVP_PKEY *key,
                 const struct buf *chain_pem, struct err *err)
{
    struct pair p;
    struct buf pem;
    int rc = pair_init(&p, key_path, chain_path, err);

    buf_init(&pem, KEY_PEM_MAX);
    if (rc == 0)
        rc = check_fit(chain_pem, key, err);
    if (rc == 0)
        rc = pki_key_pem(key, &pem, err);
    if (rc == 0)
        rc = file_replace(p.new_key, 0600, pem.data, pem.len, err);
    /* The new key is on disk before the new chain is: a chain.pem.new always
     * has its key, under one of two names. */
    if (rc == 0)
        rc = file_replace(p.new_chain, 0644, chain_pem->data, chain_pem->len,
                          err);
    if (rc == 0)
        rc = put_in_place(p.new_key, p.key, p.dir, err);
    if (rc == 0)
        rc = put_in_place(p.new_chain, p.chain, p.dir, err);
    secret_buf_release(&pem);
    return rc;
}

static bool
fits(const char *chain_path, const char *key_path)
{
    struct stack_st_X509 *chain = NULL;
    EVP_PKEY *key = NULL;
    bool yes = pki_certs_load(chain_path, &chain, NULL) == 0 &&
               pki_key_load(key_path, &key, NULL) == 0 &&
               X509_check_private_key(sk_X509_value(chain, 0), key) == 1;

    pki_certs_free(chain);
    EVP_PKEY_free(key);
    return yes;
}

int
identity_recover(const char *key_path, const char *chain_path, struct err *err)
{
    bool new_key, new_chain;
    struct pair p;
    int rc = pair_init(&p, key_path, chain_path, err);

    if (rc < 0)
        return rc;
    new_key = access(p.new_key, F_OK) == 0;
    new_chain = access(p.new_chain, F_OK) == 0;
    if (!new_key && !new_chain)
        return 0;
    if (new_chain && new_key && fits(p.new_chain, p.new_key))
        rc = put_in_place(p.new_key, p.key, p.dir, err);
    if (rc == 0 && new_chain && fits(p.new_chain, p.key))
        rc = put_in_place(p.new_chain, p.chain, p.dir, err);
    /* What is left belongs to no pair. */
    if (rc == 0)
        rc = take_away(p.new_chain, err);
    if (rc == 0)
        rc = take_away(p.new_key, err);
    return rc < 0 ? rc : dir_sync(p.dir, err);
}

/* --- when ------------------------------------------------------------------- */

uint64_t
identity_renew_at(const struct identity *id, uint32_t jitter)
{
    uint64_t life = id->not_after_s - id->not_before_s;

    return id->not_before_s + life / 3 + jitter % (life / 30 + 1);
}

unsigned
identity_life_left(uint64_t not_before_s, uint64_t not_after_s, uint64_t now_s)
{
    if (now_s >= not_after_s || not_after_s <= not_before_s)
        return 0;
    if (now_s <= not_before_s)
        return 1000;
    return (unsigned)((not_after_s - now_s) * 1000 /
                      (not_after_s - not_before_s));
}

/* --- on demand ---------------------------------------------------------------- */

static int
ask_path(const char *chain_path, char out[FILE_PATH_SIZE], struct err *err)
{
    struct pair p;
    int rc = pair_init(&p, chain_path, chain_path, err);

    return rc < 0 ? rc : path_join(out, p.dir, ASK_FILE, err);
}

int
identity_ask(const char *chain_path, struct err *err)
{
    char path[FILE_PATH_SIZE];
    int rc = ask_path(chain_path, path, err);

    return rc < 0 ? rc : file_replace(path, 0600, "", 0, err);
}

bool
identity_asked(const char *chain_path)
{
    char path[FILE_PATH_SIZE];

    return ask_path(chain_path, path, NULL) == 0 && unlink(path) == 0;
}
