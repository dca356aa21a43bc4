/* Sessions: who owns a hidden state. A live stream (by ID), an upload, or a single image.
 *
 * The table maps owners and IDs to live streams. A session is reference counted: the table, every
 * item in flight, an attached connection hold one each. When the last goes, the engine thread
 * closes what the session has on the device, then it is freed (sched_release).
 *
 * Fields: `const` ones are set at birth. Engine-thread fields are touched by that thread alone.
 * The rest is guarded by the table's lock and reached through these functions. */
#ifndef TV3S_SERVER_SESSION_H
#define TV3S_SERVER_SESSION_H

#include "engine/engine.h"
#include "server/item.h"
#include "server/models.h"

#include <stdatomic.h>

enum session_kind { SESSION_LIVE, SESSION_UPLOAD, SESSION_SINGLE };

enum { SESSION_ID = 129 };

/* A live stream is opened by who made it, and used by others only when it is ready. */
enum session_phase { SESSION_READY, SESSION_OPENING, SESSION_LEAVING };

#define SESSION_NOT_STORED INT64_MIN

struct owner;
struct lane;

/* What is taken of the engine's time (sched_share.c). */
struct share {
    double seconds; /* of late, as of `at` */
    double last;    /* the last frame's */
    uint64_t at;    /* clock_ns: when that was done */
};

struct session_params {
    struct owner *owner; /* whose it is (access.h) */
    struct served_model *model;
    struct stream_config stream; /* mode, resize */
    enum mask_format format;
};

struct sessions; /* the table */

/* What hand-over (handover.h) knows of a live stream. */
struct session_lease {
    /* its thread */
    char token[48];
    bool held;   /* on its list; a reference */
    bool had;    /* the lease was ours at some time */
    bool broken; /* Redis answers with an error of its keys */
    struct session *next, **link;
    uint64_t written; /* frames, as the record has them */

    /* any thread */
    atomic_bool ours;    /* the lease, as far as we know */
    atomic_bool keeping; /* a snapshot is on its way */
    atomic_bool leaving; /* it was asked to leave */
    atomic_bool unsaved; /* what should have been written was not */
    atomic_bool deleted; /* it has ended, and there was no memory to say so */
    atomic_ullong kept;  /* frames, when the last snapshot was taken */
    atomic_llong
        stored; /* number of the frame whose state is in the store, or SESSION_NOT_STORED */
};

struct session {
    /* const, but that a stream which is taken up gets the parameters that it had elsewhere */
    char id[SESSION_ID];
    enum session_kind kind;
    struct session_params params;
    unsigned worker;  /* its decode and encode worker, by hash of the ID */
    double created;   /* wall clock */
    bool resumed;     /* taken up, from when it is ready */
    enum err refused; /* why it was not opened, with a text */
    char refused_text[256];

    /* engine thread */
    struct stream *stream;
    struct item *pending_head, *pending_tail; /* decoded, waiting for a batch */
    int pending;
    bool queued; /* on the scheduler's list */
    struct session *sched_next;
    uint64_t served; /* scheduler's clock at its last frame, and its place there: fairness */
    struct share share;
    unsigned crowd;  /* the last one it was counted in */
    bool began_anew; /* its state was lost: the next frame says restarted */
    bool resident;   /* on the scheduler's list of states on the device */
    struct session *resident_older, *resident_newer;

    /* decode worker */
    struct packets *decoder; /* sandbox/packets.h; NULL before the first packet */

    /* any thread */
    atomic_int refs;
    atomic_int phase;
    struct session_lease lease;
    atomic_llong last_seq; /* of the last frame applied, -1 none */
    atomic_ullong frames;
    atomic_ullong state_bytes;   /* on the device */
    atomic_ullong spilled_bytes; /* in host memory */
    atomic_bool dead;            /* deleted: frames still on their way fail with ERR_NOT_FOUND */
    atomic_int frame_width, frame_height; /* of the last frame */
    atomic_ullong touched;                /* clock_ns of the last use */
    atomic_int in_flight;                 /* items that are not delivered yet */
    atomic_int held; /* of them, packets whose picture the decoder still keeps: its reordering */

    /* the scheduler's lock guards what changes them; sched_parts.h */
    _Atomic(struct lane *) lane; /* the device it is pinned to */
    bool moving;                 /* it was asked to go to another */
    struct session *move_next;

