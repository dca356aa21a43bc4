/* RGB24 to network input: bilinear resize, then (x - mean) / std.
 *
 * A task is one output row. It walks the row in tiles whose source columns fit a small buffer:
 * first the tile's source pixels are mixed over the rows' taps into fp32, a vector of bytes at a
 * time, then every output pixel is the sum over the columns' taps of four floats (one pixel and a
 * neighbour's first channel that the next store overwrites). Rows before columns, as stated. */
#include "kernels/cpu/simd.h"

enum { SPAN = 1024 }; /* source columns of a tile */

typedef float v4 __attribute__((vector_size(16)));

static const v4 mean = {123.675f, 116.28f, 103.53f, 0.0f};
static const v4 inv_std = {1.0f / 58.395f, 1.0f / 57.12f, 1.0f / 57.375f, 0.0f};

/* mixed[i] = sum_t weight[t] * src[t * stride + i], i < count. */
static void mix_rows(const uint8_t *src, ptrdiff_t stride, const float *weight, int taps,
                     size_t count, float *mixed)
{
    FOR_VECTORS (i, n, count) {
        vf sum = {0};
        for (int t = 0; t < taps; t++) {
            vb bytes = {0};
            memcpy(&bytes, src + t * stride + (ptrdiff_t)i, n);
            vi wide = __builtin_convertvector(bytes, vi);
            sum = vf_fma(vf_set(weight[t]), __builtin_convertvector(wide, vf), sum);
        }
        vf_store_n(mixed + i, sum, n);
    }
}

/* Output columns begin..end - 1 from `mixed`, whose first pixel is source column `first`. */
static void mix_columns(const float *mixed, int first, const struct resize_axis *cols, int begin,
                        int end, float *out)
{
    for (int x = begin; x < end; x++, out += 3) {
        const float *src = mixed + 3 * (cols->index[x] - first);
        v4 sum = {0};
        for (int t = 0; t < cols->taps; t++, src += 3) {
            v4 pixel;
            memcpy(&pixel, src, sizeof pixel);
            sum += cols->weight[(size_t)x * (size_t)cols->taps + (size_t)t] * pixel;
        }
        sum = (sum - mean) * inv_std;
        size_t n = x + 1 < end ? 4 : 3;
        memcpy(out, &sum, n * sizeof *out);
    }
}

void KERNEL(preprocess)(const uint8_t *rgb, ptrdiff_t stride, const struct resize_axis *rows,
                        const struct resize_axis *cols, float *out)
{
#pragma omp parallel for schedule(static) if ((long)rows->dst * cols->dst >= PARALLEL_MIN)
    for (int y = 0; y < rows->dst; y++) {
        float mixed[3 * SPAN + 1];
        for (int begin = 0, end; begin < cols->dst; begin = end) {
            end = axis_tile(cols, begin, SPAN);
            int first = cols->index[begin], last = cols->index[end - 1] + cols->taps;
            mix_rows(rgb + rows->index[y] * stride + 3 * (ptrdiff_t)first, stride,
                     rows->weight + (size_t)y * (size_t)rows->taps, rows->taps,
                     3 * (size_t)(last - first), mixed);
            mixed[3 * (last - first)] = 0.0f;
            size_t at = 3 * ((size_t)y * (size_t)cols->dst + (size_t)begin);
            mix_columns(mixed, first, cols, begin, end, out + at);
        }
    }
}
