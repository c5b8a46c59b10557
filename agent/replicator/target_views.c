/* Views of a target's journal: opened by a call or found in it at the start,
 * served over NBD on Unix sockets of their own, and closed.
 *
 *   close:  listeners -> exports -> discarded from the journal -> answer
 *   the role stops:  listeners -> exports; the journal keeps the view
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "replicator/target.h"

enum view_mode {
    VIEW_TEST = 0,
    VIEW_MOUNT = 1
};

static const char *const view_modes[] = { "Test", "Mount" };

/* --- served over NBD ---------------------------------------------------- */

static int
view_serve_volume(struct target_view *tv, unsigned i, struct err *err)
{
    struct replicator *rep = tv->target->rep;
    unsigned k = target_volume_index(tv->target, tv->volumes[i].vol);
    char id[UUID_TEXT_SIZE],
        export[sizeof id + sizeof tv->target->volumes[0].name];
    struct nbd_listen_config lc = { .addr = { .is_unix = true } };
    struct nbd_export_config ec = {
        .name = export,
        .description = "a view of a past moment",
        .dev = journal_view_dev(tv->view, tv->volumes[i].vol),
        .multi_conn = true,
    };
    int rc;

    uuid_format(&tv->id.u, id);
    snprintf(export, sizeof export, "%s@%s", tv->target->volumes[k].name, id);
    rc = nbd_export_add(rep->nbd, &ec, &tv->volumes[i].export, err);
    if (rc < 0)
        return rc;
    snprintf(lc.addr.host, sizeof lc.addr.host, "%.160s/%s.%u.sock",
             rep->cfg.run_dir, id, tv->volumes[i].vol);
    lc.only = tv->volumes[i].export;
    rc = nbd_listen(rep->nbd, &lc, &tv->volumes[i].listener, err);
    if (rc < 0)
        return rc;
    return nbd_uri(&lc.addr, false, export, tv->volumes[i].uri,
                   sizeof tv->volumes[i].uri);
}

static void view_close(struct target_view *tv);

struct target_view *
target_view_adopt(struct target *t, struct journal_view *view, struct err *err)
{
    const struct journal_view_config *cfg = journal_view_config(view);
    struct target_view *tv = calloc(1, sizeof *tv);
    int rc = 0;

    if (!tv) {
        err_set(err, -ENOMEM, ERR_GEN_0002, "view: out of memory");
        return NULL;
    }
    tv->target = t;
    tv->view = view;
    tv->id = cfg->id;
    list_push_back(&t->views, &tv->link);
    for (unsigned i = 0; i < t->n_volumes && rc == 0; i++) {
        bool wanted = cfg->n_vols == 0;

        for (unsigned k = 0; k < cfg->n_vols; k++)
            wanted |= cfg->vols[k] == t->volumes[i].vol;
        if (!wanted)
            continue;
        tv->volumes[tv->n_volumes].vol = t->volumes[i].vol;
        rc = view_serve_volume(tv, tv->n_volumes++, err);
    }
    if (rc == 0)
        return tv;
    if (err && err->num == 0)
        err_set(err, rc, ERR_REP_0002, "serving the view: %s", err_errno(rc));
    view_close(tv);
    return NULL;
}

static const enum err_code of_views[] = { ERR_JNL_0054, ERR_JNL_0055,
                                          ERR_JNL_0056, ERR_JNL_0060 };

static void
check_gone(struct target *t)
{
    void (*then)(struct target *) = t->views_gone;

    if (!then || !list_empty(&t->views) || t->views_opening > 0)
        return;
    t->views_gone = NULL;
    then(t);
}

static void
view_discarded(void *arg)
{
    struct target_view *tv = arg;
    struct target *t = tv->target;
    void (*then)(struct target *) = tv->then;

    if (tv->call)
        ctl_reply_ok(tv->call);
    list_del(&tv->link);
    free(tv);
    /* What was told of a view ends with the last one. */
    if (list_empty(&t->views))
        for (size_t i = 0; i < ARRAY_SIZE(of_views); i++)
            target_settled(t, of_views[i]);
    if (then)
        then(t);
    else
        check_gone(t);
}

static void
view_unserved(void *arg)
{
    struct target_view *tv = arg;

    if (--tv->removing == 0)
        journal_view_discard(tv->view, view_discarded, tv);
}

/* Leave the view in the journal (the role stops): only its exports go. */
static void
view_released(void *arg)
{
    struct target_view *tv = arg;

    if (--tv->removing == 0)
        view_discarded(tv);
}

