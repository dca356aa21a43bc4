/* Hand-over from inside; nobody but server/handover*.c includes this.
 *
 *   handover.c        the thread, and what it is asked for
 *   handover_lease.c  leases, and what is written under them
 *   handover_take.c   a stream is taken up
 *   handover_forget.c deletions that Redis was not told of
 *   handover_disk.c   ... which the next process tells it
 *   handover_redis.c  the connection, the scripts
 *   handover_record.c what a record says */
#ifndef TV3S_SERVER_HANDOVER_PARTS_H
#define TV3S_SERVER_HANDOVER_PARTS_H

#include "server/access.h"
#include "server/config.h"
#include "server/front.h"
#include "server/handover.h"
#include "server/metrics.h"

#include <hiredis/hiredis.h>
#include <pthread.h>

/* ---- handover_redis.c: the hand-over's thread alone --------------------------------------------
 */
enum { PLACE_MAX = 320, PREFIX_MAX = 64, RECORD_MAX = 4096 };

struct operation;

/* Names of a stream's keys, all in one slot of a cluster. */
struct place {
    char lease[PLACE_MAX], record[PLACE_MAX], want[PLACE_MAX];
};

struct redis {
    const struct config *config;
    redisContext *context; /* NULL: away */
    char *password;        /* NULL: none */
    char why[192];         /* it is away */
    uint64_t retry;        /* clock_ns of the next attempt to connect */
    unsigned pause;        /* milliseconds between attempts */
    bool broken;           /* it is away since the connection is */
};

enum lease {
    LEASE_AWAY,       /* no answer: Redis is away from now on */
    LEASE_LOST,       /* another has the stream, or had it since */
    LEASE_NONE,       /* asked for what is stored alone: there is nothing */
    LEASE_OURS,       /* and the record is there */
    LEASE_BARE,       /* ours, and the record holds nothing */
    LEASE_WANTED,     /* ours; another wants it if nobody is connected */
    LEASE_WANTED_NOW, /* ... in any case */
    LEASE_BROKEN,     /* an error of this stream's keys alone, with err_text() */
};

/* What a record holds; the bytes are the reply's. */
struct stored {
    redisReply *reply;
    const char *meta, *state; /* NULL: none */
    size_t meta_len, state_len;
};

/* ERR_ARG, ERR_IO. */
enum err redis_open(const struct config *c, struct redis *r);
void redis_close(struct redis *r);
/* Tries once. False: r->why, r->retry. */
bool redis_connect(struct redis *r);
/* What was asked got no answer. Whether to ask once more, since Redis is there after all: a
 * connection that nothing went over for a while does not tell that Redis was started anew. */
bool redis_is_back(struct redis *r);
bool redis_ping(struct redis *r);

void place_of(const struct config *c, const char *owner, const char *id, struct place *out);

/* LEASE_OURS or LEASE_BARE with the record, which the caller gives back; LEASE_LOST, LEASE_NONE,
 * LEASE_BROKEN, LEASE_AWAY. */
enum lease redis_take(struct redis *r, const struct place *p, const char *token, bool takeover,
                      bool stored, struct stored *out);
void stored_free(struct stored *s);

/* Several may be asked before the answers are read, in their order. `force`: the record of another
 * does not matter, and is emptied. Never LEASE_NONE. */
void redis_ask_renewal(struct redis *r, const struct place *p, const char *token, bool force);
enum lease redis_read_renewal(struct redis *r);

/* Of a KEEP. LEASE_OURS, LEASE_LOST, LEASE_BROKEN, LEASE_AWAY. `leave`: the lease ends with it.
 * ERR_IO in *refused, with err_text(): Redis says no, and the lease is as it was. */
enum lease redis_write(struct redis *r, const struct place *p, const struct operation *o,
                       bool leave, enum err *refused);
void redis_give_back(struct redis *r, const struct place *p, const char *token);
/* The record is gone, if it was ours; `force`: or nobody has the lease. Several may be asked before
 * the answers are read. False: Redis is away, and was maybe not told. */
void redis_ask_forget(struct redis *r, const struct place *p, const char *token, bool force);
bool redis_read_done(struct redis *r);

/* ---- handover_record.c -------------------------------------------------------------------------
 */
struct record {
    struct session_params params; /* but for the owner */
    bool same_weights;            /* the state means something here */
    int64_t seq;
    uint64_t frames;
    int width, height;
    double created;
};

/* The session as it is: a JSON text, malloc'd, NULL: no memory. Engine thread. */
char *record_write(struct session *s);
/* ERR_FORMAT for what is no record of this stream, ERR_NOT_FOUND for a model that is not here. */
enum err record_read(struct server *server, const struct session *s, const char *text, size_t len,
                     struct record *out);

/* ---- handover.c --------------------------------------------------------------------------------
 */
enum operation_kind {
    OPERATION_TAKE,
    OPERATION_TAKEN,
    OPERATION_LEAVE,
    OPERATION_KEEP,
    OPERATION_FORGET
};

struct operation {
    struct operation *next;
    enum operation_kind kind;
    struct handover *handover;
    struct session *session; /* a reference */

    /* TAKE and, after the engine had the state, TAKEN */
    struct take_up want;
    uint64_t again, until; /* clock_ns: the next attempt, the last; 0: none yet */
    struct record record;

    /* TAKE, LEAVE: what the engine is asked */
    struct command command;
    enum err error; /* of TAKE's, with a text */
    char error_text[256];

