/* What kernel sources share. C++, for .cu files only; kernels.h says how the two builds differ. */
#ifndef TV3S_KERNELS_CUDA_DEVICE_H
#define TV3S_KERNELS_CUDA_DEVICE_H

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include "kernels/cuda/kernels.h"

typedef __nv_bfloat16 bf16_t;

#ifdef __CUDACC__
/* LAUNCH(kernel or (kernel<T, 4>), grid, block, shared bytes, stream, arguments...). The stand-in
 * has its own, a loop over the grid. (clang-format takes <<< apart.) */
/* clang-format off */
#define LAUNCH(kernel, grid, block, shared, stream, ...)                                           \
    ((kernel)<<<(grid), (block), (shared), (stream)>>>(__VA_ARGS__))
/* clang-format on */
/* unsigned char *name: the block's dynamic shared memory, 16-byte aligned. */
#define SHARED_BYTES(name)                                                                         \
    extern __shared__ __align__(16) unsigned char shared_bytes[];                                  \
    unsigned char *name = shared_bytes
#endif

/* Runs a statement with T as the activation type: WITH_ACT(bf16, LAUNCH((kernel<T>), ...)). */
#define WITH_ACT(bf16, ...)                                                                        \
    do {                                                                                           \
        if (bf16) {                                                                                \
            typedef bf16_t T;                                                                      \
            __VA_ARGS__;                                                                           \
        } else {                                                                                   \
            typedef float T;                                                                       \
            __VA_ARGS__;                                                                           \
        }                                                                                          \
    } while (0)

enum { WARP = 32 };
#define FULL_WARP 0xffffffffu

/* Blocks of `per_block` that cover `count`. A grid's x goes to 2^31 - 1, y and z to 65535 only:
 * what may be long goes to x. */
static inline unsigned blocks_of(size_t count, size_t per_block)
{
    return (unsigned)((count + per_block - 1) / per_block);
}

/* ---- activations ---- */
__device__ __forceinline__ float to_f32(float v)
{
    return v;
}

__device__ __forceinline__ float to_f32(bf16_t v)
{
    return __bfloat162float(v);
}

template <typename T> __device__ __forceinline__ T from_f32(float v);

template <> __device__ __forceinline__ float from_f32<float>(float v)
{
    return v;
}

template <> __device__ __forceinline__ bf16_t from_f32<bf16_t>(float v)
{
    return __float2bfloat16_rn(v);
}

/* Whether p and every row of c elements after it allow 4-element accesses. */
template <typename T> static inline bool aligned4(const T *p, size_t c)
{
    return c % 4 == 0 && (uintptr_t)p % (4 * sizeof(T)) == 0;
}

/* Four neighbouring elements; p is aligned to all four. */
__device__ __forceinline__ float4 load4(const float *p)
{
    return *reinterpret_cast<const float4 *>(p);
}

__device__ __forceinline__ float4 load4(const bf16_t *p)
{
    uint2 u = *reinterpret_cast<const uint2 *>(p);
    return make_float4(__uint_as_float(u.x << 16), __uint_as_float(u.x & 0xffff0000u),
                       __uint_as_float(u.y << 16), __uint_as_float(u.y & 0xffff0000u));
}

/* Two bf16 in one register, `low` at the lower address. */
__device__ __forceinline__ uint32_t pack_bf16(float low, float high)
{
    __nv_bfloat162 v = __floats2bfloat162_rn(low, high);
    uint32_t u;
    memcpy(&u, &v, sizeof u);
    return u;
}

__device__ __forceinline__ void store4(float *p, float4 v)
{
    *reinterpret_cast<float4 *>(p) = v;
}

__device__ __forceinline__ void store4(bf16_t *p, float4 v)
{
    *reinterpret_cast<uint2 *>(p) = make_uint2(pack_bf16(v.x, v.y), pack_bf16(v.z, v.w));
}

/* ---- sums over a warp, in one order; every lane gets the result ---- */
__device__ __forceinline__ float warp_sum(float v)
{
    for (int by = WARP / 2; by > 0; by /= 2)
        v += __shfl_xor_sync(FULL_WARP, v, by);
    return v;
}

__device__ __forceinline__ float warp_max(float v)
{
    for (int by = WARP / 2; by > 0; by /= 2)
        v = fmaxf(v, __shfl_xor_sync(FULL_WARP, v, by));
    return v;
}

/* ---- functions ---- */
__device__ __forceinline__ float gelu(float x)
{
    return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f));
}

/* 2^x, two units in the last place; below 2^-126 it is zero. */
__device__ __forceinline__ float exp2_approx(float x)
{
#ifdef __CUDACC__
    float r;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
    return r;
#else
    return exp2f(x);
#endif
}

/* 1 / x, a unit in the last place; of more than 2^126 it is zero. */
__device__ __forceinline__ float reciprocal(float x)
{
#ifdef __CUDACC__
    float r;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
    return r;
#else
    return 1.0f / x;
#endif
}

