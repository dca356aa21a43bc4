/* Frames that the engine takes from a device's memory, where a decoder left them: labels and logits
 * are those of the same pictures on the host, whatever device they are on. On the stand-in with two
 * devices, so what the host or a kernel reads there itself ends the process. */
#define TINY_DEVICE DEVICE_CUDA
#include "tests/unit/device_pictures.h"
#include "tests/unit/tiny_stream.h"

#include "engine/internal.h"
#include "kernels/cuda/cuda.h"

#include <unistd.h>

static const struct variant tiny = {"MiT, f32", ENCODER_MIT, HEAD_TV3S, OUTPUT_DIRECT, DT_F32};
const struct variant *variant = &tiny;

enum { FRAMES = 6, STREAMS = 3, DEVICES = 2 };

/* Where a frame is. */
enum place { ON_HOST, ON_DEVICE, SHARED, ELSEWHERE, SHARED_ELSEWHERE, PLACES };

static const struct pixel_format nv12_format = {PIXELS_NV12, YUV_BT709, false};

/* The pictures of a batch, and what holds them until it was waited for. */
struct batch {
    struct engine_run run[STREAMS];
    struct image image[STREAMS];
    uint8_t *labels[STREAMS], host[STREAMS][NV12];
    float *logits[STREAMS];
    struct device_memory *memory[STREAMS];
};

static struct image place(struct batch *b, int i, enum place where, const uint8_t *nv12)
{
    int device = where >= ELSEWHERE, fd = -1;
    struct image image = image_of(nv12, WIDTH, HEIGHT, nv12_format);
    if (where == ON_HOST)
        return image;
    b->memory[i] =
        memory(device, NV12 + 512, where == SHARED || where == SHARED_ELSEWHERE ? &fd : NULL);
    put(b->memory[i], device, 512, nv12);
    if (fd >= 0)
        close(fd);
    image.pixels = device_memory_at(b->memory[i]) + 512;
    image.on_device = true;
    return image;
}

/* Frame t of all clips, clip i at where[i]; logits where out has room for them. */
static void fill(struct batch *b, struct stream *const *streams, const enum place *where, int t,
                 struct trace *const *out, bool logits)
{
    memset(b, 0, sizeof *b);
    for (int i = 0; i < STREAMS; i++) {
        picture(b->host[i], i, t);
        b->image[i] = place(b, i, where[i], b->host[i]);
        b->labels[i] = out[i]->labels + (size_t)t * out[i]->pixels;
        b->logits[i] = logits ? out[i]->logits + (size_t)t * out[i]->floats : NULL;
        b->run[i] = (struct engine_run){streams[i], 1, &b->image[i], &b->labels[i], &b->logits[i]};
    }
}

/* What still reads the pictures finds nothing there. */
static void let_go(struct batch *b)
{
    for (int i = 0; i < STREAMS; i++)
        device_memory_close(b->memory[i]);
}

struct clips {
    struct stream *stream[STREAMS];
    struct trace *want[STREAMS], *got[STREAMS];
};

/* want: from the host, launch by launch, each stream alone. */
static struct clips clips_open(const struct fixture *f)
{
    struct clips c;
    struct engine *e = open_engine(f->model);
    cuda_of(e->be)->no_graphs = true;
    for (int i = 0; i < STREAMS; i++) {
        struct stream *s = open_stream(e, MODE_STREAM);
        c.stream[i] = open_stream(f->engine, MODE_STREAM);
        c.want[i] = trace_open(f->model, WIDTH, HEIGHT, FRAMES);
        c.got[i] = trace_open(f->model, WIDTH, HEIGHT, FRAMES);
        for (int t = 0; t < FRAMES; t++) {
            uint8_t nv12[NV12], *labels = c.want[i]->labels + (size_t)t * c.want[i]->pixels;
            float *logits = c.want[i]->logits + (size_t)t * c.want[i]->floats;
            picture(nv12, i, t);
            const struct image image = image_of(nv12, WIDTH, HEIGHT, nv12_format);
            said(engine_step(e, &(struct engine_run){s, 1, &image, &labels, &logits}, 1), ERR_OK);
        }
        stream_close(s);
    }
    engine_close(e);
    return c;
}

static void clips_close(struct clips *c)
{
    for (int i = 0; i < STREAMS; i++) {
        stream_close(c->stream[i]);
        trace_close(c->want[i]);
        trace_close(c->got[i]);
    }
}

static void assert_labels(const struct clips *c, int frames)
{
    for (int i = 0; i < STREAMS; i++)
        assert_memory_equal(c->got[i]->labels, c->want[i]->labels,
                            (size_t)frames * c->got[i]->pixels);
}

