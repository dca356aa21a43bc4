/* The decoder of one live stream.
 *
 * A packet's number goes through the codec as its time stamp, so a picture says which packet it
 * came from, in whatever order it comes. `held` lists the packets whose picture is still inside;
 * `ready` what packet_decoder_next hands out: pictures, and tags that will never have one.
 *
 * When is a packet known to have no picture? VP8, VP9 and AV1 show a picture at once or never.
 * H.264 and HEVC reorder: parameter sets and the like are told by their NAL unit types, and for the
 * rest (a second field, a picture that the codec threw away) we wait HELD_LATER packets, more than
 * any encoder reorders by. A picture that comes for a tag already given back is thrown away.
 *
 * The codec gets one thread and no delay of its own, so the caller's latency is the stream's. */
#include "media/packet.h"

#include "media/picture.h"

#include <libavcodec/avcodec.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

enum { HELD_LATER = 40, HELD_MAX = HELD_LATER + 2, MAX_ERRORS_PER_PACKET = 64 };
enum { ALIGN_SLACK = 64 * 16384 }; /* pixels: libavcodec's own limit counts aligned rows */

struct entry {
    int64_t number; /* of the packet */
    void *tag;
    AVFrame *picture; /* ready: NULL = PACKET_EMPTY */
};

struct packet_decoder {
    enum packet_codec codec;
    int64_t max_pixels;
    bool over_limit; /* the packet under way wants a larger picture */
    AVCodecContext *context;
    AVPacket *packet;
    AVFrame *frame;
    struct picture convert;
    int64_t number;              /* of the next packet */
    struct entry held[HELD_MAX]; /* ascending */
    int held_count;
    struct entry *ready; /* [ready_first, ready_count) */
    int ready_first, ready_count, ready_cap;
};

static const char *const codec_name[] = {NULL, "h264", "hevc", "vp8", "vp9", "libdav1d"};

/* ---- opening ------------------------------------------------------------------------------------
 */

/* The codec knows the picture's size and wants memory for it. */
static int get_buffer(AVCodecContext *c, AVFrame *frame, int flags)
{
    struct packet_decoder *d = c->opaque;
    if ((int64_t)c->width * c->height <= d->max_pixels)
        return avcodec_default_get_buffer2(c, frame, flags);
    d->over_limit = true;
    return AVERROR(ERANGE);
}

enum err packet_decoder_open(enum packet_codec codec, int64_t max_pixels,
                             struct packet_decoder **out)
{
    *out = NULL;
    if (codec < PACKET_H264 || codec > PACKET_AV1)
        return err_set(ERR_ARG, "there is no packet codec %d", (int)codec);
    const AVCodec *c = avcodec_find_decoder_by_name(codec_name[codec]);
    if (!c)
        return err_set(ERR_UNSUPPORTED, "libavcodec has no decoder %s", codec_name[codec]);
    av_log_set_level(AV_LOG_QUIET); /* what matters is reported by us, once */
    struct packet_decoder *d = calloc(1, sizeof *d);
    if (!d)
        return err_set(ERR_NOMEM, "no memory for a decoder");
    d->codec = codec;
    d->max_pixels = max_pixels;
    d->context = avcodec_alloc_context3(c);
    d->packet = av_packet_alloc();
    d->frame = av_frame_alloc();
    if (!d->context || !d->packet || !d->frame) {
        packet_decoder_close(d, NULL);
        return err_set(ERR_NOMEM, "no memory for a decoder");
    }
    d->context->thread_count = 1;
    d->context->max_pixels = codec == PACKET_AV1 ? max_pixels : max_pixels + ALIGN_SLACK;
    d->context->opaque = d;
    d->context->get_buffer2 = get_buffer;
    d->context->flags |= AV_CODEC_FLAG_UNALIGNED; /* crop exactly */
    if (avcodec_open2(d->context, c, NULL) < 0) {
        packet_decoder_close(d, NULL);
        return err_set(ERR_INTERNAL, "the decoder %s does not start", codec_name[codec]);
    }
    *out = d;
    return ERR_OK;
}

