/* One FFmpeg input.
 *
 * Reading alternates between the two halves of the codec: pictures are taken out while there are
 * any, else the next packet of our stream goes in; after the last packet the codec is drained.
 * Damage does not end a file: a packet that the codec refuses, a picture that it marks as
 * concealed, a packet that the demuxer marks as cut are each reported and counted, and reading
 * goes on. Only an input that gives no picture at all is an error, which the caller decides.
 *
 * Input from strangers (local_file_only): the allow-lists of protocols, demuxers and decoders are
 * the fence. A playlist demuxer could open other files and URLs, so none is on the list; decoders
 * are those of formats that cameras, phones and editors write, and no sound is decoded. */
#include "media/source.h"

#include "media/codec.h"
#include "media/cut.h"
#include "media/given.h"
#include "media/image_head.h"
#include "media/picture.h"

#include <errno.h>
#include <libavutil/avstring.h>
#include <libavutil/avutil.h>
#include <libavutil/imgutils.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

const char decode_safe_formats[] =
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,ogg,asf,nut,mxf,ivf,"
    "h264,hevc,m4v,av1,obu,mjpeg,yuv4mpegpipe,gif,apng,webp_pipe,png_pipe,jpeg_pipe,bmp_pipe,"
    "tiff_pipe,ppm_pipe,pgm_pipe,pbm_pipe,pam_pipe,pnm_pipe";

static const char safe_decoders[] =
    "h264,hevc,vp8,libvpx,vp9,libvpx-vp9,libdav1d,libaom-av1,av1,mpeg1video,mpeg2video,mpegvideo,"
    "mpeg4,msmpeg4v1,msmpeg4v2,msmpeg4,h263,h263p,h263i,flv,wmv1,wmv2,wmv3,vc1,theora,vp3,vp6,"
    "vp6a,vp6f,mjpeg,mjpegb,dvvideo,prores,dnxhd,cfhd,cinepak,svq1,svq3,qtrle,ffv1,huffyuv,"
    "ffvhuff,utvideo,magicyuv,rawvideo,v210,v308,v408,v410,r210,yuv4,png,apng,gif,bmp,webp,tiff,"
    "jpeg2000,libopenjpeg,jpegls,ppm,pgm,pgmyuv,pbm,pam";

enum { MAX_ERRORS_IN_A_ROW = 1000 };

struct source {
    const struct decode_options *o;
    AVFormatContext *format;
    struct codec *codec;
    AVPacket *packet;
    AVFrame *frame;
    AVStream *stream;
    AVIOContext *given; /* of a file that is still being written, or that came as a descriptor */
    AVPacket **again;   /* source_unread: [again_at, again_count) are still to be read */
    int again_at, again_count;
    int64_t packets, pictures;
    bool draining;
    bool end_reported; /* its damage; it may be read twice (source_unread) */
};

enum err source_error(int result, const char *what)
{
    char text[AV_ERROR_MAX_STRING_SIZE] = "";
    av_strerror(result, text, sizeof text);
    enum err e = ERR_FORMAT;
    if (result == AVERROR(ENOENT))
        e = ERR_NOT_FOUND;
    else if (result == AVERROR(ENOMEM))
        e = ERR_NOMEM;
    else if (result == AVERROR(ENOSPC))
        e = ERR_FULL;
    else if (result == AVERROR_EXIT)
        e = ERR_CANCELLED;
    else if (result == AVERROR(EACCES) || result == AVERROR(EIO) || result == AVERROR(EISDIR) ||
             result == AVERROR(EPERM))
        e = ERR_IO;
    else if (result == AVERROR_PROTOCOL_NOT_FOUND || result == AVERROR_DECODER_NOT_FOUND ||
             result == AVERROR_PATCHWELCOME)
        e = ERR_UNSUPPORTED;
    return err_set(e, "%s: %s", what, text);
}

static void report(const struct source *s, const char *text)
{
    if (s->o->report)
        s->o->report(s->o->ctx, text);
}

static int is_cancelled(void *source)
{
    const struct source *s = source;
    return s->o->cancelled && s->o->cancelled(s->o->ctx);
}

/* ---- opening ------------------------------------------------------------------------------------
 */

