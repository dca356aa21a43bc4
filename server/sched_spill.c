/* Where hidden states are: on the device, or spilled to host memory.
 *
 * Sessions with a state on the device stand in one list, the one whose last frame is oldest first.
 * When a state must come onto the device and would not fit into max_state_bytes, idle ones move out
 * from the list's head: those without a frame in flight, and without one for spill_idle seconds, so
 * that streams which take turns do not push each other out at every frame. A spilled stream's next
 * frame brings its state back, by the same rule. A state for which no room can be
 * made so is refused (ERR_BUSY): its stream stays as it was. Streams that no connection holds
 * expire when both memories are nearly full (session.c).
 *
 * All of it is the engine thread's. */
#include "server/sched_parts.h"

#include "server/log.h"

/* ---- the list -----------------------------------------------------------------------------------
 */

static void unlink_resident(struct sched *s, struct session *session)
{
    if (!session->resident)
        return;
    *(session->resident_older ? &session->resident_older->resident_newer : &s->resident_oldest) =
        session->resident_newer;
    *(session->resident_newer ? &session->resident_newer->resident_older : &s->resident_newest) =
        session->resident_older;
    if (s->spill_next == session)
        s->spill_next = session->resident_newer;
    session->resident = false;
}

static void link_newest(struct sched *s, struct session *session)
{
    session->resident_newer = NULL;
    session->resident_older = s->resident_newest;
    *(s->resident_newest ? &s->resident_newest->resident_newer : &s->resident_oldest) = session;
    s->resident_newest = session;
    session->resident = true;
}

/* ---- counting -----------------------------------------------------------------------------------
 */

void sched_place(struct sched *s, struct session *session)
{
    const struct stream *stream = session->stream;
    uint64_t device = stream ? stream_state_bytes(stream) : 0;
    uint64_t host = stream ? stream_spilled_bytes(stream) : 0;
    s->state_bytes += device - atomic_load(&session->state_bytes);
    s->spilled_bytes += host - atomic_load(&session->spilled_bytes);
    atomic_store(&session->state_bytes, device);
    atomic_store(&session->spilled_bytes, host);
    metric_set(s->metrics, METRIC_STATE_BYTES, (double)s->state_bytes);
    metric_set(s->metrics, METRIC_SPILLED_BYTES, (double)s->spilled_bytes);
    unlink_resident(s, session);
    if (device > 0)
        link_newest(s, session);
}

/* ---- moving -------------------------------------------------------------------------------------
 */

static bool may_spill(const struct sched *s, struct session *session, uint64_t now)
{
    uint64_t idle = (uint64_t)(s->config->spill_idle * 1e9),
             touched = atomic_load(&session->touched);
    return atomic_load(&session->in_flight) == 0 && now >= touched && now - touched >= idle;
}

static bool spill(struct sched *s, struct session *session)
{
    uint64_t bytes = atomic_load(&session->state_bytes);
    if (s->spilled_bytes + bytes > s->config->max_spill_bytes)
        return false;
    if (stream_spill(session->stream)) {
        log_event(LOG_WARNING, "spill_failed", "stream=%s error=%s", session->id,
                  log_text(err_text()));
        return false;
    }
    sched_place(s, session);
    metric_add(s->metrics, METRIC_STREAMS_SPILLS, 1);
    log_event(LOG_DEBUG, "stream_spilled", "stream=%s bytes=%llu", session->id,
              (unsigned long long)bytes);
    return true;
}

void sched_room_begin(struct sched *s)
{
    s->reserved_bytes = 0;
    s->spill_next = s->resident_oldest;
}

/* Moves idle states but the session's own out until `more` bytes fit. Who may not go now is not
 * asked again for this batch, so the list is gone through once a batch, not once a run. */
static bool make_room(struct sched *s, const struct session *session, uint64_t more)
{
    uint64_t most = config_state_bytes(s->config), now = clock_ns();
    while (s->state_bytes + s->reserved_bytes + more > most && s->spill_next) {
        struct session *idle = s->spill_next;
        s->spill_next = idle->resident_newer;
        if (idle != session && may_spill(s, idle, now) && !spill(s, idle))
            return false;
    }
    return s->state_bytes + s->reserved_bytes + more <= most;
}

enum err sched_room(struct sched *s, struct session *session, uint64_t bytes)
{
    uint64_t most = config_state_bytes(s->config), held = atomic_load(&session->state_bytes);
    uint64_t more = bytes > held ? bytes - held : 0;
    if (bytes > most)
        return err_set(ERR_LIMIT, "a hidden state of %llu bytes; the limit is %llu",
                       (unsigned long long)bytes, (unsigned long long)most);
    if (more > 0 && !make_room(s, session, more))
        return err_set(ERR_BUSY, "the hidden states of other streams take all %llu bytes",
                       (unsigned long long)most);
    s->reserved_bytes += more;
    return ERR_OK;
}

enum err sched_fetch(struct sched *s, struct session *session)
{
    uint64_t bytes = stream_spilled_bytes(session->stream);
    if (bytes == 0)
        return ERR_OK;
    enum err e = stream_fetch(session->stream);
    sched_place(s, session);
    if (e)
        return e;
    s->reserved_bytes -= bytes; /* they are state_bytes now */
    metric_add(s->metrics, METRIC_STREAMS_FETCHES, 1);
    return ERR_OK;
}
