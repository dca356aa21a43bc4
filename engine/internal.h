/* Inside of engine and stream, shared by engine.c, batch.c, step.c, stream.c and spill.c. */
#ifndef TV3S_ENGINE_INTERNAL_H
#define TV3S_ENGINE_INTERNAL_H

#include "engine/arena.h"
#include "engine/encoder.h"
#include "engine/engine.h"
#include "engine/head.h"
#include "engine/plan.h"

enum {
    ENGINE_PLANS = 32, /* cached; more only while streams hold them */
    ENGINE_DEPTH = 2,  /* batches under way, at most */
    CLIP_HISTORY = 64, /* largest clip offset + 1 */
};

/* What frames so far left of a stream. `state` is NULL at the zero state. In clip
 * mode `history` holds the features of the last frames instead: frame f's at [f %
 * stream_history]. */
struct held {
    struct plan *plan; /* of the last frame; NULL before the first */
    float *state;
    void *history[CLIP_HISTORY];
    uint64_t frames;
    /* What state and history held, in host memory (spill.c); then they are NULL. */
    void *spilled;
    size_t spilled_bytes;
    uint64_t spilled_history; /* bit i: history[i] was there */
};

struct step;

/* A batch that was submitted (batch.c): until it is waited for, and perhaps done before that. */
struct flight {
    struct step *step; /* NULL: done, with this result */
    enum err result;
    char why[256];
};

struct engine {
    const struct model *model;
    struct backend *be;
    struct loader loader;
    struct encoder *encoder;
    struct head *head;
    struct arena arena;
    struct plan **plan;
    int plans;
    uint64_t clock;
    struct flight flight[ENGINE_DEPTH]; /* the oldest first */
    int flights;
};

/* What a stream owns. */
struct stream {
    struct engine *engine;
    struct stream_config config;
    struct held held; /* as if all batches submitted had succeeded */
    int flights;      /* batches under way that have a run of it */
    bool in_batch;    /* while engine_submit runs */
};

/* Frames whose features a clip stream keeps: as many as its largest offset. */
static inline uint64_t stream_history(const struct stream *s)
{
    return s->config.clip_offsets[0] > 0 ? (uint64_t)s->config.clip_offsets[0] : 1;
}

/* At every way in from outside: what the calling thread does next is done on this engine's device,
 * whichever it used before. */
static inline void engine_enter(const struct engine *e)
{
    e->be->ops->enter(e->be);
}

/* Device memory of states and features. ERR_NOMEM. */
enum err engine_take(struct engine *e, size_t bytes, void **out);
/* The same with a copy of host memory in it; *out is NULL after an error. */
enum err engine_take_copy(struct engine *e, const void *host, size_t bytes, void **out);
void engine_give(struct engine *e, void *data, size_t bytes); /* NULL is allowed */

/* The cached plan for a frame size, made when new. The caller counts itself in plan->users.
 * What engine_geometry and plan_open give. */
enum err engine_plan(struct engine *e, const struct stream_config *c, int width, int height,
                     struct plan **out);

/* Bytes of one frame's features (head_fuse's output). */
size_t engine_feature_bytes(const struct engine *e, const struct plan *p);
size_t engine_feature_bytes_of(const struct engine *e, const struct geometry *g);

/* room.c: for batches, as the configuration wants it; nothing on a CPU. */
enum err engine_make_room(struct engine *e, const struct engine_config *c);

/* Waits for the batches under way; what became of each is kept for engine_wait. */
void engine_drain(struct engine *e);

/* The device buffers of state and history go back to the engine; a plan is there. */
void stream_give_state(struct stream *s);
void stream_drop_spilled(struct stream *s);

#endif
