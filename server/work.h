/* What a worker does with one item: decodes a frame, or encodes its labels, and hands it on. */
#ifndef TV3S_SERVER_WORK_H
#define TV3S_SERVER_WORK_H

#include "server/item.h"
#include "sandbox/sandbox.h"

struct config;
struct image_decoder;
struct metrics;
struct sched;

/* What it takes, the same for all workers; borrowed. */
struct work {
    const struct config *config;
    struct metrics *metrics;
    struct sched *sched;
    struct sandbox *sandbox; /* NULL: decodes in this process */
};

/* Takes the item; `images` is the calling thread's. Of a session's items one at a time. */
void work_decode(const struct work *w, struct image_decoder *images,
                 const struct sandbox_wait *wait, struct item *item);
void work_encode(const struct work *w, struct item *item);

/* Takes an item that no thread will take any more: it fails with ERR_CANCELLED. Commands and the
 * packet that empties a decoder still go their way, since others wait for what they set free. */
void work_end(const struct work *w, struct item *item);

#endif
