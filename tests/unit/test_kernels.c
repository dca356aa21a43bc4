/* Every own CPU kernel, in every instruction set that this CPU has, against a plain reference in
 * double precision, over random shapes that no vector length divides. Buffers end at a page that
 * cannot be touched and begin after a pattern that is checked, so that reading or writing outside
 * the stated shapes fails whatever instruction does it. */
#include "base/dtype.h"
#include "kernels/cpu/ops.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#ifdef _OPENMP
#include <omp.h>
#endif

/* ---- random numbers ---- */

static uint64_t rng_state = 88172645463325252ull;

static uint32_t rng(void)
{
    rng_state ^= rng_state << 13;
    rng_state ^= rng_state >> 7;
    rng_state ^= rng_state << 17;
    return (uint32_t)(rng_state >> 32);
}

static int pick(int low, int high) /* both included */
{
    return low + (int)(rng() % (uint32_t)(high - low + 1));
}

static float uniform(float low, float high)
{
    return low + (high - low) * (float)(rng() >> 8) * 0x1p-24f;
}

/* ---- guarded buffers ---- */

enum { MAX_BUFFERS = 64, PATTERN = 64 };

static struct {
    char *map, *p;
    size_t bytes, mapped;
} buffers[MAX_BUFFERS];
static int buffer_count;

static void *guarded(size_t bytes)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t mapped = (bytes + PATTERN + page - 1) / page * page + page;
    char *map = mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(map != MAP_FAILED && buffer_count < MAX_BUFFERS);
    assert_int_equal(mprotect(map + mapped - page, page, PROT_NONE), 0);
    char *p = map + mapped - page - bytes;
    memset(p - PATTERN, 0xa5, PATTERN);
    buffers[buffer_count].map = map;
    buffers[buffer_count].p = p;
    buffers[buffer_count].bytes = bytes;
    buffers[buffer_count++].mapped = mapped;
    return p;
}

/* Checks what lies before every buffer, then unmaps all. */
static void release(void)
{
    for (int i = 0; i < buffer_count; i++) {
        for (int j = 1; j <= PATTERN; j++)
            assert_int_equal((uint8_t)buffers[i].p[-j], 0xa5);
        munmap(buffers[i].map, buffers[i].mapped);
    }
    buffer_count = 0;
}

static float *floats(size_t count, float low, float high)
{
    float *p = guarded(count * sizeof *p);
    for (size_t i = 0; i < count; i++)
        p[i] = uniform(low, high);
    return p;
}

/* Activations, fp32 or bf16. */
static void *acts(size_t count, float low, float high, bool bf16)
{
    if (!bf16)
        return floats(count, low, high);
    uint16_t *p = guarded(count * sizeof *p);
    for (size_t i = 0; i < count; i++)
        p[i] = f32_to_bf16(uniform(low, high));
    return p;
}

static double get(const void *p, size_t i, bool bf16)
{
    return bf16 ? (double)bf16_to_f32(((const uint16_t *)p)[i]) : (double)((const float *)p)[i];
}

static void *clone(const void *p, size_t bytes)
{
    return memcpy(guarded(bytes), p, bytes);
}

/* |value - want| <= rel |want| + abs, and half a bf16 step more where the value is one. */
static void check(double value, double want, double rel, double abs, bool bf16, const char *what)
{
    double limit = rel * fabs(want) + abs + (bf16 ? 0x1p-8 * fabs(want) : 0);
    if (!(fabs(value - want) <= limit))
        fail_msg("%s: %.9g instead of %.9g", what, value, want);
}

/* ---- the instruction sets; every test runs `body` for each, with both element types ---- */

typedef void (*kernel_test)(const struct cpu_ops *ops, bool bf16);

static void each_isa(kernel_test body, int times)
{
    static const char *const names[] = {"baseline", "avx2", "avx512", "avx512_bf16"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const struct cpu_ops *ops = cpu_ops_get(names[i]);
        if (!ops)
            continue;
        for (int t = 0; t < times; t++) {
            body(ops, t & 1);
            release();
        }
    }
}

static void set_threads(int n)
{
#ifdef _OPENMP
    omp_set_num_threads(n);
#else
    (void)n;
#endif
}

/* ---- resize axes ---- */

static void fill_bilinear(struct resize_axis *a, int src, int dst)
{
    int taps = src == dst || src == 1 ? 1 : 2;
    *a = (struct resize_axis){.dst = dst, .src = src, .taps = taps};
    a->index = guarded((size_t)dst * sizeof(int));
    a->weight = guarded((size_t)(dst * taps) * sizeof(float));
    for (int i = 0; i < dst; i++) {
        double at = (i + 0.5) * src / dst - 0.5;
        int x = taps == 1 ? (src == 1 ? 0 : i) : (int)floor(at < 0 ? 0 : at);
        if (taps == 2 && x > src - 2)
            x = src - 2;
        double f = at - x < 0 ? 0 : at - x > 1 ? 1 : at - x;
        a->index[i] = x;
        a->weight[i * taps] = (float)(taps == 1 ? 1 : 1 - f);
        if (taps == 2)
            a->weight[2 * i + 1] = (float)f;
    }
}

/* A monotone map with `taps` positive random weights that sum to one. */
static void fill_random_axis(struct resize_axis *a, int src, int dst, int taps)
{
    *a = (struct resize_axis){.dst = dst, .src = src, .taps = taps};
    a->index = guarded((size_t)dst * sizeof(int));
    a->weight = guarded((size_t)(dst * taps) * sizeof(float));
    for (int i = 0; i < dst; i++) {
        a->index[i] = (int)((long)i * (src - taps + 1) / dst);
        float sum = 0;
        for (int t = 0; t < taps; t++)
            sum += a->weight[i * taps + t] = uniform(0.05f, 1);
        for (int t = 0; t < taps; t++)
            a->weight[i * taps + t] /= sum;
    }
}

