/* The CUDA attention of MiT and of Swin's windows. */
#include "tests/unit/cuda_tests.h"

struct attend_case {
    int images, queries, keys, channels, heads, ld_q, ld_kv; /* elements between rows */
    const void *q, *k, *v;                                   /* of image 0 */
    const float *bias, *mask;                                /* NULL without */
    const int *mask_of;
    int windows;
};

static const void *at(const void *p, size_t elements, bool bf16)
{
    return (const char *)p + elements * (bf16 ? 2 : 4);
}

/* out[image * queries + query][channels] against double precision. In bf16 the weights are rounded
 * before the product with v: each by half a step, relative to the sum of their magnitudes. */
static void check_attention(const struct attend_case *a, const void *out, bool bf16)
{
    int dim = a->channels / a->heads;
    double *p = malloc((size_t)a->keys * sizeof *p);
    for (int row = 0; row < a->images * a->queries; row++)
        for (int head = 0; head < a->heads; head++) {
            int image = row / a->queries, query = row % a->queries;
            size_t key0 = (size_t)image * (size_t)a->keys, col = (size_t)(head * dim);
            double top = -1e300, sum = 0;
            for (int j = 0; j < a->keys; j++) {
                double s = 0;
                for (int i = 0; i < dim; i++)
                    s += get(a->q, (size_t)row * (size_t)a->ld_q + col + (size_t)i, bf16) *
                         get(a->k, (key0 + (size_t)j) * (size_t)a->ld_kv + col + (size_t)i, bf16);
                p[j] = s / sqrt(dim);
                if (a->bias)
                    p[j] += a->bias[(head * a->queries + query) * a->keys + j];
                int mask = a->mask ? a->mask_of[image % a->windows] : -1;
                if (mask >= 0)
                    p[j] += a->mask[(mask * a->queries + query) * a->keys + j];
                top = fmax(top, p[j]);
            }
            for (int j = 0; j < a->keys; j++)
                sum += p[j] = exp(p[j] - top);
            for (int i = 0; i < dim; i++) {
                double want = 0, size = 0;
                for (int j = 0; j < a->keys; j++) {
                    double v =
                        get(a->v, (key0 + (size_t)j) * (size_t)a->ld_kv + col + (size_t)i, bf16);
                    want += p[j] / sum * v;
                    size += p[j] / sum * fabs(v);
                }
                check(get(out, (size_t)row * (size_t)a->channels + col + (size_t)i, bf16), want, 0,
                      (bf16 ? 0x1p-8 : 1e-5) * size, bf16, "attention");
            }
        }
    free(p);
}

static void attention_case(int images, int queries, int keys, int heads, int dim, bool bf16)
{
    int c = heads * dim;
    void *q = acts((size_t)(images * queries * c), -2, 2, bf16);
    void *kv = acts((size_t)(images * keys * 2 * c), -2, 2, bf16);
    void *out = acts((size_t)(images * queries * c), 0, 0, bf16);
    for (int i = 0; i < 2 * c; i++) { /* the last key is the closest: the maximum rises late */
        size_t last = (size_t)((images * keys - 1) * 2 * c + i);
        float v = 3 * (float)get(kv, last, bf16);
        if (bf16)
            ((uint16_t *)kv)[last] = f32_to_bf16(v);
        else
            ((float *)kv)[last] = v;
    }
    launched(cuda_attention(q, kv, images, queries, keys, c, heads, out, bf16, NULL));
    struct attend_case a = {.images = images,
                            .queries = queries,
                            .keys = keys,
                            .channels = c,
                            .heads = heads,
                            .ld_q = c,
                            .ld_kv = 2 * c,
                            .q = q,
                            .k = kv,
                            .v = at(kv, (size_t)c, bf16)};
    check_attention(&a, out, bf16);
}

/* Head dimensions of the models: tensor cores in bf16, registers in fp32. */
static void test_attention(bool bf16)
{
    static const int keys[] = {131, 1, 15, 65, 131, 64}; /* three tiles, parts of one, whole ones */
    static unsigned calls; /* both types in both orders, then the next */
    attention_case(pick(1, 2), rng() & 1 ? pick(1, 20) : pick(60, 70), keys[calls++ / 4 % 6], 1,
                   32 * pick(1, 2), bf16);
}

static void attention_is_softmax_of_products_times_values(void **state)
{
    (void)state;
    each_act(test_attention, 24);
}

