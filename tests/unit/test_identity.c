/* room: common
 * A role's key and certificate: exchanged as a pair, whenever it is killed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <openssl/x509v3.h>

#include "common/bytes.h"
#include "common/files.h"
#include "common/identity.h"

static char dir[] = "/tmp/holdfast-identity-XXXXXX";
static const uint64_t now = 1800000000;

static struct tls_identity who;
static EVP_PKEY *root_key, *ca_key;
static X509 *root, *ca;

/* The C library's rename, killed before or after the one with this number. */
static int die_at, renames;
static bool die_after;

int
rename(const char *from, const char *to)
{
    int rc;

    renames++;
    if (die_at == renames && !die_after)
        (void)kill(getpid(), SIGKILL);
    rc = (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
    if (die_at == renames)
        (void)kill(getpid(), SIGKILL);
    return rc;
}

static X509 *
sign(EVP_PKEY *key, const char *const *hosts, size_t n)
{
    struct pki_leaf leaf = {
        .who = who, .name = "london-1", .hosts = hosts, .n_hosts = n
    };
    X509 *cert;

    assert_int_equal(pki_sign_leaf(ca, ca_key, key, &leaf, now, &cert, NULL), 0);
    return cert;
}

static void
chain_text(X509 *leaf, struct buf *out)
{
    buf_init(out, 65536);
    assert_int_equal(pki_cert_pem(leaf, out, NULL), 0);
    assert_int_equal(pki_cert_pem(ca, out, NULL), 0);
    assert_int_equal(pki_cert_pem(root, out, NULL), 0);
}

/* Write a fresh pair into the directory; its serial. */
static void
write_pair(char serial[PKI_SERIAL_SIZE])
{
    EVP_PKEY *key;
    struct buf chain;
    X509 *leaf;

    assert_int_equal(pki_key_new(PKI_P256, &key, NULL), 0);
    leaf = sign(key, NULL, 0);
    pki_serial(leaf, serial);
    chain_text(leaf, &chain);
    assert_int_equal(identity_replace("key.pem", "chain.pem", key, &chain, NULL),
                     0);
    buf_release(&chain);
    X509_free(leaf);
    EVP_PKEY_free(key);
}

static int
setup(void **state)
{
    struct uuid deployment;

    (void)state;
    if (!mkdtemp(dir) || chdir(dir) != 0 || pki_uuid(&deployment, NULL) < 0 ||
        pki_uuid(&who.site, NULL) < 0 || pki_uuid(&who.id, NULL) < 0 ||
        pki_key_new(PKI_P384, &root_key, NULL) < 0 ||
        pki_key_new(PKI_P256, &ca_key, NULL) < 0)
        return -1;
    who.deployment = deployment;
    who.role = TLS_ROLE_REPLICATOR;
    if (pki_make_root(&deployment, "d", root_key, now, &root, NULL) < 0)
        return -1;
    return pki_make_site_ca(root, root_key, &who.site, "s", ca_key, now, &ca,
                            NULL);
}

static int
teardown(void **state)
{
    DIR *d = opendir(".");
    const struct dirent *e;

    (void)state;
    /* What was killed leaves its temporary files. */
    while (d && (e = readdir(d)))
        (void)unlink(e->d_name);
    if (d)
        (void)closedir(d);
    EVP_PKEY_free(root_key);
    EVP_PKEY_free(ca_key);
    X509_free(root);
    X509_free(ca);
    return chdir("/") == 0 ? rmdir(dir) : -1;
}

static bool
pair_fits(void)
{
    struct stack_st_X509 *chain;
    EVP_PKEY *key;
    bool yes;

    assert_int_equal(pki_certs_load("chain.pem", &chain, NULL), 0);
    assert_int_equal(pki_key_load("key.pem", &key, NULL), 0);
    yes = X509_check_private_key(sk_X509_value(chain, 0), key) == 1;
    pki_certs_free(chain);
    EVP_PKEY_free(key);
    return yes;
}

static void
reads(void **state)
{
    char serial[PKI_SERIAL_SIZE];
    struct identity id;
    struct err err = ERR_INIT;
    struct stat st;

    (void)state;
    write_pair(serial);
    assert_int_equal(identity_read("chain.pem", &id, &err), 0);
    assert_string_equal(id.serial, serial);
    assert_string_equal(id.name, "london-1");
    assert_true(uuid_equal(&id.who.id, &who.id));
    assert_int_equal(id.not_after_s, now + PKI_LEAF_S);
    assert_int_equal(id.not_before_s, now - PKI_BACKDATE_S);
    assert_int_equal(stat("key.pem", &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_true(identity_read("none.pem", &id, &err) < 0);
}

static void
refuses_another_key(void **state)
{
    char serial[PKI_SERIAL_SIZE];
    struct err err = ERR_INIT;
    struct buf chain;
    EVP_PKEY *a, *b;
    struct identity id;
    X509 *leaf;

    (void)state;
    write_pair(serial);
    assert_int_equal(pki_key_new(PKI_P256, &a, NULL), 0);
    assert_int_equal(pki_key_new(PKI_P256, &b, NULL), 0);
    leaf = sign(a, NULL, 0);
    chain_text(leaf, &chain);
    assert_int_equal(identity_replace("key.pem", "chain.pem", b, &chain, &err),
                     -EINVAL);
    assert_int_equal(err.code, ERR_TLS_0008);
    assert_int_equal(identity_read("chain.pem", &id, NULL), 0);
    assert_string_equal(id.serial, serial);
    assert_true(pair_fits());
    buf_release(&chain);
    X509_free(leaf);
    EVP_PKEY_free(a);
    EVP_PKEY_free(b);
}

/* Killed before and after each rename: after recovery there is a pair, the old
 * one as long as the new one was not whole. */
static void
survives_kill(void **state)
{
    unsigned old_kept = 0, new_taken = 0, mixed = 0;

    (void)state;
    for (int at = 1; at <= 4; at++) {
        for (int after = 0; after <= 1; after++) {
            char before[PKI_SERIAL_SIZE], ignored[PKI_SERIAL_SIZE];
            struct identity id;
            int status;
            pid_t pid;

            write_pair(before);
            pid = fork();
            if (pid == 0) {
                die_at = at;
                die_after = after;
                renames = 0;
                write_pair(ignored);
                _exit(0);
            }
            assert_int_equal(waitpid(pid, &status, 0), pid);
            assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
            mixed += !pair_fits();
            assert_int_equal(identity_recover("key.pem", "chain.pem", NULL), 0);
            assert_true(pair_fits());
            assert_int_not_equal(access("key.pem.new", F_OK), 0);
            assert_int_not_equal(access("chain.pem.new", F_OK), 0);
            assert_int_equal(identity_read("chain.pem", &id, NULL), 0);
            if (strcmp(id.serial, before) == 0)
                old_kept++;
            else
                new_taken++;
            /* Once more changes nothing. */
            assert_int_equal(identity_recover("key.pem", "chain.pem", NULL), 0);
            assert_true(pair_fits());
        }
    }
    /* Key written, key in place as .new, chain not yet: 3 cases keep the old. */
    assert_int_equal(old_kept, 3);
    assert_int_equal(new_taken, 5);
    assert_int_equal(mixed, 2); /* between the last two renames */
}

/* Left-overs that belong to nothing go, and the pair in use stays. */
static void
drops_strays(void **state)
{
    char serial[PKI_SERIAL_SIZE];
    struct identity id;

    (void)state;
    write_pair(serial);
    assert_int_equal(file_replace("chain.pem.new", 0644, "junk", 4, NULL), 0);
    assert_int_equal(file_replace("key.pem.new", 0600, "junk", 4, NULL), 0);
    assert_int_equal(identity_recover("key.pem", "chain.pem", NULL), 0);
    assert_true(pair_fits());
    assert_int_equal(identity_read("chain.pem", &id, NULL), 0);
    assert_string_equal(id.serial, serial);
    assert_int_not_equal(access("chain.pem.new", F_OK), 0);
    assert_int_not_equal(access("key.pem.new", F_OK), 0);
}

static void
knows_when(void **state)
{
    const uint64_t day = 86400;
    struct identity id = { .not_before_s = now, .not_after_s = now + 30 * day };

    (void)state;
    assert_int_equal(identity_renew_at(&id, 0), now + 10 * day);
    for (uint32_t j = 0; j < 100; j++) {
        uint64_t at = identity_renew_at(&id, j * 42949672);

        assert_in_range(at, now + 10 * day, now + 11 * day);
    }
    assert_int_not_equal(identity_renew_at(&id, 1234), now + 10 * day);
    assert_int_equal(identity_life_left(now, now + 100, now), 1000);
    assert_int_equal(identity_life_left(now, now + 100, now - 5), 1000);
    assert_int_equal(identity_life_left(now, now + 100, now + 90), 100);
    assert_int_equal(identity_life_left(now, now + 100, now + 100), 0);
    assert_int_equal(identity_life_left(now, now + 100, now + 900), 0);
    assert_int_equal(identity_life_left(now, now, now), 0);
}

static void
asks(void **state)
{
    (void)state;
    assert_false(identity_asked("chain.pem"));
    assert_int_equal(identity_ask("chain.pem", NULL), 0);
    assert_true(identity_asked("chain.pem"));
    assert_false(identity_asked("chain.pem")); /* once */
}

/* A manager's leaf keeps the names under which its API is called. */
static void
keeps_hosts(void **state)
{
    static const char *const hosts[] = { "hf.example.org", "192.0.2.7",
                                         "2001:db8::7" };
    struct tls_identity again;
    struct pki_trust *trust;
    EVP_PKEY *key, *next;
    X509 *old, *renewed;

    (void)state;
    assert_int_equal(pki_key_new(PKI_P256, &key, NULL), 0);
    assert_int_equal(pki_key_new(PKI_P256, &next, NULL), 0);
    old = sign(key, hosts, ARRAY_SIZE(hosts));
    assert_int_equal(pki_renew_leaf(ca, ca_key, old, next, now + 1000, &renewed,
                                    NULL),
                     0);
    assert_int_equal(pki_cert_identity(renewed, &again, NULL), 0);
    assert_true(uuid_equal(&again.id, &who.id));
    assert_int_equal(again.role, who.role);
    assert_int_equal(X509_check_host(renewed, hosts[0], 0, 0, NULL), 1);
    assert_int_equal(X509_check_ip_asc(renewed, hosts[1], 0), 1);
    assert_int_equal(X509_check_ip_asc(renewed, hosts[2], 0), 1);
    assert_int_equal(X509_check_private_key(renewed, next), 1);
    assert_int_equal(pki_not_after(renewed), now + 1000 + PKI_LEAF_S);
    assert_int_equal(pki_trust_new(&trust, NULL), 0);
    assert_int_equal(pki_trust_add_root(trust, root, NULL), 0);
    {
        struct stack_st_X509 *rest = sk_X509_new_null();

        sk_X509_push(rest, ca);
        assert_int_equal(pki_verify(trust, renewed, rest, PKI_SERVER,
                                    now + 2000, &again, NULL),
                         0);
        sk_X509_free(rest);
    }
    pki_trust_free(trust);
    X509_free(old);
    X509_free(renewed);
    EVP_PKEY_free(key);
    EVP_PKEY_free(next);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads),         cmocka_unit_test(refuses_another_key),
        cmocka_unit_test(survives_kill), cmocka_unit_test(drops_strays),
        cmocka_unit_test(knows_when),    cmocka_unit_test(asks),
        cmocka_unit_test(keeps_hosts),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
