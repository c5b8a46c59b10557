/* Configuration files (libconfig's syntax) read by one table of options, which
 * gives name, type, default, limits and help of each.  The same table prints
 * the effective values (--check-config) and the sample file, so that neither
 * can drift from the reader.  An unknown option is an error with file and
 * line. */
#ifndef HOLDFAST_COMMON_CONFIG_H
#define HOLDFAST_COMMON_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/err.h"

/* Type of the option, and of the field that holds its value. */
enum config_type {
    CONFIG_STRING,   /* char *, never NULL; min..max: bytes */
    CONFIG_NAME,     /* char *; text_name_ok(), up to max bytes, or empty */
    CONFIG_PATH,     /* char *; absolute, or empty */
    CONFIG_ADDRESS,  /* char *; "host:port", "[v6]:port", ":port", or empty */
    CONFIG_INT,      /* uint64_t */
    CONFIG_SIZE,     /* uint64_t, bytes; "256MiB" */
    CONFIG_DURATION, /* uint64_t, milliseconds; "5s" */
    CONFIG_BOOL,     /* bool */
    CONFIG_ENUM,     /* int, index into choices */
    CONFIG_STRINGS,  /* struct config_strings; choices: allowed words */
    CONFIG_GROUP,    /* nested struct; sub describes it */
    CONFIG_LIST,     /* struct config_list of item_size structs; sub likewise */
};

enum config_flags {
    CONFIG_REQUIRED = 1,   /* must be written */
    CONFIG_RELOADABLE = 2, /* takes effect on reload, without a restart */
    CONFIG_UNIQUE = 4,     /* no two entries of a list share this value */
};

struct config_strings {
    char **v;
    size_t n;
};

struct config_list {
    void *items;
    size_t n;
};

struct config_option {
    const char *name;
    enum config_type type;
    unsigned flags; /* of enum config_flags */
    size_t offset;
    /* As written in a file, without quotes; CONFIG_STRINGS: with commas. NULL:
     * empty, 0, false. */
    const char *def;
    uint64_t min, max;          /* both 0: no limits of their own */
    const char *const *choices; /* ends with NULL */
    const struct config_option *sub;
    size_t n_sub, item_size;
    const char *help; /* one or more lines for people */
};

/* Where values were read from. */
struct config_source;

struct config_table {
    const struct config_option *options;
    size_t n;
    size_t size; /* of the struct that the offsets are in */
    /* What no single option can say, asked when each has been read and is right
     * by itself; may be NULL.  0, or what config_refuse() returned. */
    int (*check)(const void *values, const struct config_source *from);
};

/* -EINVAL and a sentence with file and line of the option at path, such as
 * "replicator.vms.[0].name". */
int config_refuse(const struct config_source *from, const char *path,
                  enum err_code code, const char *fmt, ...) PRINTF_LIKE(4, 5);
/* The line on which it is written; 0: nowhere, it has its default. */
unsigned config_line(const struct config_source *from, const char *path);

/* Read a file, or text that is called name in messages, into the struct at
 * out, whose former content is ignored.  0; -EINVAL and CFG codes; -ENOENT and
 * others for the file.  On failure there is nothing to release. */
int config_load(const char *path, const struct config_table *table, void *out,
                struct err *err);
int config_parse(const char *text, const char *name,
                 const struct config_table *table, void *out, struct err *err);
/* All options at their defaults; required ones are empty. */
int
config_defaults(const struct config_table *table, void *out, struct err *err);
void config_release(const struct config_table *table, void *values);

/* The effective values, in the form of a configuration file. */
int config_print(const struct config_table *table, const void *values,
                 struct buf *out);
/* The sample file: every option with its help, commented out at its default. */
int config_sample(const struct config_table *table, struct buf *out);
/* Names of options that differ and need a restart, with ", " between. */
int config_changed(const struct config_table *table, const void *before,
                   const void *after, struct buf *out_names);

#endif
