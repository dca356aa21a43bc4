/* The architecture from the shapes of a checkpoint's tensors, MODEL.md section 4.
 *
 * Each number is read off the one tensor that has it as a side; what the shapes then imply for all
 * other tensors is checked by arch_check_shapes, so a checkpoint that disagrees with itself is
 * refused with the name of the tensor and both shapes. Block counts are the largest index + 1: a
 * hole in the numbering shows up as a missing tensor, never as a shallower model.
 * Three things are in no shape: MiT's heads (32 channels a head in B0, 64 in the others), the
 * window and its shift, and how frames are resized. They get the defaults of the publication. */
#include "engine/arch_parts.h"
#include "engine/safetensors_parts.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

/* One side of a tensor that must have `ndim` sides; 0 and an error set where it does not. */
static int side(const struct st_file *f, enum err *err, int ndim, int which, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));
static int side(const struct st_file *f, enum err *err, int ndim, int which, const char *fmt, ...)
{
    char name[128], shape[160];
    va_list args;
    if (*err)
        return 0;
    va_start(args, fmt);
    vsnprintf(name, sizeof name, fmt, args);
    va_end(args);
    const struct st_tensor *t = st_find(f, name);
    if (!t)
        *err = err_set(ERR_FORMAT, "tensor %s is missing", name);
    else if (t->ndim != ndim)
        *err = err_set(ERR_FORMAT, "tensor %s has shape %s, not %d sides", name,
                       st_shape_text(t->ndim, t->shape, shape, sizeof shape), ndim);
    else if (t->shape[which] < 1 || t->shape[which] > ARCH_MAX_HIDDEN * 8)
        *err = err_set(ERR_FORMAT, "tensor %s has shape %s", name,
                       st_shape_text(t->ndim, t->shape, shape, sizeof shape));
    else
        return (int)t->shape[which];
    return 0;
}

/* 1 + the largest number that follows `prefix` in any tensor's name. */
static int count_of(const struct st_file *f, const char *prefix)
{
    int most = 0;
    size_t len = strlen(prefix);
    for (size_t i = 0; i < st_count(f); i++) {
        const char *name = st_at(f, i)->name, *digits = name + len;
        if (strncmp(name, prefix, len) != 0 || *digits < '0' || *digits > '9')
            continue;
        long n = strtol(digits, NULL, 10);
        if (n < 10000 && n + 1 > most)
            most = (int)n + 1;
        else if (n >= 10000)
            most = 10000; /* out of range: arch_check says so */
    }
    return most;
}

static enum err infer_mit(const struct st_file *f, struct arch *a)
{
    enum err err = ERR_OK;
    char prefix[64];
    for (int i = 0; i < ARCH_STAGES; i++) {
        a->dims[i] = side(f, &err, 4, 0, "backbone.patch_embed%d.proj.weight", i + 1);
        a->mlp[i] = side(f, &err, 2, 0, "backbone.block%d.0.mlp.fc1.weight", i + 1);
        snprintf(prefix, sizeof prefix, "backbone.block%d.", i + 1);
        a->depths[i] = count_of(f, prefix);
        snprintf(prefix, sizeof prefix, "backbone.block%d.0.attn.sr.weight", i + 1);
        a->sr[i] = st_find(f, prefix) ? side(f, &err, 4, 2, "%s", prefix) : 1;
        int each = a->dims[0] <= 32 ? 32 : 64;
        a->heads[i] = a->dims[i] < each ? 1 : a->dims[i] / each;
    }
    a->eps_block = 1e-6f;
    a->eps_embed = 1e-5f;
    return err;
}

static enum err infer_swin(const struct st_file *f, struct arch *a)
{
    enum err err = ERR_OK;
    char prefix[64];
    for (int i = 0; i < ARCH_STAGES; i++) {
        a->dims[i] = side(f, &err, 1, 0, "backbone.norm%d.weight", i);
        a->mlp[i] = side(f, &err, 2, 0, "backbone.layers.%d.blocks.0.mlp.fc1.weight", i);
        snprintf(prefix, sizeof prefix, "backbone.layers.%d.blocks.", i);
        a->depths[i] = count_of(f, prefix);
        a->heads[i] = side(f, &err, 2, 1, "%s0.attn.relative_position_bias_table", prefix);
    }
    int table = side(f, &err, 2, 0, "backbone.layers.0.blocks.0.attn.relative_position_bias_table");
    a->swin_window = 2;
    while (a->swin_window <= ARCH_MAX_SWIN_WINDOW &&
           (2 * a->swin_window - 1) * (2 * a->swin_window - 1) != table)
        a->swin_window++;
    if (!err && a->swin_window > ARCH_MAX_SWIN_WINDOW)
        err = err_set(ERR_FORMAT,
                      "tensor backbone.layers.0.blocks.0.attn.relative_position_bias_table has %d "
                      "rows, which no attention window makes",
                      table);
    a->eps_block = a->eps_embed = 1e-5f;
    return err;
}

static enum err infer_tv3s_head(const struct st_file *f, struct arch *a)
{
    static const char mixer[] = "decode_head.vs.layers.0.mixer.";
    enum err err = ERR_OK;
    a->head = HEAD_TV3S;
    a->layers = count_of(f, "decode_head.vs.layers.");
    a->inner = side(f, &err, 2, 0, "%sA_log", mixer);
    a->state = side(f, &err, 2, 1, "%sA_log", mixer);
    a->conv = side(f, &err, 3, 2, "%sconv1d.weight", mixer);
    a->dt_rank = side(f, &err, 2, 1, "%sdt_proj.weight", mixer);
    a->classes = side(f, &err, 4, 0, "decode_head.linear_pred2.weight");
    int in = side(f, &err, 4, 1, "decode_head.linear_pred2.weight");
    a->output = in == 2 * a->embed ? OUTPUT_CONCAT : OUTPUT_DIRECT;
    a->window = 20;
    a->shift = 10;
    return err;
}

enum err arch_infer(const struct st_file *f, struct arch *out)
{
    struct arch *a = out;
    memset(a, 0, sizeof *a);
    bool is_swin = st_find(f, "backbone.patch_embed.proj.weight") != NULL;
    a->encoder = is_swin ? ENCODER_SWIN : ENCODER_MIT;
    enum err err = is_swin ? infer_swin(f, a) : infer_mit(f, a);
    a->embed = side(f, &err, 2, 0, "decode_head.linear_c1.proj.weight");
    if (!err && (st_find(f, "decode_head.linear_pred2.weight") ||
                 count_of(f, "decode_head.vs.layers.") > 0)) {
        err = infer_tv3s_head(f, a);
    } else {
        a->head = HEAD_SEGFORMER;
        a->classes = side(f, &err, 4, 0, "decode_head.linear_pred.weight");
    }
    if (!err)
        err = arch_check(a);
    if (!err)
        err = arch_check_shapes(a, f);
    if (err)
        return err;
    a->resize.kind = a->classes == 124  ? RESIZE_VSPW
                     : a->classes == 19 ? RESIZE_CITYSCAPES
                                        : RESIZE_NATIVE;
    arch_set_name(a);
    arch_default_labels(a);
    return ERR_OK;
}