/* Every mixture of places in turn, one batch after the other. */
static void logits_are_those_of_frames_on_the_host(void **state)
{
    struct fixture *f = *state;
    struct clips c = clips_open(f);
    struct batch b;
    for (int t = 0; t < FRAMES; t++) {
        const enum place where[STREAMS] = {t % PLACES, (t + 1) % PLACES, (t + 3) % PLACES};
        fill(&b, c.stream, where, t, c.got, true);
        said(engine_step(f->engine, b.run, STREAMS), ERR_OK);
        let_go(&b);
    }
    for (int i = 0; i < STREAMS; i++)
        assert_same(c.got[i], c.want[i], 0, FRAMES);
    clips_close(&c);
}

static void two_batches_of_them_are_under_way_at_once(void **state)
{
    struct fixture *f = *state;
    struct clips c = clips_open(f);
    struct batch b[2];
    for (int t = 0; t < FRAMES; t++) {
        const enum place where[STREAMS] = {(t + 1) % PLACES, (t + 2) % PLACES, SHARED};
        fill(&b[t % 2], c.stream, where, t, c.got, false);
        said(engine_submit(f->engine, b[t % 2].run, STREAMS), ERR_OK);
        memset(b[t % 2].host, 0x55, sizeof b[0].host); /* the host's are the caller's again */
        if (t > 0) {
            said(engine_wait(f->engine), ERR_OK);
            let_go(&b[(t - 1) % 2]);
            assert_labels(&c, t);
        }
    }
    said(engine_wait(f->engine), ERR_OK);
    let_go(&b[(FRAMES - 1) % 2]);
    assert_labels(&c, FRAMES);
    clips_close(&c);
}

/* The pinned memory, each picture, the graph, the labels. */
static void a_batch_of_them_seen_before_is_one_launch(void **state)
{
    struct fixture *f = *state;
    struct clips c = clips_open(f);
    struct batch b;
    for (int t = 0; t < FRAMES; t++) {
        const enum place where[STREAMS] = {ON_DEVICE, t == 3 ? ON_HOST : SHARED, SHARED_ELSEWHERE};
        fill(&b, c.stream, where, t, c.got, false);
        size_t enqueued = cuda_host_enqueued, waits = cuda_host_waits;
        size_t allocations = cuda_host_allocations;
        said(engine_step(f->engine, b.run, STREAMS), ERR_OK);
        if (t == 3) /* another batch: launch by launch */
            assert_true(cuda_host_enqueued - enqueued > 1 + STREAMS + 2);
        else if (t > 0)
            assert_int_equal(cuda_host_enqueued - enqueued, 1 + STREAMS + 2);
        if (t > 0) {
            assert_int_equal(cuda_host_waits - waits, 1);
            assert_int_equal(cuda_host_allocations, allocations);
        }
        let_go(&b);
    }
    assert_labels(&c, FRAMES);
    clips_close(&c);
}

static void rgb24_may_be_on_the_device_too(void **state)
{
    const struct fixture *f = *state;
    struct trace *want = alone(f, MODE_STREAM, 8, WIDTH, HEIGHT, 1);
    struct trace *got = trace_open(f->model, WIDTH, HEIGHT, 1);
    struct stream *s = open_stream(f->engine, MODE_STREAM);
    uint8_t rgb[WIDTH * HEIGHT * 3];
    void *there;
    tiny_frame(rgb, WIDTH, HEIGHT, 8, 0);
    assert_int_equal(cudaSetDevice(1), cudaSuccess);
    assert_int_equal(cudaMalloc(&there, sizeof rgb), cudaSuccess);
    assert_int_equal(cudaMemcpy(there, rgb, sizeof rgb, cudaMemcpyHostToDevice), cudaSuccess);
    assert_int_equal(cudaDeviceSynchronize(), cudaSuccess);
    struct image image = image_of_rgb24(there, WIDTH, HEIGHT);
    image.on_device = true;
    said(engine_step(f->engine, &(struct engine_run){s, 1, &image, &got->labels, &got->logits}, 1),
         ERR_OK);
    assert_same(got, want, 0, 1);
    cudaFree(there);
    stream_close(s);
    trace_close(got);
    trace_close(want);
}

