/* Hand-computed cases; random ones against NumPy are in tests/test_eval.py. */
#include "tools/metrics.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

enum { IGNORE = 255 };

static struct metrics *open_metrics(int classes, bool reduce)
{
    struct metrics_config c = {.classes = classes, .ignore = IGNORE, .reduce_zero_label = reduce};
    struct metrics *m;
    assert_int_equal(metrics_open(&c, &m), ERR_OK);
    return m;
}

static void near(double value, double expected)
{
    if (!(fabs(value - expected) < 1e-12))
        fail_msg("%.15g instead of %.15g", value, expected);
}

static void counts_of_one_frame(void **state)
{
    (void)state;
    struct metrics *m = open_metrics(4, false);
    const uint16_t truth[6] = {0, 0, 1, 1, IGNORE, 1};
    const uint16_t guess[6] = {0, 1, 1, 1, 2, 3};
    assert_int_equal(metrics_video(m, 3, 2), ERR_OK);
    assert_int_equal(metrics_frame(m, guess, truth), ERR_OK);
    struct metrics_result r;
    metrics_result(m, &r);
    near(metrics_iou(m, 0), 1.0 / 2);
    near(metrics_iou(m, 1), 2.0 / 4);
    assert_true(isnan(metrics_iou(m, 2))); /* predicted for an ignored pixel only */
    near(metrics_iou(m, 3), 0);            /* predicted, but not in the ground truth */
    near(r.miou, 1.0 / 2);                 /* of classes 0 and 1 */
    near(r.pixel_accuracy, 3.0 / 5);
    assert_int_equal(r.classes_in_truth, 2);
    assert_int_equal(r.pixels, 5);
    assert_int_equal(r.frames, 1);
    assert_int_equal(r.videos, 1);
    assert_true(isnan(r.mvc[0]) && isnan(r.mvc[1]));
    metrics_close(m);
}

static void nothing_seen_gives_nan(void **state)
{
    (void)state;
    struct metrics *m = open_metrics(2, false);
    struct metrics_result r;
    metrics_result(m, &r);
    assert_true(isnan(r.miou) && isnan(r.pixel_accuracy) && isnan(r.mvc[0]));
    assert_int_equal(r.videos, 0);
    metrics_close(m);
}

static void zero_label_is_reduced_in_the_ground_truth_only(void **state)
{
    (void)state;
    struct metrics *m = open_metrics(3, true);
    const uint16_t truth[5] = {0, 1, 2, 3, IGNORE};
    const uint16_t guess[5] = {2, 0, 1, 0, 0};
    assert_int_equal(metrics_video(m, 5, 1), ERR_OK);
    assert_int_equal(metrics_frame(m, guess, truth), ERR_OK);
    struct metrics_result r;
    metrics_result(m, &r);
    assert_int_equal(r.pixels, 3);
    near(r.pixel_accuracy, 2.0 / 3);
    near(metrics_iou(m, 0), 1.0 / 2);
    near(metrics_iou(m, 1), 1);
    near(metrics_iou(m, 2), 0);
    metrics_close(m);
}

static void a_prediction_of_the_ignored_label_is_a_miss(void **state)
{
    (void)state;
    struct metrics *m = open_metrics(2, false);
    const uint16_t truth[2] = {0, 0}, guess[2] = {0, IGNORE};
    assert_int_equal(metrics_video(m, 2, 1), ERR_OK);
    assert_int_equal(metrics_frame(m, guess, truth), ERR_OK);
    struct metrics_result r;
    metrics_result(m, &r);
    near(r.pixel_accuracy, 1.0 / 2);
    near(r.miou, 1.0 / 2);
    metrics_close(m);
}

static void labels_out_of_range_are_refused_and_not_counted(void **state)
{
    (void)state;
    struct metrics *m = open_metrics(2, false);
    const uint16_t good[2] = {0, 1}, bad[2] = {0, 2};
    assert_int_equal(metrics_video(m, 2, 1), ERR_OK);
    assert_int_equal(metrics_frame(m, good, bad), ERR_FORMAT);
    assert_non_null(strstr(err_text(), "ground truth has label 2"));
    assert_int_equal(metrics_frame(m, bad, good), ERR_FORMAT);
    assert_non_null(strstr(err_text(), "prediction has label 2"));
    struct metrics_result r;
    metrics_result(m, &r);
    assert_int_equal(r.pixels, 0);
    assert_int_equal(r.frames, 0);
    metrics_close(m);
}

static void settings_out_of_range_are_refused(void **state)
{
    (void)state;
    struct metrics *m;
    struct metrics_config c = {.classes = 0, .ignore = IGNORE};
    assert_int_equal(metrics_open(&c, &m), ERR_ARG);
    c.classes = METRICS_MAX_CLASSES + 1;
    assert_int_equal(metrics_open(&c, &m), ERR_ARG);
    c = (struct metrics_config){.classes = 2, .ignore = -1};
    assert_int_equal(metrics_open(&c, &m), ERR_ARG);
    c.ignore = IGNORE;
    assert_int_equal(metrics_open(&c, &m), ERR_OK);
    const uint16_t label = 0;
    assert_int_equal(metrics_frame(m, &label, &label), ERR_ARG); /* before metrics_video */
    assert_int_equal(metrics_video(m, 0, 4), ERR_ARG);
    metrics_close(m);
    metrics_close(NULL);
}

