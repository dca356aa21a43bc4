#include "proto/mask.h"
#include "proto/mask_rle.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static const uint8_t palette[3][3] = {{0, 0, 0}, {255, 1, 2}, {10, 20, 30}};

static struct mask mask_of(int width, int height, const uint8_t *labels)
{
    return (struct mask){.width = width,
                         .height = height,
                         .labels = labels,
                         .palette = palette,
                         .colours = 3,
                         .frame = -1,
                         .time = NAN};
}

static void assert_encodes(enum mask_format f, const struct mask *m, const char *text)
{
    struct buf b = {0};
    assert_int_equal(mask_encode(f, m, &b), ERR_OK);
    assert_int_equal(buf_append(&b, "", 1), ERR_OK);
    assert_string_equal((char *)b.data, text);
    buf_free(&b);
}

static void rle_lists_runs_row_by_row(void **state)
{
    (void)state;
    const uint8_t labels[6] = {0, 1, 1, 1, 1, 2};
    struct mask m = mask_of(3, 2, labels);
    assert_encodes(MASK_RLE, &m, "{\"size\":[2,3],\"runs\":[0,1,1,4,2,1]}");
    m.frame = 7;
    m.time = 0.28;
    assert_encodes(MASK_RLE, &m,
                   "{\"frame\":7,\"time\":0.280000,\"size\":[2,3],\"runs\":[0,1,1,4,2,1]}");
}

static void coco_strings_are_the_worked_example(void **state)
{
    (void)state;
    uint8_t labels[100] = {0};
    struct mask m = mask_of(10, 10, labels);
    for (int y = 2; y < 7; y++)
        memset(&labels[10 * y + 3], 1, 5);
    /* class 0: 0 32 5 5 5 5 5 5 5 5 5 23 */
    assert_encodes(MASK_COCO_RLE, &m,
                   "{\"size\":[10,10],\"segments\":["
                   "{\"category_id\":0,\"counts\":\"0P15UO0000000b0\"},"
                   "{\"category_id\":1,\"counts\":\"P1550000000b0\"}]}");
}

static void coco_backslashes_are_escaped_in_json(void **state)
{
    (void)state;
    uint8_t labels[64];
    struct mask_labels back;
    struct buf b = {0};
    memset(labels, 1, sizeof labels);
    memset(labels, 0, 44); /* 44 = 12 + 32 and 1: '\\' is 32 + 12 + 48 */
    struct mask m = mask_of(1, 64, labels);
    assert_int_equal(mask_encode(MASK_COCO_RLE, &m, &b), ERR_OK);
    assert_int_equal(buf_append(&b, "", 1), ERR_OK);
    assert_non_null(strstr((char *)b.data, "\"counts\":\"\\\\1d0\""));
    assert_int_equal(mask_coco_decode((char *)b.data, b.len - 1, 64, &back), ERR_OK);
    assert_memory_equal(back.labels, labels, 64);
    free(back.labels);
    buf_free(&b);
}

static void check_round_trip(int w, int h, int classes, int run)
{
    size_t n = (size_t)w * (size_t)h;
    uint8_t *labels = malloc(n), label = 0;
    struct mask_labels back;
    for (size_t i = 0; i < n; i++) {
        if (rand() % run == 0)
            label = (uint8_t)(rand() % classes);
        labels[i] = label;
    }
    struct mask m = mask_of(w, h, labels);
    struct buf b = {0};
    assert_int_equal(mask_encode(MASK_RLE, &m, &b), ERR_OK);
    assert_int_equal(mask_rle_decode((char *)b.data, b.len, n, &back), ERR_OK);
    assert_int_equal(back.width, w);
    assert_int_equal(back.height, h);
    assert_memory_equal(back.labels, labels, n);
    free(back.labels);
    b.len = 0;
    assert_int_equal(mask_encode(MASK_COCO_RLE, &m, &b), ERR_OK);
    assert_int_equal(mask_coco_decode((char *)b.data, b.len, n, &back), ERR_OK);
    assert_memory_equal(back.labels, labels, n);
    free(back.labels);
    buf_free(&b);
    free(labels);
}

static void runs_come_back_as_they_were(void **state)
{
    (void)state;
    srand(1);
    check_round_trip(1, 1, 1, 1);
    check_round_trip(1, 777, 255, 3);
    check_round_trip(777, 1, 255, 3);
    check_round_trip(65, 129, 2, 1);
    check_round_trip(353, 288, 124, 40);
    check_round_trip(853, 480, 20, 100000);
}

static void assert_refused(const char *json, bool coco, enum err e)
{
    struct mask_labels m;
    enum err (*decode)(const char *, size_t, size_t, struct mask_labels *) =
        coco ? mask_coco_decode : mask_rle_decode;
    assert_int_equal(decode(json, strlen(json), 10000, &m), e);
    assert_null(m.labels);
}

