/* Of the stand-in (cuda_runtime_api.h): streams, events, graphs, devices.
 *
 * The default stream (NULL) does everything at once. Other streams do nothing until somebody waits
 * for them: what is enqueued runs at cudaStreamSynchronize, at another stream's wait for one of
 * their events, or at cudaFree. So host memory that is read or written too early, and an event that
 * is not waited for, give wrong results here every time. Between BeginCapture and EndCapture a
 * stream collects instead, and a graph's launch runs what was collected, with the arguments of that
 * time. Meanwhile its thread may not allocate, free, wait for that stream or use the default one,
 * nor launch a kernel that never was: a card would have to load it, and that may wait.
 *
 * cudaMemcpy is the default stream's too. From pageable memory to a device it reads its source at
 * once, and the device has it as late as can be, as NVIDIA's "API synchronization behavior" allows:
 * before what the default stream does next, or a stream that waits for it (cudaStreamDefault), or
 * at cudaDeviceSynchronize, and not before a non-blocking stream's work.
 *
 * Every thread has a current device, 0 at first. Streams, events and memory are of the device that
 * was current when they were made; a launch in a stream of another than the current device fails,
 * as on a card. Calls exclude each other.
 *
 * Plain copies do not ask what an address is. Those of two dimensions, which take a decoder's
 * surfaces (kernels/cuda/device_memory.c), do: they write to device memory alone, all of it inside
 * one piece, and do not read pinned memory; what the stand-in does not know may be a surface that
 * another driver, a test's libcuda, allocated. */
#ifndef TV3S_TESTS_CUDA_HOST_STREAMS_H
#define TV3S_TESTS_CUDA_HOST_STREAMS_H

typedef struct cuda_host_graph *cudaGraph_t;
typedef struct cuda_host_graph *cudaGraphExec_t;

enum { cudaStreamDefault = 0, cudaStreamNonBlocking = 1 };
enum { cudaEventDisableTiming = 2, cudaHostAllocDefault = 0 };
enum cudaStreamCaptureMode {
    cudaStreamCaptureModeGlobal,
    cudaStreamCaptureModeThreadLocal,
    cudaStreamCaptureModeRelaxed
};

enum cudaMemoryType {
    cudaMemoryTypeUnregistered,
    cudaMemoryTypeHost,
    cudaMemoryTypeDevice,
    cudaMemoryTypeManaged
};

struct cudaPointerAttributes {
    enum cudaMemoryType type;
    int device;
    void *devicePointer, *hostPointer;
    long reserved[8];
};

struct cudaDeviceProp {
    char name[256];
    int major, minor;
};

cudaError_t cudaDriverGetVersion(int *version); /* 0: there is none */
cudaError_t cudaRuntimeGetVersion(int *version);
cudaError_t cudaGetDeviceCount(int *count);
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *prop, int device);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total);
cudaError_t cudaHostAlloc(void **p, size_t bytes, unsigned flags);
cudaError_t cudaFreeHost(void *p);
cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *out, const void *p);

/* The driver's functions that cuda.h declares. */
enum { cudaEnableDefault = 0 };
enum cudaDriverEntryPointQueryResult {
    cudaDriverEntryPointSuccess,
    cudaDriverEntryPointSymbolNotFound,
    cudaDriverEntryPointVersionNotSufficent
};
cudaError_t cudaGetDriverEntryPointByVersion(const char *symbol, void **function, unsigned version,
                                             unsigned long long flags,
                                             enum cudaDriverEntryPointQueryResult *found);

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t s);
cudaError_t cudaStreamSynchronize(cudaStream_t s);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *out, unsigned flags);
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to);
cudaError_t cudaEventDestroy(cudaEvent_t e);
cudaError_t cudaEventSynchronize(cudaEvent_t e);
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s);
cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned flags);
cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, enum cudaMemcpyKind kind,
                            cudaStream_t s);
cudaError_t cudaMemcpyPeerAsync(void *dst, int dst_device, const void *src, int src_device,
                                size_t bytes, cudaStream_t s);
