/* Packets from real encoders: every picture comes back with the tag of the packet it came from. */
#include "media/packet.h"

#include <libavcodec/avcodec.h>
#include <libavutil/opt.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { FRAMES = 12, WIDTH = 96, HEIGHT = 64, STEP = 15 };

/* One encoded packet; `picture` is the number of the frame in it, which is flat and STEP brighter
 * than the one before. */
struct sample {
    uint8_t *data;
    size_t len;
    int picture;
};

struct clip {
    struct sample packet[FRAMES];
    int count;
};

static int brightness(int picture)
{
    return 40 + STEP * picture;
}

static void take_packets(AVCodecContext *c, struct clip *clip)
{
    AVPacket *p = av_packet_alloc();
    while (avcodec_receive_packet(c, p) == 0) {
        assert_true(clip->count < FRAMES);
        struct sample *s = &clip->packet[clip->count++];
        s->data = malloc((size_t)p->size);
        memcpy(s->data, p->data, (size_t)p->size);
        s->len = (size_t)p->size;
        s->picture = (int)p->pts;
        av_packet_unref(p);
    }
    av_packet_free(&p);
}

/* FRAMES frames by the encoder `name`; false when this libavcodec has none. */
static bool encode(const char *name, int width, int height, int bframes, struct clip *clip)
{
    *clip = (struct clip){.count = 0};
    const AVCodec *codec = avcodec_find_encoder_by_name(name);
    if (!codec)
        return false;
    AVCodecContext *c = avcodec_alloc_context3(codec);
    c->width = width;
    c->height = height;
    c->pix_fmt = AV_PIX_FMT_YUV420P;
    c->time_base = (AVRational){1, 25};
    c->max_b_frames = bframes;
    c->gop_size = FRAMES;
    c->thread_count = 1;
    c->bit_rate = 400000;
    av_opt_set(c->priv_data, "preset", strcmp(name, "libsvtav1") == 0 ? "12" : "veryfast", 0);
    av_opt_set(c->priv_data, "x265-params", "log-level=none:pools=1:frame-threads=1", 0);
    av_opt_set(c->priv_data, "lag-in-frames", "0", 0);
    av_opt_set(c->priv_data, "cpu-used", "8", 0);
    assert_int_equal(avcodec_open2(c, codec, NULL), 0);
    AVFrame *f = av_frame_alloc();
    f->format = c->pix_fmt;
    f->width = width;
    f->height = height;
    assert_int_equal(av_frame_get_buffer(f, 0), 0);
    for (int i = 0; i < FRAMES; i++) {
        assert_int_equal(av_frame_make_writable(f), 0);
        memset(f->data[0], brightness(i), (size_t)f->linesize[0] * (size_t)height);
        memset(f->data[1], 128, (size_t)f->linesize[1] * (size_t)height / 2);
        memset(f->data[2], 128, (size_t)f->linesize[2] * (size_t)height / 2);
        f->pts = i;
        assert_int_equal(avcodec_send_frame(c, f), 0);
        take_packets(c, clip);
    }
    avcodec_send_frame(c, NULL);
    take_packets(c, clip);
    assert_int_equal(clip->count, FRAMES);
    av_frame_free(&f);
    avcodec_free_context(&c);
    return true;
}

static void free_clip(struct clip *clip)
{
    for (int i = 0; i < clip->count; i++)
        free(clip->packet[i].data);
}

static void assert_shows(const struct frame *f, const struct sample *s)
{
    int want = (brightness(s->picture) - 16) * 255 / 219; /* limited range */
    assert_int_equal(f->width, WIDTH);
    assert_int_equal(f->height, HEIGHT);
    assert_in_range(f->pixels[3 * (WIDTH * HEIGHT / 2)], want - STEP / 3, want + STEP / 3);
}

struct got {
    int pictures, empty, last; /* last: the last picture's number */
};

/* Takes out what is there. Pictures ascend. */
static void take_pictures(struct packet_decoder *d, struct got *got)
{
    struct frame f = {0};
    void *tag;
    enum err e;
    for (enum packet_result r; (r = packet_decoder_next(d, &f, &tag, &e)) != PACKET_MORE;) {
        assert_int_not_equal(r, PACKET_FAILED);
        if (r == PACKET_EMPTY) {
            got->empty++;
            continue;
        }
        const struct sample *s = tag;
        assert_shows(&f, s);
        assert_true(s->picture > got->last);
        got->last = s->picture;
        got->pictures++;
        frame_free(&f);
    }
}

static void round_trip(enum packet_codec codec, const char *encoder, int bframes)
{
    struct clip clip;
    if (!encode(encoder, WIDTH, HEIGHT, bframes, &clip))
        skip();
    struct packet_decoder *d;
    assert_int_equal(packet_decoder_open(codec, WIDTH * HEIGHT, &d), ERR_OK);
    for (int round = 0; round < 2; round++) { /* the second after the end of a sequence */
        struct got got = {.last = -1};
        for (int i = 0; i < clip.count; i++) {
            struct sample *s = &clip.packet[i];
            assert_int_equal(packet_decoder_send(d, s->data, s->len, s), ERR_OK);
            take_pictures(d, &got);
            if (!bframes)
                assert_int_equal(got.pictures, i + 1);
        }
        int end;
        assert_int_equal(packet_decoder_send(d, NULL, 0, &end), ERR_OK);
        take_pictures(d, &got);
        assert_int_equal(got.pictures, FRAMES);
        assert_int_equal(got.empty, 1);
        assert_int_equal(packet_decoder_held(d), 0);
    }
    packet_decoder_close(d, NULL);
    free_clip(&clip);
}

