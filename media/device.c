/* NVDEC by FFmpeg: a hardware device of the type CUDA, and get_format, which FFmpeg asks where a
 * picture is to be decoded, at the first one and where the size changes.
 *
 * The device's context is the caller's: the CUDA runtime's own, so that addresses of the one are
 * those of the other. (FFmpeg could make the primary context itself, but refuses one that the
 * runtime has made with other flags before.)
 *
 * What goes wrong is of two kinds, and is told apart like this. A damaged stream is found by the
 * codec's parser, which gives AVERROR_INVALIDDATA and the like, or by the device, which conceals it
 * and says nothing. A device that fails is found by FFmpeg's wrapper around every call of the
 * driver. That gives AVERROR_EXTERNAL, but some of its callers pass over it (H.264 between two
 * fields, av_hwframe_transfer_data), so we hear what it says as well: FFmpeg tells errors by its
 * log alone, and the reason why there is no device too. AVERROR(ENOMEM) is the device's where it
 * has no surface left, and may be a stream's that holds more pictures than it says: to the host
 * with it.
 *
 * A decoder with a device has one thread, the caller's, so that the log is the caller's too. */
#include "media/device.h"

#include <libavutil/hwcontext.h>
#include <libavutil/intreadwrite.h>
#include <libavutil/pixdesc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The first line of what FFmpeg says while somebody listens. */
struct said {
    char text[128];
    bool complete; /* the line's end was there */
    bool failed;   /* it is of a call of the driver */
};

struct device {
    AVBufferRef *context;
    const AVCodec *codec;
    int index;
    bool works, refused;
    bool key;         /* of the packet that was sent last */
    struct said said; /* in the last call */
    char why[192];
};

/* ---- what FFmpeg says ---------------------------------------------------------------------------
 */

static _Thread_local struct said *listener;

/* The wrapper says "decoder->cvdl->cuvidDecodePicture(decoder->decoder, ...)", and what follows. */
static void hear_failure(struct said *s, const char *call)
{
    const char *end = call + strcspn(call, "("), *name = end;
    while (name > call && name[-1] != '>')
        name--;
    snprintf(s->text, sizeof s->text, "%.*s failed", (int)(end - name), name);
    s->failed = true;
    s->complete = false;
}

static void on_log(void *whose, int level, const char *format, va_list args)
{
    struct said *s = listener;
    (void)whose;
    if (!s || level > AV_LOG_ERROR)
        return;
    if (strcmp(format, "%s failed") == 0) {
        if (!s->failed)
            hear_failure(s, va_arg(args, const char *));
        return;
    }
    size_t n = strlen(s->text);
    if (s->complete)
        return;
    vsnprintf(s->text + n, sizeof s->text - n, format, args);
    n = strcspn(s->text, "\n");
    s->complete = s->text[n] == '\n';
    s->text[n] = 0;
}

static void listen_to(struct said *s)
{
    *s = (struct said){0};
    listener = s;
}

/* ---- opening ------------------------------------------------------------------------------------
 */

/* The first reason stays. */
static void refuse(struct device *d, const char *why)
{
    if (!d->refused)
        snprintf(d->why, sizeof d->why, "cuda:%d: %s", d->index, why);
    d->refused = true;
}

/* FFmpeg's decoder of the codec that can have a CUDA device at work: the one that decodes on the
 * host too, but for AV1. Not those that are the device's alone (h264_cuvid): they do not ask. */
static const AVCodec *find_codec(const AVCodec *usual)
{
    const AVCodec *c;
    const AVCodecHWConfig *way;
    for (void *i = NULL; (c = av_codec_iterate(&i));) {
        if (c->id != usual->id || !av_codec_is_decoder(c) ||
            c->capabilities & AV_CODEC_CAP_HARDWARE)
            continue;
        for (int k = 0; (way = avcodec_get_hw_config(c, k)); k++)
            if (way->device_type == AV_HWDEVICE_TYPE_CUDA &&
                way->methods & AV_CODEC_HW_CONFIG_METHOD_HW_DEVICE_CTX)
                return c;
    }
    return NULL;
}

static bool is_420_of_8_bits(enum AVPixelFormat format)
{
    return format == AV_PIX_FMT_YUV420P || format == AV_PIX_FMT_YUVJ420P ||
           format == AV_PIX_FMT_NV12;
}

static void refuse_format(struct device *d, enum AVPixelFormat format)
{
    char text[96];
    const char *name = av_get_pix_fmt_name(format);
    snprintf(text, sizeof text, "pictures are %s, not 4:2:0 of 8 bits", name ? name : "unknown");
    refuse(d, text);
}

/* FFmpeg's AVCUDADeviceContext begins with the CUcontext; its header would want CUDA's own. */
static void open_context(struct device *d, void *cuda)
{
    d->context = av_hwdevice_ctx_alloc(AV_HWDEVICE_TYPE_CUDA);
    if (!d->context) {
        refuse(d, "FFmpeg has no CUDA devices");
        return;
    }
    AVHWDeviceContext *h = (AVHWDeviceContext *)(void *)d->context->data;
    memcpy(h->hwctx, &cuda, sizeof cuda);
    listen_to(&d->said);
    int r = av_hwdevice_ctx_init(d->context);
    listener = NULL;
    if (r < 0)
        refuse(d, d->said.text[0] ? d->said.text : av_err2str(r));
}

struct device *device_open(const struct decode_device *o, const AVCodec *usual,
                           const AVCodecParameters *par)
{
    struct device *d = calloc(1, sizeof *d);
    if (!d)
        return NULL;
    av_log_set_callback(on_log); /* of the whole process, which has nothing else to log */
    d->index = o->index;
    d->codec = find_codec(usual);
    if (!d->codec)
        refuse(d, "FFmpeg has this codec for no CUDA device");
    else if (par->format >= 0 && !is_420_of_8_bits(par->format))
        refuse_format(d, par->format);
    else
        open_context(d, o->context);
    return d;
}

