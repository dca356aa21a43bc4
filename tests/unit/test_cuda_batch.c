/* Batches of the CUDA backend on the stand-in: what the host asks of the device for one, two under
 * way at once, batches that were seen before as one launch, and every call failing in turn. */
#define TINY_DEVICE DEVICE_CUDA
#include "tests/unit/tiny_stream.h"

#include "engine/internal.h"
#include "kernels/cuda/cuda.h"

const struct variant *variant;

enum { WIDTH = 64, HEIGHT = 48, STREAMS = 3, FRAMES = 4 };
enum { COPIES_AND_GRAPH = 3 }; /* pixels up, the graph, labels down */

static const struct variant variants[] = {
    {"MiT, f32", ENCODER_MIT, HEAD_TV3S, OUTPUT_DIRECT, DT_F32},
    {"Swin, add, bf16", ENCODER_SWIN, HEAD_TV3S, OUTPUT_ADD, DT_BF16},
    {"SegFormer, f32", ENCODER_MIT, HEAD_SEGFORMER, OUTPUT_DIRECT, DT_F32},
};

static struct cuda_backend *backend(const struct engine *e)
{
    return cuda_of(e->be);
}

/* Labels of clip i of STREAMS, frame by frame, in out[i]: of streams alone, launch by launch. */
static void label_plainly(const struct fixture *f, uint8_t *const *out, int width, int height)
{
    struct engine *e = open_engine(f->model);
    backend(e)->no_graphs = true;
    for (int i = 0; i < STREAMS; i++) {
        struct stream *s = open_stream(e, MODE_STREAM);
        for (int t = 0; t < FRAMES; t++) {
            uint8_t *rgb = malloc((size_t)width * (size_t)height * 3);
            uint8_t *labels = out[i] + (size_t)t * (size_t)width * (size_t)height;
            const struct image image = image_of_rgb24(rgb, width, height);
            tiny_frame(rgb, width, height, i, t);
            if (engine_step(e, &(struct engine_run){s, 1, &image, &labels, NULL}, 1))
                fail_msg("%s", err_text());
            free(rgb);
        }
        stream_close(s);
    }
    engine_close(e);
}

/* What a test works with: STREAMS clips of one size, their labels by `label_plainly`, and room for
 * those of the engine under test. */
struct clips {
    int width, height;
    size_t pixels;
    uint8_t *want[STREAMS], *got[STREAMS];
    struct stream *stream[STREAMS];
};

static struct clips clips_open(const struct fixture *f, int width, int height)
{
    struct clips c = {.width = width, .height = height};
    c.pixels = (size_t)width * (size_t)height;
    for (int i = 0; i < STREAMS; i++) {
        c.want[i] = malloc(FRAMES * c.pixels);
        c.got[i] = malloc(FRAMES * c.pixels);
        memset(c.got[i], 0xee, FRAMES * c.pixels);
        c.stream[i] = open_stream(f->engine, MODE_STREAM);
    }
    label_plainly(f, c.want, width, height);
    return c;
}

static void clips_close(struct clips *c)
{
    for (int i = 0; i < STREAMS; i++) {
        free(c->want[i]);
        free(c->got[i]);
        stream_close(c->stream[i]);
    }
}

/* Frame t of clips first .. first + count - 1, as one batch. The pixels are gone on return. */
static enum err submit(struct engine *e, struct clips *c, int first, int count, int t)
{
    uint8_t *rgb = malloc((size_t)count * c->pixels * 3), *labels[STREAMS];
    struct image image[STREAMS];
    struct engine_run runs[STREAMS];
    for (int i = 0; i < count; i++) {
        uint8_t *p = rgb + (size_t)i * c->pixels * 3;
        tiny_frame(p, c->width, c->height, first + i, t);
        image[i] = image_of_rgb24(p, c->width, c->height);
        labels[i] = c->got[first + i] + (size_t)t * c->pixels;
        runs[i] = (struct engine_run){c->stream[first + i], 1, &image[i], &labels[i], NULL};
    }
    enum err r = engine_submit(e, runs, count);
    memset(rgb, 0xaa, (size_t)count * c->pixels * 3);
    free(rgb);
    return r;
}

