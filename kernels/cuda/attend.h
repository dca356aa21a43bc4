/* softmax(scale q k^T + bias + mask) v: what MiT's attention and Swin's windows share.
 *
 * Three kernels of one formula. All walk the keys in tiles through shared memory and keep, per
 * query, the maximum m of the scores so far, the sum l of the weights and the output o not yet
 * divided by it; where a tile raises m, l and o shrink by 2^(m_old - m_new). The scores are never
 * in memory, and any number of keys fits. Scores are in units of log 2: a weight is 2^(s - m).
 *
 *   attend_tensor  bf16, head dimension 32 or 64: products on tensor cores (device.h's 16 x 8 x 16
 *                  tile), a warp for 16 queries, four a block; the next tile's K and V are on their
 *                  way to shared memory while this one is multiplied. l sums the weights as rounded
 *                  to bf16, so that they add up to one after the product.
 *   attend_plain   fp32, head dimension 32 or 64: a thread a query, q and o in registers.
 *   attend_any     everything else, head dimension up to 256: a warp a query.
 *
 * Blocks are tiles of queries of one head of one image (or window): image-major, then head. */
#ifndef TV3S_KERNELS_CUDA_ATTEND_H
#define TV3S_KERNELS_CUDA_ATTEND_H

#include "kernels/cuda/device.h"

#include <cuda_pipeline.h>

#define LOG2E 1.44269504088896341f

template <typename T> struct attend {
    const T *q, *k, *v;
    T *out;
    int ld_q, ld_kv, ld_out; /* elements between rows */
    int queries, keys;       /* of one image */
    int heads, head_dim;
    float scale;        /* of q k^T, times log2 e */
    const float *bias;  /* [heads][queries][keys], or NULL */
    const float *mask;  /* [..][queries][keys], or NULL; needs bias */
    const int *mask_of; /* [windows], -1 none: image i has mask_of[i % windows] */
    int windows;
};

/* One block's share: pointers to its image and head, and its first query. */
template <typename T> struct attend_block {
    const T *q, *k, *v;
    T *out;
    const float *bias, *mask; /* [queries][keys]; NULL: none */
    int first;
};

template <typename T>
__device__ __forceinline__ attend_block<T> attend_block_of(const attend<T> &a, int tile)
{
    int tiles = (a.queries + tile - 1) / tile, at = (int)blockIdx.x / tiles;
    int head = at % a.heads, image = at / a.heads;
    size_t square = (size_t)a.queries * (size_t)a.keys, column = (size_t)(head * a.head_dim);
    size_t query = (size_t)image * (size_t)a.queries, key = (size_t)image * (size_t)a.keys;
    attend_block<T> b;
    b.q = a.q + query * (size_t)a.ld_q + column;
    b.k = a.k + key * (size_t)a.ld_kv + column;
    b.v = a.v + key * (size_t)a.ld_kv + column;
    b.out = a.out + query * (size_t)a.ld_out + column;
    b.bias = a.bias ? a.bias + (size_t)head * square : NULL;
    int mask = a.mask ? a.mask_of[image % a.windows] : -1;
    b.mask = mask < 0 ? NULL : a.mask + (size_t)mask * square;
    b.first = (int)blockIdx.x % tiles * tile;
    return b;
}

/* What is added to a score, in its unit. */
template <typename T>
__device__ __forceinline__ float attend_bias(const attend<T> &a, const attend_block<T> &b,
                                             int query, int key)
{
    size_t at = (size_t)query * (size_t)a.keys + (size_t)key;
    return (b.bias[at] + (b.mask ? b.mask[at] : 0.0f)) * LOG2E;
}

/* ---- tensor cores ---- */

enum { WARPS = 4, TILE_Q = 16 * WARPS, TILE_K = 64, HALVES_PAD = 8 };

/* A tile of K and V: rows padded so that eight rows' 16 bytes lie in different banks. */
template <int HD> struct attend_tile {
    uint16_t k[TILE_K][HD + HALVES_PAD], v[TILE_K][HD + HALVES_PAD];
};

