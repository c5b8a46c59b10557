/* Whom this replicator believes: its own site's root, and for each paired site
 * the root and the replicators that the manager named.  A certificate that
 * checks out opens nothing by itself; the replicator must be named, too
 * (security.md 6.1). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "common/text.h"
#include "io/file.h"
#include "replicator/replicator.h"
#include "replicator/source.h"
#include "replicator/target.h"

#define ROOM "replicator"

enum {
    ROOT_PEM_MAX = 64 * 1024,
    CRL_MAX = 512 * 1024
};

static struct rep_peer_site *
site_by_id(struct replicator *rep, const struct uuid *site)
{
    struct list *l;

    list_for_each (l, (struct list *)&rep->sites) {
        struct rep_peer_site *s = list_entry(l, struct rep_peer_site, link);

        if (uuid_equal(&s->site, site))
            return s;
    }
    return NULL;
}

bool
trust_allows(struct replicator *rep, const struct uuid *site,
             const struct uuid *agent)
{
    const struct rep_peer_site *s;

    if (uuid_equal(site, &rep->cfg.site))
        return true; /* a replicator of our own site: replication to itself */
    s = site_by_id(rep, site);
    for (unsigned i = 0; s && i < s->n_replicators; i++) {
        if (uuid_equal(&s->replicators[i], agent))
            return true;
    }
    return false;
}

static void
site_free(struct rep_peer_site *s)
{
    if (!s)
        return;
    cJSON_Delete(s->body);
    free(s);
}

/* DER of a revocation list given as base64, with or without PEM lines. */
static int
crl_decode(const char *text, uint8_t **out, size_t *out_len, struct err *err)
{
    size_t n = strlen(text), len = 0;
    char *flat = malloc(n + 1);
    uint8_t *der = malloc(n + 1);
    int rc = -ENOMEM;
    bool armour = false;

    if (!flat || !der) {
        err_set(err, rc, ERR_GEN_0002, "revocation list: out of memory");
        goto out;
    }
    for (const char *p = text; *p; p++) {
        if (*p == '-')
            armour = true; /* a BEGIN or END line: skip to its end */
        if (*p == '\n')
            armour = false;
        if (!armour && *p != '\n' && *p != '\r')
            flat[len++] = *p;
    }
    flat[len] = 0;
    rc = text_b64_decode(TEXT_B64_STD, flat, der, n + 1);
    if (rc <= 0) {
        rc = err_set(err, -EINVAL, ERR_REP_0017,
                     "the revocation list is no base64");
        goto out;
    }
    *out = der;
    *out_len = (size_t)rc;
    der = NULL;
    rc = 0;
out:
    free(flat);
    free(der);
    return rc;
}

/* Roots and revocation list of one object into a trust under construction. */
static int
trust_add(struct pki_trust *trust, const char *root_pem, const char *crl,
          struct err *err)
{
    struct stack_st_X509 *certs = NULL;
    uint8_t *der = NULL;
    size_t len = 0;
    int rc = 0;

    if (root_pem) {
        rc = pki_certs_parse(root_pem, strlen(root_pem), &certs, err);
        for (int i = 0; rc == 0 && i < sk_X509_num(certs); i++)
            rc = pki_trust_add_root(trust, sk_X509_value(certs, i), err);
    }
    if (rc == 0 && crl) {
        rc = crl_decode(crl, &der, &len, err);
        if (rc == 0)
            rc = pki_trust_add_crl(trust, der, len, err);
    }
    free(der);
    pki_certs_free(certs);
    return rc;
}

static char *
read_text(struct replicator *rep, const char *name, size_t max)
{
    char path[REP_PATH_MAX + 64];
    uint8_t *data = NULL;
    size_t len = 0;
    char *text;

    snprintf(path, sizeof path, "%s/%s", rep->cfg.state_dir, name);
    if (io_read_whole(rep->loop, path, max, &data, &len, NULL) < 0)
        return NULL;
    text = malloc(len + 1);
    if (text) {
        memcpy(text, data, len);
        text[len] = 0;
    }
    free(data);
    return text;
}