static enum err batch(struct engine *e, struct clips *c, int t)
{
    enum err r = submit(e, c, 0, STREAMS, t);
    return r == ERR_OK ? engine_wait(e) : r;
}

static void run(struct engine *e, struct clips *c, int t)
{
    if (batch(e, c, t) != ERR_OK)
        fail_msg("%s", err_text());
}

static void assert_labels(const struct clips *c, int frames)
{
    for (int i = 0; i < STREAMS; i++)
        for (int t = 0; t < frames; t++)
            if (memcmp(c->got[i] + (size_t)t * c->pixels, c->want[i] + (size_t)t * c->pixels,
                       c->pixels) != 0)
                fail_msg("labels of frame %d of clip %d differ", t, i);
}

static void a_batch_seen_before_is_one_launch(void **state)
{
    struct fixture *f = *state;
    struct clips c = clips_open(f, WIDTH, HEIGHT);
    run(f->engine, &c, 0);
    for (int t = 1; t < FRAMES; t++) {
        size_t enqueued = cuda_host_enqueued, waits = cuda_host_waits;
        size_t allocations = cuda_host_allocations;
        run(f->engine, &c, t);
        assert_int_equal(cuda_host_enqueued - enqueued, COPIES_AND_GRAPH);
        assert_int_equal(cuda_host_waits - waits, 1);
        assert_int_equal(cuda_host_allocations, allocations);
    }
    assert_labels(&c, FRAMES);
    clips_close(&c);
}

static void a_captured_batch_serves_other_streams(void **state)
{
    struct fixture *f = *state;
    struct clips c = clips_open(f, WIDTH, HEIGHT);
    for (int t = 0; t < 2; t++)
        for (int i = 0; i < STREAMS; i++) {
            size_t enqueued = cuda_host_enqueued;
            assert_int_equal(submit(f->engine, &c, i, 1, t), ERR_OK);
            assert_int_equal(engine_wait(f->engine), ERR_OK);
            if (t > 0 || i > 1)
                assert_int_equal(cuda_host_enqueued - enqueued, COPIES_AND_GRAPH);
        }
    assert_labels(&c, 0);
    for (int i = 0; i < STREAMS; i++)
        assert_memory_equal(c.got[i], c.want[i], 2 * c.pixels);
    clips_close(&c);
}

/* Other shapes push a graph out, under way or not, and wait for nothing; a batch that has lost its
 * own is launched, then captured again. */
static void graphs_are_few(void **state)
{
    const struct fixture *f = *state;
    struct engine *e = open_engine(f->model);
    struct clips c = clips_open(&(struct fixture){.model = f->model, .engine = e}, WIDTH, HEIGHT);
    run(e, &c, 0);
    assert_int_equal(submit(e, &c, 0, STREAMS, 1), ERR_OK);
    size_t waits = cuda_host_waits; /* the graph is under way */
    for (uint64_t i = 0; i < CUDA_GRAPHS; i++) {
        backend(e)->trace = (struct cuda_trace){{i, i}, false};
        assert_false(cuda_graph_seen(backend(e)));
        cuda_graph_note(backend(e));
        assert_true(cuda_graph_seen(backend(e)));
    }
    for (int i = 0; i < CUDA_GRAPHS; i++)
        assert_null(backend(e)->graph[i].exec);
    assert_int_equal(cuda_host_waits, waits);
    assert_int_equal(engine_wait(e), ERR_OK);
    size_t enqueued = cuda_host_enqueued;
    run(e, &c, 2);
    assert_true(cuda_host_enqueued - enqueued > COPIES_AND_GRAPH);
    enqueued = cuda_host_enqueued;
    run(e, &c, 3);
    assert_int_equal(cuda_host_enqueued - enqueued, COPIES_AND_GRAPH);
    assert_labels(&c, FRAMES);
    clips_close(&c);
    engine_close(e);
}

