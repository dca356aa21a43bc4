#include "semantics.h"

#include <cuda_runtime.h>

static __global__ void indices(unsigned long *out)
{
    size_t block = blockIdx.x + gridDim.x * (blockIdx.y + (size_t)gridDim.y * blockIdx.z);
    size_t thread = threadIdx.x + blockDim.x * (threadIdx.y + (size_t)blockDim.y * threadIdx.z);
    out[block * blockDim.x * blockDim.y * blockDim.z + thread] =
        threadIdx.x + 100ul * blockIdx.x + 10000ul * threadIdx.y + 1000000ul * blockIdx.y +
        100000000ul * threadIdx.z + 10000000000ul * blockIdx.z;
}

cudaError_t sem_indices(unsigned long *out)
{
    LAUNCH(indices, dim3(2, 3, 2), dim3(4, 2, 3), 0, NULL, out);
    return cudaGetLastError();
}

static __global__ void reverse(const float *in, float *out, bool barrier)
{
    __shared__ float s[64];
    s[threadIdx.x] = in[threadIdx.x];
    if (barrier)
        __syncthreads();
    out[threadIdx.x] = s[63 - threadIdx.x];
}

cudaError_t sem_reverse(const float *in, float *out, bool barrier)
{
    LAUNCH(reverse, 1, 64, 0, NULL, in, out, barrier);
    return cudaGetLastError();
}

static __global__ void reverse_dynamic(const float *in, float *out)
{
    SHARED_BYTES(bytes);
    float *s = (float *)bytes;
    s[threadIdx.x] = in[threadIdx.x];
    __syncthreads();
    out[threadIdx.x] = s[63 - threadIdx.x];
}

cudaError_t sem_reverse_dynamic(const float *in, float *out, size_t bytes)
{
    LAUNCH(reverse_dynamic, 1, 64, bytes, NULL, in, out);
    return cudaGetLastError();
}

static __global__ void unwritten(unsigned *out)
{
    __shared__ unsigned s[32];
    SHARED_BYTES(bytes);
    unsigned *d = (unsigned *)bytes;
    out[threadIdx.x] = s[threadIdx.x];
    out[32 + threadIdx.x] = d[threadIdx.x];
    s[threadIdx.x] = d[threadIdx.x] = 1;
}

cudaError_t sem_unwritten(unsigned *out)
{
    LAUNCH(unwritten, 2, 32, 128, NULL, out); /* the second block finds nothing of the first */
    return cudaGetLastError();
}

static __global__ void shuffles(int *out)
{
    int lane = (int)threadIdx.x, v = 10 * lane;
    unsigned all = 0xffffffffu;
    out[lane] = __shfl_up_sync(all, v, 3);
    out[32 + lane] = __shfl_down_sync(all, v, 3);
    out[64 + lane] = __shfl_xor_sync(all, v, 5);
    out[96 + lane] = __shfl_sync(all, v, 7);
    out[128 + lane] = __shfl_up_sync(all, v, 3, 8);
    out[160 + lane] = __shfl_down_sync(all, v, 3, 8);
    out[192 + lane] = __shfl_xor_sync(all, v, 5, 8);
    out[224 + lane] = __shfl_sync(all, v, 7, 8);
}

cudaError_t sem_shuffles(int *out)
{
    LAUNCH(shuffles, 1, 32, 0, NULL, out);
    return cudaGetLastError();
}

static __global__ void half_warps(int *out)
{
    int lane = (int)threadIdx.x;
    if (lane < 16)
        out[lane] = __shfl_xor_sync(0x0000ffffu, lane, 1);
    else
        out[lane] = __shfl_xor_sync(0xffff0000u, lane, 2);
}

cudaError_t sem_half_warps(int *out)
{
    LAUNCH(half_warps, 1, 32, 0, NULL, out);
    return cudaGetLastError();
}

