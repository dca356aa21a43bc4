/* One batch's way through the model: step_walk.
 *
 * The frames of all runs are cut into passes that bound the memory. A pass encodes its frames,
 * grouped by plan, then runs the head:
 *   stream mode: one unit a frame on the run's working state, so later frames come in later waves;
 *   frame mode:  one unit a frame on a zero state of its own, all in one wave;
 *   clip mode:   a unit for each frame of the clip on a zero state of its own, output at the last.
 * The working states start as copies, in one launch from a table: where a state lies is data, so
 * that a device may take another batch of the same shape for this one. */
#include "engine/step.h"

#include "base/try.h"

#include <stdlib.h>
#include <string.h>

enum {
    PASS_FRAMES = 64, /* of a pass, at most; pass_rows and encoder_rows of the backend say more */
};

static bool wants_output(const struct frame_ref *f)
{
    const struct engine_run *r = f->work->run;
    return (r->labels && r->labels[f->index]) || (r->logits && r->logits[f->index]);
}

/* Copies of all streams' states to where the batch works, or zeros. */
static enum err begin_states(const struct step *s)
{
    struct backend *be = s->e->be;
    const void *table;
    void *host;
    size_t most = 0;
    int count = 0;
    TRY(be->ops->stage(be, (size_t)s->runs * sizeof(struct state_move), &host));
    struct state_move *moves = host;
    for (int i = 0; i < s->runs; i++) {
        const struct work *w = &s->work[i];
        size_t bytes = step_state_bytes(w->plan);
        if (!w->state)
            continue;
        moves[count++] =
            (struct state_move){w->state, w->fresh ? NULL : w->stream->held.state, bytes};
        most = bytes > most ? bytes : most;
    }
    if (count == 0)
        return ERR_OK;
    TRY(be->ops->staged(be, host, (size_t)count * sizeof *moves, &table));
    be->ops->move_states(be, table, count, most);
    return ERR_OK;
}

/* Encodes frames[which[0..n)] of one plan; features[which[i]] is where each result goes. */
static enum err encode(struct engine *e, const struct frame_ref *frames, const int *which, int n,
                       void *const *features)
{
    const struct arch *a = &e->model->arch;
    const struct plan *p = frames[which[0]].work->plan;
    size_t elem = backend_elem(e->be);
    size_t pixels = (size_t)p->geo.net_width * (size_t)p->geo.net_height;
    struct arena_mark mark = arena_mark(&e->arena);
    void *input, *c[ARCH_STAGES], *out[PASS_FRAMES];
    for (int i = 0; i < ARCH_STAGES; i++)
        TRY(arena_get(&e->arena,
                      (size_t)n * (size_t)p->h[i] * (size_t)p->w[i] * (size_t)a->dims[i] * elem,
                      &c[i]));
    TRY(arena_get(&e->arena, (size_t)n * pixels * 3 * sizeof(float), &input));
    for (int i = 0; i < n; i++) {
        const struct frame_ref *f = &frames[which[i]];
        const struct image *image = &f->work->run->frames[f->index];
        TRY(e->be->ops->preprocess(e->be, image->pixels, image->stride, image->on_device,
                                   image->format, &p->input_rows, &p->input_cols,
                                   (float *)input + (size_t)i * pixels * 3));
        out[i] = features[which[i]];
    }
    TRY(encoder_run(e->encoder, &e->arena, p, input, n, c));
    TRY(head_fuse(e->head, &e->arena, p, n, c, out));
    arena_release(&e->arena, mark);
    return ERR_OK;
}

/* Encodes all frames of a pass that are needed, grouped by plan. */
static enum err encode_pass(struct engine *e, const struct frame_ref *frames, int count,
                            void *const *features)
{
    bool done[PASS_FRAMES] = {false};
    for (int i = 0; i < count; i++) {
        const struct plan *p = frames[i].work->plan;
        int which[PASS_FRAMES], n = 0;
        size_t tokens = (size_t)p->h[0] * (size_t)p->w[0];
        for (int j = i; j < count; j++) {
            if (done[j] || !features[j] || frames[j].work->plan != p)
                continue;
            if (n > 0 && (size_t)(n + 1) * tokens > e->be->encoder_rows)
                break;
            which[n++] = j;
            done[j] = true;
        }
        if (n > 0)
            TRY(encode(e, frames, which, n, features));
    }
    return ERR_OK;
}

