/* Tell the site's manager where this replicator is: at the start, whenever the
 * manager was away, and every half minute.  A thread of its own, because the
 * call blocks; it touches nothing but its copy of the texts. */
#include "replicator/control_announce.h"

#include <netdb.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "common/httpc.h"
#include "common/json.h"
#include "common/log.h"

#define ROOM "replicator"

enum {
    ANNOUNCE_EVERY_S = 30,
    ANNOUNCE_RETRY_S = 1,
    ANNOUNCE_TIMEOUT_MS = 5000,
    ANNOUNCE_BODY_MAX = 4096,
};

struct announce {
    pthread_t thread;
    pthread_mutex_t lock; /* guards stop */
    pthread_cond_t wake;
    bool stop;
    struct httpc *client;
    struct buf body;
};

/* One call; what went wrong is said when it changes. */
static bool
announce_once(struct announce *a, char last[ERR_MSG_MAX])
{
    struct httpc_request rq = { .method = "POST",
                                .path = "/v1/announce",
                                .body = a->body.data,
                                .body_len = a->body.len,
                                .timeout_ms = ANNOUNCE_TIMEOUT_MS };
    struct httpc_response rs;
    struct err err = ERR_INIT;
    int rc = httpc_call(a->client, &rq, &rs, &err);

    if (rc == 0 && rs.status != 200)
        rc = err_set(&err, -EREMOTEIO, ERR_REP_0020,
                     "the manager answers %d to our announcement", rs.status);
    httpc_response_release(&rs);
    if (rc < 0 && strcmp(last, err.msg) != 0)
        log_err(LOG_WARN, ROOM, "", "telling the manager our address", &err);
    if (rc == 0 && last[0])
        log_line(LOG_INFO, ROOM, "", "the manager knows our address");
    snprintf(last, ERR_MSG_MAX, "%s", rc < 0 ? err.msg : "");
    return rc == 0;
}

static void *
announce_thread(void *arg)
{
    struct announce *a = arg;
    char last[ERR_MSG_MAX] = "at first";
    struct timespec until;

    pthread_mutex_lock(&a->lock);
    while (!a->stop) {
        bool told;

        pthread_mutex_unlock(&a->lock);
        told = announce_once(a, last);
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_sec += told ? ANNOUNCE_EVERY_S : ANNOUNCE_RETRY_S;
        pthread_mutex_lock(&a->lock);
        while (!a->stop &&
               pthread_cond_timedwait(&a->wake, &a->lock, &until) == 0)
            ;
    }
    pthread_mutex_unlock(&a->lock);
    return NULL;
}

static int
announce_client(struct announce *a, const struct replicator *rep,
                const char *manager, struct err *err)
{
    struct tls_expect who = { .roles = 1u << TLS_ROLE_MANAGER,
                              .deployment = &rep->cfg.deployment,
                              .site = &rep->cfg.site };
    char url[IO_ADDR_TEXT_MAX + 16];
    struct httpc_settings hs = { .base_url = url,
                                 .tls = rep->client_tls,
                                 .expect = &who,
                                 .user_agent = "holdfastd" };

    snprintf(url, sizeof url, "https://%.270s", manager);
    return httpc_new(&hs, &a->client, err);
}

int
announce_start(const struct replicator *rep, const char *manager,
               struct announce **out, struct err *err)
{
    struct announce *a = calloc(1, sizeof *a);
    pthread_condattr_t attr;
    struct json_writer w;
    int rc;

    if (!a)
        return err_set(err, -ENOMEM, ERR_GEN_0002, "announce: out of memory");
    buf_init(&a->body, ANNOUNCE_BODY_MAX);
    json_begin(&w, &a->body);
    json_open_obj(&w, NULL);
    json_put_uuid(&w, "Identifier", &rep->cfg.id);
    json_put_str(&w, "Name", rep->cfg.name);
    json_put_str(&w, "ControlAddress", rep->cfg.control_address);
    json_put_str(&w, "DataAddress", rep->cfg.data_address);
    json_put_str(&w, "Version", HOLDFAST_VERSION);
    json_close_obj(&w);
    pthread_mutex_init(&a->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&a->wake, &attr);
    pthread_condattr_destroy(&attr);
    rc = announce_client(a, rep, manager, err);
    if (rc == 0 && pthread_create(&a->thread, NULL, announce_thread, a) != 0)
        rc = err_set(err, -EAGAIN, ERR_REP_0019,
                     "a thread for the manager could not be made");
    if (rc < 0) {
        httpc_free(a->client);
        buf_release(&a->body);
        free(a);
        return rc;
    }
    *out = a;
    return 0;
}

int
announce_local_host(const char *manager, char *out, size_t size)
{
    struct addrinfo hints = { .ai_socktype = SOCK_DGRAM }, *list = NULL;
    struct sockaddr_storage own;
    socklen_t len = sizeof own;
    struct io_addr a;
    char port[8];
    int fd = -1, rc = -ENOENT;

    if (io_addr_parse(manager, &a, NULL) < 0)
        return -EINVAL;
    snprintf(port, sizeof port, "%u", a.port);
    if (getaddrinfo(a.host, port, &hints, &list) != 0)
        return -ENOENT;
    fd = socket(list->ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    /* Connecting a datagram socket sends nothing: it only picks the route. */
    if (fd >= 0 && connect(fd, list->ai_addr, list->ai_addrlen) == 0 &&
        getsockname(fd, (struct sockaddr *)&own, &len) == 0 &&
        getnameinfo((struct sockaddr *)&own, len, out, (socklen_t)size, NULL, 0,
                    NI_NUMERICHOST) == 0)
        rc = 0;
    if (fd >= 0)
        (void)close(fd);
    freeaddrinfo(list);
    return rc;
}

void
announce_stop(struct announce *a)
{
    if (!a)
        return;
    pthread_mutex_lock(&a->lock);
    a->stop = true;
    pthread_cond_signal(&a->wake);
    pthread_mutex_unlock(&a->lock);
    pthread_join(a->thread, NULL);
    httpc_free(a->client);
    buf_release(&a->body);
    pthread_mutex_destroy(&a->lock);
    pthread_cond_destroy(&a->wake);
    free(a);
}
