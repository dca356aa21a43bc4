/* cublasLt.h says what this is. */
#include "cublasLt.h"

#include "base/dtype.h"

#include <stdlib.h>
#include <string.h>

struct cuda_host_lt {
    int device;
};

struct cuda_host_lt_desc {
    cublasOperation_t trans_a;
    cublasLtEpilogue_t epilogue;
    const void *bias;
    bool tf32;
};

struct cuda_host_lt_layout {
    cudaDataType type;
    uint64_t rows, cols;
    int64_t ld;
};

struct cuda_host_lt_preference {
    uint64_t workspace;
    uint32_t schemes, align[3]; /* of B, C, D */
};

size_t cuda_host_lt_rows_more = SIZE_MAX;

static void *copied(const void *from, size_t bytes)
{
    void *p = malloc(bytes);
    if (!p)
        abort();
    memcpy(p, from, bytes);
    return p;
}

#define CREATE(out, ...)                                                                           \
    do {                                                                                           \
        __typeof__(**(out)) value = {__VA_ARGS__};                                                 \
        *(out) = copied(&value, sizeof value);                                                     \
    } while (0)

/* *(field) = *value when it has that size. */
#define TAKE(field)                                                                                \
    (bytes == sizeof(field) ? (memcpy(&(field), value, bytes), CUBLAS_STATUS_SUCCESS)              \
                            : CUBLAS_STATUS_INVALID_VALUE)

const char *cublasLtGetStatusString(cublasStatus_t s)
{
    return s == CUBLAS_STATUS_ALLOC_FAILED ? "the resource allocation failed" : "another status";
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t *out)
{
    if (cuda_host_memory >= cuda_host_memory_limit)
        return CUBLAS_STATUS_ALLOC_FAILED;
    CREATE(out, cuda_host_device());
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t lt)
{
    free(lt);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *out, cublasComputeType_t compute,
                                        cudaDataType scale)
{
    bool tf32 = compute == CUBLAS_COMPUTE_32F_FAST_TF32;
    CREATE(out, CUBLAS_OP_N, CUBLASLT_EPILOGUE_DEFAULT, NULL, tf32);
    return (tf32 || compute == CUBLAS_COMPUTE_32F) && scale == CUDA_R_32F
               ? CUBLAS_STATUS_SUCCESS
               : CUBLAS_STATUS_NOT_SUPPORTED;
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t d)
{
    free(d);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t d,
                                              cublasLtMatmulDescAttributes_t attribute,
                                              const void *value, size_t bytes)
{
    if (attribute == CUBLASLT_MATMUL_DESC_TRANSA)
        return TAKE(d->trans_a);
    if (attribute == CUBLASLT_MATMUL_DESC_EPILOGUE)
        return TAKE(d->epilogue);
    return TAKE(d->bias);
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *out, cudaDataType type,
                                          uint64_t rows, uint64_t cols, int64_t ld)
{
    CREATE(out, type, rows, cols, ld);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t l)
{
    free(l);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t l,
                                                cublasLtMatrixLayoutAttribute_t attribute,
                                                const void *value, size_t bytes)
{
    return attribute == CUBLASLT_MATRIX_LAYOUT_COLS ? TAKE(l->cols) : CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *out)
{
    CREATE(out, .schemes = ~0u, .align = {256, 256, 256});
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t p)
{
    free(p);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t p,
                                                    cublasLtMatmulPreferenceAttributes_t attribute,
                                                    const void *value, size_t bytes)
{
    if (attribute == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES)
        return TAKE(p->workspace);
    if (attribute == CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK)
        return TAKE(p->schemes);
    return TAKE(p->align[attribute - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES]);
}

/* What the library supports, of what we may ask for. */
static bool supported(cublasLtMatmulDesc_t d, cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                      cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t y)
{
    bool types = a->type == b->type && (y->type == a->type || y->type == CUDA_R_32F);
    return d->trans_a == CUBLAS_OP_T && types && c == y && a->rows == b->rows &&
           a->cols == y->rows && b->cols == y->cols && a->ld >= (int64_t)a->rows &&
           b->ld >= (int64_t)b->rows && y->ld >= (int64_t)y->rows && b->cols > 0 &&
           (d->epilogue == CUBLASLT_EPILOGUE_BIAS) == (d->bias != NULL);
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t lt, cublasLtMatmulDesc_t d,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t y,
                                              cublasLtMatmulPreference_t p, int wanted,
                                              cublasLtMatmulHeuristicResult_t *out, int *found)
{
    (void)lt;
    *found = 0;
    if (!supported(d, a, b, c, y) || wanted < 1 || p->schemes != CUBLASLT_REDUCTION_SCHEME_NONE ||
        p->align[1] != p->align[2])
        return CUBLAS_STATUS_NOT_SUPPORTED;
    size_t more = cuda_host_lt_rows_more, rows = b->cols;
    *out = (cublasLtMatmulHeuristicResult_t){
        {p->align[0], p->align[1], more > SIZE_MAX - rows ? SIZE_MAX : rows + more}, p->workspace};
    *found = 1;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t lt, cublasLtMatmulDesc_t d,
                                       cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                       cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t y,
                                       const cublasLtMatmulAlgo_t *algo,
                                       cublasLtMatmulHeuristicResult_t *out)
{
    (void)lt;
    *out = (cublasLtMatmulHeuristicResult_t){*algo, 0};
    return supported(d, a, b, c, y) && b->cols <= algo->most_rows ? CUBLAS_STATUS_SUCCESS
                                                                  : CUBLAS_STATUS_NOT_SUPPORTED;
}