/* ---- conversions ---- */

static void test_add_and_conversions(const struct cpu_ops *ops, bool bf16)
{
    (void)bf16;
    size_t n = (size_t)pick(0, 1) * 40000 + (size_t)pick(1, 100);
    float *x = floats(n, -3, 3), *y = floats(n, -3, 3), *old = clone(y, n * 4);
    uint16_t *h = guarded(n * 2);
    float *back = guarded(n * 4);
    x[0] = NAN;
    if (n > 3)
        x[1] = INFINITY, x[2] = -0.0f, x[3] = 3.3961775e38f;
    ops->to_bf16(x, n, h);
    ops->to_f32(h, n, back);
    ops->add(x, n, y);
    assert_true(isnan(bf16_to_f32(h[0])) && isnan(back[0]));
    for (size_t i = 1; i < n; i++) {
        assert_int_equal(h[i], f32_to_bf16(x[i]));
        assert_true(back[i] == bf16_to_f32(h[i]));
        assert_true(y[i] == x[i] + old[i]);
    }
}

static void conversions_round_to_nearest_even_and_add_adds(void **state)
{
    (void)state;
    each_isa(test_add_and_conversions, 10);
}

/* ---- norms ---- */

static void test_layernorm(const struct cpu_ops *ops, bool bf16)
{
    size_t rows = (size_t)pick(1, 300);
    int c = pick(0, 3) ? pick(1, 200) : 320;
    bool out_bf16 = rng() & 1;
    float offset = uniform(-2, 2);
    void *x = acts(rows * (size_t)c, offset - 1, offset + 1, bf16);
    float *gamma = floats((size_t)c, -2, 2), *beta = floats((size_t)c, -2, 2);
    void *out = acts(rows * (size_t)c, 0, 0, out_bf16);
    ops->layernorm(x, bf16, rows, c, gamma, beta, 1e-5f, out, out_bf16);
    for (size_t r = 0; r < rows; r++) {
        double mean = 0, var = 0;
        for (size_t j = 0; j < (size_t)c; j++)
            mean += get(x, r * (size_t)c + j, bf16) / c;
        for (size_t j = 0; j < (size_t)c; j++)
            var += pow(get(x, r * (size_t)c + j, bf16) - mean, 2) / c;
        for (size_t j = 0; j < (size_t)c; j++) {
            double n = (get(x, r * (size_t)c + j, bf16) - mean) / sqrt(var + (double)1e-5f);
            double scale = c < 4 ? 100 : 1; /* one or two equal channels: 0 / eps */
            check(get(out, r * (size_t)c + j, out_bf16), n * gamma[j] + beta[j], 1e-6,
                  3e-6 * scale, out_bf16, "layernorm");
        }
    }
    if (bf16 == out_bf16) { /* in place */
        ops->layernorm(x, bf16, rows, c, gamma, beta, 1e-5f, x, out_bf16);
        assert_memory_equal(x, out, rows * (size_t)c * (bf16 ? 2 : 4));
    }
}

static void layernorm_matches_the_formula_in_place_too(void **state)
{
    (void)state;
    each_isa(test_layernorm, 40);
}

static void test_rmsnorm(const struct cpu_ops *ops, bool bf16)
{
    size_t rows = (size_t)pick(1, 300);
    int c = pick(1, 300);
    float *x = floats(rows * (size_t)c, -3, 3), *weight = floats((size_t)c, -2, 2);
    void *out = acts(rows * (size_t)c, 0, 0, bf16);
    ops->rmsnorm(x, rows, c, weight, 1e-5f, out, bf16);
    for (size_t r = 0; r < rows; r++) {
        double square = 0;
        for (size_t j = 0; j < (size_t)c; j++)
            square += pow((double)x[r * (size_t)c + j], 2) / c;
        for (size_t j = 0; j < (size_t)c; j++)
            check(get(out, r * (size_t)c + j, bf16),
                  x[r * (size_t)c + j] / sqrt(square + (double)1e-5f) * weight[j], 1e-6, 1e-9, bf16,
                  "rmsnorm");
    }
}

static void rmsnorm_matches_the_formula(void **state)
{
    (void)state;
    each_isa(test_rmsnorm, 30);
}

/* ---- softmax ---- */

static void test_softmax_rows(const struct cpu_ops *ops, bool bf16)
{
    int m = pick(1, 9), n = pick(1, 420), ld_s = n + pick(0, 20), ld_p = n + pick(0, 40);
    float scale = uniform(0.05f, 0.5f);
    bool in_place = !bf16 && (rng() & 1);
    if (in_place)
        ld_p = ld_s;
    float *s = floats((size_t)(m * ld_s), -40, 40), *old = clone(s, (size_t)(m * ld_s) * 4);
    void *p = in_place ? (void *)s : acts((size_t)(m * ld_p), 9, 9, bf16);
    float *inv = floats((size_t)m, 0, 0);
    ops->softmax_rows(s, ld_s, m, n, scale, p, ld_p, inv, bf16);
    for (int i = 0; i < m; i++) {
        double max = -1e30, sum = 0;
        for (int j = 0; j < n; j++)
            max = fmax(max, old[i * ld_s + j]);
        for (int j = 0; j < n; j++) {
            double stored = get(p, (size_t)(i * ld_p + j), bf16);
            check(stored, exp(scale * (old[i * ld_s + j] - max)), 4e-6, 1e-9, bf16, "softmax");
            sum += stored;
        }
        for (int j = n; j < ld_p; j++)
            assert_true(get(p, (size_t)(i * ld_p + j), bf16) == 0);
        check(inv[i], 1 / sum, 1e-6, 0, false, "1 / sum");
    }
}