/* Begins to load the keys from `first` on; rows behind the last are zero. */
template <int HD>
__device__ __forceinline__ void attend_load(const attend<bf16_t> &a, const attend_block<bf16_t> &b,
                                            int first, attend_tile<HD> &to)
{
    enum { PIECES = HD / 8 };
    if (first < a.keys)
        for (int i = (int)threadIdx.x; i < TILE_K * PIECES; i += WARP * WARPS) {
            int key = i / PIECES, at = i % PIECES * 8, row = min(first + key, a.keys - 1);
            int zeros = first + key < a.keys ? 0 : 16;
            size_t from = (size_t)row * (size_t)a.ld_kv + (size_t)at;
            __pipeline_memcpy_async(&to.k[key][at], b.k + from, 16, zeros);
            __pipeline_memcpy_async(&to.v[key][at], b.v + from, 16, zeros);
        }
    __pipeline_commit();
}

/* Scores of the warp's 16 queries with a tile's keys, as products: s[n] for keys 8 n .. 8 n + 7. */
template <int HD>
__device__ __forceinline__ void attend_scores(const attend_tile<HD> &tile,
                                              const uint32_t q[HD / 16][4], float s[TILE_K / 8][4])
{
    int lane = (int)threadIdx.x % WARP, matrix = lane / 8;
#pragma unroll
    for (int n = 0; n < TILE_K / 8; n += 2) {
        s[n][0] = s[n][1] = s[n][2] = s[n][3] = 0;
        s[n + 1][0] = s[n + 1][1] = s[n + 1][2] = s[n + 1][3] = 0;
#pragma unroll
        for (int k = 0; k < HD / 16; k++) {
            uint32_t r[4];
            load_matrices(r, &tile.k[(n + matrix / 2) * 8 + lane % 8][k * 16 + matrix % 2 * 8]);
            mma_16x8x16(s[n], q[k], r);
            mma_16x8x16(s[n + 1], q[k], r + 2);
        }
    }
}

/* o += p v, p [16][TILE_K] in the registers that the scores came in, packed. */
template <int HD>
__device__ __forceinline__ void attend_values(const attend_tile<HD> &tile,
                                              const uint32_t p[TILE_K / 8][2], float o[HD / 8][4])
{
    int lane = (int)threadIdx.x % WARP, matrix = lane / 8;
#pragma unroll
    for (int k = 0; k < TILE_K / 16; k++) {
        uint32_t a[4] = {p[2 * k][0], p[2 * k][1], p[2 * k + 1][0], p[2 * k + 1][1]};
#pragma unroll
        for (int n = 0; n < HD / 8; n += 2) {
            uint32_t r[4];
            load_matrices_transposed(
                r, &tile.v[k * 16 + matrix % 2 * 8 + lane % 8][(n + matrix / 2) * 8]);
            mma_16x8x16(o[n], a, r);
            mma_16x8x16(o[n + 1], a, r + 2);
        }
    }
}

/* The running maximum, sum and output of a lane's two queries: rows lane / 4 and that + 8. */
template <int HD> struct attend_state {
    float m[2], l[2], o[HD / 8][4];
};

