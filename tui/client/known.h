/* Roots that were accepted at first use: ~/.config/holdfast/known_sites, 0600,
 * a line a manager: its url, a blank, the root's SHA-256 in hexadecimal. */
#ifndef HOLDFAST_TUI_CLIENT_KNOWN_H
#define HOLDFAST_TUI_CLIENT_KNOWN_H

#include <stdint.h>

#include "common/err.h"
#include "common/pki.h"

/* 1 found, 0 not, negative with CLI-0004. */
int known_find(const char *path, const char *url,
               uint8_t out_fingerprint[PKI_FINGERPRINT_SIZE], struct err *err);
/* Add the line, durably. */
int known_add(const char *path, const char *url,
              const uint8_t fingerprint[PKI_FINGERPRINT_SIZE], struct err *err);

/* Which root does the manager at url show?  Connects, believes nothing, sends
 * nothing.  GEN-0007, GEN-0008 or TLS codes. */
int known_probe(const char *url, uint8_t out_fingerprint[PKI_FINGERPRINT_SIZE],
                struct err *err);

#endif
