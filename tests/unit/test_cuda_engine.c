/* The CUDA backend built for the host (tests/cuda_host) against the CPU backend: the same models,
 * frames and modes, and what only a device has: waits, allocations, memory that runs out, faults.
 */
#define TINY_DEVICE DEVICE_CUDA
#include "tests/unit/rounded_engine.h"
#include "tests/unit/tiny_stream.h"

#include <cublasLt.h>
#include <cuda_runtime_api.h>

const struct variant *variant;

enum { WIDTH = 64, HEIGHT = 48 }; /* c1 16x12, grid 10x10: four windows */

static const struct variant variants[] = {
    {"MiT, f32", ENCODER_MIT, HEAD_TV3S, OUTPUT_DIRECT, DT_F32},
    {"MiT, concat, f32", ENCODER_MIT, HEAD_TV3S, OUTPUT_CONCAT, DT_F32},
    {"Swin, add, f32", ENCODER_SWIN, HEAD_TV3S, OUTPUT_ADD, DT_F32},
    {"SegFormer, f32", ENCODER_MIT, HEAD_SEGFORMER, OUTPUT_DIRECT, DT_F32},
    {"MiT, bf16", ENCODER_MIT, HEAD_TV3S, OUTPUT_DIRECT, DT_BF16},
    {"Swin, bf16", ENCODER_SWIN, HEAD_TV3S, OUTPUT_DIRECT, DT_BF16},
    {"SegFormer, bf16", ENCODER_MIT, HEAD_SEGFORMER, OUTPUT_DIRECT, DT_BF16},
};

/* The same clip by the CPU backend in fp32, or with products of factors rounded to bfloat16. */
static struct trace *on_cpu(const struct fixture *f, bool rounded, enum stream_mode mode, int seed,
                            int width, int height, int frames)
{
    const struct engine_config c = {.device = DEVICE_CPU, .dtype = DT_F32, .threads = 2};
    struct fixture cpu = {.model = f->model};
    assert_int_equal(engine_open(f->model, &c, &cpu.engine), ERR_OK);
    if (rounded)
        assert_int_equal(rounded_engine(cpu.engine), ERR_OK);
    struct trace *t = alone(&cpu, mode, seed, width, height, frames);
    engine_close(cpu.engine);
    return t;
}

/* MODEL.md's bars for fp32: 1e-3 of the logits' deviation and 99.95 % of the labels. */
static void assert_close(const struct trace *t, const struct trace *want)
{
    size_t floats = (size_t)t->frames * t->floats, pixels = (size_t)t->frames * t->pixels;
    double mean = 0, square = 0, far = 0;
    size_t differ = 0;
    for (size_t i = 0; i < floats; i++) {
        double d = fabs((double)t->logits[i] - want->logits[i]);
        if (!(d <= far)) /* NaN too */
            far = d;
        mean += want->logits[i] / (double)floats;
        square += (double)want->logits[i] * want->logits[i] / (double)floats;
    }
    for (size_t i = 0; i < pixels; i++)
        differ += t->labels[i] != want->labels[i];
    double deviation = sqrt(square - mean * mean);
    if (!(far <= 1e-3 * deviation) || (double)differ > 5e-4 * (double)pixels)
        fail_msg("logits differ by %g of %g, labels by %zu of %zu", far, deviation, differ, pixels);
}

/* What is held against the CPU: every mode, and a size that nothing divides. */
static const struct compared {
    enum stream_mode mode;
    int width, height, frames;
} in_streams = {MODE_STREAM, WIDTH, HEIGHT, 2}, in_odd_sizes = {MODE_STREAM, 67, 45, 1},
  in_clips = {MODE_CLIP, WIDTH, HEIGHT, 2}, in_frames = {MODE_FRAME, WIDTH, HEIGHT, 1};

static void compare(const struct fixture *f, const struct compared *c)
{
    struct trace *cpu = on_cpu(f, false, c->mode, 5, c->width, c->height, c->frames);
    struct trace *cuda = alone(f, c->mode, 5, c->width, c->height, c->frames);
    assert_close(cuda, cpu);
    trace_close(cpu);
    trace_close(cuda);
}

static void streams_are_as_on_the_cpu(void **state)
{
    compare(*state, &in_streams);
}

static void odd_sizes_are_as_on_the_cpu(void **state)
{
    compare(*state, &in_odd_sizes);
}

static void clips_are_as_on_the_cpu(void **state)
{
    compare(*state, &in_clips);
}

