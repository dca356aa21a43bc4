/* Fuse: four projected maps resized to the first one's size, summed, shifted, rectified; then,
 * for the TV3S head, resized again to the grid.
 *
 *   f[y, x] = ReLU(g0[y, x] + sum_{i = 1..3} resize(g_i)[y, x] + bias)       [h1, w1, e]
 *   grid[y, x] = resize(f)[y, x]                                             [h, w', e]
 *
 * f is the head's largest map (25 MB at 480p in fp32) and the grid needs it once, so with a grid it
 * is never stored: a task is one output row and up to 256 channels, walked in tiles of columns. For
 * each of the one or two rows of f that a grid row needs, the tile's share of the small maps is
 * first mixed over rows, then summed over columns into a tile of f, and that is added to the grid
 * tile. All of it stays in the second-level cache; from memory come the four maps, once (twice
 * where the grid is larger than half of f), in long runs. Without a grid the tile of f is the
 * output. */
#include "kernels/cpu/simd.h"

/* The small maps are never larger than f, so that under a tile of it lie no more columns of theirs,
 * and a few for the taps. */
enum {
    BLOCK = 256,     /* channels of a task, at most */
    TILE = 16,       /* columns of f, and of the grid, in a tile, at most */
    SPAN = TILE + 8, /* columns of a small map under a tile, at most */
    MAX_TAPS = 4,    /* of a small map's columns; bilinear ones have two */
};

struct fuse {
    const void *const *g;
    const struct resize_axis *const *rows, *const *cols;
    const float *bias;
    const struct resize_axis *grid_rows, *grid_cols; /* NULL: f is the output */
    void *out;
    size_t e;
};

struct tile {
    float small[3][SPAN][BLOCK]; /* g1..g3 mixed over rows */
    float f[TILE][BLOCK];
    float grid[TILE][BLOCK];
};

/* Whether columns x0..x1 - 1 of f and what they read fit a tile. */
static bool tile_fits(const struct fuse *k, int x0, int x1)
{
    for (int i = 1; i < 4; i++)
        if (k->cols[i]->index[x1 - 1] + k->cols[i]->taps - k->cols[i]->index[x0] > SPAN)
            return false;
    return x1 - x0 <= TILE;
}

/* small[i] of row y of f, under columns x0..x1 - 1, channels c..c + count - 1. */
INLINE void mix_rows(const struct fuse *k, struct tile *t, int y, int x0, int x1, size_t c,
                     size_t count, bool bf16)
{
    for (int i = 1; i < 4; i++) {
        const struct resize_axis *row = k->rows[i], *col = k->cols[i];
        const float *weight = row->weight + (size_t)y * (size_t)row->taps;
        int first = col->index[x0], span = col->index[x1 - 1] + col->taps - first;
        for (int x = 0; x < span; x++) {
            size_t at = ((size_t)row->index[y] * (size_t)col->src + (size_t)(first + x)) * k->e + c;
            FOR_VECTORS (j, n, count) {
                vf sum = vf_set(weight[0]) * act_load(k->g[i], at + j, n, bf16);
                for (int s = 1; s < row->taps; s++)
                    sum = vf_fma(vf_set(weight[s]),
                                 act_load(k->g[i], at + (size_t)(s * col->src) * k->e + j, n, bf16),
                                 sum);
                vf_store(t->small[i - 1][x] + j, sum);
            }
        }
    }
}

/* f[j] = ReLU(g0[at + j] + bias[j] + sum_i weight[i] * from[i][j]), j < count. */
INLINE void sum_terms(const void *g0, size_t at, const float *bias, const float *const *from,
                      const float *weight, int terms, size_t count, float *f, bool bf16)
{
    FOR_VECTORS (j, n, count) {
        vf sum = act_load(g0, at + j, n, bf16) + vf_load_n(bias + j, n);
        for (int i = 0; i < terms; i++)
            sum = vf_fma(vf_set(weight[i]), vf_load(from[i] + j), sum);
        vf_store(f + j, vf_max(vf_set(0.0f), sum));
    }
}

