/* Linear layers: y = W x + b over rows of tokens.
 *
 * Rows are cut into tiles of TILE and the tiles are shared out among OpenMP's threads, each tile
 * one single-threaded oneDNN matmul. The weights are packed once, in the layout that the tile's
 * primitive prefers. The last, shorter tile has a primitive of its own, made when its height is
 * first seen and kept; it is given the same weight layout, so a row's sum runs over K in the same
 * order whatever rows stand beside it: batching changes no bit of a result. */
#include "kernels/cpu/cpu.h"

#include <omp.h>
#include <stdlib.h>

enum { TILE = 96 };

struct linear {
    int in, out;
    enum linear_output output;
    void *weights;               /* packed */
    float *bias;                 /* [out] or NULL */
    struct gemm *tile[TILE + 1]; /* by height; [TILE] always there */
};

static size_t output_elem(const struct backend *be, const struct linear *l)
{
    bool act = l->output == LINEAR_ACT || l->output == LINEAR_ACT_GELU;
    return act ? backend_elem(be) : sizeof(float);
}

static enum err tile_open(struct backend *be, struct linear *l, int height)
{
    static const enum gemm_post post[] = {[LINEAR_ACT] = GEMM_PLAIN,
                                          [LINEAR_ACT_GELU] = GEMM_GELU,
                                          [LINEAR_F32] = GEMM_PLAIN,
                                          [LINEAR_ADD_F32] = GEMM_SUM};
    struct gemm_desc d = {.m = height,
                          .n = l->out,
                          .k = l->in,
                          .ld_src = l->in,
                          .ld_dst = l->out,
                          .src = cpu_act_type(be),
                          .dst = output_elem(be, l) == 4 ? dnnl_f32 : dnnl_bf16,
                          .bias = l->bias != NULL,
                          .post = post[l->output],
                          .weights = l->tile[TILE] ? gemm_weights(l->tile[TILE]) : NULL};
    return gemm_open(&cpu_of(be)->gemm, &d, &l->tile[height]);
}

/* Host weights [out][in], fp32, to the packed layout in the backend's dtype. */
static enum err pack(struct backend *be, struct linear *l, const float *weight)
{
    struct gemm_context *c = &cpu_of(be)->gemm;
    const dnnl_memory_desc_t *layout = gemm_weights(l->tile[TILE]);
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
    for (int i = 0; i <= TILE; i++)
        gemm_close(l->tile[i]);
    free(l->weights);
    free(l->bias);
    free(l);
}

enum err cpu_linear(struct backend *be, struct linear *l, const void *x, void *y, size_t rows)
{
    size_t src = (size_t)l->in * backend_elem(be), dst = (size_t)l->out * output_elem(be, l);
    int last = (int)(rows % TILE);
    long tiles = (long)((rows + TILE - 1) / TILE);
    enum err result = ERR_OK;
    if (last && !l->tile[last]) {
        enum err e = tile_open(be, l, last);
        if (e != ERR_OK)
            return e;
    }
#pragma omp parallel for schedule(dynamic, 1) if (tiles > 1)
    for (long i = 0; i < tiles; i++) {
        struct gemm *g = l->tile[i == tiles - 1 && last ? last : TILE];
        size_t row = (size_t)i * TILE;
        enum err e = gemm_run(g, omp_get_thread_num(), (const char *)x + row * src, l->weights,
                              l->bias, (char *)y + row * dst);
        if (e != ERR_OK) {
#pragma omp atomic write
            result = e;
        }
    }
    return result == ERR_OK ? ERR_OK : err_set(result, "a matrix product failed");
}
