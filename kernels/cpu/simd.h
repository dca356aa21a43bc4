/* One vector type for all instruction sets, and the functions of it that the kernels need.
 *
 * Every kernel source is compiled once per instruction set, with -DISA=name and that set's -m
 * flags, so here only the compiler's own macros decide: VL floats per vector is 16 with AVX-512, 8
 * with AVX2 and 4 otherwise (SSE2, NEON, or no SIMD at all: GCC and clang lower vector extensions
 * to whatever there is). Loads, arithmetic and conversions are plain vector-extension C. Intrinsics
 * stand where that C would be slow or round twice: fma, min/max, floor, masked tails, 2^n.
 *
 * Activations are fp32 or bf16 behind a `void *`: act_load and act_store take the element type as
 * a bool that every caller passes as a constant of an always-inlined template, so that each kernel
 * exists twice in the object file and once in the source. `n` lanes of a vector (n <= VL) are read
 * or written, the others load as zero: no kernel touches a byte outside its operands.
 *
 * Functions of floats, relative error against exact arithmetic (tests/unit/test_kernels.c):
 *   vfs_exp2     2^x by a degree-5 polynomial on [0, 1): 2e-7; 0 below -127, infinity from 128 on
 *   vfs_exp      e^x, 3e-7; saturates at e^-87 and e^88
 *   vfs_softplus log(1 + e^x), 4e-7; at least e^-87
 *   vfs_silu     x / (1 + e^-x), 4e-7; below -87 it stays at the value there, which is -1e-36
 *   vf_gelu      x (1 + erf(x / sqrt 2)) / 2, error below 3e-7 |x|; constant below -5.6: -1e-7
 * NaN in gives NaN out; infinities give the limits. */
#ifndef TV3S_KERNELS_CPU_SIMD_H
#define TV3S_KERNELS_CPU_SIMD_H

#include "base/dtype.h"
#include "kernels/cpu/ops.h"

#include <string.h>

#ifdef __SSE2__
#include <immintrin.h>
#elif defined(__ARM_NEON) && defined(__aarch64__)
#include <arm_neon.h>
#endif

#if defined(__AVX512F__)
enum { VL = 16 };
#elif defined(__AVX2__)
enum { VL = 8 };
#else
enum { VL = 4 };
#endif

typedef float vf __attribute__((vector_size(4 * VL)));
typedef int32_t vi __attribute__((vector_size(4 * VL)));
typedef uint32_t vu __attribute__((vector_size(4 * VL)));
typedef uint16_t vh __attribute__((vector_size(2 * VL)));
typedef uint8_t vb __attribute__((vector_size(VL)));

#define INLINE static inline __attribute__((always_inline, unused))

/* The kernel `op` of this instruction set: layernorm -> layernorm_avx512. */
#define KERNEL(op)            KERNEL_JOIN(op, ISA)
#define KERNEL_JOIN(op, isa)  KERNEL_PASTE(op, isa)
#define KERNEL_PASTE(op, isa) op##_##isa

/* Every kernel, with the signature that struct cpu_ops gives it. */
#define KERNELS(X)                                                                                 \
    X(preprocess)                                                                                  \
    X(im2col)                                                                                      \
    X(layernorm)                                                                                   \
    X(rmsnorm)                                                                                     \
    X(dwconv3x3_gelu)                                                                              \
    X(softmax_rows)                                                                                \
    X(softmax_bias_rows)                                                                           \
    X(scale_rows)                                                                                  \
    X(fuse)                                                                                        \
    X(scan_conv)                                                                                   \
    X(selective_scan)                                                                              \
    X(labels)                                                                                      \
    X(to_bf16)                                                                                     \
    X(to_f32)                                                                                      \
    X(add)
#define KERNEL_DECLARE(op) __typeof__(*((struct cpu_ops *)NULL)->op) KERNEL(op);
KERNELS(KERNEL_DECLARE)

/* Below this many element operations a parallel region costs more than it saves. */
enum { PARALLEL_MIN = 32768 };