/* x / (1 + e^-x) */
__device__ __forceinline__ float silu(float x)
{
    return x * reciprocal(1.0f + exp2_approx(x * -1.44269504088896341f));
}

/* log(1 + e^x) = max(x, 0) + log(1 + e), e = e^-|x| <= 1; log(1 + e) = e P(e), P of degree 8 exact
 * to 1.7e-7 of the result however small e is. One special function instead of log1pf's page. */
__device__ __forceinline__ float softplus(float x)
{
    float e = exp2_approx(fabsf(x) * -1.44269504088896341f), p = 0x1.56ee08p-8f;
    p = fmaf(p, e, -0x1.e369f2p-6f);
    p = fmaf(p, e, 0x1.4069dep-4f);
    p = fmaf(p, e, -0x1.17d2c4p-3f);
    p = fmaf(p, e, 0x1.874a82p-3f);
    p = fmaf(p, e, -0x1.fcc8c6p-3f);
    p = fmaf(p, e, 0x1.553004p-2f);
    p = fmaf(p, e, -0x1.fffeacp-2f);
    p = fmaf(p, e, 0x1.fffffep-1f);
    return fmaf(p, e, fmaxf(x, 0.0f));
}

/* ---- tensor cores ----
 * One warp: d[16][8] += a[16][16] b[16][8], a and b bf16, d fp32. With g = lane / 4, t = lane % 4,
 * in registers of two neighbouring k (lower k in the lower half):
 *   a[0] row g, k 2t    a[1] row g + 8, k 2t    a[2] row g, k 2t + 8    a[3] row g + 8, k 2t + 8
 *   b[0] k 2t, column g     b[1] k 2t + 8, column g
 *   d[0] row g, column 2t   d[1] row g, column 2t + 1   d[2], d[3] the same in row g + 8 */
__device__ __forceinline__ void mma_16x8x16(float d[4], const uint32_t a[4], const uint32_t b[2])
{
#ifdef __CUDACC__
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    struct regs {
        uint32_t r[4];
    } mine_a = {{a[0], a[1], a[2], a[3]}}, mine_b = {{b[0], b[1]}};
    int lane = (int)threadIdx.x % WARP, g = lane / 4, t = lane % 4; /* blocks are x-major */
    regs rows[4], left[4], right[4]; /* of g and g + 8; of columns 2t and 2t + 1; by k / 2 % 4 */
    for (int i = 0; i < 4; i++) {
        rows[i] = __shfl_sync(FULL_WARP, mine_a, g * 4 + i);
        left[i] = __shfl_sync(FULL_WARP, mine_b, 2 * t * 4 + i);
        right[i] = __shfl_sync(FULL_WARP, mine_b, (2 * t + 1) * 4 + i);
    }
    for (int k = 0; k < 16; k++) {
        int i = k / 2 % 4, high = k / 8, shift = k % 2 * 16;
        float top = __uint_as_float(rows[i].r[2 * high] >> shift << 16);
        float low = __uint_as_float(rows[i].r[2 * high + 1] >> shift << 16);
        float c_0 = __uint_as_float(left[i].r[high] >> shift << 16);
        float c_1 = __uint_as_float(right[i].r[high] >> shift << 16);
        d[0] += top * c_0;
        d[1] += top * c_1;
        d[2] += low * c_0;
        d[3] += low * c_1;
    }
#endif
}

/* Four 8 x 8 matrices of bf16 from shared memory, lanes 8 i .. 8 i + 7 naming the rows of matrix i,
 * 16 bytes each and aligned to that. r[i]: with g and t as above, row g, columns 2t and 2t + 1 of
 * matrix i; transposed: rows 2t and 2t + 1 of column g. */
template <bool TRANSPOSED>
__device__ __forceinline__ void load_matrices_as(uint32_t r[4], const uint16_t *row)
{
#ifdef __CUDACC__
    uint32_t at = (uint32_t)__cvta_generic_to_shared(row);
    if (TRANSPOSED)
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                     : "r"(at)
                     : "memory");
    else
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                     : "r"(at)
                     : "memory");
#else
    int lane = (int)threadIdx.x % WARP, g = lane / 4, t = lane % 4;
    for (int i = 0; i < 4; i++) {
        const uint16_t *first = __shfl_sync(FULL_WARP, row, 8 * i + (TRANSPOSED ? 2 * t : g));
        const uint16_t *second = __shfl_sync(FULL_WARP, row, 8 * i + (TRANSPOSED ? 2 * t + 1 : g));
        r[i] = TRANSPOSED ? first[g] | (uint32_t)second[g] << 16
                          : first[2 * t] | (uint32_t)second[2 * t + 1] << 16;
    }
#endif
}

__device__ __forceinline__ void load_matrices(uint32_t r[4], const uint16_t *row)
{
    load_matrices_as<false>(r, row);
}

__device__ __forceinline__ void load_matrices_transposed(uint32_t r[4], const uint16_t *row)
{
    load_matrices_as<true>(r, row);
}

#endif
