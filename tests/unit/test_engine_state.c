/* The hidden state: out and in, and what errors must not touch. */
#include "engine/internal.h"
#include "tests/unit/tiny_stream.h"

const struct variant *variant;

/* test_cuda_state.c runs all this on the stand-in for CUDA, which is slow. */
enum {
    SMALL = TINY_DEVICE == DEVICE_CUDA,
    WIDTH = SMALL ? 48 : 96,
    HEIGHT = SMALL ? 32 : 64,
    WIDE = SMALL ? 96 : 180,
    SQUARE = SMALL ? 32 : 64,
    LONG = SMALL ? 4 : 12, /* frames: of CPU streams, more than a clip reaches back */
};

struct state_file {
    void *bytes;
    size_t length;
};

static struct state_file export_state(const struct stream *s)
{
    struct state_file f;
    if (stream_export(s, &f.bytes, &f.length) != ERR_OK)
        fail_msg("%s", err_text());
    return f;
}

static bool same_state(struct state_file a, struct state_file b)
{
    return a.length == b.length && memcmp(a.bytes, b.bytes, a.length) == 0;
}

/* The stream's state is still what `before` says; frees `before`. */
static void assert_untouched(const struct stream *s, struct state_file before)
{
    struct state_file now = export_state(s);
    assert_true(same_state(now, before));
    free(now.bytes);
    free(before.bytes);
}

static void an_exported_state_goes_on_in_another_engine(void **state)
{
    struct fixture *f = *state;
    struct trace *single = alone(f, MODE_STREAM, 1, WIDTH, HEIGHT, 8);
    struct trace *moved = trace_open(f->model, WIDTH, HEIGHT, 8);
    struct stream *here = open_stream(f->engine, MODE_STREAM);
    struct engine *other = open_engine(f->model);
    struct stream *there = open_stream(other, MODE_STREAM);
    feed_one_by_one(f->engine, here, 1, moved, 0, 4);
    struct state_file out = export_state(here);
    assert_int_equal(stream_import(there, out.bytes, out.length, NULL, NULL), ERR_OK);
    assert_int_equal(stream_frames(there), 4);
    assert_untouched(there, out);
    feed_one_by_one(other, there, 1, moved, 4, 4);
    assert_same(moved, single, 0, 8);
    feed_one_by_one(f->engine, here, 1, moved, 4, 4); /* the exported one goes on too */
    assert_same(moved, single, 0, 8);
    stream_close(here);
    stream_close(there);
    engine_close(other);
    trace_close(single);
    trace_close(moved);
}

static void importing_replaces_a_state(void **state)
{
    struct fixture *f = *state;
    struct trace *t = trace_open(f->model, WIDTH, HEIGHT, 8);
    struct trace *again = trace_open(f->model, WIDTH, HEIGHT, 8);
    struct stream *s = open_stream(f->engine, MODE_STREAM);
    feed_one_by_one(f->engine, s, 2, t, 0, 3);
    struct state_file at_3 = export_state(s);
    feed_one_by_one(f->engine, s, 2, t, 3, 5);
    assert_int_equal(stream_import(s, at_3.bytes, at_3.length, NULL, NULL), ERR_OK);
    feed_one_by_one(f->engine, s, 2, again, 3, 5);
    assert_same(again, t, 3, 5);
    stream_close(s);
    free(at_3.bytes);
    trace_close(t);
    trace_close(again);
}

static void the_state_of_another_model_is_refused(void **state)
{
    struct fixture *f = *state;
    struct arch a = variant_arch();
    a.window = 6;
    struct model *m = tiny_open(&a, 2);
    struct engine *e = open_engine(m);
    struct stream *theirs = open_stream(e, MODE_STREAM);
    struct stream *ours = open_stream(f->engine, MODE_STREAM);
    struct trace *t = trace_open(m, WIDTH, HEIGHT, 2), *o = trace_open(f->model, WIDTH, HEIGHT, 2);
    feed_one_by_one(e, theirs, 3, t, 0, 2);
    feed_one_by_one(f->engine, ours, 3, o, 0, 2);
    struct state_file foreign = export_state(theirs), before = export_state(ours);
    assert_int_not_equal(stream_import(ours, foreign.bytes, foreign.length, NULL, NULL), ERR_OK);
    assert_int_equal(stream_frames(ours), 2);
    assert_untouched(ours, before);
    free(foreign.bytes);
    stream_close(theirs);
    stream_close(ours);
    engine_close(e);
    model_close(m);
    trace_close(t);
    trace_close(o);
}

