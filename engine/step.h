/* One batch from inside: what batch.c makes and step.c walks through. */
#ifndef TV3S_ENGINE_STEP_H
#define TV3S_ENGINE_STEP_H

#include "engine/internal.h"

/* A run of the batch. */
struct work {
    const struct engine_run *run; /* the caller's, until engine_submit returns */
    int count;                    /* of its frames */
    struct stream *stream;
    struct plan *plan;
    bool fresh;                /* starts from zero: no state yet, or another size */
    float *state;              /* stream mode: the state it leaves, a buffer of its own */
    void **feature;            /* clip mode: [count] the run's own features */
    struct held before, after; /* of the stream, once the batch is under way */
};

struct frame_ref {
    struct work *work;
    int index; /* in its run */
};

struct step {
    struct engine *e;
    struct work *work;
    int runs;
    struct frame_ref *frame; /* wave by wave: every run's first frame, every run's second, ... */
    int frames;
};

static inline size_t step_state_bytes(const struct plan *p)
{
    return p->state_floats * sizeof(float);
}

/* All arithmetic of a batch, on a struct step: the walk that the backend asks for. It leaves
 * everything but the device as it was, so it can be walked again. */
enum err step_walk(void *step);

#endif
