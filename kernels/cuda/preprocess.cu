/* Pixels to network input: bilinear resize of the RGB, then (x - mean) / std (MODEL.md section 1).
 *
 *   out[y, x, ch] = (sum_t col[x][t] * sum_s row[y][s] * rgb[iy + s, ix + t, ch] - mean) / std
 *
 * A thread makes one pixel. RGB24 has 3 bytes in a source pixel; NV12 has 1.5, and each of the up
 * to four pixels that a thread mixes is converted there and then (yuv.h), some thirty integer
 * operations, rather than once into a picture of RGB that would be written and read again. Either
 * way the levels that are mixed are the same, and so is every bit of the result.
 *
 * 12 bytes out a pixel: with RGB24 6.2 MB at 864x480, 1.2 of them up from the host, with NV12 5.6
 * and 0.6; of 1920x1080 6.2 MB go up, or 3.1. What a decoder on the device made is copied there,
 * and nothing of it goes up (stage.c). Source bytes that neighbours share come from the caches.
 * None of it has been timed on a device yet. */
#include "kernels/cuda/device.h"
#include "kernels/cuda/yuv.h"

enum { BLOCK = 128 };

struct rgb24 {
    const uint8_t *rgb;
    int width;
};

struct nv12 {
    const uint8_t *luma;
    int width, height;
    struct yuv matrix;
};

__device__ __forceinline__ void get_pixel(const rgb24 &from, int y, int x, int rgb[3])
{
    const uint8_t *p = from.rgb + 3 * ((size_t)y * from.width + x);
    for (int ch = 0; ch < 3; ch++)
        rgb[ch] = p[ch];
}

__device__ __forceinline__ void get_pixel(const nv12 &from, int y, int x, int rgb[3])
{
    yuv_pixel(from.luma, from.width, from.height, &from.matrix, y, x, rgb);
}

template <typename PIXELS>
__global__ void preprocess_kernel(PIXELS from, cuda_axis rows, cuda_axis cols, float *out)
{
    const float mean[3] = {123.675f, 116.28f, 103.53f};
    const float inv_std[3] = {1.0f / 58.395f, 1.0f / 57.12f, 1.0f / 57.375f};
    int x = (int)(blockIdx.x * BLOCK + threadIdx.x), y = (int)blockIdx.y;
    if (x >= cols.dst)
        return;
    const float *row_weight = rows.weight + (size_t)y * rows.taps;
    const float *col_weight = cols.weight + (size_t)x * cols.taps;
    float sum[3] = {0, 0, 0};
    for (int t = 0; t < cols.taps; t++) {
        float mixed[3] = {0, 0, 0};
        for (int s = 0; s < rows.taps; s++) {
            int rgb[3];
            get_pixel(from, rows.index[y] + s, cols.index[x] + t, rgb);
            for (int ch = 0; ch < 3; ch++)
                mixed[ch] = fmaf(row_weight[s], (float)rgb[ch], mixed[ch]);
        }
        for (int ch = 0; ch < 3; ch++)
            sum[ch] = fmaf(col_weight[t], mixed[ch], sum[ch]);
    }
    float *to = out + 3 * ((size_t)y * cols.dst + x);
    for (int ch = 0; ch < 3; ch++)
        to[ch] = (sum[ch] - mean[ch]) * inv_std[ch];
}

cudaError_t cuda_preprocess(const uint8_t *pixels, struct pixel_format format, cuda_axis rows,
                            cuda_axis cols, float *out, cudaStream_t stream)
{
    dim3 grid(blocks_of((size_t)cols.dst, BLOCK), (unsigned)rows.dst);
    if (format.layout == PIXELS_NV12) {
        nv12 from = {pixels, cols.src, rows.src, yuv_of(format)};
        LAUNCH((preprocess_kernel<nv12>), grid, BLOCK, 0, stream, from, rows, cols, out);
    } else {
        rgb24 from = {pixels, cols.src};
        LAUNCH((preprocess_kernel<rgb24>), grid, BLOCK, 0, stream, from, rows, cols, out);
    }
    return cudaGetLastError();
}