/* The state says which frame size it is of; a stream that resizes otherwise cannot take it. */
static void the_state_of_another_geometry_is_refused(void **state)
{
    struct fixture *f = *state;
    const struct stream_config fixed = {
        .mode = MODE_STREAM, .resize_override = true, .resize = {RESIZE_FIXED, SQUARE, SQUARE}};
    struct trace *t = trace_open(f->model, WIDTH, HEIGHT, 2);
    struct trace *o = trace_open(f->model, SQUARE, SQUARE, 2);
    struct stream *s = open_stream(f->engine, MODE_STREAM), *resized;
    assert_int_equal(stream_open(f->engine, &fixed, &resized), ERR_OK);
    feed_one_by_one(f->engine, s, 4, t, 0, 2);
    feed_one_by_one(f->engine, resized, 4, o, 0, 2);
    struct state_file foreign = export_state(s), before = export_state(resized);
    assert_int_not_equal(stream_import(resized, foreign.bytes, foreign.length, NULL, NULL), ERR_OK);
    assert_int_equal(stream_frames(resized), 2);
    assert_untouched(resized, before);
    free(foreign.bytes);
    stream_close(s);
    stream_close(resized);
    trace_close(t);
    trace_close(o);
}

static void importing_another_frame_size_moves_the_stream_there(void **state)
{
    struct fixture *f = *state;
    struct trace *t = trace_open(f->model, WIDTH, HEIGHT, 2);
    struct trace *single = alone(f, MODE_STREAM, 5, WIDE, HEIGHT, 4);
    struct trace *o = trace_open(f->model, WIDE, HEIGHT, 4);
    struct stream *s = open_stream(f->engine, MODE_STREAM);
    struct stream *wide = open_stream(f->engine, MODE_STREAM);
    feed_one_by_one(f->engine, s, 4, t, 0, 2);
    feed_one_by_one(f->engine, wide, 5, o, 0, 2);
    struct state_file theirs = export_state(wide);
    assert_int_equal(stream_import(s, theirs.bytes, theirs.length, NULL, NULL), ERR_OK);
    feed_one_by_one(f->engine, s, 5, o, 2, 2);
    assert_same(o, single, 0, 4);
    free(theirs.bytes);
    stream_close(s);
    stream_close(wide);
    trace_close(t);
    trace_close(single);
    trace_close(o);
}

static void a_damaged_state_is_refused(void **state)
{
    struct fixture *f = *state;
    struct trace *t = trace_open(f->model, WIDTH, HEIGHT, 3);
    struct stream *s = open_stream(f->engine, MODE_STREAM);
    feed_one_by_one(f->engine, s, 5, t, 0, 2);
    struct state_file good = export_state(s);
    feed_one_by_one(f->engine, s, 5, t, 2, 1);
    const size_t cut[] = {0, 1, 7, 8, 9, 100, good.length / 2, good.length - 4, good.length - 1};
    for (size_t i = 0; i < sizeof cut / sizeof *cut; i++) {
        struct state_file before = export_state(s);
        void *part = malloc(cut[i] + 1); /* exact size for the sanitizer */
        memcpy(part, good.bytes, cut[i]);
        assert_int_not_equal(stream_import(s, part, cut[i], NULL, NULL), ERR_OK);
        free(part);
        assert_untouched(s, before);
    }
    /* Any one byte of the header changed: refused, or harmless; the data must be finite. */
    uint8_t *bytes = good.bytes;
    size_t header = 8 + ((size_t)bytes[0] | (size_t)bytes[1] << 8 | (size_t)bytes[2] << 16);
    for (size_t i = 0; i < header && i < good.length; i += 3) {
        bytes[i] ^= 0x11;
        stream_import(s, bytes, good.length, NULL, NULL);
        bytes[i] ^= 0x11;
    }
    assert_int_equal(stream_import(s, bytes, good.length, NULL, NULL), ERR_OK);
    struct state_file before = export_state(s);
    memset(bytes + good.length - 4, 0xff, 4); /* NaN */
    assert_int_not_equal(stream_import(s, bytes, good.length, NULL, NULL), ERR_OK);
    assert_untouched(s, before);
    free(good.bytes);
    stream_close(s);
    trace_close(t);
}