/* Lanes of the next vector when `left` elements are left. */
INLINE int lanes(size_t left)
{
    return left < VL ? (int)left : VL;
}

/* for every vector of `count` elements: first index i, lanes n. */
#define FOR_VECTORS(i, n, count)                                                                   \
    for (size_t i = 0, n __attribute__((unused));                                                  \
         n = (size_t)lanes((size_t)(count)-i), i < (size_t)(count); i += VL)

/* The largest `end` such that dst begin..end - 1 read at most `span` neighbouring source positions;
 * at least begin + 1 (taps <= span). Indices never decrease. */
INLINE int axis_tile(const struct resize_axis *a, int begin, int span)
{
    int end = begin + 1;
    while (end < a->dst && a->index[end] + a->taps - a->index[begin] <= span)
        end++;
    return end;
}

INLINE vf vf_set(float x)
{
    return x - (vf){0};
}

INLINE vf vf_fma(vf a, vf b, vf c)
{
#if defined(__AVX512F__)
    return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
    return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__ARM_NEON) && defined(__aarch64__)
    return (vf)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
    return a * b + c;
#endif
}

/* mask ? a : b, lane by lane; mask lanes are all ones or all zeros. */
INLINE vi vi_select(vi mask, vi a, vi b)
{
    return (a & mask) | (b & ~mask);
}

INLINE vf vf_select(vi mask, vf a, vf b)
{
    return (vf)vi_select(mask, (vi)a, (vi)b);
}

/* 0, 1, 2, ... */
INLINE vi vi_index(void)
{
#if defined(__AVX512F__)
    return (vi){0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
#elif defined(__AVX2__)
    return (vi){0, 1, 2, 3, 4, 5, 6, 7};
#else
    return (vi){0, 1, 2, 3};
#endif
}

/* v with lanes n.. replaced by those of `rest`. */
INLINE vf vf_first(vf v, size_t n, vf rest)
{
    return vf_select(vi_index() < (int32_t)n, v, rest);
}

/* The larger (smaller) one; b where either is NaN. */
INLINE vf vf_max(vf a, vf b)
{
#if defined(__AVX512F__)
    return (vf)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
    return (vf)_mm256_max_ps((__m256)a, (__m256)b);
#elif defined(__SSE2__)
    return (vf)_mm_max_ps((__m128)a, (__m128)b);
#else
    return vf_select(a > b, a, b);
#endif
}

INLINE vf vf_min(vf a, vf b)
{
#if defined(__AVX512F__)
    return (vf)_mm512_min_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
    return (vf)_mm256_min_ps((__m256)a, (__m256)b);
#elif defined(__SSE2__)
    return (vf)_mm_min_ps((__m128)a, (__m128)b);
#else
    return vf_select(a < b, a, b);
#endif
}

/* Rounds down; |x| < 2^31. */
INLINE vf vf_floor(vf x)
{
#if defined(__AVX512F__)
    return (vf)_mm512_roundscale_ps((__m512)x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
#elif defined(__AVX2__)
    return (vf)_mm256_floor_ps((__m256)x);
#else
    vf whole = __builtin_convertvector(__builtin_convertvector(x, vi), vf);
    return whole + __builtin_convertvector(whole > x, vf);
#endif
}

/* ---- sums and maxima over lanes, always in the same order ---- */

/* Every lane i gets lane i ^ by. */
#if defined(__AVX512F__)
#define VF_SWAP(v, by)                                                                             \
    __builtin_shufflevector(v, v, 0 ^ by, 1 ^ by, 2 ^ by, 3 ^ by, 4 ^ by, 5 ^ by, 6 ^ by, 7 ^ by,  \
                            8 ^ by, 9 ^ by, 10 ^ by, 11 ^ by, 12 ^ by, 13 ^ by, 14 ^ by, 15 ^ by)
#elif defined(__AVX2__)
#define VF_SWAP(v, by)                                                                             \
    __builtin_shufflevector(v, v, 0 ^ by, 1 ^ by, 2 ^ by, 3 ^ by, 4 ^ by, 5 ^ by, 6 ^ by, 7 ^ by)
#else
#define VF_SWAP(v, by) __builtin_shufflevector(v, v, 0 ^ by, 1 ^ by, 2 ^ by, 3 ^ by)
#endif

INLINE float vf_sum(vf v)
{
#if defined(__AVX512F__)
    v += VF_SWAP(v, 8);
#endif
#if defined(__AVX2__)
    v += VF_SWAP(v, 4);
#endif
    v += VF_SWAP(v, 2);
    v += VF_SWAP(v, 1);
    return v[0];
}

/* Every lane gets the largest lane. */
INLINE vf vf_max_lanes(vf v)
{
#if defined(__AVX512F__)
    v = vf_max(v, VF_SWAP(v, 8));
#endif
#if defined(__AVX2__)
    v = vf_max(v, VF_SWAP(v, 4));
#endif
    v = vf_max(v, VF_SWAP(v, 2));
    return vf_max(v, VF_SWAP(v, 1));
}

/* ---- loads and stores ---- */

INLINE vf vf_load(const float *p)
{
    vf v;
    memcpy(&v, p, sizeof v);
    return v;
}

INLINE void vf_store(float *p, vf v)
{
    memcpy(p, &v, sizeof v);
}

INLINE vf vf_load_n(const float *p, size_t n)
{
    if (n == VL)
        return vf_load(p);
#if defined(__AVX512F__)
    return (vf)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
#else
    vf v = {0};
    memcpy(&v, p, n * sizeof *p);
    return v;
#endif
}

INLINE void vf_store_n(float *p, vf v, size_t n)
{
    if (n == VL) {
        vf_store(p, v);
        return;
    }
#if defined(__AVX512F__)
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), (__m512)v);
#else
    memcpy(p, &v, n * sizeof *p);
#endif
}

