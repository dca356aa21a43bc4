/* Linear layers: y = W x + b over rows of tokens.
 *
 * Rows are cut into tiles of TILE and the tiles are shared out among OpenMP's threads, each tile
 * one single-threaded oneDNN matmul. The weights are packed once, in the layout that the full
 * tile's primitive prefers. The last, shorter tile is copied to scratch and run at the next
 * multiple of STEP rows, so that a linear has at most TILE / STEP primitives whatever frame sizes
 * come by; they are made when first needed and share the packed weights. A row's sum runs over K
 * in the same order in all of them: batching changes no bit of a result.
 *
 * Measured on two cores of a Zen 4 (MiT-B1, 864x480; a 2048^3 product there: 226 and 448 GFLOP/s):
 * 200 to 212 GFLOP/s in fp32 and 400 to 425 in bf16 for K >= 128; K = 64 is bound by memory. */
#include "base/try.h"
#include "kernels/cpu/cpu.h"

#include <omp.h>
#include <stdlib.h>

enum { TILE = 96, STEP = 16 };

struct linear {
    int in, out;
    enum linear_output output;
    void *weights;                  /* packed */
    float *bias;                    /* [out] or NULL */
    struct gemm *tile[TILE / STEP]; /* [i]: (i + 1) * STEP rows; the last is always there */
};

static size_t output_elem(const struct backend *be, const struct linear *l)
{
    bool act = l->output == LINEAR_ACT || l->output == LINEAR_ACT_GELU;
    return act ? backend_elem(be) : sizeof(float);
}

/* The primitive for tiles of `height` rows, a multiple of STEP. */
static struct gemm **tile_of(struct linear *l, int height)
{
    return &l->tile[height / STEP - 1];
}

static enum err tile_open(struct backend *be, struct linear *l, int height)
{
    static const enum gemm_post post[] = {[LINEAR_ACT] = GEMM_PLAIN,
                                          [LINEAR_ACT_GELU] = GEMM_GELU,
                                          [LINEAR_F32] = GEMM_PLAIN,
                                          [LINEAR_ADD_F32] = GEMM_SUM};
    const struct gemm *full = *tile_of(l, TILE);
    struct gemm_desc d = {.m = height,
                          .n = l->out,
                          .k = l->in,
                          .ld_src = l->in,
                          .ld_dst = l->out,
                          .src = cpu_act_type(be),
                          .dst = output_elem(be, l) == 4 ? dnnl_f32 : dnnl_bf16,
                          .bias = l->bias != NULL,
                          .post = post[l->output],
                          .weights = full ? gemm_weights(full) : NULL};
    return *tile_of(l, height) ? ERR_OK : gemm_open(&cpu_of(be)->gemm, &d, tile_of(l, height));
}

/* Host weights [out][in], fp32, to the packed layout in the backend's dtype. */
static enum err pack(struct backend *be, struct linear *l, const float *weight)
{
    struct gemm_context *c = &cpu_of(be)->gemm;
    const dnnl_memory_desc_t *layout = gemm_weights(*tile_of(l, TILE));
    size_t count = (size_t)l->in * (size_t)l->out;
    struct repack *r = NULL;
    uint16_t *narrow = NULL;
    const void *src = weight;
    enum err e = ERR_OK;
    l->weights = aligned_alloc(64, (dnnl_memory_desc_get_size(layout) + 63) / 64 * 64);
    if (!l->weights)
        return err_set(ERR_NOMEM, "out of memory for weights");
    if (cpu_is_bf16(be)) {
        narrow = malloc(count * sizeof *narrow);
        if (!narrow)
            return err_set(ERR_NOMEM, "out of memory for weights");
        cpu_of(be)->ops->to_bf16(weight, count, narrow);
        src = narrow;
    }
    e = repack_open(c, l->in, l->out, 1, l->in, cpu_act_type(be), layout, &r);
    if (e == ERR_OK)
        e = repack_run(r, 0, src, l->weights);
    repack_close(r);
    free(narrow);
    return e;
}

enum err cpu_linear_open(struct backend *be, const struct linear_desc *d, struct linear **out)
{
    enum err e;
    struct linear *l = calloc(1, sizeof *l);
    *out = NULL;
    if (!l)
        return err_set(ERR_NOMEM, "out of memory");
    l->in = d->in;
    l->out = d->out;
    l->output = d->output;
    if (d->bias) {
        l->bias = malloc((size_t)d->out * sizeof *l->bias);
        if (!l->bias) {
            e = err_set(ERR_NOMEM, "out of memory");
            goto fail;
        }
        memcpy(l->bias, d->bias, (size_t)d->out * sizeof *l->bias);
    }
    e = tile_open(be, l, TILE);
    if (e == ERR_OK)
        e = pack(be, l, d->weight);
    if (e != ERR_OK)
        goto fail;
    *out = l;
    return ERR_OK;
fail:
    cpu_linear_close(be, l);
    return e;
}

void cpu_linear_close(struct backend *be, struct linear *l)
{
    (void)be;
    if (!l)
        return;
    for (int i = 0; i < TILE / STEP; i++)
        gemm_close(l->tile[i]);
    free(l->weights);
    free(l->bias);
    free(l);
}

/* The last `rows` < TILE rows, padded in scratch. The padding's results are never read. */
static enum err run_padded(struct backend *be, struct linear *l, const char *x, char *y, int rows,
                           int thread, char *scratch)
{
    size_t src = (size_t)l->in * backend_elem(be), dst = (size_t)l->out * output_elem(be, l);
    int height = (rows + STEP - 1) / STEP * STEP;
    char *py = scratch + (size_t)TILE * src;
    memcpy(scratch, x, (size_t)rows * src);
    memset(scratch + (size_t)rows * src, 0, (size_t)(height - rows) * src);
    if (l->output == LINEAR_ADD_F32) {
        memcpy(py, y, (size_t)rows * dst);
        memset(py + (size_t)rows * dst, 0, (size_t)(height - rows) * dst);
    }
    enum err e = gemm_run(*tile_of(l, height), thread, scratch, l->weights, l->bias, py);
    memcpy(y, py, (size_t)rows * dst);
    return e;
}

enum err cpu_linear(struct backend *be, struct linear *l, const void *x, void *y, size_t rows)
{
    size_t src = (size_t)l->in * backend_elem(be), dst = (size_t)l->out * output_elem(be, l);
    int last = (int)(rows % TILE);
    long tiles = (long)((rows + TILE - 1) / TILE);
    enum err result = ERR_OK;
    void *scratch = NULL;
    if (last) {
        TRY(tile_open(be, l, (last + STEP - 1) / STEP * STEP));
        TRY(cpu_scratch(cpu_of(be), (size_t)TILE * (src + dst), &scratch));
    }
#pragma omp parallel for schedule(dynamic, 1) if (tiles > 1)
    for (long i = 0; i < tiles; i++) {
        const char *xi = (const char *)x + (size_t)i * TILE * src;
        char *yi = (char *)y + (size_t)i * TILE * dst;
        int thread = omp_get_thread_num();
        enum err e = i == tiles - 1 && last
                         ? run_padded(be, l, xi, yi, last, thread, scratch)
                         : gemm_run(*tile_of(l, TILE), thread, xi, l->weights, l->bias, yi);
        if (e != ERR_OK) {
#pragma omp atomic write
            result = e;
        }
    }
    return result == ERR_OK ? ERR_OK : err_set(result, "a matrix product failed");
}
