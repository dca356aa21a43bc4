/* libcuda.so.1: whatever is pushed is a context, the device's memory is the host's. */
#include "tests/cuda_host/driver/driver.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

enum { DEPTH = 16, TEXTURE_ALIGNMENT = 512 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards copies */
static long copies;
static _Thread_local CUcontext stack[DEPTH];
static _Thread_local int depth;

static long faults[FAULTS];
static bool set[FAULTS];

/* ---- faults -------------------------------------------------------------------------------------
 */

__attribute__((constructor)) static void read_faults(void)
{
    static const char *const names[FAULTS] = {"memory", "codecs", "width", "height", "decode",
                                              "map",    "copy",   "wrong", "crash",  "socket"};
    char path[4096], name[32];
    long value;
    Dl_info self;
    if (!dladdr(&copies, &self))
        return;
    int folder = (int)(strrchr(self.dli_fname, '/') - self.dli_fname);
    snprintf(path, sizeof path, "%.*s/faults", folder, self.dli_fname);
    FILE *file = fopen(path, "r");
    while (file && fscanf(file, "%31s %li", name, &value) == 2)
        for (int i = 0; i < FAULTS; i++)
            if (strcmp(name, names[i]) == 0) {
                faults[i] = value;
                set[i] = true;
            }
    if (file)
        fclose(file);
}

long driver_fault(enum fault f, long none)
{
    return set[f] ? faults[f] : none;
}

/* ---- contexts -----------------------------------------------------------------------------------
 */

tcuDeviceGetAttribute cuDeviceGetAttribute;
CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute which, CUdevice device)
{
    *value = TEXTURE_ALIGNMENT;
    return device == 0 && which == CU_DEVICE_ATTRIBUTE_TEXTURE_ALIGNMENT ? CUDA_SUCCESS
                                                                         : INVALID_VALUE;
}

tcuCtxPushCurrent_v2 cuCtxPushCurrent_v2;
CUresult cuCtxPushCurrent_v2(CUcontext context)
{
    if (!context || depth == DEPTH)
        return INVALID_CONTEXT;
    stack[depth++] = context;
    return CUDA_SUCCESS;
}

tcuCtxPopCurrent_v2 cuCtxPopCurrent_v2;
CUresult cuCtxPopCurrent_v2(CUcontext *context)
{
    if (depth == 0)
        return INVALID_CONTEXT;
    *context = stack[--depth];
    return CUDA_SUCCESS;
}

CUresult driver_check_context(void)
{
    return depth > 0 ? CUDA_SUCCESS : INVALID_CONTEXT;
}

/* ---- copies -------------------------------------------------------------------------------------
 */

tcuMemcpy2DAsync_v2 cuMemcpy2DAsync_v2;
CUresult cuMemcpy2DAsync_v2(const CUDA_MEMCPY2D *c, CUstream stream)
{
    (void)stream;
    bool from_host = c->srcMemoryType == CU_MEMORYTYPE_HOST;
    bool to_host = c->dstMemoryType == CU_MEMORYTYPE_HOST;
    const char *from = from_host ? c->srcHost : (const char *)c->srcDevice;
    char *to = to_host ? c->dstHost : (char *)c->dstDevice;
    pthread_mutex_lock(&lock);
    bool fails = to_host && copies++ >= driver_fault(FAULT_COPY, __LONG_MAX__);
    pthread_mutex_unlock(&lock);
    if (fails)
        return CUDA_ERROR_UNKNOWN;
    from += c->srcY * c->srcPitch + c->srcXInBytes;
    to += c->dstY * c->dstPitch + c->dstXInBytes;
    for (size_t y = 0; y < c->Height; y++)
        memcpy(to + y * c->dstPitch, from + y * c->srcPitch, c->WidthInBytes);
    return driver_check_context();
}

tcuStreamSynchronize cuStreamSynchronize;
CUresult cuStreamSynchronize(CUstream stream)
{
    return stream ? INVALID_HANDLE : driver_check_context();
}

/* ---- errors -------------------------------------------------------------------------------------
 */

static const struct {
    CUresult code;
    const char *name, *text;
} errors[] = {
    {INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {NOT_SUPPORTED, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
    {CUDA_ERROR_UNKNOWN, "CUDA_ERROR_UNKNOWN", "unknown error"},
};

static size_t find(CUresult error)
{
    size_t last = sizeof errors / sizeof *errors - 1, i = 0;
    while (i < last && errors[i].code != error)
        i++;
    return i;
}

tcuGetErrorName cuGetErrorName;
CUresult cuGetErrorName(CUresult error, const char **out)
{
    *out = errors[find(error)].name;
    return CUDA_SUCCESS;
}

tcuGetErrorString cuGetErrorString;
CUresult cuGetErrorString(CUresult error, const char **out)
{
    *out = errors[find(error)].text;
    return CUDA_SUCCESS;
}

/* ---- the rest
 * ------------------------------------------------------------------------------------
 */

UNUSED(cuInit)
UNUSED(cuDeviceGetCount)
UNUSED(cuDeviceGet)
UNUSED(cuDeviceGetName)
UNUSED(cuDeviceComputeCapability)
UNUSED(cuCtxCreate_v2)
UNUSED(cuCtxSetLimit)
UNUSED(cuCtxDestroy_v2)
UNUSED(cuMemAlloc_v2)
UNUSED(cuMemAllocPitch_v2)
UNUSED(cuMemAllocManaged)
UNUSED(cuMemsetD8Async)
UNUSED(cuMemFree_v2)
UNUSED(cuMemcpy)
UNUSED(cuMemcpyAsync)
UNUSED(cuMemcpy2D_v2)
UNUSED(cuMemcpyHtoD_v2)
UNUSED(cuMemcpyHtoDAsync_v2)
UNUSED(cuMemcpyDtoH_v2)
UNUSED(cuMemcpyDtoHAsync_v2)
UNUSED(cuMemcpyDtoD_v2)
UNUSED(cuMemcpyDtoDAsync_v2)
UNUSED(cuCtxGetDevice)
UNUSED(cuDevicePrimaryCtxRetain)
UNUSED(cuDevicePrimaryCtxRelease)
UNUSED(cuDevicePrimaryCtxSetFlags)
UNUSED(cuDevicePrimaryCtxGetState)
UNUSED(cuDevicePrimaryCtxReset)
UNUSED(cuStreamCreate)
UNUSED(cuStreamQuery)
UNUSED(cuStreamDestroy_v2)
UNUSED(cuStreamAddCallback)
UNUSED(cuEventCreate)
UNUSED(cuEventDestroy_v2)
UNUSED(cuEventSynchronize)
UNUSED(cuEventQuery)
UNUSED(cuEventRecord)
UNUSED(cuLaunchKernel)
UNUSED(cuLinkCreate)
UNUSED(cuLinkAddData)
UNUSED(cuLinkComplete)
UNUSED(cuLinkDestroy)
UNUSED(cuModuleLoadData)
UNUSED(cuModuleUnload)
UNUSED(cuModuleGetFunction)
UNUSED(cuModuleGetGlobal)
UNUSED(cuTexObjectCreate)
UNUSED(cuTexObjectDestroy)
UNUSED(cuGLGetDevices_v2)
UNUSED(cuGraphicsGLRegisterImage)
UNUSED(cuGraphicsUnregisterResource)
UNUSED(cuGraphicsMapResources)
UNUSED(cuGraphicsUnmapResources)
UNUSED(cuGraphicsSubResourceGetMappedArray)
UNUSED(cuGraphicsResourceGetMappedPointer_v2)
UNUSED(cuArray3DCreate_v2)
UNUSED(cuArrayDestroy)
