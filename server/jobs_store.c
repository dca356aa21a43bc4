#include "server/jobs_store_parts.h"

#include "base/try.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* In the file's header: whose it is. "TV3J" */
#define APPLICATION_ID 0x5456334a
enum { PATIENCE_MS = 5000 };

/* The file's versions: what makes each of the one before. */
static const char *const migrations[] = {
    "CREATE TABLE jobs("
    " number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE,"
    " model TEXT NOT NULL, mode TEXT NOT NULL, format TEXT NOT NULL, resize TEXT NOT NULL,"
    " state TEXT NOT NULL, created REAL NOT NULL, started REAL NOT NULL, finished REAL NOT NULL,"
    " done INTEGER NOT NULL, total INTEGER NOT NULL, corrupt INTEGER NOT NULL,"
    " width INTEGER NOT NULL, height INTEGER NOT NULL, fps REAL NOT NULL, bytes INTEGER NOT NULL,"
    " error TEXT NOT NULL, problem TEXT NOT NULL, origin TEXT NOT NULL)",
    "ALTER TABLE jobs ADD COLUMN owner TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE jobs DROP COLUMN bytes;"
    "ALTER TABLE jobs ADD COLUMN key TEXT NOT NULL DEFAULT '';"
    "ALTER TABLE jobs ADD COLUMN digest TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE jobs ADD COLUMN webhook TEXT NOT NULL DEFAULT '';"
    "CREATE TABLE deliveries("
    " number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, job TEXT NOT NULL UNIQUE,"
    " url TEXT NOT NULL, body TEXT NOT NULL, tries INTEGER NOT NULL, due REAL NOT NULL)",
    ("ALTER TABLE deliveries ADD COLUMN host TEXT NOT NULL DEFAULT '-';"
     "CREATE INDEX deliveries_due ON deliveries(host, due)"),
    "ALTER TABLE jobs ADD COLUMN warning TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE jobs ADD COLUMN decoder TEXT NOT NULL DEFAULT ''",
};
enum { VERSION = sizeof migrations / sizeof *migrations };

#define NAMES "id, model, mode, format, resize, created, owner, key, digest, webhook"
#define FIELDS                                                                                     \
    "state, started, finished, done, total, corrupt, width, height, fps, error, "                  \
    "problem, origin, warning, decoder"
static const char *const sql[STATEMENTS] = {
    [ADD] = "INSERT INTO jobs(" NAMES ", " FIELDS ") VALUES(?1, ?14, ?15, ?16, ?17, ?18, ?19, ?20,"
            " ?21, ?22, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?23, ?24)",
    [UPDATE] = "UPDATE jobs SET (" FIELDS ") = (?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12,"
               " ?13, ?23, ?24) WHERE id = ?1",
    [REMOVE] = "DELETE FROM jobs WHERE id = ?1",
    [ALL] = "SELECT " NAMES ", " FIELDS " FROM jobs ORDER BY number",
    [BEGIN] = "BEGIN IMMEDIATE",
    [COMMIT] = "COMMIT",
    [ROLLBACK] = "ROLLBACK",
    [DELIVER] = "INSERT INTO deliveries(id, job, url, body, tries, due, host)"
                " SELECT ?1, id, webhook, ?3, 0, 0, ?4 FROM jobs WHERE id = ?2",
    [NEXT_HOST] = "SELECT host, (SELECT min(due) FROM deliveries WHERE host = next.host),"
                  " (SELECT max(due) FROM deliveries WHERE host = next.host)"
                  " FROM (SELECT min(host) AS host FROM deliveries WHERE host > ?1) AS next",
    [DUE] = "SELECT number, id, job, url, body, tries FROM deliveries"
            " WHERE host = ?1 AND due >= ?2 AND due <= ?3 ORDER BY due, number LIMIT ?4",
    [TRIED] = "UPDATE deliveries SET tries = ?2, due = ?3 WHERE number = ?1",
    [DELIVERED] = "DELETE FROM deliveries WHERE number = ?1",
};

