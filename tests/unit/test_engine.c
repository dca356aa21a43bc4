/* What holds of streams and batches whatever the weights are, bit for bit: how frames are grouped
 * into steps and runs never shows in the outputs. */
#include "tests/unit/tiny_stream.h"

const struct variant *variant;

/* c1 24x16, grid 15x10: 3x2 windows, odd layers 4x3. test_cuda_streams.c runs some of this on the
 * stand-in for CUDA, which is slow. */
enum { SMALL = TINY_DEVICE == DEVICE_CUDA, WIDTH = SMALL ? 48 : 96, HEIGHT = SMALL ? 32 : 64 };

static void one_long_run_equals_frame_by_frame(void **state)
{
    struct fixture *f = *state;
    struct trace *single = alone(f, MODE_STREAM, 1, WIDTH, HEIGHT, 12);
    struct trace *run = trace_open(f->model, WIDTH, HEIGHT, 12);
    struct stream *s = open_stream(f->engine, MODE_STREAM);
    step(f->engine, &(struct feed){s, 1, 0, 12, run, false}, 1);
    assert_same(run, single, 0, 12);
    assert_int_equal(stream_frames(s), 12);
    stream_close(s);
    trace_close(single);
    trace_close(run);
}

static void runs_of_uneven_length_equal_frame_by_frame(void **state)
{
    struct fixture *f = *state;
    struct trace *single = alone(f, MODE_STREAM, 2, WIDTH, HEIGHT, 10);
    struct trace *run = trace_open(f->model, WIDTH, HEIGHT, 10);
    struct stream *s = open_stream(f->engine, MODE_STREAM);
    const int count[] = {3, 1, 4, 2};
    for (int i = 0, first = 0; i < 4; first += count[i++])
        step(f->engine, &(struct feed){s, 2, first, count[i], run, false}, 1);
    assert_same(run, single, 0, 10);
    stream_close(s);
    trace_close(single);
    trace_close(run);
}

static void the_state_matters(void **state)
{
    struct fixture *f = *state;
    struct trace *frames = alone(f, MODE_FRAME, 3, WIDTH, HEIGHT, 3);
    struct trace *stream = alone(f, MODE_STREAM, 3, WIDTH, HEIGHT, 3);
    assert_true(same_frame(frames, 0, stream, 0));
    assert_int_equal(same_frame(frames, 2, stream, 2), variant->head == HEAD_SEGFORMER);
    trace_close(frames);
    trace_close(stream);
}

static void interleaved_streams_do_not_meet(void **state)
{
    struct fixture *f = *state;
    struct trace *single[3], *mixed[3];
    struct stream *s[3];
    for (int i = 0; i < 3; i++) {
        single[i] = alone(f, MODE_STREAM, 10 + i, WIDTH, HEIGHT, 6);
        mixed[i] = trace_open(f->model, WIDTH, HEIGHT, 6);
        s[i] = open_stream(f->engine, MODE_STREAM);
    }
    for (int t = 0; t < 6; t++)
        for (int i = 0; i < 3; i++)
            feed_one_by_one(f->engine, s[(i + t) % 3], 10 + (i + t) % 3, mixed[(i + t) % 3], t, 1);
    for (int i = 0; i < 3; i++) {
        assert_same(mixed[i], single[i], 0, 6);
        stream_close(s[i]);
        trace_close(single[i]);
        trace_close(mixed[i]);
    }
}

/* Four streams, three sizes (one odd, one of a single window), runs of 1 to 3 frames per step. */
static void a_batch_of_streams_equals_each_alone(void **state)
{
    struct fixture *f = *state;
    enum { FRAMES = SMALL ? 4 : 9 };
    const int width[] = {WIDTH, 33, WIDTH, SMALL ? 67 : 131};
    const int height[] = {HEIGHT, 47, HEIGHT, SMALL ? 45 : 70};
    struct trace *single[4], *batch[4];
    struct stream *s[4];
    for (int i = 0; i < 4; i++) {
        single[i] = alone(f, MODE_STREAM, 20 + i, width[i], height[i], FRAMES);
        batch[i] = trace_open(f->model, width[i], height[i], FRAMES);
        s[i] = open_stream(f->engine, MODE_STREAM);
    }
    for (int done[4] = {0}, round = 0; round < FRAMES; round++) {
        struct feed feeds[4];
        int count = 0;
        for (int i = 0; i < 4; i++) {
            int n = 1 + (round + i) % 3;
            n = n < FRAMES - done[i] ? n : FRAMES - done[i];
            if (n)
                feeds[count++] = (struct feed){s[i], 20 + i, done[i], n, batch[i], false};
            done[i] += n;
        }
        if (count)
            step(f->engine, feeds, count);
    }
    for (int i = 0; i < 4; i++) {
        assert_same(batch[i], single[i], 0, FRAMES);
        stream_close(s[i]);
        trace_close(single[i]);
        trace_close(batch[i]);
    }
}

