/* Labels: grid logits to a mask of the original size, without ever building the resized logits.
 *
 *   out[y, x] = argmax_k sum_t col[x][t] * sum_s row[y][s] * logits[iy + s, ix + t, k]
 *
 * A block makes PIXELS neighbours of one output row. It mixes the grid rows they need into shared
 * memory, [columns][classes] (about 22 columns at 864x480), then each thread mixes its pixel's
 * columns class by class and keeps the best. Pixels of a warp read the same few columns, so shared
 * memory answers most reads by broadcast. Where many columns are needed (a mask smaller than the
 * grid) the block goes in shorter tiles. Rows before columns and taps in order, as on the CPU; a
 * later class must be strictly greater, so ties go to the lower.
 *
 * At 864x480 and 124 classes: 154 M multiply-adds for columns, 22 M for rows, 0.4 MB written. Not
 * measured on a device yet. */
#include "kernels/cuda/device.h"

enum { PIXELS = 128, SHARED = 48 << 10 };

/* mixed[column][class], `columns` of them from `first` on, for output row y. */
__device__ __forceinline__ void mix_rows(const float *logits, int classes, const cuda_axis &rows,
                                         int width, int y, int first, int columns, float *mixed)
{
    const float *weight = rows.weight + (size_t)y * rows.taps;
    size_t line = (size_t)width * classes;
    const float *from = logits + rows.index[y] * line + (size_t)first * classes;
    for (int i = (int)threadIdx.x; i < columns * classes; i += PIXELS) {
        float sum = 0;
        for (int s = 0; s < rows.taps; s++)
            sum = fmaf(weight[s], from[s * line + i], sum);
        mixed[i] = sum;
    }
}

__device__ __forceinline__ uint8_t best_class(const float *mixed, int classes, const float *weight,
                                              int taps)
{
    float best = -INFINITY;
    int at = 0;
    for (int k = 0; k < classes; k++) {
        float v = weight[0] * mixed[k];
        for (int t = 1; t < taps; t++)
            v = fmaf(weight[t], mixed[t * classes + k], v);
        if (v > best) {
            best = v;
            at = k;
        }
    }
    return (uint8_t)at;
}

/* capacity: columns that fit into shared memory, at least cols.taps */
__global__ void labels_kernel(const float *logits, int classes, cuda_axis rows, cuda_axis cols,
                              int capacity, uint8_t *out)
{
    SHARED_BYTES(bytes);
    float *mixed = (float *)bytes;
    int y = (int)blockIdx.y, begin = (int)blockIdx.x * PIXELS, last = begin + PIXELS;
    last = last < cols.dst ? last : cols.dst;
    for (int end; begin < last; begin = end) {
        int first = cols.index[begin];
        for (end = last; cols.index[end - 1] + cols.taps - first > capacity;)
            end--;
        mix_rows(logits, classes, rows, cols.src, y, first, cols.index[end - 1] + cols.taps - first,
                 mixed);
        __syncthreads();
        int x = begin + (int)threadIdx.x;
        if (x < end)
            out[(size_t)y * cols.dst + x] =
                best_class(mixed + (size_t)(cols.index[x] - first) * classes, classes,
                           cols.weight + (size_t)x * cols.taps, cols.taps);
        __syncthreads();
    }
}

cudaError_t cuda_labels(const float *logits, int classes, cuda_axis rows, cuda_axis cols,
                        uint8_t *out, cudaStream_t stream)
{
    dim3 grid(blocks_of((size_t)cols.dst, PIXELS), (unsigned)rows.dst);
    size_t column = (size_t)classes * sizeof(float);
    int span = (int)((size_t)PIXELS * cols.src / cols.dst) + cols.taps + 2;
    int most = (int)(SHARED / column), capacity = span < most ? span : most;
    LAUNCH(labels_kernel, grid, PIXELS, capacity * column, stream, logits, classes, rows, cols,
           capacity, out);
    return cudaGetLastError();
}
