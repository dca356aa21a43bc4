/* What the tests of the CPU kernels share: every kernel runs in every instruction set that this CPU
 * has, against a plain reference in double precision, over random shapes that no vector length
 * divides. Buffers end at a page that cannot be touched and begin after a pattern that is checked,
 * so that reading or writing outside the stated shapes fails whatever instruction does it. */
#ifndef TV3S_TESTS_KERNEL_TESTS_H
#define TV3S_TESTS_KERNEL_TESTS_H

#include "base/dtype.h"
#include "kernels/cpu/ops.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#ifdef _OPENMP
#include <omp.h>
#endif

/* ---- random numbers ---- */

static uint64_t rng_state = 88172645463325252ull;

static inline uint32_t rng(void)
{
    rng_state ^= rng_state << 13;
    rng_state ^= rng_state >> 7;
    rng_state ^= rng_state << 17;
    return (uint32_t)(rng_state >> 32);
}

static inline int pick(int low, int high) /* both included */
{
    return low + (int)(rng() % (uint32_t)(high - low + 1));
}

static inline float uniform(float low, float high)
{
    return low + (high - low) * (float)(rng() >> 8) * 0x1p-24f;
}

/* ---- guarded buffers ---- */

enum { MAX_BUFFERS = 64, PATTERN = 64 };

static struct {
    char *map, *p;
    size_t bytes, mapped;
} buffers[MAX_BUFFERS];
static int buffer_count;

static inline void *guarded(size_t bytes)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t mapped = (bytes + PATTERN + page - 1) / page * page + page;
    char *map = mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(map != MAP_FAILED && buffer_count < MAX_BUFFERS);
    assert_int_equal(mprotect(map + mapped - page, page, PROT_NONE), 0);
    char *p = map + mapped - page - bytes;
    memset(p - PATTERN, 0xa5, PATTERN);
    buffers[buffer_count].map = map;
    buffers[buffer_count].p = p;
    buffers[buffer_count].bytes = bytes;
    buffers[buffer_count++].mapped = mapped;
    return p;
}

/* Checks what lies before every buffer, then unmaps all. */
static inline void release(void)
{
    for (int i = 0; i < buffer_count; i++) {
        for (int j = 1; j <= PATTERN; j++)
            assert_int_equal((uint8_t)buffers[i].p[-j], 0xa5);
        munmap(buffers[i].map, buffers[i].mapped);
    }
    buffer_count = 0;
}

static inline float *floats(size_t count, float low, float high)
{
    float *p = guarded(count * sizeof *p);
    for (size_t i = 0; i < count; i++)
        p[i] = uniform(low, high);
    return p;
}

/* Activations, fp32 or bf16. */
static inline void *acts(size_t count, float low, float high, bool bf16)
{
    if (!bf16)
        return floats(count, low, high);
    uint16_t *p = guarded(count * sizeof *p);
    for (size_t i = 0; i < count; i++)
        p[i] = f32_to_bf16(uniform(low, high));
    return p;
}

static inline double get(const void *p, size_t i, bool bf16)
{
    return bf16 ? (double)bf16_to_f32(((const uint16_t *)p)[i]) : (double)((const float *)p)[i];
}

static inline void *clone(const void *p, size_t bytes)
{
    return memcpy(guarded(bytes), p, bytes);
}

/* |value - want| <= rel |want| + abs, and half a bf16 step more where the value is one. */
static inline void check(double value, double want, double rel, double abs, bool bf16,
                         const char *what)
{
    double limit = rel * fabs(want) + abs + (bf16 ? 0x1p-8 * fabs(want) : 0);
    if (!(fabs(value - want) <= limit))
        fail_msg("%s: %.9g instead of %.9g", what, value, want);
}

/* ---- the instruction sets; every test runs `body` for each, with both element types ---- */

typedef void (*kernel_test)(const struct cpu_ops *ops, bool bf16);

static inline void each_isa(kernel_test body, int times)
{
    static const char *const names[] = {"baseline", "avx2", "avx512", "avx512_bf16"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const struct cpu_ops *ops = cpu_ops_get(names[i]);
        if (!ops)
            continue;
        for (int t = 0; t < times; t++) {
            body(ops, t & 1);
            release();
        }
    }
}

static inline void set_threads(int n)
{
#ifdef _OPENMP
    omp_set_num_threads(n);
#else
    (void)n;
#endif
}

/* ---- references ---- */

static inline double gelu(double x)
{
    return x * 0.5 * erfc(-x / sqrt(2));
}

static inline double silu(double x)
{
    return x / (1 + exp(-x));
}

/* ---- resizing ---- */

/* The bilinear map of one axis, by half-pixel centres, edges clamped. */
static inline void fill_bilinear(struct resize_axis *a, int src, int dst)
{
    int taps = src == dst || src == 1 ? 1 : 2;
    *a = (struct resize_axis){.dst = dst, .src = src, .taps = taps};
    a->index = guarded((size_t)dst * sizeof(int));
    a->weight = guarded((size_t)(dst * taps) * sizeof(float));
    for (int i = 0; i < dst; i++) {
        double at = (i + 0.5) * src / dst - 0.5;
        int x = taps == 1 ? (src == 1 ? 0 : i) : (int)floor(at < 0 ? 0 : at);
        if (taps == 2 && x > src - 2)
            x = src - 2;
        double f = at - x < 0 ? 0 : at - x > 1 ? 1 : at - x;
        a->index[i] = x;
        a->weight[i * taps] = (float)(taps == 1 ? 1 : 1 - f);
        if (taps == 2)
            a->weight[2 * i + 1] = (float)f;
    }
}

#endif
