/* Pictures for who takes NV12: as they are where they are that already, and else RGB24 as ever. */
#include "media/picture.h"

#include <libavutil/display.h>
#include <libavutil/imgutils.h>
#include <libavutil/pixdesc.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static uint32_t noise = 1;

static AVFrame *picture(enum AVPixelFormat format, int width, int height, enum AVColorSpace colours,
                        enum AVColorRange range)
{
    AVFrame *f = av_frame_alloc();
    f->format = format;
    f->width = width;
    f->height = height;
    f->colorspace = colours;
    f->color_range = range;
    assert_int_equal(av_frame_get_buffer(f, 0), 0);
    for (int b = 0; f->buf[b]; b++)
        for (size_t i = 0; i < (size_t)f->buf[b]->size; i++)
            f->buf[b]->data[i] = (uint8_t)((noise = noise * 1664525u + 1013904223u) >> 26);
    return f;
}

static struct frame take(const AVFrame *in, bool takes_nv12)
{
    struct picture p = {0};
    struct frame f = {.takes_nv12 = takes_nv12};
    if (picture_take(&p, in, NULL, &f))
        fail_msg("%s", err_text());
    picture_free(&p);
    return f;
}

static void assert_same_rgb24(const struct frame *got, const struct frame *want)
{
    assert_int_equal(got->format.layout, PIXELS_RGB24);
    assert_int_equal(want->format.layout, PIXELS_RGB24);
    assert_int_equal(got->width, want->width);
    assert_int_equal(got->height, want->height);
    assert_memory_equal(got->pixels, want->pixels, (size_t)want->width * (size_t)want->height * 3);
}

/* The RGB24 of what was taken is that of the picture: pixels, matrix and range are its own. */
static void check_nv12(AVFrame *in)
{
    static const enum AVColorSpace colours[YUV_MATRICES] = {AVCOL_SPC_BT470BG, AVCOL_SPC_BT709,
                                                            AVCOL_SPC_BT2020_NCL};
    struct frame f = take(in, true), want = take(in, false);
    assert_int_equal(f.format.layout, PIXELS_NV12);
    AVFrame *back = av_frame_alloc();
    back->format = AV_PIX_FMT_NV12;
    back->width = f.width;
    back->height = f.height;
    back->data[0] = f.pixels;
    back->data[1] = f.pixels + f.width * f.height;
    back->linesize[0] = back->linesize[1] = f.width;
    back->colorspace = colours[f.format.matrix];
    back->color_range = f.format.full ? AVCOL_RANGE_JPEG : AVCOL_RANGE_MPEG;
    struct frame got = take(back, false);
    assert_same_rgb24(&got, &want);
    frame_free(&got);
    frame_free(&want);
    frame_free(&f);
    av_frame_free(&back);
    av_frame_free(&in);
}

static void eight_bit_420_stays_as_it_is(void **state)
{
    (void)state;
    static const enum AVPixelFormat formats[] = {AV_PIX_FMT_YUV420P, AV_PIX_FMT_YUVJ420P,
                                                 AV_PIX_FMT_NV12};
    static const enum AVColorSpace colours[] = {AVCOL_SPC_UNSPECIFIED, AVCOL_SPC_BT709,
                                                AVCOL_SPC_SMPTE170M, AVCOL_SPC_BT470BG,
                                                AVCOL_SPC_BT2020_NCL};
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++)
        for (size_t j = 0; j < sizeof colours / sizeof *colours; j++) {
            check_nv12(picture(formats[i], 38, 22, colours[j], AVCOL_RANGE_UNSPECIFIED));
            check_nv12(picture(formats[i], 38, 22, colours[j], AVCOL_RANGE_MPEG));
            check_nv12(picture(formats[i], 38, 22, colours[j], AVCOL_RANGE_JPEG));
        }
    check_nv12(picture(AV_PIX_FMT_YUV420P, 1282, 8, AVCOL_SPC_UNSPECIFIED, AVCOL_RANGE_MPEG));
}

static void check_rgb24(AVFrame *in)
{
    struct frame got = take(in, true), want = take(in, false);
    assert_same_rgb24(&got, &want);
    frame_free(&got);
    frame_free(&want);
    av_frame_free(&in);
}

static void what_else_there_is_becomes_rgb24(void **state)
{
    (void)state;
    enum AVColorSpace plain = AVCOL_SPC_BT709;
    enum AVColorRange narrow = AVCOL_RANGE_MPEG;
    check_rgb24(picture(AV_PIX_FMT_YUV420P, 37, 22, plain, narrow));
    check_rgb24(picture(AV_PIX_FMT_YUV420P, 38, 21, plain, narrow));
    check_rgb24(picture(AV_PIX_FMT_NV12, 38, 6, plain, narrow));
    check_rgb24(picture(AV_PIX_FMT_YUV420P, 38, 22, AVCOL_SPC_FCC, narrow));
    check_rgb24(picture(AV_PIX_FMT_YUV420P, 38, 22, AVCOL_SPC_SMPTE240M, narrow));
    check_rgb24(picture(AV_PIX_FMT_YUV422P, 38, 22, plain, narrow));
    check_rgb24(picture(AV_PIX_FMT_YUV420P10, 38, 22, plain, narrow));
    check_rgb24(picture(AV_PIX_FMT_NV21, 38, 22, plain, narrow));
    check_rgb24(picture(AV_PIX_FMT_GRAY8, 38, 22, plain, narrow));
    AVFrame *turned = picture(AV_PIX_FMT_YUV420P, 38, 22, plain, narrow);
    AVFrameSideData *side = av_frame_new_side_data(turned, AV_FRAME_DATA_DISPLAYMATRIX, 36);
    assert_non_null(side);
    av_display_rotation_set((int32_t *)(void *)side->data, 90);
    check_rgb24(turned);
}

/* A reader's frame goes from one to the other as pictures come. */
static void a_frame_is_reused_for_either(void **state)
{
    (void)state;
    struct picture p = {0};
    struct frame f = {.takes_nv12 = true};
    for (int i = 0; i < 4; i++) {
        AVFrame *in =
            picture(AV_PIX_FMT_YUV420P, 38 + i % 2, 22, AVCOL_SPC_BT709, AVCOL_RANGE_MPEG);
        assert_int_equal(picture_take(&p, in, NULL, &f), ERR_OK);
        assert_int_equal(f.format.layout, i % 2 ? PIXELS_RGB24 : PIXELS_NV12);
        assert_int_equal(f.width, 38 + i % 2);
        av_frame_free(&in);
    }
    frame_free(&f);
    picture_free(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(eight_bit_420_stays_as_it_is),
        cmocka_unit_test(what_else_there_is_becomes_rgb24),
        cmocka_unit_test(a_frame_is_reused_for_either),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
