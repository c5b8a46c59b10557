/* holdfastd's commands, one function each, and what they share.  Results go to
 * stdout, talk to stderr. */
#ifndef HOLDFAST_AGENT_COMMANDS_H
#define HOLDFAST_AGENT_COMMANDS_H

#include <stdint.h>
#include <sys/types.h>

#include "common/err.h"

/* Exit statuses (holdfastd(8)). */
enum {
    STATUS_DONE = 0,
    STATUS_FAILED = 1,
    STATUS_USAGE = 2,
    STATUS_TEMPORARY = 3,
};

struct init_options {
    const char *state, *site, *api, *user;
};
struct token_options {
    const char *state, *name;
    uint64_t valid_s;
};
struct reset_options {
    const char *config, *user; /* user NULL: the first administrator */
};
struct join_options {
    const char *state, *token_file, *manager;
};

/* Each returns 0 or a negative errno. */
int command_init(const struct init_options *o, struct err *err);
int command_token(const struct token_options *o, struct err *err);
int command_join(const struct join_options *o, struct err *err);
int command_renew(const char *state, struct err *err);
int command_scrub(const char *dir, struct err *err);
int command_reset_password(const struct reset_options *o, struct err *err);

/* These return an exit status and have said what went wrong. */
int command_run(const char *config_path);
int command_role(const char *role, const char *config_path, pid_t supervisor);

/* "holdfastd: sentence (CODE)" and the next step, on stderr. */
void report_error(const struct err *err);
int status_of(const struct err *err);

#endif
