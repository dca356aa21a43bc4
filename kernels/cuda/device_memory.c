/* kernels/device_memory.h: memory of a device for decoded pictures.
 *
 * What is shared is made by the driver's virtual memory management: physical memory with a handle,
 * the handle as a file descriptor, and a range of addresses that it is mapped to. The handle goes
 * at once: the mapping, here and in the other process, is what holds the memory. What is not shared
 * is of cudaMalloc.
 *
 * The driver's functions come through the runtime, which opens libcuda itself, so that a program
 * linked with this starts on machines that have none.
 *
 * The context is the device's primary one, the engine's too. Copies have a stream of their own that
 * waits for the default stream, in which a decoder's surfaces are made, and for nothing of the
 * engine's, whose streams are non-blocking ones. */
#include "kernels/device_memory.h"

#include "base/try.h"

#include <cuda.h>
#include <cuda_runtime_api.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

/* Those in which virtual memory management came, 10.2, and cuCtxGetCurrent, 4.0. */
#define DRIVER_CALLS(X)                                                                            \
    X(cuCtxGetCurrent, 4000)                                                                       \
    X(cuMemGetAllocationGranularity, 10020)                                                        \
    X(cuMemCreate, 10020)                                                                          \
    X(cuMemRelease, 10020)                                                                         \
    X(cuMemExportToShareableHandle, 10020)                                                         \
    X(cuMemImportFromShareableHandle, 10020)                                                       \
    X(cuMemAddressReserve, 10020)                                                                  \
    X(cuMemAddressFree, 10020)                                                                     \
    X(cuMemMap, 10020)                                                                             \
    X(cuMemUnmap, 10020)                                                                           \
    X(cuMemSetAccess, 10020)

struct driver {
#define MEMBER(name, version) __typeof__(name) *name;
    DRIVER_CALLS(MEMBER)
#undef MEMBER
};

struct device_memory {
    int device;
    size_t bytes; /* asked for */
    void *plain;  /* of cudaMalloc; or: */
    CUdeviceptr range;
    size_t range_bytes; /* a multiple of the granularity */
    bool mapped;
    cudaStream_t stream;
    struct driver driver;
};

/* What a call said. The driver's numbers are the runtime's (since CUDA 10.1). */
static enum err said(int code, const char *call)
{
    cudaError_t e = (cudaError_t)code;
    if (e == cudaSuccess)
        return ERR_OK;
    cudaGetLastError(); /* the engine's next launch is not to find it */
    enum err kind = e == cudaErrorMemoryAllocation ? ERR_NOMEM
                    : e == cudaErrorNotSupported || e == cudaErrorNoDevice ||
                            e == cudaErrorInvalidDevice || e == cudaErrorInsufficientDriver
                        ? ERR_UNSUPPORTED
                        : ERR_DEVICE;
    return err_set(kind, "memory of the GPU for pictures (%s): %s", call, cudaGetErrorString(e));
}

static enum err enter(int device)
{
    return said((int)cudaSetDevice(device), "cudaSetDevice");
}

/* ---- the driver ---- */

static enum err driver_call(const char *name, unsigned version, void **out)
{
    enum cudaDriverEntryPointQueryResult found;
    *out = NULL;
#if CUDART_VERSION >= 12050
    cudaError_t e = cudaGetDriverEntryPointByVersion(name, out, version, cudaEnableDefault, &found);
#else
    (void)version; /* the runtime's own */
    cudaError_t e = cudaGetDriverEntryPoint(name, out, cudaEnableDefault, &found);
#endif
    TRY(said((int)e, name));
    if (!*out)
        return err_set(ERR_UNSUPPORTED, "the GPU's driver has no %s", name);
    return ERR_OK;
}

