/* libnvcuvid.so.1: a decoder of H.264, VP8, VP9 and JPEG.
 *
 * What NVDEC is given of a picture is decoded by libavcodec, in a decoder that lives as long as
 * this one and sees the same pictures in the same order. The picture is taken where that decoder
 * writes it (get_buffer2), not where it shows it: NVDEC decodes in the order of the stream, and
 * FFmpeg maps pictures in the order of showing. As with NVDEC damage inside a picture is no error.
 */
#include "tests/cuda_host/driver/driver.h"

#include <libavcodec/avcodec.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum { SURFACES = 32, PITCH = 256, POISON = 0xa5 };

struct surface {
    unsigned char *pixels; /* NV12 */
    bool mapped;           /* of those to be mapped */
};

struct decoder {
    CUVIDDECODECREATEINFO is;
    size_t pitch, bytes; /* of a surface */
    long memory;         /* of all */
    struct surface decoded[SURFACES], shown[SURFACES];
    long decodes, maps;
    AVCodecContext *codec;
    AVFrame *buffer, *frame; /* buffer: the last that codec asked for */
    AVPacket *packet;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static long memory; /* of all decoders; guarded by lock */

static const struct kind {
    cudaVideoCodec type;
    enum AVCodecID id;
    unsigned short least_width, least_height; /* an Ampere's */
} kinds[] = {
    {cudaVideoCodec_H264, AV_CODEC_ID_H264, 48, 16},
    {cudaVideoCodec_JPEG, AV_CODEC_ID_MJPEG, 64, 64},
    {cudaVideoCodec_VP8, AV_CODEC_ID_VP8, 48, 16},
    {cudaVideoCodec_VP9, AV_CODEC_ID_VP9, 128, 128},
};

static const struct kind *find(cudaVideoCodec type)
{
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (kinds[i].type == type && driver_fault(FAULT_CODECS, LONG_MAX) >> type & 1)
            return &kinds[i];
    return NULL;
}

tcuvidGetDecoderCaps cuvidGetDecoderCaps;
CUresult cuvidGetDecoderCaps(CUVIDDECODECAPS *c)
{
    const struct kind *k = find(c->eCodecType);
    if (k && c->eChromaFormat == cudaVideoChromaFormat_420 && c->nBitDepthMinus8 == 0) {
        c->bIsSupported = 1;
        c->nOutputFormatMask = 1 << cudaVideoSurfaceFormat_NV12;
        c->nMinWidth = k->least_width;
        c->nMinHeight = k->least_height;
        c->nMaxWidth = (unsigned)driver_fault(FAULT_WIDTH, 4096);
        c->nMaxHeight = (unsigned)driver_fault(FAULT_HEIGHT, 4096);
        c->nMaxMBCount = 65536;
    }
    return driver_check_context();
}

/* ---- opening ------------------------------------------------------------------------------------
 */

static int get_buffer(AVCodecContext *codec, AVFrame *frame, int flags)
{
    struct decoder *d = codec->opaque;
    int r = avcodec_default_get_buffer2(codec, frame, flags);
    av_frame_unref(d->buffer);
    return r < 0 ? r : av_frame_ref(d->buffer, frame);
}

static bool open_codec(struct decoder *d, enum AVCodecID id)
{
    const AVCodec *codec = avcodec_find_decoder(id);
    d->codec = avcodec_alloc_context3(codec);
    d->buffer = av_frame_alloc();
    d->frame = av_frame_alloc();
    d->packet = av_packet_alloc();
    if (!d->codec || !d->buffer || !d->frame || !d->packet)
        return false;
    d->codec->opaque = d;
    d->codec->get_buffer2 = get_buffer;
    d->codec->thread_type = FF_THREAD_SLICE;
    d->codec->log_level_offset = 100; /* what it says is not for whoever uses this */
    return avcodec_open2(d->codec, codec, NULL) == 0;
}

static bool open_surfaces(struct decoder *d)
{
    d->pitch = (d->is.ulTargetWidth / PITCH + 2) * PITCH;
    d->bytes = d->pitch * (d->is.ulTargetHeight * 3 / 2);
    d->memory = (long)(d->bytes * (d->is.ulNumDecodeSurfaces + d->is.ulNumOutputSurfaces));
    pthread_mutex_lock(&lock);
    memory += d->memory;
    bool room = memory <= driver_fault(FAULT_MEMORY, LONG_MAX);
    pthread_mutex_unlock(&lock);
    for (size_t i = 0; i < SURFACES && room; i++) {
        room = (i >= d->is.ulNumDecodeSurfaces || (d->decoded[i].pixels = calloc(1, d->bytes))) &&
               (i >= d->is.ulNumOutputSurfaces || (d->shown[i].pixels = calloc(1, d->bytes)));
    }
    return room;
}

static void close_decoder(struct decoder *d)
{
    for (size_t i = 0; i < SURFACES; i++) {
        free(d->decoded[i].pixels);
        free(d->shown[i].pixels);
    }
    pthread_mutex_lock(&lock);
    memory -= d->memory;
    pthread_mutex_unlock(&lock);
    avcodec_free_context(&d->codec);
    av_frame_free(&d->buffer);
    av_frame_free(&d->frame);
    av_packet_free(&d->packet);
    free(d);
}

tcuvidCreateDecoder cuvidCreateDecoder;
CUresult cuvidCreateDecoder(CUvideodecoder *out, CUVIDDECODECREATEINFO *is)
{
    const struct kind *k = find(is->CodecType);
    CUresult r = driver_check_context();
    if (r)
        return r;
    if (!k || is->ChromaFormat != cudaVideoChromaFormat_420 || is->bitDepthMinus8 ||
        is->OutputFormat != cudaVideoSurfaceFormat_NV12)
        return NOT_SUPPORTED;
    if (is->ulWidth < k->least_width || is->ulHeight < k->least_height || is->ulTargetWidth % 2 ||
        is->ulTargetHeight % 2 || is->ulNumDecodeSurfaces > SURFACES ||
        is->ulNumOutputSurfaces > SURFACES || is->ulNumDecodeSurfaces == 0)
        return INVALID_VALUE;
    struct decoder *d = calloc(1, sizeof *d);
    if (!d)
        return OUT_OF_MEMORY;
    d->is = *is;
    if (!open_surfaces(d) || !open_codec(d, k->id)) {
        close_decoder(d);
        return OUT_OF_MEMORY;
    }
    *out = d;
    return CUDA_SUCCESS;
}

tcuvidDestroyDecoder cuvidDestroyDecoder;
CUresult cuvidDestroyDecoder(CUvideodecoder decoder)
{
    struct decoder *d = decoder;
    for (size_t i = 0; i < SURFACES; i++)
        if (d->shown[i].mapped)
            abort(); /* somebody still has its address */
    close_decoder(d);
    return driver_check_context();
}

/* ---- decoding -----------------------------------------------------------------------------------
 */

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* What the codec has written, as NV12. */
static void keep(const struct decoder *d, const AVFrame *f, unsigned char *to)
{
    size_t width = least((size_t)f->width, d->is.ulTargetWidth);
    size_t height = least((size_t)f->height, d->is.ulTargetHeight);
    unsigned char *chroma = to + d->pitch * d->is.ulTargetHeight;
    if (f->format != AV_PIX_FMT_YUV420P && f->format != AV_PIX_FMT_YUVJ420P)
        return;
    for (size_t y = 0; y < height; y++)
        memcpy(to + y * d->pitch, f->data[0] + (ptrdiff_t)y * f->linesize[0], width);
    for (size_t y = 0; y < height / 2; y++)
        for (size_t x = 0; x < width / 2; x++) {
            chroma[y * d->pitch + 2 * x] = f->data[1][(ptrdiff_t)y * f->linesize[1] + (ptrdiff_t)x];
            chroma[y * d->pitch + 2 * x + 1] =
                f->data[2][(ptrdiff_t)y * f->linesize[2] + (ptrdiff_t)x];
        }
}

/* The picture as the codec wants it: with the parameter sets, or the beginning of a JPEG. */
static bool pack(const struct decoder *d, const CUVIDPICPARAMS *p)
{
    static const unsigned char jpeg[] = {0xff, 0xd8};
    unsigned char sets[H264_SETS];
    const unsigned char *head = sets;
    size_t n = 0;
    if (d->is.CodecType == cudaVideoCodec_H264 && (n = h264_sets(p, sets)) == 0)
        return false;
    if (d->is.CodecType == cudaVideoCodec_JPEG) {
        head = jpeg;
        n = sizeof jpeg;
    }
    if (av_new_packet(d->packet, (int)(n + p->nBitstreamDataLen)))
        return false;
    memcpy(d->packet->data, head, n);
    memcpy(d->packet->data + n, p->pBitstreamData, p->nBitstreamDataLen);
    return true;
}

tcuvidDecodePicture cuvidDecodePicture;
CUresult cuvidDecodePicture(CUvideodecoder decoder, CUVIDPICPARAMS *p)
{
    struct decoder *d = decoder;
    if (p->CurrPicIdx < 0 || (size_t)p->CurrPicIdx >= d->is.ulNumDecodeSurfaces)
        return INVALID_VALUE;
    if (d->decodes++ >= driver_fault(FAULT_DECODE, LONG_MAX))
        return CUDA_ERROR_UNKNOWN;
    if (!p->second_field)
        av_frame_unref(d->buffer);
    if (!pack(d, p))
        return INVALID_VALUE;
    avcodec_send_packet(d->codec, d->packet);
    av_packet_unref(d->packet);
    while (avcodec_receive_frame(d->codec, d->frame) == 0)
        av_frame_unref(d->frame);
    if (d->buffer->buf[0])
        keep(d, d->buffer, d->decoded[p->CurrPicIdx].pixels);
    return driver_check_context();
}

static void misbehave(const struct decoder *d, unsigned char *picture)
{
    if (d->maps > driver_fault(FAULT_WRONG, LONG_MAX))
        picture[0] ^= 1;
    if (d->maps > driver_fault(FAULT_CRASH, LONG_MAX))
        raise(SIGSEGV);
    if (d->maps > driver_fault(FAULT_SOCKET, LONG_MAX))
        socket(AF_INET, SOCK_STREAM, 0);
}

tcuvidMapVideoFrame cuvidMapVideoFrame64;
CUresult cuvidMapVideoFrame64(CUvideodecoder decoder, int picture, unsigned long long *at,
                              unsigned *pitch, CUVIDPROCPARAMS *how)
{
    struct decoder *d = decoder;
    size_t i = 0;
    if (picture < 0 || (size_t)picture >= d->is.ulNumDecodeSurfaces || !how->progressive_frame)
        return INVALID_VALUE;
    if (d->maps++ >= driver_fault(FAULT_MAP, LONG_MAX))
        return CUDA_ERROR_UNKNOWN;
    while (i < d->is.ulNumOutputSurfaces && d->shown[i].mapped)
        i++;
    if (i == d->is.ulNumOutputSurfaces)
        return OUT_OF_MEMORY;
    d->shown[i].mapped = true;
    memcpy(d->shown[i].pixels, d->decoded[picture].pixels, d->bytes);
    misbehave(d, d->shown[i].pixels);
    *at = (unsigned long long)(size_t)d->shown[i].pixels;
    *pitch = (unsigned)d->pitch;
    return driver_check_context();
}

tcuvidUnmapVideoFrame cuvidUnmapVideoFrame64;
CUresult cuvidUnmapVideoFrame64(CUvideodecoder decoder, unsigned long long at)
{
    struct decoder *d = decoder;
    size_t i = 0;
    while (i < SURFACES &&
           (!d->shown[i].mapped || (unsigned long long)(size_t)d->shown[i].pixels != at))
        i++;
    if (i == SURFACES)
        return INVALID_VALUE;
    d->shown[i].mapped = false;
    memset(d->shown[i].pixels, POISON, d->bytes);
    return driver_check_context();
}

/* ---- the rest
 * ------------------------------------------------------------------------------------
 */

UNUSED(cuvidGetDecodeStatus)
UNUSED(cuvidReconfigureDecoder)
UNUSED(cuvidCtxLockCreate)
UNUSED(cuvidCtxLockDestroy)
UNUSED(cuvidCtxLock)
UNUSED(cuvidCtxUnlock)
UNUSED(cuvidCreateVideoSource)
UNUSED(cuvidCreateVideoSourceW)
UNUSED(cuvidDestroyVideoSource)
UNUSED(cuvidSetVideoSourceState)
UNUSED(cuvidGetVideoSourceState)
UNUSED(cuvidGetSourceVideoFormat)
UNUSED(cuvidGetSourceAudioFormat)
UNUSED(cuvidCreateVideoParser)
UNUSED(cuvidParseVideoData)
UNUSED(cuvidDestroyVideoParser)
