/* HTTPS client on libcurl.  curl moves the bytes; who may be at the other end
 * is decided by common/tls.h, which takes over each SSL_CTX that curl makes.
 * Handles with their open connections are kept for the next call, and dropped
 * when certificate or trust have changed since. */
#include "common/httpc.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <curl/curl.h>

#include "common/bytes.h"
#include "common/text.h"

enum {
    IDLE_MAX = 8,
    CONNECT_TIMEOUT_MS = 5000,
    CALL_TIMEOUT_MS = 30000,
    RESPONSE_MAX = 1024 * 1024,
    URL_MAX = 8192,
};

struct handle {
    CURL *easy;
    uint64_t generation; /* of the tls_ctx when it was made */
    struct err refusal;  /* written by the certificate check */
    char why[CURL_ERROR_SIZE];
    struct handle *next;
};

struct httpc {
    char *base_url, *unix_path, *user_agent, *host;
    struct tls_ctx *tls;
    struct tls_expect expect; /* its pointers lead to the four below */
    struct uuid deployment, site, id;
    uint32_t connect_timeout_ms;
    pthread_mutex_t lock; /* guards idle and n_idle */
    struct handle *idle;
    unsigned n_idle;
};

/* One call while it runs. */
struct call {
    struct httpc *c;
    struct handle *h;
    const struct httpc_request *rq;
    struct httpc_response *out;
    struct err *err;
    int failed;        /* by one of our callbacks; err is set then */
    const char *bound; /* what make_body gave */
    size_t bound_at;
};

static pthread_once_t once = PTHREAD_ONCE_INIT;
static CURLcode global_rc;

static void
init_curl(void)
{
    global_rc = curl_global_init(CURL_GLOBAL_DEFAULT);
}

/* ---- The client ---------------------------------------------------------- */

static int
copy_text(char **to, const char *from)
{
    *to = from ? strdup(from) : NULL;
    return from && !*to ? -ENOMEM : 0;
}

static void
copy_expect(struct httpc *c, const struct tls_expect *from)
{
    if (!from)
        return;
    c->expect.roles = from->roles;
    if (from->deployment) {
        c->deployment = *from->deployment;
        c->expect.deployment = &c->deployment;
    }
    if (from->site) {
        c->site = *from->site;
        c->expect.site = &c->site;
    }
    if (from->id) {
        c->id = *from->id;
        c->expect.id = &c->id;
    }
}

static bool
has_control(const char *s)
{
    for (; *s; s++) {
        if ((uint8_t)*s < 0x20 || *s == 0x7f)
            return true;
    }
    return false;
}

int
httpc_new(const struct httpc_settings *s, struct httpc **out_client,
          struct err *err)
{
    const char *scheme = s->unix_path ? "http://" : "https://";
    struct httpc *c;

    (void)pthread_once(&once, init_curl);
    if (global_rc != CURLE_OK)
        return err_set(err, -EIO, ERR_GEN_0001, "HTTP client: %s",
                       curl_easy_strerror(global_rc));
    if (strncmp(s->base_url, scheme, strlen(scheme)) != 0 ||
        has_control(s->base_url) || (!s->unix_path && !s->tls))
        return err_set(err, -EINVAL, ERR_GEN_0007,
                       "address %s does not begin with %s", s->base_url, scheme);
    c = calloc(1, sizeof *c);
    if (!c)
        return err_set(err, -ENOMEM, ERR_GEN_0002, "HTTP: out of memory");
    (void)pthread_mutex_init(&c->lock, NULL);
    c->tls = s->unix_path ? NULL : tls_ctx_ref(s->tls);
    copy_expect(c, s->expect);
    c->connect_timeout_ms =
        s->connect_timeout_ms ? s->connect_timeout_ms : CONNECT_TIMEOUT_MS;
    if (copy_text(&c->base_url, s->base_url) < 0 ||
        copy_text(&c->unix_path, s->unix_path) < 0 ||
        copy_text(&c->host, s->expect ? s->expect->host : NULL) < 0 ||
        copy_text(&c->user_agent, s->user_agent ? s->user_agent : "holdfast") <
            0) {
        httpc_free(c);
        return err_set(err, -ENOMEM, ERR_GEN_0002, "HTTP: out of memory");
    }
    c->expect.host = c->host;
    *out_client = c;
    return 0;
}

