/* The stand-in's device in a daemon, for tests from outside: SIGUSR1 fails it for good, as a
 * kernel's fault does; CUDA_HOST_MEMORY is what it has, in bytes, else 1 GiB. */
#include "cuda_runtime_api.h"

#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

static void fail(int number)
{
    static const char line[] = "the stand-in fails\n";
    (void)number;
    __atomic_store_n(&cuda_host_fault, cudaErrorIllegalAddress, __ATOMIC_RELAXED);
    if (write(STDERR_FILENO, line, sizeof line - 1) < 0)
        abort();
}

__attribute__((constructor)) static void prepare(void)
{
    const char *memory = getenv("CUDA_HOST_MEMORY");
    cuda_host_memory_limit = memory ? strtoull(memory, NULL, 10) : 1 << 30;
    signal(SIGUSR1, fail);
}