static void only_streams_have_a_state_to_export(void **state)
{
    struct fixture *f = *state;
    struct trace *t = trace_open(f->model, WIDTH, HEIGHT, 1);
    const enum stream_mode mode[] = {MODE_CLIP, MODE_FRAME};
    for (int i = 0; i < 2; i++) {
        struct stream *s = open_stream(f->engine, mode[i]);
        struct state_file out;
        feed_one_by_one(f->engine, s, 6, t, 0, 1);
        assert_int_not_equal(stream_export(s, &out.bytes, &out.length), ERR_OK);
        stream_close(s);
    }
    trace_close(t);
}

static void the_state_has_the_size_that_the_geometry_says(void **state)
{
    struct fixture *f = *state;
    struct geometry g;
    struct trace *t = trace_open(f->model, WIDTH, HEIGHT, 1);
    struct stream *s = open_stream(f->engine, MODE_STREAM);
    assert_int_equal(engine_geometry(&f->model->arch, WIDTH, HEIGHT, NULL, &g), ERR_OK);
    feed_one_by_one(f->engine, s, 7, t, 0, 1);
    assert_int_equal(stream_state_bytes(s), g.state_bytes);
    struct state_file out = export_state(s);
    assert_true(out.length >= g.state_bytes);
    free(out.bytes);
    stream_close(s);
    trace_close(t);
}

/* Three runs, the second of a frame that no network input can be made of. */
static void a_failed_step_leaves_every_stream_as_it_was(void **state)
{
    struct fixture *f = *state;
    struct trace *single[2], *out[2];
    struct stream *s[2];
    for (int i = 0; i < 2; i++) {
        single[i] = alone(f, MODE_STREAM, 8 + i, WIDTH, HEIGHT, 6);
        out[i] = trace_open(f->model, WIDTH, HEIGHT, 6);
        s[i] = open_stream(f->engine, MODE_STREAM);
        feed_one_by_one(f->engine, s[i], 8 + i, out[i], 0, 2);
    }
    struct state_file before[2] = {export_state(s[0]), export_state(s[1])};
    struct trace small = {.width = 16, .height = 16, .frames = 6, .pixels = 256, .floats = 0};
    struct stream *third = open_stream(f->engine, MODE_STREAM);
    uint8_t nowhere[6 * 256];
    small.labels = nowhere;
    struct feed feeds[3] = {{s[0], 8, 2, 2, out[0], false},
                            {third, 1, 0, 2, &small, false},
                            {s[1], 9, 2, 1, out[1], false}};
    assert_int_equal(try_step(f->engine, feeds, 3), ERR_ARG);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(stream_frames(s[i]), 2);
        assert_untouched(s[i], before[i]);
        feed_one_by_one(f->engine, s[i], 8 + i, out[i], 2, 4);
        assert_same(out[i], single[i], 0, 6);
    }
    assert_int_equal(stream_frames(third), 0);
    stream_close(third);
    for (int i = 0; i < 2; i++) {
        stream_close(s[i]);
        trace_close(single[i]);
        trace_close(out[i]);
    }
}

