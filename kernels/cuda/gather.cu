/* Rows moved by an index, and added back by it: Swin's windows and patch merging.
 *
 *   gather:       out[image, i] = in[image, index[i]], or zero
 *   scatter_add:  y[image, index[i]] += in[image, i]      indices are distinct, so nothing races
 *
 * A thread moves 16 bytes where rows allow it, else one element; a row's threads are neighbours.
 * Bytes: what is read and written once. Not measured on a device yet. */
#include "kernels/cuda/device.h"

enum { BLOCK = 256 };

/* c: groups of a row. */
template <typename G>
__global__ void gather_kernel(const G *in, const int *index, int images, size_t in_rows,
                              size_t rows, unsigned c, G zero, G *out)
{
    size_t i = (size_t)blockIdx.x * BLOCK + threadIdx.x, row = i / c, image = row / rows;
    if (image >= (size_t)images)
        return;
    int from = index[row - image * rows];
    out[i] = from < 0 ? zero : in[(image * in_rows + from) * c + (i - row * c)];
}

template <typename G>
static void gather(const void *in, const int *index, int images, size_t in_rows, size_t rows,
                   size_t bytes, G zero, void *out, cudaStream_t stream)
{
    unsigned c = (unsigned)(bytes / sizeof(G));
    LAUNCH((gather_kernel<G>), blocks_of((size_t)images * rows * c, BLOCK), BLOCK, 0, stream,
           (const G *)in, index, images, in_rows, rows, c, zero, (G *)out);
}

cudaError_t cuda_gather(const void *in, const int *index, int images, size_t in_rows, size_t rows,
                        int c, int elem, void *out, cudaStream_t stream)
{
    size_t bytes = (size_t)c * elem;
    if (bytes % 16 == 0 && (uintptr_t)in % 16 == 0 && (uintptr_t)out % 16 == 0)
        gather(in, index, images, in_rows, rows, bytes, make_uint4(0, 0, 0, 0), out, stream);
    else if (elem == 2)
        gather(in, index, images, in_rows, rows, bytes, (uint16_t)0, out, stream);
    else
        gather(in, index, images, in_rows, rows, bytes, (uint32_t)0, out, stream);
    return cudaGetLastError();
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
                                   size_t rows, unsigned c, G *y)
{
    size_t i = (size_t)blockIdx.x * BLOCK + threadIdx.x, row = i / c, image = row / rows;
    if (image >= (size_t)images)
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
    size_t elements = (size_t)images * rows * c;
    if (aligned4(in, (size_t)c) && aligned4(y, (size_t)c))
        LAUNCH((scatter_add_kernel<float4>), blocks_of(elements / 4, BLOCK), BLOCK, 0, stream,
               (const float4 *)in, index, images, y_rows, rows, (unsigned)c / 4, (float4 *)y);
    else
        LAUNCH((scatter_add_kernel<float>), blocks_of(elements, BLOCK), BLOCK, 0, stream, in, index,
               images, y_rows, rows, (unsigned)c, y);
    return cudaGetLastError();
}
