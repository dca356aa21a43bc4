/* The CUDA backend: cuBLASLt (linear.c) and own kernels (kernels.h) behind the backend interface.
 * kernels.h says how the folder fits together, cuda.h what the backend owns. */
#include "kernels/cuda/cuda.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

/* Arguments of OP. */
static inline uint64_t U(int v)
{
    return (unsigned)v;
}

static inline uint64_t bits(float v)
{
    uint32_t u;
    memcpy(&u, &v, sizeof u);
    return u;
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
    const struct attention_desc *d = &a->d;
    if (OP(c, "attention", U(d->channels), U(d->heads), U(d->queries), U(d->keys), AT(q), AT(kv),
           AT(out), U(images)))
        cuda_check(c,
                   cuda_attention(q, kv, images, d->queries, d->keys, d->channels, d->heads, out,
                                  cuda_is_bf16(be), c->stream),
                   "attention");
    return cuda_result(c);
}

static enum err window_attention(struct backend *be, const struct window_attention *a,
                                 const void *qkv, void *out, int images)
{
    struct cuda_backend *c = cuda_of(be);
    const int *mask_of = a->mask ? cuda_table(c, a->mask_of) : NULL;
    if (OP(c, "window_attention", U(a->channels), U(a->heads), U(a->window), U(a->windows),
           AT(a->bias), AT(a->mask), AT(mask_of), AT(qkv), AT(out), U(images)))
        cuda_check(c,
                   cuda_window_attention(qkv, images, a->windows, a->window, a->channels, a->heads,
                                         a->bias, a->mask, mask_of, out, cuda_is_bf16(be),
                                         c->stream),
                   "window attention");
    return cuda_result(c);
}

static void im2col(struct backend *be, const void *in, int images, int h, int w, int ch, int k,
                   int stride, int pad, int oh, int ow, int ld, int elem, void *out)
{
    struct cuda_backend *c = cuda_of(be);
    if (OP(c, "im2col", AT(in), U(images), U(h), U(w), U(ch), U(k), U(stride), U(pad), U(oh), U(ow),
           U(ld), U(elem), AT(out)))
        cuda_check(
            c, cuda_im2col(in, images, h, w, ch, k, stride, pad, oh, ow, ld, elem, out, c->stream),
            "im2col");
}

static void gather(struct backend *be, const void *in, const int *index, int images, size_t in_rows,
                   size_t rows, int ch, int elem, void *out)
{
    struct cuda_backend *c = cuda_of(be);
    const int *at = cuda_table(c, index);
    if (OP(c, "gather", AT(in), AT(at), U(images), in_rows, rows, U(ch), U(elem), AT(out)))
        cuda_check(c, cuda_gather(in, at, images, in_rows, rows, ch, elem, out, c->stream),
                   "gather");
}

static void scatter_add(struct backend *be, const float *in, const int *index, int images,
                        size_t y_rows, size_t rows, int ch, float *y)
{
    struct cuda_backend *c = cuda_of(be);
    const int *at = cuda_table(c, index);
    if (OP(c, "scatter_add", AT(in), AT(at), U(images), y_rows, rows, U(ch), AT(y)))
        cuda_check(c, cuda_scatter_add(in, at, images, y_rows, rows, ch, y, c->stream),
                   "scatter_add");
}

static void layernorm(struct backend *be, const void *x, bool x_f32, size_t rows, int ch,
                      const float *gamma, const float *beta, float eps, void *out, bool out_f32)
{
    struct cuda_backend *c = cuda_of(be);
    bool bf16 = cuda_is_bf16(be);
    if (OP(c, "layernorm", AT(x), x_f32, rows, U(ch), AT(gamma), AT(beta), bits(eps), AT(out),
           out_f32))
        cuda_check(c,
                   cuda_layernorm(x, bf16 && !x_f32, rows, ch, gamma, beta, eps, out,
                                  bf16 && !out_f32, c->stream),
                   "layernorm");
}

static void rmsnorm(struct backend *be, const float *x, size_t rows, int ch, const float *weight,
                    float eps, void *out)
{
    struct cuda_backend *c = cuda_of(be);
    if (OP(c, "rmsnorm", AT(x), rows, U(ch), AT(weight), bits(eps), AT(out)))
        cuda_check(c, cuda_rmsnorm(x, rows, ch, weight, eps, out, cuda_is_bf16(be), c->stream),
                   "rmsnorm");
}

