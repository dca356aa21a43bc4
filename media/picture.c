/* From the codec's pixels to packed RGB24, or to packed NV12.
 *
 * swscale converts at equal size: chroma is interpolated, rounding is exact, and the matrix and
 * range are the stream's own. A display matrix is one of eight: quarter turns with or without a
 * mirror; anything else (a phone's 3 degrees) is left alone. The matrix maps source to display,
 * x' = a x + c y, y' = b x + d y, so the signs of its four numbers say it all. */
#include "media/picture.h"

#include "media/device.h"
#include "media/image_head.h"

#include <libavutil/display.h>
#include <libavutil/imgutils.h>
#include <libavutil/pixdesc.h>
#include <stdlib.h>
#include <string.h>

enum { ROW_SLACK = 128 }; /* swscale's vector code may write past the last pixel */

static enum err reserve(uint8_t **buf, size_t *capacity, bool lent, size_t need)
{
    if (need <= *capacity)
        return ERR_OK;
    if (lent)
        return err_set(ERR_LIMIT, "a picture of %zu bytes, more than there is room for", need);
    free(*buf);
    *capacity = 0;
    *buf = malloc(need);
    if (!*buf)
        return err_set(ERR_NOMEM, "no memory for a picture of %zu bytes", need);
    *capacity = need;
    return ERR_OK;
}

/* swscale's number of the matrix. */
static int matrix_of(const AVFrame *in)
{
    switch (in->colorspace) {
    case AVCOL_SPC_BT709:
        return SWS_CS_ITU709;
    case AVCOL_SPC_FCC:
        return SWS_CS_FCC;
    case AVCOL_SPC_SMPTE240M:
        return SWS_CS_SMPTE240M;
    case AVCOL_SPC_BT2020_NCL:
    case AVCOL_SPC_BT2020_CL:
        return SWS_CS_BT2020;
    case AVCOL_SPC_BT470BG:
    case AVCOL_SPC_SMPTE170M:
        return SWS_CS_ITU601;
    default:
        break;
    }
    bool full = in->color_range == AVCOL_RANGE_JPEG; /* JPEG is BT.601 by definition */
    return !full && (in->width > 1280 || in->height > 576 || in->width * in->height > 1280 * 576)
               ? SWS_CS_ITU709
               : SWS_CS_ITU601;
}

/* The deprecated "J" formats mean full range; swscale wants the plain ones. */
static enum AVPixelFormat plain_format(int format, bool *full)
{
    switch (format) {
    case AV_PIX_FMT_YUVJ411P:
        *full = true;
        return AV_PIX_FMT_YUV411P;
    case AV_PIX_FMT_YUVJ420P:
        *full = true;
        return AV_PIX_FMT_YUV420P;
    case AV_PIX_FMT_YUVJ422P:
        *full = true;
        return AV_PIX_FMT_YUV422P;
    case AV_PIX_FMT_YUVJ440P:
        *full = true;
        return AV_PIX_FMT_YUV440P;
    case AV_PIX_FMT_YUVJ444P:
        *full = true;
        return AV_PIX_FMT_YUV444P;
    default:
        return format;
    }
}

/* Whether the picture can go as NV12, and of which kind. */
static bool is_nv12(const AVFrame *in, struct pixel_format *out)
{
    bool full = in->color_range == AVCOL_RANGE_JPEG;
    enum AVPixelFormat format = plain_format(in->format, &full);
    *out = (struct pixel_format){.layout = PIXELS_NV12, .full = full};
    switch (matrix_of(in)) {
    case SWS_CS_ITU601:
        out->matrix = YUV_BT601;
        break;
    case SWS_CS_ITU709:
        out->matrix = YUV_BT709;
        break;
    case SWS_CS_BT2020:
        out->matrix = YUV_BT2020;
        break;
    default:
        return false;
    }
    return (format == AV_PIX_FMT_YUV420P || format == AV_PIX_FMT_NV12 ||
            format == AV_PIX_FMT_CUDA) &&
           pixels_nv12_size(in->width, in->height);
}

