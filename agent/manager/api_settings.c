/* vpgSettings: drafts of VPGs, kept in memory for half an hour without use,
 * until they are committed. */
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/text.h"
#include "manager/manager.h"

enum {
    DRAFTS_MAX = 200,
    DRAFT_IDLE_MS = 30 * 60 * 1000,
};

static void
draft_free(struct draft *d)
{
    list_del(&d->link);
    cJSON_Delete(d->tree);
    free(d);
}

static void
drop_old(struct manager *m)
{
    uint64_t now = http_loop_now_ms();
    struct list *pos, *tmp;

    list_for_each_safe (pos, tmp, &m->drafts) {
        struct draft *d = list_entry(pos, struct draft, link);

        if (now - d->used_ms >= DRAFT_IDLE_MS)
            draft_free(d);
    }
}

static struct draft *
find_draft(struct http_req *rq, struct manager *m)
{
    struct list *pos;
    struct uuid id;

    drop_old(m);
    if (api_uuid(rq, "settings", &id) < 0)
        return NULL;
    /* clang does not see that drop_old() takes what it frees off the list.
     * NOLINTNEXTLINE(clang-analyzer-unix.Malloc) */
    list_for_each (pos, &m->drafts) {
        struct draft *d = list_entry(pos, struct draft, link);

        if (uuid_equal(&d->id, &id)) { /* NOLINT(clang-analyzer-unix.Malloc) */
            d->used_ms = http_loop_now_ms();
            return d;
        }
    }
    http_reply_fail(rq, 404, ERR_API_0013,
                    "there are no settings %s: committed, abandoned, or 30 minutes old",
                    http_req_path(rq, "settings"));
    return NULL;
}

static void
set_text(cJSON *tree, const char *name, const char *value)
{
    cJSON_ReplaceItemInObject(tree, name, cJSON_CreateString(value));
}

/* What settings of an earlier release lack. */
static void
complete(cJSON *tree)
{
    cJSON *journal = cJSON_GetObjectItem(tree, "Journal");

    if (cJSON_IsObject(journal) && !cJSON_GetObjectItem(journal, "ResyncFull"))
        (void)cJSON_AddStringToObject(journal, "ResyncFull", "Ask");
}

/* Settings of an existing VPG, or defaults with this site as the protected
 * one; NULL when answered. */
static cJSON *
start_tree(struct http_req *rq, struct manager *m, const cJSON *body,
           bool *out_editing)
{
    const char *text;
    char id[UUID_TEXT_SIZE];
    struct err err = ERR_INIT;
    struct vpg *v = NULL;
    struct uuid vpg;
    cJSON *tree;
    int rc = json_str(body, "VpgIdentifier", JSON_OPTIONAL, &text, &err);

    *out_editing = rc == 1 && *text;
    if (*out_editing &&
        (uuid_parse(text, &vpg) < 0 || !(v = vpgs_find(m, &vpg)))) {
        http_reply_fail(rq, 404, ERR_API_0013,
                        "there is no VPG with the VpgIdentifier given");
        return NULL;
    }
    tree =
        v && v->settings ? cJSON_Duplicate(v->settings, true) : settings_new();
    if (tree && v)
        complete(tree);
    if (tree && !v) {
        uuid_format(&m->site, id);
        set_text(cJSON_GetObjectItem(tree, "Basic"), "ProtectedSiteIdentifier",
                 id);
    }
    if (tree && settings_merge(tree, body, &err) == 0)
        return tree;
    cJSON_Delete(tree);
    if (err.num)
        http_reply_err(rq, 400, &err);
    else
        http_reply_fail(rq, 503, ERR_GEN_0002, "settings: out of memory");
    return NULL;
}