static void what_is_not_on_a_device_is_refused(void **state)
{
    const struct fixture *f = *state;
    const struct engine_config config = {.device = DEVICE_CPU, .dtype = DT_F32, .threads = 1};
    static const uint8_t pixels[NV12];
    struct engine *cpu;
    struct stream *s = open_stream(f->engine, MODE_STREAM);
    struct image image = image_of(pixels, WIDTH, HEIGHT, nv12_format);
    void *pinned;
    image.on_device = true;
    const struct engine_run run = {s, 1, &image, NULL, NULL};
    said(engine_step(f->engine, &run, 1), ERR_ARG);
    assert_int_equal(cudaHostAlloc(&pinned, NV12, cudaHostAllocDefault), cudaSuccess);
    image.pixels = pinned;
    said(engine_step(f->engine, &run, 1), ERR_ARG);
    cudaFreeHost(pinned);
    struct device_memory *m = memory(0, 2 * NV12, NULL);
    image.pixels = device_memory_at(m);
    image.stride = WIDTH + 1;
    said(engine_step(f->engine, &run, 1), ERR_ARG);
    assert_int_equal(stream_frames(s), 0);
    image.stride = WIDTH;
    said(engine_step(f->engine, &run, 1), ERR_OK);
    stream_close(s);

    assert_int_equal(engine_open(f->model, &config, &cpu), ERR_OK);
    s = open_stream(cpu, MODE_STREAM);
    image = image_of_rgb24(device_memory_at(m), 32, 32);
    image.on_device = true;
    said(engine_step(cpu, &(struct engine_run){s, 1, &image, NULL, NULL}, 1), ERR_UNSUPPORTED);
    stream_close(s);
    engine_close(cpu);
    device_memory_close(m);
}

/* What comes before the first launch: an address looked up and a copy for each picture there is on
 * a device, the copy of the rest, an event, the wait for it. */
static void a_call_that_fails_leaves_the_streams(void **state)
{
    const struct fixture *f = *state;
    struct clips c = clips_open(f);
    struct cuda_backend *backend = cuda_of(f->engine->be);
    const enum place where[STREAMS] = {SHARED, ELSEWHERE, ON_HOST};
    struct batch b;
    backend->no_graphs = true;
    for (int t = 0; t < 2; t++) {
        fill(&b, c.stream, where, t, c.got, false);
        for (size_t call = 1; t == 1 && call <= 2 + 2 + 3; call++) {
            cuda_host_fail_with = cudaErrorIllegalAddress;
            cuda_host_fail_at = cuda_host_calls + call;
            said(engine_step(f->engine, b.run, STREAMS), ERR_DEVICE);
            cuda_host_fail_at = 0;
            backend->failed = cudaSuccess;
            cuda_host_run_all();
            for (int i = 0; i < STREAMS; i++)
                assert_int_equal(stream_frames(c.stream[i]), 1);
        }
        said(engine_step(f->engine, b.run, STREAMS), ERR_OK);
        let_go(&b);
    }
    backend->no_graphs = false;
    assert_labels(&c, 2);
    clips_close(&c);
}

static void memory_that_is_not_there_costs_the_batch(void **state)
{
    const struct fixture *f = *state;
    struct engine *e = open_engine(f->model);
    struct clips c = clips_open(&(struct fixture){.model = f->model, .engine = e});
    const enum place host[STREAMS] = {ON_HOST, ON_HOST, ON_HOST};
    const enum place device[STREAMS] = {ON_DEVICE, SHARED, ELSEWHERE};
    struct batch b;
    for (int t = 0; t < 2; t++) {
        fill(&b, c.stream, t ? device : host, t, c.got, false);
        cuda_host_memory_limit = t ? cuda_host_memory : SIZE_MAX;
        if (t == 1) {
            said(engine_step(e, b.run, STREAMS), ERR_NOMEM);
            assert_int_equal(stream_frames(c.stream[0]), 1);
            cuda_host_memory_limit = SIZE_MAX;
        }
        said(engine_step(e, b.run, STREAMS), ERR_OK);
        let_go(&b);
    }
    assert_labels(&c, 2);
    clips_close(&c);
    engine_close(e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(logits_are_those_of_frames_on_the_host),
        cmocka_unit_test(two_batches_of_them_are_under_way_at_once),
        cmocka_unit_test(a_batch_of_them_seen_before_is_one_launch),
        cmocka_unit_test(rgb24_may_be_on_the_device_too),
        cmocka_unit_test(what_is_not_on_a_device_is_refused),
        cmocka_unit_test(a_call_that_fails_leaves_the_streams),
        cmocka_unit_test(memory_that_is_not_there_costs_the_batch),
    };
    cuda_host_devices = DEVICES;
    return cmocka_run_group_tests(tests, fixture_open, fixture_close);
}