static void copy_nv12(const AVFrame *in, uint8_t *out)
{
    int width = in->width, height = in->height;
    for (int y = 0; y < height; y++, out += width)
        memcpy(out, in->data[0] + y * (ptrdiff_t)in->linesize[0], (size_t)width);
    for (int y = 0; y < height / 2; y++, out += width) {
        const uint8_t *u = in->data[1] + y * (ptrdiff_t)in->linesize[1];
        if (in->format == AV_PIX_FMT_NV12) {
            memcpy(out, u, (size_t)width);
            continue;
        }
        const uint8_t *v = in->data[2] + y * (ptrdiff_t)in->linesize[2];
        for (int x = 0; x < width / 2; x++) {
            out[2 * x] = u[x];
            out[2 * x + 1] = v[x];
        }
    }
}

static enum err take_nv12(const AVFrame *in, struct pixel_format format, struct frame *f)
{
    size_t need = pixels_bytes(PIXELS_NV12, in->width, in->height) + ROW_SLACK;
    enum err e = reserve(&f->pixels, &f->capacity, f->lent, need);
    if (e)
        return e;
    f->format = format;
    f->width = in->width;
    f->height = in->height;
    copy_nv12(in, f->pixels);
    return ERR_OK;
}

static enum err convert(struct picture *p, const AVFrame *in, uint8_t *rgb)
{
    bool full = in->color_range == AVCOL_RANGE_JPEG;
    enum AVPixelFormat format = plain_format(in->format, &full);
    const int flags = SWS_BILINEAR | SWS_ACCURATE_RND | SWS_FULL_CHR_H_INT;
    p->sws = sws_getCachedContext(p->sws, in->width, in->height, format, in->width, in->height,
                                  AV_PIX_FMT_RGB24, flags, NULL, NULL, NULL);
    if (!p->sws) {
        const char *name = av_get_pix_fmt_name(in->format);
        return err_set(ERR_UNSUPPORTED, "cannot convert pixels of format %s",
                       name ? name : "unknown");
    }
    /* Fails for formats that have no matrix (RGB), where nothing is to be said. */
    sws_setColorspaceDetails(p->sws, sws_getCoefficients(matrix_of(in)), full,
                             sws_getCoefficients(SWS_CS_DEFAULT), 1, 0, 1 << 16, 1 << 16);
    uint8_t *planes[4] = {rgb};
    int strides[4] = {in->width * 3};
    int rows = sws_scale(p->sws, (const uint8_t *const *)in->data, in->linesize, 0, in->height,
                         planes, strides);
    return rows == in->height ? ERR_OK : err_set(ERR_INTERNAL, "pixel conversion failed");
}

struct turn {
    bool swap, flip_x, flip_y; /* swap axes, then mirror in display coordinates */
};

static struct turn turn_of(const int32_t *m)
{
    struct turn t = {0};
    int64_t a = m[0], b = m[1], c = m[3], d = m[4];
    if (b == 0 && c == 0 && a != 0 && d != 0)
        t = (struct turn){false, a < 0, d < 0};
    else if (a == 0 && d == 0 && b != 0 && c != 0)
        t = (struct turn){true, c < 0, b < 0};
    return t;
}

/* By EXIF's orientation. */
static const struct turn turns[] = {
    [2] = {false, true, false}, [3] = {false, true, true}, [4] = {false, false, true},
    [5] = {true, false, false}, [6] = {true, true, false}, [7] = {true, true, true},
    [8] = {true, false, true}};

/* libavcodec makes a matrix of it in JPEG, tells it as text in WebP, and not at all in PNG. */
static struct turn turn_of_exif(const AVFrame *in)
{
    const AVDictionaryEntry *e = av_dict_get(in->metadata, "Orientation", NULL, AV_DICT_MATCH_CASE);
    long n = e ? strtol(e->value, NULL, 10) : 1;
    return turns[n >= 1 && n <= 8 ? n : 1];
}