/* A file that exists is a file, whatever FFmpeg could read into its name. */
static enum err make_url(const char *input, const struct decode_options *o, char **url, bool *file)
{
    struct stat st = {0};
    if (o->fd > 0) {
        *file = true;
        return asprintf(url, "file:%s", input) < 0 ? err_set(ERR_NOMEM, "no memory for a file name")
                                                   : ERR_OK;
    }
    int found = stat(input, &st) == 0 ? 0 : errno;
    *file = found == 0;
    if (found == 0 && S_ISREG(st.st_mode) && st.st_size == 0)
        return err_set(ERR_FORMAT, "%s: the file is empty", input);
    if (o->local_file_only && found != 0)
        return err_set(ERR_NOT_FOUND, "%s: %s", input, strerror(found));
    const char *prefix = *file ? "file:" : "";
    if (strcmp(input, "-") == 0 && !o->local_file_only)
        input = "pipe:0";
    if (asprintf(url, "%s%s", prefix, input) < 0)
        return err_set(ERR_NOMEM, "no memory for a file name");
    return ERR_OK;
}

enum { ALIGN_SLACK = 64 * 16384 }; /* pixels: libavcodec's own limit counts aligned rows */

static int64_t most_pixels(const struct decode_options *o)
{
    return o->max_pixels ? o->max_pixels : 1 << 26;
}

/* Probing decodes frames with contexts of its own: the limit on pixels holds for them too. */
static int find_stream_info(struct source *s)
{
    unsigned n = s->format->nb_streams;
    AVDictionary **options = calloc(n + 1, sizeof *options);
    if (!options)
        return AVERROR(ENOMEM);
    for (unsigned i = 0; i < n; i++)
        av_dict_set_int(&options[i], "max_pixels", most_pixels(s->o) + ALIGN_SLACK, 0);
    int r = avformat_find_stream_info(s->format, options);
    for (unsigned i = 0; i < n; i++)
        av_dict_free(&options[i]);
    free(options);
    return r;
}

static enum err open_format(struct source *s, const char *input)
{
    AVDictionary *options = NULL;
    char *url = NULL;
    bool file;
    enum err e = make_url(input, s->o, &url, &file);
    if (e)
        return e;
    const char *formats = s->o->formats           ? s->o->formats
                          : s->o->local_file_only ? decode_safe_formats
                                                  : NULL;
    if (s->o->local_file_only) {
        av_dict_set(&options, "protocol_whitelist", "file", 0);
        av_dict_set(&options, "codec_whitelist", safe_decoders, 0); /* of what probing opens */
    }
    if (formats)
        av_dict_set(&options, "format_whitelist", formats, 0);
    if (file)
        av_dict_set(&options, "pattern_type", "none", 0); /* '%' in a name is a '%' */
    s->format = avformat_alloc_context();
    if (!s->format) {
        e = err_set(ERR_NOMEM, "no memory for a demuxer");
        goto done;
    }
    s->format->interrupt_callback = (AVIOInterruptCB){is_cancelled, s};
    if ((s->o->growing || s->o->fd > 0) && (e = given_open(input, s->o, &s->given)))
        goto done;
    s->format->pb = s->given;
    int r = avformat_open_input(&s->format, url, NULL, &options); /* frees it on failure */
    if (r >= 0)
        r = find_stream_info(s);
    if (r == AVERROR_INVALIDDATA)
        e = err_set(ERR_FORMAT, "%s: neither a video nor an image", input);
    else if (r < 0)
        e = source_error(r, input);
done:
    av_dict_free(&options);
    free(url);
    return e;
}

static enum err open_codec(struct source *s, const char *input)
{
    const AVCodec *decoder = NULL;
    int index = av_find_best_stream(s->format, AVMEDIA_TYPE_VIDEO, -1, -1, &decoder, 0);
    if (index == AVERROR_DECODER_NOT_FOUND)
        return err_set(ERR_UNSUPPORTED, "%s: no decoder for its video", input);
    if (index < 0 || s->format->streams[index]->disposition & AV_DISPOSITION_ATTACHED_PIC)
        return err_set(ERR_FORMAT, "%s: no video stream", input);
    s->stream = s->format->streams[index];
    for (unsigned i = 0; i < s->format->nb_streams; i++)
        if ((int)i != index)
            s->format->streams[i]->discard = AVDISCARD_ALL;
    if (s->o->local_file_only && av_match_list(decoder->name, safe_decoders, ',') <= 0)
        return err_set(ERR_UNSUPPORTED, "%s: video of the codec %s is not taken", input,
                       decoder->name);
    const AVCodecParameters *par = s->stream->codecpar;
    int64_t most = most_pixels(s->o);
    if ((int64_t)par->width * par->height > most)
        return err_set(ERR_LIMIT, "%s: frames of %dx%d, more than %lld pixels", input, par->width,
                       par->height, (long long)most);
    s->packet = av_packet_alloc();
    s->frame = av_frame_alloc();
    if (!s->packet || !s->frame)
        return err_set(ERR_NOMEM, "no memory for a decoder");
    struct codec_options codec = {
        .usual = decoder,
        .allowed = s->o->local_file_only ? safe_decoders : NULL,
        .device = source_still(s) ? NULL : s->o->device,
        .threads = s->o->threads > 0 ? s->o->threads : 1,
        .max_pixels = most + ALIGN_SLACK,
    };
    int r = codec_open(s->stream, &codec, &s->codec);
    return r < 0 ? source_error(r, input) : ERR_OK;
}

