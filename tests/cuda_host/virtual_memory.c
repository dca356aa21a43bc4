/* Of the stand-in (cuda_runtime_api.h): the driver's virtual memory management, cuda.h.
 *
 * Physical memory is a memfd, with a page behind it that says what it is, so that a descriptor
 * shares it between processes as a card's does, and any other descriptor is refused. A range of
 * addresses is mapped without access; cuMemMap puts the memfd there, and cuMemSetAccess makes it
 * memory of its device, as cudaMalloc's is (memory.c): no other device's, and no host's where there
 * are several. A page behind each range stays without access.
 *
 * It is strict: sizes are whole granules, a range is mapped as a whole and once, not freed while it
 * is mapped, and what a handle has not got is not mapped. What gives back cannot fail
 * (cuda_host_fail_at), all else can. */
#include "cuda.h"
#include "cuda_runtime_api.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PAGE = 4096, GRANULARITY = 2 << 20, MAX_DEVICES = 16 };

struct what_it_is {
    char name[32];
    uint64_t bytes;
    int32_t device;
};
static const char name[32] = "memory of the stand-in for CUDA";

struct handle {
    int fd;
    size_t bytes;
    int device;
    bool made_here, released;
    int mappings;
    struct handle *next;
};

struct range {
    char *at;
    size_t bytes;
    struct handle *mapped;
    bool accessible;
    struct range *next;
};

size_t cuda_host_handles, cuda_host_ranges;
static struct handle *handles;
static struct range *ranges;

static CUresult result(cudaError_t e)
{
    return (CUresult)e;
}

/* Returns from the call that is to fail, and lets no other thread in. */
#define CALL                                                                                       \
    CUDA_HOST_LOCKED;                                                                              \
    cudaError_t injected = cuda_host_call();                                                       \
    if (injected != cudaSuccess)                                                                   \
    return result(injected)
#define REFUSE_UNLESS(what, error)                                                                 \
    if (!(what))                                                                                   \
    return result(error)

/* ---- handles ---- */

static struct handle *find_handle(CUmemGenericAllocationHandle h)
{
    for (struct handle *at = handles; at; at = at->next)
        if ((uintptr_t)at == h && !at->released)
            return at;
    return NULL;
}

static CUmemGenericAllocationHandle keep_handle(struct handle h)
{
    struct handle *kept = malloc(sizeof *kept);
    if (!kept)
        abort();
    h.next = handles;
    *kept = h;
    handles = kept;
    cuda_host_handles++;
    return (uintptr_t)kept;
}

static void drop_if_unused(struct handle *h)
{
    struct handle **at = &handles;
    if (!h->released || h->mappings > 0)
        return;
    while (*at != h)
        at = &(*at)->next;
    *at = h->next;
    if (h->made_here)
        cuda_host_discharge(h->device, h->bytes);
    close(h->fd);
    free(h);
}

static bool known(const CUmemAllocationProp *p)
{
    return p->type == CU_MEM_ALLOCATION_TYPE_PINNED &&
           p->location.type == CU_MEM_LOCATION_TYPE_DEVICE &&
           p->requestedHandleTypes == CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
}

CUresult cuMemGetAllocationGranularity(size_t *out, const CUmemAllocationProp *prop,
                                       CUmemAllocationGranularity_flags flags)
{
    CALL;
    REFUSE_UNLESS(known(prop) && flags == CU_MEM_ALLOC_GRANULARITY_MINIMUM, cudaErrorInvalidValue);
    REFUSE_UNLESS(cuda_host_device_there(prop->location.id), cudaErrorInvalidDevice);
    *out = GRANULARITY;
    return CUDA_SUCCESS;
}

/* As all new memory it holds 0xff. */
static int make_memory(size_t bytes, int device)
{
    struct what_it_is what = {.bytes = bytes, .device = device};
    int fd = memfd_create(name, MFD_CLOEXEC);
    memcpy(what.name, name, sizeof name);
    if (fd < 0 || ftruncate(fd, (off_t)(bytes + PAGE)) ||
        pwrite(fd, &what, sizeof what, (off_t)bytes) != sizeof what)
        abort();
    void *p = mmap(NULL, bytes, PROT_WRITE, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED)
        abort();
    memset(p, 0xff, bytes);
    munmap(p, bytes);
    return fd;
}

