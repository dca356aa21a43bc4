/* tv3s bench: frames per second of the engine alone, beside what the device could do.
 *
 * N streams step together, one frame each a step, after a warm-up that makes the plan. The rate of
 * a large matrix product is measured in the same process before and after, and the better of the
 * two is the yardstick: what the machine did at its best while we were on it. */
#include "base/nearest.h"
#include "engine/engine.h"
#include "tools/options.h"
#include "tools/tool.h"

#include <getopt.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

struct bench {
    const char *name, *model;
    struct engine_config engine;
    int width, height, streams, frames, warmup;
};

static const char help[] =
    "usage: tv3s bench MODEL [options]\n"
    "\n"
    "Prints JSON: frames/s, milliseconds per frame, GFLOP per frame, GFLOP/s, and the GFLOP/s of "
    "a\n"
    "large matrix product in the same process on the same device and dtype, and their ratio.\n"
    "\n"
    "  --size WxH        frame size (864x480)\n"
    "  --streams N       streams, one frame of each a step (1)\n"
    "  --frames N        steps to time (20)\n"
    "  --warmup N        steps before (3)\n"
    "  --device DEVICE   cpu or cuda[:N] (cpu)\n"
    "  --dtype DTYPE     f32, bf16, or on a GPU tf32 (f32)\n"
    "  --threads N       CPU threads (all)\n"
    "  --isa NAME        avx512_bf16, avx512, avx2 or baseline (the best there is)\n";

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Moving texture: content does not change the time, but all-zero frames would flatter caches. */
static void paint(uint8_t *rgb, int width, int height, unsigned seed)
{
    unsigned noise = seed * 2654435761u + 1;
    for (int i = 0; i < width * height * 3; i++) {
        noise = noise * 1664525u + 1013904223u;
        rgb[i] = (uint8_t)((unsigned)(i / 3 % width + (int)seed * 3) % 200u + (noise >> 27));
    }
}

static enum err run_steps(struct engine *e, const struct bench *b, struct stream **streams,
                          double *step_seconds)
{
    size_t pixels = (size_t)b->width * (size_t)b->height, n = (size_t)b->streams;
    struct engine_run *runs = calloc(n, sizeof *runs);
    struct image *images = calloc(n, sizeof *images);
    uint8_t **labels = calloc(n, sizeof *labels);
    uint8_t *rgb = malloc(pixels * 3), *out = malloc(pixels * n);
    enum err r = ERR_OK;
    if (!runs || !images || !labels || !rgb || !out)
        r = err_set(ERR_NOMEM, "out of memory");
    for (size_t i = 0; r == ERR_OK && i < n; i++) {
        images[i] = image_of_rgb24(rgb, b->width, b->height);
        labels[i] = out + i * pixels;
        runs[i] = (struct engine_run){streams[i], 1, &images[i], &labels[i], NULL};
    }
    for (int i = 0; r == ERR_OK && i < b->warmup + b->frames; i++) {
        paint(rgb, b->width, b->height, (unsigned)i);
        double t = seconds();
        r = engine_step(e, runs, b->streams);
        if (i >= b->warmup)
            step_seconds[i - b->warmup] = seconds() - t;
    }
    free(runs);
    free(images);
    free(labels);
    free(rgb);
    free(out);
    return r;
}

static enum err measure(struct engine *e, const struct bench *b, double *times, double *peak)
{
    struct stream_config config = {.mode = MODE_STREAM};
    struct stream **streams = calloc((size_t)b->streams, sizeof *streams);
    double again;
    if (!streams)
        return err_set(ERR_NOMEM, "out of memory");
    enum err r = engine_measure_peak(e, peak);
    for (int i = 0; r == ERR_OK && i < b->streams; i++)
        r = stream_open(e, &config, &streams[i]);
    if (r == ERR_OK)
        r = run_steps(e, b, streams, times);
    if (r == ERR_OK)
        r = engine_measure_peak(e, &again);
    if (r == ERR_OK && again > *peak)
        *peak = again;
    for (int i = 0; i < b->streams; i++)
        stream_close(streams[i]);
    free(streams);
    return r;
}

