/* A stream's state between the device and host memory.
 *
 * A device has room for so many states and a machine for many more, so whoever owns the streams
 * (server/sched_spill.c) moves those of idle ones out. What moves is the state as it is, bit by
 * bit, in one block of host memory: the hidden state, then the features in `history` that are
 * there. A spilled stream keeps its plan and is complete: it exports and resets as it is, and its
 * next frame brings it back first. On a CPU both places are the same memory, and the moves are
 * copies.
 *
 * The device buffers of a state that moved out are the engine's spares, and one that comes back
 * takes them: streams that take turns allocate nothing. Spares are not hidden states that a limit
 * counts; ENGINE_SPARE_BYTES bounds them, with those that working copies of batches leave. */
#include "engine/internal.h"

#include "base/try.h"

static size_t hidden_bytes(const struct stream *s)
{
    return s->held.plan->state_floats * sizeof(float);
}

size_t stream_spilled_bytes(const struct stream *s)
{
    return s->held.spilled_bytes;
}

bool stream_continues(const struct stream *s, const struct geometry *g)
{
    return s->held.plan && s->held.plan->geo.width == g->width &&
           s->held.plan->geo.height == g->height;
}

size_t stream_state_bytes_after(const struct stream *s, const struct geometry *g, int frames)
{
    const struct arch *a = &s->engine->model->arch;
    if (a->head == HEAD_TV3S && s->config.mode == MODE_STREAM)
        return g->state_bytes;
    if (s->config.mode != MODE_CLIP)
        return 0;
    uint64_t kept = (stream_continues(s, g) ? s->held.frames : 0) + (uint64_t)frames,
             most = stream_history(s);
    return (size_t)(kept < most ? kept : most) * engine_feature_bytes_of(s->engine, g);
}

void stream_drop_spilled(struct stream *s)
{
    if (s->held.spilled)
        s->engine->be->ops->host_give(s->engine->be, s->held.spilled, s->held.spilled_bytes);
    s->held.spilled = NULL;
    s->held.spilled_bytes = 0;
    s->held.spilled_history = 0;
}

/* ---- out ----------------------------------------------------------------------------------------
 */

static enum err download_all(struct stream *s, uint8_t *to)
{
    struct backend *be = s->engine->be;
    size_t feature = engine_feature_bytes(s->engine, s->held.plan);
    if (s->held.state) {
        TRY(be->ops->download(be, to, s->held.state, hidden_bytes(s)));
        to += hidden_bytes(s);
    }
    for (int i = 0; i < CLIP_HISTORY; i++) {
        if (!s->held.history[i])
            continue;
        TRY(be->ops->download(be, to, s->held.history[i], feature));
        to += feature;
    }
    return ERR_OK;
}

enum err stream_spill(struct stream *s)
{
    struct backend *be = s->engine->be;
    void *host;
    engine_enter(s->engine);
    if (s->flights > 0)
        engine_drain(s->engine);
    size_t bytes = stream_state_bytes(s);
    if (bytes == 0)
        return ERR_OK;
    TRY(be->ops->host_take(be, bytes, &host));
    enum err e = download_all(s, host);
    if (e) {
        be->ops->host_give(be, host, bytes);
        return e;
    }
    s->held.spilled = host;
    s->held.spilled_bytes = bytes;
    for (int i = 0; i < CLIP_HISTORY; i++)
        s->held.spilled_history |= (uint64_t)(s->held.history[i] != NULL) << i;
    stream_give_state(s);
    return ERR_OK;
}

/* ---- back ---------------------------------------------------------------------------------------
 */

static enum err upload(struct stream *s, const uint8_t **from, size_t bytes, void **to)
{
    TRY(engine_take_copy(s->engine, *from, bytes, to));
    *from += bytes;
    return ERR_OK;
}

static enum err upload_all(struct stream *s)
{
    size_t feature = engine_feature_bytes(s->engine, s->held.plan);
    const uint8_t *from = s->held.spilled;
    void *state = NULL;
    if (s->config.mode == MODE_STREAM)
        TRY(upload(s, &from, hidden_bytes(s), &state));
    s->held.state = state;
    for (int i = 0; i < CLIP_HISTORY; i++)
        if (s->held.spilled_history >> i & 1)
            TRY(upload(s, &from, feature, &s->held.history[i]));
    return ERR_OK;
}

enum err stream_fetch(struct stream *s)
{
    if (!s->held.spilled)
        return ERR_OK;
    engine_enter(s->engine);
    enum err e = upload_all(s);
    if (e)
        stream_give_state(s); /* what came up before the error */
    else
        stream_drop_spilled(s);
    return e;
}
