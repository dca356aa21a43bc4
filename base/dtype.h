/* Element types of tensors in files and in memory, and conversions of single values. */
#ifndef TV3S_BASE_DTYPE_H
#define TV3S_BASE_DTYPE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum dtype { DT_F32, DT_BF16, DT_F16, DT_F64, DT_U8, DT_I32, DT_I64, DT_COUNT };

static inline size_t dtype_size(enum dtype t)
{
    static const uint8_t size[DT_COUNT] = {4, 2, 2, 8, 1, 4, 8};
    return size[t];
}

/* Short name as in safetensors headers: "F32", "BF16", ... */
static inline const char *dtype_name(enum dtype t)
{
    static const char *const name[DT_COUNT] = {"F32", "BF16", "F16", "F64", "U8", "I32", "I64"};
    return name[t];
}

static inline float bf16_to_f32(uint16_t v)
{
    uint32_t u = (uint32_t)v << 16;
    float f;
    memcpy(&f, &u, 4);
    return f;
}

/* Round to nearest even; NaN stays NaN. */
static inline uint16_t f32_to_bf16(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    if ((u & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)(u >> 16 | 0x40);
    return (uint16_t)((u + 0x7fffu + (u >> 16 & 1)) >> 16);
}

/* IEEE binary16 to binary32, subnormals included. */
static inline float f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h >> 15) << 31, mag = h & 0x7fffu, u;
    float f;
    if (mag >= 0x7c00u) { /* infinity, NaN */
        u = sign | 0x7f800000u | (mag & 0x3ffu) << 13;
    } else if (mag >= 0x400u) {
        u = sign | ((mag << 13) + (112u << 23));
    } else { /* zero, subnormal: mag * 2^-24 */
        f = (float)mag * 0x1p-24f;
        memcpy(&u, &f, 4);
        u |= sign;
    }
    memcpy(&f, &u, 4);
    return f;
}

#endif