struct product {
    struct cuda_host_lt_desc d;
    struct cuda_host_lt_layout a, b, y;
    const void *pa, *pb;
    void *py;
    float beta;
};

static float get(const void *p, cudaDataType type, size_t i)
{
    return type == CUDA_R_32F ? ((const float *)p)[i] : bf16_to_f32(((const uint16_t *)p)[i]);
}

/* To TF32: the nearest of 10 bits of mantissa, ties to even. */
static float rounded(float v)
{
    uint32_t u;
    memcpy(&u, &v, sizeof u);
    u += 0xfff + (u >> 13 & 1);
    u &= ~0x1fffu;
    memcpy(&v, &u, sizeof v);
    return v;
}

static float factor(const struct product *m, const void *p, cudaDataType type, size_t i)
{
    float v = get(p, type, i);
    return m->d.tf32 ? rounded(v) : v;
}

static void run_product(void *args)
{
    const struct product *m = args;
    size_t in = m->a.rows, out = m->a.cols, rows = m->b.cols;
    float *w = malloc(in * out * sizeof *w), *x = malloc(in * sizeof *x);
    if (!w || !x)
        abort();
    for (size_t o = 0; o < out; o++)
        for (size_t i = 0; i < in; i++)
            w[o * in + i] = factor(m, m->pa, m->a.type, o * (size_t)m->a.ld + i);
    for (size_t r = 0; r < rows; r++) {
        for (size_t i = 0; i < in; i++)
            x[i] = factor(m, m->pb, m->b.type, r * (size_t)m->b.ld + i);
        for (size_t o = 0; o < out; o++) {
            size_t at = r * (size_t)m->y.ld + o;
            float sum = 0;
            for (size_t i = 0; i < in; i++)
                sum += w[o * in + i] * x[i];
            if (m->d.bias)
                sum += get(m->d.bias, m->y.type, o);
            if (m->beta != 0)
                sum += m->beta * get(m->py, m->y.type, at);
            if (m->y.type == CUDA_R_32F)
                ((float *)m->py)[at] = sum;
            else
                ((uint16_t *)m->py)[at] = f32_to_bf16(sum);
        }
    }
    free(w);
    free(x);
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t lt, cublasLtMatmulDesc_t d, const void *alpha,
                              const void *a, cublasLtMatrixLayout_t al, const void *b,
                              cublasLtMatrixLayout_t bl, const void *beta, const void *c,
                              cublasLtMatrixLayout_t cl, void *y, cublasLtMatrixLayout_t yl,
                              const cublasLtMatmulAlgo_t *algo, void *workspace, size_t bytes,
                              cudaStream_t stream)
{
    struct product m = {.d = *d, .a = *al, .b = *bl, .y = *yl, .pa = a, .pb = b, .py = y};
    float one;
    cudaError_t e = cuda_host_call();
    if (e == cudaErrorMemoryAllocation)
        return CUBLAS_STATUS_ALLOC_FAILED;
    if (e != cudaSuccess || cuda_host_elsewhere(stream) || lt->device != cuda_host_device())
        return CUBLAS_STATUS_EXECUTION_FAILED;
    memcpy(&one, alpha, sizeof one);
    memcpy(&m.beta, beta, sizeof m.beta);
    if (!supported(d, al, bl, cl, yl) || one != 1 || c != y || bl->cols > algo->most_rows ||
        !workspace || !bytes || (uintptr_t)b % algo->align_x || (uintptr_t)y % algo->align_y)
        return CUBLAS_STATUS_INVALID_VALUE;
    cuda_host_enqueue(stream, run_product, free, copied(&m, sizeof m));
    return CUBLAS_STATUS_SUCCESS;
}
