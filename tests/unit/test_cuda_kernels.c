/* The CUDA norms, depthwise convolution and fuse. */
#include "tests/unit/cuda_tests.h"

/* ---- norms ---- */

/* Channels of a row: short and long ones, in registers and not. */
static int pick_channels(void)
{
    static const int usual[] = {32, 64, 96, 128, 160, 256, 320, 512, 768, 1024, 2048};
    return pick(0, 1) ? usual[pick(0, 10)] : pick(0, 1) ? pick(1, 200) : 4 * pick(1, 60);
}

static void test_layernorm(bool bf16)
{
    size_t rows = (size_t)pick(1, 40), c = (size_t)pick_channels();
    bool out_bf16 = rng() & 1;
    float offset = uniform(-2, 2);
    void *x = acts(rows * c, offset - 1, offset + 1, bf16);
    float *gamma = floats(c, -2, 2), *beta = floats(c, -2, 2);
    void *out = acts(rows * c, 0, 0, out_bf16);
    launched(cuda_layernorm(x, bf16, rows, (int)c, gamma, beta, 1e-5f, out, out_bf16, NULL));
    for (size_t r = 0; r < rows; r++) {
        double mean = 0, var = 0, n = (double)c;
        for (size_t j = 0; j < c; j++)
            mean += get(x, r * c + j, bf16) / n;
        for (size_t j = 0; j < c; j++)
            var += pow(get(x, r * c + j, bf16) - mean, 2) / n;
        for (size_t j = 0; j < c; j++) {
            double v = (get(x, r * c + j, bf16) - mean) / sqrt(var + (double)1e-5f);
            double scale = c < 4 ? 100 : 1; /* one or two equal channels: 0 / eps */
            check(get(out, r * c + j, out_bf16), v * gamma[j] + beta[j], 1e-6, 3e-6 * scale,
                  out_bf16, "layernorm");
        }
    }
    if (bf16 == out_bf16) { /* in place */
        launched(cuda_layernorm(x, bf16, rows, (int)c, gamma, beta, 1e-5f, x, bf16, NULL));
        assert_memory_equal(x, out, rows * c * (bf16 ? 2 : 4));
    }
}

static void layernorm_matches_the_formula_in_place_too(void **state)
{
    (void)state;
    each_act(test_layernorm, 60);
}

static void test_rmsnorm(bool bf16)
{
    size_t rows = (size_t)pick(1, 40), c = (size_t)pick_channels();
    float *x = floats(rows * c, -3, 3), *weight = floats(c, -2, 2);
    void *out = acts(rows * c, 0, 0, bf16);
    launched(cuda_rmsnorm(x, rows, (int)c, weight, 1e-5f, out, bf16, NULL));
    for (size_t r = 0; r < rows; r++) {
        double square = 0;
        for (size_t j = 0; j < c; j++)
            square += pow((double)x[r * c + j], 2) / (double)c;
        for (size_t j = 0; j < c; j++)
            check(get(out, r * c + j, bf16),
                  x[r * c + j] / sqrt(square + (double)1e-5f) * weight[j], 1e-6, 1e-9, bf16,
                  "rmsnorm");
    }
}

static void rmsnorm_matches_the_formula(void **state)
{
    (void)state;
    each_act(test_rmsnorm, 60);
}

/* ---- depthwise convolution ---- */

static void test_dwconv(bool bf16)
{
    int images = pick(1, 2), h = pick(1, 11), w = pick(0, 2) ? pick(1, 9) : pick(15, 34);
    int c = pick(0, 1) ? pick(1, 40) : 4 * pick(1, 40);
    size_t count = (size_t)(images * h * w * c);
    void *x = acts(count, -2, 2, bf16), *out = acts(count, 0, 0, bf16);
    float *weight = floats(9 * (size_t)c, -1, 1), *bias = floats((size_t)c, -1, 1);
    launched(cuda_dwconv_gelu(x, images, h, w, c, weight, bias, out, bf16, NULL));
    for (size_t at = 0; at < count; at++) {
        int ch = (int)at % c, col = (int)at / c % w, row = (int)at / c / w % h;
        double sum = bias[ch], size = fabs(sum);
        for (int j = 0; j < 9; j++) {
            int dy = j / 3 - 1, dx = j % 3 - 1;
            if (row + dy < 0 || row + dy >= h || col + dx < 0 || col + dx >= w)
                continue;
            double v = weight[j * c + ch] * get(x, at + (size_t)((dy * w + dx) * c), bf16);
            sum += v;
            size += fabs(v);
        }
        check(get(out, at, bf16), gelu(sum), 1e-6, 1e-6 * size, bf16, "dwconv");
    }
}

static void dwconv_matches_the_convolution_at_every_border(void **state)
{
    (void)state;
    each_act(test_dwconv, 40);
}

/* ---- fuse ---- */

static double resized(const void *g, const cuda_axis *row, const cuda_axis *col, int e, int y,
                      int x, int ch, bool bf16)
{
    double sum = 0;
    for (int s = 0; s < row->taps; s++)
        for (int t = 0; t < col->taps; t++)
            sum += (double)row->weight[y * row->taps + s] * col->weight[x * col->taps + t] *
                   get(g, (size_t)(((row->index[y] + s) * col->src + col->index[x] + t) * e + ch),
                       bf16);
    return sum;
}

