/* Swin Transformer v1 (MODEL.md section 2).
 *
 * A block, in matrices of tokens:
 *   rows of windows = gather(LN1 x)       zero rows where a window hangs over the edge
 *   x += scatter(proj(attention(qkv(rows))))
 *   x += fc2(GELU(fc1(LN2 x)))
 * Padding, rolling and cutting into windows are one gather by a table of the plan, and undoing
 * them is the same table read the other way. */
#include "base/try.h"
#include "engine/encoder.h"

#include <stdio.h>
#include <stdlib.h>

enum { PATCH = 4 };

struct swin_block {
    struct norm norm1, norm2;
    struct linear *qkv, *proj, *fc1, *fc2;
    float *bias; /* [heads][n * n][n * n], looked up already */
};

struct swin_stage {
    struct swin_block *block;
    struct norm norm, merge_norm;
    struct linear *merge; /* 4C -> 2C; NULL in the last stage */
};

struct swin {
    const struct arch *arch;
    struct linear *embed;
    struct norm embed_norm;
    float *mask; /* [3][n * n][n * n]: right edge, bottom, both */
    struct swin_stage stage[ARCH_STAGES];
};

/* table [(2n - 1)^2][heads] -> [heads][query][key] by relative position */
static enum err load_bias(const struct loader *l, const char *name, int heads, int n, float **out)
{
    int tokens = n * n, side = 2 * n - 1;
    float *table = NULL;
    TRY(model_tensor(l->model, &table, "%s", name));
    float *bias = malloc((size_t)heads * (size_t)(tokens * tokens) * sizeof *bias);
    enum err e = bias ? ERR_OK : err_set(ERR_NOMEM, "out of memory for weights");
    for (int h = 0; e == ERR_OK && h < heads; h++)
        for (int q = 0; q < tokens; q++)
            for (int k = 0; k < tokens; k++) {
                int dy = q / n - k / n + n - 1, dx = q % n - k % n + n - 1;
                bias[((size_t)h * (size_t)tokens + (size_t)q) * (size_t)tokens + (size_t)k] =
                    table[(dy * side + dx) * heads + h];
            }
    if (e == ERR_OK)
        e = load_floats(l, bias, (size_t)heads * (size_t)(tokens * tokens), out);
    free(table);
    free(bias);
    return e;
}

/* -100 between tokens of different regions. In the last row (column) of windows of the rolled map,
 * the first n - n / 2 token rows (columns) are one band and the others, rolled over from the top
 * (left), another. */
static enum err make_masks(const struct loader *l, int n, float **out)
{
    int tokens = n * n, edge = n - n / 2;
    float *mask = malloc(3 * (size_t)(tokens * tokens) * sizeof *mask);
    if (!mask)
        return err_set(ERR_NOMEM, "out of memory for weights");
    for (int kind = 1; kind <= 3; kind++)
        for (int q = 0; q < tokens; q++)
            for (int k = 0; k < tokens; k++) {
                bool col = (kind & 1) && (q % n < edge) != (k % n < edge);
                bool row = (kind & 2) && (q / n < edge) != (k / n < edge);
                mask[((kind - 1) * tokens + q) * tokens + k] = row || col ? -100.0f : 0.0f;
            }
    enum err e = load_floats(l, mask, 3 * (size_t)(tokens * tokens), out);
    free(mask);
    return e;
}

static enum err block_open(const struct loader *l, int stage, int index, struct swin_block *b)
{
    const struct arch *a = &l->model->arch;
    int c = a->dims[stage], hidden = a->mlp[stage];
    char at[64], name[128];
    snprintf(at, sizeof at, "backbone.layers.%d.blocks.%d", stage, index);
#define NAME(suffix) (snprintf(name, sizeof name, "%s.%s", at, suffix), name)
    TRY(load_norm(l, NAME("norm1"), c, true, &b->norm1));
    TRY(load_linear(l, NAME("attn.qkv"), c, 3 * c, LINEAR_ACT, &b->qkv));
    TRY(load_bias(l, NAME("attn.relative_position_bias_table"), a->heads[stage], a->swin_window,
                  &b->bias));
    TRY(load_linear(l, NAME("attn.proj"), c, c, LINEAR_F32, &b->proj));
    TRY(load_norm(l, NAME("norm2"), c, true, &b->norm2));
    TRY(load_linear(l, NAME("mlp.fc1"), c, hidden, LINEAR_ACT_GELU, &b->fc1));
    return load_linear(l, NAME("mlp.fc2"), hidden, c, LINEAR_ADD_F32, &b->fc2);
#undef NAME
}

