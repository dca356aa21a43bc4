#include "engine/layers.h"

#include "base/try.h"

#include <stdlib.h>

static enum err optional_bias(const struct loader *l, const char *prefix, float **out)
{
    *out = NULL;
    return model_has(l->model, "%s.bias", prefix) ? model_tensor(l->model, out, "%s.bias", prefix)
                                                  : ERR_OK;
}

enum err load_linear(const struct loader *l, const char *prefix, int in, int out,
                     enum linear_output output, struct linear **linear)
{
    float *weight = NULL, *bias = NULL;
    enum err e = model_tensor(l->model, &weight, "%s.weight", prefix);
    if (e == ERR_OK)
        e = optional_bias(l, prefix, &bias);
    if (e == ERR_OK) {
        struct linear_desc d = {
            .in = in, .out = out, .weight = weight, .bias = bias, .output = output};
        e = l->be->ops->linear_open(l->be, &d, linear);
    }
    free(weight);
    free(bias);
    return e;
}

enum err load_conv(const struct loader *l, const char *prefix, int in, int out, int k, int ld,
                   bool x_f32, enum linear_output output, struct linear **linear)
{
    float *weight = NULL, *bias = NULL, *rows = NULL;
    enum err e = model_tensor(l->model, &weight, "%s.weight", prefix);
    if (e == ERR_OK)
        e = optional_bias(l, prefix, &bias);
    if (e == ERR_OK) {
        rows = calloc((size_t)out * (size_t)ld, sizeof *rows);
        e = rows ? ERR_OK : err_set(ERR_NOMEM, "out of memory for weights");
    }
    if (e == ERR_OK) {
        for (int o = 0; o < out; o++)
            for (int c = 0; c < in; c++)
                for (int t = 0; t < k * k; t++)
                    rows[(size_t)o * (size_t)ld + (size_t)(t * in + c)] =
                        weight[((size_t)o * (size_t)in + (size_t)c) * (size_t)(k * k) + (size_t)t];
        struct linear_desc d = {ld, out, rows, bias, output, x_f32};
        e = l->be->ops->linear_open(l->be, &d, linear);
    }
    free(weight);
    free(bias);
    free(rows);
    return e;
}

enum err load_floats(const struct loader *l, const float *src, size_t count, float **out)
{
    void *p = NULL;
    *out = NULL;
    TRY(l->be->ops->alloc(l->be, count * sizeof *src, &p));
    enum err e = l->be->ops->upload(l->be, p, src, count * sizeof *src);
    if (e == ERR_OK)
        *out = p;
    else
        l->be->ops->free(l->be, p);
    return e;
}

enum err load_norm(const struct loader *l, const char *prefix, int c, bool bias, struct norm *norm)
{
    float *p = NULL;
    TRY(model_tensor(l->model, &p, "%s.weight", prefix));
    enum err e = load_floats(l, p, (size_t)c, &norm->weight);
    free(p);
    if (e != ERR_OK || !bias)
        return e;
    TRY(model_tensor(l->model, &p, "%s.bias", prefix));
    e = load_floats(l, p, (size_t)c, &norm->bias);
    free(p);
    return e;
}

void free_norm(const struct loader *l, struct norm *norm)
{
    l->be->ops->free(l->be, norm->weight);
    l->be->ops->free(l->be, norm->bias);
}

enum err load_matrix(const struct loader *l, const char *name, int rows, int cols, bool transpose,
                     float **out)
{
    float *p = NULL, *t = NULL;
    size_t count = (size_t)rows * (size_t)cols;
    enum err e = model_tensor(l->model, &p, "%s", name);
    if (e == ERR_OK && transpose) {
        t = malloc(count * sizeof *t);
        e = t ? ERR_OK : err_set(ERR_NOMEM, "out of memory for weights");
        for (int r = 0; e == ERR_OK && r < rows; r++)
            for (int c = 0; c < cols; c++)
                t[(size_t)c * (size_t)rows + (size_t)r] = p[(size_t)r * (size_t)cols + (size_t)c];
    }
    if (e == ERR_OK)
        e = load_floats(l, t ? t : p, count, out);
    free(p);
    free(t);
    return e;
}
