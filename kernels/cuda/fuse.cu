/* Fuse: four projected maps resized to the first one's size, summed, shifted, rectified; then, for
 * the TV3S head, resized again to the grid (MODEL.md 3.1 folded, and 3.2). One pass.
 *
 *   f[y, x] = ReLU(g0[y, x] + sum_{i = 1..3} resize(g_i)[y, x] + bias)       [h1, w1, e]
 *   grid[y, x] = resize(f)[y, x]                                             [h, w', e]
 *
 * The ReLU is between the two resizes, so they do not compose; but f is the head's largest map and
 * the grid needs each of its values about once, so f is not stored: a thread makes one grid
 * position of four channels from the (up to four) values of f that it needs, each from 1 + 3 * 4
 * inputs. The small maps' inputs come from the first-level cache, neighbouring threads being
 * neighbouring channels: a position is 64 threads at e = 256, and index and weights are the same in
 * all of them.
 *
 * 480p in bf16: 17.6 MB of maps in, 7.4 MB of fp32 grid out, 7.5 us at the 3.35 TB/s of an H100. Of
 * cached loads there are 52 a thread, 192 MB in all, and some 0.2 G lane operations a map value,
 * each as long again: if it is slower than twice its floor, this is why.
 *
 * nvcc 13.0, sm_80: 48 registers in bf16 to the grid, 64 bytes spilled.
 * Measured: not yet. */
#include "kernels/cuda/device.h"

enum { BLOCK = 256 };

template <typename T> struct fuse {
    const T *g[4];
    cuda_axis rows[4], cols[4], grid_rows, grid_cols;
    const float *bias;
    int e, groups; /* groups of V channels */
};

template <int V> struct channels {
    float v[V];
};

template <int V, typename T>
__device__ __forceinline__ void add(channels<V> &sum, float weight, const T *p)
{
    if (V == 4) {
        float4 f = load4(p);
        sum.v[0] = fmaf(weight, f.x, sum.v[0]);
        sum.v[1 % V] = fmaf(weight, f.y, sum.v[1 % V]);
        sum.v[2 % V] = fmaf(weight, f.z, sum.v[2 % V]);
        sum.v[3 % V] = fmaf(weight, f.w, sum.v[3 % V]);
    } else {
        sum.v[0] = fmaf(weight, to_f32(*p), sum.v[0]);
    }
}

template <int V, typename T> __device__ __forceinline__ void store(T *p, const channels<V> &v)
{
    if (V == 4)
        store4(p, make_float4(v.v[0], v.v[1 % V], v.v[2 % V], v.v[3 % V]));
    else
        *p = from_f32<T>(v.v[0]);
}

/* Channels ch.. of f at (y, x). Rows before columns, as on the CPU. */
template <int V, typename T>
__device__ __forceinline__ channels<V> f_at(const fuse<T> &k, int y, int x, int ch)
{
    channels<V> sum = {};
    add(sum, 1.0f, k.bias + ch);
    add(sum, 1.0f, k.g[0] + ((size_t)y * (size_t)k.cols[0].src + (size_t)x) * (size_t)k.e + ch);
#pragma unroll
    for (int i = 1; i < 4; i++) {
        const cuda_axis &row = k.rows[i], &col = k.cols[i];
        const T *from =
            k.g[i] + (size_t)ch +
            ((size_t)row.index[y] * (size_t)col.src + (size_t)col.index[x]) * (size_t)k.e;
        for (int t = 0; t < col.taps; t++) {
            channels<V> mixed = {};
            for (int s = 0; s < row.taps; s++)
                add(mixed, row.weight[y * row.taps + s],
                    from + ((size_t)s * (size_t)col.src + (size_t)t) * (size_t)k.e);
#pragma unroll
            for (int v = 0; v < V; v++)
                sum.v[v] = fmaf(col.weight[x * col.taps + t], mixed.v[v], sum.v[v]);
        }
    }
#pragma unroll
    for (int v = 0; v < V; v++)
        sum.v[v] = fmaxf(sum.v[v], 0.0f);
    return sum;
}

