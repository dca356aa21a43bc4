/* The scheduler and the engine threads: continuous batching.
 *
 * Decoded frames come in by sched_submit; the engine thread files them under their session, and
 * whenever the engine is free makes the next batch of one model: at most one frame of each live
 * stream, those first that waited longest since they were served, then runs of frames of uploads
 * in what room is left, or first, after `upload_patience` batches without any. An idle engine
 * starts at once; a busy one collects while it computes, and `batch_delay_ms` bounds how long a
 * batch that is not full may wait for others. After the batch each item goes to its encode worker.
 * On a GPU the next batch is started before the last is done, where so many wait already, so that
 * its pixels go up meanwhile; the thread waits for them in their order. A batch that fails is run
 * again frame by frame, so that a failing frame fails alone.
 *
 * Every device has an engine thread of its own, and a session stays on the device that it was
 * pinned to when it was made (sched_pin), unless that is drained. What is said here of the engine
 * thread is said of its.
 *
 * The engine thread is the only caller of its engines and streams. What others want of a stream
 * (reset, export, import, close) they post as a command; commands of a session run in order with
 * its frames: after those submitted before, before those submitted later. */
#ifndef TV3S_SERVER_SCHED_H
#define TV3S_SERVER_SCHED_H

#include "server/item.h"
#include "server/session.h"

#include <stddef.h>

struct sched;
struct workers;
struct metrics;
struct config;

/* Starts the engine threads. The models' engines are in place already. */
enum err sched_open(const struct config *c, struct metrics *m, struct models *models,
                    struct workers *workers, struct sched **out);
/* Where states are kept, before the first session; NULL: nowhere. */
struct handover;
void sched_hand_over(struct sched *s, struct handover *h);
/* Ends the engine threads after the batches under way; items left are delivered with ERR_CANCELLED,
 * commands end so too. What comes later ends at once, in the caller's thread. */
void sched_stop(struct sched *s);
/* After sched_stop, and after the last session is gone. NULL is allowed. */
void sched_close(struct sched *s);

/* Any thread. Pins a session that is being made: to the device with the fewest of its kind, of
 * these the one with the fewest at all. */
void sched_pin(struct sched *s, struct session *session);

/* These devices get no new sessions, and their streams are moved (sched_drain_session); others are
 * used again. All of them: ignored. Any thread. */
struct config_list;
void sched_drain(struct sched *s, const struct config_list *devices);
/* Any thread; nothing where the session's device is not drained. Else it moves to another with its
 * state, its frames and its commands, when the batch under way is done. */
void sched_drain_session(struct sched *s, struct session *session);

/* Any thread; takes the item. Never blocks: past `queue_max` frames of live streams the item is
 * delivered with ERR_BUSY. (Uploads limit themselves: jobs.c keeps few frames in flight.) */
void sched_submit(struct sched *s, struct item *item);

/* KEEP: the state goes to the store (handover.h). LEAVE: so too, and the stream takes no frame any
 * more; a failure there leaves it usable. */
enum command_kind {
    COMMAND_RESET,
    COMMAND_EXPORT,
    COMMAND_IMPORT,
    COMMAND_KEEP,
    COMMAND_LEAVE,
    COMMAND_MOVE /* the scheduler's own: an import from another device */
};

struct command {
    enum command_kind kind;
    struct session *session; /* a reference, dropped after `done` */
    void *data; /* malloc'd. IMPORT: in; EXPORT: out. What is there at `done` is done's */
    size_t len;
    enum err error;
    char error_text[256];
    void (*done)(struct command *c); /* engine thread, hand-over's; takes the command over */
    void *owner;
    struct item carrier; /* the scheduler's: it queues among the frames in it */
};

static inline struct item *command_carrier(struct command *c)
{
    c->carrier.kind = ITEM_COMMAND;
    c->carrier.session = c->session; /* borrowed: the reference is the command's */
    return &c->carrier;
}

static inline struct command *command_of(struct item *carrier)
{
    return (struct command *)((char *)carrier - offsetof(struct command, carrier));
}

/* Takes the command to its end with an error and err_text(), or ERR_OK. */
void sched_end_command(struct command *c, enum err e);

/* Any thread; takes the command, which the caller zeroed and filled. Front ends call
 * workers_command instead, so that frames that are still being decoded go first. */
void sched_command(struct sched *s, struct command *c);

/* The last reference is gone: closes its stream on the engine thread, then frees it. Any thread. */
void sched_release(struct sched *s, struct session *session);

/* A probe frame went through every engine within `max_age` seconds, or goes through now: called by
 * /readyz's handler with a done callback (engine thread). */
void sched_probe(struct sched *s, void (*done)(void *owner, enum err e, const char *text),
                 void *owner);

/* Why a device is of no more use: what came and comes for it is answered with ERR_DEVICE, and the
 * process is to end. NULL: all are well. Any thread. */
const char *sched_failure(const struct sched *s);
/* Whether it is the session's. */
bool sched_failed_for(const struct session *session);

int sched_devices(const struct sched *s);
/* Of these the session's. */
int sched_device(const struct session *session);

/* clock_ns of the engine threads' last sign of life, of the one that gave none for the longest: for
 * the watchdog. */
uint64_t sched_alive(const struct sched *s);

#endif
