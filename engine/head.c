/* Fuse, classify, label: everything of the head but the scan (head_scan.c).
 *
 * Fuse folds three linear maps into one (MODEL.md section 5): with W = [W4 W3 W2 W1] the 1x1
 * convolution of linear_fuse, s = gamma / sqrt(var + eps) BatchNorm's scale and V_i, v_i
 * linear_c{i},
 *     f = ReLU(sum_i resize(M_i c_i) + bias),   M_i = diag(s) W_i V_i,
 *     bias = beta - s mean + s sum_i W_i v_i
 * for resizes keep constants. M_i is applied at c_i's own size. */
#include "engine/head.h"

#include "base/try.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* s and beta - s * mean of linear_fuse's BatchNorm */
static enum err load_batchnorm(const struct loader *l, int e, float *scale, float *shift)
{
    static const char *const part[] = {"weight", "bias", "running_mean", "running_var"};
    float *t[4] = {NULL};
    enum err result = ERR_OK;
    for (int i = 0; result == ERR_OK && i < 4; i++)
        result = model_tensor(l->model, &t[i], "decode_head.linear_fuse.bn.%s", part[i]);
    for (int j = 0; result == ERR_OK && j < e; j++) {
        scale[j] = (float)(t[0][j] / sqrt((double)t[3][j] + 1e-5));
        shift[j] = t[1][j] - scale[j] * t[2][j];
    }
    for (int i = 0; i < 4; i++)
        free(t[i]);
    return result;
}

/* m [e][c] = diag(scale) w[:, block] v; shift += scale * (w[:, block] b).  w: [e][4e], v: [e][c] */
static void fold(const float *w, int block, const float *v, const float *b, int e, int c,
                 const float *scale, float *shift, float *m)
{
    for (int i = 0; i < e; i++) {
        const float *wi = w + (size_t)i * 4 * (size_t)e + (size_t)block * (size_t)e;
        float *row = m + (size_t)i * (size_t)c;
        double constant = 0;
        memset(row, 0, (size_t)c * sizeof *row);
        for (int k = 0; k < e; k++) {
            const float *vk = v + (size_t)k * (size_t)c;
            for (int j = 0; j < c; j++)
                row[j] += wi[k] * vk[j];
            constant += (double)wi[k] * b[k];
        }
        for (int j = 0; j < c; j++)
            row[j] *= scale[i];
        shift[i] += (float)(scale[i] * constant);
    }
}

static enum err fuse_stage(const struct loader *l, struct head *h, int stage, const float *w,
                           const float *scale, float *shift)
{
    int e = h->arch->embed, c = h->arch->dims[stage];
    float *v = NULL, *b = NULL, *m = malloc((size_t)e * (size_t)c * sizeof *m);
    enum err result = m ? ERR_OK : err_set(ERR_NOMEM, "out of memory for weights");
    if (result == ERR_OK)
        result = model_tensor(l->model, &v, "decode_head.linear_c%d.proj.weight", stage + 1);
    if (result == ERR_OK)
        result = model_tensor(l->model, &b, "decode_head.linear_c%d.proj.bias", stage + 1);
    if (result == ERR_OK) {
        fold(w, ARCH_STAGES - 1 - stage, v, b, e, c, scale, shift, m);
        struct linear_desc d = {.in = c, .out = e, .weight = m, .output = LINEAR_ACT};
        result = l->be->ops->linear_open(l->be, &d, &h->fuse[stage]);
    }
    free(v);
    free(b);
    free(m);
    return result;
}

static enum err fuse_open(const struct loader *l, struct head *h)
{
    int e = h->arch->embed;
    float *w = NULL, *scale = malloc(2 * (size_t)e * sizeof *scale);
    float *shift = scale ? scale + e : NULL;
    enum err result = scale ? ERR_OK : err_set(ERR_NOMEM, "out of memory for weights");
    if (result == ERR_OK)
        result = load_batchnorm(l, e, scale, shift);
    if (result == ERR_OK)
        result = model_tensor(l->model, &w, "decode_head.linear_fuse.conv.weight");
    for (int i = 0; result == ERR_OK && i < ARCH_STAGES; i++)
        result = fuse_stage(l, h, i, w, scale, shift);
    if (result == ERR_OK)
        result = load_floats(l, shift, (size_t)e, &h->fuse_bias);
    free(w);
    free(scale);
    return result;
}