/* The same streams in both: the second batch continues from what the first one will leave. */
static void two_batches_are_under_way_at_once(void **state)
{
    struct fixture *f = *state;
    struct clips c = clips_open(f, 67, 45);
    assert_int_equal(engine_depth(f->engine), 2);
    run(f->engine, &c, 0);
    assert_int_equal(submit(f->engine, &c, 0, STREAMS, 1), ERR_OK);
    for (int t = 2; t < FRAMES; t++) {
        size_t waits = cuda_host_waits;
        assert_int_equal(submit(f->engine, &c, 0, STREAMS, t), ERR_OK);
        assert_int_equal(cuda_host_waits, waits);
        assert_int_equal(c.got[0][(size_t)(t - 1) * c.pixels], 0xee);
        assert_int_equal(submit(f->engine, &c, 0, STREAMS, 0), ERR_BUSY);
        assert_int_equal(stream_frames(c.stream[0]), t + 1);
        assert_int_equal(engine_wait(f->engine), ERR_OK);
        assert_labels(&c, t);
    }
    assert_int_equal(engine_wait(f->engine), ERR_OK);
    assert_int_equal(engine_wait(f->engine), ERR_ARG);
    assert_labels(&c, FRAMES);
    clips_close(&c);
}

static void a_stream_is_looked_at_when_its_batches_are_done(void **state)
{
    struct fixture *f = *state;
    struct clips c = clips_open(f, WIDTH, HEIGHT);
    bool carried = f->model->arch.head == HEAD_TV3S;
    void *state_of[2] = {NULL};
    size_t bytes[2];
    run(f->engine, &c, 0);
    assert_int_equal(submit(f->engine, &c, 0, STREAMS, 1), ERR_OK);
    assert_int_equal(submit(f->engine, &c, 0, STREAMS, 2), ERR_OK);
    if (carried)
        assert_int_equal(stream_export(c.stream[0], &state_of[0], &bytes[0]), ERR_OK);
    assert_int_equal(stream_spill(c.stream[1]), ERR_OK);
    stream_reset(c.stream[2]);
    assert_labels(&c, 3); /* there before the wait */
    assert_int_equal(engine_wait(f->engine), ERR_OK);
    assert_int_equal(engine_wait(f->engine), ERR_OK);
    if (carried) {
        assert_int_equal(stream_export(c.stream[0], &state_of[1], &bytes[1]), ERR_OK);
        assert_int_equal(bytes[0], bytes[1]);
        assert_memory_equal(state_of[0], state_of[1], bytes[0]);
    }
    assert_int_equal(submit(f->engine, &c, 0, 2, 3), ERR_OK); /* fetches it again */
    assert_int_equal(engine_wait(f->engine), ERR_OK);
    assert_memory_equal(c.got[0], c.want[0], FRAMES * c.pixels);
    assert_memory_equal(c.got[1], c.want[1], FRAMES * c.pixels);
    free(state_of[0]);
    free(state_of[1]);
    clips_close(&c);
}

/* ---- failing calls ---- */

/* What the streams are, down to the bytes of their states. */
struct look {
    struct held held[STREAMS];
    void *bytes[STREAMS];
    size_t count;
};

static struct look look_at(const struct clips *c)
{
    struct look l = {.count = 0};
    for (int i = 0; i < STREAMS; i++) {
        const struct stream *s = c->stream[i];
        l.held[i] = s->held;
        l.count = s->held.state ? s->held.plan->state_floats * sizeof(float) : 0;
        l.bytes[i] = malloc(l.count + 1);
        memcpy(l.bytes[i], s->held.state ? s->held.state : (float *)l.bytes[i], l.count);
    }
    return l;
}

static void assert_as_it_was(const struct look *l, const struct clips *c)
{
    for (int i = 0; i < STREAMS; i++) {
        const struct held *h = &c->stream[i]->held;
        assert_memory_equal(h, &l->held[i], sizeof *h);
        assert_int_equal(c->stream[i]->flights, 0);
        if (h->state)
            assert_memory_equal(h->state, l->bytes[i], l->count);
    }
}

static void look_away(struct look *l)
{
    for (int i = 0; i < STREAMS; i++)
        free(l->bytes[i]);
}

/* Calls of a batch of frame t, each `step`th failing in turn, until none is left to fail: the batch
 * fails, or does without it, but never half. Returns how many batches failed, of those that lacked
 * memory the ones that ended nothing else. The stand-in's device is none the worse for it, so the
 * backend goes on. */
