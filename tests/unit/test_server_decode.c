/* From bytes of strangers to pixels: image files, raw pixels, packets through a session's worker.
 */
#include "server/decode.h"
#include "media/image_head.h"
#include "sandbox/sandbox.h"
#include "tests/unit/server_rig.h"

#include <libavcodec/avcodec.h>
#include <libavutil/opt.h>

enum { W = 96, H = 64 };
static const uint64_t max_pixels = 1 << 20;
static const struct sandbox_wait no_wait;

/* ---- files by libavcodec's own encoders ---------------------------------------------------------
 */

struct file {
    uint8_t *data;
    size_t len;
};

/* `t` makes one picture another. Planar formats get grey, brighter with t. */
static AVFrame *picture(enum AVPixelFormat format, int width, int height, int t)
{
    AVFrame *f = av_frame_alloc();
    f->format = format;
    f->width = width;
    f->height = height;
    f->pts = t;
    f->color_range = AVCOL_RANGE_JPEG;
    assert_int_equal(av_frame_get_buffer(f, 0), 0);
    for (int p = 0; p < 4 && f->data[p]; p++)
        for (int y = 0; y < (p && format != AV_PIX_FMT_RGB24 ? (height + 1) / 2 : height); y++)
            memset(f->data[p] + (ptrdiff_t)y * f->linesize[p], p ? 128 : 60 + 10 * t,
                   (size_t)f->linesize[p]);
    if (format == AV_PIX_FMT_RGB24)
        for (int y = 0; y < height; y++)
            for (int x = 0; x < 3 * width; x++)
                f->data[0][(ptrdiff_t)y * f->linesize[0] + x] = (uint8_t)(x * 7 + y * 3 + t);
    return f;
}

static AVCodecContext *encoder(const char *name, enum AVPixelFormat format, int width, int height)
{
    const AVCodec *codec = avcodec_find_encoder_by_name(name);
    if (!codec)
        return NULL;
    AVCodecContext *c = avcodec_alloc_context3(codec);
    c->width = width;
    c->height = height;
    c->pix_fmt = format;
    c->color_range = AVCOL_RANGE_JPEG;
    c->time_base = (AVRational){1, 25};
    c->thread_count = 1;
    c->max_b_frames = strcmp(name, "libx264") == 0 ? 2 : 0;
    av_opt_set(c->priv_data, "preset", "veryfast", 0);
    assert_int_equal(avcodec_open2(c, codec, NULL), 0);
    return c;
}

static int receive(AVCodecContext *c, struct file *out, int count, int most)
{
    AVPacket *p = av_packet_alloc();
    while (avcodec_receive_packet(c, p) == 0) {
        assert_true(count < most);
        out[count].data = malloc((size_t)p->size);
        memcpy(out[count].data, p->data, (size_t)p->size);
        out[count++].len = (size_t)p->size;
        av_packet_unref(p);
    }
    av_packet_free(&p);
    return count;
}

/* `count` pictures, a packet each; false when there is no such encoder. */
static bool encode(const char *name, enum AVPixelFormat format, int width, int height, int count,
                   struct file *out)
{
    AVCodecContext *c = encoder(name, format, width, height);
    int n = 0;
    if (!c)
        return false;
    for (int t = 0; t < count; t++) {
        AVFrame *f = picture(format, width, height, t);
        assert_int_equal(avcodec_send_frame(c, f), 0);
        n = receive(c, out, n, count);
        av_frame_free(&f);
    }
    avcodec_send_frame(c, NULL);
    assert_int_equal(receive(c, out, n, count), count);
    avcodec_free_context(&c);
    return true;
}

/* ---- one picture --------------------------------------------------------------------------------
 */

static struct item *item_of(enum item_kind kind, const void *data, size_t len)
{
    struct item *item = item_new(NULL, kind);
    assert_int_equal(buf_append(&item->input, data, len), ERR_OK);
    return item;
}

/* Decodes a copy; *out (or NULL) is the caller's. */
static enum err decode(const void *data, size_t len, struct item **out)
{
    struct image_decoder *d;
    struct item *item = item_of(ITEM_IMAGE, data, len);
    assert_int_equal(image_decoder_open(NULL, &no_wait, &d), ERR_OK);
    enum err e = image_decode(d, item, max_pixels);
    assert_true((e == ERR_OK) == (item->pixels != NULL));
    image_decoder_close(d);
    if (out)
        *out = item;
    else
        item_free(item);
    return e;
}

