#include "server/jobs_store_parts.h"

#include <string.h>

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

/* With the lock held: what the statement's row says. */
static enum err get_host(sqlite3_stmt *st, const char *after, struct delivery_host *out)
{
    struct columns c = {st, 0};
    struct delivery_host next;
    if (sqlite3_column_type(st, 0) == SQLITE_NULL)
        return err_set(ERR_NOT_FOUND, "no more hosts");
    store_get_text(&c, next.host, sizeof next.host);
    if (strcmp(next.host, after) <= 0) /* no text of ours: who asks on would not end */
        return err_set(ERR_FORMAT, "the database of jobs has a delivery to no host");
    next.first = sqlite3_column_double(st, 1);
    next.last = sqlite3_column_double(st, 2);
    *out = next;
    return ERR_OK;
}

enum err store_next_host(struct store *s, const char *after, struct delivery_host *out)
{
    pthread_mutex_lock(&s->lock);
    sqlite3_stmt *st = s->statement[NEXT_HOST];
    store_text(st, 1, after);
    enum err e = sqlite3_step(st) == SQLITE_ROW ? get_host(st, after, out) : store_failed(s);
    sqlite3_reset(st);
    sqlite3_clear_bindings(st);
    pthread_mutex_unlock(&s->lock);
    return e;
}

enum err store_due(struct store *s, const char *host, double from, double to, int most,
                   void (*visit)(void *ctx, const struct delivery_row *r), void *ctx)
{
    int code;
    pthread_mutex_lock(&s->lock);
    sqlite3_stmt *st = s->statement[DUE];
    store_text(st, 1, host);
    sqlite3_bind_double(st, 2, from);
    sqlite3_bind_double(st, 3, to);
    sqlite3_bind_int(st, 4, most);
    while ((code = sqlite3_step(st)) == SQLITE_ROW) {
        struct delivery_row r;
        get_row(st, &r);
        visit(ctx, &r);
    }
    enum err e = code == SQLITE_DONE ? ERR_OK : store_failed(s);
    sqlite3_reset(st);
    sqlite3_clear_bindings(st);
    pthread_mutex_unlock(&s->lock);
    return e;
}

int64_t store_deliveries(struct store *s)
{
    pthread_mutex_lock(&s->lock);
    int64_t count = s->deliveries;
    pthread_mutex_unlock(&s->lock);
    return count;
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
    if (!e)
        s->deliveries -= sqlite3_changes(s->db);
    pthread_mutex_unlock(&s->lock);
    return e;
}