static void another_size_inside_a_stream_starts_anew(void **state)
{
    struct fixture *f = *state;
    struct trace *first = alone(f, MODE_STREAM, 10, WIDTH, HEIGHT, 4);
    struct trace *second = alone(f, MODE_STREAM, 11, SQUARE, SQUARE, 3);
    struct trace *wide = trace_open(f->model, WIDTH, HEIGHT, 4);
    struct trace *square = trace_open(f->model, SQUARE, SQUARE, 3);
    struct stream *s = open_stream(f->engine, MODE_STREAM);
    feed_one_by_one(f->engine, s, 10, wide, 0, 2);
    feed_one_by_one(f->engine, s, 11, square, 0, 3);
    assert_int_equal(stream_frames(s), 3);
    feed_one_by_one(f->engine, s, 10, wide, 0, 4); /* nothing is left of the earlier two */
    assert_same(square, second, 0, 3);
    assert_same(wide, first, 0, 4);
    stream_close(s);
    trace_close(first);
    trace_close(second);
    trace_close(wide);
    trace_close(square);
}

static void a_stream_twice_in_a_batch_is_refused(void **state)
{
    struct fixture *f = *state;
    struct trace *out = trace_open(f->model, WIDTH, HEIGHT, 4);
    struct stream *s = open_stream(f->engine, MODE_STREAM);
    const struct feed feeds[2] = {{s, 11, 0, 1, out, false}, {s, 11, 1, 1, out, false}};
    assert_int_equal(try_step(f->engine, feeds, 2), ERR_ARG);
    assert_int_equal(stream_frames(s), 0);
    stream_close(s);
    trace_close(out);
}

/* Out and in again before each frame, in any mode, beside one that stays. */
static void a_spilled_state_comes_back_as_it_was(void **state)
{
    struct fixture *f = *state;
    static const enum stream_mode modes[] = {MODE_STREAM, MODE_CLIP, MODE_FRAME};
    for (int m = 0; m < 3; m++) {
        struct trace *want = alone(f, modes[m], 3, WIDTH, HEIGHT, LONG);
        struct trace *out = trace_open(f->model, WIDTH, HEIGHT, LONG);
        struct stream *s = open_stream(f->engine, modes[m]);
        for (int t = 0; t < LONG; t++) {
            size_t held = stream_state_bytes(s);
            assert_int_equal(stream_spill(s), ERR_OK);
            assert_int_equal(stream_state_bytes(s), 0);
            assert_int_equal(stream_spilled_bytes(s), held);
            if (t % 2) { /* else the step does it */
                assert_int_equal(stream_fetch(s), ERR_OK);
                assert_int_equal(stream_state_bytes(s), held);
            }
            feed_one_by_one(f->engine, s, 3, out, t, 1);
            assert_int_equal(stream_spilled_bytes(s), 0);
        }
        assert_same(out, want, 0, LONG);
        stream_spill(s);
        stream_reset(s);
        assert_int_equal(stream_spilled_bytes(s), 0);
        feed_one_by_one(f->engine, s, 3, out, 0, 1);
        assert_same(out, want, 0, 1);
        stream_spill(s);
        stream_close(s);
        trace_close(out);
        trace_close(want);
    }
}

static const struct backend_ops *real_ops;
static int allocated;

static enum err count_alloc(struct backend *be, size_t bytes, void **out)
{
    allocated++;
    return real_ops->alloc(be, bytes, out);
}

/* Streams that take turns on the device, once all is warm. */
static void a_state_that_comes_back_takes_the_memory_that_another_left(void **state)
{
    struct fixture *f = *state;
    static const enum stream_mode modes[] = {MODE_STREAM, MODE_CLIP};
    struct trace *out = trace_open(f->model, WIDTH, HEIGHT, 16);
    for (int m = 0; m < 2; m++) {
        struct engine *e = open_engine(f->model);
        struct stream *s[2] = {open_stream(e, modes[m]), open_stream(e, modes[m])};
        struct backend_ops ops = *(real_ops = e->be->ops);
        ops.alloc = count_alloc;
        e->be->ops = &ops;
        for (int t = 0; t < 16; t++) {
            allocated = t < 12 ? 0 : allocated;
            for (int i = 0; i < 2; i++) {
                feed_one_by_one(e, s[i], i, out, t, 1);
                assert_int_equal(stream_spill(s[i]), ERR_OK);
            }
        }
        assert_int_equal(allocated, 0);
        stream_close(s[0]);
        stream_close(s[1]);
        e->be->ops = real_ops;
        engine_close(e);
    }
    trace_close(out);
}