/* a_log2e [n][D] = -exp(A_log [D][n]) * log2(e) */
static enum err load_a(const struct loader *l, const char *name, int d, int n, float **out)
{
    float *p = NULL;
    TRY(model_tensor(l->model, &p, "%s", name));
    float *a = malloc((size_t)d * (size_t)n * sizeof *a);
    enum err e = a ? ERR_OK : err_set(ERR_NOMEM, "out of memory for weights");
    for (int i = 0; e == ERR_OK && i < d * n; i++)
        a[i % n * d + i / n] = (float)(-exp((double)p[i]) * 1.4426950408889634);
    if (e == ERR_OK)
        e = load_floats(l, a, (size_t)d * (size_t)n, out);
    free(p);
    free(a);
    return e;
}

static enum err mixer_open(const struct loader *l, int layer, struct mixer *m)
{
    const struct arch *a = &l->model->arch;
    int e = a->embed, d = a->inner, n = a->state, r = a->dt_rank;
    struct scan_weights *s = &m->scan;
    char name[128], at[64];
    snprintf(at, sizeof at, "decode_head.vs.layers.%d", layer);
#define NAME(suffix) (snprintf(name, sizeof name, "%s.%s", at, suffix), name)
    *s = (struct scan_weights){.inner = d, .state = n, .conv = a->conv, .dt_rank = r};
    TRY(load_norm(l, NAME("norm"), e, false, &m->norm));
    TRY(load_linear(l, NAME("mixer.in_proj"), e, 2 * d, LINEAR_ACT, &m->in));
    TRY(load_linear(l, NAME("mixer.x_proj"), d, r + 2 * n, LINEAR_F32, &m->x));
    TRY(load_linear(l, NAME("mixer.out_proj"), d, e, LINEAR_ADD_F32, &m->out));
    TRY(load_matrix(l, NAME("mixer.conv1d.weight"), d, a->conv, true, &s->conv_w));
    TRY(load_matrix(l, NAME("mixer.conv1d.bias"), 1, d, false, &s->conv_b));
    TRY(load_matrix(l, NAME("mixer.dt_proj.weight"), d, r, true, &s->dt_w));
    TRY(load_matrix(l, NAME("mixer.dt_proj.bias"), 1, d, false, &s->dt_bias));
    TRY(load_matrix(l, NAME("mixer.D"), 1, d, false, &s->skip));
    TRY(load_a(l, NAME("mixer.A_log"), d, n, &s->a_log2e));
#undef NAME
    return ERR_OK;
}

/* linear_pred2 [classes][E or 2E] as classify on `out` and skip on the grid features: for `add`
 * W (g + out) = W g + W out, for `concat` W [g ; out] = W_left g + W_right out. */
static enum err classifier_open(const struct loader *l, struct head *h)
{
    const struct arch *a = h->arch;
    size_t e = (size_t)a->embed, classes = (size_t)a->classes;
    if (a->head == HEAD_SEGFORMER)
        return load_linear(l, "decode_head.linear_pred", a->embed, a->classes, LINEAR_F32,
                           &h->classify);
    if (a->output == OUTPUT_DIRECT)
        return load_linear(l, "decode_head.linear_pred2", a->embed, a->classes, LINEAR_F32,
                           &h->classify);
    bool concat = a->output == OUTPUT_CONCAT;
    float *w = NULL, *b = NULL, *left = NULL, *right = NULL;
    size_t width = concat ? 2 * e : e;
    enum err result = model_tensor(l->model, &w, "decode_head.linear_pred2.weight");
    if (result == ERR_OK)
        result = model_tensor(l->model, &b, "decode_head.linear_pred2.bias");
    if (result == ERR_OK) {
        left = malloc(classes * e * sizeof *left);
        right = malloc(classes * e * sizeof *right);
        result = left && right ? ERR_OK : err_set(ERR_NOMEM, "out of memory for weights");
    }
    for (size_t i = 0; result == ERR_OK && i < classes; i++) {
        memcpy(left + i * e, w + i * width, e * sizeof *left);
        memcpy(right + i * e, w + i * width + (concat ? e : 0), e * sizeof *right);
    }
    struct linear_desc on_out = {a->embed, a->classes, right, b, LINEAR_F32, false};
    struct linear_desc on_grid = {a->embed, a->classes, left, NULL, LINEAR_ADD_F32, false};
    if (result == ERR_OK)
        result = l->be->ops->linear_open(l->be, &on_out, &h->classify);
    if (result == ERR_OK)
        result = l->be->ops->linear_open(l->be, &on_grid, &h->skip);
    free(w);
    free(b);
    free(left);
    free(right);
    return result;
}

