/* room: http common */
/* The request layer without sockets: head, target, router, chunked body and
 * JSON.  Input: a request as it would be on the wire. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/json.h"
#include "http/http_route.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void
nothing(struct http_req *rq, void *ctx)
{
}

static const struct http_route table[] = {
    { "GET", "/v1/vpgs/{vpg}", 0, 0, nothing, "" },
    { "GET", "/v1/vpgs/statuses", 0, 0, nothing, "" },
    { "PUT", "/v1/vpgsettings/{s}/vms/{vm}/volumes/{v}", 0, 0, nothing, "" },
    { NULL, NULL, 0, 0, NULL, NULL },
};
static const struct http_route *const tables[] = { table };
static const struct http_router router = { tables, 1 };

static void
judge_target(const struct http_head *h)
{
    struct http_target t;
    struct http_match m;
    char allow[64] = "";

    if (http_target_parse(h->target, &t, NULL) < 0)
        return;
    for (size_t i = 0; i < t.n_segments; i++)
        if (!*t.segments[i] || strcmp(t.segments[i], "..") == 0)
            abort();
    if (http_route_match(&router, h->method, &t, &m, allow, sizeof allow) == 0 &&
        !m.route)
        abort();
    http_target_release(&t);
}

static void
judge_body(const struct http_head *h, const char *p, size_t n)
{
    struct http_chunked c = { .state = CHUNK_SIZE };
    struct buf body;
    cJSON *tree = NULL;

    buf_init(&body, 65536);
    if (h->chunked)
        (void)http_chunked_feed(&c, p, n, &body);
    else
        (void)buf_add(&body, p, n < h->length ? n : (size_t)h->length);
    if (body.len &&
        json_parse((const char *)body.data, body.len, 65536, &tree, NULL) == 0)
        cJSON_Delete(tree);
    buf_release(&body);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct http_head h;
    size_t scanned = 0, have = n < HTTP_HEAD_MAX ? n : HTTP_HEAD_MAX;
    int head = http_head_find((const char *)data, have, &scanned);
    char *text;

    if (head <= 0)
        return 0;
    text = malloc((size_t)head + 1);
    if (!text)
        return 0;
    memcpy(text, data, (size_t)head);
    if (http_head_parse(text, (size_t)head, &h, NULL) == 0) {
        judge_target(&h);
        judge_body(&h, (const char *)data + head, n - (size_t)head);
    }
    free(text);
    return 0;
}
