/* Conversions, norms, softmax, convolutions; and the dispatch. */
#include "tests/unit/kernel_tests.h"

static void unknown_instruction_sets_have_no_kernels(void **state)
{
    (void)state;
    assert_null(cpu_ops_get("sse9"));
    assert_non_null(cpu_ops_get("baseline"));
    assert_non_null(cpu_ops_get(NULL));
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
            check(get(out, r * (size_t)c + j, out_bf16), n * gamma[j] + beta[j], 1e-6, 3e-6 * scale,
                  out_bf16, "layernorm");
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
            t[j] =
                (double)0.3f * s[i * ld_s + j] + bias[i * n + j] + (masked ? mask[i * n + j] : 0);
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
                sum += (double)weight[t * c + ch] * get(x, (size_t)((iy * w + ix) * c + ch), bf16);
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
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
