/* What bfloat16 itself costs: the CPU's fp32 engine with the factors of its matrix products
 * rounded, sums in fp32, as tests/arithmetic.py does with the reference; and the products that
 * become activations rounded, as they are stored. */
#ifndef TV3S_TESTS_ROUNDED_ENGINE_H
#define TV3S_TESTS_ROUNDED_ENGINE_H

#include "engine/internal.h"

#include <stdlib.h>

enum { ROUNDED_LINEARS = 512 };

static const struct backend_ops *rounded_real;
static struct backend_ops rounded_ops;
static struct {
    const struct linear *linear;
    struct linear_desc d;
} rounded_known[ROUNDED_LINEARS];
static int rounded_linears;

static inline void rounded(const float *from, size_t count, float *to)
{
    for (size_t i = 0; i < count; i++)
        to[i] = bf16_to_f32(f32_to_bf16(from[i]));
}

static inline float *rounded_copy(const float *from, size_t count)
{
    float *to = malloc((count + 1) * sizeof *to);
    if (to)
        rounded(from, count, to);
    return to;
}

static inline enum err rounded_open(struct backend *be, const struct linear_desc *d,
                                    struct linear **out)
{
    struct linear_desc r = *d;
    float *weight = rounded_copy(d->weight, (size_t)d->in * (size_t)d->out);
    r.weight = d->x_f32 ? d->weight : weight;
    enum err e = weight ? rounded_real->linear_open(be, &r, out) : ERR_NOMEM;
    free(weight);
    if (e == ERR_OK && rounded_linears < ROUNDED_LINEARS) {
        rounded_known[rounded_linears].linear = *out;
        rounded_known[rounded_linears++].d = *d;
    }
    return e;
}

static inline enum err rounded_linear(struct backend *be, struct linear *l, const void *x, void *y,
                                      size_t rows)
{
    const struct linear_desc *d = NULL;
    for (int i = 0; i < rounded_linears; i++)
        d = rounded_known[i].linear == l ? &rounded_known[i].d : d;
    float *copy = d ? rounded_copy(x, rows * (size_t)d->in) : NULL;
    enum err e = copy ? rounded_real->linear(be, l, d->x_f32 ? x : copy, y, rows) : ERR_NOMEM;
    if (e == ERR_OK && (d->output == LINEAR_ACT || d->output == LINEAR_ACT_GELU))
        rounded(y, rows * (size_t)d->out, y);
    free(copy);
    return e;
}

/* An engine opened on the CPU in fp32 computes so from now on. One at a time. */
static inline enum err rounded_engine(struct engine *e)
{
    encoder_close(&e->loader, e->encoder);
    head_close(&e->loader, e->head);
    e->encoder = NULL;
    e->head = NULL;
    rounded_linears = 0;
    rounded_real = e->be->ops;
    rounded_ops = *rounded_real;
    rounded_ops.linear_open = rounded_open;
    rounded_ops.linear = rounded_linear;
    e->be->ops = &rounded_ops;
    enum err r = encoder_open(&e->loader, &e->encoder);
    return r == ERR_OK ? head_open(&e->loader, &e->head) : r;
}

#endif