/* Row y of f, columns x0..x1 - 1, to t->f. */
INLINE void f_row(const struct fuse *k, struct tile *t, int y, int x0, int x1, size_t c,
                  size_t count, bool bf16)
{
    mix_rows(k, t, y, x0, x1, c, count, bf16);
    for (int x = x0; x < x1; x++) {
        size_t at = ((size_t)y * (size_t)k->cols[0]->dst + (size_t)x) * k->e + c;
        const float *from[3 * MAX_TAPS];
        float weight[3 * MAX_TAPS];
        int terms = 0;
        for (int i = 1; i < 4; i++) {
            const struct resize_axis *col = k->cols[i];
            for (int s = 0; s < col->taps; s++) {
                from[terms] = t->small[i - 1][col->index[x] - col->index[x0] + s];
                weight[terms++] = col->weight[x * col->taps + s];
            }
        }
        if (terms == 6)
            sum_terms(k->g[0], at, k->bias + c, from, weight, 6, count, t->f[x - x0], bf16);
        else
            sum_terms(k->g[0], at, k->bias + c, from, weight, terms, count, t->f[x - x0], bf16);
    }
}

/* Grid row y, columns begin..end - 1. */
INLINE void grid_tile(const struct fuse *k, struct tile *t, int y, int begin, int end, size_t c,
                      size_t count, bool bf16, bool out_bf16)
{
    const struct resize_axis *row = k->grid_rows, *col = k->grid_cols;
    int x0 = col->index[begin], x1 = col->index[end - 1] + col->taps;

    memset(t->grid, 0, (size_t)(end - begin) * sizeof t->grid[0]);
    for (int s = 0; s < row->taps; s++) {
        float weight = row->weight[y * row->taps + s];
        f_row(k, t, row->index[y] + s, x0, x1, c, count, bf16);
        for (int x = begin; x < end; x++)
            FOR_VECTORS (j, n, count) {
                vf sum = {0};
                for (int i = 0; i < col->taps; i++)
                    sum = vf_fma(vf_set(col->weight[x * col->taps + i]),
                                 vf_load(t->f[col->index[x] - x0 + i] + j), sum);
                float *to = t->grid[x - begin] + j;
                vf_store(to, vf_fma(vf_set(weight), sum, vf_load(to)));
            }
    }
    for (int x = begin; x < end; x++)
        FOR_VECTORS (j, n, count)
            act_store(k->out, ((size_t)y * (size_t)col->dst + (size_t)x) * k->e + c + j,
                      vf_load(t->grid[x - begin] + j), n, out_bf16);
}

/* Output row y, channels c..c + count - 1. */
INLINE void fuse_row(const struct fuse *k, int y, size_t c, size_t count, bool bf16, bool out_bf16)
{
    struct tile t;
    if (k->grid_rows) {
        const struct resize_axis *col = k->grid_cols;
        for (int begin = 0, end; begin < col->dst; begin = end) {
            end = begin + 1;
            while (end < col->dst && end - begin < TILE &&
                   tile_fits(k, col->index[begin], col->index[end] + col->taps))
                end++;
            grid_tile(k, &t, y, begin, end, c, count, bf16, out_bf16);
        }
        return;
    }
    int width = k->cols[0]->dst;
    for (int begin = 0, end; begin < width; begin = end) {
        end = begin + 1;
        while (end < width && tile_fits(k, begin, end + 1))
            end++;
        f_row(k, &t, y, begin, end, c, count, bf16);
        for (int x = begin; x < end; x++)
            FOR_VECTORS (j, n, count)
                act_store(k->out, ((size_t)y * (size_t)width + (size_t)x) * k->e + c + j,
                          vf_load(t.f[x - begin] + j), n, out_bf16);
    }
}

INLINE void fuse_block(const struct fuse *k, int y, size_t c, bool bf16, bool out_bf16)
{
    size_t left = k->e - c;
    fuse_row(k, y, c, left < BLOCK ? left : BLOCK, bf16, out_bf16);
}

void KERNEL(fuse)(const void *const g[4], const struct resize_axis *const rows[4],
                  const struct resize_axis *const cols[4], int e, const float *bias,
                  const struct resize_axis *grid_rows, const struct resize_axis *grid_cols,
                  void *out, bool bf16, bool out_bf16)
{
    struct fuse k = {g, rows, cols, bias, grid_rows, grid_cols, out, (size_t)e};
    int height = grid_rows ? grid_rows->dst : rows[0]->dst;
    int blocks = (e + BLOCK - 1) / BLOCK;

#pragma omp parallel for schedule(static) if ((long)height * cols[0]->dst * e >= PARALLEL_MIN)
    for (int i = 0; i < height * blocks; i++) {
        int y = i / blocks;
        size_t c = (size_t)(i % blocks) * BLOCK;
        if (bf16 && out_bf16)
            fuse_block(&k, y, c, true, true);
        else if (bf16)
            fuse_block(&k, y, c, true, false);
        else if (out_bf16)
            fuse_block(&k, y, c, false, true);
        else
            fuse_block(&k, y, c, false, false);
    }
}
