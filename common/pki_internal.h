/* What pki.c (identities, keys, reading), pki_make.c and pki_trust.c share. */
#ifndef HOLDFAST_COMMON_PKI_INTERNAL_H
#define HOLDFAST_COMMON_PKI_INTERNAL_H

#include "common/pki.h"

/* Arc 2.25 takes a UUID as one number without registration (X.667).  This one is
 * 00000000-0000-0000-1404-90641c627275: GnuTLS, and with it QEMU and libnbd,
 * refuse certificates whose numbers do not fit 64 bits. */
#define PKI_ROLE_OID "2.25.1442436540312744565"

enum {
    PKI_TRUST_MAX = 64, /* certificates of a file, roots, lists */
    PKI_ROLE_DER_MAX = 32,
};

/* The library's newest reason as a sentence, after "what". */
int pki_fail_ssl(struct err *err, int num, enum err_code code, const char *what);
/* DER of the role extension's value: a UTF8String. */
size_t pki_role_der(enum tls_role role, uint8_t out[PKI_ROLE_DER_MAX]);
/* "CN" for sentences. */
char *pki_cert_name(const X509 *cert, char out[80]);
/* 0 when it cannot be read. */
uint64_t pki_unix_time(const ASN1_TIME *t);

#endif