cudaError_t cudaMemcpy2DAsync(void *dst, size_t dst_pitch, const void *src, size_t src_pitch,
                              size_t width, size_t height, enum cudaMemcpyKind kind,
                              cudaStream_t s);
cudaError_t cudaMemsetAsync(void *p, int value, size_t bytes, cudaStream_t s);

cudaError_t cudaStreamBeginCapture(cudaStream_t s, enum cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *out);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t graph, unsigned long long flags);
cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t s);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph);

/* ---- the stand-in's own ---- */

/* What the host asked for so far: operations enqueued (a graph's launch is one), waits, and
 * allocations of device and pinned memory. */
extern size_t cuda_host_enqueued, cuda_host_waits, cuda_host_allocations;
/* Bytes of device memory in use, of all devices, and how many there are, of each. Memory that
 * processes share counts in the one that made it, while that one has its handle or a mapping. */
extern size_t cuda_host_memory, cuda_host_memory_limit;
/* Handles of shared memory and ranges of addresses that were not given back (virtual_memory.c). */
extern size_t cuda_host_handles, cuda_host_ranges;
/* Not cudaSuccess: every wait from now on says so, as after a kernel's fault; on this device, -1:
 * on all. */
extern cudaError_t cuda_host_fault;
extern int cuda_host_fault_device;
/* Not 0: every wait from now on lasts until it is 0 again, and says so on stderr. */
extern int cuda_host_hold;
/* Devices that cudaGetDeviceCount finds: 1 at first. Set before anything is allocated. */
extern int cuda_host_devices;
/* What cudaDriverGetVersion says. One older than the runtime finds no devices. */
extern int cuda_host_driver_version;
/* Their compute capability's first number: 8 at first. */
extern int cuda_host_major;

/* Calls that could fail so far: copies, launches, waits, allocations, captures, products. The one
 * after which this is cuda_host_fail_at (0: none) does nothing and fails, with this error. */
extern size_t cuda_host_calls, cuda_host_fail_at;
extern cudaError_t cuda_host_fail_with;
/* What the call that asks is to return: counts it. */
cudaError_t cuda_host_call(void);

/* Runs `run(args)`, then `destroy(args)`, in the stream's order. */
void cuda_host_enqueue(cudaStream_t s, void (*run)(void *), void (*destroy)(void *), void *args);
void cuda_host_run_all(void);
void cuda_host_end_late_copies(void); /* of the default stream */
/* Whether the stream is not the current device's. */
bool cuda_host_elsewhere(cudaStream_t s);
bool cuda_host_captures(cudaStream_t s);
/* What a call that a capture forbids is to return: it makes this thread's invalid. */
cudaError_t cuda_host_not_while_capturing(void);

/* For the rest of the scope no other thread is in a call. */
#define CUDA_HOST_LOCKED                                                                           \
    __attribute__((cleanup(cuda_host_unlock), unused)) int locked_machine = cuda_host_lock()
int cuda_host_lock(void);
void cuda_host_unlock(const int *locked);
int cuda_host_device(void); /* the thread's */
bool cuda_host_device_there(int device);
/* What runs now is this device's: its memory is accessible, that of others is not (memory.c). */
void cuda_host_open_memory(int device);
/* Memory of `device` mapped by virtual_memory.c, and no longer; what of a device is in use changes
 * by so much, false where there is no room. */
void cuda_host_map(void *p, size_t bytes, int device);
void cuda_host_unmap(void *p);
bool cuda_host_charge(int device, size_t bytes);
void cuda_host_discharge(int device, size_t bytes);
/* Whether `bytes` at p are all of one piece of device memory, and whose, of pinned memory, of
 * neither, or partly of either: then a card would fault. */
enum cuda_host_place { CUDA_HOST_OTHER, CUDA_HOST_DEVICE, CUDA_HOST_PINNED, CUDA_HOST_BEYOND };
enum cuda_host_place cuda_host_place(const void *p, size_t bytes, int *device);
cudaError_t cuda_host_set_error(cudaError_t e); /* what cudaGetLastError says; returns it */

#endif