static void softmax_rows_gives_probabilities_and_zero_padding(void **state)
{
    (void)state;
    each_isa(test_softmax_rows, 40);
}

static void test_softmax_bias(const struct cpu_ops *ops, bool bf16)
{
    int m = pick(1, 9), n = pick(1, 60), ld_s = n + pick(0, 20), ld_p = n + pick(0, 20);
    if (pick(0, 9) == 0)
        n = ld_s = ld_p = SOFTMAX_BIAS_MAX;
    bool masked = rng() & 1;
    float *s = floats((size_t)(m * ld_s), -9, 9), *bias = floats((size_t)(m * n), -2, 2);
    float *mask = floats((size_t)(m * n), -1, 0);
    for (int i = 0; i < m * n; i++)
        mask[i] = rng() & 1 ? -100.0f : 0.0f;
    void *p = acts((size_t)(m * ld_p), 9, 9, bf16);
    ops->softmax_bias_rows(s, ld_s, m, n, 0.3f, bias, masked ? mask : NULL, p, ld_p, bf16);
    for (int i = 0; i < m; i++) {
        double *t = malloc((size_t)n * sizeof *t), max = -1e30, sum = 0;
        for (int j = 0; j < n; j++) {
            t[j] = (double)0.3f * s[i * ld_s + j] + bias[i * n + j] + (masked ? mask[i * n + j] : 0);
            max = fmax(max, t[j]);
        }
        for (int j = 0; j < n; j++)
            sum += exp(t[j] - max);
        for (int j = 0; j < n; j++)
            check(get(p, (size_t)(i * ld_p + j), bf16), exp(t[j] - max) / sum, 5e-6, 1e-9, bf16,
                  "softmax with bias");
        for (int j = n; j < ld_p; j++) /* columns past n are nobody's */
            assert_true(get(p, (size_t)(i * ld_p + j), bf16) == 9);
        free(t);
    }
}

static void softmax_bias_rows_adds_bias_and_mask(void **state)
{
    (void)state;
    each_isa(test_softmax_bias, 40);
}

static void test_scale_rows(const struct cpu_ops *ops, bool bf16)
{
    int m = pick(1, 9), n = pick(1, 70), ld_x = n + pick(0, 9), ld = n + pick(0, 9);
    float *x = floats((size_t)(m * ld_x), -3, 3), *factor = floats((size_t)m, 0, 2);
    void *out = acts((size_t)(m * ld), 9, 9, bf16);
    ops->scale_rows(x, ld_x, m, n, factor, out, ld, bf16);
    for (int i = 0; i < m; i++) {
        for (int j = 0; j < n; j++)
            check(get(out, (size_t)(i * ld + j), bf16), (double)x[i * ld_x + j] * factor[i], 1e-7,
                  0, bf16, "scale_rows");
        for (int j = n; j < ld; j++)
            assert_true(get(out, (size_t)(i * ld + j), bf16) == 9);
    }
}

static void scale_rows_touches_only_its_columns(void **state)
{
    (void)state;
    each_isa(test_scale_rows, 20);
}

/* ---- convolutions ---- */

static double gelu(double x)
{
    return x * 0.5 * erfc(-x / sqrt(2));
}

static double silu(double x)
{
    return x / (1 + exp(-x));
}

static void test_dwconv(const struct cpu_ops *ops, bool bf16)
{
    int h = pick(1, 12), w = pick(1, 12), c = pick(0, 2) ? pick(1, 90) : pick(1, 3) * 64;
    size_t size = (size_t)(h * w * c);
    void *x = acts(size, -3, 3, bf16), *out = acts(size, 0, 0, bf16);
    float *weight = floats((size_t)(9 * c), -1, 1), *bias = floats((size_t)c, -1, 1);
    ops->dwconv3x3_gelu(x, h, w, c, weight, bias, out, bf16);
    for (int i = 0; i < (int)size; i++) {
        int ch = i % c, px = i / c % w, py = i / c / w;
        double sum = bias[ch];
        for (int t = 0; t < 9; t++) {
            int iy = py + t / 3 - 1, ix = px + t % 3 - 1;
            if (iy >= 0 && iy < h && ix >= 0 && ix < w)
                sum += (double)weight[t * c + ch] *
                       get(x, (size_t)((iy * w + ix) * c + ch), bf16);
        }
        check(get(out, (size_t)i, bf16), gelu(sum), 1e-6, 3e-6, bf16, "dwconv");
    }
}

static void dwconv_pads_with_zeros_and_applies_gelu(void **state)
{
    (void)state;
    each_isa(test_dwconv, 60);
}

static void test_im2col(const struct cpu_ops *ops, bool bf16)
{
    int h = pick(1, 20), w = pick(1, 20), c = pick(1, 9), k = pick(1, 7), stride = pick(1, 5);
    int pad = pick(0, k / 2);
    if (h + 2 * pad < k || w + 2 * pad < k)
        return;
    int oh = (h + 2 * pad - k) / stride + 1, ow = (w + 2 * pad - k) / stride + 1;
    int ld = k * k * c + pick(0, 20);
    void *in = acts((size_t)(h * w * c), 1, 2, bf16);
    void *out = acts((size_t)(oh * ow * ld), 9, 9, bf16);
    ops->im2col(in, h, w, c, k, stride, pad, oh, ow, ld, bf16 ? 2 : 4, out);
    for (int r = 0; r < oh * ow; r++)
        for (int j = 0; j < ld; j++) {
            int ch = j % c, x = r % ow * stride - pad + j / c % k;
            int y = r / ow * stride - pad + j / c / k;
            bool inside = j < k * k * c && y >= 0 && y < h && x >= 0 && x < w;
            double want = inside ? get(in, (size_t)((y * w + x) * c + ch), bf16) : 0;
            assert_true(get(out, (size_t)(r * ld + j), bf16) == want);
        }
}