static void single_frames_are_as_on_the_cpu(void **state)
{
    compare(*state, &in_frames);
}

static double square_error(const struct trace *t, const struct trace *want)
{
    double sum = 0;
    for (size_t i = 0; i < (size_t)t->frames * t->floats; i++)
        sum += pow((double)t->logits[i] - want->logits[i], 2);
    return sum;
}

/* No bound fits all models: tiny random ones round badly. So the error in bf16 is held against what
 * the roundings themselves cost the CPU's fp32, over all modes and three clips together: a
 * single one is a matter of luck. */
static void bf16_is_as_near_as_bf16_can_be(void **state)
{
    struct fixture *f = *state;
    const struct compared *all[] = {&in_streams, &in_odd_sizes, &in_clips, &in_frames};
    double error = 0, fair = 0;
    for (int i = 0; i < 12; i++) {
        const struct compared *c = all[i % 4];
        int seed = 5 + i / 4;
        struct trace *cpu = on_cpu(f, false, c->mode, seed, c->width, c->height, c->frames);
        struct trace *rounded = on_cpu(f, true, c->mode, seed, c->width, c->height, c->frames);
        struct trace *cuda = alone(f, c->mode, seed, c->width, c->height, c->frames);
        error += square_error(cuda, cpu);
        fair += square_error(rounded, cpu);
        trace_close(cpu);
        trace_close(rounded);
        trace_close(cuda);
    }
    print_message("%s: %g times the rounded engine's error\n", variant->name, sqrt(error / fair));
    assert_true(fair > 0);
    assert_true(sqrt(error) <= 1.2 * sqrt(fair));
}

/* Labels alone: asking for logits waits for them. */
static struct trace *labels_only(struct trace *t)
{
    free(t->logits);
    t->logits = NULL;
    return t;
}

static void label_step(struct engine *e, struct stream **streams, int count, int frame,
                       struct trace *out)
{
    uint8_t *rgb = malloc(out->pixels * 3 * (size_t)count), *labels[FEED_MAX];
    struct image image[FEED_MAX];
    struct engine_run runs[FEED_MAX];
    for (int i = 0; i < count; i++) {
        uint8_t *p = rgb + (size_t)i * out->pixels * 3;
        tiny_frame(p, out->width, out->height, i, frame);
        image[i] = image_of_rgb24(p, out->width, out->height);
        labels[i] = out->labels + (size_t)i * out->pixels;
        runs[i] = (struct engine_run){streams[i], 1, &image[i], &labels[i], NULL};
    }
    if (engine_step(e, runs, count) != ERR_OK)
        fail_msg("%s", err_text());
    free(rgb);
}

static void a_batch_waits_once_and_later_ones_allocate_nothing(void **state)
{
    struct fixture *f = *state;
    struct trace *t = labels_only(trace_open(f->model, WIDTH, HEIGHT, 4));
    struct stream *s[4];
    for (int i = 0; i < 4; i++)
        s[i] = open_stream(f->engine, MODE_STREAM);
    for (int i = 0; i < 3; i++)
        label_step(f->engine, s, 4, i, t);
    size_t waits = cuda_host_waits, allocations = cuda_host_allocations;
    for (int i = 3; i < 6; i++)
        label_step(f->engine, s, 4, i, t);
    assert_int_equal(cuda_host_waits - waits, 3);
    assert_int_equal(cuda_host_allocations, allocations);
    for (int i = 0; i < 4; i++)
        stream_close(s[i]);
    trace_close(t);
}

static void a_state_moves_between_cpu_and_gpu_bit_for_bit(void **state)
{
    struct fixture *f = *state;
    const struct engine_config c = {.device = DEVICE_CPU, .dtype = DT_F32, .threads = 2};
    struct engine *cpu = NULL;
    assert_int_equal(engine_open(f->model, &c, &cpu), ERR_OK);
    struct trace *t = trace_open(f->model, WIDTH, HEIGHT, 2);
    struct stream *on_cpu_stream = open_stream(cpu, MODE_STREAM);
    struct stream *on_gpu = open_stream(f->engine, MODE_STREAM);
    void *first = NULL, *second = NULL;
    size_t first_bytes = 0, second_bytes = 0;
    feed_one_by_one(cpu, on_cpu_stream, 1, t, 0, 2);
    if (f->model->arch.head == HEAD_TV3S) {
        assert_int_equal(stream_export(on_cpu_stream, &first, &first_bytes), ERR_OK);
        assert_int_equal(stream_import(on_gpu, first, first_bytes, NULL, NULL), ERR_OK);
        assert_int_equal(stream_export(on_gpu, &second, &second_bytes), ERR_OK);
        assert_int_equal(second_bytes, first_bytes);
        assert_memory_equal(first, second, first_bytes);
    } else {
        assert_int_equal(stream_export(on_gpu, &second, &second_bytes), ERR_UNSUPPORTED);
    }
    free(first);
    free(second);
    stream_close(on_cpu_stream);
    stream_close(on_gpu);
    trace_close(t);
    engine_close(cpu);
}

