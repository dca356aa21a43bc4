/* The tensors of an architecture: this list is what a model file must hold and all that the engine
 * may ask for. MODEL.md sections 2 and 3, in the names of the published checkpoints. */
#include "engine/arch_parts.h"
#include "engine/safetensors_parts.h"

#include <stdarg.h>
#include <stdio.h>

struct visit {
    arch_visit_fn fn;
    void *ctx;
    enum err err; /* the first error; after it nothing more is visited */
    char prefix[64];
};

/* One tensor: sides beyond the first zero do not count. */
static void tensor(struct visit *v, const char *name, int64_t a, int64_t b, int64_t c, int64_t d)
{
    char full[128];
    int64_t shape[4] = {a, b, c, d};
    int ndim = d ? 4 : c ? 3 : b ? 2 : 1;
    if (v->err)
        return;
    snprintf(full, sizeof full, "%s%s", v->prefix, name);
    v->err = v->fn(v->ctx, full, ndim, shape);
}

static void prefix(struct visit *v, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void prefix(struct visit *v, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    vsnprintf(v->prefix, sizeof v->prefix, fmt, args);
    va_end(args);
}

/* "NAME.weight" [out, in] and "NAME.bias" [out]. */
static void linear(struct visit *v, const char *name, int out, int in)
{
    char full[64];
    snprintf(full, sizeof full, "%s.weight", name);
    tensor(v, full, out, in, 0, 0);
    snprintf(full, sizeof full, "%s.bias", name);
    tensor(v, full, out, 0, 0, 0);
}

static void conv2d(struct visit *v, const char *name, int out, int in, int kernel)
{
    char full[64];
    snprintf(full, sizeof full, "%s.weight", name);
    tensor(v, full, out, in, kernel, kernel);
    snprintf(full, sizeof full, "%s.bias", name);
    tensor(v, full, out, 0, 0, 0);
}

/* "NAME.weight" and "NAME.bias", both [c]. */
static void norm(struct visit *v, const char *name, int c)
{
    linear(v, name, c, 0);
}

static void mit_block(const struct arch *a, int i, int j, struct visit *v)
{
    int c = a->dims[i], hidden = a->mlp[i], sr = a->sr[i];
    prefix(v, "backbone.block%d.%d.", i + 1, j);
    norm(v, "norm1", c);
    linear(v, "attn.q", c, c);
    linear(v, "attn.kv", 2 * c, c);
    if (sr > 1) {
        conv2d(v, "attn.sr", c, c, sr);
        norm(v, "attn.norm", c);
    }
    linear(v, "attn.proj", c, c);
    norm(v, "norm2", c);
    linear(v, "mlp.fc1", hidden, c);
    conv2d(v, "mlp.dwconv.dwconv", hidden, 1, 3);
    linear(v, "mlp.fc2", c, hidden);
}

static void mit(const struct arch *a, struct visit *v)
{
    for (int i = 0; i < ARCH_STAGES; i++) {
        prefix(v, "backbone.patch_embed%d.", i + 1);
        conv2d(v, "proj", a->dims[i], i ? a->dims[i - 1] : 3, i ? 3 : 7);
        norm(v, "norm", a->dims[i]);
        for (int j = 0; j < a->depths[i]; j++)
            mit_block(a, i, j, v);
        prefix(v, "backbone.norm%d", i + 1);
        norm(v, "", a->dims[i]);
    }
}

static void swin_block(const struct arch *a, int i, int j, struct visit *v)
{
    int c = a->dims[i], side = 2 * a->swin_window - 1;
    prefix(v, "backbone.layers.%d.blocks.%d.", i, j);
    norm(v, "norm1", c);
    linear(v, "attn.qkv", 3 * c, c);
    tensor(v, "attn.relative_position_bias_table", side * side, a->heads[i], 0, 0);
    linear(v, "attn.proj", c, c);
    norm(v, "norm2", c);
    linear(v, "mlp.fc1", a->mlp[i], c);
    linear(v, "mlp.fc2", c, a->mlp[i]);
}

static void swin(const struct arch *a, struct visit *v)
{
    prefix(v, "backbone.patch_embed.");
    conv2d(v, "proj", a->dims[0], 3, 4);
    norm(v, "norm", a->dims[0]);
    for (int i = 0; i < ARCH_STAGES; i++) {
        for (int j = 0; j < a->depths[i]; j++)
            swin_block(a, i, j, v);
        if (i + 1 < ARCH_STAGES) {
            prefix(v, "backbone.layers.%d.downsample.", i);
            norm(v, "norm", 4 * a->dims[i]);
            tensor(v, "reduction.weight", a->dims[i + 1], 4 * a->dims[i], 0, 0);
        }
        prefix(v, "backbone.norm%d", i);
        norm(v, "", a->dims[i]);
    }
}

static void fuse(const struct arch *a, struct visit *v)
{
    int e = a->embed;
    for (int i = 0; i < ARCH_STAGES; i++) {
        prefix(v, "decode_head.linear_c%d.", i + 1);
        linear(v, "proj", e, a->dims[i]);
    }
    prefix(v, "decode_head.linear_fuse.");
    tensor(v, "conv.weight", e, ARCH_STAGES * e, 1, 1);
    norm(v, "bn", e);
    tensor(v, "bn.running_mean", e, 0, 0, 0);
    tensor(v, "bn.running_var", e, 0, 0, 0);
}

static void state_space(const struct arch *a, struct visit *v)
{
    int e = a->embed, d = a->inner, n = a->state, r = a->dt_rank;
    for (int l = 0; l < a->layers; l++) {
        prefix(v, "decode_head.vs.layers.%d.", l);
        tensor(v, "norm.weight", e, 0, 0, 0);
        tensor(v, "mixer.in_proj.weight", 2 * d, e, 0, 0);
        tensor(v, "mixer.conv1d.weight", d, 1, a->conv, 0);
        tensor(v, "mixer.conv1d.bias", d, 0, 0, 0);
        tensor(v, "mixer.x_proj.weight", r + 2 * n, d, 0, 0);
        linear(v, "mixer.dt_proj", d, r);
        tensor(v, "mixer.A_log", d, n, 0, 0);
        tensor(v, "mixer.D", d, 0, 0, 0);
        tensor(v, "mixer.out_proj.weight", e, d, 0, 0);
    }
    prefix(v, "decode_head.vs.");
    tensor(v, "norm_f.weight", e, 0, 0, 0);
}

enum err arch_visit(const struct arch *a, arch_visit_fn fn, void *ctx)
{
    struct visit v = {.fn = fn, .ctx = ctx};
    if (a->encoder == ENCODER_MIT)
        mit(a, &v);
    else
        swin(a, &v);
    fuse(a, &v);
    if (a->head == HEAD_TV3S)
        state_space(a, &v);
    prefix(&v, "decode_head.");
    if (a->head == HEAD_TV3S)
        conv2d(&v, "linear_pred2", a->classes, (a->output == OUTPUT_CONCAT ? 2 : 1) * a->embed, 1);
    else
        conv2d(&v, "linear_pred", a->classes, a->embed, 1);
    return v.err;
}

static enum err check_shape(void *ctx, const char *name, int ndim, const int64_t *shape)
{
    char want[160], have[160];
    const struct st_tensor *t = st_find(ctx, name);
    st_shape_text(ndim, shape, want, sizeof want);
    if (!t)
        return err_set(ERR_FORMAT, "tensor %s %s is missing", name, want);
    if (t->ndim != ndim || memcmp(t->shape, shape, (size_t)ndim * sizeof *shape) != 0)
        return err_set(ERR_FORMAT, "tensor %s has shape %s, not %s", name,
                       st_shape_text(t->ndim, t->shape, have, sizeof have), want);
    if (t->dtype != DT_F32 && t->dtype != DT_F16 && t->dtype != DT_BF16 && t->dtype != DT_F64)
        return err_set(ERR_FORMAT, "tensor %s %s is %s, not a float type", name, want,
                       dtype_name(t->dtype));
    return ERR_OK;
}

enum err arch_check_shapes(const struct arch *a, const struct st_file *f)
{
    return arch_visit(a, check_shape, (void *)f);
}