enum err source_open(const char *input, const struct decode_options *o, struct source **out)
{
    *out = NULL;
    struct source *s = calloc(1, sizeof *s);
    if (!s)
        return err_set(ERR_NOMEM, "no memory for a decoder");
    s->o = o;
    enum err e = open_format(s, input);
    if (!e)
        e = open_codec(s, input);
    if (e) {
        source_close(s);
        return e;
    }
    *out = s;
    return ERR_OK;
}

void source_close(struct source *s)
{
    if (!s)
        return;
    for (int i = s->again_at; i < s->again_count; i++)
        av_packet_free(&s->again[i]);
    free(s->again);
    av_frame_free(&s->frame);
    av_packet_free(&s->packet);
    codec_close(s->codec);
    avformat_close_input(&s->format);
    given_close(s->given);
    free(s);
}

const AVStream *source_stream(const struct source *s)
{
    return s->stream;
}

const char *source_why(const struct source *s)
{
    return codec_why(s->codec);
}

bool source_still(const struct source *s)
{
    const char *name = s->format->iformat->name;
    size_t n = strlen(name);
    if (strcmp(name, "image2") == 0)
        return s->stream->nb_frames <= 1 && s->stream->duration <= 1;
    return n > 5 && strcmp(name + n - 5, "_pipe") == 0;
}

/* ---- reading ------------------------------------------------------------------------------------
 */

static void damaged(const struct source *s, int64_t *corrupt, const char *what, int result)
{
    char text[256], why[AV_ERROR_MAX_STRING_SIZE] = "damaged";
    if (result < 0)
        av_strerror(result, why, sizeof why);
    snprintf(text, sizeof text, "%s %lld: %s", what,
             (long long)(result < 0 ? s->packets - 1 : s->pictures - 1), why);
    ++*corrupt;
    report(s, text);
}

/* At the end of the file: it has fewer bytes than it says. Moves the place of reading. */
static bool is_cut(const struct source *s, int64_t *has, int64_t *says)
{
    AVIOContext *file = s->format->pb;
    uint8_t head[CUT_HEAD];
    int n = 0;
    *has = 0;
    if (s->given) {
        n = given_head(s->given, head, sizeof head, has);
    } else if (file && file->seekable & AVIO_SEEKABLE_NORMAL) {
        *has = avio_size(file);
        n = avio_seek(file, 0, SEEK_SET) < 0 ? 0 : avio_read(file, head, sizeof head);
    }
    *says = n > 0 ? cut_length(head, (size_t)n) : 0;
    return *has > 0 && *has < *says;
}

/* Fewer packets than the container counts. An AVI counts the places of pictures that were left out,
 * which FFmpeg passes over: its length tells. */
static bool lacks_packets(const struct source *s)
{
    return s->stream->nb_frames > s->packets && !source_still(s) &&
           strcmp(s->format->iformat->name, "avi") != 0;
}

/* The end of what can be read. A file that promised more is cut off. */
static void end_of_input(struct source *s, int result, int64_t *corrupt)
{
    char text[256], why[AV_ERROR_MAX_STRING_SIZE];
    int64_t has, says;
    bool cut = lacks_packets(s);
    bool shorter = !cut && is_cut(s, &has, &says);
    if (result == AVERROR_EOF && !cut && !shorter)
        return;
    av_strerror(result, why, sizeof why);
    if (shorter)
        snprintf(text, sizeof text, "the file is cut off: %lld of %lld bytes", (long long)has,
                 (long long)says);
    else if (cut)
        snprintf(text, sizeof text, "the file is cut off: %lld of %lld packets",
                 (long long)s->packets, (long long)s->stream->nb_frames);
    else
        snprintf(text, sizeof text, "reading stops after packet %lld: %s",
                 (long long)s->packets - 1, why);
    ++*corrupt;
    if (!s->end_reported)
        report(s, text);
    s->end_reported = true;
}

