/* The CUDA scan and its convolution. */
#include "tests/unit/cuda_tests.h"

struct scan_case {
    struct scan_weights w;
    int rows, count;
    void *xz, *b;
    float *dbc;
    struct scan_window *windows;
};

static int row_of(const struct scan_window *win, int t)
{
    return win->row0 + t / win->w * win->row_stride + t % win->w;
}

/* `count` windows of `height` x `width` tokens side by side on one map, with random states. */
static void scan_case(struct scan_case *k, int count, int height, int width, int d, int n, int rank,
                      int taps, bool bf16)
{
    size_t sd = (size_t)d, states = sd * (size_t)n, tail = sd * (size_t)(taps - 1);
    k->rows = height * count * width;
    k->count = count;
    k->w = (struct scan_weights){.inner = d, .state = n, .conv = taps, .dt_rank = rank};
    k->w.conv_w = floats(sd * (size_t)taps, -1, 1);
    k->w.conv_b = floats(sd, -1, 1);
    k->w.dt_w = floats(sd * (size_t)rank, -1, 1);
    k->w.dt_bias = floats(sd, -6, 0);
    float *a = floats(states, -20, 0);
    for (size_t i = 0; i < states; i += 7)
        a[i] *= 0.001f; /* slow decays too */
    k->w.a_log2e = a;
    k->w.skip = floats(sd, -1, 1);
    k->xz = acts((size_t)k->rows * 2 * sd, -4, 4, bf16);
    k->b = acts((size_t)k->rows * sd, -2, 2, bf16);
    k->dbc = floats((size_t)(k->rows * (rank + 2 * n)), -1, 1);
    k->windows = guarded((size_t)count * sizeof *k->windows);
    float *state = floats((size_t)count * states, -1, 1);
    float *tails = floats((size_t)count * tail, -1, 1);
    for (int i = 0; i < count; i++)
        k->windows[i] = (struct scan_window){.row0 = i * width,
                                             .h = height,
                                             .w = width,
                                             .row_stride = count * width,
                                             .state = state + (size_t)i * states,
                                             .tail = tails + (size_t)i * tail};
}

/* ---- the convolution ---- */

static void check_conv(const struct scan_case *k, const float *old, bool bf16)
{
    int d = k->w.inner, taps = k->w.conv;
    for (int i = 0; i < k->count; i++) {
        const struct scan_window *win = &k->windows[i];
        const float *before = old + i * (taps - 1) * d;
        int tokens = win->h * win->w;
#define INPUT(t, c)                                                                                \
    ((t) < 0 ? (double)before[(taps - 1 + (t)) * d + (c)]                                          \
             : get(k->xz, (size_t)(row_of(win, t) * 2 * d + (c)), bf16))
        for (int t = 0; t < tokens; t++)
            for (int c = 0; c < d; c++) {
                double sum = k->w.conv_b[c];
                for (int j = 0; j < taps; j++)
                    sum += k->w.conv_w[j * d + c] * INPUT(t - taps + 1 + j, c);
                check(get(k->b, (size_t)(row_of(win, t) * d + c), bf16), silu(sum), 2e-6, 4e-6,
                      bf16, "scan_conv");
            }
        for (int j = 0; j < taps - 1; j++)
            for (int c = 0; c < d; c++)
                assert_true((double)win->tail[j * d + c] == INPUT(tokens - taps + 1 + j, c));
#undef INPUT
    }
}

static void test_scan_conv(bool bf16)
{
    struct scan_case k;
    int d = pick(0, 2) ? pick(1, 70) : pick(1, 4) * 32, taps = pick(0, 1) ? 4 : pick(1, 17);
    if (pick(0, 5) == 0)
        scan_case(&k, 1, 1, pick(513, 560), 4 * pick(1, 2), 1, 1, 4, bf16); /* a second round */
    else
        scan_case(&k, pick(1, 3), pick(1, 6), pick(1, 9), d, 1, 1, taps, bf16);
    size_t tail_bytes = (size_t)(k.count * (k.w.conv - 1) * k.w.inner) * 4;
    const float *old = clone(k.windows[0].tail, tail_bytes);
    launched(cuda_scan_conv(&k.w, k.windows, k.count, k.xz, k.b, bf16, NULL));
    check_conv(&k, old, bf16);
}

static void scan_conv_is_causal_and_keeps_the_tail(void **state)
{
    (void)state;
    each_act(test_scan_conv, 40);
}

