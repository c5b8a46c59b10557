/* What the routes of the API share: who may do what, finding the object,
 * passing a request on to the site that must act, links and times. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/bytes.h"
#include "common/secret.h"
#include "common/text.h"
#include "manager/accounts.h"
#include "manager/manager.h"
#include "manager/sessions.h"

static const struct http_route *const api_tables[] = {
    api_session_routes,   api_password_routes, api_site_routes,
    api_inventory_routes, api_settings_routes, api_vpg_routes,
    api_point_routes,     api_task_routes,     api_alert_routes,
    api_misc_routes,      api_join_routes,     api_volume_routes,
    api_renew_routes,
};
const struct http_router manager_api_router = { api_tables,
                                                ARRAY_SIZE(api_tables) };

static const struct http_route *const peer_tables[] = { api_peer_routes };
const struct http_router manager_peer_router = { peer_tables,
                                                 ARRAY_SIZE(peer_tables) };

static const struct http_route *const local_tables[] = {
    api_local_routes, api_local_password_routes
};
const struct http_router manager_local_router = { local_tables,
                                                  ARRAY_SIZE(local_tables) };

static const char *const privilege_names[PRIV_COUNT] = {
    "none",      "session",   "Viewer",      "TestFailover",
    "ManageVpg", "ManageVra", "ManageSites",
};

const char *
privilege_name(unsigned privilege)
{
    return privilege < PRIV_COUNT ? privilege_names[privilege] : "?";
}

bool
api_may(struct manager *m, const char *user, enum privilege privilege)
{
    /* Every account is an administrator's, who holds each privilege. */
    return privilege == PRIV_NONE || accounts_known(m->accounts, user);
}

static const char *
session_user(struct http_req *rq, struct manager *m)
{
    const char *token = http_req_header(rq, "x-holdfast-session");
    const char *background = http_req_header(rq, "x-holdfast-background");
    enum session_use use = background && strcmp(background, "1") == 0
                               ? SESSION_BACKGROUND
                               : SESSION_ACTIVE;

    if (!token)
        token = http_req_header(rq, "x-zerto-session");
    return token ? sessions_check(m->sessions, token, http_loop_now_ms(), use,
                                  NULL)
                 : NULL;
}

int
api_gate(struct http_req *rq, const struct http_route *route, void *ctx)
{
    struct manager *m = ctx;
    const char *user;

    if (route->privilege == PRIV_NONE)
        return 0;
    user = session_user(rq, m);
    if (!user) {
        http_reply_fail(rq, 401, ERR_API_0006,
                        "there is no session, or it has ended");
        return -1;
    }
    http_req_set_user(rq, user);
    if (!api_may(m, user, (enum privilege)route->privilege)) {
        http_reply_fail(rq, 403, ERR_API_0009, "user %s lacks the privilege %s",
                        user, privilege_name(route->privilege));
        return -1;
    }
    return 0;
}

/* The other managers' listener: a paired site's manager, or pairing. */
int
api_peer_gate(struct http_req *rq, const struct http_route *route, void *ctx)
{
    struct manager *m = ctx;
    const struct tls_identity *who = http_req_peer(rq);
    const struct peer *p;

    if (route->privilege == PRIV_NONE)
        return 0;
    p = who && who->role == TLS_ROLE_MANAGER ? peers_find(m, &who->site) : NULL;
    if (!p || !uuid_equal(&p->deployment, &who->deployment)) {
        http_reply_fail(rq, 403, ERR_API_0009,
                        "only managers of paired sites may call this");
        return -1;
    }
    http_req_set_user(rq, p->name);
    return 0;
}

/* --- parameters ------------------------------------------------------------------------- */

int
api_uuid(struct http_req *rq, const char *param, struct uuid *out)
{
    if (uuid_parse(http_req_path(rq, param), out) == 0)
        return 0;
    http_reply_fail(rq, 400, ERR_API_0014, "%s is no identifier",
                    http_req_path(rq, param));
    return -EINVAL;
}

struct vpg *
api_vpg(struct http_req *rq, struct manager *m)
{
    struct uuid id;
    struct vpg *v;

    if (api_uuid(rq, "vpg", &id) < 0)
        return NULL;
    v = vpgs_find(m, &id);
    if (!v)
        http_reply_fail(rq, 404, ERR_API_0013, "there is no VPG %s",
                        http_req_path(rq, "vpg"));
    return v;
}

bool
api_filter(struct http_req *rq, const char *param, const char *value)
{
    const char *want = http_req_query(rq, param);

    return !want || !*want || text_icmp(want, value) == 0;
}

