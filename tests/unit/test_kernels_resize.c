/* The kernels that resize: preprocess, fuse, labels. */
#include "tests/unit/kernel_tests.h"

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

/* ---- resizes ---- */

static void test_preprocess(const struct cpu_ops *ops, bool bf16)
{
    (void)bf16; /* pixels are fp32 in either */
    static const double mean[] = {123.675, 116.28, 103.53}, std[] = {58.395, 57.12, 57.375};
    int h = pick(1, 40), w = pick(0, 5) ? pick(1, 60) : pick(1000, 3000);
    ptrdiff_t stride = 3 * w + pick(0, 30);
    uint8_t *rgb = guarded((size_t)(stride * (h - 1) + 3 * w));
    for (ptrdiff_t i = 0; i < stride * (h - 1) + 3 * w; i++)
        rgb[i] = (uint8_t)rng();
    struct resize_axis rows, cols;
    fill_bilinear(&rows, h, pick(0, 2) ? pick(1, 50) : h);
    fill_bilinear(&cols, w, pick(0, 2) ? pick(1, 99) : w);
    float *out = acts((size_t)(rows.dst * cols.dst * 3), 0, 0, false);
    ops->preprocess(rgb, stride, &rows, &cols, out);
    for (int i = 0; i < rows.dst * cols.dst * 3; i++) {
        int ch = i % 3, x = i / 3 % cols.dst, y = i / 3 / cols.dst;
        double sum = 0;
        for (int s = 0; s < rows.taps; s++)
            for (int t = 0; t < cols.taps; t++)
                sum += (double)rows.weight[y * rows.taps + s] * cols.weight[x * cols.taps + t] *
                       rgb[(rows.index[y] + s) * stride + 3 * (cols.index[x] + t) + ch];
        check(out[i], (sum - mean[ch]) / std[ch], 1e-6, 2e-6, false, "preprocess");
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
                    f[i] +=
                        (double)rows[l].weight[y * rows[l].taps + s] *
                        cols[l].weight[x * cols[l].taps + t] *
                        get(g[l],
                            (size_t)(((rows[l].index[y] + s) * w[l] + cols[l].index[x] + t) * e +
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

int main(void)
{
    set_threads(2);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(preprocess_resizes_and_normalises),
        cmocka_unit_test(fuse_sums_resized_maps_with_and_without_a_grid),
        cmocka_unit_test(labels_are_the_largest_logit_and_ties_go_to_the_lower_class),
        cmocka_unit_test(labels_are_classes_even_for_nan_and_infinite_logits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
