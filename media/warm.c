#include "media/warm.h"

#include <libavcodec/avcodec.h>
#include <libswscale/swscale.h>
#include <time.h>

static void open_and_close(const char *name)
{
    const AVCodec *codec = avcodec_find_decoder_by_name(name);
    AVCodecContext *c = codec ? avcodec_alloc_context3(codec) : NULL;
    if (!c)
        return;
    c->thread_count = 1;
    c->width = c->height = 64; /* some want a size */
    avcodec_open2(c, codec, NULL);
    avcodec_free_context(&c);
}

void media_warm(void)
{
    static const char *const codecs[] = {"h264",  "hevc",  "vp8", "vp9",  "libdav1d",
                                         "mpeg4", "mjpeg", "png", "webp", "gif"};
    av_log_set_level(AV_LOG_QUIET);
    for (size_t i = 0; i < sizeof codecs / sizeof *codecs; i++)
        open_and_close(codecs[i]);
    sws_freeContext(sws_getContext(64, 64, AV_PIX_FMT_YUV420P, 64, 64, AV_PIX_FMT_RGB24,
                                   SWS_BILINEAR, NULL, NULL, NULL));
    tzset();
}
