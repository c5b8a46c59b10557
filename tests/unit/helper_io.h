/* For tests that need a loop: turning it until something is true. */
#ifndef HOLDFAST_TESTS_UNIT_HELPER_IO_H
#define HOLDFAST_TESTS_UNIT_HELPER_IO_H

#include <stdbool.h>

#include "io/loop.h"

/* Bounds on waiting are there to end what hangs: as tests/run does, they give
 * builds with a sanitizer more time. */
#ifdef __has_feature
# if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#  define HELPER_SLOW 4u
# endif
#endif
#if defined __SANITIZE_ADDRESS__ || defined __SANITIZE_THREAD__
# define HELPER_SLOW 4u
#endif
#ifndef HELPER_SLOW
# define HELPER_SLOW 1u
#endif

/* A loop of this backend, or (io_uring refused by this kernel) NULL. */
struct io_loop *helper_loop(enum io_backend backend, unsigned workers);
/* Turn until *flag or until ms (HELPER_SLOW times that) have passed; returns
 * *flag. */
bool helper_turn_until(struct io_loop *loop, const bool *flag, unsigned ms);
/* The same with a number that has to reach n. */
bool helper_turn_count(struct io_loop *loop, const unsigned *count, unsigned n,
                       unsigned ms);
/* A new directory under TMPDIR (or /tmp), and its removal with all in it. */
char *helper_tmpdir(const char *under);
void helper_rmdir(char *dir);

#endif
