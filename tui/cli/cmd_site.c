/* Commands about sites, sessions and tokens, and the making of a VPG.  Tokens
 * are secrets: they come from a file or standard input and go to standard
 * output alone, never into the argument list. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/files.h"
#include "common/secret.h"
#include "common/text.h"
#include "tui/cli/app.h"
#include "tui/cli/term.h"

enum {
    TOKEN_TEXT_MAX = 8192
};

static const char *
member(const cJSON *obj, const char *name)
{
    const cJSON *v = json_get(obj, name);

    return cJSON_IsString(v) ? v->valuestring : "";
}

int
cmd_login(struct app *a, struct err *err)
{
    struct client *c;
    int rc = app_load_sites(a, err);
    const struct site_def *d;

    if (rc < 0)
        return rc;
    d = sites_find(&a->sites, a->opt.ctx, err);
    if (!d)
        return -ENOENT;
    rc = app_client_at(a, (size_t)(d - a->sites.defs), &c, err);
    if (rc == 0)
        rc = client_login(c, err);
    if (rc == 0)
        (void)fprintf(stderr, "logged in at %s as %s\n", d->name, d->user);
    return rc;
}

int
cmd_logout(struct app *a, struct err *err)
{
    struct client *c;
    int rc = app_load_sites(a, err);
    const struct site_def *d;

    if (rc < 0)
        return rc;
    d = sites_find(&a->sites, a->opt.ctx, err);
    if (!d)
        return -ENOENT;
    rc = app_client_at(a, (size_t)(d - a->sites.defs), &c, err);
    return rc < 0 ? rc : client_logout(c, err);
}

/* ---- Passwords -------------------------------------------------------------------------- */

static int
read_password(const char *file, const char *question, struct secret *out,
              struct err *err)
{
    return file ? secret_from_file(out, file, err)
                : term_password(question, out, err);
}

/* A new one is asked for twice: what is typed is not seen. */
static int
read_new_password(const char *file, struct secret *out, struct err *err)
{
    struct secret again;
    int rc = read_password(file, "new password: ", out, err);

    if (rc < 0 || file)
        return rc;
    rc = term_password("the new password again: ", &again, err);
    if (rc == 0 && !secret_equal(out, &again))
        rc = err_set(err, -EINVAL, ERR_CLI_0013,
                     "the two new passwords differ: nothing was changed");
    secret_wipe(&again);
    return rc;
}

static int
send_passwords(struct app *a, struct client *c, const struct secret *old,
               const struct secret *next, struct err *err)
{
    struct json_writer w;
    cJSON *answer = NULL;
    struct buf body;
    int rc;

    buf_init(&body, 4096);
    json_begin(&w, &body);
    json_open_obj(&w, NULL);
    json_put_str(&w, "OldPassword", (const char *)old->b);
    json_put_str(&w, "NewPassword", (const char *)next->b);
    json_close_obj(&w);
    a->last = c;
    rc = client_call(c, "PUT", "/v1/session/password", &body, &answer, err);
    secret_buf_release(&body);
    cJSON_Delete(answer);
    return rc;
}

int
cmd_password(struct app *a, struct err *err)
{
    const struct site_def *d;
    struct secret old, next;
    struct client *c;
    int rc = app_client(a, &c, err);

    if (rc < 0)
        return rc;
    d = client_site(c);
    old.len = next.len = 0;
    rc = read_password(a->opt.old_file, "password now: ", &old, err);
    if (rc == 0)
        rc = read_new_password(a->opt.new_file, &next, err);
    if (rc == 0)
        rc = send_passwords(a, c, &old, &next, err);
    secret_wipe(&old);
    secret_wipe(&next);
    if (rc == 0)
        (void)fprintf(stderr, "the password of %s at %s is changed%s%s\n",
                      d->user, d->name,
                      d->password_file[0] ? "; write the new one into " : "",
                      d->password_file);
    return rc;
}

/* ---- Tokens ----------------------------------------------------------------------------- */