void source_unread(struct source *s, AVPacket **list, int count)
{
    free(s->again);
    s->again = list;
    s->again_at = 0;
    s->again_count = count;
    s->packets -= count;
}

/* The next packet of our stream, or FFmpeg's error. */
static int read_on(struct source *s, AVPacket *to)
{
    int r, errors = 0;
    if (s->again_at < s->again_count) {
        av_packet_move_ref(to, s->again[s->again_at]);
        av_packet_free(&s->again[s->again_at++]);
        return 0;
    }
    for (;;) {
        r = av_read_frame(s->format, to);
        if (r == AVERROR(EAGAIN) || (r == AVERROR_INVALIDDATA && ++errors < MAX_ERRORS_IN_A_ROW))
            continue;
        if (r < 0 || to->stream_index == s->stream->index)
            return r;
        av_packet_unref(to);
    }
}

enum err source_read(struct source *s, AVPacket *to, bool *end, int64_t *corrupt)
{
    int r = read_on(s, to);
    *end = false;
    if (r == AVERROR_EXIT)
        return err_set(ERR_CANCELLED, "cancelled");
    if (r == AVERROR(ENOMEM))
        return source_error(r, "reading");
    *end = r < 0;
    if (*end)
        end_of_input(s, r, corrupt);
    else
        s->packets++;
    return ERR_OK;
}

/* An error that is not damage. */
static bool ends_decoding(const struct source *s, int result)
{
    return result == AVERROR(ENOMEM) || codec_device_failed(s->codec);
}

static enum err decoding_error(const struct source *s, int result)
{
    return codec_device_failed(s->codec) ? err_set(ERR_DEVICE, "%s", codec_why(s->codec))
                                         : source_error(result, "decoding");
}

/* A packet that is an image file, of a kind of which libavcodec leaves something out. */
static enum err prepare_still(const struct source *s)
{
    enum AVCodecID id = s->stream->codecpar->codec_id;
    if (id == AV_CODEC_ID_WEBP && image_is_animated_webp(s->packet->data, (size_t)s->packet->size))
        return err_set(
            ERR_UNSUPPORTED,
            "an animated WebP, which FFmpeg does not decode: make a video or a GIF of it");
    return id == AV_CODEC_ID_PNG ? picture_orient_png(s->packet) : ERR_OK;
}

/* Gives the codec the next packet of our stream, or starts draining. */
static enum err feed(struct source *s, int64_t *corrupt)
{
    bool end;
    enum err e = source_read(s, s->packet, &end, corrupt);
    if (e)
        return e;
    if (end) {
        s->draining = true;
        codec_send(s->codec, NULL);
        return ERR_OK;
    }
    if (source_still(s))
        e = prepare_still(s);
    if (e) {
        av_packet_unref(s->packet);
        return e;
    }
    bool cut = s->packet->flags & AV_PKT_FLAG_CORRUPT;
    int r = codec_send(s->codec, s->packet);
    av_packet_unref(s->packet);
    if (ends_decoding(s, r))
        return decoding_error(s, r);
    if (r < 0 && r != AVERROR(EAGAIN) && r != AVERROR_EOF)
        damaged(s, corrupt, "packet", r);
    else if (cut)
        damaged(s, corrupt, "packet", AVERROR_INVALIDDATA);
    return ERR_OK;
}

enum err source_next(struct source *s, AVFrame **out, int64_t *corrupt)
{
    *out = NULL;
    for (;;) {
        int r = codec_receive(s->codec, s->frame);
        if (r == 0)
            break;
        if (r == AVERROR_EOF)
            return ERR_OK;
        if (ends_decoding(s, r))
            return decoding_error(s, r);
        if (is_cancelled(s))
            return err_set(ERR_CANCELLED, "cancelled");
        if (r != AVERROR(EAGAIN))
            damaged(s, corrupt, "packet", r);
        else if (s->draining)
            return ERR_OK;
        if (!s->draining) {
            enum err e = feed(s, corrupt);
            if (e)
                return e;
        }
    }
    s->pictures++;
    if (s->frame->decode_error_flags || s->frame->flags & AV_FRAME_FLAG_CORRUPT)
        damaged(s, corrupt, "frame", 0);
    *out = s->frame;
    return ERR_OK;
}