enum err head_open(const struct loader *l, struct head **out)
{
    const struct arch *a = &l->model->arch;
    struct head *h = calloc(1, sizeof *h);
    *out = h;
    if (!h)
        return err_set(ERR_NOMEM, "out of memory");
    h->arch = a;
    TRY(fuse_open(l, h));
    TRY(classifier_open(l, h));
    if (a->head == HEAD_SEGFORMER)
        return ERR_OK;
    h->mixer = calloc((size_t)a->layers, sizeof *h->mixer);
    if (!h->mixer)
        return err_set(ERR_NOMEM, "out of memory");
    for (int i = 0; i < a->layers; i++)
        TRY(mixer_open(l, i, &h->mixer[i]));
    return load_norm(l, "decode_head.vs.norm_f", a->embed, false, &h->norm_f);
}

static void free_scan_weights(struct backend *be, const struct scan_weights *s)
{
    float *const owned[] = {s->conv_w, s->conv_b, s->dt_w, s->dt_bias, s->a_log2e, s->skip};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++)
        be->ops->free(be, owned[i]);
}

void head_close(const struct loader *l, struct head *h)
{
    const struct backend_ops *ops = l->be->ops;
    if (!h)
        return;
    for (int i = 0; i < ARCH_STAGES; i++)
        ops->linear_close(l->be, h->fuse[i]);
    for (int i = 0; h->mixer && i < h->arch->layers; i++) {
        struct mixer *m = &h->mixer[i];
        free_norm(l, &m->norm);
        ops->linear_close(l->be, m->in);
        ops->linear_close(l->be, m->x);
        ops->linear_close(l->be, m->out);
        free_scan_weights(l->be, &m->scan);
    }
    free(h->mixer);
    free_norm(l, &h->norm_f);
    ops->free(l->be, h->fuse_bias);
    ops->linear_close(l->be, h->classify);
    ops->linear_close(l->be, h->skip);
    free(h);
}

enum err head_fuse(const struct head *h, struct arena *arena, const struct plan *p, int images,
                   void *const c[ARCH_STAGES], void *const *features)
{
    struct backend *be = arena->be;
    int e = h->arch->embed;
    bool grid = h->arch->head == HEAD_TV3S;
    size_t elem = backend_elem(be), tokens[ARCH_STAGES];
    const struct resize_axis *rows[ARCH_STAGES], *cols[ARCH_STAGES];
    struct arena_mark mark = arena_mark(arena);
    void *g[ARCH_STAGES];
    for (int i = 0; i < ARCH_STAGES; i++) {
        tokens[i] = (size_t)p->h[i] * (size_t)p->w[i];
        rows[i] = &p->fuse_rows[i];
        cols[i] = &p->fuse_cols[i];
        size_t all = tokens[i] * (size_t)images;
        TRY(arena_get(arena, all * (size_t)e * elem, &g[i]));
        TRY(be->ops->linear(be, h->fuse[i], c[i], g[i], all));
    }
    for (int j = 0; j < images; j++) {
        const void *one[ARCH_STAGES];
        for (int i = 0; i < ARCH_STAGES; i++)
            one[i] = (char *)g[i] + (size_t)j * tokens[i] * (size_t)e * elem;
        be->ops->fuse(be, one, rows, cols, e, h->fuse_bias, grid ? &p->grid_rows : NULL,
                      grid ? &p->grid_cols : NULL, features[j]);
    }
    arena_release(arena, mark);
    return ERR_OK;
}

static size_t unit_rows(const struct head_unit *u)
{
    return (size_t)u->plan->geo.grid_width * (size_t)u->plan->geo.grid_height;
}

/* Backend logits [rows][classes] -> host (classes, h, w) */
static enum err logits_to_host(const struct head *h, struct backend *be, const float *logits,
                               size_t rows, float *out)
{
    size_t classes = (size_t)h->arch->classes;
    float *t = malloc(rows * classes * sizeof *t);
    if (!t)
        return err_set(ERR_NOMEM, "out of memory for logits");
    enum err e = be->ops->download(be, t, logits, rows * classes * sizeof *t);
    for (size_t r = 0; e == ERR_OK && r < rows; r++)
        for (size_t k = 0; k < classes; k++)
            out[k * rows + r] = t[r * classes + k];
    free(t);
    return e;
}

