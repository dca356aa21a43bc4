/* LayerNorm and RMSNorm over a row's channels.
 *
 *   layernorm: (x - mean) / sqrt(mean((x - mean)^2) + eps) * gamma + beta
 *   rmsnorm:   x / sqrt(mean(x^2) + eps) * weight
 *
 * Rows are independent and at most a few KB, so a row is read from memory once and from the first
 * cache level twice more: mean, then variance about it, then the result. The sums run in two
 * partial vectors, which is both faster and nearer to the truth than one. Bound by memory. */
#include "kernels/cpu/simd.h"

#include <math.h>

/* sum of (x - mean)^power over a row, power 1 or 2. */
INLINE float row_sum(const void *x, size_t at, size_t c, float mean, int power, bool bf16)
{
    vf sum = vf_set(0.0f), other = sum; /* two sums in turn: half the chain */
    FOR_VECTORS (j, n, c) {
        vf v = act_load(x, at + j, n, bf16);
        if (power == 2) {
            v -= vf_set(mean);
            v *= v;
            if (n < VL) /* lanes past the end hold mean^2 */
                v = vf_first(v, n, vf_set(0.0f));
        }
        vf next = other + v;
        other = sum;
        sum = next;
    }
    return vf_sum(sum + other);
}

INLINE void layernorm_rows(const void *x, size_t rows, size_t c, const float *gamma,
                           const float *beta, float eps, void *out, bool in_bf16, bool out_bf16)
{
#pragma omp parallel for schedule(static) if (rows * c >= PARALLEL_MIN)
    for (size_t row = 0; row < rows; row++) {
        size_t at = row * c;
        float mean = row_sum(x, at, c, 0.0f, 1, in_bf16) / (float)c;
        float var = row_sum(x, at, c, mean, 2, in_bf16) / (float)c;
        vf scale = vf_set(1.0f / sqrtf(var + eps)), centre = vf_set(mean);
        FOR_VECTORS (j, n, c) {
            vf v = (act_load(x, at + j, n, in_bf16) - centre) * scale;
            v = vf_fma(v, vf_load_n(gamma + j, n), vf_load_n(beta + j, n));
            act_store(out, at + j, v, n, out_bf16);
        }
    }
}

void KERNEL(layernorm)(const void *x, bool in_bf16, size_t rows, int c, const float *gamma,
                       const float *beta, float eps, void *out, bool out_bf16)
{
    if (in_bf16 && out_bf16)
        layernorm_rows(x, rows, (size_t)c, gamma, beta, eps, out, true, true);
    else if (in_bf16)
        layernorm_rows(x, rows, (size_t)c, gamma, beta, eps, out, true, false);
    else if (out_bf16)
        layernorm_rows(x, rows, (size_t)c, gamma, beta, eps, out, false, true);
    else
        layernorm_rows(x, rows, (size_t)c, gamma, beta, eps, out, false, false);
}

INLINE void rmsnorm_rows(const float *x, size_t rows, size_t c, const float *weight, float eps,
                         void *out, bool out_bf16)
{
#pragma omp parallel for schedule(static) if (rows * c >= PARALLEL_MIN)
    for (size_t row = 0; row < rows; row++) {
        size_t at = row * c;
        float square = row_sum(x, at, c, 0.0f, 2, false) / (float)c;
        vf scale = vf_set(1.0f / sqrtf(square + eps));
        FOR_VECTORS (j, n, c)
            act_store(out, at + j, vf_load_n(x + at + j, n) * scale * vf_load_n(weight + j, n), n,
                      out_bf16);
    }
}

void KERNEL(rmsnorm)(const float *x, size_t rows, int c, const float *weight, float eps, void *out,
                     bool out_bf16)
{
    if (out_bf16)
        rmsnorm_rows(x, rows, (size_t)c, weight, eps, out, true);
    else
        rmsnorm_rows(x, rows, (size_t)c, weight, eps, out, false);
}