static enum err driver_open(struct driver *d)
{
    union { /* an object's pointer for a function's */
        void *object;
        void (*function)(void);
    } p;
#define FIND(name, version)                                                                        \
    TRY(driver_call(#name, version, &p.object));                                                   \
    d->name = (__typeof__(name) *)p.function;
    DRIVER_CALLS(FIND)
#undef FIND
    return ERR_OK;
}

enum err device_memory_context(int device, void **context)
{
    struct driver d;
    CUcontext current = NULL;
    *context = NULL;
    TRY(enter(device));
    TRY(driver_open(&d));
    TRY(said((int)d.cuCtxGetCurrent(&current), "cuCtxGetCurrent"));
    if (!current)
        return err_set(ERR_DEVICE, "the GPU has no context");
    *context = current;
    return ERR_OK;
}

/* ---- open, import, close ---- */

/* ERR_OK, or what is there goes. */
static enum err begin(int device, size_t bytes, struct device_memory **out)
{
    TRY(enter(device));
    struct device_memory *m = calloc(1, sizeof *m);
    if (!m)
        return err_set(ERR_NOMEM, "out of memory");
    m->device = device;
    m->bytes = bytes;
    *out = m;
    return said((int)cudaStreamCreateWithFlags(&m->stream, cudaStreamDefault), "cudaStreamCreate");
}

static CUmemAllocationProp properties(const struct device_memory *m)
{
    return (CUmemAllocationProp){
        .type = CU_MEM_ALLOCATION_TYPE_PINNED,
        .requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR,
        .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = m->device},
    };
}

/* A range of addresses for m->bytes; physical memory has the same size. */
static enum err reserve(struct device_memory *m)
{
    const CUmemAllocationProp prop = properties(m);
    size_t granularity = 0;
    TRY(driver_open(&m->driver));
    TRY(said((int)m->driver.cuMemGetAllocationGranularity(&granularity, &prop,
                                                          CU_MEM_ALLOC_GRANULARITY_MINIMUM),
             "cuMemGetAllocationGranularity"));
    if (granularity == 0 || m->bytes == 0 || m->bytes > SIZE_MAX - granularity)
        return err_set(ERR_NOMEM, "no memory has %zu bytes", m->bytes);
    size_t bytes = (m->bytes + granularity - 1) / granularity * granularity;
    TRY(said((int)m->driver.cuMemAddressReserve(&m->range, bytes, 0, 0, 0), "cuMemAddressReserve"));
    m->range_bytes = bytes;
    return ERR_OK;
}

/* Maps a handle's memory, all of it; fails where it has less than the range. */
static enum err map(struct device_memory *m, CUmemGenericAllocationHandle handle)
{
    const CUmemAccessDesc access = {.location = properties(m).location,
                                    .flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
    TRY(said((int)m->driver.cuMemMap(m->range, m->range_bytes, 0, handle, 0), "cuMemMap"));
    m->mapped = true;
    return said((int)m->driver.cuMemSetAccess(m->range, m->range_bytes, &access, 1),
                "cuMemSetAccess");
}

/* Whoever gets the descriptor is not to see what had this memory before. */
static enum err clear(struct device_memory *m)
{
    TRY(said((int)cudaMemsetAsync(device_memory_at(m), 0, m->range_bytes, m->stream),
             "cudaMemsetAsync"));
    return said((int)cudaStreamSynchronize(m->stream), "cudaStreamSynchronize");
}

static enum err make_shared(struct device_memory *m, int *fd)
{
    const CUmemAllocationProp prop = properties(m);
    CUmemGenericAllocationHandle handle;
    int shared = -1;
    TRY(reserve(m));
    TRY(said((int)m->driver.cuMemCreate(&handle, m->range_bytes, &prop, 0), "cuMemCreate"));
    enum err e = map(m, handle);
    if (e == ERR_OK)
        e = clear(m);
    if (e == ERR_OK)
        e = said((int)m->driver.cuMemExportToShareableHandle(
                     &shared, handle, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0),
                 "cuMemExportToShareableHandle");
    if (e == ERR_OK)
        fcntl(*fd = shared, F_SETFD, FD_CLOEXEC);
    m->driver.cuMemRelease(handle);
    return e;
}

static enum err take_shared(struct device_memory *m, int fd)
{
    CUmemGenericAllocationHandle handle;
    TRY(reserve(m));
    TRY(said((int)m->driver.cuMemImportFromShareableHandle(
                 &handle, (void *)(uintptr_t)fd, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR),
             "cuMemImportFromShareableHandle"));
    enum err e = map(m, handle);
    m->driver.cuMemRelease(handle);
    return e;
}

static enum err done(struct device_memory *m, enum err e, struct device_memory **out)
{
    if (e != ERR_OK) {
        device_memory_close(m);
        m = NULL;
    }
    *out = m;
    return e;
}

enum err device_memory_open(int device, size_t bytes, int *fd, struct device_memory **out)
{
    struct device_memory *m = NULL;
    if (fd)
        *fd = -1;
    enum err e = begin(device, bytes, &m);
    if (e == ERR_OK)
        e = fd ? make_shared(m, fd) : said((int)cudaMalloc(&m->plain, bytes), "cudaMalloc");
    return done(m, e, out);
}

enum err device_memory_import(int device, int fd, size_t bytes, struct device_memory **out)
{
    struct device_memory *m = NULL;
    enum err e = begin(device, bytes, &m);
    if (e == ERR_OK)
        e = take_shared(m, fd);
    return done(m, e, out);
}

void device_memory_close(struct device_memory *m)
{
    if (!m)
        return;
    cudaSetDevice(m->device);
    if (m->mapped)
        m->driver.cuMemUnmap(m->range, m->range_bytes);
    if (m->range_bytes)
        m->driver.cuMemAddressFree(m->range, m->range_bytes);
    if (m->plain)
        cudaFree(m->plain);
    if (m->stream)
        cudaStreamDestroy(m->stream);
    free(m);
}

uint8_t *device_memory_at(const struct device_memory *m)
{
    union { /* the driver has addresses as numbers */
        uintptr_t number;
        void *at;
    } p = {.number = (uintptr_t)m->range};
    return m->range_bytes ? p.at : m->plain;
}

size_t device_memory_bytes(const struct device_memory *m)
{
    return m->bytes;
}

/* ---- copies ---- */

static enum err fits(const struct device_memory *m, size_t offset, size_t bytes)
{
    return offset <= m->bytes && bytes <= m->bytes - offset
               ? ERR_OK
               : err_set(ERR_ARG, "%zu bytes at %zu are not all in %zu bytes of a GPU's memory",
                         bytes, offset, m->bytes);
}

/* Waits whatever `e` is: nothing runs on when the caller gets it. */
static enum err finish(const struct device_memory *m, enum err e)
{
    enum err waited = said((int)cudaStreamSynchronize(m->stream), "a copy");
    return e == ERR_OK ? waited : e;
}

enum err device_memory_put(struct device_memory *m, size_t offset, const struct device_nv12 *from)
{
    size_t width = (size_t)from->width, height = (size_t)from->height;
    TRY(fits(m, offset, pixels_bytes(PIXELS_NV12, from->width, from->height)));
    TRY(enter(m->device));
    uint8_t *to = device_memory_at(m) + offset;
    enum err e = said((int)cudaMemcpy2DAsync(to, width, from->plane[0], from->pitch[0], width,
                                             height, cudaMemcpyDeviceToDevice, m->stream),
                      "cudaMemcpy2DAsync");
    if (e == ERR_OK)
        e = said((int)cudaMemcpy2DAsync(to + width * height, width, from->plane[1], from->pitch[1],
                                        width, height / 2, cudaMemcpyDeviceToDevice, m->stream),
                 "cudaMemcpy2DAsync");
    return finish(m, e);
}

enum err device_memory_read(struct device_memory *m, size_t offset, void *to, size_t bytes)
{
    TRY(fits(m, offset, bytes));
    TRY(enter(m->device));
    return finish(m, said((int)cudaMemcpyAsync(to, device_memory_at(m) + offset, bytes,
                                               cudaMemcpyDeviceToHost, m->stream),
                          "cudaMemcpyAsync"));
}
