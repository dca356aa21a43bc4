/* Values of a tensor: conversion to fp32 and the search for what is not finite. The data may lie
 * at any address, so every value is copied out; the copies compile to unaligned loads. */
#include "engine/safetensors.h"
#include "engine/safetensors_parts.h"

#include <math.h>

size_t st_elements(const struct st_tensor *t)
{
    size_t n = 1;
    for (int i = 0; i < t->ndim; i++)
        n *= (size_t)t->shape[i];
    return n;
}

static inline uint16_t load16(const uint8_t *p)
{
    uint16_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

enum err st_to_f32(const struct st_tensor *t, size_t first, size_t count, float *out)
{
    size_t n = st_elements(t);
    if (first > n || count > n - first)
        return err_set(ERR_ARG, "tensor '%s': elements %zu to %zu of %zu", t->name, first,
                       first + count, n);
    if (!count)
        return ERR_OK;
    const uint8_t *p = (const uint8_t *)t->data + first * dtype_size(t->dtype);
    switch (t->dtype) {
    case DT_F32:
        memcpy(out, p, count * sizeof *out);
        return ERR_OK;
    case DT_BF16:
        for (size_t i = 0; i < count; i++)
            out[i] = bf16_to_f32(load16(p + 2 * i));
        return ERR_OK;
    case DT_F16:
        for (size_t i = 0; i < count; i++)
            out[i] = f16_to_f32(load16(p + 2 * i));
        return ERR_OK;
    case DT_F64:
        for (size_t i = 0; i < count; i++) {
            double v;
            memcpy(&v, p + 8 * i, sizeof v);
            out[i] = (float)v;
        }
        return ERR_OK;
    default:
        return err_set(ERR_UNSUPPORTED, "tensor '%s' is %s, not a float type", t->name,
                       dtype_name(t->dtype));
    }
}

/* A float is finite when the bits of its exponent are not all set. The runs are short enough to
 * find the culprit again and long enough to vectorise. */
#define FIND_NONFINITE(type, mask)                                                                 \
    for (size_t from = 0; from < n; from += 4096) {                                                \
        size_t run = n - from < 4096 ? n - from : 4096;                                            \
        unsigned bad = 0;                                                                          \
        for (size_t i = 0; i < run; i++) {                                                         \
            type v;                                                                                \
            memcpy(&v, p + (from + i) * sizeof v, sizeof v);                                       \
            bad |= (v & (mask)) == (mask);                                                         \
        }                                                                                          \
        for (size_t i = 0; bad && i < run; i++) {                                                  \
            type v;                                                                                \
            memcpy(&v, p + (from + i) * sizeof v, sizeof v);                                       \
            if ((v & (mask)) == (mask)) {                                                          \
                *index = from + i;                                                                 \
                return false;                                                                      \
            }                                                                                      \
        }                                                                                          \
    }                                                                                              \
    return true

bool st_all_finite(const struct st_tensor *t, size_t *index)
{
    const uint8_t *p = t->data;
    size_t n = st_elements(t);
    switch (t->dtype) {
    case DT_F32:
        FIND_NONFINITE(uint32_t, 0x7f800000u);
    case DT_BF16:
        FIND_NONFINITE(uint16_t, 0x7f80u);
    case DT_F16:
        FIND_NONFINITE(uint16_t, 0x7c00u);
    case DT_F64: /* finite as a float is what counts */
        for (size_t i = 0; i < n; i++) {
            double v;
            memcpy(&v, p + 8 * i, sizeof v);
            if (!isfinite((float)v)) {
                *index = i;
                return false;
            }
        }
        return true;
    default:
        return true;
    }
}

enum err st_check_values(const struct st_tensor *t)
{
    size_t at;
    if (!st_all_finite(t, &at))
        return err_set(ERR_FORMAT, "tensor %s: value %zu is NaN or infinite", t->name, at);
    if (!strstr(t->name, ".running_var"))
        return ERR_OK;
    for (size_t i = 0; i < st_elements(t); i++) {
        float v;
        enum err err = st_to_f32(t, i, 1, &v);
        if (err || v < 0)
            return err_set(ERR_FORMAT, "tensor %s: value %zu is a negative variance", t->name, i);
    }
    return ERR_OK;
}
