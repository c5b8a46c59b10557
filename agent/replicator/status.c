/* What the replicator says of itself, and small JSON helpers of the role. */
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "io/file.h"
#include "replicator/replicator.h"
#include "replicator/source.h"
#include "replicator/target.h"

enum {
    STATUS_JSON_MAX = 16 * 1024 * 1024
};

/* Days since 1970-01-01 of a date of the Gregorian calendar and back: Howard
 * Hinnant, "chrono-Compatible Low-Level Date Algorithms". */
static int64_t
days_from_date(int64_t y, unsigned m, unsigned d)
{
    int64_t era, yoe, doy;

    y -= m <= 2;
    era = (y >= 0 ? y : y - 399) / 400;
    yoe = y - era * 400;
    doy = (153 * (int64_t)(m > 2 ? m - 3 : m + 9) + 2) / 5 + d - 1;
    return era * 146097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719468;
}

static void
date_from_days(int64_t days, int64_t *y, unsigned *m, unsigned *d)
{
    int64_t z = days + 719468;
    int64_t era = (z >= 0 ? z : z - 146096) / 146097;
    int64_t doe = z - era * 146097;
    int64_t yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
    int64_t doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    int64_t mp = (5 * doy + 2) / 153;

    *d = (unsigned)(doy - (153 * mp + 2) / 5 + 1);
    *m = (unsigned)(mp < 10 ? mp + 3 : mp - 9);
    *y = yoe + era * 400 + (*m <= 2);
}

void
json_put_time(struct json_writer *w, const char *name, uint64_t wall_ns)
{
    uint64_t s = wall_ns / NSEC_PER_SEC, sod = s % 86400;
    unsigned m, d;
    int64_t y;
    char text[48];

    date_from_days((int64_t)(s / 86400), &y, &m, &d);
    snprintf(text, sizeof text, "%04d-%02u-%02uT%02u:%02u:%02u.%03uZ", (int)y,
             m, d, (unsigned)(sod / 3600), (unsigned)(sod / 60 % 60),
             (unsigned)(sod % 60),
             (unsigned)(wall_ns % NSEC_PER_SEC / NSEC_PER_MSEC));
    json_put_str(w, name, text);
}

/* A number of n digits, up to max; moves *p behind it. */
static bool
digits(const char **p, int n, unsigned max, unsigned *out)
{
    unsigned v = 0;

    for (; n > 0; n--, (*p)++) {
        if (!isdigit((unsigned char)**p))
            return false;
        v = v * 10 + (unsigned)(**p - '0');
    }
    *out = v;
    return v <= max;
}

/* "2026-11-22T03:32:48", a fraction or none, "Z"; in nanoseconds. */
static int
parse_time(const char *p, uint64_t *out_wall_ns)
{
    static const struct {
        char end;
        uint8_t n;
        uint16_t min, max;
    } form[] = { { '-', 4, 1970, 9999 }, { '-', 2, 1, 12 }, { 'T', 2, 1, 31 },
                 { ':', 2, 0, 23 },      { ':', 2, 0, 59 }, { 0, 2, 0, 60 } };
    unsigned v[ARRAY_SIZE(form)], ms = 0;
    uint64_t s;

    for (size_t i = 0; i < ARRAY_SIZE(form); i++) {
        if (!digits(&p, form[i].n, form[i].max, &v[i]) || v[i] < form[i].min ||
            (form[i].end && *p++ != form[i].end))
            return -EINVAL;
    }
    if (*p == '.') {
        unsigned scale = 100;

        for (p++; isdigit((unsigned char)*p); p++, scale /= 10)
            ms += scale * (unsigned)(*p - '0');
    }
    if (strcmp(p, "Z") != 0)
        return -EINVAL;
    s = (uint64_t)days_from_date(v[0], v[1], v[2]) * 86400 +
        (uint64_t)v[3] * 3600 + (uint64_t)v[4] * 60 + v[5];
    /* Nanoseconds end in 2554: later is as late as it gets. */
    s = MIN(s, UINT64_MAX / NSEC_PER_SEC - 1);
    *out_wall_ns = s * NSEC_PER_SEC + ms * NSEC_PER_MSEC;
    return 0;
}

