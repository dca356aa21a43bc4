/* The image encoders: one frame's feature maps c1..c4 (MODEL.md section 2). No time in here.
 *
 * Both families keep the residual stream x in fp32 and everything between in the backend's
 * activation dtype. `images` frames of one plan go through together: rows of all of them stand
 * under each other in every matrix, so linears and norms see one tall matrix. */
#ifndef TV3S_ENGINE_ENCODER_H
#define TV3S_ENGINE_ENCODER_H

#include "engine/arena.h"
#include "engine/layers.h"
#include "engine/plan.h"

struct encoder;

/* ERR_NOMEM; ERR_UNSUPPORTED where the backend has no product of a layer's shape. */
enum err encoder_open(const struct loader *l, struct encoder **out);
void encoder_close(const struct loader *l, struct encoder *enc); /* NULL is allowed */

/* input: fp32 [images][net_height][net_width][3]. c[i]: act [images * h_i * w_i][dims[i]],
 * the caller's. Scratch comes from the arena and is released again.
 * ERR_NOMEM while a plan is new; ERR_DEVICE on a GPU that failed. */
enum err encoder_run(const struct encoder *enc, struct arena *arena, const struct plan *p,
                     const float *input, int images, void *const c[ARCH_STAGES]);

/* The two families, behind the functions above. */
struct mit;
enum err mit_open(const struct loader *l, struct mit **out);
void mit_close(const struct loader *l, struct mit *m);
enum err mit_run(const struct mit *m, struct arena *arena, const struct plan *p, const float *input,
                 int images, void *const c[ARCH_STAGES]);

struct swin;
enum err swin_open(const struct loader *l, struct swin **out);
void swin_close(const struct loader *l, struct swin *s);
enum err swin_run(const struct swin *s, struct arena *arena, const struct plan *p,
                  const float *input, int images, void *const c[ARCH_STAGES]);

#endif