    /* KEEP */
    char *meta;
    void *state;
    size_t len;
    int64_t seq;
    uint64_t frames;

    struct command *then; /* KEEP, LEAVE: ends with it; or NULL */
};

struct operation_list {
    struct operation *head, *tail;
};

/* A deletion that Redis was not told of. */
struct forgotten {
    struct forgotten *next;
    uint64_t until; /* clock_ns: the record has ended by then */
    bool force;
    char token[48];
    const char *id; /* in `names`, after the owner's */
    char names[];
};

struct forgotten_list {
    struct forgotten *head, *tail;
    size_t count;
    int fd;       /* of the file; -1: there is none */
    size_t lines; /* in it */
};

struct handover {
    struct server *server;
    const struct config *config;
    struct metrics *metrics;
    pthread_t thread;
    bool started;
    char process[17]; /* the first part of our tokens: other in every process */

    pthread_mutex_t lock; /* guards the next ones */
    pthread_cond_t wake;  /* of the thread */
    pthread_cond_t drained;
    struct operation_list asked;
    bool stop, ended;  /* asked to end; nothing is taken in any more */
    char why[192];     /* Redis is away; "": it is not */
    uint64_t since;    /* clock_ns: when it went */
    char refused[192]; /* a record, and nothing was written since: why */
    uint64_t refused_at;
    bool is_drained; /* what a drain asked to leave has left, or cannot */

    atomic_bool sweeping; /* a drain waits */
    atomic_bool failed;   /* a device */
    atomic_bool away;
    atomic_ullong bytes; /* of states on their way */
    atomic_int leaves;   /* LEAVE: given to the engine */

    /* the thread */
    struct redis redis;
    uint64_t renewal; /* clock_ns of the next one */
    unsigned long long serial;
    struct session *first;         /* those held, linked by lease.next; a reference each */
    struct operation_list waiting; /* TAKE: another replica has the lease */
    struct operation_list leaving; /* LEAVE: too many are on their way */
    struct forgotten_list forgotten;
    bool gave_up; /* the leases of its streams */
    bool swept;   /* a drain asked all to leave */
};

/* To the thread. After the end it is undone at once. Any thread; takes it. */
void handover_post(struct operation *o);
struct operation *operation_new(struct handover *h, enum operation_kind kind, struct session *s);
void operation_free(struct operation *o);
void operation_append(struct operation_list *l, struct operation *o);
struct operation *operation_first(struct operation_list *l); /* taken out; NULL: none */
/* Each takes the operation. An error, with err_text(): the state was not written, it did not leave.
 */
void operation_end_keep(struct operation *o, enum err e);
void operation_end_leave(struct operation *o, enum err e);

/* The thread alone: */
/* A TAKE that is to be run again at o->again. */
void handover_wait(struct handover *h, struct operation *o);
/* Redis may have gone away, or come, just now: the log and the metric say so. */
void handover_tell(struct handover *h);
/* Redis took a record, or, an error with err_text(), did not: the same. */
void handover_refused(struct handover *h, enum err e);

/* ---- handover_lease.c: the thread alone --------------------------------------------------------
 */
enum { LEAVES_MAX = 32 };

void lease_place(const struct handover *h, const struct session *s, struct place *out);
/* A session that is to have a lease, or has it: it is on the list now. And not any more. */
void lease_hold(struct handover *h, struct session *s, bool leased);
void lease_drop(struct handover *h, struct session *s);
/* Of all on the list, and what is to be done by what it says. Redis is there. */
void lease_renew(struct handover *h);
/* The session shall leave; nothing, if it does so already. */
void lease_ask_to_leave(struct handover *h, struct session *s);
/* Gives LEAVE operations to the engine, LEAVES_MAX at once. */
void lease_begin_leaves(struct handover *h);
/* Takes the operation. */
void lease_keep(struct handover *h, struct operation *o);
/* Redis answers with an error of the session's keys, with err_text(), or does so no more: the log
 * and the metric say so. */
void lease_broken(struct handover *h, struct session *s, bool broken);
/* The session is off the list, with its lease given up; `forget`: with its record gone. */
void lease_give_back(struct handover *h, struct session *s);
void lease_forget(struct handover *h, struct session *s);

/* ---- handover_forget.c: the thread alone --------------------------------------------------------
 */
enum { FORGOTTEN_MAX = 1 << 16 };
/* The session is deleted, and Redis is away. False: no memory. */
bool forgotten_add(struct handover *h, const struct session *s);
/* What a process before has left, as it stands in the file. Before the thread runs. */
void forgotten_recall(struct handover *h, const char *owner, const char *id,
                      const struct forgotten *like);
/* Redis is there: what it was not told. It may be away then. */
void forgotten_tell(struct handover *h);
void forgotten_free(struct handover *h);

/* ---- handover_disk.c: the thread alone, or before and after it ----------------------------------
 */
/* The last of the list is new. Where it cannot be written the log says so. */
void forgotten_write(struct handover *h);
void forgotten_unlink(struct handover *h); /* the list is empty */
void forgotten_read(struct handover *h);

/* ---- handover_take.c: the thread alone ---------------------------------------------------------
 */
/* Takes the operation: TAKE or TAKEN. */
void take_run(struct operation *o);
/* The session is not opened, for the reason e with err_text(). Any thread; takes the operation. */
void take_refuse(struct operation *o, enum err e);

#endif