static void a_spilled_state_is_exported_and_replaced(void **state)
{
    struct fixture *f = *state;
    struct trace *out = trace_open(f->model, WIDTH, HEIGHT, 4);
    struct stream *s = open_stream(f->engine, MODE_STREAM);
    feed_one_by_one(f->engine, s, 3, out, 0, 3);
    struct state_file before = export_state(s);
    stream_spill(s);
    struct state_file spilled = export_state(s);
    assert_true(same_state(before, spilled));
    assert_int_equal(stream_import(s, before.bytes, before.length, NULL, NULL), ERR_OK);
    assert_int_equal(stream_spilled_bytes(s), 0);
    assert_untouched(s, before);
    free(spilled.bytes);
    stream_close(s);
    trace_close(out);
}

static void what_a_stream_will_hold_is_known_before(void **state)
{
    struct fixture *f = *state;
    static const enum stream_mode modes[] = {MODE_STREAM, MODE_CLIP, MODE_FRAME};
    static const int size[][2] = {{WIDTH, HEIGHT}, {SQUARE, HEIGHT}};
    for (int m = 0; m < 3; m++) {
        struct stream *s = open_stream(f->engine, modes[m]);
        for (int i = 0; i < 2 * LONG + 2; i++) {
            const int *now = size[i / (LONG + 1)];
            struct geometry g;
            struct trace *out = trace_open(f->model, now[0], now[1], LONG + 1);
            assert_int_equal(engine_geometry(&f->model->arch, now[0], now[1], NULL, &g), ERR_OK);
            size_t after = stream_state_bytes_after(s, &g, 1);
            feed_one_by_one(f->engine, s, 3, out, i % (LONG + 1), 1);
            assert_int_equal(stream_state_bytes(s), after);
            trace_close(out);
        }
        stream_close(s);
    }
}

static int group(const char *name)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_exported_state_goes_on_in_another_engine),
        cmocka_unit_test(importing_replaces_a_state),
        cmocka_unit_test(the_state_of_another_model_is_refused),
        cmocka_unit_test(the_state_of_another_geometry_is_refused),
        cmocka_unit_test(importing_another_frame_size_moves_the_stream_there),
        cmocka_unit_test(a_damaged_state_is_refused),
        cmocka_unit_test(only_streams_have_a_state_to_export),
        cmocka_unit_test(the_state_has_the_size_that_the_geometry_says),
        cmocka_unit_test(a_failed_step_leaves_every_stream_as_it_was),
        cmocka_unit_test(another_size_inside_a_stream_starts_anew),
        cmocka_unit_test(a_stream_twice_in_a_batch_is_refused),
        cmocka_unit_test(a_spilled_state_comes_back_as_it_was),
        cmocka_unit_test(a_state_that_comes_back_takes_the_memory_that_another_left),
        cmocka_unit_test(a_spilled_state_is_exported_and_replaced),
        cmocka_unit_test(what_a_stream_will_hold_is_known_before),
    };
    return cmocka_run_group_tests_name(name, tests, fixture_open, fixture_close);
}

int main(void)
{
    static const struct variant variants[] = {
        {"mit f32", ENCODER_MIT, HEAD_TV3S, OUTPUT_DIRECT, DT_F32},
        {"swin bf16", ENCODER_SWIN, HEAD_TV3S, OUTPUT_DIRECT, DT_BF16},
    };
    return run_variants(variants, SMALL ? 1 : sizeof variants / sizeof *variants, group);
}
