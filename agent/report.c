/* How an error of a command reaches a person and a script. */
#include "commands.h"

#include <stdio.h>

void
report_error(const struct err *err)
{
    fprintf(stderr, "holdfastd: %s (%s)\n  next: %s\n", err->msg,
            err_code_text(err->code), err_code_next(err->code));
}

int
status_of(const struct err *err)
{
    /* Not there yet, or busy: the same command can succeed later. */
    if (err->code == ERR_GEN_0007 || err->code == ERR_GEN_0008 ||
        err->num == -EAGAIN || err->num == -EBUSY)
        return STATUS_TEMPORARY;
    return STATUS_FAILED;
}