static void test_attention_any(bool bf16)
{
    static const int dims[] = {1, 7, 16, 33, 48, 96, 256};
    attention_case(pick(1, 2), pick(1, 9), pick(1, 12), pick(1, 3), dims[pick(0, 6)], bf16);
}

static void other_head_dimensions_work_too(void **state)
{
    (void)state;
    each_act(test_attention_any, 16);
}

/* Rows that no 16-byte access may read: the form for any head dimension takes them. */
static void test_attention_unaligned(bool bf16)
{
    enum { Q = 3, K = 5, C = 32 };
    if (!bf16)
        return;
    const uint16_t *q = acts(Q * C + 1, -2, 2, true), *kv = acts(K * 2 * C + 1, -2, 2, true);
    uint16_t *out = acts(Q * C + 1, 0, 0, true);
    launched(cuda_attention(q + 1, kv + 1, 1, Q, K, C, 1, out + 1, true, NULL));
    struct attend_case a = {.images = 1,
                            .queries = Q,
                            .keys = K,
                            .channels = C,
                            .heads = 1,
                            .ld_q = C,
                            .ld_kv = 2 * C,
                            .q = q + 1,
                            .k = kv + 1,
                            .v = kv + 1 + C};
    check_attention(&a, out + 1, true);
}

static void unaligned_buffers_work_too(void **state)
{
    (void)state;
    each_act(test_attention_unaligned, 4);
}

static void larger_head_dimensions_are_refused(void **state)
{
    (void)state;
    assert_int_equal(cuda_attention(NULL, NULL, 1, 1, 1, 257, 1, NULL, false, NULL),
                     cudaErrorInvalidValue);
}

/* ---- windows ---- */

static void window_case(int images, int windows, int window, int heads, int dim, bool masked,
                        bool bf16)
{
    int n = window * window, c = heads * dim, rows = images * windows * n;
    void *qkv = acts((size_t)(rows * 3 * c), -2, 2, bf16);
    void *out = acts((size_t)(rows * c), 0, 0, bf16);
    float *bias = floats((size_t)(heads * n * n), -2, 2), *mask = floats((size_t)(2 * n * n), 0, 0);
    int *mask_of = guarded((size_t)windows * sizeof *mask_of);
    for (int i = 0; i < 2 * n * n; i++)
        mask[i] = rng() & 1 ? -100.0f : 0.0f;
    for (int i = 0; i < windows; i++)
        mask_of[i] = pick(-1, 1);
    launched(cuda_window_attention(qkv, images, windows, window, c, heads, bias,
                                   masked ? mask : NULL, masked ? mask_of : NULL, out, bf16, NULL));
    struct attend_case a = {.images = images * windows,
                            .queries = n,
                            .keys = n,
                            .channels = c,
                            .heads = heads,
                            .ld_q = 3 * c,
                            .ld_kv = 3 * c,
                            .q = qkv,
                            .k = at(qkv, (size_t)c, bf16),
                            .v = at(qkv, (size_t)(2 * c), bf16),
                            .bias = bias,
                            .mask = masked ? mask : NULL,
                            .mask_of = mask_of,
                            .windows = windows};
    check_attention(&a, out, bf16);
}

static void test_windows(bool bf16)
{
    int window = pick(0, 1) ? 7 : pick(1, 9);
    window_case(pick(1, 2), pick(1, 2), window, pick(1, 2), 32 * pick(1, 2), rng() & 1, bf16);
}

static void windows_have_their_heads_bias_and_their_own_mask(void **state)
{
    (void)state;
    each_act(test_windows, 16);
}

static void test_windows_any(bool bf16)
{
    window_case(pick(1, 2), pick(1, 3), pick(1, 3), pick(1, 3), pick(1, 40), rng() & 1, bf16);
}

static void windows_of_other_head_dimensions_work_too(void **state)
{
    (void)state;
    each_act(test_windows_any, 8);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(attention_is_softmax_of_products_times_values),
        cmocka_unit_test(other_head_dimensions_work_too),
        cmocka_unit_test(unaligned_buffers_work_too),
        cmocka_unit_test(larger_head_dimensions_are_refused),
        cmocka_unit_test(windows_have_their_heads_bias_and_their_own_mask),
        cmocka_unit_test(windows_of_other_head_dimensions_work_too),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