static enum err stage_open(const struct loader *l, int i, struct swin_stage *s)
{
    const struct arch *a = &l->model->arch;
    int c = a->dims[i];
    char name[64];
    s->block = calloc((size_t)a->depths[i], sizeof *s->block);
    if (!s->block)
        return err_set(ERR_NOMEM, "out of memory");
    for (int j = 0; j < a->depths[i]; j++)
        TRY(block_open(l, i, j, &s->block[j]));
    snprintf(name, sizeof name, "backbone.norm%d", i);
    TRY(load_norm(l, name, c, true, &s->norm));
    if (i == ARCH_STAGES - 1)
        return ERR_OK;
    snprintf(name, sizeof name, "backbone.layers.%d.downsample.norm", i);
    TRY(load_norm(l, name, 4 * c, true, &s->merge_norm));
    snprintf(name, sizeof name, "backbone.layers.%d.downsample.reduction", i);
    return load_linear(l, name, 4 * c, a->dims[i + 1], LINEAR_F32, &s->merge);
}

enum err swin_open(const struct loader *l, struct swin **out)
{
    const struct arch *a = &l->model->arch;
    struct swin *s = calloc(1, sizeof *s);
    *out = s;
    if (!s)
        return err_set(ERR_NOMEM, "out of memory");
    s->arch = a;
    TRY(load_conv(l, "backbone.patch_embed.proj", 3, a->dims[0], PATCH, im2col_ld(3, PATCH), true,
                  LINEAR_F32, &s->embed));
    TRY(load_norm(l, "backbone.patch_embed.norm", a->dims[0], true, &s->embed_norm));
    TRY(make_masks(l, a->swin_window, &s->mask));
    for (int i = 0; i < ARCH_STAGES; i++)
        TRY(stage_open(l, i, &s->stage[i]));
    return ERR_OK;
}

void swin_close(const struct loader *l, struct swin *s)
{
    const struct backend_ops *ops = l->be->ops;
    if (!s)
        return;
    for (int i = 0; i < ARCH_STAGES; i++) {
        struct swin_stage *g = &s->stage[i];
        for (int j = 0; g->block && j < s->arch->depths[i]; j++) {
            struct swin_block *b = &g->block[j];
            struct linear *linear[] = {b->qkv, b->proj, b->fc1, b->fc2};
            for (size_t k = 0; k < sizeof linear / sizeof *linear; k++)
                ops->linear_close(l->be, linear[k]);
            free_norm(l, &b->norm1);
            free_norm(l, &b->norm2);
            ops->free(l->be, b->bias);
        }
        free(g->block);
        free_norm(l, &g->norm);
        free_norm(l, &g->merge_norm);
        ops->linear_close(l->be, g->merge);
    }
    ops->linear_close(l->be, s->embed);
    free_norm(l, &s->embed_norm);
    ops->free(l->be, s->mask);
    free(s);
}

struct stage_run {
    struct backend *be;
    struct arena *arena;
    const struct arch *arch;
    const struct plan_swin *cut;
    int stage, images, c;
    size_t tokens, rows;
    float *x; /* fp32 [rows][c] */
};

static enum err attend(const struct stage_run *r, const struct swin_block *b, const float *mask,
                       int odd)
{
    const struct backend_ops *ops = r->be->ops;
    int n = r->arch->swin_window;
    size_t row = (size_t)r->c * backend_elem(r->be);
    size_t one = (size_t)r->cut->windows * (size_t)(n * n), all = one * (size_t)r->images;
    const int *index = r->cut->partition[odd];
    struct arena_mark mark = arena_mark(r->arena);
    void *y, *in, *qkv, *out, *delta;
    TRY(arena_get(r->arena, r->rows * row, &y));
    TRY(arena_get(r->arena, all * row, &in));
    TRY(arena_get(r->arena, all * 3 * row, &qkv));
    TRY(arena_get(r->arena, all * (size_t)r->c * sizeof(float), &delta));
    ops->layernorm(r->be, r->x, true, r->rows, r->c, b->norm1.weight, b->norm1.bias,
                   r->arch->eps_block, y, false);
    ops->gather(r->be, y, index, r->images, r->tokens, one, r->c, (int)backend_elem(r->be), in);
    TRY(ops->linear(r->be, b->qkv, in, qkv, all));
    out = in;
    struct window_attention a = {.channels = r->c,
                                 .heads = r->arch->heads[r->stage],
                                 .window = n,
                                 .windows = r->cut->windows,
                                 .bias = b->bias,
                                 .mask = odd ? mask : NULL,
                                 .mask_of = odd ? r->cut->mask_of : NULL};
    TRY(ops->window_attention(r->be, &a, qkv, out, r->images));
    TRY(ops->linear(r->be, b->proj, out, delta, all));
    ops->scatter_add(r->be, delta, index, r->images, r->tokens, one, r->c, r->x);
    arena_release(r->arena, mark);
    return ERR_OK;
}

