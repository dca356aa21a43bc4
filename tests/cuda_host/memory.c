/* Of the stand-in (cuda_runtime_api.h): device and pinned memory.
 *
 * Of one device it comes from malloc, between AddressSanitizer's red zones. Where there are several
 * it is mapped, and only the memory of the device that is at work is accessible: a kernel or a copy
 * of one that touches another's, and a host that touches any but the last, end the process with
 * SIGSEGV, however they came by the address. (Copies between devices say so.) What processes share
 * is mapped always: virtual_memory.c. */
#include "cuda_runtime_api.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { PAGE = 4096, MAX_DEVICES = 16 };

size_t cuda_host_allocations, cuda_host_memory;
size_t cuda_host_memory_limit = SIZE_MAX;

static struct allocation {
    void *p;
    size_t bytes, mapped; /* mapped 0: from malloc */
    int device;
    enum {
        PLAIN,
        SHARED,
        PINNED
    } kind; /* SHARED: virtual_memory.c's, of which `bytes` is not in use */
} * allocations;
static size_t count, places;
static size_t charged[MAX_DEVICES]; /* virtual_memory.c's */
static int open_device = -1;        /* whose memory is accessible */

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
    size_t bytes = charged[device];
    for (size_t i = 0; i < count; i++)
        if (allocations[i].kind == PLAIN && allocations[i].device == device)
            bytes += allocations[i].bytes;
    return bytes;
}

bool cuda_host_charge(int device, size_t bytes)
{
    if (bytes > cuda_host_memory_limit - used_by(device))
        return false;
    charged[device] += bytes;
    cuda_host_memory += bytes;
    cuda_host_allocations++;
    return true;
}

void cuda_host_discharge(int device, size_t bytes)
{
    charged[device] -= bytes;
    cuda_host_memory -= bytes;
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
}

static void forget(struct allocation *a)
{
    *a = allocations[--count];
    if (count == 0) {
        free(allocations);
        allocations = NULL;
        places = 0;
    }
}

static struct allocation *find(const void *p)
{
    for (size_t i = count; i > 0; i--)
        if (allocations[i - 1].p == p)
            return &allocations[i - 1];
    return NULL;
}

enum cuda_host_place cuda_host_place(const void *p, size_t bytes, int *device)
{
    for (size_t i = 0; i < count; i++) {
        const struct allocation *a = &allocations[i];
        size_t at = (uintptr_t)p - (uintptr_t)a->p;
        if ((uintptr_t)p < (uintptr_t)a->p || at >= a->bytes)
            continue;
        *device = a->device;
        return bytes > a->bytes - at ? CUDA_HOST_BEYOND
               : a->kind == PINNED   ? CUDA_HOST_PINNED
                                     : CUDA_HOST_DEVICE;
    }
    return CUDA_HOST_OTHER;
}

cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *out, const void *p)
{
    static const enum cudaMemoryType type[] = {
        [CUDA_HOST_DEVICE] = cudaMemoryTypeDevice,
        [CUDA_HOST_PINNED] = cudaMemoryTypeHost,
    };
    CUDA_HOST_LOCKED;
    int device = -1;
    cudaError_t e = cuda_host_call();
    if (e != cudaSuccess)
        return e;
    enum cuda_host_place place = cuda_host_place(p, 1, &device);
    *out = (struct cudaPointerAttributes){
        .type = place == CUDA_HOST_OTHER ? cudaMemoryTypeUnregistered : type[place],
        .device = device};
    return cudaSuccess;
}

void cuda_host_map(void *p, size_t bytes, int device)
{
    keep((struct allocation){p, bytes, bytes, device, SHARED});
    if (open_device == -1)
        open_device = device;
    if (mprotect(p, bytes, open_device == device ? PROT_READ | PROT_WRITE : PROT_NONE))
        abort();
}

void cuda_host_unmap(void *p)
{
    cuda_host_run_all();
    forget(find(p));
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
    if (e == cudaSuccess)
        e = cuda_host_not_while_capturing();
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
    cuda_host_memory += bytes;
    cuda_host_allocations++;
    cuda_host_open_memory(a.device);
    memset(a.p, 0xff, bytes);
    *p = a.p;
    return cudaSuccess;
}

cudaError_t cudaFree(void *p)
{
    CUDA_HOST_LOCKED;
    cudaError_t e = cuda_host_not_while_capturing();
    if (e != cudaSuccess)
        return e;
    cuda_host_run_all();
    struct allocation *a = find(p);
    if (!a) /* NULL */
        return cudaSuccess;
    if (a->kind != PLAIN)
        return cudaErrorInvalidValue;
    cuda_host_memory -= a->bytes;
    if (a->mapped)
        munmap(a->p, a->mapped);
    else
        free(a->p);
    forget(a);
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
    if (e == cudaSuccess)
        e = cuda_host_not_while_capturing();
    if (e != cudaSuccess)
        return e;
    cuda_host_allocations++;
    *p = aligned_alloc(256, (bytes + 255) / 256 * 256);
    if (!*p || flags)
        return cudaErrorMemoryAllocation;
    memset(*p, 0xff, bytes);
    keep((struct allocation){*p, bytes, 0, -1, PINNED});
    return cudaSuccess;
}

cudaError_t cudaFreeHost(void *p)
{
    CUDA_HOST_LOCKED;
    cudaError_t e = cuda_host_not_while_capturing();
    if (e != cudaSuccess)
        return e;
    cuda_host_run_all();
    if (!p)
        return cudaSuccess;
    struct allocation *a = find(p);
    if (!a || a->kind != PINNED)
        return cudaErrorInvalidValue;
    free(p);
    forget(a);
    return cudaSuccess;
}
