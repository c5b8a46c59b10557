/* room: common */
/* Make the identity of a manager, for servers that stand in for one:
 *
 *   mkpki DIR HOST...     root.pem, chain.pem, key.pem (0600) below DIR
 *
 * And, with the keys in a lab's state directory, certificates of other times
 * than the product makes:
 *
 *   mkpki --leaf MANAGER_DIR ROLE_DIR AGE_S LIFE_S OUT_DIR
 *                         chain.pem and key.pem of the identity in ROLE_DIR
 *   mkpki --ca MANAGER_DIR AGE_S
 *                         ca.pem anew, as if it had been made AGE_S ago
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/bytes.h"
#include "common/files.h"
#include "common/identity.h"
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

/* --- with a lab's keys --------------------------------------------------- */

static X509 *
read_cert(const char *dir, const char *name)
{
    struct stack_st_X509 *certs = NULL;
    char path[FILE_PATH_SIZE];
    struct err err = ERR_INIT;
    X509 *first;

    if (path_join(path, dir, name, &err) < 0 ||
        pki_certs_load(path, &certs, &err) < 0) {
        (void)fprintf(stderr, "mkpki: %s\n", err.msg);
        exit(1);
    }
    first = X509_dup(sk_X509_value(certs, 0));
    pki_certs_free(certs);
    return first;
}

static EVP_PKEY *
read_key(const char *dir, const char *name)
{
    char path[FILE_PATH_SIZE];
    struct err err = ERR_INIT;
    EVP_PKEY *key;

    if (path_join(path, dir, name, &err) < 0 ||
        pki_key_load(path, &key, &err) < 0) {
        (void)fprintf(stderr, "mkpki: %s\n", err.msg);
        exit(1);
    }
    return key;
}

static int
make_leaf(char **argv)
{
    static const char *const hosts[] = { "127.0.0.1" };
    uint64_t now = (uint64_t)time(NULL);
    uint64_t from = now - strtoull(argv[2], NULL, 10);
    struct made m = { .root = read_cert(argv[0], "root.pem"),
                      .ca = read_cert(argv[0], "ca.pem"),
                      .ca_key = read_key(argv[0], "ca.key.pem") };
    X509 *old = read_cert(argv[1], "chain.pem");
    struct pki_leaf leaf = { .not_before_s = from,
                             .not_after_s = from + strtoull(argv[3], NULL, 10),
                             .hosts = hosts,
                             .n_hosts = 1 };
    struct identity id;
    struct err err = ERR_INIT;
    struct buf chain, key;
    int status = 0;

    buf_init(&chain, 65536);
    buf_init(&key, 65536);
    if (identity_of(old, &id, &err) < 0)
        status = 1;
    leaf.who = id.who;
    leaf.name = id.name;
    if (status || pki_key_new(PKI_P256, &m.key, &err) < 0 ||
        pki_sign_leaf(m.ca, m.ca_key, m.key, &leaf, now, &m.leaf, &err) < 0 ||
        pki_cert_pem(m.leaf, &chain, &err) < 0 ||
        pki_cert_pem(m.ca, &chain, &err) < 0 ||
        pki_cert_pem(m.root, &chain, &err) < 0 ||
        pki_key_pem(m.key, &key, &err) < 0 ||
        save(argv[4], "chain.pem", 0644, &chain, &err) < 0 ||
        save(argv[4], "key.pem", 0600, &key, &err) < 0) {
        (void)fprintf(stderr, "mkpki: %s\n", err.msg);
        status = 1;
    }
    release(&m);
    X509_free(old);
    buf_release(&chain);
    buf_release(&key);
    return status;
}

static int
make_ca(char **argv)
{
    uint64_t then = (uint64_t)time(NULL) - strtoull(argv[1], NULL, 10);
    struct made m = { .root = read_cert(argv[0], "root.pem"),
                      .root_key = read_key(argv[0], "root.key.pem"),
                      .ca_key = read_key(argv[0], "ca.key.pem") };
    X509 *old = read_cert(argv[0], "ca.pem");
    struct identity id;
    struct err err = ERR_INIT;
    struct buf pem;
    int status = 0;

    buf_init(&pem, 65536);
    if (identity_of(old, &id, &err) < 0 ||
        pki_make_site_ca(m.root, m.root_key, &id.who.site, id.name, m.ca_key,
                         then, &m.ca, &err) < 0 ||
        pki_cert_pem(m.ca, &pem, &err) < 0 ||
        save(argv[0], "ca.pem", 0644, &pem, &err) < 0) {
        (void)fprintf(stderr, "mkpki: %s\n", err.msg);
        status = 1;
    }
    release(&m);
    X509_free(old);
    buf_release(&pem);
    return status;
}

int
main(int argc, char **argv)
{
    struct made m = { .root = NULL };
    struct err err = ERR_INIT;
    struct buf root, chain, key;
    int status = 0;

    if (argc == 7 && strcmp(argv[1], "--leaf") == 0)
        return make_leaf(argv + 2);
    if (argc == 4 && strcmp(argv[1], "--ca") == 0)
        return make_ca(argv + 2);
    if (argc < 3 || argv[1][0] == '-')
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
