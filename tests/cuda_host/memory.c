/* Of the stand-in (cuda_runtime_api.h): device and pinned memory.
 *
 * Of one device it comes from malloc, between AddressSanitizer's red zones. Where there are several
 * it is mapped, and only the memory of the device that is at work is accessible: a kernel or a copy
 * of one that touches another's, and a host that touches any but the last, end the process with
 * SIGSEGV, however they came by the address. */
#include "cuda_runtime_api.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { PAGE = 4096 };

size_t cuda_host_allocations, cuda_host_memory;
size_t cuda_host_memory_limit = SIZE_MAX;

static struct allocation {
    void *p;
    size_t bytes, mapped; /* mapped 0: from malloc */
    int device;
} * allocations;
static size_t count, places;
static int open_device = -1; /* whose memory is accessible */

static void protect(int device, int how)
{
    for (size_t i = 0; i < count; i++)
        if (allocations[i].mapped && allocations[i].device == device &&
            mprotect(allocations[i].p, allocations[i].mapped, how))
            abort();
}

void cuda_host_open_memory(int device)
{
    if (open_device == device)
        return;
    protect(open_device, PROT_NONE);
    protect(device, PROT_READ | PROT_WRITE);
    open_device = device;
}

static size_t used_by(int device)
{
    size_t bytes = 0;
    for (size_t i = 0; i < count; i++)
        bytes += allocations[i].device == device ? allocations[i].bytes : 0;
    return bytes;
}

static void keep(struct allocation a)
{
    if (count == places) {
        places = places ? 2 * places : 256;
        allocations = realloc(allocations, places * sizeof *allocations);
        if (!allocations)
            abort();
    }
    allocations[count++] = a;
    cuda_host_memory += a.bytes;
    cuda_host_allocations++;
}

static struct allocation *find(const void *p)
{
    for (size_t i = count; i > 0; i--)
        if (allocations[i - 1].p == p)
            return &allocations[i - 1];
    return NULL;
}

static void *map(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                   -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

cudaError_t cudaMalloc(void **p, size_t bytes)
{
    CUDA_HOST_LOCKED;
    struct allocation a = {.bytes = bytes, .device = cuda_host_device()};
    cudaError_t e = cuda_host_call();
    if (e != cudaSuccess)
        return cuda_host_set_error(e);
    if (bytes > cuda_host_memory_limit - used_by(a.device))
        return cuda_host_set_error(cudaErrorMemoryAllocation);
    if (cuda_host_devices > 1)
        a.p = map(a.mapped = (bytes + PAGE - 1) / PAGE * PAGE);
    else if (posix_memalign(&a.p, 256, bytes))
        a.p = NULL;
    if (!a.p)
        return cuda_host_set_error(cudaErrorMemoryAllocation);
    keep(a);
    cuda_host_open_memory(a.device);
    memset(a.p, 0xff, bytes);
    *p = a.p;
    return cudaSuccess;
}

cudaError_t cudaFree(void *p)
{
    CUDA_HOST_LOCKED;
    cuda_host_run_all();
    struct allocation *a = find(p);
    if (!a) /* NULL */
        return cudaSuccess;
    cuda_host_memory -= a->bytes;
    if (a->mapped)
        munmap(a->p, a->mapped);
    else
        free(a->p);
    *a = allocations[--count];
    if (count == 0) {
        free(allocations);
        allocations = NULL;
        places = 0;
    }
    return cudaSuccess;
}

cudaError_t cudaMemcpy(void *dst, const void *src, size_t bytes, enum cudaMemcpyKind kind)
{
    CUDA_HOST_LOCKED;
    (void)kind;
    cudaError_t e = cuda_host_call();
    if (e != cudaSuccess)
        return cuda_host_set_error(e);
    cuda_host_open_memory(cuda_host_device());
    memmove(dst, src, bytes);
    return cudaSuccess;
}

cudaError_t cudaMemset(void *p, int value, size_t bytes)
{
    CUDA_HOST_LOCKED;
    cuda_host_open_memory(cuda_host_device());
    memset(p, value, bytes);
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total)
{
    CUDA_HOST_LOCKED;
    *total = cuda_host_memory_limit;
    *free_bytes = cuda_host_memory_limit - used_by(cuda_host_device());
    return cudaSuccess;
}

cudaError_t cudaHostAlloc(void **p, size_t bytes, unsigned flags)
{
    CUDA_HOST_LOCKED;
    cudaError_t e = cuda_host_call();
    if (e != cudaSuccess)
        return e;
    cuda_host_allocations++;
    *p = aligned_alloc(256, (bytes + 255) / 256 * 256);
    if (!*p || flags)
        return cudaErrorMemoryAllocation;
    memset(*p, 0xff, bytes);
    return cudaSuccess;
}

cudaError_t cudaFreeHost(void *p)
{
    CUDA_HOST_LOCKED;
    cuda_host_run_all();
    free(p);
    return cudaSuccess;
}
