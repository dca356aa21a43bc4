/* Videos out.
 *
 * The muxer writes through our own AVIO onto a base/outfile, so that a full disk is seen at the
 * write that failed and keeps its reason. Only "faststart" (moving the index to the front, so that
 * a browser can begin before it has all) goes around it: FFmpeg reads the temporary file by name
 * while it shifts the data. A destination that is no regular file is written as fragments.
 *
 * H.264 in 4:2:0 cannot have odd sides, not even with cropping fields (their unit is two pixels):
 * the last column or row is doubled and stays visible. */
#include "media/encode.h"

#include "media/source.h"

#include <libavutil/imgutils.h>
#include <libavutil/opt.h>
#include <libswscale/swscale.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { IO_BUFFER = 1 << 16 };

struct video_encoder {
    struct encode_options o;
    struct outfile *file;
    int64_t position;
    int64_t duration;  /* of the last frame, codec's time base */
    enum err io_error; /* of the last failed write */
    char io_text[512];
    AVFormatContext *format;
    AVIOContext *io;
    AVCodecContext *codec;
    AVStream *stream;
    AVFrame *frame;
    AVPacket *packet;
    struct SwsContext *sws;
    uint8_t *even; /* overlay of odd size: the padded RGB picture */
};

/* ---- AVIO over the output file ------------------------------------------------------------------
 */

static int write_bytes(void *encoder, uint8_t *data, int len)
{
    struct video_encoder *e = encoder;
    if (!e->io_error)
        e->io_error = outfile_write_at(e->file, (uint64_t)e->position, data, (size_t)len);
    if (e->io_error) {
        snprintf(e->io_text, sizeof e->io_text, "%s", err_text());
        return AVERROR(EIO);
    }
    e->position += len;
    return len;
}

static int64_t seek_bytes(void *encoder, int64_t offset, int whence)
{
    struct video_encoder *e = encoder;
    int64_t size = (int64_t)outfile_size(e->file);
    if (whence & AVSEEK_SIZE)
        return size;
    whence &= ~AVSEEK_FORCE;
    e->position = whence == SEEK_CUR   ? e->position + offset
                  : whence == SEEK_END ? size + offset
                                       : offset;
    return e->position;
}

/* The file's own error goes before FFmpeg's "Input/output error". */
static enum err fail(const struct video_encoder *e, int result, const char *what)
{
    return e->io_error ? err_set(e->io_error, "%s", e->io_text) : source_error(result, what);
}

/* ---- opening ------------------------------------------------------------------------------------
 */

static enum err find_codec(const struct video_encoder *e, const AVCodec **out)
{
    static const char *const overlay[] = {"libx264", "libopenh264", "mpeg4", NULL};
    static const char *const labels[] = {"ffv1", NULL};
    const char *const *names = e->o.kind == ENCODE_OVERLAY ? overlay : labels;
    for (*out = NULL; *names && !*out; names++)
        *out = avcodec_find_encoder_by_name(*names);
    return *out ? ERR_OK : err_set(ERR_UNSUPPORTED, "this FFmpeg has no encoder for the video");
}

