/* Known sites, and the look at a manager that is not known yet. */
#include "tui/client/known.h"

#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <openssl/ssl.h>

#include "common/bytes.h"
#include "common/files.h"
#include "common/secret.h"
#include "common/text.h"
#include "common/tls.h"

enum {
    KNOWN_MAX = 256 * 1024,
    PROBE_TIMEOUT_MS = 5000
};

static int
read_known(const char *path, struct buf *out, struct err *err)
{
    int rc;

    buf_init(out, KNOWN_MAX);
    rc = file_read_secret(path, KNOWN_MAX, out, err);
    if (rc == -EPERM)
        return err_set(err, rc, ERR_CLI_0004,
                       "%s: must belong to its user alone (mode 0600): who "
                       "writes into it says which site is believed",
                       path);
    return rc == -ENOENT ? 0 : rc;
}

static int
parse_line(const char *path, unsigned line, char *text, const char *url,
           uint8_t out[PKI_FINGERPRINT_SIZE], struct err *err)
{
    char *parts[3];
    uint8_t fp[PKI_FINGERPRINT_SIZE];
    int n;

    text = text_trim(text);
    if (!text[0] || text[0] == '#')
        return 0;
    n = text_split(text, ' ', parts, ARRAY_SIZE(parts));
    if (n != 2 || strlen(parts[1]) != 2 * sizeof fp ||
        hex_decode(parts[1], fp, sizeof fp) < 0)
        return err_set(err, -EBADMSG, ERR_CLI_0004,
                       "%s:%u: not of the form \"url fingerprint\"", path, line);
    if (strcmp(parts[0], url) != 0)
        return 0;
    memcpy(out, fp, sizeof fp);
    return 1;
}

int
known_find(const char *path, const char *url,
           uint8_t out_fingerprint[PKI_FINGERPRINT_SIZE], struct err *err)
{
    struct buf b;
    int rc = read_known(path, &b, err);
    unsigned line = 1;

    for (char *p = (char *)b.data, *next; rc == 0 && p && *p; p = next, line++) {
        size_t n = strcspn(p, "\n");

        next = p + n + (p[n] == '\n');
        p[n] = '\0';
        rc = parse_line(path, line, p, url, out_fingerprint, err);
    }
    buf_release(&b);
    return rc;
}

int
known_add(const char *path, const char *url,
          const uint8_t fingerprint[PKI_FINGERPRINT_SIZE], struct err *err)
{
    char hex[PKI_FINGERPRINT_TEXT], dir[FILE_PATH_SIZE];
    struct buf b;
    int rc = read_known(path, &b, err);
    char *slash;

    if (rc < 0)
        goto out;
    (void)snprintf(dir, sizeof dir, "%s", path);
    slash = strrchr(dir, '/');
    if (slash && slash != dir) {
        *slash = '\0';
        rc = dir_make(dir, err);
        if (rc < 0)
            goto out;
    }
    hex_encode(fingerprint, PKI_FINGERPRINT_SIZE, hex);
    if (b.len && b.data[b.len - 1] != '\n')
        (void)buf_add(&b, "\n", 1);
    rc = buf_addf(&b, "%s %s\n", url, hex);
    if (rc < 0)
        rc = err_set(err, rc, ERR_CLI_0004, "%s: too many sites", path);
    else
        rc = file_replace(path, 0600, b.data, b.len, err);
out:
    buf_release(&b);
    return rc;
}

/* ---- The probe ---------------------------------------------------------------- */

static int
connect_one(const struct addrinfo *a)
{
    const struct timeval limit = { .tv_sec = PROBE_TIMEOUT_MS / 1000 };
    struct pollfd p = { .events = POLLOUT };
    int fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK,
                    a->ai_protocol);
    int e = 0;
    socklen_t n = sizeof e;

    if (fd < 0)
        return -errno;
    p.fd = fd;
    e = connect(fd, a->ai_addr, a->ai_addrlen) < 0 ? errno : 0;
    if (e == EINPROGRESS) {
        e = poll(&p, 1, PROBE_TIMEOUT_MS) == 1 ? 0 : ETIMEDOUT;
        if (e == 0 && getsockopt(fd, SOL_SOCKET, SO_ERROR, &e, &n) < 0)
            e = errno;
    }
    if (e == 0 &&
        (fcntl(fd, F_SETFL, 0) < 0 ||
         setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) < 0 ||
         setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit) < 0))
        e = errno;
    if (e == 0)
        return fd;
    (void)close(fd); /* nothing was written */
    return -e;
}

static int
connect_to(const char *url, struct err *err)
{
    const struct addrinfo hints = { .ai_socktype = SOCK_STREAM };
    struct addrinfo *list = NULL;
    char host[TEXT_HOST_SIZE], service[8];
    uint16_t port;
    int rc, fd = -EHOSTUNREACH;

    if (text_parse_hostport(url + strlen("https://"), host, &port) < 0) {
        (void)snprintf(host, sizeof host, "%s", url + strlen("https://"));
        port = 443;
    }
    (void)snprintf(service, sizeof service, "%u", (unsigned)port);
    rc = getaddrinfo(host, service, &hints, &list);
    if (rc != 0)
        return err_set(err, -EHOSTUNREACH, ERR_GEN_0007, "%s: %s", url,
                       gai_strerror(rc));
    for (const struct addrinfo *a = list; a && fd < 0; a = a->ai_next)
        fd = connect_one(a);
    freeaddrinfo(list);
    if (fd < 0)
        return err_set(err, fd, ERR_GEN_0007, "%s: %s", url, err_errno(fd));
    return fd;
}

static int
root_of(SSL *ssl, const char *url, uint8_t out[PKI_FINGERPRINT_SIZE],
        struct err *err)
{
    STACK_OF(X509) *chain = SSL_get_peer_cert_chain(ssl);
    struct tls_identity who;

    for (int i = sk_X509_num(chain) - 1; i >= 0; i--) {
        const X509 *c = sk_X509_value(chain, i);

        if (pki_cert_identity(c, &who, NULL) == 0 && who.role == TLS_ROLE_ROOT) {
            pki_fingerprint(c, out);
            return 0;
        }
    }
    return err_set(err, -EKEYREJECTED, ERR_TLS_0006,
                   "%s shows no root certificate of Holdfast", url);
}

int
known_probe(const char *url, uint8_t out_fingerprint[PKI_FINGERPRINT_SIZE],
            struct err *err)
{
    SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
    SSL *ssl = NULL;
    int fd = -1, rc;

    if (!ctx)
        return err_set(err, -ENOMEM, ERR_GEN_0002, "TLS: out of memory");
    /* Nothing is believed and nothing is sent: whatever certificate comes is
     * only looked at.  The real connection checks it against the root that
     * the operator has accepted. */
    SSL_CTX_set_verify(ctx, SSL_VERIFY_NONE, NULL);
    (void)SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION);
    fd = connect_to(url, err);
    rc = fd < 0 ? fd : 0;
    if (rc < 0)
        goto out;
    ssl = SSL_new(ctx);
    if (!ssl || SSL_set_fd(ssl, fd) != 1) {
        rc = err_set(err, -ENOMEM, ERR_GEN_0002, "TLS: out of memory");
        goto out;
    }
    rc = SSL_connect(ssl);
    if (rc != 1) {
        rc = tls_failure(ssl, rc, err);
        (void)err_prefix(err, "%s", url);
        goto out;
    }
    rc = root_of(ssl, url, out_fingerprint, err);
out:
    SSL_free(ssl);
    SSL_CTX_free(ctx);
    if (fd >= 0)
        (void)close(fd); /* nothing was written */
    return rc;
}
