/* People's accounts: names and scrypt hashes (N 2^16, r 8, p 2: 64 MiB) with
 * their parameters, in the catalog.  One hash is computed at a time, on a
 * thread of its own, so that a flood of logins costs neither memory nor the
 * API's time; a refusal sounds and takes the same whether or not there is such
 * a user.  After three failures for a name from an address the next try has to
 * wait, twice as long each time, up to 15 minutes.
 *
 * The first administrator comes from the file that `holdfastd init` left,
 * which is removed when the account is durable. */
#ifndef HOLDFAST_MANAGER_ACCOUNTS_H
#define HOLDFAST_MANAGER_ACCOUNTS_H

#include "common/err.h"
#include "common/secret.h"
#include "http/http_loop.h"
#include "manager/catalog.h"

struct accounts;
/* bootstrap_path: imported when it is there. */
int accounts_open(struct http_loop *loop, struct catalog *catalog,
                  const char *bootstrap_path, struct accounts **out_accounts,
                  struct err *err);
void accounts_free(struct accounts *a);

/* Is this the user's password?  done is called on the loop's thread with 0,
 * -EACCES, or -ECANCELED when the manager stops.  Returns -EAGAIN at once when
 * the caller must wait (*out_wait_s), or too many are waiting. */
int accounts_verify(struct accounts *a, const char *user,
                    const struct secret *password, const char *source,
                    void (*done)(void *arg, int rc), void *arg,
                    unsigned *out_wait_s, struct err *err);
bool accounts_known(const struct accounts *a, const char *user);
/* Of the first account there is, as it is spelt; NULL: none. */
const char *accounts_first(const struct accounts *a);

enum {
    PASSWORD_MIN = 12
};
/* Replace the user's password; who waits after failed logins waits no longer.
 * It is durable when done is called on the loop's thread with 0; else rc and
 * err say why it is the old one still (-ECANCELED: the manager stops).  -ENOENT,
 * -EINVAL (too short), -EAGAIN at once. */
int accounts_set_password(struct accounts *a, const char *user,
                          const struct secret *password,
                          void (*done)(void *arg, int rc, const struct err *err),
                          void *arg, struct err *err);

/* How long after so many failures, seconds. */
unsigned account_delay_s(unsigned failures);

#endif
