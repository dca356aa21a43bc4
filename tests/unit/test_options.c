#include "tools/options.h"

#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static void whole_numbers_in_range_alone_are_taken(void **state)
{
    (void)state;
    static const char *const bad[] = {"",
                                      " 5",
                                      "5 ",
                                      "5x",
                                      "0x5",
                                      "+5",
                                      "-1",
                                      "11",
                                      "1e0",
                                      "5.0",
                                      "--5",
                                      "-",
                                      "99999999999999999999"};
    int v = 42;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (option_int(bad[i], 0, 10, &v))
            fail_msg("'%s' was taken", bad[i]);
    assert_int_equal(v, 42);
    assert_true(option_int("0", 0, 10, &v) && v == 0);
    assert_true(option_int("010", 0, 10, &v) && v == 10);
    assert_true(option_int("-7", -7, 10, &v) && v == -7);
    assert_true(option_int("2147483647", 0, INT_MAX, &v) && v == INT_MAX);
}

static void sizes(void **state)
{
    (void)state;
    static const char *const bad[] = {"864",   "864x",   "x480",      "864X480",   "864x480x3",
                                      "0x480", "864x-1", "864 x 480", "20000x480", "864x20000"};
    int w = 1, h = 2;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (option_size(bad[i], &w, &h))
            fail_msg("'%s' was taken", bad[i]);
    assert_true(w == 1 && h == 2);
    assert_true(option_size("864x480", &w, &h));
    assert_true(w == 864 && h == 480);
}

static void devices(void **state)
{
    (void)state;
    static const char *const bad[] = {"", "gpu", "cpu:0", "cuda:", "cuda:-1", "cuda0", "CPU"};
    enum device_kind kind = DEVICE_CPU;
    int index = 7;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (option_device(bad[i], &kind, &index))
            fail_msg("'%s' was taken", bad[i]);
    assert_true(option_device("cuda", &kind, &index) && kind == DEVICE_CUDA && index == 0);
    assert_true(option_device("cuda:3", &kind, &index) && kind == DEVICE_CUDA && index == 3);
    assert_true(option_device("cpu", &kind, &index) && kind == DEVICE_CPU && index == 0);
}

static void dtypes_and_modes(void **state)
{
    (void)state;
    struct engine_config c = {.tf32 = true};
    enum stream_mode mode;
    assert_true(option_dtype("bf16", &c) && c.dtype == DT_BF16 && !c.tf32);
    assert_string_equal(option_dtype_name(&c), "bf16");
    assert_true(option_dtype("tf32", &c) && c.dtype == DT_F32 && c.tf32);
    assert_string_equal(option_dtype_name(&c), "tf32");
    assert_true(option_dtype("f32", &c) && c.dtype == DT_F32 && !c.tf32);
    assert_string_equal(option_dtype_name(&c), "f32");
    assert_false(option_dtype("f16", &c));
    assert_true(option_mode("clip", &mode) && mode == MODE_CLIP);
    assert_true(option_mode("frame", &mode) && mode == MODE_FRAME);
    assert_true(option_mode("stream", &mode) && mode == MODE_STREAM);
    assert_false(option_mode("", &mode));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(whole_numbers_in_range_alone_are_taken),
        cmocka_unit_test(sizes),
        cmocka_unit_test(devices),
        cmocka_unit_test(dtypes_and_modes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
