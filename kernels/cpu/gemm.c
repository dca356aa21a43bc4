#include "kernels/cpu/gemm.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>

struct gemm {
    struct gemm_context *context;
    dnnl_primitive_t primitive;
    dnnl_memory_desc_t weights;
    bool bias;
    /* oneDNN's handles, one set a thread: [threads] each */
    dnnl_memory_t *mem_src, *mem_weights, *mem_bias, *mem_dst, *mem_scratch;
};

struct repack {
    struct gemm_context *context;
    dnnl_primitive_t primitive;
    dnnl_memory_t *mem_src, *mem_dst;
};

static enum err fail(dnnl_status_t s, const char *what)
{
    if (s == dnnl_out_of_memory)
        return err_set(ERR_NOMEM, "oneDNN ran out of memory (%s)", what);
    if (s == dnnl_unimplemented)
        return err_set(ERR_UNSUPPORTED, "oneDNN has no %s for this CPU and type", what);
    return err_set(ERR_INTERNAL, "oneDNN failed with status %d (%s)", (int)s, what);
}

enum err gemm_context_open(struct gemm_context *c, int threads)
{
    memset(c, 0, sizeof *c);
    dnnl_status_t s = dnnl_engine_create(&c->engine, dnnl_cpu, 0);
    if (s != dnnl_success)
        return fail(s, "engine");
    c->threads = threads;
    c->stream = calloc((size_t)threads, sizeof *c->stream);
    c->scratch = calloc((size_t)threads, sizeof *c->scratch);
    if (!c->stream || !c->scratch)
        return err_set(ERR_NOMEM, "out of memory");
    for (int i = 0; i < threads; i++) {
        s = dnnl_stream_create(&c->stream[i], c->engine, dnnl_stream_default_flags);
        if (s != dnnl_success)
            return fail(s, "stream");
    }
    return ERR_OK;
}

void gemm_context_close(struct gemm_context *c)
{
    for (int i = 0; i < c->threads; i++) {
        if (c->stream && c->stream[i])
            dnnl_stream_destroy(c->stream[i]);
        if (c->scratch)
            free(c->scratch[i]);
    }
    free(c->stream);
    free(c->scratch);
    if (c->engine)
        dnnl_engine_destroy(c->engine);
    memset(c, 0, sizeof *c);
}

/* Grows every thread's scratchpad to at least `bytes`. */
static enum err scratch_reserve(struct gemm_context *c, size_t bytes)
{
    if (bytes <= c->scratch_bytes)
        return ERR_OK;
    bytes = (bytes + 4095) / 4096 * 4096;
    for (int i = 0; i < c->threads; i++) {
        void *p = aligned_alloc(64, bytes);
        if (!p)
            return err_set(ERR_NOMEM, "out of memory");
        free(c->scratch[i]);
        c->scratch[i] = p;
    }
    c->scratch_bytes = bytes;
    return ERR_OK;
}

/* One memory handle a thread, without data yet. */
static dnnl_memory_t *handles_open(struct gemm_context *c, const dnnl_memory_desc_t *md)
{
    dnnl_memory_t *m = calloc((size_t)c->threads, sizeof *m);
    for (int i = 0; m && i < c->threads; i++)
        if (dnnl_memory_create(&m[i], md, c->engine, DNNL_MEMORY_NONE) != dnnl_success) {
            while (--i >= 0)
                dnnl_memory_destroy(m[i]);
            free(m);
            return NULL;
        }
    return m;
}

static void handles_close(struct gemm_context *c, dnnl_memory_t *m)
{
    for (int i = 0; m && i < c->threads; i++)
        dnnl_memory_destroy(m[i]);
    free(m);
}

static dnnl_status_t attributes(const struct gemm_desc *d, dnnl_primitive_attr_t *out)
{
    dnnl_status_t s = dnnl_primitive_attr_create(out);
    if (s == dnnl_success)
        s = dnnl_primitive_attr_set_scratchpad_mode(*out, dnnl_scratchpad_mode_user);
    if (s != dnnl_success || d->post == GEMM_PLAIN)
        return s;
    dnnl_post_ops_t ops;
    s = dnnl_post_ops_create(&ops);
    if (s != dnnl_success)
        return s;
    if (d->post == GEMM_SUM)
        s = dnnl_post_ops_append_sum(ops, 1.0f);
    else
        s = dnnl_post_ops_append_eltwise(ops, 1.0f, dnnl_eltwise_gelu_erf, 0, 0);
    if (s == dnnl_success)
        s = dnnl_primitive_attr_set_post_ops(*out, ops);
    dnnl_post_ops_destroy(ops);
    return s;
}

