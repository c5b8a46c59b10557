/* One manager's REST API, as the console and the command line use it: TLS to
 * the root that the site definition names or the operator has accepted, a
 * session that is kept in a 0600 file and made anew when it has ended, answers
 * checked before anybody reads them.  Blocking; one thread a client. */
#ifndef HOLDFAST_TUI_CLIENT_CLIENT_H
#define HOLDFAST_TUI_CLIENT_CLIENT_H

#include <stdbool.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/err.h"
#include "common/json.h"
#include "common/secret.h"
#include "tui/client/sites.h"

/* Questions to the operator.  Each returns 0, or a negative errno with a
 * sentence when there is nobody to ask or the answer was no. */
struct client_ui {
    int (*password)(void *arg, const struct site_def *site, struct secret *out,
                    struct err *err);
    int (*accept_root)(void *arg, const struct site_def *site,
                       const char *fingerprint, struct err *err);
    void *arg;
};

enum {
    CLIENT_CODE_SIZE = 32,
    CLIENT_NEXT_SIZE = 512,
    CLIENT_ANSWER_MAX = 64 * 1024 * 1024
};

/* What a manager said beside its sentence when it refused. */
struct client_refusal {
    int status;
    char code[CLIENT_CODE_SIZE], next[CLIENT_NEXT_SIZE];
};

struct client;

/* Decides which root to believe; connects only when it has to ask for that.
 * site and ui are borrowed until client_close(). */
int client_open(const struct site_def *site, const struct client_ui *ui,
                struct client **out_client, struct err *err);
void client_close(struct client *c);
const struct site_def *client_site(const struct client *c);

/* Sent with each later call that is not a GET; NULL: none.  Borrowed. */
void client_set_reason(struct client *c, const char *reason);

/* A call inside a session.  body: JSON, may be NULL.  *out_answer: the
 * caller's tree, NULL when the answer had no body.
 *
 * 0; GEN-0007, GEN-0008 and TLS codes when there is no contact; CLI-0005 for
 * an answer that is none; CLI-0006 when there is no session to be had;
 * CLI-0007, CLI-0019 and CLI-0020 when the manager refused, with its own code
 * and next step in client_refusal(). */
int client_call(struct client *c, const char *method, const char *path,
                const struct buf *body, cJSON **out_answer, struct err *err);
int client_get(struct client *c, const char *path, cJSON **out_answer,
               struct err *err);
const struct client_refusal *client_refusal(const struct client *c);

/* Make a new session whatever there is, or end it. */
int client_login(struct client *c, struct err *err);
int client_logout(struct client *c, struct err *err);

/* Append text with everything but letters, digits and -._~ as %XX. */
void url_escape(struct buf *out, const char *text);

#endif