CUresult cuMemCreate(CUmemGenericAllocationHandle *out, size_t bytes,
                     const CUmemAllocationProp *prop, unsigned long long flags)
{
    CALL;
    REFUSE_UNLESS(known(prop) && bytes > 0 && bytes % GRANULARITY == 0 && flags == 0,
                  cudaErrorInvalidValue);
    int device = prop->location.id;
    REFUSE_UNLESS(cuda_host_device_there(device), cudaErrorInvalidDevice);
    REFUSE_UNLESS(cuda_host_charge(device, bytes), cudaErrorMemoryAllocation);
    *out = keep_handle((struct handle){
        .fd = make_memory(bytes, device), .bytes = bytes, .device = device, .made_here = true});
    return CUDA_SUCCESS;
}

CUresult cuMemRelease(CUmemGenericAllocationHandle handle)
{
    CUDA_HOST_LOCKED;
    struct handle *h = find_handle(handle);
    REFUSE_UNLESS(h, cudaErrorInvalidValue);
    h->released = true;
    cuda_host_handles--;
    drop_if_unused(h);
    return CUDA_SUCCESS;
}

CUresult cuMemExportToShareableHandle(void *out, CUmemGenericAllocationHandle handle,
                                      CUmemAllocationHandleType type, unsigned long long flags)
{
    CALL;
    const struct handle *h = find_handle(handle);
    REFUSE_UNLESS(h && type == CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR && flags == 0,
                  cudaErrorInvalidValue);
    int fd = dup(h->fd);
    REFUSE_UNLESS(fd >= 0, cudaErrorUnknown);
    memcpy(out, &fd, sizeof fd);
    return CUDA_SUCCESS;
}

static bool is_memory(int fd, struct what_it_is *what)
{
    struct stat st;
    return fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size > PAGE &&
           pread(fd, what, sizeof *what, st.st_size - PAGE) == (ssize_t)sizeof *what &&
           memcmp(what->name, name, sizeof name) == 0 &&
           what->bytes == (uint64_t)(st.st_size - PAGE);
}

CUresult cuMemImportFromShareableHandle(CUmemGenericAllocationHandle *out, void *shared,
                                        CUmemAllocationHandleType type)
{
    CALL;
    struct what_it_is what;
    REFUSE_UNLESS(type == CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, cudaErrorNotSupported);
    REFUSE_UNLESS(is_memory((int)(uintptr_t)shared, &what), cudaErrorInvalidValue);
    REFUSE_UNLESS(cuda_host_device_there(what.device), cudaErrorInvalidDevice);
    int fd = fcntl((int)(uintptr_t)shared, F_DUPFD_CLOEXEC, 0);
    REFUSE_UNLESS(fd >= 0, cudaErrorUnknown);
    *out = keep_handle((struct handle){.fd = fd, .bytes = what.bytes, .device = what.device});
    return CUDA_SUCCESS;
}

/* ---- ranges ---- */

static struct range *find_range(CUdeviceptr at, size_t bytes)
{
    for (struct range *r = ranges; r; r = r->next)
        if ((uintptr_t)r->at == at && r->bytes == bytes)
            return r;
    return NULL;
}

