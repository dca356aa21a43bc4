/* Element conversion and accumulation over flat arrays; bound by memory. */
#include "kernels/cpu/simd.h"

/* Elements of one task: long enough to stream, short enough to balance. */
enum { PIECE = 16384 };

#define PIECES(count)        (((count) + PIECE - 1) / PIECE)
#define PIECE_SIZE(i, count) ((count) - (i)*PIECE < PIECE ? (count) - (i)*PIECE : PIECE)

void KERNEL(to_bf16)(const float *in, size_t count, uint16_t *out)
{
#pragma omp parallel for schedule(static) if (count >= PARALLEL_MIN)
    for (size_t i = 0; i < PIECES(count); i++)
        FOR_VECTORS (j, n, PIECE_SIZE(i, count))
            act_store(out, i * PIECE + j, vf_load_n(in + i * PIECE + j, n), n, true);
}

void KERNEL(to_f32)(const uint16_t *in, size_t count, float *out)
{
#pragma omp parallel for schedule(static) if (count >= PARALLEL_MIN)
    for (size_t i = 0; i < PIECES(count); i++)
        FOR_VECTORS (j, n, PIECE_SIZE(i, count))
            vf_store_n(out + i * PIECE + j, act_load(in, i * PIECE + j, n, true), n);
}

void KERNEL(add)(const float *x, size_t count, float *y)
{
#pragma omp parallel for schedule(static) if (count >= PARALLEL_MIN)
    for (size_t i = 0; i < PIECES(count); i++)
        FOR_VECTORS (j, n, PIECE_SIZE(i, count)) {
            float *at = y + i * PIECE + j;
            vf_store_n(at, vf_load_n(at, n) + vf_load_n(x + i * PIECE + j, n), n);
        }
}
