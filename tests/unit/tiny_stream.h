/* Streams of tiny models under test: what goes in (feeds) and what came out (traces). */
#ifndef TV3S_TESTS_TINY_STREAM_H
#define TV3S_TESTS_TINY_STREAM_H

#include "engine/engine.h"
#include "tests/unit/tiny_model.h"

/* What the engines under test run on: test_cuda_*.c set another. */
#ifndef TINY_DEVICE
#define TINY_DEVICE DEVICE_CPU
#endif

enum { RUN_MAX = 32, FEED_MAX = 8 };

/* What every test of a group gets: one engine of one variant. */
struct fixture {
    struct model *model;
    struct engine *engine;
};

struct variant {
    const char *name;
    enum encoder_kind encoder;
    enum head_kind head;
    enum output_kind output;
    enum dtype dtype;
};

extern const struct variant *variant; /* of the group under way */

static inline struct arch variant_arch(void)
{
    struct arch a = tiny_arch(variant->encoder, variant->head);
    a.output = variant->output;
    return a;
}

static inline struct engine *open_engine(const struct model *m)
{
    const struct engine_config c = {.device = TINY_DEVICE, .dtype = variant->dtype, .threads = 2};
    struct engine *e = NULL;
    if (engine_open(m, &c, &e) != ERR_OK)
        fail_msg("%s", err_text());
    return e;
}

static inline int fixture_open(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    struct arch a = variant_arch();
    f->model = tiny_open(&a, 1);
    f->engine = open_engine(f->model);
    *state = f;
    return 0;
}

static inline int fixture_close(void **state)
{
    struct fixture *f = *state;
    engine_close(f->engine);
    model_close(f->model);
    free(f);
    return 0;
}

static inline struct stream *open_stream(struct engine *e, enum stream_mode mode)
{
    const struct stream_config c = {.mode = mode};
    struct stream *s = NULL;
    if (stream_open(e, &c, &s) != ERR_OK)
        fail_msg("%s", err_text());
    return s;
}

/* Labels and logits of frames 0 .. frames - 1 of a clip. */
struct trace {
    int width, height, frames;
    size_t pixels, floats; /* of a frame */
    uint8_t *labels;
    float *logits;
};

static inline struct trace *trace_open(const struct model *m, int width, int height, int frames)
{
    struct geometry g;
    struct trace *t = calloc(1, sizeof *t);
    assert_int_equal(engine_geometry(&m->arch, width, height, NULL, &g), ERR_OK);
    *t = (struct trace){width,
                        height,
                        frames,
                        (size_t)width * (size_t)height,
                        (size_t)m->arch.classes * (size_t)g.grid_width * (size_t)g.grid_height,
                        NULL,
                        NULL};
    t->labels = malloc((size_t)frames * t->pixels);
    t->logits = malloc((size_t)frames * t->floats * sizeof *t->logits);
    memset(t->labels, 0xee, (size_t)frames * t->pixels);
    memset(t->logits, 0xee, (size_t)frames * t->floats * sizeof *t->logits);
    return t;
}

static inline void trace_close(struct trace *t)
{
    free(t->labels);
    free(t->logits);
    free(t);
}

/* Frames first .. first + count - 1 of both are the same, bit for bit. */
static inline void assert_same(const struct trace *a, const struct trace *b, int first, int count)
{
    for (int i = first; i < first + count; i++) {
        size_t p = (size_t)i * a->pixels, f = (size_t)i * a->floats;
        double far = 0;
        if (memcmp(a->logits + f, b->logits + f, a->floats * sizeof *a->logits) != 0) {
            for (size_t j = 0; j < a->floats; j++)
                far = fmax(far, fabs((double)a->logits[f + j] - (double)b->logits[f + j]));
            fail_msg("logits of frame %d differ by up to %g", i, far);
        }
        if (memcmp(a->labels + p, b->labels + p, a->pixels) != 0)
            fail_msg("labels of frame %d differ", i);
    }
}

