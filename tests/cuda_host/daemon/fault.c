/* The stand-in's devices in a daemon, for tests from outside: CUDA_HOST_DEVICES says how many, else
 * one, and CUDA_HOST_MEMORY what each has, in bytes, else 1 GiB. SIGUSR1 fails the last of them for
 * good, as a kernel's fault does; from SIGUSR2 to the next one whoever waits for one is held. */
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

static void hold(int number)
{
    (void)number;
    __atomic_xor_fetch(&cuda_host_hold, 1, __ATOMIC_RELAXED);
}

__attribute__((constructor)) static void prepare(void)
{
    const char *memory = getenv("CUDA_HOST_MEMORY"), *devices = getenv("CUDA_HOST_DEVICES");
    cuda_host_memory_limit = memory ? strtoull(memory, NULL, 10) : 1 << 30;
    cuda_host_devices = devices ? atoi(devices) : 1;
    cuda_host_fault_device = cuda_host_devices - 1;
    signal(SIGUSR1, fail);
    signal(SIGUSR2, hold);
}
