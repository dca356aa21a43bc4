/* What a stream may take of the engine beside others.
 *
 * A batch cannot be interrupted, and while the engine computes, decoding and the network wait for
 * the cores too. So a stream that keeps the engine busy without a pause costs the others up to a
 * batch's time at several steps of their frames' way, however fair the turns are. Therefore a
 * stream that asks for more than the engine gives (its next frame was there before its last was
 * done) has, beside others, a limit: LEAVE of the engine's time less what the others take, and in
 * any case EVEN times an even share. Beyond it a frame of cost t is followed by a pause that makes
 * it that share: t (1 / limit - 1). The engine may be idle meanwhile: that is the price of it, and
 * what finds it idle is why the others are quick.
 *
 * Streams that all ask for more, and so have equal parts, are all below EVEN times an even share:
 * no one waits for another. A stream alone, which has an even share of 1, never waits.
 *
 * Shares are of the engine's time of late, older time counting e times less with every SPAN. A
 * stream's is its part of all that was used, so that streams of one batch are equal however long it
 * took, less half of its last frame, by which it stands above its mean then. An even share is one
 * of the live streams that had a frame in this second or the last. Single images and uploads have
 * no limit: they have the room that live frames leave. */
#include "server/sched_parts.h"

#include <math.h>

static const double LEAVE = 0.4, EVEN = 1.5, SPAN = 2.0;
static const uint64_t second = 1000000000;

static double seconds_at(const struct share *x, uint64_t now)
{
    return x->seconds * exp(-(double)(now - x->at) * 1e-9 / SPAN);
}

static void add(struct share *x, double cost, uint64_t now)
{
    x->seconds = seconds_at(x, now) + cost;
    x->last = cost;
    x->at = now;
}

/* Counts the session among those that are here. */
static void count(struct crowd *c, struct session *session, uint64_t now)
{
    if (c->number == 0 || now - c->since >= second) {
        c->before = now - c->since < 2 * second ? c->here : 0;
        c->here = 0;
        c->since = now;
        c->number++;
    }
    if (session->crowd != c->number) {
        session->crowd = c->number;
        c->here++;
    }
}

void sched_charge(struct lane *l, struct session *session, double cost, uint64_t now)
{
    add(&l->busy, cost, now);
    if (session->kind != SESSION_LIVE)
        return;
    add(&session->share, cost, now);
    count(&l->crowd, session, now);
}

/* Of the engine's time; `rest`: what the others leave. */
static double limit_of(const struct lane *l, double rest)
{
    int here = l->crowd.here > l->crowd.before ? l->crowd.here : l->crowd.before;
    double even = EVEN / (here > 1 ? here : 1);
    return rest > even ? rest : even;
}

uint64_t sched_held(const struct lane *l, const struct session *session, uint64_t now)
{
    const struct share *x = &session->share;
    const struct item *next = session->pending_head;
    if (session->kind != SESSION_LIVE || !next || next->decoded > x->at ||
        atomic_load(&session->dead))
        return 0;
    double used = seconds_at(&l->busy, now), busy = used < SPAN ? used / SPAN : 1;
    double own = (seconds_at(x, now) - x->last / 2) / used * busy;
    double limit = limit_of(l, LEAVE - (busy - own));
    if (own <= limit || limit >= 1)
        return 0;
    uint64_t pause = (uint64_t)(x->last * (1 / limit - 1) * 1e9), passed = now - x->at;
    return passed < pause ? pause - passed : 0;
}