static void frames_without_outputs_still_advance(void **state)
{
    struct fixture *f = *state;
    struct trace *single = alone(f, MODE_STREAM, 4, WIDTH, HEIGHT, 6);
    struct trace *quiet = trace_open(f->model, WIDTH, HEIGHT, 6);
    struct stream *s = open_stream(f->engine, MODE_STREAM);
    step(f->engine, &(struct feed){s, 4, 0, 3, quiet, true}, 1);
    step(f->engine, &(struct feed){s, 4, 3, 3, quiet, true}, 1);
    assert_same(quiet, single, 2, 1);
    assert_same(quiet, single, 5, 1);
    assert_int_equal(stream_frames(s), 6);
    stream_close(s);
    trace_close(single);
    trace_close(quiet);
}

static void rows_of_an_image_may_be_padded(void **state)
{
    struct fixture *f = *state;
    enum { STRIDE = 3 * WIDTH + 5 };
    struct trace *single = alone(f, MODE_STREAM, 5, WIDTH, HEIGHT, 1);
    struct trace *padded = trace_open(f->model, WIDTH, HEIGHT, 1);
    struct stream *s = open_stream(f->engine, MODE_STREAM);
    uint8_t *tight = malloc(3 * WIDTH * HEIGHT), *wide = malloc(STRIDE * HEIGHT);
    tiny_frame(tight, WIDTH, HEIGHT, 5, 0);
    for (int y = 0; y < HEIGHT; y++)
        memcpy(wide + y * STRIDE, tight + y * 3 * WIDTH, 3 * WIDTH);
    const struct image image = {.pixels = wide, .width = WIDTH, .height = HEIGHT, .stride = STRIDE};
    assert_int_equal(
        engine_step(f->engine, &(struct engine_run){s, 1, &image, &padded->labels, &padded->logits},
                    1),
        ERR_OK);
    assert_same(padded, single, 0, 1);
    stream_close(s);
    free(tight);
    free(wide);
    trace_close(single);
    trace_close(padded);
}

static void reset_starts_anew(void **state)
{
    struct fixture *f = *state;
    struct trace *first = trace_open(f->model, WIDTH, HEIGHT, 4);
    struct trace *again = trace_open(f->model, WIDTH, HEIGHT, 4);
    struct trace *other = alone(f, MODE_STREAM, 7, 64, 48, 3);
    struct trace *smaller = trace_open(f->model, 64, 48, 3);
    struct stream *s = open_stream(f->engine, MODE_STREAM);
    feed_one_by_one(f->engine, s, 6, first, 0, 4);
    stream_reset(s);
    assert_int_equal(stream_frames(s), 0);
    feed_one_by_one(f->engine, s, 6, again, 0, 4);
    assert_same(again, first, 0, 4);
    stream_reset(s);
    feed_one_by_one(f->engine, s, 7, smaller, 0, 3); /* another size */
    assert_same(smaller, other, 0, 3);
    stream_close(s);
    trace_close(first);
    trace_close(again);
    trace_close(other);
    trace_close(smaller);
}

static void frame_mode_has_no_memory(void **state)
{
    struct fixture *f = *state;
    struct trace *run = trace_open(f->model, WIDTH, HEIGHT, 5);
    struct stream *s = open_stream(f->engine, MODE_FRAME);
    step(f->engine, &(struct feed){s, 8, 0, 5, run, false}, 1);
    for (int t = 0; t < 5; t++) {
        struct trace *one = trace_open(f->model, WIDTH, HEIGHT, 5);
        struct stream *fresh = open_stream(f->engine, MODE_STREAM);
        feed_one_by_one(f->engine, fresh, 8, one, t, 1);
        assert_same(run, one, t, 1);
        stream_close(fresh);
        trace_close(one);
    }
    stream_close(s);
    trace_close(run);
}

/* The last of frames t-9, t-6, t-3, t (before the first: the first) through a fresh stream. */
static void clip_mode_scans_the_clip_from_zero(void **state)
{
    struct fixture *f = *state;
    enum { FRAMES = 14 };
    struct trace *clip = alone(f, MODE_CLIP, 9, WIDTH, HEIGHT, FRAMES);
    for (int t = 0; t < FRAMES; t++) {
        struct trace *explicit_scan = trace_open(f->model, WIDTH, HEIGHT, FRAMES);
        struct stream *fresh = open_stream(f->engine, MODE_STREAM);
        for (int back = 9; back >= 0; back -= 3)
            feed_one_by_one(f->engine, fresh, 9, explicit_scan, t > back ? t - back : 0, 1);
        assert_same(clip, explicit_scan, t, 1);
        stream_close(fresh);
        trace_close(explicit_scan);
    }
    trace_close(clip);
}