/* ---- statements ---------------------------------------------------------------------------------
 */

enum err store_failed(const struct store *s)
{
    int code = sqlite3_errcode(s->db) & 0xff;
    enum err e = code == SQLITE_FULL ? ERR_FULL : code == SQLITE_NOMEM ? ERR_NOMEM : ERR_BUSY;
    return err_set(e, "the database of jobs: %s", sqlite3_errmsg(s->db));
}

enum err store_run(struct store *s, enum statement which)
{
    sqlite3_stmt *st = s->statement[which];
    enum err e = sqlite3_step(st) == SQLITE_DONE ? ERR_OK : store_failed(s);
    sqlite3_reset(st);
    sqlite3_clear_bindings(st);
    return e;
}

void store_text(sqlite3_stmt *st, int at, const char *text)
{
    sqlite3_bind_text(st, at, text, -1, SQLITE_TRANSIENT);
}

static void bind_fields(sqlite3_stmt *st, const struct job_row *r)
{
    store_text(st, 1, r->id);
    store_text(st, 2, r->state);
    sqlite3_bind_double(st, 3, r->started);
    sqlite3_bind_double(st, 4, r->finished);
    sqlite3_bind_int64(st, 5, r->done);
    sqlite3_bind_int64(st, 6, r->total);
    sqlite3_bind_int64(st, 7, r->corrupt);
    sqlite3_bind_int(st, 8, r->width);
    sqlite3_bind_int(st, 9, r->height);
    sqlite3_bind_double(st, 10, r->fps);
    store_text(st, 11, r->error);
    store_text(st, 12, r->problem);
    store_text(st, 13, r->origin);
    store_text(st, 23, r->warning);
    store_text(st, 24, r->decoder);
}

static void bind_names(sqlite3_stmt *st, const struct job_row *r)
{
    store_text(st, 14, r->model);
    store_text(st, 15, r->mode);
    store_text(st, 16, r->format);
    store_text(st, 17, r->resize);
    sqlite3_bind_double(st, 18, r->created);
    store_text(st, 19, r->owner);
    store_text(st, 20, r->key);
    store_text(st, 21, r->digest);
    store_text(st, 22, r->webhook);
}

static enum err write_row(struct store *s, enum statement which, const struct job_row *r)
{
    bind_fields(s->statement[which], r);
    if (which == ADD)
        bind_names(s->statement[which], r);
    return store_run(s, which);
}

static enum err add_delivery(struct store *s, const struct job_row *r,
                             const struct store_delivery *d)
{
    sqlite3_stmt *st = s->statement[DELIVER];
    store_text(st, 1, d->id);
    store_text(st, 2, r->id);
    store_text(st, 3, d->body);
    store_text(st, 4, d->host);
    return store_run(s, DELIVER);
}

/* With the lock held: both, or nothing. */
static enum err write_both(struct store *s, enum statement which, const struct job_row *r,
                           const struct store_delivery *d)
{
    int more = 0;
    TRY(store_run(s, BEGIN));
    enum err e = write_row(s, which, r);
    if (!e)
        e = add_delivery(s, r, d);
    if (!e) {
        more = sqlite3_changes(s->db);
        e = store_run(s, COMMIT);
    }
    if (!e)
        s->deliveries += more;
    if (e && !sqlite3_get_autocommit(s->db)) {
        char text[256];
        snprintf(text, sizeof text, "%s", err_text());
        store_run(s, ROLLBACK);
        return err_set(e, "%s", text);
    }
    return e;
}

static enum err write_job(struct store *s, enum statement which, const struct job_row *r,
                          const struct store_delivery *d)
{
    pthread_mutex_lock(&s->lock);
    enum err e = d ? write_both(s, which, r, d) : write_row(s, which, r);
    pthread_mutex_unlock(&s->lock);
    return e;
}

enum err store_add(struct store *s, const struct job_row *r, const struct store_delivery *d)
{
    return write_job(s, ADD, r, d);
}

enum err store_update(struct store *s, const struct job_row *r, const struct store_delivery *d)
{
    return write_job(s, UPDATE, r, d);
}