CUresult cuMemAddressReserve(CUdeviceptr *out, size_t bytes, size_t alignment, CUdeviceptr at,
                             unsigned long long flags)
{
    CALL;
    REFUSE_UNLESS(bytes > 0 && bytes % GRANULARITY == 0 && !alignment && !at && !flags,
                  cudaErrorInvalidValue);
    void *p =
        mmap(NULL, bytes + PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    REFUSE_UNLESS(p != MAP_FAILED, cudaErrorMemoryAllocation);
    struct range *r = malloc(sizeof *r);
    if (!r)
        abort();
    *r = (struct range){.at = p, .bytes = bytes, .next = ranges};
    ranges = r;
    cuda_host_ranges++;
    *out = (uintptr_t)p;
    return CUDA_SUCCESS;
}

CUresult cuMemAddressFree(CUdeviceptr at, size_t bytes)
{
    CUDA_HOST_LOCKED;
    struct range *r = find_range(at, bytes), **link = &ranges;
    REFUSE_UNLESS(r && !r->mapped, cudaErrorInvalidValue);
    while (*link != r)
        link = &(*link)->next;
    *link = r->next;
    munmap(r->at, r->bytes + PAGE);
    free(r);
    cuda_host_ranges--;
    return CUDA_SUCCESS;
}

CUresult cuMemMap(CUdeviceptr at, size_t bytes, size_t offset, CUmemGenericAllocationHandle handle,
                  unsigned long long flags)
{
    CALL;
    struct range *r = find_range(at, bytes);
    struct handle *h = find_handle(handle);
    REFUSE_UNLESS(r && !r->mapped && h && bytes <= h->bytes && offset == 0 && flags == 0,
                  cudaErrorInvalidValue);
    if (mmap(r->at, bytes, PROT_NONE, MAP_SHARED | MAP_FIXED, h->fd, 0) == MAP_FAILED)
        abort();
    r->mapped = h;
    h->mappings++;
    return CUDA_SUCCESS;
}

CUresult cuMemUnmap(CUdeviceptr at, size_t bytes)
{
    CUDA_HOST_LOCKED;
    struct range *r = find_range(at, bytes);
    REFUSE_UNLESS(r && r->mapped, cudaErrorInvalidValue);
    if (r->accessible)
        cuda_host_unmap(r->at);
    if (mmap(r->at, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1,
             0) == MAP_FAILED)
        abort();
    r->mapped->mappings--;
    drop_if_unused(r->mapped);
    r->mapped = NULL;
    r->accessible = false;
    return CUDA_SUCCESS;
}

CUresult cuMemSetAccess(CUdeviceptr at, size_t bytes, const CUmemAccessDesc *desc, size_t count)
{
    CALL;
    struct range *r = find_range(at, bytes);
    REFUSE_UNLESS(r && r->mapped && !r->accessible && count == 1 &&
                      desc->location.type == CU_MEM_LOCATION_TYPE_DEVICE &&
                      desc->flags == CU_MEM_ACCESS_FLAGS_PROT_READWRITE,
                  cudaErrorInvalidValue);
    REFUSE_UNLESS(desc->location.id == r->mapped->device, cudaErrorInvalidDevice);
    cuda_host_map(r->at, bytes, r->mapped->device);
    r->accessible = true;
    return CUDA_SUCCESS;
}

/* ---- contexts, entry points ---- */

CUresult cuCtxGetCurrent(CUcontext *out)
{
    static char context[MAX_DEVICES];
    CALL;
    *out = (CUcontext)(void *)&context[cuda_host_device()];
    return CUDA_SUCCESS;
}

cudaError_t cudaGetDriverEntryPointByVersion(const char *symbol, void **function, unsigned version,
                                             unsigned long long flags,
                                             enum cudaDriverEntryPointQueryResult *found)
{
    typedef void (*any)(void);
#define ENTRY(f)                                                                                   \
    {                                                                                              \
#f, (any)(f)                                                                               \
    }
    static const struct {
        const char *symbol;
        any function;
    } entry[] = {
        ENTRY(cuCtxGetCurrent),
        ENTRY(cuMemGetAllocationGranularity),
        ENTRY(cuMemCreate),
        ENTRY(cuMemRelease),
        ENTRY(cuMemAddressReserve),
        ENTRY(cuMemAddressFree),
        ENTRY(cuMemMap),
        ENTRY(cuMemUnmap),
        ENTRY(cuMemSetAccess),
        ENTRY(cuMemExportToShareableHandle),
        ENTRY(cuMemImportFromShareableHandle),
    };
    cudaError_t e = cuda_host_call();
    *function = NULL;
    *found = cudaDriverEntryPointSymbolNotFound;
    if (e != cudaSuccess || flags != cudaEnableDefault || version > CUDART_VERSION)
        return e != cudaSuccess ? e : cudaErrorInvalidValue;
    for (size_t i = 0; i < sizeof entry / sizeof *entry; i++)
        if (strcmp(entry[i].symbol, symbol) == 0) {
            memcpy(function, &entry[i].function, sizeof *function);
            *found = cudaDriverEntryPointSuccess;
        }
    return cudaSuccess;
}