/* A model that does not fit says so, and leaves nothing behind. */
static void memory_that_runs_out_at_start_is_said(void **state)
{
    struct fixture *f = *state;
    const struct engine_config c = {.device = DEVICE_CUDA, .dtype = variant->dtype};
    struct engine *e = NULL;
    size_t used = cuda_host_memory;
    for (size_t room = 1000; room < 40u << 20; room *= 4) {
        cuda_host_memory_limit = used + room;
        if (engine_open(f->model, &c, &e) == ERR_OK) {
            engine_close(e);
        } else {
            assert_non_null(strstr(err_text(), "the GPU has no room"));
            assert_null(e);
        }
        assert_int_equal(cuda_host_memory, used);
    }
    cuda_host_memory_limit = SIZE_MAX;
}

static void memory_that_runs_out_in_a_step_leaves_the_streams(void **state)
{
    struct fixture *f = *state;
    struct engine *e = open_engine(f->model);
    struct stream *s = open_stream(e, MODE_STREAM);
    struct trace *want = alone(f, MODE_STREAM, 6, WIDTH, HEIGHT, 3);
    struct trace *got = trace_open(f->model, WIDTH, HEIGHT, 3);
    int failures = 0;
    for (int t = 0; t < 3; t++) {
        const struct feed feed = {s, 6, t, 1, got, false};
        for (size_t room = 0;; room += 200000) {
            cuda_host_memory_limit = cuda_host_memory + room;
            enum err r = try_step(e, &feed, 1);
            if (r == ERR_OK)
                break;
            assert_int_equal(r, ERR_NOMEM);
            assert_int_equal(stream_frames(s), t);
            failures++;
        }
    }
    cuda_host_memory_limit = SIZE_MAX;
    assert_true(failures > 0);
    assert_same(got, want, 0, 3);
    trace_close(want);
    trace_close(got);
    stream_close(s);
    engine_close(e);
}

static void after_a_fault_every_step_says_so(void **state)
{
    struct fixture *f = *state;
    struct engine *e = open_engine(f->model);
    struct stream *s = open_stream(e, MODE_STREAM);
    struct trace *t = trace_open(f->model, WIDTH, HEIGHT, 2);
    feed_one_by_one(e, s, 7, t, 0, 1);
    cuda_host_fault = cudaErrorIllegalAddress;
    assert_int_equal(try_step(e, &(struct feed){s, 7, 1, 1, t, false}, 1), ERR_DEVICE);
    cuda_host_fault = cudaSuccess;
    assert_int_equal(try_step(e, &(struct feed){s, 7, 1, 1, t, false}, 1), ERR_DEVICE);
    assert_non_null(strstr(err_text(), "the GPU failed"));
    assert_int_equal(stream_frames(s), 1);
    stream_close(s);
    trace_close(t);
    engine_close(e);
}

static void devices_that_are_not_there_are_refused(void **state)
{
    struct fixture *f = *state;
    struct engine_config c = {.device = DEVICE_CUDA, .device_index = 1, .dtype = DT_F32};
    struct engine *e = NULL;
    assert_int_equal(engine_open(f->model, &c, &e), ERR_UNSUPPORTED);
    assert_non_null(strstr(err_text(), "no device cuda:1"));
    c.device_index = 0;
    cuda_host_devices = 0;
    assert_int_equal(engine_open(f->model, &c, &e), ERR_UNSUPPORTED);
    assert_non_null(strstr(err_text(), "no CUDA device"));
    cuda_host_devices = 1;
    cuda_host_driver_version = 12040;
    assert_int_equal(engine_open(f->model, &c, &e), ERR_UNSUPPORTED);
    assert_non_null(strstr(err_text(), "the driver is of CUDA 12.4, and this was built with 13.0"));
    cuda_host_driver_version = 0;
    assert_int_equal(engine_open(f->model, &c, &e), ERR_UNSUPPORTED);
    assert_non_null(strstr(err_text(), "libcuda.so.1, is not there"));
    cuda_host_driver_version = 13000;
    cuda_host_memory_limit = cuda_host_memory;
    assert_int_equal(engine_open(f->model, &c, &e), ERR_NOMEM);
    assert_non_null(strstr(err_text(), "cuBLASLt does not start on cuda:0: the resource"));
    cuda_host_memory_limit = SIZE_MAX;
}

