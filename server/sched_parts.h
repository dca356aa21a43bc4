/* Inside of the scheduler: sched.c, sched_choose.c, sched_share.c, sched_run.c, sched_spill.c. */
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

struct probe {
    struct probe *next;
    void (*done)(void *owner, enum err e, const char *text);
    void *owner;
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

struct sched {
    const struct config *config;
    struct metrics *metrics;
    struct models *models;
    struct workers *workers;
    struct handover *handover; /* NULL: none */
    pthread_t thread;
    atomic_ullong alive;
    atomic_int waiting; /* live frames between sched_submit and their batch */
    atomic_bool failed; /* the device, for good; then `failure` stays as it is */
    char failure[256];

    pthread_mutex_t lock; /* guards all to the next gap */
    pthread_cond_t wake;
    struct item *inbox_head, *inbox_tail; /* frames and commands' carriers */
    struct session *released;             /* without references, linked by sched_next */
    struct probe *probes;
    bool stopped; /* the thread is to end */
    bool ended;   /* it did: nothing is taken in any more */

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
    uint64_t spilled_bytes;  /* in host memory */
    uint64_t reserved_bytes; /* on the device, for the batch being prepared, not in state_bytes */
    struct session *resident_oldest,
        *resident_newest;       /* with a state on the device, by last frame */
    struct session *spill_next; /* of these, the first not looked at for this batch; NULL: none */
    struct model_state *model;  /* [models] */
    struct batch batch;         /* being made */
    struct batch ahead;         /* submitted and not waited for; frames 0: none. Of a GPU alone */
};

/* ---- sched_choose.c: who is next ------------------------------------------------------------- */
/* Files a frame or a command behind what its session has pending. */
void sched_file(struct sched *s, struct item *item);
/* Runs the commands that are first in line, and has the session in `ready` or not as it should. */
void sched_settle(struct sched *s, struct session *session);
/* Takes the first pending item out, which is there. */
struct item *sched_take(struct sched *s, struct session *session);
/* One frame more (1) or less (-1) in the scheduler; commands do not count. Any thread. */
void sched_count(struct sched *s, const struct item *item, int n);
/* Nanoseconds until a batch should start: 0 now; at most a second. */
uint64_t sched_due(const struct sched *s);
/* Fills s->batch from `ready`; false when nothing is left to do. */
bool sched_choose(struct sched *s);

/* ---- sched_share.c: who takes too much ------------------------------------------------------- */
/* A frame of the session took `cost` seconds of the engine's time, which ended at `now`. */
void sched_charge(struct sched *s, struct session *session, double cost, uint64_t now);
/* Nanoseconds until the session's next frame may go; 0: now. */
uint64_t sched_held(const struct sched *s, const struct session *session, uint64_t now);

/* ---- sched_spill.c: where states are --------------------------------------------------------- */
/* Something may have changed in what the session's stream holds: counts it. */
void sched_place(struct sched *s, struct session *session);
/* A batch, or a command, is about to ask for room: what the last one reserved is in use or free. */
void sched_room_begin(struct sched *s);
/* Room on the device for a state of `bytes` in all, taken from idle ones where it must be, and
 * reserved until sched_room_begin. ERR_LIMIT never, ERR_BUSY not now. */
enum err sched_room(struct sched *s, struct session *session, uint64_t bytes);
/* Brings a spilled state back, into room for it that sched_room reserved. ERR_NOMEM. */
enum err sched_fetch(struct sched *s, struct session *session);

/* ---- sched_run.c: the engine's work ---------------------------------------------------------- */
/* Runs s->batch and sends its items on: on a GPU it only starts, and is s->ahead from then on. */
void sched_run_batch(struct sched *s);
/* Waits for s->ahead, if there is one, and sends its items on. */
void sched_end_ahead(struct sched *s);
/* Takes the command; after this its session may be gone. */
void sched_run_command(struct sched *s, struct command *c);
/* Every engine has labelled a frame lately, or does so now. */
enum err sched_run_probe(struct sched *s);
/* Closes the stream and frees the session. */
void sched_run_release(struct sched *s, struct session *session);

#endif
