/* Two engines on two devices of the stand-in, whose memories are apart: what one touches of the
 * other's ends the process. */
#define TINY_DEVICE DEVICE_CUDA
#include "tests/unit/tiny_stream.h"

#include "kernels/cuda/kernels.h"

#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cuda_runtime_api.h>

enum { WIDTH = 64, HEIGHT = 48, FRAMES = 6, DEVICES = 2 };

static const struct variant mit = {"MiT, f32", ENCODER_MIT, HEAD_TV3S, OUTPUT_DIRECT, DT_F32};
const struct variant *variant = &mit;

static struct engine *open_on(const struct model *m, int device)
{
    const struct engine_config c = {.device = DEVICE_CUDA, .device_index = device, .dtype = DT_F32};
    struct engine *e;
    assert_int_equal(engine_open(m, &c, &e), ERR_OK);
    return e;
}

/* ---- the stand-in itself --------------------------------------------------------------------- */

/* How a process ends that has device `device` convert this memory. */
static int status_of(int device, const float *in, float *out)
{
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        signal(SIGSEGV, SIG_DFL);
        cudaSetDevice(device);
        cuda_to_act(in, 64, out, false, NULL);
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    return status;
}

static void memory_is_its_devices_alone(void **state)
{
    (void)state;
    float *p[DEVICES];
    for (int d = 0; d < DEVICES; d++) {
        assert_int_equal(cudaSetDevice(d), cudaSuccess);
        assert_int_equal(cudaMalloc((void **)&p[d], 512), cudaSuccess);
    }
    for (int d = 0; d < DEVICES; d++) {
        assert_int_equal(status_of(d, p[d], p[d] + 64), 0);
        assert_int_equal(WTERMSIG(status_of(d, p[!d], p[d])), SIGSEGV);
        assert_int_equal(WTERMSIG(status_of(d, p[d], p[!d])), SIGSEGV);
    }
    for (int d = 0; d < DEVICES; d++)
        assert_int_equal(cudaFree(p[d]), cudaSuccess);
}

static void a_stream_of_another_device_is_refused(void **state)
{
    (void)state;
    cudaStream_t s;
    cudaEvent_t e;
    assert_int_equal(cudaSetDevice(0), cudaSuccess);
    assert_int_equal(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking), cudaSuccess);
    assert_int_equal(cudaSetDevice(1), cudaSuccess);
    assert_int_equal(cudaEventCreateWithFlags(&e, cudaEventDisableTiming), cudaSuccess);
    assert_int_equal(cudaEventRecord(e, s), cudaErrorInvalidResourceHandle);
    float x[64] = {0}, y[64];
    assert_int_equal(cuda_to_act(x, 64, y, false, s), cudaErrorInvalidResourceHandle);
    cudaEventDestroy(e);
    cudaStreamDestroy(s);
}

/* ---- engines --------------------------------------------------------------------------------- */

/* One thread that turns from one to the other at every call. */
static void engines_that_take_turns_are_each_as_alone(void **state)
{
    struct fixture *f = *state;
    struct engine *e[DEVICES];
    struct stream *s[DEVICES];
    struct trace *got[DEVICES], *want[DEVICES];
    for (int d = 0; d < DEVICES; d++)
        want[d] = alone(f, MODE_STREAM, 3 + d, WIDTH, HEIGHT, FRAMES);
    for (int d = 0; d < DEVICES; d++)
        e[d] = open_on(f->model, d);
    for (int d = 0; d < DEVICES; d++) {
        assert_int_equal(engine_reserve_states(e[d], 1 << 20), ERR_OK);
        s[d] = open_stream(e[d], MODE_STREAM);
        got[d] = trace_open(f->model, WIDTH, HEIGHT, FRAMES);
    }
    for (int t = 0; t < FRAMES; t++) {
        for (int d = 0; d < DEVICES; d++)
            feed_one_by_one(e[d], s[d], 3 + d, got[d], t, 1);
        for (int d = 0; d < DEVICES && t == 2; d++)
            assert_int_equal(stream_spill(s[d]), ERR_OK);
        for (int d = 0; d < DEVICES && t == 2; d++)
            assert_int_equal(stream_fetch(s[d]), ERR_OK);
    }
    for (int d = 0; d < DEVICES; d++) {
        assert_same(got[d], want[d], 0, FRAMES);
        trace_close(got[d]);
        trace_close(want[d]);
    }
    for (int d = 0; d < DEVICES; d++)
        stream_close(s[d]);
    for (int d = 0; d < DEVICES; d++)
        engine_close(e[d]);
}

static size_t free_on(int device)
{
    size_t left, all;
    assert_int_equal(cudaSetDevice(device), cudaSuccess);
    assert_int_equal(cudaMemGetInfo(&left, &all), cudaSuccess);
    return left;
}