INLINE vf vf_from_bf16(vh h)
{
#if defined(__AVX512F__) /* GCC 12 widens by halves */
    return (vf)_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)h), 16);
#elif defined(__AVX2__)
    return (vf)_mm256_slli_epi32(_mm256_cvtepu16_epi32((__m128i)h), 16);
#else
    return (vf)(__builtin_convertvector(h, vu) << 16);
#endif
}

/* Round to nearest even; NaN stays NaN. */
INLINE vh vf_to_bf16(vf v)
{
#if defined(__AVX512BF16__)
    return (vh)_mm512_cvtneps_pbh((__m512)v); /* subnormals become 0 */
#elif defined(__AVX512F__)
    __m512i u = (__m512i)v, odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7fff)), odd);
    __mmask16 nan = _mm512_cmp_ps_mask((__m512)v, (__m512)v, _CMP_UNORD_Q);
    rounded = _mm512_mask_or_epi32(rounded, nan, u, _mm512_set1_epi32(0x400000));
    return (vh)_mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16));
#else
    vu u = (vu)v;
    vu rounded = (u + 0x7fff + (u >> 16 & 1)) >> 16;
    vu quiet = u >> 16 | 0x40;
    return __builtin_convertvector((vu)vi_select((vi)(v == v), (vi)rounded, (vi)quiet), vh);
#endif
}

INLINE vf act_load(const void *p, size_t i, size_t n, bool bf16)
{
    if (!bf16)
        return vf_load_n((const float *)p + i, n);
    vh h = {0};
    if (n == VL)
        memcpy(&h, (const uint16_t *)p + i, sizeof h);
    else
#if defined(__AVX512BW__) && defined(__AVX512VL__)
        h = (vh)_mm256_maskz_loadu_epi16((__mmask16)((1u << n) - 1), (const uint16_t *)p + i);
#else
        memcpy(&h, (const uint16_t *)p + i, n * sizeof h[0]);
#endif
    return vf_from_bf16(h);
}

