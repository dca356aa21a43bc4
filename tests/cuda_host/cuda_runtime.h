/* Of the stand-in (cuda_runtime_api.h): launches, and what kernels call. C++, as kernels are. */
#ifndef TV3S_TESTS_CUDA_HOST_CUDA_RUNTIME_H
#define TV3S_TESTS_CUDA_HOST_CUDA_RUNTIME_H

#include "cuda_runtime_api.h"

#ifdef __cplusplus
extern "C" {
#endif
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;

void *cuda_host_shared(void); /* the block's dynamic shared memory */
int cuda_host_lane(void);
/* Waits for all threads of the block; in how many of them `predicate` was true. */
int cuda_host_block(int predicate, const char *file, int line);
/* Waits for the lanes of `mask`: *out = *value of lane `source`. */
void cuda_host_warp(unsigned mask, const void *value, size_t bytes, int source, void *out,
                    const char *file, int line);
/* Waits for the lanes of `mask`: in which of them `predicate` was true. */
unsigned cuda_host_vote(unsigned mask, int predicate, const char *file, int line);
/* Whether this launch is the call that is to fail (streams.h), or not to be in that stream. */
bool cuda_host_refused(cudaStream_t stream, const void *kernel);
/* cuda_pipeline.h's */
void cuda_host_copy(void *to, const void *from, size_t bytes, size_t zeros);
void cuda_host_copy_commit(void);
void cuda_host_copy_wait(unsigned prior);

#ifdef __cplusplus
}

#include <math.h>
#include <string.h>

static const int warpSize = 32;

/* ---- launch: kernel<<<grid, block, shared, stream>>>(arguments...) ---- */

#define LAUNCH(kernel, grid, block, shared, stream, ...)                                           \
    cuda_host_launch(grid, block, shared, stream, #kernel, kernel, __VA_ARGS__)

#define SHARED_BYTES(name) unsigned char *name = (unsigned char *)cuda_host_shared()

template <typename... Params, typename... Args>
static void cuda_host_launch(dim3 grid, dim3 block, size_t shared, cudaStream_t stream,
                             const char *name, void (*kernel)(Params...), Args... args)
{
    static_assert((sizeof(Params) + ... + 0) <= 4096, "a card takes so many bytes of arguments");
    if (cuda_host_refused(stream, (const void *)kernel))
        return;
    auto call = [=] { kernel(args...); };
    auto launch = [=] {
        cuda_host_run(
            &grid, &block, shared, (const void *)kernel, name,
            [](void *p) { (*static_cast<decltype(call) *>(p))(); }, (void *)&call);
    };
    typedef decltype(launch) Launch;
    cuda_host_enqueue(
        stream, [](void *p) { (*static_cast<Launch *>(p))(); },
        [](void *p) { delete static_cast<Launch *>(p); }, new Launch(launch));
}

template <typename... Params>
static cudaError_t cudaFuncSetAttribute(void (*kernel)(Params...), cudaFuncAttribute attribute,
                                        int value)
{
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize)
        return cudaSuccess;
    return cuda_host_shared_limit((const void *)kernel, (size_t)value);
}

template <typename T> static cudaError_t cudaMalloc(T **p, size_t bytes)
{
    return cudaMalloc((void **)p, bytes);
}

/* ---- barriers ---- */

#define CUDA_HOST_AT const char *file = __builtin_FILE(), int line = __builtin_LINE()

static inline void __syncthreads(CUDA_HOST_AT)
{
    cuda_host_block(0, file, line);
}
static inline int __syncthreads_count(int predicate, CUDA_HOST_AT)
{
    return cuda_host_block(predicate, file, line);
}
static inline int __syncthreads_or(int predicate, CUDA_HOST_AT)
{
    return cuda_host_block(predicate, file, line) != 0;
}
static inline int __syncthreads_and(int predicate, CUDA_HOST_AT)
{
    return cuda_host_block(!predicate, file, line) == 0;
}
static inline void __syncwarp(unsigned mask = 0xffffffffu, CUDA_HOST_AT)
{
    cuda_host_vote(mask, 0, file, line);
}

/* ---- warps ---- */

static inline unsigned __ballot_sync(unsigned mask, int predicate, CUDA_HOST_AT)
{
    return cuda_host_vote(mask, predicate, file, line);
}
static inline int __any_sync(unsigned mask, int predicate, CUDA_HOST_AT)
{
    return __ballot_sync(mask, predicate, file, line) != 0;
}

static inline int __all_sync(unsigned mask, int predicate, CUDA_HOST_AT)
{
    return __ballot_sync(mask, !predicate, file, line) == 0;
}

/* Where the source is not inside the lane's segment of `width`, it is the lane itself. */
template <typename T>
static T cuda_host_shuffle_from(unsigned mask, T value, int source, bool inside, const char *file,
                                int line)
{
    T out;
    cuda_host_warp(mask, &value, sizeof value, inside ? source : cuda_host_lane(), &out, file,
                   line);
    return out;
}

