/* The CPU backend: fits own kernels (ops.h) and oneDNN (gemm.h) behind the backend interface. */
#include "kernels/cpu/cpu.h"

#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum {
    /* Small enough that what an operation writes is still in the caches when the next reads it. */
    ENCODER_ROWS = 26000,
    PASS_ROWS = 16384,
    SCAN_ROWS = 2400,
};

enum err cpu_scratch(struct cpu_backend *c, size_t bytes, void **out)
{
    if (bytes > c->scratch_bytes) {
        bytes = (bytes + 63) / 64 * 64;
        void *p = aligned_alloc(64, bytes);
        if (!p)
            return err_set(ERR_NOMEM, "out of memory for %zu bytes of scratch", bytes);
        free(c->scratch);
        c->scratch = p;
        c->scratch_bytes = bytes;
    }
    *out = c->scratch;
    return ERR_OK;
}

static enum err cpu_preprocess(struct backend *be, const uint8_t *rgb, ptrdiff_t stride,
                               bool on_device, struct pixel_format format,
                               const struct resize_axis *rows, const struct resize_axis *cols,
                               float *out)
{
    (void)on_device; /* they are on the host */
    (void)format;    /* and RGB24: there is no other */
    cpu_of(be)->ops->preprocess(rgb, stride, rows, cols, out);
    return ERR_OK;
}

static void cpu_im2col(struct backend *be, const void *in, int images, int h, int w, int c, int k,
                       int stride, int pad, int oh, int ow, int ld, int elem, void *out)
{
    size_t from = (size_t)h * (size_t)w * (size_t)c * (size_t)elem;
    size_t to = (size_t)oh * (size_t)ow * (size_t)ld * (size_t)elem;
    for (size_t i = 0; i < (size_t)images; i++)
        cpu_of(be)->ops->im2col((const char *)in + i * from, h, w, c, k, stride, pad, oh, ow, ld,
                                elem, (char *)out + i * to);
}

static void gather_image(const char *in, const int *index, size_t rows, size_t bytes, char *out)
{
#pragma omp parallel for schedule(static) if (rows * bytes > 65536)
    for (size_t i = 0; i < rows; i++) {
        if (index[i] < 0)
            memset(out + i * bytes, 0, bytes);
        else
            memcpy(out + i * bytes, in + (size_t)index[i] * bytes, bytes);
    }
}

static void cpu_gather(struct backend *be, const void *in, const int *index, int images,
                       size_t in_rows, size_t rows, int c, int elem, void *out)
{
    size_t bytes = (size_t)c * (size_t)elem;
    (void)be;
    for (size_t i = 0; i < (size_t)images; i++)
        gather_image((const char *)in + i * in_rows * bytes, index, rows, bytes,
                     (char *)out + i * rows * bytes);
}

static void scatter_add_image(const float *in, const int *index, size_t rows, int c, float *y)
{
#pragma omp parallel for schedule(static) if (rows * (size_t)c > 16384)
    for (size_t i = 0; i < rows; i++) {
        if (index[i] < 0)
            continue;
        const float *src = in + i * (size_t)c;
        float *dst = y + (size_t)index[i] * (size_t)c;
        for (int j = 0; j < c; j++)
            dst[j] += src[j];
    }
}

static void cpu_scatter_add(struct backend *be, const float *in, const int *index, int images,
                            size_t y_rows, size_t rows, int c, float *y)
{
    (void)be;
    for (size_t i = 0; i < (size_t)images; i++)
        scatter_add_image(in + i * rows * (size_t)c, index, rows, c, y + i * y_rows * (size_t)c);
}

static void cpu_layernorm(struct backend *be, const void *x, bool x_f32, size_t rows, int c,
                          const float *gamma, const float *beta, float eps, void *out, bool out_f32)
{
    bool bf16 = cpu_is_bf16(be);
    cpu_of(be)->ops->layernorm(x, bf16 && !x_f32, rows, c, gamma, beta, eps, out, bf16 && !out_f32);
}

static void cpu_rmsnorm(struct backend *be, const float *x, size_t rows, int c, const float *weight,
                        float eps, void *out)
{
    cpu_of(be)->ops->rmsnorm(x, rows, c, weight, eps, out, cpu_is_bf16(be));
}

static void cpu_dwconv_gelu(struct backend *be, const void *x, int images, int h, int w, int c,
                            const float *weight, const float *bias, void *out)
{
    size_t one = (size_t)h * (size_t)w * (size_t)c * backend_elem(be);
    for (size_t i = 0; i < (size_t)images; i++)
        cpu_of(be)->ops->dwconv3x3_gelu((const char *)x + i * one, h, w, c, weight, bias,
                                        (char *)out + i * one, cpu_is_bf16(be));
}