static void im2col_copies_patches_and_zeroes_the_rest(void **state)
{
    (void)state;
    each_isa(test_im2col, 60);
}

/* ---- resizes ---- */

static void test_preprocess(const struct cpu_ops *ops, bool bf16)
{
    static const double mean[] = {123.675, 116.28, 103.53}, std[] = {58.395, 57.12, 57.375};
    int h = pick(1, 40), w = pick(0, 5) ? pick(1, 60) : pick(1000, 3000);
    ptrdiff_t stride = 3 * w + pick(0, 30);
    uint8_t *rgb = guarded((size_t)(stride * (h - 1) + 3 * w));
    for (ptrdiff_t i = 0; i < stride * (h - 1) + 3 * w; i++)
        rgb[i] = (uint8_t)rng();
    struct resize_axis rows, cols;
    fill_bilinear(&rows, h, pick(0, 2) ? pick(1, 50) : h);
    fill_bilinear(&cols, w, pick(0, 2) ? pick(1, 99) : w);
    void *out = acts((size_t)(rows.dst * cols.dst * 3), 0, 0, bf16);
    ops->preprocess(rgb, stride, &rows, &cols, out, bf16);
    for (int i = 0; i < rows.dst * cols.dst * 3; i++) {
        int ch = i % 3, x = i / 3 % cols.dst, y = i / 3 / cols.dst;
        double sum = 0;
        for (int s = 0; s < rows.taps; s++)
            for (int t = 0; t < cols.taps; t++)
                sum += (double)rows.weight[y * rows.taps + s] * cols.weight[x * cols.taps + t] *
                       rgb[(rows.index[y] + s) * stride + 3 * (cols.index[x] + t) + ch];
        check(get(out, (size_t)i, bf16), (sum - mean[ch]) / std[ch], 1e-6, 2e-6, bf16,
              "preprocess");
    }
}

static void preprocess_resizes_and_normalises(void **state)
{
    (void)state;
    each_isa(test_preprocess, 30);
}

static void test_fuse(const struct cpu_ops *ops, bool bf16)
{
    int h[4] = {pick(1, 40)}, w[4] = {pick(1, 90)}, e = pick(0, 1) ? pick(1, 50) : pick(1, 3) * 32;
    bool grid = rng() & 1, out_bf16 = rng() & 1;
    struct resize_axis rows[4], cols[4], grid_rows, grid_cols;
    const struct resize_axis *row[4], *col[4];
    const void *g[4];
    for (int i = 0; i < 4; i++) {
        if (i) {
            h[i] = (h[i - 1] + 1) / 2;
            w[i] = (w[i - 1] + 1) / 2;
        }
        fill_bilinear(&rows[i], h[i], h[0]);
        fill_bilinear(&cols[i], w[i], w[0]);
        row[i] = &rows[i];
        col[i] = &cols[i];
        g[i] = acts((size_t)(h[i] * w[i] * e), -2, 2, bf16);
    }
    fill_bilinear(&grid_rows, h[0], pick((h[0] + 1) / 2, h[0] + 5));
    fill_bilinear(&grid_cols, w[0], pick((w[0] + 1) / 2, w[0] + 5));
    float *bias = floats((size_t)e, -1, 1);
    int oh = grid ? grid_rows.dst : h[0], ow = grid ? grid_cols.dst : w[0];
    void *out = acts((size_t)(oh * ow * e), 0, 0, out_bf16);
    ops->fuse(g, row, col, e, bias, grid ? &grid_rows : NULL, grid ? &grid_cols : NULL, out, bf16,
              out_bf16);

    double *f = malloc((size_t)(h[0] * w[0] * e) * sizeof *f);
    for (int i = 0; i < h[0] * w[0] * e; i++) {
        int ch = i % e, x = i / e % w[0], y = i / e / w[0];
        f[i] = bias[ch];
        for (int l = 0; l < 4; l++)
            for (int s = 0; s < rows[l].taps; s++)
                for (int t = 0; t < cols[l].taps; t++)
                    f[i] += (double)rows[l].weight[y * rows[l].taps + s] *
                            cols[l].weight[x * cols[l].taps + t] *
                            get(g[l],
                                (size_t)(((rows[l].index[y] + s) * w[l] + cols[l].index[x] + t) *
                                             e +
                                         ch),
                                bf16);
        f[i] = fmax(f[i], 0);
    }
    for (int i = 0; i < oh * ow * e; i++) {
        int ch = i % e, x = i / e % ow, y = i / e / ow;
        double want = grid ? 0 : f[i];
        for (int s = 0; grid && s < grid_rows.taps; s++)
            for (int t = 0; t < grid_cols.taps; t++)
                want += (double)grid_rows.weight[y * grid_rows.taps + s] *
                        grid_cols.weight[x * grid_cols.taps + t] *
                        f[((grid_rows.index[y] + s) * w[0] + grid_cols.index[x] + t) * e + ch];
        check(get(out, (size_t)i, out_bf16), want, 1e-6, 3e-6, out_bf16, "fuse");
    }
    free(f);
}

static void fuse_sums_resized_maps_with_and_without_a_grid(void **state)
{
    (void)state;
    each_isa(test_fuse, 40);
}

/* ---- labels ---- */

static double logit_at(const float *logits, int classes, const struct resize_axis *rows,
                       const struct resize_axis *cols, int y, int x, int k)
{
    double sum = 0;
    for (int s = 0; s < rows->taps; s++)
        for (int t = 0; t < cols->taps; t++)
            sum += (double)rows->weight[y * rows->taps + s] * cols->weight[x * cols->taps + t] *
                   logits[((rows->index[y] + s) * cols->src + cols->index[x] + t) * classes + k];
    return sum;
}

