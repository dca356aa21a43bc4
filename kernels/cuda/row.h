/* A row of c channels in the registers of a group of lanes: what the norms share.
 *
 * Norms read a row for its sums and again for the result. Rows are short (32 to 1024 channels), so
 * a group of LANES lanes keeps its row in registers and memory is read once: PER times four
 * neighbouring channels a lane, the group's lanes side by side. Groups of 8 and 16 lanes keep all
 * lanes at work on rows of 32 and 64 channels. */
#ifndef TV3S_KERNELS_CUDA_ROW_H
#define TV3S_KERNELS_CUDA_ROW_H

#include "kernels/cuda/device.h"

enum { ROW_BLOCK = 256, ROW_MAX_PER = 8 };

template <int LANES, int PER> struct row {
    float4 v[PER]; /* channels 4 * (lane + i * LANES) on; zero from c on */
};

template <int LANES> __device__ __forceinline__ int row_lane()
{
    return (int)threadIdx.x % LANES;
}

/* x: the row's first channel, aligned to four; `there`: false for a group behind the last row. */
template <int LANES, int PER, typename T>
__device__ __forceinline__ row<LANES, PER> row_load(const T *x, int c, bool there)
{
    row<LANES, PER> r;
#pragma unroll
    for (int i = 0; i < PER; i++) {
        int at = 4 * (row_lane<LANES>() + i * LANES);
        r.v[i] = there && at < c ? load4(x + at) : make_float4(0, 0, 0, 0);
    }
    return r;
}

/* Sum over the group, the same in all its lanes; every lane of the warp calls. */
template <int LANES> __device__ __forceinline__ float row_sum(float v)
{
#pragma unroll
    for (int by = LANES / 2; by > 0; by /= 2)
        v += __shfl_xor_sync(FULL_WARP, v, by);
    return v;
}

/* Runs LAUNCH_ROW(LANES, PER) for c channels, a multiple of 4, at most 4 * 32 * ROW_MAX_PER. */
#define WITH_ROW(c, LAUNCH_ROW)                                                                    \
    do {                                                                                           \
        if ((c) <= 32)                                                                             \
            LAUNCH_ROW(8, 1);                                                                      \
        else if ((c) <= 64)                                                                        \
            LAUNCH_ROW(16, 1);                                                                     \
        else if ((c) <= 128)                                                                       \
            LAUNCH_ROW(32, 1);                                                                     \
        else if ((c) <= 256)                                                                       \
            LAUNCH_ROW(32, 2);                                                                     \
        else if ((c) <= 512)                                                                       \
            LAUNCH_ROW(32, 4);                                                                     \
        else                                                                                       \
            LAUNCH_ROW(32, 8);                                                                     \
    } while (0)

#endif
