/* room: capture lane nbd io common */
/* A plain NBD server over one file or a piece of memory, for tests and
 * benchmarks: nothing but public headers.
 *
 *   nbdserve --unix PATH|--tcp HOST:PORT --file PATH|--mem SIZE
 *            [--cache writeback|none] [--io uring|epoll] [--export NAME]
 *            [--tls CERT,KEY] [--readonly] [--splitter: as the agent exports
 *            a volume that is not protected] and for hostile tests
 *            [--extra NAME] [--handshake-ms N] [--max-connections N]
 *            [--payload-max SIZE] [--max-in-flight N]
 *            [--hold-reads OFF] [--fail-writes OFF,ERRNO]
 *
 * Prints the URI when it is ready.  SIGTERM stops it in order.  SIGUSR1 runs
 * held reads; SIGUSR2 takes the export away and prints "removed".
 */
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "capture/capture.h"
#include "common/bytes.h"
#include "common/log.h"
#include "common/text.h"
#include "common/tls.h"
#include "nbd/nbd_server.h"

struct serve {
    struct io_loop *loop;
    struct blkdev *dev, *extra_dev;
    struct nbd_server *srv;
    struct nbd_export *exp, *extra;
    struct nbd_listener *lis;
    struct tls_ctx *tls;
    /* options */
    struct io_addr addr;
    bool have_addr;
    struct filedev_config file;
    uint64_t mem;
    const char *name, *extra_name;
    char *cert, *key;
    enum io_backend backend;
    struct nbd_server_config cfg;
    struct faultdev_rule rules[2];
    size_t n_rules;
    bool stopping, splitter;
};

static int
fail(const struct err *err)
{
    (void)fprintf(stderr, "nbdserve: %s: %s\n", err_code_text(err->code),
                  err->msg);
    return 1;
}

static int
number(const char *text, uint64_t max, uint64_t *out)
{
    return text_parse_u64(text, 0, max, out);
}

static int
add_rule(struct serve *s, enum blkdev_op op, char *text)
{
    char *comma = strchr(text, ',');
    uint64_t off, error = 0;

    if (comma) {
        *comma = '\0';
        if (number(comma + 1, 4095, &error) < 0)
            return -EINVAL;
    }
    if (number(text, UINT64_MAX, &off) < 0 || s->n_rules == ARRAY_SIZE(s->rules))
        return -EINVAL;
    s->rules[s->n_rules++] = (struct faultdev_rule){
        .op = op, .off = off, .len = 512, .error = -(int)error
    };
    return 0;
}

enum {
    O_UNIX = 256,
    O_TCP,
    O_FILE,
    O_MEM,
    O_CACHE,
    O_IO,
    O_EXPORT,
    O_TLS,
    O_READONLY,
    O_EXTRA,
    O_HANDSHAKE,
    O_CONNECTIONS,
    O_PAYLOAD,
    O_IN_FLIGHT,
    O_HOLD,
    O_FAIL,
    O_SPLITTER,
};

static const struct option options[] = {
    { "unix", 1, NULL, O_UNIX },
    { "tcp", 1, NULL, O_TCP },
    { "file", 1, NULL, O_FILE },
    { "mem", 1, NULL, O_MEM },
    { "cache", 1, NULL, O_CACHE },
    { "io", 1, NULL, O_IO },
    { "export", 1, NULL, O_EXPORT },
    { "tls", 1, NULL, O_TLS },
    { "readonly", 0, NULL, O_READONLY },
    { "extra", 1, NULL, O_EXTRA },
    { "handshake-ms", 1, NULL, O_HANDSHAKE },
    { "max-connections", 1, NULL, O_CONNECTIONS },
    { "payload-max", 1, NULL, O_PAYLOAD },
    { "max-in-flight", 1, NULL, O_IN_FLIGHT },
    { "hold-reads", 1, NULL, O_HOLD },
    { "fail-writes", 1, NULL, O_FAIL },
    { "splitter", 0, NULL, O_SPLITTER },
    { NULL, 0, NULL, 0 },
};