/* One row: the token and until when it may be used. */
static const struct column token_columns[] = {
    { "token", "TOKEN", FMT_TEXT, 100, 0 },
    { "expires", "EXPIRES", FMT_TIME, 90, 0 },
};
static const struct table table_token = {
    .name = "token",
    .columns = token_columns,
    .n_columns = ARRAY_SIZE(token_columns),
    .empty = "No token.",
};

static int
print_token(struct app *a, struct client *c, const cJSON *answer,
            struct err *err)
{
    const char *token = member(answer, "Token");
    char until[CELL_TEXT_SIZE] = "";
    struct rows r;
    struct buf b;
    int64_t ms;
    int rc;

    if (!token[0] || strlen(token) >= TOKEN_TEXT_MAX)
        return err_set(err, -EBADMSG, ERR_CLI_0005,
                       "%s: the answer holds no token", client_site(c)->name);
    rows_init(&r, &table_token);
    rows_add(&r);
    rows_set_text(&r, "token", token);
    if (when_parse(member(answer, "ValidUntil"), when_now_ms(), &ms, NULL) == 0) {
        rows_set_number(&r, "expires", (double)ms);
        cell_format(&token_columns[1], rows_field(&r, 0, "expires"), until);
    }
    if (a->opt.out == OUT_TEXT) {
        buf_init(&b, TOKEN_TEXT_MAX + 2);
        (void)buf_addf(&b, "%s\n", token);
        text_clean((char *)b.data);
        b.data[b.len - 1] = '\n';
        rc = output_write(&b, err);
        secret_buf_release(&b);
        if (rc == 0 && until[0])
            (void)fprintf(stderr, "good until %s UTC, once\n", until);
    } else {
        rc = app_print(a, c, &r, 0, err);
    }
    rows_release(&r);
    return rc;
}

static int
pair_token(struct app *a, struct err *err)
{
    cJSON *answer = NULL;
    struct client *c;
    struct buf body;
    int rc = app_client(a, &c, err);

    if (rc < 0)
        return rc;
    buf_init(&body, 16);
    (void)buf_addf(&body, "{}");
    rc = client_call(c, "POST", "/v1/peersites/generatetoken", &body, &answer,
                     err);
    buf_release(&body);
    if (rc == 0)
        rc = print_token(a, c, answer, err);
    cJSON_Delete(answer);
    return rc;
}

/* The first line of a 0600 file, or of standard input. */
static int
read_token(const char *path, char out[TOKEN_TEXT_MAX], struct err *err)
{
    size_t n = 0;
    ssize_t got = 1;
    struct buf b;
    int rc;

    if (path && strcmp(path, "-") != 0) {
        buf_init(&b, TOKEN_TEXT_MAX);
        rc = file_read_secret(path, TOKEN_TEXT_MAX - 1, &b, err);
        if (rc == 0 && b.len) {
            memcpy(out, b.data, b.len);
            n = b.len;
        }
        secret_buf_release(&b);
        if (rc < 0)
            return rc;
    } else {
        while (got > 0 && n + 1 < TOKEN_TEXT_MAX && !memchr(out, '\n', n)) {
            got = read(STDIN_FILENO, out + n, TOKEN_TEXT_MAX - 1 - n);
            if (got < 0)
                return err_set(err, -errno, ERR_GEN_0003, "standard input: %s",
                               err_errno(errno));
            n += (size_t)got;
        }
    }
    out[n] = '\0';
    out[strcspn(out, "\r\n")] = '\0';
    if (!out[0])
        return err_set(err, -EINVAL, ERR_CLI_0014,
                       "no token was given: pass --token-file FILE, or the "
                       "token on standard input");
    return 0;
}