static dnnl_status_t describe(struct gemm_context *c, const struct gemm_desc *d,
                              dnnl_primitive_desc_t *pd)
{
    dnnl_memory_desc_t src, wei, dst, bias;
    dnnl_dims_t ds = {d->m, d->k}, dw = {d->k, d->n}, dd = {d->m, d->n}, db = {1, d->n};
    dnnl_dims_t ss = {d->ld_src, 1}, sd = {d->ld_dst, 1};
    dnnl_primitive_attr_t attr = NULL;
    dnnl_matmul_desc_t md;
    dnnl_status_t s = dnnl_memory_desc_init_by_strides(&src, 2, ds, d->src, ss);
    if (s == dnnl_success)
        s = dnnl_memory_desc_init_by_strides(&dst, 2, dd, d->dst, sd);
    if (s == dnnl_success && d->weights)
        wei = *d->weights;
    else if (s == dnnl_success)
        s = dnnl_memory_desc_init_by_tag(&wei, 2, dw, d->src, dnnl_format_tag_any);
    if (s == dnnl_success)
        s = dnnl_memory_desc_init_by_tag(&bias, 2, db, dnnl_f32, dnnl_ab);
    if (s == dnnl_success)
        s = dnnl_matmul_desc_init(&md, &src, &wei, d->bias ? &bias : NULL, &dst);
    if (s == dnnl_success)
        s = attributes(d, &attr);
    if (s == dnnl_success)
        s = dnnl_primitive_desc_create(pd, &md, attr, c->engine, NULL);
    if (attr)
        dnnl_primitive_attr_destroy(attr);
    return s;
}

/* OpenMP's number of threads for this one's regions; returns what it was. */
static int use_threads(int n)
{
    int before = omp_get_max_threads();
    omp_set_num_threads(n);
    return before;
}

static enum err open_gemm(struct gemm_context *c, const struct gemm_desc *d, struct gemm **out)
{
    enum err e = ERR_OK;
    dnnl_primitive_desc_t pd = NULL;
    struct gemm *g = calloc(1, sizeof *g);
    if (!g)
        return err_set(ERR_NOMEM, "out of memory");
    g->context = c;
    g->bias = d->bias;
    dnnl_status_t s = describe(c, d, &pd);
    if (s != dnnl_success) {
        e = fail(s, "matrix product");
        goto done;
    }
    g->weights = *dnnl_primitive_desc_query_md(pd, dnnl_query_weights_md, 0);
    const dnnl_memory_desc_t *scratch =
        dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0);
    const dnnl_memory_desc_t *src = dnnl_primitive_desc_query_md(pd, dnnl_query_src_md, 0);
    const dnnl_memory_desc_t *dst = dnnl_primitive_desc_query_md(pd, dnnl_query_dst_md, 0);
    e = scratch_reserve(c, dnnl_memory_desc_get_size(scratch));
    if (e != ERR_OK)
        goto done;
    s = dnnl_primitive_create(&g->primitive, pd);
    if (s != dnnl_success) {
        e = fail(s, "matrix product");
        goto done;
    }
    g->mem_src = handles_open(c, src);
    g->mem_weights = handles_open(c, &g->weights);
    g->mem_dst = handles_open(c, dst);
    g->mem_scratch = handles_open(c, scratch);
    if (d->bias)
        g->mem_bias = handles_open(c, dnnl_primitive_desc_query_md(pd, dnnl_query_weights_md, 1));
    if (!g->mem_src || !g->mem_weights || !g->mem_dst || !g->mem_scratch ||
        (d->bias && !g->mem_bias))
        e = err_set(ERR_NOMEM, "out of memory");
done:
    if (pd)
        dnnl_primitive_desc_destroy(pd);
    if (e != ERR_OK) {
        gemm_close(g);
        g = NULL;
    }
    *out = g;
    return e;
}

/* Primitives are made, here and below, for the number of threads that they will have: one. */
enum err gemm_open(struct gemm_context *c, const struct gemm_desc *d, struct gemm **out)
{
    int threads = use_threads(1);
    enum err e = open_gemm(c, d, out);
    use_threads(threads);
    return e;
}

