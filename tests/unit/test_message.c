#include "proto/message.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

/* A header and `payload` bytes after it. */
static size_t make(struct frame_message f, size_t payload, uint8_t *out)
{
    message_write_frame(&f, out);
    memset(out + FRAME_HEADER, 7, payload);
    return FRAME_HEADER + payload;
}

static const struct frame_message rgb = {
    .kind = MESSAGE_RGB24, .seq = 5, .pts = MESSAGE_NO_PTS, .width = 4, .height = 2};
static const struct frame_message vp8 = {
    .kind = MESSAGE_PACKET, .codec = MESSAGE_VP8, .key_frame = true, .seq = 1, .pts = -40000};

static void bare_images_are_frames_without_a_number(void **state)
{
    (void)state;
    static const char *const image[] = {"\xff\xd8\xff\xe0", "\x89PNG\r\n\x1a\n.", "RIFF....WEBP"};
    for (int i = 0; i < 3; i++) {
        struct frame_message f;
        assert_int_equal(message_parse_frame(image[i], strlen(image[i]), &f), ERR_OK);
        assert_int_equal(f.kind, MESSAGE_IMAGE);
        assert_int_equal(f.seq, -1);
        assert_true(f.pts == MESSAGE_NO_PTS);
        assert_ptr_equal(f.payload, image[i]);
        assert_int_equal(f.len, strlen(image[i]));
    }
}

static void the_header_has_the_documented_bytes(void **state)
{
    (void)state;
    static const uint8_t want[FRAME_HEADER] = {'T', 'V', '3', 'F', 1, 2, 0, 2, 8, 7, 6,
                                               5,   4,   3,   2,   1, 0, 0, 0, 0, 0, 0,
                                               0,   128, 4,   0,   0, 0, 2, 1, 0, 0};
    struct frame_message f = rgb;
    uint8_t got[FRAME_HEADER];
    f.seq = 0x0102030405060708;
    f.silent = true;
    f.height = 258;
    message_write_frame(&f, got);
    assert_memory_equal(got, want, sizeof want);
}

static void frames_come_back_as_they_were_written(void **state)
{
    (void)state;
    uint8_t bytes[FRAME_HEADER + 24];
    struct frame_message f;
    assert_int_equal(message_parse_frame(bytes, make(rgb, 24, bytes), &f), ERR_OK);
    assert_int_equal(f.kind, MESSAGE_RGB24);
    assert_int_equal(f.seq, 5);
    assert_int_equal(f.width, 4);
    assert_int_equal(f.height, 2);
    assert_int_equal(f.len, 24);
    assert_ptr_equal(f.payload, bytes + FRAME_HEADER);
    assert_int_equal(message_parse_frame(bytes, make(vp8, 10, bytes), &f), ERR_OK);
    assert_int_equal(f.kind, MESSAGE_PACKET);
    assert_int_equal(f.codec, MESSAGE_VP8);
    assert_true(f.key_frame && !f.silent);
    assert_int_equal(f.pts, -40000);
}

static void nv12_rounds_odd_sides_up(void **state)
{
    (void)state;
    assert_int_equal(message_nv12_size(4, 2), 12);
    assert_int_equal(message_nv12_size(5, 3), 15 + 2 * 3 * 2);
    assert_int_equal(message_rgb24_size(5, 3), 45);
    assert_int_equal(message_rgb24_size(0, 3), 0);
    assert_int_equal(message_nv12_size(1, MASK_MAX_SIDE + 1), 0);
}

static void assert_broken(struct frame_message f, size_t payload, int offset, int value)
{
    uint8_t bytes[FRAME_HEADER + 64];
    struct frame_message out;
    size_t len = make(f, payload, bytes);
    if (offset >= 0)
        bytes[offset] = (uint8_t)value;
    assert_int_equal(message_parse_frame(bytes, len, &out), ERR_FORMAT);
}

