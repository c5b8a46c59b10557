/* Site definitions, read through the one option table below. */
#include "tui/client/sites.h"

#include <dirent.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/files.h"
#include "common/pki.h"
#include "common/text.h"

#define ETC_SITES "/etc/holdfast/sites"

struct site_file {
    struct config_list sites; /* of struct site_def */
};

#define DEF(field) offsetof(struct site_def, field)

static const struct config_option def_options[] = {
    { .name = "name",
      .type = CONFIG_NAME,
      .offset = DEF(name),
      .max = PKI_NAME_MAX,
      .flags = CONFIG_REQUIRED | CONFIG_UNIQUE,
      .help = "What you call the site here: --ctx takes it." },
    { .name = "url",
      .type = CONFIG_STRING,
      .offset = DEF(url),
      .min = 1,
      .max = 300,
      .flags = CONFIG_REQUIRED,
      .help = "Address of its manager: https://host:9669" },
    { .name = "user",
      .type = CONFIG_STRING,
      .offset = DEF(user),
      .def = "admin",
      .min = 1,
      .max = 120,
      .help = "Who logs in." },
    { .name = "password_file",
      .type = CONFIG_PATH,
      .offset = DEF(password_file),
      .help = "File of mode 0600 with the password in its first line.\n"
              "Without one the password is asked on the terminal." },
    { .name = "ca_file",
      .type = CONFIG_PATH,
      .offset = DEF(ca_file),
      .help = "The site's root certificate (PEM).  Without it and without a\n"
              "fingerprint, the root is shown and asked for at the first use." },
    { .name = "fingerprint",
      .type = CONFIG_STRING,
      .offset = DEF(fingerprint),
      .help = "SHA-256 of that root instead, as holdfastd init shows it." },
    { .name = "session_dir",
      .type = CONFIG_PATH,
      .offset = DEF(session_dir),
      .help = "Where its sessions are kept; empty: ~/.cache/holdfast." },
};

static const struct config_option file_options[] = {
    { .name = "sites",
      .type = CONFIG_LIST,
      .offset = offsetof(struct site_file, sites),
      .sub = def_options,
      .n_sub = ARRAY_SIZE(def_options),
      .item_size = sizeof(struct site_def),
      .flags = CONFIG_REQUIRED,
      .help = "The sites; the first is the default." },
};

static const struct config_table file_table = {
    .options = file_options,
    .n = ARRAY_SIZE(file_options),
    .size = sizeof(struct site_file),
};

/* The program has one thread.
 * NOLINTBEGIN(concurrency-mt-unsafe) */
int
home_path(enum home_dir which, const char *name, char *out, size_t cap)
{
    const char *xdg =
        getenv(which == HOME_CONFIG ? "XDG_CONFIG_HOME" : "XDG_CACHE_HOME");
    const char *home = getenv("HOME"), *slash = name[0] ? "/" : "";
    const struct passwd *pw;
    int n;

    if (xdg && xdg[0] == '/') {
        n = snprintf(out, cap, "%s/holdfast%s%s", xdg, slash, name);
        return n < (int)cap ? 0 : -ENAMETOOLONG;
    }
    if (!home || home[0] != '/') {
        pw = getpwuid(geteuid());
        home = pw ? pw->pw_dir : NULL;
    }
    if (!home || home[0] != '/')
        return -ENOENT;
    n = snprintf(out, cap, "%s/%s/holdfast%s%s", home,
                 which == HOME_CONFIG ? ".config" : ".cache", slash, name);
    return n < (int)cap ? 0 : -ENAMETOOLONG;
}
/* NOLINTEND(concurrency-mt-unsafe) */

/* ---- Reading --------------------------------------------------------------- */

static int
check_def(const struct site_def *d, const char *path, struct err *err)
{
    uint8_t fp[PKI_FINGERPRINT_SIZE];

    if (strncmp(d->url, "https://", 8) != 0 || !d->url[8] ||
        strpbrk(d->url + 8, "/ \"@?#"))
        return err_set(err, -EINVAL, ERR_CFG_0003,
                       "%s: site %s: url \"%s\" is not of the form "
                       "https://host:port",
                       path, d->name, d->url);
    if (strchr(d->user, ':'))
        return err_set(err, -EINVAL, ERR_CFG_0003,
                       "%s: site %s: a user's name has no colon", path, d->name);
    if (d->fingerprint[0] && (strlen(d->fingerprint) != 2 * sizeof fp ||
                              hex_decode(d->fingerprint, fp, sizeof fp) < 0))
        return err_set(err, -EINVAL, ERR_CFG_0003,
                       "%s: site %s: fingerprint is not %zu hexadecimal digits",
                       path, d->name, 2 * sizeof fp);
    return 0;
}