static void
handle_free(struct handle *h)
{
    if (h)
        curl_easy_cleanup(h->easy);
    free(h);
}

void
httpc_free(struct httpc *c)
{
    if (!c)
        return;
    while (c->idle) {
        struct handle *h = c->idle;

        c->idle = h->next;
        handle_free(h);
    }
    tls_ctx_free(c->tls);
    (void)pthread_mutex_destroy(&c->lock);
    free(c->base_url);
    free(c->unix_path);
    free(c->user_agent);
    free(c->host);
    free(c);
}

static struct handle *
handle_get(struct httpc *c)
{
    uint64_t now = c->tls ? tls_ctx_generation(c->tls) : 0;
    struct handle *h;

    for (;;) {
        pthread_mutex_lock(&c->lock);
        h = c->idle;
        if (h) {
            c->idle = h->next;
            c->n_idle--;
        }
        pthread_mutex_unlock(&c->lock);
        if (!h || h->generation == now)
            break;
        handle_free(h); /* its connections were checked by older trust */
    }
    if (h)
        return h;
    h = calloc(1, sizeof *h);
    if (!h)
        return NULL;
    h->generation = now;
    h->easy = curl_easy_init();
    if (!h->easy) {
        free(h);
        return NULL;
    }
    return h;
}

static void
handle_put(struct httpc *c, struct handle *h, int call_rc)
{
    bool keep;

    curl_easy_reset(h->easy); /* options go, connections stay */
    pthread_mutex_lock(&c->lock);
    keep = call_rc == 0 && c->n_idle < IDLE_MAX;
    if (keep) {
        h->next = c->idle;
        c->idle = h;
        c->n_idle++;
    }
    pthread_mutex_unlock(&c->lock);
    if (!keep)
        handle_free(h);
}

/* ---- curl's callbacks ---------------------------------------------------- */

static SSL *
ssl_of(CURL *easy)
{
    struct curl_tlssessioninfo *info = NULL;

    if (curl_easy_getinfo(easy, CURLINFO_TLS_SSL_PTR, &info) != CURLE_OK ||
        !info || info->backend != CURLSSLBACKEND_OPENSSL)
        return NULL;
    return info->internals;
}

static CURLcode
on_ssl_ctx(CURL *easy, void *native, void *arg)
{
    struct call *k = arg;
    struct tls_expect expect = k->c->expect;

    UNUSED(easy);
    k->h->refusal.num = 0;
    expect.out_refusal = &k->h->refusal;
    k->failed = tls_ctx_apply(k->c->tls, &expect, native, k->err);
    return k->failed ? CURLE_ABORTED_BY_CALLBACK : CURLE_OK;
}

static size_t
on_body(char *p, size_t size, size_t n, void *arg)
{
    struct call *k = arg;

    n *= size;
    if (k->rq->on_data) {
        k->failed = k->rq->on_data(k->rq->on_data_arg, p, n);
        if (k->failed < 0)
            err_set(k->err, k->failed, ERR_GEN_0009,
                    "the answer's reader gave up");
        return k->failed < 0 ? 0 : n;
    }
    k->failed = buf_add(&k->out->body, p, n);
    if (k->failed < 0)
        err_set(k->err, k->failed, ERR_GEN_0009, "the answer exceeds %zu bytes",
                k->out->body.max);
    return k->failed < 0 ? 0 : n;
}

