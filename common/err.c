/* Errors: filling, prefixing and the code table. */
#include "common/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "common/bytes.h"
#include "common/text.h"

static const struct {
    const char *text, *cause, *next;
} codes[] = {
#define ERR_CODE(sym, text, cause, next) { text, cause, next },
#include "common/err_codes.def"
#undef ERR_CODE
};

void
err_fill(struct err *e, int num, enum err_code code, const char *fmt, ...)
{
    va_list ap;

    if (!e)
        return;
    e->num = num;
    e->code = code;
    va_start(ap, fmt);
    if (vsnprintf(e->msg, sizeof e->msg, fmt, ap) < 0)
        e->msg[0] = '\0';
    va_end(ap);
    text_clean(e->msg);
}

int
err_prefix(struct err *e, const char *fmt, ...)
{
    char old[ERR_MSG_MAX];
    va_list ap;
    int n;

    if (!e || !e->num)
        return e ? e->num : 0;
    memcpy(old, e->msg, sizeof old);
    va_start(ap, fmt);
    n = vsnprintf(e->msg, sizeof e->msg, fmt, ap);
    va_end(ap);
    if (n < 0)
        n = 0;
    if ((size_t)n < sizeof e->msg)
        (void)snprintf(e->msg + n, sizeof e->msg - (size_t)n, ": %s", old);
    text_clean(e->msg);
    return e->num;
}

const char *
err_code_text(enum err_code code)
{
    return (size_t)code < ARRAY_SIZE(codes) ? codes[code].text : "GEN-0001";
}

const char *
err_code_cause(enum err_code code)
{
    return (size_t)code < ARRAY_SIZE(codes) ? codes[code].cause : "";
}

const char *
err_code_next(enum err_code code)
{
    return (size_t)code < ARRAY_SIZE(codes) ? codes[code].next : "";
}

const char *
err_errno(int num)
{
    /* The description is a constant of libc: no buffer, any thread. */
    const char *text = strerrordesc_np(num < 0 ? -num : num);

    return text ? text : "unknown error";
}
