/* The CUDA backend: cuBLASLt (linear.c) and own kernels (kernels.h) behind the backend interface.
 * kernels.h says how the folder fits together, cuda.h what the backend owns. */
#include "kernels/cuda/cuda.h"

#include <stdio.h>
#include <stdlib.h>

/* A device wants much at a time: the more rows a launch has, the fuller its last wave of blocks,
 * and the memory is there. Sixteen frames of 864x480 are encoded together, and 64 go through the
 * head, a layer of all their windows in one launch. */
enum { ENCODER_ROWS = 16 * 25920, PASS_ROWS = 64 * 7200 };

struct attention {
    struct attention_desc d;
};

bool cuda_check(struct cuda_backend *c, cudaError_t e, const char *what)
{
    if (e == cudaSuccess)
        return true;
    if (c->failed == cudaSuccess) {
        c->failed = e;
        c->failed_at = what;
    }
    return false;
}

enum err cuda_result(struct cuda_backend *c)
{
    if (c->failed == cudaSuccess)
        return ERR_OK;
    return err_set(ERR_DEVICE, "the GPU failed (%s): %s", c->failed_at,
                   cudaGetErrorString(c->failed));
}

static void enter(struct backend *be)
{
    struct cuda_backend *c = cuda_of(be);
    cuda_check(c, cudaSetDevice(c->device), "cudaSetDevice");
}

static enum err attention_open(struct backend *be, const struct attention_desc *d,
                               struct attention **out)
{
    (void)be;
    *out = malloc(sizeof **out);
    if (!*out)
        return err_set(ERR_NOMEM, "out of memory");
    (*out)->d = *d;
    return ERR_OK;
}

static void attention_close(struct backend *be, struct attention *a)
{
    (void)be;
    free(a);
}

static enum err attention(struct backend *be, struct attention *a, const void *q, const void *kv,
                          void *out, int images)
{
    struct cuda_backend *c = cuda_of(be);
    cuda_check(c,
               cuda_attention(q, kv, images, a->d.queries, a->d.keys, a->d.channels, a->d.heads,
                              out, cuda_is_bf16(be), c->stream),
               "attention");
    return cuda_result(c);
}

static enum err window_attention(struct backend *be, const struct window_attention *a,
                                 const void *qkv, void *out, int images)
{
    struct cuda_backend *c = cuda_of(be);
    cuda_check(c,
               cuda_window_attention(qkv, images, a->windows, a->window, a->channels, a->heads,
                                     a->bias, a->mask, a->mask ? cuda_table(c, a->mask_of) : NULL,
                                     out, cuda_is_bf16(be), c->stream),
               "window attention");
    return cuda_result(c);
}

static void im2col(struct backend *be, const void *in, int images, int h, int w, int c, int k,
                   int stride, int pad, int oh, int ow, int ld, int elem, void *out)
{
    cuda_check(cuda_of(be),
               cuda_im2col(in, images, h, w, c, k, stride, pad, oh, ow, ld, elem, out,
                           cuda_of(be)->stream),
               "im2col");
}

static void gather(struct backend *be, const void *in, const int *index, int images, size_t in_rows,
                   size_t rows, int c, int elem, void *out)
{
    struct cuda_backend *b = cuda_of(be);
    cuda_check(
        b, cuda_gather(in, cuda_table(b, index), images, in_rows, rows, c, elem, out, b->stream),
        "gather");
}

static void scatter_add(struct backend *be, const float *in, const int *index, int images,
                        size_t y_rows, size_t rows, int c, float *y)
{
    struct cuda_backend *b = cuda_of(be);
    cuda_check(b, cuda_scatter_add(in, cuda_table(b, index), images, y_rows, rows, c, y, b->stream),
               "scatter_add");
}

static void layernorm(struct backend *be, const void *x, bool x_f32, size_t rows, int c,
                      const float *gamma, const float *beta, float eps, void *out, bool out_f32)
{
    bool bf16 = cuda_is_bf16(be);
    cuda_check(cuda_of(be),
               cuda_layernorm(x, bf16 && !x_f32, rows, c, gamma, beta, eps, out, bf16 && !out_f32,
                              cuda_of(be)->stream),
               "layernorm");
}

