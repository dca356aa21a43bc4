/* Of the stand-in (cuda_runtime_api.h): asynchronous copies to shared memory. A card may make
 * one at any time until the thread waits for it. Here that is when it waits, so that code that
 * forgets to finds 0xff; in the reverse order at once, so that code that still reads what was there
 * finds it gone. */
#ifndef TV3S_TESTS_CUDA_HOST_CUDA_PIPELINE_H
#define TV3S_TESTS_CUDA_HOST_CUDA_PIPELINE_H

#include "cuda_runtime.h"

/* `bytes` 4, 8 or 16, both sides aligned to them; the last `zeros` are not read but zero. */
static inline void __pipeline_memcpy_async(void *shared, const void *global, size_t bytes,
                                           size_t zeros = 0)
{
    cuda_host_copy(shared, global, bytes, zeros);
}

static inline void __pipeline_commit()
{
    cuda_host_copy_commit();
}

/* All groups committed but the last `prior` are there. */
static inline void __pipeline_wait_prior(unsigned prior)
{
    cuda_host_copy_wait(prior);
}

#endif
