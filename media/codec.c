/* Where a stream is decoded.
 *
 * Whether a device decodes a stream is known with the first picture alone. What it is sent until
 * then is kept, and the host's decoder gets it if the device refuses, or fails; nobody else
 * notices. Afterwards there is no way back: pictures are in the device, others are out. So a device
 * that fails then is an error, and whoever can begins anew, without it.
 *
 * Errors that the device's codec told of the packets that the host's gets once more are not told
 * twice. */
#include "media/codec.h"

#include "media/device.h"

#include <stdlib.h>

enum { KEEP = 64 };

struct codec {
    const AVStream *stream;
    struct codec_options o;
    AVCodecContext *context;
    struct device *device; /* NULL: not asked for */
    bool on_device, failed;
    bool shown, ended;    /* a picture is out; the end was sent */
    AVPacket *kept[KEEP]; /* [at, count) are still to be sent to the host's decoder */
    int count, at;        /* count KEEP + 1: there were more, and none is kept */
    int told;             /* errors */
};

static int start(struct codec *c)
{
    const AVCodec *decoder = c->on_device ? device_codec(c->device) : c->o.usual;
    AVCodecContext *x = c->context = avcodec_alloc_context3(decoder);
    if (!x)
        return AVERROR(ENOMEM);
    int r = avcodec_parameters_to_context(x, c->stream->codecpar);
    x->pkt_timebase = c->stream->time_base;
    x->max_pixels = c->o.max_pixels;
    x->thread_count = c->o.threads;
    x->flags |= AV_CODEC_FLAG_UNALIGNED; /* crop exactly */
    if (c->o.allowed && !(x->codec_whitelist = av_strdup(c->o.allowed)))
        r = AVERROR(ENOMEM);
    if (r >= 0 && c->on_device)
        r = device_prepare(c->device, x);
    return r < 0 ? r : avcodec_open2(x, decoder, NULL);
}

int codec_open(const AVStream *stream, const struct codec_options *o, struct codec **out)
{
    struct codec *c = *out = calloc(1, sizeof *c);
    if (!c)
        return AVERROR(ENOMEM);
    c->stream = stream;
    c->o = *o;
    if (o->device && !(c->device = device_open(o->device, o->usual, stream->codecpar)))
        return AVERROR(ENOMEM);
    c->on_device = c->device && !device_refused(c->device, 0);
    return start(c);
}

static void drop_kept(struct codec *c)
{
    for (int i = 0; i < KEEP; i++)
        av_packet_free(&c->kept[i]);
}

void codec_close(struct codec *c)
{
    if (!c)
        return;
    drop_kept(c);
    avcodec_free_context(&c->context);
    device_close(c->device);
    free(c);
}

bool codec_device_failed(const struct codec *c)
{
    return c->failed;
}

const char *codec_why(const struct codec *c)
{
    return c->device && (c->failed || !c->on_device) ? device_why(c->device) : NULL;
}

/* A packet more before the device's first picture. */
static int keep(struct codec *c, const AVPacket *p)
{
    if (c->count == KEEP)
        drop_kept(c);
    if (c->count < KEEP && !(c->kept[c->count] = av_packet_clone(p)))
        return AVERROR(ENOMEM);
    c->count += c->count <= KEEP;
    return 0;
}

/* The device decodes nothing, or nothing more. */
static int leave_device(struct codec *c)
{
    c->failed = c->shown || c->count > KEEP;
    if (c->failed)
        return AVERROR_EXTERNAL;
    c->on_device = false;
    avcodec_free_context(&c->context);
    return start(c);
}

static bool is_error(int result)
{
    return result < 0 && result != AVERROR(EAGAIN) && result != AVERROR_EOF;
}

int codec_send(struct codec *c, const AVPacket *p)
{
    if (!c->on_device)
        return avcodec_send_packet(c->context, p);
    int r = p && !c->shown ? keep(c, p) : 0;
    c->ended = !p;
    if (r < 0)
        return r;
    r = device_send(c->device, c->context, p);
    if (device_refused(c->device, r))
        return leave_device(c);
    c->told += is_error(r);
    return r;
}

static int receive_from_device(struct codec *c, AVFrame *out)
{
    int r = device_receive(c->device, c->context, out);
    if (device_refused(c->device, r)) {
        av_frame_unref(out);
        return leave_device(c);
    }
    if (r == 0 && !c->shown) {
        c->shown = true;
        drop_kept(c);
    }
    c->told += is_error(r);
    return r;
}

/* The next of what the device had. */
static int send_again(struct codec *c)
{
    const AVPacket *p = c->at < c->count ? c->kept[c->at] : NULL;
    int r = avcodec_send_packet(c->context, p);
    if (p)
        av_packet_free(&c->kept[c->at++]);
    else
        c->ended = false;
    return r;
}

static int receive_on_host(struct codec *c, AVFrame *out)
{
    for (;;) {
        int r = avcodec_receive_frame(c->context, out);
        bool again = r == AVERROR(EAGAIN);
        if (again && (c->at < c->count || c->ended))
            r = send_again(c);
        else if (again)
            c->told = 0;
        if (is_error(r) && c->told > 0)
            c->told--;
        else if (!again || r < 0)
            return r;
    }
}

int codec_receive(struct codec *c, AVFrame *out)
{
    if (c->on_device) {
        int r = receive_from_device(c, out);
        if (c->on_device || r < 0)
            return r;
    }
    return receive_on_host(c, out);
}