static void test_labels(const struct cpu_ops *ops, bool whole)
{
    int classes = pick(0, 3) ? pick(1, 255) : 124;
    int row_taps = pick(1, 6), col_taps = pick(1, 6);
    struct resize_axis rows, cols;
    fill_random_axis(&rows, pick(row_taps, 9), pick(1, 12), row_taps);
    fill_random_axis(&cols, pick(col_taps, 9), pick(1, 40), col_taps);
    size_t count = (size_t)(rows.src * cols.src * classes);
    float *logits = floats(count, -3, 3);
    if (whole) /* small whole numbers, so that ties abound; weights that keep them exact */
        for (size_t i = 0; i < count; i++)
            logits[i] = (float)pick(0, 2);
    for (int i = 0; whole && i < rows.dst * rows.taps; i++)
        rows.weight[i] = i % rows.taps == 0;
    for (int i = 0; whole && i < cols.dst * cols.taps; i++)
        cols.weight[i] = i % cols.taps == 0;
    float *scratch = floats(cpu_labels_scratch(2, classes, &rows, &cols), 0, 0);
    uint8_t *out = guarded((size_t)(rows.dst * cols.dst));
    ops->labels(logits, classes, &rows, &cols, out, scratch);
    for (int i = 0; i < rows.dst * cols.dst; i++) {
        int y = i / cols.dst, x = i % cols.dst, best = 0;
        double max = -1e30;
        for (int k = 0; k < classes; k++) {
            double v = logit_at(logits, classes, &rows, &cols, y, x, k);
            if (v > max)
                max = v, best = k;
        }
        assert_true(out[i] < classes);
        if (whole)
            assert_int_equal(out[i], best);
        else
            check(logit_at(logits, classes, &rows, &cols, y, x, out[i]), max, 0, 2e-6, false,
                  "logit of the label");
    }
}

static void labels_are_the_largest_logit_and_ties_go_to_the_lower_class(void **state)
{
    (void)state;
    each_isa(test_labels, 80);
}

static void test_labels_hostile(const struct cpu_ops *ops, bool nan)
{
    int classes = pick(1, 40);
    struct resize_axis rows, cols;
    fill_bilinear(&rows, 3, 7);
    fill_bilinear(&cols, 4, 9);
    float *logits = floats((size_t)(12 * classes), -1, 1);
    for (int i = 0; i < 12 * classes; i++)
        logits[i] = nan ? NAN : rng() & 1 ? INFINITY : -INFINITY;
    float *scratch = floats(cpu_labels_scratch(2, classes, &rows, &cols), 0, 0);
    uint8_t *out = guarded(63);
    ops->labels(logits, classes, &rows, &cols, out, scratch);
    for (int i = 0; i < 63; i++)
        assert_true(out[i] < classes);
}

static void labels_are_classes_even_for_nan_and_infinite_logits(void **state)
{
    (void)state;
    each_isa(test_labels_hostile, 20);
}

/* ---- the scan ---- */

struct scan_case {
    struct scan_weights w;
    int rows, ld_a, ld_z, ld_dbc, count;
    void *a, *z, *b;
    float *dbc;
    struct scan_window windows[4];
};

/* Two windows side by side on a map of `height` x 2 * `width` tokens, with random states. */
static void scan_case(struct scan_case *k, int height, int width, int n, int taps, bool bf16)
{
    int d = pick(0, 2) ? pick(1, 90) : pick(1, 2) * 64, rank = pick(0, 1) ? pick(1, 20) : 16;
    size_t sd = (size_t)d;
    k->rows = height * 2 * width;
    k->ld_a = d + pick(0, 9);
    k->ld_z = d + pick(0, 9);
    k->ld_dbc = rank + 2 * n + pick(0, 5);
    k->count = 2;
    k->w = (struct scan_weights){.inner = d, .state = n, .conv = taps, .dt_rank = rank};
    k->w.conv_w = floats(sd * (size_t)taps, -1, 1);
    k->w.conv_b = floats(sd, -1, 1);
    k->w.dt_w = floats(sd * (size_t)rank, -1, 1);
    k->w.dt_bias = floats(sd, -6, 0);
    float *a = floats(sd * (size_t)n, -20, 0);
    for (size_t i = 0; i < sd * (size_t)n; i += 7)
        a[i] *= 0.001f; /* slow decays too */
    k->w.a_log2e = a;
    k->w.skip = floats(sd, -1, 1);
    k->a = acts((size_t)(k->rows * k->ld_a), -2, 2, bf16);
    k->b = acts((size_t)k->rows * sd, -2, 2, bf16);
    k->z = acts((size_t)(k->rows * k->ld_z), -4, 4, bf16);
    k->dbc = floats((size_t)(k->rows * k->ld_dbc), -1, 1);
    for (int i = 0; i < 2; i++)
        k->windows[i] = (struct scan_window){.row0 = i * width,
                                             .h = height,
                                             .w = width,
                                             .row_stride = 2 * width,
                                             .state = floats(sd * (size_t)n, -1, 1),
                                             .tail = floats(sd * (size_t)(taps - 1), -1, 1)};
}

static int row_of(const struct scan_window *win, int t)
{
    return win->row0 + t / win->w * win->row_stride + t % win->w;
}