/* Where the algorithm chosen at open cannot do a number of rows, another does. */
static void products_of_any_number_of_rows_are_found(void **state)
{
    struct fixture *f = *state;
    cuda_host_lt_rows_more = 0;
    struct trace *t = alone(f, MODE_FRAME, 8, 384, 352, 1); /* 8448 stride-4 tokens */
    struct trace *cpu = on_cpu(f, false, MODE_FRAME, 8, 384, 352, 1);
    assert_close(t, cpu);
    trace_close(t);
    trace_close(cpu);
    cuda_host_lt_rows_more = SIZE_MAX;
}

/* TF32 rounds the factors of every product to 10 bits of mantissa: near fp32, and not the same. */
static void tf32_is_near_f32(void **state)
{
    struct fixture *f = *state;
    struct engine_config c = {.device = DEVICE_CUDA, .dtype = DT_F32, .tf32 = true};
    struct fixture tf32 = {.model = f->model};
    assert_int_equal(engine_open(f->model, &c, &tf32.engine), ERR_OK);
    assert_non_null(strstr(engine_description(tf32.engine), " tf32"));
    struct trace *want = alone(f, MODE_STREAM, 9, WIDTH, HEIGHT, 2);
    struct trace *got = alone(&tf32, MODE_STREAM, 9, WIDTH, HEIGHT, 2);
    double square = 0, error = 0, mean = 0, count = 2 * (double)want->floats;
    for (size_t i = 0; i < 2 * want->floats; i++) {
        mean += want->logits[i] / count;
        square += (double)want->logits[i] * want->logits[i] / count;
        error += pow((double)want->logits[i] - got->logits[i], 2) / count;
    }
    double relative = sqrt(error / (square - mean * mean));
    if (!(relative > 1e-5 && relative < 0.13 / 8)) /* bf16's bar, by three bits of mantissa */
        fail_msg("logits differ by %g of their deviation", relative);
    trace_close(want);
    trace_close(got);
    engine_close(tf32.engine);
    c.device = DEVICE_CPU;
    assert_int_equal(engine_open(f->model, &c, &tf32.engine), ERR_UNSUPPORTED);
    assert_non_null(strstr(err_text(), "tf32 is a GPU's"));
}

/* What depends on the model, and, with the first variant alone, what does not. */
static int group(const char *name)
{
    const struct CMUnitTest each[] = {
        cmocka_unit_test(streams_are_as_on_the_cpu),
        cmocka_unit_test(odd_sizes_are_as_on_the_cpu),
        cmocka_unit_test(clips_are_as_on_the_cpu),
        cmocka_unit_test(single_frames_are_as_on_the_cpu),
    };
    const struct CMUnitTest rounded[] = {cmocka_unit_test(bf16_is_as_near_as_bf16_can_be)};
    const struct CMUnitTest once[] = {
        cmocka_unit_test(a_batch_waits_once_and_later_ones_allocate_nothing),
        cmocka_unit_test(a_state_moves_between_cpu_and_gpu_bit_for_bit),
        cmocka_unit_test(memory_that_runs_out_at_start_is_said),
        cmocka_unit_test(memory_that_runs_out_in_a_step_leaves_the_streams),
        cmocka_unit_test(after_a_fault_every_step_says_so),
        cmocka_unit_test(devices_that_are_not_there_are_refused),
        cmocka_unit_test(tf32_is_near_f32),
        cmocka_unit_test(products_of_any_number_of_rows_are_found),
    };
    int failures = variant->dtype == DT_BF16
                       ? cmocka_run_group_tests_name(name, rounded, fixture_open, fixture_close)
                       : cmocka_run_group_tests_name(name, each, fixture_open, fixture_close);
    if (variant == variants)
        failures += cmocka_run_group_tests_name(name, once, fixture_open, fixture_close);
    return failures;
}

int main(void)
{
    return run_variants(variants, (int)(sizeof variants / sizeof *variants), group);
}
