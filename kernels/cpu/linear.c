/* Linear layers: y = W x + b over rows of tokens.
 *
 * Rows are cut into tiles, and the tiles are shared out among OpenMP's threads, each tile one
 * single-threaded oneDNN matmul. Every thread gets as many tiles of the linear's own height, and
 * what rows are left are cut into one shorter tile a thread, in steps of STEP: no thread waits for
 * another's tile. The height is what keeps a tile's operands in a core's cache, and long enough
 * that a narrow product outlasts the call of it.
 *
 * The weights are packed once, in the layout that the full tile's primitive prefers; the others
 * share them and are made when first needed, at most HEIGHT_MAX / STEP of them whatever frame sizes
 * come by. The very last tile is copied to scratch and padded to the next step. A row's sum runs
 * over K in the same order in all of them: batching changes no bit of a result.
 *
 * Measured on two cores of a Zen 5 (MiT-B1, 864x480; a 2048^3 product there: 495 and 1010 GFLOP/s):
 * 450 to 500 GFLOP/s in fp32 and 860 to 1000 in bf16 for K >= 128 and N >= 128, where tiles of 96
 * rows in any order reached 420 to 480 and 720 to 950. */
#include "base/try.h"
#include "kernels/cpu/cpu.h"

#include <omp.h>
#include <stdlib.h>

enum {
    STEP = 16,
    HEIGHT_MIN = 96,
    HEIGHT_MAX = 384,
    TILE_BYTES = 1 << 20, /* of x and y together */
};

struct linear {
    int in, out;
    enum linear_output output;
    bool x_f32;
    int height;                           /* of a full tile, a multiple of STEP */
    void *weights;                        /* packed */
    float *bias;                          /* [out] or NULL */
    struct gemm *tile[HEIGHT_MAX / STEP]; /* [i]: (i + 1) * STEP rows; `height` is always there */
};

/* How rows are shared out: `full` tiles of the linear's height, the others of `piece` rows, the
 * last of which may have fewer. */
struct cut {
    size_t full, piece, tiles;
};

static dnnl_data_type_t input_type(const struct backend *be, const struct linear *l)
{
    return l->x_f32 ? dnnl_f32 : cpu_act_type(be);
}

static size_t input_elem(const struct backend *be, const struct linear *l)
{
    return l->x_f32 ? sizeof(float) : backend_elem(be);
}

static size_t output_elem(const struct backend *be, const struct linear *l)
{
    bool act = l->output == LINEAR_ACT || l->output == LINEAR_ACT_GELU;
    return act ? backend_elem(be) : sizeof(float);
}

static size_t row_bytes(const struct backend *be, const struct linear *l)
{
    return (size_t)l->in * input_elem(be, l) + (size_t)l->out * output_elem(be, l);
}

static int tile_height(const struct backend *be, const struct linear *l)
{
    int height = (int)(TILE_BYTES / row_bytes(be, l)) / HEIGHT_MIN * HEIGHT_MIN;
    return height < HEIGHT_MIN ? HEIGHT_MIN : height > HEIGHT_MAX ? HEIGHT_MAX : height;
}

static struct cut cut_rows(const struct linear *l, size_t rows, size_t threads)
{
    size_t height = (size_t)l->height, full = rows / height / threads * threads;
    size_t left = rows - full * height, piece = (left + threads - 1) / threads;
    piece = (piece + STEP - 1) / STEP * STEP;
    return (struct cut){
        .full = full, .piece = piece, .tiles = full + (left ? (left + piece - 1) / piece : 0)};
}

/* Rows of tile i, the first of them in *at. */
static int tile_rows(const struct linear *l, const struct cut *c, size_t rows, size_t i, size_t *at)
{
    size_t height = (size_t)l->height;
    *at = i < c->full ? i * height : c->full * height + (i - c->full) * c->piece;
    size_t most = i < c->full ? height : c->piece;
    return (int)(rows - *at < most ? rows - *at : most);
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
    const struct gemm *full = *tile_of(l, l->height);
    struct gemm_desc d = {.m = height,
                          .n = l->out,
                          .k = l->in,
                          .ld_src = l->in,
                          .ld_dst = l->out,
                          .src = input_type(be, l),
                          .dst = output_elem(be, l) == 4 ? dnnl_f32 : dnnl_bf16,
                          .bias = l->bias != NULL,
                          .post = post[l->output],
                          .weights = full ? gemm_weights(full) : NULL};
    return *tile_of(l, height) ? ERR_OK : gemm_open(&cpu_of(be)->gemm, &d, tile_of(l, height));
}