static void test_scan_conv(const struct cpu_ops *ops, bool bf16)
{
    struct scan_case k;
    scan_case(&k, pick(1, 4), pick(1, 7), 1, pick(0, 1) ? 4 : pick(1, 6), bf16);
    int d = k.w.inner, taps = k.w.conv;
    size_t tail_bytes = (size_t)((taps - 1) * d) * 4;
    float *old[2] = {clone(k.windows[0].tail, tail_bytes), clone(k.windows[1].tail, tail_bytes)};
    ops->scan_conv(&k.w, k.windows, 2, k.a, (size_t)k.ld_a, k.b, bf16);
    for (int i = 0; i < 2; i++) {
        const struct scan_window *win = &k.windows[i];
        int tokens = win->h * win->w;
#define INPUT(t, c)                                                                                \
    ((t) < 0 ? (double)old[i][(taps - 1 + (t)) * d + (c)]                                          \
             : get(k.a, (size_t)(row_of(win, t) * k.ld_a + (c)), bf16))
        for (int t = 0; t < tokens; t++)
            for (int c = 0; c < d; c++) {
                double sum = k.w.conv_b[c];
                for (int j = 0; j < taps; j++)
                    sum += k.w.conv_w[j * d + c] * INPUT(t - taps + 1 + j, c);
                check(get(k.b, (size_t)(row_of(win, t) * d + c), bf16), silu(sum), 1e-6, 2e-6,
                      bf16, "scan_conv");
            }
        for (int j = 0; j < taps - 1; j++)
            for (int c = 0; c < d; c++)
                assert_true((double)win->tail[j * d + c] == INPUT(tokens - taps + 1 + j, c));
    }
}

static void scan_conv_is_causal_and_keeps_the_tail(void **state)
{
    (void)state;
    each_isa(test_scan_conv, 60);
}

static void test_scan(const struct cpu_ops *ops, bool bf16)
{
    struct scan_case k;
    int kind = pick(0, 9);
    scan_case(&k, pick(1, 4), kind == 9 ? 41 : pick(1, 7), kind < 5 ? 16 : pick(1, 40), 4, bf16);
    if (kind == 8)
        scan_case(&k, 1, 2, SCAN_MAX_STATES, 2, bf16);
    int d = k.w.inner, n = k.w.state, r = k.w.dt_rank;
    size_t state_bytes = (size_t)(n * d) * 4, b_bytes = (size_t)(k.rows * d) * (bf16 ? 2 : 4);
    float *old[2] = {clone(k.windows[0].state, state_bytes), clone(k.windows[1].state, state_bytes)};
    void *y = rng() & 1 ? k.b : acts((size_t)(k.rows * d), 0, 0, bf16); /* in place or not */
    void *b = clone(k.b, b_bytes);
    ops->selective_scan(&k.w, k.windows, 2, k.b, k.dbc, (size_t)k.ld_dbc, k.z, (size_t)k.ld_z, y,
                        bf16);
    /* s: the state; size: the same with all terms positive, which rounding errors are relative to */
    double *s = malloc(2 * (size_t)n * sizeof *s), *size = s + n;
    for (int i = 0; i < 2; i++)
        for (int c = 0; c < d; c++) {
            for (int j = 0; j < n; j++) {
                s[j] = old[i][j * d + c];
                size[j] = fabs(s[j]);
            }
            for (int t = 0; t < k.windows[i].h * k.windows[i].w; t++) {
                int row = row_of(&k.windows[i], t);
                const float *dbc = k.dbc + row * k.ld_dbc;
                double raw = k.w.dt_bias[c], in = get(b, (size_t)(row * d + c), bf16);
                for (int j = 0; j < r; j++)
                    raw += (double)k.w.dt_w[j * d + c] * dbc[j];
                double dt = log1p(exp(raw)), sum = 0, total = 0;
                for (int j = 0; j < n; j++) {
                    double e = exp2(dt * k.w.a_log2e[j * d + c]), u = dt * in * dbc[r + j];
                    s[j] = e * s[j] + u;
                    size[j] = e * size[j] + fabs(u);
                    sum += s[j] * dbc[r + n + j];
                    total += size[j] * fabs((double)dbc[r + n + j]);
                }
                double gate = silu(get(k.z, (size_t)(row * k.ld_z + c), bf16));
                check(get(y, (size_t)(row * d + c), bf16), (sum + k.w.skip[c] * in) * gate, 1e-5,
                      1e-5 * total * fabs(gate), bf16, "selective_scan");
            }
            for (int j = 0; j < n; j++)
                check(k.windows[i].state[j * d + c], s[j], 0, 1e-5 * size[j], false,
                      "hidden state");
        }
    free(s);
}

static void selective_scan_matches_the_recurrence(void **state)
{
    (void)state;
    each_isa(test_scan, 60);
}

/* Both kernels over one window of `height` rows, starting `from` rows down. */
static void scan_rows(const struct cpu_ops *ops, const struct scan_case *k, int from, int height,
                      float *state, float *tail, void *b, void *y, bool bf16)
{
    struct scan_window win = k->windows[0];
    win.row0 += from * win.row_stride;
    win.h = height;
    win.state = state;
    win.tail = tail;
    ops->scan_conv(&k->w, &win, 1, k->a, (size_t)k->ld_a, b, bf16);
    ops->selective_scan(&k->w, &win, 1, b, k->dbc, (size_t)k->ld_dbc, k->z, (size_t)k->ld_z, y,
                        bf16);
}

static void test_scan_carry(const struct cpu_ops *ops, bool bf16)
{
    struct scan_case k;
    scan_case(&k, 6, pick(1, 40), pick(0, 1) ? 16 : pick(1, 20), pick(0, 1) ? 4 : pick(1, 6), bf16);
    size_t s = (size_t)(k.w.state * k.w.inner) * 4, t = (size_t)((k.w.conv - 1) * k.w.inner) * 4;
    size_t bytes = (size_t)(k.rows * k.w.inner) * (bf16 ? 2 : 4);
    float *state[2] = {clone(k.windows[0].state, s), clone(k.windows[0].state, s)};
    float *tail[2] = {clone(k.windows[0].tail, t), clone(k.windows[0].tail, t)};
    void *b[2] = {k.b, clone(k.b, bytes)}, *y[2] = {clone(k.b, bytes), clone(k.b, bytes)};
    int cut = pick(1, 5);
    scan_rows(ops, &k, 0, 6, state[0], tail[0], b[0], y[0], bf16);
    scan_rows(ops, &k, 0, cut, state[1], tail[1], b[1], y[1], bf16);
    scan_rows(ops, &k, cut, 6 - cut, state[1], tail[1], b[1], y[1], bf16);
    assert_memory_equal(y[0], y[1], bytes);
    assert_memory_equal(state[0], state[1], s);
    assert_memory_equal(tail[0], tail[1], t);
}