int
json_time(const cJSON *body, const char *name, uint64_t *out_wall_ns,
          struct err *err)
{
    const char *text = NULL;
    int rc = json_str(body, name, JSON_OPTIONAL, &text, err);

    if (rc <= 0)
        return rc;
    if (parse_time(text, out_wall_ns) == 0)
        return 1;
    return err_set(err, -EINVAL, ERR_REP_0002,
                   "%s is \"%.60s\", no time like 2026-11-22T03:32:48.123Z",
                   name, text);
}

void
json_put_err(struct json_writer *w, const char *name, const struct err *err)
{
    if (err->num == 0) {
        json_put_null(w, name);
        return;
    }
    json_open_obj(w, name);
    json_put_str(w, "Message", err->msg);
    json_put_str(w, "Code", err_code_text(err->code));
    json_put_str(w, "NextStep", err_code_next(err->code));
    json_close_obj(w);
}

int
peer_parse(const cJSON *body, struct uuid *out_agent, struct uuid *out_site,
           bool *out_dial, struct io_addr *out_addr, struct err *err)
{
    const cJSON *peer;
    const char *addr = NULL;

    if (json_obj(body, "Peer", JSON_REQUIRED, &peer, err) < 0 ||
        json_uuid(peer, "AgentIdentifier", JSON_REQUIRED, out_agent, err) < 0 ||
        json_uuid(peer, "SiteIdentifier", JSON_REQUIRED, out_site, err) < 0 ||
        json_str(peer, "Address", JSON_OPTIONAL, &addr, err) < 0)
        return -EINVAL;
    *out_dial = addr != NULL;
    return addr ? io_addr_parse(addr, out_addr, err) : 0;
}

static void
vm_volumes_json(struct replicator *rep, unsigned first, struct json_writer *w)
{
    const struct uuid *vm = &rep->volumes[first].cfg.vm_id;

    json_open_array(w, "Volumes");
    for (unsigned i = first; i < rep->n_volumes; i++) {
        struct rep_volume *v = &rep->volumes[i];
        struct nbd_export_stats st = { .connections = 0 };
        struct io_file_info info = { .allocated = 0 };

        if (!uuid_equal(&v->cfg.vm_id, vm))
            continue;
        if (v->export)
            nbd_export_stats(v->export, &st);
        if (v->backing)
            (void)io_file_info(filedev_file(v->backing), &info, NULL);
        json_open_obj(w, NULL);
        json_put_uuid(w, "VolumeIdentifier", &v->cfg.id);
        json_put_str(w, "VolumeName", v->full_name);
        json_put_str(w, "Path", v->cfg.path);
        json_put_u64(w, "SizeInBytes", v->dev ? v->dev->info.size : 0);
        json_put_u64(w, "AllocatedInBytes", info.allocated);
        json_put_str(w, "NbdUri", v->uri);
        json_put_u64(w, "Connections", st.connections);
        if (v->err.num < 0)
            json_put_str(w, "Error", v->err.msg);
        else
            json_put_null(w, "Error");
        json_put_u64(w, "ErrorsTotal", st.errors);
        json_put_u64(w, "ReadsTotal", st.reads);
        json_put_u64(w, "WritesTotal", st.writes);
        json_put_u64(w, "ReadBytesTotal", st.read_bytes);
        json_put_u64(w, "WriteBytesTotal", st.write_bytes);
        json_close_obj(w);
    }
    json_close_array(w);
}

static void
vms_json(struct replicator *rep, struct json_writer *w)
{
    json_open_array(w, "Vms");
    for (unsigned i = 0; i < rep->n_volumes; i++) {
        bool first = true;

        for (unsigned k = 0; k < i; k++)
            first &= !uuid_equal(&rep->volumes[k].cfg.vm_id,
                                 &rep->volumes[i].cfg.vm_id);
        if (!first)
            continue;
        json_open_obj(w, NULL);
        json_put_uuid(w, "VmIdentifier", &rep->volumes[i].cfg.vm_id);
        json_put_str(w, "VmName", rep->volumes[i].cfg.vm);
        vm_volumes_json(rep, i, w);
        json_close_obj(w);
    }
    json_close_array(w);
}

