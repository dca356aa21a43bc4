/* RMSNorm of the head's residual rows.
 *
 *   out = x / sqrt(mean(x^2) + eps) * weight        x fp32 [rows][c], out act
 *
 * c = E = 256. Bound by memory: rows * c * (4 + 2) bytes in bf16. A 480p frame has 7,200 rows and
 * nine norms, 11.1 MB each: 3.3 us, 30 us a frame, at the 3.35 TB/s of an H100. The residual
 * addition is not here but in the product before (LINEAR_ADD_F32): x is r already, and rows stay in
 * the grid's order because the scan finds its windows by a table.
 *
 * Measured: not yet. */
#include "kernels/cuda/row.h"

template <int LANES, int PER, typename T>
static __global__ void __launch_bounds__(ROW_BLOCK)
    rmsnorm_row(const float *x, size_t rows, int c, const float *weight, float eps, T *out)
{
    size_t at = ((size_t)blockIdx.x * ROW_BLOCK + threadIdx.x) / LANES;
    bool there = at < rows;
    row<LANES, PER> r = row_load<LANES, PER>(x + at * (size_t)c, c, there);
    float square = 0;
#pragma unroll
    for (int i = 0; i < PER; i++)
        square += (r.v[i].x * r.v[i].x + r.v[i].y * r.v[i].y) +
                  (r.v[i].z * r.v[i].z + r.v[i].w * r.v[i].w);
    float scale = 1.0f / sqrtf(row_sum<LANES>(square) / (float)c + eps);
#pragma unroll
    for (int i = 0; i < PER; i++) {
        int ch = 4 * (row_lane<LANES>() + i * LANES);
        if (!there || ch >= c)
            continue;
        float4 v = r.v[i], w = load4(weight + ch);
        store4(out + at * (size_t)c + ch, make_float4(v.x * scale * w.x, v.y * scale * w.y,
                                                      v.z * scale * w.z, v.w * scale * w.w));
    }
}

/* One warp a row, any c, any alignment. */
template <typename T>
static __global__ void __launch_bounds__(ROW_BLOCK)
    rmsnorm_any(const float *x, size_t rows, int c, const float *weight, float eps, T *out)
{
    size_t at = ((size_t)blockIdx.x * ROW_BLOCK + threadIdx.x) / WARP;
    if (at >= rows)
        return; /* the whole warp */
    float square = 0;
    for (int i = row_lane<WARP>(); i < c; i += WARP)
        square += x[at * (size_t)c + i] * x[at * (size_t)c + i];
    float scale = 1.0f / sqrtf(warp_sum(square) / (float)c + eps);
    for (int i = row_lane<WARP>(); i < c; i += WARP)
        out[at * (size_t)c + i] = from_f32<T>(x[at * (size_t)c + i] * scale * weight[i]);
}

template <typename T>
static void launch(const float *x, size_t rows, int c, const float *weight, float eps, T *out,
                   cudaStream_t stream)
{
#define LAUNCH_ROW(LANES, PER)                                                                     \
    LAUNCH((rmsnorm_row<LANES, PER, T>), blocks_of(rows, ROW_BLOCK / LANES), ROW_BLOCK, 0, stream, \
           x, rows, c, weight, eps, out)
    if (c <= 4 * WARP * ROW_MAX_PER && aligned4(x, (size_t)c) && aligned4(out, (size_t)c) &&
        aligned4(weight, (size_t)c))
        WITH_ROW(c, LAUNCH_ROW);
    else
        LAUNCH((rmsnorm_any<T>), blocks_of(rows, ROW_BLOCK / WARP), ROW_BLOCK, 0, stream, x, rows,
               c, weight, eps, out);
#undef LAUNCH_ROW
}

cudaError_t cuda_rmsnorm(const float *x, size_t rows, int c, const float *weight, float eps,
                         void *out, bool bf16, cudaStream_t stream)
{
    WITH_ACT(bf16, launch(x, rows, c, weight, eps, (T *)out, stream));
    return cudaGetLastError();
}