static void more_taps_than_a_segment_has_tokens_are_refused(void **state)
{
    (void)state;
    struct scan_weights w = {.inner = 4, .conv = 18};
    assert_int_equal(cuda_scan_conv(&w, NULL, 1, NULL, NULL, false, NULL), cudaErrorInvalidValue);
}

/* ---- the scan ---- */

/* b: the scan's input; s0: the states before it. Rounding errors are relative to the state with all
 * terms positive. */
static void check_scan(const struct scan_case *k, const void *b, const float *s0, const void *y,
                       bool bf16)
{
    int d = k->w.inner, n = k->w.state, r = k->w.dt_rank;
    double *s = malloc(2 * (size_t)n * sizeof *s), *size = s + n;
    for (int i = 0; i < k->count; i++)
        for (int c = 0; c < d; c++) {
            const struct scan_window *win = &k->windows[i];
            for (int j = 0; j < n; j++) {
                s[j] = s0[(i * n + j) * d + c];
                size[j] = fabs(s[j]);
            }
            for (int t = 0; t < win->h * win->w; t++) {
                int row = row_of(win, t);
                const float *dbc = k->dbc + row * (r + 2 * n);
                double raw = k->w.dt_bias[c], in = get(b, (size_t)(row * d + c), bf16);
                for (int j = 0; j < r; j++)
                    raw += (double)k->w.dt_w[j * d + c] * dbc[j];
                double dt = log1p(exp(raw)), sum = 0, total = 0;
                for (int j = 0; j < n; j++) {
                    double e = exp2(dt * k->w.a_log2e[j * d + c]), u = dt * in * dbc[r + j];
                    s[j] = e * s[j] + u;
                    size[j] = e * size[j] + fabs(u);
                    sum += s[j] * dbc[r + n + j];
                    total += size[j] * fabs((double)dbc[r + n + j]);
                }
                double gate = silu(get(k->xz, (size_t)(row * 2 * d + d + c), bf16));
                check(get(y, (size_t)(row * d + c), bf16), (sum + k->w.skip[c] * in) * gate, 1e-5,
                      1e-5 * total * fabs(gate), bf16, "selective_scan");
            }
            for (int j = 0; j < n; j++)
                check(win->state[j * d + c], s[j], 0, 1e-5 * size[j], false, "hidden state");
        }
    free(s);
}

static void scan_and_check(struct scan_case *k, bool in_place, bool bf16)
{
    size_t count = (size_t)(k->rows * k->w.inner), bytes = count * (bf16 ? 2 : 4);
    void *y = in_place ? k->b : acts(count, 0, 0, bf16), *b = clone(k->b, bytes);
    const float *s0 =
        clone(k->windows[0].state, (size_t)(k->count * k->w.state * k->w.inner) * sizeof(float));
    launched(cuda_selective_scan(&k->w, k->windows, k->count, k->b, k->dbc, k->xz, y, bf16, NULL));
    check_scan(k, b, s0, y, bf16);
}

/* 16 states, rank up to 16: the kernel with the states in registers, four lanes a channel. */
static void test_scan(bool bf16)
{
    struct scan_case k;
    int d = pick(0, 2) ? pick(1, 70) : pick(1, 4) * 32, rank = pick(0, 1) ? 16 : pick(1, 16);
    scan_case(&k, pick(1, 2), pick(1, 5), pick(1, 9), d, 16, rank, 4, bf16);
    scan_and_check(&k, rng() & 1, bf16);
}

static void selective_scan_matches_the_recurrence(void **state)
{
    (void)state;
    each_act(test_scan, 40);
}

static void test_scan_any(bool bf16)
{
    struct scan_case k;
    int n = pick(1, 40), rank = n == 16 ? 17 : pick(1, 40);
    scan_case(&k, pick(1, 2), pick(1, 3), pick(1, 7), pick(1, 140), n, rank, 4, bf16);
    scan_and_check(&k, rng() & 1, bf16);
}

static void other_numbers_of_states_and_ranks_match_too(void **state)
{
    (void)state;
    each_act(test_scan_any, 16);
}

/* Enough windows to fill a card: one lane a channel. The first two again by themselves, four lanes
 * a channel, give the same bits. */
