/* Where a scan window's tokens lie: shared by the scan and its convolution. */
#ifndef TV3S_KERNELS_CUDA_WINDOW_H
#define TV3S_KERNELS_CUDA_WINDOW_H

#include "kernels/cuda/device.h"

/* The row of token t, tokens numbered row by row. */
__device__ __forceinline__ size_t window_row(const struct scan_window &w, int t)
{
    return (size_t)(w.row0 + t / w.w * w.row_stride + t % w.w);
}

/* A walk over consecutive tokens without a division each. */
struct window_walk {
    size_t row;
    int x;
};

__device__ __forceinline__ struct window_walk window_from(const struct scan_window &w, int t)
{
    return {window_row(w, t), t % w.w};
}

__device__ __forceinline__ void window_next(const struct scan_window &w, struct window_walk &at)
{
    at.row++;
    if (++at.x == w.w) {
        at.x = 0;
        at.row += (size_t)(w.row_stride - w.w);
    }
}

#endif
