/* Of the stand-in (cuda_runtime_api.h): bfloat16. Conversions round to nearest even, NaN stays NaN.
 */
#ifndef TV3S_TESTS_CUDA_HOST_CUDA_BF16_H
#define TV3S_TESTS_CUDA_HOST_CUDA_BF16_H

#include "base/dtype.h"
#include "cuda_runtime.h"

struct __nv_bfloat16 {
    uint16_t bits;
};

struct __align__(4) __nv_bfloat162
{
    struct __nv_bfloat16 x, y;
};

#ifdef __cplusplus

static inline float __bfloat162float(__nv_bfloat16 v)
{
    return bf16_to_f32(v.bits);
}

static inline __nv_bfloat16 __float2bfloat16(float v)
{
    return {f32_to_bf16(v)};
}

static inline __nv_bfloat16 __float2bfloat16_rn(float v)
{
    return {f32_to_bf16(v)};
}

static inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 v)
{
    return v.bits;
}

static inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short v)
{
    return {v};
}

static inline float2 __bfloat1622float2(__nv_bfloat162 v)
{
    return {bf16_to_f32(v.x.bits), bf16_to_f32(v.y.bits)};
}

static inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y)
{
    return {{f32_to_bf16(x)}, {f32_to_bf16(y)}};
}

static inline __nv_bfloat162 __float22bfloat162_rn(float2 v)
{
    return __floats2bfloat162_rn(v.x, v.y);
}

#endif

#endif