static void dwconv_gelu(struct backend *be, const void *x, int images, int h, int w, int ch,
                        const float *weight, const float *bias, void *out)
{
    struct cuda_backend *c = cuda_of(be);
    if (OP(c, "dwconv_gelu", AT(x), U(images), U(h), U(w), U(ch), AT(weight), AT(bias), AT(out)))
        cuda_check(
            c,
            cuda_dwconv_gelu(x, images, h, w, ch, weight, bias, out, cuda_is_bf16(be), c->stream),
            "dwconv_gelu");
}

static void fuse(struct backend *be, const void *const g[4],
                 const struct resize_axis *const rows[4], const struct resize_axis *const cols[4],
                 int e, const float *bias, const struct resize_axis *grid_rows,
                 const struct resize_axis *grid_cols, void *out)
{
    struct cuda_backend *c = cuda_of(be);
    cuda_axis r[4], x[4], to_rows = {0}, to_cols = {0};
    for (int i = 0; i < 4; i++) {
        r[i] = cuda_axis_of(c, rows[i]);
        x[i] = cuda_axis_of(c, cols[i]);
    }
    if (grid_rows) {
        to_rows = cuda_axis_of(c, grid_rows);
        to_cols = cuda_axis_of(c, grid_cols);
    }
    if (OP(c, "fuse", AT(g[0]), AT(g[1]), AT(g[2]), AT(g[3]), AXIS(r[0]), AXIS(r[1]), AXIS(r[2]),
           AXIS(r[3]), AXIS(x[0]), AXIS(x[1]), AXIS(x[2]), AXIS(x[3]), U(e), AT(bias),
           AXIS(to_rows), AXIS(to_cols), AT(out)))
        cuda_check(c,
                   cuda_fuse(g, r, x, e, bias, grid_rows ? &to_rows : NULL,
                             grid_rows ? &to_cols : NULL, out, cuda_is_bf16(be), c->stream),
                   "fuse");
}

static void to_act(struct backend *be, const float *in, size_t count, void *out)
{
    struct cuda_backend *c = cuda_of(be);
    if (OP(c, "to_act", AT(in), count, AT(out)))
        cuda_check(c, cuda_to_act(in, count, out, cuda_is_bf16(be), c->stream), "to_act");
}

static void move_states(struct backend *be, const struct state_move *moves, int count, size_t most)
{
    struct cuda_backend *c = cuda_of(be);
    if (OP(c, "move_states", AT(moves), U(count), most))
        cuda_check(c, cuda_move_states(moves, count, most, c->stream), "move_states");
}

/* The weights' own pointers stay as they are while the backend lives: w stands for them. */
static void scan_conv(struct backend *be, const struct scan_weights *w,
                      const struct scan_window *windows, int count, const void *xz, void *b)
{
    struct cuda_backend *c = cuda_of(be);
    if (OP(c, "scan_conv", AT(w), AT(windows), U(count), AT(xz), AT(b)))
        cuda_check(c, cuda_scan_conv(w, windows, count, xz, b, cuda_is_bf16(be), c->stream),
                   "scan_conv");
}

static void selective_scan(struct backend *be, const struct scan_weights *w,
                           const struct scan_window *windows, int count, const void *b,
                           const float *dbc, const void *xz, void *y)
{
    struct cuda_backend *c = cuda_of(be);
    if (OP(c, "selective_scan", AT(w), AT(windows), U(count), AT(b), AT(dbc), AT(xz), AT(y)))
        cuda_check(
            c, cuda_selective_scan(w, windows, count, b, dbc, xz, y, cuda_is_bf16(be), c->stream),
            "selective_scan");
}

static void close_backend(struct backend *be)
{
    struct cuda_backend *c = cuda_of(be);
    enter(be);
    cuda_graphs_close(c);
    cuda_tables_close(c);
    cuda_pool_close(&c->states);
    cuda_pool_close(&c->spilled);
    for (int i = 0; i < CUDA_DEPTH; i++) {
        cuda_stages_close(&c->flight[i]);
        if (c->flight[i].done)
            cudaEventDestroy(c->flight[i].done);
    }
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
    if (c->computed)
        cudaEventDestroy(c->computed);
    free(c);
}

