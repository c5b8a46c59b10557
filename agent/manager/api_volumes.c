/* Protected volumes, as their source replicators tell of them. */
#include <string.h>

#include "common/bytes.h"
#include "common/text.h"
#include "manager/manager.h"

static void
put_named(struct json_writer *w, const char *name, const struct uuid *id,
          const char *label)
{
    json_open_obj(w, name);
    json_put_uuid(w, "Identifier", id);
    json_put_str(w, "Name", label);
    json_close_obj(w);
}

static void
put_volume(struct json_writer *w, const struct vpg *v,
           const struct vpg_volume *vol, const cJSON *st)
{
    const char *path = "", *file;

    (void)json_str(st, "Path", JSON_OPTIONAL, &path, NULL);
    file = strrchr(path, '/');

    json_open_obj(w, NULL);
    json_put_str(w, "VolumeType", "Protected");
    json_put_bool(w, "IsThinProvisioned",
                  json_u64_or(st, "AllocatedInBytes", 0) < vol->size);
    json_put_uuid(w, "VolumeIdentifier", &vol->volume);
    json_put_str(w, "VolumeName", vol->volume_name);
    json_open_obj(w, "Path");
    json_put_str(w, "Full", path);
    json_put_str(w, "Relative", vol->volume_name);
    json_put_str(w, "FileName", file ? file + 1 : path);
    json_close_obj(w);
    json_open_obj(w, "Size");
    json_put_u64(w, "UsedInBytes", json_u64_or(st, "AllocatedInBytes", 0));
    json_put_u64(w, "ProvisionedInBytes", vol->size);
    json_close_obj(w);
    json_put_null(w, "Datastore");
    put_named(w, "OwningVm", &vol->vm, vol->vm_name);
    put_named(w, "ProtectedVm", &vol->vm, vol->vm_name);
    put_named(w, "Vpg", &v->id.u, v->name);
    json_put_null(w, "StoragePolicy");
    json_put_str(w, "NbdUri", json_str_or(st, "NbdUri", ""));
    json_close_obj(w);
}

static bool
wanted(const struct http_req *rq, const char *query, const struct uuid *id)
{
    const char *want = http_req_query(rq, query);
    char have[UUID_TEXT_SIZE];

    uuid_format(id, have);
    return !want || !want[0] || text_icmp(want, have) == 0;
}

static void
volumes_list(struct http_req *rq, void *ctx)
{
    struct manager *m = ctx;
    const char *type = http_req_query(rq, "volumeType");
    struct json_writer w;
    struct list *pos;
    struct buf out;

    if (type && type[0] && text_icmp(type, "Protected") != 0) {
        http_reply_fail(rq, 400, ERR_API_0014,
                        "volumeType=%s: only Protected volumes are listed",
                        type);
        return;
    }
    buf_init(&out, API_JSON_MAX);
    json_begin(&w, &out);
    json_open_array(&w, NULL);
    list_for_each (pos, &m->vpgs) {
        const struct vpg *v = list_entry(pos, struct vpg, link);
        const struct replicator *r = any_replicator(m, &v->source);

        if (!r || !wanted(rq, "vpgIdentifier", &v->id.u))
            continue;
        for (unsigned i = 0; i < v->n_volumes; i++) {
            const struct vpg_volume *vol = &v->volumes[i];

            if (wanted(rq, "protectedVmIdentifier", &vol->vm) &&
                wanted(rq, "owningVmIdentifier", &vol->vm))
                put_volume(&w, v, vol, replicator_volume(r, &vol->volume));
        }
    }
    json_close_array(&w);
    http_reply_buf(rq, 200, &out);
}

const struct http_route api_volume_routes[] = {
    { "GET", "/v1/volumes", PRIV_VIEWER, 0, volumes_list,
      "Protected volumes, with their NBD addresses (?volumeType, vpgIdentifier, protectedVmIdentifier)." },
    { NULL, NULL, 0, 0, NULL, NULL },
};
