/* LayerNorm over the channels of every token.
 *
 *   out = (x - mean) / sqrt(mean((x - mean)^2) + eps) * gamma + beta        [rows][c]
 *
 * x is the encoder's fp32 residual stream or an activation, out an activation or fp32; c is 32 to
 * 512, 2048 where Swin merges patches. Bound by memory: each row is read and written once, rows * c
 * * (4 + 2) bytes from the residual stream to bf16. MiT-B1 at 864x480: stage 1 has 25,920 rows of
 * 64, 10.0 MB a norm, 3.0 us at the 3.35 TB/s of an H100; the 30 norms of a frame 124 MB, 37 us.
 * The variance is that of the differences, from registers: no cancellation.
 *
 * Rows of up to 1024 channels whose addresses allow it are held in registers (row.h); other rows
 * are read three times by one warp, from the caches.
 *
 * Measured: not yet. */
#include "kernels/cuda/row.h"

template <int LANES, int PER, typename In, typename Out>
static __global__ void __launch_bounds__(ROW_BLOCK)
    layernorm_row(const In *x, size_t rows, int c, const float *gamma, const float *beta, float eps,
                  Out *out)
{
    size_t at = ((size_t)blockIdx.x * ROW_BLOCK + threadIdx.x) / LANES;
    bool there = at < rows;
    row<LANES, PER> r = row_load<LANES, PER>(x + at * (size_t)c, c, there);
    float sum = 0;
#pragma unroll
    for (int i = 0; i < PER; i++)
        sum += (r.v[i].x + r.v[i].y) + (r.v[i].z + r.v[i].w);
    float mean = row_sum<LANES>(sum) / (float)c, square = 0;
#pragma unroll
    for (int i = 0; i < PER; i++) {
        if (4 * (row_lane<LANES>() + i * LANES) >= c)
            continue;
        float4 &v = r.v[i];
        v = make_float4(v.x - mean, v.y - mean, v.z - mean, v.w - mean);
        square += (v.x * v.x + v.y * v.y) + (v.z * v.z + v.w * v.w);
    }
    float scale = 1.0f / sqrtf(row_sum<LANES>(square) / (float)c + eps);
#pragma unroll
    for (int i = 0; i < PER; i++) {
        int ch = 4 * (row_lane<LANES>() + i * LANES);
        if (!there || ch >= c)
            continue;
        float4 v = r.v[i], g = load4(gamma + ch), b = load4(beta + ch);
        store4(out + at * (size_t)c + ch,
               make_float4(v.x * scale * g.x + b.x, v.y * scale * g.y + b.y,
                           v.z * scale * g.z + b.z, v.w * scale * g.w + b.w));
    }
}

/* One warp a row, any c, any alignment. */
template <typename In, typename Out>
static __global__ void __launch_bounds__(ROW_BLOCK)
    layernorm_any(const In *x, size_t rows, int c, const float *gamma, const float *beta, float eps,
                  Out *out)
{
    size_t at = ((size_t)blockIdx.x * ROW_BLOCK + threadIdx.x) / WARP;
    if (at >= rows)
        return; /* the whole warp */
    x += at * (size_t)c;
    out += at * (size_t)c;
    float sum = 0, square = 0;
    for (int i = row_lane<WARP>(); i < c; i += WARP)
        sum += to_f32(x[i]);
    float mean = warp_sum(sum) / (float)c;
    for (int i = row_lane<WARP>(); i < c; i += WARP)
        square += (to_f32(x[i]) - mean) * (to_f32(x[i]) - mean);
    float scale = 1.0f / sqrtf(warp_sum(square) / (float)c + eps);
    for (int i = row_lane<WARP>(); i < c; i += WARP)
        out[i] = from_f32<Out>((to_f32(x[i]) - mean) * scale * gamma[i] + beta[i]);
}

template <typename In, typename Out>
static void launch(const In *x, size_t rows, int c, const float *gamma, const float *beta,
                   float eps, Out *out, cudaStream_t stream)
{
#define LAUNCH_ROW(LANES, PER)                                                                     \
    LAUNCH((layernorm_row<LANES, PER, In, Out>), blocks_of(rows, ROW_BLOCK / LANES), ROW_BLOCK, 0, \
           stream, x, rows, c, gamma, beta, eps, out)
    if (c <= 4 * WARP * ROW_MAX_PER && aligned4(x, (size_t)c) && aligned4(out, (size_t)c) &&
        aligned4(gamma, (size_t)c) && aligned4(beta, (size_t)c))
        WITH_ROW(c, LAUNCH_ROW);
    else
        LAUNCH((layernorm_any<In, Out>), blocks_of(rows, ROW_BLOCK / WARP), ROW_BLOCK, 0, stream, x,
               rows, c, gamma, beta, eps, out);
#undef LAUNCH_ROW
}

cudaError_t cuda_layernorm(const void *x, bool x_bf16, size_t rows, int c, const float *gamma,
                           const float *beta, float eps, void *out, bool out_bf16,
                           cudaStream_t stream)
{
    if (x_bf16)
        WITH_ACT(out_bf16, launch((const bf16_t *)x, rows, c, gamma, beta, eps, (T *)out, stream));
    else
        WITH_ACT(out_bf16, launch((const float *)x, rows, c, gamma, beta, eps, (T *)out, stream));
    return cudaGetLastError();
}