static void clip_mode_in_runs_equals_frame_by_frame(void **state)
{
    struct fixture *f = *state;
    struct trace *single = alone(f, MODE_CLIP, 11, WIDTH, HEIGHT, 24);
    struct trace *runs = trace_open(f->model, WIDTH, HEIGHT, 24);
    struct trace *other = alone(f, MODE_STREAM, 12, 64, 48, 24);
    struct trace *beside = trace_open(f->model, 64, 48, 24);
    struct stream *s[2] = {open_stream(f->engine, MODE_CLIP), open_stream(f->engine, MODE_STREAM)};
    const int count[] = {2, 13, 1, 5, 3};
    for (int i = 0, first = 0; i < 5; first += count[i++]) {
        const struct feed feeds[2] = {{s[0], 11, first, count[i], runs, false},
                                      {s[1], 12, first, count[i], beside, false}};
        step(f->engine, feeds, 2);
    }
    assert_same(runs, single, 0, 24);
    assert_same(beside, other, 0, 24);
    for (int i = 0; i < 2; i++)
        stream_close(s[i]);
    trace_close(single);
    trace_close(runs);
    trace_close(other);
    trace_close(beside);
}

static void clip_offsets_are_free(void **state)
{
    struct fixture *f = *state;
    const struct stream_config c = {.mode = MODE_CLIP, .clip_frames = 3, .clip_offsets = {4, 1, 0}};
    struct trace *clip = trace_open(f->model, WIDTH, HEIGHT, 7);
    struct trace *explicit_scan = trace_open(f->model, WIDTH, HEIGHT, 7);
    struct stream *s, *fresh = open_stream(f->engine, MODE_STREAM);
    assert_int_equal(stream_open(f->engine, &c, &s), ERR_OK);
    feed_one_by_one(f->engine, s, 13, clip, 0, 7);
    const int frame[] = {2, 5, 6};
    for (int i = 0; i < 3; i++)
        feed_one_by_one(f->engine, fresh, 13, explicit_scan, frame[i], 1);
    assert_same(clip, explicit_scan, 6, 1);
    stream_close(s);
    stream_close(fresh);
    trace_close(clip);
    trace_close(explicit_scan);
}

static int group(const char *name)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_long_run_equals_frame_by_frame),
        cmocka_unit_test(runs_of_uneven_length_equal_frame_by_frame),
        cmocka_unit_test(the_state_matters),
        cmocka_unit_test(interleaved_streams_do_not_meet),
        cmocka_unit_test(a_batch_of_streams_equals_each_alone),
        cmocka_unit_test(frames_without_outputs_still_advance),
        cmocka_unit_test(rows_of_an_image_may_be_padded),
        cmocka_unit_test(reset_starts_anew),
        cmocka_unit_test(frame_mode_has_no_memory),
        cmocka_unit_test(clip_mode_scans_the_clip_from_zero),
        cmocka_unit_test(clip_mode_in_runs_equals_frame_by_frame),
        cmocka_unit_test(clip_offsets_are_free),
    };
    const struct CMUnitTest some[] = {
        cmocka_unit_test(runs_of_uneven_length_equal_frame_by_frame),
        cmocka_unit_test(the_state_matters),
        cmocka_unit_test(a_batch_of_streams_equals_each_alone),
        cmocka_unit_test(rows_of_an_image_may_be_padded),
    };
    return SMALL ? cmocka_run_group_tests_name(name, some, fixture_open, fixture_close)
                 : cmocka_run_group_tests_name(name, tests, fixture_open, fixture_close);
}

int main(void)
{
    static const struct variant variants[] = {
        {"mit f32", ENCODER_MIT, HEAD_TV3S, OUTPUT_DIRECT, DT_F32},
        {"mit concat bf16", ENCODER_MIT, HEAD_TV3S, OUTPUT_CONCAT, DT_BF16},
        {"swin add f32", ENCODER_SWIN, HEAD_TV3S, OUTPUT_ADD, DT_F32},
        {"segformer f32", ENCODER_MIT, HEAD_SEGFORMER, OUTPUT_DIRECT, DT_F32},
    };
    return run_variants(variants, SMALL ? 1 : sizeof variants / sizeof *variants, group);
}