static enum err open_codec(struct video_encoder *e)
{
    const AVCodec *codec;
    enum err err = find_codec(e, &codec);
    if (err)
        return err;
    AVCodecContext *c = e->codec = avcodec_alloc_context3(codec);
    if (!c)
        return err_set(ERR_NOMEM, "no memory for an encoder");
    bool overlay = e->o.kind == ENCODE_OVERLAY;
    c->width = overlay ? (e->o.width + 1) & ~1 : e->o.width;
    c->height = overlay ? (e->o.height + 1) & ~1 : e->o.height;
    c->pix_fmt = overlay ? AV_PIX_FMT_YUV420P : AV_PIX_FMT_GRAY8;
    c->time_base = (AVRational){e->o.tb_num, e->o.tb_den};
    c->thread_count = e->o.threads > 0 ? e->o.threads : 1;
    if (e->o.rate > 0)
        c->framerate = av_d2q(e->o.rate, 100000);
    if (e->format->oformat->flags & AVFMT_GLOBALHEADER)
        c->flags |= AV_CODEC_FLAG_GLOBAL_HEADER;
    if (overlay) {
        c->color_range = AVCOL_RANGE_MPEG;
        c->colorspace = AVCOL_SPC_BT709;
        c->color_primaries = AVCOL_PRI_BT709;
        c->color_trc = AVCOL_TRC_BT709;
        if (strcmp(codec->name, "mpeg4") == 0) { /* its clock has 16 bits */
            c->global_quality = 4 * FF_QP2LAMBDA;
            c->flags |= AV_CODEC_FLAG_QSCALE;
            if (c->time_base.den > 65535)
                c->time_base = (AVRational){1, 60000};
        }
        av_opt_set(c->priv_data, "preset", "veryfast", 0);
        av_opt_set(c->priv_data, "crf", "20", 0);
        /* x264's vectorised macroblock tree (build 164) reads memory that nobody wrote: with it the
         * bytes depend on what the heap held before, and a result made twice is not the same. */
        av_opt_set_int(c->priv_data, "mbtree", 0, 0);
    } else {
        c->level = 3;
        c->gop_size = 1;
        av_opt_set_int(c->priv_data, "slicecrc", 1, 0);
    }
    int r = avcodec_open2(c, codec, NULL);
    return r < 0 ? source_error(r, codec->name) : ERR_OK;
}

static enum err open_muxer(struct video_encoder *e)
{
    bool overlay = e->o.kind == ENCODE_OVERLAY;
    int r = avformat_alloc_output_context2(&e->format, NULL, overlay ? "mp4" : "matroska",
                                           outfile_temporary(e->file));
    if (r < 0)
        return source_error(r, "video output");
    uint8_t *buffer = av_malloc(IO_BUFFER);
    if (buffer)
        e->io = avio_alloc_context(buffer, IO_BUFFER, 1, e, NULL, write_bytes,
                                   outfile_seekable(e->file) ? seek_bytes : NULL);
    if (!e->io) {
        av_free(buffer);
        return err_set(ERR_NOMEM, "no memory for a muxer");
    }
    e->format->pb = e->io;
    e->format->flags |= AVFMT_FLAG_BITEXACT; /* no dates, no random identifiers */
    return ERR_OK;
}

static enum err start(struct video_encoder *e)
{
    AVDictionary *options = NULL;
    bool overlay = e->o.kind == ENCODE_OVERLAY;
    e->stream = avformat_new_stream(e->format, NULL);
    e->frame = av_frame_alloc();
    e->packet = av_packet_alloc();
    if (!e->stream || !e->frame || !e->packet)
        return err_set(ERR_NOMEM, "no memory for an encoder");
    e->stream->time_base = e->codec->time_base;
    e->stream->avg_frame_rate = e->codec->framerate;
    int r = avcodec_parameters_from_context(e->stream->codecpar, e->codec);
    if (overlay)
        av_dict_set(&options, "movflags",
                    outfile_seekable(e->file) ? "faststart" : "frag_keyframe+empty_moov", 0);
    if (r >= 0)
        r = avformat_write_header(e->format, &options);
    av_dict_free(&options);
    if (r < 0)
        return fail(e, r, "video output");
    e->frame->width = e->codec->width;
    e->frame->height = e->codec->height;
    e->frame->format = e->codec->pix_fmt;
    r = av_frame_get_buffer(e->frame, 0);
    if (r < 0)
        return source_error(r, "video output");
    if (!overlay)
        return ERR_OK;
    e->even = malloc((size_t)e->codec->width * (size_t)e->codec->height * 3);
    e->sws = sws_getContext(e->codec->width, e->codec->height, AV_PIX_FMT_RGB24, e->codec->width,
                            e->codec->height, AV_PIX_FMT_YUV420P, SWS_BILINEAR | SWS_ACCURATE_RND,
                            NULL, NULL, NULL);
    if (!e->even || !e->sws)
        return err_set(ERR_NOMEM, "no memory for an encoder");
    sws_setColorspaceDetails(e->sws, sws_getCoefficients(SWS_CS_DEFAULT), 1,
                             sws_getCoefficients(SWS_CS_ITU709), 0, 0, 1 << 16, 1 << 16);
    return ERR_OK;
}