static size_t
on_header(char *p, size_t size, size_t n, void *arg)
{
    struct call *k = arg;
    SSL *ssl;

    n *= size;
    if (n >= 5 && memcmp(p, "HTTP/", 5) == 0) {
        buf_clear(&k->out->headers); /* an earlier 1xx answer's */
        ssl = k->c->tls ? ssl_of(k->h->easy) : NULL;
        k->out->has_peer = ssl && tls_peer(ssl, &k->out->peer) == 0;
        return n;
    }
    k->failed = buf_add(&k->out->headers, p, n);
    if (k->failed < 0)
        err_set(k->err, k->failed, ERR_GEN_0009,
                "the answer's header exceeds %d bytes", HTTPC_HEADERS_MAX);
    return k->failed < 0 ? 0 : n;
}

/* Sends what make_body makes as soon as curl asks for the first byte: the
 * connection stands by then. */
static size_t
on_read(char *to, size_t size, size_t n, void *arg)
{
    struct call *k = arg;
    SSL *ssl = ssl_of(k->h->easy);
    const void *body = NULL;

    if (!k->bound) {
        if (!ssl)
            k->failed = err_set(k->err, -EPROTO, ERR_TLS_0001,
                                "no secure channel to bind the request to");
        else
            k->failed =
                k->rq->make_body(k->rq->make_body_arg, ssl, &body, k->err);
        if (k->failed < 0 || !body)
            return CURL_READFUNC_ABORT;
        k->bound = body;
    }
    n = MIN(size * n, k->rq->body_len - k->bound_at);
    memcpy(to, k->bound + k->bound_at, n);
    k->bound_at += n;
    return n;
}

/* ---- A call -------------------------------------------------------------- */

static int
check_request(const struct httpc_request *rq, struct err *err)
{
    bool bad = rq->path[0] != '/' || has_control(rq->path) ||
               strchr(rq->path, ' ') || has_control(rq->method);

    for (size_t i = 0; i < rq->n_headers; i++)
        bad = bad || has_control(rq->headers[i].name) ||
              has_control(rq->headers[i].value);
    if (bad)
        return err_set(err, -EINVAL, ERR_GEN_0001,
                       "request for %s: blank or control character in path "
                       "or header",
                       rq->path);
    return 0;
}

static int
add_header(struct curl_slist **list, const char *name, const char *value)
{
    struct buf b;
    struct curl_slist *longer = NULL;

    buf_init(&b, HTTPC_HEADERS_MAX);
    /* curl takes "name:" as an order to leave the header out, "name;" as one
     * to send it empty. */
    if (buf_addf(&b, value && !value[0] ? "%s;" : "%s: %s", name,
                 value ? value : "") == 0)
        longer = curl_slist_append(*list, (const char *)b.data);
    buf_release(&b);
    if (!longer)
        return -ENOMEM;
    *list = longer;
    return 0;
}

static int
make_headers(const struct httpc_request *rq, struct curl_slist **list)
{
    struct curl_slist *longer = curl_slist_append(NULL, "Expect:");
    int rc = longer ? 0 : -ENOMEM;

    *list = longer;
    if (rc == 0 && rq->body_len)
        rc =
            add_header(list, "Content-Type",
                       rq->content_type ? rq->content_type : "application/json");
    for (size_t i = 0; rc == 0 && i < rq->n_headers; i++)
        rc = add_header(list, rq->headers[i].name, rq->headers[i].value);
    return rc;
}

#define SET(opt, value)                  \
 do {                                    \
  if (rc == CURLE_OK)                    \
   rc = curl_easy_setopt(e, opt, value); \
 } while (0)