/* Products to weights: scale, bias, maximum, exponentials; l and o follow the new maximum. */
template <int HD, bool BIAS>
__device__ __forceinline__ void attend_weights(const attend<bf16_t> &a,
                                               const attend_block<bf16_t> &b, int query, int first,
                                               float s[TILE_K / 8][4], attend_state<HD> &st,
                                               uint32_t p[TILE_K / 8][2])
{
    int column = (int)threadIdx.x % 4 * 2;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        int row = min(query + 8 * r, a.queries - 1);
        float m = st.m[r];
#pragma unroll
        for (int i = 0; i < TILE_K / 4; i++) {
            int key = first + i / 2 * 8 + column + i % 2;
            float &v = s[i / 2][2 * r + i % 2];
            v *= a.scale;
            if (key >= a.keys)
                v = -INFINITY;
            else if (BIAS)
                v += attend_bias(a, b, row, key);
            m = fmaxf(m, v);
        }
        m = fmaxf(m, __shfl_xor_sync(FULL_WARP, m, 1));
        m = fmaxf(m, __shfl_xor_sync(FULL_WARP, m, 2));
        float shrink = exp2_approx(st.m[r] - m), sum = 0;
#pragma unroll
        for (int n = 0; n < TILE_K / 8; n++) {
            p[n][r] = pack_bf16(exp2_approx(s[n][2 * r] - m), exp2_approx(s[n][2 * r + 1] - m));
            sum += __uint_as_float(p[n][r] << 16) + __uint_as_float(p[n][r] & 0xffff0000u);
        }
        st.m[r] = m;
        st.l[r] = st.l[r] * shrink + sum; /* of this lane's keys */
#pragma unroll
        for (int n = 0; n < HD / 8; n++) {
            st.o[n][2 * r] *= shrink;
            st.o[n][2 * r + 1] *= shrink;
        }
    }
}

template <int HD>
__device__ __forceinline__ void attend_store(const attend<bf16_t> &a, const attend_block<bf16_t> &b,
                                             int query, attend_state<HD> &st)
{
    int column = (int)threadIdx.x % 4 * 2;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float l = st.l[r];
        l += __shfl_xor_sync(FULL_WARP, l, 1);
        l += __shfl_xor_sync(FULL_WARP, l, 2);
        if (query + 8 * r >= a.queries)
            continue;
        bf16_t *to = b.out + (size_t)(query + 8 * r) * (size_t)a.ld_out + column;
#pragma unroll
        for (int n = 0; n < HD / 8; n++)
            *reinterpret_cast<uint32_t *>(to + n * 8) =
                pack_bf16(st.o[n][2 * r] / l, st.o[n][2 * r + 1] / l);
    }
}

template <int HD, bool BIAS>
static __global__ void __launch_bounds__(WARP *WARPS) attend_tensor(attend<bf16_t> a)
{
    SHARED_BYTES(bytes);
    attend_tile<HD> *tile = reinterpret_cast<attend_tile<HD> *>(bytes); /* two */
    const attend_block<bf16_t> b = attend_block_of(a, TILE_Q);
    int lane = (int)threadIdx.x % WARP;
    int query = b.first + (int)threadIdx.x / WARP * 16 + lane / 4;

    attend_load<HD>(a, b, 0, tile[0]);
    uint32_t q[HD / 16][4];
#pragma unroll
    for (int k = 0; k < HD / 16; k++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int row = query + i % 2 * 8, at = k * 16 + lane % 4 * 2 + i / 2 * 8;
            const bf16_t *from = b.q + (size_t)row * (size_t)a.ld_q + at;
            q[k][i] = row < a.queries ? *reinterpret_cast<const uint32_t *>(from) : 0;
        }
    attend_state<HD> st = {{-INFINITY, -INFINITY}, {0, 0}, {}};
    for (int first = 0, now = 0; first < a.keys; first += TILE_K, now ^= 1) {
        float s[TILE_K / 8][4];
        uint32_t p[TILE_K / 8][2];
        attend_load<HD>(a, b, first + TILE_K, tile[now ^ 1]);
        __pipeline_wait_prior(1);
        __syncthreads();
        attend_scores<HD>(tile[now], q, s);
        attend_weights<HD, BIAS>(a, b, query, first, s, st, p);
        attend_values<HD>(tile[now], p, st.o);
        __syncthreads(); /* before the tile after next overwrites this one */
    }
    attend_store<HD>(a, b, query, st);
}

/* ---- fp32 ---- */

enum { PLAIN_Q = 128, PLAIN_K = 32, PLAIN_GROUP = 8 };

