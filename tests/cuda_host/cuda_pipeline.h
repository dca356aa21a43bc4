/* Of the stand-in (cuda_runtime_api.h): asynchronous copies to shared memory. They are done when
 * the thread waits for them, not before: code that forgets to wait finds 0xff. */
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
