/* Matrix products by cuBLASLt: y = W x + b, with what struct linear_desc asks for as epilogue.
 *
 * Rows are tokens, row-major; cuBLASLt counts columns first, so it sees y^T [out][rows] = W
 * [out][in] x^T [in][rows], W transposed, and its bias is along out. fp32 is true fp32 unless the
 * backend was opened for TF32; bf16 and TF32 sum in fp32. An exact GELU is not among cuBLASLt's
 * epilogues: a kernel of ours follows.
 *
 * The algorithm is chosen once, at open, for a typical number of rows, without split sums, and then
 * taken for every number of rows that it can do: a row's result is then a sum in one order wherever
 * the row stands, so it does not depend on what else is in the batch. Only where it cannot (a
 * layout it needs aligned, say) another is looked up, once for that number of rows. */
#include "kernels/cuda/cuda.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { TYPICAL_ROWS = 8192, CHOICES = 16 };

/* An algorithm that is known to do this many rows. */
struct choice {
    size_t rows;
    cublasLtMatmulAlgo_t algo;
};

struct linear {
    struct linear_desc d;
    void *weight; /* of x's type, [out][in] */
    void *bias;   /* of y's type, [out]; or NULL */
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t a, b, y; /* W, x, y; b's and y's columns are the rows of the call */
    size_t rows;                    /* as they are set */
    struct choice choice[CHOICES];  /* [0]: the one chosen at open */
    int choices, oldest;
};

static bool lt_check(struct cuda_backend *c, cublasStatus_t s, const char *what)
{
    if (s == CUBLAS_STATUS_SUCCESS)
        return true;
    return cuda_check(
        c, s == CUBLAS_STATUS_ALLOC_FAILED ? cudaErrorMemoryAllocation : cudaErrorUnknown, what);
}

/* Host floats as the backend's elements of `type`, on the device. */
static enum err upload_as(struct cuda_backend *c, const float *src, size_t count, bool bf16,
                          void **out)
{
    if (!bf16)
        return cuda_upload_bytes(c, src, count * sizeof *src, out);
    uint16_t *t = malloc(count * sizeof *t);
    if (!t)
        return err_set(ERR_NOMEM, "out of memory for weights");
    for (size_t i = 0; i < count; i++)
        t[i] = f32_to_bf16(src[i]);
    enum err e = cuda_upload_bytes(c, t, count * sizeof *t, out);
    free(t);
    return e;
}

static bool x_bf16(const struct cuda_backend *c, const struct linear *l)
{
    return cuda_is_bf16(&c->base) && !l->d.x_f32;
}

static bool y_bf16(const struct cuda_backend *c, const struct linear *l)
{
    return cuda_is_bf16(&c->base) && (l->d.output == LINEAR_ACT || l->d.output == LINEAR_ACT_GELU);
}

static bool set_rows(struct cuda_backend *c, struct linear *l, size_t rows)
{
    uint64_t n = rows;
    if (l->rows == rows)
        return true;
    l->rows = rows;
    return lt_check(
               c, cublasLtMatrixLayoutSetAttribute(l->b, CUBLASLT_MATRIX_LAYOUT_COLS, &n, sizeof n),
               "cublasLtMatrixLayoutSetAttribute") &&
           lt_check(
               c, cublasLtMatrixLayoutSetAttribute(l->y, CUBLASLT_MATRIX_LAYOUT_COLS, &n, sizeof n),
               "cublasLtMatrixLayoutSetAttribute");
}

