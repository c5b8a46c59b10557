/* room: common */
/* The limit: the least that an NBD server can do on this machine, so that the
 * figures of real servers can be set beside what their client allows at all.
 *
 *   limit SOCKET FILE|null SIZE_MB
 *
 * One thread, epoll, as many requests as a read brings, pread and pwrite at
 * once (or nothing, with `null`), the replies of a turn in one write.  It knows
 * EXPORT_NAME's successor GO and nothing else of the negotiation, checks only
 * that a range lies inside, and lets a client that does not read stop
 * everyone: a yardstick, not a server.
 */
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum {
    IN_SIZE = 4 << 20,  /* of requests that wait to be parsed */
    OUT_SIZE = 4 << 20, /* of replies; flushed when half full */
    OPTION_MAX = 4096,
    DATA_MAX = 2 << 20,
    REQUEST = 28,
    REPLY = 16,
};

enum {
    CMD_READ,
    CMD_WRITE,
    CMD_DISC,
    CMD_FLUSH
};

struct conn {
    int fd;
    size_t have, out_n;
    uint8_t in[IN_SIZE], out[OUT_SIZE];
};

static int file_fd = -1;
static uint64_t size;

static uint16_t
get16(const uint8_t *p)
{
    uint16_t v;

    memcpy(&v, p, sizeof v);
    return be16toh(v);
}

static uint32_t
get32(const uint8_t *p)
{
    uint32_t v;

    memcpy(&v, p, sizeof v);
    return be32toh(v);
}

static uint64_t
get64(const uint8_t *p)
{
    uint64_t v;

    memcpy(&v, p, sizeof v);
    return be64toh(v);
}

static void
put16(uint8_t *p, uint16_t v)
{
    v = htobe16(v);
    memcpy(p, &v, sizeof v);
}

static void
put32(uint8_t *p, uint32_t v)
{
    v = htobe32(v);
    memcpy(p, &v, sizeof v);
}

static void
put64(uint8_t *p, uint64_t v)
{
    v = htobe64(v);
    memcpy(p, &v, sizeof v);
}

static int
read_all(int fd, void *buf, size_t n)
{
    for (uint8_t *p = buf; n > 0;) {
        ssize_t k = read(fd, p, n);

        if (k <= 0)
            return -1;
        p += k;
        n -= (size_t)k;
    }
    return 0;
}

static int
write_all(int fd, const void *buf, size_t n)
{
    for (const uint8_t *p = buf; n > 0;) {
        ssize_t k = write(fd, p, n);

        if (k < 0 && errno == EAGAIN)
            continue; /* it is meant to do the least, not to be polite */
        if (k < 0)
            return -1;
        p += k;
        n -= (size_t)k;
    }
    return 0;
}

/* ---- Negotiation ---------------------------------------------------------- */

static int
option_reply(int fd, uint32_t option, uint32_t type, const void *data,
             uint32_t n)
{
    uint8_t head[20];

    put64(head, 0x3e889045565a9);
    put32(head + 8, option);
    put32(head + 12, type);
    put32(head + 16, n);
    if (write_all(fd, head, sizeof head) < 0)
        return -1;
    return n ? write_all(fd, data, n) : 0;
}

static int
negotiate(int fd)
{
    static const uint8_t greeting[18] = "NBDMAGICIHAVEOPT\0\3";
    uint8_t flags[4], head[16], data[OPTION_MAX];

    if (write_all(fd, greeting, sizeof greeting) < 0 ||
        read_all(fd, flags, sizeof flags) < 0)
        return -1;
    for (;;) {
        uint32_t option, n;

        if (read_all(fd, head, sizeof head) < 0)
            return -1;
        option = get32(head + 8);
        n = get32(head + 12);
        if (n > sizeof data || read_all(fd, data, n) < 0)
            return -1;
        if (option == 6 || option == 7) { /* INFO, GO */
            uint8_t info[12];

            put16(info, 0);
            put64(info + 2, size);
            put16(info + 10, 1 | 4 | 256); /* flags, flush, multi-conn */
            if (option_reply(fd, option, 3, info, sizeof info) < 0 ||
                option_reply(fd, option, 1, NULL, 0) < 0)
                return -1;
            if (option == 7)
                return 0;
        } else if (option == 2) { /* ABORT */
            return -1;
        } else if (option_reply(fd, option, 0x80000001u, NULL, 0) < 0) {
            return -1;
        }
    }
}

