/* Depthwise 3x3 convolution with zero padding, bias and exact GELU, channels-last.
 *
 *   out[y, x, c] = GELU(bias[c] + sum_{j, i} weight[j * 3 + i][c] * x[y + j - 1, x + i - 1, c])
 *
 * A task is one output row and one block of channels. A vector of channels slides along the row:
 * every step loads the three inputs of one new column and adds them to the three outputs they touch
 * (left, centre, right), so that an input is loaded three times in all, once per row, and the rows
 * of a block stay in the caches from one task to the next. */
#include "kernels/cpu/simd.h"

enum { BLOCK = 64 };

/* One vector of channels c..c + n - 1 of output row y. */
INLINE void row_vector(const void *in, int h, int w, size_t c_all, int y, size_t c, size_t n,
                       const float *weight, const float *bias, void *out, bool bf16)
{
    size_t line = (size_t)w * c_all, at = (size_t)y * line + c;
    bool up = y > 0, down = y < h - 1;
    vf k[9], b = vf_load_n(bias + c, n), zero = vf_set(0.0f);
    for (int i = 0; i < 9; i++)
        k[i] = vf_load_n(weight + (size_t)i * c_all + c, n);

    vf left = b, centre = b; /* outputs x - 1 and x, so far */
    for (int x = 0; x < w; x++, at += c_all) {
        vf i0 = up ? act_load(in, at - line, n, bf16) : zero;
        vf i1 = act_load(in, at, n, bf16);
        vf i2 = down ? act_load(in, at + line, n, bf16) : zero;
        act_prefetch(in, at + 2 * line, bf16); /* for the next row: positions are far apart */
        vf done = vf_fma(k[8], i2, vf_fma(k[5], i1, vf_fma(k[2], i0, left)));
        left = vf_fma(k[7], i2, vf_fma(k[4], i1, vf_fma(k[1], i0, centre)));
        centre = vf_fma(k[6], i2, vf_fma(k[3], i1, vf_fma(k[0], i0, b)));
        if (x > 0)
            act_store(out, at - c_all, vf_gelu(done), n, bf16);
    }
    act_store(out, at - c_all, vf_gelu(left), n, bf16);
}

INLINE void row_block(const void *in, int h, int w, size_t c_all, int y, size_t begin, size_t end,
                      const float *weight, const float *bias, void *out, bool bf16)
{
    size_t c = begin;
    for (; c + VL <= end; c += VL)
        row_vector(in, h, w, c_all, y, c, VL, weight, bias, out, bf16);
    if (c < end)
        row_vector(in, h, w, c_all, y, c, end - c, weight, bias, out, bf16);
}

void KERNEL(dwconv3x3_gelu)(const void *x, int h, int w, int c, const float *weight,
                            const float *bias, void *out, bool bf16)
{
    int blocks = (c + BLOCK - 1) / BLOCK;

#pragma omp parallel for schedule(static) if ((long)h * w * c >= PARALLEL_MIN)
    for (int i = 0; i < blocks * h; i++) {
        int begin = i / h * BLOCK, end = begin + BLOCK < c ? begin + BLOCK : c;
        if (bf16)
            row_block(x, h, w, (size_t)c, i % h, (size_t)begin, (size_t)end, weight, bias, out,
                      true);
        else
            row_block(x, h, w, (size_t)c, i % h, (size_t)begin, (size_t)end, weight, bias, out,
                      false);
    }
}