void gemm_close(struct gemm *g)
{
    if (!g)
        return;
    handles_close(g->context, g->mem_src);
    handles_close(g->context, g->mem_weights);
    handles_close(g->context, g->mem_bias);
    handles_close(g->context, g->mem_dst);
    handles_close(g->context, g->mem_scratch);
    if (g->primitive)
        dnnl_primitive_destroy(g->primitive);
    free(g);
}

const dnnl_memory_desc_t *gemm_weights(const struct gemm *g)
{
    return &g->weights;
}

/* oneDNN's handles are not const; the matrix product only reads src, weights and bias. */
static void *unconst(const void *p)
{
    union {
        const void *in;
        void *out;
    } u = {.in = p};
    return u.out;
}

enum err gemm_run(struct gemm *g, int thread, const void *src, const void *weights,
                  const float *bias, void *dst)
{
    struct gemm_context *c = g->context;
    dnnl_memory_set_data_handle(g->mem_src[thread], unconst(src));
    dnnl_memory_set_data_handle(g->mem_weights[thread], unconst(weights));
    dnnl_memory_set_data_handle(g->mem_dst[thread], dst);
    dnnl_memory_set_data_handle(g->mem_scratch[thread], c->scratch[thread]);
    dnnl_exec_arg_t args[5] = {{DNNL_ARG_SRC, g->mem_src[thread]},
                               {DNNL_ARG_WEIGHTS, g->mem_weights[thread]},
                               {DNNL_ARG_DST, g->mem_dst[thread]},
                               {DNNL_ARG_SCRATCHPAD, g->mem_scratch[thread]}};
    int n = 4;
    if (g->bias) {
        dnnl_memory_set_data_handle(g->mem_bias[thread], unconst(bias));
        args[n++] = (dnnl_exec_arg_t){DNNL_ARG_BIAS, g->mem_bias[thread]};
    }
    dnnl_status_t s = dnnl_primitive_execute(g->primitive, c->stream[thread], n, args);
    return s == dnnl_success ? ERR_OK : fail(s, "matrix product");
}

static enum err open_repack(struct gemm_context *c, int k, int n, int stride_k, int stride_n,
                            dnnl_data_type_t src, const dnnl_memory_desc_t *layout,
                            struct repack **out)
{
    dnnl_memory_desc_t md;
    dnnl_dims_t dims = {k, n}, strides = {stride_k, stride_n};
    dnnl_primitive_desc_t pd = NULL;
    *out = NULL;
    struct repack *r = calloc(1, sizeof *r);
    if (!r)
        return err_set(ERR_NOMEM, "out of memory");
    r->context = c;
    dnnl_status_t s = dnnl_memory_desc_init_by_strides(&md, 2, dims, src, strides);
    if (s == dnnl_success)
        s = dnnl_reorder_primitive_desc_create(&pd, &md, c->engine, layout, c->engine, NULL);
    if (s == dnnl_success)
        s = dnnl_primitive_create(&r->primitive, pd);
    if (pd)
        dnnl_primitive_desc_destroy(pd);
    if (s != dnnl_success) {
        repack_close(r);
        return fail(s, "reorder");
    }
    r->mem_src = handles_open(c, &md);
    r->mem_dst = handles_open(c, layout);
    if (!r->mem_src || !r->mem_dst) {
        repack_close(r);
        return err_set(ERR_NOMEM, "out of memory");
    }
    *out = r;
    return ERR_OK;
}

enum err repack_open(struct gemm_context *c, int k, int n, int stride_k, int stride_n,
                     dnnl_data_type_t src, const dnnl_memory_desc_t *layout, struct repack **out)
{
    int threads = use_threads(1);
    enum err e = open_repack(c, k, n, stride_k, stride_n, src, layout, out);
    use_threads(threads);
    return e;
}

void repack_close(struct repack *r)
{
    if (!r)
        return;
    handles_close(r->context, r->mem_src);
    handles_close(r->context, r->mem_dst);
    if (r->primitive)
        dnnl_primitive_destroy(r->primitive);
    free(r);
}

enum err repack_run(struct repack *r, int thread, const void *src, void *dst)
{
    dnnl_memory_set_data_handle(r->mem_src[thread], unconst(src));
    dnnl_memory_set_data_handle(r->mem_dst[thread], dst);
    dnnl_exec_arg_t args[2] = {{DNNL_ARG_FROM, r->mem_src[thread]},
                               {DNNL_ARG_TO, r->mem_dst[thread]}};
    dnnl_status_t s = dnnl_primitive_execute(r->primitive, r->context->stream[thread], 2, args);
    return s == dnnl_success ? ERR_OK : fail(s, "reorder");
}