static int
pair_accept(struct app *a, struct err *err)
{
    char token[TOKEN_TEXT_MAX] = "", host[TEXT_HOST_SIZE], id[TASK_ID_TEXT];
    struct json_writer w;
    struct client *c = NULL;
    struct buf body;
    uint16_t port;
    int rc;

    if (!a->opt.host)
        return err_set(err, -EINVAL, ERR_CLI_0014,
                       "pair accept needs --host HOST:PORT of the other "
                       "manager");
    if (text_parse_hostport(a->opt.host, host, &port) < 0 || !host[0] || !port)
        return err_set(err, -EINVAL, ERR_CLI_0014,
                       "--host \"%.80s\" is not of the form HOST:PORT",
                       a->opt.host);
    rc = read_token(a->opt.token_file, token, err);
    if (rc == 0)
        rc = app_client(a, &c, err);
    if (rc < 0)
        goto out;
    buf_init(&body, (size_t)2 * TOKEN_TEXT_MAX);
    json_begin(&w, &body);
    json_open_obj(&w, NULL);
    json_put_str(&w, "HostName", host);
    json_put_u64(&w, "Port", port);
    json_put_str(&w, "Token", token);
    json_close_obj(&w);
    rc = app_task(a, c, "POST", "/v1/peersites", &body, "Pairing", id, err);
    secret_buf_release(&body);
    if (rc == 0)
        rc = app_print_task(a, c, id, err);
out:
    explicit_bzero(token, sizeof token);
    return rc;
}

int
cmd_pair(struct app *a, struct err *err)
{
    const char *what = app_arg(a, 0);

    if (strcmp(what, "token") == 0)
        return pair_token(a, err);
    if (strcmp(what, "accept") == 0)
        return pair_accept(a, err);
    return err_set(err, -EINVAL, ERR_CLI_0014,
                   "holdfast pair token, or holdfast pair accept; not "
                   "\"%.40s\"",
                   what);
}

int
cmd_unpair(struct app *a, struct err *err)
{
    const char *name = app_arg(a, 0), *id = NULL;
    char task[TASK_ID_TEXT], what[300];
    cJSON *peers = NULL;
    const cJSON *p;
    struct client *c;
    struct buf path;
    int rc = app_client(a, &c, err);

    if (rc == 0)
        rc = app_get(a, c, "/v1/peersites", &peers, err);
    if (rc < 0)
        return rc;
    cJSON_ArrayForEach (p, peers) {
        if (strcmp(member(p, "PeerSiteName"), name) == 0 ||
            text_icmp(member(p, "SiteIdentifier"), name) == 0)
            id = member(p, "SiteIdentifier");
    }
    if (!id)
        rc = err_set(err, -ENOENT, ERR_CLI_0010,
                     "%s is not paired with a site \"%.80s\"",
                     client_site(c)->name, name);
    (void)snprintf(what, sizeof what,
                   "Unpair %.80s from %s: the two no longer trust each other; "
                   "VPGs between them must be deleted first.",
                   name, client_site(c)->name);
    if (rc == 0)
        rc = app_confirm(a, what, name, NULL, err);
    if (rc == 0) {
        buf_init(&path, 1024);
        (void)buf_addf(&path, "/v1/peersites/");
        url_escape(&path, id);
        rc = app_task(a, c, "DELETE", (const char *)path.data, NULL,
                      "Unpairing", task, err);
        buf_release(&path);
    }
    if (rc == 0)
        rc = app_print_task(a, c, task, err);
    cJSON_Delete(peers);
    return rc;
}

int
cmd_token(struct app *a, struct err *err)
{
    uint64_t valid_ms = UINT64_C(15) * 60 * 1000;
    struct json_writer w;
    cJSON *answer = NULL;
    struct client *c;
    struct buf body;
    int rc;

    if (a->opt.valid && text_parse_duration(a->opt.valid, &valid_ms) < 0)
        return err_set(err, -EINVAL, ERR_CLI_0014,
                       "--valid \"%.40s\" is no time such as 15min",
                       a->opt.valid);
    rc = app_client(a, &c, err);
    if (rc < 0)
        return rc;
    buf_init(&body, 4096);
    json_begin(&w, &body);
    json_open_obj(&w, NULL);
    json_put_str(&w, "Name", app_arg(a, 0));
    json_put_str(&w, "Role", "replicator");
    json_put_u64(&w, "ValidSeconds", valid_ms / 1000);
    json_close_obj(&w);
    a->last = c;
    rc = client_call(c, "POST", "/v1/jointokens", &body, &answer, err);
    buf_release(&body);
    if (rc == 0)
        rc = print_token(a, c, answer, err);
    cJSON_Delete(answer);
    return rc;
}

