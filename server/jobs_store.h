/* What must outlive the process of jobs: a table in the spool, jobs.sqlite.
 *
 * A row is there from the 202 of an upload until the job is deleted. WAL with synchronous=FULL:
 * what a function has returned ERR_OK for is on the disk. Any thread but those that never wait:
 * every call may wait for the disk and for the calls of other threads.
 *
 * Errors of the database are ERR_FULL where the disk is, else ERR_BUSY: the daemon goes on. */
#ifndef TV3S_SERVER_JOBS_STORE_H
#define TV3S_SERVER_JOBS_STORE_H

#include "base/err.h"
#include "server/session.h"
#include "server/webhook_rules.h"

struct store;

enum { WEBHOOK_URL = 1024, WARNING = 160, DECODER = 8 };

/* What the row of a job says. Names, not numbers, stand in the file: they mean the same in the
 * next version. */
struct job_row {
    char id[SESSION_ID];
    char owner[65]; /* whose it is (access.h); "": of nobody with a key */
    char model[64], mode[16], format[16], resize[32]; /* as a query has them; resize "": none */
    char state[16];
    double created, started, finished; /* 0: not yet */
    int64_t done;                      /* frames whose masks are durable */
    int64_t total, corrupt;
    char warning[WARNING]; /* the last damage that it outlived, "": none */
    char decoder[DECODER]; /* what decoded its last frame, "": none, or not known */
    int width, height;
    double fps;
    char error[32];            /* err_type, "": none */
    char origin[192];          /* what computed the frames that are done */
    char problem[512];         /* the error's text */
    char key[256];             /* Idempotency-Key, "": none */
    char digest[65];           /* of the request, where there is a key */
    char webhook[WEBHOOK_URL]; /* who is told of its end, "": nobody */
};

/* Opens or makes the file. ERR_FORMAT: it is damaged, no database of ours, or a later version's;
 * ERR_IO, ERR_FULL, ERR_NOMEM. */
enum err store_open(const char *path, struct store **out);
void store_close(struct store *s); /* NULL is allowed */

/* What a webhook is told: goes to the URL that the job's row names. */
struct store_delivery {
    const char *id, *body;
    const char *host; /* deliveries to one host are found together */
};

/* With a delivery (or NULL), in one transaction. */
enum err store_add(struct store *s, const struct job_row *r, const struct store_delivery *d);
/* All that changes in a job's life, with a delivery or NULL; nothing happens where the row is gone.
 */
enum err store_update(struct store *s, const struct job_row *r, const struct store_delivery *d);
enum err store_remove(struct store *s, const char *id);
/* Calls visit for every row, oldest first; no calls back into the store. */
enum err store_each(struct store *s, void (*visit)(void *ctx, const struct job_row *r), void *ctx);

/* ---- deliveries of webhooks: rows that outlive their jobs. However many there are, a call costs
 * no more than the rows that it visits: an index on (host, due) finds them. */
struct delivery_row {
    int64_t number;
    char id[SESSION_ID];
    char job[SESSION_ID];
    char url[WEBHOOK_URL];
    const char *body; /* valid during the visit */
    int tries;        /* that were begun */
};

struct delivery_host {
    char host[WEBHOOK_HOST];
    double first, last; /* when the first and the last of its deliveries are due */
};

/* The host behind `after` in order, of those for which there is a delivery. ERR_NOT_FOUND: no more;
 * ERR_FORMAT: what is there is none. */
enum err store_next_host(struct store *s, const char *after, struct delivery_host *out);
/* Calls visit for `most` of the host's deliveries that are due between the two times, the first
 * first. No calls back into the store. */
enum err store_due(struct store *s, const char *host, double from, double to, int most,
                   void (*visit)(void *ctx, const struct delivery_row *r), void *ctx);
/* How many there are. */
int64_t store_deliveries(struct store *s);
enum err store_tried(struct store *s, int64_t number, int tries, double due);
enum err store_delivered(struct store *s, int64_t number);

#endif
