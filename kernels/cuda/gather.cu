/* Rows moved by an index, and added back by it: Swin's windows and patch merging.
 *
 *   gather:       out[image, i] = in[image, index[i]], or zero
 *   scatter_add:  y[image, index[i]] += in[image, i]      indices are distinct, so nothing races
 *
 * A thread moves 16 bytes where rows allow it, else one element; a row's threads are neighbours,
 * and threads are counted in 32 bits (im2col.cu). Bytes: what is read and written once. Not
 * measured on a device yet. */
#include "kernels/cuda/device.h"

enum { BLOCK = 256 };

static bool countable(size_t threads)
{
    return threads <= UINT32_MAX - BLOCK;
}

/* c: groups of a row. */
template <typename G>
__global__ void gather_kernel(const G *in, const int *index, int images, size_t in_rows,
                              unsigned rows, unsigned c, G zero, G *out)
{
    unsigned i = blockIdx.x * BLOCK + threadIdx.x, row = i / c, image = row / rows;
    if (image >= (unsigned)images)
        return;
    int from = index[row - image * rows];
    out[i] = from < 0 ? zero : in[(image * in_rows + from) * c + (i - row * c)];
}

template <typename G>
static cudaError_t gather(const void *in, const int *index, int images, size_t in_rows, size_t rows,
                          size_t bytes, G zero, void *out, cudaStream_t stream)
{
    unsigned c = (unsigned)(bytes / sizeof(G));
    size_t threads = (size_t)images * rows * c;
    if (!countable(threads))
        return cudaErrorInvalidValue;
    LAUNCH((gather_kernel<G>), blocks_of(threads, BLOCK), BLOCK, 0, stream, (const G *)in, index,
           images, in_rows, (unsigned)rows, c, zero, (G *)out);
    return cudaGetLastError();
}

cudaError_t cuda_gather(const void *in, const int *index, int images, size_t in_rows, size_t rows,
                        int c, int elem, void *out, cudaStream_t stream)
{
    size_t bytes = (size_t)c * elem;
    if (bytes % 16 == 0 && (uintptr_t)in % 16 == 0 && (uintptr_t)out % 16 == 0)
        return gather(in, index, images, in_rows, rows, bytes, make_uint4(0, 0, 0, 0), out, stream);
    if (elem == 2)
        return gather(in, index, images, in_rows, rows, bytes, (uint16_t)0, out, stream);
    return gather(in, index, images, in_rows, rows, bytes, (uint32_t)0, out, stream);
}

__device__ __forceinline__ float added(float a, float b)
{
    return a + b;
}

__device__ __forceinline__ float4 added(float4 a, float4 b)
{
    return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
}

template <typename G>
__global__ void scatter_add_kernel(const G *in, const int *index, int images, size_t y_rows,
                                   unsigned rows, unsigned c, G *y)
{
    unsigned i = blockIdx.x * BLOCK + threadIdx.x, row = i / c, image = row / rows;
    if (image >= (unsigned)images)
        return;
    int to = index[row - image * rows];
    if (to < 0)
        return;
    G *at = &y[(image * y_rows + to) * c + (i - row * c)];
    *at = added(*at, in[i]);
}

cudaError_t cuda_scatter_add(const float *in, const int *index, int images, size_t y_rows,
                             size_t rows, int c, float *y, cudaStream_t stream)
{
    bool wide = aligned4(in, (size_t)c) && aligned4(y, (size_t)c);
    size_t elements = (size_t)images * rows * c, threads = wide ? elements / 4 : elements;
    unsigned grid = blocks_of(threads, BLOCK), n = (unsigned)rows;
    if (!countable(threads))
        return cudaErrorInvalidValue;
    if (wide)
        LAUNCH((scatter_add_kernel<float4>), grid, BLOCK, 0, stream, (const float4 *)in, index,
               images, y_rows, n, (unsigned)c / 4, (float4 *)y);
    else
        LAUNCH((scatter_add_kernel<float>), grid, BLOCK, 0, stream, in, index, images, y_rows, n,
               (unsigned)c, y);
    return cudaGetLastError();
}