static inline bool same_frame(const struct trace *a, int i, const struct trace *b, int j)
{
    return memcmp(a->logits + (size_t)i * a->floats, b->logits + (size_t)j * b->floats,
                  a->floats * sizeof *a->logits) == 0;
}

/* Frames first .. first + count - 1 of clip `seed`, in the trace's size, into a stream; outputs go
 * to the same places of the trace. */
struct feed {
    struct stream *stream;
    int seed, first, count;
    struct trace *out;
    bool quiet; /* no outputs wanted but those of the last frame */
};

/* Fills one run; *pixels is the caller's to free. */
static inline struct engine_run feed_run(const struct feed *f, struct image *frames,
                                         uint8_t **labels, float **logits, uint8_t **pixels)
{
    const struct trace *t = f->out;
    assert_true(f->count <= RUN_MAX);
    *pixels = malloc((size_t)f->count * t->pixels * 3);
    for (int i = 0; i < f->count; i++) {
        uint8_t *rgb = *pixels + (size_t)i * t->pixels * 3;
        size_t at = (size_t)(f->first + i);
        bool wanted = !f->quiet || i == f->count - 1;
        assert_true(f->first + i < t->frames);
        tiny_frame(rgb, t->width, t->height, f->seed, f->first + i);
        frames[i] = image_of_rgb24(rgb, t->width, t->height);
        labels[i] = wanted ? t->labels + at * t->pixels : NULL;
        logits[i] = wanted ? t->logits + at * t->floats : NULL;
    }
    return (struct engine_run){f->stream, f->count, frames, labels, logits};
}

/* One step of the engine with all feeds as its runs. */
static inline enum err try_step(struct engine *e, const struct feed *feeds, int count)
{
    struct engine_run runs[FEED_MAX];
    struct image frames[FEED_MAX][RUN_MAX];
    uint8_t *labels[FEED_MAX][RUN_MAX], *pixels[FEED_MAX];
    float *logits[FEED_MAX][RUN_MAX];
    assert_true(count <= FEED_MAX);
    for (int i = 0; i < count; i++)
        runs[i] = feed_run(&feeds[i], frames[i], labels[i], logits[i], &pixels[i]);
    enum err err = engine_step(e, runs, count);
    for (int i = 0; i < count; i++)
        free(pixels[i]);
    return err;
}

static inline void step(struct engine *e, const struct feed *feeds, int count)
{
    if (try_step(e, feeds, count) != ERR_OK)
        fail_msg("%s", err_text());
}

/* Frames first .. first + count - 1, one step each. */
static inline void feed_one_by_one(struct engine *e, struct stream *s, int seed, struct trace *out,
                                   int first, int count)
{
    for (int t = first; t < first + count; t++)
        step(e, &(struct feed){s, seed, t, 1, out, false}, 1);
}

/* A clip fed frame by frame to a stream of its own: what all else is compared with. */
static inline struct trace *alone(const struct fixture *f, enum stream_mode mode, int seed,
                                  int width, int height, int frames)
{
    struct stream *s = open_stream(f->engine, mode);
    struct trace *t = trace_open(f->model, width, height, frames);
    feed_one_by_one(f->engine, s, seed, t, 0, frames);
    stream_close(s);
    return t;
}

/* Runs the tests once per variant that this CPU computes in. Returns the number of
 * failures. */
static inline int run_variants(const struct variant *variants, int count,
                               int (*group)(const char *name))
{
    int failures = 0;
    for (int i = 0; i < count; i++) {
        variant = &variants[i];
        if (TINY_DEVICE == DEVICE_CUDA || engine_dtype_supported(TINY_DEVICE, variant->dtype))
            failures += group(variant->name);
        else
            print_message("%s: this CPU has no products in %s\n", variant->name,
                          dtype_name(variant->dtype));
    }
    return failures;
}

#endif
