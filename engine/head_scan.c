/* The state-space layers: MODEL.md 3.3, the paper's Eq. 2 and Algorithm 1.
 *
 * Tokens stay where they are, in the grid's row-major order; only the causal convolution and the
 * scan look at windows, by a table of rectangles. So "add, then norm, then mix" needs no gather:
 * out_proj adds into the residual rows r, which are norm's input in the next layer.
 *
 * A layer works band by band. A band is a row of windows, hence a contiguous range of rows of r;
 * bands of all streams are strung together into chunks of about the backend's scan_rows: on a CPU
 * few enough that in_proj's output (2D wide, the largest operand) is still in the cache when the
 * scan reads it, many enough that a chunk's windows and channel blocks keep all threads busy. All
 * layers' windows are one table, staged at once; so the walk over the chunks is done twice, first
 * to fill it. */
#include "engine/head.h"

#include "base/try.h"

/* What is walked, and where the windows go: NULL when the table is full already. */
struct walk {
    const struct head_unit *units;
    int count, layer;
    size_t rows;  /* of a chunk, about */
    size_t state; /* floats of S, which a window's tail follows */
    struct scan_window *table;
    /* Where it stands: */
    int unit, band;
    size_t unit_row0; /* of r */
};

/* The bands of one chunk: rows [row0, row0 + rows) of r, and their windows in the table. */
struct chunk {
    size_t row0, rows;
    int window0, windows;
};

static void add_band(const struct walk *at, const struct plan_cut *cut,
                     const struct plan_band *band, struct chunk *c)
{
    const struct head_unit *u = &at->units[at->unit];
    for (int i = 0; at->table && i < band->windows; i++) {
        const struct plan_window *w = &cut->window[band->window0 + i];
        float *state = u->state + plan_state_offset(u->plan, at->layer, band->window0 + i);
        at->table[c->window0 + c->windows + i] =
            (struct scan_window){.row0 = (int)(at->unit_row0 + (size_t)w->row0 - c->row0),
                                 .h = w->h,
                                 .w = w->w,
                                 .row_stride = u->plan->geo.grid_width,
                                 .state = state,
                                 .tail = state + at->state};
    }
    c->windows += band->windows;
    c->rows += (size_t)band->rows;
}

/* The next chunk: bands are collected until it is full. False when there was none left. */
static bool next_chunk(struct walk *at, struct chunk *c)
{
    c->window0 += c->windows;
    c->windows = 0;
    c->rows = 0;
    while (at->unit < at->count) {
        const struct plan *p = at->units[at->unit].plan;
        const struct plan_cut *cut = &p->cut[at->layer % 2];
        if (at->band == cut->bands) {
            at->unit_row0 += (size_t)p->geo.grid_width * (size_t)p->geo.grid_height;
            at->unit++;
            at->band = 0;
            continue;
        }
        const struct plan_band *band = &cut->band[at->band];
        if (c->rows > 0 && c->rows + (size_t)band->rows > at->rows)
            return true;
        if (c->rows == 0)
            c->row0 = at->unit_row0 + (size_t)band->row0;
        add_band(at, cut, band, c);
        at->band++;
    }
    return c->rows > 0;
}

/* r += Mixer(RMSNorm(r)) for one chunk's rows */
static enum err mix_chunk(const struct mixer *m, struct arena *arena, const struct arch *a,
                          const struct chunk *c, const struct scan_window *table, float *r)
{
    struct backend *be = arena->be;
    size_t elem = backend_elem(be), d = (size_t)a->inner, e = (size_t)a->embed;
    const struct scan_window *windows = table + c->window0;
    struct arena_mark mark = arena_mark(arena);
    void *x, *xz, *b, *dbc;
    r += c->row0 * e;
    TRY(arena_get(arena, c->rows * e * elem, &x));
    TRY(arena_get(arena, c->rows * 2 * d * elem, &xz));
    TRY(arena_get(arena, c->rows * d * elem, &b));
    TRY(arena_get(arena, c->rows * (size_t)(a->dt_rank + 2 * a->state) * sizeof(float), &dbc));
    be->ops->rmsnorm(be, r, c->rows, a->embed, m->norm.weight, 1e-5f, x);
    TRY(be->ops->linear(be, m->in, x, xz, c->rows));
    be->ops->scan_conv(be, &m->scan, windows, c->windows, xz, b);
    TRY(be->ops->linear(be, m->x, b, dbc, c->rows));
    be->ops->selective_scan(be, &m->scan, windows, c->windows, b, dbc, xz, b);
    TRY(be->ops->linear(be, m->out, b, r, c->rows));
    arena_release(arena, mark);
    return ERR_OK;
}

/* The windows of all layers, chunk after chunk, in backend memory. */
static enum err stage_windows(struct backend *be, const struct walk *start, int layers,
                              const struct scan_window **out)
{
    size_t windows = 0;
    struct chunk c = {0};
    void *host;
    const void *table;
    for (int i = 0; i < start->count; i++)
        windows += (size_t)start->units[i].plan->geo.windows;
    TRY(be->ops->stage(be, windows * sizeof **out, &host));
    for (int layer = 0; layer < layers; layer++) {
        struct walk at = *start;
        at.layer = layer;
        at.table = host;
        while (next_chunk(&at, &c))
            ;
    }
    TRY(be->ops->staged(be, host, windows * sizeof **out, &table));
    *out = table;
    return ERR_OK;
}

enum err head_mix(const struct head *h, struct arena *arena, const struct head_unit *units,
                  int count, float *r)
{
    const struct arch *a = h->arch;
    const struct scan_window *table;
    struct walk start = {.units = units,
                         .count = count,
                         .rows = arena->be->scan_rows,
                         .state = (size_t)a->state * (size_t)a->inner};
    struct chunk c = {0};
    TRY(stage_windows(arena->be, &start, a->layers, &table));
    for (int layer = 0; layer < a->layers; layer++) {
        struct walk at = start;
        at.layer = layer;
        while (next_chunk(&at, &c))
            TRY(mix_chunk(&h->mixer[layer], arena, a, &c, table, r));
    }
    return ERR_OK;
}