static void image_files_are_told_by_their_bytes(void **state)
{
    (void)state;
    static const struct {
        const char *encoder;
        enum AVPixelFormat format;
        enum image_kind kind;
    } cases[] = {{"mjpeg", AV_PIX_FMT_YUVJ420P, IMAGE_JPEG},
                 {"png", AV_PIX_FMT_RGB24, IMAGE_PNG},
                 {"libwebp", AV_PIX_FMT_YUV420P, IMAGE_WEBP},
                 {"gif", AV_PIX_FMT_GRAY8, IMAGE_GIF},
                 {"bmp", AV_PIX_FMT_GRAY8, IMAGE_BMP}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct file f;
        struct item *item;
        uint32_t width, height;
        if (!encode(cases[i].encoder, cases[i].format, W, H, 1, &f))
            continue;
        assert_int_equal(image_kind(f.data, f.len), cases[i].kind);
        assert_true(image_size(cases[i].kind, f.data, f.len, &width, &height));
        assert_int_equal(width, W);
        assert_int_equal(height, H);
        if (decode(f.data, f.len, &item))
            fail_msg("%s: %s", cases[i].encoder, err_text());
        assert_int_equal(item->width, W);
        assert_int_equal(item->height, H);
        item_free(item);
        free(f.data);
    }
}

static void a_png_is_exact(void **state)
{
    (void)state;
    struct file f;
    struct item *item;
    assert_true(encode("png", AV_PIX_FMT_RGB24, 33, 17, 1, &f));
    assert_int_equal(decode(f.data, f.len, &item), ERR_OK);
    for (int y = 0; y < 17; y++)
        for (int x = 0; x < 99; x++)
            assert_int_equal(item->pixels[y * 99 + x], (uint8_t)(x * 7 + y * 3));
    item_free(item);
    free(f.data);
}

static void what_is_no_image_is_refused(void **state)
{
    (void)state;
    assert_int_equal(decode("hello", 5, NULL), ERR_UNSUPPORTED);
    assert_int_equal(decode("", 0, NULL), ERR_UNSUPPORTED);
    assert_int_equal(decode("II*\0\10\0\0\0", 8, NULL), ERR_UNSUPPORTED); /* TIFF: not allowed */
    assert_int_equal(decode("#EXTM3U\nfile:///etc/passwd", 26, NULL), ERR_UNSUPPORTED);
    assert_int_equal(decode("\0\0\0\x18"
                            "ftypisom",
                            12, NULL),
                     ERR_UNSUPPORTED);
    assert_int_equal(decode("\xff\xd8\xff\xd9", 4, NULL), ERR_FORMAT);
}

/* Every beginning of a file ends in an error or a picture, and in nothing else. */
static void files_cut_short_do_no_harm(void **state)
{
    (void)state;
    static const char *const names[] = {"mjpeg", "png", "libwebp", "gif", "bmp"};
    static const enum AVPixelFormat formats[] = {AV_PIX_FMT_YUVJ420P, AV_PIX_FMT_RGB24,
                                                 AV_PIX_FMT_YUV420P, AV_PIX_FMT_GRAY8,
                                                 AV_PIX_FMT_GRAY8};
    for (int i = 0; i < 5; i++) {
        struct file f;
        if (!encode(names[i], formats[i], 40, 24, 1, &f))
            continue;
        for (size_t n = 0; n < f.len; n += n < 64 ? 1 : 29)
            decode(f.data, n, NULL);
        free(f.data);
    }
}

static void sizes_are_checked_before_anything_is_decoded(void **state)
{
    (void)state;
    static const uint8_t bomb[16] = {0, 0, 0xea, 0x60, 0, 0, 0xea, 0x60}; /* 60000 x 60000 */
    struct file f;
    assert_true(encode("png", AV_PIX_FMT_RGB24, W, H, 1, &f));
    memcpy(f.data + 16, bomb, 8);
    assert_int_equal(decode(f.data, f.len, NULL), ERR_LIMIT);
    assert_non_null(strstr(err_text(), "60000 x 60000"));
    memset(f.data + 16, 0, 8);
    assert_int_equal(decode(f.data, f.len, NULL), ERR_FORMAT);
    free(f.data);
    assert_true(encode("bmp", AV_PIX_FMT_GRAY8, W, H, 1, &f));
    memcpy(f.data + 18, "\xff\xff\xff\x7f\x01\x00\x00\x80", 8);
    assert_int_equal(decode(f.data, f.len, NULL), ERR_LIMIT);
    free(f.data);
    assert_true(encode("mjpeg", AV_PIX_FMT_YUVJ420P, 2048, 1024, 1, &f)); /* 2 Mi */
    assert_int_equal(decode(f.data, f.len, NULL), ERR_LIMIT);
    free(f.data);
}

