/* Which kernels this CPU runs. Compiled once, without instruction-set flags. TV3S_SIMD_X86 says
 * that the AVX tables were built too (kernels/cpu/kernels.mk). */
#include "kernels/cpu/ops.h"

#include <string.h>

#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

extern const struct cpu_ops cpu_ops_baseline;
#ifdef TV3S_SIMD_X86
extern const struct cpu_ops cpu_ops_avx2, cpu_ops_avx512, cpu_ops_avx512_bf16;
#endif

const struct cpu_ops *cpu_ops_get(const char *isa)
{
    const struct cpu_ops *have[4]; /* best first */
    int count = 0;
#ifdef TV3S_SIMD_X86
    bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    if (avx512 && __builtin_cpu_supports("avx512bf16"))
        have[count++] = &cpu_ops_avx512_bf16;
    if (avx512)
        have[count++] = &cpu_ops_avx512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        have[count++] = &cpu_ops_avx2;
#endif
    have[count++] = &cpu_ops_baseline;
    for (int i = 0; i < count; i++)
        if (!isa || strcmp(isa, have[i]->name) == 0)
            return have[i];
    return NULL;
}

bool cpu_has_bf16(void)
{
#if defined(__x86_64__)
    return __builtin_cpu_supports("avx512bf16");
#elif defined(__aarch64__) && defined(__linux__)
    return (getauxval(AT_HWCAP2) & 1ul << 14) != 0; /* HWCAP2_BF16 */
#else
    return false;
#endif
}

size_t cpu_labels_scratch(int threads, int classes, const struct resize_axis *rows,
                          const struct resize_axis *cols)
{
    (void)rows;
    /* per thread one row of the grid */
    return (size_t)threads * (size_t)cols->src * CPU_LABELS_LD(classes);
}