static CURLcode
set_common(struct call *k, const char *url, struct curl_slist *headers)
{
    const struct httpc_request *rq = k->rq;
    CURL *e = k->h->easy;
    CURLcode rc = CURLE_OK;

    k->h->why[0] = '\0';
    SET(CURLOPT_ERRORBUFFER, k->h->why);
    SET(CURLOPT_URL, url);
    SET(CURLOPT_PATH_AS_IS, 1L);
    SET(CURLOPT_PROTOCOLS_STR, k->c->unix_path ? "http" : "https");
    SET(CURLOPT_PROXY, ""); /* also against the environment's */
    SET(CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    SET(CURLOPT_NOSIGNAL, 1L);
    SET(CURLOPT_USERAGENT, k->c->user_agent);
    SET(CURLOPT_HTTPHEADER, headers);
    SET(CURLOPT_TIMEOUT_MS,
        rq->timeout_ms ? (long)rq->timeout_ms : (long)CALL_TIMEOUT_MS);
    SET(CURLOPT_CONNECTTIMEOUT_MS, (long)k->c->connect_timeout_ms);
    SET(CURLOPT_WRITEFUNCTION, on_body);
    SET(CURLOPT_WRITEDATA, k);
    SET(CURLOPT_HEADERFUNCTION, on_header);
    SET(CURLOPT_HEADERDATA, k);
    if (k->c->unix_path)
        SET(CURLOPT_UNIX_SOCKET_PATH, k->c->unix_path);
    return rc;
}

static CURLcode
set_tls(struct call *k)
{
    CURL *e = k->h->easy;
    CURLcode rc = CURLE_OK;

    if (!k->c->tls)
        return rc;
    SET(CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_3);
    SET(CURLOPT_SSL_SESSIONID_CACHE, 0L);
    SET(CURLOPT_SSL_ENABLE_ALPN, 0L);
    /* The check that on_ssl_ctx() puts in replaces the system's roots, and
     * compares the host when the expectation names one. */
    SET(CURLOPT_CAINFO, NULL);
    SET(CURLOPT_CAPATH, NULL);
    SET(CURLOPT_SSL_VERIFYPEER, 1L);
    SET(CURLOPT_SSL_VERIFYHOST, 0L);
    SET(CURLOPT_SSL_CTX_FUNCTION, on_ssl_ctx);
    SET(CURLOPT_SSL_CTX_DATA, k);
    return rc;
}

static CURLcode
set_body(struct call *k)
{
    const struct httpc_request *rq = k->rq;
    CURL *e = k->h->easy;
    CURLcode rc = CURLE_OK;

    if (strcmp(rq->method, "HEAD") == 0) {
        SET(CURLOPT_NOBODY, 1L);
        return rc;
    }
    if (strcmp(rq->method, "GET") == 0 && !rq->body_len)
        return rc;
    SET(CURLOPT_POST, 1L);
    SET(CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)rq->body_len);
    if (rq->make_body) {
        SET(CURLOPT_READFUNCTION, on_read);
        SET(CURLOPT_READDATA, k);
        SET(CURLOPT_FRESH_CONNECT, 1L); /* so that curl never sends it twice */
        SET(CURLOPT_FORBID_REUSE, 1L);
    } else {
        SET(CURLOPT_POSTFIELDS, rq->body ? rq->body : "");
    }
    SET(CURLOPT_CUSTOMREQUEST, rq->method);
    return rc;
}

/* libcurl puts the library's error number into its sentence. */
static unsigned long
number_in_text(const char *why)
{
    const char *p = strstr(why, "error:");
    uint8_t b[4];
    char hex[9];

    if (!p || strlen(p) < 14)
        return 0;
    memcpy(hex, p + 6, 8);
    hex[8] = '\0';
    return hex_decode(hex, b, 4) == 0 ? get_be32(b) : 0;
}

