/* room: common */
/* The strict JSON reader.  What is accepted must be written by the writer and
 * be accepted again. */
#include <stdint.h>
#include <stdlib.h>

#include "common/json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    cJSON *root = NULL, *again = NULL;
    struct json_writer w;
    struct buf out;
    struct uuid id;
    uint64_t u;
    int64_t i;
    bool b;

    if (json_parse((const char *)data, n, 65536, &root, NULL) < 0)
        return 0;
    (void)json_u64(root, "a", JSON_OPTIONAL, 0, UINT64_MAX, &u, NULL);
    (void)json_i64(root, "a", JSON_OPTIONAL, INT64_MIN, INT64_MAX, &i, NULL);
    (void)json_bool(root, "a", JSON_OPTIONAL, &b, NULL);
    (void)json_uuid(root, "a", JSON_OPTIONAL, &id, NULL);
    buf_init(&out, 1024 * 1024);
    json_begin(&w, &out);
    json_open_array(&w, NULL);
    json_put_tree(&w, NULL, root);
    json_put_strn(&w, NULL, (const char *)data, n);
    json_close_array(&w);
    /* One level was added, so depth may now refuse; nothing else may. */
    if (!out.failed && json_parse((const char *)out.data, out.len, 1024 * 1024,
                                  &again, NULL) == -EBADMSG)
        abort();
    cJSON_Delete(root);
    cJSON_Delete(again);
    buf_release(&out);
    return 0;
}