static void test_scan_many(bool bf16)
{
    struct scan_case k;
    enum { COUNT = 4 * 132 };
    int d = 8 * pick(1, 2);
    scan_case(&k, COUNT, 1, pick(17, 34), d, 16, 16, 4, bf16);
    size_t bytes = (size_t)(k.rows * d) * (bf16 ? 2 : 4), s = (size_t)(2 * 16 * d) * sizeof(float);
    float *first = k.windows[0].state, *again = clone(first, s);
    void *y = guarded(bytes);
    struct scan_window *two = clone(k.windows, 2 * sizeof *two);
    two[0].state = again;
    two[1].state = again + 16 * d;
    launched(cuda_selective_scan(&k.w, two, 2, k.b, k.dbc, k.xz, y, bf16, NULL));
    scan_and_check(&k, true, bf16);
    assert_memory_equal(first, again, s);
    for (int i = 0; i < 2; i++)
        for (int t = 0; t < two[i].w; t++) {
            size_t row = (size_t)d * (bf16 ? 2 : 4), at = (size_t)row_of(&two[i], t) * row;
            assert_memory_equal((char *)k.b + at, (char *)y + at, row);
        }
}

static void a_windows_result_does_not_depend_on_how_many_there_are(void **state)
{
    (void)state;
    each_act(test_scan_many, 4);
}

/* Both kernels over `height` rows of the case's window, starting `from` rows down. */
static void scan_rows(const struct scan_case *k, int from, int height, float *state, float *tail,
                      void *y, bool bf16)
{
    struct scan_window *win = guarded(sizeof *win);
    *win = k->windows[0];
    win->row0 += from * win->row_stride;
    win->h = height;
    win->state = state;
    win->tail = tail;
    launched(cuda_scan_conv(&k->w, win, 1, k->xz, y, bf16, NULL));
    launched(cuda_selective_scan(&k->w, win, 1, y, k->dbc, k->xz, y, bf16, NULL));
}

static void test_carry(bool bf16)
{
    struct scan_case k;
    int d = pick(1, 40);
    scan_case(&k, 1, 6, 7, d, 16, 16, 4, bf16);
    size_t s = (size_t)(16 * d) * 4, t = (size_t)(3 * d) * 4;
    size_t bytes = (size_t)(k.rows * d) * (bf16 ? 2 : 4);
    float *state = clone(k.windows[0].state, s), *tail = clone(k.windows[0].tail, t);
    void *y[2] = {guarded(bytes), guarded(bytes)};
    int cut = pick(1, 5);
    scan_rows(&k, 0, 6, k.windows[0].state, k.windows[0].tail, y[0], bf16);
    scan_rows(&k, 0, cut, state, tail, y[1], bf16);
    scan_rows(&k, cut, 6 - cut, state, tail, y[1], bf16);
    assert_memory_equal(y[0], y[1], bytes);
    assert_memory_equal(k.windows[0].state, state, s);
    assert_memory_equal(k.windows[0].tail, tail, t);
}

static void scanning_in_two_launches_equals_one_bit_for_bit(void **state)
{
    (void)state;
    each_act(test_carry, 8);
}

static void test_extremes(bool bf16)
{
    struct scan_case k;
    scan_case(&k, 2, 2, 4, 40, 16, 16, 4, bf16);
    for (int i = 0; i < k.rows * 48; i++)
        k.dbc[i] = uniform(-300, 300);
    for (int i = 0; i < k.rows * 2 * 40; i++) {
        float v = (float)(i % 3) * 1e30f - 1e30f;
        if (bf16)
            ((uint16_t *)k.xz)[i] = f32_to_bf16(v);
        else
            ((float *)k.xz)[i] = v;
    }
    launched(cuda_selective_scan(&k.w, k.windows, 2, k.b, k.dbc, k.xz, k.b, bf16, NULL));
    for (int i = 0; i < k.rows * k.w.inner; i++)
        assert_false(isnan(get(k.b, (size_t)i, bf16)));
}

static void extreme_inputs_to_the_scan_give_no_nan(void **state)
{
    (void)state;
    each_act(test_extremes, 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scan_conv_is_causal_and_keeps_the_tail),
        cmocka_unit_test(more_taps_than_a_segment_has_tokens_are_refused),
        cmocka_unit_test(selective_scan_matches_the_recurrence),
        cmocka_unit_test(other_numbers_of_states_and_ranks_match_too),
        cmocka_unit_test(a_windows_result_does_not_depend_on_how_many_there_are),
        cmocka_unit_test(scanning_in_two_launches_equals_one_bit_for_bit),
        cmocka_unit_test(extreme_inputs_to_the_scan_give_no_nan),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
