/* RGB24 to network input: bilinear resize, then (x - mean) / std (MODEL.md section 1).
 *
 *   out[y, x, ch] = (sum_t col[x][t] * sum_s row[y][s] * rgb[iy + s, ix + t, ch] - mean) / std
 *
 * A thread makes one pixel. 3 bytes in and 12 out a pixel: 6.2 MB at 864x480;
 * source bytes that neighbours share come from the caches. Not measured on a device yet. */
#include "kernels/cuda/device.h"

enum { BLOCK = 128 };

__global__ void preprocess_kernel(const uint8_t *rgb, size_t stride, cuda_axis rows, cuda_axis cols,
                                  float *out)
{
    const float mean[3] = {123.675f, 116.28f, 103.53f};
    const float inv_std[3] = {1.0f / 58.395f, 1.0f / 57.12f, 1.0f / 57.375f};
    int x = (int)(blockIdx.x * BLOCK + threadIdx.x), y = (int)blockIdx.y;
    if (x >= cols.dst)
        return;
    const uint8_t *from = rgb + (size_t)rows.index[y] * stride + 3 * (size_t)cols.index[x];
    const float *row_weight = rows.weight + (size_t)y * rows.taps;
    const float *col_weight = cols.weight + (size_t)x * cols.taps;
    float sum[3] = {0, 0, 0};
    for (int t = 0; t < cols.taps; t++) {
        float mixed[3] = {0, 0, 0};
        for (int s = 0; s < rows.taps; s++)
            for (int ch = 0; ch < 3; ch++)
                mixed[ch] = fmaf(row_weight[s], (float)from[s * stride + 3 * t + ch], mixed[ch]);
        for (int ch = 0; ch < 3; ch++)
            sum[ch] = fmaf(col_weight[t], mixed[ch], sum[ch]);
    }
    float *to = out + 3 * ((size_t)y * cols.dst + x);
    for (int ch = 0; ch < 3; ch++)
        to[ch] = (sum[ch] - mean[ch]) * inv_std[ch];
}

cudaError_t cuda_preprocess(const uint8_t *rgb, size_t stride, cuda_axis rows, cuda_axis cols,
                            float *out, cudaStream_t stream)
{
    dim3 grid(blocks_of((size_t)cols.dst, BLOCK), (unsigned)rows.dst);
    LAUNCH(preprocess_kernel, grid, BLOCK, 0, stream, rgb, stride, rows, cols, out);
    return cudaGetLastError();
}