/* Disks over TCP are for certificates of this site only. */
static int
trust_own(struct replicator *rep, const char *root, const char *crl,
          struct err *err)
{
    struct pki_trust *own = NULL;
    int rc = pki_trust_new(&own, err);

    if (rc == 0)
        rc = trust_add(own, root, crl, err);
    if (rc == 0 && rep->nbd_tls)
        tls_ctx_set_trust(rep->nbd_tls, own);
    pki_trust_free(own);
    return rc;
}

/* Build a trust of the own root, what the manager said of revocations, and all
 * sites, and put it to work.  skip: a site that is leaving. */
static int
trust_rebuild(struct replicator *rep, const char *own_crl, struct err *err)
{
    struct pki_trust *trust = NULL;
    char *root = read_text(rep, "root.pem", ROOT_PEM_MAX);
    struct list *l;
    int rc = pki_trust_new(&trust, err);

    if (rc == 0 && !root)
        rc = err_set(err, -ENOENT, ERR_REP_0019,
                     "%s/root.pem is missing: this replicator has not joined "
                     "a site",
                     rep->cfg.state_dir);
    if (rc == 0)
        rc = trust_add(trust, root, own_crl, err);
    if (rc == 0)
        rc = trust_own(rep, root, own_crl, err);
    list_for_each (l, &rep->sites) {
        struct rep_peer_site *s = list_entry(l, struct rep_peer_site, link);
        const char *pem = NULL, *crl = NULL;

        if (rc == 0)
            rc = MIN(json_str(s->body, "RootPem", JSON_REQUIRED, &pem, err), 0);
        if (rc == 0)
            rc = MIN(json_str(s->body, "RevocationListPem", JSON_OPTIONAL, &crl,
                              err),
                     0);
        if (rc == 0)
            rc = trust_add(trust, pem, crl, err);
    }
    free(root);
    if (rc < 0) {
        pki_trust_free(trust);
        return rc;
    }
    pki_trust_free(rep->trust);
    rep->trust = trust;
    tls_ctx_set_trust(rep->client_tls, trust);
    tls_ctx_set_trust(rep->server_tls, trust);
    tls_ctx_set_trust(rep->control_tls, trust);
    return 0;
}

static int
site_parse(const cJSON *body, struct rep_peer_site **out, struct err *err)
{
    struct rep_peer_site *s = calloc(1, sizeof *s);
    const cJSON *list = NULL, *it;
    int rc = s ? 0 : -ENOMEM;

    if (rc < 0)
        return err_set(err, rc, ERR_GEN_0002, "peer site: out of memory");
    list_init(&s->link);
    if (json_uuid(body, "SiteIdentifier", JSON_REQUIRED, &s->site, err) < 0 ||
        json_array(body, "Replicators", JSON_OPTIONAL, &list, err) < 0)
        rc = -EINVAL;
    cJSON_ArrayForEach (it, list) {
        if (rc == 0 && (s->n_replicators == ARRAY_SIZE(s->replicators) ||
                        !cJSON_IsString(it) ||
                        uuid_parse(it->valuestring,
                                   &s->replicators[s->n_replicators++]) < 0))
            rc = err_set(err, -EINVAL, ERR_REP_0002,
                         "Replicators holds something that is no identifier, "
                         "or more than %zu",
                         ARRAY_SIZE(s->replicators));
    }
    if (rc == 0) {
        s->body = cJSON_Duplicate(body, 1);
        rc = s->body ? 0 : err_set(err, -ENOMEM, ERR_GEN_0002, "no memory");
    }
    if (rc < 0) {
        site_free(s);
        return rc;
    }
    *out = s;
    return 0;
}

static void
site_load(struct replicator *rep, const cJSON *body)
{
    struct rep_peer_site *s = NULL;
    struct err err = ERR_INIT;

    if (site_parse(body, &s, &err) < 0)
        log_err(LOG_ERROR, ROOM, "", "a peer site in the state directory", &err);
    else
        list_push_back(&rep->sites, &s->link);
}