static void
view_unserve(struct target_view *tv, void (*gone)(void *arg))
{
    tv->closing = true;
    tv->removing = 1;
    for (unsigned i = 0; i < tv->n_volumes; i++) {
        if (tv->volumes[i].listener)
            nbd_listener_close(tv->volumes[i].listener);
        tv->volumes[i].listener = NULL;
        if (tv->volumes[i].export) {
            tv->removing++;
            nbd_export_remove(tv->volumes[i].export, gone, tv);
        }
        tv->volumes[i].export = NULL;
    }
    gone(tv);
}

static void
view_close(struct target_view *tv)
{
    view_unserve(tv, view_unserved);
}

void
target_view_release(struct target_view *tv)
{
    view_unserve(tv, view_released);
}

void
target_views_discard(struct target *t, void (*then)(struct target *t))
{
    struct list *l, *tmp;

    t->views_gone = then;
    t->views_opening++; /* the last one to go must not call then() in here */
    list_for_each_safe (l, tmp, &t->views) {
        struct target_view *tv = list_entry(l, struct target_view, link);

        if (!tv->closing)
            view_close(tv);
    }
    t->views_opening--;
    check_gone(t);
}

/* --- calls -------------------------------------------------------------- */

void
target_view_json(struct json_writer *w, struct target_view *tv)
{
    const struct journal_view_config *cfg = journal_view_config(tv->view);
    struct target *t = tv->target;
    struct journal_point p;
    struct err why = ERR_INIT;

    journal_view_point(tv->view, &p);
    json_open_obj(w, NULL);
    json_put_uuid(w, "ViewIdentifier", &tv->id.u);
    json_put_str(w, "Mode",
                 cfg->mode < ARRAY_SIZE(view_modes) ? view_modes[cfg->mode]
                                                    : "Mount");
    json_put_u64_text(w, "CheckpointIdentifier", p.cut_no);
    json_put_time(w, "TimeStamp", p.wall_ns);
    if (journal_view_broken(tv->view, &why))
        json_put_str(w, "Broken", why.msg);
    else
        json_put_null(w, "Broken");
    json_open_array(w, "Volumes");
    for (unsigned i = 0; i < tv->n_volumes; i++) {
        unsigned k = target_volume_index(t, tv->volumes[i].vol);
        struct nbd_export_stats st = { .connections = 0 };

        if (tv->volumes[i].export)
            nbd_export_stats(tv->volumes[i].export, &st);
        json_open_obj(w, NULL);
        json_put_u64(w, "VolumeNumber", tv->volumes[i].vol);
        json_put_str(w, "VmName", t->volumes[k].vm);
        json_put_str(w, "VolumeName", t->volumes[k].name);
        json_put_uuid(w, "VolumeIdentifier", &t->volumes[k].id);
        json_put_u64(w, "SizeInBytes", t->volumes[k].size);
        json_put_str(w, "NbdUri", tv->volumes[i].uri);
        json_put_u64(w, "Connections", st.connections);
        json_close_obj(w);
    }
    json_close_array(w);
    json_close_obj(w);
}

static void
view_reply(struct ctl_call *c, struct target_view *tv)
{
    struct json_writer w;
    struct buf out;

    buf_init(&out, REP_CONFIG_MAX);
    json_begin(&w, &out);
    target_view_json(&w, tv);
    ctl_reply(c, 200, &out);
}

static void
view_opened(void *arg, struct journal_view *v, int res, const struct err *why)
{
    struct ctl_call *c = arg;
    struct target *t = target_by_vpg(c->rep, &c->vpg);
    struct err err = ERR_INIT;
    struct target_view *tv;

    t->views_opening--;
    if (res < 0) {
        if (why)
            err = *why;
        if (err.num == 0)
            err_set(&err, res, ERR_REP_0016, "the view could not be opened: %s",
                    err_errno(res));
        ctl_reply_err(c, &err);
        check_gone(t);
        return;
    }
    tv = target_view_adopt(t, v, &err);
    if (tv && t->views_gone) {
        err_set(&err, -EBUSY, ERR_REP_0010, "VPG %s is being deleted", t->name);
        view_close(tv);
        tv = NULL;
    }
    if (!tv)
        ctl_reply_err(c, &err);
    else
        view_reply(c, tv);
}

static struct target_view *
view_by_id(struct target *t, const struct uuid *id)
{
    struct list *l;

    list_for_each (l, &t->views) {
        struct target_view *tv = list_entry(l, struct target_view, link);

        if (uuid_equal(&tv->id.u, id))
            return tv;
    }
    return NULL;
}

static int
view_point(struct target *t, const cJSON *body, uint64_t *out_cut,
           struct err *err)
{
    const char *text = NULL;
    struct journal_point p;
    uint64_t cut, wall_ns = 0;
    bool damaged = false;