static int fail_calls(struct fixture *f, struct clips *c, int t, bool graphs, size_t step,
                      cudaError_t how)
{
    struct cuda_backend *b = backend(f->engine);
    struct look before = look_at(c);
    int failures = 0;
    for (size_t call = 1;; call += step) {
        b->no_graphs = !graphs;
        cuda_host_fail_with = how;
        cuda_host_fail_at = cuda_host_calls + call;
        enum err r = batch(f->engine, c, t);
        bool all = cuda_host_calls < cuda_host_fail_at;
        cuda_host_fail_at = 0;
        if (r == ERR_OK && (all || !graphs))
            assert_true(all);
        if (r == ERR_OK)
            break;
        assert_true(r == ERR_DEVICE || (r == ERR_NOMEM && how == cudaErrorMemoryAllocation));
        assert_non_null(strstr(err_text(), "the GPU"));
        if (r == ERR_DEVICE) /* for good */
            assert_int_equal(batch(f->engine, c, t), ERR_DEVICE);
        else
            assert_int_equal(b->failed, cudaSuccess);
        failures += r != ERR_DEVICE || how != cudaErrorMemoryAllocation;
        b->failed = cudaSuccess;
        cuda_host_run_all();
        assert_as_it_was(&before, c);
    }
    look_away(&before);
    b->no_graphs = false;
    return failures;
}

static void a_call_that_fails_leaves_the_streams(void **state)
{
    struct fixture *f = *state;
    struct clips c = clips_open(f, WIDTH, HEIGHT);
    run(f->engine, &c, 0);
    assert_true(fail_calls(f, &c, 1, false, 1, cudaErrorLaunchFailure) > 100);
    run(f->engine, &c, 2);
    assert_true(fail_calls(f, &c, 3, true, 1, cudaErrorIllegalAddress) >= 8);
    assert_labels(&c, FRAMES);
    clips_close(&c);
}

/* A launch may lack memory too: a card loads a kernel when it is first wanted. */
static void memory_missing_at_a_launch_fails_that_batch_alone(void **state)
{
    struct fixture *f = *state;
    struct clips c = clips_open(f, WIDTH, HEIGHT);
    run(f->engine, &c, 0);
    assert_true(fail_calls(f, &c, 1, false, 9, cudaErrorMemoryAllocation) > 10);
    run(f->engine, &c, 2);
    run(f->engine, &c, 3);
    assert_labels(&c, FRAMES);
    clips_close(&c);
}

/* A walk that stages eight bytes and, when the operations are to be launched, cannot go on. */
struct broken {
    struct backend *be;
    uint8_t *host;
    const void *device;
    int walks;
};

static enum err walk_broken(void *arg)
{
    struct broken *b = arg;
    void *host;
    assert_int_equal(b->be->ops->stage(b->be, 8, &host), ERR_OK);
    b->host = host;
    assert_int_equal(b->be->ops->staged(b->be, host, 8, &b->device), ERR_OK);
    if (b->walks++ > 0)
        return err_set(ERR_NOMEM, "out of memory for a test");
    memset(host, 1, 8);
    return ERR_OK;
}

/* Nobody waits for a batch that was given up, and the next one fills its staging memory. */
static void nothing_of_a_batch_given_up_is_still_under_way(void **state)
{
    const struct fixture *f = *state;
    struct broken b = {.be = f->engine->be};
    struct clips c = clips_open(f, WIDTH, HEIGHT);
    run(f->engine, &c, 0);
    assert_int_equal(b.be->ops->start(b.be, walk_broken, &b), ERR_NOMEM);
    assert_string_equal(err_text(), "out of memory for a test");
    assert_int_equal(b.walks, 2);
    memset(b.host, 2, 8);
    cuda_host_run_all();
    assert_int_equal(*(const uint8_t *)b.device, 1);
    run(f->engine, &c, 1);
    run(f->engine, &c, 2);
    run(f->engine, &c, 3);
    assert_labels(&c, FRAMES);
    clips_close(&c);
}

