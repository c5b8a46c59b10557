/* The command line by two tables: options (options.c) and commands
 * (commands.c).  They also print help and completion, and the man page is
 * tested against them. */
#ifndef HOLDFAST_TUI_CLI_OPTIONS_H
#define HOLDFAST_TUI_CLI_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/err.h"

/* Which commands take an option. */
enum option_group {
    G_ALL = 1,      /* every command */
    G_LIST = 2,     /* what shows rows */
    G_ACT = 4,      /* what starts a task */
    G_CONFIRM = 8,  /* what asks before it acts */
    G_POINT = 16,   /* what needs a point */
    G_AT = 32,      /* or a moment instead */
    G_RANGE = 64,   /* lists by time */
    G_CREATE = 128, /* making a VPG */
    G_STOP = 256,
    G_PAIR = 512,
    G_TOKEN = 1024,
    G_DELETE = 2048,
    G_VMS = 4096,   /* a choice of VMs */
    G_EMPTY = 8192, /* no command: an empty value is one too */
    G_PASSWORD = 16384,
};

enum output {
    OUT_TEXT,
    OUT_CSV,
    OUT_JSON
};

enum {
    VALUES_MAX = 64
};

struct values {
    const char *v[VALUES_MAX];
    size_t n;
};

struct options {
    bool help, version, wide, wait, no_wait, failed, keep_replicas, force, all;
    bool ignore_space, damaged;
    struct values config, vm;
    const char *ctx, *output, *filter, *sort, *columns, *reason, *confirm;
    const char *point, *at, *from, *to, *limit, *timeout;
    const char *notes, *host, *token_file, *role, *valid;
    const char *old_file, *new_file;
    const char *to_site, *from_site, *store, *history, *rpo, *interval;
    const char *priority, *journal_limit, *scratch_limit, *dial;
    enum output out;               /* from output */
    uint64_t timeout_ms;           /* from timeout */
    long limit_n;                  /* from limit; -1: not given */
    const char *words[VALUES_MAX]; /* the command and its arguments */
    size_t n_words;
};

struct option_def {
    const char *name, *value; /* value NULL: none */
    size_t offset;
    bool many;
    unsigned groups;
    const char *help;
};

extern const struct option_def option_defs[];
extern const size_t n_option_defs;

/* Options and words may come in any order; "--" ends the options.  A value
 * follows as the next argument or after "=".  -EINVAL with CLI-0014. */
int
options_parse(int argc, char *const *argv, struct options *out, struct err *err);
/* Was an option given that none of these groups has, or an empty value to one
 * that needs one?  -EINVAL, CLI-0014. */
int options_check(const struct options *o, const char *command, unsigned groups,
                  struct err *err);
void options_help(unsigned groups, struct buf *out);

#endif
