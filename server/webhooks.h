/* Webhooks: whom an upload names is told of its end.
 *
 * The delivery is a row of the jobs' store, written in the transaction that ends the job, so it
 * outlives the process; it goes when the receiver has answered 2xx, or after `webhook_tries`. A
 * receiver may get it twice (the daemon dies between the answer and the deletion of the row), with
 * the same ID. */
#ifndef TV3S_SERVER_WEBHOOKS_H
#define TV3S_SERVER_WEBHOOKS_H

#include "server/webhook_rules.h"

struct server;
struct store;
struct webhooks;

/* Delivers what a process before has left, in a thread of its own. */
enum err webhooks_open(const struct server *s, struct store *store, struct webhooks **out);
/* Breaks off what is under way: the next process does it again. NULL is allowed. */
void webhooks_close(struct webhooks *w);

/* Whether an upload may name the URL. ERR_ARG. Any thread. */
enum err webhooks_check(const struct webhooks *w, const char *url);
/* What the store has as the host of a delivery to the URL. Any thread. */
void webhooks_host(const struct webhooks *w, const char *url, char host[WEBHOOK_HOST]);
/* There is a new delivery in the store. Any thread. */
void webhooks_wake(struct webhooks *w);

#endif