/* A thread's query against PLAIN_GROUP keys, `count` of them there. */
template <int HD, bool BIAS>
__device__ __forceinline__ void plain_group(const attend<float> &a, const attend_block<float> &b,
                                            int query, int key, int count, const float (*k)[HD],
                                            const float (*v)[HD], const float q[HD], float o[HD],
                                            float &m, float &l)
{
    float s[PLAIN_GROUP], top = m;
#pragma unroll
    for (int j = 0; j < PLAIN_GROUP; j++) {
        s[j] = -INFINITY;
        if (j >= count)
            continue;
        float sum[4] = {0, 0, 0, 0};
#pragma unroll
        for (int i = 0; i < HD; i += 4) {
            float4 f = load4(&k[j][i]);
            sum[0] = fmaf(q[i], f.x, sum[0]);
            sum[1] = fmaf(q[i + 1], f.y, sum[1]);
            sum[2] = fmaf(q[i + 2], f.z, sum[2]);
            sum[3] = fmaf(q[i + 3], f.w, sum[3]);
        }
        s[j] = (sum[0] + sum[1]) + (sum[2] + sum[3]);
        if (BIAS)
            s[j] += attend_bias(a, b, query, key + j);
        top = fmaxf(top, s[j]);
    }
    float shrink = exp2_approx(m - top);
    m = top;
    l *= shrink;
#pragma unroll
    for (int i = 0; i < HD; i++)
        o[i] *= shrink;
#pragma unroll
    for (int j = 0; j < PLAIN_GROUP; j++) {
        if (j >= count)
            continue;
        float p = exp2_approx(s[j] - m);
        l += p;
#pragma unroll
        for (int i = 0; i < HD; i += 4) {
            float4 f = load4(&v[j][i]);
            o[i] = fmaf(p, f.x, o[i]);
            o[i + 1] = fmaf(p, f.y, o[i + 1]);
            o[i + 2] = fmaf(p, f.z, o[i + 2]);
            o[i + 3] = fmaf(p, f.w, o[i + 3]);
        }
    }
}

template <int HD, bool BIAS>
static __global__ void __launch_bounds__(PLAIN_Q) attend_plain(attend<float> a)
{
    __shared__ __align__(16) float k[PLAIN_K][HD], v[PLAIN_K][HD];
    const attend_block<float> b = attend_block_of(a, PLAIN_Q);
    int mine = b.first + (int)threadIdx.x, query = min(mine, a.queries - 1);
    float q[HD], o[HD], m = -INFINITY, l = 0;
#pragma unroll
    for (int i = 0; i < HD; i++) {
        q[i] = b.q[(size_t)query * (size_t)a.ld_q + i] * a.scale;
        o[i] = 0;
    }
    for (int first = 0; first < a.keys; first += PLAIN_K) {
        int n = min((int)PLAIN_K, a.keys - first);
        for (int i = (int)threadIdx.x; i < n * HD; i += PLAIN_Q) {
            size_t from = (size_t)(first + i / HD) * (size_t)a.ld_kv + (size_t)(i % HD);
            k[i / HD][i % HD] = b.k[from];
            v[i / HD][i % HD] = b.v[from];
        }
        __syncthreads();
        for (int j = 0; j < n; j += PLAIN_GROUP)
            plain_group<HD, BIAS>(a, b, query, first + j, n - j, k + j, v + j, q, o, m, l);
        __syncthreads();
    }
    if (mine < a.queries)
#pragma unroll
        for (int i = 0; i < HD; i++)
            b.out[(size_t)mine * (size_t)a.ld_out + i] = o[i] / l;
}

/* ---- any head dimension ---- */

enum { ANY_Q = 8, ANY_MAX = 256 / WARP };