/* A capture that cannot be is done without: launch by launch, this time and from then on. */
static void a_capture_that_fails_is_done_without(void **state)
{
    struct fixture *f = *state;
    struct clips c = clips_open(f, WIDTH, HEIGHT);
    struct engine *e = f->engine;
    backend(e)->no_graphs = true;
    run(e, &c, 0);
    backend(e)->no_graphs = false;
    memset(backend(e)->graph, 0, sizeof backend(e)->graph);
    run(e, &c, 1);
    cuda_host_fail_at = cuda_host_calls + 4 + 17; /* copy, event, wait, capture; some launch */
    size_t enqueued = cuda_host_enqueued;
    run(e, &c, 2);
    assert_true(cuda_host_calls > cuda_host_fail_at);
    cuda_host_fail_at = 0;
    assert_true(cuda_host_enqueued - enqueued > COPIES_AND_GRAPH);
    assert_true(backend(e)->no_graphs);
    assert_int_equal(backend(e)->failed, cudaSuccess);
    run(e, &c, 3);
    assert_labels(&c, FRAMES);
    clips_close(&c);
}

static void a_fault_ends_all_batches_under_way(void **state)
{
    const struct fixture *f = *state;
    struct engine *e = open_engine(f->model);
    struct clips c = clips_open(&(struct fixture){.model = f->model, .engine = e}, WIDTH, HEIGHT);
    run(e, &c, 0);
    struct look before = look_at(&c);
    assert_int_equal(submit(e, &c, 0, STREAMS, 1), ERR_OK);
    assert_int_equal(submit(e, &c, 1, 2, 2), ERR_OK);
    cuda_host_fault = cudaErrorIllegalAddress;
    assert_int_equal(engine_wait(e), ERR_DEVICE);
    assert_int_equal(engine_wait(e), ERR_DEVICE);
    assert_non_null(strstr(err_text(), "the GPU failed"));
    cuda_host_fault = cudaSuccess;
    assert_as_it_was(&before, &c);
    assert_int_equal(batch(e, &c, 1), ERR_DEVICE);
    look_away(&before);
    clips_close(&c);
    engine_close(e);
}

/* ---- memory ---- */

static struct engine_config with_room(void)
{
    return (struct engine_config){.device = DEVICE_CUDA,
                                  .dtype = variant->dtype,
                                  .room_frames = STREAMS,
                                  .room_width = WIDTH,
                                  .room_height = HEIGHT};
}

static void with_room_made_at_start_the_first_batch_allocates_nothing(void **state)
{
    struct fixture *f = *state;
    struct geometry g;
    assert_int_equal(engine_geometry(&f->model->arch, WIDTH, HEIGHT, NULL, &g), ERR_OK);
    const struct engine_config config = with_room();
    struct fixture roomy = {.model = f->model};
    assert_int_equal(engine_open(f->model, &config, &roomy.engine), ERR_OK);
    size_t states = (size_t)(1 + engine_depth(roomy.engine)) * STREAMS; /* held, and being made */
    assert_int_equal(engine_reserve_states(roomy.engine, states * g.state_bytes), ERR_OK);
    struct clips c = clips_open(&roomy, WIDTH, HEIGHT);
    size_t allocations = cuda_host_allocations;
    run(roomy.engine, &c, 0);
    assert_int_equal(submit(roomy.engine, &c, 0, STREAMS, 1), ERR_OK);
    assert_int_equal(submit(roomy.engine, &c, 0, STREAMS, 2), ERR_OK);
    assert_int_equal(engine_wait(roomy.engine), ERR_OK);
    assert_int_equal(engine_wait(roomy.engine), ERR_OK);
    run(roomy.engine, &c, 3);
    assert_int_equal(cuda_host_allocations, allocations);
    assert_labels(&c, FRAMES);
    clips_close(&c);
    engine_close(roomy.engine);
}

/* Opens with `room` bytes of device memory; returns what the engine says, and leaves nothing. */
static enum err open_in(const struct fixture *f, size_t room)
{
    const struct engine_config config = with_room();
    struct engine *e = NULL;
    size_t used = cuda_host_memory;
    cuda_host_memory_limit = used + room;
    enum err r = engine_open(f->model, &config, &e);
    engine_close(e);
    cuda_host_memory_limit = SIZE_MAX;
    assert_int_equal(cuda_host_memory, used);
    return r;
}