static void
settings_post(struct http_req *rq, void *ctx)
{
    struct manager *m = ctx;
    struct draft *d;
    const cJSON *body;
    struct list *pos;
    unsigned n = 0;
    char id[UUID_TEXT_SIZE];

    if (http_req_json(rq, &body) < 0)
        return;
    drop_old(m);
    list_for_each (pos, &m->drafts)
        n++;
    d = n < DRAFTS_MAX ? calloc(1, sizeof *d) : NULL;
    if (!d || pki_uuid(&d->id, NULL) < 0) {
        free(d);
        http_reply_fail(rq, 503, ERR_API_0015,
                        "%u settings are open already: commit or delete some",
                        n);
        return;
    }
    d->tree = start_tree(rq, m, body, &d->editing);
    if (!d->tree) {
        free(d);
        return;
    }
    d->used_ms = http_loop_now_ms();
    uuid_format(&d->id, id);
    set_text(d->tree, "VpgSettingsIdentifier", id);
    list_push_back(&m->drafts, &d->link);
    http_reply_text(rq, 200, id);
}

static void
reply_tree(struct http_req *rq, const cJSON *tree)
{
    struct json_writer w;
    struct buf out;

    buf_init(&out, API_JSON_MAX);
    json_begin(&w, &out);
    if (tree)
        json_put_tree(&w, NULL, tree);
    else
        json_put_null(&w, NULL);
    http_reply_buf(rq, 200, &out);
}

static void
settings_list(struct http_req *rq, void *ctx)
{
    struct manager *m = ctx;
    struct json_writer w;
    struct list *pos;
    struct buf out;

    drop_old(m);
    buf_init(&out, API_JSON_MAX);
    json_begin(&w, &out);
    json_open_array(&w, NULL);
    list_for_each (pos, &m->drafts)
        json_put_tree(&w, NULL, list_entry(pos, struct draft, link)->tree);
    json_close_array(&w);
    http_reply_buf(rq, 200, &out);
}

static void
settings_get(struct http_req *rq, void *ctx)
{
    struct draft *d = find_draft(rq, ctx);

    if (d)
        reply_tree(rq, d->tree);
}

static void
settings_delete(struct http_req *rq, void *ctx)
{
    struct draft *d = find_draft(rq, ctx);

    if (!d)
        return;
    draft_free(d);
    http_reply_empty(rq, 200);
}

/* The identifiers are not the client's to change. */
static void
keep_identifiers(struct draft *d, const cJSON *old)
{
    char id[UUID_TEXT_SIZE];
    const cJSON *vpg = cJSON_GetObjectItem(old, "VpgIdentifier");

    uuid_format(&d->id, id);
    set_text(d->tree, "VpgSettingsIdentifier", id);
    cJSON_ReplaceItemInObject(d->tree, "VpgIdentifier",
                              cJSON_Duplicate(vpg, true));
}

static void
settings_put(struct http_req *rq, void *ctx)
{
    struct draft *d = find_draft(rq, ctx);
    struct err err = ERR_INIT;
    const cJSON *body;
    cJSON *fresh;

    if (!d || http_req_json(rq, &body) < 0)
        return;
    fresh = cJSON_Duplicate(d->tree, true);
    if (!fresh || (body && settings_merge(fresh, body, &err) < 0)) {
        cJSON_Delete(fresh);
        http_reply_err(rq, 400, &err);
        return;
    }
    cJSON *old = d->tree;

    d->tree = fresh;
    keep_identifiers(d, old);
    cJSON_Delete(old);
    http_reply_empty(rq, 200);
}

/* --- parts ---------------------------------------------------------------------------------- */

static const struct {
    const char *path, *member;
} parts[] = {
    { "basic", "Basic" },           { "bootgroup", "BootGroups" },
    { "scripting", "Scripting" },   { "recovery", "Recovery" },
    { "journal", "Journal" },       { "scratch", "Scratch" },
    { "ltr", "LongTermRetention" }, { "networks", "Networks" },
};

static const char *
part_of(struct http_req *rq)
{
    const char *name = http_req_path(rq, "part");

    for (size_t i = 0; i < ARRAY_SIZE(parts); i++)
        if (text_icmp(parts[i].path, name) == 0)
            return parts[i].member;
    http_reply_fail(rq, 404, ERR_API_0004, "settings have no part %s", name);
    return NULL;
}

static void
part_get(struct http_req *rq, void *ctx)
{
    struct draft *d = find_draft(rq, ctx);
    const char *part = d ? part_of(rq) : NULL;

    if (part)
        reply_tree(rq, cJSON_GetObjectItem(d->tree, part));
}

