/* Attention of MiT, with few keys (spatial reduction) and many queries.
 *
 *   out = softmax(q k^T / sqrt(d)) v, head by head      q, out [queries][C], kv [keys][2C]
 *
 * attend.h has the kernels. At 864x480 every stage has 405 keys: stage 1's K and V of its one head
 * (d = 64) are 104 KB, seven tiles, read by 405 blocks of 64 queries from the second-level cache.
 *
 * Floors on an H100, a layer of MiT-B1's stage 1 in bf16: 6.7 MB in and out, 2.0 us at 3.35
 * TB/s; 2.7 GFLOP, 2.7 us at 989 TFLOP/s; 10.5 M exponentials, 2.5 us at 16 a cycle and
 * multiprocessor. The eight layers of a frame: 26 MB, 10.4 GFLOP, 41 M exponentials, 11 us of
 * matrix products and as long of exponentials.
 *
 * nvcc 13.0, sm_80 and sm_90: 130 and 140 registers at d = 64, 105 and 128 at 32, nothing spilled.
 * Measured: not yet. */
#include "kernels/cuda/attend.h"

cudaError_t cuda_attention(const void *q, const void *kv, int images, int queries, int keys,
                           int channels, int heads, void *out, bool bf16, cudaStream_t stream)
{
    WITH_ACT(bf16, {
        attend<T> a = {};
        a.q = (const T *)q;
        a.k = (const T *)kv;
        a.v = (const T *)kv + channels;
        a.out = (T *)out;
        a.ld_q = a.ld_out = channels;
        a.ld_kv = 2 * channels;
        a.queries = queries;
        a.keys = keys;
        a.heads = heads;
        a.head_dim = channels / heads;
        return attend_launch<false>(a, images, stream);
    });
}
