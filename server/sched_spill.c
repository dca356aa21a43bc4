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
 * All of it is the engine thread's. Each device has its own list and may have max_state_bytes; host
 * memory is shared, and two that spill at once may pass max_spill_bytes by a state. */
#include "server/sched_parts.h"

#include "server/log.h"

/* ---- the list -----------------------------------------------------------------------------------
 */

static void unlink_resident(struct lane *l, struct session *session)
{
    if (!session->resident)
        return;
    *(session->resident_older ? &session->resident_older->resident_newer : &l->resident_oldest) =
        session->resident_newer;
    *(session->resident_newer ? &session->resident_newer->resident_older : &l->resident_newest) =
        session->resident_older;
    if (l->spill_next == session)
        l->spill_next = session->resident_newer;
    session->resident = false;
}

static void link_newest(struct lane *l, struct session *session)
{
    session->resident_newer = NULL;
    session->resident_older = l->resident_newest;
    *(l->resident_newest ? &l->resident_newest->resident_newer : &l->resident_oldest) = session;
    l->resident_newest = session;
    session->resident = true;
}

/* ---- counting -----------------------------------------------------------------------------------
 */

void sched_place(struct lane *l, struct session *session)
{
    const struct stream *stream = session->stream;
    uint64_t device = stream ? stream_state_bytes(stream) : 0;
    uint64_t host = stream ? stream_spilled_bytes(stream) : 0;
    uint64_t here = atomic_load(&session->state_bytes), out = atomic_load(&session->spilled_bytes);
    atomic_fetch_add(&l->sched->spilled_bytes, host - out);
    metric_add(l->metrics, METRIC_STATE_BYTES, (int64_t)(device - here));
    metric_add(l->metrics, METRIC_SPILLED_BYTES, (int64_t)(host - out));
    metric_engine_add(l->metrics, l->device, METRIC_ENGINE_STATE_BYTES, (int64_t)(device - here));
    l->state_bytes += device - here;
    atomic_store(&session->state_bytes, device);
    atomic_store(&session->spilled_bytes, host);
    unlink_resident(l, session);
    if (device > 0)
        link_newest(l, session);
}

/* ---- moving -------------------------------------------------------------------------------------
 */

static bool may_spill(const struct lane *l, struct session *session, uint64_t now)
{
    uint64_t idle = (uint64_t)(l->config->spill_idle * 1e9),
             touched = atomic_load(&session->touched);
    return atomic_load(&session->in_flight) == 0 && now >= touched && now - touched >= idle;
}

static bool spill(struct lane *l, struct session *session)
{
    uint64_t bytes = atomic_load(&session->state_bytes);
    if (atomic_load(&l->sched->spilled_bytes) + bytes > l->config->max_spill_bytes)
        return false;
    if (stream_spill(session->stream)) {
        log_event(LOG_WARNING, "spill_failed", "stream=%s error=%s", session->id,
                  log_text(err_text()));
        return false;
    }
    sched_place(l, session);
    metric_add(l->metrics, METRIC_STREAMS_SPILLS, 1);
    log_event(LOG_DEBUG, "stream_spilled", "stream=%s bytes=%llu", session->id,
              (unsigned long long)bytes);
    return true;
}

void sched_room_begin(struct lane *l)
{
    l->reserved_bytes = 0;
    l->spill_next = l->resident_oldest;
}

/* Moves idle states but the session's own out until `more` bytes fit. Who may not go now is not
 * asked again for this batch, so the list is gone through once a batch, not once a run. */
static bool make_room(struct lane *l, const struct session *session, uint64_t more)
{
    uint64_t most = config_state_bytes(l->config), now = clock_ns();
    while (l->state_bytes + l->reserved_bytes + more > most && l->spill_next) {
        struct session *idle = l->spill_next;
        l->spill_next = idle->resident_newer;
        if (idle != session && may_spill(l, idle, now) && !spill(l, idle))
            return false;
    }
    return l->state_bytes + l->reserved_bytes + more <= most;
}

enum err sched_room(struct lane *l, struct session *session, uint64_t bytes)
{
    uint64_t most = config_state_bytes(l->config), held = atomic_load(&session->state_bytes);
    uint64_t more = bytes > held ? bytes - held : 0;
    if (bytes > most)
        return err_set(ERR_LIMIT, "a hidden state of %llu bytes; the limit is %llu",
                       (unsigned long long)bytes, (unsigned long long)most);
    if (more > 0 && !make_room(l, session, more))
        return err_set(ERR_BUSY, "there is no room for a hidden state");
    l->reserved_bytes += more;
    return ERR_OK;
}

enum err sched_fetch(struct lane *l, struct session *session)
{
    uint64_t bytes = stream_spilled_bytes(session->stream);
    if (bytes == 0)
        return ERR_OK;
    enum err e = stream_fetch(session->stream);
    sched_place(l, session);
    if (e)
        return e;
    l->reserved_bytes -= bytes; /* they are state_bytes now */
    metric_add(l->metrics, METRIC_STREAMS_FETCHES, 1);
    return ERR_OK;
}
