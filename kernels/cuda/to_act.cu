/* out = in, converted: fp32 to the activation type. count * (4 + elem) bytes. */
#include "kernels/cuda/device.h"

template <typename T> __global__ void to_act_kernel(const float *in, size_t count, T *out)
{
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count)
        out[i] = from_f32<T>(in[i]);
}

cudaError_t cuda_to_act(const float *in, size_t count, void *out, bool bf16, cudaStream_t stream)
{
    enum { BLOCK = 256 };
    WITH_ACT(bf16, LAUNCH((to_act_kernel<T>), blocks_of(count, BLOCK), BLOCK, 0, stream, in, count,
                          (T *)out));
    return cudaGetLastError();
}
