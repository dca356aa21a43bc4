/* The CUDA kernels that move rows and elements, wide and narrow ones. */
#include "tests/unit/cuda_tests.h"

/* A row's channels: whole groups of 16 bytes, or none. */
static int pick_width(void)
{
    return pick(0, 1) ? 8 * pick(1, 9) : pick(1, 40);
}

/* Some of 0 .. rows - 1, each at most once, and -1 between, in any order. */
static int *distinct(int count, int rows)
{
    int all = count + rows, *index = guarded((size_t)all * sizeof *index);
    for (int i = 0; i < all; i++)
        index[i] = i < rows ? i : -1;
    for (int i = all - 1; i > 0; i--) {
        int j = pick(0, i), keep = index[i];
        index[i] = index[j];
        index[j] = keep;
    }
    return index + rows; /* those at the guard */
}

static void test_gather(bool bf16)
{
    int images = pick(1, 3), in_rows = pick(1, 20), rows = pick(1, 30), c = pick_width();
    int elem = bf16 ? 2 : 4;
    size_t row = (size_t)c * (size_t)elem;
    const char *in = acts((size_t)(images * in_rows * c), -1, 1, bf16);
    int *index = guarded((size_t)rows * sizeof *index);
    for (int i = 0; i < rows; i++)
        index[i] = pick(-1, in_rows - 1);
    char *out = guarded((size_t)(images * rows) * row), *zero = calloc(1, row);
    launched(cuda_gather(in, index, images, (size_t)in_rows, (size_t)rows, c, elem, out, NULL));
    for (int i = 0; i < images * rows; i++) {
        int from = index[i % rows], image = i / rows;
        assert_memory_equal(out + (size_t)i * row,
                            from < 0 ? zero : in + (size_t)(image * in_rows + from) * row, row);
    }
    free(zero);
}

static void rows_are_gathered_by_their_index(void **state)
{
    (void)state;
    each_act(test_gather, 60);
}

static void test_scatter_add(bool bf16)
{
    (void)bf16; /* fp32 in either */
    int images = pick(1, 3), y_rows = pick(1, 20), rows = pick(1, 30), c = pick_width();
    const float *in = floats((size_t)(images * rows * c), -1, 1);
    float *y = floats((size_t)(images * y_rows * c), -1, 1);
    float *want = clone(y, (size_t)(images * y_rows * c) * sizeof *y);
    const int *index = distinct(rows, y_rows);
    launched(cuda_scatter_add(in, index, images, (size_t)y_rows, (size_t)rows, c, y, NULL));
    for (int i = 0; i < images * rows * c; i++) {
        int row = i / c, to = index[row % rows];
        if (to >= 0)
            want[(row / rows * y_rows + to) * c + i % c] += in[i];
    }
    assert_memory_equal(y, want, (size_t)(images * y_rows * c) * sizeof *y);
}

static void rows_are_added_where_their_index_says(void **state)
{
    (void)state;
    each_act(test_scatter_add, 60);
}

static void test_im2col(bool bf16)
{
    int images = pick(1, 2), h = pick(1, 9), w = pick(1, 9), c = pick(0, 1) ? pick_width() : 3;
    int k = pick(1, 4), step = pick(1, 3), pad = pick(0, 2), elem = bf16 ? 2 : 4;
    int oh = pick(1, 5), ow = pick(1, 5), ld = k * k * c + pick(0, 1) * pick(1, 20);
    ld = pick(0, 1) ? (ld + 7) / 8 * 8 : ld;
    size_t rows = (size_t)(images * oh * ow), size = (size_t)elem;
    const char *in = acts((size_t)(images * h * w * c), -1, 1, bf16);
    char *out = guarded(rows * (size_t)ld * size);
    const char zero[4] = {0};
    launched(cuda_im2col(in, images, h, w, c, k, step, pad, oh, ow, ld, elem, out, NULL));
    for (size_t i = 0; i < rows * (size_t)ld; i++) {
        int col = (int)(i % (size_t)ld), at = (int)(i / (size_t)ld), image = at / (oh * ow);
        int y = at / ow % oh * step - pad + col / c / k, x = at % ow * step - pad + col / c % k;
        bool there = col < k * k * c && y >= 0 && y < h && x >= 0 && x < w;
        assert_memory_equal(
            out + i * size,
            there ? in + (size_t)(((image * h + y) * w + x) * c + col % c) * size : zero, size);
    }
}

static void patches_are_rows_and_zero_outside(void **state)
{
    (void)state;
    each_act(test_im2col, 80);
}

static void test_elementwise(bool bf16)
{
    size_t count = pick(0, 1) ? 4 * (size_t)pick(1, 300) : (size_t)pick(1, 900);
    const float *in = floats(count, -6, 6);
    void *out = acts(count, 0, 0, bf16);
    launched(cuda_to_act(in, count, out, bf16, NULL));
    for (size_t i = 0; i < count; i++)
        assert_true(get(out, i, bf16) == (double)(bf16 ? bf16_to_f32(f32_to_bf16(in[i])) : in[i]));
    void *y = clone(out, count * (bf16 ? 2 : 4));
    launched(cuda_gelu(y, count, bf16, NULL));
    for (size_t i = 0; i < count; i++)
        check(get(y, i, bf16), gelu(get(out, i, bf16)), 1e-6, 1e-6, bf16, "gelu");
}

static void activations_are_rounded_and_gelu_is_exact(void **state)
{
    (void)state;
    each_act(test_elementwise, 20);
}

/* States of sizes that are no whole groups of 16 bytes, and ones that begin as zeros. */
static void test_move_states(bool bf16)
{
    (void)bf16; /* fp32 in either */
    int count = pick(1, 6);
    size_t most = 0;
    struct state_move *moves = guarded((size_t)count * sizeof *moves);
    for (int i = 0; i < count; i++) {
        size_t room = 64 * (size_t)pick(1, 300), bytes = room - 4 * (size_t)pick(0, 3);
        moves[i] = (struct state_move){floats(room / 4, 7, 7),
                                       pick(0, 2) ? floats(room / 4, -1, 1) : NULL, bytes};
        most = bytes > most ? bytes : most;
    }
    launched(cuda_move_states(moves, count, most, NULL));
    for (int i = 0; i < count; i++) {
        const float *dst = moves[i].dst, *src = moves[i].src;
        for (size_t j = 0; j < moves[i].bytes / 4; j++)
            assert_true(dst[j] == (src ? src[j] : 0));
        for (size_t j = moves[i].bytes; j % 64; j += 4)
            assert_true(dst[j / 4] == 7);
    }
}

static void states_are_copied_or_zero_and_no_more_than_they_are(void **state)
{
    (void)state;
    each_act(test_move_states, 20);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_are_gathered_by_their_index),
        cmocka_unit_test(rows_are_added_where_their_index_says),
        cmocka_unit_test(patches_are_rows_and_zero_outside),
        cmocka_unit_test(activations_are_rounded_and_gelu_is_exact),
        cmocka_unit_test(states_are_copied_or_zero_and_no_more_than_they_are),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
