/* Labels: grid logits to a mask of the original size, without ever building the resized logits.
 *
 *   out[y, x] = argmax_k sum_t col[x][t] * sum_s row[y][s] * logits[iy + s, ix + t, k]
 *
 * A block makes PIXELS neighbours of ROWS output rows, one row after the other: several of them mix
 * the same few grid rows, which are then in the first-level cache. It mixes those into shared
 * memory, [columns][classes] (about 22 columns at 864x480), then each thread mixes its pixel's
 * columns, four classes at a time, and keeps the best. Pixels of a warp read the same few columns,
 * so shared memory answers most reads by broadcast; the weights of a pixel are in registers. Where
 * many columns are needed (a mask smaller than the grid) the block goes in shorter tiles. Rows
 * before columns and taps in order, as on the CPU; a later class must be strictly greater, so ties
 * go to the lower. Classes are padded to a multiple of four by -infinity, which never is (nor is
 * the NaN that a weight of zero makes of it), and so that columns lie in different banks.
 *
 * At 864x480 and 124 classes: 154 M multiply-adds for columns, 22 M for rows, 0.4 MB written; 110
 * MB of logits are mixed, of which all but the first of ROWS rows' come from the first-level cache.
 * nvcc 13.0, sm_80 and sm_90: 32 to 44 registers, nothing spilled. Not measured on a device yet. */
#include "kernels/cuda/device.h"

enum { PIXELS = 128, ROWS = 4, SHARED = 48 << 10 };

/* mixed[column][class], `columns` of them from `first` on, for output row y: a warp a column. */
__device__ __forceinline__ void mix_rows(const float *logits, int classes, int stride,
                                         const cuda_axis &rows, int width, int y, int first,
                                         int columns, float *mixed)
{
    const float *weight = rows.weight + (size_t)y * rows.taps;
    size_t line = (size_t)width * classes;
    const float *from = logits + rows.index[y] * line + (size_t)first * classes;
    for (int col = (int)threadIdx.x / WARP; col < columns; col += PIXELS / WARP)
        for (int k = (int)threadIdx.x % WARP; k < stride; k += WARP) {
            float sum = k < classes ? 0.0f : -INFINITY;
            for (int s = 0; k < classes && s < rows.taps; s++)
                sum = fmaf(weight[s], from[s * line + (size_t)col * classes + k], sum);
            mixed[col * stride + k] = sum;
        }
}

__device__ __forceinline__ void keep_best(float v, int k, float &best, int &at)
{
    if (v > best) {
        best = v;
        at = k;
    }
}

/* TAPS: how many there are, 0: `taps`. */
template <int TAPS>
__device__ __forceinline__ uint8_t best_class(const float *mixed, int stride, const float *weight,
                                              int taps)
{
    float best = -INFINITY, w[TAPS ? TAPS : 1];
    int at = 0;
#pragma unroll
    for (int t = 0; t < TAPS; t++)
        w[t] = weight[t];
    for (int k = 0; k < stride; k += 4) {
        float4 first = load4(mixed + k);
        float first_weight = TAPS ? w[0] : weight[0];
        float v[4] = {first_weight * first.x, first_weight * first.y, first_weight * first.z,
                      first_weight * first.w};
#pragma unroll
        for (int t = 1; t < (TAPS ? TAPS : taps); t++) {
            float4 m = load4(mixed + t * stride + k);
            float of = TAPS ? w[t % (TAPS ? TAPS : 1)] : weight[t];
            v[0] = fmaf(of, m.x, v[0]);
            v[1] = fmaf(of, m.y, v[1]);
            v[2] = fmaf(of, m.z, v[2]);
            v[3] = fmaf(of, m.w, v[3]);
        }
#pragma unroll
        for (int i = 0; i < 4; i++)
            keep_best(v[i], k + i, best, at);
    }
    return (uint8_t)at;
}

/* stride: of a column in shared memory; capacity: columns that fit, at least cols.taps */
template <int TAPS>
static __global__ void __launch_bounds__(PIXELS)
    labels_kernel(const float *logits, int classes, int stride, cuda_axis rows, cuda_axis cols,
                  int capacity, uint8_t *out)
{
    SHARED_BYTES(bytes);
    float *mixed = (float *)bytes;
    int left = (int)blockIdx.x * PIXELS, right = min(left + (int)PIXELS, cols.dst);
    int y = (int)blockIdx.y * ROWS, bottom = min(y + (int)ROWS, rows.dst);
    for (; y < bottom; y++)
        for (int begin = left, end; begin < right; begin = end) {
            int first = cols.index[begin];
            for (end = right; cols.index[end - 1] + cols.taps - first > capacity;)
                end--;
            mix_rows(logits, classes, stride, rows, cols.src, y, first,
                     cols.index[end - 1] + cols.taps - first, mixed);
            __syncthreads();
            int x = begin + (int)threadIdx.x;
            if (x < end)
                out[(size_t)y * cols.dst + x] =
                    best_class<TAPS>(mixed + (size_t)(cols.index[x] - first) * stride, stride,
                                     cols.weight + (size_t)x * cols.taps, cols.taps);
            __syncthreads();
        }
}

cudaError_t cuda_labels(const float *logits, int classes, cuda_axis rows, cuda_axis cols,
                        uint8_t *out, cudaStream_t stream)
{
    dim3 grid(blocks_of((size_t)cols.dst, PIXELS), blocks_of((size_t)rows.dst, ROWS));
    int stride = (classes + 3) / 4 * 4;
    stride += stride % 32 == 0 ? 4 : 0;
    size_t column = (size_t)stride * sizeof(float);
    int span = (int)((size_t)PIXELS * cols.src / cols.dst) + cols.taps + 2;
    int most = (int)(SHARED / column), capacity = span < most ? span : most;
#define LAUNCH_LABELS(TAPS)                                                                        \
    LAUNCH((labels_kernel<TAPS>), grid, PIXELS, capacity *column, stream, logits, classes, stride, \
           rows, cols, capacity, out)
    if (cols.taps == 2)
        LAUNCH_LABELS(2);
    else if (cols.taps == 3)
        LAUNCH_LABELS(3);
    else if (cols.taps == 4)
        LAUNCH_LABELS(4);
    else
        LAUNCH_LABELS(0);
#undef LAUNCH_LABELS
    return cudaGetLastError();
}
