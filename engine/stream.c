/* What one stream owns: its hidden state, and moving it out and in.
 *
 * The exported form is a safetensors file, the same for every backend: for each layer l a tensor
 * "ssm.l" [windows][D][n] and a tensor "conv.l" [windows][D][k - 1], fp32, and `__metadata__` with
 * the shape of model and frame that it fits, and the number of frames applied. */
#include "engine/internal.h"

#include "base/try.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static enum err check_config(const struct stream_config *c)
{
    if (c->clip_frames < 0 || c->clip_frames > CLIP_MAX_FRAMES)
        return err_set(ERR_ARG, "a clip has 1 to %d frames", CLIP_MAX_FRAMES);
    for (int i = 0; i < c->clip_frames; i++) {
        int next = i + 1 < c->clip_frames ? c->clip_offsets[i + 1] : -1;
        if (c->clip_offsets[i] <= next || c->clip_offsets[i] >= CLIP_HISTORY)
            return err_set(ERR_ARG, "clip offsets must descend from at most %d to 0",
                           CLIP_HISTORY - 1);
    }
    if (c->clip_frames > 0 && c->clip_offsets[c->clip_frames - 1] != 0)
        return err_set(ERR_ARG, "the last clip offset must be 0");
    return ERR_OK;
}

enum err stream_open(struct engine *e, const struct stream_config *c, struct stream **out)
{
    static const int offsets[] = {9, 6, 3, 0}; /* the paper's section 3.3 */
    *out = NULL;
    TRY(check_config(c));
    struct stream *s = calloc(1, sizeof *s);
    if (!s)
        return err_set(ERR_NOMEM, "out of memory");
    s->engine = e;
    s->config = *c;
    if (c->clip_frames == 0) {
        s->config.clip_frames = 4;
        memcpy(s->config.clip_offsets, offsets, sizeof offsets);
    }
    *out = s;
    return ERR_OK;
}

void stream_give_state(struct stream *s)
{
    struct engine *e = s->engine;
    engine_give(e, s->held.state, s->held.plan->state_floats * sizeof(float));
    s->held.state = NULL;
    for (int i = 0; i < CLIP_HISTORY; i++) {
        engine_give(e, s->held.history[i], engine_feature_bytes(e, s->held.plan));
        s->held.history[i] = NULL;
    }
}

/* A stream is looked at from outside when no batch has a run of it. */
static void settle(const struct stream *s)
{
    engine_enter(s->engine);
    if (s->flights > 0)
        engine_drain(s->engine);
}

void stream_reset(struct stream *s)
{
    settle(s);
    if (!s->held.plan)
        return;
    stream_give_state(s);
    stream_drop_spilled(s);
    s->held.plan->users--;
    s->held.plan = NULL;
    s->held.frames = 0;
}

void stream_close(struct stream *s)
{
    if (!s)
        return;
    stream_reset(s);
    free(s);
}

uint64_t stream_frames(const struct stream *s)
{
    return s->held.frames;
}

size_t stream_state_bytes(const struct stream *s)
{
    size_t bytes = s->held.state ? s->held.plan->state_floats * sizeof(float) : 0;
    for (int i = 0; i < CLIP_HISTORY; i++)
        bytes += s->held.history[i] ? engine_feature_bytes(s->engine, s->held.plan) : 0;
    return bytes;
}

/* One layer's windows between the engine's layout (per window: S [n][D], tail [k - 1][D]) and the
 * file's (ssm [windows][D][n], conv [windows][D][k - 1]). */
static void convert_layer(const struct arch *a, const struct plan *p, int layer, float *state,
                          float *ssm, float *conv, bool to_file)
{
    size_t d = (size_t)a->inner, n = (size_t)a->state, k = (size_t)a->conv - 1;
    for (int w = 0; w < p->cut[layer % 2].windows; w++) {
        float *s = state + plan_state_offset(p, layer, w), *tail = s + n * d;
        for (size_t j = 0; j < d; j++) {
            float *fs = ssm + ((size_t)w * d + j) * n, *fc = conv + ((size_t)w * d + j) * k;
            for (size_t i = 0; i < n; i++)
                *(to_file ? &fs[i] : &s[i * d + j]) = *(to_file ? &s[i * d + j] : &fs[i]);
            for (size_t i = 0; i < k; i++)
                *(to_file ? &fc[i] : &tail[i * d + j]) = *(to_file ? &tail[i * d + j] : &fc[i]);
        }
    }
}

