/* See catalog.h. */
#include "manager/catalog.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <sqlite3.h>

#include "common/bytes.h"

enum statement {
    ST_PUT,
    ST_DELETE,
    ST_EACH,
    ST_GET,
    ST_EVENT_ADD,
    ST_EVENT_TRIM,
    ST_EVENTS,
    ST_COUNT
};

static const char *const sql[ST_COUNT] = {
    [ST_PUT] = "INSERT INTO object (kind, id, body) VALUES (?1, ?2, ?3) "
               "ON CONFLICT (kind, id) DO UPDATE SET body = excluded.body",
    [ST_DELETE] = "DELETE FROM object WHERE kind = ?1 AND id = ?2",
    [ST_EACH] = "SELECT id, body FROM object WHERE kind = ?1 ORDER BY id",
    [ST_GET] = "SELECT id, body FROM object WHERE kind = ?1 AND id = ?2",
    [ST_EVENT_ADD] = "INSERT INTO event (at_ms, id, body) VALUES (?1, ?2, ?3)",
    [ST_EVENT_TRIM] =
        "DELETE FROM event WHERE seq <= (SELECT max(seq) FROM event) - ?1",
    [ST_EVENTS] = "SELECT id, body FROM event WHERE at_ms BETWEEN ?1 AND ?2 "
                  "ORDER BY seq DESC LIMIT ?3",
};

static const char schema[] =
    "BEGIN;"
    "CREATE TABLE object (kind TEXT NOT NULL, id TEXT NOT NULL, body TEXT NOT NULL, "
    "PRIMARY KEY (kind, id)) WITHOUT ROWID;"
    "CREATE TABLE event (seq INTEGER PRIMARY KEY AUTOINCREMENT, at_ms INTEGER NOT NULL, "
    "id TEXT NOT NULL, body TEXT NOT NULL);"
    "CREATE INDEX event_at ON event (at_ms);"
    "PRAGMA application_id = 1212696404;" /* "HFCT" */
    "PRAGMA user_version = 1;"
    "COMMIT;";

struct catalog {
    sqlite3 *db;
    sqlite3_stmt *st[ST_COUNT];
};

static int
failed(struct catalog *c, struct err *err, const char *trying)
{
    int code = c->db ? sqlite3_errcode(c->db) : SQLITE_NOMEM;

    return err_set(err, code == SQLITE_FULL ? -ENOSPC : -EIO, ERR_MGR_0004,
                   "catalog: %s: %s", trying,
                   c->db ? sqlite3_errmsg(c->db) : "out of memory");
}

static int
pragma_int(sqlite3 *db, const char *text, int64_t *out)
{
    sqlite3_stmt *st = NULL;
    int rc = -EIO;

    if (sqlite3_prepare_v2(db, text, -1, &st, NULL) == SQLITE_OK &&
        sqlite3_step(st) == SQLITE_ROW) {
        *out = sqlite3_column_int64(st, 0);
        rc = 0;
    }
    sqlite3_finalize(st);
    return rc;
}

/* Look before writing: a newer release's file must stay as it is. */
static int
check_version(const char *path, struct err *err)
{
    sqlite3 *db = NULL;
    int64_t version = 0, app = 0;
    int rc = 0;

    if (access(path, F_OK) < 0)
        return 0;
    if (sqlite3_open_v2(path, &db, SQLITE_OPEN_READONLY, NULL) != SQLITE_OK ||
        pragma_int(db, "PRAGMA user_version", &version) < 0 ||
        pragma_int(db, "PRAGMA application_id", &app) < 0)
        rc = err_set(err, -EIO, ERR_MGR_0002, "catalog %s: cannot be read: %s",
                     path, db ? sqlite3_errmsg(db) : "out of memory");
    else if (version > CATALOG_VERSION)
        rc = err_set(err, -EPROTONOSUPPORT, ERR_MGR_0003,
                     "catalog %s: has version %lld, this release knows %d",
                     path, (long long)version, CATALOG_VERSION);
    else if (version != 0 && app != 1212696404)
        rc = err_set(err, -EIO, ERR_MGR_0002,
                     "catalog %s: is another program's database", path);
    sqlite3_close(db);
    return rc;
}

static int
prepare(struct catalog *c, const char *path, struct err *err)
{
    int64_t version = 0;
    mode_t old = umask(0077);
    int rc = sqlite3_open_v2(path, &c->db,
                             SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE |
                                 SQLITE_OPEN_NOMUTEX,
                             NULL);

    umask(old);
    if (rc == SQLITE_OK)
        rc =
            sqlite3_exec(c->db,
                         "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;"
                         "PRAGMA locking_mode = NORMAL; PRAGMA busy_timeout = 5000",
                         NULL, NULL, NULL);
    if (rc == SQLITE_OK &&
        pragma_int(c->db, "PRAGMA user_version", &version) == 0 && version == 0)
        rc = sqlite3_exec(c->db, schema, NULL, NULL, NULL);
    for (int i = 0; i < ST_COUNT && rc == SQLITE_OK; i++)
        rc = sqlite3_prepare_v3(c->db, sql[i], -1, SQLITE_PREPARE_PERSISTENT,
                                &c->st[i], NULL);
    if (rc != SQLITE_OK)
        return err_set(err, -EIO, ERR_MGR_0002,
                       "catalog %s: cannot be opened: %s", path,
                       c->db ? sqlite3_errmsg(c->db) : "out of memory");
    return 0;
}

