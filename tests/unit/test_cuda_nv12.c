/* NV12 on the device against swscale, which makes all RGB on the host: the same levels, bit for
 * bit, and so the same labels. */
#define TINY_DEVICE DEVICE_CUDA
#include "tests/unit/cuda_tests.h"
#include "tests/unit/tiny_stream.h"

#include "kernels/cuda/yuv.h"

#include <libavutil/pixfmt.h>
#include <libswscale/swscale.h>

static const struct variant tiny = {"MiT, f32", ENCODER_MIT, HEAD_TV3S, OUTPUT_DIRECT, DT_F32};
const struct variant *variant = &tiny;

enum { SLACK = 128 }; /* swscale's vector code may write past the last pixel */

/* As media/picture.c opens it. */
static struct SwsContext *open_swscale(struct pixel_format f, int width, int height)
{
    static const int matrix[YUV_MATRICES] = {SWS_CS_ITU601, SWS_CS_ITU709, SWS_CS_BT2020};
    struct SwsContext *s =
        sws_getContext(width, height, AV_PIX_FMT_NV12, width, height, AV_PIX_FMT_RGB24,
                       SWS_BILINEAR | SWS_ACCURATE_RND | SWS_FULL_CHR_H_INT, NULL, NULL, NULL);
    assert_non_null(s);
    assert_true(sws_setColorspaceDetails(s, sws_getCoefficients(matrix[f.matrix]), f.full,
                                         sws_getCoefficients(SWS_CS_DEFAULT), 1, 0, 1 << 16,
                                         1 << 16) >= 0);
    return s;
}

static void to_rgb24(struct SwsContext *s, const uint8_t *nv12, int width, int height, uint8_t *rgb)
{
    const uint8_t *const from[4] = {nv12, nv12 + (size_t)width * (size_t)height};
    uint8_t *const to[4] = {rgb};
    const int rows[4] = {width, width}, wide[4] = {3 * width};
    assert_int_equal(sws_scale(s, from, rows, 0, height, to, wide), height);
}

static struct pixel_format format_at(int i)
{
    return (struct pixel_format){PIXELS_NV12, (enum yuv_matrix)(i / 2), i % 2};
}

enum { FORMATS = 2 * YUV_MATRICES };

/* ---- every luma with every chroma ---- */

enum { WIDTH = 32, HEIGHT = 8, LUMA = WIDTH * HEIGHT }; /* a pixel for each luma */
_Static_assert(LUMA == 256, "each once");

static void check_chroma(struct SwsContext *s, const struct yuv *m, uint8_t *nv12, int u, int v)
{
    uint8_t want[3 * LUMA + SLACK];
    for (int i = 0; i < LUMA / 4; i++) {
        nv12[LUMA + 2 * i] = (uint8_t)u;
        nv12[LUMA + 2 * i + 1] = (uint8_t)v;
    }
    to_rgb24(s, nv12, WIDTH, HEIGHT, want);
    for (int y = 0; y < LUMA; y++) {
        int rgb[3];
        yuv_to_rgb(m, y, 8 * u, 8 * v, rgb);
        if (rgb[0] != want[3 * y] || rgb[1] != want[3 * y + 1] || rgb[2] != want[3 * y + 2])
            fail_msg("(%d, %d, %d) is (%d, %d, %d), not (%d, %d, %d)", y, u, v, want[3 * y],
                     want[3 * y + 1], want[3 * y + 2], rgb[0], rgb[1], rgb[2]);
    }
}

static void every_colour_is_swscales(void **state)
{
    (void)state;
    uint8_t nv12[LUMA * 3 / 2 + SLACK] = {0};
    for (int y = 0; y < LUMA; y++)
        nv12[y] = (uint8_t)y;
    for (int i = 0; i < FORMATS; i++) {
        struct SwsContext *s = open_swscale(format_at(i), WIDTH, HEIGHT);
        const struct yuv m = yuv_of(format_at(i));
        for (int chroma = 0; chroma < 256 * 256; chroma++)
            check_chroma(s, &m, nv12, chroma / 256, chroma % 256);
        sws_freeContext(s);
    }
}

/* ---- pictures ---- */

static uint8_t *noise(int width, int height)
{
    size_t bytes = (size_t)width * (size_t)height * 3 / 2;
    uint8_t *nv12 = guarded(bytes);
    for (size_t i = 0; i < bytes; i++)
        nv12[i] = (uint8_t)rng();
    return nv12;
}

/* swscale's own copy of it, for which there is slack at the end. */
static uint8_t *as_rgb24(struct pixel_format f, const uint8_t *nv12, int width, int height)
{
    size_t bytes = (size_t)width * (size_t)height * 3 / 2;
    uint8_t *slack = calloc(1, bytes + SLACK), *rgb = malloc(2 * bytes + SLACK);
    struct SwsContext *s = open_swscale(f, width, height);
    memcpy(slack, nv12, bytes);
    to_rgb24(s, slack, width, height, rgb);
    sws_freeContext(s);
    free(slack);
    return rgb;
}