static const struct backend_ops table = {
    .close = close_backend,
    .enter = enter,
    .alloc = cuda_alloc,
    .free = cuda_free,
    .reserve = cuda_reserve,
    .take = cuda_take,
    .give = cuda_give,
    .host_take = cuda_host_take,
    .host_give = cuda_host_give,
    .upload = cuda_upload,
    .download = cuda_download,
    .table_add = cuda_table_add,
    .table_drop = cuda_table_drop,
    .start = cuda_start,
    .finish = cuda_finish,
    .stage = cuda_stage_op,
    .staged = cuda_staged_op,
    .move_states = move_states,
    .copy = cuda_copy,
    .zero = cuda_zero,
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

/* Why there is no device. The runtime calls a driver that is missing "insufficient" too. */
static enum err no_device(cudaError_t e)
{
    int driver = 0, ours = 0;
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&ours);
    cudaGetLastError();
    if (e == cudaErrorInsufficientDriver && driver == 0)
        return err_set(ERR_UNSUPPORTED, "no CUDA device: NVIDIA's driver, libcuda.so.1, is not "
                                        "there");
    if (e == cudaErrorInsufficientDriver)
        return err_set(ERR_UNSUPPORTED,
                       "no CUDA device: the driver is of CUDA %d.%d, and this was built with %d.%d",
                       driver / 1000, driver % 1000 / 10, ours / 1000, ours % 1000 / 10);
    return err_set(ERR_UNSUPPORTED, "no CUDA device: %s",
                   e != cudaSuccess ? cudaGetErrorString(e) : "the driver lists none");
}

/* ERR_UNSUPPORTED, in a sentence, where there is no such device or it is too old. */
static enum err find_device(int index, struct cudaDeviceProp *prop)
{
    int count = 0;
    cudaError_t e = cudaGetDeviceCount(&count);
    if (e != cudaSuccess || count == 0)
        return no_device(e);
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

int cuda_backend_devices(void)
{
    int count = 0;
    return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
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
    cuda_check(c, cudaEventCreateWithFlags(&c->computed, cudaEventDisableTiming),
               "cudaEventCreate");
    for (int i = 0; i < CUDA_DEPTH; i++)
        cuda_check(c, cudaEventCreateWithFlags(&c->flight[i].done, cudaEventDisableTiming),
                   "cudaEventCreate");
    if (c->failed != cudaSuccess)
        return cuda_result(c);
    cublasStatus_t s = cublasLtCreate(&c->lt);
    if (s == CUBLAS_STATUS_SUCCESS)
        s = cublasLtMatmulPreferenceCreate(&c->preference);
    if (s == CUBLAS_STATUS_SUCCESS)
        s = cublasLtMatmulPreferenceSetAttribute(
            c->preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof workspace);
    if (s == CUBLAS_STATUS_SUCCESS)
        s = cublasLtMatmulPreferenceSetAttribute(
            c->preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &none, sizeof none);
    if (s != CUBLAS_STATUS_SUCCESS)
        return err_set(s == CUBLAS_STATUS_ALLOC_FAILED ? ERR_NOMEM : ERR_DEVICE,
                       "cuBLASLt does not start on cuda:%d: %s", c->device,
                       cublasLtGetStatusString(s));
    return cuda_alloc(&c->base, CUDA_LT_WORKSPACE, &c->workspace);
}

enum err cuda_backend_open(int device, enum dtype dtype, bool tf32, struct backend **out)
{
    struct cudaDeviceProp prop;
    *out = NULL;
    if (dtype != DT_F32 && (dtype != DT_BF16 || tf32))
        return err_set(ERR_UNSUPPORTED, "a GPU computes in f32, tf32 and bf16 only");
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
                               .scan_rows = PASS_ROWS,
                               .depth = CUDA_DEPTH,
                               .takes_nv12 = true};
    cuda_pools_open(c);
    for (int i = 0; i < CUDA_DEPTH; i++)
        cuda_stages_open(&c->flight[i]);
    c->device = device;
    c->tf32 = tf32;
    snprintf(c->name, sizeof c->name, "cuda:%d %s %s", device, prop.name,
             dtype == DT_BF16 ? "bf16"
             : tf32           ? "tf32"
                              : "f32");
    e = open_streams(c);
    if (e != ERR_OK) {
        close_backend(&c->base);
        return e;
    }
    *out = &c->base;
    return ERR_OK;
}
