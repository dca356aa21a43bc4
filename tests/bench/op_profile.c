/* Where a step's time goes: every operation of the backend timed, one line each; and, with --check,
 * whether each does what the CPU backend's fp32 does, at the shapes of a real model.
 *
 *   op_profile MODEL [--size WxH] [--streams N] [--steps N] [--device DEVICE] [--dtype DTYPE]
 *                    [--encode N] [--scan N] [--check] [--json]
 *
 * --encode and --scan try other numbers of frames that are encoded, or go through a layer of the
 * head, at a time than the backend's own: fewer may stay in a device's cache.
 *
 * The engine's backend table is replaced by one that wraps it (op_wrap.c). Bytes are those of the
 * operands, once each. What they are held against is measured beside them: a copy of much memory,
 * read and written, and the product of two large matrices. Not a test of speed: figures for the
 * essays and for tuning. */
#include "base/try.h"
#include "engine/internal.h"
#include "tests/bench/op_clock.h"
#include "tests/bench/op_trace.h"
#include "tests/bench/op_wrap.h"
#include "tools/options.h"

#include <getopt.h>
#include <stdio.h>
#include <string.h>

enum { WARMUP = 3, MAX_STREAMS = 1024, COPY_BYTES = 256 << 20, COPIES = 8 };

struct profile {
    const char *path;
    struct engine_config config;
    int width, height, streams, steps;
    int encode, scan; /* frames at a time; 0: as many as the backend says */
    bool check, json;

    struct model *model;
    struct engine *engine;
    struct backend *cpu; /* what operations are checked by */
    struct stream *stream[MAX_STREAMS];
    void *big[2]; /* COPY_BYTES each */
    double bandwidth, rate, seconds;
};

/* Bytes read and written a second by a copy of the device's own. */
static enum err measure_copy(struct profile *p)
{
    struct backend *be = p->engine->be;
    for (int i = 0; i < 2; i++)
        TRY(be->ops->alloc(be, COPY_BYTES, &p->big[i]));
    for (int i = 0; i < 2; i++)
        be->ops->zero(be, p->big[i], COPY_BYTES); /* pages are there */
    for (size_t i = 0; i <= COPIES; i++) {
        op_clock_mark(be, i);
        if (i < COPIES)
            be->ops->copy(be, p->big[1], p->big[0], COPY_BYTES);
    }
    char byte;
    TRY(be->ops->download(be, &byte, p->big[1], 1)); /* waits */
    for (size_t i = 1; i < COPIES; i++) {
        double rate = 2.0 * COPY_BYTES / op_clock_between(be, i, i + 1);
        p->bandwidth = rate > p->bandwidth ? rate : p->bandwidth;
    }
    return ERR_OK;
}

/* A device that is given work faster than it does it has no gaps between kernels, and only then are
 * short ones timed rightly: so it gets something to do while the host calls the step's operations.
 */
static void head_start(struct profile *p)
{
    struct backend *be = p->engine->be;
    double t = p->config.device == DEVICE_CUDA ? 12e-3 : 0;
    for (; t > 0; t -= 2.0 * COPY_BYTES / p->bandwidth)
        be->ops->copy(be, p->big[1], p->big[0], COPY_BYTES);
}

static enum err set_at_a_time(struct profile *p)
{
    struct backend *be = p->engine->be;
    struct geometry g;
    TRY(engine_geometry(&p->model->arch, p->width, p->height, NULL, &g));
    if (p->encode)
        be->encoder_rows = (size_t)p->encode * (size_t)(g.c1_width * g.c1_height);
    if (p->scan)
        be->scan_rows = (size_t)p->scan * (size_t)(g.grid_width * g.grid_height);
    return ERR_OK;
}

static enum err open_all(struct profile *p)
{
    const struct stream_config sc = {.mode = MODE_STREAM};
    TRY(model_open(p->path, &p->model));
    TRY(engine_open(p->model, &p->config, &p->engine));
    TRY(set_at_a_time(p));
    if (p->check) {
        TRY(cpu_backend_open(DT_F32, 0, NULL, &p->cpu));
    } else {
        TRY(measure_copy(p));
        TRY(engine_measure_peak(p->engine, &p->rate));
    }
    /* opened once for its backend, then again with the table in place */
    struct engine *e = p->engine;
    encoder_close(&e->loader, e->encoder);
    head_close(&e->loader, e->head);
    e->encoder = NULL;
    e->head = NULL;
    op_wrap(e->be, p->cpu);
    TRY(encoder_open(&e->loader, &e->encoder));
    TRY(head_open(&e->loader, &e->head));
    for (int i = 0; i < p->streams; i++)
        TRY(stream_open(e, &sc, &p->stream[i]));
    return ERR_OK;
}

static void close_all(struct profile *p)
{
    for (int i = 0; i < p->streams; i++)
        stream_close(p->stream[i]);
    for (int i = 0; p->engine && i < 2; i++)
        p->engine->be->ops->free(p->engine->be, p->big[i]);
    engine_close(p->engine);
    if (p->cpu)
        p->cpu->ops->close(p->cpu);
    model_close(p->model);
}

static enum err run_steps(struct profile *p, struct engine_run *runs)
{
    enum err e = ERR_OK;
    for (int i = p->check ? 0 : -WARMUP; e == ERR_OK && i < p->steps; i++) {
        if (i == 0 && !p->check)
            op_trace_open(p->engine->be, NULL);
        if (!p->check)
            head_start(p);
        double t = op_now();
        e = engine_step(p->engine, runs, p->streams);
        p->seconds = i < 0 ? 0 : p->seconds + op_now() - t;
        if (e == ERR_OK)
            op_wrap_step_done();
    }
    return e;
}