int
catalog_open(const char *path, struct catalog **out_catalog, struct err *err)
{
    struct catalog *c;
    int rc = check_version(path, err);

    if (rc < 0)
        return rc;
    c = calloc(1, sizeof *c);
    if (!c)
        return err_set(err, -ENOMEM, ERR_GEN_0002, "catalog: out of memory");
    rc = prepare(c, path, err);
    if (rc < 0) {
        catalog_close(c);
        return rc;
    }
    *out_catalog = c;
    return 0;
}

void
catalog_close(struct catalog *c)
{
    if (!c)
        return;
    for (int i = 0; i < ST_COUNT; i++)
        sqlite3_finalize(c->st[i]);
    sqlite3_close(c->db);
    free(c);
}

static int
exec(struct catalog *c, const char *text, struct err *err)
{
    if (sqlite3_exec(c->db, text, NULL, NULL, NULL) != SQLITE_OK)
        return failed(c, err, text);
    return 0;
}

int
catalog_begin(struct catalog *c, struct err *err)
{
    return exec(c, "BEGIN IMMEDIATE", err);
}

int
catalog_commit(struct catalog *c, struct err *err)
{
    int rc = exec(c, "COMMIT", err);

    if (rc < 0)
        catalog_rollback(c);
    return rc;
}

void
catalog_rollback(struct catalog *c)
{
    if (!sqlite3_get_autocommit(c->db))
        (void)sqlite3_exec(c->db, "ROLLBACK", NULL, NULL, NULL);
}

static sqlite3_stmt *
bind(struct catalog *c, enum statement which, const char *a, const char *b,
     const char *d)
{
    const char *const text[] = { a, b, d };
    sqlite3_stmt *st = c->st[which];

    for (int i = 0; i < 3; i++)
        if (text[i])
            (void)sqlite3_bind_text(st, i + 1, text[i], -1, SQLITE_STATIC);
    return st;
}

static void
done_with(sqlite3_stmt *st)
{
    sqlite3_reset(st);
    sqlite3_clear_bindings(st);
}

int
catalog_put(struct catalog *c, const char *kind, const char *id,
            const char *json, struct err *err)
{
    sqlite3_stmt *st = bind(c, ST_PUT, kind, id, json);
    int rc = sqlite3_step(st) == SQLITE_DONE ? 0 : failed(c, err, "put");

    done_with(st);
    return rc;
}

int
catalog_delete(struct catalog *c, const char *kind, const char *id,
               struct err *err)
{
    sqlite3_stmt *st = bind(c, ST_DELETE, kind, id, NULL);
    int rc = sqlite3_step(st) == SQLITE_DONE ? 0 : failed(c, err, "delete");

    done_with(st);
    if (rc == 0 && sqlite3_changes(c->db) == 0)
        return err_set(err, -ENOENT, ERR_API_0013, "catalog: there is no %s %s",
                       kind, id);
    return rc;
}

static int
walk(struct catalog *c, sqlite3_stmt *st, catalog_each_fn *fn, void *arg,
     unsigned *out_rows, struct err *err)
{
    int rc = 0, step;

    while ((step = sqlite3_step(st)) == SQLITE_ROW) {
        const char *id = (const char *)sqlite3_column_text(st, 0);
        const char *body = (const char *)sqlite3_column_text(st, 1);

        (*out_rows)++;
        rc = id && body ? fn(arg, id, body) : -ENOMEM;
        if (rc < 0)
            break;
    }
    if (rc == 0 && step != SQLITE_DONE)
        rc = failed(c, err, "read");
    done_with(st);
    return rc;
}

int
catalog_each(struct catalog *c, const char *kind, catalog_each_fn *fn,
             void *arg, struct err *err)
{
    unsigned rows = 0;

    return walk(c, bind(c, ST_EACH, kind, NULL, NULL), fn, arg, &rows, err);
}

int
catalog_get(struct catalog *c, const char *kind, const char *id,
            catalog_each_fn *fn, void *arg, struct err *err)
{
    unsigned rows = 0;
    int rc = walk(c, bind(c, ST_GET, kind, id, NULL), fn, arg, &rows, err);

    if (rc == 0 && rows == 0)
        return err_set(err, -ENOENT, ERR_API_0013, "catalog: there is no %s %s",
                       kind, id);
    return rc;
}

int
catalog_event_add(struct catalog *c, uint64_t at_ms, const char *id,
                  const char *json, unsigned keep, struct err *err)
{
    sqlite3_stmt *st = bind(c, ST_EVENT_ADD, NULL, id, json);
    int rc;

    (void)sqlite3_bind_int64(st, 1, (int64_t)at_ms);
    rc = sqlite3_step(st) == SQLITE_DONE ? 0 : failed(c, err, "add event");
    done_with(st);
    if (rc < 0)
        return rc;
    st = c->st[ST_EVENT_TRIM];
    (void)sqlite3_bind_int64(st, 1, keep);
    rc = sqlite3_step(st) == SQLITE_DONE ? 0 : failed(c, err, "trim events");
    done_with(st);
    return rc;
}

int
catalog_events(struct catalog *c, uint64_t from_ms, uint64_t to_ms,
               unsigned max, catalog_each_fn *fn, void *arg, struct err *err)
{
    sqlite3_stmt *st = c->st[ST_EVENTS];
    unsigned rows = 0;

    (void)sqlite3_bind_int64(st, 1, (int64_t)MIN(from_ms, (uint64_t)INT64_MAX));
    (void)sqlite3_bind_int64(st, 2, (int64_t)MIN(to_ms, (uint64_t)INT64_MAX));
    (void)sqlite3_bind_int64(st, 3, max);
    return walk(c, st, fn, arg, &rows, err);
}
