/* Inside of the scheduler: sched.c, sched_lane.c, sched_choose.c, sched_share.c, sched_run.c,
 * sched_spill.c, sched_move.c.
 *
 * A lane is one device: its engine thread, and the engines of all models on it. A session is pinned
 * to a lane when it is made, the one that has the fewest of its kind, and all of it is there: its
 * frames, its commands, its state. So lanes share nothing but what struct sched has, and one is as
 * the scheduler of a daemon with one device. */
#ifndef TV3S_SERVER_SCHED_PARTS_H
#define TV3S_SERVER_SCHED_PARTS_H

#include "server/config.h"
#include "server/metrics.h"
#include "server/sched.h"
#include "server/workers.h"

#include <pthread.h>

enum { BATCH_MAX = 64 }; /* as the setting's range */

/* Sessions linked by sched_next. */
struct session_list {
    struct session *head, *tail;
    int count;
};

/* The frames that go through the engine together: `runs` runs of one session each, whose items
 * stand one after the other. */
struct batch {
    struct served_model *model;
    int runs, frames;
    double gflop; /* of the frames */
    struct {
        struct session *session;
        int first, count; /* in item */
    } run[BATCH_MAX];
    struct item *item[BATCH_MAX];
    struct session
        *held[BATCH_MAX]; /* of all runs, also those that were dropped: a reference each */
    int holds;
    uint64_t began; /* clock_ns */
};

/* A question to all lanes; the last to answer ends it. */
struct probing {
    void (*done)(void *owner, enum err e, const char *text);
    void *owner;
    int left;       /* lanes that did not answer yet; with what follows guarded by sched->lock */
    enum err error; /* the first that there was */
    char text[256];
    struct probe {
        struct probe *next;
        struct probing *of;
    } part[]; /* [lanes] */
};

struct model_state {
    uint64_t ok; /* clock_ns of the last batch that succeeded */
    int passed;  /* batches since an upload that waits had its last run */
};

/* The live streams that had a frame in this second, and in the one before. */
struct crowd {
    unsigned number; /* of seconds counted */
    uint64_t since;  /* clock_ns */
    int here, before;
};

enum { SESSION_KINDS = SESSION_SINGLE + 1 };

struct lane {
    struct sched *sched;
    int device; /* its number: of the engines in served_model, of the metrics */
    const struct config *config;
    struct metrics *metrics;
    struct models *models;
    struct workers *workers;
    struct handover *handover; /* NULL: none */
    pthread_t thread;
    bool started;
    atomic_bool drained; /* it gets no new sessions, and its streams leave */
    atomic_ullong alive;
    atomic_bool failed; /* the device, for good; then `failure` stays as it is */
    char failure[256];

    pthread_cond_t wake; /* with what follows guarded by sched->lock, to the next gap */
    struct item *inbox_head, *inbox_tail; /* frames and commands' carriers */
    struct session *released;             /* without references, linked by sched_next */
    struct probe *probes;
    int pinned[SESSION_KINDS]; /* sessions, by kind */
    struct session *leaving;   /* to move to another lane, linked by move_next; a reference each */
    bool closed; /* it has no engines, and gets no session; its own thread changes it */
    bool wanted; /* it is to have some again */

    /* engine thread */
    struct session_list ready; /* sessions with pending frames; a reference each */
    uint64_t clock;            /* batches so far */
    uint64_t single_clock;     /* as if all single images were one stream */
    int turn;                  /* the model that was served last */
    uint64_t free_since;       /* clock_ns: the end of the last batch */
    int last_runs;             /* of the last batch */
    struct share busy;         /* what all frames took */
    struct crowd crowd;
    uint64_t state_bytes;    /* of all streams, on the device */
    uint64_t reserved_bytes; /* on the device, for the batch being prepared, not in state_bytes */
    struct session *resident_oldest,
        *resident_newest;       /* with a state on the device, by last frame */
    struct session *spill_next; /* of these, the first not looked at for this batch; NULL: none */
    struct model_state *model;  /* [models] */
    struct batch batch;         /* being made */
    struct batch ahead;         /* submitted and not waited for; frames 0: none. Of a GPU alone */
};

struct sched {
    const struct config *config;
    struct metrics *metrics;
    atomic_int waiting;          /* live frames between sched_submit and their batch */
    atomic_ullong spilled_bytes; /* in host memory */

