/* A deployment for tests: root, site CA, leaves, made afresh in milliseconds. */
#ifndef HOLDFAST_TESTS_PKI_FIXTURE_H
#define HOLDFAST_TESTS_PKI_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

#include <cmocka.h>

#include "common/pki.h"
#include "common/tls.h"

struct site {
    struct uuid deployment, id;
    EVP_PKEY *root_key, *ca_key;
    X509 *root, *ca;
};

struct leaf {
    EVP_PKEY *key;
    X509 *cert;
    struct stack_st_X509 *chain; /* leaf, CA, root */
    struct tls_identity who;
};

static inline void
must(int rc, const struct err *e)
{
    if (rc < 0)
        fail_msg("%s", e->msg);
}

static inline void
site_make(struct site *s, const char *name)
{
    struct err e = ERR_INIT;
    uint64_t now = (uint64_t)time(NULL);

    must(pki_uuid(&s->deployment, &e), &e);
    must(pki_uuid(&s->id, &e), &e);
    must(pki_key_new(PKI_P384, &s->root_key, &e), &e);
    must(pki_key_new(PKI_P256, &s->ca_key, &e), &e);
    must(pki_make_root(&s->deployment, name, s->root_key, now, &s->root, &e),
         &e);
    must(pki_make_site_ca(s->root, s->root_key, &s->id, name, s->ca_key, now,
                          &s->ca, &e),
         &e);
}

static inline void
site_release(struct site *s)
{
    EVP_PKEY_free(s->root_key);
    EVP_PKEY_free(s->ca_key);
    X509_free(s->root);
    X509_free(s->ca);
}

static inline void
leaf_finish(struct leaf *l, const struct site *s)
{
    l->chain = sk_X509_new_null();
    X509_up_ref(l->cert);
    X509_up_ref(s->ca);
    X509_up_ref(s->root);
    sk_X509_push(l->chain, l->cert);
    sk_X509_push(l->chain, s->ca);
    sk_X509_push(l->chain, s->root);
}

/* from, to: seconds from now; both 0: the usual ones. */
static inline void
leaf_make(struct leaf *l, const struct site *s, enum tls_role role,
          unsigned usage, long from, long to)
{
    static const char *const hosts[] = { "127.0.0.1", "::1",
                                         "node.example.org" };
    struct err e = ERR_INIT;
    uint64_t now = (uint64_t)time(NULL);
    struct pki_leaf p = {
        .name = "node-1", .hosts = hosts, .n_hosts = 3, .usage = usage
    };

    p.who.deployment = s->deployment;
    p.who.site = s->id;
    p.who.role = role;
    must(pki_uuid(&p.who.id, &e), &e);
    if (from || to) {
        p.not_before_s = (uint64_t)((long)now + from);
        p.not_after_s = (uint64_t)((long)now + to);
    }
    l->who = p.who;
    must(pki_key_new(PKI_P256, &l->key, &e), &e);
    must(pki_sign_leaf(s->ca, s->ca_key, l->key, &p, now, &l->cert, &e), &e);
    leaf_finish(l, s);
}

static inline void
leaf_release(struct leaf *l)
{
    EVP_PKEY_free(l->key);
    X509_free(l->cert);
    pki_certs_free(l->chain);
}

#endif