enum err picture_orient_png(AVPacket *packet)
{
    int n = image_png_orientation(packet->data, (size_t)packet->size);
    if (n == 1)
        return ERR_OK;
    struct turn t = turns[n];
    int32_t x = t.flip_x ? -(1 << 16) : 1 << 16, y = t.flip_y ? -(1 << 16) : 1 << 16;
    int32_t matrix[9] = {[8] = 1 << 30};
    matrix[t.swap ? 3 : 0] = x;
    matrix[t.swap ? 1 : 4] = y;
    uint8_t *side = av_packet_new_side_data(packet, AV_PKT_DATA_DISPLAYMATRIX, sizeof matrix);
    if (!side)
        return err_set(ERR_NOMEM, "no memory for an image");
    memcpy(side, matrix, sizeof matrix);
    return ERR_OK;
}

/* Source (x, y) goes to display (x, y) or (y, x), mirrored as said. */
static void turn_pixels(const uint8_t *in, int w, int h, struct turn t, uint8_t *out)
{
    ptrdiff_t out_w = t.swap ? h : w, out_h = t.swap ? w : h;
    ptrdiff_t step_x = t.swap ? out_w * 3 : 3, step_y = t.swap ? 3 : out_w * 3;
    uint8_t *origin =
        out + (t.flip_x ? (out_w - 1) * 3 : 0) + (t.flip_y ? (out_h - 1) * out_w * 3 : 0);
    if (t.swap ? t.flip_y : t.flip_x)
        step_x = -step_x;
    if (t.swap ? t.flip_x : t.flip_y)
        step_y = -step_y;
    for (int y = 0; y < h; y++) {
        uint8_t *to = origin + y * step_y;
        for (int x = 0; x < w; x++, in += 3, to += step_x)
            memcpy(to, in, 3);
    }
}

/* ERR_LIMIT: it has to come to the host. */
static enum err take_on_device(const struct decode_device *device, const AVFrame *in,
                               struct pixel_format format, struct frame *f)
{
    struct device_nv12 picture;
    if (!device_view(in, &picture))
        return ERR_LIMIT;
    f->format = format;
    f->width = in->width;
    f->height = in->height;
    return device->take(device->ctx, &picture, f);
}

static enum err take_rgb(struct picture *p, const AVFrame *in, struct turn t, struct frame *f)
{
    size_t need = (size_t)in->width * (size_t)in->height * 3 + ROW_SLACK;
    enum err e = reserve(&f->pixels, &f->capacity, f->lent, need);
    if (e)
        return e;
    f->format = (struct pixel_format){.layout = PIXELS_RGB24};
    f->width = t.swap ? in->height : in->width;
    f->height = t.swap ? in->width : in->height;
    if (!t.swap && !t.flip_x && !t.flip_y)
        return convert(p, in, f->pixels);
    e = reserve(&p->turned, &p->turned_capacity, false, need);
    if (!e)
        e = convert(p, in, p->turned);
    if (!e)
        turn_pixels(p->turned, in->width, in->height, t, f->pixels);
    return e;
}

static enum err fetch(struct picture *p, const AVFrame **in)
{
    if (!p->host && !(p->host = av_frame_alloc()))
        return err_set(ERR_NOMEM, "no memory for a picture");
    enum err e = device_fetch(*in, p->host);
    *in = p->host;
    return e;
}

enum err picture_take(struct picture *p, const AVFrame *in, const int32_t *matrix, struct frame *f)
{
    struct pixel_format format;
    const AVFrameSideData *own = av_frame_get_side_data(in, AV_FRAME_DATA_DISPLAYMATRIX);
    if (own && own->size >= 9 * sizeof *matrix)
        matrix = (const int32_t *)(const void *)own->data;
    struct turn t = matrix ? turn_of(matrix) : turn_of_exif(in);
    bool nv12 = f->takes_nv12 && !t.swap && !t.flip_x && !t.flip_y && is_nv12(in, &format);
    f->device_pixels = NULL;
    if (in->format == AV_PIX_FMT_CUDA) {
        enum err e = nv12 ? take_on_device(p->device, in, format, f) : ERR_LIMIT;
        if (e == ERR_LIMIT)
            e = fetch(p, &in);
        if (e || f->device_pixels)
            return e;
    }
    return nv12 ? take_nv12(in, format, f) : take_rgb(p, in, t, f);
}

void picture_free(struct picture *p)
{
    sws_freeContext(p->sws);
    av_frame_free(&p->host);
    free(p->turned);
    *p = (struct picture){0};
}
