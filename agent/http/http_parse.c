/* See http_parse.h. */
#include "http/http_parse.h"

#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/text.h"

/* RFC 9110, 5.6.2: tchar. */
static bool
is_token_char(char c)
{
    if ((c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') ||
        (c >= 'a' && c <= 'z'))
        return true;
    return c && strchr("!#$%&'*+-.^_`|~", c);
}

static bool
is_token(const char *s)
{
    if (!*s)
        return false;
    for (; *s; s++)
        if (!is_token_char(*s))
            return false;
    return true;
}

int
http_head_find(const char *text, size_t n, size_t *scanned)
{
    size_t i = *scanned;

    for (; i < n && i < HTTP_HEAD_MAX; i++) {
        if (text[i] == '\n') {
            if (i == 0 || text[i - 1] != '\r')
                return -EBADMSG; /* a bare LF ends lines for some readers */
            if (i >= 3 && text[i - 2] == '\n')
                return (int)i + 1;
        } else if (text[i] == '\0' || (i && text[i - 1] == '\r')) {
            return -EBADMSG; /* NUL, or a bare CR */
        }
    }
    *scanned = i;
    return n >= HTTP_HEAD_MAX ? -EMSGSIZE : 0;
}

static int
refuse(int status, struct err *err, const char *what)
{
    int num = status == 431 ? -EMSGSIZE : -EBADMSG;

    (void)err_set(err, num, status == 431 ? ERR_API_0002 : ERR_API_0001,
                  "request refused: %s", what);
    return status;
}

/* Cut one line off *text; the head is known to be made of CR LF lines. */
static char *
next_line(char **text)
{
    char *line = *text, *end = strchr(line, '\r');

    if (!end)
        return NULL;
    *end = '\0';
    *text = end + 2;
    return line;
}

static int
parse_request_line(char *line, struct http_head *h, struct err *err)
{
    char *target = strchr(line, ' '), *version;

    if (!target)
        return refuse(400, err,
                      "the request line is not 'METHOD target HTTP/1.1'");
    *target++ = '\0';
    version = strchr(target, ' ');
    if (!version)
        return refuse(400, err,
                      "the request line is not 'METHOD target HTTP/1.1'");
    *version++ = '\0';
    if (!is_token(line) || strlen(line) > 16)
        return refuse(400, err, "the method is no token");
    for (const char *c = target; *c; c++)
        if (*c <= ' ' || *c == 0x7f)
            return refuse(400, err, "the target holds a byte that is not ASCII");
    if (strcmp(version, "HTTP/1.1") == 0)
        h->http10 = false;
    else if (strcmp(version, "HTTP/1.0") == 0)
        h->http10 = true;
    else if (strncmp(version, "HTTP/", 5) == 0)
        return refuse(505, err, "the version is neither HTTP/1.1 nor HTTP/1.0");
    else
        return refuse(400, err,
                      "the request line is not 'METHOD target HTTP/1.1'");
    h->method = line;
    h->target = target;
    return 0;
}

static int
parse_field(char *line, struct http_head *h, struct err *err)
{
    char *colon = strchr(line, ':'), *value;

    if (*line == ' ' || *line == '\t')
        return refuse(400, err, "a header is folded over two lines");
    if (!colon)
        return refuse(400, err, "a header has no colon");
    *colon = '\0';
    if (!is_token(line))
        return refuse(400, err, "a header's name is no token");
    value = text_trim(colon + 1);
    for (const char *c = value; *c; c++)
        if (((unsigned char)*c < ' ' && *c != '\t') || *c == 0x7f)
            return refuse(400, err,
                          "a header's value holds a control character");
    if (h->n_headers == HTTP_HEADERS_MAX)
        return refuse(431, err, "there are too many headers");
    h->headers[h->n_headers++] = (struct http_field){ line, value };
    return 0;
}

/* Does a comma-separated list hold this word? */
static bool
list_has(const char *list, const char *word)
{
    size_t n = strlen(word);

    while (*list) {
        size_t len;

        list += strspn(list, " \t,");
        len = strcspn(list, " \t,");
        if (len == n && strncasecmp(list, word, n) == 0)
            return true;
        list += len;
    }
    return false;
}

static int
parse_length(const char *text, struct http_head *h, struct err *err)
{
    if (text_parse_u64(text, 0, UINT64_MAX / 2, &h->length) < 0)
        return refuse(400, err, "Content-Length is no number");
    return 0;
}

/* What the headers say about framing and the connection. */
static int
judge_fields(struct http_head *h, struct err *err)
{
    unsigned hosts = 0, lengths = 0, codings = 0;
    int status = 0;

    h->keep_alive = !h->http10;
    for (size_t i = 0; i < h->n_headers && !status; i++) {
        const char *name = h->headers[i].name, *value = h->headers[i].value;

        if (text_icmp(name, "Host") == 0) {
            hosts++;
            h->host = value;
        } else if (text_icmp(name, "Content-Length") == 0) {
            lengths++;
            status = parse_length(value, h, err);
        } else if (text_icmp(name, "Transfer-Encoding") == 0) {
            codings++;
            h->chunked = true;
            if (text_icmp(value, "chunked") != 0)
                status = refuse(501, err,
                                "the only transfer coding taken is chunked");
        } else if (text_icmp(name, "Connection") == 0) {
            if (list_has(value, "close"))
                h->keep_alive = false;
            else if (h->http10 && list_has(value, "keep-alive"))
                h->keep_alive = true;
        } else if (text_icmp(name, "Expect") == 0) {
            if (text_icmp(value, "100-continue") != 0)
                return refuse(417, err,
                              "the only expectation met is 100-continue");
            h->expect_continue = !h->http10;
        }
    }
    if (status)
        return status;
    if (hosts > 1 || (hosts == 0 && !h->http10))
        return refuse(400, err, "there must be exactly one Host header");
    if (lengths > 1)
        return refuse(400, err, "there is more than one Content-Length header");
    if (codings > 1 || (codings && lengths))
        return refuse(400, err,
                      "Transfer-Encoding comes twice or with Content-Length");
    if (codings && h->http10)
        return refuse(400, err, "HTTP/1.0 has no Transfer-Encoding");
    return 0;
}

int
http_head_parse(char *text, size_t n, struct http_head *out_head,
                struct err *err)
{
    struct http_head h = { .method = NULL };
    char *line;
    int status;

    text[n] = '\0';
    line = next_line(&text);
    if (!line || !*line)
        return refuse(400, err, "there is no request line");
    status = parse_request_line(line, &h, err);
    while (!status && (line = next_line(&text)) && *line)
        status = parse_field(line, &h, err);
    if (!status)
        status = judge_fields(&h, err);
    if (!status)
        *out_head = h;
    return status;
}

const char *
http_head_get(const struct http_head *h, const char *name)
{
    for (size_t i = 0; i < h->n_headers; i++)
        if (text_icmp(h->headers[i].name, name) == 0)
            return h->headers[i].value;
    return NULL;
}

/* --- chunked bodies (RFC 9112, 7.1; no extensions, no trailers) ------------ */

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

/* One byte of a size line; the CR was seen when digits has the high bit. */
static int
feed_size(struct http_chunked *c, char ch)
{
    enum {
        CR_SEEN = 0x100
    };
    int digit = hex_digit(ch);

    if (c->digits & CR_SEEN) {
        if (ch != '\n')
            return -EBADMSG;
        c->digits = 0;
        c->state = c->left ? CHUNK_DATA : CHUNK_LAST;
        return 0;
    }
    if (ch == '\r' && c->digits) {
        c->digits |= CR_SEEN;
        return 0;
    }
    if (digit < 0 || c->digits >= 8)
        return -EBADMSG;
    c->left = c->left << 4 | (unsigned)digit;
    c->digits++;
    return 0;
}

/* The CR LF behind data, or the empty line that ends the body. */
static int
feed_line_end(struct http_chunked *c, char ch)
{
    if (ch != (c->digits ? '\n' : '\r'))
        return -EBADMSG;
    if (!c->digits) {
        c->digits = 1;
        return 0;
    }
    c->digits = 0;
    c->left = 0;
    c->state = c->state == CHUNK_LAST ? CHUNK_DONE : CHUNK_SIZE;
    return 0;
}

int
http_chunked_feed(struct http_chunked *c, const char *p, size_t n,
                  struct buf *body)
{
    size_t used = 0;
    int rc = 0;

    while (used < n && c->state != CHUNK_DONE && rc == 0) {
        if (c->state == CHUNK_DATA) {
            size_t take = (size_t)MIN(c->left, (uint64_t)(n - used));

            rc = buf_add(body, p + used, take);
            used += take;
            c->left -= take;
            if (c->left == 0)
                c->state = CHUNK_DATA_END;
        } else if (c->state == CHUNK_SIZE) {
            rc = feed_size(c, p[used++]);
        } else {
            rc = feed_line_end(c, p[used++]);
        }
    }
    return rc < 0 ? rc : (int)used;
}

/* --- targets ---------------------------------------------------------------- */

/* Decode in place; plus: '+' is a blank (queries).  -EINVAL for a broken
 * escape or text that is no clean UTF-8. */
static int
percent_decode(char *s, bool plus)
{
    char *to = s;

    for (const char *from = s; *from; from++) {
        if (*from == '%') {
            int hi = hex_digit(from[1]), lo = hi < 0 ? -1 : hex_digit(from[2]);

            if (lo < 0)
                return -EINVAL;
            *to++ = (char)(hi << 4 | lo);
            from += 2;
        } else {
            *to++ = plus && *from == '+' ? ' ' : *from;
        }
    }
    for (const char *c = s; c < to; c++)
        if ((unsigned char)*c < ' ' || *c == 0x7f)
            return -EINVAL;
    if (!text_utf8_ok(s, (size_t)(to - s)))
        return -EINVAL;
    *to = '\0';
    return 0;
}

static int
bad_target(struct err *err, const char *what)
{
    return err_set(err, -EINVAL, ERR_API_0003, "the address is refused: %s",
                   what);
}

static int
parse_segments(char *path, struct http_target *t, struct err *err)
{
    char *save = NULL;

    for (char *s = strtok_r(path, "/", &save); s;
         s = strtok_r(NULL, "/", &save)) {
        if (percent_decode(s, false) < 0)
            return bad_target(err,
                              "a part of the path is wrongly escaped or no UTF-8");
        if (strcmp(s, ".") == 0 || strcmp(s, "..") == 0)
            return bad_target(err, "the path holds '.' or '..'");
        if (t->n_segments == HTTP_SEGMENTS_MAX)
            return bad_target(err, "the path has too many parts");
        t->segments[t->n_segments++] = s;
    }
    return 0;
}

static int
parse_params(char *query, struct http_target *t, struct err *err)
{
    char *save = NULL;

    for (char *p = strtok_r(query, "&", &save); p;
         p = strtok_r(NULL, "&", &save)) {
        char *value = strchr(p, '=');

        if (value)
            *value++ = '\0';
        if (percent_decode(p, true) < 0 ||
            (value && percent_decode(value, true) < 0))
            return bad_target(err, "a parameter is wrongly escaped or no UTF-8");
        if (t->n_params == HTTP_PARAMS_MAX)
            return bad_target(err, "there are too many parameters");
        t->params[t->n_params++] = (struct http_field){ p, value ? value : "" };
    }
    return 0;
}

int
http_target_parse(const char *target, struct http_target *out_target,
                  struct err *err)
{
    struct http_target t = { .text = NULL };
    char *query;
    int rc;

    /* RFC 9112, 3.2.2: the absolute form, as sent to proxies. */
    if (strncasecmp(target, "https://", 8) == 0 ||
        strncasecmp(target, "http://", 7) == 0) {
        target = strchr(strchr(target, ':') + 3, '/');
        if (!target)
            target = "/";
    }
    if (*target != '/')
        return bad_target(err, "it does not begin with '/'");
    if (strchr(target, '#'))
        return bad_target(err, "it holds a fragment");
    t.text = strdup(target);
    if (!t.text)
        return err_set(err, -ENOMEM, ERR_GEN_0002, "address: out of memory");
    query = strchr(t.text, '?');
    if (query)
        *query++ = '\0';
    rc = parse_segments(t.text, &t, err);
    if (rc == 0 && query)
        rc = parse_params(query, &t, err);
    if (rc < 0) {
        free(t.text);
        return rc;
    }
    *out_target = t;
    return 0;
}

void
http_target_release(struct http_target *t)
{
    free(t->text);
    *t = (struct http_target){ .text = NULL };
}

const char *
http_target_param(const struct http_target *t, const char *name)
{
    for (size_t i = 0; i < t->n_params; i++)
        if (text_icmp(t->params[i].name, name) == 0)
            return t->params[i].value;
    return NULL;
}
