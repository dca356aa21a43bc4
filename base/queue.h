/* A bounded queue of pointers between threads. Any number of producers and consumers.
 *
 * A queue ends in one of two ways. queue_finish: no more will come, consumers drain what is left
 * and then get NULL. queue_stop: everybody is to leave, waiting calls return ERR_CANCELLED at
 * once; what is still inside is taken out with queue_drain after the threads are gone. */
#ifndef TV3S_BASE_QUEUE_H
#define TV3S_BASE_QUEUE_H

#include "base/err.h"

#include <stddef.h>

struct queue;

/* ERR_ARG for no capacity, ERR_NOMEM. */
enum err queue_open(size_t capacity, struct queue **out);
/* Frees the queue, not the items. No thread uses it any more. NULL is allowed. */
void queue_close(struct queue *q);

/* Hands `item` (not NULL) over, waiting while the queue is full. Any error leaves the item with
 * the caller: ERR_CANCELLED after queue_stop or queue_finish. */
enum err queue_put(struct queue *q, void *item);

/* Takes the oldest item, waiting while there is none. *item is NULL once the queue was finished
 * and is empty. ERR_CANCELLED after queue_stop. */
enum err queue_get(struct queue *q, void **item);

void queue_finish(struct queue *q);
void queue_stop(struct queue *q);

/* Takes an item out whatever the state; NULL when empty. For the clean-up after queue_stop. */
void *queue_drain(struct queue *q);

/* Items inside now; a snapshot for metrics. */
size_t queue_count(struct queue *q);

#endif
