/* A checkpoint becomes a model file in four steps:
 *   1. names:   every tensor is mapped to its canonical name, or found to be of no use;
 *   2. shapes:  the architecture is inferred from (or, for our own files, read and compared with)
 *               the canonical tensors. Nothing has been loaded yet, so what is loaded next has
 *               sizes that make sense;
 *   3. values:  each tensor is loaded, joined with its other half if it has one, must be finite;
 *   4. writing: one file, renamed into place when it is complete.
 * 16-bit tensors stay as they are; fp64 becomes fp32. A tensor under backbone. or decode_head. that
 * the architecture does not have means that the model computes something we do not know: that is an
 * error. Anything elsewhere (optimizers, other heads) is ignored. */
#include "engine/import/import.h"
#include "engine/arch_parts.h"
#include "engine/import/checkpoint.h"
#include "engine/import/names.h"
#include "engine/safetensors_parts.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

/* A canonical tensor and the checkpoint's tensors that it is made of. */
struct source {
    char name[ST_MAX_NAME + 1];
    enum part part;
    size_t first, second; /* indices in the checkpoint; second: of a PART_FIRST joined */
    bool joined, used;
};

struct import {
    struct checkpoint *checkpoint;
    enum naming naming;
    struct source *sources; /* sorted by name, then part; `count` of them */
    size_t count;
    struct st_tensor *tensors; /* canonical shapes, beside `sources` */
    struct st_file *shapes;    /* the same, to look names up */
    void **owned;              /* data to free, beside `sources` */
    struct arch arch;
    size_t parameters;
    struct st_writer *writer;
};

/* ---- 1. names -----------------------------------------------------------------------------------
 */

static int by_name_and_part(const void *a, const void *b)
{
    const struct source *x = a, *y = b;
    int order = strcmp(x->name, y->name);
    return order ? order : (x->part > y->part) - (x->part < y->part);
}

static enum err map_names(struct import *im)
{
    size_t n = checkpoint_count(im->checkpoint);
    im->sources = calloc(n + 1, sizeof *im->sources);
    im->tensors = calloc(n + 1, sizeof *im->tensors);
    im->owned = calloc(n + 1, sizeof *im->owned);
    if (!im->sources || !im->tensors || !im->owned)
        return err_set(ERR_NOMEM, "no memory for %zu tensors", n);
    for (size_t i = 0; i < n; i++)
        if (names_tell(checkpoint_at(im->checkpoint, i)->name) == NAMING_HUGGING_FACE)
            im->naming = NAMING_HUGGING_FACE;
    for (size_t i = 0; i < n; i++) {
        const struct st_tensor *t = checkpoint_at(im->checkpoint, i);
        struct source *s = &im->sources[im->count];
        s->part = names_map(im->naming, t->name, s->name, sizeof s->name);
        s->first = i;
        bool counts = t->dtype != DT_I64 && t->dtype != DT_I32 && t->dtype != DT_U8 &&
                      !strstr(t->name, ".running_");
        if (s->part != PART_UNUSED || strncmp(s->name, "decode_head.", 12) == 0)
            im->parameters += counts ? st_elements(t) : 0;
        im->count += s->part != PART_UNUSED;
    }
    if (n > 0 && im->count == 0)
        return err_set(ERR_FORMAT, "no tensor is one of TV3S or SegFormer; there is %s",
                       checkpoint_at(im->checkpoint, 0)->name);
    if (im->count)
        qsort(im->sources, im->count, sizeof *im->sources, by_name_and_part);
    return ERR_OK;
}

/* Puts each second half with its first, which precedes it. */
static enum err join_halves(struct import *im)
{
    size_t kept = 0;
    for (size_t i = 0; i < im->count; i++) {
        struct source *s = &im->sources[kept];
        *s = im->sources[i];
        const struct source *next = i + 1 < im->count ? &im->sources[i + 1] : NULL;
        bool halves = next && next->part == PART_SECOND && strcmp(next->name, s->name) == 0;
        if (s->part == PART_SECOND || (s->part == PART_FIRST && !halves))
            return err_set(ERR_FORMAT, "tensor %s has only one of its halves, key and value",
                           s->name);
        if (s->part == PART_FIRST) {
            s->second = next->first;
            s->joined = true;
            i++;
        }
        kept++;
    }
    im->count = kept;
    return ERR_OK;
}

/* ---- 2. shapes ----------------------------------------------------------------------------------
 */