bool
api_filter_enum(struct http_req *rq, const char *param, unsigned value,
                const char *const *names, unsigned n_names)
{
    const char *want = http_req_query(rq, param);
    char digits[16];

    if (!want || !*want)
        return true;
    (void)snprintf(digits, sizeof digits, "%u", value);
    return strcmp(want, digits) == 0 ||
           (value < n_names && text_icmp(want, names[value]) == 0);
}

int
api_time_range(struct http_req *rq, uint64_t *out_from, uint64_t *out_to)
{
    const char *from = http_req_query(rq, "startDate"),
               *to = http_req_query(rq, "endDate");

    *out_from = 0;
    *out_to = JSON_INT_MAX;
    if ((from && *from && time_parse(from, out_from) < 0) ||
        (to && *to && time_parse(to, out_to) < 0)) {
        http_reply_fail(rq, 400, ERR_API_0014,
                        "startDate or endDate is no time: 2026-11-22T03:32:48Z is one");
        return -EINVAL;
    }
    return 0;
}

int
api_window(struct http_req *rq, uint64_t *out_offset, uint64_t *out_limit)
{
    const char *offset = http_req_query(rq, "offset"),
               *limit = http_req_query(rq, "limit");

    *out_offset = 0;
    *out_limit = UINT64_MAX;
    if ((offset && text_parse_u64(offset, 0, JSON_INT_MAX, out_offset) < 0) ||
        (limit && text_parse_u64(limit, 0, JSON_INT_MAX, out_limit) < 0)) {
        http_reply_fail(rq, 400, ERR_API_0014, "offset or limit is no number");
        return -EINVAL;
    }
    return 0;
}

/* --- answers ------------------------------------------------------------------------------ */

void
api_names(struct http_req *rq, const char *const *names, unsigned n)
{
    struct json_writer w;
    struct buf out;

    buf_init(&out, API_JSON_MAX);
    json_begin(&w, &out);
    json_open_array(&w, NULL);
    for (unsigned i = 0; i < n; i++)
        json_put_str(&w, NULL, names[i]);
    json_close_array(&w);
    http_reply_buf(rq, 200, &out);
}

void
put_time(struct json_writer *w, const char *name, uint64_t ms)
{
    char text[TIME_SIZE];

    if (ms)
        json_put_str(w, name, time_text(ms, text));
    else
        json_put_null(w, name);
}

void
put_link(struct json_writer *w, const char *name, struct manager *m,
         const char *kind, const char *id, const char *type)
{
    char href[400];
    const char *host =
        *m->cfg.advertise_host ? m->cfg.advertise_host : "localhost";

    (void)snprintf(href, sizeof href,
                   strchr(host, ':') ? "https://[%s]:%u/v1/%s%s%s"
                                     : "https://%s:%u/v1/%s%s%s",
                   host, m->api_port, kind, *id ? "/" : "", id);
    json_open_obj(w, name);
    json_put_str(w, "href", href);
    json_put_str(w, "identifier", id);
    json_put_null(w, "rel");
    json_put_str(w, "type", type);
    json_close_obj(w);
}

void
put_site_link(struct json_writer *w, const char *name, struct manager *m,
              const struct uuid *site)
{
    char id[UUID_TEXT_SIZE];
    bool own = uuid_equal(site, &m->site);

    uuid_format(site, id);
    put_link(w, name, m, own ? "localsite" : "peersites", id,
             own ? "LocalSiteApi" : "PeerSiteApi");
}

void
api_start(struct http_req *rq, struct manager *m, const struct op_type *type,
          const struct vpg *v, cJSON *params)
{
    struct err err = ERR_INIT;
    struct op *op = NULL, *other = v ? ops_running(m, &v->id.u) : NULL;
    char id[TASK_ID_SIZE];

    /* One at a time changes a VPG. */
    if (other && !op_beside(type)) {
        cJSON_Delete(params);
        http_reply_fail(rq, 409, ERR_MGR_0011,
                        "VPG %s: the task %s is still running", v->name,
                        other->type->task);
        return;
    }
    if (op_start(m, type, v, http_req_user(rq), params, &op, &err) < 0) {
        http_reply_err(rq, http_status_of(err.num), &err);
        return;
    }
    op_task_id(op, id);
    http_reply_text(rq, 200, id);
}

/* --- passing on ------------------------------------------------------------------------------ */

void
api_not_forwarded(struct http_req *rq, const struct rpc *r)
{
    struct err err = ERR_INIT;

    if (r->err.code == ERR_API_0015) /* we are stopping */
        err = r->err;
    else
        (void)err_set(&err, r->rc, ERR_MGR_0012,
                      "the other site's manager, which must do this, does not answer: %s",
                      r->err.msg);
    http_reply_err(rq, http_status_of(r->rc), &err);
}

static void
forward_done(struct rpc *r)
{
    struct http_req *rq = r->arg;

    if (r->rc < 0)
        api_not_forwarded(rq, r);
    else
        http_reply(rq, r->status, (char *)r->text.data, r->text.len);
}