static __global__ void votes(unsigned *out)
{
    unsigned all = 0xffffffffu, lane = threadIdx.x % 32;
    unsigned r[7] = {(unsigned)__any_sync(all, lane % 3 == 0),
                     (unsigned)__all_sync(all, lane % 3 == 0),
                     __ballot_sync(all, lane % 3 == 0),
                     (unsigned)__any_sync(all, 1),
                     (unsigned)__all_sync(all, 1),
                     __ballot_sync(all, 1),
                     (unsigned)__syncthreads_count(threadIdx.x < 40)};
    if (threadIdx.x == 0)
        memcpy(out, r, sizeof r);
}

cudaError_t sem_votes(unsigned *out)
{
    LAUNCH(votes, 1, 64, 0, NULL, out);
    return cudaGetLastError();
}

static __global__ void warp_memory(const float *in, float *out, bool barrier)
{
    __shared__ float s[32];
    s[threadIdx.x] = in[threadIdx.x];
    if (barrier)
        __syncwarp();
    out[threadIdx.x] = s[threadIdx.x ^ 1];
}

cudaError_t sem_warp_memory(const float *in, float *out, bool barrier)
{
    LAUNCH(warp_memory, 1, 32, 0, NULL, in, out, barrier);
    return cudaGetLastError();
}

static __global__ void atomics(int *out)
{
    int i = (int)threadIdx.x;
    atomicAdd(&out[0], 1);
    atomicMax(&out[1], i);
    atomicMin(&out[2], i);
}

cudaError_t sem_atomics(int *out)
{
    LAUNCH(atomics, 1, 64, 0, NULL, out);
    return cudaGetLastError();
}

static __global__ void wrong(int which)
{
    int i = (int)threadIdx.x;
    if (which == SEM_LEAVES) {
        if (i == 5)
            return;
        __syncthreads();
    } else if (which == SEM_TWO_BARRIERS) {
        if (i < 32)
            __syncthreads();
        else
            __syncthreads();
    } else if (which == SEM_LANE_MISSING) {
        if (i % 32 != 3)
            __shfl_sync(0xffffffffu, i, 0);
    } else if (which == SEM_NOT_IN_MASK) {
        __ballot_sync(0xfffffffeu, i);
    }
}

cudaError_t sem_wrong(enum sem_wrong which)
{
    unsigned blocks = which != SEM_NO_BLOCKS, threads = which == SEM_MANY_THREADS ? 1025 : 64;
    LAUNCH(wrong, blocks, threads, which == SEM_MUCH_SHARED ? 49153 : 0, NULL, (int)which);
    return cudaGetLastError();
}

static __global__ void large_shared(int)
{
    SHARED_BYTES(bytes);
    bytes[49152] = 1;
}

cudaError_t sem_large_shared(void)
{
    cudaError_t e =
        cudaFuncSetAttribute(large_shared, cudaFuncAttributeMaxDynamicSharedMemorySize, 49153);
    if (e != cudaSuccess)
        return e;
    LAUNCH(large_shared, 1, 1, 49153, NULL, 0);
    return cudaGetLastError();
}

cudaError_t sem_too_large_shared(void)
{
    return cudaFuncSetAttribute(large_shared, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                (99 << 10) + 1);
}

static __global__ void nothing(int)
{
}

static __global__ void nothing_else(int)
{
}

cudaError_t sem_nothing(cudaStream_t stream)
{
    LAUNCH(nothing, 1, 1, 0, stream, 0);
    return cudaGetLastError();
}

cudaError_t sem_nothing_else(cudaStream_t stream)
{
    LAUNCH(nothing_else, 1, 1, 0, stream, 0);
    return cudaGetLastError();
}

static __global__ void overflow(bool dynamic, float *out)
{
    __shared__ float s[64];
    SHARED_BYTES(bytes);
    float *to = dynamic ? (float *)bytes : s;
    to[out ? 64 : 0] = 1;
}

cudaError_t sem_overflow(bool dynamic, float *out)
{
    LAUNCH(overflow, 1, 1, 256, NULL, dynamic, out);
    return cudaGetLastError();
}
