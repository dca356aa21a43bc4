/* y = GELU(y), exact: x Phi(x) by erff. cuBLASLt's own GELU epilogue is the tanh approximation,
 * whose error of up to 5e-4 the checkpoints were not trained with. One read and one write of y. */
#include "kernels/cuda/device.h"

enum { BLOCK = 256 };

template <typename T> __global__ void gelu_kernel(T *y, size_t count)
{
    size_t i = 4 * ((size_t)blockIdx.x * BLOCK + threadIdx.x);
    if (i >= count)
        return;
    float4 v = load4(y + i);
    store4(y + i, make_float4(gelu(v.x), gelu(v.y), gelu(v.z), gelu(v.w)));
}

template <typename T> __global__ void gelu_narrow_kernel(T *y, size_t count)
{
    size_t i = (size_t)blockIdx.x * BLOCK + threadIdx.x;
    if (i < count)
        y[i] = from_f32<T>(gelu(to_f32(y[i])));
}

template <typename T> static void launch(T *y, size_t count, cudaStream_t stream)
{
    if (aligned4(y, count))
        LAUNCH((gelu_kernel<T>), blocks_of(count / 4, BLOCK), BLOCK, 0, stream, y, count);
    else
        LAUNCH((gelu_narrow_kernel<T>), blocks_of(count, BLOCK), BLOCK, 0, stream, y, count);
}

cudaError_t cuda_gelu(void *y, size_t count, bool bf16, cudaStream_t stream)
{
    WITH_ACT(bf16, launch((T *)y, count, stream));
    return cudaGetLastError();
}
