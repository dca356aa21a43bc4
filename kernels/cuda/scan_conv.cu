/* Causal depthwise convolution along every window's token order, and SiLU (MODEL.md 3.3).
 *
 *   b_t = SiLU(bias + sum_{j < k} weight[j] * a_{t - k + 1 + j}),   a_{-1}, a_{-2}, ... = tail
 *   tail = the last k - 1 values of a                               [k - 1][D], oldest first
 *
 * a is the first half of xz's rows, b [row][D]; windows are rectangles of the grid, found by a
 * table. Bound by memory: D * 4 bytes a token in bf16, 14.7 MB a layer of a 480p frame, 4.4 us at
 * the 3.35 TB/s of an H100, 35 us a frame; a layer's operands of one stream fit the second-level
 * cache (50 MB), where in_proj has just put them. Tails are 3 D floats in and out a window, 2 % of
 * that.
 *
 * A thread owns V channels and a segment of SEGMENT tokens, whose k - 1 forerunners it loads first:
 * in registers for k = 4, from the cache again for each output otherwise. Segments of a window are
 * in different threads and blocks, but only that of token 0 reads the tail (SEGMENT >= k - 1), and
 * it is the one that writes it afterwards: nothing races.
 *
 * Measured: not yet. */
#include "kernels/cuda/channels.h"
#include "kernels/cuda/window.h"

enum { SEGMENT = 16, LANES = 32, SEGMENTS = 8, SPREAD = 4, MAX_TAPS = SEGMENT + 1 };

template <int V, typename T> __device__ __forceinline__ void store(T *p, const channels<V> &r)
{
    if (V == 4)
        store4(p, make_float4(r.v[0], r.v[1 % V], r.v[2 % V], r.v[3 % V]));
    else
        *p = from_f32<T>(r.v[0]);
}

template <int V>
__device__ __forceinline__ void add(channels<V> &sum, const channels<V> &w, const channels<V> &in)
{
#pragma unroll
    for (int i = 0; i < V; i++)
        sum.v[i] = fmaf(w.v[i], in.v[i], sum.v[i]);
}

template <int V, typename T>
__device__ __forceinline__ void store_silu(T *p, const channels<V> &sum)
{
    channels<V> r;
#pragma unroll
    for (int i = 0; i < V; i++)
        r.v[i] = silu(sum.v[i]);
    store(p, r);
}

/* a at token t of a window, t >= -(k - 1); a: the first channel of row 0, D: channels. */
template <int V, typename T>
__device__ __forceinline__ channels<V> input(const struct scan_window &win, const T *a, int d,
                                             int k, int ch, int t)
{
    if (t < 0)
        return load<V>(win.tail + (size_t)(k - 1 + t) * (size_t)d + ch);
    return load<V>(a + window_row(win, t) * 2 * (size_t)d);
}

/* Outputs of tokens begin..end - 1. K: 4, or 0 for any k. */
template <int K, int V, typename T>
__device__ __forceinline__ void segment(const struct scan_weights &w, const struct scan_window &win,
                                        const T *a, T *b, int ch, int begin, int end)
{
    int d = w.inner, k = K ? K : w.conv;
    channels<V> bias = load<V>(w.conv_b + ch), weight[K ? K : 1], last[K ? K : 1];
    for (int j = 0; j < K; j++)
        weight[j] = load<V>(w.conv_w + (size_t)j * (size_t)d + ch);
    for (int j = 0; j < K - 1; j++)
        last[j] = input<V>(win, a, d, k, ch, begin - k + 1 + j);
    struct window_walk at = window_from(win, begin);
#pragma unroll(K ? 4 : 1)
    for (int t = begin; t < end; t++, window_next(win, at)) {
        channels<V> sum = bias;
        if (K) {
            last[K - 1] = load<V>(a + at.row * 2 * (size_t)d);
#pragma unroll
            for (int j = 0; j < K; j++)
                add(sum, weight[j], last[j]);
#pragma unroll
            for (int j = 0; j < K - 1; j++)
                last[j] = last[j + 1];
        } else {
            for (int j = 0; j < k; j++)
                add(sum, load<V>(w.conv_w + (size_t)j * (size_t)d + ch),
                    input<V>(win, a, d, k, ch, t - k + 1 + j));
        }
        store_silu<V>(b + at.row * (size_t)d, sum);
    }
}

/* grid: window, channels / (V * LANES), SPREAD; block: LANES x SEGMENTS */
template <int K, int V, typename T>
static __global__ void __launch_bounds__(LANES *SEGMENTS)
    scan_conv_kernel(struct scan_weights w, cuda_windows windows, const T *xz, T *b)
{
    const struct scan_window win = windows[blockIdx.x];
    int ch = V * (int)(blockIdx.y * LANES + threadIdx.x), tokens = win.h * win.w, d = w.inner;
    int first = (int)(blockIdx.z * SEGMENTS + threadIdx.y) * SEGMENT;
    if (ch >= d)
        return;
    for (int t = first; t < tokens; t += SPREAD * SEGMENTS * SEGMENT)
        segment<K, V>(w, win, xz + ch, b + ch, ch, t, min(t + SEGMENT, tokens));
    if (first != 0)
        return;
    /* A window of fewer tokens than k - 1 keeps the end of its old tail: moved towards its start.
     */
    for (int j = 0; j < w.conv - 1; j++)
        store(win.tail + (size_t)j * (size_t)d + ch,
              input<V>(win, xz + ch, d, w.conv, ch, tokens - w.conv + 1 + j));
}

template <int V, typename T>
static void launch(const struct scan_weights *w, cuda_windows windows, int count, const T *xz, T *b,
                   cudaStream_t stream)
{
    dim3 grid((unsigned)count, blocks_of((size_t)w->inner, V * LANES), SPREAD);
    dim3 block(LANES, SEGMENTS);
    if (w->conv == 4)
        LAUNCH((scan_conv_kernel<4, V, T>), grid, block, 0, stream, *w, windows, xz, b);
    else
        LAUNCH((scan_conv_kernel<0, V, T>), grid, block, 0, stream, *w, windows, xz, b);
}

cudaError_t cuda_scan_conv(const struct scan_weights *w, cuda_windows windows, int count,
                           const void *xz, void *b, bool bf16, cudaStream_t stream)
{
    size_t d = (size_t)w->inner;
    if (w->conv > MAX_TAPS)
        return cudaErrorInvalidValue;
    WITH_ACT(bf16, {
        const T *in = (const T *)xz;
        T *out = (T *)b;
        /* tails are not looked at: they lie at multiples of D floats like the weights */
        if (aligned4(in, d) && aligned4(out, d) && aligned4(w->conv_w, d) && aligned4(w->conv_b, d))
            launch<4>(w, windows, count, in, out, stream);
        else
            launch<1>(w, windows, count, in, out, stream);
    });
    return cudaGetLastError();
}