/* ---- Protecting VMs ------------------------------------------------------------------------ */

/* What the options of create come to, in the API's units. */
struct plan {
    char protected_id[64], recovery_id[64], store_id[64];
    char vm_ids[VALUES_MAX][64];
    uint64_t history_h, rpo_s, interval_s, journal_mb, scratch_mb;
    const char *priority, *dial;
};

static int
take_time(const char *option, const char *text, uint64_t unit_ms, uint64_t min,
          uint64_t max, uint64_t *out, struct err *err)
{
    uint64_t ms;

    if (!text)
        return 0;
    if (text_parse_duration(text, &ms) < 0)
        return err_set(err, -EINVAL, ERR_CLI_0014,
                       "--%s \"%.40s\" is no time such as 5s, 15min, 24h",
                       option, text);
    if (ms % unit_ms != 0 || ms / unit_ms < min || ms / unit_ms > max)
        return err_set(err, -EINVAL, ERR_CLI_0014,
                       "--%s %.40s: %llu to %llu whole %s are possible", option,
                       text, (unsigned long long)min, (unsigned long long)max,
                       unit_ms == 1000 ? "seconds" : "hours");
    *out = ms / unit_ms;
    return 0;
}

static int
take_size(const char *option, const char *text, uint64_t *out_mb,
          struct err *err)
{
    uint64_t bytes;

    if (!text)
        return 0;
    if (text_parse_size(text, &bytes) < 0 || bytes >> 20 == 0)
        return err_set(err, -EINVAL, ERR_CLI_0014,
                       "--%s \"%.40s\" is no size such as 100GiB", option, text);
    *out_mb = bytes >> 20;
    return 0;
}

static int
take_word(const char *option, const char *text, const char *const *words,
          const char **out, struct err *err)
{
    if (!text)
        return 0;
    for (size_t i = 0; words[i]; i++) {
        if (text_icmp(text, words[i]) == 0) {
            *out = words[i];
            return 0;
        }
    }
    return err_set(err, -EINVAL, ERR_CLI_0014, "--%s: no such value: %.40s",
                   option, text);
}

static int
plan_options(const struct options *o, struct plan *p, struct err *err)
{
    static const char *const priorities[] = { "Low", "Medium", "High", NULL };
    static const char *const dials[] = { "Protected", "Recovery", NULL };

    *p = (struct plan){ .history_h = 24,
                        .rpo_s = 300,
                        .interval_s = 5,
                        .journal_mb = 153600,
                        .scratch_mb = 307200,
                        .priority = "Medium",
                        .dial = "Protected" };
    if (!o->vm.n)
        return err_set(err, -EINVAL, ERR_CLI_0014, "create needs --vm NAME");
    if (!o->to_site)
        return err_set(err, -EINVAL, ERR_CLI_0014,
                       "create needs --to-site NAME");
    if (take_time("history", o->history, UINT64_C(3600) * 1000, 1, 720,
                  &p->history_h, err) < 0 ||
        take_time("rpo", o->rpo, 1000, 1, 1000000, &p->rpo_s, err) < 0 ||
        take_time("interval", o->interval, 1000, 1, 900, &p->interval_s, err) <
            0 ||
        take_size("journal-limit", o->journal_limit, &p->journal_mb, err) < 0 ||
        take_size("scratch-limit", o->scratch_limit, &p->scratch_mb, err) < 0 ||
        take_word("priority", o->priority, priorities, &p->priority, err) < 0 ||
        take_word("dial", o->dial, dials, &p->dial, err) < 0)
        return -EINVAL;
    return 0;
}