void device_close(struct device *d)
{
    if (!d)
        return;
    av_buffer_unref(&d->context);
    free(d);
}

const AVCodec *device_codec(const struct device *d)
{
    return d->codec;
}

const char *device_why(const struct device *d)
{
    return d->why;
}

/* ---- at work ------------------------------------------------------------------------------------
 */

/* FFmpeg's question. It asks once more, without AV_PIX_FMT_CUDA, where the device said no. None is
 * the answer then: the codec fails, and this one is not gone on with on the host. VP9 may change
 * the size at any picture and predict it from those of the old size; FFmpeg makes a new decoder of
 * the device, which does not have them. */
static enum AVPixelFormat choose(AVCodecContext *c, const enum AVPixelFormat *list)
{
    struct device *d = c->opaque;
    bool offered = false;
    enum AVPixelFormat host = AV_PIX_FMT_NONE; /* the last */
    for (; *list != AV_PIX_FMT_NONE; list++) {
        offered |= *list == AV_PIX_FMT_CUDA;
        host = *list;
    }
    if (!offered && d->said.text[0])
        refuse(d, d->said.text);
    else if (!is_420_of_8_bits(host))
        refuse_format(d, host);
    else if (!offered)
        refuse(d, "FFmpeg has these pictures for no CUDA device");
    else if (c->coded_width % 2 || c->coded_height % 2)
        refuse(d, "pictures have odd sides");
    else if (d->works && c->codec_id == AV_CODEC_ID_VP9 && !d->key)
        refuse(d, "the size changes at a picture that is no key frame");
    else
        listen_to(&d->said); /* to what it says of this */
    d->works = !d->refused;
    return d->refused ? AV_PIX_FMT_NONE : AV_PIX_FMT_CUDA;
}

int device_prepare(struct device *d, AVCodecContext *c)
{
    c->opaque = d;
    c->get_format = choose;
    c->thread_count = 1;
    c->hw_device_ctx = av_buffer_ref(d->context);
    return c->hw_device_ctx ? 0 : AVERROR(ENOMEM);
}

/* NVDEC has baseline JPEGs with their tables, one a picture; Motion JPEG may leave the tables out,
 * and may have a JPEG for each field. */
static bool is_plain_jpeg(const AVCodecContext *c, const AVPacket *p)
{
    bool tables = false, baseline = false;
    for (int at = 2; at + 9 < p->size && p->data[at] == 0xff;) {
        int marker = p->data[at + 1];
        if (marker == 0xda)
            return tables && baseline;
        tables |= marker == 0xc4;
        baseline |= marker == 0xc0 && AV_RB16(p->data + at + 5) == c->height;
        at += 2 + AV_RB16(p->data + at + 2);
    }
    return false;
}

int device_send(struct device *d, AVCodecContext *c, const AVPacket *p)
{
    if (p && c->codec_id == AV_CODEC_ID_MJPEG && !is_plain_jpeg(c, p)) {
        refuse(d, "the JPEGs are not baseline, or without tables");
        return AVERROR_INVALIDDATA;
    }
    d->key = p && p->flags & AV_PKT_FLAG_KEY;
    listen_to(&d->said);
    int r = avcodec_send_packet(c, p);
    listener = NULL;
    return r;
}

int device_receive(struct device *d, AVCodecContext *c, AVFrame *out)
{
    listen_to(&d->said);
    int r = avcodec_receive_frame(c, out);
    listener = NULL;
    if (r == 0 && !out->data[0]) { /* made up by the parser in place of one that is missing */
        av_frame_unref(out);
        return AVERROR_INVALIDDATA;
    }
    if (r == 0) {
        out->width -= (int)out->crop_left;
        out->height -= (int)out->crop_top;
    }
    return r;
}

bool device_refused(struct device *d, int result)
{
    if (d->said.failed)
        refuse(d, d->said.text);
    else if (result == AVERROR_EXTERNAL || result == AVERROR(ENOMEM))
        refuse(d, d->said.text[0] ? d->said.text : av_err2str(result));
    return d->refused;
}

/* ---- pictures -----------------------------------------------------------------------------------
 */

bool device_view(const AVFrame *in, struct device_nv12 *out)
{
    size_t left = in->crop_left, top = in->crop_top;
    for (int i = 0; i < 2; i++) {
        out->pitch[i] = (size_t)in->linesize[i];
        out->plane[i] = in->data[i] + (i ? top / 2 : top) * out->pitch[i] + left;
    }
    out->width = in->width;
    out->height = in->height;
    return left % 2 == 0 && top % 2 == 0;
}

enum err device_fetch(const AVFrame *in, AVFrame *host)
{
    struct said said;
    AVFrame *whole = av_frame_clone(in);
    av_frame_unref(host);
    if (!whole)
        return err_set(ERR_NOMEM, "no memory for a picture");
    whole->width += (int)whole->crop_left;
    whole->height += (int)whole->crop_top;
    listen_to(&said);
    int r = av_hwframe_transfer_data(host, whole, 0); /* 0 where the copy failed, too */
    listener = NULL;
    if (r >= 0)
        r = av_frame_copy_props(host, whole);
    if (r >= 0)
        r = av_frame_apply_cropping(host, AV_FRAME_CROP_UNALIGNED);
    av_frame_free(&whole);
    if (said.failed)
        return err_set(ERR_DEVICE, "a picture does not come from the device: %s", said.text);
    return r < 0 ? err_set(ERR_NOMEM, "no memory for a picture") : ERR_OK;
}
