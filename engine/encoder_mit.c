/* MiT, SegFormer's Mix Transformer (MODEL.md section 2).
 *
 * A stage: overlapping patch embedding, LayerNorm, `depth` blocks, LayerNorm. A block:
 *   x += proj(Attn(LN1 x));  x += fc2(GELU(dw3x3(fc1(LN2 x))))
 * Convolutions are im2col and a matrix product: the patch embeddings overlap little, and the
 * spatial reduction (kernel = stride = sr) does not overlap at all. */
#include "base/try.h"
#include "engine/encoder.h"

#include <stdio.h>
#include <stdlib.h>

struct mit_block {
    struct norm norm1, norm2, sr_norm;
    struct linear *q, *kv, *sr, *proj, *fc1, *fc2;
    float *dw_weight, *dw_bias; /* [9][hidden], [hidden] */
};

struct mit_stage {
    struct linear *embed;
    struct norm embed_norm, norm;
    struct mit_block *block;
};

struct mit {
    const struct arch *arch;
    struct mit_stage stage[ARCH_STAGES];
};

static int embed_kernel(int stage)
{
    return stage == 0 ? 7 : 3;
}

static int embed_channels(const struct arch *a, int stage)
{
    return stage == 0 ? 3 : a->dims[stage - 1];
}

static enum err block_open(const struct loader *l, int stage, int index, struct mit_block *b)
{
    const struct arch *a = &l->model->arch;
    int c = a->dims[stage], hidden = a->mlp[stage], sr = a->sr[stage];
    char at[64], name[128];
    snprintf(at, sizeof at, "backbone.block%d.%d", stage + 1, index);
#define NAME(suffix) (snprintf(name, sizeof name, "%s.%s", at, suffix), name)
    TRY(load_norm(l, NAME("norm1"), c, true, &b->norm1));
    TRY(load_linear(l, NAME("attn.q"), c, c, LINEAR_ACT, &b->q));
    TRY(load_linear(l, NAME("attn.kv"), c, 2 * c, LINEAR_ACT, &b->kv));
    if (sr > 1) {
        TRY(load_conv(l, NAME("attn.sr"), c, c, sr, sr * sr * c, false, LINEAR_ACT, &b->sr));
        TRY(load_norm(l, NAME("attn.norm"), c, true, &b->sr_norm));
    }
    TRY(load_linear(l, NAME("attn.proj"), c, c, LINEAR_ADD_F32, &b->proj));
    TRY(load_norm(l, NAME("norm2"), c, true, &b->norm2));
    TRY(load_linear(l, NAME("mlp.fc1"), c, hidden, LINEAR_ACT, &b->fc1));
    TRY(load_matrix(l, NAME("mlp.dwconv.dwconv.weight"), hidden, 9, true, &b->dw_weight));
    TRY(load_matrix(l, NAME("mlp.dwconv.dwconv.bias"), 1, hidden, false, &b->dw_bias));
    return load_linear(l, NAME("mlp.fc2"), hidden, c, LINEAR_ADD_F32, &b->fc2);
#undef NAME
}

static enum err stage_open(const struct loader *l, int i, struct mit_stage *s)
{
    const struct arch *a = &l->model->arch;
    int k = embed_kernel(i), in = embed_channels(a, i);
    char name[64];
    snprintf(name, sizeof name, "backbone.patch_embed%d.proj", i + 1);
    TRY(load_conv(l, name, in, a->dims[i], k, im2col_ld(in, k), i == 0, LINEAR_F32, &s->embed));
    snprintf(name, sizeof name, "backbone.patch_embed%d.norm", i + 1);
    TRY(load_norm(l, name, a->dims[i], true, &s->embed_norm));
    snprintf(name, sizeof name, "backbone.norm%d", i + 1);
    TRY(load_norm(l, name, a->dims[i], true, &s->norm));
    s->block = calloc((size_t)a->depths[i], sizeof *s->block);
    if (!s->block)
        return err_set(ERR_NOMEM, "out of memory");
    for (int j = 0; j < a->depths[i]; j++)
        TRY(block_open(l, i, j, &s->block[j]));
    return ERR_OK;
}

