/* Hand-over: a stream goes on at another replica with the state that it had (`state_store`).
 *
 * Redis holds two things of a stream of ours. Its lease, with a time to live: the token of the
 * session that owns the stream. And its record: what the stream is, the number of the last frame
 * applied, the hidden state after exactly that frame, and the token of who took it last.
 *
 *     made here -> take up: lease, record -> frames -> snapshots ... -> left | lost | forgotten
 *
 * - Who makes a stream takes the lease first, and with it what the record holds. While another
 *   replica has the lease it asks that one to leave, waits for a lease's time and a second, and
 *   then refuses (ERR_ELSEWHERE). A replica that is asked leaves a stream that nobody is connected
 *   to, or whose new owner says takeover.
 * - A snapshot is taken by the engine thread between two batches, so it is the state after a whole
 *   number of frames, with the number of the last of them. One is begun when half of
 *   `snapshot_frames` were applied since the one before; so a crash loses at most that many as long
 *   as one is written in the time of the other half. A reset or an imported state is acknowledged
 *   when it is written. Clients are told which number is stored, and keep what they may have to
 *   send again.
 * - Leaving (drain, or asked): no frame is accepted any more, those in flight are answered, then
 *   state and number are written and the lease is given up in one step; only then is `bye` said.
 * - Fencing: every write is a script that compares the lease with the session's token. Whoever
 *   lost the lease (stopped for longer than that, cut off) cannot write; it tells its client
 *   `takeover`, and its session is gone. A lease that ran out and that nobody took since, which the
 *   record's token tells, is taken again.
 * - Redis away: streams go on, new ones begin without a lease, nothing is stored. When it is back
 *   it is told first which streams have ended meanwhile. Then
 *   leases are taken again, also of those that had none; where another replica was faster, that one
 *   has the stream.
 *
 * One thread (handover.c) does all that talks to Redis, with time-outs of a second. What others
 * want is put into a list; nobody waits for it but those who ask to be called back. Per stream
 * there is at most one operation of each kind under way, and no snapshot is taken while 256 MB of
 * states wait. States are not compressed: zlib's fastest takes 14 ms for the 623 kB of the bundled
 * model and leaves 94 % of it; a frame takes 2.6 ms, an export 0.15 ms.
 *
 * A record is hostile input: what it says of the stream is checked as a query is, the state as one
 * that a client imports. What does not pass makes the stream begin anew. So does a state of other
 * weights. */
#ifndef TV3S_SERVER_HANDOVER_H
#define TV3S_SERVER_HANDOVER_H

#include "base/buf.h"
#include "server/sched.h"
#include "server/server.h"

struct handover;

/* Of the settings alone: ERR_ARG where they are none; ERR_IO: the password's file. */
enum err handover_check(const struct config *c);
/* *out is NULL where `state_store` is none. Errors as above. Redis need not be there. */
enum err handover_open(struct server *s, struct handover **out);
/* Begins, with what the process before has left in the spool, which is ours now. NULL is allowed.
 */
enum err handover_start(struct handover *h);
/* Ends the thread: what is asked for is told ERR_CANCELLED, and so is what comes later. */
void handover_stop(struct handover *h);
void handover_close(struct handover *h); /* after the sessions are gone; NULL is allowed */

/* ---- any thread -------------------------------------------------------------------------------
 */

/* What who makes a stream wants. What is not given is as the record has it. */
struct take_up {
    bool model, mode, resize, format; /* given in the session's parameters */
    bool takeover;                    /* also from a connection elsewhere */
    bool stored;                      /* only what is in the store: else ERR_NOT_FOUND */
    /* The hand-over's thread, when the session is SESSION_READY or, with an error, gone from the
     * table. May be NULL: the session's phase tells. */
    void (*done)(void *owner, enum err e, const char *text);
    void *owner;
};

/* A session that session_make has just made, which is SESSION_OPENING. */
void handover_take_up(struct handover *h, struct session *s, const struct take_up *want);

/* A COMMAND_LEAVE: runs when there is room for another state on its way; `done` is called when the
 * stream is in the store, or with why it is not. */
void handover_leave(struct handover *h, struct command *c);

/* Leaves every stream that is still ours, within `seconds`; no other is taken up any more. */
void handover_drain(struct handover *h, double seconds);

/* A device has failed: the leases of its streams are given up, whose states nobody has any more. */
void handover_give_up(struct handover *h);

/* The stream has ended for good: so has its record, at the latest with the next renewal; where
 * Redis is away, when it is back. */
void handover_forget(struct handover *h, struct session *s);

/* For /readyz: "" while all is well, else why Redis is not there, or takes nothing. ERR_NOMEM. */
enum err handover_describe(struct handover *h, struct buf *out);

/* ---- the engine thread --------------------------------------------------------------------------
 */

/* Whether a snapshot should be taken now. `others` were, after this batch. */
bool handover_due(struct handover *h, struct session *s, int others);
/* Whether a state more may be on its way to the store, beside those that cannot wait. */
bool handover_room(const struct handover *h);
/* The session as it is now, with its state (malloc'd, taken; NULL: it has none), is to be written.
 * `then`, or NULL, is a command that ends when that is done: COMMAND_LEAVE gives up the lease. */
void handover_keep(struct handover *h, struct session *s, void *state, size_t len,
                   struct command *then);
/* It could not be: the next renewal asks again, and a stream that was to leave stays. */
void handover_failed(struct handover *h, struct session *s, const struct command *then);

#endif