void packet_decoder_close(struct packet_decoder *d, void (*give_back)(void *tag))
{
    if (!d)
        return;
    for (int i = d->ready_first; i < d->ready_count; i++) {
        av_frame_free(&d->ready[i].picture);
        if (give_back)
            give_back(d->ready[i].tag);
    }
    for (int i = 0; i < d->held_count; i++)
        if (give_back)
            give_back(d->held[i].tag);
    free(d->ready);
    picture_free(&d->convert);
    av_frame_free(&d->frame);
    av_packet_free(&d->packet);
    avcodec_free_context(&d->context);
    free(d);
}

enum packet_codec packet_decoder_codec(const struct packet_decoder *d)
{
    return d->codec;
}

int packet_decoder_ready(const struct packet_decoder *d)
{
    return d->ready_count - d->ready_first;
}

int packet_decoder_held(const struct packet_decoder *d)
{
    return d->held_count;
}

/* ---- the two lists ------------------------------------------------------------------------------
 */

/* Room for what one packet can add, before anything is changed. */
static enum err reserve_ready(struct packet_decoder *d)
{
    if (d->ready_first == d->ready_count)
        d->ready_first = d->ready_count = 0;
    if (d->ready_count + HELD_MAX <= d->ready_cap)
        return ERR_OK;
    int cap = d->ready_count + 2 * HELD_MAX;
    struct entry *grown = realloc(d->ready, (size_t)cap * sizeof *grown);
    if (!grown)
        return err_set(ERR_NOMEM, "no memory for decoded pictures");
    d->ready = grown;
    d->ready_cap = cap;
    return ERR_OK;
}

/* Moves held[i] to the end of `ready`. */
static void make_ready(struct packet_decoder *d, int i, AVFrame *picture)
{
    d->ready[d->ready_count] = d->held[i];
    d->ready[d->ready_count++].picture = picture;
    d->held_count--;
    memmove(&d->held[i], &d->held[i + 1], (size_t)(d->held_count - i) * sizeof *d->held);
}

/* Takes d->frame's picture to its packet's tag. */
static enum err file_picture(struct packet_decoder *d)
{
    int i = 0;
    while (i < d->held_count && d->held[i].number != d->frame->pts)
        i++;
    if (i < d->held_count) {
        AVFrame *picture = av_frame_alloc();
        if (!picture)
            return err_set(ERR_NOMEM, "no memory for a picture");
        av_frame_move_ref(picture, d->frame);
        make_ready(d, i, picture);
        return ERR_OK;
    }
    for (i = d->ready_first; i < d->ready_count; i++)
        if (d->ready[i].number == d->frame->pts && d->ready[i].picture) {
            av_frame_unref(d->ready[i].picture);
            av_frame_move_ref(d->ready[i].picture, d->frame);
        }
    av_frame_unref(d->frame);
    return ERR_OK;
}

/* ---- decoding -----------------------------------------------------------------------------------
 */

static enum err codec_error(const struct packet_decoder *d, int result)
{
    /* EINVAL, ERANGE: the size fails the check of libavcodec, of libdav1d (which takes its
     * memory itself, and counts exactly) */
    if (d->over_limit || result == AVERROR(EINVAL) || result == AVERROR(ERANGE))
        return err_set(ERR_LIMIT, "pictures of more than %lld pixels, or of an impossible size",
                       (long long)d->max_pixels);
    if (result == AVERROR(ENOMEM))
        return err_set(ERR_NOMEM, "no memory to decode a packet");
    char text[AV_ERROR_MAX_STRING_SIZE] = "";
    av_strerror(result, text, sizeof text);
    return err_set(ERR_FORMAT, "the packet cannot be decoded: %s", text);
}

/* Files every picture that is to be had. The first error, after which it goes on. */
static enum err receive_all(struct packet_decoder *d)
{
    enum err e = ERR_OK;
    for (int errors = 0; errors < MAX_ERRORS_PER_PACKET;) {
        int r = avcodec_receive_frame(d->context, d->frame);
        if (r == AVERROR(EAGAIN) || r == AVERROR_EOF)
            break;
        enum err now = r < 0 ? codec_error(d, r) : file_picture(d);
        if (now)
            errors++;
        if (now && !e)
            e = now;
    }
    return e;
}

