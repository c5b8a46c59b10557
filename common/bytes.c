/* The few byte helpers that are worth a call. */
#include "common/bytes.h"

#include <errno.h>
#include <string.h>

bool
bytes_all_zero(const void *p, size_t n)
{
    static const uint8_t zeros[16];
    const uint8_t *b = p;

    if (n <= sizeof zeros)
        return memcmp(b, zeros, n) == 0;
    /* The block equals itself shifted by 16 and begins with 16 zeros: libc's
     * vector compare does the rest, and leaves at the first difference. */
    return memcmp(b, zeros, sizeof zeros) == 0 &&
           memcmp(b, b + sizeof zeros, n - sizeof zeros) == 0;
}

void
hex_encode(const uint8_t *p, size_t n, char *out)
{
    static const char digits[] = "0123456789abcdef";

    for (size_t i = 0; i < n; i++) {
        out[2 * i] = digits[p[i] >> 4];
        out[2 * i + 1] = digits[p[i] & 15];
    }
    out[2 * n] = '\0';
}

static int
hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

int
hex_decode(const char *text, uint8_t *out, size_t n)
{
    if (strnlen(text, 2 * n + 1) != 2 * n)
        return -EINVAL;
    for (size_t i = 0; i < 2 * n; i++) {
        if (hex_digit(text[i]) < 0)
            return -EINVAL;
    }
    for (size_t i = 0; i < n; i++)
        out[i] = (uint8_t)((unsigned)hex_digit(text[2 * i]) << 4 |
                           (unsigned)hex_digit(text[2 * i + 1]));
    return 0;
}