static bool make_desc(struct cuda_backend *c, struct linear *l)
{
    cudaDataType from = x_bf16(c, l) ? CUDA_R_16BF : CUDA_R_32F;
    cudaDataType to = y_bf16(c, l) ? CUDA_R_16BF : CUDA_R_32F;
    cublasOperation_t transposed = CUBLAS_OP_T;
    cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
    uint64_t in = (uint64_t)l->d.in, out = (uint64_t)l->d.out;
    cublasComputeType_t compute = c->tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
    const char *what = "a cuBLASLt description";
    bool ok = lt_check(c, cublasLtMatmulDescCreate(&l->desc, compute, CUDA_R_32F), what) &&
              lt_check(c,
                       cublasLtMatmulDescSetAttribute(l->desc, CUBLASLT_MATMUL_DESC_TRANSA,
                                                      &transposed, sizeof transposed),
                       what) &&
              lt_check(c, cublasLtMatrixLayoutCreate(&l->a, from, in, out, (int64_t)in), what) &&
              lt_check(c, cublasLtMatrixLayoutCreate(&l->b, from, in, 1, (int64_t)in), what) &&
              lt_check(c, cublasLtMatrixLayoutCreate(&l->y, to, out, 1, (int64_t)out), what);
    if (ok && l->bias)
        ok = lt_check(c,
                      cublasLtMatmulDescSetAttribute(l->desc, CUBLASLT_MATMUL_DESC_EPILOGUE,
                                                     &epilogue, sizeof epilogue),
                      what) &&
             lt_check(c,
                      cublasLtMatmulDescSetAttribute(l->desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER,
                                                     &l->bias, sizeof l->bias),
                      what);
    return ok;
}

/* What every row of a matrix that starts aligned to 16 bytes is aligned to. */
static uint32_t row_align(size_t bytes)
{
    uint32_t align = 16;
    while (bytes % align)
        align /= 2;
    return align;
}

/* The library's choice for the rows that are set. */
static enum err choose(struct cuda_backend *c, struct linear *l, struct choice *out)
{
    cublasLtMatmulHeuristicResult_t best;
    uint32_t align_x = row_align((size_t)l->d.in * (x_bf16(c, l) ? 2u : 4u));
    uint32_t align_y = row_align((size_t)l->d.out * (y_bf16(c, l) ? 2u : 4u));
    int found = 0;
    const char *what = "a cuBLASLt preference";
    bool ok = lt_check(c,
                       cublasLtMatmulPreferenceSetAttribute(
                           c->preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &align_x, 4),
                       what) &&
              lt_check(c,
                       cublasLtMatmulPreferenceSetAttribute(
                           c->preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &align_y, 4),
                       what) &&
              lt_check(c,
                       cublasLtMatmulPreferenceSetAttribute(
                           c->preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &align_y, 4),
                       what);
    if (!ok)
        return cuda_result(c);
    if (cublasLtMatmulAlgoGetHeuristic(c->lt, l->desc, l->a, l->b, l->y, l->y, c->preference, 1,
                                       &best, &found) != CUBLAS_STATUS_SUCCESS ||
        found < 1)
        return err_set(ERR_UNSUPPORTED, "cuBLASLt has no product %d -> %d", l->d.in, l->d.out);
    out->rows = l->rows;
    out->algo = best.algo;
    return ERR_OK;
}

enum err cuda_linear_open(struct backend *be, const struct linear_desc *d, struct linear **out)
{
    struct cuda_backend *c = cuda_of(be);
    struct linear *l = calloc(1, sizeof *l);
    *out = NULL;
    if (!l)
        return err_set(ERR_NOMEM, "out of memory");
    l->d = *d;
    enum err e = upload_as(c, d->weight, (size_t)d->in * (size_t)d->out, x_bf16(c, l), &l->weight);
    if (e == ERR_OK && d->bias)
        e = upload_as(c, d->bias, (size_t)d->out, y_bf16(c, l), &l->bias);
    if (e == ERR_OK && !(make_desc(c, l) && set_rows(c, l, TYPICAL_ROWS)))
        e = cuda_result(c);
    if (e == ERR_OK)
        e = choose(c, l, &l->choice[0]);
    l->choices = 1;
    l->d.weight = l->d.bias = NULL;
    if (e != ERR_OK) {
        cuda_linear_close(be, l);
        return e;
    }
    *out = l;
    return ERR_OK;
}

void cuda_linear_close(struct backend *be, struct linear *l)
{
    if (!l)
        return;
    cuda_free(be, l->weight);
    cuda_free(be, l->bias);
    if (l->desc)
        cublasLtMatmulDescDestroy(l->desc);
    if (l->a)
        cublasLtMatrixLayoutDestroy(l->a);
    if (l->b)
        cublasLtMatrixLayoutDestroy(l->b);
    if (l->y)
        cublasLtMatrixLayoutDestroy(l->y);
    free(l);
}

