/* room: common */
/* Make the identity of a manager, for servers that stand in for one:
 *
 *   mkpki DIR HOST...     root.pem, chain.pem, key.pem (0600) below DIR
 */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "common/bytes.h"
#include "common/files.h"
#include "common/pki.h"

struct made {
    EVP_PKEY *root_key, *ca_key, *key;
    X509 *root, *ca, *leaf;
    struct uuid deployment;
    struct tls_identity who;
};

static int
make(struct made *m, char **hosts, size_t n_hosts, struct err *err)
{
    uint64_t now = (uint64_t)time(NULL);
    struct pki_leaf leaf = { .name = "manager",
                             .hosts = (const char *const *)hosts,
                             .n_hosts = n_hosts };

    if (pki_uuid(&m->deployment, err) < 0 || pki_uuid(&m->who.site, err) < 0 ||
        pki_uuid(&m->who.id, err) < 0 ||
        pki_key_new(PKI_P384, &m->root_key, err) < 0 ||
        pki_key_new(PKI_P256, &m->ca_key, err) < 0 ||
        pki_key_new(PKI_P256, &m->key, err) < 0)
        return -EIO;
    m->who.deployment = m->deployment;
    m->who.role = TLS_ROLE_MANAGER;
    leaf.who = m->who;
    if (pki_make_root(&m->deployment, "stub", m->root_key, now, &m->root, err) <
            0 ||
        pki_make_site_ca(m->root, m->root_key, &m->who.site, "stub", m->ca_key,
                         now, &m->ca, err) < 0)
        return -EIO;
    return pki_sign_leaf(m->ca, m->ca_key, m->key, &leaf, now, &m->leaf, err);
}

static int
save(const char *dir, const char *name, mode_t mode, const struct buf *b,
     struct err *err)
{
    char path[FILE_PATH_SIZE];

    if (path_join(path, dir, name, err) < 0)
        return -EIO;
    return file_replace(path, mode, b->data, b->len, err);
}

static void
release(struct made *m)
{
    EVP_PKEY_free(m->root_key);
    EVP_PKEY_free(m->ca_key);
    EVP_PKEY_free(m->key);
    X509_free(m->root);
    X509_free(m->ca);
    X509_free(m->leaf);
}

int
main(int argc, char **argv)
{
    struct made m = { .root = NULL };
    struct err err = ERR_INIT;
    struct buf root, chain, key;
    int status = 0;

    if (argc < 3)
        return 2;
    buf_init(&root, 65536);
    buf_init(&chain, 65536);
    buf_init(&key, 65536);
    if (make(&m, argv + 2, (size_t)argc - 2, &err) < 0 ||
        pki_cert_pem(m.root, &root, &err) < 0 ||
        pki_cert_pem(m.leaf, &chain, &err) < 0 ||
        pki_cert_pem(m.ca, &chain, &err) < 0 ||
        pki_cert_pem(m.root, &chain, &err) < 0 ||
        pki_key_pem(m.key, &key, &err) < 0 ||
        save(argv[1], "root.pem", 0644, &root, &err) < 0 ||
        save(argv[1], "chain.pem", 0644, &chain, &err) < 0 ||
        save(argv[1], "key.pem", 0600, &key, &err) < 0) {
        (void)fprintf(stderr, "mkpki: %s\n", err.msg);
        status = 1;
    }
    release(&m);
    buf_release(&root);
    buf_release(&chain);
    buf_release(&key);
    return status;
}