static void scanning_in_two_calls_equals_one_bit_for_bit(void **state)
{
    (void)state;
    each_isa(test_scan_carry, 20);
}

static void test_scan_extremes(const struct cpu_ops *ops, bool bf16)
{
    struct scan_case k;
    scan_case(&k, 2, 4, 16, 4, bf16);
    for (int i = 0; i < k.rows * k.ld_dbc; i++)
        k.dbc[i] = uniform(-300, 300);
    size_t z_count = (size_t)(k.rows * k.ld_z);
    for (size_t i = 0; i < z_count; i++) {
        float v = (float)(i % 3) * 1e30f - 1e30f;
        if (bf16)
            ((uint16_t *)k.z)[i] = f32_to_bf16(v);
        else
            ((float *)k.z)[i] = v;
    }
    ops->selective_scan(&k.w, k.windows, 2, k.b, k.dbc, (size_t)k.ld_dbc, k.z, (size_t)k.ld_z, k.b,
                        bf16);
    for (int i = 0; i < k.rows * k.w.inner; i++)
        assert_false(isnan(get(k.b, (size_t)i, bf16)));
}

static void extreme_inputs_to_the_scan_give_no_nan(void **state)
{
    (void)state;
    each_isa(test_scan_extremes, 10);
}

/* ---- the functions under the kernels, over their whole range ---- */

/* SiLU by a convolution of one tap, weight one. */
static void test_silu_range(const struct cpu_ops *ops, bool bf16)
{
    (void)bf16;
    enum { N = 4096 };
    float *a = floats(N, -110, 110), *one = floats(1, 1, 1), *zero = floats(1, 0, 0);
    float *b = floats(N, 0, 0);
    struct scan_weights w = {.inner = 1, .conv = 1, .conv_w = one, .conv_b = zero};
    struct scan_window win = {.h = 1, .w = N, .tail = zero + 1};
    for (int i = 0; i < N / 2; i++)
        a[i] = uniform(-8, 8);
    a[N - 1] = INFINITY, a[N - 2] = -INFINITY, a[N - 3] = NAN, a[N - 4] = -0.0f;
    ops->scan_conv(&w, &win, 1, a, 1, b, false);
    for (int i = 0; i < N - 3; i++)
        check(b[i], silu((double)a[i]), 5e-7, 1e-35, false, "SiLU");
    assert_true(b[N - 1] == INFINITY && fabsf(b[N - 2]) < 1e-35f && isnan(b[N - 3]));
}

static void silu_is_exact_to_a_few_ulp_everywhere(void **state)
{
    (void)state;
    each_isa(test_silu_range, 4);
}

/* GELU by a convolution of a 1 x 1 map, centre weight one. */
static void test_gelu_range(const struct cpu_ops *ops, bool bf16)
{
    (void)bf16;
    enum { N = 4096 };
    float *x = floats(N, -20, 20), *weight = floats(9 * N, 0, 0), *zero = floats(N, 0, 0);
    float *out = floats(N, 0, 0);
    for (int i = 0; i < N; i++)
        weight[4 * N + i] = 1;
    x[N - 1] = INFINITY, x[N - 2] = -INFINITY, x[N - 3] = NAN;
    for (int i = 0; i < N / 2; i++)
        x[i] = uniform(-6, 6);
    ops->dwconv3x3_gelu(x, 1, 1, N, weight, zero, out, false);
    for (int i = 0; i < N - 3; i++)
        check(out[i], gelu((double)x[i]), 1e-7, 3e-7 * fabs((double)x[i]), false, "GELU");
    assert_true(out[N - 1] == INFINITY && fabsf(out[N - 2]) < 1e-6f && isnan(out[N - 3]));
}

static void gelu_is_exact_to_a_few_ulp_of_its_input_everywhere(void **state)
{
    (void)state;
    each_isa(test_gelu_range, 4);
}

/* softplus and exp2 by a scan of one token and one state: S = exp2(dt a) S + 0, y unused; and
 * S = 0 + dt b B for dt itself. */
