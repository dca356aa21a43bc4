/* The scan and its convolution in plain double precision: what the tests of the CPU's kernels and
 * of CUDA's share. */
#ifndef TV3S_TESTS_SCAN_TESTS_H
#define TV3S_TESTS_SCAN_TESTS_H

#include "tests/unit/kernel_tests.h"

struct scan_case {
    struct scan_weights w;
    int rows, ld_a, ld_z, ld_dbc, count;
    void *a, *z, *b;
    float *dbc;
    struct scan_window windows[4];
};

/* Two windows side by side on a map of `height` x 2 * `width` tokens, with random states. As one
 * (CUDA): a and z are halves of one matrix's rows, and those of dbc are packed. */
static inline void scan_case(struct scan_case *k, int height, int width, int n, int taps, bool bf16,
                             bool as_one)
{
    int d = pick(0, 2) ? pick(1, 90) : pick(1, 2) * 64, rank = pick(0, 1) ? pick(1, 20) : 16;
    size_t sd = (size_t)d;
    k->rows = height * 2 * width;
    k->ld_a = as_one ? 2 * d : d + pick(0, 9);
    k->ld_z = as_one ? 2 * d : d + pick(0, 9);
    k->ld_dbc = rank + 2 * n + (as_one ? 0 : pick(0, 5));
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
    k->z = as_one ? (char *)k->a + sd * (bf16 ? 2 : 4)
                  : acts((size_t)(k->rows * k->ld_z), -4, 4, bf16);
    k->dbc = floats((size_t)(k->rows * k->ld_dbc), -1, 1);
    for (int i = 0; i < 2; i++)
        k->windows[i] = (struct scan_window){.row0 = i * width,
                                             .h = height,
                                             .w = width,
                                             .row_stride = 2 * width,
                                             .state = floats(sd * (size_t)n, -1, 1),
                                             .tail = floats(sd * (size_t)(taps - 1), -1, 1)};
}

static inline int row_of(const struct scan_window *win, int t)
{
    return win->row0 + t / win->w * win->row_stride + t % win->w;
}

/* b and the tails after scan_conv, where the tails were `old`. */
static inline void check_scan_conv(const struct scan_case *k, float *const old[2], bool bf16)
{
    int d = k->w.inner, taps = k->w.conv;
    for (int i = 0; i < 2; i++) {
        const struct scan_window *win = &k->windows[i];
        int tokens = win->h * win->w;
#define INPUT(t, c)                                                                                \
    ((t) < 0 ? (double)old[i][(taps - 1 + (t)) * d + (c)]                                          \
             : get(k->a, (size_t)(row_of(win, t) * k->ld_a + (c)), bf16))
        for (int t = 0; t < tokens; t++)
            for (int c = 0; c < d; c++) {
                double sum = k->w.conv_b[c];
                for (int j = 0; j < taps; j++)
                    sum += k->w.conv_w[j * d + c] * INPUT(t - taps + 1 + j, c);
                check(get(k->b, (size_t)(row_of(win, t) * d + c), bf16), silu(sum), 1e-6, 2e-6,
                      bf16, "scan_conv");
            }
        for (int j = 0; j < taps - 1; j++)
            for (int c = 0; c < d; c++)
                assert_true((double)win->tail[j * d + c] == INPUT(tokens - taps + 1 + j, c));
#undef INPUT
    }
}

/* y and the states after the scan of `b`, where the states were `old`. s: the state; size: the same
 * with all terms positive, which rounding errors are relative to. */
static inline void check_scan(const struct scan_case *k, float *const old[2], const void *b,
                              const void *y, bool bf16)
{
    int d = k->w.inner, n = k->w.state, r = k->w.dt_rank;
    double *s = malloc(2 * (size_t)n * sizeof *s), *size = s + n;
    for (int i = 0; i < 2; i++)
        for (int c = 0; c < d; c++) {
            for (int j = 0; j < n; j++) {
                s[j] = old[i][j * d + c];
                size[j] = fabs(s[j]);
            }
            for (int t = 0; t < k->windows[i].h * k->windows[i].w; t++) {
                int row = row_of(&k->windows[i], t);
                const float *dbc = k->dbc + row * k->ld_dbc;
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
                double gate = silu(get(k->z, (size_t)(row * k->ld_z + c), bf16));
                check(get(y, (size_t)(row * d + c), bf16), (sum + k->w.skip[c] * in) * gate, 1e-5,
                      1e-5 * total * fabs(gate), bf16, "selective_scan");
            }
            for (int j = 0; j < n; j++)
                check(k->windows[i].state[j * d + c], s[j], 0, 1e-5 * size[j], false,
                      "hidden state");
        }
    free(s);
}

#endif
