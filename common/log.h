/* The log: one line a record, made for grep and for people.
 *
 *   2026-11-22T03:32:48.123Z info journal vpg=... lane=1 segment 12 sealed
 *
 * UTC time with milliseconds, level, room, key=value identifiers, sentence.
 * Control characters and bytes that are not UTF-8 are replaced, so that foreign
 * text cannot drive a terminal or forge a line.  Thread-safe.  Never blocks on
 * anything but the sink's write.
 */
#ifndef HOLDFAST_COMMON_LOG_H
#define HOLDFAST_COMMON_LOG_H

#include "common/err.h"

enum log_level {
    LOG_ERROR,
    LOG_WARN,
    LOG_INFO,
    LOG_DEBUG
};

/* Sinks: a file (appended, reopened by log_reopen), else standard error; with
 * JOURNAL_STREAM set by the service manager, a "<n>" priority prefix. */
int log_open(const char *path, struct err *err); /* NULL: standard error */
void log_reopen(void);
void log_close(void);
void log_set_level(enum log_level level);
int log_level_parse(const char *name, enum log_level *out_level);

/* room: the folder's name.  ids: "key=value key=value" or "". */
void log_line(enum log_level level, const char *room, const char *ids,
              const char *fmt, ...) PRINTF_LIKE(4, 5);

/* Log an error with its stable code after what was being tried. */
void log_err(enum log_level level, const char *room, const char *ids,
             const char *trying, const struct err *err);

#endif
