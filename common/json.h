/* JSON at the borders: a strict reader in front of cJSON, typed getters, and a
 * writer into a bounded buffer.
 *
 * The reader takes RFC 8259 and nothing else: UTF-8 without NUL (also not as
 * \u0000), paired surrogates, no name twice in an object (upper and lower case
 * being the same), a bounded size and depth, integers only within +-(2^53 - 1),
 * which a double holds exactly (larger ones travel as strings), fractions within
 * the same bounds.  Any thread. */
#ifndef HOLDFAST_COMMON_JSON_H
#define HOLDFAST_COMMON_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cjson/cJSON.h>

#include "common/buf.h"
#include "common/err.h"
#include "common/id.h"

enum {
    JSON_DEPTH_MAX = 32
};
#define JSON_INT_MAX ((INT64_C(1) << 53) - 1)

/* Check n bytes of text and parse them.  *out_root: the caller's, to be freed
 * with cJSON_Delete().  -EBADMSG, -EMSGSIZE or -ENOMEM. */
int json_parse(const char *text, size_t n, size_t max_bytes, cJSON **out_root,
               struct err *err);

/* The member by that name in any case; NULL when absent, null, or when obj is
 * NULL or no object. */
const cJSON *json_get(const cJSON *obj, const char *name);

/* Typed members: 1 found, 0 absent or null (JSON_OPTIONAL only), -EINVAL with a
 * sentence that names the member.  Results are untouched unless 1. */
enum json_need {
    JSON_OPTIONAL,
    JSON_REQUIRED
};

/* Borrowed from the tree. */
int json_str(const cJSON *obj, const char *name, enum json_need need,
             const char **out_value, struct err *err);
/* A number without fraction, or its decimal digits in a string. */
int json_u64(const cJSON *obj, const char *name, enum json_need need,
             uint64_t min, uint64_t max, uint64_t *out_value, struct err *err);
int json_i64(const cJSON *obj, const char *name, enum json_need need,
             int64_t min, int64_t max, int64_t *out_value, struct err *err);
/* true, false, or the strings "true" and "false" in any case. */
int json_bool(const cJSON *obj, const char *name, enum json_need need,
              bool *out_value, struct err *err);
int json_uuid(const cJSON *obj, const char *name, enum json_need need,
              struct uuid *out_value, struct err *err);
int json_obj(const cJSON *obj, const char *name, enum json_need need,
             const cJSON **out_value, struct err *err);
int json_array(const cJSON *obj, const char *name, enum json_need need,
               const cJSON **out_value, struct err *err);
/* For trees that were checked before, or whose gaps do not matter: `otherwise`
 * when the member is absent or no such value. */
uint64_t json_u64_or(const cJSON *obj, const char *name, uint64_t otherwise);
const char *
json_str_or(const cJSON *obj, const char *name, const char *otherwise);

/* The writer.  name is NULL inside arrays and at the top.  Failures stick in
 * the buffer (buf.failed), so that one check at the end is enough.  Strings
 * are foreign text: bytes that are not UTF-8 become U+FFFD. */
struct json_writer {
    struct buf *out;
    bool comma; /* the next value needs one before it */
};

void json_begin(struct json_writer *w, struct buf *out);
void json_open_obj(struct json_writer *w, const char *name);
void json_close_obj(struct json_writer *w);
void json_open_array(struct json_writer *w, const char *name);
void json_close_array(struct json_writer *w);
void json_put_str(struct json_writer *w, const char *name, const char *value);
void json_put_str_or_null(struct json_writer *w, const char *name,
                          const char *value); /* NULL: null */
/* As json_put_str for n bytes. */
void json_put_strn(struct json_writer *w, const char *name, const char *value,
                   size_t n);
void json_put_u64(struct json_writer *w, const char *name, uint64_t value);
void json_put_i64(struct json_writer *w, const char *name, int64_t value);
/* As a string of digits: for values that may pass 2^53. */
void json_put_u64_text(struct json_writer *w, const char *name, uint64_t value);
void json_put_double(struct json_writer *w, const char *name, double value);
void json_put_bool(struct json_writer *w, const char *name, bool value);
void json_put_null(struct json_writer *w, const char *name);
void
json_put_uuid(struct json_writer *w, const char *name, const struct uuid *value);
/* A tree from json_parse(), as it is. */
void json_put_tree(struct json_writer *w, const char *name, const cJSON *tree);

#endif