/* The identifier of the one entry whose name it is. */
static int
pick_id(const cJSON *list, const char *name_member, const char *id_member,
        const char *name, const char *kind, char out[64], struct err *err)
{
    const cJSON *item, *found = NULL;

    cJSON_ArrayForEach (item, list) {
        if (strcmp(member(item, name_member), name) != 0 &&
            text_icmp(member(item, id_member), name) != 0)
            continue;
        if (found)
            return err_set(err, -EEXIST, ERR_CLI_0011,
                           "there are several %ss \"%.80s\": %.40s and %.40s",
                           kind, name, member(found, id_member),
                           member(item, id_member));
        found = item;
    }
    if (!found || strlen(member(found, id_member)) >= 64)
        return err_set(err, -ENOENT, ERR_CLI_0010, "there is no %s \"%.80s\"",
                       kind, name);
    (void)snprintf(out, 64, "%s", member(found, id_member));
    return 0;
}

static int
get_below(struct app *a, struct client *c, const char *site, const char *more,
          cJSON **out, struct err *err)
{
    struct buf path;
    int rc;

    buf_init(&path, 1024);
    (void)buf_addf(&path, "/v1/virtualizationsites/");
    url_escape(&path, site);
    (void)buf_addf(&path, "%s", more);
    rc = app_get(a, c, (const char *)path.data, out, err);
    buf_release(&path);
    return rc;
}

/* All VMs are at one site: the one given, or the first that has the first. */
static int
plan_vms(struct app *a, struct client *c, const cJSON *sites, struct plan *p,
         struct err *err)
{
    struct err why = ERR_INIT;
    const cJSON *site;
    int rc = -ENOENT;

    cJSON_ArrayForEach (site, sites) {
        const char *id = member(site, "SiteIdentifier");
        cJSON *vms = NULL;

        if (strlen(id) >= sizeof p->protected_id ||
            (a->opt.from_site
                 ? strcmp(a->opt.from_site,
                          member(site, "VirtualizationSiteName")) != 0
                 : strcmp(id, p->recovery_id) == 0))
            continue;
        rc = get_below(a, c, id, "/vms", &vms, &why);
        for (size_t i = 0; i < a->opt.vm.n && rc == 0; i++)
            rc = pick_id(vms, "VmName", "VmIdentifier", a->opt.vm.v[i],
                         "unprotected VM", p->vm_ids[i], &why);
        cJSON_Delete(vms);
        if (rc == 0) {
            (void)snprintf(p->protected_id, sizeof p->protected_id, "%s", id);
            return 0;
        }
    }
    if (!why.num)
        return err_set(err, -ENOENT, ERR_CLI_0010,
                       "there is no site to protect VMs of%s%.80s",
                       a->opt.from_site ? " named " : "",
                       a->opt.from_site ? a->opt.from_site : "");
    if (err)
        *err = why;
    return rc;
}

static int
plan_places(struct app *a, struct client *c, struct plan *p, struct err *err)
{
    cJSON *sites = NULL, *stores = NULL;
    int rc = app_get(a, c, "/v1/virtualizationsites", &sites, err);

    if (rc == 0)
        rc = pick_id(sites, "VirtualizationSiteName", "SiteIdentifier",
                     a->opt.to_site, "site", p->recovery_id, err);
    if (rc == 0 && a->opt.store) {
        rc = get_below(a, c, p->recovery_id, "/datastores", &stores, err);
        if (rc == 0)
            rc = pick_id(stores, "DatastoreName", "DatastoreIdentifier",
                         a->opt.store, "store", p->store_id, err);
    }
    if (rc == 0)
        rc = plan_vms(a, c, sites, p, err);
    cJSON_Delete(sites);
    cJSON_Delete(stores);
    return rc;
}