INLINE void vh_store_n(uint16_t *p, vh h, size_t n)
{
    if (n == VL)
        memcpy(p, &h, sizeof h);
    else
#if defined(__AVX512BW__) && defined(__AVX512VL__)
        _mm256_mask_storeu_epi16(p, (__mmask16)((1u << n) - 1), (__m256i)h);
#else
        memcpy(p, &h, n * sizeof h[0]);
#endif
}

INLINE void act_store(void *p, size_t i, vf v, size_t n, bool bf16)
{
    if (bf16)
        vh_store_n((uint16_t *)p + i, vf_to_bf16(v), n);
    else
        vf_store_n((float *)p + i, v, n);
}

/* Fetches the cache line of element i, which need not exist. */
INLINE void act_prefetch(const void *p, size_t i, bool bf16)
{
    __builtin_prefetch((const void *)((uintptr_t)p + i * (bf16 ? 2 : 4)), 0, 2);
}

/* The address of element i. */
INLINE void *act_at(void *p, size_t i, bool bf16)
{
    return (char *)p + i * (bf16 ? 2 : 4);
}

/* ---- functions ---- */

/* p * 2^n for p in [1, 2] and whole n in -126..127; n = -127 gives (almost) 0 and, for p = 1,
 * n = 128 infinity. AVX-512 takes any n and rounds it down. */
INLINE vf vf_scale2(vf p, vf n)
{
#if defined(__AVX512F__)
    return (vf)_mm512_scalef_ps((__m512)p, (__m512)n);
#else
    return (vf)((vi)p + (__builtin_convertvector(n, vi) << 23));
#endif
}

/* 2^r for r in [0, 1]: exactly 1 and 2 at the ends, so that slow decays stay slow. */
INLINE vf vf_exp2_poly(vf r)
{
    vf p = vf_fma(r, vf_set(0x1.eca6f0p-10f), vf_set(0x1.269df0p-7f));
    p = vf_fma(p, r, vf_set(0x1.c9444p-5f));
    p = vf_fma(p, r, vf_set(0x1.ebd8a0p-3f));
    p = vf_fma(p, r, vf_set(0x1.62e4c8p-1f));
    return vf_fma(p, r, vf_set(1.0f));
}

/* The same with degree 3, 1e-4: enough where the result becomes bf16. */
INLINE vf vf_exp2_poly3(vf r)
{
    vf p = vf_fma(r, vf_set(0x1.4095eap-4f), vf_set(0x1.cf7a68p-3f));
    p = vf_fma(p, r, vf_set(0x1.640ea8p-1f));
    return vf_fma(p, r, vf_set(1.0f));
}

/* a / b for b in 2^-126..2^126; 2 ulp. AVX-512 divides in 10 cycles and approximates in four. */
INLINE vf vf_div(vf a, vf b)
{
#if defined(__AVX512F__)
    vf r = (vf)_mm512_rcp14_ps((__m512)b);
    r = vf_fma(r, vf_fma(-b, r, vf_set(1.0f)), r);
    return a * r;
#else
    return a / b;
#endif
}

/* ---- functions of n <= MANY vectors, in place ----
 *
 * Each is a chain of some twenty operations, one after the other; side by side, step by step, the
 * chains of several vectors keep all units busy, where a core would not look far enough ahead to
 * find the next vector by itself (SiLU of bf16 on a Zen 5: 15 cycles a vector, four at once 10). */

enum { MANY = 8 };

#define EACH(i, n) for (int i = 0; i < (n); i++)