static void rmsnorm(struct backend *be, const float *x, size_t rows, int c, const float *weight,
                    float eps, void *out)
{
    cuda_check(cuda_of(be),
               cuda_rmsnorm(x, rows, c, weight, eps, out, cuda_is_bf16(be), cuda_of(be)->stream),
               "rmsnorm");
}

static void dwconv_gelu(struct backend *be, const void *x, int images, int h, int w, int c,
                        const float *weight, const float *bias, void *out)
{
    cuda_check(cuda_of(be),
               cuda_dwconv_gelu(x, images, h, w, c, weight, bias, out, cuda_is_bf16(be),
                                cuda_of(be)->stream),
               "dwconv_gelu");
}

static void fuse(struct backend *be, const void *const g[4],
                 const struct resize_axis *const rows[4], const struct resize_axis *const cols[4],
                 int e, const float *bias, const struct resize_axis *grid_rows,
                 const struct resize_axis *grid_cols, void *out)
{
    struct cuda_backend *c = cuda_of(be);
    cuda_axis on_rows[4], on_cols[4], to_rows, to_cols;
    for (int i = 0; i < 4; i++) {
        on_rows[i] = cuda_axis_of(c, rows[i]);
        on_cols[i] = cuda_axis_of(c, cols[i]);
    }
    if (grid_rows) {
        to_rows = cuda_axis_of(c, grid_rows);
        to_cols = cuda_axis_of(c, grid_cols);
    }
    cuda_check(c,
               cuda_fuse(g, on_rows, on_cols, e, bias, grid_rows ? &to_rows : NULL,
                         grid_rows ? &to_cols : NULL, out, cuda_is_bf16(be), c->stream),
               "fuse");
}

static void to_act(struct backend *be, const float *in, size_t count, void *out)
{
    cuda_check(cuda_of(be), cuda_to_act(in, count, out, cuda_is_bf16(be), cuda_of(be)->stream),
               "to_act");
}

static void scan_conv(struct backend *be, const struct scan_weights *w,
                      const struct scan_window *windows, int count, const void *xz, void *b)
{
    cuda_check(cuda_of(be),
               cuda_scan_conv(w, windows, count, xz, b, cuda_is_bf16(be), cuda_of(be)->stream),
               "scan_conv");
}

static void selective_scan(struct backend *be, const struct scan_weights *w,
                           const struct scan_window *windows, int count, const void *b,
                           const float *dbc, const void *xz, void *y)
{
    cuda_check(cuda_of(be),
               cuda_selective_scan(w, windows, count, b, dbc, xz, y, cuda_is_bf16(be),
                                   cuda_of(be)->stream),
               "selective_scan");
}

static void close_backend(struct backend *be)
{
    struct cuda_backend *c = cuda_of(be);
    enter(be);
    cuda_tables_close(c);
    cuda_stage_close(&c->in);
    cuda_stage_close(&c->out);
    free(c->answers);
    cuda_free(be, c->workspace);
    if (c->preference)
        cublasLtMatmulPreferenceDestroy(c->preference);
    if (c->lt)
        cublasLtDestroy(c->lt);
    cudaStream_t streams[] = {c->stream, c->up, c->down};
    for (int i = 0; i < 3; i++)
        if (streams[i])
            cudaStreamDestroy(streams[i]);
    if (c->uploaded)
        cudaEventDestroy(c->uploaded);
    if (c->labelled)
        cudaEventDestroy(c->labelled);
    free(c);
}

static const struct backend_ops table = {
    .close = close_backend,
    .enter = enter,
    .alloc = cuda_alloc,
    .free = cuda_free,
    .upload = cuda_upload,
    .download = cuda_download,
    .table_add = cuda_table_add,
    .table_drop = cuda_table_drop,
    .stage = cuda_stage_op,
    .staged = cuda_staged_op,
    .copy = cuda_copy,
    .zero = cuda_zero,
    .sync = cuda_sync,
    .peak = cuda_peak,
    .linear_open = cuda_linear_open,
    .linear_close = cuda_linear_close,
    .linear = cuda_linear,
    .attention_open = attention_open,
    .attention_close = attention_close,
    .attention = attention,
    .window_attention = window_attention,
    .preprocess = cuda_preprocess_op,
    .im2col = im2col,
    .gather = gather,
    .scatter_add = scatter_add,
    .layernorm = layernorm,
    .rmsnorm = rmsnorm,
    .dwconv_gelu = dwconv_gelu,
    .fuse = fuse,
    .to_act = to_act,
    .scan_conv = scan_conv,
    .selective_scan = selective_scan,
    .labels = cuda_labels_op,
};