/* A thread for V channels of one position of f. */
template <int V, typename T>
static __global__ void __launch_bounds__(BLOCK) fuse_kernel(fuse<T> k, T *out)
{
    unsigned i = blockIdx.x * BLOCK + threadIdx.x, at = i / (unsigned)k.groups;
    int ch = V * (int)(i % (unsigned)k.groups), width = k.cols[0].dst;
    if (at >= (unsigned)k.rows[0].dst * (unsigned)width)
        return;
    channels<V> f = f_at<V>(k, (int)(at / (unsigned)width), (int)(at % (unsigned)width), ch);
    store(out + (size_t)at * (size_t)k.e + ch, f);
}

/* A thread for V channels of one grid position. */
template <int V, typename T>
static __global__ void __launch_bounds__(BLOCK) fuse_grid_kernel(fuse<T> k, float *out)
{
    unsigned i = blockIdx.x * BLOCK + threadIdx.x, at = i / (unsigned)k.groups;
    const cuda_axis &row = k.grid_rows, &col = k.grid_cols;
    int ch = V * (int)(i % (unsigned)k.groups);
    if (at >= (unsigned)row.dst * (unsigned)col.dst)
        return;
    int y = (int)(at / (unsigned)col.dst), x = (int)(at % (unsigned)col.dst);
    channels<V> grid = {};
    for (int s = 0; s < row.taps; s++) {
        channels<V> line = {};
        for (int t = 0; t < col.taps; t++) {
            channels<V> f = f_at<V>(k, row.index[y] + s, col.index[x] + t, ch);
#pragma unroll
            for (int v = 0; v < V; v++)
                line.v[v] = fmaf(col.weight[x * col.taps + t], f.v[v], line.v[v]);
        }
#pragma unroll
        for (int v = 0; v < V; v++)
            grid.v[v] = fmaf(row.weight[y * row.taps + s], line.v[v], grid.v[v]);
    }
    store(out + (size_t)at * (size_t)k.e + ch, grid);
}

template <int V, typename T>
static cudaError_t launch(fuse<T> k, bool grid, void *out, cudaStream_t stream)
{
    const cuda_axis &rows = grid ? k.grid_rows : k.rows[0], &cols = grid ? k.grid_cols : k.cols[0];
    k.groups = (k.e + V - 1) / V;
    size_t threads = (size_t)rows.dst * (size_t)cols.dst * (size_t)k.groups;
    unsigned blocks = blocks_of(threads, BLOCK);
    if (threads > UINT32_MAX - BLOCK)
        return cudaErrorInvalidValue; /* 64-bit divisions cost more than such maps are worth */
    if (grid)
        LAUNCH((fuse_grid_kernel<V, T>), blocks, BLOCK, 0, stream, k, (float *)out);
    else
        LAUNCH((fuse_kernel<V, T>), blocks, BLOCK, 0, stream, k, (T *)out);
    return cudaGetLastError();
}

cudaError_t cuda_fuse(const void *const g[4], const cuda_axis rows[4], const cuda_axis cols[4],
                      int e, const float *bias, const cuda_axis *grid_rows,
                      const cuda_axis *grid_cols, void *out, bool bf16, cudaStream_t stream)
{
    WITH_ACT(bf16, {
        fuse<T> k = {};
        bool grid = grid_rows != NULL, wide = aligned4(bias, (size_t)e);
        for (int i = 0; i < 4; i++) {
            k.g[i] = (const T *)g[i];
            k.rows[i] = rows[i];
            k.cols[i] = cols[i];
            wide = wide && aligned4(k.g[i], (size_t)e);
        }
        if (grid) {
            k.grid_rows = *grid_rows;
            k.grid_cols = *grid_cols;
        }
        wide = wide && (grid ? aligned4((float *)out, (size_t)e) : aligned4((T *)out, (size_t)e));
        k.bias = bias;
        k.e = e;
        return wide ? launch<4>(k, grid, out, stream) : launch<1>(k, grid, out, stream);
    });
}