/* 2^x by the polynomial of degree 5 or 3. */
INLINE void vfs_exp2(vf *x, int n, int degree)
{
    vf r[MANY];
#if defined(__AVX512F__)
    EACH (i, n)
        r[i] = (vf)_mm512_reduce_ps((__m512)x[i], _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
#else
    EACH (i, n) {
        r[i] = vf_min(vf_set(128.0f), vf_max(vf_set(-127.0f), x[i]));
        x[i] = vf_floor(r[i]);
        r[i] -= x[i];
    }
#endif
    EACH (i, n)
        r[i] = degree == 3 ? vf_exp2_poly3(r[i]) : vf_exp2_poly(r[i]);
    EACH (i, n)
        x[i] = vf_scale2(r[i], x[i]);
}

INLINE vf vf_exp2(vf x)
{
    vfs_exp2(&x, 1, 5);
    return x;
}

/* e^x. `rough`, where the result becomes bf16: 6e-8 |x| more, for x rounds once more. */
INLINE void vfs_exp(vf *x, int n, bool rough)
{
    const vf log2e = vf_set(0x1.715476p+0f);
    vf r[MANY];
    if (rough) {
        EACH (i, n)
            x[i] *= log2e;
        vfs_exp2(x, n, 5);
        return;
    }
    EACH (i, n)
        r[i] = vf_min(vf_set(88.0f), vf_max(vf_set(-87.0f), x[i]));
    EACH (i, n)
        x[i] = vf_floor(r[i] * log2e);
    EACH (i, n) /* ln 2 in two parts; the first product is exact */
        r[i] = vf_fma(x[i], vf_set(-0x1.62e4p-1f), r[i]);
    EACH (i, n)
        r[i] = vf_exp2_poly(vf_fma(x[i], vf_set(-0x1.7f7d1cp-20f), r[i]) * log2e);
    EACH (i, n)
        x[i] = vf_scale2(r[i], x[i]);
}

/* log(1 + e^x) */
INLINE void vfs_softplus(vf *x, int n, bool rough)
{
    vf t[MANY], q[MANY];
    EACH (i, n)
        t[i] = vf_min(x[i], -x[i]);
    vfs_exp(t, n, rough); /* in (0, 1]; then log(1 + t) = t (1 + t q(t)) */
    EACH (i, n) {
        q[i] = vf_fma(t[i], vf_set(0.005364805926f), vf_set(-0.030065724626f));
        q[i] = vf_fma(q[i], t[i], vf_set(0.079204432666f));
        q[i] = vf_fma(q[i], t[i], vf_set(-0.137537941337f));
        q[i] = vf_fma(q[i], t[i], vf_set(0.191536515951f));
        q[i] = vf_fma(q[i], t[i], vf_set(-0.248571634293f));
        q[i] = vf_fma(q[i], t[i], vf_set(0.333213239908f));
        q[i] = vf_fma(q[i], t[i], vf_set(-0.499996483326f));
    }
    EACH (i, n)
        x[i] = vf_max(vf_set(0.0f), x[i]) + vf_fma(q[i], t[i] * t[i], t[i]);
}

/* x / (1 + e^-x) */
INLINE void vfs_silu(vf *x, int n, bool rough)
{
    vf e[MANY];
    EACH (i, n) {
        x[i] = vf_max(vf_set(-87.0f), x[i]);
        e[i] = -x[i];
    }
    vfs_exp(e, n, rough);
    EACH (i, n)
        x[i] = vf_div(x[i], vf_set(1.0f) + e[i]);
}

/* x Phi(x), Phi(x) = 1/2 + x P(x^2) / Q(x^2) on |x| <= 5.6, where it is 1 to rounding. */
INLINE vf vf_gelu(vf x)
{
    x = vf_max(vf_set(-5.6f), x);
    vf c = vf_min(vf_set(5.6f), x), s = c * c;
    vf p = vf_fma(s, vf_set(2.2145121292e-08f), vf_set(6.3564884840e-06f));
    p = vf_fma(p, s, vf_set(0.00017384995590f));
    p = vf_fma(p, s, vf_set(0.0047072549351f));
    p = vf_fma(p, s, vf_set(0.034376073629f));
    p = vf_fma(p, s, vf_set(0.39894223213f));
    vf q = vf_fma(s, vf_set(1.1802031713e-06f), vf_set(7.5101466791e-05f));
    q = vf_fma(q, s, vf_set(0.0019129742868f));
    q = vf_fma(q, s, vf_set(0.028940062970f));
    q = vf_fma(q, s, vf_set(0.25283375382f));
    q = vf_fma(q, s, vf_set(1.0f));
    return x * vf_fma(c, vf_div(p, q), vf_set(0.5f));
}

#endif
