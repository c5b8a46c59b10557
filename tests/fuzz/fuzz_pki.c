/* room: common */
/* What strangers send before they are trusted: certificate requests, join
 * tokens, identities, PEM, revocation lists.  The first byte chooses. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/jointoken.h"
#include "common/pki.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void
take_text(uint8_t kind, const char *text)
{
    char out[JOINTOKEN_TEXT_SIZE], uri[TLS_URI_SIZE];
    struct jointoken t;
    struct tls_identity who;

    if (kind == 0 && jointoken_decode(text, &t, NULL) == 0) {
        struct jointoken u;

        (void)jointoken_encode(&t, out);
        if (jointoken_decode(out, &u, NULL) < 0 ||
            memcmp(t.secret, u.secret, sizeof t.secret) != 0)
            abort();
    }
    if (kind == 1 && tls_identity_parse(text, &who) == 0) {
        tls_identity_format(&who, uri);
        if (strcasecmp(uri, text) != 0)
            abort();
    }
}

static void
take_bytes(uint8_t kind, const uint8_t *data, size_t n)
{
    struct stack_st_X509 *certs = NULL;
    char name[PKI_NAME_MAX + 1];
    struct pki_trust *trust = NULL;
    EVP_PKEY *key = NULL;

    if (kind == 2 && pki_csr_parse(data, n, &key, name, NULL) == 0)
        EVP_PKEY_free(key);
    if (kind == 3 && pki_certs_parse((const char *)data, n, &certs, NULL) == 0) {
        struct tls_identity who;

        (void)pki_cert_identity(sk_X509_value(certs, 0), &who, NULL);
        pki_certs_free(certs);
    }
    if (kind == 4 && pki_trust_new(&trust, NULL) == 0) {
        (void)pki_trust_add_crl(trust, data, n, NULL);
        pki_trust_free(trust);
    }
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    char *text;

    if (n < 1 || n > 65536)
        return 0;
    if (data[0] % 5 >= 2) {
        take_bytes(data[0] % 5, data + 1, n - 1);
        return 0;
    }
    text = calloc(n, 1); /* strndup() would count as a read past the input */
    if (!text)
        return 0;
    memcpy(text, data + 1, n - 1);
    take_text(data[0] % 5, text);
    free(text);
    return 0;
}