static enum err canonical_shapes(struct import *im)
{
    for (size_t i = 0; i < im->count; i++) {
        struct source *s = &im->sources[i];
        const struct st_tensor *a = checkpoint_at(im->checkpoint, s->first);
        struct st_tensor *t = &im->tensors[i];
        *t = *a;
        t->name = s->name;
        t->dtype = a->dtype == DT_F64 ? DT_F32 : a->dtype;
        if (!s->joined)
            continue;
        const struct st_tensor *b = checkpoint_at(im->checkpoint, s->second);
        char sa[160], sb[160];
        if (a->dtype != b->dtype || a->ndim != b->ndim || a->ndim < 1 ||
            memcmp(a->shape, b->shape, sizeof a->shape) != 0)
            return err_set(ERR_FORMAT, "tensors %s %s %s and %s %s %s do not go together", a->name,
                           dtype_name(a->dtype), st_shape_text(a->ndim, a->shape, sa, sizeof sa),
                           b->name, dtype_name(b->dtype),
                           st_shape_text(b->ndim, b->shape, sb, sizeof sb));
        if (__builtin_mul_overflow(a->shape[0], 2, &t->shape[0]))
            return err_set(ERR_FORMAT, "tensor %s is impossibly large", a->name);
    }
    return st_assemble(im->tensors, im->count, &im->shapes);
}

static enum err apply_options(struct import *im, const struct import_options *o)
{
    struct arch *a = &im->arch;
    bool windows = o->window || o->set_shift || o->set_output;
    if (windows && a->head != HEAD_TV3S)
        return err_set(ERR_ARG, "a SegFormer has no window, shift or output to set");
    if (o->set_output && a->output == OUTPUT_CONCAT)
        return err_set(ERR_ARG,
                       "the classifier takes %d channels: its output is concat and cannot "
                       "be another",
                       2 * a->embed);
    if (o->window) {
        a->window = o->window;
        a->shift = o->window / 2;
    }
    if (o->set_shift)
        a->shift = o->shift;
    if (o->set_output)
        a->output = o->output;
    if (o->set_resize)
        a->resize = o->resize;
    return arch_check(a);
}

static enum err find_arch(struct import *im, const struct import_options *o, const char **note)
{
    const struct st_file *st = checkpoint_st(im->checkpoint);
    enum err err;
    if (st && st_metadata(st, "tv3s")) { /* ours: another conversion with other options */
        err = arch_read(st, &im->arch);
        if (!err)
            err = arch_check_shapes(&im->arch, im->shapes);
        const char *parameters = st_metadata(st, "parameters");
        if (parameters)
            im->parameters = (size_t)strtoull(parameters, NULL, 10);
    } else {
        err = arch_infer(im->shapes, &im->arch);
        if (!err)
            checkpoint_labels(im->checkpoint, &im->arch, note);
        if (im->naming == NAMING_HUGGING_FACE)
            im->arch.eps_block = im->arch.eps_embed = 1e-5f;
    }
    return err ? err : apply_options(im, o);
}

/* ---- 3. values ----------------------------------------------------------------------------------
 */

/* One whole tensor of the checkpoint, as F32 where it is F64. */
static enum err load(struct import *im, size_t index, const void **data, void **owned)
{
    enum err err = checkpoint_load(im->checkpoint, index, data, owned);
    struct st_tensor t = *checkpoint_at(im->checkpoint, index);
    if (err || t.dtype != DT_F64)
        return err;
    size_t n = st_elements(&t);
    float *narrow = malloc(n * sizeof *narrow + 1);
    t.data = *data;
    err = narrow ? st_to_f32(&t, 0, n, narrow) : err_set(ERR_NOMEM, "no memory for %s", t.name);
    free(*owned);
    *data = *owned = narrow;
    return err;
}

static enum err load_joined(struct import *im, size_t i, void **owned)
{
    const void *half[2] = {NULL, NULL};
    void *temporary[2] = {NULL, NULL};
    size_t whole = st_elements(&im->tensors[i]) * dtype_size(im->tensors[i].dtype);
    enum err err = load(im, im->sources[i].first, &half[0], &temporary[0]);
    if (!err)
        err = load(im, im->sources[i].second, &half[1], &temporary[1]);
    char *both = err ? NULL : malloc(whole + 1);
    if (both) {
        memcpy(both, half[0], whole / 2);
        memcpy(both + whole / 2, half[1], whole / 2);
    } else if (!err) {
        err = err_set(ERR_NOMEM, "no memory for %s", im->sources[i].name);
    }
    free(temporary[0]);
    free(temporary[1]);
    *owned = both;
    return err;
}

static int by_name(const void *name, const void *source)
{
    return strcmp(name, ((const struct source *)source)->name);
}

