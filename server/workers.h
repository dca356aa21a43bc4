/* Decode and encode workers: the threads beside the engine thread.
 *
 * A session is bound to one worker by its ID, so its frames are decoded in order and encoded in
 * order without a lock. Decoded items go to sched_submit, encoded ones to item->deliver. */
#ifndef TV3S_SERVER_WORKERS_H
#define TV3S_SERVER_WORKERS_H

#include "server/item.h"

struct command;
struct sandbox;
struct workers;
struct sched;
struct config;
struct metrics;

/* `sandbox` NULL: images and packets are decoded in this process. */
enum err workers_open(const struct config *c, struct metrics *m, struct sandbox *sandbox,
                      struct workers **out);
/* Before the first item: the two need each other. */
void workers_connect(struct workers *w, struct sched *s);
/* Ends the threads; items inside are delivered with ERR_CANCELLED, and what comes later too, in the
 * caller's thread. */
void workers_stop(struct workers *w);
void workers_close(struct workers *w); /* after workers_stop and sched_stop. NULL is allowed */

/* Any thread; takes the item, whose deliver is set. Never blocks. ERR_BUSY (the item stays the
 * caller's) when the worker's queue is full. A packet of a session's decoder: see media/packet.h;
 * one with `input.len` 0 gives up what is inside, and every packet item in the decoder holds a
 * reference on the session, so who ends a stream of packets sends one. */
enum err workers_decode(struct workers *w, struct item *item);
/* Engine thread; takes the item. The queue has room for every item that a decode let in. */
void workers_encode(struct workers *w, struct item *item);

/* Any thread; takes the command: sched_command after the session's frames that are here already. */
void workers_command(struct workers *w, struct command *c);

unsigned workers_count(const struct workers *w);

#endif
