/* Weights of single layers, from a model's tensors into a backend's memory. */
#ifndef TV3S_ENGINE_LAYERS_H
#define TV3S_ENGINE_LAYERS_H

#include "engine/model.h"
#include "kernels/backend.h"

/* What the loaders need; passed by pointer everywhere weights are read. */
struct loader {
    const struct model *model;
    struct backend *be;
};

/* All of these: ERR_NOMEM; those that make a linear also ERR_UNSUPPORTED where the backend has no
 * product of its shape. */

struct norm {
    float *weight, *bias; /* backend memory; bias NULL for an RMSNorm */
};

/* PREFIX.weight [out][in], PREFIX.bias [out] when it is there. Also takes 1x1 convolutions. */
enum err load_linear(const struct loader *l, const char *prefix, int in, int out,
                     enum linear_output output, struct linear **linear);

/* PREFIX.weight [out][in][k][k] as a linear over im2col's columns (ky, kx, channel), `ld` of them:
 * ld >= k * k * in, the rest zero. x_f32: the columns are fp32 in either dtype. */
enum err load_conv(const struct loader *l, const char *prefix, int in, int out, int k, int ld,
                   bool x_f32, enum linear_output output, struct linear **linear);

/* PREFIX.weight [c], and PREFIX.bias when `bias`. */
enum err load_norm(const struct loader *l, const char *prefix, int c, bool bias, struct norm *norm);
void free_norm(const struct loader *l, struct norm *norm);

/* A copy of `count` floats in backend memory of its own. */
enum err load_floats(const struct loader *l, const float *src, size_t count, float **out);

/* A tensor [rows][cols] to backend memory, transposed to [cols][rows] when asked. */
enum err load_matrix(const struct loader *l, const char *name, int rows, int cols, bool transpose,
                     float **out);

/* Columns that an im2col of k x k patches of c channels is padded to. */
static inline int im2col_ld(int c, int k)
{
    return (k * k * c + 31) / 32 * 32;
}

#endif
