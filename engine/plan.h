/* A plan: everything that follows from (model, frame size, network size), made once and cached.
 *
 * Sizes of every stage, the composed resize maps, the table of windows, the attention handles.
 * Nothing of it is recomputed per frame. */
#ifndef TV3S_ENGINE_PLAN_H
#define TV3S_ENGINE_PLAN_H

#include "engine/engine.h"
#include "kernels/backend.h"

/* A window of a layer: tokens (y, x), y < h, x < w, at grid row-major index row0 + y * W + x. */
struct plan_window {
    int row0, h, w;
};

/* A row of windows: a contiguous range of the grid's tokens, and of the window table. */
struct plan_band {
    int row0, rows;
    int window0, windows;
};

/* How even (shift 0) and odd (shift s) layers cut the grid. */
struct plan_cut {
    struct plan_window *window;
    int windows;
    struct plan_band *band;
    int bands;
};

/* Swin: the windows of one stage, for even and odd blocks. */
struct plan_swin {
    int windows;       /* of one image */
    int *partition[2]; /* [windows * 49] token index, -1 = padding; [1] rolled */
    int *mask_of;      /* [windows] for odd blocks: 0 right edge, 1 bottom, 2 both, -1 none */
    int *merge;        /* [next stage's tokens * 4] token index, -1 = padding; NULL in stage 4 */
};

struct plan {
    struct geometry geo;
    int h[ARCH_STAGES], w[ARCH_STAGES]; /* stage outputs c1..c4 */

    struct resize_axis input_rows, input_cols;                         /* frame -> network */
    struct resize_axis fuse_rows[ARCH_STAGES], fuse_cols[ARCH_STAGES]; /* c_i -> c1 */
    struct resize_axis grid_rows, grid_cols;                           /* c1 -> grid; TV3S only */
    struct resize_axis label_rows, label_cols; /* logits -> c1 -> network -> frame */

    struct plan_cut cut[2];
    size_t window_floats; /* S and tail of one (layer, window) */
    size_t state_floats;  /* of the whole stream */

    struct plan_swin swin[ARCH_STAGES];
    struct attention *attention[ARCH_STAGES]; /* MiT */

    int users;    /* streams that hold it */
    uint64_t age; /* engine's clock at its last use */
};

/* Builds the plan for `geo` (from engine_geometry) on a backend. ERR_NOMEM; ERR_ARG for a network
 * input that leaves MiT's attention without keys. */
enum err plan_open(const struct arch *a, const struct geometry *geo, struct backend *be,
                   struct plan **out);
void plan_close(struct plan *p, struct backend *be); /* NULL is allowed */

/* Offset in floats of (layer, window)'s S in a stream's state; its tail follows S directly. */
size_t plan_state_offset(const struct plan *p, int layer, int window);

/* Sizes of c1..c4 for a network input. */
void plan_stage_sizes(const struct arch *a, int net_width, int net_height, int h[ARCH_STAGES],
                      int w[ARCH_STAGES]);

#endif
