/* Softmax of attention scores by rows, and the scaling of rows afterwards. All run inside one
 * thread: attention calls them from its own parallel region on a block that is in cache.
 *
 *   softmax_rows:       p = exp(scale * (s - max s)), and 1 / sum p apart: the division falls on
 *                       the narrower product p V (scale_rows)
 *   softmax_bias_rows:  softmax(scale * s + bias + mask), normalised
 *
 * A row is read for its maximum and again for the exponentials, from cache. The maxima of GROUP
 * rows are found together: a row of 400 scores is 26 vectors, so that the chain through its maximum
 * would otherwise take as long as all of its exponentials. Where p is bf16 the polynomial of degree
 * 3 is exact enough, and the sum is that of the rounded values: weights that sum to one after the
 * product. With AVX512_BF16 two vectors are rounded, and summed in pairs, by one instruction each.
 * The largest score is taken off in the same multiply-add as the scale: that this rounds the two
 * together moves a whole row by one factor, which its sum has too. 0.10 ns a score on a Zen 5 core
 * in bf16 (exponentials two by two: 0.11; row by row, with single conversions: 0.17). */
#include "kernels/cpu/simd.h"

#define LOG2E 0x1.715476p+0f

enum { GROUP = 4, SIDE = MANY };

/* Row maxima of `rows` <= GROUP rows, every lane the same. */
INLINE void row_max(const float *s, size_t ld, int rows, size_t n, vf *max)
{
    for (int i = 0; i < rows; i++)
        max[i] = vf_set(-__builtin_inff());
    FOR_VECTORS (j, l, n)
        for (int i = 0; i < rows; i++) {
            vf v = vf_load_n(s + (size_t)i * ld + j, l);
            max[i] = vf_max(l < VL ? vf_first(v, l, max[i]) : v, max[i]);
        }
    for (int i = 0; i < rows; i++)
        max[i] = vf_max_lanes(max[i]);
}

/* e = exp2(k * s - top) of `count` whole vectors. */
INLINE void exp_vectors(const float *s, int count, vf top, vf k, vf *e, bool bf16)
{
    EACH (i, count)
        e[i] = vf_fma(vf_load(s + i * VL), k, -top);
    vfs_exp2(e, count, bf16 ? 3 : 5);
}

#if defined(__AVX512BF16__)
/* Two vectors rounded to bf16 and stored; *sum += the two as stored. */
INLINE void store_pair(uint16_t *p, vf low, vf high, vf *sum)
{
    const __m512bh ones = (__m512bh)_mm512_set1_epi16(0x3f80);
    __m512bh pair = _mm512_cvtne2ps_pbh((__m512)high, (__m512)low);
    memcpy(p, &pair, sizeof pair);
    *sum = (vf)_mm512_dpbf16_ps((__m512)*sum, pair, ones);
}
#endif

/* p = exp2(k * s - top) with columns n..ld_p - 1 zero; the sum of p as stored. */
INLINE float exp_row(const float *s, size_t n, vf top, vf k, void *p, size_t at, size_t ld_p,
                     bool bf16)
{
    vf sum[2] = {{0}, {0}}; /* in turn: half the chain */
    vf e[SIDE];
    size_t j = 0;
#if defined(__AVX512BF16__)
    for (; bf16 && j + SIDE * VL <= n; j += SIDE * VL) {
        exp_vectors(s + j, SIDE, top, k, e, true);
        for (int i = 0; i < SIDE; i += 2)
            store_pair((uint16_t *)p + at + j + (size_t)(i * VL), e[i], e[i + 1], &sum[i / 2 & 1]);
    }
#endif
    for (; j < n; j += VL) {
        size_t l = (size_t)lanes(n - j);
        if (l == VL) {
            exp_vectors(s + j, 1, top, k, e, bf16);
        } else {
            e[0] = vf_fma(vf_load_n(s + j, l), k, -top);
            vfs_exp2(e, 1, bf16 ? 3 : 5);
            e[0] = vf_first(e[0], l, vf_set(0.0f));
        }
        if (bf16) {
            vh h = vf_to_bf16(e[0]);
            vh_store_n((uint16_t *)p + at + j, h, l);
            e[0] = vf_from_bf16(h);
        } else {
            vf_store_n((float *)p + at + j, e[0], l);
        }
        vf next = sum[1] + e[0];
        sum[1] = sum[0];
        sum[0] = next;
    }
    for (j = n; j < ld_p; j += VL)
        act_store(p, at + j, vf_set(0.0f), (size_t)lanes(ld_p - j), bf16);
    return vf_sum(sum[0] + sum[1]);
}