/* Host weights [out][in], fp32, to the packed layout in x's type. */
static enum err pack(struct backend *be, struct linear *l, const float *weight)
{
    struct gemm_context *c = &cpu_of(be)->gemm;
    const dnnl_memory_desc_t *layout = gemm_weights(*tile_of(l, l->height));
    size_t count = (size_t)l->in * (size_t)l->out;
    struct repack *r = NULL;
    uint16_t *narrow = NULL;
    const void *src = weight;
    enum err e = ERR_OK;
    l->weights = aligned_alloc(64, (dnnl_memory_desc_get_size(layout) + 63) / 64 * 64);
    if (!l->weights)
        return err_set(ERR_NOMEM, "out of memory for weights");
    if (input_type(be, l) == dnnl_bf16) {
        narrow = malloc(count * sizeof *narrow);
        if (!narrow)
            return err_set(ERR_NOMEM, "out of memory for weights");
        cpu_of(be)->ops->to_bf16(weight, count, narrow);
        src = narrow;
    }
    e = repack_open(c, l->in, l->out, 1, l->in, input_type(be, l), layout, &r);
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
    l->x_f32 = d->x_f32;
    if (d->bias) {
        l->bias = malloc((size_t)d->out * sizeof *l->bias);
        if (!l->bias) {
            e = err_set(ERR_NOMEM, "out of memory");
            goto fail;
        }
        memcpy(l->bias, d->bias, (size_t)d->out * sizeof *l->bias);
    }
    l->height = tile_height(be, l);
    e = tile_open(be, l, l->height);
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
    for (int i = 0; i < HEIGHT_MAX / STEP; i++)
        gemm_close(l->tile[i]);
    free(l->weights);
    free(l->bias);
    free(l);
}

/* The last `rows` rows, padded to `height` in scratch. The padding's results are never read. */
static enum err run_padded(struct backend *be, struct linear *l, const char *x, char *y, int rows,
                           int height, int thread, char *scratch)
{
    size_t src = (size_t)l->in * input_elem(be, l), dst = (size_t)l->out * output_elem(be, l);
    size_t padding = (size_t)(height - rows);
    char *py = scratch + (size_t)height * src;
    memcpy(scratch, x, (size_t)rows * src);
    memset(scratch + (size_t)rows * src, 0, padding * src);
    if (l->output == LINEAR_ADD_F32) {
        memcpy(py, y, (size_t)rows * dst);
        memset(py + (size_t)rows * dst, 0, padding * dst);
    }
    enum err e = gemm_run(*tile_of(l, height), thread, scratch, l->weights, l->bias, py);
    memcpy(y, py, (size_t)rows * dst);
    return e;
}

enum err cpu_linear(struct backend *be, struct linear *l, const void *x, void *y, size_t rows)
{
    size_t src = (size_t)l->in * input_elem(be, l), dst = (size_t)l->out * output_elem(be, l);
    struct cut c = cut_rows(l, rows, (size_t)cpu_of(be)->gemm.threads);
    size_t at;
    int last = c.tiles ? tile_rows(l, &c, rows, c.tiles - 1, &at) : 0;
    int padded = (last + STEP - 1) / STEP * STEP;
    enum err result = ERR_OK;
    void *scratch = NULL;
    if (c.tiles == 0)
        return ERR_OK;
    if (c.tiles > c.full + 1)
        TRY(tile_open(be, l, (int)c.piece));
    TRY(tile_open(be, l, padded));
    if (last != padded)
        TRY(cpu_scratch(cpu_of(be), (size_t)padded * (src + dst), &scratch));
#pragma omp parallel for schedule(dynamic, 1) if (c.tiles > 1)
    for (size_t i = 0; i < c.tiles; i++) {
        size_t first;
        int height = tile_rows(l, &c, rows, i, &first), thread = omp_get_thread_num();
        const char *xi = (const char *)x + first * src;
        char *yi = (char *)y + first * dst;
        enum err e = height % STEP
                         ? run_padded(be, l, xi, yi, height, padded, thread, scratch)
                         : gemm_run(*tile_of(l, height), thread, xi, l->weights, l->bias, yi);
        if (e != ERR_OK) {
#pragma omp atomic write
            result = e;
        }
    }
    return result == ERR_OK ? ERR_OK : err_set(result, "a matrix product failed");
}
