#include "server/jobs_store_parts.h"

static void get_row(sqlite3_stmt *st, struct delivery_row *r)
{
    struct columns c = {st, 1};
    r->number = sqlite3_column_int64(st, 0);
    store_get_text(&c, r->id, sizeof r->id);
    store_get_text(&c, r->job, sizeof r->job);
    store_get_text(&c, r->url, sizeof r->url);
    const unsigned char *body = sqlite3_column_text(st, c.at);
    r->body = body ? (const char *)body : "";
    r->tries = sqlite3_column_int(st, c.at + 1);
}

enum err store_due(struct store *s, double now, double latest,
                   bool (*visit)(void *ctx, const struct delivery_row *r), void *ctx)
{
    int code;
    bool more = true;
    pthread_mutex_lock(&s->lock);
    sqlite3_stmt *st = s->statement[DUE];
    sqlite3_bind_double(st, 1, now);
    sqlite3_bind_double(st, 2, latest);
    while (more && (code = sqlite3_step(st)) == SQLITE_ROW) {
        struct delivery_row r;
        get_row(st, &r);
        more = visit(ctx, &r);
    }
    enum err e = !more || code == SQLITE_DONE ? ERR_OK : store_failed(s);
    sqlite3_reset(st);
    pthread_mutex_unlock(&s->lock);
    return e;
}

enum err store_waiting(struct store *s, int64_t *count, double *due)
{
    pthread_mutex_lock(&s->lock);
    sqlite3_stmt *st = s->statement[WAITING];
    enum err e = sqlite3_step(st) == SQLITE_ROW ? ERR_OK : store_failed(s);
    *count = e ? 0 : sqlite3_column_int64(st, 0);
    *due = e ? 0 : sqlite3_column_double(st, 1);
    sqlite3_reset(st);
    pthread_mutex_unlock(&s->lock);
    return e;
}

enum err store_tried(struct store *s, int64_t number, int tries, double due)
{
    pthread_mutex_lock(&s->lock);
    sqlite3_stmt *st = s->statement[TRIED];
    sqlite3_bind_int64(st, 1, number);
    sqlite3_bind_int(st, 2, tries);
    sqlite3_bind_double(st, 3, due);
    enum err e = store_run(s, TRIED);
    pthread_mutex_unlock(&s->lock);
    return e;
}

enum err store_delivered(struct store *s, int64_t number)
{
    pthread_mutex_lock(&s->lock);
    sqlite3_bind_int64(s->statement[DELIVERED], 1, number);
    enum err e = store_run(s, DELIVERED);
    pthread_mutex_unlock(&s->lock);
    return e;
}
