/* Site definitions: where the managers are, who we are there, and what their
 * certificates must lead to.  One file holds one or more of them
 * (conf/sites.conf):
 *
 *   sites = ( { name = "london"; url = "https://10.1.0.5:9669"; user = "admin";
 *               password_file = "/etc/holdfast/london.pw";
 *               ca_file = "/etc/holdfast/london-root.pem"; } );
 */
#ifndef HOLDFAST_TUI_CLIENT_SITES_H
#define HOLDFAST_TUI_CLIENT_SITES_H

#include <stddef.h>

#include "common/config.h"
#include "common/err.h"

struct site_def {
    char *name, *url, *user;
    char *password_file; /* 0600; "": asked on the terminal */
    char *ca_file;       /* PEM of the site's root, "": none */
    char *fingerprint;   /* of that root, in hexadecimal; "": none */
    char *session_dir;   /* "": ~/.cache/holdfast */
};

struct sites {
    struct site_def *defs; /* in order; the first is the default */
    size_t n;
    struct config_list *files; /* owners of the strings */
    size_t n_files;
};

/* Read the named files, or, when there are none, *.conf in
 * /etc/holdfast/sites and then in ~/.config/holdfast/sites, each in the order
 * of names; a later definition of the same name takes the place of the
 * earlier.  No file at all is no error.  Release in any case. */
int sites_load(struct sites *s, const char *const *files, size_t n_files,
               struct err *err);
void sites_release(struct sites *s);
/* name NULL: the first.  NULL with CLI-0001 or CLI-0002. */
const struct site_def *
sites_find(const struct sites *s, const char *name, struct err *err);

/* $XDG_CONFIG_HOME/holdfast or ~/.config/holdfast and the like, with name
 * appended; -ENOENT when there is no home. */
enum home_dir {
    HOME_CONFIG,
    HOME_CACHE
};
int home_path(enum home_dir which, const char *name, char *out, size_t cap);

#endif