static int
option(struct serve *s, int opt, char *arg)
{
    uint64_t n;

    switch (opt) {
    case O_UNIX:
        s->addr.is_unix = s->have_addr = true;
        return snprintf(s->addr.host, sizeof s->addr.host, "%s", arg) > 107 ? -1
                                                                            : 0;
    case O_TCP: s->have_addr = true; return io_addr_parse(arg, &s->addr, NULL);
    case O_FILE: s->file.path = arg; return 0;
    case O_MEM: return text_parse_size(arg, &s->mem);
    case O_CACHE:
        s->file.cache = !strcmp(arg, "none") ? FILEDEV_NONE : FILEDEV_WRITEBACK;
        return 0;
    case O_IO:
        s->backend = !strcmp(arg, "epoll") ? IO_BACKEND_EPOLL : IO_BACKEND_URING;
        return 0;
    case O_EXPORT: s->name = arg; return 0;
    case O_TLS:
        s->cert = arg;
        s->key = strchr(arg, ',');
        if (!s->key)
            return -1;
        *s->key++ = '\0';
        return 0;
    case O_READONLY: s->file.read_only = true; return 0;
    case O_EXTRA: s->extra_name = arg; return 0;
    case O_HANDSHAKE:
        if (number(arg, 60000, &n) < 0)
            return -1;
        s->cfg.handshake_ns = n * NSEC_PER_MSEC;
        return 0;
    case O_CONNECTIONS:
        if (number(arg, 100000, &n) < 0)
            return -1;
        s->cfg.max_connections = (unsigned)n;
        return 0;
    case O_PAYLOAD: return text_parse_size(arg, &s->cfg.payload_max);
    case O_IN_FLIGHT:
        if (number(arg, 100000, &n) < 0)
            return -1;
        s->cfg.max_in_flight = (unsigned)n;
        return 0;
    case O_HOLD: return add_rule(s, BLKDEV_READ, arg);
    case O_SPLITTER: s->splitter = true; return 0;
    case O_FAIL: return add_rule(s, BLKDEV_WRITE, arg);
    default: return -1;
    }
}

static int
open_tls(struct serve *s, struct err *err)
{
    struct tls_settings ts = { .side = TLS_SERVER,
                               .client_cert = TLS_CLIENT_CERT_NONE };
    int rc;

    if (!s->cert)
        return 0;
    rc = tls_ctx_new(&ts, &s->tls, err);
    if (rc == 0)
        rc = tls_ctx_load_own(s->tls, s->cert, s->key, err);
    return rc;
}

static int
open_dev(struct serve *s, struct err *err)
{
    struct blkdev *lower;
    int rc;

    if (s->file.path)
        rc = filedev_open(s->loop, &s->file, &lower, err);
    else
        rc = memdev_new(s->loop, s->mem, &lower);
    if (rc < 0)
        return err->num ? rc : err_set(err, rc, ERR_GEN_0002, "no memory");
    if (s->splitter) {
        rc = splitter_open(lower, &s->dev, err);
        if (rc < 0)
            blkdev_close(lower);
        return rc;
    }
    if (!s->n_rules) {
        s->dev = lower;
        return 0;
    }
    rc = faultdev_new(lower, &s->dev);
    if (rc < 0) {
        blkdev_close(lower);
        return err_set(err, rc, ERR_GEN_0002, "no memory");
    }
    faultdev_set(s->dev, s->rules, s->n_rules);
    return 0;
}

