/* cuBLASLt, loaded when the first engine on a GPU opens: of what linear.c and backend.c call, every
 * function here hands its arguments on.
 *
 * The library has half a gigabyte, and is an NVIDIA toolkit's and no distribution's. A program that
 * is linked with it does not start where it is missing, not even for --device cpu. This one says
 * then which file is missing, where a GPU was asked for: cublasLtGetStatusString does, of the
 * status that cublasLtCreate returns.
 *
 * The version is that of the header this was compiled with. A thread may be anyone's: the first
 * engine of a process is opened before others are. */
#include <cublasLt.h>

#include <dlfcn.h>
#include <stdio.h>

#define TEXT_(x) #x
#define TEXT(x)  TEXT_(x)
#define LIBRARY  "libcublasLt.so." TEXT(CUBLAS_VER_MAJOR)

static void *library;
static char missing[512]; /* why it is not there; "": it is, or nobody tried */

/* A function of the library, NULL: it is not there. */
static void *find(const char *name)
{
    void *found = NULL;
    if (!library)
        library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
    if (library)
        found = dlsym(library, name);
    if (!found) {
        const char *why = dlerror();
        snprintf(missing, sizeof missing, "%s", why ? why : LIBRARY);
    }
    return found;
}

const char *cublasLtGetStatusString(cublasStatus_t status)
{
    union {
        void *object;
        __typeof__(cublasLtGetStatusString) *call;
    } real = {.object = missing[0] ? NULL : find("cublasLtGetStatusString")};
    return real.object ? real.call(status) : missing;
}

#define HAND_ON(name, parameters, ...)                                                             \
    cublasStatus_t name parameters                                                                 \
    {                                                                                              \
        static union {                                                                             \
            void *object;                                                                          \
            __typeof__(name) *call;                                                                \
        } real;                                                                                    \
        if (!real.object)                                                                          \
            real.object = find(#name);                                                             \
        return real.object ? real.call(__VA_ARGS__) : CUBLAS_STATUS_NOT_INITIALIZED;               \
    }

HAND_ON(cublasLtCreate, (cublasLtHandle_t * lt), lt)
HAND_ON(cublasLtDestroy, (cublasLtHandle_t lt), lt)

HAND_ON(cublasLtMatmulDescDestroy, (cublasLtMatmulDesc_t d), d)
HAND_ON(cublasLtMatmulDescSetAttribute,
        (cublasLtMatmulDesc_t d, cublasLtMatmulDescAttributes_t a, const void *p, size_t n), d, a,
        p, n)
HAND_ON(cublasLtMatmulDescCreate,
        (cublasLtMatmulDesc_t * d, cublasComputeType_t compute, cudaDataType scale), d, compute,
        scale)

HAND_ON(cublasLtMatrixLayoutDestroy, (cublasLtMatrixLayout_t l), l)
HAND_ON(cublasLtMatrixLayoutSetAttribute,
        (cublasLtMatrixLayout_t l, cublasLtMatrixLayoutAttribute_t a, const void *p, size_t n), l,
        a, p, n)
HAND_ON(cublasLtMatrixLayoutCreate,
        (cublasLtMatrixLayout_t * l, cudaDataType type, uint64_t rows, uint64_t cols, int64_t ld),
        l, type, rows, cols, ld)

HAND_ON(cublasLtMatmulPreferenceDestroy, (cublasLtMatmulPreference_t p), p)
HAND_ON(cublasLtMatmulPreferenceCreate, (cublasLtMatmulPreference_t * p), p)
HAND_ON(cublasLtMatmulPreferenceSetAttribute,
        (cublasLtMatmulPreference_t p, cublasLtMatmulPreferenceAttributes_t a, const void *v,
         size_t n),
        p, a, v, n)

HAND_ON(cublasLtMatmulAlgoGetHeuristic,
        (cublasLtHandle_t lt, cublasLtMatmulDesc_t d, cublasLtMatrixLayout_t a,
         cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t y,
         cublasLtMatmulPreference_t p, int wanted, cublasLtMatmulHeuristicResult_t *out,
         int *found),
        lt, d, a, b, c, y, p, wanted, out, found)
HAND_ON(cublasLtMatmulAlgoCheck,
        (cublasLtHandle_t lt, cublasLtMatmulDesc_t d, cublasLtMatrixLayout_t a,
         cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t y,
         const cublasLtMatmulAlgo_t *algo, cublasLtMatmulHeuristicResult_t *out),
        lt, d, a, b, c, y, algo, out)
HAND_ON(cublasLtMatmul,
        (cublasLtHandle_t lt, cublasLtMatmulDesc_t d, const void *alpha, const void *a,
         cublasLtMatrixLayout_t al, const void *b, cublasLtMatrixLayout_t bl, const void *beta,
         const void *c, cublasLtMatrixLayout_t cl, void *y, cublasLtMatrixLayout_t yl,
         const cublasLtMatmulAlgo_t *algo, void *workspace, size_t bytes, cudaStream_t stream),
        lt, d, alpha, a, al, b, bl, beta, c, cl, y, yl, algo, workspace, bytes, stream)