static void
part_put(struct http_req *rq, void *ctx)
{
    struct draft *d = find_draft(rq, ctx);
    const char *part = d ? part_of(rq) : NULL;
    struct err err = ERR_INIT;
    const cJSON *body;
    cJSON *fresh;

    if (!part || http_req_json(rq, &body) < 0)
        return;
    fresh = cJSON_Duplicate(cJSON_GetObjectItem(d->tree, part), true);
    if (fresh && cJSON_IsObject(fresh) && body &&
        settings_merge(fresh, body, &err) < 0) {
        cJSON_Delete(fresh);
        http_reply_err(rq, 400, &err);
        return;
    }
    if (fresh)
        cJSON_ReplaceItemInObject(d->tree, part, fresh);
    http_reply_empty(rq, 200);
}

static void
part_delete(struct http_req *rq, void *ctx)
{
    struct draft *d = find_draft(rq, ctx);
    const char *part = d ? part_of(rq) : NULL;
    cJSON *fresh;

    if (!part)
        return;
    fresh = settings_new();
    if (fresh)
        cJSON_ReplaceItemInObject(d->tree, part,
                                  cJSON_DetachItemFromObject(fresh, part));
    cJSON_Delete(fresh);
    http_reply_empty(rq, 200);
}

/* --- VMs ------------------------------------------------------------------------------------- */

static cJSON *
vm_list(struct draft *d)
{
    return cJSON_GetObjectItem(d->tree, "Vms");
}

static cJSON *
vm_in(struct draft *d, const char *id, int *out_index)
{
    cJSON *vm;
    int i = 0;

    cJSON_ArrayForEach (vm, vm_list(d)) {
        const char *have =
            cJSON_GetStringValue(cJSON_GetObjectItem(vm, "VmIdentifier"));

        if (have && text_icmp(have, id) == 0) {
            *out_index = i;
            return vm;
        }
        i++;
    }
    return NULL;
}

static cJSON *
find_vm(struct http_req *rq, struct manager *m, struct draft **out_draft,
        int *out_index)
{
    struct draft *d = find_draft(rq, m);
    cJSON *vm = d ? vm_in(d, http_req_path(rq, "vm"), out_index) : NULL;

    if (d && !vm)
        http_reply_fail(rq, 404, ERR_API_0013, "the settings have no VM %s",
                        http_req_path(rq, "vm"));
    *out_draft = d;
    return vm;
}

static void
vms_get(struct http_req *rq, void *ctx)
{
    struct draft *d = find_draft(rq, ctx);

    if (d)
        reply_tree(rq, vm_list(d));
}

static void
vms_post(struct http_req *rq, void *ctx)
{
    struct draft *d = find_draft(rq, ctx);
    struct err err = ERR_INIT;
    const cJSON *body;
    const char *id;
    cJSON *vm;
    int index;

    if (!d || http_req_json(rq, &body) < 0)
        return;
    if (json_str(body, "VmIdentifier", JSON_REQUIRED, &id, &err) < 0) {
        http_reply_err(rq, 400, &err);
        return;
    }
    if (vm_in(d, id, &index)) {
        http_reply_fail(rq, 400, ERR_MGR_0009,
                        "VM %s is in these settings already", id);
        return;
    }
    if (cJSON_GetArraySize(vm_list(d)) >= VPG_VOLUMES_MAX) {
        http_reply_fail(rq, 400, ERR_MGR_0009, "a VPG has at most %d VMs",
                        VPG_VOLUMES_MAX);
        return;
    }
    vm = settings_vm_new();
    if (!vm || settings_merge(vm, body, &err) < 0) {
        cJSON_Delete(vm);
        http_reply_err(rq, 400, &err);
        return;
    }
    cJSON_AddItemToArray(vm_list(d), vm);
    http_reply_empty(rq, 200);
}

static void
vm_get(struct http_req *rq, void *ctx)
{
    struct draft *d;
    int index;
    cJSON *vm = find_vm(rq, ctx, &d, &index);

    if (vm)
        reply_tree(rq, vm);
}