static void a_device_that_is_let_go_of_has_all_its_memory(void **state)
{
    struct fixture *f = *state;
    size_t before = free_on(1);
    for (int i = 0; i < 2; i++) {
        struct engine *e = open_on(f->model, 1);
        struct stream *s = open_stream(e, MODE_STREAM);
        struct trace *t = trace_open(f->model, WIDTH, HEIGHT, FRAMES);
        assert_int_equal(engine_reserve_states(e, 1 << 20), ERR_OK);
        feed_one_by_one(e, s, 5, t, 0, FRAMES);
        assert_true(free_on(1) < before - (1 << 20));
        trace_close(t);
        stream_close(s);
        engine_close(e);
        assert_int_equal(free_on(1), before);
    }
}

static void a_state_goes_on_on_the_other_device(void **state)
{
    struct fixture *f = *state;
    struct engine *e[DEVICES];
    struct stream *s[DEVICES];
    struct trace *want = alone(f, MODE_STREAM, 9, WIDTH, HEIGHT, FRAMES);
    struct trace *got = trace_open(f->model, WIDTH, HEIGHT, FRAMES);
    void *data = NULL;
    size_t len;
    for (int d = 0; d < DEVICES; d++) {
        e[d] = open_on(f->model, d);
        s[d] = open_stream(e[d], MODE_STREAM);
    }
    for (int t = 0; t < FRAMES; t++) {
        int here = t % 2, there = !here;
        feed_one_by_one(e[here], s[here], 9, got, t, 1);
        assert_int_equal(stream_export(s[here], &data, &len), ERR_OK);
        assert_int_equal(stream_import(s[there], data, len, NULL, NULL), ERR_OK);
        stream_reset(s[here]);
        free(data);
    }
    assert_same(got, want, 0, FRAMES);
    for (int d = 0; d < DEVICES; d++) {
        stream_close(s[d]);
        engine_close(e[d]);
    }
    trace_close(want);
    trace_close(got);
}

struct one {
    struct engine *engine;
    struct trace *got;
    int seed;
};

static void *label_all(void *arg)
{
    struct one *o = arg;
    struct stream *s = open_stream(o->engine, MODE_STREAM);
    feed_one_by_one(o->engine, s, o->seed, o->got, 0, FRAMES);
    stream_close(s);
    return NULL;
}

static void engines_in_two_threads_are_each_as_alone(void **state)
{
    struct fixture *f = *state;
    pthread_t thread[DEVICES];
    struct one one[DEVICES];
    for (int d = 0; d < DEVICES; d++)
        one[d] =
            (struct one){open_on(f->model, d), trace_open(f->model, WIDTH, HEIGHT, FRAMES), 20 + d};
    for (int d = 0; d < DEVICES; d++)
        assert_int_equal(pthread_create(&thread[d], NULL, label_all, &one[d]), 0);
    for (int d = 0; d < DEVICES; d++)
        pthread_join(thread[d], NULL);
    for (int d = 0; d < DEVICES; d++) {
        struct trace *want = alone(f, MODE_STREAM, one[d].seed, WIDTH, HEIGHT, FRAMES);
        assert_same(one[d].got, want, 0, FRAMES);
        trace_close(want);
        trace_close(one[d].got);
        engine_close(one[d].engine);
    }
}

static void a_fault_of_one_leaves_the_other(void **state)
{
    struct fixture *f = *state;
    struct engine *e[DEVICES];
    struct stream *s[DEVICES];
    struct trace *t = trace_open(f->model, WIDTH, HEIGHT, 2);
    for (int d = 0; d < DEVICES; d++) {
        e[d] = open_on(f->model, d);
        s[d] = open_stream(e[d], MODE_STREAM);
        feed_one_by_one(e[d], s[d], 7, t, 0, 1);
    }
    cuda_host_fault_device = 1;
    cuda_host_fault = cudaErrorIllegalAddress;
    assert_int_equal(try_step(e[1], &(struct feed){s[1], 7, 1, 1, t, false}, 1), ERR_DEVICE);
    assert_int_equal(try_step(e[0], &(struct feed){s[0], 7, 1, 1, t, false}, 1), ERR_OK);
    cuda_host_fault = cudaSuccess;
    cuda_host_fault_device = -1;
    for (int d = 0; d < DEVICES; d++) {
        stream_close(s[d]);
        engine_close(e[d]);
    }
    trace_close(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_is_its_devices_alone),
        cmocka_unit_test(a_stream_of_another_device_is_refused),
        cmocka_unit_test(engines_that_take_turns_are_each_as_alone),
        cmocka_unit_test(a_device_that_is_let_go_of_has_all_its_memory),
        cmocka_unit_test(a_state_goes_on_on_the_other_device),
        cmocka_unit_test(engines_in_two_threads_are_each_as_alone),
        cmocka_unit_test(a_fault_of_one_leaves_the_other),
    };
    cuda_host_devices = DEVICES;
    return cmocka_run_group_tests_name("two devices", tests, fixture_open, fixture_close);
}