/* ERR_UNSUPPORTED, in a sentence, where there is no such device or it is too old. */
static enum err find_device(int index, struct cudaDeviceProp *prop)
{
    int count = 0;
    cudaError_t e = cudaGetDeviceCount(&count);
    if (e != cudaSuccess || count == 0)
        return err_set(ERR_UNSUPPORTED, "no CUDA device: %s",
                       e != cudaSuccess ? cudaGetErrorString(e) : "the driver lists none");
    if (index < 0 || index >= count)
        return err_set(ERR_UNSUPPORTED, "there is no device cuda:%d: this machine has %d", index,
                       count);
    if ((e = cudaGetDeviceProperties(prop, index)) != cudaSuccess)
        return err_set(ERR_UNSUPPORTED, "cuda:%d does not answer: %s", index,
                       cudaGetErrorString(e));
    if (prop->major < 8)
        return err_set(ERR_UNSUPPORTED,
                       "cuda:%d, %s, is of compute capability %d.%d; 8.0 is the least", index,
                       prop->name, prop->major, prop->minor);
    return ERR_OK;
}

static enum err open_streams(struct cuda_backend *c)
{
    uint32_t none = CUBLASLT_REDUCTION_SCHEME_NONE;
    uint64_t workspace = CUDA_LT_WORKSPACE;
    cuda_check(c, cudaSetDevice(c->device), "cudaSetDevice");
    cuda_check(c, cudaStreamCreateWithFlags(&c->stream, cudaStreamNonBlocking), "cudaStreamCreate");
    cuda_check(c, cudaStreamCreateWithFlags(&c->up, cudaStreamNonBlocking), "cudaStreamCreate");
    cuda_check(c, cudaStreamCreateWithFlags(&c->down, cudaStreamNonBlocking), "cudaStreamCreate");
    cuda_check(c, cudaEventCreateWithFlags(&c->uploaded, cudaEventDisableTiming),
               "cudaEventCreate");
    cuda_check(c, cudaEventCreateWithFlags(&c->labelled, cudaEventDisableTiming),
               "cudaEventCreate");
    if (c->failed != cudaSuccess)
        return cuda_result(c);
    if (cublasLtCreate(&c->lt) != CUBLAS_STATUS_SUCCESS ||
        cublasLtMatmulPreferenceCreate(&c->preference) != CUBLAS_STATUS_SUCCESS ||
        cublasLtMatmulPreferenceSetAttribute(c->preference,
                                             CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace,
                                             sizeof workspace) != CUBLAS_STATUS_SUCCESS ||
        cublasLtMatmulPreferenceSetAttribute(c->preference,
                                             CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &none,
                                             sizeof none) != CUBLAS_STATUS_SUCCESS)
        return err_set(ERR_DEVICE, "cuBLASLt does not start on cuda:%d", c->device);
    return cuda_alloc(&c->base, CUDA_LT_WORKSPACE, &c->workspace);
}

enum err cuda_backend_open(int device, enum dtype dtype, struct backend **out)
{
    struct cudaDeviceProp prop;
    *out = NULL;
    if (dtype != DT_F32 && dtype != DT_BF16)
        return err_set(ERR_UNSUPPORTED, "a GPU computes in f32 and bf16 only");
    enum err e = find_device(device, &prop);
    if (e != ERR_OK)
        return e;
    struct cuda_backend *c = calloc(1, sizeof *c);
    if (!c)
        return err_set(ERR_NOMEM, "out of memory");
    c->table = table;
    c->table.name = c->name;
    c->base = (struct backend){.ops = &c->table,
                               .dtype = dtype,
                               .encoder_rows = ENCODER_ROWS,
                               .pass_rows = PASS_ROWS,
                               .scan_rows = PASS_ROWS};
    c->device = device;
    snprintf(c->name, sizeof c->name, "cuda:%d %s %s", device, prop.name,
             dtype == DT_BF16 ? "bf16" : "f32");
    e = open_streams(c);
    if (e != ERR_OK) {
        close_backend(&c->base);
        return e;
    }
    *out = &c->base;
    return ERR_OK;
}
