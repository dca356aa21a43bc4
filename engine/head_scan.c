/* The state-space layers: MODEL.md 3.3, the paper's Eq. 2 and Algorithm 1.
 *
 * Tokens stay where they are, in the grid's row-major order; only the causal convolution and the
 * scan look at windows, by a table of rectangles. So "add, then norm, then mix" needs no gather:
 * out_proj adds into the residual rows r, which are norm's input in the next layer.
 *
 * A layer works band by band. A band is a row of windows, hence a contiguous range of rows of r;
 * bands of all streams are strung together into chunks of about CHUNK rows, small enough that
 * in_proj's output (2D wide, the largest operand) is still in the cache when the scan reads it,
 * large enough that a chunk's windows and channel blocks keep all threads busy. */
#include "engine/head.h"

#include "base/try.h"

enum { CHUNK = 2400 };

/* The bands of one chunk: rows [row0, row0 + rows) of r and their windows. */
struct chunk {
    size_t row0, rows;
    struct scan_window *window;
    int windows;
    size_t tail; /* floats of S, which a window's tail follows */
};

/* Where the walk over the bands of all units stands. */
struct cursor {
    int unit, band;
    size_t unit_row0; /* of r */
};

static void add_band(const struct head_unit *u, const struct plan_cut *cut,
                     const struct plan_band *band, int layer, size_t row0, struct chunk *c)
{
    const struct plan *p = u->plan;
    for (int i = 0; i < band->windows; i++) {
        const struct plan_window *w = &cut->window[band->window0 + i];
        float *state = u->state + plan_state_offset(p, layer, band->window0 + i);
        struct scan_window *s = &c->window[c->windows++];
        s->row0 = (int)(row0 + (size_t)w->row0 - c->row0);
        s->h = w->h;
        s->w = w->w;
        s->row_stride = p->geo.grid_width;
        s->state = state;
        s->tail = state + c->tail;
    }
    c->rows += (size_t)band->rows;
}

/* Collects bands from the cursor on until the chunk is full. False when there was none left. */
static bool next_chunk(const struct head_unit *units, int count, int layer, struct cursor *at,
                       struct chunk *c)
{
    c->rows = 0;
    c->windows = 0;
    while (at->unit < count) {
        const struct head_unit *u = &units[at->unit];
        const struct plan_cut *cut = &u->plan->cut[layer % 2];
        if (at->band == cut->bands) {
            at->unit_row0 += (size_t)u->plan->geo.grid_width * (size_t)u->plan->geo.grid_height;
            at->unit++;
            at->band = 0;
            continue;
        }
        const struct plan_band *band = &cut->band[at->band];
        if (c->rows > 0 && c->rows + (size_t)band->rows > CHUNK)
            return true;
        if (c->rows == 0)
            c->row0 = at->unit_row0 + (size_t)band->row0;
        add_band(u, cut, band, layer, at->unit_row0, c);
        at->band++;
    }
    return c->rows > 0;
}

/* r += Mixer(RMSNorm(r)) for one chunk's rows */
static enum err mix_chunk(const struct mixer *m, struct arena *arena, const struct arch *a,
                          const struct chunk *c, float *r)
{
    struct backend *be = arena->be;
    size_t elem = backend_elem(be), d = (size_t)a->inner, e = (size_t)a->embed;
    struct arena_mark mark = arena_mark(arena);
    void *x, *xz, *b, *dbc;
    r += c->row0 * e;
    TRY(arena_get(arena, c->rows * e * elem, &x));
    TRY(arena_get(arena, c->rows * 2 * d * elem, &xz));
    TRY(arena_get(arena, c->rows * d * elem, &b));
    TRY(arena_get(arena, c->rows * (size_t)(a->dt_rank + 2 * a->state) * sizeof(float), &dbc));
    be->ops->rmsnorm(be, r, c->rows, a->embed, m->norm.weight, 1e-5f, x);
    TRY(be->ops->linear(be, m->in, x, xz, c->rows));
    be->ops->scan_conv(be, &m->scan, c->window, c->windows, xz, b);
    TRY(be->ops->linear(be, m->x, b, dbc, c->rows));
    be->ops->selective_scan(be, &m->scan, c->window, c->windows, b, dbc, xz, b);
    TRY(be->ops->linear(be, m->out, b, r, c->rows));
    arena_release(arena, mark);
    return ERR_OK;
}

enum err head_mix(const struct head *h, struct arena *arena, const struct head_unit *units,
                  int count, float *r)
{
    const struct arch *a = h->arch;
    struct arena_mark mark = arena_mark(arena);
    size_t windows = 0;
    struct chunk c = {.tail = (size_t)a->state * (size_t)a->inner};
    void *p;
    for (int i = 0; i < count; i++)
        windows += (size_t)units[i].plan->cut[1].windows + (size_t)units[i].plan->cut[0].windows;
    TRY(arena_get(arena, windows * sizeof *c.window, &p));
    c.window = p;
    for (int layer = 0; layer < a->layers; layer++) {
        struct cursor at = {0};
        while (next_chunk(units, count, layer, &at, &c)) {
            TRY(mix_chunk(&h->mixer[layer], arena, a, &c, r));
        }
    }
    arena_release(arena, mark);
    return ERR_OK;
}