static void
vm_put(struct http_req *rq, void *ctx)
{
    struct draft *d;
    int index;
    cJSON *vm = find_vm(rq, ctx, &d, &index), *fresh, *id;
    struct err err = ERR_INIT;
    const cJSON *body;

    if (!vm || http_req_json(rq, &body) < 0)
        return;
    fresh = cJSON_Duplicate(vm, true);
    id = cJSON_Duplicate(cJSON_GetObjectItem(vm, "VmIdentifier"), true);
    if (!fresh || !id || (body && settings_merge(fresh, body, &err) < 0)) {
        cJSON_Delete(fresh);
        cJSON_Delete(id);
        http_reply_err(rq, 400, &err);
        return;
    }
    cJSON_ReplaceItemInObject(fresh, "VmIdentifier", id);
    cJSON_ReplaceItemInArray(vm_list(d), index, fresh);
    http_reply_empty(rq, 200);
}

static void
vm_delete(struct http_req *rq, void *ctx)
{
    struct draft *d;
    int index;

    if (!find_vm(rq, ctx, &d, &index))
        return;
    cJSON_DeleteItemFromArray(vm_list(d), index);
    http_reply_empty(rq, 200);
}

static void
vm_volumes(struct http_req *rq, void *ctx)
{
    struct draft *d;
    int index;
    cJSON *vm = find_vm(rq, ctx, &d, &index);

    if (vm)
        reply_tree(rq, cJSON_GetObjectItem(vm, "Volumes"));
}

static void
vm_nics(struct http_req *rq, void *ctx)
{
    struct draft *d;
    int index;
    cJSON *vm = find_vm(rq, ctx, &d, &index);

    if (vm)
        reply_tree(rq, cJSON_GetObjectItem(vm, "Nics"));
}

/* --- commit ------------------------------------------------------------------------------------ */

/* Names of VMs in one settings tree, to see whether an edit changes them. */
static bool
same_vms(const cJSON *tree, const struct vpg *v)
{
    const cJSON *vm;
    unsigned n = 0, vms = 0;
    struct uuid id;

    for (unsigned i = 0; i < v->n_volumes; i++)
        vms += i == 0 || !uuid_equal(&v->volumes[i].vm, &v->volumes[i - 1].vm);
    cJSON_ArrayForEach (vm, json_get(tree, "Vms")) {
        bool found = false;

        if (json_uuid(vm, "VmIdentifier", JSON_REQUIRED, &id, NULL) < 0)
            return false;
        for (unsigned i = 0; i < v->n_volumes; i++)
            found = found || uuid_equal(&v->volumes[i].vm, &id);
        if (!found)
            return false;
        n++;
    }
    return n == vms;
}

static void
commit_edit(struct http_req *rq, struct manager *m, struct draft *d)
{
    struct err err = ERR_INIT;
    struct uuid id;
    struct vpg *v = NULL, *before;
    cJSON *settings;

    if (json_uuid(d->tree, "VpgIdentifier", JSON_REQUIRED, &id, &err) == 1)
        v = vpgs_find(m, &id);
    if (!v) {
        http_reply_fail(rq, 404, ERR_API_0013,
                        "the VPG of these settings is gone");
        return;
    }
    if (!same_vms(d->tree, v)) {
        http_reply_fail(rq, 400, ERR_MGR_0009,
                        "the VMs of VPG %s cannot be changed while it is protected",
                        v->name);
        return;
    }
    if (settings_same_places(d->tree, v, &err) < 0) {
        http_reply_err(rq, 400, &err);
        return;
    }
    if (ops_running(m, &v->id.u)) {
        http_reply_fail(rq, 409, ERR_MGR_0011,
                        "VPG %s: another task is still running", v->name);
        return;
    }
    settings = cJSON_Duplicate(d->tree, true);
    before = malloc(sizeof *before);
    if (before)
        *before = *v;
    if (!settings || !before || settings_apply(m, d->tree, v, &err) < 0 ||
        vpgs_changed(m, v, &err) < 0) {
        if (before)
            *v = *before; /* numbers and texts; what it points to is the same */
        free(before);
        cJSON_Delete(settings);
        http_reply_err(rq, http_status_of(err.num), &err);
        return;
    }
    free(before);
    cJSON_Delete(v->settings);
    v->settings = settings;
    draft_free(d);
    api_start(rq, m, &op_update_vpg, v, NULL);
}

