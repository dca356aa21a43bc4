/* A stand-in for CUDA's <cuda_runtime_api.h>: the same sources, compiled by gcc and g++, run on the
 * host. This file is what C knows of it, cuda_runtime.h what kernels call.
 *
 * It shows the arithmetic, the indices and the barriers of every kernel on tiny shapes, under
 * AddressSanitizer and UBSan and without a GPU. It says nothing about speed.
 *
 * A launch runs its blocks one after the other. Each thread of a block is a fiber: it runs until it
 * waits (__syncthreads; a warp's shuffle, vote or __syncwarp), and then another one runs, of its
 * own warp if one can. Nothing is lockstep, lanes of a warp are not either, and warps are as far
 * apart as barriers allow, so code that counts on less fails here. `cuda_host_reverse` turns the
 * order of blocks and threads round: where a barrier is missing, the result depends on it.
 *
 * Shared memory is filled with 0xff (NaN) when a block starts, device memory when it is allocated.
 * Dynamic shared memory has exactly the size that the launch asked for, between AddressSanitizer's
 * red zones; __shared__ variables have red zones too (-fsanitize-sections=cuda_shared; not those of
 * templates with external linkage).
 *
 * When no thread can go on, the launch fails with cudaErrorLaunchFailure, and stderr says which
 * threads wait where: one has left or waits at another barrier, or a lane that the mask names takes
 * no part. Launches that no card accepts fail with cudaErrorInvalidValue or -Configuration.
 *
 * Streams and devices: streams.h; memory: memory.c; the driver's virtual memory: cuda.h. */
#ifndef TV3S_TESTS_CUDA_HOST_CUDA_RUNTIME_API_H
#define TV3S_TESTS_CUDA_HOST_CUDA_RUNTIME_API_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vector_types.h"

#ifdef __cplusplus
extern "C" {
#endif

#define CUDART_VERSION 13000

typedef enum cudaError {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorMemoryAllocation = 2,
    cudaErrorInvalidConfiguration = 9,
    cudaErrorInvalidPitchValue = 12,
    cudaErrorInsufficientDriver = 35,
    cudaErrorNoDevice = 100,
    cudaErrorInvalidDevice = 101,
    cudaErrorInvalidResourceHandle = 400,
    cudaErrorNotReady = 600,
    cudaErrorIllegalAddress = 700,
    cudaErrorLaunchFailure = 719,
    cudaErrorStreamCaptureUnsupported = 900,
    cudaErrorStreamCaptureInvalidated = 901,
    cudaErrorNotSupported = 801,
    cudaErrorUnknown = 999,
} cudaError_t;

enum cudaMemcpyKind {
    cudaMemcpyHostToHost,
    cudaMemcpyHostToDevice,
    cudaMemcpyDeviceToHost,
    cudaMemcpyDeviceToDevice,
    cudaMemcpyDefault
};

enum cudaFuncAttribute {
    cudaFuncAttributeMaxDynamicSharedMemorySize = 8,
    cudaFuncAttributePreferredSharedMemoryCarveout = 9,
};

typedef struct cuda_host_stream *cudaStream_t;
typedef struct cuda_host_event *cudaEvent_t;

const char *cudaGetErrorName(cudaError_t e);
const char *cudaGetErrorString(cudaError_t e);
cudaError_t cudaGetLastError(void); /* and forgets it */
cudaError_t cudaPeekAtLastError(void);

cudaError_t cudaMalloc(void **p, size_t bytes);
cudaError_t cudaFree(void *p);
cudaError_t cudaMemcpy(void *dst, const void *src, size_t bytes, enum cudaMemcpyKind kind);
cudaError_t cudaDeviceSynchronize(void);

#include "streams.h"

/* ---- the stand-in's own ---- */

/* Blocks and threads run in falling order. */
extern bool cuda_host_reverse;
/* Whether launches that fail say why on stderr. True at first. */
extern bool cuda_host_verbose;
/* Launches so far. */
extern size_t cuda_host_launches;

typedef void (*cuda_host_body)(void *args); /* what one thread does */

/* Runs `body` in every thread of the grid. `kernel` is whose limit of shared memory counts. Sets
 * what cudaGetLastError returns. */
void cuda_host_run(const dim3 *grid, const dim3 *block, size_t shared, const void *kernel,
                   const char *name, cuda_host_body body, void *args);
cudaError_t cuda_host_shared_limit(const void *kernel, size_t bytes);

#ifdef __cplusplus
}
#endif

#endif
