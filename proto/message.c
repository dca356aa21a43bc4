/* Everything here reads bytes from strangers: lengths are compared before bytes are looked at, and
 * products are of numbers already bounded. */
#include "proto/message.h"

#include <jansson.h>
#include <string.h>

enum { FLAG_KEY_FRAME = 1, FLAG_SILENT = 2, FLAG_FROM_ZERO = 1, FORMAT_NONE = 255 };

/* ---- little-endian numbers ----------------------------------------------------------------------
 */

static uint32_t get_u32(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static int64_t get_i64(const uint8_t *p)
{
    return (int64_t)((uint64_t)get_u32(p + 4) << 32 | get_u32(p));
}

static void put_u32(uint8_t *p, uint32_t v)
{
    for (int i = 0; i < 4; i++)
        p[i] = (uint8_t)(v >> 8 * i);
}

static void put_i64(uint8_t *p, int64_t v)
{
    put_u32(p, (uint32_t)(uint64_t)v);
    put_u32(p + 4, (uint32_t)((uint64_t)v >> 32));
}

/* ---- frames -------------------------------------------------------------------------------------
 */

static bool side_valid(int64_t n)
{
    return n >= 1 && n <= MASK_MAX_SIDE;
}

size_t message_rgb24_size(int width, int height)
{
    return side_valid(width) && side_valid(height) ? (size_t)width * (size_t)height * 3 : 0;
}

size_t message_nv12_size(int width, int height)
{
    if (!side_valid(width) || !side_valid(height))
        return 0;
    size_t w = (size_t)width, h = (size_t)height;
    return w * h + 2 * ((w + 1) / 2) * ((h + 1) / 2);
}

static bool is_image(const uint8_t *p, size_t len)
{
    return (len >= 3 && memcmp(p, "\xff\xd8\xff", 3) == 0) ||
           (len >= 8 && memcmp(p, "\x89PNG\r\n\x1a\n", 8) == 0) ||
           (len >= 12 && memcmp(p, "RIFF", 4) == 0 && memcmp(p + 8, "WEBP", 4) == 0);
}

/* Kind, codec and flags, and which of them go together. */
static enum err parse_kind(const uint8_t *p, struct frame_message *out)
{
    if (p[4] != MESSAGE_VERSION)
        return err_set(ERR_FORMAT, "version %u of the frame header; there is only 1", p[4]);
    if (p[5] < MESSAGE_IMAGE || p[5] > MESSAGE_PACKET)
        return err_set(ERR_FORMAT, "there is no kind %u of frame", p[5]);
    out->kind = p[5];
    if (out->kind == MESSAGE_PACKET ? p[6] < MESSAGE_H264 || p[6] > MESSAGE_AV1 : p[6] != 0)
        return err_set(ERR_FORMAT, "codec %u with kind %u of frame", p[6], p[5]);
    out->codec = p[6];
    if (p[7] & ~(FLAG_KEY_FRAME | FLAG_SILENT))
        return err_set(ERR_FORMAT, "unknown flags %u", p[7]);
    out->key_frame = p[7] & FLAG_KEY_FRAME;
    out->silent = p[7] & FLAG_SILENT;
    return ERR_OK;
}

/* Width, height, and the payload's length against them. */
static enum err parse_size(const uint8_t *p, struct frame_message *out)
{
    uint32_t width = get_u32(p + 24), height = get_u32(p + 28);
    if (out->kind == MESSAGE_IMAGE || out->kind == MESSAGE_PACKET) {
        if (width || height)
            return err_set(ERR_FORMAT, "an encoded frame whose header has a size");
        return out->len ? ERR_OK : err_set(ERR_FORMAT, "a frame without payload");
    }
    if (!side_valid(width) || !side_valid(height))
        return err_set(ERR_FORMAT, "a frame of %u x %u; sides are 1 to %d", width, height,
                       MASK_MAX_SIDE);
    out->width = (int)width;
    out->height = (int)height;
    size_t want = out->kind == MESSAGE_RGB24 ? message_rgb24_size(out->width, out->height)
                                             : message_nv12_size(out->width, out->height);
    if (out->len != want)
        return err_set(ERR_FORMAT, "a frame of %u x %u has %zu bytes, not %zu", width, height,
                       out->len, want);
    return ERR_OK;
}

enum err message_parse_frame(const void *data, size_t len, struct frame_message *out)
{
    const uint8_t *p = data;
    *out = (struct frame_message){
        .kind = MESSAGE_IMAGE, .seq = -1, .pts = MESSAGE_NO_PTS, .payload = p, .len = len};
    if (is_image(p, len))
        return ERR_OK;
    if (len < FRAME_HEADER || memcmp(p, "TV3F", 4) != 0)
        return err_set(ERR_FORMAT, "a binary message that is neither an image nor a frame");
    out->payload = p + FRAME_HEADER;
    out->len = len - FRAME_HEADER;
    enum err e = parse_kind(p, out);
    if (e)
        return e;
    out->seq = get_i64(p + 8);
    out->pts = get_i64(p + 16);
    if (out->seq < 0)
        return err_set(ERR_FORMAT, "the sequence number %lld", (long long)out->seq);
    return parse_size(p, out);
}

void message_write_frame(const struct frame_message *f, uint8_t out[FRAME_HEADER])
{
    memcpy(out, "TV3F", 4);
    out[4] = MESSAGE_VERSION;
    out[5] = (uint8_t)f->kind;
    out[6] = (uint8_t)f->codec;
    out[7] = (uint8_t)((f->key_frame ? FLAG_KEY_FRAME : 0) | (f->silent ? FLAG_SILENT : 0));
    put_i64(out + 8, f->seq);
    put_i64(out + 16, f->pts);
    put_u32(out + 24, (uint32_t)f->width);
    put_u32(out + 28, (uint32_t)f->height);
}

/* ---- answers ------------------------------------------------------------------------------------
 */

void message_write_answer(const struct answer_message *a, uint8_t out[ANSWER_HEADER])
{
    memcpy(out, "TV3M", 4);
    out[4] = MESSAGE_VERSION;
    out[5] = a->none ? FORMAT_NONE : (uint8_t)a->format;
    out[6] = a->from_zero ? FLAG_FROM_ZERO : 0;
    out[7] = 0;
    put_i64(out + 8, a->seq);
    put_i64(out + 16, a->pts);
    put_u32(out + 24, (uint32_t)a->width);
    put_u32(out + 28, (uint32_t)a->height);
    put_u32(out + 32, a->decode_us);
    put_u32(out + 36, a->queue_us);
    put_u32(out + 40, a->compute_us);
    put_u32(out + 44, a->encode_us);
}

enum err message_parse_answer(const void *data, size_t len, struct answer_message *out)
{
    const uint8_t *p = data;
    *out = (struct answer_message){0};
    if (len < ANSWER_HEADER || memcmp(p, "TV3M", 4) != 0 || p[4] != MESSAGE_VERSION)
        return err_set(ERR_FORMAT, "a binary message that is no answer");
    uint32_t width = get_u32(p + 24), height = get_u32(p + 28);
    if (p[5] != FORMAT_NONE && p[5] >= MASK_FORMATS)
        return err_set(ERR_FORMAT, "an answer in the unknown format %u", p[5]);
    if (!side_valid(width) || !side_valid(height) || get_i64(p + 8) < 0)
        return err_set(ERR_FORMAT, "an answer with a number or size out of range");
    out->none = p[5] == FORMAT_NONE;
    out->format = out->none ? MASK_PNG : (enum mask_format)p[5];
    out->from_zero = p[6] & FLAG_FROM_ZERO;
    out->seq = get_i64(p + 8);
    out->pts = get_i64(p + 16);
    out->width = (int)width;
    out->height = (int)height;
    out->decode_us = get_u32(p + 32);
    out->queue_us = get_u32(p + 36);
    out->compute_us = get_u32(p + 40);
    out->encode_us = get_u32(p + 44);
    out->payload = p + ANSWER_HEADER;
    out->len = len - ANSWER_HEADER;
    return ERR_OK;
}

/* ---- control ------------------------------------------------------------------------------------
 */

static enum err read_control(const json_t *root, struct control_message *out)
{
    static const char *const names[] = {"reset", "stats", "format", "end"};
    const char *type = json_string_value(json_object_get(root, "type"));
    if (!type)
        return err_set(ERR_FORMAT, "a control message without a type");
    size_t i = 0;
    while (i < sizeof names / sizeof *names && strcmp(type, names[i]) != 0)
        i++;
    if (i == sizeof names / sizeof *names)
        return err_set(ERR_FORMAT, "there is no control message '%s'", type);
    out->kind = (enum control_kind)i;
    size_t members = 1;
    if (out->kind == CONTROL_FORMAT) {
        const char *format = json_string_value(json_object_get(root, "format"));
        if (!format || mask_format_parse(format, &out->format) != ERR_OK)
            return err_set(ERR_FORMAT, "a control message with an unknown format");
        members++;
    }
    if (json_object_size(root) != members)
        return err_set(ERR_FORMAT, "a control message '%s' with unknown members", type);
    return ERR_OK;
}

enum err message_parse_control(const char *text, size_t len, struct control_message *out)
{
    *out = (struct control_message){0};
    json_error_t error;
    json_t *root = json_loadb(text, len, JSON_REJECT_DUPLICATES, &error);
    if (!root)
        return err_set(ERR_FORMAT, "a text message that is not JSON: %s", error.text);
    enum err e = read_control(root, out);
    json_decref(root);
    return e;
}
