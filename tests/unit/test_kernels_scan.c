/* The scan and its convolution, the functions inside the kernels, and threads. */
#include "tests/unit/scan_tests.h"

static void test_scan_conv(const struct cpu_ops *ops, bool bf16)
{
    struct scan_case k;
    scan_case(&k, pick(1, 4), pick(1, 7), 1, pick(0, 1) ? 4 : pick(1, 6), bf16, false);
    size_t tail_bytes = (size_t)((k.w.conv - 1) * k.w.inner) * 4;
    float *old[2] = {clone(k.windows[0].tail, tail_bytes), clone(k.windows[1].tail, tail_bytes)};
    ops->scan_conv(&k.w, k.windows, 2, k.a, (size_t)k.ld_a, k.b, bf16);
    check_scan_conv(&k, old, bf16);
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
    scan_case(&k, pick(1, 4), kind == 9 ? 41 : pick(1, 7), kind < 5 ? 16 : pick(1, 40), 4, bf16,
              false);
    if (kind == 8)
        scan_case(&k, 1, 2, SCAN_MAX_STATES, 2, bf16, false);
    size_t state_bytes = (size_t)(k.w.state * k.w.inner) * 4;
    size_t b_bytes = (size_t)(k.rows * k.w.inner) * (bf16 ? 2 : 4);
    float *old[2] = {clone(k.windows[0].state, state_bytes),
                     clone(k.windows[1].state, state_bytes)};
    void *y =
        rng() & 1 ? k.b : acts((size_t)(k.rows * k.w.inner), 0, 0, bf16); /* in place or not */
    void *b = clone(k.b, b_bytes);
    ops->selective_scan(&k.w, k.windows, 2, k.b, k.dbc, (size_t)k.ld_dbc, k.z, (size_t)k.ld_z, y,
                        bf16);
    check_scan(&k, old, b, y, bf16);
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
    scan_case(&k, 6, pick(1, 40), pick(0, 1) ? 16 : pick(1, 20), pick(0, 1) ? 4 : pick(1, 6), bf16,
              false);
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
    scan_case(&k, 2, 4, 16, 4, bf16, false);
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
    struct scan_weights w = {.inner = N,
                             .state = 1,
                             .conv = 1,
                             .dt_rank = 1,
                             .dt_w = zero,
                             .dt_bias = raw,
                             .a_log2e = slow,
                             .skip = zero};
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
    scan_case(&k, 24, 24, 16, 4, bf16, false);
    int d = k.w.inner, h = 40, w = 50;
    size_t e = bf16 ? 2 : 4, bytes = (size_t)(k.rows * d) * e, s = (size_t)(16 * d) * 4;
    float *first = clone(k.windows[0].state, s),
          *tail = clone(k.windows[0].tail, (size_t)(3 * d) * 4);
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
        ops->selective_scan(&k.w, k.windows, 1, y[i], k.dbc, (size_t)k.ld_dbc, k.z, (size_t)k.ld_z,
                            y[i], bf16);
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

int main(void)
{
    set_threads(2);
    const struct CMUnitTest tests[] = {
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