/* ---- raw pixels ---------------------------------------------------------------------------------
 */

static enum err decode_raw(enum item_kind kind, int width, int height, const void *data, size_t len,
                           uint8_t rgb[3])
{
    struct image_decoder *d;
    struct item *item = item_of(kind, data, len);
    item->width = width;
    item->height = height;
    assert_int_equal(image_decoder_open(NULL, &no_wait, &d), ERR_OK);
    enum err e = image_decode(d, item, max_pixels);
    if (!e)
        memcpy(rgb, item->pixels + ((size_t)width * (size_t)height - 1) * 3, 3);
    image_decoder_close(d);
    item_free(item);
    return e;
}

static void raw_pixels_have_the_size_they_say(void **state)
{
    (void)state;
    uint8_t data[64] = {0}, rgb[3];
    data[45] = 1, data[46] = 2, data[47] = 3;
    assert_int_equal(decode_raw(ITEM_RGB24, 4, 4, data, 48, rgb), ERR_OK);
    assert_memory_equal(rgb, data + 45, 3);
    assert_int_equal(decode_raw(ITEM_RGB24, 4, 4, data, 47, rgb), ERR_ARG);
    assert_int_equal(decode_raw(ITEM_RGB24, 0, 4, data, 0, rgb), ERR_ARG);
    assert_int_equal(decode_raw(ITEM_RGB24, -4, -4, data, 48, rgb), ERR_ARG);
    assert_int_equal(decode_raw(ITEM_RGB24, 65536, 65536, data, 0, rgb), ERR_LIMIT);
    assert_int_equal(decode_raw(ITEM_NV12, 5, 3, data, 15 + 12, rgb), ERR_OK);
    assert_int_equal(decode_raw(ITEM_NV12, 5, 3, data, 15 + 8, rgb), ERR_ARG);
}

/* Red is Y 63, Cb 102, Cr 240 by BT.709 (BT.601 would say 81, 90, 240). */
static void nv12_is_bt709_limited(void **state)
{
    (void)state;
    uint8_t data[16 * 16 * 3 / 2], rgb[3];
    memset(data, 63, 256);
    for (int i = 256; i < 384; i += 2)
        data[i] = 102, data[i + 1] = 240;
    assert_int_equal(decode_raw(ITEM_NV12, 16, 16, data, sizeof data, rgb), ERR_OK);
    assert_in_range(rgb[0], 252, 255);
    assert_in_range(rgb[1], 0, 3);
    assert_in_range(rgb[2], 0, 3);
}

/* Where the engine takes it, and only then, and not under an overlay. */
static void nv12_stays_for_an_engine_that_takes_it(void **state)
{
    (void)state;
    struct served_model model = {.takes_nv12 = true};
    struct session session = {.refs = 1, .params = {.model = &model, .format = MASK_PNG}};
    uint8_t data[16 * 16 * 3 / 2];
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (uint8_t)(i * 7);
    for (int i = 0; i < 4; i++) {
        bool kept = i == 0;
        struct image_decoder *d;
        session.params.format = i == 1 ? MASK_OVERLAY : MASK_PNG;
        model.takes_nv12 = i != 2;
        struct item *item = item_new(&session, ITEM_NV12);
        item->width = 16;
        item->height = i == 3 ? 15 : 16;
        assert_int_equal(buf_append(&item->input, data, sizeof data), ERR_OK);
        if (i == 3)
            item->input.len = 16 * 15 + 16 * 8;
        assert_int_equal(image_decoder_open(NULL, &no_wait, &d), ERR_OK);
        assert_int_equal(image_decode(d, item, max_pixels), ERR_OK);
        assert_int_equal(item->pixel_format.layout, kept ? PIXELS_NV12 : PIXELS_RGB24);
        if (kept) {
            assert_int_equal(item->pixel_format.matrix, YUV_BT709);
            assert_false(item->pixel_format.full);
            assert_memory_equal(item->pixels, data, sizeof data);
        }
        image_decoder_close(d);
        item_free(item);
    }
}

