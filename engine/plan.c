#include "engine/plan.h"

#include "base/try.h"
#include "engine/resize.h"

#include <stdlib.h>

static enum err nomem(void)
{
    return err_set(ERR_NOMEM, "out of memory for a plan");
}

static enum err plan_axes(const struct arch *a, struct plan *p)
{
    const struct geometry *g = &p->geo;
    TRY(resize_axis_bilinear(g->height, g->net_height, &p->input_rows));
    TRY(resize_axis_bilinear(g->width, g->net_width, &p->input_cols));
    for (int i = 0; i < ARCH_STAGES; i++) {
        TRY(resize_axis_bilinear(p->h[i], p->h[0], &p->fuse_rows[i]));
        TRY(resize_axis_bilinear(p->w[i], p->w[0], &p->fuse_cols[i]));
    }
    if (a->head == HEAD_TV3S) {
        TRY(resize_axis_bilinear(g->c1_height, g->grid_height, &p->grid_rows));
        TRY(resize_axis_bilinear(g->c1_width, g->grid_width, &p->grid_cols));
    }
    int rows[] = {g->grid_height, g->c1_height, g->net_height, g->height};
    int cols[] = {g->grid_width, g->c1_width, g->net_width, g->width};
    TRY(resize_axis_chain(rows, 4, &p->label_rows));
    return resize_axis_chain(cols, 4, &p->label_cols);
}

/* The piece of an axis that starts at `at`: up to the next cut shift + i * window, or the end. */
static int piece_end(int at, int size, int window, int shift)
{
    int first = shift > 0 ? shift : window;
    int end = at < first ? first : at + window;
    return end < size ? end : size;
}

/* Rectangles of MODEL.md 3.3: each axis cut at multiples of w, or at s, s + w, ... */
static enum err plan_cut(const struct arch *a, const struct geometry *g, int shift,
                         struct plan_cut *c)
{
    int most = (g->grid_height / a->window + 1) * (g->grid_width / a->window + 1);
    c->window = calloc((size_t)most, sizeof *c->window);
    c->band = calloc((size_t)g->grid_height / (size_t)a->window + 1, sizeof *c->band);
    if (!c->window || !c->band)
        return nomem();
    for (int y = 0, y1; y < g->grid_height; y = y1) {
        y1 = piece_end(y, g->grid_height, a->window, shift);
        struct plan_band *b = &c->band[c->bands++];
        b->row0 = y * g->grid_width;
        b->rows = (y1 - y) * g->grid_width;
        b->window0 = c->windows;
        for (int x = 0, x1; x < g->grid_width; x = x1) {
            x1 = piece_end(x, g->grid_width, a->window, shift);
            c->window[c->windows++] = (struct plan_window){b->row0 + x, y1 - y, x1 - x};
        }
        b->windows = c->windows - b->window0;
    }
    return ERR_OK;
}

/* Tokens of each 7x7 window of the padded map, rolled by (-shift, -shift). */
static int *swin_partition(int h, int w, int n, int shift)
{
    int ph = (h + n - 1) / n * n, pw = (w + n - 1) / n * n;
    int *index = malloc((size_t)ph * (size_t)pw * sizeof *index), at = 0;
    for (int wy = 0; index && wy < ph; wy += n)
        for (int wx = 0; wx < pw; wx += n)
            for (int i = 0; i < n * n; i++) {
                int y = (wy + i / n + shift) % ph, x = (wx + i % n + shift) % pw;
                index[at++] = y < h && x < w ? y * w + x : -1;
            }
    return index;
}

static enum err plan_swin(const struct arch *a, struct plan *p, int stage)
{
    int h = p->h[stage], w = p->w[stage], n = a->swin_window;
    int rows = (h + n - 1) / n, cols = (w + n - 1) / n;
    struct plan_swin *s = &p->swin[stage];
    s->windows = rows * cols;
    s->partition[0] = swin_partition(h, w, n, 0);
    s->partition[1] = swin_partition(h, w, n, n / 2);
    s->mask_of = malloc((size_t)s->windows * sizeof *s->mask_of);
    if (!s->partition[0] || !s->partition[1] || !s->mask_of)
        return nomem();
    for (int i = 0; i < s->windows; i++)
        s->mask_of[i] = (i % cols == cols - 1) + 2 * (i / cols == rows - 1) - 1;
    if (stage == ARCH_STAGES - 1)
        return ERR_OK;
    int nh = p->h[stage + 1], nw = p->w[stage + 1];
    s->merge = malloc((size_t)nh * (size_t)nw * 4 * sizeof *s->merge);
    if (!s->merge)
        return nomem();
    for (int i = 0; i < nh * nw * 4; i++) {
        int y = i / 4 / nw * 2 + i % 2, x = i / 4 % nw * 2 + i % 4 / 2;
        s->merge[i] = y < h && x < w ? y * w + x : -1;
    }
    return ERR_OK;
}

