/* Attention inside Swin's windows, with relative position bias and region mask.
 *
 *   out = softmax(q k^T / sqrt(d) + bias[head] + mask[window]) v      qkv [windows * n^2][3C]
 *
 * attend.h has the kernels; a window is an image of n^2 = 49 queries and as many keys, one tile of
 * each, and d = 32. A block is one head of one window: 49 of its 64 rows and columns are used.
 *
 * Floors on an H100, a block of Swin-T's stage 1 at 864x480 (558 windows, 3 heads, C = 96) in bf16:
 * 21 MB in and out, 6.3 us at 3.35 TB/s; the products with their padding 0.9 GFLOP, 0.9 us at 989
 * TFLOP/s. Bias and mask are 9.6 KB each a block, from the caches: twice what a block reads of qkv.
 *
 * nvcc 13.0, sm_80 and sm_90: 128 registers at d = 32, one of them spilled on sm_90.
 * Measured: not yet. */
#include "kernels/cuda/attend.h"

cudaError_t cuda_window_attention(const void *qkv, int images, int windows, int window,
                                  int channels, int heads, const float *bias, const float *mask,
                                  const int *mask_of, void *out, bool bf16, cudaStream_t stream)
{
    WITH_ACT(bf16, {
        attend<T> a = {};
        a.q = (const T *)qkv;
        a.k = a.q + channels;
        a.v = a.k + channels;
        a.out = (T *)out;
        a.ld_q = a.ld_kv = 3 * channels;
        a.ld_out = channels;
        a.queries = a.keys = window * window;
        a.heads = heads;
        a.head_dim = channels / heads;
        a.bias = bias;
        a.mask = mask_of ? mask : NULL;
        a.mask_of = mask_of;
        a.windows = windows;
        return attend_launch<true>(a, images * windows, stream);
    });
}