enum err encode_open(struct outfile *file, const struct encode_options *o,
                     struct video_encoder **out)
{
    *out = NULL;
    av_log_set_level(AV_LOG_QUIET);
    struct video_encoder *e = calloc(1, sizeof *e);
    if (!e)
        return err_set(ERR_NOMEM, "no memory for an encoder");
    e->o = *o;
    e->file = file;
    enum err err = open_muxer(e);
    if (!err)
        err = open_codec(e);
    if (!err)
        err = start(e);
    if (err) {
        encode_close(e);
        return err;
    }
    *out = e;
    return ERR_OK;
}

void encode_close(struct video_encoder *e)
{
    if (!e)
        return;
    av_packet_free(&e->packet);
    av_frame_free(&e->frame);
    avcodec_free_context(&e->codec);
    avformat_free_context(e->format);
    if (e->io)
        av_freep(&e->io->buffer);
    avio_context_free(&e->io);
    sws_freeContext(e->sws);
    free(e->even);
    free(e);
}

/* ---- frames -------------------------------------------------------------------------------------
 */

/* Doubles the last column and row of an odd picture. */
static void pad_to_even(const struct video_encoder *e, const uint8_t *rgb)
{
    size_t row = (size_t)e->o.width * 3, wide = (size_t)e->codec->width * 3;
    for (int y = 0; y < e->codec->height; y++) {
        int from = y < e->o.height ? y : e->o.height - 1;
        uint8_t *to = e->even + (size_t)y * wide;
        memcpy(to, rgb + (size_t)from * row, row);
        if (wide > row)
            memcpy(to + row, to + row - 3, 3);
    }
}

static enum err fill(struct video_encoder *e, const uint8_t *pixels)
{
    int r = av_frame_make_writable(e->frame);
    if (r < 0)
        return source_error(r, "video output");
    if (e->o.kind == ENCODE_LABELS) {
        av_image_copy_plane(e->frame->data[0], e->frame->linesize[0], pixels, e->o.width,
                            e->o.width, e->o.height);
        return ERR_OK;
    }
    const uint8_t *planes[4] = {pixels};
    int strides[4] = {e->codec->width * 3};
    if (e->o.width % 2 || e->o.height % 2) {
        pad_to_even(e, pixels);
        planes[0] = e->even;
    }
    sws_scale(e->sws, planes, strides, 0, e->codec->height, e->frame->data, e->frame->linesize);
    return ERR_OK;
}

/* Sends a frame (NULL: the end) and writes what comes out. */
static enum err encode(struct video_encoder *e, AVFrame *frame)
{
    int r = avcodec_send_frame(e->codec, frame);
    if (r < 0)
        return source_error(r, "video encoder");
    while ((r = avcodec_receive_packet(e->codec, e->packet)) >= 0) {
        if (e->packet->duration == 0) /* counts for the last one; the others have a next */
            e->packet->duration = e->duration;
        av_packet_rescale_ts(e->packet, e->codec->time_base, e->stream->time_base);
        e->packet->stream_index = e->stream->index;
        r = av_interleaved_write_frame(e->format, e->packet);
        if (r < 0 || e->io_error)
            return fail(e, r, "video output");
    }
    return r == AVERROR(EAGAIN) || r == AVERROR_EOF ? ERR_OK : source_error(r, "video encoder");
}

enum err encode_frame(struct video_encoder *e, const uint8_t *pixels, int64_t pts, int64_t duration)
{
    AVRational from = {e->o.tb_num, e->o.tb_den};
    enum err err = fill(e, pixels);
    if (err)
        return err;
    e->frame->pts = av_rescale_q(pts, from, e->codec->time_base);
    e->duration = av_rescale_q(duration, from, e->codec->time_base);
    return encode(e, e->frame);
}

enum err encode_finish(struct video_encoder *e)
{
    enum err err = encode(e, NULL);
    if (err)
        return err;
    int r = av_write_trailer(e->format);
    avio_flush(e->io);
    if (r < 0 || e->io_error || e->io->error < 0)
        return fail(e, r < 0 ? r : AVERROR(EIO), "video output");
    return ERR_OK;
}
