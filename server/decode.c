#include "server/decode.h"

#include "base/try.h"
#include "media/image.h"
#include "sandbox/images.h"
#include "server/session.h"

#include <stdlib.h>
#include <string.h>

struct image_decoder {
    struct images *files;
    struct image_reader *raw;
};

enum err image_decoder_open(struct sandbox *s, const struct sandbox_wait *wait,
                            struct image_decoder **out)
{
    struct image_decoder *d = calloc(1, sizeof *d);
    *out = d;
    if (!d)
        return err_set(ERR_NOMEM, "no memory for an image decoder");
    enum err e = images_open(s, "decoder=images", wait, &d->files);
    if (!e)
        e = image_reader_open(&d->raw);
    if (e) {
        image_decoder_close(d);
        *out = NULL;
    }
    return e;
}

void image_decoder_close(struct image_decoder *d)
{
    if (!d)
        return;
    images_close(d->files);
    image_reader_close(d->raw);
    free(d);
}

/* The bytes are the frame already. */
static void decode_none(struct item *item, struct pixel_format format, struct frame *out)
{
    *out = (struct frame){
        .pixels = item->input.data, .format = format, .width = item->width, .height = item->height};
    item->input = (struct buf){0};
}

static enum err decode_rgb24(struct item *item, struct frame *out)
{
    size_t need = (size_t)item->width * (size_t)item->height * 3;
    if (item->input.len != need)
        return err_set(ERR_ARG, "RGB24 of %dx%d has %zu bytes, not %zu", item->width, item->height,
                       need, item->input.len);
    decode_none(item, (struct pixel_format){.layout = PIXELS_RGB24}, out);
    return ERR_OK;
}

static enum err decode_nv12(struct image_decoder *d, struct item *item, struct frame *out)
{
    size_t w = (size_t)item->width, h = (size_t)item->height, pairs = (w + 1) / 2;
    size_t need = w * h + 2 * pairs * ((h + 1) / 2);
    if (item->input.len != need)
        return err_set(ERR_ARG, "NV12 of %zux%zu has %zu bytes, not %zu", w, h, need,
                       item->input.len);
    if (out->takes_nv12 && pixels_nv12_size(item->width, item->height)) {
        decode_none(item, (struct pixel_format){PIXELS_NV12, YUV_BT709, false}, out);
        return ERR_OK;
    }
    return image_from_nv12(d->raw, item->input.data, item->width, item->height, out);
}

static enum err decode_raw(struct image_decoder *d, struct item *item, uint64_t max_pixels,
                           struct frame *out)
{
    if (item->width <= 0 || item->height <= 0)
        return err_set(ERR_ARG, "raw pixels need a width and a height");
    TRY(image_check_size((uint64_t)item->width, (uint64_t)item->height, max_pixels));
    TRY(buf_reserve(&item->input, IMAGE_PADDING)); /* swscale reads some bytes further */
    memset(item->input.data + item->input.len, 0, IMAGE_PADDING);
    return item->kind == ITEM_RGB24 ? decode_rgb24(item, out) : decode_nv12(d, item, out);
}

enum err image_decode(struct image_decoder *d, struct item *item, uint64_t max_pixels)
{
    struct frame out = {.takes_nv12 = item->session && session_takes_nv12(item->session)};
    enum err e = item->kind == ITEM_IMAGE ? images_decode(d->files, &item->input, max_pixels, &out)
                                          : decode_raw(d, item, max_pixels, &out);
    if (e) {
        frame_free(&out);
        return e;
    }
    buf_free(&item->input);
    item->pixels = out.pixels;
    item->pixel_format = out.format;
    item->width = out.width;
    item->height = out.height;
    return ERR_OK;
}
