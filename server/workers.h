/* Decode and encode workers: the threads beside the engine thread.
 *
 * A session is bound to one worker by its ID, so its frames are decoded in order and encoded in
 * order without a lock. Decoded items go to sched_submit, encoded ones to item->deliver. */
#ifndef TV3S_SERVER_WORKERS_H
#define TV3S_SERVER_WORKERS_H

#include "server/item.h"

struct workers;
struct sched;
struct config;
struct metrics;

enum err workers_open(const struct config *c, struct metrics *m, struct workers **out);
/* Before the first item: the two need each other. */
void workers_connect(struct workers *w, struct sched *s);
void workers_close(struct workers *w); /* items inside are delivered with ERR_CANCELLED */

/* Any thread; takes the item. Never blocks. ERR_BUSY (the item stays the caller's) when the
 * worker's queue is full. */
enum err workers_decode(struct workers *w, struct item *item);
/* Engine thread; takes the item. The queue has room for every item that a decode let in. */
void workers_encode(struct workers *w, struct item *item);

/* Runs `fn(arg)` on the worker of `session` in order with its items: to close a packet decoder. */
void workers_call(struct workers *w, unsigned worker, void (*fn)(void *arg), void *arg);

unsigned workers_count(const struct workers *w);

#endif
