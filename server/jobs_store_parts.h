/* The store from inside: server/jobs_store*.c only. */
#ifndef TV3S_SERVER_JOBS_STORE_PARTS_H
#define TV3S_SERVER_JOBS_STORE_PARTS_H

#include "server/jobs_store.h"

#include <pthread.h>
#include <sqlite3.h>

enum statement {
    ADD,
    UPDATE,
    REMOVE,
    ALL,
    BEGIN,
    COMMIT,
    ROLLBACK,
    DELIVER,
    NEXT_HOST,
    DUE,
    TRIED,
    DELIVERED,
    STATEMENTS
};

struct store {
    sqlite3 *db;
    pthread_mutex_t lock; /* one caller at a time */
    sqlite3_stmt *statement[STATEMENTS];
    int64_t deliveries; /* rows; the lock */
};

/* With the lock held: steps to the end. */
enum err store_run(struct store *s, enum statement which);
/* What the database's last error is here. */
enum err store_failed(const struct store *s);
void store_text(sqlite3_stmt *st, int at, const char *text);

struct columns {
    sqlite3_stmt *st;
    int at; /* the next one */
};
void store_get_text(struct columns *c, char *out, size_t room);

#endif