bool
api_forwarded(struct http_req *rq, struct manager *m, const struct vpg *v,
              enum side side)
{
    const struct uuid *site = vpgs_site(v, side);
    const struct buf *given = http_req_body(rq);
    struct peer *p = peers_find(m, site);
    struct err err = ERR_INIT;
    struct json_writer w;
    struct rpc *r = NULL;
    struct buf body;

    if (uuid_equal(site, &m->site))
        return false;
    if (http_req_is_local(rq)) {
        http_reply_fail(rq, 409, ERR_MGR_0012,
                        "the managers do not agree on which site must act for VPG %s",
                        v->name);
        return true;
    }
    if (!p || !p->dest) {
        http_reply_fail(rq, 502, ERR_MGR_0012,
                        "VPG %s: its other site is not paired with this one",
                        v->name);
        return true;
    }
    buf_init(&body, 2 * MIB);
    json_begin(&w, &body);
    json_open_obj(&w, NULL);
    json_put_str(&w, "Method", http_req_method(rq));
    json_put_str(&w, "Target", http_req_target(rq));
    json_put_str(&w, "User", http_req_user(rq));
    json_put_strn(&w, "Body", given->len ? (char *)given->data : "", given->len);
    json_close_obj(&w);
    if (!body.failed)
        r = rpc_new(p->dest, "POST", "/peer/v1/forward", &body, forward_done,
                    rq);
    if (r) {
        r->raw = true;
        r->max_bytes = API_JSON_MAX;
        r->timeout_ms = 60000;
    }
    if (rpc_submit(m->workers, r, &err) < 0)
        http_reply_err(rq, 503, &err);
    secret_buf_release(&body);
    return true;
}

/* --- time --------------------------------------------------------------------------------------- */

uint64_t
wall_ms(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_REALTIME, &ts);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / NSEC_PER_MSEC;
}

char *
time_text(uint64_t ms, char out[TIME_SIZE])
{
    time_t s = (time_t)(ms / 1000);
    struct tm tm;
    size_t n;

    gmtime_r(&s, &tm);
    n = strftime(out, TIME_SIZE, "%Y-%m-%dT%H:%M:%S", &tm);
    (void)snprintf(out + n, TIME_SIZE - n, ".%03uZ", (unsigned)(ms % 1000));
    return out;
}

static int
fraction_ms(const char **rest)
{
    int ms = 0, scale = 100;

    if (**rest != '.')
        return 0;
    for ((*rest)++; **rest >= '0' && **rest <= '9'; (*rest)++) {
        ms += (**rest - '0') * scale;
        scale /= 10;
    }
    return ms;
}

static bool
day_exists(const struct tm *tm)
{
    static const uint8_t days[] = { 31, 29, 31, 30, 31, 30,
                                    31, 31, 30, 31, 30, 31 };
    int year = tm->tm_year + 1900;
    bool leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);

    return tm->tm_mday <= days[tm->tm_mon] - (tm->tm_mon == 1 && !leap);
}

int
time_parse(const char *text, uint64_t *out_ms)
{
    struct tm tm = { .tm_mday = 1 };
    const char *rest;
    time_t s;
    int ms = 0;

    if (strlen(text) >= 10 && strspn(text, "0123456789") == strlen(text))
        return text_parse_u64(text, 0, JSON_INT_MAX, out_ms);
    rest = strptime(text, "%Y-%m-%d", &tm);
    if (rest && (*rest == 'T' || *rest == ' ')) {
        rest = strptime(rest + 1, "%H:%M:%S", &tm);
        if (rest)
            ms = fraction_ms(&rest);
    }
    if (!rest || tm.tm_year < 70 || !day_exists(&tm))
        return -EINVAL;
    if (*rest == 'Z' || *rest == 'z') {
        rest++;
        s = timegm(&tm);
    } else {
        tm.tm_isdst = -1;
        s = mktime(&tm); /* no zone: the server's, says the reference */
    }
    if (*rest || s < 0)
        return -EINVAL;
    *out_ms = (uint64_t)s * 1000 + (uint64_t)ms;
    return 0;
}

/* --- for docs/api.md ------------------------------------------------------------------------------ */

int
manager_print_routes(struct buf *out)
{
    const struct http_router *r = &manager_api_router;

    (void)buf_addf(out,
                   "| method | path | privilege | what |\n| --- | --- | --- | --- |\n");
    for (size_t i = 0; i < r->n_tables; i++)
        for (const struct http_route *row = r->tables[i]; row->method; row++)
            (void)buf_addf(out, "| %s | `%s` | %s | %s |\n", row->method,
                           row->path, privilege_name(row->privilege), row->doc);
    return out->failed;
}
