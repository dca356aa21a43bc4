/* The CUDA scan and its convolution: every width, number of states, rank and taps, and launches of
 * many windows, which are computed another way to the same bits. */
#include "tests/unit/cuda_tests.h"
#include "tests/unit/scan_tests.h"

static void test_scan_conv(bool bf16)
{
    struct scan_case k;
    scan_case(&k, pick(1, 4), pick(1, 7), 1, pick(0, 1) ? 4 : pick(1, 17), bf16, true);
    size_t tail_bytes = (size_t)((k.w.conv - 1) * k.w.inner) * 4;
    float *old[2] = {clone(k.windows[0].tail, tail_bytes), clone(k.windows[1].tail, tail_bytes)};
    launched(cuda_scan_conv(&k.w, k.windows, 2, k.a, k.b, bf16, NULL));
    check_scan_conv(&k, old, bf16);
}

static void scan_conv_is_causal_and_keeps_the_tail(void **state)
{
    (void)state;
    each_act(test_scan_conv, 60);
}

static void more_taps_than_there_can_be_are_refused(void **state)
{
    (void)state;
    const struct scan_weights w = {.inner = 4, .conv = 18};
    assert_int_equal(cuda_scan_conv(&w, NULL, 1, NULL, NULL, false, NULL), cudaErrorInvalidValue);
}

/* n = 16 and R <= 16 in registers, others in memory. */
static void test_scan(bool bf16)
{
    struct scan_case k;
    int kind = pick(0, 9);
    scan_case(&k, pick(1, 4), kind == 9 ? 41 : pick(1, 7), kind < 6 ? 16 : pick(1, 40), 4, bf16,
              true);
    size_t state_bytes = (size_t)(k.w.state * k.w.inner) * 4;
    size_t b_bytes = (size_t)(k.rows * k.w.inner) * (bf16 ? 2 : 4);
    float *old[2] = {clone(k.windows[0].state, state_bytes),
                     clone(k.windows[1].state, state_bytes)};
    void *y =
        rng() & 1 ? k.b : acts((size_t)(k.rows * k.w.inner), 0, 0, bf16); /* in place or not */
    void *b = clone(k.b, b_bytes);
    launched(cuda_selective_scan(&k.w, k.windows, 2, k.b, k.dbc, k.a, y, bf16, NULL));
    check_scan(&k, old, b, y, bf16);
}

static void selective_scan_matches_the_recurrence(void **state)
{
    (void)state;
    each_act(test_scan, 60);
}

/* One launch for all windows, and one each: from BUSY blocks on a channel has one thread, else
 * four. */
static void test_many_windows(bool bf16)
{
    enum { WINDOWS = 4 * 132, N = 16 };
    struct scan_case k;
    scan_case(&k, 1, WINDOWS * pick(1, 2) / 2, N, 4, bf16, true);
    size_t rows = (size_t)k.rows, d = (size_t)k.w.inner, bytes = rows * d * (bf16 ? 2 : 4);
    float *states[2] = {floats(WINDOWS * N * d, -1, 1), NULL};
    states[1] = clone(states[0], WINDOWS * N * d * sizeof(float));
    void *y[2] = {clone(k.b, bytes), clone(k.b, bytes)};
    struct scan_window *all = guarded(WINDOWS * sizeof *all);
    for (int pass = 0; pass < 2; pass++) {
        for (int i = 0; i < WINDOWS; i++)
            all[i] = (struct scan_window){.row0 = i * k.rows / WINDOWS,
                                          .h = 1,
                                          .w = k.rows / WINDOWS,
                                          .row_stride = k.rows,
                                          .state = states[pass] + (size_t)i * N * d};
        int at_once = pass ? 1 : WINDOWS;
        for (int i = 0; i < WINDOWS; i += at_once)
            launched(
                cuda_selective_scan(&k.w, all + i, at_once, k.b, k.dbc, k.a, y[pass], bf16, NULL));
    }
    assert_memory_equal(y[0], y[1], bytes);
    assert_memory_equal(states[0], states[1], WINDOWS * N * d * sizeof(float));
}

static void many_windows_at_once_are_each_as_alone_bit_for_bit(void **state)
{
    (void)state;
    each_act(test_many_windows, 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scan_conv_is_causal_and_keeps_the_tail),
        cmocka_unit_test(more_taps_than_there_can_be_are_refused),
        cmocka_unit_test(selective_scan_matches_the_recurrence),
        cmocka_unit_test(many_windows_at_once_are_each_as_alone_bit_for_bit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
