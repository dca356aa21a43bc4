/* Attention inside Swin's windows: 49 tokens, head dimension 32.
 *
 * A window and head is one task: its q, k, v are gathered from the qkv rows, scored by a plain
 * dot-product loop that the compiler vectorises, softmaxed with the relative position bias and the
 * region mask (MODEL.md section 2), and multiplied with v. The products are 5 % of a Swin
 * encoder's arithmetic, too small each for a library call to pay. Operands are converted to fp32
 * on the way in, so both dtypes share one code. */
#include "kernels/cpu/cpu.h"

#include <math.h>
#include <omp.h>

/* rows x dim values at `src` (row stride `ld` elements) to fp32 [rows][dim]. */
static void load(const struct cpu_backend *c, const void *src, size_t ld, int rows, int dim,
                 float *out)
{
    for (int r = 0; r < rows; r++) {
        if (cpu_is_bf16(&c->base))
            c->ops->to_f32((const uint16_t *)src + (size_t)r * ld, (size_t)dim, out + r * dim);
        else
            memcpy(out + r * dim, (const float *)src + (size_t)r * ld, (size_t)dim * sizeof(float));
    }
}

/* s[i][j] = q[i] . k[j]: k is transposed first so that the inner loop runs over keys. */
static void score(const float *q, const float *k, int n, int dim, float *kt, float *s)
{
    for (int j = 0; j < n; j++)
        for (int d = 0; d < dim; d++)
            kt[d * n + j] = k[j * dim + d];
    for (int i = 0; i < n; i++) {
        float *row = s + i * n;
        for (int j = 0; j < n; j++)
            row[j] = 0;
        for (int d = 0; d < dim; d++) {
            float a = q[i * dim + d];
            for (int j = 0; j < n; j++)
                row[j] += a * kt[d * n + j];
        }
    }
}

static void combine(const float *p, const float *v, int n, int dim, float *o)
{
    for (int i = 0; i < n; i++) {
        float *row = o + i * dim;
        for (int d = 0; d < dim; d++)
            row[d] = 0;
        for (int j = 0; j < n; j++) {
            float a = p[i * n + j];
            for (int d = 0; d < dim; d++)
                row[d] += a * v[j * dim + d];
        }
    }
}

enum err cpu_window_attention(struct backend *be, const struct window_attention *a, const void *qkv,
                              void *out, int images)
{
    struct cpu_backend *c = cpu_of(be);
    int n = a->window * a->window, dim = a->channels / a->heads;
    size_t elem = backend_elem(be), channels = (size_t)a->channels;
    size_t per_thread = (size_t)(4 * n * dim + n * dim + n * n) * sizeof(float);
    float scale = 1.0f / sqrtf((float)dim);
    void *scratch;
    per_thread = (per_thread + 63) / 64 * 64;
    enum err e = cpu_scratch(c, (size_t)c->gemm.threads * per_thread, &scratch);
    if (e != ERR_OK)
        return e;
    long tasks = (long)images * a->windows * a->heads;
#pragma omp parallel for schedule(static) if (tasks > 4)
    for (long t = 0; t < tasks; t++) {
        int head = (int)(t % a->heads), window = (int)(t / a->heads % a->windows);
        size_t row = (size_t)(t / a->heads) * (size_t)n;
        float *q = (float *)((char *)scratch + (size_t)omp_get_thread_num() * per_thread);
        float *k = q + n * dim, *v = k + n * dim, *o = v + n * dim, *kt = o + n * dim;
        float *s = kt + n * dim;
        const char *src = (const char *)qkv + (row * 3 * channels + (size_t)(head * dim)) * elem;
        load(c, src, 3 * channels, n, dim, q);
        load(c, src + channels * elem, 3 * channels, n, dim, k);
        load(c, src + 2 * channels * elem, 3 * channels, n, dim, v);
        score(q, k, n, dim, kt, s);
        int mask = a->mask_of ? a->mask_of[window] : -1;
        c->ops->softmax_bias_rows(s, n, n, n, scale, a->bias + (size_t)head * (size_t)(n * n),
                                  mask < 0 ? NULL : a->mask + (size_t)mask * (size_t)(n * n), s, n,
                                  false);
        combine(s, v, n, dim, o);
        for (int i = 0; i < n; i++) {
            char *dst = (char *)out + ((row + (size_t)i) * channels + (size_t)(head * dim)) * elem;
            if (cpu_is_bf16(be))
                c->ops->to_bf16(o + i * dim, (size_t)dim, (uint16_t *)(void *)dst);
            else
                memcpy(dst, o + i * dim, (size_t)dim * sizeof(float));
        }
    }
    return ERR_OK;
}