enum err mit_open(const struct loader *l, struct mit **out)
{
    struct mit *m = calloc(1, sizeof *m);
    *out = m;
    if (!m)
        return err_set(ERR_NOMEM, "out of memory");
    m->arch = &l->model->arch;
    for (int i = 0; i < ARCH_STAGES; i++)
        TRY(stage_open(l, i, &m->stage[i]));
    return ERR_OK;
}

void mit_close(const struct loader *l, struct mit *m)
{
    const struct backend_ops *ops = l->be->ops;
    if (!m)
        return;
    for (int i = 0; i < ARCH_STAGES; i++) {
        struct mit_stage *s = &m->stage[i];
        for (int j = 0; s->block && j < m->arch->depths[i]; j++) {
            struct mit_block *b = &s->block[j];
            struct linear *linear[] = {b->q, b->kv, b->sr, b->proj, b->fc1, b->fc2};
            for (size_t k = 0; k < sizeof linear / sizeof *linear; k++)
                ops->linear_close(l->be, linear[k]);
            free_norm(l, &b->norm1);
            free_norm(l, &b->norm2);
            free_norm(l, &b->sr_norm);
            ops->free(l->be, b->dw_weight);
            ops->free(l->be, b->dw_bias);
        }
        free(s->block);
        ops->linear_close(l->be, s->embed);
        free_norm(l, &s->embed_norm);
        free_norm(l, &s->norm);
    }
    free(m);
}

/* What stays the same while the frames go through one stage. */
struct stage_run {
    struct backend *be;
    struct arena *arena;
    const struct plan *plan;
    int stage, images, h, w, c;
    size_t tokens, rows; /* of one image, of all */
    float eps_block, eps_embed;
    float *x; /* fp32 [rows][c] */
};

/* y (act, LN1's output) -> keys' and values' input, act [images * keys][c], reduced by sr. */
static enum err reduce(const struct stage_run *r, const struct mit_block *b, int sr, const void *y,
                       void *out)
{
    const struct backend_ops *ops = r->be->ops;
    size_t elem = backend_elem(r->be);
    int kh = r->h / sr, kw = r->w / sr, ld = sr * sr * r->c;
    size_t keys = (size_t)kh * (size_t)kw;
    struct arena_mark mark = arena_mark(r->arena);
    void *cols;
    TRY(arena_get(r->arena, (size_t)r->images * keys * (size_t)ld * elem, &cols));
    ops->im2col(r->be, y, r->images, r->h, r->w, r->c, sr, sr, 0, kh, kw, ld, (int)elem, cols);
    size_t rows = (size_t)r->images * keys;
    TRY(ops->linear(r->be, b->sr, cols, out, rows));
    ops->layernorm(r->be, out, false, rows, r->c, b->sr_norm.weight, b->sr_norm.bias, r->eps_embed,
                   out, false);
    arena_release(r->arena, mark);
    return ERR_OK;
}

static enum err attend(const struct stage_run *r, const struct mit_block *b, int sr)
{
    const struct backend_ops *ops = r->be->ops;
    size_t elem = backend_elem(r->be), c = (size_t)r->c, row = c * elem;
    size_t keys = (size_t)r->images * (size_t)(r->h / sr) * (size_t)(r->w / sr);
    struct arena_mark mark = arena_mark(r->arena);
    void *y, *q, *s, *kv;
    TRY(arena_get(r->arena, r->rows * row, &y));
    TRY(arena_get(r->arena, r->rows * row, &q));
    TRY(arena_get(r->arena, keys * 2 * row, &kv));
    ops->layernorm(r->be, r->x, true, r->rows, r->c, b->norm1.weight, b->norm1.bias, r->eps_block,
                   y, false);
    TRY(ops->linear(r->be, b->q, y, q, r->rows));
    if (sr > 1) {
        TRY(arena_get(r->arena, keys * row, &s));
        TRY(reduce(r, b, sr, y, s));
        TRY(ops->linear(r->be, b->kv, s, kv, keys));
    } else {
        TRY(ops->linear(r->be, b->kv, y, kv, keys));
    }
    TRY(ops->attention(r->be, r->plan->attention[r->stage], q, kv, y, r->images));
    TRY(ops->linear(r->be, b->proj, y, r->x, r->rows));
    arena_release(r->arena, mark);
    return ERR_OK;
}

