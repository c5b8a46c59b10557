/* The operator at the terminal: questions with typed answers.  All of it goes
 * to /dev/tty, so that pipes carry results only.  The terminal is restored on
 * every way out; signals wait for that. */
#ifndef HOLDFAST_TUI_CLI_TERM_H
#define HOLDFAST_TUI_CLI_TERM_H

#include <stdbool.h>
#include <stddef.h>

#include "common/err.h"
#include "common/secret.h"

/* Is somebody there to answer a question about what the command does? */
bool term_present(void);
/* Columns of the terminal that standard output is; 0 when it is none. */
size_t term_columns(void);

/* Show the question (clean text) and read one line, visible, without its end.
 * -ECANCELED with CLI-0013 when nobody can be asked, or Ctrl-C or Ctrl-D is
 * pressed. */
int term_ask(const char *question, char *out, size_t cap, struct err *err);
/* The same without echo; -EACCES with CLI-0006. */
int term_password(const char *question, struct secret *out, struct err *err);

#endif
