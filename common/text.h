/* Text that may come from anywhere: UTF-8, cleaning, base64, small parsers.
 * Pure; any thread. */
#ifndef HOLDFAST_COMMON_TEXT_H
#define HOLDFAST_COMMON_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Length 1..4 of the well-formed UTF-8 sequence (RFC 3629: shortest form, no
 * surrogates) at s, which has n bytes; 0 when there is none.  *out_cp (may be
 * NULL) gets the code point. */
size_t text_utf8_next(const char *s, size_t n, uint32_t *out_cp);
bool text_utf8_ok(const char *s, size_t n);

/* May this code point be sent to a terminal or a log?  No: controls (C0, DEL,
 * C1), line and paragraph separators, direction overrides and isolates, zero
 * width and other invisible format characters. */
bool text_printable(uint32_t cp);

/* Make s safe in place: tab, CR and LF become a space, anything else that is
 * no printable UTF-8 becomes '?' byte by byte; an incomplete sequence at the
 * end (from a cut) is dropped. */
void text_clean(char *s);

/* Copy n bytes of foreign text, cleaned and cut to fit, into out (cap >= 1
 * bytes, NUL-terminated).  Returns out, so that it can be used in a call. */
char *text_safe(char *out, size_t cap, const char *s, size_t n);

/* Case-insensitive comparison of ASCII letters, independent of the locale. */
int text_icmp(const char *a, const char *b);

/* Cut white space (space, tab, CR, LF) off both ends, in place; returns the
 * new beginning inside s. */
char *text_trim(char *s);

/* Cut s in place at each sep; fills out[0..max) and returns the count, or
 * -E2BIG when there are more than max pieces.  Empty pieces count. */
int text_split(char *s, char sep, char **out, size_t max);

/* RFC 4648.  TEXT_B64_URL: the alphabet of section 5, without padding. */
enum text_b64 {
    TEXT_B64_STD,
    TEXT_B64_URL
};
#define TEXT_B64_SIZE(n) (((n) + 2) / 3 * 4 + 1) /* with the NUL */

/* out holds TEXT_B64_SIZE(n) bytes.  Returns the length of the text. */
size_t text_b64_encode(enum text_b64 kind, const void *p, size_t n, char *out);

/* Strict: no white space, exact padding (none with TEXT_B64_URL), unused bits
 * zero.  Returns the number of bytes written to out, -EINVAL for text that is
 * no such base64, -EMSGSIZE when cap is too small. */
int text_b64_decode(enum text_b64 kind, const char *text, void *out, size_t cap);

/* Decimal digits only, min..max.  0, -EINVAL or -ERANGE. */
int
text_parse_u64(const char *s, uint64_t min, uint64_t max, uint64_t *out_value);

/* "4096", "64KiB", "256MiB", "4GiB", "1TiB"; also K, M, G, T for the same
 * powers of 1024.  0, -EINVAL or -ERANGE. */
int text_parse_size(const char *s, uint64_t *out_bytes);

/* "250ms", "5s", "15min", "1h", "30d"; a bare number is refused unless it is
 * 0.  0, -EINVAL or -ERANGE. */
int text_parse_duration(const char *s, uint64_t *out_ms);

/* Shortest exact form that text_parse_size() or _duration() reads back; out
 * holds TEXT_UNIT_SIZE bytes.  Returns out. */
enum {
    TEXT_UNIT_SIZE = 32
};
char *text_format_size(uint64_t bytes, char out[TEXT_UNIT_SIZE]);
char *text_format_duration(uint64_t ms, char out[TEXT_UNIT_SIZE]);

/* "host:port", "[v6]:port" or ":port" (then host is "").  Port 0 is allowed:
 * "any free one".  0 or -EINVAL. */
enum {
    TEXT_HOST_SIZE = 256
};
int text_parse_hostport(const char *s, char out_host[TEXT_HOST_SIZE],
                        uint16_t *out_port);

/* A name people give to sites, VMs, volumes, stores: 1..max bytes of letters,
 * digits, '.', '_' and '-', beginning with a letter or digit. */
bool text_name_ok(const char *s, size_t max);

#endif