/* The shape of model and frame that a state fits, as one string. */
static void signature(const struct arch *a, const struct geometry *g, char *text, size_t size)
{
    snprintf(text, size,
             "layers=%d window=%d shift=%d inner=%d state=%d conv=%d frame=%dx%d input=%dx%d "
             "grid=%dx%d",
             a->layers, a->window, a->shift, a->inner, a->state, a->conv, g->width, g->height,
             g->net_width, g->net_height, g->grid_width, g->grid_height);
}

static enum err export_layers(const struct arch *a, const struct plan *p, float *state,
                              float *values, struct st_writer *w)
{
    size_t d = (size_t)a->inner, n = (size_t)a->state, k = (size_t)a->conv - 1;
    for (int l = 0; l < a->layers; l++) {
        char name[32];
        size_t windows = (size_t)p->cut[l % 2].windows;
        float *ssm = values, *conv = ssm + windows * d * n;
        int64_t shape[3] = {(int64_t)windows, a->inner, a->state};
        convert_layer(a, p, l, state, ssm, conv, true);
        snprintf(name, sizeof name, "ssm.%d", l);
        TRY(st_writer_add(w, name, DT_F32, 3, shape, ssm));
        shape[2] = a->conv - 1;
        snprintf(name, sizeof name, "conv.%d", l);
        TRY(st_writer_add(w, name, DT_F32, 3, shape, conv));
        values += windows * d * (n + k);
    }
    return ERR_OK;
}

enum err stream_export(const struct stream *s, void **buf, size_t *len)
{
    const struct arch *a = &s->engine->model->arch;
    struct backend *be = s->engine->be;
    struct st_writer *w = NULL;
    char text[256];
    *buf = NULL;
    *len = 0;
    settle(s);
    if (s->config.mode != MODE_STREAM || a->head != HEAD_TV3S)
        return err_set(ERR_UNSUPPORTED, "only streams with carried state have one to export");
    if (!s->held.plan)
        return err_set(ERR_NOT_FOUND, "the stream has no state yet: it had no frame");
    size_t bytes = s->held.plan->state_floats * sizeof(float);
    float *state = malloc(bytes), *values = malloc(bytes);
    enum err e = state && values ? ERR_OK : err_set(ERR_NOMEM, "out of memory for the state");
    if (e == ERR_OK && s->held.spilled)
        memcpy(state, s->held.spilled, bytes);
    else if (e == ERR_OK)
        e = be->ops->download(be, state, s->held.state, bytes);
    if (e == ERR_OK)
        e = st_writer_open(&w);
    if (e == ERR_OK)
        e = st_writer_metadata(w, "tv3s.state", "1");
    signature(a, &s->held.plan->geo, text, sizeof text);
    if (e == ERR_OK)
        e = st_writer_metadata(w, "shape", text);
    snprintf(text, sizeof text, "%llu", (unsigned long long)s->held.frames);
    if (e == ERR_OK)
        e = st_writer_metadata(w, "frames", text);
    if (e == ERR_OK)
        e = export_layers(a, s->held.plan, state, values, w);
    if (e == ERR_OK)
        e = st_write_memory(w, buf, len);
    st_writer_close(w);
    free(state);
    free(values);
    return e;
}

/* One tensor of the file, checked, to fp32 values. */
static enum err import_tensor(const struct st_file *f, const char *kind, int layer, int64_t windows,
                              int64_t d, int64_t n, float *out)
{
    char name[32];
    snprintf(name, sizeof name, "%s.%d", kind, layer);
    const struct st_tensor *t = st_find(f, name);
    if (!t || t->dtype != DT_F32 || t->ndim != 3 || t->shape[0] != windows || t->shape[1] != d ||
        t->shape[2] != n)
        return err_set(ERR_FORMAT, "the state's tensor \"%s\" is missing or has another shape",
                       name);
    size_t count = st_elements(t);
    TRY(st_to_f32(t, 0, count, out));
    for (size_t i = 0; i < count; i++)
        if (!(out[i] - out[i] == 0)) /* NaN, infinity */
            return err_set(ERR_FORMAT, "the state's tensor \"%s\" has values that are not finite",
                           name);
    return ERR_OK;
}