    /* the table's lock */
    bool listed;       /* in the table: a live stream that was not deleted */
    void *attached;    /* the WebSocket connection that owns it, or NULL */
    int64_t next_seq;  /* for frames without a number */
    int64_t first_seq; /* no number of this connection's is below */
    struct sessions *table;
    struct session *hash_next;
};

/* ---- the table; all functions from any thread ------------------------------------------------ */
struct config;
struct metrics;
struct sched;
enum err sessions_open(const struct config *c, struct metrics *m, struct sessions **out);
/* Before the first session: where those without references go. */
void sessions_connect(struct sessions *t, struct sched *s);
/* Streams that are made from now on are SESSION_OPENING: who makes one hands it to
 * handover_take_up. Before the first. */
struct handover;
void sessions_hand_over(struct sessions *t, struct handover *h);
/* Deletes all live streams. Who still has a reference to a session may use it no more. */
void sessions_close(struct sessions *t);

/* Whether the text is a stream ID: 1 to 128 of A-Z a-z 0-9 . _ ~ - */
bool session_id_valid(const char *id);
/* An ID of ours: 22 random letters, of streams and of uploads. ERR_IO. */
enum err session_id_random(char id[SESSION_ID]);

/* Makes a live stream, or finds its owner's: *created says which. `id` NULL: a random one of 22
 * characters. ERR_ARG bad ID; ERR_EXISTS there with other parameters; ERR_BUSY too many streams, or
 * one that is being opened or left; ERR_QUOTA of this owner.
 * The caller gets a reference. */
enum err session_make(struct sessions *t, const char *id, const struct session_params *p,
                      bool *created, struct session **out);
/* A session outside the table, for an upload or a single image. The caller's reference. */
enum err session_new(struct sessions *t, enum session_kind kind, const char *id,
                     const struct session_params *p, struct session **out);
/* The owner's stream of that ID. ERR_NOT_FOUND, also where another owner has one; ERR_BUSY for one
 * that is being opened or left. */
enum err session_find(struct sessions *t, const struct owner *owner, const char *id,
                      struct session **out);

struct session *session_ref(struct session *s);
void session_unref(struct session *s); /* NULL is allowed */
/* Frees it; stream and decoder are closed. For sched_release alone. */
void session_free(struct session *s);

/* Takes it out of the table and marks it dead, also in the store. The caller's reference stays. */
void session_delete(struct sessions *t, struct session *s);
/* The same where the stream lives on elsewhere, or was not opened: the store is as it was. */
void session_drop(struct sessions *t, struct session *s);
/* It takes no frame and no connection any more. Who is attached by then is told of the end. */
void session_leave(struct session *s);
/* What was leaving stays, and is ready again; unless it was deleted meanwhile. */
void session_stay(struct sessions *t, struct session *s);

/* Whether frames may be NV12 on their way: the engines take it, and nobody draws over them. */
bool session_takes_nv12(const struct session *s);
/* Whether both streams' frames are resized alike. */
bool session_same_resize(const struct stream_config *a, const struct stream_config *b);

/* A connection claims the stream. ERR_EXISTS when another has it and `takeover` is not set,
 * ERR_NOT_FOUND when it is gone, ERR_BUSY when it is leaving; else *previous is the connection that
 * lost it, or NULL. */
enum err session_attach(struct session *s, void *connection, bool takeover, void **previous);
void session_detach(struct session *s, void *connection); /* only if it is still its */
bool session_attached(struct session *s);

/* The next number for a frame without one (`seq` -1); a frame with a number passes it and gets it
 * back, or -1 when it does not ascend. Packets come in the order in which they are decoded, and may
 * have the numbers of their pictures: theirs is only not to be one that was applied before the
 * connection. */
int64_t session_number(struct session *s, int64_t seq, bool packet);
/* Numbers go on after the last frame applied: what failed or was cut off may be sent again. For a
 * new connection, when nothing is in flight. */
void session_renumber(struct session *s);

/* Calls visit for each of the owner's live streams that are ready, with the lock held: quick, no
 * calls back into the table. */
void sessions_each(struct sessions *t, const struct owner *owner,
                   void (*visit)(void *ctx, struct session *s), void *ctx);

/* Deletes live streams that were idle (nobody attached, no frame in flight) too long, and idle ones
 * (shed.h) while hidden states, spilled ones included, take more than nine tenths of both limits.
 * Sets the gauges of streams. Called once a second by the housekeeping thread. */
void sessions_expire(struct sessions *t);

size_t sessions_count(struct sessions *t);

#endif