/* Where a frame's features go: clip mode keeps them, the others use the arena. NULL: not needed. */
static enum err place_features(struct engine *e, const struct frame_ref *f, void **out)
{
    size_t bytes = engine_feature_bytes(e, f->work->plan);
    const struct stream *s = f->work->stream;
    bool carried = s->config.mode == MODE_STREAM && e->model->arch.head == HEAD_TV3S;
    *out = NULL;
    if (s->config.mode == MODE_CLIP) {
        *out = f->work->feature[f->index];
        return ERR_OK;
    }
    return carried || wants_output(f) ? arena_get(&e->arena, bytes, out) : ERR_OK;
}

static void set_output(const struct frame_ref *f, struct head_unit *u)
{
    const struct engine_run *r = f->work->run;
    u->labels = r->labels ? r->labels[f->index] : NULL;
    u->logits = r->logits ? r->logits[f->index] : NULL;
}

static enum err zero_state(struct engine *e, const struct plan *p, float **out)
{
    void *state;
    *out = NULL;
    if (e->model->arch.head != HEAD_TV3S)
        return ERR_OK;
    TRY(arena_get(&e->arena, step_state_bytes(p), &state));
    e->be->ops->zero(e->be, state, step_state_bytes(p));
    *out = state;
    return ERR_OK;
}

/* Features of the frame `back` frames before frame f; the stream's first when there is none. */
static void *clip_feature(const struct frame_ref *f, int back)
{
    const struct work *w = f->work;
    uint64_t first = w->fresh ? 0 : w->stream->held.frames, at = first + (uint64_t)f->index;
    at = at < (uint64_t)back ? 0 : at - (uint64_t)back;
    return at >= first ? w->feature[at - first]
                       : w->stream->held.history[at % stream_history(w->stream)];
}

/* Units of one frame. Waves: stream mode, its index in the run; the others start at 0. */
static enum err add_units(struct engine *e, const struct frame_ref *f, void *features,
                          struct head_unit *units, int *count)
{
    const struct stream_config *c = &f->work->stream->config;
    struct head_unit u = {
        .plan = f->work->plan, .features = features, .scratch = c->mode != MODE_CLIP};
    if (!features || (c->mode == MODE_CLIP && !wants_output(f)))
        return ERR_OK;
    if (c->mode == MODE_STREAM) {
        u.state = f->work->state;
        u.wave = f->index;
    } else {
        TRY(zero_state(e, u.plan, &u.state));
    }
    for (int i = 0; c->mode == MODE_CLIP && i < c->clip_frames - 1; i++) {
        u.features = clip_feature(f, c->clip_offsets[i]);
        u.wave = i;
        units[(*count)++] = u;
    }
    if (c->mode == MODE_CLIP)
        u.wave = c->clip_frames - 1;
    u.features = features;
    set_output(f, &u);
    units[(*count)++] = u;
    return ERR_OK;
}

static void sort_by_wave(struct head_unit *u, int count)
{
    for (int i = 1; i < count; i++) {
        struct head_unit x = u[i];
        int j = i;
        for (; j > 0 && u[j - 1].wave > x.wave; j--)
            u[j] = u[j - 1];
        u[j] = x;
    }
}

static enum err run_pass(struct engine *e, const struct frame_ref *frames, int count)
{
    void *features[PASS_FRAMES];
    struct head_unit units[PASS_FRAMES * CLIP_MAX_FRAMES];
    int unit_count = 0;
    for (int i = 0; i < count; i++)
        TRY(place_features(e, &frames[i], &features[i]));
    TRY(encode_pass(e, frames, count, features));
    for (int i = 0; i < count; i++)
        TRY(add_units(e, &frames[i], features[i], units, &unit_count));
    sort_by_wave(units, unit_count);
    return head_run(e->head, &e->arena, units, unit_count);
}

static enum err run_passes(const struct step *s)
{
    struct engine *e = s->e;
    for (int first = 0, n; first < s->frames; first += n) {
        size_t rows = 0;
        for (n = 0; first + n < s->frames && n < PASS_FRAMES; n++) {
            const struct geometry *g = &s->frame[first + n].work->plan->geo;
            rows += (size_t)g->grid_width * (size_t)g->grid_height;
            if (n > 0 && rows > e->be->pass_rows)
                break;
        }
        struct arena_mark mark = arena_mark(&e->arena);
        enum err r = run_pass(e, &s->frame[first], n);
        arena_release(&e->arena, mark);
        arena_settle(&e->arena);
        if (r != ERR_OK)
            return r;
    }
    return ERR_OK;
}

enum err step_walk(void *step)
{
    const struct step *s = step;
    TRY(begin_states(s));
    return run_passes(s);
}
