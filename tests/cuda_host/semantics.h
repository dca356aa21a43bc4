/* Small kernels that show what the stand-in does with CUDA's execution model (semantics.cu), for
 * tests/unit/test_cuda_host.c. Each launches on one block unless said, returns the launch's error.
 */
#ifndef TV3S_TESTS_CUDA_HOST_SEMANTICS_H
#define TV3S_TESTS_CUDA_HOST_SEMANTICS_H

#include "cuda_runtime_api.h"

#ifdef __cplusplus
extern "C" {
#endif

/* out[linear index of the thread in the grid] = threadIdx.x + 100 blockIdx.x + 10^4 the same of y,
 * and so on; grid 2 x 3 x 2, block 4 x 2 x 3. */
cudaError_t sem_indices(unsigned long *out);
/* out[i] = in[63 - i] through shared memory, 64 threads; with or without the barrier between. */
cudaError_t sem_reverse(const float *in, float *out, bool barrier);
/* The same through dynamic shared memory of `bytes` bytes. */
cudaError_t sem_reverse_dynamic(const float *in, float *out, size_t bytes);
/* out[0..31] what is in static, out[32..63] in dynamic shared memory at a block's start. */
cudaError_t sem_unwritten(unsigned *out);
/* out[op * 32 + lane] of lane values 10 * lane: up 3, down 3, xor 5, from lane 7, the same within
 * width 8. */
enum { SEM_SHUFFLES = 8 };
cudaError_t sem_shuffles(int *out);
/* The halves of a warp take two branches, each with a shuffle of its own mask. */
cudaError_t sem_half_warps(int *out);
/* out[0..2]: any, all, ballot of lane % 3 == 0; out[3..5] of true; out[6]: __syncthreads_count of
 * 64 threads with threadIdx.x < 40. */
cudaError_t sem_votes(unsigned *out);
/* Sum by lanes without a __syncwarp between writing and reading, and with one. */
cudaError_t sem_warp_memory(const float *in, float *out, bool barrier);
/* 64 threads; out[0] += 1 each, out[1] max, out[2] min of the thread's number. */
cudaError_t sem_atomics(int *out);

/* What must be refused. */
enum sem_wrong {
    SEM_LEAVES,       /* one thread returns before the barrier */
    SEM_TWO_BARRIERS, /* half of the threads wait at another line's */
    SEM_LANE_MISSING, /* a lane that the mask names is in the other branch */
    SEM_NOT_IN_MASK,  /* a lane calls with a mask without itself */
    SEM_MANY_THREADS, /* 1025 */
    SEM_MUCH_SHARED,  /* 48 KiB + 1 without asking */
    SEM_NO_BLOCKS,
    SEM_WRONG_COUNT,
};
cudaError_t sem_wrong(enum sem_wrong which);
/* 48 KiB + 1, having asked for it; what a block of sm_86 has not. */
cudaError_t sem_large_shared(void);
cudaError_t sem_too_large_shared(void);
/* Two kernels that do nothing. */
cudaError_t sem_nothing(cudaStream_t stream);
cudaError_t sem_nothing_else(cudaStream_t stream);
/* Writes one float behind 64 of static (index 64 of out: one of dynamic) shared memory. */
cudaError_t sem_overflow(bool dynamic, float *out);

#ifdef __cplusplus
}
#endif

#endif
