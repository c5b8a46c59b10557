/* For tests that need a loop: turning it until something is true. */
#ifndef HOLDFAST_TESTS_UNIT_HELPER_IO_H
#define HOLDFAST_TESTS_UNIT_HELPER_IO_H

#include <stdbool.h>

#include "io/loop.h"

/* A loop of this backend, or (io_uring refused by this kernel) NULL. */
struct io_loop *helper_loop(enum io_backend backend, unsigned workers);
/* Turn until *flag or until ms have passed; returns *flag. */
bool helper_turn_until(struct io_loop *loop, const bool *flag, unsigned ms);
/* The same with a number that has to reach n. */
bool helper_turn_count(struct io_loop *loop, const unsigned *count, unsigned n,
                       unsigned ms);
/* A new directory under TMPDIR (or /tmp), and its removal with all in it. */
char *helper_tmpdir(const char *under);
void helper_rmdir(char *dir);

#endif