static enum err plan_encoder(const struct arch *a, struct plan *p, struct backend *be)
{
    for (int i = 0; i < ARCH_STAGES; i++) {
        if (a->encoder == ENCODER_SWIN) {
            TRY(plan_swin(a, p, i));
            continue;
        }
        struct attention_desc d = {.channels = a->dims[i],
                                   .heads = a->heads[i],
                                   .queries = p->h[i] * p->w[i],
                                   .keys = (p->h[i] / a->sr[i]) * (p->w[i] / a->sr[i])};
        if (d.keys < 1)
            return err_set(ERR_ARG, "a network input of %dx%d is too small for this model",
                           p->geo.net_width, p->geo.net_height);
        TRY(be->ops->attention_open(be, &d, &p->attention[i]));
    }
    return ERR_OK;
}

static enum err plan_fill(const struct arch *a, struct plan *p, struct backend *be)
{
    plan_stage_sizes(a, p->geo.net_width, p->geo.net_height, p->h, p->w);
    TRY(plan_axes(a, p));
    TRY(plan_encoder(a, p, be));
    if (a->head != HEAD_TV3S)
        return ERR_OK;
    TRY(plan_cut(a, &p->geo, 0, &p->cut[0]));
    TRY(plan_cut(a, &p->geo, a->shift, &p->cut[1]));
    p->window_floats = (size_t)a->inner * (size_t)(a->state + a->conv - 1);
    p->state_floats = p->window_floats * (size_t)p->geo.windows;
    return ERR_OK;
}

/* Makes a table known to the backend (add), or unknown again. */
static enum err set_table(struct backend *be, const void *table, size_t bytes, bool add)
{
    if (add)
        return be->ops->table_add(be, table, bytes);
    be->ops->table_drop(be, table);
    return ERR_OK;
}

static enum err set_axis(struct backend *be, const struct resize_axis *x, bool add)
{
    size_t n = (size_t)x->dst;
    TRY(set_table(be, x->index, n * sizeof *x->index, add));
    return set_table(be, x->weight, n * (size_t)x->taps * sizeof *x->weight, add);
}

static enum err set_swin(struct backend *be, const struct plan *p, int stage, int window, bool add)
{
    const struct plan_swin *s = &p->swin[stage];
    size_t windows = (size_t)s->windows, tokens = windows * (size_t)(window * window);
    TRY(set_table(be, s->partition[0], tokens * sizeof(int), add));
    TRY(set_table(be, s->partition[1], tokens * sizeof(int), add));
    TRY(set_table(be, s->mask_of, windows * sizeof(int), add));
    int next = stage + 1 < ARCH_STAGES ? stage + 1 : stage;
    return set_table(be, s->merge, (size_t)p->h[next] * (size_t)p->w[next] * 4 * sizeof(int), add);
}

/* All tables of a plan; swin_window matters for add only. */
static enum err set_tables(struct backend *be, const struct plan *p, int swin_window, bool add)
{
    const struct resize_axis *axis[] = {&p->input_rows, &p->input_cols, &p->grid_rows,
                                        &p->grid_cols,  &p->label_rows, &p->label_cols};
    for (size_t i = 0; i < sizeof axis / sizeof *axis; i++)
        TRY(set_axis(be, axis[i], add));
    for (int i = 0; i < ARCH_STAGES; i++) {
        TRY(set_axis(be, &p->fuse_rows[i], add));
        TRY(set_axis(be, &p->fuse_cols[i], add));
        TRY(set_swin(be, p, i, swin_window, add));
    }
    return ERR_OK;
}

enum err plan_open(const struct arch *a, const struct geometry *geo, struct backend *be,
                   struct plan **out)
{
    struct plan *p = calloc(1, sizeof *p);
    *out = NULL;
    if (!p)
        return nomem();
    p->geo = *geo;
    enum err e = plan_fill(a, p, be);
    if (e == ERR_OK)
        e = set_tables(be, p, a->swin_window, true);
    if (e != ERR_OK) {
        plan_close(p, be);
        return e;
    }
    *out = p;
    return ERR_OK;
}

void plan_close(struct plan *p, struct backend *be)
{
    if (!p)
        return;
    set_tables(be, p, 0, false);
    struct resize_axis *axis[] = {&p->input_rows, &p->input_cols, &p->grid_rows,
                                  &p->grid_cols,  &p->label_rows, &p->label_cols};
    for (size_t i = 0; i < sizeof axis / sizeof *axis; i++)
        resize_axis_free(axis[i]);
    for (int i = 0; i < ARCH_STAGES; i++) {
        resize_axis_free(&p->fuse_rows[i]);
        resize_axis_free(&p->fuse_cols[i]);
        be->ops->attention_close(be, p->attention[i]);
        free(p->swin[i].partition[0]);
        free(p->swin[i].partition[1]);
        free(p->swin[i].mask_of);
        free(p->swin[i].merge);
    }
    for (int i = 0; i < 2; i++) {
        free(p->cut[i].window);
        free(p->cut[i].band);
    }
    free(p);
}

size_t plan_state_offset(const struct plan *p, int layer, int window)
{
    size_t before = (size_t)((layer + 1) / 2) * (size_t)p->cut[0].windows +
                    (size_t)(layer / 2) * (size_t)p->cut[1].windows;
    return (before + (size_t)window) * p->window_floats;
}
