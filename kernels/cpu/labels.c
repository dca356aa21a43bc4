/* Labels: grid logits to a mask of the original size, without ever building the resized logits.
 *
 *   out[y, x] = argmax_k sum_{s, t} row[y][s] * col[x][t] * logits[iy + s, ix + t, k]
 *
 * One output row is a task: mix the few grid rows it needs into the thread's scratch, [w'][classes]
 * (once a row, 1/w of the work), then for every pixel mix the few columns it needs, all classes in
 * vectors, and keep per lane the best value and its class. Rows before columns, taps in order.
 *
 * Ties go to the lower class: within a lane a later class must be strictly greater, and among lanes
 * that hold the maximum the lowest class wins. Classes are padded to whole vectors by copies of
 * class 0, which tie with it and lose. */
#include "kernels/cpu/simd.h"

#ifdef _OPENMP
#include <omp.h>
#endif

enum { PIXELS = 4 };

static int thread_index(void)
{
#ifdef _OPENMP
    return omp_get_thread_num();
#else
    return 0;
#endif
}

/* Where v > best: best = v, at = index. */
INLINE void keep_best(vf *best, vi *at, vf v, vi index)
{
#if defined(__AVX512F__)
    __mmask16 m = _mm512_cmp_ps_mask((__m512)v, (__m512)*best, _CMP_GT_OQ);
    *best = (vf)_mm512_mask_mov_ps((__m512)*best, m, (__m512)v);
    *at = (vi)_mm512_mask_mov_epi32((__m512i)*at, m, (__m512i)index);
#else
    vi m = v > *best;
    *best = vf_select(m, v, *best);
    *at = vi_select(m, index, *at);
#endif
}

/* The lowest index among the lanes that hold the maximum; best is never NaN. */
INLINE int lowest_best(vf best, vi at)
{
#if defined(__AVX512F__)
    __m512 max = _mm512_set1_ps(_mm512_reduce_max_ps((__m512)best));
    __mmask16 m = _mm512_cmp_ps_mask((__m512)best, max, _CMP_EQ_OQ);
    if (m & (m - 1)) /* a tie, rarely */
        return _mm512_mask_reduce_min_epi32(m, (__m512i)at);
    int32_t lane[VL];
    memcpy(lane, &at, sizeof lane);
    return lane[__builtin_ctz(m)];
#else
    vi at_best = vi_select(best == vf_max_lanes(best), at, at - at + 255);
    int lowest = at_best[0];
    for (int i = 1; i < VL; i++)
        lowest = at_best[i] < lowest ? at_best[i] : lowest;
    return lowest;
#endif
}

/* mixed[x][class] of output row y; classes padded to `ld`. */
INLINE void mix_rows(const float *logits, size_t classes, const struct resize_axis *rows, int y,
                     size_t width, float *mixed, size_t ld)
{
    const float *weight = rows->weight + (size_t)y * (size_t)rows->taps;
    const float *from = logits + (size_t)rows->index[y] * width * classes;
    for (size_t x = 0; x < width; x++, from += classes, mixed += ld)
        FOR_VECTORS (j, n, classes) {
            vf sum = {0};
            for (size_t t = 0; t < (size_t)rows->taps; t++)
                sum = vf_fma(vf_set(weight[t]), vf_load_n(from + t * width * classes + j, n), sum);
            vf_store(mixed + j, n < VL ? vf_first(sum, n, vf_set(j ? mixed[0] : sum[0])) : sum);
        }
}

/* Labels of `count` pixels, at most PIXELS, that read the same `taps` columns from `mixed` on, with
 * weights [count][taps]. */
INLINE void pixels(const float *mixed, size_t ld, size_t vectors, const float *weight, int taps,
                   int count, uint8_t *out)
{
    vf best[PIXELS];
    vi at[PIXELS], index = vi_index();
    for (int i = 0; i < count; i++) {
        best[i] = vf_set(-__builtin_inff());
        at[i] = index;
    }
    for (size_t j = 0; j < vectors; j++, index += VL, mixed += VL) {
        vf v[PIXELS];
        for (int i = 0; i < count; i++)
            v[i] = vf_set(weight[i * taps]) * vf_load(mixed);
        for (int t = 1; t < taps; t++)
            for (int i = 0; i < count; i++)
                v[i] = vf_fma(vf_set(weight[i * taps + t]), vf_load(mixed + (size_t)t * ld), v[i]);
        for (int i = 0; i < count; i++)
            keep_best(&best[i], &at[i], v[i], index);
    }
    for (int i = 0; i < count; i++)
        out[i] = (uint8_t)lowest_best(best[i], at[i]);
}

/* One output row. An enlarged mask has runs of pixels between the same columns: four of them at a
 * time, so that logits are loaded once for all. */
INLINE void label_row(const float *mixed, size_t ld, size_t vectors, const struct resize_axis *cols,
                      int taps, uint8_t *out)
{
    for (int x = 0, count; x < cols->dst; x += count) {
        const float *from = mixed + (size_t)cols->index[x] * ld;
        const float *weight = cols->weight + (size_t)x * (size_t)taps;
        bool run = x + PIXELS <= cols->dst && cols->index[x + PIXELS - 1] == cols->index[x];
        count = run ? PIXELS : 1;
        if (run)
            pixels(from, ld, vectors, weight, taps, PIXELS, out + x);
        else
            pixels(from, ld, vectors, weight, taps, 1, out + x);
    }
}

void KERNEL(labels)(const float *logits, int classes, const struct resize_axis *rows,
                    const struct resize_axis *cols, uint8_t *out, float *scratch)
{
    size_t width = (size_t)cols->src, ld = CPU_LABELS_LD(classes);
    size_t vectors = ((size_t)classes + VL - 1) / VL;

#pragma omp parallel for schedule(static) if ((long)rows->dst * cols->dst * classes >= PARALLEL_MIN)
    for (int y = 0; y < rows->dst; y++) {
        float *mixed = scratch + (size_t)thread_index() * width * ld;
        uint8_t *line = out + (size_t)y * (size_t)cols->dst;
        mix_rows(logits, (size_t)classes, rows, y, width, mixed, ld);
        if (cols->taps == 2)
            label_row(mixed, ld, vectors, cols, 2, line);
        else if (cols->taps == 3)
            label_row(mixed, ld, vectors, cols, 3, line);
        else
            label_row(mixed, ld, vectors, cols, cols->taps, line);
    }
}