/* For arch_visit: loads a tensor of the architecture and hands it to the writer. */
static enum err take_tensor(void *ctx, const char *name, int ndim, const int64_t *shape)
{
    struct import *im = ctx;
    const struct source *s = bsearch(name, im->sources, im->count, sizeof *s, by_name);
    if (!s) /* arch_check_shapes found it */
        return err_set(ERR_INTERNAL, "tensor %s went missing", name);
    size_t i = (size_t)(s - im->sources);
    struct st_tensor *t = &im->tensors[i];
    enum err err;
    if (s->joined) {
        err = load_joined(im, i, &im->owned[i]);
        t->data = im->owned[i];
    } else {
        err = load(im, s->first, &t->data, &im->owned[i]);
    }
    if (!err)
        err = st_check_values(t);
    im->sources[i].used = true;
    return err ? err : st_writer_add(im->writer, name, t->dtype, ndim, shape, t->data);
}

/* The engine looks Swin's position bias up by the formula of MODEL.md section 2; a checkpoint with
 * another table would need another engine. */
static enum err check_index(struct import *im, size_t i)
{
    const struct st_tensor *t = &im->tensors[i];
    int w = im->arch.swin_window, tokens = w * w;
    const void *data;
    void *owned;
    if (t->dtype != DT_I64 || t->ndim != 2 || t->shape[0] != tokens || t->shape[1] != tokens)
        return err_set(ERR_FORMAT, "tensor %s is not I64 [%d, %d]", t->name, tokens, tokens);
    enum err err = checkpoint_load(im->checkpoint, im->sources[i].first, &data, &owned);
    for (int q = 0; !err && q < tokens; q++)
        for (int k = 0; !err && k < tokens; k++) {
            int64_t have, want = (q / w - k / w + w - 1) * (2 * w - 1) + q % w - k % w + w - 1;
            memcpy(&have, (const char *)data + 8 * (q * tokens + k), sizeof have);
            if (have != want)
                err =
                    err_set(ERR_UNSUPPORTED, "tensor %s is not Swin's order of positions", t->name);
        }
    free(owned);
    return err;
}

/* Everything of the model must have been used, or be known to be of no use. */
static enum err check_rest(struct import *im)
{
    for (size_t i = 0; i < im->count; i++) {
        const struct source *s = &im->sources[i];
        bool auxiliary =
            im->arch.head == HEAD_TV3S && strncmp(s->name, "decode_head.linear_pred.", 24) == 0;
        char shape[160];
        const struct st_tensor *t = &im->tensors[i];
        enum err err = ERR_OK;
        if (s->part == PART_INDEX && im->arch.encoder == ENCODER_SWIN)
            err = check_index(im, i);
        else if (!s->used && !auxiliary)
            err = err_set(ERR_UNSUPPORTED, "tensor %s %s is in no architecture we know", s->name,
                          st_shape_text(t->ndim, t->shape, shape, sizeof shape));
        if (err)
            return err;
    }
    return ERR_OK;
}

/* ---- 4. writing ---------------------------------------------------------------------------------
 */

static enum err write_model(struct import *im, const char *out)
{
    char parameters[24];
    enum err err = arch_write(&im->arch, im->writer);
    snprintf(parameters, sizeof parameters, "%zu", im->parameters);
    if (!err)
        err = st_writer_metadata(im->writer, "parameters", parameters);
    return err ? err : st_write_file(im->writer, out);
}

static enum err refuse_same_file(const char *in, const char *out)
{
    struct stat a, b;
    if (stat(in, &a) == 0 && stat(out, &b) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino)
        return err_set(ERR_ARG, "%s would be overwritten by its own conversion", in);
    return ERR_OK;
}

/* All but the writing. */
static enum err convert(struct import *im, const struct import_options *options, const char **note)
{
    enum err err = map_names(im);
    if (!err)
        err = join_halves(im);
    if (!err)
        err = canonical_shapes(im);
    if (!err)
        err = find_arch(im, options, note);
    if (!err)
        err = st_writer_open(&im->writer);
    if (!err)
        err = arch_visit(&im->arch, take_tensor, im);
    return err ? err : check_rest(im);
}

enum err import_checkpoint(const char *in, const char *out, const struct import_options *options,
                           struct import_report *report)
{
    struct import *im = calloc(1, sizeof *im);
    memset(report, 0, sizeof *report);
    if (!im)
        return err_set(ERR_NOMEM, "no memory for a conversion");
    enum err err = refuse_same_file(in, out);
    if (err)
        goto done;
    err = checkpoint_open(in, &im->checkpoint);
    if (err)
        goto done;
    err = convert(im, options, &report->note);
    err = err ? err_context(err, "%s", in) : write_model(im, out);
    report->arch = im->arch;
    report->parameters = im->parameters;
done:
    st_writer_close(im->writer);
    for (size_t i = 0; i < im->count; i++)
        free(im->owned[i]);
    st_close(im->shapes);
    checkpoint_close(im->checkpoint);
    free(im->sources);
    free(im->tensors);
    free(im->owned);
    free(im);
    return err;
}