static int
open_server(struct serve *s, struct err *err)
{
    struct nbd_export_config ec = { .name = s->name,
                                    .description = "served for a test",
                                    .dev = s->dev,
                                    .read_only = s->file.read_only,
                                    .is_default = true,
                                    .multi_conn = true };
    struct nbd_export_config xc = { .name = s->extra_name };
    struct nbd_listen_config lc = { .addr = s->addr,
                                    .tls = s->tls,
                                    .plain_tcp_for_tests = !s->tls };
    int rc = nbd_server_new(s->loop, &s->cfg, &s->srv, err);

    if (rc == 0)
        rc = nbd_export_add(s->srv, &ec, &s->exp, err);
    if (rc == 0 && s->extra_name) {
        rc = memdev_new(s->loop, 1 << 20, &s->extra_dev);
        xc.dev = s->extra_dev;
        if (rc == 0)
            rc = nbd_export_add(s->srv, &xc, &s->extra, err);
    }
    if (rc == 0)
        rc = nbd_listen(s->srv, &lc, &s->lis, err);
    return rc;
}

static void
extra_gone(void *arg)
{
    struct serve *s = arg;

    io_loop_stop(s->loop);
}

static void
main_gone(void *arg)
{
    struct serve *s = arg;

    s->exp = NULL;
    if (!s->stopping) {
        (void)printf("removed\n");
        (void)fflush(stdout);
    } else if (s->extra) {
        nbd_export_remove(s->extra, extra_gone, s);
    } else {
        io_loop_stop(s->loop);
    }
}

static void
got_signal(void *arg, int sig)
{
    struct serve *s = arg;

    if (sig == SIGUSR1) {
        if (s->n_rules)
            faultdev_release(s->dev);
        return;
    }
    if (sig == SIGUSR2) {
        if (s->exp)
            nbd_export_remove(s->exp, main_gone, s);
        return;
    }
    if (s->stopping)
        return;
    s->stopping = true;
    nbd_listener_close(s->lis);
    if (s->exp)
        nbd_export_remove(s->exp, main_gone, s);
    else
        main_gone(s);
    if (s->n_rules)
        faultdev_release(s->dev);
}

static int
serve(struct serve *s)
{
    static const int signals[] = { SIGTERM, SIGINT, SIGUSR1, SIGUSR2 };
    struct io_loop_config lc = { .backend = s->backend, .workers = 2 };
    struct err err = ERR_INIT;
    struct io_addr real;
    char uri[1024];
    int rc;

    rc = io_loop_new(&lc, &s->loop, &err);
    if (rc == 0)
        rc = io_signals_watch(s->loop, signals, ARRAY_SIZE(signals), got_signal,
                              s, &err);
    if (rc == 0)
        rc = open_tls(s, &err);
    if (rc == 0)
        rc = open_dev(s, &err);
    if (rc == 0)
        rc = open_server(s, &err);
    if (rc < 0)
        return fail(&err);
    nbd_listener_addr(s->lis, &real);
    if (nbd_uri(&real, s->tls && !real.is_unix, s->name, uri, sizeof uri) < 0)
        return 1;
    (void)printf("%s\n", uri);
    (void)fflush(stdout);
    rc = io_loop_run(s->loop);
    nbd_server_free(s->srv);
    blkdev_close(s->dev);
    blkdev_close(s->extra_dev);
    if (s->tls)
        tls_ctx_free(s->tls);
    io_loop_free(s->loop);
    return rc < 0;
}

int
main(int argc, char **argv)
{
    static struct serve s = { .name = "e", .backend = IO_BACKEND_AUTO };
    int opt;

    while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (opt == '?' || option(&s, opt, optarg) < 0) {
            (void)fprintf(stderr, "nbdserve: bad option or value near '%s'\n",
                          argv[optind - 1]);
            return 2;
        }
    }
    if (!s.have_addr || (!s.file.path && !s.mem) || optind < argc ||
        (s.splitter && s.n_rules)) {
        (void)fprintf(stderr, "nbdserve: needs --unix or --tcp, and --file or "
                              "--mem; --splitter holds and fails nothing\n");
        return 2;
    }
    return serve(&s);
}
