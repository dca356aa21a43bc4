/* Micro-benchmarks of the own CPU kernels at the shapes of MiT-B1 at 864 x 480:
 *
 *   kernel_bench [isa [repetitions]]        OMP_NUM_THREADS as wanted
 *
 * A line per kernel, shape and element type: the least time of all repetitions (other work on the
 * machine only adds), bytes of operands moved once per second, and operations per second, where an
 * operation is what the kernel counts (an exponential, a multiply-add of the stencil, ...). With
 * one thread the time is the processor's, so that a busy machine matters little. */
#include "base/dtype.h"
#include "kernels/cpu/ops.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#ifdef _OPENMP
#include <omp.h>
#endif

static const struct cpu_ops *ops;
static int repetitions = 15;

static int threads(void)
{
#ifdef _OPENMP
    return omp_get_max_threads();
#else
    return 1;
#endif
}

static double now(void)
{
    struct timespec t;
    clock_gettime(threads() == 1 ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Runs `call` repeatedly and prints its line. bytes and ops are per call. */
#define BENCH(name, bf16, bytes, count, call)                                                      \
    do {                                                                                           \
        double best = 1e9;                                                                         \
        for (int rep_ = 0; rep_ < repetitions; rep_++) {                                           \
            double start_ = now();                                                                 \
            call;                                                                                  \
            double took_ = now() - start_;                                                         \
            best = took_ < best ? took_ : best;                                                    \
        }                                                                                          \
        printf("%-34s %-4s %8.3f ms %7.1f GB/s %8.2f Gop/s\n", name, (bf16) ? "bf16" : "fp32",     \
               best * 1e3, (double)(bytes) / best * 1e-9, (double)(count) / best * 1e-9);          \
        fflush(stdout);                                                                            \
    } while (0)

static uint64_t rng_state = 88172645463325252ull;

static float uniform(float low, float high)
{
    rng_state ^= rng_state << 13;
    rng_state ^= rng_state >> 7;
    rng_state ^= rng_state << 17;
    return low + (high - low) * (float)(rng_state >> 40) * 0x1p-24f;
}

static void *allocate(size_t bytes)
{
    void *p = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!p)
        exit(1);
    return p;
}

static float *floats(size_t count, float low, float high)
{
    float *p = allocate(count * 4);
    for (size_t i = 0; i < count; i++)
        p[i] = uniform(low, high);
    return p;
}

static void *acts(size_t count, float low, float high, bool bf16)
{
    float *p = floats(count, low, high);
    if (bf16)
        ops->to_bf16(p, count, (uint16_t *)(void *)p); /* in place: output never overtakes input */
    return p;
}

static struct resize_axis bilinear(int src, int dst)
{
    struct resize_axis a = {.dst = dst, .src = src, .taps = src == dst ? 1 : 2};
    a.index = allocate((size_t)dst * sizeof(int));
    a.weight = allocate((size_t)(dst * a.taps) * sizeof(float));
    for (int i = 0; i < dst; i++) {
        double at = (i + 0.5) * src / dst - 0.5;
        int x = a.taps == 1 ? i : (int)floor(at < 0 ? 0 : at);
        x = a.taps == 2 && x > src - 2 ? src - 2 : x;
        double f = at - x < 0 ? 0 : at - x > 1 ? 1 : at - x;
        a.index[i] = x;
        a.weight[i * a.taps] = (float)(a.taps == 1 ? 1 : 1 - f);
        if (a.taps == 2)
            a.weight[2 * i + 1] = (float)f;
    }
    return a;
}

/* Stands for a composed map: the index of a bilinear one and `taps` weights. */
static struct resize_axis composed(int src, int dst, int taps)
{
    struct resize_axis a = {.dst = dst, .src = src, .taps = taps};
    a.index = allocate((size_t)dst * sizeof(int));
    a.weight = allocate((size_t)(dst * taps) * sizeof(float));
    for (int i = 0; i < dst; i++) {
        a.index[i] = (int)((long)i * (src - taps + 1) / dst);
        for (int t = 0; t < taps; t++)
            a.weight[i * taps + t] = 1.0f / (float)taps;
    }
    return a;
}

/* A 60 x 120 grid in 20 x 20 windows. */
static void bench_scan(bool bf16)
{
    enum { H = 60, W = 120, D = 512, N = 16, R = 16, ROWS = H * W };
    size_t e = bf16 ? 2 : 4;
    struct scan_weights w = {.inner = D, .state = N, .conv = 4, .dt_rank = R};
    w.conv_w = floats(4 * D, -1, 1);
    w.conv_b = floats(D, -1, 1);
    w.dt_w = floats(R * D, -0.1f, 0.1f);
    w.dt_bias = floats(D, -6, -2);
    w.a_log2e = floats(N * D, -20, -1);
    w.skip = floats(D, -1, 1);
    void *xz = acts((size_t)ROWS * 2 * D, -2, 2, bf16), *b = acts((size_t)ROWS * D, -2, 2, bf16);
    void *y = acts((size_t)ROWS * D, 0, 0, bf16);
    float *dbc = floats((size_t)ROWS * (R + 2 * N), -1, 1);
    struct scan_window windows[18];
    for (int i = 0; i < 18; i++)
        windows[i] = (struct scan_window){.row0 = i / 6 * 20 * W + i % 6 * 20,
                                          .h = 20,
                                          .w = 20,
                                          .row_stride = W,
                                          .state = floats(N * D, 0, 0),
                                          .tail = floats(3 * D, 0, 0)};
    BENCH("scan_conv 7200 x 512", bf16, (size_t)ROWS * D * 2 * e, (double)ROWS * D * 4,
          ops->scan_conv(&w, windows, 18, xz, 2 * D, b, bf16));
    BENCH("selective_scan 7200 x 512 x 16", bf16, (size_t)ROWS * (D * 3 * e + (R + 2 * N) * 4),
          (double)ROWS * D * N,
          ops->selective_scan(&w, windows, 18, b, dbc, R + 2 * N, (char *)xz + D * e, 2 * D, y,
                              bf16));
}

static void bench_norms(bool bf16)
{
    static const int shape[][2] = {{25920, 64}, {6480, 128}, {1620, 320}, {405, 512}};
    for (int i = 0; i < 4; i++) {
        size_t rows = (size_t)shape[i][0], c = (size_t)shape[i][1];
        float *x = floats(rows * c, -1, 1), *gamma = floats(c, -1, 1), *beta = floats(c, -1, 1);
        void *out = acts(rows * c, 0, 0, bf16);
        char name[64];
        snprintf(name, sizeof name, "layernorm %zu x %zu (fp32 in)", rows, c);
        BENCH(name, bf16, rows * c * (bf16 ? 6 : 8), rows * c,
              ops->layernorm(x, false, rows, (int)c, gamma, beta, 1e-6f, out, bf16));
        free(x);
        free(out);
    }
    float *x = floats(7200 * 256, -1, 1), *weight = floats(256, -1, 1);
    void *out = acts(7200 * 256, 0, 0, bf16);
    BENCH("rmsnorm 7200 x 256", bf16, 7200 * 256 * (bf16 ? 6 : 8), 7200 * 256,
          ops->rmsnorm(x, 7200, 256, weight, 1e-5f, out, bf16));
    free(x);
    free(out);
}

static void bench_dwconv(bool bf16)
{
    static const int shape[][3] = {{120, 216, 256}, {60, 108, 512}, {30, 54, 1280}, {15, 27, 2048}};
    for (int i = 0; i < 4; i++) {
        int h = shape[i][0], w = shape[i][1], c = shape[i][2];
        size_t size = (size_t)h * (size_t)w * (size_t)c;
        void *x = acts(size, -2, 2, bf16), *out = acts(size, 0, 0, bf16);
        float *weight = floats(9 * (size_t)c, -1, 1), *bias = floats((size_t)c, -1, 1);
        char name[64];
        snprintf(name, sizeof name, "dwconv3x3_gelu %d x %d x %d", h, w, c);
        BENCH(name, bf16, size * (bf16 ? 4 : 8), size * 9,
              ops->dwconv3x3_gelu(x, h, w, c, weight, bias, out, bf16));
        free(x);
        free(out);
    }
}

enum { SOFTMAX_ROWS = 25920, SOFTMAX_N = 405, SOFTMAX_LD = 416, SOFTMAX_BLOCK = 64 };

/* Blocks of 64 rows over all threads, as attention calls it. */
static void softmax_blocks(const float *s, bool bf16)
{
#pragma omp parallel for
    for (int i = 0; i < SOFTMAX_ROWS / SOFTMAX_BLOCK; i++) {
        float p[SOFTMAX_BLOCK * SOFTMAX_LD], inv_sum[SOFTMAX_BLOCK];
        ops->softmax_rows(s, SOFTMAX_LD, SOFTMAX_BLOCK, SOFTMAX_N, 0.125f, p, SOFTMAX_LD, inv_sum,
                          bf16);
    }
}

static void bench_softmax(bool bf16)
{
    float *s = floats((size_t)SOFTMAX_BLOCK * SOFTMAX_LD, -8, 8);
    BENCH("softmax_rows 25920 x 405 (cached)", bf16,
          (size_t)SOFTMAX_ROWS * SOFTMAX_N * (bf16 ? 6 : 8), (double)SOFTMAX_ROWS * SOFTMAX_N,
          softmax_blocks(s, bf16));
    free(s);
}

static void bench_fuse(bool bf16)
{
    static const int h[] = {120, 60, 30, 15}, w[] = {216, 108, 54, 27};
    enum { E = 256 };
    const void *g[4];
    struct resize_axis rows[4], cols[4];
    const struct resize_axis *row[4], *col[4];
    size_t bytes = 0;
    for (int i = 0; i < 4; i++) {
        size_t size = (size_t)(h[i] * w[i] * E);
        g[i] = acts(size, -1, 1, bf16);
        bytes += size * (bf16 ? 2 : 4);
        rows[i] = bilinear(h[i], h[0]);
        cols[i] = bilinear(w[i], w[0]);
        row[i] = &rows[i];
        col[i] = &cols[i];
    }
    struct resize_axis grid_rows = bilinear(120, 60), grid_cols = bilinear(216, 120);
    float *bias = floats(E, -1, 1), *out = floats(120 * 216 * E, 0, 0);
    BENCH("fuse to grid 60 x 120 x 256", bf16, bytes + 60 * 120 * E * 4, 120 * 216 * E * 13,
          ops->fuse(g, row, col, E, bias, &grid_rows, &grid_cols, out, bf16, false));
    BENCH("fuse to f 120 x 216 x 256", bf16, bytes + 120 * 216 * E * (bf16 ? 2 : 4),
          120 * 216 * E * 13, ops->fuse(g, row, col, E, bias, NULL, NULL, out, bf16, bf16));
}

static void bench_ends(bool bf16)
{
    uint8_t *rgb = allocate(853 * 480 * 3), *mask = allocate(853 * 480);
    for (int i = 0; i < 853 * 480 * 3; i++)
        rgb[i] = (uint8_t)(i * 7);
    struct resize_axis rows = bilinear(480, 480), cols = bilinear(853, 864);
    float *out = acts(864 * 480 * 3, 0, 0, false);
    BENCH("preprocess 853 x 480", bf16, 853 * 480 * 3 + 864 * 480 * 3 * 4, 864 * 480 * 3,
          ops->preprocess(rgb, 853 * 3, &rows, &cols, out));
    void *patches = acts(120 * 216 * 160, 0, 0, false);
    size_t e = bf16 ? 2 : 4;
    BENCH("im2col 7 x 7 / 4 of 480 x 864 x 3", bf16, (864 * 480 * 3 + 120 * 216 * 160) * 4,
          120 * 216 * 147, ops->im2col(out, 480, 864, 3, 7, 4, 3, 120, 216, 160, 4, patches));
    void *map = acts(120 * 216 * 64, -1, 1, bf16);
    void *patches2 = acts(60 * 108 * 576, 0, 0, bf16);
    BENCH("im2col 3 x 3 / 2 of 120 x 216 x 64", bf16, (120 * 216 * 64 + 60 * 108 * 576) * e,
          60 * 108 * 576,
          ops->im2col(map, 120, 216, 64, 3, 2, 1, 60, 108, 576, bf16 ? 2 : 4, patches2));
    float *x = floats(7200 * 512, -1, 1);
    uint16_t *h = allocate(7200 * 512 * 2);
    BENCH("to_bf16 3.7 M", true, 7200 * 512 * 6, 7200 * 512, ops->to_bf16(x, 7200 * 512, h));
    if (bf16)
        return;
    for (int taps = 2; taps <= 4; taps++) {
        struct resize_axis up = composed(60, 480, taps), across = composed(120, 853, taps);
        float *logits = floats(60 * 120 * 124, -3, 3);
        float *scratch = floats(cpu_labels_scratch(threads(), 124, &up, &across), 0, 0);
        char name[64];
        snprintf(name, sizeof name, "labels 853 x 480 x 124, %d taps", taps);
        BENCH(name, false, 60 * 120 * 124 * 4 + 853 * 480, 853.0 * 480 * 124 * taps,
              ops->labels(logits, 124, &up, &across, mask, scratch));
        free(logits);
        free(scratch);
    }
}

int main(int argc, char **argv)
{
    ops = cpu_ops_get(argc > 1 ? argv[1] : NULL);
    if (!ops) {
        fprintf(stderr, "this CPU has no %s\n", argv[1]);
        return 1;
    }
    repetitions = argc > 2 ? atoi(argv[2]) : repetitions;
    printf("%s, %d threads\n", ops->name, threads());
    for (int bf16 = 0; bf16 < 2; bf16++) {
        bench_scan(bf16);
        bench_norms(bf16);
        bench_dwconv(bf16);
        bench_softmax(bf16);
        bench_fuse(bf16);
        bench_ends(bf16);
    }
    return 0;
}
