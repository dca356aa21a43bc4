/* What the tests of the CUDA kernels share: kernel_tests.h's buffers and references, for launchers
 * that run on the stand-in of tests/cuda_host. */
#ifndef TV3S_TESTS_CUDA_TESTS_H
#define TV3S_TESTS_CUDA_TESTS_H

#include "tests/unit/kernel_tests.h"

#include "kernels/cuda/kernels.h"

/* `body` with both element types and in both orders of threads. */
static inline void each_act(void (*body)(bool bf16), int times)
{
    for (int t = 0; t < times; t++) {
        cuda_host_reverse = t >> 1 & 1;
        body(t & 1);
        release();
    }
    cuda_host_reverse = false;
}

static inline void launched(cudaError_t e)
{
    assert_string_equal(cudaGetErrorName(e), "cudaSuccess");
}

#endif
