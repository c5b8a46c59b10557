/* Addresses as text: "unix:/path", "host:port", "[v6]:port", ":port". */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/chan.h"

enum {
    UNIX_PATH_MAX_LEN = 107
}; /* sockaddr_un.sun_path without its NUL */

static int
bad(struct err *err, const char *text, const char *why)
{
    return err_set(err, -EINVAL, ERR_IO_0007, "address %.300s: %s", text, why);
}

static bool
parse_port(const char *s, uint16_t *out)
{
    unsigned v = 0;
    size_t n = strspn(s, "0123456789");

    if (n == 0 || n > 5 || s[n])
        return false;
    for (; *s; s++)
        v = v * 10 + (unsigned)(*s - '0');
    if (v > UINT16_MAX)
        return false;
    *out = (uint16_t)v;
    return true;
}

static int
parse_unix(const char *text, const char *path, struct io_addr *out,
           struct err *err)
{
    struct io_addr a = { .is_unix = true };
    size_t n = strlen(path);

    if (n == 0)
        return bad(err, text, "no path after unix:");
    if (n > UNIX_PATH_MAX_LEN)
        return bad(err, text, "a socket's path may have 107 bytes");
    memcpy(a.host, path, n);
    *out = a;
    return 0;
}

int
io_addr_parse(const char *text, struct io_addr *out, struct err *err)
{
    struct io_addr a = { .is_unix = false };
    const char *host = text, *colon = strrchr(text, ':');
    size_t n;

    if (strncmp(text, "unix:", 5) == 0)
        return parse_unix(text, text + 5, out, err);
    if (!colon)
        return bad(err, text, "a port is missing, host:port");
    n = (size_t)(colon - text);
    if (*text == '[') {
        if (n < 3 || text[n - 1] != ']')
            return bad(err, text, "expected [address]:port");
        host++;
        n -= 2;
    } else if (memchr(text, ':', n)) {
        return bad(err, text, "an IPv6 address is written [address]:port");
    }
    if (n >= sizeof a.host)
        return bad(err, text, "the host has more than 255 bytes");
    if (memchr(host, '[', n) || memchr(host, ']', n) || memchr(host, '/', n) ||
        memchr(host, ' ', n))
        return bad(err, text, "not a host name or address");
    if (!parse_port(colon + 1, &a.port))
        return bad(err, text, "the port is not a number up to 65535");
    memcpy(a.host, host, n);
    *out = a;
    return 0;
}

void
io_addr_format(const struct io_addr *a, char out[IO_ADDR_TEXT_MAX])
{
    if (a->is_unix)
        (void)snprintf(out, IO_ADDR_TEXT_MAX, "unix:%s", a->host);
    else if (strchr(a->host, ':'))
        (void)snprintf(out, IO_ADDR_TEXT_MAX, "[%s]:%u", a->host, a->port);
    else
        (void)snprintf(out, IO_ADDR_TEXT_MAX, "%s:%u", a->host, a->port);
}