/* The kernel makes of NV12 what it makes of swscale's RGB24, resized or not. */
static void test_preprocess(int width, int height, struct pixel_format f)
{
    struct resize_axis rows, cols;
    fill_bilinear(&rows, height, pick(0, 2) ? height : pick(1, 50));
    fill_bilinear(&cols, width, pick(0, 2) ? width : pick(1, 99));
    size_t floats_out = 3 * (size_t)rows.dst * (size_t)cols.dst;
    float *got = floats(floats_out, 0, 0), *want = floats(floats_out, 1, 1);
    const uint8_t *nv12 = noise(width, height);
    uint8_t *rgb = as_rgb24(f, nv12, width, height);
    launched(cuda_preprocess(nv12, f, rows, cols, got, NULL));
    launched(cuda_preprocess(rgb, (struct pixel_format){0}, rows, cols, want, NULL));
    assert_memory_equal(got, want, floats_out * sizeof *got);
    free(rgb);
    release();
}

static void every_picture_is_swscales(void **state)
{
    (void)state;
    for (int height = 8; height <= 14; height += 2)
        for (int width = 8; width <= 22; width += 2)
            test_preprocess(width, height, format_at(pick(0, FORMATS - 1)));
    for (int i = 0; i < 60; i++)
        test_preprocess(2 * pick(4, 150), 2 * pick(4, 60), format_at(i % FORMATS));
    test_preprocess(1922, 26, format_at(2));
    test_preprocess(34, 1082, format_at(3));
}

/* ---- the engine ---- */

static enum err label(struct engine *e, struct stream *s, struct image image, struct trace *t,
                      int i)
{
    uint8_t *labels = t->labels + (size_t)i * t->pixels;
    float *logits = t->logits + (size_t)i * t->floats;
    return engine_step(e, &(struct engine_run){s, 1, &image, &labels, &logits}, 1);
}

/* Frames of either kind in turn, so that batches of the one do not pass for the other's. */
static void labels_are_those_of_rgb24(void **state)
{
    const struct fixture *f = *state;
    enum { W = 64, H = 48, FRAMES = 6, PAD = 10 };
    struct trace *got = trace_open(f->model, W, H, FRAMES),
                 *want = trace_open(f->model, W, H, FRAMES);
    struct stream *a = open_stream(f->engine, MODE_STREAM),
                  *b = open_stream(f->engine, MODE_STREAM);
    assert_true(engine_takes_nv12(f->engine));
    for (int i = 0; i < FRAMES; i++) {
        struct pixel_format format = format_at(i < 4 ? 2 : i);
        const uint8_t *nv12 = noise(W, H);
        uint8_t *rgb = as_rgb24(format, nv12, W, H), padded[(W + PAD) * H * 3 / 2];
        for (int y = 0; y < H * 3 / 2; y++)
            memcpy(padded + y * (W + PAD), nv12 + y * W, W);
        const struct image image = {padded, W, H, W + PAD, format, false};
        assert_int_equal(label(f->engine, a, image, got, i), ERR_OK);
        assert_int_equal(label(f->engine, b, image_of_rgb24(rgb, W, H), want, i), ERR_OK);
        free(rgb);
        release();
    }
    assert_same(got, want, 0, FRAMES);
    stream_close(a);
    stream_close(b);
    trace_close(got);
    trace_close(want);
}

static void what_is_no_nv12_is_refused(void **state)
{
    const struct fixture *f = *state;
    const struct engine_config c = {.device = DEVICE_CPU, .dtype = DT_F32, .threads = 1};
    static const uint8_t pixels[64 * 48 * 3];
    struct engine *cpu = NULL;
    struct trace *t = trace_open(f->model, 64, 48, 1);
    struct stream *s = open_stream(f->engine, MODE_STREAM);
    struct pixel_format format = {.layout = PIXELS_NV12};
    assert_int_equal(label(f->engine, s, image_of(pixels, 63, 48, format), t, 0), ERR_ARG);
    assert_int_equal(label(f->engine, s, image_of(pixels, 64, 6, format), t, 0), ERR_ARG);
    assert_int_equal(label(f->engine, s, (struct image){pixels, 64, 48, 63, format, false}, t, 0),
                     ERR_ARG);
    format.matrix = YUV_MATRICES;
    assert_int_equal(label(f->engine, s, image_of(pixels, 64, 48, format), t, 0), ERR_ARG);
    format = (struct pixel_format){.layout = PIXELS_LAYOUTS};
    assert_int_equal(label(f->engine, s, image_of(pixels, 64, 48, format), t, 0), ERR_ARG);
    assert_int_equal(stream_frames(s), 0);
    stream_close(s);

    assert_int_equal(engine_open(f->model, &c, &cpu), ERR_OK);
    assert_false(engine_takes_nv12(cpu));
    s = open_stream(cpu, MODE_STREAM);
    format = (struct pixel_format){.layout = PIXELS_NV12};
    assert_int_equal(label(cpu, s, image_of(pixels, 64, 48, format), t, 0), ERR_UNSUPPORTED);
    stream_close(s);
    engine_close(cpu);
    trace_close(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_colour_is_swscales),
        cmocka_unit_test(every_picture_is_swscales),
        cmocka_unit_test(labels_are_those_of_rgb24),
        cmocka_unit_test(what_is_no_nv12_is_refused),
    };
    return cmocka_run_group_tests(tests, fixture_open, fixture_close);
}
