#include "server/decode.h"

#include "server/image_head.h"

#include "base/try.h"
#include "engine/engine.h"
#include "media/picture.h"

#include <libavcodec/avcodec.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

enum {
    ALIGN_SLACK = 64 * ENGINE_MAX_SIDE
}; /* pixels: libavcodec's own limit counts whole blocks */

struct image_decoder {
    AVPacket *packet;
    AVFrame *frame;
    struct picture convert;
};

enum err image_decoder_open(struct image_decoder **out)
{
    struct image_decoder *d = calloc(1, sizeof *d);
    *out = d;
    av_log_set_level(AV_LOG_QUIET); /* what matters is reported by us, once */
    if (d) {
        d->packet = av_packet_alloc();
        d->frame = av_frame_alloc();
    }
    if (d && d->packet && d->frame)
        return ERR_OK;
    image_decoder_close(d);
    *out = NULL;
    return err_set(ERR_NOMEM, "no memory for an image decoder");
}

void image_decoder_close(struct image_decoder *d)
{
    if (!d)
        return;
    av_packet_free(&d->packet);
    av_frame_free(&d->frame);
    picture_free(&d->convert);
    free(d);
}

bool image_known(const void *data, size_t len)
{
    return image_kind(data, len) != IMAGE_OTHER;
}

static enum err check_size(uint64_t width, uint64_t height, uint64_t max_pixels)
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

/* ---- image files --------------------------------------------------------------------------------
 */

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

/* The file's first picture into d->frame. `input` has padding after its end. */
static enum err decode_file(struct image_decoder *d, AVCodecContext *c, const struct buf *input)
{
    d->packet->data = input->data; /* borrowed: libavcodec copies what has no owner */
    d->packet->size = (int)input->len;
    int r = avcodec_send_packet(c, d->packet);
    av_packet_unref(d->packet);
    if (r >= 0)
        r = avcodec_receive_frame(c, d->frame);
    if (r == AVERROR(EAGAIN)) { /* none yet: the file ends here */
        avcodec_send_packet(c, NULL);
        r = avcodec_receive_frame(c, d->frame);
    }
    if (r == AVERROR_EOF)
        return err_set(ERR_FORMAT, "the image has no picture in it");
    if (r < 0)
        return codec_error(r);
    if (d->frame->decode_error_flags || d->frame->flags & AV_FRAME_FLAG_CORRUPT)
        return err_set(ERR_FORMAT, "the image is damaged");
    return ERR_OK;
}

static enum err decode_image(struct image_decoder *d, struct item *item, uint64_t max_pixels,
                             struct frame *out)
{
    const struct buf *input = &item->input;
    uint32_t width, height;
    AVCodecContext *c = NULL;
    enum image_kind kind = image_kind(input->data, input->len);
    if (kind == IMAGE_OTHER)
        return err_set(ERR_UNSUPPORTED, "this is no JPEG, PNG, WebP, GIF or BMP image");
    if (input->len > INT_MAX / 2)
        return err_set(ERR_LIMIT, "an image of %zu bytes", input->len);
    if (!image_size(kind, input->data, input->len, &width, &height))
        return err_set(ERR_FORMAT, "the image's header is malformed or cut short");
    TRY(check_size(width, height, max_pixels));
    TRY(open_codec(codec_of(kind), max_pixels, &c));
    enum err e = decode_file(d, c, input);
    if (!e) /* a file may claim one size and have another */
        e = check_size((uint64_t)d->frame->width, (uint64_t)d->frame->height, max_pixels);
    if (!e)
        e = picture_to_rgb(&d->convert, d->frame, NULL, out);
    av_frame_unref(d->frame);
    avcodec_free_context(&c);
    return e;
}

/* ---- raw pixels ---------------------------------------------------------------------------------
 */

/* The bytes are the frame already. */
static enum err decode_rgb24(struct item *item, struct frame *out)
{
    size_t need = (size_t)item->width * (size_t)item->height * 3;
    if (item->input.len != need)
        return err_set(ERR_ARG, "RGB24 of %dx%d has %zu bytes, not %zu", item->width, item->height,
                       need, item->input.len);
    *out = (struct frame){.rgb = item->input.data, .width = item->width, .height = item->height};
    item->input = (struct buf){0};
    return ERR_OK;
}

static enum err decode_nv12(struct image_decoder *d, struct item *item, struct frame *out)
{
    AVFrame *f = d->frame;
    size_t w = (size_t)item->width, h = (size_t)item->height, pairs = (w + 1) / 2;
    size_t need = w * h + 2 * pairs * ((h + 1) / 2);
    if (item->input.len != need)
        return err_set(ERR_ARG, "NV12 of %zux%zu has %zu bytes, not %zu", w, h, need,
                       item->input.len);
    f->format = AV_PIX_FMT_NV12;
    f->width = item->width;
    f->height = item->height;
    f->data[0] = item->input.data; /* borrowed */
    f->data[1] = item->input.data + w * h;
    f->linesize[0] = item->width;
    f->linesize[1] = (int)(2 * pairs);
    f->colorspace = AVCOL_SPC_BT709;
    f->color_range = AVCOL_RANGE_MPEG;
    enum err e = picture_to_rgb(&d->convert, f, NULL, out);
    av_frame_unref(f);
    return e;
}

enum err image_decode(struct image_decoder *d, struct item *item, uint64_t max_pixels)
{
    struct frame out = {0};
    enum err e = ERR_OK;
    if (item->kind != ITEM_IMAGE)
        e = item->width > 0 && item->height > 0
                ? check_size((uint64_t)item->width, (uint64_t)item->height, max_pixels)
                : err_set(ERR_ARG, "raw pixels need a width and a height");
    if (!e) /* libavcodec and swscale read some bytes further */
        e = buf_reserve(&item->input, AV_INPUT_BUFFER_PADDING_SIZE);
    if (e)
        return e;
    memset(item->input.data + item->input.len, 0, AV_INPUT_BUFFER_PADDING_SIZE);
    if (item->kind == ITEM_IMAGE)
        e = decode_image(d, item, max_pixels, &out);
    else if (item->kind == ITEM_RGB24)
        e = decode_rgb24(item, &out);
    else
        e = decode_nv12(d, item, &out);
    buf_free(&item->input);
    if (e) {
        frame_free(&out);
        return e;
    }
    item->rgb = out.rgb;
    item->width = out.width;
    item->height = out.height;
    return ERR_OK;
}