/* Four pixels: right always; wrong but constant; flickers at frame 4; ignored. Over 9 frames there
 * are two windows of 8: frames 0-7 and 1-8. */
static void consistency_counts_constant_predictions(void **state)
{
    (void)state;
    struct metrics *m = open_metrics(3, false);
    const uint16_t truth[4] = {1, 1, 1, IGNORE};
    assert_int_equal(metrics_video(m, 2, 2), ERR_OK);
    for (int t = 0; t < 9; t++) {
        const uint16_t guess[4] = {1, 2, t == 4 ? 0 : 1, 0};
        assert_int_equal(metrics_frame(m, guess, truth), ERR_OK);
    }
    struct metrics_result r;
    metrics_result(m, &r);
    near(r.mvc[0], 2.0 / 3);
    near(r.mvc_correct[0], 1.0 / 3);
    assert_int_equal(r.videos_with_vc[0], 1);
    assert_true(isnan(r.mvc[1]));
    assert_int_equal(r.videos_with_vc[1], 0);
    metrics_close(m);
}

/* The ground truth of pixel 1 changes at frame 1 of 9: the first window has pixel 0 alone. The
 * prediction of pixel 1 changes at frame 8, in the second window only. */
static void a_change_of_the_ground_truth_leaves_the_common_area(void **state)
{
    (void)state;
    struct metrics *m = open_metrics(3, false);
    assert_int_equal(metrics_video(m, 2, 1), ERR_OK);
    for (int t = 0; t < 9; t++) {
        const uint16_t truth[2] = {0, t == 0 ? 1 : 2}, guess[2] = {0, t == 8 ? 1 : 2};
        assert_int_equal(metrics_frame(m, guess, truth), ERR_OK);
    }
    struct metrics_result r;
    metrics_result(m, &r);
    near(r.mvc[0], (1.0 + 0.5) / 2);
    near(r.mvc_correct[0], (1.0 + 0.5) / 2);
    metrics_close(m);
}

static void windows_and_videos_without_common_area_are_left_out(void **state)
{
    (void)state;
    struct metrics *m = open_metrics(3, false);
    struct metrics_result r;
    for (int video = 0; video < 3; video++) {
        assert_int_equal(metrics_video(m, 1, 1), ERR_OK);
        for (int t = 0; t < 10; t++) {
            /* video 0: always changing; video 1: constant from frame 1 on; video 2: short */
            const uint16_t truth = (uint16_t)(video == 0 ? t % 2 : t > 0);
            const uint16_t guess = (uint16_t)(t == 9 ? 2 : 1);
            if (video < 2 || t < 7)
                assert_int_equal(metrics_frame(m, &guess, &truth), ERR_OK);
        }
    }
    metrics_result(m, &r);
    assert_int_equal(r.videos, 3);
    assert_int_equal(r.frames, 27);
    assert_int_equal(r.videos_with_vc[0], 1);
    near(r.mvc[0], 1.0 / 2); /* windows 1-8: consistent, 2-9: not, 0-7: no common area */
    metrics_close(m);
}

static void runs_do_not_go_on_from_one_video_to_the_next(void **state)
{
    (void)state;
    struct metrics *m = open_metrics(2, false);
    const uint16_t one = 1, zero = 0;
    struct metrics_result r;
    for (int video = 0; video < 2; video++) {
        assert_int_equal(metrics_video(m, 1, 1), ERR_OK);
        for (int t = 0; t < 16; t++) /* the second: one window of 16, prediction wrong once */
            assert_int_equal(metrics_frame(m, video && t == 0 ? &zero : &one, &one), ERR_OK);
    }
    metrics_result(m, &r);
    near(r.mvc[0], (1.0 + 8.0 / 9) / 2);
    near(r.mvc[1], (1.0 + 0.0) / 2);
    near(r.mvc_correct[1], (1.0 + 0.0) / 2);
    metrics_close(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(counts_of_one_frame),
        cmocka_unit_test(nothing_seen_gives_nan),
        cmocka_unit_test(zero_label_is_reduced_in_the_ground_truth_only),
        cmocka_unit_test(a_prediction_of_the_ignored_label_is_a_miss),
        cmocka_unit_test(labels_out_of_range_are_refused_and_not_counted),
        cmocka_unit_test(settings_out_of_range_are_refused),
        cmocka_unit_test(consistency_counts_constant_predictions),
        cmocka_unit_test(a_change_of_the_ground_truth_leaves_the_common_area),
        cmocka_unit_test(windows_and_videos_without_common_area_are_left_out),
        cmocka_unit_test(runs_do_not_go_on_from_one_video_to_the_next),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