static void
put_limit(struct json_writer *w, const char *name, const char *store,
          uint64_t mb, bool ignore_space)
{
    json_open_obj(w, name);
    if (ignore_space)
        json_put_bool(w, "IgnoreFreeSpace", true);
    if (store)
        json_put_str(w, "DatastoreIdentifier", store);
    json_open_obj(w, "Limitation");
    json_put_u64(w, "HardLimitInMB", mb);
    json_put_u64(w, "WarningThresholdInMB", mb / 4 * 3);
    json_close_obj(w);
    json_close_obj(w);
}

static void
put_settings(struct app *a, const struct plan *p, struct buf *out)
{
    const char *store = p->store_id[0] ? p->store_id : NULL;
    struct json_writer w;

    json_begin(&w, out);
    json_open_obj(&w, NULL);
    json_open_obj(&w, "Basic");
    json_put_str(&w, "Name", app_arg(a, 0));
    json_put_str(&w, "ProtectedSiteIdentifier", p->protected_id);
    json_put_str(&w, "RecoverySiteIdentifier", p->recovery_id);
    json_put_u64(&w, "RpoInSeconds", p->rpo_s);
    json_put_u64(&w, "JournalHistoryInHours", p->history_h);
    json_put_u64(&w, "CheckpointIntervalInSeconds", p->interval_s);
    json_put_str(&w, "Priority", p->priority);
    json_put_str(&w, "DataDial", p->dial);
    json_close_obj(&w);
    put_limit(&w, "Journal", store, p->journal_mb, a->opt.ignore_space);
    put_limit(&w, "Scratch", NULL, p->scratch_mb, false);
    if (store) {
        json_open_obj(&w, "Recovery");
        json_put_str(&w, "DefaultDatastoreIdentifier", store);
        json_close_obj(&w);
    }
    json_open_array(&w, "Vms");
    for (size_t i = 0; i < a->opt.vm.n; i++) {
        json_open_obj(&w, NULL);
        json_put_str(&w, "VmIdentifier", p->vm_ids[i]);
        json_close_obj(&w);
    }
    json_close_array(&w);
    json_close_obj(&w);
}

/* A VPG that is refused leaves nothing behind. */
static void
abandon_settings(struct client *c, const char *id)
{
    struct err ignored = ERR_INIT;
    cJSON *answer = NULL;
    struct buf path;

    buf_init(&path, 1024);
    (void)buf_addf(&path, "/v1/vpgSettings/");
    url_escape(&path, id);
    if (!path.failed)
        (void)client_call(c, "DELETE", (const char *)path.data, NULL, &answer,
                          &ignored);
    cJSON_Delete(answer);
    buf_release(&path);
}

int
cmd_create(struct app *a, struct err *err)
{
    char what[160], id[TASK_ID_TEXT] = "";
    cJSON *settings = NULL;
    struct client *c = NULL;
    struct buf body, path;
    struct plan p;
    int rc = plan_options(&a->opt, &p, err);

    if (rc == 0)
        rc = app_client(a, &c, err);
    if (rc == 0)
        rc = plan_places(a, c, &p, err);
    if (rc < 0)
        return rc;
    buf_init(&body, (size_t)256 * 1024);
    buf_init(&path, 1024);
    put_settings(a, &p, &body);
    a->last = c;
    rc = client_call(c, "POST", "/v1/vpgSettings", &body, &settings, err);
    if (rc == 0 && !cJSON_IsString(settings))
        rc = err_set(err, -EBADMSG, ERR_CLI_0005,
                     "%s: the answer names no settings", client_site(c)->name);
    if (rc == 0) {
        (void)snprintf(what, sizeof what, "Create %.100s", app_arg(a, 0));
        (void)buf_addf(&path, "/v1/vpgSettings/");
        url_escape(&path, settings->valuestring);
        (void)buf_addf(&path, "/commit");
        rc = app_task(a, c, "POST", (const char *)path.data, NULL, what, id,
                      err);
    }
    if (rc < 0 && !id[0] && cJSON_IsString(settings))
        abandon_settings(c, settings->valuestring);
    if (rc == 0)
        rc = app_print_task(a, c, id, err);
    cJSON_Delete(settings);
    buf_release(&body);
    buf_release(&path);
    return rc;
}