int
trust_load(struct replicator *rep, struct err *err)
{
    int rc = rep_load_dir(rep, "peers", site_load, err);
    char *crl;

    if (rc < 0)
        return rc;
    crl = read_text(rep, "own.crl", CRL_MAX);
    rc = trust_rebuild(rep, crl, err);
    free(crl);
    return rc;
}

/* Cut the links to replicators that are no longer named. */
static void
trust_enforce(struct replicator *rep)
{
    struct list *l;

    list_for_each (l, &rep->sources) {
        struct source *s = list_entry(l, struct source, link);

        if (s->peer && !trust_allows(rep, &s->peer_site, &s->peer_agent))
            stream_peer_cut(s->peer, "the other site is no longer trusted");
    }
    list_for_each (l, &rep->targets) {
        struct target *t = list_entry(l, struct target, link);

        if (t->peer && !trust_allows(rep, &t->peer_site, &t->peer_agent))
            stream_peer_cut(t->peer, "the other site is no longer trusted");
    }
    stream_recheck(rep->stream);
    if (rep->trust_changed)
        rep->trust_changed(rep);
}

static void
trust_saved(void *arg, int res)
{
    struct ctl_call *c = arg;
    struct err err = ERR_INIT;

    if (res < 0) {
        err_set(&err, -EIO, ERR_REP_0007,
                "the state directory could not be written: %s", err_errno(res));
        ctl_reply_err(c, &err);
        return;
    }
    trust_enforce(c->rep);
    ctl_reply_ok(c);
}

static void
site_file(const struct uuid *site, char out[64])
{
    char id[UUID_TEXT_SIZE];

    uuid_format(site, id);
    snprintf(out, 64, "peers/%s.json", id);
}

static int
trust_rebuild_now(struct replicator *rep, struct err *err)
{
    char *crl = read_text(rep, "own.crl", CRL_MAX);
    int rc = trust_rebuild(rep, crl, err);

    free(crl);
    return rc;
}

void
trust_put_site(struct ctl_call *c)
{
    struct replicator *rep = c->rep;
    struct rep_peer_site *old = site_by_id(rep, &c->object), *s = NULL;
    struct err err = ERR_INIT;
    char id[UUID_TEXT_SIZE], file[64];
    char *text;

    uuid_format(&c->object, id);
    cJSON_DeleteItemFromObject(c->body, "SiteIdentifier");
    cJSON_AddStringToObject(c->body, "SiteIdentifier", id);
    if (site_parse(c->body, &s, &err) < 0) {
        ctl_reply_err(c, &err);
        return;
    }
    if (old)
        list_del(&old->link);
    list_push_back(&rep->sites, &s->link);
    if (trust_rebuild_now(rep, &err) < 0) { /* as it was */
        list_del(&s->link);
        site_free(s);
        if (old)
            list_push_back(&rep->sites, &old->link);
        ctl_reply_err(c, &err);
        return;
    }
    site_free(old);
    site_file(&c->object, file);
    text = rep_body_text(c->body);
    rep_save(rep, file, text, trust_saved, c);
    cJSON_free(text);
}

void
trust_delete_site(struct ctl_call *c)
{
    struct replicator *rep = c->rep;
    struct rep_peer_site *s = site_by_id(rep, &c->object);
    struct err err = ERR_INIT;
    char file[64];

    if (!s) {
        ctl_reply_ok(c);
        return;
    }
    list_del(&s->link);
    site_free(s);
    if (trust_rebuild_now(rep, &err) < 0) {
        ctl_reply_err(c, &err);
        return;
    }
    site_file(&c->object, file);
    rep_save(rep, file, NULL, trust_saved, c);
}

void
trust_put_revocations(struct ctl_call *c)
{
    const char *crl;
    struct err err = ERR_INIT;

    if (json_str(c->body, "RevocationListPem", JSON_REQUIRED, &crl, &err) < 0 ||
        trust_rebuild(c->rep, crl, &err) < 0) {
        ctl_reply_err(c, &err);
        return;
    }
    rep_save(c->rep, "own.crl", crl, trust_saved, c);
}
