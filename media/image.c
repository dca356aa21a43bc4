#include "media/image.h"

#include "media/image_head.h"
#include "media/picture.h"

#include "base/try.h"
#include "engine/engine.h"

#include <libavcodec/avcodec.h>
#include <limits.h>
#include <stdlib.h>

enum {
    ALIGN_SLACK = 64 * ENGINE_MAX_SIDE
}; /* pixels: libavcodec's own limit counts whole blocks */

_Static_assert(IMAGE_PADDING >= AV_INPUT_BUFFER_PADDING_SIZE, "what libavcodec asks for");

struct image_reader {
    AVPacket *packet;
    AVFrame *frame;
    struct picture convert;
};

enum err image_reader_open(struct image_reader **out)
{
    struct image_reader *r = calloc(1, sizeof *r);
    *out = r;
    av_log_set_level(AV_LOG_QUIET); /* what matters is reported by us, once */
    if (r) {
        r->packet = av_packet_alloc();
        r->frame = av_frame_alloc();
    }
    if (r && r->packet && r->frame)
        return ERR_OK;
    image_reader_close(r);
    *out = NULL;
    return err_set(ERR_NOMEM, "no memory for an image decoder");
}

void image_reader_close(struct image_reader *r)
{
    if (!r)
        return;
    av_packet_free(&r->packet);
    av_frame_free(&r->frame);
    picture_free(&r->convert);
    free(r);
}

enum err image_check_size(uint64_t width, uint64_t height, uint64_t max_pixels)
{
    if (width < 1 || height < 1)
        return err_set(ERR_FORMAT, "an image of %llu x %llu pixels", (unsigned long long)width,
                       (unsigned long long)height);
    if (width > ENGINE_MAX_SIDE || height > ENGINE_MAX_SIDE || width * height > max_pixels)
        return err_set(ERR_LIMIT, "an image of %llu x %llu; %d a side and %llu pixels are allowed",
                       (unsigned long long)width, (unsigned long long)height, ENGINE_MAX_SIDE,
                       (unsigned long long)max_pixels);
    return ERR_OK;
}

static enum AVCodecID codec_of(enum image_kind kind)
{
    static const enum AVCodecID id[] = {
        [IMAGE_OTHER] = AV_CODEC_ID_NONE, [IMAGE_JPEG] = AV_CODEC_ID_MJPEG,
        [IMAGE_PNG] = AV_CODEC_ID_PNG,    [IMAGE_WEBP] = AV_CODEC_ID_WEBP,
        [IMAGE_GIF] = AV_CODEC_ID_GIF,    [IMAGE_BMP] = AV_CODEC_ID_BMP,
    };
    return id[kind];
}

/* A context for each image: nothing of one client's picture is there for the next. */
static enum err open_codec(enum AVCodecID id, uint64_t max_pixels, AVCodecContext **out)
{
    const AVCodec *codec = avcodec_find_decoder(id);
    AVCodecContext *c = codec ? avcodec_alloc_context3(codec) : NULL;
    *out = NULL;
    if (!codec)
        return err_set(ERR_UNSUPPORTED, "libavcodec has no decoder %s", avcodec_get_name(id));
    if (!c)
        return err_set(ERR_NOMEM, "no memory for an image decoder");
    c->thread_count = 1;
    c->max_pixels = (int64_t)max_pixels + ALIGN_SLACK;
    if (avcodec_open2(c, codec, NULL) < 0) {
        avcodec_free_context(&c);
        return err_set(ERR_INTERNAL, "the decoder %s does not start", avcodec_get_name(id));
    }
    *out = c;
    return ERR_OK;
}

static enum err codec_error(int result)
{
    char text[AV_ERROR_MAX_STRING_SIZE] = "";
    if (result == AVERROR(ENOMEM))
        return err_set(ERR_NOMEM, "no memory to decode an image");
    av_strerror(result, text, sizeof text);
    return err_set(ERR_FORMAT, "the image cannot be decoded: %s", text);
}

/* The file's first picture into r->frame. */
static enum err decode(struct image_reader *r, AVCodecContext *c, const uint8_t *data, size_t len)
{
    r->packet->data = (uint8_t *)data; /* borrowed: libavcodec copies what has no owner */
    r->packet->size = (int)len;
    enum err e = picture_orient_png(r->packet);
    int result = e ? 0 : avcodec_send_packet(c, r->packet);
    av_packet_unref(r->packet);
    if (e)
        return e;
    if (result >= 0)
        result = avcodec_receive_frame(c, r->frame);
    if (result == AVERROR(EAGAIN)) { /* none yet: the file ends here */
        avcodec_send_packet(c, NULL);
        result = avcodec_receive_frame(c, r->frame);
    }
    if (result == AVERROR_EOF)
        return err_set(ERR_FORMAT, "the image has no picture in it");
    if (result < 0)
        return codec_error(result);
    if (r->frame->decode_error_flags || r->frame->flags & AV_FRAME_FLAG_CORRUPT)
        return err_set(ERR_FORMAT, "the image is damaged");
    return ERR_OK;
}

enum err image_read(struct image_reader *r, const uint8_t *data, size_t len, uint64_t max_pixels,
                    struct frame *f)
{
    uint32_t width, height;
    AVCodecContext *c = NULL;
    enum image_kind kind = image_kind(data, len);
    if (kind == IMAGE_OTHER)
        return err_set(ERR_UNSUPPORTED, "this is no JPEG, PNG, WebP, GIF or BMP image");
    if (image_is_animated_webp(data, len)) /* libavcodec has no decoder for it */
        return err_set(ERR_UNSUPPORTED, "this WebP is animated: a still one is an image");
    if (len > INT_MAX / 2)
        return err_set(ERR_LIMIT, "an image of %zu bytes", len);
    if (!image_size(kind, data, len, &width, &height))
        return err_set(ERR_FORMAT, "the image's header is malformed or cut short");
    TRY(image_check_size(width, height, max_pixels));
    TRY(open_codec(codec_of(kind), max_pixels, &c));
    enum err e = decode(r, c, data, len);
    if (!e) /* a file may claim one size and have another */
        e = image_check_size((uint64_t)r->frame->width, (uint64_t)r->frame->height, max_pixels);
    if (!e)
        e = picture_take(&r->convert, r->frame, NULL, f);
    av_frame_unref(r->frame);
    avcodec_free_context(&c);
    return e;
}

enum err image_from_nv12(struct image_reader *r, const uint8_t *data, int width, int height,
                         struct frame *out)
{
    AVFrame *f = r->frame;
    f->format = AV_PIX_FMT_NV12;
    f->width = width;
    f->height = height;
    f->data[0] = (uint8_t *)data; /* borrowed */
    f->data[1] = (uint8_t *)data + (size_t)width * (size_t)height;
    f->linesize[0] = width;
    f->linesize[1] = (width + 1) / 2 * 2;
    f->colorspace = AVCOL_SPC_BT709;
    f->color_range = AVCOL_RANGE_MPEG;
    enum err e = picture_take(&r->convert, f, NULL, out);
    av_frame_unref(f);
    return e;
}