static enum err report(const struct engine *e, const struct bench *b, const struct arch *a,
                       double *times, double peak)
{
    struct geometry g;
    struct rusage usage;
    double total = 0;
    enum err r = engine_geometry(a, b->width, b->height, NULL, &g);
    if (r != ERR_OK)
        return r;
    for (int i = 0; i < b->frames; i++)
        total += times[i];
    qsort(times, (size_t)b->frames, sizeof *times, compare);
    getrusage(RUSAGE_SELF, &usage);
    double fps = (double)b->frames * b->streams / total, rate = fps * g.gflop;
    int length;
    const char *stem = model_stem(b->model, &length);
    int last = (int)(0.99 * (b->frames - 1) + 0.5);
    json_t *j = json_pack(
        "{s:s#, s:s, s:s, s:[ii], s:[ii], s:i, s:i, s:f, s:{s:f, s:f}, s:{s:f, s:f}, s:f, s:f, "
        "s:f, "
        "s:f, s:I, s:f}",
        "model", stem, length, "device", engine_description(e), "dtype",
        option_dtype_name(&b->engine), "size", g.width, g.height, "network_input", g.net_width,
        g.net_height, "streams", b->streams, "frames", b->frames * b->streams, "frames_per_second",
        fps, "ms_per_frame", "p50", 1e3 * times[b->frames / 2] / b->streams, "p99",
        1e3 * times[last] / b->streams, "ms_per_step", "p50", 1e3 * times[b->frames / 2], "p99",
        1e3 * times[last], "gflop_per_frame", g.gflop, "gflops", rate, "matmul_gflops", peak,
        "ratio", peak > 0 ? rate / peak : 0.0, "state_bytes_per_stream", (json_int_t)g.state_bytes,
        "peak_rss_mb", (double)usage.ru_maxrss / 1024);
    if (!j)
        return err_set(ERR_NOMEM, "out of memory");
    int failed = json_dumpf(j, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
    puts("");
    json_decref(j);
    return failed ? err_set(ERR_IO, "cannot write the report") : ERR_OK;
}

static int run(const struct bench *b)
{
    struct model *m = NULL;
    struct engine *e = NULL;
    double peak = 0, *times = calloc((size_t)b->frames, sizeof *times);
    enum err r = times ? model_open(b->model, &m) : err_set(ERR_NOMEM, "out of memory");
    if (r == ERR_OK)
        r = engine_open(m, &b->engine, &e);
    if (r == ERR_OK)
        r = measure(e, b, times, &peak);
    if (r == ERR_OK)
        r = report(e, b, &m->arch, times, peak);
    engine_close(e);
    model_close(m);
    free(times);
    return r == ERR_OK ? TOOL_OK : tool_error(b->name, "%s", err_text());
}

int cmd_bench(int argc, char **argv)
{
    static const struct option options[] = {
        {"size", required_argument, NULL, 's'},    {"streams", required_argument, NULL, 'n'},
        {"frames", required_argument, NULL, 'f'},  {"warmup", required_argument, NULL, 'w'},
        {"device", required_argument, NULL, 'd'},  {"dtype", required_argument, NULL, 't'},
        {"threads", required_argument, NULL, 'j'}, {"isa", required_argument, NULL, 'i'},
        {"help", no_argument, NULL, 'h'},          {NULL, 0, NULL, 0}};
    struct bench b = {.name = argv[0],
                      .width = 864,
                      .height = 480,
                      .streams = 1,
                      .frames = 20,
                      .warmup = 3,
                      .engine = {.dtype = DT_F32}};
    for (int o, which = 0; (o = getopt_long(argc, argv, "", options, &which)) != -1;) {
        bool ok = true;
        switch (o) {
        case 's':
            ok = option_size(optarg, &b.width, &b.height);
            break;
        case 'n':
            ok = option_int(optarg, 1, 4096, &b.streams);
            break;
        case 'f':
            ok = option_int(optarg, 1, 1000000, &b.frames);
            break;
        case 'w':
            ok = option_int(optarg, 0, 1000, &b.warmup);
            break;
        case 'd':
            ok = option_device(optarg, &b.engine.device, &b.engine.device_index);
            break;
        case 't':
            ok = option_dtype(optarg, &b.engine);
            break;
        case 'j':
            ok = option_int(optarg, 0, 1024, &b.engine.threads);
            break;
        case 'i':
            b.engine.isa = optarg;
            break;
        case 'h':
            return fputs(help, stdout) < 0 ? TOOL_FAILED : TOOL_OK;
        default:
            nearest_option(argv, options);
            return TOOL_USAGE;
        }
        if (!ok)
            return tool_option(argv[0], options[which].name, optarg);
    }
    if (optind + 1 != argc)
        return tool_usage(argv[0], "one model is needed");
    b.model = argv[optind];
    return run(&b);
}