/* ---- Requests ------------------------------------------------------------- */

/* Runs one and appends its reply; -1 ends the connection. */
static int
request(struct conn *c, const uint8_t *p)
{
    unsigned type = get16(p + 6);
    uint64_t off = get64(p + 16);
    uint32_t len = get32(p + 24);
    uint8_t *out = c->out + c->out_n;

    if (type != CMD_FLUSH && (len > DATA_MAX || off > size || len > size - off))
        return -1;
    put32(out, 0x67446698);
    put32(out + 4, 0);
    memcpy(out + 8, p + 8, 8);
    c->out_n += REPLY;
    switch (type) {
    case CMD_READ:
        if (file_fd >= 0 &&
            pread(file_fd, out + REPLY, len, (off_t)off) != (ssize_t)len)
            return -1;
        c->out_n += len;
        return 0;
    case CMD_WRITE:
        return file_fd < 0 || pwrite(file_fd, p + REQUEST, len, (off_t)off) ==
                                  (ssize_t)len
                   ? 0
                   : -1;
    case CMD_FLUSH: return file_fd < 0 ? 0 : fdatasync(file_fd);
    default: return -1;
    }
}

static int
reply_now(struct conn *c)
{
    int rc = write_all(c->fd, c->out, c->out_n);

    c->out_n = 0;
    return rc;
}

static int
serve(struct conn *c)
{
    ssize_t k = read(c->fd, c->in + c->have, IN_SIZE - c->have);
    size_t at = 0;

    if (k <= 0)
        return k < 0 && errno == EAGAIN ? 0 : -1;
    c->have += (size_t)k;
    while (c->have - at >= REQUEST) {
        const uint8_t *p = c->in + at;
        size_t n = REQUEST + (get16(p + 6) == CMD_WRITE ? get32(p + 24) : 0);

        if (n > REQUEST + DATA_MAX)
            return -1;
        if (c->have - at < n)
            break;
        if (request(c, p) < 0)
            return -1;
        at += n;
        if (c->out_n > OUT_SIZE / 2 && reply_now(c) < 0)
            return -1;
    }
    memmove(c->in, c->in + at, c->have - at);
    c->have -= at;
    return c->out_n ? reply_now(c) : 0;
}

static void
conn_open(int ep, int listener)
{
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC), room = 4 << 20;
    struct conn *c = calloc(1, sizeof *c);
    struct epoll_event ev = { .events = EPOLLIN, .data.ptr = c };

    if (fd < 0 || !c)
        goto out;
    c->fd = fd;
    (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &room, sizeof room);
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof room);
    if (negotiate(fd) < 0 || fcntl(fd, F_SETFL, O_NONBLOCK) < 0 ||
        epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev) < 0)
        goto out;
    return;
out:
    if (fd >= 0)
        (void)close(fd);
    free(c);
}

static void
run(int ep, int listener)
{
    for (;;) {
        struct epoll_event ev[16];
        int n = epoll_wait(ep, ev, 16, -1);

        for (int i = 0; i < n; i++) {
            struct conn *c = ev[i].data.ptr;

            if (!c) {
                conn_open(ep, listener);
            } else if (serve(c) < 0) {
                (void)close(c->fd);
                free(c);
            }
        }
    }
}

int
main(int argc, char **argv)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    struct epoll_event ev = { .events = EPOLLIN, .data.ptr = NULL };
    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int ep = epoll_create1(EPOLL_CLOEXEC);

    if (argc != 4 || strlen(argv[1]) >= sizeof addr.sun_path) {
        (void)fprintf(stderr, "usage: limit SOCKET FILE|null SIZE_MB\n");
        return 2;
    }
    size = strtoull(argv[3], NULL, 10) << 20;
    if (strcmp(argv[2], "null") != 0)
        file_fd = open(argv[2], O_RDWR | O_CLOEXEC);
    memcpy(addr.sun_path, argv[1], strlen(argv[1]));
    if ((strcmp(argv[2], "null") != 0 && file_fd < 0) || listener < 0 ||
        ep < 0 || bind(listener, (struct sockaddr *)&addr, sizeof addr) < 0 ||
        listen(listener, 64) < 0 ||
        epoll_ctl(ep, EPOLL_CTL_ADD, listener, &ev) < 0) {
        perror("limit");
        return 1;
    }
    (void)signal(SIGPIPE, SIG_IGN);
    run(ep, listener);
}