enum err store_remove(struct store *s, const char *id)
{
    pthread_mutex_lock(&s->lock);
    store_text(s->statement[REMOVE], 1, id);
    enum err e = store_run(s, REMOVE);
    pthread_mutex_unlock(&s->lock);
    return e;
}

/* ---- reading ------------------------------------------------------------------------------------
 */

void store_get_text(struct columns *c, char *out, size_t room)
{
    const unsigned char *text = sqlite3_column_text(c->st, c->at++);
    snprintf(out, room, "%s", text ? (const char *)text : "");
}

static double get_real(struct columns *c)
{
    return sqlite3_column_double(c->st, c->at++);
}

static int64_t get_int(struct columns *c)
{
    return sqlite3_column_int64(c->st, c->at++);
}

static void get_row(sqlite3_stmt *st, struct job_row *r)
{
    struct columns c = {st, 0};
    store_get_text(&c, r->id, sizeof r->id);
    store_get_text(&c, r->model, sizeof r->model);
    store_get_text(&c, r->mode, sizeof r->mode);
    store_get_text(&c, r->format, sizeof r->format);
    store_get_text(&c, r->resize, sizeof r->resize);
    r->created = get_real(&c);
    store_get_text(&c, r->owner, sizeof r->owner);
    store_get_text(&c, r->key, sizeof r->key);
    store_get_text(&c, r->digest, sizeof r->digest);
    store_get_text(&c, r->webhook, sizeof r->webhook);
    store_get_text(&c, r->state, sizeof r->state);
    r->started = get_real(&c);
    r->finished = get_real(&c);
    r->done = get_int(&c);
    r->total = get_int(&c);
    r->corrupt = get_int(&c);
    r->width = (int)get_int(&c);
    r->height = (int)get_int(&c);
    r->fps = get_real(&c);
    store_get_text(&c, r->error, sizeof r->error);
    store_get_text(&c, r->problem, sizeof r->problem);
    store_get_text(&c, r->origin, sizeof r->origin);
    store_get_text(&c, r->warning, sizeof r->warning);
    store_get_text(&c, r->decoder, sizeof r->decoder);
}

enum err store_each(struct store *s, void (*visit)(void *ctx, const struct job_row *r), void *ctx)
{
    int code;
    pthread_mutex_lock(&s->lock);
    sqlite3_stmt *st = s->statement[ALL];
    while ((code = sqlite3_step(st)) == SQLITE_ROW) {
        struct job_row r;
        get_row(st, &r);
        visit(ctx, &r);
    }
    enum err e = code == SQLITE_DONE ? ERR_OK : store_failed(s);
    sqlite3_reset(st);
    pthread_mutex_unlock(&s->lock);
    return e;
}

/* ---- opening ------------------------------------------------------------------------------------
 */

/* What cannot be read at the start is not to be written into. */
static enum err unreadable(const struct store *s)
{
    int code = sqlite3_errcode(s->db) & 0xff;
    const char *text = sqlite3_errmsg(s->db);
    if (code == SQLITE_NOTADB || code == SQLITE_CORRUPT)
        return err_set(ERR_FORMAT, "it is damaged, or no database (%s)", text);
    return err_set(code == SQLITE_FULL ? ERR_FULL : ERR_IO, "%s", text);
}

/* The first column of the first row. */
static enum err ask(struct store *s, const char *query, char *out, size_t room)
{
    sqlite3_stmt *st = NULL;
    enum err e = ERR_OK;
    if (sqlite3_prepare_v2(s->db, query, -1, &st, NULL) != SQLITE_OK ||
        sqlite3_step(st) != SQLITE_ROW)
        e = unreadable(s);
    else
        snprintf(out, room, "%s", (const char *)sqlite3_column_text(st, 0));
    sqlite3_finalize(st);
    return e;
}

static enum err ask_number(struct store *s, const char *query, long *out)
{
    char text[32];
    TRY(ask(s, query, text, sizeof text));
    *out = strtol(text, NULL, 10);
    return ERR_OK;
}