static int
explain(const struct call *k, CURLcode rc)
{
    const struct handle *h = k->h;
    const char *why = h->why[0] ? h->why : curl_easy_strerror(rc);
    unsigned long number = number_in_text(h->why);
    struct err e = ERR_INIT, *err = &e;
    long os = 0;
    int num;

    if (k->failed < 0)
        return k->failed;
    (void)curl_easy_getinfo(h->easy, CURLINFO_OS_ERRNO, &os);
    switch (rc) {
    case CURLE_COULDNT_RESOLVE_HOST:
        num = err_set(err, -EHOSTUNREACH, ERR_GEN_0007, "%s", why);
        break;
    case CURLE_COULDNT_CONNECT:
        num = err_set(err, os > 0 ? -(int)os : -ECONNREFUSED, ERR_GEN_0007,
                      "%s", why);
        break;
    case CURLE_OPERATION_TIMEDOUT:
        num = err_set(err, -ETIMEDOUT, ERR_GEN_0008, "%s", why);
        break;
    case CURLE_SSL_CONNECT_ERROR:
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_RECV_ERROR:
    case CURLE_SEND_ERROR:
    case CURLE_GOT_NOTHING:
        if (h->refusal.num) {
            e = h->refusal;
            num = e.num;
        } else if (number) {
            num = tls_explain(number, err);
        } else if (rc == CURLE_SSL_CONNECT_ERROR) {
            num = err_set(err, -EPROTO, ERR_TLS_0001, "%s", why);
        } else {
            num = err_set(err, -ECONNRESET, ERR_GEN_0007, "%s", why);
        }
        break;
    default: num = err_set(err, -EPROTO, ERR_GEN_0009, "%s", why); break;
    }
    if (k->err)
        *k->err = e;
    return num;
}

static int
perform(struct call *k, const char *url, struct curl_slist *headers)
{
    CURLcode rc = set_common(k, url, headers);
    long status = 0;

    if (rc == CURLE_OK)
        rc = set_tls(k);
    if (rc == CURLE_OK)
        rc = set_body(k);
    if (rc != CURLE_OK)
        return err_set(k->err, -EIO, ERR_GEN_0001, "HTTP client: %s",
                       curl_easy_strerror(rc));
    rc = curl_easy_perform(k->h->easy);
    if (rc != CURLE_OK)
        return explain(k, rc);
    (void)curl_easy_getinfo(k->h->easy, CURLINFO_RESPONSE_CODE, &status);
    k->out->status = (int)status;
    return 0;
}

int
httpc_call(struct httpc *c, const struct httpc_request *rq,
           struct httpc_response *out, struct err *err)
{
    struct call k = { .c = c, .rq = rq, .out = out, .err = err };
    struct curl_slist *headers = NULL;
    struct buf url;
    int rc;

    *out = (struct httpc_response){ .status = 0 };
    buf_init(&out->body,
             rq->max_response_bytes ? rq->max_response_bytes : RESPONSE_MAX);
    buf_init(&out->headers, HTTPC_HEADERS_MAX);
    rc = check_request(rq, err);
    if (rc < 0)
        return rc;
    buf_init(&url, URL_MAX);
    k.h = handle_get(c);
    if (!k.h || make_headers(rq, &headers) < 0 ||
        buf_addf(&url, "%s%s", c->base_url, rq->path) < 0) {
        rc = err_set(err, -ENOMEM, ERR_GEN_0002,
                     "HTTP: out of memory, or address too long");
        goto out;
    }
    rc = perform(&k, (const char *)url.data, headers);
    if (rc < 0)
        err_prefix(err, "%s", c->unix_path ? c->unix_path : c->base_url);
out:
    if (k.h)
        handle_put(c, k.h, rc);
    curl_slist_free_all(headers);
    buf_release(&url);
    return rc;
}

void
httpc_response_release(struct httpc_response *out)
{
    buf_release(&out->body);
    buf_release(&out->headers);
}

int
httpc_header(const struct httpc_response *rs, const char *name, char *out,
             size_t cap)
{
    const char *p = (const char *)rs->headers.data;
    size_t n_name = strlen(name);

    while (p && *p) {
        size_t n = strcspn(p, "\r\n");

        if (n > n_name && p[n_name] == ':' && strncasecmp(p, name, n_name) == 0) {
            const char *v = p + n_name + 1;

            while (*v == ' ' || *v == '\t')
                v++;
            n -= (size_t)(v - p);
            (void)text_safe(out, cap, v, n);
            return 0;
        }
        p += n;
        p += strspn(p, "\r\n");
    }
    return -ENOENT;
}