template <typename T>
static T __shfl_sync(unsigned mask, T value, int source, int width = 32, CUDA_HOST_AT)
{
    int base = cuda_host_lane() & ~(width - 1);
    return cuda_host_shuffle_from(mask, value, base + (source & (width - 1)), true, file, line);
}

template <typename T>
static T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, CUDA_HOST_AT)
{
    int lane = cuda_host_lane(), source = lane - (int)delta;
    return cuda_host_shuffle_from(mask, value, source, source >= (lane & ~(width - 1)), file, line);
}

template <typename T>
static T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, CUDA_HOST_AT)
{
    int lane = cuda_host_lane(), source = lane + (int)delta;
    return cuda_host_shuffle_from(mask, value, source, source < (lane & ~(width - 1)) + width, file,
                                  line);
}

template <typename T>
static T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, CUDA_HOST_AT)
{
    int lane = cuda_host_lane(), source = lane ^ bits;
    return cuda_host_shuffle_from(mask, value, source, source < (lane & ~(width - 1)) + width, file,
                                  line);
}

/* ---- atomics: one thread runs at a time ---- */

template <typename T> static T atomicAdd(T *p, T v)
{
    T old = *p;
    *p = old + v;
    return old;
}

template <typename T> static T atomicMax(T *p, T v)
{
    T old = *p;
    *p = v > old ? v : old;
    return old;
}

template <typename T> static T atomicMin(T *p, T v)
{
    T old = *p;
    *p = v < old ? v : old;
    return old;
}

template <typename T> static T atomicExch(T *p, T v)
{
    T old = *p;
    *p = v;
    return old;
}

template <typename T> static T atomicCAS(T *p, T expected, T v)
{
    T old = *p;
    if (old == expected)
        *p = v;
    return old;
}

/* ---- loads, stores, arithmetic ---- */

template <typename T> static T __ldg(const T *p)
{
    return *p;
}
template <typename T> static T __ldcg(const T *p)
{
    return *p;
}
template <typename T> static T __ldcs(const T *p)
{
    return *p;
}
template <typename T> static void __stcs(T *p, T v)
{
    *p = v;
}
template <typename T> static void __stcg(T *p, T v)
{
    *p = v;
}

static inline int min(int a, int b)
{
    return a < b ? a : b;
}
static inline int max(int a, int b)
{
    return a > b ? a : b;
}
static inline unsigned min(unsigned a, unsigned b)
{
    return a < b ? a : b;
}
static inline unsigned max(unsigned a, unsigned b)
{
    return a > b ? a : b;
}
static inline size_t min(size_t a, size_t b)
{
    return a < b ? a : b;
}
static inline size_t max(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* glibc has functions of these names. */
#define __expf  cuda_host_expf
#define __logf  cuda_host_logf
#define __log2f cuda_host_log2f

static inline float rsqrtf(float x)
{
    return 1.0f / sqrtf(x);
}
static inline float cuda_host_expf(float x)
{
    return expf(x);
}
static inline float cuda_host_logf(float x)
{
    return logf(x);
}
static inline float cuda_host_log2f(float x)
{
    return log2f(x);
}
static inline float __fdividef(float a, float b)
{
    return a / b;
}
static inline float __frcp_rn(float x)
{
    return 1.0f / x;
}
static inline float __frsqrt_rn(float x)
{
    return 1.0f / sqrtf(x);
}
static inline float __fmaf_rn(float a, float b, float c)
{
    return fmaf(a, b, c);
}
static inline float __fadd_rn(float a, float b)
{
    return a + b;
}
static inline float __fmul_rn(float a, float b)
{
    return a * b;
}
static inline float __saturatef(float x)
{
    return x > 0 ? (x < 1 ? x : 1) : 0;
}

template <typename To, typename From> static To cuda_host_bits(From v)
{
    static_assert(sizeof(To) == sizeof(From), "as many bits");
    To out;
    memcpy(&out, &v, sizeof out);
    return out;
}
static inline float __uint_as_float(unsigned v)
{
    return cuda_host_bits<float>(v);
}
static inline float __int_as_float(int v)
{
    return cuda_host_bits<float>(v);
}
static inline unsigned __float_as_uint(float v)
{
    return cuda_host_bits<unsigned>(v);
}
static inline int __float_as_int(float v)
{
    return cuda_host_bits<int>(v);
}
static inline int __float2int_rd(float v)
{
    return (int)floorf(v);
}
static inline int __float2int_rn(float v)
{
    return (int)rintf(v);
}
static inline int __popc(unsigned v)
{
    return __builtin_popcount(v);
}
static inline int __ffs(int v)
{
    return __builtin_ffs(v);
}
static inline int __clz(int v)
{
    return v ? __builtin_clz((unsigned)v) : 32;
}

#endif

#endif