static void
put_def(struct sites *s, const struct site_def *d)
{
    for (size_t i = 0; i < s->n; i++) {
        if (strcmp(s->defs[i].name, d->name) == 0) {
            s->defs[i] = *d;
            return;
        }
    }
    s->defs[s->n++] = *d;
}

static int
load_file(struct sites *s, const char *path, struct err *err)
{
    struct site_file f;
    struct config_list *files;
    struct site_def *defs;
    int rc = config_load(path, &file_table, &f, err);

    if (rc < 0)
        return rc;
    files = reallocarray(s->files, s->n_files + 1, sizeof *files);
    if (files)
        s->files = files;
    defs = reallocarray(s->defs, s->n + f.sites.n + 1, sizeof *defs);
    if (defs)
        s->defs = defs;
    if (!files || !defs) {
        config_release(&file_table, &f);
        return err_set(err, -ENOMEM, ERR_GEN_0002, "sites: out of memory");
    }
    s->files[s->n_files++] = f.sites;
    for (size_t i = 0; i < f.sites.n; i++) {
        const struct site_def *d = (const struct site_def *)f.sites.items + i;

        rc = check_def(d, path, err);
        if (rc < 0)
            return rc;
        put_def(s, d);
    }
    return 0;
}

static int
is_conf(const struct dirent *e)
{
    size_t n = strlen(e->d_name);

    return e->d_name[0] != '.' && n > 5 &&
           strcmp(e->d_name + n - 5, ".conf") == 0;
}

static int
load_dir(struct sites *s, const char *dir, struct err *err)
{
    struct dirent **names = NULL;
    char path[FILE_PATH_SIZE];
    int n = scandir(dir, &names, is_conf, alphasort), rc = 0;

    if (n < 0)
        return errno == ENOENT || errno == ENOTDIR
                   ? 0
                   : err_set(err, -errno, ERR_GEN_0003, "%s: %s", dir,
                             err_errno(errno));
    for (int i = 0; i < n; i++) {
        if (rc == 0)
            rc = path_join(path, dir, names[i]->d_name, err);
        if (rc == 0)
            rc = load_file(s, path, err);
        free(names[i]);
    }
    free(names);
    return rc;
}

int
sites_load(struct sites *s, const char *const *files, size_t n_files,
           struct err *err)
{
    char dir[FILE_PATH_SIZE];
    int rc = 0;

    *s = (struct sites){ .n = 0 };
    for (size_t i = 0; rc == 0 && i < n_files; i++)
        rc = load_file(s, files[i], err);
    if (n_files || rc < 0)
        return rc;
    rc = load_dir(s, ETC_SITES, err);
    if (rc == 0 && home_path(HOME_CONFIG, "sites", dir, sizeof dir) == 0)
        rc = load_dir(s, dir, err);
    return rc;
}

void
sites_release(struct sites *s)
{
    for (size_t i = 0; i < s->n_files; i++)
        config_release(&file_table, &(struct site_file){ s->files[i] });
    free(s->files);
    free(s->defs);
    *s = (struct sites){ .n = 0 };
}

const struct site_def *
sites_find(const struct sites *s, const char *name, struct err *err)
{
    if (!s->n) {
        (void)err_set(err, -ENOENT, ERR_CLI_0001,
                      "no site is defined in " ETC_SITES
                      " or ~/.config/holdfast/sites");
        return NULL;
    }
    if (!name)
        return &s->defs[0];
    for (size_t i = 0; i < s->n; i++) {
        if (strcmp(s->defs[i].name, name) == 0)
            return &s->defs[i];
    }
    (void)err_set(err, -ENOENT, ERR_CLI_0002, "no site \"%s\" is defined", name);
    return NULL;
}