static void hostile_runs_are_refused(void **state)
{
    (void)state;
    assert_refused("", false, ERR_FORMAT);
    assert_refused("[]", false, ERR_FORMAT);
    assert_refused("{\"size\":[2,2]}", false, ERR_FORMAT);
    assert_refused("{\"size\":[2],\"runs\":[0,4]}", false, ERR_FORMAT);
    assert_refused("{\"size\":[0,2],\"runs\":[]}", false, ERR_FORMAT);
    assert_refused("{\"size\":[-2,-2],\"runs\":[0,4]}", false, ERR_FORMAT);
    assert_refused("{\"size\":[16384,16384],\"runs\":[0,4]}", false, ERR_LIMIT);
    assert_refused("{\"size\":[2,2],\"runs\":[0]}", false, ERR_FORMAT);
    assert_refused("{\"size\":[2,2],\"runs\":[0,3]}", false, ERR_FORMAT);
    assert_refused("{\"size\":[2,2],\"runs\":[0,5]}", false, ERR_FORMAT);
    assert_refused("{\"size\":[2,2],\"runs\":[0,0,0,4]}", false, ERR_FORMAT);
    assert_refused("{\"size\":[2,2],\"runs\":[0,-1,0,5]}", false, ERR_FORMAT);
    assert_refused("{\"size\":[2,2],\"runs\":[256,4]}", false, ERR_FORMAT);
    assert_refused("{\"size\":[2,2],\"runs\":[0,4.0]}", false, ERR_FORMAT);
    assert_refused("{\"size\":[2,2],\"runs\":[0,9223372036854775807]}", false, ERR_FORMAT);
}

static void assert_counts_refused(const char *counts)
{
    char json[256];
    snprintf(json, sizeof json,
             "{\"size\":[2,2],\"segments\":[{\"category_id\":1,\"counts\":\"%s\"}]}", counts);
    assert_refused(json, true, ERR_FORMAT);
}

static void hostile_coco_strings_are_refused(void **state)
{
    (void)state;
    struct mask_labels m;
    const char *right = "{\"size\":[2,2],\"segments\":[{\"category_id\":1,\"counts\":\"13\"}]}";
    assert_int_equal(mask_coco_decode(right, strlen(right), 4, &m), ERR_OK);
    assert_memory_equal(m.labels, "\xff\x01\x01\x01", 4);
    free(m.labels);
    assert_counts_refused("");
    assert_counts_refused("1");         /* too short */
    assert_counts_refused("15");        /* too long */
    assert_counts_refused("O5");        /* negative: -1 */
    assert_counts_refused("1P");        /* cut inside a number */
    assert_counts_refused("1/3");       /* a foreign character */
    assert_counts_refused("PPPPPPPP1"); /* more bits than any length has */
    assert_refused("{\"size\":[2,2],\"segments\":[{\"category_id\":1,\"counts\":\"04\"},"
                   "{\"category_id\":2,\"counts\":\"13\"}]}",
                   true, ERR_FORMAT); /* overlap */
    assert_refused("{\"size\":[2,2],\"segments\":[{\"category_id\":255,\"counts\":\"04\"}]}", true,
                   ERR_FORMAT);
    assert_refused("{\"size\":[2,2],\"segments\":[7]}", true, ERR_FORMAT);
    assert_refused("{\"size\":[2,2]}", true, ERR_FORMAT);
}

static void png_bytes_depend_on_the_pixels_alone(void **state)
{
    (void)state;
    const uint8_t labels[6] = {0, 1, 1, 1, 1, 2};
    struct mask m = mask_of(3, 2, labels);
    struct buf a = {0}, b = {0};
    assert_int_equal(mask_encode(MASK_PNG, &m, &a), ERR_OK);
    assert_int_equal(mask_encode(MASK_PNG, &m, &b), ERR_OK);
    assert_int_equal(a.len, b.len);
    assert_memory_equal(a.data, b.data, a.len);
    assert_memory_equal(a.data, "\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\3\0\0\0\2\10\3\0\0\0", 29);
    assert_memory_equal(a.data + 33, "\0\0\0\11PLTE\0\0\0\377\1\2\12\24\36", 17);
    buf_free(&a);
    buf_free(&b);
}

static void overlays_are_half_frame_half_colour(void **state)
{
    (void)state;
    const uint8_t labels[2] = {1, 2}, rgb[6] = {0, 0, 0, 255, 255, 255};
    const uint8_t expected[6] = {128, 1, 1, 133, 138, 143};
    uint8_t out[6];
    struct mask m = mask_of(2, 1, labels);
    m.rgb = rgb;
    mask_blend(&m, out);
    assert_memory_equal(out, expected, 6);
}

static void formats_have_names(void **state)
{
    (void)state;
    enum mask_format f;
    for (int i = 0; i < MASK_FORMATS; i++) {
        assert_int_equal(mask_format_parse(mask_format_name((enum mask_format)i), &f), ERR_OK);
        assert_int_equal(f, i);
    }
    assert_int_equal(mask_format_parse("gif", &f), ERR_ARG);
    assert_non_null(strstr(err_text(), "coco_rle"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rle_lists_runs_row_by_row),
        cmocka_unit_test(coco_strings_are_the_worked_example),
        cmocka_unit_test(coco_backslashes_are_escaped_in_json),
        cmocka_unit_test(runs_come_back_as_they_were),
        cmocka_unit_test(hostile_runs_are_refused),
        cmocka_unit_test(hostile_coco_strings_are_refused),
        cmocka_unit_test(png_bytes_depend_on_the_pixels_alone),
        cmocka_unit_test(overlays_are_half_frame_half_colour),
        cmocka_unit_test(formats_have_names),
    };
    return cmocka_run_group_tests_name("mask", tests, NULL, NULL);
}