INLINE void softmax_group(const float *s, int ld_s, int rows, int n, float scale, void *p,
                          size_t at, int ld_p, float *inv_sum, bool bf16)
{
    vf max[GROUP];
    row_max(s, (size_t)ld_s, rows, (size_t)n, max);
    vf k = vf_set(scale * LOG2E);
    for (int i = 0; i < rows; i++, s += ld_s, at += (size_t)ld_p)
        inv_sum[i] = 1.0f / exp_row(s, (size_t)n, max[i] * k, k, p, at, (size_t)ld_p, bf16);
}

INLINE void softmax(const float *s, int ld_s, int m, int n, float scale, void *p, int ld_p,
                    float *inv_sum, bool bf16)
{
    int i = 0;
    for (; i + GROUP <= m; i += GROUP)
        softmax_group(s + (size_t)i * (size_t)ld_s, ld_s, GROUP, n, scale, p,
                      (size_t)i * (size_t)ld_p, ld_p, inv_sum + i, bf16);
    for (; i < m; i++)
        softmax_group(s + (size_t)i * (size_t)ld_s, ld_s, 1, n, scale, p, (size_t)i * (size_t)ld_p,
                      ld_p, inv_sum + i, bf16);
}

void KERNEL(softmax_rows)(const float *s, int ld_s, int m, int n, float scale, void *p, int ld_p,
                          float *inv_sum, bool bf16)
{
    if (bf16)
        softmax(s, ld_s, m, n, scale, p, ld_p, inv_sum, true);
    else
        softmax(s, ld_s, m, n, scale, p, ld_p, inv_sum, false);
}

/* One row of softmax_bias_rows; its exponentials stay in fp32 until they are normalised. */
INLINE void softmax_bias_row(const float *s, size_t n, float scale, const float *bias,
                             const float *mask, void *p, size_t at, bool bf16)
{
    vf t[SOFTMAX_BIAS_MAX / VL], max = vf_set(-__builtin_inff()), sum = vf_set(0.0f);
    FOR_VECTORS (j, l, n) {
        vf v = vf_fma(vf_load_n(s + j, l), vf_set(scale), vf_load_n(bias + j, l));
        if (mask)
            v += vf_load_n(mask + j, l);
        v = l < VL ? vf_first(v, l, vf_set(-__builtin_inff())) : v;
        t[j / VL] = v;
        max = vf_max(v, max);
    }
    max = vf_max_lanes(max);
    for (size_t i = 0; i * VL < n; i++) {
        t[i] = vf_exp2((t[i] - max) * vf_set(LOG2E));
        sum += t[i];
    }
    vf factor = vf_set(1.0f / vf_sum(sum));
    FOR_VECTORS (j, l, n)
        act_store(p, at + j, t[j / VL] * factor, l, bf16);
}

void KERNEL(softmax_bias_rows)(const float *s, int ld_s, int m, int n, float scale,
                               const float *bias, const float *mask, void *p, int ld_p, bool bf16)
{
    for (int i = 0; i < m; i++) {
        size_t at = (size_t)i * (size_t)ld_p;
        if (bf16)
            softmax_bias_row(s, (size_t)n, scale, bias, mask, p, at, true);
        else
            softmax_bias_row(s, (size_t)n, scale, bias, mask, p, at, false);
        s += ld_s;
        bias += n;
        mask = mask ? mask + n : NULL;
    }
}

INLINE void scale_row(const float *x, size_t n, float factor, void *out, size_t at, bool bf16)
{
    FOR_VECTORS (j, l, n)
        act_store(out, at + j, vf_load_n(x + j, l) * vf_set(factor), l, bf16);
}

void KERNEL(scale_rows)(const float *x, int ld_x, int m, int n, const float *factor, void *out,
                        int ld_out, bool bf16)
{
    for (int i = 0; i < m; i++, x += ld_x) {
        if (bf16)
            scale_row(x, (size_t)n, factor[i], out, (size_t)i * (size_t)ld_out, true);
        else
            scale_row(x, (size_t)n, factor[i], out, (size_t)i * (size_t)ld_out, false);
    }
}
