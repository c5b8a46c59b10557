/* room: agent common */
/* The agent's configuration.  What is accepted must print, be read back, and
 * print the same again. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "agent_config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);
const char *__lsan_default_suppressions(void);
const char *__lsan_default_options(void);

/* libconfig's parser drops a string now and then on a syntax error. */
const char *
__lsan_default_suppressions(void)
{
    return "leak:libconfig";
}

/* The list of what was suppressed would count as a report. */
const char *
__lsan_default_options(void)
{
    return "print_suppressions=0";
}

static void
print(const struct agent_config *cfg, struct buf *out)
{
    buf_init(out, 16 * 1024 * 1024);
    if (agent_config_print(cfg, out) < 0)
        abort();
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct agent_config a, b;
    struct buf first, second;
    char *text;

    /* An include would read files of this machine. */
    if (n > 16384 || memchr(data, '@', n))
        return 0;
    text = calloc(n + 1, 1); /* strndup() would count as a read past the input */
    if (!text)
        return 0;
    memcpy(text, data, n);
    if (agent_config_parse(text, "fuzz", &a, NULL) == 0) {
        print(&a, &first);
        if (agent_config_parse((char *)first.data, "again", &b, NULL) < 0)
            abort();
        print(&b, &second);
        if (first.len != second.len ||
            memcmp(first.data, second.data, first.len) != 0)
            abort();
        agent_config_release(&a);
        agent_config_release(&b);
        buf_release(&first);
        buf_release(&second);
    }
    free(text);
    return 0;
}