static void test_softplus_range(const struct cpu_ops *ops, bool bf16)
{
    (void)bf16;
    enum { N = 4096 };
    float *raw = floats(N, -85, 100), *zero = floats(N, 0, 0), *ones = floats(N, 1, 1);
    float *slow = floats(N, -1e-30f, -1e-30f);
    float *s = floats(N, 0, 0), *y = floats(N, 0, 0), dbc[3] = {0, 1, 0};
    for (int i = 0; i < N / 2; i++)
        raw[i] = uniform(-5, 5);
    raw[N - 1] = INFINITY, raw[N - 2] = -INFINITY, raw[N - 3] = NAN;
    struct scan_weights w = {.inner = N, .state = 1, .conv = 1, .dt_rank = 1, .dt_w = zero,
                             .dt_bias = raw, .a_log2e = slow, .skip = zero};
    struct scan_window win = {.h = 1, .w = 1, .state = s};
    ops->selective_scan(&w, &win, 1, ones, dbc, 3, zero, N, y, false);
    for (int i = 0; i < N - 3; i++) {
        double want = raw[i] > 30 ? (double)raw[i] : log1p(exp((double)raw[i]));
        check(s[i], want, 5e-7, 0, false, "softplus");
    }
    assert_true(s[N - 1] == INFINITY && s[N - 2] < 1e-37f && isnan(s[N - 3]));

    /* exp2: dt = softplus(100) = 100 exactly, a = x / 100 */
    float *a = floats(N, -1.6f, 1.2f), *hundred = floats(N, 100, 100);
    a[0] = 0, a[1] = -INFINITY, a[2] = NAN, a[3] = 2, a[4] = -9;
    for (int i = 0; i < N; i++)
        s[i] = 1;
    w.dt_bias = hundred;
    w.a_log2e = a;
    dbc[1] = 0;
    ops->selective_scan(&w, &win, 1, ones, dbc, 3, zero, N, y, false);
    assert_true(s[0] == 1 && s[1] == 0 && isnan(s[2]) && s[3] == INFINITY && s[4] == 0);
    for (int i = 5; i < N; i++)
        check(s[i], exp2((double)(100 * a[i])), 4e-7, 2e-38, false, "exp2");
}

static void softplus_and_exp2_are_exact_to_a_few_ulp_everywhere(void **state)
{
    (void)state;
    each_isa(test_softplus_range, 4);
}

/* ---- threads ---- */

static void test_threads(const struct cpu_ops *ops, bool bf16)
{
    struct scan_case k;
    scan_case(&k, 24, 24, 16, 4, bf16);
    int d = k.w.inner, h = 40, w = 50;
    size_t e = bf16 ? 2 : 4, bytes = (size_t)(k.rows * d) * e, s = (size_t)(16 * d) * 4;
    float *first = clone(k.windows[0].state, s), *tail = clone(k.windows[0].tail, (size_t)(3 * d) * 4);
    void *x = acts((size_t)(h * w * 64), -1, 1, bf16), *conv[2], *norm[2], *y[2];
    float *weight = floats(9 * 64, -1, 1), *bias = floats(64, -1, 1), *state[2];
    for (int i = 0; i < 2; i++) {
        set_threads(i + 1);
        conv[i] = acts((size_t)(h * w * 64), 0, 0, bf16);
        norm[i] = acts((size_t)(h * w * 64), 0, 0, bf16);
        y[i] = guarded(bytes);
        state[i] = clone(first, s);
        k.windows[0].state = state[i];
        k.windows[0].tail = clone(tail, (size_t)(3 * d) * 4);
        ops->scan_conv(&k.w, k.windows, 1, k.a, (size_t)k.ld_a, y[i], bf16);
        ops->selective_scan(&k.w, k.windows, 1, y[i], k.dbc, (size_t)k.ld_dbc, k.z,
                            (size_t)k.ld_z, y[i], bf16);
        ops->dwconv3x3_gelu(x, h, w, 64, weight, bias, conv[i], bf16);
        ops->layernorm(x, bf16, (size_t)(h * w), 64, weight, bias, 1e-5f, norm[i], bf16);
    }
    set_threads(2);
    for (int t = 0; t < 24 * 24; t++) { /* only window 0's rows were written */
        size_t at = (size_t)(row_of(&k.windows[0], t) * d) * e;
        assert_memory_equal((char *)y[0] + at, (char *)y[1] + at, (size_t)d * e);
    }
    assert_memory_equal(state[0], state[1], s);
    assert_memory_equal(conv[0], conv[1], (size_t)(h * w * 64) * e);
    assert_memory_equal(norm[0], norm[1], (size_t)(h * w * 64) * e);
}

static void results_do_not_depend_on_the_number_of_threads(void **state)
{
    (void)state;
    each_isa(test_threads, 6);
}

static void unknown_instruction_sets_have_no_kernels(void **state)
{
    (void)state;
    assert_null(cpu_ops_get("sse9"));
    assert_non_null(cpu_ops_get("baseline"));
    assert_non_null(cpu_ops_get(NULL));
}

int main(void)
{
    set_threads(2);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(unknown_instruction_sets_have_no_kernels),
        cmocka_unit_test(conversions_round_to_nearest_even_and_add_adds),
        cmocka_unit_test(layernorm_matches_the_formula_in_place_too),
        cmocka_unit_test(rmsnorm_matches_the_formula),
        cmocka_unit_test(softmax_rows_gives_probabilities_and_zero_padding),
        cmocka_unit_test(softmax_bias_rows_adds_bias_and_mask),
        cmocka_unit_test(scale_rows_touches_only_its_columns),
        cmocka_unit_test(dwconv_pads_with_zeros_and_applies_gelu),
        cmocka_unit_test(im2col_copies_patches_and_zeroes_the_rest),
        cmocka_unit_test(preprocess_resizes_and_normalises),
        cmocka_unit_test(fuse_sums_resized_maps_with_and_without_a_grid),
        cmocka_unit_test(labels_are_the_largest_logit_and_ties_go_to_the_lower_class),
        cmocka_unit_test(labels_are_classes_even_for_nan_and_infinite_logits),
        cmocka_unit_test(scan_conv_is_causal_and_keeps_the_tail),
        cmocka_unit_test(selective_scan_matches_the_recurrence),
        cmocka_unit_test(scanning_in_two_calls_equals_one_bit_for_bit),
        cmocka_unit_test(extreme_inputs_to_the_scan_give_no_nan),
        cmocka_unit_test(silu_is_exact_to_a_few_ulp_everywhere),
        cmocka_unit_test(gelu_is_exact_to_a_few_ulp_of_its_input_everywhere),
        cmocka_unit_test(softplus_and_exp2_are_exact_to_a_few_ulp_everywhere),
        cmocka_unit_test(results_do_not_depend_on_the_number_of_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