/* A warp a query; a lane has every 32nd element. */
template <bool BIAS, typename T>
static __global__ void __launch_bounds__(WARP *ANY_Q) attend_any(attend<T> a)
{
    const attend_block<T> b = attend_block_of(a, ANY_Q);
    int lane = (int)threadIdx.x % WARP, query = b.first + (int)threadIdx.x / WARP;
    float q[ANY_MAX], o[ANY_MAX], m = -INFINITY, l = 0;
    if (query >= a.queries)
        return; /* the whole warp */
#pragma unroll
    for (int i = 0; i < ANY_MAX; i++) {
        int at = lane + i * WARP;
        q[i] = at < a.head_dim ? to_f32(b.q[(size_t)query * (size_t)a.ld_q + at]) * a.scale : 0.0f;
        o[i] = 0;
    }
    for (int key = 0; key < a.keys; key++) {
        size_t row = (size_t)key * (size_t)a.ld_kv;
        float sum = 0;
#pragma unroll
        for (int i = 0; i < ANY_MAX; i++)
            if (lane + i * WARP < a.head_dim)
                sum = fmaf(q[i], to_f32(b.k[row + lane + i * WARP]), sum);
        float s = warp_sum(sum) + (BIAS ? attend_bias(a, b, query, key) : 0.0f);
        float top = fmaxf(m, s), shrink = exp2_approx(m - top), p = exp2_approx(s - top);
        m = top;
        l = l * shrink + p;
#pragma unroll
        for (int i = 0; i < ANY_MAX; i++)
            if (lane + i * WARP < a.head_dim)
                o[i] = fmaf(p, to_f32(b.v[row + lane + i * WARP]), o[i] * shrink);
    }
#pragma unroll
    for (int i = 0; i < ANY_MAX; i++)
        if (lane + i * WARP < a.head_dim)
            b.out[(size_t)query * (size_t)a.ld_out + lane + i * WARP] = from_f32<T>(o[i] / l);
}

/* ---- launch ---- */

template <bool BIAS>
static bool attend_fast(const attend<bf16_t> &a, size_t heads, cudaStream_t stream)
{
    unsigned blocks = blocks_of((size_t)a.queries, TILE_Q) * (unsigned)heads;
    if (((uintptr_t)a.q | (uintptr_t)a.k | (uintptr_t)a.v | (uintptr_t)a.out) % 16)
        return false; /* rows are a multiple of 32 elements long */
    if (a.head_dim == 32)
        LAUNCH((attend_tensor<32, BIAS>), blocks, WARP * WARPS, 2 * sizeof(attend_tile<32>), stream,
               a);
    else if (a.head_dim == 64)
        LAUNCH((attend_tensor<64, BIAS>), blocks, WARP * WARPS, 2 * sizeof(attend_tile<64>), stream,
               a);
    return a.head_dim == 32 || a.head_dim == 64;
}

template <bool BIAS>
static bool attend_fast(const attend<float> &a, size_t heads, cudaStream_t stream)
{
    unsigned blocks = blocks_of((size_t)a.queries, PLAIN_Q) * (unsigned)heads;
    if (a.head_dim == 32)
        LAUNCH((attend_plain<32, BIAS>), blocks, PLAIN_Q, 0, stream, a);
    else if (a.head_dim == 64)
        LAUNCH((attend_plain<64, BIAS>), blocks, PLAIN_Q, 0, stream, a);
    return a.head_dim == 32 || a.head_dim == 64;
}

template <bool BIAS, typename T>
static cudaError_t attend_launch(attend<T> a, int images, cudaStream_t stream)
{
    size_t heads = (size_t)images * (size_t)a.heads;
    a.scale = LOG2E / sqrtf((float)a.head_dim);
    if (a.head_dim > ANY_MAX * WARP)
        return cudaErrorInvalidValue;
    if (!attend_fast<BIAS>(a, heads, stream))
        LAUNCH((attend_any<BIAS, T>), blocks_of((size_t)a.queries, ANY_Q) * (unsigned)heads,
               WARP * ANY_Q, 0, stream, a);
    return cudaGetLastError();
}

#endif