static enum err mlp(const struct stage_run *r, const struct mit_block *b, int hidden)
{
    const struct backend_ops *ops = r->be->ops;
    size_t elem = backend_elem(r->be), wide = (size_t)hidden * elem;
    struct arena_mark mark = arena_mark(r->arena);
    void *a, *g; /* g: first LN2's output [rows][c], then GELU's [rows][hidden] */
    TRY(arena_get(r->arena, r->rows * wide, &a));
    TRY(arena_get(r->arena, r->rows * (size_t)(hidden > r->c ? hidden : r->c) * elem, &g));
    ops->layernorm(r->be, r->x, true, r->rows, r->c, b->norm2.weight, b->norm2.bias, r->eps_block,
                   g, false);
    TRY(ops->linear(r->be, b->fc1, g, a, r->rows));
    ops->dwconv_gelu(r->be, a, r->images, r->h, r->w, hidden, b->dw_weight, b->dw_bias, g);
    TRY(ops->linear(r->be, b->fc2, g, r->x, r->rows));
    arena_release(r->arena, mark);
    return ERR_OK;
}

/* in: [images][h][w][channels], fp32 pixels or the act map before the stage -> x */
static enum err embed(const struct stage_run *r, const struct mit_stage *s, const void *in,
                      int in_h, int in_w, int channels)
{
    const struct backend_ops *ops = r->be->ops;
    size_t elem = r->stage == 0 ? sizeof(float) : backend_elem(r->be);
    int k = embed_kernel(r->stage), ld = im2col_ld(channels, k);
    struct arena_mark mark = arena_mark(r->arena);
    void *cols;
    TRY(arena_get(r->arena, r->rows * (size_t)ld * elem, &cols));
    ops->im2col(r->be, in, r->images, in_h, in_w, channels, k, r->stage == 0 ? 4 : 2, k / 2, r->h,
                r->w, ld, (int)elem, cols);
    TRY(ops->linear(r->be, s->embed, cols, r->x, r->rows));
    ops->layernorm(r->be, r->x, true, r->rows, r->c, s->embed_norm.weight, s->embed_norm.bias,
                   r->eps_embed, r->x, true);
    arena_release(r->arena, mark);
    return ERR_OK;
}

enum err mit_run(const struct mit *m, struct arena *arena, const struct plan *p, const float *input,
                 int images, void *const c[ARCH_STAGES])
{
    const struct arch *a = m->arch;
    struct backend *be = arena->be;
    for (int i = 0; i < ARCH_STAGES; i++) {
        const struct mit_stage *s = &m->stage[i];
        struct arena_mark mark = arena_mark(arena);
        size_t tokens = (size_t)p->h[i] * (size_t)p->w[i], rows = tokens * (size_t)images;
        struct stage_run r = {.be = be,
                              .arena = arena,
                              .plan = p,
                              .stage = i,
                              .images = images,
                              .h = p->h[i],
                              .w = p->w[i],
                              .c = a->dims[i],
                              .tokens = tokens,
                              .rows = rows,
                              .eps_block = a->eps_block,
                              .eps_embed = a->eps_embed};
        void *x;
        TRY(arena_get(arena, rows * (size_t)r.c * sizeof(float), &x));
        r.x = x;
        TRY(embed(&r, s, i ? c[i - 1] : input, i ? p->h[i - 1] : p->geo.net_height,
                  i ? p->w[i - 1] : p->geo.net_width, embed_channels(a, i)));
        for (int j = 0; j < a->depths[i]; j++) {
            TRY(attend(&r, &s->block[j], a->sr[i]));
            TRY(mlp(&r, &s->block[j], a->mlp[i]));
        }
        be->ops->layernorm(be, r.x, true, rows, r.c, s->norm.weight, s->norm.bias, a->eps_block,
                           c[i], false);
        arena_release(arena, mark);
    }
    return ERR_OK;
}