static void
commit(struct http_req *rq, void *ctx)
{
    struct manager *m = ctx;
    struct draft *d = find_draft(rq, m);
    char id[UUID_TEXT_SIZE], warning[ERR_MSG_MAX];
    struct err err = ERR_INIT;
    struct vpg *v = NULL;
    cJSON *params;
    bool any = false;

    if (!d)
        return;
    if (d->editing) {
        commit_edit(rq, m, d);
        return;
    }
    if (settings_to_vpg(m, d->tree, &v, &err) < 0) {
        http_reply_err(rq, 400, &err);
        return;
    }
    (void)json_bool(json_get(d->tree, "Journal"), "IgnoreFreeSpace",
                    JSON_OPTIONAL, &any, NULL);
    if (space_check(m, v, warning, sizeof warning, &err) < 0 && !any) {
        vpg_free(v);
        http_reply_err(rq, http_status_of(err.num), &err);
        return;
    }
    uuid_format(&v->id.u, id);
    set_text(v->settings, "VpgIdentifier", id);
    if (vpgs_put(m, v, &err) < 0) {
        vpg_free(v);
        http_reply_err(rq, http_status_of(err.num), &err);
        return;
    }
    draft_free(d);
    params = cJSON_CreateObject();
    if (err.num < 0) /* asked for although */
        (void)snprintf(warning, sizeof warning, "warning: %.400s", err.msg);
    if (*warning)
        (void)cJSON_AddStringToObject(params, "Warning", warning);
    api_start(rq, m, &op_create_vpg, v, params);
}

static void
priority_get(struct http_req *rq, void *ctx)
{
    struct draft *d = find_draft(rq, ctx);

    if (d)
        reply_tree(rq, cJSON_GetObjectItem(cJSON_GetObjectItem(d->tree, "Basic"),
                                           "Priority"));
}

#define ONE "/v1/vpgSettings/{settings}"
const struct http_route api_settings_routes[] = {
    { "POST", "/v1/vpgSettings", PRIV_MANAGE_VPG, 0, settings_post,
      "New settings: {}, {VpgIdentifier} to edit, or a whole or partial object; answers their identifier." },
    { "GET", "/v1/vpgSettings", PRIV_MANAGE_VPG, 0, settings_list,
      "Open settings." },
    { "GET", ONE, PRIV_MANAGE_VPG, 0, settings_get,
      "The object with its defaults." },
    { "PUT", ONE, PRIV_MANAGE_VPG, 0, settings_put, "Change what the body has." },
    { "DELETE", ONE, PRIV_MANAGE_VPG, 0, settings_delete, "Abandon." },
    { "POST", ONE "/commit", PRIV_MANAGE_VPG, 0, commit,
      "Make or change the VPG; answers a task." },
    { "GET", ONE "/priority", PRIV_MANAGE_VPG, 0, priority_get,
      "Basic.Priority." },
    { "GET", ONE "/vms", PRIV_MANAGE_VPG, 0, vms_get, "Its VMs." },
    { "POST", ONE "/vms", PRIV_MANAGE_VPG, 0, vms_post,
      "Add one: {VmIdentifier}." },
    { "GET", ONE "/vms/{vm}", PRIV_MANAGE_VPG, 0, vm_get, "One VM." },
    { "PUT", ONE "/vms/{vm}", PRIV_MANAGE_VPG, 0, vm_put, "Change it." },
    { "DELETE", ONE "/vms/{vm}", PRIV_MANAGE_VPG, 0, vm_delete, "Leave it out." },
    { "GET", ONE "/vms/{vm}/volumes", PRIV_MANAGE_VPG, 0, vm_volumes,
      "Its volumes." },
    { "GET", ONE "/vms/{vm}/nics", PRIV_MANAGE_VPG, 0, vm_nics,
      "Its network cards." },
    { "GET", ONE "/{part}", PRIV_MANAGE_VPG, 0, part_get,
      "basic, bootgroup, scripting, recovery, journal, scratch, ltr or networks." },
    { "PUT", ONE "/{part}", PRIV_MANAGE_VPG, 0, part_put, "Change the part." },
    { "DELETE", ONE "/{part}", PRIV_MANAGE_VPG, 0, part_delete,
      "Back to its defaults." },
    { NULL, NULL, 0, 0, NULL, NULL },
};
