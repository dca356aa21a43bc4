/* Sizes and work that follow from an architecture and a frame size (MODEL.md 3.2, 5). */
#include "engine/plan.h"

void plan_stage_sizes(const struct arch *a, int net_width, int net_height, int h[ARCH_STAGES],
                      int w[ARCH_STAGES])
{
    (void)a; /* both families: ceil(size / 4), then halved rounding up */
    h[0] = (net_height + 3) / 4;
    w[0] = (net_width + 3) / 4;
    for (int i = 1; i < ARCH_STAGES; i++) {
        h[i] = (h[i - 1] + 1) / 2;
        w[i] = (w[i - 1] + 1) / 2;
    }
}

/* Pieces of an axis of `size` (a multiple of w) cut at `shift`, shift + w, ... */
static int pieces(int size, int window, int shift)
{
    return size / window + (shift > 0 ? 1 : 0);
}

static int grid_side(int c1, int window)
{
    int half = c1 / 2;
    return (half + window - 1) / window * window;
}

static double mit_macs(const struct arch *a, int stage, double tokens, double keys)
{
    double c = a->dims[stage], hidden = a->mlp[stage], sr = a->sr[stage];
    int kernel = stage == 0 ? 7 : 3, before = stage == 0 ? 3 : a->dims[stage - 1];
    double block = 2 * tokens * c * c /* q, proj */
                   + 2 * keys * c * c /* kv */
                   + (sr > 1 ? keys * c * c * sr * sr : 0) +
                   2 * tokens * keys * c /* scores, values */
                   + 2 * tokens * c * hidden + 9 * tokens * hidden;
    return tokens * c * before * kernel * kernel + a->depths[stage] * block;
}

static double swin_macs(const struct arch *a, int stage, int h, int w)
{
    double c = a->dims[stage], tokens = (double)h * w, n = a->swin_window * a->swin_window;
    double windows = (double)((h + a->swin_window - 1) / a->swin_window) *
                     ((w + a->swin_window - 1) / a->swin_window);
    double block = windows * n * (4 * c * c + 2 * n * c) + 2 * tokens * c * a->mlp[stage];
    double merge = stage == 0 ? tokens * c * 48 : tokens * c * 4 * a->dims[stage - 1];
    return merge + a->depths[stage] * block;
}

/* Multiply-adds of one frame as the engine computes it: fuse folded, resizes not counted. */
static double frame_macs(const struct arch *a, const struct geometry *g)
{
    int h[ARCH_STAGES], w[ARCH_STAGES];
    double macs = 0, tokens = (double)g->grid_width * g->grid_height;
    plan_stage_sizes(a, g->net_width, g->net_height, h, w);
    for (int i = 0; i < ARCH_STAGES; i++) {
        double t = (double)h[i] * w[i];
        if (a->encoder == ENCODER_MIT)
            macs += mit_macs(a, i, t, (double)(h[i] / a->sr[i]) * (w[i] / a->sr[i]));
        else
            macs += swin_macs(a, i, h[i], w[i]);
        macs += t * a->dims[i] * a->embed; /* fuse */
    }
    if (a->head == HEAD_TV3S) {
        double d = a->inner, mixer = 3.0 * a->embed * d                /* in, out */
                                     + d * (a->dt_rank + 2 * a->state) /* x */
                                     + d * a->dt_rank + d * a->conv    /* dt, conv */
                                     + 4 * d * a->state;               /* scan */
        macs += a->layers * tokens * mixer;
    }
    return macs + tokens * a->embed * a->classes * (a->output == OUTPUT_DIRECT ? 1 : 2);
}

enum err engine_geometry(const struct arch *a, int width, int height,
                         const struct resize_spec *resize, struct geometry *out)
{
    *out = (struct geometry){.width = width, .height = height};
    if (width < 1 || height < 1 || width > ENGINE_MAX_SIDE || height > ENGINE_MAX_SIDE)
        return err_set(ERR_ARG, "a frame of %dx%d is not within 1x1 to %dx%d", width, height,
                       ENGINE_MAX_SIDE, ENGINE_MAX_SIDE);
    enum err e = resize_apply(resize ? resize : &a->resize, width, height, &out->net_width,
                              &out->net_height);
    if (e != ERR_OK)
        return e;
    int h[ARCH_STAGES], w[ARCH_STAGES];
    plan_stage_sizes(a, out->net_width, out->net_height, h, w);
    out->c1_height = h[0];
    out->c1_width = w[0];
    if (a->head == HEAD_SEGFORMER) {
        out->grid_height = h[0];
        out->grid_width = w[0];
    } else {
        out->grid_height = grid_side(h[0], a->window);
        out->grid_width = grid_side(w[0], a->window);
        int even = pieces(out->grid_height, a->window, 0) * pieces(out->grid_width, a->window, 0);
        int odd = pieces(out->grid_height, a->window, a->shift) *
                  pieces(out->grid_width, a->window, a->shift);
        out->windows = (a->layers + 1) / 2 * even + a->layers / 2 * odd;
        out->state_bytes = (size_t)out->windows * (size_t)a->inner *
                           (size_t)(a->state + a->conv - 1) * sizeof(float);
    }
    out->gflop = 2 * frame_macs(a, out) / 1e9;
    return ERR_OK;
}
