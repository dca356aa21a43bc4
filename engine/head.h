/* The decode heads: feature maps to logits and labels (MODEL.md section 3). */
#ifndef TV3S_ENGINE_HEAD_H
#define TV3S_ENGINE_HEAD_H

#include "engine/arena.h"
#include "engine/layers.h"
#include "engine/plan.h"

/* One Mamba layer: r += Mixer(RMSNorm(r)). */
struct mixer {
    struct norm norm;            /* RMSNorm, [E] */
    struct linear *in, *x, *out; /* E -> 2D, D -> R + 2n, D -> E */
    struct scan_weights scan;
};

struct head {
    const struct arch *arch;
    struct linear *fuse[ARCH_STAGES]; /* C_i -> E, linear_c, linear_fuse and BatchNorm folded */
    float *fuse_bias;                 /* [E] */
    struct mixer *mixer;              /* [layers] */
    struct norm norm_f;
    struct linear *classify; /* E -> classes, with bias, on `out` (SegFormer: on f) */
    struct linear *skip;     /* `add`, `concat`: E -> classes, on the grid features */
};

/* ERR_NOMEM; ERR_UNSUPPORTED where the backend has no product of a layer's shape. What runs below
 * gives ERR_NOMEM while a plan is new, and ERR_DEVICE on a GPU that failed. */
enum err head_open(const struct loader *l, struct head **out);
void head_close(const struct loader *l, struct head *h); /* NULL is allowed */

/* c[i] of `images` frames of one plan -> features[j]: TV3S: fp32 grid features
 * [grid_height * grid_width][E]; SegFormer: act f, the same shape. */
enum err head_fuse(const struct head *h, struct arena *arena, const struct plan *p, int images,
                   void *const c[ARCH_STAGES], void *const *features);

/* One frame's way through the head. Units of one wave are independent of each other; a unit may
 * need the state that one of an earlier wave leaves. */
struct head_unit {
    const struct plan *plan;
    void *features; /* from head_fuse */
    bool scratch;   /* nobody needs the features afterwards: they may be overwritten */
    float *state;   /* plan->state_floats, read and overwritten; NULL for SegFormer */
    int wave;
    uint8_t *labels; /* host, or NULL */
    float *logits;   /* host, (classes, h, w), or NULL */
};

/* units are sorted by wave; first to last wave one after the other. */
enum err head_run(const struct head *h, struct arena *arena, const struct head_unit *units,
                  int count);

/* The mixers over the residual rows r (fp32 [rows of all units][E], unit after unit); head_scan.c
 */
enum err head_mix(const struct head *h, struct arena *arena, const struct head_unit *units,
                  int count, float *r);

#endif