static enum err mlp(const struct stage_run *r, const struct swin_block *b)
{
    const struct backend_ops *ops = r->be->ops;
    size_t elem = backend_elem(r->be);
    struct arena_mark mark = arena_mark(r->arena);
    void *y, *a;
    TRY(arena_get(r->arena, r->rows * (size_t)r->c * elem, &y));
    TRY(arena_get(r->arena, r->rows * (size_t)r->arch->mlp[r->stage] * elem, &a));
    ops->layernorm(r->be, r->x, true, r->rows, r->c, b->norm2.weight, b->norm2.bias,
                   r->arch->eps_block, y, false);
    TRY(ops->linear(r->be, b->fc1, y, a, r->rows));
    TRY(ops->linear(r->be, b->fc2, a, r->x, r->rows));
    arena_release(r->arena, mark);
    return ERR_OK;
}

/* x of this stage -> the next stage's x: four neighbours side by side, LayerNorm, linear */
static enum err merge(const struct stage_run *r, const struct swin_stage *s, size_t next_tokens,
                      float *next)
{
    const struct backend_ops *ops = r->be->ops;
    size_t c = (size_t)r->c, rows = next_tokens * (size_t)r->images;
    struct arena_mark mark = arena_mark(r->arena);
    void *four, *y;
    TRY(arena_get(r->arena, rows * 4 * c * sizeof(float), &four));
    TRY(arena_get(r->arena, rows * 4 * c * backend_elem(r->be), &y));
    ops->gather(r->be, r->x, r->cut->merge, r->images, r->tokens, next_tokens * 4, r->c,
                (int)sizeof(float), four);
    ops->layernorm(r->be, four, true, rows, 4 * r->c, s->merge_norm.weight, s->merge_norm.bias,
                   r->arch->eps_block, y, false);
    TRY(ops->linear(r->be, s->merge, y, next, rows));
    arena_release(r->arena, mark);
    return ERR_OK;
}

static enum err embed(const struct swin *s, struct arena *arena, const struct plan *p,
                      const float *input, int images, float *x)
{
    struct backend *be = arena->be;
    size_t tokens = (size_t)p->h[0] * (size_t)p->w[0];
    int ld = im2col_ld(3, PATCH), h = p->geo.net_height, w = p->geo.net_width;
    struct arena_mark mark = arena_mark(arena);
    void *cols;
    TRY(arena_get(arena, tokens * (size_t)images * (size_t)ld * sizeof(float), &cols));
    be->ops->im2col(be, input, images, h, w, 3, PATCH, PATCH, 0, p->h[0], p->w[0], ld,
                    (int)sizeof(float), cols);
    TRY(be->ops->linear(be, s->embed, cols, x, tokens * (size_t)images));
    be->ops->layernorm(be, x, true, tokens * (size_t)images, s->arch->dims[0], s->embed_norm.weight,
                       s->embed_norm.bias, s->arch->eps_embed, x, true);
    arena_release(arena, mark);
    return ERR_OK;
}

enum err swin_run(const struct swin *s, struct arena *arena, const struct plan *p,
                  const float *input, int images, void *const c[ARCH_STAGES])
{
    const struct arch *a = s->arch;
    struct backend *be = arena->be;
    struct arena_mark mark = arena_mark(arena);
    void *x, *next;
    TRY(arena_get(arena,
                  (size_t)p->h[0] * (size_t)p->w[0] * (size_t)images * (size_t)a->dims[0] *
                      sizeof(float),
                  &x));
    TRY(embed(s, arena, p, input, images, x));
    for (int i = 0; i < ARCH_STAGES; i++) {
        const struct swin_stage *g = &s->stage[i];
        size_t tokens = (size_t)p->h[i] * (size_t)p->w[i];
        struct stage_run r = {.be = be,
                              .arena = arena,
                              .arch = a,
                              .cut = &p->swin[i],
                              .stage = i,
                              .images = images,
                              .c = a->dims[i],
                              .tokens = tokens,
                              .rows = tokens * (size_t)images,
                              .x = x};
        for (int j = 0; j < a->depths[i]; j++) {
            TRY(attend(&r, &g->block[j], s->mask, j % 2));
            TRY(mlp(&r, &g->block[j]));
        }
        be->ops->layernorm(be, x, true, r.rows, r.c, g->norm.weight, g->norm.bias, a->eps_block,
                           c[i], false);
        if (i == ARCH_STAGES - 1)
            break;
        size_t after = (size_t)p->h[i + 1] * (size_t)p->w[i + 1];
        TRY(arena_get(arena, after * (size_t)images * (size_t)a->dims[i + 1] * sizeof(float),
                      &next));
        TRY(merge(&r, g, after, next));
        x = next;
    }
    arena_release(arena, mark);
    return ERR_OK;
}