static enum err import_layers(const struct st_file *f, const struct arch *a, const struct plan *p,
                              float *values, float *state)
{
    int64_t d = a->inner, n = a->state, k = a->conv - 1;
    for (int l = 0; l < a->layers; l++) {
        int64_t windows = p->cut[l % 2].windows;
        float *ssm = values, *conv = values + windows * d * n;
        TRY(import_tensor(f, "ssm", l, windows, d, n, ssm));
        TRY(import_tensor(f, "conv", l, windows, d, k, conv));
        convert_layer(a, p, l, state, ssm, conv, false);
    }
    return ERR_OK;
}

/* The plan of the file's frame size, when the whole signature fits this stream's model, and the
 * file is long enough to hold such a state: nothing is made by what a file merely claims. */
static enum err import_plan(struct stream *s, const struct st_file *f, size_t len, uint64_t *frames,
                            struct plan **out)
{
    const struct arch *a = &s->engine->model->arch;
    struct geometry geo;
    const char *version = st_metadata(f, "tv3s.state"), *shape = st_metadata(f, "shape");
    const char *count = st_metadata(f, "frames"), *frame;
    int width, height;
    char mine[256], *end;
    if (!version || strcmp(version, "1") != 0 || !shape || !count)
        return err_set(ERR_FORMAT, "this is not an exported stream state");
    errno = 0;
    *frames = strtoull(count, &end, 10);
    if (count[0] < '0' || count[0] > '9' || *end || errno)
        return err_set(ERR_FORMAT, "the state's frame count is not a number");
    frame = strstr(shape, " frame=");
    if (!frame || sscanf(frame, " frame=%5dx%5d", &width, &height) != 2)
        return err_set(ERR_FORMAT, "the state does not say its frame size");
    TRY(engine_geometry(a, width, height, s->config.resize_override ? &s->config.resize : NULL,
                        &geo));
    signature(a, &geo, mine, sizeof mine);
    if (strcmp(mine, shape) != 0)
        return err_set(ERR_FORMAT, "the state is of another model or geometry: it has %.120s",
                       shape);
    if (len < geo.state_bytes)
        return err_set(ERR_FORMAT, "the state is shorter than its shape needs");
    return engine_plan(s->engine, &s->config, width, height, out);
}

enum err stream_import(struct stream *s, const void *buf, size_t len,
                       enum err (*room)(void *ctx, size_t bytes), void *ctx)
{
    struct engine *e = s->engine;
    const struct arch *a = &e->model->arch;
    struct st_file *f = NULL;
    struct plan *p = NULL;
    uint64_t frames = 0;
    float *values = NULL, *state = NULL;
    void *loaded = NULL;
    size_t bytes = 0;
    engine_enter(e);
    if (s->config.mode != MODE_STREAM || a->head != HEAD_TV3S)
        return err_set(ERR_UNSUPPORTED, "only streams with carried state can import one");
    enum err r = st_parse(buf, len, &f);
    if (r == ERR_OK)
        r = import_plan(s, f, len, &frames, &p);
    if (r == ERR_OK) {
        bytes = p->state_floats * sizeof *state;
        values = malloc(bytes);
        state = malloc(bytes);
        r = values && state ? ERR_OK : err_set(ERR_NOMEM, "out of memory for the state");
    }
    if (r == ERR_OK)
        r = import_layers(f, a, p, values, state);
    if (r == ERR_OK)
        r = room ? room(ctx, bytes) : ERR_OK;
    if (r == ERR_OK)
        r = engine_take_copy(e, state, bytes, &loaded);
    if (r == ERR_OK) {
        p->users++; /* before the reset, which may give up the same plan */
        stream_reset(s);
        s->held.plan = p;
        s->held.state = loaded;
        s->held.frames = frames;
    } else if (loaded) {
        engine_give(e, loaded, p->state_floats * sizeof *state);
    }
    st_close(f);
    free(values);
    free(state);
    return r;
}
