/* HTTP/1.1 requests as bytes: heads, targets, queries, chunked bodies.  Pure,
 * so that it can be fuzzed without a socket; RFC 9112 and 9110, read strictly
 * wherever two readers could disagree (request smuggling): lines end in CR LF
 * only, no folded headers, no blank before a colon, exactly one Host, at most
 * one Content-Length and only digits in it, Content-Length and
 * Transfer-Encoding never together, chunked the only coding. */
#ifndef HOLDFAST_HTTP_HTTP_PARSE_H
#define HOLDFAST_HTTP_HTTP_PARSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/err.h"

enum {
    HTTP_HEAD_MAX = 16 * 1024, /* request line and headers */
    HTTP_HEADERS_MAX = 64,
    HTTP_SEGMENTS_MAX = 12,
    HTTP_PARAMS_MAX = 32,
};

struct http_field {
    const char *name, *value;
};

struct http_head {
    const char *method, *target; /* into the caller's text */
    bool http10;
    struct http_field headers[HTTP_HEADERS_MAX];
    size_t n_headers;
    const char *host; /* NULL with HTTP/1.0 only */
    bool keep_alive, expect_continue, chunked;
    uint64_t length; /* of the body, when not chunked */
};

/* Where is the end of the head in the first n bytes?  Returns its length with
 * the empty line, 0 when it is not there yet, -EBADMSG when it cannot become a
 * good one, -EMSGSIZE when it is longer than HTTP_HEAD_MAX.  *scanned (0 at
 * first) remembers what was looked at. */
int http_head_find(const char *text, size_t n, size_t *scanned);

/* Parse a head of n bytes in place; text[n] must be writable (it becomes the
 * NUL).  Returns 0 or the HTTP status to refuse with (400, 431, 501, 505), and
 * the sentence in err. */
int http_head_parse(char *text, size_t n, struct http_head *out_head,
                    struct err *err);
/* Value of a header in any case, NULL when absent. */
const char *http_head_get(const struct http_head *h, const char *name);

/* Body of a chunked request. */
struct http_chunked {
    enum {
        CHUNK_SIZE,
        CHUNK_DATA,
        CHUNK_DATA_END,
        CHUNK_LAST,
        CHUNK_DONE
    } state;
    uint64_t left;
    unsigned digits;
};
/* Take up to n bytes; their payload goes into body.  Returns the bytes taken;
 * state is CHUNK_DONE at the end.  -EBADMSG, or -EMSGSIZE when the body passes
 * its maximum. */
int http_chunked_feed(struct http_chunked *c, const char *p, size_t n,
                      struct buf *body);

/* A target taken apart: path segments and parameters, percent-decoded, valid
 * UTF-8 without NUL and control characters.  Doubled and trailing slashes
 * vanish; "." and ".." are refused. */
struct http_target {
    char *text; /* owned; everything below points into it */
    const char *segments[HTTP_SEGMENTS_MAX];
    size_t n_segments;
    struct http_field params[HTTP_PARAMS_MAX];
    size_t n_params;
};
/* 0; -EINVAL with the sentence; -ENOMEM. */
int http_target_parse(const char *target, struct http_target *out_target,
                      struct err *err);
void http_target_release(struct http_target *t);
const char *http_target_param(const struct http_target *t, const char *name);

#endif