static void cpu_fuse(struct backend *be, const void *const g[4],
                     const struct resize_axis *const rows[4],
                     const struct resize_axis *const cols[4], int e, const float *bias,
                     const struct resize_axis *grid_rows, const struct resize_axis *grid_cols,
                     void *out)
{
    bool bf16 = cpu_is_bf16(be);
    cpu_of(be)->ops->fuse(g, rows, cols, e, bias, grid_rows, grid_cols, out, bf16,
                          bf16 && !grid_rows);
}

static void cpu_to_act(struct backend *be, const float *in, size_t count, void *out)
{
    if (cpu_is_bf16(be))
        cpu_of(be)->ops->to_bf16(in, count, out);
    else
        memcpy(out, in, count * sizeof *in);
}

static void cpu_scan_conv(struct backend *be, const struct scan_weights *w,
                          const struct scan_window *windows, int count, const void *xz, void *b)
{
    cpu_of(be)->ops->scan_conv(w, windows, count, xz, 2 * (size_t)w->inner, b, cpu_is_bf16(be));
}

static void cpu_selective_scan(struct backend *be, const struct scan_weights *w,
                               const struct scan_window *windows, int count, const void *b,
                               const float *dbc, const void *xz, void *y)
{
    size_t inner = (size_t)w->inner;
    const void *z = (const char *)xz + inner * backend_elem(be);
    cpu_of(be)->ops->selective_scan(w, windows, count, b, dbc, (size_t)(w->dt_rank + 2 * w->state),
                                    z, 2 * inner, y, cpu_is_bf16(be));
}

static enum err cpu_labels(struct backend *be, const float *logits, int classes,
                           const struct resize_axis *rows, const struct resize_axis *cols,
                           uint8_t *out)
{
    struct cpu_backend *c = cpu_of(be);
    size_t floats = cpu_labels_scratch(c->gemm.threads, classes, rows, cols);
    void *scratch;
    enum err e = cpu_scratch(c, floats * sizeof(float), &scratch);
    if (e == ERR_OK)
        c->ops->labels(logits, classes, rows, cols, out, scratch);
    return e;
}

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* A 2048^3 product as oneDNN runs it by itself, all threads, weights packed: best of some runs. */
static enum err cpu_peak(struct backend *be, double *gflops)
{
    enum { N = 2048, RUNS = 12 };
    struct gemm_context *c = &cpu_of(be)->gemm;
    dnnl_memory_desc_t plain, any;
    dnnl_dims_t dims = {N, N};
    dnnl_matmul_desc_t md;
    dnnl_primitive_desc_t pd = NULL;
    dnnl_primitive_t p = NULL;
    dnnl_memory_t mem[3] = {NULL};
    double best = 0;
    bool ok =
        dnnl_memory_desc_init_by_tag(&plain, 2, dims, cpu_act_type(be), dnnl_ab) == 0 &&
        dnnl_memory_desc_init_by_tag(&any, 2, dims, cpu_act_type(be), dnnl_format_tag_any) == 0 &&
        dnnl_matmul_desc_init(&md, &plain, &any, NULL, &plain) == 0 &&
        dnnl_primitive_desc_create(&pd, &md, NULL, c->engine, NULL) == 0 &&
        dnnl_primitive_create(&p, pd) == 0;
    const dnnl_memory_desc_t *weights =
        ok ? dnnl_primitive_desc_query_md(pd, dnnl_query_weights_md, 0) : NULL;
    for (int i = 0; ok && i < 3; i++) {
        const dnnl_memory_desc_t *d = i == 1 ? weights : &plain;
        void *data;
        ok = dnnl_memory_create(&mem[i], d, c->engine, DNNL_MEMORY_ALLOCATE) == 0 &&
             dnnl_memory_get_data_handle(mem[i], &data) == 0;
        if (ok)
            memset(data, 0, dnnl_memory_desc_get_size(d));
    }
    dnnl_exec_arg_t args[3] = {
        {DNNL_ARG_SRC, mem[0]}, {DNNL_ARG_WEIGHTS, mem[1]}, {DNNL_ARG_DST, mem[2]}};
    for (int i = 0; ok && i < RUNS; i++) {
        double t = seconds();
        ok = dnnl_primitive_execute(p, c->stream[0], 3, args) == 0 &&
             dnnl_stream_wait(c->stream[0]) == 0;
        double rate = 2.0 * N * N * N / (seconds() - t) / 1e9;
        best = rate > best ? rate : best;
    }
    for (int i = 0; i < 3; i++)
        dnnl_memory_destroy(mem[i]);
    if (p)
        dnnl_primitive_destroy(p);
    if (pd)
        dnnl_primitive_desc_destroy(pd);
    *gflops = best;
    return ok ? ERR_OK : err_set(ERR_INTERNAL, "oneDNN's large matrix product failed");
}