/* x: act [rows][E], the classifier's input for one unit -> logits, labels */
static enum err classify(const struct head *h, struct arena *arena, const struct head_unit *u,
                         const void *x)
{
    struct backend *be = arena->be;
    size_t rows = unit_rows(u), classes = (size_t)h->arch->classes, e = (size_t)h->arch->embed;
    struct arena_mark mark = arena_mark(arena);
    void *logits, *grid;
    TRY(arena_get(arena, rows * classes * sizeof(float), &logits));
    TRY(be->ops->linear(be, h->classify, x, logits, rows));
    if (h->skip) {
        TRY(arena_get(arena, rows * e * backend_elem(be), &grid));
        be->ops->to_act(be, u->features, rows * e, grid);
        TRY(be->ops->linear(be, h->skip, grid, logits, rows));
    }
    if (u->logits)
        TRY(logits_to_host(h, be, logits, rows, u->logits));
    if (u->labels)
        TRY(be->ops->labels(be, logits, h->arch->classes, &u->plan->label_rows,
                            &u->plan->label_cols, u->labels));
    arena_release(arena, mark);
    return ERR_OK;
}

/* Whether the units' features lie one after the other, and may be written: as an arena gives them
 * that is one block. */
static bool features_serve(const struct head *h, const struct head_unit *units, int count)
{
    const char *at = units[0].features;
    bool serve = !h->skip;
    for (int i = 0; serve && i < count; i++) {
        serve = units[i].scratch && units[i].features == at;
        at += unit_rows(&units[i]) * (size_t)h->arch->embed * sizeof(float);
    }
    return serve;
}

/* The residual rows of a wave, unit after unit; the features themselves where they may serve. */
static enum err residual(const struct head *h, struct arena *arena, const struct head_unit *units,
                         int count, float **out)
{
    struct backend *be = arena->be;
    size_t e = (size_t)h->arch->embed, rows = 0;
    void *r;
    if (features_serve(h, units, count)) {
        *out = units[0].features;
        return ERR_OK;
    }
    for (int i = 0; i < count; i++)
        rows += unit_rows(&units[i]);
    TRY(arena_get(arena, rows * e * sizeof(float), &r));
    *out = r;
    rows = 0;
    for (int i = 0; i < count; i++) {
        size_t n = unit_rows(&units[i]);
        be->ops->copy(be, *out + rows * e, units[i].features, n * e * sizeof(float));
        rows += n;
    }
    return ERR_OK;
}

/* All units of one wave: residual rows, mixers, final norm, outputs. */
static enum err run_wave(const struct head *h, struct arena *arena, const struct head_unit *units,
                         int count)
{
    struct backend *be = arena->be;
    size_t e = (size_t)h->arch->embed, rows = 0;
    struct arena_mark mark = arena_mark(arena);
    float *r;
    void *x;
    TRY(residual(h, arena, units, count, &r));
    TRY(head_mix(h, arena, units, count, r));
    for (int i = 0; i < count; i++) {
        size_t n = unit_rows(&units[i]);
        if (units[i].labels || units[i].logits) {
            struct arena_mark inner = arena_mark(arena);
            TRY(arena_get(arena, n * e * backend_elem(be), &x));
            be->ops->rmsnorm(be, r + rows * e, n, (int)e, h->norm_f.weight, 1e-5f, x);
            TRY(classify(h, arena, &units[i], x));
            arena_release(arena, inner);
        }
        rows += n;
    }
    arena_release(arena, mark);
    return ERR_OK;
}

enum err head_run(const struct head *h, struct arena *arena, const struct head_unit *units,
                  int count)
{
    if (h->arch->head == HEAD_SEGFORMER) {
        for (int i = 0; i < count; i++)
            if (units[i].labels || units[i].logits)
                TRY(classify(h, arena, &units[i], units[i].features));
        return ERR_OK;
    }
    for (int first = 0, last; first < count; first = last) {
        for (last = first + 1; last < count && units[last].wave == units[first].wave; last++)
            ;
        TRY(run_wave(h, arena, units + first, last - first));
    }
    return ERR_OK;
}