    if (json_str(body, "CheckpointIdentifier", JSON_OPTIONAL, &text, err) < 0 ||
        json_time(body, "TimeStamp", &wall_ns, err) < 0)
        return -EINVAL;
    if (text) {
        if (target_parse_cut(text, &cut) < 0 ||
            journal_point_find(t->journal, cut, &p) < 0)
            return err_set(err, -ENOENT, ERR_REP_0016,
                           "checkpoint %s of VPG %s is not offered", text,
                           t->name);
    } else if (wall_ns != 0) {
        /* Times are told in milliseconds: the point that was shown with this
         * one lies up to a millisecond later. */
        if (journal_point_at(t->journal, wall_ns + NSEC_PER_MSEC - 1, &p) < 0)
            return err_set(err, -ENOENT, ERR_REP_0016,
                           "VPG %s has no checkpoint that old", t->name);
    } else if (journal_point_newest(t->journal, &p) < 0) {
        return err_set(err, -ENOENT, ERR_REP_0016,
                       "VPG %s has no checkpoint yet", t->name);
    }
    *out_cut = p.cut_no;
    if (json_bool(body, "AllowDamaged", JSON_OPTIONAL, &damaged, err) < 0)
        return -EINVAL;
    return damaged ? 0 : journal_point_whole(t->journal, &p, err);
}

static int
view_parse(struct target *t, const cJSON *body, struct journal_view_config *cfg,
           struct err *err)
{
    const char *mode = "Mount";
    const cJSON *list = NULL, *it;
    unsigned i;

    if (json_uuid(body, "ViewIdentifier", JSON_REQUIRED, &cfg->id.u, err) < 0 ||
        json_str(body, "Mode", JSON_OPTIONAL, &mode, err) < 0 ||
        json_array(body, "VolumeNumbers", JSON_OPTIONAL, &list, err) < 0)
        return -EINVAL;
    for (i = 0; i < ARRAY_SIZE(view_modes); i++) {
        if (strcasecmp(view_modes[i], mode) == 0)
            break;
    }
    if (i == ARRAY_SIZE(view_modes))
        return err_set(err, -EINVAL, ERR_REP_0002,
                       "Mode is \"%s\"; it can be Test or Mount", mode);
    cfg->mode = (uint8_t)i;
    cfg->overlay_limit = t->scratch_limit;
    cJSON_ArrayForEach (it, list) {
        bool known = false;

        for (unsigned k = 0; k < t->n_volumes && cJSON_IsNumber(it); k++)
            known |= t->volumes[k].vol == (uint16_t)it->valueint &&
                     it->valueint >= 0 && it->valueint <= UINT16_MAX;
        if (!known || cfg->n_vols == REP_LANE_VOLUMES_MAX)
            return err_set(err, -EINVAL, ERR_REP_0002,
                           "VolumeNumbers names a volume that VPG %s lacks",
                           t->name);
        cfg->vols[cfg->n_vols++] = (uint16_t)it->valueint;
    }
    return view_point(t, body, &cfg->cut_no, err);
}

static unsigned
views_open(struct target *t)
{
    struct list *l;
    unsigned n = 0;

    list_for_each (l, &t->views)
        n++;
    return n;
}

void
target_view_open(struct ctl_call *c)
{
    struct target *t = target_of_call(c);
    struct journal_view_config *cfg;
    struct target_view *known;
    struct err err = ERR_INIT;

    if (!t)
        return;
    cfg = calloc(1, sizeof *cfg);
    if (!cfg) {
        err_set(&err, -ENOMEM, ERR_GEN_0002, "view: out of memory");
        ctl_reply_err(c, &err);
        return;
    }
    if (view_parse(t, c->body, cfg, &err) < 0) {
        ctl_reply_err(c, &err);
    } else if ((known = view_by_id(t, &cfg->id.u)) != NULL && known->closing) {
        err_set(&err, -EBUSY, ERR_REP_0010, "the view is being closed");
        ctl_reply_err(c, &err);
    } else if (known) {
        view_reply(c, known); /* the same call again */
    } else if (views_open(t) >= REP_VIEWS_MAX) {
        err_set(&err, -EBUSY, ERR_REP_0015,
                "%d views of VPG %s are open, which is the most", REP_VIEWS_MAX,
                t->name);
        ctl_reply_err(c, &err);
    } else {
        t->views_opening++;
        journal_view_open(t->journal, cfg, view_opened, c);
    }
    free(cfg);
}

void
target_view_close(struct ctl_call *c)
{
    struct target *t = target_of_call(c);
    struct target_view *tv;
    struct err err = ERR_INIT;

    if (!t)
        return;
    tv = view_by_id(t, &c->object);
    if (!tv) {
        ctl_reply_ok(c);
        return;
    }
    if (tv->closing) {
        err_set(&err, -EBUSY, ERR_REP_0010, "the view is being closed already");
        ctl_reply_err(c, &err);
        return;
    }
    tv->call = c;
    view_close(tv);
}
