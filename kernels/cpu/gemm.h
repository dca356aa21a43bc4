/* Matrix products on one thread, by oneDNN: the building block of linear and attention.
 *
 * y[M, N] = x[M, K] * W[K, N] (+ bias, + y, GELU). A gemm is one oneDNN matmul primitive made for
 * a fixed M, N, K and for one thread; callers split their rows over OpenMP threads themselves.
 * That keeps a tile's operands in one core's cache, and makes a row's result independent of how
 * many rows there are. */
#ifndef TV3S_KERNELS_CPU_GEMM_H
#define TV3S_KERNELS_CPU_GEMM_H

#include "kernels/backend.h"

#include <oneapi/dnnl/dnnl.h>

/* What all gemms of a backend share. */
struct gemm_context {
    dnnl_engine_t engine;
    int threads;
    dnnl_stream_t *stream; /* [threads] */
    void **scratch;        /* [threads] oneDNN's scratchpads, each of `scratch_bytes` */
    size_t scratch_bytes;
};

enum gemm_post { GEMM_PLAIN, GEMM_SUM, GEMM_GELU };

struct gemm_desc {
    int m, n, k;
    int ld_src, ld_dst;        /* row strides in elements */
    dnnl_data_type_t src, dst; /* the weights have src's type */
    bool bias;                 /* fp32 [N] */
    enum gemm_post post;
    const dnnl_memory_desc_t *weights; /* layout to use; NULL = the one that oneDNN prefers */
};

struct gemm;

/* All that open: ERR_NOMEM; ERR_UNSUPPORTED where oneDNN has none for this CPU and type. Those that
 * run: ERR_INTERNAL. */
enum err gemm_context_open(struct gemm_context *c, int threads);
void gemm_context_close(struct gemm_context *c);

enum err gemm_open(struct gemm_context *c, const struct gemm_desc *d, struct gemm **out);
void gemm_close(struct gemm *g); /* NULL is allowed */
const dnnl_memory_desc_t *gemm_weights(const struct gemm *g);

/* Runs on the calling thread, number `thread` of the context. `weights` is in the gemm's layout. */
enum err gemm_run(struct gemm *g, int thread, const void *src, const void *weights,
                  const float *bias, void *dst);

/* A reorder of [K, N] (element (k, n) at src[k * stride_k + n * stride_n]) into `layout`. */
struct repack;
enum err repack_open(struct gemm_context *c, int k, int n, int stride_k, int stride_n,
                     dnnl_data_type_t src, const dnnl_memory_desc_t *layout, struct repack **out);
void repack_close(struct repack *r);
enum err repack_run(struct repack *r, int thread, const void *src, void *dst);

#endif