/* ---- packets ------------------------------------------------------------------------------------
 */

enum { PACKETS = 8 };

static void send_packet(struct rig *r, struct session *s, enum item_codec codec, int64_t seq,
                        const struct file *f)
{
    struct item *item = item_new(s, ITEM_PACKET);
    if (f)
        assert_int_equal(buf_append(&item->input, f->data, f->len), ERR_OK);
    item->codec = codec;
    item->seq = seq;
    item->deliver = rig_deliver;
    item->owner = r;
    assert_int_equal(workers_decode(r->workers, item), ERR_OK);
}

static void free_files(struct file *f, int count)
{
    for (int i = 0; i < count; i++)
        free(f[i].data);
}

static void every_packet_comes_back(void **state)
{
    (void)state;
    struct rig r;
    struct file h264[PACKETS], vp8[PACKETS];
    if (!encode("libx264", AV_PIX_FMT_YUV420P, W, H, PACKETS, h264) ||
        !encode("libvpx", AV_PIX_FMT_YUV420P, W, H, PACKETS, vp8))
        skip();
    rig_open(&r);
    rig_start(&r);
    struct session *s = rig_live(&r, "a");
    for (int i = 0; i < PACKETS; i++)
        send_packet(&r, s, CODEC_H264, i, &h264[i]);
    for (int i = 0; i < PACKETS; i++) /* another codec gives up the first one's pictures */
        send_packet(&r, s, CODEC_VP8, 100 + i, &vp8[i]);
    send_packet(&r, s, CODEC_VP8, 200, &(struct file){(uint8_t *)"damaged", 7});
    send_packet(&r, s, CODEC_VP8, 300, NULL);
    rig_wait(&r, 2 * PACKETS + 2);
    for (int i = 0; i < PACKETS; i++) {
        assert_int_equal(rig_find(&r, s, i, NULL)->error, ERR_OK);
        assert_int_equal(rig_find(&r, s, i, NULL)->output.len, W * H);
        assert_int_equal(rig_find(&r, s, 100 + i, NULL)->output.len, W * H);
    }
    assert_true(rig_find(&r, s, 300, NULL)->empty);
    assert_true(metric_get(r.metrics, METRIC_FRAMES_LIVE_OK) == 2 * PACKETS);
    assert_int_equal(s->held, 0);
    session_unref(s);
    rig_close(&r);
    free_files(h264, PACKETS);
    free_files(vp8, PACKETS);
}

static void packets_in_a_decoder_come_back_after_the_end(void **state)
{
    (void)state;
    struct rig r;
    struct file h264[PACKETS];
    if (!encode("libx264", AV_PIX_FMT_YUV420P, W, H, PACKETS, h264))
        skip();
    rig_open(&r);
    rig_start(&r);
    struct session *s = rig_live(&r, "a");
    for (int i = 0; i < 3; i++)
        send_packet(&r, s, CODEC_H264, i, &h264[i]);
    while (metric_get(r.metrics, METRIC_QUEUE_DECODE) > 0)
        usleep(1000);
    rig_stop(&r);
    send_packet(&r, s, CODEC_H264, 9, NULL); /* as a connection does that ends */
    assert_int_equal(r.count, 4);
    assert_int_equal(s->in_flight, 4); /* ours */
    session_unref(s);
    rig_close(&r);
    free_files(h264, PACKETS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(image_files_are_told_by_their_bytes),
        cmocka_unit_test(a_png_is_exact),
        cmocka_unit_test(what_is_no_image_is_refused),
        cmocka_unit_test(files_cut_short_do_no_harm),
        cmocka_unit_test(sizes_are_checked_before_anything_is_decoded),
        cmocka_unit_test(raw_pixels_have_the_size_they_say),
        cmocka_unit_test(nv12_is_bt709_limited),
        cmocka_unit_test(nv12_stays_for_an_engine_that_takes_it),
        cmocka_unit_test(every_packet_comes_back),
        cmocka_unit_test(packets_in_a_decoder_come_back_after_the_end),
    };
    return cmocka_run_group_tests_name("server decode", tests, NULL, NULL);
}