static void every_broken_rule_is_refused(void **state)
{
    (void)state;
    struct frame_message out, f = rgb;
    assert_int_equal(message_parse_frame("", 0, &out), ERR_FORMAT);
    assert_int_equal(message_parse_frame("GIF89a", 6, &out), ERR_FORMAT);
    assert_broken(rgb, 24, 0, 't');
    assert_broken(rgb, 24, 4, 2); /* version */
    assert_broken(rgb, 24, 5, 0); /* kind */
    assert_broken(rgb, 24, 5, 5);
    assert_broken(rgb, 24, 6, 1);    /* a codec with pixels */
    assert_broken(rgb, 24, 7, 4);    /* flags */
    assert_broken(rgb, 24, 15, 128); /* a negative number */
    assert_broken(rgb, 23, -1, 0);
    assert_broken(rgb, 25, -1, 0);
    assert_broken(rgb, 24, 5, MESSAGE_NV12);
    assert_broken(rgb, 24, 31, 1); /* height */
    assert_broken(vp8, 10, 6, 0);  /* codec */
    assert_broken(vp8, 10, 6, 6);
    assert_broken(vp8, 10, 24, 1); /* a packet with a size */
    assert_broken(vp8, 0, -1, 0);
    f.width = 0;
    assert_broken(f, 0, -1, 0);
    uint8_t bytes[FRAME_HEADER];
    make(rgb, 0, bytes);
    for (size_t len = 0; len <= sizeof bytes; len++)
        assert_int_equal(message_parse_frame(bytes, len, &out), ERR_FORMAT);
}

static void answers_come_back_as_they_were_written(void **state)
{
    (void)state;
    const struct answer_message in = {.format = MASK_RLE,
                                      .from_zero = true,
                                      .seq = 1LL << 40,
                                      .pts = MESSAGE_NO_PTS,
                                      .width = 864,
                                      .height = 480,
                                      .decode_us = 1,
                                      .queue_us = 2,
                                      .compute_us = 3000000000u,
                                      .encode_us = 4};
    uint8_t bytes[ANSWER_HEADER + 3] = {0};
    struct answer_message a;
    message_write_answer(&in, bytes);
    assert_int_equal(message_parse_answer(bytes, sizeof bytes, &a), ERR_OK);
    assert_int_equal(a.format, MASK_RLE);
    assert_true(a.from_zero && !a.none);
    assert_true(a.seq == in.seq && a.pts == in.pts);
    assert_int_equal(a.width, 864);
    assert_int_equal(a.height, 480);
    assert_int_equal(a.decode_us, 1);
    assert_int_equal(a.queue_us, 2);
    assert_int_equal(a.compute_us, 3000000000u);
    assert_int_equal(a.encode_us, 4);
    assert_int_equal(a.len, 3);
    for (size_t len = 0; len < ANSWER_HEADER; len++)
        assert_int_equal(message_parse_answer(bytes, len, &a), ERR_FORMAT);
    bytes[5] = MASK_FORMATS;
    assert_int_equal(message_parse_answer(bytes, sizeof bytes, &a), ERR_FORMAT);
    bytes[5] = 255;
    assert_int_equal(message_parse_answer(bytes, sizeof bytes, &a), ERR_OK);
    assert_true(a.none);
}

static enum err control(const char *text, struct control_message *out)
{
    return message_parse_control(text, strlen(text), out);
}

static void control_messages_are_known_or_refused(void **state)
{
    (void)state;
    struct control_message c;
    assert_int_equal(control("{\"type\":\"reset\"}", &c), ERR_OK);
    assert_int_equal(c.kind, CONTROL_RESET);
    assert_int_equal(control("{\"type\":\"stats\"}", &c), ERR_OK);
    assert_int_equal(c.kind, CONTROL_STATS);
    assert_int_equal(control(" {\"format\":\"coco_rle\",\"type\":\"format\"}\n", &c), ERR_OK);
    assert_int_equal(c.kind, CONTROL_FORMAT);
    assert_int_equal(c.format, MASK_COCO_RLE);
    assert_int_equal(control("{\"type\":\"end\"}", &c), ERR_OK);
    assert_int_equal(c.kind, CONTROL_END);
    static const char *const broken[] = {"",
                                         "reset",
                                         "[]",
                                         "{}",
                                         "{\"type\":1}",
                                         "{\"type\":\"Reset\"}",
                                         "{\"type\":\"format\"}",
                                         "{\"type\":\"format\",\"format\":\"gif\"}",
                                         "{\"type\":\"end\",\"now\":true}",
                                         "{\"type\":\"end\",\"type\":\"end\"}",
                                         "{\"type\":\"end\"} x"};
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++)
        assert_int_equal(control(broken[i], &c), ERR_FORMAT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bare_images_are_frames_without_a_number),
        cmocka_unit_test(the_header_has_the_documented_bytes),
        cmocka_unit_test(frames_come_back_as_they_were_written),
        cmocka_unit_test(nv12_rounds_odd_sides_up),
        cmocka_unit_test(every_broken_rule_is_refused),
        cmocka_unit_test(answers_come_back_as_they_were_written),
        cmocka_unit_test(control_messages_are_known_or_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