/* The algorithm for the rows that are set: the one of open where it can, else the library's. */
static enum err algorithm(struct cuda_backend *c, struct linear *l,
                          const cublasLtMatmulAlgo_t **out)
{
    cublasLtMatmulHeuristicResult_t result;
    for (int i = 0; i < l->choices; i++)
        if (l->choice[i].rows == l->rows) {
            *out = &l->choice[i].algo;
            return ERR_OK;
        }
    struct choice next = {l->rows, l->choice[0].algo};
    if (cublasLtMatmulAlgoCheck(c->lt, l->desc, l->a, l->b, l->y, l->y, &next.algo, &result) !=
            CUBLAS_STATUS_SUCCESS ||
        result.workspaceSize > CUDA_LT_WORKSPACE) {
        enum err e = choose(c, l, &next);
        if (e != ERR_OK)
            return e;
    }
    int at = l->choices < CHOICES ? l->choices++ : 1 + l->oldest++ % (CHOICES - 1);
    l->choice[at] = next;
    *out = &l->choice[at].algo;
    return ERR_OK;
}

enum err cuda_linear(struct backend *be, struct linear *l, const void *x, void *y, size_t rows)
{
    struct cuda_backend *c = cuda_of(be);
    const cublasLtMatmulAlgo_t *algo;
    float one = 1, keep = l->d.output == LINEAR_ADD_F32 ? 1.0f : 0.0f;
    if (rows == 0)
        return ERR_OK;
    if (!set_rows(c, l, rows))
        return cuda_result(c);
    enum err e = algorithm(c, l, &algo);
    if (e != ERR_OK)
        return e;
    if (!OP(c, "linear", AT(l), AT(x), AT(y), rows))
        return ERR_OK;
    lt_check(c,
             cublasLtMatmul(c->lt, l->desc, &one, l->weight, l->a, x, l->b, &keep, y, l->y, y, l->y,
                            algo, c->workspace, CUDA_LT_WORKSPACE, c->stream),
             "cublasLtMatmul");
    if (l->d.output == LINEAR_ACT_GELU)
        cuda_check(c, cuda_gelu(y, rows * (size_t)l->d.out, cuda_is_bf16(be), c->stream), "gelu");
    return cuda_result(c);
}

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static enum err wait(struct cuda_backend *c)
{
    cuda_check(c, cudaStreamSynchronize(c->stream), "products");
    return cuda_result(c);
}

/* A product of 8192 rows, 4096 -> 4096, of numbers that are not all alike: best of some runs of
 * some products each, so that the launch does not count. */
enum err cuda_peak(struct backend *be, double *gflops)
{
    enum { N = 4096, ROWS = 8192, RUNS = 8, PRODUCTS = 8 };
    struct cuda_backend *c = cuda_of(be);
    struct linear *l = NULL;
    void *x = NULL, *y = NULL;
    double best = 0;
    float *w = malloc((size_t)N * N * sizeof *w);
    struct linear_desc d = {.in = N, .out = N, .weight = w, .output = LINEAR_ACT};
    if (!w)
        return err_set(ERR_NOMEM, "out of memory");
    for (uint32_t i = 0, r = 1; i < N * N; i++, r = r * 1664525u + 1013904223u)
        w[i] = (float)(r >> 8) * 0x1p-24f - 0.5f;
    enum err e = cuda_linear_open(be, &d, &l);
    if (e == ERR_OK)
        e = cuda_alloc(be, (size_t)ROWS * N * backend_elem(be), &x);
    if (e == ERR_OK)
        e = cuda_alloc(be, (size_t)ROWS * N * backend_elem(be), &y);
    for (size_t part = 0; e == ERR_OK && part < ROWS / N; part++) /* W's own numbers */
        cuda_copy(be, (char *)x + part * N * N * backend_elem(be), l->weight,
                  (size_t)N * N * backend_elem(be));
    for (int i = 0; e == ERR_OK && i < RUNS; i++) {
        double t = seconds();
        for (int j = 0; e == ERR_OK && j < PRODUCTS; j++)
            e = cuda_linear(be, l, x, y, ROWS);
        if (e == ERR_OK)
            e = wait(c);
        double rate = 2.0 * PRODUCTS * ROWS * N * N / (seconds() - t) / 1e9;
        best = rate > best ? rate : best;
    }
    cuda_linear_close(be, l);
    cuda_free(be, x);
    cuda_free(be, y);
    free(w);
    *gflops = best;
    return e;
}