static enum err run(struct profile *p)
{
    size_t pixels = (size_t)p->width * (size_t)p->height, n = (size_t)p->streams;
    uint8_t *rgb = malloc(pixels * 3), *labels = malloc(pixels * n), **out = calloc(n, sizeof *out);
    struct engine_run *runs = calloc(n, sizeof *runs);
    struct image image = image_of_rgb24(rgb, p->width, p->height);
    enum err e =
        rgb && labels && out && runs ? ERR_OK : err_set(ERR_NOMEM, "no memory for the frames");
    for (size_t i = 0; e == ERR_OK && i < pixels * 3; i++)
        rgb[i] = (uint8_t)(i * 7919 >> 5);
    if (e == ERR_OK)
        e = open_all(p);
    for (size_t i = 0; e == ERR_OK && i < n; i++) {
        out[i] = labels + i * pixels;
        runs[i] = (struct engine_run){p->stream[i], 1, &image, &out[i], NULL};
    }
    if (e == ERR_OK)
        e = run_steps(p, runs);
    free(rgb);
    free(labels);
    free(out);
    free(runs);
    return e;
}

static void print_line(const json_t *line, double *sum)
{
    double ms = json_number_value(json_object_get(line, "ms"));
    const json_t *rate = json_object_get(line, "gflops"), *far = json_object_get(line, "far");
    *sum += ms;
    printf("%-30s %8.3f %5lld", json_string_value(json_object_get(line, "op")), ms,
           (long long)json_integer_value(json_object_get(line, "calls")));
    if (far)
        printf(" %.1e", json_number_value(far));
    else
        printf(" %8.1f %4.0f %%", json_number_value(json_object_get(line, "gbytes_per_s")),
               100 * json_number_value(json_object_get(line, "of_bandwidth")));
    if (rate && !far)
        printf(" %9.1f %4.0f %%", json_number_value(rate),
               100 * json_number_value(json_object_get(line, "of_rate")));
    puts("");
}

static enum err print(const struct profile *p)
{
    double sum = 0, step = 1e3 * p->seconds / p->steps;
    json_t *ops = op_report(p->steps, p->bandwidth, p->rate), *line;
    size_t i;
    if (p->json) {
        json_t *all =
            json_pack("{s:s, s:s, s:[ii], s:i, s:f, s:f, s:f, s:o}", "device",
                      engine_description(p->engine), "model", p->model->arch.name, "size", p->width,
                      p->height, "streams", p->streams, "ms_per_step", step, "copy_gbytes_per_s",
                      1e-9 * p->bandwidth, "matmul_gflops", p->rate, "ops", ops);
        int failed = json_dumpf(all, stdout, JSON_INDENT(1) | JSON_REAL_PRECISION(6));
        puts("");
        json_decref(all);
        return failed ? err_set(ERR_IO, "cannot write the profile") : ERR_OK;
    }
    printf("%s, %d streams of %dx%d", engine_description(p->engine), p->streams, p->width,
           p->height);
    if (!p->check)
        printf("; copies %.1f GB/s, products %.1f GFLOP/s", 1e-9 * p->bandwidth, p->rate);
    printf("\n%-30s %8s %5s %s\n", "operation", "ms/step", "calls",
           p->check ? "from the CPU" : "    GB/s           GFLOP/s");
    json_array_foreach(ops, i, line) print_line(line, &sum);
    printf("%-30s %8.3f\n", "all operations", sum);
    if (!p->check)
        printf("%-30s %8.3f\n", "step", step);
    json_decref(ops);
    return ERR_OK;
}

static bool options(struct profile *p, int argc, char **argv)
{
    static const struct option known[] = {
        {"size", required_argument, NULL, 's'},  {"streams", required_argument, NULL, 'n'},
        {"steps", required_argument, NULL, 'f'}, {"device", required_argument, NULL, 'd'},
        {"dtype", required_argument, NULL, 't'}, {"check", no_argument, NULL, 'c'},
        {"json", no_argument, NULL, 'j'},        {"encode", required_argument, NULL, 'e'},
        {"scan", required_argument, NULL, 'l'},  {NULL, 0, NULL, 0}};
    bool ok = true;
    for (int o; ok && (o = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        if (o == 's')
            ok = option_size(optarg, &p->width, &p->height);
        else if (o == 'n')
            ok = option_int(optarg, 1, MAX_STREAMS, &p->streams);
        else if (o == 'f')
            ok = option_int(optarg, 1, 10000, &p->steps);
        else if (o == 'd')
            ok = option_device(optarg, &p->config.device, &p->config.device_index);
        else if (o == 't')
            ok = option_dtype(optarg, &p->config);
        else if (o == 'e')
            ok = option_int(optarg, 1, MAX_STREAMS, &p->encode);
        else if (o == 'l')
            ok = option_int(optarg, 1, MAX_STREAMS, &p->scan);
        else if (o == 'c')
            p->check = true;
        else if (o == 'j')
            p->json = true;
        else
            ok = false;
    }
    p->path = argv[optind];
    return ok && optind + 1 == argc;
}

int main(int argc, char **argv)
{
    static struct profile p = {
        .width = 864, .height = 480, .streams = 1, .steps = 10, .config = {.dtype = DT_F32}};
    if (!options(&p, argc, argv)) {
        fprintf(stderr, "usage: op_profile MODEL [--size WxH] [--streams N] [--steps N]\n"
                        "  [--device DEVICE] [--dtype DTYPE] [--encode N] [--scan N] [--check]\n"
                        "  [--json]\n");
        return 2;
    }
    enum err e = run(&p);
    if (e == ERR_OK)
        e = print(&p);
    if (e != ERR_OK)
        fprintf(stderr, "op_profile: %s\n", err_text());
    bool held = e == ERR_OK && (!p.check || op_checks_hold(0));
    close_all(&p);
    return !held;
}