static void h264_without_reordering_answers_at_once(void **state)
{
    (void)state;
    round_trip(PACKET_H264, "libx264", 0);
}

static void h264_with_reordering_keeps_the_tags(void **state)
{
    (void)state;
    round_trip(PACKET_H264, "libx264", 3);
}

static void hevc_with_reordering_keeps_the_tags(void **state)
{
    (void)state;
    round_trip(PACKET_HEVC, "libx265", 3);
}

static void vp8_answers_at_once(void **state)
{
    (void)state;
    round_trip(PACKET_VP8, "libvpx", 0);
}

static void vp9_answers_at_once(void **state)
{
    (void)state;
    round_trip(PACKET_VP9, "libvpx-vp9", 0);
}

static void av1_answers_at_once(void **state)
{
    (void)state;
    round_trip(PACKET_AV1, "libaom-av1", 0);
}

static void a_damaged_packet_fails_alone(void **state)
{
    (void)state;
    struct clip clip;
    if (!encode("libvpx", WIDTH, HEIGHT, 0, &clip))
        skip();
    struct packet_decoder *d;
    struct got got = {.last = -1};
    uint8_t junk[64];
    memset(junk, 0xa5, sizeof junk);
    assert_int_equal(packet_decoder_open(PACKET_VP8, 1 << 20, &d), ERR_OK);
    for (int i = 0; i < clip.count; i++) {
        struct sample *s = &clip.packet[i];
        if (i == 5)
            assert_int_equal(packet_decoder_send(d, junk, 2, s), ERR_FORMAT);
        assert_int_equal(packet_decoder_send(d, s->data, s->len, s), ERR_OK);
        take_pictures(d, &got);
    }
    assert_int_equal(got.pictures, FRAMES);
    packet_decoder_close(d, NULL);
    free_clip(&clip);
}

static void too_many_pixels_are_refused(enum packet_codec codec, const char *encoder)
{
    struct clip clip;
    if (!encode(encoder, 2 * WIDTH, HEIGHT, 0, &clip))
        skip();
    struct packet_decoder *d;
    assert_int_equal(packet_decoder_open(codec, WIDTH * HEIGHT, &d), ERR_OK);
    struct sample *s = &clip.packet[0];
    assert_int_equal(packet_decoder_send(d, s->data, s->len, s), ERR_LIMIT);
    packet_decoder_close(d, NULL);
    free_clip(&clip);
}

static void pictures_beyond_the_limit_are_refused(void **state)
{
    (void)state;
    too_many_pixels_are_refused(PACKET_H264, "libx264");
    too_many_pixels_are_refused(PACKET_VP8, "libvpx");
    too_many_pixels_are_refused(PACKET_VP9, "libvpx-vp9");
    too_many_pixels_are_refused(PACKET_AV1, "libaom-av1");
}

static void parameter_sets_alone_are_empty(void **state)
{
    (void)state;
    static const uint8_t delimiter[] = {0, 0, 0, 1, 9, 0xf0};
    struct packet_decoder *d;
    struct frame f = {0};
    void *tag;
    enum err e;
    int mark;
    assert_int_equal(packet_decoder_open(PACKET_H264, 1 << 20, &d), ERR_OK);
    assert_int_equal(packet_decoder_send(d, delimiter, sizeof delimiter, &mark), ERR_OK);
    assert_int_equal(packet_decoder_next(d, &f, &tag, &e), PACKET_EMPTY);
    assert_ptr_equal(tag, &mark);
    assert_int_equal(packet_decoder_next(d, &f, &tag, &e), PACKET_MORE);
    packet_decoder_close(d, NULL);
}

static int given_back;

static void count_tag(void *tag)
{
    assert_non_null(tag);
    given_back++;
}

static void closing_gives_every_tag_back(void **state)
{
    (void)state;
    struct clip clip;
    if (!encode("libx264", WIDTH, HEIGHT, 3, &clip))
        skip();
    struct packet_decoder *d;
    assert_int_equal(packet_decoder_open(PACKET_H264, 1 << 20, &d), ERR_OK);
    for (int i = 0; i < clip.count; i++)
        packet_decoder_send(d, clip.packet[i].data, clip.packet[i].len, &clip.packet[i]);
    given_back = 0;
    packet_decoder_close(d, count_tag);
    assert_int_equal(given_back, FRAMES);
    free_clip(&clip);
}

static void unknown_codecs_are_refused(void **state)
{
    (void)state;
    struct packet_decoder *d;
    assert_int_equal(packet_decoder_open(0, 1, &d), ERR_ARG);
    assert_int_equal(packet_decoder_open(PACKET_AV1 + 1, 1, &d), ERR_ARG);
    assert_null(d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(h264_without_reordering_answers_at_once),
        cmocka_unit_test(h264_with_reordering_keeps_the_tags),
        cmocka_unit_test(hevc_with_reordering_keeps_the_tags),
        cmocka_unit_test(vp8_answers_at_once),
        cmocka_unit_test(vp9_answers_at_once),
        cmocka_unit_test(av1_answers_at_once),
        cmocka_unit_test(a_damaged_packet_fails_alone),
        cmocka_unit_test(pictures_beyond_the_limit_are_refused),
        cmocka_unit_test(parameter_sets_alone_are_empty),
        cmocka_unit_test(closing_gives_every_tag_back),
        cmocka_unit_test(unknown_codecs_are_refused),
    };
    av_log_set_level(AV_LOG_QUIET);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