static void assert_said(const char *what)
{
    if (!strstr(err_text(), what))
        fail_msg("\"%s\" does not say \"%s\"", err_text(), what);
}

static void what_does_not_fit_at_start_is_named_with_what_would(void **state)
{
    enum { MB = 1 << 20 };
    struct fixture *f = *state;
    size_t weights = cuda_host_memory; /* of the fixture's engine */
    assert_int_equal(open_in(f, CUDA_LT_WORKSPACE + 1000), ERR_NOMEM);
    assert_said("the model's weights, ");
    assert_said("in bf16 they take half");
    assert_int_equal(open_in(f, weights + MB), ERR_NOMEM);
    assert_said("not even one frame of 64x48 fits");
    size_t room = weights + 2 * MB;
    while (open_in(f, room) != ERR_OK && !strstr(err_text(), "batches of 3 frames of 64x48"))
        room += MB / 2;
    assert_int_equal(open_in(f, room), ERR_NOMEM);
    assert_said("of 1 they would (batch_max)");
    while (open_in(f, room) != ERR_OK)
        room += MB;
}

static void room_that_is_left_is_found(void **state)
{
    const struct fixture *f = *state;
    size_t used = cuda_host_memory, part = 10 << 20;
    cuda_host_memory_limit = used + 8 * part;
    assert_int_equal(engine_room_left(f->engine, 8 * part), 8 * part);
    size_t left = engine_room_left(f->engine, 1000 * part);
    assert_true(left <= 8 * part && left >= 8 * part / 16 * 15);
    cuda_host_memory_limit = used + 1000;
    assert_int_equal(engine_room_left(f->engine, 1000 * part), 0);
    cuda_host_memory_limit = used + 8 * part;
    assert_int_equal(engine_reserve_states(f->engine, 9 * part), ERR_NOMEM);
    assert_int_equal(cuda_host_memory, used);
    cuda_host_memory_limit = SIZE_MAX;
}

static int group(const char *name)
{
    const struct CMUnitTest each[] = {
        cmocka_unit_test(a_batch_seen_before_is_one_launch),
        cmocka_unit_test(two_batches_are_under_way_at_once),
        cmocka_unit_test(a_stream_is_looked_at_when_its_batches_are_done),
    };
    const struct CMUnitTest once[] = {
        cmocka_unit_test_setup_teardown(a_captured_batch_serves_other_streams, fixture_open,
                                        fixture_close),
        cmocka_unit_test_setup_teardown(graphs_are_few, fixture_open, fixture_close),
        cmocka_unit_test_setup_teardown(a_call_that_fails_leaves_the_streams, fixture_open,
                                        fixture_close),
        cmocka_unit_test_setup_teardown(memory_missing_at_a_launch_fails_that_batch_alone,
                                        fixture_open, fixture_close),
        cmocka_unit_test_setup_teardown(nothing_of_a_batch_given_up_is_still_under_way,
                                        fixture_open, fixture_close),
        cmocka_unit_test_setup_teardown(a_capture_that_fails_is_done_without, fixture_open,
                                        fixture_close),
        cmocka_unit_test_setup_teardown(a_fault_ends_all_batches_under_way, fixture_open,
                                        fixture_close),
        cmocka_unit_test_setup_teardown(with_room_made_at_start_the_first_batch_allocates_nothing,
                                        fixture_open, fixture_close),
        cmocka_unit_test_setup_teardown(what_does_not_fit_at_start_is_named_with_what_would,
                                        fixture_open, fixture_close),
        cmocka_unit_test_setup_teardown(room_that_is_left_is_found, fixture_open, fixture_close),
    };
    int failures = cmocka_run_group_tests_name(name, each, fixture_open, fixture_close);
    if (variant == variants)
        failures += cmocka_run_group_tests_name(name, once, NULL, NULL);
    return failures;
}

int main(void)
{
    return run_variants(variants, (int)(sizeof variants / sizeof *variants), group);
}
