/* Depthwise 3x3 convolution with zero padding, bias and exact GELU, channels-last.
 *
 *   out[y, x, c] = GELU(bias[c] + sum_{j, i} weight[3 j + i][c] * in[y + j - 1, x + i - 1, c])
 *
 * in, out: [images][h][w][c], c = 4 times the stage's channels (256 to 2048). In memory it is one
 * read and one write: MiT-B1's stage 1 at 864x480 in bf16, 26.5 MB in all, 7.9 us at the 3.35 TB/s
 * of an H100; the eight of a frame 103 MB, 31 us. The arithmetic is as much: 9 multiply-adds, an
 * erf and conversions are some 38 operations a value, 7.5 us for stage 1's 6.6 M values at the
 * card's 33.5 T a second. Both want every input loaded and converted about once.
 *
 * A thread owns four channels of one output row and slides along STRIP columns: every step loads
 * the three inputs of a new column and adds them to the three outputs that they touch, so an input
 * is loaded three times in all, once a row. A block is 32 neighbouring such threads (one warp reads
 * 256 bytes of bf16) by eight neighbouring rows: two of the three loads hit the first-level cache.
 *
 * nvcc 13.0, sm_80: 76 registers at most, nothing spilled.
 * Measured: not yet. */
#include "kernels/cuda/channels.h"

enum { STRIP = 16, LANES = 32, ROWS = 8 };

template <int V, typename T> __device__ __forceinline__ void store_gelu(T *p, channels<V> r)
{
    if (V == 4)
        store4(p, make_float4(gelu(r.v[0]), gelu(r.v[1 % V]), gelu(r.v[2 % V]), gelu(r.v[3 % V])));
    else
        *p = from_f32<T>(gelu(r.v[0]));
}

template <int V>
__device__ __forceinline__ void add(channels<V> &sum, const channels<V> &w, const channels<V> &in)
{
#pragma unroll
    for (int i = 0; i < V; i++)
        sum.v[i] = fmaf(w.v[i], in.v[i], sum.v[i]);
}

/* grid: x = image * strips + strip, y = rows / ROWS, z = channels / (V * LANES) */
template <int V, typename T>
static __global__ void __launch_bounds__(LANES *ROWS)
    dwconv_kernel(const T *in, int strips, int h, int w, int c, const float *weight,
                  const float *bias, T *out)
{
    int ch = V * (int)(blockIdx.z * LANES + threadIdx.x),
        y = (int)(blockIdx.y * ROWS + threadIdx.y);
    int x0 = (int)(blockIdx.x % (unsigned)strips) * STRIP, x1 = min(x0 + STRIP, w);
    if (ch >= c || y >= h)
        return;
    size_t image = (size_t)(blockIdx.x / (unsigned)strips) * (size_t)h * (size_t)w * (size_t)c;
    size_t line = (size_t)w * (size_t)c;
    in += image + (size_t)y * line + (size_t)ch;
    out += image + (size_t)y * line + (size_t)ch;

    channels<V> k[9], b = load<V>(bias + ch);
#pragma unroll
    for (int i = 0; i < 9; i++)
        k[i] = load<V>(weight + (size_t)i * (size_t)c + ch);
    channels<V> left = b, centre = b; /* outputs x - 1 and x, so far */
    for (int x = max(x0 - 1, 0); x <= min(x1, w - 1); x++) {
        channels<V> right = b;
#pragma unroll
        for (int j = 0; j < 3; j++) {
            if (y + j - 1 < 0 || y + j - 1 >= h)
                continue;
            channels<V> v =
                load<V>(in + (ptrdiff_t)(j - 1) * (ptrdiff_t)line + (size_t)x * (size_t)c);
            add(left, k[3 * j + 2], v);
            add(centre, k[3 * j + 1], v);
            add(right, k[3 * j], v);
        }
        if (x > x0)
            store_gelu<V>(out + (size_t)(x - 1) * (size_t)c, left);
        left = centre;
        centre = right;
    }
    if (x1 == w)
        store_gelu<V>(out + (size_t)(w - 1) * (size_t)c, left);
}

template <int V, typename T>
static void launch(const T *in, int images, int h, int w, int c, const float *weight,
                   const float *bias, T *out, cudaStream_t stream)
{
    unsigned strips = blocks_of((size_t)w, STRIP);
    dim3 grid((unsigned)images * strips, blocks_of((size_t)h, ROWS),
              blocks_of((size_t)c, V * LANES));
    LAUNCH((dwconv_kernel<V, T>), grid, dim3(LANES, ROWS), 0, stream, in, (int)strips, h, w, c,
           weight, bias, out);
}

cudaError_t cuda_dwconv_gelu(const void *x, int images, int h, int w, int c, const float *weight,
                             const float *bias, void *out, bool bf16, cudaStream_t stream)
{
    size_t n = (size_t)c;
    WITH_ACT(bf16, {
        const T *in = (const T *)x;
        T *to = (T *)out;
        if (aligned4(in, n) && aligned4(to, n) && aligned4(weight, n) && aligned4(bias, n))
            launch<4>(in, images, h, w, c, weight, bias, to, stream);
        else
            launch<1>(in, images, h, w, c, weight, bias, to, stream);
    });
    return cudaGetLastError();
}