/* Whether a NAL unit of this first byte carries a part of a picture. */
static bool nal_of_picture(enum packet_codec codec, uint8_t header)
{
    if (codec == PACKET_H264)
        return (header & 0x1f) >= 1 && (header & 0x1f) <= 5;
    return (header >> 1 & 0x3f) < 32;
}

/* False for Annex B without any such unit: parameter sets, delimiters, messages. */
static bool has_picture(enum packet_codec codec, const uint8_t *p, size_t len)
{
    if (codec != PACKET_H264 && codec != PACKET_HEVC)
        return true;
    for (size_t i = 0; i + 3 < len; i++)
        if (p[i] == 0 && p[i + 1] == 0 && p[i + 2] == 1 && nal_of_picture(codec, p[i + 3]))
            return true;
    return false;
}

/* Tags that will have no picture any more. */
static void retire(struct packet_decoder *d)
{
    bool reorders = d->codec == PACKET_H264 || d->codec == PACKET_HEVC;
    int64_t later = reorders ? HELD_LATER : 0;
    while (d->held_count && d->number - 1 - d->held[0].number >= later)
        make_ready(d, 0, NULL);
}

/* The end of the sequence: everything comes out. */
static enum err finish(struct packet_decoder *d, void *tag)
{
    avcodec_send_packet(d->context, NULL);
    receive_all(d);
    avcodec_flush_buffers(d->context);
    d->held[d->held_count++] = (struct entry){.number = d->number++, .tag = tag};
    while (d->held_count)
        make_ready(d, 0, NULL);
    return ERR_OK;
}

enum err packet_decoder_send(struct packet_decoder *d, const void *data, size_t len, void *tag)
{
    enum err e = reserve_ready(d);
    if (e)
        return e;
    if (len == 0)
        return finish(d, tag);
    if (len > INT_MAX / 2 || av_new_packet(d->packet, (int)len) < 0)
        return err_set(ERR_NOMEM, "no memory for a packet of %zu bytes", len);
    memcpy(d->packet->data, data, len);
    d->packet->pts = d->packet->dts = d->number;
    d->held[d->held_count++] = (struct entry){.number = d->number++, .tag = tag};

    d->over_limit = false;
    int r = avcodec_send_packet(d->context, d->packet);
    av_packet_unref(d->packet);
    if (r < 0 && r != AVERROR(EAGAIN) && r != AVERROR_EOF)
        e = codec_error(d, r);
    enum err received = receive_all(d);
    if (!e)
        e = received;

    int last = d->held_count - 1; /* this packet, unless its picture came out */
    if (last < 0 || d->held[last].number != d->number - 1)
        e = ERR_OK;
    else if (!has_picture(d->codec, data, len)) {
        make_ready(d, last, NULL); /* which H.264 calls an error */
        e = ERR_OK;
    } else if (e)
        d->held_count--;
    retire(d);
    return e;
}

enum packet_result packet_decoder_next(struct packet_decoder *d, struct frame *f, void **tag,
                                       enum err *error)
{
    *error = ERR_OK;
    if (d->ready_first == d->ready_count)
        return PACKET_MORE;
    struct entry now = d->ready[d->ready_first++];
    *tag = now.tag;
    if (!now.picture)
        return PACKET_EMPTY;
    if ((int64_t)now.picture->width * now.picture->height > d->max_pixels)
        *error = err_set(ERR_LIMIT, "a picture of %d x %d; %lld pixels are allowed",
                         now.picture->width, now.picture->height, (long long)d->max_pixels);
    else
        *error = picture_take(&d->convert, now.picture, NULL, f);
    av_frame_free(&now.picture);
    if (!*error)
        return PACKET_FRAME;
    frame_free(f);
    return PACKET_FAILED;
}