    pthread_mutex_t lock; /* guards what follows, and what struct lane says */
    bool stopped;         /* the threads are to end */
    bool ended;           /* they did: nothing is taken in any more */

    int lanes; /* const */
    struct lane lane[];
};

/* ---- sched_lane.c: the engine thread ----------------------------------------------------------
 */
/* Starts it. ERR_NOMEM. */
enum err lane_start(struct lane *l);
/* The thread is gone: ends what waits, and what came in. */
void lane_end(struct lane *l);
/* An item that the engine will not see. */
void lane_end_item(struct lane *l, struct item *item);
/* With sched->lock held: the item is the last of the inbox; the session goes to the lane that fits
 * it best, which is returned. */
void lane_post(struct lane *l, struct item *item);
struct lane *lane_repin(struct lane *from, struct session *session);
/* What an engine of this lane says, passed on. ERR_DEVICE is for good. */
enum err lane_note(struct lane *l, const struct served_model *m, enum err e);
/* sched_move.c: those that are to leave do, or stay. Between batches. */
void lane_move(struct lane *l, struct session *leaving);
/* Lets go of the device where it is drained and nobody is left, or takes it up again. Between
 * batches. */
void lane_settle(struct lane *l);
/* With sched->lock held: sessions that are pinned to it. */
int lane_pinned(const struct lane *l);
static inline struct lane *session_lane(const struct session *session)
{
    return atomic_load(&session->lane);
}
/* A probe's answer, with err_text(). */
void lane_answer(struct lane *l, struct probe *p, enum err e);
/* Why what waits is not to be labelled. */
enum err lane_no_more(const struct lane *l);
static inline const char *lane_failure(const struct lane *l)
{
    return atomic_load(&l->failed) ? l->failure : NULL;
}

/* ---- sched_choose.c: who is next ------------------------------------------------------------- */
/* Files a frame or a command behind what its session has pending. */
void sched_file(struct lane *l, struct item *item);
/* Runs the commands that are first in line, and has the session in `ready` or not as it should. */
void sched_settle(struct lane *l, struct session *session);
/* Takes the first pending item out, which is there. */
struct item *sched_take(struct lane *l, struct session *session);
/* One frame more (1) or less (-1) in the scheduler; commands do not count. Any thread. */
void sched_count(struct lane *l, const struct item *item, int n);
/* Nanoseconds until a batch should start: 0 now; at most a second. */
uint64_t sched_due(const struct lane *l);
/* Fills l->batch from `ready`; false when nothing is left to do. */
bool sched_choose(struct lane *l);

/* ---- sched_share.c: who takes too much ------------------------------------------------------- */
/* A frame of the session took `cost` seconds of the engine's time, which ended at `now`. */
void sched_charge(struct lane *l, struct session *session, double cost, uint64_t now);
/* Nanoseconds until the session's next frame may go; 0: now. */
uint64_t sched_held(const struct lane *l, const struct session *session, uint64_t now);

/* ---- sched_spill.c: where states are --------------------------------------------------------- */
/* Something may have changed in what the session's stream holds: counts it. */
void sched_place(struct lane *l, struct session *session);
/* A batch, or a command, is about to ask for room: what the last one reserved is in use or free. */
void sched_room_begin(struct lane *l);
/* Room on the device for a state of `bytes` in all, taken from idle ones where it must be, and
 * reserved until sched_room_begin. ERR_LIMIT never, ERR_BUSY not now. */
enum err sched_room(struct lane *l, struct session *session, uint64_t bytes);
/* Brings a spilled state back, into room for it that sched_room reserved. ERR_NOMEM. */
enum err sched_fetch(struct lane *l, struct session *session);

/* ---- sched_run.c: the engine's work ---------------------------------------------------------- */
/* Runs l->batch and sends its items on: on a GPU it only starts, and is l->ahead from then on. */
void sched_run_batch(struct lane *l);
/* Waits for l->ahead, if there is one, and sends its items on. */
void sched_end_ahead(struct lane *l);
/* Takes the command; after this its session may be gone. */
void sched_run_command(struct lane *l, struct command *c);
/* Every engine has labelled a frame lately, or does so now. */
enum err sched_run_probe(struct lane *l);
/* Closes the stream and frees the session. */
void sched_run_release(struct lane *l, struct session *session);

#endif