static void test_fuse(bool bf16)
{
    int h[4] = {pick(1, 13)}, w[4] = {pick(1, 17)}, e = pick(0, 1) ? pick(1, 50) : 4 * pick(1, 20);
    bool grid = rng() & 1;
    cuda_axis rows[4], cols[4], grid_rows, grid_cols;
    const void *g[4];
    for (int i = 0; i < 4; i++) {
        h[i] = i ? (h[i - 1] + 1) / 2 : h[0];
        w[i] = i ? (w[i - 1] + 1) / 2 : w[0];
        fill_bilinear(&rows[i], h[i], h[0]);
        fill_bilinear(&cols[i], w[i], w[0]);
        g[i] = acts((size_t)(h[i] * w[i] * e), -2, 2, bf16);
    }
    fill_bilinear(&grid_rows, h[0], pick((h[0] + 1) / 2, h[0] + 5));
    fill_bilinear(&grid_cols, w[0], pick((w[0] + 1) / 2, w[0] + 5));
    float *bias = floats((size_t)e, -1, 1);
    int oh = grid ? grid_rows.dst : h[0], ow = grid ? grid_cols.dst : w[0];
    void *out = acts((size_t)(oh * ow * e), 0, 0, bf16 && !grid);
    launched(cuda_fuse(g, rows, cols, e, bias, grid ? &grid_rows : NULL, grid ? &grid_cols : NULL,
                       out, bf16, NULL));

    size_t count = (size_t)(h[0] * w[0] * e);
    float *f = guarded(count * sizeof *f);
    for (size_t i = 0; i < count; i++) {
        int ch = (int)i % e, x = (int)i / e % w[0], y = (int)i / e / w[0];
        double sum = bias[ch];
        for (int l = 0; l < 4; l++)
            sum += resized(g[l], &rows[l], &cols[l], e, y, x, ch, bf16);
        f[i] = (float)fmax(sum, 0);
    }
    for (int i = 0; i < oh * ow * e; i++) {
        int ch = i % e, x = i / e % ow, y = i / e / ow;
        double want = grid ? resized(f, &grid_rows, &grid_cols, e, y, x, ch, false) : (double)f[i];
        check(get(out, (size_t)i, bf16 && !grid), want, 1e-6, 4e-6, bf16 && !grid, "fuse");
    }
}

static void fuse_resizes_sums_and_resizes_again(void **state)
{
    (void)state;
    each_act(test_fuse, 40);
}

static void a_map_of_more_than_32_bits_is_refused(void **state)
{
    (void)state;
    cuda_axis rows[4] = {{.dst = 70000}}, cols[4] = {{.dst = 70000}};
    const void *g[4] = {NULL};
    float x = 0;
    assert_int_equal(cuda_fuse(g, rows, cols, 1, NULL, NULL, NULL, NULL, false, NULL),
                     cudaErrorInvalidValue);
    assert_int_equal(cuda_im2col(&x, 1, 9, 9, 3, 3, 1, 1, 30000, 30000, 27, 4, &x, NULL),
                     cudaErrorInvalidValue);
    assert_int_equal(cuda_gather(&x, NULL, 1000, 1, 5000000, 1, 2, &x, NULL),
                     cudaErrorInvalidValue);
    assert_int_equal(cuda_scatter_add(&x, NULL, 1000, 1, 5000000, 1, &x, NULL),
                     cudaErrorInvalidValue);
}

/* ---- labels ---- */

/* Weights are quarters, zero too, so that every sum is exact, and ties are many. Of 150 columns not
 * all fit into shared memory at once. */
static cuda_axis any_axis(int dst)
{
    cuda_axis a = {.dst = dst, .src = pick(1, pick(0, 1) ? 40 : 150)};
    a.taps = pick(1, a.src < 6 ? a.src : 6);
    a.index = guarded((size_t)dst * sizeof *a.index);
    a.weight = guarded((size_t)dst * (size_t)a.taps * sizeof *a.weight);
    for (int i = 0; i < dst; i++)
        a.index[i] = (int)((long)i * (a.src - a.taps + 1) / dst);
    for (int i = 0; i < dst * a.taps; i++)
        a.weight[i] = (float)pick(0, 4) / 4;
    return a;
}

static int best_at(const float *logits, int classes, const cuda_axis *rows, const cuda_axis *cols,
                   int y, int x)
{
    double best = -INFINITY;
    int at = 0;
    for (int k = 0; k < classes; k++) {
        double v = resized(logits, rows, cols, classes, y, x, k, false);
        if (v > best) {
            best = v;
            at = k;
        }
    }
    return at;
}

static void test_labels(bool any)
{
    static const int usual[] = {19, 32, 124, 128, 150, 255};
    int classes = any ? pick(1, 40) : usual[pick(0, 5)];
    int h = pick(1, 11), w = pick(0, 1) ? pick(1, 40) : pick(120, 300);
    cuda_axis rows = any_axis(h), cols = any_axis(w);
    size_t count = (size_t)rows.src * (size_t)cols.src * (size_t)classes;
    float *logits = guarded(count * sizeof *logits);
    uint8_t *out = guarded((size_t)h * (size_t)w);
    for (size_t i = 0; i < count; i++)
        logits[i] = (float)pick(-30, -1);
    launched(cuda_labels(logits, classes, rows, cols, out, NULL));
    for (int y = 0; y < h; y++)
        for (int x = 0; x < w; x++)
            assert_int_equal(out[y * w + x], best_at(logits, classes, &rows, &cols, y, x));
}

static void labels_are_the_best_class_and_of_equals_the_lower(void **state)
{
    (void)state;
    each_act(test_labels, 40);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(layernorm_matches_the_formula_in_place_too),
        cmocka_unit_test(rmsnorm_matches_the_formula),
        cmocka_unit_test(dwconv_matches_the_convolution_at_every_border),
        cmocka_unit_test(fuse_resizes_sums_and_resizes_again),
        cmocka_unit_test(a_map_of_more_than_32_bits_is_refused),
        cmocka_unit_test(labels_are_the_best_class_and_of_equals_the_lower),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