/* As many as OpenMP will give (OMP_THREAD_LIMIT). oneDNN shares work out among those that it is
 * told of, so where one of them does not come its part stays undone. */
static int threads_there(int asked)
{
    int n = asked > 0 ? asked : omp_get_max_threads(), most = omp_get_thread_limit();
    return n < most ? n : most;
}

/* OpenMP's number of threads belongs to the calling thread; scratch is there for ours. */
static void cpu_enter(struct backend *be)
{
    omp_set_dynamic(0); /* OMP_DYNAMIC: fewer than that, by the machine's load */
    if (omp_get_max_threads() != cpu_of(be)->gemm.threads)
        omp_set_num_threads(cpu_of(be)->gemm.threads);
}

static void cpu_close(struct backend *be)
{
    struct cpu_backend *c = cpu_of(be);
    cpu_spares_close(c);
    gemm_context_close(&c->gemm);
    free(c->scratch);
    free(c->stage);
    free(c);
}

static const struct backend_ops table = {
    .close = cpu_close,
    .enter = cpu_enter,
    .own_cores = cpu_own_cores,
    .alloc = cpu_alloc,
    .free = cpu_free,
    .reserve = cpu_reserve,
    .take = cpu_take,
    .give = cpu_give,
    .host_take = cpu_host_take,
    .host_give = cpu_host_give,
    .upload = cpu_upload,
    .download = cpu_download,
    .table_add = cpu_table_add,
    .table_drop = cpu_table_drop,
    .start = cpu_start,
    .finish = cpu_finish,
    .stage = cpu_stage,
    .staged = cpu_staged,
    .move_states = cpu_move_states,
    .copy = cpu_copy,
    .zero = cpu_zero,
    .peak = cpu_peak,
    .linear_open = cpu_linear_open,
    .linear_close = cpu_linear_close,
    .linear = cpu_linear,
    .attention_open = cpu_attention_open,
    .attention_close = cpu_attention_close,
    .attention = cpu_attention,
    .window_attention = cpu_window_attention,
    .preprocess = cpu_preprocess,
    .im2col = cpu_im2col,
    .gather = cpu_gather,
    .scatter_add = cpu_scatter_add,
    .layernorm = cpu_layernorm,
    .rmsnorm = cpu_rmsnorm,
    .dwconv_gelu = cpu_dwconv_gelu,
    .fuse = cpu_fuse,
    .to_act = cpu_to_act,
    .scan_conv = cpu_scan_conv,
    .selective_scan = cpu_selective_scan,
    .labels = cpu_labels,
};

enum err cpu_backend_open(enum dtype dtype, int threads, const char *isa, struct backend **out)
{
    *out = NULL;
    const struct cpu_ops *ops = cpu_ops_get(isa);
    if (!ops)
        return err_set(ERR_UNSUPPORTED, "this CPU has no instruction set \"%s\"",
                       isa ? isa : "baseline");
    if (dtype != DT_F32 && dtype != DT_BF16)
        return err_set(ERR_UNSUPPORTED, "the CPU computes in f32 and bf16 only");
    if (dtype == DT_BF16 && !cpu_has_bf16())
        return err_set(ERR_UNSUPPORTED, "this CPU has no bfloat16 instructions: use --dtype f32");
    struct cpu_backend *c = calloc(1, sizeof *c);
    if (!c)
        return err_set(ERR_NOMEM, "out of memory");
    c->ops = ops;
    c->table = table;
    c->table.name = c->name;
    c->base.ops = &c->table;
    c->base.dtype = dtype;
    c->base.depth = 1;
    c->base.encoder_rows = ENCODER_ROWS;
    c->base.pass_rows = PASS_ROWS;
    c->base.scan_rows = SCAN_ROWS;
    enum err e = gemm_context_open(&c->gemm, threads_there(threads));
    if (e != ERR_OK) {
        cpu_close(&c->base);
        return e;
    }
    snprintf(c->name, sizeof c->name, "cpu %s %s, %d thread%s", ops->name,
             dtype == DT_BF16 ? "bf16" : "f32", c->gemm.threads, c->gemm.threads == 1 ? "" : "s");
    *out = &c->base;
    return ERR_OK;
}