static enum err order(struct store *s, const char *command)
{
    return sqlite3_exec(s->db, command, NULL, NULL, NULL) == SQLITE_OK ? ERR_OK : unreadable(s);
}

/* It is ours, or new. */
static enum err check(struct store *s, long *version)
{
    long owner, tables;
    char sound[256];
    TRY(ask_number(s, "PRAGMA application_id", &owner));
    TRY(ask_number(s, "PRAGMA user_version", version));
    TRY(ask_number(s, "SELECT count(*) FROM sqlite_schema", &tables));
    if (owner != APPLICATION_ID && (owner != 0 || *version != 0 || tables != 0))
        return err_set(ERR_FORMAT, "it is a database of another program");
    if (*version < 0 || *version > VERSION)
        return err_set(ERR_FORMAT, "a later tv3sd made it: version %ld, we know 0 to %d", *version,
                       VERSION);
    TRY(ask(s, "PRAGMA quick_check(1)", sound, sizeof sound));
    return strcmp(sound, "ok") == 0 ? ERR_OK : err_set(ERR_FORMAT, "it is damaged: %s", sound);
}

static enum err migrate(struct store *s, long version)
{
    char text[64];
    TRY(order(s, "BEGIN IMMEDIATE"));
    for (; version < VERSION; version++)
        TRY(order(s, migrations[version]));
    snprintf(text, sizeof text, "PRAGMA application_id = %d", APPLICATION_ID);
    TRY(order(s, text));
    snprintf(text, sizeof text, "PRAGMA user_version = %d", VERSION);
    TRY(order(s, text));
    return order(s, "COMMIT");
}

static enum err set_up(struct store *s)
{
    char mode[16];
    long version;
    sqlite3_busy_timeout(s->db, PATIENCE_MS);
    sqlite3_db_config(s->db, SQLITE_DBCONFIG_DEFENSIVE, 1, (int *)NULL);
    sqlite3_db_config(s->db, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, (int *)NULL);
    TRY(check(s, &version));
    TRY(ask(s, "PRAGMA journal_mode = WAL", mode, sizeof mode));
    if (strcmp(mode, "wal") != 0)
        return err_set(ERR_IO, "no write-ahead log is possible there");
    TRY(order(s, "PRAGMA synchronous = FULL"));
    TRY(migrate(s, version));
    for (int i = 0; i < STATEMENTS; i++)
        if (sqlite3_prepare_v3(s->db, sql[i], -1, SQLITE_PREPARE_PERSISTENT, &s->statement[i],
                               NULL) != SQLITE_OK)
            return unreadable(s);
    long deliveries;
    TRY(ask_number(s, "SELECT count(*) FROM deliveries", &deliveries));
    s->deliveries = deliveries;
    return ERR_OK;
}

/* SQLite would make it readable by all; its log gets the file's mode. */
static enum err make_file(const char *path)
{
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return err_set(errno == ENOSPC ? ERR_FULL : ERR_IO, "%s", strerror(errno));
    close(fd);
    return ERR_OK;
}

enum err store_open(const char *path, struct store **out)
{
    *out = NULL;
    struct store *s = calloc(1, sizeof *s);
    if (!s)
        return err_set(ERR_NOMEM, "no memory for the database of jobs");
    pthread_mutex_init(&s->lock, NULL);
    enum err e = make_file(path);
    if (!e && sqlite3_open_v2(path, &s->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL) !=
                  SQLITE_OK)
        e = s->db ? unreadable(s) : err_set(ERR_NOMEM, "no memory");
    if (!e)
        e = set_up(s);
    if (e) {
        e = err_context(e, "the database of jobs, %s", path);
        store_close(s);
        return e;
    }
    *out = s;
    return ERR_OK;
}

void store_close(struct store *s)
{
    if (!s)
        return;
    for (int i = 0; i < STATEMENTS; i++)
        sqlite3_finalize(s->statement[i]);
    sqlite3_close(s->db);
    pthread_mutex_destroy(&s->lock);
    free(s);
}
