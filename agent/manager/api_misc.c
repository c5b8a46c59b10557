/* Small things that clients ask: health, licence, the server's time. */
#include <string.h>
#include <time.h>

#include "common/bytes.h"
#include "manager/manager.h"

static void
health(struct http_req *rq, void *ctx)
{
    UNUSED(ctx);
    http_reply(rq, 200, "{\"Status\":\"ok\"}", 15);
}

/* There are no licences; the answer keeps clients going that look at one. */
static void
license(struct http_req *rq, void *ctx)
{
    struct manager *m = ctx;
    struct json_writer w;
    struct list *pos;
    struct buf out;
    unsigned n = 0;

    list_for_each (pos, &m->vpgs) {
        const struct vpg *v = list_entry(pos, struct vpg, link);

        for (unsigned i = 0; i < v->n_volumes; i++)
            n += i == 0 || !uuid_equal(&v->volumes[i].vm, &v->volumes[i - 1].vm);
    }
    buf_init(&out, API_JSON_MAX);
    json_begin(&w, &out);
    json_open_obj(&w, NULL);
    json_open_obj(&w, "Details");
    json_put_str(&w, "LicenseKey", "none");
    json_put_str(&w, "LicenseType", "Apache-2.0");
    json_put_str(&w, "ExpiryTime", "2999-12-31T00:00:00.000Z");
    json_put_u64(&w, "MaxVms", 1000000);
    json_close_obj(&w);
    json_open_obj(&w, "Usage");
    json_put_u64(&w, "TotalVmsCount", n);
    json_open_array(&w, "SitesUsage");
    json_open_obj(&w, NULL);
    json_put_uuid(&w, "SiteIdentifier", &m->site);
    json_put_str(&w, "SiteName", m->site_name);
    json_put_u64(&w, "ProtectedVmsCount", n);
    json_close_obj(&w);
    json_close_array(&w);
    json_close_obj(&w);
    json_close_obj(&w);
    http_reply_buf(rq, 200, &out);
}

static void
time_utc(struct http_req *rq, void *ctx)
{
    char text[TIME_SIZE];

    UNUSED(ctx);
    http_reply_text(rq, 200, time_text(wall_ms(), text));
}

static void
time_local(struct http_req *rq, void *ctx)
{
    uint64_t ms = wall_ms();
    time_t s = (time_t)(ms / 1000);
    char text[64];
    struct tm tm;
    size_t n;

    UNUSED(ctx);
    localtime_r(&s, &tm);
    n = strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &tm);
    n += (size_t)snprintf(text + n, sizeof text - n, ".%03u",
                          (unsigned)(ms % 1000));
    (void)strftime(text + n, sizeof text - n, "%z", &tm);
    http_reply_text(rq, 200, text);
}

static void
time_argument(struct http_req *rq, void *ctx)
{
    const char *given = http_req_query(rq, "dateTime");
    char text[TIME_SIZE];
    uint64_t ms;

    UNUSED(ctx);
    if (!given || time_parse(given, &ms) < 0)
        http_reply_fail(rq, 400, ERR_API_0014,
                        "dateTime is no time: 2026-11-22T03:32:48Z is one");
    else
        http_reply_text(rq, 200, time_text(ms, text));
}

const struct http_route api_misc_routes[] = {
    { "GET", "/v1/health", PRIV_NONE, 4096, health,
      "ok, when the manager serves." },
    { "GET", "/v1/license", PRIV_VIEWER, 0, license,
      "For clients that ask; there are no licences." },
    { "GET", "/v1/serverDateTime/serverDateTimeUtc", PRIV_SESSION, 0, time_utc,
      "The server's time, UTC." },
    { "GET", "/v1/serverDateTime/serverDateTimeLocal", PRIV_SESSION, 0,
      time_local, "The same in its own zone." },
    { "GET", "/v1/serverDateTime/dateTimeArgument", PRIV_SESSION, 0,
      time_argument, "dateTime as the server reads it." },
    { NULL, NULL, 0, 0, NULL, NULL },
};
