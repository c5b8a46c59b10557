/* Errors that people and programs can both use.
 *
 * A fallible function returns 0 (or a count) or a negative errno value; code
 * branches on that number.  The sentence for people goes into a struct err,
 * which callers may leave out (NULL).  The lowest place that knows the facts
 * writes the sentence, callers only prefix it.  Each error also carries a
 * stable code from the one table in err_codes.def, which gives cause and next
 * step; API, logs and docs/errors.md show it.
 */
#ifndef HOLDFAST_COMMON_ERR_H
#define HOLDFAST_COMMON_ERR_H

#include <errno.h>
#include <stddef.h>

#if defined(__GNUC__)
# define PRINTF_LIKE(f, a) __attribute__((format(printf, f, a)))
# define WARN_UNUSED       __attribute__((warn_unused_result))
# define NORETURN          __attribute__((noreturn))
#else
# define PRINTF_LIKE(f, a)
# define WARN_UNUSED
# define NORETURN
#endif

/* One line of err_codes.def:
 *     ERR_CODE(NBD_0003, "NBD-0003", "cause", "next step")
 * Numbers are never reused; retired ones stay in the table. */
enum err_code {
#define ERR_CODE(sym, text, cause, next) ERR_##sym,
#include "common/err_codes.def"
#undef ERR_CODE
    ERR_CODE_MAX
};

enum {
    ERR_MSG_MAX = 768
};

struct err {
    int num; /* negative errno, 0 = no error */
    enum err_code code;
    char msg[ERR_MSG_MAX]; /* one sentence, lower case, no full stop */
};

#define ERR_INIT \
 {               \
  .num = 0       \
 }

/* A number that must be negative, as clang's analyzer is told: nothing that runs
 * relies on it. */
static inline int
err_negative(int num)
{
#ifdef __clang_analyzer__
    if (num >= 0)
        __builtin_unreachable();
#endif
    return num;
}

/* Fill *e (may be NULL) and return num, which must be negative.  Control
 * characters in the result are replaced.  Text that does not fit is cut.
 *
 *   int err_set(struct err *e, int num, enum err_code code, const char *fmt, ...)
 *
 * A macro, so that who reads the caller, compilers and analyzers too, sees which
 * number comes back. */
/* clang-format off */
#define err_set(e, num, ...)                  \
    __extension__({                           \
        const int err_num_ = err_negative(num); \
                                              \
        err_fill((e), err_num_, __VA_ARGS__); \
        err_num_;                             \
    })
/* clang-format on */
void err_fill(struct err *e, int num, enum err_code code, const char *fmt, ...)
    PRINTF_LIKE(4, 5);

/* Put "text: " before the sentence of a set error; returns e->num. */
int err_prefix(struct err *e, const char *fmt, ...) PRINTF_LIKE(2, 3);

const char *err_code_text(enum err_code code);  /* "NBD-0003" */
const char *err_code_cause(enum err_code code); /* one sentence */
const char *err_code_next(enum err_code code);  /* what to do now */

/* Thread-safe strerror for a negative or positive errno value. */
const char *err_errno(int num);

#endif