static void
stores_json(struct replicator *rep, struct json_writer *w)
{
    json_open_array(w, "Stores");
    for (unsigned i = 0; i < rep->n_stores; i++) {
        struct rep_store *st = &rep->stores[i];
        uint64_t avail = 0, size = 0;

        if (st->err.num == 0)
            (void)io_disk_free(rep->loop, st->path, &avail, &size);
        json_open_obj(w, NULL);
        json_put_uuid(w, "StoreIdentifier", &st->id);
        json_put_str(w, "StoreName", st->name);
        json_put_str(w, "Path", st->path);
        json_put_u64(w, "CapacityInBytes", size);
        json_put_u64(w, "FreeInBytes", avail);
        json_put_u64(w, "KeptReplicas", st->kept);
        json_put_u64(w, "KeptReplicasInBytes", st->kept_bytes);
        if (st->err.num < 0)
            json_put_str(w, "Error", st->err.msg);
        else
            json_put_null(w, "Error");
        json_close_obj(w);
    }
    json_close_array(w);
}

static void
peer_json(struct json_writer *w, const struct stream_peer *p,
          const struct uuid *agent, const struct uuid *site)
{
    static const char *const states[] = { "Listening", "Connecting",
                                          "Connected" };
    struct stream_peer_status st;

    stream_peer_status(p, &st);
    json_open_obj(w, NULL);
    json_put_uuid(w, "AgentIdentifier", agent);
    json_put_uuid(w, "SiteIdentifier", site);
    json_put_str(w, "State", states[st.state]);
    if (st.error[0])
        json_put_str(w, "Error", st.error);
    else
        json_put_null(w, "Error");
    json_put_u64(w, "RttInMicroseconds", st.rtt_ns / 1000);
    json_close_obj(w);
}

/* Each peer once, although many lanes may share it. */
static void
peers_json(struct replicator *rep, struct json_writer *w)
{
    const struct stream_peer *seen[64] = { NULL };
    unsigned n = 0;
    struct list *l;

    json_open_array(w, "Peers");
    list_for_each (l, &rep->sources) {
        struct source *s = list_entry(l, struct source, link);
        bool again = !s->peer || n == ARRAY_SIZE(seen);

        for (unsigned i = 0; i < n; i++)
            again |= seen[i] == s->peer;
        if (again)
            continue;
        seen[n++] = s->peer;
        peer_json(w, s->peer, &s->peer_agent, &s->peer_site);
    }
    list_for_each (l, &rep->targets) {
        struct target *t = list_entry(l, struct target, link);
        bool again = !t->peer || n == ARRAY_SIZE(seen);

        for (unsigned i = 0; i < n; i++)
            again |= seen[i] == t->peer;
        if (again)
            continue;
        seen[n++] = t->peer;
        peer_json(w, t->peer, &t->peer_agent, &t->peer_site);
    }
    json_close_array(w);
}

void
status_get(struct ctl_call *c)
{
    struct replicator *rep = c->rep;
    struct json_writer w;
    struct list *l;
    struct buf out;

    buf_init(&out, STATUS_JSON_MAX);
    json_begin(&w, &out);
    json_open_obj(&w, NULL);
    json_open_obj(&w, "Replicator");
    json_put_uuid(&w, "Identifier", &rep->cfg.id);
    json_put_str(&w, "Name", rep->cfg.name);
    json_put_str(&w, "Version", HOLDFAST_VERSION);
    json_put_time(&w, "StartedAt", rep->started_wall_ns);
    json_put_str(&w, "ControlAddress", rep->cfg.control_address);
    json_put_str(&w, "DataAddress", rep->cfg.data_address);
    json_put_u64(&w, "RingUsedInBytes", ringpool_used(rep->ring));
    json_put_u64(&w, "RingSizeInBytes", ringpool_size(rep->ring));
    json_put_str(&w, "Backend", io_loop_backend_name(rep->loop));
    json_close_obj(&w);
    vms_json(rep, &w);
    stores_json(rep, &w);
    peers_json(rep, &w);
    json_open_array(&w, "Sources");
    list_for_each (l, &rep->sources)
        source_status_json(list_entry(l, struct source, link), &w);
    json_close_array(&w);
    json_open_array(&w, "Targets");
    list_for_each (l, &rep->targets)
        target_status_json(list_entry(l, struct target, link), &w);
    json_close_array(&w);
    json_close_obj(&w);
    ctl_reply(c, 200, &out);
}
